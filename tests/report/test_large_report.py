"""A report of a hundred thousand rows is made in seconds and stays small."""

import time

import cv2
import numpy as np
from fake_large import METHODS, fake_large
from test_report import Page

from fewseg.report import build_report
from fewseg.results import write_json

_PICTURES = 2  # of a run
_RUNS = 100


def add_noise(out):
    """Pictures that hardly compress, together far more than a page can hold."""
    image = np.random.RandomState(0).randint(0, 255, (160, 640, 3)).astype(np.uint8)
    content = bytearray(cv2.imencode(".bmp", image)[1].tobytes())
    for number, run in enumerate(sorted(path for path in out.iterdir() if path.is_dir())):
        folder = run / "pictures"
        folder.mkdir()
        entries = []
        for place in range(_PICTURES):
            content[54:58] = (number * _PICTURES + place).to_bytes(4, "little")  # no two are the same
            kind = ("best", "list")[place]
            (folder / f"{kind}-{place}.png").write_bytes(content)
            entry = {"file": f"{kind}-{place}.png", "kind": kind, "episode": place, "query": "q", "iou": 0.5}
            entries.append(entry | {"class_name": "class", "clicks": None})
        write_json(folder / "index.json", entries)


def test_a_hundred_thousand_rows(tmp_path):
    out = tmp_path / "large"
    assert fake_large(out) == 100_000
    add_noise(out)
    start = time.perf_counter()
    path = build_report(out)
    assert time.perf_counter() - start < 60  # alone on a core it takes about 10
    assert 8_500_000 < path.stat().st_size < 10_000_000  # pictures fill it, and no more
    found = Page(path.read_text(encoding="utf-8"))
    runs = found.gallery["runs"]
    assert len(runs) == _RUNS
    assert sum(len(run["iou"]) for run in runs) == 100_000
    counts = [len(run["pictures"]) for run in runs]
    assert sum(counts) < _RUNS * _PICTURES
    assert "pictures do not fit here" in found.text
    assert {run["config"] for run, count in zip(runs, counts, strict=True) if count} == set(METHODS)
