"""What a data set of videos offers beside its single frames, and the checks of a sequence."""

from __future__ import annotations

import abc
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from fewseg.datasets.base import LabelMap
from fewseg.datasets.files import ObjectDataset
from fewseg.episode import VOID
from fewseg.errors import FewsegError


class SequenceCheck(NamedTuple):
    """What a check found in a sequence that can be used.

    Args:
        frames: how many there are.
        size: (height, width) of all of them, in pixels.
        masks: how many frames have a mask.
        objects: object numbers of the first frame.
        notes: what a user should know, a line each.
    """

    frames: int
    size: tuple[int, int]
    masks: int
    objects: tuple[int, ...]
    notes: tuple[str, ...]


class VideoDataset(ObjectDataset):
    """Videos whose objects are numbered alike in all their frames. An image id is ``<sequence>/<frame>``.

    Objects have no class: all are of the one class ``object``, which the one fold holds out. The lists of a split hold
    sequences; ``ids`` names the frames of them that stand for single images.
    """

    @abc.abstractmethod
    def sequences(self, split: str | None = None) -> tuple[str, ...]:
        """Names of the sequences of a list, in its order; without a name those of all ``splits``."""

    @abc.abstractmethod
    def frames(self, sequence: str) -> tuple[str, ...]:
        """Image ids of all frames of a sequence, in order of time; at least one."""

    def has_mask(self, image_id: str) -> bool:
        """Whether a frame has a mask; later frames of sequences for a challenge have none."""
        return all(path.is_file() for path in self.object_paths(image_id))

    def video_fingerprint(self, split: str) -> str:
        """SHA-256 that names the masks of all frames of a list, which a test of its videos scores.

        That of ``index`` where it covers them: it reads the frames that stand for single images, which may be fewer.
        """
        every = [frame for sequence in self.sequences(split) for frame in self.frames(sequence)]
        if set(every) <= set(self.ids(split)):
            return self.index().fingerprint
        digest = hashlib.sha256()
        for image_id in filter(self.has_mask, every):
            objects = self.objects(image_id)
            digest.update(f"{image_id} {objects.shape} ".encode())
            digest.update(np.ascontiguousarray(objects).data)
        return digest.hexdigest()

    def first_mask_only(self, sequence: str) -> bool:
        """Whether the first frame of a sequence has a mask and none of the others has one, as in a challenge."""
        first, *others = self.frames(sequence)
        return bool(others) and self.has_mask(first) and not any(map(self.has_mask, others))

    def check_layout(self, sequence: str) -> SequenceCheck:
        """Checks names and sizes of frames and masks by their headers; of the masks only the first one is read.

        Fast enough to be done whenever a video is opened: a fraction of a millisecond a file.

        Raises:
            FewsegError: there are no frames, one is missing, one has no mask although another after the first has, or
                a frame or mask is not of the first frame's size. The message names the file.
        """
        frames = self.frames(sequence)
        masked = frames[:1] if self.first_mask_only(sequence) else frames
        for image_id in masked:
            if not self.has_mask(image_id):
                raise FewsegError(
                    self.image_path(image_id),
                    "a frame without mask",
                    " and ".join(str(path.relative_to(self.root)) for path in self.object_paths(image_id)),
                    "restore the mask, or take the sequence off the list",
                )
        size = _size(self.image_path(frames[0]))
        for image_id in frames:
            found = _size(self.image_path(image_id))
            if found != size:
                raise _misfit(self.image_path(image_id), "a frame", found, f"as frame {frames[0]}", size)
        for image_id in masked:
            for path in self.object_paths(image_id):
                found = _size(path)
                if found != size:
                    raise _misfit(path, "a mask", found, "as its frame", size)
        objects = _numbers(self.objects(frames[0]))
        notes = [] if objects else [f"{frames[0]} shows no object"]
        if len(masked) < len(frames):
            notes.append(f"{sequence}: masks of the first frame only, so it cannot be scored")
        return SequenceCheck(len(frames), size, len(masked), objects, tuple(notes))

    def check_truth(self, sequence: str) -> None:
        """Checks that every frame of a sequence has a mask to be scored by; reads none of them.

        Raises:
            FewsegError: a frame has none, as in the lists of a challenge.
        """
        frames = self.frames(sequence)
        lacking = [image_id for image_id in frames if not self.has_mask(image_id)]
        if lacking:
            raise FewsegError(
                f"{self.name} {sequence}",
                f"{len(lacking)} of {len(frames)} frames without mask, the first of them {lacking[0]}",
                "a mask of every frame to score",
                "answer it with `fewseg predict`, which writes masks and scores nothing, or take it off the list",
            )

    def check_sequence(self, sequence: str) -> SequenceCheck:
        """``check_layout``, and reads all frames and masks.

        The notes name objects that the first frame does not show and their first frames: under the protocol ``video``
        they are background.

        Raises:
            FewsegError: as ``check_layout``; or a frame is truncated, or a mask broken or in colours.
        """
        found = self.check_layout(sequence)
        frames, later = self.frames(sequence), dict[int, str]()
        for image_id in frames:
            self.image(image_id)
        for image_id in frames[: found.masks]:
            for number in _numbers(self.objects(image_id)):
                if number not in found.objects:
                    later.setdefault(number, image_id)
        new = (f"{i} shows object {n}, {frames[0]} does not: background under `video`" for n, i in later.items())
        return found._replace(notes=(*found.notes, *new))


def _numbers(objects: LabelMap) -> tuple[int, ...]:
    """The object numbers of a map (H, W) in ascending order, background and void left out."""
    return tuple(int(number) for number in np.unique(objects) if number not in (0, VOID))


def _size(path: Path) -> tuple[int, int]:
    """Height and width that the header of an image file states, in pixels."""
    try:
        with PIL.Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:  # PIL calls a broken PNG a SyntaxError
        raise FewsegError(
            path, f"a file that cannot be read ({error})", "a whole image", "restore it from the original data"
        ) from None


def _misfit(path: Path, kind: str, found: tuple[int, int], whose: str, size: tuple[int, int]) -> FewsegError:
    return FewsegError(
        path,
        f"{kind} of {found[0]} x {found[1]} pixels",
        f"{size[0]} x {size[1]} (height x width), {whose}",
        "all frames and masks of a sequence have one size: restore the file from the original data",
    )
