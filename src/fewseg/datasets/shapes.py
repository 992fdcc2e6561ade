"""Shapes-5i: a generated data set in the VOC layout, so that everything runs without a download.

Twenty classes are the combinations of five shapes and four textures. Class ``5 f + s`` (from 0) has shape ``s`` and
texture ``(s + f) mod 4``: every fold holds out five combinations of attributes that were all seen in training.
Colour, size, rotation and aspect are free, and every image holds distractors of other classes.

Geometry is integer arithmetic and randomness is ``numpy.random.RandomState``, whose stream is guaranteed, so labels are
the same on every platform; JPEG decoders may differ by two grey levels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SHAPES = ("disc", "square", "triangle", "star", "cross")
TEXTURES = ("plain", "striped", "checked", "dotted")
CLASS_NAMES = tuple(f"{TEXTURES[(s + f) % 4]} {SHAPES[s]}" for f in range(4) for s in range(5))
SIZES = ((96, 96), (96, 72), (72, 96))  # (height, width), drawn with weights 2 : 1 : 1
UNIT = 16  # sub-pixel units of the integer geometry

Mask = npt.NDArray[np.bool_]


class Scene(NamedTuple):
    """One generated image (H, W, 3) uint8 RGB with its ``classes`` and ``objects`` (H, W) uint8 in VOC's encoding."""

    image: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    objects: npt.NDArray[np.uint8]


def _unit_polygon(shape: int) -> npt.NDArray[np.float64]:
    """Vertices (n, 2) of a shape of radius 1 around the origin, as (x, y)."""
    if SHAPES[shape] == "disc":
        angles, radii = np.arange(32) * 2 * np.pi / 32, np.full(32, 0.88)
    elif SHAPES[shape] == "square":
        angles, radii = np.arange(4) * np.pi / 2 + np.pi / 4, np.full(4, 1.1)
    elif SHAPES[shape] == "triangle":
        angles, radii = np.arange(3) * 2 * np.pi / 3 - np.pi / 2, np.full(3, 1.2)
    elif SHAPES[shape] == "star":
        angles, radii = np.arange(10) * np.pi / 5 - np.pi / 2, np.tile([1.25, 0.55], 5)
    else:
        arm, x = 0.36, 1.1
        return np.array(
            [(-arm, -x), (arm, -x), (arm, -arm), (x, -arm), (x, arm), (arm, arm)]
            + [(arm, x), (-arm, x), (-arm, arm), (-x, arm), (-x, -arm), (-arm, -arm)]
        )
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def _inside(polygon: npt.NDArray[np.int64], height: int, width: int) -> Mask:
    """Even-odd test of every pixel centre against a polygon in units of 1/16 pixel, in exact integer arithmetic."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64) * UNIT + UNIT // 2
    inside = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        side = (x - x0) * (y1 - y0) - (x1 - x0) * (y - y0)
        inside ^= crosses & ((side < 0) if y1 > y0 else (side > 0))
    return inside


def _texture(texture: int, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> Mask:
    """Where the second colour of a texture lies, in object coordinates ``u, v`` measured in texture periods."""
    if TEXTURES[texture] == "plain":
        return np.zeros(u.shape, bool)
    if TEXTURES[texture] == "striped":
        return np.asarray(u % 1 < 0.5)
    if TEXTURES[texture] == "checked":
        return np.asarray((u % 1 < 0.5) ^ (v % 1 < 0.5))
    return np.asarray((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.085)


def _colours(rng: np.random.RandomState) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two colours whose luminance differs by at least 80 grey levels."""
    while True:
        first, second = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
        if abs(float((first - second) @ (0.299, 0.587, 0.114))) > 80:
            return first, second


def _background(rng: np.random.RandomState, height: int, width: int) -> npt.NDArray[np.float64]:
    """A gradient between two colours under clutter of translucent random polygons."""
    y, x = np.mgrid[0:height, 0:width]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = ((x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle) + 0.7) / 1.4
    start, end = rng.uniform(40, 215, 3), rng.uniform(40, 215, 3)
    canvas = start + ramp[..., None] * (end - start)
    for _ in range(rng.randint(3, 8)):
        centre, radius = rng.uniform(0, (width, height)), rng.uniform(6, 40)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.randint(3, 6)))
        corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        blot = _inside(np.rint(corners * UNIT).astype(np.int64), height, width)
        canvas[blot] += rng.uniform(0.2, 0.6) * (rng.uniform(20, 235, 3) - canvas[blot])
    return np.asarray(canvas)


def render_scene(seed: int) -> Scene:
    """Draws scene number ``seed``: two to four objects of random classes on clutter, later ones over earlier ones.

    Every object keeps at least half of its pixels and 60 pixels visible.

    >>> scene = render_scene(0)
    >>> scene.image.shape == (*scene.classes.shape, 3) and scene.classes.max() <= 20
    True
    """
    rng = np.random.RandomState(seed)
    height, width = SIZES[rng.choice(3, p=(0.5, 0.25, 0.25))]
    canvas = _background(rng, height, width)
    classes, objects = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    full_area: dict[int, int] = {}
    wanted = rng.randint(2, 5)
    for _ in range(60):  # attempts
        if len(full_area) == wanted:
            break
        class_id = int(rng.randint(20))
        fold, shape = divmod(class_id, 5)
        radius, angle, aspect = rng.uniform(13, 25), rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.33)
        centre = rng.uniform(radius * 0.7, (width - radius * 0.7, height - radius * 0.7))
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, sin], [-sin, cos]])
        corners = (_unit_polygon(shape) * radius * (np.sqrt(aspect), 1 / np.sqrt(aspect))) @ rotation + centre
        mask = _inside(np.rint(corners * UNIT).astype(np.int64), height, width)
        first, second = _colours(rng)
        period, phase = rng.uniform(7.0, 10.0), rng.uniform(0, 1, 2)
        visible = {i: int(((objects == i) & ~mask).sum()) for i in full_area}
        if mask.sum() < 120 or any(v < max(60, full_area[i] * 0.5) for i, v in visible.items()):
            continue
        y, x = np.mgrid[0:height, 0:width]
        u, v = ((x - centre[0]) * cos + (y - centre[1]) * sin), (-(x - centre[0]) * sin + (y - centre[1]) * cos)
        pattern = _texture((shape + fold) % 4, u / period + phase[0], v / period + phase[1])
        canvas[mask] = np.where(pattern[mask, None], second, first)
        number = len(full_area) + 1
        classes[mask], objects[mask] = class_id + 1, number
        full_area[number] = int(mask.sum())
    noise = rng.normal(0, 5, canvas.shape)
    return Scene(np.clip(canvas + noise, 0, 255).astype(np.uint8), classes, objects)
