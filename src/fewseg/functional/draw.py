"""Panels for people: support, query, prediction and truth side by side. NumPy and OpenCV only."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

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
    gap = np.full((height, 4, 3), 255, np.uint8)
    row: list[Image] = []
    for tile in tiles:
        width = max(1, round(tile.shape[1] * height / tile.shape[0]))
        row += [cv2.resize(tile, (width, height), interpolation=cv2.INTER_AREA), gap]
    return np.hstack(row[:-1])
