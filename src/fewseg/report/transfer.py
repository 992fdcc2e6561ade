"""What was trained on one thing and tested on another: a matrix for each amount of annotation."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from fewseg.report.cells import GREY, Cell, escaped, given, number, row, swatch, table
from fewseg.report.figures import SEQUENTIAL, Score, Style, finish, ranked
from fewseg.results import Line, points


class Trained(NamedTuple):
    """What trained: a configuration, and the data set and task of its training."""

    config: str
    dataset: str
    task: str


class Target(NamedTuple):
    """What tested, and the name of the accuracy by which it tells."""

    dataset: str
    task: str
    protocol: str
    metric: str


class Transfer(NamedTuple):
    """The matrix of one K and P.

    Args:
        setting: K and P in words.
        rows: what trained; ``columns``: what tested.
        lines: the line of every pair that was tested.
    """

    setting: str
    rows: tuple[Trained, ...]
    columns: tuple[Target, ...]
    lines: dict[tuple[Trained, Target], Line]


def trained(line: Line) -> Trained | None:
    """What a line was trained on; None where nothing trained, or where its runs do not agree or do not tell."""
    found = {(run.get("train_dataset"), run.get("train_task")) for run in line.runs}
    dataset, task = found.pop()
    return None if found or not dataset or not task else Trained(line.config, str(dataset), str(task))


def crosses(row: Trained, column: Target) -> bool:
    """Whether a test asks for something else than the training.

    >>> here = Target("shapes5i", "semantic", "clean", "mIoU")
    >>> crosses(Trained("panet", "shapes5i", "semantic"), here), crosses(Trained("panet", "voc", "semantic"), here)
    (False, True)
    """
    return (row.dataset, row.task) != (column.dataset, column.task)


def transfers(lines: Sequence[Line]) -> list[Transfer]:
    """A matrix for every K and P at which a configuration was tested on something else than it was trained on."""
    found: dict[str, dict[tuple[Trained, Target], Line]] = {}
    for line in lines:
        source, score = trained(line), ranked(line)
        if source is not None and score.value is not None:
            column = Target(line.dataset, line.task, line.protocol, score.name)
            found.setdefault(f"K = {line.n_shot}, P = {points(line.n_points)}", {})[source, column] = line
    made = []
    for setting, cells in found.items():
        if any(crosses(*pair) for pair in cells):
            rows, columns = sorted({source for source, _ in cells}), sorted({column for _, column in cells})
            made.append(Transfer(setting, tuple(rows), tuple(columns), cells))
    return made


def matrix(one: Transfer) -> go.Figure:
    """The matrix as a heat map with the numbers in it; a frame marks what was tested as it was trained.

    Colours are shares of the best of a column, for columns have accuracies of their own. A star marks lines with a
    note.
    """
    down = ["<br>".join(map(html.escape, (r.config, f"{r.dataset}, {r.task}"))) for r in one.rows]
    across = ["<br>".join(map(html.escape, (c.dataset, c.task, c.protocol))) for c in one.columns]
    values = [[_value(one, r, c) for c in one.columns] for r in one.rows]
    best = [max((v for v in column if v is not None), default=0.0) or 1.0 for column in zip(*values, strict=True)]
    shares = [[None if v is None else v / most for v, most in zip(several, best, strict=True)] for several in values]
    figure = go.Figure()
    finish(figure, {"type": "category", "side": "top"}, "")
    figure.add_heatmap(
        x=across,
        y=down,
        z=shares,
        zmax=1,
        text=[[_told(one, r, c) for c in one.columns] for r in one.rows],
        texttemplate="%{text}",
        textfont={"color": "#1c2128"},
        customdata=[[c.metric for c in one.columns] for _ in one.rows],
        hovertemplate="%{y}<br>tested on %{x}<br>%{customdata} %{text}<extra></extra>",
        colorscale=SEQUENTIAL,
        zmin=0,
        showscale=False,
        xgap=2,
        ygap=2,
    )
    for i, source in enumerate(one.rows):
        for j, column in enumerate(one.columns):
            if not crosses(source, column) and values[i][j] is not None:
                frame = {"color": "#1c2128", "width": 2}
                figure.add_shape(
                    type="rect",
                    x0=j - 0.48,
                    x1=j + 0.48,
                    y0=i - 0.46,
                    y1=i + 0.46,
                    line=frame,
                    fillcolor="rgba(0,0,0,0)",
                )
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, title=None)
    figure.update_xaxes(title=None, tickfont={"size": 11})
    figure.update_layout(height=130 + 52 * len(one.rows), showlegend=False, margin={"t": 75, "b": 15})
    return figure


def _value(one: Transfer, source: Trained, column: Target) -> float | None:
    line = one.lines.get((source, column))
    return None if line is None else ranked(line).value


def _told(one: Transfer, source: Trained, column: Target) -> str:
    value = _value(one, source, column)
    return "" if value is None else f"{value:.3f}" + ("*" if one.lines[source, column].note else "")


def transfer_table(found: Sequence[Transfer], style: Mapping[str, Style], trivial: Sequence[Line]) -> str:
    """Every pair that was tested as a row of a table, and what trivial answers to the same tests would score.

    Args:
        found: matrices.
        style: of every configuration.
        trivial: of the board. They have mIoU, but neither boundaries nor detections, so no J&F and no AP50.
    """
    heads = ["method", "trained on", "of task", "tested on", "task", "protocol", "K", "P", "metric", "accuracy"]
    heads += ["95 % interval", "crosses", "note"]
    rows = []
    for one in found:
        for (source, column), line in one.lines.items():
            cells = [Cell(swatch(style[source.config].colour) + escaped(source.config), source.config, "text")]
            texts = (source.dataset, source.task, column.dataset, column.task, column.protocol)
            cells += [Cell(escaped(text), text, "text") for text in texts]
            cells += given(line)
            crossed = "yes" if crosses(source, column) else "no"
            cells += [*_scored(column.metric, ranked(line)), Cell(crossed, crossed, "text")]
            rows.append(row([*cells, Cell(escaped(line.note), line.note, "text")], line))
    targets = dict.fromkeys(column for one in found for column in one.columns if column.metric == "mIoU")
    for column in targets:
        for line in trivial:
            if (line.dataset, line.task, line.protocol) == column[:3]:
                cells = [Cell(swatch(GREY) + escaped(line.config), line.config, "text"), *[Cell("", "", "text")] * 2]
                cells += [Cell(escaped(text), text, "text") for text in column[:3]]
                cells += [*given(line), *_scored(column.metric, ranked(line)), *[Cell("", "", "text")] * 2]
                rows.append(row(cells, line, "trivial"))
    text = {"method", "trained on", "of task", "tested on", "task", "protocol", "metric", "crosses", "note"}
    return table(heads, rows, text, "Trained on one thing, tested on another")


def _scored(metric: str, score: Score) -> list[Cell]:
    between = "" if score.ci95 is None else f"{score.ci95[0]:.3f} to {score.ci95[1]:.3f}"
    interval = Cell(between, score.ci95[0] if score.ci95 else "")
    return [Cell(escaped(metric), metric, "text"), number(score.value), interval]
