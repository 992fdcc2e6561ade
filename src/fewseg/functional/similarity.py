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


def nearest_product(queries: Tensor, cells: Tensor, labelled: Tensor, offsets: Tensor | None = None) -> Tensor:
    """For every query the largest inner product with a labelled cell, minus the cell's offset.

    Offsets of |s|^2 / 2 find the cell s at the least Euclidean distance. Shots are visited one after the other, so that
    the products of one shot are all that is held at once.

    Args:
        queries: (B, C, N); B = 1 broadcasts, here and below.
        cells: (B, K, C, M) of K shots.
        labelled: (B, n, K, M) bool, the cells of each of n labels.
        offsets: (B, K, M), or None for zeros.

    Returns:
        (B, n, N); -inf where no cell carries the label.

    >>> cells, both = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[True, True]]]])
    >>> nearest_product(torch.tensor([[[2.0]]]), cells, both)
    tensor([[[6.]]])
    >>> nearest_product(torch.tensor([[[2.0]]]), cells, torch.tensor([[[[True, False]], [[False, False]]]]))
    tensor([[[2.],
             [-inf]]])
    """
    best: Tensor | None = None
    for shot in range(cells.shape[1]):
        products = torch.matmul(queries.mT, cells[:, shot])  # (B, N, M)
        if offsets is not None:
            products = products - offsets[:, shot, None]
        found = [
            products.masked_fill(~labelled[:, label, shot, None], -torch.inf).amax(-1)
            for label in range(labelled.shape[1])
        ]
        nearest = torch.stack(found, 1)  # (B, n, N)
        best = nearest if best is None else torch.maximum(best, nearest)
    assert best is not None
    return best
