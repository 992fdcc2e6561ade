"""Siamese Mask R-CNN: find and segment every instance of the category that a reference crop shows.

Source: Michaelis, Ustyuzhaninov, Bethge, Ecker, "One-Shot Instance Segmentation" (2018,
https://arxiv.org/abs/1811.11507) and the original code at https://github.com/bethgelab/siamese-mask-rcnn.

One backbone encodes reference and scene into feature pyramids. ``guide`` pools the reference's pyramid into one vector
T per level; ``detect`` matches every cell P of the scene with it, ``W [P, |P - T|]``, and Mask R-CNN's heads do the
rest with one class, "as the reference". The reference is encoded once and serves any number of scenes.

Deviations: torchvision's region proposals, sampling and losses, except that the box loss of proposals is a mean over
positive anchors as in the original; anchors at known strides; the mask head has one map per label, of which the match's
is used. ``pooling="annotated"`` averages over what is annotated, where the paper averages over the padding, too.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fewseg.episode import POSITIVE, EpisodeBatch, Features, Instances
from fewseg.functional.annotations import annotated, weights_of
from fewseg.functional.pooling import masked_mean
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.models.instance import InstanceNetwork, check_warmup, detection_encoder, targets_of
from fewseg.modules.detection import Detection, Detector, HeadNorm, Pyramid
from fewseg.modules.encoders import Encoder

Pooling = Literal["annotated", "image"]

# section 5.1 of the paper
LOSS_WEIGHTS = {"rpn_classification": 2.0, "rpn_box": 0.1, "classification": 2.0, "box": 0.5, "mask": 1.0}


class Guidance(NamedTuple):
    """vectors (B, L, C): the pooled reference at every level; present (B,) bool: whether anything was annotated."""

    vectors: Tensor
    present: Tensor


class SiameseMaskRCNNNetwork(InstanceNetwork):
    """Matches the pyramid of a scene with the pooled pyramid of references.

    Supports are crops of a reference object, annotated all over, or whole images with a mask. Only positive pixels are
    read. Several shots are averaged.

    Args:
        encoder: of references and scenes.
        options: of the detector.
        rectify: ReLU in the pyramid [code].
        pooling: ``annotated`` averages the reference over its positive pixels; ``image`` over all of it [paper].
        raw_references: at inference references enter without the subtraction of the mean colour [code].

    >>> network = SiameseMaskRCNNNetwork(Encoder("tiny"), Detection(width=16, n_proposals=20))
    >>> references = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(references, torch.ones(1, 2, 32, 32, dtype=torch.uint8))
    >>> tuple(guidance.vectors.shape)
    (1, 3, 16)
    >>> scene = network.encode_query(torch.zeros(1, 3, 40, 32, dtype=torch.uint8))
    >>> network.eval().detect(scene, guidance)[0].masks.shape[1:]
    torch.Size([40, 32])
    """

    encoder: Encoder

    def __init__(
        self,
        encoder: Encoder,
        options: Detection,
        rectify: bool = False,
        pooling: Pooling = "annotated",
        raw_references: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pyramid = Pyramid(encoder, options.width, rectify)
        matched = options.width * 3 // 2  # 384 of 256
        self.matching = nn.ModuleList(nn.Conv2d(2 * options.width, matched, 1) for _ in self.pyramid.strides)
        self.detector = Detector(matched, self.pyramid.strides, 1, options)
        self.pooling, self.raw_references = pooling, raw_references
        self.shared_encoder = self.cacheable = not raw_references  # raw, a reference has features of its own

    def encode_support(self, images: Tensor | Features) -> Features:
        """The pyramids of references, maps (B, K, C, h, w)."""
        if self.raw_references and not self.training and isinstance(images, Tensor) and not images.is_floating_point():
            images = images.to(self.encoder.mean.dtype) / self.encoder.scale / self.encoder.std
        return self.encode_query(images)

    def encode_query(self, images: Tensor | Features) -> Features:
        """The pyramids of scenes, maps (B, C, h, w)."""
        pyramid: Features = self.pyramid(self.encoder(images))
        return pyramid

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """T at every level: the mean over shots of the pooled reference; a shot without a positive does not count."""
        where = annotations
        if self.pooling == "image":
            shown = (annotations == POSITIVE).flatten(2).any(2)[..., None, None]
            where = torch.where(shown, POSITIVE, annotations)
        sizes = [(m.shape[-2], m.shape[-1]) for m in features.maps]
        pooled = [masked_mean(m, weights_of(where, POSITIVE, s)) for m, s in zip(features.maps, sizes, strict=True)]
        return Guidance(torch.stack(pooled, 1), annotated(annotations)[:, POSITIVE])

    def match(self, features: Features, guidance: Guidance) -> Features:
        """``W [P, |P - T|]`` at every level (section 4.3 of the paper)."""
        maps = []
        for level, (scene, convolution) in enumerate(zip(features.maps, self.matching, strict=True)):
            difference = (scene - guidance.vectors[:, level, :, None, None]).abs()
            maps.append(convolution(torch.cat([scene.expand_as(difference), difference], 1)))
        return Features(tuple(maps), features.image_size)

    def asked(self, guidance: Guidance, n: int) -> list[bool]:
        """Where nothing was annotated nothing is found."""
        return guidance.present.expand(n).tolist()

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """The losses of Mask R-CNN for the instances of the class asked for, with the paper's weights."""
        guidance = self.guide(self.encode_support(batch.support_images), batch.support_annotations)
        matched = self.match(self.encode_query(batch.query_images), guidance)
        targets = [_of_class(i, spec.class_id) for i, spec in zip(targets_of(batch), batch.specs, strict=True)]
        losses = self.detector.losses(matched, targets)
        return {name: LOSS_WEIGHTS[name] * loss for name, loss in losses.items()}


def _of_class(instances: Instances, class_id: int) -> Instances:
    """The instances of one class, labelled 1; all others are background."""
    own = instances.where(instances.labels == class_id)
    return dataclasses.replace(own, labels=torch.ones_like(own.labels))


class SiameseMaskRCNN(FewShotSegmentor):
    """Siamese Mask R-CNN.

    Args:
        encoder: ``tiny`` or a timm name of a convolutional network; the paper's is ``resnet50``.
        weights: a file or ``"pretrained"`` for the encoder.
        taps: levels of the encoder, strides doubling; None = the two of ``tiny``, the last four of a timm model.
        freeze_encoder: train only what comes after the encoder.
        norm: batch norms of the encoder: ``frozen`` [code] or ``train``; None = ``frozen`` with weights.
        width: channels of the pyramid, 256 in the paper; all others are in its proportions: matching 384, region
            proposals 512, box head 1024, mask head 256.
        anchor_scale: side of a level's anchors in strides; 8 are 32 to 512 pixels at strides 4 to 64.
        n_proposals: regions classified in a test; training samples from twice as many.
        n_regions: regions of an image in the loss.
        score_threshold: of detections; 0.7 in the code, which lowers AP.
        nms: IoU of non-maximum suppression; 0.5 in the code, 0.7 in the paper's appendix.
        n_detections: of an image; a test looks at the best 100 of an image and class, as COCO's evaluator does.
        head_norm: batch normalisation in the heads: ``none``, ``mask`` (in the mask head) [paper] or ``both`` [code].
        rectify: ReLU in the pyramid [code].
        pooling: of references: ``annotated`` or ``image`` [paper].
        raw_references: no mean subtraction of references at inference [code].
        warmup_steps: before the encoder learns; 1000 in the paper.
        lr: peak learning rate.
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters.
        optimizer: ``adamw``, or ``sgd`` with ``momentum``.
        momentum: of SGD.
        schedule: ``one_cycle``, ``step`` (a tenth of the rate for the last quarter of the steps) or ``constant``.

    Raises:
        FewsegError: a value out of range.
    """

    network: SiameseMaskRCNNNetwork

    def __init__(
        self,
        encoder: str = "tiny",
        weights: str | None = None,
        taps: tuple[int, ...] | None = None,
        freeze_encoder: bool = False,
        norm: Literal["frozen", "train"] | None = None,
        width: int = 64,
        anchor_scale: float = 8.0,
        n_proposals: int = 100,
        n_regions: int = 32,
        score_threshold: float = 0.05,
        nms: float = 0.5,
        n_detections: int = 100,
        head_norm: HeadNorm = "none",
        rectify: bool = False,
        pooling: Pooling = "annotated",
        raw_references: bool = False,
        warmup_steps: int = 0,
        lr: float = 1e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        check_warmup(warmup_steps)
        options = Detection(width, anchor_scale, n_proposals, n_regions, score_threshold, nms, n_detections, head_norm)
        backbone = detection_encoder(encoder, weights, taps, not freeze_encoder, norm)
        super().__init__(
            SiameseMaskRCNNNetwork(backbone, options, rectify, pooling, raw_references),
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
        self.warmup_steps = warmup_steps
