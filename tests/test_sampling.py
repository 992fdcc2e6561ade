import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.datasets.base import FewShotDataset, Index
from fewseg.datasets.pascal import Voc400, foreign_list
from fewseg.episode import EpisodeSpec
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import (
    annotation_map,
    draw_points,
    oslsm_cells,
    query_mask,
    sub_seed,
)
from fewseg.protocols import (
    CLEAN,
    CLEAN_ABSENT,
    CLEAN_MIXED,
    HSNET,
    INTERACTIVE,
    ONE_SHOT,
    OSLSM,
    PANET,
    PFENET,
    REVOLVER,
    SGONE,
    SGONE_MULTICLASS,
    VIDEO,
)
from fewseg.sampling import (
    EpisodeList,
    EvaluationPart,
    Pool,
    TrainingPart,
    TrainingSampler,
    evaluation_list,
    evaluation_pool,
    python2_shuffle,
    training_pool,
    validation_list,
    validation_pool,
)

NAMES = tuple(f"class {c}" for c in range(1, 9))  # 4 folds of two: fold 0 holds out 1 and 2


class TinyDataset(FewShotDataset):
    """96 images of 100 x 100 in memory: image i shows class 1 + i % 8, every third one class 1 + (i + 3) % 8 too."""

    name = "tiny"
    class_names = NAMES

    def __init__(self, shared_split: bool = False) -> None:
        self.labels, self.reads = {}, 0
        for i in range(96):
            label = np.zeros((100, 100), np.uint8)
            label[10:90, 10:60] = 1 + i % 8
            label[10:90, 60:62] = 255
            if i % 3 == 0:
                label[10:90, 62:95] = 1 + (i + 3) % 8
            self.labels[f"im{i:02d}"] = label
        ids = tuple(self.labels)
        test = tuple(i for n, i in enumerate(ids) if n // 8 % 2)  # every second block of eight: all classes
        train = tuple(i for i in ids if i not in test)
        self.splits = {"train": ids, "val": ids} if shared_split else {"train": train, "trainaug": train, "val": test}

    def ids(self, split):
        return self.splits[split]

    def image(self, image_id):
        return np.zeros((100, 100, 3), np.uint8)

    def label(self, image_id):
        self.reads += 1
        return self.labels[image_id]

    def objects(self, image_id):
        return self.labels[image_id]

    def index(self):
        areas = {
            i: {int(c): int((label == c).sum()) for c in np.unique(label) if c not in (0, 255)}
            for i, label in self.labels.items()
        }
        return Index(areas, "tiny")


class ListedDataset(TinyDataset):
    """With foreign lists: HSNet's pairs by fold, PFENet's images."""

    def foreign_list(self, name):
        author, *rest = name.split("/")
        areas = self.index().areas
        ids = self.ids("val" if "val" in rest else "train")
        if author == "pfenet":
            return tuple((i, None) for i in ids)
        fold = int(rest[-1][-1])
        return tuple((i, c) for i in ids for c in sorted(areas[i]) if c in self.novel_classes(fold))


@pytest.fixture
def tiny():
    return TinyDataset()


def no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_planning_needs_no_torch():
    assert no_torch("fewseg.sampling")
    assert no_torch("fewseg.protocols")


# ---- label maps and points


def test_annotation_and_query_maps_follow_the_void_rule():
    label = np.uint8([[0, 3, 7, 255]])  # 7 stands for a novel class in a kept image: negative
    for function in (annotation_map, query_mask):
        assert function(label, 3).tolist() == [[0, 1, 0, 255]]
        assert function(label, 3, "background").tolist() == [[0, 1, 0, 0]]
        assert function(label, 3, "foreground").tolist() == [[0, 1, 0, 1]]
    assert label.tolist() == [[0, 3, 7, 255]]


@pytest.mark.parametrize(("height", "width", "cells"), [(17, 17, 0), (18, 18, 1), (50, 49, 2), (64, 96, 6)])
def test_oslsm_cells_of_full_masks(height, width, cells):
    mask = np.ones((height, width), bool)
    assert oslsm_cells(mask) == cells
    rows, cols = -(-(height + 30) // 32), -(-(width + 30) // 32)
    canvas = np.zeros((32 * rows, 32 * cols), bool)  # the definition, step by step
    canvas[15 : 15 + height, 15 : 15 + width] = mask
    assert canvas[::32, ::32].sum() == cells


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10), st.integers(0, 10), st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.randoms()
)
def test_points_are_nested_distinct_equal_and_never_void(few, more, seed, height, width, rnd):
    annotation = np.uint8([[rnd.choice((0, 1, 255)) for _ in range(width)] for _ in range(height)])
    points = draw_points(annotation, few, seed)
    assert points == draw_points(annotation, few, seed)
    assert len(set(points)) == len(points)
    assert all(annotation[row, col] == label for row, col, label in points)
    for label in (0, 1):
        assert sum(p[2] == label for p in points) == min(few, (annotation == label).sum())
    assert set(points) <= set(draw_points(annotation, few + more, seed))


def test_points_of_other_labels_are_drawn_alike():
    objects = np.zeros((20, 30), np.uint8)
    objects[:, 10:], objects[:, 20:], objects[0] = 1, 4, 255
    two = draw_points(np.where(objects == 4, np.uint8(255), objects), 6, seed=3)
    assert draw_points(objects, 6, seed=3, labels=(0, 1, 4))[:12] == two
    alone = draw_points(objects, 6, seed=3, labels=(4,))
    assert alone == draw_points(objects, (2, 6), seed=3, labels=(0, 4))[2:]
    assert len(set(alone)) == 6
    assert all(objects[row, col] == label == 4 for row, col, label in alone)
    assert draw_points(objects, 6, seed=3, labels=()) == draw_points(objects, 6, seed=3, labels=(9,)) == []
    with pytest.raises(FewsegError, match="n_points: got -1"):
        draw_points(objects, -1, seed=3, labels=(0, 4))


def test_points_are_uniform():
    annotation = np.zeros((1, 4), np.uint8)
    hits = np.zeros((4, 4))
    for seed in range(4000):
        for position, (_, col, _) in enumerate(draw_points(annotation, 4, seed)):
            hits[position, col] += 1
    assert np.abs(hits / 4000 - 0.25).max() < 0.03  # four standard deviations


def test_short_labels_give_all_or_nothing():
    annotation = np.uint8([[1, 0, 0, 0]])
    assert sorted(p[2] for p in draw_points(annotation, 3, 0)) == [0, 0, 0, 1]
    assert [p[2] for p in draw_points(annotation, 3, 0, "none")] == [0, 0, 0]
    assert [p[2] for p in draw_points(annotation, (0, 1), 0)] == [1]
    with pytest.raises(FewsegError, match="n_points"):
        draw_points(annotation, -1, 0)


# ---- pools


def test_dropped_images_show_no_novel_class(tiny):
    areas = tiny.index().areas
    for fold in range(4):
        novel = set(tiny.novel_classes(fold))
        pool = training_pool(tiny, TrainingPart(), fold)
        assert pool.images == tuple(i for i in tiny.ids("train") if novel.isdisjoint(areas[i]))
        assert set(pool.by_class) == set(tiny.base_classes(fold))
        assert all(c in areas[i] for c, ids in pool.by_class.items() for i in ids)


def test_kept_images_offer_base_classes_only(tiny):
    kept = training_pool(tiny, TrainingPart(heldout="background"), 0)
    assert set(training_pool(tiny, TrainingPart(), 0).images) < set(kept.images)
    assert set(kept.by_class) == {3, 4, 5, 6, 7, 8}


def test_test_images_never_train_where_train_and_val_are_one_list():
    shared = TinyDataset(shared_split=True)
    for heldout in ("drop", "background"):
        trained = training_pool(shared, TrainingPart(heldout=heldout), 0).images
        assert set(trained).isdisjoint(evaluation_pool(shared, EvaluationPart(), 0).images)


def test_oracle_sees_all_classes(tiny):
    assert set(training_pool(tiny, TrainingPart(classes="all"), 0).by_class) == set(range(1, 9))


def test_single_class_and_area_filters(tiny):
    areas = tiny.index().areas
    single = training_pool(tiny, TrainingPart(single_class=True), 0)
    assert single.images == tuple(
        i for i in tiny.ids("train") if len(areas[i]) == 1 and areas[i].keys().isdisjoint({1, 2})
    )
    wide = training_pool(tiny, TrainingPart(min_area=3000), 0)  # the second object has 80 x 33 pixels
    assert all(areas[i][c] == 4000 for c, ids in wide.by_class.items() for i in ids)
    # rows 17, 49, 81 and columns 17, 49 of the first object: 6 cells; column 81 of the second: 3 cells
    assert training_pool(tiny, TrainingPart(min_cells=4), 0) == wide
    assert training_pool(tiny, TrainingPart(min_cells=3), 0) == training_pool(tiny, TrainingPart(), 0)


def test_balanced_classes_have_as_many_images_as_the_rarest(tiny):
    plain = training_pool(tiny, TrainingPart(), 0).by_class
    balanced = training_pool(tiny, TrainingPart(class_balanced=True), 0).by_class
    rarest = min(len(ids) for ids in plain.values())
    assert max(len(ids) for ids in plain.values()) > rarest
    assert {len(ids) for ids in balanced.values()} == {rarest}
    assert all(set(balanced[c]) <= set(plain[c]) for c in plain)


def test_held_out_tenth_is_fixed_and_disjoint(tiny):
    part = TrainingPart(hold_out_tenth=True)
    train, kept = training_pool(tiny, part, 3), validation_pool(tiny, part, 3)
    everything = training_pool(tiny, TrainingPart(), 3).images
    assert set(train.images).isdisjoint(kept.images)
    assert set(train.images) | set(kept.images) == set(everything)
    assert len(kept.images) == len(everything) // 10
    reordered = TinyDataset()
    reordered.splits["train"] = reordered.splits["train"][::-1]
    assert set(validation_pool(reordered, part, 3).images) == set(kept.images)
    with pytest.raises(FewsegError, match="hold_out_tenth"):
        validation_pool(tiny, TrainingPart(), 3)


def test_foreign_lists_are_needed_and_complete(tiny):
    with pytest.raises(FewsegError, match="hsnet/val/fold0"):
        evaluation_pool(tiny, HSNET.evaluation, 0)
    listed = ListedDataset()
    pool = training_pool(listed, HSNET.training, 1)
    assert set(pool.by_class) == set(listed.base_classes(1))  # the union of the other folds' lists
    listed.foreign_list = lambda name: (("im99", 1),)
    with pytest.raises(FewsegError, match="got 4 of 4 masks that the data set lacks, the first in im99"):
        evaluation_pool(listed, HSNET.evaluation, 0)


# ---- evaluation lists


def check_distinct(specs, n_shot):
    for spec in specs:
        assert len(spec.support_ids) == n_shot
        assert len({spec.query_id, *spec.support_ids}) == n_shot + 1


def test_clean_list_is_nested_balanced_and_distinct(tiny):
    one, three = (evaluation_list(tiny, CLEAN, 0, k, 2, 40).specs for k in (1, 3))
    check_distinct(three, 3)
    for a, b in zip(one, three, strict=True):
        assert (a.query_id, a.class_id, a.seed, a.support_ids) == (b.query_id, b.class_id, b.seed, b.support_ids[:1])
        assert a.points == tuple(p for p in b.points if p.shot == 0)
    more_points = evaluation_list(tiny, CLEAN, 0, 3, 5, 40).specs
    assert all(set(a.points) < set(b.points) for a, b in zip(three, more_points, strict=True))
    assert evaluation_list(tiny, CLEAN, 0, 1, 2, 10).specs == one[:10]
    dense = evaluation_list(tiny, CLEAN, 0, 1, None, 40).specs
    assert dense == tuple(dataclasses.replace(s, points=None) for s in one)
    assert [s.class_id for s in one[:4]] == [1, 2, 1, 2]
    uses = {
        q: sum(s.query_id == q and s.class_id == 1 for s in one) for q in {s.query_id for s in one if s.class_id == 1}
    }
    assert max(uses.values()) - min(uses.values()) <= 1
    assert {s.query_id for s in one if s.class_id == 1} == set(evaluation_pool(tiny, CLEAN.evaluation, 0).by_class[1])


def test_evaluation_points_lie_on_their_label(tiny):
    for spec in evaluation_list(tiny, CLEAN, 1, 2, 7, 20).specs:
        for shot, row, col, label in spec.points:
            assert annotation_map(tiny.labels[spec.support_ids[shot]], spec.class_id)[row, col] == label
        assert len(spec.points) == 2 * 2 * 7


def test_every_support_label_is_read_once(tiny):
    specs = evaluation_list(tiny, CLEAN, 0, 3, 1, 100).specs
    assert tiny.reads == len({i for s in specs for i in s.support_ids})


def test_mixed_counts_differ_and_always_have_a_positive(tiny):
    specs = evaluation_list(tiny, CLEAN_MIXED, 0, 2, 20, 60).specs
    counts = {(shot, label) for s in specs for shot in (0, 1) for label in [sum(p.shot == shot for p in s.points)]}
    assert len(counts) > 10
    assert all(any(p.shot == 0 and p.label == 1 for p in s.points) for s in specs)
    per_label = {sum(p.shot == 1 and p.label == 1 for p in s.points) for s in specs}
    assert per_label == {0, 1, 2, 5, 10, 20}
    with pytest.raises(FewsegError, match="n_points: got dense"):
        evaluation_list(tiny, CLEAN_MIXED, 0, 1, None)


def test_lists_are_frozen(tiny):
    episodes = evaluation_list(tiny, CLEAN, 2, 1, 1, 20)
    again = EpisodeList.from_text(episodes.text())
    assert again == episodes
    assert len(episodes) == 20
    # a new digest means that every list changes: results of before and after can no longer be paired
    assert episodes.sha256 == "ad034eb39c5a6175a5d400220ec89c3727fccf2673cd28100419969580bdcd2f"
    assert episodes.sha256 == again.sha256
    assert evaluation_list(tiny, CLEAN, 2, 1, 2, 20).sha256 != episodes.sha256


def test_broken_text_is_named():
    with pytest.raises(FewsegError, match="episode list, line 2"):
        EpisodeList.from_text(EpisodeSpec("q", (), 1).to_json() + "\n{}\n")


def test_python2_shuffle_twice():
    rng = random.Random(1385)
    first, second = list(range(10)), list(range(10))
    python2_shuffle(first, rng)
    python2_shuffle(second, rng)
    assert first == [8, 5, 3, 6, 0, 2, 7, 4, 9, 1]
    assert second == [1, 8, 2, 3, 5, 0, 7, 6, 9, 4]


def test_oslsm_list_starts_as_the_shuffle_says_and_shares_queries(tiny):
    pool = evaluation_pool(tiny, OSLSM.evaluation, 0)
    entries = [(i, c) for i in tiny.ids("val") for c in sorted(tiny.index().areas[i]) if i in pool.by_class.get(c, ())]
    order = list(range(len(entries)))
    python2_shuffle(order, random.Random(1385))
    one, three = (evaluation_list(tiny, OSLSM, 0, k, None, 30).specs for k in (1, 3))
    assert [(s.query_id, s.class_id) for s in one[: len(order)]] == [entries[j] for j in order][:30]
    assert [(s.query_id, s.support_ids[0]) for s in one] == [(s.query_id, s.support_ids[0]) for s in three]
    check_distinct(three, 3)


def test_sgone_swaps_roles_at_one_shot_only(tiny):
    oslsm, sgone = (evaluation_list(tiny, p, 0, 1, None, 20).specs for p in (OSLSM, SGONE))
    assert [(s.query_id, s.support_ids) for s in sgone] == [(s.support_ids[0], (s.query_id,)) for s in oslsm]
    oslsm, sgone = (evaluation_list(tiny, p, 0, 3, None, 20).specs for p in (OSLSM, SGONE))
    assert sgone == oslsm


def test_hsnet_queries_cycle_and_supports_follow_numpys_global_stream():
    listed = ListedDataset()
    entries = listed.foreign_list("hsnet/val/fold1")
    specs = evaluation_list(listed, HSNET, 1, 5, None, 60).specs
    np.random.seed(0)
    for number, spec in enumerate(specs):
        query, class_id = entries[number % len(entries)]
        of_class = [i for i, c in entries if c == class_id]
        supports = []
        while len(supports) < 5:
            name = np.random.choice(of_class, 1, replace=False)[0]
            supports += [name] if name != query else []
        assert (spec.query_id, spec.class_id, list(spec.support_ids)) == (query, class_id, supports)
    assert any(len(set(s.support_ids)) < 5 for s in specs)


def test_pfenet_cycles_over_images_with_distinct_supports():
    listed = ListedDataset()
    specs = evaluation_list(listed, PFENET, 0, 3, None).specs
    assert len(specs) == 5001
    check_distinct(specs[:50], 3)
    images = evaluation_pool(listed, PFENET.evaluation, 0).images
    assert [s.query_id for s in specs[:20]] == [images[e % len(images)] for e in range(20)]


def test_panet_runs_have_their_own_seeds(tiny):
    specs = evaluation_list(tiny, PANET, 0, 1, None).specs
    assert len(specs) == 5000
    check_distinct(specs[:50], 1)
    assert PANET.evaluation.run_of(999, 5000) == 0
    assert PANET.evaluation.run_of(1000, 5000) == 1
    assert {s.query_id for s in specs} <= set(tiny.ids("trainaug"))
    second = dataclasses.replace(PANET.evaluation, seed=1235, runs=1)
    alone = evaluation_list(tiny, PANET._replace(evaluation=second), 0, 1, None, 1000).specs
    assert [s.query_id for s in alone] == [s.query_id for s in specs[1000:2000]]


def test_revolver_takes_every_mask_once_and_support_may_be_the_query(tiny):
    specs = evaluation_list(tiny, REVOLVER, 0, 1, None).specs
    pool = evaluation_pool(tiny, REVOLVER.evaluation, 0)
    assert sorted((s.query_id, s.class_id) for s in specs) == sorted(
        (i, c) for c, ids in pool.by_class.items() for i in ids
    )
    assert any(s.query_id in s.support_ids for s in specs)
    assert evaluation_list(tiny, REVOLVER, 0, 1, None, 3).specs == specs[:3]
    assert len(evaluation_list(tiny, REVOLVER, 0, 50, None)) == len(specs)  # supports may repeat: any K works


def test_infeasible_requests_name_class_numbers_and_remedy(tiny):
    n = min(len(ids) for ids in evaluation_pool(tiny, CLEAN.evaluation, 0).by_class.values())
    assert evaluation_list(tiny, CLEAN, 0, n - 1, None, 4)
    with pytest.raises(FewsegError, match=rf"n_shot: got {n} with {n} images of class \d, .*{n + 1}.*; lower n_shot"):
        evaluation_list(tiny, CLEAN, 0, n, None, 4)
    for bad in ({"fold": 4}, {"fold": -1}, {"n_shot": -1}, {"n_points": -1}, {"n_episodes": 0}):
        with pytest.raises(FewsegError, match=next(iter(bad))):
            evaluation_list(tiny, CLEAN, **{"fold": 0, "n_shot": 1, "n_points": None, **bad})


def test_no_shots_for_class_blind_methods(tiny):
    for protocol in (CLEAN, OSLSM, SGONE, PANET, REVOLVER):
        specs = evaluation_list(tiny, protocol, 0, 0, None, 5).specs
        assert all(s.support_ids == () for s in specs)
    assert all(s.points == () for s in evaluation_list(tiny, CLEAN, 0, 0, 3, 5).specs)


def test_validation_list_stays_in_the_tenth():
    data = TinyDataset()
    data.splits["train"] = tuple(data.labels)
    kept = validation_pool(data, CLEAN.training, 3)
    specs = validation_list(data, CLEAN, 3, 0, None, 12).specs
    assert {s.query_id for s in specs} <= set(kept.images)
    assert {s.class_id for s in specs} <= set(data.base_classes(3))
    with pytest.raises(FewsegError, match=r"n_shot: got 40 .*, expected a class with 41; switch validation off"):
        validation_list(data, CLEAN, 3, 40, None, 4)
    with pytest.raises(FewsegError, match="hold_out_tenth"):
        validation_list(data, OSLSM, 3, 1, None, 4)


# ---- queries without the class


def absent(share, protocol=CLEAN):
    return protocol._replace(evaluation=dataclasses.replace(protocol.evaluation, absent=share))


def of_three_classes():
    """Folds of three classes; where images show two, these are three apart, and so in different folds."""
    data = TinyDataset()
    data.class_names = NAMES[:6]
    data.novel_classes = lambda fold: (1, 2, 3) if fold == 0 else (4, 5, 6)
    return data


@pytest.mark.parametrize("n_points", [None, 3])
def test_half_of_the_queries_lack_their_class_and_nothing_else_differs_from_clean(tiny, n_points):
    areas = tiny.index().areas
    ours, clean = (evaluation_list(tiny, p, 0, 2, n_points, 40).specs for p in (CLEAN_ABSENT, CLEAN))
    for one, other in zip(ours, clean, strict=True):
        assert one.present == (one.class_id in areas[one.query_id])
        assert dataclasses.replace(one, query_id=other.query_id, present=True) == other
        if one.present:
            assert one == other
        else:
            assert set(areas[one.query_id]) & set(tiny.novel_classes(0))  # it shows the other class of the fold
            assert one.query_id in tiny.ids("val")
    assert sum(not one.present for one in ours) == 20
    check_distinct(ours, 2)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("make", [TinyDataset, of_three_classes])
def test_every_class_has_the_share_at_any_length(share, make):
    data = make()
    specs = evaluation_list(data, absent(share), 0, 1, None, 120).specs
    classes = data.novel_classes(0)
    for length in range(1, 121):
        for c in classes:
            own = [s for s in specs[:length] if s.class_id == c]
            assert abs(sum(not s.present for s in own) - share * len(own)) < 1
    turns = [specs[i : i + len(classes)] for i in range(0, 120, len(classes))]
    if share == 0.5:  # classes do not all lack their query at once
        assert all(abs(sum(s.present for s in turn) - len(classes) / 2) < 1 for turn in turns)


def test_images_without_the_class_take_turns():
    data = of_three_classes()
    areas, pool = data.index().areas, evaluation_pool(data, CLEAN.evaluation, 0)
    specs = evaluation_list(data, CLEAN_ABSENT, 0, 1, None, 600).specs
    for c in (1, 2, 3):
        others = {i for i in pool.images if c not in areas[i]}
        drawn = [s.query_id for s in specs if s.class_id == c and not s.present]
        laps = [drawn[i : i + len(others)] for i in range(0, len(drawn) - len(others), len(others))]
        assert all(set(lap) == others for lap in laps)
        assert len(laps) > 1
        assert laps[0] != laps[1]  # shuffled anew


def test_lists_with_absent_classes_are_nested(tiny):
    specs = evaluation_list(tiny, CLEAN_ABSENT, 1, 5, 9, 30).specs
    assert evaluation_list(tiny, CLEAN_ABSENT, 1, 5, 9, 11).specs == specs[:11]
    for one, five in zip(evaluation_list(tiny, CLEAN_ABSENT, 1, 1, 2, 30).specs, specs, strict=True):
        assert (one.query_id, one.present, one.support_ids) == (five.query_id, five.present, five.support_ids[:1])
        assert set(one.points) <= set(five.points)
    assert all(s.support_ids == () for s in evaluation_list(tiny, CLEAN_ABSENT, 0, 0, None, 9).specs)


def test_a_class_that_is_alone_is_asked_for_in_other_images(tiny):
    tiny.novel_classes = lambda fold: (1,)
    specs = evaluation_list(tiny, CLEAN_ABSENT, 0, 1, None, 40).specs
    areas = tiny.index().areas
    drawn = {s.query_id for s in specs if not s.present}
    assert len(drawn) == 20
    assert all(1 not in areas[i] and i in tiny.ids("val") for i in drawn)
    for label in tiny.labels.values():
        label[0, 0] = 1  # a pixel is enough
    with pytest.raises(FewsegError, match="pool: got no image without class 1, expected at least 1 for every class"):
        evaluation_list(tiny, CLEAN_ABSENT, 0, 1, None, 40)


def test_model_selection_is_that_of_clean():
    data = TinyDataset()
    data.splits["train"] = tuple(data.labels)
    ours, clean = (validation_list(data, p, 3, 0, None, 12) for p in (CLEAN_ABSENT, CLEAN))
    assert ours == clean


@pytest.mark.parametrize(
    "protocol",
    [*(absent(share) for share in (0.0, 1.0, -0.5, 50)), *(absent(0.5, p) for p in (INTERACTIVE, SGONE_MULTICLASS))]
    + [absent(0.5, VIDEO), absent(0.5, ONE_SHOT)],
)
def test_a_share_that_means_nothing_is_an_error(tiny, protocol):
    with pytest.raises(FewsegError, match=r"absent: got .*, expected a share between 0 and 1, where episodes ask for"):
        evaluation_list(tiny, protocol, 0, 1, None, 10)


# ---- training


def test_training_draws_are_pure_distinct_and_cover_the_classes(tiny):
    pool = training_pool(tiny, CLEAN.training, 0)
    first, second = (TrainingSampler(pool, 2, "dense", seed=5) for _ in range(2))
    draws = [first.draw(i) for i in range(300)]
    assert [second.draw(i) for i in reversed(range(300))] == draws[::-1]
    check_distinct([d.spec for d in draws], 2)
    assert {d.spec.class_id for d in draws} == set(pool.by_class)
    assert all({d.spec.query_id, *d.spec.support_ids} <= set(pool.by_class[d.spec.class_id]) for d in draws)
    assert all(d.n_points is None and d.spec.points is None for d in draws)
    assert [TrainingSampler(pool, 2, "dense", seed=6).draw(i) for i in range(9)] != draws[:9]


def test_training_point_counts():
    pool = Pool({1: ("a", "b")}, ("a", "b"))
    sparse = [TrainingSampler(pool, 1, "sparse", 0).draw(i).n_points for i in range(3000)]
    assert (min(sparse), max(sparse)) == (0, 99)
    assert abs(np.mean(sparse) - 49.5) < 3
    mixed = [TrainingSampler(pool, 1, "mixed", 0).draw(i).n_points for i in range(3000)]
    counts = [n for n in mixed if n is not None]
    assert abs(len(counts) / 3000 - 0.5) < 0.05
    assert (min(counts), max(counts)) == (1, 99)
    assert abs(np.mean([n < 10 for n in counts]) - 0.5) < 0.06  # log 10 is half of log 100


def test_training_fails_early():
    with pytest.raises(FewsegError, match="n_shot: got 2 with 2 images of class 1, expected at least 3"):
        TrainingSampler(Pool({1: ("a", "b")}, ("a", "b")), 2, "dense", 0)
    with pytest.raises(FewsegError, match="pool: got no image of class 4, expected at least 2"):
        TrainingSampler(Pool({1: ("a", "b"), 4: ()}, ("a", "b")), 1, "dense", 0)
    with pytest.raises(FewsegError, match="pool: got no class"):
        TrainingSampler(Pool({}, ()), 0, "dense", 0)
    with pytest.raises(FewsegError, match="points: got some"):
        TrainingSampler(Pool({1: ("a",)}, ("a",)), 0, "some", 0)
    assert TrainingSampler(Pool({1: ("a",)}, ("a",)), 0, "dense", 0).draw(0).spec.support_ids == ()


def test_sub_seeds_are_32_bits_and_differ():
    seeds = {sub_seed("x", i) for i in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**32 for s in seeds)


# ---- real data


@pytest.fixture
def data_root():
    root = os.environ.get("FEWSEG_DATA")
    if not root:
        pytest.skip("FEWSEG_DATA is not set: no real data")
    return Path(root)


def test_voc400_fold_sizes(data_root, tmp_path, monkeypatch):
    if not (data_root / "voc400").is_dir():
        pytest.skip("FEWSEG_DATA holds no voc400")
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))
    dataset = Voc400(str(data_root / "voc400"))
    pools = [training_pool(dataset, TrainingPart(), fold) for fold in range(4)]
    assert [len(pool.images) for pool in pools] == [723, 681, 553, 762]
    for fold in range(4):
        train, kept = (f(dataset, CLEAN.training, fold) for f in (training_pool, validation_pool))
        assert len(train.images) + len(kept.images) == len(pools[fold].images)
        assert set(pools[fold].images).isdisjoint(evaluation_pool(dataset, CLEAN.evaluation, fold).images)
        assert len(validation_list(dataset, CLEAN, fold, 1, None, 30)) == 30


def test_hsnet_lists_hold_their_fold_and_have_their_lengths(data_root):
    if not (data_root / "splits" / "pascal").is_dir():
        pytest.skip("FEWSEG_DATA holds no splits/pascal")
    lists = [foreign_list(f"hsnet/val/fold{fold}") for fold in range(4)]
    assert [len(items) for items in lists] == [346, 451, 725, 346]
    for fold, items in enumerate(lists):
        assert {c for _, c in items} == set(range(5 * fold + 1, 5 * fold + 6))
        assert len(set(items)) == len(items)  # else the pool, which names each mask once, would be shorter
