"""Runs read again from their rows: means over seeds and folds, and paired bootstrap replicates of them.

In a replicate all runs of a fold see the same resampled query images, so that differences of runs are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewseg.functional.instance_figures import resampled_ap50
from fewseg.functional.iou import bootstrap_ious, per_class_iou
from fewseg.functional.run_figures import click_ious, resampled, scores_of_objects
from fewseg.results.files import read_rows


def mean(values: Iterable[float]) -> float:
    """Of at least one value."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


def by_fold(runs: Sequence[dict[str, Any]]) -> list[tuple[int, list[dict[str, Any]]]]:
    """Runs of each fold, in the order of folds."""
    return [(fold, [run for run in runs if run["fold"] == fold]) for fold in sorted({run["fold"] for run in runs})]


def fold_mean(runs: Sequence[dict[str, Any]], name: str) -> float:
    """Mean of a figure over the runs of each fold that have it, then over folds."""
    return mean(mean(run[name] for run in group) for _, group in by_fold([run for run in runs if name in run]))


def click_replicates(frames: Sequence[pd.DataFrame], fold: Any, n_clicks: int) -> Any:
    """The IoU after each click in resampled benchmarks, (R, n_clicks), as means over seeds and then folds."""
    objects = [frame.drop_duplicates("episode").sort_values("episode")["query"].to_numpy(str) for frame in frames]
    runs = np.stack(resampled(objects, [click_ious(frame, n_clicks) for frame in frames], fold))
    return np.mean([runs[fold == one].mean(axis=0) for one in np.unique(fold)], axis=0)


SAME = 1e-6  # rows reproduce a run's mIoU to this, unless it was scored by another rule


def all_rows(runs: Sequence[dict[str, Any]], out: Path | None) -> list[pd.DataFrame] | None:
    """The rows of every run; None where a run's are missing."""
    paths = [] if out is None else [out / run["run"] / "episodes.parquet" for run in runs]
    if not paths or not all(path.is_file() for path in paths):
        return None
    return [read_rows(path) for path in paths]


def ap50_replicates(runs: Sequence[dict[str, Any]], frames: Sequence[pd.DataFrame]) -> Any:
    """AP50 of boxes and masks of every run in resampled benchmarks, (R, runs, 2); None unless all asked for instances.

    None too where rows do not give a run's AP50.
    """
    if not all("ap50" in run for run in runs) or any(frame["truth"].isna().all() for frame in frames):
        return None
    replicates, points = resampled_ap50(
        frames, [run["fold"] for run in runs], [run.get("n_repeats", 1) for run in runs]
    )
    if np.abs(points - [[run["ap50_boxes"], run["ap50"]] for run in runs]).max() > SAME:
        return None
    return replicates


def miou_replicates(runs: Sequence[dict[str, Any]], frames: Sequence[pd.DataFrame]) -> tuple[Any, Any]:
    """The mIoU of every run in resampled benchmarks, (R, runs), and as it is, (runs,), from the rows that count.

    In a replicate, all runs of one fold see the same resampled images: differences of columns are paired.
    """
    columns = np.concatenate([np.full(len(frame), i) for i, frame in enumerate(frames)])
    pooled = pd.concat([frame[["query", "class_id", "tp", "fp", "fn"]] for frame in frames])
    n_classes = int(pooled["class_id"].max()) + 1
    tp, fp, fn = (pooled[name].to_numpy(np.int64) for name in ("tp", "fp", "fn"))
    fold = np.array([run["fold"] for run in runs])
    column = columns * n_classes + pooled["class_id"].to_numpy(np.int64)  # one column per run and class
    ids, ious = bootstrap_ious(pooled["query"], column, tp, fp, fn, stratum=fold[columns])
    point = np.array([list(per_class_iou(column, tp, fp, fn).values())])

    def per_run(values: Any) -> Any:  # (R, columns) -> (R, runs)
        return np.stack([np.nanmean(values[:, ids // n_classes == i], axis=1) for i in range(len(runs))], axis=1)

    return per_run(ious), per_run(point)[0]


def average(values: Any, runs: Sequence[Mapping[str, Any]]) -> Any:
    """(R, runs) -> (R,): over seeds, then folds."""
    fold = np.array([run["fold"] for run in runs])
    return np.mean([values[:, fold == f].mean(axis=1) for f in np.unique(fold)], axis=0)


def average_of(name: str, runs: Sequence[Mapping[str, Any]]) -> float:
    """Mean of a figure over seeds, then folds."""
    return float(average(np.array([[run[name] for run in runs]]), runs)[0])


def j_replicates(runs: Sequence[dict[str, Any]], frames: Sequence[pd.DataFrame]) -> Any:
    """The mean J of every run in resampled benchmarks, (R, runs); None unless all are runs on videos.

    None too where rows do not give a run's mean J.
    """
    if not all("j_mean" in run for run in runs) or any(frame["frame"].isna().all() for frame in frames):
        return None
    scored = [scores_of_objects(frame) for frame in frames]
    means = [scores[:, 0, 0] for _, scores in scored]
    if any(abs(own.mean() - run["j_mean"]) > SAME for own, run in zip(means, runs, strict=True)):
        return None
    return np.stack(resampled([videos for videos, _ in scored], means, [run["fold"] for run in runs]), axis=1)
