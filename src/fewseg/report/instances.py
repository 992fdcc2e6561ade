"""What a report shows of instances: clutter, what is confused with what, and base classes against novel ones."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fewseg import datasets
from fewseg.functional.instance_figures import confusion
from fewseg.protocols import PROTOCOLS
from fewseg.published import Published
from fewseg.report.figures import SEQUENTIAL, Style, bars, finish, shared_setting
from fewseg.results import Line, read_rows

KINDS = {"ap50_boxes": "boxes", "ap50": "masks"}
_BINS = ("1", "2", "3", "4", "5-9", "10-19", "20+")  # instances of an image, as figures of runs have them
_ROW, _BARS = 15, 120  # pixels of a row of a matrix, and of the bars below it


class Side(NamedTuple):
    """AP50 of one method on base or on novel classes, with its interval where there is one."""

    ap50: float
    ci95: tuple[float, float] | None


class Gap(NamedTuple):
    """One method on base and on novel classes, after the same trainings.

    Args:
        dataset: the data set's name; ``config`` and ``n_shot`` as in ``Line``.
        config: the method.
        n_shot: K.
        folds: that both sides have.
        base: kind (``boxes`` or ``masks``) -> AP50 on the classes that trained.
        novel: the same on those that did not.
    """

    dataset: str
    config: str
    n_shot: int
    folds: tuple[int, ...]
    base: dict[str, Side]
    novel: dict[str, Side]

    def gap(self, kind: str) -> float:
        """How much AP50 falls from base to novel classes.

        >>> Gap("d", "siamese", 1, (0,), {"boxes": Side(0.375, None)}, {"boxes": Side(0.125, None)}).gap("boxes")
        0.25
        """
        return self.base[kind].ap50 - self.novel[kind].ap50


def asked(one: Line | Published) -> str:
    """Which classes are asked for: ``novel``, ``base``, ``all``, or nothing where the protocol is not known."""
    protocol = PROTOCOLS.get(one.protocol)
    search = protocol.evaluation.search if protocol else None
    return search.classes if search else ""


def gaps(lines: Sequence[Line]) -> list[Gap]:
    """Base against novel classes, of the trainings that were tested on both, with references that are drawn alike.

    Sides are means over seeds and then folds, as in the leaderboard. They have an interval where all runs of a line
    count.
    """
    found = []
    for novel in (line for line in lines if asked(line) == "novel"):
        for base in (line for line in lines if asked(line) == "base" and _setting(line) == _setting(novel)):
            runs = {_training(run) for run in novel.runs} & {_training(run) for run in base.runs}
            sides = [
                {kind: _side(line, name, runs) for name, kind in KINDS.items() if name in line.figures}
                for line in (base, novel)
            ]
            if runs and set(sides[0]) == set(sides[1]) == set(KINDS.values()):
                folds = tuple(sorted({run["fold"] for run in novel.runs if _training(run) in runs}))
                found.append(Gap(novel.dataset, novel.config, novel.n_shot, folds, sides[0], sides[1]))
    return found


def _setting(line: Line) -> tuple[Any, ...]:
    search = PROTOCOLS[line.protocol].evaluation.search
    return line.dataset, line.config, line.n_shot, line.n_points, search and search.reference


def _training(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return run.get("training"), run["fold"], run["seed"]


def _side(line: Line, name: str, runs: Iterable[tuple[Any, ...]]) -> Side:
    own = [run for run in line.runs if _training(run) in runs and name in run]
    if not own:
        return Side(math.nan, None)
    interval = getattr(line, f"{name}_ci95") if len(own) == len(line.runs) else None
    return Side(_fold_mean(own, name), interval)


def deviation(line: Line, name: str) -> float | None:
    """Standard deviation of AP50 over the lists of references, mean over seeds and then folds; None without lists."""
    runs = [run for run in line.runs if f"{name}_std" in run]
    return _fold_mean(runs, f"{name}_std") if runs else None


def _fold_mean(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    folds = {run["fold"] for run in runs}
    return float(np.mean([np.mean([run[name] for run in runs if run["fold"] == fold]) for fold in folds]))


def against_clutter(lines: Sequence[Line], style: Mapping[str, Style]) -> tuple[str, go.Figure] | None:
    """AP50 of boxes and of masks against the instances in an image; None where no image count has a figure.

    Figure 8 of Siamese Mask R-CNN (Michaelis et al. 2018).
    """
    shown = [line for line in lines if any(run.get("clutter") for run in line.runs)]
    if not shown:
        return None
    chosen = shared_setting(shown)
    shown = [line for line in shown if (line.n_shot, line.n_points) == chosen]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.03)
    finish(figure, {}, "AP50")
    order = [name for name in _BINS if any(name in _clutter(line, "ap50") for line in shown)]
    for place, (name, kind) in enumerate(KINDS.items(), start=1):
        for line in shown:
            look, values = style[line.config], _clutter(line, name)
            own = [n for n in order if n in values]
            images = _clutter(line, "n_images")
            figure.add_scatter(
                name=html.escape(line.config),
                legendgroup=html.escape(line.config),
                showlegend=place == 1,
                x=own,
                y=[values[n] for n in own],
                customdata=[f"{images[n]:.0f}" for n in own],
                mode="lines+markers",
                line={"color": look.colour, "dash": look.dash},
                marker={"symbol": look.symbol, "size": 9},
                hovertemplate=f"%{{x}} instances: %{{y:.3f}} ({kind}, %{{customdata}} images)",
                row=1,
                col=place,
            )
        axis = {"title": f"{kind}: instances in the image", "type": "category", "automargin": True}
        figure.update_xaxes(categoryorder="array", categoryarray=order, row=1, col=place, **axis)
    figure.update_yaxes(rangemode="tozero", showgrid=True, gridcolor="#e8eaed")
    return f"K = {chosen[0]}", figure


def _clutter(line: Line, name: str) -> dict[str, float]:
    """Instances in an image -> mean of a figure over the line's seeds and folds that have such images."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in line.runs:
        for part in run.get("clutter", ()):
            found.setdefault(part["instances"], []).append({**part, "fold": run["fold"]})
    return {instances: _fold_mean(parts, name) for instances, parts in found.items()}


def confusions(lines: Sequence[Line], out: Path) -> list[tuple[str, go.Figure]]:
    """What is found for references of every class, a matrix for each fold with its column sums: figure 7 of the paper.

    Of the run with the highest AP50 of boxes, made from its rows. Classes that were asked for come first, so that the
    diagonal begins in the upper left corner.
    """
    found = []
    runs = [(line, run) for line in lines for run in line.runs if (out / run["run"] / "episodes.parquet").is_file()]
    runs = [(line, run) for line, run in runs if run.get("ap50_boxes") is not None]
    for fold in sorted({run["fold"] for _, run in runs}):
        line, best = max(
            (pair for pair in runs if pair[1]["fold"] == fold), key=lambda pair: (pair[1]["ap50_boxes"], pair[0].config)
        )
        figure = _matrix(line, best, out)
        caption = f"{line.config}, fold {fold}, K = {line.n_shot}: AP50 of boxes {best['ap50_boxes']:.3f}"
        if figure is not None:
            found.append((caption, figure))
    return found


def _matrix(line: Line, run: Mapping[str, Any], out: Path) -> go.Figure | None:
    frame = read_rows(out / str(run["run"]) / "episodes.parquet")
    classes = sorted(set(frame["class_id"].tolist()))
    numbers = {int(pair.split(":")[0]) for text in frame["truth"].dropna() for pair in text.split()}
    if not numbers:
        return None
    names = class_names(line.dataset, max(*classes, *numbers))
    made = confusion(frame, names, classes, int(run.get("n_repeats", 1)))
    order = sorted(range(len(made.columns)), key=lambda j: made.columns[j] not in made.rows)  # stable
    rows, columns = ([html.escape(name) for name in group] for group in (made.rows, [made.columns[j] for j in order]))
    cells = [[None if math.isnan(v) else round(v, 4) for v in values] for values in made.ap50[:, order].tolist()]
    sums = np.round(made.column_sums[order], 4).tolist()
    tall, most = max(_ROW * len(rows), 120), float(np.nanmax(made.ap50))
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=12 / (tall + _BARS),
        row_heights=[tall / (tall + _BARS), _BARS / (tall + _BARS)],
    )  # fmt: skip
    finish(figure, {}, "")
    figure.add_heatmap(
        x=columns, y=rows, z=cells, colorscale=SEQUENTIAL, zmin=0, zmax=max(most, 0.01),
        hovertemplate="references of %{y}, counted as %{x}: %{z:.3f}<extra></extra>", showlegend=False,
        colorbar={"title": "AP50", "len": tall / (tall + _BARS), "y": 1, "yanchor": "top", "thickness": 12},
        row=1, col=1,
    )  # fmt: skip
    figure.add_bar(
        x=columns,
        y=sums,
        marker={"color": "#3b8bc4"},
        hovertemplate="%{x}: %{y:.3f}<extra></extra>",
        showlegend=False,
        row=2,
        col=1,
    )
    names_of = {"type": "category", "dtick": 1, "tickfont": {"size": 10}, "automargin": True, "showgrid": False}
    figure.update_xaxes(categoryorder="array", categoryarray=columns, **names_of)
    figure.update_xaxes(showticklabels=False, row=1, col=1)
    figure.update_xaxes(tickangle=-90, title="counted as", row=2, col=1)
    down = {"categoryorder": "array", "categoryarray": rows, "autorange": "reversed"}
    figure.update_yaxes(title="references of", row=1, col=1, **down, **names_of)
    figure.update_yaxes(title="column sum", rangemode="tozero", showgrid=True, gridcolor="#e8eaed", row=2, col=1)
    figure.update_layout(height=tall + _BARS + 170, showlegend=False)
    return figure


def class_names(dataset: str, n_classes: int) -> tuple[str, ...]:
    """The names of a data set's classes, or their numbers where it is none of ours."""
    for kind in (getattr(datasets, name) for name in datasets.__all__):
        names = getattr(kind, "class_names", ())
        if getattr(kind, "name", None) == dataset and len(names) >= n_classes:
            return tuple(names)
    return tuple(f"class {number}" for number in range(1, n_classes + 1))


def base_and_novel(found: Sequence[Gap], style: Mapping[str, Style]) -> list[tuple[str, go.Figure]]:
    """AP50 on base classes (pale) beside that on novel ones, boxes left and masks right, a figure for every K."""
    made = []
    for dataset, n_shot in dict.fromkeys((one.dataset, one.n_shot) for one in found):
        own = [one for one in found if (one.dataset, one.n_shot) == (dataset, n_shot)]
        figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.03)
        finish(figure, {}, "AP50")
        configs = [html.escape(one.config) for one in own]
        for place, kind in enumerate(KINDS.values(), start=1):
            for side, opacity in (("base", 0.45), ("novel", 1.0)):
                values: list[Side] = [getattr(one, side)[kind] for one in own]
                figure.add_bar(
                    name=f"{side} classes",
                    x=configs,
                    y=[value.ap50 for value in values],
                    error_y=bars([value.ap50 for value in values], [value.ci95 for value in values]),
                    marker={"color": [style[one.config].colour for one in own], "opacity": opacity},
                    hovertemplate=f"%{{x}}, {side} classes: %{{y:.3f}}<extra></extra>",
                    showlegend=False,
                    row=1,
                    col=place,
                )
            axis = {"type": "category", "categoryorder": "array", "categoryarray": configs, "automargin": True}
            figure.update_xaxes(title=kind, row=1, col=place, **axis)
        figure.update_yaxes(rangemode="tozero", showgrid=True, gridcolor="#e8eaed")
        several = len({one.dataset for one in found}) > 1
        made.append((f"K = {n_shot}" + (f", {dataset}" if several else ""), figure))
    return made
