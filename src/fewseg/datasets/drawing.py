"""What the scenes and videos of generated data sets are drawn from: shapes, textures, colours and backgrounds.

Geometry is integer arithmetic and randomness is ``numpy.random.RandomState``, whose stream is guaranteed, so labels are
the same on every platform. A change in here changes what every generated data set draws.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHAPES = ("disc", "square", "triangle", "star", "cross")
TEXTURES = ("plain", "striped", "checked", "dotted")
UNIT = 16  # sub-pixel units of the integer geometry

Mask = npt.NDArray[np.bool_]


def unit_polygon(shape: int) -> npt.NDArray[np.float64]:
    """Vertices (n, 2) of a shape of radius about 1 around the origin, as (x, y).

    Args:
        shape: its place in ``SHAPES``.

    >>> unit_polygon(SHAPES.index("square")).round(2).tolist()
    [[0.78, 0.78], [-0.78, 0.78], [-0.78, -0.78], [0.78, -0.78]]
    """
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


def inside_polygon(polygon: npt.NDArray[np.int64], height: int, width: int) -> Mask:
    """Even-odd test of every pixel centre against a polygon, in exact integer arithmetic.

    Args:
        polygon: (n, 2) vertices as (x, y), in units of 1/16 pixel.
        height: rows of the mask.
        width: columns of the mask.

    >>> inside_polygon(np.array([(0, 0), (32, 0), (32, 16), (0, 16)]), 2, 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.int64) * UNIT + UNIT // 2
    inside = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        side = (x - x0) * (y1 - y0) - (x1 - x0) * (y - y0)
        inside ^= crosses & ((side < 0) if y1 > y0 else (side > 0))
    return inside


def draw_texture(texture: int, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> Mask:
    """Where the second colour of a texture lies.

    Args:
        texture: its place in ``TEXTURES``.
        u: coordinates along the object's first axis, in texture periods.
        v: along the second one; of the same shape as ``u``, and the mask has it too.

    >>> draw_texture(TEXTURES.index("striped"), np.array([0.25, 0.75, 1.25]), np.zeros(3)).tolist()
    [True, False, True]
    """
    if TEXTURES[texture] == "plain":
        return np.zeros(u.shape, bool)
    if TEXTURES[texture] == "striped":
        return np.asarray(u % 1 < 0.5)
    if TEXTURES[texture] == "checked":
        return np.asarray((u % 1 < 0.5) ^ (v % 1 < 0.5))
    return np.asarray((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.085)


def draw_colours(rng: np.random.RandomState) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two colours (3,) RGB in 20 to 235 whose luminance differs by more than 80 grey levels.

    >>> first, second = draw_colours(np.random.RandomState(0))
    >>> bool(abs((first - second) @ (0.299, 0.587, 0.114)) > 80)
    True
    """
    while True:
        first, second = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
        if abs(float((first - second) @ (0.299, 0.587, 0.114))) > 80:
            return first, second


def draw_background(rng: np.random.RandomState, height: int, width: int) -> npt.NDArray[np.float64]:
    """A gradient between two colours under clutter of translucent random polygons: (height, width, 3) RGB, 20 to 235.

    >>> draw_background(np.random.RandomState(0), 2, 3).shape
    (2, 3, 3)
    """
    y, x = np.mgrid[0:height, 0:width]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = ((x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle) + 0.7) / 1.4
    start, end = rng.uniform(40, 215, 3), rng.uniform(40, 215, 3)
    canvas = start + ramp[..., None] * (end - start)
    for _ in range(rng.randint(3, 8)):
        centre, radius = rng.uniform(0, (width, height)), rng.uniform(6, 40)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.randint(3, 6)))
        corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        blot = inside_polygon(np.rint(corners * UNIT).astype(np.int64), height, width)
        canvas[blot] += rng.uniform(0.2, 0.6) * (rng.uniform(20, 235, 3) - canvas[blot])
    return np.asarray(canvas)
