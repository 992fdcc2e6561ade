"""VGG-16 (Simonyan and Zisserman 2015) as the papers of this field change it: pools, dilation, last ReLU, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewseg.errors import FewsegError
from fewseg.functional.files import find_weights
from fewseg.modules.encoders import ImageEncoder

CHANNELS = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 3, 3, 3)
BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)  # of the Caffe weights, on the scale 0..255
_TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # places of the convolutions in ``features``


class CaffeEncoder(ImageEncoder):
    """An encoder on the Caffe weights: raw RGB becomes BGR minus the mean, on the scale 0..255.

    Args:
        trainable: False freezes the parameters.
    """

    def __init__(self, trainable: bool = True) -> None:
        super().__init__(mean=BGR_MEAN, std=(1.0, 1.0, 1.0), scale=1.0, trainable=trainable)

    def normalize(self, images: Tensor) -> Tensor:
        """Raw RGB integers (..., 3, H, W) to BGR minus the mean; floats unchanged."""
        return images if images.is_floating_point() else super().normalize(images.flip(-3))


class VGG16(ImageEncoder):
    """The 13 convolutions in five stages, each followed by its pool.

    Args:
        pools: one module per stage, applied after it; ``nn.Identity()`` for none.
        taps: stages whose map after the pool is returned, ascending.
        dilations: of the convolutions of each stage.
        first_padding: of the very first convolution.
        in_channels: of the very first convolution.
        last_relu: False leaves out the ReLU after the last convolution.
        weights: a .safetensors file with torchvision's names (``features.0.weight``, ...), or None.
        trainable: False freezes the parameters.

    >>> halve = [nn.MaxPool2d(2) for _ in range(5)]
    >>> VGG16(halve, taps=(2, 4))(torch.rand(1, 3, 32, 64)).maps[1].shape
    torch.Size([1, 512, 1, 2])
    """

    def __init__(
        self,
        pools: Sequence[nn.Module],
        taps: Sequence[int] = (4,),
        dilations: Sequence[int] = (1, 1, 1, 1, 1),
        first_padding: int = 1,
        in_channels: int = 3,
        last_relu: bool = True,
        weights: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(trainable=trainable)
        self.taps = tuple(taps)
        self.out_channels = tuple(CHANNELS[tap] for tap in taps)
        strides = [2 if getattr(pool, "stride", 1) == 2 else 1 for pool in pools]
        self.strides = tuple(math.prod(strides[: tap + 1]) for tap in taps)
        self.stages = nn.ModuleList()
        self.pools = nn.ModuleList(pools)
        for width, depth, dilation in zip(CHANNELS, DEPTHS, dilations, strict=True):
            layers: list[nn.Module] = []
            for _ in range(depth):
                first = not self.stages and not layers
                padding = first_padding if first else dilation
                layers += [nn.Conv2d(in_channels, width, 3, 1, padding, dilation), nn.ReLU(inplace=True)]
                in_channels = width
            last = len(self.stages) == len(DEPTHS) - 1
            self.stages.append(nn.Sequential(*(layers if last_relu or not last else layers[:-1])))
        if weights is not None:
            load_torchvision(self.convolutions(), weights)
        self.freeze_where_asked()

    def extra_repr(self) -> str:
        """What the fingerprint covers beside the parameters: the stages and pools."""
        return f"taps={self.taps}, {self.stages}, {self.pools}"

    def convolutions(self) -> list[nn.Conv2d]:
        """The 13 convolutions, first to last."""
        return [module for module in self.stages.modules() if isinstance(module, nn.Conv2d)]

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The taps (n, C, h, w) of normalised images (n, channels, H, W)."""
        maps = []
        for stage, pool in zip(self.stages, self.pools, strict=True):
            images = pool(stage(images))
            maps.append(images)
        return tuple(maps[tap] for tap in self.taps)


def panet_vgg16(weights: str | None = None, trainable: bool = True) -> VGG16:
    """PANet's: 3x3 pools of stride 2, 2, 2, 1 and none at the end, last stage dilated, last convolution linear.

    >>> panet_vgg16()(torch.rand(1, 3, 17, 13)).maps[0].shape
    torch.Size([1, 512, 3, 2])
    """
    pools = [nn.MaxPool2d(3, stride, 1) for stride in (2, 2, 2, 1)]
    return VGG16(
        [*pools, nn.Identity()], dilations=(1, 1, 1, 1, 2), last_relu=False, weights=weights, trainable=trainable
    )


def sgone_vgg16(weights: str | None = None, trainable: bool = True) -> VGG16:
    """SG-One's: 3x3 pools of stride 2, 2, 2, 1, 1 and no dilation; taps after the last three.

    >>> [tuple(m.shape) for m in sgone_vgg16()(torch.rand(1, 3, 17, 13)).maps]
    [(1, 256, 3, 2), (1, 512, 3, 2), (1, 512, 3, 2)]
    """
    pools = [nn.MaxPool2d(3, stride, 1) for stride in (2, 2, 2, 1, 1)]
    return VGG16(pools, taps=(2, 3, 4), weights=weights, trainable=trainable)


@torch.no_grad()
def load_torchvision(convolutions: Sequence[nn.Conv2d], weights: str) -> None:
    """Loads the 13 convolutions, and what there is of fc6, fc7 and fc8, from a file with torchvision's VGG-16 names.

    Args:
        convolutions: 13, or up to 16 with fc6, fc7 and fc8 as convolutions.
        weights: a .safetensors file, looked up as ``find_weights`` says.

    Raises:
        FewsegError: the file lacks a tensor, or holds one of another size.
    """
    names = [f"features.{place}" for place in _TORCHVISION] + ["classifier.0", "classifier.3", "classifier.6"]
    path = find_weights(weights)
    try:
        state = load_file(path)
        for convolution, name in zip(convolutions, names, strict=False):
            convolution.weight.copy_(state[f"{name}.weight"].view_as(convolution.weight))  # fc6: (4096, 512 * 7 * 7)
            bias: Tensor | None = convolution.bias
            assert bias is not None
            bias.copy_(state[f"{name}.bias"])
    except (SafetensorError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FewsegError(
            "weights", f"{path} ({reason})", "a VGG-16 with torchvision's names", "convert it, or leave weights out"
        ) from error


def refuse_encoder(encoder: str, output_stride: int | None, taps: Sequence[int] | None, width: int) -> None:
    """A paper's own network has a fixed trunk: an error where one of these options differs from its default.

    Raises:
        FewsegError: it would have no effect.

    >>> refuse_encoder("tiny", None, None, 128)
    >>> refuse_encoder("resnet50", None, None, 128)
    Traceback (most recent call last):
    fewseg.errors.FewsegError: encoder: got resnet50, expected its default, ...
    """
    given = {"encoder": encoder, "output_stride": output_stride, "taps": taps, "width": width}
    defaults = {"encoder": "tiny", "output_stride": None, "taps": None, "width": 128}
    for name, value in given.items():
        if value != defaults[name]:
            raise FewsegError(
                name,
                value,
                'its default, because variant="paper" has the paper\'s own VGG-16',
                'leave it out, or choose variant="standard"',
            )
