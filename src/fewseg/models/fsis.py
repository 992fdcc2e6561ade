"""FSIS: few-shot interactive segmentation. Clicks say which object of the query is wanted, supports what it looks like.

Source: Bhatia, "Few-shot interactive segmentation", chapter 2 of a thesis (see docs/methods/fsis.md). No code of it is
public, and the text leaves much open. It takes click fusion and distance maps from f-BRS (Sofiiuk et al. 2020) and the
prior from PFENet (Tian et al. 2020). Where it is silent:

- Distance maps are tanh(2 d / 260), click fusion is that of f-BRS: two 1x1 convolutions with 8 channels between.
- One encoder reads both the click-fused query and the plain supports; its levels become one map of one width.
- The support branch averages features under the positive mask (``support_mask="pool"``), as PFENet does.
- A support cell counts for the prior where at least half of it is masked, or half of the most that any cell has.
- The prior of K shots is the mean of the priors of each, as in PFENet.
- The second click fusion works on the grid of the junction and gives one channel: a mask.
- The junction is a 1x1 and a 3x3 convolution, the final layers are two 1x1 ones.
- Cross-entropy; the thesis names no loss.

Deviation of ``variant="standard"``: encoders of choice instead of VGG-16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.episode import POSITIVE, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import annotated, silence, weights_of
from fewseg.functional.clicks import any_positive, click_maps, no_clicks
from fewseg.functional.geometry import upsample
from fewseg.functional.pooling import masked_map, masked_mean, peak_one
from fewseg.functional.similarity import nearest_product, unit
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.annotated import with_fixed_norms
from fewseg.modules.click_fusion import ClickFusion
from fewseg.modules.encoders import Embedding, Encoder, ImageEncoder
from fewseg.modules.vgg import VGG16, refuse_encoder
from fewseg.network import SegmentorNetwork

SupportMask = Literal["pool", "multiply"]
PriorMerge = Literal["mean", "max"]

PAPER_WIDTH = 256  # PFENet's; the thesis gives none


class Cells(NamedTuple):
    """Support cells of the frozen encoder: cells (B, K, C, M) of length 1, positive (B, K, M) bool."""

    cells: Tensor
    positive: Tensor


class Guidance(NamedTuple):
    """What the supports say: the task representation, what the prior needs, and whether there is any.

    support: (B, C), or (B, C, h, w) under ``support_mask="multiply"``; (B, 0) without supports.
    prior: ``Cells``, the guidance of the automatic segmentor, or (B, 0) without supports.
    positive: (B,) bool, whether any support pixel is positive.
    """

    support: Tensor
    prior: Any
    positive: Tensor


def prior_map(similarity: Tensor, eps: float = 1e-8) -> Tensor:
    """The thesis's prior mask: similarities brought to [0, 1], image by image; 0 where all are the same.

    Args:
        similarity: (..., h, w), for every query cell the largest cosine with a support cell.
        eps: added to the range; PFENet has 1e-7.

    >>> prior_map(torch.tensor([[0.2, 0.5, 0.8]]))
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    low, high = similarity.amin((-2, -1), keepdim=True), similarity.amax((-2, -1), keepdim=True)
    return (similarity - low) / (high - low + eps)


class SimilarityPrior(nn.Module):
    """First step of the interactive prior focus: the largest cosine of a query cell with a positive support cell.

    Args:
        encoder: frozen, so that the prior does not lean towards the classes of the training; its last map is read.
        merge: ``mean`` of the shots' priors, or ``max``: all shots are compared as one.

    Raises:
        FewsegError: an unknown merge.

    >>> prior = SimilarityPrior(Encoder("tiny", trainable=False))
    >>> guidance = prior.guide(prior.encode_support(torch.rand(2, 3, 3, 32, 32)), torch.ones(2, 3, 32, 32))
    >>> prior(prior.encode_query(torch.rand(2, 3, 17, 13)), guidance).shape
    torch.Size([2, 1, 3, 2])
    """

    def __init__(self, encoder: ImageEncoder, merge: PriorMerge = "mean") -> None:
        super().__init__()
        if merge not in ("mean", "max"):
            raise FewsegError("prior_merge", repr(merge), "mean or max", "choose one of the two")
        self.encoder, self.merge = encoder, merge

    def encode_support(self, images: Tensor) -> Features:
        """The last map of the encoder, (B, K, C, h, w) of supports (B, K, 3, H, W)."""
        return self.encode_query(images)

    def encode_query(self, images: Tensor) -> Features:
        """The last map of the encoder, (B, C, h, w) of queries (B, 3, H, W)."""
        features: Features = self.encoder(images)
        return Features(features.maps[-1:], features.image_size)

    def guide(self, features: Features, annotations: Tensor) -> Cells:
        """The support cells of features (B, K, C, h, w), and which of them are positive."""
        maps = features.maps[0]
        weights = weights_of(annotations, POSITIVE, (maps.shape[-2], maps.shape[-1]))
        # of a mask what it half covers: cells on its edge look like background; of points all cells that have any
        positive = (weights > 0) & (peak_one(weights) >= 0.5)
        cells = unit(maps, 2).flatten(3).expand(len(annotations), -1, -1, -1)
        return Cells(cells, positive.flatten(2))

    def forward(self, features: Features, guidance: Cells) -> Tensor:
        """The prior (B, 1, h, w) in [0, 1] of features (B or 1, C, h, w); 0 without a positive support cell."""
        maps, (n, n_shot) = features.maps[0], guidance.cells.shape[:2]
        queries = unit(maps, 1).flatten(2)
        step = 1 if self.merge == "mean" else max(n_shot, 1)
        total, count = maps.new_zeros(n, 1, *maps.shape[-2:]), maps.new_zeros(n)
        for start in range(0, n_shot, step):
            shots = slice(start, start + step)
            nearest = nearest_product(queries, guidance.cells[:, shots], guidance.positive[:, None, shots])
            similarity = nearest.masked_fill(nearest.isinf(), 0.0)  # without a mask: the same 0 everywhere
            total = total + prior_map(similarity.unflatten(2, maps.shape[-2:]))  # (B, 1, h, w)
            count = count + guidance.positive[:, shots].flatten(1).any(1)
        return total / count.clamp(min=1)[:, None, None, None]


class AutomaticPrior(nn.Module):
    """Any trained few-shot segmentor in place of the similarity: its foreground probability is the prior.

    The thesis names this composition as future work: FSIS refines the answer of an automatic method. It stays frozen.

    Args:
        network: of the automatic method; it has no input for clicks.
    """

    def __init__(self, network: SegmentorNetwork) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    def train(self, mode: bool = True) -> AutomaticPrior:
        """Eval mode, always."""
        super().train(False)
        return self

    def encode_support(self, images: Tensor) -> Features:
        """The automatic method's features of supports."""
        return self.network.encode_support(images)

    def encode_query(self, images: Tensor) -> Features:
        """The automatic method's features of queries."""
        return self.network.encode_query(images)

    def guide(self, features: Features, annotations: Tensor) -> Any:
        """The automatic method's guidance."""
        return self.network.guide(features, annotations)

    def forward(self, features: Features, guidance: Any) -> Tensor:
        """Its foreground probability (B, 1, H, W) at image size."""
        return self.network.segment(features, guidance).softmax(1)[:, POSITIVE:]


class FSISNetwork(SegmentorNetwork):
    """Three branches meet in the Feature Junction: the clicked query, the supports, and the focused prior.

    Negative support pixels are not read. Without any positive support pixel the support vector and the prior are zero
    and the clicks decide alone; without any positive click as well all is background. Points of test-time refinement,
    as ``Features`` of one map: ``BJ``, what enters the junction, and ``AJ``, what leaves it.

    Args:
        encoder: trained, of click-fused queries and of supports.
        prior: what makes the prior; None ignores the supports altogether (ablation).
        width: channels of the embeddings and of the junction.
        support_mask: ``pool``, the mean of support features under the mask, or ``multiply``, the masked map itself,
            brought to the grid of the query.
        use_clicks: False ignores clicks where there are supports (ablation).

    Raises:
        FewsegError: an unknown ``support_mask``.

    >>> network = FSISNetwork(Encoder("tiny"), SimilarityPrior(Encoder("tiny", trainable=False)), width=16)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> query = network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8))
    >>> network.segment(query, guidance, torch.tensor([[[3, 4, 1]]])).shape
    torch.Size([1, 2, 17, 13])
    """

    uses_clicks: bool = True
    encodes_clicks: bool = True
    cacheable: bool = False  # clicks enter the encoder
    shared_encoder: bool = False  # supports are encoded without clicks
    insertion_points: ClassVar[tuple[str, ...]] = ("AJ", "BJ")

    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder,
        prior: SimilarityPrior | AutomaticPrior | None,
        width: int = 128,
        support_mask: SupportMask = "pool",
        use_clicks: bool = True,
    ) -> None:
        super().__init__()
        if support_mask not in ("pool", "multiply"):
            raise FewsegError("support_mask", repr(support_mask), "pool or multiply", "choose one of the two")
        self.uses_support, self.use_clicks = prior is not None, use_clicks  # uses_clicks stays: else they become a shot
        self.encoder, self.prior, self.support_mask = encoder, prior, support_mask
        self.embedding = Embedding(encoder, width, rectify=True)
        if prior is not None:
            self.support_embedding = Embedding(encoder, width, rectify=True)
        if use_clicks:
            self.click_fusion = ClickFusion(in_channels=5)
            self.focus = ClickFusion(in_channels=3, out_channels=1)
        fuse = nn.Conv2d(width * (1 + self.uses_support) + 1, width, 1)
        mix, last = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        for convolution in (fuse, mix, last):
            nn.init.kaiming_normal_(
                convolution.weight
            )  # PyTorch's own smaller start leaves the support unheard for long
        self.junction = nn.Sequential(fuse, nn.ReLU(), mix, nn.ReLU())
        self.final = nn.Sequential(last, nn.ReLU(), nn.Conv2d(width, 2, 1))

    def encode_support(self, images: Tensor | Features) -> Features:
        """The embedded map (B, K, C, h, w) of supports, then what the prior keeps of them."""
        if isinstance(images, Features):
            return images
        size = (images.shape[-2], images.shape[-1])
        if self.prior is None:
            return Features((), size)
        # clicked queries have statistics of their own, which a trained encoder normalises all images by
        embedded: Features = self.support_embedding(with_fixed_norms(self.encoder, images))
        return Features((*embedded.maps, *self.prior.encode_support(images).maps), size)

    def encode_query(self, images: Tensor | Features) -> Features:
        """The normalised images (B, 3, H, W), to be encoded with clicks, then what the prior keeps of them."""
        if isinstance(images, Features):
            return images
        kept = () if self.prior is None else self.prior.encode_query(images).maps
        return Features((self.encoder.normalize(images), *kept), (images.shape[-2], images.shape[-1]))

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """The support branch, and the support side of the prior."""
        if self.prior is None:
            nothing = torch.zeros(len(annotations), 0, device=annotations.device)
            return Guidance(
                nothing, nothing, torch.zeros(len(annotations), dtype=torch.bool, device=annotations.device)
            )
        maps = features.maps[0]
        weights = weights_of(annotations, POSITIVE, (maps.shape[-2], maps.shape[-1]))
        support = masked_mean(maps, weights) if self.support_mask == "pool" else masked_map(maps, weights)
        prior = self.prior.guide(Features(features.maps[1:], features.image_size), annotations)
        return Guidance(support, prior, annotated(annotations)[:, POSITIVE])

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W)."""
        return self.segment_from("BJ", self.segment_to("BJ", features, guidance, clicks), guidance, clicks)

    def segment_to(self, point: str, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Features:
        """What enters (``BJ``) or leaves (``AJ``) the Feature Junction, on the grid of the query's features."""
        self._check_point(point)
        joined = self.join(features, guidance, clicks)
        return Features((joined if point == "BJ" else self.junction(joined),), features.image_size)

    def segment_from(self, point: str, hidden: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W) from there."""
        self._check_point(point)
        maps = self.junction(hidden.maps[0]) if point == "BJ" else hidden.maps[0]
        logits = upsample(self.final(maps), hidden.image_size)
        if clicks is None or not self.use_clicks:
            return silence(logits, guidance.positive)
        return silence(logits, guidance.positive | any_positive(clicks))

    def join(self, features: Features, guidance: Guidance, clicks: Tensor | None) -> Tensor:
        """The three branches on one grid, concatenated: (B, 2 width + 1, h, w), query, support, focused prior."""
        images = features.maps[0]
        if self.use_clicks:
            maps = self.click_maps(no_clicks(images) if clicks is None else clicks, features.image_size)  # (B, 2, H, W)
            images = self.click_fusion(images, maps)
        query = self.embedding(self.encoder(images)).maps[0]
        grid = (query.shape[-2], query.shape[-1])
        parts, prior = [query], query.new_zeros(1, 1, *grid)
        if self.prior is not None:
            support = guidance.support
            parts.append(support[..., None, None].expand(-1, -1, *grid) if support.ndim == 2 else onto(support, grid))
            prior = onto(self.prior(Features(features.maps[1:], features.image_size), guidance.prior), grid)
        parts.append(self.focus(prior, onto(maps, grid)) if self.use_clicks else prior)
        n = max(len(guidance.positive), *map(len, parts))
        return torch.cat([part.expand(n, -1, -1, -1) for part in parts], 1)

    def click_maps(self, clicks: Tensor, size: tuple[int, int]) -> Tensor:
        """What click fusion reads: distance maps (B, 2, H, W), negative first; floats are such maps already."""
        return click_maps(clicks, size, "tanh", self.encoder.mean.dtype)


def onto(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps (B, C, H, W) on a grid: finer ones are averaged over its cells, coarser ones interpolated.

    >>> onto(torch.tensor([[[[0.0, 2.0, 4.0, 6.0]]]]), (1, 2))
    tensor([[[[1., 5.]]]])
    """
    finer = maps.shape[-2] >= grid[0] and maps.shape[-1] >= grid[1]
    return F.adaptive_avg_pool2d(maps, grid) if finer else upsample(maps, grid)


def paper_encoders(weights: str | None, trainable: bool) -> tuple[VGG16, VGG16]:
    """VGG-16 as PFENet taps it: conv3_3 and conv4_3 after their pools (strides 8 and 16), and a frozen one to conv5_3.

    Args:
        weights: a VGG-16 file with torchvision's names for both, or None.
        trainable: False freezes the first as well.
    """
    pools = [*(nn.MaxPool2d(2, ceil_mode=True) for _ in range(4)), nn.Identity()]
    middle = VGG16(pools, taps=(2, 3), weights=weights, trainable=trainable)
    middle.stages, middle.pools = middle.stages[:4], middle.pools[:4]  # the fifth would never learn
    return middle, VGG16(pools, taps=(4,), weights=weights, trainable=False)


def read_automatic(automatic: str | dict[str, Any]) -> tuple[SegmentorNetwork, dict[str, Any]]:
    """The network of a saved method, and its class and hyper-parameters, from which it can be built without the folder.

    Args:
        automatic: a folder that ``model.save`` wrote, or what this function returned second: then it is not trained.

    Raises:
        FewsegError: there is no such model, or it reads clicks itself.
    """
    from fewseg.models.create import create_model, load_model  # here, because they import all methods

    if isinstance(automatic, str):
        model = load_model(automatic)
        saved = json.loads((Path(automatic) / "config.json").read_text())
        hyper_parameters = {k: None if k == "weights" else v for k, v in saved["hyper_parameters"].items()}
        automatic = {"method": saved["method"], "hyper_parameters": hyper_parameters}
    else:
        model = create_model(automatic.get("method", ""), **automatic.get("hyper_parameters", {}))
    if model.network.uses_clicks:
        got, remedy = f"a {automatic['method']}, which reads clicks", "pass the folder of a PANet, for example"
        raise FewsegError("automatic", got, "a method that segments without clicks", remedy)
    return model.network, automatic


def refuse_idle(
    use_support: bool,
    automatic: str | dict[str, Any] | None,
    variant: str,
    prior_tap: int | None,
    prior_merge: str,
    support_mask: str,
) -> None:
    """An error where an option differs from its default and nothing would read it.

    Raises:
        FewsegError: it would have no effect.

    >>> refuse_idle(True, None, "paper", 4, "mean", "pool")
    Traceback (most recent call last):
    fewseg.errors.FewsegError: prior_tap: got 4, expected its default, because nothing here would read it; leave it out
    """
    similar = use_support and automatic is None  # the prior is that of the frozen encoder
    options: list[tuple[str, Any, Any, bool]] = [  # name, value, default, whether it is read
        ("automatic", automatic, None, use_support),
        ("prior_tap", prior_tap, None, similar and variant == "standard"),
        ("prior_merge", prior_merge, "mean", similar),
        ("support_mask", support_mask, "pool", use_support),
    ]
    for name, value, default, read in options:
        if value != default and not read:
            raise FewsegError(name, value, "its default, because nothing here would read it", "leave it out")


class FSIS(FewShotSegmentor):
    """Few-shot interactive segmentation.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps``, ``width`` and
            ``prior_tap``).
        weights: a file or ``"pretrained"`` for both encoders; a VGG-16 file for ``paper``.
        output_stride: of both encoders.
        taps: middle levels, which query and support branch read.
        freeze_encoder: train only what comes before and after the encoder.
        width: channels of the embeddings and of the junction.
        prior_tap: level of the frozen encoder that the prior compares; None is the deepest of the default levels.
        support_mask: ``pool`` or ``multiply``, see ``FSISNetwork``.
        prior_merge: how the priors of several shots become one, ``mean`` or ``max``.
        use_support: False ignores the supports (ablation).
        use_clicks: False ignores the clicks (ablation).
        automatic: a folder that ``save`` of another method wrote: its answer takes the place of the prior. A saved
            FSIS holds it; its ``config.json`` has class and hyper-parameters of the method here.
        variant: ``standard``, or VGG-16 as in the ``paper``.
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
        prior_tap: int | None = None,
        support_mask: SupportMask = "pool",
        prior_merge: PriorMerge = "mean",
        use_support: bool = True,
        use_clicks: bool = True,
        automatic: str | dict[str, Any] | None = None,
        variant: Literal["standard", "paper"] = "standard",
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        if not (use_support or use_clicks):
            raise FewsegError("use_clicks", False, "true where use_support is false", "leave one of them on")
        refuse_idle(use_support, automatic, variant, prior_tap, prior_merge, support_mask)
        trained: ImageEncoder
        frozen: ImageEncoder
        if variant == "paper":
            refuse_encoder(encoder, output_stride, taps, width)
            trained, frozen = paper_encoders(weights, trainable=not freeze_encoder)
        else:
            level = None if prior_tap is None else (prior_tap,)
            trained = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            frozen = Encoder(encoder, weights, output_stride, level, trainable=False)
        prior: SimilarityPrior | AutomaticPrior | None = SimilarityPrior(frozen, prior_merge) if use_support else None
        if automatic is not None:
            network, self.hparams["automatic"] = read_automatic(automatic)
            prior = AutomaticPrior(network)
        super().__init__(
            FSISNetwork(trained, prior, PAPER_WIDTH if variant == "paper" else width, support_mask, use_clicks),
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
