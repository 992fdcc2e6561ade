"""Where data and caches live, and writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fewseg.errors import FewsegError


def cache_dir() -> Path:
    """The folder of generated data and caches: ``$FEWSEG_CACHE``, else ``~/.cache/fewseg``. It may not exist yet.

    >>> cache_dir().is_absolute() or bool(os.environ.get("FEWSEG_CACHE"))
    True
    """
    return Path(os.environ.get("FEWSEG_CACHE") or "~/.cache/fewseg").expanduser()


def data_root(name: str, root: str | os.PathLike[str] | None = None, option: str = "--data.dataset.root") -> Path:
    """The folder of a data set, existing or not: ``root`` where given, else ``$FEWSEG_DATA/<name>``.

    Args:
        name: the data set.
        root: what the user gave.
        option: how the user could have given it, for the error.

    Raises:
        FewsegError: neither is set.

    >>> data_root("pascal5i", "somewhere").name
    'somewhere'
    """
    if root is not None:
        return Path(root).expanduser()
    if not os.environ.get("FEWSEG_DATA"):
        raise FewsegError(
            option,
            "nothing, and FEWSEG_DATA is not set",
            f"the folder of {name}",
            f"pass {option} DIR, or set FEWSEG_DATA to the folder that holds {name}/",
        )
    return Path(os.environ["FEWSEG_DATA"]).expanduser() / name


def resolve_root(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """The existing folder of a data set: ``root`` where given, else ``$FEWSEG_DATA/<name>``.

    Raises:
        FewsegError: neither is set, or the folder does not exist.

    >>> resolve_root("pascal5i", "no/such/folder")
    Traceback (most recent call last):
    fewseg.errors.FewsegError: --data.dataset.root: got no/such/folder, expected the existing folder of pascal5i; ...
    """
    folder = data_root(name, root)
    if not folder.is_dir():
        source = "--data.dataset.root" if root is not None else "FEWSEG_DATA"
        raise FewsegError(
            source,
            folder,
            f"the existing folder of {name}",
            f"pass --data.dataset.root DIR, or set FEWSEG_DATA to the folder that holds {name}/",
        )
    return folder


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file whole or not at all, making its folder; readers see the old file or the new one.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder) / "a" / "b.txt", "hello")
    ...     (Path(folder) / "a" / "b.txt").read_text()
    'hello'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        temporary.chmod(0o644)  # mkstemp makes it private; data is shared
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
