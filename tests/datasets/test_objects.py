"""Instances of data sets in VOC's layout: the index of objects, and components where there are no instance masks."""

import os

import cv2
import numpy as np
import PIL.Image
import pytest

from fewseg.datasets import Pascal5i, Shapes5i, VocDataset
from fewseg.datasets.base import FewShotDataset, ObjectEntry, object_entries
from fewseg.datasets.components import components
from fewseg.datasets.voc import write_label
from fewseg.errors import FewsegError

LABEL = np.zeros((8, 12), np.uint8)
LABEL[:4, :5], LABEL[:4, 5:10], LABEL[6:, :6], LABEL[4], LABEL[7, 11] = 2, 2, 7, 255, 7
OBJECTS = np.zeros((8, 12), np.uint8)
OBJECTS[:4, :5], OBJECTS[:4, 5:10], OBJECTS[6:, :6], OBJECTS[4], OBJECTS[7, 11] = 1, 2, 3, 255, 4


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Image ``a`` with two touching objects of class 2, one of class 7 and one of a single pixel; ``b`` with none."""
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    empty = np.full((6, 6), 255, np.uint8)
    for name, label, objects in (("a", LABEL, OBJECTS), ("b", empty, empty)):
        cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), np.zeros((*label.shape, 3), np.uint8))
        write_label(root / f"SegmentationClass/{name}.png", label)
        write_label(root / f"SegmentationObject/{name}.png", objects)
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    return root


def without_instances(root):
    (root / "SegmentationObject").rename(root / "elsewhere")
    return root


def change(path, label):
    write_label(path, label)
    os.utime(path, ns=(1, 1))


def test_the_index_lists_class_and_area_of_every_object(tree):
    dataset = VocDataset(str(tree))
    assert dataset.object_source == "masks"
    assert dataset.object_index() == {"a": {1: (2, 20), 2: (2, 20), 3: (7, 12), 4: (7, 1)}, "b": {}}
    assert dataset.object_index()["a"][3] == ObjectEntry(class_id=7, area=12)


def test_the_class_of_an_object_is_its_majority_outside_of_void_and_background():
    label = np.uint8([[255, 255, 255, 5, 5, 9], [0, 0, 0, 0, 9, 5]])
    objects = np.uint8([[1, 1, 1, 1, 1, 1], [1, 2, 255, 0, 3, 3]])
    # object 2 lies on background and has no class; object 3 is even, the smaller id counts
    assert object_entries(label, objects) == {1: (5, 7), 3: (5, 2)}


def test_object_254_is_an_object_and_255_is_not():
    objects = np.uint8([[254, 254, 255]])
    assert object_entries(np.uint8([[20, 20, 20]]), objects) == {254: (20, 2)}


def test_the_scan_is_cached_until_an_object_mask_changes(tree, monkeypatch):
    dataset = VocDataset(str(tree))
    entries, fingerprint = dataset.object_index(), dataset.object_fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(VocDataset, "maps", lambda *a: pytest.fail("scanned again"))
        again = VocDataset(str(tree))
        assert again.object_index() == entries
        assert isinstance(again.object_index()["a"][1], ObjectEntry)
        assert again.object_fingerprint() == fingerprint
    moved = OBJECTS.copy()
    moved[:4, 5:10] = 1  # one object of two
    change(tree / "SegmentationObject/a.png", moved)
    changed = VocDataset(str(tree))
    assert changed.object_index()["a"] == {1: (2, 40), 3: (7, 12), 4: (7, 1)}
    assert changed.object_fingerprint() != fingerprint
    assert changed.index().fingerprint == dataset.index().fingerprint  # classes are the same


def test_a_broken_cache_is_scanned_again(tree, tmp_path):
    entries = VocDataset(str(tree)).object_index()
    for text in ("{", "[1]", '{"entries": {"a": {"1": [2]}}, "fingerprint": "x"}', '{"entries": {}}'):
        next((tmp_path / "cache/objects").iterdir()).write_text(text)
        assert VocDataset(str(tree)).object_index() == entries


def test_the_object_fingerprint_names_classes_lists_and_source_but_not_the_place(tree, tmp_path):
    first = VocDataset(str(tree)).object_fingerprint()
    assert VocDataset(str(tree), objects="components").object_fingerprint() != first
    assert VocDataset(str(tree), splits=("val",)).object_fingerprint() != first
    moved = tree.rename(tmp_path / "moved")
    PIL.Image.fromarray(OBJECTS).save(moved / "SegmentationObject/a.png")  # grey in place of a palette
    assert VocDataset(str(moved)).object_fingerprint() == first
    label = LABEL.copy()
    label[7, 11] = 8
    change(moved / "SegmentationClass/a.png", label)
    assert VocDataset(str(moved)).object_fingerprint() != first


def test_a_data_set_without_files_is_scanned_the_same_way(tree):
    on_disk = VocDataset(str(tree))

    class InMemory(FewShotDataset):
        name, splits = "memory", on_disk.splits
        ids, image, label, objects, index = (
            getattr(on_disk, name) for name in ("ids", "image", "label", "objects", "index")
        )

    assert InMemory().object_index() == on_disk.object_index()
    assert InMemory().object_fingerprint() == on_disk.object_fingerprint()


def test_broken_instances_are_errors_of_one_line(tree):
    path = tree / "SegmentationObject/a.png"
    change(path, OBJECTS[:, :11])
    with pytest.raises(
        FewsegError, match=r"voc a: got an object mask of 8 x 11 pixels, expected the class mask's 8 x 12"
    ):
        VocDataset(str(tree)).object_index()
    PIL.Image.new("RGB", (12, 8)).save(path)
    with pytest.raises(FewsegError, match=r"a.png: got an image of mode RGB, expected an index mask"):
        VocDataset(str(tree)).object_index()
    path.unlink()
    with pytest.raises(FewsegError, match=r"a without SegmentationObject/a.png.*choose splits"):
        VocDataset(str(tree)).object_index()
    with pytest.raises(FewsegError, match=r"a.png: got no such file.*--data.dataset.objects components") as error:
        VocDataset(str(tree)).objects("a")
    assert "\n" not in str(error.value)
    assert VocDataset(str(tree)).index()  # the semantic task needs no instances


def test_a_named_folder_of_instances_must_exist(tree):
    (tree / "SegmentationObject").rename(tree / "Mine")
    dataset = VocDataset(str(tree), objects="Mine")
    assert dataset.object_source == "masks"
    assert np.array_equal(dataset.objects("a"), OBJECTS)
    with pytest.raises(FewsegError, match=r"--data.dataset.objects: got .* without SegmentationObject/"):
        VocDataset(str(tree), objects="SegmentationObject")


def test_components_stand_in_for_missing_instances(tree):
    assert VocDataset(str(tree), objects="components").object_source == "components"
    dataset = VocDataset(str(without_instances(tree)))
    assert dataset.object_source == "components"
    objects = dataset.objects("a")
    # the two touching objects of class 2 are one; class 7 has 12 pixels and 1, which is below 16: void
    assert dataset.object_index() == {"a": {1: (2, 40)}, "b": {}}
    assert (objects == 255).sum() == 12 + 12 + 1
    assert (objects[5] == 0).all()


def test_the_augmented_instances_go_with_the_augmented_classes(tree):
    (tree / "SegmentationClass").rename(tree / "SegmentationClassAug")
    assert Pascal5i(str(tree), splits=("val",)).object_index()["a"][1].area == 20
    (tree / "SegmentationObjectAug").mkdir()
    for name in "ab":
        label = LABEL if name == "a" else np.full((6, 6), 255, np.uint8)
        write_label(tree / f"SegmentationObjectAug/{name}.png", np.where(label == 2, 9, 0).astype(np.uint8))
    assert Pascal5i(str(tree), splits=("val",)).object_index() == {"a": {9: (2, 40)}, "b": {}}
    (tree / "SegmentationClassAug").rename(tree / "SegmentationClass")
    assert Pascal5i(str(tree), labels="SegmentationClass", splits=("val",)).object_index()["a"][1].area == 20


def test_instances_of_shapes_match_the_scenes(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    dataset = Shapes5i(str(tmp_path / "shapes"), n_train=6, n_val=4)
    assert dataset.object_source == "masks"
    for image_id, entries in dataset.object_index().items():
        label, objects = dataset.maps(image_id)
        assert list(entries) == list(range(1, int(objects.max()) + 1))
        for number, (class_id, area) in entries.items():
            assert area == (objects == number).sum() >= 60
            assert (label[objects == number] == class_id).all()


# ---- components


def test_diagonal_neighbours_are_one_component_and_classes_stay_apart():
    label = np.uint8(
        [
            [1, 0, 0, 2],
            [0, 1, 2, 0],
            [0, 1, 2, 0],
            [1, 0, 0, 1],
        ]
    )
    assert components(label, min_area=1).tolist() == [
        [1, 0, 0, 3],
        [0, 1, 3, 0],
        [0, 1, 3, 0],
        [1, 0, 0, 2],
    ]


def test_components_are_numbered_by_class_and_then_by_their_first_pixel():
    label = np.zeros((5, 9), np.uint8)
    label[0, 8], label[1:, 0], label[1, 4], label[3:, 6] = 3, 3, 1, 3
    assert components(label, min_area=1).tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0, 2],
        [3, 0, 0, 0, 1, 0, 0, 0, 0],
        [3, 0, 0, 0, 0, 0, 0, 0, 0],
        [3, 0, 0, 0, 0, 0, 4, 0, 0],
        [3, 0, 0, 0, 0, 0, 4, 0, 0],
    ]


def test_small_components_are_void():
    label = np.zeros((6, 20), np.uint8)
    label[0:3, 0:5], label[:4, 8:12] = 4, 4  # 15 and 16 pixels
    objects = components(label)
    assert (objects[label == 0] == 0).all()
    assert (objects[0:3, 0:5] == 255).all()
    assert (objects[:4, 8:12] == 1).all()


def test_the_254_largest_components_are_kept_and_the_rest_is_void():
    label = np.zeros((41, 80), np.uint8)
    label[::4, ::2] = 6  # 11 x 40 single pixels
    label[1, 78] = label[37, 0] = 6  # two components of two pixels each
    objects = components(label, min_area=1)
    numbers = np.setdiff1d(np.unique(objects), [0, 255])
    assert numbers.tolist() == list(range(1, 255))
    assert (objects == 255).sum() == 440 - 254
    assert objects[0, 0] == 1
    assert objects[36, 0] == objects[37, 0] == 254  # the last large one stays; of the rest the first ones do
    assert objects[40, 78] == 255


def test_an_image_of_void_and_background_has_no_components():
    assert components(np.uint8([[0, 255], [255, 0]])).tolist() == [[0, 255], [255, 0]]
