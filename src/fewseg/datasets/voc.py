"""Data sets in the layout of PASCAL VOC: images, index masks and lists.

Source of the layout: Everingham et al., "The PASCAL Visual Object Classes Challenge" (2010) and its development kit.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from fewseg.datasets.base import Image, LabelMap
from fewseg.datasets.components import MIN_AREA, components
from fewseg.datasets.files import FileDataset
from fewseg.datasets.paths import resolve_root
from fewseg.episode import VOID
from fewseg.errors import FewsegError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle"),
    *("bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LISTS = "ImageSets/Segmentation"
COMPONENTS = "components"  # in place of a folder of instance masks


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


def read_label(path: Path, n_classes: int = 255, equal_channels: bool = False) -> LabelMap:
    """Reads an index mask, a palette or grey PNG, as (H, W) uint8: 0 background, 255 void.

    Args:
        path: the mask.
        n_classes: the largest label that is not void.
        equal_channels: whether a colour file whose red, green and blue are equal is a grey mask.

    Raises:
        FewsegError: the file is absent or broken, holds colours instead of labels, or a label above ``n_classes``.
    """
    try:
        with PIL.Image.open(path) as mask:
            label: LabelMap | None = None
            if mask.mode in ("P", "L", "1"):
                label = np.array(mask, dtype=np.uint8)
            elif equal_channels and mask.mode in ("RGB", "RGBA", "LA"):
                colours = np.asarray(mask.convert("RGB"))
                label = colours[..., 0].copy() if (colours == colours[..., :1]).all() else None
            if label is None:
                raise FewsegError(
                    path,
                    f"an image of mode {mask.mode}",
                    "an index mask (palette or 8-bit grey PNG)",
                    "convert colours to indices",
                )
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


class VocDataset(FileDataset):
    """A tree in the layout of PASCAL VOC.

    Images are ``JPEGImages/<id>.jpg``, masks ``<labels>/<id>.png``, instances ``<objects>/<id>.png``, lists
    ``ImageSets/Segmentation/<split>.txt``.

    Args:
        root: the tree; without it ``$FEWSEG_DATA/<name>``.
        labels: folder of the class masks.
        splits: the lists to use.
        objects: folder of the instance masks, or ``"components"`` for the connected components of the class masks;
            without it ``SegmentationObject`` where that folder exists, else components.
    """

    name = "voc"
    class_names: tuple[str, ...] = VOC_CLASSES

    def __init__(
        self,
        root: str | None = None,
        labels: str = "SegmentationClass",
        splits: tuple[str, ...] = ("train", "val"),
        objects: str | None = None,
    ) -> None:
        self.root = resolve_root(self.name, root)
        self.labels, self.splits = labels, tuple(splits)
        if objects is None:
            there = (folder for folder in self._object_folders() if (self.root / folder).is_dir())
            objects = next(there, COMPONENTS)
        self.object_folder = objects
        self.object_source = "components" if objects == COMPONENTS else "masks"
        options = {"JPEGImages": "root", labels: "labels", LISTS: "root"}
        if objects != COMPONENTS:
            options[objects] = "objects"
        for folder, option in options.items():
            if not (self.root / folder).is_dir():
                raise FewsegError(
                    f"--data.dataset.{option}",
                    f"{self.root} without {folder}/",
                    f"a VOC tree: {'/, '.join(options)}/",
                    "name the folder that holds them (`fewseg data prepare` builds one)",
                )

    def _object_folders(self) -> tuple[str, ...]:
        """Folders of instance masks, the best first."""
        return ("SegmentationObject",)

    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids of a list in ``ImageSets/Segmentation``, in its order.

        Raises:
            FewsegError: there is no such list, or it is empty.
        """
        path = self.list_path(split)
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise FewsegError(
                f"{self.name} split", f"{split!r}, but {path} is missing", "a list", f"lists that are there: {there}"
            )
        return read_ids(path)

    def image(self, image_id: str) -> Image:
        """(H, W, 3) uint8 RGB; an error if it is absent or truncated."""
        return read_image(self.image_path(image_id))

    def label(self, image_id: str) -> LabelMap:
        """(H, W) uint8 class ids, 0 background, 255 void; an error if it is absent or holds another label."""
        return read_label(self.label_paths(image_id)[0], len(self.class_names))

    def objects(self, image_id: str) -> LabelMap:
        """(H, W) uint8 object numbers from 1, 0 background, 255 void.

        Annotated instances or the components of the label map, as ``object_source`` says.

        Raises:
            FewsegError: the image has no instance mask, or it cannot be read.
        """
        if self.object_folder == COMPONENTS:
            return components(self.label(image_id))
        path = self.object_paths(image_id)[0]
        if not path.is_file():
            raise FewsegError(
                path,
                "no such file",
                "an instance mask",
                f"restore it, use lists whose images have one, or set --data.dataset.objects {COMPONENTS}",
            )
        return read_label(path)

    def image_path(self, image_id: str) -> Path:
        """``JPEGImages/<id>.jpg``."""
        return self.root / "JPEGImages" / f"{image_id}.jpg"

    def label_paths(self, image_id: str) -> tuple[Path, ...]:
        """``<labels>/<id>.png``."""
        return (self.root / self.labels / f"{image_id}.png",)

    def object_paths(self, image_id: str) -> tuple[Path, ...]:
        """The instance mask, or the class mask where components stand in for it."""
        if self.object_folder == COMPONENTS:
            return self.label_paths(image_id)
        return (self.root / self.object_folder / f"{image_id}.png",)

    def list_path(self, split: str) -> Path:
        """``ImageSets/Segmentation/<split>.txt``."""
        return self.root / LISTS / f"{split}.txt"

    def settings(self) -> list[object]:
        """Folders of the masks, number of classes, and the smallest component."""
        return [self.labels, len(self.class_names), self.object_folder, MIN_AREA]
