"""FBRSNet: its size, its loss by hand, points of refinement, the clicks that it reads, and tuning on the support."""

import math

import numpy as np
import pytest
import torch

from fewseg.errors import FewsegError
from fewseg.losses import normalized_focal_loss
from fewseg.models.fbrs import FBRSNet, Tuning, paper_network
from fewseg.modules.click_fusion import ClickFusion
from fewseg.modules.deeplab import ASPP

torch.set_num_threads(1)

SIZE = (32, 24)
CLICKS = torch.tensor([[[4, 5, 1], [20, 9, 0]], [[8, 8, 1], [0, 0, -1]]], dtype=torch.int32)


def build(**options):
    torch.manual_seed(0)
    return FBRSNet(width=16, **options).network.eval()


def raw(*shape):
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, shape)).to(torch.uint8)


def none(network, n=1):
    return network.guide(network.encode_support(torch.zeros(n, 0, 3, *SIZE)), torch.zeros(n, 0, *SIZE))


# ------------------------------------------------------------------------------------------------------------- network


def test_size_of_the_original():
    with torch.device("meta"):
        network = paper_network(None, True, 8, Tuning())
    assert sum(p.numel() for p in network.parameters()) == 23_341_692
    assert sum(p.numel() for p in network.fusion.parameters()) == 5 * 8 + 8 + 2 * 8 + 8 * 3 + 3
    assert (network.encoder.out_channels, network.encoder.strides) == ((64, 512), (4, 8))
    assert [b[0].dilation[0] for b in network.decoder.aspp.branches] == [1, 12, 24, 36]
    images, maps = torch.zeros(1, 3, 64, 96, device="meta"), torch.zeros(1, 2, 64, 96, device="meta")
    shapes = [tuple(network.eval().to_point(point, images, maps).map.shape) for point in "ABC"]
    assert shapes == [(1, 512, 8, 12), (1, 128 + 32, 16, 24), (1, 128, 16, 24)]
    assert network.answer(images, maps).shape == (1, 2, 64, 96)


def test_the_foreground_probability_is_the_sigmoid_of_the_one_logit():
    network = build()
    images, maps = torch.rand(1, 3, *SIZE), torch.rand(1, 2, *SIZE)
    with torch.inference_mode():
        hidden = network.to_point("C", images, maps)
        logit = network.decoder.score(hidden.map, SIZE)
        probs = network.from_point("C", hidden).softmax(1)
    torch.testing.assert_close(probs[:, 1:], logit.sigmoid())


def test_a_change_at_a_point_reaches_the_answer_and_the_skip_is_not_scaled_at_a():
    network = build()
    features, guidance = network.encode_query(raw(2, 3, *SIZE)), none(network, 2)
    with torch.inference_mode():
        expected = network.segment(features, guidance, CLICKS)
        for point in network.insertion_points:
            hidden = network.segment_to(point, features, guidance, CLICKS)
            changed = hidden._replace(map=1.5 * hidden.map + 0.1)
            assert not torch.equal(network.segment_from(point, changed, guidance, CLICKS), expected)
        at_a, at_b = (network.segment_to(point, features, guidance, CLICKS) for point in "AB")
        emptied = network.decoder.join(torch.zeros_like(at_a.map), at_a.skip)
    torch.testing.assert_close(emptied[:, 16:], at_b.map[:, 16:])
    assert at_b.skip.numel() == 0


def test_the_identity_start_passes_the_image_and_hears_the_clicks():
    torch.manual_seed(0)
    fusion, images, maps = ClickFusion(), torch.randn(4, 3, 48, 48), torch.rand(4, 2, 48, 48)
    with torch.no_grad():
        assert not torch.equal(fusion.eval()(images, maps), fusion(images, 1 - maps))
        fusion.restore.weight[:, 6:] = 0
        torch.testing.assert_close(fusion(images, maps), images)
        assert (fusion.train()(images, maps) - images).abs().mean() < 0.05  # by the statistics of the batch
    with pytest.raises(FewsegError, match="hidden"):
        ClickFusion(hidden=6)
    with pytest.raises(FewsegError, match="in_channels"):
        ClickFusion(in_channels=3)


def test_the_identity_start_makes_small_distances_as_loud_as_colours():
    torch.manual_seed(0)
    fusion, images = ClickFusion().train(), torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        maps = torch.rand(4, 2, 48, 48)
        loud, faint = ((fusion(images, m) - images).std().item() for m in (maps, maps / 3))
    assert loud > 0.1
    assert faint == pytest.approx(loud, rel=0.1)


def test_the_pyramid_sees_the_whole_image():
    torch.manual_seed(0)
    pyramid = ASPP(4, 8, (1, 2, 3)).eval()
    features = torch.rand(1, 4, 16, 16)
    other = features.clone()
    other[..., 0, 0] += 5
    with torch.inference_mode():
        change = (pyramid(features) - pyramid(other)).abs().sum(1)[0]
    assert (change > 0).float().mean() > 0.5
    assert change[15, 15] > 0  # far beyond the largest dilation: by the mean


# -------------------------------------------------------------------------------------------------------------- clicks


def test_maps_of_clicks_are_those_of_f_brs():
    maps = build().click_maps(torch.tensor([[[0, 0, 1]]]), (1, 5))[0, :, 0]
    torch.testing.assert_close(maps[1, [0, 1, 2, 4]], torch.tensor([0, 0.0076922, 0.0153834, 0.0307595]))
    torch.testing.assert_close(maps[0], torch.ones(5))


def test_clicks_beyond_the_limit_do_not_enter():
    network = build(max_clicks=2)
    images, guidance = raw(1, 3, *SIZE), none(network)
    rows = [[0, 0, -1], [4, 5, 1], [20, 9, 0], [12, 12, 0]]
    clicks = [torch.tensor([[*rows[:3], *more]]) for more in ([], rows[3:])]
    with torch.inference_mode():
        features = network.encode_query(images)
        few, many = (network.segment(features, guidance, c) for c in clicks)
        network.max_clicks = None
        assert not torch.equal(network.segment(features, guidance, clicks[1]), few)
    assert torch.equal(few, many)


# ---------------------------------------------------------------------------------------------------------------- loss


def test_the_loss_by_hand():
    """Two pixels: p = 0.75 of foreground, p = 0.5 of background; weights 1/16 and 1/4."""
    logits = torch.tensor([[[[0.0, 0.0]], [[math.log(3), 0.0]]]])
    loss = normalized_focal_loss(logits, torch.tensor([[[1, 0]]], dtype=torch.uint8))
    by_hand = 0.5 * (-math.log(0.75) / 16 - math.log(0.5) / 4) / (1 / 16 + 1 / 4)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    unequal = normalized_focal_loss(logits, torch.tensor([[[1, 0]]]), alpha=0.2)
    by_hand = (-0.2 * math.log(0.75) / 16 - 0.8 * math.log(0.5) / 4) / (1 / 16 + 1 / 4)
    assert unequal.item() == pytest.approx(by_hand, rel=1e-5)


def test_void_does_not_count_and_images_count_alike():
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 2, 4, 4), torch.randint(0, 2, (2, 4, 4))
    masks[:, :2] = 255
    known = normalized_focal_loss(logits[:, :, 2:], masks[:, 2:])
    torch.testing.assert_close(normalized_focal_loss(logits, masks), known)
    apart = [normalized_focal_loss(logits[i : i + 1], masks[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(known, sum(apart) / 2)
    assert normalized_focal_loss(logits, torch.full_like(masks, 255)) == 0


def test_no_gradient_flows_through_the_denominator():
    """One pixel: the loss is a log p, but its gradient is that of w log p over a constant w."""
    logits = torch.zeros(1, 2, 1, 1, requires_grad=True)
    normalized_focal_loss(logits, torch.ones(1, 1, 1)).backward()
    p, gamma = 0.5, 2
    slope = 0.5 * (-(1 - p) + gamma * p * math.log(p))  # of a ((1 - p)^2 (-log p)) / (1 - p)^2 in the margin
    assert logits.grad[0, 1].item() == pytest.approx(slope, rel=1e-5)


# -------------------------------------------------------------------------------------------------------------- tuning


def support(n=1):
    """A red square on grey, and its mask."""
    images = torch.full((n, 1, 3, *SIZE), 120, dtype=torch.uint8)
    masks = torch.zeros(n, 1, *SIZE, dtype=torch.uint8)
    images[..., 0, 6:20, 4:16], masks[..., 6:20, 4:16] = 230, 1
    return images, masks


def test_without_tuning_supports_are_not_read():
    network = build()
    assert (network.uses_support, network.early, none(network).shape) == (False, False, (1, 0))


def test_tuning_fits_the_support_and_leaves_the_network_alone():
    network = build(tune_steps=40, tune_lr=3e-3)
    assert network.uses_support
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, masks = support()
    clicks = torch.tensor([[[12, 10, 1]]])
    with torch.inference_mode():
        change = network.guide(network.encode_support(images), masks)
        features = network.encode_query(images[:, 0])
        tuned, untuned = (network.segment(features, z, clicks) for z in (change, change[:, :0]))
        hidden = network.segment_to("A", features, change, clicks)
        torch.testing.assert_close(network.segment_from("A", hidden, change, clicks), tuned)
    assert change.shape == (1, sum(p.numel() for p in network.parameters()))
    wanted = masks[:, 0] == 1
    found = [logits.argmax(1) == 1 for logits in (tuned, untuned)]
    better, worse = ((mask & wanted).sum() / (mask | wanted).sum() for mask in found)
    assert better > worse + 0.5
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_seed_draws_the_clicks_and_episodes_are_tuned_apart():
    images, masks = support(2)
    images[1] = images[1].flip(-1)
    masks[1] = masks[1].flip(-1)

    def change(seed, which=slice(None)):
        network = build(tune_steps=2, tune_seed=seed)
        return network.guide(network.encode_support(images[which]), masks[which])

    both = change(0)
    torch.testing.assert_close(both[1:], change(0, slice(1, 2)))
    assert torch.equal(both, change(0))
    assert not torch.equal(both, change(1))


def test_a_shot_without_the_object_is_not_tuned_on():
    network = build(tune_steps=2)
    images, masks = support()
    silent = torch.zeros_like(masks)
    with torch.inference_mode():
        assert not network.guide(network.encode_support(images), silent).any()
        one = network.guide(network.encode_support(images), masks)
        more = network.guide(network.encode_support(torch.cat([images] * 2, 1)), torch.cat([silent, masks], 1))
    torch.testing.assert_close(one, more)


def test_training_does_not_tune():
    network = build(tune_steps=1000)  # would take a minute
    batch = type("Batch", (), {})()
    batch.query_images, batch.query_clicks = raw(2, 3, *SIZE), CLICKS
    batch.query_masks = torch.randint(0, 2, (2, *SIZE), dtype=torch.uint8)
    assert network.losses(batch)["normalized_focal"].isfinite()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("width", 15), ("rate", 0), ("max_clicks", 0), ("tune_steps", -1), ("tune_lr", 0.0)],
)
def test_bad_numbers_are_refused(argument, value):
    with pytest.raises(FewsegError, match=f"{argument}: got {value}"):
        FBRSNet(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [("encoder", "resnet18"), ("output_stride", 16), ("taps", (1, 2)), ("width", 64), ("rate", 1)],
)
def test_the_paper_has_its_own_network(argument, value):
    with pytest.raises(FewsegError, match=argument):
        FBRSNet(variant="paper", **{argument: value})
