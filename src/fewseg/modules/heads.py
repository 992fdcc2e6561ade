"""Guided inference: how query features and the task representation z become scores, one module for each way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.functional.geometry import upsample
from fewseg.functional.similarity import nearest_product, unit

HeadKind = Literal["shared", "separate"]


class Head(nn.Module):
    """Feature fusion: 1x1 convolutions on the concatenation of query features and tiled z.

    ``shared``: one metric, applied to (query, z_k) once per label k, gives that label's score. ``separate``: one pass
    over (query, z_positive, z_negative) gives both. The first convolution is linear in the concatenation, so it is
    computed as W_q f + W_z z: once per query, plus a vector per episode, and no tiled map is ever built.

    Args:
        width: channels C of features and z.
        hidden: channels after each hidden layer.
        kind: ``shared`` or ``separate``.
        dropout: of whole channels before the score.
        labels: how many z there are: 2, or another number that one pass over both labels reads (``separate`` only).
        similar: similarity maps per label that join the concatenation.
        kernel: side of the layers after the first; 3 lets a cell see its neighbours.

    >>> Head(4, (8, 8), "shared")(torch.rand(1, 4, 3, 5), torch.rand(6, 2, 4)).shape
    torch.Size([6, 2, 3, 5])
    >>> Head(4, (8, 8), "separate")(torch.rand(1, 4, 3, 5), torch.rand(6, 2, 4, 7, 7)).shape  # a local z
    torch.Size([6, 2, 3, 5])
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        kind: HeadKind,
        dropout: float = 0.0,
        labels: int = 2,
        similar: int = 0,
        kernel: int = 1,
    ) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        shared = kind == "shared"
        self.scores = 1 if shared else 2
        self.parts = (width, width * (1 if shared else labels), similar * (1 if shared else 2))
        self.fuse = nn.Conv2d(sum(self.parts), hidden[0], 1)
        layers: list[nn.Module] = []
        for before, after in pairwise(hidden):
            layers += [nn.ReLU(), nn.Conv2d(before, after, kernel, padding=kernel // 2)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Dropout2d(dropout))
        self.score = nn.Conv2d(hidden[-1], self.scores, 1)

    def forward(self, features: Tensor, z: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Scores (B, 2, h, w), negative then positive.

        Args:
            features: (B or 1, C, h, w).
            z: (B, labels, C), or (B, labels, C, h', w') where the task representation is local.
            similarity: (B, 2, similar, h, w).
        """
        query_weight, z_weight, similarity_weight = self.fuse.weight.split(self.parts, 1)
        query = F.conv2d(features, query_weight, self.fuse.bias)  # (B, hidden, h, w)
        hidden = query[:, None] + self._project(self._joined(z), z_weight, query)  # (B, 2 or 1, hidden, h, w)
        if similarity is not None:
            hidden = hidden + self._project(self._joined(similarity), similarity_weight, query)
        scores: Tensor = self.score(self.layers(hidden.flatten(0, 1)))
        return scores.reshape(hidden.shape[0], 2, *scores.shape[-2:])

    def _joined(self, labels: Tensor) -> Tensor:
        """What one pass reads: (B, 2, n, ...) where the metric is shared, else (B, 1, labels n, ...)."""
        # the original's channel 1 (positive) comes first, whatever its variables are called
        return labels if self.kind == "shared" else labels.flip(1).flatten(1, 2)[:, None]

    @staticmethod
    def _project(context: Tensor, weight: Tensor, query: Tensor) -> Tensor:
        """A 1x1 convolution of (B, m, n), or of maps (B, m, n, h', w') brought to the query's grid."""
        if context.ndim == 3:
            return F.linear(context, weight.flatten(1))[..., None, None]
        maps = upsample(F.conv2d(context.flatten(0, 1), weight), (query.shape[-2], query.shape[-1]))
        return maps.reshape(*context.shape[:2], *maps.shape[1:])


class Regression(nn.Module):
    """Parameter regression: a linear map of z gives the weights and biases of the 1x1 output layer.

    It starts small: the first scores hardly prefer a label, whatever z is.

    Args:
        width: channels C of features and z.
        labels: how many z there are.

    >>> Regression(4)(torch.rand(1, 4, 3, 5), torch.rand(6, 2, 4)).shape
    torch.Size([6, 2, 3, 5])
    """

    def __init__(self, width: int, labels: int = 2) -> None:
        super().__init__()
        self.width = width
        self.regressor = nn.Linear(labels * width, 2 * (width + 1))
        nn.init.normal_(self.regressor.weight, std=0.01)
        nn.init.zeros_(self.regressor.bias)

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """Scores (B, 2, h, w) of features (B or 1, C, h, w) and z (B, labels, C)."""
        layer: Tensor = self.regressor(z.flatten(1)).reshape(-1, 2, self.width + 1)
        weight, bias = layer[..., :-1], layer[..., -1]  # (B, 2, C), (B, 2)
        return torch.einsum("bchw,bkc->bkhw", features, weight) + bias[..., None, None]


class Prototypes(nn.Module):
    """The nearer of two prototypes: a score is minus the squared distance to z, times a learned scale.

    Args:
        width: channels C of features and z; the scale starts at 10 / C.

    >>> Prototypes(4)(torch.rand(1, 4, 3, 5), torch.rand(6, 2, 4)).shape
    torch.Size([6, 2, 3, 5])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0 / width))

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """Scores (B, 2, h, w) of features (B or 1, C, h, w) and z (B, 2, C)."""
        distances = [(features - one[..., None, None]).square().sum(1) for one in z.unbind(1)]
        return -self.scale * torch.stack(distances, 1)


class Nearest(nn.Module):
    """The nearest annotated support cell: a score is the best cosine with a cell of that label, times a learned scale.

    A label that nobody annotated counts as a cosine of one half everywhere, so that the other one decides.

    >>> cells, weights = torch.rand(6, 2, 4, 3, 3), torch.ones(6, 2, 2, 3, 3)
    >>> Nearest()(torch.rand(1, 4, 3, 5), cells, weights).shape
    torch.Size([6, 2, 3, 5])
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, features: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
        """Scores (B, 2, h, w), see ``nearest_maps``."""
        known = (weights > 0).flatten(2).any(2)[..., None, None]  # (B, 2, 1, 1)
        return self.scale * torch.where(known, nearest_maps(features, cells, weights), 0.5)


def nearest_maps(features: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """The best cosine of every query cell with a support cell of each label; -1 for a label that no cell carries.

    Shots are compared one after the other: the largest table is (B, cells of a query, cells of one support).

    Args:
        features: (B or 1, C, h, w) of queries.
        cells: (B, K, C, hs, ws) of supports.
        weights: (B, 2, K, hs, ws); a cell carries a label where its weight is positive.

    Returns:
        (B, 2, h, w).

    >>> cells = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).view(1, 2, 2, 1, 1)  # one cell in each of two shots
    >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 2, 1, 1)  # the first is negative
    >>> nearest_maps(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), cells, weights).flatten()
    tensor([0.6000, 0.8000])
    """
    queries, stored = unit(features, 1).flatten(2), unit(cells, 2).flatten(3)
    best = nearest_product(queries, stored, weights.flatten(3) > 0)  # (B, 2, h * w)
    return torch.where(best.isinf(), -1.0, best).reshape(*best.shape[:2], *features.shape[-2:])
