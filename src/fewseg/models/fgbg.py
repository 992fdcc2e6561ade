"""The class-blind baseline: any object against background, the support ignored. A few-shot method has to beat it.

Source: the foreground-background baseline of Rakelly et al. 2018 (https://arxiv.org/abs/1806.07373), an FCN-32s (Long
et al. 2015); original code at https://github.com/shelhamer/revolver.

Deviation of ``variant="standard"``: an encoder of choice with all taps embedded to one width, and a head of two layers.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.functional.geometry import upsample
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.modules.fcn32s import MIN_SIZE, Decoder, FCN32s, start
from fewseg.modules.vgg import refuse_encoder
from fewseg.network import SegmentorNetwork


class FgBgNetwork(SegmentorNetwork):
    """``guide`` says nothing; ``segment`` scores every query cell as object or background.

    Being class-blind it segments the same whatever is annotated, even if nothing is.

    Args:
        encoder: of queries.
        width: channels of the embedding and of the head.
        kernel: of the head's hidden layer; 3 lets a cell see its neighbours.

    >>> network = FgBgNetwork(Encoder("tiny"), width=16)
    >>> guidance = network.guide(network.encode_support(torch.rand(3, 1, 3, 32, 32)), torch.zeros(3, 1, 32, 32))
    >>> network.segment(network.encode_query(torch.rand(1, 3, 17, 13)), guidance).shape
    torch.Size([3, 2, 17, 13])
    """

    uses_support: bool = False

    embedding: nn.Module
    head: nn.Module

    def __init__(self, encoder: Encoder, width: int = 128, kernel: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = Embedding(encoder, width, rectify=True)
        hidden = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.head = nn.Sequential(hidden, nn.ReLU(), nn.Conv2d(width, 2, 1))

    def encode_support(self, images: Tensor | Features) -> Features:
        """No map at all: nothing about supports is used, so nothing is computed."""
        size = images.image_size if isinstance(images, Features) else (images.shape[-2], images.shape[-1])
        return Features((), size)

    def encode_query(self, images: Tensor | Features) -> Features:
        """One map (B, C, h, w) of queries."""
        embedded: Features = self.embedding(self.encoder(images))
        return embedded

    def guide(self, features: Features, annotations: Tensor) -> Tensor:
        """An empty z (B, 0)."""
        return torch.zeros(annotations.shape[0], 0, device=annotations.device)

    def segment(self, features: Features, guidance: Tensor, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W); one query serves all B of the guidance."""
        logits = self.decode(self.head(features.maps[0]), features.image_size)
        return logits.expand(max(logits.shape[0], guidance.shape[0]), -1, -1, -1)

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores on the feature grid to logits at image size."""
        return upsample(scores, size)


class PaperFgBgNetwork(FgBgNetwork):
    """FCN-32s with fc6 and fc7 of 4096 channels: 134,285,122 parameters, 134,268,738 of them learned.

    Args:
        weights: a VGG-16 file for the trunk, see ``FCN32s``.
        trainable: False freezes the trunk.
    """

    min_size: ClassVar[int] = MIN_SIZE
    cacheable: bool = False  # exact only in its own precision
    encoder: FCN32s
    head: nn.Conv2d

    def __init__(self, weights: str | None = None, trainable: bool = True) -> None:
        SegmentorNetwork.__init__(self)
        self.encoder = FCN32s(lite=False, weights=weights, trainable=trainable)
        self.embedding = nn.Identity()
        self.head = nn.Conv2d(4096, 2, 1)
        self.decoder = Decoder(2)
        start(self.head, 0.0)

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """The fixed transposed convolution."""
        logits: Tensor = self.decoder(scores, size)
        return logits

    def original_entries(self) -> list[Tensor | None]:
        """13 convolutions, fc6, fc7 and score (weight, bias), then the decoder kernel."""
        learned = [*self.encoder.convolutions(), self.head]
        return [*(p for convolution in learned for p in convolution.parameters()), None]


def check_kernel(kernel: int, variant: str) -> None:
    """Finds a kernel that the head cannot have.

    Raises:
        FewsegError: it is even or not positive, or another than the original's.
    """
    if kernel < 1 or kernel % 2 == 0 or (variant == "paper" and kernel != 1):
        expected = '1, because variant="paper" is the original' if variant == "paper" else "a positive odd number"
        raise FewsegError("kernel", kernel, expected, "choose 1, or 3 for a standard head")


class FgBg(FewShotSegmentor):
    """The class-blind baseline.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps`` and ``width``).
        weights: a file or ``"pretrained"`` for the encoder; a VGG-16 file for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: train only what comes after the encoder.
        width: channels of the head.
        kernel: of the head's hidden layer (``standard`` only); 3 lets a cell see its neighbours.
        variant: ``standard``, or the network of the ``paper``.
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
            network: FgBgNetwork = PaperFgBgNetwork(weights, trainable=not freeze_encoder)
        else:
            backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            network = FgBgNetwork(backbone, width, kernel)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
