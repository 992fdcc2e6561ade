"""A training step against the encoder's forward and backward alone, and against a batch-1 loop as the originals run it.

All three sides run in one process, in rotating order, on the same episodes, and the median of the repeats counts.
``step`` is the module's own ``training_step`` with its own optimiser, on a batch. ``encoder`` passes the same images
through the same encoder in the same calls, forward and backward, and does nothing else. ``loop`` takes that step for
one episode at a time. Images are noise, so that nothing is read from disk; the loader is what bench_data.py measures.

``tiny`` is made for images of about 96 pixels: at its stride of 4, embedding and head are a sixth of all arithmetic, so
its step could not pass 0.84 of the encoder if all arithmetic were equally quick: it misses the threshold, and says so.

Usage: python experiments/bench_train.py     (or: make bench-train)
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import itertools
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import fewseg
from fewseg.benchmark import device_name, versions
from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Frame
from fewseg.errors import FewsegError
from fewseg.results import write_json

# What a step of JUDGED has to reach: the share of the encoder's episodes a second that `make bench-data` asks of the
# loader, and at least those of the batch-1 loop. FgBg encodes no support and PANet segments twice, so they are shown.
JUDGED = "GuidedNet"
LEAST = {"encoder_over_step": 0.85, "loop_over_step": 1.0}
N_SHOT, WARM_UP = 1, 2


def noise(batch_size: int, size: int, device: torch.device) -> EpisodeBatch:
    """Episodes of noise: what is in an image does not change how long it takes."""
    generator = torch.Generator().manual_seed(0)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=generator, dtype=torch.uint8)

    frame = Frame((size, size), (size, size), Box(0, 0, size, size))
    batch = EpisodeBatch(
        support_images=draw(256, batch_size, N_SHOT, 3, size, size),
        support_annotations=draw(2, batch_size, N_SHOT, size, size),
        query_images=draw(256, batch_size, 3, size, size),
        query_clicks=torch.zeros(batch_size, 0, 3, dtype=torch.int32),
        query_masks=draw(2, batch_size, size, size),
        targets=(None,) * batch_size,
        frames=(frame,) * batch_size,
        specs=(EpisodeSpec("query", ("support",) * N_SHOT, 1),) * batch_size,
    )
    return batch.to(device)


def single(batch: EpisodeBatch, i: int) -> EpisodeBatch:
    """Episode i as a batch of one."""
    parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return EpisodeBatch(
        **{name: p[i : i + 1] if isinstance(p, torch.Tensor | tuple) else p for name, p in parts.items()}
    )


def sides(name: str, encoder: str, batch: EpisodeBatch, device: torch.device) -> dict[str, Callable[[], None]]:
    """The three things to time, all on one model."""
    model: Any = fewseg.create_model(name, encoder=encoder, schedule="constant").to(device).train()
    optimizer = model.configure_optimizers()
    singles = [single(batch, i) for i in range(len(batch))]
    images = [batch.support_images, batch.query_images] if model.network.uses_support else [batch.query_images]

    def features() -> list[torch.Tensor]:
        return [m for part in images for m in model.network.encoder(part).maps]

    with torch.no_grad():
        gradients = [torch.randn_like(m) for m in features()]

    def step(episodes: EpisodeBatch) -> None:
        optimizer.zero_grad()
        model.training_step(episodes, 0).backward()
        optimizer.step()

    def encode() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(features(), gradients)

    def loop() -> None:
        for episode in singles:
            step(episode)

    return {"step": functools.partial(step, batch), "encoder": encode, "loop": loop}


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """How long one call takes, all of its work on the device included."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(name: str, encoder: str, batch: EpisodeBatch, repeats: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds per episode of each side, and the median ratios of the same repeat."""
    runs = sides(name, encoder, batch, device)
    times: dict[str, list[float]] = {side: [] for side in runs}
    for repeat in range(WARM_UP + repeats):
        order = list(runs)
        for side in order[repeat % len(order) :] + order[: repeat % len(order)]:
            taken = seconds(runs[side], device)
            if repeat >= WARM_UP:
                times[side].append(1000 * taken / len(batch))
    median = {side: round(statistics.median(values), 3) for side, values in times.items()}
    pairs = {side: [t / s for t, s in zip(times[side], times["step"], strict=True)] for side in ("encoder", "loop")}
    return {
        "method": name,
        "encoder": encoder,
        "milliseconds_per_episode": median,
        **{f"{side}_over_step": round(statistics.median(ratios), 4) for side, ratios in pairs.items()},
        "all": {side: [round(value, 3) for value in values] for side, values in times.items()},
    }


def missed(row: dict[str, Any]) -> list[str]:
    """The ratios in which a row falls short of what is asked of it."""
    if row["method"] != JUDGED:
        return []
    return [ratio for ratio, least in LEAST.items() if row[ratio] < least]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table and writes the JSON; 1 where a threshold is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--encoders", nargs="+", default=["tiny", "mobilenetv2_100"], help="tiny or timm names")
    parser.add_argument("--methods", nargs="+", default=["FgBg", "GuidedNet", "PANet"])  # heads of three sizes
    parser.add_argument("--size", type=int, default=321, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=8, help="episodes per step")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of every side")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bench_train.json")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "You are trying to `self.log")  # training_step logs, and here no trainer listens
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = noise(options.batch_size, options.size, device)
    print(
        f"{options.size} px, batch {options.batch_size}, K = {N_SHOT}, {device_name(device)}; milliseconds per episode"
    )
    print(f"{'method':12}{'encoder':17}{'step':>8}{'encoder':>9}{'loop':>8}{'encoder/step':>14}{'loop/step':>11}")
    rows = []
    try:
        for encoder, name in itertools.product(options.encoders, options.methods):
            row = measure(name, encoder, batch, options.repeats, device)
            step, alone, loop = row["milliseconds_per_episode"].values()
            ratios = f"{row['encoder_over_step']:14.3f}{row['loop_over_step']:11.3f}"
            short = f"  missed: {', '.join(missed(row))}" if missed(row) else ""
            print(f"{name:12}{encoder:17}{step:8.1f}{alone:9.1f}{loop:8.1f}{ratios}{short}", flush=True)
            rows.append(row)
    except FewsegError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{'wanted of ' + JUDGED:54}{LEAST['encoder_over_step']:14.2f}{LEAST['loop_over_step']:11.2f}")
    record = {
        "size": options.size,
        "batch_size": options.batch_size,
        "n_shot": N_SHOT,
        "repeats": options.repeats,
        "device": device_name(device),
        "cpu_count": os.cpu_count(),
        "allocator": {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")},
        "versions": {**versions(), "timm": importlib.metadata.version("timm")},
        "wanted": {"method": JUDGED, **LEAST},
        "rows": rows,
    }
    write_json(options.out, record)
    return int(any(missed(row) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
