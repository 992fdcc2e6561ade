"""Runs a grid to its end: what is done is skipped, what fails is told at the end, what is lost is tried again."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Literal

import yaml
from tqdm import tqdm

from fewseg import results
from fewseg.benchmark.grid import Plan, Run, Training, plan, self_contained
from fewseg.benchmark.jobs import Event, Executor, Failure, Job, Runner
from fewseg.benchmark.local import LocalExecutor
from fewseg.benchmark.runner import LightningRunner
from fewseg.errors import FewsegError

_ATTEMPTS = 3  # of a job whose worker is lost


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
    with locked(out):
        results.remove_leftovers(out)
        results.write_text(out / "benchmark.yaml", yaml.safe_dump(self_contained(path), sort_keys=False))
        reference = grid.config.get("compare")
        about = {"n_folds": grid.n_folds, "runs": [run.id for run in grid.runs]}
        results.write_json(out / "plan.json", {**about, "compare": reference and {"reference": reference}})
        jobs = jobs_of(grid, out)
        failures: dict[str, str] = {}
        if jobs:
            with contextlib.closing(_executor(executor, out, doer, workers, ray_address)) as where:
                failures = run_jobs(jobs, out, where, grid)
        rows = results.summarise(out, grid.n_folds)
        print(results.table(rows, out, grid.n_folds) if rows else "no run finished")
        print(results.comparison_table(rows, out, reference))
        for note in results.training_notes(rows):
            print(f"training: {note}")
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures or not rows else 0


def _executor(name: str, out: Path, runner: Runner, workers: int | None, ray_address: str | None) -> Executor:
    if name == "ray":
        from fewseg.benchmark.ray_executor import RayExecutor

        return RayExecutor(out, runner, workers, ray_address)
    return LocalExecutor(out, runner, workers)


class locked:
    """Holds a benchmark folder for one process; the lock goes with the process."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.file: IO[str] | None = None

    def __enter__(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self.file = (self.out / ".lock").open("w")
        except OSError as error:
            raise FewsegError(
                "--out", self.out, "a folder that can be written", f"choose another ({error.strerror})"
            ) from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FewsegError(
                "--out", self.out, "a folder that no other benchmark is using", "wait for it or choose another"
            ) from None

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
    everything = (*grid.pretrainings, *grid.trainings)
    n_steps, done = (sum(o.max_steps for o in e) for e in (everything, [o for o in everything if _trained(o, out)]))
    with tqdm(total=n_steps, initial=done, unit="step", desc="training", dynamic_ncols=True, smoothing=0.02) as bar:

        def say(line: str) -> None:
            bar.write(line, file=sys.stdout)
            sys.stdout.flush()

        def fail(found: Failure) -> None:
            failures[found.id] = found.reason
            with contextlib.suppress(OSError):  # a full disk
                results.write_text(out / found.folder / "error.txt", found.log)
            say(f"failed: {found.id}: {found.reason}")

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
            elif event.kind == "line":
                say(event.value)
            elif event.kind == "failed":
                fail(event.value)
            else:
                job = running.pop(event.job)
                if event.kind == "lost":
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
