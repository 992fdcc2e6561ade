"""The parts of Mask R-CNN (He et al., 2017) on the taps of any encoder, put together from torchvision's own.

A pyramid (Lin et al., 2017) turns taps into maps of one width; a detector proposes regions on these maps, classifies
and refines them, and draws a mask into each. What torchvision has is used as it is, but for these: strides are known,
where torchvision guesses them; crowds; the box loss of region proposals is a mean over positive anchors; masks keep
their half pixels between image and patch; and instances as this project passes them around.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from fewseg.episode import Features, Frame, Instances
from fewseg.errors import FewsegError
from fewseg.modules.encoders import ImageEncoder

HeadNorm = Literal["none", "mask", "both"]
PATCH = 7  # cells of a region in the box head; twice as many in the mask head
ASPECT_RATIOS = (0.5, 1.0, 2.0)


class Pyramid(nn.Module):
    """Taps of an encoder as maps of one width, finest first, and one more level of twice the last stride.

    The extra level takes every second cell of the last one.

    Args:
        encoder: with at least two taps, each of twice the stride before.
        width: channels of every map.
        rectify: ReLU after the lateral and the output convolutions, as in the code of Siamese Mask R-CNN.

    Raises:
        FewsegError: the encoder's taps make no pyramid.

    >>> from fewseg.modules.encoders import Encoder
    >>> encoder = Encoder("tiny")
    >>> [tuple(m.shape) for m in Pyramid(encoder, 16)(encoder(torch.rand(1, 3, 33, 20))).maps]
    [(1, 16, 9, 5), (1, 16, 5, 3), (1, 16, 3, 2)]
    """

    def __init__(self, encoder: ImageEncoder, width: int, rectify: bool = False) -> None:
        super().__init__()
        strides = tuple(encoder.strides)
        if len(strides) < 2 or any(2 * fine != coarse for fine, coarse in itertools.pairwise(strides)):
            wanted = "two or more, each twice the one before, such as 4, 8, 16, 32"
            raise FewsegError("encoder", f"taps of strides {strides}", wanted, "choose a convolutional encoder or taps")
        self.strides = (*strides, 2 * strides[-1])
        self.fpn = FeaturePyramidNetwork(list(encoder.out_channels), width, LastLevelMaxPool())
        if rectify:
            for block in (*self.fpn.inner_blocks, *self.fpn.layer_blocks):
                cast(nn.Sequential, block).append(nn.ReLU())

    def forward(self, features: Features) -> Features:
        """Maps (B, width, h, w), or (B, K, width, h, w), of every level."""
        leading = features.maps[0].shape[:-3]
        dtype = cast(Tensor, self.fpn.layer_blocks[0][0].weight).dtype
        taps = {str(i): m.flatten(0, -4).to(dtype) for i, m in enumerate(features.maps)}
        maps = self.fpn(OrderedDict(taps)).values()
        return Features(tuple(m.reshape(*leading, *m.shape[1:]) for m in maps), features.image_size)


@dataclasses.dataclass(frozen=True)
class Detection:
    """What a detector is built with; proportions to ``width`` are those of the paper at 256.

    Args:
        width: of the pyramid: the region proposal network has twice, the box head four times, the mask head as many.
        anchor_scale: side of a level's anchors in strides.
        n_proposals: regions that are classified in a test; training has twice as many to sample from.
        n_regions: regions sampled for the loss of an image, a third of them positive.
        score_threshold: of detections.
        nms: IoU from which the weaker of two detections of a class goes.
        n_detections: kept in an image; a test looks at the best 100 of an image and class, as COCO's evaluator does.
        head_norm: batch normalisation in the ``mask`` head, in ``both`` heads, or ``none``.

    Raises:
        FewsegError: a value out of range.

    >>> Detection(nms=1.5)
    Traceback (most recent call last):
    fewseg.errors.FewsegError: nms: got 1.5, expected more than 0 and at most 1; 0.5 is the default
    """

    width: int = 256
    anchor_scale: float = 8.0
    n_proposals: int = 1000
    n_regions: int = 200
    score_threshold: float = 0.05
    nms: float = 0.5
    n_detections: int = 100
    head_norm: HeadNorm = "none"

    def __post_init__(self) -> None:
        norms = get_args(HeadNorm)
        checks = (
            ("width", self.width >= 1, "at least 1", "the paper's is 256"),
            ("anchor_scale", 0 < self.anchor_scale < math.inf, "a positive number", "8 is the default"),
            ("n_proposals", self.n_proposals >= 1, "at least 1", "the paper's is 1000"),
            ("n_regions", self.n_regions >= 1, "at least 1", "the paper's is 200"),
            ("score_threshold", 0 <= self.score_threshold < 1, "0 or more and less than 1", "0.05 is the default"),
            ("nms", 0 < self.nms <= 1, "more than 0 and at most 1", "0.5 is the default"),
            ("n_detections", self.n_detections >= 1, "at least 1", "100 is the default"),
            ("head_norm", self.head_norm in norms, f"one of {', '.join(norms)}", "none is the default"),
        )
        for name, valid, expected, remedy in checks:
            if not valid:
                raise FewsegError(name, getattr(self, name), expected, remedy)


class Detector(nn.Module):
    """Region proposals, their classes and boxes, and a mask in each.

    Args:
        in_channels: of every level.
        strides: of the levels, finest first; the last one only proposes.
        n_classes: without the background.
        options: see ``Detection``.

    Raises:
        FewsegError: the smallest anchors have less than 2 pixels.
    """

    def __init__(self, in_channels: int, strides: Sequence[int], n_classes: int, options: Detection) -> None:
        super().__init__()
        if options.anchor_scale * strides[0] < 2:  # the sides of anchors are whole pixels, and 0 has no logarithm
            expected = f"at least {2 / strides[0]}, for anchors of 2 pixels"
            raise FewsegError("anchor_scale", options.anchor_scale, expected, "8 is the default")
        anchors = _Anchors(strides, options.anchor_scale)
        head = _ProposalHead(2 * options.width, len(ASPECT_RATIOS))
        convolution = nn.Conv2d(in_channels, 2 * options.width, 3, padding=1)
        nn.init.normal_(convolution.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, convolution.bias))
        head.conv = nn.Sequential(convolution, nn.ReLU(inplace=True))  # torchvision's keeps its input's width
        n = options.n_proposals
        counts = {"training": 2 * n, "testing": n}
        self.rpn = _Proposals(
            anchors, head, fg_iou_thresh=0.7, bg_iou_thresh=0.3, batch_size_per_image=256, positive_fraction=0.5,
            pre_nms_top_n=dict.fromkeys(counts, 6 * n), post_nms_top_n=counts, nms_thresh=0.7,
        )  # fmt: skip
        names = [str(level) for level in range(len(strides) - 1)]
        norm = None if options.head_norm == "none" else nn.BatchNorm2d
        hidden = 4 * options.width
        box_head: nn.Module = TwoMLPHead(in_channels * PATCH**2, hidden)
        if options.head_norm == "both":
            box_head = _normalised_head(in_channels * PATCH**2, hidden)
        self.heads = RoIHeads(
            _region_align(names, PATCH, strides, options.anchor_scale),
            box_head,
            _Predictor(hidden, n_classes + 1),
            fg_iou_thresh=0.5, bg_iou_thresh=0.5, batch_size_per_image=options.n_regions, positive_fraction=0.33,
            bbox_reg_weights=None, score_thresh=options.score_threshold, nms_thresh=options.nms,
            detections_per_img=options.n_detections,
            mask_roi_pool=_region_align(names, 2 * PATCH, strides, options.anchor_scale),
            mask_head=MaskRCNNHeads(in_channels, (options.width,) * 4, 1, norm),
            mask_predictor=MaskRCNNPredictor(options.width, options.width, n_classes + 1),
        )  # fmt: skip

    def losses(self, features: Features, targets: Sequence[Instances]) -> dict[str, Tensor]:
        """The five losses of Mask R-CNN, without weights; boxes and masks have none in images without objects.

        Args:
            features: one map (B, C, h, w) per level.
            targets: of each image, with labels from 1; crowds are neither right nor wrong.
        """
        found = [_target(instances) for instances in targets]
        maps, images = self._inputs(features)
        with self._answering("losses"):
            proposals, of_proposals = self.rpn(images, maps, found)
            proposals = [regions[_outside(regions, target)] for regions, target in zip(proposals, found, strict=True)]
            _, of_regions = self.heads(maps, proposals, images.image_sizes, found)
        return {
            "rpn_classification": of_proposals["loss_objectness"],
            "rpn_box": of_proposals["loss_rpn_box_reg"],
            "classification": of_regions["loss_classifier"],
            "box": of_regions["loss_box_reg"],
            "mask": of_regions["loss_mask"],
        }

    def forward(self, features: Features) -> list[dict[str, Tensor]]:
        """Per image ``boxes`` (n, 4), ``labels`` and ``scores`` (n,), and ``masks`` (n, 1, 28, 28), one in each box."""
        maps, images = self._inputs(features)
        with self._answering("detections"):
            proposals, _ = self.rpn(images, maps)
            found, _ = self.heads(maps, proposals, images.image_sizes)
        return cast(list[dict[str, Tensor]], found)

    @contextmanager
    def _answering(self, what: Literal["losses", "detections"]) -> Iterator[None]:
        """What torchvision answers by: the flag of two modules, whose layers keep their own."""
        parts = (self.rpn, self.heads)
        before = [part.training for part in parts]
        try:
            for part in parts:
                part.training = what == "losses"
            yield
        finally:
            for part, flag in zip(parts, before, strict=True):
                part.training = flag

    def _inputs(self, features: Features) -> tuple[dict[str, Tensor], ImageList]:
        maps = {str(level): m for level, m in enumerate(features.maps)}
        n = len(features.maps[0])
        blank = features.maps[0].new_empty(n, 0, *features.image_size)
        return maps, ImageList(blank, [features.image_size] * n)


def restored(found: dict[str, Tensor], frame: Frame, threshold: float = 0.0) -> Instances:
    """The detections of one image as instances in the pixels of the original image, highest score first.

    Args:
        found: what a ``Detector`` returns for the image, on the network's canvas.
        frame: how the image lies in the canvas; boxes are cut at its edge, and what lies beside it is dropped.
        threshold: scores must be above it.

    Returns:
        boxes and scores, int64 labels, uint8 masks (n, H, W) of the original size.
    """
    height, width = frame.original
    boxes, scores, patches = (_full(found[name]) for name in ("boxes", "scores", "masks"))
    scale = boxes.new_tensor([width / frame.box.width, height / frame.box.height]).repeat(2)
    corner = boxes.new_tensor([frame.box.left, frame.box.top]).repeat(2)
    whole = Instances((boxes - corner) * scale, patches[:, 0], found["labels"], scores)
    cut = clip_boxes_to_image(whole.boxes, frame.original)
    kept = ((cut[:, 2:] - cut[:, :2]) > 0.5).all(1) & (scores > threshold)
    whole = whole.where(kept)
    return dataclasses.replace(whole, boxes=cut[kept], masks=pasted(whole.masks, whole.boxes, frame.original))


def pasted(patches: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of boxes as masks of the image: 1 where the patch of a box is above 0.5 at the centre of a pixel.

    Cells fill the box; between their centres values are bilinear, and beyond the outermost they stay. torchvision's own
    widens boxes to whole pixels and holds all masks as floats of the image's size; here one box at a time is a float.

    Args:
        patches: (n, m, m) in [0, 1].
        boxes: (n, 4) x0, y0, x1, y1 in pixels, x0 < x1 and y0 < y1, which may reach beyond the image.
        size: (H, W) of the image.

    Returns:
        uint8 masks (n, H, W).

    >>> pasted(torch.ones(1, 28, 28), torch.tensor([[0.6, 1.0, 3.0, 9.0]]), (3, 4))[0].tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    """
    masks = patches.new_zeros(len(patches), *size, dtype=torch.uint8)
    for mask, patch, (x0, y0, x1, y1) in zip(masks, patches, boxes.tolist(), strict=True):
        rows, above, down = _cells(y0, y1, size[0], patch)
        columns, before, right = _cells(x0, x1, size[1], patch)
        lines = torch.lerp(patch[above], patch[above + 1], down[:, None])
        mask[rows, columns] = torch.lerp(lines[:, before], lines[:, before + 1], right) > 0.5
    return masks


def _cells(start: float, end: float, length: int, patch: Tensor) -> tuple[slice, Tensor, Tensor]:
    """The pixels of an image's side whose centres lie in [start, end), and for each of them the cell of a patch (m, m)
    before it, (n,) int64, and the way from that to the next cell, (n,) in [0, 1].
    """
    first, last = (min(max(math.ceil(edge - 0.5), 0), length) for edge in (start, end))
    n_cells = len(patch)
    centres = torch.arange(first, last, device=patch.device, dtype=patch.dtype) + 0.5
    place = ((centres - start) * (n_cells / (end - start)) - 0.5).clamp(0, n_cells - 1)
    cell = place.floor().clamp(max=n_cells - 2)
    return slice(first, last), cell.long(), place - cell


def union_logits(instances: Instances, size: tuple[int, int]) -> Tensor:
    """Logits (2, H, W) of the score-weighted union: a pixel's probability is the best score of the masks on it."""
    assert instances.scores is not None
    masks = instances.masks.to(instances.scores.dtype) * instances.scores[:, None, None]
    best = torch.cat([masks.new_zeros(1, *size), masks]).amax(0)
    probability = best.clamp(1e-4, 1 - 1e-4)
    return torch.stack([torch.log1p(-probability), probability.log()])


class _Anchors(AnchorGenerator):
    """Anchors at strides that are known: torchvision guesses them from sizes, which odd images mislead."""

    def __init__(self, strides: Sequence[int], scale: float) -> None:
        super().__init__(tuple((scale * stride,) for stride in strides), (ASPECT_RATIOS,) * len(strides))
        self.strides = [[torch.tensor(stride)] * 2 for stride in strides]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors (n, 4) of every image."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.promote_types(feature_maps[0].dtype, torch.float32), device)
        strides = [[one.to(device) for one in pair] for pair in self.strides]
        grids = self.grid_anchors([[*m.shape[-2:]] for m in feature_maps], strides)
        return [torch.cat(grids)] * len(image_list.image_sizes)


class _ProposalHead(RPNHead):
    """Its answers, and so all boxes, are in full precision: half precision cannot tell pixel 1000 from 1003."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, offsets = super().forward(x)
        return [_full(one) for one in logits], [_full(one) for one in offsets]


class _Predictor(FastRCNNPredictor):
    """Classes and boxes in full precision, too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, offsets = super().forward(x)
        return _full(logits), _full(offsets)


class _RegionAlign(MultiScaleRoIAlign):
    """Takes maps of half precision beside boxes of full precision, with or without autocast."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        pooled: Tensor = super().forward({level: _full(m) for level, m in x.items()}, boxes, image_shapes)
        return pooled.to(next(iter(x.values())).dtype)


def _full(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _Proposals(RegionProposalNetwork):
    """Anchors that touch a crowd are no negatives, and boxes are learnt as in Matterport's Mask R-CNN.

    There offsets are in units of (0.1, 0.1, 0.2, 0.2) of an anchor, and the loss is the mean over the four offsets of
    the positive anchors. torchvision has units of 1 and divides the sum by all anchors that are sampled: a loss so
    small that its weight of 0.1 in Siamese Mask R-CNN would switch it off.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for own, places, target in zip(labels, anchors, targets, strict=True):
            own[(own == 0) & ~_outside(places, target)] = -1.0
        return labels, boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        classification, box = super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
        limit, fraction = self.fg_bg_sampler.batch_size_per_image, self.fg_bg_sampler.positive_fraction
        positive = torch.stack([(own >= 1).sum() for own in labels]).clamp(max=int(limit * fraction))
        negative = torch.minimum(torch.stack([(own == 0).sum() for own in labels]), limit - positive)
        return classification, box * (positive + negative).sum() / (4 * positive.sum()).clamp(min=1)


def _region_align(names: list[str], size: int, strides: Sequence[int], anchor_scale: float) -> MultiScaleRoIAlign:
    """RoIAlign over levels whose strides are known; a box goes to the level whose anchors have its size or less."""
    align = _RegionAlign(names, size, sampling_ratio=2)
    levels = [round(math.log2(stride)) for stride in strides[: len(names)]]
    align.scales = [1 / stride for stride in strides[: len(names)]]
    align.map_levels = LevelMapper(levels[0], levels[-1], canonical_scale=round(28 * anchor_scale), canonical_level=4)
    return align


def _normalised_head(in_features: int, width: int) -> nn.Sequential:
    """Two layers with batch normalisation, as in the code of Siamese Mask R-CNN."""
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in in (in_features, width):
        layers += [nn.Linear(n_in, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def _half_a_pixel_on(masks: Tensor) -> Tensor:
    """Masks (n, H + 1, W + 1) in [0, 1] of which RoIAlign cuts what lies in a box.

    To torchvision's RoIAlign a pixel is a point at its number; to a box, and to what is pasted, its centre is half a
    pixel further. Cut from masks as they are, patches would be learnt half a pixel up and left of their objects.
    """
    return F.avg_pool2d(F.pad(masks[:, None].float(), (1, 1, 1, 1)), 2, stride=1)[:, 0]


def _target(instances: Instances) -> dict[str, Tensor]:
    """What torchvision trains on, and the boxes of crowds apart."""
    crowd = torch.zeros_like(instances.labels, dtype=torch.bool) if instances.crowd is None else instances.crowd.bool()
    return {
        "boxes": instances.boxes[~crowd].float(),
        "labels": instances.labels[~crowd].long(),
        "masks": _half_a_pixel_on(instances.masks[~crowd]),
        "crowd": instances.boxes[crowd].float(),
    }


def _outside(regions: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Which regions a loss may call negative or positive: those that match an object or touch no crowd, (n,) bool.

    Where none is left and there is no object, all may be: an image that is one crowd still has a loss.
    """
    matches = (box_iou(regions, target["boxes"]) >= 0.5).any(1)
    kept: Tensor = matches | (box_iou(regions, target["crowd"]) == 0).all(1)
    return kept if kept.any() or len(target["boxes"]) else torch.ones_like(kept)
