"""Where jobs run: the same folders and numbers from every executor, and what is lost, fails or cannot start."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import quick
from fewseg import benchmark, results
from fewseg.benchmark import engine, jobs, local, ray_executor
from fewseg.errors import FewsegError

QUICK = Path(quick.__file__)
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
VOLATILE = {"device", "versions"}
MIB = 2**20


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return quick.write_grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def undisturbed(grid, tmp_path_factory):
    """The folder that one process makes of the grid."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_executor", lambda name, out, runner, *rest: quick.InProcess(out, runner))
        assert benchmark.execute(grid, out, runner=quick.Quick()) == 0
    return out


def ids(out, start):
    return [path.parent.name for path in out.glob(f"{start}*/metrics.json")]


def command(grid, out, runner=None, **options):
    arguments = [str(grid), str(out), json.dumps(runner or {}), json.dumps(options)]
    environment = {**os.environ, **QUIET}
    return subprocess.Popen(
        [sys.executable, str(QUICK), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heeds_interrupts,
    )


def _heeds_interrupts():
    """A shell's background jobs ignore interrupts, and so does all that they start, these tests included."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process, limit=120):
    try:
        printed, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail(f"no end after {limit} seconds")
    return process.returncode, printed, "\n".join(said(errors))


def said(errors):
    """Lines of stderr without bars."""
    lines = [line.split("\r")[-1].rstrip() for line in errors.splitlines()]
    return [line for line in lines if line and not re.search(r"\d+/\d+ \[", line)]


def notes(folder, start):
    """What the workers said that did something whose id starts so: process, GPUs, folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{start}*.*")) if "struck" not in path.name]


# what the workers of a benchmark tell, whatever they are


def disturb(grid, tmp_path, capsys, undisturbed, name, run):
    """A killed worker, a failing run: the rest stays as it is, and a second attempt completes the folder."""
    note, out = tmp_path / "note", tmp_path / "out"
    note.mkdir()
    faults = {"fgbg-f0-s0-k1": "kill", "guided-f0-s0-k2": "raise"}
    assert run(out, quick.Quick(faults=faults, note=str(note))) == 1
    printed = capsys.readouterr()
    (lost,) = [line for line in printed.out.splitlines() if line.startswith("again:")]
    assert lost.startswith("again: fgbg-f0-s0-"), lost
    assert "killed" in lost
    (failed,) = [line for line in said(printed.err) if line.startswith("failed:")]
    assert "no luck with guided-f0-s0-k2" in failed
    (broken,) = out.rglob("error.txt")
    assert "Traceback" in broken.read_text()
    assert len(notes(note, "fgbg-f0-s0-k1")) == 2, "once until it was killed, once again"
    assert len(notes(note, "fgbg-f0-s0-k2")) == 1
    assert len(notes(note, "guided-f0-s0-k")) == 2
    assert {folder for *_, folder in notes(note, "")} == {"out"}, "a dashboard groups by that name"
    assert len(json.loads((out / "summary.json").read_text())) == 3
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    assert run(out, quick.Quick()) == 0
    assert quick.contents(out) == quick.contents(undisturbed)
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())


def test_local_a_killed_worker_is_replaced_and_a_failing_run_fails_alone(grid, tmp_path, capsys, undisturbed):
    disturb(
        grid,
        tmp_path,
        capsys,
        undisturbed,
        "local",
        lambda out, runner: benchmark.execute(grid, out, workers=2, runner=runner),
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Two trainings with three runs each."""
    return quick.write_grid(tmp_path_factory.mktemp("three"), pretraining=None, shots=[1, 2, 3])


def shots_done(out, config):
    rows = json.loads((out / "summary.json").read_text())
    return sorted(row["n_shot"] for row in rows if row["config"] == config)


def spoil(three, tmp_path, capsys, how, **options):
    """A run that kills its worker whenever it is tried, and one that leaves its worker no GPU; the others finish."""
    note, out = tmp_path / "note", tmp_path / "out"
    note.mkdir()
    runner = quick.Quick(faults={"guided-f0-s0-k2": "kill always", "fgbg-f0-s0-k1": "cuda"}, note=str(note))
    assert benchmark.execute(three, out, workers=1, runner=runner, **options) == 1
    printed = capsys.readouterr()
    failed = {line.split(":")[1].strip()[:15]: line for line in said(printed.err) if line.startswith("failed:")}
    assert set(failed) == {"guided-f0-s0-k2", "fgbg-f0-s0-k1-p"}
    assert re.search(f"{how}, 3 times$", failed["guided-f0-s0-k2"])
    assert failed["fgbg-f0-s0-k1-p"].endswith("CUDA error: an illegal memory access was encountered")
    assert printed.out.count("again: ") == printed.out.count("again: guided-f0-s0-k2") == 2
    assert {path.parent.name[:15] for path in out.rglob("error.txt")} == set(failed)
    assert (shots_done(out, "guided"), shots_done(out, "fgbg")) == ([1, 3], [2, 3])
    done_by = {name: [notes(note, f"{name}-f0-s0-k{k}") for k in (1, 2, 3)] for name in ("guided", "fgbg")}
    assert [len(found) for found in done_by["guided"]] == [1, 3, 1]
    ((spoilt, *_),), ((first, *_),), ((second, *_),) = done_by["fgbg"]
    assert spoilt != first == second
    return {process for process, *_ in notes(note, "")}


def test_local_a_run_that_always_takes_its_worker_along_fails_alone(three, tmp_path, capsys):
    how = r"its worker was killed \(SIGKILL\), as happens where memory runs out"
    assert len(spoil(three, tmp_path, capsys, how)) == 5, "one that stays, and one more after each of four losses"


# what the engine makes of losses, without processes


class Watched(quick.InProcess):
    """Keeps what it is given: the runs, and whether they are to be alone."""

    def __init__(self, out, runner):
        super().__init__(out, runner)
        self.given = []

    def submit(self, job, alone=False):
        self.given.append((job.training.name, [run.data["n_shot"] for run in job.runs], alone))
        super().submit(job)


def watched(path, out, faults, monkeypatch):
    found = []

    def executor(name, out, runner, *rest):
        found.append(Watched(out, runner))
        return found[0]

    monkeypatch.setattr(engine, "_executor", executor)
    assert benchmark.execute(path, out, runner=quick.Quick(faults=faults)) == 1
    return found[0].given


def test_losses_count_for_the_run_at_work_and_only_that_is_given_up(three, tmp_path, capsys, monkeypatch):
    """Each of two runs of one training loses its worker three times, and one fails before them."""
    faults = {"guided-f0-s0-k1": "raise", "guided-f0-s0-k2": "die always", "guided-f0-s0-k3": "die always"}
    given = watched(three, tmp_path, faults, monkeypatch)
    assert [rest for name, *rest in given if name == "guided"] == [
        [[1, 2, 3], False],
        [[2, 3], True],
        [[2, 3], True],
        [[3], False],
        [[3], True],
        [[3], True],
    ]
    failed = [line for line in said(capsys.readouterr().err) if line.startswith("failed:")]
    assert [line[8:23] for line in failed] == [f"guided-f0-s0-k{k}" for k in (1, 2, 3)]
    assert all(line.endswith("it died, 3 times") for line in failed[1:])
    assert shots_done(tmp_path, "fgbg") == [1, 2, 3]


def test_a_training_that_loses_its_gpu_fails_alone_and_its_runs_are_not_tried(three, tmp_path, capsys, monkeypatch):
    first, second = benchmark.plan(three).trainings
    given = watched(three, tmp_path, {first.id: "cuda"}, monkeypatch)
    assert [name for name, *_ in given] == [first.name, second.name]
    (failed,) = [line for line in said(capsys.readouterr().err) if line.startswith("failed:")]
    assert failed == f"failed: {first.id}: CUDA error: an illegal memory access was encountered"
    assert shots_done(tmp_path, second.name) == [1, 2, 3]


def test_a_training_that_always_takes_its_worker_along_fails(grid, tmp_path, capsys, monkeypatch):
    training = next(one.id for one in benchmark.plan(grid).trainings if one.name == "guided")
    given = watched(grid, tmp_path, {training: "die always"}, monkeypatch)
    assert [rest for name, *rest in given if name == "guided"] == [[[1, 2], False], [[1, 2], True], [[1, 2], True]]
    (failed,) = [line for line in said(capsys.readouterr().err) if line.startswith("failed:")]
    assert failed == f"failed: {training}: it died, 3 times"
    assert (tmp_path / "trainings" / training / "error.txt").is_file()
    assert not list(tmp_path.glob("guided*"))
    assert shots_done(tmp_path, "fgbg") == [1, 2]


def test_a_runner_that_cannot_travel_is_refused_and_one_that_does_not_arrive_fails(grid, tmp_path, capsys):
    class Local(quick.Quick):
        pass

    with pytest.raises(FewsegError, match="runner: got a Local that does not pickle"):
        benchmark.execute(grid, tmp_path / "out", workers=1, runner=Local())
    assert benchmark.execute(grid, tmp_path / "out", workers=1, runner=quick.Unloadable()) == 1
    failed = [line for line in said(capsys.readouterr().err) if line.startswith("failed:")]
    assert len(failed) == 3
    assert "a package: got nothing, expected one that this machine has; install it" in failed[0]
    assert all("its pre-training pretraining-f0-s0" in line for line in failed[1:])


def test_an_interrupt_ends_everything_and_leaves_what_is_finished(grid, tmp_path, undisturbed):
    out, note = tmp_path / "out", tmp_path / "note"
    note.mkdir()
    hold = tmp_path / "hold"
    process = command(grid, out, {"pause": 0.6, "note": str(note), "hold": str(hold)}, workers=2)
    deadline = time.monotonic() + 60
    while not list(note.glob("guided*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    hold.write_text("")  # it does not end by itself now
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    status, _, errors = finish(process)
    assert status == 130
    assert not errors, "no worker says anything"
    pids = {pid for pid, *_ in notes(note, "")}
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert benchmark.execute(grid, out, workers=1, runner=quick.Quick()) == 0
    assert quick.contents(out) == quick.contents(undisturbed)


# the local executor's own decisions, on workers that the test itself plays


class Played(local.LocalExecutor):
    """Workers without processes; ``ends[i]`` is the ith worker's end of its way."""

    def __init__(self, out, workers):
        super().__init__(out, quick.Quick(), workers)
        self.ends = []

    def _start_worker(self):
        ours, theirs = local.multiprocessing.Pipe()
        process = SimpleNamespace(
            pid=len(self.ends), alive=True, exitcode=None, join=lambda *a: None, terminate=lambda: None
        )
        process.is_alive = lambda: process.alive
        worker = local._Worker(process, ours, self.devices.popleft())
        self.workers.append(worker)
        self.ends.append(theirs)
        return worker


def job(name):
    config = {"model": {"class_path": "X"}, "trainer": {"max_steps": 1}}
    return jobs.Job(benchmark.Training(f"{name}-1", name, 0, 0, config), ())


def at_work(executor):
    return [worker.job.training.name for worker in executor.workers if worker.job]


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(local, "_PATIENCE", 0)
    monkeypatch.setattr(local, "gpus", lambda: [])


def test_a_job_waits_for_memory_and_one_always_runs(tmp_path, monkeypatch, quickly):
    free, held = [100 * MIB], {}
    monkeypatch.setattr(local, "available_memory", lambda: free[0])
    monkeypatch.setattr(local, "memory_of", lambda pid, peak=False: held.get(pid, 0))
    executor = Played(tmp_path, 3)
    for name in ("big", "big", "small"):
        executor.submit(job(name))
    executor.wait()
    assert at_work(executor) == ["big"], "one runs, however little there is"
    executor.ends[0].send(("done", 1000 * MIB))
    executor.wait()
    executor.wait()
    assert at_work(executor) == ["big"]
    free[0] = 1000 * MIB + 255 * MIB  # of which the running job is still to take 400, and small is thought to be big
    held[0] = 600 * MIB
    executor.wait()
    assert at_work(executor) == ["big"]
    free[0] = (1000 + 400 + 256) * MIB - 1
    executor.wait()
    assert at_work(executor) == ["big"]
    free[0] += 1
    executor.wait()
    assert at_work(executor) == ["big", "small"]


def test_a_lost_job_runs_alone_when_that_is_asked_for(tmp_path, quickly):
    executor = Played(tmp_path, 2)
    executor.submit(job("a"))
    executor.submit(job("b"), alone=True)
    executor.submit(job("c"))
    executor.wait()
    assert at_work(executor) == ["a"]
    executor.ends[0].send(("done", 1))
    assert [event.kind for event in executor.wait()] == ["done"]
    executor.wait()
    assert at_work(executor) == ["b"]
    executor.ends[0].send(("steps", 4))
    executor.ends[0].send(("done", 1))
    assert executor.wait() == [jobs.Event("b-1", "steps", 4), jobs.Event("b-1", "done", None)]
    executor.wait()
    assert at_work(executor) == ["c"]


@pytest.mark.parametrize("closed", [True, False])
def test_a_lost_worker_is_told_after_its_last_words_even_where_its_children_hold_the_way(tmp_path, quickly, closed):
    executor = Played(tmp_path, 1)
    executor.submit(job("a"))
    executor.wait()
    worker, end = executor.workers[0], executor.ends[0]
    end.send(("steps", 1))
    assert executor.wait() == [jobs.Event("a-1", "steps", 1)]
    if closed:
        end.send(("steps", 2))
    worker.process.alive, worker.process.exitcode = False, -9
    if closed:
        end.close()
    reason = "its worker was killed (SIGKILL), as happens where memory runs out"
    words = [jobs.Event("a-1", "steps", 2)] if closed else []
    assert executor.wait() == [*words, jobs.Event("a-1", "lost", reason)]
    assert not executor.workers


def test_a_worker_that_died_at_rest_is_replaced_without_a_loss(tmp_path, quickly):
    executor = Played(tmp_path, 1)
    executor.submit(job("a"))
    executor.wait()
    executor.ends[0].send(("done", 1))
    executor.wait()
    executor.workers[0].process.alive = False
    executor.submit(job("b"))
    assert executor.wait() == []
    assert at_work(executor) == ["b"]
    assert len(executor.ends) == 2


def test_workers_take_gpus_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert local.gpus() == ["3", "5"]
    assert list(local.LocalExecutor(tmp_path, quick.Quick()).devices) == ["3", "5"]
    assert list(local.LocalExecutor(tmp_path, quick.Quick(), 3).devices) == ["3", "5", "3"]
    executor = Played(tmp_path, 2)
    monkeypatch.setattr(local, "_PATIENCE", 0)
    monkeypatch.setattr(local, "available_memory", lambda: 2**40)
    for name in "abc":
        executor.submit(job(name))
    executor.wait()
    assert [worker.device for worker in executor.workers] == ["3", "5"]
    executor.ends[0].close()
    assert [event.kind for event in executor.wait()] == ["lost"]
    executor.wait()
    assert [worker.device for worker in executor.workers] == ["5", "3"], "the lost worker's GPU is taken again"
    for visible, found in {
        "": [],
        "-1": [],
        "0,-1,1": ["0"],
        "NoDevFiles": [],
        "GPU-a, MIG-b": ["GPU-a", "MIG-b"],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert local.gpus() == found


def test_a_worker_sees_its_own_gpu_and_its_share_of_the_cores(grid, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    note = tmp_path / "note"
    note.mkdir()
    path = quick.write_grid(tmp_path, methods={"fgbg": str(quick.MODELS / "fgbg.yaml")}, pretraining=None, shots=[1])
    assert benchmark.execute(path, tmp_path / "out", runner=quick.Quick(note=str(note))) == 0
    assert {device for _, device, _ in notes(note, "")} == {"7"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_lost_jobs_steps_are_counted_once(grid, undisturbed, tmp_path, monkeypatch):
    """The bar ends at its total: steps of a lost attempt are taken back."""
    seen = []

    class Bar:
        def __init__(self, total, initial, **options):
            seen.extend([total, initial])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, n):
            seen[1] += n

        def write(self, line, file):
            pass

    class Losing(quick.InProcess):
        lost = False

        def wait(self):
            if not Losing.lost:
                Losing.lost = True
                one = self.queue.pop(0)
                name = one.training.id
                return [jobs.Event(name, "steps", 2), jobs.Event(name, "lost", "it is gone")]
            return super().wait()

        def submit(self, job, alone=False):
            assert alone == (job.training.name == "pretraining" and Losing.lost)
            super().submit(job)

    monkeypatch.setattr(engine, "tqdm", Bar)
    monkeypatch.setattr(engine, "_executor", lambda name, out, runner, *rest: Losing(out, runner))
    assert benchmark.execute(grid, tmp_path / "out", runner=quick.Quick()) == 0
    assert seen == [9, 9]


# Ray


@pytest.fixture(scope="module")
def cluster():
    """A running Ray with two cores, and its address."""
    ray = pytest.importorskip("ray", reason="the package ray is missing: tests of --executor ray are skipped")
    ray_executor._ray()
    with local.environment({"OMP_NUM_THREADS": "1"}):
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=128 * MIB,
        )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def by_ray(grid, out, runner, monkeypatch=None, **options):
    if options:
        monkeypatch.setattr(
            engine, "_executor", lambda name, out, runner, *rest: ray_executor.RayExecutor(out, runner, **options)
        )
    return benchmark.execute(grid, out, workers=2, executor="ray", runner=runner)


def test_ray_a_killed_worker_is_replaced_and_a_failing_run_fails_alone(cluster, grid, tmp_path, capsys, undisturbed):
    disturb(grid, tmp_path, capsys, undisturbed, "ray", lambda out, runner: by_ray(grid, out, runner))


def test_ray_a_run_that_always_takes_its_worker_along_fails_alone(cluster, three, tmp_path, capsys):
    spoil(three, tmp_path, capsys, "its worker was killed or crashed", executor="ray")


def test_ray_itself_carries_results_where_workers_see_no_folder(
    cluster, grid, tmp_path, capsys, undisturbed, monkeypatch
):
    options = {"workers": 2, "shared": False}
    disturb(
        grid,
        tmp_path,
        capsys,
        undisturbed,
        "ray",
        lambda out, runner: by_ray(grid, out, runner, monkeypatch, **options),
    )


def test_a_worker_elsewhere_goes_on_from_a_checkpoint(cluster, grid, tmp_path, undisturbed, monkeypatch):
    """The token shows it that the folder is not the benchmark's, and the files come after that."""
    out = tmp_path / "out"
    one = next(one for one in benchmark.plan(grid).trainings if one.name == "guided")
    monkeypatch.setattr(engine, "_executor", lambda name, out, runner, *rest: quick.InProcess(out, runner))
    assert benchmark.execute(grid, out, runner=quick.Quick(faults={one.id: "raise"})) == 1
    last = out / "trainings" / one.id / "checkpoint" / "last.ckpt"
    assert json.loads(last.read_text())[0] == quick.N_STEPS
    last.write_text(json.dumps([quick.N_STEPS, "resumed"]))

    class Unseen(ray_executor.RayExecutor):
        def __init__(self, out, runner, *rest):
            super().__init__(out, runner, 2)
            (self.out / self.token).unlink()

    monkeypatch.setattr(engine, "_executor", lambda name, out, runner, *rest: Unseen(out, runner))
    assert benchmark.execute(grid, out, runner=quick.Quick()) == 0
    assert (out / "trainings" / one.id / "checkpoint" / "model.safetensors").read_text() == "resumed"
    assert not last.exists()
    assert set(quick.contents(out)) == set(quick.contents(undisturbed))


def test_a_command_joins_a_ray_and_leaves_it_running(cluster, grid, tmp_path, undisturbed):
    out = tmp_path / "out"
    status, _, errors = finish(command(grid, out, executor="ray", ray_address=cluster))
    assert status == 0, errors
    assert quick.contents(out) == quick.contents(undisturbed)
    assert not errors
    import ray

    assert ray.get(ray.remote(lambda: 5).remote()) == 5


def test_a_killed_command_with_a_ray_of_its_own_goes_on_and_ends_that_ray_in_silence(grid, tmp_path, undisturbed):
    pytest.importorskip("ray", reason="the package ray is missing: tests of --executor ray are skipped")
    out, note = tmp_path / "out", tmp_path / "note"
    note.mkdir()
    first = command(grid, out, {"pause": 0.3, "note": str(note)}, executor="ray", workers=2)
    deadline = time.monotonic() + 60
    while len(list(out.rglob("metrics.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.kill()
    first.wait()
    done = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    assert 2 <= len(done) < 7
    second = command(grid, out, {"note": str(note)}, executor="ray", workers=2)
    status, printed, errors = finish(second)
    assert status == 0, errors
    assert not errors
    assert "again" not in printed
    assert "raylet" not in printed
    assert quick.contents(out) == quick.contents(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    tried = Counter(path.name.rpartition(".")[0] for path in note.iterdir())
    assert len(tried) == 7
    assert all(tried[path.parent.name] == 1 for path in done), "what was finished is not done again"
    assert sum(tried.values()) <= 7 + 2, "two were at work when the command was killed"
    for stream in (first.stdout, first.stderr):
        stream.close()
    deadline = time.monotonic() + 10
    while left(second.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left(second.pid), "its Ray ended with it"


def left(session):
    """Processes of a session, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(stat.parent.name)
    return found


def test_lightning_gives_the_same_numbers_by_both_executors(cluster, tmp_path):
    methods = {"guided": str(quick.MODELS / "guided.yaml")}
    changes = {"methods": methods, "compare": "guided", "training": {"max_steps": 2, "batch_size": 2}}
    path = quick.write_grid(tmp_path, pretraining=None, shots=[1], **changes)
    rows = []
    for name in ("local", "ray"):
        out = tmp_path / name
        assert benchmark.execute(path, out, workers=2, executor=name, runner=quick.Unchecked()) == 0
        found = json.loads((out / "summary.json").read_text())
        rows.append(
            [{k: v for k, v in row.items() if k not in VOLATILE and not k.startswith("seconds")} for row in found]
        )
        assert len(found) == 1
        assert "1 thread(s)" in found[0]["device"] or (os.cpu_count() or 1) > 2
    assert rows[0] == rows[1]
    assert set(quick.contents(tmp_path / "local")) == set(quick.contents(tmp_path / "ray"))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "ray://127.0.0.1:10001", "6379"])
def test_an_address_that_nobody_answers_is_refused(address, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the package ray is missing: tests of --executor ray are skipped")
    monkeypatch.setattr(ray_executor._ray(), "is_initialized", lambda: False)
    start = time.monotonic()
    with pytest.raises(FewsegError, match=r"--ray-address: got .*, expected the address of a running Ray"):
        ray_executor.RayExecutor(tmp_path, quick.Quick(), address=address)
    assert time.monotonic() - start < 15


def test_what_answers_and_is_not_ray_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the package ray is missing: tests of --executor ray are skipped")
    monkeypatch.setattr(ray_executor._ray(), "is_initialized", lambda: False)
    monkeypatch.setattr(ray_executor, "_ANSWER", (5, 2))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(FewsegError, match="what answers is not Ray"):
            ray_executor.RayExecutor(tmp_path, quick.Quick(), address=address)


def test_without_the_package_the_remedy_is_said(grid, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FewsegError, match=r"--executor: got ray, .*pip install 'fewseg\[ray\]'"):
        benchmark.execute(grid, tmp_path / "out", executor="ray", runner=quick.Quick())


def test_a_task_of_a_killed_benchmark_that_begins_late_does_nothing(three, tmp_path):
    """It waits while the next benchmark cleans the folder, which takes its token away."""
    one = benchmark.plan(three).trainings[0]
    (tmp_path / ".token.tmp").write_text("")
    places = str(Path.cwd()), []
    arguments = jobs.Job(one, ()), str(tmp_path), ".token.tmp", None, jobs.packed(quick.Quick()), places
    with ThreadPoolExecutor() as pool:
        with engine._alone(tmp_path, jobs.WORKERS, 0.0):
            told = pool.submit(lambda: list(ray_executor._work(*arguments)))
            time.sleep(0.3)
            assert not told.done()
            results.remove_leftovers(tmp_path)
        assert told.result(timeout=10) == [("done", None)]
    assert not (tmp_path / "trainings").exists()


@pytest.mark.parametrize("workers", [None, 3])
def test_shares_of_a_cluster(monkeypatch, tmp_path, workers):
    """Hand-computed: tasks fit the smallest machine that can take them."""

    def share(*nodes):
        resources = [{"Alive": True, "Resources": node} for node in nodes]
        ray = SimpleNamespace(nodes=lambda: [*resources, {"Alive": False, "Resources": {"CPU": 1.0}}])
        executor = ray_executor.RayExecutor.__new__(ray_executor.RayExecutor)
        executor.ray, executor.options = ray, {}
        executor._share_cluster(workers)
        return executor.threads, executor.gpus, executor.whole

    assert share({"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}) == (2, 0.0, 8)
    assert share({"CPU": 32.0, "GPU": 4.0}, {"CPU": 64.0}) == (8, 1.0, 32)
    assert share({"CPU": 4.0, "GPU": 8.0}) == (1, 1.0, 4)
    assert share() == (1, 0.0, 1)


def test_files_of_a_worker_elsewhere_make_a_run_done_last(tmp_path, monkeypatch):
    written = []
    atomic = results.atomic
    monkeypatch.setattr(results, "atomic", lambda path: written.append(path.name) or atomic(path))
    (tmp_path / "run" / "old").mkdir(parents=True)
    (tmp_path / "run" / "old" / "error.txt").write_text("")
    files = {"run/metrics.json": b"{}", "run/a.txt": b"a", "episodes/x.jsonl": b"x", "run/pictures/z.png": b"z"}
    ray_executor.receive(tmp_path, files)
    assert written[-1] == "metrics.json"
    assert sorted(written) == ["a.txt", "metrics.json", "x.jsonl", "z.png"]
    assert {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.*")} == files
