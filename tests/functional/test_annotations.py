import pytest
import torch

from fewseg.functional.annotations import annotated, silence, weights_of


def test_weights_of_dense_halves():
    annotations = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    annotations[..., 6:] = 1
    annotations[..., 0] = 255
    assert weights_of(annotations, 1, (1, 2)).flatten().tolist() == [0.0, 0.5]
    assert weights_of(annotations, 0, (1, 2)).flatten().tolist() == [0.75, 0.5]


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 4), (17, 13), (20, 30)])
def test_no_single_pixel_is_lost(size):
    for row, col in [(0, 0), (16, 12), (8, 5)]:
        annotations = torch.full((1, 1, 17, 13), 255, dtype=torch.uint8)
        annotations[0, 0, row, col] = 1
        weights = weights_of(annotations, 1, size)
        assert weights.shape == (1, 1, *size)
        assert weights.sum() > 0
        assert weights_of(annotations, 0, size).sum() == 0


def test_annotated_looks_at_all_shots():
    annotations = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    annotations[0, 2, 1, 1] = 1
    annotations[1, 0, 0, 0] = 0
    assert annotated(annotations).tolist() == [[False, True], [True, False]]


def test_silence_keeps_gradients_finite_and_apart():
    logits = torch.full((2, 2, 1, 1), torch.nan)
    logits[0] = 1.0
    logits.requires_grad_()
    silenced = silence(logits, torch.tensor([True, False]))
    silenced.logsumexp(1).sum().backward()
    assert torch.isfinite(silenced).all()
    assert silenced[1, 0] > silenced[1, 1] + 5
    assert (logits.grad[0] > 0).all()
    assert (logits.grad[1] == 0).all()


def test_silence_broadcasts_one_map_over_many_episodes():
    assert silence(torch.zeros(1, 2, 3, 4), torch.tensor([True, False, True])).shape == (3, 2, 3, 4)
