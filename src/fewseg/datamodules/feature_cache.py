"""Features of a frozen encoder, computed once per image and flip, kept as memory-mapped float16."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fewseg.datasets.paths import cache_dir
from fewseg.episode import Features
from fewseg.modules.encoders import Encoder

CanvasReader = Callable[[str], np.ndarray]  # image id -> (H, W, 3) uint8 at network size


class FeatureCache:
    """Reads features of ``(image id, flipped)``; a folder holds one memory map per tap and the order of the ids.

    Args:
        folder: what ``build`` returned.
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        self.place = {image_id: i for i, image_id in enumerate(about["ids"])}
        self.image_size: tuple[int, int] = tuple(about["image_size"])
        self.maps = [
            np.memmap(folder / f"tap{i}.f16", np.float16, "r", shape=tuple(shape))
            for i, shape in enumerate(about["shapes"])
        ]

    def read(self, image_id: str, flipped: bool) -> tuple[Tensor, ...]:
        """One (C, h, w) float16 map per tap."""
        place = self.place[image_id]
        return tuple(torch.from_numpy(np.array(taps[place, int(flipped)])) for taps in self.maps)


def build(
    encoder: Encoder, ids: Sequence[str], read_canvas: CanvasReader, key: str, device: torch.device, batch_size: int = 8
) -> Path:
    """Encodes every image and its mirror image once; the folder appears complete or not at all.

    Args:
        encoder: frozen.
        ids: of the images.
        read_canvas: gives the image at network size, (H, W, 3) uint8.
        key: says what else the features depend on: data set content, size and resize mode.
        device: where to encode.
        batch_size: images per forward pass, each with its mirror image.

    Returns:
        The folder, keyed by the encoder's parameters, ``key`` and the ids.
    """
    digest = hashlib.sha256("\n".join([encoder.fingerprint(), key, *ids]).encode()).hexdigest()[:16]
    folder = cache_dir() / "features" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits for the first one's work
        if not (folder / "about.json").is_file():
            _build(encoder, ids, read_canvas, folder, device, batch_size)
    return folder


def _build(
    encoder: Encoder, ids: Sequence[str], read_canvas: CanvasReader, folder: Path, device: torch.device, batch_size: int
) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    encoder = encoder.to(device).eval()
    taps: list[np.memmap] = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(ids), batch_size), desc="encoding images once", unit="batch", leave=False):
            canvases = np.stack([read_canvas(image_id) for image_id in ids[start : start + batch_size]])
            images = torch.from_numpy(canvases).permute(0, 3, 1, 2).to(device)
            straight: Features = encoder(images)
            mirrored: Features = encoder(images.flip(-1))
            for i, (one, other) in enumerate(zip(straight.maps, mirrored.maps, strict=True)):
                both = torch.stack([one, other], dim=1).half().cpu().numpy()  # (n, 2, C, h, w)
                if start == 0:
                    shape = (len(ids), *both.shape[1:])
                    taps.append(np.memmap(temporary / f"tap{i}.f16", np.float16, "w+", shape=shape))
                taps[i][start : start + len(both)] = both
    for tap in taps:
        tap.flush()
    about = {"ids": list(ids), "shapes": [list(tap.shape) for tap in taps], "image_size": list(canvases.shape[1:3])}
    (temporary / "about.json").write_text(json.dumps(about))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
