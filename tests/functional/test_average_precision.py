import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fewseg.functional.average_precision import average_precision, resampled_average_precision
from fewseg.functional.matching import Detected, Truth, encode, match, result


def test_the_vector_by_hand():
    """Two objects, ranked right, wrong, right: precision 1 up to recall .5, at 51 recalls, and 2/3 at the other 50."""
    found = average_precision([0.9, 0.8, 0.7], [True, False, True], [False] * 3, 2)
    assert found == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert round(found, 6) == 0.834983


@pytest.mark.parametrize(
    ("matched", "ignored", "n_truth", "expected"),
    [
        ([], [], 3, 0),
        ([0, 0], [0, 0], 3, 0),
        ([1, 1], [0, 0], 2, 1),
        ([1, 1], [0, 0], 4, 51 / 101),  # recalls 0 to .5
        ([0, 1], [0, 0], 1, 0.5),
        ([0, 1], [1, 0], 1, 1),  # what is ignored is not wrong
        ([1, 1], [1, 0], 1, 1),  # nor right
        ([1, 0], [1, 1], 1, 0),
    ],
)
def test_small_cases(matched, ignored, n_truth, expected):
    scores = np.linspace(0.9, 0.1, len(matched))
    assert average_precision(scores, matched, ignored, n_truth) == pytest.approx(expected)


def test_without_an_object_there_is_no_ap():
    assert np.isnan(average_precision([0.5], [False], [False], 0))
    assert np.isnan(average_precision([], [], [], 0))
    assert np.isnan(resampled_average_precision([0.5], [True], [False], [1], [0, 3], [[2, 0]])).all()


def test_equal_scores_keep_their_order():
    assert average_precision([0.5, 0.5], [True, False], [False, False], 1) == pytest.approx(1)
    assert average_precision([0.5, 0.5], [False, True], [False, False], 1) == pytest.approx(0.5)


def random_case(seed):
    random = np.random.RandomState(seed)
    n, n_images = random.randint(0, 40), random.randint(1, 8)
    image, scores = np.sort(random.randint(n_images, size=n)), random.randint(1, 15, n) / 16
    matched, ignored = random.rand(n) < 0.4, random.rand(n) < 0.15
    n_truth = np.bincount(image[matched], minlength=n_images) + random.randint(0, 3, n_images)
    return (scores, matched, ignored, image, n_truth), random.randint(0, 4, (12, n_images))


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_best_precision_at_or_beyond_each_recall(seed):
    (scores, matched, ignored, _, n_truth), _ = random_case(seed)
    ranked = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if not ignored[i]]
    points = []
    for rank in range(1, len(ranked) + 1):
        right = sum(matched[i] for i in ranked[:rank])
        points.append((right / max(n_truth.sum(), 1), right / rank))
    best = [max((p for recall, p in points if recall >= at), default=0.0) for at in np.linspace(0, 1, 101)]
    expected = np.mean(best) if n_truth.sum() else np.nan
    assert average_precision(scores, matched, ignored, n_truth.sum()) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("seed", range(30))
def test_resampled_images_are_images_that_lie_there_twice(seed, monkeypatch):
    (scores, matched, ignored, image, n_truth), weights = random_case(seed)
    found = resampled_average_precision(scores, matched, ignored, image, n_truth, weights)
    for ap, times in zip(found, weights, strict=True):
        again = [np.repeat(values, times[image]) for values in (scores, matched, ignored)]
        assert ap == pytest.approx(average_precision(*again, n_truth @ times), nan_ok=True)
    monkeypatch.setattr("fewseg.functional.average_precision._BLOCK", 50)  # a few sets at a time
    in_blocks = resampled_average_precision(scores, matched, ignored, image, n_truth, weights)
    assert in_blocks == pytest.approx(found, nan_ok=True)
    once = resampled_average_precision(scores, matched, ignored, image, n_truth, np.ones((1, len(n_truth))))
    assert once[0] == pytest.approx(average_precision(scores, matched, ignored, n_truth.sum()), nan_ok=True)


def coco(images, categories, annotations):
    content = COCO()
    content.dataset = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        content.createIndex()
    return content


def evaluators(truth, detections, kind):
    """COCO's own evaluation of a results JSON: AP, AP50, AP75 and the precisions of (IoU, recall, class)."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, truth.loadRes(detections), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats[:3], evaluator.eval["precision"][:, :, :, 0, -1]


def ours(truth, detections):
    """Matches of every image and class, and their APs: of boxes and masks (2, IoUs, classes)."""
    found = np.full((2, 10, len(truth.getCatIds())), np.nan)
    images = sorted(truth.getImgIds())
    annotations = {i: truth.loadAnns(truth.getAnnIds(imgIds=[i])) for i in images}
    shown = {
        i: Truth(
            np.array([one["bbox"] for one in own], np.float64).reshape(-1, 4),
            tuple(truth.annToRLE(one) for one in own),
            np.array([one["iscrowd"] for one in own], bool),
            np.array([one["category_id"] for one in own], np.int64),
        )
        for i, own in annotations.items()
    }
    for place, c in enumerate(sorted(truth.getCatIds())):
        n_truth = sum(int((~one.crowd & (one.class_ids == c)).sum()) for one in shown.values())
        own = [(i, detections[i, c]) for i in images if (i, c) in detections]
        matches = [match(one, shown[i], c) for i, one in own]
        scores = np.concatenate([[], *(one.scores for _, one in own)])
        for kind in (0, 1):
            matched = np.concatenate([np.zeros(0, np.int64), *(bits[2 * kind] for bits in matches)])
            ignored = np.concatenate([np.zeros(0, np.int64), *(bits[2 * kind + 1] for bits in matches)])
            for at in range(10):
                found[kind, at, place] = average_precision(scores, matched >> at & 1, ignored >> at & 1, n_truth)
    return found


def assert_equal_to_the_evaluator(truth, detections):
    entries = [entry for (image, c), one in detections.items() for entry in result(image, c, one)]
    found = ours(truth, detections)
    for own, kind in zip(found, ("bbox", "segm"), strict=True):
        stats, precision = evaluators(truth, entries, kind)
        expected = precision.mean(axis=1)
        assert np.isnan(own).tolist() == (expected == -1).tolist()
        assert np.abs(np.where(expected == -1, 0, own - expected)).max() < 1e-6
        assert [np.nanmean(own), np.nanmean(own[0]), np.nanmean(own[5])] == pytest.approx(stats.tolist(), abs=1e-6)
        assert 0.1 < stats[0] < stats[1] < 0.9, "the detections should be neither all right nor all wrong"


def shifted(mask, columns, rows):
    moved = np.zeros_like(mask)
    height, width = mask.shape
    moved[rows:, columns:] = mask[: height - rows, : width - columns]
    return moved


def guesses(truth, categories):
    """Detections made from annotations: moved, dropped, doubled, of a wrong class, and parts of crowds."""
    random = np.random.RandomState(0)
    found = {}
    for number, one in enumerate(truth.loadAnns(truth.getAnnIds())):
        mask = truth.annToMask(one)
        image, c, (x, y, width, height) = one["image_id"], one["category_id"], one["bbox"]
        if one["iscrowd"]:
            for columns in (0, 30):  # a part of the crowd, and one that is half outside
                part = shifted(mask, columns, 0)
                part[:, int(x + width / 3) :] = 0
                own = [x + columns, y, width / 3, height]
                found.setdefault((image, c), []).append((own, part, random.randint(40) / 40))
            continue
        if number % 7 == 0:
            continue
        for copy in range(1 + (number % 4 == 0)):
            columns, rows = int(width * random.choice([0, 0.05, 0.2, 0.5])), int(height * 0.1 * copy)
            named = categories[(categories.index(c) + 1) % len(categories)] if number % 11 == 0 else c
            own = [x + columns, y + rows, width * (1 - 0.1 * copy), height]
            found.setdefault((image, named), []).append((own, shifted(mask, columns, rows), random.randint(40) / 40))
    return {
        key: Detected(
            np.array([box for box, _, _ in own]), encode([m for _, m, _ in own]), np.array([s for _, _, s in own])
        )
        for key, own in found.items()
    }


def test_real_scenes_have_the_evaluators_ap():
    path = Path(os.environ.get("FEWSEG_DATA", "")) / "coco_tiny" / "annotations" / "instances_val2017.json"
    if not path.is_file():
        pytest.skip("FEWSEG_DATA names no folder with coco_tiny")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    assert any(one["iscrowd"] for one in truth.dataset["annotations"])
    assert_equal_to_the_evaluator(truth, guesses(truth, sorted(truth.getCatIds())))


def test_drawn_scenes_have_the_evaluators_ap():
    """Rectangles of 3 classes, some of them crowds, a class that only crowds show and one that nothing shows."""
    random, annotations = np.random.RandomState(0), []
    for number in range(1, 41):
        x, y, width, height = random.randint(0, 30), random.randint(0, 30), *random.randint(8, 30, 2)
        mask = np.zeros((64, 64), np.uint8)
        mask[y : y + height, x : x + width] = 1
        crowd = number % 10 == 0
        runs = encode([mask])[0]
        annotations.append(
            {
                "id": number,
                "image_id": 1 + number % 6,
                "category_id": 3 if number == 40 else 1 + number % 2,
                "bbox": [float(x), float(y), float(width), float(height)],
                "area": float(mask.sum()),
                "iscrowd": int(crowd),
                "segmentation": {**runs, "counts": runs["counts"].decode()},
            }
        )
    images = [{"id": i, "height": 64, "width": 64} for i in range(1, 8)]
    truth = coco(images, [{"id": c} for c in (1, 2, 3, 4)], annotations)
    assert_equal_to_the_evaluator(truth, guesses(truth, [1, 2, 3, 4]))
