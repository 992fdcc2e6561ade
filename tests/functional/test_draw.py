import numpy as np
import pytest

from fewseg.episode import Click
from fewseg.functional.draw import (
    GREEN,
    MARKED,
    OBJECTS,
    ORANGE,
    RED,
    Shown,
    click_panel,
    draw_instances,
    film_strip,
    instance_panel,
    label_overlay,
    mark_clicks,
    numbered,
    panel,
    shown_frames,
)

GREY = np.full((96, 96, 3), 100, np.uint8)


def pixels(image, colour):
    return int((image == np.array(colour)).all(-1).sum())


def test_clicks_are_discs_in_the_colour_of_their_label():
    marked = mark_clicks(GREY, [Click(20, 30, 1), Click(70, 60, 0)], (96, 96))
    assert pixels(marked[:48], GREEN) > 20
    assert pixels(marked[48:], RED) > 20
    assert pixels(marked[:48], RED) == pixels(marked[48:], GREEN) == 0
    rows, cols = np.nonzero((marked != 100).any(-1) & (np.arange(96) < 48)[:, None])
    assert rows.mean() == pytest.approx(20, abs=0.6)
    assert cols.mean() == pytest.approx(30, abs=0.6)
    assert (GREY == 100).all()


def test_clicks_land_where_they_were_made_on_a_larger_picture():
    marked = mark_clicks(np.zeros((192, 384, 3), np.uint8), [Click(47, 0, 0), Click(0, 191, 1)], (96, 192))
    assert marked[95, 2].tolist() != [0, 0, 0]
    assert marked[2, 383].tolist() != [0, 0, 0]
    assert not marked[120:].any()


def test_numbers_tell_clicks_apart_until_they_are_too_many():
    first = mark_clicks(GREY, [Click(48, 48, 1)], (96, 96))
    second = mark_clicks(GREY, [Click(48, 48, 1), Click(48, 48, 1)], (96, 96))
    assert (first != second).any()
    many = mark_clicks(GREY, [Click(48, 48, 1)] * 21, (96, 96))
    assert 0 < pixels(many, GREEN) < pixels(first, GREEN)


def test_a_panel_of_clicks_enlarges_small_images():
    mask = np.zeros((96, 96), np.uint8)
    mask[:48] = 1
    tiles = click_panel(GREY, [Click(24, 24, 1)], mask, mask, [(GREY, mask)])
    assert tiles.shape == (192, 4 * 192 + 3 * 4, 3)
    support, query, pred, truth = (tiles[:, i * 196 : i * 196 + 192] for i in range(4))
    assert pixels(query, GREEN) > 100
    assert pixels(pred, GREEN) > 100
    assert not np.array_equal(query[:96], pred[:96])
    assert np.array_equal(support, truth)  # the same mask, tinted
    assert not np.array_equal(pred[10, 150], query[10, 150])
    assert pred[10, 150].tolist() == [(100 + c) // 2 for c in ORANGE]
    assert click_panel(GREY, [], mask, mask).shape == (192, 3 * 192 + 2 * 4, 3)


def test_a_panel_without_clicks_keeps_its_height():
    mask = np.zeros((100, 50), np.uint8)
    image = np.zeros((100, 50, 3), np.uint8)
    assert panel([(image, mask)], image, mask, mask).shape == (160, 4 * 80 + 3 * 4, 3)


def test_every_object_has_its_colour_and_a_contour():
    labels = np.zeros((96, 96), np.uint8)
    labels[10:20, 10:20], labels[15:40, 18:60], labels[60:70, 60:70], labels[90:] = 1, 2, 9, 255
    out = label_overlay(GREY, labels, opacity=0.5)
    assert out[10, 10].tolist() == list(OBJECTS[0])  # a corner is contour
    assert out[12, 12].tolist() == [(100 + c) // 2 for c in OBJECTS[0]]
    assert out[15, 30].tolist() == list(OBJECTS[1])
    assert out[25, 30].tolist() == [(100 + c) // 2 for c in OBJECTS[1]]
    assert out[65, 65].tolist() == out[12, 12].tolist()  # after eight they come round again
    assert (out[(labels == 0) | (labels == 255)] == 100).all()  # background and unknown stay
    assert pixels(out, OBJECTS[1]) == 2 * 25 + 2 * 42 - 4  # the rim of a rectangle of 25 x 42
    assert (GREY == 100).all()
    assert len(set(OBJECTS)) == 8


def test_a_mask_that_fills_the_image_has_a_contour():
    out = label_overlay(GREY, np.ones((96, 96), np.uint8))
    assert pixels(out, OBJECTS[0]) == 4 * 95


@pytest.mark.parametrize("n_frames", [1, 2, 5, 6, 7, 8, 20, 61, 1000])
@pytest.mark.parametrize("annotated", [(), (0,), (3, 4), (1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_shown_frames_are_distinct_ordered_and_spread(n_frames, annotated):
    given = [frame for frame in annotated if frame < n_frames]
    shown = shown_frames(n_frames, given)
    assert len(shown) == min(n_frames, 6)
    assert shown == sorted(set(shown))
    assert 0 <= shown[0] <= shown[-1] < n_frames
    assert shown[-1] == n_frames - 1 or shown[-1] in given
    if len(given) <= 3:
        assert set(given) <= set(shown)
    elif n_frames > 20:  # not all shown frames are those whose answer is known
        assert len(set(given) & set(shown)) == 3


def strip(labels, annotated, n=3, size=(48, 64)):
    frames = {4 * i: np.full((*size, 3), 100, np.uint8) for i in range(n)}
    return film_strip(frames, labels, annotated, height=96)


def test_strips_of_the_same_frames_stack():
    mask = np.zeros((48, 64), np.uint8)
    mask[20:40, 20:40] = 2
    bare, full = strip({}, {}), strip({4: mask}, {0: None, 8: None})
    assert bare.shape == full.shape == (96, 3 * 128 + 2 * 4, 3)
    tiles = [full[:, i * 132 : i * 132 + 128] for i in range(3)]
    for place in (0, 2):  # annotated frames have a border all around
        for rim in (tiles[place][-1], tiles[place][30:, 0], tiles[place][:, -1]):
            assert (rim == np.array(MARKED)).all()
    assert pixels(tiles[1], MARKED) == 0
    assert pixels(tiles[1], OBJECTS[1]) == 4 * 39  # a contour of one pixel around 40 x 40, whatever the scale
    assert (tiles[1][60, 60] != 100).any()
    assert not np.array_equal(bare[:20, :30], bare[:20, 132:162])  # another number


def test_sparse_points_are_drawn_and_dense_masks_are_not():
    maps = np.full((2, 48, 64), 255, np.uint8)
    maps[:, 40, 50] = 0  # background
    maps[:, 10, 30] = (0, 1)  # object 2, which is negative for object 1
    tile = strip({}, {0: maps})[:, :128]
    assert tile[81, 101].tolist() == [255, 255, 255]
    assert tile[21, 61].tolist() == list(OBJECTS[1])
    dense = np.zeros((2, 48, 64), np.uint8)
    dense[1, 10:30] = 1
    assert np.array_equal(strip({}, {0: dense}), strip({}, {0: None}))


def outlines(*found):
    """Squares of 20 pixels at (top, left), with scores."""
    masks = np.zeros((len(found), 96, 96), np.uint8)
    for mask, (top, left, _) in zip(masks, found, strict=True):
        mask[top : top + 20, left : left + 20] = 1
    boxes = np.array([(left, top, left + 20, top + 20) for top, left, _ in found], float).reshape(-1, 4)
    return Shown(boxes, masks, np.array([score for *_, score in found]))


def tinted(colour):
    return (100 * 0.55 + np.array(colour) * 0.45).astype(np.uint8).tolist()


def test_detections_above_the_threshold_are_drawn_the_best_on_top():
    found = outlines((20, 40, 0.6), (30, 50, 0.9), (60, 5, 0.5), (60, 60, 0.2))
    drawn = draw_instances(GREY, found, height=96)
    assert drawn[44, 55].tolist() == tinted(OBJECTS[0])  # where both lie
    assert drawn[36, 45].tolist() == tinted(OBJECTS[1])
    rows, cols = np.nonzero((drawn[45:] == np.array(OBJECTS[0])).all(-1))  # below the tag with its score
    assert (rows.max(), cols.min(), cols.max()) == (4, 50, 69)  # the box ends where the mask does
    assert (drawn[60:] == 100).all()  # what scores no more than the threshold
    assert pixels(draw_instances(GREY, found, threshold=0.1, height=96)[60:], OBJECTS[2]) > 50
    assert (GREY == 100).all()


def test_boxes_grow_with_the_scene():
    drawn = draw_instances(GREY, outlines((30, 50, 0.9)), height=192)
    rows, cols = np.nonzero((drawn == np.array(OBJECTS[0])).all(-1))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (60, 99, 100, 139)


def test_a_box_that_leaves_the_scene_ends_at_its_edge():
    drawn = draw_instances(GREY, outlines((86, 86, 0.9)), height=96)
    rows, cols = np.nonzero((drawn == np.array(OBJECTS[0])).all(-1))
    assert (rows.max(), cols.max()) == (95, 95)
    assert drawn.shape == GREY.shape


def test_without_a_good_detection_the_best_one_is_a_thin_box():
    drawn = draw_instances(GREY, outlines((20, 40, 0.1), (60, 40, 0.4)), height=96)
    assert (drawn[:60] == 100).all()
    assert pixels(drawn[75:80, 38:62], OBJECTS[0]) == 20 + 2 * 4  # one pixel wide: two sides, and the lower one
    assert drawn[78, 50].tolist() == [100, 100, 100]
    assert (draw_instances(GREY, outlines(), height=96) == 100).all()


def test_scores_are_written_on_their_boxes():
    one, other = (draw_instances(GREY, outlines((40, 40, score)), height=96) for score in (0.75, 0.76))
    changed = np.argwhere((one != other).any(-1))
    assert len(changed)
    assert (changed >= 40).all()
    assert (changed.max(0) < (60, 70)).all()
    known = draw_instances(GREY, outlines((40, 40, 0))._replace(scores=None), height=96)
    assert known[46, 46].tolist() == tinted(OBJECTS[0])  # no tag on what is known, and no threshold


def test_references_are_framed_in_the_lower_left_corner():
    red, blue = (np.full((h, w, 3), colour, np.uint8) for h, w, colour in ((40, 20, RED), (1, 1, (0, 0, 255))))
    drawn = draw_instances(GREY, outlines(), [red, blue], height=192)
    rows, cols = np.nonzero((drawn == np.array(RED)).all(-1))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (192 - 3 - 42, 192 - 4, 3, 3 + 20)
    assert pixels(drawn, (0, 0, 255)) == 42 * 42
    frames = ~((drawn == 100) | (drawn == np.array(RED)) | (drawn == np.array((0, 0, 255)))).all(-1)
    assert set(map(tuple, drawn[frames].tolist())) == {(255, 255, 255), (20, 20, 20)}
    assert (drawn[:144] == 100).all()
    assert (drawn[:, 21 + 42 + 12 :] == 100).all()
    many = draw_instances(GREY, outlines(), [red] * 40, height=96)  # more than have room
    assert many.shape == GREY.shape
    assert (many[:72] == 100).all()


def test_a_panel_of_instances_shows_the_truth_uncovered():
    found, truth = outlines((60, 5, 0.9)), outlines((60, 5, 0), (5, 60, 0))._replace(scores=None)
    drawn = instance_panel(GREY, found, truth, [np.zeros((9, 9, 3), np.uint8)], height=96)
    assert drawn.shape == (96, 96 + 4 + 96, 3)
    pred, known = drawn[:, :96], drawn[:, 100:]
    assert (pred[5:25, 60:80] == 100).all()
    assert known[15, 70].tolist() == tinted(OBJECTS[1])
    assert known[75, 15].tolist() == tinted(OBJECTS[0])  # the reference covers it left only
    assert pred[94, 10].tolist() == [255, 255, 255]
    assert (known[85:] == 100).all()


def test_label_maps_end_before_void():
    masks = np.eye(300, dtype=np.uint8)[:, None]
    labels = numbered(masks, range(300))[0]
    assert labels[:254].tolist() == list(range(1, 255))
    assert not labels[254:].any()
