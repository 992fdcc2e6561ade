import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fewseg.episode import Click
from fewseg.errors import FewsegError
from fewseg.functional.robot import (
    clicks_to_reach,
    error_maps,
    iou_at,
    next_click,
    noc,
    seconds_per_click,
    squared_depth,
    squared_distance_transform,
)

ROBOTS = ("inscribed", "component")
LABELS = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 1, 255])
)


def rectangle(size, rows, cols):
    mask = np.zeros(size, np.uint8)
    mask[rows[0] : rows[1] + 1, cols[0] : cols[1] + 1] = 1
    return mask


def smooth(rng, size, sigma):
    noise = ndimage.gaussian_filter(rng.randn(*size), sigma)
    return (noise > np.quantile(noise, rng.uniform(0.3, 0.8))).astype(np.uint8)


# -------------------------------------------------------------------------- vectors of the original

GT = rectangle((7, 7), (1, 5), (1, 3))


def test_first_click_is_the_centre():
    assert next_click(GT, np.zeros_like(GT)) == Click(2, 2, 1)


def test_equal_depth_is_negative():
    pred = rectangle((7, 7), (1, 3), (1, 3))
    pred[:, 5:] = 1
    assert next_click(GT, pred) == Click(0, 5, 0)


def test_deeper_false_positive():
    assert next_click(GT, GT | rectangle((7, 7), (0, 4), (4, 6))) == Click(1, 5, 0)


def test_two_pixels():
    assert next_click(np.uint8([[1, 0]]), np.uint8([[0, 1]])) == Click(0, 1, 0)


def test_the_edge_of_the_image_bounds_a_region():
    truth = np.ones((5, 5), np.uint8)
    assert next_click(truth, np.zeros_like(truth)) == Click(2, 2, 1)
    assert squared_depth(truth == 1).max() == 3**2


def test_large_rectangle():
    truth = rectangle((160, 200), (40, 99), (50, 119))
    assert next_click(truth, np.zeros_like(truth)) == Click(69, 79, 1)


# ------------------------------------------------------------------------------------------ beyond


def original(truth, pred, clicked=()):
    """f-BRS in scipy's distances, on the whole image."""
    wrong = [(truth == 0) & (pred == 1), (truth == 1) & (pred == 0)]
    depths = [ndimage.distance_transform_edt(np.pad(w, 1))[1:-1, 1:-1] for w in wrong]
    for row, col, _ in clicked:
        depths[0][row, col] = depths[1][row, col] = 0
    label = int(depths[1].max() > depths[0].max())
    rows, cols = np.where(depths[label] == depths[label].max())
    return Click(rows[0], cols[0], label)


@pytest.mark.parametrize("seed", range(25))
def test_as_scipy_finds_it(seed):
    """Smooth regions of real size, where OpenCV's rounding of distances would break ties."""
    rng = np.random.RandomState(seed)
    size = tuple(rng.randint(20, 150, 2))
    truth, pred = smooth(rng, size, 4), smooth(rng, size, 4)
    truth[rng.rand(*size) < 0.02] = 255
    clicked = []
    for _ in range(4):
        click = next_click(truth, pred, clicked)
        assert click == original(truth, pred, clicked)
        clicked.append(click)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.randoms(use_true_random=False))
def test_small_images_as_scipy_finds_it(truth, random):
    pred = np.array([random.randint(0, 1) for _ in range(truth.size)], np.uint8).reshape(truth.shape)
    clicked = [Click(random.randrange(truth.shape[0]), random.randrange(truth.shape[1]), 0)]
    assert next_click(truth, pred) == original(truth, pred)
    assert next_click(truth, pred, clicked) == original(truth, pred, clicked)


@pytest.mark.parametrize("robot", ROBOTS)
@settings(max_examples=40, deadline=None)
@given(LABELS, st.randoms(use_true_random=False))
def test_clicks_correct_errors_once_until_none_is_left(robot, truth, random):
    pred = np.array([random.randint(0, 1) for _ in range(truth.size)], np.uint8).reshape(truth.shape)
    wrong = int(((truth != pred) & (truth != 255)).sum())
    clicked = []
    for _ in range(min(wrong, 12)):
        click = next_click(truth, pred, clicked, robot)
        assert truth[click.row, click.col] == click.label != pred[click.row, click.col]
        clicked.append(click)
    assert len({(c.row, c.col) for c in clicked}) == len(clicked)
    if wrong <= 12:
        assert next_click(truth, pred, clicked, robot) == Click(0, 0, 0)


@pytest.mark.parametrize("robot", ROBOTS)
def test_nothing_to_correct_is_a_negative_click_in_the_corner(robot):
    assert next_click(GT, GT, (), robot) == Click(0, 0, 0)
    assert next_click(GT, GT, (Click(0, 0, 0),), robot) == Click(0, 0, 0)
    full = np.ones((3, 3), np.uint8)
    assert next_click(full, full, (), robot) == Click(0, 0, 0), "as in the original, whatever the truth is there"


@pytest.mark.parametrize("robot", ROBOTS)
def test_void_is_never_an_error(robot):
    truth = np.full((9, 9), 255, np.uint8)
    truth[8, 8] = 1
    pred = np.ones((9, 9), np.uint8)
    pred[8, 8] = 0
    assert next_click(truth, pred, (), robot) == Click(8, 8, 1)


@pytest.mark.parametrize("robot", ROBOTS)
def test_object_of_one_pixel(robot):
    truth = rectangle((6, 8), (5, 5), (7, 7))
    assert next_click(truth, np.zeros_like(truth), (), robot) == Click(5, 7, 1)


def test_the_robots_differ_on_a_long_thin_error():
    truth = rectangle((20, 40), (2, 4), (0, 39)) | rectangle((20, 40), (10, 16), (30, 36))  # areas 120 and 49
    pred = np.zeros_like(truth)
    assert next_click(truth, pred) == Click(13, 33, 1)
    assert next_click(truth, pred, (), "component") == Click(3, 1, 1)


def test_component_joins_diagonal_neighbours_but_not_labels():
    truth = np.uint8([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    pred = np.uint8([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert next_click(truth, pred, (), "component") == Click(0, 0, 1), "three pixels in a diagonal beat two"
    pred[2, 3] = 1  # touches a false negative; were they one component of six, its first pixel would still be (0, 0)
    assert next_click(truth, pred, (), "component") == Click(1, 3, 0), "three against three is negative"


def test_component_ties_go_in_reading_order():
    truth = np.zeros((6, 12), np.uint8)
    truth[2:5, 0:2] = truth[0:3, 6:8] = 1  # the right one begins in an earlier row
    assert next_click(truth, np.zeros_like(truth), (), "component") == Click(0, 6, 1)


def test_component_clicked_all_over_is_passed_over():
    truth = rectangle((4, 9), (1, 1), (1, 2)) | rectangle((4, 9), (1, 1), (6, 6))
    pred = np.zeros_like(truth)
    clicked = [Click(1, 1, 1), Click(1, 2, 1)]
    assert next_click(truth, pred, clicked[:1], "component") == Click(1, 2, 1)
    assert next_click(truth, pred, clicked, "component") == Click(1, 6, 1)


def test_non_contiguous_maps():
    truth = np.zeros((7, 7, 3), np.uint8)
    truth[..., 1] = GT
    assert next_click(truth[..., 1], np.zeros((7, 7, 2), np.uint8)[..., 0]) == Click(2, 2, 1)
    assert next_click(GT.T, np.zeros((7, 7), bool)) == Click(2, 2, 1)


def test_truth_and_prediction_stay_as_they_were():
    truth, pred = GT.copy(), np.zeros_like(GT)
    next_click(truth, pred, [Click(2, 2, 1)], "component")
    assert (truth == GT).all()
    assert not pred.any()


def test_bad_input():
    with pytest.raises(FewsegError, match=r"pred: got shape \(2, 2\), expected \(7, 7\)"):
        next_click(GT, np.zeros((2, 2)))
    with pytest.raises(FewsegError, match=r"clicked: got \(7, 0\), expected a pixel of a 7 x 7 image"):
        next_click(GT, GT, [Click(7, 0, 1)])
    with pytest.raises(FewsegError, match=r"clicked: got \(0, -1\)"):
        next_click(GT, GT, [Click(0, -1, 1)])
    with pytest.raises(FewsegError, match="robot: got human"):
        next_click(GT, GT, (), "human")


def test_error_maps_are_indexed_by_the_label_of_the_click():
    maps = error_maps(np.uint8([[0, 1, 255, 0, 1]]), np.array([[2.0, 0, 1, 0, 1]]))
    assert [np.flatnonzero(m).tolist() for m in maps] == [[0], [1]]


def test_distances_stay_exact_beyond_a_thousand_pixels():
    free = np.ones((3, 1500), bool)
    free[1, 0] = False
    expected = (np.arange(3)[:, None] - 1) ** 2 + np.arange(1500) ** 2
    assert (squared_distance_transform(free) == expected).all()


# ----------------------------------------------------------------------------------------- figures


def test_noc_vectors():
    objects = [[0.5, 0.86, 0.91], [0.2, 0.4]]
    assert [clicks_to_reach(objects[0], t, 20) for t in (0.85, 0.9)] == [2, 3]
    assert clicks_to_reach(objects[1], 0.85, 20) == 20
    assert noc(objects, 0.85) == (11.0, 1)
    assert noc(objects, 0.9) == (11.5, 1)


def test_noc_at_the_limit():
    late = [0.1] * 19 + [0.9]
    assert clicks_to_reach(late, 0.9, 20) == 20
    assert noc([late, [0.9]], 0.9) == (10.5, 1), "reached with the last click, yet counted, as in the original"
    assert clicks_to_reach([*[0.1] * 20, 0.95], 0.9, 20) == 20
    assert clicks_to_reach([0.1, 0.1, 0.95], 0.9, 2) == 2


def test_noc_is_the_first_click_that_reaches_the_target_exactly():
    assert clicks_to_reach([0.85, 0.2, 0.9], 0.85, 20) == 1
    assert clicks_to_reach([], 0.85, 20) == 20


def test_iou_at_carries_the_last_value_forward():
    objects = [[0.5, 0.9], [0.2, 0.4, 0.6]]
    assert [iou_at(objects, k) for k in (1, 2, 3, 20)] == pytest.approx([0.35, 0.65, 0.75, 0.75])


def test_seconds_per_click():
    assert seconds_per_click(10, [3, 2]) == 2.0


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: clicks_to_reach([0.5], 0.9, 0), "limit"),
        (lambda: noc([], 0.9), "objects"),
        (lambda: iou_at([], 1), "objects"),
        (lambda: iou_at([[0.5], []], 1), "objects"),
        (lambda: iou_at([[0.5]], 0), "n_clicks"),
        (lambda: seconds_per_click(1.0, [0]), "n_clicks"),
    ],
)
def test_figures_of_nothing(call, named):
    with pytest.raises(FewsegError) as error:
        call()
    assert error.value.argument == named
