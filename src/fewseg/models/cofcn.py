"""co-FCN: encode supports with their annotations as input channels, pool everything, join it to every query cell.

Source: Rakelly, Shelhamer, Darrell, Efros, Levine, "Conditional networks for few-shot semantic segmentation" (ICLR
workshop 2018), and the early-fusion network with separate supports ("cofeat_early") of the same authors at
https://github.com/shelhamer/revolver. No code of the workshop paper was found: ``variant="paper"`` is that network.

Deviations of ``variant="standard"``: encoders of choice with all taps embedded to one width instead of fc6, annotation
channels scaled to normalised colours, the negative one turned over, dilated points that leave pixels of the other
label alone, interpolation of logits instead of the fixed stride-32 kernel, no dropout.
Deviations of both: without any positive pixel all is background; the original's first fully connected layers keep
PyTorch's initial values by a slip, here they start at N(0, .001) as was meant (``paper``).
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.episode import POSITIVE, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import annotated, dilate, indicators, silence
from fewseg.functional.geometry import upsample
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.annotated import AnnotatedEncoder, keep_images, opposed_channels
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.modules.fcn32s import MIN_SIZE, Decoder, FCN32s, start
from fewseg.modules.vgg import refuse_encoder
from fewseg.network import SegmentorNetwork


class Guidance(NamedTuple):
    """z (B, C): the mean over all cells of all supports; positive (B,) bool: whether any pixel is positive."""

    z: Tensor
    positive: Tensor


class CoFCNNetwork(SegmentorNetwork):
    """``guide`` encodes supports with their annotations and pools them; ``segment`` scores every query cell given z.

    Without negatives the negative channel is empty everywhere; a shot without any annotation is pooled like the others;
    without any positive pixel all is background.

    Args:
        encoder: of queries.
        support_encoder: of supports with two annotation channels, negative and positive.
        width: channels of the embeddings, of z and of the head.
        dilation: side of the square that an annotated pixel grows to, odd.

    >>> network = CoFCNNetwork(Encoder("tiny"), AnnotatedEncoder(Encoder("tiny"), channels=2), width=16)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    early: bool = True
    shared_encoder: bool = False

    embedding: nn.Module
    support_embedding: nn.Module

    def __init__(
        self, encoder: Encoder, support_encoder: AnnotatedEncoder, width: int = 128, dilation: int = 11
    ) -> None:
        super().__init__()
        self.dilation = check_dilation(dilation)
        self.encoder, self.support_encoder = encoder, support_encoder
        self.embedding = Embedding(encoder, width, rectify=True)
        self.support_embedding = Embedding(support_encoder.encoder, width)
        self.fuse = nn.Conv2d(2 * width, width, 1)
        nn.init.kaiming_normal_(self.fuse.weight)  # PyTorch's own smaller start leaves z unheard for long
        self.drop: nn.Module = nn.Identity()
        self.score = nn.Conv2d(width, 2, 1)

    def encode_support(self, images: Tensor | Features) -> Features:
        """The normalised images: they are encoded together with their annotations, in ``guide``."""
        return keep_images(self.support_encoder.encoder, images)

    def encode_query(self, images: Tensor | Features) -> Features:
        """One map (B, C, h, w) of queries."""
        embedded: Features = self.embedding(self.encoder(images))
        return embedded

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """One vector per episode: the mean over all cells of all shots."""
        images = features.maps[0].expand(annotations.shape[0], -1, -1, -1, -1)  # (B, K, 3, H, W)
        channels = self.channels(annotations, images.dtype)
        embedded: Features = self.support_embedding(self.support_encoder(images, channels))
        return Guidance(embedded.maps[0].mean((1, 3, 4)), annotated(annotations)[:, POSITIVE])

    def channels(self, annotations: Tensor, dtype: torch.dtype) -> Tensor:
        """What supports carry beside their colours, (B, K, 2, H, W), see ``opposed_channels``."""
        return opposed_channels(annotations, dtype, self.dilation)

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W): a head of two 1x1 convolutions on the concatenation of z and the query features.

        The first is linear in the concatenation, so it is a vector per episode plus a map per query, and z is never
        tiled.
        """
        z = guidance.z
        support_weight, query_weight = self.fuse.weight.split([z.shape[1], self.fuse.in_channels - z.shape[1]], 1)
        context = F.linear(z, support_weight.flatten(1))[..., None, None]  # (B, hidden, 1, 1)
        hidden = F.relu(F.conv2d(features.maps[0], query_weight, self.fuse.bias) + context)
        logits = self.decode(self.score(self.drop(hidden)), features.image_size)
        return silence(logits, guidance.positive)

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores on the feature grid to logits at image size."""
        return upsample(scores, size)


class PaperCoFCNNetwork(CoFCNNetwork):
    """Two FCN-32s trunks up to fc6 of 256 channels: 42,424,322 parameters, 42,407,938 without the fixed decoder kernel.

    The learned ones are 21,138,624 of the support trunk, 21,137,472 of the query trunk and 131,842 of the head.

    Args:
        weights: a VGG-16 file for both trunks, see ``FCN32s``.
        trainable: False freezes the trunk of the queries.
        dilation: 11 in the original.
    """

    min_size: ClassVar[int] = MIN_SIZE
    cacheable: bool = False  # exact only in its own precision
    encoder: FCN32s

    def __init__(self, weights: str | None = None, trainable: bool = True, dilation: int = 11) -> None:
        SegmentorNetwork.__init__(self)
        self.dilation = check_dilation(dilation)
        self.encoder = FCN32s(lite=True, weights=weights, trainable=trainable)
        self.support_encoder = AnnotatedEncoder(FCN32s(lite=True, weights=weights), channels=2)
        self.embedding, self.support_embedding = nn.Identity(), nn.Identity()
        width = 256
        self.fuse, self.score = nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, 2, 1)
        self.drop = nn.Dropout2d(0.5)
        self.decoder = Decoder(2)
        start(self.fuse, 0.001)
        start(self.score, 0.0)

    def channels(self, annotations: Tensor, dtype: torch.dtype) -> Tensor:
        """Dilated indicators at -128 and 128; squares of both labels may overlap."""
        return 128.0 * (2 * dilate(indicators(annotations, dtype), self.dilation) - 1)

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """The fixed transposed convolution."""
        logits: Tensor = self.decoder(scores, size)
        return logits

    def original_entries(self) -> list[Tensor | None]:
        """Support trunk (13 convolutions, fc6), query trunk, head.fc7, head.score (weight, bias), decoder kernel.

        That the support trunk comes first was not checked against the original's state.
        """
        trunks: list[FCN32s] = [self.support_encoder.encoder, self.encoder]  # type: ignore[list-item]
        learned = [*(c for trunk in trunks for c in trunk.convolutions()), self.fuse, self.score]
        return [*(p for convolution in learned for p in convolution.parameters()), None]


def check_dilation(dilation: int) -> int:
    """The dilation, if it is an odd number of pixels.

    Raises:
        FewsegError: it is not.
    """
    if dilation < 1 or dilation % 2 == 0:
        raise FewsegError("dilation", dilation, "an odd number of pixels", "add or subtract 1; 1 dilates nothing")
    return dilation


class CoFCN(FewShotSegmentor):
    """co-FCN.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps`` and ``width``).
        weights: a file or ``"pretrained"`` for both encoders; a VGG-16 file for ``paper``.
        output_stride: of the encoders.
        taps: levels of the encoders.
        freeze_encoder: do not train the encoder of the queries; that of the supports has channels to learn.
        width: channels of z and of the head.
        dilation: side of the square that an annotated pixel grows to before it is encoded, odd.
        variant: ``standard``, or the network of the ``paper``.
        lr: peak learning rate.
        encoder_lr_factor: the encoders learn with ``lr`` times this.
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
        if variant == "paper":
            refuse_encoder(encoder, output_stride, taps, width)
            network: CoFCNNetwork = PaperCoFCNNetwork(weights, trainable=not freeze_encoder, dilation=dilation)
        else:
            queries = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            supports = AnnotatedEncoder(Encoder(encoder, weights, output_stride, taps), channels=2)
            network = CoFCNNetwork(queries, supports, width, dilation)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
