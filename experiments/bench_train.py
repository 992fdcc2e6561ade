"""A training step against the encoder's forward and backward alone, and against a batch-1 loop as the originals run it.

`make bench-train`: all sides in one process, alternating, medians over repeats; images are random, so that nothing is
read from disk. Writes experiments/results/bench_train.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import fewseg
from fewseg.benchmark import device_name, versions
from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Frame
from fewseg.results import write_json

RESULT = Path(__file__).parent / "results" / "bench_train.json"


def random_batch(batch_size: int, size: int, device: torch.device) -> EpisodeBatch:
    """Episodes of noise: timing does not depend on what is in an image."""
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.uint8}
    frame = Frame((size, size), (size, size), Box(0, 0, size, size))
    batch = EpisodeBatch(
        support_images=torch.randint(0, 256, (batch_size, 1, 3, size, size), **draw),
        support_annotations=torch.randint(0, 2, (batch_size, 1, size, size), **draw),
        query_images=torch.randint(0, 256, (batch_size, 3, size, size), **draw),
        query_clicks=torch.zeros(batch_size, 0, 3, dtype=torch.int32),
        query_masks=torch.randint(0, 2, (batch_size, size, size), **draw),
        targets=(None,) * batch_size,
        frames=(frame,) * batch_size,
        specs=(EpisodeSpec("q", ("s",), 1),) * batch_size,
    )
    return batch.to(device)


def one(batch: EpisodeBatch, i: int) -> EpisodeBatch:
    """Episode i of a batch as a batch of one."""
    from dataclasses import replace

    part = slice(i, i + 1)
    assert isinstance(batch.support_images, torch.Tensor)
    assert isinstance(batch.query_images, torch.Tensor)
    return replace(
        batch,
        support_images=batch.support_images[part],
        support_annotations=batch.support_annotations[part],
        query_images=batch.query_images[part],
        query_clicks=batch.query_clicks[part],
        query_masks=batch.query_masks[part],
        targets=batch.targets[part],
        frames=batch.frames[part],
        specs=batch.specs[part],
    )


def main() -> None:
    """Times the three sides for every method and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--encoder", default="tiny")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = random_batch(options.batch_size, options.size, device)
    singles = [one(batch, i) for i in range(options.batch_size)]
    lines = []
    for name in fewseg.list_models():
        model = fewseg.create_model(name, encoder=options.encoder).to(device).train()
        network = model.network
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

        def step(episodes: EpisodeBatch, network=network, optimizer=optimizer) -> None:  # noqa: ANN001
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(network.losses(episodes).values())).sum().backward()
            optimizer.step()

        def encoder_alone(network=network) -> None:  # noqa: ANN001
            network.zero_grad(set_to_none=True)
            images = [batch.query_images]
            if network.uses_support:
                images.append(batch.support_images)
            maps = [m for i in images for m in network.encoder(i).maps]
            torch.stack([m.float().mean() for m in maps]).sum().backward()

        def one_by_one(step: Callable[[EpisodeBatch], None] = step) -> None:
            for single in singles:
                step(single)

        sides = {"step": lambda step=step: step(batch), "encoder": encoder_alone, "batch 1 loop": one_by_one}
        times: dict[str, list[float]] = {side: [] for side in sides}
        for repeat in range(options.repeats + 1):
            for side, run in sides.items():
                started = time.perf_counter()
                run()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if repeat:  # the first round warms up
                    times[side].append(time.perf_counter() - started)
        median = {side: statistics.median(values) for side, values in times.items()}
        ratios = {
            "encoder_over_step": median["encoder"] / median["step"],
            "loop_over_step": median["batch 1 loop"] / median["step"],
        }
        lines.append({"method": name, "seconds": median, **ratios})
        print(
            f"{name:<12} step {1000 * median['step']:7.1f} ms   encoder alone {1000 * median['encoder']:7.1f} ms "
            f"({ratios['encoder_over_step']:.0%} of the step)   batch-1 loop {1000 * median['batch 1 loop']:7.1f} ms "
            f"({ratios['loop_over_step']:.2f} times the step)",
            flush=True,
        )
    about = {"size": options.size, "batch_size": options.batch_size, "encoder": options.encoder}
    write_json(RESULT, {**about, "device": device_name(model), "versions": versions(), "methods": lines})
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
