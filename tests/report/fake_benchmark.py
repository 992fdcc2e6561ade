"""A benchmark's folder as the runner leaves it: plausible random counts, no model."""

import json
import zlib
from pathlib import Path

import numpy as np

from fewseg.episode import Row
from fewseg.results import content_id, finish_run, read_rows, score, write_rows, write_text

CLASSES = tuple(f"class{i}" for i in range(1, 21))
QUALITY = {"guided": 0.55, "panet": 0.48, "fgbg": 0.3}
METHOD = {"guided": "GuidedNet", "panet": "PANet", "fgbg": "FgBg"}


def png(shade: int) -> bytes:
    """A grey picture of 96 x 64, made without an imaging library."""
    rows = b"".join(b"\x00" + bytes([(shade + y) % 256]) * 96 for y in range(64))
    parts = [
        (b"IHDR", bytes([0, 0, 0, 96, 0, 0, 0, 64, 8, 0, 0, 0, 0])),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = (len(d).to_bytes(4, "big") + t + d + zlib.crc32(t + d).to_bytes(4, "big") for t, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def fake_run(
    out: Path, config: str, fold: int, n_shot: int = 1, n_points: int | None = None, n: int = 60, **extra
) -> Path:
    seed = extra.get("seed", 0)
    random = np.random.RandomState(1000 * fold + 10 * n_shot + (n_points or 99) + len(config) + seed)
    drawn = np.random.RandomState(1000 * fold + 10 * n_shot + seed)  # the episode list, the same for all methods
    level = QUALITY.get(config, 0.4) * (1 - 0.25 / (n_points or 20)) + 0.02 * n_shot
    rows = []
    for i in range(n):
        query, class_id = int(drawn.randint(n // 2)), fold * 5 + 1 + i % 5
        size = int(random.randint(200, 2000))
        tp = int(size * np.clip(level + 0.02 * (class_id % 5) + random.randn() * 0.15, 0, 1))
        spread = int(size * 0.3 * random.rand())
        rows.append(
            Row(
                i,
                f"q{query}",
                "s",
                class_id,
                tp,
                spread,
                size - tp,
                9000 - size - spread,
                seconds_guide=0.01,
                seconds_segment=0.02,
            )
        )
    parts = {"config": config, "fold": fold, "n_shot": n_shot, "n_points": n_points, "seed": seed}
    training = content_id({"config": config, "fold": fold, "seed": seed})
    curve = "".join(
        f"{step},{level * (1 - np.exp(-step / 80)):.4f},{np.exp(-step / 80):.4f}\n" for step in range(0, 401, 20)
    )
    write_text(out / "trainings" / training / "curve.csv", "step,miou,loss\n" + curve)
    return _finish(out, parts, rows, {"training": training, **extra})


def fake_clicks(out: Path, config: str, fold: int, n_clicks: int = 6, n: int = 20, seed: int = 0, **extra) -> Path:
    """A run of the robot: every object is clicked, and each click halves what is wrong, or a little less."""
    random = np.random.RandomState(100 * fold + len(config) + seed)
    rows = []
    for i in range(n):
        left = 0.9 - QUALITY.get(config, 0.4) * random.rand()
        for click in range(1, n_clicks + 1):
            left *= 0.5 + 0.3 * random.rand()
            tp = round(1000 * (1 - left))
            row = Row(i, f"q{i // 2}", "", fold * 5 + 1 + i % 5, tp, 0, 1000 - tp, 9000, 1, click)
            seconds = {"seconds_encode": 0.02 * (click == 1), "seconds_guide": 0.0, "seconds_segment": 0.01}
            refined = {"seconds_refine": 0.1} if "+" in config else {}
            rows.append(row._replace(**seconds, **refined, seconds_robot=0.003))
    parts = {"config": config, "fold": fold, "n_shot": 0, "n_points": None, "seed": seed}
    training = content_id({"config": config.split("+")[0], "fold": fold, "seed": seed})  # variants share it
    told = {"task": "interactive", "protocol": "interactive", "training": training}
    return _finish(out, parts, rows, {**told, **extra})


def _finish(out: Path, parts: dict, rows: list[Row], extra: dict) -> Path:
    config, fold = parts["config"], parts["fold"]
    run = out / content_id({**parts, **{k: extra[k] for k in ("protocol", "dataset") if k in extra}})
    write_rows(run / "episodes.parquet", rows)
    figures = {
        "method": METHOD.get(config, "Other"),
        "dataset": "shapes5i",
        "task": "semantic",
        "protocol": "clean",
        "n_folds": 4,
        "episode_list_sha256": content_id({name: parts[name] for name in ("fold", "n_shot", "n_points")}),
        "n_parameters": 14_714_688,
        "n_trained_parameters": 0 if config == "fgbg" else 14_714_688,
        "seconds_train": 12.5,
        "device": "cpu",
        "versions": {"fewseg": "0.1.0", "torch": "2.15.0"},
        **parts,
        **score(read_rows(run / "episodes.parquet"), CLASSES, range(fold * 5 + 1, fold * 5 + 6)),
        **extra,
    }
    finish_run(run, parts, rows, figures)
    return run


def add_pictures(run: Path, class_name: str = "class1") -> None:
    folder = run / "pictures"
    folder.mkdir()
    entries = []
    for i, (kind, iou) in enumerate((("best", 0.93), ("best", 0.9), ("median", 0.5), ("worst", 0.0), ("worst", 0.04))):
        name = f"{kind}-{i}.png"
        (folder / name).write_bytes(png(40 * i))
        entries.append(
            {"file": name, "kind": kind, "episode": i, "query": f"q{i}", "iou": iou, "class_name": class_name}
        )
    (folder / "index.json").write_text(json.dumps(entries))
