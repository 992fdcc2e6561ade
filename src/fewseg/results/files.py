"""What a benchmark leaves on disk: rows of integer counts and metrics of runs, every file written whole or not at all.

A run is done exactly when its ``metrics.json`` is there, which is written last.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fewseg.episode import ROW_SCHEMA_VERSION, Row
from fewseg.errors import FewsegError

_VERSION_KEY = b"fewseg_row_schema"
_READABLE = [str(version) for version in range(1, ROW_SCHEMA_VERSION + 1)]
_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


def content_id(content: Mapping[str, Any]) -> str:
    """8 hex digits of the SHA-256 of canonical JSON: equal contents have equal ids, whatever the order of keys.

    >>> content_id({"lr": 0.1, "model": "PANet"}) == content_id({"model": "PANet", "lr": 0.1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=plain)
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


def remove_leftovers(out: Path) -> None:
    """Removes the temporary files of writers that were killed; nobody else may be writing into the folder."""
    for path in out.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Writes strict JSON (no NaN), whole or not at all; numpy scalars and arrays become numbers and lists."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, default=plain) + "\n")


def plain(value: Any) -> Any:
    """What JSON can hold of numpy's values and of paths; for ``json.dumps(default=plain)``."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


@functools.cache
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
    content = pq.ParquetFile(path).read(use_threads=False)
    version = (content.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version not in _READABLE:
        raise FewsegError(path, f"row schema {version}", " or ".join(_READABLE), "run this evaluation again")
    present = set(content.schema.names)
    return pd.DataFrame(
        {
            field.name: _column(
                content[field.name] if field.name in present else pa.nulls(len(content), field.type), field
            )
            for field in _row_schema()
        },
        copy=False,
    )


def _column(values: Any, field: Any) -> Any:
    """A column for pandas. Arrow's own conversion of a whole table takes three times as long for small runs."""
    if field.type != pa.int64():
        return values.to_pandas() if field.type == pa.string() else values.to_numpy(zero_copy_only=False)
    known = np.array(values.fill_null(0) if values.null_count else values, np.int64)
    return pd.arrays.IntegerArray(known, np.array(values.is_null(), bool)) if field.nullable else known


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
            lacking = [name for name in (*GROUP, "fold", "seed") if name not in figures]
            if lacking:
                raise FewsegError(folder / "metrics.json", f"no {lacking}", "a run's figures", "remove this folder")
            rows.append({**figures, "run": folder.name})
    return sorted(rows, key=lambda row: (*setting_order(row), row["fold"], row["seed"], row["run"]))


SETTING = ("dataset", "task", "protocol", "n_shot", "n_points")  # what methods are compared in
GROUP = ("dataset", "task", "protocol", "config", "n_shot", "n_points")  # the runs of a line differ in fold and seed


def setting_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What runs are sorted and grouped by: the values of ``GROUP``, dense after any number of points."""
    return (*(row[name] for name in GROUP[:-1]), amount(row["n_points"]))


def amount(n_points: int | None) -> float:
    """P to sort by: dense is more than any number.

    >>> sorted([None, 10, 1], key=amount)
    [1, 10, None]
    """
    return math.inf if n_points is None else n_points
