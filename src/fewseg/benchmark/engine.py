"""Runs a grid to its end: what is done is skipped, what fails is told at the end, what is lost is tried again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from tqdm import tqdm

from fewseg import results
from fewseg.benchmark import timings
from fewseg.benchmark.grid import Plan, Run, Training, plan, self_contained
from fewseg.benchmark.jobs import WORKERS, Event, Executor, Failure, Job, Runner
from fewseg.benchmark.local import LocalExecutor
from fewseg.benchmark.reading import check_executor
from fewseg.benchmark.runner import LightningRunner
from fewseg.errors import FewsegError

_ATTEMPTS = 3  # of a training or a run that its worker is lost with
_PATIENCE = 1.0  # seconds that a benchmark that was killed may take to end
_WORKERS_PATIENCE = 10.0  # and its workers
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def execute(
    path: Path,
    out: Path,
    workers: int | None = None,
    executor: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    runner: Runner | None = None,
) -> int:
    """Runs a benchmark to the end and writes its summary; what is done already is skipped.

    Args:
        path: the benchmark file.
        out: its folder.
        workers: jobs at once; None = one per GPU, or one per core up to 2 without a GPU; of a joined Ray cluster, as
            many as it has room for.
        executor: where jobs run: in processes of this machine, or as tasks of Ray.
        ray_address: of a running Ray cluster; None starts one on this machine.
        runner: does the work; None = trainings and evaluations under Lightning.

    Returns:
        The exit status: 0, or 1 where a run failed or no row came out.
    """
    grid = plan(path)
    check_executor(workers, executor, ray_address)
    doer = runner or LightningRunner()
    todo = [run for run in grid.runs if not results.is_done(out / run.id)]
    doer.check(todo, {one.id: one for one in grid.pretrainings})
    try:
        with locked(out):
            failures, rows = _run(grid, path, out, doer, lambda: _executor(executor, out, doer, workers, ray_address))
    except OSError as error:
        if error.errno not in _FULL:
            raise
        remedy = "make room and run the same command again; what is finished stays"
        raise FewsegError("--out", f"{out} ({error.strerror})", "room for what is written", remedy) from None
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures or not rows else 0


def _run(
    grid: Plan, path: Path, out: Path, runner: Runner, start: Callable[[], Executor]
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """What failed and why, and the rows of the summary, which is printed; the folder is locked."""
    results.write_text(out / "benchmark.yaml", yaml.safe_dump(self_contained(path), sort_keys=False))
    reference = grid.config.get("compare")
    about = {"n_folds": grid.n_folds, "runs": [run.id for run in grid.runs]}
    results.write_json(out / "plan.json", {**about, "compare": reference and {"reference": reference}})
    for one in (*grid.pretrainings, *grid.trainings):
        if _trained(one, out):  # a kill may have come just before its training would have removed it
            (out / "trainings" / one.id / "checkpoint" / "last.ckpt").unlink(missing_ok=True)
    jobs = jobs_of(grid, out)
    failures: dict[str, str] = {}
    if jobs:
        with contextlib.closing(start()) as where:
            failures = run_jobs(jobs, out, where, grid)
        timings.record(grid, out)
    if not results.is_current(out, "summary"):
        results.summarise(out)
    print((out / "summary.txt").read_text(encoding="utf-8"), end="")
    return failures, results.collect(out)


def _executor(name: str, out: Path, runner: Runner, workers: int | None, ray_address: str | None) -> Executor:
    if name == "ray":
        from fewseg.benchmark.ray_executor import RayExecutor

        return RayExecutor(out, runner, workers, ray_address)
    return LocalExecutor(out, runner, workers)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds a benchmark folder for one process, without the temporary files that a killed one left.

    The lock goes with the process. Workers share one of their own (``jobs.at_work``), whose end this waits for. So
    those that a killed benchmark leaves behind, which end within seconds, never write beside those of the next one.
    """
    with _alone(out, ".lock", _PATIENCE):
        with _alone(out, WORKERS, _WORKERS_PATIENCE, f"waiting for workers of a killed benchmark that still use {out}"):
            results.remove_leftovers(out)
        yield


@contextlib.contextmanager
def _alone(out: Path, name: str, patience: float, says: str | None = None) -> Iterator[None]:
    """Holds a file that nobody else holds, after some seconds where it must be; says what it waits for."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / name).open("a")
    except OSError as error:
        remedy = f"choose another ({error.strerror})"
        raise FewsegError("--out", out, "a folder that can be written", remedy) from None
    with file:
        deadline = time.monotonic() + patience
        while not _taken(file.fileno(), out):
            if says:
                print(says, flush=True)
                says = None
            if time.monotonic() > deadline:
                wanted = "a folder that no other benchmark is using"
                raise FewsegError("--out", out, wanted, "wait for it or choose another")
            time.sleep(0.05)
        yield


def _taken(file: int, out: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        remedy = f"choose another ({error.strerror})"
        raise FewsegError("--out", out, "a folder of a file system with locks", remedy) from None
    return True


def jobs_of(grid: Plan, out: Path) -> list[Job]:
    """What is still to do, pre-trainings first."""
    by_training: dict[str, list[Run]] = {}
    for run in grid.runs:
        by_training.setdefault(run.training.id, []).append(run)
    jobs = [Job(one, _pending(by_training.get(one.id, ()), out)) for one in (*grid.pretrainings, *grid.trainings)]
    return [job for job in jobs if job.runs or not _trained(job.training, out)]


def _pending(runs: Iterable[Run], out: Path) -> tuple[Run, ...]:
    return tuple(run for run in runs if not results.is_done(out / run.id))


def _trained(one: Training, out: Path) -> bool:
    return results.is_done(out / "trainings" / one.id)


def run_jobs(jobs: list[Job], out: Path, executor: Executor, grid: Plan) -> dict[str, str]:
    """Runs jobs, each after its pre-training, and shows progress.

    Args:
        jobs: as ``jobs_of`` lists them.
        out: the benchmark's folder.
        executor: where they run.
        grid: the whole benchmark, for the bar.

    Returns:
        the reasons of failures by the id of the training or run.
    """
    running: dict[str, Job] = {}
    waiting = {job.training.id: job for job in jobs}
    attempts: Counter[str] = Counter()
    failures: dict[str, str] = {}
    told: Counter[str] = Counter()  # steps of running jobs
    for job in jobs:  # what an earlier attempt left
        for folder in (f"trainings/{job.training.id}", *(run.id for run in job.runs)):
            (out / folder / "error.txt").unlink(missing_ok=True)
    everything = (*grid.pretrainings, *grid.trainings)
    n_steps, done = (sum(o.max_steps for o in e) for e in (everything, [o for o in everything if _trained(o, out)]))
    with tqdm(total=n_steps, initial=done, unit="step", desc="training", dynamic_ncols=True, smoothing=0.02) as bar:

        def say(line: str) -> None:
            bar.write(line, file=sys.stdout)
            sys.stdout.flush()

        def fail(found: Failure) -> None:
            failures[found.id] = found.reason
            say(f"failed: {found.id}: {found.reason}")
            results.write_text(out / found.folder / "error.txt", found.log)

        def start() -> None:
            """What no longer waits for a pre-training is queued, or failed with it."""
            for job in list(waiting.values()):
                needs = job.training.pretraining
                if needs in failures:
                    failures[job.training.id] = f"its pre-training {needs} failed"
                elif needs in waiting or needs in running:
                    continue
                else:
                    submit(job, alone=False)
                del waiting[job.training.id]

        def submit(job: Job, alone: bool) -> None:
            running[job.training.id] = job
            executor.submit(job, alone)

        def rest_of(job: Job) -> Job | None:
            """What of a job is neither done nor failed."""
            if job.training.id in failures:
                return None
            runs = tuple(run for run in _pending(job.runs, out) if run.id not in failures)
            return Job(job.training, runs) if runs or not _trained(job.training, out) else None

        def lose(job: Job, how: str) -> None:
            """A worker does the training, then one run after the other: what comes next is what it was lost with."""
            rest = rest_of(job)
            if rest is None:
                return
            trained = _trained(job.training, out)
            if not trained:  # what is told again
                bar.update(-told.pop(job.training.id, 0))
            name, folder = (rest.runs[0].id,) * 2 if trained else (job.training.id, f"trainings/{job.training.id}")
            attempts[name] += 1
            if attempts[name] < _ATTEMPTS:
                say(f"again: {name}: {how}")
                submit(rest, alone=True)
                return
            reason = f"{how}, {_ATTEMPTS} times"
            fail(Failure(name, folder, reason, reason))
            others = rest_of(rest)
            if others:
                submit(others, alone=False)

        def take(event: Event) -> None:
            if event.kind == "steps":
                bar.update(event.value)
                told[event.job] += event.value
            elif event.kind == "line":
                say(event.value)
            elif event.kind == "failed":
                fail(event.value)
            else:
                job = running.pop(event.job)
                if event.kind == "lost":
                    lose(job, event.value)
                elif event.kind == "left":
                    rest = rest_of(job)
                    if rest:
                        submit(rest, alone=False)

        start()
        while running:
            for event in executor.wait():
                take(event)
                if event.kind in ("done", "left", "lost"):
                    start()
    return failures
