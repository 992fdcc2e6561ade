import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from fewseg.datasets import ClickFolder
from fewseg.datasets.clicks import mask_objects
from fewseg.datasets.voc import write_label
from fewseg.errors import FewsegError

DATA = Path(os.environ.get("FEWSEG_DATA") or "none")
BINARY = np.uint8([[0, 0, 128, 255], [0, 128, 255, 255], [0, 0, 0, 128]])


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """``cat`` with GrabCut's mask, ``dog`` with a mask without an object."""
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    for name, mask in (("cat", BINARY), ("dog", np.zeros((3, 4), np.uint8))):
        save(tmp_path / f"set/images/{name}.png", np.full((3, 4, 3), 9, np.uint8))
        save(tmp_path / f"set/masks/{name}.bmp", mask)
    return tmp_path / "set"


def test_grabcuts_masks(root):
    dataset = ClickFolder(root=str(root))
    assert dataset.name == "set"
    assert dataset.ids("val") == ("cat", "dog")
    assert (dataset.novel_classes(0), dataset.base_classes(0), dataset.splits) == ((1,), (), ("val",))
    image, label = dataset.pair("cat")
    assert image.shape == (3, 4, 3)
    assert label.tolist() == dataset.objects("cat").tolist() == [[0, 0, 255, 1], [0, 255, 1, 1], [0, 0, 0, 255]]
    assert dataset.object_index() == {"cat": {1: (1, 3)}, "dog": {}}
    assert dataset.index().areas == {"cat": {1: 3}, "dog": {}}


def test_the_folder_in_the_environment_gives_the_name(root, monkeypatch):
    monkeypatch.setenv("FEWSEG_DATA", str(root.parent))
    dataset = ClickFolder("set")
    assert (dataset.name, dataset.root) == ("set", root)
    assert ClickFolder("renamed", root=str(root)).name == "renamed"
    with pytest.raises(FewsegError, match=r"FEWSEG_DATA: got .*elsewhere"):
        ClickFolder("elsewhere")
    with pytest.raises(FewsegError, match=r"--data.dataset.folder: got nothing"):
        ClickFolder()


def test_berkeleys_several_masks_of_an_image(root):
    (root / "masks/cat.bmp").unlink()
    first, second, tenth = (np.zeros((3, 4), np.uint8) for _ in range(3))
    first[0], second[0, 0], second[1], tenth[2, 2:] = 255, 255, 255, 255
    tenth[2, 0] = 128
    save(root / "masks/cat#10.png", tenth)  # in the order of numbers, not of text
    save(root / "masks/cat#2.png", second)
    save(root / "masks/cat#1.png", np.repeat(first[..., None], 3, 2))  # grey in three channels
    dataset = ClickFolder(root=str(root))
    assert dataset.objects("cat").tolist() == [[255, 1, 1, 1], [2, 2, 2, 2], [255, 0, 3, 3]]  # the shared pixel is void
    assert dataset.object_index()["cat"] == {1: (1, 3), 2: (1, 4), 3: (1, 2)}
    before = dataset.object_fingerprint()
    (root / "masks/cat#10.png").unlink()
    assert ClickFolder(root=str(root)).object_index()["cat"] == {1: (1, 3), 2: (1, 4)}
    assert ClickFolder(root=str(root)).object_fingerprint() != before


def test_one_mask_with_numbers(root):
    (root / "masks/cat.bmp").unlink()
    write_label(root / "masks/cat.png", np.uint8([[1, 1, 2, 0], [1, 1, 2, 0], [3, 255, 0, 0]]))
    dataset = ClickFolder(root=str(root))
    assert dataset.object_index()["cat"] == {1: (1, 4), 2: (1, 2), 3: (1, 1)}  # a single pixel is an object
    assert dataset.label("cat")[2].tolist() == [1, 255, 0, 0]


def test_values_that_are_no_mask():
    assert mask_objects(np.uint8([[0, 1, 1]])).tolist() == [[0, 1, 1]]
    assert mask_objects(np.uint8([[128, 0]])).tolist() == [[255, 0]]
    assert mask_objects(np.uint8([[255, 255]])).tolist() == [[1, 1]]
    for values in ([0, 7], [0, 1, 3], [0, 128, 1], [0, 254, 255]):
        assert mask_objects(np.uint8([values])) is None


def test_soft_coloured_and_misfit_masks_are_errors_of_one_line(root):
    path = root / "masks/cat.bmp"
    save(path, np.uint8([[0, 17, 90, 200, 255]]))
    with pytest.raises(FewsegError, match=r"cat.bmp: got values 0, 17, 90, 200, ..., expected 0, 255 and perhaps 128"):
        ClickFolder(root=str(root)).object_index()
    save(path, np.uint8([[[255, 0, 0]] * 4] * 3))
    with pytest.raises(FewsegError, match=r"cat.bmp: got an image of mode RGB"):
        ClickFolder(root=str(root)).object_index()
    save(path, BINARY[:, :3].copy())
    with pytest.raises(FewsegError, match=r"set cat: got a mask of 3 x 3 pixels, expected the image's 3 x 4"):
        ClickFolder(root=str(root)).pair("cat")
    save(root / "masks/cat#2.bmp", BINARY)
    with pytest.raises(FewsegError, match=r"cat#2.bmp: got 3 x 4 pixels, expected 3 x 3"):
        ClickFolder(root=str(root)).objects("cat")
    save(path, np.uint8([[0, 1, 2, 0]] * 3))
    with pytest.raises(FewsegError, match=r"cat.bmp: got values 0, 1, 2, expected 0, 255 and perhaps 128 \(unknown\);"):
        ClickFolder(root=str(root)).objects("cat")
    path.write_bytes(b"BM broken")
    with pytest.raises(FewsegError, match=r"cat.bmp: got a file that cannot be read"):
        ClickFolder(root=str(root)).object_index()


def test_images_and_masks_must_match(root):
    (root / "masks/cat.bmp").rename(root / "masks/cow.bmp")
    with pytest.raises(FewsegError, match=r"got cat without mask"):
        ClickFolder(root=str(root))
    (root / "images/cat.png").unlink()
    with pytest.raises(FewsegError, match=r"got cow without image"):
        ClickFolder(root=str(root))
    save(root / "images/cow.png", np.zeros((3, 4, 3), np.uint8))
    save(root / "images/cow.bmp", np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(FewsegError, match=r"cow.bmp and cow.png, expected one image of a name"):
        ClickFolder(root=str(root))


def test_folders_that_are_absent_empty_or_named_otherwise(root):
    (root / "masks").rename(root / "truth")
    with pytest.raises(FewsegError, match=r"--data.dataset.masks: got .* without masks, seg_GT"):
        ClickFolder(root=str(root))
    assert len(ClickFolder(root=str(root), masks="truth", images="images").ids("val")) == 2
    with pytest.raises(FewsegError, match=r"--data.dataset.images: got .* without photos"):
        ClickFolder(root=str(root), images="photos")
    for path in (root / "truth").iterdir():
        path.unlink()
    (root / "truth/readme.txt").write_text("moved")
    (root / "truth/._cat.png").write_text("junk of another system")
    with pytest.raises(FewsegError, match=r"truth: got no image file"):
        ClickFolder(root=str(root), masks="truth")


def test_other_splits_and_names_are_errors(root):
    with pytest.raises(FewsegError, match=r"set split: got 'train'"):
        ClickFolder(root=str(root)).ids("train")
    with pytest.raises(FewsegError, match=r"set image: got 'cow'"):
        ClickFolder(root=str(root)).objects("cow")


@pytest.mark.skipif(not (DATA / "grabcut13").is_dir(), reason="needs $FEWSEG_DATA/grabcut13")
def test_real_images(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))
    dataset = ClickFolder("grabcut13")
    entries = dataset.object_index()
    assert len(entries) == 13
    assert entries["fullmoon"] == {1: (1, 9328)}  # 255 is the object
    assert dataset.pair("teddy")[1].shape == (398, 284)
