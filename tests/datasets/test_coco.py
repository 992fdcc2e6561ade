import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fewseg.datasets import Coco20i
from fewseg.datasets.coco import COCO_CLASSES
from fewseg.errors import FewsegError

DATA = Path(os.environ.get("FEWSEG_DATA") or "none")
# COCO's own ids: 1 to 90 without these ten
IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def square(x, y, size):
    return [[x, y, x + size, y, x + size, y + size, x, y + size]]


def annotation(number, image, category, outline, crowd=0):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": outline, "iscrowd": crowd}


CONTENT = {
    "images": [
        {"id": 30, "file_name": "000000000030.jpg", "height": 8, "width": 10},
        {"id": 7, "file_name": "000000000007.jpg", "height": 4, "width": 4},
        {"id": 11, "file_name": "000000000011.jpg", "height": 4, "width": 4},
    ],
    "categories": [{"id": i, "name": name} for i, name in reversed(list(zip(IDS, COCO_CLASSES, strict=True)))],
    "annotations": [
        annotation(1, 30, 90, square(2, 2, 2)),  # a toothbrush, class 80, upon ...
        annotation(2, 30, 1, square(1, 1, 5)),  # ... a person, class 1
        annotation(3, 30, 13, {"size": [8, 10], "counts": [0, 16, 64]}, crowd=1),  # stop signs, columns 0 and 1
        annotation(4, 30, 13, [*square(8, 0, 1), *square(8, 6, 1)]),  # one stop sign, class 12, in two parts
        annotation(5, 7, 44, {"size": [4, 4], "counts": [4, 1, 11]}),  # a bottle, class 40, of a single pixel
        annotation(6, 7, 44, [[1, 1, 2, 2]]),  # too few corners for any pixel
    ],
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    for image in CONTENT["images"]:
        path = root / "val2017" / image["file_name"]
        cv2.imwrite(str(path), np.zeros((image["height"], image["width"], 3), np.uint8))
    write(root, CONTENT)
    return root


def write(root, content):
    path = root / "annotations/instances_val2017.json"
    path.write_text(json.dumps(content))
    os.utime(path, ns=(1, len(path.read_bytes())))


def coco(root, **arguments):
    return Coco20i(str(root), splits=("val",), **arguments)


def test_smaller_objects_lie_upon_larger_ones_and_crowds_are_void(tree):
    label, objects = coco(tree).maps("000000000030")
    v, t = 255, 80
    assert label.tolist() == [
        [v, v, 0, 0, 0, 0, 0, 0, 12, 0],
        [v, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [v, 1, t, t, 1, 1, 0, 0, 0, 0],
        [v, 1, t, t, 1, 1, 0, 0, 0, 0],
        [v, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [v, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [v, v, 0, 0, 0, 0, 0, 0, 12, 0],
        [v, v, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    numbers = {0: 0, v: v, t: 1, 1: 2, 12: 3}  # in the order of the list, crowds left out
    assert objects.tolist() == [[numbers[c] for c in row] for row in label.tolist()]
    assert np.array_equal(coco(tree).label("000000000030"), label)
    assert np.array_equal(coco(tree).objects("000000000030"), objects)
    assert coco(tree).pair("000000000030")[0].shape == (8, 10, 3)


def test_the_index_covers_images_without_objects(tree):
    dataset = coco(tree)
    assert dataset.ids("val") == ("000000000007", "000000000011", "000000000030")
    assert dataset.object_index() == {
        "000000000007": {1: (40, 1)},
        "000000000011": {},
        "000000000030": {1: (80, 4), 2: (1, 21), 3: (12, 2)},
    }
    assert dataset.index().areas["000000000030"] == {80: 4, 1: 21, 12: 2}
    assert dataset.objects("000000000007")[0, 1] == 1


def test_packed_run_lengths(tree):
    content = json.loads(json.dumps(CONTENT))
    content["annotations"][4]["segmentation"]["counts"] = "41;"  # [4, 1, 11]: each number in one character from 48 on
    write(tree, content)
    assert coco(tree).object_index()["000000000007"] == {1: (40, 1)}


def test_the_two_kinds_of_folds(tree):
    split, block = coco(tree), coco(tree, folds="block")
    assert split.novel_classes(0) == tuple(range(1, 81, 4))
    assert split.novel_classes(3)[:2] == (4, 8)
    assert split.novel_classes(3)[-1] == 80
    assert block.novel_classes(1) == tuple(range(21, 41))
    for dataset in (split, block):
        assert sorted(c for f in range(4) for c in dataset.novel_classes(f)) == list(range(1, 81))
        assert len(dataset.base_classes(2)) == 60
    # lists of episodes are named by the fingerprint and the number of the fold
    assert split.index().fingerprint != block.index().fingerprint
    assert split.object_fingerprint() != block.object_fingerprint()
    with pytest.raises(FewsegError, match=r"--data.dataset.folds: got 'random'"):
        coco(tree, folds="random")


def test_class_names():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == len(IDS) == 80
    assert [COCO_CLASSES[IDS.index(i)] for i in (1, 13, 44, 62, 90)] == [
        *("person", "stop sign", "bottle", "chair", "toothbrush")
    ]


def test_a_moved_outline_changes_the_fingerprints(tree):
    before = coco(tree).index().fingerprint, coco(tree).object_fingerprint()
    content = json.loads(json.dumps(CONTENT))
    content["annotations"].append(annotation(9, 11, 1, square(0, 0, 3)))
    write(tree, content)
    after = coco(tree)
    assert after.object_index()["000000000011"] == {1: (1, 9)}
    assert after.index().fingerprint != before[0]
    assert after.object_fingerprint() != before[1]


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ({"size": [4, 5], "counts": [4, 1, 15]}, "run-length code of size"),
        ({"size": [4, 4], "counts": [4, 1, 99]}, "RLE"),
        ({"size": [4, 4], "counts": "zz~~"}, "RLE"),
        ({"counts": [16]}, "size"),
    ],
)
def test_a_broken_outline_is_an_error_of_one_line(tree, outline, message):
    content = json.loads(json.dumps(CONTENT))
    content["annotations"][4]["segmentation"] = outline
    write(tree, content)
    with pytest.raises(FewsegError, match=rf"coco20i 000000000007: got .*{message}"):
        coco(tree).object_index()


def test_too_many_objects_for_eight_bits(tree):
    many = [annotation(100 + i, 11, 1, square(0, 0, 2)) for i in range(255)]
    write(tree, {**CONTENT, "annotations": many})
    with pytest.raises(FewsegError, match=r"000000000011: got 255 objects in an image"):
        coco(tree).objects("000000000011")


def test_broken_lists_and_trees(tree):
    path = tree / "annotations/instances_val2017.json"
    for content in (
        {**CONTENT, "categories": CONTENT["categories"][1:]},
        {"images": []},
        [1],
        {**CONTENT, "images": []},
    ):
        write(tree, content)
        with pytest.raises(FewsegError, match=r"instances_val2017.json: got a"):
            coco(tree).ids("val")
    write(tree, {**CONTENT, "images": [], "annotations": []})
    with pytest.raises(FewsegError, match=r"an empty list"):
        coco(tree).ids("val")
    path.write_text("{")
    with pytest.raises(FewsegError, match=r"broken list"):
        coco(tree).ids("val")
    with pytest.raises(FewsegError, match=r"--data.dataset.root: got .* without annotations/instances_train2017.json"):
        Coco20i(str(tree))
    with pytest.raises(FewsegError, match=r"coco20i split: got 'test'"):
        coco(tree).ids("test")


def test_a_missing_image_and_an_image_of_another_size(tree):
    cv2.imwrite(str(tree / "val2017/000000000007.jpg"), np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(FewsegError, match=r"got a mask of 4 x 4 pixels, expected the image's 4 x 5"):
        coco(tree).pair("000000000007")
    (tree / "val2017/000000000007.jpg").unlink()
    with pytest.raises(FewsegError, match=r"got 000000000007 without val2017/000000000007.jpg"):
        coco(tree).index()
    with pytest.raises(FewsegError, match=r"coco20i image: got '8'"):
        coco(tree).label("8")


@pytest.mark.skipif(not (DATA / "coco_tiny").is_dir(), reason="needs $FEWSEG_DATA/coco_tiny")
def test_real_annotations(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))
    dataset = Coco20i(str(DATA / "coco_tiny"))
    path = DATA / "coco_tiny/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    crowded = {a["image_id"] for a in content["annotations"] if a["iscrowd"]}
    names = {c["id"]: c["name"] for c in content["categories"]}
    entries = Coco20i(str(DATA / "coco_tiny"), splits=("val",)).object_index()
    assert sum(map(len, entries.values())) == sum(not a["iscrowd"] for a in content["annotations"]) == 377
    for image in content["images"]:
        found = entries[Path(image["file_name"]).stem]
        own = [a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        # occlusion takes pixels away, so majority classes are COCO's own and areas are at most COCO's
        assert [dataset.class_names[e.class_id - 1] for e in found.values()] == [names[a["category_id"]] for a in own]
        for entry, a in zip(found.values(), own, strict=True):
            assert entry.area <= a["area"] * 1.1 + 20
    label, objects = dataset.maps(f"{min(crowded):012d}")
    assert (label == 255).any()
    assert np.array_equal(label == 255, objects == 255)
    assert dataset.pair(f"{min(crowded):012d}")
