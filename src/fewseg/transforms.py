"""From the files' pixels to the network's canvas: fitting, points and augmentation, for one image at a time.

Dense maps are resized; points are moved as keypoints and drawn into a map at network size, because resizing a map of
single pixels loses many of them. Everything here is numpy and OpenCV; albumentations is imported only by an ``Augment``
that needs it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, overload

import cv2
import numpy as np
import numpy.typing as npt

from fewseg.episode import NEGATIVE, POSITIVE, UNKNOWN, Box, Click, Frame
from fewseg.errors import FewsegError

MEAN_COLOUR = (124, 116, 104)  # of ImageNet, RGB: padding that is near zero once an encoder has normalised it

FitMode = Literal["letterbox", "square"]
Augmentation = Literal["none", "flip", "full"]
Array = npt.NDArray[np.uint8]
Point = tuple[int, int, int]  # row, col, label


@overload
def fit(
    image: Array, label_map: Array | None, size: tuple[int, int], mode: FitMode = "letterbox"
) -> tuple[Array, Array | None, Frame]: ...
@overload
def fit(
    image: None, label_map: Array, size: tuple[int, int], mode: FitMode = "letterbox"
) -> tuple[None, Array, Frame]: ...
def fit(
    image: Array | None, label_map: Array | None, size: tuple[int, int], mode: FitMode = "letterbox"
) -> tuple[Array | None, Array | None, Frame]:
    """Fits an image and its label map into the network's canvas.

    ``letterbox`` keeps the aspect and puts the image in the top left corner, padded with the mean colour and unknown;
    ``square`` stretches it over the whole canvas. What already has its size is returned as it is, not copied.

    Args:
        image: (H, W, 3) uint8, or None where cached features stand in for it.
        label_map: (H, W) uint8, or None; one of the two must be given.
        size: (h, w) of the canvas in pixels.
        mode: ``"letterbox"`` or ``"square"``.

    Returns:
        Image (h, w, 3), map (h, w) and how they lie in the canvas; None for what was not given.

    Raises:
        FewsegError: where shape, dtype, size or mode is none of these.

    >>> image, annotation, frame = fit(np.zeros((50, 100, 3), np.uint8), np.ones((50, 100), np.uint8), (64, 64))
    >>> frame.box, annotation[31, 0], annotation[32, 0], image[63, 0].tolist()
    (Box(top=0, left=0, height=32, width=64), np.uint8(1), np.uint8(255), [124, 116, 104])
    """
    frame = frame_of(_original_size(image, label_map), size, mode)
    if image is not None:
        image = _resize_image(image, frame.box, size)
    if label_map is not None:
        label_map = _resize_map(label_map, frame.box, size)
    return image, label_map, frame


def reference_side(size: int) -> int:
    """Side in pixels of the square for references beside scenes on a canvas of ``size``: as 192 of 1024, 32 at least.

    >>> reference_side(1024), reference_side(96)
    (192, 32)
    """
    return max(32, size * 3 // 16)


def fit_reference(crop: Array, side: int) -> tuple[Array, Array]:
    """A crop of an object as a support: letterboxed on a square, positive all over and unknown in the padding.

    Args:
        crop: (H, W, 3) uint8.
        side: of the square in pixels.

    Returns:
        Image (side, side, 3) and annotation (side, side).

    >>> image, annotation = fit_reference(np.zeros((10, 20, 3), np.uint8), 4)
    >>> annotation.tolist()
    [[1, 1, 1, 1], [1, 1, 1, 1], [255, 255, 255, 255], [255, 255, 255, 255]]
    """
    image, annotation, _ = fit(crop, np.full(crop.shape[:2], POSITIVE, np.uint8), (side, side))
    assert image is not None
    assert annotation is not None
    return image, annotation


def frame_of(original: tuple[int, int], size: tuple[int, int], mode: FitMode = "letterbox") -> Frame:
    """How ``fit`` puts an image of ``original`` (H, W) into a canvas of ``size`` (h, w), without any pixels.

    Raises:
        FewsegError: where the mode is unknown or a side is below 1.

    >>> frame_of((50, 100), (64, 64)).box
    Box(top=0, left=0, height=32, width=64)
    """
    if min(*original, *size) < 1:
        raise FewsegError("size", f"{original} in {size}", "sides of at least 1 pixel", "pass a larger canvas or image")
    if mode == "square":
        return Frame(original, size, Box(0, 0, *size))
    if mode == "letterbox":
        scale = min(size[0] / original[0], size[1] / original[1])
        height, width = (min(max(round(n * scale), 1), most) for n, most in zip(original, size, strict=True))
        return Frame(original, size, Box(0, 0, height, width))
    raise FewsegError("mode", repr(mode), " or ".join(map(repr, get_args(FitMode))), "choose one of them")


def _original_size(image: Array | None, label_map: Array | None) -> tuple[int, int]:
    """(H, W) of an image and its map, checked."""
    if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0):
        raise FewsegError("image", f"{image.dtype} {image.shape}", "uint8 (H, W, 3)", "pass RGB pixels")
    if label_map is not None and (label_map.dtype != np.uint8 or label_map.ndim != 2 or label_map.size == 0):
        raise FewsegError("label_map", f"{label_map.dtype} {label_map.shape}", "uint8 (H, W)", "pass one label a pixel")
    sizes = {array.shape[:2] for array in (image, label_map) if array is not None}
    if len(sizes) != 1:
        got = " and ".join(map(str, sizes)) or "neither"
        raise FewsegError("image and label_map", got, "one size", "pass an image, its own map, or both")
    height, width = sizes.pop()
    return height, width


def _resize_image(image: Array, box: Box, size: tuple[int, int]) -> Array:
    """The image on its box, mean colour around it."""
    target = box.height, box.width
    if target != image.shape[:2]:
        # Linear takes two thirds of the time of area and aliases only where it skips pixels.
        skips = image.shape[0] > 2 * box.height or image.shape[1] > 2 * box.width
        if image is not None:
            image = cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA if skips else cv2.INTER_LINEAR)
    return _pad(image, size, MEAN_COLOUR)


def _resize_map(label_map: Array, box: Box, size: tuple[int, int]) -> Array:
    """The label map on its box, unknown around it."""
    target = box.height, box.width
    if target != label_map.shape:  # the exact variant samples at pixel centres, as linear resizing of the image does
        label_map = cv2.resize(label_map, target[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return _pad(label_map, size, UNKNOWN)


def _pad(array: Array, size: tuple[int, int], value: Any) -> Array:
    """The array in the top left corner of a canvas; the array itself where it fills it."""
    below, right = size[0] - array.shape[0], size[1] - array.shape[1]
    if not (below or right):
        return array
    padded: Array = cv2.copyMakeBorder(array, 0, below, 0, right, cv2.BORDER_CONSTANT, value=value)
    return padded


def move_points(points: Sequence[Point], frame: Frame) -> tuple[Click, ...]:
    """Moves points (row, col, label) from original resolution to the network's canvas.

    >>> move_points([(99, 0, 1)], Frame((100, 200), (64, 64), Box(0, 0, 32, 64)))
    (Click(row=31, col=0, label=1),)
    """
    return tuple(Click(*frame.to_network(row, col), label) for row, col, label in points)


def draw_points(points: Sequence[Point], size: tuple[int, int]) -> Array:
    """An annotation map (h, w) uint8 that knows only the given points; where two share a cell, positive wins.

    Args:
        points: (row, col, label) in the canvas, label 0 or 1.
        size: (h, w) of the canvas.

    Raises:
        FewsegError: where a point lies outside the canvas or has another label.

    >>> draw_points([(0, 1, 1), (0, 1, 0), (1, 0, 0)], (2, 2)).tolist()
    [[255, 1], [0, 255]]
    """
    canvas = np.full(size, UNKNOWN, np.uint8)
    for row, col, label in sorted(points, key=lambda point: point[2]):
        if label not in (NEGATIVE, POSITIVE) or not (0 <= row < size[0] and 0 <= col < size[1]):
            expected = f"label 0 or 1 inside a canvas of {size}"
            raise FewsegError("points", (row, col, label), expected, "move points with the frame of their image")
        canvas[row, col] = label
    return canvas


def points_to_map(points: Sequence[Point], frame: Frame) -> Array:
    """Points at original resolution as an annotation map (h, w) uint8 at network size, 255 elsewhere.

    >>> points_to_map([(3, 3, 1)], Frame((4, 4), (2, 2), Box(0, 0, 2, 2))).tolist()
    [[255, 255], [255, 1]]
    """
    return draw_points(move_points(points, frame), frame.network)


def crop_around(image: Array, label_map: Array, inside: npt.NDArray[np.bool_], seed: int) -> tuple[Array, Array]:
    """A random crop of an image and its map that shows an object whole, next to its surroundings.

    After the code of the guided networks (shelhamer/revolver df5b72b), whose lengths are meant for images of about 500
    pixels and are multiplied by (longer side / 500): the image is padded by 32 pixels, the sides of the object's box
    move outwards by 0 to 64 pixels each, and a crop that has fewer than 64 pixels then is widened to them.

    Args:
        image: (H, W, 3) uint8.
        label_map: (H, W) uint8, unknown (255) in the padding.
        inside: (H, W) bool, the pixels of the object; at least one.
        seed: any integer.

    Returns:
        Image (h, w, 3) and map (h, w).

    >>> image, label_map = np.zeros((500, 400, 3), np.uint8), np.zeros((500, 400), np.uint8)
    >>> label_map[200:300, 200:300] = 1
    >>> crop, annotation = crop_around(image, label_map, label_map == 1, seed=0)
    >>> crop.shape, int(annotation.sum())
    ((191, 173, 3), 10000)
    """
    unit = max(label_map.shape) / 500
    pad, reach, least = round(32 * unit), round(64 * unit), round(64 * unit)
    draws = np.random.RandomState(seed % 2**32)
    spans = []
    for axis, length in enumerate(label_map.shape):
        there = np.flatnonzero(inside.any(1 - axis)) + pad
        before, after = draws.randint(0, reach + 1, 2)
        first, last = max(there[0] - before, 0), min(there[-1] + 1 + after, length + 2 * pad)
        if last - first < least:  # somewhere around what it shows already
            first -= draws.randint(0, least - (last - first) + 1)
            first = min(max(first, 0), length + 2 * pad - least)
            last = first + least
        spans.append(slice(first, last))
    image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=MEAN_COLOUR)
    label_map = cv2.copyMakeBorder(label_map, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=UNKNOWN)
    return np.ascontiguousarray(image[spans[0], spans[1]]), np.ascontiguousarray(label_map[spans[0], spans[1]])


def channels_first(images: Sequence[Array], out: Array | None = None) -> Array:
    """Stacks images (h, w, 3) of one size into (n, 3, h, w) uint8, contiguous; into ``out`` where it is given.

    Ten times as quick as stacking and transposing: every channel is written once, straight to its place.

    >>> channels_first([np.zeros((4, 6, 3), np.uint8)] * 2).shape
    (2, 3, 4, 6)
    """
    height, width, channels = images[0].shape
    stacked = np.empty((len(images), channels, height, width), np.uint8) if out is None else out
    for image, planes in zip(images, stacked, strict=True):
        if image.shape != images[0].shape:
            raise FewsegError("images", image.shape, f"{images[0].shape}, as the first", "fit them into one canvas")
        cv2.split(image, list(planes))
    return stacked


class Augmented(NamedTuple):
    """What ``Augment`` returns: image (h, w, 3), map (h, w), points inside the canvas, and whether it is mirrored."""

    image: Array | None
    label_map: Array | None
    points: tuple[Click, ...]
    flipped: bool


class Augment:
    """Augments an image at network size jointly with its map and points, as a pure function of a seed.

    ``flip`` mirrors every second image. ``full`` also scales (0.75 to 1.33), rotates (15 degrees), shifts (a tenth of
    the canvas) and changes brightness, contrast and saturation; there an image that would lose its last positive
    pixel or point is only mirrored, so that a support never becomes empty. The canvas is mirrored whole: its
    padding changes sides, and a ``Frame`` describes the image only where ``flipped`` is False and the kind not
    ``full``.

    Args:
        kind: ``"none"``, ``"flip"`` or ``"full"``.

    Raises:
        FewsegError: for another kind.

    >>> augment = Augment("flip")
    >>> seed = next(s for s in range(99) if augment.flipped(s))
    >>> augment(np.zeros((2, 3, 3), np.uint8), np.array([[0, 1, 2]] * 2, np.uint8), [(1, 0, 1)], seed)[1:]
    (array([[2, 1, 0], [2, 1, 0]], dtype=uint8), (Click(row=1, col=2, label=1),), True)
    """

    def __init__(self, kind: Augmentation = "none") -> None:
        if kind not in get_args(Augmentation):
            raise FewsegError("augmentation", repr(kind), '"none", "flip" or "full"', "choose one of them")
        self.kind = kind
        self._pipelines = _full() if kind == "full" else None

    def flipped(self, seed: int) -> bool:
        """Whether the image with this seed is mirrored, without touching it: what a cache of features asks for."""
        return self.kind != "none" and random.Random(seed).random() < 0.5

    def __call__(self, image: Array | None, label_map: Array | None, points: Sequence[Point], seed: int) -> Augmented:
        """The augmented image, map and points; inputs are not written to, and may be returned as they are.

        Args:
            image: (h, w, 3) uint8, as ``fit`` returned it; None with a feature cache, which ``full`` refuses.
            label_map: (h, w) uint8 annotation or query mask, or None; one of the two must be given.
            points: (row, col, label) in the canvas, as ``move_points`` returned them.
            seed: not negative; give every image of an episode its own.
        """
        moved = tuple(Click(*point) for point in points)
        if self.kind == "none":
            return Augmented(image, label_map, moved, False)
        draws = random.Random(seed)
        flipped = draws.random() < 0.5  # the first draw, as in flipped()
        plain = _mirrored(image, label_map, moved) if flipped else Augmented(image, label_map, moved, False)
        if self._pipelines is None:
            return plain
        generator = np.random.default_rng(seed)
        for pipeline in self._pipelines:  # set_random_seed would start every transform from the same draws
            pipeline.set_random_state(generator, draws)
        full = _apply(*self._pipelines, plain)
        return plain if _guides(plain) and not _guides(full) else full


def _mirrored(image: Array | None, label_map: Array | None, points: Sequence[Click]) -> Augmented:
    """Left and right exchanged, by cv2.flip: twenty times as quick as copying ``image[:, ::-1]``."""
    _, width = _original_size(image, label_map)
    return Augmented(
        None if image is None else cv2.flip(image, 1),
        None if label_map is None else cv2.flip(label_map, 1),
        tuple(Click(row, width - 1 - col, label) for row, col, label in points),
        True,
    )


def _full() -> tuple[Any, Any]:
    """The albumentations pipelines of ``full``, colour and geometry; mirroring is done before, the way of ``flip``."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version
    import albumentations as A

    jitter = A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(0, 0), p=0.5)
    affine = A.Affine(
        scale=(0.75, 1.33),
        balanced_scale=True,  # enlarging as often as shrinking
        keep_ratio=True,
        rotate=(-15, 15),
        translate_percent=(-0.1, 0.1),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        fill=(*MEAN_COLOUR, 0),
        fill_mask=UNKNOWN,
        p=0.8,
    )
    points = A.KeypointParams(format="xy", remove_invisible=True)
    return A.Compose([jitter]), A.Compose([affine], keypoint_params=points)


def _apply(colour: Any, geometry: Any, sample: Augmented) -> Augmented:
    """Runs both pipelines on an image, its map and its points as keypoints (x, y, label)."""
    if sample.image is None:
        raise FewsegError("augmentation", "'full'", '"none" or "flip" without an image', "do not cache features")
    height, width = sample.image.shape[:2]
    # OpenCV warps four channels in less than half the time of three.
    image = cv2.cvtColor(colour(image=sample.image)["image"], cv2.COLOR_RGB2RGBA)
    targets = {"image": image} if sample.label_map is None else {"image": image, "mask": sample.label_map}
    keypoints = np.array([(col, row, label) for row, col, label in sample.points], np.float32).reshape(-1, 3)
    out = geometry(**targets, keypoints=keypoints)
    moved = (Click(round(y), round(x), int(label)) for x, y, label in out["keypoints"].tolist())
    inside = tuple(point for point in moved if point.row < height and point.col < width)  # not rounded over the edge
    return Augmented(cv2.cvtColor(out["image"], cv2.COLOR_RGBA2RGB), out.get("mask"), inside, sample.flipped)


def _guides(sample: Augmented) -> bool:
    """Whether anything in the sample is positive."""
    if any(point.label == POSITIVE for point in sample.points):
        return True
    return sample.label_map is not None and bool((sample.label_map == POSITIVE).any())
