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
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fewseg.episode import ROW_SCHEMA_VERSION, Row
from fewseg.errors import FewsegError
from fewseg.functional.iou import (
    bootstrap_interval,
    bootstrap_ious,
    fb_iou,
    mean_iou,
    per_class_iou,
    percentile_interval,
    positive_iou,
)

_VERSION_KEY = b"fewseg_row_schema"
_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
_SECONDS = [name for name in Row._fields if name.startswith("seconds_")]

# figures of tasks beyond IoU, with their heads in tables; a table shows those that its runs have
FIGURES = {
    "j_mean": "J",
    "f_mean": "F",
    "jf_mean": "J&F",
    "noc85": "NoC@85",
    "noc90": "NoC@90",
    "ap": "AP",
    "ap50": "AP50",
}


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
    if version != str(ROW_SCHEMA_VERSION):
        raise FewsegError(path, f"row schema {version}", str(ROW_SCHEMA_VERSION), "run this evaluation again")
    frame = content.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    required = [field.name for field in _row_schema() if not field.nullable and field.type == pa.int64()]
    return typing.cast(pd.DataFrame, frame.astype(dict.fromkeys(required, "int64")))


def final_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that count for IoU: after the last click, where an object of a frame was clicked several times.

    >>> clicks = [Row(0, "q", "s", 1, tp=n, fp=0, fn=9 - n, tn=0, click=n) for n in (1, 2, 3)]
    >>> final_rows(pd.DataFrame(clicks)).tp.tolist()
    [3]
    """
    if frame["click"].isna().all():
        return frame
    return frame.sort_values("click", kind="stable").drop_duplicates(["episode", "object_id", "frame"], keep="last")


def score(frame: pd.DataFrame, class_names: Sequence[str], classes: Sequence[int], repeats: int = 1) -> dict[str, Any]:
    """The figures of one run from its rows.

    Args:
        frame: as ``read_rows`` returns it.
        class_names: names of the data set's classes; ``class_names[i]`` has id ``i + 1``.
        classes: class ids that were evaluated, the novel classes of the fold.
        repeats: the episodes are so many lists in a row, and figures are means over them (PANet's five runs); then
            ``miou_std`` is the standard deviation of their mIoU. The interval is that of all episodes together.

    Returns:
        ``miou``, ``fb_iou``, ``positive_iou``, ``per_class_iou`` (class name -> IoU, classes with an episode), all in
        [0, 1]; ``ci95`` of ``miou`` by a bootstrap over query images; ``n_episodes``; and, where they were measured,
        ``seconds_encode``, ``seconds_guide``, ... and their sum ``seconds_per_episode``, all per episode.

    Raises:
        FewsegError: there is no row, or a row of another class.

    >>> rows = [Row(0, "a", "s", 1, 3, 1, 1, 3), Row(1, "b", "s", 1, 1, 1, 0, 6), Row(2, "c", "s", 2, 0, 0, 1, 7)]
    >>> figures = score(pd.DataFrame(rows), ("cat", "dog"), (1, 2))
    >>> round(figures["miou"], 3), figures["positive_iou"], figures["n_episodes"]
    (0.286, 0.5, 3)
    """
    if repeats > 1:
        return _mean_of_repeats(frame, class_names, classes, repeats)
    if frame.empty:
        raise FewsegError("rows", "none", "at least one scored prediction", "check the episode list of this run")
    strangers = sorted(set(frame["class_id"]) - set(classes))
    if strangers:
        raise FewsegError("class_id", strangers, f"classes {list(classes)}", "score a fold with its own episode list")
    final = final_rows(frame)
    class_id, tp, fp, fn, tn = (final[name].to_numpy(np.int64) for name in ("class_id", "tp", "fp", "fn", "tn"))
    n_episodes = int(frame["episode"].nunique())
    figures: dict[str, Any] = {
        "n_episodes": n_episodes,
        "miou": mean_iou(class_id, tp, fp, fn),
        "fb_iou": fb_iou(tp, fp, fn, tn),
        "positive_iou": positive_iou(tp, fp, fn),
        "per_class_iou": {class_names[c - 1]: iou for c, iou in per_class_iou(class_id, tp, fp, fn).items()},
        "ci95": list(bootstrap_interval(final["query"], class_id, tp, fp, fn)),
    }
    seconds = {name: float(frame[name].sum()) / n_episodes for name in _SECONDS if frame[name].notna().any()}
    if seconds:
        figures["seconds_per_episode"] = sum(seconds.values())
    return figures | seconds


def _mean_of_repeats(
    frame: pd.DataFrame, class_names: Sequence[str], classes: Sequence[int], repeats: int
) -> dict[str, Any]:
    pooled = score(frame, class_names, classes)
    repeat = frame["episode"] * repeats // pooled["n_episodes"]
    each = [score(frame[repeat == i], class_names, classes) for i in range(repeats)]
    means = {name: _mean(figures[name] for figures in each) for name in ("miou", "fb_iou", "positive_iou")}
    seen = {c: [f["per_class_iou"][c] for f in each if c in f["per_class_iou"]] for c in pooled["per_class_iou"]}
    low, high = pooled["ci95"]
    return {
        **pooled,
        **means,
        "miou_std": float(np.std([figures["miou"] for figures in each])),
        "per_class_iou": {c: _mean(values) for c, values in seen.items()},
        "ci95": [min(low, means["miou"]), max(high, means["miou"])],
    }


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


def _line(runs: list[dict[str, Any]], out: Path | None, folds_expected: int | None) -> Line:
    first = runs[0]
    scored = [run for run in runs if "miou" in run]
    folds = {fold: _mean(run["miou"] for run in group) for fold, group in _by_fold(scored)}
    miou = _mean(folds.values()) if folds else None
    names = ("fb_iou", "positive_iou", "seconds_per_episode", *FIGURES)
    figures = {name: _fold_mean(runs, name) for name in names if any(name in run for run in runs)}
    classes = dict.fromkeys(name for run in runs for name in run.get("per_class_iou", {}))
    seeds = {fold: {run["seed"] for run in group} for fold, group in _by_fold(runs)}
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
    )


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _by_fold(runs: Sequence[dict[str, Any]]) -> list[tuple[int, list[dict[str, Any]]]]:
    return [(fold, [run for run in runs if run["fold"] == fold]) for fold in sorted({run["fold"] for run in runs})]


def _fold_mean(runs: Sequence[dict[str, Any]], name: str) -> float:
    return _mean(_mean(run[name] for run in group) for _, group in _by_fold([run for run in runs if name in run]))


def _note(runs: Sequence[dict[str, Any]], seeds: dict[int, set[int]], folds_expected: int | None) -> str:
    notes = []
    if folds_expected and len(seeds) < folds_expected:
        found = ("fold " if len(seeds) == 1 else "folds ") + ", ".join(map(str, seeds))
        notes.append(f"partial ({found} of {folds_expected})")
    if len(set(map(frozenset, seeds.values()))) > 1:
        notes.append("partial (folds differ in seeds)")
    if len({(run["fold"], run["seed"]) for run in runs}) < len(runs):
        notes.append("mixed (several runs of one fold and seed)")
    return "; ".join(notes)


def _interval(runs: Sequence[dict[str, Any]], miou: float, out: Path | None) -> tuple[float, float] | None:
    """Resamples the query images of each fold, together for all its seeds, and averages as the point estimate does."""
    if len(runs) == 1 and "ci95" in runs[0]:
        low, high = runs[0]["ci95"]
        return low, high
    paths = [] if out is None else [out / run["run"] / "episodes.parquet" for run in runs]
    if not paths or not all(path.is_file() for path in paths):
        return None
    frames = [final_rows(read_rows(path)) for path in paths]
    columns = np.concatenate([np.full(len(frame), i) for i, frame in enumerate(frames)])
    pooled = pd.concat([frame[["query", "class_id", "tp", "fp", "fn"]] for frame in frames])
    n_classes = int(pooled["class_id"].max()) + 1
    tp, fp, fn = (pooled[name].to_numpy(np.int64) for name in ("tp", "fp", "fn"))
    fold = np.array([run["fold"] for run in runs])
    column = columns * n_classes + pooled["class_id"].to_numpy(np.int64)  # one column per run and class
    ids, ious = bootstrap_ious(pooled["query"], column, tp, fp, fn, stratum=fold[columns])
    point = np.array([list(per_class_iou(column, tp, fp, fn).values())])

    def average(values: Any) -> Any:  # (R, columns) -> (R,): over classes, then seeds, then folds
        per_run = np.stack([np.nanmean(values[:, ids // n_classes == i], axis=1) for i in range(len(runs))])
        return np.mean([per_run[fold == f].mean(axis=0) for f in np.unique(fold)], axis=0)

    if abs(float(average(point)[0]) - miou) > 1e-6:  # scored by another rule: these replicates are of another number
        return None
    return percentile_interval(average(ious), miou)


def cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a leaderboard as text, for the terminal and for markdown; empty where nothing applies."""
    wide = [name for name in ("dataset", "task") if len({getattr(line, name) for line in lines}) > 1]
    folds = sorted({fold for line in lines for fold in line.folds})
    extra = [name for name in FIGURES if any(name in line.figures for line in lines)]
    notes = any(line.note for line in lines)
    heads = [*wide, "config", "protocol", "K", "P", *(f"fold {fold}" for fold in folds), "mIoU", "95 % interval"]
    heads += ["FB-IoU", "positive IU", *(FIGURES[name] for name in extra), "s/episode", *(["note"] * notes)]
    body = []
    for line in lines:
        interval = "" if line.ci95 is None else f"{line.ci95[0]:.3f} to {line.ci95[1]:.3f}"
        shown = [line.figures.get(name) for name in ("fb_iou", "positive_iou", *extra, "seconds_per_episode")]
        body.append(
            [
                *(getattr(line, name) for name in wide),
                line.config,
                line.protocol,
                str(line.n_shot),
                points(line.n_points),
                *(_number(line.folds.get(fold)) for fold in folds),
                _number(line.miou),
                interval,
                *map(_number, shown),
                *([line.note] * notes),
            ]
        )
    return heads, body


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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table(rows: Sequence[Mapping[str, Any]], out: Path | None = None, folds_expected: int | None = None) -> str:
    """The leaderboard as aligned plain text; arguments as in ``leaderboard``.

    >>> run = dict(dataset="d", task="semantic", protocol="clean", config="panet", method="PANet", n_shot=1, seed=0)
    >>> print(table([{**run, "n_points": None, "fold": 2, "miou": 0.5, "ci95": [0.4, 0.6]}], folds_expected=4))
    config  protocol  K  P      fold 2  mIoU   95 % interval   FB-IoU  positive IU  s/episode  note
    panet   clean     1  dense  0.500   0.500  0.400 to 0.600                                  partial (fold 2 of 4)
    """
    heads, body = cells(leaderboard(rows, out, folds_expected))
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (heads, *body)]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _markdown(lines: Sequence[Line]) -> str:
    heads, body = cells(lines)
    marked = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (heads, *body)]
    marked.insert(1, ["---"] * len(heads))
    return "\n".join("| " + " | ".join(line) + " |" for line in marked)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    flat = []
    for row in rows:
        line: dict[str, Any] = {
            name: json.dumps(v, default=_plain) if isinstance(v, dict) else v for name, v in row.items()
        }
        if "ci95" in line:
            line["ci95_low"], line["ci95_high"] = line.pop("ci95")
        flat.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in flat for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def summarise(out: Path, folds_expected: int | None = None) -> list[dict[str, Any]]:
    """Writes ``summary.json``, ``summary.csv`` and ``summary.md`` from the done runs in ``out``, and returns them.

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
    explained = (
        "mIoU: intersection over union per class, summed over all its episodes; mean over the classes of a fold, then\n"
        "over seeds and folds. Interval: 95 % of a bootstrap over query images. K: annotated images, P: annotated\n"
        "pixels per label and image."
    )
    trained = "".join(f"\n\nTraining: {note}." for note in training_notes(rows))
    body = f"{_markdown(lines)}\n\n{explained}{trained}" if lines else "No finished run."
    write_text(out / "summary.md", f"# {_title(rows)}\n\n{body}\n")
    return rows


def training_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the compared methods were trained, each way said once.

    >>> training_notes([{"training_note": "300 steps"}, {"training_note": "300 steps"}, {}])
    ['300 steps']
    """
    return list(dict.fromkeys(str(row["training_note"]) for row in rows if row.get("training_note")))


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(row["dataset"]) for row in rows)) or "Benchmark"
