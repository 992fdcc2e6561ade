"""What a benchmark would do, what of it is done, and how long the rest may take."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fewseg import results
from fewseg.benchmark import timings
from fewseg.benchmark.engine import jobs_of
from fewseg.benchmark.grid import Plan, Run
from fewseg.benchmark.jobs import Job
from fewseg.benchmark.local import gpus, workers_for
from fewseg.benchmark.reading import check_executor

_LISTED = 4  # runs of a training that are listed one by one


class Estimate(NamedTuple):
    """How long what is left of a benchmark may take.

    Args:
        seconds: until the last run ends; None where nothing like it was ever measured.
        workers: how many jobs go on at once.
        trainings: to do, pre-trainings too.
        trainings_measured: those of them whose time per step was measured, here or in the benchmark's folder, or that
            have no step.
        runs: to do.
        runs_measured: those of them whose time per episode was measured.
        whole: whether all that is left is in ``seconds``: not where evaluations, or trainings, were never measured.
    """

    seconds: float | None
    workers: int
    trainings: int
    trainings_measured: int
    runs: int
    runs_measured: int
    whole: bool

    def in_words(self) -> str:
        """One line.

        >>> Estimate(2100, 2, 44, 12, 0, 0, True).in_words()
        'about 35 min with 2 workers (12 of 44 trainings measured, the others are guesses)'
        """
        if not self.trainings + self.runs:
            return "nothing is left to do"
        if self.seconds is None:
            return "no estimate: nothing like it has run here yet"
        counts = [(self.trainings_measured, self.trainings, "trainings"), (self.runs_measured, self.runs, "runs")]
        told = " and ".join(f"{part} of {whole} {what}" for part, whole, what in counts if whole)
        guessed = ", the others are guesses" if any(part < whole for part, whole, _ in counts) else ""
        workers = f"{self.workers} worker" + ("s" if self.workers > 1 else "")
        time = f"{'about' if self.whole else 'at least'} {_duration(self.seconds)}"
        return f"{time} with {workers} ({told} measured{guessed})"


def estimate(grid: Plan, out: Path, workers: int | None = None) -> Estimate:
    """How long what is left of a benchmark may take; see ``timings`` for what is known.

    Args:
        grid: the benchmark.
        out: its folder; what is done there is left out, and says how long the rest takes.
        workers: jobs at once; None = as many as ``execute`` takes on this machine.

    Raises:
        FewsegError: workers below 1.
    """
    check_executor(workers, "local", None)
    known = timings.Timings({**timings.read().known, **dict(timings.measured(grid, out))})
    jobs = jobs_of(grid, out)
    to_train = {job.training.id for job in jobs if not results.is_done(out / "trainings" / job.training.id)}
    training = {
        job.training.id: known.guess(timings.of_training(job.training, timings.device_of(job.training)))
        if job.training.max_steps
        else timings.Guess(0.0, True)
        for job in jobs
        if job.training.id in to_train
    }
    testing = {
        run.id: known.guess(timings.of_run(run, timings.device_of(run.training))) for job in jobs for run in job.runs
    }

    def lasts(job: Job) -> float:
        step = training.get(job.training.id)
        episodes = ((run.n_episodes, testing[run.id]) for run in job.runs)
        return (step.seconds * job.training.max_steps if step else 0) + sum(n * e.seconds for n, e in episodes if e)

    n_workers = workers_for(workers, len(gpus()))
    guesses = [*training.values(), *testing.values()]
    return Estimate(
        _span([(job.training.id, job.training.pretraining, lasts(job)) for job in jobs], n_workers)
        if all(guesses) or any(guess.seconds for guess in guesses if guess)
        else None,
        n_workers,
        len(training),
        sum(bool(guess and guess.measured) for guess in training.values()),
        len(testing),
        sum(bool(guess and guess.measured) for guess in testing.values()),
        all(guesses),
    )


def _span(jobs: Iterable[tuple[str, str | None, float]], workers: int) -> float:
    """Seconds until the last job ends, where each goes to the worker that is free first.

    Args:
        jobs: name, name of the job that must have ended before, and seconds.
        workers: at once.

    >>> _span([("p", None, 10), ("a", "p", 5), ("b", "p", 5), ("c", "p", 5)], 2)
    20.0
    """
    free = [0.0] * workers
    ends: dict[str, float] = {}
    for name, before, seconds in jobs:
        worker = min(range(workers), key=free.__getitem__)
        free[worker] = ends[name] = max(free[worker], ends.get(before or "", 0)) + seconds
    return max(ends.values(), default=0)


def _duration(seconds: float) -> str:
    """Seconds in the unit that people would say.

    >>> [_duration(s) for s in (0.2, 44, 100, 2100, 9000, 400000)]
    ['1 s', '44 s', '2 min', '35 min', '2.5 h', '4.6 days']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def describe(grid: Plan, out: Path, workers: int | None = None, cluster: bool = False) -> str:
    """What a benchmark would do, how long that may take, and every training with its runs.

    Args:
        grid: the benchmark.
        out: its folder.
        workers: as in ``estimate``.
        cluster: whether it would join a Ray cluster, which alone knows how many workers it has room for; where
            ``workers`` do not say it either, the time is that of one.
    """
    every = (*grid.pretrainings, *grid.trainings)
    trained = {one.id for one in every if results.is_done(out / "trainings" / one.id)}
    tested = {run.id for run in grid.runs if results.is_done(out / run.id)}
    runs: dict[str, list[Run]] = {}
    for run in grid.runs:
        runs.setdefault(run.training.id, []).append(run)
    lines = [f"{len(every)} trainings, {len(grid.runs)} runs in {out}"]
    lines[0] += f"; done: {len(trained)} trainings, {len(tested)} runs" if trained or tested else ""
    unknown = cluster and workers is None
    left = estimate(grid, out, 1 if unknown else workers)
    told = "; how many workers the cluster has is not known here" if unknown and left.seconds else ""
    lines.append(f"time: {left.in_words()}{told}")
    for one in every:
        state = "done" if one.id in trained else "to do"
        varies = f" ({one.name})" if not one.id.startswith(f"{one.name}-f") else ""
        lines.append(f"  training {one.id}{varies}: {one.max_steps} steps, {state}")
        own = runs.get(one.id, [])
        if len(own) <= _LISTED:
            lines += [f"    run {run.id}: {'done' if run.id in tested else 'to do'}" for run in own]
        else:
            lines += [f"    {line}" for line in _grouped(own, tested)]
    return "\n".join(lines)


def _grouped(runs: Sequence[Run], tested: set[str]) -> list[str]:
    """Runs of one training, those on one line that differ in K and P alone."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.config, run.dataset, run.data["protocol"]), []).append(run)
    lines = []
    for (config, dataset, protocol), found in groups.items():
        points: dict[int, list[str]] = {}
        for run in found:
            points.setdefault(run.data["n_shot"], []).append(str(run.data["n_points"] or "dense"))
        settings = [(str(k), ", ".join(dict.fromkeys(ps))) for k, ps in points.items()]
        told = []
        for ps, same in itertools.groupby(settings, key=lambda setting: setting[1]):
            told.append(f"K {', '.join(k for k, _ in same)} with P {ps}")
        done = sum(run.id in tested for run in found)
        state = "done" if done == len(found) else f"{done} done" if done else "to do"
        lines.append(f"{len(found)} runs {config} on {dataset}, {protocol}: {'; '.join(told)}: {state}")
    return lines
