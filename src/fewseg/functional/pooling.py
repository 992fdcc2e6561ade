"""Weighted means of support features: the vectors that guided and prototype networks call z."""

from __future__ import annotations

import torch
from torch import Tensor


def shot_means(features: Tensor, weights: Tensor, eps: float = 0.0) -> Tensor:
    """The weighted mean of each shot's features; zeros for a shot without weight.

    Args:
        features: (B, K, C, h, w); B = 1 broadcasts against weights of B = n.
        weights: (B, K, h, w), not negative.
        eps: added to the sum of weights, as some papers do; it shrinks the mean of a faint mask.

    Returns:
        (B, K, C) in the dtype of the features.

    >>> features = torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 1, 1, 3)
    >>> shot_means(features, torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 1, 3))
    tensor([[[4.]]])
    """
    mass = weights.sum((-2, -1))
    share = weights / torch.where(mass > 0, mass + eps, 1.0)[..., None, None]
    return torch.einsum("bkchw,bkhw->bkc", features, share.to(features.dtype))


def masked_mean(features: Tensor, weights: Tensor, eps: float = 0.0) -> Tensor:
    """The mean over shots of ``shot_means``, over the shots that carry weight; zeros if none does.

    A shot that annotates only one label therefore contributes to that label only.

    Args:
        features: (B, K, C, h, w); B = 1 broadcasts against weights of B = n.
        weights: (B, K, h, w) of one label.
        eps: see ``shot_means``.

    Returns:
        (B, C).

    >>> features = torch.tensor([2.0, 8.0]).view(1, 2, 1, 1, 1)
    >>> masked_mean(features, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    tensor([[2.]])
    >>> masked_mean(features, torch.zeros(1, 2, 1, 1))
    tensor([[0.]])
    """
    count = (weights.sum((-2, -1)) > 0).sum(1, keepdim=True).clamp(min=1)
    return shot_means(features, weights, eps).sum(1) / count


def masked_max(features: Tensor, weights: Tensor) -> Tensor:
    """The mean over shots of the largest value under the weights, shots as in ``masked_mean``; zeros if none carries.

    Args:
        features: (B, K, C, h, w); B = 1 broadcasts against weights of B = n.
        weights: (B, K, h, w) of one label; a cell takes part where its weight is positive.

    Returns:
        (B, C).

    >>> features = torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 1, 1, 3)
    >>> masked_max(features, torch.tensor([0.1, 0.2, 0.0]).view(1, 1, 1, 3))
    tensor([[3.]])
    """
    carried = (weights > 0)[:, :, None]  # (B, K, 1, h, w)
    best = torch.where(carried, features, -torch.inf).amax((-2, -1))  # (B, K, C)
    shots = carried.flatten(2).any(2, keepdim=True)  # (B, K, 1)
    return torch.where(shots, best, 0.0).sum(1) / shots.sum(1).clamp(min=1)


def masked_map(features: Tensor, weights: Tensor) -> Tensor:
    """Features times weights, cell by cell: what is left when ``masked_mean`` does not pool over positions.

    Weights are divided by the largest of their shot, so that one annotated pixel is as loud as a mask.

    Args:
        features: (B, K, C, h, w); B = 1 broadcasts against weights of B = n.
        weights: (B, K, h, w) of one label.

    Returns:
        (B, C, h, w): the mean over the shots that carry weight; zeros if none does.

    >>> features = torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 1, 1, 3)
    >>> masked_map(features, torch.tensor([0.1, 0.2, 0.0]).view(1, 1, 1, 3))
    tensor([[[[0.5000, 3.0000, 0.0000]]]])
    """
    shots = (weights.sum((-2, -1)) > 0).sum(1).clamp(min=1)[:, None, None, None]
    return torch.einsum("bkchw,bkhw->bchw", features, peak_one(weights).to(features.dtype)) / shots


def peak_one(weights: Tensor) -> Tensor:
    """Weights (..., h, w) divided by the largest of each map; zeros stay zeros.

    >>> peak_one(torch.tensor([[0.1, 0.2, 0.0]]))
    tensor([[0.5000, 1.0000, 0.0000]])
    """
    peak = weights.amax((-2, -1), keepdim=True)
    return weights / torch.where(peak > 0, peak, 1.0)
