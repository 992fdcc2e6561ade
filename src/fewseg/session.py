"""For people with images: annotated images in, masks out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fewseg.errors import FewsegError
from fewseg.functional.geometry import restore
from fewseg.network import SegmentorNetwork
from fewseg.transforms import FitMode, fit, points_to_map

if TYPE_CHECKING:
    Picture = npt.NDArray[np.uint8] | Image.Image

SPARSE = 0.05  # share of known pixels under which an annotation is moved as points, not resized


def segment_image(
    model: Any, supports: Sequence[tuple[Picture, Picture]], query: Picture, size: int | None = None
) -> npt.NDArray[np.uint8]:
    """Segments a query image after a few annotated ones.

    Args:
        model: from ``create_model`` or ``load_model``.
        supports: pairs of an image (H, W, 3) uint8 RGB and its annotation (H, W): 0 negative, 1 positive, 255 unknown.
        query: (H, W, 3) uint8 RGB.
        size: side in pixels of the square canvas on which the network works; None = that of its training, else the
            query's longer side. Images keep their proportions on it, unless the training stretched them.

    Returns:
        (H, W) uint8 mask of the query, 0 or 1, at its original size.

    Raises:
        FewsegError: no support or too many for the model, a size below 1, or an image or annotation of another type,
            shape or value.

    >>> import fewseg
    >>> image = np.zeros((20, 30, 3), np.uint8)
    >>> fewseg.segment_image(fewseg.create_model("PANet"), [(image, image[..., 0])], image).shape
    (20, 30)
    """
    network: SegmentorNetwork = model.network
    if not supports:
        raise FewsegError("supports", "none", "at least one (image, annotation) pair", "annotate an image")
    if network.max_shot is not None and len(supports) > network.max_shot:
        expected = f"at most {network.max_shot} for {type(model).__name__}"
        raise FewsegError("supports", f"{len(supports)} pairs", expected, "pass fewer")
    if size is not None and size < 1:
        raise FewsegError("size", size, "at least 1 pixel, or None", "leave it out")
    query = _image(query, "query")
    pairs = [(_image(i, f"supports[{n}][0]"), _annotation(a, f"supports[{n}][1]")) for n, (i, a) in enumerate(supports)]
    for n, (image, annotation) in enumerate(pairs):
        if image.shape[:2] != annotation.shape:
            expected = f"the image's {image.shape[:2]}"
            raise FewsegError(f"supports[{n}][1]", annotation.shape, expected, "pass the annotation of that image")
    side = size or getattr(model, "image_size", None) or max(query.shape[:2])
    canvas = (max(side, network.min_size),) * 2
    mode: FitMode = getattr(model, "image_resize", None) or "letterbox"
    device = next(iter(network.parameters()), torch.zeros(0)).device
    fitted = [_fit_support(image, annotation, canvas, mode) for image, annotation in pairs]
    images = torch.from_numpy(np.stack([image for image, _ in fitted])).permute(0, 3, 1, 2)[None].to(device)
    annotations = torch.from_numpy(np.stack([annotation for _, annotation in fitted]))[None].to(device)
    pixels, _, frame = fit(query, None, canvas, mode)
    with torch.inference_mode():
        guidance = network.guide(network.encode_support(images), annotations)
        features = network.encode_query(torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device))
        logits = network.segment(features, guidance)[0]
    mask: npt.NDArray[np.uint8] = restore(logits, frame).argmax(0).to(torch.uint8).cpu().numpy()
    return mask


def _fit_support(
    image: npt.NDArray[np.uint8], annotation: npt.NDArray[np.uint8], canvas: tuple[int, int], mode: FitMode
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Image and annotation at network size; the pixels of a sparse annotation survive as points."""
    pixels, dense, frame = fit(image, annotation, canvas, mode)
    known = annotation != 255
    if known.mean() < SPARSE:
        rows, cols = np.nonzero(known)
        points = [(int(r), int(c), int(annotation[r, c])) for r, c in zip(rows, cols, strict=True)]
        return pixels, points_to_map(points, frame)
    assert dense is not None
    return pixels, dense


def _image(value: Any, name: str) -> npt.NDArray[np.uint8]:
    array = np.asarray(value.convert("RGB") if isinstance(value, Image.Image) else value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise FewsegError(name, f"{array.dtype} {array.shape}", "uint8 (H, W, 3) RGB", "convert the image")
    return array


def _annotation(value: Any, name: str) -> npt.NDArray[np.uint8]:
    array = np.asarray(value)
    if array.ndim != 2 or array.size == 0:
        raise FewsegError(name, array.shape, "(H, W)", "pass one annotation map per image")
    array = array.astype(np.uint8) if array.dtype == bool else array
    strangers = sorted({int(v) for v in np.unique(array)} - {0, 1, 255})[:5]
    if strangers or array.dtype != np.uint8:
        raise FewsegError(
            name, f"{array.dtype} with values {strangers}", "uint8 of 0, 1 and 255 (unknown)", "recode the annotation"
        )
    return array
