"""Publishes a finished benchmark: its summary goes to experiments/results, its table into the README.

    python experiments/publish.py runs/shapes shapes "make benchmark"

The README keeps, between `<!-- NAME -->` and `<!-- /NAME -->`, what this command wrote there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fewseg.benchmark import folds_of
from fewseg.results import cells, leaderboard, summarise, training_notes, write_json, write_text

HERE = Path(__file__).parent
SHOWN = {"config", "K", "P", "mIoU", "95 % interval", "FB-IoU", "positive IU", "s/episode", "note"}


def table(rows: list[dict[str, object]], out: Path, n_folds: int | None) -> str:
    """The leaderboard's main columns in markdown, with how it was trained and on what."""
    heads, body = cells(leaderboard(rows, out, n_folds))
    kept = [i for i, head in enumerate(heads) if head in SHOWN]
    lines = [[row[i] for i in kept] for row in (heads, ["---"] * len(heads), *body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Writes experiments/results/NAME.json and NAME.md, and the README's table of that name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the benchmark's folder")
    parser.add_argument("name", help="of the published result")
    parser.add_argument("command", help="what regenerates it")
    options = parser.parse_args()
    n_folds = folds_of(options.out)
    rows = summarise(options.out, n_folds)
    first = rows[0]
    devices = ", ".join(sorted({str(row["device"]) for row in rows}))
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    facts = [
        f"Regenerate with `{options.command}`.",
        *(f"Training: {note}." for note in training_notes(rows)),
        f"{first['n_episodes']} episodes a fold, protocol {first['protocol']}, mean over folds {sorted({r['fold'] for r in rows})}; "
        "the interval resamples query images and does not hold the variation of training.",
        f"Measured on {devices}; {versions}.",
    ]
    body = f"{table(rows, options.out, n_folds)}\n\n" + "\n".join(facts)
    write_json(HERE / "results" / f"{options.name}.json", rows)
    summary = (options.out / "summary.md").read_text()
    write_text(HERE / "results" / f"{options.name}.md", summary + "\n" + "\n".join([facts[0], *facts[-2:]]) + "\n")
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    start, end = f"<!-- {options.name} -->", f"<!-- /{options.name} -->"
    if start in text and end in text:
        before, after = text.split(start)[0], text.split(end)[1]
        write_text(readme, f"{before}{start}\n{body}\n{end}{after}")
    print(json.dumps({"runs": len(rows), "results": f"experiments/results/{options.name}.json"}))


if __name__ == "__main__":
    main()
