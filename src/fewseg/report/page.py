"""Writes ``report.html``: headline, leaderboard, plots, learning curves and pictures in one self-contained file."""

from __future__ import annotations

import base64
import csv
import html
import json
import shlex
from collections.abc import Iterable, Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from plotly.offline import get_plotlyjs

from fewseg.report.figures import (
    Curve,
    Style,
    against_clicks,
    against_points,
    against_seconds,
    against_shots,
    embed,
    forest,
    guidance_spread,
    learning_curves,
    per_class,
    positive_against_points,
    styles,
)
from fewseg.results import (
    CLICKED,
    COMPARED,
    FIGURES,
    Comparison,
    Line,
    amount,
    collect,
    comparison_cells,
    comparisons,
    figure_text,
    leaderboard,
    points,
    reference_of,
    training_notes,
    write_text,
)

_PICTURE_BYTES = 3_000_000  # keeps the page, plotly included, below 10 MB
_PICTURES_OF_A_KIND = 2
# nothing may be fetched, whatever a name or a picture holds
_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Picture(NamedTuple):
    """One episode of one run: what ``pictures/index.json`` says and where the file lies."""

    config: str
    kind: str
    path: Path
    iou: float
    caption: str


def build_report(out: Path, folds_expected: int | None = None) -> Path:
    """Writes ``<out>/report.html`` from the finished runs in ``out``; it needs no server and no network.

    Sections without data are absent.

    Args:
        out: the benchmark's folder.
        folds_expected: as in ``results.leaderboard``.

    Returns:
        the path of the page.

    Raises:
        FewsegError: ``out`` holds a foreign ``metrics.json`` or rows of another schema.
    """
    rows = collect(out)
    lines = leaderboard(rows, out, folds_expected)
    style = styles(sorted({line.config for line in lines}))
    sections = [_headline(lines)]
    if lines:
        sections.append(_leaderboard(lines, style))
    compared = comparisons(rows, out, reference_of(out))
    sections.append(_comparisons(compared, style))
    plots = _plots(lines, rows, style, out)
    sections += [plots, _pictures(lines, style, out), _regenerate(out)]
    files = resources.files("fewseg.report")
    css, js = ((files / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    plotly = f"<script>{get_plotlyjs()}</script>\n" if plots or compared else ""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{_heading(lines)}</title>\n<style>\n{css}</style>\n{plotly}</head>\n"
        f"<body>\n{''.join(sections)}<script>\n{js}</script>\n</body>\n</html>\n"
    )
    path = out / "report.html"
    write_text(path, page)
    return path


def _text(value: object) -> str:
    return html.escape(str(value))


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(_text, values)))


def _heading(lines: Sequence[Line]) -> str:
    return f"Few-shot segmentation on {_listed(line.dataset for line in lines)}" if lines else "No finished run"


def _headline(lines: Sequence[Line]) -> str:
    if not lines:
        return "<h1>No finished run</h1>\n<p>This folder holds no run with a metrics.json yet.</p>\n"
    runs = [run for line in lines for run in line.runs]
    versions = sorted({(name, str(v)) for run in runs for name, v in run.get("versions", {}).items()})
    episodes = sorted({run["n_episodes"] for run in runs if "n_episodes" in run})
    per_run = f", {_span(episodes)} episodes each" if episodes else ""
    facts = {
        "Compared": _listed(line.config if line.config == line.method else _who(line) for line in lines),
        "Data set": _listed(line.dataset for line in lines),
        "Task": _listed(line.task for line in lines),
        "Protocol": _listed(line.protocol for line in lines),
        "Folds": _listed(sorted({run["fold"] for run in runs})),
        "Annotation": f"K = {_listed(sorted({line.n_shot for line in lines}))} images, "
        f"P = {_listed(points(p) for p in sorted({line.n_points for line in lines}, key=amount))} pixels",
        "Runs": f"{len(runs)}{per_run}, seeds {_listed(sorted({run['seed'] for run in runs}))}",
        "Training": "; ".join(_text(note) for note in training_notes(runs)),
        "Device": _listed(run["device"] for run in runs if "device" in run),
        "Versions": _listed(f"{name} {version}" for name, version in versions),
    }
    notices = list(dict.fromkeys(line.note for line in lines if line.note))
    if _lists_differ(runs):
        notices.append("methods were scored on different episode lists; compare only equal lists")
    warned = "".join(f'<p class="notice"><strong>Read with care:</strong> {_text(n)}.</p>\n' for n in notices)
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in facts.items() if value)
    return f"<h1>{_heading(lines)}</h1>\n{_best(lines)}{warned}<dl>\n{listed}</dl>\n"


def _best(lines: Sequence[Line]) -> str:
    """The winner at the densest setting, where there is one setting group to speak of."""
    scored = [line for line in lines if line.miou is not None]
    if not scored or len({(line.dataset, line.task, line.protocol) for line in scored}) > 1:
        return ""
    top = max((amount(line.n_points), line.n_shot) for line in scored)
    best = max((x for x in scored if (amount(x.n_points), x.n_shot) == top), key=lambda line: line.miou or 0.0)
    interval = "" if best.ci95 is None else f" (95 % interval {best.ci95[0]:.3f} to {best.ci95[1]:.3f})"
    return (
        f"<p>Best at K = {best.n_shot}, P = {points(best.n_points)}: <strong>{_text(best.config)}</strong>, "
        f"mIoU {best.miou:.3f}{interval}.</p>\n"
    )


def _who(line: Line) -> str:
    return f"{line.config} ({line.method})"


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _lists_differ(runs: Sequence[dict[str, Any]]) -> bool:
    lists: dict[tuple[Any, ...], set[Any]] = {}
    for run in runs:
        setting = tuple(run[name] for name in ("dataset", "task", "protocol", "fold", "n_shot", "n_points", "seed"))
        lists.setdefault(setting, set()).add(run.get("episode_list_sha256"))
    return any(len(found) > 1 for found in lists.values())


class _Cell(NamedTuple):
    content: str  # HTML
    sort: object = ""
    kind: str = ""  # CSS class


def _leaderboard(lines: Sequence[Line], style: dict[str, Style]) -> str:
    folds = sorted({fold for line in lines for fold in line.folds})
    extra = [name for name in FIGURES if any(name in line.figures for line in lines)]
    wide = [n for n in ("dataset", "task", "protocol") if len({getattr(line, n) for line in lines}) > 1]
    intervals = [line.ci95 for line in lines if line.ci95]
    scale = min((low for low, _ in intervals), default=0.0), max((high for _, high in intervals), default=1.0)

    def setting(line: Line) -> tuple[Any, ...]:
        return line.dataset, line.task, line.protocol, line.n_shot, amount(line.n_points)

    best: dict[tuple[Any, ...], float] = {}
    for line in lines:
        best[setting(line)] = max(best.get(setting(line), 0.0), line.miou or 0.0)
    body = []
    for line in sorted(lines, key=lambda line: (*setting(line), -(line.miou or 0.0), line.config)):
        swatch = f'<span class="swatch" style="background:{style[line.config].colour}"></span>'
        is_best = line.miou is not None and line.miou == best[setting(line)]
        row = {
            "method": _Cell(
                swatch + _text(line.config if line.config == line.method else _who(line)), line.config, "text"
            ),
            **{name: _Cell(_text(getattr(line, name)), getattr(line, name), "text") for name in wide},
            "K": _Cell(str(line.n_shot), line.n_shot),
            "P": _Cell(points(line.n_points), 1e9 if line.n_points is None else line.n_points),
            **{f"fold {fold}": _number(line.folds.get(fold)) for fold in folds},
            "mIoU": _number(line.miou)._replace(kind="best" if is_best else ""),
            "95 % interval": _interval(line, scale, style[line.config].colour),
            "FB-IoU": _number(line.figures.get("fb_iou")),
            "positive IU": _number(line.figures.get("positive_iou")),
            **{FIGURES[name]: _figure_cell(name, line.figures.get(name)) for name in extra},
            "s/episode": _figure_cell("seconds_per_episode", line.figures.get("seconds_per_episode")),
            "parameters": _millions(line.runs[0].get("n_parameters")),
            "trained": _millions(line.runs[0].get("n_trained_parameters")),
            "episodes": _Cell(str(line.n_episodes), line.n_episodes),
            "note": _Cell(_text(line.note), line.note, "text"),
        }
        body.append(row)
    shown = [name for name in body[0] if any(row[name].content for row in body)]
    kinds = {name: body[0][name].kind if body[0][name].kind == "text" else "" for name in shown}
    heads = "".join(f'<th class="{kinds[n]}" scope="col"><button type="button">{_text(n)}</button></th>' for n in shown)
    cells = "".join("<tr>" + "".join(_td(row[name]) for name in shown) + "</tr>\n" for row in body)
    clicked = f" {_text(' '.join(CLICKED.split()))}" if any(line.clicks for line in lines) else ""
    return (
        "<h2>Leaderboard</h2>\n"
        '<p class="quiet">mIoU: intersection over union per class, summed over all its episodes; mean over the classes '
        "of a fold, then over seeds and folds. The interval resamples query images, with all their episodes, 1000 "
        "times; it does not hold the variation of training. K: annotated images; P: annotated pixels per label and "
        f"image. Bold: best of its setting. A click on a head sorts.{clicked}</p>\n"
        f'<div class="scroll"><table class="sortable">\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{cells}</tbody>\n</table></div>\n"
    )


def _td(cell: _Cell) -> str:
    return f'<td class="{cell.kind}" data-sort="{_text(cell.sort)}">{cell.content}</td>'


def _number(value: float | None) -> _Cell:
    return _Cell("") if value is None else _Cell(f"{value:.3f}", value)


def _figure_cell(name: str, value: float | None) -> _Cell:
    return _Cell("") if value is None else _Cell(figure_text(name, value), value)


def _millions(count: int | None) -> _Cell:
    return _Cell("") if count is None else _Cell(f"{count / 1e6:.2f} M" if count else "0", count)


def _interval(line: Line, scale: tuple[float, float], colour: str) -> _Cell:
    """The interval as a bar on a scale that all lines share, and as text."""
    if line.ci95 is None or line.miou is None:
        return _Cell("")
    start, width = scale[0], max(scale[1] - scale[0], 1e-9)
    low, high, centre = (round(80 * (value - start) / width, 1) for value in (*line.ci95, line.miou))
    return _Cell(
        '<svg width="88" height="12" viewBox="-4 0 88 12" aria-hidden="true">'
        '<path d="M0 6H80" stroke="#d5d9de"/>'
        f'<path d="M{low} 6H{high}" stroke="{colour}" stroke-width="6"/>'
        f'<path d="M{centre} 1V11" stroke="#1c2128" stroke-width="1.5"/></svg>{line.ci95[0]:.3f} to {line.ci95[1]:.3f}',
        line.ci95[0],
    )


def _comparisons(compared: Sequence[Comparison], style: dict[str, Style]) -> str:
    """Every configuration against the reference: a forest plot at the ends of the settings, and all as a table."""
    if not compared:
        return ""
    parts = []
    groups = groupby(compared, lambda one: (one.dataset, one.task, one.protocol))  # they come sorted
    several = len({(one.dataset, one.task, one.protocol) for one in compared}) > 1
    for i, (names, members) in enumerate(groups):
        where = f" ({', '.join(names)})" if several else ""
        shown = [one for one in members if one.reference == compared[0].reference]
        for j, (caption, drawn) in enumerate(forest(shown, style)):
            plot = embed(drawn, f"compared-{i}-{j}")
            parts.append(f"<figure><figcaption>{_text(caption + where)}</figcaption>{plot}</figure>\n")
    heads, body = comparison_cells(compared)
    kinds = {head: "text" for head in heads if head in _TEXT}
    top = "".join(
        f'<th class="{kinds.get(h, "")}" scope="col"><button type="button">{_text(h)}</button></th>' for h in heads
    )
    rows = []
    for one, line in zip(compared, body, strict=True):
        low = "" if one.ci95 is None else one.ci95[0]
        by_value = {"P": 1e9 if one.n_points is None else one.n_points, "95 % paired interval": low}
        cells = []
        for head, content in zip(heads, line, strict=True):
            mark = style[one.config].colour if head == "config" else ""
            swatch = f'<span class="swatch" style="background:{mark}"></span>' if mark else ""
            cells.append(_td(_Cell(swatch + _text(content), by_value.get(head, content), kinds.get(head, ""))))
        rows.append("<tr>" + "".join(cells) + "</tr>\n")
    references = ", ".join(dict.fromkeys(one.reference for one in compared))
    return (
        f"<h2>Compared with {_text(references)}</h2>\n"
        f'<p class="quiet">{_text(" ".join(COMPARED.split()))} Hollow marks: not separated.</p>\n{"".join(parts)}'
        f'<div class="scroll"><table class="sortable">\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody>\n</table></div>\n"
    )


_TEXT = {"dataset", "task", "protocol", "config", "against", "seen", "note"}  # heads of columns that sort by letters


def _plots(lines: Sequence[Line], rows: Sequence[dict[str, Any]], style: dict[str, Style], out: Path) -> str:
    def group(line: Line) -> tuple[str, str, str]:
        return line.dataset, line.task, line.protocol

    found: list[tuple[str, str, Any]] = []
    groups = [(names, list(members)) for names, members in groupby(lines, group)]  # lines come sorted
    for names, members in groups:
        where = f" ({', '.join(names)})" if len(groups) > 1 else ""
        for title, figure in (
            *(("Objects: accuracy against clicks", drawn) for drawn in against_clicks(members, style)),
            *(("Objects: accuracy against seconds", drawn) for drawn in against_seconds(members, style)),
            *(("Objects: positive IoU against points", drawn) for drawn in positive_against_points(members, style)),
            ("Accuracy against annotated pixels", against_points(members, style)),
            ("Accuracy against annotated images", against_shots(members, style)),
            ("Accuracy per class", per_class(members, style)),
            ("How much the guidance varies", guidance_spread(members, style)),
        ):
            if figure is not None:
                found.append((title + where, figure[0], figure[1]))
    for column, title in (("miou", "Learning curves: mIoU"), ("loss", "Learning curves: loss")):
        curves = _curves(rows, column, out)
        if curves:
            found.append((title, "one line per training", learning_curves(curves, style, title.split(": ")[1])))
    parts = []
    for i, (title, caption, drawn) in enumerate(found):
        plot = embed(drawn, f"figure-{i}")
        told = f'<p class="quiet">{_SPREAD}</p>\n' if title.startswith("How much the guidance") else ""
        head = f"<h2>{_text(title)}</h2>\n{told}" if not i or title != found[i - 1][0] else ""
        parts.append(f"{head}<figure><figcaption>{_text(caption)}</figcaption>{plot}</figure>\n")
    return "".join(parts)


_SPREAD = (
    "Within: how far z differs among supports of one class. Between: how far the means of classes lie apart. Where "
    "both are tiny, z is nearly one constant and the support hardly says what to segment. Where only the first is "
    "tiny, the supports of a class are interchangeable, and more annotation hardly moves the answer."
)


def _curves(rows: Sequence[dict[str, Any]], column: str, out: Path) -> list[Curve]:
    """One curve per training that a run names; lines of ``curve.csv`` without a value in ``column`` are left out."""
    curves = {}
    for row in rows:
        training = str(row.get("training") or "")
        path = out / "trainings" / training / "curve.csv"
        if not training or training in curves or not path.is_file():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            read = [(line.get("step"), line.get(column)) for line in csv.DictReader(file)]
        pairs = [(float(step), float(value)) for step, value in read if step and value]
        label = f"{row['config']}, fold {row['fold']}, seed {row['seed']}"
        if pairs:
            curves[training] = Curve(row["config"], label, [s for s, _ in pairs], [v for _, v in pairs])
    return list(curves.values())


def _pictures(lines: Sequence[Line], style: dict[str, Style], out: Path) -> str:
    shelves: dict[tuple[str, str], list[Picture]] = {}
    for config in dict.fromkeys(line.config for line in lines):
        for kind in ("best", "median", "worst"):
            chosen = _chosen(lines, config, kind, out)
            if chosen:
                shelves[config, kind] = chosen
    # every method shows its first picture of each kind before any shows a second
    queue = [shelf[i] for i in range(_PICTURES_OF_A_KIND) for shelf in shelves.values() if i < len(shelf)]
    total, shown = 0, set()
    for picture in queue:
        total += picture.path.stat().st_size
        if total > _PICTURE_BYTES:
            break
        shown.add(picture)
    parts = []
    for config in dict.fromkeys(config for config, _ in shelves):
        figures = [_figure(p) for (c, _), shelf in shelves.items() if c == config for p in shelf if p in shown]
        swatch = f'<span class="swatch" style="background:{style[config].colour}"></span>'
        if figures:
            parts.append(f'<h3>{swatch}{_text(config)}</h3>\n<div class="pictures">\n{"".join(figures)}</div>\n')
    if not parts:
        return ""
    left = len(queue) - len(shown)
    more = f' {left} more are in the "pictures" folders of the runs.' if left else ""
    return (
        "<h2>Best, median and worst episodes</h2>\n"
        f'<p class="quiet">Of each method at its densest setting.{more}</p>\n{"".join(parts)}'
    )


def _chosen(lines: Sequence[Line], config: str, kind: str, out: Path) -> list[Picture]:
    """The pictures of a kind from all folds of the configuration's densest setting that has any."""
    settings = sorted(
        (line for line in lines if line.config == config),
        key=lambda line: (amount(line.n_points), line.n_shot),
        reverse=True,
    )
    for line in settings:
        found = [p for run in line.runs for p in _index(out / run["run"] / "pictures", line, run) if p.kind == kind]
        found.sort(key=lambda picture: picture.iou, reverse=kind == "best")
        start = max(0, (len(found) - _PICTURES_OF_A_KIND) // 2) if kind == "median" else 0
        if found:
            return found[start : start + _PICTURES_OF_A_KIND]
    return []


def _index(folder: Path, line: Line, run: dict[str, Any]) -> list[Picture]:
    index = folder / "index.json"
    if not index.is_file():
        return []
    found = []
    for entry in json.loads(index.read_text(encoding="utf-8")):
        path = folder / Path(entry["file"]).name  # a name in an index never leads out of the folder
        where = f"fold {run['fold']}, K = {line.n_shot}, P = {points(line.n_points)}, query {entry['query']}"
        after = f" after {_clicks(entry['clicks'])}" if entry.get("clicks") else ""
        caption = f"{entry['kind']}: {entry['class_name']}, IoU {entry['iou']:.3f}{after} ({where})"
        if path.is_file():
            found.append(Picture(line.config, entry["kind"], path, entry["iou"], caption))
    return found


def _clicks(count: int) -> str:
    return "1 click" if count == 1 else f"{count} clicks"


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    caption = _text(picture.caption)
    source = f"data:image/png;base64,{data}"
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>\n'


def _regenerate(out: Path) -> str:
    folder = out
    if out.is_absolute():  # the page travels: say the folder as seen from where the command runs
        folder = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else Path(out.name)
    where = shlex.quote(folder.as_posix())
    source = out / "benchmark.yaml"
    commands, details = [f"fewseg report {where}"], ""
    if source.is_file():
        config = shlex.quote((folder / "benchmark.yaml").as_posix())
        commands.insert(0, f"fewseg benchmark {config} --out {where}")
        listing = _text(source.read_text(encoding="utf-8"))
        details = f"<details><summary>benchmark.yaml</summary><pre>{listing}</pre></details>\n"
    return f"<h2>How to regenerate</h2>\n<pre>{_text(chr(10).join(commands))}</pre>\n{details}"
