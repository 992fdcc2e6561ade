"""Several binary answers made one: classes of a multi-way task, and shots that vote."""

from __future__ import annotations

import torch
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE


def fuse(margins: Tensor) -> Tensor:
    """Labels of a multi-way task from the foreground margins of its binary parts (SG-One, section 4.4).

    Args:
        margins: (n, H, W), foreground minus background logit of each part.

    Returns:
        (H, W) int64: 0 where every part says background, else 1 + the part with the largest margin.

    >>> fuse(torch.tensor([[[2.0, -1.0, 0.5]], [[1.0, -3.0, 0.7]]]))
    tensor([[1, 0, 2]])
    """
    best, part = margins.max(0)
    return torch.where(best > 0, part + 1, 0)


def any_shot(logits: Tensor) -> Tensor:
    """The logits of the shot with the largest foreground margin: the logical OR of the shots' masks.

    OSLSM's and SG-One's way to use several shots without training for it.

    Args:
        logits: (B, K, 2, H, W), one answer per shot.

    Returns:
        (B, 2, H, W).

    >>> any_shot(torch.tensor([[0.0, -1.0], [0.0, 3.0]]).view(1, 2, 2, 1, 1)).flatten()
    tensor([0., 3.])
    """
    margin = logits[:, :, POSITIVE] - logits[:, :, NEGATIVE]  # (B, K, H, W)
    best = margin.argmax(1)[:, None, None].expand(-1, 1, 2, -1, -1)
    return logits.gather(1, best)[:, 0]
