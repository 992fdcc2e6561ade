"""Fine-tuning: a class-blind network that is optimised on the annotated support pixels of every episode.

Source: the fine-tuning baseline of Rakelly et al. 2018 (guided networks, https://arxiv.org/abs/1806.07373): it starts
from the foreground/background network and optimises it on the support, with the loss on annotated pixels only. The
original code, https://github.com/shelhamer/revolver, has the network; how the paper tuned it is not published.

Deviations: steps, rate and optimiser at test time are ours; by default only what comes after the encoder is tuned,
so that features are encoded once. Those of the network itself are listed in fgbg.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewseg.episode import POSITIVE, UNKNOWN, EpisodeBatch, Features
from fewseg.errors import FewsegError
from fewseg.functional.annotations import annotated, silence
from fewseg.functional.optimisation import call_changed, evaluating, optimisation, tuned_change
from fewseg.models.base import FewShotSegmentor, Optimizer, Schedule
from fewseg.models.fgbg import FgBgNetwork, PaperFgBgNetwork, check_kernel
from fewseg.modules.annotated import keep_images
from fewseg.modules.encoders import Encoder, ImageEncoder
from fewseg.modules.vgg import refuse_encoder
from fewseg.network import SegmentorNetwork, cross_entropy

_MOMENTUM = 0.9  # of SGD at test time

Tuned = Literal["head", "all"]
TuneOptimizer = Literal["adam", "sgd"]


class Tuning(NamedTuple):
    """How the support is learned: steps at a rate, of what comes after the encoder or of all layers."""

    steps: int = 20
    lr: float = 0.03
    tune: Tuned = "head"
    optimizer: TuneOptimizer = "sgd"


class Guidance(NamedTuple):
    """change (B, D): tuned minus trained parameters, flattened and joined; annotated (B, 2) bool."""

    change: Tensor
    annotated: Tensor


class TunedNetwork(SegmentorNetwork):
    """A class-blind network that ``guide`` optimises on the supports; ``segment`` applies the tuned parameters.

    The parameters on the module never change at test time: the guidance is what tuning adds to them. Without positives
    all is background. A subclass writes ``score``, ``tune`` and ``losses`` and calls ``choose_tuned``.
    """

    uses_support: bool = True
    episodic: ClassVar[bool] = False  # training is class-blind: it cannot learn opposite answers for one image
    exportable: ClassVar[bool] = False  # it differentiates while it runs

    def choose_tuned(self, tune: Tuned, without: str | None = None) -> None:
        """To be called at the end of a constructor, when the parameters are there.

        Args:
            tune: what comes after the encoder, or all that learns.
            without: a prefix of the names of parameters that are never tuned.
        """
        everything = tune == "all"
        learned = [n for n, p in self.named_parameters() if p.requires_grad and not n.startswith(without or " ")]
        self.tuned = tuple(n for n in learned if everything or not n.startswith("encoder."))
        # what is encoded beforehand depends on what is tuned; a frozen encoder never is
        self.tunes_encoder = self.early = any(name.startswith("encoder.") for name in self.tuned)
        if self.tunes_encoder:
            self.cacheable = False

    def encode_support(self, images: Tensor | Features) -> Features:
        """What ``encode_query`` returns, with a shot axis; always the normalised images where ``early``."""
        return keep_images(self._image_encoder, images) if self.early else self.encode_query(images)

    def encode_query(self, images: Tensor | Features) -> Features:
        """Maps (B, C, h, w) of the encoder, or the normalised images where all layers are tuned."""
        encoder = self._image_encoder
        if self.tunes_encoder:
            return keep_images(encoder, images)
        features: Features = encoder(images)
        return features.to(encoder.mean.dtype)

    @property
    def _image_encoder(self) -> ImageEncoder:
        assert isinstance(self.encoder, ImageEncoder)
        return self.encoder

    def guide(self, features: Features, annotations: Tensor) -> Guidance:
        """The change of the tuned parameters, one episode after the other."""
        with optimisation(), evaluating(self):
            changes = [self.tune(_episode(features, i), shots) for i, shots in enumerate(annotations)]
        return Guidance(torch.stack(changes), annotated(annotations))

    def segment(self, features: Features, guidance: Guidance, clicks: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W) of each episode's own parameters."""
        queries = Features(tuple(m[:, None] for m in features.maps), features.image_size)  # as if K = 1
        changes = guidance.change.expand(max(len(features.maps[0]), len(guidance.change)), -1)
        logits = [self.answer(_episode(queries, i), change) for i, change in enumerate(changes)]
        return silence(torch.cat(logits), guidance.annotated[:, POSITIVE])

    def represent(self, guidance: Guidance) -> Tensor | None:
        """The change of what comes after the encoder; None where the encoder is tuned, which would be too much."""
        return None if self.tunes_encoder else guidance.change

    def tune(self, features: Features, annotations: Tensor) -> Tensor:
        """The change (D,) that one episode's supports ask for.

        Args:
            features: what ``encode_support`` returned, maps (K, C, h, w).
            annotations: (K, H, W).
        """
        raise TypeError(f"{type(self).__name__} must define tune()")

    def answer(self, features: Features, change: Tensor) -> Tensor:
        """Logits (n, 2, H, W) of n images under the trained parameters plus one change (D,)."""
        logits: Tensor = call_changed(self, self.tuned, change, "score", features)
        return logits

    def score(self, features: Features) -> Tensor:
        """Logits (n, 2, H, W) of what ``encode_query`` returned, under whatever parameters are in place."""
        raise TypeError(f"{type(self).__name__} must define score()")


def check_tuning(steps: int, lr: float) -> None:
    """Finds what no tuning can have.

    Raises:
        FewsegError: steps or a rate that are out of range.
    """
    if steps < 0:
        raise FewsegError("steps", steps, "0 or more", "0 does not tune at all")
    if lr <= 0:
        raise FewsegError("tune_lr", lr, "a positive number", "steps=0 does not tune at all")


def detached(features: Features) -> Features:
    """Copies that gradients may flow through, also where the originals were made in inference mode."""
    return Features(tuple(m.detach().clone() for m in features.maps), features.image_size)


class FineTuneNetwork(TunedNetwork, FgBgNetwork):  # type: ignore[misc]  # a class-blind network has no z
    """``guide`` optimises parameters on the support; ``segment`` applies the tuned ones to the query.

    Training is that of the class-blind network, without any tuning. Without negatives the loss has positive pixels
    only, which pulls towards foreground.

    Args:
        encoder: of supports and queries.
        width: channels of the embedding and of the head.
        kernel: of the head's hidden layer.
        tuning: what happens at test time. Under ``tune="all"`` there is nothing to encode beforehand: both images are
            encoded by parameters that depend on the episode.

    >>> network = FineTuneNetwork(Encoder("tiny"), width=16).eval()
    >>> supports = network.encode_support(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    >>> guidance = network.guide(supports, torch.randint(0, 2, (1, 2, 32, 32)))
    >>> guidance.change.shape  # convolutions from 192 channels to 16, to 16 and to 2
    torch.Size([1, 3394])
    >>> network.segment(network.encode_query(torch.zeros(1, 3, 17, 13, dtype=torch.uint8)), guidance).shape
    torch.Size([1, 2, 17, 13])
    """

    def __init__(
        self,
        encoder: Encoder,
        width: int = 128,
        kernel: int = 1,
        tuning: Tuning = Tuning(),  # noqa: B008 immutable
    ) -> None:
        FgBgNetwork.__init__(self, encoder, width, kernel)
        self.prepare(tuning)

    def prepare(self, tuning: Tuning) -> None:
        """To be called at the end of a constructor, when the parameters are there.

        Raises:
            FewsegError: steps or a rate that are out of range.
        """
        check_tuning(tuning.steps, tuning.lr)
        self.tuning = tuning
        self.choose_tuned(tuning.tune)

    def tune(self, features: Features, annotations: Tensor) -> Tensor:
        """The change (D,) that cross-entropy over the annotated pixels (K, H, W) of one episode asks for."""
        features = detached(features)
        truth, count = annotations.to(torch.int64, copy=True), (annotations != UNKNOWN).sum()

        def loss(change: Tensor) -> Tensor:
            logits = self.answer(features, change)
            return F.cross_entropy(logits.float(), truth, ignore_index=UNKNOWN, reduction="sum") / count

        def optimizer(values: list[Tensor]) -> torch.optim.Optimizer:
            if self.tuning.optimizer == "adam":
                return torch.optim.Adam(values, self.tuning.lr)
            return torch.optim.SGD(values, self.tuning.lr, _MOMENTUM)

        return tuned_change(self, self.tuned, loss, self.tuning.steps if count else 0, optimizer)

    def score(self, features: Features) -> Tensor:
        """Logits (n, 2, H, W) of what ``encode_query`` returned, under whatever parameters are in place."""
        encoded = FgBgNetwork.encode_query(self, features.maps[0] if self.tunes_encoder else features)
        return self.decode(self.head(encoded.maps[0]), features.image_size)

    def losses(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Those of the class-blind network: cross-entropy of the query, the support unread."""
        logits = self.score(self.encode_query(batch.query_images))
        return {"cross_entropy": cross_entropy(logits, batch.query_masks)}


def _episode(features: Features, i: int) -> Features:
    """Maps (K, C, h, w) of episode i; where there is one episode only, it serves all."""
    return Features(tuple(m[min(i, len(m) - 1)] for m in features.maps), features.image_size)


class PaperFineTuneNetwork(FineTuneNetwork, PaperFgBgNetwork):  # type: ignore[misc]  # likewise
    """FCN-32s with fc6 and fc7, tuned; sizes as in ``PaperFgBgNetwork``.

    Args:
        weights: a VGG-16 file for the trunk, see ``FCN32s``.
        trainable: False freezes the trunk.
        tuning: what happens at test time.
    """

    def __init__(self, weights: str | None = None, trainable: bool = True, tuning: Tuning = Tuning()) -> None:  # noqa: B008
        PaperFgBgNetwork.__init__(self, weights, trainable)
        self.prepare(tuning)


class FineTune(FewShotSegmentor):
    """Fine-tuning of the class-blind network at test time.

    Args:
        encoder: ``tiny`` or a timm name (``standard`` only, like ``output_stride``, ``taps`` and ``width``).
        weights: a file or ``"pretrained"`` for the encoder; a VGG-16 file for ``paper``.
        output_stride: of the encoder.
        taps: levels of the encoder.
        freeze_encoder: train, and tune, only what comes after the encoder.
        width: channels of the head.
        kernel: of the head's hidden layer (``standard`` only); 3 lets a cell see its neighbours.
        variant: ``standard``, or the network of the ``paper``.
        trained: a folder that ``FgBg.save`` wrote for the same network: start from it, no training needed.
        steps: of the optimisation on each support.
        tune_lr: its rate.
        tune: ``head``, everything after the encoder, or ``all`` layers that learn.
        tune_optimizer: ``sgd`` with momentum 0.9, or ``adam``.
        lr: peak learning rate of the training.
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters, in training.
        optimizer: of the training, ``adamw``, or ``sgd`` with ``momentum``.
        momentum: of SGD in training.
        schedule: ``one_cycle`` or ``constant``.
    """

    network: FineTuneNetwork

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
        trained: str | None = None,
        steps: int = 20,
        tune_lr: float = 0.03,
        tune: Tuned = "head",
        tune_optimizer: TuneOptimizer = "sgd",
        lr: float = 2e-3,
        encoder_lr_factor: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        self.save_hyperparameters(ignore="trained")  # a saved model holds what it started from
        tuning = Tuning(steps, tune_lr, tune, tune_optimizer)
        check_kernel(kernel, variant)
        if variant == "paper":
            refuse_encoder(encoder, output_stride, taps, width)
            network: FineTuneNetwork = PaperFineTuneNetwork(weights, trainable=not freeze_encoder, tuning=tuning)
        else:
            backbone = Encoder(encoder, weights, output_stride, taps, trainable=not freeze_encoder)
            network = FineTuneNetwork(backbone, width, kernel, tuning)
        super().__init__(
            network,
            lr=lr,
            encoder_lr_factor=encoder_lr_factor,
            weight_decay=weight_decay,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
        )
        if trained is not None:
            self.start_from(Path(trained))

    def start_from(self, folder: Path) -> None:
        """Takes the parameters, the canvas and the batch-norm mode of a saved ``FgBg``.

        Raises:
            FewsegError: the folder holds something else, or another network.
        """
        try:
            config = json.loads((folder / "config.json").read_text())
            method, theirs = config["method"], config["hyper_parameters"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{folder} ({type(error).__name__})"
            raise FewsegError("trained", reason, "a folder that FgBg.save() wrote", "check the path") from None
        if method != "FgBg":
            raise FewsegError("trained", f"a {method}", "a FgBg", "train FgBg with experiments/models/fgbg.yaml")
        for name in ("encoder", "output_stride", "taps", "width", "kernel", "variant"):
            mine, wanted = json.loads(json.dumps(self.hparams[name])), theirs.get(name)
            if mine != wanted:
                raise FewsegError(name, mine, f"{wanted}, as in {folder}", "pass the options of the trained network")
        self.load_weights(folder / "model.safetensors")
        self.image_size, self.image_resize = config.get("image_size"), config.get("image_resize")
        if config.get("norm") == "frozen" and isinstance(self.network.encoder, ImageEncoder):
            self.network.encoder.norm = "frozen"
