"""What a search by reference costs against a detector with fixed classes: one query, the reference cached.

SiameseMaskRCNN and MaskRCNN (80 classes) are built with the same encoder, pyramid, width of the region proposals,
number of proposals and resolution, and both answer for one image of noise in turn, in one process. A query is
``encode_query`` and ``detect``; the guidance is made before, and its cost stands beside it. The median of the repeats
counts, and their minimum is shown.

Weights are random, so the work after the classification is made equal: one class of MaskRCNN has half of every score by
its bias, as the match of SiameseMaskRCNN has by chance, so that every proposal is one candidate in both, none is
suppressed, and the same number of detections gets a mask.

Usage: python experiments/bench_instance.py     (or: make bench-instance)
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fewseg
from fewseg.benchmark import device_name, versions
from fewseg.errors import FewsegError
from fewseg.functional.timing import now
from fewseg.results import write_json

LARGEST = 1.4  # times the query of a Mask R-CNN
SIZES = {"mobilenetv2_100": 480, "resnet50": 512}  # side of the image; another encoder has the first
REFERENCE = 192  # side of the reference in pixels, as in the paper
N_CLASSES, WARM_UP = 80, 1
SIAMESE, FIXED = "SiameseMaskRCNN", "MaskRCNN"


def build(name: str, encoder: str, options: argparse.Namespace, device: torch.device) -> nn.Module:
    """A network with random weights, every proposal of which is one candidate."""
    torch.manual_seed(0)
    counts = {"n_proposals": options.proposals, "n_detections": options.detections}
    own = {"n_classes": N_CLASSES} if name == FIXED else {}
    model: Any = fewseg.create_model(name, encoder=encoder, width=options.width, nms=1.0, **counts, **own)
    network: nn.Module = model.network
    if name == FIXED:
        classify: Any = network.get_submodule("detector.heads.box_predictor.cls_score")
        nn.init.zeros_(classify.weight)
        nn.init.zeros_(classify.bias)
        with torch.no_grad():
            classify.bias[1] = math.log(N_CLASSES)  # as much as the background and the other classes together
    return network.to(device).eval()


def query(network: Any, image: Tensor, guidance: Any) -> dict[str, float]:
    """Seconds of one query and of its parts."""
    start = now(image.device)
    features = network.encode_query(image)
    encoded = now(image.device)
    network.detect(features, guidance)
    end = now(image.device)
    return {"query": end - start, "encode": encoded - start, "detect": end - encoded}


def refer(network: Any, crop: Tensor, annotation: Tensor) -> tuple[dict[str, float], Any]:
    """Seconds of a reference, and the guidance that it makes."""
    start = now(crop.device)
    features = network.encode_support(crop)
    encoded = now(crop.device)
    guidance = network.guide(features, annotation)
    return {"reference": encoded - start, "guide": now(crop.device) - encoded}, guidance


@torch.inference_mode()
def measure(encoder: str, size: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of both, their medians and minima, and the ratio of the medians.

    Raises:
        FewsegError: they have not as many detections as were asked for.
    """
    networks: dict[str, Any] = {name: build(name, encoder, options, device) for name in (SIAMESE, FIXED)}
    generator = torch.Generator().manual_seed(0)
    image, crop = (
        torch.randint(0, 256, (1, *shape), dtype=torch.uint8, generator=generator).to(device)
        for shape in ((3, size, size), (1, 3, REFERENCE, REFERENCE))
    )
    annotation = torch.ones(1, 1, REFERENCE, REFERENCE, dtype=torch.uint8, device=device)
    times: dict[str, dict[str, list[float]]] = {name: {} for name in networks}
    for name, network in networks.items():  # detections whose masks are predicted; those outside the image go later
        found = network.detector(network.match(network.encode_query(image), refer(network, crop, annotation)[1]))
        if len(found[0]["boxes"]) != options.detections:
            got = f"{options.detections}, of which {name} makes {len(found[0]['boxes'])}"
            raise FewsegError("--detections", got, "at most as many as proposals", "ask for fewer")
    for repeat in range(WARM_UP + options.repeats):
        order = list(networks) if repeat % 2 else list(networks)[::-1]
        for name in order:
            referred, guidance = refer(networks[name], crop, annotation)
            queried = query(networks[name], image, guidance)
            if repeat >= WARM_UP:
                for part, seconds in {**queried, **referred}.items():
                    times[name].setdefault(part, []).append(seconds)
    rows = {name: {part: summary(values) for part, values in parts.items()} for name, parts in times.items()}
    ratio = rows[SIAMESE]["query"]["median"] / rows[FIXED]["query"]["median"]
    return {
        "encoder": encoder,
        "size": size,
        "detections": options.detections,
        "ratio": round(ratio, 4),
        "ratio_of_minima": round(rows[SIAMESE]["query"]["minimum"] / rows[FIXED]["query"]["minimum"], 4),
        "seconds": rows,
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and minimum, and all of it."""
    return {"median": statistics.median(values), "minimum": min(values), "all": list(values)}


def table(row: dict[str, Any]) -> str:
    """Lines for one encoder: milliseconds of each part, ours against the other's."""
    parts = {
        "query": "query: encode, then match, propose, classify and draw",
        "encode": "  encode the scene",
        "detect": "  match, propose, classify and draw",
        "reference": "encode the reference, once for all queries",
        "guide": "guide, once for all queries",
    }
    lines = []
    for part, what in parts.items():
        shown = []
        for name in (SIAMESE, FIXED):
            found = row["seconds"][name][part]
            used = name == SIAMESE or part in ("query", "encode", "detect")
            shown.append(f"{1e3 * found['median']:10.1f}{1e3 * found['minimum']:10.1f}" if used else f"{'-':>10}" * 2)
        lines.append(f"  {what:56}{''.join(shown)}")
    return "\n".join(lines)


def verdict(ratio: float) -> str:
    """Whether a ratio is small enough, in words.

    >>> verdict(1.25), verdict(1.41)
    ('within', 'too slow')
    """
    return "within" if ratio <= LARGEST else "too slow"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table and writes the JSON; 1 where the ratio is too large, 2 where an option is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--encoders", nargs="+", default=list(SIZES), help="tiny or timm names")
    parser.add_argument("--size", type=int, help="side of the image in pixels; 480, or 512 for resnet50")
    parser.add_argument("--width", type=int, default=256, help="of the pyramid")
    parser.add_argument("--proposals", type=int, default=1000, help="regions that are classified")
    parser.add_argument("--detections", type=int, default=100, help="that get a mask")
    parser.add_argument("--repeats", type=int, default=10, help="timed repeats of both")
    parser.add_argument("--threads", type=int, help="of torch; its own choice without")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bench_instance.json")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"{device_name(device)}, width {options.width}, {options.proposals} proposals, "
        f"reference {REFERENCE} px; milliseconds, {options.repeats} repeats"
    )
    rows = []
    try:
        for encoder in options.encoders:
            size = options.size or SIZES.get(encoder, SIZES["mobilenetv2_100"])
            row = measure(encoder, size, options, device)
            print(f"{encoder}, {size} x {size}, {row['detections']} detections")
            print(f"{'':58}{SIAMESE:>20}{FIXED:>20}\n{'':58}{'median':>10}{'minimum':>10}{'median':>10}{'minimum':>10}")
            print(table(row))
            told = f"at most {LARGEST} is wanted: {verdict(row['ratio'])}"
            print(f"  ratio of the queries {row['ratio']:.3f}, of their minima {row['ratio_of_minima']:.3f}; {told}")
            sys.stdout.flush()
            rows.append(row)
    except FewsegError as error:
        print(error, file=sys.stderr)
        return 2
    record = {
        "reference": REFERENCE,
        "n_classes": N_CLASSES,
        "width": options.width,
        "proposals": options.proposals,
        "repeats": options.repeats,
        "device": device_name(device),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "largest": LARGEST,
        "rows": rows,
    }
    write_json(options.out, record)
    return int(any(row["ratio"] > LARGEST for row in rows))


if __name__ == "__main__":
    sys.exit(main())
