"""Nearest neighbour: every query cell takes the label of the most similar support cell; nothing is learned.

Source: the 1-NN baseline of Shaban et al. 2017 (OSLSM, https://arxiv.org/abs/1709.03410), which compares features of a
network trained on the base classes. No code of it is public. With any frozen encoder it is a training-free probe: it
tells how much of the task the features solve by themselves.

Deviations: an encoder of choice instead of FCN-32s; cells of the feature grid instead of upsampled pixels; a soft
answer, so that logits rather than labels are brought to image size.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE, EpisodeBatch, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import annotated, silence, weights_of
from fewseg.functional.geometry import upsample
from fewseg.functional.pooling import masked_mean
from fewseg.functional.similarity import nearest_product, unit
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.network import SegmentorNetwork

SCALE = 20.0  # of the cosine, as PANet's; it changes no label on the grid
_PURE = 0.95  # of the largest share of a label, see labelled_cells
_SHORT = 1e-8  # least mean squared length that distances are divided by

Inference = Literal["nearest", "prototype"]
Metric = Literal["cosine", "l2"]


class Guidance(NamedTuple):
    """What queries are compared with: support cells, or one prototype per label.

    cells (B, K, C, M); labelled (B, 2, K, M) bool: the cells of background and foreground; annotated (B, 2) bool.
    """

    cells: Tensor
    labelled: Tensor
    annotated: Tensor


class ProbeNetwork(SegmentorNetwork):
    """One map of features for methods that learn nothing from episodes: the taps themselves, or an embedding of them.

    Args:
        encoder: of supports and queries; where it is frozen, so is the embedding.
        width: channels of the embedding, which starts as the pre-trained one where the weights of the encoder hold it;
            None concatenates the taps.
        normalize: scale every tap to length 1 in each cell, so that all count alike (taps only).
    """

    trainable: ClassVar[bool] = False
    encoder: Encoder

    def __init__(self, encoder: Encoder, width: int | None = None, normalize: bool = True) -> None:
        super().__init__()
        self.encoder, self.normalize = encoder, normalize
        # rectified, as the classifier of the pre-training reads it
        self.embedding = None if width is None else Embedding(encoder, width, rectify=True)
        if self.embedding is not None and not encoder.trainable:
            self.embedding.requires_grad_(False)

    def encode_support(self, images: Tensor | Features) -> Features:
        """One map (B, K, C, h, w) of supports."""
        return self.encode_query(images)

    def encode_query(self, images: Tensor | Features) -> Features:
        """One map (B, C, h, w) of queries."""
        features: Features = self.encoder(images)
        if self.embedding is not None:
            embedded: Features = self.embedding(features)
            return embedded
        return concatenate(features.to(self.encoder.mean.dtype), self.normalize)

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy; a constant where the encoder is frozen, but one that a training loop can go through."""
        losses = super().losses(batch)
        return {name: loss if loss.requires_grad else loss.requires_grad_() for name, loss in losses.items()}


def concatenate(features: Features, normalize: bool) -> Features:
    """All taps as one map on the finest grid, without any learned layer.

    Args:
        features: maps (B, C_i, h_i, w_i) or (B, K, C_i, h_i, w_i).
        normalize: scale every tap to length 1 in each cell, and the whole to length 1.

    >>> one, two = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([0.0, 9.0]).view(1, 2, 1, 1)
    >>> concatenate(Features((one, two), (8, 8)), normalize=True).maps[0].flatten()
    tensor([0.4243, 0.5657, 0.0000, 0.7071])
    """
    leading = features.maps[0].shape[:-3]
    grid = max(((m.shape[-2], m.shape[-1]) for m in features.maps), key=lambda size: size[0] * size[1])
    maps = [upsample(m.flatten(0, -4), grid) for m in features.maps]
    if normalize:
        maps = [unit(m, 1) / len(maps) ** 0.5 for m in maps]
    joined = torch.cat(maps, 1)
    return Features((joined.reshape(*leading, *joined.shape[1:]),), features.image_size)


def labelled_cells(annotations: Tensor, size: tuple[int, int]) -> Tensor:
    """Which cells carry which label: the purest of each shot.

    Of the annotated pixels in a cell a share has the label; the cells with nearly the largest share of their shot carry
    it. Where a label fills cells, cells on its border carry none, so that borders of the query, which resemble them,
    are decided by both sides. An object smaller than a cell, or a single pixel, still has its cell.

    Args:
        annotations: (B, K, H, W) integers: 0 negative, 1 positive, 255 unknown.
        size: (h, w) of the feature grid.

    Returns:
        (B, 2, K, h, w) bool: background, foreground.

    >>> labelled_cells(torch.tensor([[[[1, 1, 1, 0, 0, 255]]]]), (1, 3)).flatten(2)
    tensor([[[False, False,  True],
             [ True, False, False]]])
    """
    weights = torch.stack([weights_of(annotations, label, size) for label in (NEGATIVE, POSITIVE)], 1)
    share = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (share >= _PURE * share.amax((-2, -1), keepdim=True)) & (weights > 0)


class NearestNeighborNetwork(ProbeNetwork):
    """``guide`` keeps the annotated support cells; ``segment`` compares every query cell with those of each label.

    The logit of a label falls with the squared distance to its nearest cell. A label that is annotated nowhere is
    represented by the zero vector. Without negatives a cell is therefore foreground where it is nearer to a positive
    cell than to zero: under ``cosine``, where its cosine exceeds 0.5. Without positives all is background.

    Args:
        encoder: of supports and queries.
        width: see ``ProbeNetwork``.
        inference: ``nearest`` keeps every cell, ``prototype`` the mean of each label's.
        metric: ``cosine`` compares directions; ``l2`` compares features at their own length.

    >>> network = NearestNeighborNetwork(Encoder("tiny", trainable=False))
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    def __init__(
        self, encoder: Encoder, width: int | None = None, inference: Inference = "nearest", metric: Metric = "cosine"
    ) -> None:
        super().__init__(encoder, width, normalize=metric == "cosine")
        self.inference, self.metric = inference, metric

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """The cells of all shots, or one prototype per label in the place of two cells of one shot."""
        maps, known = features.maps[0], annotated(annotations)
        size = (maps.shape[-2], maps.shape[-1])
        if self.inference == "prototype":
            weights = [weights_of(annotations, label, size) for label in (NEGATIVE, POSITIVE)]
            cells = torch.stack([masked_mean(maps, w) for w in weights], 2)[:, None]  # (B, 1, C, 2)
            labelled = torch.diag_embed(known)[:, :, None]  # (B, 2, 1, 2)
        else:
            labelled = labelled_cells(annotations, size).flatten(3)  # (B, 2, K, M)
            cells = maps.flatten(3).expand(len(annotations), -1, -1, -1)  # (B, K, C, M)
        return Guidance(unit(cells, 2) if self.metric == "cosine" else cells, labelled, known)

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W): minus half the squared distance to each label, scaled, brought to image size.

        Under ``cosine`` this is 20 (cosine - 1), and the -1 cancels; under ``l2`` distances are relative to the mean
        squared length of the query's features.
        """
        cells, labelled, known = guidance
        maps = features.maps[0]
        queries = (unit(maps, 1) if self.metric == "cosine" else maps).flatten(2)  # (B, C, N)
        products = nearest_product(queries, cells, labelled, cells.square().sum(2) / 2)
        products = torch.where(known[..., None], products, 0.0)  # the zero vector
        lengths = queries.square().sum(1, keepdim=True)  # (B, 1, N)
        scale = SCALE if self.metric == "cosine" else SCALE / lengths.mean((1, 2), keepdim=True).clamp(min=_SHORT)
        logits = (scale * (products - lengths / 2)).unflatten(2, (maps.shape[-2], maps.shape[-1]))
        return silence(upsample(logits, features.image_size), known[:, POSITIVE])

    def represent(self, guidance: Guidance) -> Tensor:
        """The mean of the cells of each label, (B, 2 C)."""
        share = guidance.labelled.to(guidance.cells.dtype)
        share = share / share.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.einsum("bkcm,blkm->blc", guidance.cells, share).flatten(1)


class NearestNeighbor(FewShotSegmentor):
    """The nearest neighbour on features of an encoder; with a frozen encoder nothing is trained.

    Args:
        encoder: ``tiny`` or a timm name, vision transformers included.
        weights: a file or ``"pretrained"``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: False trains the encoder through the similarities.
        width: channels of an embedding of the taps, which comes with a pre-trained encoder; None compares the taps.
        inference: ``nearest`` support cell, or one ``prototype`` per label.
        metric: ``cosine`` or ``l2``.
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
        freeze_encoder: bool = True,
        width: int | None = None,
        inference: Inference = "nearest",
        metric: Metric = "cosine",
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
        refuse_unlearned(backbone, weights, width)
        super().__init__(
            NearestNeighborNetwork(backbone, width, inference, metric),
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )


def refuse_unlearned(encoder: Encoder, weights: str | None, width: int | None) -> None:
    """A frozen embedding that the weights do not hold would stay random.

    Raises:
        FewsegError: it would.
    """
    if width is None or weights is None or encoder.trainable:
        return
    trained = encoder.embedding_state.get("project.weight")
    if trained is None or trained.shape[0] != width:
        holds = "no embedding" if trained is None else f"an embedding of width {trained.shape[0]}"
        remedy = "leave width out, or pass weights that EncoderPretraining saved with this width"
        raise FewsegError("width", width, f"the width of the embedding in the weights, which hold {holds}", remedy)
