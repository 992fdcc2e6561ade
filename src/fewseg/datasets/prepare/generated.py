"""Generated data sets: drawing them, and counting what was drawn."""

from __future__ import annotations

from pathlib import Path

from fewseg.datasets import shapes, shapes_coco, shapes_video
from fewseg.datasets.generated import read_marker
from fewseg.datasets.prepare.describe import describe_images, describe_splits, describe_videos
from fewseg.datasets.shapes import Shapes5i
from fewseg.datasets.shapes_coco import ShapesCoco
from fewseg.datasets.shapes_video import ShapesVideo
from fewseg.errors import FewsegError


def prepare_generated(name: str, root: str | Path | None) -> list[str]:
    """Draws a generated data set where it is not there yet; returns lines that count what there is.

    Args:
        name: ``shapes``, ``shapes-coco`` or ``shapes-video``.
        root: the tree; without it a folder in the cache.

    Raises:
        FewsegError: the folder holds something else.
    """
    tree = None if root is None else str(root)
    if name == "shapes":
        return describe_images(Shapes5i(tree))
    return describe_splits(ShapesCoco(tree)) if name == "shapes-coco" else _describe_clips(ShapesVideo(tree))


def check_generated(name: str, root: str | Path | None) -> list[str]:
    """Lines that count what a tree holds, whatever arguments it was made with.

    Raises:
        FewsegError: it holds no such data set, or something in it cannot be used.
    """
    if name == "shapes":
        tree, made = _made(name, root, shapes.default_tree(), shapes.MARKER, shapes.ARGUMENTS)
        return describe_images(Shapes5i(str(tree), made["n_train"], made["n_val"], made["seed"]))
    if name == "shapes-coco":
        tree, made = _made(name, root, shapes_coco.default_tree(), shapes_coco.MARKER, shapes_coco.ARGUMENTS)
        return describe_splits(ShapesCoco(str(tree), made["n_train"], made["n_val"], made["seed"]))
    tree, made = _made(name, root, shapes_video.default_tree(), shapes_video.MARKER, shapes_video.ARGUMENTS)
    return _describe_clips(ShapesVideo(str(tree), made["n_train"], made["n_val"], made["n_frames"], made["seed"]))


def _made(
    name: str, root: str | Path | None, default: Path, marker: str, arguments: tuple[str, ...]
) -> tuple[Path, dict[str, int]]:
    """The tree of a generated data set and the arguments of what it holds."""
    tree = default if root is None else Path(root).expanduser()
    made_with = read_marker(tree, marker, arguments)
    if made_with is None:
        raise FewsegError("--root", tree, f"a tree of {name} with {marker}", f"run `fewseg data prepare {name}`")
    return tree, made_with


def _describe_clips(dataset: ShapesVideo) -> list[str]:
    return [f"{dataset.name} in {dataset.root}", *describe_videos(dataset)]
