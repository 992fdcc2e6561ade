"""Losses that more than one method may use."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE, VOID

Reduction = Literal["sum", "weighted"]

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


def balanced_cross_entropy(logits: Tensor, masks: Tensor, reduction: Reduction = "weighted") -> Tensor:
    """Binary cross-entropy in which both labels have the same weight, however few pixels one of them has.

    With P positive and N negative pixels among P + N known ones, an image has the loss N / (P + N) times the sum over
    positive pixels plus P / (P + N) times the sum over negative ones (Xie and Tu, "Holistically-nested edge detection",
    ICCV 2015; so does OSVOS).

    Args:
        logits: (B, ...) of the foreground alone.
        masks: (B, ...) uint8: 0, 1, 255 = void or unknown.
        reduction: ``sum`` as above; ``weighted`` divides by the sum of the weights, which leaves the mean of the two
            labels' means and does not depend on the size of the image or of the object.

    Returns:
        The mean over images; an image without pixels of either label has loss 0.

    >>> import torch
    >>> logits, masks = torch.zeros(1, 2, 2), torch.tensor([[[1, 0], [0, 0]]])
    >>> round(balanced_cross_entropy(logits, masks, "sum").item(), 4)  # 3/4 * log 2 + 1/4 * 3 * log 2
    1.0397
    >>> round(balanced_cross_entropy(logits, masks).item(), 4)  # log 2
    0.6931
    """
    logits = logits.float().flatten(1)
    positive, negative = ((masks == label).flatten(1).to(logits.dtype) for label in (POSITIVE, NEGATIVE))
    n_positive, n_negative = positive.sum(1, keepdim=True), negative.sum(1, keepdim=True)  # (B, 1)
    weights = (n_negative * positive + n_positive * negative) / (n_positive + n_negative).clamp(min=1)
    total = (weights * (F.softplus(-logits) * positive + F.softplus(logits) * negative)).sum(1)
    if reduction == "weighted":
        total = total / weights.sum(1).clamp(min=1)  # 2 P N / (P + N) is at least 1 where there are both
    return total.mean()
