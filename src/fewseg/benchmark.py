"""A grid of methods, folds, shots and points: planned without torch, resumed after a kill.

A *training* is one fit; a *run* is one evaluation of it. K, P, the evaluation part of the protocol and the options of
test time (clicks, refinement, tuning) belong to the run, so one training serves every run that differs only in them, be
it on another data set. ``metrics.json`` is written last: what has one is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import multiprocessing
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd
import yaml
from tqdm import tqdm

import fewseg
from fewseg import datasets, results
from fewseg.errors import FewsegError
from fewseg.functional.files import find_weights
from fewseg.functional.run_figures import score
from fewseg.protocols import PROTOCOLS, Protocol
from fewseg.sampling import check_search, frozen_list, video_dataset

KEYS = {"data", "methods", "compare", "folds", "shots", "points", "seeds", "protocol", "n_episodes"}
KEYS |= {"training", "pretraining", "tests"}
TRAINING_KEYS = {"max_steps", "batch_size", "precision", "validations", "n_val_episodes"}
METHOD_KEYS = {"config", "model", "data", "training", "variants"}
VARIANT_KEYS = {"data", "model", "repeat"}
TEST_KEYS = {"data", "protocol", "folds", "shots", "points", "n_episodes"}
# data options of robots, videos and random boxes, which no training reads
TEST_DATA = {"n_clicks", "refine", "refine_from", "zoom_in", "flip", "frame_size", "random_boxes"}
# these change speed, or belong to a run, or stand elsewhere in the identity
UNHASHED_DATA = {"num_workers", "pin_memory", "eval_batch_size", "budget_mb", "n_shot", "n_points", "n_episodes"}
UNHASHED_DATA |= {"dataset", "protocol"} | TEST_DATA
UNHASHED_TRAINER = {"accelerator", "devices", "callbacks", "logger", "default_root_dir", "enable_progress_bar"}

Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Training:
    """One fit: ``config`` is what ``fewseg fit --config`` would read."""

    id: str
    name: str  # of the method's entry in the grid
    fold: int
    seed: int
    config: Config
    validations: int = 0
    pretraining: str | None = None  # id of the training whose encoder this one starts from
    note: str = ""  # how it is trained, for tables
    n_folds: int = 1  # of a whole benchmark

    @property
    def method(self) -> str:
        """The class."""
        return _class(self.config["model"])

    @property
    def max_steps(self) -> int:
        """Training steps."""
        return int(self.config["trainer"]["max_steps"])


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluation of a training."""

    id: str
    training: Training
    config: str  # the training's name and the suffix of a variant: what tables compare
    seed: int  # the training's, or the value that a variant repeats
    dataset: str  # name of the data set that tests it
    data: Config  # options of the data module in place of the training's
    model: Config  # hyper-parameters in place of the training's
    pictures: bool  # whether this run shows its training's best, median and worst episodes

    @property
    def options(self) -> Config:
        """All options of the data module."""
        return {**self.training.config["data"], **self.data}


@dataclasses.dataclass(frozen=True)
class _Test:
    """What trainings are evaluated on."""

    dataset: datasets.FewShotDataset
    protocol: Protocol
    folds: list[int]  # of the trainings that it tests
    shots: list[int]
    points: list[int | None]
    n_episodes: int | None
    source: Any  # of the data set, as the benchmark writes it
    options: Config  # of the data module in place of the training's
    label: str  # part of the names of runs, where a benchmark lists its tests


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything a benchmark will do: pre-trainings, then trainings with their runs."""

    pretrainings: tuple[Training, ...]
    trainings: tuple[Training, ...]
    runs: tuple[Run, ...]
    n_folds: int
    config: Config


def read_yaml(path: Path) -> Config:
    """A YAML mapping; errors name the file."""
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise FewsegError(str(path), error.strerror or "an unreadable file", "a YAML file", "check the path") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:160]
        raise FewsegError(str(path), reason, "valid YAML", "mend the file") from None
    if not isinstance(loaded, dict):
        raise FewsegError(str(path), type(loaded).__name__, "a mapping of keys to values", "mend the file")
    return loaded


def _inline(path: Path, entry: Any) -> Config:
    """A config that a benchmark file names by its path, or holds itself."""
    return entry if isinstance(entry, dict) else read_yaml(path.parent / str(entry))


def self_contained(path: Path) -> Config:
    """A benchmark's config with the files that it names in their place, so that it can be run from anywhere."""
    config = read_yaml(path)
    config["data"] = _inline(path, config["data"])
    for name, entry in config["methods"].items():
        entry = {"config": entry} if isinstance(entry, str) else entry
        config["methods"][name] = {**entry, "config": _inline(path, entry["config"])}
    if config.get("pretraining"):
        config["pretraining"]["config"] = _inline(path, config["pretraining"]["config"])
    for number, test in enumerate(config.get("tests") or ()):
        test["data"] = _test_options(path, number, test)
    return config


def _test_options(path: Path, number: int, test: Config) -> Config:
    """The options of the data module that a test names by a file, or holds itself."""
    written = test.get("data", {})
    options = read_yaml(path.parent / written).get("data") if isinstance(written, str) else written
    if not isinstance(options, dict):
        where = f"{path}: tests[{number}].data"
        raise FewsegError(where, written, "a data config, or a mapping of its options", "see experiments/data")
    return options


def _known(path: Path, where: str, mapping: Mapping[str, Any], allowed: set[str]) -> None:
    for key in mapping:
        if key not in allowed:
            wanted = f"one of {', '.join(sorted(allowed))}"
            raise FewsegError(f"{path}: {where}{key}", "an unknown key", wanted, "correct the spelling or remove it")


def _dataset(path: Path, data: Config) -> datasets.FewShotDataset:
    """The data set of a data config, by class name."""
    entry = data.get("dataset")
    entry = {"class_path": entry} if isinstance(entry, str) else entry or {}
    name = str(entry.get("class_path", "")).rpartition(".")[2]
    if name not in datasets.__all__:
        wanted = f"one of {', '.join(sorted(datasets.__all__))}"
        raise FewsegError(f"{path}: data.dataset", name or "nothing", wanted, "name a data set")
    try:
        dataset: datasets.FewShotDataset = getattr(datasets, name)(**entry.get("init_args", {}))
    except TypeError as error:
        raise FewsegError(f"{path}: data.dataset", error, f"arguments of {name}", "correct the spelling") from None
    return dataset


def _points(path: Path, value: Any) -> int | None:
    if value in ("dense", None):
        return None
    if isinstance(value, int) and value > 0:
        return value
    raise FewsegError(f"{path}: points", value, "positive counts or 'dense'", "correct the list")


def _protocol(where: str, config: Config) -> Protocol:
    name = str(config.get("protocol", "clean"))
    if name not in PROTOCOLS:
        raise FewsegError(where, name, f"one of {', '.join(PROTOCOLS)}", "correct the spelling")
    return PROTOCOLS[name]


def _list(path: Path, config: Config, key: str, default: list[Any]) -> list[Any]:
    value = config.get(key, default)
    if not isinstance(value, list) or not value:
        raise FewsegError(f"{path}: {key}", value, "a list with at least one entry", "write it as [a, b]")
    return value


def _check_steps(where: str, budget: Config) -> None:
    if not isinstance(budget.get("max_steps"), int) or budget["max_steps"] < 0:
        raise FewsegError(where, budget.get("max_steps"), "a number of steps", "set it")


def plan(path: Path) -> Plan:
    """Reads a benchmark file and lists what it asks for; imports no torch.

    Args:
        path: the YAML file; paths in it are relative to it.
    """
    config = read_yaml(path)
    _known(path, "", config, KEYS)
    for key in ("data", "methods", "training"):
        if not config.get(key):
            raise FewsegError(f"{path}: {key}", "nothing", "an entry", f"add {key} (see experiments/benchmarks)")
    training = config["training"]
    _known(path, "training.", training, TRAINING_KEYS)
    _check_steps(f"{path}: training.max_steps", training)
    shared = _inline(path, config["data"])
    if not isinstance(shared.get("data"), dict):
        raise FewsegError(f"{path}: data", "a config without the key data", "a data config", "see experiments/data")
    if not isinstance(config["methods"], dict):
        got = type(config["methods"]).__name__
        raise FewsegError(f"{path}: methods", got, "a mapping from names to model configs", "write name: file.yaml")
    dataset = _dataset(path, shared.get("data", {}))
    variants = {name: _variants(path, name, entry) for name, entry in config["methods"].items()}
    configs = [variant.config for found in variants.values() for variant in found if not variant.again]
    reference = config.get("compare")
    if reference is not None and reference not in configs:
        remedy = "name the method that the others are compared with"
        raise FewsegError(f"{path}: compare", reference, f"one of {', '.join(configs)}", remedy)
    protocol = _protocol(f"{path}: protocol", config)
    folds = _list(path, config, "folds", list(range(dataset.n_folds)))
    seeds = _list(path, config, "seeds", [0])
    if len(seeds) > 1 and any(variant.seed is not None for found in variants.values() for variant in found):
        where = f"{path}: seeds"
        raise FewsegError(where, seeds, "one seed beside a variant that repeats itself", "drop the others, or repeat")

    def make(name: str, entry: Any, fold: int, seed: int, budget: Config, pretraining: str | None) -> Training:
        entry = {"config": entry} if isinstance(entry, str) else dict(entry)
        _known(path, f"methods.{name}.", entry, METHOD_KEYS)
        _known(path, f"methods.{name}.training.", entry.get("training", {}), TRAINING_KEYS)
        budget = {**budget, **entry.get("training", {})}
        _check_steps(f"{path}: methods.{name}.training.max_steps", budget)
        own = _inline(path, entry.get("config"))
        if not isinstance(own.get("model"), dict) or "class_path" not in own["model"]:
            where = f"{path}: methods.{name}"
            raise FewsegError(where, "a config without model.class_path", "a model config", "see experiments/models")
        model = {**own["model"], "init_args": {**own["model"].get("init_args", {}), **entry.get("model", {})}}
        data = {**shared["data"], **own.get("data", {}), **entry.get("data", {})}
        data |= {"protocol": protocol.name, "fold": fold, "seed": seed}
        data |= {k: budget[k] for k in ("batch_size", "n_val_episodes") if k in budget}
        elsewhere = data["dataset"] != shared["data"]["dataset"]
        source = _dataset(path, data) if elsewhere else dataset
        trainer = {**shared.get("trainer", {}), **own.get("trainer", {}), "max_steps": budget["max_steps"]}
        if "precision" in budget:
            trainer["precision"] = budget["precision"]
        identity = {
            "model": [_class(model), {k: _content(k, v) for k, v in model["init_args"].items()}],
            "data": {k: v for k, v in data.items() if k not in UNHASHED_DATA},
            "dataset": [source.name, source.index().fingerprint],
            "training_part": dataclasses.asdict(protocol.training),
            "trainer": {k: v for k, v in trainer.items() if k not in UNHASHED_TRAINER},
            "resize": data.get("resize") or protocol.evaluation.resize,
            "validations": budget.get("validations", 0),
            "pretraining": pretraining,
            **_objects(source, data.get("train_episodes"), protocol),
        }
        training_id = f"{name}-f{fold}-s{seed}-{results.content_id(identity)}"
        complete = {"model": model, "data": data, "trainer": trainer}
        note = f"{budget['max_steps']} steps of {data.get('batch_size', 8)} episodes"
        if elsewhere:
            drawn = data.get("train_episodes") or protocol.evaluation.task
            note += f" of {source.name} ({drawn}, augmentation {data.get('augmentation', 'flip')})"
        if pretraining:
            before = config["pretraining"]
            images = before.get("batch_size", training.get("batch_size", 8))
            note += f" after {before['max_steps']} steps of {images} images that pre-train the encoder on "
            note += f"{pretrained_on(before, fold)}, shared by the methods"
        if data.get("cache") == "features":
            note += "; features of the frozen encoder are computed once where a method allows it"
            note += "" if protocol.evaluation.video else ", which s/episode omits"
        validations = int(budget.get("validations", 0))
        return Training(training_id, name, fold, seed, complete, validations, pretraining, note, dataset.n_folds)

    def pretrained_on(before: Config, fold: int) -> str:
        name = _dataset(path, before["data"]).name if "dataset" in before.get("data", {}) else ""
        classes = "the base classes of the fold" if protocol.training.classes == "base" else "all classes"
        return f"{classes} of {name}" if name else classes

    tests = _tests(path, config, shared["data"], dataset, folds)
    pretrainings, trainings, runs = [], [], []
    for fold, seed in itertools.product(folds, seeds):
        if not isinstance(fold, int) or not 0 <= fold < dataset.n_folds:
            wanted = f"folds from 0 to {dataset.n_folds - 1}"
            raise FewsegError(f"{path}: folds", fold, wanted, f"{dataset.name} has {dataset.n_folds} folds")
        pretraining = None
        if config.get("pretraining"):
            _known(path, "pretraining.", config["pretraining"], {"config", "max_steps", "batch_size", "data"})
            for key in ("config", "max_steps"):
                if key not in config["pretraining"]:
                    raise FewsegError(f"{path}: pretraining.{key}", "nothing", "an entry", f"add {key}")
            budget = {"batch_size": training.get("batch_size", 8), **config["pretraining"]}
            data = budget.pop("data", {})
            taught = _dataset(path, data) if "dataset" in data else dataset
            n_base = len(taught.base_classes(fold)) if protocol.training.classes == "base" else len(taught.class_names)
            entry = {"config": budget.pop("config"), "model": {"n_classes": n_base}, "data": data}
            first = make("pretraining", entry, fold, seed, budget, None)
            pretrainings.append(first)
            pretraining = first.id
        for name, entry in config["methods"].items():
            one = make(name, entry, fold, seed, training, pretraining)
            trainings.append(one)
            runs += [
                _run(one, variant, test, n_shot, n_points)
                for test in tests
                if fold in test.folds
                for n_shot, n_points, variant in itertools.product(test.shots, test.points, variants[name])
                if _has_options(test.protocol) or not variant.data or variant.config == name
            ]
    _check_distinct(path, runs)
    lacking = {variant.config for found in variants.values() for variant in found} - {run.config for run in runs}
    if lacking:
        wanted = "tests with a robot, videos or instances, which their data options are about"
        remedy = "test under interactive, video or one-shot, or drop data from the variant"
        raise FewsegError(f"{path}: methods.*.variants", sorted(lacking), wanted, remedy)
    return Plan(tuple(pretrainings), tuple(trainings), tuple(runs), dataset.n_folds, config)


def _has_options(protocol: Protocol) -> bool:
    """Whether tests under a protocol read ``TEST_DATA``."""
    part = protocol.evaluation
    return part.robot is not None or part.video is not None or part.search is not None


class _Variant(NamedTuple):
    """A way to evaluate a training: the options and hyper-parameters of test time that differ from the training's."""

    config: str
    data: Config
    model: Config
    seed: int | None  # the value that is repeated, if one is
    again: bool  # whether this is not the first of its repetitions


def _variants(path: Path, name: str, entry: Any) -> list[_Variant]:
    """The plain evaluation of a method, and what its ``variants`` add or say about it under the empty suffix."""
    written = entry.get("variants", {}) if isinstance(entry, dict) else {}
    if not isinstance(written, dict):
        where = f"{path}: methods.{name}.variants"
        raise FewsegError(where, written, "a mapping from suffixes to options", 'write {"+AJ": {data: {refine: AJ}}}')
    found = []
    for suffix, changes in {"": {}, **written}.items():
        where = f"methods.{name}.variants.{suffix}"
        if not isinstance(changes, dict):
            raise FewsegError(f"{path}: {where}", changes, "a mapping of data, model and repeat", "mend the entry")
        _known(path, f"{where}.", changes, VARIANT_KEYS)
        data, model, repeat = (changes.get(part) or {} for part in ("data", "model", "repeat"))
        for part, content in zip(("data", "model", "repeat"), (data, model, repeat), strict=True):
            if not isinstance(content, dict):
                raise FewsegError(f"{path}: {where}.{part}", content, "a mapping", "write it as {name: value}")
        _known(path, f"{where}.data.", data, TEST_DATA)
        if len(repeat) > 1:
            raise FewsegError(f"{path}: {where}.repeat", list(repeat), "one hyper-parameter", "remove the others")
        for argument, values in repeat.items():
            if not isinstance(values, list) or not values or not all(type(value) is int for value in values):
                what = f"{path}: {where}.repeat.{argument}"
                raise FewsegError(what, values, "a list of whole numbers", "write it as [0, 1, 2]")
            for i, value in enumerate(values):
                found.append(_Variant(f"{name}{suffix}", data, {**model, argument: value}, value, i > 0))
        if not repeat:
            found.append(_Variant(f"{name}{suffix}", data, model, None, False))
    return found


def _tests(
    path: Path, config: Config, shared: Config, dataset: datasets.FewShotDataset, folds: list[int]
) -> list[_Test]:
    """What trainings are evaluated on: the benchmark's own data and settings, or what its ``tests`` say instead."""
    found = []
    for number, entry in enumerate(_list(path, config, "tests", [{}])):
        if not isinstance(entry, dict):
            raise FewsegError(f"{path}: tests[{number}]", entry, "a mapping", "write it as {data: file.yaml}")
        _known(path, f"tests[{number}].", entry, TEST_KEYS)
        options = _test_options(path, number, entry)
        own = _dataset(path, options) if "dataset" in options else dataset
        protocol = _protocol(f"{path}: tests[{number}].protocol", {**config, **entry})
        check_search(type(own), protocol)
        tested = _list(path, entry, "folds", folds)
        for fold in tested:
            if fold not in folds or own.n_folds not in (1, dataset.n_folds):
                wanted = f"folds of {folds}, of a data set with 1 or {dataset.n_folds} folds"
                got = f"{fold} of {own.name} with {own.n_folds}"
                raise FewsegError(f"{path}: tests[{number}].folds", got, wanted, "test what the benchmark trains")
        settings = {**config, **entry}
        n_episodes = settings.get("n_episodes", {**shared, **options}.get("n_episodes"))
        points = [_points(path, p) for p in _list(path, settings, "points", ["dense"])]
        label = f"{own.name}-{protocol.name}-" if "tests" in config else ""
        shots = _list(path, settings, "shots", [1])
        if not all(isinstance(n_shot, int) and n_shot >= 0 for n_shot in shots):
            raise FewsegError(f"{path}: shots", shots, "counts of supports", "correct the list")
        source = options.get("dataset", shared["dataset"])
        found.append(_Test(own, protocol, tested, shots, points, n_episodes, source, options, label))
    return found


def _run(one: Training, variant: _Variant, test: _Test, n_shot: int, n_points: int | None) -> Run:
    """One evaluation, with an id that names all that changes its numbers."""
    dataset, protocol = test.dataset, test.protocol
    fold = one.fold if dataset.n_folds > 1 else 0
    episodes = frozen_list("evaluation", dataset, protocol, fold, n_shot, n_points, test.n_episodes)
    setting = {"protocol": protocol.name, "n_shot": n_shot, "n_points": n_points, "n_episodes": test.n_episodes}
    asked = one.config["data"].get("train_episodes") or PROTOCOLS[one.config["data"]["protocol"]].evaluation.task
    own = variant.data if _has_options(test.protocol) else {}
    data = {"dataset": test.source, **test.options, **own, **setting, "fold": fold, "train_episodes": asked}
    if data["dataset"] == one.config["data"]["dataset"]:
        del data["dataset"]
    options = {**one.config["data"], **data}
    scored = protocol.evaluation
    kinds = ("interaction", "video", "search")  # left out where they do not apply, so that ids stay what they were
    part = {k: v for k, v in dataclasses.asdict(scored).items() if k not in kinds or v is not None}
    identity = {
        "training": one.id,
        "part": part,
        "k": n_shot,
        "p": n_points,
        "list": episodes.sha256,
    }
    further = {
        "dataset": [dataset.name, dataset.index().fingerprint] if "dataset" in {**test.options, **data} else None,
        "data": {k: v for k, v in test.options.items() if k not in UNHASHED_DATA}
        | {k: options[k] for k in TEST_DATA & options.keys() if options[k] not in (None, False, "none")},
        "model": {k: _content(k, v) for k, v in variant.model.items()},
        **_objects(dataset, None, protocol),
        "videos": video_dataset(dataset).video_fingerprint(scored.split) if scored.video else None,
    }
    identity |= {k: v for k, v in further.items() if v}
    seed = one.seed if variant.seed is None else variant.seed
    name = re.sub(r"[^\w.+-]", "_", variant.config)
    label = f"{name}-{test.label}f{one.fold}-s{seed}-k{n_shot}-p{n_points or 'dense'}"
    densest = (min(test.shots), max(map(results.amount, test.points)))
    pictures = (n_shot, results.amount(n_points)) == densest and not variant.again
    run_id = f"{label}-{results.content_id(identity)}"
    return Run(run_id, one, variant.config, seed, dataset.name, data, variant.model, pictures)


def _objects(dataset: datasets.FewShotDataset, episodes: str | None, protocol: Protocol) -> Config:
    """What names the instances of a data set, where episodes ask for them; empty where they ask for classes."""
    kind = episodes or protocol.evaluation.task
    return {} if kind == "semantic" else {"objects": [kind, dataset.object_source, dataset.object_fingerprint()]}


def _check_distinct(path: Path, runs: Iterable[Run]) -> None:
    """Refuses runs that tables could not tell apart."""
    seen: set[tuple[Any, ...]] = set()
    for run in runs:
        setting = tuple(run.data[name] for name in ("protocol", "n_shot", "n_points"))
        place = (run.dataset, *setting, run.config, run.training.fold, run.seed)
        if place in seen:
            got = f"two evaluations of {run.config} on {run.dataset} under {setting[0]} with K = {setting[1]}"
            remedy = "name them apart: another key in methods or variants"
            raise FewsegError(str(path), got, "one for each configuration and setting", remedy)
        seen.add(place)


def _class(model: Config) -> str:
    """The class of a model config; ``fewseg.models.PANet`` and ``PANet`` are one."""
    return str(model["class_path"]).rpartition(".")[2]


def _content(key: str, value: Any) -> Any:
    """The hash of weights instead of their path: where they lie changes no number, what is in them does."""
    if value in (None, "pretrained") or key not in ("weights", "trained", "automatic"):
        return value
    path = find_weights(str(value)) if key == "weights" else Path(str(value)) / "model.safetensors"
    if not path.is_file():
        raise FewsegError(key, value, "a folder that model.save() wrote", "check the path")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(grid: Plan, out: Path) -> str:
    """What a benchmark would do, one line per training with its runs."""
    lines = [f"{len(grid.pretrainings) + len(grid.trainings)} trainings, {len(grid.runs)} runs in {out}"]
    for one in (*grid.pretrainings, *grid.trainings):
        state = "done" if results.is_done(out / "trainings" / one.id) else "to do"
        lines.append(f"  training {one.id}: {one.max_steps} steps, {state}")
        for run in grid.runs:
            if run.training is one:
                lines.append(f"    run {run.id}: {'done' if results.is_done(out / run.id) else 'to do'}")
    return "\n".join(lines)


def execute(path: Path, out: Path, workers: int | None = None) -> int:
    """Runs a benchmark to the end and writes its summary; what is done already is skipped.

    Args:
        path: the benchmark file.
        out: its folder.
        workers: processes at once; None = one per GPU, or one per core up to 2 without a GPU.

    Returns:
        The exit status: 0, or 1 where a run failed or no row came out.
    """
    grid = plan(path)
    if workers is not None and workers < 1:
        raise FewsegError("--workers", workers, "at least 1", "raise it")
    todo = [r for r in grid.runs if not results.is_done(out / r.id)]
    _check(todo, {p.id: p for p in grid.pretrainings})
    with _locked(out):
        results.write_text(out / "benchmark.yaml", yaml.safe_dump(self_contained(path), sort_keys=False))
        reference = grid.config.get("compare")
        about = {"n_folds": grid.n_folds, "runs": [run.id for run in grid.runs]}
        results.write_json(out / "plan.json", {**about, "compare": reference and {"reference": reference}})
        failures = _run_all(grid, out, workers or len(_gpus()) or min(2, os.cpu_count() or 1))
        rows = results.summarise(out, grid.n_folds)
        print(results.table(rows, out, grid.n_folds) if rows else "no run finished")
        print(results.comparison_table(rows, out, reference))
        for note in results.training_notes(rows):
            print(f"training: {note}")
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures or not rows else 0


def _check(runs: Iterable[Run], pretrainings: Mapping[str, Training]) -> None:
    """Finds what only the classes themselves know to be wrong, before anything is written."""
    import pytorch_lightning as pl

    from fewseg.datamodules import FewShotDataModule
    from fewseg.evaluation import check_classes, check_finds, check_trains
    from fewseg.models.create import build, check_arguments, class_named
    from fewseg.refinement import check_point
    from fewseg.video_session import check_follows

    for run in {repr((r.training.name, r.model, {**r.data, "fold": 0})): r for r in runs}.values():
        init = {**run.training.config["model"].get("init_args", {}), **run.model}
        check_arguments(class_named(run.training.config["model"]["class_path"]), init)
        check_arguments(FewShotDataModule, run.options)
        data = FewShotDataModule(**{**run.options, "dataset": _dataset(Path("data"), run.options)})
        scored = data.evaluation_part
        if data.refine is not None or scored.video or scored.search:  # what a network offers only the network knows
            blank = {key: None if key == "weights" else value for key, value in init.items()}
            module: Any = build(run.training.config["model"]["class_path"], blank)
            if scored.search:
                check_finds(module.network, run.training.method, f"methods.{run.config}")
                check_classes(module.network, len(data.dataset.class_names), f"methods.{run.config}: n_classes")
            if scored.video:
                check_follows(module.network, run.training.method, f"methods.{run.config}")
            if data.refine is not None:
                check_point(module.network, data.refine, f"methods.{run.config}: refine", run.training.method)
    checked = set()  # names of methods: folds and seeds do not change a network
    for one in {run.training.id: run.training for run in runs}.values():
        for part in filter(None, (pretrainings.get(one.pretraining or ""), one)):
            check_arguments(class_named(part.config["model"]["class_path"]), part.config["model"].get("init_args", {}))
            check_arguments(FewShotDataModule, part.config["data"])
            check_arguments(pl.Trainer, part.config["trainer"])
            data = FewShotDataModule(**{**part.config["data"], "dataset": _dataset(Path("data"), part.config["data"])})
            data.training_sampler()
            unlike = data.train_episodes == "instance" or data.train_masks != "class"  # what not every network learns
            if unlike and part.name not in checked:
                checked.add(part.name)
                init = {k: None if k == "weights" else v for k, v in part.config["model"].get("init_args", {}).items()}
                learner = getattr(build(part.config["model"]["class_path"], init), "network", None)
                check_trains(learner, data, part.method, f"methods.{part.name}: ")
                check_classes(learner, len(data.dataset.class_names), f"methods.{part.name}: n_classes")


class _locked:
    """Holds a benchmark folder for one process; the lock goes with the process."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.file: IO[str] | None = None

    def __enter__(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self.file = (self.out / ".lock").open("w")
        except OSError as error:
            raise FewsegError(
                "--out", self.out, "a folder that can be written", f"choose another ({error.strerror})"
            ) from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FewsegError(
                "--out", self.out, "a folder that no other benchmark is using", "wait for it or choose another"
            ) from None

    def __exit__(self, *error: object) -> None:
        if self.file:
            self.file.close()


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


_events: Any = None  # of this worker process


def _start_worker(parent: int, free: Any, events: Any) -> None:
    """In a new worker: a GPU of its own (in turn where workers are more), a way to report, an end with the parent."""
    global _events
    _events = events
    gpu = free.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed benchmark takes its workers along: what goes on with its folder is the next benchmark."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _run_all(grid: Plan, out: Path, workers: int) -> dict[str, str]:
    """Two waves, because methods start from pre-trained encoders; returns the reasons of failures by training."""
    by_training: dict[str, list[Run]] = {}
    for run in grid.runs:
        by_training.setdefault(run.training.id, []).append(run)
    failures: dict[str, str] = {}
    everything = (*grid.pretrainings, *grid.trainings)
    n_steps = sum(one.max_steps for one in everything)
    done = sum(one.max_steps for one in everything if results.is_done(out / "trainings" / one.id))
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Read by the workers when they start. glibc gives large blocks back after every use; keeping them saves a training
    # step on a CPU up to a third of its time.
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
    for variable, value in {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **kept}.items():
        os.environ.setdefault(variable, value)
    free = context.Queue()
    for _, gpu in zip(range(workers), itertools.cycle(_gpus() or [None]), strict=False):
        free.put(gpu)
    events: Any = context.Queue()
    with (
        ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(), free, events)) as pool,
        tqdm(total=n_steps, initial=done, unit="step", desc="training", dynamic_ncols=True, smoothing=0.02) as bar,
    ):
        for wave in (grid.pretrainings, grid.trainings):
            waiting: dict[Future[None], Training] = {}
            for one in wave:
                if one.pretraining in failures:
                    failures[one.id] = f"its pre-training {one.pretraining} failed"
                    continue
                pending = [run for run in by_training.get(one.id, []) if not results.is_done(out / run.id)]
                if pending or not results.is_done(out / "trainings" / one.id):
                    waiting[pool.submit(_work, one, pending, out, threads)] = one
            while waiting:
                _show(events, bar)
                for future in [f for f in waiting if f.done()]:
                    one = waiting.pop(future)
                    error = future.exception()
                    if error is not None:
                        failures[one.id] = str(error) or type(error).__name__
                        log = "".join(traceback.format_exception(error))
                        results.write_text(out / "trainings" / one.id / "error.txt", log)
                        bar.write(f"failed: {one.id}: {failures[one.id]}", file=sys.stdout)
            _show(events, bar)
    return failures


def _show(events: Any, bar: Any) -> None:
    """Moves the bar and prints finished runs until nothing has come for a fifth of a second."""
    try:
        while True:
            kind, value = events.get(timeout=0.2)
            if kind == "steps":
                bar.update(value)
            else:
                bar.write(value, file=sys.stdout)
                sys.stdout.flush()
    except queue.Empty:
        return


def _work(one: Training, runs: list[Run], out: Path, threads: int) -> None:
    """In a worker process: the training, if it is not done, then its runs."""
    import torch

    torch.set_num_threads(threads)
    train(one, out, lambda steps: _events.put(("steps", steps)))
    for run in runs:
        row = evaluate(run, out)
        low, high = row["ci95"]
        points = row["n_points"] or "dense"
        line = f"{row['config']:<16} fold {row['fold']}  K {row['n_shot']}  P {points:<5}"
        if "n_videos" not in row:
            line += f"  mIoU {row['miou']:.3f} [{low:.3f}, {high:.3f}]  {1000 * row['seconds_per_episode']:.0f} ms"
        _events.put(("line", line + results.in_words(row)))


def _build(one: Training, out: Path, run: Run | None = None) -> tuple[Any, Any, Callable[..., Any]]:
    """Model, data module and a trainer factory from a training's config, or from what a run changes in it."""
    import logging
    import warnings

    import pytorch_lightning as pl

    from fewseg.datamodules import FewShotDataModule
    from fewseg.models.create import build

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(one.seed * 1000 + one.fold, verbose=False)
    init = {**one.config["model"].get("init_args", {}), **(run.model if run else {})}
    if one.pretraining:
        init["weights"] = str(out / "trainings" / one.pretraining / "checkpoint" / "model.safetensors")
    module = build(one.config["model"]["class_path"], init)
    data_config = run.options if run else one.config["data"]
    dataset = _dataset(out, data_config)
    try:
        data = FewShotDataModule(**{**data_config, "dataset": dataset})
    except TypeError as error:
        raise FewsegError("data", error, "arguments of FewShotDataModule", "correct the spelling") from None

    def trainer(**extra: Any) -> pl.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"enable_checkpointing": False, "use_distributed_sampler": False}
        options = {"devices": 1, **one.config["trainer"], **quiet, **extra}
        return pl.Trainer(**options)

    return module, data, trainer


def train(one: Training, out: Path, report: Callable[[int], None]) -> None:
    """One fit, resumed from its last checkpoint where there is one."""
    folder = out / "trainings" / one.id
    if results.is_done(folder):
        return
    from fewseg.callbacks import Checkpoint, Curve, Progress
    from fewseg.models.base import count_parameters

    folder.mkdir(parents=True, exist_ok=True)
    results.write_text(folder / "config.yaml", yaml.safe_dump(one.config, sort_keys=False))
    module, data, make_trainer = _build(one, out)
    validate = one.validations > 0 and data.validates
    interval = max(1, one.max_steps // one.validations) if validate else None
    curve = Curve(folder / "curve.csv")
    keeper = Checkpoint(folder / "checkpoint", every=max(20, one.max_steps // 10), validate_every=interval)
    trainer = make_trainer(
        callbacks=[curve, keeper, Progress(report)],
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=interval and interval * one.config["trainer"].get("accumulate_grad_batches", 1),
        limit_val_batches=1.0 if validate else 0,
    )
    device = trainer.strategy.root_device
    if one.max_steps and any(p.requires_grad for p in module.parameters()):
        last = keeper.last if keeper.last.is_file() else None
        trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    keeper.finish(module, one.max_steps)
    total, trained = count_parameters(getattr(module, "network", module))
    figures = {
        "id": one.id,
        "method": one.method,
        "config": one.name,
        "fold": one.fold,
        "seed": one.seed,
        "max_steps": one.max_steps,
        "kept_step": keeper.best_step,
        "n_parameters": total,
        "n_trained_parameters": trained,
        "seconds_train": round(curve.elapsed(), 2),
        "device": device_name(device),
        "versions": versions(),
    }
    results.write_json(folder / "metrics.json", figures)
    keeper.last.unlink(missing_ok=True)  # not before: a kill in between would train from the start again


def evaluate(run: Run, out: Path) -> Config:
    """One evaluation of a finished training: rows, pictures and the summary row, which makes it done."""
    from fewseg.callbacks import save_pictures, write_detections

    one = run.training
    module, data, make_trainer = _build(one, out, run)
    module.load_weights(out / "trainings" / one.id / "checkpoint" / "model.safetensors")
    started = time.perf_counter()
    trainer = make_trainer()
    trainer.test(module, datamodule=data, verbose=False)
    folder = out / run.id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    frame = pd.DataFrame(module.rows)
    trained = results.read_metrics(out / "trainings" / one.id)
    assert trained is not None
    part = data.evaluation_part
    figures = {
        "method": one.method,
        "config": run.config,
        "dataset": data.dataset.name,
        "task": part.task,
        "protocol": data.protocol.name,
        "fold": one.fold,
        "n_shot": data.n_shot,
        "n_points": data.n_points,
        "seed": run.seed,
        "training": one.id,
        "run": run.id,
        "pretraining": one.pretraining,
        "episode_list_sha256": data.episode_list().sha256,
        **score(frame, data.dataset.class_names, data.scored_classes(), part.runs, data.n_clicks),
        **module.figures,
        **{k: trained[k] for k in ("n_parameters", "n_trained_parameters", "seconds_train")},
        "seconds_evaluation": round(time.perf_counter() - started, 2),
        "eval_batch_size": data.eval_batch_size,
        "n_folds": one.n_folds,
        "max_steps": one.max_steps,
        "training_note": one.note if trained["n_trained_parameters"] else _untrained(one),
        "device": device_name(trainer.strategy.root_device),
        "versions": versions(),
    }
    if run.pictures:
        save_pictures(module, data, module.rows, folder / "pictures")
    write_detections(folder, module.detections, part)
    results.write_text(out / "episodes" / f"{figures['episode_list_sha256']}.jsonl", data.episode_list().text())
    results.finish_run(folder, {**one.config, "run": {"data": run.data, "model": run.model}}, module.rows, figures)
    return figures


def _untrained(one: Training) -> str:
    """The note of a method that learns nothing from episodes."""
    return "no parameter learns from episodes" + ("; the pre-trained encoder is used" if one.pretraining else "")


def device_name(device: Any) -> str:
    """A torch device in words, with the threads that a CPU used."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


@functools.cache
def versions() -> dict[str, str]:
    """The code that produced a number, as it was when the process first asked."""
    import numpy
    import torch

    own = fewseg.__version__
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():  # a checkout of this project, not another repository that happens to be around it
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        with contextlib.suppress(OSError):
            described = subprocess.run(command, capture_output=True, text=True, check=False)
            own += f"+{described.stdout.strip()}"
    return {
        "fewseg": own,
        "torch": torch.__version__,
        "pytorch_lightning": metadata.version("pytorch-lightning"),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
