"""From a benchmark file to the trainings and runs that it asks for; imports no torch.

A *training* is one fit; a *run* is one evaluation of it. K, P, the evaluation part of the protocol and the options of
test time (clicks, refinement, tuning) belong to the run, so one training serves every run that differs only in them, be
it on another data set. How ids come about: ``_training_identity`` and ``_run_identity``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fewseg import datasets, results
from fewseg.benchmark.cells import (
    ELSEWHERE,
    TEST_DATA,
    Axes,
    Cell,
    additions,
    included_protocols,
    is_of_tests,
    names_of,
    read_options,
    with_options,
    without,
)
from fewseg.benchmark.reading import Config as Config
from fewseg.benchmark.reading import (
    check_budget,
    check_keys,
    check_names,
    check_owned,
    check_whole,
    list_of,
    mapping_of,
    points_of,
    read_yaml,
)
from fewseg.errors import FewsegError
from fewseg.functional.files import find_weights
from fewseg.protocols import PROTOCOLS, Protocol
from fewseg.results.files import plain
from fewseg.sampling import check_search, frozen_text, video_dataset

KEYS = {"data", "methods", "compare", "folds", "shots", "points", "seeds", "protocol", "n_episodes"}
KEYS |= {"training", "pretraining", "tests", "grid", "exclude", "include"}
METHOD_KEYS = {"config", "model", "data", "training", "variants"}
VARIANT_KEYS = {"data", "model", "repeat"}
TEST_KEYS = {"data", "protocol", "folds", "shots", "points", "n_episodes"}
PRETRAINING_KEYS = {"config", "max_steps", "batch_size", "data"}
DATA_FILE_KEYS = {"data", "trainer"}
MODEL_FILE_KEYS = {"model", "data", "trainer"}
# these change speed, or belong to a run, or stand elsewhere in the identity
UNHASHED_DATA = {"num_workers", "pin_memory", "eval_batch_size", "budget_mb", "n_shot", "n_points", "n_episodes"}
UNHASHED_DATA |= {"dataset", "protocol"} | TEST_DATA
_NAMES = 20  # that an error lists
_LABEL = 120  # letters of a configuration's name in the name of a folder
UNHASHED_TRAINER = {"accelerator", "devices"}


@dataclasses.dataclass(frozen=True)
class Training:
    """One fit: ``config`` is what ``fewseg fit --config`` would read."""

    id: str
    name: str  # of the method's entry, and what of its data and options varies
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

    @property
    def train_dataset(self) -> str:
        """Name of the data set that it learns from."""
        entry = self.config["data"]["dataset"]
        found = getattr(datasets, _class(entry if isinstance(entry, dict) else {"class_path": entry}))
        return str(getattr(found, "name", found.__name__))

    @property
    def train_task(self) -> str:
        """What its episodes ask for: those that its data options name, else those of its protocol."""
        return str(self.config["data"].get("train_episodes") or PROTOCOLS[self.train_protocol].evaluation.task)

    @property
    def train_protocol(self) -> str:
        """Name of the protocol whose training part it follows."""
        return str(self.config["data"]["protocol"])


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluation of a training."""

    id: str
    training: Training
    config: str  # the method's name, the suffix of a variant, and what varies: what tables compare
    seed: int  # the training's, or the value that a variant repeats
    dataset: str  # name of the data set that tests it
    data: Config  # options of the data module in place of the training's
    model: Config  # hyper-parameters in place of the training's
    pictures: bool  # whether this run shows its training's best, median and worst episodes
    plain: str = ""  # ``config`` without the suffix
    n_episodes: int = 0  # length of its list

    @property
    def options(self) -> Config:
        """All options of the data module."""
        return {**self.training.config["data"], **self.data}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything a benchmark will do: pre-trainings, then trainings with their runs."""

    pretrainings: tuple[Training, ...]
    trainings: tuple[Training, ...]
    runs: tuple[Run, ...]
    n_folds: int | None  # None where data sets differ in it
    config: Config


class _Method(NamedTuple):
    """What trains: a model file, its parts all there, and what an entry of ``methods`` says in its place."""

    own: Config
    model: Config
    data: Config
    training: Config


class _Source(NamedTuple):
    """What trains and, where tests say nothing else, tests: a data config, its data set and the folds to train."""

    config: Config
    dataset: datasets.FewShotDataset
    folds: list[int]


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
    listed: bool = True  # not one that ``include`` alone asks for


class _Once:
    """Reads every data set, episode list and weights file once; lives as long as one planning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._datasets: dict[str, datasets.FewShotDataset] = {}
        self._lists: dict[tuple[Any, ...], tuple[str, int]] = {}
        self._videos: dict[tuple[int, str], str] = {}
        self._contents: dict[tuple[str, str], Any] = {}

    def dataset(self, data: Config) -> datasets.FewShotDataset:
        key = repr(data.get("dataset"))
        if key not in self._datasets:
            self._datasets[key] = dataset_of(self.path, data)
        return self._datasets[key]

    def episodes(self, test: _Test, fold: int, n_shot: int, n_points: int | None) -> tuple[str, int]:
        """SHA-256 and length of an evaluation list."""
        key = (id(test.dataset), test.protocol.name, fold, n_shot, n_points, test.n_episodes)
        if key not in self._lists:
            text = frozen_text("evaluation", test.dataset, test.protocol, fold, n_shot, n_points, test.n_episodes)
            self._lists[key] = (hashlib.sha256(text.encode()).hexdigest(), text.count("\n"))
        return self._lists[key]

    def videos(self, dataset: datasets.FewShotDataset, split: str) -> str:
        key = (id(dataset), split)
        if key not in self._videos:
            self._videos[key] = video_dataset(dataset).video_fingerprint(split)
        return self._videos[key]

    def content(self, key: str, value: Any) -> Any:
        place = (key, repr(value))
        if place not in self._contents:
            self._contents[place] = _content(key, value)
        return self._contents[place]


def _inline(path: Path, entry: Any) -> Config:
    """A config that a benchmark file names by its path, or holds itself."""
    return entry if isinstance(entry, dict) else read_yaml(path.parent / str(entry))


def self_contained(path: Path) -> Config:
    """A benchmark's config with the files that it names in their place, so that it can be run from anywhere."""
    config = read_yaml(path)
    named = _data_configs(path, config["data"])
    for number, test in enumerate(config.get("tests") or ()):
        test["data"] = _test_options(path, number, test, named)
    config["data"] = named.get("", named)
    for name, entry in config["methods"].items():
        entry = {"config": entry} if isinstance(entry, str) else entry
        config["methods"][name] = {**entry, "config": _inline(path, entry["config"])}
    if config.get("pretraining"):
        config["pretraining"]["config"] = _inline(path, config["pretraining"]["config"])
    return config


def _test_options(path: Path, number: int, test: Config, named: Mapping[str, Config]) -> Config:
    """The options of the data module that a test names, by a name of ``data`` or a file, or holds itself."""
    written = test.get("data", {})
    if isinstance(written, str):
        found = named[written] if written in named else read_yaml(path.parent / written)
        check_keys(path.parent / written, "", found, DATA_FILE_KEYS)
        options = found.get("data")
    else:
        options = {} if written is None else written
    if not isinstance(options, dict):
        where = f"{path}: tests[{number}].data"
        raise FewsegError(where, written, "a data config, or a mapping of its options", "see experiments/data")
    return options


def dataset_of(path: Path, data: Config) -> datasets.FewShotDataset:
    """The data set of a data config, by class name; errors name the file at ``path``."""
    entry = data.get("dataset")
    entry = entry if isinstance(entry, dict) else {"class_path": entry or ""}
    name = str(entry.get("class_path", "")).rpartition(".")[2]
    if name not in datasets.__all__:
        wanted = f"one of {', '.join(sorted(datasets.__all__))}"
        raise FewsegError(f"{path}: data.dataset", name or "nothing", wanted, "name a data set")
    try:
        dataset: datasets.FewShotDataset = getattr(datasets, name)(**(entry.get("init_args") or {}))
    except TypeError as error:
        raise FewsegError(f"{path}: data.dataset", error, f"arguments of {name}", "correct the spelling") from None
    return dataset


def _protocol(where: str, config: Config) -> Protocol:
    name = str(config.get("protocol", "clean"))
    if name not in PROTOCOLS:
        raise FewsegError(where, name, f"one of {', '.join(PROTOCOLS)}", "correct the spelling")
    return PROTOCOLS[name]


def plan(path: Path) -> Plan:
    """Reads a benchmark file and lists what it asks for; imports no torch.

    Args:
        path: the YAML file; paths in it are relative to it.
    """
    config = _checked(path)
    protocol = _protocol(f"{path}: protocol", config)
    options = read_options(path, config)
    once = _Once(path)
    sources = _sources(path, config, once)
    methods = {name: _method(path, name, entry) for name, entry in config["methods"].items()}
    variants = {name: variants_of(path, name, entry) for name, entry in config["methods"].items()}
    _check_variants(path, variants, options)
    tests = {name: _tests(path, config, source, sources, once) for name, source in sources.items()}

    seeds = [check_whole(f"{path}: seeds", seed) for seed in list_of(path, config, "seeds", [0])]
    whole = Axes(list(methods), list(sources), None, seeds, None, None, None, options)
    cells = list(_cells(path, whole, sources, tests, variants))
    _check_tested(path, variants, cells)
    cells = _with_additions(path, config, without(path, config, cells, options), whole, sources, tests, variants)
    _check_seeds(path, variants, cells)

    named = names_of(cells)
    trainer = _Trainer(once, config, protocol)
    runs = []
    for cell in cells:
        one = trainer.training(cell.method + named(cell, False), methods[cell.method], sources[cell.data], cell)
        variant, test = variants[cell.method][cell.variant], tests[cell.data][cell.test]
        runs.append(_run(once, one, cell, variant, test, named(cell, True)))
    _check_distinct(path, runs)
    _check_reference(path, config, runs)
    trainings = {run.training.id: run.training for run in runs}
    n_folds = {source.dataset.n_folds for source in sources.values()}
    return Plan(
        tuple(trainer.pretrainings.values()),
        tuple(trainings.values()),
        tuple(runs),
        n_folds.pop() if len(n_folds) == 1 else None,
        config,
    )


def _checked(path: Path) -> Config:
    """A benchmark file whose keys are known and whose mappings are mappings."""
    config = read_yaml(path)
    check_keys(path, "", config, KEYS)
    for key in ("data", "methods", "training"):
        if not config.get(key):
            raise FewsegError(f"{path}: {key}", "nothing", "an entry", f"add {key} (see experiments/benchmarks)")
    budget = mapping_of(path, "", config, "training")
    check_budget(path, "training.", {"max_steps": None, **budget})
    if not isinstance(config["methods"], dict):
        got = type(config["methods"]).__name__
        raise FewsegError(f"{path}: methods", got, "a mapping from names to model configs", "write name: file.yaml")
    check_names(path, "methods.", config["methods"])
    pretraining = mapping_of(path, "", config, "pretraining")
    if pretraining:
        check_keys(path, "pretraining.", pretraining, PRETRAINING_KEYS)
        for key in ("config", "max_steps"):
            if key not in pretraining:
                raise FewsegError(f"{path}: pretraining.{key}", "nothing", "an entry", f"add {key}")
        check_budget(path, "pretraining.", {k: v for k, v in pretraining.items() if k not in ("config", "data")})
        _check_own_keys(path, "pretraining.", mapping_of(path, "pretraining.", pretraining, "data"))
    return config


def _check_own_keys(path: Path, where: str, data: Config) -> None:
    """Refuses options of the data module that have keys of their own in a benchmark file, which would win."""
    for name in data:
        if (key := ELSEWHERE.get(f"data.{name}")) is not None:
            key = "pretraining.batch_size" if (where, name) == ("pretraining.", "batch_size") else key
            raise FewsegError(f"{path}: {where}data.{name}", "an option with a key of its own", key, "write it there")


def _data_configs(path: Path, written: Any) -> dict[str, Config]:
    """The data configs of a benchmark by name; one that stands alone has the empty name."""
    alone = not isinstance(written, dict) or "data" in written
    named = {"": written} if alone else written
    if not alone:
        check_names(path, "data.", named)
    found = {}
    for name, entry in named.items():
        where = f"{path}: data" + (f".{name}" if name else "")
        if not isinstance(entry, str | dict):
            raise FewsegError(where, entry, "a data config", "name a file, or write its content; see experiments/data")
        found[name] = _inline(path, entry)
        if not isinstance(found[name].get("data"), dict):
            raise FewsegError(where, "a config without the key data", "a data config", "see experiments/data")
        _check_file(path, entry, where, found[name], DATA_FILE_KEYS)
    return found


def _check_file(path: Path, entry: Any, where: str, content: Config, allowed: set[str]) -> None:
    """Refuses unknown keys of a data or model file, and what it says in vain of the trainer.

    Args:
        path: of the benchmark file.
        entry: what names the file there, or holds its content.
        where: of the entry.
        content: of the file.
        allowed: its keys.
    """
    place, dot = (where, ".") if isinstance(entry, dict) else (str(path.parent / str(entry)), ": ")
    for key in content:
        if key not in allowed:
            remedy = (
                "write seeds into the benchmark" if key == "seed_everything" else "remove it: no benchmark reads it"
            )
            wanted = f"one of {', '.join(sorted(allowed))}"
            raise FewsegError(f"{place}{dot}{key}", "an unknown key", wanted, remedy)
    trainer = content.get("trainer")
    if not isinstance(trainer, dict | None):
        raise FewsegError(f"{place}{dot}trainer", trainer, "a mapping of options", "write it as {option: value}")
    check_owned(f"{place}{dot}trainer", trainer or {})


def _sources(path: Path, config: Config, once: _Once) -> dict[str, _Source]:
    found = {}
    for name, data in _data_configs(path, config["data"]).items():
        dataset = once.dataset(data["data"])
        found[name] = _Source(data, dataset, list_of(path, config, "folds", list(range(dataset.n_folds))))
    return found


def _method(path: Path, name: str, entry: Any) -> _Method:
    """An entry of ``methods``, checked."""
    entry = entry if isinstance(entry, dict) else {"config": entry}
    where = f"methods.{name}."
    check_keys(path, where, entry, METHOD_KEYS)
    own = _model_file(path, entry.get("config"), f"{where}config")
    model, data, training = (mapping_of(path, where, entry, key) for key in ("model", "data", "training"))
    _check_own_keys(path, where, data)
    check_budget(path, f"{where}training.", training)
    return _Method(own, model, data, training)


def _model_file(path: Path, entry: Any, where: str) -> Config:
    """The content of a model file, checked: ``model``, ``data`` and ``trainer``, all there."""
    if not isinstance(entry, str | dict):
        raise FewsegError(f"{path}: {where}", entry, "a model config", "name a file of experiments/models")
    own = _inline(path, entry)
    if not isinstance(own.get("model"), dict) or "class_path" not in own["model"]:
        got = "a config without model.class_path"
        raise FewsegError(f"{path}: {where}", got, "a model config", "see experiments/models")
    _check_file(path, entry, f"{path}: {where}", own, MODEL_FILE_KEYS)
    read = f"{where}: " if isinstance(entry, dict) else f"{entry}: "
    init = mapping_of(path, f"{read}model.", own["model"], "init_args")
    model = {**own["model"], "init_args": init}
    return {"model": model, "data": mapping_of(path, read, own, "data"), "trainer": own.get("trainer") or {}}


def _cells(
    path: Path,
    axes: Axes,
    sources: Mapping[str, _Source],
    tests: Mapping[str, Sequence[_Test]],
    variants: Mapping[str, Sequence[_Variant]],
) -> Iterator[Cell]:
    """The product of lists, trainings before what is evaluated on them."""
    training, testing = ({k: v for k, v in axes.options.items() if is_of_tests(k) == of} for of in (False, True))
    for data in axes.data:
        source = sources[data]
        for fold, seed in itertools.product(source.folds if axes.folds is None else axes.folds, axes.seeds):
            if type(fold) is not int or not 0 <= fold < source.dataset.n_folds:
                wanted = f"folds from 0 to {source.dataset.n_folds - 1}"
                remedy = f"{source.dataset.name} has {source.dataset.n_folds} folds"
                raise FewsegError(f"{path}: folds", fold, wanted, remedy)
            for method, trained in itertools.product(axes.methods, _combinations(training)):
                for number, test in enumerate(tests[data]):
                    name = test.protocol.name
                    if (name not in axes.protocol) if axes.protocol is not None else not test.listed:
                        continue
                    if axes.folds is None and fold not in test.folds:
                        continue
                    reads = _has_options(test.protocol)
                    settings = itertools.product(axes.shots or test.shots, axes.points or test.points)
                    for (n_shot, n_points), (i, variant) in itertools.product(settings, enumerate(variants[method])):
                        if reads or not variant.data or variant.config == method:
                            for tested in _combinations(testing if reads else {}):
                                chosen = {
                                    k: {**trained, **tested}[k] for k in axes.options if k in trained or k in tested
                                }
                                yield Cell(method, data, fold, seed, chosen, name, n_shot, n_points, number, i)


def _combinations(options: Mapping[str, Sequence[Any]]) -> list[Config]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def _with_additions(
    path: Path,
    config: Config,
    cells: list[Cell],
    whole: Axes,
    sources: Mapping[str, _Source],
    tests: Mapping[str, Sequence[_Test]],
    variants: Mapping[str, Sequence[_Variant]],
) -> list[Cell]:
    """The cells, and what ``include`` adds to them."""
    there = {cell.key for cell in cells}
    for where, axes in additions(path, config, whole):
        new = [cell for cell in _cells(path, axes, sources, tests, variants) if cell.key not in there]
        if not new:
            raise FewsegError(where, "what the grid has already", "something to add", "correct it, or remove it")
        cells = [*cells, *new]
        there |= {cell.key for cell in new}
    if not cells:
        raise FewsegError(f"{path}: exclude", "all of the grid", "a part of it", "leave something to do")
    return cells


class _Trainer:
    """Makes trainings. Those of equal content are one, which has the name that asked for it first."""

    def __init__(self, once: _Once, config: Config, protocol: Protocol) -> None:
        self.once, self.config, self.protocol = once, config, protocol
        self.pretrainings: dict[str, Training] = {}
        self._by_cell: dict[str, Training] = {}  # cells that differ in their tests alone
        self._by_content: dict[str, Training] = {}

    def training(self, name: str, method: _Method, source: _Source, cell: Cell) -> Training:
        """The training that a cell evaluates.

        Args:
            name: for tables.
            method: what trains.
            source: what it trains on.
            cell: of the grid.
        """
        options = {option: value for option, value in cell.options.items() if not is_of_tests(option)}
        place = json.dumps([cell.method, cell.data, cell.fold, cell.seed, options])
        if place not in self._by_cell:
            pretraining = self._pretraining(source, cell.fold, cell.seed) if self.config.get("pretraining") else None
            budget = with_options({**self.config["training"], **method.training}, "training", options)
            label = (cell.method, name)
            self._by_cell[place] = self._make(label, method, source, cell.fold, cell.seed, options, budget, pretraining)
        return self._by_cell[place]

    def _pretraining(self, source: _Source, fold: int, seed: int) -> Training:
        """The encoder that all methods of a fold and seed start from."""
        written = self.config["pretraining"]
        data = written.get("data") or {}
        taught = self.once.dataset(data) if "dataset" in data else source.dataset
        base = self.protocol.training.classes == "base"
        n_classes = len(taught.base_classes(fold) if base else taught.class_names)
        method = _Method(
            _model_file(self.once.path, written["config"], "pretraining.config"), {"n_classes": n_classes}, data, {}
        )
        budget = {"max_steps": written["max_steps"], "batch_size": self._images_per_step()}
        made = self._make(("pretraining", "pretraining"), method, source, fold, seed, {}, budget, None)
        self.pretrainings[made.id] = made
        return made

    def _images_per_step(self) -> int:
        """Of the pre-training."""
        return int(self.config["pretraining"].get("batch_size", self.config["training"].get("batch_size", 8)))

    def _make(
        self,
        label: tuple[str, str],
        method: _Method,
        source: _Source,
        fold: int,
        seed: int,
        options: Config,
        budget: Config,
        pretraining: Training | None,
    ) -> Training:
        """Puts a training's config together: later files and entries win, and what varies wins over all."""
        init = {**method.own["model"]["init_args"], **method.model}
        model = {**method.own["model"], "init_args": with_options(init, "model", options)}
        data = {**source.config["data"], **method.own["data"], **method.data}
        data = with_options(data, "data", options)
        data |= {"protocol": self.protocol.name, "fold": fold, "seed": seed}
        data |= {k: budget[k] for k in ("batch_size", "n_val_episodes") if k in budget}
        trainer = {**(source.config.get("trainer") or {}), **method.own["trainer"]}
        trainer = with_options(trainer, "trainer", options) | {"max_steps": budget["max_steps"]}
        _check_devices(f"{self.once.path}: methods.{label[0]}: trainer", trainer)
        if "precision" in budget:
            trainer["precision"] = budget["precision"]
        complete = {"model": model, "data": data, "trainer": trainer}
        validations = int(budget.get("validations", 0))
        before = pretraining.id if pretraining else None
        identity = _training_identity(self.once, complete, self.protocol, validations, before)
        content = json.dumps(identity, sort_keys=True, default=plain)
        if content not in self._by_content:
            self._by_content[content] = Training(
                f"{label[0]}-f{fold}-s{seed}-{results.content_id(identity)}",
                label[1],
                fold,
                seed,
                complete,
                validations,
                before,
                self._note(data, source, fold, budget, pretraining),
                source.dataset.n_folds,
            )
        return self._by_content[content]

    def _note(self, data: Config, source: _Source, fold: int, budget: Config, pretraining: Training | None) -> str:
        """How a training is made, for tables."""
        note = f"{budget['max_steps']} steps of {data.get('batch_size', 8)} episodes"
        if data["dataset"] != source.config["data"]["dataset"]:
            drawn = data.get("train_episodes") or self.protocol.evaluation.task
            note += f" of {self.once.dataset(data).name} ({drawn}, augmentation {data.get('augmentation', 'flip')})"
        if pretraining:
            taught = self.config["pretraining"].get("data") or {}
            classes = "the base classes of the fold" if self.protocol.training.classes == "base" else "all classes"
            note += f" after {pretraining.max_steps} steps of {self._images_per_step()} images that pre-train the "
            note += f"encoder on {classes}" + (f" of {self.once.dataset(taught).name}" if "dataset" in taught else "")
            note += ", shared by the methods"
        if data.get("cache") == "features":
            note += "; features of the frozen encoder are computed once where a method allows it"
            note += "" if self.protocol.evaluation.video else ", which s/episode omits"
        return note


def _check_devices(where: str, trainer: Config) -> None:
    """Refuses several processes for a training: each would start the whole benchmark again."""
    several = {
        name: value
        for name, value in trainer.items()
        if (name == "devices" and value not in (1, "1", "auto", [0]))
        or (name == "num_nodes" and value != 1)
        or (name == "strategy" and value != "auto")
    }
    if several:
        remedy = "train with fewseg fit (docs/scaling.md); benchmarks use further devices for further trainings"
        raise FewsegError(where, several, "one device for each training", remedy)


def _training_identity(
    once: _Once, complete: Config, protocol: Protocol, validations: int, pretraining: str | None
) -> Config:
    """All that changes the weights that come out, and nothing else; its hash ends a training's id.

    Args:
        once: reads data sets and weights.
        complete: ``model``, ``data`` and ``trainer`` of the training.
        protocol: its training part counts, and how its evaluation resizes.
        validations: how often weights are selected.
        pretraining: id of what gives the encoder.
    """
    model, data, trainer = complete["model"], complete["data"], complete["trainer"]
    source = once.dataset(data)
    return {
        "model": [_class(model), {k: once.content(k, v) for k, v in model["init_args"].items()}],
        "data": {k: v for k, v in data.items() if k not in UNHASHED_DATA},
        "dataset": [source.name, source.index().fingerprint],
        "training_part": dataclasses.asdict(protocol.training),
        "trainer": {k: v for k, v in trainer.items() if k not in UNHASHED_TRAINER},
        "resize": data.get("resize") or protocol.evaluation.resize,
        "validations": validations,
        "pretraining": pretraining,
        **_objects(source, data.get("train_episodes"), protocol),
    }


def _check_variants(path: Path, variants: Mapping[str, Sequence[_Variant]], options: Config) -> None:
    """Refuses variants that set an option of the grid themselves."""
    for variant in itertools.chain(*variants.values()):
        for name in variant.data:
            if f"data.{name}" in options:
                got = f"an option that the variant {variant.config} sets"
                raise FewsegError(f"{path}: grid.data.{name}", got, "each option in one place", "drop one of them")


def _check_seeds(path: Path, variants: Mapping[str, Sequence[_Variant]], cells: Iterable[Cell]) -> None:
    """Refuses several seeds beside a variant that repeats itself: tables could not tell them apart."""
    seeds = sorted({cell.seed for cell in cells})
    if len(seeds) > 1 and any(variant.seed is not None for variant in itertools.chain(*variants.values())):
        where = f"{path}: seeds"
        raise FewsegError(where, seeds, "one seed beside a variant that repeats itself", "drop the others, or repeat")


def _check_tested(path: Path, variants: Mapping[str, Sequence[_Variant]], cells: Iterable[Cell]) -> None:
    """Refuses variants that no test of the benchmark reads."""
    tested = {(cell.method, cell.variant) for cell in cells}
    lacking = {v.config for name, found in variants.items() for i, v in enumerate(found) if (name, i) not in tested}
    if lacking:
        wanted = "tests with a robot, videos or instances, which their data options are about"
        remedy = "test under interactive, video or one-shot, or drop data from the variant"
        raise FewsegError(f"{path}: methods.*.variants", sorted(lacking), wanted, remedy)


def _check_reference(path: Path, config: Config, runs: Iterable[Run]) -> None:
    """Refuses to compare with what nobody evaluates."""
    reference, names = config.get("compare"), list(dict.fromkeys(run.config for run in runs))
    if reference is not None and reference not in names:
        listed = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
        remedy = "name the method that the others are compared with"
        raise FewsegError(f"{path}: compare", reference, f"one of {listed}", remedy)


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
    written = (entry.get("variants") if isinstance(entry, dict) else None) or {}
    if not isinstance(written, dict):
        where = f"{path}: methods.{name}.variants"
        raise FewsegError(where, written, "a mapping from suffixes to options", 'write {"+AJ": {data: {refine: AJ}}}')
    found = []
    for suffix, given in {"": {}, **written}.items():
        where = f"methods.{name}.variants.{suffix}"
        changes = {} if given is None else given
        if not isinstance(changes, dict):
            raise FewsegError(f"{path}: {where}", changes, "a mapping of data, model and repeat", "mend the entry")
        check_keys(path, f"{where}.", changes, VARIANT_KEYS)
        data, model, repeat = (changes.get(part) or {} for part in ("data", "model", "repeat"))
        for part, content in zip(("data", "model", "repeat"), (data, model, repeat), strict=True):
            if not isinstance(content, dict):
                raise FewsegError(f"{path}: {where}.{part}", content, "a mapping", "write it as {name: value}")
        check_keys(path, f"{where}.data.", data, TEST_DATA)
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


def _tests(path: Path, config: Config, source: _Source, sources: Mapping[str, _Source], once: _Once) -> list[_Test]:
    """What trainings are evaluated on: the benchmark's own data and settings, or what its ``tests`` say instead.

    Behind them stand those under protocols that only ``include`` names.
    """
    named = {name: one.config for name, one in sources.items()}
    entries = list_of(path, config, "tests", [{}])
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise FewsegError(f"{path}: tests[{number}]", entry, "a mapping", "write it as {data: file.yaml}")
        check_keys(path, f"tests[{number}].", entry, TEST_KEYS)
    protocols = [entry.get("protocol", config.get("protocol", "clean")) for entry in entries]
    added = [{"protocol": name} for name in included_protocols(path, config) if name not in protocols]
    found = []
    for number, entry in enumerate([*entries, *added]):
        listed = number < len(entries)
        where = f"{path}: tests[{number}]" if listed else f"{path}: include"
        settings = {**config, **entry}
        options = _test_options(path, number, entry, named)
        dataset = once.dataset(options) if "dataset" in options else source.dataset
        protocol = _protocol(f"{where}.protocol", settings)
        check_search(type(dataset), protocol)
        tested = list_of(path, entry, "folds", source.folds)
        for fold in tested:
            if fold not in source.folds or dataset.n_folds not in (1, source.dataset.n_folds):
                wanted = f"folds of {source.folds}, of a data set with 1 or {source.dataset.n_folds} folds"
                got = f"{fold} of {dataset.name} with {dataset.n_folds}"
                raise FewsegError(f"{where}.folds", got, wanted, "test what the benchmark trains")
        shots = [check_whole(f"{path}: shots", n_shot) for n_shot in list_of(path, settings, "shots", [1])]
        n_episodes = settings.get("n_episodes", {**source.config["data"], **options}.get("n_episodes"))
        if n_episodes is not None:
            check_whole(f"{where if 'n_episodes' in entry else path}: n_episodes", n_episodes, 1)
        found.append(
            _Test(
                dataset,
                protocol,
                tested,
                shots,
                [points_of(path, p) for p in list_of(path, settings, "points", ["dense"])],
                n_episodes,
                options.get("dataset", source.config["data"]["dataset"]),
                options,
                f"{dataset.name}-{protocol.name}-" if "tests" in config or not listed else "",
                listed,
            )
        )
    return found


def _run(once: _Once, one: Training, cell: Cell, variant: _Variant, test: _Test, varying: str) -> Run:
    """One evaluation, with an id that names all that changes its numbers.

    Args:
        once: reads episode lists.
        one: what is evaluated.
        cell: K, P and the options of the grid.
        variant: of the method.
        test: what it is evaluated on.
        varying: what stands behind the method's name.
    """
    fold = one.fold if test.dataset.n_folds > 1 else 0
    sha256, n_listed = once.episodes(test, fold, cell.n_shot, cell.n_points)
    chosen = {option: value for option, value in cell.options.items() if is_of_tests(option)}
    own = with_options(variant.data if _has_options(test.protocol) else {}, "data", chosen)
    setting = {"n_shot": cell.n_shot, "n_points": cell.n_points, "n_episodes": test.n_episodes}
    data = {"dataset": test.source, **test.options, **own, "protocol": test.protocol.name, **setting, "fold": fold}
    data["train_episodes"] = one.train_task
    if data["dataset"] == one.config["data"]["dataset"]:
        del data["dataset"]
    identity = _run_identity(once, one, variant, test, data, sha256)
    label = re.sub(r"[^\w.+-]", "_", variant.config) + re.sub(r"[^\w.+-]+", "_", varying).rstrip("_")
    seed = cell.seed if variant.seed is None else variant.seed
    setting_label = f"k{cell.n_shot}-p{cell.n_points or 'dense'}"
    densest = (min(test.shots), max(map(results.amount, test.points)))
    return Run(
        f"{label[:_LABEL]}-{test.label}f{one.fold}-s{seed}-{setting_label}-{results.content_id(identity)}",
        one,
        variant.config + varying,
        seed,
        test.dataset.name,
        data,
        variant.model,
        (cell.n_shot, results.amount(cell.n_points)) == densest and not variant.again,
        cell.method + varying,
        n_listed,
    )


def _run_identity(
    once: _Once, one: Training, variant: _Variant, test: _Test, data: Config, episode_list: str
) -> Config:
    """All that changes the numbers of an evaluation, and nothing else; its hash ends a run's id.

    Args:
        once: reads weights and videos.
        one: what is evaluated.
        variant: of its method.
        test: what it is evaluated on.
        data: options of the data module in place of the training's.
        episode_list: SHA-256 of the episodes.
    """
    scored = test.protocol.evaluation
    options = {**one.config["data"], **data}
    kinds = ("interaction", "video", "search", "absent")  # left out where they do not apply: ids stay what they were
    identity = {
        "training": one.id,
        "part": {k: v for k, v in dataclasses.asdict(scored).items() if k not in kinds or v is not None},
        "k": data["n_shot"],
        "p": data["n_points"],
        "list": episode_list,
    }
    elsewhere = "dataset" in test.options or "dataset" in data
    further = {
        "dataset": [test.dataset.name, test.dataset.index().fingerprint] if elsewhere else None,
        "data": {k: v for k, v in test.options.items() if k not in UNHASHED_DATA}
        | {k: options[k] for k in TEST_DATA & options.keys() if options[k] not in (None, False, "none")},
        "model": {k: once.content(k, v) for k, v in variant.model.items()},
        **_objects(test.dataset, None, test.protocol),
        "videos": once.videos(test.dataset, scored.split) if scored.video else None,
    }
    return identity | {k: v for k, v in further.items() if v}


def _objects(dataset: datasets.FewShotDataset, episodes: str | None, protocol: Protocol) -> Config:
    """What names the instances of a data set, where episodes ask for them; empty where they ask for classes."""
    kind = episodes or protocol.evaluation.task
    return {} if kind == "semantic" else {"objects": [kind, dataset.object_source, dataset.object_fingerprint()]}


def _check_distinct(path: Path, runs: Iterable[Run]) -> None:
    """Refuses runs that tables could not tell apart."""
    seen: set[tuple[Any, ...]] = set()
    ids: dict[str, str] = {}
    for run in runs:
        if ids.setdefault(run.id, run.config) != run.config:
            got = f"{run.config} and {ids[run.id]}, whose runs would share a folder"
            raise FewsegError(f"{path}: methods", got, "names that differ in more than signs", "rename one of them")
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
