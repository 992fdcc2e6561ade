"""What a data set of segmented images offers: files only. Episodes, splits and loaders are built on top of it."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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


class FewShotDataset(abc.ABC):
    """Images with class label maps, their splits and their folds. Reads files; knows nothing of episodes or torch.

    Attributes:
        name: short name for tables and ids, e.g. ``"shapes5i"``.
        class_names: ``class_names[i]`` is the class with id ``i + 1``.
        n_folds: fold ``f`` holds out one contiguous block of the classes.
        splits: the lists of images that ``index`` covers.
        root: the data set's own tree.
    """

    name: str
    class_names: tuple[str, ...]
    n_folds: int = 4
    splits: tuple[str, ...] = ("train", "val")
    root: Path

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
        """(H, W) uint8 instance numbers from 1, 0 background, 255 void; an error where there are none."""

    @abc.abstractmethod
    def index(self) -> Index:
        """Areas and fingerprint of all images of all splits, scanned once and cached."""

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
