"""Paired differences between configurations, over the same episodes."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewseg.functional.instance_figures import interval_of_ap50
from fewseg.functional.iou import percentile_interval
from fewseg.results.files import GROUP, amount, read_plan, setting_order
from fewseg.results.leaderboard import CLASS_BLIND, of_instances, of_videos
from fewseg.results.resampling import Resampled, average, average_of, resample


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One configuration against the reference, in one setting.

    Args:
        dataset: the data set's name; ``task``, ``protocol``, ``config``, ``n_shot`` and ``n_points`` as in ``Line``.
        reference: the configuration that it is compared with.
        miou: mean over seeds and folds of what both have; None where they cannot be compared.
        difference: ``miou`` minus that of the reference.
        ci95: of ``difference``; every replicate resamples the same query images for both.
        note: what is left out, or why there is no comparison or interval; empty where nothing is odd.
        j_difference: mean J of videos minus that of the reference; None elsewhere.
        j_ci95: of ``j_difference``; every replicate resamples the same videos for both.
        ap50_boxes_difference: AP50 of boxes minus that of the reference, of instances; None elsewhere.
        ap50_boxes_ci95: of ``ap50_boxes_difference``, made as ``ci95``.
        ap50_difference: the same of masks.
        ap50_ci95: of ``ap50_difference``.
    """

    dataset: str
    task: str
    protocol: str
    config: str
    n_shot: int
    n_points: int | None
    reference: str
    miou: float | None
    difference: float | None
    ci95: tuple[float, float] | None
    note: str
    j_difference: float | None = None
    j_ci95: tuple[float, float] | None = None
    ap50_boxes_difference: float | None = None
    ap50_boxes_ci95: tuple[float, float] | None = None
    ap50_difference: float | None = None
    ap50_ci95: tuple[float, float] | None = None

    @property
    def main(self) -> tuple[str, float | None, tuple[float, float] | None, str]:
        """What is compared first: its name, its difference, ``ci95`` and ``seen``.

        J of videos, AP50 of boxes where instances were asked for, mIoU elsewhere.
        """
        if of_videos([self]):
            return "mean J", self.j_difference, self.j_ci95, self.j_seen
        if of_instances([self]):
            return "AP50 of boxes", self.ap50_boxes_difference, self.ap50_boxes_ci95, self.ap50_boxes_seen
        return "mIoU", self.difference, self.ci95, self.seen

    @property
    def seen(self) -> str:
        """``above`` or ``below`` where the interval leaves out 0, else ``not separated``; empty without interval."""
        return _seen(self.ci95)

    @property
    def j_seen(self) -> str:
        """The same of J."""
        return _seen(self.j_ci95)

    @property
    def ap50_boxes_seen(self) -> str:
        """The same of AP50 of boxes."""
        return _seen(self.ap50_boxes_ci95)

    @property
    def ap50_seen(self) -> str:
        """The same of AP50 of masks."""
        return _seen(self.ap50_ci95)


def _seen(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    return "above" if low > 0 else "below" if high < 0 else "not separated"


def reference_of(out: Path) -> str | None:
    """The configuration that the last benchmark in a folder asked to compare with; None where it did not."""
    wanted = read_plan(out).get("compare")
    return str(wanted["reference"]) if isinstance(wanted, dict) and wanted.get("reference") else None


def comparisons(rows: Sequence[Mapping[str, Any]], out: Path | None, reference: str | None) -> list[Comparison]:
    """``compare``, then every variant of a training against its plain evaluation where that is not the reference.

    >>> run = dict(dataset="d", task="interactive", protocol="p", n_shot=1, n_points=None, fold=0, seed=0)
    >>> run |= dict(training="b-f0-s0-12345678", episode_list_sha256="a")
    >>> runs = [run | dict(config=c, miou=v, run=c) for c, v in (("a", 0.5), ("b", 0.25), ("b+AJ", 0.375))]
    >>> runs[0]["training"] = "a-f0-s0-12345678"
    >>> [(one.config, one.reference, one.difference) for one in comparisons(runs, None, "a")]
    [('b', 'a', -0.25), ('b+AJ', 'a', -0.125), ('b+AJ', 'b', 0.125)]
    """
    return comparisons_of(rows, resample(rows, out), reference)


def comparisons_of(
    rows: Sequence[Mapping[str, Any]], drawn: Mapping[str, Resampled], reference: str | None
) -> list[Comparison]:
    """``comparisons`` of runs that were resampled already."""
    found = _compare(rows, drawn, reference)
    plain = {row["config"]: _plain(row) for row in rows}
    for name in dict.fromkeys(plain.values()):
        if name != reference and name in plain:
            found += _compare([row for row in rows if plain[row["config"]] == name], drawn, name)
    return found


def _plain(row: Mapping[str, Any]) -> str:
    """The configuration without what a variant changes; of runs from before this was a figure, by their training."""
    return str(row.get("plain") or _TRAINING_ID.sub("", str(row.get("training", row["config"]))))


_TRAINING_ID = re.compile(r"-f\d+-s\d+-[0-9a-f]{8}$")  # behind the name that a benchmark gives to a method


def compare(rows: Sequence[Mapping[str, Any]], out: Path | None, reference: str | None) -> list[Comparison]:
    """Every other configuration against the reference, in every setting that the reference has.

    Runs are paired by fold and seed, and only if both were scored on the same episode list. Where one side repeats the
    evaluation of a training with several seeds, all of them are paired with the other side's one run of the fold.

    Args:
        rows: of ``summary.json``.
        out: the benchmark's folder, for the intervals; without it there are none.
        reference: name of a configuration; None compares nothing.

    Returns:
        in the order of the leaderboard; empty where the reference has no run.
    """
    return _compare(rows, resample(rows, out), reference)


def _compare(
    rows: Sequence[Mapping[str, Any]], drawn: Mapping[str, Resampled], reference: str | None
) -> list[Comparison]:
    def setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return (*(row[name] for name in ("dataset", "task", "protocol", "n_shot")), amount(row["n_points"]))

    found = []
    for _, group in itertools.groupby(sorted(rows, key=setting), setting):
        by_config: dict[str, list[dict[str, Any]]] = {}
        for row in group:
            by_config.setdefault(row["config"], []).append(dict(row))
        if reference in by_config:
            found += _compare_setting(by_config, drawn, reference)
    return sorted(found, key=lambda one: setting_order(dataclasses.asdict(one)))


def _compare_setting(
    by_config: dict[str, list[dict[str, Any]]], drawn: Mapping[str, Resampled], reference: str
) -> list[Comparison]:
    found = []
    for config, runs in by_config.items():
        if config == reference:
            continue
        both, note = _pairs(runs, by_config[reference])
        miou = difference = interval = j_difference = j_interval = None
        instances: dict[str, Any] = {}
        if both:
            own, other = ([pair[side] for pair in both] for side in (0, 1))
            miou, base = (average_of("miou", runs) for runs in (own, other))
            difference = miou - base
            if all("j_mean" in run for run in (*own, *other)):
                j_difference = average_of("j_mean", own) - average_of("j_mean", other)
            of_ap50 = [name for name in ("ap50_boxes", "ap50") if all(name in run for run in (*own, *other))]
            for name in of_ap50:
                instances[f"{name}_difference"] = average_of(name, own) - average_of(name, other)
            pairs = [(drawn.get(one.get("run", "")), drawn.get(two.get("run", ""))) for one, two in both]
            paired = [(one, two) for one, two in pairs if one and two and one.group == two.group]
            if len(paired) < len(both):
                lacking = "no interval (episodes.parquet is missing)"
            else:
                known_ap50 = bool(of_ap50) and all(one.ap50 is not None for pair in paired for one in pair)
                lacking = "" if known_ap50 else "no interval (rows give another mIoU)"
                if all(
                    one.gives(run)
                    for pair, of in zip(paired, both, strict=True)
                    for one, run in zip(pair, of, strict=True)
                ):
                    interval = percentile_interval(_differences([(a.miou, b.miou) for a, b in paired], own), difference)
                    lacking = ""
                if j_difference is not None and all(one.j is not None for pair in paired for one in pair):
                    j_interval = percentile_interval(_differences([(a.j, b.j) for a, b in paired], own), j_difference)
                for kind, name in enumerate(of_ap50 if known_ap50 else ()):
                    ap50s = [(a.ap50[:, kind], b.ap50[:, kind]) for a, b in paired]
                    instances[f"{name}_ci95"] = interval_of_ap50(
                        _differences(ap50s, own), instances[f"{name}_difference"]
                    )
            blind = CLASS_BLIND if any(run.get("class_blind") for run in own) else ""
            note = "; ".join(filter(None, (note, lacking, blind)))
        first = by_config[config][0]
        place = {name: first[name] for name in GROUP}
        found.append(
            Comparison(
                **place,
                reference=reference,
                miou=miou,
                difference=difference,
                ci95=interval,
                note=note,
                j_difference=j_difference,
                j_ci95=j_interval,
                **instances,
            )
        )
    return found


def _differences(pairs: Sequence[tuple[Any, Any]], runs: Sequence[Mapping[str, Any]]) -> Any:
    """Of replicates (R,) of both sides of every pair, their mean difference over seeds, then folds, (R,)."""
    return average(np.stack([own - other for own, other in pairs], axis=1), runs)


def _pairs(
    runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], str]:
    """Runs of equal fold and seed, and what is odd about them; no pairs where a comparison would not be fair."""
    own, other = ({(r["fold"], r["seed"]): r for r in side if "miou" in r} for side in (runs, others))
    if any(len(kept) < sum("miou" in r for r in side) for kept, side in ((own, runs), (other, others))):
        return [], "not compared (several runs of one fold and seed)"
    own, other = _beside(own, other), _beside(other, own)
    shared = sorted(own.keys() & other.keys())
    if not shared:
        return [], "not compared (no fold and seed in common)"
    for at in shared:
        lists = own[at].get("episode_list_sha256"), other[at].get("episode_list_sha256")
        if None in lists or lists[0] != lists[1]:
            return [], f"not compared (different episode lists in fold {at[0]})"
    note = "" if own.keys() == other.keys() else f"only what both have (fold/seed {_listed(shared)})"
    return [(own[at], other[at]) for at in shared], note


def _beside(
    single: dict[tuple[int, int], dict[str, Any]], repeated: dict[tuple[int, int], dict[str, Any]]
) -> dict[tuple[int, int], dict[str, Any]]:
    """One run a fold, set beside each of the other side's where these repeat the evaluation of one training."""
    by_fold = {fold: run for (fold, _), run in single.items()}
    trainings = {(fold, run.get("training")) for (fold, _), run in repeated.items()}
    several = len(by_fold) == len(single) and len(trainings) == len({fold for fold, _ in repeated}) < len(repeated)
    return {place: by_fold[place[0]] for place in repeated if place[0] in by_fold} if several else single


def _listed(pairs: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{fold}/{seed}" for fold, seed in pairs)
