"""The parts of Mask R-CNN: pyramid, anchors, regions, crowds and what becomes of detections, by hand."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from fewseg.episode import Box, Features, Frame, Instances
from fewseg.errors import FewsegError
from fewseg.modules.detection import Detection, Detector, Pyramid, pasted, restored, union_logits
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)

LOSSES = {"rpn_classification", "rpn_box", "classification", "box", "mask"}


def detector(strides=(4, 8, 16), n_classes=1, channels=6, **options):
    torch.manual_seed(0)
    settings = {"width": 4, "anchor_scale": 2.0, "n_proposals": 20, "n_regions": 8, "score_threshold": 0.0, **options}
    found = Detector(channels, strides, n_classes, Detection(**settings))
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "rpn.head" in name:  # torchvision's start is so small that all anchors would score the same
                parameter.normal_(std=0.3)
    return found


def maps(size, strides=(4, 8, 16), channels=6, n=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sides = [[math.ceil(side / stride) for side in size] for stride in strides]
    return Features(tuple(torch.randn(n, channels, *side, generator=generator) for side in sides), size)


def objects(*boxes, size, crowd=(), label=1):
    """Rectangles x0, y0, x1, y1, filled with their own pixels."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    crowds = torch.tensor([i in crowd for i in range(len(boxes))], dtype=torch.bool)
    places = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(places, masks, torch.full((len(boxes),), label), crowd=crowds)


# Pyramid


def test_a_pyramid_has_one_width_and_one_level_of_every_second_cell_more():
    torch.manual_seed(0)
    encoder = Encoder("tiny").eval()
    pyramid = Pyramid(encoder, 8)
    assert pyramid.strides == (4, 8, 16)
    fine, coarse, extra = pyramid(encoder(torch.rand(2, 3, 37, 50))).maps
    assert (fine.shape, coarse.shape) == ((2, 8, 10, 13), (2, 8, 5, 7))
    assert torch.equal(extra, coarse[:, :, ::2, ::2])


def test_a_pyramid_adds_coarse_to_fine():
    encoder = Encoder("tiny").eval()
    pyramid = Pyramid(encoder, 4)
    taps = Features((torch.zeros(1, 64, 6, 6), torch.zeros(1, 128, 3, 3)), (24, 24))
    still = pyramid(taps).maps[0]
    taps.maps[1][0, :, 0, 0] = 1.0
    moved = (pyramid(taps).maps[0] - still).abs().sum(1)[0] > 1e-6
    assert moved[:3, :3].any()  # two cells of the fine level, and the reach of its last convolution
    assert not moved[3:].any()
    assert not moved[:, 3:].any()


def test_a_pyramid_may_rectify_its_lateral_and_output_convolutions():
    torch.manual_seed(0)
    encoder = Encoder("tiny").eval()
    features = encoder(torch.rand(1, 3, 32, 32))
    assert all((m < 0).any() for m in Pyramid(encoder, 8)(features).maps)
    rectified = Pyramid(encoder, 8, rectify=True)
    assert all((m >= 0).all() and (m > 0).any() for m in rectified(features).maps)
    seen = []
    hooks = [block.register_forward_hook(lambda *call: seen.append(call[2])) for block in rectified.fpn.inner_blocks]
    rectified(features)
    assert len(hooks) == len(seen) == 2
    assert all((m >= 0).all() for m in seen)


def test_a_pyramid_of_shots_is_that_of_each():
    torch.manual_seed(0)
    encoder = Encoder("tiny").eval()
    pyramid = Pyramid(encoder, 8)
    images = torch.rand(2, 3, 3, 20, 28)
    shots = pyramid(encoder(images)).maps
    for i in range(2):
        for together, alone in zip(shots, pyramid(encoder(images[i])).maps, strict=True):
            torch.testing.assert_close(together[i], alone)


def test_half_precision_features_of_a_cache_are_read():
    encoder = Encoder("tiny").eval()
    features = encoder(torch.rand(1, 3, 16, 16))
    assert Pyramid(encoder, 8)(features.to(torch.float16)).maps[0].dtype == torch.float32


@pytest.mark.parametrize(("name", "taps"), [("tiny", (1,)), ("vit_tiny_patch16_224", (-2, -1))])
def test_taps_that_make_no_pyramid_are_refused(name, taps):
    with pytest.raises(FewsegError, match=r"encoder: got taps of strides .*each twice the one before"):
        Pyramid(Encoder(name, taps=taps), 8)


# Anchors


@pytest.mark.parametrize("scale", [2.0, 8.0])
@pytest.mark.parametrize("size", [(97, 61), (64, 96)])
def test_anchors_have_known_strides_and_sizes_in_images_of_any_size(size, scale):
    strides = (4, 8, 16)
    features = maps(size, strides)
    place = detector(strides, anchor_scale=scale).rpn.anchor_generator
    first, second = place(ImageList(torch.empty(2, 0, *size), [size] * 2), list(features.maps))
    cells = [m.shape[-2] * m.shape[-1] for m in features.maps]
    assert len(first) == 3 * sum(cells)
    assert torch.equal(first, second)
    start = 0
    for stride, m, n in zip(strides, features.maps, cells, strict=True):
        level = first[start : start + 3 * n].reshape(*m.shape[-2:], 3, 4)
        start += 3 * n
        width, height = level[..., 2] - level[..., 0], level[..., 3] - level[..., 1]
        assert torch.allclose(height[0, 0] / width[0, 0], torch.tensor([0.5, 1.0, 2.0]), rtol=0.2)  # whole pixels
        assert torch.allclose((width * height).sqrt(), torch.tensor(scale * stride), rtol=0.1)
        assert width[0, 0, 1] == height[0, 0, 1] == scale * stride
        centre = (level[..., :2] + level[..., 2:]) / 2
        rows, columns = (torch.arange(side) * float(stride) for side in m.shape[-2:])
        assert torch.equal(centre[:, :, 1, 0], columns.expand(len(rows), -1))
        assert torch.equal(centre[:, :, 1, 1], rows[:, None].expand(-1, len(columns)))


def test_anchors_of_half_precision_maps_are_whole_pixels():
    size = (1024, 8)  # half precision has steps of 4 and more pixels from 512 on
    place = detector().rpn.anchor_generator
    of_image = ImageList(torch.empty(1, 0, *size), [size])
    (full,), (half,) = (place(of_image, [m.to(d) for m in maps(size).maps]) for d in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert torch.equal(full, half)


# Regions


def test_a_region_goes_to_the_level_whose_anchors_have_its_size_or_less():
    strides = (4, 8, 16, 32, 64)
    align = detector(strides, anchor_scale=8.0).heads.box_roi_pool
    size = (992, 992)
    constant = {str(i): torch.full((1, 1, 992 // s, 992 // s), float(s)) for i, s in enumerate(strides)}
    sides = {50: 4, 111: 4, 112: 8, 223: 8, 224: 16, 447: 16, 448: 32, 900: 32}
    boxes = torch.tensor([[10.0, 20.0, 10.0 + side, 20.0 + side] for side in sides])
    assert align(constant, [boxes], [size])[:, 0, 3, 3].tolist() == list(sides.values())
    small = detector(strides, anchor_scale=4.0).heads.box_roi_pool  # anchors of half the size
    halves = torch.tensor([[10.0, 20.0, 10.0 + side / 2, 20.0 + side / 2] for side in (222, 224, 448)])
    assert small(constant, [halves], [size])[:, 0, 3, 3].tolist() == [8, 16, 32]


@pytest.mark.parametrize(("part", "cells"), [("box_roi_pool", 7), ("mask_roi_pool", 14)])
def test_regions_are_cut_at_the_known_stride_in_images_of_odd_size(part, cells):
    size = (97, 61)
    features = maps(size)
    align = getattr(detector(anchor_scale=8.0).heads, part)
    box = torch.tensor([[9.0, 30.0, 41.0, 90.0]])  # of the first level: the side of a square of its area is below 112
    found = align({str(i): m for i, m in enumerate(features.maps)}, [box], [size])
    torch.testing.assert_close(found, roi_align(features.maps[0], [box], cells, 1 / 4, sampling_ratio=2))


@pytest.mark.parametrize("autocast", [True, False])
def test_boxes_are_in_full_precision_beside_half_precision_maps(autocast):
    network = detector()
    features = maps((1024, 32), n=2).to(torch.bfloat16)
    if not autocast:
        network.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = network.losses(features, [objects((4, 900, 20, 917), size=(1024, 32))] * 2)
        found = network(features)
    assert all(loss.isfinite() for loss in losses.values())
    boxes = torch.cat([one["boxes"] for one in found])
    far = boxes[boxes > 512]
    assert boxes.dtype == torch.float32
    assert len(far)
    assert (far % 4 != 0).float().mean() > 0.5


# Losses and crowds


def test_a_detector_finds_what_it_was_shown():
    torch.manual_seed(0)
    size = (64, 64)
    network = detector(n_regions=16, score_threshold=0.5)
    features, truth = maps(size), objects((8, 12, 24, 28), (36, 30, 60, 58), size=size)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    weights = {"rpn_classification": 2.0, "rpn_box": 0.1, "classification": 2.0, "box": 0.5, "mask": 1.0}
    for step in range(120):
        torch.manual_seed(step)
        losses = network.losses(features, [truth])
        assert set(losses) == LOSSES
        optimizer.zero_grad()
        torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
        optimizer.step()
    frame = Frame(size, size, Box(0, 0, *size))
    found = restored(network(features)[0], frame)
    assert found.scores is not None
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert len(found.boxes) >= 2
    for box, mask in zip(truth.boxes, truth.masks, strict=True):
        nearest = (found.boxes - box).abs().amax(1).argmin()
        assert (found.boxes[nearest] - box).abs().max() < 2
        both, either = (found.masks[nearest] & mask).sum(), (found.masks[nearest] | mask).sum()
        assert both / either > 0.85


def gradients(network, features, targets):
    for m in features.maps:
        m.requires_grad_(True).grad = None
    torch.manual_seed(1)
    losses = network.losses(features, targets)
    torch.stack(list(losses.values())).sum().backward()
    return [m.grad.abs().sum((0, 1)) for m in features.maps], losses


@pytest.mark.parametrize("size", [(64, 128), (128, 1024)])
def test_no_loss_looks_inside_a_crowd(size):
    network = detector(n_regions=1000)  # all there are, however few of them are in the crowd
    height, width = size
    crowd = (width // 2, 0, width, height)  # in the large image, 8 x 8 anchors are a thousandth of it
    features = maps(size)
    without = objects((8, 8, 24, 24), size=size)
    beside = objects((8, 8, 24, 24), crowd, size=size, crowd=(1,))
    network.rpn.fg_bg_sampler.batch_size_per_image = 10**6
    open_field, _ = gradients(network, features, [without])
    fenced, _ = gradients(network, features, [beside])
    for stride, seen, hidden in zip((4, 8, 16), open_field, fenced, strict=True):
        inside = width // 2 // stride + 2
        assert seen[:, inside:].sum() > 0
        assert hidden[:, inside:].sum() == 0
        assert hidden[:, : inside - 2].sum() > 0


def test_an_object_inside_a_crowd_is_still_learnt():
    size = (64, 64)
    network, features = detector(n_regions=1000), maps(size)
    boxes = ((20, 20, 40, 40), (0, 0, 64, 64))
    hidden, losses = gradients(network, features, [objects(*boxes, size=size, crowd=(1,))])
    assert all(loss > 0 for loss in losses.values())
    assert all(m.sum() > 0 for m in hidden[:2])


def test_regions_in_a_crowd_are_sampled_where_they_match_an_object():
    class Proposals(torch.nn.Module):
        def forward(self, images, features, targets):
            boxes = [[20.0, 20.0, 40.0, 42.0], [40.0, 40.0, 60.0, 60.0], [0.0, 0.0, 5.0, 9.0], [0.0, 0.0, 15.0, 15.0]]
            zero = {name: torch.zeros(()) for name in ("loss_objectness", "loss_rpn_box_reg")}
            return [torch.tensor(boxes)], zero

    size, seen = (64, 64), []
    network = detector()
    network.rpn = Proposals()
    network.heads.box_roi_pool.register_forward_hook(lambda module, given, out: seen.append(given[1][0]))
    network.losses(maps(size), [objects((20, 20, 40, 40), (10, 10, 64, 64), size=size, crowd=(1,))])
    # one that fits the object and one beside the crowd, in which two others lie or stick; and the object itself
    assert seen[0].tolist() == [[20.0, 20.0, 40.0, 42.0], [0.0, 0.0, 5.0, 9.0], [20.0, 20.0, 40.0, 40.0]]


def test_an_object_too_small_for_the_anchors_does_not_make_its_crowd_a_background():
    size = (64, 64)
    network, features = detector(), maps(size)
    places = network.rpn.anchor_generator(ImageList(torch.empty(1, 0, *size), [size]), list(features.maps))
    target = {"boxes": torch.tensor([[30.0, 30.0, 32.0, 32.0]]), "crowd": torch.tensor([[-99.0, -99.0, 199.0, 199.0]])}
    labels, _ = network.rpn.assign_targets_to_anchors(places, [target])
    assert set(labels[0].tolist()) == {1.0, -1.0}


def test_offsets_of_proposals_are_tenths_and_fifths_of_an_anchor():
    offsets = torch.tensor([[1.0, -2.0, 0.0, 5 * math.log(2)]])  # right by 0.1 widths, up by 0.2 heights, twice as high
    (boxes,) = detector().rpn.box_coder.decode(offsets, [torch.tensor([[10.0, 20.0, 30.0, 30.0]])])
    torch.testing.assert_close(boxes, torch.tensor([[12.0, 13.0, 32.0, 33.0]]))


def test_the_box_loss_of_proposals_is_the_mean_over_positive_anchors():
    rpn = detector().rpn
    rpn.fg_bg_sampler.batch_size_per_image = 4  # two of the three positives of the first image are sampled
    labels = [torch.tensor([1.0, 0, 1, 0, -1, 0, 1, 0]), torch.tensor([0.0, 0, -1, 0, 0, 1, 0, 0])]
    targets = [torch.zeros(8, 4), torch.zeros(8, 4)]
    offsets = torch.tensor([[0.5, -1.0, 2.0, 0.1], [3.0, 0.0, 0.0, 0.0]]).repeat_interleave(8, 0)
    _, loss = rpn.compute_loss(torch.zeros(16, 1), offsets, labels, targets)
    turn = 1 / 18  # what smooth L1 lacks where it is linear; below 1/9 it is 4.5 times the square
    first, second = (0.5 - turn) + (1 - turn) + (2 - turn) + 4.5 * 0.1**2, 3 - turn
    assert loss.item() == pytest.approx((2 * first + second) / (4 * 3))
    nothing = [torch.zeros(8), torch.tensor([0.0, -1] * 4)]
    offsets.requires_grad_()
    _, loss = rpn.compute_loss(torch.zeros(16, 1), offsets, nothing, targets)
    loss.backward()
    assert loss == 0
    assert (offsets.grad == 0).all()


def test_an_anchor_a_tenth_beside_its_object_costs_a_quarter():
    """Of the original's loss, which is small beside that of classes, but not nothing."""
    network = detector()
    torch.nn.init.zeros_(network.rpn.head.bbox_pred.weight)
    torch.nn.init.zeros_(network.rpn.head.bbox_pred.bias)
    truth = objects((17, 16, 25, 24), size=(64, 64))
    truth.boxes[:, [0, 2]] -= 0.2  # 0.8 pixels beside the anchor (16, 16, 24, 24), and far from all others
    assert network.losses(maps((64, 64)), [truth])["rpn_box"].item() == pytest.approx((1 - 1 / 18) / 4, rel=1e-4)


def test_the_parts_of_torchvision_keep_the_mode_that_they_were_in():
    network, features, truth = detector(), maps((64, 64)), objects((8, 8, 24, 24), size=(64, 64))

    def modes():
        return {name: module.training for name, module in network.named_modules()}

    for training in (False, True):
        before = modes() if network.train(training) else None
        network.losses(features, [truth])
        assert modes() == before
        network(features)
        assert modes() == before
        broken = Features(tuple(m[:, :1] for m in features.maps), features.image_size)
        with pytest.raises(RuntimeError):
            network.losses(broken, [truth])
        with pytest.raises(RuntimeError):
            network(broken)
        assert modes() == before


@pytest.mark.parametrize("head_norm", ["none", "mask", "both"])
def test_images_without_objects_have_finite_losses_and_gradients(head_norm):
    size = (64, 64)
    nothing, crowd = objects(size=size), objects((0, 0, 64, 64), size=size, crowd=(0,))
    one_more = objects((0, 0, 64, 64), (8, 8, 30, 30), size=size, crowd=(0,))
    for targets in ([nothing], [crowd], [crowd, nothing], [crowd, one_more]):
        network = detector(head_norm=head_norm).train()
        found, losses = gradients(network, maps(size, n=len(targets)), targets)
        assert set(losses) == LOSSES
        assert all(loss.isfinite() for loss in losses.values())
        assert all(m.isfinite().all() for m in found)
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
        assert all(b.isfinite().all() for b in network.buffers())


def test_losses_count_only_the_objects_that_are_no_crowd():
    size = (64, 64)
    network, features = detector(n_classes=3), maps(size)
    labelled = objects((8, 8, 24, 24), size=size, label=3)
    _, first = gradients(network, features, [labelled])
    # the same without the field of crowds
    plain = Instances(labelled.boxes, labelled.masks, labelled.labels)
    _, second = gradients(network, features, [plain])
    assert {k: float(v.detach()) for k, v in first.items()} == {k: float(v.detach()) for k, v in second.items()}


def test_no_proposals_are_no_detections():
    network = detector(score_threshold=0.999)
    (found,) = network(maps((32, 32)))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (0, 4), "labels": (0,), "scores": (0,), "masks": (0, 1, 28, 28),
    }  # fmt: skip
    out = restored(found, Frame((50, 40), (32, 32), Box(0, 0, 32, 26)))
    assert out.masks.shape == (0, 50, 40)
    assert out.boxes.shape == (0, 4)


# From the canvas to the image


def one(*boxes, scores=None, patch=1.0):
    n = len(boxes)
    return {
        "boxes": torch.tensor(boxes),
        "labels": torch.arange(1, n + 1),
        "scores": torch.tensor(scores or [0.9 - 0.1 * i for i in range(n)]),
        "masks": torch.full((n, 1, 28, 28), patch),
    }


def test_detections_come_back_to_the_pixels_of_the_image():
    frame = Frame((100, 200), (64, 64), Box(0, 0, 32, 64))  # 3.125 pixels of the image to one of the canvas
    found = restored(one([8.0, 4.0, 24.0, 20.0]), frame)
    assert found.boxes.tolist() == [[25.0, 12.5, 75.0, 62.5]]
    assert found.masks.shape == (1, 100, 200)
    assert found.masks.dtype == torch.uint8
    expected = torch.zeros(100, 200, dtype=torch.uint8)
    expected[12:62, 25:75] = 1  # the centre of row 12 lies on the upper edge, that of row 62 on the lower one
    assert torch.equal(found.masks[0], expected)


def test_detections_are_cut_at_the_image_and_those_beside_it_are_dropped():
    frame = Frame((100, 200), (64, 64), Box(0, 0, 32, 64))
    found = restored(one([4.0, 40.0, 20.0, 60.0], [8.0, 16.0, 24.0, 48.0], [0.0, 31.9, 60.0, 64.0]), frame)
    assert found.boxes.tolist() == [[25.0, 50.0, 75.0, 100.0]]
    assert found.labels.tolist() == [2]
    assert found.scores is not None
    assert found.scores.tolist() == pytest.approx([0.8])
    assert found.masks.shape == (1, 100, 200)


def test_a_mask_that_is_cut_at_the_image_is_not_squeezed_into_what_is_left():
    detection = one([8.0, 16.0, 24.0, 48.0])
    detection["masks"][:, :, 14:] = 0.0  # the upper half of the box, which is the half inside the image
    found = restored(detection, Frame((100, 200), (64, 64), Box(0, 0, 32, 64)))
    assert found.boxes.tolist() == [[25.0, 50.0, 75.0, 100.0]]
    assert found.masks[0, 50:, 25:75].all()
    assert found.masks.sum() == 50 * 50


def test_an_image_in_the_middle_of_the_canvas():
    frame = Frame((40, 80), (60, 60), Box(10, 20, 20, 40))
    found = restored(one([30.0, 15.0, 40.0, 25.0]), frame)
    assert found.boxes.tolist() == [[20.0, 10.0, 40.0, 30.0]]


def test_detections_at_or_below_a_threshold_are_not_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr("fewseg.modules.detection.pasted", lambda *given: drawn.append(len(given[0])) or pasted(*given))
    boxes = [[8.0, 4.0, 24.0, 20.0]] * 3
    whole = Frame((64, 64), (64, 64), Box(0, 0, 64, 64))
    for threshold, n in {0.0: 2, 0.25: 2, 0.5: 1, 0.75: 0}.items():
        found = restored(one(*boxes, scores=[0.75, 0.5, 0.0]), whole, threshold)
        assert len(found.boxes) == len(found.masks) == len(found.labels) == len(found.scores) == n
        assert (found.scores > threshold).all()
    assert drawn == [2, 2, 1, 0]


# Masks


def disc(radius, row, column, size):
    rows, columns = (torch.arange(side) + 0.5 for side in size)
    return (rows[:, None] - row) ** 2 + (columns - column) ** 2 <= radius**2


@pytest.mark.parametrize("radius", [5, 10, 20])
def test_a_mask_that_was_learnt_perfectly_comes_back(radius):
    """What the mask head is trained on, pasted into the box it was cut from."""
    size, seen = (96, 96), []
    network = detector()
    network.heads.register_forward_pre_hook(lambda module, given: seen.append(given[3][0]))
    for row, column in ((40.0, 48.0), (47.3, 41.6), (50.5, 50.5)):
        truth = disc(radius, row, column, size)
        rows, columns = truth.nonzero().unbind(1)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        instances = objects(box, size=size)
        instances.masks[0] = truth
        network.losses(maps(size), [instances])
        patch = project_masks_on_boxes(seen[-1]["masks"], instances.boxes, torch.zeros(1, dtype=torch.int64), 28)
        for values in (patch, (patch > 0.5).float()):
            mask = pasted(values, instances.boxes, size)[0].bool()
            assert (mask & truth).sum() / (mask | truth).sum() > 0.97


def test_a_patch_is_bilinear_between_its_cells():
    patch = torch.zeros(1, 28, 28)
    patch[:, :, 14:] = 1.0
    box = torch.tensor([[3.25, 2.0, 19.25, 5.0]])  # the right half begins at 11.25
    expected = torch.zeros(8, 24, dtype=torch.uint8)
    expected[2:5, 11:19] = 1
    assert torch.equal(pasted(patch, box, (8, 24))[0], expected)
    low = torch.zeros(1, 28, 28)
    low[:, 14:] = 0.8  # crosses 0.5 at 5/8 between cells 13 and 14, whose centres are 27 and 29 in a box of 56
    rows = pasted(low, torch.tensor([[0.0, 0.0, 4.0, 56.0]]), (56, 4))[0, :, 1]
    assert rows.nonzero()[0].item() == 28  # 28.5 is the first centre beyond 28.25
    lower = pasted(low, torch.tensor([[0.0, 0.3, 4.0, 56.3]]), (56, 4))[0, :, 1]
    assert lower.nonzero()[0].item() == 29


def test_a_box_may_reach_beyond_the_image_or_miss_it_or_all_centres():
    boxes = [[-9.0, -9.0, 20.0, 20.0], [-9.0, 1.0, 2.0, 20.0], [30.0, 0.0, 40.0, 9.0], [-9.0, 0.0, -1.0, 9.0],
             [1.6, 1.6, 2.4, 2.4], [4.0, 3.0, 6.0, 5.0]]  # fmt: skip
    masks = pasted(torch.ones(6, 28, 28), torch.tensor(boxes), (5, 6))
    assert masks.dtype == torch.uint8
    expected = torch.zeros(6, 5, 6, dtype=torch.uint8)
    expected[0] = 1
    expected[1, 1:, :2] = 1
    expected[5, 3:, 4:] = 1
    assert torch.equal(masks, expected)
    assert pasted(torch.ones(0, 28, 28), torch.ones(0, 4), (5, 6)).shape == (0, 5, 6)


class Largest(TorchDispatchMode):
    """The most elements that any tensor of floats has."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            self.n = max(self.n, out.numel())
        return out


def test_only_one_box_at_a_time_is_a_float():
    patches, boxes = torch.rand(30, 28, 28), torch.tensor([[10.0, 20.0, 260.0, 220.0]]).repeat(30, 1)
    with Largest() as largest:
        masks = pasted(patches, boxes, (300, 400))
    assert largest.n == 200 * 250
    assert masks.any(0).any()


def test_half_precision_detections_are_pasted():
    half = {k: v if k == "labels" else v.to(torch.bfloat16) for k, v in one([8.0, 4.0, 24.0, 20.0]).items()}
    found = restored(half, Frame((100, 200), (64, 64), Box(0, 0, 32, 64)))
    assert found.boxes.tolist() == [[25.0, 12.5, 75.0, 62.5]]
    assert found.boxes.dtype == torch.float32
    assert found.scores is not None
    assert found.scores.dtype == torch.float32


def test_the_union_of_detections_is_the_best_score_of_the_masks_on_a_pixel():
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], dtype=torch.uint8)
    found = Instances(torch.zeros(2, 4), masks, torch.ones(2), torch.tensor([0.4, 0.7]))
    logits = union_logits(found, (1, 4))
    assert logits.shape == (2, 1, 4)
    torch.testing.assert_close(logits.softmax(0)[1], torch.tensor([[0.4, 0.7, 0.7, 1e-4]]))


def test_the_union_of_nothing_is_background():
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, 3, 5, dtype=torch.uint8), torch.zeros(0), torch.zeros(0))
    logits = union_logits(nothing, (3, 5))
    assert logits.shape == (2, 3, 5)
    assert (logits[0] > logits[1]).all()
    certain = Instances(torch.zeros(1, 4), torch.ones(1, 1, 1, dtype=torch.uint8), torch.ones(1), torch.ones(1))
    assert union_logits(certain, (1, 1)).isfinite().all()


# Proportions


def test_the_proportions_at_width_256_are_those_of_the_paper():
    network = Detector(384, (4, 8, 16, 32, 64), 1, Detection())
    assert network.rpn.head.conv[0].weight.shape == (512, 384, 3, 3)
    assert network.rpn.head.cls_logits.weight.shape == (3, 512, 1, 1)
    assert network.rpn.head.bbox_pred.weight.shape == (12, 512, 1, 1)
    assert network.heads.box_head.fc6.weight.shape == (1024, 384 * 49)
    assert network.heads.box_head.fc7.weight.shape == (1024, 1024)
    assert network.heads.box_predictor.cls_score.weight.shape == (2, 1024)
    convolutions = [m for m in network.heads.mask_head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.weight.shape for m in convolutions] == [(256, 384, 3, 3)] + [(256, 256, 3, 3)] * 3
    assert network.heads.mask_predictor(torch.zeros(1, 256, 14, 14)).shape == (1, 2, 28, 28)
    sides = [float(a[1, 2] - a[1, 0]) for a in network.rpn.anchor_generator.cell_anchors]
    assert sides == [32, 64, 128, 256, 512]
    assert network.heads.box_roi_pool.featmap_names == ["0", "1", "2", "3"]  # the last level only proposes
    assert network.rpn._pre_nms_top_n == {"training": 6000, "testing": 6000}
    assert network.rpn._post_nms_top_n == {"training": 2000, "testing": 1000}


BAD = [
    ("width", 0, "at least 1"),
    ("anchor_scale", 0.0, "a positive number"),
    ("anchor_scale", -1.0, "a positive number"),
    ("anchor_scale", math.nan, "a positive number"),
    ("n_proposals", 0, "at least 1"),
    ("n_regions", 0, "at least 1"),
    ("score_threshold", -0.1, "0 or more and less than 1"),
    ("score_threshold", 1.0, "0 or more and less than 1"),
    ("nms", 0.0, "more than 0 and at most 1"),
    ("nms", 1.1, "more than 0 and at most 1"),
    ("n_detections", 0, "at least 1"),
    ("head_norm", "batch", "one of none, mask, both"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_values_out_of_range_are_refused(name, value, expected):
    with pytest.raises(
        FewsegError, match=rf"^{name}: got {value}, expected {expected}; (.* is the default|the paper's is)"
    ):
        Detection(**{name: value})


def test_values_at_the_end_of_their_range_are_taken():
    ends = Detection(1, 0.5, n_proposals=1, n_regions=1, score_threshold=0.0, nms=1.0, n_detections=1)
    network, size = Detector(3, (4, 8), 1, ends), (32, 32)
    losses = network.losses(maps(size, (4, 8), 3), [objects((4, 4, 20, 20), size=size)])
    assert all(loss.isfinite() for loss in losses.values())
    assert len(network(maps(size, (4, 8), 3))[0]["boxes"]) <= 1
    with pytest.raises(FewsegError, match=r"anchor_scale: got 0\.4, expected at least 0\.5, for anchors of 2 pixels; "):
        detector(anchor_scale=0.4)
    assert Detection(n_detections=300).n_detections == 300  # for people's own images


def test_batch_normalisation_may_be_in_the_mask_head_only():
    heads = detector(head_norm="mask").heads

    def count(part):
        return sum(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in part.modules())

    assert count(heads.mask_head) == 4
    assert count(heads.box_head) == 0
    assert count(heads) == 4
    assert heads.box_head.fc6.bias is not None
    assert count(detector(head_norm="none")) == 0


def test_heads_with_batch_normalisation_learn_it_in_training_and_keep_it_in_evaluation():
    size = (64, 64)
    network, features = detector(head_norm="both"), maps(size)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 2 + 4
    truth = objects((8, 8, 40, 40), size=size)
    network.eval()
    before = [m.running_mean.clone() for m in norms]
    network.losses(features, [truth])
    network(features)
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    network.train().losses(features, [truth])
    assert not any(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
