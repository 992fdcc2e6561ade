"""Annotation maps (0 negative, 1 positive, 255 unknown) as networks read them: grid weights and missing labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE

# Margin of a silenced pixel: far below any threshold, yet its cross-entropy stays finite in half precision.
_SILENT = 10.0


def weights_of(annotations: Tensor, label: int, size: tuple[int, int]) -> Tensor:
    """How much of each grid cell carries a label: average-pooled indicator maps.

    Args:
        annotations: (B, K, H, W) integers: 0 negative, 1 positive, 255 unknown.
        label: the value to look for.
        size: (h, w) of the feature grid.

    Returns:
        (B, K, h, w) float32 in [0, 1]. A single annotated pixel is never lost, it weighs 1 / (pixels of its cell).

    >>> dense = torch.tensor([[[[1, 1, 0, 0], [1, 0, 0, 255]]]], dtype=torch.uint8)
    >>> weights_of(dense, 1, (1, 2))
    tensor([[[[0.7500, 0.0000]]]])
    """
    return F.adaptive_avg_pool2d((annotations == label).float(), size)


def annotated(annotations: Tensor) -> Tensor:
    """Which labels an episode's supports carry at all.

    Args:
        annotations: (B, K, H, W) integers: 0 negative, 1 positive, 255 unknown.

    Returns:
        (B, 2) bool: any negative pixel, any positive pixel.

    >>> annotated(torch.tensor([[[[255, 1]]], [[[0, 255]]]]))
    tensor([[False,  True],
            [ True, False]])
    """
    return torch.stack([(annotations == label).flatten(1).any(1) for label in (NEGATIVE, POSITIVE)], 1)


def indicators(annotations: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Annotation maps as the two channels that early fusion reads: negative, then positive.

    Args:
        annotations: (B, K, H, W) integers: 0 negative, 1 positive, 255 unknown.
        dtype: of the result.

    Returns:
        (B, K, 2, H, W) of 0 and 1; unknown pixels are 0 in both channels.

    >>> indicators(torch.tensor([[[[0, 1, 255]]]])).flatten()
    tensor([1., 0., 0., 0., 1., 0.])
    """
    return torch.stack([annotations == NEGATIVE, annotations == POSITIVE], 2).to(dtype)


def silence(logits: Tensor, positive: Tensor) -> Tensor:
    """All background where nothing positive was annotated: nobody said what to look for.

    Silenced episodes are constants, so no gradient (and no NaN of an empty mean) flows back from them.

    Args:
        logits: (B, 2, H, W).
        positive: (B,) bool, whether any positive pixel was annotated.

    Returns:
        (B, 2, H, W).

    >>> silence(torch.ones(2, 2, 1, 1), torch.tensor([True, False])).flatten(1)
    tensor([[  1.,   1.],
            [ 10., -10.]])
    """
    background = logits.new_tensor([_SILENT, -_SILENT])[:, None, None]
    return torch.where(positive[:, None, None, None], logits, background)
