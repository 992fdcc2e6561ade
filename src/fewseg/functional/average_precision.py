"""Average precision of detections as COCO counts it, from what was matched. Needs nothing but numpy.

Definition as in COCO's evaluator (Lin et al., "Microsoft COCO: Common Objects in Context", 2014; ``accumulate`` of
``pycocotools.cocoeval``): precision is made monotone from the right and read off at 101 recalls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_RECALLS = np.linspace(0.0, 1.0, 101)  # the evaluator's own: other roundings move a recall to the next detection
_BLOCK = 4_000_000  # numbers of one array at a time


def average_precision(scores: npt.ArrayLike, matched: npt.ArrayLike, ignored: npt.ArrayLike, n_truth: int) -> float:
    """AP of one class at one IoU over all images.

    Args:
        scores: (n,) of detections, in the order of their images; equal scores keep this order.
        matched: (n,) bool, matched to an object; so is ``ignored``.
        ignored: (n,) bool; these count neither as right nor as wrong.
        n_truth: objects of the class in all images, crowds left out.

    Returns:
        in [0, 1]; NaN without any object, where the evaluator says -1, which means leave out as well.

    >>> round(average_precision([0.9, 0.8, 0.7], [True, False, True], [False, False, False], 2), 6)
    0.834983
    """
    one_image = np.zeros(len(np.asarray(scores)), np.int64)
    return float(resampled_average_precision(scores, matched, ignored, one_image, [n_truth], [[1]])[0])


def resampled_average_precision(
    scores: npt.ArrayLike,
    matched: npt.ArrayLike,
    ignored: npt.ArrayLike,
    image: npt.ArrayLike,
    n_truth: npt.ArrayLike,
    weights: npt.ArrayLike,
) -> npt.NDArray[np.float64]:
    """``average_precision`` of R other sets of the same images, in which each image occurs any number of times.

    It equals that of the set itself, where a detection of an image that occurs twice lies twice in a row.

    Args:
        scores: (n,) as for ``average_precision``; so are ``matched`` and ``ignored``.
        matched: (n,) bool.
        ignored: (n,) bool.
        image: (n,) place of the image of each detection, from 0.
        n_truth: (images,) objects of the class.
        weights: (R, images) integers, how often each image occurs.

    Returns:
        (R,); NaN where a set has no object.

    >>> found = [0.9, 0.8, 0.7], [True, False, True], [False, False, False]
    >>> resampled_average_precision(*found, image=[0, 1, 1], n_truth=[1, 1], weights=[[1, 1], [2, 0], [0, 1]]).round(6)
    array([0.834983, 1.      , 0.5     ])
    """
    times = np.asarray(weights, np.int64)
    left = ~np.asarray(ignored, bool)
    score, right, at = np.asarray(scores, np.float64)[left], np.asarray(matched, bool)[left], np.asarray(image)[left]
    order = np.argsort(-score, kind="stable")
    right, at = right[order], at[order].astype(np.int64)
    hits = np.flatnonzero(right)
    # recall rises at right detections only, so what comes behind the last one does not matter
    at = at[: hits[-1] + 1] if len(hits) else at[:0]
    total = times @ np.asarray(n_truth, np.int64)
    found = np.zeros(len(times))
    rows = max(1, _BLOCK // max(1, len(at)))
    for start in range(0, len(times) if len(hits) else 0, rows):
        block = slice(start, start + rows)
        so_far = np.cumsum(times[block][:, at], axis=1)[:, hits].astype(np.float64)
        so_right = np.cumsum(times[block][:, at[hits]], axis=1).astype(np.float64)
        precision = so_right / np.maximum(so_far, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = so_right / np.maximum(total[block], 1)[:, None]
        for i in range(len(precision)):
            reached = np.searchsorted(recall[i], _RECALLS, side="left")
            found[start + i] = precision[i, reached[reached < len(hits)]].sum() / len(_RECALLS)
    return np.where(total > 0, found, np.nan)
