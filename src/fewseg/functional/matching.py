"""Which detections of an image are right, as COCO's own evaluator decides, and detections as COCO's results JSON.

The matching is that of ``pycocotools.cocoeval.COCOeval`` itself (Lin et al., "Microsoft COCO: Common Objects in
Context", 2014). What it finds becomes integers, from which ``functional.average_precision`` counts without it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pycocotools.mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fewseg.episode import VOID
from fewseg.errors import FewsegError
from fewseg.functional.iou import Void

MOST = 100  # detections of an image and class that COCO's evaluator looks at
IOUS = np.linspace(0.5, 0.95, 10)  # as COCO's evaluator makes them: np.arange is off in the last digit

Runs = dict[str, Any]  # a mask as COCO's compressed run-length code: "size" [H, W] and "counts" bytes


class Detected(NamedTuple):
    """What was found of one class in one image.

    Args:
        boxes: (n, 4) as x, y, width and height in pixels.
        masks: n run-length codes, as from ``encode``.
        scores: (n,).
    """

    boxes: npt.NDArray[np.float64]
    masks: tuple[Runs, ...]
    scores: npt.NDArray[np.float64]


class Truth(NamedTuple):
    """All annotations of one image, whatever their class.

    Args:
        boxes: (m, 4) as x, y, width and height in pixels.
        masks: m run-length codes, as from ``encode``.
        crowd: (m,) where one is a group that nobody told apart: what is found in it counts neither way.
        class_ids: (m,).
    """

    boxes: npt.NDArray[np.float64]
    masks: tuple[Runs, ...]
    crowd: npt.NDArray[np.bool_]
    class_ids: npt.NDArray[np.int64]


class Matches(NamedTuple):
    """What COCO's evaluator says of n detections, in the order in which they were given.

    Bit i of a number is for IoU 0.5 + 0.05 i. A detection is matched to an object, or ignored because it lies in a
    crowd and fits no object, or neither, and then it is wrong.

    Args:
        matched_boxes: (n,) bits, by the IoU of boxes; so are ``ignored_boxes``.
        ignored_boxes: (n,) bits.
        matched_masks: (n,) bits, by the IoU of masks; so are ``ignored_masks``.
        ignored_masks: (n,) bits.
        classes: of each detection the classes, in order, as one of which its box would be matched at IoU 0.5 if all
            detections were said to be of that class.
    """

    matched_boxes: npt.NDArray[np.int64]
    ignored_boxes: npt.NDArray[np.int64]
    matched_masks: npt.NDArray[np.int64]
    ignored_masks: npt.NDArray[np.int64]
    classes: tuple[tuple[int, ...], ...]


def encode(masks: npt.ArrayLike) -> tuple[Runs, ...]:
    """Masks (n, H, W), non-zero is the object, as COCO's compressed run-length codes.

    >>> encode([[[0, 1], [1, 1]]])
    ({'size': [2, 2], 'counts': b'13'},)
    """
    return tuple(pycocotools.mask.encode(np.asfortranarray(mask)) for mask in np.asarray(masks) != 0)


def counts(masks: Sequence[Runs], target: npt.NDArray[np.uint8], void: Void) -> list[tuple[int, int, int, int]]:
    """Pixels (tp, fp, fn, tn) of each mask, as ``iou.confusion_counts`` counts them, without decoding any.

    Args:
        masks: run-length codes, as from ``encode``.
        target: (H, W) uint8: 0, 1, 255 = void.
        void: what void pixels are: left out, background or foreground.

    Raises:
        FewsegError: a mask is not of the target's size.

    >>> counts(encode([[[1, 1, 1, 0]]]), np.array([[1, 0, 255, 1]], np.uint8), "ignore")
    [(1, 1, 1, 0)]
    """
    for mask in masks:
        if tuple(mask["size"]) != target.shape:
            raise FewsegError("masks", f"size {mask['size']}", f"the target's {target.shape}", "bring it to that size")
    positive, negative, is_void = target == 1, target == 0, target == VOID
    if void != "ignore":
        positive, negative = (positive | is_void, negative) if void == "foreground" else (positive, negative | is_void)
    positives, negatives = encode([positive, negative])
    n_positive, n_negative = (int(pycocotools.mask.area(each)) for each in (positives, negatives))
    found = []
    for mask in masks:
        shared = [pycocotools.mask.merge([mask, each], intersect=True) for each in (positives, negatives)]
        tp, fp = (int(pycocotools.mask.area(each)) for each in shared)
        found.append((tp, fp, n_positive - tp, n_negative - fp))
    return found


def union(masks: Sequence[Runs], size: tuple[int, int]) -> Runs:
    """The pixels of any mask; none of an image of (H, W) = ``size`` without masks.

    >>> union(encode([[[0, 1], [0, 0]], [[0, 1], [0, 1]]]), (2, 2)) == encode([[[0, 1], [0, 1]]])[0]
    True
    """
    if not masks:
        return encode(np.zeros((1, *size)))[0]
    merged: Runs = pycocotools.mask.merge(list(masks))
    return merged


def match(detected: Detected, truth: Truth, class_id: int) -> Matches:
    """How COCO's evaluator matches the detections of a class in one image: any area, at most 100 detections.

    Each detection, the best first, takes the object of the class that it overlaps most of those that are left. Equal
    scores keep the order given.

    Args:
        detected: n detections.
        truth: the image's annotations; there may be none, of the class or at all.
        class_id: of the detections.

    Raises:
        FewsegError: there are more detections than the evaluator looks at, or masks differ in size.

    >>> square = encode([[[1, 1, 0, 0]]])
    >>> found = Detected(np.array([[0.0, 0, 2, 1], [0, 0, 3, 1]]), 2 * square, np.array([0.5, 0.9]))
    >>> truth = Truth(np.array([[0.0, 0, 2, 1]]), square, np.array([False]), np.array([7]))
    >>> match(found, truth, 7).matched_boxes.tolist()  # the better one comes first, until its IoU of 2/3 is too low
    [1008, 15]
    >>> match(found, truth, 3).classes
    ((), (7,))
    """
    n = len(detected.scores)
    if n > MOST:
        remedy = "keep those of the highest scores"
        raise FewsegError("detections", f"{n} of class {class_id} in an image", f"at most {MOST}", remedy)
    sizes = {tuple(mask["size"]) for mask in (*detected.masks, *truth.masks)}
    if len(sizes) > 1:  # the evaluator would say nothing and match nothing
        raise FewsegError("masks", f"sizes {sorted(sizes)}", "that of the image", "bring all to the image's size first")
    bits = {kind: _match(detected, truth, [class_id], kind, IOUS)[class_id] for kind in ("bbox", "segm")}
    others = np.unique(truth.class_ids[~truth.crowd]).tolist()
    by_class = _match(detected, truth, others, "bbox", IOUS[:1])
    classes = tuple(tuple(c for c in others if by_class[c][0][i]) for i in range(n))
    return Matches(*bits["bbox"], *bits["segm"], classes)


_Bits = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # matched and ignored


def _match(
    detected: Detected, truth: Truth, classes: Sequence[int], kind: str, ious: npt.NDArray[np.float64]
) -> dict[int, _Bits]:
    """What is matched and ignored if all detections are of one class, for each of some classes."""
    n = len(detected.scores)
    found = {c: (np.zeros(n, np.int64), np.zeros(n, np.int64)) for c in classes}
    if not n:
        return found
    annotations = [
        # any area will do: all areas count
        {"image_id": 1, "category_id": int(c), "bbox": box, "segmentation": mask, "iscrowd": int(crowd), "area": 1.0}
        for box, mask, crowd, c in zip(truth.boxes.tolist(), truth.masks, truth.crowd, truth.class_ids, strict=True)
    ]
    detections = [
        {"image_id": 1, "category_id": c, "bbox": box, "segmentation": mask, "score": score, "area": 1.0}
        for c in classes
        for box, mask, score in zip(detected.boxes.tolist(), detected.masks, detected.scores.tolist(), strict=True)
    ]
    size = detected.masks[0]["size"]
    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        evaluator = COCOeval(_coco(annotations, classes, size), _coco(detections, classes, size), kind)
        evaluator.params.iouThrs = ious
        evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], ["all"]
        evaluator.params.maxDets = [MOST]
        evaluator.evaluate()
    powers = 1 << np.arange(len(ious))
    for one in evaluator.evalImgs:
        place = (np.array(one["dtIds"]) - 1) % n  # they come with the highest score first
        ignored = np.asarray(one["dtIgnore"], bool)
        matched, left_out = found[one["category_id"]]
        matched[place] = powers @ ((one["dtMatches"] > 0) & ~ignored)
        left_out[place] = powers @ ignored
    return found


def _coco(annotations: Iterable[dict[str, Any]], classes: Sequence[int], size: Sequence[int]) -> COCO:
    content = COCO()
    content.dataset = {
        "images": [{"id": 1, "height": size[0], "width": size[1]}],
        "categories": [{"id": c} for c in classes],
        "annotations": [{**one, "id": number} for number, one in enumerate(annotations, 1)],
    }
    content.createIndex()
    return content


def result(image_id: int, category_id: int, detected: Detected) -> list[dict[str, Any]]:
    """The detections as entries of COCO's results JSON, which ``COCO.loadRes`` reads.

    Args:
        image_id: COCO's number of the image.
        category_id: COCO's number of the class.
        detected: n detections.

    Returns:
        n dictionaries of plain data; boxes are rounded to a thousandth of a pixel.

    >>> found = Detected(np.array([[0.0, 0.0, 1.23456, 2.0]]), encode([[[0, 1], [1, 1]]]), np.array([0.75]))
    >>> result(42, 18, found)[0]["bbox"], result(42, 18, found)[0]["segmentation"]
    ([0.0, 0.0, 1.235, 2.0], {'size': [2, 2], 'counts': '13'})
    """
    boxes = np.round(np.asarray(detected.boxes, np.float64).reshape(-1, 4), 3).tolist()
    return [
        {
            "image_id": int(image_id),
            "category_id": int(category_id),
            "bbox": box,
            "segmentation": {"size": [int(side) for side in mask["size"]], "counts": mask["counts"].decode("ascii")},
            "score": float(score),
        }
        for box, mask, score in zip(boxes, detected.masks, detected.scores, strict=True)
    ]
