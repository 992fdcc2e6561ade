"""Runs a grid to its end: what is done is skipped, what fails is told at the end, what is lost is tried again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Literal

import yaml
from tqdm import tqdm

from fewseg import results
from fewseg.benchmark import timings
from fewseg.benchmark.grid import Plan, Run, Training, plan, self_contained
from fewseg.benchmark.jobs import Event, Executor, Failure, Job, Runner
from fewseg.benchmark.local import LocalExecutor
from fewseg.benchmark.runner import LightningRunner
from fewseg.errors import FewsegError

_ATTEMPTS = 3  # of a job whose worker is lost
_PATIENCE = 1.0  # seconds that the workers of a killed benchmark may take to end
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
    if workers is not None and workers < 1:
        raise FewsegError("--workers", workers, "at least 1", "raise it")
    if ray_address is not None and executor != "ray":
        raise FewsegError("--ray-address", ray_address, "--executor ray beside it", "add --executor ray")
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
    results.remove_leftovers(out)
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
        results.summarise(out, grid.n_folds)
    print((out / "summary.txt").read_text(encoding="utf-8"), end="")
    return failures, results.collect(out)


def _executor(name: str, out: Path, runner: Runner, workers: int | None, ray_address: str | None) -> Executor:
    if name == "ray":
        from fewseg.benchmark.ray_executor import RayExecutor

        return RayExecutor(out, runner, workers, ray_address)
    return LocalExecutor(out, runner, workers)


class locked:
    """Holds a benchmark folder for one process and its workers; the lock goes with them.

    Who starts must be the only one for a moment, then shares with workers (``jobs.at_work``). So the workers that a
    killed benchmark leaves behind, which end within a moment, never write beside those of the next one.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.file: IO[str] | None = None

    def __enter__(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self.file = (self.out / ".lock").open("a")
        except OSError as error:
            remedy = f"choose another ({error.strerror})"
            raise FewsegError("--out", self.out, "a folder that can be written", remedy) from None
        deadline = time.monotonic() + _PATIENCE
        while not self._taken():
            if time.monotonic() > deadline:
                self.file.close()
                wanted = "a folder that no other benchmark is using"
                raise FewsegError("--out", self.out, wanted, "wait for it or choose another")
            time.sleep(0.05)

    def _taken(self) -> bool:
        assert self.file
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self.file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            remedy = f"choose another ({error.strerror})"
            raise FewsegError("--out", self.out, "a folder of a file system with locks", remedy) from None
        return True

    def __exit__(self, *error: object) -> None:
        if self.file:
            self.file.close()


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
                    running[job.training.id] = job
                    executor.submit(job)
                del waiting[job.training.id]

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
                    if not _trained(job.training, out):  # what is told again
                        bar.update(-told.pop(event.job, 0))
                    attempts[event.job] += 1
                    if attempts[event.job] == _ATTEMPTS:
                        folder, reason = f"trainings/{event.job}", f"{event.value}, {_ATTEMPTS} times"
                        fail(Failure(event.job, folder, reason, reason))
                        return
                    say(f"again: {event.job}: {event.value}")
                    again = Job(job.training, tuple(r for r in _pending(job.runs, out) if r.id not in failures))
                    running[event.job] = again
                    executor.submit(again, alone=True)

        start()
        while running:
            for event in executor.wait():
                take(event)
                if event.kind in ("done", "lost"):
                    start()
    return failures
