"""Data sets in the layout of PASCAL VOC: images, index masks and lists.

Source of the layout: Everingham et al., "The PASCAL Visual Object Classes Challenge" (2010) and its development kit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from tqdm import tqdm

from fewseg.datasets.base import FewShotDataset, Image, Index, LabelMap
from fewseg.datasets.paths import cache_dir, resolve_root, write_atomic
from fewseg.episode import VOID
from fewseg.errors import FewsegError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle"),
    *("bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LISTS = "ImageSets/Segmentation"
INDEX_VERSION = 1  # of the cache file


def voc_palette() -> list[int]:
    """The 256 colours of VOC's masks, flat as R, G, B, ...: bit k of the label's digits 0, 1, 2 spreads over R, G, B.

    >>> palette = voc_palette()
    >>> palette[3:6], palette[3 * 20 : 3 * 21], palette[-3:]
    ([128, 0, 0], [0, 64, 128], [224, 224, 192])
    """
    return [
        sum(((label >> (3 * k + channel)) & 1) << (7 - k) for k in range(8))
        for label in range(256)
        for channel in range(3)
    ]


def read_image(path: Path) -> Image:
    """Reads a colour image as (H, W, 3) uint8 RGB, as stored: EXIF rotation is not applied, for masks do not follow it.

    Raises:
        FewsegError: the file is absent, truncated or no image.
    """
    data = _read(path)
    # decoders fill the rest of a truncated JPEG with grey and say nothing, so look for the end marker
    truncated = data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-1024:]
    image = None if truncated or not data else _decode(data)
    if image is None:
        got = f"a truncated JPEG of {len(data)} bytes" if truncated else "no image that can be decoded"
        raise FewsegError(path, got, "a whole image", "restore the file from the original data")
    return image


def _decode(data: bytes) -> Image | None:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FewsegError(
            path, error.strerror or error, "a readable file", "restore it from the original data, or fix the list"
        ) from None


def read_label(path: Path, n_classes: int = 255) -> LabelMap:
    """Reads an index mask, a palette or grey PNG, as (H, W) uint8: 0 background, 255 void.

    Args:
        path: the mask.
        n_classes: the largest label that is not void.

    Raises:
        FewsegError: the file is absent or broken, holds colours instead of labels, or a label above ``n_classes``.
    """
    try:
        with PIL.Image.open(path) as mask:
            if mask.mode not in ("P", "L"):
                raise FewsegError(
                    path,
                    f"a PNG of mode {mask.mode}",
                    "an index mask (palette or 8-bit grey PNG)",
                    "convert colours to class indices",
                )
            label: LabelMap = np.array(mask, dtype=np.uint8)
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:  # PIL calls a broken PNG a SyntaxError
        got = "no such file" if isinstance(error, FileNotFoundError) else f"a file that cannot be read ({error})"
        raise FewsegError(path, got, "a whole PNG mask", "restore it from the original data, or fix the list") from None
    wrong = label[(label > n_classes) & (label != VOID)]
    if wrong.size:
        raise FewsegError(
            path,
            f"label {wrong[0]}",
            f"0 to {n_classes}, or {VOID} for void",
            "restore the mask, or choose the data set whose classes it shows",
        )
    return label


def write_label(path: Path, label: LabelMap) -> None:
    """Writes a label map (H, W) uint8 as a PNG with VOC's palette."""
    image = PIL.Image.fromarray(label)
    image.putpalette(voc_palette())
    image.save(path)


def read_ids(path: Path) -> tuple[str, ...]:
    """Image ids of a list file, in its order and once each: a line is an id or starts with the path of the image.

    Raises:
        FewsegError: the list is absent or empty.
    """
    words = [line.split()[0] for line in _read(path).decode("utf-8", "replace").splitlines() if line.strip()]
    if not words:
        raise FewsegError(path, "an empty list", "one image id a line", "restore the list")
    return tuple(dict.fromkeys(Path(word).stem if "/" in word else word for word in words))


class VocDataset(FewShotDataset):
    """A tree in the layout of PASCAL VOC.

    Images are ``JPEGImages/<id>.jpg``, masks ``<labels>/<id>.png``, instances ``SegmentationObject/<id>.png`` where
    there are any, lists ``ImageSets/Segmentation/<split>.txt``.

    Args:
        root: the tree; without it ``$FEWSEG_DATA/<name>``.
        labels: folder of the class masks.
        splits: the lists to use.
    """

    name = "voc"
    class_names: tuple[str, ...] = VOC_CLASSES

    def __init__(
        self,
        root: str | None = None,
        labels: str = "SegmentationClass",
        splits: tuple[str, ...] = ("train", "val"),
    ) -> None:
        self.root = resolve_root(self.name, root)
        self.labels, self.splits = labels, tuple(splits)
        self._index: Index | None = None
        for folder in ("JPEGImages", labels, LISTS):
            if not (self.root / folder).is_dir():
                raise FewsegError(
                    "--data.dataset.labels" if folder == labels else "--data.dataset.root",
                    f"{self.root} without {folder}/",
                    f"a VOC tree: JPEGImages/, {labels}/ and {LISTS}/",
                    "name the folder that holds them (`fewseg data prepare` builds one)",
                )

    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids of a list in ``ImageSets/Segmentation``, in its order.

        Raises:
            FewsegError: there is no such list, or it is empty.
        """
        path = self.root / LISTS / f"{split}.txt"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise FewsegError(
                f"{self.name} split", f"{split!r}, but {path} is missing", "a list", f"lists that are there: {there}"
            )
        return read_ids(path)

    def image(self, image_id: str) -> Image:
        """(H, W, 3) uint8 RGB; an error if it is absent or truncated."""
        return read_image(self._image_path(image_id))

    def label(self, image_id: str) -> LabelMap:
        """(H, W) uint8 class ids, 0 background, 255 void; an error if it is absent or holds another label."""
        return read_label(self._label_path(image_id), len(self.class_names))

    def objects(self, image_id: str) -> LabelMap:
        """(H, W) uint8 instance numbers from 1, 0 background, 255 void; an error where there are none."""
        return read_label(self.root / "SegmentationObject" / f"{image_id}.png")

    def index(self) -> Index:
        """Areas and fingerprint of all images of ``splits``; the scan is cached until a list or a mask changes.

        Raises:
            FewsegError: an image or mask of a list is absent, or a mask cannot be used.
        """
        if self._index is None:
            self._index = self._cached_index()
        return self._index

    def image_stamp(self, ids: Iterable[str]) -> str:
        """SHA-256 over the sizes and times of change of the image files, because reading all of them takes minutes."""
        states = ((image_id, self._image_path(image_id).stat()) for image_id in ids)
        text = json.dumps([[image_id, state.st_size, state.st_mtime_ns] for image_id, state in states])
        return hashlib.sha256(text.encode()).hexdigest()

    def _image_path(self, image_id: str) -> Path:
        return self.root / "JPEGImages" / f"{image_id}.jpg"

    def _label_path(self, image_id: str) -> Path:
        return self.root / self.labels / f"{image_id}.png"

    def _cached_index(self) -> Index:
        lists = {split: self.ids(split) for split in self.splits}
        masks: dict[str, tuple[int, int]] = {}  # id -> size in bytes and time of change of its mask
        for split, ids in lists.items():
            for image_id in ids:
                image, mask = self._image_path(image_id), self._label_path(image_id)
                missing = [str(p.relative_to(self.root)) for p in (image, mask) if not p.is_file()]
                if missing:
                    raise FewsegError(
                        self.root / LISTS / f"{split}.txt",
                        f"{image_id} without {' and '.join(missing)}",
                        "an image and a mask for every id",
                        "restore the files, or take the id off the list",
                    )
                stat = mask.stat()
                masks[image_id] = (stat.st_size, stat.st_mtime_ns)
        key = json.dumps([INDEX_VERSION, str(self.root.resolve()), self.labels, len(self.class_names), lists, masks])
        path = cache_dir() / "index" / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        with contextlib.suppress(OSError, ValueError, KeyError):  # absent or broken: scan again
            cached = json.loads(path.read_text())
            areas = {i: {int(c): int(n) for c, n in found.items()} for i, found in cached["areas"].items()}
            return Index(areas, cached["fingerprint"])
        index = self._scan(lists)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a scan, nothing else
            write_atomic(path, json.dumps(index._asdict()))
        return index

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
