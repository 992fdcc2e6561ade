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


def save(out, config, quality, fold=0, seed=0, n=60, noise=30, **changes):
    """A finished run of ``n`` episodes on as many images; the same images are hard for every configuration."""
    classes = [2 * fold + 1, 2 * fold + 2]
    hard, own = np.random.RandomState(fold), np.random.RandomState(zlib.crc32(f"{config} {seed}".encode()))
    found = np.clip(TRUE * quality + 40 * hard.randn(n) + noise * own.randn(n), 0, TRUE).astype(int).tolist()
    rows = [
        Row(i, f"q{i}", "s", classes[i % 2], tp, 20, TRUE - tp, PIXELS - TRUE - 20, box=changes.get("box", BOX))
        for i, tp in enumerate(found)
    ]
    setting = {"method": "PANet", "config": config, "dataset": "d", "task": "semantic", "protocol": "clean"}
    setting |= {"fold": fold, "n_shot": 1, "n_points": None, "seed": seed, "episode_list_sha256": f"list{fold}"}
    setting |= {"run": f"{config}-{fold}-{seed}", "training": f"{config}-{seed}", "n_folds": 2}
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
    assert "Sd seeds: standard deviation" in text


def test_every_setting_is_resampled_once(folder, monkeypatch):
    read = []
    monkeypatch.setattr(results.resampling, "read_rows", lambda path: read.append(path) or results.read_rows(path))
    results.board._read.cache_clear()
    for _ in range(3):
        results.read_board(folder)
    assert len(read) == 7


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
    results.write_json(tmp_path / "plan.json", {"runs": ["good-0-0"], "n_folds": 2})
    assert not results.is_current(tmp_path, "summary")
    assert [row["config"] for row in results.summarise(tmp_path).rows] == ["good"]
