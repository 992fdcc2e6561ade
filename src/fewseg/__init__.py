"""fewseg: few-shot segmentation methods under one trainer and one exact protocol.

``import fewseg`` is quick: the functions below load torch and the models when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewseg.instance_search import find_instances
    from fewseg.models.create import create_model, list_models, load_model
    from fewseg.refinement import Refinement
    from fewseg.session import InteractiveSession, segment_image
    from fewseg.video_session import VideoSession

__version__ = "0.1.0"
__all__ = [
    "InteractiveSession",
    "Refinement",
    "VideoSession",
    "create_model",
    "find_instances",
    "list_models",
    "load_model",
    "segment_image",
]

_HOMES = {
    "InteractiveSession": "fewseg.session",
    "Refinement": "fewseg.refinement",
    "VideoSession": "fewseg.video_session",
    "create_model": "fewseg.models.create",
    "find_instances": "fewseg.instance_search",
    "list_models": "fewseg.models.create",
    "load_model": "fewseg.models.create",
    "segment_image": "fewseg.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fewseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
