"""J and F of videos from integer counts, with the statistics of DAVIS: mean, recall and decay. Needs no torch.

Definitions as in the official evaluation (Perazzi et al. 2016; Pont-Tuset et al. 2017). Whoever calls leaves out the
first and the last frame of a video, which do not count there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fewseg.errors import FewsegError
from fewseg.functional.boundary import boundary_fs

Values = npt.NDArray[np.float64]


class Statistics(NamedTuple):
    """Of the values of frames: their mean, the share of frames above 0.5, and the loss from first to last quarter."""

    mean: float
    recall: float
    decay: float


class ObjectScores(NamedTuple):
    """J (regions) and F (boundaries) of one object in one video."""

    j: Statistics
    f: Statistics

    @property
    def jf_mean(self) -> float:
        """J&F: the mean of both means."""
        return (self.j.mean + self.f.mean) / 2


def frame_j(tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike) -> Values:
    """J of frames: intersection over union of one object, and 1 where neither side shows it.

    Args:
        tp: (n,) pixels; so are ``fp`` and ``fn``.
        fp: (n,) pixels.
        fn: (n,) pixels.

    Returns:
        (n,) in [0, 1].

    >>> frame_j([12, 0, 0], [4, 0, 3], [4, 0, 0])
    array([0.6, 1. , 0. ])
    """
    hit, extra, missed = (np.asarray(c, np.float64) for c in (tp, fp, fn))
    union = hit + extra + missed
    return np.asarray(np.where(union > 0, hit / np.maximum(union, 1), 1.0), np.float64)


def statistics(values: npt.ArrayLike) -> Statistics:
    """Mean, recall and decay of the values of one object's frames.

    Recall counts values above 0.5, without 0.5 itself. Decay is the mean of the first of four bins minus that of the
    last. A bin goes from one of five evenly spaced frames to the next and holds both, so neighbours share a frame. The
    official evaluation keeps the places of these frames in 8 bits and gives no number from 257 frames on; here they
    have room. With few frames the rule is the same: one frame has decay 0, of two it is the first minus the second, of
    three the mean of the first two minus the third.

    Args:
        values: (n,) in the order of time.

    Raises:
        FewsegError: there is no value.

    >>> [round(value, 3) for value in statistics([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])]
    [0.55, 0.5, 0.5]
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found):
        raise FewsegError("values", f"shape {found.shape}", "one value per frame, at least one", "check the frames")
    edges = np.round(np.linspace(1, len(found), 5) + 1e-10).astype(int) - 1  # the offset rounds halves up
    first, last = found[edges[0] : edges[1] + 1], found[edges[3] : edges[4] + 1]
    return Statistics(float(found.mean()), float((found > 0.5).mean()), float(first.mean() - last.mean()))


def object_scores(
    tp: npt.ArrayLike,
    fp: npt.ArrayLike,
    fn: npt.ArrayLike,
    boundary_pred: npt.ArrayLike,
    boundary_true: npt.ArrayLike,
    boundary_pred_matched: npt.ArrayLike,
    boundary_true_matched: npt.ArrayLike,
) -> ObjectScores:
    """J and F of one object in one video.

    Args:
        tp: (n,) pixels in the order of time, of the frames that count; so are all others.
        fp: (n,) pixels.
        fn: (n,) pixels.
        boundary_pred: (n,) boundary pixels of the prediction.
        boundary_true: (n,) of the truth.
        boundary_pred_matched: (n,) of ``boundary_pred``, near the other boundary.
        boundary_true_matched: (n,) of ``boundary_true``.

    Raises:
        FewsegError: there is no frame.

    >>> scores = object_scores([12, 0], [4, 0], [4, 0], [13, 0], [16, 0], [10, 0], [10, 0])
    >>> scores.j.mean, round(scores.f.mean, 3), round(scores.jf_mean, 3)
    (0.8, 0.845, 0.822)
    """
    fs = boundary_fs(boundary_pred, boundary_true, boundary_pred_matched, boundary_true_matched)
    return ObjectScores(statistics(frame_j(tp, fp, fn)), statistics(fs))


def mean_scores(scores: npt.ArrayLike) -> tuple[Statistics, Statistics]:
    """J and F of a benchmark: the mean over all objects of all videos, not over videos.

    Args:
        scores: one ``ObjectScores`` per object, as (n, 2, 3).

    >>> one, other = Statistics(0.5, 0.0, 0.0), Statistics(1.0, 1.0, 0.5)
    >>> mean_scores([ObjectScores(one, one), ObjectScores(other, one)])[0]
    Statistics(mean=0.75, recall=0.5, decay=0.25)
    """
    j, f = np.asarray(scores, np.float64).mean(axis=0).tolist()
    return Statistics(*j), Statistics(*f)
