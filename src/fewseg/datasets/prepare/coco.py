"""COCO 2017 from its archives or from unpacked folders. They have no published checksum, so nothing is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from fewseg.datasets.coco import COCO_CLASSES, N_HELD_OUT, CocoOneShot, read_list
from fewseg.datasets.prepare.archives import (
    check_exist,
    describe_archives,
    link_or_copy,
    on_disk,
    temporary_folder,
    unpack,
    verified,
    write_record,
)
from fewseg.datasets.prepare.describe import describe_splits
from fewseg.errors import FewsegError

SITE = "https://cocodataset.org/#download"
COCO_PARTS = {  # part of the tree -> the official archive that holds it
    "train2017": "train2017.zip",
    "val2017": "val2017.zip",
    "annotations/instances_train2017.json": "annotations_trainval2017.zip",
    "annotations/instances_val2017.json": "annotations_trainval2017.zip",
}


def prepare_coco(tree: Path, sources: list[Path]) -> list[str]:
    """Installs the images and lists of instances that a tree lacks; returns lines that say what was done.

    Lists of captions and key points are left out.

    Args:
        tree: the tree, which may itself be an unpacked release.
        sources: archives and folders of the user; without any, archives that lie in the tree or beside it.

    Raises:
        FewsegError: see ``prepare``.
    """
    check_exist(sources)
    if not sources and _missing(tree):
        files = dict.fromkeys(COCO_PARTS[part] for part in _missing(tree))
        sources = [path for file in files if (path := on_disk(tree, file)) is not None]
        if not sources:
            raise _incomplete(tree)
    before, record = verified(tree, []), verified(tree, sources)
    if not sources:
        return []
    tree.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with temporary_folder(tree) as temporary:
        for i, source in enumerate(sources):
            folder = source if source.is_dir() else temporary / str(i)
            if source.is_file():
                unpack(source, folder, lambda path: _needed(path, tree))
            installed = _install(folder, tree, temporary, source.name)
            if not installed and source.name not in before:
                record.pop(source.name, None)  # the tree is not made from it
            lines += installed or [f"found nothing in {source.name} that the tree lacks"]
    if record:
        write_record(tree, record)
    return lines


def check_coco(tree: Path) -> list[str]:
    """Lines that count what a tree holds, by split S1 to S4; a FewsegError where something is missing or broken."""
    if _missing(tree):
        raise _incomplete(tree)
    dataset = CocoOneShot(str(tree), n_held_out=0)
    for split in dataset.splits:
        ids = dataset.ids(split)
        absent = [dataset.image_path(i) for i in ids if not dataset.image_path(i).is_file()]
        if absent:
            raise FewsegError(
                tree,
                f"{len(ids) - len(absent)} of the {len(ids)} images of {split}2017 ({absent[0].name} is missing)",
                "all of its list",
                f"delete {tree / f'{split}2017'} and run `fewseg data prepare coco --root {tree} --archive FILE` with "
                f"{split}2017.zip of {SITE}",
            )
    lines = []
    if len(dataset.ids("train")) > N_HELD_OUT:
        dataset = CocoOneShot(str(tree), N_HELD_OUT)
    else:
        lines.append(f"note: a subset of COCO; n_held_out must be below {len(dataset.ids('train'))}")
    return describe_splits(dataset) + lines + describe_archives(tree)


def _missing(tree: Path) -> list[str]:
    return [part for part in COCO_PARTS if not (tree / part).exists()]


def _incomplete(tree: Path) -> FewsegError:
    missing = _missing(tree)
    files = " and ".join(dict.fromkeys(COCO_PARTS[part] for part in missing))
    return FewsegError(
        tree,
        f"no {', no '.join(missing)}",
        f"a COCO tree with {', '.join(COCO_PARTS)}",
        f"get {files} from {SITE} and run `fewseg data prepare coco --root {tree} --archive FILE`",
    )


def _needed(path: PurePosixPath, tree: Path) -> bool:
    """Whether a file belongs to a part that the tree lacks."""
    if path.name.startswith("."):  # macOS leaves ._ files in zips
        return False
    parts = {path.parent.name, f"annotations/{path.name}"} & set(COCO_PARTS)
    return any(not (tree / part).exists() for part in parts)


def _install(folder: Path, tree: Path, temporary: Path, source: str) -> list[str]:
    """Moves the parts of COCO that the tree lacks from anywhere in ``folder`` to their places."""
    found = {part: path for part in _missing(tree) if (path := _find(folder, part)) is not None}
    for path in found.values():
        if path.suffix == ".json":  # where a list cannot be read, nothing that came with it is installed
            read_list(path, tree / path.stem.removeprefix("instances_"), COCO_CLASSES)
    lines = []
    for part, path in found.items():
        target = tree / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if temporary not in path.parents:  # the user's own folder stays as it is
            copy = temporary / f"copy-{target.name}"
            if path.is_dir():
                shutil.copytree(path, copy, copy_function=link_or_copy)
            else:
                link_or_copy(str(path), str(copy))
            path = copy
        content = f": {sum(1 for _ in path.iterdir())} files" if path.is_dir() else ""
        path.replace(target)
        lines.append(f"installed {part} from {source}{content}")
    return lines


def _find(folder: Path, part: str) -> Path | None:
    """Where a part of COCO lies in a folder, or in the folder of images that it is."""
    name = PurePosixPath(part).name
    if folder.name == name and "." not in name:
        return folder
    paths = (path for path in folder.rglob(name) if path.is_dir() == ("." not in name))
    return min(paths, key=lambda path: (len(path.parts), path), default=None)
