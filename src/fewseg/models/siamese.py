"""Siamese matching: an embedding in which pixels of one label are alike; the label of the nearest cell is copied.

Source: the Siamese baseline of Shaban et al. 2017 (OSLSM, https://arxiv.org/abs/1709.03410): a fully convolutional
network trained to match pixels of the same class, which copies the label of the most similar support pixel. No code of
it is public.

Deviations: an encoder of choice with all taps embedded to one width instead of FCN-32s; pairs come from episodes of
one class, so that "background" is one of two labels rather than one of sixteen; the loss (pairwise logistic on the
cosine, each kind of pair counting the same) is ours, the paper names none.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import EpisodeBatch
from fewseg.errors import FewsegError
from fewseg.functional.similarity import unit
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.models.nearest_neighbor import SCALE, NearestNeighborNetwork, labelled_cells
from fewseg.modules.encoders import Embedding, Encoder

# A pair matches where its cosine exceeds this: the same bound that a nearest neighbour without negatives has.
_BOUND = 0.5


class SiameseNetwork(NearestNeighborNetwork):
    """``guide`` and ``segment`` are a nearest neighbour by cosine; the embedding learns to match.

    Without negatives a cell is foreground where its cosine with a positive cell exceeds 0.5, which is where the
    training calls a pair a match. Without positives all is background.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding.
        n_cells: at most as many cells of each label are paired in training, from the query and from all shots.

    >>> network = SiameseNetwork(Encoder("tiny"), width=16)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    trainable: ClassVar[bool] = True

    def __init__(self, encoder: Encoder, width: int = 128, n_cells: int = 256) -> None:
        super().__init__(encoder)
        if n_cells < 1:
            raise FewsegError("n_cells", n_cells, "at least 1", "256 is the default")
        self.embedding = Embedding(encoder, width)  # learns even where the encoder is frozen
        self.n_cells = n_cells

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Logistic loss over pairs of a query cell and a support cell: do they carry the same label?"""
        supports = self.encode_support(batch.support_images).maps[0]
        queries = self.encode_query(batch.query_images).maps[0][:, None]
        sides = [(queries, batch.query_masks[:, None]), (supports, batch.support_annotations)]
        (query, query_known), (support, support_known) = (self.sample(maps, labels) for maps, labels in sides)
        return {"matching": matching(query, query_known, support, support_known)}

    def sample(self, maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, 2, n, C) of each label, spread over maps (B, K, C, h, w), and which of them exist (B, 2, n)."""
        labelled = labelled_cells(labels, (maps.shape[-2], maps.shape[-1])).flatten(2)  # (B, 2, M)
        # a fixed order of cells: deterministic, and not the top left corner first
        order = torch.rand(labelled.shape[2], generator=torch.Generator().manual_seed(0)).to(maps.device)
        chosen = (labelled + order).topk(min(self.n_cells, labelled.shape[2]), dim=2).indices  # (B, 2, n)
        cells = maps.transpose(1, 2).flatten(2).mT  # (B, M, C)
        episode = torch.arange(len(cells), device=maps.device)[:, None, None]
        return cells[episode, chosen], labelled.gather(2, chosen)


def matching(query: Tensor, query_known: Tensor, support: Tensor, support_known: Tensor) -> Tensor:
    """The mean over episodes of the pairwise logistic loss.

    Each of the four kinds of pairs (label of the query cell, label of the support cell) counts the same, kinds that an
    episode lacks do not count.

    Args:
        query: cells (B, 2, n, C), first axis after B is the label.
        query_known: (B, 2, n) bool, the cells that exist.
        support: (B, 2, m, C).
        support_known: (B, 2, m) bool.

    >>> cell, known = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.ones(1, 2, 1, dtype=torch.bool)
    >>> matching(cell, known, cell, known)  # log(1 + exp(-20 / 2)) for each kind
    tensor(4.5399e-05)
    """
    cosines = torch.einsum("banc,bdmc->badnm", unit(query, 3), unit(support, 3))
    same = torch.eye(2, dtype=cosines.dtype, device=cosines.device)[..., None, None] * 2 - 1  # (2, 2, 1, 1)
    known = query_known[:, :, None, :, None] & support_known[:, None, :, None, :]
    pairs = torch.where(known, F.softplus(-same * SCALE * (cosines.float() - _BOUND)), 0.0).sum((3, 4))
    count = known.sum((3, 4))  # (B, 2, 2)
    kinds = (pairs / count.clamp(min=1)).sum((1, 2)) / (count > 0).sum((1, 2)).clamp(min=1)
    return kinds.mean()


class Siamese(FewShotSegmentor):
    """Dense Siamese matching.

    Args:
        encoder: ``tiny`` or a timm name.
        weights: a file or ``"pretrained"``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: train only the embedding.
        width: channels of the embedding.
        n_cells: at most as many cells of each label are paired in training.
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
        n_cells: int = 256,
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
        super().__init__(
            SiameseNetwork(backbone, width, n_cells),
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
