"""Whether a benchmark's summary or page is what it would become if it were made again now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import fewseg
from fewseg.results.files import content_id, read_plan, write_text

Made = Literal["summary", "report"]


def is_current(out: Path, made: Made) -> bool:
    """Whether nothing that goes into it has changed since ``mark_current``: runs, the plan, the package's code."""
    try:
        return (out / f".{made}.stamp").read_text(encoding="utf-8") == stamp(out)
    except OSError:
        return False


def mark_current(out: Path, made: Made) -> None:
    """Notes what a summary or a page was just made of."""
    write_text(out / f".{made}.stamp", stamp(out))


def stamp(out: Path) -> str:
    """A hash of all that a summary or a page is made of."""
    return content_id({"of": list(_parts(out))})


def _parts(out: Path) -> Iterator[Any]:
    for path in Path(fewseg.__file__).parent.rglob("*.*"):
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
