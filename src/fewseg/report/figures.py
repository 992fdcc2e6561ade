"""The plots of a report: leaderboard lines and learning curves in, plotly figures out."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fewseg.results import FIGURES, Comparison, Line, amount, main_figure, of_instances, of_videos, points

# Okabe and Ito's palette without its yellow, which is too light for lines on white
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("solid", "dash", "dot")
_SYMBOLS = ("circle", "square", "diamond")
_PATTERNS = ("", "/", "x")
_SMALLEST = 1e-8  # a share of 0 has no place on a logarithmic axis


class Style(NamedTuple):
    """How one configuration looks everywhere; colours that come round again get another dash, symbol and pattern."""

    colour: str
    dash: str
    symbol: str
    pattern: str


class Curve(NamedTuple):
    """One training: (step, value) pairs and who it belongs to."""

    config: str
    label: str
    steps: list[float]
    values: list[float]


def styles(configs: Sequence[str]) -> dict[str, Style]:
    """One style per configuration, the same for every plot.

    >>> styles(["guided", "panet"])["panet"].colour
    '#D55E00'
    """
    turns = {config: divmod(i, len(_COLOURS)) for i, config in enumerate(dict.fromkeys(configs))}
    return {
        c: Style(_COLOURS[i], _DASHES[turn % 3], _SYMBOLS[turn % 3], _PATTERNS[turn % 3])
        for c, (turn, i) in turns.items()
    }


def against_points(lines: Sequence[Line], style: Mapping[str, Style]) -> tuple[str, go.Figure] | None:
    """Accuracy against P at the K with most P; None where no configuration has two."""
    return _against(lines, style, "n_points", "n_shot", f"annotated pixels per label and {shot(lines)} (P)", "K")


def against_shots(lines: Sequence[Line], style: Mapping[str, Style]) -> tuple[str, go.Figure] | None:
    """Accuracy against K at the P with most K; None where no configuration has two."""
    title = "references (K)" if of_instances(lines) else f"annotated {shot(lines)}s (K)"
    return _against(lines, style, "n_shot", "n_points", title, "P")


def single_class(lines: Sequence[Line]) -> bool:
    """Whether one class alone was scored, so that mIoU is its IoU and nothing can be told per class."""
    return len({name for line in lines for name in line.per_class_iou}) == 1


def shot(lines: Sequence[Line]) -> str:
    """What K counts, in words."""
    return "frame" if of_videos(lines) else "reference" if of_instances(lines) else "image"


def setting_of(one: Line | Comparison) -> str:
    """K and P as captions say them; references have no points."""
    return f"K = {one.n_shot}" + ("" if of_instances([one]) else f", P = {points(one.n_points)}")


class Score(NamedTuple):
    """An accuracy: its name, its value, and its interval where there is one."""

    name: str
    value: float | None
    ci95: tuple[float, float] | None


def ranked(line: Line) -> Score:
    """What a line is ranked by: J&F of videos, AP50 of boxes where instances are asked for, else mIoU."""
    if of_instances([line]):
        return Score(FIGURES["ap50_boxes"], line.figures.get("ap50_boxes"), line.ap50_boxes_ci95)
    if of_videos([line]) and "jf_mean" in line.figures:
        return Score(FIGURES["jf_mean"], line.figures["jf_mean"], line.jf_ci95)
    return Score("mIoU", line.miou, line.ci95)


def placed(line: Line) -> Score:
    """What ranks and ties go by, and so the order of the leaderboard: as ``ranked``, but J of videos."""
    name = main_figure(line.task)
    if name == "j_mean" and name in line.figures:
        return Score(FIGURES[name], line.figures[name], None)
    return ranked(line)


def leaders(lines: Sequence[Line]) -> list[Line]:
    """The best line of one setting and all that cannot be told from it, by ``placed``; the best one first.

    Where methods were ranked together these are the first group of ties. Else it is the line with the highest figure.

    Args:
        lines: of one data set, task, protocol, K and P, none of them trivial.
    """
    known = [line for line in lines if placed(line).value is not None]
    known.sort(key=lambda line: -(placed(line).value or 0.0))
    if any(line.rank for line in known):
        return [line for line in known if line.rank and line.rank.group == 1]
    return [line for line in known if placed(line).value == placed(known[0]).value]


def _accuracy(line: Line) -> tuple[float | None, tuple[float, float] | None]:
    """What methods are compared by, with its interval: AP50 of boxes where instances are asked for, else mIoU."""
    if of_instances([line]):
        return line.figures.get("ap50_boxes"), line.ap50_boxes_ci95
    return line.miou, line.ci95


def _against(
    lines: Sequence[Line], style: Mapping[str, Style], along: str, fixed: str, title: str, letter: str
) -> tuple[str, go.Figure] | None:
    scored = [line for line in lines if _accuracy(line)[0] is not None]
    values = {(getattr(line, fixed), getattr(line, along)) for line in scored}
    counts = Counter(at for at, _ in values)
    if not counts or max(counts.values()) < 2:
        return None
    chosen = max(counts, key=lambda at: (counts[at], amount(at)))  # the densest of those with most settings
    figure = go.Figure()
    shown = [line for line in scored if getattr(line, fixed) == chosen]
    for config in dict.fromkeys(line.config for line in shown):
        own = sorted((line for line in shown if line.config == config), key=lambda line: amount(getattr(line, along)))
        look = style[config]
        figure.add_scatter(
            name=html.escape(config),
            x=[points(getattr(line, along)) for line in own],
            y=[_accuracy(line)[0] for line in own],
            error_y=bars([_accuracy(line)[0] for line in own], [_accuracy(line)[1] for line in own]),
            mode="lines+markers",
            line={"color": look.colour, "dash": look.dash},
            marker={"symbol": look.symbol, "size": 9},
            hovertemplate="%{x}: %{y:.3f}",
        )
    order = sorted({getattr(line, along) for line in shown}, key=amount)
    axis = {"title": title, "type": "category", "categoryorder": "array", "categoryarray": [points(v) for v in order]}
    if of_instances(lines):
        return "AP at IoU 0.5", finish(figure, axis, "AP50 of boxes")
    return f"{letter} = {points(chosen)}", finish(figure, axis, "positive IU" if single_class(lines) else "mIoU")


def bars(centres: Sequence[float | None], intervals: Sequence[tuple[float, float] | None]) -> dict[str, Any]:
    """Intervals as plotly's error bars; None is a point without one.

    >>> bars([0.5], [(0.25, 1.0)])["arrayminus"], bars([0.5], [None])["array"]
    ([0.25], [0.0])
    """
    pairs = [(c or 0.0, i or (c or 0.0, c or 0.0)) for c, i in zip(centres, intervals, strict=True)]
    up, down = [high - c for c, (_, high) in pairs], [c - low for c, (low, _) in pairs]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 4}


def against_clicks(lines: Sequence[Line], style: Mapping[str, Style]) -> list[tuple[str, go.Figure]]:
    """IoU of objects against clicks, a figure for every K and P; bands are intervals. Empty without clicks."""
    return _clicked(lines, style, seconds=False)


def against_seconds(lines: Sequence[Line], style: Mapping[str, Style]) -> list[tuple[str, go.Figure]]:
    """IoU of objects against the seconds of network and refinement, one mark a click, for every K and P."""
    return _clicked(lines, style, seconds=True)


def _clicked(lines: Sequence[Line], style: Mapping[str, Style], seconds: bool) -> list[tuple[str, go.Figure]]:
    found = []
    for n_shot, n_points in dict.fromkeys((line.n_shot, line.n_points) for line in lines):
        figure = go.Figure()
        for line in lines:
            curve = line.clicks
            if (line.n_shot, line.n_points) != (n_shot, n_points) or curve is None or len(curve.iou) < 2:
                continue
            if seconds and not (curve.seconds and curve.seconds[0] > 0):  # the axis is logarithmic
                continue
            look, clicks = style[line.config], list(range(1, len(curve.iou) + 1))
            x = list(curve.seconds) if seconds else clicks
            shared = {"name": html.escape(line.config), "legendgroup": html.escape(line.config)}
            if curve.ci95 is not None:
                low, high = ([interval[side] for interval in curve.ci95] for side in (0, 1))
                band = {"fill": "toself", "fillcolor": look.colour, "line": {"width": 0}, "opacity": 0.12}
                figure.add_scatter(
                    x=x + x[::-1],
                    y=high + low[::-1],
                    mode="lines",
                    showlegend=False,
                    hoverinfo="skip",
                    **band,
                    **shared,
                )
            figure.add_scatter(
                x=x,
                y=list(curve.iou),
                customdata=clicks,
                mode="lines+markers",
                line={"color": look.colour, "dash": look.dash},
                marker={"symbol": look.symbol, "size": 6},
                hovertemplate="click %{customdata}" + (", %{x:.3g} s" if seconds else "") + ": %{y:.3f}",
                **shared,
            )
        axis = (
            {"title": "seconds of network and refinement", "type": "log"}
            if seconds
            else {"title": "clicks", "dtick": 1}
        )
        if figure.data:
            found.append((f"K = {n_shot}, P = {points(n_points)}", finish(figure, axis, "IoU, mean over objects")))
    return found


def positive_against_points(lines: Sequence[Line], style: Mapping[str, Style]) -> list[tuple[str, go.Figure]]:
    """Positive IoU of objects against P, a figure for every K with two P; names give the time of an update at most.

    Figure 6 (left) of the guided networks (Rakelly et al. 2018): the object's own image is annotated.
    """
    found = []
    shown = [line for line in lines if line.task == "interactive" and line.clicks is None]
    for n_shot in dict.fromkeys(line.n_shot for line in shown):
        at = [line for line in shown if line.n_shot == n_shot and "positive_iou" in line.figures]
        order = [points(p) for p in sorted({line.n_points for line in at}, key=amount)]
        if len(order) < 2:
            continue
        figure = go.Figure()
        for config in dict.fromkeys(line.config for line in at):
            own = sorted((line for line in at if line.config == config), key=lambda line: amount(line.n_points))
            times = [line.figures["seconds_per_update"] for line in own if "seconds_per_update" in line.figures]
            told = f" ({1000 * max(times):.3g} ms)" if times else ""
            look = style[config]
            figure.add_scatter(
                name=html.escape(config + told),
                x=[points(line.n_points) for line in own],
                y=[line.figures["positive_iou"] for line in own],
                mode="lines+markers",
                line={"color": look.colour, "dash": look.dash},
                marker={"symbol": look.symbol, "size": 9},
                hovertemplate="%{x}: %{y:.3f}",
            )
        title = "annotated pixels per label (P)"
        axis = {"title": title, "type": "category", "categoryorder": "array", "categoryarray": order}
        caption = f"K = {n_shot}; in brackets: the longest annotation update (guide and segment)"
        found.append((caption, finish(figure, axis, "positive IoU")))
    return found


def by_fold(line: Line) -> dict[int, Score]:
    """Fold -> what ``ranked`` would say of it alone: the mean over its seeds, with the interval of a single run.

    Of trivial answers nothing but mIoU is known.
    """
    if line.trivial:
        images = not of_videos([line]) and not of_instances([line])
        return {fold: Score("mIoU", miou, None) for fold, miou in line.folds.items() if images}
    name, interval = {"mIoU": ("miou", "ci95"), "J&F": ("jf_mean", "jf_ci95")}.get(
        ranked(line).name, ("ap50_boxes", "ap50_boxes_ci95")
    )
    found = {}
    for fold in sorted({run["fold"] for run in line.runs if name in run}):
        own = [run for run in line.runs if run["fold"] == fold and name in run]
        between = own[0].get(interval) if len(own) == 1 else None
        mean = sum(run[name] for run in own) / len(own)
        found[fold] = Score(ranked(line).name, mean, (between[0], between[1]) if between else None)
    return found


def per_fold(lines: Sequence[Line], style: Mapping[str, Style]) -> tuple[str, go.Figure] | None:
    """What lines are ranked by on every fold, at the setting of ``per_class``; None without two folds."""
    scored = [line for line in lines if by_fold(line)]
    folds = sorted({fold for line in scored for fold in by_fold(line)})
    if len(folds) < 2:
        return None
    chosen = shared_setting(scored)
    shown = [line for line in scored if (line.n_shot, line.n_points) == chosen]
    figure = go.Figure()
    for line in shown:
        own = by_fold(line)
        values, intervals = [one.value for one in own.values()], [one.ci95 for one in own.values()]
        figure.add_bar(
            name=html.escape(line.config),
            x=[f"fold {fold}" for fold in own],
            y=values,
            error_y=bars(values, intervals),
            marker={"color": style[line.config].colour, "pattern": {"shape": style[line.config].pattern}},
            hovertemplate="%{x}: %{y:.3f}",
        )
    axis = {"type": "category", "categoryorder": "array", "categoryarray": [f"fold {fold}" for fold in folds]}
    return setting_of(shown[0]), finish(figure, axis, html.escape(ranked(shown[0]).name))


def per_class(lines: Sequence[Line], style: Mapping[str, Style]) -> tuple[str, go.Figure] | None:
    """IoU of every class, at the densest setting of those that most configurations share; None without two classes.

    Where instances are asked for: AP50 of boxes.
    """
    scored = [line for line in lines if class_scores(line)]
    if len({name for line in scored for name in class_scores(line)}) < 2:
        return None
    chosen = shared_setting(scored)
    figure = go.Figure()
    for line in scored:
        if (line.n_shot, line.n_points) == chosen:
            figure.add_bar(
                name=html.escape(line.config),
                x=[html.escape(name) for name in class_scores(line)],
                y=list(class_scores(line).values()),
                marker={"color": style[line.config].colour, "pattern": {"shape": style[line.config].pattern}},
                hovertemplate="%{x}: %{y:.3f}",
            )
    names = dict.fromkeys(name for line in scored for name in class_scores(line))
    axis = {"type": "category", "categoryorder": "array", "categoryarray": [html.escape(name) for name in names]}
    if of_instances(scored):
        return f"K = {chosen[0]}", finish(figure, axis, "AP50 of boxes")
    return f"K = {chosen[0]}, P = {points(chosen[1])}", finish(figure, axis, "IoU")


def class_scores(line: Line) -> dict[str, float]:
    """Class name -> IoU, or AP50 of boxes where instances are asked for, mean over seeds."""
    if not of_instances([line]):
        return line.per_class_iou
    found: dict[str, list[float]] = {}
    for run in line.runs:
        for name, ap50 in run.get("per_class_ap50_boxes", {}).items():
            found.setdefault(name, []).append(ap50)
    return {name: sum(values) / len(values) for name, values in found.items()}


def shared_setting(lines: Sequence[Line]) -> tuple[int, int | None]:
    """K and P of the densest setting among those that most lines have; there must be a line."""
    counts = Counter((line.n_shot, line.n_points) for line in lines)
    return max(counts, key=lambda setting: (counts[setting], amount(setting[1]), setting[0]))


# accuracies with the words for an axis; the first is shown first
_VIDEO_ACCURACIES = {
    "jf_mean": "J&F, mean over objects",
    "j_mean": "J, mean over objects",
    "positive_iou": "positive IU",
}
_INSTANCE_ACCURACIES = {"ap50_boxes": "AP50 of boxes", "ap50": "AP50 of masks"}
_IMAGE_ACCURACIES = {"miou": "mIoU", "fb_iou": "FB-IoU", "positive_iou": "positive IU"}
_MOST_SETTINGS = 4  # more have figures at the ends alone


class Timed(NamedTuple):
    """Variants of one training in one setting, from the fastest to the slowest."""

    name: str
    lines: list[Line]


def of_one_training(lines: Sequence[Line]) -> list[Timed]:
    """Lines of one setting by the trainings of their runs; the shortest configuration names a group."""
    groups: dict[frozenset[Any], list[Line]] = {}
    for line in lines:
        trainings = frozenset(run.get("training") or line.config for run in line.runs)
        groups.setdefault(trainings, []).append(line)
    made = []
    for group in groups.values():
        group.sort(key=lambda line: line.figures["seconds_per_episode"])
        made.append(Timed(min((line.config for line in group), key=len), group))
    return sorted(made, key=lambda one: one.name)


def _accuracies(lines: Sequence[Line]) -> dict[str, str]:
    """The accuracies that all lines have."""
    words = (
        _VIDEO_ACCURACIES if of_videos(lines) else _INSTANCE_ACCURACIES if of_instances(lines) else _IMAGE_ACCURACIES
    )
    return {name: title for name, title in words.items() if all(_one(line, name).value is not None for line in lines)}


def _one(line: Line, name: str) -> Score:
    """One accuracy of a line with its interval."""
    intervals = {"miou": line.ci95, "jf_mean": line.jf_ci95, "ap50_boxes": line.ap50_boxes_ci95, "ap50": line.ap50_ci95}
    return Score(name, line.miou if name == "miou" else line.figures.get(name), intervals.get(name))


def accuracy_against_time(lines: Sequence[Line], style: Mapping[str, Style]) -> list[tuple[str, go.Figure]]:
    """Accuracy against the seconds that an episode takes, a figure for every K and P, the densest first.

    Variants of one training, such as numbers of test-time updates, are joined by a line (Caelles et al. 2017 and the
    guided networks' papers draw OSVOS so). Buttons choose the accuracy. Where settings are many, those with most and
    least annotation have figures.

    Args:
        lines: of one data set, task and protocol.
        style: of every configuration.
    """
    shown = [line for line in lines if line.figures.get("seconds_per_episode", 0) > 0]  # the axis is logarithmic
    chosen = _accuracies(shown) if shown else {}
    settings = sorted({(amount(line.n_points), line.n_shot) for line in shown}, reverse=True)
    settings = settings if len(settings) <= _MOST_SETTINGS else [settings[0], settings[-1]]
    # the same axes at every setting
    times = [math.log10(line.figures["seconds_per_episode"]) for line in shown] or [0.0]
    best = max((one.value or 0.0 for line in shown for one in (_one(line, name) for name in chosen)), default=1.0)
    ends = [one.ci95[1] for line in shown for one in (_one(line, name) for name in chosen) if one.ci95]
    span = max(times) - min(times)
    room = max(0.06 * span, (1 - span) / 2)  # at least a factor of ten is seen, so that the axis has ticks
    across, up = [min(times) - room, max(times) + room], [0, min(max(1.1 * best, *ends, 0.0), 1.02) or 1]
    videos = of_videos(shown)
    found = []
    for setting in settings if chosen else ():
        own = [line for line in shown if (amount(line.n_points), line.n_shot) == setting]
        groups, figure = of_one_training(own), go.Figure()
        for group in groups:
            look, several = style[group.name], len(group.lines) > 1
            scores = [_one(line, next(iter(chosen))) for line in group.lines]
            figure.add_scatter(
                name=html.escape(group.name),
                x=[line.figures["seconds_per_episode"] for line in group.lines],
                y=[one.value for one in scores],
                error_y=bars([one.value for one in scores], [one.ci95 for one in scores]),
                customdata=[html.escape(line.config) for line in group.lines],
                text=[html.escape(line.config.removeprefix(group.name)) for line in group.lines],
                textposition="top center",
                textfont={"color": look.colour},
                mode="lines+markers+text" if several else "markers",
                line={"color": look.colour, "dash": look.dash},
                marker={"symbol": look.symbol, "size": 10, "color": look.colour},
                hovertemplate="%{customdata}, %{x:.3g} s: %{y:.3f}<extra></extra>",
                cliponaxis=False,
            )
        title = f"seconds per {'video' if videos else 'episode'} (logarithmic)"
        finish(figure, {"title": title, "type": "log", **_LOGARITHMIC}, html.escape(next(iter(chosen.values()))))
        figure.update_layout(xaxis={"range": across}, yaxis={"range": up})
        if len(chosen) > 1:
            figure.update_layout(updatemenus=[_choice(groups, chosen)], margin={"t": 45})
            # below, for the buttons are above; on a phone every name has a line of its own
            figure.update_layout(legend={"y": -0.25, "yanchor": "top"}, height=360 + 20 * len(groups))
        found.append((setting_of(own[0]), figure))
    return found


_LOGARITHMIC = {"showgrid": True, "gridcolor": "#e8eaed", "dtick": "D2", "tickformat": "~g"}


def _choice(groups: Sequence[Timed], accuracies: Mapping[str, str]) -> dict[str, Any]:
    """Buttons that show one or the other accuracy."""
    buttons = []
    for name, title in accuracies.items():
        scores = [[_one(line, name) for line in group.lines] for group in groups]
        values = [[one.value for one in several] for several in scores]
        spread = [bars([one.value for one in several], [one.ci95 for one in several]) for several in scores]
        axis = {"yaxis.title.text": html.escape(title)}
        changed = {"y": values, "error_y": spread}
        buttons.append({"label": html.escape(title.split(",")[0]), "method": "update", "args": [changed, axis]})
    place = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "pad": {"t": 0, "b": 0}}
    return {"type": "buttons", "direction": "right", "buttons": buttons, "active": 0, "font": {"size": 12}, **place}


def annotation_surfaces(lines: Sequence[Line], style: Mapping[str, Style]) -> list[tuple[str, go.Figure]]:
    """Positive IU over annotated frames (S = K) and points (P), a figure for every configuration with two of either.

    Left the surface as a table in colours, right its curves over S, one for each P; all figures have the same scales.
    """
    shown = [line for line in lines if line.task == "interactive_video" and "positive_iou" in line.figures]
    values = [line.figures["positive_iou"] for line in shown]
    found = []
    for config in dict.fromkeys(line.config for line in shown):
        at = {(line.n_shot, line.n_points): line.figures["positive_iou"] for line in shown if line.config == config}
        frames, given = sorted({s for s, _ in at}), sorted({p for _, p in at}, key=amount)
        if len(frames) < 2 and len(given) < 2:
            continue
        figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
        finish(figure, {}, "annotated frames (S)")
        cells = [[at.get((s, p)) for p in given] for s in frames]
        figure.add_heatmap(
            x=[points(p) for p in given],
            y=[str(s) for s in frames],
            z=cells,
            text=[["" if v is None else f"{v:.3f}" for v in row] for row in cells],
            texttemplate="%{text}",
            textfont={"color": "#1c2128"},
            hovertemplate="S = %{y}, P = %{x}: %{z:.3f}<extra></extra>",
            zmin=min(values),
            zmax=max(values),
            colorscale=SEQUENTIAL,
            showscale=False,
            showlegend=False,
            xgap=2,
            ygap=2,
            row=1,
            col=1,
        )
        for place, p in enumerate(given):
            own = [s for s in frames if (s, p) in at]
            figure.add_scatter(
                name=f"P = {points(p)}",
                x=[str(s) for s in own],
                y=[at[s, p] for s in own],
                mode="lines+markers",
                line={"color": _SHADES[min(place, len(_SHADES) - 1)]},
                marker={"symbol": _MARKS[place % len(_MARKS)], "size": 9},
                hovertemplate=f"S = %{{x}}, P = {points(p)}: %{{y:.3f}}<extra></extra>",
                row=1,
                col=2,
            )
        order = {"type": "category", "categoryorder": "array", "automargin": True}
        across, down = [points(p) for p in given], [str(s) for s in frames]
        figure.update_xaxes(title="points per label and frame (P)", categoryarray=across, row=1, col=1, **order)
        figure.update_yaxes(categoryarray=down, showgrid=False, row=1, col=1, **order)
        figure.update_xaxes(title="annotated frames (S)", categoryarray=down, row=1, col=2, **order)
        spread = max(max(values) - min(values), 0.01)
        limits = [max(0.0, min(values) - 0.08 * spread), min(1.0, max(values) + 0.08 * spread)]
        grid = {"showgrid": True, "gridcolor": "#e8eaed"}
        figure.update_yaxes(title="positive IU", range=limits, row=1, col=2, **grid)
        figure.update_layout(height=150 + 45 * max(len(frames), 4), legend={"x": 0.56})
        found.append((config, figure))
    return found


SEQUENTIAL = [[0.0, "#f1f6fb"], [1.0, "#3b8bc4"]]  # dark ink can be read on all of it
_SHADES = ("#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b")
_MARKS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def forest(compared: Sequence[Comparison], style: Mapping[str, Style]) -> list[tuple[str, go.Figure]]:
    """Differences to the reference with their intervals, at the settings with the least and the most annotation.

    Configurations lie one above the other, the best on top. Hollow: not separated from the reference. Differences are
    those of ``Comparison.main``.
    """
    shown = [one for one in compared if one.main[1] is not None]
    settings = sorted({(amount(one.n_points), one.n_shot) for one in shown})
    found = []
    for chosen in dict.fromkeys(settings[:1] + settings[-1:]):
        own = [one for one in shown if (amount(one.n_points), one.n_shot) == chosen]
        own.sort(key=lambda one: one.main[1] or 0.0)
        figure = go.Figure()
        for one in own:
            look, (_, difference, ci95, seen) = style[one.config], one.main
            interval = bars([difference], [ci95])
            separated = seen in ("above", "below")
            figure.add_scatter(
                name=html.escape(one.config),
                x=[difference],
                y=[html.escape(one.config)],
                error_x=interval,
                mode="markers",
                marker={"symbol": look.symbol + ("" if separated else "-open"), "size": 11, "color": look.colour},
                hovertemplate="%{x:+.3f}" + (f", {seen}" if seen else ""),
            )
        figure.add_vline(x=0, line={"color": "#57606a", "width": 1})
        title = html.escape(f"{own[0].main[0]} minus that of {own[0].reference}")
        finish(figure, {"title": title, "showgrid": True, "gridcolor": "#e8eaed"}, "")
        rows = [html.escape(one.config) for one in own]
        figure.update_layout(showlegend=False, height=130 + 32 * len(rows))
        figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows)
        found.append((setting_of(own[0]), figure))
    return found


def guidance_spread(lines: Sequence[Line], style: Mapping[str, Style]) -> tuple[str, go.Figure] | None:
    """Shares of z that differ within and between classes, at every K and P; None where no run has them."""
    shown = [line for line in lines if {"guidance_within", "guidance_between"} & line.figures.keys()]
    if not shown:
        return None
    titles = {"guidance_within": "within classes", "guidance_between": "between classes"}
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.03)
    finish(figure, {}, "share of the mean squared length of z")
    ordered = sorted(shown, key=lambda line: (line.n_shot, amount(line.n_points)))
    names = list(dict.fromkeys(setting_of(line).replace(" = ", " ") for line in ordered))
    for place, (name, title) in enumerate(titles.items(), start=1):
        for config in dict.fromkeys(line.config for line in shown):
            own = [line for line in shown if line.config == config and name in line.figures]
            own.sort(key=lambda line: (line.n_shot, amount(line.n_points)))
            look = style[config]
            figure.add_scatter(
                name=html.escape(config),
                legendgroup=html.escape(config),
                showlegend=place == 1,
                x=[setting_of(line).replace(" = ", " ") for line in own],
                y=[max(line.figures[name], _SMALLEST) for line in own],
                customdata=[line.figures[name] for line in own],
                mode="lines+markers",
                line={"color": look.colour, "dash": look.dash},
                marker={"symbol": look.symbol, "size": 9},
                hovertemplate="%{x}: %{customdata:.2g}",
                row=1,
                col=place,
            )
        axis = {"title": title, "type": "category", "categoryorder": "array", "categoryarray": names}
        figure.update_xaxes(automargin=True, row=1, col=place, **axis)
    figure.update_yaxes(type="log", showgrid=True, gridcolor="#e8eaed", exponentformat="power", rangemode="normal")
    return "variance of z, as shares of its mean squared length; the rest is common to all episodes", figure


def learning_curves(curves: Sequence[Curve], style: Mapping[str, Style], title: str) -> go.Figure:
    """Values against training steps, one thin line per training, in its configuration's colour."""
    figure = go.Figure()
    named: set[str] = set()
    for curve in curves:
        look = style[curve.config]
        figure.add_scatter(
            name=html.escape(curve.config),
            legendgroup=html.escape(curve.config),
            showlegend=curve.config not in named,
            x=curve.steps,
            y=curve.values,
            mode="lines" if len(curve.steps) > 1 else "markers",
            line={"color": look.colour, "dash": look.dash, "width": 1.5},
            hovertemplate=f"{html.escape(curve.label)}, step %{{x}}: %{{y:.3f}}",
        )
        named.add(curve.config)
    return finish(figure, {"title": "step", "rangemode": "tozero"}, title)


def finish(figure: go.Figure, xaxis: dict[str, Any], y: str) -> go.Figure:
    """The figure with the layout that all have; ``y`` titles its first vertical axis."""
    figure.update_layout(
        template="simple_white",
        height=400,
        margin={"l": 60, "r": 15, "t": 15, "b": 60},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        showlegend=True,
        xaxis={"automargin": True, **xaxis},
        yaxis={"title": y, "rangemode": "tozero", "showgrid": True, "gridcolor": "#e8eaed", "automargin": True},
    )
    return figure


def embed(figure: go.Figure, name: str) -> str:
    """The figure as HTML with the id ``name``; the page brings plotly itself."""
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(config=config, full_html=False, include_plotlyjs=False, div_id=name))
