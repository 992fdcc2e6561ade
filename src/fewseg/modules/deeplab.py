"""DeepLabV3+ after its encoder: atrous pooling pyramid, skip connection and a head of separable convolutions.

Source: Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-decoder with atrous separable convolution for semantic image
segmentation" (ECCV 2018), in the narrow form of f-BRS (Sofiiuk et al. 2020, https://arxiv.org/abs/2001.10331).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SKIP = 32  # channels of the projected skip connection

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with eight groups, or fewer where these would not hold two channels each: the same for any batch.

    >>> group_norm(32).num_groups, group_norm(12).num_groups
    (8, 2)
    """
    return nn.GroupNorm(math.gcd(channels // 2, 8), channels)


def normed(
    in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1, norm: Norm = nn.BatchNorm2d
) -> nn.Sequential:
    """A convolution without bias that keeps the size, a norm and ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_channels, out_channels, kernel, 1, padding, dilation, bias=False)
    return nn.Sequential(convolution, norm(out_channels), nn.ReLU())


def separable(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 3x3 convolution of each channel, a 1x1 convolution of all, batch norm and ReLU.

    >>> sum(p.numel() for p in separable(4, 6).parameters())  # 4 * 9 + 4 * 6 + 2 * 6
    72
    """
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
    return nn.Sequential(depthwise, *normed(in_channels, out_channels))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3 and the mean of the image, joined by a 1x1 convolution.

    Args:
        in_channels: of the deepest map.
        out_channels: of every branch and of the result.
        rates: dilations of the 3x3 branches, in cells.
        dropout: of single values of the result.
        pooled_norm: of the branch of the mean: batch norm, as in the original, needs two images in training.

    >>> ASPP(6, 4, (1, 2, 3), pooled_norm=group_norm)(torch.rand(1, 6, 5, 7)).shape
    torch.Size([1, 4, 5, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rates: Sequence[int],
        dropout: float = 0.0,
        pooled_norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        dilated = [normed(in_channels, out_channels, 3, rate) for rate in rates]
        self.branches = nn.ModuleList([normed(in_channels, out_channels), *dilated])
        self.pooled = normed(in_channels, out_channels, norm=pooled_norm)
        self.project = normed((len(rates) + 2) * out_channels, out_channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(n, out_channels, h, w) of a map (n, in_channels, h, w)."""
        pooled = self.pooled(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        joined: Tensor = self.drop(self.project(torch.cat([*(b(features) for b in self.branches), pooled], 1)))
        return joined


class DeepLabV3Plus(nn.Module):
    """From a deep map and a finer one to one score per pixel, in three steps between which refinement may act.

    Args:
        deep_channels: of the deepest map.
        skip_channels: of the finer map.
        width: channels of the pyramid and of the head; half of them before the score.
        rates: dilations of the pyramid, in cells of the deepest map.
        dropout: after the pyramid.
        pooled_norm: see ``ASPP``.
        align_corners: of all bilinear interpolation.

    >>> decoder = DeepLabV3Plus(6, 4, width=8, rates=(1, 2, 3), pooled_norm=group_norm)
    >>> joined = decoder.join(torch.rand(1, 6, 3, 5), torch.rand(1, 4, 6, 10))
    >>> joined.shape, decoder.score(decoder.head(joined), (24, 40)).shape
    (torch.Size([1, 40, 6, 10]), torch.Size([1, 1, 24, 40]))
    """

    def __init__(
        self,
        deep_channels: int,
        skip_channels: int,
        width: int = 128,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.0,
        pooled_norm: Norm = nn.BatchNorm2d,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.aspp = ASPP(deep_channels, width, rates, dropout, pooled_norm)
        self.skip = normed(skip_channels, SKIP)
        self.head = nn.Sequential(separable(width + SKIP, width), separable(width, width), nn.Conv2d(width, width, 1))
        half = width // 2
        self.scorer = nn.Sequential(separable(width, half), separable(half, half), nn.Conv2d(half, 1, 1))

    def join(self, deep: Tensor, skip: Tensor) -> Tensor:
        """The pyramid on the grid of the finer map, beside the projection of that, (n, width + 32, h, w)."""
        context = self._resize(self.aspp(deep), (skip.shape[-2], skip.shape[-1]))
        return torch.cat([context, self.skip(skip)], 1)

    def score(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """One logit (n, 1, H, W) of what ``head`` returned."""
        return self._resize(self.scorer(features), size)

    def _resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=self.align_corners)
