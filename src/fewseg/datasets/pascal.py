"""PASCAL-5i (Shaban et al., 2017): the twenty classes of VOC 2012 in four folds of five, in alphabetical order.

Masks are SegmentationClassAug, instances SegmentationObjectAug: VOC's own, and those of SBD (Hariharan et al., 2011)
for images that VOC does not segment; ``fewseg data prepare pascal5i`` builds both. Lists: ``train`` (1464 images) and
``val`` (1449) of VOC 2012,
``trainaug`` (10582: all masks but those of val).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from fewseg.datasets.paths import data_root
from fewseg.datasets.voc import VocDataset
from fewseg.errors import FewsegError

# SHA-256 of the lists as published: github.com/juhongm999/hsnet 6b1bc12, github.com/dvlab-research/PFENet a505675
FOREIGN_LISTS = {
    "hsnet/trn/fold0": "40fded8be6afbc4b70953277f2a178af8055cddd4e73fb4646b7bf19704b9da2",
    "hsnet/trn/fold1": "558167c3c6fea0cda1bb7c7a275e66d5de7bc13cbc97e00c5872ac84d5f0954e",
    "hsnet/trn/fold2": "d07e35f4a4ae95774c619bafb57d65d682dbd5b9f33c7f71a4f5cef8e3f99609",
    "hsnet/trn/fold3": "ffe09100c0c4d9c19d074a33b0f29fe5a89a730579ba39a9f9e908186298ac17",
    "hsnet/val/fold0": "748e2f4732ac502cb3aa1f3768936b394bd7ba4e611ac5bf959291a268e249df",
    "hsnet/val/fold1": "afce1929e4dacbc13c07f9a26d4ce7738d415e1b18443fe173e58303836f5c14",
    "hsnet/val/fold2": "50b1f5218e8f882ca65d85da5be230b978a70067e9b3e0e9fca1528f546bd7fb",
    "hsnet/val/fold3": "c3825d7c52d1608d4c62c5b85d6ef3f74cf5898032bc068a94c971df17bdf71a",
    "pfenet/sbd_data": "da815450986311495e949117cfe30af961f7dcf01fb44af1d3235236e8d453c9",
    "pfenet/val": "25cdf9026986ab18d9c235d458f2b39bc44a29b801f3371624a22011bcee980c",
    "pfenet/voc_original_train": "8f1a904b0405e6d340af64292ab237d10791182ee23fa6a518b26d474ff0f99e",
}


class ForeignItem(NamedTuple):
    """One line of another code base's list: an image and, in HSNet's lists, the class it stands for (1 to 20)."""

    image_id: str
    class_id: int | None


def foreign_list(name: str, root: Path | None = None) -> tuple[ForeignItem, ...]:
    """The list of another code base, in its order, verified against its published content.

    The files are not part of this package: ``<name>.txt`` is read from ``<root>/splits``, else from
    ``$FEWSEG_DATA/splits/pascal``. The lines are ``<image>__<class>`` (HSNet) or the path of the image and the path
    of the mask (PFENet).

    Args:
        name: a key of ``FOREIGN_LISTS``, e.g. ``"hsnet/val/fold0"`` or ``"pfenet/sbd_data"``.
        root: the tree of the data set.

    Raises:
        FewsegError: no such list, its file is absent, or its content is not the published one.

    >>> foreign_list("hsnet/val/fold9")
    Traceback (most recent call last):
    fewseg.errors.FewsegError: foreign list: got 'hsnet/val/fold9', expected one of hsnet/trn/fold0, ...
    """
    if name not in FOREIGN_LISTS:
        raise FewsegError("foreign list", repr(name), f"one of {', '.join(FOREIGN_LISTS)}", "check the spelling")
    folders = [] if root is None else [root / "splits"]
    if os.environ.get("FEWSEG_DATA"):
        folders.append(data_root("splits") / "pascal")
    author = "juhongm999/hsnet" if name.startswith("hsnet") else "dvlab-research/PFENet"
    source = f"put the file published by github.com/{author} there, unchanged"
    for folder in folders:
        path = folder / f"{name}.txt"
        if path.is_file():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != FOREIGN_LISTS[name]:
                raise FewsegError(path, "an altered list", f"the published one, SHA-256 {FOREIGN_LISTS[name]}", source)
            return tuple(_item(line) for line in data.decode().splitlines())
    places = " or ".join(str(folder) for folder in folders) or "FEWSEG_DATA (not set)"
    raise FewsegError("foreign list", f"no {name}.txt in {places}", "the published file", source)


def _item(line: str) -> ForeignItem:
    image_id, separator, class_id = line.strip().partition("__")
    return ForeignItem(image_id, int(class_id)) if separator else ForeignItem(Path(line.split()[0]).stem, None)


class Pascal5i(VocDataset):
    """PASCAL-5i on a VOC 2012 tree with SegmentationClassAug.

    Args:
        root: the tree; without it ``$FEWSEG_DATA/pascal5i``.
        labels: folder of the class masks.
        splits: the lists to use.
        objects: folder of the instance masks, or ``"components"``; without it ``SegmentationObjectAug`` (with labels
            ``SegmentationClassAug``) or ``SegmentationObject`` where they exist, else components.
    """

    name = "pascal5i"

    def __init__(
        self,
        root: str | None = None,
        labels: str = "SegmentationClassAug",
        splits: tuple[str, ...] = ("train", "trainaug", "val"),
        objects: str | None = None,
    ) -> None:
        super().__init__(root, labels, splits, objects)

    def _object_folders(self) -> tuple[str, ...]:
        augmented = ("SegmentationObjectAug",) if self.labels == "SegmentationClassAug" else ()
        return (*augmented, "SegmentationObject")

    def foreign_list(self, name: str) -> tuple[ForeignItem, ...]:
        """The list of another code base from ``<root>/splits`` or ``$FEWSEG_DATA/splits/pascal``: ``foreign_list``."""
        return foreign_list(name, self.root)


class Voc400(VocDataset):
    """A subset of the segmented images of VOC 2012, for development; never to be reported as PASCAL-5i.

    It deviates from PASCAL-5i: 1015 of the 1449 images of VOC's val, resized so that the longer side has 400 pixels
    (JPEG quality 88, labels nearest), without instances: connected components stand in for them. ``train`` and ``val``
    are the same list, so the protocol must drop every image with a novel class from training, which keeps images and
    classes apart.

    Args:
        root: the tree; without it ``$FEWSEG_DATA/voc400``.
    """

    name = "voc400"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
