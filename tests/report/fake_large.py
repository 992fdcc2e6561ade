"""A benchmark of many rows as the runner leaves it, made quickly: no figures but those that a report needs."""

import itertools
from pathlib import Path

import numpy as np

from fewseg.episode import Row
from fewseg.functional.iou import mean_iou, per_class_iou
from fewseg.results import content_id, write_json, write_rows

METHODS = {"guided": "GuidedNet", "panet": "PANet", "fgbg": "FgBg", "sgone": "SGOne", "nn": "NearestNeighbor"}
FOLDS = range(4)
SETTINGS = ((1, 1), (1, 5), (1, None), (5, 5), (5, None))


def fake_large(out: Path, n: int = 1000) -> int:
    """Five methods, four folds and five settings of ``n`` episodes each; returns the number of rows."""
    names = []
    for place, (config, fold, (n_shot, n_points)) in enumerate(itertools.product(METHODS, FOLDS, SETTINGS)):
        drawn = np.random.RandomState(100 * fold + 10 * n_shot + (n_points or 9))  # one list for all methods
        images = [f"2008_{number:06d}" for number in range(1449)]
        query, support = drawn.choice(images, n).tolist(), drawn.choice(images, (n, n_shot)).tolist()
        class_id, size = 5 * fold + 1 + np.arange(n) % 5, drawn.randint(500, 20000, n)
        random = np.random.RandomState(place)
        tp = (size * random.beta(3, 2, n)).astype(int)
        fp = (size * random.rand(n) / 2).astype(int)
        counts = np.stack([class_id, tp, fp, size - tp, 250000 - size - fp], 1).tolist()
        rows = [
            Row(i, q, " ".join(s), *numbers, seconds_segment=0.02)
            for i, (q, s, numbers) in enumerate(zip(query, support, counts, strict=True))
        ]
        run = f"{config}-f{fold}-k{n_shot}-p{n_points}"
        write_rows(out / run / "episodes.parquet", rows)
        columns = class_id, tp, fp, size - tp
        figures = {
            "method": METHODS[config],
            "dataset": "pascal5i",
            "task": "semantic",
            "protocol": "clean",
            "config": config,
            "fold": fold,
            "n_folds": 4,
            "n_shot": n_shot,
            "n_points": n_points,
            "seed": 0,
            "training": f"{config}-f{fold}-s0",
            "episode_list_sha256": content_id({"fold": fold, "n_shot": n_shot, "n_points": n_points}),
            "n_episodes": n,
            "miou": mean_iou(*columns),
            "per_class_iou": {f"class {c}": iou for c, iou in per_class_iou(*columns).items()},
            "seconds_per_episode": 0.01 + 0.01 * place,
        }
        write_json(out / run / "metrics.json", figures)
        names.append(run)
    write_json(out / "plan.json", {"n_folds": 4, "runs": names, "compare": {"reference": "panet"}})
    return n * len(names)
