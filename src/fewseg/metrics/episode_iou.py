"""The IoU family of episode benchmarks as a torchmetrics Metric."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from fewseg.errors import FewsegError
from fewseg.functional.iou import Void, confusion_counts, fb_iou, mean_iou, per_class_iou, positive_iou


class EpisodeIoU(Metric):
    """Sums tp, fp, fn, tn per class over episodes; exact over any number of processes, because sums of integers are.

    Args:
        n_classes: classes of the data set, with ids 1 to n_classes (0 serves data without classes).
        void: what void pixels of a target count as, see ``confusion_counts``.

    >>> metric = EpisodeIoU(n_classes=2)
    >>> metric.update(torch.tensor([[3, 1, 1, 3], [1, 1, 0, 6], [0, 0, 1, 7]]), None, [1, 1, 2])
    >>> {name: round(value, 3) for name, value in metric.compute().items() if name != "per_class_iou"}
    {'miou': 0.286, 'fb_iou': 0.65, 'positive_iou': 0.5}
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    counts: Tensor

    def __init__(self, n_classes: int, void: Void = "ignore") -> None:
        super().__init__()
        self.void: Void = void
        self.add_state("counts", torch.zeros(n_classes + 1, 4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Iterable[Tensor], targets: Iterable[Tensor] | None, class_ids: Iterable[int]) -> None:
        """Adds B episodes.

        Args:
            preds: (B, H, W) or B masks (H, W) of different sizes, non-zero is foreground; without ``targets``,
                (B, 4) integer counts (tp, fp, fn, tn).
            targets: (B, H, W) or B masks: 0, 1, 255 = void.
            class_ids: (B,) integers.

        Raises:
            FewsegError: a class id is outside 0 to n_classes; see also ``confusion_counts``.
        """
        if targets is None:
            counts = [torch.as_tensor(c).to(self.counts) for c in preds]
        else:
            pairs = zip(preds, targets, strict=True)
            counts = [self.counts.new_tensor(confusion_counts(p, t, self.void)) for p, t in pairs]
        for class_id, count in zip(map(int, class_ids), counts, strict=True):
            if not 0 <= class_id < len(self.counts):
                raise FewsegError(
                    "class_ids", class_id, f"0 to {len(self.counts) - 1}", "pass the data set's class ids"
                )
            self.counts[class_id] += count

    def compute(self) -> dict[str, float | dict[int, float]]:
        """``miou``, ``fb_iou``, ``positive_iou`` in [0, 1], and ``per_class_iou`` (class id -> IoU) of classes seen."""
        counts = self.counts.cpu().numpy()
        seen = np.flatnonzero(counts.any(axis=1))
        tp, fp, fn, tn = counts[seen].T
        return {
            "miou": mean_iou(seen, tp, fp, fn),
            "fb_iou": fb_iou(tp, fp, fn, tn),
            "positive_iou": positive_iou(tp, fp, fn),
            "per_class_iou": per_class_iou(seen, tp, fp, fn),
        }
