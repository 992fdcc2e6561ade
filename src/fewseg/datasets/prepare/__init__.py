"""Builds and checks the data sets on disk: ``fewseg data prepare|check NAME`` with a name of ``NAMES``.

PASCAL-5i is put together from archives that the user has (VOC 2012, and SBD or a SegmentationClassAug zip) or from a
VOC tree; what is neither given nor on disk is downloaded. DAVIS and COCO are put together likewise, but not downloaded,
for their archives have no published checksum. Folders get their names only when they are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewseg.datasets.paths import data_root
from fewseg.datasets.prepare.archives import RECORD, Archive, download, unpack, verify
from fewseg.datasets.prepare.coco import check_coco, prepare_coco
from fewseg.datasets.prepare.davis import check_davis, prepare_davis
from fewseg.datasets.prepare.generated import check_generated, prepare_generated
from fewseg.datasets.prepare.pascal import SBD, VOC, check_pascal, prepare_pascal, read_sbd
from fewseg.errors import FewsegError

__all__ = ["NAMES", "RECORD", "SBD", "VOC", "Archive", "check", "download", "prepare", "read_sbd", "unpack", "verify"]

NAMES = ("pascal5i", "davis", "coco", "shapes", "shapes-video", "shapes-coco")
_FROM_ARCHIVES = {
    "pascal5i": (prepare_pascal, check_pascal),
    "davis": (prepare_davis, check_davis),
    "coco": (prepare_coco, check_coco),
}


def prepare(name: str, root: str | Path | None = None, archives: Sequence[str | Path] = ()) -> list[str]:
    """Makes a data set complete and returns lines that say what was done and what is there.

    Args:
        name: one of ``NAMES``.
        root: the tree; without it ``$FEWSEG_DATA/<name>``, or the cache for shapes.
        archives: archives or folders that the user has; without any, archives in the tree are used. For pascal5i the
            rest is downloaded.

    Raises:
        FewsegError: an archive is damaged or malicious, a download fails, or something is still missing at the end.
            What was installed until then is whole, and the next call goes on from there.
    """
    if _known(name).startswith("shapes"):
        if archives:
            raise FewsegError("--archive", archives[0], "nothing: shapes are generated", "leave it out")
        return prepare_generated(name, root)
    folder = data_root(name, root, "--root")
    lines = _FROM_ARCHIVES[name][0](folder, [Path(a).expanduser() for a in archives])
    return lines + check(name, folder)


def check(name: str, root: str | Path | None = None) -> list[str]:
    """Reads the whole data set and returns lines that count images, masks, folds and classes, or videos and objects.

    Raises:
        FewsegError: something is missing or cannot be used.
    """
    if _known(name).startswith("shapes"):
        return check_generated(name, root)
    return _FROM_ARCHIVES[name][1](data_root(name, root, "--root"))


def _known(name: str) -> str:
    if name not in NAMES:
        raise FewsegError("data set", repr(name), " or ".join(NAMES), "check the spelling")
    return name
