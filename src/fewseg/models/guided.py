"""Guided networks: pool annotated support features into z, join z to every query cell, score with a small head.

Source: Rakelly, Shelhamer, Darrell, Efros, Levine, "Few-shot segmentation propagation with guided networks" (2018,
https://arxiv.org/abs/1806.07373) and the original code at https://github.com/shelhamer/revolver. The defaults are its
late fusion with global guidance (``shared`` is its cofeat_late_lite, ``separate`` its cofeat_late_lite_unshared); the
other options are the choices that sections 4.1 and 4.2 of the paper compare, of which only early fusion and the local
guide have public code.

Where each idea stands:
    how annotations meet the image    GuidedNetwork (late), EarlyGuidedNetwork, MaskedGuidedNetwork
    global or local, mean or max      GuidedNetwork.merge_cells
    the annotation-to-mask map m      GuidedNetwork.masks: on_grid, and AnnotationMap where m is learned
    how z guides inference            modules/heads.py: Head, Regression, Prototypes, Nearest
    several shots                     merge_cells (through z), GuidedNetwork.segment (after the logits)
    similarity maps (ours)            SimilarGuidedNetwork
    a second pass (ours)              SelfSupportNetwork

Deviations of ``variant="standard"``: an encoder of choice with all taps embedded to one width instead of fc6, area
pooling of annotations and interpolation of logits instead of the fixed stride-32 kernels, three layers in the head
instead of two, no dropout, and the running mean over annotating shots also for the separate head. A local guide weighs
an annotated pixel by 1, not by one over the number of pixels; parameter regression is global, not convolutional.
Deviation of ``variant="paper"``: a shot without any annotation is skipped for the shared head; the original drops all
later shots with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewseg.episode import NEGATIVE, POSITIVE, UNKNOWN, EpisodeBatch, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import annotated, dilate, indicators, silence, upsampled_weights
from fewseg.functional.geometry import upsample
from fewseg.functional.pooling import masked_map, masked_max, masked_mean, peak_one, shot_means
from fewseg.functional.similarity import cosine_maps
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.annotated import AnnotatedEncoder, keep_images, opposed_channels, with_fixed_norms
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.modules.fcn32s import MIN_SIZE, AnnotationPool, Decoder, FCN32s, start
from fewseg.modules.heads import Head, HeadKind, Nearest, Prototypes, Regression, nearest_maps
from fewseg.modules.vgg import refuse_encoder
from fewseg.network import SegmentorNetwork, cross_entropy

Fusion = Literal["late", "early", "masked"]
Locality = Literal["global", "local"]
Inference = Literal["fusion", "regression", "prototype", "nearest"]
Merge = Literal["features", "logits"]
SupportGrid = Literal["pool", "interpolate", "dilate", "atrous"]
Pooling = Literal["mean", "max"]
Similarity = Literal["none", "prototype", "nearest", "both"]

DILATION = 11  # pixels of a side, of the papers' max filter

# Cosines of rectified features differ in the second digit; this brings them to the scale of the features beside them.
SHARPNESS = 10.0


class Guidance(NamedTuple):
    """z (B, labels, C), or (B, labels, C, h, w) where it is local; annotated (B, 2) bool: which labels exist.

    With ``merge="logits"`` every tensor is (B, K, ...) instead of (B, ...), here and in the other kinds of guidance.
    """

    z: Tensor
    annotated: Tensor


class CellGuidance(NamedTuple):
    """cells (B, K, C, h, w) of the supports; annotated (B, 2) bool; weights (B, 2, K, h, w) of the labels in cells."""

    cells: Tensor
    annotated: Tensor
    weights: Tensor


class SimilarGuidance(NamedTuple):
    """A ``Guidance`` and, per tap of the encoder: prototypes (B, 2, C), cells (B, K, C, h, w), weights (B, 2, K, h, w).

    What the similarity does not need is an empty tuple.
    """

    z: Tensor
    annotated: Tensor
    prototypes: tuple[Tensor, ...]
    cells: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]


def on_grid(annotations: Tensor, size: tuple[int, int], grid: SupportGrid) -> Tensor:
    """The fixed annotation-to-mask map: how much each grid cell counts for each label.

    Args:
        annotations: (B, K, H, W) integers: 0 negative, 1 positive, 255 unknown.
        size: (h, w) of the feature grid.
        grid: ``pool`` averages indicators over each cell; ``dilate`` does so after an 11x11 max filter;
            ``interpolate`` upsamples the features instead, see ``upsampled_weights``; ``atrous`` has features on a
            grid twice as fine, see ``stitched``, and averages over its cells.

    Returns:
        (B, 2, K, h, w), not negative, negative label first.

    >>> on_grid(torch.tensor([[[[255, 1, 255, 255]]]]), (1, 2), "pool")[0, 1]
    tensor([[[0.5000, 0.0000]]])
    >>> on_grid(torch.tensor([[[[255, 1, 255, 255]]]]), (1, 2), "interpolate")[0, 1]  # pixel 1 is 3/4 of cell 0
    tensor([[[0.7500, 0.2500]]])
    """
    marks = indicators(annotations).transpose(1, 2).flatten(1, 2)  # (B, 2 K, H, W)
    if grid == "interpolate":
        weights = upsampled_weights(marks, size)
    else:
        weights = F.adaptive_avg_pool2d(dilate(marks, DILATION) if grid == "dilate" else marks, size)
    return weights.reshape(annotations.shape[0], 2, annotations.shape[1], *size)


def stitched(encode: Callable[[Tensor], Features], images: Tensor, stride: int) -> Features:
    """Features on a grid twice as fine: what a dilated encoder computes, by shift and stitch (Long et al. 2015, 3.2).

    The images are encoded four times, moved by a quarter of the stride up or down and left or right, and the cells are
    interleaved; cell (i, j) of the fine grid then lies in its middle.

    Args:
        encode: from images to one map (B, K, C, h, w).
        images: (B, K, 3, H, W), normalised; what moves in from outside is 0, the mean colour.
        stride: of the map, in pixels.

    Returns:
        One map (B, K, C, 2 h, 2 w).

    >>> images = torch.arange(1.0, 9.0).view(1, 1, 1, 1, 8).expand(1, 1, 1, 4, 8)
    >>> means = lambda x: Features((F.avg_pool2d(x[0], 4)[None],), (4, 8))
    >>> stitched(means, images, 4).maps[0][0, 0, 0, 0]  # three of four rows are inside
    tensor([1.1250, 2.6250, 4.1250, 3.9375])
    """
    step = max(1, stride // 4)
    rows = []
    for down in (-step, step):
        columns = [encode(F.pad(images, (-right, right, -down, down))).maps[0] for right in (-step, step)]
        rows.append(torch.stack(columns, -1).flatten(-2))  # (B, K, C, h, 2 w)
    fine = torch.stack(rows, -2).flatten(-3, -2)  # (B, K, C, 2 h, 2 w)
    return Features((fine,), (images.shape[-2], images.shape[-1]))


class AnnotationMap(nn.Module):
    """The learned annotation-to-mask map: two small convolutions say how much of a cell's annotation to believe.

    ``weight = 2 sigmoid(a) * annotation + sigmoid(b) * dilated annotation``, which starts at about
    annotation + 0.02 dilated annotation. A label that nobody annotated keeps weight 0 everywhere.

    Args:
        width: channels of the support features.
        hidden: channels between the convolutions.

    >>> weights = torch.rand(1, 2, 3, 5, 5)
    >>> AnnotationMap(4)(torch.rand(1, 3, 4, 5, 5), weights, weights).shape
    torch.Size([1, 2, 3, 5, 5])
    """

    def __init__(self, width: int, hidden: int = 16) -> None:
        super().__init__()
        self.see = nn.Conv2d(width, hidden, 3, padding=1)
        self.read = nn.Conv2d(2, hidden, 3, padding=1, bias=False)
        self.weigh = nn.Conv2d(hidden, 2, 1)
        nn.init.normal_(self.weigh.weight, std=0.01)
        with torch.no_grad():
            self.weigh.bias.copy_(torch.tensor([0.0, -4.0]))  # type: ignore[union-attr]

    def forward(self, features: Tensor, weights: Tensor, spread: Tensor) -> Tensor:
        """Weights (B, 2, K, h, w).

        Args:
            features: (B or 1, K, C, h, w).
            weights: (B, 2, K, h, w) of the annotations; the largest of a map becomes 1.
            spread: likewise of the dilated annotations.
        """
        weights, spread = peak_one(weights).to(features.dtype), peak_one(spread).to(features.dtype)
        own_and_other = torch.stack([spread, spread.flip(1)], 3)  # (B, 2, K, 2, h, w): one map serves both labels
        marks = self.read(own_and_other.flatten(0, 2)).unflatten(0, weights.shape[:3])  # (B, 2, K, hidden, h, w)
        scene = self.see(features.flatten(0, 1)).unflatten(0, features.shape[:2])[:, None]
        believed, added = self.weigh(F.relu(marks + scene).flatten(0, 2)).sigmoid().unbind(1)
        learned: Tensor = 2 * believed.reshape(weights.shape) * weights + added.reshape(weights.shape) * spread
        return learned


class GuidedNetwork(SegmentorNetwork):
    """Late fusion: ``guide`` pools features under each label into z; ``segment`` scores every query cell given z.

    A label that nobody annotated keeps z = 0; without any positive annotation all is background.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding, of z and of the head.
        head: ``shared`` or ``separate``, see ``Head``.
        inference: how z guides: ``fusion``, ``regression`` or ``prototype``.
        locality: ``global`` pools over positions; ``local`` keeps the masked feature map as z.
        merge: of shots: ``features`` averages z; ``logits`` segments once per shot and averages after.
        pooling: over positions.
        support_grid: see ``on_grid``.
        annotation_map: learn the annotation-to-mask map, see ``AnnotationMap``.
        kernel: of the head's layers after the first, see ``Head``.

    >>> network = GuidedNetwork(Encoder("tiny"), width=16)
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    n_z: ClassVar[int] = 2  # one z per label
    locality: Locality = "global"
    merge: Merge = "features"
    pooling: Pooling = "mean"
    support_grid: SupportGrid = "pool"
    annotation_map: AnnotationMap | None
    embedding: nn.Module
    head: nn.Module

    def __init__(
        self,
        encoder: Encoder,
        width: int = 128,
        head: HeadKind = "shared",
        inference: Inference = "fusion",
        locality: Locality = "global",
        merge: Merge = "features",
        pooling: Pooling = "mean",
        support_grid: SupportGrid = "pool",
        annotation_map: bool = False,
        kernel: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        # a distance is between linear features; a head and an output layer read rectified ones, as the original's do
        self.embedding = Embedding(encoder, width, rectify=inference in ("fusion", "regression"))
        self.head = self.build_head(width, head, inference, kernel)
        self.locality, self.merge, self.pooling, self.support_grid = locality, merge, pooling, support_grid
        if support_grid == "atrous":  # which encodes supports in its own way
            self.shared_encoder = self.cacheable = False
        self.annotation_map = AnnotationMap(width) if annotation_map else None

    def build_head(self, width: int, kind: HeadKind, inference: Inference, kernel: int) -> nn.Module:
        """How z guides inference."""
        if inference == "regression":
            return Regression(width, self.n_z)
        if inference == "prototype":
            return Prototypes(width)
        if inference == "nearest":
            return Nearest()
        return Head(width, (width, width), kind, labels=self.n_z, kernel=kernel)

    def encode_support(self, images: Tensor | Features) -> Features:
        """One map (B, K, C, h, w) of supports, twice as fine with ``support_grid="atrous"``."""
        if self.support_grid == "atrous" and isinstance(images, Tensor):
            assert isinstance(self.encoder, Encoder)
            return stitched(self.encode_query, self.encoder.normalize(images), min(self.encoder.strides))
        return self.encode_query(images)

    def encode_query(self, images: Tensor | Features) -> Features:
        """One map (B, C, h, w) of queries."""
        embedded: Features = self.embedding(self.encoder(images))
        return embedded

    def guide(self, features: Features, annotations: Tensor) -> Any:
        """The z of each label: the mean over the shots that annotate it; one z per shot with ``merge="logits"``."""
        if self.merge == "features":
            return self.represent_task(features, annotations)
        n, shots = annotations.shape[:2]
        maps = (m.expand(n, *m.shape[1:]).flatten(0, 1)[:, None] for m in features.maps)  # (B * K, 1, ...)
        apart = self.represent_task(Features(tuple(maps), features.image_size), annotations.flatten(0, 1)[:, None])
        return regroup(apart, 1, (n, shots))

    def segment(self, features: Features, guidance: Any, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W): the scores of each cell brought to image size.

        With ``merge="logits"`` they are the mean over the shots that annotate any positive pixel.
        """
        return self.merged(self.logits, features, guidance)

    def merged(self, answer: Callable[[Features, Any], Tensor], features: Features, guidance: Any) -> Tensor:
        """The logits that ``answer`` gives to a guidance, merged over shots where ``merge`` says so, and silenced."""
        if self.merge == "features":
            return silence(answer(features, guidance), guidance.annotated[:, POSITIVE])
        n, shots = guidance.annotated.shape[:2]
        maps = tuple(m if m.shape[0] == 1 else m.repeat_interleave(shots, 0) for m in features.maps)
        apart = answer(Features(maps, features.image_size), regroup(guidance, 2, (n * shots,)))
        positive = guidance.annotated[..., POSITIVE]  # (B, K)
        return silence(_mean_of(apart.unflatten(0, (n, shots)), positive), positive.any(1))

    def represent(self, guidance: Any) -> Tensor:
        """Z as (B, labels * C): a local z is averaged over positions, z of several shots over shots with positives."""
        if self.merge == "features":
            return self.vectors(guidance).flatten(1)
        n, shots = guidance.annotated.shape[:2]
        apart = self.vectors(regroup(guidance, 2, (n * shots,))).unflatten(0, (n, shots))
        return _mean_of(apart, guidance.annotated[..., POSITIVE]).flatten(1)

    def represent_task(self, features: Features, annotations: Tensor) -> Any:
        """The guidance of all shots together."""
        return Guidance(self.labelwise(features.maps[0], annotations), annotated(annotations))

    def labelwise(self, maps: Tensor, annotations: Tensor) -> Tensor:
        """One z per label, stacked, of features (B, K, C, h, w)."""
        return torch.stack([self.merge_cells(maps, w) for w in self.masks(maps, annotations).unbind(1)], 1)

    def masks(self, maps: Tensor, annotations: Tensor) -> Tensor:
        """How much each cell of features (B, K, C, h, w) counts for each label: (B, 2, K, h, w)."""
        size = (maps.shape[-2], maps.shape[-1])
        weights = on_grid(annotations, size, self.support_grid)
        if self.annotation_map is None:
            return weights
        learned: Tensor = self.annotation_map(maps, weights, on_grid(annotations, size, "dilate"))
        return learned

    def merge_cells(self, maps: Tensor, weights: Tensor) -> Tensor:
        """One z of features (B, K, C, h, w) under weights (B, K, h, w): (B, C), or (B, C, h, w) where it is local."""
        if self.locality == "local":
            return masked_map(maps, weights)
        return masked_max(maps, weights) if self.pooling == "max" else masked_mean(maps, weights)

    def logits(self, features: Features, guidance: Any) -> Tensor:
        """Logits (B, 2, H, W), also where nothing positive was annotated."""
        return self.decode(self.head(features.maps[0], guidance.z), features.image_size)

    def vectors(self, guidance: Any) -> Tensor:
        """The z (B, labels, C) of a guidance."""
        z: Tensor = guidance.z
        return z.mean((-2, -1)) if self.locality == "local" else z

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores on the feature grid to logits at image size."""
        return upsample(scores, size)


def regroup(guidance: Any, axes: int, leading: tuple[int, ...]) -> Any:
    """The first ``axes`` axes of every tensor of a guidance become the axes ``leading``.

    >>> regroup(Guidance(torch.zeros(6, 2, 4), torch.zeros(6, 2)), 1, (2, 3)).z.shape
    torch.Size([2, 3, 2, 4])
    """
    if isinstance(guidance, Tensor):
        return guidance.reshape(*leading, *guidance.shape[axes:])
    parts = [regroup(part, axes, leading) for part in guidance]
    return type(guidance)(*parts) if hasattr(guidance, "_fields") else tuple(parts)


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean (B, ...) of the shots (B, K, ...) that are chosen (B, K); zeros where none is."""
    share = chosen.to(values.dtype) / chosen.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bk...,bk->b...", values, share)


class NearestGuidedNetwork(GuidedNetwork):
    """Late fusion that keeps every annotated cell: a query cell takes the label of its nearest neighbour.

    A label that nobody annotated counts as a cosine of one half everywhere.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding.
        merge: of shots: ``features`` searches them together; ``logits`` apart, and averages after.
        support_grid: see ``on_grid``.
    """

    def __init__(
        self, encoder: Encoder, width: int = 128, merge: Merge = "features", support_grid: SupportGrid = "pool"
    ) -> None:
        super().__init__(encoder, width, inference="nearest", merge=merge, support_grid=support_grid)

    def represent_task(self, features: Features, annotations: Tensor) -> CellGuidance:
        """All cells of the supports, and the labels that they carry."""
        cells = features.maps[0].expand(annotations.shape[0], -1, -1, -1, -1)
        return CellGuidance(cells, annotated(annotations), self.masks(cells, annotations))

    def logits(self, features: Features, guidance: CellGuidance) -> Tensor:
        """Logits (B, 2, H, W), also where nothing positive was annotated."""
        return self.decode(self.head(features.maps[0], guidance.cells, guidance.weights), features.image_size)

    def vectors(self, guidance: CellGuidance) -> Tensor:
        """The mean (B, 2, C) of the cells of each label."""
        return torch.stack([masked_mean(guidance.cells, w) for w in guidance.weights.unbind(1)], 1)


class SimilarGuidedNetwork(GuidedNetwork):
    """Late fusion whose head also reads cosine maps of the raw encoder taps; ours, not the paper's.

    In the spirit of SG-One's cosine guidance and of the priors of PFENet. The taps of a frozen encoder were not fitted
    to the base classes, as the embedding is. Each tap is compared on its own grid, with annotations as ``support_grid``
    says (never by a learned map), and its maps are brought to the grid of the embedding. A label that nobody annotated
    has cosine 0 with its prototype and -1 with its nearest cell.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding, of z and of the head.
        head: ``shared``: the metric of a label reads the maps of that label; ``separate``: all maps.
        similarity: with the ``prototype`` of each label, with its ``nearest`` cell, or ``both``.
        locality: of z, see ``GuidedNetwork``; likewise the rest.
        merge: of shots.
        pooling: over positions.
        support_grid: see ``on_grid``.
        annotation_map: learn the annotation-to-mask map of z.
        kernel: of the head's layers after the first.
    """

    def __init__(
        self,
        encoder: Encoder,
        width: int = 128,
        head: HeadKind = "shared",
        similarity: Similarity = "both",
        locality: Locality = "global",
        merge: Merge = "features",
        pooling: Pooling = "mean",
        support_grid: SupportGrid = "pool",
        annotation_map: bool = False,
        kernel: int = 1,
    ) -> None:
        super().__init__(encoder, width, head, "fusion", locality, merge, pooling, support_grid, annotation_map)
        self.similarity = similarity
        kinds = 2 if similarity == "both" else 1
        self.head = Head(width, (width, width), head, similar=kinds * len(encoder.out_channels), kernel=kernel)

    def encode_query(self, images: Tensor | Features) -> Features:
        """The embedding (B, C, h, w) of queries, then the taps of the encoder."""
        taps = self.encoder(images)
        embedded = self.embedding(taps).maps[0]
        return Features((embedded, *(tap.to(embedded.dtype) for tap in taps.maps)), taps.image_size)

    def represent_task(self, features: Features, annotations: Tensor) -> SimilarGuidance:
        """The z of each label, and of each tap what the similarity needs."""
        embedded, *taps = features.maps
        weights = [on_grid(annotations, (tap.shape[-2], tap.shape[-1]), self.support_grid) for tap in taps]
        prototypes: list[Tensor] = []
        cells: list[Tensor] = []
        if self.similarity != "nearest":
            for tap, both in zip(taps, weights, strict=True):
                prototypes.append(torch.stack([masked_mean(tap, w) for w in both.unbind(1)], 1))
        if self.similarity != "prototype":
            cells = [tap.expand(annotations.shape[0], -1, -1, -1, -1) for tap in taps]
        z = self.labelwise(embedded, annotations)
        return SimilarGuidance(
            z, annotated(annotations), tuple(prototypes), tuple(cells), tuple(weights) if cells else ()
        )

    def logits(self, features: Features, guidance: SimilarGuidance) -> Tensor:
        """Logits (B, 2, H, W), also where nothing positive was annotated."""
        scores = self.head(features.maps[0], guidance.z, SHARPNESS * self.similarity_maps(features, guidance))
        return self.decode(scores, features.image_size)

    def similarity_maps(self, features: Features, guidance: SimilarGuidance) -> Tensor:
        """Cosines (B, 2, n, h, w) on the grid of the embedding, negative label first; n is kinds x taps."""
        embedded, *taps = features.maps
        grid = (embedded.shape[-2], embedded.shape[-1])
        # each list is as long as there are taps, or empty where its kind was not asked for
        maps = [cosine_maps(tap, p) for tap, p in zip(taps, guidance.prototypes, strict=False)]
        maps += [nearest_maps(tap, c, w) for tap, c, w in zip(taps, guidance.cells, guidance.weights, strict=False)]
        return torch.stack([upsample(m, grid) for m in maps], 2)


class SelfSupportNetwork(SimilarGuidedNetwork):
    """A second pass in which the query supports itself; ours, not the paper's.

    The first answer says which query cells are probably positive and negative. Their means, of the embedding and of
    each tap, resemble the object in this very image more than the support does, and the second head reads them beside
    everything that the first one read. After the self-support of Fan et al. (ECCV 2022), there with matching instead of
    a head. Both answers are trained; no gradient flows through the choice of cells.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding, of z and of the heads.
        head: of the first pass; that of the second is separate.
        similarity: ``prototype`` or ``both``, see ``SimilarGuidedNetwork``; likewise the rest.
        merge: of shots.
        pooling: over positions.
        support_grid: see ``on_grid``.
        annotation_map: learn the annotation-to-mask map of z.
        kernel: of the head's layers after the first.
    """

    def __init__(
        self,
        encoder: Encoder,
        width: int = 128,
        head: HeadKind = "shared",
        similarity: Similarity = "prototype",
        merge: Merge = "features",
        pooling: Pooling = "mean",
        support_grid: SupportGrid = "pool",
        annotation_map: bool = False,
        kernel: int = 1,
    ) -> None:
        super().__init__(
            encoder, width, head, similarity, "global", merge, pooling, support_grid, annotation_map, kernel
        )
        taps = len(encoder.out_channels)
        from_support = taps * (2 if similarity == "both" else 1)
        self.second = Head(width, (width, width), "separate", labels=4, similar=from_support + taps + 1, kernel=kernel)

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy of both answers to the query outside void."""
        guidance = self.guide(self.encode_support(batch.support_images), batch.support_annotations)
        queries = self.encode_query(batch.query_images)

        def both(features: Features, guidance: SimilarGuidance) -> Tensor:  # one above the other: merging is pixelwise
            return torch.cat([self.decode(s, features.image_size) for s in self.passes(features, guidance)], -2)

        first, second = self.merged(both, queries, guidance).chunk(2, -2)
        masks = batch.query_masks
        return {"cross_entropy": cross_entropy(second, masks), "first_pass": cross_entropy(first, masks)}

    def logits(self, features: Features, guidance: SimilarGuidance) -> Tensor:
        """Logits (B, 2, H, W) of the second pass, also where nothing positive was annotated."""
        return self.decode(self.passes(features, guidance)[1], features.image_size)

    def passes(self, features: Features, guidance: SimilarGuidance) -> tuple[Tensor, Tensor]:
        """Scores (B, 2, h, w) of the first and of the second pass."""
        embedded, *taps = features.maps
        maps = SHARPNESS * self.similarity_maps(features, guidance)  # (B, 2, n, h, w)
        scores = self.head(embedded, guidance.z, maps)
        first = scores.detach()
        probs = first.softmax(1)
        found = torch.where(probs > 0.5, probs, 0.0)  # (B, 2, h, w)
        own_z = self._means(embedded, found)
        own_maps = [upsample(cosine_maps(tap, self._means(tap, found)), first.shape[-2:]) for tap in taps]
        similarity = torch.cat([maps, SHARPNESS * torch.stack(own_maps, 2), first[:, :, None]], 2)
        refined = self.second(embedded, torch.cat([guidance.z, own_z], 1), similarity)
        return scores, refined

    @staticmethod
    def _means(maps: Tensor, found: Tensor) -> Tensor:
        """The mean (B, 2, C) of maps (B or 1, C, h', w') under each label's weights (B, 2, h, w)."""
        weights = F.adaptive_avg_pool2d(found, (maps.shape[-2], maps.shape[-1]))
        return torch.stack([masked_mean(maps[:, None], w[:, None]) for w in weights.unbind(1)], 1)


class EarlyGuidedNetwork(GuidedNetwork):
    """Early fusion: image and annotations go together through a second encoder, and one z speaks for both labels.

    The two annotation channels are dilated and become +-2.2 beside normalised colours, as the original's are +-128
    beside colours on the scale 0..255; the negative one is turned over, see ``opposed_channels``. Shots without any
    annotation are left out. Without negatives their channel is empty; without any positive annotation all is
    background.

    Args:
        encoder: of queries.
        support_encoder: of supports with two annotation channels.
        width: channels of the embeddings, of z and of the head.
        inference: ``fusion`` or ``regression``.
        locality: see ``GuidedNetwork``; likewise the rest.
        merge: of shots.
        pooling: over all positions of a support.
        kernel: of the head's layers after the first.
    """

    early: bool = True
    shared_encoder: bool = False
    n_z: ClassVar[int] = 1

    def __init__(
        self,
        encoder: Encoder,
        support_encoder: AnnotatedEncoder,
        width: int = 128,
        inference: Inference = "fusion",
        locality: Locality = "global",
        merge: Merge = "features",
        pooling: Pooling = "mean",
        kernel: int = 1,
    ) -> None:
        super().__init__(encoder, width, "separate", inference, locality, merge, pooling, kernel=kernel)
        self.support_encoder = support_encoder
        self.support_embedding = Embedding(support_encoder.encoder, width, rectify=True)

    def encode_support(self, images: Tensor | Features) -> Features:
        """The normalised images: they are encoded together with their annotations, in ``guide``."""
        return keep_images(self.support_encoder.encoder, images)

    def labelwise(self, maps: Tensor, annotations: Tensor) -> Tensor:
        """One z for both labels, of images (B, K, 3, H, W)."""
        images = maps.expand(annotations.shape[0], -1, -1, -1, -1)
        channels = opposed_channels(annotations, images.dtype, DILATION)
        encoded = self.support_embedding(self.support_encoder(images, channels)).maps[0]
        return self.merge_cells(encoded, _everywhere(annotations != UNKNOWN, encoded))[:, None]


class MaskedGuidedNetwork(GuidedNetwork):
    """Masked images: an image is multiplied by each label's mask and encoded, which gives one z per label.

    Outside the mask the normalised image is 0, the mean colour, and batch norms use the statistics of queries. This is
    how OSLSM encodes supports, there with the positive mask only and by an encoder of their own. A label that nobody
    annotated keeps z = 0; without any positive annotation all is background.

    Args:
        encoder: of masked supports and of queries.
        width: channels of the embedding, of z and of the head.
        head: ``shared`` or ``separate``, see ``Head``.
        inference: ``fusion``, ``regression`` or ``prototype``.
        locality: see ``GuidedNetwork``; likewise the rest.
        merge: of shots.
        pooling: over all positions of a masked support.
        kernel: of the head's layers after the first.
    """

    early: bool = True
    shared_encoder: bool = False  # its supports are other images

    def __init__(
        self,
        encoder: Encoder,
        width: int = 128,
        head: HeadKind = "shared",
        inference: Inference = "fusion",
        locality: Locality = "global",
        merge: Merge = "features",
        pooling: Pooling = "mean",
        kernel: int = 1,
    ) -> None:
        super().__init__(encoder, width, head, inference, locality, merge, pooling, kernel=kernel)

    def encode_support(self, images: Tensor | Features) -> Features:
        """The normalised images: they are encoded under their masks, in ``guide``."""
        assert isinstance(self.encoder, Encoder)
        return keep_images(self.encoder, images)

    def labelwise(self, maps: Tensor, annotations: Tensor) -> Tensor:
        """One z per label, stacked, of images (B, K, 3, H, W)."""
        z = []
        for label in (NEGATIVE, POSITIVE):
            mask = annotations == label
            encoded = self.embedding(with_fixed_norms(self.encoder, maps * mask[:, :, None].to(maps.dtype))).maps[0]
            z.append(self.merge_cells(encoded, _everywhere(mask, encoded)))
        return torch.stack(z, 1)


def _everywhere(mask: Tensor, maps: Tensor) -> Tensor:
    """Weights (B, K, h, w) of features (B, K, C, h, w): 1 in all cells of the shots whose mask (B, K, H, W) has any."""
    shots = mask.flatten(2).any(2).to(maps.dtype)
    return shots[..., None, None].expand(-1, -1, *maps.shape[-2:])


class PaperGuidedNetwork(GuidedNetwork):
    """The original on the FCN-32s trunk with 256 channels; state for state its "cofeat late lite" models.

    Args:
        head: ``shared`` (21,408,833 parameters) or ``separate`` (21,750,082), both counted with the fixed kernels.
        weights: a VGG-16 file for the trunk, see ``FCN32s``.
        trainable: False freezes the trunk.
        locality: ``local`` with the shared head is its "interactive late": the query is its own support.
    """

    min_size: ClassVar[int] = MIN_SIZE
    cacheable: bool = False  # exact only in its own precision
    encoder: FCN32s
    head: Head

    def __init__(
        self,
        head: HeadKind = "shared",
        weights: str | None = None,
        trainable: bool = True,
        locality: Locality = "global",
    ) -> None:
        SegmentorNetwork.__init__(self)
        self.locality = locality
        self.encoder = FCN32s(lite=True, weights=weights, trainable=trainable)
        self.embedding = nn.Identity()
        width = 256
        self.head = Head(width, (2 * width if head == "shared" else 3 * width,), head, dropout=0.5)
        self.annotation_pool = AnnotationPool()
        self.decoder = Decoder(self.head.scores)
        start(self.head.fuse, 0.001)
        start(self.head.score, 0.0)

    def masks(self, maps: Tensor, annotations: Tensor) -> Tensor:
        """The fixed kernel's weights."""
        labels = [(annotations == label).to(maps.dtype) for label in (NEGATIVE, POSITIVE)]
        return torch.stack([self.annotation_pool(mask) for mask in labels], 1)

    def merge_cells(self, maps: Tensor, weights: Tensor) -> Tensor:
        """One label's z, with the 1e-6 that shrinks clicks near the border."""
        if self.locality == "local":  # weights sum to 1 over a shot's cells, as they do where the cells are pooled
            mass = weights.sum((-2, -1), keepdim=True)
            shots = (mass > 0).sum(1).clamp(min=1)[..., None]  # (B, 1, 1, 1)
            return torch.einsum("bkchw,bkhw->bchw", maps, weights / (mass + 1e-6)) / shots
        if self.head.kind == "separate":  # the original divides by all shots, also by those without this label
            return shot_means(maps, weights, eps=1e-6).mean(1)
        return masked_mean(maps, weights, eps=1e-6)

    def decode(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """The fixed transposed convolution; both labels share its one channel where they share the head."""
        logits: Tensor = self.decoder(scores, size)
        return logits

    def original_entries(self) -> list[Tensor | None]:
        """[z, num_z with the shared head], annotation kernel, 13 convolutions, fc6, head.fc7, head.score, decoder."""
        buffers: list[Tensor | None] = [None, None] if self.head.kind == "shared" else []
        learned = [*self.encoder.convolutions(), self.head.fuse, self.head.score]
        return [*buffers, None, *(p for convolution in learned for p in convolution.parameters()), None]


def refuse_meaningless(
    fusion: Fusion = "late",
    locality: Locality = "global",
    inference: Inference = "fusion",
    head: HeadKind = "shared",
    annotation_map: bool = False,
    support_grid: SupportGrid = "pool",
    pooling: Pooling = "mean",
    similarity: Similarity = "none",
    self_support: bool = False,
    kernel: int = 1,
) -> None:
    """An error for a combination in which an option would do nothing or has no meaning.

    Raises:
        FewsegError: naming the option and the reason.

    >>> refuse_meaningless(fusion="early", inference="regression")
    >>> refuse_meaningless(fusion="early", inference="prototype")
    Traceback (most recent call last):
    fewseg.errors.FewsegError: inference: got prototype, expected fusion or regression with fusion="early", ...
    """
    late, nearest, early = fusion == "late", inference == "nearest", fusion == "early"
    one_z = 'with fusion="early", whose one z speaks for both labels'
    no_cell = f'with fusion="{fusion}", where annotations enter with the image and never meet the support\'s grid'
    no_head = f'with inference="{inference}", which has no such head'
    no_place = f'with inference="{inference}", which has one z per label, not per position'
    take_late = 'choose fusion="late", or leave it out'

    _refuse(nearest and not late, "inference", inference, f"another {no_cell}", take_late)
    expected = 'local with inference="nearest", which keeps every annotated cell'
    _refuse(nearest and locality == "global", "locality", locality, expected, 'choose locality="local"')
    expected = f"fusion or regression {one_z}"
    _refuse(early and inference == "prototype", "inference", inference, expected, "choose another fusion or inference")
    has_no_place = inference in ("regression", "prototype") and locality == "local"
    _refuse(has_no_place, "locality", locality, f"global {no_place}", 'leave it out, or choose inference="fusion"')
    _refuse(inference != "fusion" and head != "shared", "head", head, f"its default {no_head}", "leave it out")
    _refuse(early and head != "shared", "head", head, f"its default {one_z}", "leave it out")
    expected = 'mean, its default, with locality="local", which pools nothing'
    _refuse(locality == "local" and pooling != "mean", "pooling", pooling, expected, "leave it out")
    _refuse(not late and support_grid != "pool", "support_grid", support_grid, f"pool {no_cell}", take_late)
    expected = "pool, interpolate or dilate with similarity, which compares taps of several strides"
    fine = support_grid == "atrous" and similarity != "none"
    _refuse(fine, "support_grid", support_grid, expected, "leave it out, or leave similarity out")
    _refuse(not late and annotation_map, "annotation_map", annotation_map, f"False {no_cell}", take_late)
    expected = 'False with pooling="max" or inference="nearest", which ask whether a cell is annotated, not how much'
    unweighted = annotation_map and (nearest or pooling == "max")
    _refuse(unweighted, "annotation_map", annotation_map, expected, "leave it out, or pool by the mean")
    _refuse(not late and similarity != "none", "similarity", similarity, f"none {no_cell}", take_late)
    compared = inference != "fusion" and similarity != "none"
    _refuse(compared, "similarity", similarity, f"none {no_head}", 'leave it out, or choose inference="fusion"')
    alone = self_support and similarity in ("none", "nearest")
    expected = 'False with similarity="none" or "nearest", which makes no prototypes of the taps'
    _refuse(alone, "self_support", self_support, expected, 'choose similarity="prototype"')
    _refuse(kernel < 1 or kernel % 2 == 0, "kernel", kernel, "a positive odd number", "choose 1 or 3")
    wide = inference != "fusion" and kernel != 1
    _refuse(wide, "kernel", kernel, f"1 {no_head}", 'leave it out, or choose inference="fusion"')
    expected = "global with self_support=True, whose z of the query has no place in the support"
    _refuse(self_support and locality == "local", "locality", locality, expected, "leave it out")


def _refuse(wrong: bool, argument: str, got: object, expected: str, remedy: str) -> None:
    if wrong:
        raise FewsegError(argument, got, expected, remedy)


class GuidedNet(FewShotSegmentor):
    """Guided network: the design space of sections 4.1 and 4.2 of the paper, an argument for each choice.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps`` and ``width``).
        weights: a file or ``"pretrained"`` for the encoder; a VGG-16 file for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: train only what comes after the encoder, and the support encoder of ``fusion="early"``.
        width: channels of z and of the head.
        head: one metric for both labels, or one head over both; of ``inference="fusion"`` with a z per label.
        fusion: how annotations meet the image: ``late``, on the feature grid; ``early``, as further channels;
            ``masked``, as a product with the image.
        locality: ``global`` pools z over positions; ``local`` keeps the map.
        inference: how z guides: feature ``fusion``, parameter ``regression``, ``prototype`` or ``nearest`` neighbour.
        merge: average shots as ``features`` (z), or their ``logits``.
        annotation_map: learn the annotation-to-mask map.
        support_grid: how annotations and the support's grid meet: ``pool``, ``interpolate``, ``dilate`` or ``atrous``.
        pooling: over positions.
        similarity: cosine maps of the encoder's taps as further inputs of the head.
        self_support: a second pass that also reads the means of what the first one found in the query.
        kernel: side of the head's layers after the first; 3 lets a cell see its neighbours.
        variant: ``standard``, or the network of the ``paper``, which has the options ``head`` and ``locality``.
        lr: peak learning rate.
        encoder_lr_factor: encoders learn with ``lr`` times this.
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
        head: HeadKind = "shared",
        fusion: Fusion = "late",
        locality: Locality = "global",
        inference: Inference = "fusion",
        merge: Merge = "features",
        annotation_map: bool = False,
        support_grid: SupportGrid = "pool",
        pooling: Pooling = "mean",
        similarity: Similarity = "none",
        self_support: bool = False,
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
        network: GuidedNetwork
        refuse_meaningless(
            fusion, locality, inference, head, annotation_map, support_grid, pooling, similarity, self_support, kernel
        )
        if variant == "paper":
            refuse_encoder(encoder, output_stride, taps, width)
            refuse_design(
                head, fusion, locality, inference, merge, annotation_map, support_grid, pooling, similarity, kernel
            )
            network = PaperGuidedNetwork(head, weights, trainable=not freeze_encoder, locality=locality)
        else:
            trunk = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            grid = (locality, merge, pooling, support_grid, annotation_map, kernel)
            if fusion == "early":
                second = AnnotatedEncoder(Encoder(encoder, weights, output_stride, taps), channels=2)
                network = EarlyGuidedNetwork(trunk, second, width, inference, locality, merge, pooling, kernel)
            elif fusion == "masked":
                network = MaskedGuidedNetwork(trunk, width, head, inference, locality, merge, pooling, kernel)
            elif inference == "nearest":
                network = NearestGuidedNetwork(trunk, width, merge, support_grid)
            elif self_support:
                network = SelfSupportNetwork(trunk, width, head, similarity, *grid[1:])
            elif similarity != "none":
                network = SimilarGuidedNetwork(trunk, width, head, similarity, *grid)
            else:
                network = GuidedNetwork(trunk, width, head, inference, *grid)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )


def refuse_design(
    head: HeadKind,
    fusion: Fusion,
    locality: Locality,
    inference: Inference,
    merge: Merge,
    annotation_map: bool,
    support_grid: SupportGrid,
    pooling: Pooling,
    similarity: Similarity,
    kernel: int,
) -> None:
    """The original's network has late feature fusion only, and a local z only with the shared head.

    Raises:
        FewsegError: another option was chosen.
    """
    given = (
        ("fusion", fusion, "late"),
        ("inference", inference, "fusion"),
        ("merge", merge, "features"),
        ("annotation_map", annotation_map, False),
        ("support_grid", support_grid, "pool"),
        ("pooling", pooling, "mean"),
        ("similarity", similarity, "none"),
        ("kernel", kernel, 1),
        ("locality", locality, locality if head == "shared" else "global"),
    )
    for name, value, own in given:
        if value != own:
            expected = f'{own}, because variant="paper" is the original with head="{head}"'
            raise FewsegError(name, value, expected, 'leave it out, or choose variant="standard"')
