import pytest
import torch
from torch import nn

from fewseg.errors import FewsegError
from fewseg.modules.annotated import AMPLITUDE, AnnotatedEncoder, keep_images, opposed_channels, with_fixed_norms
from fewseg.modules.encoders import Encoder, ImageEncoder


def test_channels_that_are_zero_change_nothing():
    encoder = Encoder("tiny").eval()
    images = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8)
    expected = encoder(images).maps
    widened = AnnotatedEncoder(encoder, channels=2).eval()
    found = widened(images, torch.zeros(2, 2, 20, 24)).maps
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_added_weights_are_the_mean_of_the_colours_or_zero():
    for fill in ("mean", "zero"):
        encoder = Encoder("tiny")
        colours = encoder.body.stages[0][0].weight.detach().clone()
        AnnotatedEncoder(encoder, 2, fill)
        added = encoder.body.stages[0][0].weight[:, 3:]
        torch.testing.assert_close(added, colours.mean(1, keepdim=True).expand(-1, 2, -1, -1) * (fill == "mean"))


def test_a_frozen_encoder_stays_frozen():
    encoder = AnnotatedEncoder(Encoder("tiny", trainable=False), 2)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_an_encoder_without_a_convolution_on_colours_is_refused():
    class Blind(ImageEncoder):
        out_channels, strides = (1,), (1,)

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

    with pytest.raises(FewsegError, match="annotation channels"):
        AnnotatedEncoder(Blind(), 2)


def test_kept_images_are_normalised_once():
    encoder = Encoder("tiny")
    images = torch.randint(0, 256, (1, 2, 3, 8, 8), dtype=torch.uint8)
    kept = keep_images(encoder, images)
    assert torch.equal(kept.maps[0], encoder.normalize(images))
    assert keep_images(encoder, kept) is kept


def test_a_mask_and_its_opposite_start_with_opposite_responses():
    mask = torch.randint(0, 2, (1, 1, 12, 12), dtype=torch.uint8)
    one, other = (opposed_channels(m, torch.float32).sum(2) for m in (mask, 1 - mask))
    torch.testing.assert_close(one, -other)
    assert one.abs().max().item() == pytest.approx(2 * AMPLITUDE)


def test_a_dilated_point_spreads_but_not_over_the_other_label():
    annotations = torch.full((1, 1, 9, 9), 255, dtype=torch.uint8)
    annotations[..., 4, 4], annotations[..., 4, 5] = 1, 0
    negative, positive = (opposed_channels(annotations, torch.float32, dilation=3) / AMPLITUDE)[0, 0]
    assert (positive == 1).sum() == 8  # 3 x 3 without the negative pixel
    assert (negative == -1).sum() == 8
    assert (positive[4, 5], negative[4, 4]) == (-1, 1)


def test_masked_images_leave_no_trace_in_the_statistics_of_queries():
    encoder = Encoder("tiny").train()
    images = torch.randn(1, 2, 3, 16, 16)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    features = with_fixed_norms(encoder, images)
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())
    torch.testing.assert_close(features.maps, encoder.eval()(images).maps)
