"""Images and classes whose instances are asked for, and the objects that are cropped out as references."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, takewhile
from typing import NamedTuple

import numpy as np

from fewseg.datasets.base import FewShotDataset
from fewseg.datasets.coco import HELD_OUT, Coco20i
from fewseg.episode import EpisodeSpec
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import random_state, sub_seed
from fewseg.sampling.parts import EvaluationPart, Protocol, Search, Target, TrainingDraw, TrainingPart
from fewseg.sampling.pools import check_fold, check_n_shot, order_by_hash, training_classes, validation_pool

_MORE_HELD_OUT = "use CocoOneShot or ShapesCoco with a larger n_held_out, or switch validation off (n_val_episodes 0)"


class InstancePool(NamedTuple):
    """What training episodes that ask for instances are drawn from.

    ``classes`` maps the id of an image to the classes that it shows and that train, ascending, in the order of the
    list; ``objects`` maps each of these classes to its objects in these images.
    """

    classes: dict[str, tuple[int, ...]]
    objects: dict[int, tuple[Target, ...]]


def search_dataset(dataset: FewShotDataset) -> Coco20i:
    """The data set itself, which must have annotated instances with boxes.

    Raises:
        FewsegError: it has none.
    """
    if not isinstance(dataset, Coco20i):
        raise _no_instances(type(dataset))
    return dataset


def check_search(kind: type[FewShotDataset], protocol: Protocol) -> None:
    """Checks that data sets of a class can be tested under a protocol, before one is made and perhaps generated.

    Raises:
        FewsegError: the protocol asks for instances, and the class has none.

    >>> from fewseg.datasets import Coco20i
    >>> check_search(Coco20i, Protocol("mine", TrainingPart(), EvaluationPart(search=Search()), ""))
    """
    if protocol.evaluation.search is not None and not issubclass(kind, Coco20i):
        raise _no_instances(kind)


def _no_instances(kind: type[FewShotDataset]) -> FewsegError:
    got = f"{kind.__name__}, which has no instances of COCO"
    remedy = "choose CocoOneShot or ShapesCoco, or a protocol that asks for classes or objects"
    return FewsegError("--data.dataset", got, "annotated instances with boxes", remedy)


def asked_classes(dataset: FewShotDataset, part: EvaluationPart, fold: int) -> tuple[int, ...]:
    """The class ids whose instances an evaluation asks for, ascending.

    Raises:
        FewsegError: a part that asks for no instances, or an unknown fold.
    """
    search = _search(part)
    check_fold(dataset, fold)
    if search.classes == "all":
        return tuple(range(1, len(dataset.class_names) + 1))
    return dataset.novel_classes(fold) if search.classes == "novel" else dataset.base_classes(fold)


def instance_pool(dataset: FewShotDataset, part: TrainingPart, fold: int) -> InstancePool:
    """The images of a list with an object of a class that trains; crowds are no objects.

    Where novel classes do not train, an image that shows one is left out under ``heldout="drop"``. Under
    ``"background"`` it trains, and its novel objects are neither asked for nor references; but never an image that is
    on the list ``val`` too. A tenth that a part holds out is left out as well. Instances count whatever their size.

    Args:
        dataset: with instances.
        part: which list and classes, and what becomes of images with novel objects.
        fold: which classes are novel.

    Raises:
        FewsegError: a data set without instances, or an unknown fold.
    """
    images = search_dataset(dataset)
    check_fold(images, fold)
    trained = set(training_classes(images, part, fold))
    novel = set(images.novel_classes(fold)) - trained
    tested = set(images.ids("val")) if "val" in images.splits else set()
    held_out = set(validation_pool(images, part, fold).images) if part.hold_out_tenth else set()
    classes: dict[str, tuple[int, ...]] = {}
    objects: dict[int, list[Target]] = {c: [] for c in sorted(trained)}
    for image_id in images.ids(part.split):
        present = images.present(image_id)
        dropped = not novel.isdisjoint(present) and (part.heldout == "drop" or image_id in tested)
        found = tuple(c for c in sorted(present) if c in trained)
        if dropped or image_id in held_out or not found:
            continue
        classes[image_id] = found
        for c in found:
            objects[c] += [(image_id, number) for number in present[c]]
    return InstancePool(classes, {c: tuple(targets) for c, targets in objects.items() if targets})


class InstanceSampler:
    """Training episodes that ask for the instances of a class, without end: ``draw(i)`` is a pure function of
    (seed, i).

    An image is drawn first, then a class that it shows, then objects of the class as references, out of any image
    (section 5.1 of Michaelis et al., "One-Shot Instance Segmentation", 2018). All of them uniformly; references are
    distinct while there are enough objects.

    Args:
        pool: what to draw from.
        n_shot: K references; 0 for class-blind methods.
        seed: of the training.

    Raises:
        FewsegError: no object, or a number of references that there is not.

    >>> sampler = InstanceSampler(InstancePool({"a": (3,)}, {3: (("a", 1),)}), n_shot=1, seed=0)
    >>> spec = sampler.draw(5).spec
    >>> spec.query_id, spec.class_id, spec.support_ids, spec.support_objects
    ('a', 3, ('a',), (1,))
    """

    def __init__(self, pool: InstancePool, n_shot: int, seed: int) -> None:
        check_n_shot(n_shot)
        shown = {c for classes in pool.classes.values() for c in classes}
        if not shown or any(not pool.objects.get(c) for c in shown):
            got = "no image with an object of a class that trains" if not shown else "a class without an object"
            remedy = "use another fold, split or data set, or a protocol that keeps images with novel objects"
            raise FewsegError("pool", got, "at least one object of each class that an image shows", remedy)
        self.pool, self.n_shot, self.seed = pool, n_shot, seed
        self._images = tuple(pool.classes.items())
        self._state = np.random.RandomState(0)

    def draw(self, index: int) -> TrainingDraw:
        """Episode number ``index``; it has no points, for references are boxes."""
        rng = self._state
        rng.seed(sub_seed("training instances", self.seed, index))
        query, classes = self._images[rng.randint(len(self._images))]
        class_id = classes[rng.randint(len(classes))]
        objects = self.pool.objects[class_id]
        places = _distinct(len(objects), self.n_shot, rng)
        references = [objects[places[shot % len(places)]] for shot in range(self.n_shot)]
        seed = sub_seed("training instances", self.seed, index, "episode")
        return TrainingDraw(_spec(query, class_id, references, seed), None)


def instance_list(
    dataset: FewShotDataset, part: EvaluationPart, fold: int, n_shot: int, n_episodes: int | None
) -> tuple[EpisodeSpec, ...]:
    """One episode in each run for each image of the list and each class asked for that it shows; crowds do not count.

    Images are in the order of the list, and the classes of an image ascend. Runs stand in a row and have the same
    queries with other references. Where references must be of other images, a class that a single image shows is not
    asked for.

    References are uniform over the images that show the class, then over its objects in the image. Of several, each is
    of another image while there are enough images, and another object while there are enough objects; beyond that they
    repeat in the same order. Lists are nested in K and, within each run, in the number of episodes.

    A shorter list keeps whole images, each with every class asked for that it shows. So its images and classes, handed
    to a tool of COCO, are exactly the queries, but for classes that are not asked for because no other image shows
    them.

    Args:
        dataset: with instances.
        part: which list, classes, references and runs.
        fold: which classes are novel.
        n_shot: K references.
        n_episodes: the most episodes of the list over all runs, a multiple of their number; None = all. Images are
            taken in the order of a SHA-256, the same ones in every run, up to the first one that would make the list
            longer. One image is taken in any case, even if it alone shows more classes.

    Returns:
        Specs whose ``support_ids`` and ``support_objects`` name the images and numbers of the references.

    Raises:
        FewsegError: a data set without instances, an unknown fold, K below 1, a number of episodes that does not fill
            the runs, or nothing to ask for.
    """
    asked = asked_classes(dataset, part, fold)
    remedy = "use another fold, split or data set"
    if _search(part).reference == "other":
        remedy += ", or references of any image (protocol one-shot-code)"
    return _episodes(search_dataset(dataset), part, asked, n_shot, n_episodes, remedy)


def held_out_list(
    dataset: FewShotDataset, part: EvaluationPart, fold: int, n_shot: int, n_episodes: int
) -> tuple[EpisodeSpec, ...]:
    """Base classes in the images that neither train nor test, for model selection: one run, as ``instance_list``.

    References are of other images than the query whatever the part says: protocols that differ in their tests alone
    share a training, and so its best step.

    Raises:
        FewsegError: as ``instance_list``, or a data set that keeps no such images.
    """
    images = search_dataset(dataset)
    _search(part)
    if HELD_OUT not in images.splits:
        got, expected = f"{images.name}, which holds no image out", "images for model selection"
        raise FewsegError("--data.dataset", got, expected, _MORE_HELD_OUT)
    part = dataclasses.replace(part, split=HELD_OUT, runs=1, search=Search("other", "base"))
    return _episodes(images, part, asked_classes(images, part, fold), n_shot, n_episodes, _MORE_HELD_OUT)


def _search(part: EvaluationPart) -> Search:
    if part.search is None:
        got, expected = "one that asks for no instances", "one that asks for instances"
        raise FewsegError("protocol", got, expected, "use the protocol one-shot")
    return part.search


def _spec(query_id: str, class_id: int, references: Sequence[Target], seed: int) -> EpisodeSpec:
    ids, numbers = tuple(image_id for image_id, _ in references), tuple(number for _, number in references)
    return EpisodeSpec(query_id, ids, class_id, seed=seed, support_objects=numbers)


def _distinct(n: int, k: int, rng: np.random.RandomState) -> list[int]:
    """``k`` of ``n`` places, or all of them where they are fewer, in random order."""
    if n <= k:
        return [int(place) for place in rng.permutation(n)]
    places: dict[int, None] = {}
    while len(places) < k:  # k is small, and a class may have 200 000 objects: too many to permute
        places[int(rng.randint(n))] = None
    return list(places)


def _episodes(
    dataset: Coco20i, part: EvaluationPart, asked: Iterable[int], n_shot: int, n_episodes: int | None, remedy: str
) -> tuple[EpisodeSpec, ...]:
    """See ``instance_list``; ``remedy`` where there is nothing to ask for."""
    if n_shot < 1:
        raise FewsegError("n_shot", n_shot, "1 or more, the references of a class", "ask for at least one reference")
    if n_episodes is not None and n_episodes % part.runs:
        expected = f"a multiple of {part.runs}, for that many lists of references ask for the same queries"
        upwards = -(-n_episodes // part.runs) * part.runs
        raise FewsegError("n_episodes", n_episodes, expected, f"ask for {upwards}")
    other = _search(part).reference == "other"
    shown: dict[int, dict[str, tuple[int, ...]]] = {c: {} for c in asked}  # class -> image -> its objects
    pairs: list[tuple[str, int]] = []
    for image_id in dataset.ids(part.split):
        for class_id, numbers in sorted(dataset.present(image_id).items()):
            if class_id in shown:
                shown[class_id][image_id] = numbers
                pairs.append((image_id, class_id))
    pairs = [(query, c) for query, c in pairs if not other or len(shown[c]) > 1]
    if not pairs:
        where = f"{'two images' if other else 'an image'} of the list {part.split} of {dataset.name}"
        raise FewsegError("pool", f"no class asked for that {where} show{'' if other else 's'}", "at least one", remedy)
    if n_episodes is not None:
        kept = _images_within(pairs, n_episodes // part.runs, part.seed)
        pairs = [(query, c) for query, c in pairs if query in kept]
    runs: list[list[EpisodeSpec]] = [[] for _ in range(part.runs)]
    for query, c in pairs:
        candidates = [item for item in shown[c].items() if not (other and item[0] == query)]
        for run, specs in enumerate(runs):
            key = ("instances", part.seed, run, query, c)
            references = _references(candidates, n_shot, random_state(*key))
            specs.append(_spec(query, c, references, sub_seed(*key, "episode")))
    return tuple(spec for specs in runs for spec in specs)


def _images_within(pairs: Sequence[tuple[str, int]], most: int, seed: int) -> set[str]:
    """The first images, in the order of their hash, that have at most so many of the pairs together; one at least."""
    n_classes = Counter(query for query, _ in pairs)
    order = order_by_hash(n_classes, seed)
    totals = accumulate(n_classes[query] for query in order)
    n_kept = sum(1 for _ in takewhile(lambda total: total <= most, totals))
    return set(order[: max(n_kept, 1)])


def _references(images: Sequence[tuple[str, tuple[int, ...]]], n_shot: int, rng: np.random.RandomState) -> list[Target]:
    """Objects of images in a random order: one of each image, then a second one of each, and so on.

    Args:
        images: id and object numbers of each image that may be drawn from.
        n_shot: how many; the draw for K begins with the draw for fewer.
        rng: the generator.
    """
    moved: dict[int, int] = {}  # Fisher-Yates over a sparse array: the prefix of a permutation without the rest
    turns: deque[tuple[str, list[int]]] = deque()  # images with objects that are left
    drawn: list[Target] = []
    for shot, (of_image, of_object) in enumerate(rng.random_sample((n_shot, 2)).tolist()):
        if shot < len(images):
            place = shot + int(of_image * (len(images) - shot))
            image_id, numbers = images[moved.get(place, place)]
            moved[place] = moved.get(shot, shot)
            left = list(numbers)
        elif turns:
            image_id, left = turns.popleft()
        else:
            break
        drawn.append((image_id, left.pop(int(of_object * len(left)))))
        if left:
            turns.append((image_id, left))
    return [drawn[shot % len(drawn)] for shot in range(n_shot)]
