"""The regression against its own optimality conditions and against a general optimiser."""

import pytest
import torch
import torch.nn.functional as F

import fewseg
from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.models.logreg import LogRegNetwork, logistic_regression
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)


def problem(n=60, channels=5, batch=2, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, channels, generator=random, dtype=dtype) + 3  # far from centred
    positive = torch.rand(batch, n, generator=random, dtype=dtype) * (x[..., 0] + x[..., 1] > 6)
    negative = torch.rand(batch, n, generator=random, dtype=dtype) * (torch.rand(batch, n, generator=random) > 0.4)
    total = (positive + negative).sum(1, keepdim=True)
    return x, positive / total, negative / total


def objective(x, positive, negative, c, weight, bias):
    z = torch.einsum("bnc,bc->bn", x, weight) + bias[:, None]
    return (positive * F.softplus(-z) + negative * F.softplus(z)).sum(1) + weight.square().sum(1) / (2 * c)


@pytest.mark.parametrize("c", [0.1, 10.0, 1e5])
def test_the_gradient_vanishes_at_the_solution(c):
    x, positive, negative = problem()
    weight, bias = (v.requires_grad_() for v in logistic_regression(x, positive, negative, c))
    objective(x, positive, negative, c, weight, bias).sum().backward()
    assert weight.grad.abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-4


@pytest.mark.parametrize("c", [0.1, 10.0, 1000.0])
def test_a_general_optimiser_finds_the_same(c):
    x, positive, negative = problem(batch=1)
    weight, bias = torch.zeros(1, 5, dtype=x.dtype), torch.zeros(1, dtype=x.dtype)
    optimizer = torch.optim.LBFGS(
        [weight.requires_grad_(), bias.requires_grad_()], max_iter=2000, tolerance_grad=1e-10, tolerance_change=0
    )
    optimizer.zero_grad()

    def closure():
        optimizer.zero_grad()
        loss = objective(x, positive, negative, c, weight, bias).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = logistic_regression(x, positive, negative, c)
    torch.testing.assert_close(found[0], weight.detach(), rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(found[1], bias.detach(), rtol=2e-2, atol=2e-2)


def test_two_separable_points():
    """At -1 and 1 with one half each the solution has b = 0 and w / c = sigmoid(-w): c = 2 e + 2 gives w = 2 ."""
    x = torch.tensor([[[-1.0], [1.0]]])
    c = 2 * (1 + torch.e**2)
    weight, bias = logistic_regression(x, torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 0.0]]), c)
    assert weight.item() == pytest.approx(2.0, abs=1e-3)
    assert bias.item() == pytest.approx(0.0, abs=1e-3)
    shifted, moved = logistic_regression(x + 5, torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 0.0]]), c)
    assert shifted.item() == pytest.approx(2.0, abs=1e-3)  # the bias is not regularised
    assert moved.item() == pytest.approx(-10.0, abs=1e-2)


def test_a_cell_with_both_labels_is_a_share():
    """One cell, three to one: the probability is 3 / 4 whatever its features are."""
    x = torch.tensor([[[7.0, -2.0]]])
    weight, bias = logistic_regression(x, torch.tensor([[0.75]]), torch.tensor([[0.25]]), 10.0)
    assert torch.sigmoid((weight * x[0]).sum() + bias).item() == pytest.approx(0.75, abs=1e-3)


def test_nothing_annotated_is_zero():
    weight, bias = logistic_regression(torch.randn(2, 4, 3), torch.zeros(2, 4), torch.zeros(2, 4), 10.0)
    assert not weight.any()
    assert not bias.any()


def test_gradients_are_those_of_the_solution():
    """Against finite differences through the whole optimisation."""
    x, positive, negative = problem(n=12, channels=2, batch=1)

    def total(cells):
        weight, bias = logistic_regression(cells, positive, negative, 5.0)
        return weight.sum() + bias.sum()

    cells = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(cells), cells)
    for place in ((0, 0, 0), (0, 5, 1), (0, 11, 0)):
        step = torch.zeros_like(x)
        step[place] = 1e-2
        refined = [cells.detach() + sign * step for sign in (1, -1)]
        # with gradients the solution has one more Newton step, which also makes differences accurate
        ahead, behind = (total(r.requires_grad_()).item() for r in refined)
        assert gradient[place].item() == pytest.approx((ahead - behind) / 2e-2, rel=2e-2, abs=1e-3)


def features(*vectors):
    return Features((torch.tensor(vectors).mT[None, :, None],), (1, len(vectors)))


def answer(net, supports, annotation, queries):
    shots = Features((supports.maps[0][:, None],), supports.image_size)
    guidance = net.guide(shots, torch.tensor(annotation, dtype=torch.uint8).view(1, 1, 1, -1))
    return guidance, net.segment(queries, guidance)[0, :, 0]


def network(**options):
    return LogRegNetwork(Encoder("tiny", trainable=False), **options).eval()


def test_the_softmax_of_the_logits_is_the_probability():
    supports = features([1.0, 0.0], [0.8, 0.6], [0.0, 1.0])
    guidance, logits = answer(network(), supports, [1, 1, 0], supports)
    margin = supports.maps[0][0, :, 0].mT @ guidance.weight[0] + guidance.bias
    torch.testing.assert_close(logits.softmax(0)[1], margin.sigmoid())
    assert (margin > 0).tolist() == [True, True, False]


def test_balance_gives_the_rarer_label_its_half():
    """Three equal cells, one positive: the regression can only say how often."""
    same = features([1.0, 0.0], [1.0, 0.0], [1.0, 0.0])
    for balanced, probability in ((True, 1 / 2), (False, 1 / 3)):
        _, logits = answer(network(balanced=balanced), same, [1, 0, 0], same)
        assert logits.softmax(0)[1, 0].item() == pytest.approx(probability, abs=1e-3)


@pytest.mark.parametrize("balanced", [True, False])
def test_without_negatives_cells_unlike_the_positives_are_background(balanced):
    supports, queries = features([1.0, 0.0], [0.9, 0.1]), features([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0])
    _, logits = answer(network(balanced=balanced), supports, [1, 1], queries)
    assert (logits[1] > logits[0]).tolist() == [True, False, False]


def test_less_regularisation_is_more_certain():
    supports = features([1.0, 0.0], [0.0, 1.0])
    certainty = [answer(network(c=c), supports, [1, 0], supports)[1].softmax(0)[1, 0] for c in (1.0, 100.0)]
    assert 0.5 < certainty[0] < certainty[1]
    with pytest.raises(FewsegError, match="c: got 0"):
        network(c=0)


def test_an_encoder_learns_through_the_solution():
    torch.manual_seed(0)
    net = fewseg.create_model("LogReg", freeze_encoder=False).network
    images = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8)
    guidance = net.guide(net.encode_support(images[:, None]), (images[:, :1] > 128).to(torch.uint8))
    assert guidance.weight.requires_grad
    guidance.weight.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.encoder.parameters())


@pytest.mark.parametrize("width", [None, 16])
def test_mixed_precision_is_left_to_the_features(width):
    network = fewseg.create_model("LogReg", encoder="tiny", width=width, freeze_encoder=False).network
    images = torch.randint(0, 256, (1, 1, 3, 32, 32), dtype=torch.uint8)
    mask = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    mask[..., :16] = 1
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        guidance = network.guide(network.encode_support(images), mask)
    assert network.represent(guidance).dtype == torch.float32
    assert network.represent(guidance).isfinite().all()
