"""OSLSM: regress the weights of a per-pixel logistic regression from the masked support, apply it to the query.

Source: Shaban, Bansal, Liu, Essa, Boots, "One-shot learning for semantic segmentation" (BMVC 2017,
https://arxiv.org/abs/1709.03410) and the original code (Caffe) at https://github.com/lzzcd001/OSLSM.

Deviations of ``variant="standard"``: encoders of choice with all taps embedded to one width, the mean of the masked
support's features and two layers instead of fc6 to fc8 on 224 x 224 pixels, the regressed weights divided by the root
of their number, interpolation of the logit instead of the fixed stride-32 kernel.
Deviations of both: the hashing is drawn here (the original's lives in its weights file; ``load_original`` takes it),
pixels that are not positive become the mean colour (it is not published whether black was meant), and a shot without
any positive pixel does not vote.
Deviation of ``variant="paper"``: the support is resized with antialiasing, so that no annotated pixel is lost.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.episode import POSITIVE, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import silence
from fewseg.functional.fuse import any_shot
from fewseg.functional.geometry import upsample
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.annotated import keep_images, with_fixed_norms
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.modules.fcn32s import FIRST_PADDING, Decoder, FCN32s, start
from fewseg.modules.vgg import load_torchvision, refuse_encoder
from fewseg.network import SegmentorNetwork

HASH_SEED = 1709
PADDING = 121  # of conv1_1 in the paper's query branch
SUPPORT_SIZE = 224  # pixels of a side in the paper's conditioning branch
CODES = 1000  # what the paper's conditioning branch puts out: the classes of ImageNet


class Guidance(NamedTuple):
    """classifiers (B, K, C + 1): w, then b, of each shot; positive (B, K) bool: which shots show the object."""

    classifiers: Tensor
    positive: Tensor


class Hashing(nn.Module):
    """Each output copies one input with a random sign: many weights from few numbers, with nothing to learn.

    The weight-hashing layer of the paper (after Chen et al. 2015), as the matrix that its code makes of it. It is drawn
    from a seed and saved with the state.

    Args:
        inputs: entries of the code.
        outputs: entries of the classifier.
        seed: of the draw.

    >>> Hashing(2, 3, seed=0).matrix
    tensor([[-1.,  0.],
            [ 0.,  1.],
            [ 0.,  1.]])
    """

    matrix: Tensor

    def __init__(self, inputs: int, outputs: int, seed: int = HASH_SEED) -> None:
        super().__init__()
        random = np.random.RandomState(seed)
        matrix = np.zeros((outputs, inputs), np.float32)
        copied, signs = random.randint(inputs, size=outputs), random.randint(2, size=outputs)
        matrix[np.arange(outputs), copied] = 2 * signs - 1
        self.register_buffer("matrix", torch.from_numpy(matrix))

    def forward(self, codes: Tensor) -> Tensor:
        """(..., outputs) of codes (..., inputs)."""
        return F.linear(codes, self.matrix)


class OSLSMNetwork(SegmentorNetwork):
    """``guide`` regresses one classifier per shot; ``segment`` applies each to every query cell and takes the largest.

    Only positive pixels are read: negative and unknown ones are blanked alike, so sparse annotations leave a support of
    few coloured pixels, and no negatives at all make no difference. A shot without any positive pixel has no vote;
    where no shot has one, all is background.

    Args:
        encoder: of queries.
        support_encoder: of masked supports; None means that of the queries.
        width: channels C of the query features and of the classifier.
        codes: numbers that the classifier's C + 1 weights are copied from.

    >>> network = OSLSMNetwork(Encoder("tiny"), Encoder("tiny"), width=16, codes=8)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    early: bool = True
    shared_encoder: bool = False

    scale: float = 1.0  # of the regressed weights
    embedding: nn.Module
    support_encoder: nn.Module | None
    regressor: nn.Module

    def __init__(
        self, encoder: Encoder, support_encoder: Encoder | None = None, width: int = 128, codes: int = 64
    ) -> None:
        super().__init__()
        if codes < 1:
            raise FewsegError("codes", codes, "at least 1", "raise it")
        self.encoder = encoder
        self.embedding = Embedding(encoder, width, rectify=True)
        self.support_encoder = support_encoder
        self.support_embedding = Embedding(support_encoder or encoder, width, rectify=True)
        self.regressor = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, codes))
        self.hashing = Hashing(codes, width + 1)
        self.scale = width**-0.5  # the sum over C signed features then has the size of one of them

    def encode_support(self, images: Tensor | Features) -> Features:
        """The normalised images: masking comes first, encoding after it, in ``guide``."""
        return keep_images(self.encoder, images)  # type: ignore[arg-type]

    def encode_query(self, images: Tensor | Features) -> Features:
        """One map (B, C, h, w) of queries."""
        embedded: Features = self.embedding(self.encoder(images))
        return embedded

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """Masked supports (B, K, 3, H, W) to codes, and codes to classifiers."""
        images = features.maps[0]
        masked = images * (annotations == POSITIVE).to(images.dtype)[:, :, None]
        positive = (annotations == POSITIVE).flatten(2).any(2)
        return Guidance(self.hashing(self.regress(masked)), positive)

    def regress(self, masked: Tensor) -> Tensor:
        """The code (B, K, codes) of masked, normalised supports (B, K, 3, H, W)."""
        shared = self.support_encoder is None
        encoded = with_fixed_norms(self.encoder, masked) if shared else self.support_encoder(masked)  # type: ignore[misc]
        features: Features = self.support_embedding(encoded)
        codes: Tensor = self.regressor(features.maps[0].mean((-2, -1)))
        return codes

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W): 0 for background, and the largest w . F + b of any shot for foreground."""
        weights, biases = guidance.classifiers[..., :-1] * self.scale, guidance.classifiers[..., -1]
        scores = torch.einsum("bchw,bkc->bkhw", features.maps[0], weights) + biases[..., None, None]
        margins = self.decode(scores, features.image_size)  # (B, K, H, W)
        margins = margins.masked_fill(~guidance.positive[..., None, None], torch.finfo(margins.dtype).min)
        logits = any_shot(torch.stack([torch.zeros_like(margins), margins], 2))
        return silence(logits, guidance.positive.any(1))

    def represent(self, guidance: Guidance) -> Tensor:
        """The mean classifier (B, C + 1) of the shots that have one."""
        votes = guidance.positive.to(guidance.classifiers.dtype)[..., None]
        return (guidance.classifiers * votes).sum(1) / votes.sum(1).clamp(min=1)

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores on the feature grid to logits at image size."""
        return upsample(scores, size)


class PaperOSLSMNetwork(OSLSMNetwork):
    """The original: two VGG-16 with 272,618,088 learned parameters, 272,622,184 with the fixed decoder kernel.

    The learned ones are 138,357,544 of the conditioning branch (all of VGG-16) and 134,260,544 of the query branch
    (VGG-16 without fc8). The hashing matrix (4097, 1000) is a buffer and is not counted.

    Args:
        weights: a VGG-16 file for both branches, see ``load_torchvision``.
        trainable: False freezes the query branch.
    """

    cacheable: bool = False  # exact only in its own precision
    encoder: FCN32s
    support_encoder: FCN32s
    regressor: nn.Conv2d

    def __init__(self, weights: str | None = None, trainable: bool = True) -> None:
        SegmentorNetwork.__init__(self)
        self.encoder = FCN32s(lite=False, weights=weights, trainable=trainable, first_padding=PADDING)
        self.embedding = nn.Identity()
        self.support_encoder = FCN32s(lite=False, first_padding=1)
        self.regressor = nn.Conv2d(4096, CODES, 1)  # fc8
        start(self.regressor, 0.001)
        if weights is not None:
            load_torchvision(self.conditioning(), weights)
        self.hashing = Hashing(CODES, 4096 + 1)
        self.decoder = Decoder(1, offset=PADDING - FIRST_PADDING)

    def conditioning(self) -> list[nn.Conv2d]:
        """The convolutions of the conditioning branch, fc8 the last."""
        return [*self.support_encoder.convolutions(), self.regressor]

    def regress(self, masked: Tensor) -> Tensor:
        """fc8 (B, K, 1000) of the masked supports at 224 x 224 pixels."""
        size = (SUPPORT_SIZE, SUPPORT_SIZE)
        resized = F.interpolate(masked.flatten(0, 1), size=size, mode="bilinear", antialias=True)
        codes: Tensor = self.regressor(self.support_encoder(resized).maps[0])  # (B * K, 1000, 1, 1)
        return codes.reshape(*masked.shape[:2], CODES)

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """The fixed transposed convolution, cropped from pixel 40 on."""
        logits: Tensor = self.decoder(scores, size)
        return logits

    def original_entries(self) -> list[Tensor | None]:
        """Conditioning branch (13 convolutions, fc6, fc7, fc8), hashing of w and of b, query branch, decoder kernel.

        Each layer is weight, bias. Inner products are matrices, as in Caffe. The order is that of the data through the
        published prototxt and was not checked against a weights file.
        """
        inner = [(c.weight.flatten(1), c.bias) for c in self.conditioning()[13:]]  # views, so copying fills the layers
        query = [p for convolution in self.encoder.convolutions() for p in convolution.parameters()]
        support = [p for convolution in self.conditioning()[:13] for p in convolution.parameters()]
        hashing: list[Tensor | None] = [self.hashing.matrix[:-1], self.hashing.matrix[-1:]]
        return [*support, *(p for pair in inner for p in pair), *hashing, *query, None]


class OSLSM(FewShotSegmentor):
    """OSLSM.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps``, ``width``, ``codes`` and
            ``separate_encoders``).
        weights: a file or ``"pretrained"`` for the encoders; a VGG-16 file for ``paper``.
        output_stride: of the encoders.
        taps: levels of the encoders.
        freeze_encoder: do not train the encoder of the queries; supports that have their own go on training it.
        width: channels of the query features and of the regressed classifier.
        codes: numbers that the weights of the classifier are copied from.
        separate_encoders: masked supports have an encoder of their own.
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
        codes: int = 64,
        separate_encoders: bool = True,
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
            remedy = 'leave it out, or choose variant="standard"'
            if codes != 64:
                raise FewsegError("codes", codes, "its default, because the paper regresses 1000 numbers", remedy)
            if not separate_encoders:
                raise FewsegError("separate_encoders", False, "True, because the paper has two VGG-16", remedy)
            network: OSLSMNetwork = PaperOSLSMNetwork(weights, trainable=not freeze_encoder)
        else:
            queries = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            supports = Encoder(encoder, weights, output_stride, taps) if separate_encoders else None
            network = OSLSMNetwork(queries, supports, width, codes)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As ever; ``paper`` has its solver's multipliers: conditioning branch x 0.1, and all biases twice that.

        The multipliers of the query branch (1 and 2) are Caffe's habit; our sources do not give them.
        """
        if not isinstance(self.network, PaperOSLSMNetwork):
            return super().parameter_groups()
        lr = self.lr * self.encoder_lr_factor
        groups: list[dict[str, Any]] = []
        for branch, factor in ((self.network.encoder.convolutions(), 1.0), (self.network.conditioning(), 0.1)):
            for parameters, double in (([c.weight for c in branch], 1), ([c.bias for c in branch], 2)):
                trained = [p for p in parameters if p is not None and p.requires_grad]
                groups.append({"params": trained, "lr": lr * factor * double})
        return [group for group in groups if group["params"]]
