"""Workers on this machine: processes that stay, one a GPU or a share of the cores, as many at once as memory allows."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fewseg.benchmark.jobs import Event, Job, Runner, perform

_PATIENCE = 0.2  # seconds that a look for events waits
_RESERVE = 256 * 2**20  # bytes that stay free

# glibc gives large blocks back after every use; keeping them saves a training step on a CPU up to a third of its time
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def threads_of(workers: int) -> dict[str, str]:
    """The variables that give each of so many workers its share of the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


class _Worker:
    """A process, the way to it, and what it is doing."""

    def __init__(self, process: Any, way: Connection, device: str | None) -> None:
        self.process, self.way, self.device = process, way, device
        self.job: Job | None = None


class LocalExecutor:
    """Jobs in worker processes, which start when they are needed and stay until the end.

    A job waits for memory where the most that a job of its method has taken, or else any job, does not fit beside what
    is running; one job always runs.

    Args:
        out: the benchmark's folder.
        runner: does the jobs.
        workers: processes at once; None = one per GPU, or one per core up to 2 without a GPU.
    """

    def __init__(self, out: Path, runner: Runner, workers: int | None = None) -> None:
        devices = gpus()
        self.n_workers = workers or len(devices) or min(2, os.cpu_count() or 1)
        self.devices: deque[str | None] = deque(
            devices[i % len(devices)] if devices else None for i in range(self.n_workers)
        )
        self.out, self.runner = out, runner
        self.workers: list[_Worker] = []
        self.waiting: deque[tuple[Job, bool]] = deque()
        self.alone = False  # whether what runs must stay alone
        self.peaks: dict[str, int] = {}  # most bytes that a job took, by method

    def submit(self, job: Job, alone: bool = False) -> None:
        """Queues a job; see ``Executor``."""
        self.waiting.append((job, alone))

    def wait(self) -> list[Event]:
        """Hands out what can run and tells what has happened; see ``Executor``."""
        while self.waiting and self._start_next():
            pass
        ways = {worker.way: worker for worker in self.workers if worker.job}
        found: list[Event] = []
        for way in wait(list(ways), _PATIENCE) if ways else ():
            found += self._read(ways[way])  # type: ignore[index]
        return found

    def close(self) -> None:
        """Stops all workers, also those at work."""
        for worker in self.workers:
            worker.way.close()
            if worker.job:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.workers = []

    def _start_next(self) -> bool:
        """Gives the next job to a worker, if it may start now."""
        job, alone = self.waiting[0]
        busy = [worker for worker in self.workers if worker.job]
        if busy and (alone or self.alone or len(busy) == self.n_workers):
            return False
        idle = next((worker for worker in self.workers if not worker.job), None)
        if busy and not self._fits(job, idle):
            return False
        worker = idle or self._start_worker()
        self.waiting.popleft()
        self.alone, worker.job = alone, job
        with contextlib.suppress(OSError):  # it has just died: it is seen to be lost
            worker.way.send(job)
        return True

    def _fits(self, job: Job, worker: _Worker | None) -> bool:
        needed = self.peaks.get(job.training.name, max(self.peaks.values(), default=0))
        held = memory_of(worker.process.pid) if worker else 0
        return needed - held + _RESERVE <= available_memory()

    def _start_worker(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        device = self.devices.popleft()
        process = context.Process(target=_serve, args=(theirs, self.out, self.runner, os.getpid()), daemon=False)
        visible = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        with _environment(
            {**MALLOC, **threads_of(self.n_workers), **visible}
        ):  # libraries read it when they are loaded
            process.start()
        theirs.close()
        worker = _Worker(process, ours, device)
        self.workers.append(worker)
        return worker

    def _read(self, worker: _Worker) -> Iterator[Event]:
        assert worker.job is not None
        name = worker.job.training.id
        try:
            while worker.way.poll():
                kind, value = worker.way.recv()
                if kind == "done":
                    method = worker.job.training.name
                    self.peaks[method] = max(value, self.peaks.get(method, 0))
                    worker.job, self.alone = None, False
                    yield Event(name, "done", None)
                    return
                yield Event(name, kind, value)
        except (EOFError, OSError):
            self.workers.remove(worker)
            self.devices.append(worker.device)
            self.alone = False
            worker.process.join()
            yield Event(name, "lost", how_it_ended(worker.process.exitcode))


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that are started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def how_it_ended(code: int | None) -> str:
    """The end of a worker in words.

    >>> how_it_ended(-9)
    'its worker was killed (SIGKILL), as happens where memory runs out'
    >>> how_it_ended(1)
    'its worker ended with status 1'
    """
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"its worker was killed ({name})" + (", as happens where memory runs out" if name == "SIGKILL" else "")
    return f"its worker ended with status {code}"


def _serve(way: Connection, out: Path, runner: Runner, parent: int) -> None:
    """In a worker: job after job until the way is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark itself decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            job = way.recv()
        except (EOFError, OSError):
            return
        forget_peak()
        perform(job, out, runner, lambda kind, value: way.send((kind, value)))
        way.send(("done", memory_of(os.getpid(), peak=True)))


def _end_with(parent: int) -> None:
    """A killed benchmark takes its workers along: what goes on with its folder is the next benchmark."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def available_memory() -> int:
    """Bytes that can be had without swapping, within the limit of a container where there is one."""
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 2**62)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return free if limit == "max" else min(free, int(limit) - int(used) + int(cached["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return free


def memory_of(process: int, peak: bool = False) -> int:
    """Bytes in memory of a process now, or at most since ``forget_peak``; 0 where that cannot be told."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(wanted)), 0)


def forget_peak() -> None:
    """Lets the peak of this process start again from what it holds now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
