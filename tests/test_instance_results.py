"""What runs that asked for instances leave on disk: figures, lines, comparisons and tables."""

import json

import numpy as np
import pandas as pd
import pytest

from fewseg import results
from fewseg.episode import Row
from fewseg.functional.instance_figures import resampled_ap50
from fewseg.functional.ranking import variance_split
from fewseg.functional.run_figures import final_rows, score
from fewseg.results import (
    compare,
    comparison_table,
    finish_run,
    in_words,
    leaderboard,
    read_rows,
    summarise,
    table,
    write_json,
    write_rows,
)

NAMES = ("cat", "dog", "hat", "owl")
AP = ("ap50_boxes", "ap50", "ap_boxes", "ap")


def rows_of(fold=0, luck=0.5, lists=1, n_images=15, seed=0):
    """Searches for the two classes of a fold in every image; each object is found with a probability of ``luck``.

    Equal seeds draw equal scenes, and more luck finds at least the same.
    """
    random, rows, shown = np.random.RandomState(10 * fold + seed), [], {}
    classes = (2 * fold + 1, 2 * fold + 2)
    for i in range(n_images):
        shown[f"q{i}"] = dict(zip(classes, random.randint(1, 4, 2).tolist(), strict=True))
    for number in range(lists * n_images * 2):
        query, c = f"q{number // 2 % n_images}", classes[number % 2]
        truth = " ".join(f"{one}:{n}" for one, n in shown[query].items())
        n = shown[query][c]
        seconds = {"seconds_encode": 0.2, "seconds_guide": 0.1, "seconds_segment": 0.3}
        asked = Row(number, query, f"s{number}", c, 60 * n, 20 * n, 40 * n, 900, truth=truth, **seconds)
        rows.append(asked)
        for rank in range(1, n + 1):
            right, scored = random.rand(2)
            boxes, masks = (1 if right < chance else 0 for chance in (luck, 0.8 * luck))
            one = asked._replace(object_id=rank, score=0.5 + 0.5 * scored if boxes else scored, truth=None)
            one = one._replace(tp=60, fp=20, fn=100 * n - 60, matched_boxes=boxes, matched_masks=masks)
            one = one._replace(ignored_boxes=0, ignored_masks=0, matched_classes=str(c) if boxes else None)
            rows.append(one._replace(**dict.fromkeys(seconds)))
    return rows


def scored(rows, fold=0, repeats=1):
    return score(pd.DataFrame(rows), NAMES, (2 * fold + 1, 2 * fold + 2), repeats)


def save(out, config, fold=0, luck=0.5, repeats=1, rows=None, **extra):
    rows = rows_of(fold, luck, repeats) if rows is None else rows
    keys = {"method": "SiameseMaskRCNN", "config": config, "dataset": "coco-one-shot", "task": "instance"}
    keys |= {"protocol": "one-shot", "fold": fold, "n_shot": 1, "n_points": None, "seed": 0}
    keys |= {"episode_list_sha256": f"list{fold}"}
    name = f"{config}-{extra.get('protocol', '')}{fold}-{extra.get('seed', 0)}"
    finish_run(out / name, {}, rows, {**keys, **scored(rows, fold, repeats), **extra})


def test_detections_count_in_ap_and_episodes_in_everything_else():
    rows = rows_of()
    asked = [row for row in rows if row.score is None]
    frame = pd.DataFrame(rows)
    assert final_rows(frame)["episode"].tolist() == [row.episode for row in asked]
    figures = scored(rows)
    n_objects = sum(row.tp // 60 for row in asked)
    assert figures["n_episodes"] == len(asked) == 30
    assert figures["n_objects"] == n_objects == len(rows) - len(asked)
    assert figures["miou"] == figures["positive_iou"] == pytest.approx(60 / 120)
    assert figures["per_class_iou"] == pytest.approx({"cat": 0.5, "dog": 0.5})
    assert figures["seconds_per_episode"] == pytest.approx(0.6)  # no detection counts again
    assert figures["seconds_encode"] == pytest.approx(0.2)
    assert 0 < figures["ap50"] < figures["ap50_boxes"] < 1
    assert figures["ap50_boxes_ci95"][0] < figures["ap50_boxes"] < figures["ap50_boxes_ci95"][1]


def test_figures_are_the_same_from_disk(tmp_path):
    rows = rows_of(lists=3)
    write_rows(tmp_path / "r.parquet", rows)
    figures = score(read_rows(tmp_path / "r.parquet"), NAMES, (1, 2), 3)
    assert figures == scored(rows, repeats=3)
    json.dumps(figures, allow_nan=False)


def test_lists_of_references_are_means_of_all_figures():
    rows = rows_of(lists=2)
    each = [scored([row for row in rows if row.episode // 30 == place]) for place in (0, 1)]
    figures = scored(rows, repeats=2)
    for name in (*AP, "miou"):
        assert figures[name] == pytest.approx(np.mean([one[name] for one in each])), name
    assert figures["ap50_std"] == pytest.approx(np.std([one["ap50"] for one in each]))
    assert figures["ap50_std"] > 0
    assert figures["miou_std"] == 0
    assert figures["n_objects"] == 2 * each[0]["n_objects"]


def test_other_tasks_have_no_figures_of_instances():
    figures = score(pd.DataFrame([Row(0, "a", "s", 1, 3, 1, 1, 3)]), NAMES, (1,))
    assert not [name for name in figures if name.startswith("ap") or name in ("clutter", "n_repeats", "n_objects")]


def test_a_line_in_the_terminal():
    figures = scored(rows_of(lists=2), repeats=2)
    low, high = figures["ap50_boxes_ci95"]
    expected = "  AP50 boxes {ap50_boxes:.3f} [{low:.3f}, {high:.3f}] std {ap50_boxes_std:.3f}  AP50 masks {ap50:.3f}"
    assert in_words(figures).startswith(expected.format(**figures, low=low, high=high))
    assert " std " not in in_words(scored(rows_of()))


def test_a_run_is_a_line_with_its_own_interval(tmp_path):
    save(tmp_path, "siamese", n_folds=4)
    rows = summarise(tmp_path).rows
    (line,) = leaderboard(rows, tmp_path)
    for name in AP:
        assert line.figures[name] == rows[0][name]
    assert line.ap50_ci95 == tuple(rows[0]["ap50_ci95"])
    assert line.ap50_boxes_ci95 == tuple(rows[0]["ap50_boxes_ci95"])
    heads, (cells,) = results.cells([line])
    shown = dict(zip(heads, cells, strict=True))
    assert list(shown) == [
        *("config", "protocol", "K", "AP50 boxes", "95 % of boxes", "AP50 masks", "95 % of masks"),
        *("AP boxes", "AP masks", "mIoU", "s/episode", "s/update", "note"),
    ]
    assert shown["AP50 masks"] == f"{rows[0]['ap50']:.3f}"
    assert shown["95 % of masks"] == "{:.3f} to {:.3f}".format(*rows[0]["ap50_ci95"])
    assert shown["note"] == "partial (fold 0 of 4)"
    assert table(leaderboard(rows, tmp_path)).split()[:3] == ["config", "protocol", "K"]
    frame = pd.read_csv(tmp_path / "summary.csv")
    assert frame[["ap50_ci95_low", "ap50_ci95_high"]].to_numpy()[0].tolist() == pytest.approx(rows[0]["ap50_ci95"])
    assert json.loads(frame["clutter"][0]) == rows[0]["clutter"]
    text = " ".join((tmp_path / "summary.md").read_text().split())
    assert "AP50: average precision of COCO's evaluator at IoU 0.5" in text
    assert "K: references" in text
    assert "annotated images" not in text


def test_folds_and_seeds_are_averaged_and_have_one_interval(tmp_path):
    for fold, luck in ((0, 0.3), (1, 0.7)):
        for seed in (0, 1):
            save(tmp_path, "siamese", seed=seed, fold=fold, rows=rows_of(fold, luck + 0.1 * seed, 2), repeats=2)
    rows = summarise(tmp_path).rows
    (line,) = leaderboard(rows, tmp_path)
    assert line.figures["ap50"] == pytest.approx(np.mean([row["ap50"] for row in rows]))
    frames = [read_rows(tmp_path / row["run"] / "episodes.parquet") for row in rows]
    replicates = resampled_ap50(frames, [0, 0, 1, 1], [2] * 4)[0].mean(axis=1)
    assert line.ap50_boxes_ci95 == pytest.approx(tuple(np.percentile(replicates[:, 0], (2.5, 97.5))))
    assert line.ap50_ci95 == pytest.approx(tuple(np.percentile(replicates[:, 1], (2.5, 97.5))))
    assert line.ap50_ci95[0] < line.figures["ap50"] < line.ap50_ci95[1]
    assert line.ap50_ci95[1] - line.ap50_ci95[0] < max(row["ap50_ci95"][1] - row["ap50_ci95"][0] for row in rows)
    heads, (cells,) = results.cells([line])
    boxes, masks = (np.mean([row[name] for row in rows[:2]]) for name in ("ap50_boxes", "ap50"))
    assert cells[heads.index("fold 0")] == f"{boxes:.3f} / {masks:.3f}"
    assert "std over seeds" not in heads
    assert leaderboard(rows)[0].ap50_ci95 is None  # without rows


def test_ap50_of_boxes_is_split_into_seeds_and_episodes(tmp_path):
    for seed, quality in ((0, 0.5), (1, 0.8)):
        save(tmp_path, "siamese", 0, quality, seed=seed)
    rows = summarise(tmp_path).rows
    (line,) = leaderboard(rows, tmp_path)
    drawn = results.resampling.resample(rows, tmp_path)
    split = variance_split(np.stack([drawn[row["run"]].ap50[:, 0] for row in rows], axis=1))
    assert [line.figures[name] for name in ("sd_seeds", "sd_episodes", "sd_both")] == pytest.approx([*split])
    heads, (cells,) = results.cells([line])
    assert cells[heads.index("sd seeds")] == f"{split.seeds:.3f}"
    assert cells[heads.index("seeds")] == "2"
    told = " ".join((tmp_path / "summary.md").read_text().split())
    assert "one training's AP50 of boxes from seed to seed; sd episodes: from one draw of query images" in told


def test_replicates_without_an_object_do_not_stop_ranks_and_splits(tmp_path):
    rows = rows_of(n_images=20)
    lone = [row if row.query == "q0" else row._replace(truth="") for row in rows if row.score is None]
    for config in ("a", "b"):
        for seed in (0, 1):
            save(tmp_path, config, rows=[*lone], seed=seed)
    drawn = results.resampling.resample(results.collect(tmp_path), tmp_path)
    assert all(np.isnan(one.ap50).any() for one in drawn.values())
    board = results.read_board(tmp_path)
    assert [line.rank for line in board.lines] == [(1, 2, 1), (1, 2, 1)]


def test_an_ap_that_rows_do_not_give_has_no_interval(tmp_path):
    save(tmp_path, "siamese")
    save(tmp_path, "siamese", fold=1, ap50=0.123)
    (line,) = leaderboard(summarise(tmp_path).rows, tmp_path)
    assert line.ap50_boxes_ci95 is line.ap50_ci95 is None
    assert line.figures["ap50"] > 0


def test_images_and_instances_in_one_table(tmp_path):
    save(tmp_path, "siamese")
    row = {"method": "M", "config": "c", "dataset": "coco", "task": "semantic", "protocol": "clean", "fold": 0}
    row |= {"seed": 0, "n_shot": 1, "n_points": None, "miou": 0.5}
    lines = leaderboard([*summarise(tmp_path).rows, row])
    heads, body = results.cells(lines)
    assert [bool(cells[heads.index("AP50 masks")]) for cells in body] == [False, True]
    assert [bool(cells[heads.index("mIoU")]) for cells in body] == [True, True]
    told = " ".join(" ".join(results.explained(lines)).split())
    assert "AP50: average precision" in told
    assert "annotated images" in told


def test_ap50_is_compared_over_the_same_images(tmp_path):
    for fold in (0, 1):
        save(tmp_path, "base", fold, 0.4)
        save(tmp_path, "better", fold, 0.8)
        save(tmp_path, "twin", fold, 0.4)
        save(tmp_path, "near", fold, 0.45)
    write_json(tmp_path / "plan.json", {"compare": {"reference": "base"}})
    rows = summarise(tmp_path).rows
    lines = {line.config: line for line in leaderboard(rows, tmp_path)}
    found = {one.config: one for one in compare(rows, tmp_path, "base")}
    for config, one in found.items():
        expected = lines[config].figures["ap50_boxes"] - lines["base"].figures["ap50_boxes"]
        assert one.ap50_boxes_difference == pytest.approx(expected)
        assert one.ap50_boxes_ci95[0] <= one.ap50_boxes_difference <= one.ap50_boxes_ci95[1]
        assert one.ap50_difference == pytest.approx(lines[config].figures["ap50"] - lines["base"].figures["ap50"])
        assert one.difference == 0  # of mIoU
        assert one.main == ("AP50 of boxes", one.ap50_boxes_difference, one.ap50_boxes_ci95, one.ap50_boxes_seen)
    assert (found["better"].ap50_boxes_seen, found["better"].ap50_seen) == ("above", "above")
    assert found["twin"].ap50_boxes_ci95 == found["twin"].ap50_ci95 == (0, 0)
    assert found["twin"].ap50_seen == "not separated"
    low, high = found["near"].ap50_boxes_ci95
    own_low, own_high = lines["base"].ap50_boxes_ci95
    assert high - low < own_high - own_low  # paired: narrow

    frames = {row["run"]: read_rows(tmp_path / row["run"] / "episodes.parquet") for row in rows}
    means = {
        config: resampled_ap50([frames[f"{config}-{fold}-0"] for fold in (0, 1)], [0, 1], [1, 1])[0].mean(axis=1)
        for config in ("base", "better")
    }
    apart = np.percentile(means["better"] - means["base"], (2.5, 97.5), axis=0).T
    assert found["better"].ap50_boxes_ci95 == pytest.approx(apart[0])
    assert found["better"].ap50_ci95 == pytest.approx(apart[1])

    written = {one["config"]: one for one in json.loads((tmp_path / "comparisons.json").read_text())}
    assert written["better"]["ap50_boxes_seen"] == written["better"]["ap50_seen"] == "above"
    assert written["better"]["ap50_boxes_ci95"] == pytest.approx(found["better"].ap50_boxes_ci95)
    heads = comparison_table(results.comparisons(rows, tmp_path, "base")).splitlines()[0]
    assert " ".join(heads.split()) == (
        "config K boxes minus base 95 % paired interval of boxes boxes seen "
        "masks minus base 95 % paired interval of masks masks seen"
    )
    text = " ".join((tmp_path / "summary.md").read_text().split("## Compared with base")[1].split())
    assert "Difference of AP50 of boxes and of masks to the reference" in text
    assert "draws the same query images for both" in text
    alone = compare(rows, None, "base")
    assert [one.ap50_ci95 for one in alone] == [None] * 3
    assert alone[0].ap50_difference == found["better"].ap50_difference


def test_protocols_have_lines_of_their_own(tmp_path):
    save(tmp_path, "siamese")
    save(tmp_path, "siamese", protocol="one-shot-base", rows=rows_of(luck=0.9))
    novel, base = leaderboard(summarise(tmp_path).rows, tmp_path)
    assert (novel.protocol, base.protocol) == ("one-shot", "one-shot-base")
    assert base.figures["ap50_boxes"] > novel.figures["ap50_boxes"]
