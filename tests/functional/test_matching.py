import json

import numpy as np
import pycocotools.mask
import pytest
from pycocotools.coco import COCO

from fewseg.errors import FewsegError
from fewseg.functional.iou import confusion_counts
from fewseg.functional.matching import Detected, Matches, Truth, counts, encode, match, result, union

HEIGHT, WIDTH = 40, 60


def drawn(boxes):
    """Rectangles as masks."""
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), np.uint8)
    for mask, (x, y, width, height) in zip(masks, np.asarray(boxes, int).reshape(-1, 4), strict=True):
        mask[y : y + height, x : x + width] = 1
    return encode(masks)


def detected(boxes, scores, masks=None):
    found = np.array(boxes, np.float64).reshape(-1, 4)
    return Detected(found, drawn(found) if masks is None else masks, np.array(scores, np.float64))


def truth(boxes, class_ids, crowd=None):
    found = np.array(boxes, np.float64).reshape(-1, 4)
    return Truth(found, drawn(found), np.array(crowd or [False] * len(found), bool), np.array(class_ids, np.int64))


def lists(matches: Matches):
    return [bits.tolist() for bits in matches[:4]]


def test_bits_say_at_which_ious_a_detection_is_right():
    """Shifted by 1, 2, 3 and 4 of 10 rows: IoU 9/11 = .818, 8/12 = .667, 7/13 = .538 and 6/14 = .429."""
    objects = truth([[15 * i, 0, 10, 10] for i in range(4)], [5] * 4)
    found = match(detected([[15 * i, i + 1, 10, 10] for i in range(4)], [0.9, 0.8, 0.7, 0.6]), objects, 5)
    assert found.matched_boxes.tolist() == [2**7 - 1, 2**4 - 1, 1, 0]  # up to .80, up to .65, .50 and none
    assert found.matched_masks.tolist() == [2**7 - 1, 2**4 - 1, 1, 0]
    assert found.ignored_boxes.tolist() == found.ignored_masks.tolist() == [0] * 4
    assert found.classes == ((5,), (5,), (5,), ())


def test_boxes_and_masks_are_matched_apart():
    half = drawn([[0, 0, 5, 10]])  # a perfect box around half of the object's pixels
    found = match(detected([[0, 0, 10, 10]], [0.9], half), truth([[0, 0, 10, 10]], [5]), 5)
    assert lists(found) == [[1023], [0], [1], [0]]


def test_the_best_detection_of_an_object_is_right_and_the_others_are_wrong():
    boxes = [[1, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]]
    found = match(detected(boxes, [0.9, 0.8, 0.8]), truth([[0, 0, 10, 10]], [5]), 5)
    assert found.matched_boxes.tolist() == [127, 1023 - 127, 0]  # equal scores: the first one


def test_a_detection_takes_the_object_that_it_overlaps_most():
    objects = truth([[0, 0, 10, 10], [2, 0, 10, 10]], [5, 5])
    found = match(detected([[2, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8]), objects, 5)
    assert found.matched_boxes.tolist() == [1023, 1023]


def test_what_lies_in_a_crowd_is_ignored_unless_it_fits_an_object():
    objects = truth([[0, 0, 30, 30], [0, 0, 10, 10]], [5, 5], crowd=[True, False])
    boxes = [[0, 0, 10, 10], [15, 15, 5, 5], [20, 20, 5, 5], [50, 30, 5, 5], [20, 0, 20, 10]]
    found = match(detected(boxes, [0.9, 0.8, 0.7, 0.6, 0.5]), objects, 5)
    # half of the last one lies in the crowd
    assert lists(found)[:2] == [[1023, 0, 0, 0, 0], [0, 1023, 1023, 0, 1]]
    assert lists(found)[2:] == lists(found)[:2]
    assert found.classes == ((5,), (), (), (), ())


def test_objects_and_crowds_of_other_classes_do_not_matter():
    objects = truth([[0, 0, 30, 30], [0, 0, 10, 10]], [7, 7], crowd=[True, False])
    found = match(detected([[0, 0, 10, 10], [15, 15, 5, 5]], [0.9, 0.8]), objects, 5)
    assert lists(found) == [[0, 0]] * 4
    assert found.classes == ((7,), ())


def test_classes_are_those_of_detections_that_all_change_theirs():
    """Two detections on one object of class 3: relabelled, one of them is right."""
    objects = truth([[0, 0, 10, 10], [20, 0, 10, 10], [21, 0, 10, 10]], [3, 7, 9])
    found = match(detected([[1, 0, 10, 10], [0, 0, 10, 10], [20, 0, 10, 10]], [0.5, 0.9, 0.8]), objects, 7)
    assert found.classes == ((), (3,), (7, 9))
    assert found.matched_boxes.tolist() == [0, 0, 1023]


def test_the_order_of_detections_is_kept():
    random = np.random.RandomState(0)
    boxes = np.concatenate([random.randint(0, 25, (30, 2)), random.randint(5, 15, (30, 2))], axis=1)
    objects = truth(boxes[:10] + random.randint(0, 3, (10, 4)), random.randint(1, 4, 10), [False] * 9 + [True])
    scores, order = random.permutation(30) / 30, random.permutation(30)
    plain = match(detected(boxes, scores), objects, 2)
    shuffled = match(detected(boxes[order], scores[order]), objects, 2)
    assert plain.matched_boxes.any()
    for one, other in zip(plain[:4], shuffled[:4], strict=True):
        assert one[order].tolist() == other.tolist()
    assert [plain.classes[i] for i in order] == list(shuffled.classes)


def test_nothing_found_and_nothing_there(capsys):
    objects = truth([[0, 0, 10, 10]], [5])
    assert lists(match(detected([], []), objects, 5)) == [[]] * 4
    found = match(detected([[0, 0, 10, 10]], [0.9]), truth([], []), 5)
    assert lists(found) == [[0]] * 4
    assert found.classes == ((),)
    assert lists(match(detected([], []), truth([], []), 5)) == [[]] * 4
    assert capsys.readouterr().out == ""


def test_more_detections_than_the_evaluator_reads_are_refused():
    def most(n):
        return detected([[0, 0, 10, 10]] * n, np.linspace(0.1, 0.9, n))

    assert match(most(100), truth([[0, 0, 10, 10]], [5]), 5).matched_boxes.tolist() == [0] * 99 + [1023]
    with pytest.raises(FewsegError, match=r"^detections: got 101 of class 5 in an image, expected at most 100"):
        match(most(101), truth([[0, 0, 10, 10]], [5]), 5)


def test_masks_of_another_size_are_refused():
    small = encode(np.ones((1, 4, 4), np.uint8))
    with pytest.raises(FewsegError, match=r"^masks: got sizes \[\(4, 4\), \(40, 60\)\]"):
        match(detected([[0, 0, 10, 10]], [0.9], small), truth([[0, 0, 10, 10]], [5]), 5)


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_masks_come_back(kind):
    masks = np.random.RandomState(0).rand(3, 7, 5) > 0.5
    for mask, runs in zip(masks, encode(masks.astype(kind)), strict=True):
        assert runs["size"] == [7, 5]
        assert (pycocotools.mask.decode(runs) == mask).all()
    assert encode(np.zeros((0, 7, 5), kind)) == ()


def test_results_are_read_by_coco():
    found = detected([[1, 2, 3, 4], [0.12345, 0, 10, 10]], [0.75, 0.5])
    written = json.loads(json.dumps(result(42, 18, found)))
    assert result(42, 18, detected([], [])) == []
    objects = COCO()
    objects.dataset = {"info": {}, "images": [{"id": 42, "height": HEIGHT, "width": WIDTH}], "annotations": []}
    objects.dataset["categories"] = [{"id": 18}]
    objects.createIndex()
    read = objects.loadRes(written)
    first, second = read.loadAnns(read.getAnnIds(imgIds=[42], catIds=[18]))
    assert (first["bbox"], first["score"], second["bbox"]) == ([1, 2, 3, 4], 0.75, [0.123, 0, 10, 10])
    assert (read.annToMask(first) == pycocotools.mask.decode(found.masks[0])).all()


@pytest.mark.parametrize("void", ["ignore", "background", "foreground"])
def test_pixels_of_codes_are_counted_as_those_of_masks(void):
    random = np.random.RandomState(0)
    target = random.choice(np.uint8([0, 1, 255]), (HEIGHT, WIDTH), p=(0.6, 0.3, 0.1))
    masks = np.stack([random.rand(HEIGHT, WIDTH) < share for share in (0, 0.01, 0.5, 1)])
    wanted = [confusion_counts(mask, target, void) for mask in masks]
    assert counts(encode(masks), target, void) == wanted
    empty = np.full_like(target, 255)
    assert counts(encode(masks[2:3]), empty, void) == [confusion_counts(masks[2], empty, void)]
    assert counts((), target, void) == []


def test_a_mask_of_another_size_is_not_counted():
    with pytest.raises(FewsegError, match=r"masks: got size \[2, 3\], expected the target's \(3, 2\)"):
        counts(encode(np.ones((1, 2, 3))), np.zeros((3, 2), np.uint8), "ignore")


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_the_union_of_codes_is_that_of_masks(n):
    masks = np.random.RandomState(n).rand(n, HEIGHT, WIDTH) < 0.2
    found = pycocotools.mask.decode(union(encode(masks), (HEIGHT, WIDTH)))
    assert np.array_equal(found, masks.any(0))
