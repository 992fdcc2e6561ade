"""Frozen lists of evaluation and validation episodes, known by their SHA-256 and kept as text in the cache."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from fewseg.datasets.base import FewShotDataset
from fewseg.datasets.paths import cache_dir, write_atomic
from fewseg.datasets.video import VideoDataset
from fewseg.episode import EpisodeSpec, Point
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import (
    annotation_map,
    draw_object_clicks,
    draw_points,
    object_map,
    random_state,
    sub_seed,
)
from fewseg.sampling.draws import DRAWS, draw_objects, draw_uniform, with_absent_queries
from fewseg.sampling.instances import held_out_list, instance_list
from fewseg.sampling.parts import Episode, EvaluationPart, ObjectPool, Pool, Protocol
from fewseg.sampling.pools import (
    check_fold,
    check_n_shot,
    check_objects,
    check_pool,
    evaluation_pool,
    find_masks,
    images_without,
    object_pool,
    pool_of,
    validation_pool,
)
from fewseg.sampling.videos import pair_list, video_dataset, video_list, video_stamp

LIST_VERSION = 1  # raised when the same request would draw another list
MIXED_COUNTS = (0, 1, 2, 5, 10)  # of annotated pixels, beside the n_points that was asked for


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
    their authors did. Interactive episodes are nested in K and in P. Those of videos are so too, see ``video_list``;
    those that ask for instances are nested in K, see ``instance_list``.

    Args:
        dataset: where the images are.
        protocol: which episodes.
        fold: which classes are novel.
        n_shot: K supports; 0 for class-blind methods, and where clicks alone say what is asked for.
        n_points: annotated pixels per label and support, None = dense masks. Where the protocol draws points on the
            query: per label of it, and supports are dense. In videos every object is a label. None where references
            ask for instances.
        n_episodes: length of the list, in queries where each is asked for every class; None = the protocol's own. A
            list of every mask ends with the last mask, one of objects with the last object, one of videos with the
            last video, one of instances with the last image.

    Raises:
        FewsegError: an unknown fold, too few images of a class, numbers that make no sense, or what ``video_list`` or
            ``instance_list`` finds wrong.
    """
    part = protocol.evaluation
    _check_request(n_shot, n_points, n_episodes, part)
    check_fold(dataset, fold)
    if part.search is not None:
        wanted = part.n_episodes if n_episodes is None else n_episodes
        return EpisodeList(instance_list(dataset, part, fold, n_shot, wanted))
    if part.video is not None:
        wanted = part.n_episodes if n_episodes is None else n_episodes
        return EpisodeList(video_list(dataset, part, n_shot, n_points, wanted))
    if part.interaction is not None:
        if n_shot and not dataset.base_classes(fold):
            expected = f"0 for {dataset.name}, whose objects have no class that other images could show"
            remedy = "ask for n_shot 0"
            if isinstance(dataset, VideoDataset):
                remedy += ", or choose the protocol video or interactive-video"
            raise FewsegError("n_shot", n_shot, expected, remedy)
        pool = object_pool(dataset, evaluation_pool(dataset, part, fold), part.min_area)
        check_objects(pool, n_shot)
        on_query = part.interaction.source == "points"
        episodes = draw_objects(pool, part, fold, n_shot, part.n_episodes if n_episodes is None else n_episodes)
        frozen = _freeze(dataset, part, episodes, None if on_query else n_points, ("interactive", part.seed, fold))
        return _with_clicks(dataset, frozen, n_points, part.short_label) if on_query and n_points else frozen
    novel = dataset.novel_classes(fold)
    entries = find_masks(dataset, part, novel)
    masks = pool_of(entries, novel)
    n_supports = 0 if part.support_may_equal_query else min(n_shot, 1) if part.supports_may_repeat else n_shot
    check_pool(masks.by_class, n_shot, 1 + n_supports)
    wanted = part.n_episodes if n_episodes is None else n_episodes
    episodes = DRAWS[part.draw](entries, part, fold, n_shot, len(entries) if wanted is None else wanted)
    if part.swap_roles and n_shot == 1:
        episodes = [Episode(e.support_ids[0], (e.query_id,), e.class_id) for e in episodes]
    if part.absent is not None:
        episodes = with_absent_queries(episodes, part, fold, images_without(dataset, part, masks))
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
    clicks depends on the method, and a list shall not. Where the protocol asks for videos, see ``pair_list``. Where it
    asks for instances, the images are the data set's own list for model selection: see ``held_out_list``.

    Raises:
        FewsegError: a protocol that holds nothing out, no class with enough images, or numbers that make no sense.
    """
    part = protocol.evaluation
    _check_request(n_shot, n_points, n_episodes, part)
    if part.search is not None:
        return EpisodeList(held_out_list(dataset, part, fold, n_shot, n_episodes))
    if part.video is not None:
        return EpisodeList(pair_list(dataset, protocol, n_shot, n_points, n_episodes))
    by_class = validation_pool(dataset, protocol.training, fold).by_class
    kept = {c for c, ids in by_class.items() if len(ids) > n_shot}
    if not kept:
        most = max(map(len, by_class.values()), default=0)
        got = f"{n_shot} with at most {most} images of a class in the held-out tenth"
        name, remedy = "n_shot", "switch validation off (n_val_episodes 0), or use a larger data set"
        if part.interaction is not None:
            name, remedy = "train_shot", f"lower train_shot, {remedy}"
        raise FewsegError(name, got, f"a class with {1 + n_shot}", remedy)
    if part.interaction is not None:
        tenth = Pool({c: by_class[c] for c in sorted(kept)}, ())
        objects, images = object_pool(dataset, tenth, protocol.training.min_area)
        pool = ObjectPool({c: found for c, found in objects.items() if found}, images)
        check_objects(pool, n_shot)
        drawn = draw_objects(pool, part, fold, n_shot, n_episodes, "validation")
        frozen = _freeze(dataset, part, drawn, n_points, ("interactive validation", part.seed, fold))
        return _with_clicks(dataset, frozen, 1, "all")
    entries = [(i, c) for c in sorted(kept) for i in by_class[c]]
    episodes = draw_uniform(entries, part, fold, n_shot, n_episodes, "validation")
    return _freeze(dataset, part, episodes, n_points, ("validation", part.seed, fold))


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
    return EpisodeList.from_text(frozen_text(kind, dataset, protocol, fold, n_shot, n_points, n_episodes))


def frozen_text(
    kind: Literal["evaluation", "validation"],
    dataset: FewShotDataset,
    protocol: Protocol,
    fold: int,
    n_shot: int,
    n_points: int | None,
    n_episodes: int | None,
) -> str:
    """The text of ``frozen_list``, whose hash names the list and which has a line for each episode."""
    part = protocol.evaluation
    videos = None if part.video is None else video_dataset(dataset)
    request = [LIST_VERSION, kind, dataset.index().fingerprint, protocol, fold, n_shot, n_points, n_episodes]
    if part.task != "semantic":
        request.append(dataset.object_fingerprint())
    if videos is not None:
        split = part.split if kind == "evaluation" else protocol.training.split
        request.append(video_stamp(videos, split))
    path = cache_dir() / "episodes" / f"{hashlib.sha256(repr(request).encode()).hexdigest()[:24]}.jsonl"
    if path.is_file():
        return path.read_text()
    if kind == "evaluation":
        episodes = evaluation_list(dataset, protocol, fold, n_shot, n_points, n_episodes)
    else:
        assert n_episodes is not None, "a validation list has no length of its own"
        episodes = validation_list(dataset, protocol, fold, n_shot, n_points, n_episodes)
    text = episodes.text()
    write_atomic(path, text)
    return text


def _freeze(
    dataset: FewShotDataset,
    part: EvaluationPart,
    episodes: Sequence[Episode],
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


def _check_request(n_shot: int, n_points: int | None, n_episodes: int | None, part: EvaluationPart) -> None:
    check_n_shot(n_shot)
    if n_points is not None and n_points < 0:
        raise FewsegError("n_points", n_points, "0 or more", "ask for a number of pixels, or None for dense masks")
    if part.search is not None and n_points is not None:
        raise FewsegError("n_points", n_points, "None, dense only: references are boxes", "leave n_points out")
    if part.counts == "mixed" and not n_points:
        got = "dense" if n_points is None else n_points
        remedy = "ask for the largest number of pixels, or use the protocol clean"
        raise FewsegError("n_points", got, "1 or more where counts are mixed", remedy)
    if n_episodes is not None and n_episodes < 1:
        raise FewsegError("n_episodes", n_episodes, "1 or more", "ask for at least one episode")
    if part.absent is not None:
        alone = part.task == "semantic" and part.draw != "oslsm_every_class"
        if not (alone and 0 < part.absent < 1):
            expected = "a share between 0 and 1, where episodes ask for a class and each by itself; else None"
            raise FewsegError("absent", part.absent, expected, "correct the protocol")
