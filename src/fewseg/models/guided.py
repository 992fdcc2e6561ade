"""Guided networks: pool annotated support features into z, join z to every query cell, score with a small head.

Source: Rakelly, Shelhamer, Darrell, Efros, Levine, "Few-shot segmentation propagation with guided networks" (2018,
https://arxiv.org/abs/1806.07373) and the original code at https://github.com/shelhamer/revolver (late fusion, global
guidance; ``shared`` is its cofeat_late_lite, ``separate`` its cofeat_late_lite_unshared).

Deviations of ``variant="standard"``: an encoder of choice with all taps embedded to one width instead of fc6, area
pooling of annotations and interpolation of logits instead of the fixed stride-32 kernels, three layers in the head
instead of two, no dropout, and the running mean over annotating shots also for the separate head.
Deviation of ``variant="paper"``: a shot without any annotation is skipped for the shared head; the original drops all
later shots with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.episode import NEGATIVE, POSITIVE, Features
from fewseg.functional.annotations import annotated, silence, weights_of
from fewseg.functional.geometry import upsample
from fewseg.functional.pooling import masked_mean, shot_means
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.modules.fcn32s import MIN_SIZE, AnnotationPool, Decoder, FCN32s, start
from fewseg.modules.vgg import refuse_encoder
from fewseg.network import SegmentorNetwork

HeadKind = Literal["shared", "separate"]


class Guidance(NamedTuple):
    """z (B, 2, C): the pooled negative and positive features; annotated (B, 2) bool: which of them exist."""

    z: Tensor
    annotated: Tensor


class Head(nn.Module):
    """Scores of query cells given z: 1x1 convolutions on the concatenation of query features and tiled z.

    ``shared``: one metric, applied to (query, z_k) once per label k, gives that label's score. ``separate``: one pass
    over (query, z_positive, z_negative) gives both. The first convolution is linear in the concatenation, so it is
    computed as W_q f + W_z z: once per query, plus a vector per episode, and no tiled map is ever built.

    Args:
        width: channels C of features and z.
        hidden: channels after each hidden layer.
        kind: ``shared`` or ``separate``.
        dropout: of whole channels before the score.

    >>> Head(4, (8, 8), "shared")(torch.rand(1, 4, 3, 5), torch.rand(6, 2, 4)).shape
    torch.Size([6, 2, 3, 5])
    """

    def __init__(self, width: int, hidden: Sequence[int], kind: HeadKind, dropout: float = 0.0) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        parts, self.scores = (2, 1) if kind == "shared" else (3, 2)
        self.fuse = nn.Conv2d(parts * width, hidden[0], 1)
        layers: list[nn.Module] = []
        for before, after in pairwise(hidden):
            layers += [nn.ReLU(), nn.Conv2d(before, after, 1)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Dropout2d(dropout))
        self.score = nn.Conv2d(hidden[-1], self.scores, 1)

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """Scores (B, 2, h, w), negative then positive, of features (B or 1, C, h, w) and z (B, 2, C)."""
        query_weight, z_weight = self.fuse.weight[:, : self.width], self.fuse.weight[:, self.width :]
        query = F.conv2d(features, query_weight, self.fuse.bias)  # (B, hidden, h, w)
        # the original's channel 1 (positive) comes first, whatever its variables are called
        context = z if self.kind == "shared" else z.flip(1).flatten(1)[:, None]  # (B, 2, C) or (B, 1, 2 C)
        offset = F.linear(context, z_weight.flatten(1))[..., None, None]
        hidden = query[:, None] + offset  # (B, 2 or 1, hidden, h, w)
        scores: Tensor = self.score(self.layers(hidden.flatten(0, 1)))
        return scores.reshape(hidden.shape[0], 2, *scores.shape[-2:])


class GuidedNetwork(SegmentorNetwork):
    """``guide`` pools features under each label into z; ``segment`` scores every query cell given z.

    A label that nobody annotated keeps z = 0; without any positive annotation all is background.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding, of z and of the head.
        head: ``shared`` or ``separate``, see ``Head``.

    >>> network = GuidedNetwork(Encoder("tiny"), width=16)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    embedding: nn.Module

    def __init__(self, encoder: Encoder, width: int = 128, head: HeadKind = "shared") -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = Embedding(encoder, width, rectify=True)
        self.head = Head(width, (width, width), head)

    def encode_support(self, images: Tensor | Features) -> Features:
        """One map (B, K, C, h, w) of supports."""
        return self.encode_query(images)

    def encode_query(self, images: Tensor | Features) -> Features:
        """One map (B, C, h, w) of queries."""
        embedded: Features = self.embedding(self.encoder(images))
        return embedded

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """The z of each label: the mean over the shots that annotate it of the mean over its pixels."""
        z = [self.pool(features.maps[0], annotations, label) for label in (NEGATIVE, POSITIVE)]
        return Guidance(torch.stack(z, 1), annotated(annotations))

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W): the score of each cell under each label's metric, brought to image size."""
        logits = self.decode(self.head(features.maps[0], guidance.z), features.image_size)
        return silence(logits, guidance.annotated[:, POSITIVE])

    def pool(self, features: Tensor, annotations: Tensor, label: int) -> Tensor:
        """One label's vector (B, C) of features (B, K, C, h, w)."""
        return masked_mean(features, weights_of(annotations, label, (features.shape[-2], features.shape[-1])))

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores on the feature grid to logits at image size."""
        return upsample(scores, size)


class PaperGuidedNetwork(GuidedNetwork):
    """The original on the FCN-32s trunk with 256 channels; state for state its "cofeat late lite" models.

    Args:
        head: ``shared`` (21,408,833 parameters) or ``separate`` (21,750,082), both counted with the fixed kernels.
        weights: a VGG-16 file for the trunk, see ``FCN32s``.
        trainable: False freezes the trunk.
    """

    min_size: ClassVar[int] = MIN_SIZE
    cacheable: ClassVar[bool] = False  # exact only in its own precision
    encoder: FCN32s

    def __init__(self, head: HeadKind = "shared", weights: str | None = None, trainable: bool = True) -> None:
        SegmentorNetwork.__init__(self)
        self.encoder = FCN32s(lite=True, weights=weights, trainable=trainable)
        self.embedding = nn.Identity()
        width = 256
        self.head = Head(width, (2 * width if head == "shared" else 3 * width,), head, dropout=0.5)
        self.annotation_pool = AnnotationPool()
        self.decoder = Decoder(self.head.scores)
        start(self.head.fuse, 0.001)
        start(self.head.score, 0.0)

    def pool(self, features: Tensor, annotations: Tensor, label: int) -> Tensor:
        """One label's vector, with the kernel's weights and the 1e-6 that shrinks clicks near the border."""
        weights = self.annotation_pool((annotations == label).to(features.dtype))
        if self.head.kind == "separate":  # the original divides by all shots, also by those without this label
            return shot_means(features, weights, eps=1e-6).mean(1)
        return masked_mean(features, weights, eps=1e-6)

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """The fixed transposed convolution; both labels share its one channel where they share the head."""
        logits: Tensor = self.decoder(scores, size)
        return logits

    def original_entries(self) -> list[Tensor | None]:
        """[z, num_z with the shared head], annotation kernel, 13 convolutions, fc6, head.fc7, head.score, decoder."""
        buffers: list[Tensor | None] = [None, None] if self.head.kind == "shared" else []
        learned = [*self.encoder.convolutions(), self.head.fuse, self.head.score]
        return [*buffers, None, *(p for convolution in learned for p in convolution.parameters()), None]


class GuidedNet(FewShotSegmentor):
    """Guided network.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps`` and ``width``).
        weights: a file or ``"pretrained"`` for the encoder; a VGG-16 file for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: train only what comes after the encoder.
        width: channels of z and of the head.
        head: one metric for both labels, or one head over both.
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
        head: HeadKind = "shared",
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
            network: GuidedNetwork = PaperGuidedNetwork(head, weights, trainable=not freeze_encoder)
        else:
            backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            network = GuidedNetwork(backbone, width, head)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
