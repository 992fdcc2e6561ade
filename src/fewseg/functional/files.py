"""Where weights lie. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from fewseg.errors import FewsegError


def find_weights(path: str) -> Path:
    """An existing weights file: as given, then in ``$FEWSEG_WEIGHTS``, then in ``$FEWSEG_DATA/../weights``.

    Raises:
        FewsegError: it is in none of the three places.

    >>> find_weights("no/such.safetensors")
    Traceback (most recent call last):
    fewseg.errors.FewsegError: weights: got no/such.safetensors, expected ...
    """
    folders = [Path()]
    if os.environ.get("FEWSEG_WEIGHTS"):
        folders.append(Path(os.environ["FEWSEG_WEIGHTS"]).expanduser())
    if os.environ.get("FEWSEG_DATA"):
        folders.append(Path(os.environ["FEWSEG_DATA"]).expanduser().resolve().parent / "weights")
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    raise FewsegError(
        "weights",
        path,
        'an existing .safetensors file (as given, in $FEWSEG_WEIGHTS or in $FEWSEG_DATA/../weights), or "pretrained"',
        'set FEWSEG_WEIGHTS to the folder that holds it, or pass "pretrained" where the hub can be reached',
    )
