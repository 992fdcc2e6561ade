"""A benchmark summed up once: what its tables, its page and its dashboard show."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fewseg.functional.iou import fb_iou, per_class_iou, percentile_interval, positive_iou
from fewseg.functional.ranking import Rank, rank
from fewseg.functional.run_figures import presence_figures
from fewseg.functional.trivial import trivial_rows
from fewseg.functional.video_scores import frame_j
from fewseg.results.compare import Comparison, comparisons_of, reference_of
from fewseg.results.files import SETTING, amount, collect, read_plan
from fewseg.results.leaderboard import Line, lines_of, main_figure, main_replicates, of_videos
from fewseg.results.resampling import SAME, Resampled, average, average_of, mean, miou_replicates, resample, together
from fewseg.results.stamps import stamp
from fewseg.results.tables import points


@dataclasses.dataclass(frozen=True)
class Board:
    """The runs of a benchmark and all that is told of them.

    Args:
        rows: of ``summary.json``.
        lines: of the leaderboard, with ranks where several methods can be ranked.
        trivial: what all background, all foreground and the true box would score, for every data set and protocol.
        comparisons: with the reference, and of variants with their plain evaluation.
        stamped: what all this was made of, for ``mark_current``.
    """

    rows: list[dict[str, Any]]
    lines: list[Line]
    trivial: list[Line]
    comparisons: list[Comparison]
    stamped: str


def read_board(out: Path) -> Board:
    """The board of the finished runs in a folder; reads every file of rows once, and nothing that it has just read.

    How many folds a whole benchmark has is what the folder's plan says, or else the rows.

    Args:
        out: the benchmark's folder.

    Raises:
        FewsegError: a foreign ``metrics.json``, or rows of another schema.
    """
    return _read(out, stamp(out))


@functools.lru_cache(1)
def _read(out: Path, stamped: str) -> Board:
    rows = collect(out)
    drawn = resample(rows, out)
    lines = lines_of(rows, drawn, read_plan(out).get("n_folds"))
    compared = comparisons_of(rows, drawn, reference_of(out))
    return Board(rows, ranked(lines, drawn), trivial_lines(lines, drawn), compared, stamped)


def _setting(line: Line) -> tuple[Any, ...]:
    return (*(getattr(line, name) for name in SETTING[:-1]), amount(line.n_points))


def _by(key: Any, lines: Iterable[Line]) -> list[list[Line]]:
    return [list(group) for _, group in itertools.groupby(sorted(lines, key=key), key)]


def ranked(lines: Sequence[Line], drawn: Mapping[str, Resampled]) -> list[Line]:
    """The lines, each with its rank in its setting: by mIoU, J of videos, or AP50 of boxes of instances.

    Lines of fewer folds than others, and those whose rows are missing, have none, nor has any where one of the folds
    has too few images or videos, see ``ranking.rank``.

    Args:
        lines: of a leaderboard.
        drawn: their runs, resampled.
    """
    ranks: dict[int, tuple[Rank | None, int]] = {}
    for group in _by(_setting, lines):
        known = [(line, found) for line in group if (found := _figures(line, drawn))]
        most = max((len(line.folds) for line, _ in known), default=0)
        known = [(line, found) for line, found in known if len(line.folds) == most]
        together = {(frozenset(line.folds), found.group) for line, found in known}
        if len(known) > 1 and len(together) == 1:
            points, replicates = [one.point for _, one in known], np.stack([one.replicates for _, one in known], axis=1)
            fewest = min(one.n_clusters for _, one in known)
            places: Sequence[Rank | None] = rank(points, replicates, fewest) or [None] * len(known)
            ranks |= {id(line): (place, fewest) for (line, _), place in zip(known, places, strict=True)}
    told = [ranks.get(id(line), (None, None)) for line in lines]
    return [dataclasses.replace(line, rank=at, n_clusters=n) for line, (at, n) in zip(lines, told, strict=True)]


class _Figures(NamedTuple):
    """What a line is ranked by, the same of every replicate (R,), of how many images of a fold, and drawn with what."""

    point: float
    replicates: Any
    n_clusters: int
    group: int


def _figures(line: Line, drawn: Mapping[str, Resampled]) -> _Figures | None:
    runs = [run for run in line.runs if "miou" in run]
    replicates = main_replicates(runs, drawn) if len(runs) == len(line.runs) else None
    if replicates is None:
        return None
    by, found = main_figure(line.task), [drawn[run["run"]] for run in runs]
    # mIoU of the rows, as its replicates: where a list is several runs, tables show the mean over these
    point = float(average(np.array([[one.point for one in found]]), runs)[0]) if by == "miou" else average_of(by, runs)
    fewest = min(one.n_clusters for one in found)
    return _Figures(point, average(replicates, runs), fewest, found[0].group)


def trivial_lines(lines: Sequence[Line], drawn: Mapping[str, Resampled]) -> list[Line]:
    """What trivial answers would score in the episodes of a data set and protocol.

    Where K or P change what is asked, as roles of query and support do that are exchanged at K = 1, there is a set of
    lines for all settings that ask the same, and ``given`` says which; else there is one for all.

    Args:
        lines: of a leaderboard.
        drawn: their runs, resampled.
    """
    found = []
    for group in _by(lambda line: (line.dataset, line.task, line.protocol), lines):
        sets = _asked_the_same([line for line in group if line.folds and together(line.runs, drawn)], drawn)
        shots = [tuple(sorted({line.n_shot for line in own})) for own in sets]
        marked = [tuple(sorted({line.n_points for line in own}, key=amount)) for own in sets]
        for own, k, p in zip(sets, shots, marked, strict=True):
            given = (
                ", ".join(map(str, k)) if len(set(shots)) > 1 else "",
                ", ".join(map(points, p)) if len(set(marked)) > 1 else "",
            )
            found += [dataclasses.replace(line, given=given) for line in _trivial(own[0], drawn)]
    return found


def _asked_the_same(lines: Sequence[Line], drawn: Mapping[str, Resampled]) -> list[list[Line]]:
    """A line of each setting, one with the most folds, in sets whose folds ask the same; such lines come first."""
    settings = [max(own, key=lambda line: len(line.folds)) for own in _by(_setting, lines)]
    sets: list[tuple[dict[int, int], list[Line]]] = []  # what is asked in every fold, and by which lines
    for line in sorted(settings, key=lambda line: -len(line.folds)):
        asked = {run["fold"]: _asked(drawn[run["run"]].final) for run in line.runs}
        for known, own in sets:
            shared = known.keys() & asked.keys()
            if shared and all(known[fold] == asked[fold] for fold in shared):
                own.append(line)
                break
        else:
            sets.append((asked, [line]))
    return sorted((own for _, own in sets), key=lambda own: min(map(_setting, own)))


def _asked(final: pd.DataFrame) -> int:
    """A hash of the queries and of how much of each is foreground, in any order."""
    asked = final[["query", "class_id", "object_id"]].assign(
        positives=final["tp"] + final["fn"], negatives=final["fp"] + final["tn"]
    )
    return int(pd.util.hash_pandas_object(asked, index=False).sum())  # modulo 2 ** 64


def _trivial(line: Line, drawn: Mapping[str, Resampled]) -> list[Line]:
    runs = list({run["fold"]: run for run in reversed(line.runs)}.values())[::-1]  # one seed of each fold
    finals = [drawn[run["run"]].final for run in runs]
    names = [_class_names(run, final) for run, final in zip(runs, finals, strict=True)]
    answers = [trivial_rows(final) for final in finals]
    made = []
    for name in answers[0]:
        if not all(name in one for one in answers):
            continue
        frames = [one[name] for one in answers]
        ious, of_runs = miou_replicates(runs, frames)
        miou = float(average(of_runs[None], runs)[0])
        figures = {"fb_iou": mean(map(_fb_iou, frames)), "positive_iou": mean(map(_positive_iou, frames))}
        if of_videos([line]):
            figures["j_mean"] = mean(map(_j_mean, frames))
        presence = [presence_figures(frame) for frame in frames if not frame["present"].all()]
        for figure in dict.fromkeys(figure for one in presence for figure in one):
            figures[figure] = mean(one[figure] for one in presence if figure in one)
        of_classes = [
            (known[c], iou)
            for known, frame in zip(names, frames, strict=True)
            for c, iou in _per_class(frame).items()
            if c in known
        ]
        made.append(
            dataclasses.replace(
                line,
                config=name,
                method="Trivial",
                folds={run["fold"]: float(point) for run, point in zip(runs, of_runs, strict=True)},
                miou=miou,
                ci95=percentile_interval(average(ious, runs), miou),
                figures=figures,
                per_class_iou={c: mean(iou for other, iou in of_classes if other == c) for c, _ in of_classes},
                n_episodes=sum(run.get("n_episodes", 0) for run in runs),
                n_seeds=1,
                note="",
                runs=(),
                clicks=None,
                jf_ci95=None,
                ap50_boxes_ci95=None,
                ap50_ci95=None,
                rank=None,
                n_clusters=None,
                trivial=True,
            )
        )
    return made


def _class_names(run: Mapping[str, Any], final: pd.DataFrame) -> dict[int, str]:
    """The names of the classes in a run's rows: it names them in the order of their ids; none where rows do not fit."""
    ious, told = _per_class(final), run.get("per_class_iou", {})
    several = run.get("n_repeats", 1) > 1  # means over lists, which rows of all lists together do not give
    if len(ious) != len(told):
        return {}
    fits = all(abs(iou - other) <= SAME for iou, other in zip(ious.values(), told.values(), strict=True))
    return dict(zip(ious, told, strict=True)) if several or fits else {}


def _per_class(frame: pd.DataFrame) -> dict[int, float]:
    return per_class_iou(*_counts(frame, "class_id", "tp", "fp", "fn"))


def _counts(frame: pd.DataFrame, *names: str) -> list[Any]:
    return [frame[name].to_numpy(np.int64) for name in names]


def _fb_iou(frame: pd.DataFrame) -> float:
    return fb_iou(*_counts(frame, "tp", "fp", "fn", "tn"))


def _positive_iou(frame: pd.DataFrame) -> float:
    return positive_iou(*_counts(frame, "tp", "fp", "fn"))


def _j_mean(frame: pd.DataFrame) -> float:
    """Mean over objects of the mean J over their frames."""
    scored = frame.assign(j=frame_j(*_counts(frame, "tp", "fp", "fn")))
    return float(scored.groupby(["episode", "object_id"])["j"].mean().mean())
