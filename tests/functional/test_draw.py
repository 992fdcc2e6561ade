import numpy as np
import pytest

from fewseg.episode import Click
from fewseg.functional.draw import GREEN, ORANGE, RED, click_panel, mark_clicks, panel

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
