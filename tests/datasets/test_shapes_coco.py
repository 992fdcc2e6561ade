import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from fewseg.datasets import Shapes5i, ShapesCoco, generated, shapes, shapes_coco
from fewseg.datasets.drawing import SHAPES, TEXTURES
from fewseg.datasets.shapes import render_scene
from fewseg.datasets.shapes_coco import CATEGORIES, CLASS_NAMES
from fewseg.errors import FewsegError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    root = tmp_path_factory.mktemp("both")
    return ShapesCoco(str(root / "coco"), 20, 6), Shapes5i(str(root / "voc"), 20, 6)


def test_folds_are_those_of_shapes5i(both):
    ours, theirs = both
    assert sorted(ours.class_names) == sorted(theirs.class_names)
    assert ours.n_folds == theirs.n_folds == 4
    for fold in range(4):
        novel = [ours.class_names[c - 1] for c in ours.novel_classes(fold)]
        assert novel == [theirs.class_names[c - 1] for c in theirs.novel_classes(fold)]
        assert ours.novel_classes(fold) == tuple(range(fold + 1, 21, 4))
        seen = {word for c in ours.base_classes(fold) for word in ours.class_names[c - 1].split()}
        assert {word for name in novel for word in name.split()} <= seen  # but never together
        assert set(ours.novel_classes(fold)).isdisjoint(ours.base_classes(fold))


def test_category_4s_plus_f_plus_1_has_shape_s_and_texture_s_plus_f():
    for s in range(5):
        for f in range(4):
            assert CLASS_NAMES[4 * s + f] == f"{TEXTURES[(s + f) % 4]} {SHAPES[s]}"
    assert all(CLASS_NAMES[new - 1] == shapes.CLASS_NAMES[old - 1] for old, new in CATEGORIES.items())
    assert sorted(CATEGORIES.values()) == sorted(CATEGORIES) == list(range(1, 21))


def test_scenes_are_those_of_shapes5i(both):
    ours, theirs = both
    renumber = np.zeros(21, np.uint8)
    renumber[list(CATEGORIES)] = list(CATEGORIES.values())
    splits = {"train": (*ours.ids("train"), *ours.ids("held_out")), "val": ours.ids("val")}
    for split, ids in splits.items():
        for image_id, other in zip(ids, theirs.ids(split), strict=True):
            label, objects = ours.maps(image_id)
            assert np.array_equal(label, renumber[theirs.label(other)])
            assert np.array_equal(objects, theirs.objects(other))
            assert np.array_equal(ours.image(image_id), theirs.image(other))
            # nothing overlaps, so measuring outlines and drawing them is the same
            assert ours.index().areas[image_id] == {int(c): int((label == c).sum()) for c in np.unique(label) if c}


def test_image_ids_and_held_out_images(both):
    ours, _ = both
    ids = [i for split in ("train", "held_out", "val") for i in ours.ids(split)]
    assert ids == [f"{i:012d}" for i in range(1, 27)]
    assert len(ours.ids("held_out")) == 2  # a tenth
    assert len(ShapesCoco(str(ours.root), 20, 6, n_held_out=7).ids("train")) == 13
    assert ours.result_ids("000000000021", 20) == (21, 20)


def test_other_tools_read_the_lists(both):
    ours, _ = both
    numbers = []
    for split in ("train", "val"):
        tools = COCO(str(ours.root / f"annotations/instances_{split}2017.json"))
        assert {c["id"]: c["name"] for c in tools.dataset["categories"]} == dict(enumerate(CLASS_NAMES, 1))
        for each in tools.dataset["annotations"]:
            mask = tools.annToMask(each)
            rows, columns = np.nonzero(mask)
            x, y, w, h = each["bbox"]
            assert (x, y, x + w - 1, y + h - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
            assert (each["area"], each["iscrowd"]) == (mask.sum(), 0)
            numbers.append(each["id"])
        for image in tools.dataset["images"]:
            scene = render_scene(image["id"] - 1)
            assert (image["height"], image["width"]) == scene.classes.shape
            assert len(tools.getAnnIds(image["id"])) == scene.objects.max()
    assert numbers == list(range(1, len(numbers) + 1))  # no id is in both lists


def test_references_show_the_object(both):
    ours, _ = both
    image_id = ours.ids("val")[0]
    image, objects = ours.image(image_id), ours.objects(image_id)
    for numbers in ours.present(image_id).values():
        for number in numbers:
            rows, columns = np.nonzero(objects == number)
            crop = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert np.array_equal(ours.reference(image_id, number), crop)


def test_the_tree_and_other_seeds(cache):
    dataset = ShapesCoco(n_train=2, n_val=1, seed=2)
    assert dataset.root == cache / "shapes-coco-2-1-2-v1.1"
    assert sorted(p.relative_to(cache).as_posix() for p in cache.glob("*/*")) == [
        f"shapes-coco-2-1-2-v1.1/{name}" for name in ("annotations", "shapes-coco.json", "train2017", "val2017")
    ]
    assert dataset.splits == ("train", "val")  # a tenth of two is none
    assert np.array_equal(dataset.objects("000000000003"), render_scene(2_000_008).objects)


def test_a_second_interpreter_draws_the_same_tree(tmp_path, monkeypatch):
    def lists(name):
        root = tmp_path / name
        ShapesCoco(str(root), n_train=5, n_val=4)
        return [p.read_text() for p in sorted((root / "annotations").iterdir())], sorted(
            (p.relative_to(root), p.read_bytes()) for p in root.glob("*2017/*")
        )

    one = lists("one")
    monkeypatch.setattr(shapes_coco, "SECOND_PROCESS_FROM", 5)
    monkeypatch.setattr(generated.os, "cpu_count", lambda: 2)
    assert lists("two") == one
    monkeypatch.setattr(generated.sys, "executable", "/bin/false")
    assert lists("three") == one


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def stop(seed):
        if seed == 2:
            raise KeyboardInterrupt
        return render_scene(seed)

    monkeypatch.setattr(shapes, "render_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        ShapesCoco(str(tmp_path / "tree"), n_train=3, n_val=3)
    assert not list(tmp_path.iterdir())


def test_other_content_at_the_root_is_an_error(both, tmp_path):
    ours, theirs = both
    for root in (ours.root, theirs.root):
        with pytest.raises(FewsegError, match=r"--data.dataset.root: got .*which holds"):
            ShapesCoco(str(root), n_train=2, n_val=1)
    for arguments in ({"n_train": 0}, {"n_val": -1}, {"seed": 4000}):
        with pytest.raises(FewsegError, match=r"--data.dataset"):
            ShapesCoco(str(tmp_path / "tree"), **arguments)


def test_a_list_of_another_data_set_is_refused(tmp_path):
    other = ShapesCoco(str(tmp_path / "tree"), 2, 1)
    path = other.list_path("val")
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "striped horse"
    path.write_text(json.dumps(content))
    with pytest.raises(FewsegError, match=r"its categories are not the 20 of this data set"):
        ShapesCoco(str(tmp_path / "tree"), 2, 1).ids("val")
