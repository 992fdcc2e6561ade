"""Counts of what a data set on disk holds, after every file of it was read."""

from __future__ import annotations

from collections import Counter

from tqdm import tqdm

from fewseg.datasets.coco import CocoOneShot
from fewseg.datasets.files import FileDataset
from fewseg.datasets.video import VideoDataset


def describe_images(dataset: FileDataset) -> list[str]:
    """Lines that count images, masks, folds and classes.

    Raises:
        FewsegError: a file is missing, or cannot be used.
    """
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


def describe_videos(dataset: VideoDataset, prefix: str = "") -> list[str]:
    """Lines that count the videos, frames and objects of each list.

    Args:
        dataset: of videos.
        prefix: of each line.

    Raises:
        FewsegError: a file is missing, or cannot be used.
    """
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


def describe_splits(dataset: CocoOneShot) -> list[str]:
    """Lines that count images, annotations, crowds and classes, and the images of each split S1 to S4.

    Raises:
        FewsegError: a file is missing, or cannot be used.
    """
    index = dataset.index()
    for image_id in tqdm(index.areas, desc=f"reading {dataset.name}", delay=1, mininterval=1, leave=False):
        dataset.image(image_id)  # raises where an image is truncated or not of the size that the list says
    lines = [f"{dataset.name} in {dataset.root}", f"{len(index.areas)} images, content {index.fingerprint}"]
    for split in dataset.splits:
        ids = dataset.ids(split)
        crowds = [each.crowd for image_id in ids for each in dataset.annotations(image_id)]
        present = [dataset.present(image_id) for image_id in ids]
        count = Counter(class_id for found in present for class_id in found)
        lines.append(
            f"{split}: {len(ids)} images, {len(crowds)} annotations, {sum(crowds)} of them crowds, {len(count)} classes"
        )
        for fold in range(dataset.n_folds):
            novel = dataset.novel_classes(fold)
            images = sum(any(class_id in found for class_id in novel) for found in present)
            classes = ", ".join(f"{dataset.class_names[c - 1]} {count[c]}" for c in novel)
            lines.append(f"{split} S{fold + 1}: {images} images ({classes})")
    return lines
