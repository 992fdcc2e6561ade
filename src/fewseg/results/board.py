"""A benchmark summed up once: what its tables, its page and its dashboard show."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewseg.functional.iou import fb_iou, percentile_interval, positive_iou
from fewseg.functional.ranking import Rank, rank
from fewseg.functional.trivial import trivial_rows
from fewseg.functional.video_scores import frame_j
from fewseg.results.compare import Comparison, comparisons_of, reference_of
from fewseg.results.files import SETTING, amount, collect, read_plan
from fewseg.results.leaderboard import Line, lines_of, of_instances, of_videos
from fewseg.results.resampling import Resampled, average, average_of, mean, miou_replicates, resample, together
from fewseg.results.stamps import stamp


@dataclasses.dataclass(frozen=True)
class Board:
    """The runs of a benchmark and all that is told of them.

    Args:
        rows: of ``summary.json``.
        lines: of the leaderboard, with ranks where several methods can be ranked.
        trivial: what all background, all foreground and the true box would score, for every data set and protocol.
        comparisons: with the reference, and of variants with their plain evaluation.
    """

    rows: list[dict[str, Any]]
    lines: list[Line]
    trivial: list[Line]
    comparisons: list[Comparison]


def read_board(out: Path, folds_expected: int | None = None) -> Board:
    """The board of the finished runs in a folder; reads every file of rows once, and nothing that it has just read.

    Args:
        out: the benchmark's folder.
        folds_expected: folds of a whole benchmark; by default what the plan says, or else the rows.

    Raises:
        FewsegError: a foreign ``metrics.json``, or rows of another schema.
    """
    return _read(out, folds_expected, stamp(out))


@functools.lru_cache(1)
def _read(out: Path, folds_expected: int | None, stamped: str) -> Board:
    rows = collect(out)
    drawn = resample(rows, out)
    lines = lines_of(rows, drawn, folds_expected or read_plan(out).get("n_folds"))
    return Board(
        rows, ranked(lines, drawn), trivial_lines(lines, drawn), comparisons_of(rows, drawn, reference_of(out))
    )


def _setting(line: Line) -> tuple[Any, ...]:
    return (*(getattr(line, name) for name in SETTING[:-1]), amount(line.n_points))


def _by(key: Any, lines: Iterable[Line]) -> list[list[Line]]:
    return [list(group) for _, group in itertools.groupby(sorted(lines, key=key), key)]


def ranked(lines: Sequence[Line], drawn: Mapping[str, Resampled]) -> list[Line]:
    """The lines, each with its rank in its setting: by mIoU, J of videos, or AP50 of boxes of instances.

    Lines of fewer folds than others, and those whose rows are missing, have none.

    Args:
        lines: of a leaderboard.
        drawn: their runs, resampled.
    """
    ranks: dict[int, Rank] = {}
    for group in _by(_setting, lines):
        known = [(line, found) for line in group if (found := _figures(line, drawn))]
        most = max((len(line.folds) for line, _ in known), default=0)
        known = [(line, found) for line, found in known if len(line.folds) == most]
        together = {(frozenset(line.folds), place) for line, (_, _, place) in known}
        if len(known) > 1 and len(together) == 1:
            points, replicates = [one[0] for _, one in known], np.stack([one[1] for _, one in known], axis=1)
            places = rank(points, replicates)
            ranks |= {id(line): place for (line, _), place in zip(known, places, strict=True)}
    return [dataclasses.replace(line, rank=ranks.get(id(line))) for line in lines]


def _figures(line: Line, drawn: Mapping[str, Resampled]) -> tuple[float, Any, int] | None:
    """What a line is ranked by, the same of every replicate (R,), and with what it was resampled."""
    runs = [run for run in line.runs if "miou" in run]
    found = together(runs, drawn)
    if not found or len(runs) < len(line.runs):
        return None
    kinds = {"j": of_videos([line]), "ap50": of_instances([line]), "miou": True}
    kind = next(name for name, applies in kinds.items() if applies)
    if any(getattr(one, kind) is None for one in found):
        return None
    replicates = np.stack([one.ap50[:, 0] if kind == "ap50" else getattr(one, kind) for one in found], axis=1)
    if kind == "miou":  # of the rows, as its replicates: where a list is several runs, tables show the mean over these
        point = float(average(np.array([[one.point for one in found]]), runs)[0])
    else:
        point = average_of("j_mean" if kind == "j" else "ap50_boxes", runs)
    return point, average(replicates, runs), found[0].group


def trivial_lines(lines: Sequence[Line], drawn: Mapping[str, Resampled]) -> list[Line]:
    """What trivial answers would score in the episodes of a data set and protocol, at its smallest K and P.

    Args:
        lines: of a leaderboard.
        drawn: their runs, resampled.
    """
    found = []
    for group in _by(lambda line: (line.dataset, line.task, line.protocol), lines):
        known = [line for line in group if line.folds and together(line.runs, drawn)]
        if known:
            most = max(len(line.folds) for line in known)
            found += _trivial(min((x for x in known if len(x.folds) == most), key=_setting), drawn)
    return found


def _trivial(line: Line, drawn: Mapping[str, Resampled]) -> list[Line]:
    runs = list({run["fold"]: run for run in reversed(line.runs)}.values())[::-1]  # one seed of each fold
    answers = [trivial_rows(drawn[run["run"]].final) for run in runs]
    made = []
    for name in answers[0]:
        if not all(name in one for one in answers):
            continue
        frames = [one[name] for one in answers]
        ious, points = miou_replicates(runs, frames)
        miou = float(average(points[None], runs)[0])
        figures = {"fb_iou": mean(map(_fb_iou, frames)), "positive_iou": mean(map(_positive_iou, frames))}
        if of_videos([line]):
            figures["j_mean"] = mean(map(_j_mean, frames))
        made.append(
            dataclasses.replace(
                line,
                config=name,
                method="Trivial",
                folds={run["fold"]: float(point) for run, point in zip(runs, points, strict=True)},
                miou=miou,
                ci95=percentile_interval(average(ious, runs), miou),
                figures=figures,
                per_class_iou={},
                n_episodes=sum(run.get("n_episodes", 0) for run in runs),
                n_seeds=1,
                note="",
                runs=(),
                clicks=None,
                jf_ci95=None,
                ap50_boxes_ci95=None,
                ap50_ci95=None,
                rank=None,
                trivial=True,
            )
        )
    return made


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
