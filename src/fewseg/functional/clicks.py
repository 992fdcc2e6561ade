"""Clicks as tensors: ordered rows (row, col, label) become annotation maps, distance maps and disks, on any device.

Maps have one channel per label, in the order of the labels: channel 0 shows negative clicks, channel 1 positive ones.
The second half of the file draws the clicks that networks train on from masks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewseg.episode import NEGATIVE, NO_CLICK, POSITIVE, UNKNOWN, Click, EpisodeBatch, Features
from fewseg.errors import FewsegError
from fewseg.functional.robot import error_maps, squared_depth, squared_distance_transform

ClickMaps = Literal["tanh", "euclidean", "disk"]
ClickSampling = Literal["uniform", "dios", "fbrs"]
Bits = npt.NDArray[np.bool_]

_FEW = 64  # clicks up to which one distance after the other is faster than a distance transform


def pad_clicks(clicks: Sequence[Sequence[tuple[int, int, int]]]) -> Tensor:
    """The clicks of B episodes as one tensor (B, N, 3) int32, N the longest; rows of label -1 fill up the others.

    >>> pad_clicks([[(1, 2, 1)], []]).tolist()
    [[[1, 2, 1]], [[0, 0, -1]]]
    """
    longest = max(map(len, clicks), default=0)
    rows = [[*episode, *[(0, 0, NO_CLICK)] * (longest - len(episode))] for episode in clicks]
    return torch.tensor(rows, dtype=torch.int32).reshape(len(rows), longest, 3)


def draw_clicks(clicks: Tensor, size: tuple[int, int]) -> Tensor:
    """Clicks as annotation maps; of several clicks on one pixel the last counts.

    Args:
        clicks: (B, N, 3) integers (row, col, label), label -1 = padding. A click outside the image, as crops leave
            behind, annotates none of its pixels.
        size: (H, W) of the image.

    Returns:
        (B, H, W) uint8: 0 negative, 1 positive, 255 unknown.

    >>> draw_clicks(torch.tensor([[[0, 1, 1], [1, 0, 0], [0, 0, -1]]]), (2, 2)).tolist()
    [[[255, 1], [0, 255]]]
    """
    n, longest = clicks.shape[:2]
    row, col = clicks[..., 0].long(), clicks[..., 1].long()  # (B, N)
    drawn = (clicks[..., 2] != NO_CLICK) & (row >= 0) & (row < size[0]) & (col >= 0) & (col < size[1])
    place = torch.where(drawn, row * size[1] + col, size[0] * size[1])  # the others fall behind the last pixel
    order = torch.full((n, size[0] * size[1] + 1), -1, device=clicks.device)
    counted = torch.arange(longest, device=clicks.device).expand(n, longest)
    order = order.scatter_reduce(1, place, counted, "amax")[:, :-1]  # (B, H W), the last click of every pixel
    if not longest:
        return torch.full((n, *size), UNKNOWN, dtype=torch.uint8, device=clicks.device)
    labels = clicks[..., 2].long().gather(1, order.clamp(min=0))
    return torch.where(order < 0, UNKNOWN, labels).to(torch.uint8).reshape(n, *size)


def squared_distances(clicks: Tensor, size: tuple[int, int], unit: float = 1.0) -> Tensor:
    """The squared distance from every pixel to the nearest click of each label; infinite where there is none.

    Args:
        clicks: (B, N, 3) integers (row, col, label), label -1 = padding; a click outside the image counts.
        size: (H, W) of the image.
        unit: of the distance, in pixels.

    Returns:
        (B, 2, H, W) float32, negative clicks first. Beyond 64 clicks, all of them inside the image, the CPU finds the
        same distances by distance transforms (to the last bit of float32 where the unit is not 1).

    >>> squared_distances(torch.tensor([[[0, 0, 1]]]), (1, 3))[0].tolist()
    [[[inf, inf, inf]], [[0.0, 1.0, 4.0]]]
    """
    if clicks.shape[1] > _FEW and _inside(clicks, size):
        return _transformed(clicks, size, unit).to(clicks.device)
    best = torch.full((len(clicks), 2, *size), torch.inf, device=clicks.device)
    rows = torch.arange(size[0], device=clicks.device, dtype=torch.float32)[:, None]
    cols = torch.arange(size[1], device=clicks.device, dtype=torch.float32)
    labels = torch.tensor([NEGATIVE, POSITIVE], device=clicks.device)
    for number in range(clicks.shape[1]):  # one after the other, so that no more than one distance map is held beside
        row, col, label = clicks[:, number, :, None, None].unbind(1)  # (B, 1, 1)
        distance = ((rows - row) / unit) ** 2 + ((cols - col) / unit) ** 2  # (B, H, W)
        best = torch.where(label[:, None] == labels[:, None, None], torch.minimum(best, distance[:, None]), best)
    return best


def _inside(clicks: Tensor, size: tuple[int, int]) -> bool:
    row, col, label = clicks.unbind(-1)
    outside = (row < 0) | (row >= size[0]) | (col < 0) | (col >= size[1])
    return not bool((outside & (label != NO_CLICK)).any())


def _transformed(clicks: Tensor, size: tuple[int, int], unit: float) -> Tensor:
    """``squared_distances`` in a time that does not grow with N; every click lies inside."""
    result = np.full((len(clicks), 2, *size), np.inf, np.float32)
    for own, maps in zip(clicks.cpu().numpy(), result, strict=True):
        for label in (NEGATIVE, POSITIVE):
            rows, cols = own[own[:, 2] == label, :2].T
            if len(rows):
                free = np.ones(size, bool)
                free[rows, cols] = False
                maps[label] = squared_distance_transform(free) / unit**2
    return torch.from_numpy(result)


def click_maps(clicks: Tensor, size: tuple[int, int], kind: ClickMaps, dtype: torch.dtype = torch.float32) -> Tensor:
    """Clicks as the two channels that a network reads, negative first.

    Args:
        clicks: (B, N, 3) integers (row, col, label), label -1 = padding; or maps (B, 2, H, W) of floats, which are
            what refinement optimises and pass through unchanged.
        size: (H, W) of the image.
        kind: ``tanh``, tanh(2 d / 260) of the distance d in pixels and 1 without a click (f-BRS, Sofiiuk et al. 2020);
            ``euclidean``, min(d, 255) and 255 without a click (DIOS, Xu et al. 2016); ``disk``, 1 within 5 pixels of a
            click (RITM, Sofiiuk et al. 2021).
        dtype: of the result. Distances are computed in float32 whatever it is, as in the code of f-BRS, whose values
            a network in float64 has to read too; half precision could not hold their squares.

    Returns:
        (B, 2, H, W).

    Raises:
        FewsegError: an unknown kind, or maps of another size.

    >>> click_maps(torch.tensor([[[0, 0, 1]]]), (1, 3), "euclidean")
    tensor([[[[255., 255., 255.]],
    <BLANKLINE>
             [[  0.,   1.,   2.]]]])
    """
    if clicks.is_floating_point():
        if clicks.shape[1] != 2 or tuple(clicks.shape[-2:]) != tuple(size):
            expected = f"maps (B, 2, {size[0]}, {size[1]}), or integer clicks (B, N, 3)"
            raise FewsegError("clicks", tuple(clicks.shape), expected, "pass what click_maps returned for this image")
        return clicks
    if kind == "tanh":
        return torch.tanh(2 * squared_distances(clicks, size, unit=260).sqrt()).to(dtype)
    if kind == "euclidean":
        return squared_distances(clicks, size).sqrt().clamp(max=255).to(dtype)
    if kind == "disk":
        return (squared_distances(clicks, size) <= 5**2).to(dtype)
    raise FewsegError("maps", kind, "tanh, euclidean or disk", "choose one of the three")


def any_positive(clicks: Tensor) -> Tensor:
    """(B,) bool: whether an episode has a positive click. Maps of floats, which refinement optimises, count as having.

    Args:
        clicks: (B, N, 3) integer rows (row, col, label), or (B, 2, H, W) floats.

    >>> any_positive(torch.tensor([[[3, 4, 0], [5, 6, 1]], [[3, 4, 0], [0, 0, -1]]]))
    tensor([ True, False])
    """
    if clicks.is_floating_point():
        return torch.ones(len(clicks), dtype=torch.bool, device=clicks.device)
    return (clicks[..., 2] == POSITIVE).any(1)


def first_clicks(clicks: Tensor, limit: int | None) -> Tensor:
    """The clicks (B, N, 3) of which only the first ``limit`` of each episode are left; the rest becomes padding.

    >>> first_clicks(torch.tensor([[[0, 0, -1], [3, 4, 1], [5, 6, 0], [7, 8, 1]]]), 2)[0, :, 2].tolist()
    [-1, 1, 0, -1]
    """
    if limit is None or clicks.is_floating_point():
        return clicks
    late = (clicks[..., 2] != NO_CLICK).cumsum(1) > limit
    return clicks.masked_fill(late[..., None], NO_CLICK)


def no_clicks(like: Tensor) -> Tensor:
    """The clicks (1, 0, 3) of a query without any, on the device of a tensor."""
    return torch.zeros(1, 0, 3, dtype=torch.int32, device=like.device)


def clicks_as_shot(batch: EpisodeBatch) -> EpisodeBatch:
    """The query with its clicks as one more shot: what a network without an input for clicks reads instead of them.

    Args:
        batch: supports and queries are images of one size, or both features.

    Returns:
        The batch with K + 1 shots; its clicks are still there.

    Raises:
        FewsegError: supports and queries differ in size.
    """
    supports, queries = batch.support_images, batch.query_images
    size = queries.image_size if isinstance(queries, Features) else tuple(queries.shape[-2:])
    if batch.n_shot and tuple(batch.support_annotations.shape[-2:]) != tuple(size):
        got = f"{tuple(batch.support_annotations.shape[-2:])} beside queries of {tuple(size)}"
        raise FewsegError("support_annotations", got, "one size", "fit supports and queries into one canvas")
    drawn = draw_clicks(batch.query_clicks, (size[0], size[1]))[:, None].to(batch.support_annotations.dtype)
    return dataclasses.replace(
        batch,
        support_images=_with_shot(supports, queries, batch.n_shot),
        support_annotations=torch.cat([batch.support_annotations.reshape(len(batch), -1, *size), drawn], 1),
    )


def _with_shot(supports: Tensor | Features, queries: Tensor | Features, n_shot: int) -> Tensor | Features:
    if isinstance(queries, Features):
        own = Features(tuple(m[:, None] for m in queries.maps), queries.image_size)
        if not n_shot:
            return own
        assert isinstance(supports, Features)
        return Features(tuple(torch.cat(pair, 1) for pair in zip(supports.maps, own.maps, strict=True)), own.image_size)
    if not n_shot:
        return queries[:, None]
    assert not isinstance(supports, Features)
    return torch.cat([supports, queries[:, None]], 1)


# ------------------------------------------------------------------------------------------------ training clicks

# Samplers read the mask (H, W) of the query at network size: 0, 1, 255 = void, where no click goes. They take all
# randomness from the generator passed in, click no pixel twice, and give fewer clicks where there is no room.


def sample_clicks(
    mask: npt.NDArray[Any], how: ClickSampling, rng: np.random.RandomState, others: Bits | None = None
) -> list[Click]:
    """The clicks of one training episode, positive and negative ones in a random order.

    Args:
        mask: (H, W) integers: 0, 1, 255 = void.
        how: ``uniform_clicks``, ``dios_clicks`` or ``fbrs_clicks`` with their defaults.
        rng: the only source of randomness.
        others: (H, W) bool, where other objects are, which ``dios`` and ``fbrs`` click more often.

    Raises:
        FewsegError: an unknown sampling, or ``others`` of another size.

    >>> sample_clicks(np.uint8([[1, 255]]), "fbrs", np.random.RandomState(0))
    [Click(row=0, col=0, label=1)]
    """
    if how not in _SAMPLERS:
        raise FewsegError("how", how, ", ".join(_SAMPLERS), "choose one of them")
    return _SAMPLERS[how](mask, rng, others)


def uniform_clicks(
    mask: npt.NDArray[Any],
    rng: np.random.RandomState,
    others: Bits | None = None,
    fewest: int = 0,
    most: int = 99,
) -> list[Click]:
    """Pixels of each label, uniform without replacement: how the guided networks (Rakelly et al. 2018) train.

    One count is drawn for both labels, uniform over fewest..most. A label with fewer pixels gives all it has; the
    code of that paper (shelhamer/revolver df5b72b) gives none then.

    Args:
        mask: (H, W) integers: 0, 1, 255 = void.
        rng: the only source of randomness.
        others: not read; all samplers are called alike.
        fewest: clicks of a label.
        most: clicks of a label.
    """
    count = rng.randint(fewest, most + 1)
    regions = ((NEGATIVE, mask == NEGATIVE), (POSITIVE, mask == POSITIVE))
    return _shuffled([c for label, region in regions for c in _pick(region, count, label, rng)], rng)


def dios_clicks(
    mask: npt.NDArray[Any],
    rng: np.random.RandomState,
    others: Bits | None = None,
    most_positive: int = 5,
    most_negative: tuple[int, int, int] = (10, 5, 10),
    band: float = 40,
    step: float = 10,
    margin: float = 5,
) -> list[Click]:
    """The three strategies of DIOS (Xu et al., Deep Interactive Object Selection, CVPR 2016, section 3.1).

    1 to ``most_positive`` positive clicks lie on the object, ``step`` apart from each other and ``margin`` away from
    its boundary. One of three strategies, each as likely as the others, draws the negative ones:

    1. 0 to 10 near the object: less than ``band`` away from it, spaced like the positive ones.
    2. 0 to 5 on other objects, spaced likewise. The paper draws as many on each of them; here on all together, for
       one map holds them. Without other objects strategy 1 takes its place.
    3. 10 around the object: a first one near it, then each as far as possible from those before and from the border
       of the band.

    The distances are meant for photographs of about 500 pixels and are multiplied by (longer side / 500). Where the
    margin leaves nothing of a region, its innermost pixels take the place; every object gets a positive click. An
    image without the object has no band, its whole background counts as near.

    Args:
        mask: (H, W) integers: 0, 1, 255 = void.
        rng: the only source of randomness.
        others: (H, W) bool, where other objects are.
        most_positive: positive clicks.
        most_negative: negative clicks of each strategy.
        band: pixels, for a longer side of 500; so are ``step`` and ``margin``.
        step: pixels.
        margin: pixels.

    Raises:
        FewsegError: ``others`` is of another size.
    """
    scale = max(mask.shape) / 500
    band, step, margin = band * scale, step * scale, margin * scale
    on_object, background = mask == POSITIVE, mask == NEGATIVE
    elsewhere = _others(mask, others)
    positive = _scatter(_inner(on_object, margin), rng.randint(1, most_positive + 1), POSITIVE, rng, step)
    if on_object.any():
        away = squared_distance_transform(~on_object)
        near = (away > 0) & (away < band**2)
    else:
        away, near = np.full(mask.shape, math.inf), np.ones(mask.shape, bool)
    strategy = rng.randint(3)
    if strategy == 2:
        negative = _surround(near, background, most_negative[2], rng)
    elif strategy == 1 and elsewhere.any():
        negative = _scatter(_inner(elsewhere, margin), rng.randint(most_negative[1] + 1), NEGATIVE, rng, step)
    else:
        allowed = near & background & (away >= margin**2)
        negative = _scatter(allowed, rng.randint(most_negative[0] + 1), NEGATIVE, rng, step)
    return _shuffled(positive + negative, rng)


def fbrs_clicks(
    mask: npt.NDArray[Any],
    rng: np.random.RandomState,
    others: Bits | None = None,
    most: int = 10,
    ratio: float = 0.7,
    strategies: tuple[float, float, float] = (0.1, 0.4, 0.5),
) -> list[Click]:
    """How f-BRS trains (Sofiiuk et al. 2020, SamsungLabs/fbrs c91c337).

    1 to ``most`` positive and 0 to ``most`` negative clicks, their numbers geometric: one more is ``ratio`` times as
    likely. Nine times in ten positive clicks come from the mask eroded three times, where that leaves anything. Each
    negative click comes from the background, from other objects or from a border around the mask as wide as a tenth
    of the root of its area; an empty region is replaced by the background. Unlike in the original no pixel is
    clicked twice.

    Args:
        mask: (H, W) integers: 0, 1, 255 = void.
        rng: the only source of randomness.
        others: (H, W) bool, where other objects are.
        most: clicks of a label.
        ratio: of the geometric distribution.
        strategies: probabilities of background, other objects and border.

    Raises:
        FewsegError: ``others`` is of another size.
    """
    on_object, background = mask == POSITIVE, mask == NEGATIVE
    core = cv2.erode(on_object.view(np.uint8), _CROSS, iterations=3, borderValue=0).astype(bool)
    inner = core if rng.random_sample() < 0.9 and core.any() else on_object
    positive = _pick(inner, 1 + _geometric(most, ratio, rng), POSITIVE, rng)
    width = math.ceil(0.1 * math.sqrt(np.count_nonzero(on_object)))
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    border = cv2.dilate(on_object.view(np.uint8), square).astype(bool) & background
    negative: list[Click] = []
    counts = rng.multinomial(_geometric(most + 1, ratio, rng), strategies)
    for region, count in zip((background, _others(mask, others), border), counts, strict=True):
        allowed = (region if region.any() else background).copy()
        for click in negative:
            allowed[click.row, click.col] = False
        negative += _pick(allowed, int(count), NEGATIVE, rng)
    return _shuffled(positive + negative, rng)


_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_SAMPLERS: dict[ClickSampling, Callable[[npt.NDArray[Any], np.random.RandomState, Bits | None], list[Click]]] = {
    "uniform": uniform_clicks,
    "dios": dios_clicks,
    "fbrs": fbrs_clicks,
}


def error_click(truth: npt.NDArray[Any], pred: npt.NDArray[Any], rng: np.random.RandomState) -> Click | None:
    """A click where a prediction errs, for iterative training (RITM, Sofiiuk et al. 2021).

    As for the robot, the deeper of false negatives and false positives is corrected, on ties the false positives; the
    click is a random one of its pixels that are deeper than half of the greatest depth.

    Args:
        truth: (H, W) integers: 0, 1, 255 = void, where nothing is wrong.
        pred: (H, W), non-zero is foreground.
        rng: the only source of randomness.

    Returns:
        The click, or nothing where the prediction has no error.

    Raises:
        FewsegError: shapes differ.

    >>> error_click(np.uint8([[0, 1, 0]]), np.uint8([[0, 0, 0]]), np.random.RandomState(0))
    Click(row=0, col=1, label=1)
    """
    negative, positive = (squared_depth(wrong) for wrong in error_maps(truth, pred))
    depth, label = (positive, POSITIVE) if positive.max() > negative.max() else (negative, NEGATIVE)
    clicks = _pick(4 * depth > depth.max(), 1, label, rng)
    return clicks[0] if clicks else None


def append_error_clicks(query_masks: Tensor, preds: Tensor, clicks: Tensor, rng: np.random.RandomState) -> Tensor:
    """``error_click`` for every episode of a batch, behind the clicks that it has.

    Args:
        query_masks: (B, H, W) integers: 0, 1, 255 = void.
        preds: (B, H, W), non-zero is foreground.
        clicks: (B, N, 3) integers (row, col, label), label -1 = padding.
        rng: the only source of randomness.

    Returns:
        (B, N + 1, 3) like ``clicks``; a perfect prediction gets one more row of padding.

    >>> truth, pred = torch.tensor([[[0, 1, 0]]]), torch.tensor([[[0, 0, 0]]])
    >>> append_error_clicks(truth, pred, torch.tensor([[[0, 0, 0]]]), np.random.RandomState(0)).tolist()
    [[[0, 0, 0], [0, 1, 1]]]
    """
    pairs = zip(query_masks.detach().cpu().numpy(), preds.detach().cpu().numpy(), strict=True)
    new = [error_click(truth, pred, rng) or (0, 0, NO_CLICK) for truth, pred in pairs]
    return torch.cat([clicks, clicks.new_tensor(new).reshape(-1, 1, 3)], 1)


def _pick(region: Bits, count: int, label: int, rng: np.random.RandomState) -> list[Click]:
    """Up to ``count`` pixels of a region, uniform without replacement."""
    rows, cols = np.nonzero(region)
    if 2 * count >= len(rows):
        chosen = rng.permutation(len(rows))[:count].tolist()
    else:  # the permutation of a whole image is slow
        seen: dict[int, None] = {}
        while len(seen) < count:
            seen[int(rng.randint(len(rows)))] = None
        chosen = list(seen)
    return [Click(int(rows[i]), int(cols[i]), label) for i in chosen]


def _scatter(region: Bits, count: int, label: int, rng: np.random.RandomState, step: float) -> list[Click]:
    """Up to ``count`` pixels of a region, uniform, any two of them at least ``step`` apart."""
    rows, cols = np.nonzero(region)
    chosen: list[Click] = []
    while len(rows) and len(chosen) < count:
        i = rng.randint(len(rows))
        row, col = int(rows[i]), int(cols[i])
        chosen.append(Click(row, col, label))
        free = (rows - row) ** 2 + (cols - col) ** 2 >= max(step, 1) ** 2
        rows, cols = rows[free], cols[free]
    return chosen


def _surround(near: Bits, background: Bits, count: int, rng: np.random.RandomState) -> list[Click]:
    """DIOS's third strategy: pixels of the band, each as far as possible from the earlier and from what is no band.

    In the middle of a band many pixels are equally far from its borders; the farthest from the earlier clicks is taken.
    """
    chosen = _pick(near & background, 1, NEGATIVE, rng)
    outside = np.full(near.shape, np.inf) if near.all() else squared_distance_transform(near).astype(np.float64)
    outside[~background] = 0  # void belongs to the band, but is not clicked
    clicked = np.full(near.shape, np.inf)
    rows, cols = np.ogrid[: near.shape[0], : near.shape[1]]
    while 0 < len(chosen) < count:
        np.minimum(clicked, (rows - chosen[-1].row) ** 2 + (cols - chosen[-1].col) ** 2, out=clicked)
        farthest = np.minimum(outside, clicked)
        if not farthest.max():
            break
        row, col = divmod(int(np.where(farthest == farthest.max(), clicked, 0).argmax()), near.shape[1])
        chosen.append(Click(row, col, NEGATIVE))
    return chosen


def _inner(region: Bits, margin: float) -> Bits:
    """The pixels of a region at least a margin away from its boundary, or else its innermost ones."""
    depth = squared_depth(region)
    return region & (depth >= min(margin**2, int(depth.max())))


def _others(mask: npt.NDArray[Any], others: Bits | None) -> Bits:
    """The pixels of other objects that are background here; none where the objects are not known."""
    if others is None:
        return np.zeros(mask.shape, bool)
    if others.shape != mask.shape:
        remedy = "move the objects together with the mask"
        raise FewsegError("others", f"shape {others.shape}", f"{mask.shape}", remedy)
    return np.asarray(others & (mask == NEGATIVE), bool)


def _geometric(n: int, ratio: float, rng: np.random.RandomState) -> int:
    """0 to n - 1, each ``ratio`` times as likely as the one before."""
    weights = ratio ** np.arange(n)
    return int(rng.choice(n, p=weights / weights.sum()))


def _shuffled(clicks: list[Click], rng: np.random.RandomState) -> list[Click]:
    return [clicks[i] for i in rng.permutation(len(clicks))]
