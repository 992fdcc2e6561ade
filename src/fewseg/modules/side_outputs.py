"""Side outputs: every tap of an encoder is scored at image size, alone and all together (HED, OSVOS).

Source: Caelles et al., "One-shot video object segmentation" (CVPR 2017, https://arxiv.org/abs/1611.05198), after Xie
and Tu, "Holistically-nested edge detection" (ICCV 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.functional.geometry import upsample
from fewseg.modules.fcn32s import bilinear_kernel, start
from fewseg.modules.vgg import VGG16, CaffeEncoder, load_torchvision


class SideOutputs(nn.Module):
    """A 3x3 convolution a tap; then one score of each, and one of all of them concatenated at image size.

    Both the enlargement and the 1x1 convolution that fuses are linear, and the former treats channels alike. So each
    tap's share of the fused score is computed on the tap's own grid and one channel is enlarged instead of ``width``.

    Args:
        channels: of the taps.
        width: of the convolutions.

    >>> outputs = SideOutputs((4, 8), width=16)
    >>> maps = outputs.prepare([torch.rand(1, 4, 6, 5), torch.rand(1, 8, 3, 3)])
    >>> outputs.fuse(maps, (12, 10)).shape, [tuple(s.shape) for s in outputs.score(maps, (12, 10))]
    (torch.Size([1, 1, 12, 10]), [(1, 1, 12, 10), (1, 1, 12, 10)])
    """

    def __init__(self, channels: Sequence[int], width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.convolutions = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in channels)
        self.scores = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in channels)
        self.fusion = nn.Conv2d(width * len(channels), 1, 1)

    def prepare(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (n, width, h, w), one a tap (n, C, h, w)."""
        return [convolution(tap) for convolution, tap in zip(self.convolutions, taps, strict=True)]

    def fuse(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """The score (n, 1, H, W) of all prepared maps."""
        weights = self.fusion.weight.split(self.width, 1)
        parts = [F.conv2d(m, weight) for m, weight in zip(maps, weights, strict=True)]
        total = torch.stack([self.enlarge(part, i, size) for i, part in enumerate(parts)]).sum(0)
        assert self.fusion.bias is not None
        return total + self.fusion.bias[:, None, None]

    def score(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """A score (n, 1, H, W) of each prepared map."""
        return [self.enlarge(score(m), i, size) for i, (score, m) in enumerate(zip(self.scores, maps, strict=True))]

    def enlarge(self, scores: Tensor, tap: int, size: tuple[int, int]) -> Tensor:
        """One channel (n, 1, h, w) on the grid of a tap, brought to image size."""
        return upsample(scores, size)


class PaperSideOutputs(SideOutputs):
    """The original's, on VGG-16: transposed convolutions with a fixed bilinear kernel, cropped about the centre.

    Like FCN-32s's decoder they fade towards 0 at the border. Where an odd number of pixels is too much, one more is
    cropped at the bottom and right. The kernels are parameters without gradient and as dense as the original's, so that
    they count as there.

    >>> PaperSideOutputs().enlarge(torch.ones(1, 1, 3, 2), 1, (9, 8)).shape
    torch.Size([1, 1, 9, 8])
    """

    def __init__(self) -> None:
        super().__init__(SideVGG16.channels, width=16)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start(module, 0.001)
        kernels = [bilinear_kernel(stride) for stride in SideVGG16.all_strides]
        eye = torch.eye(self.width)[:, :, None, None]
        self.kernels = nn.ParameterList(nn.Parameter(eye * kernel, False) for kernel in kernels)
        self.score_kernels = nn.ParameterList(nn.Parameter(kernel[None, None], False) for kernel in kernels)

    def score(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """A score (n, 1, H, W) of each prepared map."""
        pairs = zip(self.scores, maps, self.score_kernels, strict=True)
        return [_enlarged(score(m), kernel, size) for score, m, kernel in pairs]

    def enlarge(self, scores: Tensor, tap: int, size: tuple[int, int]) -> Tensor:
        """One channel under one entry of the kernel's diagonal, which are all alike."""
        return _enlarged(scores, self.kernels[tap][:1, :1], size)


def _enlarged(scores: Tensor, kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """A transposed convolution (n, 1, h, w) -> (n, 1, H, W)."""
    enlarged = F.conv_transpose2d(scores, kernel, stride=kernel.shape[-1] // 2)
    top, left = ((n - wanted) // 2 for n, wanted in zip(enlarged.shape[-2:], size, strict=True))
    return enlarged[..., top : top + size[0], left : left + size[1]]


class SideVGG16(CaffeEncoder):
    """VGG-16 without fully connected layers; taps at the ends of stages two to five, each before its pool.

    Args:
        weights: a .safetensors file with torchvision's VGG-16 names (the Caffe weights), or None.
        trainable: False freezes the parameters.

    >>> [tuple(m.shape) for m in SideVGG16()(torch.rand(1, 3, 17, 13)).maps]
    [(1, 128, 9, 7), (1, 256, 5, 4), (1, 512, 3, 2), (1, 512, 2, 1)]
    """

    channels = (128, 256, 512, 512)
    all_strides = (2, 4, 8, 16)

    def __init__(self, weights: str | None = None, trainable: bool = True) -> None:
        super().__init__(trainable)
        pools = [nn.MaxPool2d(2, ceil_mode=True) for _ in range(4)]
        self.vgg = VGG16([*pools, nn.Identity()])
        self.out_channels, self.strides = self.channels, self.all_strides
        if weights is not None:
            load_torchvision(self.vgg.convolutions(), weights)
        self.freeze_where_asked()

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The taps (n, C, h, w) of normalised images (n, 3, H, W)."""
        maps = []
        for stage, pool in zip(self.vgg.stages, self.vgg.pools, strict=True):
            maps.append(stage(images))
            images = pool(maps[-1])
        return tuple(maps[1:])
