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
