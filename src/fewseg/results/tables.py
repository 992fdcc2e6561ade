"""Leaderboards and comparisons as text: for the terminal, for markdown, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewseg.functional.ranking import LEAST_CLUSTERS
from fewseg.functional.trivial import ALL_BACKGROUND, TRUE_BOX
from fewseg.results.compare import Comparison
from fewseg.results.leaderboard import FIGURES, Line, main_figure, of_instances, of_videos
from fewseg.results.resampling import mean

_SHARES = {"guidance_within", "guidance_between"}  # may be tiny, so tables show significant digits and not decimals


def in_words(figures: Mapping[str, Any]) -> str:
    """The figures of a run with clicks, videos or instances for its line in the terminal; empty where it has none.

    Clicks and instances are told behind mIoU. Of videos these are all the figures, their interval that of J&F. AP50
    has its interval and, where there were several lists of references, its standard deviation over them.

    >>> in_words({"iou_at": [0.5, 0.75], "n_clicks": 2, "noc85": 2.0, "noc90": 2.0})
    '  IoU@1 0.500  IoU@2 0.750  NoC@85 2.00  NoC@90 2.00'
    >>> video = {"jf_mean": 0.75, "jf_ci95": [0.7, 0.8125], "j_mean": 0.7, "f_mean": 0.8, "positive_iou": 0.625}
    >>> in_words({**video, "seconds_per_video": 2.5})
    '  J&F 0.750 [0.700, 0.812]  J 0.700  F 0.800  positive IU 0.625  2.50 s/video'
    >>> boxes = {"ap50_boxes": 0.25, "ap50_boxes_ci95": [0.125, 0.5], "ap50_boxes_std": 0.01}
    >>> in_words({**boxes, "ap50": 0.125, "ap50_ci95": [0.0625, 0.25]})
    '  AP50 boxes 0.250 [0.125, 0.500] std 0.010  AP50 masks 0.125 [0.062, 0.250]'
    """
    ious = figures.get("iou_at", [])
    told = [f"  IoU@{k} {ious[k - 1]:.3f}" for k in dict.fromkeys((1, len(ious))) if ious]
    told += [f"  NoC@{percent} {figures[name]:.2f}" for percent in (85, 90) if (name := f"noc{percent}") in figures]
    if "jf_mean" in figures:
        heads = {name: FIGURES[name] for name in ("jf_mean", "j_mean", "f_mean")} | {"positive_iou": "positive IU"}
        shown = {name: f"  {head} {figures[name]:.3f}" for name, head in heads.items() if name in figures}
        if "jf_ci95" in figures:
            shown["jf_mean"] += " [{:.3f}, {:.3f}]".format(*figures["jf_ci95"])
        told += shown.values()
    if "seconds_per_video" in figures:
        told.append(f"  {figures['seconds_per_video']:.2f} s/video")
    for name in ("ap50_boxes", "ap50"):
        if name in figures:
            told.append("  {} {:.3f} [{:.3f}, {:.3f}]".format(FIGURES[name], figures[name], *figures[f"{name}_ci95"]))
        if f"{name}_std" in figures:
            told.append(f" std {figures[f'{name}_std']:.3f}")
    return "".join(told)


CLICKED = (
    "Objects are clicked by a robot that does not stop early. IoU@k: mean over objects of the IoU after k clicks.\n"
    "NoC@t: clicks until an IoU of t %, or all of them, mean over objects; over: objects that take all of them. mIoU,\n"
    "FB-IoU and positive IU are those after the last click. s/click: network, refinement and robot."
)
_IMAGES = (
    "mIoU: intersection over union per class, summed over all its episodes; mean over the classes of a fold, then\n"
    "over seeds and folds. Interval: 95 % of a bootstrap over query images. K: annotated images, P: annotated\n"
    "pixels per label and image."
)
_FEW = "Over few videos it is too narrow: over 7 or 8 it holds the truth in fewer than 90 % of cases."
VIDEO = (
    "J: intersection over union of an object in a frame. F: the same for its boundary, precision and recall within\n"
    "0.8 % of the diagonal as one number. Of each the mean over frames, recall (share of frames above 0.5) and decay\n"
    "(mean of the first quarter minus that of the last), then the mean over all objects of all videos. J&F: mean of\n"
    "both; interval: 95 % of a bootstrap over videos, each with all its objects, without the variation of training.\n"
    f"{_FEW}\n"
    "The first and the last frame of a video count in seconds only. s/frame: encoding and segmenting a frame;\n"
    "s/guide: making the guidance of all objects, once per video; s/update: that, and the answer on one frame whose\n"
    "features are there."
)
_VIDEO_SETTING = (
    "Positive IU: intersection over union, summed over all objects and frames; with one class it is mIoU. K:\n"
    "annotated frames, P: annotated pixels per label and frame, where every object and the background is a label."
)
INSTANCES = (
    "AP50: average precision of COCO's evaluator at IoU 0.5, of boxes and of masks, over all episodes together; mean\n"
    "over the classes of a fold, then over lists of references, seeds and folds. AP: the mean over the IoUs 0.50 to\n"
    "0.95. Interval: 95 % of a bootstrap over query images, each with all its episodes, without the variation of\n"
    "training. Where classes have few images, about 40, AP and its interval are a little too high."
)
_INSTANCE_SETTING = (
    "mIoU: that of the union of what is found. K: references, crops of other objects. Of folds: AP50 of boxes / masks."
)
_SPLIT = (
    "Sd seeds: standard deviation of one training's {by} from seed to seed; sd episodes: from one draw of {drawn}\n"
    "to the next; sd both: what one seed gains on one draw and another one does not. An estimate below 0 counts as 0;\n"
    "with few seeds the first is rough."
)
_RANKED = (
    "Rank: the places that a method may have in its setting by {by}, made to hold for all methods at once in about\n"
    "95 % of cases: paired bootstrap over {drawn}, corrected for the number of comparisons and for that of {drawn};\n"
    "without the variation of training. Ties: A for the best and all that cannot be told from it, B for the best of\n"
    "the rest and those that cannot be told from that one. A figure that varies much may be in A, for it cannot be\n"
    "told from the best, while a higher one that varies less is in B."
)
_UNRANKED = f"No ranks where a fold has fewer than {LEAST_CLUSTERS} {{drawn}}: they would not hold."
_TRIVIAL = "{answers} are what these answers would score in the same episodes; they read no support."
_NO_BOX = "Rows of earlier versions have no true box."
_GIVEN = "Those of one K or P are of the settings with it: they do not ask the same as the others."
_ABSENT = (
    "Some queries do not show the class: mIoU, present: of those that do; false alarms: share of the others where\n"
    "anything is found; false area: the mean share of their pixels; presence: balanced accuracy of finding anything\n"
    "as an answer to whether the class is there."
)
_COMPARED = (
    "Difference of {what} to the reference, over the folds and seeds that both have. Interval: 95 % of a bootstrap\n"
    "that draws the same {drawn} for both. It holds neither the variation of training nor a correction for the\n"
    "number of comparisons."
)


def explained(lines: Sequence[Line]) -> list[str]:
    """What the figures of a leaderboard mean, in paragraphs."""
    told = [] if of_videos(lines) or of_instances(lines) else [_IMAGES]
    kinds = {of_videos([line]) for line in lines}
    drawn = "query images or videos" if len(kinds) > 1 else "videos" if of_videos(lines) else "query images"
    if any(line.clicks for line in lines):
        told.append(CLICKED)
    if any("jf_mean" in line.figures for line in lines):
        told.append(VIDEO)
        counts = {run["n_videos"] for line in lines for run in line.runs if "n_videos" in run}
        if counts:
            told.append(f"Videos of a run: {' to '.join(map(str, sorted({min(counts), max(counts)})))}.")
    if of_videos(lines):
        told.append(_VIDEO_SETTING)
    if any("ap50" in line.figures for line in lines):
        told.append(INSTANCES)
    if of_instances(lines):
        told.append(_INSTANCE_SETTING)
    elif any("miou_std_seeds" in line.figures for line in lines):
        of = " of positive IU" if of_videos(lines) else ""
        told.append(f"Std over seeds{of}: standard deviation (n - 1) of the mean over folds, as the seed varies.")
    if any("sd_seeds" in line.figures for line in lines):
        told.append(_SPLIT.format(by=ranked_by(lines), drawn=drawn))
    if any(line.rank for line in lines):
        told.append(_RANKED.format(by=ranked_by(lines), drawn=drawn))
    if any(line.n_clusters is not None and line.n_clusters < LEAST_CLUSTERS for line in lines):
        told.append(_UNRANKED.format(drawn=drawn))
    if any(line.trivial for line in lines):
        told.append(_trivial_in_words([line for line in lines if line.trivial]))
    if any("false_alarm" in line.figures for line in lines):
        told.append(_ABSENT)
    return told


def _trivial_in_words(lines: Sequence[Line]) -> str:
    """What trivial answers are, those that are there."""
    box = f"{TRUE_BOX} (the smallest rectangle around the truth)"
    known = [box if name == TRUE_BOX else name for name in dict.fromkeys(line.config for line in lines)]
    answers = ", ".join(known[:-1]) + " and " + known[-1]
    told = [_TRIVIAL.format(answers=answers[0].upper() + answers[1:])]
    with_box = sum(line.config == TRUE_BOX for line in lines)
    told += [_NO_BOX] * (with_box < sum(line.config == ALL_BACKGROUND for line in lines))
    return "\n".join([*told, *([_GIVEN] * any(any(line.given) for line in lines))])


_BY = {"miou": "mIoU", "j_mean": "mean J", "ap50_boxes": "AP50 of boxes"}


def ranked_by(lines: Sequence[Line]) -> str:
    """What methods are ranked by, in words; of several tasks, what each is."""
    found = [name for name in _BY if any(main_figure(line.task) == name for line in lines)]
    where = {"miou": "", "j_mean": " of videos", "ap50_boxes": " of instances"}
    return ", ".join(_BY[name] + where[name] * (len(found) > 1) for name in found or _BY)


def compared_in_words(found: Sequence[Comparison]) -> str:
    """What comparisons are of, and how far their intervals go."""
    if of_videos(found):
        return _COMPARED.format(what="mean J and of positive IU", drawn="videos") + f"\n{_FEW}"
    if of_instances(found):
        return _COMPARED.format(what="AP50 of boxes and of masks", drawn="query images")
    return _COMPARED.format(what="mIoU", drawn="query images")


def comparison_cells(found: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of comparisons as text; empty cells where nothing applies."""
    wide = [n for n in ("dataset", "task", "protocol") if len({getattr(one, n) for one in found}) > 1]
    notes = any(one.note for one in found)
    references = list(dict.fromkeys(one.reference for one in found))
    several = len(references) > 1
    minus = "difference" if several else f"minus {references[0]}"
    against = ["against"] * several
    of_iou = [minus, "95 % paired interval", "seen"]
    of_j = [f"J {minus}", "95 % paired interval of J", "J seen"]
    videos, j_known = of_videos(found), any(one.j_difference is not None for one in found)
    amounts = ["K"] if of_instances(found) else ["K", "P"]  # references have no points
    if of_instances(found):
        kinds = [[f"{kind} {minus}", f"95 % paired interval of {kind}", f"{kind} seen"] for kind in ("boxes", "masks")]
        heads = [*against, *kinds[0], *kinds[1]]
    elif videos:
        heads = [*against, *of_j, "positive IU", f"IU {minus}", "95 % paired interval of IU", "IU seen"]
    else:
        heads = ["mIoU", *against, *of_iou, *(of_j * j_known)]
    body = []
    for one in found:
        reference = [one.reference] * several
        of_iou = [*_difference(one.difference, one.ci95), one.seen]
        of_j = [*_difference(one.j_difference, one.j_ci95), one.j_seen]
        if of_instances(found):
            of_boxes = [*_difference(one.ap50_boxes_difference, one.ap50_boxes_ci95), one.ap50_boxes_seen]
            of_masks = [*_difference(one.ap50_difference, one.ap50_ci95), one.ap50_seen]
            values = [*reference, *of_boxes, *of_masks]
        elif videos:
            values = [*reference, *of_j, _number(one.miou), *of_iou]
        else:
            values = [_number(one.miou), *reference, *of_iou, *(of_j * j_known)]
        annotated = [str(one.n_shot), points(one.n_points)][: len(amounts)]
        setting = [*(getattr(one, name) for name in wide), one.config, *annotated]
        body.append([*setting, *values, *([one.note] * notes)])
    return [*wide, "config", *amounts, *heads, *(["note"] * notes)], body


def _difference(value: float | None, interval: tuple[float, float] | None) -> list[str]:
    between = "" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"
    return ["" if value is None else f"{value:+.3f}", between]


def comparison_table(found: Sequence[Comparison]) -> str:
    """Comparisons as aligned plain text; empty where there are none.

    >>> from fewseg.results.compare import compare
    >>> run = dict(dataset="d", task="semantic", protocol="clean", n_shot=1, n_points=5, fold=0, seed=0)
    >>> runs = [run | dict(config=c, miou=v, episode_list_sha256="a", run=c) for c, v in (("a", 0.5), ("b", 0.4))]
    >>> print(comparison_table(compare(runs, None, "a")))
    config  K  P  mIoU   minus a  95 % paired interval  seen  note
    b       1  5  0.400  -0.100                               no interval (episodes.parquet is missing)
    """
    return _aligned(*comparison_cells(found)) if found else ""


def cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a leaderboard as text, for the terminal and for markdown; empty where nothing applies."""
    if of_videos(lines):
        return _video_cells(lines)
    if of_instances(lines):
        return _instance_cells(lines)
    wide = [name for name in ("dataset", "task") if len({getattr(line, name) for line in lines}) > 1]
    folds = sorted({fold for line in lines for fold in line.folds})
    extra = [name for name in FIGURES if any(name in line.figures for line in lines)]
    notes = any(line.note for line in lines)
    if any(line.jf_ci95 for line in lines):
        extra.insert(extra.index("jf_mean") + 1, "jf_ci95")
    if not lines or any("seconds_per_video" not in line.figures for line in lines):
        extra.append("seconds_per_episode")  # of videos it is s/video
    ranks = _RANK if any(line.rank for line in lines) else []
    seeds = _SEEDS if any(line.n_seeds > 1 for line in lines) else []
    heads = [
        *wide,
        "config",
        "protocol",
        "K",
        "P",
        *seeds,
        *(f"fold {fold}" for fold in folds),
        "mIoU",
        "95 % interval",
        *ranks,
    ]
    names = {**FIGURES, "jf_ci95": "95 % of J&F", "seconds_per_episode": "s/episode"}
    heads += ["FB-IoU", "positive IU", *(names[name] for name in extra), *(["note"] * notes)]
    body = []
    for line in lines:
        figures = {name: figure_text(name, line.figures.get(name)) for name in ("fb_iou", "positive_iou", *extra)}
        if "jf_ci95" in figures:
            figures["jf_ci95"] = _range(line.jf_ci95)
        body.append(
            [
                *(getattr(line, name) for name in wide),
                line.config,
                line.protocol,
                *_given(line),
                *_seeds(line)[: len(seeds)],
                *(_number(line.folds.get(fold)) for fold in folds),
                _number(line.miou),
                _range(line.ci95),
                *_ranked(line)[: len(ranks)],
                *figures.values(),
                *([line.note] * notes),
            ]
        )
    return heads, body


_VIDEO_FIGURES = (  # in the order of their columns
    *("jf_mean", "jf_ci95", "j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay"),
    *("positive_iou", "miou_std_seeds", "sd_seeds", "sd_episodes", "sd_both"),
    *("seconds_per_video", "seconds_per_frame", "seconds_guide_per_video", "seconds_per_update"),
)


def _video_cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """``cells`` where all lines are of videos, whose one class has one fold: mIoU is positive IU."""
    wide = [n for n in ("dataset", "task", "protocol") if len({getattr(line, n) for line in lines}) > 1]
    names = {**FIGURES, "positive_iou": "positive IU", "jf_ci95": "95 % of J&F"}
    known = {name for line in lines for name in line.figures} | {"jf_ci95" for line in lines if line.jf_ci95}
    shown, notes = [name for name in _VIDEO_FIGURES if name in known], any(line.note for line in lines)
    ranks = _RANK if any(line.rank for line in lines) else []
    seeds = _SEEDS if any(line.n_seeds > 1 for line in lines) else []
    wide.insert(wide.index("protocol") if "protocol" in wide else len(wide), "config")
    body = []
    for line in lines:
        figures = {name: figure_text(name, line.figures.get(name)) for name in shown}
        if "jf_ci95" in figures:
            figures["jf_ci95"] = _range(line.jf_ci95)
        setting = [*(getattr(line, name) for name in wide), *_given(line), *_seeds(line)[: len(seeds)]]
        body.append([*setting, *figures.values(), *_ranked(line)[: len(ranks)], *([line.note] * notes)])
    return [*wide, "K", "P", *seeds, *(names[name] for name in shown), *ranks, *(["note"] * notes)], body


_INSTANCE_FIGURES = (  # in the order of their columns
    *("ap50_boxes", "ap50_boxes_ci95", "ap50", "ap50_ci95", "ap_boxes", "ap", "miou"),
    *("sd_seeds", "sd_episodes", "sd_both"),
    *("seconds_per_episode", "seconds_per_update"),
)


def _instance_cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """``cells`` where all lines are of instances: AP50 first; K is a number of references, which have no points."""
    wide = ["dataset"] if len({line.dataset for line in lines}) > 1 else []
    folds = sorted({run["fold"] for line in lines for run in line.runs})
    folds = folds if len(folds) > 1 else []
    names = {**FIGURES, "ap50_boxes_ci95": "95 % of boxes", "ap50_ci95": "95 % of masks"}
    names |= {"miou": "mIoU", "seconds_per_episode": "s/episode"}
    notes = any(line.note for line in lines)
    ranks = _RANK if any(line.rank for line in lines) else []
    seeds = _SEEDS if any(line.n_seeds > 1 for line in lines) else []
    found = []
    for line in lines:
        figures = {name: figure_text(name, value) for name, value in line.figures.items() if name in names}
        figures |= {"ap50_boxes_ci95": _range(line.ap50_boxes_ci95), "ap50_ci95": _range(line.ap50_ci95)}
        found.append(figures | {"miou": _number(line.miou)})
    shown = [name for name in _INSTANCE_FIGURES if any(figures.get(name) for figures in found)]
    body = []
    for line, figures in zip(lines, found, strict=True):
        setting = [*(getattr(line, name) for name in wide), line.config, line.protocol, *_given(line)[:1]]
        setting += _seeds(line)[: len(seeds)]
        of_folds = [_ap50_of_fold([run for run in line.runs if run["fold"] == fold]) for fold in folds]
        values = [*of_folds, *(figures.get(name, "") for name in shown), *_ranked(line)[: len(ranks)]]
        body.append([*setting, *values, *([line.note] * notes)])
    heads = [*wide, "config", "protocol", "K", *seeds, *(f"fold {fold}" for fold in folds)]
    return [*heads, *(names[name] for name in shown), *ranks, *(["note"] * notes)], body


def _ap50_of_fold(runs: Sequence[dict[str, Any]]) -> str:
    scored = [run for run in runs if "ap50" in run]
    return " / ".join(_number(mean(run[name] for run in scored)) for name in ("ap50_boxes", "ap50") if scored)


_RANK, _SEEDS = ["rank", "ties"], ["seeds"]


def _ranked(line: Line) -> list[str]:
    """The ranks that a line may have, and the letter of those that cannot be told from the best one of them."""
    if line.rank is None:
        return ["", ""]
    low, high, group = line.rank
    return [str(low) if low == high else f"{low} to {high}", ties(group)]


def ties(group: int) -> str:
    """The letter of a group of ties.

    >>> ties(1), ties(26), ties(27)
    ('A', 'Z', 'AA')
    """
    letters = ""
    while group:
        group, rest = divmod(group - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def _given(line: Line) -> list[str]:
    """K and P as text; of a trivial answer, which reads no support, only where they change what is asked."""
    return [*line.given] if line.trivial else [str(line.n_shot), points(line.n_points)]


def _seeds(line: Line) -> list[str]:
    """The number of seeds as text; a trivial answer has none."""
    return ["" if line.trivial else str(line.n_seeds)]


def points(n_points: int | None) -> str:
    """P as text.

    >>> points(5), points(None)
    ('5', 'dense')
    """
    return "dense" if n_points is None else str(n_points)


def figure_text(name: str, value: float | None) -> str:
    """A figure as tables show it; empty where there is none.

    >>> figure_text("fb_iou", 0.6543), figure_text("guidance_within", 0.00012345), figure_text("seconds_guide", 0.00012)
    ('0.654', '0.00012', '0.0001')
    >>> figure_text("noc90", 6.4567), figure_text("over_limit90", 12.0)
    ('6.46', '12')
    """
    if value is None:
        return ""
    if name.startswith("over_limit"):
        return f"{round(value, 1):g}"
    decimals = 4 if name.startswith("seconds") else 2 if name.startswith("noc") else 3
    return f"{value:.2g}" if name in _SHARES else f"{value:.{decimals}f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _aligned(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (heads, *body)]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def table(lines: Sequence[Line]) -> str:
    """A leaderboard as aligned plain text.

    >>> from fewseg.results.leaderboard import leaderboard
    >>> run = dict(dataset="d", task="semantic", protocol="clean", config="panet", method="PANet", n_shot=1, seed=0)
    >>> run |= {"n_points": None, "fold": 2, "miou": 0.5, "ci95": [0.4, 0.6]}
    >>> print(table(leaderboard([run], folds_expected=4)))
    config  protocol  K  P      fold 2  mIoU   95 % interval   FB-IoU  positive IU  s/episode  note
    panet   clean     1  dense  0.500   0.500  0.400 to 0.600                                  partial (fold 2 of 4)
    """
    return _aligned(*cells(lines))


def markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    r"""A table in markdown.

    >>> print(markdown(["a"], [["x|y"]]))
    | a |
    | --- |
    | x\|y |
    """
    marked = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (heads, *body)]
    marked.insert(1, ["---"] * len(heads))
    return "\n".join("| " + " | ".join(line) + " |" for line in marked)


def training_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the compared methods were trained, each way said once, with the configs it holds for where ways differ.

    >>> run = {"config": "panet", "training_note": "300 steps"}
    >>> training_notes([run, run, {"config": "old"}])
    ['300 steps']
    >>> training_notes([run, {"config": "guided", "training_note": "300 steps"}, {"config": "b", "training_note": "9"}])
    ['300 steps (guided, panet)', '9 (b)']
    """
    configs: dict[str, set[str]] = {}
    for row in rows:
        if row.get("training_note"):
            configs.setdefault(str(row["training_note"]), set()).add(str(row["config"]))
    if len(configs) == 1:
        return list(configs)
    return [f"{note} ({', '.join(sorted(names))})" for note, names in configs.items()]
