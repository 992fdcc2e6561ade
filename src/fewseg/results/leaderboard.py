"""One line per configuration and setting, with intervals: seeds and folds of a benchmark summed up."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fewseg.functional.instance_figures import interval_of_ap50
from fewseg.functional.iou import percentile_interval
from fewseg.functional.ranking import Rank, variance_split
from fewseg.functional.run_figures import NOC_PERCENT
from fewseg.results.files import GROUP, setting_order
from fewseg.results.resampling import SAME, Resampled, average, by_fold, filled, fold_mean, mean, resample, together

if TYPE_CHECKING:
    from fewseg.results.compare import Comparison

_IOU_AFTER = (1, 5)  # clicks

# figures of tasks beyond IoU, with their heads in tables; a table shows those that its runs have
FIGURES = {
    "jf_mean": "J&F",
    "j_mean": "J",
    "j_recall": "J recall",
    "j_decay": "J decay",
    "f_mean": "F",
    "f_recall": "F recall",
    "f_decay": "F decay",
    **{f"iou_at_{k}": f"IoU@{k}" for k in _IOU_AFTER},
    **{f"noc{percent}": f"NoC@{percent}" for percent in NOC_PERCENT},
    "over_limit90": "over@90",
    "ap50_boxes": "AP50 boxes",
    "ap50": "AP50 masks",
    "ap_boxes": "AP boxes",
    "ap": "AP masks",
    "guidance_within": "z within",
    "guidance_between": "z between",
    "miou_present": "mIoU, present",
    "false_alarm": "false alarms",
    "false_alarm_area": "false area",
    "presence_accuracy": "presence",
    "miou_std_seeds": "std over seeds",
    "sd_seeds": "sd seeds",
    "sd_episodes": "sd episodes",
    "sd_both": "sd both",
    "seconds_per_video": "s/video",
    "seconds_per_frame": "s/frame",
    "seconds_guide_per_video": "s/guide",
    "seconds_per_update": "s/update",
    "seconds_per_click": "s/click",
    "seconds_refine_per_click": "s/click, refining",
    "seconds_robot_per_click": "s/click, robot",
}


_OF_VIDEOS = {"video", "interactive_video"}


class ClickCurve(NamedTuple):
    """After 1, 2, ... clicks, as means over seeds and then folds.

    Args:
        iou: mean over objects.
        ci95: of ``iou``, [low, high] after each click, a bootstrap over the query images; None where rows are missing.
        seconds: of network and refinement up to each click; empty where they were not measured.
    """

    iou: tuple[float, ...]
    ci95: tuple[tuple[float, float], ...] | None
    seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a leaderboard: all folds and seeds of one configuration in one setting.

    Args:
        dataset: the data set's name; ``task``, ``protocol``, ``config`` and ``method`` as in ``summary.json``.
        n_points: annotated pixels per label and image, None = dense.
        folds: fold -> mIoU, mean over its seeds; empty where runs have no mIoU.
        miou: mean over ``folds``.
        ci95: of ``miou``, a bootstrap over the query images of all folds; None where rows cannot reproduce ``miou``.
        figures: other figures by name, mean over seeds and then folds.
        per_class_iou: class name -> IoU, mean over seeds.
        n_episodes: scored, over all folds and seeds.
        n_seeds: of the fold with the fewest.
        note: what is incomplete or mixed; empty where nothing is.
        runs: the lines of ``summary.json`` that this sums up.
        clicks: what each click brings; None where objects were not clicked.
        jf_ci95: of J&F, where it is that of one run; None elsewhere.
        ap50_boxes_ci95: of AP50 of boxes, where instances were asked for; made as ``ci95``.
        ap50_ci95: the same of masks.
        rank: among the methods of the setting, as in ``ranking.rank``; None where there is nothing to rank.
        n_clusters: query images or videos that ranks are drawn from, of the fold with the fewest; None where methods of
            the setting are not compared.
        trivial: whether this is an answer without any method, see ``Board.trivial``.
        given: of a trivial answer, the K and P that it holds for, as text; empty where it holds for any.
    """

    dataset: str
    task: str
    protocol: str
    config: str
    method: str
    n_shot: int
    n_points: int | None
    folds: dict[int, float]
    miou: float | None
    ci95: tuple[float, float] | None
    figures: dict[str, float]
    per_class_iou: dict[str, float]
    n_episodes: int
    n_seeds: int
    note: str
    runs: tuple[dict[str, Any], ...]
    clicks: ClickCurve | None = None
    jf_ci95: tuple[float, float] | None = None
    ap50_boxes_ci95: tuple[float, float] | None = None
    ap50_ci95: tuple[float, float] | None = None
    rank: Rank | None = None
    n_clusters: int | None = None
    trivial: bool = False
    given: tuple[str, str] = ("", "")


def leaderboard(
    rows: Sequence[Mapping[str, Any]], out: Path | None = None, folds_expected: int | None = None
) -> list[Line]:
    """One line per data set, task, protocol, configuration, K and P.

    Args:
        rows: of ``summary.json``.
        out: the benchmark's folder, for the intervals; without it only single runs have one.
        folds_expected: folds of a whole benchmark; by default what the rows say as ``n_folds``, else unknown.
    """
    return lines_of(rows, resample(rows, out), folds_expected)


def lines_of(
    rows: Sequence[Mapping[str, Any]], drawn: Mapping[str, Resampled], folds_expected: int | None = None
) -> list[Line]:
    """``leaderboard`` of runs that were resampled already."""
    ordered = sorted(rows, key=setting_order)
    groups = itertools.groupby(ordered, setting_order)
    return [_line([dict(row) for row in runs], drawn, folds_expected) for _, runs in groups]


def of_videos(settings: Iterable[Line | Comparison]) -> bool:
    """Whether all lines or comparisons are of videos, and there is one."""
    tasks = {one.task for one in settings}
    return bool(tasks) and tasks <= _OF_VIDEOS


def of_instances(settings: Iterable[Line | Comparison]) -> bool:
    """Whether all lines or comparisons are of instances, and there is one."""
    return {one.task for one in settings} == {"instance"}


def main_figure(task: str) -> str:
    """What methods are ranked by: ``j_mean`` of videos, ``ap50_boxes`` of instances, else ``miou``."""
    return "j_mean" if task in _OF_VIDEOS else "ap50_boxes" if task == "instance" else "miou"


def main_replicates(runs: Sequence[Mapping[str, Any]], drawn: Mapping[str, Resampled]) -> Any:
    """What lines are ranked by, of every run of one task, (R, runs); None where rows are missing or do not give it."""
    found = together(runs, drawn)
    if not found:
        return None
    by = main_figure(runs[0]["task"])
    of_runs = [one.miou if by == "miou" else one.j if by == "j_mean" else one.ap50 for one in found]
    if any(one is None for one in of_runs):
        return None
    table = np.stack([filled(one[:, 0]) if by == "ap50_boxes" else one for one in of_runs], axis=1)
    return None if np.isnan(table).any() else table


def _line(runs: list[dict[str, Any]], drawn: Mapping[str, Resampled], folds_expected: int | None) -> Line:
    first = runs[0]
    scored = [run for run in runs if "miou" in run]
    folds = {fold: mean(run["miou"] for run in group) for fold, group in by_fold(scored)}
    miou = mean(folds.values()) if folds else None
    names = ("fb_iou", "positive_iou", "seconds_per_episode", *FIGURES)
    figures = {name: fold_mean(runs, name) for name in names if any(name in run for run in runs)}
    clicks = _click_curve([run for run in runs if run.get("iou_at")], drawn)
    if clicks:
        figures |= {f"iou_at_{k}": clicks.iou[k - 1] for k in _IOU_AFTER if k <= len(clicks.iou)}
    elif "n_videos" not in first and all("seconds_guide" in run and "seconds_segment" in run for run in runs):
        # of a change of annotations; runs on videos have measured it per frame
        figures["seconds_per_update"] = fold_mean(runs, "seconds_guide") + fold_mean(runs, "seconds_segment")
    for name in {f"over_limit{percent}" for percent in NOC_PERCENT} & figures.keys():
        figures[name] *= len(folds)  # a number of objects, in all folds together
    deviation = _seed_deviation(scored)
    if deviation is not None:
        figures |= {"miou_std_seeds": deviation, **_split(scored, drawn)}
    classes = dict.fromkeys(name for run in runs for name in run.get("per_class_iou", {}))
    seeds = {fold: {run["seed"] for run in group} for fold, group in by_fold(runs)}
    of_boxes, of_masks = _ap50_intervals([run for run in runs if "ap50" in run], figures, drawn)
    return Line(
        **{name: first[name] for name in (*GROUP, "method")},
        folds=folds,
        miou=miou,
        ci95=None if miou is None else _interval(scored, miou, drawn),
        figures=figures,
        per_class_iou={
            c: mean(r["per_class_iou"][c] for r in runs if c in r.get("per_class_iou", {})) for c in classes
        },
        n_episodes=sum(run.get("n_episodes", 0) for run in runs),
        n_seeds=min(map(len, seeds.values())),
        note=_note(runs, seeds, folds_expected or first.get("n_folds")),
        runs=tuple(runs),
        clicks=clicks,
        jf_ci95=(first["jf_ci95"][0], first["jf_ci95"][1]) if len(runs) == 1 and "jf_ci95" in first else None,
        ap50_boxes_ci95=of_boxes,
        ap50_ci95=of_masks,
    )


def _seed_deviation(runs: Sequence[dict[str, Any]]) -> float | None:
    """Standard deviation over seeds (n - 1) of the mean over folds; None unless several seeds have the same folds."""
    found: dict[int, dict[int, float]] = {}
    for run in runs:
        found.setdefault(run["seed"], {})[run["fold"]] = run["miou"]
    if len(found) < 2 or len({frozenset(folds) for folds in found.values()}) > 1:
        return None
    return float(np.std([mean(folds.values()) for folds in found.values()], ddof=1))


def _split(runs: Sequence[dict[str, Any]], drawn: Mapping[str, Resampled]) -> dict[str, float]:
    """How far what lines are ranked by moves with the seed, with the episodes and with both; seeds have equal folds."""
    replicates = main_replicates(runs, drawn)
    if replicates is None:
        return {}
    seeds = np.array([run["seed"] for run in runs])
    own = [(replicates[:, seeds == seed], [run for run in runs if run["seed"] == seed]) for seed in np.unique(seeds)]
    found = variance_split(np.stack([average(*one) for one in own], axis=1))
    return {} if found is None else dict(zip(("sd_seeds", "sd_episodes", "sd_both"), found, strict=True))


def _click_curve(runs: Sequence[dict[str, Any]], drawn: Mapping[str, Resampled]) -> ClickCurve | None:
    if not runs:
        return None

    def mean(name: str) -> Any:
        shortest = min(len(run.get(name, ())) for run in runs)
        return np.mean([np.mean([r[name][:shortest] for r in own], 0) for _, own in by_fold(runs) if shortest], 0)

    iou, seconds = mean("iou_at"), mean("seconds_at")
    ci95, found = None, together(runs, drawn)
    if found:
        replicates = np.stack([one.clicks[:, : len(iou)] for one in found], axis=1)
        ci95 = tuple(percentile_interval(average(replicates[:, :, k], runs), iou[k]) for k in range(len(iou)))
    return ClickCurve(tuple(iou.tolist()), ci95, tuple(np.atleast_1d(seconds).tolist()) if np.size(seconds) else ())


CLASS_BLIND = "class-blind: its foreground counts for every object"  # so its rows are not of one label map


def _note(runs: Sequence[dict[str, Any]], seeds: dict[int, set[int]], folds_expected: int | None) -> str:
    notes = []
    if folds_expected and len(seeds) < folds_expected:
        found = ("fold " if len(seeds) == 1 else "folds ") + ", ".join(map(str, seeds))
        notes.append(f"partial ({found} of {folds_expected})")
    if len(set(map(frozenset, seeds.values()))) > 1:
        notes.append("partial (folds differ in seeds)")
    if runs and all(run.get("detections_per_episode", run.get("positive_iou")) == 0 for run in runs):
        notes.append("finds nothing")
    if any(run.get("class_blind") for run in runs):
        notes.append(CLASS_BLIND)
    if len({(run["fold"], run["seed"]) for run in runs}) < len(runs):
        notes.append("mixed (several runs of one fold and seed)")
    return "; ".join(notes)


def _interval(
    runs: Sequence[dict[str, Any]], miou: float, drawn: Mapping[str, Resampled]
) -> tuple[float, float] | None:
    """Resamples the query images of each fold, together for all its seeds, and averages as the point estimate does."""
    if len(runs) == 1 and "ci95" in runs[0]:
        low, high = runs[0]["ci95"]
        return low, high
    found = together(runs, drawn)
    if found is None:
        return None
    if abs(float(average(np.array([[one.point for one in found]]), runs)[0]) - miou) > SAME:  # another number's
        return None
    return percentile_interval(average(np.stack([one.miou for one in found], axis=1), runs), miou)


def _ap50_intervals(
    runs: Sequence[dict[str, Any]], figures: Mapping[str, float], drawn: Mapping[str, Resampled]
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Of AP50 of boxes and of masks what ``_interval`` is of mIoU."""
    if len(runs) == 1 and "ap50_ci95" in runs[0]:
        of_boxes, of_masks = runs[0]["ap50_boxes_ci95"], runs[0]["ap50_ci95"]
        return (of_boxes[0], of_boxes[1]), (of_masks[0], of_masks[1])
    found = together(runs, drawn)
    if found is None or any(one.ap50 is None for one in found):
        return None, None
    boxes, masks = (average(np.stack([one.ap50[:, kind] for one in found], axis=1), runs) for kind in (0, 1))
    return interval_of_ap50(boxes, figures["ap50_boxes"]), interval_of_ap50(masks, figures["ap50"])
