"""PL: prototypes of both labels gate the query features, a convolutional segmentor decodes them in any order of labels.

Source: Dong, Xing, "Few-shot semantic segmentation with prototype learning" (BMVC 2018). There is no public code, and
what follows was written from the idea alone: pooled prototypes of every label including background, a segmentor that
fuses them with the query, permutation training, an auxiliary classification by prototypes.

Ours, because the source leaves it open or was not at hand: binary tasks; one encoder and one embedding for both parts;
the cosine as similarity; its softmax over labels as fusion map; the depth of the segmentor; that background takes part
in the permutation; both orders in every step instead of a drawn one; what the auxiliary branch classifies (the query's
mean feature under each label of its mask); its weight.
Deviation: no CRF after the network, which the paper's numbers include.

Unlike PANet the similarity is not the answer but a weight, a learned decoder answers, and no prototype is made from the
query. Unlike the guided networks the prototypes are never an input of the decoder, they only weight the query.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewseg.episode import NEGATIVE, POSITIVE, EpisodeBatch, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import annotated, silence, weights_of
from fewseg.functional.geometry import upsample
from fewseg.functional.pooling import masked_mean
from fewseg.functional.similarity import cosine_maps, unit
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.network import SegmentorNetwork, cross_entropy

LABELS = (NEGATIVE, POSITIVE)


class Guidance(NamedTuple):
    """prototypes (B, 2, C), background then foreground; annotated (B, 2) bool: which of them exist."""

    prototypes: Tensor
    annotated: Tensor


class PLNetwork(SegmentorNetwork):
    """``guide`` averages features under each label; ``segment`` weights the query by both averages and decodes it.

    Without any negative annotation the background prototype is zero, so its similarity is 0 and the fusion map compares
    the cosine with the foreground against that; without any positive annotation all is background.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding, of the prototypes and of the segmentor.
        permutation: train the segmentor on both orders of the two labels.
        auxiliary_weight: of the loss that classifies the query by the prototypes; 0 leaves it out.

    >>> network = PLNetwork(Encoder("tiny"), width=16)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    def __init__(
        self, encoder: Encoder, width: int = 128, permutation: bool = True, auxiliary_weight: float = 0.1
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = Embedding(encoder, width)
        self.scale = nn.Parameter(torch.tensor(10.0))  # of the cosine, before a softmax over labels
        self.segmentor = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2, 1),
        )
        self.permutation, self.auxiliary_weight = permutation, auxiliary_weight

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
        size = (maps.shape[-2], maps.shape[-1])
        prototypes = [masked_mean(maps, weights_of(annotations, label, size)) for label in LABELS]
        return Guidance(torch.stack(prototypes, 1), annotated(annotations))

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W): the segmentor's scores with the labels in order."""
        scores = self.decode(self.weight(features.maps[0], guidance.prototypes), LABELS)
        return silence(upsample(scores, features.image_size), guidance.annotated[:, POSITIVE])

    def weight(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """Query features (B or 1, C, h, w) once per label (B, 2, C, h, w), each weighted by that label's fusion map.

        The maps are the softmax over labels of the scaled cosine, so the weighted features add up to the features.
        """
        maps = (self.scale * cosine_maps(query, prototypes)).softmax(1)  # (B, 2, h, w)
        return query[:, None] * maps[:, :, None]

    def decode(self, weighted: Tensor, order: tuple[int, int]) -> Tensor:
        """Scores (B, 2, h, w), background then foreground, with the labels presented to the segmentor in an order."""
        scores: Tensor = self.segmentor(weighted[:, list(order)].flatten(1, 2))
        return scores[:, list(order)]  # an order of two is its own inverse

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy, the mean over both orders with ``permutation``, and the auxiliary ``classification``."""
        queries = self.encode_query(batch.query_images)
        guidance = self.guide(self.encode_support(batch.support_images), batch.support_annotations)
        weighted = self.weight(queries.maps[0], guidance.prototypes)
        orders = [LABELS, LABELS[::-1]] if self.permutation else [LABELS]
        segmentation = []
        for order in orders:
            logits = upsample(self.decode(weighted, order), queries.image_size)
            logits = silence(logits, guidance.annotated[:, POSITIVE])
            segmentation.append(cross_entropy(logits, batch.query_masks))
        losses = {"cross_entropy": torch.stack(segmentation).mean()}
        if self.auxiliary_weight:
            losses["classification"] = self.auxiliary_weight * self.classify(queries, guidance, batch.query_masks)
        return losses

    def classify(self, queries: Features, guidance: Guidance, masks: Tensor) -> Tensor:
        """How well the prototypes name the query: cross-entropy of its mean feature under each label of its mask.

        Labels that the mask lacks, and episodes without both prototypes, are left out; 0 where nothing remains.

        Args:
            queries: one map (B, C, h, w).
            guidance: of the supports.
            masks: (B, H, W) labels of the queries, 255 = void.
        """
        maps = queries.maps[0][:, None]  # (B, 1, C, h, w)
        size = (maps.shape[-2], maps.shape[-1])
        means = torch.stack([masked_mean(maps, weights_of(masks[:, None], label, size)) for label in LABELS], 1)
        cosines = torch.einsum("bqc,blc->bql", unit(means, 2), unit(guidance.prototypes, 2))  # mean q, prototype l
        named = -(self.scale * cosines).log_softmax(2).diagonal(dim1=1, dim2=2)  # (B, 2)
        counted = annotated(masks[:, None]) & guidance.annotated.all(1, keepdim=True)
        return torch.where(counted, named, 0.0).sum() / counted.sum().clamp(min=1)


class PL(FewShotSegmentor):
    """PL, without its CRF.

    Args:
        encoder: ``tiny`` or a timm name.
        weights: a file or ``"pretrained"`` for the encoder.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: train only what comes after the encoder.
        width: channels of the prototypes and of the segmentor.
        permutation: train the segmentor on both orders of the two labels.
        auxiliary_weight: of the loss that classifies the query by the prototypes; 0 leaves it out.
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
        permutation: bool = True,
        auxiliary_weight: float = 0.1,
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        if auxiliary_weight < 0:
            raise FewsegError("auxiliary_weight", auxiliary_weight, "0 or more", "choose 0 to leave the loss out")
        backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
        super().__init__(
            PLNetwork(backbone, width, permutation, auxiliary_weight),
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
