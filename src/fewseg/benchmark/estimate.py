"""What a benchmark would do, and what of it is done."""

from __future__ import annotations

from pathlib import Path

from fewseg import results
from fewseg.benchmark.grid import Plan


def describe(grid: Plan, out: Path) -> str:
    """What a benchmark would do, one line per training with its runs."""
    lines = [f"{len(grid.pretrainings) + len(grid.trainings)} trainings, {len(grid.runs)} runs in {out}"]
    for one in (*grid.pretrainings, *grid.trainings):
        state = "done" if results.is_done(out / "trainings" / one.id) else "to do"
        lines.append(f"  training {one.id}: {one.max_steps} steps, {state}")
        for run in grid.runs:
            if run.training is one:
                lines.append(f"    run {run.id}: {'done' if results.is_done(out / run.id) else 'to do'}")
    return "\n".join(lines)
