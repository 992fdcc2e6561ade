"""A benchmark's folder as the runner leaves it: plausible random counts, no model."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fewseg.episode import Row
from fewseg.functional.draw import film_strip, shown_frames
from fewseg.functional.run_figures import score
from fewseg.results import content_id, finish_run, read_rows, write_rows, write_text

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
        size = int(drawn.randint(200, 2000))
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


def fake_absent(out: Path, config: str, fold: int = 0, n: int = 12, first: int = 100) -> Path:
    """A run of whose queries every second one does not show its class; half of these are found empty.

    Its classes come in the reverse order, and its episodes are counted from ``first``.
    """
    rows = []
    for i in range(n):
        class_id, present = fold * 5 + 5 - i % 5, i % 2 == 0
        tp = (500 + 10 * i + len(config)) * present
        fp, fn = (100, 1000 - tp) if present else (300 * (i % 4 == 1), 0)
        counts = {"tp": tp, "fp": fp, "fn": fn, "tn": 9000 - tp - fp - fn}
        rows.append(Row(first + i, f"q{i}", "s", class_id, **counts, present=present))
    parts = {"config": config, "fold": fold, "n_shot": 1, "n_points": None, "seed": 0}
    return _finish(out, parts, rows, {"protocol": "clean-absent", "training": f"{config}-f{fold}-s0"})


def fake_clicks(out: Path, config: str, fold: int, n_clicks: int = 6, n: int = 40, seed: int = 0, **extra) -> Path:
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


VIDEOS = ("bear", "bmx-trees", "camel", "dogs-jump", "goat")
_SIZE, _FRAMES = (60, 107), 24


def fake_video(out: Path, config: str, n_shot: int = 1, n_points: int | None = None, seed: int = 0, **extra) -> Path:
    """A run on videos: two objects each. ``+N`` in the name of a configuration stands for updates at test time."""
    plain, _, steps = config.partition("+")
    random = np.random.RandomState(100 * n_shot + (n_points or 99) + len(config) + seed)
    level = (
        QUALITY.get(plain, 0.4) * (1 - 0.3 / (n_points or 30)) * (1.2 - 0.4 / n_shot) + 0.002 * int(steps or 0) ** 0.7
    )
    seconds = {"seconds_encode": 0.01, "seconds_guide": 0.001 * int(steps or 1), "seconds_segment": 0.005}
    rows = []
    for episode, video in enumerate(VIDEOS):
        for frame in range(_FRAMES):
            for number in (1, 2):
                quality = np.clip(level + 0.1 * random.randn() - 0.005 * frame, 0, 1)
                tp, edge = round(400 * quality), round(70 * quality)
                counts = {"tp": tp, "fp": 30, "fn": 400 - tp, "tn": 5990}
                edges = dict(zip(_EDGES, (80, 75, edge, edge), strict=True))
                rows.append(Row(episode, video, f"{video}/0", 1, **counts, **edges, object_id=number, frame=frame))
                rows[-1] = rows[-1]._replace(**seconds)
    parts = {"config": config, "fold": 0, "n_shot": n_shot, "n_points": n_points, "seed": seed}
    told = {"task": "video", "protocol": "video", "dataset": "davis2017", "n_folds": 1, "training": f"{plain}-f0-s0"}
    return _finish(out, parts, rows, {**told, **extra}, ("object",), (1,))


_EDGES = ("boundary_pred", "boundary_true", "boundary_pred_matched", "boundary_true_matched")


def add_films(run: Path, shift: int = 0, annotated: tuple[int, ...] = (0,), n_points: int | None = None) -> None:
    """Strips of three videos, in which a prediction lies ``shift`` pixels beside the truth."""
    folder, entries = run / "pictures", []
    folder.mkdir()
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    random = np.random.RandomState(0)
    for place, video in enumerate(VIDEOS[:3]):
        ground = cv2.resize(random.randint(60, 200, (6, 11, 3)).astype(np.uint8), _SIZE[::-1])
        shown = shown_frames(_FRAMES, annotated)
        for kind, moved in (("film", shift), ("truth", 0)):
            labels = {}
            for frame in shown:
                labels[frame] = np.zeros(_SIZE, np.uint8)
                for number, (row, col, radius) in enumerate(((20, 20 + 2 * frame, 12), (42, 80 - frame, 9)), 1):
                    labels[frame][(y - row) ** 2 + (x - col - moved) ** 2 < (radius + place) ** 2] = number
            maps = np.full((2, *_SIZE), 255, np.uint8)
            maps[:, 5, ::40], maps[0, 20, 20], maps[1, 20, 20] = 0, 1, 0
            given = dict.fromkeys(annotated, maps if n_points and kind == "truth" else None)
            strip = film_strip(dict.fromkeys(shown, ground), labels, given)
            cv2.imwrite(str(folder / f"{kind}-{place}.jpg"), strip[..., ::-1])
            entry = {"file": f"{kind}-{place}.jpg", "kind": kind, "episode": place, "query": video}
            entries.append(entry | {"annotated": list(annotated)} | ({"j_mean": 0.9 - 0.05 * shift} if shift else {}))
    (folder / "index.json").write_text(json.dumps(entries))


def _finish(
    out: Path,
    parts: dict,
    rows: list[Row],
    extra: dict,
    names: tuple[str, ...] = CLASSES,
    classes: Sequence[int] | None = None,
) -> Path:
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
        **score(read_rows(run / "episodes.parquet"), names, classes or range(fold * 5 + 1, fold * 5 + 6)),
        **extra,
    }
    finish_run(run, parts, rows, figures)
    return run


def add_pictures(run: Path, class_name: str = "class1", first: int = 0) -> None:
    folder = run / "pictures"
    folder.mkdir()
    entries = []
    for i, (kind, iou) in enumerate((("best", 0.93), ("best", 0.9), ("median", 0.5), ("worst", 0.0), ("worst", 0.04))):
        name = f"{kind}-{i}.png"
        (folder / name).write_bytes(png(40 * i))
        entries.append(
            {"file": name, "kind": kind, "episode": first + i, "query": f"q{i}", "iou": iou, "class_name": class_name}
        )
    (folder / "index.json").write_text(json.dumps(entries))
