"""Wall-clock time of what runs on a device."""

from __future__ import annotations

import time
from typing import NamedTuple

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
