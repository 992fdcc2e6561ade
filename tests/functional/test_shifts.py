import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.errors import FewsegError
from fewseg.functional.shifts import random_detections, random_truth, shift_inside


@st.composite
def objects(draw):
    """A box inside an image, perhaps between pixels, and a mask of the pixels that it touches, with holes."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    x, y = draw(st.floats(0, width - 0.5)), draw(st.floats(0, height - 0.5))
    box = (x, y, draw(st.floats(0.25, width - x)), draw(st.floats(0.25, height - y)))
    mask = np.zeros((height, width), bool)
    rows, cols = slice(int(y), int(np.ceil(y + box[3]))), slice(int(x), int(np.ceil(x + box[2])))
    holes = np.random.RandomState(draw(st.integers(0, 99))).rand(height, width) < 0.8
    mask[rows, cols] = holes[rows, cols]
    return box, mask


@settings(max_examples=200, deadline=None)
@given(objects(), st.integers(0, 2**32 - 1))
def test_a_box_stays_inside_and_takes_its_mask_along(found, seed):
    (x, y, w, h), mask = found
    before = mask.copy()
    moved, shifted = shift_inside((x, y, w, h), mask, np.random.RandomState(seed))
    assert (mask == before).all()
    assert moved[2:] == (w, h)
    right, down = round(moved[0] - x), round(moved[1] - y)
    assert moved[:2] == (x + right, y + down)  # whole pixels
    assert moved[0] >= 0
    assert moved[1] >= 0
    assert moved[0] + w <= mask.shape[1] + 1e-9
    assert moved[1] + h <= mask.shape[0] + 1e-9
    assert shifted.sum() == mask.sum()
    rows, cols = np.nonzero(mask)
    assert shifted[rows + down, cols + right].all()
    again = shift_inside((x, y, w, h), mask, np.random.RandomState(seed))
    assert again[0] == moved
    assert (again[1] == shifted).all()


def places(box, mask, n):
    """How often each corner is drawn, (top, left) -> count."""
    rng = np.random.RandomState(0)
    found = {}
    for _ in range(n):
        (x, y, _, _), _ = shift_inside(box, mask, rng)
        found[y, x] = found.get((y, x), 0) + 1
    return found


def test_all_places_on_a_small_image_are_drawn_alike():
    mask = np.zeros((3, 5), bool)
    mask[1, 1:3] = True
    found = places((1, 1, 2, 1), mask, 6000)
    assert set(found) == {(y, x) for y in range(3) for x in range(4)}
    assert all(abs(count - 500) < 110 for count in found.values())  # standard deviation 21


def test_places_between_pixels():
    """From 1.5 to 3.25 of 5 pixels the left side may lie at 0.5 to 2.5, and at 3.5 the right side would be outside."""
    mask = np.zeros((1, 5), bool)
    mask[0, 1:4] = True
    assert set(places((1.5, 0, 1.75, 1), mask, 100)) == {(0, 0.5), (0, 1.5), (0, 2.5)}


@pytest.mark.parametrize("box", [(0, 0, 5, 1), (0.25, 0, 4.5, 1), (0, 0, 5.5, 1), (-0.5, 0, 6, 1)])
def test_a_box_as_wide_as_the_image_stays_in_its_columns(box):
    mask = np.zeros((4, 5), bool)
    mask[0] = True
    assert set(places(box, mask, 100)) == {(float(y), box[0]) for y in range(4)}


def test_a_mask_that_sticks_out_of_its_box_stays_inside_too():
    mask = np.zeros((1, 6), bool)
    mask[0, 1:5] = True
    assert set(places((2, 0, 2, 1), mask, 100)) == {(0, 1), (0, 2), (0, 3)}
    assert set(places((2, 0, 2, 1), np.zeros_like(mask), 100)) == {(0, float(x)) for x in range(5)}  # of no mask


def some():
    boxes = np.array([[0, 0, 2, 2], [3, 1, 1, 3], [0, 0, 8, 6]], float)
    masks = np.zeros((3, 6, 8), np.uint8)
    masks[0, :2, :2], masks[1, 1:4, 3], masks[2] = 1, 1, 1
    return boxes, masks


@pytest.mark.parametrize("call", [random_truth, lambda b, m, seed: random_detections(b, m, [0.9, 0.5, 0.1], seed)])
def test_baselines_shift_every_object_by_itself(call):
    boxes, masks = some()
    kept = boxes.copy(), masks.copy()
    moves = set()
    for seed in range(30):
        moved, shifted, scores = call(boxes, masks, seed)
        assert (moved[:, 2:] == boxes[:, 2:]).all()
        assert (moved[2] == boxes[2]).all()
        assert (shifted.dtype, shifted.shape, scores.shape) == (np.uint8, masks.shape, (3,))
        for (x, y, w, h), mask in zip(moved.astype(int), shifted, strict=True):
            assert mask[y : y + h, x : x + w].all()
            assert mask.sum() == w * h
        moves.add((*(moved - boxes)[0, :2], *(moved - boxes)[1, :2]))
        for a, b in zip((moved, shifted, scores), call(boxes, masks, seed), strict=True):
            assert (a == b).all()
    assert len(moves) > 25
    assert len({m[:2] for m in moves}) > 10
    assert any(m[:2] != m[2:] for m in moves)
    assert (boxes == kept[0]).all()
    assert (masks == kept[1]).all()


def test_scores_of_the_papers_baseline_are_uniform_from_eight_tenths():
    n = 4000
    boxes, masks = np.tile([0.0, 0, 1, 1], (n, 1)), np.ones((n, 1, 1), bool)
    scores = random_truth(boxes, masks, 7)[2]
    assert scores.min() >= 0.8
    assert scores.max() < 1
    counts = np.histogram(scores, 4, (0.8, 1))[0]
    assert (abs(counts - 1000) < 150).all()  # standard deviation 27


def test_scores_of_the_codes_baseline_are_those_of_the_detections_permuted():
    boxes, masks = some()
    given = np.array([0.9, 0.5, 0.1])
    orders = {tuple(random_detections(boxes, masks, given, seed)[2].tolist()) for seed in range(60)}
    assert len(orders) == 6
    assert all(sorted(order) == [0.1, 0.5, 0.9] for order in orders)


def test_an_image_without_objects():
    boxes, masks, scores = random_truth(np.zeros((0, 4)), np.zeros((0, 5, 7), np.uint8), 0)
    assert (boxes.shape, masks.shape, scores.shape) == ((0, 4), (0, 5, 7), (0,))
    assert random_detections([], np.zeros((0, 5, 7), np.uint8), [], 0)[0].shape == (0, 4)


def test_what_does_not_belong_together_is_refused():
    boxes, masks = some()
    with pytest.raises(FewsegError, match=r"boxes: got 2 beside masks of shape \(3, 6, 8\)"):
        random_truth(boxes[:2], masks, 0)
    with pytest.raises(FewsegError, match=r"scores: got shape \(2,\), expected \(3,\)"):
        random_detections(boxes, masks, [0.5, 0.6], 0)
