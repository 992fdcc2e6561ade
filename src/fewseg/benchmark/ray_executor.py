"""Workers as tasks of Ray, on this machine or on a cluster; ``pip install 'fewseg[ray]'``.

Results come through the benchmark's folder where a worker sees it, and through Ray itself where it does not.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fewseg import results
from fewseg.benchmark import local
from fewseg.benchmark.jobs import Event, Job, Runner, at_work, failure, packed, perform
from fewseg.errors import FewsegError

_PATIENCE = 0.2  # seconds that a look for events waits
_ANSWER = 5, 30  # seconds within which an address must answer at all, and as Ray
_STORE = 256 * 2**20  # bytes of a local Ray's store; results take the way through the folder

Files = dict[str, bytes]  # content by path in the benchmark's folder
_LOST = {  # class of Ray's errors -> how a worker ended
    "WorkerCrashedError": "its worker was killed or crashed",
    "OutOfMemoryError": "its worker was stopped by Ray because memory ran out",
    "NodeDiedError": "the machine of its worker was lost",
    "NodePreemptedError": "the machine of its worker was taken away",
}


class RayExecutor:
    """Jobs as tasks of Ray, each with its share of a machine's cores and one GPU where there are GPUs.

    Args:
        out: the benchmark's folder.
        runner: does the jobs.
        workers: tasks at once; None = on this machine one per GPU, or one per core up to 2 without a GPU, and on a
            cluster as many as it has room for, two to a machine without a GPU.
        address: of a running cluster (host:port, or auto), which is left running; None = a Ray of its own on this
            machine, which ends with it.
        shared: whether workers that see the benchmark's folder write into it; False = all results come through Ray.

    Raises:
        FewsegError: the package ``ray`` is missing, or nobody answers at the address.
    """

    def __init__(
        self, out: Path, runner: Runner, workers: int | None = None, address: str | None = None, shared: bool = True
    ) -> None:
        self.ray = _ray()
        self.task = self.ray.remote(_work)
        self.out = out.resolve()
        self.runner = packed(runner, self.ray.cloudpickle.dumps)
        self.waiting: deque[tuple[Job, bool]] = deque()
        self.running: dict[Any, tuple[Job, bool]] = {}  # by what a task tells
        self.token = f".{uuid.uuid4().hex}.tmp" if shared else None  # who sees this file sees the folder
        self.far = not shared  # whether a worker was seen that does not see the folder
        self.pretrainings: dict[str, Any] = {}  # their files in Ray's store
        self.options: dict[str, Any] = {"max_retries": 0, "num_returns": "streaming"}
        self.own = not self.ray.is_initialized()
        n_gpus = len(local.gpus())
        if not self.own:
            self._share_cluster(workers)
        elif address is not None:
            _join(self.ray, address)
            self._share_cluster(workers)
        else:
            self.n_workers: float = local.workers_for(workers, n_gpus)
            self.threads = local.threads_of(int(self.n_workers))
            self.gpus = 1 / math.ceil(self.n_workers / n_gpus) if n_gpus else 0.0
            self.whole = int(self.n_workers) * self.threads
            options = {"num_cpus": self.whole, "num_gpus": n_gpus, "object_store_memory": _STORE}
            with local.environment(local.variables(self.threads)):  # which its workers inherit
                _init(self.ray, address="local", include_dashboard=False, **options)
        if self.token:
            results.write_text(self.out / self.token, "")

    def _share_cluster(self, workers: int | None) -> None:
        """How many tasks run at once on a cluster, and what each takes: as much as the smallest machine can give."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        with_gpus = [node for node in nodes if node.get("GPU")]
        self.n_workers = workers or math.inf
        self.gpus = 1.0 if with_gpus else 0.0
        cpus = [int(node["CPU"]) for node in with_gpus or nodes] or [1]
        if with_gpus:
            shares = [int(node["CPU"] // node["GPU"]) for node in with_gpus]
        else:
            shares = [n // (math.ceil(workers / len(cpus)) if workers else 2) for n in cpus]
        self.threads = max(1, min(shares))
        self.whole = max(cpus)
        self.options["runtime_env"] = {"env_vars": local.variables(self.threads)}

    def submit(self, job: Job, alone: bool = False) -> None:
        """Queues a job; see ``Executor``."""
        self.waiting.append((job, alone))

    def wait(self) -> list[Event]:
        """Hands out what can run and tells what has happened; see ``Executor``."""
        while self.waiting and len(self.running) < self.n_workers:
            self._start(*self.waiting.popleft())
        found: list[Event] = []
        patience = _PATIENCE
        while self.running:
            ready, _ = self.ray.wait(list(self.running), timeout=patience, fetch_local=False)
            if ready:  # one for sure; what others have told comes along
                ready, _ = self.ray.wait(
                    list(self.running), num_returns=len(self.running), timeout=0, fetch_local=False
                )
            for told in ready:
                found += self._read(told)
            if not ready or any(event.kind in ("done", "left", "lost") for event in found):
                break
            patience = 0
        return found

    def close(self) -> None:
        """Stops all tasks, also those at work, and a Ray that was started or joined here."""
        for told in self.running:
            with contextlib.suppress(Exception):  # whatever is wrong with it, it ends
                self.ray.cancel(told, force=True)
        self.running = {}
        if self.token:
            with contextlib.suppress(OSError):
                (self.out / self.token).unlink(missing_ok=True)
        if self.own:
            self.ray.shutdown()

    def _start(self, job: Job, alone: bool) -> None:
        files = self._files_for(job) if self.far else None
        share = {"num_cpus": self.whole if alone else self.threads, "num_gpus": self.gpus}
        told = self.task.options(**share, **self.options).remote(
            job, str(self.out), self.token, files, self.runner, (str(Path.cwd()), sys.path)
        )
        self.running[told] = (job, alone)

    def _read(self, told: Any) -> Iterator[Event]:
        """The next that a task tells."""
        job, alone = self.running[told]
        name, errors = job.training.id, self.ray.exceptions
        try:
            kind, value = self.ray.get(next(told))
        except errors.RayTaskError as error:  # nothing that the runner did, whose errors are told
            del self.running[told]
            found = failure(name, f"trainings/{name}", getattr(error, "cause", None) or error)
            yield Event(name, "failed", found._replace(log=str(error)))
            yield Event(name, "done", None)
        except (errors.RayError, StopIteration) as error:
            del self.running[told]
            ended = next((_LOST[one.__name__] for one in type(error).__mro__ if one.__name__ in _LOST), None)
            said = " ".join(str(error).split())[:300]
            yield Event(name, "lost", ended or f"its worker was lost ({type(error).__name__}: {said})")
        else:
            if kind in ("done", "left", "lost", "far"):
                del self.running[told]
            if kind == "far":
                self.far = True
                self._start(job, alone)
            elif kind == "files":
                receive(self.out, value)
            else:
                yield Event(name, kind, value)

    def _files_for(self, job: Job) -> list[Any]:
        """What a worker elsewhere needs, in Ray's store: its pre-training, and what there is of the training."""
        one = job.training
        found = [self.ray.put(_files(self.out, f"trainings/{one.id}"))]
        if one.pretraining:
            if one.pretraining not in self.pretrainings:
                content = _files(self.out, f"trainings/{one.pretraining}")
                self.pretrainings[one.pretraining] = self.ray.put(content)
            found.append(self.pretrainings[one.pretraining])
        return found


def _ray() -> Any:
    """The package, quiet: it reads these variables when it is loaded and when it starts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # what it would say of workers is said as events
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        remedy = "pip install 'fewseg[ray]'"
        raise FewsegError("--executor", "ray", "the package ray", remedy) from None
    return ray


def _init(ray: Any, **options: Any) -> None:
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


def _join(ray: Any, address: str) -> None:
    """Connects to a running cluster, or says in one line why not; Ray itself would try for minutes."""
    wanted = "the address of a running Ray, host:port or auto"
    remedy = "run `ray start --head` on one machine and take the address that it prints"

    def refuse(reason: str) -> FewsegError:
        return FewsegError("--ray-address", f"{address} ({reason})", wanted, remedy)

    if address != "auto":
        host, _, port = address.rpartition(":")
        if "://" in address or not (host and port.isdigit()):
            raise refuse("no host:port")
        try:
            socket.create_connection((host, int(port)), timeout=_ANSWER[0]).close()
            check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
            healthy = subprocess.run(check, capture_output=True, timeout=_ANSWER[1], check=False).returncode == 0
        except subprocess.TimeoutExpired:
            healthy = False
        except (OSError, OverflowError) as error:
            raise refuse(getattr(error, "strerror", None) or str(error)) from None
        if not healthy:
            raise refuse("what answers is not Ray, or another version of it")
    try:
        _init(ray, address=address)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise refuse(" ".join(str(error).split())[:200]) from None


def _files(out: Path, folder: str) -> Files:
    """The content of all files in a folder, those last that make it done."""
    paths = [path for path in (out / folder).rglob("*") if path.is_file() and not path.name.endswith(".tmp")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(paths, key=_last)}


def _last(path: Path) -> tuple[bool, Path]:
    return path.name == "metrics.json", path


def write_files(out: Path, files: Files) -> None:
    """Writes files whole or not at all, ``metrics.json`` last."""
    for name in sorted(files, key=lambda name: _last(Path(name))):
        with results.atomic(out / name) as temporary:
            temporary.write_bytes(files[name])


def receive(out: Path, files: Files) -> None:
    """Takes in what a worker elsewhere finished: a training, or a run with its episode list.

    Args:
        out: the benchmark's folder.
        files: all of a finished folder, and perhaps others; what else the folder held goes.
    """
    write_files(out, files)
    for name in files:
        if name.endswith("/metrics.json"):
            for path in (out / name).parent.rglob("*"):
                if path.is_file() and str(path.relative_to(out)) not in files:
                    path.unlink()


def _work(
    job: Job, out: str, token: str | None, files: Sequence[Any] | None, runner: bytes, places: tuple[str, list[str]]
) -> Iterator[tuple[str, Any]]:
    """In a worker: yields events as they happen; ``far`` asks for the files that a worker elsewhere needs."""
    folder, modules = places
    with contextlib.suppress(OSError):
        os.chdir(folder)  # where paths of data sets start
    sys.path += [path for path in modules if path not in sys.path]  # where methods of others are
    box: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    seen = token is not None and (Path(out) / token).is_file()
    if not seen and files is None:
        yield "far", None
        return

    def tell(kind: str, value: Any) -> None:
        box.put((kind, value))

    def fill() -> None:
        try:
            if token and seen:
                with at_work(Path(out)):
                    # the next benchmark in this folder has removed the token
                    fit = not (Path(out) / token).is_file() or perform(job, Path(out), runner, tell)
            else:
                fit = _perform_elsewhere(job, Path(out).name, files or (), runner, tell)
            tell("done" if fit else "left", None)
        except BaseException as error:  # a thread's end would go unseen
            tell("lost", f"its worker ended with {type(error).__name__}: {error}")

    threading.Thread(target=fill, daemon=True).start()
    kind = ""
    while kind not in ("done", "left", "lost"):
        kind, value = box.get()
        yield kind, value
    if kind == "left":
        sys.exit(1)  # which ends the worker


def _perform_elsewhere(
    job: Job, name: str, files: Sequence[Any], runner: bytes, tell: Callable[[str, Any], None]
) -> bool:
    """A job in a folder of its own, called as the benchmark's; what it finishes is sent, with its episode lists."""
    with tempfile.TemporaryDirectory(prefix="fewseg-") as scratch:
        out = Path(scratch) / name
        out.mkdir()
        for content in _ray().get(list(files)):
            write_files(out, content)
        known = {f"trainings/{job.training.id}"} if results.is_done(out / "trainings" / job.training.id) else set()

        def finished(folder: str) -> None:
            if folder in known:
                return
            lists = {name: content for name, content in _files(out, "episodes").items() if name not in known}
            tell("files", {**lists, **_files(out, folder)})
            known.update(lists)

        return perform(job, out, runner, tell, finished)
