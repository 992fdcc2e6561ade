"""COCO (Lin et al., "Microsoft COCO: Common Objects in Context", 2014) with its classes in four folds: COCO-20i.

The literature has two COCO-20i: folds of every fourth class (PFENet's split setting, Siamese Mask R-CNN) and folds of
twenty neighbours (PFENet's other setting). Classes are numbered 1 to 80 in the order of COCO's ids, which have gaps.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pycocotools.mask

from fewseg.datasets.base import Image, Index, LabelMap
from fewseg.datasets.files import FileDataset
from fewseg.datasets.paths import resolve_root
from fewseg.datasets.voc import read_image
from fewseg.episode import VOID
from fewseg.errors import FewsegError

COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
Polygons = list[npt.NDArray[np.float64]]  # x, y, x, y, ... of each part


class Annotation(NamedTuple):
    """One annotated object, or crowd, of an image.

    Args:
        class_id: 1 to 80.
        crowd: whether it is a group that nobody told apart.
        outline: polygons, or a run-length code of COCO with ``counts`` and ``size``.
    """

    class_id: int
    crowd: bool
    outline: Polygons | dict[str, Any]


class Listed(NamedTuple):
    """An image of a list of COCO: file, size in pixels, and annotations in the order of the list."""

    path: Path
    height: int
    width: int
    annotations: tuple[Annotation, ...]


def draw(annotations: tuple[Annotation, ...], height: int, width: int) -> tuple[LabelMap, LabelMap]:
    """Label map and object map of an image, each (H, W) uint8.

    Objects are numbered from 1 in the order given, crowds left out. Smaller objects are drawn over larger ones, and
    all of them over crowds, which are void. Outlines become pixels as in COCO's own tools.

    Args:
        annotations: of the image.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: an outline cannot be drawn, or there are more than 254 objects.

    >>> square = lambda x, size: [np.float64([x, 0, x + size, 0, x + size, size, x, size])]
    >>> label, objects = draw((Annotation(7, False, square(0, 1)), Annotation(9, False, square(0, 3))), 3, 4)
    >>> objects
    array([[1, 2, 2, 0],
           [2, 2, 2, 0],
           [2, 2, 2, 0]], dtype=uint8)
    >>> label[0]
    array([7, 9, 9, 0], dtype=uint8)
    """
    label, objects = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    drawn: list[tuple[int, int, int, npt.NDArray[np.bool_]]] = []
    for annotation in annotations:
        mask = _mask(annotation.outline, height, width)
        if annotation.crowd:
            label[mask], objects[mask] = VOID, VOID
        else:
            drawn.append((-int(mask.sum()), len(drawn) + 1, annotation.class_id, mask))
    if len(drawn) >= VOID:
        raise ValueError(f"{len(drawn)} objects in an image")
    for _, number, class_id, mask in sorted(drawn, key=lambda item: item[:2]):
        label[mask], objects[mask] = class_id, number
    return label, objects


def _mask(outline: Polygons | dict[str, Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    if isinstance(outline, list):
        if not outline:
            return np.zeros((height, width), bool)
        runs = pycocotools.mask.merge(pycocotools.mask.frPyObjects([part.tolist() for part in outline], height, width))
    else:
        if list(outline["size"]) != [height, width]:
            raise ValueError(f"a run-length code of size {outline['size']}")
        packed = isinstance(outline["counts"], str | bytes)
        runs = outline if packed else pycocotools.mask.frPyObjects(outline, height, width)
    return np.asarray(pycocotools.mask.decode(runs)).astype(bool)


class Coco20i(FileDataset):
    """COCO with class and object maps drawn from ``annotations/instances_<split><year>.json``; images lie beside it.

    All images of a list count, in the order of their ids, also those without any object. The lists are read on first
    use, which takes a while with all of COCO.

    Args:
        root: the tree; without it ``$FEWSEG_DATA/coco``.
        folds: ``"split"``: fold f (from 0) holds out the classes f + 1, f + 5, ..., f + 77; ``"block"``: the twenty
            classes from 20 f + 1 on.
        year: of the lists and image folders.
        splits: the lists to use.
    """

    name = "coco20i"
    class_names: tuple[str, ...] = COCO_CLASSES

    def __init__(
        self,
        root: str | None = None,
        folds: Literal["split", "block"] = "split",
        year: int = 2017,
        splits: tuple[str, ...] = ("train", "val"),
    ) -> None:
        if folds not in ("split", "block"):
            raise FewsegError("--data.dataset.folds", repr(folds), "'split' or 'block'", "see docs/data.md")
        self.root = resolve_root("coco", root)
        self.folds, self.year, self.splits = folds, year, tuple(splits)
        self._listed: dict[str, dict[str, Listed]] = {}  # split -> image id -> image
        for split in self.splits:
            if not (self.list_path(split).is_file() and (self.root / f"{split}{year}").is_dir()):
                raise FewsegError(
                    "--data.dataset.root",
                    f"{self.root} without {self.list_path(split).relative_to(self.root)} or {split}{year}/",
                    "a COCO tree",
                    "unpack COCO's images and annotations there, or choose another year or other splits",
                )

    def novel_classes(self, fold: int) -> tuple[int, ...]:
        """The twenty class ids that a fold holds out."""
        return tuple(range(fold + 1, 81, 4)) if self.folds == "split" else super().novel_classes(fold)

    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids, the names of the files without suffix, in the order of COCO's numbers."""
        return tuple(self._list(split))

    def image(self, image_id: str) -> Image:
        """(H, W, 3) uint8 RGB; an error if it is absent or truncated."""
        return read_image(self.image_path(image_id))

    def label(self, image_id: str) -> LabelMap:
        """(H, W) uint8 class ids, 0 background, 255 where a crowd is."""
        return self.maps(image_id)[0]

    def objects(self, image_id: str) -> LabelMap:
        """(H, W) uint8 object numbers, 0 background, 255 where a crowd is."""
        return self.maps(image_id)[1]

    def maps(self, image_id: str) -> tuple[LabelMap, LabelMap]:
        """Label map and object map of an image, each (H, W), drawn once: ``draw``.

        Raises:
            FewsegError: an outline cannot be drawn.
        """
        found = self._find(image_id)
        try:
            return draw(found.annotations, found.height, found.width)
        except (ValueError, KeyError, TypeError) as error:
            remedy = "restore the list from the original data"
            raise FewsegError(f"{self.name} {image_id}", error, "outlines inside the image", remedy) from None

    def index(self) -> Index:
        """Areas and fingerprint of all images; the fingerprint tells the kinds of folds apart, too."""
        found = super().index()
        return found._replace(fingerprint=self._with_folds(found.fingerprint))

    def object_fingerprint(self) -> str:
        """SHA-256 that names classes, instances and the kind of folds."""
        return self._with_folds(super().object_fingerprint())

    def image_path(self, image_id: str) -> Path:
        """``<split><year>/<file>``."""
        return self._find(image_id).path

    def label_paths(self, image_id: str) -> tuple[Path, ...]:
        """The list that holds the image's annotations."""
        found = self._find(image_id)
        return (self.root / "annotations" / f"instances_{found.path.parent.name}.json",)

    def list_path(self, split: str) -> Path:
        """``annotations/instances_<split><year>.json``."""
        return self.root / "annotations" / f"instances_{split}{self.year}.json"

    def settings(self) -> list[object]:
        """The year of the lists."""
        return [self.year]

    def _with_folds(self, fingerprint: str) -> str:
        return hashlib.sha256(f"{fingerprint} {self.folds}".encode()).hexdigest()

    def _find(self, image_id: str) -> Listed:
        for split in sorted(self.splits, key=lambda each: each not in self._listed):  # what is read already comes first
            if image_id in self._list(split):
                return self._listed[split][image_id]
        raise FewsegError(f"{self.name} image", repr(image_id), f"an id of {', '.join(self.splits)}", "check the id")

    def _list(self, split: str) -> dict[str, Listed]:
        if split not in self._listed:
            path = self.list_path(split)
            if not path.is_file():
                raise FewsegError(f"{self.name} split", repr(split), f"a list {path}", "restore it, or check the name")
            try:
                self._listed[split] = _read_list(path, self.root / f"{split}{self.year}")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                got = f"a broken list ({type(error).__name__}: {error})"
                raise FewsegError(path, got, "instances of COCO", "restore it from the original data") from None
            if not self._listed[split]:
                raise FewsegError(path, "an empty list", "images of COCO", "restore it from the original data")
        return self._listed[split]


def _read_list(path: Path, images: Path) -> dict[str, Listed]:
    content = json.loads(path.read_bytes())
    categories = sorted((int(c["id"]), str(c["name"])) for c in content["categories"])
    if tuple(name for _, name in categories) != COCO_CLASSES:
        raise ValueError("its categories are not the 80 of COCO")
    class_ids = {own: class_id for class_id, (own, _) in enumerate(categories, 1)}
    annotations: dict[int, list[Annotation]] = {int(image["id"]): [] for image in content["images"]}
    for each in content["annotations"]:
        outline = each["segmentation"]
        if isinstance(
            outline, list
        ):  # arrays take a quarter of the memory of lists; less than three corners hold nothing
            outline = [np.asarray(part, np.float64) for part in outline if len(part) >= 6]
        annotation = Annotation(class_ids[each["category_id"]], bool(each["iscrowd"]), outline)
        annotations[each["image_id"]].append(annotation)
    return {
        Path(image["file_name"]).stem: Listed(
            images / Path(image["file_name"]).name,
            int(image["height"]),
            int(image["width"]),
            tuple(annotations[image["id"]]),
        )
        for image in sorted(content["images"], key=lambda image: int(image["id"]))
    }
