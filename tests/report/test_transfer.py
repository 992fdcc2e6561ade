"""What was trained on one thing and tested on another, and the papers' numbers beside ours."""

import dataclasses

import pytest
import yaml
from fake_benchmark import fake_clicks, fake_run, fake_video
from fake_instances import fake_search
from test_report import page

from fewseg import published
from fewseg.report.cells import slug
from fewseg.report.figures import by_fold, per_fold, ranked, styles
from fewseg.report.papers import boxes_of, ours
from fewseg.report.transfer import Target, Trained, matrix, trained, transfers
from fewseg.results import ClickCurve, collect, leaderboard, read_board

SEMANTIC = {"train_dataset": "shapes5i", "train_task": "semantic"}
VIDEO = {"train_dataset": "davis2017", "train_task": "video"}


@pytest.fixture
def crossed(tmp_path):
    """A method trained on images and on videos, each tested on both; and one without a training."""
    for fold in (0, 1):
        fake_run(tmp_path, "guided", fold, **SEMANTIC)
        fake_run(tmp_path, "fgbg", fold)
    fake_run(tmp_path, "guided-video", 0, **VIDEO)
    fake_video(tmp_path, "guided", **SEMANTIC)
    fake_video(tmp_path, "guided-video", **VIDEO)
    fake_run(tmp_path, "guided", 0, n_shot=5, **SEMANTIC)
    return tmp_path


def test_a_matrix_holds_every_pair_that_was_tested(crossed):
    lines = leaderboard(collect(crossed), crossed)
    (one,) = transfers(lines)  # at K = 5 nothing was tested on something else
    assert one.setting == "K = 1, P = dense"
    assert one.rows == (Trained("guided", "shapes5i", "semantic"), Trained("guided-video", "davis2017", "video"))
    images, videos = Target("shapes5i", "semantic", "clean", "mIoU"), Target("davis2017", "video", "video", "J&F")
    assert one.columns == (videos, images)
    figure = matrix(one)
    by_place = {(line.config, line.task): line for line in lines if line.n_shot == 1}
    expected = [
        [by_place[config, "video"].figures["jf_mean"], by_place[config, "semantic"].miou]
        for config in ("guided", "guided-video")
    ]
    best = [max(column) for column in zip(*expected, strict=True)]  # each column has colours of its own
    assert [list(row) for row in figure.data[0].z] == [
        [v / b for v, b in zip(row, best, strict=True)] for row in expected
    ]
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)
    notes = [[by_place[c, task].note for task in ("video", "semantic")] for c in ("guided", "guided-video")]
    marks = [["*" if note else "" for note in row] for row in notes]
    assert marks == [["", "*"], ["", "*"]]  # two folds and one of four
    told = [[f"{v:.3f}{m}" for v, m in zip(*pair, strict=True)] for pair in zip(expected, marks, strict=True)]
    assert [list(row) for row in figure.data[0].text] == told
    # framed: images after images, videos after videos
    centres = {(round((s.x0 + s.x1) / 2), round((s.y0 + s.y1) / 2)) for s in figure.layout.shapes}
    assert centres == {(1, 0), (0, 1)}
    found = page(crossed)
    heads, *body = found.table("crosses")
    rows = [dict(zip(heads, row, strict=True)) for row in body]
    told = [row for row in rows if row["trained on"]]
    assert {row["note"] for row in told if row["tested on"] == "shapes5i"} == {
        by_place[config, "semantic"].note for config in ("guided", "guided-video")
    }
    trivial = {line.config: line for line in read_board(crossed).trivial if line.task == "semantic"}
    others = [row for row in rows if not row["trained on"]]  # of videos nothing is known but J
    assert {(row["method"], row["tested on"]) for row in others} == {(name, "shapes5i") for name in trivial}
    semantic = [line for line in read_board(crossed).trivial if line.task == "semantic"]
    assert sorted(row["accuracy"] for row in others) == sorted(f"{line.miou:.3f}" for line in semantic)
    assert sorted((row["method"], row["tested on"], row["crosses"]) for row in told) == [
        ("guided", "davis2017", "yes"),
        ("guided", "shapes5i", "no"),
        ("guided-video", "davis2017", "no"),
        ("guided-video", "shapes5i", "yes"),
    ]


def test_without_another_test_there_is_no_matrix(tmp_path):
    fake_run(tmp_path, "guided", 0, **SEMANTIC)
    fake_run(tmp_path, "panet", 0)
    lines = leaderboard(collect(tmp_path))
    assert transfers(lines) == []
    assert "Trained on one thing" not in page(tmp_path).text


def test_runs_that_do_not_agree_have_no_training(tmp_path):
    fake_run(tmp_path, "guided", 0, **SEMANTIC)
    fake_run(tmp_path, "guided", 1, **VIDEO)
    (line,) = leaderboard(collect(tmp_path))
    assert trained(line) is None
    assert trained(dataclasses.replace(line, runs=line.runs[:1])) == Trained("guided", "shapes5i", "semantic")


def test_folds_have_their_own_intervals(tmp_path):
    for fold in (0, 1):
        fake_run(tmp_path, "guided", fold)
    fake_run(tmp_path, "guided", 1, seed=1)
    (line,) = leaderboard(collect(tmp_path), tmp_path)
    first, *others = line.runs
    scores = by_fold(line)
    assert scores[0].ci95 == tuple(first["ci95"])
    assert scores[1].ci95 is None  # of two seeds
    assert scores[1].value == pytest.approx(sum(run["miou"] for run in others) / 2)
    caption, figure = per_fold([line], styles(["guided"]))
    assert caption == "K = 1, P = dense"
    assert list(figure.data[0].x) == ["fold 0", "fold 1"]
    assert list(figure.data[0].y) == [scores[0].value, scores[1].value]
    assert figure.data[0].error_y.array[0] == pytest.approx(first["ci95"][1] - first["miou"])
    heads, *body = page(tmp_path).table("std over folds")
    assert heads == ["method", "K", "P", "fold 0", "fold 1", "mean", "std over folds"]
    assert body[0][-2:] == [f"{line.miou:.3f}", f"{abs(scores[0].value - scores[1].value) / 2**0.5:.3f}"]
    assert per_fold(leaderboard([first]), styles(["guided"])) is None


def test_folds_of_instances_are_those_of_boxes(tmp_path):
    for fold in (0, 1):
        fake_search(tmp_path, "siamese", fold)
    (line,) = leaderboard(collect(tmp_path), tmp_path)
    assert ranked(line).name == "AP50 boxes"
    assert [one.value for one in by_fold(line).values()] == [run["ap50_boxes"] for run in line.runs]


def test_ours_stand_beside_a_paper_only_with_the_same_task_metric_k_and_p(tmp_path):
    fake_run(tmp_path, "panet", 0)
    (line,) = leaderboard(collect(tmp_path), tmp_path)
    one = next(row for row in published.of("PANet") if (row.metric, row.n_shot) == ("mIoU", 1))
    assert ours(line, one) == pytest.approx(100 * line.miou)
    assert ours(line, one._replace(metric="FB-IoU")) == pytest.approx(100 * line.figures["fb_iou"])
    for other in ({"n_shot": 5}, {"n_points": 1}, {"task": "video"}, {"metric": "NoC@90"}):
        assert ours(line, one._replace(**other)) is None
    assert ours(dataclasses.replace(line, n_points=5), one) is None


def test_clicks_are_compared_after_as_many_clicks(tmp_path):
    fake_clicks(tmp_path, "guided", 0)
    (line,) = leaderboard(collect(tmp_path), tmp_path)
    row = published.of("FBRSNet")[0]._replace(task="interactive", n_shot=0, n_points=None)
    single = dataclasses.replace(line, clicks=ClickCurve((0.5,), None, ()))
    assert ours(single, row._replace(metric="mIoU, 1 click")) == pytest.approx(100 * line.miou)
    assert ours(line, row._replace(metric="mIoU, 1 click")) is None
    assert ours(line, row._replace(metric="mIoU")) is None  # clicks are not told
    assert ours(line, row._replace(metric="NoC@90")) is None  # of 6 clicks, where papers allow 20
    fake_clicks(tmp_path, "panet", 0, n_clicks=20)
    same = next(one for one in leaderboard(collect(tmp_path), tmp_path) if one.config == "panet")
    assert ours(same, row._replace(metric="NoC@90", fold=None)) == same.figures["noc90"]


def test_one_fold_of_a_paper_stands_beside_that_fold_of_ours(tmp_path):
    for fold in (0, 1):
        fake_run(tmp_path, "panet", fold)
    (line,) = leaderboard(collect(tmp_path), tmp_path)
    one = next(row for row in published.of("PANet") if (row.metric, row.n_shot) == ("mIoU", 1))._replace(fold=0)
    first = next(run for run in line.runs if run["fold"] == 0)
    assert ours(line, one) == pytest.approx(100 * first["miou"])
    assert ours(line, one) != pytest.approx(100 * line.miou)
    assert ours(line, one._replace(metric="positive IU")) == pytest.approx(100 * first["positive_iou"])
    assert ours(line, one._replace(fold=3)) is None
    assert ours(line, one._replace(fold=3, metric="positive IU")) is None


@pytest.mark.parametrize(("protocol", "classes"), [("one-shot", "one-shot"), ("one-shot-base", "background")])
def test_instances_are_compared_where_the_same_classes_are_asked_for(tmp_path, protocol, classes):
    fake_search(tmp_path, "siamese", 0, protocol)
    (line,) = leaderboard(collect(tmp_path), tmp_path)
    known = [row for row in published.of("SiameseMaskRCNN") if row.metric == "AP50 of boxes"]
    assert len(known) == 4
    found = {(row.method, row.setting): ours(line, row) for row in known}
    (name,) = (name for name, value in found.items() if value is not None)
    assert name[0] == "Siamese Mask R-CNN"
    assert name[1].startswith(classes)
    assert found[name] == pytest.approx(100 * line.figures["ap50_boxes"])


def test_random_boxes_are_compared_with_random_boxes(tmp_path):
    """What a run scored stands in its configuration; what its evaluation changes comes last."""
    runs = {name: fake_search(tmp_path, name, 0) for name in ("siamese", "siamese-5", "random")}
    write_yaml(runs["random"], {"data": {"fold": 0}, "run": {"data": {"random_boxes": "truth"}}})
    write_yaml(runs["siamese-5"], {"data": {"random_boxes": "truth"}, "run": {"data": {"random_boxes": "detections"}}})
    lines = {line.config: line for line in leaderboard(collect(tmp_path), tmp_path)}
    boxes = {name: boxes_of(line, tmp_path) for name, line in lines.items()}
    assert boxes == {"siamese": "none", "siamese-5": "detections", "random": "truth"}
    heads, *body = page(tmp_path).table("printed")
    told = [dict(zip(heads, row, strict=True)) for row in body]
    beside = {row["paper"]: row["ours"] for row in told if row["metric"] == "AP50 of boxes" and row["ours"]}
    assert set(beside) == {"Siamese Mask R-CNN", "random boxes"}
    assert beside["Siamese Mask R-CNN"].startswith(f"{100 * lines['siamese'].figures['ap50_boxes']:.1f} siamese, ")
    assert beside["random boxes"].startswith(f"{100 * lines['random'].figures['ap50_boxes']:.1f} random, ")
    assert "siamese-5" not in "".join(beside.values())


def write_yaml(run, config):
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_the_papers_table_names_what_differs(tmp_path):
    for n_shot in (1, 5):
        fake_run(tmp_path, "panet", 0, n_shot=n_shot, dataset="pascal5i")
    fake_run(tmp_path, "panet", 0)
    fake_run(tmp_path, "nobody", 0)
    found = page(tmp_path)
    heads, *body = found.table("printed")
    told = [dict(zip(heads, row, strict=True)) for row in body]
    known = published.of("PANet")
    assert [row["printed"] for row in told] == [f"{one.mean:g} {one.unit}" for one in known]
    assert told[0]["by fold"] == "42.3 / 58 / 51.1 / 41.2"
    lines = {(x.dataset, x.n_shot): x for x in leaderboard(collect(tmp_path)) if x.config == "panet"}
    same, other = lines["pascal5i", 1], lines["shapes5i", 1]
    partial = "clean, partial (fold 0 of 4)"
    assert f"{100 * same.miou:.1f} panet, pascal5i, {partial}" in told[0]["ours"]
    assert f"{100 * other.miou:.1f} panet, shapes5i, {partial}" in told[0]["ours"]
    assert {row["same data"] for row in told if row["K"] == "1" and row["ours"]} == {"yesno"}  # below each other
    assert {row["same data"] for row in told if row["K"] == "5" and row["ours"]} == {"yes"}
    assert told[0]["protocol"] == "panet"
    assert known[0].differs in found.text
    assert "Numbers on other data do not compare at all" in found.text
    assert "PL+SEG" not in found.text  # a method that is not in the benchmark
    (contradicted,) = (one for one in published.of("SGOne") if "maximum" in one.setting)
    fake_run(tmp_path, "sgone", 0, method="SGOne", n_shot=contradicted.n_shot)
    assert "the printed mean contradicts them" in page(tmp_path).text


def test_ids_of_sections_are_unique(crossed):
    ids = [attributes["id"] for _, attributes in page(crossed).tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for tag, a in page(crossed).tags if tag == "a" and "href" in a]
    assert links
    assert set(links) <= set(ids)
    assert slug("The papers' numbers") == "the-papers-numbers"
