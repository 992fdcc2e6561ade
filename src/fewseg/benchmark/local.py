"""Workers on this machine: processes that stay, one a GPU or a share of the cores, as many at once as memory allows."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import takewhile
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fewseg.benchmark.jobs import Event, Job, Runner, at_work, packed, perform

_PATIENCE = 0.2  # seconds that a look for events waits
_RESERVE = 256 * 2**20  # bytes that stay free
_END = 5  # seconds that a worker may take to end
_GPU = re.compile(r"\d|GPU-|MIG-")

# glibc gives large blocks back after every use; keeping them saves a training step on a CPU up to a third of its time
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        return list(takewhile(_GPU.match, names))  # as CUDA does: the first that is none (-1, NoDevFiles) ends the list
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(workers: int | None, n_gpus: int) -> int:
    """Jobs at once on this machine: those asked for, else one per GPU, else one per core up to 2."""
    return workers or n_gpus or min(2, cores())


def threads_of(workers: int) -> int:
    """Threads of each of so many workers on this machine: its share of the cores."""
    return max(1, cores() // workers)


def variables(threads: int) -> dict[str, str]:
    """What a worker finds in its environment before it loads libraries."""
    return {**MALLOC, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


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
        self.n_workers = workers_for(workers, len(devices))
        self.devices: deque[str | None] = deque(
            devices[i % len(devices)] if devices else None for i in range(self.n_workers)
        )
        self.out, self.runner = out, packed(runner)
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
        busy = {worker.way: worker for worker in self.workers if worker.job}
        ready = wait(list(busy), _PATIENCE) if busy else []
        found: list[Event] = []
        for way, worker in busy.items():
            # a killed worker's own children, which load data, may hold its way open
            if way in ready or not worker.process.is_alive():
                found += self._read(worker)
        return found

    def close(self) -> None:
        """Stops all workers, also those at work."""
        for worker in self.workers:
            worker.way.close()
            if worker.job:
                worker.process.terminate()
        for worker in self.workers:
            _ended(worker.process)
        self.workers = []

    def _start_next(self) -> bool:
        """Gives the next job to a worker, if it may start now."""
        job, alone = self.waiting[0]
        busy = [worker for worker in self.workers if worker.job]
        if busy and (alone or self.alone or len(busy) == self.n_workers):
            return False
        for worker in [worker for worker in self.workers if not (worker.job or worker.process.is_alive())]:
            self._forget(worker)  # it died at rest, with nothing lost
        idle = next((worker for worker in self.workers if not worker.job), None)
        if busy and not self._fits(job, idle):
            return False
        worker = idle or self._start_worker()
        self.waiting.popleft()
        self.alone, worker.job = alone, job
        with contextlib.suppress(OSError):  # it has just died: it is seen to be lost
            worker.way.send(job)
        return True

    def _fits(self, job: Job, idle: _Worker | None) -> bool:
        """Whether a job's memory is there, after what running jobs are still expected to take."""
        needed = self._expected(job) - (memory_of(idle.process.pid) if idle else 0)
        for worker in self.workers:
            if worker.job:
                needed += max(0, self._expected(worker.job) - memory_of(worker.process.pid))
        return needed + _RESERVE <= available_memory()

    def _expected(self, job: Job) -> int:
        return self.peaks.get(job.training.name, max(self.peaks.values(), default=0))

    def _start_worker(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        device = self.devices[0]
        visible = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        process = context.Process(target=_serve, args=(theirs, self.out, self.runner, os.getpid()), daemon=False)
        resource_tracker.ensure_running()  # which would let interrupts through again
        # the mask is inherited: an interrupt from the terminal reaches the benchmark alone, which decides
        with environment({**variables(threads_of(self.n_workers)), **visible}), _no_interrupts():
            process.start()
        theirs.close()
        worker = _Worker(process, ours, self.devices.popleft())
        self.workers.append(worker)
        return worker

    def _forget(self, worker: _Worker) -> None:
        worker.way.close()
        self.workers.remove(worker)
        self.devices.append(worker.device)

    def _read(self, worker: _Worker) -> Iterator[Event]:
        assert worker.job is not None
        name = worker.job.training.id
        with contextlib.suppress(EOFError, OSError):
            while worker.way.poll():
                kind, value = worker.way.recv()
                if kind == "done":
                    method = worker.job.training.name
                    self.peaks[method] = max(value, self.peaks.get(method, 0))
                    worker.job, self.alone = None, False
                    yield Event(name, "done", None)
                    return
                if kind == "left":
                    _ended(worker.process)
                    self._forget(worker)
                    self.alone = False
                    yield Event(name, "left", None)
                    return
                yield Event(name, kind, value)
            if worker.process.is_alive():
                return
        worker.process.join()
        self._forget(worker)
        self.alone = False
        yield Event(name, "lost", how_it_ended(worker.process.exitcode))


def _ended(process: Any) -> None:
    """Waits for a process that ends, and kills it where that takes long."""
    process.join(_END)
    if process.is_alive():
        process.kill()
        process.join()


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Keeps SIGINT back, until the end of the block here and for good in processes that are started within."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
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


def _serve(way: Connection, out: Path, runner: bytes, parent: int) -> None:
    """In a worker: job after job until the way is closed or a failure spoils it."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError), at_work(out):
        while os.getppid() == parent:  # a job may lie in the way of a benchmark that was killed
            job = way.recv()
            forget_peak()
            if not perform(job, out, runner, lambda kind, value: way.send((kind, value))):
                way.send(("left", None))
                os._exit(1)  # at once: what tidies up on the way out would use the GPU too
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
