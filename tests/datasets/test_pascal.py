import os
from pathlib import Path

import pytest

from fewseg.datasets import Pascal5i, Voc400
from fewseg.datasets.base import object_entries
from fewseg.datasets.pascal import FOREIGN_LISTS, foreign_list
from fewseg.errors import FewsegError

DATA = Path(os.environ.get("FEWSEG_DATA") or "none")
needs_lists = pytest.mark.skipif(
    not (DATA / "splits/pascal").is_dir(), reason="needs $FEWSEG_DATA/splits/pascal (lists of HSNet and PFENet)"
)
needs_voc400 = pytest.mark.skipif(not (DATA / "voc400").is_dir(), reason="needs $FEWSEG_DATA/voc400")


@needs_lists
def test_the_published_lists_have_their_published_lengths():
    lengths = {name: len(foreign_list(name)) for name in FOREIGN_LISTS}
    assert [lengths[f"hsnet/trn/fold{f}"] for f in range(4)] == [2286, 3425, 5883, 2086]
    assert [lengths[f"hsnet/val/fold{f}"] for f in range(4)] == [346, 451, 725, 346]
    assert lengths["pfenet/val"] == 1449
    train = {item.image_id for name in ("voc_original_train", "sbd_data") for item in foreign_list(f"pfenet/{name}")}
    assert len(train) == 5953


@needs_lists
def test_hsnet_items_name_the_class():
    items = foreign_list("hsnet/val/fold1")
    assert items[0] == ("2007_000452", 9)
    assert {item.class_id for item in items} == {6, 7, 8, 9, 10}
    assert foreign_list("pfenet/val")[0] == ("2007_000033", None)


@needs_lists
def test_lists_beside_the_data_come_first_and_are_verified(tmp_path):
    path = tmp_path / "splits/hsnet/val/fold0.txt"
    path.parent.mkdir(parents=True)
    data = (DATA / "splits/pascal/hsnet/val/fold0.txt").read_bytes()
    path.write_bytes(data)
    assert len(foreign_list("hsnet/val/fold0", tmp_path)) == 346
    path.write_bytes(data.replace(b"__01", b"__02", 1))
    with pytest.raises(FewsegError, match="altered list"):
        foreign_list("hsnet/val/fold0", tmp_path)


def test_an_absent_or_unknown_list_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_DATA", str(tmp_path))
    with pytest.raises(FewsegError, match=r"no pfenet/val.txt in .*splits.*dvlab-research"):
        foreign_list("pfenet/val", tmp_path)
    with pytest.raises(FewsegError, match=r"expected one of hsnet/trn/fold0"):
        foreign_list("hsnet/val/fold4", tmp_path)


@needs_voc400
def test_voc400_keeps_images_and_classes_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))
    dataset = Voc400()
    areas = dataset.index().areas
    assert len(areas) == len(dataset.ids("val")) == 1015
    left = [sum(not set(found) & set(dataset.novel_classes(f)) for found in areas.values()) for f in range(4)]
    assert left == [723, 681, 553, 762]
    dataset.check_classes("val", range(1, 21))
    image, label = dataset.pair(dataset.ids("val")[0])
    assert image.shape[:2] == label.shape
    assert max(label.shape) == 400


@needs_voc400
def test_components_stand_in_for_the_instances_of_voc400(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))
    dataset = Voc400()
    assert dataset.object_source == "components"
    for image_id in dataset.ids("val")[::100]:
        label, objects = dataset.maps(image_id)
        entries = object_entries(label, objects)
        for number, (class_id, area) in entries.items():
            assert 16 <= area == (label[objects == number] == class_id).sum()
        assert ((objects == 0) == (label == 0)).all()  # what is no object is void, never background


@needs_voc400
@needs_lists
def test_hsnets_classes_are_in_the_images(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))
    areas = Voc400().index().areas
    items = [item for f in range(4) for item in foreign_list(f"hsnet/val/fold{f}") if item.image_id in areas]
    assert len(items) > 1000
    assert all(item.class_id in areas[item.image_id] for item in items)


def test_pascal5i_asks_for_the_augmented_masks(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(FewsegError, match=r"SegmentationClassAug.*fewseg data prepare"):
        Pascal5i(str(tmp_path))
