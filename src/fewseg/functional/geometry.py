"""From a feature grid to the image, and from the network's canvas to the original image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import Frame
from fewseg.errors import FewsegError


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing with align_corners=False, unchanged where the size is right already.

    Args:
        maps: (B, C, h, w) floats.
        size: (H, W).

    >>> import torch
    >>> upsample(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
    tensor([[[[0., 1., 3., 4.]]]])
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def restore(logits: Tensor, frame: Frame) -> Tensor:
    """Logits at network size become logits at original size: the valid box, resized bilinearly.

    Args:
        logits: (..., C, h, w) with (h, w) = ``frame.network``.
        frame: how the original image lies in the network's canvas.

    Returns:
        (..., C, H, W) with (H, W) = ``frame.original``.

    Raises:
        FewsegError: the logits are not at network size.

    >>> import torch
    >>> from fewseg.episode import Box
    >>> logits = torch.tensor([[[1.0, 3.0], [9.0, 9.0]]])  # the second row is padding
    >>> restore(logits, Frame(original=(2, 4), network=(2, 2), box=Box(0, 0, 1, 2)))
    tensor([[[1.0000, 1.5000, 2.5000, 3.0000],
             [1.0000, 1.5000, 2.5000, 3.0000]]])
    """
    if tuple(logits.shape[-2:]) != tuple(frame.network):
        raise FewsegError("logits", tuple(logits.shape), f"(..., C, *{frame.network})", "pass the network's own output")
    top, left, height, width = frame.box
    valid = logits[..., top : top + height, left : left + width]
    return upsample(valid.reshape(-1, *valid.shape[-3:]), frame.original).reshape(*logits.shape[:-2], *frame.original)
