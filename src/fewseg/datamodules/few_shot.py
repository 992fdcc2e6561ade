"""One data module for every data set and task: episodes in, ``EpisodeBatch`` out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fewseg.datamodules.assembler import (
    CACHE_BYTES,
    Assembler,
    Cache,
    Map,
    Masks,
    Sample,
    TrainEpisodes,
    collate,
    collate_groups,
)
from fewseg.datamodules.feature_cache import build
from fewseg.datasets.base import FewShotDataset
from fewseg.episode import POSITIVE, UNKNOWN, EpisodeBatch, EpisodeSpec, VideoEpisode
from fewseg.errors import FewsegError
from fewseg.evaluation import check_classes, check_finds, check_trains
from fewseg.functional.clicks import ClickSampling, append_error_clicks
from fewseg.functional.label_maps import annotation_map, query_mask, sub_seed
from fewseg.network import SegmentorNetwork
from fewseg.protocols import get_protocol
from fewseg.refinement import check_point
from fewseg.sampling import (
    EpisodeList,
    EvaluationPart,
    InstanceSampler,
    ObjectSampler,
    PointMode,
    TrainingDraw,
    TrainingPart,
    TrainingSampler,
    VideoSampler,
    asked_classes,
    frozen_list,
    groups,
    instance_pool,
    object_pool,
    objects_of,
    search_dataset,
    training_pool,
    video_dataset,
    video_pool,
)
from fewseg.transforms import Augmentation, FitMode, reference_side
from fewseg.transforms import draw_points as draw_map
from fewseg.video_session import check_follows

Item = TypeVar("Item")
RandomBoxes = Literal["none", "truth", "detections"]
Sampling = TrainingSampler | ObjectSampler | VideoSampler | InstanceSampler


class FewShotDataModule(pl.LightningDataModule):
    """Draws, reads, transforms and collates episodes of one fold under one protocol.

    Training episodes are a pure function of (seed, step): neither workers nor a resumed run change them. Evaluation
    episodes come from a frozen list with a SHA-256.

    Args:
        dataset: the images.
        protocol: named variant of the benchmark: clean, clean-mixed, clean-absent, oracle, oslsm, sgone,
            sgone-multiclass, hsnet, pfenet, panet or revolver; for objects interactive, interactive-component,
            interactive-points or thesis; for videos video or interactive-video; for instances one-shot, one-shot-base,
            one-shot-all or one-shot-code.
        fold: which block of classes is novel.
        n_shot: K of the evaluation, annotated frames of a video; 0 is allowed where the query is clicked.
        n_points: annotated pixels per label and support image of the evaluation; null = dense masks. Under
            interactive-points: per label of the query, and supports are dense. In a video every object is a label.
        n_episodes: length of the evaluation list, in queries where each is asked for every class of the fold
            (sgone-multiclass), in videos where these are tested; null = the protocol's.
        n_val_episodes: base-class episodes for model selection; 0 switches validation off.
        train_shot: K of training episodes; 0 where the support is not used.
        train_points: ``dense``, ``sparse`` (uniform over 0..99 points per label) or ``mixed`` (see TrainingSampler).
        train_masks: what a training query's mask holds: the episode's ``class`` (or object), any base class
            (``foreground``) or the base classes' numbers from 1 (``labels``). The last two draw no clicks.
        train_episodes: what training asks for: a class shown by other images (``semantic``); an object that is clicked
            in the query, with ``train_shot`` other images of its class (``interactive``); an object shown by
            ``train_shot`` random crops of the query around it (``crops``, after section 5.2 of the guided networks'
            paper); an object of a video shown by ``train_shot`` of its frames, other objects unknown there (``video``),
            or by as many copies of the query, which ``augmentation`` makes differ, as in a video (``warps``); all
            instances of a class that crops of ``train_shot`` objects show (``instance``); null = what the protocol
            tests. Objects have at least the protocol's ``min_area`` pixels.
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
        frame_size: longer side in pixels of the canvas of a tested video, which has the proportions of its frames;
            null = ``size``.
        budget_mb: memory in MB that a tested video's features may take; the rest of them goes to disk.
        reference_size: side of the square in pixels that crops of reference objects are fitted on; null = 3/16 of
            ``size``, as 192 is of 1024, but at least 32.
        random_boxes: what is scored instead of detections, for a baseline: ``truth`` shifts the objects asked for to
            random places (paper) and runs no network, ``detections`` shifts the detections and permutes their scores
            (code). It concerns tests and predictions only.
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
        frame_size: int | None = None,
        budget_mb: int = 1024,
        reference_size: int | None = None,
        random_boxes: RandomBoxes = "none",
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
            remedy = f"{dataset.name} has {dataset.n_folds} fold{'s' * (dataset.n_folds > 1)}"
            raise FewsegError("--data.fold", fold, wanted, remedy)
        part = get_protocol(protocol).evaluation
        least = {"n_shot": 1 if part.interaction is None else 0, "size": 8, "batch_size": 1, "eval_batch_size": 1}
        least |= {"train_shot": 0, "num_workers": 0, "train_iterations": 0, "refine_from": 1, "budget_mb": 0}
        for name, bound in least.items():
            if locals()[name] < bound:
                raise FewsegError(f"--data.{name}", locals()[name], f"at least {bound}", "raise it")
        if n_points is not None and n_points < 1:
            raise FewsegError("--data.n_points", n_points, "a positive count, or null for dense masks", "change it")
        if n_points is not None and part.search is not None:
            expected = f"null under {protocol}, where references are boxes"
            raise FewsegError("--data.n_points", n_points, expected, "leave it out")
        if n_clicks is not None and n_clicks < 1:
            raise FewsegError("--data.n_clicks", n_clicks, "a positive count, or null for the protocol's", "change it")
        defaults = {"n_clicks": None, "refine": None, "refine_from": 1, "zoom_in": False, "flip": False}
        for name, default in defaults.items():
            if part.robot is None and locals()[name] != default:
                expected = f"{default} under {protocol}, which has no robot"
                remedy = "leave it out, or use the protocol interactive, interactive-component or thesis"
                raise FewsegError(f"--data.{name}", locals()[name], expected, remedy)
        if frame_size is not None and (part.video is None or frame_size < 8):
            expected = "a side of 8 pixels or more" if part.video else f"null under {protocol}, which tests no videos"
            raise FewsegError("--data.frame_size", frame_size, expected, "change it, or leave it out")
        asks: TrainEpisodes = train_episodes or _asked(part)
        if train_iterations and (asks != "interactive" or train_masks != "class"):
            got = f"{train_iterations} beside {asks} episodes and {train_masks} masks"
            remedy = "set it to 0, or train_episodes to interactive and train_masks to class"
            raise FewsegError("--data.train_iterations", got, "0 where training has no clicks", remedy)
        if cache == "features" and asks in ("crops", "instance"):
            remedy = "cache images"
            raise FewsegError("--data.cache", cache, "none or images beside crops, which have no features", remedy)
        if asks == "instance" and augmentation == "full":
            raise FewsegError("--data.augmentation", "full", "none or flip beside instances", "choose flip")
        if asks == "instance" and train_points != "dense":
            raise FewsegError("--data.train_points", train_points, "dense: references are boxes", "leave it out")
        if reference_size is not None and reference_size < 8:
            raise FewsegError("--data.reference_size", reference_size, "8 pixels or more", "raise it, or leave it out")
        if random_boxes != "none" and part.search is None:
            expected = f"none under {protocol}, which asks for no instances"
            raise FewsegError("--data.random_boxes", random_boxes, expected, "leave it out, or use one-shot")
        if asks == "warps" and augmentation == "none":
            remedy = "choose full, or train on crops"
            raise FewsegError("--data.augmentation", "none", "flip or full, which make copies differ", remedy)
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
        self.frame_size, self.budget_mb = frame_size or size, budget_mb
        self.reference_size, self.random_boxes = reference_size or reference_side(size), random_boxes
        limit = CACHE_BYTES // max(1, num_workers)
        self.assembler = Assembler(
            dataset,
            self.protocol,
            fold,
            size=(size, size),
            resize=self.resize,
            augmentation=augmentation,
            masks=train_masks,
            cache=cache,
            limit=limit,
            train_episodes=asks,
            train_clicks=train_clicks,
            reference_size=self.reference_size,
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
        """Checks what only a network says, and builds the feature cache with the encoder of the module about to run."""
        tests = stage in ("test", "predict")
        if self.trainer is not None:
            running = self.trainer.lightning_module
            learner = getattr(running, "network", None)
            check_classes(learner, len(self.dataset.class_names), "--model.n_classes")
            if stage == "fit":
                check_trains(learner, self, type(running).__name__, "--data.")
        if self.refine is not None and tests and self.trainer is not None:
            module: Any = self.trainer.lightning_module
            check_point(module.network, self.refine, "--data.refine", type(module).__name__)
        if self.evaluation_part.search is not None and tests and self.trainer is not None:
            module = self.trainer.lightning_module
            check_finds(module.network, type(module).__name__, "--model")
        if self.evaluation_part.video is not None and self.trainer is not None:
            module = self.trainer.lightning_module
            if isinstance(getattr(module, "network", None), SegmentorNetwork):
                check_follows(module.network, type(module).__name__, "--model")
        if self.cache != "features" or (tests and (self.evaluation_part.robot or self.evaluation_part.video)):
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

    def training_sampler(self) -> Sampling:
        """What draws the training episodes.

        Raises:
            FewsegError: the fold has too few images or objects for them.
        """
        if self.train_episodes == "video":
            videos = video_pool(self.dataset, self.training_part, held_out=False)
            return VideoSampler(videos, self.train_shot, self.train_points, self.seed)
        if self.train_episodes == "instance":
            found = instance_pool(self.dataset, self.training_part, self.fold)
            return InstanceSampler(found, self.train_shot, self.seed)
        pool = training_pool(self.dataset, self.training_part, self.fold)
        if self.train_episodes == "semantic":
            return TrainingSampler(pool, self.train_shot, self.train_points, self.seed)
        objects = object_pool(self.dataset, pool, self.training_part.min_area)
        own_image = self.train_episodes in ("crops", "warps")
        return ObjectSampler(objects, self.train_shot, self.train_points, self.seed, own_image)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Instances go along in training only: what is found is compared with them on the CPU, at original size."""
        training = self.trainer is not None and self.trainer.training
        if training or not isinstance(batch, EpisodeBatch) or batch.instances is None:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        rest = dataclasses.replace(batch, instances=None)
        moved = super().transfer_batch_to_device(rest, device, dataloader_idx)
        return dataclasses.replace(moved, instances=batch.instances)

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

    @property
    def validates(self) -> bool:
        """Whether there are base-class episodes for model selection."""
        held_out = self.training_part.hold_out_tenth or self.evaluation_part.search is not None
        return self.n_val_episodes > 0 and self.train_masks != "labels" and held_out

    def val_dataloader(self) -> DataLoader[EpisodeBatch] | list[Any]:
        """Base-class episodes over images that training never sees; the only ones that model selection may use."""
        if not self.validates:
            return []
        if self.evaluation_part.video is not None and self.train_episodes != "video":
            return []  # trained on images, which have no pairs of frames
        return self._evaluation_loader(self.validation_episodes())

    def test_dataloader(self) -> DataLoader[Any]:
        """The protocol's frozen list for the fold, K and P: batches of episodes, or one video after the other."""
        if self.evaluation_part.video is not None:
            dataset = video_dataset(self.dataset)
            for spec in self.episode_list().specs:
                dataset.check_truth(spec.query_id)
        return self.predict_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """The queries of the test list; videos may lack truth."""
        episodes = self.episode_list()
        if self.evaluation_part.video is None:
            return self._evaluation_loader(episodes)
        videos = _Videos(self, [episodes.specs[place] for group in self._own(episodes) for place in group])
        return DataLoader(videos, batch_size=None)

    def episode_list(self) -> EpisodeList:
        """The frozen evaluation list of this fold, K and P."""
        return frozen_list(
            "evaluation", self.dataset, self.protocol, self.fold, self.n_shot, self.n_points, self.n_episodes
        )

    def validation_episodes(self) -> EpisodeList:
        """The frozen base-class list for model selection: 1-shot dense, or, where the protocol tests objects, one
        positive and one negative click on each query and ``train_shot`` dense supports.
        """
        n_shot = 1 if self.evaluation_part.task in ("semantic", "instance") else self.train_shot
        return frozen_list("validation", self.dataset, self.protocol, self.fold, n_shot, None, self.n_val_episodes)

    def scored_classes(self) -> tuple[int, ...]:
        """The class ids that the test list draws from."""
        if self.evaluation_part.search is not None:
            return asked_classes(self.dataset, self.evaluation_part, self.fold)
        return self.dataset.novel_classes(self.fold)

    def pictures_of_supports(self, spec: EpisodeSpec) -> list[tuple[npt.NDArray[np.uint8], Map]]:
        """Supports (H, W, 3) with their annotation maps (H, W) at original size, for people to look at."""
        if spec.support_objects is not None:
            found = search_dataset(self.dataset)
            crops = [
                found.reference(*reference) for reference in zip(spec.support_ids, spec.support_objects, strict=True)
            ]
            return [(crop, np.full(crop.shape[:2], POSITIVE, np.uint8)) for crop in crops]
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

    def video_of(self, spec: EpisodeSpec) -> VideoEpisode:
        """The video of an evaluation episode; its frames and masks are read when they are asked for.

        Raises:
            FewsegError: a frame or mask is missing, or has another size than the others.
        """
        dataset, part = video_dataset(self.dataset), self.evaluation_part
        dataset.check_layout(spec.query_id)
        ids, numbers = dataset.frames(spec.query_id), range(1, objects_of(dataset, spec, part) + 1)

        def truth(image_id: str) -> Map | None:
            if not dataset.has_mask(image_id):
                return None
            objects = dataset.objects(image_id)
            return np.stack([query_mask(objects, number, part.void) for number in numbers])

        annotations = {}
        for shot, image_id in enumerate(spec.support_ids):
            objects = dataset.objects(image_id)
            if spec.points is not None:
                known = np.full_like(objects, UNKNOWN)
                for point in spec.points:
                    if point.shot == shot:
                        known[point.row, point.col] = point.label
                objects = known
            void = part.support_void if spec.points is None else "ignore"  # unknown pixels, not void ones
            annotations[ids.index(image_id)] = np.stack([annotation_map(objects, number, void) for number in numbers])
        return VideoEpisode(_Lazy(dataset.image, ids), annotations, _Lazy(truth, ids), spec, ids)

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


class _Lazy(Sequence[Item]):
    """What a function reads for each of some images, when it is asked for."""

    def __init__(self, read: Callable[[str], Item], ids: Sequence[str]) -> None:
        self.read, self.ids = read, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: Any) -> Any:
        return [self.read(image_id) for image_id in self.ids[i]] if isinstance(i, slice) else self.read(self.ids[i])


class _Videos(Dataset[VideoEpisode]):
    """The videos of a frozen list."""

    def __init__(self, data: FewShotDataModule, specs: Sequence[EpisodeSpec]) -> None:
        self.data, self.specs = data, specs

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, i: int) -> VideoEpisode:
        return self.data.video_of(self.specs[i])


class _Training(Dataset[Sample]):
    """Training episode i, drawn when it is asked for."""

    def __init__(self, assembler: Assembler, sampler: Sampling) -> None:
        self.assembler, self.sampler = assembler, sampler

    def __getitem__(self, i: int) -> Sample:
        draw: TrainingDraw = self.sampler.draw(i)
        return self.assembler.assemble(draw.spec, draw.n_points, training=True)


class _Evaluation(Dataset[list[Sample]]):
    """The episodes of a frozen list, by group."""

    def __init__(self, assembler: Assembler, specs: Sequence[Sequence[EpisodeSpec]]) -> None:
        self.assembler, self.specs = assembler, specs

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, i: int) -> list[Sample]:
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


def _asked(part: EvaluationPart) -> TrainEpisodes:
    """What training asks for where it is to ask for what the protocol tests."""
    if part.video is not None:
        return "video"
    if part.search is not None:
        return "instance"
    return "semantic" if part.interaction is None else "interactive"


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
