"""Which images, masks and objects a fold trains and tests on: pools, which episodes are drawn from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence

from fewseg.datasets.base import FewShotDataset
from fewseg.datasets.files import ObjectDataset
from fewseg.datasets.video import VideoDataset
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import oslsm_cells
from fewseg.sampling.parts import Entry, EvaluationPart, ObjectPool, Pool, TrainingPart


def training_pool(dataset: FewShotDataset, part: TrainingPart, fold: int) -> Pool:
    """What training episodes of a fold are drawn from; the held-out tenth is left out.

    Where a data set's own train and val lists overlap, test images never train, whatever ``heldout`` says.

    Raises:
        FewsegError: an unknown fold or one without base classes, or a foreign list that the data set lacks or cannot
            serve.
    """
    entries, tenth = _training_entries(dataset, part, fold)
    pool = pool_of([e for e in entries if e[0] not in tenth], training_classes(dataset, part, fold))
    if not part.class_balanced:
        return pool
    rarest = min((len(ids) for ids in pool.by_class.values() if ids), default=0)
    kept = {c: set(order_by_hash(ids, c)[:rarest]) for c, ids in pool.by_class.items()}
    return pool_of([(i, c) for i, c in entries if i in kept[c]], pool.by_class)


def validation_pool(dataset: FewShotDataset, part: TrainingPart, fold: int) -> Pool:
    """The held-out tenth with the base classes: what model selection may look at.

    Raises:
        FewsegError: a protocol that holds nothing out, or a fold that is unknown or without base classes.
    """
    check_held_out(part)
    entries, tenth = _training_entries(dataset, part, fold)
    base = dataset.base_classes(fold)
    return pool_of([(i, c) for i, c in entries if i in tenth and c in base], base)


def evaluation_pool(dataset: FewShotDataset, part: EvaluationPart, fold: int) -> Pool:
    """What test episodes of a fold are drawn from: the novel classes.

    Raises:
        FewsegError: an unknown fold, or a foreign list that the data set lacks or cannot serve.
    """
    check_fold(dataset, fold)
    novel = dataset.novel_classes(fold)
    return pool_of(find_masks(dataset, part, novel), novel)


def images_without(dataset: FewShotDataset, part: EvaluationPart, pool: Pool) -> dict[int, tuple[str, ...]]:
    """By class id of a pool, the images that do not show the class, not even a pixel of it.

    They are images of the pool, which show another class of it: whether a class is there cannot be told from whether
    anything is that could be asked for. Only where there are none are they the other images of the split.

    Raises:
        FewsegError: every image of the split shows a class.
    """
    areas, split = dataset.index().areas, dataset.ids(part.split)
    found = {}
    for c in pool.by_class:
        found[c] = tuple(i for i in pool.images if c not in areas[i]) or tuple(i for i in split if c not in areas[i])
        if not found[c]:
            remedy = "use a larger data set, or the protocol clean, whose queries all show their class"
            raise FewsegError("pool", f"no image without class {c}", "at least 1 for every class", remedy)
    return found


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


def training_classes(dataset: FewShotDataset, part: TrainingPart, fold: int) -> tuple[int, ...]:
    """The class ids that train, ascending."""
    return dataset.base_classes(fold) if part.classes == "base" else tuple(range(1, len(dataset.class_names) + 1))


def _training_entries(dataset: FewShotDataset, part: TrainingPart, fold: int) -> tuple[list[Entry], set[str]]:
    """The masks that a fold may train on, and the ids of the tenth that it holds out."""
    check_fold(dataset, fold)
    classes = training_classes(dataset, part, fold)
    if not classes:
        held_out = ", ".join(dataset.class_names[c - 1] for c in dataset.novel_classes(fold))
        got = f"no class that trains: {held_out} is all that {dataset.name} has, and fold {fold} holds it out"
        remedy = "train on a data set with base classes"
        if isinstance(dataset, ObjectDataset):
            remedy += " and test on this one under interactive with n_shot 0"
        if isinstance(dataset, VideoDataset):
            remedy = f"choose the protocol video or interactive-video, or {remedy}"
        raise FewsegError("pool", got, "a base class", remedy)
    areas = dataset.index().areas
    entries = find_masks(dataset, part, classes)
    if part.classes == "base":
        novel = set(dataset.novel_classes(fold))
        # a test image that trained as background would have been seen: matters where train and val are one list
        suspects = None if part.heldout == "drop" else set(dataset.ids("val"))
        entries = [(i, c) for i, c in entries if novel.isdisjoint(areas[i]) or not (suspects is None or i in suspects)]
    if part.single_class:
        entries = [(i, c) for i, c in entries if len(areas[i]) == 1]
    images = list(dict.fromkeys(i for i, _ in entries))
    tenth = set(order_by_hash(images)[: max(1, len(images) // 10)]) if part.hold_out_tenth else set()
    return entries, tenth


def find_masks(dataset: FewShotDataset, part: TrainingPart | EvaluationPart, classes: Collection[int]) -> list[Entry]:
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


def pool_of(entries: Sequence[Entry], classes: Iterable[int]) -> Pool:
    """The pool of masks, which may leave a class without images."""
    by_class: dict[int, list[str]] = {c: [] for c in classes}
    for image_id, class_id in entries:
        by_class[class_id].append(image_id)
    return Pool({c: tuple(ids) for c, ids in by_class.items()}, tuple(dict.fromkeys(i for i, _ in entries)))


def by_class_of(entries: Sequence[Entry]) -> dict[int, tuple[str, ...]]:
    """The images of each class that has some, classes ascending."""
    return pool_of(entries, sorted({c for _, c in entries})).by_class


def order_by_hash(ids: Iterable[str], *key: int) -> list[str]:
    """Ids in an order that depends on nothing but the ids (and the key)."""
    return sorted(ids, key=lambda i: hashlib.sha256("/".join([*map(str, key), i]).encode()).hexdigest())


def check_fold(dataset: FewShotDataset, fold: int) -> None:
    """Raises a FewsegError where the data set has no such fold."""
    if fold not in range(dataset.n_folds):
        remedy = f"choose one of the {dataset.n_folds} folds" if dataset.n_folds > 1 else "choose 0, the only fold"
        expected = f"0 to {dataset.n_folds - 1}" if dataset.n_folds > 1 else "0"
        raise FewsegError("fold", fold, expected, remedy)


def check_held_out(part: TrainingPart) -> None:
    """Raises a FewsegError where a protocol keeps nothing for model selection."""
    if not part.hold_out_tenth:
        remedy = "use the protocol clean, or take the last step without selection"
        raise FewsegError("protocol", "one that keeps no images for model selection", "hold_out_tenth", remedy)


def check_n_shot(n_shot: int) -> None:
    """Raises a FewsegError where a number of supports is none."""
    if n_shot < 0:
        raise FewsegError("n_shot", n_shot, "0 or more", "ask for a number of supports, 0 for class-blind methods")


def check_pool(by_class: dict[int, tuple[str, ...]], n_shot: int, needed: int) -> None:
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


def check_objects(pool: ObjectPool, n_shot: int) -> None:
    """Every class needs an object, and as many other images as supports."""
    empty = [c for c in pool.images if not pool.objects[c]]
    if empty:
        got = "no object" if len(empty) == len(pool.images) else f"no object of class {empty[0]}"
        remedy = "use another fold or split, a data set with instances, or a protocol with a smaller min_area"
        raise FewsegError("pool", f"{got} that is large enough", "at least 1 of every class", remedy)
    check_pool(pool.images, n_shot, 1 + n_shot)
