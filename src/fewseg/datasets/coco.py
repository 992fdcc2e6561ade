"""COCO (Lin et al., "Microsoft COCO: Common Objects in Context", 2014) with its classes in four folds.

``Coco20i`` is for episodes of classes. The literature has two COCO-20i: folds of every fourth class (PFENet's split
setting, Siamese Mask R-CNN) and folds of twenty neighbours (PFENet's other setting). ``CocoOneShot`` is for detections:
the splits S1 to S4 of Michaelis et al., "One-Shot Instance Segmentation" (2018), section 3 and table 3. Classes are
numbered 1 to 80 in the order of COCO's ids, which have gaps.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pycocotools.mask
from tqdm import tqdm

from fewseg.datasets.base import AnnotatedInstance, Image, Index, LabelMap, ObjectEntry, ObjectIndex
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
N_SPLITS = 4
HELD_OUT, N_HELD_OUT = "held_out", 3000  # the split of training images that do not train, and how many the paper has
FAR = 100_000  # pixels; whatever lies farther out is no coordinate of an image, and would take minutes to draw
BROKEN = (ValueError, KeyError, TypeError, AttributeError, OverflowError)  # what values of a wrong type or size raise
Polygons = list[npt.NDArray[np.float64]]  # x, y, x, y, ... of each part
Box = tuple[float, float, float, float]  # x, y, width, height


class Annotation(NamedTuple):
    """One annotated object, or crowd, of an image.

    Args:
        class_id: from 1 on.
        crowd: whether it is a group that nobody told apart.
        outline: polygons, or a run-length code of COCO with ``counts`` and ``size``.
        box: x, y, width and height in pixels as the list says, or None where it does not.
        number: COCO's id of the annotation.
    """

    class_id: int
    crowd: bool
    outline: Polygons | dict[str, Any]
    box: Box | None = None
    number: int = 0


class Listed(NamedTuple):
    """An image of a list of COCO: file, size in pixels, COCO's id, and annotations in the order of the list."""

    path: Path
    height: int
    width: int
    number: int
    annotations: tuple[Annotation, ...]


class CocoList(NamedTuple):
    """A whole list: image id -> image, in the order of COCO's ids, and COCO's id of each class, class 1 first."""

    images: dict[str, Listed]
    categories: tuple[int, ...]


class _Record(NamedTuple):
    """An annotation as it stands in the list."""

    number: int
    image: int
    category: int
    crowd: bool
    outline: Polygons | dict[str, Any]
    box: Box | None


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
        mask = outline_mask(annotation.outline, height, width)
        if annotation.crowd:
            label[mask], objects[mask] = VOID, VOID
        else:
            drawn.append((-int(mask.sum()), len(drawn) + 1, annotation.class_id, mask))
    if len(drawn) >= VOID:
        raise ValueError(f"{len(drawn)} objects in an image")
    for _, number, class_id, mask in sorted(drawn, key=lambda item: item[:2]):
        label[mask], objects[mask] = class_id, number
    return label, objects


def outline_mask(outline: Polygons | dict[str, Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    """The pixels of an outline (H, W), as ``annToMask`` of COCO's own tools draws them; none without polygons.

    Raises:
        ValueError: the outline cannot be drawn.

    >>> outline_mask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3).astype(int)
    array([[0, 1, 0],
           [1, 0, 0]])
    """
    runs = _runs(outline, height, width)
    return np.zeros((height, width), bool) if runs is None else np.asarray(pycocotools.mask.decode(runs)).astype(bool)


def outline_area(outline: Polygons | dict[str, Any], height: int, width: int) -> int:
    """How many pixels ``outline_mask`` has, without drawing it.

    >>> outline_area({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
    2
    """
    runs = _runs(outline, height, width)
    return 0 if runs is None else int(pycocotools.mask.area(runs))


def outline_box(outline: Polygons | dict[str, Any], height: int, width: int) -> Box:
    """x, y, width and height of an outline: those of its corners, or of its pixels where it is a run-length code.

    An outline without pixels has the box (0, 0, 0, 0).

    >>> outline_box([np.float64([1, 2.5, 4, 2.5, 4, 3])], 9, 9)
    (1.0, 2.5, 3.0, 0.5)
    """
    if isinstance(outline, list):
        if not outline:
            return 0.0, 0.0, 0.0, 0.0
        corners = np.concatenate(outline).reshape(-1, 2)
        (left, top), (right, bottom) = corners.min(0), corners.max(0)
        return float(left), float(top), float(right - left), float(bottom - top)
    x, y, w, h = (float(side) for side in pycocotools.mask.toBbox(_runs(outline, height, width)))
    return x, y, w, h


def box_pixels(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of an image that a box touches, at least one of each.

    What reaches beyond the image is cut off; a box outside of it gives the pixels of the border that are next to it.

    Args:
        box: x, y, width and height in pixels.
        height: of the image in pixels.
        width: of the image in pixels.

    >>> box_pixels((1.5, 0.0, 2.0, 9.0), 5, 8)
    (slice(0, 5, None), slice(1, 4, None))
    >>> box_pixels((8.0, 5.0, 0.0, 0.0), 5, 8)
    (slice(4, 5, None), slice(7, 8, None))
    """
    x, y, w, h = box
    return _touched(y, h, height), _touched(x, w, width)


def _touched(first: float, length: float, size: int) -> slice:
    start = min(max(math.floor(first), 0), size - 1)
    stop = min(math.ceil(first + length), size)
    return slice(start, max(stop, start + 1))


def run_lengths(packed: str) -> list[int]:
    """The numbers in a compressed run-length code of COCO: how many pixels are outside, inside, outside, ...

    Each number is written in groups of five bits, the lowest first, one character from 48 on for each. The bit above
    them says that another group follows, and the highest bit of the last group is the sign. From the fourth number on,
    the difference to the number two before is written.

    Raises:
        ValueError: a character is none of COCO's, or the last number has no end.

    >>> run_lengths("41;")
    [4, 1, 11]
    """
    lengths: list[int] = []
    value, shift = 0, 0
    for character in packed:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"an RLE with {character!r}")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("an RLE without end")
    return lengths


def _runs(outline: Polygons | dict[str, Any], height: int, width: int) -> Any:
    """The run-length code of an outline as COCO's tools take it; None where there is nothing.

    What their C code would take for granted is checked here: a code that is too short makes it read stray memory.
    """
    if isinstance(outline, list):
        if not outline:
            return None
        if not all(bool((np.abs(part) < FAR).all()) for part in outline):  # also where a coordinate is not a number
            raise ValueError(f"a corner more than {FAR} pixels away")
        return pycocotools.mask.merge(pycocotools.mask.frPyObjects(outline, height, width))
    if list(outline["size"]) != [height, width]:
        raise ValueError(f"a run-length code of size {outline['size']}")
    counts = outline["counts"]
    lengths = np.asarray(run_lengths(counts) if isinstance(counts, str) else counts)
    if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or lengths.min() < 0:
        raise ValueError("an RLE of other than whole numbers from 0 on")
    if int(lengths.sum()) != height * width:
        raise ValueError(f"an RLE of {int(lengths.sum())} pixels")
    return pycocotools.mask.frPyObjects({"size": [height, width], "counts": lengths}, height, width)


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
    n_folds = N_SPLITS

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
        self._listed: dict[str, CocoList] = {}  # by split
        for split in self.splits:
            if not (self.list_path(split).is_file() and (self.root / f"{split}{year}").is_dir()):
                raise FewsegError(
                    "--data.dataset.root",
                    f"{self.root} without {self.list_path(split).relative_to(self.root)} or {split}{year}/",
                    "a COCO tree",
                    "unpack COCO's images and annotations there, or choose another year or other splits",
                )

    def novel_classes(self, fold: int) -> tuple[int, ...]:
        """The class ids that a fold holds out, a quarter of all."""
        if self.folds == "block":
            return super().novel_classes(fold)
        return tuple(range(fold + 1, len(self.class_names) + 1, N_SPLITS))

    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids, the names of the files without suffix, in the order of COCO's numbers."""
        return tuple(self._list(split).images)

    def image(self, image_id: str) -> Image:
        """(H, W, 3) uint8 RGB.

        Raises:
            FewsegError: it is absent or truncated, or not of the size that the list says.
        """
        found = self._find(image_id)
        image = read_image(found.path)
        if image.shape[:2] != (found.height, found.width):
            raise FewsegError(
                found.path,
                f"{image.shape[0]} x {image.shape[1]} pixels",
                f"the list's {found.height} x {found.width} (height x width)",
                "image and list are not a pair: restore both from the original data",
            )
        return image

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
        except BROKEN as error:
            raise self._not_drawn(image_id, error) from None

    def annotations(self, image_id: str) -> tuple[Annotation, ...]:
        """What the list says of an image, in its order, crowds included; nothing is drawn."""
        return self._find(image_id).annotations

    def instances(self, image_id: str) -> tuple[AnnotatedInstance, ...]:
        """All annotations of an image in the order of the list, crowds included, each with its own whole mask (H, W).

        An annotation with an empty outline has a mask without pixels and keeps its box. One without a box gets that of
        its outline.

        Raises:
            FewsegError: an outline cannot be drawn.
        """
        found = self._find(image_id)
        try:
            return tuple(
                AnnotatedInstance(
                    each.class_id,
                    each.crowd,
                    each.box or outline_box(each.outline, found.height, found.width),
                    outline_mask(each.outline, found.height, found.width),
                )
                for each in found.annotations
            )
        except BROKEN as error:
            raise self._not_drawn(image_id, error) from None

    def present(self, image_id: str) -> dict[int, tuple[int, ...]]:
        """Class id -> numbers of its objects in an image, crowds left out, without drawing anything.

        Objects are numbered as in ``draw``. An image that shows crowds only has no class.
        """
        numbers: dict[int, list[int]] = {}
        objects = (each for each in self._find(image_id).annotations if not each.crowd)
        for number, annotation in enumerate(objects, 1):
            numbers.setdefault(annotation.class_id, []).append(number)
        return {class_id: tuple(found) for class_id, found in sorted(numbers.items())}

    def reference(self, image_id: str, number: int) -> Image:
        """The image (h, w, 3) uint8 RGB cropped to the annotated box of an object: ``reference_pixels``.

        Raises:
            FewsegError: there is no such object, or the image cannot be used.
        """
        return self.image(image_id)[self.reference_pixels(image_id, number)].copy()  # lets go of the image

    def reference_pixels(self, image_id: str, number: int) -> tuple[slice, slice]:
        """Rows and columns of the annotated box of an object: ``box_pixels``.

        Args:
            image_id: of the image.
            number: of the object, as ``present`` counts.

        Raises:
            FewsegError: there is no such object.
        """
        found = self._find(image_id)
        objects = [each for each in found.annotations if not each.crowd]
        if not 1 <= number <= len(objects):
            remedy = "draw the episodes of this data set anew"
            raise FewsegError(f"{self.name} {image_id}", f"object {number}", f"one of its {len(objects)}", remedy)
        annotation = objects[number - 1]
        try:
            box = annotation.box or outline_box(annotation.outline, found.height, found.width)
        except BROKEN as error:
            raise self._not_drawn(image_id, error) from None
        return box_pixels(box, found.height, found.width)

    def result_ids(self, image_id: str, class_id: int) -> tuple[int, int]:
        """COCO's own ids of an image and a class, for results in COCO's format.

        Raises:
            FewsegError: there is no such image or class.
        """
        number = self._find(image_id).number
        categories = next(found.categories for found in self._listed.values() if image_id in found.images)
        if not 1 <= class_id <= len(categories):
            raise FewsegError(f"{self.name} class", class_id, f"1 to {len(categories)}", "check the class")
        return number, categories[class_id - 1]

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

    def _not_drawn(self, image_id: str, error: Exception) -> FewsegError:
        remedy = "restore the list from the original data"
        return FewsegError(f"{self.name} {image_id}", _said(error), "outlines inside the image", remedy)

    def _find(self, image_id: str) -> Listed:
        for split in sorted(self.splits, key=lambda each: each not in self._listed):  # what is read already comes first
            found = self._list(split).images.get(image_id)
            if found is not None:
                return found
        raise FewsegError(f"{self.name} image", repr(image_id), f"an id of {', '.join(self.splits)}", "check the id")

    def _list(self, split: str) -> CocoList:
        if split not in self._listed:
            path = self.list_path(split)
            if not path.is_file():
                raise FewsegError(f"{self.name} split", repr(split), f"a list {path}", "restore it, or check the name")
            self._listed[split] = read_list(path, self.root / f"{split}{self.year}", self.class_names)
        return self._listed[split]


class CocoOneShot(Coco20i):
    """COCO for one-shot detection and instance segmentation: fold f is the split S(f + 1) of Siamese Mask R-CNN.

    Fold f holds out every fourth class from f + 1 on (the "one-shot" classes; the others are its "background" classes).
    The last ``n_held_out`` images of the training list, in the order of their ids, do not train: they are the split
    ``held_out``, on which models can be chosen. ``val`` is the test set.

    Areas are those of the outlines, so where objects overlap the pixels count for both, and the fingerprints cover the
    files of the lists. So an index of all of COCO takes a minute instead of most of an hour; episodes that need class
    or object maps are better drawn from ``Coco20i``.

    Args:
        root: the tree; without it ``$FEWSEG_DATA/coco``.
        n_held_out: training images that do not train; 0 for none.
        year: of the lists and image folders.
        splits: the lists to use.
    """

    name = "coco-one-shot"

    def __init__(
        self,
        root: str | None = None,
        n_held_out: int = N_HELD_OUT,
        year: int = 2017,
        splits: tuple[str, ...] = ("train", "val"),
    ) -> None:
        if n_held_out < 0:
            raise FewsegError("--data.dataset.n_held_out", n_held_out, "0 or more", "raise it")
        super().__init__(root, "split", year, splits)
        self.n_held_out = n_held_out
        if n_held_out and "train" in self.splits:
            self.splits = (*self.splits, HELD_OUT)

    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids of ``train`` (without those held out), ``held_out`` or ``val``, in the order of COCO's numbers.

        Raises:
            FewsegError: no image is left for training.
        """
        if split not in ("train", HELD_OUT):
            return super().ids(split)
        every = super().ids("train")
        n_train = len(every) - self.n_held_out
        if n_train < 1:
            raise FewsegError(
                "--data.dataset.n_held_out",
                f"{self.n_held_out} of the {len(every)} images of {self.list_path('train')}",
                "fewer, so that some train",
                f"set n_held_out: {len(every) // 10} for this tree",
            )
        return every[:n_train] if split == "train" else every[n_train:]

    def list_path(self, split: str) -> Path:
        """``annotations/instances_<split><year>.json``; that of ``held_out`` is the list of ``train``."""
        return super().list_path("train" if split == HELD_OUT else split)

    def _list(self, split: str) -> CocoList:
        return super()._list("train" if split == HELD_OUT else split)

    def _scan(self, lists: dict[str, tuple[str, ...]]) -> Index:
        areas: dict[str, dict[int, int]] = {}
        for image_id, found in self.object_index().items():
            areas[image_id] = {}
            for entry in found.values():
                areas[image_id][entry.class_id] = areas[image_id].get(entry.class_id, 0) + entry.area
        return Index(areas, self._digest(lists))

    def _scan_objects(self) -> ObjectIndex:
        lists = self._lists()
        entries: dict[str, dict[int, ObjectEntry]] = {}
        every_id = sorted(set().union(*lists.values()))
        for image_id in tqdm(every_id, desc=f"measuring the objects of {self.name}", delay=2, leave=False):
            found = self._find(image_id)
            objects = (each for each in found.annotations if not each.crowd)
            try:
                sized = {
                    number: ObjectEntry(each.class_id, outline_area(each.outline, found.height, found.width))
                    for number, each in enumerate(objects, 1)
                }
            except BROKEN as error:
                raise self._not_drawn(image_id, error) from None
            entries[image_id] = {number: entry for number, entry in sized.items() if entry.area}
        return ObjectIndex(entries, self._digest(lists))

    def _digest(self, lists: dict[str, tuple[str, ...]]) -> str:
        """SHA-256 over the ids of the splits and the files that list them."""
        digest = hashlib.sha256(json.dumps(lists, sort_keys=True).encode())
        for path in sorted({self.list_path(split) for split in lists}):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def read_list(path: Path, images: Path, class_names: tuple[str, ...]) -> CocoList:
    """Reads ``instances_<split><year>.json``.

    Args:
        path: the list.
        images: the folder that its images lie in.
        class_names: those of its categories, in the order of their ids.

    Raises:
        FewsegError: the list cannot be read, is empty, or has other categories.
    """
    remedy = "restore it from the original data, or mend it there"
    try:
        found = _parse(path, images, class_names)
    except OSError as error:
        raise FewsegError(path, error.strerror or error, "a readable list", remedy) from None
    except (*BROKEN, RecursionError) as error:
        got = f"a broken list ({_said(error)})"
        raise FewsegError(path, got, "instances of COCO", remedy) from None
    if not found.images:
        raise FewsegError(path, "an empty list", "images of COCO", "restore it from the original data")
    return found


def _parse(path: Path, images: Path, class_names: tuple[str, ...]) -> CocoList:
    # records instead of dicts while parsing: the numbers of all outlines of COCO would take gigabytes as Python objects
    content = json.loads(path.read_bytes(), object_hook=_compact)
    categories = sorted((int(each["id"]), str(each["name"])) for each in content["categories"])
    if tuple(name for _, name in categories) != class_names:
        raise ValueError(f"its categories are not the {len(class_names)} of this data set")
    class_ids = {own: class_id for class_id, (own, _) in enumerate(categories, 1)}
    if len(class_ids) < len(categories):
        raise ValueError("two categories of one id")
    annotations: dict[int, list[Annotation]] = {int(image["id"]): [] for image in content["images"]}
    if len(annotations) < len(content["images"]):
        raise ValueError("two images of one id")
    for each in content["annotations"]:
        if not isinstance(each, _Record):
            raise ValueError(f"annotation {each.get('id')} without image_id")
        if each.category not in class_ids:
            raise ValueError(f"annotation {each.number} of the unknown category {each.category}")
        if each.image not in annotations:
            raise ValueError(f"annotation {each.number} of the unknown image {each.image}")
        own = Annotation(class_ids[each.category], each.crowd, each.outline, each.box, each.number)
        annotations[each.image].append(own)
    listed: dict[str, Listed] = {}
    for image in sorted(content["images"], key=lambda image: int(image["id"])):
        number, height, width, file = (
            int(image["id"]),
            int(image["height"]),
            int(image["width"]),
            Path(image["file_name"]),
        )
        if not (0 < height < FAR and 0 < width < FAR) or file.stem in listed:
            raise ValueError(f"image {number} of {height} x {width} pixels, or with the name of another one")
        listed[file.stem] = Listed(images / file.name, height, width, number, tuple(annotations.pop(number)))
    return CocoList(listed, tuple(own for own, _ in categories))


def _compact(found: dict[str, Any]) -> dict[str, Any] | _Record:
    """An object of the list; annotations become records, which take a fraction of the memory."""
    if "image_id" not in found:
        return found
    number = found.get("id")
    outline, box = found.get("segmentation"), found.get("bbox")
    if outline is None:
        raise ValueError(f"annotation {number} without segmentation")
    try:
        if isinstance(outline, list):  # less than three corners hold nothing
            outline = [np.asarray(part, np.float64) for part in outline if len(part) >= 6]
            if any(part.ndim != 1 or part.size % 2 for part in outline):
                raise ValueError("a corner with x alone")
        elif not isinstance(outline, dict):
            raise ValueError("neither polygons nor a run-length code")
        elif isinstance(outline.get("counts"), list):
            outline["counts"] = np.asarray(outline["counts"])
        if box is not None:
            x, y, w, h = map(float, box)
            if not (abs(x) < FAR and abs(y) < FAR and 0 <= w < FAR and 0 <= h < FAR):
                raise ValueError(f"a box {box}")
            box = (x, y, w, h)
        crowd, image, category = bool(found.get("iscrowd", 0)), int(found["image_id"]), int(found["category_id"])
        return _Record(int(found["id"]), image, category, crowd, outline, box)
    except BROKEN as error:
        raise ValueError(f"annotation {number}: {_said(error)}") from None


def _said(error: Exception) -> str:
    """What an error says; only a ValueError says enough without its name."""
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
