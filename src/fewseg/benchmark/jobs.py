"""What a worker does, wherever it runs: one training, if it is not done, then its runs, each told as it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol

from fewseg import results
from fewseg.benchmark.grid import Run, Training
from fewseg.benchmark.reading import Config
from fewseg.errors import FewsegError

WORKERS = ".workers"  # the file in a benchmark's folder on which those lock that work in it
# what a GPU's errors say that leave a process without it; nothing of the kind is said where its memory is full
_SPOILING = ("CUDA error", "cuDNN error", "CUDA driver error")


class Runner(Protocol):
    """Does the work of a benchmark. It travels to the workers, so it must be picklable and small."""

    def check(self, runs: Sequence[Run], pretrainings: Mapping[str, Training]) -> None:
        """Finds what is wrong with runs that are still to do, before anything is written.

        Raises:
            FewsegError: an argument that the classes themselves refuse.
        """

    def train(self, one: Training, out: Path, report: Callable[[int], None]) -> None:
        """One fit; does nothing where its ``metrics.json`` is there, and writes that last.

        Args:
            one: the training; its folder is ``trainings/<id>`` in ``out``, and what it goes on from after a kill is
                ``checkpoint/last.ckpt`` in that.
            out: the benchmark's folder.
            report: called with the number of steps done since the last call.
        """

    def evaluate(self, run: Run, out: Path) -> Config:
        """One evaluation of a finished training; writes the run's ``metrics.json`` last and returns its content."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A training and those of its runs that are still to do, which one worker does in turn."""

    training: Training
    runs: tuple[Run, ...]


class Failure(NamedTuple):
    """What failed: the training, or one run of it; the reason in one line; the traceback."""

    id: str
    folder: str  # in the benchmark's folder
    reason: str
    log: str


class Event(NamedTuple):
    """What an executor tells of a job.

    Args:
        job: id of its training.
        kind: ``steps`` were done (int), a run ended with a ``line`` (str), something ``failed`` (Failure), the job is
            ``done`` (None), its worker has ``left`` after a failure that spoilt it (None), or is ``lost`` (str, how).
        value: as above.
    """

    job: str
    kind: Literal["steps", "line", "failed", "done", "left", "lost"]
    value: Any


class Executor(Protocol):
    """Where jobs run. It takes any number of them and runs as many at once as fit."""

    def submit(self, job: Job, alone: bool = False) -> None:
        """Queues a job.

        Args:
            job: what is to be done.
            alone: whether nothing else may run beside it on this machine; for a job whose worker was lost.
        """

    def wait(self) -> list[Event]:
        """What has happened since the last call; waits a fraction of a second where nothing has."""

    def close(self) -> None:
        """Stops all workers, also those at work."""


Tell = Callable[[Literal["steps", "line", "failed"], Any], None]


def packed(runner: Runner, dumps: Callable[[Runner], bytes] = pickle.dumps) -> bytes:
    """A runner as it travels to workers.

    Args:
        runner: what does the jobs.
        dumps: as ``pickle.dumps``.

    Raises:
        FewsegError: it cannot be pickled.
    """
    try:
        return dumps(runner)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        got = f"a {type(runner).__name__} that does not pickle ({error})"
        raise FewsegError("runner", got, "an object that can travel", "define its class at a module's top") from None


# Reads nothing but what ``packed`` made in the benchmark's own process, from its pipe or from Ray; here and not there,
# so that a runner that cannot be loaded fails its job in one line instead of ending the worker.
_unpacked = functools.lru_cache(maxsize=1)(pickle.loads)


_held: set[IO[str]] = set()


def _let_go() -> None:
    for file in _held:
        file.close()


# children that load data live a few seconds longer than a worker that is killed, and must not hold the folder
os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def at_work(out: Path) -> Iterator[None]:
    """Holds a benchmark's folder together with other workers, so that no next one starts while this one writes."""
    with (out / WORKERS).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


def perform(
    job: Job, out: Path, runner: bytes, tell: Tell, finished: Callable[[str], None] = lambda folder: None
) -> bool:
    """In a worker: the training, then its runs. What fails is told, and the runs after it go on.

    Args:
        job: what is to be done.
        out: the benchmark's folder.
        runner: ``packed``.
        tell: takes the kind of an event and its value.
        finished: takes the folder of a training or run that has just ended well.

    Returns:
        Whether this process can do more; where it cannot, what is left of the job is for another.
    """
    one = job.training
    try:
        doer: Runner = _unpacked(runner)
        doer.train(one, out, lambda steps: tell("steps", steps))
        finished(f"trainings/{one.id}")
    except Exception as error:
        tell("failed", failure(one.id, f"trainings/{one.id}", error))
        return not spoils(error)
    for run in job.runs:
        try:
            row = doer.evaluate(run, out)
            finished(run.id)
        except Exception as error:
            tell("failed", failure(run.id, run.id, error))
            if spoils(error):
                return False
        else:
            tell("line", in_a_line(row))
    return True


def spoils(error: BaseException) -> bool:
    """Whether all that a process does later fails too: after an error of CUDA its GPU is lost to it.

    >>> spoils(RuntimeError("CUDA error: an illegal memory access was encountered"))
    True
    >>> spoils(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    False
    """
    cause = error.__cause__ or error.__context__
    return any(text in str(error) for text in _SPOILING) or (cause is not None and spoils(cause))


def failure(name: str, folder: str, error: BaseException) -> Failure:
    r"""What an error says of a training or run, the reason in one line.

    >>> failure("a", "a", ValueError("no\nluck")).reason
    'no luck'
    """
    reason = " ".join(str(error).split())[:500] or type(error).__name__
    return Failure(name, folder, reason, "".join(traceback.format_exception(error)))


def in_a_line(row: Mapping[str, Any]) -> str:
    """A finished run for the terminal."""
    points = row["n_points"] or "dense"
    line = f"{row['config']:<16} fold {row['fold']}  K {row['n_shot']}  P {points:<5}"
    if "n_videos" not in row and "miou" in row:
        low, high = row["ci95"]
        line += f"  mIoU {row['miou']:.3f} [{low:.3f}, {high:.3f}]"
        line += f"  {1000 * row['seconds_per_episode']:.0f} ms" if "seconds_per_episode" in row else ""
    return line + results.in_words(row)
