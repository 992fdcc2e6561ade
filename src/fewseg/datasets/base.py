"""What a data set of segmented images offers: files only. Episodes, splits and loaders are built on top of it."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fewseg.episode import VOID
from fewseg.errors import FewsegError

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
LabelMap = npt.NDArray[np.uint8]  # (H, W): 0 background, class ids from 1, 255 void


class Index(NamedTuple):
    """What one scan of all label maps found.

    Args:
        areas: image id -> class id -> pixels, background and void left out.
        fingerprint: SHA-256 over the lists of the splits and the label values of every image; names the data's content.
    """

    areas: dict[str, dict[int, int]]
    fingerprint: str


class ObjectEntry(NamedTuple):
    """An object of an image: the class that most of its pixels show, and its size in pixels."""

    class_id: int
    area: int


class AnnotatedInstance(NamedTuple):
    """An annotated object, or crowd, of an image.

    Args:
        class_id: its class.
        crowd: whether it is a group that nobody told apart; evaluators ignore what is found in it.
        box: x, y, width and height in pixels, as annotated.
        mask: (H, W) bool; the masks of an image may overlap.
    """

    class_id: int
    crowd: bool
    box: tuple[float, float, float, float]
    mask: npt.NDArray[np.bool_]


class ObjectIndex(NamedTuple):
    """What one scan of all label and object maps found.

    Args:
        entries: image id -> object number -> its class and area; an image without objects has an empty dict.
        fingerprint: SHA-256 over the lists of the splits and both maps of every image.
    """

    entries: dict[str, dict[int, ObjectEntry]]
    fingerprint: str


def object_entries(label: LabelMap, objects: LabelMap) -> dict[int, ObjectEntry]:
    """Class and area of each object of an image.

    The class is the one that most pixels of the object show (the smaller id of two that are even); background and void
    do not count. An object without a pixel of any class is left out, for it has no class.

    Args:
        label: (H, W) class ids, 0 background, 255 void.
        objects: (H, W) object numbers, 0 background, 255 void.

    >>> object_entries(np.uint8([[3, 3, 7, 255], [7, 0, 0, 0]]), np.uint8([[1, 1, 1, 1], [4, 4, 0, 255]]))
    {1: ObjectEntry(class_id=3, area=4), 4: ObjectEntry(class_id=7, area=2)}
    """
    pairs = np.bincount(objects.ravel().astype(np.intp) * (VOID + 1) + label.ravel(), minlength=(VOID + 1) ** 2)
    counts = pairs.reshape(VOID + 1, VOID + 1)  # [object, class]
    with_class = counts[:, 1:VOID]
    return {
        int(number): ObjectEntry(int(with_class[number].argmax()) + 1, int(counts[number].sum()))
        for number in np.flatnonzero(with_class.any(1))
        if number not in (0, VOID)
    }


class FewShotDataset(abc.ABC):
    """Images with class label maps, their splits and their folds. Reads files; knows nothing of episodes or torch.

    Attributes:
        name: short name for tables and ids, e.g. ``"shapes5i"``.
        class_names: ``class_names[i]`` is the class with id ``i + 1``.
        n_folds: fold ``f`` holds out one contiguous block of the classes.
        splits: the lists of images that ``index`` covers.
        root: the data set's own tree.
        object_source: where instances come from: annotated ``"masks"``, or ``"components"``, which are the
            8-connected components of each class in the label map.
    """

    name: str
    class_names: tuple[str, ...]
    n_folds: int = 4
    splits: tuple[str, ...] = ("train", "val")
    root: Path
    object_source: Literal["masks", "components"] = "masks"
    _objects: ObjectIndex | None = None

    @abc.abstractmethod
    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids of a split (``"train"``, ``"val"`` or another that the data set lists), in the list's order."""

    @abc.abstractmethod
    def image(self, image_id: str) -> Image:
        """(H, W, 3) uint8 RGB."""

    @abc.abstractmethod
    def label(self, image_id: str) -> LabelMap:
        """(H, W) uint8 class ids, 0 background, 255 void; of the image's size."""

    @abc.abstractmethod
    def objects(self, image_id: str) -> LabelMap:
        """(H, W) uint8 instance numbers from 1, 0 background, 255 void; an error where the data has no instances."""

    @abc.abstractmethod
    def index(self) -> Index:
        """Areas and fingerprint of all images of all splits, scanned once and cached."""

    def maps(self, image_id: str) -> tuple[LabelMap, LabelMap]:
        """Label map and object map of an image, each (H, W).

        Raises:
            FewsegError: their sizes differ.
        """
        label, objects = self.label(image_id), self.objects(image_id)
        if label.shape != objects.shape:
            raise FewsegError(
                f"{self.name} {image_id}",
                f"an object mask of {objects.shape[0]} x {objects.shape[1]} pixels",
                f"the class mask's {label.shape[0]} x {label.shape[1]} (height x width)",
                "the masks are not a pair: restore both from the original data",
            )
        return label, objects

    def object_index(self) -> dict[str, dict[int, ObjectEntry]]:
        """Image id -> object number -> class and area, over all images of all splits; scanned once.

        An image without an object has an empty dict. Objects of a single pixel are listed.
        """
        return self._object_index().entries

    def object_fingerprint(self) -> str:
        """SHA-256 that names classes and instances, as ``index().fingerprint`` names the classes."""
        return self._object_index().fingerprint

    def _object_index(self) -> ObjectIndex:
        if self._objects is None:
            self._objects = self._scan_objects()
        return self._objects

    def _scan_objects(self) -> ObjectIndex:
        lists = {split: self.ids(split) for split in self.splits}
        digest = hashlib.sha256(json.dumps(lists, sort_keys=True).encode())
        entries: dict[str, dict[int, ObjectEntry]] = {}
        every_id = sorted(set().union(*lists.values()))
        for image_id in tqdm(every_id, desc=f"scanning the objects of {self.name}", delay=2, leave=False):
            label, objects = self.maps(image_id)
            entries[image_id] = object_entries(label, objects)
            digest.update(f"{image_id} {label.shape} ".encode())
            digest.update(np.ascontiguousarray(label).data)
            digest.update(np.ascontiguousarray(objects).data)
        return ObjectIndex(entries, digest.hexdigest())

    def image_stamp(self, ids: Iterable[str]) -> str:
        """Text that differs where the pixels of images differ: SHA-256 over them, or what a data set finds out sooner.

        Args:
            ids: of the images.
        """
        digest = hashlib.sha256()
        for image_id in ids:
            image = self.image(image_id)
            digest.update(f"{image_id} {image.shape} ".encode())
            digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()

    def pair(self, image_id: str) -> tuple[Image, LabelMap]:
        """An image (H, W, 3) and its label map (H, W).

        Raises:
            FewsegError: their sizes differ.
        """
        image, label = self.image(image_id), self.label(image_id)
        if image.shape[:2] != label.shape:
            raise FewsegError(
                f"{self.name} {image_id}",
                f"a mask of {label.shape[0]} x {label.shape[1]} pixels",
                f"the image's {image.shape[0]} x {image.shape[1]} (height x width)",
                "image and mask are not a pair: restore both from the original data",
            )
        return image, label

    def check_classes(self, split: str, classes: Iterable[int]) -> None:
        """Raises a FewsegError unless every class has an image in the split."""
        areas = self.index().areas
        found = {c for image_id in self.ids(split) for c in areas[image_id]}
        empty = [self.class_names[c - 1] for c in classes if c not in found]
        if empty:
            raise FewsegError(
                f"{self.name} split {split!r}",
                f"no image of {', '.join(empty)}",
                "at least one image of every class asked for",
                "choose another fold or split, or complete the data",
            )

    def novel_classes(self, fold: int) -> tuple[int, ...]:
        """Class ids that fold ``fold`` holds out."""
        size = len(self.class_names) // self.n_folds
        return tuple(range(fold * size + 1, (fold + 1) * size + 1))

    def base_classes(self, fold: int) -> tuple[int, ...]:
        """Class ids that fold ``fold`` trains on."""
        novel = self.novel_classes(fold)
        return tuple(c for c in range(1, len(self.class_names) + 1) if c not in novel)
