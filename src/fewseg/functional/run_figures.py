"""The figures of a run from its rows of integer counts: IoU, clicks, videos, instances and seconds. Needs no torch.

Rows come as a pandas frame with the columns of ``episode.Row``, as ``results.read_rows`` returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fewseg.episode import Row
from fewseg.errors import FewsegError
from fewseg.functional.instance_figures import instance_figures
from fewseg.functional.iou import (
    bootstrap_interval,
    fb_iou,
    mean_iou,
    per_class_iou,
    percentile_interval,
    positive_iou,
)
from fewseg.functional.robot import iou_at, noc, seconds_per_click
from fewseg.functional.video_scores import mean_scores, object_scores

NOC_PERCENT = (80, 85, 90)  # IoUs until which clicks are counted
_SECONDS = [name for name in Row._fields if name.startswith("seconds_")]
_NETWORK_SECONDS = ["seconds_encode", "seconds_guide", "seconds_segment"]
_BOUNDARY = ["boundary_pred", "boundary_true", "boundary_pred_matched", "boundary_true_matched"]


def final_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that count for accuracy.

    Where an object was clicked several times, those after its last click; of a video, all but those of its first and
    its last frame, as in the official evaluation of DAVIS; of a search for instances, those of the union of what an
    episode found, not those of single detections.

    Raises:
        FewsegError: a video has fewer than 3 frames.

    >>> clicks = [Row(0, "q", "s", 1, tp=n, fp=0, fn=9 - n, tn=0, click=n) for n in (1, 2, 3)]
    >>> final_rows(pd.DataFrame(clicks)).tp.tolist()
    [3]
    >>> video = [Row(0, "bear", "s", 1, tp=9 - n, fp=0, fn=n, tn=0, frame=n) for n in (0, 1, 2, 3)]
    >>> final_rows(pd.DataFrame(video)).tp.tolist()
    [8, 7]
    """
    frame = frame[frame["score"].isna()]
    if not frame["frame"].isna().all():
        place, episode = frame["frame"].astype("int64"), frame["episode"]
        n_frames = place.groupby(episode).nunique().to_dict()
        for one, n in n_frames.items():
            if n < 3:
                got = f"{n} in {frame.loc[episode == one, 'query'].iloc[0]}"
                expected = "at least 3 in every video: the first and the last one do not count"
                raise FewsegError("frames", got, expected, "leave this video out of the split")
        places = place.groupby(episode)
        frame = frame[(place > places.transform("min")) & (place < places.transform("max"))]
    if frame["click"].isna().all():
        return frame
    return frame.sort_values("click", kind="stable").drop_duplicates(["episode", "object_id", "frame"], keep="last")


def score(
    frame: pd.DataFrame,
    class_names: Sequence[str],
    classes: Sequence[int],
    repeats: int = 1,
    n_clicks: int | None = None,
) -> dict[str, Any]:
    """The figures of one run from its rows.

    Args:
        frame: as ``read_rows`` returns it.
        class_names: names of the data set's classes; ``class_names[i]`` has id ``i + 1``.
        classes: class ids that were evaluated, the novel classes of the fold.
        repeats: the episodes are so many lists in a row, and figures are means over them (PANet's five runs); then
            ``miou_std`` is the standard deviation of their mIoU. The interval is that of all episodes together.
        n_clicks: that every object could get; None = as many as one of them got.

    Returns:
        ``miou``, ``fb_iou``, ``positive_iou``, ``per_class_iou`` (class name -> IoU, classes with an episode), all in
        [0, 1]; ``ci95`` of ``miou`` by a bootstrap over query images; ``n_episodes``; and, where they were measured,
        ``seconds_encode``, ``seconds_guide``, ... and their sum ``seconds_per_episode``, all per episode. Where objects
        were clicked, these are the figures after the last click, and those of ``_click_figures`` are there as well. Of
        videos, an episode each, they leave out the first and the last frame, except in seconds, and those of
        ``_video_figures`` are there as well. Where a query does not show its class, those of ``presence_figures`` are
        there, of all episodes together. Where instances were asked for, IoUs are those of the union of what an
        episode found, and the figures of ``instance_figures`` are there as well.

    Raises:
        FewsegError: there is no row, a row of another class, or a video of fewer than 3 frames.

    >>> rows = [Row(0, "a", "s", 1, 3, 1, 1, 3), Row(1, "b", "s", 1, 1, 1, 0, 6), Row(2, "c", "s", 2, 0, 0, 1, 7)]
    >>> figures = score(pd.DataFrame(rows), ("cat", "dog"), (1, 2))
    >>> round(figures["miou"], 3), figures["positive_iou"], figures["n_episodes"]
    (0.286, 0.5, 3)
    """
    if repeats > 1:
        figures = _mean_of_repeats(frame, class_names, classes, repeats, n_clicks)
    else:
        figures = _score(frame, class_names, classes, n_clicks)
    searched = frame["truth"].notna().any()
    return figures | instance_figures(frame, class_names, classes, repeats) if searched else figures


def _score(
    frame: pd.DataFrame, class_names: Sequence[str], classes: Sequence[int], n_clicks: int | None = None
) -> dict[str, Any]:
    """``score`` of one list, without the figures of instances."""
    if frame.empty:
        raise FewsegError("rows", "none", "at least one scored prediction", "check the episode list of this run")
    strangers = sorted(set(frame["class_id"]) - set(classes))
    if strangers:
        raise FewsegError("class_id", strangers, f"classes {list(classes)}", "score a fold with its own episode list")
    final = final_rows(frame)
    class_id, tp, fp, fn, tn = (final[name].to_numpy(np.int64) for name in ("class_id", "tp", "fp", "fn", "tn"))
    n_episodes = int(frame["episode"].nunique())
    figures: dict[str, Any] = {
        "n_episodes": n_episodes,
        "miou": mean_iou(class_id, tp, fp, fn),
        "fb_iou": fb_iou(tp, fp, fn, tn),
        "positive_iou": positive_iou(tp, fp, fn),
        "per_class_iou": {class_names[c - 1]: iou for c, iou in per_class_iou(class_id, tp, fp, fn).items()},
        "ci95": list(bootstrap_interval(final["query"], class_id, tp, fp, fn)),
    }
    seconds = {name: float(frame[name].sum()) / n_episodes for name in _SECONDS if frame[name].notna().any()}
    if seconds:
        figures["seconds_per_episode"] = sum(seconds.values())
    clicked = {} if frame["click"].isna().all() else _click_figures(frame, n_clicks or int(frame["click"].max()))
    in_videos = {} if frame["frame"].isna().all() else _video_figures(frame, final)
    unsure = {} if final["present"].all() else presence_figures(final)
    return figures | seconds | clicked | in_videos | unsure


def scores_of_objects(final: pd.DataFrame) -> tuple[Any, Any]:
    """Of every object of every video its video (n,) and J and F, each with mean, recall and decay, (n, 2, 3)."""
    ordered = final.sort_values(["episode", "object_id", "frame"], kind="stable")
    first = np.flatnonzero(~ordered.duplicated(["episode", "object_id"]))
    counts = ordered[["tp", "fp", "fn", *_BOUNDARY]].to_numpy(np.int64)
    scores = [object_scores(*own.T) for own in np.split(counts, first[1:])]
    return ordered["query"].to_numpy(str)[first], np.array(scores)


def video_accuracy(scores: npt.ArrayLike) -> dict[str, float]:
    """J and F of a benchmark on videos by their names in ``metrics.json``.

    Args:
        scores: of all objects, (n, 2, 3), as from ``scores_of_objects``.

    Returns:
        ``jf_mean``; ``j_mean``, ``j_recall``, ``j_decay`` and the same of ``f``: means over objects.

    >>> figures = video_accuracy([[[0.5, 1.0, 0.0], [1.0, 1.0, 0.25]]])
    >>> figures["jf_mean"], figures["j_mean"], figures["f_decay"]
    (0.75, 0.5, 0.25)
    """
    j, f = mean_scores(scores)
    figures = {"jf_mean": (j.mean + f.mean) / 2}
    for name, found in (("j", j), ("f", f)):
        figures |= {f"{name}_{statistic}": value for statistic, value in found._asdict().items()}
    return figures


def _video_figures(frame: pd.DataFrame, final: pd.DataFrame) -> dict[str, Any]:
    """How well and how fast videos are segmented (DAVIS, Perazzi et al. 2016; Pont-Tuset et al. 2017).

    ``j_mean``, ``j_recall``, ``j_decay``, the same of ``f``, and ``jf_mean``: means over all objects of all videos;
    ``jf_ci95`` of ``jf_mean`` by a bootstrap over videos; ``n_videos``, ``n_objects``. Where they were measured,
    ``seconds_per_video``, of which ``seconds_guide_per_video`` make the guidance; ``seconds_per_frame`` without it, of
    which ``seconds_encode_per_frame`` do not depend on annotations; and ``seconds_per_update``, the guidance of all
    objects and the answer on one frame whose features are there.

    Args:
        frame: all rows.
        final: the rows that count for accuracy.
    """
    videos, scores = scores_of_objects(final)
    jf = scores[:, :, 0].mean(axis=1)
    n_videos, n_frames = frame["episode"].nunique(), len(frame.drop_duplicates(["episode", "frame"]))
    figures: dict[str, Any] = {"n_videos": n_videos, "n_objects": len(scores)}
    figures |= video_accuracy(scores)
    figures["jf_ci95"] = list(percentile_interval(resampled([videos], [jf], [0])[0], figures["jf_mean"]))
    if frame[_NETWORK_SECONDS].notna().any().all():
        encode, guide, segment = (float(frame[name].sum()) for name in _NETWORK_SECONDS)
        figures |= {
            "seconds_per_video": float(frame[_SECONDS].astype("float64").sum().sum()) / n_videos,
            "seconds_per_frame": (encode + segment) / n_frames,
            "seconds_encode_per_frame": encode / n_frames,
            "seconds_guide_per_video": guide / n_videos,
            "seconds_per_update": guide / n_videos + segment / n_frames,
        }
    return figures


def presence_figures(final: pd.DataFrame) -> dict[str, float]:
    """How well a method knows that a class is not there, where some queries do not show the class asked for.

    ``miou`` counts what it finds there as wrong. ``miou_present``, of the other queries alone; ``false_alarm``, the
    share of queries without the class in which it finds any pixel; ``false_alarm_area``, the share of pixels that it
    finds in them, a mean over queries; ``presence_accuracy``, the mean of the shares of queries with and without the
    class that it answers with some pixel and with none: 0.5 for an answer that is always the same. What compares with
    queries that show their class is there only if some do.

    Args:
        final: the rows that count for accuracy.

    >>> seen, unseen = Row(0, "a", "s", 1, 3, 1, 1, 3), Row(1, "b", "s", 1, 0, 2, 0, 6, present=False)
    >>> presence_figures(pd.DataFrame([seen, unseen, unseen._replace(fp=0, tn=8)]))
    {'false_alarm': 0.5, 'false_alarm_area': 0.125, 'miou_present': 0.6, 'presence_accuracy': 0.75}
    """
    present = final["present"].to_numpy(bool)
    class_id, tp, fp, fn, tn = (final[name].to_numpy(np.int64) for name in ("class_id", "tp", "fp", "fn", "tn"))
    found = tp + fp > 0
    share = (tp + fp) / np.maximum(tp + fp + fn + tn, 1)
    alarm = float(found[~present].mean())
    figures = {"false_alarm": alarm, "false_alarm_area": float(share[~present].mean())}
    if present.any():
        figures["miou_present"] = mean_iou(class_id[present], tp[present], fp[present], fn[present])
        figures["presence_accuracy"] = (float(found[present].mean()) + 1 - alarm) / 2
    return figures


def _per_click(frame: pd.DataFrame, values: Any, n_clicks: int) -> pd.DataFrame:
    """One number per row as (objects, clicks), every object an episode; NaN after an object's last click."""
    cells = pd.DataFrame({"episode": frame["episode"], "click": frame["click"].astype("int64"), "value": values})
    return cells.pivot(index="episode", columns="click", values="value").reindex(columns=range(1, n_clicks + 1))


def click_ious(frame: pd.DataFrame, n_clicks: int) -> Any:
    """The IoU of every object after every click, (objects, n_clicks); an empty union counts as 0.

    An object with fewer clicks, because nothing was wrong any more, keeps its last IoU.

    >>> rows = [Row(0, "q", "", 1, tp=n, fp=1, fn=3 - n, tn=0, click=n) for n in (1, 2)]
    >>> click_ious(pd.DataFrame(rows), 3).tolist()
    [[0.25, 0.5, 0.5]]
    """
    tp, fp, fn = (frame[name].to_numpy(np.float64) for name in ("tp", "fp", "fn"))
    return _per_click(frame, tp / np.maximum(tp + fp + fn, 1), n_clicks).ffill(axis=1).to_numpy(np.float64)


def _click_figures(frame: pd.DataFrame, limit: int) -> dict[str, Any]:
    """What clicks are worth (protocol of f-BRS, Sofiiuk et al. 2020, without its early stop).

    ``n_clicks``, the limit; ``iou_at``, the mean over objects of the IoU after 1, 2, ... clicks; ``noc80``,
    ``noc85``, ``noc90``, the mean over objects of the clicks until that IoU, which are ``n_clicks`` where it is not
    reached before; ``over_limit80``, ..., the number of objects for which they are; ``seconds_at``, the mean seconds of
    network and refinement up to each click; ``seconds_per_click`` and its parts. One click has no NoC.
    """
    ious = click_ious(frame, limit).tolist()
    figures: dict[str, Any] = {"n_clicks": limit, "iou_at": [iou_at(ious, k) for k in range(1, limit + 1)]}
    for percent in NOC_PERCENT if limit > 1 else ():
        needed = noc(ious, percent / 100, limit)
        figures |= {f"noc{percent}": needed.mean, f"over_limit{percent}": needed.n_over}
    seconds = {"network": _NETWORK_SECONDS, "refine": ["seconds_refine"], "robot": ["seconds_robot"]}
    known = {part: names for part, names in seconds.items() if frame[names].notna().any(axis=None)}
    spent = pd.DataFrame({part: frame[names].astype("float64").sum(axis=1) for part, names in known.items()})
    if known:
        waited = spent.drop(columns="robot", errors="ignore").sum(axis=1)  # whoever clicks has no robot
        figures["seconds_at"] = _per_click(frame, waited, limit).fillna(0.0).cumsum(axis=1).mean().tolist()
        clicked = frame.groupby(["episode", "object_id"], dropna=False).size().tolist()
        figures["seconds_per_click"] = seconds_per_click(float(spent.to_numpy().sum()), clicked)
        figures |= {f"seconds_{part}_per_click": float(spent[part].mean()) for part in known}
    return figures


def _mean_of_repeats(
    frame: pd.DataFrame, class_names: Sequence[str], classes: Sequence[int], repeats: int, n_clicks: int | None
) -> dict[str, Any]:
    pooled = _score(frame, class_names, classes, n_clicks)
    repeat = frame["episode"] * repeats // pooled["n_episodes"]
    each = [_score(frame[repeat == i], class_names, classes) for i in range(repeats)]
    means = {name: float(np.mean([figures[name] for figures in each])) for name in ("miou", "fb_iou", "positive_iou")}
    seen = {c: [f["per_class_iou"][c] for f in each if c in f["per_class_iou"]] for c in pooled["per_class_iou"]}
    low, high = pooled["ci95"]
    return {
        **pooled,
        **means,
        "miou_std": float(np.std([figures["miou"] for figures in each])),
        "per_class_iou": {c: float(np.mean(values)) for c, values in seen.items()},
        "ci95": [min(low, means["miou"]), max(high, means["miou"])],
    }


def resampled(queries: Sequence[Any], values: Sequence[Any], fold: npt.ArrayLike, replicates: int = 1000) -> list[Any]:
    """The mean over objects in resampled benchmarks: images or videos are drawn, each with all its objects.

    Args:
        queries: of every run the image or video of each object, (objects,).
        values: of every run, (objects, ...).
        fold: (runs,); all runs of a fold see the same drawn images, so that their differences are paired.
        replicates: R.

    Returns:
        of every run (R, ...).
    """
    random, folds = np.random.RandomState(0), np.asarray(fold)
    means: list[Any] = [None] * len(values)
    for one in np.unique(folds):
        runs = np.flatnonzero(folds == one).tolist()
        images = np.unique(np.concatenate([queries[i] for i in runs]))
        drawn = random.randint(len(images), size=(replicates, len(images)))
        weights = np.apply_along_axis(np.bincount, 1, drawn, minlength=len(images)).astype(np.float64)
        for i in runs:
            weight = weights[:, np.searchsorted(images, queries[i])]  # (R, objects)
            total = np.maximum(weight.sum(1), 1)
            means[i] = ((weight @ values[i]).T / total).T
    return means
