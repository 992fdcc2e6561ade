"""The FCN-32s parts of the guided-networks papers: trunk, annotation pooling and decoder on one stride-32 grid.

Source: Long et al. 2015 (FCN-32s) as used by Rakelly et al. 2018 (guided networks, https://arxiv.org/abs/1806.07373).
conv1_1 is padded by 81 and fc6 not at all, so cell i of a side is centred at pixel 32 i + 31.5 and a side of n pixels
has ceil(n / 32) - 1 cells: 33 pixels are the least.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.modules.vgg import VGG16, CaffeEncoder, load_torchvision

STRIDE = 32
MIN_SIZE = 33  # pixels of a side
FIRST_PADDING = 81  # of conv1_1: the least that leaves the decoder nothing to crop at the top and left


class FCN32s(CaffeEncoder):
    """VGG-16, fully convolutional, up to its last hidden layer.

    Raw integers are RGB; they become BGR minus the mean on the scale 0..255, as the Caffe weights want it.

    Args:
        lite: True ends at fc6 with 256 channels and Dropout2d; False has fc6 and fc7 with 4096 and dropout.
        weights: a .safetensors file with torchvision's VGG-16 names (the Caffe weights), or None.
        trainable: False freezes the parameters.
        first_padding: of conv1_1. 81 puts cell i at pixel 32 i + 31.5; 1 takes 224 pixels to one cell, as a classifier.
        stages: of VGG-16, whose maps after the pool come before the last hidden layer: skips of an FCN-8s.

    >>> FCN32s(lite=True).eval()(torch.rand(1, 3, 33, 65)).maps[0].shape
    torch.Size([1, 256, 1, 2])
    """

    def __init__(
        self,
        lite: bool,
        weights: str | None = None,
        trainable: bool = True,
        first_padding: int = FIRST_PADDING,
        stages: tuple[int, ...] = (),
    ) -> None:
        super().__init__(trainable)
        self.lite, self.first_padding = lite, first_padding
        pools = [nn.MaxPool2d(2, ceil_mode=True) for _ in range(5)]
        self.vgg = VGG16(pools, taps=(*stages, 4), first_padding=first_padding)
        self.fc6 = nn.Conv2d(512, 256 if lite else 4096, 7)
        self.fc7 = None if lite else nn.Conv2d(4096, 4096, 1)
        self.drop: nn.Module = nn.Dropout2d(0.5) if lite else nn.Dropout(0.5)
        self.out_channels = (*self.vgg.out_channels[:-1], 256 if lite else 4096)
        self.strides = self.vgg.strides
        for convolution in self.convolutions()[13:]:
            start(convolution, 0.001)
        if weights is not None:
            load_torchvision(self.vgg.convolutions() if lite else self.convolutions(), weights)
        self.freeze_where_asked()

    def extra_repr(self) -> str:
        """What the fingerprint covers beside the parameters."""
        return f"lite={self.lite}, first_padding={self.first_padding}"

    def convolutions(self) -> list[nn.Conv2d]:
        """All convolutions, first to last."""
        return [*self.vgg.convolutions(), self.fc6] + ([] if self.fc7 is None else [self.fc7])

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The stages asked for and the last hidden layer (n, C, h, w) of normalised images (n, 3, H, W)."""
        *stages, deepest = self.vgg.maps(images)
        hidden = self.drop(F.relu(self.fc6(deepest)))
        return (*stages, hidden if self.fc7 is None else self.drop(F.relu(self.fc7(hidden))))


def start(convolution: nn.Conv2d, deviation: float) -> None:
    """The papers' initial values: weights N(0, deviation), or all zero for a score layer, and zero biases."""
    nn.init.normal_(convolution.weight, std=deviation) if deviation else nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def bilinear_kernel(stride: int = STRIDE) -> Tensor:
    """The kernel (2 stride, 2 stride) that interpolates bilinearly by an integer factor; its sum is stride².

    >>> bilinear_kernel(2)[0]
    tensor([0.0625, 0.1875, 0.1875, 0.0625])
    """
    side = 1 - (torch.arange(2 * stride, dtype=torch.float64) - (stride - 0.5)).abs() / stride
    return torch.outer(side, side).to(torch.get_default_dtype())


class AnnotationPool(nn.Module):
    """Label indicators on the trunk's grid, weighted by the distance to each cell's centre.

    The kernel is fixed; it is a parameter without gradient, so that it counts as the original counts it.

    >>> AnnotationPool()(torch.ones(1, 1, 97, 65)).shape
    torch.Size([1, 1, 3, 2])
    """

    def __init__(self) -> None:
        super().__init__()
        kernel = bilinear_kernel() / STRIDE**2  # sums to 1
        self.kernel = nn.Parameter(kernel[None, None], requires_grad=False)

    def forward(self, indicators: Tensor) -> Tensor:
        """Weights (B, K, h, w) of indicators (B, K, H, W); not normalised over cells."""
        padded = F.pad(indicators.flatten(0, 1)[:, None], (0, STRIDE - 1, 0, STRIDE - 1))
        weights: Tensor = F.conv2d(padded, self.kernel, stride=STRIDE)
        return weights.reshape(*indicators.shape[:2], *weights.shape[-2:])


class Decoder(nn.Module):
    """A fixed, unpadded transposed convolution with the bilinear kernel, cropped to the image.

    It is not interpolation: within 32 pixels of the border the logits fade towards 0, which the loss sees.

    Args:
        channels: of the dense kernel; its diagonal is the bilinear kernel. A parameter without gradient, see
            ``AnnotationPool``.
        offset: rows and columns cropped at the top and left: what conv1_1 is padded by beyond 81.
        stride: pixels of a cell.

    >>> Decoder(1)(torch.ones(1, 2, 1, 1), (33, 33))[0, 0, 31, 31].item()
    0.96899...
    """

    def __init__(self, channels: int, offset: int = 0, stride: int = STRIDE) -> None:
        super().__init__()
        self.offset, self.stride = offset, stride
        kernel = torch.eye(channels)[:, :, None, None] * bilinear_kernel(stride)
        self.kernel = nn.Parameter(kernel, requires_grad=False)

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (B, n, H, W) of scores (B, n, h, w); n is a multiple of ``channels``."""
        grouped = scores.reshape(-1, self.kernel.shape[0], *scores.shape[-2:])
        logits = F.conv_transpose2d(grouped, self.kernel, stride=self.stride)
        logits = logits[..., self.offset : self.offset + size[0], self.offset : self.offset + size[1]]
        return logits.reshape(*scores.shape[:2], *size)
