"""Features stay in memory while they fit, go to a file beyond that, and are counted as they lie there."""

import mmap
import os
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from fewseg.episode import Features
from fewseg.feature_store import OWN_PAGES, FeatureStore, RecentStore, n_bytes

CPU = torch.device("cpu")


def test_the_store_keeps_what_fits_and_files_the_rest():
    store = FeatureStore(100, CPU)
    values = {
        "a": torch.arange(20.0).view(1, 4, 5, 1),  # 80 bytes
        "b": torch.arange(8, dtype=torch.bfloat16).view(1, 2, 2, 2),  # 16 bytes
        "c": torch.randn(1, 3, 4, 5).to(memory_format=torch.channels_last),
        "d": torch.zeros(1, 0, 3, 3),
        "e": torch.tensor([[[[True, False, True]]]]),
    }
    for key, value in values.items():
        store.put(key, Features((value, value[:, :1]) if key == "c" else (value,), (7, 9)))
    assert store.n_memory == 99  # a, b, d and e
    assert store.n_file == 4 * (60 + 20)
    for key, value in values.items():
        found = store.get(key)
        assert found.image_size == (7, 9)
        assert torch.equal(found.maps[0], value)
        assert found.maps[0].dtype == value.dtype
    assert torch.equal(store.get("c").maps[1], values["c"][:, :1])
    assert store.get("nothing") is None


def test_a_part_of_a_large_tensor_does_not_keep_the_rest_alive():
    store = FeatureStore(100, CPU)
    store.put("a", Features((torch.zeros(1000, 5)[:1],), (1, 1)))
    assert store.get("a").maps[0].untyped_storage().nbytes() == 20


def test_reading_the_file_leaves_no_pages_mapped():
    store = FeatureStore(0, CPU)
    store.put("a", Features((torch.zeros(1, 64, 100, 100),), (1, 1)))
    held = store.get("a")
    inode = str(os.fstat(store.file.fileno()).st_ino)
    with Path("/proc/self/maps").open() as lines:  # address, permissions, offset, device, inode, path
        assert inode not in [line.split()[4] for line in lines]
    assert held.maps[0].shape == (1, 64, 100, 100)


def regions():
    """Memory maps of this process."""
    with Path("/proc/self/maps").open() as lines:
        return sum(1 for _ in lines)


def mapped():
    """Bytes of all of them."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


def test_more_small_tensors_than_a_process_may_map():
    store, before, start = FeatureStore(2**30, CPU), regions(), mapped()
    taps = tuple(torch.full((1, n, 1, 1), float(n)) for n in (1, 2, 3))
    for frame in range(22_000):  # 66,000 tensors; the kernel's limit is 65,530 maps
        store.put(frame, Features(taps, (1, 1)))
    assert store.n_memory == 22_000 * 24
    assert regions() - before < 1000
    assert mapped() - start < 200e6, "no page for each"
    assert [m.sum().item() for m in store.get(21_999).maps] == [1, 4, 9]


def test_large_tensors_have_whole_pages_which_count():
    values = torch.arange(OWN_PAGES // 4 + 1, dtype=torch.float32).view(1, 1, 1, -1)
    store = FeatureStore(OWN_PAGES + mmap.PAGESIZE, CPU)
    store.put("a", Features((values,), (1, 1)))
    assert store.n_memory == OWN_PAGES + mmap.PAGESIZE
    assert torch.equal(store.get("a").maps[0], values)
    strict = FeatureStore(OWN_PAGES + mmap.PAGESIZE - 1, CPU)
    strict.put("a", Features((values,), (1, 1)))
    assert (strict.n_memory, strict.n_file) == (0, OWN_PAGES + 4), "a file has no pages"
    assert torch.equal(strict.get("a").maps[0], values)
    assert n_bytes(values[..., :-2]) == OWN_PAGES - 4


def test_large_tensors_have_pages_of_their_own_and_give_them_back():
    store, n = FeatureStore(2**30, CPU), 20
    size, before = n_bytes(torch.zeros(600, 600)), (regions(), mapped())
    for key in range(n):
        store.put(key, Features((torch.zeros(1, 1, 600, 600),), (1, 1)))
    assert {store.get(key).maps[0].data_ptr() % mmap.PAGESIZE for key in range(n)} == {0}
    assert mapped() - before[1] > n * size // 2
    assert regions() - before[0] < n // 2, "neighbours are one region"
    del store
    assert mapped() - before[1] < n * size // 2, "and they go with the store"


def full(*_arguments, **_options):
    raise OSError(28, "No space left on device")


class Disk:
    """A file that takes at most 10 bytes at once, and so many in all."""

    def __init__(self, room):
        self.file, self.room = tempfile.TemporaryFile(buffering=0), room  # noqa: SIM115

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.room:
            full()
        taken = self.file.write(data[: min(10, self.room)])
        self.room -= taken
        return taken


def test_a_full_disk_is_survived_with_one_warning(monkeypatch):
    disk = Disk(40)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_options: disk)
    store = FeatureStore(0, CPU)
    features = [Features((torch.randn(1, 1, 2, 3), torch.randn(1, 1, 1, 1)), (2, 2)) for _ in range(3)]  # 28 bytes each
    store.put("a", features[0])
    with pytest.warns(UserWarning, match="No space left on device"):
        store.put("b", features[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put("c", features[2])
    assert [store.get(key) for key in "bc"] == [None, None]
    assert all(torch.equal(*pair) for pair in zip(store.get("a").maps, features[0].maps, strict=True))


def test_recent_values_leave_in_the_order_of_their_last_use():
    store = RecentStore(12)
    for key in "abc":
        store.put(key, torch.zeros(1))
    assert store.get("a") is not None
    store.put("d", (torch.zeros(1), "plain"))
    assert [store.get(key) is None for key in "abcd"] == [False, True, False, False]
    store.put("e", torch.zeros(4))  # more than all of it
    assert (store.get("e"), store.n_bytes) == (None, 12)
