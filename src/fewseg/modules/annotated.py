"""Early fusion: an encoder whose first convolution reads annotation channels beside the three colours."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import dilate, indicators
from fewseg.modules.encoders import IMAGENET_STD, ImageEncoder


def keep_images(encoder: ImageEncoder, images: Tensor | Features) -> Features:
    """What ``encode_support`` of an early-fusion method returns: the normalised images, still to be encoded.

    Args:
        encoder: whose normalisation to use.
        images: (B, K, 3, H, W), or what this function returned.
    """
    if isinstance(images, Features):
        return images
    return Features((encoder.normalize(images),), (images.shape[-2], images.shape[-1]))


# Annotation channels are +-amplitude: the papers' 128 beside colours on the scale 0..255, divided by the mean deviation
# of colours on that scale, 2.22.
AMPLITUDE = 128 / (255 * sum(IMAGENET_STD) / 3)


def opposed_channels(annotations: Tensor, dtype: torch.dtype, dilation: int = 11) -> Tensor:
    """Annotations as two channels beside normalised colours: negative, turned over, then positive.

    Both channels start with the same weights, so that the first response is positive minus negative and unknown is 0;
    two upright channels would make every dense mask the same, because they always add up to 1. A dilated point never
    covers a pixel of the other label.

    Args:
        annotations: (B, K, H, W) integers: 0 negative, 1 positive, 255 unknown.
        dtype: of the result.
        dilation: side of the square that every annotated pixel becomes, in pixels; odd.

    Returns:
        (B, K, 2, H, W) of +-2.22.

    >>> opposed_channels(torch.tensor([[[[0, 1, 255]]]]), torch.float32, dilation=1).round(decimals=2)[0, 0, :, 0]
    tensor([[-2.2200,  2.2200,  2.2200],
            [-2.2200,  2.2200, -2.2200]])
    """
    own = indicators(annotations, dtype)
    grown = dilate(own, dilation) * (1 - own.flip(2))
    signs = torch.tensor([-1.0, 1.0], dtype=dtype, device=grown.device)[:, None, None]
    return AMPLITUDE * signs * (2 * grown - 1)


def with_fixed_norms(encoder: nn.Module, images: Tensor) -> Features:
    """Features by the running statistics of batch norms, also in training, and without a trace in them.

    Masked images are mostly one colour. Statistics of their own would differ from those of queries, whose mixture is
    what a trained model normalises all images by.

    Args:
        encoder: an image encoder that queries go through as well.
        images: masked and normalised, (B, K, 3, H, W).
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if not norms:
        return cast(Features, encoder(images))
    # copies, because the queries' pass changes the statistics before gradients flow back through this one
    buffers = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    for norm in norms:
        norm.eval()
    features: Features = torch.func.functional_call(encoder, buffers, (images,))
    for norm in norms:
        norm.train()
    return features


class AnnotatedEncoder(nn.Module):
    """An image encoder with further input channels, e.g. the negative and positive annotations.

    Args:
        encoder: any with a convolution on the three colours in front; it is changed in place.
        channels: how many are added.
        fill: start of their weights: ``mean`` of those of the colours (guided networks) or ``zero`` (DIOS).

    Raises:
        FewsegError: the encoder has no convolution with three input channels.

    >>> from fewseg.modules.encoders import Encoder
    >>> encoder = AnnotatedEncoder(Encoder("tiny"), channels=2)
    >>> maps = encoder(torch.zeros(1, 2, 3, 17, 13, dtype=torch.uint8), torch.rand(1, 2, 2, 17, 13)).maps
    >>> [tuple(m.shape) for m in maps]
    [(1, 2, 64, 5, 4), (1, 2, 128, 3, 2)]
    """

    def __init__(self, encoder: ImageEncoder, channels: int, fill: Literal["mean", "zero"] = "mean") -> None:
        super().__init__()
        widen(encoder, channels, fill)
        self.encoder = encoder
        self.out_channels, self.strides = encoder.out_channels, encoder.strides

    def normalize(self, images: Tensor) -> Tensor:
        """Of the encoder."""
        return self.encoder.normalize(images)

    def forward(self, images: Tensor, channels: Tensor) -> Features:
        """See ``encode_joined``."""
        return encode_joined(self.encoder, images, channels)


def widen(encoder: ImageEncoder, channels: int, fill: Literal["mean", "zero"]) -> nn.Conv2d:
    """Adds input channels to the first convolution of an encoder, in place, and returns that convolution.

    Args:
        encoder: any with a convolution on the three colours in front.
        channels: how many are added.
        fill: start of their weights: ``mean`` of those of the colours, or ``zero``.

    Raises:
        FewsegError: the encoder has no convolution with three input channels.
    """
    colours = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3), None)
    if colours is None:
        remedy = "choose an encoder whose first layer is a convolution on the image"
        raise FewsegError("encoder", type(encoder).__name__, "one that annotation channels can be added to", remedy)
    mean = colours.weight.detach().mean(1, keepdim=True) * (fill == "mean")
    widened = torch.cat([colours.weight.detach(), mean.expand(-1, channels, -1, -1)], 1)
    colours.weight = nn.Parameter(widened, requires_grad=colours.weight.requires_grad)
    colours.in_channels += channels
    return colours


def encode_joined(encoder: ImageEncoder, images: Tensor, channels: Tensor) -> Features:
    """Features of images (..., 3, H, W) with their added channels (..., n, H, W), on whatever scale.

    Leading axes are (B,) or (B, K), and are those of the maps.
    """
    joined = torch.cat([encoder.normalize(images), channels.to(encoder.mean.dtype)], -3)
    maps = encoder.maps(joined.flatten(0, -4))
    maps = tuple(m.reshape(*images.shape[:-3], *m.shape[1:]) for m in maps)
    return Features(maps, (images.shape[-2], images.shape[-1]))
