"""What one more click costs in a session on cached features, against a full forward pass of the same network.

Every method holds a session on one image of noise at 480 x 854. ``full`` is the first answer of a new session with one
example and one click: everything is encoded. ``update`` is the answer to one more click, with all that can be kept.
Both are measured in one process, methods in turn, and the median of the repeats counts; the ratio is that of medians.
Networks whose clicks enter the encoder (SGOne takes another example, early fusion, FSIS and DIOS encode anew) have no
cheap update by design and are listed beside the others.

Usage: python experiments/bench_session.py     (or: make bench-session)
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fewseg
from fewseg.benchmark import device_name, versions
from fewseg.results import write_json
from fewseg.session import InteractiveSession

SIZE = (480, 854)
LARGEST = 1 / 20  # share of a full forward pass that an update of the judged methods may cost

# name -> class and what builds it, and whether it is judged
METHODS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "GuidedNet, late, lite head": ("GuidedNet", {"variant": "paper", "head": "shared"}, True),
    "PANet": ("PANet", {"variant": "paper"}, True),
    "SGOne": ("SGOne", {"variant": "paper"}, False),
    "GuidedNet, early": ("GuidedNet", {"encoder": "vgg16", "fusion": "early"}, False),
    "FSIS": ("FSIS", {"variant": "paper"}, False),
    "DIOS": ("DIOS", {"variant": "paper", "maps": "distance"}, False),
}


def measure(name: str, repeats: int, device: torch.device) -> dict[str, Any]:
    """Median seconds of a full pass and of an update."""
    cls, hyper_parameters, judged = METHODS[name]
    torch.manual_seed(0)
    model: Any = fewseg.create_model(cls, **hyper_parameters).to(device)
    rng = np.random.RandomState(0)
    image, example = (rng.randint(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(2))
    annotation = np.zeros(SIZE, np.uint8)
    annotation[100:300, 200:500] = 1
    full, update = [], []
    for repeat in range(1 + repeats):  # the first warms up
        session = InteractiveSession(model, image, size=SIZE)
        if model.network.uses_support:
            session.add_shot(example, annotation)
        session.click(200, 300)
        for times in (full, update):
            start = time.perf_counter()
            session.answer()
            if repeat:
                times.append(time.perf_counter() - start)
            session.click(50 + repeat, 700, positive=False)
    medians = statistics.median(full), statistics.median(update)
    return {
        "method": name,
        "seconds_full": round(medians[0], 4),
        "seconds_update": round(medians[1], 4),
        "update_over_full": round(medians[1] / medians[0], 4),
        "judged": judged,
        "all": {"full": full, "update": update},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table and writes the JSON; 1 where a judged method misses its share."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bench_session.json")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{SIZE[0]} x {SIZE[1]}, VGG-16, {device_name(device)}; seconds, median of {options.repeats}")
    print(f"{'method':28}{'full':>9}{'update':>9}{'update/full':>13}")
    rows = []
    for name in options.methods:
        row = measure(name, options.repeats, device)
        late = "  too slow" if row["judged"] and row["update_over_full"] > LARGEST else ""
        print(
            f"{name:28}{row['seconds_full']:9.3f}{row['seconds_update']:9.3f}{row['update_over_full']:13.4f}{late}",
            flush=True,
        )
        rows.append(row)
    print(f"{'wanted of the first two':46}{LARGEST:13.4f}")
    record = {
        "size": SIZE,
        "repeats": options.repeats,
        "device": device_name(device),
        "cpu_count": os.cpu_count(),
        "versions": versions(),
        "largest": LARGEST,
        "rows": rows,
    }
    write_json(options.out, record)
    return int(any(row["judged"] and row["update_over_full"] > LARGEST for row in rows))


if __name__ == "__main__":
    sys.exit(main())
