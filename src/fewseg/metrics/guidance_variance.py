"""How much z says: the diagnosis of guidance of the guided networks (section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Shares(NamedTuple):
    """Parts of the mean squared length of z, each in [0, 1].

    ``within`` is the variance within classes, ``between`` that of the class means. What is left of 1 belongs to the
    mean over all episodes: it is the same whatever was annotated and guides nothing.
    """

    within: float
    between: float


class GuidanceVariance:
    """Sums over episodes, so that z itself is never kept. Two of them add up to that of all their episodes.

    E|z|² = E|z - mean of its class|² + E|mean of its class - mean|² + |mean|²; the shares divide by E|z|², so that
    methods with z of another size or scale can be compared.

    >>> variance = GuidanceVariance()
    >>> variance.update([1, 1, 2, 2], torch.tensor([[3.0], [1.0], [0.0], [0.0]]))  # means 2 and 0; mean square 2.5
    >>> variance.compute()
    Shares(within=0.2, between=0.4)
    """

    def __init__(self) -> None:
        self.episodes: dict[int, int] = {}
        self.sums: dict[int, Tensor] = {}
        self.squares = 0.0

    def update(self, class_ids: Sequence[int], z: Tensor) -> None:
        """Adds episodes.

        Args:
            class_ids: (B,), what each episode asks for.
            z: (B, D); the first dimension may be 1 where one z serves all.
        """
        vectors = z.detach().double().cpu().expand(len(class_ids), -1)
        self.squares += float(vectors.square().sum())
        for class_id, vector in zip(class_ids, vectors, strict=True):
            self._add(class_id, 1, vector)

    def plus(self, other: GuidanceVariance) -> GuidanceVariance:
        """Of the episodes of both."""
        both = GuidanceVariance()
        both.squares = self.squares + other.squares
        for part in (self, other):
            for class_id, total in part.sums.items():
                both._add(class_id, part.episodes[class_id], total)
        return both

    def _add(self, class_id: int, episodes: int, total: Tensor) -> None:
        known = class_id in self.sums
        self.sums[class_id] = self.sums[class_id] + total if known else total.clone()
        self.episodes[class_id] = self.episodes.get(class_id, 0) + episodes

    def compute(self) -> Shares | None:
        """The shares; None where no episode had a z or all were zero."""
        if self.squares == 0:
            return None
        n = sum(self.episodes.values())
        second = self.squares / n
        classes = sum(float(total.square().sum()) / self.episodes[c] for c, total in self.sums.items()) / n
        common = float(torch.stack(list(self.sums.values())).sum(0).div(n).square().sum())
        within, between = (second - classes) / second, (classes - common) / second
        return Shares(max(round(within, 9), 0.0), max(round(between, 9), 0.0))  # rounding may leave -1e-17
