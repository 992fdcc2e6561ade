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


def test_in_davis_2017_255_is_void_even_where_nothing_else_is(tree):
    (tree / "ImageSets/2017").mkdir()
    (tree / "ImageSets/2017/val.txt").write_text("goat\n")
    several, one = Davis(str(tree), year=2017), Davis(str(tree), year=2016)
    row = [255, 255, 0, 0, 0, 0, 0, 0]
    assert several.objects("goat/00000").tolist() == [row] + [[0] * 8] * 5
    assert several.label("goat/00000").tolist() == [row] + [[0] * 8] * 5
    assert several.object_index()["goat/00000"] == {}
    assert one.objects("goat/00000").max() == 1


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


def test_the_year_2016_merges_the_objects_of_2017(tree):
    (tree / "ImageSets/2017").mkdir()
    (tree / "ImageSets/2017/val.txt").write_text("goat\n")
    for i in range(5):
        mask = np.zeros((6, 8), np.uint8)
        mask[0], mask[1, :3], mask[2, 0], mask[5, 5] = 1, 2, 254, 255
        write_label(tree / f"Annotations/480p/goat/{i:05d}.png", mask)
    several, one = Davis(str(tree), year=2017), Davis(str(tree), year=2016)
    assert several.object_index()["goat/00000"] == {1: (1, 8), 2: (1, 3), 254: (1, 1)}
    merged = one.objects("goat/00000")
    assert merged.dtype == np.uint8
    assert merged.tolist() == [[1] * 8, [1] * 3 + [0] * 5, [1] + [0] * 7, [0] * 8, [0] * 8, [0] * 5 + [255, 0, 0]]
    assert one.object_index()["goat/00000"] == {1: (1, 12)}  # not the scan that 2017 has cached
    assert one.objects("ant/00000").max() == 1  # 0 and 255 only: 255 is the object


def test_a_frame_missing_in_the_numbering_is_named(tree):
    (tree / "JPEGImages/480p/goat/00003.jpg").unlink()
    expected = r"480p/goat: got 00002.jpg, then 00004.jpg, expected 00003.jpg; restore"
    for ask in (lambda d: d.frames("goat"), lambda d: d.ids("val"), lambda d: d.check_layout("goat")):
        with pytest.raises(FewsegError, match=expected):
            ask(Davis(str(tree)))
    for i in range(3):
        (tree / f"JPEGImages/480p/goat/0000{i}.jpg").unlink()
    assert Davis(str(tree)).frames("goat") == ("goat/00004",)  # numbers may start anywhere
    (tree / "JPEGImages/480p/goat/00004.jpg").rename(tree / "JPEGImages/480p/goat/first.jpg")
    with pytest.raises(FewsegError, match=r"goat/first.jpg: got a name, expected the number of the frame"):
        Davis(str(tree)).frames("goat")


def test_the_numbering_goes_on_across_powers_of_ten(tree):
    folder = tree / "JPEGImages/480p/goat"
    for i in range(5, 12):
        (folder / f"{i:05d}.jpg").write_bytes((folder / "00000.jpg").read_bytes())
    assert Davis(str(tree)).frames("goat") == tuple(f"goat/{i:05d}" for i in range(12))


def test_a_sequence_without_frames_is_named(tree):
    for path in (tree / "JPEGImages/480p/ant").iterdir():
        path.unlink()
    for ask in (lambda d: d.frames("ant"), lambda d: d.check_layout("ant"), lambda d: d.check_sequence("ant")):
        with pytest.raises(FewsegError, match=r"ant: got no frames, expected a folder of JPEGs; restore it"):
            ask(Davis(str(tree)))


def test_a_whole_sequence_is_counted(tree):
    dataset = Davis(str(tree))
    assert dataset.check_sequence("goat") == dataset.check_layout("goat") == (5, (6, 8), 5, (1,), ())
    assert dataset.check_sequence("ant") == (3, (6, 8), 3, (1,), ())  # its object leaves, which is allowed


def test_a_mask_that_is_missing_in_the_middle_is_named(tree):
    (tree / "Annotations/480p/goat/00002.png").unlink()
    dataset = Davis(str(tree))
    assert [dataset.has_mask(i) for i in dataset.frames("goat")] == [True, True, False, True, True]
    with pytest.raises(FewsegError, match=r"goat/00002.jpg: got a frame without mask, expected Anno.*goat/00002.png"):
        dataset.check_layout("goat")
    for i in (0, 1, 3, 4):
        (tree / f"Annotations/480p/goat/{i:05d}.png").unlink()
    with pytest.raises(FewsegError, match=r"goat/00000.jpg: got a frame without mask"):
        dataset.check_layout("goat")


def test_a_challenge_has_the_first_mask_only(tree):
    for i in (1, 2, 3, 4):
        (tree / f"Annotations/480p/goat/{i:05d}.png").unlink()
    (tree / "ImageSets/2016/test-dev.txt").write_text("goat\n")
    dataset = Davis(str(tree), every=2, splits=("test-dev",))
    assert dataset.ids("test-dev") == ("goat/00000",)  # the only frame that can stand for a single image
    assert dataset.object_index() == {"goat/00000": {1: (1, 2)}}
    assert [dataset.has_mask(i) for i in dataset.frames("goat")] == [True, False, False, False, False]
    assert dataset.image("goat/00003").shape == (6, 8, 3)
    with pytest.raises(FewsegError, match=r"goat/00003.png: got no such file"):
        dataset.objects("goat/00003")
    note = "goat: masks of the first frame only, so it cannot be scored"
    assert dataset.check_sequence("goat") == (5, (6, 8), 1, (1,), (note,))


def test_what_is_to_be_scored_has_all_masks(tree):
    dataset = Davis(str(tree))
    masks = [tree / f"Annotations/480p/goat/{i:05d}.png" for i in range(5)]
    for path in masks:
        path.write_bytes(b"")  # only their presence is asked for
    dataset.check_truth("goat")
    masks[4].unlink()
    with pytest.raises(FewsegError, match=r"davis goat: got 1 of 5 frames without mask, the first of them goat/00004,"):
        dataset.check_truth("goat")
    for path in masks[1:4]:
        path.unlink()
    with pytest.raises(FewsegError, match=r"4 of 5 frames .* goat/00001, .*; answer it with `fewseg predict`"):
        dataset.check_truth("goat")
    dataset.check_truth("ant")


def test_the_content_of_a_test_covers_masks_that_stand_for_no_image(tree):
    few, all_frames = Davis(str(tree), every=2), Davis(str(tree), every=1)
    assert all_frames.video_fingerprint("val") == all_frames.index().fingerprint
    before = few.video_fingerprint("val"), few.index().fingerprint, all_frames.video_fingerprint("val")
    assert before[0] == Davis(str(tree), every=3).video_fingerprint("val")  # of all frames, whatever stands for images
    mask = np.zeros((6, 8), np.uint8)
    mask[2, 3] = 255
    assert "goat/00003" not in few.ids("val")
    write_label(tree / "Annotations/480p/goat/00003.png", mask)
    few, all_frames = Davis(str(tree), every=2), Davis(str(tree), every=1)
    after = few.video_fingerprint("val")
    assert after != before[0]
    assert few.index().fingerprint == before[1]
    assert all_frames.video_fingerprint("val") != before[2]
    (tree / "ImageSets/2016/val.txt").write_text("goat\n")
    assert Davis(str(tree), every=2).video_fingerprint("val") != after


def test_frames_and_masks_of_another_size_are_named(tree):
    frame, mask = tree / "JPEGImages/480p/goat/00003.jpg", tree / "Annotations/480p/goat/00001.png"
    write_label(mask, np.zeros((6, 7), np.uint8))
    with pytest.raises(FewsegError, match=r"goat/00001.png: got a mask of 6 x 7 pixels, expected 6 x 8 .*as its frame"):
        Davis(str(tree)).check_layout("goat")
    cv2.imwrite(str(frame), np.zeros((5, 8, 3), np.uint8))
    with pytest.raises(
        FewsegError, match=r"goat/00003.jpg: got a frame of 5 x 8 pixels, expected 6 x 8 .*as frame goat/00000"
    ):
        Davis(str(tree)).check_layout("goat")
    frame.write_bytes(b"")
    with pytest.raises(FewsegError, match=r"goat/00003.jpg: got a file that cannot be read"):
        Davis(str(tree)).check_layout("goat")


def test_objects_that_the_first_frame_does_not_show_are_noted(tree):
    (tree / "ImageSets/2016").rename(tree / "ImageSets/2017")
    for i, numbers in enumerate(((1, 3), (3, 1), (1, 2), (2, 7), (255, 7))):
        mask = np.zeros((6, 8), np.uint8)
        mask[0, 0], mask[5, 7] = numbers
        write_label(tree / f"Annotations/480p/goat/{i:05d}.png", mask)
    dataset = Davis(str(tree), year=2017)
    found = dataset.check_sequence("goat")
    assert found.objects == (1, 3)
    assert found.notes == (
        "goat/00002 shows object 2, goat/00000 does not: background under `video`",
        "goat/00003 shows object 7, goat/00000 does not: background under `video`",
    )
    assert dataset.check_layout("goat").notes == ()  # reads no later mask
    write_label(tree / "Annotations/480p/ant/00000.png", np.zeros((6, 8), np.uint8))
    assert dataset.check_layout("ant").notes == ("ant/00000 shows no object",)


def test_a_check_reads_every_frame_and_mask(tree):
    mask, frame = tree / "Annotations/480p/goat/00004.png", tree / "JPEGImages/480p/goat/00004.jpg"
    kept = mask.read_bytes()
    PIL.Image.fromarray(np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)).save(mask)
    with pytest.raises(FewsegError, match=r"goat/00004.png: got an image of mode RGB, expected an index mask"):
        Davis(str(tree)).check_sequence("goat")
    mask.write_bytes(kept)
    frame.write_bytes(frame.read_bytes()[:-2])
    with pytest.raises(FewsegError, match=r"goat/00004.jpg: got a truncated JPEG"):
        Davis(str(tree)).check_sequence("goat")


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
    for sequence in dataset.sequences():
        found = dataset.check_layout(sequence)
        assert (found.frames, found.masks) == (len(dataset.frames(sequence)),) * 2
        assert (found.size, found.objects, found.notes) == ((480, 854), (1,), ())
