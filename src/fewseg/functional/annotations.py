"""Annotation maps (0 negative, 1 positive, 255 unknown) as networks read them: grid weights and missing labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE
from fewseg.errors import FewsegError

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


def upsampled_weights(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask under the adjoint of bilinear upsampling: grid weights of features that are upsampled to the mask.

    Some papers upsample the features to the mask and sum them under it. A sum under U f is the same sum of f under the
    transposed U, which never builds a feature map at image size.

    Args:
        mask: (..., H, W) floats.
        size: (h, w) of the feature grid; align_corners=False.

    Returns:
        (..., h, w) in the dtype of the mask, with the mask's sum.

    >>> upsampled_weights(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), (1, 2))
    tensor([[1., 1.]])
    """
    rows, columns = (_upsampling(cells, mask.shape[d]).to(mask) for cells, d in zip(size, (-2, -1), strict=True))
    return rows @ mask @ columns.mT


def _upsampling(cells: int, pixels: int) -> Tensor:
    """The transposed matrix (cells, pixels) of bilinear upsampling along one axis."""
    eye = torch.eye(cells, dtype=torch.float64)[None]
    return F.interpolate(eye, size=pixels, mode="linear", align_corners=False)[0]


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


def dilate(indicators: Tensor, size: int) -> Tensor:
    """Every annotated pixel grown to a square, so that few points survive the strides of an encoder.

    Args:
        indicators: (..., H, W) of 0 and 1.
        size: side of the square in pixels, odd; 1 changes nothing.

    Returns:
        the same shape.

    Raises:
        FewsegError: ``size`` is even, so that the square would have no centre.

    >>> dilate(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), 3)
    tensor([[0., 0., 1., 1.]])
    """
    if size < 1 or size % 2 == 0:
        raise FewsegError("size", size, "an odd number of pixels", "add or subtract 1")
    flat = indicators.reshape(-1, 1, *indicators.shape[-2:])
    return F.max_pool2d(flat, size, stride=1, padding=size // 2).reshape(indicators.shape)


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
