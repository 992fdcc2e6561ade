import torch

from fewseg.functional.fuse import any_shot, fuse


def test_a_pixel_that_no_part_claims_is_background_and_a_tie_with_zero_too():
    assert fuse(torch.tensor([[[0.0, -1.0, 1e-6]]])).tolist() == [[0, 0, 1]]


def test_any_shot_is_the_union_of_the_masks():
    logits = torch.randn(2, 3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    union = (logits[:, :, 1] > logits[:, :, 0]).any(1)
    fused = any_shot(logits)
    assert torch.equal(fused[:, 1] > fused[:, 0], union)
    assert torch.equal(any_shot(logits.flip(1)), fused)
