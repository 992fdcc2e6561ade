"""The report of a benchmark of instances: AP50 first, clutter, confusion, base classes against novel ones."""

import numpy as np
import pandas as pd
import pytest
from fake_benchmark import add_pictures, fake_run
from fake_instances import NAMES, fake_search, novel
from test_report import page

from fewseg.episode import Row
from fewseg.report.figures import against_shots, per_class, styles
from fewseg.report.instances import (
    against_clutter,
    base_and_novel,
    confusions,
    deviation,
    gaps,
)
from fewseg.results import collect, leaderboard, write_json, write_rows

CONFIGS = ("siamese", "random")
LOOK = styles(sorted(CONFIGS))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Two methods on novel and base classes of two folds, and one of them with five references."""
    out = tmp_path_factory.mktemp("instances")
    runs = []
    for fold in (0, 1):
        for config in CONFIGS:
            runs += [fake_search(out, config, fold, protocol) for protocol in ("one-shot", "one-shot-base")]
        add_pictures(runs[-4])
        runs.append(fake_search(out, "siamese", fold, n_shot=5))
    names = [run.name for run in runs]
    write_json(out / "plan.json", {"n_folds": 4, "runs": names, "compare": {"reference": "random"}})
    return out


@pytest.fixture(scope="module")
def lines(benchmark):
    return leaderboard(collect(benchmark), benchmark)


@pytest.fixture(scope="module")
def found(benchmark):
    return page(benchmark)


def line_of(lines, config="siamese", protocol="one-shot", n_shot=1):
    (line,) = (x for x in lines if (x.config, x.protocol, x.n_shot) == (config, protocol, n_shot))
    return line


def test_the_leaderboard_leads_with_ap50(found, lines):
    head = found.rows[0]
    assert head[:13] == [
        *("method", "protocol", "K", "fold 0", "fold 1", "AP50 boxes", "95 % of boxes", "std of boxes"),
        *("rank", "ties", "AP50 masks", "95 % of masks", "std of masks"),
    ]
    assert not {"P", "FB-IoU", "positive IU", "95 % interval"} & set(head)
    body = [dict(zip(head, row, strict=True)) for row in found.rows[1 : 1 + len(lines)]]
    for name, key in (("AP50 boxes", "ap50_boxes"), ("AP50 masks", "ap50"), ("AP masks", "ap")):
        assert sorted(row[name] for row in body) == sorted(f"{line.figures[key]:.3f}" for line in lines)
    line = line_of(lines)
    row = next(row for row in found.rows if row[0].startswith("siamese") and row[1:3] == ["one-shot", "1"])
    low, high = line.ap50_boxes_ci95
    assert row[6] == f"{low:.3f} to {high:.3f}"
    assert row[11] == "{:.3f} to {:.3f}".format(*line.ap50_ci95)
    runs = {run["fold"]: run for run in line.runs}
    assert row[3] == f"{runs[0]['ap50_boxes']:.3f} / {runs[0]['ap50']:.3f}"
    assert row[7] == f"{(runs[0]['ap50_boxes_std'] + runs[1]['ap50_boxes_std']) / 2:.3f}"
    assert [row["method"].split()[0] for row in body] == ["siamese", "random", "siamese", "siamese", "random"]
    assert "AP50: average precision of COCO's evaluator at IoU 0.5" in found.text


def test_the_headline_is_about_novel_classes(found, lines):
    best = line_of(lines, n_shot=5)
    told = f"AP50 on novel classes {best.figures['ap50_boxes']:.3f} of boxes (95 % interval "
    assert f"Best at K = 5: siamese, {told}" in found.text
    assert "K = 1, 5 references" in found.text
    assert "pixels" not in found.text.split("Leaderboard")[0]


def test_sections(found, benchmark):
    for section in (
        "Compared with random",
        "Base classes against novel classes",
        "Accuracy against references",
        "Instances: accuracy against clutter",
        "Instances: what is found instead",
        "Accuracy per class",
        "Best, median and worst episodes",
    ):
        assert section in found.text
    assert "Accuracy against annotated" not in found.text
    assert "references in the corner" in found.text
    captions = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
    assert any(caption.startswith("best: class1, IoU of the union 0.930 (fold 0, K = 1, query") for caption in captions)
    assert (benchmark / "report.html").stat().st_size < 6e6


def test_one_fold_has_no_column_of_its_own(tmp_path):
    fake_search(tmp_path, "siamese", 2)
    found = page(tmp_path)
    assert "fold 2" not in found.rows[0]
    assert "Base classes against novel classes" not in found.text
    assert "Read with care: partial (fold 2 of 4)." in found.text


def test_masks_and_instances_share_a_page(tmp_path):
    fake_search(tmp_path, "siamese", 0)
    fake_run(tmp_path, "panet", 0)
    found = page(tmp_path)
    assert {"mIoU", "P", "AP50 boxes"} <= set(found.rows[0])
    assert "Instances: accuracy against clutter" in found.text


def test_clutter_is_a_mean_over_folds(lines):
    own = [line for line in lines if line.protocol == "one-shot" and line.n_shot == 1]
    caption, figure = against_clutter(own, LOOK)
    assert caption == "K = 1"
    assert [data.name for data in figure.data] == ["random", "siamese"] * 2
    parts = [{part["instances"]: part for part in run["clutter"]} for run in line_of(lines).runs]
    for data, name in zip(figure.data[1::2], ("ap50_boxes", "ap50"), strict=True):
        assert list(data.x) == ["1", "2", "3", "4", "5-9"]
        for instances, value in zip(data.x, data.y, strict=True):
            assert value == pytest.approx(np.mean([part[instances][name] for part in parts if instances in part]))
    assert against_clutter([line for line in lines if not line.runs[0]["clutter"]], LOOK) is None


def searched(rows, out, **figures):
    """A run of these rows, which are all of one list, on Shapes-COCO."""
    write_rows(out / "run" / "episodes.parquet", rows)
    told = {"dataset": "shapes-coco", "task": "instance", "protocol": "one-shot", "config": "siamese", "method": "S"}
    return [told | {"n_shot": 1, "n_points": None, "fold": 0, "seed": 0, "run": "run", "ap50_boxes": 0.5} | figures]


def detections(episode, class_id, truth, *found):
    """An episode and what it found: (score, classes whose box it fits)."""
    row = Row(episode, f"q{episode}", "s", class_id, 0, 0, 1, 1)
    bits = dict.fromkeys(("ignored_boxes", "ignored_masks", "matched_masks"), 0)
    return [
        row._replace(truth=truth),
        *(
            row._replace(
                object_id=rank,
                score=score,
                matched_boxes=int(class_id in fits),
                matched_classes=" ".join(map(str, fits)),
                **bits,
            )
            for rank, (score, fits) in enumerate(found)
        ),
    ]


def test_the_matrix_has_the_classes_asked_for_first_and_sums_below(tmp_path):
    rows = [
        *detections(0, 5, "2:1 5:1", (0.9, [5]), (0.8, [2])),
        *detections(1, 9, "2:1 9:2", (0.7, [2]), (0.6, [9])),
    ]
    ((caption, figure),) = confusions(leaderboard(searched(rows, tmp_path)), tmp_path)
    assert caption == "siamese, fold 0, K = 1: AP50 of boxes 0.500"
    matrix, sums = figure.data
    asked, other = [NAMES[4], NAMES[8]], NAMES[1]
    assert list(matrix.y) == asked
    assert list(matrix.x) == list(sums.x) == [*asked, other]
    half = round(51 * 0.5 / 101, 4)  # one of two objects, found second
    assert [list(row) for row in matrix.z] == [[1.0, None, 0.5], [None, half, 1.0]]
    assert list(sums.y) == pytest.approx([1.0, half, 1.5])
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.yaxis2.title.text == "column sum"


def test_the_matrix_is_that_of_the_best_method_of_its_fold(benchmark, lines):
    own = [line for line in lines if line.protocol == "one-shot"]
    drawn = confusions(own, benchmark)
    best = [
        max((run for line in own for run in line.runs if run["fold"] == f), key=lambda r: r["ap50_boxes"])
        for f in (0, 1)
    ]
    for fold, ((caption, figure), run) in enumerate(zip(drawn, best, strict=True)):
        assert caption.startswith(f"siamese, fold {fold}, K = {run['n_shot']}: AP50 of boxes {run['ap50_boxes']:.3f}")
        matrix = figure.data[0]
        diagonal = [row[list(matrix.x).index(name)] for name, row in zip(matrix.y, matrix.z, strict=True)]
        assert dict(zip(matrix.y, diagonal, strict=True)) == pytest.approx(run["per_class_ap50_boxes"], abs=1e-4)
        assert list(matrix.y) == [NAMES[c - 1] for c in novel(fold)]


def test_classes_of_an_unknown_data_set_have_numbers(tmp_path):
    rows = searched(detections(0, 5, "5:1", (0.9, [5])), tmp_path, dataset="mine")
    ((_, figure),) = confusions(leaderboard(rows), tmp_path)
    assert list(figure.data[0].x) == ["class 5"]
    (tmp_path / "run" / "episodes.parquet").unlink()
    assert confusions(leaderboard(rows), tmp_path) == []


def test_a_run_without_any_object_has_no_matrix(tmp_path):
    assert confusions(leaderboard(searched(detections(0, 5, ""), tmp_path)), tmp_path) == []


def test_gaps_are_those_of_trainings_that_both_sides_have(lines, benchmark):
    (random, siamese) = gaps(lines)
    assert (random.config, siamese.config, siamese.folds) == ("random", "siamese", (0, 1))
    base, own = line_of(lines, protocol="one-shot-base"), line_of(lines)
    for name, kind in (("ap50_boxes", "boxes"), ("ap50", "masks")):
        assert siamese.gap(kind) == pytest.approx(base.figures[name] - own.figures[name])
        assert siamese.novel[kind].ci95 == getattr(own, f"{name}_ci95")
    assert siamese.gap("boxes") > 0.05
    rows = [row for row in collect(benchmark) if (row["protocol"], row["fold"]) != ("one-shot-base", 1)]
    (_, partial) = gaps(leaderboard(rows, benchmark))
    assert partial.folds == (0,)
    assert partial.novel["boxes"].ap50 == pytest.approx(next(r["ap50_boxes"] for r in own.runs if r["fold"] == 0))
    assert partial.novel["boxes"].ci95 is None  # that of the line is of both folds
    rows = [row | {"training": "other"} if row["protocol"] == "one-shot-base" else row for row in collect(benchmark)]
    assert gaps(leaderboard(rows, benchmark)) == []


def test_references_of_any_image_are_not_compared_with_those_of_others(benchmark):
    rows = [row | {"protocol": "one-shot-code"} if row["protocol"] == "one-shot" else row for row in collect(benchmark)]
    assert gaps(leaderboard(rows)) == []
    assert gaps(leaderboard([row | {"protocol": "mine"} for row in rows if row["protocol"] == "one-shot-code"])) == []


def test_the_gap_is_drawn_and_listed(lines, found):
    fallen = gaps(lines)
    ((caption, figure),) = base_and_novel(fallen, LOOK)
    assert caption == "K = 1"
    base, own, *_ = figure.data
    assert list(base.y) == [one.base["boxes"].ap50 for one in fallen]
    assert list(own.y) == [one.novel["boxes"].ap50 for one in fallen]
    low, _ = fallen[1].novel["boxes"].ci95
    assert own.error_y.arrayminus[1] == pytest.approx(fallen[1].novel["boxes"].ap50 - low)
    heads, *body = found.table("gap, boxes")
    assert [row[0] for row in body] == ["random", "siamese"]
    assert [row[heads.index("gap, masks")] for row in body] == [f"{one.gap('masks'):+.3f}" for one in fallen]


def test_deviation_is_over_references_not_folds(lines):
    line = line_of(lines)
    assert deviation(line, "ap50") == pytest.approx(np.mean([run["ap50_std"] for run in line.runs]))
    without = {name: value for name, value in line.runs[0].items() if not name.endswith("_std")}
    assert deviation(leaderboard([without])[0], "ap50") is None


def test_plots_of_shots_and_classes_are_of_boxes(lines):
    own = [line for line in lines if line.protocol == "one-shot"]
    caption, figure = against_shots(own, LOOK)
    assert (caption, figure.layout.xaxis.title.text) == ("AP at IoU 0.5", "references (K)")
    assert figure.layout.yaxis.title.text == "AP50 of boxes"
    siamese = figure.data[1]
    assert list(siamese.y) == [line_of(lines, n_shot=k).figures["ap50_boxes"] for k in (1, 5)]
    assert siamese.error_y.array[0] == pytest.approx(line_of(lines).ap50_boxes_ci95[1] - siamese.y[0])
    caption, figure = per_class([line for line in own if line.n_shot == 1], LOOK)
    assert caption == "K = 1"
    shown = dict(zip(figure.data[1].x, figure.data[1].y, strict=True))
    expected = pd.DataFrame([run["per_class_ap50_boxes"] for run in line_of(lines).runs]).mean().to_dict()
    assert shown == pytest.approx(expected)
    assert len(shown) == 10
