import numpy as np
import pytest

from fewseg.errors import FewsegError
from fewseg.functional.boundary import boundary_counts
from fewseg.functional.video_scores import ObjectScores, Statistics, frame_j, mean_scores, object_scores, statistics


def test_j_by_hand():
    """A square of 4 x 4, shifted by one and by two columns; then missed, invented, and absent on both sides."""
    values = frame_j(tp=[12, 8, 0, 0, 0], fp=[4, 8, 0, 5, 0], fn=[4, 8, 16, 0, 0])
    assert values.tolist() == pytest.approx([0.6, 1 / 3, 0, 0, 1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], (0.55, 0.5, 0.5)),  # 0.5 itself is no recall
        ([1, 0.5, 0], (0.5, 1 / 3, 0.75)),
        ([0.75], (0.75, 1, 0)),
        ([0.5], (0.5, 0, 0)),
        ([1, 0.25], (0.625, 0.5, 0.75)),
        ([0.2, 0.4, 0.9, 0.6, 0.1], (0.44, 0.4, (0.2 + 0.4) / 2 - (0.6 + 0.1) / 2)),
    ],
)
def test_statistics_by_hand(values, expected):
    assert statistics(values) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "edges"), [(4, (0, 1, 2, 3)), (6, (0, 1, 4, 5)), (7, (0, 2, 5, 6)), (90, (0, 22, 67, 89))]
)
def test_halves_are_rounded_up_before_the_count_from_zero(n, edges):
    """Bin edges worked out by hand: 1 + (n - 1) / 4 and 1 + 3 (n - 1) / 4, rounded, minus 1."""
    values = np.random.RandomState(n).rand(n)
    first, last = values[edges[0] : edges[1] + 1], values[edges[2] : edges[3] + 1]
    assert statistics(values).decay == pytest.approx(sum(first) / len(first) - sum(last) / len(last))


@pytest.mark.parametrize("n", [255, 256, 257, 258, 300, 1000])
def test_decay_of_long_videos(n):
    """Places beyond 255 overflow in the official evaluation, which gives NaN from 257 frames on."""
    values = np.linspace(1, 0, n)
    quarter = (n - 1) / 4
    assert statistics(values).decay == pytest.approx(0.75, abs=1.5 / n)
    assert statistics(np.arange(n) < quarter).decay == pytest.approx(1, abs=1.5 / quarter)
    assert statistics(np.arange(n) <= n - 2 - quarter).decay == pytest.approx(1, abs=1.5 / quarter)


def test_three_hundred_frames_by_hand():
    """1, 75.75, 150.5, 225.25, 300: places 0, 75, 150, 224, 299."""
    values = np.zeros(300)
    values[:76] = 1
    values[224] = 0.77
    assert statistics(values).decay == pytest.approx(1 - 0.77 / 76)


def test_no_frame_is_an_error():
    with pytest.raises(FewsegError, match=r"^values: got shape \(0,\), expected one value per frame"):
        statistics([])
    with pytest.raises(FewsegError, match=r"^values: got shape \(1, 2\)"):
        statistics([[1, 2]])


def test_scores_of_an_object_from_masks():
    truth = np.zeros((8, 8), bool)
    truth[2:6, 2:6] = True
    preds = [np.roll(truth, by, axis=1) for by in (0, 1, 2)] + [truth & False]
    counts = [(int((p & truth).sum()), int((p & ~truth).sum()), int((~p & truth).sum())) for p in preds]
    edges = [boundary_counts(p, truth) for p in preds]
    scores = object_scores(*zip(*counts, strict=True), *zip(*edges, strict=True))
    assert scores.j == pytest.approx(((1 + 0.6 + 1 / 3 + 0) / 4, 0.5, 0.8 - 1 / 6))
    assert scores.f == pytest.approx(((1 + 1 + 20 / 29 + 0) / 4, 0.75, 1 - 10 / 29))
    assert scores.jf_mean == pytest.approx((scores.j.mean + scores.f.mean) / 2)


def test_objects_count_alike_whatever_their_video():
    def scores(j: float) -> ObjectScores:
        return ObjectScores(Statistics(j, 0, 0), Statistics(1 - j, 1, 0.5))

    j, f = mean_scores([scores(value) for value in (0.9, 0.8, 0.4, 0.1)])
    assert j == pytest.approx((0.55, 0, 0))
    assert f == pytest.approx((0.45, 1, 0.5))
