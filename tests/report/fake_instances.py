"""A benchmark of instances as the runner leaves it: plausible random detections, no model."""

from collections import Counter
from pathlib import Path

import numpy as np

from fewseg.datasets import ShapesCoco
from fewseg.episode import Row
from fewseg.functional.run_figures import score
from fewseg.protocols import PROTOCOLS
from fewseg.results import content_id, finish_run, read_rows, write_rows

NAMES = ShapesCoco.class_names
QUALITY = {"siamese": 0.8, "siamese-5": 0.6, "random": 0.1}  # how often an object is found
SEEN = 36  # images


def novel(fold: int) -> list[int]:
    return list(range(fold + 1, len(NAMES) + 1, 4))


def fake_search(
    out: Path,
    config: str = "siamese",
    fold: int = 0,
    protocol: str = "one-shot",
    n_shot: int = 1,
    seed: int = 0,
    **extra,
) -> Path:
    """A run that asks for instances, with as many lists of references as its protocol has.

    Of a novel class fewer are found than of a base class, and in full images fewer than in empty ones. Instead of an
    object that was asked for one of the next class may be found.
    """
    part = PROTOCOLS[protocol].evaluation
    asked = novel(fold if part.search.classes == "novel" else (fold + 1) % 4)  # a third of the base classes will do
    scene = np.random.RandomState(fold)  # the images are the same for all methods
    shown = [Counter(scene.randint(1, 21, 1 + i % 6).tolist()) for i in range(SEEN)]
    random = np.random.RandomState(1000 * fold + 10 * n_shot + len(config) + seed)
    level = QUALITY[config] * (1.0 if part.search.classes == "base" else 0.7)
    rows, episode = [], 0
    for _ in range(part.runs):
        for image, objects in enumerate(shown):
            for class_id in (c for c in objects if c in asked):
                row = Row(episode, f"q{image}", f"q{image + 1}", class_id, 0, 9, 9, 9000, seconds_encode=0.03)
                row = row._replace(seconds_guide=0.001, seconds_segment=0.02)
                clear = level / len(objects) ** 0.3
                found = [_detection(row, objects, clear, random) for _ in range(objects[class_id])]
                found.sort(key=lambda one: -one.score)
                truth = " ".join(f"{c}:{n}" for c, n in objects.items())
                hit = 1000 * sum(one.matched_masks > 0 for one in found)
                rows.append(row._replace(truth=truth, tp=hit, fp=300, fn=1000 * len(found) - hit))
                rows += [one._replace(object_id=rank) for rank, one in enumerate(found)]
                episode += 1
    parts = {"config": config, "fold": fold, "n_shot": n_shot, "n_points": None, "seed": seed, "protocol": protocol}
    parts |= {key: extra[key] for key in ("dataset",) if key in extra}
    run = out / content_id(parts)
    write_rows(run / "episodes.parquet", rows)
    figures = {
        "method": "SiameseMaskRCNN",
        "dataset": "shapes-coco",
        "task": "instance",
        "n_folds": 4,
        "training": f"{config}-f{fold}-s{seed}",
        "episode_list_sha256": content_id({name: parts[name] for name in ("fold", "n_shot", "protocol")}),
        "n_parameters": 1_500_000,
        "n_trained_parameters": 1_500_000,
        "device": "cpu",
        "versions": {"fewseg": "0.1.0"},
        **parts,
        **score(read_rows(run / "episodes.parquet"), NAMES, asked, part.runs),
        **extra,
    }
    finish_run(run, parts, rows, figures)
    return run


def _detection(row: Row, objects: dict[int, int], level: float, random: np.random.RandomState) -> Row:
    right, inside = random.rand() < level, random.rand() < 0.8
    others = [c for c in objects if c == row.class_id % 20 + 1]
    classes = [row.class_id] if right else others
    bits = 0b111111 if right else 0
    return row._replace(
        seconds_encode=None,
        seconds_guide=None,
        seconds_segment=None,
        score=round(0.3 * random.rand() + 0.6 * right, 6),
        matched_boxes=bits,
        matched_masks=bits if inside else 0,
        ignored_boxes=0,
        ignored_masks=0,
        matched_classes=" ".join(map(str, classes)),
    )
