"""From a network and a batch to scored rows: one code path for every method and every protocol."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fewseg.episode import EpisodeBatch, Row
from fewseg.functional.fuse import fuse
from fewseg.functional.geometry import restore
from fewseg.functional.iou import confusion_counts
from fewseg.network import SegmentorNetwork
from fewseg.sampling import EvaluationPart, groups

Item = TypeVar("Item")


class Seconds(NamedTuple):
    """Wall-clock seconds per episode of the three verbs, the device synchronised around each."""

    encode: float
    guide: float
    segment: float


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Prediction(NamedTuple):
    """logits (B, 2, H, W) at network size, the seconds of each verb, z (B, D) where the method has one."""

    logits: Tensor
    seconds: Seconds
    z: Tensor | None


@torch.inference_mode()
def predict(network: SegmentorNetwork, batch: EpisodeBatch) -> Prediction:
    """Runs the verbs on a batch, each timed apart."""
    batch = network.accept(batch)
    device = batch.support_annotations.device
    start = _now(device)
    supports, queries = network.encode_support(batch.support_images), network.encode_query(batch.query_images)
    encoded = _now(device)
    guidance = network.guide(supports, batch.support_annotations)
    guided = _now(device)
    logits = network.segment(queries, guidance, batch.query_clicks if network.uses_clicks else None)
    n = len(batch)
    seconds = Seconds((encoded - start) / n, (guided - encoded) / n, (_now(device) - guided) / n)
    return Prediction(logits, seconds, network.represent(guidance))


def masks(batch: EpisodeBatch, logits: Tensor, threshold: float = 0.5) -> list[np.ndarray[Any, Any]]:
    """Per episode the mask (H, W) uint8 at scoring size: foreground where its probability exceeds the threshold.

    Episodes of a group are one label map of their query: a pixel that several claim goes to the largest margin, so a
    batch holds whole groups.
    """
    margins = (logits[:, 1:] - logits[:, :1]).float() - math.log(threshold / (1 - threshold))
    predicted = []
    for places in groups(batch.specs):
        labels = fuse(torch.cat([restore(margins[i], batch.frames[i]) for i in places]))  # (n, H, W) -> (H, W)
        predicted += [(labels == part).to(torch.uint8).cpu().numpy() for part in range(1, len(places) + 1)]
    return predicted


def rows(
    batch: EpisodeBatch, logits: Tensor, part: EvaluationPart, indices: Iterable[int], seconds: Seconds | None = None
) -> list[Row]:
    """One row of integer counts per episode, at scoring size and under the protocol's void rule.

    The rows of a group count their classes in its one label map, so that their class-mean IoU is that of label maps.

    Args:
        batch: with targets.
        logits: (B, 2, H, W) at network size.
        part: the evaluation part of the protocol.
        indices: place of each episode in its list.
        seconds: time of each verb.
    """
    scored, predicted = [], masks(batch, logits, part.threshold)
    for index, spec, mask, target in zip(indices, batch.specs, predicted, batch.targets, strict=True):
        assert target is not None, f"episode {index} has no target to score"
        tp, fp, fn, tn = confusion_counts(mask, target.cpu().numpy(), part.void)
        scored.append(
            Row(
                episode=index,
                query=spec.query_id,
                support=" ".join(spec.support_ids),
                class_id=spec.class_id,
                tp=tp,
                fp=fp,
                fn=fn,
                tn=tn,
                object_id=spec.object_id,
                group=spec.group,
                present=spec.present,
                seconds_encode=seconds.encode if seconds else None,
                seconds_guide=seconds.guide if seconds else None,
                seconds_segment=seconds.segment if seconds else None,
            )
        )
    return scored


def gather_parts(own: Item) -> list[Item]:
    """What each process holds, in the order of their ranks.

    >>> gather_parts("a")
    ['a']
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def gather(own: Sequence[Item], place: Callable[[Item], int]) -> list[Item]:
    """What all processes made of a list of episodes, in its order; asserts that every episode is there exactly once.

    Args:
        own: one item per episode of this process.
        place: the place of an item's episode in the list.

    >>> gather(["b1", "a0"], lambda item: int(item[1]))
    ['a0', 'b1']
    """
    merged = sorted((item for part in gather_parts(list(own)) for item in part), key=place)
    assert list(map(place, merged)) == list(range(len(merged))), "an episode was scored twice or not at all"
    return merged
