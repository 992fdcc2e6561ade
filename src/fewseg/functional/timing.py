"""Wall-clock time of what runs on a device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch


class Seconds(NamedTuple):
    """Wall-clock seconds of the three verbs and of test-time refinement, the device synchronised around each."""

    encode: float = 0.0
    guide: float = 0.0
    segment: float = 0.0
    refine: float = 0.0


def now(device: torch.device) -> float:
    """The clock, after everything that was asked of a device.

    >>> now(torch.device("cpu")) <= now(torch.device("cpu"))
    True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Clock:
    """Seconds of the verbs, added up over several blocks.

    Args:
        device: on which they run.

    >>> clock = Clock(torch.device("cpu"))
    >>> for _ in range(2):
    ...     with clock.running("guide"):
    ...         time.sleep(0.01)
    >>> clock.seconds.guide > 0.02, clock.seconds.encode
    (True, 0.0)
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, Seconds()

    @contextmanager
    def running(self, verb: Literal["encode", "guide", "segment", "refine"]) -> Iterator[None]:
        """The time inside the ``with`` block goes to one verb."""
        start = now(self.device)
        yield
        spent = getattr(self.seconds, verb) + now(self.device) - start
        self.seconds = self.seconds._replace(**{verb: spent})
