"""Click fusion: an image and its click maps become an image again, so that any encoder can read clicks.

Source: the input layers of f-BRS (Sofiiuk, Petrov, Barinova, Konushin 2020, https://arxiv.org/abs/2001.10331, and its
code), which Bhatia's thesis on few-shot interactive segmentation takes over as its click-fusion module.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fewseg.errors import FewsegError

_SLOPE = 0.2
# Mean and variance of LeakyReLU(0.2) of a standard normal variable.
_MEAN = (1 - _SLOPE) / math.sqrt(2 * math.pi)
_VARIANCE = (1 + _SLOPE**2) / 2 - _MEAN**2


class ClickFusion(nn.Module):
    """Two 1x1 convolutions with LeakyReLU and batch norm between them: all channels to 8, 8 to those of an image.

    Args:
        in_channels: of image and maps together: 5 for two click maps beside three colours.
        out_channels: of the image, which are the first channels that come in.
        hidden: channels between.
        start: ``default`` is PyTorch's, as in the code of f-BRS. ``identity`` (ours) starts near the image itself, so
            that a trained encoder reads what it knows: each colour x passes as LeakyReLU(x) - LeakyReLU(-x), which is
            1.2 x, and batch norm starts at the statistics of normalised colours and restores them. The remaining
            hidden channels carry one map each and add it: batch norm makes the small range of distances audible.

    Raises:
        FewsegError: too few hidden channels for the start, or no channel beside those of the image.

    >>> fusion = ClickFusion(in_channels=5)
    >>> fusion(torch.rand(1, 3, 17, 13), torch.rand(4, 2, 17, 13)).shape
    torch.Size([4, 3, 17, 13])
    """

    def __init__(
        self,
        in_channels: int = 5,
        out_channels: int = 3,
        hidden: int = 8,
        start: Literal["identity", "default"] = "identity",
    ) -> None:
        super().__init__()
        if in_channels <= out_channels:
            expected = f"more than the {out_channels} channels of the image"
            raise FewsegError("in_channels", in_channels, expected, "add the number of maps to it")
        self.squeeze = nn.Conv2d(in_channels, hidden, 1)
        self.activation = nn.LeakyReLU(_SLOPE)
        # a map that was constant in training, because no negative was clicked, must not burst where it is not
        self.norm = nn.BatchNorm2d(hidden, eps=1e-3 if start == "identity" else 1e-5)
        self.restore = nn.Conv2d(hidden, out_channels, 1)
        if start == "identity":
            self._start_at_identity()

    @torch.no_grad()
    def _start_at_identity(self) -> None:
        colours, hidden = self.restore.out_channels, self.squeeze.out_channels
        if hidden <= 2 * colours:
            expected = f'more than {2 * colours}, two for each channel of the image, with start="identity"'
            raise FewsegError("hidden", hidden, expected, 'pass more, or start="default"')
        assert self.squeeze.bias is not None
        assert self.restore.bias is not None
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        pairs = torch.eye(colours).repeat_interleave(2, 0) * torch.tensor([1.0, -1.0]).repeat(colours)[:, None]
        passed = slice(0, 2 * colours)  # the hidden channels that carry the image
        self.squeeze.weight.zero_()
        self.squeeze.bias.zero_()
        self.squeeze.weight[passed, :colours, 0, 0] = pairs
        n_maps = self.squeeze.in_channels - colours
        for number in range(max(n_maps, hidden - 2 * colours)):
            self.squeeze.weight[2 * colours + number % (hidden - 2 * colours), colours + number % n_maps] = 1
        self.norm.running_mean[passed], self.norm.running_var[passed] = _MEAN, _VARIANCE
        self.norm.bias[passed], self.norm.weight[passed] = _MEAN, math.sqrt(_VARIANCE + self.norm.eps)
        self.restore.weight[:, passed, 0, 0] = pairs.T / (1 + _SLOPE)
        self.restore.bias.zero_()

    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        """An image (B, out_channels, H, W) of normalised images (B, 3, H, W) and maps (B, n, H, W).

        A leading axis of 1 serves all of the other.
        """
        n = max(len(images), len(maps))
        joined = torch.cat([part.expand(n, -1, -1, -1) for part in (images, maps.to(images.dtype))], 1)
        fused: Tensor = self.restore(self.norm(self.activation(self.squeeze(joined))))
        return fused
