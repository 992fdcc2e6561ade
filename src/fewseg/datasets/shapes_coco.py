"""Shapes-COCO: the scenes of Shapes-5i in the layout of COCO, so that everything runs without a download.

The classes have other numbers than in Shapes-5i: class ``4 s + f`` (from 0) has shape ``s`` and texture
``(s + f) mod 4``. So every fourth class from f on is fold f of Shapes-5i: five combinations of attributes that were all
seen in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask

from fewseg.datasets import shapes
from fewseg.datasets.base import LabelMap
from fewseg.datasets.coco import CocoOneShot
from fewseg.datasets.drawing import SHAPES, TEXTURES
from fewseg.datasets.generated import check_counts, first_seed, generate, share, write_jpeg
from fewseg.datasets.paths import cache_dir, write_atomic

CLASS_NAMES = tuple(f"{TEXTURES[(s + f) % 4]} {SHAPES[s]}" for s in range(5) for f in range(4))
CATEGORIES = {5 * f + s + 1: 4 * s + f + 1 for f in range(4) for s in range(5)}  # class of Shapes-5i -> class here
VERSION = 1  # of the tree; a change of what is written raises it, a change of the scenes raises that of Shapes-5i
MARKER = "shapes-coco.json"  # says which scenes a tree holds
ARGUMENTS = ("n_train", "n_val", "seed", "scenes", "version")  # what the marker holds
SECOND_PROCESS_FROM = 400  # scenes; fewer are drawn before a second interpreter has started
YEAR = 2017


class ShapesCoco(CocoOneShot):
    """The generated scenes, written once in the layout of COCO and read from there.

    Args:
        root: folder to write to and read from; without it a folder in ``$FEWSEG_CACHE``, else ``~/.cache/fewseg``.
        n_train: training scenes.
        n_val: validation scenes; no scene is in both.
        seed: image i + 1 is ``render_scene(seed * 1000003 + i)`` of Shapes-5i, the training scenes first.
        n_held_out: training scenes that do not train; without it a tenth of them.
    """

    name = "shapes-coco"
    class_names = CLASS_NAMES

    def __init__(
        self,
        root: str | None = None,
        n_train: int = 4000,
        n_val: int = 1000,
        seed: int = 0,
        n_held_out: int | None = None,
    ) -> None:
        check_counts(n_train, n_val, seed)
        tree = default_tree(n_train, n_val, seed) if root is None else Path(root).expanduser()
        wanted = {"n_train": n_train, "n_val": n_val, "seed": seed, "scenes": shapes.VERSION, "version": VERSION}
        generate(tree, MARKER, wanted, lambda folder: _write_tree(folder, n_train, n_val, seed))
        super().__init__(str(tree), n_train // 10 if n_held_out is None else n_held_out, YEAR)


def default_tree(n_train: int = 4000, n_val: int = 1000, seed: int = 0) -> Path:
    """Where ``ShapesCoco`` writes when it is given no root.

    >>> default_tree().name
    'shapes-coco-4000-1000-0-v1.1'
    """
    return cache_dir() / f"shapes-coco-{n_train}-{n_val}-{seed}-v{shapes.VERSION}.{VERSION}"


def annotate(classes: LabelMap, objects: LabelMap) -> list[dict[str, Any]]:
    """The objects of a scene of Shapes-5i as COCO writes them, in the order of their numbers.

    Args:
        classes: (H, W) class ids of Shapes-5i, 0 background.
        objects: (H, W) object numbers, 0 background.

    >>> annotate(np.uint8([[0, 2], [0, 2]]), np.uint8([[0, 1], [0, 1]]))[0]["bbox"]
    [1.0, 0.0, 1.0, 2.0]
    """
    found = []
    for number in range(1, int(objects.max()) + 1):
        mask = objects == number
        runs = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        found.append(
            {
                "category_id": CATEGORIES[int(classes[mask][0])],
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": pycocotools.mask.toBbox(runs).tolist(),
                "segmentation": {"size": list(mask.shape), "counts": runs["counts"].decode("ascii")},
            }
        )
    return found


def _write_tree(tree: Path, n_train: int, n_val: int, seed: int) -> None:
    for split in ("train", "val"):
        (tree / f"{split}{YEAR}").mkdir()
    arguments = (str(tree), first_seed(seed), n_train)
    share("drawing Shapes-COCO", "scene", write_scenes, arguments, n_train + n_val, SECOND_PROCESS_FROM)
    parts = sorted(tree.glob("*.part"))
    scenes = sorted((scene for part in parts for scene in json.loads(part.read_text())), key=lambda scene: scene["id"])
    categories = [{"id": i, "name": name, "supercategory": name.split()[1]} for i, name in enumerate(CLASS_NAMES, 1)]
    number = 0
    for split, of_split in (("train", scenes[:n_train]), ("val", scenes[n_train:])):
        annotations = []
        for scene in of_split:
            for annotation in scene.pop("annotations"):
                number += 1
                annotations.append({"id": number, "image_id": scene["id"], **annotation})
        content = {"images": of_split, "annotations": annotations, "categories": categories}
        write_atomic(tree / "annotations" / f"instances_{split}{YEAR}.json", json.dumps(content))
    for part in parts:
        part.unlink()


def write_scenes(
    tree: str,
    first: int,
    n_train: int,
    start: int,
    total: int,
    step: int,
    advance: Callable[[int], object] | None = None,
) -> None:  # plain arguments: a second interpreter calls it
    """Writes the images of scenes ``start, start + step, ...`` below ``total``, and what they show to ``<start>.part``.

    Args:
        tree: the tree; its folders of images exist.
        first: seed of scene 0.
        n_train: how many scenes are for training; they come first.
        start: first scene to write.
        total: scenes of the data set.
        step: how many processes share the scenes.
        advance: told how many scenes are done after each one, counting those of the others, who keep pace.
    """
    scenes = []
    for i in range(start, total, step):
        scene = shapes.render_scene(first + i)
        file = f"{i + 1:012d}.jpg"  # ids from 1 on, as in COCO
        write_jpeg(Path(tree) / f"{'train' if i < n_train else 'val'}{YEAR}" / file, scene.image)
        height, width = scene.classes.shape
        annotations = annotate(scene.classes, scene.objects)
        scenes.append({"id": i + 1, "file_name": file, "height": height, "width": width, "annotations": annotations})
        if advance is not None:
            advance(min(step, total - i))
    write_atomic(Path(tree) / f"{start}.part", json.dumps(scenes))
