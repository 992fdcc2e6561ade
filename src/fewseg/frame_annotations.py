"""What was said of one frame, edit by edit, and what it means for every object."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fewseg.episode import NEGATIVE, POSITIVE, UNKNOWN

Map = npt.NDArray[np.uint8]


class LabelMap(NamedTuple):
    """A map (H, W) of object numbers, 0 background, 255 unknown, in place of all that was said of the frame.

    Its background is negative for the objects that it shows and for those that are ``known`` at that moment.
    """

    labels: Map
    known: tuple[int, ...]


class ObjectMap(NamedTuple):
    """The annotation map (H, W) of one object, in place of what was said of that object: 0, 1 or 255 unknown."""

    labels: Map
    object_id: int


class Pixel(NamedTuple):
    """A pixel that belongs to an object, and so to no other, or that does not belong to that object."""

    row: int
    col: int
    object_id: int
    positive: bool


class Cleared(NamedTuple):
    """Nothing is said of an object any more."""

    object_id: int


Edit = LabelMap | ObjectMap | Pixel | Cleared


class Said(NamedTuple):
    """All that was said of one frame, in order, and the objects that this names."""

    edits: tuple[Edit, ...] = ()
    objects: frozenset[int] = frozenset()


class Known(NamedTuple):
    """What is known of a frame.

    Args:
        owner: (H, W) number of the object to which a pixel belongs, 0 where it belongs to none.
        negatives: (H, W) per object of which something was said: pixels that do not belong to it.
    """

    owner: Map
    negatives: dict[int, npt.NDArray[np.bool_]]


def added(said: Said, edit: Edit) -> Said:
    """What was said, with one more edit.

    >>> said = added(added(Said(), Pixel(0, 0, 2, True)), Pixel(0, 1, 5, False))
    >>> sorted(said.objects), sorted(added(said, Cleared(2)).objects)
    ([2, 5], [5])
    >>> added(said, LabelMap(np.array([[1, 255]], np.uint8), known=(2,))).objects
    frozenset({1})
    """
    if isinstance(edit, LabelMap):
        return Said((edit,), frozenset(map(int, np.unique(edit.labels))) - {NEGATIVE, UNKNOWN})
    own = {edit.object_id}
    return Said((*said.edits, edit), said.objects - own if isinstance(edit, Cleared) else said.objects | own)


def replay(said: Said, size: tuple[int, int]) -> Known:
    """What all edits come to; the last word on a pixel counts.

    Args:
        said: of the frame.
        size: (H, W) of the frame.

    >>> known = replay(Said((Pixel(0, 0, 1, True), Pixel(0, 0, 2, True), Pixel(0, 1, 1, False))), (1, 2))
    >>> known.owner.tolist(), known.negatives[1].tolist()
    ([[2, 0]], [[False, True]])
    """
    owner = np.zeros(size, np.uint8)
    negatives: dict[int, npt.NDArray[np.bool_]] = {}
    for edit in said.edits:
        if isinstance(edit, LabelMap):
            owner = np.where(edit.labels == UNKNOWN, 0, edit.labels).astype(np.uint8)
            numbers = {*edit.known, *map(int, np.unique(owner))} - {0}
            negatives = {number: np.equal(edit.labels, 0) for number in numbers}  # each its own: clicks write there
            continue
        number = edit.object_id
        if isinstance(edit, Pixel):
            if number not in negatives:
                negatives[number] = np.zeros(size, bool)
            negatives[number][edit.row, edit.col] = not edit.positive
            if edit.positive or owner[edit.row, edit.col] == number:
                owner[edit.row, edit.col] = number if edit.positive else 0
            continue
        owner[owner == number] = 0
        negatives.pop(number, None)
        if isinstance(edit, ObjectMap):
            owner[edit.labels == POSITIVE] = number
            negatives[number] = edit.labels == NEGATIVE
    return Known(owner, negatives)


def annotation_of(known: Known, object_id: int | None) -> Map:
    """The annotation map (H, W) of one object: 0 negative, 1 positive, 255 unknown.

    Args:
        known: of the frame.
        object_id: number of the object; None = any of which nothing was said: what belongs to others is negative.

    >>> known = replay(Said((Pixel(0, 0, 1, True), Pixel(0, 1, 1, False))), (1, 3))
    >>> annotation_of(known, 1).tolist(), annotation_of(known, None).tolist()
    ([[1, 0, 255]], [[0, 255, 255]])
    """
    annotation = np.full(known.owner.shape, UNKNOWN, np.uint8)
    if object_id in known.negatives:
        annotation[known.negatives[object_id]] = NEGATIVE
    annotation[known.owner != 0] = NEGATIVE
    if object_id is not None:
        annotation[known.owner == object_id] = POSITIVE
    return annotation
