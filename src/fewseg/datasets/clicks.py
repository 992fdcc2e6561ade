"""Folders of images and object masks in the manner of GrabCut and Berkeley, the data sets of interactive segmentation.

Sources: Rother et al., "GrabCut" (2004); McGuinness and O'Connor, "A comparative evaluation of interactive segmentation
algorithms" (2010).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import numpy as np

from fewseg.datasets.base import Image, LabelMap
from fewseg.datasets.files import ObjectDataset
from fewseg.datasets.paths import resolve_root
from fewseg.datasets.voc import read_image, read_label
from fewseg.episode import VOID
from fewseg.errors import FewsegError

IMAGES = ("images", "imgs", "img", "data_GT", "JPEGImages")
MASKS = ("masks", "seg_GT", "boundary_GT", "gt", "GT", "Annotations")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff")
UNKNOWN = 128  # GrabCut's border, neither object nor background

Entry = TypeVar("Entry")


def mask_objects(mask: LabelMap) -> LabelMap | None:
    """Object numbers from the values of a mask; None where the values are neither binary nor object numbers.

    A mask of 0, 255 and perhaps 128 is binary: 255 is the object and 128 is unknown, which becomes void. Otherwise the
    values are numbers of objects, 1 to n without a gap, and 255 is void.

    Args:
        mask: (H, W) uint8.

    >>> mask_objects(np.uint8([[0, 128, 255]])), mask_objects(np.uint8([[1, 2, 255]]))
    (array([[  0, 255,   1]], dtype=uint8), array([[  1,   2, 255]], dtype=uint8))
    >>> mask_objects(np.uint8([[0, 3, 254, 255]])) is None  # a soft edge
    True
    """
    values = set(np.unique(mask).tolist())
    if values <= {0, UNKNOWN, VOID}:
        return np.where(mask == UNKNOWN, VOID, np.minimum(mask, 1)).astype(np.uint8)
    numbers = values - {0, VOID}
    return mask if numbers == set(range(1, len(numbers) + 1)) else None


class ClickFolder(ObjectDataset):
    """Images in one folder and masks in another, matched by their names without suffix; one split, ``val``.

    A mask is an image file of any format, read by ``mask_objects``. Several objects of an image may also come as
    several binary masks, ``<image>#<n>.png``: they are numbered in the order of n, and pixels of more than one of
    them are void.

    Args:
        folder: name of a folder in ``$FEWSEG_DATA``, e.g. ``"grabcut"``.
        root: the folder, wherever it is.
        images: subfolder of the images; without it the one that has a usual name, e.g. ``images`` or ``data_GT``.
        masks: subfolder of the masks; without it the one that has a usual name, e.g. ``masks`` or ``seg_GT``.
    """

    splits = ("val",)

    def __init__(
        self,
        folder: str | None = None,
        root: str | None = None,
        images: str | None = None,
        masks: str | None = None,
    ) -> None:
        if folder is None and root is None:
            raise FewsegError("--data.dataset.folder", "nothing", "the data set's folder", "pass folder or root")
        self.name = folder or Path(str(root)).expanduser().resolve().name
        self.root = resolve_root(self.name, root)
        self._images: dict[str, Path] = {}
        for path in _files(self._subfolder("images", images, IMAGES)):
            other = self._images.setdefault(path.stem, path)
            if other != path:
                raise FewsegError(path.parent, f"{other.name} and {path.name}", "one image of a name", "rename one")
        found: dict[str, list[tuple[int, Path]]] = {}
        self._masks_folder = self._subfolder("masks", masks, MASKS)
        for path in _files(self._masks_folder):
            numbered = re.fullmatch(r"(.+)#(\d+)", path.stem)
            stem, number = (numbered[1], int(numbered[2])) if numbered else (path.stem, 0)
            found.setdefault(stem, []).append((number, path))
        self._masks = {stem: tuple(path for _, path in sorted(paths)) for stem, paths in found.items()}
        for stem in sorted(set(self._images) ^ set(self._masks)):
            lack, there = ("image", "mask") if stem in self._masks else ("mask", "image")
            raise FewsegError(self.root, f"{stem} without {lack}", "both of it", f"restore it, or remove the {there}")

    def ids(self, split: str) -> tuple[str, ...]:
        """Names of the images without suffix, sorted."""
        if split not in self.splits:
            raise FewsegError(f"{self.name} split", repr(split), "'val'", "a folder has no other list")
        return tuple(sorted(self._images))

    def image(self, image_id: str) -> Image:
        """(H, W, 3) uint8 RGB; an error if it is absent or truncated."""
        return read_image(self.image_path(image_id))

    def objects(self, image_id: str) -> LabelMap:
        """(H, W) uint8 object numbers, 0 background, 255 void.

        Raises:
            FewsegError: a mask cannot be read, holds colours or other values, or the masks of an image have different
                sizes, or are several and not binary.
        """
        paths = self.label_paths(image_id)
        maps = [self._objects_of(path, len(paths) == 1) for path in paths]
        objects = maps[0]
        for number, (path, more) in enumerate(zip(paths[1:], maps[1:], strict=True), 2):
            if more.shape != objects.shape:
                size = f"{more.shape[0]} x {more.shape[1]} pixels"
                raise FewsegError(path, size, f"{objects.shape[0]} x {objects.shape[1]}", "restore the masks")
            shared = (more == 1) & (objects > 0)
            objects = np.where(more == 1, number, np.where(objects > 0, objects, more)).astype(np.uint8)
            objects[shared] = VOID
        return objects

    def image_path(self, image_id: str) -> Path:
        """The image of a name."""
        return self._lookup(self._images, image_id)

    def label_paths(self, image_id: str) -> tuple[Path, ...]:
        """The masks of an image."""
        return self._lookup(self._masks, image_id)

    def list_path(self, split: str) -> Path:
        """The folder itself."""
        return self.root

    def settings(self) -> list[object]:
        """The folder of the masks."""
        return [self._masks_folder.name]

    def _subfolder(self, option: str, name: str | None, usual: tuple[str, ...]) -> Path:
        there = [each for each in ((name,) if name else usual) if (self.root / each).is_dir()]
        if not there:
            raise FewsegError(
                f"--data.dataset.{option}",
                f"{self.root} without {name or ', '.join(usual)}",
                f"a folder of {option}",
                f"name the subfolder that holds the {option}",
            )
        folder = self.root / there[0]
        if not _files(folder):
            raise FewsegError(folder, "no image file", f"{option} ({', '.join(SUFFIXES)})", "put them there")
        return folder

    def _lookup(self, table: dict[str, Entry], image_id: str) -> Entry:
        if image_id not in table:
            raise FewsegError(f"{self.name} image", repr(image_id), "a name in the folder", "check the spelling")
        return table[image_id]

    def _objects_of(self, path: Path, numbers: bool) -> LabelMap:
        mask = read_label(path, equal_channels=True)
        objects = mask_objects(mask)
        if objects is None or (not numbers and np.any((objects > 1) & (objects < VOID))):
            values = np.unique(mask)
            listed = f"{', '.join(map(str, values[:4]))}{', ...' if len(values) > 4 else ''}"
            wanted = "0, 255 and perhaps 128 (unknown)" + (", or object numbers 1 to n" if numbers else "")
            raise FewsegError(path, f"values {listed}", wanted, "make the mask hard and lossless")
        return objects


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
