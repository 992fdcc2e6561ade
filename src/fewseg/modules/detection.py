"""The parts of Mask R-CNN (He et al., 2017) on the taps of any encoder, put together from torchvision's own.

A pyramid (Lin et al., 2017) turns taps into maps of one width; a detector proposes regions on these maps, classifies
and refines them, and draws a mask into each. What torchvision has is used as it is: this file knows strides that
torchvision guesses, crowds, and instances as this project passes them around.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from fewseg.episode import Features, Frame, Instances
from fewseg.errors import FewsegError
from fewseg.modules.encoders import ImageEncoder

HeadNorm = Literal["none", "batch"]
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
        n_detections: kept in an image.
        head_norm: batch normalisation in the box and mask heads, or none.
    """

    width: int = 256
    anchor_scale: float = 8.0
    n_proposals: int = 1000
    n_regions: int = 200
    score_threshold: float = 0.05
    nms: float = 0.5
    n_detections: int = 100
    head_norm: HeadNorm = "none"


class Detector(nn.Module):
    """Region proposals, their classes and boxes, and a mask in each.

    Args:
        in_channels: of every level.
        strides: of the levels, finest first; the last one only proposes.
        n_classes: without the background.
        options: see ``Detection``.
    """

    def __init__(self, in_channels: int, strides: Sequence[int], n_classes: int, options: Detection) -> None:
        super().__init__()
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
            pre_nms_top_n={mode: max(6 * n, 6) for mode in counts}, post_nms_top_n=counts, nms_thresh=0.7,
        )  # fmt: skip
        names = [str(level) for level in range(len(strides) - 1)]
        batch_norm = options.head_norm == "batch"
        norm = nn.BatchNorm2d if batch_norm else None
        hidden = 4 * options.width
        box_head: nn.Module = TwoMLPHead(in_channels * PATCH**2, hidden)
        if batch_norm:
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
        """The five losses of Mask R-CNN, without weights.

        Args:
            features: one map (B, C, h, w) per level.
            targets: of each image, with labels from 1; crowds are neither right nor wrong.
        """
        found = [_target(instances) for instances in targets]
        maps, images = self._inputs(features)
        self.rpn.training = self.heads.training = True  # what torchvision chooses between losses and answers by
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
        self.rpn.training = self.heads.training = False
        proposals, _ = self.rpn(images, maps)
        found, _ = self.heads(maps, proposals, images.image_sizes)
        return cast(list[dict[str, Tensor]], found)

    def _inputs(self, features: Features) -> tuple[dict[str, Tensor], ImageList]:
        maps = {str(level): m for level, m in enumerate(features.maps)}
        n = len(features.maps[0])
        blank = features.maps[0].new_empty(n, 0, *features.image_size)
        return maps, ImageList(blank, [features.image_size] * n)


def instances_of(found: dict[str, Tensor], frame: Frame) -> Instances:
    """The detections of one image as instances in the pixels of the original image, highest score first.

    Args:
        found: what a ``Detector`` returns for the image, on the network's canvas.
        frame: how the image lies in the canvas; boxes are cut at its edge, and what lies beside it is dropped.

    Returns:
        boxes and scores, int64 labels, uint8 masks (n, H, W) of the original size.
    """
    height, width = frame.original
    boxes, scores, patches = (_full(found[name]) for name in ("boxes", "scores", "masks"))
    scale = boxes.new_tensor([width / frame.box.width, height / frame.box.height]).repeat(2)
    corner = boxes.new_tensor([frame.box.left, frame.box.top]).repeat(2)
    whole = (boxes - corner) * scale
    boxes = clip_boxes_to_image(whole, (height, width))
    kept = ((boxes[:, 2:] - boxes[:, :2]) > 0.5).all(1).nonzero()[:, 0]
    masks = paste_masks_in_image(patches[kept], whole[kept], (height, width))[:, 0]  # a patch fills the box uncut
    return Instances(boxes[kept], (masks > 0.5).to(torch.uint8), found["labels"][kept], scores[kept])


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
    """Anchors that touch a crowd are no negatives."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for own, places, target in zip(labels, anchors, targets, strict=True):
            own[(own == 0) & ~_outside(places, target)] = -1.0
        return labels, boxes


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


def _target(instances: Instances) -> dict[str, Tensor]:
    """What torchvision trains on, and the boxes of crowds apart."""
    crowd = torch.zeros_like(instances.labels, dtype=torch.bool) if instances.crowd is None else instances.crowd.bool()
    return {
        "boxes": instances.boxes[~crowd].float(),
        "labels": instances.labels[~crowd].long(),
        "masks": instances.masks[~crowd].to(torch.uint8),
        "crowd": instances.boxes[crowd].float(),
    }


def _outside(regions: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Which regions a loss may call negative or positive: those that match an object or touch no crowd, (n,) bool.

    Where none is left and there is no object, all may be: an image that is one crowd still has a loss.
    """
    matches = (box_iou(regions, target["boxes"]) >= 0.5).any(1)
    kept: Tensor = matches | (box_iou(regions, target["crowd"]) == 0).all(1)
    return kept if kept.any() or len(target["boxes"]) else torch.ones_like(kept)
