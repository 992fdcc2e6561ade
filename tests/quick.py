"""A benchmark without training, for tests of what runs it: numbers follow from ids, files are those of the real one.

``python quick.py GRID OUT [JSON of Quick's arguments] [JSON of execute's, and ``patience``]`` runs it as a command.
"""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import yaml

from fewseg import benchmark, results
from fewseg.benchmark import engine
from fewseg.benchmark.grid import dataset_of
from fewseg.benchmark.jobs import Event, perform
from fewseg.episode import Row
from fewseg.errors import FewsegError
from fewseg.functional.run_figures import score

N_STEPS = 3
MODELS = Path(__file__).parents[1] / "experiments" / "models"


def write_grid(folder, **changes):
    """A benchmark file: with the defaults one pre-training, two trainings and four runs."""
    data = {"dataset": {"class_path": "Shapes5i", "init_args": {"n_train": 120, "n_val": 60}}, "size": 32}
    config = {
        "data": {"data": data, "trainer": {"accelerator": "cpu"}},
        "methods": {"guided": str(MODELS / "guided.yaml"), "fgbg": str(MODELS / "fgbg.yaml")},
        "compare": "fgbg",
        "folds": [0],
        "shots": [1, 2],
        "n_episodes": 3,
        "pretraining": {"config": str(MODELS / "pretraining.yaml"), "max_steps": N_STEPS, "batch_size": 2},
        "training": {"max_steps": N_STEPS, "batch_size": 2},
        **changes,
    }
    path = folder / "quick.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclasses.dataclass
class Quick:
    """Does no training. A training that is not disturbed leaves a hash of all its steps as its weights.

    Args:
        pause: seconds that a step and an evaluation take.
        faults: what happens to trainings and runs whose ids start so: ``raise``; ``kill``, ``exit``: the worker, once;
            ``kill always``; ``die always``: that of ``InProcess``; ``cuda``: all that the process does later fails too.
        kill_at: file operation within a worker at which it kills its process group.
        note: a folder where every training and run says which process did it, its GPUs and its folder's name.
        hold: a file; no step is done while it is there.
    """

    pause: float = 0.0
    faults: dict = dataclasses.field(default_factory=dict)
    kill_at: int | None = None
    note: str | None = None
    hold: str | None = None

    def check(self, runs, pretrainings):
        pass

    def train(self, one, out, report):
        if self.kill_at is not None:
            count_operations(out, self.kill_at, kill)
            self.kill_at = None
        folder = out / "trainings" / one.id
        if results.is_done(folder):
            return
        self.say(one.id, out)
        results.write_text(folder / "config.yaml", yaml.safe_dump(one.config))
        last, state, first = folder / "checkpoint" / "last.ckpt", one.id, 0
        if one.pretraining:
            state += (out / "trainings" / one.pretraining / "checkpoint" / "model.safetensors").read_text()
        if last.is_file():
            first, state = json.loads(last.read_text())
            report(first)
        for step in range(first, one.max_steps):
            time.sleep(self.pause)
            while self.hold and Path(self.hold).exists():
                time.sleep(0.02)
            state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
            results.write_json(last, [step + 1, state])
            report(1)
        self.strike(one.id, out)
        results.write_text(folder / "checkpoint" / "model.safetensors", state)
        results.write_json(folder / "metrics.json", {"id": one.id, "state": state})
        last.unlink()

    def evaluate(self, run, out):
        one = run.training
        self.say(run.id, out)
        state = (out / "trainings" / one.id / "checkpoint" / "model.safetensors").read_text()
        time.sleep(self.pause)
        dataset = dataset_of(Path("data"), run.options)
        classes = dataset.novel_classes(one.fold)
        setting = (dataset.name, one.fold, run.data["n_shot"], run.data["n_points"])
        chance = random.Random(run.id + state)
        rows = [
            Row(i, f"q{i}", f"s{i}", classes[i % len(classes)], *(chance.randrange(1, 999) for _ in range(4)))
            for i in range(run.data["n_episodes"] or 3)
        ]
        folder = out / run.id
        shutil.rmtree(folder, ignore_errors=True)
        part = benchmark.grid.PROTOCOLS[run.data["protocol"]].evaluation
        figures = {
            "method": one.method,
            "config": run.config,
            "dataset": dataset.name,
            "task": part.task,
            "protocol": run.data["protocol"],
            "fold": one.fold,
            "n_shot": run.data["n_shot"],
            "n_points": run.data["n_points"],
            "seed": run.seed,
            "training": one.id,
            "run": run.id,
            "episode_list_sha256": hashlib.sha256(repr(setting).encode()).hexdigest(),
            **score(pd.DataFrame(rows, columns=Row._fields), dataset.class_names, classes),
            "n_folds": one.n_folds,
            "max_steps": one.max_steps,
            "training_note": one.note,
        }
        results.write_text(out / "episodes" / f"{figures['episode_list_sha256']}.jsonl", repr(setting))
        self.strike(run.id, out)
        results.finish_run(folder, {"data": run.data}, rows, figures)
        return figures

    def say(self, name, out):
        if _lost_gpu:
            raise RuntimeError(_lost_gpu[0])
        if self.note:
            place = Path(self.note) / f"{name}.{time.monotonic_ns()}"
            place.write_text(json.dumps([os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), out.name]))

    def strike(self, name, out):
        fault = next((fault for start, fault in self.faults.items() if name.startswith(start)), None)
        if fault == "raise":
            raise RuntimeError(f"no luck\nwith {name}")
        if fault == "full":
            raise OSError(28, "No space left on device")
        if fault == "cuda":
            _lost_gpu.append("CUDA error: an illegal memory access was encountered")
            raise RuntimeError(_lost_gpu[0])
        if fault == "die always":
            raise Died
        if fault is None:
            return
        mark = Path(self.note or out.parent) / f"struck-{name}"
        if fault == "kill always" or not mark.exists():
            mark.write_text("")
            sys.exit(3) if fault == "exit" else os.kill(os.getpid(), signal.SIGKILL)


_lost_gpu = []  # what its errors say in this process


class Died(BaseException):
    """The end of a worker, where it has no process to end."""


class Unchecked(benchmark.LightningRunner):
    """Trains and evaluates for real, and checks nothing before, so that the main process loads no torch."""

    def check(self, runs, pretrainings):
        pass


class Unloadable(Quick):
    """Pickles, and does not come back."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise FewsegError("a package", "nothing", "one that this machine has", "install it")


def contents(out):
    """Every file by its path; a parquet file as its rows, for its bytes are those of a version."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file():
            whole = results.read_rows(path).to_csv() if path.suffix == ".parquet" else path.read_bytes()
            found[str(path.relative_to(out))] = None if path.name == ".summary.stamp" else whole  # of file times
    return found


class InProcess:
    """An executor without processes."""

    def __init__(self, out, runner):
        self.out, self.runner, self.queue = out, benchmark.jobs.packed(runner), []

    def submit(self, job, alone=False):
        self.queue.append(job)

    def wait(self):
        job, found = self.queue.pop(0), []
        name = job.training.id
        try:
            fit = perform(job, self.out, self.runner, lambda kind, value: found.append(Event(name, kind, value)))
        except Died:
            return [*found, Event(name, "lost", "it died")]
        if not fit:
            _lost_gpu.clear()
        return [*found, Event(name, "done" if fit else "left", None)]

    def close(self):
        self.queue.clear()


def kill(operation):
    os.killpg(0, signal.SIGKILL)
    time.sleep(60)  # until it arrives


def count_operations(out, at, act):
    """Lets something happen just before the nth change under a folder, and before every later one if it returns."""
    n, root, busy = 0, str(out), False

    def hook(event, args):
        nonlocal n, busy
        if busy or event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            return
        name = str(args[0])
        if not name.startswith(root) and not (args[0] and event in ("os.remove", "os.rmdir") and "/" not in name):
            return
        busy = True
        try:
            written = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
            changes = event == "os.rename" or written or (os.path.lexists(name) != (event == "os.mkdir"))
            if changes and (event != "open" or written):
                n += 1
                if n >= at:
                    act((event, name))
        finally:
            busy = False

    sys.addaudithook(hook)
    return lambda: n


if __name__ == "__main__":
    arguments = [json.loads(text) for text in sys.argv[3:]]
    options = arguments[1] if len(arguments) > 1 else {}
    engine._WORKERS_PATIENCE = options.pop("patience", engine._WORKERS_PATIENCE)
    try:
        sys.exit(benchmark.execute(Path(sys.argv[1]), Path(sys.argv[2]), runner=Quick(**arguments[0]), **options))
    except FewsegError as error:
        print(f"fewseg: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
