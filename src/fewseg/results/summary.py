"""``summary.json``, ``summary.csv`` and ``summary.md`` of a benchmark."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewseg.errors import FewsegError
from fewseg.results.board import Board, read_board
from fewseg.results.files import plain, write_json, write_text
from fewseg.results.leaderboard import Line, main_figure
from fewseg.results.stamps import mark_current
from fewseg.results.tables import (
    cells,
    compared_in_words,
    comparison_cells,
    comparison_table,
    explained,
    markdown,
    table,
    ties,
    training_notes,
)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    flat = []
    for row in rows:
        line: dict[str, Any] = {
            name: json.dumps(v, default=plain) if isinstance(v, dict) else v for name, v in row.items()
        }
        for name in ("ci95", "jf_ci95", "ap50_boxes_ci95", "ap50_ci95"):
            if name in line:
                line[f"{name}_low"], line[f"{name}_high"] = line.pop(name)
        line |= {name: json.dumps(v) for name, v in line.items() if isinstance(v, list)}
        flat.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in flat for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def in_the_terminal(board: Board) -> str:
    """A board as plain text: the leaderboard, comparisons, and how the methods were trained."""
    if not board.rows:
        return "no run finished"
    told = [table([*board.lines, *board.trivial]), comparison_table(board.comparisons)]
    return "\n".join([*filter(None, told), *(f"training: {note}" for note in training_notes(board.rows))])


def summarise(out: Path) -> Board:
    """Writes ``summary.json``, ``.csv``, ``.md`` and ``.txt`` of the done runs in ``out``, and returns their board.

    ``summary.txt`` is what the terminal shows. ``leaderboard.json`` has the lines of the table, with all figures,
    intervals and ranks.

    Where the benchmark names a reference, ``comparisons.json`` is written too, and ``summary.md`` shows them.

    Args:
        out: the benchmark's folder.

    Raises:
        FewsegError: ``out`` is no folder, or holds a foreign ``metrics.json`` or rows of another schema.
    """
    if not out.is_dir():
        raise FewsegError("out", out, "the folder of a benchmark", "name the --out of a `fewseg benchmark`")
    board = read_board(out)
    rows, lines, compared = board.rows, [*board.lines, *board.trivial], board.comparisons
    write_json(out / "summary.json", rows)
    write_text(out / "summary.csv", _csv(rows))
    told_lines = {"lines": board.lines, "trivial": board.trivial}
    write_json(out / "leaderboard.json", {name: [*map(_of_line, of)] for name, of in told_lines.items()})
    trained = "".join(f"\n\nTraining: {note}." for note in training_notes(rows))
    told = "\n\n".join(explained(lines))
    body = f"{markdown(*cells(lines))}\n\n{told}{trained}" if lines else "No finished run."
    if compared:
        references = ", ".join(dict.fromkeys(one.reference for one in compared))
        body += f"\n\n## Compared with {references}\n\n{markdown(*comparison_cells(compared))}"
        body += f"\n\n{compared_in_words(compared)}"
    if not compared:
        (out / "comparisons.json").unlink(missing_ok=True)  # of an earlier version of the benchmark
    else:
        seen = ("seen", "j_seen", "ap50_boxes_seen", "ap50_seen")
        write_json(
            out / "comparisons.json",
            [dataclasses.asdict(one) | {name: getattr(one, name) for name in seen} for one in compared],
        )
    write_text(out / "summary.md", f"# {_title(rows)}\n\n{body}\n")
    write_text(out / "summary.txt", in_the_terminal(board) + "\n")
    mark_current(out, "summary", board.stamped)
    return board


def _of_line(line: Line) -> dict[str, Any]:
    """A line as plain data: its runs by name, its rank with the letter of its ties."""
    found = {field.name: getattr(line, field.name) for field in dataclasses.fields(line)}
    rank, clicks = line.rank, line.clicks
    found["rank"] = None if rank is None else {**rank._asdict(), "ties": ties(rank.group)}
    found["clicks"] = None if clicks is None else clicks._asdict()
    return found | {"ranked_by": main_figure(line.task), "runs": [run["run"] for run in line.runs]}


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(row["dataset"]) for row in rows)) or "Benchmark"
