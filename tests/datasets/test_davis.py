import os
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from fewseg.datasets import Davis
from fewseg.datasets.voc import write_label
from fewseg.errors import FewsegError

DATA = Path(os.environ.get("FEWSEG_DATA") or "none")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """DAVIS 2016: ``goat`` of 5 frames and ``ant`` of 3; the object of ``ant`` has left in frame 2."""
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "davis"
    for sequence, length in (("goat", 5), ("ant", 3)):
        for folder in ("JPEGImages", "Annotations"):
            (root / folder / "480p" / sequence).mkdir(parents=True)
        for i in range(length):
            mask = np.zeros((6, 8), np.uint8)
            mask[: i + 1, :2] = 0 if (sequence, i) == ("ant", 2) else 255
            cv2.imwrite(str(root / f"JPEGImages/480p/{sequence}/{i:05d}.jpg"), np.full((6, 8, 3), 40 * i, np.uint8))
            cv2.imwrite(str(root / f"Annotations/480p/{sequence}/{i:05d}.png"), mask)
    (root / "ImageSets/2016").mkdir(parents=True)
    (root / "ImageSets/2016/val.txt").write_text("goat\nant\n")
    return root


def test_frames_are_images_of_one_class(tree):
    dataset = Davis(str(tree), every=2)
    assert dataset.splits == ("val",)
    assert dataset.sequences() == dataset.sequences("val") == ("goat", "ant")
    assert dataset.frames("ant") == ("ant/00000", "ant/00001", "ant/00002")
    assert dataset.ids("val") == ("goat/00000", "goat/00002", "goat/00004", "ant/00000", "ant/00002")
    assert (dataset.class_names, dataset.n_folds) == (("object",), 1)
    assert (dataset.novel_classes(0), dataset.base_classes(0)) == ((1,), ())
    image, label = dataset.pair("goat/00002")
    assert image[0, 0].tolist() == [80, 80, 80]
    assert label.tolist() == dataset.objects("goat/00002").tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]] * 3 + [[0] * 8] * 3
    assert dataset.index().areas["goat/00004"] == {1: 10}
    assert dataset.object_index()["goat/00004"] == {1: (1, 10)}
    assert dataset.object_index()["ant/00002"] == {}  # the frame stays, without an object


def test_every_tenth_frame_by_default_from_the_first_one_on(tree):
    assert Davis(str(tree)).ids("val") == ("goat/00000", "ant/00000")
    assert len(Davis(str(tree), every=1).ids("val")) == 8
    assert Davis(str(tree)).index().fingerprint != Davis(str(tree), every=2).index().fingerprint


def test_davis_2017_numbers_its_objects(tree):
    (tree / "ImageSets/2016").rename(tree / "ImageSets/2017")
    mask = np.zeros((6, 8), np.uint8)
    mask[0], mask[1, :3], mask[5, 5] = 1, 2, 255
    write_label(tree / "Annotations/480p/goat/00000.png", mask)
    dataset = Davis(str(tree), year=2017)
    label, objects = dataset.maps("goat/00000")
    assert np.array_equal(objects, mask)  # 255 is void beside other numbers
    assert np.array_equal(label, dataset.label("goat/00000"))
    assert label[1, 0] == 1
    assert label[5, 5] == 255
    assert dataset.object_index()["goat/00000"] == {1: (1, 8), 2: (1, 3)}


def test_a_grey_mask_in_three_channels_is_read_and_colours_are_not(tree):
    path = tree / "Annotations/480p/goat/00000.png"
    grey = np.zeros((6, 8, 3), np.uint8)
    grey[0] = 255
    PIL.Image.fromarray(grey).save(path)
    assert Davis(str(tree)).objects("goat/00000")[0].tolist() == [1] * 8
    grey[0, 0, 0] = 3
    PIL.Image.fromarray(grey).save(path)
    with pytest.raises(FewsegError, match=r"00000.png: got an image of mode RGB, expected an index mask"):
        Davis(str(tree)).objects("goat/00000")


def test_a_missing_or_misfit_mask_is_named(tree):
    path = tree / "Annotations/480p/ant/00000.png"
    write_label(path, np.zeros((6, 7), np.uint8))
    with pytest.raises(FewsegError, match=r"davis ant/00000: got a mask of 6 x 7 pixels"):
        Davis(str(tree)).pair("ant/00000")
    path.unlink()
    with pytest.raises(FewsegError, match=r"val.txt: got ant/00000 without Annotations/480p/ant/00000.png"):
        Davis(str(tree)).object_index()
    with pytest.raises(FewsegError, match=r"00000.png: got no such file"):
        Davis(str(tree)).label("ant/00000")


def test_wrong_arguments_and_lists_say_what_is_there(tree):
    with pytest.raises(FewsegError, match=r"--data.dataset.year.*ImageSets/2017/.*there is: 2016"):
        Davis(str(tree), year=2017)
    with pytest.raises(FewsegError, match=r"--data.dataset.resolution.*Full-Resolution.*there is: 480p"):
        Davis(str(tree), resolution="Full-Resolution")
    with pytest.raises(FewsegError, match=r"--data.dataset.every: got 0"):
        Davis(str(tree), every=0)
    with pytest.raises(FewsegError, match=r"'train'.*lists there: val"):
        Davis(str(tree)).ids("train")
    (tree / "ImageSets/2016/val.txt").write_text("goat\ncow\n")
    with pytest.raises(FewsegError, match=r"cow: got no frames"):
        Davis(str(tree)).ids("val")
    (tree / "ImageSets/2016/val.txt").unlink()
    with pytest.raises(FewsegError, match=r"neither train.txt nor val.txt"):
        Davis(str(tree))


@pytest.mark.skipif(not (DATA / "davis").is_dir(), reason="needs $FEWSEG_DATA/davis")
def test_real_frames(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))
    dataset = Davis(every=40)
    entries = dataset.object_index()
    assert len(entries) == len(dataset.ids("val"))
    for image_id, found in entries.items():
        assert list(found) == [1]
        image, label = dataset.pair(image_id)
        assert image.shape[:2] == (480, 854)
        assert set(np.unique(label)) == {0, 1}
        assert found[1] == (1, int(label.sum()))
