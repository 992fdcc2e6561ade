import pytest
import torch

from fewseg.modules.fcn32s import AnnotationPool, Decoder, FCN32s, bilinear_kernel

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trunk():
    return FCN32s(lite=True).eval()


@pytest.mark.parametrize(("side", "cells"), [(33, 1), (64, 1), (65, 2), (97, 3), (129, 4)])
def test_trunk_pool_and_decoder_share_one_grid(trunk, side, cells):
    with torch.inference_mode():
        assert trunk(torch.zeros(1, 3, 33, side)).maps[0].shape == (1, 256, 1, cells)
    assert AnnotationPool()(torch.zeros(1, 2, 33, side)).shape == (1, 2, 1, cells)
    assert Decoder(2)(torch.zeros(1, 2, 1, cells), (33, side)).shape == (1, 2, 33, side)


def test_raw_pixels_become_bgr_minus_mean(trunk):
    red = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    red[:, 0] = 255
    expected = torch.tensor([-104.00699, -116.66877, 255 - 122.67891])
    torch.testing.assert_close(trunk.normalize(red).flatten(), expected)


def test_pooling_of_points():
    pool = AnnotationPool()
    indicators = torch.zeros(1, 1, 129, 129)
    indicators[0, 0, 60, 60] = 1
    weights = pool(indicators)
    torch.testing.assert_close(weights.sum(), torch.tensor(1 / 1024))  # an interior click
    assert weights.argmax() == 5  # cell (1, 1) of 4 x 4 is centred at pixel 63.5
    corner = torch.zeros(1, 1, 129, 129)
    corner[0, 0, 0, 0] = 1
    torch.testing.assert_close(pool(corner).sum(), torch.tensor(bilinear_kernel()[0, 0].item() / 1024))


def test_decoder_interpolates_inside_and_fades_at_the_border():
    logits = Decoder(1)(torch.ones(1, 2, 3, 3), (97, 97))
    torch.testing.assert_close(logits[:, :, 32:96, 32:96], torch.ones(1, 2, 64, 64))
    torch.testing.assert_close(logits[0, :, 0, 50], torch.full((2,), 1 / 64))


def test_dense_decoder_keeps_channels_apart():
    scores = torch.stack([torch.ones(1, 2, 2), torch.zeros(1, 2, 2)], 1)
    logits = Decoder(2)(scores, (65, 65))
    assert (logits[:, 0] > 0).all()
    assert (logits[:, 1] == 0).all()


def test_kernels_do_not_learn():
    assert not any(p.requires_grad for module in (Decoder(2), AnnotationPool()) for p in module.parameters())
