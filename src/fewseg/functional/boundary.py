"""Boundaries of masks and how well two of them agree: the counts behind F of DAVIS. Needs no torch.

Definitions as in the official evaluation (Perazzi et al. 2016; davis2017-evaluation). A mask is held as one long
integer with a bit per pixel, so that a disc is dilated by shifting whole images: exact, and the time of a frame does
not depend on how much boundary it has.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fewseg.errors import FewsegError


class BoundaryCounts(NamedTuple):
    """Boundary pixels of a prediction and of the truth, and how many of them the other side matches."""

    pred: int
    true: int
    pred_matched: int
    true_matched: int


def boundary_map(mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The boundary of a mask, one pixel wide: pixels that differ from their right, lower or lower-right neighbour.

    Pixels of the last row have a right neighbour only, those of the last column a lower one, the corner none. So a
    mask that fills the image has no boundary, and a contour lies half a pixel towards the first row and column.

    Args:
        mask: (H, W) bool, or integers 0 and 1.

    Returns:
        (H, W) bool.

    Raises:
        FewsegError: another number of axes, or other values.

    >>> boundary_map(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 0]])
    """
    inside = _inside("mask", mask)
    edge = np.zeros(inside.shape, bool)
    edge[:, :-1] = inside[:, :-1] != inside[:, 1:]
    edge[:-1] |= inside[:-1] != inside[1:]
    edge[:-1, :-1] |= inside[:-1, :-1] != inside[1:, 1:]
    return edge


def boundary_counts(pred: npt.NDArray[Any], truth: npt.NDArray[Any], bound_pix: float = 0.008) -> BoundaryCounts:
    """Boundary pixels of two masks, and how many lie within a distance of the other mask's boundary.

    Args:
        pred: (H, W) bool, or integers 0 and 1.
        truth: (H, W) like ``pred``. Void has to be decided before: the official evaluation takes it as background.
        bound_pix: the distance in pixels, a whole number; below 1 a share of the image's diagonal, rounded up. Pixels
            match where the squared distance of their centres is at most its square.

    Raises:
        FewsegError: shapes differ, other values than 0 and 1, or a distance that is neither.

    >>> truth = np.zeros((8, 8), bool)
    >>> truth[2:6, 2:6] = True
    >>> boundary_counts(np.roll(truth, 2, axis=1), truth)
    BoundaryCounts(pred=13, true=16, pred_matched=10, true_matched=10)
    """
    if pred.shape != truth.shape:
        remedy = "bring the prediction to the size of the truth first"
        raise FewsegError("pred", f"shape {pred.shape}", f"{truth.shape}", remedy)
    if not (0 < bound_pix < 1 or (1 <= bound_pix < math.inf and bound_pix == int(bound_pix))):
        remedy = "0.008 is that of DAVIS"
        raise FewsegError("bound_pix", bound_pix, "a share above 0 and below 1, or whole pixels", remedy)
    radius = int(bound_pix) if bound_pix >= 1 else math.ceil(bound_pix * math.hypot(*pred.shape))
    gap = min(radius, pred.shape[1])  # empty columns between rows, so that a shift does not reach the next row
    stride = pred.shape[1] + gap
    guess, real = (_as_bits(boundary_map(_inside(name, m)), stride) for name, m in (("pred", pred), ("truth", truth)))
    return BoundaryCounts(
        pred=guess.bit_count(),
        true=real.bit_count(),
        pred_matched=(guess & _dilated(real, radius, stride, pred.shape)).bit_count(),
        true_matched=(real & _dilated(guess, radius, stride, pred.shape)).bit_count(),
    )


def boundary_f(counts: BoundaryCounts) -> float:
    """F of one frame: the harmonic mean of the shares of both boundaries that are matched.

    Two masks without a boundary agree, F 1; one without gives F 0.

    >>> round(boundary_f(BoundaryCounts(pred=13, true=16, pred_matched=10, true_matched=10)), 6)
    0.689655
    >>> boundary_f(BoundaryCounts(0, 16, 0, 0)), boundary_f(BoundaryCounts(0, 0, 0, 0))
    (0.0, 1.0)
    """
    return float(boundary_fs(*counts))


def boundary_fs(
    pred: npt.ArrayLike, true: npt.ArrayLike, pred_matched: npt.ArrayLike, true_matched: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """``boundary_f`` of many frames.

    Args:
        pred: (n,) boundary pixels; so are ``true``, ``pred_matched`` and ``true_matched``.
        true: (n,) pixels.
        pred_matched: (n,) pixels.
        true_matched: (n,) pixels.

    Returns:
        (n,) in [0, 1].

    >>> boundary_fs([13, 0, 0], [16, 16, 0], [10, 0, 0], [10, 0, 0]).round(3)
    array([0.69, 0.  , 1.  ])
    """
    found, real, right, met = (np.asarray(c, np.float64) for c in (pred, true, pred_matched, true_matched))
    precision = np.where(found > 0, right / np.maximum(found, 1), 1.0)  # nothing found: nothing of it is wrong
    recall = np.where(real > 0, met / np.maximum(real, 1), 1.0)
    both = precision + recall
    return np.asarray(2 * precision * recall / np.where(both > 0, both, 1.0), np.float64)


def _inside(name: str, mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if mask.ndim != 2 or not mask.size:
        raise FewsegError(name, f"shape {mask.shape}", "(H, W)", "pass one mask at a time")
    if mask.dtype == bool:
        return mask
    if mask.max() > 1 or mask.min() < 0:
        raise FewsegError(name, f"values {mask.min()} to {mask.max()}", "0 and 1", "take void out and compare first")
    return np.asarray(mask != 0)


def _as_bits(edge: npt.NDArray[np.bool_], stride: int) -> int:
    """Pixel (row, col) becomes bit ``row * stride + col``."""
    rows = np.zeros((len(edge), stride), bool)
    rows[:, : edge.shape[1]] = edge
    return int.from_bytes(np.packbits(rows, bitorder="little").tobytes(), "little")


def _dilated(edge: int, radius: int, stride: int, shape: tuple[int, ...]) -> int:
    """Pixels within a disc of the edge; bits outside the image's columns and below it mean nothing."""
    height, width = shape
    found = spread = edge
    reach = 0
    # from the disc's top row, the narrowest, to its widest: each row's run of pixels grows from the one before
    for away in range(min(radius, height), -1, -1):
        run = min(math.isqrt(radius * radius - away * away), width)
        for step in range(reach + 1, run + 1):
            spread |= edge << step | edge >> step
        reach = max(reach, run)
        found |= spread << away * stride | spread >> away * stride
    return found
