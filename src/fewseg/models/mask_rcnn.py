"""Mask R-CNN with a fixed list of classes: what Siamese Mask R-CNN is compared with when both train on all of them.

Source: He, Gkioxari, Dollar, Girshick, "Mask R-CNN" (ICCV 2017, https://arxiv.org/abs/1703.06870) with the pyramid of
Lin et al. (CVPR 2017), built from torchvision's parts like its sibling in ``siamese_mask_rcnn``. It knows its classes
by their ids and does not read references; of its detections those of the class asked for are scored.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewseg.episode import EpisodeBatch, Features
from fewseg.errors import FewsegError
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.models.instance import InstanceNetwork, check_warmup, detection_encoder, targets_of
from fewseg.modules.detection import Detection, Detector, HeadNorm, Pyramid
from fewseg.modules.encoders import Encoder


class MaskRCNNNetwork(InstanceNetwork):
    """Pyramid and detector of all classes; ``segment`` is the union of the instances of any class.

    Args:
        encoder: of scenes.
        n_classes: class ids 1 to this are told apart.
        options: of the detector.
        rectify: ReLU in the pyramid.

    >>> network = MaskRCNNNetwork(Encoder("tiny"), 20, Detection(width=16, n_proposals=20)).eval()
    >>> scene = network.encode_query(torch.zeros(1, 3, 40, 32, dtype=torch.uint8))
    >>> network.detect(scene, torch.zeros(1, 0))[0].boxes.shape[1:]
    torch.Size([4])
    """

    uses_support = False
    fixed_classes: ClassVar[bool] = True

    def __init__(self, encoder: Encoder, n_classes: int, options: Detection, rectify: bool = False) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.encoder = encoder
        self.pyramid = Pyramid(encoder, options.width, rectify)
        self.detector = Detector(options.width, self.pyramid.strides, n_classes, options)

    def encode_support(self, images: Tensor | Features) -> Features:
        """Nothing: references are not read."""
        shape = images.image_size if isinstance(images, Features) else images.shape[-2:]
        return Features((), (int(shape[0]), int(shape[1])))

    def encode_query(self, images: Tensor | Features) -> Features:
        """The pyramids of scenes, maps (B, C, h, w)."""
        pyramid: Features = self.pyramid(self.encoder(images))
        return pyramid

    def guide(self, features: Features, annotations: Tensor) -> Tensor:
        """An empty vector for each episode, (B, 0)."""
        return torch.zeros(len(annotations), 0, device=annotations.device)

    def match(self, features: Features, guidance: Tensor) -> Features:
        """The pyramid as it is, once for each episode."""
        n = max(len(features.maps[0]), len(guidance))
        return Features(tuple(m.expand(n, -1, -1, -1) for m in features.maps), features.image_size)

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """The losses of Mask R-CNN for all annotated instances, unweighted."""
        return self.detector.losses(self.encode_query(batch.query_images), targets_of(batch))


class MaskRCNN(FewShotSegmentor):
    """Mask R-CNN.

    Args:
        n_classes: class ids 1 to this are told apart; 80 for COCO.
        encoder: ``tiny`` or a timm name of a convolutional network.
        weights: a file or ``"pretrained"`` for the encoder.
        taps: levels of the encoder, strides doubling; None = the two of ``tiny``, the last four of a timm model.
        freeze_encoder: train only what comes after the encoder.
        norm: batch norms of the encoder: ``frozen`` or ``train``; None = ``frozen`` with weights.
        width: channels of the pyramid, 256 in the paper; all others are in its proportions.
        anchor_scale: side of a level's anchors in strides.
        n_proposals: regions classified in a test; training samples from twice as many.
        n_regions: regions of an image in the loss.
        score_threshold: of detections.
        nms: IoU of non-maximum suppression.
        n_detections: of an image and all its classes; a test looks at the best 100 of an image and class, as COCO's
            evaluator does.
        head_norm: batch normalisation in the heads: ``none``, ``mask`` (in the mask head) or ``both``.
        rectify: ReLU in the pyramid.
        warmup_steps: before the encoder learns.
        lr: peak learning rate.
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters.
        optimizer: ``adamw``, or ``sgd`` with ``momentum``.
        momentum: of SGD.
        schedule: ``one_cycle``, ``step`` (a tenth of the rate for the last quarter of the steps) or ``constant``.

    Raises:
        FewsegError: a value out of range.
    """

    network: MaskRCNNNetwork

    def __init__(
        self,
        n_classes: int = 20,
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
        warmup_steps: int = 0,
        lr: float = 1e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        if n_classes < 1:
            raise FewsegError("n_classes", n_classes, "at least 1", "pass the number of the data set's classes")
        check_warmup(warmup_steps)
        options = Detection(width, anchor_scale, n_proposals, n_regions, score_threshold, nms, n_detections, head_norm)
        backbone = detection_encoder(encoder, weights, taps, not freeze_encoder, norm)
        super().__init__(
            MaskRCNNNetwork(backbone, n_classes, options, rectify),
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
        self.warmup_steps = warmup_steps
