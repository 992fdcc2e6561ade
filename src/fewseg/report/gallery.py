"""A gallery of the episodes of all runs: their rows in few bytes, and the pictures that fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fewseg.functional.run_figures import final_rows
from fewseg.functional.video_scores import frame_j
from fewseg.report.album import Album, entries
from fewseg.report.cells import Section
from fewseg.report.instances import class_names
from fewseg.results import Line, of_instances, of_videos, points, read_rows

_ROWS = 2_500_000  # characters of rows at most; the page is to stay below 10 MB
_CHARACTERS = 30  # of one episode, about
_KINDS = ("film", "truth", "best", "median", "worst", "list")  # which picture of a run comes first


def gallery_section(lines: Sequence[Line], out: Path, album: Album, room: int) -> Section | None:
    """The section, with all that its script reads.

    Args:
        lines: of the leaderboard.
        out: the benchmark's folder.
        album: with the pictures that stand elsewhere on the page.
        room: characters that are left on the page.

    Returns:
        None where no run has rows.
    """
    content, told = gathered(lines, out, album, room)
    if not content["runs"]:
        return Section("Episodes", f'<p class="notice">{told}</p>\n') if told else None
    # as text of a script nothing may look like a tag
    data = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    measure = "J: of a video, the mean over its frames and objects. " if of_videos(lines) else ""
    about = (
        f'<p class="quiet">Every scored episode of every run. {measure}The left and right arrow keys turn the pages. '
        f"{told}</p>\n"
    )
    return Section("Episodes", f"{about}{_WIDGET}<script type='application/json' id='gallery-data'>{data}</script>\n")


_WIDGET = """<div class="gallery" tabindex="0" role="group" aria-label="Episodes" hidden>
<div class="choices">
<label>method <select name="config"></select></label>
<label>run <select name="run"></select></label>
<label>class <select name="class"></select></label>
<label>order <select name="order"><option value="list">as in the list</option><option value="worst">worst first</option>
<option value="best">best first</option></select></label>
<label><input type="checkbox" name="pictured"> only with a picture</label>
</div>
<div class="pager"><button type="button" name="previous">&#8592; previous</button><output aria-live="polite"></output>
<button type="button" name="next">next &#8594;</button></div>
<div class="scroll shown" tabindex="0" role="region" aria-label="Picture"></div>
<div class="told"><dl></dl><div class="others"></div></div>
</div>
<noscript><p class="notice">The gallery needs JavaScript.</p></noscript>
"""


def gathered(lines: Sequence[Line], out: Path, album: Album, room: int) -> tuple[dict[str, Any], str]:
    """What the script of the gallery reads, and in words what is left out.

    Args:
        lines: of the leaderboard.
        out: the benchmark's folder.
        album: with the pictures that stand elsewhere on the page.
        room: characters that rows and pictures together may take.

    Returns:
        ``ids``, of images; ``lists``: what episodes ask for, one entry for all runs with the same list, in columns,
        images as places in ``ids``, shares in per mille; ``runs``: what they answer, in columns too, their
        ``pictures`` as [place in the list, id, kind]; ``pictures``: id -> data URL, of those that do not stand
        elsewhere on the page.
    """
    ids: dict[str, int] = {}
    lists: dict[str, int] = {}
    shelves: dict[int, _Shelf] = {}
    spent = missing = 0
    order = [(line, run) for line in lines for run in line.runs]
    for place in _in_turns(lines):
        line, run = order[place]
        path = out / run["run"] / "episodes.parquet"
        if not path.is_file():
            continue
        table = episodes_of(read_rows(path))
        if spent + _CHARACTERS * len(table) > min(_ROWS, room):
            missing += 1
            continue
        asked = json.dumps(_asked(table, _names(line, run, table), ids), separators=(",", ":"))
        spent += 0 if asked in lists else len(asked)
        entry = _entry(line, run, table, lists.setdefault(asked, len(lists)))
        spent += len(json.dumps(entry, separators=(",", ":")))
        pictures = [pair for pair in entries(path.parent / "pictures") if pair[1]["kind"] in _KINDS]
        pictures.sort(key=lambda pair: (_KINDS.index(pair[1]["kind"]), pair[1]["episode"]))
        shelves[place] = _Shelf(entry, table["episode"].tolist(), pictures)
    shown, left = _pictured(list(shelves.values()), album, room - spent - sum(len(name) + 3 for name in ids))
    content = {
        "ids": list(ids),
        "lists": [json.loads(text) for text in lists],
        "runs": [shelves[place].entry for place in sorted(shelves)],
        "pictures": shown,
    }
    told = [f"{left} pictures do not fit here: they are in the runs' folders." if left else ""]
    told += [f"The rows of {missing} runs do not fit here: they are in their folders." if missing else ""]
    return content, " ".join(filter(None, told))


class _Shelf(NamedTuple):
    """One run: what the script reads of it, the numbers of its episodes, and its pictures, the first ones first."""

    entry: dict[str, Any]
    episodes: list[int]
    pictures: list[tuple[Path, dict[str, Any]]]


def _in_turns(lines: Sequence[Line]) -> list[int]:
    """Places of all runs in the order of lines: one run of every line before another of any.

    >>> from types import SimpleNamespace
    >>> _in_turns([SimpleNamespace(runs="ab"), SimpleNamespace(runs="c")])
    [0, 2, 1]
    """
    turns = [(turn, i) for i, line in enumerate(lines) for turn in range(len(line.runs))]
    return sorted(range(len(turns)), key=turns.__getitem__)


def _pictured(shelves: Sequence[_Shelf], album: Album, room: int) -> tuple[dict[str, str], int]:
    """Gives every run a picture before any has a second one, until ``room`` is spent; and how many are left out."""
    pictures: dict[str, str] = {}
    album.refill(room)
    left = 0
    for turn in zip_longest(*(shelf.pictures for shelf in shelves)):
        for shelf, pair in zip(shelves, turn, strict=True):
            if pair is None or pair[1]["episode"] not in shelf.episodes:
                continue
            name = album.find(pair[0])
            added = album.add(pair[0]) if name is None else None
            if added is not None:
                name, pictures[added[0]] = added
            if name is None:
                left += 1
            else:
                shelf.entry["pictures"].append([shelf.episodes.index(pair[1]["episode"]), name, pair[1]["kind"]])
    return pictures, left


def episodes_of(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per episode of a run, in the order of the list.

    Args:
        frame: rows as ``results.read_rows`` returns them.

    Returns:
        ``episode``, ``query``, ``support``, ``class_id``, ``present``; ``iou``, the mean over the rows that count (of
        an object after its last click, of a video over objects and frames, where an empty frame that stays empty is 1),
        NaN where nothing is there and nothing is found; ``truth`` and ``found``, shares of pixels; ``clicks``,
        ``objects``, ``frames`` and ``detections``, 0 where an episode has none.

    >>> from fewseg.episode import Row
    >>> rows = [Row(4, "a", "s t", 1, 3, 1, 0, 6), Row(5, "b", "s t", 1, 0, 0, 0, 9, present=False)]
    >>> made = episodes_of(pd.DataFrame(rows))
    >>> made["episode"].tolist(), made["iou"].tolist(), made["truth"].tolist()
    ([4, 5], [0.75, nan], [0.3, 0.0])
    """
    final = final_rows(frame)
    numbers, first, place = np.unique(final["episode"].to_numpy(np.int64), return_index=True, return_inverse=True)
    tp, fp, fn, tn = (final[name].to_numpy(np.float64) for name in ("tp", "fp", "fn", "tn"))
    union, pixels = tp + fp + fn, np.maximum(tp + fp + fn + tn, 1)
    known = (union > 0) | final["frame"].notna().to_numpy()  # an empty frame of a video counts, as in its figures

    def mean(values: npt.NDArray[Any], of: npt.NDArray[Any]) -> npt.NDArray[Any]:
        count = np.bincount(place[of], minlength=len(numbers))
        total = np.bincount(place[of], values[of], minlength=len(numbers))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    every = np.ones(len(final), bool)
    table = final.iloc[first][["episode", "query", "support", "class_id", "present"]].reset_index(drop=True)
    table["iou"] = mean(frame_j(tp, fp, fn), known)
    table["truth"], table["found"] = mean((tp + fn) / pixels, every), mean((tp + fp) / pixels, every)
    table["clicks"] = _most(final, "click", numbers)
    table["objects"] = _kinds(final, "object_id", numbers)
    table["frames"] = _kinds(frame[frame["score"].isna()], "frame", numbers)
    table["detections"] = (
        frame[frame["score"].notna()].groupby("episode").size().reindex(numbers, fill_value=0).tolist()
    )
    return table


def _most(frame: pd.DataFrame, column: str, episodes: npt.NDArray[np.int64]) -> list[int]:
    """The largest value of a column in each episode, 0 where it has none."""
    known = frame[frame[column].notna()]
    return [int(v) for v in known.groupby("episode")[column].max().reindex(episodes, fill_value=0)]


def _kinds(frame: pd.DataFrame, column: str, episodes: npt.NDArray[np.int64]) -> list[int]:
    """How many different values a column has in each episode, 0 where it has none."""
    known = frame[frame[column].notna()]
    return [int(v) for v in known.groupby("episode")[column].nunique().reindex(episodes, fill_value=0)]


def _names(line: Line, run: Mapping[str, Any], table: pd.DataFrame) -> list[str]:
    """The name of every episode's class."""
    own = sorted(set(table["class_id"].tolist()))
    named = list(run.get("per_class_iou", {}))  # in the order of class ids
    if len(named) != len(own):
        names = class_names(line.dataset, max(own))
        named = [names[number - 1] for number in own]
    by_id = dict(zip(own, named, strict=True))
    return [by_id[number] for number in table["class_id"].tolist()]


def _asked(table: pd.DataFrame, names: Sequence[str], ids: dict[str, int]) -> dict[str, Any]:
    """What the episodes of a run ask for, in columns. New images are added to ``ids``."""
    classes = list(dict.fromkeys(names))
    asked: dict[str, Any] = {
        "classes": classes,
        "class": [classes.index(name) for name in names],
        "query": [ids.setdefault(name, len(ids)) for name in table["query"]],
        "support": [[ids.setdefault(one, len(ids)) for one in text.split()] for text in table["support"]],
        "truth": _per_mille(table["truth"]),
    }
    if table["episode"].tolist() != list(range(len(table))):
        asked["episode"] = table["episode"].tolist()
    if not table["present"].all():
        asked["present"] = table["present"].astype(int).tolist()
    return asked | _counts(table, ("objects", "frames"))


def _counts(table: pd.DataFrame, names: Sequence[str]) -> dict[str, list[int]]:
    return {name: table[name].astype(int).tolist() for name in names if table[name].any()}


def _per_mille(values: pd.Series[Any]) -> list[int]:
    """Whole numbers in place of shares; -1 where there is none, which of IoU is where nothing is there nor found."""
    known = values.to_numpy(np.float64)
    whole: list[int] = np.where(np.isnan(known), -1, np.rint(1000 * np.nan_to_num(known))).astype(int).tolist()
    return whole


def _entry(line: Line, run: Mapping[str, Any], table: pd.DataFrame, known: int) -> dict[str, Any]:
    """What a run answers, in columns, and how it is named."""
    parts = [line.dataset, line.protocol, f"K = {line.n_shot}"]
    parts += [] if of_instances([line]) else [f"P = {points(line.n_points)}"]
    parts += [f"fold {run['fold']}", f"seed {run['seed']}"]
    measure = "J" if of_videos([line]) else "IoU of the union" if of_instances([line]) else "IoU"
    answered = {"iou": _per_mille(table["iou"]), "found": _per_mille(table["found"])}
    return {
        "config": line.config,
        "label": ", ".join(parts),
        "p": points(line.n_points),
        "k": line.n_shot,
        "measure": measure,
        "folder": run["run"],
        "list": known,
        "pictures": [],
        **answered,
        **_counts(table, ("clicks", "detections")),
    }
