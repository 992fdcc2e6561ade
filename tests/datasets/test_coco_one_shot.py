import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fewseg.datasets import Coco20i, CocoOneShot
from fewseg.datasets.coco import COCO_CLASSES
from fewseg.errors import FewsegError

DATA = Path(os.environ.get("FEWSEG_DATA") or "none")
IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # COCO's own
CATEGORIES = [{"id": i, "name": name} for i, name in zip(IDS, COCO_CLASSES, strict=True)]


def square(x, y, size):
    return [[x, y, x + size, y, x + size, y + size, x, y + size]]


def write(root, split, numbers, annotations=()):
    """A list of black images of 8 x 10 pixels; an annotation is (image, category, outline, crowd)."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"{split}2017").mkdir(exist_ok=True)
    images = [{"id": n, "file_name": f"{n:012d}.png", "height": 8, "width": 10} for n in numbers]
    for image in images:
        cv2.imwrite(str(root / f"{split}2017" / image["file_name"]), np.zeros((8, 10, 3), np.uint8))
    found = [
        {"id": i, "image_id": n, "category_id": c, "segmentation": outline, "iscrowd": crowd}
        for i, (n, c, outline, crowd) in enumerate(annotations, 1)
    ]
    path = root / f"annotations/instances_{split}2017.json"
    path.write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": found}))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "coco"
    overlapping = [(9, 1, square(0, 0, 4), 0), (9, 1, square(2, 2, 4), 0), (9, 3, square(0, 0, 2), 0)]
    write(root, "train", (50, 9, 30, 12, 41), [*overlapping, (9, 3, square(0, 0, 8), 1), (9, 4, [], 0)])
    write(root, "val", (7, 3), [(3, 90, square(1, 1, 3), 0)])
    return root


def names(*numbers):
    return tuple(f"{n:012d}" for n in numbers)


def test_the_last_images_of_the_training_list_do_not_train(tree):
    dataset = CocoOneShot(str(tree), n_held_out=2)
    assert dataset.ids("train") == names(9, 12, 30)  # in the order of the ids, not of the list
    assert dataset.ids("held_out") == names(41, 50)
    assert dataset.ids("val") == names(3, 7)
    assert dataset.splits == ("train", "val", "held_out")
    assert set(dataset.index().areas) == set(dataset.object_index()) == set(names(3, 7, 9, 12, 30, 41, 50))
    assert dataset.list_path("held_out") == dataset.list_path("train")
    assert dataset.pair(names(50)[0])[0].shape == (8, 10, 3)
    assert dataset.present(names(41)[0]) == {}
    dataset.check_classes("train", [1])
    with pytest.raises(FewsegError, match=r"'held_out': got no image of person"):
        dataset.check_classes("held_out", [1])


def test_nothing_need_be_held_out(tree):
    dataset = CocoOneShot(str(tree), n_held_out=0)
    assert dataset.ids("train") == names(9, 12, 30, 41, 50)
    assert dataset.ids("held_out") == ()
    assert dataset.splits == ("train", "val")
    only_val = CocoOneShot(str(tree), splits=("val",))  # 3000 of no list
    assert set(only_val.index().areas) == set(names(3, 7))


@pytest.mark.parametrize("n_held_out", [5, 3000])
def test_too_many_held_out_images_are_an_error_with_a_remedy(tree, n_held_out):
    dataset = CocoOneShot(str(tree), n_held_out)
    for read in (lambda: dataset.ids("train"), lambda: dataset.ids("held_out"), dataset.index):
        with pytest.raises(
            FewsegError, match=rf"n_held_out: got {n_held_out} of the 5 images .*set n_held_out: 0 "
        ) as e:
            read()
        assert len(str(e.value).splitlines()) == 1
    with pytest.raises(FewsegError, match=r"n_held_out: got -1, expected 0 or more"):
        CocoOneShot(str(tree), -1)


def test_the_splits_of_the_paper(tree):
    dataset = CocoOneShot(str(tree), n_held_out=1)
    first, last = ([dataset.class_names[c - 1] for c in dataset.novel_classes(fold)] for fold in (0, 3))
    # the ends of the columns of table 3
    assert (first[:3], first[-1]) == (["person", "airplane", "boat"], "scissors")
    assert (last[:3], last[-1]) == (["motorcycle", "truck", "stop sign"], "toothbrush")
    assert [dataset.class_names[dataset.novel_classes(fold)[0] - 1] for fold in (1, 2)] == ["bicycle", "car"]
    assert sorted(c for fold in range(4) for c in dataset.novel_classes(fold)) == list(range(1, 81))
    assert len(dataset.base_classes(1)) == 60


def test_areas_are_those_of_outlines_and_count_twice_where_they_overlap(tree):
    dataset = CocoOneShot(str(tree), n_held_out=1)
    image_id = names(9)[0]
    assert dataset.object_index()[image_id] == {1: (1, 16), 2: (1, 16), 3: (3, 4)}  # the empty one has a number only
    assert dataset.index().areas[image_id] == {1: 32, 3: 4}
    drawn = Coco20i(str(tree))
    assert drawn.object_index()[image_id] == {1: (1, 8), 2: (1, 16), 3: (3, 4)}
    assert all(np.array_equal(a, b) for a, b in zip(drawn.maps(image_id), dataset.maps(image_id), strict=True))


def test_nothing_is_drawn_for_the_index(tree, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a mask was drawn")

    monkeypatch.setattr("fewseg.datasets.coco.outline_mask", refuse)
    dataset = CocoOneShot(str(tree), n_held_out=1)
    assert dataset.index().areas
    assert dataset.object_fingerprint()
    assert dataset.present(names(9)[0]) == {1: (1, 2), 3: (3,), 4: (4,)}


def test_fingerprints_follow_lists_and_held_out_images_and_are_cached(tree, monkeypatch):
    def both(n_held_out=1, **arguments):
        dataset = CocoOneShot(str(tree), n_held_out, **arguments)
        return dataset.index().fingerprint, dataset.object_fingerprint()

    first = both()
    monkeypatch.setattr("fewseg.datasets.coco.outline_area", lambda *a: pytest.fail("measured again"))
    assert both() == first
    monkeypatch.undo()
    monkeypatch.setenv("FEWSEG_CACHE", str(tree.parent / "other"))
    assert both() == first
    write(tree, "val", (7, 3), [(3, 90, square(1, 1, 4), 0)])
    others = [both(), both(2), both(splits=("train",))]
    for kind in (0, 1):
        assert len({first[kind], *(other[kind] for other in others)}) == 4
    assert both()[0] != Coco20i(str(tree)).index().fingerprint


def test_an_outline_that_cannot_be_measured_is_named(tree):
    write(tree, "val", (7, 3), [(3, 90, {"size": [8, 10], "counts": [1, 2]}, 0)])
    with pytest.raises(FewsegError, match=r"coco-one-shot 000000000003: got an RLE of 3 pixels"):
        CocoOneShot(str(tree), n_held_out=1).object_index()


def test_without_a_root(tree, monkeypatch):
    monkeypatch.setenv("FEWSEG_DATA", str(tree.parent))
    assert CocoOneShot(n_held_out=1).root == tree
    tree.rename(tree.with_name("coco_tiny"))  # a subset is used only where it is named
    with pytest.raises(FewsegError, match=r"FEWSEG_DATA: got .*coco, expected the existing folder of coco"):
        CocoOneShot()


@pytest.mark.skipif(not (DATA / "coco_tiny").is_dir(), reason="needs $FEWSEG_DATA/coco_tiny")
def test_real_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))
    dataset = CocoOneShot(root=str(DATA / "coco_tiny"), n_held_out=5)
    assert [len(dataset.ids(split)) for split in ("train", "held_out", "val")] == [45, 5, 50]
    assert max(map(int, dataset.ids("train"))) < min(map(int, dataset.ids("held_out")))
    index, objects = dataset.index(), dataset.object_index()
    content = json.loads((DATA / "coco_tiny/annotations/instances_val2017.json").read_text())
    for image in content["images"]:
        image_id = Path(image["file_name"]).stem
        own = [a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        present = dataset.present(image_id)
        assert sorted(n for numbers in present.values() for n in numbers) == list(range(1, len(own) + 1))
        assert set(index.areas[image_id]) == set(present)
        for number, entry in objects[image_id].items():
            # the area of the list is that of the polygon, the other one counts pixels
            assert abs(entry.area - own[number - 1]["area"]) <= 0.1 * own[number - 1]["area"] + 20
            assert number in present[entry.class_id]
    with pytest.raises(FewsegError, match=r"got 3000 of the 50 images .*; set n_held_out: 5 for this tree"):
        CocoOneShot(root=str(DATA / "coco_tiny")).ids("train")
