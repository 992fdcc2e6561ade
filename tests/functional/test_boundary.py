import math
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.errors import FewsegError
from fewseg.functional.boundary import BoundaryCounts, boundary_counts, boundary_f, boundary_fs, boundary_map

SQUARE = np.zeros((8, 8), np.uint8)
SQUARE[2:6, 2:6] = 1
NOTHING = np.zeros((8, 8), np.uint8)


def neighbours(mask):
    """The rule, pixel by pixel."""
    height, width = mask.shape
    edge = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(width):
            places = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            edge[y, x] = any(mask[p] != mask[y, x] for p in places if p[0] < height and p[1] < width)
    return edge


def matched(own, other, radius):
    """Pixels of ``own`` with a pixel of ``other`` in reach, by all distances."""
    a, b = np.argwhere(own), np.argwhere(other)
    if not len(a) or not len(b):
        return 0
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    return int((squared.min(axis=1) <= radius**2).sum())


def naive(pred, truth, radius):
    p, t = neighbours(pred), neighbours(truth)
    return BoundaryCounts(int(p.sum()), int(t.sum()), matched(p, t, radius), matched(t, p, radius))


def test_the_last_row_looks_right_the_last_column_below_and_the_corner_nowhere():
    corner = np.zeros((3, 4), np.uint8)
    corner[2, 3] = 1
    assert boundary_map(corner).astype(int).tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]]
    first = np.zeros((3, 4), np.uint8)
    first[0, 0] = 1
    assert boundary_map(first).astype(int).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert boundary_map(first).dtype == bool


def test_a_full_frame_has_no_boundary():
    assert boundary_map(np.ones((8, 8), np.uint8)).sum() == 0
    assert boundary_counts(np.ones((8, 8), bool), SQUARE) == (0, 16, 0, 0)


def test_one_pixel_and_one_line():
    assert boundary_map(np.ones((1, 1), bool)).tolist() == [[False]]
    assert boundary_map(np.array([[0, 1, 1, 0]])).tolist() == [[True, False, True, False]]
    assert boundary_map(np.array([[0], [1], [1], [0]])).ravel().tolist() == [True, False, True, False]


def test_f_by_hand():
    """Vectors of the official code: 8 x 8, where 0.008 of the diagonal is one pixel."""
    one, two = (np.roll(SQUARE, by, axis=1) for by in (1, 2))
    assert boundary_f(boundary_counts(one, SQUARE)) == 1.0
    assert boundary_counts(two, SQUARE) == BoundaryCounts(13, 16, 10, 10)
    assert boundary_f(boundary_counts(two, SQUARE)) == pytest.approx(20 / 29)
    assert boundary_f(boundary_counts(NOTHING, SQUARE)) == 0.0
    assert boundary_f(boundary_counts(SQUARE, NOTHING)) == 0.0
    assert boundary_f(boundary_counts(NOTHING, NOTHING)) == 1.0
    assert boundary_counts(two, SQUARE, bound_pix=2).pred_matched == 13
    assert boundary_fs([13, 0, 16, 5], [16, 16, 0, 5], [10, 0, 0, 0], [10, 0, 0, 0]).tolist() == pytest.approx(
        [20 / 29, 0, 0, 0]
    )


@pytest.mark.parametrize(("shape", "radius"), [((480, 854), 8), ((8, 8), 1), ((1080, 1920), 18), ((100, 75), 1)])
def test_the_distance_is_a_share_of_the_diagonal_rounded_up(shape, radius):
    """Two vertical contours: they match exactly up to the radius."""
    assert radius == math.ceil(0.008 * math.hypot(*shape))
    masks = [np.zeros(shape, np.uint8) for _ in range(3)]
    for mask, col in zip(masks, (3, 3 + radius, 4 + radius), strict=True):
        mask[:, col:] = 1
    assert boundary_counts(masks[1], masks[0]) == (shape[0],) * 4
    assert boundary_counts(masks[2], masks[0]) == (shape[0], shape[0], 0, 0)


@pytest.mark.parametrize("radius", range(1, 10))
def test_the_disc_holds_what_lies_within_the_radius(radius):
    """One corner pixel against every single pixel of the image, the borders included."""
    size = 2 * radius + 5
    centre = np.zeros((size, size), np.uint8)
    centre[radius + 2 :, radius + 2 :] = 1
    for y in range(size - 1):
        for x in range(size - 1):
            dot = np.zeros((size, size), np.uint8)
            dot[y, x] = 1
            if max(abs(y - radius), abs(x - radius)) <= 2 or (y + x) % 3 == 0:
                assert boundary_counts(dot, centre, radius) == naive(dot, centre, radius)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_counts_are_those_of_all_distances(data):
    height, width = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 24))
    radius = data.draw(st.integers(1, 30))
    random = np.random.RandomState(data.draw(st.integers(0, 2**32 - 1)))
    density = [data.draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.99, 1.0])) for _ in range(2)]
    pred, truth = ((random.rand(height, width) < d).astype(np.uint8) for d in density)
    assert boundary_map(pred).tolist() == neighbours(pred).tolist()
    assert boundary_counts(pred, truth, radius) == naive(pred, truth, radius)


def ellipse(height, width, radius, shift=0):
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2 + shift, height // 2), (radius * 3 // 2, radius), 20, 0, 360, 1, -1)
    return mask


@pytest.mark.parametrize("radius", [5, 40, 70, 120])
def test_objects_of_a_frame(radius):
    """Also objects that the frame cuts off."""
    truth, pred = ellipse(150, 260, radius), ellipse(150, 260, radius - 2, shift=3)
    for reach in (0.008, 3, 9):
        pixels = reach if reach >= 1 else math.ceil(reach * math.hypot(150, 260))
        assert boundary_counts(pred, truth, reach) == naive(pred, truth, pixels)


def test_sides_and_types_of_masks():
    truth, pred = ellipse(60, 80, 20), ellipse(60, 80, 18, shift=6)
    counts = boundary_counts(pred, truth, 2)
    assert 0 < counts.pred_matched < counts.pred
    swapped = boundary_counts(truth, pred, 2)
    assert swapped == (counts.true, counts.pred, counts.true_matched, counts.pred_matched)
    assert boundary_counts(pred.astype(bool), truth.astype(np.int64), 2) == counts
    assert boundary_counts(np.asfortranarray(pred), truth[:, ::-1][:, ::-1], 2) == counts
    assert boundary_counts(1 - pred, 1 - truth, 2) == counts  # a boundary has no inside
    assert {type(count) for count in counts} == {int}


def test_wrong_input():
    with pytest.raises(FewsegError, match=r"^pred: got shape \(8, 8\), expected \(8, 9\)"):
        boundary_counts(SQUARE, np.zeros((8, 9), np.uint8))
    with pytest.raises(FewsegError, match=r"^truth: got values 0 to 255, expected 0 and 1; take void out"):
        boundary_counts(SQUARE, SQUARE * 255)
    with pytest.raises(FewsegError, match=r"^mask: got shape \(1, 8, 8\)"):
        boundary_map(SQUARE[None])
    with pytest.raises(FewsegError, match=r"^pred: got shape \(0, 3\)"):
        boundary_counts(np.zeros((0, 3), bool), np.zeros((0, 3), bool))
    for distance in (0, -1, 1.5, math.nan, math.inf):
        with pytest.raises(FewsegError, match=r"^bound_pix: got "):
            boundary_counts(SQUARE, SQUARE, distance)


@pytest.mark.parametrize("kind", ["small", "large", "noise"])
def test_a_frame_takes_less_than_five_milliseconds(kind):
    random = np.random.RandomState(0)
    pairs = {
        "small": (ellipse(480, 854, 15), ellipse(480, 854, 15, shift=4)),
        "large": (ellipse(480, 854, 230), ellipse(480, 854, 215, shift=4)),
        "noise": (random.rand(480, 854) < 0.5, random.rand(480, 854) < 0.5),
    }
    fastest = math.inf
    for _ in range(50):
        start = time.perf_counter()
        boundary_f(boundary_counts(*pairs[kind]))
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 0.005
