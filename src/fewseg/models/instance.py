"""What methods share whose answer is instances: the verbs around a detector, and what it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from fewseg.episode import POSITIVE, Box, EpisodeBatch, Features, Frame, Instances
from fewseg.errors import FewsegError
from fewseg.functional.annotations import silence
from fewseg.modules.detection import Detector, restored, union_logits
from fewseg.modules.encoders import Encoder
from fewseg.network import SegmentorNetwork


class InstanceNetwork(SegmentorNetwork):
    """What networks share whose answer is instances: a subclass encodes, guides and says what its detector reads.

    Args:
        encoder: of scenes.
        detector: that finds the instances.
    """

    output: ClassVar[str] = "instances"
    exportable: ClassVar[bool] = False  # how many instances there are depends on the image
    detector: Detector

    def detect(
        self, features: Features, guidance: Any, frames: Sequence[Frame] | None = None, threshold: float = 0.0
    ) -> tuple[Instances, ...]:
        """The instances of every image, highest score first.

        Args:
            features: of the scenes, maps (B, C, h, w); B = 1 broadcasts against guidance of B = n.
            guidance: what ``guide`` returned.
            frames: how the scenes lie in the canvas; with them instances are in the pixels of the original images, else
                in those of the canvas.
            threshold: scores must be above it; masks of others are not drawn at all.
        """
        found = self.detector(self.match(features, guidance))
        whole = Frame(features.image_size, features.image_size, Box(0, 0, *features.image_size))
        places = frames if frames is not None else (whole,) * len(found)
        heard = self.asked(guidance, len(found))
        return tuple(
            restored({key: value if one else value[:0] for key, value in found_in_image.items()}, frame, threshold)
            for found_in_image, frame, one in zip(found, places, heard, strict=True)
        )

    def match(self, features: Features, guidance: Any) -> Features:
        """What the detector reads: the maps of every level."""
        raise TypeError(f"{type(self).__name__} must define match()")

    def asked(self, guidance: Any, n: int) -> list[bool]:
        """Of each episode whether anything was asked for."""
        return [True] * n

    def segment(self, features: Features, guidance: Any, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W) of the score-weighted union of the instances, so that semantic metrics apply."""
        found = self.detect(features, guidance)
        logits = torch.stack([union_logits(instances, features.image_size) for instances in found])
        return silence(logits, torch.tensor(self.asked(guidance, len(found)), device=logits.device))


def targets_of(batch: EpisodeBatch) -> tuple[Instances, ...]:
    """The instances to train on; where a batch has masks only, the 8-connected components of each query's mask."""
    if batch.instances is not None:
        return batch.instances
    return tuple(_components(mask, spec.class_id) for mask, spec in zip(batch.query_masks, batch.specs, strict=True))


def _components(mask: Tensor, class_id: int) -> Instances:
    n, parts = cv2.connectedComponents((mask == POSITIVE).to(torch.uint8).cpu().numpy(), connectivity=8)
    masks = torch.from_numpy(parts[None] == np.arange(1, n)[:, None, None]).to(mask.device, torch.uint8)
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1  # to the far edge of the last pixel
    return Instances(boxes, masks, torch.full((n - 1,), class_id, device=mask.device))


def check_warmup(steps: int) -> None:
    """Raises a FewsegError where an encoder should wait for a negative number of steps.

    >>> check_warmup(0)
    """
    if steps < 0:
        raise FewsegError("warmup_steps", steps, "0 or more", "with 0 the encoder learns from the first step on")


def detection_encoder(
    name: str,
    weights: str | None,
    taps: tuple[int, ...] | None,
    trainable: bool,
    norm: Literal["frozen", "train"] | None,
) -> Encoder:
    """An encoder whose taps make a pyramid: by default both of ``tiny``, or the last four of a timm model."""
    if taps is None and name != "tiny":
        taps = (-4, -3, -2, -1)
    return Encoder(name, weights, None, taps, trainable, norm)
