import numpy as np
import pytest
import torch

from fewseg.episode import Box, Click
from fewseg.errors import FewsegError
from fewseg.functional.zoom import (
    box_iou,
    clicks_in,
    merge_mirrored,
    mirrored_clicks,
    needs_new_region,
    next_region,
    paste,
    region_of,
)


def mask_of(box, size=(500, 400)):
    mask = np.zeros(size, np.uint8)
    mask[box.top : box.top + box.height, box.left : box.left + box.width] = 1
    return mask


# ------------------------------------------------------------------------------------------------------------ regions


def test_a_box_grows_about_its_centre():
    """200 rows from 150 to 350 become 280 about 250, 300 columns from 50 to 350 become 420 and are cut at 400."""
    assert region_of(mask_of(Box(150, 50, 200, 300)), []) == Box(110, 0, 280, 400)


def test_a_small_object_gets_the_smallest_crop():
    assert region_of(mask_of(Box(250, 200, 10, 20)), []) == Box(155, 110, 200, 200)


def test_a_crop_is_cut_at_the_border():
    """20 pixels in the corner: 200 about 10 would be -90 to 110."""
    assert region_of(mask_of(Box(0, 380, 20, 20)), []) == Box(0, 290, 110, 110)


def test_an_image_smaller_than_the_smallest_crop_is_the_crop():
    assert region_of(mask_of(Box(40, 40, 5, 5), (96, 80)), []) == Box(0, 0, 96, 80)


def test_positive_clicks_belong_to_the_object():
    mask = mask_of(Box(200, 200, 100, 100))
    one = region_of(mask, [Click(400, 250, 1), Click(0, 0, 0)], expansion=1.0, min_size=1)
    assert one == Box(200, 200, 201, 100)  # rows 200 to 400, both of them inside
    assert mask.sum() == 100 * 100, "the mask itself stays as it is"


def test_nothing_found_is_no_crop():
    assert region_of(np.zeros((9, 9)), [Click(4, 4, 1)]) is None


def test_overlap_of_boxes():
    assert box_iou(Box(0, 0, 10, 10), Box(0, 0, 10, 10)) == 1.0
    assert box_iou(Box(0, 0, 10, 10), Box(5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert box_iou(Box(0, 0, 10, 10), Box(10, 0, 10, 10)) == 0.0
    assert box_iou(Box(0, 0, 10, 10), Box(20, 20, 10, 10)) == 0.0, "two negative overlaps are no positive one"


def test_a_crop_is_kept_while_it_fits():
    crop = Box(100, 100, 200, 200)
    assert not needs_new_region(crop, Box(100, 100, 200, 100), [Click(100, 299, 1)])  # IoU is 0.5 exactly
    assert needs_new_region(crop, Box(100, 100, 200, 99), [])
    assert needs_new_region(crop, crop, [Click(100, 300, 1)])  # one column outside
    assert not needs_new_region(crop, crop, [Click(100, 300, 0)])  # negative clicks may lie outside


def test_the_crop_of_a_session():
    """First the whole image, then a crop, which stays until a positive click leaves it."""
    mask, clicks = mask_of(Box(200, 150, 100, 100)), [Click(250, 200, 1), Click(240, 160, 0), Click(420, 200, 1)]
    assert next_region(None, mask, clicks[:1]) is None
    first = next_region(None, mask, clicks[:2])
    assert first == Box(150, 100, 200, 200)
    assert next_region(first, mask_of(Box(180, 150, 110, 110)), clicks[:2]) == first
    moved = next_region(first, mask, clicks)
    assert moved == Box(156, 100, 309, 200)  # 221 rows from 200 to 421 times 1.4 about 310.5
    assert next_region(first, np.zeros_like(mask), clicks[:2]) is None


def test_clicks_move_with_the_crop_and_probabilities_move_back():
    crop = Box(30, 20, 10, 15)
    inside = clicks_in([Click(30, 20, 1), Click(39, 34, 0), Click(40, 20, 0), Click(30, 35, 0), Click(29, 20, 0)], crop)
    assert inside == (Click(0, 0, 1), Click(9, 14, 0))
    probs = np.random.RandomState(0).rand(10, 15).astype(np.float32)
    image = paste(probs, crop, (60, 70))
    assert image.shape == (60, 70)
    assert image.dtype == np.float32
    assert np.array_equal(image[30:40, 20:35], probs)
    assert image.sum() == pytest.approx(probs.sum())
    assert image[39, 34] == probs[inside[1][:2]]


def test_paste_refuses_another_size():
    with pytest.raises(FewsegError, match=r"probs: got \(4, 4\), expected \(3, 4\)"):
        paste(np.zeros((4, 4), np.float32), Box(0, 0, 3, 4), (9, 9))


# ------------------------------------------------------------------------------------------------------ mirror images


def test_clicks_lie_on_the_same_pixels_of_the_mirror_image():
    image = torch.arange(12).reshape(3, 4)
    clicks = torch.tensor([[[0, 0, 1], [2, 3, 0], [1, 2, 1], [0, 0, -1]]], dtype=torch.int32)
    mirrored = mirrored_clicks(clicks, 4)
    assert [image.flip(-1)[r, c] for r, c, _ in mirrored[0, :3]] == [image[r, c] for r, c, _ in clicks[0, :3]]
    assert mirrored[0, 3].tolist() == [0, 0, -1]
    assert mirrored.dtype == clicks.dtype
    assert torch.equal(mirrored_clicks(mirrored, 4), clicks)


def test_merged_probabilities_are_the_mean():
    logits = torch.randn(2, 2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (logits[0].softmax(0) + logits[1].flip(-1).softmax(0)) / 2
    torch.testing.assert_close(merge_mirrored(logits).softmax(1)[0], expected)


def test_merging_keeps_certain_answers_finite():
    certain = torch.tensor([[[[900.0]], [[-900.0]]]]).expand(2, -1, -1, -1)
    merged = merge_mirrored(certain)
    assert merged.shape == (1, 2, 1, 1)
    assert merged.isfinite().all()
    assert merged.softmax(1)[0, 0] == 1
