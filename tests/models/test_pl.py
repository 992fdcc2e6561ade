"""PL: prototypes, fusion maps, permutation and auxiliary loss by hand."""

import math

import pytest
import torch

from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame
from fewseg.errors import FewsegError
from fewseg.models.pl import PL, Guidance, PLNetwork
from fewseg.modules.encoders import Encoder
from fewseg.network import cross_entropy

torch.set_num_threads(1)


def build(width=16, **options):
    torch.manual_seed(0)
    return PLNetwork(Encoder("tiny"), width, **options).eval()


def labels(*shape):
    return torch.randint(0, 2, shape, dtype=torch.uint8)


def episodes(n=2):
    return EpisodeBatch(
        support_images=torch.randint(0, 256, (n, 2, 3, 32, 24), dtype=torch.uint8),
        support_annotations=labels(n, 2, 32, 24),
        query_images=torch.randint(0, 256, (n, 3, 33, 20), dtype=torch.uint8),
        query_clicks=torch.zeros(n, 0, 3, dtype=torch.int32),
        query_masks=labels(n, 33, 20),
        targets=(None,) * n,
        frames=(Frame((33, 20), (33, 20), Box(0, 0, 33, 20)),) * n,
        specs=(EpisodeSpec("q", ("s", "s"), 1),) * n,
    )


CELLS = torch.tensor([[3.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)  # two cells: (3, 0) and (0, 2)


def test_prototypes_by_hand():
    network = build(2)
    shots = Features((torch.stack([CELLS[0], 10 * CELLS[0]])[None],), (1, 2))
    annotations = torch.tensor([[[[0, 1]], [[255, 1]]]], dtype=torch.uint8)
    guidance = network.guide(shots, annotations)
    assert guidance.prototypes.tolist() == [[[3.0, 0.0], [0.0, 11.0]]]  # the second shot has no background
    assert guidance.annotated.tolist() == [[True, True]]


def test_fusion_maps_by_hand():
    network = build(2)
    with torch.no_grad():
        network.scale.fill_(math.log(3))
    prototypes = torch.tensor([[[5.0, 0.0], [0.0, 1.0]]])  # the first cell is background, the second foreground
    weighted = network.weight(CELLS, prototypes)
    # softmax of (log 3, 0) is (3/4, 1/4)
    expected = CELLS[:, None] * torch.tensor([[0.75, 0.25], [0.25, 0.75]]).view(1, 2, 1, 1, 2)
    torch.testing.assert_close(weighted, expected)
    torch.testing.assert_close(weighted.sum(1), CELLS)


def test_without_negatives_the_foreground_is_compared_with_zero():
    network = build(2)
    with torch.no_grad():
        network.scale.fill_(math.log(3))
    weighted = network.weight(CELLS, torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))
    torch.testing.assert_close(weighted[0, 1], CELLS[0] * torch.tensor([0.5, 0.75]))


def test_one_query_serves_many_prototypes():
    network = build()
    features, prototypes = torch.randn(1, 16, 3, 4), torch.randn(5, 2, 16)
    apart = torch.cat([network.weight(features, prototypes[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(network.weight(features, prototypes), apart)


def test_an_order_turns_what_goes_in_and_what_comes_out():
    network = build()
    weighted = torch.randn(2, 2, 16, 3, 4)
    straight = network.segmentor(torch.cat([weighted[:, 0], weighted[:, 1]], 1))
    turned = network.segmentor(torch.cat([weighted[:, 1], weighted[:, 0]], 1))
    torch.testing.assert_close(network.decode(weighted, (0, 1)), straight)
    torch.testing.assert_close(network.decode(weighted, (1, 0)), turned[:, [1, 0]])
    assert (network.decode(weighted, (1, 0)) - straight).abs().max() > 1e-3


def test_a_segmentor_that_treats_labels_alike_does_not_mind_the_order():
    network = build()
    first, last = network.segmentor[0], network.segmentor[2]
    with torch.no_grad():  # half of the hidden channels for each label, the same for both
        first.weight[8:, 16:], first.weight[8:, :16] = first.weight[:8, :16], first.weight[:8, 16:]
        first.bias[8:] = first.bias[:8]
        last.weight[1, 8:], last.weight[1, :8] = last.weight[0, :8], last.weight[0, 8:]
        last.bias[1] = last.bias[0]
    weighted = torch.randn(2, 2, 16, 3, 4)
    torch.testing.assert_close(network.decode(weighted, (1, 0)), network.decode(weighted, (0, 1)))


def test_permutation_is_the_mean_loss_of_both_orders():
    batch = episodes()
    both, one = build(), build(permutation=False)
    straight = cross_entropy(both(batch), batch.query_masks)
    torch.testing.assert_close(one.losses(batch)["cross_entropy"], straight)
    first, last = one.segmentor[0], one.segmentor[2]
    with torch.no_grad():  # the same segmentor with its labels renamed
        first.weight.copy_(first.weight.roll(16, 1))
        last.weight.copy_(last.weight.flip(0))
        last.bias.copy_(last.bias.flip(0))
    turned = cross_entropy(one(batch), batch.query_masks)
    assert (turned - straight).abs() > 1e-5
    torch.testing.assert_close(both.losses(batch)["cross_entropy"], (straight + turned) / 2)


def test_classification_by_hand():
    network = build(2)
    with torch.no_grad():
        network.scale.fill_(2.0)
    queries, prototypes = Features((CELLS,), (1, 2)), torch.tensor([[[7.0, 0.0], [0.0, 1.0]]])
    guidance = Guidance(prototypes, torch.tensor([[True, True]]))
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))

    def loss(*mask, known=guidance):
        return network.classify(queries, known, torch.tensor([[mask]], dtype=torch.uint8)).item()

    assert loss(0, 1) == pytest.approx(right)
    assert loss(1, 0) == pytest.approx(wrong)
    assert loss(255, 0) == pytest.approx(wrong)  # background alone, and it looks like foreground
    assert loss(255, 255) == 0
    assert loss(1, 0, known=guidance._replace(annotated=torch.tensor([[False, True]]))) == 0


def test_the_auxiliary_loss_has_a_weight():
    batch = episodes()
    losses = build(auxiliary_weight=0.5).losses(batch)
    assert set(losses) == {"cross_entropy", "classification"}
    torch.testing.assert_close(
        build(auxiliary_weight=1.0).losses(batch)["classification"], 2 * losses["classification"]
    )
    assert set(build(auxiliary_weight=0.0).losses(batch)) == {"cross_entropy"}
    with pytest.raises(FewsegError, match="auxiliary_weight: got -1, expected 0 or more"):
        PL(auxiliary_weight=-1)


def test_prototypes_and_scale_learn_from_the_auxiliary_loss_alone():
    network = build().train()
    network.losses(episodes())["classification"].backward()
    assert network.scale.grad.abs() > 0
    assert network.embedding.project.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.segmentor.parameters())
