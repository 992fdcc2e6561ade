import json
import os
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask
import pytest
from pycocotools.coco import COCO

from fewseg.datasets import Coco20i
from fewseg.datasets.coco import COCO_CLASSES, box_pixels, outline_area, outline_mask, run_lengths
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
        ({"size": [4, 4]}, "counts"),
        ({"size": [4, 4], "counts": [4, 1]}, "an RLE of 5 pixels"),  # COCO's tools read stray memory here ...
        ({"size": [4, 4], "counts": "41"}, "an RLE of 5 pixels"),  # ... and here
        ({"size": [4, 4], "counts": "4X"}, "an RLE without end"),
        ({"size": [4, 4], "counts": [4, -1, 13]}, "an RLE of other than whole numbers"),
        ({"size": [4, 4], "counts": [4.5, 1, 10.5]}, "an RLE of other than whole numbers"),
        ({"size": [4, 4], "counts": [10**20]}, "an RLE of"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "a corner more than"),  # would take minutes and gigabytes to draw
        ([[0, 0, float("nan"), 0, 2, 2]], "a corner more than"),
    ],
)
def test_a_broken_outline_is_an_error_of_one_line(tree, outline, message):
    content = json.loads(json.dumps(CONTENT))
    content["annotations"][4]["segmentation"] = outline
    write(tree, content)
    for read in (Coco20i.object_index, lambda dataset: dataset.instances("000000000007")):
        with pytest.raises(FewsegError, match=rf"coco20i 000000000007: got .*{message}"):
            read(coco(tree))


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
    whole = json.dumps(CONTENT)
    for text in ("{", whole[:-20], "", "[" * 100_000, '{"images": {"id": 1}, "annotations": [], "categories": 1}'):
        path.write_text(text)
        with pytest.raises(FewsegError, match=r"instances_val2017.json: got a broken list") as caught:
            coco(tree).ids("val")
        assert len(str(caught.value).splitlines()) == 1
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(FewsegError, match=r"broken list"):
        coco(tree).ids("val")
    with pytest.raises(FewsegError, match=r"--data.dataset.root: got .* without annotations/instances_train2017.json"):
        Coco20i(str(tree))
    with pytest.raises(FewsegError, match=r"coco20i split: got 'test'"):
        coco(tree).ids("test")


def test_a_missing_image_and_an_image_of_another_size(tree):
    cv2.imwrite(str(tree / "val2017/000000000007.jpg"), np.zeros((4, 5, 3), np.uint8))
    for read in (lambda: coco(tree).pair("000000000007"), lambda: coco(tree).reference("000000000007", 1)):
        with pytest.raises(FewsegError, match=r"000000000007.jpg: got 4 x 5 pixels, expected the list's 4 x 4"):
            read()
    (tree / "val2017/000000000007.jpg").unlink()
    with pytest.raises(FewsegError, match=r"got 000000000007 without val2017/000000000007.jpg"):
        coco(tree).index()
    with pytest.raises(FewsegError, match=r"coco20i image: got '8'"):
        coco(tree).label("8")


def changed(number, **fields):
    """The list with other fields of one annotation; None takes a field away."""
    content = json.loads(json.dumps(CONTENT))
    each = next(a for a in content["annotations"] if a["id"] == number)
    each.update(fields)
    for field in [field for field, value in fields.items() if value is None]:
        del each[field]
    return content


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segmentation": None}, "annotation 4 without segmentation"),
        ({"segmentation": 7}, "annotation 4: neither polygons nor"),
        ({"segmentation": [["a"] * 6]}, "annotation 4: "),
        ({"segmentation": [[1, 1, 2, 2, 3, 3, 4]]}, "annotation 4: a corner with x alone"),
        ({"segmentation": [1, 1, 2, 2, 3, 3]}, "annotation 4: TypeError"),
        ({"category_id": 12}, "annotation 4 of the unknown category 12"),
        ({"category_id": None}, "annotation 4: KeyError: 'category_id'"),
        ({"image_id": 8}, "annotation 4 of the unknown image 8"),
        ({"image_id": None}, "annotation 4 without image_id"),
        ({"bbox": [1, 2, 3]}, "annotation 4: "),
        ({"bbox": [1, 2, -3, 4]}, "annotation 4: a box"),
        ({"bbox": [1, 2, float("inf"), 4]}, "annotation 4: a box"),
        ({"bbox": "here"}, "annotation 4: "),
    ],
)
def test_a_broken_annotation_is_named_in_one_line(tree, fields, message):
    write(tree, changed(4, **fields))
    with pytest.raises(FewsegError, match=rf"instances_val2017.json: got a broken list .*{message}") as caught:
        coco(tree).ids("val")
    assert len(str(caught.value).splitlines()) == 1
    assert "restore it from the original data" in str(caught.value)


def test_two_images_of_one_id_or_one_name_and_impossible_sizes(tree):
    for image in ({"id": 7}, {"file_name": "000000000007.png", "id": 8}, {"height": 0}, {"width": 10**20}):
        other = {**CONTENT["images"][2], **image}
        write(tree, {**CONTENT, "images": [*CONTENT["images"][:2], other], "annotations": []})
        with pytest.raises(FewsegError, match=r"got a broken list .*(two images of one id|image (8|11) of )"):
            coco(tree).ids("val")


def test_instances_have_whole_masks_and_boxes_as_annotated(tree):
    write(tree, changed(2, bbox=[1.25, 1, 4.5, 5]))
    found = coco(tree).instances("000000000030")
    assert [(each.class_id, each.crowd) for each in found] == [(80, False), (1, False), (12, True), (12, False)]
    assert [int(each.mask.sum()) for each in found] == [4, 25, 16, 2]  # the toothbrush takes nothing from the person
    assert found[2].mask[:, :2].all()
    # that of its corners and that of its pixels, where the list has none
    assert [each.box for each in found] == [(2, 2, 2, 2), (1.25, 1, 4.5, 5), (0, 0, 2, 8), (8, 0, 1, 7)]
    assert all(each.mask.shape == (8, 10) and each.mask.dtype == bool for each in found)
    assert coco(tree).instances("000000000011") == ()


def test_masks_are_those_of_cocos_own_tools(tree):
    rng = np.random.RandomState(0)
    masks = [rng.rand(8, 10) < share for share in (0.02, 0.5, 0.98, 1.0)]
    packed = [pycocotools.mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
    counts = [each["counts"].decode() for each in packed]
    outlines = [
        *({"size": [8, 10], "counts": text} for text in counts),
        *({"size": [8, 10], "counts": run_lengths(text)} for text in counts),
        *([(rng.rand(2 * corners) * 12 - 1).round(2).tolist() for corners in (3, 7)] for _ in range(6)),
    ]
    annotations = [annotation(i, 30, 1, outline, i % 2) for i, outline in enumerate(outlines, 1)]
    write(tree, {**CONTENT, "annotations": annotations})
    tools = COCO(str(tree / "annotations/instances_val2017.json"))
    found = coco(tree).instances("000000000030")
    assert len(found) == len(annotations)
    for each, own in zip(found, annotations, strict=True):
        assert np.array_equal(each.mask, tools.annToMask(own))
        outline = own["segmentation"]
        assert outline_area(outline, 8, 10) == each.mask.sum() > 0
    assert all(np.array_equal(each.mask, mask) for each, mask in zip(found, masks * 2, strict=False))


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (300, 200)])
def test_run_lengths_of_all_sizes(shape):
    rng = np.random.RandomState(sum(shape))
    for share in (0.0, 0.001, 0.3, 1.0):
        mask = rng.rand(*shape) < share
        mask[: shape[0] // 2] |= share == 0.3  # long runs, whose differences change sign
        lengths = run_lengths(pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode())
        flat = np.repeat(np.arange(len(lengths)) % 2, lengths)
        assert np.array_equal(flat.reshape(shape[::-1]).T, mask)


def test_an_outline_without_pixels_keeps_its_box(tree):
    write(tree, changed(5, segmentation=[], bbox=[1, 1, 2, 1.5]))
    dataset = coco(tree)
    first, second = dataset.instances("000000000007")
    assert not first.mask.any()
    assert first.box == (1, 1, 2, 1.5)
    assert second.box == (0, 0, 0, 0)  # neither a box nor an outline
    assert dataset.reference("000000000007", 1).shape == (2, 2, 3)
    assert dataset.reference("000000000007", 2).shape == (1, 1, 3)
    assert dataset.present("000000000007") == {40: (1, 2)}
    assert dataset.object_index()["000000000007"] == {}
    assert not outline_mask([], 2, 3).any()


def test_which_classes_an_image_shows(tree):
    dataset = coco(tree)
    assert dataset.present("000000000030") == {1: (2,), 12: (3,), 80: (1,)}
    assert dataset.present("000000000007") == {40: (1, 2)}
    assert dataset.present("000000000011") == {}
    for number, class_id in ((1, 80), (2, 1), (3, 12)):  # the numbers are those of the object map
        assert set(dataset.label("000000000030")[dataset.objects("000000000030") == number]) == {class_id}
    # of an outline that cannot be drawn, too
    write(tree, changed(1, segmentation={"size": [1, 1], "counts": [9]}))
    assert coco(tree).present("000000000030") == {1: (2,), 12: (3,), 80: (1,)}


def test_an_image_that_shows_a_crowd_only(tree):
    write(tree, {**CONTENT, "annotations": [CONTENT["annotations"][2]]})
    dataset = coco(tree)
    assert dataset.present("000000000030") == {}
    (crowd,) = dataset.instances("000000000030")
    assert crowd.crowd
    assert crowd.mask.sum() == 16
    assert dataset.index().areas["000000000030"] == dataset.object_index()["000000000030"] == {}
    with pytest.raises(FewsegError, match=r"coco20i 000000000030: got object 1, expected one of its 0"):
        dataset.reference("000000000030", 1)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((2, 1, 3, 4), (1, 5), (2, 5)),
        ((2.4, 1.9, 2.7, 0.2), (1, 3), (2, 6)),  # 2.4 to 5.1, 1.9 to 2.1
        ((0.7, 0, 2.3, 1), (0, 1), (0, 3)),  # column 3 begins where the box ends
        ((9, 7, 1, 1), (7, 8), (9, 10)),  # the last pixel
        ((10, 8, 0, 0), (7, 8), (9, 10)),  # nothing, at the border
        ((4, 3, 0, 2), (3, 5), (4, 5)),
        ((-3, -2, 5, 4), (0, 2), (0, 2)),
        ((8.5, 6, 40, 30), (6, 8), (8, 10)),
        ((30, -20, 5, 5), (0, 1), (9, 10)),  # outside
    ],
)
def test_a_reference_is_what_the_box_touches(tree, box, rows, columns):
    assert box_pixels(box, 8, 10) == (slice(*rows), slice(*columns))
    write(tree, changed(2, bbox=list(box)))
    image = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)
    path = tree / "val2017/000000000030.jpg"
    cv2.imwrite(str(path.with_suffix(".png")), image[..., ::-1])
    path.with_suffix(".png").replace(path)  # its content says what it is
    crop = coco(tree).reference("000000000030", 2)
    assert np.array_equal(crop, image[slice(*rows), slice(*columns)])
    assert coco(tree).reference_pixels("000000000030", 2) == (slice(*rows), slice(*columns))
    assert crop.base is None  # the image is not kept for the sake of its crop


def test_ids_for_results(tree):
    dataset = coco(tree)
    assert dataset.result_ids("000000000030", 12) == (30, 13)
    assert dataset.result_ids("000000000007", 80) == (7, 90)
    with pytest.raises(FewsegError, match=r"coco20i class: got 81"):
        dataset.result_ids("000000000007", 81)
    with pytest.raises(FewsegError, match=r"coco20i image: got '8'"):
        dataset.result_ids("8", 1)
    assert [each.number for each in dataset.annotations("000000000030")] == [1, 2, 3, 4]


def test_lists_without_iscrowd(tree):
    content = json.loads(json.dumps(CONTENT))
    for each in content["annotations"]:
        del each["iscrowd"]
    write(tree, content)
    assert not any(each.crowd for each in coco(tree).instances("000000000030"))


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


@pytest.mark.skipif(not (DATA / "coco_tiny").is_dir(), reason="needs $FEWSEG_DATA/coco_tiny")
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_instances(split):
    path = DATA / f"coco_tiny/annotations/instances_{split}2017.json"
    dataset, tools = Coco20i(str(DATA / "coco_tiny"), splits=(split,)), COCO(str(path))
    content = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    for image in content["images"]:
        image_id = Path(image["file_name"]).stem
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        found = dataset.instances(image_id)
        assert [each.box for each in found] == [tuple(a["bbox"]) for a in own]
        assert [each.crowd for each in found] == [bool(a["iscrowd"]) for a in own]
        assert all(np.array_equal(each.mask, tools.annToMask(a)) for each, a in zip(found, own, strict=True))
        for each, a in zip(found, own, strict=True):
            assert dataset.class_names[each.class_id - 1] == names[a["category_id"]]
            assert dataset.result_ids(image_id, each.class_id) == (image["id"], a["category_id"])
        objects = [a for a in own if not a["iscrowd"]]
        for numbers in dataset.present(image_id).values():
            for number in numbers[:1]:
                height, width = dataset.reference(image_id, number).shape[:2]
                w, h = objects[number - 1]["bbox"][2:]
                assert 0 <= width - w < 2
                assert 0 <= height - h < 2
