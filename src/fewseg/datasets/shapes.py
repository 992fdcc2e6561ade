"""Shapes-5i: a generated data set in the VOC layout, so that everything runs without a download.

Twenty classes are the combinations of five shapes and four textures. Class ``5 f + s`` (from 0) has shape ``s`` and
texture ``(s + f) mod 4``: every fold holds out five combinations of attributes that were all seen in training.
Colour, size, rotation and aspect are free, and every image holds distractors of other classes.

Geometry is integer arithmetic and randomness is ``numpy.random.RandomState``, whose stream is guaranteed, so labels are
the same on every platform; JPEG decoders may differ by two grey levels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fewseg.datasets.drawing import (
    SHAPES,
    TEXTURES,
    UNIT,
    draw_background,
    draw_colours,
    draw_texture,
    inside_polygon,
    unit_polygon,
)
from fewseg.datasets.generated import check_counts, first_seed, generate, share, write_jpeg
from fewseg.datasets.paths import cache_dir, write_atomic
from fewseg.datasets.voc import LISTS, VocDataset, write_label

CLASS_NAMES = tuple(f"{TEXTURES[(s + f) % 4]} {SHAPES[s]}" for f in range(4) for s in range(5))
SIZES = ((96, 96), (96, 72), (72, 96))  # (height, width), drawn with weights 2 : 1 : 1
VERSION = 1  # of the scenes; a change of what is drawn raises it
MARKER = "shapes5i.json"  # says which scenes a tree holds; written before the tree gets its name
ARGUMENTS = ("n_train", "n_val", "seed", "version")  # what the marker holds
SECOND_PROCESS_FROM = 400  # scenes; fewer are drawn before a second interpreter has started
FOLDERS = ("JPEGImages", "SegmentationClass", "SegmentationObject")


class Scene(NamedTuple):
    """One generated image (H, W, 3) uint8 RGB with its ``classes`` and ``objects`` (H, W) uint8 in VOC's encoding."""

    image: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    objects: npt.NDArray[np.uint8]


def render_scene(seed: int) -> Scene:
    """Draws scene number ``seed``: two to four objects of random classes on clutter, later ones over earlier ones.

    There are at least two classes, and every object keeps at least half of its pixels and 60 pixels visible.

    >>> scene = render_scene(0)
    >>> scene.image.shape, scene.classes.shape, int(scene.objects.max())
    ((96, 72, 3), (96, 72), 4)
    """
    rng = np.random.RandomState(seed)
    height, width = SIZES[rng.choice(3, p=(0.5, 0.25, 0.25))]
    canvas = draw_background(rng, height, width)
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
        corners = (unit_polygon(shape) * radius * (np.sqrt(aspect), 1 / np.sqrt(aspect))) @ rotation + centre
        mask = inside_polygon(np.rint(corners * UNIT).astype(np.int64), height, width)
        first, second = draw_colours(rng)
        period, phase = rng.uniform(7.0, 10.0), rng.uniform(0, 1, 2)
        visible = {i: int(((objects == i) & ~mask).sum()) for i in full_area}
        if mask.sum() < 120 or any(v < max(60, full_area[i] * 0.5) for i, v in visible.items()):
            continue
        y, x = np.mgrid[0:height, 0:width]
        u, v = ((x - centre[0]) * cos + (y - centre[1]) * sin), (-(x - centre[0]) * sin + (y - centre[1]) * cos)
        pattern = draw_texture((shape + fold) % 4, u / period + phase[0], v / period + phase[1])
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
    share("drawing Shapes-5i", "scene", write_scenes, (str(tree), first_seed(seed)), total, SECOND_PROCESS_FROM)
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
