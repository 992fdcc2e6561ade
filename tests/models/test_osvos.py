"""OSVOS: the balanced loss, side outputs, the schedule of their weight, and what tuning does."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from test_fine_tune import answers, episode

import fewseg
from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.functional.warp import Warp
from fewseg.losses import balanced_cross_entropy
from fewseg.models import osvos
from fewseg.models.osvos import OSVOS, OSVOSNetwork, PaperOSVOSNetwork, Tuning
from fewseg.modules.encoders import Encoder
from fewseg.modules.side_outputs import PaperSideOutputs, SideOutputs, SideVGG16

torch.set_num_threads(1)


def network(**tuning):
    torch.manual_seed(0)
    encoder = Encoder("tiny", taps=(0, 1, 2))
    return OSVOSNetwork(encoder, SideOutputs(encoder.out_channels, 4), Tuning(**tuning)).eval()


# ------------------------------------------------------------------------------------------------------------ the loss


def test_the_balanced_loss_is_the_sum_by_hand():
    logits = torch.tensor([[0.0, 2.0, -1.0, 5.0, 0.5]])
    masks = torch.tensor([[1, 1, 0, 255, 0]], dtype=torch.uint8)
    positive = F.softplus(torch.tensor([0.0, -2.0])).sum()
    negative = F.softplus(torch.tensor([-1.0, 0.5])).sum()
    torch.testing.assert_close(balanced_cross_entropy(logits, masks, "sum"), 0.5 * positive + 0.5 * negative)
    torch.testing.assert_close(balanced_cross_entropy(logits, masks), (positive + negative) / 4)


def test_the_weighted_loss_depends_on_no_size():
    logits = torch.tensor([[[2.0, -1.0], [-1.0, -1.0]]])
    masks = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    one = balanced_cross_entropy(logits, masks)
    torch.testing.assert_close(one, (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(-1.0))) / 2)
    larger = [x.repeat_interleave(6, 1).repeat_interleave(6, 2) for x in (logits, masks)]
    torch.testing.assert_close(balanced_cross_entropy(*larger), one)
    assert balanced_cross_entropy(*larger, "sum").item() == pytest.approx(
        36 * balanced_cross_entropy(logits, masks, "sum").item()
    )


@pytest.mark.parametrize("reduction", ["sum", "weighted"])
def test_an_image_of_one_label_teaches_nothing(reduction):
    logits = torch.randn(3, 4, 4, requires_grad=True)
    masks = torch.stack([torch.full((4, 4), label, dtype=torch.uint8) for label in (0, 1, 255)])
    loss = balanced_cross_entropy(logits, masks, reduction)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


# -------------------------------------------------------------------------------------------------------- side outputs


@pytest.mark.parametrize("paper", [False, True])
def test_fusing_before_enlarging_is_fusing_what_was_enlarged(paper):
    torch.manual_seed(0)
    outputs = (PaperSideOutputs() if paper else SideOutputs((3, 5, 4, 2), 16)).double()
    with torch.no_grad():
        outputs.fusion.weight.normal_()
        outputs.fusion.bias.fill_(0.7)
    size, strides = (37, 43), (2, 4, 8, 16)
    maps = [torch.randn(2, 16, -(-size[0] // s), -(-size[1] // s), dtype=torch.float64) for s in strides]
    if paper:  # as the original writes it: every channel enlarged, cropped about the centre, joined
        large = [F.conv_transpose2d(m, k, stride=s) for m, k, s in zip(maps, outputs.kernels, strides, strict=True)]
        large = [x[..., (x.shape[2] - 37) // 2 :, (x.shape[3] - 43) // 2 :][..., :37, :43] for x in large]
    else:
        large = [F.interpolate(m, size, mode="bilinear") for m in maps]
    torch.testing.assert_close(outputs.fuse(maps, size), outputs.fusion(torch.cat(large, 1)))
    scores = outputs.score(maps, size)
    one = F.conv2d(large[1], outputs.scores[1].weight)
    inner = (..., slice(5, -5), slice(5, -5))  # at the border the kernel of the paper fades the bias, too
    torch.testing.assert_close(scores[1][inner], one[inner] + outputs.scores[1].bias[:, None, None])


def test_taps_of_vgg_end_before_the_pools():
    encoder = SideVGG16().eval()
    images = torch.rand(1, 3, 18, 22)
    stages = encoder.vgg.stages
    pooled = F.max_pool2d(stages[0](images), 2, ceil_mode=True)
    torch.testing.assert_close(encoder(images).maps[0], stages[1](pooled))
    assert [m.shape[-1] for m in encoder(images).maps] == [11, 6, 3, 2]


# ------------------------------------------------------------------------------------------------------------ training


def queries():
    _, masks, images = episode(n=2)
    return SimpleNamespace(query_images=images, query_masks=masks[:, 0])


def test_the_weight_of_the_side_outputs_falls_with_the_steps():
    model = OSVOS(width=4)
    model.trainer = SimpleNamespace(max_steps=8, global_step=0, datamodule=None)
    seen = []
    for step in (0, 2, 6, 8):
        model.trainer.global_step = step
        type(model).global_step = property(lambda self: self.trainer.global_step)
        try:
            model.on_train_batch_start(None, 0)
        finally:
            del type(model).global_step
        seen.append(model.network.side_weight)
    assert seen == [1.0, 0.75, 0.25, 0.0]


def test_losses_are_of_the_fused_score_and_of_every_tap():
    net = network()
    batch = queries()
    first = net.losses(batch)
    net.side_weight = 0.25
    second = net.losses(batch)
    assert second["fused"] == first["fused"]
    assert second["sides"].item() == pytest.approx(first["sides"].item() / 4)
    margin = net.score(net.encode_query(batch.query_images)).diff(dim=1)[:, 0]
    torch.testing.assert_close(first["fused"], balanced_cross_entropy(margin, batch.query_masks))
    maps = net.outputs.prepare(net.encoder(batch.query_images).maps)
    sides = [
        F.interpolate(score(m), (24, 24), mode="bilinear")[:, 0]
        for score, m in zip(net.outputs.scores, maps, strict=True)
    ]
    torch.testing.assert_close(first["sides"], sum(balanced_cross_entropy(s, batch.query_masks) for s in sides))


def test_the_learning_rates_of_the_original():
    with torch.device("meta"):
        model = OSVOS(variant="paper", lr=1.0, encoder_lr_factor=1.0)
    names = {id(p): name for name, p in model.network.named_parameters()}
    found = {names[id(p)]: group["lr"] for group in model.parameter_groups() for p in group["params"]}
    assert len(found) == 2 * (13 + 4 + 4 + 1)
    assert found.pop("outputs.fusion.weight") == 0.01
    assert found.pop("outputs.fusion.bias") == 0.02
    assert {found.pop(f"outputs.scores.{i}.weight") for i in range(4)} == {0.1}
    assert {found.pop(f"outputs.scores.{i}.bias") for i in range(4)} == {0.2}
    assert all(rate == (2.0 if name.endswith("bias") else 1.0) for name, rate in found.items())
    rates = {group["lr"] for group in OSVOS(lr=1.0, encoder_lr_factor=0.25).parameter_groups()}
    assert rates == {0.25, 1.0}


# -------------------------------------------------------------------------------------------------------------- tuning


def test_one_update_is_the_mean_gradient_of_its_passes(monkeypatch):
    """Decay is of the parameters and not of their change; the pass that is turned sees the turned annotation."""
    net = network(steps=1, lr=0.5, accumulate=2)
    supports, annotations, _ = episode(shots=2)
    annotations[0, 0, :5] = 255
    warps = iter([Warp(), Warp(flip=True)])
    monkeypatch.setattr(osvos, "draw_warp", lambda generator: next(warps))
    with torch.inference_mode():
        change = net.guide(net.encode_support(supports), annotations).change[0]
    images = net.encoder.normalize(supports[0])
    total = 0
    for shots, truth in ((images, annotations), (images.flip(3), annotations.flip(3))):
        logits = net.score(Features((shots,), (24, 24)))
        total = total + balanced_cross_entropy(logits.diff(dim=1).reshape(1, -1), truth.reshape(1, -1)) / 2
    parameters = dict(net.named_parameters())
    gradients = torch.autograd.grad(total, [parameters[name] for name in net.tuned])
    expected = [g + 2e-4 * parameters[name] for g, name in zip(gradients, net.tuned, strict=True)]
    torch.testing.assert_close(change, -0.5 * torch.cat([e.flatten() for e in expected]).detach())


class Rated(OSVOSNetwork):
    """Rates as different as the paper's, for a small network."""

    def factor(self, name):
        return 0.25 if name.startswith("outputs.fusion") else 2.0 if name.endswith("bias") else 1.0


def test_two_updates_have_momentum_decay_and_each_parameter_its_rate():
    torch.manual_seed(0)
    encoder = Encoder("tiny", taps=(0, 1, 2))
    net = Rated(encoder, SideOutputs(encoder.out_channels, 4), Tuning(2, 0.5, augment=False)).double().eval()
    supports, annotations, _ = episode(shots=2)
    with torch.inference_mode():
        change = net.guide(net.encode_support(supports), annotations).change[0]
    tuned = {name: p for name, p in net.named_parameters() if not name.startswith("outputs.scores")}
    start = [p.detach().clone() for p in tuned.values()]
    velocities = [torch.zeros_like(p) for p in tuned.values()]
    images = Features((net.encoder.normalize(supports[0]),), (24, 24))
    for _ in range(2):
        loss = balanced_cross_entropy(net.score(images).diff(dim=1).reshape(1, -1), annotations.reshape(1, -1))
        gradients = torch.autograd.grad(loss, list(tuned.values()))
        with torch.no_grad():
            for (name, p), v, g in zip(tuned.items(), velocities, gradients, strict=True):
                v.mul_(0.9).add_(g + 2e-4 * p)
                p -= 0.5 * net.factor(name) * v
    moved = [p - before for p, before in zip(tuned.values(), start, strict=True)]
    torch.testing.assert_close(change, torch.cat([m.flatten() for m in moved]).detach())


@pytest.mark.parametrize("lost", [0, 1])
def test_a_warp_that_takes_all_of_a_label_out_of_sight_is_drawn_again(monkeypatch, lost):
    supports, annotations, _ = episode(shots=1)
    annotations[:] = 1 - lost
    annotations[..., :3, :3] = lost  # an image enlarged threefold shows its middle

    def change(*warps):
        rest = iter(warps)
        monkeypatch.setattr(osvos, "draw_warp", lambda generator: next(rest))
        net = network(steps=1)
        found = net.guide(net.encode_support(supports), annotations).change
        assert not list(rest)
        return found

    enlarged, flipped = Warp(scale=3.0), Warp(flip=True)
    assert torch.equal(change(enlarged, enlarged, flipped), change(flipped))
    assert not torch.equal(change(flipped), change(Warp()))
    assert torch.equal(change(*[enlarged] * 20), change(Warp()))  # what every warp loses is seen as it is


def test_the_paper_tunes_with_the_factors_of_its_rates(monkeypatch):
    seen = {}

    def record(net, names, loss, steps, make_optimizer, passes):
        values = [torch.zeros(1) for _ in names]
        groups = make_optimizer(values).param_groups
        seen.update({name: group["lr"] for name, group in zip(names, groups, strict=True)})
        return torch.zeros(1)

    monkeypatch.setattr(osvos, "tuned_change", record)
    net = fewseg.create_model("OSVOS", variant="paper").network
    supports, annotations, _ = episode(shots=1)
    net.guide(net.encode_support(supports), annotations)
    assert seen["encoder.vgg.stages.0.0.weight"] == 1e-8
    assert seen["outputs.convolutions.0.bias"] == 2e-8
    assert seen["outputs.fusion.weight"] == pytest.approx(1e-10)
    assert len(seen) == 2 * (13 + 4 + 1)  # neither the scores of single taps nor the fixed kernels


@pytest.mark.parametrize("tune", ["head", "all"])
@pytest.mark.parametrize("augment", [False, True])
def test_tuning_fits_the_support_alike_each_time_and_leaves_the_network_alone(tune, augment):
    net = network(steps=0, lr=0.05, tune=tune, augment=augment)
    supports, annotations, _ = episode(shots=1)
    annotations[:], annotations[..., 4:14, 3:11] = 0, 1
    supports[..., 4:14, 3:11] //= 4
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def loss(steps, seed=0):
        net.prepare(net.tuning._replace(steps=steps, seed=seed))
        with torch.inference_mode():
            guidance, logits = answers(net, supports, annotations, supports[:, 0])
        return balanced_cross_entropy(logits.diff(dim=1)[:, 0], annotations[:, 0]), guidance.change

    torch.manual_seed(1)
    first, change = loss(15)
    state = torch.get_rng_state()
    assert torch.equal(loss(15)[1], change)  # whatever the global seed
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(loss(15, seed=1)[1], change) != augment
    assert first < 0.9 * loss(0)[0]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_is_kept_follows_from_what_is_tuned():
    flags = {
        (tune, augment): [
            getattr(network(tune=tune, augment=augment), f) for f in ("early", "cacheable", "shared_encoder")
        ]
        for tune in ("head", "all")
        for augment in (False, True)
    }
    assert flags == {
        ("head", False): [False, True, True],
        ("head", True): [True, True, False],  # supports are encoded anew in each pass, queries once
        ("all", False): [True, False, True],
        ("all", True): [True, False, True],
    }
    assert not any(name.startswith("outputs.scores") for name in network().tuned)
    assert {name.split(".")[0] for name in network(tune="head").tuned} == {"outputs"}


@pytest.mark.parametrize("augment", [False, True])
def test_a_frozen_encoder_is_not_tuned_and_its_features_can_be_kept(augment):
    frozen = OSVOS(width=4, freeze_encoder=True, tune="all", augment=augment, steps=1).network
    head = OSVOS(width=4, tune="head", augment=augment).network
    for flag in ("early", "cacheable", "shared_encoder", "tunes_encoder", "tuned"):
        assert getattr(frozen, flag) == getattr(head, flag), flag
    assert frozen.cacheable
    assert not OSVOS(width=4, tune="all", augment=augment).network.cacheable
    supports, annotations, images = episode(shots=1)
    frozen.eval()
    kept = frozen.encode_query(images)
    torch.testing.assert_close(kept.maps, frozen.encoder(images).maps)  # features, not images
    guidance = frozen.guide(frozen.encode_support(supports), annotations)
    assert guidance.change.any()
    assert frozen.segment(kept, guidance).shape == (1, 2, 24, 24)


@pytest.mark.parametrize("label", [0, 1, 255])
def test_one_label_alone_tunes_nothing(label):
    net = network(steps=3)
    supports, annotations, images = episode()
    guidance, logits = answers(net, supports, torch.full_like(annotations, label), images)
    assert not guidance.change.any()
    if label == 1:
        torch.testing.assert_close(logits, net.score(net.encode_query(images)))
    else:
        assert (logits[:, 0] > logits[:, 1]).all()


def test_labels_of_different_shots_are_enough():
    """As with clicks: a positive one on one frame, a negative one on another."""
    net = network(steps=3)
    supports, annotations, _ = episode(shots=2)
    annotations[:] = 255
    annotations[0, 0, 12, 12], annotations[0, 1, 10, 10] = 1, 0
    assert net.guide(net.encode_support(supports), annotations).change.abs().max() > 1e-4


def test_objects_of_a_frame_are_tuned_apart():
    net = network(steps=3)
    supports, annotations, images = episode()
    both = torch.cat([annotations, 1 - annotations])
    with torch.inference_mode():
        features = net.encode_support(supports)  # once, for both objects
        together = net.segment(net.encode_query(images), net.guide(features, both))
        apart = [net.segment(net.encode_query(images), net.guide(features, one[None])) for one in both]
    assert together.shape == (2, 2, 24, 24)
    torch.testing.assert_close(together, torch.cat(apart))


def test_settings_out_of_range_are_refused():
    for options, message in [
        ({"steps": -1}, "steps: got -1"),
        ({"tune_lr": 0.0}, "tune_lr: got 0"),
        ({"accumulate": 0}, "accumulate: got 0, expected 1 pass or more"),
        ({"width": 0}, "width: got 0"),
        ({"variant": "paper", "width": 8}, "width: got 8, expected 16"),
        ({"variant": "paper", "taps": (1, 2)}, "taps: got"),
    ]:
        with pytest.raises(FewsegError, match=message), torch.device("meta"):
            OSVOS(**options)
    with torch.device("meta"):
        assert OSVOS().network.tuning.lr == Tuning().lr
        assert OSVOS(variant="paper").network.tuning.lr == 1e-8
        assert OSVOS(variant="paper", tune_lr=1e-7).network.tuning.lr == 1e-7
        assert PaperOSVOSNetwork().cacheable is False
