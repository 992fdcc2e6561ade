"""What every generated data set needs: a tree that is written once, by two processes, and says what it holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fewseg.datasets.paths import write_atomic
from fewseg.errors import FewsegError


def write_jpeg(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Writes an image (H, W, 3) uint8 RGB as a JPEG of quality 95."""
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done  # an in-memory encoding of a fixed size has nothing to fail on
    path.write_bytes(jpeg.tobytes())


def check_counts(n_train: int, n_val: int, seed: int) -> None:
    """Raises a FewsegError unless there is something to draw and the seed can be used."""
    if min(n_train, n_val) < 1:
        raise FewsegError("--data.dataset.n_train, n_val", f"{n_train}, {n_val}", "at least 1 each", "raise them")
    if not 0 <= seed < 4000:  # seeds of scenes have 32 bits
        raise FewsegError("--data.dataset.seed", seed, "0 to 3999", "choose another seed")


def first_seed(seed: int) -> int:
    """The seed of scene 0 of a data set; no two data sets share a scene.

    >>> first_seed(2)
    2000006
    """
    return seed * 1_000_003


def read_marker(tree: Path, marker: str, arguments: tuple[str, ...]) -> dict[str, int] | None:
    """The arguments of what was generated in a tree; None where nothing was.

    Args:
        tree: the tree.
        marker: name of the file that says it.
        arguments: the keys of that file.

    Raises:
        FewsegError: the file is broken.
    """
    try:
        found = json.loads((tree / marker).read_text())
        return {key: int(found[key]) for key in arguments}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise FewsegError(
            tree / marker, "a broken file", f"whole numbers {', '.join(arguments)}", f"delete {tree}, it is made again"
        ) from None


def generate(tree: Path, marker: str, wanted: Mapping[str, int], write: Callable[[Path], None]) -> None:
    """Makes ``tree`` hold what is wanted: nothing to do if it does, an error if it holds something else.

    The tree is written beside its place and renamed, so that it is whole or absent, whoever else generates it too.

    Args:
        tree: the folder.
        marker: name of the file in it that says what it holds.
        wanted: the arguments of what it must hold; they go into the marker.
        write: writes everything but the marker into an empty folder.

    Raises:
        FewsegError: the folder holds something else.
    """
    if _holds(tree, marker, wanted):
        return
    tree.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=tree.parent, prefix=f".{tree.name}."))
    try:
        write(temporary)
        write_atomic(temporary / marker, json.dumps(wanted))
        temporary.chmod(0o755)  # mkdtemp makes it private; data is shared
        try:
            temporary.replace(tree)
        except OSError:  # another process was first
            if not _holds(tree, marker, wanted):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _holds(tree: Path, marker: str, wanted: Mapping[str, int]) -> bool:
    found = read_marker(tree, marker, tuple(wanted))
    if found is None and (not tree.exists() or (tree.is_dir() and not any(tree.iterdir()))):
        return False
    if found != wanted:
        raise FewsegError(
            "--data.dataset.root",
            f"{tree}, which holds {found or 'other files'}",
            f"an empty or new folder, or what {wanted} gives",
            "name another folder, or ask for what is there",
        )
    return True


def share(
    description: str,
    unit: str,
    write: Callable[..., None],
    arguments: tuple[str | int, ...],
    total: int,
    second_from: int,
) -> None:
    """Calls ``write(*arguments, start, total, step, advance)`` so that all of ``total`` parts are drawn.

    A second interpreter draws every other one; unlike a multiprocessing worker it does not import the caller's main
    module, which may have no guard, come from a notebook, or cost a torch import.

    Args:
        description: for the progress bar, which counts in ``unit``.
        unit: what a part is: ``"scene"`` or ``"video"``.
        write: a function of a module, which draws parts ``start, start + step, ...`` below ``total``.
        arguments: plain ones, which the second interpreter reads from text.
        total: how many parts there are.
        second_from: fewer are drawn before a second interpreter has started.
    """
    n_processes = 2 if total > second_from and (os.cpu_count() or 1) > 1 else 1
    child = None
    if n_processes == 2:
        name = write.__name__
        code = f"from {write.__module__} import {name}; {name}(*{arguments!r}, 1, {total}, 2)"
        path = os.pathsep.join(p for p in sys.path if p)
        child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    try:
        with tqdm(total=total, desc=description, unit=unit, delay=1, mininterval=1) as bar:
            write(*arguments, 0, total, n_processes, bar.update)
        if child is not None and child.wait() != 0:
            write(*arguments, 1, total, 2)  # no second process to be had here
    finally:
        if child is not None:
            child.kill()
            child.wait()
