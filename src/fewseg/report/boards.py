"""The tables of a report: leaderboard, folds, classes, comparisons, and base classes against novel ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from fewseg.report.cells import (
    GREY,
    Cell,
    Section,
    annotated_points,
    escaped,
    given,
    listed,
    number,
    row,
    swatch,
    table,
)
from fewseg.report.figures import (
    Style,
    by_fold,
    class_scores,
    embed,
    forest,
    leaders,
    placed,
    shared_setting,
)
from fewseg.report.instances import KINDS, Gap, base_and_novel, deviation
from fewseg.results import (
    FIGURES,
    Board,
    Comparison,
    Line,
    amount,
    compared_in_words,
    comparison_cells,
    explained,
    figure_text,
    of_instances,
    of_videos,
    points,
    ties,
)


def who(line: Line) -> str:
    """A configuration, with the method's class in brackets where that has another name."""
    return line.config if line.config == line.method else f"{line.config} ({line.method})"


_FILTERED = {"dataset": "data set", "task": "task", "protocol": "protocol", "n_shot": "K", "n_points": "P"}
_ATTRIBUTES = {"n_shot": "k", "n_points": "p"}  # names of data attributes, where they differ


def filter_bar(lines: Sequence[Line]) -> str:
    """One choice for each part of a setting that has several values; empty where none has. It needs the script."""
    parts = []
    for name, label in _FILTERED.items():
        values = {getattr(line, name) for line in lines}
        if len(values) > 1:
            told = [points(value) for value in sorted(values, key=amount)] if name == "n_points" else sorted(values)
            options = "".join(f'<option value="{escaped(v)}">{escaped(v)}</option>' for v in told)
            parts.append(
                f'<label>{label} <select name="{_ATTRIBUTES.get(name, name)}"><option value="">all</option>{options}'
                "</select></label>"
            )
    if not parts:
        return ""
    return f'<form class="filter" hidden><b>Show</b> {" ".join(parts)} <output aria-live="polite"></output></form>\n'


def leaderboard_section(board: Board, style: Mapping[str, Style]) -> Section:
    """All lines, the best of each setting first, and trivial answers behind those of their data set and protocol."""
    lines = board.lines
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
        amounts = line.given if line.trivial else (line.n_shot, amount(line.n_points))
        return line.dataset, line.task, line.protocol, line.trivial, *amounts

    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(setting(line), []).append(line)
    best = {id(line) for several in groups.values() for line in leaders(several)}
    ordered = [*lines, *board.trivial]
    ordered.sort(key=lambda line: (*setting(line), -(placed(line).value or 0.0), line.config))
    body = []
    for line in ordered:
        score, colour = placed(line), _colour(line, style)
        figures = {FIGURES[name]: _figure_cell(name, line.figures.get(name)) for name in extra}
        positive = number(line.figures.get("positive_iou"))
        of_ranks = _rank_cells(line)
        if videos:  # what lines are ranked by stands first, then what it costs
            accuracy = {
                "J&F": figures.pop("J&F", Cell("")),
                "95 % interval": _interval(line.figures.get("jf_mean"), line.jf_ci95, scale, colour),
                **{name: figures.pop(name, Cell("")) for name in ("J", "F")},
                **of_ranks,
                "positive IU": positive,
            }
            figures = dict(sorted(figures.items(), key=lambda item: not item[0].startswith("s/")))
        elif searched:
            accuracy = _instance_cells(line, figures, scale, colour)
        else:
            accuracy = {
                "mIoU": number(line.miou),
                "95 % interval": _interval(line.miou, line.ci95, scale, colour),
                **of_ranks,
                "FB-IoU": number(line.figures.get("fb_iou")),
                "positive IU": positive,
            }
        first = line.runs[0] if line.runs else {}
        cells = {
            "method": Cell(swatch(colour) + escaped(line.config if line.trivial else who(line)), line.config, "text"),
            **{name: Cell(escaped(getattr(line, name)), getattr(line, name), "text") for name in wide},
            "K": given(line)[0],
            "P": Cell("") if searched else given(line)[1],
            **{f"fold {fold}": _fold_cell(line, fold) for fold in folds},
            **accuracy,
            **figures,
            "s/episode": _figure_cell("seconds_per_episode", line.figures.get("seconds_per_episode")),
            "parameters": _millions(first.get("n_parameters")),
            "trained": _millions(first.get("n_trained_parameters")),
            ("videos" if videos else "episodes"): Cell(str(line.n_episodes), line.n_episodes),
            "note": Cell(escaped(line.note), line.note, "text"),
        }
        if id(line) in best and score.name in cells:
            cells[score.name] = cells[score.name]._replace(kind="best")
        if "s/video" in cells:  # an episode is a video
            del cells["s/episode"]
        body.append(cells)
    shown = [name for name in body[0] if any(cells[name].content for cells in body)]
    rows = [
        row((cells[name] for name in shown), line, "trivial" if line.trivial else "")
        for line, cells in zip(ordered, body, strict=True)
    ]
    told = escaped(" ".join(" ".join(explained(ordered)).split()))
    about = f"<details><summary>What the columns mean</summary>\n<p>{told}</p></details>\n"
    grey = " Grey: what answers without a method would score." if board.trivial else ""
    tied = " and what cannot be told from it" if any(line.rank for line in lines) else ""
    by = " by J" if videos else ""
    short = f'<p class="quiet">Bold: best of its setting{by}{tied}.{grey} A click on a head sorts.</p>\n'
    made = table(shown, rows, {name for name in shown if body[0][name].kind == "text"}, "Leaderboard")
    return Section("Leaderboard", short + filter_bar(lines) + made + about)


def _colour(line: Line, style: Mapping[str, Style]) -> str:
    return GREY if line.trivial or line.config not in style else style[line.config].colour


def _rank_cells(line: Line) -> dict[str, Cell]:
    """The ranks that a line may have in its setting, and the letter of those that cannot be told from the best one."""
    if line.rank is None:
        return {"rank": Cell(""), "ties": Cell("", "", "text")}
    low, high, group = line.rank
    between = str(low) if low == high else f"{low} to {high}"
    letter = ties(group)
    return {"rank": Cell(between, low + high / 1000), "ties": Cell(letter, letter, "text")}


def _instance_cells(line: Line, figures: dict[str, Cell], scale: tuple[float, float], colour: str) -> dict[str, Cell]:
    """AP50 of boxes and of masks, each with its interval and its deviation over lists of references, then the rest."""
    row = {}
    for name, kind in KINDS.items():
        head = FIGURES[name]
        row[head] = figures.pop(head, Cell(""))
        row[f"95 % of {kind}"] = _interval(line.figures.get(name), getattr(line, f"{name}_ci95"), scale, colour)
        row[f"std of {kind}"] = number(deviation(line, name))
        row |= _rank_cells(line) if kind == "boxes" else {}
    return row | {head: figures.pop(head, Cell("")) for head in ("AP boxes", "AP masks")} | {"mIoU": number(line.miou)}


def _fold_cell(line: Line, fold: int) -> Cell:
    """The mIoU of one fold, mean over seeds; AP50 of boxes and masks where instances are asked for."""
    if not of_instances([line]):
        return number(line.folds.get(fold))
    own = [run for run in line.runs if run["fold"] == fold and all(name in run for name in KINDS)]
    means = [sum(run[name] for run in own) / len(own) for name in KINDS] if own else []
    return Cell(" / ".join(f"{mean:.3f}" for mean in means), means[0] if means else "")


def _figure_cell(name: str, value: float | None) -> Cell:
    return Cell("") if value is None else Cell(figure_text(name, value), value)


def _millions(count: int | None) -> Cell:
    return Cell("") if count is None else Cell(f"{count / 1e6:.2f} M" if count else "0", count)


def _interval(value: float | None, ci95: tuple[float, float] | None, scale: tuple[float, float], colour: str) -> Cell:
    """The interval as a bar on a scale that all lines share, and as text."""
    if ci95 is None or value is None:
        return Cell("")
    start, width = scale[0], max(scale[1] - scale[0], 1e-9)
    low, high, centre = (round(80 * (at - start) / width, 1) for at in (*ci95, value))
    return Cell(
        '<svg width="88" height="12" viewBox="-4 0 88 12" aria-hidden="true">'
        '<path d="M0 6H80" stroke="#d5d9de"/>'
        f'<path d="M{low} 6H{high}" stroke="{colour}" stroke-width="6"/>'
        f'<path d="M{centre} 1V11" stroke="#1c2128" stroke-width="1.5"/></svg>{ci95[0]:.3f} to {ci95[1]:.3f}',
        ci95[0],
    )


def fold_table(lines: Sequence[Line], style: Mapping[str, Style], where: str = "") -> str:
    """Every line by fold, with the intervals of single runs and the standard deviation over folds.

    Args:
        lines: of one data set, task and protocol, with its trivial answers.
        style: of every configuration.
        where: the data set, task and protocol, where there are several.
    """
    folds = sorted({fold for line in lines for fold in by_fold(line)})
    rows = []
    for line in lines:
        own = by_fold(line)
        if line.trivial and not own:
            continue
        cells = [Cell(swatch(_colour(line, style)) + escaped(line.config), line.config, "text")]
        cells += given(line)
        for fold in folds:
            score = own.get(fold)
            between = "" if score is None or score.ci95 is None else " ({:.3f} to {:.3f})".format(*score.ci95)
            plain = number(score.value if score else None)
            cells.append(plain._replace(content=plain.content + f'<span class="quiet">{between}</span>'))
        values = [score.value for score in own.values() if score.value is not None]
        mean = sum(values) / len(values) if values else None
        spread = None
        if mean is not None and len(values) > 1:
            spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        rows.append(row([*cells, number(mean), number(spread)], line, "trivial" if line.trivial else ""))
    heads = ["method", "K", "P", *(f"fold {fold}" for fold in folds), "mean", "std over folds"]
    return _folded(f"All settings as a table{where}", table(heads, rows, {"method"}, "Accuracy by fold"))


def class_table(lines: Sequence[Line], style: Mapping[str, Style], where: str = "") -> str:
    """Every class by configuration at the setting of the plot above it, the higher the darker; arguments as above."""
    scored = [line for line in lines if class_scores(line)]
    chosen = shared_setting([line for line in scored if not line.trivial])
    told = (str(chosen[0]), points(chosen[1]))
    shown = [line for line in scored if not line.trivial and (line.n_shot, line.n_points) == chosen]
    for line in (line for line in scored if line.trivial):
        if all(not several or one in several.split(", ") for several, one in zip(line.given, told, strict=True)):
            shown.append(line)
    rows = []
    for name in dict.fromkeys(name for line in shown for name in class_scores(line)):
        cells = [Cell(escaped(name), name, "text")]
        for line in shown:
            plain = number(class_scores(line).get(name))
            share = round(55 * min(max(float(str(plain.sort or 0)), 0.0), 1.0))
            shade = f'<span class="heat" style="--share:{share}%">{plain.content}</span>'
            cells.append(plain._replace(content=shade if plain.content else ""))
        rows.append(row(cells))
    heads = ["class", *(line.config for line in shown)]
    return _folded(f"The same as a table{where}", table(heads, rows, {"class"}, "Accuracy by class"))


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escaped(title)}</summary>\n{body}</details>\n"


def comparison_section(compared: Sequence[Comparison], style: Mapping[str, Style]) -> Section | None:
    """Every configuration against the reference: a forest plot at the ends of the settings, and all as a table."""
    if not compared:
        return None
    parts = []
    groups = groupby(compared, lambda one: (one.dataset, one.task, one.protocol))  # they come sorted
    several = len({(one.dataset, one.task, one.protocol) for one in compared}) > 1
    for i, (names, members) in enumerate(groups):
        where = f" ({', '.join(names)})" if several else ""
        shown = [one for one in members if one.reference == compared[0].reference]
        for j, (caption, drawn) in enumerate(forest(shown, style)):
            parts.append(figure(caption + where, embed(drawn, f"compared-{i}-{j}"), names if several else ()))
    heads, body = comparison_cells(compared)
    rows = []
    for one, line in zip(compared, body, strict=True):
        by_value: dict[str, object] = {"P": annotated_points(one).sort}
        ends = {"": one.ci95, " of IU": one.ci95, " of J": one.j_ci95}
        ends |= {" of boxes": one.ap50_boxes_ci95, " of masks": one.ap50_ci95}
        by_value |= {f"95 % paired interval{of}": "" if ci95 is None else ci95[0] for of, ci95 in ends.items()}
        cells = []
        for head, content in zip(heads, line, strict=True):
            mark = swatch(style[one.config].colour) if head == "config" else ""
            cells.append(Cell(mark + escaped(content), by_value.get(head, content), "text" if head in _TEXT else ""))
        rows.append(row(cells, one))
    references = list(dict.fromkeys(one.reference for one in compared))
    told = escaped(" ".join(compared_in_words(compared).split()))
    title = f"Compared with {references[0]}" + (" and others" if len(references) > 1 else "")
    about = f'<p class="quiet">{told} Hollow marks: not separated.</p>\n'
    return Section(title, about + "".join(parts) + table(heads, rows, _TEXT, title))


def figure(caption: str, plot: str, names: Sequence[str] = ()) -> str:
    """A plot with its caption; ``names``: its data set, task and protocol, where the filter chooses among several."""
    marks = "".join(
        f' data-{key}="{escaped(v)}"' for key, v in zip(("dataset", "task", "protocol"), names, strict=False)
    )
    css = ' class="setting"' if names else ""
    return f"<figure{css}{marks}><figcaption>{escaped(caption)}</figcaption>{plot}</figure>\n"


def gap_section(found: Sequence[Gap], style: Mapping[str, Style]) -> Section | None:
    """Base classes against novel ones: a plot and a table."""
    if not found:
        return None
    parts = [
        figure(caption, embed(drawn, f"gap-{i}")) for i, (caption, drawn) in enumerate(base_and_novel(found, style))
    ]
    several = len({one.dataset for one in found}) > 1
    heads = [*(["dataset"] * several), "method", "K", "folds"]
    heads += [f"{what} {kind}" for kind in KINDS.values() for what in ("base,", "novel,", "gap,")]
    rows = []
    for one in found:
        cells = [Cell(escaped(one.dataset), one.dataset, "text")] * several
        cells.append(Cell(swatch(style[one.config].colour) + escaped(one.config), one.config, "text"))
        cells += [Cell(str(one.n_shot), one.n_shot), Cell(listed(one.folds), len(one.folds))]
        for kind in KINDS.values():
            cells += [number(value) for value in (one.base[kind].ap50, one.novel[kind].ap50)]
            cells.append(Cell(f"{one.gap(kind):+.3f}", one.gap(kind)))
        rows.append(row(cells))
    about = (
        '<p class="quiet">AP50 of the same trainings on classes that trained (base, pale) and on classes that did not '
        "(novel); gap: base minus novel. The two ask for other objects, in partly the same images.</p>\n"
    )
    title = "Base classes against novel classes"
    return Section(title, about + "".join(parts) + table(heads, rows, {"dataset", "method"}, title))


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
