"""Early fusion: an encoder whose first convolution reads annotation channels beside the three colours."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.modules.encoders import ImageEncoder


def keep_images(encoder: ImageEncoder, images: Tensor | Features) -> Features:
    """What ``encode_support`` of an early-fusion method returns: the normalised images, still to be encoded.

    Args:
        encoder: whose normalisation to use.
        images: (B, K, 3, H, W), or what this function returned.
    """
    if isinstance(images, Features):
        return images
    return Features((encoder.normalize(images),), (images.shape[-2], images.shape[-1]))


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
        self.encoder = encoder
        self.out_channels, self.strides = encoder.out_channels, encoder.strides
        colours = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3), None)
        if colours is None:
            remedy = "choose an encoder whose first layer is a convolution on the image"
            raise FewsegError("encoder", type(encoder).__name__, "one that annotation channels can be added to", remedy)
        mean = colours.weight.detach().mean(1, keepdim=True) * (fill == "mean")
        widened = torch.cat([colours.weight.detach(), mean.expand(-1, channels, -1, -1)], 1)
        colours.weight = nn.Parameter(widened, requires_grad=colours.weight.requires_grad)
        colours.in_channels += channels

    def normalize(self, images: Tensor) -> Tensor:
        """Of the encoder."""
        return self.encoder.normalize(images)

    def forward(self, images: Tensor, channels: Tensor) -> Features:
        """Features of images (..., 3, H, W) with their added channels (..., n, H, W), on whatever scale.

        Leading axes are (B,) or (B, K), and are those of the maps.
        """
        joined = torch.cat([self.normalize(images), channels.to(self.encoder.mean.dtype)], -3)
        maps = self.encoder.maps(joined.flatten(0, -4))
        maps = tuple(m.reshape(*images.shape[:-3], *m.shape[1:]) for m in maps)
        return Features(maps, (images.shape[-2], images.shape[-1]))
