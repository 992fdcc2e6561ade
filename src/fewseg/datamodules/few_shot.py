"""One data module for every data set and task: episodes in, ``EpisodeBatch`` out."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fewseg.datamodules.feature_cache import FeatureCache, build
from fewseg.datasets.base import FewShotDataset
from fewseg.episode import NO_CLICK, POSITIVE, VOID, Box, EpisodeBatch, EpisodeSpec, Features, Frame, Task
from fewseg.errors import FewsegError
from fewseg.functional.clicks import ClickSampling, append_error_clicks, pad_clicks, sample_clicks
from fewseg.protocols import get_protocol
from fewseg.refinement import check_point
from fewseg.sampling import (
    EpisodeList,
    EvaluationPart,
    ObjectSampler,
    PointMode,
    Protocol,
    TrainingDraw,
    TrainingPart,
    TrainingSampler,
    annotation_map,
    draw_points,
    frozen_list,
    groups,
    object_map,
    object_pool,
    query_mask,
    sub_seed,
    training_pool,
)
from fewseg.transforms import Augment, Augmentation, FitMode, channels_first, crop_around, fit, frame_of, move_points
from fewseg.transforms import draw_points as draw_map

Map = npt.NDArray[np.uint8]
Masks = Literal["class", "foreground", "labels"]
Cache = Literal["none", "images", "features"]
TrainEpisodes = Literal["semantic", "interactive", "crops"]
Clicks = Sequence[tuple[int, int, int]]  # (row, col, label) in the canvas
CACHE_BYTES = 4 * 10**9  # of decoded files that the processes of one loader keep together

OTHERS, INSIDE_VOID = 2, 3  # beside 0, 1 and 255 = outside the image, while a training query is augmented
NO_CLICKS = ((0, 0, NO_CLICK),)  # one row of padding: that nothing was clicked is an annotation too


@dataclasses.dataclass(frozen=True)
class _Sample:
    """One assembled episode, before collation."""

    supports: list[Any]  # (H, W, 3) uint8 images, or tuples of feature maps
    annotations: list[Map]
    query: Any
    mask: Map
    target: Map | None
    frame: Frame
    spec: EpisodeSpec
    clicks: Clicks = ()
    task: Task = "semantic"


class _Memory:
    """Remembers the arrays that a function read for an image id until it holds ``limit`` bytes; the rest is read anew.

    It travels to another process empty: each one fills its own.
    """

    def __init__(self, read: Callable[[str], Any], limit: int) -> None:
        self.read, self.limit = read, limit
        self.kept: dict[str, Any] = {}
        self.held = 0

    def __call__(self, image_id: str) -> Any:
        if image_id in self.kept:
            return self.kept[image_id]
        found = self.read(image_id)
        size = sum(array.nbytes for array in (found if isinstance(found, tuple) else (found,)))
        if self.held + size <= self.limit:
            self.kept[image_id] = found
            self.held += size
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": {}, "held": 0}


class _Assembler:
    """From the spec of an episode to its arrays: reads, fits, annotates and augments.

    Loader processes get this and not the data module, whose trainer holds the model.

    Args:
        dataset: the images.
        protocol: says what void and points are, and how queries are scored.
        fold: whose base classes a training mask names.
        size: (h, w) of the canvas.
        resize: of every image.
        augmentation: of training episodes.
        masks: what a training query's mask holds.
        cache: what to keep, see ``FewShotDataModule``.
        limit: bytes that ``cache`` may take in one process.
        train_episodes: what training episodes ask for.
        train_clicks: how interactive training clicks.
    """

    def __init__(
        self,
        dataset: FewShotDataset,
        protocol: Protocol,
        fold: int,
        size: tuple[int, int],
        resize: FitMode,
        augmentation: Augmentation,
        masks: Masks,
        cache: Cache,
        limit: int = CACHE_BYTES,
        train_episodes: TrainEpisodes = "semantic",
        train_clicks: ClickSampling = "uniform",
    ) -> None:
        self.dataset, self.protocol, self.fold = dataset, protocol, fold
        self.size, self.resize, self.masks = size, resize, masks
        self.augment, self.leave = Augment(augmentation), Augment("none")
        self.pair: Callable[[str], Any] = _Memory(dataset.pair, limit) if cache == "images" else dataset.pair
        self.label: Callable[[str], Map] = _Memory(dataset.label, limit) if cache == "features" else dataset.label
        self.objects: Callable[[str], Map] = (
            dataset.objects if cache == "none" else _Memory(dataset.objects, limit // 4)
        )
        self.train_episodes, self.train_clicks = train_episodes, train_clicks
        self.folder: Path | None = None
        self.features: FeatureCache | None = None
        self.cached_supports = False

    def use_features(self, folder: Path, supports: bool) -> None:
        """From now on the features in a folder stand in for queries and, where asked, for supports."""
        self.folder, self.features, self.cached_supports = folder, FeatureCache(folder), supports

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "features": None}  # its memory maps would be copied in full

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.folder is not None:
            self.use_features(self.folder, self.cached_supports)

    def canvas(self, image_id: str) -> npt.NDArray[np.uint8]:
        """The image at network size, (H, W, 3) uint8."""
        return fit(self.pair(image_id)[0], None, self.size, self.resize)[0]

    def assemble(self, spec: EpisodeSpec, n_points: int | None = None, training: bool = False) -> _Sample:
        """One episode: training draws points and clicks and augments, evaluation does what the spec says.

        Everything is at network size, but for the query of an episode that the robot clicks.
        """
        part = self.protocol.training if training else self.protocol.evaluation
        robot = not training and self.robot_clicks(spec)
        image, label = self._read(spec.query_id, self.features is not None and not robot)
        asked, number = label, spec.class_id  # the map and the value in it that are asked for
        if spec.object_id is not None:
            asked, number = object_map(self.objects(spec.query_id), label), spec.object_id
        supports, annotations = [], []
        for shot, image_id in enumerate(spec.support_ids):
            points = None if spec.points is None else [point[1:] for point in spec.points if point.shot == shot]
            void = part.support_void if n_points is None else "ignore"  # void is never drawn, whatever it counts as
            seed = spec.seed + 7919 * (shot + 1)  # every image of an episode is augmented on its own
            pixels: npt.NDArray[np.uint8] | None
            if training and self.train_episodes == "crops":
                assert image is not None, "crops have no cached features"
                pixels, dense = crop_around(image, annotation_map(asked, number, void), asked == number, seed)
            else:
                pixels, shown = self._read(image_id, self.cached_supports and not robot)
                dense = annotation_map(shown, spec.class_id, void)
            if n_points is not None:
                points = draw_points(dense, n_points, spec.seed + shot, self.protocol.evaluation.short_label)
            support, annotation = self._place(image_id, pixels, dense, points, seed, training)
            supports.append(support)
            annotations.append(annotation)
        if training and spec.object_id is not None and self.masks == "class":
            return self._training_object(spec, image, asked, supports, annotations)
        mask = self._training_mask(label, spec) if training else query_mask(asked, number, part.void)
        if robot:
            frame = Frame(mask.shape, mask.shape, Box(0, 0, *mask.shape))
            return _Sample(supports, annotations, image, mask, mask, frame, spec, task="interactive")
        target, frame = (None, frame_of(label.shape, self.size, self.resize)) if training else self._target(mask)
        query, mask = self._place(spec.query_id, image, mask, None, spec.seed, training)
        if training or spec.object_id is None:
            return _Sample(supports, annotations, query, mask, target, frame, spec)
        clicks = self._given_clicks(spec, query_mask(asked, number))
        return _Sample(supports, annotations, query, mask, target, frame, spec, clicks, "interactive")

    def robot_clicks(self, spec: EpisodeSpec) -> bool:
        """Whether the robot of the protocol clicks in this evaluation episode, instead of the list."""
        return self.protocol.evaluation.robot is not None and not spec.clicks

    def _given_clicks(self, spec: EpisodeSpec, mask: Map) -> Clicks:
        """The clicks of an evaluation episode on the canvas: its own, or each pixel of the mask where it has none."""
        if not spec.clicks:
            dense = self._fit_object(mask)
            known = dense != VOID
            return np.column_stack([np.argwhere(known), dense[known]]).tolist() or NO_CLICKS
        moved = move_points(spec.clicks, frame_of(mask.shape, self.size, self.resize))
        positive = {click[:2] for click in moved if click.label == POSITIVE}  # wins a cell, as in an annotation map
        return tuple(dict.fromkeys(c for c in moved if c.label == POSITIVE or c[:2] not in positive))

    def _training_object(
        self,
        spec: EpisodeSpec,
        image: npt.NDArray[np.uint8] | None,
        objects: Map,
        supports: list[Any],
        annotations: list[Map],
    ) -> _Sample:
        """A training episode that asks for one object: with clicks, unless its supports are crops around the object."""
        numbers = np.zeros(256, np.uint8)
        trained = self._base_numbers
        entries = self.dataset.object_index()[spec.query_id]
        numbers[[number for number, entry in entries.items() if trained[entry.class_id]]] = OTHERS
        numbers[spec.object_id], numbers[VOID] = POSITIVE, INSIDE_VOID
        fitted = self._fit_object(numbers[objects])
        query, placed = self._place(spec.query_id, image, fitted, None, spec.seed, True)
        void = self.protocol.training.void
        inside = VOID if void == "ignore" else int(void == "foreground")
        mask = np.where(placed == OTHERS, 0, np.where(placed == INSIDE_VOID, inside, placed)).astype(np.uint8)
        frame = frame_of(objects.shape, self.size, self.resize)
        if self.train_episodes == "crops":
            return _Sample(supports, annotations, query, mask, None, frame, spec)
        known = np.where(placed == INSIDE_VOID, VOID, mask)
        rng = np.random.RandomState(sub_seed("training clicks", spec.seed))
        clicks = sample_clicks(known, self.train_clicks, rng, placed == OTHERS) or NO_CLICKS
        return _Sample(supports, annotations, query, mask, None, frame, spec, clicks, "interactive")

    def _fit_object(self, label_map: Map) -> Map:
        """A map on the canvas in which the object (1) keeps a pixel even where it is too small for the canvas."""
        fitted = fit(None, label_map, self.size, self.resize)[1]
        if not (fitted == POSITIVE).any():
            row, col = np.argwhere(label_map == POSITIVE)[0]
            fitted[frame_of(label_map.shape, self.size, self.resize).to_network(int(row), int(col))] = POSITIVE
        return fitted

    def _read(self, image_id: str, cached: bool) -> tuple[npt.NDArray[np.uint8] | None, Map]:
        """Image and label map; no image where cached features stand in for it."""
        if cached:
            return None, self.label(image_id)
        image, label = self.pair(image_id)
        return image, label

    def _place(
        self,
        image_id: str,
        image: npt.NDArray[np.uint8] | None,
        dense: Map,
        points: Sequence[Any] | None,
        seed: int,
        training: bool,
    ) -> tuple[Any, Map]:
        """An image (or its features) and its map on the canvas, augmented in training."""
        augment = self.augment if training else self.leave
        size, mode = self.size, self.resize
        canvas = None if image is None else fit(image, None, size, mode)[0]
        fitted = fit(None, dense, size, mode)[1] if points is None else None  # a map of single pixels is never resized
        moved = () if points is None else move_points(points, frame_of(dense.shape, size, mode))
        if points is not None and canvas is None:  # beside cached features the drawn points stand in for the image
            fitted = draw_map(moved, size)
        out = augment(canvas, fitted, moved, seed)
        annotation = draw_map(out.points, size) if fitted is None else out.label_map
        assert annotation is not None
        if image is None:
            assert self.features is not None
            return self.features.read(image_id, out.flipped), annotation
        return out.image, annotation

    def _training_mask(self, label: Map, spec: EpisodeSpec) -> Map:
        """What a training query's mask holds, see ``train_masks``."""
        void = self.protocol.training.void
        if self.masks == "class":
            return query_mask(label, spec.class_id, void)
        mask = self._base_numbers[label]
        if void != "ignore":
            mask[label == VOID] = void == "foreground"
        return np.where(mask == VOID, VOID, mask > 0).astype(np.uint8) if self.masks == "foreground" else mask

    @functools.cached_property
    def _base_numbers(self) -> Map:
        """(256,) from a class id to its number among the classes trained on, from 1; 0 elsewhere, 255 for void."""
        table = np.zeros(256, np.uint8)
        base = self.dataset.base_classes(self.fold)
        every = range(1, len(self.dataset.class_names) + 1)
        classes = base if self.protocol.training.classes == "base" else every
        table[list(classes)] = np.arange(1, len(classes) + 1)
        table[VOID] = VOID
        return table

    def _target(self, mask: Map) -> tuple[Map, Frame]:
        """The truth at scoring size, and the frame that restores logits to it."""
        size = self.protocol.evaluation.scoring_size
        frame = frame_of(mask.shape, self.size, self.resize)
        if size == "original":
            return mask, frame
        if size == "longer_square":  # the canvas holds the padded square
            side = max(mask.shape)
            square = np.full((side, side), VOID, np.uint8)
            square[: mask.shape[0], : mask.shape[1]] = mask
            whole = Box(0, 0, *self.size)
            return square, Frame((side, side), self.size, whole if self.resize == "letterbox" else frame.box)
        resized = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return resized, Frame(size, self.size, frame.box)


class FewShotDataModule(pl.LightningDataModule):
    """Draws, reads, transforms and collates episodes of one fold under one protocol.

    Training episodes are a pure function of (seed, step): neither workers nor a resumed run change them. Evaluation
    episodes come from a frozen list with a SHA-256.

    Args:
        dataset: the images.
        protocol: named variant of the benchmark: clean, clean-mixed, oracle, oslsm, sgone, sgone-multiclass, hsnet,
            pfenet, panet or revolver; for objects interactive, interactive-component, interactive-points or thesis.
        fold: which block of classes is novel.
        n_shot: K of the evaluation; 0 is allowed where the query is clicked.
        n_points: annotated pixels per label and support image of the evaluation; null = dense masks. Under
            interactive-points: per label of the query, and supports are dense.
        n_episodes: length of the evaluation list, in queries where each is asked for every class of the fold
            (sgone-multiclass); null = the protocol's.
        n_val_episodes: base-class episodes for model selection; 0 switches validation off.
        train_shot: K of training episodes; 0 where the support is not used.
        train_points: ``dense``, ``sparse`` (uniform over 0..99 points per label) or ``mixed`` (see TrainingSampler).
        train_masks: what a training query's mask holds: the episode's ``class`` (or object), any base class
            (``foreground``) or the base classes' numbers from 1 (``labels``). The last two draw no clicks.
        train_episodes: what training asks for: a class shown by other images (``semantic``); an object that is clicked
            in the query, with ``train_shot`` other images of its class (``interactive``); or an object shown by
            ``train_shot`` random crops of the query around it (``crops``, after section 5.2 of the guided networks'
            paper); null = what the protocol tests. Objects have at least the protocol's ``min_area`` pixels.
        train_clicks: how interactive training clicks, at network size: ``uniform`` (0 to 99 pixels of each label),
            ``dios`` or ``fbrs`` (see ``fewseg.functional.clicks``).
        train_iterations: interactive training goes on with up to so many clicks, a number drawn for each step, each
            where the network errs just then.
        n_clicks: of the robot; null = the protocol's.
        refine: where test-time refinement acts, after each click of the robot: ``image``, ``maps`` or an insertion
            point of the method; null = nowhere.
        refine_from: the first click after which it acts.
        zoom_in: after the first click of the robot, a test segments a crop around the object.
        flip: a robot's test averages over the image and its mirror image.
        size: side of the network's square canvas in pixels.
        resize: of every image: ``letterbox`` keeps the aspect ratio, ``square`` does not; null = the protocol's:
            ``square`` where it stretches queries, else ``letterbox``.
        augmentation: of training episodes: ``none``, ``flip`` or ``full`` (scale, rotation, shift, colour).
        cache: ``images`` keeps decoded files in memory, up to 4 GB shared by the processes of a loader (and a quarter
            of that of instance maps), and reads the rest every time; ``features`` encodes every image once with the
            frozen encoder, but for the tests of a robot, which work at original size.
        batch_size: training episodes per step.
        eval_batch_size: evaluation episodes per step; a step holds whole groups of episodes, and at least one. A
            robot's test takes one at a time.
        num_workers: loader processes.
        pin_memory: page-locked batches, for a GPU.
        seed: of the training episodes.
    """

    def __init__(
        self,
        dataset: FewShotDataset,
        protocol: str = "clean",
        fold: int = 0,
        n_shot: int = 1,
        n_points: int | None = None,
        n_episodes: int | None = None,
        n_val_episodes: int = 100,
        train_shot: int = 1,
        train_points: PointMode = "dense",
        train_masks: Masks = "class",
        train_episodes: TrainEpisodes | None = None,
        train_clicks: ClickSampling = "uniform",
        train_iterations: int = 0,
        n_clicks: int | None = None,
        refine: str | None = None,
        refine_from: int = 1,
        zoom_in: bool = False,
        flip: bool = False,
        size: int = 320,
        resize: FitMode | None = None,
        augmentation: Augmentation = "flip",
        cache: Cache = "none",
        batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= fold < dataset.n_folds:
            wanted = f"a fold from 0 to {dataset.n_folds - 1}"
            raise FewsegError("--data.fold", fold, wanted, f"{dataset.name} has {dataset.n_folds} folds")
        part = get_protocol(protocol).evaluation
        least = {"n_shot": 1 if part.interaction is None else 0, "size": 8, "batch_size": 1, "eval_batch_size": 1}
        least |= {"train_shot": 0, "num_workers": 0, "train_iterations": 0, "refine_from": 1}
        for name, bound in least.items():
            if locals()[name] < bound:
                raise FewsegError(f"--data.{name}", locals()[name], f"at least {bound}", "raise it")
        if n_points is not None and n_points < 1:
            raise FewsegError("--data.n_points", n_points, "a positive count, or null for dense masks", "change it")
        if n_clicks is not None and n_clicks < 1:
            raise FewsegError("--data.n_clicks", n_clicks, "a positive count, or null for the protocol's", "change it")
        defaults = {"n_clicks": None, "refine": None, "refine_from": 1, "zoom_in": False, "flip": False}
        for name, default in defaults.items():
            if part.robot is None and locals()[name] != default:
                expected = f"{default} under {protocol}, which has no robot"
                remedy = "leave it out, or use the protocol interactive, interactive-component or thesis"
                raise FewsegError(f"--data.{name}", locals()[name], expected, remedy)
        asks: TrainEpisodes = train_episodes or ("semantic" if part.interaction is None else "interactive")
        if train_iterations and (asks != "interactive" or train_masks != "class"):
            got = f"{train_iterations} beside {asks} episodes and {train_masks} masks"
            remedy = "set it to 0, or train_episodes to interactive and train_masks to class"
            raise FewsegError("--data.train_iterations", got, "0 where training has no clicks", remedy)
        if cache == "features" and asks == "crops":
            remedy = "cache images"
            raise FewsegError("--data.cache", cache, "none or images beside crops, which have no features", remedy)
        if cache == "features" and augmentation == "full":
            raise FewsegError(
                "--data.augmentation", "full", "none or flip beside --data.cache=features",
                "cached features know an image and its mirror image only; flip the image or cache images",
            )  # fmt: skip
        self.dataset, self.protocol, self.fold = dataset, get_protocol(protocol), fold
        self.n_shot, self.n_points, self.n_episodes, self.n_val_episodes = n_shot, n_points, n_episodes, n_val_episodes
        self.train_shot, self.train_points, self.train_masks = train_shot, train_points, train_masks
        stretched = self.protocol.evaluation.resize == "stretch"
        self.resize: FitMode = resize or ("square" if stretched else "letterbox")
        self.size, self.augmentation, self.cache = size, augmentation, cache
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.pin_memory, self.seed = pin_memory, seed
        self.train_episodes, self.train_clicks, self.train_iterations = asks, train_clicks, train_iterations
        self.n_clicks = part.interaction.n_clicks if part.robot and part.interaction and not n_clicks else n_clicks
        self.refine, self.refine_from, self.zoom_in, self.flip = refine, refine_from, zoom_in, flip
        limit = CACHE_BYTES // max(1, num_workers)
        self.assembler = _Assembler(
            *(dataset, self.protocol, fold, (size, size), self.resize, augmentation, train_masks, cache, limit),
            *(asks, train_clicks),
        )

    @property
    def training_part(self) -> TrainingPart:
        """What the protocol says about training."""
        return self.protocol.training

    @property
    def evaluation_part(self) -> EvaluationPart:
        """What the protocol says about evaluation."""
        return self.protocol.evaluation

    def setup(self, stage: str) -> None:
        """Checks the point of refinement, and builds the feature cache with the encoder of the module about to run."""
        tests = stage in ("test", "predict")
        if self.refine is not None and tests and self.trainer is not None:
            module: Any = self.trainer.lightning_module
            check_point(module.network, self.refine, "--data.refine", type(module).__name__)
        if self.cache != "features" or (self.evaluation_part.robot and tests):
            return
        assert self.trainer is not None
        network: Any = getattr(self.trainer.lightning_module, "network", None)
        encoder = getattr(network, "encoder", None)
        if encoder is None or any(p.requires_grad for p in encoder.parameters()) or not network.cacheable:
            raise FewsegError(
                "--data.cache", "features",
                "a frozen encoder (--model.freeze_encoder=true) and a method that reads nothing but its features",
                "freeze the encoder, or cache images",
            )  # fmt: skip
        clicked = "interactive" in (self.train_episodes, self.evaluation_part.task)
        if network.encodes_clicks or (network.early and clicked):  # a clicked query may become a support
            wanted = "a method whose encoder does not read annotations"
            raise FewsegError("--data.cache", "features", wanted, "cache images")
        ids = tuple(self.dataset.index().areas)
        stamp = self.dataset.image_stamp(ids)
        key = f"{self.dataset.index().fingerprint} {stamp} {self.size} {self.resize}"
        device = self.trainer.strategy.root_device
        folder = build(encoder, ids, self.assembler.canvas, key, device)
        self.assembler.use_features(folder, supports=not network.early)

    def train_dataloader(self) -> DataLoader[EpisodeBatch]:
        """Batches from the restored step to the last."""
        assert self.trainer is not None
        if self.trainer.max_steps < 1:
            raise FewsegError("--trainer.max_steps", self.trainer.max_steps, "the number of training steps", "set it")
        accumulate = int(self.trainer.accumulate_grad_batches)
        steps = _Steps(
            start=self.trainer.global_step * accumulate,
            stop=self.trainer.max_steps * accumulate,
            batch_size=self.batch_size,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        return self._loader(_Training(self.assembler, self.training_sampler()), collate, batch_sampler=steps)

    def training_sampler(self) -> TrainingSampler | ObjectSampler:
        """What draws the training episodes.

        Raises:
            FewsegError: the fold has too few images or objects for them.
        """
        pool = training_pool(self.dataset, self.training_part, self.fold)
        if self.train_episodes == "semantic":
            return TrainingSampler(pool, self.train_shot, self.train_points, self.seed)
        objects = object_pool(self.dataset, pool, self.training_part.min_area)
        crops = self.train_episodes == "crops"
        return ObjectSampler(objects, self.train_shot, self.train_points, self.seed, crops)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Where asked for, training clicks that correct the network as it is: rounds of predicting and clicking.

        How many, and where, are drawn from the first episode's seed: a resumed training goes on alike.
        """
        trainer = self.trainer
        if not (self.train_iterations and trainer is not None and trainer.training):
            return batch
        network: Any = trainer.lightning_module.network
        rng = np.random.RandomState(sub_seed("iterations", batch.specs[0].seed))
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        for _ in range(rng.randint(self.train_iterations + 1)):
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                logits = network(batch)
            clicks = append_error_clicks(batch.query_masks, logits[:, 1] > logits[:, 0], batch.query_clicks, rng)
            batch = dataclasses.replace(batch, query_clicks=clicks)
        for module, mode in modes:
            module.training = mode
        return batch

    def val_dataloader(self) -> DataLoader[EpisodeBatch] | list[Any]:
        """Base-class episodes over images that training never sees; the only ones that model selection may use."""
        if self.n_val_episodes == 0 or self.train_masks == "labels" or not self.training_part.hold_out_tenth:
            return []
        return self._evaluation_loader(self.validation_episodes())

    def test_dataloader(self) -> DataLoader[EpisodeBatch]:
        """The protocol's frozen list for the fold, K and P."""
        return self._evaluation_loader(self.episode_list())

    def predict_dataloader(self) -> DataLoader[EpisodeBatch]:
        """The queries of the test list."""
        return self.test_dataloader()

    def episode_list(self) -> EpisodeList:
        """The frozen evaluation list of this fold, K and P."""
        return frozen_list(
            "evaluation", self.dataset, self.protocol, self.fold, self.n_shot, self.n_points, self.n_episodes
        )

    def validation_episodes(self) -> EpisodeList:
        """The frozen base-class list for model selection: 1-shot dense, or, where the protocol tests objects, one
        positive and one negative click on each query and ``train_shot`` dense supports.
        """
        n_shot = 1 if self.evaluation_part.task == "semantic" else self.train_shot
        return frozen_list("validation", self.dataset, self.protocol, self.fold, n_shot, None, self.n_val_episodes)

    def scored_classes(self) -> tuple[int, ...]:
        """The class ids that the test list draws from."""
        return self.dataset.novel_classes(self.fold)

    def pictures_of_supports(self, spec: EpisodeSpec) -> list[tuple[npt.NDArray[np.uint8], Map]]:
        """Supports (H, W, 3) with their annotation maps (H, W) at original size, for people to look at."""
        out = []
        for shot, image_id in enumerate(spec.support_ids):
            image, label = self.dataset.pair(image_id)
            annotation = annotation_map(label, spec.class_id, self.evaluation_part.support_void)
            if spec.points is not None:
                annotation = draw_map([point[1:] for point in spec.points if point.shot == shot], label.shape)
            out.append((image, annotation))
        return out

    def batch_of(self, specs: Sequence[EpisodeSpec]) -> EpisodeBatch:
        """Assembles evaluation episodes by hand, e.g. for pictures; one at a time where a robot clicks."""
        return collate([self.assembler.assemble(spec) for spec in specs], self.assembler.size)

    def places(self) -> list[int]:
        """Where the episodes that this process tests stand in the list, in the order in which it tests them."""
        return [place for group in self._own(self.episode_list()) for place in group]

    def _own(self, episodes: EpisodeList) -> list[range]:
        """The places of this process's episodes, by group."""
        rank = self.trainer.global_rank if self.trainer else 0
        world = self.trainer.world_size if self.trainer else 1
        every = groups(episodes.specs)
        if len(every) < world:  # a process without an episode would not come to where the others wait for it
            wanted = f"at most {len(every)}, one for each episode or group of them"
            raise FewsegError("--trainer.devices", world, wanted, "use fewer processes or more episodes")
        return every[rank::world]

    def _evaluation_loader(self, episodes: EpisodeList) -> DataLoader[EpisodeBatch]:
        own = [[episodes.specs[place] for place in group] for group in self._own(episodes)]
        per_step = max(1, self.eval_batch_size // max(map(len, own)))
        if self.assembler.robot_clicks(episodes.specs[0]):
            per_step = 1  # queries have their original sizes
        return self._loader(_Evaluation(self.assembler, own), collate_groups, batch_size=per_step)

    def _loader(self, episodes: Dataset[Any], collation: Callable[..., EpisodeBatch], **how: Any) -> DataLoader[Any]:
        return DataLoader(
            episodes,
            num_workers=self.num_workers,
            collate_fn=functools.partial(collation, image_size=self.assembler.size),
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_one_thread,
            **how,
        )


class _Training(Dataset[_Sample]):
    """Training episode i, drawn when it is asked for."""

    def __init__(self, assembler: _Assembler, sampler: TrainingSampler | ObjectSampler) -> None:
        self.assembler, self.sampler = assembler, sampler

    def __getitem__(self, i: int) -> _Sample:
        draw: TrainingDraw = self.sampler.draw(i)
        return self.assembler.assemble(draw.spec, draw.n_points, training=True)


class _Evaluation(Dataset[list[_Sample]]):
    """The episodes of a frozen list, by group."""

    def __init__(self, assembler: _Assembler, specs: Sequence[Sequence[EpisodeSpec]]) -> None:
        self.assembler, self.specs = assembler, specs

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, i: int) -> list[_Sample]:
        return [self.assembler.assemble(spec) for spec in self.specs[i]]


class _Steps(Sampler[list[int]]):
    """Episode numbers of the steps that are left; its length counts from step 0, as Lightning's progress does."""

    def __init__(self, start: int, stop: int, batch_size: int, rank: int, world: int) -> None:
        self.start, self.stop, self.batch_size, self.rank, self.world = start, stop, batch_size, rank, world

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[list[int]]:
        per_step = self.batch_size * self.world
        for step in range(self.start, self.stop):
            yield [step * per_step + self.rank + self.world * i for i in range(self.batch_size)]


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _block(n_bytes: int) -> Tensor:
    """Bytes for a batch. A worker takes them from shared memory, as torch's own collation does, and sends no copy."""
    if get_worker_info() is None:
        return torch.empty(n_bytes, dtype=torch.uint8)
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(n_bytes))


def _features(cached: Sequence[tuple[Tensor, ...]], leading: tuple[int, ...], image_size: tuple[int, int]) -> Features:
    """Cached maps (C, h, w) of many images as maps (*leading, C, h, w)."""
    return Features(tuple(torch.stack(m).unflatten(0, leading) for m in zip(*cached, strict=True)), image_size)


def collate(samples: Sequence[_Sample], image_size: tuple[int, int]) -> EpisodeBatch:
    """One batch; supports have the size of the canvas, queries have that or, where a robot clicks, their own.

    All pixels lie in one block, supports before queries and images before maps: every part costs a handle to send.
    """
    n, shots = len(samples), len(samples[0].supports)
    height, width = samples[0].mask.shape
    supports, queries = [support for s in samples for support in s.supports], [s.query for s in samples]
    pictures = [0 if isinstance((part or [()])[0], tuple) else len(part) for part in (supports, queries)]
    shapes = [
        (pictures[0], 3, *image_size),
        (pictures[1], 3, height, width),
        (n * shots, *image_size),
        (n, height, width),
    ]
    block = _block(sum(map(math.prod, shapes)))
    parts = block.split([math.prod(shape) for shape in shapes])
    support_pixels, query_pixels, annotations, masks = (p.view(shape) for p, shape in zip(parts, shapes, strict=True))
    for pixels, images in ((support_pixels, supports), (query_pixels, queries)):
        if len(pixels):
            channels_first(images, pixels.numpy())
    for maps, drawn in ((annotations, [a for s in samples for a in s.annotations]), (masks, [s.mask for s in samples])):
        if len(maps):
            np.stack(drawn, out=maps.numpy())
    return EpisodeBatch(
        support_images=(
            _features(supports, (n, shots), image_size)
            if shots and not pictures[0]
            else support_pixels.view(n, shots, 3, *image_size)
        ),
        support_annotations=annotations.view(n, shots, *image_size),
        query_images=query_pixels if pictures[1] else _features(queries, (n,), image_size),
        query_clicks=pad_clicks([s.clicks for s in samples]),
        query_masks=masks,
        targets=tuple(None if s.target is None else torch.from_numpy(s.target) for s in samples),
        frames=tuple(sample.frame for sample in samples),
        specs=tuple(sample.spec for sample in samples),
        task=samples[0].task,
    )


def collate_groups(groups: Sequence[Sequence[_Sample]], image_size: tuple[int, int]) -> EpisodeBatch:
    """One batch of whole groups."""
    return collate([sample for group in groups for sample in group], image_size)
