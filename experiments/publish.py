"""Publishes a finished benchmark: its summary goes to experiments/results, its table into the README.

    python experiments/publish.py runs/shapes shapes "make benchmark" --picture docs/pictures/episodes.png
    python experiments/publish.py --pages

The README keeps, between `<!-- NAME -->` and `<!-- /NAME -->`, what this command wrote there. The pages of the methods
keep, between `<!-- results:CLASS -->` and `<!-- /results:CLASS -->`, the papers' numbers and ours.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fewseg import published
from fewseg.protocols import PROTOCOLS
from fewseg.report.instances import KINDS, asked, deviation, gaps
from fewseg.results import (
    CLICKED,
    FIGURES,
    INSTANCES,
    VIDEO,
    Line,
    amount,
    figure_text,
    leaderboard,
    markdown,
    of_instances,
    points,
    ranked_by,
    summarise,
    ties,
    training_notes,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"<!-- results:(\w+) -->\n.*?<!-- /results:\1 -->", re.DOTALL)


CLICK_FIGURES = (
    *("iou_at_1", "iou_at_5", "noc80", "noc85", "noc90", "over_limit90", "positive_iou", "miou_std_seeds"),
    *("seconds_per_click", "seconds_refine_per_click"),
)


VIDEO_FIGURES = (
    *("j_mean", "f_mean", "positive_iou", "seconds_per_video", "seconds_guide_per_video", "seconds_per_update"),
)


def tables(found: Sequence[Line]) -> str:
    """A table for each data set, task and protocol, in markdown; with their names where there are several.

    Base and novel classes of instances share a table.
    """
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in found:
        what = _references(line) if line.task == "instance" else line.protocol
        groups.setdefault((line.dataset, line.task, what), []).append(line)
    parts = []
    for names, lines in groups.items():
        made = (click_table if any(x.clicks for x in lines) else _TABLES[names[1]])(lines)
        told = ", ".join((names[0], *dict.fromkeys(line.protocol for line in lines)))
        parts.append((f"**{told}**\n\n" if len(groups) > 1 else "") + made)
    return "\n\n".join(parts)


def _references(line: Line) -> str:
    """Where a protocol takes its references from."""
    search = PROTOCOLS[line.protocol].evaluation.search
    return search.reference if search else ""


def instance_table(found: Sequence[Line]) -> str:
    """AP50 of boxes and of masks, one row for each config and K, best first by novel classes, in markdown.

    With intervals and, behind them, the standard deviation over lists of references. Where novel and base classes were
    asked for, with the gap between them over the trainings that have both. Seconds are those of one query.
    """
    sides = [side for side in ("novel", "base", "all") if any(asked(line) == side for line in found)]
    by_place = {(line.config, line.n_shot, asked(line)): line for line in found}
    falls = {(one.config, one.n_shot): one for one in gaps(found)}
    rows = list(dict.fromkeys((line.config, line.n_shot) for line in found))
    several = len({n_shot for _, n_shot in rows}) > 1

    def own(row: tuple[str, int]) -> list[Line | None]:
        return [by_place.get((*row, side)) for side in sides]

    rows.sort(key=lambda row: (row[1], [-(x.figures.get("ap50_boxes", 0.0) if x else 0.0) for x in own(row)]))
    heads = ["config", *(["K"] * several)]
    for kind in KINDS.values():
        heads += [f"AP50 {kind}, {side} classes" for side in sides] + [f"gap {kind}"] * bool(falls)
    body = []
    for row in rows:
        lines = own(row)
        first = next(line for line in lines if line is not None)
        cells = []
        for name, kind in KINDS.items():
            cells += [_ap50(line, name) for line in lines]
            cells += [f"{falls[row].gap(kind):+.3f}" if row in falls else ""] * bool(falls)
        seconds = figure_text("seconds_per_episode", first.figures.get("seconds_per_episode"))
        body.append([first.config + _notes(lines), *([str(first.n_shot)] * several), *cells, seconds, _ties(lines[0])])
    return _with_ties([*heads, "s/query"], body)


def _ties(line: Line | None) -> str:
    return "" if line is None or line.rank is None else ties(line.rank.group)


def _with_ties(heads: list[str], body: list[list[str]]) -> str:
    """The table in markdown; its last cells, the letters of ties, only where there are some."""
    ranked = any(row[-1] for row in body)
    return markdown([*heads, "ties"], body) if ranked else markdown(heads, [row[:-1] for row in body])


def trivial_in_words(lines: Sequence[Line]) -> list[str]:
    """What trivial answers score, a sentence for each data set and protocol, in a figure that its table shows."""
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.dataset, line.task, line.protocol), []).append(line)
    told = []
    for (dataset, task, protocol), own in groups.items():
        figure = "j_mean" if task == "video" else "miou" if task in ("semantic", "instance") else "positive_iou"
        name = {"j_mean": "J", "miou": "mIoU", "positive_iou": "positive IU"}[figure]
        scores = []
        for line in own:
            score = line.miou if figure == "miou" else line.figures[figure]
            given = ", ".join(f"{name} = {value}" for name, value in zip("KP", line.given, strict=True) if value)
            scores.append(f"{line.config}{f' ({given})' if given else ''} {score:.3f}")
        where = f" ({dataset}, {protocol})" if len(groups) > 1 else ""
        told.append(f"Trivial answers to the same episodes{where}, {name}: {', '.join(scores)}.")
    return told


def ties_in_words(lines: Sequence[Line]) -> str:
    """What the letters behind a table mean."""
    drawn = "videos" if any("jf_mean" in line.figures for line in lines) else "query images"
    return (
        f"Ties, by {ranked_by(lines)} in a row's first setting: A cannot be told from the best, B from "
        f"the best of the rest, and so on (about 95 % for all pairs at once, paired bootstrap over {drawn})."
    )


def _notes(sides: Sequence[Line | None]) -> str:
    """In brackets what is to be said of the lines in one row; of some of them only, with their classes."""
    notes = {asked(line): line.note for line in sides if line is not None}
    if len(set(notes.values())) == 1:
        told = next(iter(notes.values()))
    else:
        told = "; ".join(f"{side} classes: {note}" for side, note in notes.items() if note)
    return f" ({told})" if told else ""


def _ap50(line: Line | None, name: str) -> str:
    if line is None or name not in line.figures:
        return ""
    interval, spread = getattr(line, f"{name}_ci95"), deviation(line, name)
    between = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{line.figures[name]:.3f}{between}" + ("" if spread is None else f" ± {spread:.3f}")


def click_table(found: Sequence[Line]) -> str:
    """One row for each config, K and P, best first by the IoU after the first click, in markdown."""
    figures = [name for name in CLICK_FIGURES if any(name in line.figures for line in found)]
    n_clicks = max(len(line.clicks.iou) for line in found if line.clicks)
    one = len({(line.n_shot, line.n_points) for line in found}) == 1
    heads = ["config", *(() if one else ("K", "P")), f"mIoU after {n_clicks} click{'s' * (n_clicks > 1)}"]
    body = []
    for line in sorted(found, key=lambda line: -line.figures.get("iou_at_1", 0.0)):
        note = f" ({line.note})" if line.note else ""
        setting = () if one else (str(line.n_shot), points(line.n_points))
        shown = [figure_text(name, line.figures.get(name)) for name in figures]
        body.append([line.config + note, *setting, _score(line), *shown, _ties(line)])
    heads += [FIGURES.get(name, "positive IU") for name in figures]
    return _with_ties(heads, body)


def point_table(found: Sequence[Line]) -> str:
    """Positive IoU at every P, one row for each config and K, best first at the fewest points, in markdown."""
    counts = sorted({line.n_points for line in found}, key=amount)
    by_place = {(line.config, line.n_shot, line.n_points): line.figures for line in found}
    rows = list(dict.fromkeys((line.config, line.n_shot) for line in found))
    rows.sort(key=lambda row: -by_place.get((*row, counts[0]), {}).get("positive_iou", 0.0))
    body = []
    for config, n_shot in rows:
        own = [by_place.get((config, n_shot, count), {}) for count in counts]
        slowest = max(
            (figures["seconds_per_update"] for figures in own if "seconds_per_update" in figures), default=None
        )
        shown = [figure_text("positive_iou", figures.get("positive_iou")) for figures in own]
        body.append([config, str(n_shot), *shown, figure_text("seconds_per_update", slowest)])
    heads = ["config", "K", *(f"positive IU, P = {points(count)}" for count in counts), "s/update, longest"]
    return markdown(heads, body)


def video_table(found: Sequence[Line]) -> str:
    """J&F at every P, one row for each config and K, best first with the densest annotation, in markdown.

    J, F, positive IU and seconds are those of the densest annotation.
    """
    counts = sorted({line.n_points for line in found}, key=amount, reverse=True)
    by_place = {(line.config, line.n_shot, line.n_points): line for line in found}
    rows = [(line.config, line.n_shot) for line in found if line.n_points == counts[0]]
    rows.sort(key=lambda row: -by_place[(*row, counts[0])].figures["jf_mean"])
    several = len({n_shot for _, n_shot in rows}) > 1
    heads = ["config", *(["K"] * several), *(f"J&F, {'dense' if count is None else f'{count} px'}" for count in counts)]
    heads += [FIGURES.get(name, "positive IU") for name in VIDEO_FIGURES]
    body = []
    for config, n_shot in rows:
        own = [by_place.get((config, n_shot, count)) for count in counts]
        dense = by_place[config, n_shot, counts[0]]
        scores = [figure_text("jf_mean", None if line is None else line.figures["jf_mean"]) for line in own]
        if dense.jf_ci95:
            scores[0] += f" [{dense.jf_ci95[0]:.3f}, {dense.jf_ci95[1]:.3f}]"
        shown = [figure_text(name, dense.figures.get(name)) for name in VIDEO_FIGURES]
        note = f" ({dense.note})" if dense.note else ""
        body.append([config + note, *([str(n_shot)] * several), *scores, *shown, _ties(dense)])
    return _with_ties(heads, body)


def table(found: Sequence[Line]) -> str:
    """One row a config, best first: mIoU with its interval at the fewest and most images and pixels, in markdown.

    FB-IoU and the seconds of an annotation update (guide and segment) are those of the first setting.
    """
    ends = {pick(amount(line.n_points) for line in found) for pick in (max, min)}
    shots = {pick(line.n_shot for line in found) for pick in (min, max)}
    settings = [(k, p) for k in sorted(shots) for p in sorted(ends, reverse=True)]
    by_place = {(line.config, line.n_shot, amount(line.n_points)): line for line in found}
    configs = sorted({line.config for line in found}, key=lambda config: _rank(by_place.get((config, *settings[0]))))
    heads = ["config", *(_setting(k, p) for k, p in settings), "FB-IoU", "s/update"]
    body = []
    for config in configs:
        lines = [by_place.get((config, *setting)) for setting in settings]
        first = next(line for line in lines if line is not None)
        extra = [figure_text(name, first.figures.get(name)) for name in ("fb_iou", "seconds_per_update")]
        note = f" ({first.note})" if first.note else ""
        body.append([config + note, *map(_score, lines), *extra, _ties(lines[0])])
    return _with_ties(heads, body)


_TABLES = {
    "semantic": table,
    "interactive": point_table,
    "video": video_table,
    "interactive_video": point_table,
    "instance": instance_table,
}


def _rank(line: Line | None) -> float:
    return -(line.miou or 0.0) if line else 0.0


def _setting(n_shot: int, n_points: float) -> str:
    shots = "1 shot" if n_shot == 1 else f"{n_shot} shots"
    return f"{shots}, {'dense' if n_points == math.inf else f'{n_points:.0f} px'}"


def _score(line: Line | None) -> str:
    if line is None or line.miou is None:
        return ""
    interval = f" [{line.ci95[0]:.3f}, {line.ci95[1]:.3f}]" if line.ci95 else ""
    return f"{line.miou:.3f}{interval}"


def mosaic(rows: list[dict[str, Any]], out: Path, configs: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The median episodes of fold 0, one row a method, (H, W, 3) uint8 BGR; of videos the first, truth on top."""
    strips = []
    for config in configs:
        own = [r for r in rows if r["config"] == config and r["fold"] == 0 and r["n_points"] is None]
        pictures = [out / row["run"] / "pictures" for row in own]
        median = [path for folder in pictures for path in folder.glob("median-*.png")]
        films = [path for folder in pictures for path in (folder / "truth-0.jpg", folder / "film-0.jpg")]
        for path in median[:1] or films[1 if strips else 0 : 2]:
            strips.append(cv2.imread(str(path)))
    width = max(strip.shape[1] for strip in strips)
    white = (255, 255, 255)
    padded = [cv2.copyMakeBorder(s, 0, 8, 0, width - s.shape[1], cv2.BORDER_CONSTANT, value=white) for s in strips]
    return np.vstack(padded)[:-8]


def publish(
    out: Path, name: str, command: str, root: Path = ROOT, picture: Path | None = None, pictured: Sequence[str] = ()
) -> int:
    """Writes results/NAME.json, .md and -curves.csv, the entry in index.json and the README's table of that name.

    Args:
        out: the benchmark's folder.
        name: of the published result.
        command: what regenerates it.
        root: of the project.
        picture: also write the median episodes of fold 0 as a PNG.
        pictured: the configurations in that picture, from top to bottom.

    Returns:
        the number of runs.
    """
    board = summarise(out)
    rows = board.rows
    first = rows[0]
    devices = ", ".join(sorted({str(row["device"]) for row in rows}))
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    folds = sorted({row["fold"] for row in rows})
    lines = board.lines
    videos = any("jf_mean" in line.figures for line in lines)
    searched = any("ap50" in line.figures for line in lines)
    made = tables(lines)
    facts = [
        f"Regenerate with `{command}`.",
        *(f"Training: {note}." for note in training_notes(rows)),
        *([" ".join(CLICKED.split())] if any(line.clicks for line in lines) else []),
        *([" ".join(VIDEO.split())] if videos else []),
        *([f"{' '.join(INSTANCES.split())} {_SPREAD}"] if searched else []),
        *([ties_in_words(lines)] if "| ties |" in made else []),
        *trivial_in_words(board.trivial),
        f"{_listed(row['n_episodes'] for row in rows)} {'videos' if videos else 'episodes'} a fold, protocol "
        f"{_listed(row['protocol'] for row in rows)}, folds {folds}; "
        f"the interval resamples {'videos' if videos else 'query images'} and does not hold the variation of training.",
        f"Measured on {devices}; {versions}.",
    ]
    more = f"All settings and folds: [{name}.md](experiments/results/{name}.md)."
    body = f"{made}\n\n" + "\n".join([*facts, more])
    results = root / "experiments" / "results"
    write_json(results / f"{name}.json", rows)
    write_text(results / f"{name}-curves.csv", curves(rows, out))
    summary = (out / "summary.md").read_text(encoding="utf-8")
    if searched:
        chosen = [line for line in lines if of_instances([line])]
        summary += f"\n## Instances at a glance\n\n{tables(chosen)}\n\n{_SPREAD}\n"
    write_text(results / f"{name}.md", summary + "\n" + "\n".join([facts[0], *facts[-2:]]) + "\n")
    # the rows that the interval of a mean is made from are not published, so the interval is
    intervals = [
        {name: getattr(x, name) for name in ("config", "protocol", "dataset", "n_shot")}
        | {"ci95": [round(v, 4) for v in x.ap50_boxes_ci95 or x.jf_ci95 or x.ci95]}
        | ({"masks_ci95": [round(v, 4) for v in x.ap50_ci95]} if x.ap50_ci95 else {})
        for x in lines
        if x.n_points is None and x.ci95
    ]
    write_json(results / "index.json", index(root) | {name: {"command": command, "dense_intervals": intervals}})
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), mosaic(rows, out, pictured))
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start in text and end in text:
        before, after = text.split(start)[0], text.split(end)[1]
        write_text(readme, f"{before}{start}\n{body}\n{end}{after}")
    return len(rows)


_SPREAD = (
    "Behind ±: standard deviation of AP50 over lists of references (n, not n - 1), mean over folds. "
    "Gap: base minus novel, over the folds that have both."
)


def curves(rows: Sequence[dict[str, Any]], out: Path) -> str:
    """The base-class mIoU along each training, as CSV: when a method begins to read its support."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["training"], row)  # they come sorted: the plain evaluation before its variants
    lines = ["config,fold,seed,step,miou"]
    for training, row in sorted(found.items()):
        path = out / "trainings" / training / "curve.csv"
        for point in csv.DictReader(path.read_text().splitlines()) if path.is_file() else ():
            if point["miou"]:
                lines.append(f"{row['config']},{row['fold']},{row['seed']},{point['step']},{point['miou']}")
    return "\n".join(lines) + "\n"


def index(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The published benchmarks: what regenerates each, and the intervals of its means with dense annotation."""
    path = root / "experiments" / "results" / "index.json"
    content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The pages of the methods as they should be: the papers' numbers and ours written between their marks."""
    benchmarks = []
    for name, entry in index(root).items():
        rows = json.loads((root / "experiments" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        shown = ("semantic", "video", "instance")
        dense = [x for x in leaderboard(rows) if x.n_points is None and (x.task in shown or x.clicks)]
        benchmarks.append((name, entry, dense))
    found = {}
    for path in sorted((root / "docs" / "methods").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if MARKED.search(text):
            found[path] = MARKED.sub(lambda mark: _between(mark[1], benchmarks), text)
    return found


def _between(method: str, benchmarks: Sequence[tuple[str, dict[str, Any], list[Line]]]) -> str:
    """The marked part of a page: one table with the papers' numbers first, and where all of them come from."""
    heads = ["whose", "data", "metric", "K", *(f"fold {i}" for i in range(4)), "mean", "95 % interval", "about"]
    known = published.of(method)
    body = [_paper_line(row) for row in known]
    sources = []
    if known:
        sources.append(f"- The papers' numbers: {'; '.join(dict.fromkeys(row.source for row in known))}.")
        ways = dict.fromkeys((row.source, row.protocol, row.differs) for row in known)
        sources += [
            f"- {source}: {f'nearest protocol {protocol}; ' if protocol else ''}{differs}."
            for source, protocol, differs in ways
        ]
    measured: list[Line] = []
    for name, entry, lines in benchmarks:
        own = [line for line in lines if line.method == method and line.n_shot in (0, 1, 5) and line.miou is not None]
        body += [row for line in own for row in _own_lines(line, name, entry)]
        measured += own
        if own:
            where = f"[{name}.md](../../experiments/results/{name}.md)"
            how = f"regenerate with `{entry['command']}`"
            about = f"{where}, protocol {_listed(x.protocol for x in own)}, {how}"
            sources.append(f"- {_listed(x.dataset for x in own)}: {about}.")
    if not body:
        told = "There is no committed number of this method yet, and no paper's number to set beside it."
    else:
        told = f"{_told(known, measured)}\n\n{markdown(heads, body)}\n\n" + "\n".join(sources)
    return f"<!-- results:{method} -->\n\n{told}\n\n<!-- /results:{method} -->"


def _told(known: Sequence[published.Published], measured: Sequence[Line]) -> str:
    """What a reader must know before the table of a method: the papers' lines and ours."""
    told = "All figures in percent"
    told += ", unless their metric says otherwise." if any(row.unit != "%" for row in known) else "."
    if known:
        told += " The papers' are as printed."
    if not measured:
        return told + " There is no committed number of ours yet."
    if all(of_instances([line]) for line in measured):
        told += " Ours, too, ask only for classes that an image shows; the interval resamples query images."
    else:
        told += " Ours are with dense annotations; the interval resamples query images or videos."
    searched = any(row.metric.startswith("AP50") for row in known)
    theirs, same = ("COCO 2017", "coco-one-shot") if searched else ("PASCAL-5i", "pascal5i")
    others = [name for name in dict.fromkeys(line.dataset for line in measured) if name != same]
    if known and others:
        told += (
            f" Ours on {' and '.join(others)} are of other data than {theirs}, with other encoders and budgets: they "
            "stand beside the papers' numbers and **do not compare** with them."
        )
    return told


def _paper_line(row: published.Published) -> list[str]:
    folds = [""] * 4 if row.folds is None else [f"{value:g}" if value % 1 else f"{value:.1f}" for value in row.folds]
    mean = f"{row.mean:g}" if row.mean % 1 else f"{row.mean:.1f}"
    return [f"paper: {row.method}", row.dataset, row.metric, str(row.n_shot), *folds, mean, "", row.about]


def _own_lines(line: Line, name: str, entry: dict[str, Any]) -> list[list[str]]:
    """One row, or one of boxes and one of masks."""
    if not of_instances([line]):
        return [_own_line(line, name, entry)]
    rows = []
    for figure, kind in KINDS.items():
        row = _own_line(line, name, entry, "ci95" if kind == "boxes" else "masks_ci95")
        by_fold = {fold: [r[figure] for r in line.runs if r["fold"] == fold and figure in r] for fold in line.folds}
        folds = [f"{100 * sum(v) / len(v):.1f}" if (v := by_fold.get(i)) else "" for i in range(4)]
        mean = f"{100 * line.figures[figure]:.1f}" if figure in line.figures else ""
        about = "; ".join(filter(None, (f"{line.protocol}: {asked(line)} classes", line.note)))
        rows.append([*row[:2], f"AP50 of {kind}", row[3], *folds, mean, row[9], about])
    return rows


def _own_line(line: Line, name: str, entry: dict[str, Any], interval_name: str = "ci95") -> list[str]:
    here = {name: getattr(line, name) for name in ("config", "protocol", "dataset", "n_shot")}
    known = (e for e in entry["dense_intervals"] if all(e.get(k, v) == v for k, v in here.items()))
    interval = next((e.get(interval_name) for e in known), None)
    shown = "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
    folds = [f"{100 * line.folds[i]:.1f}" if i in line.folds else "" for i in range(4)]
    mean = f"{100 * line.figures.get('jf_mean', line.miou or 0.0):.1f}"
    data = line.dataset if name == line.dataset else f"{line.dataset} ({name})"
    if "jf_mean" in line.figures:
        return [f"ours: {line.config}", data, "J&F", str(line.n_shot), *[""] * 4, mean, shown, line.note]
    metric = "mIoU" if line.clicks is None else f"mIoU, {len(line.clicks.iou)} click{'s' * (len(line.clicks.iou) > 1)}"
    return [f"ours: {line.config}", data, metric, str(line.n_shot), *folds, mean, shown, line.note]


def _listed(values: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def main() -> None:
    """Publishes one benchmark, or brings the pages of the methods up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="the benchmark's folder")
    parser.add_argument("name", nargs="?", help="of the published result")
    parser.add_argument("command", nargs="?", help="what regenerates it")
    parser.add_argument("--picture", type=Path, help="also write the median episodes of fold 0 as a PNG")
    parser.add_argument("--pictured", nargs="+", default=["guided", "panet", "fgbg"], help="configurations in it")
    parser.add_argument("--pages", action="store_true", help="write the numbers into the pages of the methods")
    options = parser.parse_args()
    if options.command is None and (options.out is not None or not options.pages):
        parser.error("give the benchmark's folder, a name and a command, or --pages, or both")
    if options.command is not None:
        count = publish(options.out, options.name, options.command, ROOT, options.picture, options.pictured)
        print(json.dumps({"runs": count, "results": f"experiments/results/{options.name}.json"}))
    if options.pages:
        for path, text in pages().items():
            if text != path.read_text(encoding="utf-8"):
                write_text(path, text)
                print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
