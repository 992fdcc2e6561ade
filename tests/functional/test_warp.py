"""Warps: places by hand, images and annotations moved alike, points that are never lost."""

import pytest
import torch

from fewseg.functional.warp import Warp, draw_warp, warp_annotations, warp_images

torch.set_num_threads(1)


def ramp(height, width):
    """A channel of the columns and one of the rows, so that values name places."""
    rows, columns = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return torch.stack([columns, rows])[None]


def test_a_quarter_turn_and_a_mirror_are_exact():
    image = ramp(5, 5)
    torch.testing.assert_close(warp_images(image, Warp(angle=90)), image.rot90(-1, (2, 3)))  # clockwise on a screen
    torch.testing.assert_close(warp_images(image, Warp(angle=90, flip=True)), image.flip(3).rot90(-1, (2, 3)))
    labels = (torch.arange(25).reshape(1, 5, 5) % 2).to(torch.uint8)
    assert torch.equal(warp_annotations(labels, Warp(angle=90, flip=True)), labels.flip(2).rot90(-1, (1, 2)))


def test_scaling_is_about_the_centre_and_outside_is_nothing():
    image = ramp(7, 9)
    small = warp_images(image, Warp(scale=0.5))
    assert small[0, :, 3, 4].tolist() == [4, 3]  # the centre stays
    assert small[0, :, 3, 6].tolist() == [8, 3]  # two pixels show four
    assert small[0, :, 3, 7:].sum() == 0
    labels = warp_annotations(torch.ones(1, 7, 9, dtype=torch.uint8), Warp(scale=0.5))
    assert labels[0, 3].tolist() == [255, 255, 1, 1, 1, 1, 1, 255, 255]


@pytest.mark.parametrize("seed", range(4))
def test_images_and_annotations_are_moved_alike(seed):
    """A disc drawn into both stays in one place, also in images that are no squares."""
    warp = draw_warp(torch.Generator().manual_seed(seed))
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(90), indexing="ij")
    disc = ((rows - 22) ** 2 + (columns - 50) ** 2 < 144).to(torch.uint8)[None]
    shown, label = warp_images(disc[None].double(), warp)[0] > 0.5, warp_annotations(disc, warp)
    known = label != 255
    assert (shown[0] != (label[0] == 1))[known[0]].float().mean() < 0.005
    assert (label == 1).sum() / disc.sum() == pytest.approx(warp.scale**2, rel=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_points_are_not_lost(seed):
    warp = draw_warp(torch.Generator().manual_seed(seed))
    points = torch.full((2, 60, 60), 255, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(9)
    for image, row, column in torch.randint(25, 35, (12, 3), generator=generator).tolist():  # near the centre: inside
        points[image % 2, row, column] = (row + column) % 2
    moved = warp_annotations(points, Warp(angle=warp.angle, scale=0.75, flip=warp.flip))
    for label in (0, 1):
        assert (moved == label).any() == (points == label).any()
    apart = torch.full((1, 60, 60), 255, dtype=torch.uint8)
    apart[0, 15:45:5, 15:45:5] = 1
    assert (warp_annotations(apart, warp._replace(scale=0.75)) == 1).sum() == 36


def test_draws_depend_on_the_generator_and_stay_in_range():
    warps = [draw_warp(generator) for generator in [torch.Generator().manual_seed(0)] * 200]
    assert draw_warp(torch.Generator().manual_seed(0)) == warps[0]
    assert 70 < sum(warp.flip for warp in warps) < 130
    angles, scales = [warp.angle for warp in warps], [warp.scale for warp in warps]
    assert -30 <= min(angles) < -20 < 20 < max(angles) <= 30
    assert 0.75 <= min(scales) < 0.8 < 1.2 < max(scales) <= 1.25
