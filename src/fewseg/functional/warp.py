"""Flips, rotations and scalings of images with their annotation maps, on whatever device they are on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE, UNKNOWN
from fewseg.functional.label_maps import SPARSE


class Warp(NamedTuple):
    """Mirrors left and right where ``flip``, then turns by ``angle`` degrees and enlarges by ``scale``, about the
    centre of the image; the size of the image stays.

    A positive angle turns from the columns' axis to the rows', which is clockwise on a screen.
    """

    angle: float = 0.0
    scale: float = 1.0
    flip: bool = False

    @property
    def matrix(self) -> Tensor:
        """(2, 2) float64: where a pixel (column, row), counted from the centre, goes."""
        angle, mirror = math.radians(self.angle), -1.0 if self.flip else 1.0
        cos, sin = self.scale * math.cos(angle), self.scale * math.sin(angle)
        return torch.tensor([[mirror * cos, -sin], [mirror * sin, cos]], dtype=torch.float64)


def draw_warp(generator: torch.Generator, degrees: float = 30.0, scaling: float = 0.25) -> Warp:
    """A warp of one image in two mirrored, within +-``degrees`` and scaled by 1 +- ``scaling``, uniformly.

    Args:
        generator: on the CPU.
        degrees: largest angle.
        scaling: largest distance of the scale from 1.

    >>> draw_warp(torch.Generator().manual_seed(0)) == draw_warp(torch.Generator().manual_seed(0))
    True
    """
    side, turn, size = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    return Warp(degrees * (2 * turn - 1), 1 + scaling * (2 * size - 1), side < 0.5)


def warp_images(images: Tensor, warp: Warp) -> Tensor:
    """Warped images, interpolated bilinearly; what comes from outside is 0, the mean colour of a normalised image.

    Args:
        images: (n, C, H, W) floats.
        warp: the same for all.

    >>> warp_images(torch.tensor([[[[1.0, 2.0, 3.0]]]]), Warp(flip=True))
    tensor([[[[3., 2., 1.]]]])
    """
    height, width = images.shape[-2:]
    places = _sources((height, width), warp, images.device)  # (H, W, 2) columns and rows
    extent = torch.tensor([width, height], dtype=places.dtype, device=places.device)
    grid = ((2 * places + 1) / extent - 1).to(images.dtype)
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)


def warp_annotations(annotations: Tensor, warp: Warp) -> Tensor:
    """Warped annotation maps: the label of the nearest pixel, unknown for what comes from outside.

    Where few pixels are annotated the nearest one is mostly not, and points would be lost. So the pixels of a sparse
    map are also moved as points, into pixels that are unknown otherwise: none is lost unless it leaves the image.

    Args:
        annotations: (n, H, W) uint8: 0 negative, 1 positive, 255 unknown.
        warp: the same for all.

    >>> points = torch.full((1, 3, 4), 255, dtype=torch.uint8)
    >>> points[0, 0, 3] = 1
    >>> warp_annotations(points, Warp(flip=True))[0, 0]
    tensor([  1, 255, 255, 255], dtype=torch.uint8)
    """
    height, width = annotations.shape[-2:]
    columns, rows = _rounded(_sources((height, width), warp, annotations.device)).unbind(-1)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    nearest = annotations[:, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    warped = nearest.where(inside, UNKNOWN)
    if (annotations != UNKNOWN).double().mean() < SPARSE:
        empty = warped == UNKNOWN
        for label in (NEGATIVE, POSITIVE):  # where both come to lie on one pixel, the positive one stays
            warped[_moved(annotations == label, warp) & empty] = label
    return warped


def _moved(chosen: Tensor, warp: Warp) -> Tensor:
    """Bool (n, H, W): the chosen pixels where the warp takes them."""
    moved = torch.zeros_like(chosen)
    height, width = chosen.shape[-2:]
    image, row, column = chosen.nonzero().unbind(1)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64, device=chosen.device)
    places = torch.stack([column, row], 1) - centre  # (points, 2)
    column, row = _rounded(places @ warp.matrix.to(chosen.device).T + centre).unbind(1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    moved[image[inside], row[inside], column[inside]] = True
    return moved


def _sources(size: tuple[int, int], warp: Warp, device: torch.device) -> Tensor:
    """Float64 (H, W, 2): column and row of the place that each pixel of the warped image comes from."""
    height, width = size
    columns = torch.arange(width, dtype=torch.float64, device=device) - (width - 1) / 2
    rows = torch.arange(height, dtype=torch.float64, device=device) - (height - 1) / 2
    targets = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # (H, W, 2)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64, device=device)
    places: Tensor = targets @ torch.linalg.inv(warp.matrix).to(device).T + centre
    return places


def _rounded(places: Tensor) -> Tensor:
    """The nearest pixels; the small term decides ties alike on every device."""
    return torch.floor(places + (0.5 + 1e-9)).to(torch.int64)
