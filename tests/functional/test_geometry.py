import pytest
import torch
import torch.nn.functional as F

from fewseg.episode import Box, Frame
from fewseg.errors import FewsegError
from fewseg.functional.geometry import restore, upsample


def test_restore_without_resizing_crops():
    logits = torch.rand(3, 2, 8, 8)
    frame = Frame(original=(5, 6), network=(8, 8), box=Box(1, 2, 5, 6))
    assert torch.equal(restore(logits, frame), logits[..., 1:6, 2:8])


def test_restore_never_reads_padding():
    logits = torch.full((2, 8, 8), torch.nan)
    logits[:, :4] = 1.0
    restored = restore(logits, Frame(original=(40, 80), network=(8, 8), box=Box(0, 0, 4, 8)))
    torch.testing.assert_close(restored, torch.ones(2, 40, 80))


@pytest.mark.parametrize("leading", [(), (1,), (2, 3)])
def test_restore_keeps_leading_axes(leading):
    logits = torch.rand(*leading, 2, 7, 9)
    restored = restore(logits, Frame(original=(13, 5), network=(7, 9), box=Box(0, 0, 7, 9)))
    flat = F.interpolate(logits.reshape(-1, 2, 7, 9), size=(13, 5), mode="bilinear", align_corners=False)
    assert torch.equal(restored, flat.reshape(*leading, 2, 13, 5))


def test_restore_refuses_another_size():
    with pytest.raises(FewsegError, match=r"logits: got \(2, 4, 4\)"):
        restore(torch.rand(2, 4, 4), Frame(original=(4, 4), network=(8, 8), box=Box(0, 0, 8, 8)))


def test_upsample_at_size_is_the_same_tensor():
    maps = torch.rand(1, 2, 3, 4)
    assert upsample(maps, (3, 4)) is maps
