"""The LightningModule that every method shares: all training, validation, test and prediction steps live here, once."""

from __future__ import annotations

import functools
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewseg import evaluation
from fewseg.episode import EpisodeBatch, Instances, Row, VideoEpisode
from fewseg.errors import FewsegError
from fewseg.functional.draw import shown_frames
from fewseg.functional.instance_figures import plain_ap50
from fewseg.functional.iou import fb_iou, mean_iou, positive_iou
from fewseg.functional.matching import result
from fewseg.functional.run_figures import final_rows, scores_of_objects, video_accuracy
from fewseg.metrics import EpisodeIoU, GuidanceVariance
from fewseg.modules.encoders import ImageEncoder
from fewseg.network import SegmentorNetwork
from fewseg.results import atomic, write_json
from fewseg.sampling import EvaluationPart, search_dataset
from fewseg.transforms import FitMode

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["one_cycle", "step", "constant"]

FILMS = 3  # videos of a test whose labels are kept for pictures: the first of its list, the same for all methods
GIF_FRAMES = 40


class FewShotSegmentor(pl.LightningModule):
    """Trains and evaluates one network on episodes.

    Args:
        network: the method.
        lr: learning rate of the parameters outside the encoder (the peak, under ``one_cycle``).
        encoder_lr_factor: the encoder learns with ``lr`` times this.
        weight_decay: on all parameters.
        optimizer: ``adamw``, or ``sgd`` with ``momentum``.
        momentum: of SGD.
        schedule: ``one_cycle`` (warm-up, then cosine to zero over ``max_steps``), ``step`` (a tenth of the rate for the
            last quarter of the steps) or ``constant``.
    """

    network: SegmentorNetwork
    warmup_steps: int = 0  # before the encoder learns

    def __init__(
        self,
        network: SegmentorNetwork,
        *,
        lr: float,
        encoder_lr_factor: float = 1.0,
        weight_decay: float = 1e-4,
        optimizer: Optimizer = "adamw",
        momentum: float = 0.9,
        schedule: Schedule = "one_cycle",
    ) -> None:
        super().__init__()
        self.network = network
        self.lr, self.encoder_lr_factor, self.weight_decay = lr, encoder_lr_factor, weight_decay
        self.optimizer_name, self.momentum, self.schedule = optimizer, momentum, schedule
        self.rows: list[Row] = []  # of the test in progress
        self.places: list[int] = []  # in the test list, of the episodes that this process has yet to test, last first
        self.guidance = GuidanceVariance()  # likewise
        self.objectives: list[tuple[float, float]] = []  # of its refinements, before and after
        self.detections: list[tuple[int, str]] = []  # of its instances, by place, the entries of COCO results as JSON
        self.films: dict[int, dict[int, Labels]] = {}  # of its first videos, by place, the labels of some frames
        self.val_iou: EpisodeIoU | None = None
        self.image_size: int | None = None  # side of the canvas it was trained on
        self.image_resize: FitMode | None = None  # how images came into it
        self.reference_size: int | None = None  # side of the square of reference crops, where it was trained on such

    def forward(self, batch: EpisodeBatch) -> Tensor:
        """Logits (B, 2, H, W) at network size."""
        logits: Tensor = self.network(batch)
        return logits

    def on_fit_start(self) -> None:
        """Remembers the canvas, so that ``segment_image`` fits images as the training did."""
        data = getattr(self.trainer, "datamodule", None)
        self.image_size, self.image_resize = getattr(data, "size", None), getattr(data, "resize", None)
        self.reference_size = getattr(data, "reference_size", None)

    def on_test_start(self) -> None:
        """A model that was not trained here takes the canvas of its test, for sessions."""
        data = getattr(self.trainer, "datamodule", None)
        self.image_size = self.image_size or getattr(data, "size", None)
        self.image_resize = self.image_resize or getattr(data, "resize", None)
        self.reference_size = self.reference_size or getattr(data, "reference_size", None)

    def on_predict_start(self) -> None:
        """As for a test."""
        self.on_test_start()

    def on_train_start(self) -> None:
        """Refuses to go on beyond the steps that a restored one-cycle schedule was planned for."""
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            planned = getattr(schedule, "total_steps", self.trainer.max_steps)
            if planned < self.trainer.max_steps:
                remedy = "keep the number that the checkpoint was trained for, or train with schedule=constant"
                raise FewsegError("--trainer.max_steps", self.trainer.max_steps, f"at most {planned}", remedy)

    def on_train_batch_start(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """Seeds dropout from (seed, step), so that a resumed training continues exactly; ends the warm-up."""
        seed = int(getattr(getattr(self.trainer, "datamodule", None), "seed", 0))
        torch.manual_seed(seed * 1_000_003 + self.global_step)
        if self.warmup_steps:  # the encoder's batch norms stand still as well
            self.network.encoder.train(self.global_step >= self.warmup_steps)

    def on_after_backward(self) -> None:
        """During the warm-up the encoder gets no gradient, so that no optimiser touches it.

        Its parameters go on asking for one: DDP would wait for those that stop, or never reduce those that start.
        """
        if self.global_step < self.warmup_steps:
            for parameter in self.network.encoder.parameters():
                parameter.grad = None

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        """The sum of the network's losses; each is logged."""
        self._check_shots(batch.n_shot, "--data.train_shot")
        losses = self.network.losses(self.network.accept(batch))
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        self.log_dict({f"train/{name}": loss.detach() for name, loss in losses.items()}, batch_size=len(batch))
        return total

    def on_validation_epoch_start(self) -> None:
        """Starts counting anew."""
        self.val_iou = EpisodeIoU(n_classes=self._n_classes()).to(self.device)

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """Counts on base-class episodes: what model selection may look at."""
        assert self.val_iou is not None
        part, places = self._part(), range(len(batch))
        if part.search is not None and self.network.output == "instances":
            found = evaluation.search(self.network, batch, threshold=part.threshold).instances
            count_rows(self.val_iou, evaluation.union_rows(batch, list(map(evaluation.detected, found)), part, places))
            return
        logits = evaluation.predict(self.network, batch).logits
        count_rows(self.val_iou, evaluation.rows(batch, logits, part, places))

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the base-class episodes."""
        assert self.val_iou is not None
        scores: dict[str, Any] = self.val_iou.compute()
        names = ("miou", "fb_iou", "positive_iou")
        self.log_dict({f"val/{name}": scores[name] for name in names}, prog_bar=True, batch_size=1)

    def on_test_epoch_start(self) -> None:
        """Starts counting anew."""
        self.rows, self.objectives, self.guidance, self.films = [], [], GuidanceVariance(), {}
        self.detections = []
        self.places = list(reversed(self.trainer.datamodule.places()))  # type: ignore[attr-defined]

    def test_step(self, batch: EpisodeBatch | VideoEpisode, batch_idx: int) -> None:
        """Appends the rows of a batch; the first one runs once before, so that no timing includes a warm-up.

        Of a video, its first frame does.
        """
        part = self._part()
        if isinstance(batch, VideoEpisode):
            place = self.places.pop()
            self._check_shots(len(batch.annotations), "--data.n_shot")
            if batch_idx == 0:
                next(self._track(batch))
            filmed = set(film_frames(batch)) if place < FILMS else set()
            for tracked in self._track(batch):
                self.rows += evaluation.video_rows(batch, tracked, part, place, not self.network.uses_support)
                if tracked.frame in filmed:
                    self.films.setdefault(place, {})[tracked.frame] = Labels.packed(tracked.labels)
            return
        self._check_shots(batch.n_shot, "--data.n_shot")
        indices = [self.places.pop() for _ in range(len(batch))]
        if part.robot is not None:
            if batch_idx == 0:
                self._interact(batch)
            replies = self._interact(batch)
            self.rows += evaluation.click_rows(batch, replies, part, indices)
            self.objectives += [reply.objective for reply in replies if reply.objective is not None]
            return
        if part.search is not None:
            if batch_idx == 0:
                self._search(batch)
            self._score_instances(batch, indices)
            return
        if batch_idx == 0:
            evaluation.predict(self.network, batch)
        prediction = evaluation.predict(self.network, batch)
        self.rows += evaluation.rows(batch, prediction.logits, part, indices, prediction.seconds)
        if prediction.z is not None:
            self.guidance.update([spec.class_id for spec in batch.specs], prediction.z)

    def _score_instances(self, batch: EpisodeBatch, indices: list[int]) -> None:
        """Appends the rows and the detections of a batch that asks for instances."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        found = self._search(batch)
        encoded = list(map(evaluation.detected, found.instances))
        self.rows += evaluation.instance_rows(batch, encoded, self._part(), indices, found.seconds)
        for place, spec, own in zip(indices, batch.specs, encoded, strict=True):
            ids = search_dataset(data.dataset).result_ids(spec.query_id, spec.class_id)
            self.detections.append((place, json.dumps(result(*ids, own))))
        if found.z is not None:
            self.guidance.update([spec.class_id for spec in batch.specs], found.z)

    def on_test_epoch_end(self) -> None:
        """Gathers the rows of all processes, asserts that every episode is there once, and logs the scores."""
        episodes = [list(rows) for _, rows in itertools.groupby(self.rows, lambda row: row.episode)]
        gathered = evaluation.gather(episodes, lambda rows: rows[0].episode)
        self.rows = [row for rows in gathered for row in rows]
        frame = pd.DataFrame(self.rows)
        final = final_rows(frame)
        self.guidance = functools.reduce(GuidanceVariance.plus, evaluation.gather_parts(self.guidance))
        self.objectives = [pair for pairs in evaluation.gather_parts(self.objectives) for pair in pairs]
        self.detections = evaluation.gather(self.detections, lambda item: item[0])
        self.films = functools.reduce(lambda some, more: some | more, evaluation.gather_parts(self.films))
        tp, fp, fn, tn = (final[name].to_numpy(np.int64) for name in ("tp", "fp", "fn", "tn"))
        if self._tests_videos():  # of one class, so that mIoU is positive IU
            accuracy = video_accuracy(scores_of_objects(final)[1])
            scores = {name: accuracy[name] for name in ("jf_mean", "j_mean", "f_mean")}
        else:
            scores = {"miou": mean_iou(final["class_id"], tp, fp, fn), "fb_iou": fb_iou(tp, fp, fn, tn)}
        scores["positive_iou"] = positive_iou(tp, fp, fn)
        if frame["truth"].notna().any():
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            scores |= plain_ap50(frame, data.scored_classes(), self._part().runs)
        self.log_dict({f"test/{k}": v for k, v in scores.items()}, batch_size=1, rank_zero_only=True)

    @property
    def figures(self) -> dict[str, Any]:
        """What the last test measured or assumed beside its rows.

        ``guidance_within`` and ``guidance_between`` where the method has a z; ``objective_before``, ``objective_after``
        and ``objective_raised``, the share of refinements that ended above where they began, where there were some;
        ``class_blind``, True where rows of videos count all foreground of a method without supports for every object.
        """
        shares, figures = self.guidance.compute(), dict[str, Any]()
        if shares is not None:
            figures |= {f"guidance_{name}": share for name, share in shares._asdict().items()}
        if self._tests_videos() and not self.network.uses_support:
            figures["class_blind"] = True
        finite = [pair for pair in self.objectives if np.isfinite(pair).all()]
        if finite:
            before, after = np.array(finite).T
            figures |= {"objective_before": float(before.mean()), "objective_after": float(after.mean())}
            figures["objective_raised"] = float((after > before).mean())
        return figures

    def predict_step(
        self, batch: EpisodeBatch | VideoEpisode, batch_idx: int
    ) -> list[np.ndarray[Any, Any]] | list[Instances] | Iterator[evaluation.Tracked]:
        """Masks (H, W) uint8 of the batch's queries, 0 or 1, at original size; of a video its frames one by one.

        Where a protocol asks for instances, those of each query, in its original pixels.
        """
        if isinstance(batch, VideoEpisode):
            self._check_shots(len(batch.annotations), "--data.n_shot")
            return self._track(batch)
        self._check_shots(batch.n_shot, "--data.n_shot")
        if self._part().search is not None:
            return list(self._search(batch).instances)
        if self._part().robot is not None:
            return [self._interact(batch)[-1].mask]
        return evaluation.masks(batch, evaluation.predict(self.network, batch).logits, self._part().threshold)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Encoders learn with ``lr * encoder_lr_factor``, everything else with ``lr``."""
        trained = [(n.split(".")[0], p) for n, p in self.network.named_parameters() if p.requires_grad]
        encoders = [p for part, p in trained if part.endswith("encoder")]
        rest = [p for part, p in trained if not part.endswith("encoder")]
        groups = [{"params": encoders, "lr": self.lr * self.encoder_lr_factor}, {"params": rest, "lr": self.lr}]
        return [group for group in groups if group["params"]]

    def configure_optimizers(self) -> Any:
        """One optimiser over ``parameter_groups``, stepped with its schedule."""
        return configure(self, self.parameter_groups())

    def save(self, path: str | Path) -> Path:
        """Writes ``model.safetensors`` and ``config.json`` into the folder ``path``: never a pickle.

        >>> import tempfile, fewseg
        >>> folder = fewseg.create_model("FgBg").save(tempfile.mkdtemp())
        >>> sorted(p.name for p in folder.iterdir())
        ['config.json', 'model.safetensors']
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        save_state(self.network, folder / "model.safetensors")
        hyper = {k: v for k, v in self.hparams.items() if not k.startswith("_")}
        if hyper.get("weights"):
            hyper["weights"] = Path(hyper["weights"]).name  # what it started from, not where that lay
        encoder = getattr(self.network, "encoder", None)
        config = {
            "method": type(self).__name__,
            "hyper_parameters": hyper,
            "image_size": self.image_size,
            "image_resize": self.image_resize,
            "reference_size": self.reference_size,
            "norm": encoder.norm if isinstance(encoder, ImageEncoder) else None,
        }
        write_json(folder / "config.json", config)
        return folder

    def load_weights(self, path: str | Path) -> None:
        """Loads the ``model.safetensors`` that ``save`` wrote, strictly."""
        try:
            self.network.load_state_dict(load_file(str(path)))
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FewsegError(
                str(path), reason, "the weights of this model", "save it again with model.save()"
            ) from None

    def _interact(self, batch: EpisodeBatch) -> list[evaluation.Reply]:
        """The robot's clicks on the one object of a batch, and the answers to them."""
        return evaluation.interact(self, batch, self.trainer.datamodule)  # type: ignore[attr-defined]

    def _search(self, batch: EpisodeBatch) -> evaluation.Found:
        """What is found in the queries of a batch, or the random boxes that were asked for instead."""
        return evaluation.search(self.network, batch, self.trainer.datamodule.random_boxes)  # type: ignore[attr-defined]

    def _track(self, video: VideoEpisode) -> Iterator[evaluation.Tracked]:
        """The frames of a video, segmented."""
        return evaluation.track(self, video, self.trainer.datamodule)  # type: ignore[attr-defined]

    def _part(self) -> EvaluationPart:
        part: EvaluationPart = self.trainer.datamodule.evaluation_part  # type: ignore[attr-defined]
        return part

    def _n_classes(self) -> int:
        return len(self.trainer.datamodule.dataset.class_names)  # type: ignore[attr-defined]

    def _tests_videos(self) -> bool:
        """Whether the rows of the test are of videos."""
        return bool(self.rows) and self.rows[0].frame is not None

    def _check_shots(self, n_shot: int, option: str) -> None:
        limit = self.network.max_shot
        if limit is not None and n_shot > limit:
            raise FewsegError(option, n_shot, f"at most {limit} for {type(self).__name__}", "use fewer shots")


class Labels(NamedTuple):
    """A map (H, W) uint8 of object numbers, compressed: most of its neighbours are equal.

    >>> labels = np.eye(200, dtype=np.uint8)
    >>> packed = Labels.packed(labels)
    >>> len(packed.content) < labels.size / 10, np.array_equal(packed.unpacked(), labels)
    (True, True)
    """

    size: tuple[int, int]
    content: bytes

    @classmethod
    def packed(cls, labels: np.ndarray[Any, Any]) -> Labels:
        """Compresses a map (H, W) uint8."""
        height, width = labels.shape
        return cls((height, width), zlib.compress(np.ascontiguousarray(labels, np.uint8).tobytes(), level=1))

    def unpacked(self) -> np.ndarray[Any, Any]:
        """The map (H, W) uint8."""
        return np.frombuffer(zlib.decompress(self.content), np.uint8).reshape(self.size)


def film_frames(video: VideoEpisode) -> list[int]:
    """The frames of a video that pictures show: those of its strip and of its GIF."""
    n_frames = len(video)
    return sorted({*shown_frames(n_frames, sorted(video.annotations)), *shown_frames(n_frames, (), GIF_FRAMES)})


def count_rows(metric: EpisodeIoU, rows: list[Row]) -> None:
    """Adds the counts of scored episodes to a metric."""
    counts = [torch.tensor([row.tp, row.fp, row.fn, row.tn]) for row in rows]
    metric.update(counts, None, [row.class_id for row in rows])


def configure(module: pl.LightningModule, groups: list[dict[str, Any]]) -> Any:
    """What ``configure_optimizers`` returns for a module with lr, optimizer_name, momentum, weight_decay, schedule."""
    options: Any = module
    if not groups:
        return None
    if options.optimizer_name == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, options.lr, weight_decay=options.weight_decay)
    else:
        optimizer = torch.optim.SGD(groups, options.lr, options.momentum, weight_decay=options.weight_decay)
    if options.schedule == "constant":
        return optimizer
    steps = int(module.trainer.estimated_stepping_batches)
    if options.schedule == "step":
        drop: Any = torch.optim.lr_scheduler.MultiStepLR(optimizer, [max(1, steps * 3 // 4)])
        drop.total_steps = steps  # a restored one says what it was planned for
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": drop, "interval": "step"}}
    rates = [float(group["lr"]) for group in groups]
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, cycle_momentum=False)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def save_state(network: nn.Module, path: Path) -> None:
    """A module's state as safetensors, atomically."""
    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    with atomic(path) as temporary:
        save_file(state, temporary)


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """All parameters, and those that learn."""
    parameters = list(network.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
