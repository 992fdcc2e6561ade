"""Similarity of feature maps to vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vectors: Tensor, dim: int, eps: float = 1e-8) -> Tensor:
    """Vectors of length 1; one shorter than ``eps`` has no direction and becomes zero, with a gradient of zero.

    Args:
        vectors: any shape.
        dim: the axis that holds a vector's entries.
        eps: shortest length that counts.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), dim=1)
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / length.masked_fill(length <= eps, torch.inf)


def cosine_maps(features: Tensor, prototypes: Tensor) -> Tensor:
    """The cosine of every cell with every prototype: u . v / (|u| |v|), 0 for a zero vector.

    Args:
        features: (B, C, h, w); B = 1 broadcasts against prototypes of B = n.
        prototypes: (B, n, C).

    Returns:
        (B, n, h, w) in [-1, 1].

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)  # cells (1, 0) and (0, 2)
    >>> cosine_maps(features, torch.tensor([[[0.0, 5.0], [0.0, 0.0]]]))
    tensor([[[[0., 1.]],
    <BLANKLINE>
             [[0., 0.]]]])
    """
    return torch.einsum("bchw,bnc->bnhw", unit(features, 1), unit(prototypes, 2))


def nearest_cosine(features: Tensor, supports: Tensor, weights: Tensor) -> Tensor:
    """The cosine of every query cell with the most similar support cell that carries a label: a nearest neighbour.

    Args:
        features: (B, C, h, w) of queries; B = 1 broadcasts against supports of B = n.
        supports: (B, K, C, hs, ws).
        weights: (B, K, hs, ws) of one label; a cell takes part where its weight is positive.

    Returns:
        (B, h, w) in [-1, 1]; -1 where no support cell carries the label.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)  # cells (1, 0) and (0, 2)
    >>> supports = torch.tensor([[3.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 1, 2)  # cells (3, 0) and (1, 1)
    >>> nearest_cosine(features, supports, torch.tensor([0.0, 0.5]).view(1, 1, 1, 2))
    tensor([[[0.7071, 0.7071]]])
    """
    cells = unit(supports, 2).permute(0, 2, 1, 3, 4).flatten(2)  # (B, C, K * hs * ws)
    queries = unit(features, 1).flatten(2)  # (B, C, h * w)
    cosines = torch.matmul(queries.mT, cells)  # (B, h * w, K * hs * ws)
    labelled = (weights > 0).flatten(1)[:, None]  # (B, 1, K * hs * ws)
    best: Tensor = cosines.masked_fill(~labelled, -1.0).amax(-1)
    return best.unflatten(-1, features.shape[-2:])
