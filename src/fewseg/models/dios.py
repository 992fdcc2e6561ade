"""DIOS: clicks as two more input channels of a fully convolutional network; the supports are not read.

Sources: Xu, Price, Cohen, Yang, Huang, "Deep interactive object selection" (CVPR 2016,
https://arxiv.org/abs/1603.04042; no public code): ``maps="distance"``. The guided-networks papers compare with a
stand-in, ``interactive_early`` of https://github.com/shelhamer/revolver: ``maps="indicator"``.

Where each idea stands:
    distance maps, min(d, 255), added weights at zero     DIOSNetwork.click_maps, DIOSNetwork.read_clicks
    dilated indicators, added weights at the mean         the same
    FCN-8s, one click more an encoder pass                PaperDistanceNetwork
    FCN-32s                                               PaperIndicatorNetwork

Deviations of ``variant="standard"``: an encoder of choice with all taps embedded to one width and a head of two layers;
channels scaled to normalised colours; of the indicators the negative one is turned over and dilated points leave pixels
of the other label alone.
Deviations of ``paper`` with distance maps: FCN-32s, 16s and 8s are not trained one after the other; both upsamplings
between the scores are fixed. Deviations of all: without any positive click all is background; no graph cut afterwards.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import dilate, indicators, silence
from fewseg.functional.clicks import any_positive, click_maps, draw_clicks, no_clicks
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.models.cofcn import check_dilation
from fewseg.models.fgbg import FgBgNetwork, PaperFgBgNetwork, check_kernel
from fewseg.modules.annotated import AMPLITUDE, encode_joined, keep_images, opposed_channels, widen
from fewseg.modules.encoders import Encoder, ImageEncoder
from fewseg.modules.fcn32s import Decoder, FCN32s, start
from fewseg.modules.vgg import refuse_encoder
from fewseg.network import SegmentorNetwork

Maps = Literal["distance", "indicator"]


class DIOSNetwork(FgBgNetwork):
    """The class-blind network with two more input channels that show the clicks, negative first.

    Every click costs a pass of the encoder. Without negative clicks their channel shows none; without any positive
    click all is background.

    Args:
        encoder: its first convolution is widened in place, and learns even where the rest of the encoder is frozen.
        width: channels of the embedding and of the head.
        kernel: of the head's hidden layer.
        maps: ``distance`` to the nearest click of a label; ``indicator`` of the clicked pixels.
        dilation: side of the square that a clicked pixel grows to (``indicator`` only), odd.

    >>> import torch
    >>> network = DIOSNetwork(Encoder("tiny"), width=16)
    >>> guidance = network.guide(network.encode_support(torch.rand(1, 0, 3, 17, 13)), torch.zeros(1, 0, 17, 13))
    >>> clicks = torch.tensor([[[3, 4, 1], [9, 9, 0]]])
    >>> network.segment(network.encode_query(torch.rand(1, 3, 17, 13)), guidance, clicks).shape
    torch.Size([1, 2, 17, 13])
    """

    uses_clicks: bool = True
    encodes_clicks: bool = True
    cacheable: bool = False

    def __init__(
        self, encoder: Encoder, width: int = 128, kernel: int = 1, maps: Maps = "distance", dilation: int = 11
    ) -> None:
        super().__init__(encoder, width, kernel)
        self.read_clicks(maps, dilation)

    def read_clicks(self, maps: Maps, dilation: int) -> None:
        """To be called at the end of a constructor: adds the two channels.

        Raises:
            FewsegError: unknown maps, or a dilation that is not odd.
        """
        if maps not in ("distance", "indicator"):
            raise FewsegError("maps", repr(maps), "distance or indicator", "choose one of the two")
        assert isinstance(self.encoder, ImageEncoder)
        self.dilation, self.maps = check_dilation(dilation), maps
        first = widen(self.encoder, 2, "mean" if maps == "indicator" else "zero")
        first.weight.requires_grad_(True)

    def encode_query(self, images: Tensor | Features) -> Features:
        """The normalised images: they are encoded together with the clicks, in ``segment``."""
        assert isinstance(self.encoder, ImageEncoder)
        return keep_images(self.encoder, images)

    def segment(self, features: Features, guidance: Tensor, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W); clicks as (B, 2, H, W) floats are the channels themselves, see ``click_maps``."""
        return self.segment_from("features", self.segment_to("features", features, guidance, clicks), guidance, clicks)

    def segment_to(self, point: str, features: Features, guidance: Tensor, clicks: Tensor | None = None) -> Features:
        """The maps of the encoder, which has read image and clicks."""
        self._check_point(point)
        assert isinstance(self.encoder, ImageEncoder)
        images = features.maps[0]
        channels = self.click_maps(no_clicks(images) if clicks is None else clicks, features.image_size)
        n = max(len(images), len(channels))
        return encode_joined(self.encoder, images.expand(n, -1, -1, -1), channels.expand(n, -1, -1, -1))

    def segment_from(self, point: str, hidden: Features, guidance: Tensor, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W) from there."""
        self._check_point(point)
        clicked = any_positive(no_clicks(hidden.maps[0]) if clicks is None else clicks)
        logits = silence(self.score(hidden), clicked)
        return logits.expand(max(len(logits), len(guidance)), -1, -1, -1)

    def click_maps(self, clicks: Tensor, size: tuple[int, int]) -> Tensor:
        """What the network reads beside the colours, (B, 2, H, W): the maps that refinement may change.

        Distances min(d, 255) are divided by 57.6, the mean deviation of colours on the scale 0..255. Indicators are
        +-2.2, see ``opposed_channels``; changed by refinement they say how sure a label is, pixel by pixel.

        Args:
            clicks: (B, N, 3) integers (row, col, label); floats (B, 2, H, W) stay as they are.
            size: (H, W) of the image.
        """
        assert isinstance(self.encoder, ImageEncoder)
        dtype = self.encoder.mean.dtype
        if clicks.is_floating_point():
            return click_maps(clicks, size, "euclidean", dtype)  # checked and unchanged
        if self.maps == "distance":
            return click_maps(clicks, size, "euclidean", dtype) * (AMPLITUDE / 128)
        return opposed_channels(draw_clicks(clicks, size)[:, None], dtype, self.dilation)[:, 0]

    def score(self, features: Features) -> Tensor:
        """Logits (B, 2, H, W) of the encoder's maps."""
        return self.decode(self.head(self.embedding(features).maps[0]), features.image_size)


class PaperIndicatorNetwork(DIOSNetwork, PaperFgBgNetwork):
    """FCN-32s with fc6 and fc7 of 4096 channels and five inputs: 134,286,274 parameters, 134,269,890 of them learned.

    Args:
        weights: a VGG-16 file for the trunk, see ``FCN32s``.
        trainable: False freezes the trunk but for its first convolution.
        dilation: 11 in the original.
    """

    def __init__(self, weights: str | None = None, trainable: bool = True, dilation: int = 11) -> None:
        PaperFgBgNetwork.__init__(self, weights, trainable)
        self.read_clicks("indicator", dilation)

    def click_maps(self, clicks: Tensor, size: tuple[int, int]) -> Tensor:
        """Dilated indicators at -128 and 128; squares of both labels may overlap."""
        if clicks.is_floating_point():
            return super().click_maps(clicks, size)
        drawn = indicators(draw_clicks(clicks, size)[:, None], self.encoder.mean.dtype)[:, 0]
        return 128.0 * (2 * dilate(drawn, self.dilation) - 1)


class PaperDistanceNetwork(DIOSNetwork, PaperFgBgNetwork):
    """FCN-8s with five inputs: 134,272,582 parameters, 134,271,430 of them learned.

    The scores of fc7 go to the grid of pool4, with its scores to that of pool3, and with its to the image. Cell i of
    these grids is centred at pixel 32 i + 31.5, 16 i - 72.5 and 8 i - 76.5, which gives the offsets below.

    Args:
        weights: a VGG-16 file for the trunk, see ``FCN32s``.
        trainable: False freezes the trunk but for its first convolution.
    """

    def __init__(self, weights: str | None = None, trainable: bool = True) -> None:
        nn.Module.__init__(self)
        self.encoder = FCN32s(lite=False, weights=weights, trainable=trainable, stages=(2, 3))
        self.score_pool3, self.score_pool4 = nn.Conv2d(256, 2, 1), nn.Conv2d(512, 2, 1)
        self.head = nn.Conv2d(4096, 2, 1)
        self.twice, self.twice_more, self.decoder = Decoder(2, 0, 2), Decoder(2, 0, 2), Decoder(2, 12, 8)
        for layer in (self.score_pool3, self.score_pool4, self.head):
            start(layer, 0.0)
        self.read_clicks("distance", dilation=1)

    def click_maps(self, clicks: Tensor, size: tuple[int, int]) -> Tensor:
        """min(d, 255), beside colours on the scale 0..255 minus their mean."""
        return click_maps(clicks, size, "euclidean", self.encoder.mean.dtype)

    def score(self, features: Features) -> Tensor:
        """Logits (B, 2, H, W) of pool3, pool4 and fc7."""
        pool3, pool4, deepest = features.maps
        scores = self._add(self.twice, self.head(deepest), self.score_pool4(pool4), offset=5)
        scores = self._add(self.twice_more, scores, self.score_pool3(pool3), offset=9)
        return self.decode(scores, features.image_size)

    def original_entries(self) -> list[Tensor | None]:
        """There is no public original."""
        return SegmentorNetwork.original_entries(self)

    @staticmethod
    def _add(twice: nn.Module, coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
        """The coarse scores on a grid twice as fine, plus the scores there."""
        height, width = 2 * coarse.shape[-2] + 2, 2 * coarse.shape[-1] + 2  # what the unpadded kernel of side 4 makes
        upsampled: Tensor = twice(coarse, (height, width))
        return upsampled + fine[..., offset : offset + height, offset : offset + width]


class DIOS(FewShotSegmentor):
    """Deep interactive object selection.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps``, ``width`` and
            ``kernel``); its first layer must be a convolution.
        weights: a file or ``"pretrained"`` for the encoder; a VGG-16 file for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: of the encoder train the first convolution only, which reads the clicks.
        width: channels of the head.
        kernel: of the head's hidden layer; 3 lets a cell see its neighbours.
        maps: ``distance`` (Xu et al.) or ``indicator`` (the stand-in of the guided-networks papers).
        dilation: side of the square that a clicked pixel grows to (``indicator`` only), odd.
        variant: ``standard``, or the network of the ``paper``: FCN-8s for distance maps, FCN-32s for indicators.
        lr: peak learning rate.
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters.
        optimizer: ``adamw``, or ``sgd`` with ``momentum``.
        momentum: of SGD.
        schedule: ``one_cycle`` or ``constant``.
    """

    def __init__(
        self,
        encoder: str = "tiny",
        weights: str | None = None,
        output_stride: int | None = None,
        taps: tuple[int, ...] | None = None,
        freeze_encoder: bool = False,
        width: int = 128,
        kernel: int = 1,
        maps: Maps = "distance",
        dilation: int = 11,
        variant: Literal["standard", "paper"] = "standard",
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        check_kernel(kernel, variant)
        if variant == "paper":
            refuse_encoder(encoder, output_stride, taps, width)
            network: DIOSNetwork = (
                PaperIndicatorNetwork(weights, not freeze_encoder, dilation)
                if maps == "indicator"
                else PaperDistanceNetwork(weights, not freeze_encoder)
            )
        else:
            backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            network = DIOSNetwork(backbone, width, kernel, maps, dilation)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
