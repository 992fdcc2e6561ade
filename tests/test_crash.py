"""A benchmark is killed at every change of a file and at random moments, and its disk fills up: nothing is lost."""

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import quick
from fewseg import benchmark
from fewseg.benchmark import engine, jobs

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """One pre-training, one training and two runs."""
    pretraining = {"config": str(quick.MODELS / "pretraining.yaml"), "max_steps": 1, "batch_size": 2}
    changes = {"pretraining": pretraining, "training": {"max_steps": 2, "batch_size": 2}, "compare": "guided"}
    methods = {"guided": str(quick.MODELS / "guided.yaml")}
    return quick.write_grid(tmp_path_factory.mktemp("grid"), methods=methods, **changes)


def crash(grid, folder, *how):
    """What ``crashes.py`` lists of every kill; its folders are in ``folder``."""
    command = [sys.executable, str(HERE / "crashes.py"), str(grid), str(folder), *how]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "kills.json").read_text())


def check(out, undisturbed, finished, after):
    """A completed folder is the undisturbed one, and what was finished before was not done again."""
    assert quick.contents(out) == undisturbed
    assert {name: after[name] for name in finished} == finished, "what was finished was repeated"


def test_a_kill_at_any_change_of_a_file_loses_nothing_and_repeats_nothing(grid, tmp_path):
    kills = crash(grid, tmp_path)
    undisturbed = quick.contents(tmp_path / "whole")
    assert len(json.loads(undisturbed["summary.json"])) == 2
    assert len(kills) >= 50
    changed = {
        Path(entry["operation"][1]).name.split(".")[1] for entry in kills if entry["operation"][0] == "os.rename"
    }
    names = {"benchmark", "plan", "config", "last", "model", "metrics", "episodes", "summary"}
    assert names <= changed, "a kill before the rename of every kind of file"
    for entry in kills:
        assert entry["ended"] == -signal.SIGKILL, f"no kill at {entry['at']}: {entry['said'][-2000:]}"
        assert entry["again"] == 0
        check(tmp_path / f"out{entry['at']}", undisturbed, entry["finished"], entry["after"])
    assert sum(entry["temporary"] for entry in kills) > 20, "kills in the middle of a write, whose files went"
    assert len({len(entry["finished"]) for entry in kills}) == 5, "kills before and after every finished part"


def test_a_full_disk_ends_in_one_line_and_room_completes_the_folder(grid, tmp_path):
    ends = crash(grid, tmp_path, "full")
    undisturbed = quick.contents(tmp_path / "whole")
    assert len(ends) >= 10
    for entry in ends:
        assert entry["ended"] in (1, 2), (entry["at"], entry["said"][-2000:])
        lines = [line for line in entry["said"].replace("\r", "\n").splitlines() if line.startswith("fewseg: error:")]
        assert len(lines) == 1, entry["said"]
        assert "Traceback" not in entry["said"]
        assert "No space left on device" in lines[0]
        assert entry["again"] == 0
        assert not entry["temporary"]
        check(tmp_path / f"out{entry['at']}", undisturbed, entry["finished"], entry["after"])


def start(grid, out, runner, **options):
    command = [sys.executable, str(HERE / "quick.py"), str(grid), str(out), json.dumps(runner), json.dumps(options)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **streams)


def finished(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}


def listed(out):
    """All folders with their files; a run's folder may vanish meanwhile, when it is evaluated anew."""
    return [(place, sorted(files)) for place, _, files in os.walk(out)]


def test_kills_of_real_workers_at_changes_of_files_and_at_random_moments(tmp_path, monkeypatch):
    """One folder is killed again and again, its main process and its workers together, until it is complete."""
    grid = quick.write_grid(tmp_path, shots=[1, 2, 3], folds=[0, 1])
    whole, out = tmp_path / "whole", tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_executor", lambda name, out, runner, *rest: quick.InProcess(out, runner))
        assert benchmark.execute(grid, whole, runner=quick.Quick()) == 0
    undisturbed = quick.contents(whole)
    chance = random.Random(7)
    done, kills, by_worker = {}, 0, 0
    for attempt in range(5):
        at_operation = attempt % 2 == 0
        process = start(grid, out, {"pause": 0.05, "kill_at": 3 + attempt if at_operation else None}, workers=2)
        if not at_operation:
            deadline = time.monotonic() + 30
            marks = listed(out)
            while listed(out) == marks and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 1.2))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills, by_worker = kills + 1, by_worker + at_operation
        now = finished(out)
        assert {path: now.get(path) for path in done} == done, "what was finished was repeated"
        assert len(now) < len(finished(whole)) or not (out / "summary.md").exists()
        done = now
    assert kills >= 4
    assert by_worker >= 2
    assert benchmark.execute(grid, out, workers=2, runner=quick.Quick()) == 0
    now = finished(out)
    assert {path: now[path] for path in done} == done
    assert quick.contents(out) == undisturbed


def until(found, limit=30):
    """Waits for something to be there."""
    deadline = time.monotonic() + limit
    while not found() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found()


def test_a_second_command_on_a_folder_is_refused_and_the_first_is_undisturbed(grid, tmp_path):
    out, hold = tmp_path / "out", tmp_path / "hold"
    hold.write_text("")
    first = start(grid, out, {"hold": str(hold)}, workers=1)
    until((out / "plan.json").exists)
    second = start(grid, out, {}, workers=1)
    _, errors = second.communicate(timeout=60)
    assert first.poll() is None
    assert second.returncode == 2
    (line,) = errors.splitlines()
    assert line == f"fewseg: error: --out: got {out}, expected a folder that no other benchmark is using; " + (
        "wait for it or choose another"
    )
    hold.unlink()
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert len(json.loads((out / "summary.json").read_text())) == 2


def test_workers_of_a_killed_benchmark_hold_its_folder_until_they_end(grid, tmp_path):
    """Only the main process is killed; the next benchmark does not write beside workers that are left."""
    out, note = tmp_path / "out", tmp_path / "note"
    note.mkdir()
    first = start(grid, out, {"pause": 0.3, "note": str(note)}, workers=1)
    until(lambda: list(out.glob("trainings/*/checkpoint/last.ckpt")))
    worker = json.loads(next(note.iterdir()).read_text())[0]
    os.kill(worker, signal.SIGSTOP)
    first.kill()
    first.wait()
    second = start(grid, out, {}, workers=1, patience=0.2)
    printed, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "no other benchmark" in errors
    (line,) = printed.splitlines()
    assert line == f"waiting for workers of a killed benchmark that still use {out}"
    third = start(grid, out, {}, workers=1)
    assert third.stdout.readline().rstrip() == line
    os.kill(worker, signal.SIGCONT)
    _, errors = third.communicate(timeout=60)
    assert third.returncode == 0, errors
    assert not Path(f"/proc/{worker}").exists() or " Z " in Path(f"/proc/{worker}/stat").read_text()
    first.stdout.close()
    first.stderr.close()


def test_nobody_shares_a_benchmarks_lock_and_workers_share_theirs(tmp_path):
    """A lock that becomes a shared one lets another in for a moment; each is of one kind from beginning to end."""
    with engine.locked(tmp_path):
        with (tmp_path / ".lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with jobs.at_work(tmp_path), jobs.at_work(tmp_path), (tmp_path / jobs.WORKERS).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_children_that_load_data_do_not_hold_the_folder(tmp_path):
    with engine.locked(tmp_path):
        with jobs.at_work(tmp_path):
            child = os.fork()
            if child == 0:
                time.sleep(20)
                os._exit(0)
        try:
            with engine._alone(tmp_path, jobs.WORKERS, 5.0):  # the child may not have begun
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
