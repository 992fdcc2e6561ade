"""How evaluation episodes are drawn: those of published code bases, step by step, and ours.

Published draws use the generators that their authors used (Python's ``random`` for OSLSM, PANet and PFENet), ours
``numpy.random.RandomState``, whose stream is guaranteed.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from fewseg.functional.label_maps import random_state
from fewseg.sampling.parts import Draw, Entry, Episode, EvaluationPart, ObjectPool
from fewseg.sampling.pools import by_class_of

_T = TypeVar("_T")


def draw_uniform(
    entries: Sequence[Entry],
    part: EvaluationPart,
    fold: int,
    n_shot: int,
    n_episodes: int,
    purpose: str = "evaluation",
) -> list[Episode]:
    """Ours: classes in turn, the images of a class in turn (shuffled anew each time round), supports uniform.

    Every class and, within a class, every query counts as often as the others, give or take one. Query and order of
    supports are functions of (seed, fold, episode): lists are nested in K and in the number of episodes.
    """
    by_class = by_class_of(entries)
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
        episodes.append(Episode(ids[query], tuple(ids[i] for i in supports[:n_shot]), class_id))
    return episodes


def with_absent_queries(
    episodes: Sequence[Episode], part: EvaluationPart, fold: int, others: Mapping[int, Sequence[str]]
) -> list[Episode]:
    """Ours: a share ``part.absent`` of the episodes get a query that does not show their class; nothing else changes.

    Every class has this share, give or take one episode. Classes start one turn after another, so that they do not all
    lack their query at once. The images of ``others`` take turns, shuffled anew each time round. What becomes of an
    episode depends on those before it only, and not on supports, so that lists stay nested.

    Args:
        episodes: as they were drawn.
        part: with a share.
        fold: of the list.
        others: by class id, the images without the class.
    """
    share = part.absent
    assert share is not None
    seen: dict[int, int] = {}
    changed = []
    for episode in episodes:
        c = episode.class_id
        start = list(seen).index(c) if c in seen else len(seen)
        turn = seen[c] = seen.get(c, -1) + 1
        before, after = (math.floor((start + t) * share) for t in (turn, turn + 1))
        if after > before:
            lap, position = divmod(before - math.floor(start * share), len(others[c]))
            order = random_state("absent", part.seed, fold, c, lap).permutation(len(others[c]))
            episode = episode._replace(query_id=others[c][order[position]])
        changed.append(episode)
    return changed


def draw_objects(
    pool: ObjectPool, part: EvaluationPart, fold: int, n_shot: int, n_episodes: int | None, purpose: str = "evaluation"
) -> list[Episode]:
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
        episodes.append(Episode(query, tuple(others[:n_shot]), class_id, object_id=object_id))
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
) -> list[Episode]:
    """lzzcd001/OSLSM d5312de: one pass after another over all masks, each pass shuffled; the other masks of the query's
    class are shuffled with the same generator, whatever K is, so 1-shot and 5-shot share queries and first supports.
    """
    rng = random.Random(part.seed)
    ids = by_class_of(entries)
    items: list[Entry] = []
    episodes = []
    for e in range(n_episodes):
        if e % len(entries) == 0:
            items = list(entries)
            python2_shuffle(items, rng)
        query, class_id = items[e % len(entries)]
        others = [i for i in ids[class_id] if i != query]
        python2_shuffle(others, rng)
        episodes.append(Episode(query, tuple(others[:n_shot]), class_id))
    return episodes


def _draw_oslsm_every_class(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_queries: int
) -> list[Episode]:
    """After section 4.4 of SG-One: the queries of OSLSM's list, each asked for every class of the fold, in one group.

    The class that a query was drawn for keeps OSLSM's supports. Those of the other classes are ours, for no code of
    that test is known: uniform, a function of (seed, fold, query number, class), so that lists stay nested in K and in
    the number of queries.
    """
    ids = by_class_of(entries)
    episodes = []
    for number, (query, own, class_id, *_) in enumerate(_draw_oslsm(entries, part, fold, n_shot, n_queries)):
        for c in ids:
            supports = own
            if c != class_id:
                order = random_state("every class", part.seed, fold, number, c).permutation(len(ids[c]))
                supports = tuple(ids[c][i] for i in order if ids[c][i] != query)[:n_shot]
            episodes.append(Episode(query, supports, c, number))
    return episodes


def _draw_hsnet(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[Episode]:
    """juhongm999/hsnet 6b1bc12: queries in list order, round and round; supports one by one from the class, drawn again
    where they are the query, so that supports may repeat each other.
    """
    rng = np.random.RandomState(part.seed)
    ids = by_class_of(entries)
    episodes = []
    for e in range(n_episodes):
        query, class_id = entries[e % len(entries)]
        supports: list[str] = []
        while len(supports) < n_shot:
            # one of n without replacement uses the generator otherwise than with it: kept as it was
            candidate = ids[class_id][int(rng.choice(len(ids[class_id]), 1, replace=False)[0])]
            if candidate != query:
                supports.append(candidate)
        episodes.append(Episode(query, tuple(supports), class_id))
    return episodes


def _draw_pfenet(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[Episode]:
    """After dvlab-research/PFENet a505675: images in list order, round and round, one of the image's novel classes at
    random, then distinct supports by rejection. Its loader's workers made its own lists depend on their number.
    """
    rng = random.Random(part.seed)
    ids = by_class_of(entries)
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
        episodes.append(Episode(query, tuple(supports), class_id))
    return episodes


def _draw_panet(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[Episode]:
    """After kaixin96/PANet 1695bf3: runs with seeds of their own; a class at random, then K + 1 of its images by
    ``random.sample``, the last of which is the query.
    """
    ids = by_class_of(entries)
    generators = [random.Random(part.seed + run) for run in range(part.runs)]
    episodes = []
    for e in range(n_episodes):
        rng = generators[part.run_of(e, n_episodes)]
        class_id = rng.sample(list(ids), 1)[0]
        *supports, query = rng.sample(ids[class_id], n_shot + 1)
        episodes.append(Episode(query, tuple(supports), class_id))
    return episodes


def _draw_every_mask(
    entries: Sequence[Entry], part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> list[Episode]:
    """After shelhamer/revolver df5b72b: every mask once, in list order; each support is any image of the class."""
    rng = np.random.RandomState(part.seed)
    ids = by_class_of(entries)
    return [
        Episode(query, tuple(ids[c][int(i)] for i in rng.randint(0, len(ids[c]), n_shot)), c)
        for query, c in entries[:n_episodes]
    ]


DRAWS: dict[Draw, Callable[[Sequence[Entry], EvaluationPart, int, int, int], list[Episode]]] = {
    "uniform": draw_uniform,
    "oslsm": _draw_oslsm,
    "oslsm_every_class": _draw_oslsm_every_class,
    "hsnet": _draw_hsnet,
    "pfenet": _draw_pfenet,
    "panet": _draw_panet,
    "every_mask": _draw_every_mask,
}
