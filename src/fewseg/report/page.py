"""Writes ``report.html``: headline, leaderboard, plots, learning curves and pictures in one self-contained file."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from fewseg.report.album import Album
from fewseg.report.boards import (
    class_table,
    comparison_section,
    figure,
    fold_table,
    gap_section,
    leaderboard_section,
    who,
)
from fewseg.report.cells import Section, escaped, listed, rendered
from fewseg.report.figures import (
    Curve,
    Style,
    accuracy_against_time,
    against_clicks,
    against_points,
    against_seconds,
    against_shots,
    annotation_surfaces,
    embed,
    guidance_spread,
    leaders,
    learning_curves,
    per_class,
    per_fold,
    positive_against_points,
    ranked,
    setting_of,
    shot,
    styles,
)
from fewseg.report.gallery import gallery_section
from fewseg.report.instances import KINDS, against_clutter, asked, confusions, gaps
from fewseg.report.papers import paper_section
from fewseg.report.pictures import picture_sections
from fewseg.report.transfer import matrix, transfer_table, transfers
from fewseg.results import (
    FIGURES,
    Board,
    Line,
    amount,
    mark_current,
    of_instances,
    of_videos,
    points,
    read_board,
    training_notes,
    write_text,
)

_PAGE = 9_500_000  # bytes of a page at most, where its tables and plots allow; pictures fill what is left
_PICTURES = 2_000_000  # characters of the pictures that are shown at once
# nothing may be fetched, whatever a name or a picture holds
_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def build_report(out: Path) -> Path:
    """Writes ``<out>/report.html`` from the finished runs in ``out``; it needs no server and no network.

    Sections without data are absent.

    Args:
        out: the benchmark's folder.

    Returns:
        the path of the page.

    Raises:
        FewsegError: ``out`` holds a foreign ``metrics.json`` or rows of another schema.
    """
    board = read_board(out)
    lines = board.lines
    style = styles(sorted({line.config for line in lines}))
    album = Album(_PICTURES)
    shown = [
        leaderboard_section(board, style) if lines else None,
        comparison_section(board.comparisons, style),
        gap_section(gaps(lines), style),
        _transfers(board, style),
        *_plots(board, style, out),
        *picture_sections(lines, style, out, album),
        paper_section(lines, out),
        _regenerate(out),
    ]
    sections = [section for section in shown if section is not None]
    plotly = f"<script>{get_plotlyjs()}</script>\n" if any("Plotly" in section.body for section in sections) else ""
    room = _PAGE - len(plotly) - sum(len(section.body.encode()) for section in sections)
    gallery = gallery_section(lines, out, album, room)
    if gallery is not None:
        after = [section.title for section in sections].index("How to regenerate") - (shown[-2] is not None)
        sections.insert(after, gallery)
    files = resources.files("fewseg.report")
    css, js = ((files / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{_heading(lines)}</title>\n<style>\n{css}</style>\n{plotly}</head>\n"
        f"<body>\n<header>{_headline(lines)}</header>\n{rendered(sections)}<script>\n{js}</script>\n</body>\n</html>\n"
    )
    path = out / "report.html"
    write_text(path, page)
    mark_current(out, "report", board.stamped)
    return path


def _heading(lines: Sequence[Line]) -> str:
    return f"Few-shot segmentation on {listed(line.dataset for line in lines)}" if lines else "No finished run"


def _headline(lines: Sequence[Line]) -> str:
    if not lines:
        return "<h1>No finished run</h1>\n<p>This folder holds no run with a metrics.json yet.</p>\n"
    runs = [run for line in lines for run in line.runs]
    versions = sorted({(name, str(v)) for run in runs for name, v in run.get("versions", {}).items()})
    episodes = sorted({run["n_episodes"] for run in runs if "n_episodes" in run})
    videos, counts = of_videos(lines), sorted({line.n_points for line in lines}, key=amount)
    per_run = f", {_span(episodes)} {'videos' if videos else 'episodes'} each" if episodes else ""
    facts = {
        "Compared": listed(who(line) for line in lines),
        "Data set": listed(line.dataset for line in lines),
        "Task": listed(line.task for line in lines),
        "Protocol": listed(line.protocol for line in lines),
        "Folds": listed(sorted({run["fold"] for run in runs})),
        "Annotation": f"K = {listed(sorted({line.n_shot for line in lines}))} {shot(lines)}s"
        + ("" if of_instances(lines) else f", P = {listed(points(p) for p in counts)} pixels"),
        "Runs": f"{len(runs)}{per_run}, seeds {listed(sorted({run['seed'] for run in runs}))}",
        "Training": "; ".join(escaped(note) for note in training_notes(runs)),
        "Device": listed(run["device"] for run in runs if "device" in run),
        "Versions": listed(f"{name} {version}" for name, version in versions),
    }
    notices = _notices(lines)
    if _lists_differ(runs):
        notices.append("methods were scored on different episode lists; compare only equal lists")
    warned = "".join(f'<p class="notice"><strong>Read with care:</strong> {escaped(n)}.</p>\n' for n in notices)
    items = "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in facts.items() if value)
    return f"<h1>{_heading(lines)}</h1>\n{_best(lines)}{warned}<dl>\n{items}</dl>\n"


def _notices(lines: Sequence[Line]) -> list[str]:
    """Notes of lines, each with the configurations that it holds for where it does not hold for all."""
    configs: dict[str, dict[str, None]] = {}
    for line in lines:
        if line.note:
            configs.setdefault(line.note, {})[line.config] = None
    everyone = {line.config for line in lines}
    return [note if names.keys() == everyone else f"{note} ({', '.join(names)})" for note, names in configs.items()]


def _best(lines: Sequence[Line]) -> str:
    """The winner at the densest setting, where there is one setting group to speak of; of videos, with its costs.

    With the number of those that cannot be told from it.
    """
    scored = [line for line in lines if ranked(line).value is not None]
    if of_instances(scored):  # what a benchmark of instances is about, also where it tests base classes beside them
        scored = [line for line in scored if asked(line) == "novel"] or scored
    if not scored or len({(line.dataset, line.task, line.protocol) for line in scored}) > 1:
        return ""
    top = max((amount(line.n_points), line.n_shot) for line in scored)
    best, *others = leaders([x for x in scored if (amount(x.n_points), x.n_shot) == top])
    if of_videos([best]) and "jf_mean" in best.figures:
        told = _video_in_words(best)
    elif of_instances([best]):
        told = _instances_in_words(best)
    else:
        interval = "" if best.ci95 is None else f" (95 % interval {best.ci95[0]:.3f} to {best.ci95[1]:.3f})"
        told = f"mIoU {ranked(best).value or 0.0:.3f}{interval}"
    by = " by J" if of_videos([best]) else ""
    tied = f" Not told apart from {len(others)} other{'s' if len(others) > 1 else ''}." if others else ""
    if best.rank is None and best.n_clusters is not None:
        what = "videos" if of_videos([best]) else "query images"
        tied = f" Methods are not ranked: {best.n_clusters} {what} are too few."
    return f"<p>Best{by} at {setting_of(best)}: <strong>{escaped(best.config)}</strong>, {told}.{tied}</p>\n"


def _video_in_words(line: Line) -> str:
    """Accuracy and costs: J&F with J and F, seconds of a video and what they go to."""
    figures = line.figures
    parts = [f"{FIGURES[name]} {figures[name]:.3f}" for name in ("j_mean", "f_mean") if name in figures]
    parts += [] if line.jf_ci95 is None else [f"95 % interval {line.jf_ci95[0]:.3f} to {line.jf_ci95[1]:.3f}"]
    told = f"{FIGURES['jf_mean']} {figures['jf_mean']:.3f}" + (f" ({', '.join(parts)})" if parts else "")
    if "seconds_per_episode" in figures:
        told += f". It takes {figures['seconds_per_episode']:.3g} s per video"
        costs = {
            "seconds_guide_per_video": "{} of them for the guidance",
            "seconds_per_frame": "{} per frame without it",
        }
        spent = [words.format(f"{figures[name]:.2g} s") for name, words in costs.items() if name in figures]
        told += f", {' and '.join(spent)}" if spent else ""
    return escaped(told)


def _instances_in_words(line: Line) -> str:
    """AP50 of boxes and of masks with their intervals."""
    parts = []
    for name, kind in KINDS.items():
        interval = getattr(line, f"{name}_ci95")
        between = "" if interval is None else f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        parts.append(f"{line.figures[name]:.3f} of {kind}{between}")
    classes = {"novel": " on novel classes", "base": " on base classes", "all": " on all classes"}.get(asked(line), "")
    return f"AP50{classes} {' and '.join(parts)}"


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _lists_differ(runs: Sequence[dict[str, Any]]) -> bool:
    lists: dict[tuple[Any, ...], set[Any]] = {}
    for run in runs:
        setting = tuple(run[name] for name in ("dataset", "task", "protocol", "fold", "n_shot", "n_points", "seed"))
        lists.setdefault(setting, set()).add(run.get("episode_list_sha256"))
    return any(len(found) > 1 for found in lists.values())


def _transfers(board: Board, style: dict[str, Style]) -> Section | None:
    """What was trained on one thing and tested on another."""
    found = transfers(board.lines)
    if not found:
        return None
    plots = [figure(one.setting, embed(matrix(one), f"transfer-{i}")) for i, one in enumerate(found)]
    about = (
        '<p class="quiet">Rows: what trained, with the data set and the task of its training. Columns: what tested. '
        "Every column has its own accuracy: mIoU of images, J&amp;F of videos, AP50 of boxes of instances; they do "
        "not compare with each other, and colours are shares of the best of a column. Framed: tested on what it was "
        "trained on. *: partial or otherwise to be read with care; the table says why. It holds trivial answers, too, "
        "where the accuracy is mIoU: boundaries and detections have none.</p>\n"
    )
    folded = (
        f"<details><summary>The same as a table</summary>\n{transfer_table(found, style, board.trivial)}</details>\n"
    )
    return Section("Trained on one thing, tested on another", about + "".join(plots) + folded)


def _plots(board: Board, style: dict[str, Style], out: Path) -> list[Section]:
    """A section for every plot that there are data for."""

    def group(line: Line) -> tuple[str, str, str]:
        return line.dataset, line.task, line.protocol

    found: dict[str, list[str]] = {}
    groups = [(names, list(members)) for names, members in groupby(board.lines, group)]  # lines come sorted
    several = len(groups) > 1
    count = 0
    for names, members in groups:
        where = f" ({', '.join(names)})" if several else ""
        marks = names if several else ()
        for title, drawn in (
            *(("Objects: accuracy against clicks", drawn) for drawn in against_clicks(members, style)),
            *(("Objects: accuracy against seconds", drawn) for drawn in against_seconds(members, style)),
            *(("Objects: positive IoU against points", drawn) for drawn in positive_against_points(members, style)),
            *(("Accuracy against time", drawn) for drawn in accuracy_against_time(members, style)),
            *(("Videos: accuracy against annotation", drawn) for drawn in annotation_surfaces(members, style)),
            ("Accuracy against annotated pixels", against_points(members, style)),
            (
                f"Accuracy against {'references' if of_instances(members) else f'annotated {shot(members)}s'}",
                against_shots(members, style),
            ),
            ("Instances: accuracy against clutter", against_clutter(members, style)),
            *(("Instances: what is found instead", drawn) for drawn in confusions(members, out)),
            ("Accuracy per fold", per_fold(members, style)),
            ("Accuracy per class", per_class(members, style)),
            ("How much the guidance varies", guidance_spread(members, style)),
        ):
            if drawn is None:
                continue
            parts = found.setdefault(title, [_explained(title)])
            parts.append(figure(drawn[0] + where, embed(drawn[1], f"figure-{count}"), marks))
            count += 1
            more = {"Accuracy per fold": fold_table, "Accuracy per class": class_table}.get(title)
            if more is not None:
                trivial = [line for line in board.trivial if group(line) == names]
                parts.append(more([*members, *trivial], style, where))
    for column, title in (("miou", "Learning curves: mIoU"), ("loss", "Learning curves: loss")):
        curves = _curves(board.rows, column, out)
        if curves:
            drawn = learning_curves(curves, style, title.split(": ")[1])
            found[title] = [figure("one line per training", embed(drawn, f"figure-{count}"))]
            count += 1
    return [Section(title, "".join(parts)) for title, parts in found.items()]


def _explained(title: str) -> str:
    words = _EXPLAINED.get(title, "")
    return f'<p class="quiet">{words}</p>\n' if words else ""


_EXPLAINED = {
    "How much the guidance varies": (
        "Within: how far z differs among supports of one class. Between: how far the means of classes lie apart. Where "
        "both are tiny, z is nearly one constant and the support hardly says what to segment. Where only the first is "
        "tiny, the supports of a class are interchangeable, and more annotation hardly moves the answer."
    ),
    "Instances: accuracy against clutter": (
        "AP50 over the images that show so many objects, of any class and crowds left out; mean over classes, lists of "
        "references, seeds and folds."
    ),
    "Instances: what is found instead": (
        "Of the method with the highest AP50 of boxes. Row i, column j: AP50 of boxes that are found for references of "
        "class i, counted as if they had been asked for class j, over the images that show class i. Classes that were "
        "asked for come first: their own AP50 is on the diagonal, and all else would be 0 without mistakes. White: "
        "no such image shows the other class. Column sums: what is found most, asked for or not."
    ),
    "Accuracy against time": (
        "Higher and further left is better. Bars are intervals of accuracy. A line joins evaluations of one training "
        "that differ at test time, such as numbers of updates. Seconds of a video: features, guidance and all frames."
    ),
    "Videos: accuracy against annotation": (
        "How positive IU grows with annotated frames (S) and annotated points per label and frame (P). All methods "
        "have the same scales."
    ),
}


def _curves(rows: Sequence[dict[str, Any]], column: str, out: Path) -> list[Curve]:
    """One curve per training that a run names; lines of ``curve.csv`` without a value in ``column`` are left out."""
    curves = {}
    for row in rows:
        training = str(row.get("training") or "")
        path = out / "trainings" / training / "curve.csv"
        if not training or training in curves or not path.is_file():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            read = [(line.get("step"), line.get(column)) for line in csv.DictReader(file)]
        pairs = [(float(step), float(value)) for step, value in read if step and value]
        label = f"{row['config']}, fold {row['fold']}, seed {row['seed']}"
        if pairs:
            curves[training] = Curve(row["config"], label, [s for s, _ in pairs], [v for _, v in pairs])
    return list(curves.values())


def _regenerate(out: Path) -> Section:
    folder = out
    if out.is_absolute():  # the page travels: say the folder as seen from where the command runs
        folder = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else Path(out.name)
    where = shlex.quote(folder.as_posix())
    source = out / "benchmark.yaml"
    commands, details = [f"fewseg report {where}"], ""
    if source.is_file():
        config = shlex.quote((folder / "benchmark.yaml").as_posix())
        commands.insert(0, f"fewseg benchmark {config} --out {where}")
        listing = escaped(source.read_text(encoding="utf-8"))
        details = f"<details><summary>benchmark.yaml</summary><pre>{listing}</pre></details>\n"
    return Section("How to regenerate", f"<pre>{escaped(chr(10).join(commands))}</pre>\n{details}")
