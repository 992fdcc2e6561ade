"""A benchmark on wandb: a run per training, grouped by the benchmark, and one that sums it up.

Everything is written from what is on disk, so a finished benchmark can be sent at any time, and again: the ids of its
runs come from the names of the benchmark and the training. Offline unless ``WANDB_MODE`` says otherwise: then files are
written that ``wandb sync`` uploads later. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from PIL import Image

from fewseg import results
from fewseg.errors import FewsegError

STEP = "trainer/global_step"  # what Lightning's logger counts by
Mode = Literal["offline", "online", "disabled"]
MODES: tuple[Mode, ...] = ("offline", "online", "disabled")
_HISTORY = {"loss": "train/loss", "miou": "val/miou", "seconds": "seconds"}  # columns of curve.csv by Lightning's names
# what names a run or tells how it was made is no score; the table of evaluations has it
_SETTING = {"fold", "seed", "n_shot", "n_points", "n_folds", "max_steps", "n_parameters", "n_trained_parameters"}
_SETTING |= {"eval_batch_size"}


def mode(environment: Mapping[str, str] = os.environ) -> Mode:
    """``WANDB_MODE``; without it online for a member of a sweep, whose server waits for its score, else offline.

    Raises:
        FewsegError: ``WANDB_MODE`` is none of ``MODES``.

    >>> mode({}), mode({"WANDB_SWEEP_ID": "a1b2"}), mode({"WANDB_SWEEP_ID": "a1b2", "WANDB_MODE": "offline"})
    ('offline', 'online', 'offline')
    """
    asked = environment.get("WANDB_MODE") or ("online" if environment.get("WANDB_SWEEP_ID") else "offline")
    asked = {"dryrun": "offline", "run": "online"}.get(asked, asked)
    for known in MODES:
        if known == asked:
            return known
    raise FewsegError("WANDB_MODE", asked, f"one of {', '.join(MODES)}", "set one of them, or unset it")


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Says in our way what goes wrong with wandb.

    Raises:
        FewsegError: no account, no connection, or settings that wandb refuses.
    """
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        remedy = "run wandb login, check the connection, or go offline (WANDB_MODE=offline)"
        raise FewsegError("wandb", f"{mode()}: {error}", "an account and a server that answers", remedy) from None


def check_account() -> None:
    """Before anything goes online: that wandb knows an account.

    Raises:
        FewsegError: ``WANDB_MODE`` is unknown, or online without an account.
    """
    if mode() != "online":
        return
    import wandb

    with plainly():
        known = wandb.login()
    if not known:
        raise FewsegError("WANDB_MODE", "online", "an account that wandb knows", "run wandb login, or go offline")


def quiet(live: bool = True) -> Any:
    """Settings of a wandb run that prints nothing and looks at neither the terminal nor the repository.

    Args:
        live: whether it is written while the work is done, so that the load of this machine belongs to it.
    """
    if mode() != "online":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which would be the one thing that is sent
    import wandb

    more = {} if live else {"x_disable_stats": True, "x_disable_machine_info": True}
    return wandb.Settings(silent=True, console="off", disable_git=True, **more)


def upload_hint(folder: Path) -> str:
    """The one line on where the offline files are and how they are uploaded.

    >>> upload_hint(Path("runs/shapes/wandb"))
    'wandb: offline files in runs/shapes/wandb; to upload them: wandb sync runs/shapes/wandb'
    """
    return f"wandb: offline files in {folder}; to upload them: wandb sync {folder}"


def run_id(benchmark: str, name: str) -> str:
    """The id of a run: equal names have equal ids, so that uploading twice does not make two runs.

    Args:
        benchmark: name of its folder.
        name: id of the training, or ``summary``.

    >>> run_id("shapes", "guided-f0-s0-12345678") == run_id("shapes", "guided-f0-s0-12345678")
    True
    >>> run_id("shapes", "summary") == run_id("davis", "summary")
    False
    """
    return hashlib.sha256(json.dumps([benchmark, name]).encode()).hexdigest()[:16]


def begin(out: Path, project: str, name: str, job_type: str, config: Mapping[str, Any], live: bool = False) -> Any:
    """The wandb run of a training or of the summary, begun anew: what it had before is removed or overwritten.

    Args:
        out: the benchmark's folder, whose name is the group.
        project: of wandb.
        name: id of the training, or ``summary``.
        job_type: ``training`` or ``summary``.
        config: plain data.
        live: see ``quiet``.
    """
    group = out.resolve().name
    identity = run_id(group, name)
    for old in (out / "wandb").glob(f"offline-run-*-{identity}"):
        shutil.rmtree(old, ignore_errors=True)
    settings = quiet(live)
    import wandb

    run = wandb.init(
        project=project,
        group=group,
        name=name,
        id=identity,
        job_type=job_type,
        config={"benchmark": group, **config},
        dir=str(out),
        mode=mode(),
        settings=settings,
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run


def config_of(config: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a training's run.

    Args:
        config: what ``fewseg fit --config`` would read.
        about: the training's ``method``, ``config`` (its name in the grid), ``fold`` and ``seed``; more is left out.
    """
    named = {name: about[name] for name in ("method", "config", "fold", "seed") if name in about}
    return {**config, **named}


def with_masks(
    query: np.ndarray[Any, Any],
    masks: Mapping[str, np.ndarray[Any, Any]],
    labels: Mapping[int, str],
    caption: str,
) -> Any:
    """A ``wandb.Image`` with masks to switch on and off.

    Args:
        query: (H, W, 3) uint8.
        masks: name of a layer -> (H, W) uint8 labels.
        labels: their names; 255 is unknown.
        caption: below it.
    """
    import wandb

    names = {**labels, 255: "unknown"}
    layers = {name: {"mask_data": mask, "class_labels": names} for name, mask in masks.items()}
    return wandb.Image(query, masks=layers, caption=caption)


def upload(out: Path, project: str) -> str:
    """Sends what is done of a benchmark to wandb: every finished training, and the summary.

    Args:
        out: the benchmark's folder.
        project: of wandb.

    Returns:
        a line that says where it is.

    Raises:
        FewsegError: ``out`` is no folder, ``WANDB_MODE`` is unknown, or wandb cannot be reached.
    """
    if not out.is_dir():
        raise FewsegError("out", out, "the folder of a benchmark", "name the --out of a `fewseg benchmark`")
    check_account()
    with plainly():
        return _upload(out, project)


def _upload(out: Path, project: str) -> str:
    board = results.read_board(out)
    rows = board.rows
    names = {str(row[key]) for row in rows for key in ("training", "pretraining") if row.get(key)}
    sent = 0
    for name in sorted(names):
        about = results.read_metrics(out / "trainings" / name)
        if about is not None:
            _upload_training(out, project, name, about, [row for row in rows if row.get("training") == name])
            sent += 1
    where = _upload_summary(out, project, board)
    if mode() == "offline":
        return upload_hint(out / "wandb")
    return f"wandb: {sent} trainings and a summary{f' in {where}' if where else ' went nowhere: WANDB_MODE=disabled'}"


def _upload_training(
    out: Path, project: str, name: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """One training: config, history, its evaluations, weights and episode lists."""
    folder = out / "trainings" / name
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    told = config_of(config, about)
    with begin(out, project, name, "training", told) as run:
        for line in _history(folder / "curve.csv"):
            run.log(line)
        run.summary.update(_scalars(about))
        panels: dict[str, Any] = {}
        episodes: list[dict[str, Any]] = []
        per_class: list[dict[str, Any]] = []
        for row in rows:
            key = setting(row, about)
            scores = {figure: value for figure, value in _scalars(row).items() if figure not in about}
            run.summary.update({f"{key}/{figure}": value for figure, value in scores.items()})
            if row.get("iou_at"):
                panels[f"{key}/clicks"] = _clicks({str(row["config"]): row["iou_at"]})
            for entry in _pictures(out / str(row["run"]) / "pictures"):
                panels[f"{key}/{entry.name}"] = entry.overlay or entry.panel
                episodes.append({"setting": key, **entry.about, "panel": entry.panel})
            per_class += [
                {"setting": key, "class": class_name, "iou": iou}
                for class_name, iou in row.get("per_class_iou", {}).items()
            ]
        tables = {"evaluations": [_flat(row) for row in rows], "classes": per_class, "episodes": episodes}
        panels |= {name: table(content) for name, content in tables.items() if content}
        if panels:
            run.log(panels)
        checkpoint = folder / "checkpoint"
        weights = [checkpoint / file for file in ("model.safetensors", "config.json")]
        _attach(run, name, "model", weights, about)
        for digest in dict.fromkeys(str(row["episode_list_sha256"]) for row in rows if "episode_list_sha256" in row):
            listed = out / "episodes" / f"{digest}.jsonl"
            _attach(run, f"episodes-{digest}", "episodes", [listed], {"sha256": digest})


def _upload_summary(out: Path, project: str, board: results.Board) -> str | None:
    """The run that sums up a benchmark; where it is, online."""
    path = out / "benchmark.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with begin(out, project, "summary", "summary", config) as run:
        tables = {
            "leaderboard": [_leaderboard_row(line) for line in (*board.lines, *board.trivial)],
            "summary": [_flat(row) for row in board.rows],
            "comparisons": [_flat(dataclasses.asdict(one)) | {"seen": one.seen} for one in board.comparisons],
        }
        panels = {name: table(content) for name, content in tables.items() if content} | _curves(board.lines)
        if panels:
            run.log(panels)
        report = out / "report.html"
        _attach(run, f"report-{run_id(out.resolve().name, 'summary')}", "report", [report], {})
        return run.url if mode() == "online" else None


def setting(row: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What a training's evaluation is called beside its others: the same for every method, so that charts line up.

    That is its setting, the suffix of a variant and what else its name has that the training's has not.

    Args:
        row: figures of the run.
        about: those of its training.

    >>> row = dict(dataset="shapes", protocol="clean", config="guided+AJ", n_shot=1, n_points=None, seed=0)
    >>> setting(row, dict(config="guided", seed=0))
    'shapes/clean/K1-Pdense+AJ'
    >>> setting(row | {"n_points": 5, "seed": 2}, dict(config="guided+AJ", seed=0))
    'shapes/clean/K1-P5-s2'
    >>> row |= dict(config="guided+AJ lr=0.1 size=64", plain="guided lr=0.1 size=64")
    >>> setting(row, dict(config="guided lr=0.1", seed=0))
    'shapes/clean/K1-Pdense+AJ size=64'
    """
    points = "dense" if row["n_points"] is None else row["n_points"]
    config, trained = str(row["config"]), str(about.get("config", row["config"]))
    plain = str(row.get("plain") or "")
    if plain:  # the suffix stands behind the method, before what varies
        place = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(config, plain, strict=False)))
        suffix = config[place : place + len(config) - len(plain)]
        known = trained.split()
        suffix += "".join(f" {word}" for word in plain.split() if word not in known)
    else:
        suffix = config.removeprefix(trained)
    repeated = f"-s{row['seed']}" if row["seed"] != about.get("seed", row["seed"]) else ""
    return f"{row['dataset']}/{row['protocol']}/K{row['n_shot']}-P{points}{suffix}{repeated}"


def table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A ``wandb.Table`` with the columns of all rows; what a row lacks is empty."""
    import wandb

    columns = list(dict.fromkeys(name for row in rows for name in row))
    return wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])


def _history(path: Path) -> Iterable[dict[str, float]]:
    """The lines of ``curve.csv`` by the names under which Lightning logs them."""
    if not path.is_file():
        return
    for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        found = {name: float(line[column]) for column, name in _HISTORY.items() if line.get(column)}
        yield {**found, STEP: int(line["step"])}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's numbers, texts and intervals, without lists and mappings.

    >>> _flat({"miou": 0.5, "ci95": [0.25, 0.75], "per_class_iou": {"disc": 0.5}, "run": "a", "n_points": None})
    {'miou': 0.5, 'ci95_low': 0.25, 'ci95_high': 0.75, 'run': 'a', 'n_points': 'dense'}
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name == "n_points":
            found[name] = "dense" if value is None else str(value)  # a column of one type
        elif name.endswith("ci95") and isinstance(value, list | tuple):
            found[f"{name}_low"], found[f"{name}_high"] = value
        elif isinstance(value, str | bool | int | float):
            found[name] = value
    return found


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row that are scores or costs."""
    return {
        name: value
        for name, value in _flat(row).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _SETTING
    }


def _leaderboard_row(line: results.Line) -> dict[str, Any]:
    """A line of the leaderboard as a row of a table; of a trivial answer the note says for which K and P it holds."""
    amounts = () if line.trivial else ("n_shot", "n_points")
    named = ("dataset", "task", "protocol", "config", "method", *amounts, "miou", "ci95")
    found = _flat({name: getattr(line, name) for name in named})
    found |= {f"fold {fold}": miou for fold, miou in sorted(line.folds.items())}
    found |= {results.FIGURES.get(name, name): value for name, value in line.figures.items()}
    for name, interval in (("J&F", line.jf_ci95), ("AP50 boxes", line.ap50_boxes_ci95), ("AP50 masks", line.ap50_ci95)):
        if interval:
            found[f"{name} low"], found[f"{name} high"] = interval
    if line.rank:
        found["rank from"], found["rank to"], found["rank group"] = line.rank
    told = [f"{name} = {text}" for name, text in zip("KP", line.given, strict=True) if text]
    note = "; ".join([line.note, *told] if line.note else told)
    return {**found, "n_episodes": line.n_episodes, "n_seeds": line.n_seeds, "note": note}


def _curves(lines: Sequence[results.Line]) -> dict[str, Any]:
    """Score against annotated points at every K, and IoU against clicks at every K and P, a line a configuration."""
    import wandb

    found: dict[str, Any] = {}

    def place(line: results.Line) -> tuple[str, str, str, int]:
        return (line.dataset, line.task, line.protocol, line.n_shot)

    for (dataset, task, protocol, n_shot), group in itertools.groupby(sorted(lines, key=place), place):
        own, where = list(group), f"{dataset}/{task}/{protocol}/K{n_shot}"
        sparse: dict[str, list[tuple[int, float]]] = {}
        for line in own:
            if line.n_points is not None and line.miou is not None:
                sparse.setdefault(line.config, []).append((line.n_points, line.miou))
        sparse = {config: sorted(points) for config, points in sparse.items() if len(points) > 1}
        if sparse:
            found[f"{where}/points"] = wandb.plot.line_series(
                xs=[[points for points, _ in line] for line in sparse.values()],
                ys=[[miou for _, miou in line] for line in sparse.values()],
                keys=list(sparse),
                title=f"mIoU with few points: {where}",
                xname="annotated pixels per label and image",
            )
        clicked: dict[str, dict[str, Sequence[float]]] = {}
        for line in own:
            if line.clicks:
                clicked.setdefault(results.points(line.n_points), {})[line.config] = line.clicks.iou
        found |= {f"{where}-P{given}/clicks": _clicks(curves) for given, curves in clicked.items()}
    return found


def _clicks(ious: Mapping[str, Sequence[float]]) -> Any:
    """IoU against clicks, a line for every configuration."""
    import wandb

    xs = [list(range(1, len(line) + 1)) for line in ious.values()]
    lines = [list(line) for line in ious.values()]
    return wandb.plot.line_series(xs=xs, ys=lines, keys=list(ious), title="IoU after clicks", xname="clicks")


class _Picture(NamedTuple):
    """An episode of a run: what it shows, in a word and in columns, its query with masks where there are any."""

    name: str
    about: dict[str, Any]
    overlay: Any
    panel: Any


def _pictures(folder: Path) -> Iterable[_Picture]:
    """The pictures that the ``index.json`` of a run names, and of which the files are there."""
    import wandb

    index = folder / "index.json"
    for entry in json.loads(index.read_text(encoding="utf-8")) if index.is_file() else ():
        panel = folder / Path(entry["file"]).name  # a name in an index never leads out of the folder
        if not panel.is_file():
            continue
        kind, episode = entry["kind"], entry["episode"]
        caption = f"episode {episode}, query {entry['query']}"
        caption += f": {entry['class_name']}, IoU {entry['iou']:.3f}" if "iou" in entry else ""
        about = {name: entry[name] for name in ("kind", "episode", "query", "class_name", "iou") if name in entry}
        name = kind if kind in ("best", "median", "worst") else f"{kind}-{episode}"
        overlay = _overlay(folder, entry.get("overlay", {}), entry.get("class_name", "foreground"), caption)
        yield _Picture(name, about, overlay, wandb.Image(str(panel), caption=caption))


def _overlay(folder: Path, files: Mapping[str, str], class_name: str, caption: str) -> Any:
    """The query with masks to switch on and off; None where its files are not there."""
    paths = {part: folder / Path(file).name for part, file in files.items()}
    if "query" not in paths or not all(path.is_file() for path in paths.values()):
        return None
    with Image.open(paths.pop("query")) as file:
        query = np.array(file.convert("RGB"))
    masks = {}
    for part, path in paths.items():
        with Image.open(path) as file:
            masks[part] = np.array(file.convert("L"))
    highest = max(int(mask[mask < 255].max(initial=1)) for mask in masks.values())
    labels = {number: class_name if highest == 1 else f"{class_name} {number}" for number in range(1, highest + 1)}
    return with_masks(query, masks, {0: "background", **labels}, caption)


def _attach(run: Any, name: str, kind: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Files as an artifact, which is not copied; nothing where one of them is not there."""
    import wandb

    if not all(path.is_file() for path in files):
        return
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), kind, metadata=json.loads(json.dumps(metadata)))
    for path in files:
        artifact.add_file(str(path.resolve()), policy="immutable", skip_cache=True)
    run.log_artifact(artifact)
