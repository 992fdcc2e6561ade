"""Objects and detections moved to random places: baselines of one-shot instance segmentation. Needs no torch.

Both keep how many boxes an image has, and their sizes and masks, and forget where they are. ``random_truth`` is the
baseline of the paper (Michaelis et al., "One-Shot Instance Segmentation", 2018, section 5.3), ``random_detections`` the
one of the authors' code (bethgelab/siamese-mask-rcnn 49e7048).

Boxes are x, y, width and height in pixels, as in COCO's files.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fewseg.errors import FewsegError

Boxes = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float64]
Mask = TypeVar("Mask", bound=npt.NDArray[Any])

LOWEST_SCORE = 0.8  # of the paper's baseline


def shift_inside(
    box: tuple[float, float, float, float], mask: Mask, rng: np.random.RandomState
) -> tuple[tuple[float, float, float, float], Mask]:
    """A box and its mask, moved together by a whole number of pixels in each direction.

    Uniform over all places at which the box lies inside the image; where its mask sticks out of the box, this too. A
    box that fits nowhere else, as one as wide as the image, keeps its place.

    Args:
        box: x, y, width and height.
        mask: (H, W) bool or 0 and 1, of the whole image.
        rng: the generator.

    Returns:
        The box, and a new mask with as many pixels.

    >>> box, mask = shift_inside((0.5, 0.0, 1.0, 1.0), np.uint8([[1, 1, 0]]), np.random.RandomState(1))
    >>> box, mask
    ((1.5, 0.0, 1.0, 1.0), array([[0, 1, 1]], dtype=uint8))
    """
    x, y, width, height = box
    right = _offset(x, width, np.flatnonzero(mask.any(0)), mask.shape[1], rng)
    down = _offset(y, height, np.flatnonzero(mask.any(1)), mask.shape[0], rng)
    return (x + right, y + down, width, height), np.roll(mask, (down, right), (0, 1))


def random_truth(boxes: npt.ArrayLike, masks: Mask, seed: int) -> tuple[Boxes, Mask, Scores]:
    """The paper's baseline: the objects that are asked for, each moved (``shift_inside``), with random scores.

    Args:
        boxes: (n, 4) x, y, width and height.
        masks: (n, H, W) bool or 0 and 1.
        seed: any integer from 0 to 2^32 - 1.

    Returns:
        Boxes (n, 4), masks (n, H, W) and scores (n,), uniform in [0.8, 1); in the order given, not of the scores.

    Raises:
        FewsegError: not as many boxes as masks.

    >>> boxes, masks, scores = random_truth([[0, 0, 2, 1]], np.uint8([[[1, 1, 0, 0]]]), seed=0)
    >>> boxes, bool(0.8 <= scores[0] < 1)
    (array([[0., 0., 2., 1.]]), True)
    """
    rng = np.random.RandomState(seed)
    moved, shifted = _all_shifted(boxes, masks, rng)
    return moved, shifted, rng.uniform(LOWEST_SCORE, 1, len(moved))


def random_detections(
    boxes: npt.ArrayLike, masks: Mask, scores: npt.ArrayLike, seed: int
) -> tuple[Boxes, Mask, Scores]:
    """The code's baseline: the detections of a network, each moved (``shift_inside``), with each other's scores.

    Args:
        boxes: (n, 4) x, y, width and height.
        masks: (n, H, W) bool or 0 and 1.
        scores: (n,).
        seed: any integer from 0 to 2^32 - 1.

    Returns:
        Boxes (n, 4), masks (n, H, W) and scores (n,); in the order given, not of the scores.

    Raises:
        FewsegError: not as many boxes as masks and scores.

    >>> random_detections(np.zeros((0, 4)), np.zeros((0, 3, 5), bool), [], seed=0)[1].shape
    (0, 3, 5)
    """
    rng = np.random.RandomState(seed)
    moved, shifted = _all_shifted(boxes, masks, rng)
    given = np.asarray(scores, np.float64)
    if given.shape != (len(moved),):
        remedy = "give one score for each detection"
        raise FewsegError("scores", f"shape {given.shape}", f"({len(moved)},), as there are boxes", remedy)
    return moved, shifted, rng.permutation(given)


def _all_shifted(boxes: npt.ArrayLike, masks: Mask, rng: np.random.RandomState) -> tuple[Boxes, Mask]:
    given, shifted = np.asarray(boxes, np.float64).reshape(-1, 4), masks.copy()
    if masks.ndim != 3 or len(given) != len(masks):
        got, expected = f"{len(given)} beside masks of shape {masks.shape}", "boxes (n, 4) and masks (n, H, W)"
        raise FewsegError("boxes", got, expected, "give one mask for each box")
    moved = given.copy()
    for i, mask in enumerate(masks):
        x, y, width, height = given[i].tolist()
        moved[i], shifted[i] = shift_inside((x, y, width, height), mask, rng)
    return moved, shifted


def _offset(start: float, length: float, pixels: npt.NDArray[np.intp], size: int, rng: np.random.RandomState) -> int:
    """How far to move along an axis of ``size`` pixels; ``pixels`` are those that the mask covers, ascending."""
    least, most = math.ceil(-start), math.floor(size - start - length)
    if len(pixels):
        least, most = max(least, -int(pixels[0])), min(most, size - 1 - int(pixels[-1]))
    return int(rng.randint(least, most + 1)) if least <= most else 0
