"""The pictures that a page holds: small, each once, and within a budget of bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

_QUALITY = 78  # of WebP: a tenth of a PNG, and no difference is seen at the size of a page
_MOST_PIXELS = 16383  # of a side of a WebP


class Album:
    """Pictures as data URLs, until a budget is spent.

    Args:
        budget: characters for all pictures.
    """

    def __init__(self, budget: int) -> None:
        self.refill(budget)
        self._ids: dict[bytes, str] = {}  # digest of a file -> id of its picture
        self._count = 0

    def refill(self, budget: int) -> None:
        """Makes room for so many characters, whatever was left before."""
        self._left, self.full = budget, budget <= 0

    def add(self, path: Path) -> tuple[str, str] | None:
        """A picture for the page.

        Returns:
            an id of its own, and the picture as a data URL; None where the file holds no picture, or where it does not
            fit: then the album is ``full``, and takes no more.
        """
        content = path.read_bytes()
        text = None if self.full else encoded(content)
        if text is None:
            return None
        self.full = len(text) > self._left
        if self.full:
            return None
        self._left -= len(text)
        name = f"picture-{self._count}"
        self._count += 1
        self._ids.setdefault(hashlib.sha256(content).digest(), name)
        return name, text

    def find(self, path: Path) -> str | None:
        """The id of a picture that is in the album already, from whatever file; None where there is none."""
        return self._ids.get(hashlib.sha256(path.read_bytes()).digest())


def encoded(content: bytes) -> str | None:
    """A picture of any format as a data URL of WebP; None where these bytes are no picture.

    >>> encoded(b"no picture") is None
    True
    """
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None or max(image.shape) > _MOST_PIXELS:
        return None
    made = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])[1]
    return f"data:image/webp;base64,{base64.b64encode(made.tobytes()).decode()}"


def entries(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The pictures in a run's folder, each with what its index says of it."""
    index = folder / "index.json"
    if not index.is_file():
        return []
    # a name in an index never leads out of the folder
    known = [(folder / Path(entry["file"]).name, entry) for entry in json.loads(index.read_text(encoding="utf-8"))]
    return [(path, entry) for path, entry in known if path.is_file()]
