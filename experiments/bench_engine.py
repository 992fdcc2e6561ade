"""What a benchmark costs beside its work: a grid of runs that do nothing but leave the files of a run.

The grid has ``--runs`` runs of trainings with 25 evaluations each. A runner that loads no torch writes 20 rows and
their figures for every run. Measured one after the other: planning; executing and summarising by the local executor and
by Ray with two workers each, into new folders; the same command again on the complete folder; and the page of
``--rows`` rows of episodes. For comparison the same files are written by a bare pool of two processes, without summary,
order, resuming or events: the difference is the engine's. Both executors must give equal summaries. Scenes, lists and
times go into a cache that is thrown away.

Usage: python experiments/bench_engine.py     (or: make bench-engine)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fewseg import benchmark, results
from fewseg.benchmark.grid import Run, Training
from fewseg.episode import Row
from fewseg.report import build_report

MODELS = Path(__file__).resolve().parent / "models"
PER_TRAINING = 25  # runs
LONGEST = {"local": 60.0, "ray": 60.0, "again": 5.0, "report": 30.0}  # seconds
LARGEST_REPORT = 10e6  # bytes
VOLATILE = {"run"}


class Nothing:
    """Leaves what a training and a run leave, with rows drawn from the run's id."""

    def check(self, runs: Sequence[Run], pretrainings: Mapping[str, Training]) -> None:
        """Finds nothing wrong."""

    def train(self, one: Training, out: Path, report: Callable[[int], None]) -> None:
        """Writes a training's figures."""
        results.write_json(out / "trainings" / one.id / "metrics.json", {"id": one.id, "seconds_train": 0.0})
        report(one.max_steps)

    def evaluate(self, run: Run, out: Path) -> dict[str, Any]:
        """Writes a run's rows and figures."""
        assert "torch" not in sys.modules, "the engine must not need torch"
        return leave(run, out)


def leave(run: Run, out: Path) -> dict[str, Any]:
    """The files of a run."""
    drawn = random.Random(run.id)
    fold = run.training.fold
    rows = [
        Row(i, f"q{i}", "s", 5 * fold + 1 + i % 5, tp, 20, 200 - tp, 800, box=250)
        for i in range(20)
        if (tp := drawn.randrange(100, 200))
    ]
    iou = float(np.mean([row.tp / 220 for row in rows]))
    figures: dict[str, Any] = {"method": run.training.method, "config": run.config, "dataset": run.dataset}
    figures |= {"task": "semantic", "protocol": run.data["protocol"], "fold": fold, "seed": run.seed, "n_folds": 4}
    figures |= {"n_shot": run.data["n_shot"], "n_points": run.data["n_points"], "training": run.training.id}
    figures |= {"n_episodes": len(rows), "episode_list_sha256": f"list{fold}", "miou": iou, "ci95": [iou, iou]}
    results.finish_run(out / run.id, {}, rows, figures)
    return figures


def write_grid(folder: Path, n_runs: int) -> Path:
    """A benchmark file of ``n_runs`` runs: methods x 4 folds x 5 shots x 5 points."""
    source = {"dataset": {"class_path": "Shapes5i", "init_args": {"n_train": 20, "n_val": 120}}, "size": 48}
    names = range(n_runs // (4 * PER_TRAINING))
    methods = {f"m{i}": {"config": str(MODELS / "fgbg.yaml"), "model": {"lr": 1e-3 * (i + 1)}} for i in names}
    config = {"data": {"data": source}, "methods": methods, "compare": "m0", "training": {"max_steps": 3}}
    config |= {"shots": [1, 2, 3, 4, 5], "points": [1, 2, 5, 10, "dense"], "n_episodes": 20}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextlib.contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """What is cached within goes into a folder, as in the processes that start within."""
    before = os.environ.get("FEWSEG_CACHE")
    os.environ["FEWSEG_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["FEWSEG_CACHE"]
        if before is not None:
            os.environ["FEWSEG_CACHE"] = before


@contextlib.contextmanager
def clocked(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes what a block takes, in silence."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    seconds[name] = round(time.perf_counter() - start, 2)
    print(f"{name:<10} {seconds[name]:8.2f} s", flush=True)


def stable(out: Path) -> list[dict[str, Any]]:
    """The summary without what names a place."""
    rows = json.loads((out / "summary.json").read_text())
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]


def bare(grid: benchmark.Plan, out: Path) -> None:
    """The files of all runs by a bare pool of processes."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for _ in pool.map(leave, grid.runs, [out] * len(grid.runs), chunksize=PER_TRAINING):
            pass


def write_large(out: Path, n_rows: int) -> None:
    """A folder of runs of 1,000 rows each: 5 methods, 4 folds, and as many settings as that takes."""
    n_runs, number = n_rows // 1000, 0
    for number in range(n_runs):
        config, fold, setting = f"method{number % 5}", number // 5 % 4, number // 20
        drawn = np.random.RandomState(number)
        tp = drawn.randint(100, 200, 1000).tolist()
        rows = [
            Row(i, f"2008_{i % 400:06d}", f"2007_{i:06d}", 5 * fold + 1 + i % 5, tp[i], 20, 200 - tp[i], 800, box=250)
            for i in range(1000)
        ]
        figures: dict[str, Any] = {"method": "PANet", "config": config, "dataset": "d", "task": "semantic", "seed": 0}
        figures |= {"protocol": "clean", "fold": fold, "n_shot": 1 + setting, "n_points": None, "n_folds": 4}
        figures |= {"n_episodes": 1000, "episode_list_sha256": f"{fold} {setting}", "training": f"{config}-{fold}"}
        per_class = {str(c): sum(t for r, t in zip(rows, tp, strict=True) if r.class_id == c) for c in range(1, 21)}
        ious = {name: hit / (200 * 220) for name, hit in per_class.items() if hit}
        miou = float(np.mean(list(ious.values())))
        figures |= {"miou": miou, "ci95": [miou, miou], "per_class_iou": ious, "seconds_per_episode": 0.01}
        results.finish_run(out / f"{config}-f{fold}-{setting}", {}, rows, figures)


def measure(folder: Path, n_runs: int, n_rows: int) -> dict[str, Any]:
    """Everything above, in a folder that is thrown away."""
    seconds: dict[str, float] = {}
    path = write_grid(folder, n_runs)
    with contextlib.redirect_stderr(io.StringIO()):
        benchmark.plan(path)  # draws images and lists, once
    with clocked(seconds, "plan"):
        grid = benchmark.plan(path)
    with clocked(seconds, "bare"):
        bare(grid, folder / "bare")
    for name in ("local", "ray"):
        with clocked(seconds, name):
            status = benchmark.execute(path, folder / name, 2, name, runner=Nothing())
        assert status == 0, f"{name}: status {status}"
    assert stable(folder / "local") == stable(folder / "ray"), "the executors' summaries differ"
    with clocked(seconds, "again"):
        benchmark.execute(path, folder / "local", 2, runner=Nothing())
    write_large(folder / "large", n_rows)
    with clocked(seconds, "report"):
        page = build_report(folder / "large")
    size = page.stat().st_size
    print(f"page of {n_rows} rows: {size / 1e6:.2f} MB")
    return {"runs": len(grid.runs), "rows": n_rows, "seconds": seconds, "report_bytes": size}


def missed(record: dict[str, Any]) -> list[str]:
    """Names of the figures beyond their limits."""
    late = [name for name, limit in LONGEST.items() if record["seconds"][name] > limit]
    return late + ["report_bytes"] * (record["report_bytes"] > LARGEST_REPORT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes the record, and returns 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "bench_engine.json")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="fewseg-bench-"))
    try:
        with own_cache(folder / "cache"):
            record = measure(folder, options.runs, options.rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    machine = {"device": f"{platform.machine()} CPU, {os.cpu_count()} cores", "python": platform.python_version()}
    limits = {**LONGEST, "report_bytes": LARGEST_REPORT}
    results.write_json(options.out, {**record, "limits": limits, "missed": missed(record), **machine})
    for name in missed(record):
        print(f"missed: {name}")
    return 1 if missed(record) else 0


if __name__ == "__main__":
    sys.exit(main())
