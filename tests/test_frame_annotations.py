"""What was said of a frame, against a reference that looks at one pixel and backwards in time."""

import numpy as np
import pytest

from fewseg.frame_annotations import (
    Cleared,
    LabelMap,
    ObjectMap,
    Pixel,
    Said,
    added,
    annotation_of,
    replay,
)

SIZE = (3, 4)
NUMBERS = (1, 2, 3, 254)


def random_edit(rng):
    number = int(rng.choice(NUMBERS))
    kind = rng.choice(["labels", "own", "pixel", "pixel", "pixel", "cleared"])
    if kind == "labels":
        known = tuple(int(n) for n in NUMBERS if rng.randint(2))
        return LabelMap(rng.choice([0, 1, 3, 254, 255], SIZE).astype(np.uint8), known)
    if kind == "own":
        return ObjectMap(rng.choice([0, 1, 255], SIZE).astype(np.uint8), number)
    if kind == "pixel":
        return Pixel(int(rng.randint(SIZE[0])), int(rng.randint(SIZE[1])), number, bool(rng.randint(2)))
    return Cleared(number)


def owner_of(edits, at):
    """Who claimed the pixel last, unless that claim was taken back since."""
    back = set()
    for edit in reversed(edits):
        if isinstance(edit, LabelMap):
            claims = int(edit.labels[at]) % 255
        elif isinstance(edit, ObjectMap):
            claims = edit.object_id if edit.labels[at] == 1 else None
        elif isinstance(edit, Pixel) and (edit.row, edit.col) != at:
            continue
        else:
            claims = edit.object_id if isinstance(edit, Pixel) and edit.positive else None
        if claims is not None:
            return 0 if claims in back else claims
        back.add(edit.object_id)
    return 0


def denied(edits, at, number):
    """Whether the last word on the pixel and the object says no."""
    for edit in reversed(edits):
        if isinstance(edit, LabelMap):
            return edit.labels[at] == 0 and (number in edit.known or (edit.labels == number).any())
        if edit.object_id != number or (isinstance(edit, Pixel) and (edit.row, edit.col) != at):
            continue
        return (isinstance(edit, Pixel) and not edit.positive) or (isinstance(edit, ObjectMap) and edit.labels[at] == 0)
    return False


@pytest.mark.parametrize("seed", range(40))
def test_the_last_word_on_every_pixel_counts(seed):
    rng = np.random.RandomState(seed)
    edits, said = [], Said()
    for _ in range(8):
        edits.append(random_edit(rng))
        said = added(said, edits[-1])
        known = replay(said, SIZE)
        assert said.objects <= set(known.negatives), "what is named has something said of it"
        assert set(map(int, np.unique(known.owner))) - {0} <= set(known.negatives)
        for number in (*NUMBERS, 77, None):
            found = annotation_of(known, number)
            for at in np.ndindex(SIZE):
                owner = owner_of(edits, at)
                wanted = 1 if owner == number else 0 if owner or denied(edits, at, number) else 255
                assert found[at] == wanted, (number, at, edits)


def test_named_objects_are_those_of_the_last_label_map_and_of_later_edits():
    said = added(Said(), Pixel(0, 0, 9, True))
    said = added(said, LabelMap(np.array([[0, 255, 3, 1]], np.uint8), known=(9,)))
    assert said.objects == {1, 3}
    said = added(added(said, ObjectMap(np.zeros((1, 4), np.uint8), 7)), Cleared(3))
    assert said.objects == {1, 7}
    known = replay(said, (1, 4))
    assert {n: annotation_of(known, n).tolist() for n in (1, 3, 7, 9)} == {
        1: [[0, 255, 255, 1]],
        3: [[255, 255, 255, 0]],  # what belongs to object 1
        7: [[0, 0, 0, 0]],
        9: [[0, 255, 255, 0]],  # known when the map was drawn
    }


def test_what_was_said_before_is_left_as_it_was():
    labels = np.array([[0, 1]], np.uint8)
    before = added(Said(), LabelMap(labels, ()))
    after = added(before, Pixel(0, 0, 2, True))
    replay(after, (1, 2))
    assert (len(before.edits), before.objects, labels.tolist()) == (1, {1}, [[0, 1]])
    assert annotation_of(replay(before, (1, 2)), 1).tolist() == [[0, 1]]
