"""Publishes a finished benchmark: its summary goes to experiments/results, its table into the README.

    python experiments/publish.py runs/shapes shapes "make benchmark" --picture docs/pictures/episodes.png

The README keeps, between `<!-- NAME -->` and `<!-- /NAME -->`, what this command wrote there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fewseg.results import amount, cells, leaderboard, summarise, training_notes, write_json, write_text

HERE = Path(__file__).parent
SHOWN = {"config", "K", "P", "mIoU", "95 % interval", "FB-IoU", "positive IU", "s/episode", "note"}


def table(rows: list[dict[str, Any]], out: Path) -> str:
    """The leaderboard's main columns at the fewest and the most annotated pixels, in markdown."""
    found = leaderboard(rows, out)
    ends = {min(amount(line.n_points) for line in found), max(amount(line.n_points) for line in found)}
    heads, body = cells([line for line in found if amount(line.n_points) in ends])
    kept = [i for i, head in enumerate(heads) if head in SHOWN]
    lines = [[row[i] for i in kept] for row in (heads, ["---"] * len(heads), *body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mosaic(rows: list[dict[str, Any]], out: Path) -> npt.NDArray[np.uint8]:
    """The median episodes of fold 0, one row a method, (H, W, 3) uint8 BGR."""
    strips = []
    for config in ("guided", "panet", "fgbg"):
        row = next(r for r in rows if r["config"] == config and r["fold"] == 0 and r["n_points"] is None)
        strips.append(cv2.imread(str(next((out / row["run"] / "pictures").glob("median-*.png")))))
    width = max(strip.shape[1] for strip in strips)
    white = (255, 255, 255)
    padded = [cv2.copyMakeBorder(s, 0, 8, 0, width - s.shape[1], cv2.BORDER_CONSTANT, value=white) for s in strips]
    return np.vstack(padded)[:-8]


def main() -> None:
    """Writes experiments/results/NAME.json and NAME.md, and the README's table of that name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the benchmark's folder")
    parser.add_argument("name", help="of the published result")
    parser.add_argument("command", help="what regenerates it")
    parser.add_argument("--picture", type=Path, help="also write the median episodes of fold 0 as a PNG")
    options = parser.parse_args()
    rows = summarise(options.out)
    first = rows[0]
    devices = ", ".join(sorted({str(row["device"]) for row in rows}))
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    folds = sorted({row["fold"] for row in rows})
    facts = [
        f"Regenerate with `{options.command}`.",
        *(f"Training: {note}." for note in training_notes(rows)),
        f"{first['n_episodes']} episodes a fold, protocol {first['protocol']}, folds {folds}; "
        "the interval resamples query images and does not hold the variation of training.",
        f"Measured on {devices}; {versions}.",
    ]
    more = f"All settings and folds: [{options.name}.md](experiments/results/{options.name}.md)."
    body = f"{table(rows, options.out)}\n\n" + "\n".join([*facts, more])
    write_json(HERE / "results" / f"{options.name}.json", rows)
    summary = (options.out / "summary.md").read_text()
    write_text(HERE / "results" / f"{options.name}.md", summary + "\n" + "\n".join([facts[0], *facts[-2:]]) + "\n")
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(options.picture), mosaic(rows, options.out))
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    start, end = f"<!-- {options.name} -->", f"<!-- /{options.name} -->"
    if start in text and end in text:
        before, after = text.split(start)[0], text.split(end)[1]
        write_text(readme, f"{before}{start}\n{body}\n{end}{after}")
    print(json.dumps({"runs": len(rows), "results": f"experiments/results/{options.name}.json"}))


if __name__ == "__main__":
    main()
