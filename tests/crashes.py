"""Kills a benchmark at many file operations, each in a forked process, and runs it to its end after every kill.

``python crashes.py GRID FOLDER`` writes one JSON line a kill: the operation, how the process ended, what was finished.
``python crashes.py GRID FOLDER full`` lets the disk be full from that operation on instead.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import quick
from fewseg import benchmark
from fewseg.benchmark import engine
from fewseg.errors import FewsegError


def run(grid, out, at=None, act=None):
    """In a process of its own: the benchmark, with something done at the nth operation; how it ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setpgid(0, 0)
            log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if at is not None:
                quick.count_operations(out, at, act)
            status = benchmark.execute(grid, out, runner=quick.Quick())
        except FewsegError as error:
            print(f"fewseg: error: {error}", file=sys.stderr)
            status = 2
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def torn(operation):
    """A kill in the middle of a write, or just before any other change."""
    event, name = operation
    if event == "open" and Path(name).name not in (".lock", ".workers"):
        Path(name).write_bytes(b"{")
    quick.kill(operation)


def full(operation):
    """A full disk: nothing grows, while names may change and files may go."""
    if operation[0] in ("open", "os.mkdir"):
        raise OSError(28, "No space left on device")


def finished(out):
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("metrics.json")}


def main(grid, folder, act):
    os.fsync = lambda file: None  # what a process wrote outlives it
    engine._executor = lambda name, out, runner, *rest: quick.InProcess(out, runner)
    listed = []
    whole = folder / "whole"
    assert run(grid, whole) == 0  # which also loads what is loaded late
    counted = folder / "counted"
    seen = folder / "operations.jsonl"

    def note(operation):
        with seen.open("a") as file:
            file.write(json.dumps([operation[0], str(Path(operation[1]))]) + "\n")

    assert run(grid, counted, 1, note) == 0
    operations = [json.loads(line) for line in seen.read_text().splitlines()]
    step = 1 if act is torn else 5
    for at in range(1, len(operations) + 1, step):
        out = folder / f"out{at}"
        ended = run(grid, out, at, act)
        said = out.with_suffix(".log").read_text() if out.with_suffix(".log").exists() else ""
        before = finished(out)
        temporary = [str(path) for path in out.rglob(".*.tmp")]
        again = run(grid, out)
        entry = {"at": at, "operation": operations[at - 1], "ended": ended, "said": said, "finished": before}
        entry |= {"temporary": len(temporary), "again": again, "after": finished(out)}
        listed.append(entry)
    (folder / "kills.json").write_text(json.dumps(listed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), full if "full" in sys.argv[3:] else torn)
