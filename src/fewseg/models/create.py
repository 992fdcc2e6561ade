"""Models by name: building them, and loading what ``model.save`` wrote."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytorch_lightning as pl

import fewseg.models as zoo
from fewseg.errors import FewsegError
from fewseg.models.base import FewShotSegmentor
from fewseg.modules.encoders import ImageEncoder

Module = TypeVar("Module", bound=pl.LightningModule)


def build(name: str, hyper_parameters: dict[str, Any]) -> pl.LightningModule:
    """A new module of a class in ``fewseg.models``.

    Args:
        name: of the class.
        hyper_parameters: its arguments.

    Raises:
        FewsegError: an unknown name or argument.
    """
    return _construct(class_named(name), hyper_parameters)


def class_named(name: str) -> type[pl.LightningModule]:
    """The class of that name in ``fewseg.models``, or of that import path: ``PANet`` or ``my_package.mine.MyMethod``.

    Raises:
        FewsegError: there is none.
    """
    module, _, last = name.rpartition(".")
    try:
        home = zoo if module in ("", zoo.__name__) else importlib.import_module(module)
    except ImportError as error:
        remedy = "check that Python finds it from here"
        raise FewsegError("model", repr(name), f"a module that can be imported ({error})", remedy) from None
    method = getattr(home, last, None)
    if not (inspect.isclass(method) and issubclass(method, pl.LightningModule)):
        wanted = f"one of {', '.join(zoo.__all__)}, or the import path of a LightningModule"
        raise FewsegError("model", repr(name), wanted, "correct the spelling")
    return method


def check_arguments(method: type[Any], hyper_parameters: Mapping[str, Any]) -> None:
    """Finds arguments that a class does not have, and values that are none of those a ``Literal`` allows.

    Raises:
        FewsegError: the first of them.

    >>> check_arguments(zoo.PANet, {"widht": 3})
    Traceback (most recent call last):
    fewseg.errors.FewsegError: PANet.widht: got an unknown argument, expected one of ...; did you mean width?
    """
    known = inspect.signature(method).parameters
    for key in hyper_parameters:
        if key not in known:
            argument, wanted = f"{method.__name__}.{key}", f"one of {', '.join(known)}"
            close = difflib.get_close_matches(key, known, 1)
            remedy = f"did you mean {close[0]}?" if close else "correct the spelling or remove it"
            raise FewsegError(argument, "an unknown argument", wanted, remedy)
    try:
        hints = typing.get_type_hints(method.__init__)
    except NameError:  # of a class from elsewhere, which imports a type for type checkers only
        return
    for key, value in hyper_parameters.items():
        choices = typing.get_args(hints.get(key)) if typing.get_origin(hints.get(key)) is Literal else ()
        if choices and value not in choices:
            wanted = f"one of {', '.join(map(str, choices))}"
            raise FewsegError(f"{method.__name__}.{key}", repr(value), wanted, "choose one of them")


def _construct(method: type[Module], hyper_parameters: dict[str, Any]) -> Module:
    check_arguments(method, hyper_parameters)
    return method(**hyper_parameters)


def list_models() -> list[str]:
    """The class names of all methods.

    >>> "GuidedNet" in list_models()
    True
    """
    return list(zoo.__all__)


def create_model(name: str, **hyper_parameters: Any) -> FewShotSegmentor:
    """A new model in eval mode.

    Args:
        name: one of ``list_models()``.
        **hyper_parameters: arguments of the class.

    >>> create_model("PANet", encoder="tiny").training
    False
    """
    if name not in zoo.__all__:
        raise FewsegError("name", repr(name), f"one of {', '.join(zoo.__all__)}", "correct the spelling")
    model = build(name, hyper_parameters)
    assert isinstance(model, FewShotSegmentor)
    return model.eval()


def load_model(path: str | Path, cls: type[FewShotSegmentor] | None = None) -> FewShotSegmentor:
    """The model that ``model.save(path)`` wrote, in eval mode.

    Only names in ``fewseg.models.__all__`` are resolved, never an import path from the file.

    Args:
        path: the folder with ``model.safetensors`` and ``config.json``.
        cls: a class of your own, where the model is not one of the zoo.

    Raises:
        FewsegError: a file is missing, broken, or of another class.
    """
    folder = Path(path)
    try:
        config = json.loads((folder / "config.json").read_text())
        name, hyper_parameters = config["method"], dict(config["hyper_parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise FewsegError(str(folder), reason, "a folder that model.save() wrote", "check the path") from None
    if "weights" in hyper_parameters:
        hyper_parameters["weights"] = None  # what the encoder started from is in the saved weights
    if cls is None:
        model = create_model(name, **hyper_parameters)
    elif cls.__name__ == name:
        model = _construct(cls, hyper_parameters)
    else:
        raise FewsegError(str(folder), f"a {name}", f"a {cls.__name__}", "pass the class that was saved")
    model.load_weights(folder / "model.safetensors")
    model.image_size, model.image_resize = config.get("image_size"), config.get("image_resize")
    model.reference_size = config.get("reference_size")
    if config.get("norm") == "frozen":
        for encoder in model.network.modules():
            if isinstance(encoder, ImageEncoder):
                encoder.norm = "frozen"  # built without weights to start from, it would train
    return model.eval()
