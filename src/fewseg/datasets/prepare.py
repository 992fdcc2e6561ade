"""Builds and checks the data sets on disk: ``fewseg data prepare|check pascal5i|davis|shapes|shapes-video``.

PASCAL-5i is put together from archives that the user has (VOC 2012, and SBD or a SegmentationClassAug zip) or from a
VOC tree; what is neither given nor on disk is downloaded. DAVIS is put together likewise, but not downloaded, for its
archives have no published checksum. Archives are untrusted: they are verified before they are
unpacked, members that would leave the folder are refused, and folders get their names only when they are whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
from tqdm import tqdm

from fewseg.datasets import shapes, shapes_video
from fewseg.datasets.base import LabelMap
from fewseg.datasets.davis import Davis
from fewseg.datasets.files import FileDataset
from fewseg.datasets.pascal import FOREIGN_LISTS, Pascal5i, foreign_list
from fewseg.datasets.paths import data_root, write_atomic
from fewseg.datasets.shapes import Shapes5i
from fewseg.datasets.shapes_video import ShapesVideo
from fewseg.datasets.video import VideoDataset
from fewseg.datasets.voc import LISTS, VOC_CLASSES, read_ids, read_label, write_label
from fewseg.episode import VOID
from fewseg.errors import FewsegError

NAMES = ("pascal5i", "davis", "shapes", "shapes-video")
RECORD = "fewseg-archives.json"  # in the tree: SHA-256 and size of every archive that it was made from
PARTS = (
    *("JPEGImages", "SegmentationClass", "SegmentationObject", LISTS),  # VOC
    *("SegmentationClassAug", "SegmentationObjectAug"),
)
INSTANCES = ("SegmentationObject", "SegmentationObjectAug")  # optional
DAVIS_PARTS = ("JPEGImages", "Annotations")
DAVIS_FILES = (  # names of the official archives, for those that lie about
    *("DAVIS-2017-trainval-480p.zip", "DAVIS-2017-trainval-Full-Resolution.zip"),
    *("DAVIS-2017-test-dev-480p.zip", "DAVIS-2017-test-dev-Full-Resolution.zip"),
    *("DAVIS-2017-test-challenge-480p.zip", "DAVIS-2017-test-challenge-Full-Resolution.zip"),
)
MAX_RATIO, ALLOWANCE = 100, 64 << 20  # an archive may unpack to 100 times its size, and to 64 MiB anyway
CHUNK = 1 << 20


class Archive(NamedTuple):
    """A published archive: its file name, where it is, and its published MD5."""

    file: str
    url: str
    md5: str


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


def prepare(name: str, root: str | Path | None = None, archives: Sequence[str | Path] = ()) -> list[str]:
    """Makes a data set complete and returns lines that say what was done and what is there.

    Args:
        name: ``"pascal5i"``, ``"davis"``, ``"shapes"`` or ``"shapes-video"``.
        root: the tree; without it ``$FEWSEG_DATA/<name>``, or the cache for shapes.
        archives: archives or folders that the user has; without any, archives in the tree are used. For pascal5i the
            rest is downloaded.

    Raises:
        FewsegError: an archive is damaged or malicious, a download fails, or something is still missing at the end.
            What was installed until then is whole, and the next call goes on from there.
    """
    if _known(name).startswith("shapes"):
        if archives:
            raise FewsegError("--archive", archives[0], "nothing: shapes are generated", "leave it out")
        tree = None if root is None else str(root)
        return _describe(Shapes5i(tree)) if name == "shapes" else _describe_clips(ShapesVideo(tree))
    install = _prepare_pascal if name == "pascal5i" else _prepare_davis
    folder = data_root(name, root, "--root")
    lines = install(folder, [Path(a).expanduser() for a in archives])
    return lines + check(name, folder)


def check(name: str, root: str | Path | None = None) -> list[str]:
    """Reads the whole data set and returns lines that count images, masks, folds and classes, or videos and objects.

    Raises:
        FewsegError: something is missing or cannot be used.
    """
    if _known(name) == "shapes":
        tree, made = _generated(name, root, shapes.default_tree(), shapes.MARKER, shapes.ARGUMENTS)
        return _describe(Shapes5i(str(tree), made["n_train"], made["n_val"], made["seed"]))
    if name == "shapes-video":
        tree, made = _generated(name, root, shapes_video.default_tree(), shapes_video.MARKER, shapes_video.ARGUMENTS)
        return _describe_clips(ShapesVideo(str(tree), made["n_train"], made["n_val"], made["n_frames"], made["seed"]))
    tree = data_root(name, root, "--root")
    return _check_pascal(tree) if name == "pascal5i" else _check_davis(tree)


def _generated(
    name: str, root: str | Path | None, default: Path, marker: str, arguments: tuple[str, ...]
) -> tuple[Path, dict[str, int]]:
    """The tree of a generated data set and the arguments of what it holds."""
    tree = default if root is None else Path(root).expanduser()
    made_with = shapes.read_marker(tree, marker, arguments)
    if made_with is None:
        raise FewsegError("--root", tree, f"a tree of {name} with {marker}", f"run `fewseg data prepare {name}`")
    return tree, made_with


def _check_pascal(tree: Path) -> list[str]:
    missing = _missing(tree)
    if missing:
        raise FewsegError(
            tree,
            f"no {', no '.join(missing)}",
            f"a VOC 2012 tree with {', '.join(part for part in PARTS if part not in INSTANCES)}",
            f"run `fewseg data prepare pascal5i --root {tree} --archive FILE` with "
            + (VOC.file if missing[0] in PARTS[:4] else f"SBD's {SBD.file} or a zip of SegmentationClassAug"),
        )
    lines = _describe(Pascal5i(str(tree))) + _describe_archives(tree)
    for author in ("hsnet", "pfenet"):
        try:
            n = sum(len(foreign_list(key, tree)) for key in FOREIGN_LISTS if key.startswith(author))
            lines.append(f"lists of {author}: verified, {n} lines")
        except FewsegError as error:
            lines.append(f"lists of {author}: {error} (only the protocol {author} needs them)")
    return lines


def _describe_archives(tree: Path) -> list[str]:
    lines = []
    for archive, entry in _read_record(tree).items():
        if (tree / archive).is_file():
            verify(tree / archive, recorded=entry)
        lines.append(f"made from {archive}: {entry['size']} bytes, SHA-256 {entry['sha256']}")
    return lines


def _known(name: str) -> str:
    if name not in NAMES:
        raise FewsegError("data set", repr(name), " or ".join(NAMES), "check the spelling")
    return name


def _describe(dataset: FileDataset) -> list[str]:
    index = dataset.index()
    for image_id in tqdm(index.areas, desc=f"reading {dataset.name}", delay=1, mininterval=1, leave=False):
        dataset.pair(image_id)  # raises where an image is truncated or not of its mask's size
    lines = [f"{dataset.name} in {dataset.root}", f"{len(index.areas)} images with masks, content {index.fingerprint}"]
    for split in dataset.splits:
        ids = dataset.ids(split)
        lines.append(f"{split}: {len(ids)} images")
        count = Counter(c for image_id in ids for c in index.areas[image_id])
        for fold in range(dataset.n_folds):
            novel = dataset.novel_classes(fold)
            images = sum(any(c in index.areas[image_id] for c in novel) for image_id in ids)
            classes = ", ".join(f"{dataset.class_names[c - 1]} {count[c]}" for c in novel)
            lines.append(f"{split} fold {fold}: {images} images ({classes})")
    return [*lines, _describe_objects(dataset)]


def _describe_objects(dataset: FileDataset) -> str:
    ids = dataset.index().areas
    have = [i for i in ids if all(path.is_file() for path in dataset.object_paths(i))]
    if len(have) < len(ids):  # instances are optional: SBD's may be absent
        lack = next(i for i in ids if i not in have)
        paths = " or ".join(str(path.relative_to(dataset.root)) for path in dataset.object_paths(lack))
        return f"instances: masks of {len(have)} of {len(ids)} images, no {paths} (interactive tasks need them)"
    entries = dataset.object_index().values()
    with_objects = sum(bool(found) for found in entries)
    return f"instances ({dataset.object_source}): {sum(map(len, entries))} objects in {with_objects} images"


def _missing(tree: Path) -> list[str]:
    """The parts of PASCAL-5i that a tree lacks; instances are optional."""
    needed = [part for part in PARTS if part not in INSTANCES]
    needed += [f"{LISTS}/{split}.txt" for split in ("train", "val", "trainaug")]
    return [part for part in needed if not (tree / part).exists()]


def _check_exist(sources: list[Path]) -> None:
    for source in sources:
        if not source.exists():
            raise FewsegError("--archive", source, "an existing archive or folder", "check the path")


def _verified(tree: Path, sources: list[Path]) -> dict[str, dict[str, str | int]]:
    """The record of the tree with the sources, after comparing the archives with it and with published checksums."""
    record = _read_record(tree)
    for source in sources:
        if source.is_file():
            md5 = next((archive.md5 for archive in (VOC, SBD) if archive.file == source.name), None)
            record[source.name] = verify(source, md5, record.get(source.name))
    return record


def _prepare_pascal(tree: Path, sources: list[Path]) -> list[str]:
    _check_exist(sources)
    if not sources and _missing(tree):
        tree.mkdir(parents=True, exist_ok=True)
        wanted = [VOC] if any(not (tree / part).is_dir() for part in ("JPEGImages", "SegmentationClass", LISTS)) else []
        wanted += [SBD] if not (tree / "SegmentationClassAug").is_dir() else []
        sources = [_on_disk(tree, archive.file) or download(archive, tree / archive.file) for archive in wanted]
    record = _verified(tree, sources)
    if not _missing(tree) and not (sources and any(not (tree / part).is_dir() for part in INSTANCES)):
        return []
    tree.mkdir(parents=True, exist_ok=True)
    with _temporary(tree) as temporary:
        lines: list[str] = []
        folders = []
        for i, source in enumerate(sources):
            folders.append(source if source.is_dir() else temporary / str(i))
            if source.is_file():
                unpack(source, folders[-1], _needed)
            lines += _install(folders[-1], tree, temporary, source.name)
        write_atomic(tree / RECORD, json.dumps(record, indent=1, sort_keys=True))
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


def _write_trainaug(tree: Path) -> str:
    """The list of SBD's images and VOC's segmented ones, less VOC's val."""
    masks = {path.stem for path in (tree / "SegmentationClassAug").glob("*.png")}
    ids = sorted(masks - set(read_ids(tree / LISTS / "val.txt")))
    write_atomic(tree / LISTS / "trainaug.txt", "".join(f"{image_id}\n" for image_id in ids))
    return f"wrote {LISTS}/trainaug.txt: {len(ids)} images (10582 where VOC and SBD are whole)"


@contextlib.contextmanager
def _temporary(tree: Path) -> Iterator[Path]:
    """A folder inside the tree, on its disk, so that whole folders can be renamed; gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=tree, prefix=".unpacking."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
            shutil.copytree(found[0], copy, copy_function=_link)
            found[0] = copy
        target.parent.mkdir(parents=True, exist_ok=True)
        found[0].replace(target)
        lines.append(f"installed {part} from {source}: {sum(1 for _ in target.iterdir())} files")
    return lines


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk is another."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
        _link(str(path), str(made / path.name))
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


# --- DAVIS ------------------------------------------------------------------------------------------------------------


def _check_davis(tree: Path) -> list[str]:
    years = sorted(int(p.name) for p in tree.glob("ImageSets/*") if p.name.isdecimal() and any(p.glob("*.txt")))
    resolutions = sorted(p.name for p in tree.glob("JPEGImages/*") if p.is_dir())
    if not years or not resolutions:
        raise FewsegError(
            tree,
            f"no {'JPEGImages/480p' if years else 'ImageSets/2016 nor ImageSets/2017'}",
            "a DAVIS tree: JPEGImages/, Annotations/, ImageSets/",
            f"run `fewseg data prepare davis --root {tree} --archive FILE` with {DAVIS_FILES[0]}, or without --archive "
            "if this is the release of 2016",
        )
    lines = [f"davis in {tree}"]
    for year in years:
        for resolution in resolutions:
            there = {p.name for part in DAVIS_PARTS for p in tree.glob(f"{part}/{resolution}/*") if p.is_dir()}
            splits = sorted(p.stem for p in (tree / f"ImageSets/{year}").glob("*.txt"))
            # whoever installs one resolution of one list gets all lists: what has not a single video was not asked for
            absent = [n for n in splits if there.isdisjoint(read_ids(tree / f"ImageSets/{year}/{n}.txt"))]
            lines += [f"{year} {resolution}: {split}: none of its videos is here" for split in absent]
            kept = tuple(split for split in splits if split not in absent)
            if kept:
                lines += _describe_videos(Davis(str(tree), year, resolution, 1, kept), f"{year} {resolution}: ")
    return lines + _describe_archives(tree)


def _describe_clips(dataset: ShapesVideo) -> list[str]:
    return [f"{dataset.name} in {dataset.root}", *_describe_videos(dataset)]


def _describe_videos(dataset: VideoDataset, prefix: str = "") -> list[str]:
    """Lines that count the videos, frames and objects of each list, after every file was read."""
    names = tqdm(dataset.sequences(), desc=f"reading {dataset.name}", unit="video", delay=1, mininterval=1, leave=False)
    found = {name: dataset.check_sequence(name) for name in names}
    lines = [f"{prefix}{len(found)} videos with masks, content {dataset.index().fingerprint}"]
    for split in dataset.splits:
        of_split = [found[name] for name in dataset.sequences(split)]
        sizes = sorted({check.size for check in of_split})
        lines.append(
            f"{prefix}{split}: {len(of_split)} videos, {sum(check.frames for check in of_split)} frames, "
            f"{sum(check.masks for check in of_split)} masks, {sum(len(check.objects) for check in of_split)} objects, "
            + (f"{sizes[0][0]} x {sizes[0][1]} pixels" if len(sizes) == 1 else f"{len(sizes)} sizes")
        )
    return lines + [f"{prefix}note: {note}" for check in found.values() for note in check.notes]


def _prepare_davis(tree: Path, sources: list[Path]) -> list[str]:
    _check_exist(sources)
    if not sources:
        sources = [path for file in DAVIS_FILES if (path := _on_disk(tree, file)) is not None]
    record = _verified(tree, sources)
    if not sources and not any(tree.glob("ImageSets/*/*.txt")):  # the tree itself may be an unpacked release
        raise FewsegError(
            tree,
            f"neither a DAVIS tree nor {DAVIS_FILES[0]}",
            "an archive of DAVIS",
            "get one from https://davischallenge.org and pass --archive FILE",
        )
    lines = _install_davis_lists(tree, tree, "the release of 2016")
    if not sources:
        return lines
    tree.mkdir(parents=True, exist_ok=True)
    with _temporary(tree) as temporary:
        for i, source in enumerate(sources):
            folder = source if source.is_dir() else temporary / str(i)
            if source.is_file():
                unpack(source, folder, lambda path: _needed_of_davis(path, tree))
            lines += _install_davis(folder, tree, temporary, source.name)
    write_atomic(tree / RECORD, json.dumps(record, indent=1, sort_keys=True))
    return lines


def _needed_of_davis(path: PurePosixPath, tree: Path) -> bool:
    """Whether a file is a list, a mask, or a frame of a video that the tree lacks."""
    if path.name.startswith("."):
        return False
    if path.suffix == ".txt":
        return path.parts[-3:-2] == ("ImageSets",)
    part, video = path.parts[-4:-3], "/".join(path.parts[-4:-1])
    return part == ("Annotations",) or (part == ("JPEGImages",) and not (tree / video).exists())


def _install_davis(folder: Path, tree: Path, temporary: Path, source: str) -> list[str]:
    """Moves videos of a DAVIS tree found in ``folder`` to their places, then its lists; what is there stays."""
    bases = {p.parent for name in (*DAVIS_PARTS, "ImageSets") for p in folder.rglob(name) if p.is_dir()}
    if not bases:
        raise FewsegError(
            source, f"no {DAVIS_PARTS[0]}, {DAVIS_PARTS[1]} nor ImageSets", "an archive of DAVIS", "get a whole one"
        )
    base = min(bases, key=lambda path: (len(path.parts), path))
    if base.resolve() == tree.resolve():
        return []
    videos = {part: sorted(p for p in base.glob(f"{part}/*/*") if p.is_dir()) for part in DAVIS_PARTS}
    for video in videos["Annotations"]:
        _check_same_masks(video, tree / video.relative_to(base), source)
    installed: Counter[str] = Counter()
    for part, found in videos.items():
        for video in found:
            target = tree / video.relative_to(base)
            if target.exists():
                continue
            installed[f"{part}/{video.parent.name}"] += 1
            target.parent.mkdir(parents=True, exist_ok=True)
            if temporary not in video.parents:  # the user's own folder stays as it is
                copy = temporary / f"copy-{part}-{video.parent.name}-{video.name}"
                shutil.copytree(video, copy, copy_function=_link)
                video = copy
            video.replace(target)
    lines = [f"installed {n} videos in {place} from {source}" for place, n in installed.items()]
    return lines + _install_davis_lists(base, tree, source)


def _check_same_masks(video: Path, target: Path, source: str) -> None:
    """Raises a FewsegError if a video is there already with another first mask: the releases annotate differently."""
    new, old = (sorted(folder.glob("*.png"))[:1] for folder in (video, target))
    if not (new and old and new[0].name == old[0].name):
        return
    if not np.array_equal(read_label(new[0], equal_channels=True), read_label(old[0], equal_channels=True)):
        raise FewsegError(
            "--archive",
            f"{source}, whose mask {video.name}/{new[0].name} is another one than that in the tree",
            "the same masks: the releases of 2016 and 2017 annotate objects differently",
            "give each release a --root of its own",
        )


def _install_davis_lists(base: Path, tree: Path, source: str) -> list[str]:
    """Copies ``ImageSets/<year>/*.txt``. The release of 2016 lists files, by resolution: these become names of 2016."""
    lines = []
    for path in sorted(base.glob("ImageSets/*/*.txt"), key=lambda path: (not path.parent.name.isdecimal(), path)):
        words = [line.split()[0] for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
        names = dict.fromkeys(PurePosixPath(word).parent.name if "/" in word else word for word in words)
        year = path.parent.name if path.parent.name.isdecimal() else "2016"
        target = tree / "ImageSets" / year / path.name
        if target == path:
            continue
        if not target.exists():
            write_atomic(target, "".join(f"{name}\n" for name in names))
            lines.append(f"wrote ImageSets/{year}/{path.name} from {source}: {len(names)} videos")
        elif read_ids(target) != tuple(names):
            lines.append(f"kept ImageSets/{year}/{path.name}, which differs from that of {source}")
    return lines


# --- archives ---------------------------------------------------------------------------------------------------------


def _read_record(tree: Path) -> dict[str, dict[str, str | int]]:
    try:
        return dict(json.loads((tree / RECORD).read_text()))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise FewsegError(tree / RECORD, "a broken file", "the record of the archives", "delete it") from None


def verify(path: Path, md5: str | None = None, recorded: dict[str, str | int] | None = None) -> dict[str, str | int]:
    """Size and SHA-256 of an archive, after comparing it with what is known about it.

    Args:
        path: the archive.
        md5: what its publisher says.
        recorded: what an earlier call returned for this archive.

    Raises:
        FewsegError: it is not the published or not the recorded file.
    """
    sha256_state, md5_state = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256_state.update(chunk)
            md5_state.update(chunk)
    if md5 is not None and md5_state.hexdigest() != md5:
        raise FewsegError(path, f"MD5 {md5_state.hexdigest()}", md5, "it is damaged: delete it and get it again")
    found: dict[str, str | int] = {"size": path.stat().st_size, "sha256": sha256_state.hexdigest()}
    if recorded is not None and found != recorded:
        raise FewsegError(
            path,
            f"SHA-256 {found['sha256']}",
            f"{recorded['sha256']}, as when it was first used",
            f"get the first file back, or give the new one another name ({RECORD} holds the record)",
        )
    return found


def unpack(path: Path, folder: Path, needed: Callable[[PurePosixPath], bool]) -> None:
    """Unpacks what is needed of a tar (plain or compressed) or zip into a new folder.

    Args:
        path: the archive.
        folder: where to; it must not exist.
        needed: whether a file of the archive is.

    Raises:
        FewsegError: it is no archive, damaged, much larger inside than outside, or has a member that is a link, a
            device or outside of the folder. The caller throws the folder away then.
    """
    folder.mkdir()
    limit = max(MAX_RATIO * path.stat().st_size, ALLOWANCE)
    total = 0
    try:
        with contextlib.closing(_members(path)) as members:  # closes the archive at an error, too
            for name, size, content in tqdm(members, desc=f"unpacking {path.name}", delay=1, mininterval=1):
                inside = _safe(path, name)
                total += size
                if total > limit:
                    raise FewsegError(path, f"more than {limit} bytes inside", "an archive of images", "do not use it")
                if content is None or not needed(inside):
                    continue
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        raise FewsegError(
            path, f"a failure to unpack it ({error})", "a whole tar or zip, and room on the disk", "get it again"
        ) from None


def _members(path: Path) -> Generator[tuple[str, int, IO[bytes] | None], None, None]:
    """Name, size and content of each member, no content for a folder; an error at any other kind of member."""
    if not tarfile.is_tarfile(path):
        with zipfile.ZipFile(path) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(path, info.filename, "a link or device")
                if info.is_dir():
                    yield info.filename, 0, None
                else:
                    with packed.open(info) as content:
                        yield info.filename, info.file_size, content
        return
    with tarfile.open(path, "r:*") as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise _refused(path, member.name, "a link or device")
            yield member.name, member.size, tar.extractfile(member)


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise _refused(archive, name, "outside of the folder")
    return path


def _refused(archive: Path, name: str, reason: str) -> FewsegError:
    return FewsegError(
        archive, f"member {name!r}, {reason}", "plain files and folders", "do not use it: get the published archive"
    )


def _needed(path: PurePosixPath) -> bool:
    folder = f"/{path.parent}"
    wanted = folder.endswith(
        tuple(f"/{part}" for part in (*PARTS, "cls", "inst"))
    )  # cls and inst hold SBD's masks, its lists lie beside
    return (wanted or path.name in ("train.txt", "val.txt")) and not path.name.startswith(
        "."
    )  # macOS leaves ._ files in zips


def _on_disk(tree: Path, file: str) -> Path | None:
    places = [place / file for place in (tree, tree / "archives", tree.parent)]
    return next((path for path in places if path.is_file()), None)


def download(archive: Archive, target: Path) -> Path:
    """Downloads a published archive; an interrupted download goes on where it stopped.

    The bytes go to ``<target>.part``, which gets its name once its MD5 is right.

    Raises:
        FewsegError: the server does not answer, the connection ends early, or the content is not the published one.
    """
    part = target.with_name(target.name + ".part")
    remedy = f"run again to go on, or get {archive.file} yourself and pass --archive FILE"
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            resumed = answer.status == http.client.PARTIAL_CONTENT
            done = done if resumed else 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            with (
                part.open("ab" if resumed else "wb") as file,
                tqdm(total=total, initial=done, desc=archive.file, unit="B", unit_scale=True, mininterval=1) as bar,
            ):
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # that one says that the part is whole
            raise FewsegError(archive.url, f"HTTP {error.code}", "the archive", remedy) from None
        total = None
    except (OSError, http.client.HTTPException) as error:
        raise FewsegError(archive.url, error, "the archive", remedy) from None
    if total is not None and part.stat().st_size < total:
        raise FewsegError(archive.url, f"{part.stat().st_size} of {total} bytes", "the whole archive", remedy)
    try:
        verify(part, archive.md5)
    except FewsegError:
        part.unlink()  # going on with a wrong beginning would never end well
        raise
    part.replace(target)
    return target
