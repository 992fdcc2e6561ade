"""Video at 480 x 854 in real time: memory while streaming, the cost of an annotation update, and of F of one frame.

(a) ``stream``: a generated sequence, whose frames are made one by one, goes through a session with two objects and five
annotated points. Resident memory is sampled every 10 ms; what counts is its peak above that of the loaded model, after
one encoded frame of another session. Weights are random: they cost the same.
(b) ``update``: one more point on a frame whose features are kept, against encoding that frame again. ``guide`` is the
verb alone, for the one object that a negative point changes. ``update`` is the whole of ``click`` and ``answer`` after
such a point: the annotation on the canvas, guidance, one frame segmented and restored. ``update_all`` is the same after
a positive point, which changes all objects. The limit is on ``guide``.
(c) ``boundary``: the boundary counts of one frame against the same counts by ``cv2.dilate`` with a disc.
Everything is measured in one process, (b) and (c) in turns.

Usage: python experiments/bench_video.py     (or: make bench-video)
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

import fewseg
from fewseg.benchmark import device_name, versions
from fewseg.functional.boundary import boundary_counts, boundary_map
from fewseg.results import write_json
from fewseg.video_session import BUDGET, VideoSession

HEIGHT, WIDTH = SIZE = (480, 854)
LARGEST_MEMORY = 1.5e9  # bytes above the loaded model
LARGEST_GUIDE = 1 / 20  # share of encoding a frame that making guidance may cost
LARGEST_BOUNDARY = 5e-3  # seconds a frame
POINTS = ((120, 200, 1), (240, 430, 2), (20, 20, 1), (150, 215, 1), (260, 415, 2))  # row, col, object
UPDATES = {
    "guide": "making the guidance anew, of one object",
    "update": "making the guidance of one object anew, and one answer",
    "update_all": "making the guidance of all objects anew, and one answer",
}
BOUND = 0.008  # of the diagonal: the width of the band in which boundaries match

ENCODERS: dict[str, dict[str, Any]] = {
    "mobilenet": {"encoder": "mobilenetv2_100", "output_stride": 16},
    "tiny": {"encoder": "tiny"},
}


class Discs(Sequence[npt.NDArray[np.uint8]]):
    """Two discs that move over noise; a frame is made when it is asked for."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.noise = np.random.RandomState(0).randint(90, 166, (HEIGHT + 64, WIDTH + 64, 3)).astype(np.uint8)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: Any) -> Any:
        down, right = i * 7 % 64, i * 11 % 64
        frame = self.noise[down : down + HEIGHT, right : right + WIDTH].copy()
        cv2.circle(frame, (200 + 3 * i % 400, 120 + i % 200), 60, (230, 40, 40), -1)
        cv2.circle(frame, (430 - 2 * i % 300, 240 + i % 100), 50, (40, 40, 230), -1)
        return frame


class Peak:
    """The largest resident memory of this process inside a ``with`` block, sampled by a thread."""

    def __enter__(self) -> Peak:
        self.start = self.largest = resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)
        self.thread.start()
        return self

    def sample(self) -> None:
        """Looks, until the block ends."""
        while not self.done.wait(0.01):
            self.largest = max(self.largest, resident())

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()
        self.largest = max(self.largest, resident())

    @property
    def above(self) -> int:
        """Bytes above the start."""
        return self.largest - self.start


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def build(encoder: str, device: torch.device) -> Any:
    """A GuidedNet with random weights that answers something."""
    torch.manual_seed(0)
    model = fewseg.create_model("GuidedNet", **ENCODERS[encoder]).to(device)
    annotated(VideoSession(model, Discs(1))).answer(0)  # what the first pass allocates for good belongs to the model
    return model


def annotated(session: VideoSession) -> VideoSession:
    """Five points on two objects in the first frame."""
    for row, col, number in POINTS:
        session.click(0, row, col, object_id=number)
    return session


def stream(model: Any, frames: int, budget: int) -> dict[str, Any]:
    """Peak memory, seconds a frame and bytes of features of a whole sequence."""
    with Peak() as peak:
        session = annotated(VideoSession(model, Discs(frames), budget=budget))
        start = time.perf_counter()
        verbs = np.zeros(4)
        for answer in session.segment():
            verbs += answer.seconds
        seconds = time.perf_counter() - start
    return {
        "frames": frames,
        "budget": budget,
        "bytes_peak": peak.above,
        "bytes_features_in_memory": session._features.n_memory,
        "bytes_features_in_file": session._features.n_file,
        "seconds_per_frame": seconds / frames,
        "seconds_per_frame_encode": verbs[0] / frames,
        "seconds_per_frame_segment": verbs[2] / frames,
        "seconds_guide": verbs[1],
    }


def update(model: Any, repeats: int) -> dict[str, Any]:
    """Seconds of the encoding of a frame, of guidance, and of whole updates."""
    found: dict[str, list[float]] = {"encode": [], "guide": [], "update": [], "update_all": []}
    session = annotated(VideoSession(model, Discs(1)))
    session.answer(0)
    for repeat in range(repeats + 1):  # the first warms up
        encoded = annotated(VideoSession(model, Discs(1))).answer(0).seconds.encode
        # a negative point changes its object; a positive one is negative for the other, and changes both
        one, guided = clicked(session, 10 + repeat, 700, positive=False)
        both, _ = clicked(session, 10 + repeat, 720, positive=True)
        if repeat:
            for name, seconds in zip(found, (encoded, guided, one, both), strict=True):
                found[name].append(seconds)
    return compared(found)


def clicked(session: VideoSession, row: int, col: int, positive: bool) -> tuple[float, float]:
    """Seconds of a point and the answer after it, and those of its guidance."""
    start = time.perf_counter()
    session.click(0, row, col, object_id=1 + row % 2, positive=positive)
    answer = session.answer(0)
    return time.perf_counter() - start, answer.seconds.guide


def boundary(repeats: int) -> dict[str, Any]:
    """Seconds of the boundary counts of a frame, ours and by plain dilation."""
    truth, pred = (np.zeros(SIZE, np.uint8) for _ in range(2))
    cv2.ellipse(truth, (430, 240), (200, 120), 20, 0, 360, 1, -1)
    cv2.ellipse(pred, (436, 243), (195, 124), 24, 0, 360, 1, -1)
    cv2.circle(pred, (80, 400), 30, 1, -1)
    assert tuple(boundary_counts(pred, truth, BOUND)) == plain_counts(pred, truth)
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: boundary_counts(pred, truth, BOUND),
        "plain": lambda: plain_counts(pred, truth),
    }
    for _ in range(5 * repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - start)
    return compared(found)


def plain_counts(pred: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Boundary pixels of both, and those within a disc of the other's."""
    radius = int(np.ceil(BOUND * np.hypot(*pred.shape)))
    side = np.arange(-radius, radius + 1)
    disc = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.uint8)
    edges = [boundary_map(mask).astype(np.uint8) for mask in (pred, truth)]
    grown = [cv2.dilate(edge, disc) for edge in edges]
    matched = [edge & other for edge, other in zip(edges, grown[::-1], strict=True)]
    return int(edges[0].sum()), int(edges[1].sum()), int(matched[0].sum()), int(matched[1].sum())


def compared(found: dict[str, list[float]]) -> dict[str, Any]:
    """Minimum and median of each, and all of it."""
    return {
        name: {"minimum": min(seconds), "median": statistics.median(seconds), "all": seconds}
        for name, seconds in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes the JSON; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--encoder", default="mobilenet", choices=list(ENCODERS))
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--budget-mb", type=int, default=BUDGET // 2**20, help="of the session that streams, in MiB")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bench_video.json")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    print(f"{HEIGHT} x {WIDTH}, GuidedNet on {options.encoder}, {device_name(device)}, {threads} threads")
    model = build(options.encoder, device)

    streamed = stream(model, options.frames, options.budget_mb * 2**20)
    print(
        f"stream: {options.frames} frames, budget {options.budget_mb} MiB, "
        f"{streamed['seconds_per_frame']:.3f} s a frame "
        f"(encode {streamed['seconds_per_frame_encode']:.3f}, segment {streamed['seconds_per_frame_segment']:.3f}), "
        f"peak {streamed['bytes_peak'] / 1e6:.0f} MB above the model (at most {LARGEST_MEMORY / 1e6:.0f}), "
        f"features {streamed['bytes_features_in_memory'] / 1e6:.0f} MB in memory and "
        f"{streamed['bytes_features_in_file'] / 1e6:.0f} MB in a file",
        flush=True,
    )
    updated = update(model, options.repeats)
    encode = updated["encode"]["median"]
    ratios = {name: updated[name]["median"] / encode for name in UPDATES}
    print(f"update: encoding one frame takes {1e3 * encode:.1f} ms; the rest, with kept features, as shares of that")
    for name, what in UPDATES.items():
        limit = f"at most {LARGEST_GUIDE:.4f}" if name == "guide" else "no limit"
        print(f"  {what:64}{1e3 * updated[name]['median']:8.2f} ms{ratios[name]:9.4f}  ({limit})", flush=True)
    edges = boundary(options.repeats)
    print(f"{'boundary':12}{'minimum ms':>12}{'median ms':>12}")
    for name, row in edges.items():
        print(f"{name:12}{1e3 * row['minimum']:12.2f}{1e3 * row['median']:12.2f}")
    print(f"{'wanted':24}{1e3 * LARGEST_BOUNDARY:12.2f}")

    missed = [
        name
        for name, too_much in {
            "memory": streamed["bytes_peak"] > LARGEST_MEMORY,
            "guide": ratios["guide"] > LARGEST_GUIDE,
            "boundary": edges["ours"]["median"] > LARGEST_BOUNDARY,
        }.items()
        if too_much
    ]
    if missed:
        print("too much: " + ", ".join(missed))
    record = {
        "size": SIZE,
        "encoder": options.encoder,
        "device": device_name(device),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "versions": versions(),
        "largest": {"memory": LARGEST_MEMORY, "guide": LARGEST_GUIDE, "boundary": LARGEST_BOUNDARY},
        "stream": streamed,
        "update": updated,
        "over_encode": ratios,
        "boundary": edges,
        "missed": missed,
    }
    write_json(options.out, record)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
