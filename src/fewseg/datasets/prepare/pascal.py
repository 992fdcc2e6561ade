"""PASCAL-5i from archives of VOC 2012 and of SBD or SegmentationClassAug, or from a VOC tree."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from fewseg.datasets.base import LabelMap
from fewseg.datasets.pascal import FOREIGN_LISTS, Pascal5i, foreign_list
from fewseg.datasets.paths import write_atomic
from fewseg.datasets.prepare.archives import (
    Archive,
    check_exist,
    describe_archives,
    download,
    link_or_copy,
    on_disk,
    temporary_folder,
    unpack,
    verified,
    write_record,
)
from fewseg.datasets.prepare.describe import describe_images
from fewseg.datasets.voc import LISTS, VOC_CLASSES, read_ids, write_label
from fewseg.episode import VOID
from fewseg.errors import FewsegError

PARTS = (
    *("JPEGImages", "SegmentationClass", "SegmentationObject", LISTS),  # VOC
    *("SegmentationClassAug", "SegmentationObjectAug"),
)
INSTANCES = ("SegmentationObject", "SegmentationObjectAug")  # optional

VOC = Archive(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "6cd6e144f989b92b3379bac3b3de84fd",
)
SBD = Archive(
    "benchmark.tgz",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "82b4d87ceb2ed10f6038a1cba92111cb",
)


def prepare_pascal(tree: Path, sources: list[Path]) -> list[str]:
    """Installs what a tree lacks, and downloads it where nothing is given; returns lines that say what was done.

    Args:
        tree: the tree.
        sources: archives and folders of the user.

    Raises:
        FewsegError: see ``prepare``.
    """
    check_exist(sources)
    if not sources and _missing(tree):
        tree.mkdir(parents=True, exist_ok=True)
        wanted = [VOC] if any(not (tree / part).is_dir() for part in ("JPEGImages", "SegmentationClass", LISTS)) else []
        wanted += [SBD] if not (tree / "SegmentationClassAug").is_dir() else []
        sources = [on_disk(tree, archive.file) or download(archive, tree / archive.file) for archive in wanted]
    record = verified(tree, sources, (VOC, SBD))
    if not _missing(tree) and not (sources and any(not (tree / part).is_dir() for part in INSTANCES)):
        return []
    tree.mkdir(parents=True, exist_ok=True)
    with temporary_folder(tree) as temporary:
        lines: list[str] = []
        folders = []
        for i, source in enumerate(sources):
            folders.append(source if source.is_dir() else temporary / str(i))
            if source.is_file():
                unpack(source, folders[-1], _needed)
            lines += _install(folders[-1], tree, temporary, source.name)
        write_record(tree, record)
        if not all((tree / part).exists() for part in ("SegmentationClass", f"{LISTS}/val.txt")):
            return lines
        sbd = [p.parent for f in folders for p in f.rglob("cls") if (p.parent / "train.txt").is_file()]
        if sbd and not (tree / "SegmentationClassAug").exists():
            lines.append(_convert_sbd(sbd[0] / "cls", tree, temporary, "SegmentationClass"))
        sbd = [folder for folder in sbd if (folder / "inst").is_dir() and (tree / "SegmentationObject").is_dir()]
        if sbd and not (tree / "SegmentationObjectAug").exists():
            lines.append(_convert_sbd(sbd[0] / "inst", tree, temporary, "SegmentationObject"))
    if (tree / "SegmentationClassAug").is_dir() and not (tree / LISTS / "trainaug.txt").exists():
        lines.append(_write_trainaug(tree))
    return lines


def check_pascal(tree: Path) -> list[str]:
    """Lines that count what a tree holds; a FewsegError where something is missing or cannot be used."""
    missing = _missing(tree)
    if missing:
        raise FewsegError(
            tree,
            f"no {', no '.join(missing)}",
            f"a VOC 2012 tree with {', '.join(part for part in PARTS if part not in INSTANCES)}",
            f"run `fewseg data prepare pascal5i --root {tree} --archive FILE` with "
            + (VOC.file if missing[0] in PARTS[:4] else f"SBD's {SBD.file} or a zip of SegmentationClassAug"),
        )
    lines = describe_images(Pascal5i(str(tree))) + describe_archives(tree)
    for author in ("hsnet", "pfenet"):
        try:
            n = sum(len(foreign_list(key, tree)) for key in FOREIGN_LISTS if key.startswith(author))
            lines.append(f"lists of {author}: verified, {n} lines")
        except FewsegError as error:
            lines.append(f"lists of {author}: {error} (only the protocol {author} needs them)")
    return lines


def _missing(tree: Path) -> list[str]:
    """The parts of PASCAL-5i that a tree lacks; instances are optional."""
    needed = [part for part in PARTS if part not in INSTANCES]
    needed += [f"{LISTS}/{split}.txt" for split in ("train", "val", "trainaug")]
    return [part for part in needed if not (tree / part).exists()]


def _needed(path: PurePosixPath) -> bool:
    """Whether a file of an archive belongs to a part, or to SBD, whose masks lie in ``cls`` and ``inst``."""
    if path.name.startswith("."):  # macOS leaves ._ files in zips
        return False
    folder = f"/{path.parent}"
    return path.name in ("train.txt", "val.txt") or folder.endswith(
        tuple(f"/{part}" for part in (*PARTS, "cls", "inst"))
    )


def _install(folder: Path, tree: Path, temporary: Path, source: str) -> list[str]:
    """Moves the parts of a VOC tree found anywhere in ``folder`` to their places; parts that are there stay."""
    lines = []
    for part in PARTS:
        found = sorted((p for p in folder.rglob(part.split("/")[-1]) if p.is_dir()), key=lambda p: len(p.parts))
        found = [p for p in found if f"/{p.as_posix()}".endswith(f"/{part}")]
        target = tree / part
        if not found or found[0].resolve() == target.resolve():
            continue
        if target.exists():
            lines.append(f"kept {part}, which was there before {source}")
            continue
        if temporary not in found[0].parents:  # the user's own folder stays as it is
            copy = temporary / f"copy-{part.replace('/', '-')}"
            shutil.copytree(found[0], copy, copy_function=link_or_copy)
            found[0] = copy
        target.parent.mkdir(parents=True, exist_ok=True)
        found[0].replace(target)
        lines.append(f"installed {part} from {source}: {sum(1 for _ in target.iterdir())} files")
    return lines


def _write_trainaug(tree: Path) -> str:
    """The list of SBD's images and VOC's segmented ones, less VOC's val."""
    masks = {path.stem for path in (tree / "SegmentationClassAug").glob("*.png")}
    ids = sorted(masks - set(read_ids(tree / LISTS / "val.txt")))
    write_atomic(tree / LISTS / "trainaug.txt", "".join(f"{image_id}\n" for image_id in ids))
    return f"wrote {LISTS}/trainaug.txt: {len(ids)} images (10582 where VOC and SBD are whole)"


def _convert_sbd(folder: Path, tree: Path, temporary: Path, voc: str) -> str:
    """Writes ``<voc>Aug``: a mask of every SBD image, VOC's own mask where VOC has one.

    Args:
        folder: SBD's ``cls`` (class masks) or ``inst`` (instances); its lists lie beside.
        tree: where to.
        temporary: a folder on the same disk.
        voc: folder of VOC's masks of that kind.
    """
    made = temporary / f"{voc}Aug"
    made.mkdir()
    ids = sorted({image_id for split in ("train", "val") for image_id in read_ids(folder.parent / f"{split}.txt")})
    own = sorted((tree / voc).glob("*.png"))
    voc_ids = {path.stem for path in own}
    for image_id in tqdm([i for i in ids if i not in voc_ids], desc=f"converting SBD {folder.name}", delay=1):
        write_label(made / f"{image_id}.png", read_sbd(folder / f"{image_id}.mat"))
    for path in own:
        link_or_copy(str(path), str(made / path.name))
    made.replace(tree / made.name)
    return f"made {made.name}: {len(set(ids) | voc_ids)} masks, {len(voc_ids)} of them VOC's own"


def read_sbd(path: Path) -> LabelMap:
    """The mask (H, W) uint8 of a .mat file of SBD, 0 background; SBD marks no void.

    A file of SBD's ``cls`` holds classes 1 to 20, one of ``inst`` holds instances from 1 and a class for each.

    Raises:
        FewsegError: the file is absent or not SBD's.
    """
    import scipy.io  # here, for it is slow to import and nothing else needs it

    try:
        content = scipy.io.loadmat(str(path))
        kind = "GTinst" if "GTinst" in content else "GTcls"
        label = np.asarray(content[kind]["Segmentation"][0, 0])
        largest = len(VOC_CLASSES) if kind == "GTcls" else np.size(content[kind]["Categories"][0, 0])
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        raise FewsegError(
            path,
            f"a file that cannot be read ({error})",
            "GTcls.Segmentation, or GTinst.Segmentation and GTinst.Categories, of SBD",
            f"get a whole {SBD.file}",
        ) from None
    largest = min(largest, VOID - 1)
    if label.ndim != 2 or label.min(initial=0) < 0 or label.max(initial=0) > largest:
        raise FewsegError(path, "other values", f"labels 0 to {largest} of an image", f"get a whole {SBD.file}")
    return label.astype(np.uint8)
