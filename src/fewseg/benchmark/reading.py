"""YAML files of benchmarks, and errors that name the file and the key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from fewseg.errors import FewsegError

Config = dict[str, Any]


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


def list_of(path: Path, config: Config, key: str, default: list[Any]) -> list[Any]:
    """The list at a key of a config, which must have an entry."""
    value = config.get(key, default)
    if not isinstance(value, list) or not value:
        raise FewsegError(f"{path}: {key}", value, "a list with at least one entry", "write it as [a, b]")
    return value


def points_of(path: Path, value: Any) -> int | None:
    """P as a benchmark file writes it; None = dense."""
    if value in ("dense", None):
        return None
    if isinstance(value, int) and value > 0:
        return value
    raise FewsegError(f"{path}: points", value, "positive counts or 'dense'", "correct the list")


def check_shots(path: Path, shots: list[Any]) -> None:
    """Refuses what is no K."""
    if not all(isinstance(n_shot, int) and n_shot >= 0 for n_shot in shots):
        raise FewsegError(f"{path}: shots", shots, "counts of supports", "correct the list")


def check_steps(where: str, steps: Any) -> None:
    """Refuses what is no number of steps."""
    if not isinstance(steps, int) or steps < 0:
        raise FewsegError(where, steps, "a number of steps", "set it")
