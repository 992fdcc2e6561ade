"""Which images train and test a fold, and which episodes are drawn from them. Needs no torch.

A protocol is plain data: a ``TrainingPart`` and an ``EvaluationPart``; ``fewseg.protocols`` names those in use.
Evaluation episodes are frozen lists, known by their SHA-256. Training episode i is a pure function of (seed, i).
The draws of published code bases are repeated with the generators that those used (Python's ``random`` for OSLSM,
PANet and PFENet); everything of ours uses ``numpy.random.RandomState``, whose stream is guaranteed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np

from fewseg.datasets.base import FewShotDataset
from fewseg.datasets.paths import cache_dir, write_atomic
from fewseg.episode import EpisodeSpec, Point, Task
from fewseg.errors import FewsegError
from fewseg.functional.iou import Void
from fewseg.functional.label_maps import (
    annotation_map,
    draw_object_clicks,
    draw_points,
    object_map,
    oslsm_cells,
    random_state,
    sub_seed,
)

Draw = Literal["uniform", "oslsm", "oslsm_every_class", "hsnet", "pfenet", "panet", "every_mask"]
ScoringSize = Literal["original", "longer_square"] | tuple[int, int]
PointMode = Literal["dense", "sparse", "mixed"]
Entry = tuple[str, int]  # (image id, class id): one mask
Target = tuple[str, int]  # (image id, object id): one object

MIXED_COUNTS = (0, 1, 2, 5, 10)  # of annotated pixels, beside the n_points that was asked for
MAX_TRAINING_POINTS = 99  # the guided networks train on 0 to 99 points a label

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class TrainingPart:
    """Which images a fold trains on, and what their pixels mean.

    Args:
        split: list of the data set, where ``image_lists`` is empty.
        heldout: ``"drop"`` leaves out every image with a novel class; ``"background"`` keeps it, novel pixels negative.
        single_class: keep only images that show one class.
        min_area: pixels that a class needs in an image to be drawn from it.
        min_cells: cells of OSLSM's 32-pixel grid that a class needs (see ``oslsm_cells``).
        void: what void pixels are in the loss.
        support_void: what void pixels are in dense support annotations.
        class_balanced: subsample the images of every class to the number of the rarest one.
        hold_out_tenth: keep a tenth of the images, fixed by the SHA-256 of their ids, for model selection.
        classes: ``"base"``, or ``"all"`` for the oracle that has seen the novel classes too.
        image_lists: foreign lists that replace the split.
    """

    split: str = "train"
    heldout: Literal["drop", "background"] = "drop"
    single_class: bool = False
    min_area: int = 1
    min_cells: int = 0
    void: Void = "ignore"
    support_void: Void = "ignore"
    class_balanced: bool = False
    hold_out_tenth: bool = False
    classes: Literal["base", "all"] = "base"
    image_lists: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Interaction:
    """How the object of an interactive episode is annotated in the query.

    Args:
        source: a robot clicks in the region that was segmented wrongly, at its largest inscribed disk (``inscribed``:
            f-BRS, RITM) or in its largest component (``component``: BRS, DIOS); or ``points`` are drawn with the
            episode, ``n_points`` of each label at random (the guided networks).
        n_clicks: of the robot, which does not stop early.
    """

    source: Literal["inscribed", "component", "points"] = "inscribed"
    n_clicks: int = 20


@dataclasses.dataclass(frozen=True)
class Video:
    """Which frames of a video are annotated; every object of the data set's maps is asked for, and all frames follow.

    Args:
        frames: ``first``, the first K frames in order (semi-supervised DAVIS), or ``random``, K frames drawn at random
            from the whole video (interactive video of the guided networks; nested in K).
    """

    frames: Literal["first", "random"] = "first"


@dataclasses.dataclass(frozen=True)
class EvaluationPart:
    """Which episodes test a fold, and how they are scored.

    Args:
        split: list of the data set, where ``image_lists`` is empty.
        draw: how episodes that ask for a class are drawn, see the ``_draw_*`` functions.
        n_episodes: length of the list over all runs; None = every mask once. ``oslsm_every_class`` counts queries here,
            each of which has as many episodes as the fold has classes.
        seed: of the draw.
        min_area: pixels that a class needs in an image to be drawn from it, and an object to be asked for.
        min_cells: cells of OSLSM's 32-pixel grid that a class needs (see ``oslsm_cells``).
        image_lists: foreign lists that replace the split.
        scoring_size: where predictions and masks are compared: the image's size, a square of its longer side (the
            added part is void), or (height, width).
        resize: how queries enter the network's canvas: ``"pad"`` keeps their proportions, ``"stretch"`` does not.
        void: what void pixels are in the metric.
        support_void: what void pixels are in dense support annotations; points are never drawn from void.
        swap_roles: 1-shot episodes exchange query and support (SG-One).
        counts: ``"equal"`` draws as many points of each label in each support; ``"mixed"`` draws the counts as well.
        short_label: a label with fewer pixels than points gives ``"all"`` it has, or ``"none"`` (revolver).
        runs: the list is this many runs in a row, each with its own seed; figures are means over runs.
        threshold: on the foreground probability.
        interaction: how queries are clicked; None where episodes ask for a class, not for an object.
        video: which frames are annotated, where an episode is a whole video; else None.
    """

    split: str = "val"
    draw: Draw = "uniform"
    n_episodes: int | None = 1000
    seed: int = 0
    min_area: int = 1
    min_cells: int = 0
    image_lists: tuple[str, ...] = ()
    scoring_size: ScoringSize = "original"
    resize: Literal["pad", "stretch"] = "pad"
    void: Literal["ignore", "background"] = "ignore"
    support_void: Void = "ignore"
    swap_roles: bool = False
    counts: Literal["equal", "mixed"] = "equal"
    short_label: Literal["all", "none"] = "all"
    runs: int = 1
    threshold: float = 0.5
    interaction: Interaction | None = None
    video: Video | None = None

    @property
    def task(self) -> Task:
        """The task of the episodes."""
        if self.video is not None:
            return "video" if self.video.frames == "first" else "interactive_video"
        return "semantic" if self.interaction is None else "interactive"

    @property
    def robot(self) -> Literal["inscribed", "component"] | None:
        """The robot that clicks, where one does."""
        return None if self.interaction is None or self.interaction.source == "points" else self.interaction.source

    @property
    def support_may_equal_query(self) -> bool:
        """Whether this draw may hand out the query as its own support."""
        return self.draw == "every_mask"

    @property
    def supports_may_repeat(self) -> bool:
        """Whether this draw may hand out the same support twice."""
        return self.draw in ("every_mask", "hsnet")

    def run_of(self, episode: int, n_episodes: int) -> int:
        """The run that episode number ``episode`` of a list of ``n_episodes`` belongs to.

        >>> [EvaluationPart(runs=2).run_of(e, 5) for e in range(5)]
        [0, 0, 0, 1, 1]
        """
        return episode * self.runs // n_episodes


class Protocol(NamedTuple):
    """A named variant of a benchmark; ``note`` says what it reproduces and what it only approximates."""

    name: str
    training: TrainingPart
    evaluation: EvaluationPart
    note: str


class Pool(NamedTuple):
    """What episodes are drawn from: ``by_class`` maps a class id to the ids of images that show enough of it, in the
    list's order; ``images`` are all ids that appear in it, each once.
    """

    by_class: dict[int, tuple[str, ...]]
    images: tuple[str, ...]


class ObjectPool(NamedTuple):
    """What interactive episodes are drawn from, by class id and in the list's order: ``objects``, the (image id, object
    id) of those that are large enough; ``images``, the images that may support the class.
    """

    objects: dict[int, tuple[Target, ...]]
    images: dict[int, tuple[str, ...]]


class TrainingDraw(NamedTuple):
    """One training episode and its annotated pixels per label and support, None = dense."""

    spec: EpisodeSpec
    n_points: int | None


@dataclasses.dataclass(frozen=True)
class EpisodeList:
    """A frozen list of episodes: equal lists have equal text and equal hashes, on every platform.

    >>> episodes = EpisodeList((EpisodeSpec("q", ("s",), 1),))
    >>> EpisodeList.from_text(episodes.text()) == episodes
    True
    """

    specs: tuple[EpisodeSpec, ...]

    def __len__(self) -> int:
        return len(self.specs)

    def text(self) -> str:
        """JSON lines, one episode each."""
        return "".join(spec.to_json() + "\n" for spec in self.specs)

    @functools.cached_property
    def sha256(self) -> str:
        """Hex digest of the text: the name of the list in results."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    @classmethod
    def from_text(cls, text: str) -> EpisodeList:
        """The list that ``text()`` wrote.

        Raises:
            FewsegError: a line is not an episode.
        """
        specs = []
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                specs.append(EpisodeSpec.from_json(line))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                remedy = "take the text that EpisodeList.text() wrote"
                raise FewsegError(f"episode list, line {number}", repr(line[:60]), "one episode", remedy) from error
        return cls(tuple(specs))


def groups(specs: Sequence[EpisodeSpec]) -> list[range]:
    """The places of episodes that are answered together: those of a group, which stand in a row, or one alone.

    A batch and a process get whole groups, because the answers of a group compete for the pixels of their query.

    >>> groups([EpisodeSpec("a", (), 1, group=0), EpisodeSpec("a", (), 2, group=0), EpisodeSpec("b", (), 1)])
    [range(0, 2), range(2, 3)]
    """
    starts = [i for i, spec in enumerate(specs) if i == 0 or spec.group is None or spec.group != specs[i - 1].group]
    return list(map(range, starts, [*starts[1:], len(specs)]))


# --------------------------------------------------------------------------------------------------------- pools


def training_pool(dataset: FewShotDataset, part: TrainingPart, fold: int) -> Pool:
    """What training episodes of a fold are drawn from; the held-out tenth is left out.

    Where a data set's own train and val lists overlap, test images never train, whatever ``heldout`` says.

    Raises:
        FewsegError: an unknown fold, or a foreign list that the data set lacks or cannot serve.
    """
    entries, tenth = _training_entries(dataset, part, fold)
    pool = _pool([e for e in entries if e[0] not in tenth], _training_classes(dataset, part, fold))
    if not part.class_balanced:
        return pool
    rarest = min((len(ids) for ids in pool.by_class.values() if ids), default=0)
    kept = {c: set(_by_hash(ids, c)[:rarest]) for c, ids in pool.by_class.items()}
    return _pool([(i, c) for i, c in entries if i in kept[c]], pool.by_class)


def validation_pool(dataset: FewShotDataset, part: TrainingPart, fold: int) -> Pool:
    """The held-out tenth with the base classes: what model selection may look at.

    Raises:
        FewsegError: a protocol that holds nothing out, or an unknown fold.
    """
    if not part.hold_out_tenth:
        remedy = "use the protocol clean, or take the last step without selection"
        raise FewsegError("protocol", "one that keeps no images for model selection", "hold_out_tenth", remedy)
    entries, tenth = _training_entries(dataset, part, fold)
    base = dataset.base_classes(fold)
    return _pool([(i, c) for i, c in entries if i in tenth and c in base], base)


def evaluation_pool(dataset: FewShotDataset, part: EvaluationPart, fold: int) -> Pool:
    """What test episodes of a fold are drawn from: the novel classes.

    Raises:
        FewsegError: an unknown fold, or a foreign list that the data set lacks or cannot serve.
    """
    _check_fold(dataset, fold)
    novel = dataset.novel_classes(fold)
    return _pool(_entries(dataset, part, novel), novel)


def object_pool(dataset: FewShotDataset, pool: Pool, min_area: int = 1) -> ObjectPool:
    """The objects of the classes and images of a pool.

    Args:
        dataset: knows the objects of its images.
        pool: of a fold, from ``training_pool``, ``validation_pool`` or ``evaluation_pool``.
        min_area: pixels that an object needs.
    """
    index = dataset.object_index()
    objects = {
        c: tuple(
            (image_id, number)
            for image_id in ids
            for number, entry in sorted(index[image_id].items())
            if entry.class_id == c and entry.area >= min_area
        )
        for c, ids in pool.by_class.items()
    }
    return ObjectPool(objects, pool.by_class)


def _training_classes(dataset: FewShotDataset, part: TrainingPart, fold: int) -> tuple[int, ...]:
    return dataset.base_classes(fold) if part.classes == "base" else tuple(range(1, len(dataset.class_names) + 1))


def _training_entries(dataset: FewShotDataset, part: TrainingPart, fold: int) -> tuple[list[Entry], set[str]]:
    """The masks that a fold may train on, and the ids of the tenth that it holds out."""
    _check_fold(dataset, fold)
    areas = dataset.index().areas
    entries = _entries(dataset, part, _training_classes(dataset, part, fold))
    if part.classes == "base":
        novel = set(dataset.novel_classes(fold))
        # a test image that trained as background would have been seen: matters where train and val are one list
        suspects = None if part.heldout == "drop" else set(dataset.ids("val"))
        entries = [(i, c) for i, c in entries if novel.isdisjoint(areas[i]) or not (suspects is None or i in suspects)]
    if part.single_class:
        entries = [(i, c) for i, c in entries if len(areas[i]) == 1]
    images = list(dict.fromkeys(i for i, _ in entries))
    tenth = set(_by_hash(images)[: max(1, len(images) // 10)]) if part.hold_out_tenth else set()
    return entries, tenth


def _entries(dataset: FewShotDataset, part: TrainingPart | EvaluationPart, classes: Collection[int]) -> list[Entry]:
    """The masks of a split or of foreign lists that are large enough, in list order, classes of an image ascending."""
    areas = dataset.index().areas
    listed: list[tuple[str, int | None]] = [(i, None) for i in dataset.ids(part.split)] if not part.image_lists else []
    for name in part.image_lists:
        listed += _foreign_list(dataset, name)
    lacking = [i for i, c in listed if i not in areas or (c is not None and c not in areas[i])]
    if lacking:
        raise FewsegError(
            f"lists of {dataset.name}",
            f"{len(lacking)} of {len(listed)} masks that the data set lacks, the first in {lacking[0]}",
            "every listed image with its listed class",
            "complete the data set, or use the protocol clean",
        )
    entries = [
        (image_id, c)
        for image_id, only in dict.fromkeys(listed)
        for c in (sorted(areas[image_id]) if only is None else (only,))
        if c in classes and areas[image_id][c] >= part.min_area
    ]
    if not part.min_cells:
        return entries
    large = []
    for image_id, group in itertools.groupby(entries, key=lambda entry: entry[0]):
        label = dataset.label(image_id)
        large += [(image_id, c) for _, c in group if oslsm_cells(label == c) >= part.min_cells]
    return large


def _foreign_list(dataset: FewShotDataset, name: str) -> tuple[tuple[str, int | None], ...]:
    reader: Callable[[str], tuple[tuple[str, int | None], ...]] | None = getattr(dataset, "foreign_list", None)
    if reader is None:
        remedy = "use the data set that the list was made for (Pascal5i), or the protocol clean"
        raise FewsegError("protocol", f"one that reads the list {name}", f"a protocol for {dataset.name}", remedy)
    return reader(name)


def _pool(entries: Sequence[Entry], classes: Iterable[int]) -> Pool:
    by_class: dict[int, list[str]] = {c: [] for c in classes}
    for image_id, class_id in entries:
        by_class[class_id].append(image_id)
    return Pool({c: tuple(ids) for c, ids in by_class.items()}, tuple(dict.fromkeys(i for i, _ in entries)))


def _by_class(entries: Sequence[Entry]) -> dict[int, tuple[str, ...]]:
    return _pool(entries, sorted({c for _, c in entries})).by_class


def _by_hash(ids: Iterable[str], *key: int) -> list[str]:
    """Ids in an order that depends on nothing but the ids (and the key)."""
    return sorted(ids, key=lambda i: hashlib.sha256("/".join([*map(str, key), i]).encode()).hexdigest())


# ------------------------------------------------------------------------------------------------ evaluation lists


class _Episode(NamedTuple):
    query_id: str
    support_ids: tuple[str, ...]
    class_id: int
    group: int | None = None
    object_id: int | None = None


def evaluation_list(
    dataset: FewShotDataset,
    protocol: Protocol,
    fold: int,
    n_shot: int,
    n_points: int | None,
    n_episodes: int | None = None,
) -> EpisodeList:
    """The frozen test episodes of a fold.

    Points are nested in P. Episodes are nested in K (K = 5 has the queries of K = 1, and its supports first) where the
    draw is ``uniform``, ``oslsm`` or ``oslsm_every_class``; the other draws use their generator in proportion to K, as
    their authors did. Interactive episodes are nested in K and in P.

    Args:
        dataset: where the images are.
        protocol: which episodes.
        fold: which classes are novel.
        n_shot: K supports; 0 for class-blind methods, and where clicks alone say what is asked for.
        n_points: annotated pixels per label and support, None = dense masks. Where the protocol draws points on the
            query: per label of it, and supports are dense.
        n_episodes: length of the list, in queries where each is asked for every class; None = the protocol's own. A
            list of every mask ends with the last mask, a list of objects with the last object.

    Raises:
        FewsegError: an unknown fold, too few images of a class, or numbers that make no sense.
    """
    part = protocol.evaluation
    _check_request(n_shot, n_points, n_episodes, part)
    _check_fold(dataset, fold)
    if part.interaction is not None:
        if n_shot and not dataset.base_classes(fold):
            expected = f"0 for {dataset.name}, whose objects have no class that other images could show"
            raise FewsegError("n_shot", n_shot, expected, "ask for n_shot 0")
        pool = object_pool(dataset, evaluation_pool(dataset, part, fold), part.min_area)
        _check_objects(pool, n_shot)
        on_query = part.interaction.source == "points"
        episodes = _draw_objects(pool, part, fold, n_shot, part.n_episodes if n_episodes is None else n_episodes)
        frozen = _freeze(dataset, part, episodes, None if on_query else n_points, ("interactive", part.seed, fold))
        return _with_clicks(dataset, frozen, n_points, part.short_label) if on_query and n_points else frozen
    novel = dataset.novel_classes(fold)
    entries = _entries(dataset, part, novel)
    n_supports = 0 if part.support_may_equal_query else min(n_shot, 1) if part.supports_may_repeat else n_shot
    _check_pool(_pool(entries, novel).by_class, n_shot, 1 + n_supports)
    wanted = part.n_episodes if n_episodes is None else n_episodes
    episodes = _DRAWS[part.draw](entries, part, fold, n_shot, len(entries) if wanted is None else wanted)
    if part.swap_roles and n_shot == 1:
        episodes = [_Episode(e.support_ids[0], (e.query_id,), e.class_id) for e in episodes]
    return _freeze(dataset, part, episodes, n_points, ("evaluation", part.seed, fold))


def validation_list(
    dataset: FewShotDataset,
    protocol: Protocol,
    fold: int,
    n_shot: int,
    n_points: int | None,
    n_episodes: int,
) -> EpisodeList:
    """Frozen episodes of base classes on the held-out tenth, for model selection; drawn as the protocol ``clean`` does.

    Base classes with fewer than K + 1 images in the tenth are left out. Where the protocol asks for objects the list
    does so too, once for each, with one positive and one negative pixel drawn at random in the query: what a robot
    clicks depends on the method, and a list shall not.

    Raises:
        FewsegError: a protocol that holds nothing out, no class with enough images, or numbers that make no sense.
    """
    part = protocol.evaluation
    _check_request(n_shot, n_points, n_episodes, part)
    by_class = validation_pool(dataset, protocol.training, fold).by_class
    kept = {c for c, ids in by_class.items() if len(ids) > n_shot}
    if not kept:
        most = max(map(len, by_class.values()), default=0)
        got = f"{n_shot} with at most {most} images of a class in the held-out tenth"
        raise FewsegError("n_shot", got, f"a class with {1 + n_shot}", "lower n_shot, or use a larger data set")
    if part.interaction is not None:
        tenth = Pool({c: by_class[c] for c in sorted(kept)}, ())
        objects, images = object_pool(dataset, tenth, protocol.training.min_area)
        pool = ObjectPool({c: found for c, found in objects.items() if found}, images)
        _check_objects(pool, n_shot)
        drawn = _draw_objects(pool, part, fold, n_shot, n_episodes, "validation")
        frozen = _freeze(dataset, part, drawn, n_points, ("interactive validation", part.seed, fold))
        return _with_clicks(dataset, frozen, 1, "all")
    entries = [(i, c) for c in sorted(kept) for i in by_class[c]]
    episodes = _draw_uniform(entries, part, fold, n_shot, n_episodes, "validation")
    return _freeze(dataset, part, episodes, n_points, ("validation", part.seed, fold))


LIST_VERSION = 1  # raised when the same request would draw another list


def frozen_list(
    kind: Literal["evaluation", "validation"],
    dataset: FewShotDataset,
    protocol: Protocol,
    fold: int,
    n_shot: int,
    n_points: int | None,
    n_episodes: int | None,
) -> EpisodeList:
    """``evaluation_list`` or ``validation_list``, drawn once and kept as text in the cache.

    Drawing points reads the label map of every support. Arguments and errors are theirs.
    """
    request = [LIST_VERSION, kind, dataset.index().fingerprint, protocol, fold, n_shot, n_points, n_episodes]
    if protocol.evaluation.interaction is not None:
        request.append(dataset.object_fingerprint())
    path = cache_dir() / "episodes" / f"{hashlib.sha256(repr(request).encode()).hexdigest()[:24]}.jsonl"
    if path.is_file():
        return EpisodeList.from_text(path.read_text())
    if kind == "evaluation":
        episodes = evaluation_list(dataset, protocol, fold, n_shot, n_points, n_episodes)
    else:
        assert n_episodes is not None, "a validation list has no length of its own"
        episodes = validation_list(dataset, protocol, fold, n_shot, n_points, n_episodes)
    write_atomic(path, episodes.text())
    return episodes


def _freeze(
    dataset: FewShotDataset,
    part: EvaluationPart,
    episodes: Sequence[_Episode],
    n_points: int | None,
    key: tuple[str, int, int],
) -> EpisodeList:
    """Seeds for the episodes and, where supports are sparse, their points. Every support label is read once."""
    areas = dataset.index().areas
    specs = [
        EpisodeSpec(
            e.query_id,
            e.support_ids,
            e.class_id,
            seed=sub_seed(*key, number),
            group=e.group,
            present=e.class_id in areas[e.query_id],
            object_id=e.object_id,
        )
        for number, e in enumerate(episodes)
    ]
    if n_points is None:
        return EpisodeList(tuple(specs))
    uses: dict[str, list[tuple[int, int]]] = defaultdict(list)  # support id -> (episode, shot)
    for number, spec in enumerate(specs):
        for shot, support_id in enumerate(spec.support_ids):
            uses[support_id].append((number, shot))
    points: dict[tuple[int, int], list[Point]] = {}
    for support_id, places in uses.items():
        label = dataset.label(support_id)
        for number, shot in places:
            spec = specs[number]
            counts = n_points if part.counts == "equal" else _mixed_counts(spec.seed, shot, n_points)
            drawn = draw_points(annotation_map(label, spec.class_id), counts, spec.seed + shot, part.short_label)
            points[number, shot] = [Point(shot, *point) for point in drawn]
    return EpisodeList(
        tuple(
            dataclasses.replace(s, points=tuple(p for shot in range(len(s.support_ids)) for p in points[number, shot]))
            for number, s in enumerate(specs)
        )
    )


def _with_clicks(
    dataset: FewShotDataset, episodes: EpisodeList, n_points: int, short_label: Literal["all", "none"]
) -> EpisodeList:
    """The episodes with ``n_points`` random pixels of each label of their object. Every query is read once."""
    objects = functools.lru_cache(1)(lambda i: object_map(dataset.objects(i), dataset.label(i)))
    clicked = list(episodes.specs)
    for place in sorted(range(len(clicked)), key=lambda place: clicked[place].query_id):
        spec = clicked[place]
        assert spec.object_id is not None
        known = annotation_map(objects(spec.query_id), spec.object_id)
        clicks = draw_object_clicks(known, n_points, spec.seed, short_label)
        clicked[place] = dataclasses.replace(spec, clicks=clicks)
    return EpisodeList(tuple(clicked))


def _mixed_counts(seed: int, shot: int, n_points: int) -> tuple[int, int]:
    """(negative, positive) counts of one support; the first support has a positive, so that the task is defined."""
    rng, options = random_state("counts", seed, shot), (*MIXED_COUNTS, n_points)
    return options[rng.randint(len(options))], options[rng.randint(1 if shot == 0 else 0, len(options))]


def _draw_uniform(
    entries: Sequence[Entry],
    part: EvaluationPart,
    fold: int,
    n_shot: int,
    n_episodes: int,
    purpose: str = "evaluation",
) -> list[_Episode]:
    """Ours: classes in turn, the images of a class in turn (shuffled anew each time round), supports uniform.

    Every class and, within a class, every query counts as often as the others, give or take one. Query and order of
    supports are functions of (seed, fold, episode): lists are nested in K and in the number of episodes.
    """
    by_class = _by_class(entries)
    key = (purpose, part.seed, fold)

    @functools.cache
    def order(class_id: int, lap: int) -> list[int]:
        return [int(i) for i in random_state(*key, "queries", class_id, lap).permutation(len(by_class[class_id]))]

    episodes = []
    for e in range(n_episodes):
        turn, which = divmod(e, len(by_class))
        class_id = list(by_class)[which]
        ids = by_class[class_id]
        lap, position = divmod(turn, len(ids))
        query = order(class_id, lap)[position]
        supports = [i for i in random_state(*key, "supports", e).permutation(len(ids)) if i != query]
        episodes.append(_Episode(ids[query], tuple(ids[i] for i in supports[:n_shot]), class_id))
    return episodes


def _draw_objects(
    pool: ObjectPool, part: EvaluationPart, fold: int, n_shot: int, n_episodes: int | None, purpose: str = "evaluation"
) -> list[_Episode]:
    """Ours: classes in turn, the objects of a class shuffled, each once; supports uniform, other images of the class.

    A class whose objects are used up has no more turns and the list ends with the last object, for a robot would click
    the same again. Lists are nested in K and in the number of episodes.
    """
    key = (purpose, part.seed, fold)
    orders = {
        c: [objects[i] for i in random_state(*key, "objects", c).permutation(len(objects))]
        for c, objects in pool.objects.items()
    }
    turns = itertools.zip_longest(*orders.values())
    drawn = [(c, target) for turn in turns for c, target in zip(orders, turn, strict=True) if target is not None]
    episodes = []
    for e, (class_id, (query, object_id)) in enumerate(drawn[:n_episodes]):
        ids = pool.images[class_id]
        others = [ids[i] for i in random_state(*key, "object supports", e).permutation(len(ids)) if ids[i] != query]
        episodes.append(_Episode(query, tuple(others[:n_shot]), class_id, object_id=object_id))
    return episodes


def python2_shuffle(items: list[_T], rng: random.Random) -> None:
    """Shuffles in place as Python 2 did, which Python 3 no longer does.

    >>> items = list(range(10))
    >>> python2_shuffle(items, random.Random(1385))
    >>> items
    [8, 5, 3, 6, 0, 2, 7, 4, 9, 1]
    """
    for i in reversed(range(1, len(items))):
        j = int(rng.random() * (i + 1))
        items[i], items[j] = items[j], items[i]


def _draw_oslsm(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[_Episode]:
    """lzzcd001/OSLSM d5312de: one pass after another over all masks, each pass shuffled; the other masks of the query's
    class are shuffled with the same generator, whatever K is, so 1-shot and 5-shot share queries and first supports.
    """
    rng = random.Random(part.seed)
    ids = _by_class(entries)
    items: list[Entry] = []
    episodes = []
    for e in range(n_episodes):
        if e % len(entries) == 0:
            items = list(entries)
            python2_shuffle(items, rng)
        query, class_id = items[e % len(entries)]
        others = [i for i in ids[class_id] if i != query]
        python2_shuffle(others, rng)
        episodes.append(_Episode(query, tuple(others[:n_shot]), class_id))
    return episodes


def _draw_oslsm_every_class(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_queries: int
) -> list[_Episode]:
    """After section 4.4 of SG-One: the queries of OSLSM's list, each asked for every class of the fold, in one group.

    The class that a query was drawn for keeps OSLSM's supports. Those of the other classes are ours, for no code of
    that test is known: uniform, a function of (seed, fold, query number, class), so that lists stay nested in K and in
    the number of queries.
    """
    ids = _by_class(entries)
    episodes = []
    for number, (query, own, class_id, *_) in enumerate(_draw_oslsm(entries, part, fold, n_shot, n_queries)):
        for c in ids:
            supports = own
            if c != class_id:
                order = random_state("every class", part.seed, fold, number, c).permutation(len(ids[c]))
                supports = tuple(ids[c][i] for i in order if ids[c][i] != query)[:n_shot]
            episodes.append(_Episode(query, supports, c, number))
    return episodes


def _draw_hsnet(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[_Episode]:
    """juhongm999/hsnet 6b1bc12: queries in list order, round and round; supports one by one from the class, drawn again
    where they are the query, so that supports may repeat each other.
    """
    rng = np.random.RandomState(part.seed)
    ids = _by_class(entries)
    episodes = []
    for e in range(n_episodes):
        query, class_id = entries[e % len(entries)]
        supports: list[str] = []
        while len(supports) < n_shot:
            # one of n without replacement uses the generator otherwise than with it: kept as it was
            candidate = ids[class_id][int(rng.choice(len(ids[class_id]), 1, replace=False)[0])]
            if candidate != query:
                supports.append(candidate)
        episodes.append(_Episode(query, tuple(supports), class_id))
    return episodes


def _draw_pfenet(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[_Episode]:
    """After dvlab-research/PFENet a505675: images in list order, round and round, one of the image's novel classes at
    random, then distinct supports by rejection. Its loader's workers made its own lists depend on their number.
    """
    rng = random.Random(part.seed)
    ids = _by_class(entries)
    classes: dict[str, list[int]] = defaultdict(list)
    for image_id, class_id in entries:
        classes[image_id].append(class_id)
    images = list(classes)
    episodes = []
    for e in range(n_episodes):
        query = images[e % len(images)]
        class_id = classes[query][rng.randint(1, len(classes[query])) - 1]
        supports: list[str] = []
        while len(supports) < n_shot:
            candidate = ids[class_id][rng.randint(1, len(ids[class_id])) - 1]
            if candidate != query and candidate not in supports:
                supports.append(candidate)
        episodes.append(_Episode(query, tuple(supports), class_id))
    return episodes


def _draw_panet(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[_Episode]:
    """After kaixin96/PANet 1695bf3: runs with seeds of their own; a class at random, then K + 1 of its images by
    ``random.sample``, the last of which is the query.
    """
    ids = _by_class(entries)
    generators = [random.Random(part.seed + run) for run in range(part.runs)]
    episodes = []
    for e in range(n_episodes):
        rng = generators[part.run_of(e, n_episodes)]
        class_id = rng.sample(list(ids), 1)[0]
        *supports, query = rng.sample(ids[class_id], n_shot + 1)
        episodes.append(_Episode(query, tuple(supports), class_id))
    return episodes


def _draw_every_mask(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[_Episode]:
    """After shelhamer/revolver df5b72b: every mask once, in list order; each support is any image of the class."""
    rng = np.random.RandomState(part.seed)
    ids = _by_class(entries)
    return [
        _Episode(query, tuple(ids[c][int(i)] for i in rng.randint(0, len(ids[c]), n_shot)), c)
        for query, c in entries[:n_episodes]
    ]


_DRAWS: dict[Draw, Callable[[Sequence[Entry], EvaluationPart, int, int, int], list[_Episode]]] = {
    "uniform": _draw_uniform,
    "oslsm": _draw_oslsm,
    "oslsm_every_class": _draw_oslsm_every_class,
    "hsnet": _draw_hsnet,
    "pfenet": _draw_pfenet,
    "panet": _draw_panet,
    "every_mask": _draw_every_mask,
}


# ------------------------------------------------------------------------------------------------------- training


class TrainingSampler:
    """Training episodes without end: ``draw(i)`` is a pure function of (seed, i), so that a training can be resumed.

    Args:
        pool: what to draw from.
        n_shot: K distinct supports, none of which is the query; 0 for class-blind methods.
        points: ``"dense"`` masks; ``"sparse"``, 0 to 99 points a label, uniform (the guided networks); ``"mixed"``,
            ours: dense half of the time, else 1 to 99 points a label, uniform in the logarithm.
        seed: of the training.

    Raises:
        FewsegError: a class has too few images for K, or no class at all.

    >>> sampler = TrainingSampler(Pool({1: ("a", "b")}, ("a", "b")), n_shot=1, points="dense", seed=0)
    >>> sampler.draw(3) == sampler.draw(3)
    True
    """

    def __init__(self, pool: Pool, n_shot: int, points: PointMode, seed: int) -> None:
        if points not in get_args(PointMode):
            raise FewsegError("points", points, "dense, sparse or mixed", "choose one of the three")
        _check_n_shot(n_shot)
        _check_pool(pool.by_class, n_shot, 1 + n_shot)
        self.pool, self.n_shot, self.points, self.seed = pool, n_shot, points, seed
        self._classes = tuple(pool.by_class)
        self._state = np.random.RandomState(0)

    def draw(self, index: int) -> TrainingDraw:
        """Episode number ``index``; points are left to the loader: ``draw_points(..., seed=spec.seed + shot)``."""
        rng = self._state
        rng.seed(sub_seed("training", self.seed, index))  # a tenth of the time of a new RandomState
        class_id = self._classes[rng.randint(len(self._classes))]
        ids = self.pool.by_class[class_id]
        query, *supports = (ids[i] for i in rng.permutation(len(ids))[: self.n_shot + 1])
        spec = EpisodeSpec(query, tuple(supports), class_id, seed=sub_seed("training", self.seed, index, "episode"))
        return TrainingDraw(spec, _training_points(self.points, rng))


class ObjectSampler:
    """Training episodes that ask for one object, without end: ``draw(i)`` is a pure function of (seed, i).

    A class is drawn first and then one of its objects, so that classes count alike. Clicks are left to the loader.

    Args:
        pool: what to draw from.
        n_shot: K distinct supports; 0 where clicks alone say what is asked for.
        points: of the supports, as for ``TrainingSampler``.
        seed: of the training.
        crops: supports are crops of the query, K times; else other images of the object's class.

    Raises:
        FewsegError: a class without an object or with too few images for K, or no class at all.

    >>> sampler = ObjectSampler(ObjectPool({1: (("a", 2),)}, {1: ("a", "b")}), n_shot=1, points="dense", seed=0)
    >>> sampler.draw(3).spec.support_ids, sampler.draw(3).spec.object_id
    (('b',), 2)
    """

    def __init__(self, pool: ObjectPool, n_shot: int, points: PointMode, seed: int, crops: bool = False) -> None:
        if points not in get_args(PointMode):
            raise FewsegError("points", points, "dense, sparse or mixed", "choose one of the three")
        _check_n_shot(n_shot)
        _check_objects(pool, 0 if crops else n_shot)
        self.pool, self.n_shot, self.points, self.seed, self.crops = pool, n_shot, points, seed, crops
        self._classes = tuple(pool.objects)
        self._state = np.random.RandomState(0)

    def draw(self, index: int) -> TrainingDraw:
        """Episode number ``index``."""
        rng = self._state
        rng.seed(sub_seed("training objects", self.seed, index))
        class_id = self._classes[rng.randint(len(self._classes))]
        objects = self.pool.objects[class_id]
        query, object_id = objects[rng.randint(len(objects))]
        seed = sub_seed("training objects", self.seed, index, "episode")
        if self.crops:
            supports = (query,) * self.n_shot
        else:
            ids = self.pool.images[class_id]
            some = rng.permutation(len(ids))[: self.n_shot + 1]  # one more, for the query may be among them
            supports = tuple(ids[i] for i in some if ids[i] != query)[: self.n_shot]
        spec = EpisodeSpec(query, supports, class_id, object_id, seed=seed)
        return TrainingDraw(spec, _training_points(self.points, rng))


def _training_points(points: PointMode, rng: np.random.RandomState) -> int | None:
    """Annotated pixels per label of a training episode, None = dense."""
    if points == "sparse":
        return int(rng.randint(0, MAX_TRAINING_POINTS + 1))
    if points == "dense" or rng.random_sample() < 0.5:
        return None
    count = math.floor(math.exp(rng.random_sample() * math.log(MAX_TRAINING_POINTS + 1)))
    return min(count, MAX_TRAINING_POINTS)  # exp may round up to the excluded end


# --------------------------------------------------------------------------------------------------------- checks


def _check_fold(dataset: FewShotDataset, fold: int) -> None:
    if fold not in range(dataset.n_folds):
        remedy = f"choose one of the {dataset.n_folds} folds"
        raise FewsegError("fold", fold, f"0 to {dataset.n_folds - 1}", remedy)


def _check_n_shot(n_shot: int) -> None:
    if n_shot < 0:
        raise FewsegError("n_shot", n_shot, "0 or more", "ask for a number of supports, 0 for class-blind methods")


def _check_request(n_shot: int, n_points: int | None, n_episodes: int | None, part: EvaluationPart) -> None:
    _check_n_shot(n_shot)
    if n_points is not None and n_points < 0:
        raise FewsegError("n_points", n_points, "0 or more", "ask for a number of pixels, or None for dense masks")
    if part.counts == "mixed" and not n_points:
        got = "dense" if n_points is None else n_points
        remedy = "ask for the largest number of pixels, or use the protocol clean"
        raise FewsegError("n_points", got, "1 or more where counts are mixed", remedy)
    if n_episodes is not None and n_episodes < 1:
        raise FewsegError("n_episodes", n_episodes, "1 or more", "ask for at least one episode")


def _check_pool(by_class: dict[int, tuple[str, ...]], n_shot: int, needed: int) -> None:
    """Every class needs its query and the supports beside it."""
    if not by_class:
        raise FewsegError("pool", "no class", "one or more", "check the fold and the split")
    class_id, ids = min(by_class.items(), key=lambda item: len(item[1]))
    if not ids:
        remedy = "use a data set or split that shows the class, or a protocol with fewer filters"
        raise FewsegError("pool", f"no image of class {class_id}", f"at least {needed} of every class", remedy)
    if len(ids) < needed:
        got = f"{n_shot} with {len(ids)} images of class {class_id}"
        remedy = "lower n_shot, or use a data set or split with more images of the class"
        raise FewsegError("n_shot", got, f"at least {needed} images of every class", remedy)


def _check_objects(pool: ObjectPool, n_shot: int) -> None:
    """Every class needs an object, and as many other images as supports."""
    empty = [c for c in pool.images if not pool.objects[c]]
    if empty:
        got = "no object" if len(empty) == len(pool.images) else f"no object of class {empty[0]}"
        remedy = "use another fold or split, a data set with instances, or a protocol with a smaller min_area"
        raise FewsegError("pool", f"{got} that is large enough", "at least 1 of every class", remedy)
    _check_pool(pool.images, n_shot, 1 + n_shot)
