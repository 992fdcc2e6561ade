"""Intersection over union from integer counts: the field's three means, and a bootstrap interval.

Counts are summed over episodes first and divided once; the mean of per-image IoUs is another number, which nothing
here returns. An empty union counts as IoU 0 (intersection / max(union, 1)), as in the code of OSLSM.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fewseg.episode import VOID
from fewseg.errors import FewsegError

Void = Literal["ignore", "background", "foreground"]


def confusion_counts(pred: Any, target: Any, void: Void = "ignore") -> tuple[int, int, int, int]:
    """Pixels (tp, fp, fn, tn) of one prediction.

    Args:
        pred: (H, W) array or tensor, non-zero is foreground.
        target: (H, W) array or tensor of the same library: 0, 1, 255 = void.
        void: pixels that are void in the target are left out (``"ignore"``, PASCAL VOC), or count as background
            (OSLSM, SG-One at test time) or as foreground (SG-One's training labels).

    Raises:
        FewsegError: shapes differ, or the target holds other values.

    >>> truth = np.array([[1, 1, 255, 0], [1, 1, 255, 0]], np.uint8)
    >>> guess = np.array([[1, 1, 1, 0], [1, 0, 1, 0]], np.uint8)
    >>> confusion_counts(guess, truth), confusion_counts(guess, truth, void="background")
    ((3, 0, 1, 2), (3, 2, 1, 2))
    """
    if tuple(pred.shape) != tuple(target.shape):
        raise FewsegError(
            "pred", f"shape {tuple(pred.shape)}", f"{tuple(target.shape)}", "bring it to the target's size first"
        )
    is_void, truth = target == VOID, target == 1
    if bool(((target != 0) & ~truth & ~is_void).any()):
        raise FewsegError("target", "other values", "0, 1 and 255 = void", "make the label map binary for the class")
    guess = pred != 0
    if void == "ignore":
        guess, valid = guess & ~is_void, ~is_void
    elif void == "background":
        valid = target == target
    elif void == "foreground":
        truth, valid = truth | is_void, target == target
    else:
        raise FewsegError("void", void, '"ignore", "background" or "foreground"', "choose one of the three rules")
    tp = int((guess & truth).sum())
    fp, fn = int(guess.sum()) - tp, int(truth.sum()) - tp
    return tp, fp, fn, int(valid.sum()) - tp - fp - fn


def per_class_iou(
    class_id: npt.ArrayLike, tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike, truth_only: bool = False
) -> dict[int, float]:
    """IoU of every class, from counts summed over its episodes (OSLSM, BMVC 2017).

    Args:
        class_id: (n,) integers, one per scored prediction.
        tp: (n,) pixels; so are ``fp`` and ``fn``.
        fp: (n,) pixels.
        fn: (n,) pixels.
        truth_only: leave out predictions whose truth lacks the class, as PANet's code does; a class without any
            other prediction is NaN.

    Returns:
        class id -> IoU in [0, 1], in the order of the ids.

    >>> per_class_iou([1, 1, 2], tp=[3, 1, 0], fp=[1, 1, 0], fn=[1, 0, 1])
    {1: 0.5714285714285714, 2: 0.0}
    """
    ids, code = np.unique(np.asarray(class_id), return_inverse=True)
    hit, extra, missed = (np.asarray(c, np.int64) for c in (tp, fp, fn))
    counted = hit + missed > 0 if truth_only else np.ones(len(code), bool)

    def per_class(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        total = np.zeros(len(ids), np.int64)
        np.add.at(total, code, np.where(counted, counts, 0))
        return total

    seen = per_class(np.ones(len(code), np.int64)) > 0
    iou = per_class(hit) / np.maximum(per_class(hit + extra + missed), 1)
    return {int(c): float(v) if s else float("nan") for c, v, s in zip(ids, iou, seen, strict=True)}


def mean_iou(
    class_id: npt.ArrayLike, tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike, truth_only: bool = False
) -> float:
    """Mean of ``per_class_iou`` over the classes that occur: mIoU of OSLSM and SG-One ("BMVC IoU"), foreground only.

    Classes that ``truth_only`` leaves without a prediction are left out; NaN if none remains. Arguments as there.

    >>> round(mean_iou([1, 1, 2], tp=[3, 1, 0], fp=[1, 1, 0], fn=[1, 0, 1]), 6)
    0.285714
    """
    values = [v for v in per_class_iou(class_id, tp, fp, fn, truth_only).values() if v == v]
    return float(np.mean(values)) if values else float("nan")


def positive_iou(tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike) -> float:
    """IoU of the foreground pooled over everything, classes ignored ("positive IU" of the guided networks).

    Args:
        tp: (n,) pixels; so are ``fp`` and ``fn``.
        fp: (n,) pixels.
        fn: (n,) pixels.

    >>> positive_iou(tp=[3, 1, 0], fp=[1, 1, 0], fn=[1, 0, 1])
    0.5
    """
    hit, extra, missed = (int(np.sum(c)) for c in (tp, fp, fn))
    return hit / max(hit + extra + missed, 1)


def background_iou(fp: npt.ArrayLike, fn: npt.ArrayLike, tn: npt.ArrayLike) -> float:
    """IoU of the background pooled over everything.

    Args:
        fp: (n,) pixels; so are ``fn`` and ``tn``.
        fn: (n,) pixels.
        tn: (n,) pixels.

    >>> background_iou(fp=[1, 1, 0], fn=[1, 0, 1], tn=[3, 6, 7])
    0.8
    """
    return positive_iou(tn, fn, fp)


def fb_iou(tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike, tn: npt.ArrayLike) -> float:
    """FB-IoU of co-FCN and PL: mean of the pooled foreground and background IoU, classes ignored.

    Args:
        tp: (n,) pixels; so are ``fp``, ``fn`` and ``tn``.
        fp: (n,) pixels.
        fn: (n,) pixels.
        tn: (n,) pixels.

    >>> fb_iou(tp=[3, 1, 0], fp=[1, 1, 0], fn=[1, 0, 1], tn=[3, 6, 7])
    0.65
    """
    return (positive_iou(tp, fp, fn) + background_iou(fp, fn, tn)) / 2


def bootstrap_ious(
    cluster: npt.ArrayLike,
    class_id: npt.ArrayLike,
    tp: npt.ArrayLike,
    fp: npt.ArrayLike,
    fn: npt.ArrayLike,
    stratum: npt.ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Per-class IoUs of resampled benchmarks: query images are drawn with replacement, each with all its episodes.

    Episode lists repeat query images, so episodes are not independent and images are what is resampled.

    Args:
        cluster: (n,) query ids, integers or strings.
        class_id: (n,) integers, one per scored prediction.
        tp: (n,) pixels; so are ``fp`` and ``fn``.
        fp: (n,) pixels.
        fn: (n,) pixels.
        stratum: (n,) integers; images are resampled within their stratum, so that each keeps its number of images.
            Folds are strata: which classes a fold holds is design, not chance. An image of two strata is two images.
        replicates: R.
        seed: of the resampling; equal arguments give equal replicates.

    Returns:
        the class ids (C,) in order, and IoUs (R, C), NaN where a replicate holds no episode of the class.

    >>> bootstrap_ious(["a", "b"], [1, 1], tp=[1, 1], fp=[1, 1], fn=[0, 0], replicates=2)
    (array([1]), array([[0.5], [0.5]]))
    """
    classes, code = np.unique(np.asarray(class_id), return_inverse=True)
    hit, extra, missed = (np.asarray(c, np.int64) for c in (tp, fp, fn))
    strata = np.zeros(len(code), np.int64) if stratum is None else np.unique(stratum, return_inverse=True)[1]
    queries = np.unique(np.asarray(cluster, dtype=str), return_inverse=True)[1]
    random = np.random.RandomState(seed)  # its stream is guaranteed, so the interval is the same everywhere
    totals = np.zeros((3, replicates, len(classes)))
    for s in np.unique(strata):
        rows = strata == s
        images, image = np.unique(queries[rows], return_inverse=True)
        cell, n = image * len(classes) + code[rows], len(images)
        intersection, union, episodes = (
            np.bincount(cell, counts[rows], n * len(classes)).reshape(n, -1)
            for counts in (hit, hit + extra + missed, np.ones_like(hit))
        )
        for start in range(0, replicates, 100):  # blocks bound the memory of large lists
            block = slice(start, min(start + 100, replicates))
            size = block.stop - block.start
            drawn = random.randint(n, size=(size, n)) + n * np.arange(size)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
            for total, counts in zip(totals, (intersection, union, episodes), strict=True):
                total[block] += weights @ counts
    ious = totals[0] / np.maximum(totals[1], 1)
    return classes, np.where(totals[2] > 0, ious, np.nan)


def bootstrap_interval(
    cluster: npt.ArrayLike,
    class_id: npt.ArrayLike,
    tp: npt.ArrayLike,
    fp: npt.ArrayLike,
    fn: npt.ArrayLike,
    stratum: npt.ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of ``mean_iou``, clustered by query image; it always holds the point estimate.

    It says how far the choice of query images moves the number, not how far another training would. Arguments as in
    ``bootstrap_ious``.

    >>> bootstrap_interval(["a", "b"], [1, 1], tp=[1, 1], fp=[1, 1], fn=[0, 0])
    (0.5, 0.5)
    """
    ious = bootstrap_ious(cluster, class_id, tp, fp, fn, stratum, replicates, seed)[1]
    return percentile_interval(np.nanmean(ious, axis=1), mean_iou(class_id, tp, fp, fn))


def percentile_interval(replicates: npt.NDArray[np.float64], point: float) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of (R,) replicates, widened where needed to hold the point estimate.

    >>> percentile_interval(np.linspace(0, 1, 1001), point=0.5)
    (0.025, 0.975)
    """
    low, high = (float(v) for v in np.percentile(replicates, (2.5, 97.5)))
    return min(low, point), max(high, point)
