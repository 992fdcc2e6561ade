"""The parts that all sections of a report are built of: sections, tables that sort, and marks for the filter."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from fewseg.results import Comparison, Line, points

GREY = "#aab2bb"  # of what is no method


class Section(NamedTuple):
    """One section of the page: its title, which the navigation repeats, and its body as HTML."""

    title: str
    body: str


class Cell(NamedTuple):
    """One cell of a table: HTML, the value that it is sorted by (empty stays last), and a CSS class."""

    content: str
    sort: object = ""
    kind: str = ""


def escaped(value: object) -> str:
    """Any value as text of HTML.

    >>> escaped("a < b")
    'a &lt; b'
    """
    return html.escape(str(value))


def listed(values: Iterable[object]) -> str:
    """Values as text of HTML, each once, parted by commas."""
    return ", ".join(dict.fromkeys(map(escaped, values)))


def slug(title: str) -> str:
    """The id of a section.

    >>> slug("Videos: accuracy against time (davis, video)")
    'videos-accuracy-against-time-davis-video'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def rendered(sections: Sequence[Section]) -> str:
    """A navigation and the sections, each with an id; nothing where there is no section."""
    names: dict[str, int] = {}
    parts, links = [], []
    for one in sections:
        name = slug(one.title)
        names[name] = names.get(name, 0) + 1
        name += f"-{names[name]}" if names[name] > 1 else ""
        links.append(f'<a href="#{name}">{escaped(one.title)}</a>')
        parts.append(f'<section id="{name}">\n<h2>{escaped(one.title)}</h2>\n{one.body}</section>\n')
    top = f'<nav aria-label="Sections"><div>{" ".join(links)}</div></nav>\n' if links else ""
    return top + "".join(parts)


def number(value: float | None) -> Cell:
    """Three decimals; empty where there is none."""
    return Cell("") if value is None else Cell(f"{value:.3f}", value)


def annotated_points(one: Line | Comparison) -> Cell:
    """P; dense is more than any number."""
    return Cell(points(one.n_points), 1e9 if one.n_points is None else one.n_points)


def given(line: Line) -> list[Cell]:
    """K and P of a line; of a trivial answer those that it holds for, empty where these are any."""
    if line.trivial:
        return [Cell(text, _first(text)) for text in line.given]
    return [Cell(str(line.n_shot), line.n_shot), annotated_points(line)]


def _first(text: str) -> object:
    """What a list of numbers sorts by; dense is more than any number.

    >>> _first("5, dense"), _first("dense"), _first("")
    (5, 1000000000.0, '')
    """
    first = text.split(", ")[0]
    return int(first) if first.isdigit() else 1e9 if first else ""


def swatch(colour: str) -> str:
    """The colour of a configuration."""
    return f'<span class="swatch" style="background:{colour}"></span>'


def place(one: Line | Comparison) -> str:
    """Attributes by which the filter knows the setting of a row; most trivial answers are those of any K and P."""
    amounts = (str(one.n_shot), points(one.n_points))
    if isinstance(one, Line) and one.trivial:
        amounts = one.given
    names = {"dataset": one.dataset, "task": one.task, "protocol": one.protocol}
    names |= {name: text for name, text in zip("kp", amounts, strict=True) if text}
    return "".join(f' data-{name}="{escaped(value)}"' for name, value in names.items())


def row(cells: Iterable[Cell], of: Line | Comparison | None = None, kind: str = "") -> str:
    """One row of a table. ``of``: what it shows, so that the filter finds it."""
    marks = ([kind] if kind else []) + (["setting"] if of else [])
    css = f' class="{" ".join(marks)}"' if marks else ""
    body = "".join(f'<td class="{c.kind}" data-sort="{escaped(c.sort)}">{c.content}</td>' for c in cells)
    return f"<tr{css}{place(of) if of else ''}>{body}</tr>\n"


def table(heads: Sequence[str], rows: Sequence[str], text: Collection[str], label: str) -> str:
    """A table whose heads sort, in a box that scrolls sideways and can be reached with the keyboard.

    Args:
        heads: one for each column.
        rows: as from ``row``.
        text: heads of columns that sort by letters.
        label: what the box holds, for screen readers.
    """
    tops = "".join(
        f'<th class="{"text" if head in text else ""}" scope="col"><button type="button">{escaped(head)}</button></th>'
        for head in heads
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(label)}">'
        f'<table class="sortable">\n<thead><tr>{tops}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody>\n</table></div>\n'
    )
