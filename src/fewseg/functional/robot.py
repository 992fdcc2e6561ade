"""The click robot that stands for a user, and the figures of interactive segmentation. Needs no torch.

The robot is that of f-BRS (Sofiiuk et al. 2020, SamsungLabs/fbrs c91c337): it sees truth and prediction and clicks
where the prediction errs most, at the centre of the largest disk that fits into an error. DIOS (Xu et al. 2016) and
BRS (Jang and Kim 2019) click in the largest connected error instead, which is another protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fewseg.episode import NEGATIVE, POSITIVE, VOID, Click
from fewseg.errors import FewsegError

Robot = Literal["inscribed", "component"]
Bits = npt.NDArray[np.bool_]
Squared = npt.NDArray[np.int32]


class Noc(NamedTuple):
    """Number of clicks: the mean over objects, and how many objects needed the limit."""

    mean: float
    n_over: int


def error_maps(truth: npt.NDArray[Any], pred: npt.NDArray[Any]) -> tuple[Bits, Bits]:
    """Where a prediction errs: false positives, then false negatives (so that the index is the label of the click).

    Args:
        truth: (H, W) integers: 0, 1, 255 = void, where nothing is wrong.
        pred: (H, W), non-zero is foreground.

    Returns:
        two (H, W) bool maps.

    Raises:
        FewsegError: shapes differ.

    >>> error_maps(np.uint8([[0, 1, 255]]), np.uint8([[1, 0, 1]]))
    (array([[ True, False, False]]), array([[False,  True, False]]))
    """
    if truth.shape != pred.shape:
        remedy = "bring the prediction to the size of the truth first"
        raise FewsegError("pred", f"shape {pred.shape}", f"{truth.shape}", remedy)
    found = pred != 0
    return (truth != POSITIVE) & (truth != VOID) & found, (truth == POSITIVE) & ~found


def squared_distance_transform(region: Bits) -> Squared:
    """The squared distance from every pixel to the nearest pixel outside the region, exact.

    Args:
        region: (H, W) bool, not true everywhere.

    Returns:
        (H, W) int32 in pixels squared, 0 outside the region.

    >>> squared_distance_transform(np.array([[False, True, True]])).tolist()
    [[0, 1, 4]]
    """
    bits = np.ascontiguousarray(region).view(np.uint8)
    distance: npt.NDArray[np.float32] = cv2.distanceTransform(bits, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if distance.max(initial=0) < 1024:
        # OpenCV's roots of equal numbers differ in the last bit, which would break ties
        return np.asarray(np.rint(distance * distance), np.int32)
    # float32 roots of larger numbers do not name their square; scipy, slower, says which pixel is the nearest
    nearest = ndimage.distance_transform_edt(region, return_distances=False, return_indices=True)
    difference = np.indices(region.shape) - nearest
    return np.asarray((difference * difference).sum(0), np.int32)


def squared_depth(region: Bits) -> Squared:
    """The squared distance from every pixel of a region to the nearest pixel outside; the image's edge is outside.

    Args:
        region: (H, W) bool.

    Returns:
        (H, W) int32 in pixels squared, 0 outside the region.

    >>> squared_depth(np.ones((3, 3), bool)).tolist()
    [[1, 1, 1], [1, 4, 1], [1, 1, 1]]
    """
    result = np.zeros(region.shape, np.int32)
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(region).view(np.uint8))
    if width and height:  # nothing beyond a frame around the region can be nearer
        box = slice(top, top + height), slice(left, left + width)
        result[box] = squared_distance_transform(np.pad(region[box], 1))[1:-1, 1:-1]
    return result


def next_click(
    truth: npt.NDArray[Any], pred: npt.NDArray[Any], clicked: Sequence[Click] = (), robot: Robot = "inscribed"
) -> Click:
    """Where the robot clicks next.

    ``inscribed`` compares the depth of false negatives and false positives and clicks the deepest pixel that was not
    clicked before: a positive click only if false negatives are strictly deeper; of equal pixels the first in reading
    order. ``component`` first chooses the largest 8-connected error, on ties a negative one and then the first in
    reading order, and clicks its deepest pixel; components that were clicked all over are passed over.

    Where nothing is left to correct, the code of f-BRS returns a negative click at (0, 0), whatever the truth is
    there and whether or not it was clicked; so does this function.

    Args:
        truth: (H, W) integers: 0, 1, 255 = void, where nothing is wrong and no click goes (but see above).
        pred: (H, W), non-zero is foreground; zeros before the first click.
        clicked: the clicks so far.
        robot: which of the two.

    Raises:
        FewsegError: shapes differ, a click lies outside the image, or there is no such robot.

    >>> truth = np.zeros((7, 7), np.uint8)
    >>> truth[1:6, 1:4] = 1
    >>> next_click(truth, np.zeros_like(truth))
    Click(row=2, col=2, label=1)
    """
    if robot not in _REGIONS:
        raise FewsegError("robot", robot, " or ".join(_REGIONS), "choose one of the two")
    height, width = truth.shape
    for row, col, _ in clicked:
        if not (0 <= row < height and 0 <= col < width):
            remedy = "give clicks in the coordinates of this truth"
            raise FewsegError("clicked", (row, col), f"a pixel of a {height} x {width} image", remedy)
    negative, positive = (_best(wrong, clicked, robot) for wrong in error_maps(truth, pred))
    best, label = (positive, POSITIVE) if positive.score > negative.score else (negative, NEGATIVE)
    return Click(best.row, best.col, label)


class _Place(NamedTuple):
    score: int
    row: int
    col: int


def _best(wrong: Bits, clicked: Sequence[Click], robot: Robot) -> _Place:
    """The best click of one label; score 0 at (0, 0) where there is none."""
    score, depths = _REGIONS[robot](wrong, clicked)
    row, col = divmod(int(depths.argmax()), depths.shape[1])  # argmax takes the first of equals in reading order
    return _Place(score, row, col)


def _inscribed(wrong: Bits, clicked: Sequence[Click]) -> tuple[int, Squared]:
    """The greatest squared depth of unclicked errors, and their squared depths."""
    depths = _unclicked(squared_depth(wrong), clicked)
    return int(depths.max()), depths


def _component(wrong: Bits, clicked: Sequence[Click]) -> tuple[int, Squared]:
    """The area of the largest error that is not clicked all over, and their squared depths, 0 where clicked."""
    _, labels = cv2.connectedComponents(wrong.view(np.uint8), connectivity=8)
    areas = np.bincount(labels.ravel())
    areas *= np.bincount(_unclicked(labels.copy(), clicked).ravel(), minlength=len(areas)) > 0
    areas[0] = 0
    if not areas.any():
        return 0, np.zeros(wrong.shape, np.int32)
    largest = areas == areas.max()
    first = labels.ravel()[int(largest[labels].argmax())]  # OpenCV does not number them in reading order
    return int(areas[first]), _unclicked(squared_depth(labels == first), clicked)


def _unclicked(values: npt.NDArray[Any], clicked: Sequence[Click]) -> npt.NDArray[Any]:
    """Zero, in place, where a click was."""
    for row, col, _ in clicked:
        values[row, col] = 0
    return values


_REGIONS: dict[Robot, Callable[[Bits, Sequence[Click]], tuple[int, Squared]]] = {
    "inscribed": _inscribed,
    "component": _component,
}


# -------------------------------------------------------------------------------------------------------- figures


def clicks_to_reach(ious: Sequence[float], target: float, limit: int) -> int:
    """NoC of one object: the first click after which its IoU is at least the target, else the limit.

    Args:
        ious: IoU after click 1, 2, …; what lies beyond the limit is not read.
        target: IoU in [0, 1].
        limit: the most clicks that an object gets, 20 in the literature.

    Raises:
        FewsegError: a limit below 1.

    >>> clicks_to_reach([0.5, 0.86, 0.91], 0.85, 20), clicks_to_reach([0.2, 0.4], 0.85, 20)
    (2, 20)
    """
    if limit < 1:
        raise FewsegError("limit", limit, "1 or more", "allow at least one click")
    return next((n for n, iou in enumerate(ious[:limit], 1) if iou >= target), limit)


def noc(objects: Sequence[Sequence[float]], target: float, limit: int = 20) -> Noc:
    """NoC@target over objects, as the code of f-BRS has it.

    Args:
        objects: IoU after click 1, 2, … of each object.
        target: IoU in [0, 1].
        limit: the most clicks that an object gets.

    Returns:
        The mean NoC, and the number of objects whose NoC equals the limit. These are the objects that failed, and
        also those that reach the target with the very last click: the original counts both.

    Raises:
        FewsegError: no object, or a limit below 1.

    >>> noc([[0.5, 0.86, 0.91], [0.2, 0.4]], 0.85)
    Noc(mean=11.0, n_over=1)
    """
    _check_objects(objects)
    needed = [clicks_to_reach(ious, target, limit) for ious in objects]
    return Noc(float(np.mean(needed)), needed.count(limit))


def iou_at(objects: Sequence[Sequence[float]], n_clicks: int) -> float:
    """IoU@k: mean IoU of the objects after k clicks, none of which is stopped early.

    An object whose list ends before (stopped at its target, or nothing was left to correct) keeps its last IoU.

    Args:
        objects: IoU after click 1, 2, … of each object, one or more each.
        n_clicks: k, from 1.

    Raises:
        FewsegError: no object, an object without an IoU, or k below 1.

    >>> round(iou_at([[0.5, 0.9], [0.2, 0.4, 0.6]], 3), 6)
    0.75
    """
    _check_objects(objects)
    if n_clicks < 1:
        raise FewsegError("n_clicks", n_clicks, "1 or more", "ask for the IoU after the first click or a later one")
    if not all(map(len, objects)):
        raise FewsegError("objects", "an object without an IoU", "one or more each", "leave out objects never clicked")
    return float(np.mean([ious[min(n_clicks, len(ious)) - 1] for ious in objects]))


def seconds_per_click(elapsed: float, n_clicks: Sequence[int]) -> float:
    """SPC: all the time of a benchmark (reading, network, refinement and robot) over all its clicks.

    Args:
        elapsed: seconds.
        n_clicks: clicks of each object.

    Raises:
        FewsegError: no click at all.

    >>> seconds_per_click(10.0, [3, 2])
    2.0
    """
    total = sum(n_clicks)
    if total < 1:
        raise FewsegError("n_clicks", total, "1 or more in all", "time a benchmark that clicks")
    return elapsed / total


def _check_objects(objects: Sequence[Sequence[float]]) -> None:
    if not objects:
        raise FewsegError("objects", "none", "one or more", "give the IoUs of every object")
