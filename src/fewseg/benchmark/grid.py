"""From a benchmark file to the trainings and runs that it asks for; imports no torch.

A *training* is one fit; a *run* is one evaluation of it. K, P, the evaluation part of the protocol and the options of
test time (clicks, refinement, tuning) belong to the run, so one training serves every run that differs only in them, be
it on another data set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fewseg import datasets, results
from fewseg.errors import FewsegError
from fewseg.functional.files import find_weights
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


def dataset_of(path: Path, data: Config) -> datasets.FewShotDataset:
    """The data set of a data config, by class name; errors name the file at ``path``."""
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
    dataset = dataset_of(path, shared.get("data", {}))
    variants = {name: variants_of(path, name, entry) for name, entry in config["methods"].items()}
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
        source = dataset_of(path, data) if elsewhere else dataset
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
        name = dataset_of(path, before["data"]).name if "dataset" in before.get("data", {}) else ""
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
            taught = dataset_of(path, data) if "dataset" in data else dataset
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


def variants_of(path: Path, name: str, entry: Any) -> list[_Variant]:
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
        own = dataset_of(path, options) if "dataset" in options else dataset
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
