"""Whether a benchmark's summary or page is what it would become if it were made again now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import fewseg
from fewseg.results.files import content_id, read_plan, write_text

Made = Literal["summary", "report"]
_FILES: dict[Made, tuple[str, ...]] = {
    "summary": ("summary.json", "summary.csv", "summary.md", "summary.txt", "leaderboard.json"),
    "report": ("report.html",),
}


def is_current(out: Path, made: Made) -> bool:
    """Whether it is there, and nothing that goes into it has changed since: runs, curves, the plan, our own code."""
    try:
        same = (out / f".{made}.stamp").read_text(encoding="utf-8") == stamp(out)
    except OSError:
        return False
    return same and all((out / name).is_file() for name in _FILES[made])


def mark_current(out: Path, made: Made, stamped: str) -> None:
    """Notes what a summary or a page was made of.

    Args:
        out: the benchmark's folder.
        made: which of the two.
        stamped: ``stamp`` before the first file was read, as in ``Board.stamped``: a run that finishes while it is made
            may be left out, and then it is not current.
    """
    write_text(out / f".{made}.stamp", stamped)


def stamp(out: Path) -> str:
    """A hash of all that a summary or a page is made of."""
    return content_id({"of": list(_parts(out))})


def _parts(out: Path) -> Iterator[Any]:
    for path in sorted(Path(fewseg.__file__).parent.rglob("*.*")):
        if path.suffix in (".py", ".css", ".js"):
            yield str(path), path.stat().st_mtime_ns
    for name in ("plan.json", "benchmark.yaml"):
        yield (out / name).read_text(encoding="utf-8") if (out / name).is_file() else None
    named = read_plan(out).get("runs")
    for run in named if named is not None else sorted(path.name for path in out.iterdir() if path.is_dir()):
        for file in ("metrics.json", "episodes.parquet", "pictures/index.json"):
            try:
                found = (out / run / file).stat()
            except OSError:
                continue
            yield run, file, found.st_mtime_ns, found.st_size
    for curve in sorted(out.glob("trainings/*/curve.csv")):
        found = curve.stat()
        yield curve.parent.name, found.st_mtime_ns, found.st_size
