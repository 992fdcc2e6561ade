"""For people with images: every instance of what a few crops show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fewseg.episode import POSITIVE
from fewseg.errors import FewsegError
from fewseg.pictures import (
    Array,
    Picture,
    checked_image,
    checked_network,
    checked_pair,
    checked_threshold,
    resize_of,
    whole,
)
from fewseg.transforms import channels_first, fit, fit_reference, reference_side


class Instance(NamedTuple):
    """One instance that was found.

    Args:
        box: x0, y0, x1, y1 in pixels of the query.
        mask: (H, W) uint8, 0 or 1, of the query's size.
        score: in [0, 1].
        label: 1, or the class id where the method has a fixed list of classes.
    """

    box: tuple[float, float, float, float]
    mask: npt.NDArray[np.uint8]
    score: float
    label: int


def find_instances(
    model: Any,
    references: Sequence[Picture | Sequence[Picture]],
    query: Picture,
    threshold: float = 0.5,
    size: int | None = None,
) -> list[Instance]:
    """Finds every instance of the category that the references show, best first.

    Args:
        model: a ``SiameseMaskRCNN`` or ``MaskRCNN`` from ``create_model`` or ``load_model``.
        references: a list of crops (H, W, 3) uint8 RGB of one object each, or of pairs of an image and an annotation
            (H, W) whose positive pixels (1) say where the object is: the box around them is cropped out. A method with
            a fixed list of classes reads none.
        query: (H, W, 3) uint8 RGB.
        threshold: scores above it count.
        size: side in pixels of the square canvas on which the network works; None = that of its training, else the
            query's longer side.

    Raises:
        FewsegError: a model that finds no instances, references outside a list, no reference where the model reads
            them, an annotation without a positive pixel, or an image, annotation, size or threshold of another type,
            shape or value.

    >>> import fewseg
    >>> image = np.zeros((40, 60, 3), np.uint8)
    >>> fewseg.find_instances(fewseg.create_model("SiameseMaskRCNN"), [image[:20, :20]], image, threshold=0.99)
    []
    """
    network: Any = checked_network(model)
    if network.output != "instances":
        remedy = "use segment_image, or create one of them"
        raise FewsegError("model", type(model).__name__, "SiameseMaskRCNN or MaskRCNN", remedy)
    crops = _crops(references, network.uses_support)
    limit = checked_threshold(threshold)
    image = checked_image(query, "query")
    side = _side(model, image, size)
    canvas, _, frame = fit(image, None, (side, side), resize_of(model, None))
    pixels, annotations = _supports(crops, getattr(model, "reference_size", None) or reference_side(side))
    device = next(network.parameters()).device
    with torch.inference_mode():
        supports = network.encode_support(torch.from_numpy(pixels)[None].to(device))
        guidance = network.guide(supports, torch.from_numpy(annotations)[None].to(device))
        scene = network.encode_query(torch.from_numpy(channels_first([canvas])).to(device))
        found = network.detect(scene, guidance, (frame,), threshold=limit)[0].to("cpu")
    numbers = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [
        Instance((x0, y0, x1, y1), mask.numpy(), score, label)
        for ((x0, y0, x1, y1), score, label), mask in zip(numbers, found.masks, strict=True)
    ]


def _crops(references: Any, needed: bool) -> list[Array]:
    """The pixels (h, w, 3) of every reference; none where a method reads none."""
    if not isinstance(references, list | tuple):
        expected, remedy = "a list of crops", "put it in a list: [crop] or [(image, annotation)]"
        raise FewsegError("references", _kind(references), expected, remedy)
    if _looks_like_a_pair(references):
        expected = "a list of crops or of pairs"
        remedy = "put the pair in a list: [(image, annotation)], or convert grey crops to RGB"
        raise FewsegError("references", "an image and its annotation", expected, remedy)
    if needed and not references:
        raise FewsegError("references", "none", "at least one crop", "cut an object out of an image")
    return [_crop(reference, f"references[{n}]") for n, reference in enumerate(references)] if needed else []


def _kind(value: Any) -> str:
    """An array with its shape, anything else by its type."""
    return f"an array {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _looks_like_a_pair(references: Sequence[Any]) -> bool:
    """Whether these are not two crops but the image and the annotation of one: as large, and the second one flat."""
    if len(references) != 2 or not all(isinstance(one, np.ndarray | Image.Image) for one in references):
        return False
    image, annotation = (np.shape(one) for one in references)
    return len(image) == 3 and annotation == image[:2]


def _crop(reference: Any, name: str) -> Array:
    """The pixels (h, w, 3) of a reference object."""
    if isinstance(reference, np.ndarray | Image.Image):
        return checked_image(reference, name)
    expected, remedy = "a crop, or an image and its annotation", "pass pixels, or a pair (image, annotation)"
    if not isinstance(reference, list | tuple):
        raise FewsegError(name, _kind(reference), expected, remedy)
    if len(reference) != 2:
        raise FewsegError(name, f"{len(reference)} values", expected, remedy)
    image, annotation = checked_pair(reference[0], reference[1], name)
    rows, columns = np.nonzero(annotation == POSITIVE)
    if not len(rows):
        raise FewsegError(name, "no positive pixel", "at least one", "annotate the object with 1")
    return image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _side(model: Any, image: Array, size: Any) -> int:
    """Side in pixels of the canvas: as asked for, else as in the training, else the image's longer side."""
    if size is not None and not (whole((size,), 1) and size >= 1):
        raise FewsegError("size", repr(size), "a side of at least 1 pixel, or None", "leave it out")
    return int(size or getattr(model, "image_size", None) or max(image.shape[:2]))


def _supports(crops: Sequence[Array], side: int) -> tuple[Array, Array]:
    """Pixels (K, 3, side, side) and annotations (K, side, side) of the references."""
    pixels, annotations = np.zeros((len(crops), 3, side, side), np.uint8), np.zeros((len(crops), side, side), np.uint8)
    for n, crop in enumerate(crops):
        fitted, annotations[n] = fit_reference(crop, side)
        pixels[n] = fitted.transpose(2, 0, 1)
    return pixels, annotations
