"""The papers' numbers beside ours, with what differs between the two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from fewseg import published
from fewseg.published import Published
from fewseg.report.cells import Cell, Section, escaped, listed, row, table
from fewseg.report.instances import asked
from fewseg.results import Line, points

# the data sets of papers that one of ours is, image by image; all others are other data
_SAME_DATA = {
    "PASCAL-5i": "pascal5i",
    "COCO-20i": "coco20i",
    "COCO 2017": "coco-one-shot",
}

_FIGURES = {  # metrics of papers by the names of ours
    "FB-IoU": "fb_iou",
    "positive IU": "positive_iou",
    "J": "j_mean",
    "J&F": "jf_mean",
    "AP50 of boxes": "ap50_boxes",
    "AP50 of masks": "ap50",
    "NoC@85": "noc85",
    "NoC@90": "noc90",
    "seconds a video": "seconds_per_video",
}
_LIMIT = 20  # clicks, of every NoC that papers print here
_RANDOM = "random boxes"  # the baseline of instances, by the name that it has in its paper


def ours(line: Line, row: Published, boxes: str = "none") -> float | None:
    """What a line has for a paper's metric, in the paper's unit.

    Args:
        line: of the leaderboard, of the method that the paper's number is of.
        row: one number of a paper; where it is of one fold, so is ours.
        boxes: what was scored, as in ``boxes_of``.

    Returns:
        None where task, K, P, metric, limit of clicks or, of instances, the classes that are asked for are others, and
        where one of the two is a baseline of random boxes.
    """
    if (line.task, line.n_shot, line.n_points) != (row.task, row.n_shot, row.n_points):
        return None
    if line.task == "instance" and asked(line) != asked(row):
        return None
    if boxes != ("truth" if row.method == _RANDOM else "none"):
        return None
    metric, _, clicks = row.metric.partition(", ")
    limits = {len(run.get("iou_at", ())) for run in line.runs}
    if (clicks and (line.clicks is None or f"{len(line.clicks.iou)} click" != clicks)) or (
        metric.startswith("NoC@") and limits != {_LIMIT}
    ):
        return None
    name = _FIGURES.get(metric, "")
    if metric == "mIoU" and (clicks or line.clicks is None):
        name = "miou"
    if row.fold is None:
        value = line.miou if name == "miou" else line.figures.get(name)
    elif name == "miou":
        value = line.folds.get(row.fold)
    else:
        own = [run[name] for run in line.runs if run["fold"] == row.fold and name in run]
        value = sum(own) / len(own) if own else None
    return 100 * value if value is not None and row.unit == "%" else value


def boxes_of(line: Line, out: Path) -> str:
    """What the runs of a line scored: ``none`` for what a method found, else how random boxes were made.

    Args:
        line: of the leaderboard.
        out: the benchmark's folder, where each run has its ``config.yaml``.
    """
    found = set()
    for run in line.runs if line.task == "instance" else ():
        path = out / run["run"] / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        told = {**_data(config), **_data(_part(config, "run"))}  # what the evaluation changed comes last
        found.add(str(told.get("random_boxes", "none")))
    return ", ".join(sorted(found)) or "none"


def _part(config: object, name: str) -> object:
    return config.get(name) if isinstance(config, dict) else None


def _data(config: object) -> dict[str, object]:
    data = _part(config, "data")
    return data if isinstance(data, dict) else {}


def paper_section(lines: Sequence[Line], out: Path) -> Section | None:
    """A table for each method of the benchmark that papers have numbers of; None where there is none.

    Args:
        lines: of the leaderboard.
        out: the benchmark's folder.
    """
    parts = []
    for method in dict.fromkeys(line.method for line in lines):
        own = [line for line in lines if line.method == method]
        known = [one for one in published.of(method) if one.task in {line.task for line in own}]
        if known:
            parts.append(_method(method, known, [(line, boxes_of(line, out)) for line in own]))
    if not parts:
        return None
    told = (
        "Numbers of papers as they were printed, also where they contradict themselves, beside those of this "
        "benchmark with the same task, metric, K and P. A number of one fold stands beside that fold of ours. They are "
        "of other code and trainings: a difference is no finding. "
        "<strong>Numbers on other data do not compare at all</strong>. Behind each number stands what differs from the "
        "protocol that this project recommends for the task."
    )
    return Section("The papers' numbers beside ours", f'<p class="quiet">{told}</p>\n{"".join(parts)}')


def _method(method: str, known: Sequence[Published], own: Sequence[tuple[Line, str]]) -> str:
    """One method, its lines with what they scored: its table, and below it the protocols' differences, each once."""
    notes = list(dict.fromkeys(one.differs for one in known if one.differs))
    heads = ["paper", "data", "metric", "K", "P", "printed", "by fold", "ours", "same data", "protocol", "differs"]
    heads += ["about"]
    rows = []
    for one in known:
        beside = [(line, value) for line, boxes in own if (value := ours(line, one, boxes)) is not None]
        same = ["yes" if _SAME_DATA.get(one.dataset) == line.dataset else "no" for line, _ in beside]
        folds = "" if one.folds is None else " / ".join(f"{value:g}" for value in one.folds)
        cells = [Cell(escaped(one.method), one.method, "text"), Cell(escaped(one.dataset), one.dataset, "text")]
        cells += [Cell(escaped(one.metric), one.metric, "text"), Cell(str(one.n_shot), one.n_shot)]
        cells += [Cell(points(one.n_points), 1e9 if one.n_points is None else one.n_points)]
        cells += [Cell(f"{one.mean:g} {one.unit}", one.mean), Cell(folds, one.folds[0] if one.folds else "")]
        cells.append(Cell("<br>".join(_own(*pair, one.fold) for pair in beside), beside[0][1] if beside else ""))
        cells.append(Cell("<br>".join(same), " ".join(same), "text"))
        cells.append(Cell(escaped(one.protocol or "none is near"), one.protocol, "text"))
        cells.append(Cell(str(notes.index(one.differs) + 1), "") if one.differs else Cell(""))
        rows.append(row([*cells, Cell(escaped(_about(one)), "", "text wide")]))
    items = "".join(f"<li>{escaped(note)}</li>\n" for note in notes)
    protocols = listed(line.protocol for line, _ in own)
    data = listed(line.dataset for line, _ in own)
    text = {"paper", "data", "metric", "same data", "protocol", "about"}
    return (
        f"<h3>{escaped(method)}</h3>\n"
        f'<p class="quiet">Ours: {data}, protocol {protocols}. Sources: {"; ".join(_sources(known))}.</p>\n'
        f"{table(heads, rows, text, f'Published numbers of {method}')}"
        + (f"<details><summary>What differs</summary>\n<ol>\n{items}</ol></details>\n" if notes else "")
    )


def _own(line: Line, value: float, fold: int | None) -> str:
    """Our number, where it is from, and what is incomplete; which folds are missing does not matter to one fold."""
    notes = [note for note in line.note.split("; ") if note and (fold is None or not note.startswith("partial"))]
    of_fold = [] if fold is None else [f"fold {fold}"]
    where = escaped(", ".join([line.config, line.dataset, line.protocol, *of_fold, *notes]))
    return f'{value:.1f} <span class="quiet">{where}</span>'


def _sources(known: Sequence[Published]) -> list[str]:
    return list(dict.fromkeys(escaped(one.source) for one in known))


def _about(one: Published) -> str:
    """Where it stands, how it was read, and what a reader must know."""
    told = [one.about, "" if one.reading == published.READ else one.reading]
    if one.contradicts_itself and one.mean_of_parts is not None:
        told.append(f"its parts average {one.mean_of_parts:.1f}: the printed mean contradicts them")
    if one.fold is not None:
        told.append(f"fold {one.fold} alone")
    return "; ".join(filter(None, told))
