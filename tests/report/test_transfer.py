"""What was trained on one thing and tested on another, and the papers' numbers beside ours."""

import dataclasses

import pytest
from fake_benchmark import fake_clicks, fake_run, fake_video
from fake_instances import fake_search
from test_report import page

from fewseg import published
from fewseg.report.cells import slug
from fewseg.report.figures import by_fold, per_fold, ranked, styles
from fewseg.report.papers import ours
from fewseg.report.transfer import Target, Trained, matrix, trained, transfers
from fewseg.results import ClickCurve, collect, leaderboard

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
    assert [list(row) for row in figure.data[0].z] == expected
    assert [list(row) for row in figure.data[0].text] == [[f"{v:.3f}" for v in row] for row in expected]
    # framed: images after images, videos after videos
    centres = {(round((s.x0 + s.x1) / 2), round((s.y0 + s.y1) / 2)) for s in figure.layout.shapes}
    assert centres == {(1, 0), (0, 1)}
    found = page(crossed)
    heads, *body = found.table("crosses")
    told = [dict(zip(heads, row, strict=True)) for row in body]
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
    assert ours(line, row._replace(metric="NoC@90")) == line.figures["noc90"]


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
    assert f"{100 * same.miou:.1f} panet, pascal5i, clean" in told[0]["ours"]
    assert f"{100 * other.miou:.1f} panet, shapes5i, clean" in told[0]["ours"]
    assert told[0]["same data"] == "yes"
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
