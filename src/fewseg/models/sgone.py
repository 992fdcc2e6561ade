"""SG-One: the cosine with the support object's mean feature, multiplied into a segmentation branch.

Source: Zhang, Wei, Yang, Huang, "SG-One: similarity guidance network for one-shot semantic segmentation" (2018,
https://arxiv.org/abs/1810.09091) and the original code at https://github.com/xiaomengyc/SG-One.

Deviations of ``variant="standard"``: an encoder of choice; all taps embedded to one width in front of the guidance
branch's convolution, where the original takes the last stage; a batch norm after that convolution; one side
convolution a tap, coarser taps brought to the finest grid; annotations pooled onto the feature grid instead of features
upsampled to the mask; an exit convolution without padding.
Deviations of both: no positive pixel anywhere is all background (the original divides by zero); a shot without positive
pixels does not count; ``l2`` and the ablated networks are built from the paper's words, as there is no code for them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.episode import POSITIVE, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import silence, upsampled_weights, weights_of
from fewseg.functional.fuse import any_shot
from fewseg.functional.geometry import upsample
from fewseg.functional.pooling import masked_mean, shot_means
from fewseg.functional.similarity import cosine_maps
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.annotated import AnnotatedEncoder, keep_images, opposed_channels, with_fixed_norms
from fewseg.modules.encoders import Embedding, Encoder, ImageEncoder
from fewseg.modules.vgg import VGG16, refuse_encoder, sgone_vgg16
from fewseg.network import SegmentorNetwork

SupportInput = Literal["pool", "mask_image", "concat", "none"]
Measure = Literal["cosine", "l2"]
Merge = Literal["average", "max"]


@dataclasses.dataclass(frozen=True)
class Design:
    """What the paper's ablations change.

    Args:
        support: how the annotation reaches the support vector: it weighs the pooling (``pool``), or global pooling
            follows and it multiplies the image (``mask_image``), is two more input channels of an encoder of its own
            (``concat``) or is not used (``none``).
        separate_encoders: supports have an encoder and a guidance branch of their own.
        guidance: similarity of a query cell with the support vector.
        rectify: keep the ReLU after the guidance branch and after the last side convolution.
        segmentation_branch: False multiplies the similarity into the guidance branch's features.
        concatenate: the side convolutions after the first also read the encoder's taps.
        merge: of several shots: average their vectors, or take the union of their masks.

    Raises:
        FewsegError: an option would have no effect.
    """

    support: SupportInput = "pool"
    separate_encoders: bool = False
    guidance: Measure = "cosine"
    rectify: bool = False
    segmentation_branch: bool = True
    concatenate: bool = True
    merge: Merge = "average"

    def __post_init__(self) -> None:
        if self.separate_encoders and self.support == "concat":
            expected = 'False, because support="concat" has a support encoder already'
            raise FewsegError("separate_encoders", True, expected, "leave it out, or choose another support")
        if not self.concatenate and not self.segmentation_branch:
            expected = "True, because without a segmentation branch nothing is concatenated"
            raise FewsegError("concatenate", False, expected, "leave it out, or keep the segmentation branch")

    @property
    def two_encoders(self) -> bool:
        """Whether supports have an encoder of their own."""
        return self.separate_encoders or self.support == "concat"


class Guidance(NamedTuple):
    """vectors (B, n, C) of the object, n = 1 averaged or n = K; known (B, n) bool: has it any positive pixel."""

    vectors: Tensor
    known: Tensor


class GuidanceBranch(nn.Module):
    """From an encoder's taps to the features that are compared: one map, then a 3x3 convolution.

    The paper leaves out the ReLU at its end, so that cosines may be negative.

    Args:
        embedding: brings taps to one map of ``width`` channels.
        width: of the convolution.
        norm: follows the convolution, which needs no bias then; None for none.
        rectify: end with a ReLU.
    """

    def __init__(self, embedding: nn.Module, width: int, norm: nn.Module | None, rectify: bool) -> None:
        super().__init__()
        self.embedding, self.norm, self.rectify = embedding, norm, rectify
        self.cls = nn.Conv2d(width, width, 3, padding=1, bias=norm is None)

    def forward(self, features: Features, norm: nn.Module | None = None) -> Tensor:
        """(B, width, h, w) or (B, K, width, h, w); ``norm`` takes the place of its own."""
        embedded: Tensor = self.embedding(features).maps[0]
        norm = norm or self.norm
        maps = self.cls(embedded.flatten(0, -4))
        maps = maps if norm is None else norm(maps)
        maps = F.relu(maps) if self.rectify else maps
        return maps.reshape(*embedded.shape[:-3], *maps.shape[1:])


class LastTap(nn.Module):
    """The paper's guidance branch continues from the last stage alone."""

    def forward(self, features: Features) -> Features:
        """The last map."""
        return Features(features.maps[-1:], features.image_size)


class SegmentationBranch(nn.Module):
    """One 3x3 convolution a tap, finest first, each on the one before and its tap; the last one is linear.

    Args:
        channels: of the taps.
        width: of every convolution.
        concatenate: False: only the first reads a tap.
        rectify: a ReLU after the last one, too.

    >>> branch = SegmentationBranch((4, 8), width=16)
    >>> branch([torch.rand(1, 4, 6, 5), torch.rand(1, 8, 3, 3)], (6, 5)).shape
    torch.Size([1, 16, 6, 5])
    """

    def __init__(self, channels: Sequence[int], width: int, concatenate: bool = True, rectify: bool = False) -> None:
        super().__init__()
        if not concatenate and len(channels) == 1:
            expected = "True, because an encoder with a single tap leaves nothing to concatenate"
            raise FewsegError("concatenate", False, expected, "leave it out, or choose more taps")
        self.concatenate, self.rectify = concatenate, rectify
        inputs = [channels[0], *(width + c * concatenate for c in channels[1:])]
        self.sides = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in inputs)

    def forward(self, taps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """(B, width, *grid) of taps (B, C, h, w)."""
        hidden: Tensor = self.sides[0](upsample(taps[0], grid))
        for side, tap in zip(list(self.sides)[1:], taps[1:], strict=True):
            hidden = F.relu(hidden)
            hidden = side(torch.cat([hidden, upsample(tap, grid)], 1) if self.concatenate else hidden)
        return F.relu(hidden) if self.rectify else hidden


def closeness(features: Tensor, vectors: Tensor) -> Tensor:
    """exp(-d) with d the root of the mean squared difference over channels: the L2 counterpart of the cosine.

    Args:
        features: (B, C, h, w); B = 1 broadcasts against vectors of B = n.
        vectors: (B, n, C).

    Returns:
        (B, n, h, w) in (0, 1], 1 where they are equal.

    >>> features = torch.tensor([[1.0, 4.0], [1.0, 4.0]]).view(1, 2, 1, 2)  # cells (1, 1) and (4, 4)
    >>> closeness(features, torch.tensor([[[1.0, 1.0]]]))
    tensor([[[[1.0000, 0.0498]]]])
    """
    difference = features[:, None] - vectors[..., None, None]  # (B, n, C, h, w)
    return torch.exp(-torch.linalg.vector_norm(difference, dim=2) / math.sqrt(vectors.shape[-1]))


class SGOneNetwork(SegmentorNetwork):
    """``guide`` averages features under the positive pixels; ``segment`` weighs each query cell by its similarity.

    Only positives are read (``support="concat"`` reads negatives as well): elsewhere negative or unknown is the same,
    so nothing changes where there are no negatives. A shot without positive pixels does not count; if none has any, or
    all is unknown, all is background.

    Args:
        encoder: of queries, and of supports where they have none of their own.
        width: channels of both branches.
        design: the paper's ablations.
        support_encoder: of supports; needed where ``design.two_encoders``.

    >>> network = SGOneNetwork(Encoder("tiny"), width=16)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    encoder: ImageEncoder
    exit_padding: ClassVar[int] = 0

    def __init__(
        self,
        encoder: ImageEncoder,
        width: int = 128,
        design: Design | None = None,
        support_encoder: ImageEncoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.design = encoder, design or Design()
        chosen = self.design
        self.guidance = self.guidance_branch(encoder, width)
        self.support_encoder: nn.Module | None = support_encoder
        self.support_guidance: GuidanceBranch | None = None
        self.support_norm: nn.Module | None = None
        if chosen.support == "concat":
            assert support_encoder is not None
            self.support_encoder = AnnotatedEncoder(support_encoder, channels=2)
        elif chosen.separate_encoders:
            assert support_encoder is not None
            self.support_guidance = self.guidance_branch(support_encoder, width)
        # flags of the class, here of the design: an instance says what it can do
        self.early = chosen.support in ("mask_image", "concat")
        self.shared_encoder = not (self.early or chosen.two_encoders)
        self.cacheable = self.early or not chosen.two_encoders  # a cache holds one encoder's maps
        if self.early and self.support_guidance is None:
            self.support_norm = self.norm(width)  # what is drawn into or cut out of supports moves their statistics
        self.segmentation: SegmentationBranch | None = None
        if chosen.segmentation_branch:
            self.segmentation = SegmentationBranch(encoder.out_channels, width, chosen.concatenate, chosen.rectify)
        guided = width if chosen.segmentation_branch else self.guidance.cls.out_channels
        self.classifier = nn.Conv2d(guided, width, 3, padding=1)
        self.exit = nn.Conv2d(width, 2, 1, padding=self.exit_padding)

    def guidance_branch(self, encoder: ImageEncoder, width: int) -> GuidanceBranch:
        """All taps embedded to one width, then the convolution."""
        return GuidanceBranch(Embedding(encoder, width, rectify=True), width, self.norm(width), self.design.rectify)

    def norm(self, width: int) -> nn.Module | None:
        """Centres and scales channels: without it features share a large mean, and all cosines start close to 1."""
        return nn.BatchNorm2d(width, affine=False)

    def encode_support(self, images: Tensor | Features) -> Features:
        """The guidance branch's map (B, K, C, h, w), then the taps; the images where the annotations are needed."""
        if self.early:
            return keep_images(self.encoder, images)
        if self.support_encoder is None:
            return self.encode_query(images)
        return self._supports(self.support_encoder(images))

    def encode_query(self, images: Tensor | Features) -> Features:
        """The guidance branch's map (B, C, h, w), then the taps."""
        features: Features = self.encoder(images)
        return _join(self.guidance(features), features)

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """The object's vector, of each shot or averaged over the shots that have a positive pixel."""
        maps = self._annotated_map(features.maps[0], annotations) if self.early else features.maps[0]
        known = (annotations == POSITIVE).flatten(2).any(2)  # (B, K)
        if self.design.support == "pool":
            weights = self.weights(annotations, maps)
        else:  # global pooling of every shot that counts
            weights = known[..., None, None].to(maps.dtype).expand(-1, -1, *maps.shape[-2:])
        if self.design.merge == "max":
            return Guidance(shot_means(maps, weights), known)
        return Guidance(masked_mean(maps, weights)[:, None], known.any(1, keepdim=True))

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W), of the shot with the largest margin where each has a vector of its own."""
        scores = self.score(features, self.similarity(features, guidance))
        logits = silence(upsample(scores, features.image_size), guidance.known.flatten())
        return any_shot(logits.unflatten(0, guidance.known.shape)) if self.design.merge == "max" else logits

    def similarity(self, features: Features, guidance: Guidance) -> Tensor:
        """(B, n, h, w): every query cell with every vector."""
        measure = cosine_maps if self.design.guidance == "cosine" else closeness
        return measure(features.maps[0], guidance.vectors)

    def score(self, features: Features, similarity: Tensor) -> Tensor:
        """Logits (B * n, 2, h, w) on the feature grid (and a ring around it in the paper's network)."""
        own, *taps = features.maps
        grid = (own.shape[-2], own.shape[-1])
        hidden = own if self.segmentation is None else self.segmentation(taps, grid)
        guided = hidden[:, None] * similarity[:, :, None]  # (B, n, C, h, w)
        scores: Tensor = self.exit(F.relu(self.classifier(guided.flatten(0, 1))))
        return scores

    def weights(self, annotations: Tensor, features: Tensor) -> Tensor:
        """How positive each cell of features (B, K, C, h, w) is: (B, K, h, w)."""
        return weights_of(annotations, POSITIVE, (features.shape[-2], features.shape[-1]))

    def channels(self, annotations: Tensor, dtype: torch.dtype) -> Tensor:
        """What ``support="concat"`` adds to the colours, (B, K, 2, H, W), see ``opposed_channels``."""
        return opposed_channels(annotations, dtype, dilation=1)

    def represent(self, guidance: Guidance) -> Tensor:
        """The mean vector (B, C) over the shots that count."""
        return guidance.vectors.sum(1) / guidance.known.sum(1, keepdim=True).clamp(min=1)

    def _annotated_map(self, images: Tensor, annotations: Tensor) -> Tensor:
        """The guidance branch's map (B, K, C, h, w) of normalised supports (B, K, 3, H, W) with their annotations."""
        images = images.expand(annotations.shape[0], -1, -1, -1, -1)
        if self.design.support == "concat":
            assert self.support_encoder is not None
            return self._supports(self.support_encoder(images, self.channels(annotations, images.dtype))).maps[0]
        masked = images * (annotations == POSITIVE)[:, :, None]  # outside: the mean colour
        if self.support_encoder is None:
            features = with_fixed_norms(self.encoder, masked)
        else:
            features = self.support_encoder(masked)
        return self._supports(features).maps[0]

    def _supports(self, features: Features) -> Features:
        branch = self.support_guidance or self.guidance
        return _join(branch(features, self.support_norm), features)


def _join(own: Tensor, features: Features) -> Features:
    """The guidance branch's map, then the taps in its dtype: cached ones come in half precision."""
    return Features((own, *(m.to(own.dtype) for m in features.maps)), features.image_size)


class PaperSGOneNetwork(SGOneNetwork):
    """The original on its VGG-16 of stride 8: 18,992,194 parameters, 36,066,690 with separate encoders.

    Args:
        design: the paper's ablations.
        weights: a VGG-16 file with torchvision's names.
        trainable: False freezes the trunk.
    """

    cacheable: bool = False  # exact only in its own precision
    encoder: VGG16
    # a 1x1 convolution with padding: a ring of cells that hold its bias, and logits stretched over it
    exit_padding: ClassVar[int] = 1

    def __init__(self, design: Design | None = None, weights: str | None = None, trainable: bool = True) -> None:
        two = design is not None and design.two_encoders
        supports = sgone_vgg16(weights, trainable or design.support == "concat") if design and two else None
        super().__init__(sgone_vgg16(weights, trainable), 128, design, supports)
        self.cacheable = False
        branches = [self.guidance, self.support_guidance, self.segmentation]
        for module in (m for branch in branches if branch for m in branch.modules() if isinstance(m, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def guidance_branch(self, encoder: ImageEncoder, width: int) -> GuidanceBranch:
        """The last stage, then the convolution of 512 channels."""
        return GuidanceBranch(LastTap(), encoder.out_channels[-1], None, self.design.rectify)

    def norm(self, width: int) -> None:
        """None in the paper."""

    def weights(self, annotations: Tensor, features: Tensor) -> Tensor:
        """The mask under the adjoint of bilinear upsampling, as the original upsamples the features to the mask."""
        mask = (annotations == POSITIVE).to(features.dtype)
        return upsampled_weights(mask, (features.shape[-2], features.shape[-1]))

    def original_entries(self) -> list[Tensor | None]:
        """13 convolutions, cls, side3_1, side4_1, side5_1, classifier_6 and exit layer: weight, bias."""
        if self.segmentation is None or self.support_encoder is not None:
            return super().original_entries()  # the original has neither
        head = [self.guidance.cls, *self.segmentation.sides, self.classifier, self.exit]
        return [p for convolution in [*self.encoder.convolutions(), *head] for p in convolution.parameters()]


class SGOne(FewShotSegmentor):
    """SG-One.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps`` and ``width``).
        weights: a file or ``"pretrained"`` for the encoder; a VGG-16 file for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: train only what comes after the encoder, and the support encoder of ``support="concat"``, which
            has to learn what annotations are.
        width: channels of both branches.
        support: how the annotation reaches the support vector, see ``Design``, like the next six.
        separate_encoders: supports have an encoder and a guidance branch of their own.
        guidance: similarity of a query cell with the support vector.
        rectify: keep the ReLU after the guidance branch and after the last side convolution.
        segmentation_branch: False multiplies the similarity into the guidance branch's features.
        concatenate: the side convolutions after the first also read the encoder's taps.
        merge: of several shots: average their vectors, or take the union of their masks.
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
        support: SupportInput = "pool",
        separate_encoders: bool = False,
        guidance: Measure = "cosine",
        rectify: bool = False,
        segmentation_branch: bool = True,
        concatenate: bool = True,
        merge: Merge = "average",
        variant: Literal["standard", "paper"] = "standard",
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        design = Design(support, separate_encoders, guidance, rectify, segmentation_branch, concatenate, merge)
        if variant == "paper":
            refuse_encoder(encoder, output_stride, taps, width)
            network: SGOneNetwork = PaperSGOneNetwork(design, weights, trainable=not freeze_encoder)
        else:
            backbones = [
                Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder or reads_annotations)
                for reads_annotations in [False, support == "concat"][: 1 + design.two_encoders]
            ]
            network = SGOneNetwork(backbones[0], width, design, *backbones[1:])
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
        """The original's factors for ``paper``: biases learn twice as fast, the guidance branch ten times."""
        if not isinstance(self.network, PaperSGOneNetwork):
            return super().parameter_groups()
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                encoder = name.split(".")[0].endswith("encoder")
                factor = (self.encoder_lr_factor if encoder else 1.0) * (10 if ".cls." in name else 1)
                groups.setdefault(factor * (2 if name.endswith("bias") else 1), []).append(parameter)
        return [{"params": parameters, "lr": self.lr * factor} for factor, parameters in groups.items()]
