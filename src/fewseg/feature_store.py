"""What a session keeps of earlier work: features in memory and in a file, and the most recently used answers."""

from __future__ import annotations

import math
import mmap
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Hashable
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewseg.episode import Features

OWN_PAGES = 2**20  # bytes from which a copy on the host has pages of its own


def n_bytes(value: Any) -> int:
    """Bytes that copies of all tensors of a tensor or tuple take; large ones on the host take whole pages.

    >>> n_bytes((torch.zeros(3, 5), "a word", (torch.zeros(2, dtype=torch.bool),)))
    62
    """
    if isinstance(value, Tensor):
        size = value.numel() * value.element_size()
        return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE if _has_own_pages(value) else size
    return sum(map(n_bytes, value)) if isinstance(value, tuple) else 0


def apart(values: Tensor) -> Tensor:
    """A copy to keep, which keeps nothing else alive.

    On the host a large one has pages of its own: among short-lived blocks it would fragment the heap. Small ones have
    not: most of a page would be empty, and a process may map some 65,000 regions only. Private pages are one region
    with their neighbours.

    >>> apart(torch.zeros(1000, 5)[:1]).untyped_storage().nbytes()
    20
    """
    if not _has_own_pages(values):
        return values.clone()
    pages = mmap.mmap(-1, n_bytes(values), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=values.dtype, count=values.numel()).view(values.shape).copy_(values)


def _has_own_pages(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.numel() * values.element_size() >= OWN_PAGES


class FeatureStore:
    """Features by key: in memory while they fit into a budget, beyond it in a file.

    What came first stays in memory: a video is mostly read in order, again and again, and whatever is evicted in that
    order would always be what is needed next. The file has no name, so nothing is left of it however the process ends.
    It is mapped for the time of one access, because mapped pages count as resident. After the first failure to write,
    nothing further is written; what could not be kept is not there when it is asked for.

    Args:
        budget: bytes in memory.
        device: where features come back; those in memory stay there.

    >>> store = FeatureStore(0, torch.device("cpu"))
    >>> store.put("a", Features((torch.arange(6.0).view(1, 2, 1, 3),), (4, 12)))
    >>> store.get("a").maps[0][0, :, 0].tolist(), store.get("b"), store.n_memory, store.n_file
    ([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], None, 0, 24)
    """

    def __init__(self, budget: int, device: torch.device) -> None:
        self.budget, self.device = budget, device
        self.n_memory = self.n_file = 0  # bytes
        self.file: IO[bytes] | None = None  # once there is one
        self._kept: dict[Hashable, Features] = {}
        self._filed: dict[Hashable, _Filed] = {}
        self._fails = False

    def __del__(self) -> None:
        if self.file is not None:
            self.file.close()

    def get(self, key: Hashable) -> Features | None:
        """The features, or None where they are not there."""
        if key in self._kept:
            return self._kept[key]
        filed = self._filed.get(key)
        return None if filed is None else Features(tuple(self._read(*at) for at in filed.places), filed.image_size)

    def put(self, key: Hashable, features: Features) -> None:
        """Keeps features where there is room."""
        size = n_bytes(features.maps)
        if self.n_memory + size <= self.budget:
            self._kept[key] = Features(tuple(map(apart, features.maps)), features.image_size)
            self.n_memory += size
        elif not self._fails:
            try:
                self._filed[key] = _Filed(tuple(map(self._write, features.maps)), features.image_size)
            except OSError as error:
                self._fails = True
                says = f"features beyond the budget are computed again where they are needed: OSError: {error}"
                warnings.warn(says, stacklevel=2)

    def _write(self, values: Tensor) -> _Place:
        if self.file is None:
            # unbuffered: what a full disk leaves in a buffer would fail again when the file is closed
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed with the store)
        place = _Place(self.n_file, tuple(values.shape), values.dtype)
        raw = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        self.file.seek(self.n_file)
        left = raw.data
        while left.nbytes:  # a full disk takes a part and fails at the next
            left = left[self.file.write(left) :]
        self.n_file += raw.nbytes
        return place

    def _read(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.zeros(shape, dtype=dtype, device=self.device)
        assert self.file is not None
        mapped = np.memmap(self.file, np.uint8, "r", offset, (size,))
        return torch.from_numpy(np.array(mapped)).view(dtype).view(shape).to(self.device)  # the map ends here


class _Place(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class _Filed(NamedTuple):
    places: tuple[_Place, ...]
    image_size: tuple[int, int]


class RecentStore:
    """The most recently used values, as many as fit into a budget.

    Args:
        budget: bytes of all of them.

    >>> store = RecentStore(8)
    >>> for key in "abc":
    ...     store.put(key, torch.zeros(1))
    >>> store.get("a"), store.get("c"), store.n_bytes
    (None, tensor([0.]), 8)
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.n_bytes = budget, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, or None where it is not there any more."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: Any) -> None:
        """Keeps a tensor, or a tuple with tensors, as it is."""
        size = n_bytes(value)
        if size > self.budget or key in self._kept:
            return
        self._kept[key] = (value, size)
        self.n_bytes += size
        while self.n_bytes > self.budget:
            self.n_bytes -= self._kept.popitem(last=False)[1][1]
