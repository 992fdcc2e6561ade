"""FBRSNet: the click segmentor of f-BRS, DeepLabV3+ behind a fusion of image and click maps.

Source: Sofiiuk, Petrov, Barinova, Konushin, "f-BRS: rethinking backpropagating refinement for interactive
segmentation" (CVPR 2020, https://arxiv.org/abs/2001.10331) and its code,
https://github.com/saic-vul/fbrs_interactive_segmentation. The refinement itself works on every network and stands in
refinement.py; here are the points A, B and C where the paper lets it act. Tuning on the support is the baseline of
Bhatia's thesis on few-shot interactive segmentation, which does not say how it was done.

Deviations of ``variant="standard"``: an encoder of choice, smaller dilations of the pyramid, group norm on its
pooled branch and no dropout, interpolation with align_corners=False, a fusion that starts near the image itself.
Deviations of both: without any positive click all is background; layers outside the encoder start as PyTorch starts
them; ``max_clicks`` limits the clicks that the network reads only where asked, while the original does so (at eight)
whenever it refines. Steps, rate, optimiser and clicks of the tuning are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewseg.episode import POSITIVE, EpisodeBatch, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import silence
from fewseg.functional.clicks import any_positive, click_maps, first_clicks, no_clicks, pad_clicks, sample_clicks
from fewseg.functional.optimisation import call_changed, evaluating, optimisation, tuned_change
from fewseg.losses import normalized_focal_loss
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.modules.annotated import keep_images
from fewseg.modules.click_fusion import ClickFusion
from fewseg.modules.deeplab import DeepLabV3Plus, group_norm
from fewseg.modules.encoders import Encoder
from fewseg.network import SegmentorNetwork


class Tuning(NamedTuple):
    """How the support is learned: steps at a rate, with clicks drawn from a seed. 0 steps: it is not read at all."""

    steps: int = 0
    lr: float = 5e-4
    seed: int = 0


class Hidden(NamedTuple):
    """map (B, C, h, w): what refinement scales; skip: the finer map at point A, else empty; size: of the image."""

    map: Tensor
    skip: Tensor
    size: tuple[int, int]


class FBRSNetwork(SegmentorNetwork):
    """``guide`` says nothing, or tunes on the supports; ``segment`` fuses image and clicks and scores every pixel.

    Every click costs a pass of the encoder. Without negative clicks their map is 1 everywhere; without any positive
    click all is background. Tuning skips shots without any positive pixel.

    Args:
        encoder: its finest and its deepest tap are read.
        fusion: of the three colours and two click maps.
        decoder: for those two taps.
        max_clicks: the first so many clicks of an episode enter the network; None for all.
        tuning: on the supports; with 0 steps they are not read.

    >>> network = FBRSNetwork(Encoder("tiny"), ClickFusion(), DeepLabV3Plus(128, 64, 16)).eval()
    >>> guidance = network.guide(network.encode_support(torch.rand(1, 0, 3, 17, 13)), torch.zeros(1, 0, 17, 13))
    >>> clicks = torch.tensor([[[3, 4, 1], [9, 9, 0]]])
    >>> network.segment(network.encode_query(torch.rand(1, 3, 17, 13)), guidance, clicks).shape
    torch.Size([1, 2, 17, 13])
    """

    uses_support: bool = False
    uses_clicks: bool = True
    encodes_clicks: bool = True
    episodic: ClassVar[bool] = False  # training does not read supports, also where the answer does
    cacheable: bool = False
    insertion_points: ClassVar[tuple[str, ...]] = ("A", "B", "C")

    encoder: Encoder

    def __init__(
        self,
        encoder: Encoder,
        fusion: ClickFusion,
        decoder: DeepLabV3Plus,
        max_clicks: int | None = None,
        tuning: Tuning = Tuning(),  # noqa: B008 immutable
    ) -> None:
        super().__init__()
        if max_clicks is not None and max_clicks < 1:
            raise FewsegError("max_clicks", max_clicks, "1 or more, or none", "leave it out: all clicks are read")
        if tuning.steps < 0:
            raise FewsegError("tune_steps", tuning.steps, "0 or more", "0 does not tune at all")
        if tuning.lr <= 0:
            raise FewsegError("tune_lr", tuning.lr, "a positive number", "tune_steps=0 does not tune at all")
        self.encoder, self.fusion, self.decoder = encoder, fusion, decoder
        self.max_clicks, self.tuning = max_clicks, tuning
        self.tuned = tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)
        self.uses_support = self.early = tuning.steps > 0

    def encode_support(self, images: Tensor | Features) -> Features:
        """The normalised images where they are tuned on, else no map at all."""
        if self.uses_support:
            return keep_images(self.encoder, images)
        size = images.image_size if isinstance(images, Features) else (images.shape[-2], images.shape[-1])
        return Features((), size)

    def encode_query(self, images: Tensor | Features) -> Features:
        """The normalised images: they are encoded together with the clicks, in ``segment``."""
        return keep_images(self.encoder, images)

    def guide(self, features: Features, annotations: Tensor) -> Tensor:
        """The change (B, D) of the tuned parameters, flattened and joined; D = 0 without tuning."""
        if not self.uses_support:
            return self._untuned(annotations)
        images = features.maps[0].expand(len(annotations), -1, -1, -1, -1)
        with optimisation(), evaluating(self):
            changes = [self.tune(*episode) for episode in zip(images, annotations, strict=True)]
        return torch.stack(changes)

    def represent(self, guidance: Tensor) -> Tensor | None:
        """None: a change of all parameters would be too much."""
        return None

    def tune(self, images: Tensor, annotations: Tensor) -> Tensor:
        """The change (D,) that clicks on the annotated shots ask for: images (K, 3, H, W), annotations (K, H, W)."""
        usable = (annotations == POSITIVE).flatten(1).any(1)
        images, annotations = images[usable].clone(), annotations[usable].clone()
        masks = annotations.cpu().numpy()
        rng = np.random.RandomState(self.tuning.seed)

        def loss(change: Tensor) -> Tensor:
            clicks = pad_clicks([sample_clicks(mask, "fbrs", rng) for mask in masks]).to(images.device)
            size = (images.shape[-2], images.shape[-1])
            maps = self.click_maps(clicks, size)
            logits = call_changed(self, self.tuned, change, "answer", images, maps)
            return normalized_focal_loss(logits, annotations)

        steps = self.tuning.steps if len(images) else 0
        return tuned_change(self, self.tuned, loss, steps, lambda values: torch.optim.Adam(values, self.tuning.lr))

    def segment(self, features: Features, guidance: Tensor, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W); clicks as (B, 2, H, W) floats are the maps themselves, see ``click_maps``."""
        return self.segment_from("C", self.segment_to("C", features, guidance, clicks), guidance, clicks)

    def segment_to(self, point: str, features: Features, guidance: Tensor, clicks: Tensor | None = None) -> Hidden:
        """What goes on at a point: A the deepest map, B the pyramid beside the skip connection, C after the head."""
        self._check_point(point)
        images = features.maps[0]
        maps = self.click_maps(no_clicks(images) if clicks is None else clicks, features.image_size)
        n = max(len(images), len(maps))
        hidden: Hidden = self._each(guidance, "to_point", point, images.expand(n, -1, -1, -1), maps)
        return hidden

    def segment_from(self, point: str, hidden: Hidden, guidance: Tensor, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W) from a hidden value."""
        self._check_point(point)
        logits: Tensor = self._each(guidance, "from_point", point, hidden)
        logits = silence(logits, any_positive(no_clicks(hidden.map) if clicks is None else clicks))
        return logits.expand(max(len(logits), len(guidance)), -1, -1, -1)

    def click_maps(self, clicks: Tensor, size: tuple[int, int]) -> Tensor:
        """What the network reads beside the colours, (B, 2, H, W): the maps that refinement may change.

        Args:
            clicks: (B, N, 3) integers (row, col, label); floats (B, 2, H, W) stay as they are.
            size: (H, W) of the image.
        """
        return click_maps(first_clicks(clicks, self.max_clicks), size, "tanh", self.encoder.mean.dtype)

    def to_point(self, point: str, images: Tensor, maps: Tensor) -> Hidden:
        """The hidden value of normalised images (n, 3, H, W) and maps (n or 1, 2, H, W)."""
        size = (images.shape[-2], images.shape[-1])
        features = self.encoder(self.fusion(images.to(self.encoder.mean.dtype), maps)).maps
        skip, deep = features[0], features[-1]
        if point == "A":
            return Hidden(deep, skip, size)
        joined = self.decoder.join(deep, skip)
        return Hidden(joined if point == "B" else self.decoder.head(joined), skip[:, :0], size)

    def from_point(self, point: str, hidden: Hidden) -> Tensor:
        """Logits (n, 2, H, W): half the one logit for foreground, minus that for background."""
        features = hidden.map
        if point == "A":
            features = self.decoder.join(features, hidden.skip)
        if point != "C":
            features = self.decoder.head(features)
        logit = self.decoder.score(features, hidden.size)
        return torch.cat([-logit / 2, logit / 2], 1)

    def answer(self, images: Tensor, maps: Tensor) -> Tensor:
        """Logits (n, 2, H, W) of normalised images (n, 3, H, W) and maps (n, 2, H, W)."""
        return self.from_point("C", self.to_point("C", images, maps))

    def _untuned(self, like: Tensor) -> Tensor:
        return torch.zeros(len(like), 0, device=like.device)

    def _each(self, guidance: Tensor, verb: str, point: str, *values: Any) -> Any:
        """The verb for all episodes at once, or for each under its own parameters."""
        if not guidance.shape[1]:
            return getattr(self, verb)(point, *values)
        n = max(len(guidance), *(len(value.map if isinstance(value, Hidden) else value) for value in values))
        changes = guidance.expand(n, -1)
        return _joined(
            [
                call_changed(self, self.tuned, change, verb, point, *(_episode(value, i) for value in values))
                for i, change in enumerate(changes)
            ]
        )

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """The normalised focal loss of the query given its clicks, the supports unread."""
        clicks = batch.query_clicks
        logits = self.segment(self.encode_query(batch.query_images), self._untuned(clicks), clicks)
        return {"normalized_focal": normalized_focal_loss(logits, batch.query_masks)}


def _episode(value: Any, i: int) -> Any:
    """Episode i alone; where there is one only, it serves all."""
    if isinstance(value, Hidden):
        return Hidden(_episode(value.map, i), _episode(value.skip, i), value.size)
    i = min(i, len(value) - 1)
    return value[i : i + 1]


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Hidden):
        return Hidden(torch.cat([v.map for v in values]), torch.cat([v.skip for v in values]), values[0].size)
    return torch.cat(list(values))


def paper_network(weights: str | None, trainable: bool, max_clicks: int | None, tuning: Tuning) -> FBRSNetwork:
    """ResNet-34 dilated to stride 8, skip from its first stage: 23,341,692 parameters.

    Args:
        weights: a file with the state of timm's resnet34, ``"pretrained"``, or None.
        trainable: False freezes the encoder.
        max_clicks: see ``FBRSNetwork``; likewise the rest.
        tuning: on the supports.
    """
    encoder = Encoder("resnet34", weights, output_stride=8, taps=(1, 4), trainable=trainable)
    fusion = ClickFusion(start="default")
    decoder = DeepLabV3Plus(512, 64, 128, (12, 24, 36), dropout=0.5, align_corners=True)
    return FBRSNetwork(encoder, fusion, decoder, max_clicks, tuning)


class FBRSNet(FewShotSegmentor):
    """The click segmentor of f-BRS; ``tune_steps`` makes it the baseline that is tuned on the support.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps``, ``width`` and ``rate``).
        weights: a file or ``"pretrained"`` for the encoder, which is resnet34 for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder; the finest and the deepest are read.
        freeze_encoder: train only the fusion before and the decoder after the encoder.
        width: channels of the decoder, even.
        rate: dilation of the first branch of the pyramid in cells of the deepest tap; the others have twice and three
            times that.
        max_clicks: the first so many clicks of an episode enter the network, later ones act through refinement only;
            8 in the original while it refines, none for all.
        variant: ``standard``, or the network of the ``paper``.
        tune_steps: of the optimisation on each support; 0 does not read supports.
        tune_lr: its rate.
        tune_seed: of the clicks that it draws on supports.
        lr: peak learning rate of the training.
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters, in training.
        optimizer: of the training, ``adamw``, or ``sgd`` with ``momentum``.
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
        rate: int = 3,
        max_clicks: int | None = None,
        variant: Literal["standard", "paper"] = "standard",
        tune_steps: int = 0,
        tune_lr: float = 1e-5,
        tune_seed: int = 0,
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        tuning = Tuning(tune_steps, tune_lr, tune_seed)
        if variant == "paper":
            refuse_options(encoder, output_stride, taps, width, rate)
            network = paper_network(weights, not freeze_encoder, max_clicks, tuning)
        else:
            if width < 2 or width % 2:
                raise FewsegError("width", width, "an even number of channels", "add 1: the score reads half of them")
            if rate < 1:
                raise FewsegError("rate", rate, "a dilation of at least 1", "leave it out")
            backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            deep, skip = backbone.out_channels[-1], backbone.out_channels[0]
            decoder = DeepLabV3Plus(deep, skip, width, (rate, 2 * rate, 3 * rate), pooled_norm=group_norm)
            network = FBRSNetwork(backbone, ClickFusion(), decoder, max_clicks, tuning)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )


def refuse_options(encoder: str, output_stride: int | None, taps: Sequence[int] | None, width: int, rate: int) -> None:
    """The paper's network is fixed: an error where one of these options differs from its default.

    Raises:
        FewsegError: it would have no effect.
    """
    given = {"encoder": encoder, "output_stride": output_stride, "taps": taps, "width": width, "rate": rate}
    defaults = {"encoder": "tiny", "output_stride": None, "taps": None, "width": 128, "rate": 3}
    for name, value in given.items():
        if value != defaults[name]:
            expected = 'its default, because variant="paper" is ResNet-34 with a decoder of 128 channels'
            raise FewsegError(name, value, expected, 'leave it out, or choose variant="standard"')
