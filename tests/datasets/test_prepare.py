import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from typing import ClassVar

import cv2
import numpy as np
import pytest
import scipy.io

from fewseg.datasets import CocoOneShot, Davis, Pascal5i
from fewseg.datasets.coco import COCO_CLASSES
from fewseg.datasets.prepare import RECORD, Archive, archives, check, download, generated, pascal, prepare, read_sbd
from fewseg.datasets.voc import read_label, write_label
from fewseg.errors import FewsegError


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEWSEG_DATA", raising=False)
    for name in ("VOC", "SBD"):
        archive = getattr(pascal, name)
        monkeypatch.setattr(pascal, name, archive._replace(url="http://127.0.0.1:9/" + archive.file))


@pytest.fixture
def voc(tmp_path):
    """A VOC tree: t1 (train), v1 (val), s1 and s2 (images without masks)."""
    root = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation", "Annotations"):
        (root / folder).mkdir(parents=True)
    for i, name in enumerate(("t1", "v1", "s1", "s2")):
        cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), np.full((6, 8, 3), 60 * i, np.uint8))
    for name, class_id in (("t1", 1), ("v1", 2)):
        label = np.full((6, 8), class_id, np.uint8)
        label[0] = 255
        write_label(root / f"SegmentationClass/{name}.png", label)
        write_label(root / f"SegmentationObject/{name}.png", np.minimum(label, 1))
    (root / "ImageSets/Segmentation/train.txt").write_text("t1\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("v1\n")
    (root / "Annotations/t1.xml").write_text("<xml/>")
    return root


@pytest.fixture
def voc_tar(voc, tmp_path):
    with tarfile.open(tmp_path / "voc.tar", "w") as tar:
        tar.add(voc.parent, "VOCdevkit")
    return tmp_path / "voc.tar"


def mat(path, label):
    cls = np.zeros((1, 1), dtype=[("Boundaries", object), ("Segmentation", object), ("CategoriesPresent", object)])
    cls["Segmentation"][0, 0] = label
    scipy.io.savemat(str(path), {"GTcls": cls})


def instances(path, objects, classes):
    inst = np.zeros((1, 1), dtype=[("Segmentation", object), ("Boundaries", object), ("Categories", object)])
    inst["Segmentation"][0, 0], inst["Categories"][0, 0] = objects, np.uint8(classes)[:, None]
    scipy.io.savemat(str(path), {"GTinst": inst})


@pytest.fixture
def sbd_with_instances(sbd_tgz, tmp_path):
    """The same with instances: two in s1, one in s2, and one in t1 that VOC's replace."""
    root = tmp_path / "sbd/benchmark_RELEASE/dataset"
    (root / "inst").mkdir()
    left = np.ones((6, 8), np.uint8)
    left[:, 3:] = 2
    for name, objects, classes in (("t1", left, [11, 11]), ("s1", left, [12, 12]), ("s2", left // 2, [13])):
        instances(root / f"inst/{name}.mat", objects, classes)
    with tarfile.open(tmp_path / "sbd-inst.tgz", "w:gz") as tar:
        tar.add(root.parent, "benchmark_RELEASE")
    return tmp_path / "sbd-inst.tgz"


@pytest.fixture
def sbd_tgz(tmp_path):
    """SBD: t1 with another mask than VOC's, s1 and s2."""
    root = tmp_path / "sbd/benchmark_RELEASE/dataset"
    (root / "cls").mkdir(parents=True)
    for i, name in enumerate(("t1", "s1", "s2")):
        mat(root / f"cls/{name}.mat", np.full((6, 8), 11 + i, np.uint8))
    (root / "train.txt").write_text("t1\ns1\n")
    (root / "val.txt").write_text("s2\n")
    with tarfile.open(tmp_path / "sbd.tgz", "w:gz") as tar:
        tar.add(root.parent, "benchmark_RELEASE")
    return tmp_path / "sbd.tgz"


def left_over(root):
    return [p.name for p in root.iterdir() if p.name.startswith(".")]


def test_from_two_archives(voc_tar, sbd_tgz, tmp_path):
    root = tmp_path / "out/pascal5i"
    lines = prepare("pascal5i", root, [sbd_tgz, voc_tar])  # any order
    dataset = Pascal5i(str(root))
    assert dataset.ids("trainaug") == ("s1", "s2", "t1")  # SBD and VOC train, less VOC val
    assert dataset.index().areas == {"s1": {12: 48}, "s2": {13: 48}, "t1": {1: 40}, "v1": {2: 40}}  # VOC's own win
    assert dataset.objects("t1").max() == 1
    assert not (root / "Annotations").exists()
    assert not left_over(root)
    record = json.loads((root / "fewseg-archives.json").read_text())
    assert record["voc.tar"] == {
        "size": voc_tar.stat().st_size,
        "sha256": hashlib.sha256(voc_tar.read_bytes()).hexdigest(),
    }
    assert "trainaug: 3 images" in lines
    assert any(line.startswith("val fold 0: 1 images (aeroplane 0, bicycle 1,") for line in lines)
    assert any("made SegmentationClassAug: 4 masks, 2 of them VOC's own" in line for line in lines)


def test_instances_of_both_archives(voc_tar, sbd_with_instances, tmp_path):
    root = tmp_path / "out"
    lines = prepare("pascal5i", root, [voc_tar, sbd_with_instances])
    assert "made SegmentationObjectAug: 4 masks, 2 of them VOC's own" in lines
    assert "instances (masks): 5 objects in 4 images" in lines
    dataset = Pascal5i(str(root))
    assert dataset.object_index() == {
        "s1": {1: (12, 18), 2: (12, 30)},
        "s2": {1: (13, 30)},
        "t1": {1: (1, 48)},  # the void row of this mask is the object's
        "v1": {1: (2, 48)},
    }
    assert not left_over(root)
    assert check("pascal5i", root) == prepare("pascal5i", root)


def test_instances_can_be_added_later(voc_tar, sbd_tgz, sbd_with_instances, tmp_path):
    root = tmp_path / "out"
    lines = prepare("pascal5i", root, [voc_tar, sbd_tgz])
    lack = "instances: masks of 2 of 4 images, no SegmentationObject/s1.png (interactive tasks need them)"
    assert lack in lines
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.png")}
    lines = prepare("pascal5i", root, [sbd_with_instances])
    assert "made SegmentationObjectAug: 4 masks, 2 of them VOC's own" in lines
    assert not any(line.startswith("made SegmentationClassAug") for line in lines)
    assert lack not in check("pascal5i", root)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_check_finds_a_broken_instance_mask(voc_tar, sbd_with_instances, tmp_path):
    root = tmp_path / "out"
    prepare("pascal5i", root, [voc_tar, sbd_with_instances])
    path = root / "SegmentationObjectAug/s1.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FewsegError, match=r"SegmentationObjectAug/s1.png: got a file that cannot be read"):
        check("pascal5i", root)
    path.unlink()
    assert any("no SegmentationObjectAug/s1.png" in line for line in check("pascal5i", root))


def test_one_archive_after_the_other(voc_tar, sbd_tgz, tmp_path):
    root = tmp_path / "out"
    with pytest.raises(FewsegError, match=r"no SegmentationClassAug, no .*trainaug.txt.*benchmark.tgz"):
        prepare("pascal5i", root, [voc_tar])
    with pytest.raises(FewsegError, match="no SegmentationClassAug"):
        check("pascal5i", root)
    assert prepare("pascal5i", root, [sbd_tgz])
    assert check("pascal5i", root) == prepare("pascal5i", root)  # nothing left to do, nothing fetched
    assert set(json.loads((root / "fewseg-archives.json").read_text())) == {"voc.tar", "sbd.tgz"}


def test_from_a_tree_and_a_zip_of_masks(voc, tmp_path):
    for name, class_id in (("t1", 1), ("v1", 2), ("s1", 7)):
        label = np.full((6, 8), class_id, np.uint8)
        write_label(tmp_path / f"{name}.png", label)
    with zipfile.ZipFile(tmp_path / "aug.zip", "w") as packed:
        for name in ("t1", "v1", "s1"):
            packed.write(tmp_path / f"{name}.png", f"SegmentationClassAug/{name}.png")
        packed.writestr("__MACOSX/SegmentationClassAug/._s1.png", b"junk")
    before = sorted(p.relative_to(voc) for p in voc.rglob("*"))
    prepare("pascal5i", tmp_path / "out", [voc, tmp_path / "aug.zip"])
    assert Pascal5i(str(tmp_path / "out")).ids("trainaug") == ("s1", "t1")
    assert sorted(p.relative_to(voc) for p in voc.rglob("*")) == before  # the user's tree stays as it was
    # the tree itself can be completed in place
    prepare("pascal5i", voc, [tmp_path / "aug.zip"])
    assert len(Pascal5i(str(voc)).index().areas) == 3


def test_archives_are_verified_ever_after(voc_tar, sbd_tgz, tmp_path):
    root = tmp_path / "out"
    prepare("pascal5i", root, [voc_tar, sbd_tgz])
    (root / "voc.tar").write_bytes(voc_tar.read_bytes())
    check("pascal5i", root)
    (root / "voc.tar").write_bytes(voc_tar.read_bytes() + b"\0")
    with pytest.raises(FewsegError, match="as when it was first used"):
        check("pascal5i", root)
    with pytest.raises(FewsegError, match="as when it was first used"):
        prepare("pascal5i", root, [root / "voc.tar"])


def test_a_wrong_published_checksum_stops_before_unpacking(voc_tar, tmp_path):
    named = voc_tar.rename(tmp_path / pascal.VOC.file)
    with pytest.raises(FewsegError, match="MD5"):
        prepare("pascal5i", tmp_path / "out", [named])
    assert not (tmp_path / "out").exists()


def with_member(path, name, change=None, content=b"x"):
    """A tar of one good member and one bad one."""
    with tarfile.open(path, "w") as tar:
        good = tarfile.TarInfo("VOC2012/JPEGImages/a.jpg")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
        bad = tarfile.TarInfo(name)
        bad.size = len(content)
        if change:
            change(bad)
        tar.addfile(bad, io.BytesIO(content))
    return path


def link(info):
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


def hard_link(info):
    info.type, info.linkname, info.size = tarfile.LNKTYPE, "../../x", 0


def device(info):
    info.type, info.size = tarfile.CHRTYPE, 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("../evil.txt", None),
        ("VOC2012/JPEGImages/../../../evil.txt", None),
        ("/tmp/evil.txt", None),
        ("C:/evil.txt", None),
        ("..\\evil.txt", None),
        ("VOC2012/JPEGImages/l.jpg", link),
        ("VOC2012/JPEGImages/h.jpg", hard_link),
        ("VOC2012/JPEGImages/d.jpg", device),
    ],
)
def test_a_malicious_tar_is_refused_whole(tmp_path, name, change):
    path = with_member(tmp_path / "bad.tar", name, change)
    with pytest.raises(FewsegError, match=r"bad.tar: got member"):
        prepare("pascal5i", tmp_path / "out", [path])
    assert not list((tmp_path / "out").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tar", "out"]


@pytest.mark.parametrize("kind", ["path", "absolute", "link"])
def test_a_malicious_zip_is_refused_whole(tmp_path, kind):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.writestr("SegmentationClassAug/a.png", b"good")
        info = zipfile.ZipInfo({"path": "../evil.png", "absolute": "/evil.png", "link": "SegmentationClassAug/b"}[kind])
        if kind == "link":
            info.external_attr = 0o120777 << 16
        packed.writestr(info, b"/etc/passwd")
    with pytest.raises(FewsegError, match=r"bad.zip: got member"):
        prepare("pascal5i", tmp_path / "out", [tmp_path / "bad.zip"])
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_bomb_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "ALLOWANCE", 1 << 16)
    path, content = tmp_path / f"bomb.{kind}", bytes(4 << 20)
    if kind == "tgz":
        info = tarfile.TarInfo("x/JPEGImages/a.jpg")
        info.size = len(content)
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(info, io.BytesIO(content))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("x/JPEGImages/a.jpg", content)
    with pytest.raises(FewsegError, match="bytes inside"):
        prepare("pascal5i", tmp_path / "out", [path])
    assert not list((tmp_path / "out").iterdir())


def test_a_damaged_archive_leaves_nothing(sbd_tgz, tmp_path):
    sbd_tgz.write_bytes(sbd_tgz.read_bytes()[:-200])
    with pytest.raises(FewsegError, match="failure to unpack"):
        prepare("pascal5i", tmp_path / "out", [sbd_tgz])
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(FewsegError, match="failure to unpack"):
        prepare("pascal5i", tmp_path / "out", [tmp_path / "text.zip"])
    assert not list((tmp_path / "out").iterdir())


def test_wrong_names_and_paths(tmp_path):
    with pytest.raises(FewsegError, match="pascal5i or davis or coco or shapes or shapes-video or shapes-coco"):
        prepare("pascal", tmp_path)
    with pytest.raises(FewsegError, match=r"--archive: got .*nowhere"):
        prepare("pascal5i", tmp_path / "out", [tmp_path / "nowhere.tar"])
    with pytest.raises(FewsegError, match="FEWSEG_DATA"):
        check("pascal5i", None)


def test_check_finds_a_missing_mask_and_a_truncated_image(voc_tar, sbd_tgz, tmp_path):
    root = tmp_path / "out"
    prepare("pascal5i", root, [voc_tar, sbd_tgz])
    path = root / "JPEGImages/s2.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    with pytest.raises(FewsegError, match="truncated"):
        check("pascal5i", root)
    path.write_bytes(data)
    (root / "SegmentationClassAug/s1.png").unlink()
    with pytest.raises(FewsegError, match=r"s1 without SegmentationClassAug/s1.png"):
        check("pascal5i", root)


def test_a_broken_mat_file_is_an_error(tmp_path):
    mat(tmp_path / "a.mat", np.full((2, 2), 21, np.uint8))
    with pytest.raises(FewsegError, match="labels 0 to 20"):
        read_sbd(tmp_path / "a.mat")
    instances(tmp_path / "i.mat", np.uint8([[0, 3]]), [5, 5])
    with pytest.raises(FewsegError, match="labels 0 to 2 of an image"):  # a third instance without a class
        read_sbd(tmp_path / "i.mat")
    scipy.io.savemat(str(tmp_path / "b.mat"), {"other": 1})
    (tmp_path / "c.mat").write_bytes(b"MATLAB 5.0 nonsense")
    for name in ("b.mat", "c.mat", "absent.mat"):
        with pytest.raises(FewsegError, match=name):
            read_sbd(tmp_path / name)


# --- downloads --------------------------------------------------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}
    ranges: ClassVar[list[str | None]] = []
    cut: int | None = None  # send so many bytes and hang up
    resumes = True

    def do_GET(self):
        data = self.files.get(self.path.lstrip("/"))
        if data is None:
            return self.send_error(404)
        wanted = self.headers.get("Range")
        type(self).ranges.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.resumes else 0
        if start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.cut])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, "files", {})
    monkeypatch.setattr(Server, "ranges", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


DATA = bytes(range(256)) * 40


@pytest.fixture
def archive(server):
    Server.files["a.tar"] = DATA
    return Archive("a.tar", server + "a.tar", hashlib.md5(DATA).hexdigest())


def test_an_interrupted_download_goes_on_where_it_stopped(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "cut", 1000)
    with pytest.raises(FewsegError, match="run again to go on"):
        download(archive, tmp_path / "a.tar")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.part"]
    monkeypatch.setattr(Server, "cut", None)
    assert download(archive, tmp_path / "a.tar").read_bytes() == DATA
    assert Server.ranges == [None, "bytes=1000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_server_that_cannot_resume_starts_again(archive, tmp_path, monkeypatch):
    (tmp_path / "a.tar.part").write_bytes(DATA[:77])
    monkeypatch.setattr(Server, "resumes", False)
    assert download(archive, tmp_path / "a.tar").read_bytes() == DATA


def test_a_part_that_is_whole_is_only_verified(archive, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(DATA)
    assert download(archive, tmp_path / "a.tar").read_bytes() == DATA


def test_a_download_with_a_wrong_checksum_leaves_nothing(archive, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(b"wrong beginning")
    with pytest.raises(FewsegError, match="MD5"):
        download(archive, tmp_path / "a.tar")
    assert not list(tmp_path.iterdir())


def test_a_server_without_the_file_or_no_server_at_all(archive, tmp_path):
    with pytest.raises(FewsegError, match=r"HTTP 404.*--archive FILE"):
        download(archive._replace(url=archive.url + "x"), tmp_path / "a.tar")
    with pytest.raises(FewsegError, match="--archive FILE"):
        download(archive._replace(url="http://127.0.0.1:9/a.tar"), tmp_path / "a.tar")


def test_without_archives_what_is_not_on_disk_is_downloaded(server, voc_tar, sbd_tgz, tmp_path, monkeypatch):
    for name, path in (("VOC", voc_tar), ("SBD", sbd_tgz)):
        data = path.read_bytes()
        file = getattr(pascal, name).file
        Server.files[file] = data
        monkeypatch.setattr(pascal, name, Archive(file, server + file, hashlib.md5(data).hexdigest()))
    root = tmp_path / "out"
    root.mkdir()
    (root / pascal.VOC.file).write_bytes(voc_tar.read_bytes())  # on disk already
    lines = prepare("pascal5i", root)
    assert "trainaug: 3 images" in lines
    assert len(Server.ranges) == 1
    assert (root / pascal.SBD.file).is_file()


def test_shapes(tmp_path, monkeypatch):
    real = generated.Shapes5i
    monkeypatch.setattr(
        generated, "Shapes5i", lambda root=None, n_train=8, n_val=4, seed=0: real(root, n_train, n_val, seed)
    )
    with pytest.raises(FewsegError, match="fewseg data prepare shapes"):
        check("shapes", tmp_path / "shapes")
    lines = prepare("shapes", tmp_path / "shapes")
    assert "train: 8 images" in lines
    assert check("shapes", tmp_path / "shapes") == lines
    with pytest.raises(FewsegError, match="--archive"):
        prepare("shapes", tmp_path / "shapes", ["a.zip"])


def test_labels_of_converted_masks_have_vocs_palette(voc_tar, sbd_tgz, tmp_path):
    prepare("pascal5i", tmp_path / "out", [voc_tar, sbd_tgz])
    assert read_label(tmp_path / "out/SegmentationClassAug/s1.png").max() == 12


def test_shapes_video(tmp_path, monkeypatch):
    real = generated.ShapesVideo
    monkeypatch.setattr(
        generated,
        "ShapesVideo",
        lambda root=None, n_train=2, n_val=1, n_frames=3, seed=0: real(root, n_train, n_val, n_frames, seed),
    )
    with pytest.raises(FewsegError, match="fewseg data prepare shapes-video"):
        check("shapes-video", tmp_path / "videos")
    lines = prepare("shapes-video", tmp_path / "videos")
    assert lines[0] == f"shapes-video in {tmp_path / 'videos'}"
    assert lines[2].startswith("train: 2 videos, 6 frames, 6 masks, ")
    assert lines[3].startswith("val: 1 videos, 3 frames, 3 masks, ")
    assert check("shapes-video", tmp_path / "videos") == lines
    with pytest.raises(FewsegError, match=r"--archive: got a.zip, expected nothing"):
        prepare("shapes-video", tmp_path / "videos", ["a.zip"])
    (tmp_path / "videos/Annotations/480p/0001/00001.png").unlink()
    with pytest.raises(FewsegError, match=r"0001/00001.jpg: got a frame without mask"):
        check("shapes-video", tmp_path / "videos")


def test_shapes_coco(tmp_path, monkeypatch):
    real = generated.ShapesCoco
    monkeypatch.setattr(
        generated, "ShapesCoco", lambda root=None, n_train=10, n_val=2, seed=0: real(root, n_train, n_val, seed)
    )
    root = tmp_path / "scenes"
    with pytest.raises(FewsegError, match="fewseg data prepare shapes-coco"):
        check("shapes-coco", root)
    lines = prepare("shapes-coco", root)
    dataset = real(str(root), 10, 2)
    assert lines[:2] == [f"shapes-coco in {root}", f"12 images, content {dataset.index().fingerprint}"]
    counted = [sum(len(dataset.annotations(i)) for i in dataset.ids(split)) for split in ("train", "held_out")]
    assert lines[2].startswith(f"train: 9 images, {counted[0]} annotations, 0 of them crowds, ")
    assert any(line.startswith(f"held_out: 1 images, {counted[1]} annotations, 0 of them crowds, ") for line in lines)
    assert sum(" S4: " in line for line in lines) == 3
    assert check("shapes-coco", root) == lines
    with pytest.raises(FewsegError, match=r"--archive: got a.zip, expected nothing"):
        prepare("shapes-coco", root, ["a.zip"])
    (root / "val2017/000000000012.jpg").unlink()
    with pytest.raises(FewsegError, match=r"000000000012 without val2017/000000000012.jpg"):
        check("shapes-coco", root)


# --- COCO -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def coco(tmp_path):
    """An unpacked COCO 2017: train 1 and 2, val 3, and lists of no use here."""
    root = tmp_path / "unpacked"
    categories = [{"id": i, "name": name} for i, name in enumerate(COCO_CLASSES, 1)]
    corner = [[0, 0, 2, 0, 2, 2, 0, 2]]
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", (1, 2)), ("val", (3,))):
        (root / f"{split}2017").mkdir()
        for i in numbers:
            cv2.imwrite(str(root / f"{split}2017/{i:012d}.jpg"), np.full((6, 8, 3), 40, np.uint8))
        images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 6, "width": 8} for i in numbers]
        annotations = [  # a dog (17) in each image, a crowd of bicycles (2), and a toothbrush (80)
            {"id": n, "image_id": i, "category_id": c, "iscrowd": int(c == 2), "segmentation": corner}
            for n, (i, c) in enumerate([*((i, 17) for i in numbers), (numbers[0], 2), (numbers[0], 80)])
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
        (root / f"annotations/captions_{split}2017.json").write_text("{}")
        (root / f"annotations/person_keypoints_{split}2017.json").write_text("{}")
    return root


@pytest.fixture
def coco_zips(coco, tmp_path):
    found = {}
    for name, folder in (
        ("train2017", "train2017"),
        ("val2017", "val2017"),
        ("annotations_trainval2017", "annotations"),
    ):
        found[folder] = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(found[folder], "w") as packed:
            packed.writestr(f"__MACOSX/{folder}/._000000000001.jpg", b"junk")
            for file in sorted((coco / folder).iterdir()):
                packed.write(file, f"{folder}/{file.name}")
    return found


COCO_INSTALLED = [
    *("train2017", "train2017/000000000001.jpg", "train2017/000000000002.jpg", "val2017", "val2017/000000000003.jpg"),
    *("annotations", "annotations/instances_train2017.json", "annotations/instances_val2017.json"),
]


def inside(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*"))


def test_coco_from_its_archives(coco_zips, tmp_path):
    root = tmp_path / "out/coco"
    lines = prepare("coco", root, [coco_zips["annotations"], coco_zips["val2017"], coco_zips["train2017"]])
    assert lines[:4] == [
        "installed annotations/instances_train2017.json from annotations_trainval2017.zip",
        "installed annotations/instances_val2017.json from annotations_trainval2017.zip",
        "installed val2017 from val2017.zip: 1 files",
        "installed train2017 from train2017.zip: 2 files",
    ]
    assert inside(root) == sorted([*COCO_INSTALLED, RECORD])
    fingerprint = CocoOneShot(str(root), 0).index().fingerprint
    assert lines[4:7] == [
        f"coco-one-shot in {root}",
        f"3 images, content {fingerprint}",
        "train: 2 images, 4 annotations, 1 of them crowds, 2 classes",
    ]
    assert "train S1: 2 images (person 0, airplane 0, boat 0, parking meter 0, dog 2," in lines[7]
    assert lines[8].startswith("train S2: 0 images (bicycle 0, ")  # a crowd is no object
    assert lines[10].startswith("train S4: 1 images (")
    assert lines[10].endswith("toothbrush 1)")
    assert "val: 1 images, 3 annotations, 1 of them crowds, 2 classes" in lines
    assert "note: a subset of COCO; n_held_out must be below 2" in lines
    sha256 = hashlib.sha256(coco_zips["val2017"].read_bytes()).hexdigest()
    assert lines[-1] == f"made from val2017.zip: {coco_zips['val2017'].stat().st_size} bytes, SHA-256 {sha256}"
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*2017*")}
    nothing = "found nothing in val2017.zip that the tree lacks"
    assert prepare("coco", root, [coco_zips["val2017"]]) == [nothing, *check("coco", root)]
    assert prepare("coco", root) == check("coco", root) == lines[4:]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_coco_from_archives_that_lie_about_and_in_steps(coco_zips, tmp_path):
    root = tmp_path / "coco"  # beside the archives of images
    lists = coco_zips["annotations"].rename(tmp_path / "elsewhere.zip")
    with pytest.raises(
        FewsegError, match=r"coco: got no annotations/instances_train2017.json, .*get annotations_train"
    ):
        prepare("coco", root)
    assert sorted(p.name for p in root.iterdir()) == [RECORD, "train2017", "val2017"]
    with pytest.raises(FewsegError, match=r"get annotations_trainval2017.zip from https://cocodataset.org"):
        check("coco", root)
    assert prepare("coco", root, [lists])[0] == "installed annotations/instances_train2017.json from elsewhere.zip"
    assert set(json.loads((root / RECORD).read_text())) == {"train2017.zip", "val2017.zip", "elsewhere.zip"}


def test_coco_from_folders(coco, tmp_path):
    before = inside(coco)
    assert prepare("coco", coco) == check("coco", coco)  # an unpacked release is a tree
    root = tmp_path / "one"
    lines = prepare("coco", root, [coco])
    assert "installed train2017 from unpacked: 2 files" in lines
    assert inside(root) == sorted(COCO_INSTALLED)
    prepare("coco", tmp_path / "two", [coco / "annotations", coco / "val2017", coco / "train2017"])
    assert inside(tmp_path / "two") == sorted(COCO_INSTALLED)
    assert inside(coco) == before


def test_a_broken_archive_of_coco_leaves_nothing(coco, coco_zips, tmp_path):
    root = tmp_path / "out"
    path = coco_zips["train2017"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FewsegError, match=r"train2017.zip: got a failure to unpack"):
        prepare("coco", root, [path])
    path.write_bytes(whole.replace(b"\xff\xd9", b"\xff\xd8", 1))  # a wrong checksum in the middle
    with pytest.raises(FewsegError, match=r"train2017.zip: got a failure to unpack"):
        prepare("coco", root, [path])
    with zipfile.ZipFile(coco_zips["annotations"], "w") as packed:
        packed.write(coco / "annotations/instances_train2017.json", "annotations/instances_train2017.json")
        packed.writestr("annotations/instances_val2017.json", "{")
    with pytest.raises(FewsegError, match=r"instances_val2017.json: got a broken list"):
        prepare("coco", root, [coco_zips["annotations"]])
    with zipfile.ZipFile(coco_zips["val2017"], "a") as packed:
        packed.writestr("../evil.jpg", b"x")
    with pytest.raises(FewsegError, match=r"val2017.zip: got member"):
        prepare("coco", root, [coco_zips["val2017"]])
    assert inside(root) == []


def test_an_interrupted_installation_of_coco_leaves_nothing(coco_zips, tmp_path, monkeypatch):
    root = tmp_path / "out"

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(archives.shutil, "copyfileobj", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare("coco", root, list(coco_zips.values()))
    assert inside(root) == []


def test_what_is_missing_of_coco_is_said(coco, tmp_path):
    with pytest.raises(
        FewsegError, match=r"got no train2017, .*get train2017.zip and val2017.zip and annotations_train"
    ):
        prepare("coco", tmp_path / "out")
    with pytest.raises(FewsegError, match=r"--archive: got .*nowhere.zip"):
        prepare("coco", tmp_path / "out", [tmp_path / "nowhere.zip"])
    assert not (tmp_path / "out").exists()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:
        packed.writestr("VOC2012/a.txt", b"x")
    with pytest.raises(FewsegError, match=r"got no train2017, no val2017"):
        prepare("coco", tmp_path / "out", [tmp_path / "other.zip"])
    assert inside(tmp_path / "out") == []
    assert prepare("coco", coco, [tmp_path / "other.zip"])[0] == "found nothing in other.zip that the tree lacks"
    assert not (coco / RECORD).exists()
    with pytest.raises(FewsegError, match=r"FEWSEG_DATA"):
        check("coco")


def test_check_looks_at_every_image_of_coco(coco):
    path = coco / "train2017/000000000002.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(FewsegError, match=r"000000000002.jpg: got a truncated JPEG"):
        check("coco", coco)
    cv2.imwrite(str(path), np.zeros((8, 6, 3), np.uint8))
    with pytest.raises(FewsegError, match=r"000000000002.jpg: got 8 x 6 pixels, expected the list's 6 x 8"):
        check("coco", coco)
    path.unlink()
    with pytest.raises(
        FewsegError, match=r"got 1 of the 2 images of train2017 \(000000000002.jpg is.*train2017.zip of"
    ):
        check("coco", coco)


# --- DAVIS ------------------------------------------------------------------------------------------------------------


def davis(root, sequences, resolution="480p", length=3, binary=False):
    """Frames and masks of sequences with objects 1 and 2, or with one object of value 255."""
    for name in sequences:
        for part in ("JPEGImages", "Annotations"):
            (root / part / resolution / name).mkdir(parents=True)
        for i in range(length):
            mask = np.zeros((6, 8), np.uint8)
            mask[0], mask[5] = (255, 255) if binary else (1, 2)
            cv2.imwrite(str(root / f"JPEGImages/{resolution}/{name}/{i:05d}.jpg"), np.full((6, 8, 3), 40, np.uint8))
            write_label(root / f"Annotations/{resolution}/{name}/{i:05d}.png", mask)
    return root


def lists(root, **content):
    for name, text in content.items():
        year, split = name[1:].split("_")
        (root / "ImageSets" / year).mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / year / f"{split}.txt").write_text(text)
    return root


def zipped(root, path, top="DAVIS"):
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(root.rglob("*.*")):
            packed.write(file, f"{top}/{file.relative_to(root)}")
        packed.writestr(f"__MACOSX/{top}/JPEGImages/480p/bear/._00000.jpg", b"junk")
        packed.writestr(f"{top}/README.md", b"read me")
    return path


@pytest.fixture
def davis_2017(tmp_path):
    root = davis(tmp_path / "made/DAVIS", ("bear", "cow"))
    lists(root, y2016_val="bear\n", y2017_train="bear\n", y2017_val="cow\n")
    return zipped(root, tmp_path / "DAVIS-2017-trainval-480p.zip")


@pytest.fixture
def davis_2016(tmp_path):
    """Its lists name files, by resolution."""
    root = davis(tmp_path / "old/DAVIS", ("bear", "ant"), binary=True)
    line = "/JPEGImages/480p/{0}/{1:05d}.jpg /Annotations/480p/{0}/{1:05d}.png\n".format
    train, val = ("".join(line(name, i) for i in range(3)) for name in ("ant", "bear"))
    lists(root, y480p_train=train, y480p_val=val, y480p_trainval=train + val, y1080p_val=val.replace("480p", "1080p"))
    return zipped(root, tmp_path / "DAVIS-data.zip")


def test_davis_2017_from_its_archive(davis_2017, tmp_path):
    root = tmp_path / "out/davis"
    lines = prepare("davis", root, [davis_2017])
    assert lines[:2] == [
        "installed 2 videos in JPEGImages/480p from DAVIS-2017-trainval-480p.zip",
        "installed 2 videos in Annotations/480p from DAVIS-2017-trainval-480p.zip",
    ]
    assert "2016 480p: val: 1 videos, 3 frames, 3 masks, 1 objects, 6 x 8 pixels" in lines
    assert "2017 480p: train: 1 videos, 3 frames, 3 masks, 2 objects, 6 x 8 pixels" in lines
    fingerprint = Davis(str(root), year=2017, every=1).index().fingerprint
    assert f"2017 480p: 2 videos with masks, content {fingerprint}" in lines
    assert sorted(p.name for p in root.iterdir()) == ["Annotations", "ImageSets", "JPEGImages", RECORD]
    sha256 = hashlib.sha256(davis_2017.read_bytes()).hexdigest()
    assert lines[-1] == f"made from {davis_2017.name}: {davis_2017.stat().st_size} bytes, SHA-256 {sha256}"
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.*g")}
    # again, from the archive, from one that lies beside the tree, and without any
    again = [prepare("davis", root, [davis_2017])]
    davis_2017.replace(root.parent / davis_2017.name)
    again.append(prepare("davis", root))
    (root.parent / davis_2017.name).unlink()
    again.append(prepare("davis", root))
    assert again == [check("davis", root)] * 3
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_second_archive_adds_a_resolution_and_a_lost_video(davis_2017, tmp_path):
    root = tmp_path / "out"
    prepare("davis", root, [davis_2017])
    (root / "JPEGImages/480p/cow").rename(tmp_path / "lost")
    with pytest.raises(FewsegError, match=r"480p/cow: got no frames"):
        check("davis", root)
    full = lists(davis(tmp_path / "full", ("cow",), "Full-Resolution", 4), y2017_val="cow\n")
    before = sorted(p.relative_to(full) for p in full.rglob("*"))
    lines = prepare("davis", root, [davis_2017, full])
    assert "installed 1 videos in JPEGImages/480p from DAVIS-2017-trainval-480p.zip" in lines
    assert "2017 Full-Resolution: val: 1 videos, 4 frames, 4 masks, 2 objects, 6 x 8 pixels" in lines
    assert "2017 Full-Resolution: train: none of its videos is here" in lines
    assert sorted(p.relative_to(full) for p in full.rglob("*")) == before  # the user's folder stays as it was


def test_lists_of_davis_2016_become_names(davis_2016, tmp_path):
    root = tmp_path / "out"
    lines = prepare("davis", root, [davis_2016])
    assert "wrote ImageSets/2016/trainval.txt from DAVIS-data.zip: 2 videos" in lines
    assert (root / "ImageSets/2016/trainval.txt").read_text() == "ant\nbear\n"
    assert "2016 480p: trainval: 2 videos, 6 frames, 6 masks, 2 objects, 6 x 8 pixels" in lines
    dataset = Davis(str(root))
    assert (dataset.sequences("train"), dataset.sequences("val")) == (("ant",), ("bear",))
    # an unpacked release is completed in place
    unpacked = tmp_path / "old/DAVIS"
    with pytest.raises(FewsegError, match=r"no ImageSets/2016 nor ImageSets/2017.*without --archive"):
        check("davis", unpacked)
    prepare("davis", unpacked)
    assert (unpacked / "ImageSets/2016/val.txt").read_text() == "bear\n"


def test_masks_of_two_releases_do_not_mix(davis_2017, davis_2016, tmp_path):
    root = tmp_path / "out"
    prepare("davis", root, [davis_2016])
    with pytest.raises(FewsegError, match=r"--archive: got DAVIS-2017.*bear/00000.png is another.*--root of its own"):
        prepare("davis", root, [davis_2017])
    assert not (root / "JPEGImages/480p/cow").exists()  # nothing of it is installed
    assert not (root / "ImageSets/2017").exists()
    assert not left_over(root)


def test_a_list_that_differs_is_kept(davis_2017, tmp_path):
    root = tmp_path / "out"
    prepare("davis", root, [davis_2017])
    (root / "ImageSets/2017/val.txt").write_text("bear\n")
    kept = f"kept ImageSets/2017/val.txt, which differs from that of {davis_2017.name}"
    assert kept in prepare("davis", root, [davis_2017])
    assert (root / "ImageSets/2017/val.txt").read_text() == "bear\n"


def test_videos_of_a_challenge_and_strange_objects_are_noted(tmp_path):
    root = lists(davis(tmp_path / "davis", ("bear", "cow")), y2017_val="bear\n", **{"y2017_test-dev": "cow\n"})
    for i in (1, 2):
        (root / f"Annotations/480p/cow/{i:05d}.png").unlink()
    write_label(root / "Annotations/480p/bear/00002.png", np.full((6, 8), 9, np.uint8))
    lines = check("davis", root)
    assert "2017 480p: test-dev: 1 videos, 3 frames, 1 masks, 2 objects, 6 x 8 pixels" in lines
    assert lines[-2:] == [
        "2017 480p: note: cow: masks of the first frame only, so it cannot be scored",
        "2017 480p: note: bear/00002 shows object 9, bear/00000 does not: background under `video`",
    ]


def test_check_stops_at_the_first_video_that_cannot_be_used(tmp_path):
    root = lists(davis(tmp_path / "davis", ("bear", "cow")), y2017_val="bear\ncow\n")
    write_label(root / "Annotations/480p/cow/00001.png", np.zeros((6, 9), np.uint8))
    with pytest.raises(FewsegError, match=r"cow/00001.png: got a mask of 6 x 9 pixels"):
        check("davis", root)
    (root / "JPEGImages/480p/bear/00001.jpg").unlink()
    with pytest.raises(FewsegError, match=r"bear: got 00000.jpg, then 00002.jpg, expected 00001.jpg"):
        check("davis", root)


def test_what_is_no_davis_is_refused(tmp_path):
    with pytest.raises(FewsegError, match=r"neither a DAVIS tree nor DAVIS-2017.*davischallenge.org.*--archive FILE"):
        prepare("davis", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FewsegError, match=r"--archive: got .*nowhere.zip"):
        prepare("davis", tmp_path / "out", [tmp_path / "nowhere.zip"])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:
        packed.writestr("VOC2012/a.txt", b"x")
    with pytest.raises(FewsegError, match=r"other.zip: got no JPEGImages"):
        prepare("davis", tmp_path / "out", [tmp_path / "other.zip"])
    with pytest.raises(FewsegError, match=r"FEWSEG_DATA"):
        check("davis")


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "DAVIS/JPEGImages/480p/../../../../evil.jpg"])
def test_a_malicious_archive_of_davis_is_refused_whole(davis_2017, tmp_path, name):
    with zipfile.ZipFile(davis_2017, "a") as packed:
        packed.writestr(name, b"x")
    with pytest.raises(FewsegError, match=r"got member"):
        prepare("davis", tmp_path / "out", [davis_2017])
    assert not list((tmp_path / "out").iterdir())
    assert not list(tmp_path.glob("*.jpg"))
