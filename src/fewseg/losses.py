"""Losses that more than one method may use."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import POSITIVE, VOID

_EPS = 1e-12


def normalized_focal_loss(logits: Tensor, masks: Tensor, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Focal loss over the sum of its own weights, so that well learned images go on to be learned from.

    With p the probability of the true label of a pixel outside void, and w = (1 - p)^gamma, an image has the loss
    sum(a w (-log p)) / sum(w), where no gradient flows through the denominator and a is alpha for foreground, 1 - alpha
    for background (Sofiiuk, Barinova, Konushin, "AdaptIS", ICCV 2019, which f-BRS trains with).

    Args:
        logits: (B, 2, H, W).
        masks: (B, H, W) uint8: 0, 1, 255 = void.
        alpha: weight of the foreground.
        gamma: how little pixels count that are right already, 1 or more.

    Returns:
        The mean over images; an image without any known pixel has loss 0.

    >>> import torch
    >>> logits = torch.zeros(1, 2, 1, 2)  # p = 0.5 everywhere: 0.5 * log 2
    >>> round(normalized_focal_loss(logits, torch.tensor([[[0, 1]]])).item(), 4)
    0.3466
    """
    margin = (logits[:, 1] - logits[:, 0]).float()  # (B, H, W)
    foreground, known = masks == POSITIVE, masks != VOID
    log_p = F.logsigmoid(margin.where(foreground, -margin))
    focus = ((1 - log_p.exp()) ** gamma) * known
    label_weight = alpha * foreground + (1 - alpha) * ~foreground
    total = (label_weight * focus * -log_p).sum((1, 2)) / (focus.sum((1, 2)).detach() + _EPS)
    return total.mean()
