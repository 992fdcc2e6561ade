"""Trivial answers from rows: by hand, and against masks that are really scored."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Frame, Instances, Row, VideoEpisode
from fewseg.evaluation import Reply, Tracked, click_rows, instance_rows, rows, union_rows, video_rows
from fewseg.functional.iou import bootstrap_interval, confusion_counts, mean_iou, per_class_iou
from fewseg.functional.matching import Detected, encode
from fewseg.functional.run_figures import final_rows, score
from fewseg.functional.timing import Seconds
from fewseg.functional.trivial import ALL_BACKGROUND, ALL_FOREGROUND, TRUE_BOX, box_area, trivial_rows
from fewseg.sampling import EvaluationPart

NAMES = [ALL_BACKGROUND, ALL_FOREGROUND, TRUE_BOX]
PART = EvaluationPart()
VOIDS = ("ignore", "background", "foreground")


def box_of(target, void):
    """The mask of the smallest rectangle around the foreground."""
    truth = (target == 1) | ((target == 255) & (void == "foreground"))
    mask = np.zeros(target.shape, np.uint8)
    if truth.any():
        (top, bottom), (left, right) = ((places.min(), places.max() + 1) for places in np.nonzero(truth))
        mask[top:bottom, left:right] = 1
    return mask


@st.composite
def targets(draw):
    height, width, seed = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(0, 2**32 - 1))
    random = np.random.RandomState(seed)
    return random.choice(np.uint8([0, 1, 255]), size=(height, width), p=random.dirichlet([1, 0.3, 0.3]))


# ---- the box


def test_boxes_by_hand():
    target = np.zeros((6, 9), np.uint8)
    target[2, 3], target[4, 6] = 1, 1  # 3 rows, 4 columns
    assert [box_area(target, void) for void in VOIDS] == [12, 12, 12]
    target[3, 4], target[0, 0] = 255, 255  # one within the box, one outside
    assert [box_area(target, void) for void in VOIDS] == [11, 12, 35]
    assert box_area(np.ones((4, 5), np.uint8)) == 20
    for nothing in (np.zeros((4, 5), np.uint8), np.uint8([[0, 255]])):
        assert box_area(nothing) == box_area(nothing, "background") == 0


@settings(max_examples=150, deadline=None)
@given(targets(), st.sampled_from(VOIDS), st.booleans())
def test_the_box_is_what_its_mask_would_count(target, void, turned):
    tp, fp, fn, _ = confusion_counts(box_of(target, void), target, void)
    assert fn == 0
    assert box_area(np.asfortranarray(target) if turned else target, void) == tp + fp
    assert box_area(np.repeat(target, 2, 1)[:, ::2], void) == tp + fp  # of every second column


# ---- rows


def test_counts_by_hand():
    given_rows = [
        Row(0, "a", "s", 1, tp=2, fp=5, fn=1, tn=12, box=4, seconds_segment=0.5, boundary_pred=3),
        Row(1, "b", "s", 2, tp=0, fp=7, fn=0, tn=3, box=0, present=False),
    ]
    final = pd.DataFrame(given_rows)
    trivial = trivial_rows(final)
    assert list(trivial) == NAMES
    counts = {name: one[["tp", "fp", "fn", "tn"]].to_numpy().tolist() for name, one in trivial.items()}
    assert counts == {
        ALL_BACKGROUND: [[0, 0, 3, 17], [0, 0, 0, 10]],
        ALL_FOREGROUND: [[3, 17, 0, 0], [0, 10, 0, 0]],
        TRUE_BOX: [[3, 1, 0, 16], [0, 0, 0, 10]],
    }
    for one in trivial.values():
        assert list(one.columns) == list(Row._fields)
        assert one[["query", "class_id", "present", "box"]].equals(final[["query", "class_id", "present", "box"]])
        assert one[["seconds_segment", "boundary_pred"]].isna().all(axis=None)
    assert final.tp.tolist() == [2, 0]
    assert final.seconds_segment.notna().any()


@pytest.mark.parametrize("boxes", [(None, None), (4, None)])
def test_rows_without_a_box_have_no_true_box(boxes):
    final = pd.DataFrame([Row(i, "a", "s", 1, tp=2, fp=5, fn=1, tn=12, box=box) for i, box in enumerate(boxes)])
    assert list(trivial_rows(final)) == NAMES[:2]


@settings(max_examples=50, deadline=None)
@given(st.lists(targets(), min_size=1, max_size=6), st.sampled_from(VOIDS[:2]), st.integers(0, 2**32 - 1))
def test_trivial_rows_are_those_of_trivial_masks_whatever_was_answered(shown, void, seed):
    random = np.random.RandomState(seed)

    def scored(answer):
        found = [confusion_counts(answer(target), target, void) for target in shown]
        return pd.DataFrame(
            [Row(i, f"q{i}", "s", 1 + i % 2, *one, box=box_area(shown[i], void)) for i, one in enumerate(found)]
        )

    expected = {
        ALL_BACKGROUND: scored(np.zeros_like),
        ALL_FOREGROUND: scored(np.ones_like),
        TRUE_BOX: scored(lambda target: box_of(target, void)),
    }
    trivial = trivial_rows(final_rows(scored(lambda target: random.randint(2, size=target.shape))))
    for name, one in expected.items():
        columns = [trivial[name][column] for column in ("class_id", "tp", "fp", "fn")]
        wanted = [one[column] for column in ("class_id", "tp", "fp", "fn")]
        assert trivial[name].tn.tolist() == one.tn.tolist()
        assert per_class_iou(*columns) == per_class_iou(*wanted)
        assert mean_iou(*columns) == mean_iou(*wanted)
        assert bootstrap_interval(trivial[name]["query"], *columns, replicates=20) == bootstrap_interval(
            one["query"], *wanted, replicates=20
        )
        assert score(trivial[name], ("a", "b"), (1, 2)) == score(one, ("a", "b"), (1, 2))


def test_planning_needs_no_torch():
    code = "import sys, fewseg.functional.trivial, fewseg.functional.ranking; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- every kind of row with a truth has a box


TRUTH = np.zeros((8, 10), np.uint8)
TRUTH[1:4, 2:5], TRUTH[5, 7], TRUTH[2, 6], TRUTH[7, 0] = 1, 1, 255, 255  # a box of 5 x 6, one void pixel in it
BOX = {"ignore": 29, "background": 30}


def batch_of(*truths, group=None):
    n = len(truths)
    specs = tuple(EpisodeSpec("q", ("s",), c, group=group, object_id=1) for c in range(1, n + 1))
    frame = Frame((8, 10), (8, 10), Box(0, 0, 8, 10))
    return EpisodeBatch(
        support_images=torch.zeros(n, 1, 3, 8, 10, dtype=torch.uint8),
        support_annotations=torch.zeros(n, 1, 8, 10, dtype=torch.uint8),
        query_images=torch.zeros(n, 3, 8, 10, dtype=torch.uint8),
        query_clicks=torch.zeros(n, 0, 3, dtype=torch.int32),
        query_masks=torch.zeros(n, 8, 10, dtype=torch.uint8),
        targets=tuple(map(torch.from_numpy, truths)),
        frames=(frame,) * n,
        specs=specs,
    )


@pytest.mark.parametrize("void", list(BOX))
@pytest.mark.parametrize("group", [None, 0])
def test_rows_of_episodes_and_groups_have_their_box(void, group):
    part = dataclasses.replace(PART, void=void)
    logits = torch.rand(2, 2, 8, 10, generator=torch.Generator().manual_seed(0))
    nothing = np.zeros((8, 10), np.uint8)
    found = rows(batch_of(TRUTH, nothing, group=group), logits, part, [0, 1])
    assert [row.box for row in found] == [BOX[void], 0]
    assert [row.tp + row.fn for row in found] == [10, 0]


def test_rows_of_clicks_have_their_box():
    reply = Reply((), np.ones((8, 10), np.uint8), None, Seconds(0, 0, 0), 0.0)
    assert [row.box for row in click_rows(batch_of(TRUTH), [reply, reply], PART, [0])] == [29, 29]


@pytest.mark.parametrize("class_blind", [False, True])
def test_rows_of_videos_have_a_box_for_each_object_and_frame(class_blind):
    second = np.zeros_like(TRUTH)
    second[6:, 3:] = 1
    truths = [np.stack([TRUTH, second]), np.stack([second, np.zeros_like(TRUTH)])]
    spec = EpisodeSpec("bear", ("bear/0",), 1)
    episode = VideoEpisode([None, None], {0: truths[0]}, truths, spec, ("bear/0", "bear/1"))
    part = dataclasses.replace(PART, void="background")
    found = [
        row
        for frame in (0, 1)
        for row in video_rows(episode, Tracked(frame, TRUTH % 2, Seconds(0, 0, 0)), part, 0, class_blind)
    ]
    assert [(row.frame, row.object_id, row.box) for row in found] == [(0, 1, 30), (0, 2, 14), (1, 1, 14), (1, 2, 0)]


def test_unions_have_the_box_around_all_objects_and_detections_have_none():
    masks = torch.from_numpy(np.stack([TRUTH == 1, TRUTH == 1]).astype(np.uint8))
    shown = Instances(torch.tensor([[2, 1, 8, 6]] * 2), masks, torch.tensor([1, 1]), crowd=torch.tensor([False, False]))
    batch = dataclasses.replace(batch_of(TRUTH), instances=(shown,))
    own = Detected(np.array([[0.0, 0, 4, 4]]), encode(masks[:1].numpy()), np.array([0.9]))
    assert [row.box for row in union_rows(batch, [own], PART, [0])] == [29]
    found = instance_rows(batch, [own], PART, [0])
    assert [row.box for row in found] == [29, None]
    assert list(trivial_rows(final_rows(pd.DataFrame(found)))) == NAMES
