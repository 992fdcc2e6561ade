"""Episodes that ask for all instances of a class: pools, references, frozen lists."""

import dataclasses
import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from fewseg.datasets import Coco20i, CocoOneShot
from fewseg.datasets.coco import COCO_CLASSES
from fewseg.errors import FewsegError
from fewseg.protocols import CLEAN, ONE_SHOT, ONE_SHOT_ALL, ONE_SHOT_BASE, ONE_SHOT_CODE, VIDEO
from fewseg.sampling import (
    EpisodeList,
    InstancePool,
    InstanceSampler,
    asked_classes,
    check_search,
    evaluation_list,
    frozen_list,
    instance_list,
    instance_pool,
    search_dataset,
    validation_list,
)
from test_sampling import TinyDataset

DATA = Path(os.environ.get("FEWSEG_DATA") or "none")
OTHER, ANY = ONE_SHOT.evaluation, ONE_SHOT_CODE.evaluation
ONE_RUN = dataclasses.replace(OTHER, runs=1)
ONE_RUN_ANY = dataclasses.replace(ANY, runs=1)
TRAINING = ONE_SHOT.training


class Scenes(Coco20i):
    """Lists in memory: split -> image id -> class id -> numbers of its objects. Fold 0 holds out 1, 5, 9, ..."""

    name = "scenes"

    def __init__(self, **lists):
        self.lists, self.folds, self.splits = lists, "split", tuple(lists)

    def ids(self, split):
        return tuple(self.lists[split])

    def present(self, image_id):
        return next(images[image_id] for images in self.lists.values() if image_id in images)


def error(expected, call, *args):
    with pytest.raises(FewsegError) as caught:
        call(*args)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def references(spec):
    return list(zip(spec.support_ids, spec.support_objects, strict=True))


@pytest.fixture
def scenes():
    """Novel in fold 0: 1 in three images, 5 in two, 9 in one."""
    val = {
        "c": {5: (2,), 1: (1, 3), 2: (4,)},
        "a": {1: (1,), 9: (2, 3)},
        "e": {},
        "b": {1: (2, 4, 7), 3: (1,)},
        "d": {5: (1,), 2: (2, 3)},
    }
    return Scenes(val=val)


def many(n, classes=(1,), objects=3):
    return {f"i{i:03d}": dict.fromkeys(classes, tuple(range(1, objects + 1))) for i in range(n)}


# ---- evaluation lists


def test_one_episode_for_each_image_and_class_that_another_image_shows(scenes):
    specs = instance_list(scenes, ONE_RUN, 0, 1, None)
    assert [(s.query_id, s.class_id) for s in specs] == [("c", 1), ("c", 5), ("a", 1), ("b", 1), ("d", 5)]
    anywhere = instance_list(scenes, ONE_RUN_ANY, 0, 1, None)
    with_nine = [("c", 1), ("c", 5), ("a", 1), ("a", 9), ("b", 1), ("d", 5)]
    assert [(s.query_id, s.class_id) for s in anywhere] == with_nine
    for spec in (*specs, *anywhere):
        ((image_id, number),) = references(spec)
        assert number in scenes.present(image_id)[spec.class_id]
        assert (spec.object_id, spec.points, spec.clicks, spec.group, spec.present) == (None, None, (), None, True)
    assert all(s.query_id not in s.support_ids for s in specs)
    assert references(specs[1]) == [("d", 1)]  # the only ones there are
    assert references(specs[4]) == [("c", 2)]
    assert len({s.seed for s in specs}) == len(specs)


def test_runs_have_the_same_queries_and_other_references():
    scenes = Scenes(val=many(12, (1, 5)))
    specs = instance_list(scenes, OTHER, 0, 1, None)
    assert len(specs) == 5 * 24
    runs = [specs[24 * run : 24 * (run + 1)] for run in range(5)]
    assert [OTHER.run_of(e, len(specs)) for e in (0, 23, 24, 119)] == [0, 0, 1, 4]
    queries = [[(s.query_id, s.class_id) for s in run] for run in runs]
    assert all(each == queries[0] for each in queries)
    for i, one in enumerate(runs):
        for other in runs[:i]:
            assert sum(references(a) == references(b) for a, b in zip(one, other, strict=True)) < 8  # 33 references
            assert not {s.seed for s in one} & {s.seed for s in other}
    assert instance_list(scenes, dataclasses.replace(OTHER, runs=1), 0, 1, None) == runs[0]


@pytest.mark.parametrize("part", [ONE_RUN, ONE_RUN_ANY])
def test_references_are_uniform_over_images_and_then_over_objects(part):
    """``few`` shows one object, ``lot`` nine: each is drawn as often as the other, not nine times less often."""
    lists = many(400)
    lists |= {"few": {1: (5,)}, "lot": {1: tuple(range(1, 10))}}
    specs = instance_list(Scenes(val=lists), dataclasses.replace(part, runs=25), 0, 1, None)
    drawn = Counter(reference for spec in specs for reference in references(spec))
    by_image = Counter()
    for (image_id, _), count in drawn.items():
        by_image[image_id] += count
    assert 12 < by_image["few"] < 42  # 25 expected, standard deviation 5
    assert 12 < by_image["lot"] < 42
    assert len({number for image_id, number in drawn if image_id == "lot"}) > 5
    numbers = Counter(number for image_id, number in drawn if image_id.startswith("i"))
    assert all(abs(count / sum(numbers.values()) - 1 / 3) < 0.02 for count in numbers.values())  # of 10 000


def test_the_query_is_its_own_reference_as_often_as_another_image_would_be():
    specs = [
        spec
        for seed in range(100)
        for spec in instance_list(Scenes(val=many(4)), dataclasses.replace(ONE_RUN_ANY, seed=seed), 0, 1, None)
    ]
    own = sum(spec.query_id in spec.support_ids for spec in specs)
    assert 65 < own < 135  # 100 of 400 expected, standard deviation 8.7


@pytest.mark.parametrize("part", [ONE_RUN, ONE_RUN_ANY])
def test_lists_are_nested_in_k(part):
    scenes = Scenes(val=many(5) | {"last": {1: (8,), 5: (1, 2)}, "end": {5: (4,)}})
    longest = instance_list(scenes, part, 0, 30, None)
    for k in (1, 2, 5, 6, 17):
        shorter = instance_list(scenes, part, 0, k, None)
        assert [s.seed for s in shorter] == [s.seed for s in longest]
        assert [references(s) for s in shorter] == [references(s)[:k] for s in longest]


@pytest.mark.parametrize(("part", "query_counts"), [(ONE_RUN, False), (ONE_RUN_ANY, True)])
def test_several_references_are_of_different_images_then_different_objects_then_repeat(scenes, part, query_counts):
    specs = instance_list(scenes, part, 0, 20, None)
    for spec in specs:
        shown = {i: scenes.present(i).get(spec.class_id, ()) for i in scenes.ids("val")}
        if not query_counts:
            del shown[spec.query_id]
        everything = {(i, number) for i, numbers in shown.items() for number in numbers}
        drawn, n_images, n = references(spec), sum(map(bool, shown.values())), len(everything)
        assert len({image_id for image_id, _ in drawn[:n_images]}) == n_images
        assert set(drawn[:n]) == everything
        assert drawn[n:] == (drawn[:n] * 20)[: 20 - n]


def queries_of(specs, n_runs=5):
    """(image, class) of every query, in order; the same in every run."""
    runs = [specs[len(specs) * run // n_runs : len(specs) * (run + 1) // n_runs] for run in range(n_runs)]
    queries = [[(s.query_id, s.class_id) for s in run] for run in runs]
    assert all(each == queries[0] for each in queries)
    return queries[0]


def test_a_subset_keeps_the_references_and_is_the_same_in_every_run():
    scenes = Scenes(val=many(30, (1, 5, 2)))
    whole = instance_list(scenes, OTHER, 0, 2, None)
    some, fewer = (instance_list(scenes, OTHER, 0, 2, n) for n in (100, 35))
    assert (len(whole), len(some), len(fewer)) == (300, 100, 30)  # two classes an image: 35 are three images
    for part, bigger in ((some, whole), (fewer, some)):
        assert [s for s in bigger if s in set(part)] == list(part)  # in the order of the list
    queries = queries_of(some)
    assert {q for q, _ in queries} != {f"i{n:03d}" for n in range(10)}  # not the first of the list
    assert instance_list(scenes, OTHER, 0, 2, 305) == whole
    turned = Scenes(val=dict(reversed(scenes.lists["val"].items())))  # whatever the order of the list
    assert set(queries_of(instance_list(turned, OTHER, 0, 2, 100))) == set(queries)
    other = dataclasses.replace(OTHER, seed=1)
    assert set(queries_of(instance_list(scenes, other, 0, 2, 100))) != set(queries)


def uneven(n):
    """Images with one to four novel classes of fold 0, one of which no other image shows."""
    lists = {f"i{i:03d}": dict.fromkeys((1, 5, 9, 13)[: 1 + i % 4], (1, 2)) for i in range(n)}
    lists["i003"][17] = (1,)
    return Scenes(val=lists)


@pytest.mark.parametrize("part", [OTHER, ANY])
def test_a_subset_keeps_whole_images(part):
    """A tool of COCO takes images and classes, never pairs of them."""
    scenes = uneven(20)
    whole = queries_of(instance_list(scenes, part, 0, 1, None))
    assert (("i003", 17) in whole) == (part is ANY)
    images = []
    for n in range(5, 260, 5):
        specs = instance_list(scenes, part, 0, 1, n)
        queries = queries_of(specs)
        kept = {q for q, _ in queries}
        assert queries == [pair for pair in whole if pair[0] in kept]  # every class of an image, in the list's order
        assert len(specs) <= n or len(kept) == 1
        classes = {c for _, c in queries}
        assert set(queries) == {(q, c) for q in kept for c in scenes.present(q) if c in classes}
        images.append(kept)
    for smaller, bigger in pairwise(images):
        assert smaller <= bigger
    assert len(images[0]) == 1
    assert len(images[-1]) == 20
    for kept, n in zip(images, range(5, 260, 5), strict=True):  # no image more would have found room
        bigger = next((each for each in images if each > kept), None)
        assert bigger is None or 5 * sum(q in bigger for q, _ in whole) > n


def test_one_image_is_taken_even_if_it_alone_is_too_long():
    scenes = Scenes(val=many(6, (1, 5, 9)))
    assert len(instance_list(scenes, OTHER, 0, 1, 5)) == 15
    assert len(instance_list(scenes, OTHER, 0, 1, 25)) == 15
    assert len(instance_list(scenes, OTHER, 0, 1, 30)) == 30


def test_a_list_is_the_same_on_every_platform():
    specs = instance_list(Scenes(val=many(30, (1, 5, 2))), OTHER, 0, 2, 100)
    assert EpisodeList(specs).sha256[:16] == "8469849a3db4eed6"


def test_which_classes_are_asked_for(scenes):
    parts = {"novel": OTHER, "base": ONE_SHOT_BASE.evaluation, "all": ONE_SHOT_ALL.evaluation}
    found = {name: asked_classes(scenes, part, 1) for name, part in parts.items()}
    assert found["novel"] == (2, 6, 10, *range(14, 79, 4))
    assert sorted(found["novel"] + found["base"]) == list(found["all"]) == list(range(1, 81))
    drawn = {
        name: {(s.query_id, s.class_id) for s in instance_list(scenes, part, 1, 1, None)}
        for name, part in parts.items()
    }
    assert drawn["novel"] == {("c", 2), ("d", 2)}
    assert drawn["all"] == drawn["novel"] | drawn["base"]
    assert not drawn["novel"] & drawn["base"]
    blocks = Scenes(val=scenes.lists["val"])
    blocks.folds = "block"
    assert asked_classes(blocks, OTHER, 0) == tuple(range(1, 21))  # the folds are the data set's own


def test_what_a_list_refuses(scenes):
    error("n_shot: got 0, expected 1 or more, the references of a class", instance_list, scenes, OTHER, 0, 0, None)
    error("n_episodes: got 12, expected a multiple of 5", instance_list, scenes, OTHER, 0, 1, 12)
    error("; ask for 15", instance_list, scenes, OTHER, 0, 1, 12)
    error("fold: got 4, expected 0 to 3", instance_list, scenes, OTHER, 4, 1, None)
    error("fold: got 4, expected 0 to 3", asked_classes, scenes, OTHER, 4)
    error("pool: got no class asked for that two images of the list val of", instance_list, scenes, OTHER, 2, 1, None)
    error("; use another fold, split or data set, or references of any image", instance_list, scenes, OTHER, 2, 1, None)
    assert len(instance_list(scenes, ANY, 2, 1, None)) == 5  # class 3 in b alone
    error("that an image of the list val of scenes shows", instance_list, scenes, ANY, 3, 1, None)
    error("protocol: got one that asks for no instances", instance_list, scenes, CLEAN.evaluation, 0, 1, None)
    for n_points in (0, 3):
        expected = f"n_points: got {n_points}, expected None, dense only: references are boxes"
        error(expected, evaluation_list, scenes, ONE_SHOT, 0, 1, n_points)
    error("n_episodes: got 0", evaluation_list, scenes, ONE_SHOT, 0, 1, None, 0)


def test_a_data_set_without_instances_is_refused():
    expected = "--data.dataset: got TinyDataset, which has no instances of COCO, expected annotated instances with"
    tiny = TinyDataset()
    error(expected, search_dataset, tiny)
    error(expected, check_search, TinyDataset, ONE_SHOT)  # of the class: nothing is made
    error("; choose CocoOneShot or ShapesCoco", check_search, TinyDataset, ONE_SHOT)
    for protocol in (CLEAN, VIDEO):
        check_search(TinyDataset, protocol)
    check_search(CocoOneShot, ONE_SHOT)
    error(expected, instance_pool, tiny, TRAINING, 0)
    error(expected, evaluation_list, tiny, ONE_SHOT, 0, 1, None)
    error(expected, validation_list, tiny, ONE_SHOT, 0, 1, None, 4)


# ---- pools and training episodes


@pytest.fixture
def training():
    """Novel in fold 0: 1, 5. ``both`` is on the test list too."""
    train = {
        "z": {3: (2,), 2: (1, 4)},
        "novel": {1: (1,), 5: (2, 3)},
        "mixed": {2: (2,), 5: (1,)},
        "both": {2: (1,), 1: (2,)},
        "plain": {4: (1,)},
        "nothing": {},
    }
    return Scenes(train=train, val={"both": train["both"], "v": {2: (1,)}})


def test_a_pool_by_hand(training):
    """Images with novel objects train, unless they test; nothing novel is asked for or a reference."""
    pool = instance_pool(training, TRAINING, 0)
    assert pool == InstancePool(
        {"z": (2, 3), "mixed": (2,), "plain": (4,)},
        {2: (("z", 1), ("z", 4), ("mixed", 2)), 3: (("z", 2),), 4: (("plain", 1),)},
    )
    assert list(pool.classes) == ["z", "mixed", "plain"]
    dropped = instance_pool(training, dataclasses.replace(TRAINING, heldout="drop"), 0)
    assert dropped.classes == {"z": (2, 3), "plain": (4,)}
    assert dropped.objects[2] == (("z", 1), ("z", 4))
    every = instance_pool(training, ONE_SHOT_ALL.training, 0)
    assert every.classes == {
        "z": (2, 3),
        "novel": (1, 5),
        "mixed": (2, 5),
        "both": (1, 2),
        "plain": (4,),
    }
    assert every.objects[5] == (("novel", 2), ("novel", 3), ("mixed", 1))
    error("fold: got 4", instance_pool, training, TRAINING, 4)
    del training.lists["val"]
    training.splits = ("train",)
    assert "both" in instance_pool(training, TRAINING, 0).classes


def test_what_a_protocol_holds_out_for_selection_never_trains(tree):
    """Under a protocol for classes, training on instances leaves out the tenth that its validation looks at."""
    images = CocoOneShot(str(tree), n_held_out=2)
    part = dataclasses.replace(TRAINING, hold_out_tenth=True)
    clean = dataclasses.replace(CLEAN.training, heldout="background")
    assert part == clean
    whole, rest = (instance_pool(images, each, 0) for each in (TRAINING, part))
    (left_out,) = set(whole.classes) - set(rest.classes)  # a tenth of 18
    assert all(left_out != image_id for targets in rest.objects.values() for image_id, _ in targets)
    assert {**rest.classes, left_out: whole.classes[left_out]} == whole.classes


def test_training_episodes_are_a_pure_function_of_seed_and_index(training):
    pool = instance_pool(training, TRAINING, 0)
    sampler = InstanceSampler(pool, 2, seed=3)
    draws = [sampler.draw(i) for i in range(50)]
    again = InstanceSampler(pool, 2, seed=3)
    assert [again.draw(i) for i in reversed(range(50))] == draws[::-1]
    assert [InstanceSampler(pool, 2, seed=4).draw(i) for i in range(50)] != draws
    assert len({d.spec.seed for d in draws}) == 50
    for spec, n_points in draws:
        assert n_points is None
        assert spec.class_id in pool.classes[spec.query_id]
        assert set(references(spec)) <= set(pool.objects[spec.class_id])
        assert (spec.points, spec.object_id, len(spec.support_ids)) == (None, None, 2)
        assert len(set(references(spec))) == min(2, len(pool.objects[spec.class_id]))


def test_training_draws_an_image_then_a_class_then_an_object():
    pool = InstancePool(
        {"one": (2,), "two": (2, 3)},
        {2: (("one", 1), ("two", 1), ("two", 2), ("two", 3)), 3: (("two", 4),)},
    )
    sampler = InstanceSampler(pool, 1, seed=0)
    specs = [sampler.draw(i).spec for i in range(2000)]
    queries = Counter((s.query_id, s.class_id) for s in specs)
    assert abs(queries["one", 2] - 1000) < 100  # standard deviation 22
    assert abs(queries["two", 2] - 500) < 90
    assert abs(queries["two", 3] - 500) < 90
    objects = Counter(references(s)[0] for s in specs if s.class_id == 2)
    assert set(objects) == set(pool.objects[2])
    assert all(abs(count - 375) < 80 for count in objects.values())  # objects alike, not images
    assert any(s.query_id in s.support_ids for s in specs)  # a reference may be of the query


@pytest.mark.parametrize("n_shot", [0, 1, 4, 5, 7])
def test_references_of_a_training_episode_differ_while_there_are_enough(n_shot):
    pool = InstancePool({"a": (2,)}, {2: tuple(("a", number) for number in range(1, 6))})
    orders = set()
    for i in range(200):
        drawn = references(InstanceSampler(pool, n_shot, 0).draw(i).spec)
        assert len(drawn) == n_shot
        assert len(set(drawn)) == min(n_shot, 5)
        assert drawn[5:] == drawn[: len(drawn) - 5] or n_shot <= 5
        orders.add(tuple(drawn))
    assert len(orders) == 1 if n_shot == 0 else len(orders) >= 5


def test_what_a_sampler_refuses():
    error("pool: got no image with an object of a class that trains", InstanceSampler, InstancePool({}, {}), 1, 0)
    error("pool: got a class without an object", InstanceSampler, InstancePool({"a": (2,)}, {2: ()}), 1, 0)
    error("n_shot: got -1", InstanceSampler, InstancePool({"a": (2,)}, {2: (("a", 1),)}), -1, 0)


# ---- model selection


def test_validation_asks_for_base_classes_in_the_images_held_out():
    shown = (1, 2, 3, 5)
    scenes = Scenes(train=many(5, shown), held_out={f"h{i}": dict.fromkeys(shown, (1, 2)) for i in range(9)}, val={})
    for protocol in (ONE_SHOT, ONE_SHOT_BASE, ONE_SHOT_ALL, ONE_SHOT_CODE):
        specs = validation_list(scenes, protocol, 0, 2, None, 7).specs
        assert len(specs) == 6  # one run, so that any number will do; of whole images
        assert {s.class_id for s in specs} == {2, 3}
        assert {i for s in specs for i in (s.query_id, *s.support_ids)} <= set(scenes.ids("held_out"))
        assert all(len(s.support_ids) == len(s.support_objects) == 2 for s in specs)
    assert len(validation_list(scenes, ONE_SHOT, 0, 1, None, 100)) == 18
    assert {s.class_id for s in validation_list(scenes, ONE_SHOT, 1, 1, None, 100).specs} == {1, 3, 5}


def test_protocols_that_share_a_training_share_its_validation():
    """One training serves them, and keeps the step that its validation calls best."""
    assert ONE_SHOT.training == ONE_SHOT_BASE.training == ONE_SHOT_CODE.training
    scenes = Scenes(train={}, held_out=many(9, (2, 3)), val={})
    lists = [validation_list(scenes, protocol, 0, 5, None, 18) for protocol in (ONE_SHOT, ONE_SHOT_BASE, ONE_SHOT_CODE)]
    assert lists[0] == lists[1] == lists[2]
    assert not any(s.query_id in s.support_ids for s in lists[2].specs)


def test_nothing_to_select_models_on():
    expected = "--data.dataset: got scenes, which holds no image out, expected images for model selection; use CocoOneS"
    error(expected, validation_list, Scenes(train=many(5, (2,)), val={}), ONE_SHOT, 0, 1, None, 4)
    scenes = Scenes(train={}, held_out=many(1, (2,)), val={})
    expected = "pool: got no class asked for that two images of the list held_out of scenes show"
    error(expected, validation_list, scenes, ONE_SHOT, 0, 1, None, 4)
    error("switch validation off (n_val_episodes 0)", validation_list, scenes, ONE_SHOT, 0, 1, None, 4)
    error(expected, validation_list, scenes, ONE_SHOT_CODE, 0, 1, None, 4)  # its references are those of one-shot
    error("n_points: got 2, expected None", validation_list, scenes, ONE_SHOT, 0, 1, 2, 4)


# ---- files


def write_list(root, split, annotated):
    """A list of COCO: image number -> (class id, crowd) of its annotations in order; a blank image for each."""
    own = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    annotations = [(number, class_id, crowd) for number, found in annotated.items() for class_id, crowd in found]
    content = {
        "images": [{"id": n, "file_name": f"{n:012d}.png", "height": 8, "width": 10} for n in annotated],
        "categories": [{"id": i, "name": name} for i, name in zip(own, COCO_CLASSES, strict=True)],
        "annotations": [
            {
                "id": i,
                "image_id": number,
                "category_id": own[class_id - 1],
                "segmentation": {"size": [8, 10], "counts": [0, 16, 64]} if crowd else square,
                "bbox": [2, 2, 4, 4],
                "area": 16,
                "iscrowd": int(crowd),
            }
            for i, (number, class_id, crowd) in enumerate(annotations, 1)
        ],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    folder = root / f"{split}2017"
    folder.mkdir(exist_ok=True)
    for number in annotated:
        cv2.imwrite(str(folder / f"{number:012d}.png"), np.zeros((8, 10, 3), np.uint8))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Test images 1 to 4; image 2 shows class 1 as a crowd only, image 3 has a crowd before its object."""
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "coco"
    write_list(
        root,
        "val",
        {
            1: [(1, False), (2, False), (1, False)],
            2: [(1, True), (2, False)],
            3: [(1, True), (1, False)],
            4: [],
        },
    )
    write_list(root, "train", {n: [(2 + n % 3, False), (2, False)] for n in range(100, 120)})
    return root


def test_crowds_are_neither_asked_for_nor_references(tree):
    images = CocoOneShot(str(tree), n_held_out=2)
    for protocol in (ONE_SHOT, ONE_SHOT_CODE):
        specs = evaluation_list(images, protocol, 0, 4, None).specs
        assert {(Path(s.query_id).stem, s.class_id) for s in specs} == {("000000000001", 1), ("000000000003", 1)}
        drawn = {reference for s in specs for reference in references(s)}
        assert drawn == {("000000000001", 1), ("000000000001", 3), ("000000000003", 1)}  # crowds have no number


@pytest.mark.skipif(not (DATA / "coco_tiny").is_dir(), reason="FEWSEG_DATA names no folder with coco_tiny")
def test_a_list_of_photographs_is_what_the_annotations_say():
    images = CocoOneShot(str(DATA / "coco_tiny"), n_held_out=8)
    content = json.loads((DATA / "coco_tiny/annotations/instances_val2017.json").read_text())
    classes = {own: i for i, own in enumerate(sorted(c["id"] for c in content["categories"]), 1)}
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    objects = {name: [] for name in names.values()}  # classes of the objects, in the order of the file
    for each in content["annotations"]:
        if not each["iscrowd"]:
            objects[names[each["image_id"]]].append(classes[each["category_id"]])
    shown = Counter(c for found in objects.values() for c in set(found))
    asked = {(i, c) for i, found in objects.items() for c in found if c % 4 == 3 and shown[c] > 1}
    specs = evaluation_list(images, ONE_SHOT, 2, 3, None).specs
    assert Counter((s.query_id, s.class_id) for s in specs) == dict.fromkeys(asked, 5)
    for spec in specs:
        assert spec.query_id not in spec.support_ids
        assert {objects[i][number - 1] for i, number in references(spec)} == {spec.class_id}


def test_the_last_training_images_select_models_and_do_not_train(tree):
    images = CocoOneShot(str(tree), n_held_out=2)
    pool = instance_pool(images, TRAINING, 0)
    assert set(pool.classes) == {f"{n:012d}" for n in range(100, 118)}
    specs = validation_list(images, ONE_SHOT, 0, 1, None, 50).specs
    assert {s.query_id for s in specs} == {f"{n:012d}" for n in (118, 119)}
    error("holds no image out", validation_list, CocoOneShot(str(tree), n_held_out=0), ONE_SHOT, 0, 1, None, 5)


def test_lists_are_kept_and_drawn_anew_where_objects_changed(tree, tmp_path):
    def drawn(**changes):
        asked = {"kind": "evaluation", "protocol": ONE_SHOT, "fold": 0, "n_shot": 1, "n_episodes": 5} | changes
        images = CocoOneShot(str(tree), n_held_out=2)
        return frozen_list(
            asked["kind"], images, asked["protocol"], asked["fold"], asked["n_shot"], None, asked["n_episodes"]
        )

    first = drawn()
    kept = list((tmp_path / "cache" / "episodes").iterdir())
    assert len(kept) == 1
    assert EpisodeList.from_text(kept[0].read_text()) == first == drawn()
    assert len(list((tmp_path / "cache" / "episodes").iterdir())) == 1
    everything = drawn(n_episodes=None)
    assert len(everything) == 10
    assert len(drawn(kind="validation", n_episodes=50)) == 2  # class 2 in both; 3 and 4 are in one each
    write_list(tree, "val", {1: [(1, False)], 2: [(1, False)], 3: [(1, False)], 4: []})
    assert len(drawn(n_episodes=None)) == 15


def test_a_list_is_drawn_anew_where_objects_changed_and_classes_did_not(tree):
    """An object on top of another of its class: the class map stays, and there is one more reference."""
    write_list(tree, "val", {1: [(1, False)], 3: [(1, False)]})
    before = Coco20i(str(tree))
    specs = frozen_list("evaluation", before, ONE_SHOT, 0, 2, None, None).specs
    assert {s.support_objects for s in specs} == {(1, 1)}
    write_list(tree, "val", {1: [(1, False), (1, False)], 3: [(1, False)]})
    after = Coco20i(str(tree))
    assert before.index().fingerprint == after.index().fingerprint
    specs = frozen_list("evaluation", after, ONE_SHOT, 0, 2, None, None).specs
    assert {s.support_objects for s in specs if s.query_id.endswith("3")} <= {(1, 2), (2, 1)}
