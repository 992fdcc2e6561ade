"""Writes ``report.html``: headline, leaderboard, plots, learning curves and pictures in one self-contained file."""

from __future__ import annotations

import csv
import html
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
    accuracy_against_time,
    against_clicks,
    against_points,
    against_seconds,
    against_shots,
    annotation_surfaces,
    embed,
    forest,
    guidance_spread,
    learning_curves,
    per_class,
    positive_against_points,
    setting_of,
    shot,
    styles,
)
from fewseg.report.instances import (
    KINDS,
    Gap,
    against_clutter,
    asked,
    base_and_novel,
    confusions,
    deviation,
    gaps,
)
from fewseg.report.pictures import pictures
from fewseg.results import (
    CLICKED,
    FIGURES,
    Comparison,
    Line,
    amount,
    collect,
    compared_in_words,
    comparison_cells,
    comparisons,
    explained,
    figure_text,
    leaderboard,
    of_instances,
    of_videos,
    points,
    reference_of,
    training_notes,
    write_text,
)

# nothing may be fetched, whatever a name or a picture holds
_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


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
    fallen = gaps(lines)
    sections.append(_gaps(fallen, style))
    plots = _plots(lines, rows, style, out)
    sections += [plots, pictures(lines, style, out), _regenerate(out)]
    files = resources.files("fewseg.report")
    css, js = ((files / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    plotly = f"<script>{get_plotlyjs()}</script>\n" if plots or compared or fallen else ""
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
    videos, counts = of_videos(lines), sorted({line.n_points for line in lines}, key=amount)
    per_run = f", {_span(episodes)} {'videos' if videos else 'episodes'} each" if episodes else ""
    facts = {
        "Compared": _listed(line.config if line.config == line.method else _who(line) for line in lines),
        "Data set": _listed(line.dataset for line in lines),
        "Task": _listed(line.task for line in lines),
        "Protocol": _listed(line.protocol for line in lines),
        "Folds": _listed(sorted({run["fold"] for run in runs})),
        "Annotation": f"K = {_listed(sorted({line.n_shot for line in lines}))} {shot(lines)}s"
        + ("" if of_instances(lines) else f", P = {_listed(points(p) for p in counts)} pixels"),
        "Runs": f"{len(runs)}{per_run}, seeds {_listed(sorted({run['seed'] for run in runs}))}",
        "Training": "; ".join(_text(note) for note in training_notes(runs)),
        "Device": _listed(run["device"] for run in runs if "device" in run),
        "Versions": _listed(f"{name} {version}" for name, version in versions),
    }
    notices = _notices(lines)
    if _lists_differ(runs):
        notices.append("methods were scored on different episode lists; compare only equal lists")
    warned = "".join(f'<p class="notice"><strong>Read with care:</strong> {_text(n)}.</p>\n' for n in notices)
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in facts.items() if value)
    return f"<h1>{_heading(lines)}</h1>\n{_best(lines)}{warned}<dl>\n{listed}</dl>\n"


def _notices(lines: Sequence[Line]) -> list[str]:
    """Notes of lines, each with the configurations that it holds for where it does not hold for all."""
    configs: dict[str, dict[str, None]] = {}
    for line in lines:
        if line.note:
            configs.setdefault(line.note, {})[line.config] = None
    everyone = {line.config for line in lines}
    return [note if names.keys() == everyone else f"{note} ({', '.join(names)})" for note, names in configs.items()]


def _best(lines: Sequence[Line]) -> str:
    """The winner at the densest setting, where there is one setting group to speak of; of videos, with its costs."""
    scored = [line for line in lines if _accuracy(line) is not None]
    if of_instances(scored):  # what a benchmark of instances is about, also where it tests base classes beside them
        scored = [line for line in scored if asked(line) == "novel"] or scored
    if not scored or len({(line.dataset, line.task, line.protocol) for line in scored}) > 1:
        return ""
    top = max((amount(line.n_points), line.n_shot) for line in scored)
    best = max((x for x in scored if (amount(x.n_points), x.n_shot) == top), key=lambda line: _accuracy(line) or 0.0)
    if of_videos([best]) and "jf_mean" in best.figures:
        told = _video_in_words(best)
    elif of_instances([best]):
        told = _instances_in_words(best)
    else:
        interval = "" if best.ci95 is None else f" (95 % interval {best.ci95[0]:.3f} to {best.ci95[1]:.3f})"
        told = f"mIoU {_accuracy(best) or 0.0:.3f}{interval}"
    return f"<p>Best at {setting_of(best)}: <strong>{_text(best.config)}</strong>, {told}.</p>\n"


def _video_in_words(line: Line) -> str:
    """Accuracy and costs: J&F with J and F, seconds of a video and what they go to."""
    figures = line.figures
    parts = [f"{FIGURES[name]} {figures[name]:.3f}" for name in ("j_mean", "f_mean") if name in figures]
    parts += [] if line.jf_ci95 is None else [f"95 % interval {line.jf_ci95[0]:.3f} to {line.jf_ci95[1]:.3f}"]
    told = f"{FIGURES['jf_mean']} {figures['jf_mean']:.3f}" + (f" ({', '.join(parts)})" if parts else "")
    if "seconds_per_episode" in figures:
        told += f". It takes {figures['seconds_per_episode']:.3g} s per video"
        costs = {
            "seconds_guide_per_video": "{} of them for the guidance",
            "seconds_per_frame": "{} per frame without it",
        }
        spent = [words.format(f"{figures[name]:.2g} s") for name, words in costs.items() if name in figures]
        told += f", {' and '.join(spent)}" if spent else ""
    return _text(told)


def _instances_in_words(line: Line) -> str:
    """AP50 of boxes and of masks with their intervals."""
    parts = []
    for name, kind in KINDS.items():
        interval = getattr(line, f"{name}_ci95")
        between = "" if interval is None else f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        parts.append(f"{line.figures[name]:.3f} of {kind}{between}")
    classes = {"novel": " on novel classes", "base": " on base classes", "all": " on all classes"}.get(asked(line), "")
    return f"AP50{classes} {' and '.join(parts)}"


def _accuracy(line: Line) -> float | None:
    """What lines are ranked by: J&F of videos, AP50 of boxes where instances are asked for, else mIoU."""
    if of_instances([line]):
        return line.figures.get("ap50_boxes")
    return line.figures.get("jf_mean", line.miou) if of_videos([line]) else line.miou


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
    # videos have one class and one fold: their mIoU is positive IU
    videos, searched = of_videos(lines), of_instances(lines)
    folds = [] if videos else sorted({fold for line in lines for fold in line.folds})
    folds = [] if searched and len(folds) < 2 else folds
    extra = [name for name in FIGURES if any(name in line.figures for line in lines)]
    wide = [n for n in ("dataset", "task", "protocol") if len({getattr(line, n) for line in lines}) > 1]
    of_line = [(x.ap50_boxes_ci95, x.ap50_ci95) if searched else (x.jf_ci95 if videos else x.ci95,) for x in lines]
    intervals = [ci95 for several in of_line for ci95 in several if ci95]
    scale = min((low for low, _ in intervals), default=0.0), max((high for _, high in intervals), default=1.0)

    def setting(line: Line) -> tuple[Any, ...]:
        return line.dataset, line.task, line.protocol, line.n_shot, amount(line.n_points)

    best: dict[tuple[Any, ...], float] = {}
    for line in lines:
        best[setting(line)] = max(best.get(setting(line), 0.0), _accuracy(line) or 0.0)
    body = []
    for line in sorted(lines, key=lambda line: (*setting(line), -(_accuracy(line) or 0.0), line.config)):
        swatch = f'<span class="swatch" style="background:{style[line.config].colour}"></span>'
        ranked = "J&F" if of_videos([line]) and "jf_mean" in line.figures else "mIoU"
        ranked = FIGURES["ap50_boxes"] if of_instances([line]) else ranked
        is_best = _accuracy(line) is not None and _accuracy(line) == best[setting(line)]
        figures = {FIGURES[name]: _figure_cell(name, line.figures.get(name)) for name in extra}
        positive, colour = _number(line.figures.get("positive_iou")), style[line.config].colour
        if videos:  # what lines are ranked by stands first, then what it costs
            accuracy = {
                "J&F": figures.pop("J&F", _Cell("")),
                "95 % interval": _interval(line.figures.get("jf_mean"), line.jf_ci95, scale, colour),
                **{name: figures.pop(name, _Cell("")) for name in ("J", "F")},
                "positive IU": positive,
            }
            figures = dict(sorted(figures.items(), key=lambda item: not item[0].startswith("s/")))
        elif searched:
            accuracy = _instance_cells(line, figures, scale, colour)
        else:
            accuracy = {
                "mIoU": _number(line.miou),
                "95 % interval": _interval(line.miou, line.ci95, scale, colour),
                "FB-IoU": _number(line.figures.get("fb_iou")),
                "positive IU": positive,
            }
        row = {
            "method": _Cell(
                swatch + _text(line.config if line.config == line.method else _who(line)), line.config, "text"
            ),
            **{name: _Cell(_text(getattr(line, name)), getattr(line, name), "text") for name in wide},
            "K": _Cell(str(line.n_shot), line.n_shot),
            "P": _Cell("")
            if searched
            else _Cell(points(line.n_points), 1e9 if line.n_points is None else line.n_points),
            **{f"fold {fold}": _fold_cell(line, fold) for fold in folds},
            **accuracy,
            **figures,
            "s/episode": _figure_cell("seconds_per_episode", line.figures.get("seconds_per_episode")),
            "parameters": _millions(line.runs[0].get("n_parameters")),
            "trained": _millions(line.runs[0].get("n_trained_parameters")),
            ("videos" if videos else "episodes"): _Cell(str(line.n_episodes), line.n_episodes),
            "note": _Cell(_text(line.note), line.note, "text"),
        }
        if is_best and ranked in row:
            row[ranked] = row[ranked]._replace(kind="best")
        if "s/video" in row:  # an episode is a video
            del row["s/episode"]
        body.append(row)
    shown = [name for name in body[0] if any(row[name].content for row in body)]
    kinds = {name: body[0][name].kind if body[0][name].kind == "text" else "" for name in shown}
    heads = "".join(f'<th class="{kinds[n]}" scope="col"><button type="button">{_text(n)}</button></th>' for n in shown)
    cells = "".join("<tr>" + "".join(_td(row[name]) for name in shown) + "</tr>\n" for row in body)
    clicked = f" {_text(' '.join(CLICKED.split()))}" if any(line.clicks for line in lines) else ""
    told = _text(" ".join(" ".join(explained(lines)).split())) if videos or searched else _IMAGES
    return (
        "<h2>Leaderboard</h2>\n"
        f'<p class="quiet">{told} Bold: best of its setting. A click on a head '
        f"sorts.{clicked}</p>\n"
        f'<div class="scroll"><table class="sortable">\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{cells}</tbody>\n</table></div>\n"
    )


_IMAGES = (
    "mIoU: intersection over union per class, summed over all its episodes; mean over the classes of a fold, then over "
    "seeds and folds. The interval resamples query images, with all their episodes, 1000 times; it does not hold the "
    "variation of training. K: annotated images; P: annotated pixels per label and image."
)


def _instance_cells(line: Line, figures: dict[str, _Cell], scale: tuple[float, float], colour: str) -> dict[str, _Cell]:
    """AP50 of boxes and of masks, each with its interval and its deviation over lists of references, then the rest."""
    row = {}
    for name, kind in KINDS.items():
        head = FIGURES[name]
        row[head] = figures.pop(head, _Cell(""))
        row[f"95 % of {kind}"] = _interval(line.figures.get(name), getattr(line, f"{name}_ci95"), scale, colour)
        row[f"std of {kind}"] = _number(deviation(line, name))
    return (
        row | {head: figures.pop(head, _Cell("")) for head in ("AP boxes", "AP masks")} | {"mIoU": _number(line.miou)}
    )


def _fold_cell(line: Line, fold: int) -> _Cell:
    """The mIoU of one fold, mean over seeds; AP50 of boxes and masks where instances are asked for."""
    if not of_instances([line]):
        return _number(line.folds.get(fold))
    own = [run for run in line.runs if run["fold"] == fold and all(name in run for name in KINDS)]
    means = [sum(run[name] for run in own) / len(own) for name in KINDS] if own else []
    return _Cell(" / ".join(f"{mean:.3f}" for mean in means), means[0] if means else "")


def _td(cell: _Cell) -> str:
    return f'<td class="{cell.kind}" data-sort="{_text(cell.sort)}">{cell.content}</td>'


def _number(value: float | None) -> _Cell:
    return _Cell("") if value is None else _Cell(f"{value:.3f}", value)


def _figure_cell(name: str, value: float | None) -> _Cell:
    return _Cell("") if value is None else _Cell(figure_text(name, value), value)


def _millions(count: int | None) -> _Cell:
    return _Cell("") if count is None else _Cell(f"{count / 1e6:.2f} M" if count else "0", count)


def _interval(value: float | None, ci95: tuple[float, float] | None, scale: tuple[float, float], colour: str) -> _Cell:
    """The interval as a bar on a scale that all lines share, and as text."""
    if ci95 is None or value is None:
        return _Cell("")
    start, width = scale[0], max(scale[1] - scale[0], 1e-9)
    low, high, centre = (round(80 * (at - start) / width, 1) for at in (*ci95, value))
    return _Cell(
        '<svg width="88" height="12" viewBox="-4 0 88 12" aria-hidden="true">'
        '<path d="M0 6H80" stroke="#d5d9de"/>'
        f'<path d="M{low} 6H{high}" stroke="{colour}" stroke-width="6"/>'
        f'<path d="M{centre} 1V11" stroke="#1c2128" stroke-width="1.5"/></svg>{ci95[0]:.3f} to {ci95[1]:.3f}',
        ci95[0],
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
        by_value: dict[str, object] = {"P": 1e9 if one.n_points is None else one.n_points}
        ends = {"": one.ci95, " of IU": one.ci95, " of J": one.j_ci95}
        ends |= {" of boxes": one.ap50_boxes_ci95, " of masks": one.ap50_ci95}
        by_value |= {f"95 % paired interval{of}": "" if ci95 is None else ci95[0] for of, ci95 in ends.items()}
        cells = []
        for head, content in zip(heads, line, strict=True):
            mark = style[one.config].colour if head == "config" else ""
            swatch = f'<span class="swatch" style="background:{mark}"></span>' if mark else ""
            cells.append(_td(_Cell(swatch + _text(content), by_value.get(head, content), kinds.get(head, ""))))
        rows.append("<tr>" + "".join(cells) + "</tr>\n")
    references = ", ".join(dict.fromkeys(one.reference for one in compared))
    told = _text(" ".join(compared_in_words(compared).split()))
    return (
        f"<h2>Compared with {_text(references)}</h2>\n"
        f'<p class="quiet">{told} Hollow marks: not separated.</p>\n{"".join(parts)}'
        f'<div class="scroll"><table class="sortable">\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody>\n</table></div>\n"
    )


def _gaps(found: Sequence[Gap], style: dict[str, Style]) -> str:
    """Base classes against novel ones: a plot and a table."""
    if not found:
        return ""
    parts = []
    for i, (caption, drawn) in enumerate(base_and_novel(found, style)):
        plot = embed(drawn, f"gap-{i}")
        parts.append(f"<figure><figcaption>{_text(caption)}</figcaption>{plot}</figure>\n")
    several = len({one.dataset for one in found}) > 1
    heads = [*(["dataset"] * several), "method", "K", "folds"]
    heads += [f"{what} {kind}" for kind in KINDS.values() for what in ("base,", "novel,", "gap,")]
    body = []
    for one in found:
        swatch = f'<span class="swatch" style="background:{style[one.config].colour}"></span>'
        cells = [_Cell(_text(one.dataset), one.dataset, "text")] * several
        cells += [_Cell(swatch + _text(one.config), one.config, "text"), _Cell(str(one.n_shot), one.n_shot)]
        cells.append(_Cell(_listed(one.folds), len(one.folds)))
        for kind in KINDS.values():
            cells += [_number(value) for value in (one.base[kind].ap50, one.novel[kind].ap50)]
            cells.append(_Cell(f"{one.gap(kind):+.3f}", one.gap(kind)))
        body.append("<tr>" + "".join(map(_td, cells)) + "</tr>\n")
    top = "".join(
        f'<th class="{"text" if head in ("dataset", "method") else ""}" scope="col">'
        f'<button type="button">{_text(head)}</button></th>'
        for head in heads
    )
    return (
        "<h2>Base classes against novel classes</h2>\n"
        '<p class="quiet">AP50 of the same trainings on classes that trained (base, pale) and on classes that did not '
        "(novel); gap: base minus novel. The two ask for other objects, in partly the same images.</p>\n"
        f'{"".join(parts)}<div class="scroll"><table class="sortable">\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{''.join(body)}</tbody>\n</table></div>\n"
    )


_TEXT = {
    "dataset",
    "task",
    "protocol",
    "config",
    "against",
    "seen",
    "J seen",
    "IU seen",
    "boxes seen",
    "masks seen",
    "note",
}  # heads of columns that sort by letters


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
            *(("Videos: accuracy against time", drawn) for drawn in accuracy_against_time(members, style)),
            *(("Videos: accuracy against annotation", drawn) for drawn in annotation_surfaces(members, style)),
            ("Accuracy against annotated pixels", against_points(members, style)),
            (
                f"Accuracy against {'references' if of_instances(members) else f'annotated {shot(members)}s'}",
                against_shots(members, style),
            ),
            ("Instances: accuracy against clutter", against_clutter(members, style)),
            *(("Instances: what is found instead", drawn) for drawn in confusions(members, out)),
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
        explained = next((words for start, words in _EXPLAINED.items() if title.startswith(start)), "")
        told = f'<p class="quiet">{explained}</p>\n' if explained else ""
        head = f"<h2>{_text(title)}</h2>\n{told}" if not i or title != found[i - 1][0] else ""
        parts.append(f"{head}<figure><figcaption>{_text(caption)}</figcaption>{plot}</figure>\n")
    return "".join(parts)


_EXPLAINED = {  # of titles that begin so
    "How much the guidance": (
        "Within: how far z differs among supports of one class. Between: how far the means of classes lie apart. Where "
        "both are tiny, z is nearly one constant and the support hardly says what to segment. Where only the first is "
        "tiny, the supports of a class are interchangeable, and more annotation hardly moves the answer."
    ),
    "Instances: accuracy against clutter": (
        "AP50 over the images that show so many objects, of any class and crowds left out; mean over classes, lists of "
        "references, seeds and folds."
    ),
    "Instances: what is found instead": (
        "Of the method with the highest AP50 of boxes. Row i, column j: AP50 of boxes that are found for references of "
        "class i, counted as if they had been asked for class j, over the images that show class i. Classes that were "
        "asked for come first: their own AP50 is on the diagonal, and all else would be 0 without mistakes. White: "
        "no such image shows the other class. Column sums: what is found most, asked for or not."
    ),
    "Videos: accuracy against time": (
        "Higher and further left is better. A line joins evaluations of one training that differ at test time, such as "
        "numbers of updates."
    ),
    "Videos: accuracy against annotation": (
        "How positive IU grows with annotated frames (S) and annotated points per label and frame (P). All methods "
        "have the same scales."
    ),
}


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
