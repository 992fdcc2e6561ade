"""PANet: one prototype per label, cosine similarity as logits, and prototypes aligned from query back to supports.

Source: Wang, Liew, Zou, Zhou, Feng, "PANet: few-shot image semantic segmentation with prototype alignment" (ICCV 2019,
https://arxiv.org/abs/1908.06391) and the original code at https://github.com/kaixin96/PANet.

Deviations of ``variant="standard"``: an encoder of choice with all taps embedded to one width, and annotations pooled
onto the feature grid instead of features upsampled to the mask.
Deviation of both: a shot that lacks a label does not count for that label's prototype.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.episode import NEGATIVE, POSITIVE, UNKNOWN, EpisodeBatch, Features
from fewseg.functional.annotations import annotated, silence, upsampled_weights, weights_of
from fewseg.functional.geometry import upsample
from fewseg.functional.pooling import masked_mean
from fewseg.functional.similarity import cosine_maps
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.modules.vgg import VGG16, panet_vgg16, refuse_encoder
from fewseg.network import SegmentorNetwork, cross_entropy

SCALE = 20.0  # of the cosine, section 3.3 of the paper


class Guidance(NamedTuple):
    """prototypes (B, 2, C), background then foreground; annotated (B, 2) bool: which of them exist."""

    prototypes: Tensor
    annotated: Tensor


class PANetNetwork(SegmentorNetwork):
    """``guide`` averages features under each label; ``segment`` compares every query cell with both averages.

    Without any negative annotation the background prototype is zero, so its logit is 0 and a cell is foreground where
    its cosine is positive; without any positive annotation all is background.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding and of the prototypes.
        alignment: add the prototype alignment loss.

    >>> network = PANetNetwork(Encoder("tiny"), width=16)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    eps: float = 0.0  # added to the number of pixels under a mask
    embedding: nn.Module

    def __init__(self, encoder: Encoder, width: int = 128, alignment: bool = True) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = Embedding(encoder, width)
        self.alignment = alignment

    def encode_support(self, images: Tensor | Features) -> Features:
        """One map (B, K, C, h, w) of supports."""
        return self.encode_query(images)

    def encode_query(self, images: Tensor | Features) -> Features:
        """One map (B, C, h, w) of queries."""
        embedded: Features = self.embedding(self.encoder(images))
        return embedded

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """The prototype of each label: the mean over the shots that annotate it of the mean over its pixels."""
        maps = features.maps[0]
        weights = [self.weights(annotations, label, maps) for label in (NEGATIVE, POSITIVE)]
        prototypes = torch.stack([masked_mean(maps, w, self.eps) for w in weights], 1)
        return Guidance(prototypes, annotated(annotations))

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W): 20 times the cosine with each prototype, brought to image size."""
        logits = upsample(SCALE * cosine_maps(features.maps[0], guidance.prototypes), features.image_size)
        return silence(logits, guidance.annotated[:, POSITIVE])

    def weights(self, annotations: Tensor, label: int, features: Tensor) -> Tensor:
        """How much each cell of features (B, K, C, h, w) belongs to a label: (B, K, h, w)."""
        return weights_of(annotations, label, (features.shape[-2], features.shape[-1]))

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy of the query and, with ``alignment``, of the supports segmented by the query's prediction."""
        supports, queries = self.encode_support(batch.support_images), self.encode_query(batch.query_images)
        guidance = self.guide(supports, batch.support_annotations)
        losses = {"cross_entropy": cross_entropy(self.segment(queries, guidance), batch.query_masks)}
        if self.alignment:
            losses["alignment"] = self.align(queries, guidance, supports, batch.support_annotations)
        return losses

    def align(self, queries: Features, guidance: Guidance, supports: Features, annotations: Tensor) -> Tensor:
        """Equation 6: the roles swap. Prototypes of the predicted query mask segment each support.

        The mean over shots of the mean cross-entropy over annotated pixels; episodes whose prediction has no foreground
        add nothing.
        """
        query = queries.maps[0]
        predicted = cosine_maps(query, guidance.prototypes).argmax(1)  # (B, h, w), at feature resolution
        masks = [(predicted == label).to(query.dtype)[:, None] for label in (NEGATIVE, POSITIVE)]
        prototypes = torch.stack([masked_mean(query[:, None], mask, self.eps) for mask in masks], 1)
        found = (predicted == POSITIVE).flatten(1).any(1) & guidance.annotated[:, POSITIVE]
        flat = supports.maps[0].flatten(0, 1)  # (B * K, C, h, w)
        prototypes = prototypes.repeat_interleave(annotations.shape[1], 0)
        logits = upsample(SCALE * cosine_maps(flat, prototypes), supports.image_size)
        truth = annotations.flatten(0, 1).long()
        pixels = F.cross_entropy(logits.float(), truth, ignore_index=UNKNOWN, reduction="none").sum((1, 2))
        shots = (pixels / (truth != UNKNOWN).sum((1, 2)).clamp(min=1)).view(annotations.shape[:2])
        return torch.where(found[:, None], shots, 0.0).mean()


class PaperPANetNetwork(PANetNetwork):
    """The original on its VGG-16 of stride 8 with a dilated last stage: 14,714,688 parameters.

    Args:
        alignment: add the prototype alignment loss.
        weights: a VGG-16 file with torchvision's names.
        trainable: False freezes the trunk.
    """

    cacheable: bool = False  # exact only in its own precision
    encoder: VGG16
    eps: float = 1e-5

    def __init__(self, alignment: bool = True, weights: str | None = None, trainable: bool = True) -> None:
        SegmentorNetwork.__init__(self)
        self.encoder = panet_vgg16(weights, trainable)
        self.embedding = nn.Identity()
        self.alignment = alignment

    def weights(self, annotations: Tensor, label: int, features: Tensor) -> Tensor:
        """The original upsamples the features to the mask and sums them under it: the same sums."""
        size = (features.shape[-2], features.shape[-1])
        return upsampled_weights((annotations == label).to(features.dtype), size)

    def original_entries(self) -> list[Tensor | None]:
        """The 13 convolutions: weight, bias."""
        return [p for convolution in self.encoder.convolutions() for p in convolution.parameters()]


class PANet(FewShotSegmentor):
    """PANet.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps`` and ``width``).
        weights: a file or ``"pretrained"`` for the encoder; a VGG-16 file for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: train only what comes after the encoder.
        width: channels of the prototypes.
        alignment: add the prototype alignment loss.
        variant: ``standard``, or the network of the ``paper``.
        lr: peak learning rate.
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters.
        optimizer: ``adamw``, or ``sgd`` with ``momentum``.
        momentum: of SGD.
        schedule: ``one_cycle`` or ``constant``.
    """

    def __init__(
        self,
        encoder: str = "tiny",
        weights: str | None = None,
        output_stride: int | None = None,
        taps: tuple[int, ...] | None = None,
        freeze_encoder: bool = False,
        width: int = 128,
        alignment: bool = True,
        variant: Literal["standard", "paper"] = "standard",
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        if variant == "paper":
            refuse_encoder(encoder, output_stride, taps, width)
            network: PANetNetwork = PaperPANetNetwork(alignment, weights, trainable=not freeze_encoder)
        else:
            backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            network = PANetNetwork(backbone, width, alignment)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
