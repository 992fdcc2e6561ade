"""For people with images: every instance of what a few crops show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fewseg.episode import POSITIVE
from fewseg.errors import FewsegError
from fewseg.pictures import Array, Picture, checked_image, checked_network, checked_pair, checked_threshold, resize_of
from fewseg.transforms import channels_first, fit


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
    references: Sequence[Picture | tuple[Picture, Picture]],
    query: Picture,
    threshold: float = 0.5,
    size: int | None = None,
) -> list[Instance]:
    """Finds every instance of the category that the references show, best first.

    Args:
        model: a ``SiameseMaskRCNN`` or ``MaskRCNN`` from ``create_model`` or ``load_model``.
        references: crops (H, W, 3) uint8 RGB of one object each, or pairs of an image and an annotation (H, W) whose
            positive pixels (1) say where the object is: the box around them is cropped out. A method with a fixed list
            of classes reads none.
        query: (H, W, 3) uint8 RGB.
        threshold: scores above it count.
        size: side in pixels of the square canvas on which the network works; None = that of its training, else the
            query's longer side.

    Raises:
        FewsegError: a model that finds no instances, no reference where the model reads them, an annotation without a
            positive pixel, or an image, annotation, size or threshold of another type, shape or value.

    >>> import fewseg
    >>> image = np.zeros((40, 60, 3), np.uint8)
    >>> fewseg.find_instances(fewseg.create_model("SiameseMaskRCNN"), [image[:20, :20]], image, threshold=0.99)
    []
    """
    network: Any = checked_network(model)
    if network.output != "instances":
        remedy = "use segment_image, or create one of them"
        raise FewsegError("model", type(model).__name__, "SiameseMaskRCNN or MaskRCNN", remedy)
    if network.uses_support and not references:
        raise FewsegError("references", "none", "at least one crop", "cut an object out of an image")
    limit = checked_threshold(threshold)
    image = checked_image(query, "query")
    side = size or getattr(model, "image_size", None) or max(image.shape[:2])
    if side < 1:
        raise FewsegError("size", size, "at least 1 pixel", "leave it out, or raise it")
    canvas, _, frame = fit(image, None, (side, side), resize_of(model, None))
    reference_side = getattr(model, "reference_size", None) or max(32, side * 3 // 16)
    square = (reference_side, reference_side)
    pixels, annotations = (
        np.zeros((len(references), 3, *square), np.uint8),
        np.zeros((len(references), *square), np.uint8),
    )
    for n, reference in enumerate(references):
        crop = _crop(reference, f"references[{n}]")
        fitted, annotation, _ = fit(crop, np.full(crop.shape[:2], POSITIVE, np.uint8), square)
        assert fitted is not None
        pixels[n], annotations[n] = fitted.transpose(2, 0, 1), annotation
    device = next(network.parameters()).device
    with torch.inference_mode():
        supports = network.encode_support(torch.from_numpy(pixels)[None].to(device))
        guidance = network.guide(supports, torch.from_numpy(annotations)[None].to(device))
        scene = network.encode_query(torch.from_numpy(channels_first([canvas])).to(device))
        found = network.detect(scene, guidance, (frame,))[0].to("cpu")
    return [
        Instance((x0, y0, x1, y1), mask.numpy(), score, label)
        for (x0, y0, x1, y1), mask, score, label in zip(
            found.boxes.tolist(), found.masks, found.scores.tolist(), found.labels.tolist(), strict=True
        )
        if score > limit
    ]


def _crop(reference: Any, name: str) -> Array:
    """The pixels (h, w, 3) of a reference object."""
    if not isinstance(reference, tuple):
        return checked_image(reference, name)
    if len(reference) != 2:
        raise FewsegError(name, f"{len(reference)} values", "a crop, or an image and its annotation", "pass a pair")
    image, annotation = checked_pair(*reference, name)
    rows, columns = np.nonzero(annotation == POSITIVE)
    if not len(rows):
        raise FewsegError(name, "no positive pixel", "at least one", "annotate the object with 1")
    return image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
