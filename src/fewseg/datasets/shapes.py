"""Shapes-5i: a generated data set in the VOC layout, so that everything runs without a download.

Twenty classes are the combinations of five shapes and four textures. Class ``5 f + s`` (from 0) has shape ``s`` and
texture ``(s + f) mod 4``: every fold holds out five combinations of attributes that were all seen in training.
Colour, size, rotation and aspect are free, and every image holds distractors of other classes.

Geometry is integer arithmetic and randomness is ``numpy.random.RandomState``, whose stream is guaranteed, so labels are
the same on every platform; JPEG decoders may differ by two grey levels.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fewseg.datasets.paths import cache_dir, write_atomic
from fewseg.datasets.voc import LISTS, VocDataset, write_label
from fewseg.errors import FewsegError

SHAPES = ("disc", "square", "triangle", "star", "cross")
TEXTURES = ("plain", "striped", "checked", "dotted")
CLASS_NAMES = tuple(f"{TEXTURES[(s + f) % 4]} {SHAPES[s]}" for f in range(4) for s in range(5))
SIZES = ((96, 96), (96, 72), (72, 96))  # (height, width), drawn with weights 2 : 1 : 1
UNIT = 16  # sub-pixel units of the integer geometry
VERSION = 1  # of the scenes; a change of what is drawn raises it
MARKER = "shapes5i.json"  # says which scenes a tree holds; written before the tree gets its name
ARGUMENTS = ("n_train", "n_val", "seed", "version")  # what the marker holds
SECOND_PROCESS_FROM = 400  # scenes; fewer are drawn before a second interpreter has started
FOLDERS = ("JPEGImages", "SegmentationClass", "SegmentationObject")

Mask = npt.NDArray[np.bool_]


class Scene(NamedTuple):
    """One generated image (H, W, 3) uint8 RGB with its ``classes`` and ``objects`` (H, W) uint8 in VOC's encoding."""

    image: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    objects: npt.NDArray[np.uint8]


def _unit_polygon(shape: int) -> npt.NDArray[np.float64]:
    """Vertices (n, 2) of a shape of radius 1 around the origin, as (x, y)."""
    if SHAPES[shape] == "disc":
        angles, radii = np.arange(32) * 2 * np.pi / 32, np.full(32, 0.88)
    elif SHAPES[shape] == "square":
        angles, radii = np.arange(4) * np.pi / 2 + np.pi / 4, np.full(4, 1.1)
    elif SHAPES[shape] == "triangle":
        angles, radii = np.arange(3) * 2 * np.pi / 3 - np.pi / 2, np.full(3, 1.2)
    elif SHAPES[shape] == "star":
        angles, radii = np.arange(10) * np.pi / 5 - np.pi / 2, np.tile([1.25, 0.55], 5)
    else:
        arm, x = 0.36, 1.1
        return np.array(
            [(-arm, -x), (arm, -x), (arm, -arm), (x, -arm), (x, arm), (arm, arm)]
            + [(arm, x), (-arm, x), (-arm, arm), (-x, arm), (-x, -arm), (-arm, -arm)]
        )
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def _inside(polygon: npt.NDArray[np.int64], height: int, width: int) -> Mask:
    """Even-odd test of every pixel centre against a polygon in units of 1/16 pixel, in exact integer arithmetic."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64) * UNIT + UNIT // 2
    inside = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        side = (x - x0) * (y1 - y0) - (x1 - x0) * (y - y0)
        inside ^= crosses & ((side < 0) if y1 > y0 else (side > 0))
    return inside


def _texture(texture: int, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> Mask:
    """Where the second colour of a texture lies, in object coordinates ``u, v`` measured in texture periods."""
    if TEXTURES[texture] == "plain":
        return np.zeros(u.shape, bool)
    if TEXTURES[texture] == "striped":
        return np.asarray(u % 1 < 0.5)
    if TEXTURES[texture] == "checked":
        return np.asarray((u % 1 < 0.5) ^ (v % 1 < 0.5))
    return np.asarray((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.085)


def _colours(rng: np.random.RandomState) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two colours whose luminance differs by at least 80 grey levels."""
    while True:
        first, second = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
        if abs(float((first - second) @ (0.299, 0.587, 0.114))) > 80:
            return first, second


def _background(rng: np.random.RandomState, height: int, width: int) -> npt.NDArray[np.float64]:
    """A gradient between two colours under clutter of translucent random polygons."""
    y, x = np.mgrid[0:height, 0:width]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = ((x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle) + 0.7) / 1.4
    start, end = rng.uniform(40, 215, 3), rng.uniform(40, 215, 3)
    canvas = start + ramp[..., None] * (end - start)
    for _ in range(rng.randint(3, 8)):
        centre, radius = rng.uniform(0, (width, height)), rng.uniform(6, 40)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.randint(3, 6)))
        corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        blot = _inside(np.rint(corners * UNIT).astype(np.int64), height, width)
        canvas[blot] += rng.uniform(0.2, 0.6) * (rng.uniform(20, 235, 3) - canvas[blot])
    return np.asarray(canvas)


def render_scene(seed: int) -> Scene:
    """Draws scene number ``seed``: two to four objects of random classes on clutter, later ones over earlier ones.

    There are at least two classes, and every object keeps at least half of its pixels and 60 pixels visible.

    >>> scene = render_scene(0)
    >>> scene.image.shape, scene.classes.shape, int(scene.objects.max())
    ((96, 72, 3), (96, 72), 4)
    """
    rng = np.random.RandomState(seed)
    height, width = SIZES[rng.choice(3, p=(0.5, 0.25, 0.25))]
    canvas = _background(rng, height, width)
    classes, objects = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    full_area: dict[int, int] = {}
    wanted = rng.randint(2, 5)
    for _ in range(60):  # attempts
        if len(full_area) == wanted:
            break
        class_id = int(rng.randint(20))
        if len(full_area) == 1 and class_id + 1 in classes:
            continue  # the second object is the distractor that every scene promises
        fold, shape = divmod(class_id, 5)
        radius, angle, aspect = rng.uniform(13, 25), rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.33)
        centre = rng.uniform(radius * 0.7, (width - radius * 0.7, height - radius * 0.7))
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, sin], [-sin, cos]])
        corners = (_unit_polygon(shape) * radius * (np.sqrt(aspect), 1 / np.sqrt(aspect))) @ rotation + centre
        mask = _inside(np.rint(corners * UNIT).astype(np.int64), height, width)
        first, second = _colours(rng)
        period, phase = rng.uniform(7.0, 10.0), rng.uniform(0, 1, 2)
        visible = {i: int(((objects == i) & ~mask).sum()) for i in full_area}
        if mask.sum() < 120 or any(v < max(60, full_area[i] * 0.5) for i, v in visible.items()):
            continue
        y, x = np.mgrid[0:height, 0:width]
        u, v = ((x - centre[0]) * cos + (y - centre[1]) * sin), (-(x - centre[0]) * sin + (y - centre[1]) * cos)
        pattern = _texture((shape + fold) % 4, u / period + phase[0], v / period + phase[1])
        canvas[mask] = np.where(pattern[mask, None], second, first)
        number = len(full_area) + 1
        classes[mask], objects[mask] = class_id + 1, number
        full_area[number] = int(mask.sum())
    noise = rng.normal(0, 5, canvas.shape)
    return Scene(np.clip(canvas + noise, 0, 255).astype(np.uint8), classes, objects)


class Shapes5i(VocDataset):
    """The generated data set, written once in the layout of PASCAL VOC and read from there.

    Args:
        root: folder to write to and read from; without it a folder in ``$FEWSEG_CACHE``, else ``~/.cache/fewseg``.
        n_train: training scenes.
        n_val: validation scenes; no scene is in both.
        seed: scene i of the data set is ``render_scene(seed * 1000003 + i)``, the training scenes first.
    """

    name = "shapes5i"
    class_names = CLASS_NAMES

    def __init__(self, root: str | None = None, n_train: int = 4000, n_val: int = 1000, seed: int = 0) -> None:
        check_counts(n_train, n_val, seed)
        tree = default_tree(n_train, n_val, seed) if root is None else Path(root).expanduser()
        wanted = {"n_train": n_train, "n_val": n_val, "seed": seed, "version": VERSION}
        generate(tree, MARKER, wanted, lambda folder: _write_tree(folder, n_train, n_val, seed))
        super().__init__(str(tree))


def default_tree(n_train: int = 4000, n_val: int = 1000, seed: int = 0) -> Path:
    """Where ``Shapes5i`` writes when it is given no root.

    >>> default_tree().name
    'shapes5i-4000-1000-0-v1'
    """
    return cache_dir() / f"shapes5i-{n_train}-{n_val}-{seed}-v{VERSION}"


def _write_tree(tree: Path, n_train: int, n_val: int, seed: int) -> None:
    for folder in FOLDERS:
        (tree / folder).mkdir()
    total = n_train + n_val
    share("drawing Shapes-5i", write_scenes, (str(tree), first_seed(seed)), total, SECOND_PROCESS_FROM)
    names = [f"{i:06d}\n" for i in range(total)]
    write_atomic(tree / LISTS / "train.txt", "".join(names[:n_train]))
    write_atomic(tree / LISTS / "val.txt", "".join(names[n_train:]))


def write_scenes(
    tree: str, first: int, start: int, total: int, step: int, advance: Callable[[int], object] | None = None
) -> None:  # plain arguments: a second interpreter calls it
    """Writes scenes ``start, start + step, ...`` below ``total`` into the folders of a VOC tree.

    Args:
        tree: the tree; its folders exist.
        first: seed of scene 0.
        start: first scene to write.
        total: scenes of the data set.
        step: how many processes share the scenes.
        advance: told how many scenes are done after each one, counting those of the others, who keep pace.
    """
    folders = [Path(tree) / folder for folder in FOLDERS]
    for i in range(start, total, step):
        scene = render_scene(first + i)
        write_jpeg(folders[0] / f"{i:06d}.jpg", scene.image)
        write_label(folders[1] / f"{i:06d}.png", scene.classes)
        write_label(folders[2] / f"{i:06d}.png", scene.objects)
        if advance is not None:
            advance(min(step, total - i))


# --- what every generated data set needs ------------------------------------------------------------------------------


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


def read_marker(tree: Path, marker: str = MARKER, arguments: tuple[str, ...] = ARGUMENTS) -> dict[str, int] | None:
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
            f"an empty or new folder, or scenes of {wanted}",
            "name another folder, or ask for the scenes that are there",
        )
    return True


def share(
    description: str, write: Callable[..., None], arguments: tuple[str | int, ...], total: int, second_from: int
) -> None:
    """Calls ``write(*arguments, start, total, step, advance)`` so that all of ``total`` scenes are drawn.

    A second interpreter draws every other scene; unlike a multiprocessing worker it does not import the caller's main
    module, which may have no guard, come from a notebook, or cost a torch import.

    Args:
        description: for the progress bar.
        write: a function of a module, which draws scenes ``start, start + step, ...`` below ``total``.
        arguments: plain ones, which the second interpreter reads from text.
        total: scenes.
        second_from: fewer scenes are drawn before a second interpreter has started.
    """
    n_processes = 2 if total > second_from and (os.cpu_count() or 1) > 1 else 1
    child = None
    if n_processes == 2:
        name = write.__name__
        code = f"from {write.__module__} import {name}; {name}(*{arguments!r}, 1, {total}, 2)"
        path = os.pathsep.join(p for p in sys.path if p)
        child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    try:
        with tqdm(total=total, desc=description, unit="scene", delay=1, mininterval=1) as bar:
            write(*arguments, 0, total, n_processes, bar.update)
        if child is not None and child.wait() != 0:
            write(*arguments, 1, total, 2)  # no second process to be had here
    finally:
        if child is not None:
            child.kill()
            child.wait()
