"""Clicks as tensors: ordered rows (row, col, label) become annotation maps, distance maps and disks, on any device.

Maps have one channel per label, in the order of the labels: channel 0 shows negative clicks, channel 1 positive ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fewseg.episode import NEGATIVE, NO_CLICK, POSITIVE, UNKNOWN, EpisodeBatch, Features
from fewseg.errors import FewsegError

ClickMaps = Literal["tanh", "euclidean", "disk"]

_NOWHERE = 1e6  # squared distance to the nearest click of a label that has none, as in the code of f-BRS


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
        clicks: (B, N, 3) integers (row, col, label), label -1 = padding; inside the image.
        size: (H, W) of the image.

    Returns:
        (B, H, W) uint8: 0 negative, 1 positive, 255 unknown.

    >>> draw_clicks(torch.tensor([[[0, 1, 1], [1, 0, 0], [0, 0, -1]]]), (2, 2)).tolist()
    [[[255, 1], [0, 255]]]
    """
    n, longest = clicks.shape[:2]
    place = clicks[..., 0].long() * size[1] + clicks[..., 1].long()  # (B, N)
    place = torch.where(clicks[..., 2] == NO_CLICK, size[0] * size[1], place)  # padding falls behind the last pixel
    order = torch.full((n, size[0] * size[1] + 1), -1, device=clicks.device)
    counted = torch.arange(longest, device=clicks.device).expand(n, longest)
    order = order.scatter_reduce(1, place, counted, "amax")[:, :-1]  # (B, H W), the last click of every pixel
    if not longest:
        return torch.full((n, *size), UNKNOWN, dtype=torch.uint8, device=clicks.device)
    labels = clicks[..., 2].long().gather(1, order.clamp(min=0))
    return torch.where(order < 0, UNKNOWN, labels).to(torch.uint8).reshape(n, *size)


def squared_distances(clicks: Tensor, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The squared distance in pixels from every pixel to the nearest click of each label; 1e6 where there is none.

    Args:
        clicks: (B, N, 3) integers (row, col, label), label -1 = padding.
        size: (H, W) of the image.
        dtype: of the result.

    Returns:
        (B, 2, H, W), negative clicks first.

    >>> squared_distances(torch.tensor([[[0, 0, 1]]]), (1, 3))[0].int().tolist()
    [[[1000000, 1000000, 1000000]], [[0, 1, 4]]]
    """
    best = torch.full((len(clicks), 2, *size), _NOWHERE, dtype=dtype, device=clicks.device)
    rows = torch.arange(size[0], device=clicks.device, dtype=dtype)[:, None]
    cols = torch.arange(size[1], device=clicks.device, dtype=dtype)
    labels = torch.tensor([NEGATIVE, POSITIVE], device=clicks.device)
    for number in range(clicks.shape[1]):  # one after the other, so that no more than one distance map is held beside
        row, col, label = clicks[:, number].unbind(1)
        distance = (rows - row[:, None, None]) ** 2 + (cols - col[:, None, None]) ** 2  # (B, H, W)
        own = (label[:, None] == labels)[..., None, None]  # (B, 2, 1, 1)
        best = torch.where(own, torch.minimum(best, distance[:, None]), best)
    return best


def click_maps(clicks: Tensor, size: tuple[int, int], kind: ClickMaps, dtype: torch.dtype = torch.float32) -> Tensor:
    """Clicks as the two channels that a network reads, negative first.

    Args:
        clicks: (B, N, 3) integers (row, col, label), label -1 = padding; or maps (B, 2, H, W) of floats, which are
            what refinement optimises and pass through unchanged.
        size: (H, W) of the image.
        kind: ``tanh``, tanh(2 d / 260) of the distance d in pixels and 1 without a click (f-BRS, Sofiiuk et al. 2020);
            ``euclidean``, min(d, 255) and 255 without a click (DIOS, Xu et al. 2016); ``disk``, 1 within 5 pixels of a
            click (RITM, Sofiiuk et al. 2021).
        dtype: of the result.

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
    squared = squared_distances(clicks, size, dtype)
    if kind == "tanh":
        return torch.tanh(2 * squared.sqrt() / 260)
    if kind == "euclidean":
        return squared.sqrt().clamp(max=255)
    if kind == "disk":
        return (squared <= 5**2).to(dtype)
    raise FewsegError("maps", kind, "tanh, euclidean or disk", "choose one of the three")


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
