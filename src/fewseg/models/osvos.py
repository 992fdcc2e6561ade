"""OSVOS: side outputs of a class-blind network, optimised on the annotated frames for each object.

Source: Caelles, Maninis, Pont-Tuset, Leal-Taixe, Cremers, Van Gool, "One-shot video object segmentation" (CVPR 2017,
https://arxiv.org/abs/1611.05198) and its PyTorch code, https://github.com/kmaninis/OSVOS-PyTorch.

Deviations of ``variant="standard"``: an encoder of choice, bilinear interpolation instead of transposed convolutions,
losses divided by the sum of their weights, one rate for all that is tuned, fewer updates of one pass each.
Deviations of both: pixels that nobody annotated, and those that come in from outside a turned image, carry no loss;
labels are balanced over all shots of an episode together; all shots are turned alike; images are interpolated
bilinearly; biases decay, too; all is background without positives; objects are tuned apart and compete for pixels.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fewseg.episode import EpisodeBatch, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import annotated
from fewseg.functional.optimisation import tuned_change
from fewseg.functional.warp import Warp, draw_warp, warp_annotations, warp_images
from fewseg.losses import Reduction, balanced_cross_entropy
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.models.fine_tune import Tuned, TunedNetwork, check_tuning, detached
from fewseg.modules.encoders import Encoder, ImageEncoder
from fewseg.modules.side_outputs import PaperSideOutputs, SideOutputs, SideVGG16
from fewseg.modules.vgg import refuse_encoder

_MOMENTUM = 0.9  # of SGD at test time
_DECAY = 2e-4  # likewise
_DRAWS = 20  # of a warp that leaves both labels in sight
_WIDTH = 16  # channels of a side output
_SIDE_SCORES = "outputs.scores."  # they serve the training alone


class Tuning(NamedTuple):
    """How the supports are learned.

    Args:
        steps: updates.
        lr: rate of SGD with momentum 0.9 and weight decay 2e-4.
        tune: what comes after the encoder, or all layers that learn.
        accumulate: passes whose mean gradient makes one update.
        augment: every pass sees the supports mirrored or not, turned and scaled.
        seed: of that.
    """

    steps: int = 50
    lr: float = 0.002
    tune: Tuned = "all"
    accumulate: int = 1
    augment: bool = True
    seed: int = 0


class OSVOSNetwork(TunedNetwork):
    """``guide`` optimises parameters on the supports, ``segment`` applies them to any number of queries.

    The loss gives both labels the same weight, so supports without positives or without negatives teach nothing: the
    former are all background, the latter leave the class-blind network as it was trained.

    Args:
        encoder: of supports and queries; every tap has a side output.
        outputs: for its taps.
        tuning: what happens at test time.

    >>> encoder = Encoder("tiny", taps=(0, 1, 2))
    >>> network = OSVOSNetwork(encoder, SideOutputs(encoder.out_channels), Tuning(steps=2)).eval()
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    reduction: Reduction = "weighted"
    encoder: ImageEncoder

    def __init__(self, encoder: ImageEncoder, outputs: SideOutputs, tuning: Tuning = Tuning()) -> None:  # noqa: B008
        super().__init__()
        self.encoder, self.outputs = encoder, outputs
        self.side_weight = 1.0  # of deep supervision, set by whoever trains; it never matters for an answer
        self.prepare(tuning)

    def prepare(self, tuning: Tuning) -> None:
        """Says what happens at test time.

        Raises:
            FewsegError: steps, passes or a rate that are out of range.
        """
        check_tuning(tuning.steps, tuning.lr)
        if tuning.accumulate < 1:
            raise FewsegError("accumulate", tuning.accumulate, "1 pass or more", "leave it out: an update is one pass")
        self.tuning = tuning
        self.choose_tuned(tuning.tune, without=_SIDE_SCORES)
        self.early = self.early or tuning.augment  # each pass encodes other images
        self.shared_encoder = self.early == self.tunes_encoder  # whether supports are kept as queries are

    def factor(self, name: str) -> float:
        """Of a parameter's learning rate, in training and at test time."""
        return 1.0

    def tune(self, features: Features, annotations: Tensor) -> Tensor:
        """The change (D,) that the balanced cross-entropy of the fused score asks for, annotations (K, H, W)."""
        features, annotations, tuning = detached(features), annotations.clone(), self.tuning
        generator = torch.Generator().manual_seed(tuning.seed)
        start = torch.cat([self.get_parameter(name).detach().flatten() for name in self.tuned])

        def loss(change: Tensor) -> Tensor:
            shots, truth = features, annotations
            if tuning.augment:
                warp, truth = self._keep_labels(annotations, generator)  # one for all shots: order must not matter
                shots = Features((warp_images(features.maps[0], warp),), features.image_size)
                if not self.tunes_encoder:
                    with torch.no_grad():
                        shots = self.encode_query(shots.maps[0])
            logits = self.answer(shots, change)
            fused = (logits[:, 1] - logits[:, 0])[None]  # (1, K, H, W): labels are balanced over all shots
            decay = _DECAY / 2 * (start + change).square().sum()
            return balanced_cross_entropy(fused, truth[None], self.reduction) + decay

        def optimizer(values: list[Tensor]) -> torch.optim.Optimizer:
            groups = [
                {"params": [value], "lr": tuning.lr * self.factor(name)}
                for name, value in zip(self.tuned, values, strict=True)
            ]
            return torch.optim.SGD(groups, tuning.lr, _MOMENTUM)

        both = bool(annotated(annotations[None]).all())
        return tuned_change(self, self.tuned, loss, tuning.steps if both else 0, optimizer, tuning.accumulate)

    def _keep_labels(self, annotations: Tensor, generator: torch.Generator) -> tuple[Warp, Tensor]:
        """A warp and the annotations (K, H, W) under it; drawn again where it takes all of a label out of sight."""
        for _ in range(_DRAWS):
            warp = draw_warp(generator)
            truth = warp_annotations(annotations, warp)
            if annotated(truth[None]).all():
                return warp, truth
        return Warp(), annotations  # labels in corners only

    def score(self, features: Features) -> Tensor:
        """Logits (n, 2, H, W): half the fused logit for foreground, minus that for background."""
        fused = self.outputs.fuse(self._prepared(features), features.image_size)
        return torch.cat([-fused / 2, fused / 2], 1)

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Of the query, class-blind: balanced cross-entropy of the fused score and, times ``side_weight``, of each tap.

        The original's weight falls from 1 to 0 during the training, see ``OSVOS.on_train_batch_start``.
        """
        features = self.encode_query(batch.query_images)
        maps = self._prepared(features)
        fused = self.outputs.fuse(maps, features.image_size)
        sides = self.outputs.score(maps, features.image_size)
        one, *others = (
            balanced_cross_entropy(score[:, 0], batch.query_masks, self.reduction) for score in (fused, *sides)
        )
        return {"fused": one, "sides": self.side_weight * torch.stack(others).sum()}

    def _prepared(self, features: Features) -> list[Tensor]:
        """The side outputs' maps of what ``encode_query`` returned."""
        taps = self.encoder(features.maps[0]).maps if self.tunes_encoder else features.maps
        return self.outputs.prepare(taps)


class PaperOSVOSNetwork(OSVOSNetwork):
    """VGG-16 with side outputs of stages two to five: 15,267,157 parameters, 14,917,637 of them learned.

    Losses are sums over pixels. Biases learn twice as fast as weights, scores of single taps ten times and the fused
    score a hundred times slower than the rest.

    Args:
        weights: a VGG-16 file with torchvision's names.
        trainable: False freezes the trunk.
        tuning: what happens at test time.
    """

    reduction: Reduction = "sum"
    cacheable: bool = False  # exact only in its own precision
    encoder: SideVGG16

    def __init__(self, weights: str | None = None, trainable: bool = True, tuning: Tuning = Tuning(lr=1e-8)) -> None:  # noqa: B008
        super().__init__(SideVGG16(weights, trainable), PaperSideOutputs(), tuning)
        self.cacheable = False

    def factor(self, name: str) -> float:
        """The original's."""
        slower = 10 if name.startswith(_SIDE_SCORES) else 100 if name.startswith("outputs.fusion.") else 1
        return (2 if name.endswith("bias") else 1) / slower

    def original_entries(self) -> list[Tensor | None]:
        """Eight fixed kernels, 13 convolutions, side_prep, score_dsn and fuse (weight, bias)."""
        outputs = self.outputs
        layers = [*self.encoder.vgg.convolutions(), *outputs.convolutions, *outputs.scores, outputs.fusion]
        fixed: list[Tensor | None] = [None] * 8
        return [*fixed, *(p for layer in layers for p in layer.parameters())]


class OSVOS(FewShotSegmentor):
    """One-shot video object segmentation.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps`` and ``width``).
        weights: a file or ``"pretrained"`` for the encoder; a VGG-16 file for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder; each has a side output.
        freeze_encoder: train, and tune, only what comes after the encoder.
        width: channels of a side output.
        variant: ``standard``, or the network of the ``paper``.
        steps: updates on the supports of each episode.
        tune_lr: their rate; none for 0.002 (``standard``) or 1e-8 (``paper``, whose loss is a sum over pixels).
        tune: ``all`` layers that learn, or the ``head``, everything after the encoder.
        accumulate: passes whose mean gradient makes one update.
        augment: each pass sees the supports mirrored or not, turned by up to 30 degrees and scaled by 0.75 to 1.25.
        tune_seed: of these draws.
        lr: peak learning rate of the training.
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters, in training.
        optimizer: of the training, ``adamw``, or ``sgd`` with ``momentum``.
        momentum: of SGD in training.
        schedule: ``one_cycle`` or ``constant``.
    """

    network: OSVOSNetwork

    def __init__(
        self,
        encoder: str = "tiny",
        weights: str | None = None,
        output_stride: int | None = None,
        taps: tuple[int, ...] | None = None,
        freeze_encoder: bool = False,
        width: int = _WIDTH,
        variant: Literal["standard", "paper"] = "standard",
        steps: int = 50,
        tune_lr: float | None = None,
        tune: Tuned = "all",
        accumulate: int = 1,
        augment: bool = True,
        tune_seed: int = 0,
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters()
        rate = tune_lr if tune_lr is not None else 1e-8 if variant == "paper" else Tuning().lr
        tuning = Tuning(steps, rate, tune, accumulate, augment, tune_seed)
        if variant == "paper":
            refuse_encoder(encoder, output_stride, taps, 128)
            if width != _WIDTH:
                expected = f'{_WIDTH}, because variant="paper" is the original'
                raise FewsegError("width", width, expected, 'leave it out, or choose variant="standard"')
            network: OSVOSNetwork = PaperOSVOSNetwork(weights, not freeze_encoder, tuning)
        else:
            if width < 1:
                raise FewsegError("width", width, "1 channel or more", "leave it out")
            backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            network = OSVOSNetwork(backbone, SideOutputs(backbone.out_channels, width), tuning)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )

    def on_train_batch_start(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """Deep supervision fades out linearly, by the step: a resumed training continues exactly."""
        super().on_train_batch_start(batch, batch_idx)
        self.network.side_weight = max(0.0, 1 - self.global_step / self.trainer.max_steps)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Each rate times the network's factor of the parameter, so biases of ``paper`` learn twice as fast."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                factor = self.network.factor(name) * (self.encoder_lr_factor if name.startswith("encoder.") else 1)
                groups.setdefault(factor, []).append(parameter)
        return [{"params": parameters, "lr": self.lr * factor} for factor, parameters in groups.items()]
