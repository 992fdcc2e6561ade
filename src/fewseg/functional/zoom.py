"""ZoomIn and mirror images: two ways to ask a network again, from the code of f-BRS (Sofiiuk et al. 2020).

After the first click the network sees a crop around what it found, at a higher resolution. The constants are those of
the benchmark of f-BRS, whose images have about 500 pixels a side. A click outside the crop is left out; in the original
it still counts for the distance maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import NO_CLICK, POSITIVE, Box, Click
from fewseg.errors import FewsegError


def next_region(
    region: Box | None,
    mask: npt.NDArray[np.generic],
    clicks: Sequence[Click],
    expansion: float = 1.4,
    min_size: int = 200,
    min_iou: float = 0.5,
    first_click: int = 2,
) -> Box | None:
    """The crop for the next answer: the same as before, unless the object has left it.

    Args:
        region: crop of the answer before, None = the whole image.
        mask: (H, W), the answer before; non-zero is foreground.
        clicks: all so far, the newest included.
        expansion: of the crop, see ``region_of``.
        min_size: of the crop, see ``region_of``.
        min_iou: of the old crop and the one that the mask suggests, below which the new one is taken.
        first_click: number of clicks from which on crops are made.

    Returns:
        The crop, or None for the whole image: too few clicks, or nothing was found to crop.

    >>> mask = np.zeros((100, 100))
    >>> mask[40:60, 40:60] = 1
    >>> clicks = [Click(50, 50, 1), Click(45, 45, 0)]
    >>> next_region(None, mask, clicks[:1], min_size=20), next_region(None, mask, clicks, min_size=20)
    (None, Box(top=36, left=36, height=28, width=28))
    """
    if len(clicks) < first_click:
        return None
    candidate = region_of(mask, clicks, expansion, min_size)
    if region is None or candidate is None or needs_new_region(region, candidate, clicks, min_iou):
        return candidate
    return region


def region_of(
    mask: npt.NDArray[np.generic], clicks: Sequence[Click], expansion: float = 1.4, min_size: int = 200
) -> Box | None:
    """A box around a mask and all positive clicks, expanded about its centre, cut at the border of the image.

    Args:
        mask: (H, W), non-zero is foreground.
        clicks: inside the image.
        expansion: factor on both sides of the box.
        min_size: of both sides, in pixels.

    Returns:
        None where the mask is empty.

    >>> region_of(np.eye(10), [], expansion=1, min_size=4)
    Box(top=0, left=0, height=10, width=10)
    """
    if not mask.any():
        return None
    marked = mask != 0
    for click in clicks:
        marked[click.row, click.col] |= click.label == POSITIVE
    top, height = _expanded(marked.any(1), expansion, min_size)
    left, width = _expanded(marked.any(0), expansion, min_size)
    return Box(top, left, height, width)


def _expanded(marked: npt.NDArray[np.bool_], expansion: float, min_size: int) -> tuple[int, int]:
    """Start and length along one axis."""
    places = np.flatnonzero(marked)
    first, end = int(places[0]), int(places[-1]) + 1
    side = max(expansion * (end - first), min_size)
    start = max(math.floor((first + end - side) / 2 + 0.5), 0)
    stop = min(math.floor((first + end + side) / 2 + 0.5), len(marked))
    return start, stop - start


def needs_new_region(region: Box, candidate: Box, clicks: Sequence[Click], min_iou: float = 0.5) -> bool:
    """Whether a positive click lies outside the crop, or the crop overlaps too little with what the mask suggests.

    >>> needs_new_region(Box(0, 0, 4, 4), Box(0, 0, 4, 8), []), needs_new_region(Box(0, 0, 4, 4), Box(0, 0, 4, 9), [])
    (False, True)
    """
    positive = [click for click in clicks if click.label == POSITIVE]
    return len(clicks_in(positive, region)) < len(positive) or box_iou(region, candidate) < min_iou


def box_iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes in pixels.

    >>> box_iou(Box(0, 0, 2, 2), Box(1, 1, 2, 2))  # 1 / 7
    0.14285714285714285
    """
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    shared = max(height, 0) * max(width, 0)
    return shared / (one.height * one.width + other.height * other.width - shared)


def clicks_in(clicks: Sequence[Click], region: Box) -> tuple[Click, ...]:
    """Clicks of the image as clicks of the crop, in order; those outside are left out.

    >>> clicks_in([Click(5, 7, 1), Click(0, 0, 0)], Box(4, 4, 3, 4))
    (Click(row=1, col=3, label=1),)
    """
    moved = [Click(row - region.top, col - region.left, label) for row, col, label in clicks]
    return tuple(click for click in moved if 0 <= click.row < region.height and 0 <= click.col < region.width)


def paste(probs: npt.NDArray[np.float32], region: Box, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Probabilities of a crop, in the image: 0 outside, so that the crop's border may cut an object.

    Args:
        probs: (height, width) of the crop.
        region: where it was cut out.
        size: (H, W) of the image.

    Raises:
        FewsegError: the probabilities have another size than the crop.

    >>> paste(np.ones((1, 2), np.float32), Box(1, 0, 1, 2), (2, 3)).tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    if probs.shape != (region.height, region.width):
        raise FewsegError("probs", probs.shape, f"{(region.height, region.width)}", "restore them to the crop's size")
    image = np.zeros(size, probs.dtype)
    image[region.top : region.top + region.height, region.left : region.left + region.width] = probs
    return image


def mirrored_clicks(clicks: Tensor, width: int) -> Tensor:
    """The clicks of the mirror image.

    Args:
        clicks: (B, N, 3) integers (row, col, label), label -1 = padding.
        width: of the image.

    >>> import torch
    >>> mirrored_clicks(torch.tensor([[[3, 0, 1], [0, 0, -1]]]), 10).tolist()
    [[[3, 9, 1], [0, 0, -1]]]
    """
    mirrored = clicks.clone()
    columns = width - 1 - clicks[..., 1]
    mirrored[..., 1] = columns.where(clicks[..., 2] != NO_CLICK, clicks[..., 1])
    return mirrored


def merge_mirrored(logits: Tensor) -> Tensor:
    """The mean probabilities of an image and its mirror image, as logits: their softmax is that mean.

    Args:
        logits: (2, C, H, W), the mirror image second.

    Returns:
        (1, C, H, W), turned like the first.

    >>> import torch
    >>> one, other = [[0.8, 0.6], [0.2, 0.4]], [[0.2, 0.4], [0.8, 0.6]]
    >>> merged = merge_mirrored(torch.tensor([one, other]).log()[:, :, None])
    >>> [[round(p, 4) for p in row] for row in merged.softmax(1)[0, :, 0].tolist()]
    [[0.6, 0.4], [0.4, 0.6]]
    """
    one, other = F.log_softmax(logits, 1).split(1)
    merged: Tensor = one.logaddexp(other.flip(-1)) - math.log(2)
    return merged
