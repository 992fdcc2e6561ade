"""The figures of a run that asked for instances, from its rows: AP, clutter and confusion. Needs no torch.

Protocol of one-shot instance segmentation (Michaelis et al., "One-Shot Instance Segmentation", 2018): an episode asks
for one class in one image, and COCO's AP is that of all episodes together. Several lists of episodes ask for the same
with other references. Rows come as a pandas frame with the columns of ``episode.Row``, as ``results.read_rows`` returns
it.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fewseg.functional.average_precision import average_precision, resampled_average_precision
from fewseg.functional.iou import percentile_interval

Values = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_N_IOUS = 10  # 0.50, 0.55, ..., 0.95: bits 0 to 9
_AP50 = ("ap50_boxes", "ap50")  # wherever boxes and masks lie on one axis, boxes come first
_BINS = {"1": (1, 1), "2": (2, 2), "3": (3, 3), "4": (4, 4), "5-9": (5, 9), "10-19": (10, 19), "20+": (20, np.inf)}


class Confusion(NamedTuple):
    """AP50 of boxes that were found for references of one class, counted as if these were of another.

    Args:
        rows: names of the classes that references showed.
        columns: names of all classes that the images show.
        ap50: (rows, columns); NaN where no image that a class was asked of shows the other one.
        column_sums: (columns,) of ``ap50``, NaN left out, diagonal included: what is found often, asked for or not.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    ap50: Values
    column_sums: Values


class _Search(NamedTuple):
    """What one list of episodes asked for of one class, and what was found.

    Args:
        asked: (episodes,) place of the image of each episode.
        truth: of each episode class id -> objects.
        image: (n,) place of the image of each detection, in the order of episodes and ranks.
        scores: (n,).
        matched: of boxes and of masks (n,) bits; so is ``ignored``.
        ignored: (n,) bits of each.
        fits: of each detection the class ids that its box fits.
    """

    asked: Integers
    truth: list[dict[int, int]]
    image: Integers
    scores: Values
    matched: tuple[Integers, Integers]
    ignored: tuple[Integers, Integers]
    fits: list[list[int]]

    def n_truth(self, class_id: int, n_images: int) -> Integers:
        """Objects of a class in every image that was asked, (images,)."""
        objects = np.zeros(n_images, np.int64)
        np.add.at(objects, self.asked, [shown.get(class_id, 0) for shown in self.truth])
        return objects


def instance_figures(
    frame: pd.DataFrame, class_names: Sequence[str], classes: Sequence[int], repeats: int = 1
) -> dict[str, Any]:
    """What one run found.

    Equal scores are ranked in the order of episodes. Where no object was asked for, only counts are returned.

    Args:
        frame: rows of the run, one without ``score`` for each episode and one for each detection.
        class_names: names of the data set's classes; ``class_names[i]`` has id ``i + 1``.
        classes: class ids that are scored; rows of others are left out.
        repeats: the episodes are so many lists in a row, and figures are means over them.

    Returns:
        Of masks ``ap50``, AP at IoU 0.5, mean over the classes with an object, and ``ap``, the mean over the IoUs
        0.50, 0.55, ..., 0.95 as well; of boxes ``ap50_boxes`` and ``ap_boxes``. ``ap50_ci95`` and
        ``ap50_boxes_ci95``: 95 % percentile interval over 200 benchmarks whose query images are drawn with replacement,
        each with all its episodes of all lists; it holds neither the variation of training nor that of references.
        ``ap50_std`` and ``ap50_boxes_std``: standard deviation (n, not n - 1) over the lists, where there are several.
        ``per_class_ap50`` and ``per_class_ap50_boxes``: class name -> AP, classes with an object. ``clutter``: the same
        AP over the images with so many objects of any class, as a list of ``instances`` ("1", ..., "5-9", "10-19",
        "20+"), ``n_images``, ``ap50`` and ``ap50_boxes``, without empty bins. ``n_objects`` that were asked
        for and ``detections_per_episode``, both over the episodes of all lists; ``n_repeats``, the number of lists.

    >>> from fewseg.episode import Row
    >>> asked = Row(0, "a", "s", 2, tp=0, fp=0, fn=9, tn=9, truth="1:3 2:1")
    >>> bits = dict(matched_boxes=1, ignored_boxes=0, matched_masks=0, ignored_masks=0)
    >>> found = asked._replace(truth=None, score=0.9, **bits)
    >>> figures = instance_figures(pd.DataFrame([asked, found]), ("cat", "dog"), (2,))
    >>> figures["ap50_boxes"], figures["ap_boxes"], figures["ap50"], figures["clutter"][0]["instances"]
    (1.0, 0.1, 0.0, '4')
    """
    images = _images([frame])
    lists = _searches(frame, images, repeats, classes)
    n_asked = sum(len(one.asked) for searches in lists for one in searches.values())
    n_found = sum(len(one.scores) for searches in lists for one in searches.values())
    truths = [one.n_truth(c, len(images)).sum() for searches in lists for c, one in searches.items()]
    figures: dict[str, Any] = {
        "n_repeats": repeats,
        "n_objects": int(sum(truths)),
        "detections_per_episode": n_found / max(n_asked, 1),
    }
    if not figures["n_objects"]:
        return figures
    shown = np.zeros(len(images), np.int64)
    for one in (one for searches in lists for one in searches.values()):
        shown[one.asked] = [sum(objects.values()) for objects in one.truth]
    inside = np.array([(low <= shown) & (shown <= high) for low, high in _BINS.values()])
    weights = np.concatenate([np.ones((1, len(images)), np.int64), inside, _drawn(len(images), 200)])
    by_class = [_ap50(searches, weights) for searches in lists]
    each = np.stack([_mean(aps.values()) for aps in by_class])  # (lists, sets of images, kinds)
    means = _mean(each)
    replicates = means[1 + len(inside) :]
    aps = _mean(_ap(searches, len(images)) for searches in lists)
    for kind, name in enumerate(_AP50):
        per_class = {c: _mean([aps[c][0, kind] for aps in by_class if c in aps]) for c in classes}
        figures |= {
            name: float(means[0, kind]),
            f"{name}_ci95": list(interval_of_ap50(replicates[:, kind], float(means[0, kind]))),
            name.replace("ap50", "ap"): float(aps[kind]),
            f"per_class_{name}": {class_names[c - 1]: float(ap) for c, ap in per_class.items() if not np.isnan(ap)},
        }
        if repeats > 1:
            figures[f"{name}_std"] = float(np.nanstd(each[:, 0, kind]))
    figures["clutter"] = [
        {"instances": name, "n_images": int(own.sum()), "ap50": float(masks), "ap50_boxes": float(boxes)}
        for name, own, (boxes, masks) in zip(_BINS, inside, means[1 : 1 + len(inside)], strict=True)
        if not np.isnan(masks)
    ]
    return figures


def plain_ap50(frame: pd.DataFrame, classes: Sequence[int], repeats: int = 1) -> dict[str, float]:
    """``ap50_boxes`` and ``ap50`` of ``instance_figures`` alone, a hundredth of its work; empty without any object.

    >>> from fewseg.episode import Row
    >>> asked = Row(0, "a", "s", 2, tp=0, fp=0, fn=9, tn=9, truth="2:1")
    >>> plain_ap50(pd.DataFrame([asked, asked._replace(episode=1, truth="2:2")]), (2,))
    {'ap50_boxes': 0.0, 'ap50': 0.0}
    """
    images = _images([frame])
    once = np.ones((1, len(images)), np.int64)
    lists = [_ap50(searches, once) for searches in _searches(frame, images, repeats, classes)]
    means = [_mean(aps.values()) for aps in lists if aps]
    found = _mean(means)[0] if means else (np.nan, np.nan)
    return {name: float(ap) for name, ap in zip(_AP50, found, strict=True) if not np.isnan(ap)}


def resampled_ap50(
    frames: Sequence[pd.DataFrame], fold: npt.ArrayLike, repeats: Sequence[int], replicates: int = 200
) -> tuple[Values, Values]:
    """AP50 of several runs in resampled benchmarks: query images are drawn, each with all its episodes.

    Args:
        frames: rows of each run, as for ``instance_figures``.
        fold: (runs,); all runs of a fold see the same drawn images, so that their differences are paired.
        repeats: of each run, as for ``instance_figures``.
        replicates: R.

    Returns:
        (R, runs, 2) of boxes and masks, NaN where a replicate holds no object; and (runs, 2) as the runs are. AP takes
        the best precision beyond each recall, so it leans upwards where a class has few images, and more so in
        replicates, which hold fewer different ones: with 40 images a class both by 0.01 in a simulation.
    """
    random, folds = np.random.RandomState(0), np.asarray(fold)
    found = np.zeros((1 + replicates, len(frames), 2))
    for one in np.unique(folds):
        runs = np.flatnonzero(folds == one).tolist()
        images = _images([frames[i] for i in runs])
        weights = np.concatenate([np.ones((1, len(images)), np.int64), _drawn(len(images), replicates, random)])
        for i in runs:
            lists = _searches(frames[i], images, repeats[i])
            found[:, i] = _mean(_mean(_ap50(searches, weights).values()) for searches in lists)
    return found[1:], found[0]


def interval_of_ap50(replicates: Values, point: float) -> tuple[float, float]:
    """95 % percentile interval from (R,) replicates, those without any object left out; it holds the point estimate.

    >>> interval_of_ap50(np.array([0.25, np.nan, 0.25]), 0.5)
    (0.25, 0.5)
    """
    return percentile_interval(replicates[~np.isnan(replicates)], point)


def confusion(frame: pd.DataFrame, class_names: Sequence[str], classes: Sequence[int], repeats: int = 1) -> Confusion:
    """What is found for the references of every class, as figure 7 of Siamese Mask R-CNN shows it.

    Element (i, j) is the AP50 of boxes of all detections for references of class i, relabelled as class j, over the
    images that were asked for class i, with all objects of class j in them. The diagonal is exact: it is
    ``per_class_ap50_boxes``. So are the others, but for crowds: what lies in a crowd of class j counts as wrong there,
    and what lies in a crowd of class i as well. Images that do not show class i are never asked, so that objects of
    class j in them are not missed.

    Args:
        frame: as for ``instance_figures``; so are ``class_names``, ``classes`` and ``repeats``.
        class_names: names of the data set's classes.
        classes: of references.
        repeats: lists of episodes in a row; elements are means over them.

    >>> from fewseg.episode import Row
    >>> asked = Row(0, "a", "s", 2, tp=0, fp=0, fn=9, tn=9, truth="1:2 2:1")
    >>> bits = dict(matched_boxes=0, ignored_boxes=0, matched_masks=0, ignored_masks=0, matched_classes="1")
    >>> found = confusion(pd.DataFrame([asked, asked._replace(score=0.9, **bits)]), ("cat", "dog"), (2,))
    >>> found.rows, found.columns, found.ap50.round(3).tolist()  # one of two cats
    (('dog',), ('cat', 'dog'), [[0.505, 0.0]])
    """
    images = _images([frame])
    lists = _searches(frame, images, repeats, classes)
    searched = [c for c in classes if any(c in searches for searches in lists)]
    every = [one for searches in lists for one in searches.values()]
    seen = sorted({c for one in every for shown in one.truth for c in shown})
    ap50 = np.full((len(lists), len(searched), len(seen)), np.nan)
    for place, searches in enumerate(lists):
        for i, c in enumerate(searched):
            if c in searches:
                ap50[place, i] = _as_if(searches[c], c, seen, len(images))
    mean = _mean(ap50)
    names = [tuple(class_names[c - 1] for c in ids) for ids in (searched, seen)]
    return Confusion(names[0], names[1], mean, np.nansum(mean, axis=0))


def _as_if(search: _Search, class_id: int, seen: Sequence[int], n_images: int) -> Values:
    """AP50 of boxes of one class counted as of every class, (seen,)."""
    n = len(search.scores)
    fitting: dict[int, list[int]] = {}
    for place, fits in enumerate(search.fits):
        for c in fits:
            fitting.setdefault(c, []).append(place)
    found = np.zeros(len(seen))
    for j, c in enumerate(seen):
        matched, ignored = np.zeros(n, bool), np.zeros(n, bool)
        if c == class_id:
            matched, ignored = (bits[0] & 1 > 0 for bits in (search.matched, search.ignored))
        else:
            matched[fitting.get(c, [])] = True
        found[j] = average_precision(search.scores, matched, ignored, int(search.n_truth(c, n_images).sum()))
    return found


def _images(frames: Iterable[pd.DataFrame]) -> npt.NDArray[np.str_]:
    return np.unique(np.concatenate([frame["query"].to_numpy(str) for frame in frames]))


def _drawn(n_images: int, replicates: int, random: np.random.RandomState | None = None) -> Integers:
    """How often each image is drawn, (R, images); its stream is guaranteed, so intervals are the same everywhere."""
    drawn = (random or np.random.RandomState(0)).randint(n_images, size=(replicates, n_images))
    return np.stack([np.bincount(one, minlength=n_images) for one in drawn])


def _searches(
    frame: pd.DataFrame, images: npt.NDArray[np.str_], repeats: int, classes: Sequence[int] | None = None
) -> list[dict[int, _Search]]:
    """Of every list class id -> what was asked for and found; all classes by default."""
    episodes, order = np.unique(frame["episode"].to_numpy(np.int64), return_inverse=True)
    number = order * repeats // len(episodes)  # of the list
    frame = frame.assign(number=number, image=np.searchsorted(images, frame["query"].to_numpy(str)))
    if classes is not None:
        frame = frame[frame["class_id"].isin(list(classes))]
    is_detection = frame["score"].notna()
    detections = frame[is_detection].sort_values(["episode", "object_id"], kind="stable")
    found = dict(iter(detections.groupby(["number", "class_id"])))
    lists: list[dict[int, _Search]] = [{} for _ in range(repeats)]
    for key, asked in frame[~is_detection].groupby(["number", "class_id"]):
        place, c = typing.cast(tuple[int, int], key)
        own = found.get(key, detections.iloc[:0])
        lists[place][int(c)] = _Search(
            asked=asked["image"].to_numpy(np.int64),
            truth=[_counts(text) for text in asked["truth"].fillna("")],
            image=own["image"].to_numpy(np.int64),
            scores=own["score"].to_numpy(np.float64),
            matched=_bits(own, "matched"),
            ignored=_bits(own, "ignored"),
            fits=[[int(number) for number in text.split()] for text in own["matched_classes"].fillna("")],
        )
    return lists


def _bits(detections: pd.DataFrame, what: str) -> tuple[Integers, Integers]:
    return detections[f"{what}_boxes"].to_numpy(np.int64), detections[f"{what}_masks"].to_numpy(np.int64)


def _counts(text: str) -> dict[int, int]:
    pairs = (pair.split(":") for pair in text.split())
    return {int(c): int(n) for c, n in pairs}


def _ap50(searches: dict[int, _Search], weights: Integers) -> dict[int, Values]:
    """Class id -> AP at IoU 0.5 of boxes and masks over each set of images, (sets, 2)."""
    found = {}
    for c, one in searches.items():
        n_truth = one.n_truth(c, weights.shape[1])
        bits = zip(one.matched, one.ignored, strict=True)
        found[c] = np.stack(
            [
                resampled_average_precision(one.scores, matched & 1, ignored & 1, one.image, n_truth, weights)
                for matched, ignored in bits
            ],
            axis=1,
        )
    return found


def _ap(searches: dict[int, _Search], n_images: int) -> Values:
    """AP of boxes and masks, mean over classes with an object and all IoUs, (2,)."""
    found = []
    for c, one in searches.items():
        n_truth = int(one.n_truth(c, n_images).sum())
        for i in range(_N_IOUS):
            bits = zip(one.matched, one.ignored, strict=True)
            found.append([average_precision(one.scores, m >> i & 1, ignored >> i & 1, n_truth) for m, ignored in bits])
    return _mean(found)


def _mean(values: Iterable[npt.ArrayLike]) -> Values:
    """Mean over the first axis, NaN left out; NaN where nothing else is there."""
    numbers = np.asarray(list(values), np.float64)
    known = ~np.isnan(numbers)
    total, n = np.where(known, numbers, 0.0).sum(axis=0), known.sum(axis=0)
    return np.asarray(np.where(n > 0, total / np.maximum(n, 1), np.nan))
