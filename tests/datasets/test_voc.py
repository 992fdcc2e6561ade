import os

import cv2
import numpy as np
import PIL.Image
import pytest

from fewseg.datasets import VocDataset
from fewseg.datasets.voc import read_ids, read_label, voc_palette, write_label
from fewseg.errors import FewsegError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two images: ``a`` (train, val) of classes 1 and 3 with void, ``b`` (val) of class 20."""
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    a, b = np.zeros((8, 10), np.uint8), np.full((6, 6), 20, np.uint8)
    a[:2], a[2:4, :5], a[7] = 1, 3, 255
    for name, label in (("a", a), ("b", b)):
        image = np.zeros((*label.shape, 3), np.uint8)
        image[..., 2] = 250  # red in OpenCV's order
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
        write_label(root / "SegmentationClass" / f"{name}.png", label)
        write_label(root / "SegmentationObject" / f"{name}.png", (label > 0).astype(np.uint8))
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("b\na\n\n")
    return root


def test_reads_images_labels_and_objects(tree):
    dataset = VocDataset(str(tree))
    assert dataset.ids("val") == ("b", "a")
    image, label = dataset.pair("a")
    assert image.shape == (8, 10, 3)
    assert image.dtype == label.dtype == np.uint8
    assert image[4, 5, 0] > 240  # RGB
    assert image[4, 5, 2] < 10
    assert label[0, 0] == 1
    assert label[7, 0] == 255
    assert dataset.objects("b").max() == 1


def test_reading_grey_masks_and_palette_masks_is_the_same(tree):
    label = read_label(tree / "SegmentationClass/a.png", 20)
    PIL.Image.fromarray(label).save(tree / "grey.png")
    assert np.array_equal(read_label(tree / "grey.png", 20), label)
    with PIL.Image.open(tree / "SegmentationClass/a.png") as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:768] == voc_palette()


def test_index_counts_areas_and_is_cached(tree, tmp_path, monkeypatch):
    index = VocDataset(str(tree)).index()
    assert index.areas == {"a": {1: 20, 3: 10}, "b": {20: 36}}
    files = list((tmp_path / "cache/index").iterdir())
    assert len(files) == 1
    monkeypatch.setattr(VocDataset, "_scan", lambda *a: pytest.fail("scanned again"))
    assert VocDataset(str(tree)).index() == index


def test_a_changed_mask_a_changed_list_and_a_broken_cache_are_scanned_again(tree, tmp_path):
    index = VocDataset(str(tree)).index()
    next((tmp_path / "cache/index").iterdir()).write_text("{")
    assert VocDataset(str(tree)).index() == index
    write_label(tree / "SegmentationClass/b.png", np.full((6, 6), 19, np.uint8))
    os.utime(tree / "SegmentationClass/b.png", ns=(1, 1))
    changed = VocDataset(str(tree)).index()
    assert changed.areas["b"] == {19: 36}
    assert changed.fingerprint != index.fingerprint
    (tree / "ImageSets/Segmentation/train.txt").write_text("b\n")
    assert VocDataset(str(tree)).index().fingerprint != changed.fingerprint


def test_the_fingerprint_does_not_depend_on_the_place_or_on_the_encoding(tree, tmp_path):
    fingerprint = VocDataset(str(tree)).index().fingerprint
    moved = tree.rename(tmp_path / "elsewhere")
    label = read_label(moved / "SegmentationClass/a.png")
    PIL.Image.fromarray(label).save(moved / "SegmentationClass/a.png")
    assert VocDataset(str(moved)).index().fingerprint == fingerprint


def test_a_cache_that_cannot_be_written_costs_nothing_but_the_scan(tree, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "file"))
    assert len(VocDataset(str(tree)).index().areas) == 2


def test_the_root_comes_from_the_environment(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_DATA", str(tmp_path))
    assert VocDataset().root == tree
    monkeypatch.delenv("FEWSEG_DATA")
    with pytest.raises(FewsegError, match=r"--data.dataset.root.*FEWSEG_DATA"):
        VocDataset()


def test_a_missing_root_or_mask_folder_is_named(tree, tmp_path):
    with pytest.raises(FewsegError, match=r"--data.dataset.root"):
        VocDataset(str(tmp_path / "nowhere"))
    with pytest.raises(FewsegError, match=r"--data.dataset.labels.*SegmentationClassAug"):
        VocDataset(str(tree), labels="SegmentationClassAug")


def test_a_missing_list_says_which_there_are(tree):
    with pytest.raises(FewsegError, match=r"trainaug.*train, val"):
        VocDataset(str(tree)).ids("trainaug")


def test_an_id_without_image_or_mask(tree):
    (tree / "JPEGImages/b.jpg").unlink()
    with pytest.raises(FewsegError, match=r"val.txt: got b without JPEGImages/b.jpg"):
        VocDataset(str(tree)).index()
    with pytest.raises(FewsegError, match=r"b.jpg"):
        VocDataset(str(tree)).image("b")
    (tree / "SegmentationClass/a.png").unlink()
    with pytest.raises(FewsegError, match=r"train.txt: got a without SegmentationClass/a.png"):
        VocDataset(str(tree)).index()
    with pytest.raises(FewsegError, match="no such file"):
        VocDataset(str(tree)).label("a")


@pytest.mark.parametrize("keep", [0, 2, 300, -3])
def test_a_truncated_jpeg_is_an_error(tree, keep):
    path = tree / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FewsegError, match=r"a.jpg: got"):
        VocDataset(str(tree)).image("a")


def test_a_truncated_mask_is_an_error(tree):
    path = tree / "SegmentationClass/a.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FewsegError, match="cannot be read"):
        VocDataset(str(tree)).label("a")


def test_a_mask_of_another_size_is_an_error(tree):
    write_label(tree / "SegmentationClass/a.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(FewsegError, match="8 x 9"):
        VocDataset(str(tree)).pair("a")


def test_an_unknown_label_and_a_colour_mask_are_errors(tree):
    write_label(tree / "SegmentationClass/a.png", np.full((8, 10), 21, np.uint8))
    with pytest.raises(FewsegError, match=r"label 21, expected 0 to 20"):
        VocDataset(str(tree)).index()
    PIL.Image.new("RGB", (10, 8)).save(tree / "SegmentationClass/a.png")
    with pytest.raises(FewsegError, match="mode RGB"):
        VocDataset(str(tree)).label("a")


def test_a_class_without_images_is_an_error(tree):
    dataset = VocDataset(str(tree))
    dataset.check_classes("val", (1, 3, 20))
    with pytest.raises(FewsegError, match="no image of bicycle, tvmonitor,"):
        dataset.check_classes("train", (1, 2, 20))


def test_lists_of_paths_and_repeated_ids(tmp_path):
    (tmp_path / "list.txt").write_text("/JPEGImages/2007_1.jpg /Masks/2007_1.png\n2007_1\nb.c\n")
    assert read_ids(tmp_path / "list.txt") == ("2007_1", "b.c")
    (tmp_path / "list.txt").write_text(" \n")
    with pytest.raises(FewsegError, match="empty list"):
        read_ids(tmp_path / "list.txt")


def test_folds_are_blocks_of_five(tree):
    dataset = VocDataset(str(tree))
    assert dataset.novel_classes(3) == (16, 17, 18, 19, 20)
    assert dataset.base_classes(0) == tuple(range(6, 21))
    assert dataset.class_names[14] == "person"
