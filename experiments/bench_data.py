"""Images a second of the training loader against a plain loader that decodes and resizes the same files.

Both sides run in one process, in turns, over the same files in the same order, with the same worker count, batch size
and libraries (OpenCV for JPEG, Pillow for palette PNG). The plain side neither augments nor makes episodes. One ratio
is taken from each pair of neighbouring passes, and the median of the ratios is what counts, for load from elsewhere
hits neighbours alike.

Usage: FEWSEG_DATA=<folder with voc400> python experiments/bench_data.py     (or: make bench-data)
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import Voc400
from fewseg.errors import FewsegError
from fewseg.sampling import TrainingSampler, training_pool
from fewseg.transforms import Augmentation

SIZE, BATCH_SIZE, N_SHOT, WARM_UP = 321, 8, 1, 1
IMAGES_PER_EPISODE = N_SHOT + 1
THRESHOLDS: dict[Augmentation, float | None] = {"none": None, "flip": 0.85, "full": 0.50}
PACKAGES = ("albumentations", "numpy", "opencv-python-headless", "pillow", "pytorch-lightning", "torch")


class PlainPairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The images and labels of each episode, decoded and resized: (K + 1, 3, h, w) and (K + 1, h, w) uint8."""

    def __init__(self, root: Path, episodes: Sequence[Sequence[str]]) -> None:
        self.root, self.episodes = root, episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [self._read(image_id) for image_id in self.episodes[i]]
        images = np.stack([image.transpose(2, 0, 1) for image, _ in pairs])
        return torch.from_numpy(images), torch.from_numpy(np.stack([label for _, label in pairs]))

    def _read(self, image_id: str) -> tuple[Any, Any]:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imread(str(self.root / "JPEGImages" / f"{image_id}.jpg"), flags)
        image = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (SIZE, SIZE))
        with Image.open(self.root / "SegmentationClass" / f"{image_id}.png") as png:
            label = np.array(png)
        return image, cv2.resize(label, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT)


def one_thread(worker: int) -> None:
    """Workers share the processors; threads inside them would only get in each other's way."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def ours(dataset: Voc400, augmentation: Augmentation, n_batches: int, workers: int) -> DataLoader[Any]:
    """The project's training loader; square, so that both sides resize to the same pixels."""
    data = FewShotDataModule(
        dataset,
        train_shot=N_SHOT,
        size=SIZE,
        resize="square",
        augmentation=augmentation,
        batch_size=BATCH_SIZE,
        num_workers=workers,
    )
    data.trainer = pl.Trainer(max_steps=n_batches, accelerator="cpu", logger=False, enable_checkpointing=False)
    return data.train_dataloader()


def plain(dataset: Voc400, n_batches: int, workers: int) -> DataLoader[Any]:
    """The plain loader over the files of the same episodes."""
    data = FewShotDataModule(dataset)
    sampler = TrainingSampler(training_pool(dataset, data.training_part, data.fold), N_SHOT, "dense", data.seed)
    specs = [sampler.draw(i).spec for i in range(n_batches * BATCH_SIZE)]
    episodes = [(*spec.support_ids, spec.query_id) for spec in specs]
    return DataLoader(
        PlainPairs(dataset.root, episodes),
        batch_size=BATCH_SIZE,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
    )


def images_per_second(loader: DataLoader[Any]) -> float:
    """One pass over a loader, from the request of the first batch to the arrival of the last."""
    start = time.perf_counter()
    n_batches = sum(1 for _ in loader)
    return n_batches * BATCH_SIZE * IMAGES_PER_EPISODE / (time.perf_counter() - start)


def measure(images: int, rounds: int, workers: int) -> list[dict[str, Any]]:
    """One row per augmentation: both rates and the median ratio of neighbouring passes."""
    dataset = Voc400()
    n_batches = max(1, round(images / (BATCH_SIZE * IMAGES_PER_EPISODE)))
    reference = plain(dataset, n_batches, workers)
    rows = []
    for augmentation, threshold in THRESHOLDS.items():
        loader = ours(dataset, augmentation, n_batches, workers)
        passes = []
        for i in range(WARM_UP + rounds):  # warming up starts the workers and fills the disk cache
            first, second = (loader, reference) if i % 2 else (reference, loader)
            rates = {first: images_per_second(first), second: images_per_second(second)}
            if i >= WARM_UP:
                passes.append((rates[loader], rates[reference]))
        ratios = [a / b for a, b in passes]
        rows.append(
            {
                "augmentation": augmentation,
                "images_per_second": round(statistics.median(a for a, _ in passes), 1),
                "plain_images_per_second": round(statistics.median(b for _, b in passes), 1),
                "ratio": round(statistics.median(ratios), 4),
                "ratios": [round(ratio, 4) for ratio in ratios],
                "threshold": threshold,
            }
        )
        del loader  # ends its workers
    return rows


def environment() -> dict[str, Any]:
    """Versions and hardware that the rates depend on."""
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "processor": platform.processor(),
        "cpu_count": os.cpu_count(),
    }


def missed(row: dict[str, Any]) -> bool:
    """Whether a row falls short of what is asked of its augmentation."""
    return row["threshold"] is not None and row["ratio"] < row["threshold"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table and writes the JSON; 1 where a threshold is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=1200, help="images per pass")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of passes per augmentation")
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bench_data.json")
    args = parser.parse_args(arguments)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        rows = measure(args.images, args.rounds, args.workers)
    except FewsegError as error:
        print(error, file=sys.stderr)
        return 2
    settings = {"dataset": "voc400", "size": SIZE, "batch_size": BATCH_SIZE, "n_shot": N_SHOT, "workers": args.workers}
    record = {**settings, "images": args.images, "rounds": args.rounds, **environment(), "rows": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"voc400, {SIZE} px, batch {BATCH_SIZE}, K = {N_SHOT}, {args.workers} workers, {os.cpu_count()} processors")
    print(f"{'augmentation':14}{'images/s':>10}{'plain':>10}{'ratio':>8}{'wanted':>8}")
    for row in rows:
        rates = f"{row['images_per_second']:10.0f}{row['plain_images_per_second']:10.0f}{row['ratio']:8.3f}"
        wanted = "" if row["threshold"] is None else f"{row['threshold']:8.2f}"
        print(f"{row['augmentation']:14}{rates}{wanted}{'  missed' if missed(row) else ''}")
    return int(any(missed(row) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
