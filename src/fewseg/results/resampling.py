"""Runs read again from their rows: means over seeds and folds, and paired bootstrap replicates of them.

In a replicate all runs of a fold see the same resampled query images, so that differences of runs are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fewseg.functional.instance_figures import resampled_ap50
from fewseg.functional.iou import bootstrap_ious, per_class_iou
from fewseg.functional.run_figures import click_ious, final_rows, resampled, scores_of_objects
from fewseg.results.files import SETTING, read_rows

SAME = 1e-6  # rows reproduce a run's figures to this, unless it was scored by another rule


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


def average(values: Any, runs: Sequence[Mapping[str, Any]]) -> Any:
    """Means over seeds, then folds, of what every run has, (R, runs) -> (R,)."""
    fold = np.array([run["fold"] for run in runs])
    return np.mean([values[:, fold == f].mean(axis=1) for f in np.unique(fold)], axis=0)


def average_of(name: str, runs: Sequence[Mapping[str, Any]]) -> float:
    """Mean of a figure over seeds, then folds."""
    return float(average(np.array([[run[name] for run in runs]]), runs)[0])


class Resampled(NamedTuple):
    """One run in R resampled benchmarks.

    Args:
        miou: (R,).
        point: mIoU by the rows as they are.
        j: mean J of videos, (R,); None elsewhere, and where rows do not give the run's.
        ap50: AP50 of boxes and masks, (R, 2); None where no instances were asked for, and where rows do not give it.
        clicks: mean IoU after every click, (R, n_clicks); None where objects were not clicked.
        n_clusters: query images or videos that were drawn from.
        final: the rows that make ``point``, with the columns ``_COUNTED``.
        group: runs of a number were resampled together: their differences are paired.
    """

    miou: Any
    point: float
    j: Any
    ap50: Any
    clicks: Any
    n_clusters: int
    final: pd.DataFrame
    group: int

    def gives(self, run: Mapping[str, Any]) -> bool:
        """Whether the rows reproduce the run's mIoU."""
        return "miou" in run and bool(abs(self.point - run["miou"]) <= SAME)


def resample(rows: Sequence[Mapping[str, Any]], out: Path | None) -> dict[str, Resampled]:
    """Every run whose rows are there, by its id: each file is read once, each setting has one bootstrap.

    Args:
        rows: of ``summary.json``.
        out: the benchmark's folder; None resamples nothing.
    """
    found: dict[str, Resampled] = {}
    if out is not None:
        runs = [row for row in rows if "run" in row and (out / row["run"] / "episodes.parquet").is_file()]
        for number, group in enumerate(_drawn_together(runs)):
            found |= _resample(group, [read_rows(out / run["run"] / "episodes.parquet") for run in group], number)
    return found


def together(runs: Sequence[Mapping[str, Any]], drawn: Mapping[str, Resampled]) -> list[Resampled] | None:
    """Of every run what was drawn; None where one is missing, or they were resampled apart."""
    found = [drawn[run["run"]] for run in runs if run.get("run") in drawn]
    return found if found and len(found) == len(runs) and len({one.group for one in found}) == 1 else None


def _drawn_together(runs: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The runs of each setting; in groups where not all have the same list of episodes in a fold."""
    groups: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}  # of a setting, what list a fold has in each group
    members: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    configs: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        configs.setdefault((*(run[name] for name in SETTING), run["config"]), []).append(run)
    for (*setting, config), own in configs.items():
        lists = {run["fold"]: run.get("episode_list_sha256", config) for run in own}
        known = groups.setdefault(tuple(setting), [])
        fits = (all(of.get(fold, name) == name for fold, name in lists.items()) for of in known)
        place = next((i for i, fit in enumerate(fits) if fit), len(known))
        known[place : place + 1] = [{**(known[place] if place < len(known) else {}), **lists}]
        members.setdefault((*setting, place), []).extend(own)
    return list(members.values())


def _resample(runs: Sequence[Mapping[str, Any]], frames: Sequence[pd.DataFrame], group: int) -> dict[str, Resampled]:
    finals = [final_rows(frame)[_COUNTED].reset_index(drop=True) for frame in frames]
    ious, points = miou_replicates(runs, finals)

    def of(name: str, drawn: Callable[[list[Mapping[str, Any]], list[pd.DataFrame]], list[Any]]) -> dict[int, Any]:
        """What is drawn of the runs that have a figure, by their places; None where rows do not give the figure."""
        places = [i for i, run in enumerate(runs) if run.get(name) not in (None, [])]
        found = drawn([runs[i] for i in places], [frames[i] for i in places]) if places else []
        return dict(zip(places, found, strict=True))

    videos, instances, clicks = of("j_mean", _j), of("ap50", _ap50), of("iou_at", _clicks)
    return {
        run["run"]: Resampled(
            miou=ious[:, i],
            point=float(points[i]),
            j=videos.get(i),
            ap50=instances.get(i),
            clicks=clicks.get(i),
            n_clusters=int(finals[i]["query"].nunique()),
            final=finals[i],
            group=group,
        )
        for i, run in enumerate(runs)
    }


_COUNTED = ["episode", "query", "class_id", "object_id", "tp", "fp", "fn", "tn", "box", "present"]


def miou_replicates(runs: Sequence[Mapping[str, Any]], finals: Sequence[pd.DataFrame]) -> tuple[Any, Any]:
    """The mIoU of every run in resampled benchmarks, (R, runs), and as it is, (runs,), from the rows that count.

    Where runs of a fold differ in their images, a replicate may hold no episode of one of them. It then has the mIoU of
    another replicate of that run: its own spread is right, and differences from it, no longer paired there, are taken
    for less certain than they are.
    """
    columns = np.repeat(np.arange(len(finals)), [len(final) for final in finals])
    queries, class_id, tp, fp, fn = (
        np.concatenate([final[name].to_numpy() for final in finals]) for name in ("query", "class_id", "tp", "fp", "fn")
    )
    n_classes = int(class_id.max()) + 1
    column = columns * n_classes + class_id  # one column per run and class
    fold = np.array([run["fold"] for run in runs])
    ids, ious = bootstrap_ious(queries, column, tp, fp, fn, stratum=fold[columns])
    point = np.array([list(per_class_iou(column, tp, fp, fn).values())])

    def per_run(values: Any) -> Any:  # (R, columns) -> (R, runs)
        return np.stack([_mean_of_known(values[:, ids // n_classes == i]) for i in range(len(runs))], axis=1)

    return per_run(ious), per_run(point)[0]


def _mean_of_known(ious: Any) -> Any:
    """Means over the classes of each replicate that are there, (R, classes) -> (R,)."""
    known = ~np.isnan(ious)
    total, n = np.where(known, ious, 0).sum(axis=1), known.sum(axis=1)
    return filled(np.where(n > 0, total / np.maximum(n, 1), np.nan))


def filled(replicates: Any) -> Any:
    """Of a run, (R,); those without an episode or object repeat others of the run.

    >>> filled(np.array([0.25, np.nan, 0.5, np.nan]))
    array([0.25, 0.25, 0.5 , 0.5 ])
    """
    lacking = np.isnan(replicates)
    if lacking.all() or not lacking.any():
        return replicates
    found = replicates.copy()
    found[lacking] = np.resize(replicates[~lacking], lacking.sum())
    return found


def _j(runs: list[Mapping[str, Any]], frames: list[pd.DataFrame]) -> list[Any]:
    if any(frame["frame"].isna().all() for frame in frames):
        return [None] * len(runs)
    scored = [scores_of_objects(final_rows(frame)) for frame in frames]
    means = [scores[:, 0, 0] for _, scores in scored]
    drawn = resampled([videos for videos, _ in scored], means, [run["fold"] for run in runs])
    same = [abs(own.mean() - run["j_mean"]) <= SAME for own, run in zip(means, runs, strict=True)]
    return [one if fits else None for one, fits in zip(drawn, same, strict=True)]


def _ap50(runs: list[Mapping[str, Any]], frames: list[pd.DataFrame]) -> list[Any]:
    if any(frame["truth"].isna().all() for frame in frames):
        return [None] * len(runs)
    drawn, points = resampled_ap50(frames, [run["fold"] for run in runs], [run.get("n_repeats", 1) for run in runs])
    far = np.abs(points - [[run["ap50_boxes"], run["ap50"]] for run in runs]).max(axis=1)
    return [drawn[:, i] if far[i] <= SAME else None for i in range(len(runs))]


def _clicks(runs: list[Mapping[str, Any]], frames: list[pd.DataFrame]) -> list[Any]:
    objects = [frame.drop_duplicates("episode").sort_values("episode")["query"].to_numpy(str) for frame in frames]
    ious = [click_ious(frame, len(run["iou_at"])) for run, frame in zip(runs, frames, strict=True)]
    return resampled(objects, ious, [run["fold"] for run in runs])
