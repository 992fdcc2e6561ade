"""What a benchmark leaves on disk: rows of integer counts, metrics of runs, and the tables made from them.

Every file is written whole or not at all. A run is done exactly when its ``metrics.json`` is there, which is written
last. Everything here can be recomputed from ``episodes.parquet`` without a GPU, and nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fewseg.episode import ROW_SCHEMA_VERSION, Row
from fewseg.errors import FewsegError
from fewseg.functional.instance_figures import interval_of_ap50, resampled_ap50
from fewseg.functional.iou import bootstrap_ious, per_class_iou, percentile_interval
from fewseg.functional.run_figures import NOC_PERCENT, click_ious, final_rows, resampled, scores_of_objects

_VERSION_KEY = b"fewseg_row_schema"
_READABLE = {"1", str(ROW_SCHEMA_VERSION)}
_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
_IOU_AFTER = (1, 5)  # clicks

# figures of tasks beyond IoU, with their heads in tables; a table shows those that its runs have
FIGURES = {
    "jf_mean": "J&F",
    "j_mean": "J",
    "j_recall": "J recall",
    "j_decay": "J decay",
    "f_mean": "F",
    "f_recall": "F recall",
    "f_decay": "F decay",
    **{f"iou_at_{k}": f"IoU@{k}" for k in _IOU_AFTER},
    **{f"noc{percent}": f"NoC@{percent}" for percent in NOC_PERCENT},
    "over_limit90": "over@90",
    "ap50_boxes": "AP50 boxes",
    "ap50": "AP50 masks",
    "ap_boxes": "AP boxes",
    "ap": "AP masks",
    "guidance_within": "z within",
    "guidance_between": "z between",
    "miou_std_seeds": "std over seeds",
    "seconds_per_video": "s/video",
    "seconds_per_frame": "s/frame",
    "seconds_guide_per_video": "s/guide",
    "seconds_per_update": "s/update",
    "seconds_per_click": "s/click",
    "seconds_refine_per_click": "s/click, refining",
    "seconds_robot_per_click": "s/click, robot",
}
_SHARES = {"guidance_within", "guidance_between"}  # may be tiny, so tables show significant digits and not decimals


def content_id(content: Mapping[str, Any]) -> str:
    """8 hex digits of the SHA-256 of canonical JSON: equal contents have equal ids, whatever the order of keys.

    >>> content_id({"lr": 0.1, "model": "PANet"}) == content_id({"model": "PANet", "lr": 0.1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, flushed to disk, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Writes strict JSON (no NaN), whole or not at all; numpy scalars and arrays become numbers and lists."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def _row_schema() -> pa.Schema:
    fields = []
    for name, hint in typing.get_type_hints(Row).items():
        kinds = typing.get_args(hint) or (hint,)
        fields.append(pa.field(name, _TYPES[kinds[0]], nullable=type(None) in kinds))
    return pa.schema(fields, metadata={_VERSION_KEY: str(ROW_SCHEMA_VERSION)})


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as parquet, whole or not at all; columns that do not apply are null."""
    schema = _row_schema()
    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_pylist([row._asdict() for row in rows], schema=schema), temporary)


def read_rows(path: Path) -> pd.DataFrame:
    """The rows that ``write_rows`` wrote: one line per row, nullable integers as pandas ``Int64``.

    Raises:
        FewsegError: the file has another schema version.
    """
    content = pq.read_table(path, partitioning=None)
    version = (content.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version not in _READABLE:
        raise FewsegError(path, f"row schema {version}", " or ".join(sorted(_READABLE)), "run this evaluation again")
    for field in _row_schema():
        if field.name not in content.schema.names:
            content = content.append_column(field, pa.nulls(len(content), field.type))
    frame = content.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    required = [field.name for field in _row_schema() if not field.nullable and field.type == pa.int64()]
    return typing.cast(pd.DataFrame, frame.astype(dict.fromkeys(required, "int64")))


def in_words(figures: Mapping[str, Any]) -> str:
    """The figures of a run with clicks, videos or instances for its line in the terminal; empty where it has none.

    Clicks and instances are told behind mIoU. Of videos these are all the figures, their interval that of J&F. AP50
    has its interval and, where there were several lists of references, its standard deviation over them.

    >>> in_words({"iou_at": [0.5, 0.75], "n_clicks": 2, "noc85": 2.0, "noc90": 2.0})
    '  IoU@1 0.500  IoU@2 0.750  NoC@85 2.00  NoC@90 2.00'
    >>> video = {"jf_mean": 0.75, "jf_ci95": [0.7, 0.8125], "j_mean": 0.7, "f_mean": 0.8, "positive_iou": 0.625}
    >>> in_words({**video, "seconds_per_video": 2.5})
    '  J&F 0.750 [0.700, 0.812]  J 0.700  F 0.800  positive IU 0.625  2.50 s/video'
    >>> boxes = {"ap50_boxes": 0.25, "ap50_boxes_ci95": [0.125, 0.5], "ap50_boxes_std": 0.01}
    >>> in_words({**boxes, "ap50": 0.125, "ap50_ci95": [0.0625, 0.25]})
    '  AP50 boxes 0.250 [0.125, 0.500] std 0.010  AP50 masks 0.125 [0.062, 0.250]'
    """
    ious = figures.get("iou_at", [])
    told = [f"  IoU@{k} {ious[k - 1]:.3f}" for k in dict.fromkeys((1, len(ious))) if ious]
    told += [f"  NoC@{percent} {figures[name]:.2f}" for percent in (85, 90) if (name := f"noc{percent}") in figures]
    if "jf_mean" in figures:
        heads = {name: FIGURES[name] for name in ("jf_mean", "j_mean", "f_mean")} | {"positive_iou": "positive IU"}
        shown = {name: f"  {head} {figures[name]:.3f}" for name, head in heads.items() if name in figures}
        if "jf_ci95" in figures:
            shown["jf_mean"] += " [{:.3f}, {:.3f}]".format(*figures["jf_ci95"])
        told += shown.values()
    if "seconds_per_video" in figures:
        told.append(f"  {figures['seconds_per_video']:.2f} s/video")
    for name in ("ap50_boxes", "ap50"):
        if name in figures:
            told.append("  {} {:.3f} [{:.3f}, {:.3f}]".format(FIGURES[name], figures[name], *figures[f"{name}_ci95"]))
        if f"{name}_std" in figures:
            told.append(f" std {figures[f'{name}_std']:.3f}")
    return "".join(told)


def finish_run(folder: Path, config: Mapping[str, Any], rows: Iterable[Row], figures: Mapping[str, Any]) -> None:
    """Writes ``config.yaml``, ``episodes.parquet`` and, last, ``metrics.json``, which makes the run done.

    Args:
        folder: of the run.
        config: plain data, what reproduces the run.
        rows: every scored prediction.
        figures: the run's whole line of ``summary.json``.
    """
    write_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    write_rows(folder / "episodes.parquet", rows)
    write_json(folder / "metrics.json", figures)


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The figures of a done run; None where ``metrics.json`` is missing or is not a JSON object."""
    try:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def is_done(folder: Path) -> bool:
    """Whether a run or a training finished."""
    return read_metrics(folder) is not None


def read_plan(out: Path) -> dict[str, Any]:
    """What the last benchmark in a folder asked for, ``n_folds`` and its ``runs``; empty where it is not written."""
    try:
        plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def collect(out: Path) -> list[dict[str, Any]]:
    """The figures of every done run in a benchmark's folder, each with its folder's name as ``run``, sorted.

    Runs that the folder's ``plan.json`` does not name belong to an earlier grid and are left out.

    Raises:
        FewsegError: a ``metrics.json`` lacks what tables are sorted by.
    """
    rows = []
    wanted = read_plan(out).get("runs")
    folders = (path for path in out.glob("*/") if path.name != "trainings")
    for folder in sorted(path for path in folders if wanted is None or path.name in wanted):
        figures = read_metrics(folder)
        if figures is not None:
            lacking = [name for name in (*_GROUP, "fold", "seed") if name not in figures]
            if lacking:
                raise FewsegError(folder / "metrics.json", f"no {lacking}", "a run's figures", "remove this folder")
            rows.append({**figures, "run": folder.name})
    return sorted(rows, key=lambda row: (*_order(row), row["fold"], row["seed"], row["run"]))


_GROUP = ("dataset", "task", "protocol", "config", "n_shot", "n_points")


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(row[name] for name in _GROUP[:-1]), amount(row["n_points"]))


class ClickCurve(NamedTuple):
    """After 1, 2, ... clicks, as means over seeds and then folds.

    Args:
        iou: mean over objects.
        ci95: of ``iou``, [low, high] after each click, a bootstrap over the query images; None where rows are missing.
        seconds: of network and refinement up to each click; empty where they were not measured.
    """

    iou: tuple[float, ...]
    ci95: tuple[tuple[float, float], ...] | None
    seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a leaderboard: all folds and seeds of one configuration in one setting.

    Args:
        dataset: the data set's name; ``task``, ``protocol``, ``config`` and ``method`` as in ``summary.json``.
        n_points: annotated pixels per label and image, None = dense.
        folds: fold -> mIoU, mean over its seeds; empty where runs have no mIoU.
        miou: mean over ``folds``.
        ci95: of ``miou``, a bootstrap over the query images of all folds; None where rows cannot reproduce ``miou``.
        figures: other figures by name, mean over seeds and then folds.
        per_class_iou: class name -> IoU, mean over seeds.
        n_episodes: scored, over all folds and seeds.
        n_seeds: of the fold with the fewest.
        note: what is incomplete or mixed; empty where nothing is.
        runs: the lines of ``summary.json`` that this sums up.
        clicks: what each click brings; None where objects were not clicked.
        jf_ci95: of J&F, where it is that of one run; None elsewhere.
        ap50_boxes_ci95: of AP50 of boxes, where instances were asked for; made as ``ci95``.
        ap50_ci95: the same of masks.
    """

    dataset: str
    task: str
    protocol: str
    config: str
    method: str
    n_shot: int
    n_points: int | None
    folds: dict[int, float]
    miou: float | None
    ci95: tuple[float, float] | None
    figures: dict[str, float]
    per_class_iou: dict[str, float]
    n_episodes: int
    n_seeds: int
    note: str
    runs: tuple[dict[str, Any], ...]
    clicks: ClickCurve | None = None
    jf_ci95: tuple[float, float] | None = None
    ap50_boxes_ci95: tuple[float, float] | None = None
    ap50_ci95: tuple[float, float] | None = None


def leaderboard(
    rows: Sequence[Mapping[str, Any]], out: Path | None = None, folds_expected: int | None = None
) -> list[Line]:
    """One line per data set, task, protocol, configuration, K and P.

    Args:
        rows: of ``summary.json``.
        out: the benchmark's folder, for the intervals; without it only single runs have one.
        folds_expected: folds of a whole benchmark; by default what the rows say as ``n_folds``, else unknown.
    """
    ordered = sorted(rows, key=_order)
    return [_line([dict(row) for row in runs], out, folds_expected) for _, runs in itertools.groupby(ordered, _order)]


def of_videos(settings: Iterable[Line | Comparison]) -> bool:
    """Whether all lines or comparisons are of videos, and there is one."""
    tasks = {one.task for one in settings}
    return bool(tasks) and tasks <= {"video", "interactive_video"}


def of_instances(settings: Iterable[Line | Comparison]) -> bool:
    """Whether all lines or comparisons are of instances, and there is one."""
    return {one.task for one in settings} == {"instance"}


def _line(runs: list[dict[str, Any]], out: Path | None, folds_expected: int | None) -> Line:
    first = runs[0]
    scored = [run for run in runs if "miou" in run]
    folds = {fold: _mean(run["miou"] for run in group) for fold, group in _by_fold(scored)}
    miou = _mean(folds.values()) if folds else None
    names = ("fb_iou", "positive_iou", "seconds_per_episode", *FIGURES)
    figures = {name: _fold_mean(runs, name) for name in names if any(name in run for run in runs)}
    clicks = _click_curve([run for run in runs if run.get("iou_at")], out)
    if clicks:
        figures |= {f"iou_at_{k}": clicks.iou[k - 1] for k in _IOU_AFTER if k <= len(clicks.iou)}
    elif "n_videos" not in first and all("seconds_guide" in run and "seconds_segment" in run for run in runs):
        # of a change of annotations; runs on videos have measured it per frame
        figures["seconds_per_update"] = _fold_mean(runs, "seconds_guide") + _fold_mean(runs, "seconds_segment")
    for name in {f"over_limit{percent}" for percent in NOC_PERCENT} & figures.keys():
        figures[name] *= len(folds)  # a number of objects, in all folds together
    deviation = _seed_deviation(scored)
    if deviation is not None:
        figures["miou_std_seeds"] = deviation
    classes = dict.fromkeys(name for run in runs for name in run.get("per_class_iou", {}))
    seeds = {fold: {run["seed"] for run in group} for fold, group in _by_fold(runs)}
    of_boxes, of_masks = _ap50_intervals([run for run in runs if "ap50" in run], figures, out)
    return Line(
        **{name: first[name] for name in (*_GROUP, "method")},
        folds=folds,
        miou=miou,
        ci95=None if miou is None else _interval(scored, miou, out),
        figures=figures,
        per_class_iou={
            c: _mean(r["per_class_iou"][c] for r in runs if c in r.get("per_class_iou", {})) for c in classes
        },
        n_episodes=sum(run.get("n_episodes", 0) for run in runs),
        n_seeds=min(map(len, seeds.values())),
        note=_note(runs, seeds, folds_expected or first.get("n_folds")),
        runs=tuple(runs),
        clicks=clicks,
        jf_ci95=(first["jf_ci95"][0], first["jf_ci95"][1]) if len(runs) == 1 and "jf_ci95" in first else None,
        ap50_boxes_ci95=of_boxes,
        ap50_ci95=of_masks,
    )


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _by_fold(runs: Sequence[dict[str, Any]]) -> list[tuple[int, list[dict[str, Any]]]]:
    return [(fold, [run for run in runs if run["fold"] == fold]) for fold in sorted({run["fold"] for run in runs})]


def _fold_mean(runs: Sequence[dict[str, Any]], name: str) -> float:
    return _mean(_mean(run[name] for run in group) for _, group in _by_fold([run for run in runs if name in run]))


def _seed_deviation(runs: Sequence[dict[str, Any]]) -> float | None:
    """Standard deviation over seeds (n - 1) of the mean over folds; None unless several seeds have the same folds."""
    found: dict[int, dict[int, float]] = {}
    for run in runs:
        found.setdefault(run["seed"], {})[run["fold"]] = run["miou"]
    if len(found) < 2 or len({frozenset(folds) for folds in found.values()}) > 1:
        return None
    return float(np.std([_mean(folds.values()) for folds in found.values()], ddof=1))


def _click_curve(runs: Sequence[dict[str, Any]], out: Path | None) -> ClickCurve | None:
    if not runs:
        return None

    def mean(name: str) -> Any:
        shortest = min(len(run.get(name, ())) for run in runs)
        return np.mean([np.mean([r[name][:shortest] for r in own], 0) for _, own in _by_fold(runs) if shortest], 0)

    iou, seconds = mean("iou_at"), mean("seconds_at")
    paths = [] if out is None else [out / run["run"] / "episodes.parquet" for run in runs]
    ci95 = None
    if paths and all(path.is_file() for path in paths):
        fold = np.array([run["fold"] for run in runs])
        replicates = _click_replicates([read_rows(path) for path in paths], fold, len(iou))
        ci95 = tuple(percentile_interval(replicates[:, k], iou[k]) for k in range(len(iou)))
    return ClickCurve(tuple(iou.tolist()), ci95, tuple(np.atleast_1d(seconds).tolist()) if np.size(seconds) else ())


def _click_replicates(frames: Sequence[pd.DataFrame], fold: Any, n_clicks: int) -> Any:
    """The IoU after each click in resampled benchmarks, (R, n_clicks), as means over seeds and then folds."""
    objects = [frame.drop_duplicates("episode").sort_values("episode")["query"].to_numpy(str) for frame in frames]
    runs = np.stack(resampled(objects, [click_ious(frame, n_clicks) for frame in frames], fold))
    return np.mean([runs[fold == one].mean(axis=0) for one in np.unique(fold)], axis=0)


_CLASS_BLIND = "class-blind: its foreground counts for every object"  # so its rows are not of one label map


def _note(runs: Sequence[dict[str, Any]], seeds: dict[int, set[int]], folds_expected: int | None) -> str:
    notes = []
    if folds_expected and len(seeds) < folds_expected:
        found = ("fold " if len(seeds) == 1 else "folds ") + ", ".join(map(str, seeds))
        notes.append(f"partial ({found} of {folds_expected})")
    if len(set(map(frozenset, seeds.values()))) > 1:
        notes.append("partial (folds differ in seeds)")
    if runs and all(run.get("detections_per_episode", run.get("positive_iou")) == 0 for run in runs):
        notes.append("finds nothing")
    if any(run.get("class_blind") for run in runs):
        notes.append(_CLASS_BLIND)
    if len({(run["fold"], run["seed"]) for run in runs}) < len(runs):
        notes.append("mixed (several runs of one fold and seed)")
    return "; ".join(notes)


def _interval(runs: Sequence[dict[str, Any]], miou: float, out: Path | None) -> tuple[float, float] | None:
    """Resamples the query images of each fold, together for all its seeds, and averages as the point estimate does."""
    if len(runs) == 1 and "ci95" in runs[0]:
        low, high = runs[0]["ci95"]
        return low, high
    frames = _all_rows(runs, out)
    if frames is None:
        return None
    replicates, points = _replicates(runs, [final_rows(frame) for frame in frames])
    if abs(float(_average(points[None], runs)[0]) - miou) > _SAME:  # these replicates are of another number
        return None
    return percentile_interval(_average(replicates, runs), miou)


_SAME = 1e-6  # rows reproduce a run's mIoU to this, unless it was scored by another rule


def _all_rows(runs: Sequence[dict[str, Any]], out: Path | None) -> list[pd.DataFrame] | None:
    """The rows of every run; None where a run's are missing."""
    paths = [] if out is None else [out / run["run"] / "episodes.parquet" for run in runs]
    if not paths or not all(path.is_file() for path in paths):
        return None
    return [read_rows(path) for path in paths]


def _ap50_intervals(
    runs: Sequence[dict[str, Any]], figures: Mapping[str, float], out: Path | None
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Of AP50 of boxes and of masks what ``_interval`` is of mIoU."""
    if len(runs) == 1 and "ap50_ci95" in runs[0]:
        of_boxes, of_masks = runs[0]["ap50_boxes_ci95"], runs[0]["ap50_ci95"]
        return (of_boxes[0], of_boxes[1]), (of_masks[0], of_masks[1])
    frames = _all_rows(runs, out)
    found = None if frames is None else _ap50_replicates(runs, frames)
    if found is None:
        return None, None
    boxes, masks = (_average(found[:, :, kind], runs) for kind in (0, 1))
    return interval_of_ap50(boxes, figures["ap50_boxes"]), interval_of_ap50(masks, figures["ap50"])


def _ap50_replicates(runs: Sequence[dict[str, Any]], frames: Sequence[pd.DataFrame]) -> Any:
    """AP50 of boxes and masks of every run in resampled benchmarks, (R, runs, 2); None unless all asked for instances.

    None too where rows do not give a run's AP50.
    """
    if not all("ap50" in run for run in runs) or any(frame["truth"].isna().all() for frame in frames):
        return None
    replicates, points = resampled_ap50(
        frames, [run["fold"] for run in runs], [run.get("n_repeats", 1) for run in runs]
    )
    if np.abs(points - [[run["ap50_boxes"], run["ap50"]] for run in runs]).max() > _SAME:
        return None
    return replicates


def _replicates(runs: Sequence[dict[str, Any]], frames: Sequence[pd.DataFrame]) -> tuple[Any, Any]:
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


def _average(values: Any, runs: Sequence[Mapping[str, Any]]) -> Any:
    """(R, runs) -> (R,): over seeds, then folds."""
    fold = np.array([run["fold"] for run in runs])
    return np.mean([values[:, fold == f].mean(axis=1) for f in np.unique(fold)], axis=0)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One configuration against the reference, in one setting.

    Args:
        dataset: the data set's name; ``task``, ``protocol``, ``config``, ``n_shot`` and ``n_points`` as in ``Line``.
        reference: the configuration that it is compared with.
        miou: mean over seeds and folds of what both have; None where they cannot be compared.
        difference: ``miou`` minus that of the reference.
        ci95: of ``difference``; every replicate resamples the same query images for both.
        note: what is left out, or why there is no comparison or interval; empty where nothing is odd.
        j_difference: mean J of videos minus that of the reference; None elsewhere.
        j_ci95: of ``j_difference``; every replicate resamples the same videos for both.
        ap50_boxes_difference: AP50 of boxes minus that of the reference, of instances; None elsewhere.
        ap50_boxes_ci95: of ``ap50_boxes_difference``, made as ``ci95``.
        ap50_difference: the same of masks.
        ap50_ci95: of ``ap50_difference``.
    """

    dataset: str
    task: str
    protocol: str
    config: str
    n_shot: int
    n_points: int | None
    reference: str
    miou: float | None
    difference: float | None
    ci95: tuple[float, float] | None
    note: str
    j_difference: float | None = None
    j_ci95: tuple[float, float] | None = None
    ap50_boxes_difference: float | None = None
    ap50_boxes_ci95: tuple[float, float] | None = None
    ap50_difference: float | None = None
    ap50_ci95: tuple[float, float] | None = None

    @property
    def main(self) -> tuple[str, float | None, tuple[float, float] | None, str]:
        """What is compared first: its name, its difference, ``ci95`` and ``seen``.

        J of videos, AP50 of boxes where instances were asked for, mIoU elsewhere.
        """
        if of_videos([self]):
            return "mean J", self.j_difference, self.j_ci95, self.j_seen
        if of_instances([self]):
            return "AP50 of boxes", self.ap50_boxes_difference, self.ap50_boxes_ci95, self.ap50_boxes_seen
        return "mIoU", self.difference, self.ci95, self.seen

    @property
    def seen(self) -> str:
        """``above`` or ``below`` where the interval leaves out 0, else ``not separated``; empty without interval."""
        return _seen(self.ci95)

    @property
    def j_seen(self) -> str:
        """The same of J."""
        return _seen(self.j_ci95)

    @property
    def ap50_boxes_seen(self) -> str:
        """The same of AP50 of boxes."""
        return _seen(self.ap50_boxes_ci95)

    @property
    def ap50_seen(self) -> str:
        """The same of AP50 of masks."""
        return _seen(self.ap50_ci95)


def _seen(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    return "above" if low > 0 else "below" if high < 0 else "not separated"


def reference_of(out: Path) -> str | None:
    """The configuration that the last benchmark in a folder asked to compare with; None where it did not."""
    wanted = read_plan(out).get("compare")
    return str(wanted["reference"]) if isinstance(wanted, dict) and wanted.get("reference") else None


def comparisons(rows: Sequence[Mapping[str, Any]], out: Path | None, reference: str | None) -> list[Comparison]:
    """``compare``, then every variant of a training against its plain evaluation where that is not the reference.

    >>> run = dict(dataset="d", task="interactive", protocol="p", n_shot=1, n_points=None, fold=0, seed=0)
    >>> run |= dict(training="b-f0-s0-12345678", episode_list_sha256="a")
    >>> runs = [run | dict(config=c, miou=v, run=c) for c, v in (("a", 0.5), ("b", 0.25), ("b+AJ", 0.375))]
    >>> runs[0]["training"] = "a-f0-s0-12345678"
    >>> [(one.config, one.reference, one.difference) for one in comparisons(runs, None, "a")]
    [('b', 'a', -0.25), ('b+AJ', 'a', -0.125), ('b+AJ', 'b', 0.125)]
    """
    found = compare(rows, out, reference)
    plain = {row["config"]: _TRAINING_ID.sub("", str(row.get("training", row["config"]))) for row in rows}
    for name in dict.fromkeys(plain.values()):
        if name != reference and name in plain:
            found += compare([row for row in rows if plain[row["config"]] == name], out, name)
    return found


_TRAINING_ID = re.compile(r"-f\d+-s\d+-[0-9a-f]{8}$")  # behind the name that a benchmark gives to a method


def compare(rows: Sequence[Mapping[str, Any]], out: Path | None, reference: str | None) -> list[Comparison]:
    """Every other configuration against the reference, in every setting that the reference has.

    Runs are paired by fold and seed, and only if both were scored on the same episode list. Where one side repeats the
    evaluation of a training with several seeds, all of them are paired with the other side's one run of the fold.

    Args:
        rows: of ``summary.json``.
        out: the benchmark's folder, for the intervals; without it there are none.
        reference: name of a configuration; None compares nothing.

    Returns:
        in the order of the leaderboard; empty where the reference has no run.
    """

    def setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return (*(row[name] for name in ("dataset", "task", "protocol", "n_shot")), amount(row["n_points"]))

    found = []
    for _, group in itertools.groupby(sorted(rows, key=setting), setting):
        by_config: dict[str, list[dict[str, Any]]] = {}
        for row in group:
            by_config.setdefault(row["config"], []).append(dict(row))
        if reference in by_config:
            found += _compare_setting(by_config, out, reference)
    return sorted(found, key=lambda one: _order(dataclasses.asdict(one)))


def _compare_setting(by_config: dict[str, list[dict[str, Any]]], out: Path | None, reference: str) -> list[Comparison]:
    pairs = {c: _pairs(runs, by_config[reference]) for c, runs in by_config.items() if c != reference}
    # one bootstrap for all configurations: it reads the reference's rows once
    used = list(
        {run["run"]: run for both, _ in pairs.values() for pair in both for run in pair if "run" in run}.values()
    )
    rows = _all_rows(used, out)
    ap50 = _ap50_replicates(used, rows) if rows else None
    frames = [final_rows(frame) for frame in rows] if rows else None
    replicates = _replicates(used, frames) if frames else None
    videos = _j_replicates(used, frames) if frames else None
    column = {run["run"]: i for i, run in enumerate(used)}
    found = []
    for config, (both, note) in pairs.items():
        miou = difference = interval = j_difference = j_interval = None
        instances: dict[str, Any] = {}
        if both:
            own, other = ([pair[side] for pair in both] for side in (0, 1))
            miou, base = (_average_of("miou", runs) for runs in (own, other))
            difference = miou - base
            if all("j_mean" in run for run in (*own, *other)):
                j_difference = _average_of("j_mean", own) - _average_of("j_mean", other)
            of_ap50 = [name for name in ("ap50_boxes", "ap50") if all(name in run for run in (*own, *other))]
            for name in of_ap50:
                instances[f"{name}_difference"] = _average_of(name, own) - _average_of(name, other)
            if replicates is None:
                lacking = "no interval (episodes.parquet is missing)"
            else:
                of_own, of_other = ([column[run["run"]] for run in runs] for runs in (own, other))
                ious, points = replicates
                scored = np.array([run["miou"] for run in (*own, *other)])
                lacking = "" if of_ap50 and ap50 is not None else "no interval (rows give another mIoU)"
                if np.abs(points[of_own + of_other] - scored).max() <= _SAME:
                    interval = percentile_interval(_average(ious[:, of_own] - ious[:, of_other], own), difference)
                    lacking = ""
                if videos is not None and j_difference is not None:
                    j_interval = percentile_interval(
                        _average(videos[:, of_own] - videos[:, of_other], own), j_difference
                    )
                if ap50 is not None:
                    for kind, name in enumerate(of_ap50):
                        drawn = _average(ap50[:, of_own, kind] - ap50[:, of_other, kind], own)
                        instances[f"{name}_ci95"] = interval_of_ap50(drawn, instances[f"{name}_difference"])
            blind = _CLASS_BLIND if any(run.get("class_blind") for run in own) else ""
            note = "; ".join(filter(None, (note, lacking, blind)))
        first = by_config[config][0]
        place = {name: first[name] for name in _GROUP}
        found.append(
            Comparison(
                **place,
                reference=reference,
                miou=miou,
                difference=difference,
                ci95=interval,
                note=note,
                j_difference=j_difference,
                j_ci95=j_interval,
                **instances,
            )
        )
    return found


def _average_of(name: str, runs: Sequence[Mapping[str, Any]]) -> float:
    return float(_average(np.array([[run[name] for run in runs]]), runs)[0])


def _j_replicates(runs: Sequence[dict[str, Any]], frames: Sequence[pd.DataFrame]) -> Any:
    """The mean J of every run in resampled benchmarks, (R, runs); None unless all are runs on videos.

    None too where rows do not give a run's mean J.
    """
    if not all("j_mean" in run for run in runs) or any(frame["frame"].isna().all() for frame in frames):
        return None
    scored = [scores_of_objects(frame) for frame in frames]
    means = [scores[:, 0, 0] for _, scores in scored]
    if any(abs(own.mean() - run["j_mean"]) > _SAME for own, run in zip(means, runs, strict=True)):
        return None
    return np.stack(resampled([videos for videos, _ in scored], means, [run["fold"] for run in runs]), axis=1)


def _pairs(
    runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], str]:
    """Runs of equal fold and seed, and what is odd about them; no pairs where a comparison would not be fair."""
    own, other = ({(r["fold"], r["seed"]): r for r in side if "miou" in r} for side in (runs, others))
    if any(len(kept) < sum("miou" in r for r in side) for kept, side in ((own, runs), (other, others))):
        return [], "not compared (several runs of one fold and seed)"
    own, other = _beside(own, other), _beside(other, own)
    shared = sorted(own.keys() & other.keys())
    if not shared:
        return [], "not compared (no fold and seed in common)"
    for at in shared:
        lists = own[at].get("episode_list_sha256"), other[at].get("episode_list_sha256")
        if None in lists or lists[0] != lists[1]:
            return [], f"not compared (different episode lists in fold {at[0]})"
    note = "" if own.keys() == other.keys() else f"only what both have (fold/seed {_listed(shared)})"
    return [(own[at], other[at]) for at in shared], note


def _beside(
    single: dict[tuple[int, int], dict[str, Any]], repeated: dict[tuple[int, int], dict[str, Any]]
) -> dict[tuple[int, int], dict[str, Any]]:
    """One run a fold, set beside each of the other side's where these repeat the evaluation of one training."""
    by_fold = {fold: run for (fold, _), run in single.items()}
    trainings = {(fold, run.get("training")) for (fold, _), run in repeated.items()}
    several = len(by_fold) == len(single) and len(trainings) == len({fold for fold, _ in repeated}) < len(repeated)
    return {place: by_fold[place[0]] for place in repeated if place[0] in by_fold} if several else single


def _listed(pairs: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{fold}/{seed}" for fold, seed in pairs)


CLICKED = (
    "Objects are clicked by a robot that does not stop early. IoU@k: mean over objects of the IoU after k clicks.\n"
    "NoC@t: clicks until an IoU of t %, or all of them, mean over objects; over: objects that take all of them. mIoU,\n"
    "FB-IoU and positive IU are those after the last click. s/click: network, refinement and robot."
)
_IMAGES = (
    "mIoU: intersection over union per class, summed over all its episodes; mean over the classes of a fold, then\n"
    "over seeds and folds. Interval: 95 % of a bootstrap over query images. K: annotated images, P: annotated\n"
    "pixels per label and image."
)
_FEW = "Over few videos it is too narrow: over 7 or 8 it holds the truth in fewer than 90 % of cases."
VIDEO = (
    "J: intersection over union of an object in a frame. F: the same for its boundary, precision and recall within\n"
    "0.8 % of the diagonal as one number. Of each the mean over frames, recall (share of frames above 0.5) and decay\n"
    "(mean of the first quarter minus that of the last), then the mean over all objects of all videos. J&F: mean of\n"
    "both; interval: 95 % of a bootstrap over videos, each with all its objects, without the variation of training.\n"
    f"{_FEW}\n"
    "The first and the last frame of a video count in seconds only. s/frame: encoding and segmenting a frame;\n"
    "s/guide: making the guidance of all objects, once per video; s/update: that, and the answer on one frame whose\n"
    "features are there."
)
_VIDEO_SETTING = (
    "Positive IU: intersection over union, summed over all objects and frames; with one class it is mIoU. K:\n"
    "annotated frames, P: annotated pixels per label and frame, where every object and the background is a label."
)
INSTANCES = (
    "AP50: average precision of COCO's evaluator at IoU 0.5, of boxes and of masks, over all episodes together; mean\n"
    "over the classes of a fold, then over lists of references, seeds and folds. AP: the mean over the IoUs 0.50 to\n"
    "0.95. Interval: 95 % of a bootstrap over query images, each with all its episodes, without the variation of\n"
    "training. Where classes have few images, about 40, AP and its interval are a little too high."
)
_INSTANCE_SETTING = (
    "mIoU: that of the union of what is found. K: references, crops of other objects. Of folds: AP50 of boxes / masks."
)
_COMPARED = (
    "Difference of {what} to the reference, over the folds and seeds that both have. Interval: 95 % of a bootstrap\n"
    "that draws the same {drawn} for both. It holds neither the variation of training nor a correction for the\n"
    "number of comparisons."
)


def explained(lines: Sequence[Line]) -> list[str]:
    """What the figures of a leaderboard mean, in paragraphs."""
    told = [] if of_videos(lines) or of_instances(lines) else [_IMAGES]
    if any(line.clicks for line in lines):
        told.append(CLICKED)
    if any("jf_mean" in line.figures for line in lines):
        told.append(VIDEO)
        counts = {run["n_videos"] for line in lines for run in line.runs if "n_videos" in run}
        if counts:
            told.append(f"Videos of a run: {' to '.join(map(str, sorted({min(counts), max(counts)})))}.")
    if of_videos(lines):
        told.append(_VIDEO_SETTING)
    if any("ap50" in line.figures for line in lines):
        told.append(INSTANCES)
    if of_instances(lines):
        told.append(_INSTANCE_SETTING)
    elif any("miou_std_seeds" in line.figures for line in lines):
        of = " of positive IU" if of_videos(lines) else ""
        told.append(f"Std over seeds{of}: standard deviation (n - 1) of the mean over folds, as the seed varies.")
    return told


def compared_in_words(found: Sequence[Comparison]) -> str:
    """What comparisons are of, and how far their intervals go."""
    if of_videos(found):
        return _COMPARED.format(what="mean J and of positive IU", drawn="videos") + f"\n{_FEW}"
    if of_instances(found):
        return _COMPARED.format(what="AP50 of boxes and of masks", drawn="query images")
    return _COMPARED.format(what="mIoU", drawn="query images")


def comparison_cells(found: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of comparisons as text; empty cells where nothing applies."""
    wide = [n for n in ("dataset", "task", "protocol") if len({getattr(one, n) for one in found}) > 1]
    notes = any(one.note for one in found)
    references = list(dict.fromkeys(one.reference for one in found))
    several = len(references) > 1
    minus = "difference" if several else f"minus {references[0]}"
    against = ["against"] * several
    of_iou = [minus, "95 % paired interval", "seen"]
    of_j = [f"J {minus}", "95 % paired interval of J", "J seen"]
    videos, j_known = of_videos(found), any(one.j_difference is not None for one in found)
    amounts = ["K"] if of_instances(found) else ["K", "P"]  # references have no points
    if of_instances(found):
        kinds = [[f"{kind} {minus}", f"95 % paired interval of {kind}", f"{kind} seen"] for kind in ("boxes", "masks")]
        heads = [*against, *kinds[0], *kinds[1]]
    elif videos:
        heads = [*against, *of_j, "positive IU", f"IU {minus}", "95 % paired interval of IU", "IU seen"]
    else:
        heads = ["mIoU", *against, *of_iou, *(of_j * j_known)]
    body = []
    for one in found:
        reference = [one.reference] * several
        of_iou = [*_difference(one.difference, one.ci95), one.seen]
        of_j = [*_difference(one.j_difference, one.j_ci95), one.j_seen]
        if of_instances(found):
            of_boxes = [*_difference(one.ap50_boxes_difference, one.ap50_boxes_ci95), one.ap50_boxes_seen]
            of_masks = [*_difference(one.ap50_difference, one.ap50_ci95), one.ap50_seen]
            values = [*reference, *of_boxes, *of_masks]
        elif videos:
            values = [*reference, *of_j, _number(one.miou), *of_iou]
        else:
            values = [_number(one.miou), *reference, *of_iou, *(of_j * j_known)]
        annotated = [str(one.n_shot), points(one.n_points)][: len(amounts)]
        setting = [*(getattr(one, name) for name in wide), one.config, *annotated]
        body.append([*setting, *values, *([one.note] * notes)])
    return [*wide, "config", *amounts, *heads, *(["note"] * notes)], body


def _difference(value: float | None, interval: tuple[float, float] | None) -> list[str]:
    between = "" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"
    return ["" if value is None else f"{value:+.3f}", between]


def comparison_table(rows: Sequence[Mapping[str, Any]], out: Path | None, reference: str | None) -> str:
    """The comparisons as aligned plain text; empty where there is nothing to compare. Arguments as in ``compare``.

    >>> run = dict(dataset="d", task="semantic", protocol="clean", n_shot=1, n_points=5, fold=0, seed=0)
    >>> runs = [run | dict(config=c, miou=v, episode_list_sha256="a", run=c) for c, v in (("a", 0.5), ("b", 0.4))]
    >>> print(comparison_table(runs, None, "a"))
    config  K  P  mIoU   minus a  95 % paired interval  seen  note
    b       1  5  0.400  -0.100                               no interval (episodes.parquet is missing)
    """
    found = comparisons(rows, out, reference)
    return _aligned(*comparison_cells(found)) if found else ""


def cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a leaderboard as text, for the terminal and for markdown; empty where nothing applies."""
    if of_videos(lines):
        return _video_cells(lines)
    if of_instances(lines):
        return _instance_cells(lines)
    wide = [name for name in ("dataset", "task") if len({getattr(line, name) for line in lines}) > 1]
    folds = sorted({fold for line in lines for fold in line.folds})
    extra = [name for name in FIGURES if any(name in line.figures for line in lines)]
    notes = any(line.note for line in lines)
    if any(line.jf_ci95 for line in lines):
        extra.insert(extra.index("jf_mean") + 1, "jf_ci95")
    if not lines or any("seconds_per_video" not in line.figures for line in lines):
        extra.append("seconds_per_episode")  # of videos it is s/video
    heads = [*wide, "config", "protocol", "K", "P", *(f"fold {fold}" for fold in folds), "mIoU", "95 % interval"]
    names = {**FIGURES, "jf_ci95": "95 % of J&F", "seconds_per_episode": "s/episode"}
    heads += ["FB-IoU", "positive IU", *(names[name] for name in extra), *(["note"] * notes)]
    body = []
    for line in lines:
        figures = {name: figure_text(name, line.figures.get(name)) for name in ("fb_iou", "positive_iou", *extra)}
        if "jf_ci95" in figures:
            figures["jf_ci95"] = _range(line.jf_ci95)
        body.append(
            [
                *(getattr(line, name) for name in wide),
                line.config,
                line.protocol,
                str(line.n_shot),
                points(line.n_points),
                *(_number(line.folds.get(fold)) for fold in folds),
                _number(line.miou),
                _range(line.ci95),
                *figures.values(),
                *([line.note] * notes),
            ]
        )
    return heads, body


_VIDEO_FIGURES = (  # in the order of their columns
    *("jf_mean", "jf_ci95", "j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay"),
    *("positive_iou", "miou_std_seeds"),
    *("seconds_per_video", "seconds_per_frame", "seconds_guide_per_video", "seconds_per_update"),
)


def _video_cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """``cells`` where all lines are of videos, whose one class has one fold: mIoU is positive IU."""
    wide = [n for n in ("dataset", "task", "protocol") if len({getattr(line, n) for line in lines}) > 1]
    names = {**FIGURES, "positive_iou": "positive IU", "jf_ci95": "95 % of J&F"}
    known = {name for line in lines for name in line.figures} | {"jf_ci95" for line in lines if line.jf_ci95}
    shown, notes = [name for name in _VIDEO_FIGURES if name in known], any(line.note for line in lines)
    wide.insert(wide.index("protocol") if "protocol" in wide else len(wide), "config")
    body = []
    for line in lines:
        figures = {name: figure_text(name, line.figures.get(name)) for name in shown}
        if "jf_ci95" in figures:
            figures["jf_ci95"] = _range(line.jf_ci95)
        setting = [*(getattr(line, name) for name in wide), str(line.n_shot), points(line.n_points)]
        body.append([*setting, *figures.values(), *([line.note] * notes)])
    return [*wide, "K", "P", *(names[name] for name in shown), *(["note"] * notes)], body


_INSTANCE_FIGURES = (  # in the order of their columns
    *("ap50_boxes", "ap50_boxes_ci95", "ap50", "ap50_ci95", "ap_boxes", "ap", "miou"),
    *("seconds_per_episode", "seconds_per_update"),
)


def _instance_cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """``cells`` where all lines are of instances: AP50 first; K is a number of references, which have no points."""
    wide = ["dataset"] if len({line.dataset for line in lines}) > 1 else []
    folds = sorted({run["fold"] for line in lines for run in line.runs})
    folds = folds if len(folds) > 1 else []
    names = {**FIGURES, "ap50_boxes_ci95": "95 % of boxes", "ap50_ci95": "95 % of masks"}
    names |= {"miou": "mIoU", "seconds_per_episode": "s/episode"}
    notes = any(line.note for line in lines)
    found = []
    for line in lines:
        figures = {name: figure_text(name, value) for name, value in line.figures.items() if name in names}
        figures |= {"ap50_boxes_ci95": _range(line.ap50_boxes_ci95), "ap50_ci95": _range(line.ap50_ci95)}
        found.append(figures | {"miou": _number(line.miou)})
    shown = [name for name in _INSTANCE_FIGURES if any(figures.get(name) for figures in found)]
    body = []
    for line, figures in zip(lines, found, strict=True):
        setting = [*(getattr(line, name) for name in wide), line.config, line.protocol, str(line.n_shot)]
        of_folds = [_ap50_of_fold([run for run in line.runs if run["fold"] == fold]) for fold in folds]
        body.append([*setting, *of_folds, *(figures.get(name, "") for name in shown), *([line.note] * notes)])
    heads = [*wide, "config", "protocol", "K", *(f"fold {fold}" for fold in folds)]
    return [*heads, *(names[name] for name in shown), *(["note"] * notes)], body


def _ap50_of_fold(runs: Sequence[dict[str, Any]]) -> str:
    scored = [run for run in runs if "ap50" in run]
    return " / ".join(_number(_mean(run[name] for run in scored)) for name in ("ap50_boxes", "ap50") if scored)


def points(n_points: int | None) -> str:
    """P as text.

    >>> points(5), points(None)
    ('5', 'dense')
    """
    return "dense" if n_points is None else str(n_points)


def amount(n_points: int | None) -> float:
    """P to sort by: dense is more than any number.

    >>> sorted([None, 10, 1], key=amount)
    [1, 10, None]
    """
    return math.inf if n_points is None else n_points


def figure_text(name: str, value: float | None) -> str:
    """A figure as tables show it; empty where there is none.

    >>> figure_text("fb_iou", 0.6543), figure_text("guidance_within", 0.00012345), figure_text("seconds_guide", 0.00012)
    ('0.654', '0.00012', '0.0001')
    >>> figure_text("noc90", 6.4567), figure_text("over_limit90", 12.0)
    ('6.46', '12')
    """
    if value is None:
        return ""
    if name.startswith("over_limit"):
        return f"{round(value, 1):g}"
    decimals = 4 if name.startswith("seconds") else 2 if name.startswith("noc") else 3
    return f"{value:.2g}" if name in _SHARES else f"{value:.{decimals}f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _aligned(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (heads, *body)]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def table(rows: Sequence[Mapping[str, Any]], out: Path | None = None, folds_expected: int | None = None) -> str:
    """The leaderboard as aligned plain text; arguments as in ``leaderboard``.

    >>> run = dict(dataset="d", task="semantic", protocol="clean", config="panet", method="PANet", n_shot=1, seed=0)
    >>> print(table([{**run, "n_points": None, "fold": 2, "miou": 0.5, "ci95": [0.4, 0.6]}], folds_expected=4))
    config  protocol  K  P      fold 2  mIoU   95 % interval   FB-IoU  positive IU  s/episode  note
    panet   clean     1  dense  0.500   0.500  0.400 to 0.600                                  partial (fold 2 of 4)
    """
    return _aligned(*cells(leaderboard(rows, out, folds_expected)))


def markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    r"""A table in markdown.

    >>> print(markdown(["a"], [["x|y"]]))
    | a |
    | --- |
    | x\|y |
    """
    marked = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (heads, *body)]
    marked.insert(1, ["---"] * len(heads))
    return "\n".join("| " + " | ".join(line) + " |" for line in marked)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    flat = []
    for row in rows:
        line: dict[str, Any] = {
            name: json.dumps(v, default=_plain) if isinstance(v, dict) else v for name, v in row.items()
        }
        for name in ("ci95", "jf_ci95", "ap50_boxes_ci95", "ap50_ci95"):
            if name in line:
                line[f"{name}_low"], line[f"{name}_high"] = line.pop(name)
        line |= {name: json.dumps(v) for name, v in line.items() if isinstance(v, list)}
        flat.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in flat for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def summarise(out: Path, folds_expected: int | None = None) -> list[dict[str, Any]]:
    """Writes ``summary.json``, ``summary.csv`` and ``summary.md`` from the done runs in ``out``, and returns them.

    Where the benchmark names a reference, ``comparisons.json`` is written too, and ``summary.md`` shows them.

    Args:
        out: the benchmark's folder.
        folds_expected: as in ``leaderboard``.

    Raises:
        FewsegError: ``out`` is no folder, or holds a foreign ``metrics.json`` or rows of another schema.
    """
    if not out.is_dir():
        raise FewsegError("out", out, "the folder of a benchmark", "name the --out of a `fewseg benchmark`")
    rows = collect(out)
    write_json(out / "summary.json", rows)
    write_text(out / "summary.csv", _csv(rows))
    lines = leaderboard(rows, out, folds_expected)
    trained = "".join(f"\n\nTraining: {note}." for note in training_notes(rows))
    told = "\n\n".join(explained(lines))
    body = f"{markdown(*cells(lines))}\n\n{told}{trained}" if lines else "No finished run."
    reference = reference_of(out)
    compared = comparisons(rows, out, reference)
    if compared:
        references = ", ".join(dict.fromkeys(one.reference for one in compared))
        body += f"\n\n## Compared with {references}\n\n{markdown(*comparison_cells(compared))}"
        body += f"\n\n{compared_in_words(compared)}"
    if not compared:
        (out / "comparisons.json").unlink(missing_ok=True)  # of an earlier version of the benchmark
    else:
        seen = ("seen", "j_seen", "ap50_boxes_seen", "ap50_seen")
        write_json(
            out / "comparisons.json",
            [dataclasses.asdict(one) | {name: getattr(one, name) for name in seen} for one in compared],
        )
    write_text(out / "summary.md", f"# {_title(rows)}\n\n{body}\n")
    return rows


def training_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the compared methods were trained, each way said once, with the configs it holds for where ways differ.

    >>> run = {"config": "panet", "training_note": "300 steps"}
    >>> training_notes([run, run, {"config": "old"}])
    ['300 steps']
    >>> training_notes([run, {"config": "guided", "training_note": "300 steps"}, {"config": "b", "training_note": "9"}])
    ['300 steps (guided, panet)', '9 (b)']
    """
    configs: dict[str, set[str]] = {}
    for row in rows:
        if row.get("training_note"):
            configs.setdefault(str(row["training_note"]), set()).add(str(row["config"]))
    if len(configs) == 1:
        return list(configs)
    return [f"{note} ({', '.join(sorted(names))})" for note, names in configs.items()]


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(row["dataset"]) for row in rows)) or "Benchmark"
