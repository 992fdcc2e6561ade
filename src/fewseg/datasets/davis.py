"""DAVIS 2016 and 2017: frames of videos with the masks of their objects.

Sources: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (2016);
Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation" (2017).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewseg.datasets.base import Image, LabelMap
from fewseg.datasets.paths import resolve_root
from fewseg.datasets.video import VideoDataset
from fewseg.datasets.voc import read_ids, read_image, read_label
from fewseg.episode import VOID
from fewseg.errors import FewsegError


class Davis(VideoDataset):
    """DAVIS, or another tree in its layout. An image id is ``<sequence>/<frame>``.

    The tree is DAVIS's own: ``JPEGImages/<resolution>/<sequence>/00000.jpg``, ``Annotations/...png`` likewise, and
    lists of sequences ``ImageSets/<year>/<split>.txt``. Frames are numbered without a gap. All frames of a sequence
    have masks, or only the first one, as in the lists of the challenges (``test-dev``); then ``objects`` of the others
    is an error.

    ``ids`` names the frames that stand for single images in the interactive task. The f-BRS protocol takes 345 of them,
    a tenth of DAVIS 2016. The default, frames 0, 10, 20, ... of each sequence, is a tenth too, but not the same frames.

    Args:
        root: the tree; without it ``$FEWSEG_DATA/davis``.
        year: whose lists to use and whose objects: 2016 has one object a sequence, to which all objects of a mask are
            merged; 2017 has several.
        resolution: ``"480p"`` or ``"Full-Resolution"`` (in the release of 2016 ``"1080p"``).
        every: a split takes every so many-th frame of a sequence, from the first one on; of a sequence with one mask
            only the first.
        splits: the lists to use; without it those of ``train`` and ``val`` that are there.
    """

    name = "davis"

    def __init__(
        self,
        root: str | None = None,
        year: int = 2016,
        resolution: str = "480p",
        every: int = 10,
        splits: tuple[str, ...] | None = None,
    ) -> None:
        self.root = resolve_root(self.name, root)
        self.year, self.resolution, self.every = year, resolution, every
        if every < 1:
            raise FewsegError("--data.dataset.every", every, "at least 1", "1 takes all frames")
        lists = f"ImageSets/{year}"
        folders = {f"JPEGImages/{resolution}": "resolution", f"Annotations/{resolution}": "resolution", lists: "year"}
        for folder, option in folders.items():
            if not (self.root / folder).is_dir():
                there = ", ".join(sorted(p.name for p in (self.root / folder).parent.glob("*"))) or "none"
                raise FewsegError(
                    f"--data.dataset.{option}",
                    f"{self.root} without {folder}/",
                    f"a DAVIS tree: {'/, '.join(folders)}/",
                    f"in {Path(folder).parent}/ there is: {there}",
                )
        found = tuple(split for split in ("train", "val") if (self.root / lists / f"{split}.txt").is_file())
        self.splits = found if splits is None else tuple(splits)
        if not self.splits:
            raise FewsegError(
                self.root / lists, "neither train.txt nor val.txt", "a list of sequences", "restore one, or name splits"
            )

    def sequences(self, split: str | None = None) -> tuple[str, ...]:
        """Names of the sequences of a list, in its order; without a name those of all ``splits``.

        Raises:
            FewsegError: there is no such list, or it is empty.
        """
        if split is None:
            return tuple(dict.fromkeys(name for each in self.splits for name in self.sequences(each)))
        path = self.list_path(split)
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise FewsegError(
                f"{self.name} split", f"{split!r}, but {path} is missing", "a list", f"lists there: {there}"
            )
        return read_ids(path)

    def frames(self, sequence: str) -> tuple[str, ...]:
        """Image ids of all frames of a sequence, in order of time.

        Raises:
            FewsegError: the sequence has no frames, or their names are not numbers without a gap.
        """
        folder = self._images / sequence
        names = sorted(path.stem for path in folder.glob("*.jpg"))
        if not names:
            raise FewsegError(folder, "no frames", "a folder of JPEGs", "restore it, or take it off the list")
        remedy = "restore the frames from the original data, or take the sequence off the list"
        for i, name in enumerate(names):
            expected = f"{int(names[i - 1]) + 1:0{len(name)}d}" if i else name
            if not (name.isascii() and name.isdecimal()):
                raise FewsegError(folder / f"{name}.jpg", "a name", "the number of the frame, such as 00000", remedy)
            if name != expected:
                raise FewsegError(folder, f"{names[i - 1]}.jpg, then {name}.jpg", f"{expected}.jpg", remedy)
        return tuple(f"{sequence}/{name}" for name in names)

    def ids(self, split: str) -> tuple[str, ...]:
        """Every ``every``-th frame of each sequence of a list; of a sequence with one mask only the first."""
        found: list[str] = []
        for sequence in self.sequences(split):
            frames = self.frames(sequence)
            found += frames[:1] if self.first_mask_only(sequence) else frames[:: self.every]
        return tuple(found)

    def image(self, image_id: str) -> Image:
        """(H, W, 3) uint8 RGB; an error if it is absent or truncated."""
        return read_image(self.image_path(image_id))

    def objects(self, image_id: str) -> LabelMap:
        """(H, W) uint8 object numbers, 0 background, 255 void; an error if the mask is absent or in colours.

        If ``year`` is 2016 all objects are number 1, and in a mask of 0 and 255 only 255 is the object; beside other
        numbers, and in other years, it is void.
        """
        mask = read_label(self.label_paths(image_id)[0], equal_channels=True)
        if self.year != 2016:
            return mask
        if np.isin(mask, (0, VOID)).all():
            return np.minimum(mask, 1)
        return np.where(mask == VOID, VOID, np.minimum(mask, 1)).astype(np.uint8)

    def image_path(self, image_id: str) -> Path:
        """``JPEGImages/<resolution>/<sequence>/<frame>.jpg``."""
        return self._images / f"{image_id}.jpg"

    def label_paths(self, image_id: str) -> tuple[Path, ...]:
        """``Annotations/<resolution>/<sequence>/<frame>.png``."""
        return (self.root / "Annotations" / self.resolution / f"{image_id}.png",)

    def list_path(self, split: str) -> Path:
        """``ImageSets/<year>/<split>.txt``."""
        return self.root / "ImageSets" / str(self.year) / f"{split}.txt"

    def settings(self) -> list[object]:
        """The folder of the masks, and the year, which says whether their objects are merged."""
        return [self.resolution, self.year]

    @property
    def _images(self) -> Path:
        return self.root / "JPEGImages" / self.resolution
