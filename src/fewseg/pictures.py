"""What people hand in: models, options, images and annotations, checked; and annotations on the network's canvas."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from fewseg.episode import NEGATIVE, POSITIVE, UNKNOWN, Frame
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import SPARSE
from fewseg.network import SegmentorNetwork
from fewseg.transforms import FitMode, fit, points_to_map

Array = npt.NDArray[np.uint8]
Picture = Array | Image.Image


def checked_network(model: Any) -> SegmentorNetwork:
    """The network of a model.

    Raises:
        FewsegError: it is no model.

    >>> checked_network("PANet")
    Traceback (most recent call last):
    fewseg.errors.FewsegError: model: got str, expected a model; pass what create_model or load_model returns
    """
    network = getattr(model, "network", None)
    if not isinstance(network, SegmentorNetwork):
        remedy = "pass what create_model or load_model returns"
        raise FewsegError("model", type(model).__name__, "a model", remedy)
    return network


def checked_threshold(value: Any) -> float:
    """A threshold on the probability.

    Raises:
        FewsegError: it is no number between 0 and 1.

    >>> checked_threshold(0.5)
    0.5
    """
    if not (isinstance(value, int | float | np.floating) and 0 < value < 1):
        raise FewsegError("threshold", value, "a probability between 0 and 1", "leave it out")
    return float(value)


def resize_of(model: Any, resize: Any) -> FitMode:
    """How images come onto the canvas: as asked for, else as in the training, else in their proportions.

    Args:
        model: whose ``image_resize`` is that of the training.
        resize: what was asked for, or None.

    Raises:
        FewsegError: it is neither ``letterbox`` nor ``square``.

    >>> resize_of(None, None), resize_of(None, "square")
    ('letterbox', 'square')
    """
    if resize not in (None, *get_args(FitMode)):
        raise FewsegError("resize", repr(resize), " or ".join(map(repr, get_args(FitMode))), "or leave it out")
    mode: FitMode = resize or getattr(model, "image_resize", None) or "letterbox"
    return mode


def checked_image(value: Any, name: str) -> Array:
    """An image (H, W, 3) uint8 RGB; pictures of Pillow in another mode are converted.

    Args:
        value: an array or a Pillow picture.
        name: of the argument, for the error.

    Raises:
        FewsegError: it is of another type or shape, or empty.

    >>> checked_image(Image.new("L", (30, 20)), "image").shape
    (20, 30, 3)
    """
    array = np.asarray(value.convert("RGB") if isinstance(value, Image.Image) else value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise FewsegError(name, f"{array.dtype} {array.shape}", "uint8 (H, W, 3) RGB", "convert the image")
    return array


def checked_annotation(value: Any, name: str) -> Array:
    """An annotation map (H, W) uint8: 0 negative, 1 positive, 255 unknown; of a bool map True is positive.

    Raises:
        FewsegError: it is of another type or shape, empty, or holds other values.

    >>> checked_annotation(np.array([[True, False]]), "annotation").tolist()
    [[1, 0]]
    """
    array = _flat(value, name)
    strangers = sorted({int(v) for v in np.unique(array)} - {NEGATIVE, POSITIVE, UNKNOWN})[:5]
    if strangers or array.dtype != np.uint8:
        raise FewsegError(
            name, f"{array.dtype} with values {strangers}", "uint8 of 0, 1 and 255 (unknown)", "recode the annotation"
        )
    return array


def checked_labels(value: Any, name: str) -> Array:
    """A map (H, W) uint8 of any labels; a bool map becomes 0 and 1.

    Raises:
        FewsegError: it is of another type or shape, or empty.

    >>> checked_labels(np.zeros((2, 3), np.uint8), "labels").shape
    (2, 3)
    """
    array = _flat(value, name)
    if array.dtype != np.uint8:
        expected = "uint8: 0 background, numbers of objects, 255 unknown"
        raise FewsegError(name, array.dtype, expected, "recode the map")
    return array


def _flat(value: Any, name: str) -> npt.NDArray[Any]:
    """Two axes, and no bools."""
    array = np.asarray(value)
    if array.ndim != 2 or array.size == 0:
        raise FewsegError(name, array.shape, "(H, W)", "pass one annotation map per image")
    return array.astype(np.uint8) if array.dtype == bool else array


def checked_pair(image: Any, annotation: Any, name: str) -> tuple[Array, Array]:
    """An image and its annotation map.

    Raises:
        FewsegError: one of them is of another type, shape or value, or they differ in size.

    >>> [a.shape for a in checked_pair(np.zeros((2, 3, 3), np.uint8), np.ones((2, 3), np.uint8), "shot")]
    [(2, 3, 3), (2, 3)]
    """
    pixels, labels = checked_image(image, f"{name}[0]"), checked_annotation(annotation, f"{name}[1]")
    if pixels.shape[:2] != labels.shape:
        expected = f"the image's {pixels.shape[:2]}"
        raise FewsegError(f"{name}[1]", labels.shape, expected, "pass the annotation of that image")
    return pixels, labels


def on_canvas(annotation: Array, frame: Frame, mode: FitMode = "letterbox") -> Array:
    """An annotation map (H, W) at network size, (h, w); the pixels of a sparse one survive as points.

    Of a dense one that resizing leaves without a positive pixel, the first one does.

    Args:
        annotation: at original size, 0 negative, 1 positive, 255 unknown.
        frame: how its image lies in the canvas.
        mode: by which the image was put there.

    >>> from fewseg.transforms import frame_of
    >>> annotation = np.full((90, 90), 255, np.uint8)
    >>> annotation[31, 70] = 1  # no pixel that resizing to a ninth would look at
    >>> np.argwhere(on_canvas(annotation, frame_of((90, 90), (10, 10))) == 1).tolist()
    [[3, 7]]
    """
    known = annotation != UNKNOWN
    if known.mean() < SPARSE:
        rows, cols = np.nonzero(known)
        points = [(int(r), int(c), int(annotation[r, c])) for r, c in zip(rows, cols, strict=True)]
        return points_to_map(points, frame)
    fitted = fit(None, annotation, frame.network, mode)[1]
    if not (fitted == POSITIVE).any() and (annotation == POSITIVE).any():
        row, col = np.argwhere(annotation == POSITIVE)[0]
        fitted[frame.to_network(int(row), int(col))] = POSITIVE
    return fitted


def whole(values: Any, count: int) -> bool:
    """Whether these are so many whole numbers.

    >>> whole((3, np.int64(4)), 2), whole((3, 4.0), 2), whole((True, 4), 2)
    (True, False, False)
    """
    return (
        isinstance(values, tuple | list)
        and len(values) == count
        and all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values)
    )
