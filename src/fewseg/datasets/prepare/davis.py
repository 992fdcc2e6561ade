"""DAVIS from archives or folders of its releases. They have no published checksum, so nothing is downloaded."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from fewseg.datasets.davis import Davis
from fewseg.datasets.paths import write_atomic
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
from fewseg.datasets.prepare.describe import describe_videos
from fewseg.datasets.voc import read_ids, read_label
from fewseg.errors import FewsegError

DAVIS_PARTS = ("JPEGImages", "Annotations")
DAVIS_FILES = (  # names of the official archives, for those that lie about
    *("DAVIS-2017-trainval-480p.zip", "DAVIS-2017-trainval-Full-Resolution.zip"),
    *("DAVIS-2017-test-dev-480p.zip", "DAVIS-2017-test-dev-Full-Resolution.zip"),
    *("DAVIS-2017-test-challenge-480p.zip", "DAVIS-2017-test-challenge-Full-Resolution.zip"),
)


def prepare_davis(tree: Path, sources: list[Path]) -> list[str]:
    """Installs the videos and lists that a tree lacks; returns lines that say what was done.

    Args:
        tree: the tree, which may itself be an unpacked release.
        sources: archives and folders of the user; without any, archives that lie in the tree or beside it.

    Raises:
        FewsegError: see ``prepare``.
    """
    check_exist(sources)
    if not sources:
        sources = [path for file in DAVIS_FILES if (path := on_disk(tree, file)) is not None]
    record = verified(tree, sources)
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
    with temporary_folder(tree) as temporary:
        for i, source in enumerate(sources):
            folder = source if source.is_dir() else temporary / str(i)
            if source.is_file():
                unpack(source, folder, lambda path: _needed_of_davis(path, tree))
            lines += _install_davis(folder, tree, temporary, source.name)
    write_record(tree, record)
    return lines


def check_davis(tree: Path) -> list[str]:
    """Lines that count what a tree holds, by list and resolution; a FewsegError where something cannot be used."""
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
                lines += describe_videos(Davis(str(tree), year, resolution, 1, kept), f"{year} {resolution}: ")
    return lines + describe_archives(tree)


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
                shutil.copytree(video, copy, copy_function=link_or_copy)
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
