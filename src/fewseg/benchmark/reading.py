"""YAML files of benchmarks, and errors that name the file and the key, or the option."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from fewseg.errors import FewsegError

Config = dict[str, Any]

TRAINING_KEYS = {"max_steps", "batch_size", "precision", "validations", "n_val_episodes"}
_LEAST = {"max_steps": 0, "batch_size": 1, "validations": 0, "n_val_episodes": 0}
# options of the trainer that the engine sets, with the key of a benchmark file that says the same, where there is one
OWNED = dict.fromkeys(
    ("val_check_interval", "check_val_every_n_epoch", "limit_val_batches", "num_sanity_val_steps"),
    "training.validations",
)
OWNED |= dict.fromkeys(
    ("max_epochs", "min_epochs", "min_steps", "max_time", "limit_train_batches"), "training.max_steps"
)
OWNED |= dict.fromkeys(("fast_dev_run", "overfit_batches", "limit_test_batches", "limit_predict_batches"), "")
OWNED |= dict.fromkeys(("callbacks", "logger", "default_root_dir", "use_distributed_sampler", "barebones"), "")
OWNED |= dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), "")


class _Loader(yaml.SafeLoader):
    """As ``fewseg fit`` reads YAML: 1e-3 is a number, which plain YAML 1.1 takes for text."""


_Loader.yaml_implicit_resolvers = {first: [*found] for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Config:
    """A YAML mapping; errors name the file."""
    try:
        loaded = yaml.load(path.read_text(), _Loader)  # a safe loader
    except OSError as error:
        raise FewsegError(str(path), error.strerror or "an unreadable file", "a YAML file", "check the path") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:160]
        raise FewsegError(str(path), reason, "valid YAML", "mend the file") from None
    if not isinstance(loaded, dict):
        raise FewsegError(str(path), type(loaded).__name__, "a mapping of keys to values", "mend the file")
    return loaded


def check_keys(path: Path, where: str, mapping: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Refuses a key that is not allowed; ``where`` stands before it in the error."""
    for key in mapping:
        if key not in allowed:
            wanted = f"one of {', '.join(sorted(allowed))}"
            raise FewsegError(f"{path}: {where}{key}", "an unknown key", wanted, "correct the spelling or remove it")


def mapping_of(path: Path, where: str, config: Mapping[str, Any], key: str) -> Config:
    """The mapping at a key of a config, empty where nothing is given; ``where`` stands before the key in errors."""
    value = config.get(key)
    if not isinstance(value, dict | None):
        raise FewsegError(f"{path}: {where}{key}", value, "a mapping of keys to values", "write it as {key: value}")
    return value or {}


def check_names(path: Path, where: str, mapping: Mapping[Any, Any]) -> None:
    """Refuses a name that YAML reads as a number or as a truth value."""
    for name in mapping:
        if not isinstance(name, str) or not name:
            raise FewsegError(f"{path}: {where}{name}", repr(name), "a name", "choose one, or write it in quotes")


def list_of(path: Path, config: Config, key: str, default: list[Any]) -> list[Any]:
    """The list at a key of a config, which must have an entry, and none twice."""
    value = config.get(key, default)
    if not isinstance(value, list) or not value:
        raise FewsegError(f"{path}: {key}", value, "a list with at least one entry", "write it as [a, b]")
    check_once(f"{path}: {key}", value)
    return value


def check_once(where: str, values: list[Any]) -> None:
    """Refuses a list that has a value twice."""
    if any(value in values[:i] for i, value in enumerate(values)):
        raise FewsegError(where, values, "every value once", "remove the other")


def check_whole(where: str, value: Any, least: int = 0) -> int:
    """A whole number; truth values, which Python counts among them, are none.

    >>> check_whole("seeds", True)
    Traceback (most recent call last):
    fewseg.errors.FewsegError: seeds: got True, expected whole numbers from 0; correct it
    """
    if type(value) is not int or value < least:
        raise FewsegError(where, value, f"whole numbers from {least}", "correct it")
    return value


def points_of(path: Path, value: Any) -> int | None:
    """P as a benchmark file writes it; None = dense."""
    if value in ("dense", None):
        return None
    if type(value) is int and value > 0:
        return value
    raise FewsegError(f"{path}: points", value, "positive counts or 'dense'", "correct the list")


def check_budget(path: Path, where: str, budget: Mapping[str, Any]) -> None:
    """Refuses what is no budget; ``where`` stands before a key in errors."""
    check_keys(path, where, budget, TRAINING_KEYS)
    for key, least in _LEAST.items():
        if key in budget:
            check_whole(f"{path}: {where}{key}", budget[key], least)


def check_owned(where: str, options: Iterable[str]) -> None:
    """Refuses options of the trainer that the engine sets itself; ``where`` stands before an option in errors."""
    for option in options:
        if option in OWNED:
            wanted = OWNED[option] or "options that a benchmark leaves to its files"
            remedy = "write it there" if OWNED[option] else "remove it"
            raise FewsegError(f"{where}.{option}", "an option that the benchmark sets itself", wanted, remedy)


def check_executor(workers: int | None, executor: str, ray_address: str | None) -> None:
    """Refuses options of executors that do not go together.

    Args:
        workers: jobs at once; None = as many as there is room for.
        executor: ``local`` or ``ray``.
        ray_address: of a running Ray cluster.

    Raises:
        FewsegError: workers below 1, or an address of Ray without Ray.
    """
    if workers is not None and workers < 1:
        raise FewsegError("--workers", workers, "at least 1", "raise it")
    if ray_address is not None and executor != "ray":
        raise FewsegError("--ray-address", ray_address, "--executor ray beside it", "add --executor ray")
