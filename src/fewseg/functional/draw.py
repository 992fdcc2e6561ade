"""Panels for people: support, query, prediction and truth side by side; strips of videos; instances over their scene.

NumPy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from fewseg.episode import NEGATIVE, POSITIVE, VOID, Click
from fewseg.functional.label_maps import SPARSE

Image = npt.NDArray[np.uint8]
GREEN, RED, ORANGE = (0, 200, 120), (230, 40, 60), (255, 170, 0)
# objects of a video, told apart also by people who see few colours; number 9 has that of number 1 again
OBJECTS = (
    (255, 50, 190),  # first what nature has least of, for most videos have one object
    (30, 144, 255),
    (255, 140, 0),
    (0, 190, 120),
    (240, 225, 50),
    (110, 60, 220),
    (0, 215, 235),
    (150, 90, 40),
)
INK = (20, 20, 20)
WHITE = (255, 255, 255)
MARKED = (215, 20, 50)  # border and tag of an annotated frame


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
    if known.mean() >= SPARSE:
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


def label_overlay(image: Image, labels: npt.NDArray[Any], opacity: float = 0.45) -> Image:
    """The image with every object tinted in its own colour, and a contour around it.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) numbers of objects; 0 is background and 255 unknown, which stay as they are.
        opacity: of the tint.

    Returns:
        (H, W, 3) uint8 RGB.

    >>> label_overlay(np.zeros((1, 2, 3), np.uint8), np.array([[0, 2]])).tolist()
    [[[0, 0, 0], [30, 144, 255]]]
    """
    out = image.copy()
    for number in np.unique(labels):
        if number in (0, VOID):
            continue
        mask = labels == number
        # what has a neighbour elsewhere or lies at the rim of the image, so that a mask that fills it has a contour too
        inside = cv2.erode(mask.astype(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        colour = colour_of(int(number))
        out = overlay(out, mask, colour, opacity)
        out[mask & (inside == 0)] = colour
    return out


_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def labelled(image: Image, labels: npt.NDArray[Any] | None, height: int) -> Image:
    """``label_overlay`` of an image scaled to a height, so that contours are seen whatever its size was.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) numbers of objects; None tints nothing.
        height: of the result.

    Returns:
        (height, w, 3) uint8 RGB.
    """
    scaled = _scaled(image, height)
    if labels is None:
        return scaled
    size = scaled.shape[1], scaled.shape[0]
    return label_overlay(scaled, cv2.resize(labels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST))


def colour_of(number: int) -> tuple[int, int, int]:
    """The RGB colour of an object of a video, numbered from 1; after eight they come round again.

    >>> colour_of(1) == colour_of(9) != colour_of(2)
    True
    """
    return OBJECTS[(number - 1) % len(OBJECTS)]


def shown_frames(n_frames: int, annotated: Sequence[int], n_shown: int = 6) -> list[int]:
    """Which frames of a video a strip shows: evenly spread ones, the first and the last among them.

    Of the annotated frames, up to half of what is shown take the place of the frame beside them.

    Args:
        n_frames: of the video.
        annotated: indices of frames.
        n_shown: frames of the strip, at least 2; a shorter video is shown whole.

    Returns:
        indices from 0, in order.

    >>> shown_frames(60, [0])
    [0, 12, 24, 35, 47, 59]
    >>> shown_frames(60, [26, 3])
    [3, 12, 26, 35, 47, 59]
    >>> shown_frames(3, [1])
    [0, 1, 2]
    """
    if n_frames <= n_shown:
        return list(range(n_frames))
    shown = [round(i * (n_frames - 1) / (n_shown - 1)) for i in range(n_shown)]
    given = sorted(set(annotated))
    kept = (
        given if len(given) <= n_shown // 2 else [given[round(i)] for i in np.linspace(0, len(given) - 1, n_shown // 2)]
    )
    free = set(range(n_shown))
    for frame in kept:
        nearest = min(free, key=lambda place: abs(shown[place] - frame))
        free.remove(nearest)
        shown[nearest] = frame
    return sorted(shown)


def film_strip(
    frames: Mapping[int, Image],
    labels: Mapping[int, npt.NDArray[Any]],
    annotated: Mapping[int, Image | None],
    height: int = 120,
) -> Image:
    """Frames of a video in a row, with their objects tinted and their numbers; annotated frames have a red border.

    Strips of the same frames have the same size, so that those of several methods stack.

    Args:
        frames: index -> (H, W, 3) uint8 RGB, in the order in which they are shown.
        labels: index -> (H, W) numbers of objects, as in ``label_overlay``; a frame without is shown as it is.
        annotated: frames that were annotated, with (objects, H, W) uint8 annotation maps, whose points are drawn where
            they are sparse: in the colour of their object, white for the background; or None, which draws nothing.
        height: of the strip in pixels.

    Returns:
        (height, w, 3) uint8 RGB.
    """
    tiles = []
    for index, image in frames.items():
        tile, maps = labelled(image, labels.get(index), height), annotated.get(index)
        if maps is not None:
            _draw_points(tile, maps)
        tiles.append(_tagged(tile, str(index), index in annotated))
    return _in_a_row(tiles)


def _draw_points(tile: Image, maps: Image) -> None:
    """The points of a sparse annotation (objects, H, W), drawn into a scaled frame."""
    known = ((maps == NEGATIVE) | (maps == POSITIVE)).any(0)
    if known.mean() >= SPARSE:
        return
    radius = max(2, tile.shape[0] // 40)
    for row, col in np.argwhere(known):
        asked = np.flatnonzero(maps[:, row, col] == POSITIVE)
        colour = colour_of(int(asked[0]) + 1) if len(asked) else (255, 255, 255)
        at = [int((i + 0.5) * n / m) for i, n, m in zip((row, col), tile.shape, known.shape, strict=False)]
        cv2.circle(tile, (at[1], at[0]), radius + 1, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(tile, (at[1], at[0]), radius, colour, -1, cv2.LINE_AA)


def _tagged(tile: Image, text: str, marked: bool) -> Image:
    """A frame with its number in the corner; a marked one within a border."""
    face, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.35, tile.shape[0] / 280)
    (width, high), _ = cv2.getTextSize(text, face, scale, 1)
    out = tile.copy()
    ground, ink = (MARKED, (255, 255, 255)) if marked else ((255, 255, 255), INK)
    cv2.rectangle(out, (0, 0), (width + 7, high + 7), ground, -1)
    cv2.putText(out, text, (4, high + 4), face, scale, ink, 1, cv2.LINE_AA)
    if marked:
        rim = max(2, tile.shape[0] // 40)
        out[:rim] = out[-rim:] = out[:, :rim] = out[:, -rim:] = MARKED
    return out


class Shown(NamedTuple):
    """Instances of one scene, as they are drawn.

    Args:
        boxes: (n, 4) as x0, y0, x1, y1 in pixels of the scene.
        masks: (n, H, W), non-zero is the instance.
        scores: (n,) of detections; None for what is known.
    """

    boxes: npt.NDArray[Any]
    masks: npt.NDArray[Any]
    scores: npt.NDArray[Any] | None = None


def drawn_places(scores: npt.ArrayLike, threshold: float = 0.5) -> list[int]:
    """Which detections are drawn, the best first: those above the threshold, or the best one where there is none.

    >>> drawn_places([0.25, 0.75, 0.625])
    [1, 2]
    >>> drawn_places([0.25, 0.375]), drawn_places([])
    ([1], [])
    """
    values = np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable").tolist()
    return [place for place in order if values[place] > threshold] or order[:1]


def numbered(masks: npt.NDArray[Any], places: Sequence[int] | npt.NDArray[np.int64]) -> Image:
    """A label map (H, W) of some of the masks (n, H, W): numbers from 1 in the order of places, the first one on top.

    It holds the first 254 at most: 255 is void.

    >>> masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[1, 1, 1, 1]]])
    >>> numbered(masks, [1, 0]).tolist()
    [[2, 1, 1, 0]]
    """
    labels = np.zeros(masks.shape[1:], np.uint8)
    for number, place in reversed(list(enumerate(places, 1))[: VOID - 1]):
        labels[masks[place] != 0] = number
    return labels


def draw_instances(
    scene: Image,
    found: Shown,
    references: Sequence[Image] = (),
    threshold: float = 0.5,
    height: int = 240,
) -> Image:
    """The scene with every instance in a colour of its own: mask, box and score, with the references in a corner.

    Detections up to the threshold are left out. Where none is above it, the best one is a thin box without its mask.
    Where masks overlap, the higher score shows.

    Args:
        scene: (H, W, 3) uint8 RGB.
        found: n instances.
        references: crops (h, w, 3) that say what was asked for; they are framed in the lower left corner.
        threshold: on scores; what is known is drawn whatever it is.
        height: of the result: small scenes are enlarged before boxes are drawn.

    Returns:
        (height, w, 3) uint8 RGB.

    >>> scene, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((1, 64, 64), np.uint8)
    >>> mask[:, 8:40, 8:40] = 1
    >>> sure, unsure = (Shown(np.array([[8, 8, 40, 40]]), mask, np.array([score])) for score in (0.75, 0.25))
    >>> [draw_instances(scene, found, height=64)[30, 30].tolist() for found in (sure, unsure)]
    [[114, 22, 85], [0, 0, 0]]
    """
    places = list(range(len(found.boxes))) if found.scores is None else drawn_places(found.scores, threshold)
    faint = found.scores is not None and any(found.scores[place] <= threshold for place in places)
    tile = labelled(scene, None if faint or not places else numbered(found.masks, places), height)
    for rank, place in reversed(list(enumerate(places, 1))):  # the best on top
        score = None if found.scores is None else float(found.scores[place])
        _draw_box(tile, found.boxes[place] * height / scene.shape[0], colour_of(rank), score, thin=faint)
    _inset(tile, references)
    return tile


def instance_panel(
    query: Image,
    found: Shown,
    truth: Shown,
    references: Sequence[Image] = (),
    threshold: float = 0.5,
    height: int = 240,
) -> Image:
    """The detections with the references in the corner, and beside them the truth, which nothing covers.

    Args:
        query: (H, W, 3) uint8 RGB.
        found: detections, see ``draw_instances``.
        truth: the objects that were asked for.
        references: crops (h, w, 3).
        threshold: on scores.
        height: of the row in pixels.

    Returns:
        (height, w, 3) uint8 RGB.

    >>> nothing = Shown(np.zeros((0, 4)), np.zeros((0, 30, 40)), np.zeros(0))
    >>> instance_panel(np.zeros((30, 40, 3), np.uint8), nothing, nothing._replace(scores=None), height=60).shape
    (60, 164, 3)
    """
    known = draw_instances(query, truth, height=height)
    return _in_a_row([draw_instances(query, found, references, threshold, height), known])


def _draw_box(
    tile: Image, box: npt.NDArray[Any], colour: tuple[int, int, int], score: float | None, thin: bool
) -> None:
    """A box (x0, y0, x1, y1) in pixels of the tile, with its score on a tag in its upper left corner."""
    height, width = tile.shape[:2]
    left, top = (int(np.clip(np.floor(v), 0, n - 1)) for v, n in zip(box[:2], (width, height), strict=True))
    right, bottom = (int(np.clip(np.ceil(v) - 1, 0, n - 1)) for v, n in zip(box[2:], (width, height), strict=True))
    for i in range(1 if thin else max(2, height // 160)):  # a thick line of OpenCV would lie outside, too
        if left + i <= right - i and top + i <= bottom - i:
            cv2.rectangle(tile, (left + i, top + i), (right - i, bottom - i), colour, 1)
    if score is None:
        return
    face, scale, text = cv2.FONT_HERSHEY_SIMPLEX, max(0.35, height / 640), f"{score:.2f}"
    (wide, high), _ = cv2.getTextSize(text, face, scale, 1)
    left, top = max(0, min(left, width - wide - 5)), max(0, min(top, height - high - 5))
    cv2.rectangle(tile, (left, top), (left + wide + 4, top + high + 4), colour, -1)
    ink = INK if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else WHITE
    cv2.putText(tile, text, (left + 2, top + high + 2), face, scale, ink, 1, cv2.LINE_AA)


_FRAME = 2  # pixels of white around a reference, within a dark line


def _inset(tile: Image, references: Sequence[Image]) -> None:
    """References in the lower left corner, side by side, each within a quarter of the tile's height."""
    if not references:
        return
    height, width = tile.shape[:2]
    rim = 2 * (_FRAME + 1)
    side = max(1, min(height // 4, width // len(references)) - rim)
    left = 0
    for reference in references:
        share = side / max(reference.shape[:2])
        size = [max(1, round(n * share)) for n in reference.shape[:2]]
        how = cv2.INTER_AREA if share <= 1 else cv2.INTER_NEAREST
        crop = cv2.resize(reference, (size[1], size[0]), interpolation=how)
        for colour, n in ((WHITE, _FRAME), (INK, 1)):
            crop = cv2.copyMakeBorder(crop, n, n, n, n, cv2.BORDER_CONSTANT, value=colour)
        shown = crop[:height, : width - left]
        tile[height - shown.shape[0] :, left : left + shown.shape[1]] = shown
        left += shown.shape[1]


def _scaled(image: Image, height: int) -> Image:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    smaller = height <= image.shape[0]
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_NEAREST)
    return np.asarray(scaled, np.uint8)


def _in_a_row(tiles: Sequence[Image]) -> Image:
    gap = np.full((tiles[0].shape[0], 4, 3), 255, np.uint8)
    return np.hstack([part for tile in tiles for part in (tile, gap)][:-1])
