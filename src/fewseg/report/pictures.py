"""The pictures of a report: strips of videos, and the best, median and worst episodes."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from fewseg.report.figures import Style, setting_of, shared_setting
from fewseg.results import Line, amount, of_instances, of_videos, points

_BYTES = 3_000_000  # of files; keeps the page, plotly included, below 10 MB
_PICTURES_OF_A_KIND = 2


def pictures(lines: Sequence[Line], style: Mapping[str, Style], out: Path) -> str:
    """The sections of pictures as HTML, strips of videos first; empty where no run has pictures.

    Args:
        lines: of the leaderboard.
        style: of every configuration.
        out: the benchmark's folder.
    """
    films, spent = _films(lines, style, out)
    return films + _episodes(lines, style, out, _BYTES - spent)


class _Picture(NamedTuple):
    """One episode of one run: what ``pictures/index.json`` says and where the file lies."""

    config: str
    kind: str
    path: Path
    iou: float
    caption: str


class _Film(NamedTuple):
    """The strip of one video by one run: where the file lies, J, and the indices of annotated frames."""

    path: Path
    j_mean: float | None
    annotated: list[int]


def _films(lines: Sequence[Line], style: Mapping[str, Style], out: Path) -> tuple[str, int]:
    """Strips of the same frames of the same videos, the truth above all methods; and the bytes of the files."""
    parts, total, left = [], 0, 0
    videos = [line for line in lines if of_videos([line])]
    groups = [
        (names, list(members)) for names, members in groupby(videos, lambda one: (one.dataset, one.task, one.protocol))
    ]
    for names, members in groups:
        shown = [line for line in members if any((out / run["run"] / "pictures").is_dir() for run in line.runs)]
        if not shown:
            continue
        n_shot, n_points = shared_setting(shown)
        truths: dict[str, _Film] = {}
        strips: dict[str, list[tuple[Line, _Film]]] = {}
        for line in shown:
            if (line.n_shot, line.n_points) == (n_shot, n_points):
                for query, film in _strips(line, "film", out).items():
                    strips.setdefault(query, []).append((line, film))
                truths = {**_strips(line, "truth", out), **truths}
        where = f" ({', '.join(names)})" if len(groups) > 1 else ""
        for query, made in strips.items():
            made.sort(key=lambda one: -(one[1].j_mean or 0.0))
            # the truth first, then the best: what no longer fits is left out from the end
            rows, first = [], truths.get(query)
            queue: list[tuple[Line | None, _Film]] = [(None, first)] if first else []
            for one, film in (*queue, *made):
                size = film.path.stat().st_size
                if left or total + size > _BYTES:
                    left += 1
                else:
                    total += size
                    rows.append(_strip(one, film, query, style))
            given = made[0][1].annotated
            told = f"annotated {'frame' if len(given) == 1 else 'frames'} {', '.join(map(str, given))}"
            setting = f"K = {n_shot}, P = {points(n_points)}: {told}"
            if rows:
                parts.append(
                    f'<h3>{html.escape(query + where)}</h3>\n<p class="quiet">{setting}</p>\n'
                    f'<div class="scroll"><div class="films">\n{"".join(rows)}</div></div>\n'
                )
    more = f' {left} more are in the "pictures" folders of the runs.' if left else ""
    told = (
        "The same frames of the same videos by every method, the best on top. Numbers are those of the frames, from 0; "
        "annotated frames have a red border, and sparse points are drawn in the truth. Colours are objects. J: of this "
        "video."
    )
    if not parts:
        return "", 0
    return f'<h2>Videos side by side</h2>\n<p class="quiet">{told}{more}</p>\n{"".join(parts)}', total


def _strips(line: Line, kind: str, out: Path) -> dict[str, _Film]:
    """Video -> the strip of a kind in the first of the line's runs that has one."""
    found: dict[str, _Film] = {}
    for run in line.runs:
        for path, entry in _entries(out / run["run"] / "pictures"):
            if entry["kind"] == kind:
                found.setdefault(entry["query"], _Film(path, entry.get("j_mean"), entry["annotated"]))
    return found


def _strip(line: Line | None, film: _Film, query: str, style: Mapping[str, Style]) -> str:
    name, swatch = "truth", ""
    if line is not None:
        name = f"{line.config}" + ("" if film.j_mean is None else f", J {film.j_mean:.3f}")
        swatch = f'<span class="swatch" style="background:{style[line.config].colour}"></span>'
    told = html.escape(f"{query}: {name}")
    return f'<div>{swatch}{html.escape(name)}</div><img src="{_data(film.path)}" alt="{told}">\n'


def _episodes(lines: Sequence[Line], style: Mapping[str, Style], out: Path, budget: int) -> str:
    """The best, the median and the worst episodes of every method, within a budget of bytes."""
    shelves: dict[tuple[str, str], list[_Picture]] = {}
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
        if total > budget:
            break
        shown.add(picture)
    parts = []
    for config in dict.fromkeys(config for config, _ in shelves):
        figures = [_figure(p) for (c, _), shelf in shelves.items() if c == config for p in shelf if p in shown]
        swatch = f'<span class="swatch" style="background:{style[config].colour}"></span>'
        if figures:
            parts.append(f'<h3>{swatch}{html.escape(config)}</h3>\n<div class="pictures">\n{"".join(figures)}</div>\n')
    if not parts:
        return ""
    left = len(queue) - len(shown)
    more = f' {left} more are in the "pictures" folders of the runs.' if left else ""
    told = ""
    if of_instances(lines):
        told = (
            " Left what is found, with scores and with the references in the corner, right the truth. Detections that "
            "score 0.5 or less are left out; where none scores more, the best one is a thin box."
        )
    return (
        "<h2>Best, median and worst episodes</h2>\n"
        f'<p class="quiet">Of each method at its densest setting.{told}{more}</p>\n{"".join(parts)}'
    )


def _chosen(lines: Sequence[Line], config: str, kind: str, out: Path) -> list[_Picture]:
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


def _index(folder: Path, line: Line, run: dict[str, Any]) -> list[_Picture]:
    found = []
    for path, entry in _entries(folder):
        if "iou" not in entry:  # the strip of a video
            continue
        where = f"fold {run['fold']}, {setting_of(line)}, query {entry['query']}"
        after = f" after {_clicks(entry['clicks'])}" if entry.get("clicks") else ""
        union = " of the union" if of_instances([line]) else ""
        caption = f"{entry['kind']}: {entry['class_name']}, IoU{union} {entry['iou']:.3f}{after} ({where})"
        found.append(_Picture(line.config, entry["kind"], path, entry["iou"], caption))
    return found


def _entries(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The pictures of a run, each with what its index says of it."""
    index = folder / "index.json"
    if not index.is_file():
        return []
    # a name in an index never leads out of the folder
    entries = [(folder / Path(entry["file"]).name, entry) for entry in json.loads(index.read_text(encoding="utf-8"))]
    return [(path, entry) for path, entry in entries if path.is_file()]


def _clicks(count: int) -> str:
    return "1 click" if count == 1 else f"{count} clicks"


def _figure(picture: _Picture) -> str:
    caption = html.escape(picture.caption)
    return f'<figure><img src="{_data(picture.path)}" alt="{caption}"><figcaption>{caption}</figcaption></figure>\n'


def _data(path: Path) -> str:
    """A picture as part of the page."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
