"""Archives of data sets: verifying, unpacking and downloading them, and the record of those that a tree was made from.

Archives are untrusted: they are verified before they are unpacked, and members that would leave the folder are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

from fewseg.datasets.paths import write_atomic
from fewseg.errors import FewsegError

RECORD = "fewseg-archives.json"  # in the tree: SHA-256 and size of every archive that it was made from
MAX_RATIO, ALLOWANCE = 100, 64 << 20  # an archive may unpack to 100 times its size, and to 64 MiB anyway
CHUNK = 1 << 20

Record = dict[str, dict[str, str | int]]  # file name -> size and SHA-256


class Archive(NamedTuple):
    """A published archive: its file name, where it is, and its published MD5."""

    file: str
    url: str
    md5: str


def check_exist(sources: list[Path]) -> None:
    """Raises a FewsegError where one of the user's archives or folders is not there."""
    for source in sources:
        if not source.exists():
            raise FewsegError("--archive", source, "an existing archive or folder", "check the path")


def on_disk(tree: Path, file: str) -> Path | None:
    """An archive in a tree, in its folder ``archives`` or beside the tree; None where there is none."""
    places = [place / file for place in (tree, tree / "archives", tree.parent)]
    return next((path for path in places if path.is_file()), None)


def _read_record(tree: Path) -> Record:
    try:
        return dict(json.loads((tree / RECORD).read_text()))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise FewsegError(tree / RECORD, "a broken file", "the record of the archives", "delete it") from None


def verified(tree: Path, sources: list[Path], published: Sequence[Archive] = ()) -> Record:
    """The record of a tree with the sources, after comparing the archives among them with it and what is published.

    Raises:
        FewsegError: see ``verify``.
    """
    record = _read_record(tree)
    for source in sources:
        if source.is_file():
            md5 = next((archive.md5 for archive in published if archive.file == source.name), None)
            record[source.name] = verify(source, md5, record.get(source.name))
    return record


def describe_archives(tree: Path) -> list[str]:
    """Lines that name what a tree was made from, after verifying what of it is still there.

    Raises:
        FewsegError: an archive is another file than when it was used, or the record is broken.
    """
    lines = []
    for archive, entry in _read_record(tree).items():
        if (tree / archive).is_file():
            verify(tree / archive, recorded=entry)
        lines.append(f"made from {archive}: {entry['size']} bytes, SHA-256 {entry['sha256']}")
    return lines


def write_record(tree: Path, record: Record) -> None:
    """Says in the tree what it was made from."""
    write_atomic(tree / RECORD, json.dumps(record, indent=1, sort_keys=True))


def verify(path: Path, md5: str | None = None, recorded: dict[str, str | int] | None = None) -> dict[str, str | int]:
    """Size and SHA-256 of an archive, after comparing it with what is known about it.

    Args:
        path: the archive.
        md5: what its publisher says.
        recorded: what an earlier call returned for this archive.

    Raises:
        FewsegError: it is not the published or not the recorded file.
    """
    sha256_state, md5_state = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256_state.update(chunk)
            md5_state.update(chunk)
    if md5 is not None and md5_state.hexdigest() != md5:
        raise FewsegError(path, f"MD5 {md5_state.hexdigest()}", md5, "it is damaged: delete it and get it again")
    found: dict[str, str | int] = {"size": path.stat().st_size, "sha256": sha256_state.hexdigest()}
    if recorded is not None and found != recorded:
        raise FewsegError(
            path,
            f"SHA-256 {found['sha256']}",
            f"{recorded['sha256']}, as when it was first used",
            f"get the first file back, or give the new one another name ({RECORD} holds the record)",
        )
    return found


def unpack(path: Path, folder: Path, needed: Callable[[PurePosixPath], bool]) -> None:
    """Unpacks what is needed of a tar (plain or compressed) or zip into a new folder.

    Args:
        path: the archive.
        folder: where to; it must not exist.
        needed: whether a file of the archive is.

    Raises:
        FewsegError: it is no archive, damaged, much larger inside than outside, or has a member that is a link, a
            device or outside of the folder. The caller throws the folder away then.
    """
    folder.mkdir()
    limit = max(MAX_RATIO * path.stat().st_size, ALLOWANCE)
    total = 0
    try:
        with contextlib.closing(_members(path)) as members:  # closes the archive at an error, too
            for name, size, content in tqdm(members, desc=f"unpacking {path.name}", delay=1, mininterval=1):
                inside = _safe(path, name)
                total += size
                if total > limit:
                    raise FewsegError(path, f"more than {limit} bytes inside", "an archive of images", "do not use it")
                if content is None or not needed(inside):
                    continue
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        raise FewsegError(
            path, f"a failure to unpack it ({error})", "a whole tar or zip, and room on the disk", "get it again"
        ) from None


def _members(path: Path) -> Generator[tuple[str, int, IO[bytes] | None], None, None]:
    """Name, size and content of each member, no content for a folder; an error at any other kind of member."""
    if not tarfile.is_tarfile(path):
        with zipfile.ZipFile(path) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(path, info.filename, "a link or device")
                if info.is_dir():
                    yield info.filename, 0, None
                else:
                    with packed.open(info) as content:
                        yield info.filename, info.file_size, content
        return
    with tarfile.open(path, "r:*") as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise _refused(path, member.name, "a link or device")
            yield member.name, member.size, tar.extractfile(member)


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise _refused(archive, name, "outside of the folder")
    return path


def _refused(archive: Path, name: str, reason: str) -> FewsegError:
    return FewsegError(
        archive, f"member {name!r}, {reason}", "plain files and folders", "do not use it: get the published archive"
    )


@contextlib.contextmanager
def temporary_folder(tree: Path) -> Iterator[Path]:
    """A folder inside the tree, on its disk, so that whole folders can be renamed; gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=tree, prefix=".unpacking."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk is another."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def download(archive: Archive, target: Path) -> Path:
    """Downloads a published archive; an interrupted download goes on where it stopped.

    The bytes go to ``<target>.part``, which gets its name once its MD5 is right.

    Raises:
        FewsegError: the server does not answer, the connection ends early, or the content is not the published one.
    """
    part = target.with_name(target.name + ".part")
    remedy = f"run again to go on, or get {archive.file} yourself and pass --archive FILE"
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            resumed = answer.status == http.client.PARTIAL_CONTENT
            done = done if resumed else 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            with (
                part.open("ab" if resumed else "wb") as file,
                tqdm(total=total, initial=done, desc=archive.file, unit="B", unit_scale=True, mininterval=1) as bar,
            ):
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # that one says that the part is whole
            raise FewsegError(archive.url, f"HTTP {error.code}", "the archive", remedy) from None
        total = None
    except (OSError, http.client.HTTPException) as error:
        raise FewsegError(archive.url, error, "the archive", remedy) from None
    if total is not None and part.stat().st_size < total:
        raise FewsegError(archive.url, f"{part.stat().st_size} of {total} bytes", "the whole archive", remedy)
    try:
        verify(part, archive.md5)
    except FewsegError:
        part.unlink()  # going on with a wrong beginning would never end well
        raise
    part.replace(target)
    return target
