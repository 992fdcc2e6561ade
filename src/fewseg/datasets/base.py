"""What a data set of segmented images offers: files only. Episodes, splits and loaders are built on top of it."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
LabelMap = npt.NDArray[np.uint8]  # (H, W): 0 background, class ids from 1, 255 void


class Index(NamedTuple):
    """What one scan of all label maps found.

    Args:
        areas: image id -> class id -> pixels, background and void left out.
        fingerprint: SHA-256 over the ids and the label values of every image.
    """

    areas: dict[str, dict[int, int]]
    fingerprint: str


class FewShotDataset(abc.ABC):
    """Images with class label maps, their splits and their folds. Reads files; knows nothing of episodes or torch.

    Attributes:
        name: short name for tables and ids, e.g. ``"shapes5i"``.
        class_names: ``class_names[i]`` is the class with id ``i + 1``.
        n_folds: fold ``f`` holds out one contiguous block of the classes.
        root: the data set's own tree.
    """

    name: str
    class_names: tuple[str, ...]
    n_folds: int = 4
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

    def novel_classes(self, fold: int) -> tuple[int, ...]:
        """Class ids that fold ``fold`` holds out."""
        size = len(self.class_names) // self.n_folds
        return tuple(range(fold * size + 1, (fold + 1) * size + 1))

    def base_classes(self, fold: int) -> tuple[int, ...]:
        """Class ids that fold ``fold`` trains on."""
        novel = self.novel_classes(fold)
        return tuple(c for c in range(1, len(self.class_names) + 1) if c not in novel)
