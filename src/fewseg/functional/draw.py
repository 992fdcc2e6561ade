"""Panels for people: support, query, prediction and truth side by side. NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fewseg.episode import POSITIVE, Click

Image = npt.NDArray[np.uint8]
GREEN, RED, ORANGE = (0, 200, 120), (230, 40, 60), (255, 170, 0)


def overlay(image: Image, mask: npt.NDArray[Any], colour: tuple[int, int, int], opacity: float = 0.5) -> Image:
    """The image (H, W, 3) uint8 with ``mask`` (H, W) bool tinted.

    >>> overlay(np.zeros((1, 2, 3), np.uint8), np.array([[True, False]]), (200, 100, 0)).tolist()
    [[[100, 50, 0], [0, 0, 0]]]
    """
    out = image.copy()
    out[mask] = (image[mask] * (1 - opacity) + np.array(colour) * opacity).astype(np.uint8)
    return out


def annotate(image: Image, annotation: Image) -> Image:
    """The support with its annotation (H, W): a dense map is tinted, sparse points are drawn as discs."""
    known = annotation != 255
    if known.mean() > 0.05:
        return overlay(image, annotation == 1, GREEN)
    out = image.copy()
    radius = max(2, min(image.shape[:2]) // 40)
    for row, col in np.argwhere(known):
        colour = GREEN if annotation[row, col] == 1 else RED
        cv2.circle(out, (int(col), int(row)), radius + 1, (255, 255, 255), -1)
        cv2.circle(out, (int(col), int(row)), radius, colour, -1)
    return out


def panel(supports: list[tuple[Image, Image]], query: Image, pred: Image, truth: Image, height: int = 160) -> Image:
    """Supports with annotations, the query, the prediction and the truth in one row of the given height.

    Args:
        supports: pairs of image (H, W, 3) and annotation map (H, W).
        query: (H, W, 3) uint8 RGB.
        pred: (H, W) uint8, 1 = foreground.
        truth: (H, W) uint8, 255 = void.
        height: of the row in pixels.
    """
    tiles = [annotate(image, annotation) for image, annotation in supports]
    tiles += [query, overlay(query, pred == 1, ORANGE), overlay(query, truth == 1, GREEN)]
    return _in_a_row([_scaled(tile, height) for tile in tiles])


def click_panel(
    query: Image,
    clicks: Sequence[Click],
    pred: Image,
    truth: Image,
    supports: Sequence[tuple[Image, Image]] = (),
    height: int = 192,
) -> Image:
    """Supports with annotations, the query and the prediction with the clicks, and the truth, in one row.

    Args:
        query: (H, W, 3) uint8 RGB.
        clicks: in order, in pixels of the query.
        pred: (H, W) uint8 after the last click, 1 = foreground.
        truth: (H, W) uint8, 255 = void.
        supports: pairs of image (H, W, 3) and annotation map (H, W).
        height: of the row in pixels: small images are enlarged before the clicks are drawn.

    Returns:
        (height, w, 3) uint8.
    """
    tiles = [_scaled(annotate(image, annotation), height) for image, annotation in supports]
    for plain in (query, overlay(query, pred == 1, ORANGE)):
        tiles.append(mark_clicks(_scaled(plain, height), clicks, query.shape[:2]))
    return _in_a_row([*tiles, _scaled(overlay(query, truth == 1, GREEN), height)])


def mark_clicks(image: Image, clicks: Sequence[Click], size: tuple[int, ...]) -> Image:
    """An image with a disc on every click, green for positive and red for negative ones, numbered from 1.

    More clicks than the robot makes, such as points drawn at random, are small and without numbers.

    Args:
        image: (h, w, 3) uint8 RGB.
        clicks: in order.
        size: (H, W) of the image that they were made in.
    """
    out = image.copy()
    radius = max(2, min(image.shape[:2]) // (24 if len(clicks) <= _NUMBERED else 80))
    for number, click in enumerate(clicks, 1):
        at = [int((i + 0.5) * n / m) for i, n, m in zip((click.row, click.col), image.shape, size, strict=False)]
        centre = (at[1], at[0])
        cv2.circle(out, centre, radius + 1, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(out, centre, radius, GREEN if click.label == POSITIVE else RED, -1, cv2.LINE_AA)
        if len(clicks) <= _NUMBERED:
            text, face, scale = str(number), cv2.FONT_HERSHEY_SIMPLEX, radius / (20 if number < 10 else 26)
            (width, high), _ = cv2.getTextSize(text, face, scale, 1)
            corner = (centre[0] - width // 2, centre[1] + high // 2)
            cv2.putText(out, text, corner, face, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return out


_NUMBERED = 20  # clicks


def _scaled(image: Image, height: int) -> Image:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    smaller = height <= image.shape[0]
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_NEAREST)
    return np.asarray(scaled, np.uint8)


def _in_a_row(tiles: Sequence[Image]) -> Image:
    gap = np.full((tiles[0].shape[0], 4, 3), 255, np.uint8)
    return np.hstack([part for tile in tiles for part in (tile, gap)][:-1])
