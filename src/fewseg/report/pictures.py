"""The pictures of a report: strips of videos, and the best, median and worst episodes."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from fewseg.report.album import Album, entries
from fewseg.report.cells import Section, swatch
from fewseg.report.figures import Style, setting_of, shared_setting
from fewseg.results import Line, amount, of_instances, of_videos, points

_PICTURES_OF_A_KIND = 2


def picture_sections(lines: Sequence[Line], style: Mapping[str, Style], out: Path, album: Album) -> list[Section]:
    """The sections of pictures, strips of videos first; empty where no run has pictures.

    Args:
        lines: of the leaderboard.
        style: of every configuration.
        out: the benchmark's folder.
        album: that takes the pictures.
    """
    return [one for one in (_films(lines, style, out, album), _episodes(lines, style, out, album)) if one]


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


def _films(lines: Sequence[Line], style: Mapping[str, Style], out: Path, album: Album) -> Section | None:
    """Strips of the same frames of the same videos, the truth above all methods."""
    parts, left = [], 0
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
                added = album.add(film.path)
                if added is None:
                    left += 1
                else:
                    rows.append(_strip(one, film, query, style, added))
            given = made[0][1].annotated
            told = f"annotated {'frame' if len(given) == 1 else 'frames'} {', '.join(map(str, given))}"
            setting = f"K = {n_shot}, P = {points(n_points)}: {told}"
            if rows:
                parts.append(
                    f'<h3>{html.escape(query + where)}</h3>\n<p class="quiet">{setting}</p>\n'
                    f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(query)}">'
                    f'<div class="films">\n{"".join(rows)}</div></div>\n'
                )
    more = f' {left} more are in the "pictures" folders of the runs.' if left else ""
    told = (
        "The same frames of the same videos by every method, the best on top. Numbers are those of the frames, from 0; "
        "annotated frames have a red border, and sparse points are drawn in the truth. Colours are objects. J: of this "
        "video."
    )
    if not parts:
        return None
    return Section("Videos side by side", f'<p class="quiet">{told}{more}</p>\n{"".join(parts)}')


def _strips(line: Line, kind: str, out: Path) -> dict[str, _Film]:
    """Video -> the strip of a kind in the first of the line's runs that has one."""
    found: dict[str, _Film] = {}
    for run in line.runs:
        for path, entry in entries(out / run["run"] / "pictures"):
            if entry["kind"] == kind:
                found.setdefault(entry["query"], _Film(path, entry.get("j_mean"), entry["annotated"]))
    return found


def _strip(line: Line | None, film: _Film, query: str, style: Mapping[str, Style], added: tuple[str, str]) -> str:
    name, mark = "truth", ""
    if line is not None:
        name = f"{line.config}" + ("" if film.j_mean is None else f", J {film.j_mean:.3f}")
        mark = swatch(style[line.config].colour)
    told = html.escape(f"{query}: {name}")
    return f'<div>{mark}{html.escape(name)}</div><img id="{added[0]}" src="{added[1]}" alt="{told}">\n'


def _episodes(lines: Sequence[Line], style: Mapping[str, Style], out: Path, album: Album) -> Section | None:
    """The best, the median and the worst episodes of every method."""
    shelves: dict[tuple[str, str], list[_Picture]] = {}
    for config in dict.fromkeys(line.config for line in lines):
        for kind in ("best", "median", "worst"):
            chosen = _chosen(lines, config, kind, out)
            if chosen:
                shelves[config, kind] = chosen
    # every method shows its first picture of each kind before any shows a second
    queue = [shelf[i] for i in range(_PICTURES_OF_A_KIND) for shelf in shelves.values() if i < len(shelf)]
    shown: dict[_Picture, tuple[str, str]] = {}
    for picture in queue:
        added = album.add(picture.path)
        if added is not None:
            shown[picture] = added
    parts = []
    for config in dict.fromkeys(config for config, _ in shelves):
        kept = [p for (c, _), shelf in shelves.items() if c == config for p in shelf if p in shown]
        figures = [_figure(picture, shown[picture]) for picture in kept]
        if figures:
            title = swatch(style[config].colour) + html.escape(config)
            parts.append(f'<h3>{title}</h3>\n<div class="pictures">\n{"".join(figures)}</div>\n')
    if not parts:
        return None
    left = len(queue) - len(shown)
    more = f' {left} more are in the "pictures" folders of the runs.' if left else ""
    told = ""
    if of_instances(lines):
        told = (
            " Left what is found, with scores and with the references in the corner, right the truth. Detections that "
            "score 0.5 or less are left out; where none scores more, the best one is a thin box."
        )
    about = f'<p class="quiet">Of each method at its densest setting.{told}{more}</p>\n'
    return Section("Best, median and worst episodes", about + "".join(parts))


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
    for path, entry in entries(folder):
        if "iou" not in entry:  # the strip of a video
            continue
        where = f"fold {run['fold']}, {setting_of(line)}, query {entry['query']}"
        after = f" after {_clicks(entry['clicks'])}" if entry.get("clicks") else ""
        union = " of the union" if of_instances([line]) else ""
        caption = f"{entry['kind']}: {entry['class_name']}, IoU{union} {entry['iou']:.3f}{after} ({where})"
        found.append(_Picture(line.config, entry["kind"], path, entry["iou"], caption))
    return found


def _clicks(count: int) -> str:
    return "1 click" if count == 1 else f"{count} clicks"


def _figure(picture: _Picture, added: tuple[str, str]) -> str:
    told = html.escape(picture.caption)
    return f'<figure><img id="{added[0]}" src="{added[1]}" alt="{told}"><figcaption>{told}</figcaption></figure>\n'
