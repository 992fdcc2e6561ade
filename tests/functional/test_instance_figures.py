import contextlib
import io
import json

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fewseg.episode import Row
from fewseg.functional import instance_figures as module
from fewseg.functional.instance_figures import (
    confusion,
    instance_figures,
    interval_of_ap50,
    plain_ap50,
    resampled_ap50,
)
from fewseg.functional.matching import Detected, Truth, encode, match, result

NAMES = ("cat", "dog", "hat")
ALL = 1023  # right at every IoU


def asked(episode, query, class_id, truth):
    return Row(episode, query, "s", class_id, 0, 0, 0, 0, truth=truth)


def found(episode, query, class_id, rank, score, boxes=0, masks=0, ignored=0, fits=""):
    bits = {"matched_boxes": boxes, "matched_masks": masks, "ignored_boxes": ignored, "ignored_masks": ignored}
    return Row(
        episode, query, "s", class_id, 0, 0, 0, 0, object_id=rank, score=score, matched_classes=fits or None, **bits
    )


def of(rows, classes=(1, 2), repeats=1):
    return instance_figures(pd.DataFrame(rows), NAMES, classes, repeats)


# class 1: right, wrong, right of 2 objects, .834983; class 2: its one object is found
TWO_CLASSES = [
    asked(0, "a", 1, "1:1"),
    found(0, "a", 1, 1, 0.9, boxes=ALL),
    found(0, "a", 1, 2, 0.8),
    asked(1, "b", 1, "1:1 2:1"),
    found(1, "b", 1, 1, 0.7, boxes=ALL),
    asked(2, "b", 2, "1:1 2:1"),
    found(2, "b", 2, 1, 0.3, boxes=0b1111, masks=0b1),
]
AP_OF_ONE = (51 + 50 * 2 / 3) / 101


def test_by_hand():
    figures = of(TWO_CLASSES)
    assert figures["ap50_boxes"] == pytest.approx((AP_OF_ONE + 1) / 2)
    assert figures["ap_boxes"] == pytest.approx((AP_OF_ONE + 0.4) / 2)  # .50, .55, .60 and .65 of ten
    assert figures["ap50"] == pytest.approx((0 + 1) / 2)
    assert figures["ap"] == pytest.approx((0 + 0.1) / 2)
    assert figures["per_class_ap50_boxes"] == pytest.approx({"cat": AP_OF_ONE, "dog": 1})
    assert figures["per_class_ap50"] == pytest.approx({"cat": 0, "dog": 1})
    assert (figures["n_objects"], figures["n_repeats"]) == (3, 1)
    assert figures["detections_per_episode"] == pytest.approx(4 / 3)
    assert "ap50_std" not in figures
    json.dumps(figures, allow_nan=False)


def test_episodes_of_a_class_are_scored_together():
    """Alone, both images have AP 1; together a wrong detection in one ranks before the right one in the other."""
    rows = [
        asked(0, "a", 1, "1:1"),
        found(0, "a", 1, 1, 0.9, boxes=ALL),
        found(0, "a", 1, 2, 0.8),
        asked(1, "b", 1, "1:1"),
        found(1, "b", 1, 1, 0.5, boxes=ALL),
    ]
    assert of(rows)["ap50_boxes"] == pytest.approx(AP_OF_ONE)
    assert of(rows[:3])["ap50_boxes"] == of(rows[3:])["ap50_boxes"] == 1


def test_rows_may_lie_in_any_order():
    shuffled = [TWO_CLASSES[i] for i in np.random.RandomState(0).permutation(len(TWO_CLASSES))]
    assert of(shuffled) == of(TWO_CLASSES)
    tied = [asked(0, "a", 1, "1:1"), found(0, "a", 1, 2, 0.5, boxes=ALL), found(0, "a", 1, 1, 0.5)]
    assert of(tied)["ap50_boxes"] == pytest.approx(0.5)  # by rank


def test_ignored_detections_do_not_count():
    rows = [
        asked(0, "a", 1, "1:1"),
        found(0, "a", 1, 1, 0.9, ignored=ALL),
        found(0, "a", 1, 2, 0.8, boxes=ALL, masks=ALL),
    ]
    figures = of(rows)
    assert [figures[name] for name in ("ap50", "ap", "ap50_boxes", "ap_boxes")] == pytest.approx([1] * 4)
    assert figures["detections_per_episode"] == 2


def test_an_image_in_which_nothing_is_found():
    rows = [asked(0, "a", 1, "1:1"), found(0, "a", 1, 1, 0.9, boxes=ALL), asked(1, "b", 1, "1:3")]
    assert of(rows)["ap50_boxes"] == pytest.approx(26 / 101)  # recalls 0 to .25
    assert of(rows[2:])["ap50_boxes"] == 0
    assert of(rows[2:])["ap50_boxes_ci95"] == [0, 0]


def test_a_class_without_an_object_is_left_out():
    rows = [*TWO_CLASSES, asked(3, "c", 3, None), found(3, "c", 3, 1, 0.9, ignored=ALL)]  # only a crowd is there
    figures = of(rows, (1, 2, 3))
    assert figures["ap50_boxes"] == pytest.approx((AP_OF_ONE + 1) / 2)
    assert list(figures["per_class_ap50"]) == ["cat", "dog"]
    assert of(rows[-2:], (3,)) == {"n_repeats": 1, "n_objects": 0, "detections_per_episode": 1}


def test_only_the_classes_asked_for_are_scored():
    assert of(TWO_CLASSES, (2,))["ap50_boxes"] == 1
    assert of(TWO_CLASSES, (2,))["n_objects"] == 1


def repeated(rows, n_episodes):
    return [row._replace(episode=row.episode + n_episodes) for row in rows]


def test_lists_are_scored_apart_and_averaged():
    second = [row for row in repeated(TWO_CLASSES, 3) if row.score != 0.8]  # without the wrong detection
    figures = of([*TWO_CLASSES, *second], repeats=2)
    each = [(AP_OF_ONE + 1) / 2, 1]
    assert figures["ap50_boxes"] == pytest.approx(np.mean(each))
    assert figures["ap50_boxes_std"] == pytest.approx((each[1] - each[0]) / 2)  # n, not n - 1
    assert figures["ap50_std"] == 0
    assert figures["per_class_ap50_boxes"] == pytest.approx({"cat": (AP_OF_ONE + 1) / 2, "dog": 1})
    assert figures["ap_boxes"] == pytest.approx(((AP_OF_ONE + 0.4) / 2 + 1.4 / 2) / 2)
    assert (figures["n_objects"], figures["n_repeats"]) == (6, 2)
    assert figures["detections_per_episode"] == pytest.approx(7 / 6)
    assert {one["instances"]: one["n_images"] for one in figures["clutter"]} == {"1": 1, "2": 1}
    low, high = figures["ap50_boxes_ci95"]
    assert low <= figures["ap50_boxes"] <= high


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("classes", [(1, 2), (2,), (3,)])
def test_ap50_alone_is_that_of_all_figures_and_draws_nothing(repeats, classes, monkeypatch):
    rows = TWO_CLASSES if repeats == 1 else [*TWO_CLASSES, *repeated(TWO_CLASSES[:-1], 3)]
    wanted = of(rows, classes, repeats)
    monkeypatch.setattr(module, "_drawn", None)
    alone = plain_ap50(pd.DataFrame(rows), classes, repeats)
    assert alone == {name: wanted[name] for name in ("ap50_boxes", "ap50") if name in wanted}
    assert bool(alone) == (classes != (3,))


def test_clutter_is_the_number_of_all_objects():
    shown = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 9, "g": 10, "h": 19, "i": 20, "j": 70}
    rows = []
    for episode, (query, n) in enumerate(shown.items()):
        rows.append(asked(episode, query, 1, f"1:1 3:{n - 1}" if n > 1 else "1:1"))
        if query in "abdegi":
            rows.append(found(episode, query, 1, 1, 0.5, boxes=ALL, masks=ALL * (query != "b")))
    figures = of(rows)
    assert [one["instances"] for one in figures["clutter"]] == ["1", "2", "3", "4", "5-9", "10-19", "20+"]
    assert [one["n_images"] for one in figures["clutter"]] == [1, 1, 1, 1, 2, 2, 2]
    half = 51 / 101
    assert [one["ap50_boxes"] for one in figures["clutter"]] == pytest.approx([1, 1, 0, 1, half, half, half])
    assert [one["ap50"] for one in figures["clutter"]] == pytest.approx([1, 0, 0, 1, half, half, half])
    assert [one["instances"] for one in of(rows[-1:])["clutter"]] == ["20+"]


def test_the_interval_draws_images_with_all_their_episodes():
    """Two images: a benchmark holds one of them twice, each with a probability of 1/4, or both."""
    rows = [
        asked(0, "a", 1, "1:1"),
        found(0, "a", 1, 1, 0.9, boxes=ALL),
        asked(1, "b", 1, "1:1"),
        asked(2, "b", 2, "1:1 2:1"),
        asked(3, "a", 2, "1:1 2:1"),
        found(3, "a", 2, 1, 0.9, boxes=ALL),
    ]
    figures = of(rows)
    assert figures["ap50_boxes"] == pytest.approx(51 / 101)
    assert figures["ap50_boxes_ci95"] == pytest.approx([0, 1])
    assert figures["ap50_ci95"] == [0, 0]
    assert of(rows) == figures


def random_rows(seed, n_images=12, lists=2, luck=0.5):
    """Searches for two classes in every image; no two scores are equal. ``luck`` is the share of right detections."""
    drawn, own = np.random.RandomState(1), np.random.RandomState(seed)
    shown = {f"q{i}": (drawn.randint(1, 4), drawn.randint(1, 4)) for i in range(n_images)}
    rows = []
    for _ in range(lists):
        for query, counts in shown.items():
            for c in (1, 2):
                episode = sum(row.score is None for row in rows)
                rows.append(asked(episode, query, c, f"1:{counts[0]} 2:{counts[1]}"))
                for rank in range(1, counts[c - 1] + 1):
                    boxes, masks = (int(own.rand() < luck) for _ in range(2))
                    rows.append(found(episode, query, c, rank, own.rand(), boxes, masks, int(own.rand() < 0.1)))
    return [row._replace(ignored_boxes=0, ignored_masks=0) if row.matched_boxes else row for row in rows]


def test_a_replicate_is_the_benchmark_with_images_drawn_twice():
    frame = pd.DataFrame(random_rows(0))
    replicates, points = resampled_ap50([frame], [0], [2], replicates=5)
    figures = instance_figures(frame, NAMES, (1, 2), repeats=2)
    assert points == pytest.approx(np.array([[figures["ap50_boxes"], figures["ap50"]]]))
    random, images = np.random.RandomState(0), sorted(set(frame["query"]))
    for one, drawn in zip(replicates, random.randint(len(images), size=(5, len(images))), strict=True):
        again = []
        for place in (0, 1):  # the lists stay one behind the other
            own = frame[frame["episode"] * 2 // frame["episode"].nunique() == place]
            for copy, i in enumerate(drawn):
                part = own[own["query"] == images[i]]
                again.append(part.assign(episode=part["episode"] + 1000 * copy + 1_000_000 * place))
        rows = pd.concat(again)
        rows["episode"] = rows["episode"].rank(method="dense").astype(int) - 1
        expected = instance_figures(rows, NAMES, (1, 2), repeats=2)
        assert one[0] == pytest.approx([expected["ap50_boxes"], expected["ap50"]])
    assert len(np.unique(replicates)) > 5


def test_runs_of_a_fold_see_the_same_images():
    frame = pd.DataFrame(random_rows(0))
    replicates, points = resampled_ap50([frame] * 3, [0, 0, 1], [2, 2, 2])
    assert replicates.shape == (200, 3, 2)
    assert (points == points[0]).all()
    assert (replicates[:, 0] == replicates[:, 1]).all()
    assert abs(np.corrcoef(replicates[:, 0, 0], replicates[:, 2, 0])[0, 1]) < 0.5  # another fold draws its own
    elsewhere = frame.assign(query="other " + frame["query"])
    beside, _ = resampled_ap50([frame, elsewhere], [0, 1], [2, 2])
    assert (beside[:, 0] == replicates[:, 0]).all()


def test_a_replicate_without_an_object_is_left_out_of_the_interval():
    rows = [asked(0, "a", 1, "1:1"), found(0, "a", 1, 1, 0.9, boxes=ALL), asked(1, "b", 1, None)]
    figures = of(rows)
    assert figures["ap50_boxes_ci95"] == [1, 1]
    assert np.isnan(resampled_ap50([pd.DataFrame(rows)], [0], [1])[0]).any()
    assert interval_of_ap50(np.array([0.25, np.nan, 0.75]), 0.5) == pytest.approx((0.2625, 0.7375))


def test_confusion_by_hand():
    """Cats are asked for in images a and b, hats in b; the dogs of b are found for cats, the cat for hats."""
    rows = [
        asked(0, "a", 1, "1:1"),
        found(0, "a", 1, 1, 0.9, boxes=1, fits="1"),
        asked(1, "b", 1, "1:1 2:2 3:1"),
        found(1, "b", 1, 1, 0.8, fits="2"),
        found(1, "b", 1, 2, 0.7, boxes=1, fits="1 2"),
        found(1, "b", 1, 3, 0.6, ignored=1, fits=""),
        asked(2, "b", 3, "1:1 2:2 3:1"),
        found(2, "b", 3, 1, 0.9, fits="1"),
    ]
    matrix = confusion(pd.DataFrame(rows), NAMES, (1, 3))
    assert matrix.rows == ("cat", "hat")
    assert matrix.columns == NAMES
    # as dogs: wrong, right, right of 2: precisions 1/2 and 2/3, so 2/3 everywhere
    assert matrix.ap50 == pytest.approx(np.array([[AP_OF_ONE, 2 / 3, 0], [1, 0, 0]]))
    assert matrix.column_sums == pytest.approx([AP_OF_ONE + 1, 2 / 3, 0])


def test_confusion_where_a_class_is_never_shown_beside_another():
    rows = [asked(0, "a", 1, "1:1"), asked(1, "b", 2, "2:1"), found(1, "b", 2, 1, 0.9, boxes=1, fits="2")]
    matrix = confusion(pd.DataFrame(rows), NAMES, (1, 2, 3))
    assert matrix.rows == matrix.columns == ("cat", "dog")
    assert matrix.ap50 == pytest.approx(np.array([[0, np.nan], [np.nan, 1]]), nan_ok=True)
    assert matrix.column_sums.tolist() == [0, 1]


def test_the_diagonal_of_a_confusion_is_the_ap_of_the_class():
    frame = pd.DataFrame(random_rows(3, lists=3))
    figures = instance_figures(frame, NAMES, (1, 2), repeats=3)
    matrix = confusion(frame, NAMES, (1, 2), repeats=3)
    assert np.diag(matrix.ap50) == pytest.approx(list(figures["per_class_ap50_boxes"].values()))


def test_figures_of_matches_are_the_evaluators():
    """From drawn scenes to rows and figures: every class that an image shows is asked for, as a search does it."""
    random = np.random.RandomState(0)
    images = [{"id": i, "height": 64, "width": 64} for i in range(1, 9)]
    annotations, entries, rows = [], [], []

    def rectangles(boxes):
        masks = np.zeros((len(boxes), 64, 64), np.uint8)
        for mask, (x, y, width, height) in zip(masks, boxes, strict=True):
            mask[y : y + height, x : x + width] = 1
        return encode(masks)

    for image in images:
        boxes = np.concatenate([random.randint(0, 40, (6, 2)), random.randint(10, 24, (6, 2))], axis=1)
        truth = Truth(boxes.astype(float), rectangles(boxes), random.rand(6) < 0.2, random.randint(1, 4, 6))
        for box, runs, crowd, c in zip(*truth, strict=True):
            one = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": int(c), "bbox": box.tolist()}
            annotations.append({**one, "area": 99.0, "iscrowd": int(crowd), "segmentation": runs})
        objects = truth.class_ids[~truth.crowd].tolist()
        shown = " ".join(f"{c}:{objects.count(c)}" for c in sorted(set(objects)))
        for c in sorted(set(objects)):
            moved = boxes + random.randint(0, 4, boxes.shape)
            detected = Detected(moved.astype(float), rectangles(moved), random.rand(6))
            entries += result(image["id"], c, detected)
            matches, episode = match(detected, truth, c), sum(row.score is None for row in rows)
            rows.append(asked(episode, str(image["id"]), c, shown))
            for rank in range(6):
                bits = {name: int(getattr(matches, name)[rank]) for name in matches._fields[:4]}
                row = Row(episode, str(image["id"]), "s", c, 0, 0, 0, 0, score=detected.scores[rank], **bits)
                rows.append(row._replace(object_id=rank + 1))
    content = COCO()
    content.dataset = {"info": {}, "images": images, "annotations": annotations}
    content.dataset["categories"] = [{"id": c} for c in (1, 2, 3)]
    figures = of(rows, (1, 2, 3))
    for kind, names in (("bbox", ("ap_boxes", "ap50_boxes")), ("segm", ("ap", "ap50"))):
        with contextlib.redirect_stdout(io.StringIO()):
            content.createIndex()
            evaluator = COCOeval(content, content.loadRes(entries), kind)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        assert [figures[name] for name in names] == pytest.approx(evaluator.stats[:2].tolist(), abs=1e-6)
        assert 0.05 < figures[names[0]] < 0.9
