"""Shared fixtures: a private cache, few threads, and a small data set in the true layout."""

import os
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

import pytest


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Tests write nothing into the user's cache, and two threads are enough."""
    previous = os.environ.get("FEWSEG_CACHE")
    os.environ["FEWSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if previous is None:
        del os.environ["FEWSEG_CACHE"]
    else:
        os.environ["FEWSEG_CACHE"] = previous


@pytest.fixture(scope="session")
def real_data():
    """The folder of real images, or a skip that says what is missing."""
    folder = os.environ.get("FEWSEG_DATA", "")
    if not (Path(folder) / "voc400").is_dir():
        pytest.skip("FEWSEG_DATA names no folder with voc400: tests on real images are skipped")
    return folder
