"""Options that vary, and the evaluations that a benchmark leaves out or adds: ``grid``, ``exclude`` and ``include``.

A *cell* is one evaluation as a benchmark file asks for it. Cells know names only: no data set and no episode list.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fewseg.benchmark.reading import Config, check_budget, check_keys, check_once, check_owned, check_whole, points_of
from fewseg.errors import FewsegError

# data options of robots, videos and random boxes, which no training reads
TEST_DATA = {"n_clicks", "refine", "refine_from", "zoom_in", "flip", "frame_size", "random_boxes"}
SECTIONS = ("model", "data", "training", "trainer")  # of options that may vary
AXES = {"methods": "method", "data": "data", "folds": "fold", "seeds": "seed"}
AXES |= {"protocol": "protocol", "shots": "n_shot", "points": "n_points"}

# what stands elsewhere in a benchmark file, and what changes speed only
ELSEWHERE = {"data.fold": "folds", "data.seed": "seeds", "data.n_shot": "shots", "data.n_points": "points"}
ELSEWHERE |= {"data.protocol": "tests", "data.n_episodes": "n_episodes", "trainer.max_steps": "training.max_steps"}
ELSEWHERE |= {f"data.{name}": f"training.{name}" for name in ("batch_size", "n_val_episodes")}
ELSEWHERE |= {"trainer.precision": "training.precision"}
_NO_NUMBERS = {f"data.{name}" for name in ("num_workers", "pin_memory", "eval_batch_size", "budget_mb")}
_NO_NUMBERS |= {f"trainer.{name}" for name in ("accelerator", "devices")}


class Cell(NamedTuple):
    """One evaluation that is asked for.

    Args:
        method: name of its entry in ``methods``.
        data: name of what it trains on; empty where the benchmark has one ``data`` without a name.
        fold: of the training.
        seed: of the training.
        options: values of the options that vary.
        protocol: of the test.
        n_shot: K.
        n_points: P, None = dense.
        test: number of the test.
        variant: number of the variant of the method.
    """

    method: str
    data: str
    fold: int
    seed: int
    options: Config
    protocol: str
    n_shot: int
    n_points: int | None
    test: int
    variant: int

    def has(self, key: str) -> bool:
        """Whether a key of an entry says something about this cell."""
        return key in AXES or key in self.options

    def value(self, key: str) -> Any:
        """What the cell has for a key of an entry of ``exclude``."""
        return getattr(self, AXES[key]) if key in AXES else self.options[key]

    @property
    def key(self) -> str:
        """Equal for equal cells."""
        return json.dumps(self)


class Axes(NamedTuple):
    """Lists whose product is a grid, or a part of one; None where each data set or test has its own list."""

    methods: Sequence[str]
    data: Sequence[str]
    folds: Sequence[int] | None
    seeds: Sequence[int]
    protocol: Sequence[str] | None
    shots: Sequence[int] | None
    points: Sequence[int | None] | None
    options: Mapping[str, Sequence[Any]]


def read_options(path: Path, config: Config) -> dict[str, list[Any]]:
    """The options that ``grid`` names, each with its values.

    Raises:
        FewsegError: what is no option, or no list of different values.
    """
    written = config.get("grid", {})
    if not isinstance(written, dict):
        raise FewsegError(f"{path}: grid", written, "a mapping from options to lists", "write {model.lr: [1e-4, 1e-3]}")
    for option, values in written.items():
        where = f"{path}: grid.{option}"
        section, _, name = str(option).partition(".")
        if section not in SECTIONS or not name:
            wanted = f"an option that begins with {', '.join(f'{s}.' for s in SECTIONS[:-1])} or {SECTIONS[-1]}."
            raise FewsegError(where, "an option of no section", wanted, "write it as model.lr")
        if option in ELSEWHERE:
            raise FewsegError(where, "an option with a key of its own", ELSEWHERE[option], "write it there")
        if section == "trainer":
            check_owned(f"{path}: grid.trainer", [name.partition(".")[0]])
        if option in _NO_NUMBERS:
            raise FewsegError(where, "an option that changes no number", "one that does", "remove it")
        if not isinstance(values, list) or not values:
            raise FewsegError(where, values, "a list with at least one entry", "write it as [a, b]")
        check_once(where, values)
        for value in values if section == "training" else ():
            check_budget(path, "grid.training.", {name: value})
    return dict(written)


def is_of_tests(option: str) -> bool:
    """Whether only tests read an option, so that one training serves all its values.

    >>> is_of_tests("data.refine"), is_of_tests("data.size")
    (True, False)
    """
    section, _, name = option.partition(".")
    return section == "data" and name in TEST_DATA


def without(path: Path, config: Config, cells: Sequence[Cell], options: Mapping[str, Any]) -> list[Cell]:
    """The cells that no entry of ``exclude`` names.

    Raises:
        FewsegError: an entry with an unknown key or value, or one that leaves nothing out.
    """
    kept = list(cells)
    for where, entry in _entries(path, config, "exclude", options):
        for key, values in entry.items():
            there = _each_once(cell.value(key) for cell in cells if cell.has(key))
            for value in values:
                if value not in there:
                    raise FewsegError(f"{where}.{key}", _said(key, value), _one_of(key, there), "correct or remove it")
        if not any(_is_in(cell, entry) for cell in cells):
            raise FewsegError(where, _in_words(entry), "a part of the grid", "remove it: it leaves nothing out")
        kept = [cell for cell in kept if not _is_in(cell, entry)]
    return kept


def _is_in(cell: Cell, entry: Mapping[str, Sequence[Any]]) -> bool:
    return all(cell.has(key) and cell.value(key) in values for key, values in entry.items())


def additions(path: Path, config: Config, whole: Axes) -> list[tuple[str, Axes]]:
    """What the entries of ``include`` ask for, each after its name for errors.

    Args:
        path: the benchmark file.
        config: its content.
        whole: the benchmark's own lists, which hold where an entry says nothing.

    Raises:
        FewsegError: an entry with an unknown key, or a value that its axis cannot have.
    """
    found = []
    for where, entry in _entries(path, config, "include", whole.options):
        for key, known in (("methods", whole.methods), ("data", whole.data)):
            for name in entry.get(key, ()):
                if name not in known:
                    raise FewsegError(f"{where}.{key}", name, _one_of(key, known), "correct the spelling")
        for key in ("folds", "seeds", "shots"):
            for value in entry.get(key, ()):
                check_whole(f"{where}.{key}", value)
        named = {key: values for key, values in entry.items() if key in AXES}
        found.append((where, whole._replace(**named, options={**whole.options, **_options(entry)})))
    return found


def included_protocols(path: Path, config: Config) -> list[str]:
    """The protocols that ``include`` names."""
    names = dict.fromkeys(config.get("grid", {}), ())
    return _each_once(v for _, entry in _entries(path, config, "include", names) for v in entry.get("protocol", ()))


def _options(entry: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {key: values for key, values in entry.items() if key not in AXES}


def _entries(
    path: Path, config: Config, name: str, options: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """The entries of ``exclude`` or ``include``: where each stands, and a list of values for each key."""
    written = config.get(name, [])
    if not isinstance(written, list):
        raise FewsegError(f"{path}: {name}", written, "a list of mappings", "write [{methods: a, folds: 0}]")
    for number, entry in enumerate(written):
        where = f"{path}: {name}[{number}]"
        if not isinstance(entry, dict) or not entry:
            raise FewsegError(where, entry, "a mapping of keys of the grid", "write it as {methods: a, folds: 0}")
        check_keys(path, f"{name}[{number}].", entry, {*AXES, *options})
        found = {}
        for key, value in entry.items():
            values = value if isinstance(value, list) and value not in options.get(key, ()) else [value]
            if not values:
                raise FewsegError(f"{where}.{key}", value, "a value or a list of values", "name one, or drop the key")
            found[key] = [points_of(path, v) for v in values] if key == "points" else values
        yield where, found


def _each_once(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _said(key: str, value: Any) -> Any:
    return "dense" if key == "points" and value is None else value


def _one_of(key: str, values: Iterable[Any]) -> str:
    return f"one of {', '.join(str(_said(key, value)) for value in values)}"


def _in_words(entry: Mapping[str, Sequence[Any]]) -> str:
    return "; ".join(f"{key} {', '.join(str(_said(key, v)) for v in values)}" for key, values in entry.items())


def names_of(cells: Iterable[Cell]) -> Callable[[Cell, bool], str]:
    """Says what of a cell varies among cells, to stand after the name of its method.

    Returns:
        a function of a cell, and of whether options that only tests read are said as well.
    """
    cells = list(cells)
    several = len({cell.data for cell in cells}) > 1
    values: dict[str, list[Any]] = {}
    for cell in cells:
        for option, value in cell.options.items():
            if value not in values.setdefault(option, []):
                values[option].append(value)
    vary = [option for option, found in values.items() if len(found) > 1]
    last = Counter(option.rpartition(".")[2] for option in vary)
    short = {option: option if last[name] > 1 else name for option in vary for name in [option.rpartition(".")[2]]}

    def named(cell: Cell, tests: bool) -> str:
        told = f" ({cell.data})" if several else ""
        for option in vary:
            if option in cell.options and (tests or not is_of_tests(option)):
                told += f" {short[option]}={in_short(cell.options[option])}"
        return told

    return named


def in_short(value: Any) -> str:
    """A value of an option as names show it.

    >>> [in_short(v) for v in (0.001, "AJ", None, True, [2, 3], {"class_path": "Shapes5i", "init_args": {"n": 3}})]
    ['0.001', 'AJ', 'null', 'true', '[2,3]', 'Shapes5i{n:3}']
    """
    if isinstance(value, dict):
        inner = {k: v for k, v in value.items() if k not in ("class_path", "init_args")} | value.get("init_args", {})
        told = ",".join(f"{key}:{in_short(v)}" for key, v in inner.items())
        return str(value.get("class_path", "")) + (f"{{{told}}}" if told else "")
    if isinstance(value, list):
        return f"[{','.join(map(in_short, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def with_options(config: Config, section: str, options: Mapping[str, Any]) -> Config:
    """A section of a config with the options that vary in their places; the config stays as it was.

    >>> with_options({"dataset": "Shapes5i", "size": 96}, "data", {"data.dataset.init_args.seed": 3, "model.lr": 1})
    {'dataset': {'class_path': 'Shapes5i', 'init_args': {'seed': 3}}, 'size': 96}
    """
    for option, value in options.items():
        place, _, name = option.partition(".")
        if place == section:
            config = _placed(option, config, name.split("."), value)
    return config


def _placed(option: str, config: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    inside = {"class_path": config} if isinstance(config, str) else {} if config is None else config
    if not isinstance(inside, dict):
        raise FewsegError(f"grid.{option}", f"an option inside of {config}", "one inside of a mapping", "correct it")
    return {**inside, path[0]: _placed(option, inside.get(path[0]), path[1:], value)}
