"""What is told of a whole benchmark: ranks, trivial answers, how far seeds move a number, and when to make it again."""

import json
import os
import zlib

import numpy as np
import pandas as pd
import pytest

from fewseg import results
from fewseg.episode import Row
from fewseg.functional.iou import mean_iou
from fewseg.functional.run_figures import score

NAMES = [f"c{i}" for i in range(4)]
PIXELS, TRUE, BOX = 1000, 200, 260


def save(out, config, quality, fold=0, seed=0, n=60, noise=30, true=TRUE, absent=0, **changes):
    """A finished run of ``n`` episodes on as many images; the same images are hard for every configuration.

    The last ``absent`` queries do not show their class, and something is found in every second one of them.
    """
    classes = [2 * fold + 1, 2 * fold + 2]
    hard, own = np.random.RandomState(fold), np.random.RandomState(zlib.crc32(f"{config} {seed}".encode()))
    found = np.clip(true * quality + 40 * hard.randn(n) + noise * own.randn(n), 0, true).astype(int).tolist()
    box = changes.pop("box", BOX)
    rows = [
        Row(i, f"q{i}", "s", classes[i % 2], tp, 20, true - tp, PIXELS - true - 20, box=box)
        for i, tp in enumerate(found[: n - absent])
    ]
    rows += [
        Row(i, f"q{i}", "s", classes[i % 2], 0, 50 * (i % 2), 0, PIXELS - 50 * (i % 2), box=0, present=False)
        for i in range(n - absent, n)
    ]
    setting = {"method": "PANet", "config": config, "dataset": "d", "task": "semantic", "protocol": "clean"}
    setting |= {"fold": fold, "n_shot": 1, "n_points": None, "seed": seed, "episode_list_sha256": f"list{fold}"}
    setting |= {"run": f"{config}-{fold}-{seed}", "training": f"{config}-{seed}", "n_folds": 2, **changes}
    figures = score(pd.DataFrame(rows), NAMES, classes)
    results.finish_run(out / setting["run"], {}, rows, {**setting, **figures})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two methods that cannot be told apart above one that can, and one that has only a fold."""
    out = tmp_path_factory.mktemp("board")
    for fold in (0, 1):
        save(out, "good", 0.70, fold)
        save(out, "alike", 0.70, fold)
        save(out, "bad", 0.40, fold)
    save(out, "partial", 0.9, 0)
    return out


def test_ranks_group_what_cannot_be_told_apart(folder):
    ranks = {line.config: line.rank for line in results.read_board(folder).lines}
    assert ranks["good"] == ranks["alike"] == (1, 2, 1)
    assert ranks["bad"] == (3, 3, 2)
    assert ranks["partial"] is None, "fewer folds than the others"
    heads, body = results.cells(results.read_board(folder).lines)
    shown = {row[0]: row[heads.index("rank") : heads.index("rank") + 2] for row in body}
    assert shown == {"good": ["1 to 2", "A"], "alike": ["1 to 2", "A"], "bad": ["3", "B"], "partial": ["", ""]}


def test_ranks_need_the_rows_of_all(folder, tmp_path):
    for run in folder.iterdir():
        if run.is_dir():
            (tmp_path / run.name).symlink_to(run)
    (tmp_path / "bad-0-0").unlink()
    (tmp_path / "bad-0-0").mkdir()
    (tmp_path / "bad-0-0" / "metrics.json").write_text((folder / "bad-0-0" / "metrics.json").read_text())
    ranks = {line.config: line.rank for line in results.read_board(tmp_path).lines}
    assert ranks["bad"] is None
    assert ranks["good"] == (1, 2, 1)


def test_a_few_images_have_no_ranks_and_tables_say_so(tmp_path):
    for n, fold in ((60, 0), (19, 1)):
        save(tmp_path, "good", 0.70, fold, n=n)
        save(tmp_path, "bad", 0.20, fold, n=n)
    board = results.summarise(tmp_path)
    assert [line.rank for line in board.lines] == [None, None]
    assert [line.n_clusters for line in board.lines] == [19, 19], "the fold with the fewest"
    text = (tmp_path / "summary.md").read_text()
    assert "| ties |" not in text
    assert "No ranks where a fold has fewer than 20 query images" in text
    assert "Ties: A for the best" not in text
    save(tmp_path, "good", 0.70, 1, n=20)
    save(tmp_path, "bad", 0.20, 1, n=20)
    assert [line.rank for line in results.summarise(tmp_path).lines] == [(2, 2, 2), (1, 1, 1)]
    text = " ".join((tmp_path / "summary.md").read_text().split())
    assert "No ranks" not in text
    assert "in about 95 % of cases" in text
    assert "while a higher one that varies less is in B" in text


def test_trivial_answers_stand_in_every_table(folder):
    board = results.summarise(folder)
    assert [line.config for line in board.trivial] == ["all background", "all foreground", "true box"]
    for line, iou in zip(board.trivial, (0, TRUE / PIXELS, TRUE / BOX), strict=True):
        assert line.miou == pytest.approx(iou)
        assert line.folds == {0: pytest.approx(iou), 1: pytest.approx(iou)}
        assert line.ci95 == pytest.approx((iou, iou)), "every episode is alike"
        assert line.figures["positive_iou"] == pytest.approx(iou)
    assert board.trivial[0].figures["fb_iou"] == pytest.approx((0 + (PIXELS - TRUE) / PIXELS) / 2)
    for name in ("summary.txt", "summary.md"):
        text = (folder / name).read_text()
        assert all(line.config in text for line in board.trivial)
        assert "true box (the smallest rectangle" in " ".join(text.split()) or name == "summary.txt"
    assert "Trivial" not in (folder / "summary.json").read_text(), "one object per run"
    assert len(json.loads((folder / "summary.json").read_text())) == 7


def test_a_true_box_needs_rows_that_have_one(tmp_path):
    save(tmp_path, "old", 0.5, box=None)
    assert [line.config for line in results.read_board(tmp_path).trivial] == ["all background", "all foreground"]


def test_only_the_trivial_answers_that_are_there_are_explained(folder, tmp_path):
    def told(*lines):
        return " ".join(" ".join(results.explained(lines)).split())

    new = results.read_board(folder)
    assert "All background, all foreground and true box (the smallest" in told(*new.lines, *new.trivial)
    assert "earlier versions" not in told(*new.lines, *new.trivial)
    save(tmp_path, "old", 0.5, box=None)
    old = results.read_board(tmp_path)
    assert "All background and all foreground are what" in told(*old.lines, *old.trivial)
    assert "smallest" not in told(*old.lines, *old.trivial)
    assert "Rows of earlier versions have no true box" in told(*old.lines, *old.trivial)


def test_settings_that_ask_something_else_have_trivial_answers_of_their_own(tmp_path):
    """One protocol where other queries are asked at K = 1, one where all are the same."""
    for protocol, one in (("swaps", 100), ("clean", TRUE)):
        for n_shot, n_points in ((1, 5), (1, None), (2, None), (5, None)):
            true = one if n_shot == 1 else TRUE
            run = f"{protocol}-{n_shot}-{n_points}"
            changes = {"protocol": protocol, "n_shot": n_shot, "n_points": n_points, "run": run}
            save(tmp_path, "m", 0.5, true=true, **changes)
    board = results.summarise(tmp_path)
    own = [line for line in board.trivial if line.config == "all foreground"]
    assert [(line.protocol, line.given) for line in own] == [
        ("clean", ("", "")),
        ("swaps", ("1", "5, dense")),
        ("swaps", ("2, 5", "dense")),
    ]
    assert [line.miou for line in own] == pytest.approx([TRUE / PIXELS, 100 / PIXELS, TRUE / PIXELS])
    heads, body = results.cells([*board.lines, *board.trivial])
    shown = [row[heads.index("K")] for row in body if row[heads.index("config")] == "all foreground"]
    assert shown == ["", "1", "2, 5"]
    assert "Those of one K or P are of the settings with it" in (tmp_path / "summary.md").read_text()


def test_trivial_answers_are_told_apart_by_what_folds_have_in_common(tmp_path):
    """A setting of fewer folds asks the same if it does in these."""
    for n_shot, folds in ((1, (0,)), (5, (0, 1))):
        for fold in folds:
            save(tmp_path, "m", 0.5, fold, n_shot=n_shot, run=f"m-{n_shot}-{fold}")
    trivial = results.read_board(tmp_path).trivial
    assert [line.given for line in trivial] == [("", "")] * 3
    assert [sorted(line.folds) for line in trivial] == [[0, 1]] * 3


def test_trivial_answers_know_nothing_of_presence(tmp_path):
    for fold in (0, 1):
        save(tmp_path, "m", 0.5, fold, absent=30)
    background, foreground, box = (line.figures for line in results.read_board(tmp_path).trivial)
    assert (background["false_alarm"], background["false_alarm_area"], background["miou_present"]) == (0, 0, 0)
    assert (foreground["false_alarm"], foreground["false_alarm_area"]) == (1, 1)
    assert foreground["miou_present"] == pytest.approx(TRUE / PIXELS)
    assert background["presence_accuracy"] == foreground["presence_accuracy"] == 0.5
    assert (box["presence_accuracy"], box["false_alarm"]) == (1, 0)
    save(tmp_path, "m", 0.5)
    save(tmp_path, "m", 0.5, 1)
    assert "false_alarm" not in results.read_board(tmp_path).trivial[0].figures


def test_trivial_answers_have_a_score_for_every_class(folder, tmp_path):
    board = results.read_board(folder)
    for line, iou in zip(board.trivial, (0, TRUE / PIXELS, TRUE / BOX), strict=True):
        assert line.per_class_iou == pytest.approx(dict.fromkeys(("c0", "c1", "c2", "c3"), iou))
    save(tmp_path, "m", 0.5)
    path = tmp_path / "m-0-0" / "metrics.json"
    figures = json.loads(path.read_text())
    swapped = dict(zip(("c1", "c0"), reversed(figures["per_class_iou"].values()), strict=True))
    path.write_text(json.dumps({**figures, "per_class_iou": swapped}))
    assert results.read_board(tmp_path).trivial[0].per_class_iou == {}, "names that are not in the order of ids"


def test_trivial_answers_are_those_of_the_same_episodes(tmp_path):
    """Of one class with large and one with small objects: the mean over classes, not over episodes."""
    rows = [Row(0, "a", "s", 1, 0, 0, 90, 10), Row(1, "b", "s", 1, 0, 0, 50, 50), Row(2, "c", "s", 2, 0, 9, 10, 81)]
    setting = {"method": "M", "config": "m", "dataset": "d", "task": "semantic", "protocol": "clean", "fold": 0}
    setting |= {"n_shot": 5, "n_points": 3, "seed": 4, "run": "m"}
    results.finish_run(tmp_path / "m", {}, rows, {**setting, **score(pd.DataFrame(rows), NAMES, (1, 2))})
    _, foreground = results.read_board(tmp_path).trivial
    assert foreground.miou == pytest.approx((140 / 200 + 10 / 100) / 2)
    assert foreground.miou == pytest.approx(mean_iou([1, 1, 2], [90, 50, 10], [10, 50, 90], [0, 0, 0]))


def test_seeds_and_episodes_are_told_apart(tmp_path):
    for seed, quality in enumerate((0.5, 0.6, 0.7)):
        save(tmp_path, "moves", quality, seed=seed, noise=1)
        save(tmp_path, "stays", 0.6, seed=0 if seed == 0 else seed, noise=1)
    figures = {line.config: line.figures for line in results.read_board(tmp_path).lines}
    assert figures["moves"]["sd_seeds"] == pytest.approx(0.09, abs=0.02)
    assert figures["stays"]["sd_seeds"] < 0.005
    for one in figures.values():
        assert 0.01 < one["sd_episodes"] < 0.04
        assert one["sd_both"] < 0.01
    text = " ".join((results.summarise(tmp_path), (tmp_path / "summary.md").read_text())[1].split())
    assert "sd seeds | sd episodes | sd both" in text
    assert (
        "Sd seeds: standard deviation of one training's mIoU from seed to seed; sd episodes: from one draw of query"
        in text
    )
    assert "below 0 counts as 0" in text
    heads, body = results.cells(results.read_board(tmp_path).lines)
    assert {row[heads.index("seeds")] for row in body} == {"3"}


def test_every_setting_is_resampled_once(folder, monkeypatch):
    read = []
    monkeypatch.setattr(results.resampling, "read_rows", lambda path: read.append(path) or results.read_rows(path))
    results.board._read.cache_clear()
    for _ in range(3):
        results.read_board(folder)
    assert len(read) == 7


def test_the_plan_says_how_many_folds_there_are(folder, tmp_path):
    results.write_json(tmp_path / "plan.json", {"n_folds": 2})
    save(tmp_path, "m", 0.5)
    assert results.read_board(tmp_path).lines[0].note == "partial (fold 0 of 2)"


def test_a_leaderboard_can_be_read_by_programs(folder):
    board = results.summarise(folder)
    found = json.loads((folder / "leaderboard.json").read_text())
    assert [line["config"] for line in found["lines"]] == [line.config for line in board.lines]
    good = next(line for line in found["lines"] if line["config"] == "good")
    assert good["rank"] == {"low": 1, "high": 2, "group": 1, "ties": "A"}
    assert (good["ranked_by"], good["n_clusters"], good["n_seeds"]) == ("miou", 60, 1)
    assert good["runs"] == ["good-0-0", "good-1-0"]
    partial = next(line for line in found["lines"] if line["config"] == "partial")
    assert partial["rank"] is None
    assert partial["note"] == "partial (fold 0 of 2)"
    assert [line["config"] for line in found["trivial"]] == ["all background", "all foreground", "true box"]
    assert found["trivial"][2]["miou"] == pytest.approx(TRUE / BOX)
    assert found["trivial"][2]["trivial"] is True
    assert {"figures", "ci95", "folds", "per_class_iou", "given", "jf_ci95", "clicks"} < found["lines"][0].keys()


def test_images_that_only_some_runs_have_are_resampled_without_a_warning(tmp_path, recwarn):
    """Runs of different images: a replicate may hold none of one of them."""
    for seed, places in ((0, range(2)), (1, range(2, 20))):
        rows = [Row(i, f"q{i}", "s", 1, 50 + i, 20, 50 - i, 80) for i in places]
        setting = {"method": "M", "config": "m", "dataset": "d", "task": "semantic", "protocol": "clean", "fold": 0}
        setting |= {"n_shot": 1, "n_points": None, "seed": seed, "run": f"m{seed}"}
        results.finish_run(tmp_path / f"m{seed}", {}, rows, {**setting, **score(pd.DataFrame(rows), NAMES, (1,))})
    rows = results.collect(tmp_path)
    drawn = results.resampling.resample(rows, tmp_path)
    assert not [one for one in recwarn if issubclass(one.category, RuntimeWarning)]
    for run in rows:
        own = drawn[run["run"]].miou
        assert len(own) == 1000
        assert np.isfinite(own).all()
        assert own.std() > 0
    assert drawn["m0"].miou.min() == pytest.approx(50 / 120)
    assert drawn["m0"].miou.max() == pytest.approx(51 / 120), "only its own images"
    (line,) = results.read_board(tmp_path).lines
    assert line.ci95[0] < line.miou < line.ci95[1]
    assert line.figures["sd_seeds"] > 0


def write_curve(out, training, text):
    results.write_text(out / "trainings" / training / "curve.csv", text)


def test_a_run_that_finishes_meanwhile_is_not_vouched_for(tmp_path, monkeypatch):
    save(tmp_path, "early", 0.5)
    collect = results.board.collect

    def slowly(out):
        found = collect(out)
        save(tmp_path, "late", 0.5)
        return found

    monkeypatch.setattr(results.board, "collect", slowly)
    assert [line.config for line in results.summarise(tmp_path).lines] == ["early"]
    assert not results.is_current(tmp_path, "summary")
    monkeypatch.undo()
    assert [line.config for line in results.summarise(tmp_path).lines] == ["early", "late"]
    assert results.is_current(tmp_path, "summary")


def test_what_has_not_changed_is_current(folder, tmp_path):
    for run in folder.iterdir():
        if run.is_dir():
            (tmp_path / run.name).mkdir()
            for file in ("metrics.json", "episodes.parquet"):
                (tmp_path / run.name / file).write_bytes((run / file).read_bytes())
    assert not results.is_current(tmp_path, "summary")
    results.summarise(tmp_path)
    assert results.is_current(tmp_path, "summary")
    assert not results.is_current(tmp_path, "report")
    path = tmp_path / "bad-1-0" / "metrics.json"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert not results.is_current(tmp_path, "summary")
    results.summarise(tmp_path)
    write_curve(tmp_path, "one", "1,0.5")
    assert not results.is_current(tmp_path, "summary"), "the page shows curves"
    results.summarise(tmp_path)
    for name in ("summary.json", "summary.csv", "summary.md", "summary.txt", "leaderboard.json"):
        assert results.is_current(tmp_path, "summary")
        (tmp_path / name).unlink()
        assert not results.is_current(tmp_path, "summary"), name
        results.summarise(tmp_path)
    results.mark_current(tmp_path, "report", results.stamp(tmp_path))
    assert not results.is_current(tmp_path, "report"), "there is no page"
    (tmp_path / "report.html").write_text("page")
    assert results.is_current(tmp_path, "report")
    results.write_json(tmp_path / "plan.json", {"runs": ["good-0-0"], "n_folds": 2})
    assert not results.is_current(tmp_path, "summary")
    assert [row["config"] for row in results.summarise(tmp_path).rows] == ["good"]
