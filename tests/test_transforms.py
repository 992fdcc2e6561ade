"""fewseg.transforms: points stay on their objects, padding is unknown, augmentation depends on its seed alone."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.datasets.shapes import render_scene
from fewseg.episode import UNKNOWN, Box
from fewseg.errors import FewsegError
from fewseg.transforms import (
    MEAN_COLOUR,
    Augment,
    channels_first,
    crop_around,
    draw_points,
    fit,
    frame_of,
    move_points,
    points_to_map,
)

side = st.integers(1, 70)


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def interior(mask, radius):
    """Pixels whose surroundings within ``radius`` have one value; outside the map counts as another."""
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    inside = np.zeros(mask.shape, bool)
    for value in np.unique(mask):
        inside |= cv2.erode((mask == value).astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT) > 0
    return inside


def scene(seed, size=(80, 80)):
    """A fitted generated scene: image, its binary map, and interior points of both labels in the canvas."""
    drawn = render_scene(seed)
    binary = (drawn.objects == 1).astype(np.uint8)
    image, label_map, frame = fit(drawn.image, binary, size)
    cells = [(r, c, int(binary[r, c])) for r, c in np.argwhere(interior(binary, 2)).tolist()][::17]
    return image, label_map, move_points(cells, frame)


@pytest.mark.parametrize(
    ("original", "size", "box"),
    [
        ((50, 100), (64, 64), Box(0, 0, 32, 64)),  # wide: shrunk to the width
        ((100, 50), (64, 64), Box(0, 0, 64, 32)),  # tall: shrunk to the height
        ((10, 20), (64, 64), Box(0, 0, 32, 64)),  # small: enlarged
        ((293, 400), (321, 321), Box(0, 0, 235, 321)),  # 293 * 321 / 400 = 235.1
        ((1, 1000), (8, 8), Box(0, 0, 1, 8)),  # never thinner than a pixel
        ((1, 1), (5, 7), Box(0, 0, 5, 5)),
        ((33, 64), (33, 64), Box(0, 0, 33, 64)),
    ],
)
def test_letterbox_geometry(original, size, box):
    image, label_map, frame = fit(noise(*original), np.full(original, 7, np.uint8), size)
    assert (frame.original, frame.network, frame.box) == (original, size, box)
    assert image.shape == (*size, 3)
    assert image.dtype == label_map.dtype == np.uint8
    assert (label_map[: box.height, : box.width] == 7).all()
    assert (label_map[box.height :] == UNKNOWN).all()
    assert (label_map[:, box.width :] == UNKNOWN).all()
    assert (image[box.height :] == MEAN_COLOUR).all()
    assert (image[:, box.width :] == MEAN_COLOUR).all()


@given(side, side, side, side, st.sampled_from(["letterbox", "square"]))
@settings(max_examples=60, deadline=None)
def test_any_size_fits(height, width, h, w, mode):
    image, label_map, frame = fit(noise(height, width), np.zeros((height, width), np.uint8), (h, w), mode)
    assert image.shape[:2] == label_map.shape == frame.network == (h, w)
    assert (label_map == 0).sum() == frame.box.height * frame.box.width
    assert frame.box[:2] == (0, 0)
    if mode == "square":
        assert frame.box[2:] == (h, w)
    else:
        assert frame.box.height == h or frame.box.width == w
    for row, col in ((0, 0), (height - 1, width - 1)):
        assert label_map[frame.to_network(row, col)] == 0


def test_what_fits_is_not_resampled():
    image, label_map = noise(48, 40), noise(48, 40)[..., 0]
    for mode in ("letterbox", "square"):
        fitted, fitted_map, _ = fit(image, label_map, (48, 40), mode)
        assert fitted is image
        assert fitted_map is label_map
    padded, padded_map, frame = fit(image, label_map, (48, 64))  # only the padding is new
    assert frame.box == Box(0, 0, 48, 40)
    np.testing.assert_array_equal(padded[:, :40], image)
    np.testing.assert_array_equal(padded_map[:, :40], label_map)


def test_maps_are_sampled_at_pixel_centres():
    label_map = np.random.RandomState(0).randint(0, 21, (37, 53)).astype(np.uint8)
    _, fitted, _ = fit(noise(37, 53), label_map, (24, 100), "square")
    rows = np.floor((np.arange(24) + 0.5) * 37 / 24).astype(int)
    cols = np.floor((np.arange(100) + 0.5) * 53 / 100).astype(int)
    np.testing.assert_array_equal(fitted, label_map[np.ix_(rows, cols)])


def test_image_and_map_are_aligned():
    drawn = render_scene(3)
    edges = (drawn.classes > 0).astype(np.uint8)
    image, label_map, _ = fit(np.repeat(edges[..., None] * 200, 3, axis=2), edges, (65, 65))
    inside = interior(label_map, 1)
    assert ((image[..., 0] > 100) == (label_map == 1))[inside & (label_map != UNKNOWN)].all()


def test_without_a_map():
    image, label_map, _ = fit(noise(5, 9), None, (9, 9))
    assert image.shape == (9, 9, 3)
    assert label_map is None


def test_channels_first():
    images = [noise(5, 7, seed) for seed in range(3)]
    stacked = channels_first(images)
    assert stacked.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(stacked, np.stack(images).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(channels_first([images[0][:, ::-1]])[0, 1], images[0][:, ::-1, 1])  # any strides
    np.testing.assert_array_equal(channels_first([noise(1, 1)])[0, :, 0, 0], noise(1, 1)[0, 0])
    with pytest.raises(FewsegError, match="fit them into one canvas"):
        channels_first([noise(4, 4), noise(4, 5)])


def test_without_pixels():
    label_map = np.eye(6, 9, dtype=np.uint8)
    _, expected, expected_frame = fit(noise(6, 9), label_map, (8, 8))
    image, fitted, frame = fit(None, label_map, (8, 8))
    assert image is None
    assert frame_of((6, 9), (8, 8)) == frame
    assert frame == expected_frame
    np.testing.assert_array_equal(fitted, expected)
    augment = Augment("flip")
    seed = next(s for s in range(100) if augment.flipped(s))
    out = augment(image, fitted, [(0, 0, 1)], seed)
    assert out.image is None
    assert out.points == ((0, 7, 1),)
    np.testing.assert_array_equal(out.label_map, fitted[:, ::-1])


@given(st.integers(0, 30), st.integers(20, 90), st.integers(20, 90), st.sampled_from(["letterbox", "square"]))
@settings(max_examples=40, deadline=None)
def test_interior_points_land_on_their_object(seed, h, w, mode):
    drawn = render_scene(seed)
    _, label_map, frame = fit(drawn.image, drawn.objects, (h, w), mode)
    radius = int(np.ceil(max(drawn.objects.shape[0] / frame.box.height, drawn.objects.shape[1] / frame.box.width)))
    for row, col in np.argwhere(interior(drawn.objects, radius)).tolist()[::23]:
        assert label_map[frame.to_network(row, col)] == drawn.objects[row, col]


def test_points_are_kept_where_a_resized_map_would_lose_them():
    points = [(r, c, (r // 10 + c // 10) % 2) for r in range(0, 400, 10) for c in range(0, 300, 10)]
    _, _, frame = fit(noise(400, 300), None, (100, 100))
    drawn = points_to_map(points, frame)
    assert (drawn != UNKNOWN).sum() == len(points)  # cells of 4 pixels, points 10 apart
    assert (drawn[:, 75:] == UNKNOWN).all()
    assert (drawn == 1).sum() == sum(label for *_, label in points)


def test_positive_wins_a_shared_cell_in_any_order():
    _, _, frame = fit(noise(8, 8), None, (2, 2))
    for points in ([(0, 0, 1), (1, 1, 0)], [(1, 1, 0), (0, 0, 1)]):
        assert points_to_map(points, frame).tolist() == [[1, 255], [255, 255]]
    assert (draw_points([], (3, 2)) == UNKNOWN).all()


def test_flip_moves_points_with_the_map():
    augment = Augment("flip")
    flips = 0
    for seed in range(20):
        image, label_map, points = scene(seed)
        out = augment(image, label_map, points, seed)
        assert out.flipped is augment.flipped(seed)
        assert all(out.label_map[p.row, p.col] == p.label for p in out.points)
        if out.flipped:
            flips += 1
            np.testing.assert_array_equal(out.image, image[:, ::-1])
            np.testing.assert_array_equal(out.label_map, label_map[:, ::-1])
        else:
            np.testing.assert_array_equal(out.image, image)
            assert out.points == points
    assert 0 < flips < 20


def test_flip_of_an_odd_width_by_hand():
    augment = Augment("flip")
    seed = next(s for s in range(100) if augment.flipped(s))
    out = augment(noise(1, 3), np.array([[0, 1, 255]], np.uint8), [(0, 1, 1), (0, 0, 0)], seed)
    assert out.label_map.tolist() == [[255, 1, 0]]
    assert out.points == ((0, 1, 1), (0, 2, 0))


def test_seeds_in_a_row_flip_half_of_the_images_independently():
    augment = Augment("flip")
    flipped = np.array([augment.flipped(seed) for seed in range(4000)])
    assert abs(flipped.mean() - 0.5) < 0.04  # five standard deviations
    assert abs((flipped[1:] == flipped[:-1]).mean() - 0.5) < 0.04
    full = Augment("full")
    assert [full.flipped(seed) for seed in range(200)] == flipped[:200].tolist()


def test_none_changes_nothing():
    image, label_map, points = scene(1)
    out = Augment("none")(image, label_map, points, 5)
    assert out.image is image
    assert out.label_map is label_map
    assert (out.points, out.flipped) == (points, False)


def test_full_keeps_interior_points_on_their_label():
    augment, hits, total, kept = Augment("full"), 0, 0, []
    for seed in range(60):
        image, label_map, points = scene(seed)
        out = augment(image, label_map, points, seed)
        hits += sum(out.label_map[p.row, p.col] == p.label for p in out.points)
        total += len(out.points)
        kept.append(len(out.points) / len(points))
    assert hits / total > 0.95
    assert total > 1000
    assert 0.7 < np.mean(kept) < 1  # some leave the canvas


def test_full_moves_the_image_with_the_map():
    augment = Augment("full")
    for seed in range(15):
        _, label_map, _ = scene(seed)
        image = np.repeat((label_map == 1)[..., None] * np.uint8(200), 3, axis=2)
        out = augment(image, label_map, [], seed)
        inside = interior(out.label_map, 1) & (out.label_map != UNKNOWN)
        assert ((out.image[..., 0] > 100) == (out.label_map == 1))[inside].all()
        assert set(np.unique(out.label_map)) <= {0, 1, UNKNOWN}


def test_full_pads_with_the_mean_colour_and_unknown():
    image, augment, shrunk = np.full((40, 40, 3), 255, np.uint8), Augment("full"), 0
    for seed in range(30):
        out = augment(image, np.ones((40, 40), np.uint8), [], seed)
        outside = (out.label_map == UNKNOWN) & interior(out.label_map, 1)
        shrunk += outside.any()
        assert (out.image[outside] == MEAN_COLOUR).all()
    assert shrunk > 5


def test_full_without_map_or_points():
    image, label_map, points = scene(2)
    augment = Augment("full")
    for seed in range(10):
        whole = augment(image, label_map, points, seed)
        alone = augment(image, None, points, seed)
        assert alone.label_map is None
        np.testing.assert_array_equal(alone.image, whole.image)
        assert alone.points == whole.points
        single = augment(image, None, points[5:6], seed)
        assert set(single.points) <= set(whole.points)


def test_full_never_empties_a_support():
    corner = np.zeros((60, 60), np.uint8)
    corner[0, 0] = 1
    image, augment, mirrored_only = noise(60, 60), Augment("full"), 0
    for seed in range(60):
        out = augment(image, None, [(0, 0, 1), (30, 30, 0)], seed)
        assert any(p.label == 1 for p in out.points)
        assert (augment(image, corner, [], seed).label_map == 1).any()
        mirrored_only += np.array_equal(out.image, image[:, ::-1] if out.flipped else image)
    assert mirrored_only > 20  # the corner often leaves the canvas
    empty = augment(image, np.zeros((60, 60), np.uint8), [], 3)  # a negative query is augmented all the same
    assert not np.array_equal(empty.label_map, np.zeros((60, 60)))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
@pytest.mark.parametrize("kind", ["flip", "full"])
def test_tiny_images(kind, size):
    augment = Augment(kind)
    for seed in range(10):
        out = augment(noise(*size), np.ones(size, np.uint8), [(0, 0, 1)], seed)
        assert out.image.shape == (*size, 3)
        assert out.label_map.shape == size
        assert all(p.row < size[0] and p.col < size[1] for p in out.points)
        draw_points(out.points, size)


@pytest.mark.parametrize("kind", ["flip", "full"])
def test_augmentation_depends_on_its_seed_alone(kind):
    image, label_map, points = scene(4)

    def run(augment, order, before=lambda: None):
        results = {}
        for seed in order:
            before()
            results[seed] = augment(image, label_map, points, seed)
        return results

    def disturb():
        np.random.seed(len(order))
        random.seed(3)
        cv2.setRNGSeed(7)

    order = list(range(25))
    image.setflags(write=False)  # inputs are not written to
    label_map.setflags(write=False)
    first = run(Augment(kind), order)
    used = pickle.loads(pickle.dumps(Augment(kind)))  # as a spawned worker gets it
    used(image, label_map, [], 99)
    for second in (run(Augment(kind), order[::-1]), run(used, order, disturb)):
        for seed in order:
            np.testing.assert_array_equal(first[seed].image, second[seed].image)
            np.testing.assert_array_equal(first[seed].label_map, second[seed].label_map)
            assert first[seed][2:] == second[seed][2:]
    assert len({out.image.tobytes() for out in first.values()}) >= (2 if kind == "flip" else 20)


def test_augmentation_leaves_global_random_states_alone():
    np.random.seed(1)
    random.seed(1)
    expected = np.random.rand(), random.random()
    np.random.seed(1)
    random.seed(1)
    Augment("full")(noise(9, 9), None, [], 5)
    assert (np.random.rand(), random.random()) == expected


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: fit(np.zeros((4, 4), np.uint8), None, (4, 4)), "image"),
        (lambda: fit(np.zeros((4, 4, 3), np.float32), None, (4, 4)), "image"),
        (lambda: fit(np.zeros((4, 4, 4), np.uint8), None, (4, 4)), "image"),
        (lambda: fit(np.zeros((0, 4, 3), np.uint8), None, (4, 4)), "image"),
        (lambda: fit(noise(4, 4), np.zeros((4, 5), np.uint8), (4, 4)), "image and label_map"),
        (lambda: fit(None, None, (4, 4)), "image and label_map"),
        (lambda: fit(None, np.zeros((4, 4)), (4, 4)), "label_map"),
        (lambda: fit(None, np.zeros((4, 4, 1), np.uint8), (4, 4)), "label_map"),
        (lambda: Augment("full")(None, np.zeros((4, 4), np.uint8), [], 0), "augmentation"),
        (lambda: fit(noise(4, 4), None, (0, 4)), "size"),
        (lambda: fit(noise(4, 4), None, (4, 4), "stretch"), "mode"),
        (lambda: draw_points([(4, 0, 1)], (4, 4)), "points"),
        (lambda: draw_points([(0, -1, 1)], (4, 4)), "points"),
        (lambda: draw_points([(0, 0, 255)], (4, 4)), "points"),
        (lambda: Augment("strong"), "augmentation"),
    ],
)
def test_errors_name_the_argument(call, argument):
    with pytest.raises(FewsegError) as error:
        call()
    assert error.value.argument == argument


def test_albumentations_is_imported_only_where_it_runs():
    code = (
        "import sys; from fewseg.transforms import Augment; Augment('flip'); "
        "assert not {'torch', 'albumentations'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_images():
    root = os.environ.get("FEWSEG_DATA")
    if not root or not (Path(root) / "voc400").is_dir():
        pytest.skip("FEWSEG_DATA names no folder with voc400")
    from PIL import Image

    augment = Augment("full")
    hits = total = 0
    for path in sorted((Path(root) / "voc400" / "SegmentationClass").glob("*.png"))[:8]:
        classes = np.asarray(Image.open(path))
        binary = (classes == np.bincount(classes[(classes > 0) & (classes < 255)]).argmax()).astype(np.uint8)
        image, label_map, frame = fit(noise(*binary.shape), binary, (321, 321))
        cells = np.argwhere(interior(binary, 3)).tolist()[::1500]
        out = augment(image, label_map, move_points([(r, c, int(binary[r, c])) for r, c in cells], frame), total)
        hits += sum(out.label_map[p.row, p.col] == p.label for p in out.points)
        total += len(out.points)
    assert hits / total > 0.95


# ---- crops


def test_a_crop_shows_its_object_whole_with_some_surroundings():
    image = np.random.RandomState(0).randint(0, 256, (300, 500, 3)).astype(np.uint8)
    label_map = np.zeros((300, 500), np.uint8)
    label_map[100:200, 300:420] = 1
    label_map[120:130, 40:60] = 255
    sizes = set()
    for seed in range(200):
        pixels, cropped = crop_around(image, label_map, label_map == 1, seed)
        height, width = cropped.shape
        assert pixels.shape == (height, width, 3)
        rows, cols = np.nonzero(cropped == 1)
        assert len(rows) == 100 * 120
        before, after = rows.min(), height - 1 - rows.max()
        assert 0 <= before <= 64
        assert 0 <= after <= 64
        assert 0 <= cols.min() <= 64
        assert (pixels[cropped == 1] == image[label_map == 1]).all()  # image and map are cut alike
        sizes.add((before, after))
    assert len(sizes) > 150
    first, again = (crop_around(image, label_map, label_map == 1, 7) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("pixel", [(0, 0), (299, 499), (150, 250)])
def test_the_crop_of_a_single_pixel_has_the_smallest_side_and_may_show_padding(pixel):
    image = np.full((300, 500, 3), 7, np.uint8)
    label_map = np.zeros((300, 500), np.uint8)
    label_map[pixel] = 1
    shapes, padded = [], set()
    for seed in range(100):
        pixels, cropped = crop_around(image, label_map, label_map == 1, seed)
        assert (cropped == 1).sum() == 1
        padding = cropped == 255
        assert (pixels[padding] == MEAN_COLOUR).all()
        assert (pixels[~padding] == 7).all()
        padded.add(bool(padding.any()))
        shapes.append(cropped.shape)
    assert (True in padded) == (pixel != (150, 250))
    assert np.min(shapes) == 64
    assert np.max(shapes) <= 129
    assert len(set(shapes)) > 20


def test_lengths_of_crops_grow_with_the_image():
    image, label_map = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), np.uint8)
    label_map[50, 50] = 1
    sides = [n for seed in range(100) for n in crop_around(image, label_map, label_map == 1, seed)[1].shape]
    assert (min(sides), max(sides) <= 27) == (13, True)  # 64 * 100 / 500 is 12.8
    tiny = crop_around(image[:1, :1], label_map[50:51, 50:51], np.ones((1, 1), bool), 0)[1]
    assert tiny.tolist() == [[1]]
