"""From detections to rows: which are right, wrong or ignored, the union, and random boxes in their place."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Frame, Instances
from fewseg.errors import FewsegError
from fewseg.evaluation import (
    check_classes,
    check_finds,
    check_trains,
    detected,
    instance_rows,
    search,
    shifted_detections,
    shifted_truth,
    union_rows,
)
from fewseg.functional.iou import confusion_counts
from fewseg.functional.matching import MOST
from fewseg.functional.shifts import random_truth
from fewseg.functional.timing import Seconds
from fewseg.models import FgBg, MaskRCNN, PANet, SiameseMaskRCNN
from fewseg.protocols import get_protocol

torch.set_num_threads(1)

SIZE = (20, 40)
PART = get_protocol("one-shot").evaluation
ALL_IOUS, UP_TO_065 = 1023, 15  # bit i is for IoU 0.5 + 0.05 i
LEFT, RIGHT, CROWD, OTHER = (0, 0, 10, 10), (20, 0, 30, 10), (0, 12, 40, 20), (32, 0, 40, 10)
SCENE = ((LEFT, 3), (RIGHT, 3), (CROWD, 3), (OTHER, 7))


def rectangle(box):
    mask = torch.zeros(*SIZE, dtype=torch.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def masks_of(boxes):
    return torch.stack([rectangle(b) for b in boxes]) if len(boxes) else torch.zeros(0, *SIZE, dtype=torch.uint8)


def annotated(*scene):
    boxes = [box for box, _ in scene]
    return Instances(
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        masks_of(boxes),
        torch.tensor([label for _, label in scene], dtype=torch.int64),
        crowd=torch.tensor([box == CROWD for box in boxes], dtype=torch.bool),
    )


def found(*boxes, scores, masks=None):
    places = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.ones(len(boxes), dtype=torch.int64)
    return Instances(places, masks_of(masks or boxes), labels, torch.tensor(scores, dtype=torch.float32))


def episode(truth, class_id=3, seed=0, present=True):
    target = torch.zeros(*SIZE, dtype=torch.uint8)
    for mask, label, crowd in sorted(
        zip(truth.masks, truth.labels.tolist(), truth.crowd.tolist(), strict=True), key=lambda one: not one[2]
    ):
        if label == class_id:
            target[mask == 1] = 255 if crowd else 1
    return EpisodeBatch(
        support_images=torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8),
        support_annotations=torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        query_images=torch.zeros(1, 3, *SIZE, dtype=torch.uint8),
        query_clicks=torch.zeros(1, 0, 3, dtype=torch.int32),
        query_masks=target[None],
        targets=(target,),
        frames=(Frame(SIZE, SIZE, Box(0, 0, *SIZE)),),
        specs=(EpisodeSpec("q", ("s",), class_id, seed=seed, present=present, support_objects=(1,)),),
        instances=(truth,),
        task="instance",
    )


def rows_of(batch, own, *rest):
    return instance_rows(batch, [detected(one) for one in own], *rest)


def counts(row):
    return row.tp, row.fp, row.fn, row.tn


def test_rows_of_a_search_by_hand():
    half_of_left, shifted = (0, 0, 10, 5), (22, 0, 32, 10)  # IoU 1/2 and 2/3
    in_crowd, nothing = (4, 14, 10, 19), (12, 0, 18, 8)
    boxes = (LEFT, shifted, in_crowd, OTHER, nothing)
    own = found(*boxes, scores=[0.9, 0.8, 0.7, 0.6, 0.3], masks=(half_of_left, *boxes[1:]))
    seconds = Seconds(0.1, 0.2, 0.3)
    union, *each = rows_of(episode(annotated(*SCENE)), [own], PART, [4], seconds)
    # the first four count, what is in the crowd does not: 50 + 80 right; 20 and the 80 of the other class wrong
    assert counts(union) == (130, 100, 70, 180)
    assert (union.truth, union.score, union.object_id, union.matched_boxes) == ("3:2 7:1", None, None, None)
    assert (union.seconds_encode, union.seconds_guide, union.seconds_segment) == (0.1, 0.2, 0.3)
    assert [row.object_id for row in each] == [0, 1, 2, 3, 4]
    assert [row.score for row in each] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.3])
    assert [row.matched_boxes for row in each] == [ALL_IOUS, UP_TO_065, 0, 0, 0]
    assert [row.matched_masks for row in each] == [1, UP_TO_065, 0, 0, 0]
    assert [row.ignored_boxes for row in each] == [0, 0, ALL_IOUS, 0, 0]
    assert [row.ignored_masks for row in each] == [0, 0, ALL_IOUS, 0, 0]
    assert [row.matched_classes for row in each] == ["3", "3", "", "7", ""]
    assert list(map(counts, each)) == [
        (50, 0, 150, 280), (80, 20, 120, 260), (0, 0, 200, 280), (0, 80, 200, 200), (0, 48, 200, 232)
    ]  # fmt: skip
    for row in (union, *each):
        assert (row.episode, row.query, row.support, row.class_id, row.present) == (4, "q", "s", 3, True)
    for row in each:
        assert (row.truth, row.seconds_encode, row.seconds_guide, row.seconds_segment) == (None,) * 4


def test_each_object_is_matched_once():
    own = found(LEFT, LEFT, scores=[0.9, 0.8])
    _, first, second = rows_of(episode(annotated(*SCENE)), [own], PART, [0])
    assert (first.matched_boxes, second.matched_boxes) == (ALL_IOUS, 0)
    assert (first.matched_classes, second.matched_classes) == ("3", "")


def test_detections_of_another_class_see_its_crowds_and_objects():
    own = found(OTHER, (4, 14, 10, 19), scores=[0.9, 0.8])
    union, right, wrong = rows_of(episode(annotated(*SCENE), class_id=7), [own], PART, [0])
    assert (right.matched_boxes, right.matched_classes) == (ALL_IOUS, "7")
    assert (wrong.matched_boxes, wrong.ignored_boxes) == (0, 0)  # the crowd is of class 3
    assert counts(union) == (80, 30, 0, 690)


def test_no_detections_are_one_row():
    (union,) = rows_of(episode(annotated(*SCENE)), [found(scores=[])], PART, [0])
    assert counts(union) == (0, 0, 200, 280)
    assert union.truth == "3:2 7:1"
    assert union.seconds_encode is None


def test_the_threshold_of_the_protocol_decides_on_the_union_only():
    batch, own = episode(annotated(*SCENE)), found(LEFT, RIGHT, scores=[0.9, 0.4])
    assert counts(rows_of(batch, [own], PART, [0])[0]) == (100, 0, 100, 280)
    low = dataclasses.replace(PART, threshold=0.3)
    assert counts(rows_of(batch, [own], low, [0])[0]) == (200, 0, 0, 280)
    assert len(rows_of(batch, [own], PART, [0])) == 3


def test_an_image_without_the_class():
    batch = episode(annotated((OTHER, 7)), present=False)
    union, wrong = rows_of(batch, [found(LEFT, scores=[0.9])], PART, [0])
    assert (union.present, union.truth, counts(union)) == (False, "7:1", (0, 100, 0, 700))
    assert (wrong.matched_boxes, wrong.ignored_boxes, wrong.matched_classes) == (0, 0, "")


@pytest.mark.parametrize("scene", [(), ((CROWD, 3),)])
def test_an_image_without_an_object(scene):
    batch = episode(annotated(*scene), present=False)
    union, right = rows_of(batch, [found((4, 14, 10, 19), scores=[0.9])], PART, [0])
    assert union.truth == ""
    assert right.matched_boxes == 0
    assert right.ignored_boxes == right.ignored_masks == (ALL_IOUS if scene else 0)
    assert (union.fp, union.tp, union.fn) == (0 if scene else 30, 0, 0)


def test_several_episodes_keep_their_places():
    one, two = episode(annotated(*SCENE)), episode(annotated((OTHER, 7)), class_id=7)
    both = dataclasses.replace(
        one, targets=one.targets + two.targets, specs=one.specs + two.specs, instances=one.instances + two.instances
    )
    rows = rows_of(both, [found(LEFT, scores=[0.9]), found(OTHER, scores=[0.9])], PART, [5, 2])
    assert [(row.episode, row.class_id, row.object_id) for row in rows] == [
        (5, 3, None), (5, 3, 0), (2, 7, None), (2, 7, 0)
    ]  # fmt: skip
    assert [row.matched_masks for row in rows[1::2]] == [ALL_IOUS, ALL_IOUS]


def test_detections_as_the_tools_of_coco_read_them():
    given = detected(found((1.5, 2.0, 4.0, 9.0), scores=[0.25], masks=(LEFT,)))
    assert given.boxes.tolist() == [[1.5, 2.0, 2.5, 7.0]]
    assert given.scores.tolist() == [0.25]
    assert given.masks[0]["size"] == list(SIZE)


# Random boxes


def same(one, other):
    return torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)


def extent(mask):
    columns, rows = mask.any(0).nonzero()[:, 0], mask.any(1).nonzero()[:, 0]
    return [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]


def test_the_random_boxes_of_the_paper_are_the_objects_asked_for_elsewhere():
    truth = annotated(*SCENE)
    (one,) = shifted_truth(episode(truth, seed=5))
    assert one.masks.flatten(1).sum(1).tolist() == [100, 100]  # neither the crowd nor the other class
    assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
    assert all(0.8 <= score < 1 for score in one.scores.tolist())
    for box, mask in zip(one.boxes, one.masks, strict=True):
        assert extent(mask) == box.tolist()
    assert one.labels.tolist() == [1, 1]
    (again,) = shifted_truth(episode(truth, seed=5))
    (other,) = shifted_truth(episode(truth, seed=6))
    assert same(one, again)
    assert not same(one, other)
    assert truth.boxes.tolist() == [list(map(float, box)) for box, _ in SCENE]  # what is given stays


def test_scores_go_with_their_boxes_when_these_are_ordered():
    """With objects of unlike sizes, both orders of scores occur, and the higher score comes first in each."""
    sizes = set()
    for seed in range(12):
        truth = annotated(((0, 0, 4, 4), 3), ((10, 0, 19, 9), 3))
        (one,) = shifted_truth(episode(truth, seed=seed))
        assert one.scores[0] >= one.scores[1]
        areas = one.masks.flatten(1).sum(1).tolist()
        widths = (one.boxes[:, 2] - one.boxes[:, 0]).tolist()
        assert [w * w for w in widths] == areas
        sizes.add(tuple(areas))
    assert sizes == {(16, 81), (81, 16)}


def test_the_random_boxes_of_the_code_are_the_detections_elsewhere():
    own = found(LEFT, (20, 0, 24, 4), (30, 5, 37, 8), scores=[0.9, 0.5, 0.2])
    orders = set()
    for seed in range(12):
        batch = episode(annotated(*SCENE), seed=seed)
        (one,) = shifted_detections(batch, [own])
        assert one.scores.tolist() == pytest.approx([0.9, 0.5, 0.2])
        assert sorted(one.masks.flatten(1).sum(1).tolist()) == [16, 21, 100]
        for box, mask in zip(one.boxes, one.masks, strict=True):
            assert extent(mask) == box.tolist()
        orders.add(tuple(one.masks.flatten(1).sum(1).tolist()))
        assert same(one, shifted_detections(batch, [own])[0])
    assert len(orders) > 2  # scores are permuted
    assert own.boxes[0].tolist() == list(LEFT)


@pytest.mark.parametrize("source", ["truth", "detections"])
def test_random_boxes_of_nothing_are_nothing(source):
    batch = episode(annotated((CROWD, 3)))
    (one,) = shifted_truth(batch) if source == "truth" else shifted_detections(batch, [found(scores=[])])
    assert (one.boxes.shape, one.masks.shape, one.scores.shape) == ((0, 4), (0, *SIZE), (0,))
    assert len(rows_of(episode(annotated((CROWD, 3))), [one], PART, [0])) == 1


def test_random_boxes_become_rows():
    batch = episode(annotated(*SCENE), seed=3)
    moved = shifted_truth(batch)
    union, *each = rows_of(batch, moved, PART, [0])
    assert len(each) == 2
    assert union.tp + union.fn == 200


def test_no_more_random_boxes_are_scored_than_cocos_evaluator_looks_at():
    batch = episode(annotated(*((LEFT, 3),) * (MOST + 20)), seed=1)
    (one,) = shifted_truth(batch)
    assert one.boxes.shape == (MOST, 4)
    assert one.masks.shape == (MOST, *SIZE)
    every = random_truth(np.array([[0, 0, 10, 10]] * (MOST + 20)), masks_of([LEFT] * (MOST + 20)).numpy(), 1)[2]
    assert one.scores.tolist() == sorted(every.tolist(), reverse=True)[:MOST]
    assert len(rows_of(batch, [one], PART, [0])) == 1 + MOST


class Silent:
    """A network that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(name)


def test_the_random_boxes_of_the_paper_need_no_network():
    batch = episode(annotated(*SCENE), seed=3)
    result = search(Silent(), batch, "truth")
    assert (sum(result.seconds), result.z) == (0.0, None)
    assert same(result.instances[0], shifted_truth(batch)[0])
    rows = rows_of(batch, result.instances, PART, [0], result.seconds)
    assert (rows[0].seconds_encode, rows[0].seconds_segment) == (0.0, 0.0)  # no network was asked


# The union alone


def test_the_union_is_that_of_all_rows_and_nothing_is_matched_for_it(monkeypatch):
    batch, own = episode(annotated(*SCENE)), found(LEFT, OTHER, RIGHT, scores=[0.9, 0.6, 0.4])
    union = rows_of(batch, [own], PART, [3])[0]
    monkeypatch.setattr("fewseg.evaluation.match", None)
    assert union_rows(batch, [detected(own)], PART, [3]) == [union]
    assert union_rows(batch, [detected(own.where(own.scores > 0.5))], PART, [3]) == [union]


@pytest.mark.parametrize("void", ["ignore", "background"])
def test_rows_count_the_pixels_of_their_masks(void):
    random = torch.Generator().manual_seed(0)
    batch = episode(annotated(*SCENE))
    target = batch.targets[0].numpy()
    masks = (torch.rand(6, *SIZE, generator=random) < 0.3).to(torch.uint8)
    own = dataclasses.replace(found(*[LEFT] * 6, scores=[0.9, 0.8, 0.7, 0.6, 0.3, 0.2]), masks=masks)
    union, *each = rows_of(batch, [own], dataclasses.replace(PART, void=void), [0])
    for row, mask in zip(each, masks.numpy(), strict=True):
        assert counts(row) == confusion_counts(mask, target, void)
    assert counts(union) == confusion_counts(masks[:4].any(0).numpy(), target, void)


# Search


def test_a_search_times_its_verbs_and_returns_guidance_and_detections_on_the_cpu():
    torch.manual_seed(0)
    model = SiameseMaskRCNN(width=8, n_proposals=8, n_detections=5, score_threshold=0.0).eval()
    batch = episode(annotated(*SCENE))
    result = search(model.network, batch)
    assert len(result.instances) == 1
    assert result.instances[0].boxes.device.type == "cpu"
    assert result.instances[0].masks.shape[1:] == SIZE
    assert all(second > 0 for second in result.seconds[:3])
    assert result.z is not None
    assert result.z.shape == (1, 3 * 8)  # three levels
    np.testing.assert_array_equal(result.instances[0].labels, 1)


def test_only_methods_that_find_instances_are_searched_with():
    check_finds(SiameseMaskRCNN(width=8).network, "SiameseMaskRCNN", "--model")
    with pytest.raises(FewsegError, match=r"--model: got PANet, expected a method that finds instances"):
        check_finds(PANet().network, "PANet", "--model")


def test_a_search_above_a_threshold_has_the_better_ones_only():
    torch.manual_seed(0)
    model = SiameseMaskRCNN(width=8, n_proposals=20, n_detections=9, score_threshold=0.0).eval()
    batch = episode(annotated(*SCENE))
    (every,) = search(model.network, batch).instances
    middle = float(every.scores[4])
    (better,) = search(model.network, batch, threshold=middle).instances
    kept = every.where(every.scores > middle)
    assert 0 < len(kept.boxes) < len(every.boxes)
    assert same(better, kept)
    assert torch.equal(better.masks, kept.masks)


def test_fixed_classes_must_suffice():
    network = MaskRCNN(n_classes=3, width=8).network
    check_classes(network, 3, "--model.n_classes")
    check_classes(SiameseMaskRCNN(width=8).network, 20, "--model.n_classes")
    with pytest.raises(FewsegError, match=r"methods.a: n_classes: got 3, expected at least 4"):
        check_classes(network, 4, "methods.a: n_classes")


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (SiameseMaskRCNN, {"train_shot": 0}, "train_shot: got 0, expected 1 or more for M, which learns from"),
        (PANet, {"train_shot": 0}, "train_shot: got 0, expected 1 or more for M, which learns from"),
        (SiameseMaskRCNN, {"train_masks": "labels"}, "train_masks: got labels, expected class for M, which learns"),
        (MaskRCNN, {"train_masks": "foreground"}, "train_masks: got foreground, expected class for M"),
        (MaskRCNN, {"train_shot": 0}, None),
        (SiameseMaskRCNN, {"train_shot": 0, "train_episodes": "semantic"}, None),
        (PANet, {"train_masks": "foreground"}, None),
        (FgBg, {"train_shot": 0, "train_masks": "foreground"}, None),
        (SiameseMaskRCNN, {}, None),
    ],
)
def test_what_a_network_cannot_learn_from_is_refused(method, options, said):
    given = {"train_shot": 1, "train_masks": "class", "train_episodes": "instance", **options}
    network = method().network
    if said is None:
        check_trains(network, SimpleNamespace(**given), "M", "--data.")
        return
    with pytest.raises(FewsegError, match=f"--data.{said}"):
        check_trains(network, SimpleNamespace(**given), "M", "--data.")
