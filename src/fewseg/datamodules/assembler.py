"""From the spec of an episode to its arrays, and from assembled episodes to an ``EpisodeBatch``."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from fewseg.datamodules.feature_cache import FeatureCache
from fewseg.datasets.base import AnnotatedInstance, FewShotDataset
from fewseg.episode import (
    NEGATIVE,
    NO_CLICK,
    POSITIVE,
    UNKNOWN,
    VOID,
    Box,
    EpisodeBatch,
    EpisodeSpec,
    Features,
    Frame,
    Instances,
    Task,
)
from fewseg.functional.clicks import ClickSampling, pad_clicks, sample_clicks
from fewseg.functional.label_maps import annotation_map, draw_points, object_map, query_mask, sub_seed
from fewseg.sampling import Protocol, search_dataset
from fewseg.transforms import (
    Augment,
    Augmentation,
    FitMode,
    channels_first,
    crop_around,
    fit,
    fit_reference,
    frame_of,
    move_points,
)
from fewseg.transforms import draw_points as draw_map

Map = npt.NDArray[np.uint8]
Masks = Literal["class", "foreground", "labels"]
Cache = Literal["none", "images", "features"]
TrainEpisodes = Literal["semantic", "interactive", "crops", "warps", "video", "instance"]
Clicks = Sequence[tuple[int, int, int]]  # (row, col, label) in the canvas
CACHE_BYTES = 4 * 10**9  # of decoded files that the processes of one loader keep together

OTHERS, INSIDE_VOID = 2, 3  # beside 0, 1 and 255 = outside the image, while a training query is augmented
NO_CLICKS = ((0, 0, NO_CLICK),)  # one row of padding: that nothing was clicked is an annotation too


@dataclasses.dataclass(frozen=True)
class Sample:
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
    instances: Instances | None = None


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


class Assembler:
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
        reference_size: side of the square that references are fitted on.
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
        reference_size: int = 192,
    ) -> None:
        self.reference_size = reference_size
        self.dataset, self.protocol, self.fold = dataset, protocol, fold
        self.size, self.resize, self.masks = size, resize, masks
        self.augment, self.leave = Augment(augmentation), Augment("none")
        # searches read images alone, all other episodes pairs; who trains on one and tests the other keeps both
        share = limit // len({train_episodes == "instance", protocol.evaluation.search is not None})
        self.pair: Callable[[str], Any] = _Memory(dataset.pair, share) if cache == "images" else dataset.pair
        self.image: Callable[[str], Any] = _Memory(dataset.image, share) if cache == "images" else dataset.image
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

    def assemble(self, spec: EpisodeSpec, n_points: int | None = None, training: bool = False) -> Sample:
        """One episode: training draws points and clicks and augments, evaluation does what the spec says.

        Everything is at network size, but for the query of an episode that the robot clicks.
        """
        if spec.support_objects is not None:
            return self._search(spec, training)
        part = self.protocol.training if training else self.protocol.evaluation
        robot = not training and self.robot_clicks(spec)
        pair = self.train_episodes in ("warps", "video") if training else self.protocol.evaluation.video is not None
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
                if pair:
                    dense = _only_object(object_map(self.objects(image_id), shown), number)
                else:
                    dense = annotation_map(shown, spec.class_id, void)
            if n_points is not None:
                points = draw_points(dense, n_points, spec.seed + shot, self.protocol.evaluation.short_label)
            support, annotation = self._place(image_id, pixels, dense, points, seed, training)
            supports.append(support)
            annotations.append(annotation)
        if training and spec.object_id is not None and self.masks == "class" and not pair:
            return self._training_object(spec, image, asked, supports, annotations)
        if training and not (pair and self.masks == "class"):
            mask = self._training_mask(label, spec)
        else:
            mask = query_mask(asked, number, part.void)
        if robot:
            frame = Frame(mask.shape, mask.shape, Box(0, 0, *mask.shape))
            return Sample(supports, annotations, image, mask, mask, frame, spec, task="interactive")
        target, frame = (None, frame_of(label.shape, self.size, self.resize)) if training else self._target(mask)
        query, mask = self._place(spec.query_id, image, mask, None, spec.seed, training)
        if training or pair or spec.object_id is None:
            return Sample(supports, annotations, query, mask, target, frame, spec)
        clicks = self._given_clicks(spec, query_mask(asked, number))
        return Sample(supports, annotations, query, mask, target, frame, spec, clicks, "interactive")

    def _search(self, spec: EpisodeSpec, training: bool) -> Sample:
        """An episode that asks for all instances of a class: references are crops, annotated all over.

        Instances are on the canvas in training, and only those of classes that train; else at original size, all.
        """
        dataset, part = search_dataset(self.dataset), self.protocol.training if training else self.protocol.evaluation
        supports, annotations = [], []
        for shot, (image_id, number) in enumerate(zip(spec.support_ids, spec.support_objects or (), strict=True)):
            crop = self.image(image_id)[dataset.reference_pixels(image_id, number)]
            pixels, annotation = fit_reference(crop, self.reference_size)
            out = (self.augment if training else self.leave)(pixels, annotation, (), spec.seed + 7919 * (shot + 1))
            supports.append(out.image)
            annotations.append(np.asarray(out.label_map))
        image = self.image(spec.query_id)
        frame = frame_of(image.shape[:2], self.size, self.resize)
        if training and self.masks != "class":
            label = self.label(spec.query_id)
            query, mask = self._place(spec.query_id, image, self._training_mask(label, spec), None, spec.seed, True)
            return Sample(supports, annotations, query, mask, None, frame, spec, task="instance")
        annotated = dataset.instances(spec.query_id)
        asked = np.zeros(image.shape[:2], np.uint8)
        for one in sorted(annotated, key=lambda one: not one.crowd):  # an object shows in front of a crowd
            if one.class_id == spec.class_id:
                asked[one.mask] = VOID if one.crowd else POSITIVE
        if part.void != "ignore":
            asked[asked == VOID] = part.void == "foreground"
        query, mask = self._place(spec.query_id, image, asked, None, spec.seed, training)
        if not training:
            truth = annotated_instances(annotated, image.shape[:2])
            target, frame = self._target(asked)
            return Sample(supports, annotations, query, mask, target, frame, spec, task="instance", instances=truth)
        trained = [one for one in annotated if self._base_numbers[one.class_id]]
        whole = annotated_instances(trained, image.shape[:2])
        placed = on_canvas(whole, frame, self.resize, self.augment.flipped(spec.seed))
        return Sample(supports, annotations, query, mask, None, frame, spec, task="instance", instances=placed)

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
    ) -> Sample:
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
            return Sample(supports, annotations, query, mask, None, frame, spec)
        known = np.where(placed == INSIDE_VOID, VOID, mask)
        rng = np.random.RandomState(sub_seed("training clicks", spec.seed))
        clicks = sample_clicks(known, self.train_clicks, rng, placed == OTHERS) or NO_CLICKS
        return Sample(supports, annotations, query, mask, None, frame, spec, clicks, "interactive")

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


def annotated_instances(annotated: Sequence[AnnotatedInstance], size: tuple[int, int]) -> Instances:
    """Annotated instances of an image of (H, W) = ``size`` as tensors; boxes are as annotated."""
    height, width = size
    boxes = torch.tensor([one.box for one in annotated], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = np.stack([one.mask for one in annotated]) if annotated else np.zeros((0, height, width), bool)
    return Instances(
        boxes=boxes,
        masks=torch.from_numpy(masks.astype(np.uint8)),
        labels=torch.tensor([one.class_id for one in annotated], dtype=torch.int64),
        crowd=torch.tensor([one.crowd for one in annotated], dtype=torch.bool),
    )


def on_canvas(instances: Instances, frame: Frame, resize: FitMode, flipped: bool) -> Instances:
    """Instances of an image on the network's canvas.

    Those that are less than a pixel wide or high there, or have no pixel left, are left out.

    Args:
        instances: in the pixels of the original image.
        frame: how the image lies in the canvas.
        resize: how it came there.
        flipped: whether the canvas was mirrored afterwards.
    """
    height, width = frame.original
    scale = torch.tensor([frame.box.width / width, frame.box.height / height], dtype=torch.float64).repeat(2)
    corner = torch.tensor([frame.box.left, frame.box.top], dtype=torch.float64).repeat(2)
    moved = dataclasses.replace(instances, boxes=instances.boxes * scale + corner)
    wide = moved.where(((moved.boxes[:, 2:] - moved.boxes[:, :2]) >= 1).all(1))
    fitted = [fit(None, mask.numpy(), frame.network, resize)[1] == POSITIVE for mask in wide.masks]
    masks = np.stack(fitted) if fitted else np.zeros((0, *frame.network), bool)
    boxes = wide.boxes.float()
    if flipped:
        masks = masks[:, :, ::-1]
        boxes[:, [0, 2]] = frame.network[1] - boxes[:, [2, 0]]
    pixels = torch.from_numpy(np.ascontiguousarray(masks, np.uint8))
    return dataclasses.replace(wide, boxes=boxes, masks=pixels).where(pixels.bool().flatten(1).any(1))


def _only_object(objects: Map, number: int) -> Map:
    """The annotation (H, W) of one object where nothing is said about the others: they are unknown, as void is."""
    table = np.full(256, UNKNOWN, np.uint8)
    table[0], table[number] = NEGATIVE, POSITIVE
    return table[objects]


def _block(n_bytes: int) -> Tensor:
    """Bytes for a batch. A worker takes them from shared memory, as torch's own collation does, and sends no copy."""
    if get_worker_info() is None:
        return torch.empty(n_bytes, dtype=torch.uint8)
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(n_bytes))


def _features(cached: Sequence[tuple[Tensor, ...]], leading: tuple[int, ...], image_size: tuple[int, int]) -> Features:
    """Cached maps (C, h, w) of many images as maps (*leading, C, h, w)."""
    return Features(tuple(torch.stack(m).unflatten(0, leading) for m in zip(*cached, strict=True)), image_size)


def collate(samples: Sequence[Sample], image_size: tuple[int, int]) -> EpisodeBatch:
    """One batch; supports have the size of the canvas or that of references, queries that or, for a robot, their own.

    All pixels lie in one block, supports before queries and images before maps: every part costs a handle to send.
    Instances, whose number and size differ, travel beside the block.
    """
    n, shots = len(samples), len(samples[0].supports)
    found: list[Any] = [sample.instances for sample in samples]
    height, width = samples[0].mask.shape
    supports, queries = [support for s in samples for support in s.supports], [s.query for s in samples]
    support_size = samples[0].annotations[0].shape if shots else image_size
    pictures = [0 if isinstance((part or [()])[0], tuple) else len(part) for part in (supports, queries)]
    shapes = [
        (pictures[0], 3, *support_size),
        (pictures[1], 3, height, width),
        (n * shots, *support_size),
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
            else support_pixels.view(n, shots, 3, *support_size)
        ),
        support_annotations=annotations.view(n, shots, *support_size),
        query_images=query_pixels if pictures[1] else _features(queries, (n,), image_size),
        query_clicks=pad_clicks([s.clicks for s in samples]),
        query_masks=masks,
        targets=tuple(None if s.target is None else torch.from_numpy(s.target) for s in samples),
        frames=tuple(sample.frame for sample in samples),
        specs=tuple(sample.spec for sample in samples),
        instances=None if found[0] is None else tuple(found),
        task=samples[0].task,
    )


def collate_groups(groups: Sequence[Sequence[Sample]], image_size: tuple[int, int]) -> EpisodeBatch:
    """One batch of whole groups."""
    return collate([sample for group in groups for sample in group], image_size)
