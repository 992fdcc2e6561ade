"""The papers' numbers beside ours, with what differs between the two."""

from __future__ import annotations

from collections.abc import Sequence

from fewseg import published
from fewseg.published import Published
from fewseg.report.cells import Cell, Section, escaped, listed, row, table
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


def ours(line: Line, row: Published) -> float | None:
    """What a line has for a paper's metric, in the paper's unit; None where task, K, P or metric are others.

    Args:
        line: of the leaderboard, of the method that the paper's number is of.
        row: one number of a paper.
    """
    if (line.task, line.n_shot, line.n_points) != (row.task, row.n_shot, row.n_points):
        return None
    metric, _, clicks = row.metric.partition(", ")
    if clicks and (line.clicks is None or f"{len(line.clicks.iou)} click" != clicks):
        return None
    value = line.figures.get(_FIGURES.get(metric, ""))
    if metric == "mIoU" and (clicks or line.clicks is None):
        value = line.miou
    return 100 * value if value is not None and row.unit == "%" else value


def paper_section(lines: Sequence[Line]) -> Section | None:
    """A table for each method of the benchmark that papers have numbers of; None where there is none."""
    parts = []
    for method in dict.fromkeys(line.method for line in lines):
        own = [line for line in lines if line.method == method]
        known = [one for one in published.of(method) if one.task in {line.task for line in own}]
        if known:
            parts.append(_method(method, known, own))
    if not parts:
        return None
    told = (
        "Numbers of papers as they were printed, also where they contradict themselves, beside those of this "
        "benchmark with the same task, metric, K and P. They are of other code and trainings: a difference is no "
        "finding. "
        "<strong>Numbers on other data do not compare at all</strong>. Behind each number stands what differs from the "
        "protocol that this project recommends for the task."
    )
    return Section("The papers' numbers beside ours", f'<p class="quiet">{told}</p>\n{"".join(parts)}')


def _method(method: str, known: Sequence[Published], own: Sequence[Line]) -> str:
    """One method: its table, and below it the protocols' differences, each once."""
    notes = list(dict.fromkeys(one.differs for one in known if one.differs))
    heads = ["paper", "data", "metric", "K", "P", "printed", "by fold", "ours", "same data", "protocol", "differs"]
    heads += ["about"]
    rows = []
    for one in known:
        beside = [(line, value) for line in own if (value := ours(line, one)) is not None]
        same = any(_SAME_DATA.get(one.dataset) == line.dataset for line, _ in beside)
        folds = "" if one.folds is None else " / ".join(f"{value:g}" for value in one.folds)
        cells = [Cell(escaped(one.method), one.method, "text"), Cell(escaped(one.dataset), one.dataset, "text")]
        cells += [Cell(escaped(one.metric), one.metric, "text"), Cell(str(one.n_shot), one.n_shot)]
        cells += [Cell(points(one.n_points), 1e9 if one.n_points is None else one.n_points)]
        cells += [Cell(f"{one.mean:g} {one.unit}", one.mean), Cell(folds, one.folds[0] if one.folds else "")]
        cells.append(Cell("<br>".join(_own(*pair) for pair in beside), beside[0][1] if beside else ""))
        cells.append(Cell("" if not beside else "yes" if same else "no", str(same) if beside else "", "text"))
        cells.append(Cell(escaped(one.protocol or "none is near"), one.protocol, "text"))
        cells.append(Cell(str(notes.index(one.differs) + 1), "") if one.differs else Cell(""))
        rows.append(row([*cells, Cell(escaped(_about(one)), "", "text wide")]))
    items = "".join(f"<li>{escaped(note)}</li>\n" for note in notes)
    protocols = listed(line.protocol for line in own)
    data = listed(line.dataset for line in own)
    text = {"paper", "data", "metric", "same data", "protocol", "about"}
    return (
        f"<h3>{escaped(method)}</h3>\n"
        f'<p class="quiet">Ours: {data}, protocol {protocols}. Sources: {"; ".join(_sources(known))}.</p>\n'
        f"{table(heads, rows, text, f'Published numbers of {method}')}"
        + (f"<details><summary>What differs</summary>\n<ol>\n{items}</ol></details>\n" if notes else "")
    )


def _own(line: Line, value: float) -> str:
    where = escaped(f"{line.config}, {line.dataset}, {line.protocol}")
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
