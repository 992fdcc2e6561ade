"""The interface of every method: ``guide`` turns annotated supports into z, ``segment`` applies z to a query."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.episode import VOID, EpisodeBatch, Features
from fewseg.functional.clicks import clicks_as_shot


class SegmentorNetwork(nn.Module):
    """A few-shot segmentor: plain torch, no episode state on the module, ever.

    A subclass sets ``encoder`` and writes ``guide`` and ``segment``. Class attributes tell shared tests and tools what
    a method can do; nothing asks for its name. Those that are no class variables may depend on hyper-parameters, and
    then a constructor sets them on the instance.
    """

    output: ClassVar[str] = "masks"  # "masks" or "instances"
    fixed_classes: ClassVar[bool] = False  # labels of its instances are class ids, whatever is asked for
    uses_support: bool = True  # False: class-blind baseline
    uses_clicks: bool = False  # segment reads clicks on the query
    encodes_clicks: bool = False  # clicks enter its encoder: encode_query keeps the images
    accepts_sparse: ClassVar[bool] = True  # unknown pixels in annotations are meaningful
    order_invariant: ClassVar[bool] = True  # the order of shots does not matter
    trainable: ClassVar[bool] = True  # has parameters that learn from episodes
    episodic: ClassVar[bool] = True  # its training reads the supports; False: only its answer does
    cacheable: bool = True  # works on cached Features of a frozen encoder
    early: bool = False  # sees supports and annotations together: encode_support keeps the images
    shared_encoder: bool = True  # support and query features come from one encoder
    exportable: ClassVar[bool] = True  # torch.export traces its verbs
    min_size: ClassVar[int] = 1  # smallest image side in pixels
    max_shot: ClassVar[int | None] = None  # largest K, None = any
    insertion_points: ClassVar[tuple[str, ...]] = ("features",)  # where test-time refinement may act

    encoder: nn.Module

    def encode_support(self, images: Tensor | Features) -> Features:
        """Everything about supports (B, K, 3, Hs, Ws) that needs no annotation: what sessions and caches keep."""
        return cast(Features, self.encoder(images))

    def encode_query(self, images: Tensor | Features) -> Features:
        """Features of queries (B, 3, H, W); by default from the encoder of the supports."""
        return cast(Features, self.encoder(images))

    def guide(self, features: Features, annotations: Tensor) -> Any:
        """The task representation z: a Tensor or NamedTuple of Tensors with leading B.

        Args:
            features: of the supports, maps (B, K, C, h, w).
            annotations: (B, K, H, W) uint8: 0 negative, 1 positive, 255 unknown.
        """
        raise TypeError(f"{type(self).__name__} must define guide()")

    def segment(self, features: Features, guidance: Any, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W) at image size, 0 background and 1 foreground.

        Args:
            features: of the queries, maps (B, C, h, w); B = 1 broadcasts against guidance of B = n.
            guidance: what ``guide`` returned.
            clicks: (B, N, 3) integer rows of (row, col, label), or (B, 2, H, W) float maps while refinement
                optimises them; read only where ``uses_clicks``.
        """
        raise TypeError(f"{type(self).__name__} must define segment()")

    def represent(self, guidance: Any) -> Tensor | None:
        """The z of each episode as one vector, (B, D), for the diagnosis of guidance; None where there is none.

        By default the guidance itself, or the first field of a NamedTuple, flattened.
        """
        if not self.uses_support:
            return None
        z: Tensor = guidance[0] if isinstance(guidance, tuple) else guidance
        return z.flatten(1)

    def segment_to(self, point: str, features: Features, guidance: Any, clicks: Tensor | None = None) -> Any:
        """The hidden value at an insertion point; ``segment == segment_from(p, segment_to(p, ...), ...)``."""
        self._check_point(point)
        return features

    def segment_from(self, point: str, hidden: Any, guidance: Any, clicks: Tensor | None = None) -> Tensor:
        """Logits from the hidden value at an insertion point."""
        self._check_point(point)
        return self.segment(hidden, guidance, clicks)

    def _check_point(self, point: str) -> None:
        if point not in self.insertion_points:
            raise ValueError(
                f"point: got {point!r}, expected one of {self.insertion_points}; "
                f"{type(self).__name__} declares no other insertion point"
            )

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Named losses whose sum is minimised; by default cross-entropy over the query outside void."""
        return {"cross_entropy": cross_entropy(self(batch), batch.query_masks)}

    def clicks_are_a_shot(self, n_shot: int) -> bool:
        """Whether clicks reach this network as one more shot: it reads none, or K = 0 leaves it without support."""
        return self.uses_support and not (self.uses_clicks and n_shot)

    def accept(self, batch: EpisodeBatch) -> EpisodeBatch:
        """The batch as this network reads it: clicks that it has no input for become one more shot.

        They also stand in for supports where an episode has none. A batch that was accepted before stays as it is.
        """
        n_clicks = batch.query_clicks.shape[1]
        if n_clicks and self.clicks_are_a_shot(batch.n_shot):
            batch = clicks_as_shot(batch)
        if n_clicks and not self.uses_clicks:
            return dataclasses.replace(batch, query_clicks=batch.query_clicks[:, :0])
        return batch

    def forward(self, batch: EpisodeBatch) -> Tensor:
        """Composes the verbs: logits (B, 2, H, W) of a batch."""
        batch = self.accept(batch)
        guidance = self.guide(self.encode_support(batch.support_images), batch.support_annotations)
        clicks = batch.query_clicks if self.uses_clicks else None
        return self.segment(self.encode_query(batch.query_images), guidance, clicks)

    def original_entries(self) -> list[Tensor | None]:
        """The tensors of this network in the order of the original implementation's state; None skips an entry."""
        raise ValueError(
            f"load_original: got {type(self).__name__} as built here, expected a paper-exact network; "
            'build it with create_model(name, variant="paper")'
        )

    @torch.no_grad()
    def load_original(self, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Takes the arrays of the original's state in the original's order (one method's file says which order).

        Args:
            arrays: one array per entry; those of fixed kernels and counters are skipped.
        """
        entries = self.original_entries()
        if len(arrays) != len(entries):
            raise ValueError(
                f"arrays: got {len(arrays)}, expected {len(entries)}; pass the original's whole state in its order"
            )
        for i, (entry, array) in enumerate(zip(entries, arrays, strict=True)):
            if entry is None:
                continue
            if entry.shape != array.shape:
                raise ValueError(
                    f"arrays[{i}]: got shape {array.shape}, expected {tuple(entry.shape)}; "
                    "check the order of the original's state"
                )
            entry.copy_(torch.as_tensor(array))


def cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels outside void; 0 (with a gradient of zeros) where all is void.

    Args:
        logits: (B, n, H, W).
        masks: (B, H, W) uint8 labels, 255 = void.
    """
    total = F.cross_entropy(logits.float(), masks.long(), ignore_index=VOID, reduction="sum")
    return total / (masks != VOID).sum().clamp(min=1)
