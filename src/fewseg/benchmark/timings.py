"""How long trainings and evaluations took, kept in the cache of this machine for the estimate of a dry run.

Seconds per step and seconds per episode, by what determines them: class, hyper-parameters, data set and options of the
data, K and P, and the device that did it, which may be one of another machine. What is not known so exactly is guessed
from the same on another device of its kind, from the same class, or from all.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from fewseg import results
from fewseg.benchmark.cells import TEST_DATA
from fewseg.benchmark.grid import Plan, Run, Training
from fewseg.benchmark.local import gpus
from fewseg.datasets.paths import cache_dir, write_atomic

FILE = "timings.json"
# options of the data module that change no time, or that stand beside it
_TIMELESS = {"fold", "seed", "protocol", "n_episodes", "pin_memory", "budget_mb"}
_OF_TESTS = TEST_DATA | {"n_shot", "n_points", "eval_batch_size"}


class Place(NamedTuple):
    """What determines a time.

    Args:
        kind: ``step`` of a training or ``episode`` of an evaluation.
        device: its name, as ``x86_64 CPU`` or that of a GPU.
        method: the class.
        content: hash of all else.
    """

    kind: str
    device: str
    method: str
    content: str


class Guess(NamedTuple):
    """Seconds of one step or episode, and whether just this was measured."""

    seconds: float
    measured: bool


class Timings:
    """Seconds that are known, by place."""

    def __init__(self, known: Mapping[Place, float]) -> None:
        self.known = known
        self._alike: dict[tuple[str, ...], list[float]] = {}
        for place, seconds in known.items():
            for part in _parts(place):
                self._alike.setdefault(part, []).append(seconds)

    def guess(self, place: Place) -> Guess | None:
        """What was measured there, else the mean of what is alike; None where nothing is known.

        >>> timings = Timings({Place("step", "my CPU", "PANet", "a"): 2.0, Place("step", "my CPU", "FgBg", "b"): 4.0})
        >>> [timings.guess(Place("step", "my CPU", *rest)) for rest in (("PANet", "a"), ("PANet", "c"), ("SGOne", "d"))]
        [Guess(seconds=2.0, measured=True), Guess(seconds=2.0, measured=False), Guess(seconds=3.0, measured=False)]
        >>> timings.guess(Place("step", "another CPU", "FgBg", "b"))
        Guess(seconds=4.0, measured=False)
        >>> timings.guess(Place("step", "a GPU", "PANet", "a"))
        """
        if place in self.known:
            return Guess(self.known[place], True)
        alike = next((self._alike[part] for part in _parts(place) if part in self._alike), None)
        return Guess(fmean(alike), False) if alike else None


def _parts(place: Place) -> list[tuple[str, ...]]:
    """What a place shares with others, the most alike first."""
    kind = "cpu" if "cpu" in place.device.lower() else "gpu"
    return [
        (place.kind, kind, place.method, place.content),
        (place.kind, place.device, place.method),
        (place.kind, kind, place.method),
        (place.kind, place.device),
        (place.kind, kind),
    ]


def read() -> Timings:
    """What earlier benchmarks left; a file that is broken counts as none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        kept = json.loads((cache_dir() / FILE).read_text())
        return Timings({Place(*place): float(seconds) for *place, seconds in kept})
    return Timings({})


def record(grid: Plan, out: Path) -> None:
    """Keeps the times of what is done in ``out``; where the cache cannot be written nothing is kept.

    Args:
        grid: the benchmark.
        out: its folder.
    """
    found = dict(measured(grid, out))
    if found:
        known = {**read().known, **found}
        with contextlib.suppress(OSError):
            write_atomic(cache_dir() / FILE, json.dumps([[*place, known[place]] for place in sorted(known)]))


def measured(grid: Plan, out: Path) -> Iterator[tuple[Place, float]]:
    """The times of what is done in a benchmark's folder, each on the device that did it.

    What names no device, or took no time although something was learnt, was measured by nobody.
    """
    for one in (*grid.pretrainings, *grid.trainings):
        figures = results.read_metrics(out / "trainings" / one.id) or {}
        seconds = figures.get("seconds_train", 0)
        if one.max_steps and "device" in figures and (seconds > 0 or figures.get("n_trained_parameters") == 0):
            yield of_training(one, _name(figures)), seconds / one.max_steps
    for run in grid.runs:
        figures = results.read_metrics(out / run.id) or {}
        if run.n_episodes and "device" in figures and figures.get("seconds_evaluation", 0) > 0:
            yield of_run(run, _name(figures)), figures["seconds_evaluation"] / run.n_episodes


def _name(figures: dict[str, Any]) -> str:
    """The device of figures, whatever number of threads it had."""
    return str(figures["device"]).partition(",")[0]


def device_of(one: Training) -> str:
    """The name of the device that a training will have on this machine."""
    if one.config["trainer"].get("accelerator", "auto") != "cpu" and gpus():
        return gpu_name()
    return f"{platform.machine()} CPU"


def gpu_name() -> str:
    """Of the first GPU of this machine, without importing torch; ``gpu`` where the driver does not say."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip()
    return "gpu"


def of_training(one: Training, device: str) -> Place:
    """What determines how long a step of a training takes; its share of the validations counts as its own."""
    data = {k: v for k, v in one.config["data"].items() if k not in _TIMELESS | _OF_TESTS}
    trainer = {k: v for k, v in one.config["trainer"].items() if k != "max_steps"}
    often = one.validations / one.max_steps if one.max_steps else 0
    what = {"model": one.config["model"], "data": data, "trainer": trainer, "validations": often}
    return Place("step", device, one.method, results.content_id(what))


def of_run(run: Run, device: str) -> Place:
    """What determines how long an episode of an evaluation takes."""
    data = {k: v for k, v in run.options.items() if k not in _TIMELESS}
    what = {"model": run.training.config["model"], "data": data, "changed": run.model, "protocol": run.data["protocol"]}
    return Place("episode", device, run.training.method, results.content_id(what))
