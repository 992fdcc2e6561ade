"""Label maps, the annotation maps made from them, and pixels drawn from those. Needs no torch.

Everything drawn is a pure function of a seed and uses ``numpy.random.RandomState``, whose stream is guaranteed.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from fewseg.episode import NEGATIVE, POSITIVE, UNKNOWN, VOID, Click
from fewseg.errors import FewsegError
from fewseg.functional.iou import Void

Map = npt.NDArray[np.uint8]

SPARSE = 0.05  # share of known pixels under which an annotation is points, which are moved and not resized


def sub_seed(*key: int | str) -> int:
    """A 32-bit seed from a tuple of plain ints and strings: the one way seeds are derived from seeds.

    >>> sub_seed("clean", 0, 3)
    2514994792
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def random_state(*key: int | str) -> np.random.RandomState:
    """The generator that a key seeds."""
    return np.random.RandomState(sub_seed(*key))


def annotation_map(label: Map, class_id: int, void: Void = "ignore") -> Map:
    """The dense annotation of one class: 1 where the label is the class, 0 elsewhere; novel classes count as elsewhere.

    Args:
        label: (H, W) uint8 class ids, 255 void.
        class_id: the foreground.
        void: void pixels become unknown (255), negative or positive.

    Returns:
        (H, W) uint8 of 0, 1 and 255.

    >>> annotation_map(np.uint8([[0, 3, 7, 255]]), 3)
    array([[  0,   1,   0, 255]], dtype=uint8)
    """
    table = np.zeros(256, np.uint8)
    table[class_id] = POSITIVE
    table[VOID] = {"ignore": UNKNOWN, "background": NEGATIVE, "foreground": POSITIVE}[void]
    return np.asarray(cv2.LUT(label, table), np.uint8)


def query_mask(label: Map, class_id: int, void: Void = "ignore") -> Map:
    """The truth of one class, (H, W) uint8 of 0, 1 and 255 = void: an annotation map whose unknown pixels are void.

    >>> query_mask(np.uint8([[0, 3, 7, 255]]), 3, "background")
    array([[0, 1, 0, 0]], dtype=uint8)
    """
    return annotation_map(label, class_id, void)


def oslsm_cells(mask: npt.NDArray[np.bool_]) -> int:
    """How many cells of OSLSM's grid an object fills; OSLSM keeps objects with more than two.

    The mask (H, W) is padded by 15 pixels at the top and left, filled up to a multiple of 32 and shrunk 32 times by
    nearest neighbour, read as the cell's first pixel.

    >>> oslsm_cells(np.ones((64, 96), bool))
    6
    """
    return int(mask[17::32, 17::32].sum())  # row and column 0 of the grid lie in the padding: 32 k - 15


def draw_points(
    annotation: Map,
    n_points: int | tuple[int, ...],
    seed: int,
    short_label: Literal["all", "none"] = "all",
    labels: tuple[int, ...] = (NEGATIVE, POSITIVE),
) -> list[tuple[int, int, int]]:
    """Pixels of an annotation, uniform over each label without replacement; unknown pixels are never drawn.

    Draws are nested: for one seed, the points for n + 1 contain those for n. A label's points do not depend on which
    other labels are drawn. A label with fewer pixels than asked for
    gives all it has; revolver (shelhamer/revolver df5b72b) gives none, which is ``short_label="none"``.

    Args:
        annotation: (H, W) uint8 of 0, 1 and 255, or of other labels.
        n_points: pixels of each label, or one count for each of ``labels``: (negative, positive).
        seed: any integer.
        short_label: what a label with too few pixels gives.
        labels: those that are drawn from: object numbers, where the map holds objects.

    Returns:
        Rows of (row, col, label), labels in their order: negatives first.

    Raises:
        FewsegError: a count below 0.

    >>> draw_points(np.uint8([[0, 1, 255]]), 5, seed=0)
    [(0, 0, 0), (0, 1, 1)]
    >>> draw_points(np.uint8([[0, 3, 255]]), 5, seed=0, labels=(3,))
    [(0, 1, 3)]
    """
    counts = (n_points,) * len(labels) if isinstance(n_points, int) else n_points
    if min(counts, default=0) < 0:
        raise FewsegError("n_points", n_points, "0 or more", "ask for a number of pixels, or None for dense masks")
    points = []
    for label, count in zip(labels, counts, strict=True):
        pixels = np.flatnonzero(annotation == label)
        if short_label == "none" and len(pixels) < count:
            continue
        uniform = random_state("points", seed, label).random_sample(min(count, len(pixels)))
        moved: dict[int, int] = {}  # Fisher-Yates over a sparse array: the prefix of a permutation without the rest
        for i, u in enumerate(uniform.tolist()):
            j = i + int(u * (len(pixels) - i))
            row, col = divmod(int(pixels[moved.get(j, j)]), annotation.shape[1])
            moved[j] = moved.get(i, i)
            points.append((row, col, label))
    return points


def object_map(objects: Map, label: Map) -> Map:
    """The instance numbers of an image (H, W) uint8, void wherever one of its two maps is void.

    ``annotation_map`` and ``query_mask`` take it in place of class ids and an object id in place of a class.

    >>> object_map(np.uint8([[1, 2, 255, 0]]), np.uint8([[5, 255, 5, 0]]))
    array([[  1, 255, 255,   0]], dtype=uint8)
    """
    return np.where(label == VOID, np.uint8(VOID), objects)


def draw_object_clicks(
    annotation: Map, n_points: int, seed: int, short_label: Literal["all", "none"] = "all"
) -> tuple[Click, ...]:
    """``draw_points`` as clicks: positive and negative in turn, positive first.

    With ``short_label="all"`` the clicks for n are the first of those for n + 1.

    >>> draw_object_clicks(np.uint8([[0, 1, 255]]), 5, seed=0)
    (Click(row=0, col=1, label=1), Click(row=0, col=0, label=0))
    """
    drawn = [Click(*point) for point in draw_points(annotation, n_points, seed, short_label)]
    labels = [[click for click in drawn if click.label == label] for label in (POSITIVE, NEGATIVE)]
    return tuple(click for pair in itertools.zip_longest(*labels) for click in pair if click is not None)
