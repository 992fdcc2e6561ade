"""Shapes-video: generated videos in the layout of DAVIS 2017, so that everything runs without a download.

Two or three objects with the shapes and textures of Shapes-5i move, turn, grow, shrink and deform, and hide each other.
A distractor with the shape and texture of one of them, in other colours, is background, and so is the clutter behind
them, over which a camera moves slowly.

As in Shapes-5i, geometry is integer arithmetic and randomness is ``numpy.random.RandomState``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fewseg.datasets.davis import Davis
from fewseg.datasets.drawing import (
    SHAPES,
    TEXTURES,
    UNIT,
    Mask,
    draw_background,
    draw_colours,
    draw_texture,
    inside_polygon,
    unit_polygon,
)
from fewseg.datasets.generated import check_counts, first_seed, generate, share, write_jpeg
from fewseg.datasets.paths import cache_dir, write_atomic
from fewseg.datasets.voc import write_label
from fewseg.errors import FewsegError

HEIGHT, WIDTH = 96, 128
MARGIN = 16  # pixels that the clutter extends beyond a frame, for the camera to move
MIN_AREA = 60  # visible pixels of every object, and of the distractor, in the first frame
MIN_CONTRAST = 80.0  # distance in RGB of the first colours of any two objects, and from the mean of the clutter
VERSION = 1  # of the videos; a change of what is drawn raises it
MARKER = "shapes-video.json"  # says which videos a tree holds
ARGUMENTS = ("n_train", "n_val", "n_frames", "seed", "version")  # what the marker holds
SECOND_PROCESS_FROM = 8  # videos
LAYOUT = ("JPEGImages/480p", "Annotations/480p")  # DAVIS's names of the folders; the frames are smaller

Floats = npt.NDArray[np.float64]


class Clip(NamedTuple):
    """One generated video: ``images`` (T, H, W, 3) uint8 RGB, ``objects`` (T, H, W) uint8, 0 background."""

    images: npt.NDArray[np.uint8]
    objects: npt.NDArray[np.uint8]


class _Look(NamedTuple):
    """What stays the same of an object: its shape, its texture and its two colours (3,)."""

    shape: int
    texture: int
    colours: tuple[Floats, Floats]
    period: float  # of the texture, in pixels
    phase: Floats  # (2,) of the texture, in periods


class _Motion(NamedTuple):
    """What an object does. All is a function of the frame's number, so a shorter video is the start of a longer one."""

    radius: float
    rates: Floats  # (2,) of x and y, in radians a frame
    phases: Floats  # (6,) of x, y, size, aspect, wobble and angle, in radians
    bounces: bool  # at constant speed, instead of like a pendulum
    turn: float  # radians a frame
    waves: int  # of the wobble around the outline


def _far_colours(rng: np.random.RandomState, others: list[Floats]) -> tuple[Floats, Floats]:
    """Two colours, the first of which is far from all others."""
    while True:
        first, second = draw_colours(rng)
        if all(float(np.linalg.norm(first - other)) > MIN_CONTRAST for other in others):
            return first, second


def _looks(rng: np.random.RandomState, clutter: Floats) -> list[_Look]:
    """Two or three objects of different shape and texture, and the distractor, which comes last."""
    wanted = rng.randint(2, 4)
    kinds = [divmod(int(kind), len(TEXTURES)) for kind in rng.permutation(len(SHAPES) * len(TEXTURES))[:wanted]]
    kinds.append(kinds[rng.randint(wanted)])
    looks: list[_Look] = []
    for shape, pattern in kinds:
        colours = _far_colours(rng, [clutter, *(look.colours[0] for look in looks)])
        looks.append(_Look(shape, pattern, colours, rng.uniform(7.0, 10.0), rng.uniform(0, 1, 2)))
    return looks


def _motion(rng: np.random.RandomState) -> _Motion:
    return _Motion(
        radius=rng.uniform(12, 20),
        rates=rng.uniform(0.05, 0.13, 2) * rng.choice((-1, 1), 2),
        phases=rng.uniform(0, 2 * np.pi, 6),
        bounces=bool(rng.randint(2)),
        turn=rng.uniform(-0.14, 0.14),
        waves=int(rng.randint(2, 4)),
    )


def _draw(look: _Look, motion: _Motion, t: int) -> tuple[tuple[slice, slice], Mask, Mask]:
    """An object in frame t: the box that it lies in, and there its silhouette and the pixels of its second colour."""
    x, y, size, aspect, wobble, angle = motion.phases
    swing = np.sin(motion.rates * t + (x, y))
    if motion.bounces:
        swing = np.arcsin(swing) * 2 / np.pi  # a triangle wave
    border = motion.radius * 0.6
    centre = (np.array((WIDTH, HEIGHT)) + swing * (np.array((WIDTH, HEIGHT)) - 2 * border)) / 2
    scale = 1 + 0.2 * np.sin(0.19 * t + size)
    stretch = np.exp(0.2 * np.sin(0.23 * t + aspect))
    axes = np.array((scale * stretch, scale / stretch))

    outline = unit_polygon(look.shape)
    around = np.arctan2(outline[:, 1], outline[:, 0])
    outline = outline * (1 + 0.12 * np.sin(motion.waves * around + 0.31 * t + wobble))[:, None]
    cos, sin = np.cos(angle + motion.turn * t), np.sin(angle + motion.turn * t)
    corners = (outline * motion.radius * axes) @ np.array([[cos, sin], [-sin, cos]]) + centre
    polygon = np.rint(corners * UNIT).astype(np.int64)

    low = np.clip(polygon.min(0) // UNIT, 0, (WIDTH, HEIGHT))
    high = np.clip(polygon.max(0) // UNIT + 1, low, (WIDTH, HEIGHT))
    box = slice(low[1], high[1]), slice(low[0], high[0])
    silhouette = inside_polygon(polygon - low * UNIT, *(high - low)[::-1])
    rows, columns = np.mgrid[box]
    right, down = columns - centre[0], rows - centre[1]
    u, v = (right * cos + down * sin) / axes[0], (down * cos - right * sin) / axes[1]
    return box, silhouette, draw_texture(look.texture, u / look.period + look.phase[0], v / look.period + look.phase[1])


def _visible(looks: list[_Look], motions: list[_Motion], order: npt.NDArray[np.int64], t: int) -> npt.NDArray[np.uint8]:
    """(H, W) who is seen where in frame t: 0 nobody, else one more than a place in ``looks``."""
    seen = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i in order:
        box, silhouette, _ = _draw(looks[i], motions[i], t)
        seen[box][silhouette] = i + 1
    return seen


def render_clip(seed: int, n_frames: int = 20) -> Clip:
    """Draws video number ``seed``; the depth order of its objects is fixed.

    In the first frame, every object and the distractor show at least 60 pixels. A shorter video is the start of a
    longer one.

    >>> clip = render_clip(0, 3)
    >>> clip.images.shape, clip.objects.shape, np.unique(clip.objects[0]).tolist()
    ((3, 96, 128, 3), (3, 96, 128), [0, 1, 2, 3])
    """
    rng = np.random.RandomState(seed)
    clutter = draw_background(rng, HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)
    looks = _looks(rng, clutter.mean((0, 1)))
    rates, phases = rng.uniform(0.02, 0.08, 2), rng.uniform(0, 2 * np.pi, 2)  # of the camera
    order = rng.permutation(len(looks))
    while True:
        motions = [_motion(rng) for _ in looks]
        areas = np.bincount(_visible(looks, motions, order, 0).ravel(), minlength=len(looks) + 1)[1:]
        if areas.min() >= MIN_AREA:
            break
    distractor = len(looks)
    images = np.empty((n_frames, HEIGHT, WIDTH, 3), np.uint8)
    objects = np.zeros((n_frames, HEIGHT, WIDTH), np.uint8)
    for t in range(n_frames):
        top, left = np.rint(MARGIN * (1 + np.sin(rates * t + phases))).astype(int)
        canvas = clutter[top : top + HEIGHT, left : left + WIDTH].copy()
        for i in order:
            box, silhouette, second = _draw(looks[i], motions[i], t)
            colours = looks[i].colours
            canvas[box][silhouette] = np.where(second[silhouette, None], colours[1], colours[0])
            objects[t][box][silhouette] = 0 if i + 1 == distractor else i + 1
        images[t] = np.clip(canvas + rng.normal(0, 5, canvas.shape), 0, 255)
    return Clip(images, objects)


class ShapesVideo(Davis):
    """Generated videos of 96 x 128 pixels, written once in the layout of DAVIS 2017 and read from there.

    Args:
        root: folder to write to and read from; without it a folder in ``$FEWSEG_CACHE``, else ``~/.cache/fewseg``.
        n_train: training videos.
        n_val: validation videos; no video is in both.
        n_frames: frames of each, at least 3, for the first and the last one are not scored.
        seed: video i of the data set is ``render_clip(seed * 1000003 + i, n_frames)``, the training videos first.
        every: for single images, every so many-th frame of a video, from the first one on.
    """

    name = "shapes-video"

    def __init__(
        self,
        root: str | None = None,
        n_train: int = 120,
        n_val: int = 12,
        n_frames: int = 20,
        seed: int = 0,
        every: int = 1,
    ) -> None:
        check_counts(n_train, n_val, seed)
        if n_frames < 3:
            expected = "at least 3: the first and the last one are not scored"
            raise FewsegError("--data.dataset.n_frames", n_frames, expected, "raise it")
        tree = default_tree(n_train, n_val, n_frames, seed) if root is None else Path(root).expanduser()
        wanted = {"n_train": n_train, "n_val": n_val, "n_frames": n_frames, "seed": seed, "version": VERSION}
        generate(tree, MARKER, wanted, lambda folder: _write_tree(folder, n_train, n_val, n_frames, seed))
        super().__init__(str(tree), year=2017, every=every)


def default_tree(n_train: int = 120, n_val: int = 12, n_frames: int = 20, seed: int = 0) -> Path:
    """Where ``ShapesVideo`` writes when it is given no root.

    >>> default_tree().name
    'shapes-video-120-12-20-0-v1'
    """
    return cache_dir() / f"shapes-video-{n_train}-{n_val}-{n_frames}-{seed}-v{VERSION}"


def _write_tree(tree: Path, n_train: int, n_val: int, n_frames: int, seed: int) -> None:
    total = n_train + n_val
    arguments = (str(tree), first_seed(seed), n_frames)
    share("drawing Shapes-video", "video", write_clips, arguments, total, SECOND_PROCESS_FROM)
    names = [f"{i:04d}\n" for i in range(total)]
    write_atomic(tree / "ImageSets/2017/train.txt", "".join(names[:n_train]))
    write_atomic(tree / "ImageSets/2017/val.txt", "".join(names[n_train:]))


def write_clips(
    tree: str,
    first: int,
    n_frames: int,
    start: int,
    total: int,
    step: int,
    advance: Callable[[int], object] | None = None,
) -> None:  # plain arguments: a second interpreter calls it
    """Writes videos ``start, start + step, ...`` below ``total`` into a DAVIS tree.

    Args:
        tree: the tree.
        first: seed of video 0.
        n_frames: frames of each video.
        start: first video to write.
        total: videos of the data set.
        step: how many processes share the videos.
        advance: told how many videos are done after each one, counting those of the others, who keep pace.
    """
    for i in range(start, total, step):
        clip = render_clip(first + i, n_frames)
        images, masks = (Path(tree) / folder / f"{i:04d}" for folder in LAYOUT)
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        for t in range(n_frames):
            write_jpeg(images / f"{t:05d}.jpg", clip.images[t])
            write_label(masks / f"{t:05d}.png", clip.objects[t])
        if advance is not None:
            advance(min(step, total - i))
