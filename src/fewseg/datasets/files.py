"""Scans of data sets on disk, kept until a list or a mask changes."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from fewseg.datasets.base import FewShotDataset, Index, LabelMap, ObjectEntry, ObjectIndex
from fewseg.datasets.paths import cache_dir, write_atomic
from fewseg.episode import VOID
from fewseg.errors import FewsegError

INDEX_VERSION = 2  # of the files that keep scans
OBJECTS_VERSION = 1

Scan = TypeVar("Scan", Index, ObjectIndex)


class FileDataset(FewShotDataset):
    """A data set whose masks are files of its tree. Its scans are cached; a subclass says which files they read."""

    _index: Index | None = None

    @abc.abstractmethod
    def image_path(self, image_id: str) -> Path:
        """The file of an image."""

    @abc.abstractmethod
    def label_paths(self, image_id: str) -> tuple[Path, ...]:
        """The files that the label map of an image is read from."""

    def object_paths(self, image_id: str) -> tuple[Path, ...]:
        """The files that the object map of an image is read from."""
        return self.label_paths(image_id)

    @abc.abstractmethod
    def list_path(self, split: str) -> Path:
        """The file or folder that lists the images of a split."""

    @abc.abstractmethod
    def settings(self) -> list[object]:
        """What label and object maps depend on besides the files."""

    def index(self) -> Index:
        """Areas and fingerprint of all images of ``splits``; the scan is cached until a list or a mask changes.

        Raises:
            FewsegError: an image or mask of a list is absent, or a mask cannot be used.
        """
        if self._index is None:
            lists = self._lists()
            remedy = "restore the files, or take the id off the list"
            states = self._states(lists, lambda i: (self.image_path(i), *self.label_paths(i)), remedy)
            path = self._cache_file("index", [INDEX_VERSION, lists, [state[1:] for state in states]])
            self._index = _kept(path, lambda: self._scan(lists), _load_index)
        return self._index

    def _object_index(self) -> ObjectIndex:
        if self._objects is None:
            lists = self._lists()
            remedy = "restore the files, or choose splits whose images all have instances"
            states = self._states(lists, lambda i: (*self.label_paths(i), *self.object_paths(i)), remedy)
            path = self._cache_file("objects", [OBJECTS_VERSION, self.object_source, lists, states])
            self._objects = _kept(path, self._scan_objects, _load_objects)
        return self._objects

    def image_stamp(self, ids: Iterable[str]) -> str:
        """SHA-256 over the sizes and times of change of the image files, because reading all of them takes minutes."""
        states = ((image_id, self.image_path(image_id).stat()) for image_id in ids)
        text = json.dumps([[image_id, state.st_size, state.st_mtime_ns] for image_id, state in states])
        return hashlib.sha256(text.encode()).hexdigest()

    def _lists(self) -> dict[str, tuple[str, ...]]:
        return {split: self.ids(split) for split in self.splits}

    def _states(
        self, lists: dict[str, tuple[str, ...]], files: Callable[[str], tuple[Path, ...]], remedy: str
    ) -> list[list[tuple[int, int]]]:
        """Size in bytes and time of change of the files of each image, in the order of the lists."""
        states = []
        for split, ids in lists.items():
            for image_id in ids:
                paths = files(image_id)
                missing = [str(path.relative_to(self.root)) for path in paths if not path.is_file()]
                if missing or not paths:
                    raise FewsegError(
                        self.list_path(split),
                        f"{image_id} without {' and '.join(missing) or 'a mask'}",
                        "an image and a mask for every id",
                        remedy,
                    )
                found = (path.stat() for path in paths)
                states.append([(state.st_size, state.st_mtime_ns) for state in found])
        return states

    def _cache_file(self, kind: str, state: list[object]) -> Path:
        key = json.dumps([type(self).__name__, str(self.root.resolve()), self.settings(), *state])
        return cache_dir() / kind / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _scan(self, lists: dict[str, tuple[str, ...]]) -> Index:
        digest = hashlib.sha256(json.dumps(lists, sort_keys=True).encode())
        areas: dict[str, dict[int, int]] = {}
        every_id = sorted(set().union(*lists.values()))
        for image_id in tqdm(every_id, desc=f"scanning the masks of {self.name}", delay=2, leave=False):
            label = self.label(image_id)
            counts = np.bincount(label.ravel(), minlength=VOID + 1)
            areas[image_id] = {int(c): int(counts[c]) for c in np.flatnonzero(counts) if c not in (0, VOID)}
            digest.update(f"{image_id} {label.shape} ".encode())
            digest.update(np.ascontiguousarray(label).data)
        return Index(areas, digest.hexdigest())


class ObjectDataset(FileDataset):
    """Objects without classes: all are of the one class ``object``, which the one fold holds out. For clicks."""

    class_names: tuple[str, ...] = ("object",)
    n_folds = 1

    def label(self, image_id: str) -> LabelMap:
        """(H, W) uint8: 1 where any object is, 0 background, 255 void."""
        return self.maps(image_id)[0]

    def maps(self, image_id: str) -> tuple[LabelMap, LabelMap]:
        """Label map and object map of an image, each (H, W), from one reading."""
        objects = self.objects(image_id)
        return np.where(objects == VOID, VOID, np.minimum(objects, 1)).astype(np.uint8), objects


def _kept(path: Path, scan: Callable[[], Scan], load: Callable[[Any], Scan]) -> Scan:
    """What a file keeps of an earlier scan, else a new scan, which is written there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or broken: scan again
        return load(json.loads(path.read_text()))
    found = scan()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a scan, nothing else
        write_atomic(path, json.dumps(found._asdict()))
    return found


def _load_index(kept: Any) -> Index:
    areas = {i: {int(c): int(n) for c, n in found.items()} for i, found in kept["areas"].items()}
    return Index(areas, kept["fingerprint"])


def _load_objects(kept: Any) -> ObjectIndex:
    entries = {
        i: {int(number): ObjectEntry(*entry) for number, entry in found.items()} for i, found in kept["entries"].items()
    }
    return ObjectIndex(entries, kept["fingerprint"])
