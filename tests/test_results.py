import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fewseg import results
from fewseg.episode import Row
from fewseg.errors import FewsegError
from fewseg.functional.iou import bootstrap_ious, mean_iou
from fewseg.functional.run_figures import score
from fewseg.results import (
    atomic,
    compare,
    comparison_table,
    content_id,
    finish_run,
    is_done,
    leaderboard,
    read_rows,
    summarise,
    table,
    write_json,
    write_rows,
    write_text,
)

# the hand vectors A, B (class 1) and C (class 2)
ROWS = [
    Row(0, "a", "s t", 1, 3, 1, 1, 3, seconds_encode=0.5, seconds_guide=0.1, seconds_segment=0.2),
    Row(1, "b", "s t", 1, 1, 1, 0, 6, seconds_encode=0.7, seconds_guide=0.3, seconds_segment=0.2),
    Row(2, "c", "s t", 2, 0, 0, 1, 7, seconds_encode=0.6, seconds_guide=0.2, seconds_segment=0.2),
]
NAMES = ("cat", "dog", "hat", "owl")


def random_rows(n: int, classes: list[int], seed: int) -> list[Row]:
    random = np.random.RandomState(seed)
    size, share = random.randint(100, 1000, n), random.rand(n)
    tp = (size * share).astype(int).tolist()
    return [
        Row(
            i,
            f"q{random.randint(max(1, n // 3))}",
            "s",
            classes[i % len(classes)],
            tp[i],
            50,
            int(size[i]) - tp[i],
            5000,
        )
        for i in range(n)
    ]


def save(out: Path, config: str, fold: int, seed: int = 0, n: int = 40, name: str = "", **extra) -> list[Row]:
    """One finished run of a benchmark with two folds of two classes."""
    classes = [2 * fold + 1, 2 * fold + 2]
    rows = random_rows(n, classes, 10 * fold + seed)
    where = out / (name or content_id({"config": config, "fold": fold, "seed": seed}))
    keys = {"method": "PANet", "config": config, "dataset": "shapes5i", "task": "semantic", "protocol": "clean"}
    setting = {"fold": fold, "n_shot": 1, "n_points": None, "seed": seed, "versions": {"fewseg": "0.1.0"}}
    frame = pd.DataFrame(rows)
    finish_run(where, {"fold": fold}, rows, {**keys, **setting, **score(frame, NAMES, classes), **extra})
    return rows


def test_content_id_is_eight_hex_digits_of_the_content():
    first = content_id({"lr": 0.1, "model": {"name": "PANet", "k": (1, 5)}})
    assert first == content_id({"model": {"k": [1, 5], "name": "PANet"}, "lr": np.float64(0.1)})
    assert first != content_id({"lr": 0.1, "model": {"name": "PANet", "k": [1, 6]}})
    assert len(first) == 8
    assert int(first, 16) >= 0


def test_rows_round_trip(tmp_path):
    of_instances = ("1:2 17:1", 6, 7, 8, 9, "1 17")
    full = Row(
        3, "ü", "s", 2, 1, 2, 3, 4, 5, 6, 7, 8, False, 9, 10, 11, 12, 0.5, 0.1, 0.2, 0.3, 0.4, 0.5, *of_instances, 42
    )
    write_rows(tmp_path / "episodes.parquet", [*ROWS, full])
    frame = read_rows(tmp_path / "episodes.parquet")
    assert list(frame.columns) == list(Row._fields)
    assert [Row(*line) for line in frame.iloc[3:].itertuples(index=False)] == [full]
    assert frame.dtypes["tp"] == "int64"
    assert frame.dtypes["click"] == "Int64"
    for name in ("click", "truth", "matched_boxes", "matched_classes"):
        assert frame[name].isna().tolist() == [True, True, True, False]
    assert {"tp", "fp", "fn", "tn"} <= set(pd.read_parquet(tmp_path / "episodes.parquet").columns)


def test_no_rows_round_trip(tmp_path):
    write_rows(tmp_path / "r.parquet", [])
    assert read_rows(tmp_path / "r.parquet").empty


def test_a_missing_required_count_is_an_error(tmp_path):
    with pytest.raises(pa.ArrowInvalid):
        write_rows(tmp_path / "r.parquet", [ROWS[0]._replace(tp="many")])
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_schema_are_refused(tmp_path):
    pq.write_table(pa.table({"tp": [1]}), tmp_path / "r.parquet")
    with pytest.raises(FewsegError, match=r"row schema none, expected 1 or 2 or 3"):
        read_rows(tmp_path / "r.parquet")


def test_rows_from_before_instances_are_read(tmp_path):
    write_rows(tmp_path / "new.parquet", ROWS)
    new = pq.read_table(tmp_path / "new.parquet")
    added = [name for name in Row._fields if name.startswith(("truth", "matched_", "ignored_", "box"))]
    assert len(added) == 7
    old = new.drop_columns(added).replace_schema_metadata({"fewseg_row_schema": "1"})
    pq.write_table(old, tmp_path / "old.parquet")
    frame = read_rows(tmp_path / "old.parquet")
    assert list(frame.columns) == list(Row._fields)
    assert frame[added].isna().all(axis=None)
    assert score(frame, NAMES, (1, 2)) == score(pd.DataFrame(ROWS), NAMES, (1, 2))


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "metrics.json"
    write_json(path, {"miou": 0.5})

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(TypeError, match="plain data"):
        write_json(path, {"miou": object()})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"miou": float("nan")})
    assert json.loads(path.read_text()) == {"miou": 0.5}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_json_takes_numpy(tmp_path):
    write_json(tmp_path / "a.json", {"n": np.int64(3), "x": np.float32(0.5), "v": np.arange(2), "p": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 3, "x": 0.5, "v": [0, 1], "p": str(tmp_path)}


def test_score_by_hand():
    figures = score(pd.DataFrame(ROWS), NAMES, (1, 2))
    assert figures["miou"] == pytest.approx(2 / 7)
    assert figures["fb_iou"] == pytest.approx(0.65)
    assert figures["positive_iou"] == 0.5
    assert figures["per_class_iou"] == pytest.approx({"cat": 4 / 7, "dog": 0.0})
    assert figures["ci95"][0] <= figures["miou"] <= figures["ci95"][1]
    assert figures["n_episodes"] == 3
    assert figures["seconds_encode"] == pytest.approx(0.6)
    assert figures["seconds_guide"] == pytest.approx(0.2)
    assert figures["seconds_per_episode"] == pytest.approx(1.0)
    assert "seconds_robot" not in figures


def test_repeated_lists_are_scored_one_by_one():
    first = [Row(0, "a", "s", 1, 3, 1, 1, 3), Row(1, "b", "s", 2, 0, 0, 1, 7)]  # IoU .6 and 0
    second = [Row(2, "a", "s", 1, 1, 1, 0, 6), Row(3, "b", "s", 2, 1, 0, 1, 6)]  # IoU .5 and .5
    figures = score(pd.DataFrame(first + second), NAMES, (1, 2), repeats=2)
    assert figures["miou"] == pytest.approx((0.3 + 0.5) / 2)
    assert figures["miou_std"] == pytest.approx(0.1)
    assert figures["per_class_iou"] == pytest.approx({"cat": 0.55, "dog": 0.25})
    assert figures["ci95"][0] <= figures["miou"] <= figures["ci95"][1]


def test_score_is_the_same_from_disk(tmp_path):
    write_rows(tmp_path / "r.parquet", ROWS)
    assert score(read_rows(tmp_path / "r.parquet"), NAMES, (1, 2)) == score(pd.DataFrame(ROWS), NAMES, (1, 2))


def test_score_counts_the_last_click_only():
    clicks = [Row(e, "q", "s", 1, tp=2 * c, fp=0, fn=10 - 2 * c, tn=0, click=c) for e in (0, 1) for c in (1, 2, 3 + e)]
    figures = score(pd.DataFrame(clicks), NAMES, (1,))
    assert figures["miou"] == pytest.approx((6 + 8) / 20)
    assert figures["n_episodes"] == 2


def clicked(ious: dict[int, list[float]], first: int = 0, **seconds: float) -> list[Row]:
    """Rows of objects of 100 pixels: number -> IoU after each click."""
    return [
        Row(first + e, f"q{first + e}", "", 1, round(100 * iou), 0, 100 - round(100 * iou), 50, 1, click=k, **seconds)
        for e, own in ious.items()
        for k, iou in enumerate(own, 1)
    ]


def test_clicks_until_an_iou():
    """Vectors of the code of f-BRS: IoUs .5 .86 .91 and .2 .4, at most 20 clicks."""
    figures = score(pd.DataFrame(clicked({0: [0.5, 0.86] + [0.91] * 18, 1: [0.2] + [0.4] * 19})), NAMES, (1,))
    assert figures["n_clicks"] == 20
    assert (figures["noc80"], figures["noc85"], figures["noc90"]) == (11, 11, 11.5)
    assert (figures["over_limit80"], figures["over_limit85"], figures["over_limit90"]) == (1, 1, 1)
    assert figures["iou_at"][:3] == pytest.approx([0.35, 0.63, 0.655])
    assert figures["iou_at"][19] == pytest.approx((0.91 + 0.4) / 2)
    assert figures["miou"] == figures["positive_iou"] == pytest.approx((91 + 40) / 200)
    assert "seconds_per_click" not in figures
    assert "seconds_at" not in figures


def test_an_object_with_fewer_clicks_keeps_its_last_iou_and_waits_no_longer():
    rows = clicked({0: [0.5, 1.0]}, seconds_segment=1.0) + clicked({1: [0.2, 0.4, 0.6, 0.8]}, seconds_segment=2.0)
    figures = score(pd.DataFrame(rows), NAMES, (1,))
    assert figures["iou_at"] == pytest.approx([0.35, 0.7, 0.8, 0.9])
    assert figures["noc80"] == (2 + 4) / 2
    assert figures["over_limit80"] == 1
    assert figures["seconds_at"] == pytest.approx([1.5, 3.0, 4.0, 5.0])
    assert figures["seconds_per_click"] == pytest.approx((2 * 1 + 4 * 2) / 6)
    allowed = score(pd.DataFrame(rows), NAMES, (1,), n_clicks=5)
    assert allowed["iou_at"] == pytest.approx([0.35, 0.7, 0.8, 0.9, 0.9])
    assert (allowed["noc90"], allowed["over_limit80"], allowed["over_limit90"]) == ((2 + 5) / 2, 0, 1)
    assert allowed["seconds_at"][3:] == pytest.approx([5.0, 5.0])


def test_the_seconds_of_a_click_are_split():
    parts = {"seconds_encode": 0.1, "seconds_guide": 0.2, "seconds_segment": 0.3, "seconds_robot": 1.0}
    rows = clicked({0: [0.5, 0.6]}, **parts)
    rows = [rows[0], rows[1]._replace(seconds_refine=4.0)]
    figures = score(pd.DataFrame(rows), NAMES, (1,))
    assert figures["seconds_network_per_click"] == pytest.approx(0.6)
    assert figures["seconds_refine_per_click"] == pytest.approx(2.0)
    assert figures["seconds_robot_per_click"] == pytest.approx(1.0)
    assert figures["seconds_per_click"] == pytest.approx(3.6)
    assert figures["seconds_at"] == pytest.approx([0.6, 5.2])  # whoever clicks has no robot
    assert figures["seconds_per_episode"] == pytest.approx(2 * 1.6 + 4.0)


def test_click_figures_are_the_same_from_disk_and_one_click_has_no_noc(tmp_path):
    rows = clicked({0: [0.5, 0.9], 1: [0.1, 0.2]}, seconds_segment=0.5)
    write_rows(tmp_path / "r.parquet", rows)
    assert score(read_rows(tmp_path / "r.parquet"), NAMES, (1,)) == score(pd.DataFrame(rows), NAMES, (1,))
    figures = score(pd.DataFrame(clicked({0: [0.5], 1: [0.95]})), ("object",), (1,))
    assert figures["iou_at"] == pytest.approx([0.725])
    assert figures["per_class_iou"] == {"object": pytest.approx(0.725)}
    assert not [name for name in figures if name.startswith(("noc", "over"))]
    assert not {"iou_at", "n_clicks", "seconds_at"} & score(pd.DataFrame(ROWS), NAMES, (1, 2)).keys()


def save_clicked(out: Path, fold: int, ious: dict[int, list[float]], seed: int = 0, config: str = "fsis") -> None:
    keys = {"method": "FSIS", "config": config, "dataset": "d", "task": "interactive", "protocol": "interactive"}
    setting = {"fold": fold, "n_shot": 1, "n_points": None, "seed": seed}
    rows = clicked(ious, seconds_encode=0.1, seconds_guide=0.1, seconds_segment=0.2)
    where = out / content_id({**keys, **setting})
    finish_run(where, {}, rows, {**keys, **setting, **score(pd.DataFrame(rows), NAMES, (1,))})


def test_a_line_of_clicks_averages_seeds_and_folds(tmp_path):
    save_clicked(tmp_path, 0, {0: [0.2, 0.95], 1: [0.4, 0.6]})
    save_clicked(tmp_path, 0, {0: [0.4, 0.95], 1: [0.6, 0.8]}, seed=1)
    save_clicked(tmp_path, 1, {0: [0.8, 0.9]})
    (line,) = leaderboard(summarise(tmp_path).rows, tmp_path)
    assert line.clicks.iou == pytest.approx([((0.3 + 0.5) / 2 + 0.8) / 2, ((0.775 + 0.875) / 2 + 0.9) / 2])
    assert line.clicks.seconds == pytest.approx([0.4, 0.8])
    for iou, (low, high) in zip(line.clicks.iou, line.clicks.ci95, strict=True):
        assert low <= iou <= high
    # fold 0 has two images and fold 1 one: a replicate is one of three means at click 1, (.3, .4, .5) and .8
    assert line.clicks.ci95[0] == pytest.approx(((0.3 + 0.8) / 2, (0.5 + 0.8) / 2))
    assert line.figures["iou_at_1"] == line.clicks.iou[0]
    assert line.figures["noc90"] == pytest.approx(2.0)
    assert line.figures["over_limit90"] == 3.0  # 2 objects in fold 0, 1 in fold 1
    assert "seconds_per_update" not in line.figures
    assert leaderboard(summarise(tmp_path).rows)[0].clicks.ci95 is None
    heads, (cells,) = results.cells([line])
    shown = dict(zip(heads, cells, strict=True))
    assert (shown["IoU@1"], shown["NoC@90"], shown["over@90"], shown["s/click"]) == ("0.600", "2.00", "3", "0.4000")
    assert "IoU@5" not in shown
    text = (tmp_path / "summary.md").read_text()
    assert "IoU@k: mean over objects of the IoU after k clicks" in text
    frame = pd.read_csv(tmp_path / "summary.csv")
    assert [len(json.loads(value)) for value in frame["iou_at"]] == [2, 2, 2]


def test_the_deviation_over_seeds(tmp_path):
    common = {"method": "M", "config": "c", "dataset": "d", "task": "semantic", "protocol": "p", "n_points": None}
    values = {0: (0.2, 0.4), 1: (0.4, 0.4), 2: (0.6, 0.4)}  # means over folds .3 .4 .5
    rows = [
        {**common, "n_shot": 1, "fold": fold, "seed": seed, "miou": miou}
        for seed, folds in values.items()
        for fold, miou in enumerate(folds)
    ]
    assert leaderboard(rows)[0].figures["miou_std_seeds"] == pytest.approx(0.1)
    assert "std over seeds" in table(leaderboard(rows))
    assert "miou_std_seeds" not in leaderboard(rows[:-1])[0].figures  # a seed lacks a fold
    assert "std over seeds" not in table(leaderboard(rows[:2]))


def test_score_without_rows_or_of_another_fold_is_an_error():
    with pytest.raises(FewsegError, match=r"^rows: got none"):
        score(pd.DataFrame(ROWS).iloc[:0], NAMES, (1, 2))
    with pytest.raises(FewsegError, match=r"^class_id: got \[2\]"):
        score(pd.DataFrame(ROWS), NAMES, (1,))


def test_a_run_is_done_when_its_metrics_are_there(tmp_path):
    save(tmp_path, "panet", 0, name="done")
    assert is_done(tmp_path / "done")
    assert sorted(p.name for p in (tmp_path / "done").iterdir()) == ["config.yaml", "episodes.parquet", "metrics.json"]
    for name in ("half", "torn"):
        write_rows(tmp_path / name / "episodes.parquet", ROWS)
    (tmp_path / "torn" / "metrics.json").write_text('{"miou": 0.')
    write_json(tmp_path / "trainings" / "metrics.json", {"seconds_train": 1})
    assert not is_done(tmp_path / "half")
    assert not is_done(tmp_path / "torn")
    assert [row["run"] for row in summarise(tmp_path).rows] == ["done"]


def test_metrics_are_written_last(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(results.files, "write_text", lambda path, text: order.append(path.name))
    monkeypatch.setattr(results.files, "write_rows", lambda path, rows: order.append(path.name))
    finish_run(tmp_path, {}, ROWS, {})
    assert order == ["config.yaml", "episodes.parquet", "metrics.json"]


def test_summary_files(tmp_path):
    for fold in (1, 0):
        save(tmp_path, "panet", fold, n_folds=2)
    rows = summarise(tmp_path).rows
    assert [row["fold"] for row in rows] == [0, 1]
    assert json.loads((tmp_path / "summary.json").read_text()) == rows
    frame = pd.read_csv(tmp_path / "summary.csv")
    assert frame["miou"].tolist() == pytest.approx([row["miou"] for row in rows])
    assert (frame["ci95_low"] <= frame["miou"]).all()
    assert json.loads(frame["per_class_iou"][0]).keys() == {"cat", "dog"}
    text = (tmp_path / "summary.md").read_text()
    assert "| panet | clean | 1 | dense |" in text
    assert "partial" not in text
    before = {p.name: p.read_bytes() for p in tmp_path.glob("summary.*")}
    summarise(tmp_path)
    assert before == {p.name: p.read_bytes() for p in tmp_path.glob("summary.*")}


def test_mean_over_folds_is_the_mean_over_all_classes_and_lies_in_its_interval(tmp_path):
    rows = [row for fold in (0, 1) for row in save(tmp_path, "panet", fold)]
    (line,) = leaderboard(summarise(tmp_path).rows, tmp_path)
    class_id, tp, fp, fn = (np.array([getattr(row, name) for row in rows]) for name in ("class_id", "tp", "fp", "fn"))
    assert line.miou == pytest.approx(mean_iou(class_id, tp, fp, fn))
    assert line.ci95 is not None
    assert line.ci95[0] < line.miou < line.ci95[1]
    assert list(line.per_class_iou) == list(NAMES)
    assert line.n_episodes == 80


def test_more_folds_narrow_the_interval_of_the_mean(tmp_path):
    for fold in (0, 1):
        save(tmp_path, "panet", fold)
    rows = summarise(tmp_path).rows
    (line,) = leaderboard(rows, tmp_path)
    assert line.ci95 is not None
    assert line.ci95[1] - line.ci95[0] < max(row["ci95"][1] - row["ci95"][0] for row in rows)


def test_seeds_are_averaged_within_their_fold(tmp_path):
    for fold, seed in ((0, 0), (0, 1), (1, 0)):
        save(tmp_path, "panet", fold, seed)
    rows = summarise(tmp_path).rows
    (line,) = leaderboard(rows, tmp_path)
    found = [row["miou"] for row in rows]
    assert line.folds == pytest.approx({0: (found[0] + found[1]) / 2, 1: found[2]})
    assert line.miou == pytest.approx((line.folds[0] + line.folds[1]) / 2)
    assert line.ci95 is not None
    assert line.ci95[0] < line.miou < line.ci95[1]
    assert line.n_seeds == 1
    assert line.note == "partial (folds differ in seeds)"


def test_an_interval_of_another_number_is_not_shown(tmp_path):
    save(tmp_path, "panet", 0)
    save(tmp_path, "panet", 1, miou=0.123)
    (line,) = leaderboard(summarise(tmp_path).rows, tmp_path)
    assert line.ci95 is None


@pytest.mark.parametrize(
    ("folds", "note"),
    [((0, 2), "partial (folds 0, 2 of 4)"), ((1,), "partial (fold 1 of 4)"), ((0, 1, 2, 3), "")],
)
def test_a_partial_benchmark_says_so(folds, note):
    common = {"method": "PANet", "config": "p", "dataset": "d", "task": "semantic", "protocol": "clean", "seed": 0}
    rows = [{**common, "n_shot": 1, "n_points": 5, "fold": fold, "miou": 0.5} for fold in folds]
    (line,) = leaderboard(rows, folds_expected=4)
    assert line.note == note
    assert (note in table(leaderboard(rows, folds_expected=4))) or not note
    assert leaderboard([{**row, "n_folds": 4} for row in rows])[0].note == note


def test_two_versions_of_one_run_are_named(tmp_path):
    save(tmp_path, "panet", 0, name="old")
    save(tmp_path, "panet", 0, name="new")
    assert leaderboard(summarise(tmp_path).rows, tmp_path)[0].note == "mixed (several runs of one fold and seed)"


def test_tables_show_the_figures_of_other_tasks():
    common = {"method": "OSVOS", "config": "osvos", "dataset": "davis", "task": "video", "protocol": "davis17"}
    row = {**common, "seed": 0, "n_shot": 1, "n_points": None, "fold": 0, "j_mean": 0.5, "f_mean": 0.6}
    text = table(leaderboard([row]))
    assert text.splitlines()[0].split() == ["config", "K", "P", "J", "F"]
    assert "0.500  0.600" in text


def test_settings_are_sorted_with_dense_last():
    common = {"method": "PANet", "config": "p", "dataset": "d", "task": "semantic", "protocol": "clean", "seed": 0}
    rows = [{**common, "n_shot": 1, "n_points": p, "fold": 0, "miou": 0.5} for p in (None, 10, 1, 5)]
    assert [line.n_points for line in leaderboard(rows)] == [1, 5, 10, None]


def test_nothing_yet(tmp_path):
    assert summarise(tmp_path).rows == []
    assert json.loads((tmp_path / "summary.json").read_text()) == []
    assert table(leaderboard([])).startswith("config")
    with pytest.raises(FewsegError, match=r"^out: "):
        summarise(tmp_path / "nowhere")


def test_a_foreign_folder_is_named(tmp_path):
    write_json(tmp_path / "other" / "metrics.json", {"miou": 0.5})
    with pytest.raises(FewsegError, match=r"other/metrics\.json: got no \['dataset'"):
        summarise(tmp_path)


def test_twenty_thousand_rows_are_summarised_quickly(tmp_path):
    for fold in (0, 1):
        save(tmp_path, "panet", fold, n=10_000)
    start = time.perf_counter()
    summarise(tmp_path)
    assert time.perf_counter() - start < 5


def test_text_is_written_as_utf8_with_plain_line_ends(tmp_path):
    write_text(tmp_path / "t", "ü\n")
    assert (tmp_path / "t").read_bytes() == b"\xc3\xbc\n"


def test_runs_of_an_earlier_grid_are_left_out(tmp_path):
    save(tmp_path, "panet", 0)
    save(tmp_path, "older", 0)
    assert {row["config"] for row in summarise(tmp_path).rows} == {"panet", "older"}
    kept = next(row["run"] for row in results.collect(tmp_path) if row["config"] == "panet")
    write_json(tmp_path / "plan.json", {"n_folds": 4, "runs": [kept]})
    assert {row["config"] for row in summarise(tmp_path).rows} == {"panet"}


def compared(out: Path, config: str, fold: int, gain: float, noise: float = 0.0, sha: str = "list", **extra) -> None:
    """A run on the episode list that all configurations share; ``gain`` and ``noise`` move its hits."""
    keys = {"fold": fold, "n_shot": 1, "n_points": None, "seed": 0, **extra}
    shared, own = np.random.RandomState(fold), np.random.RandomState(99 + len(config) + fold)
    rows = []
    for i in range(60):
        size, share = int(shared.randint(500, 1000)), 0.2 + 0.5 * shared.rand()
        tp = int(size * np.clip(share + gain + noise * own.randn(), 0, 1))
        rows.append(Row(i, f"q{shared.randint(20)}", "s", 2 * fold + 1 + i % 2, tp, 50, size - tp, 5000))
    plain = {"method": "M", "config": config, "dataset": "d", "task": "semantic", "protocol": "clean"}
    figures = score(pd.DataFrame(rows), NAMES, [2 * fold + 1, 2 * fold + 2])
    where = out / content_id({"config": config, **keys})
    finish_run(where, {}, rows, {**plain, "episode_list_sha256": f"{sha}{fold}", **figures, **keys})


def test_a_steady_gain_is_separated_though_the_intervals_overlap(tmp_path):
    for fold in (0, 1):
        compared(tmp_path, "base", fold, 0.0)
        compared(tmp_path, "better", fold, 0.02)
        compared(tmp_path, "worse", fold, -0.02)
        compared(tmp_path, "noisy", fold, 0.0, noise=0.1)
        compared(tmp_path, "twin", fold, 0.0)
    rows = summarise(tmp_path).rows
    lines = {line.config: line for line in leaderboard(rows, tmp_path)}
    found = {one.config: one for one in compare(rows, tmp_path, "base")}
    assert {c: one.seen for c, one in found.items()} == {
        "better": "above",
        "worse": "below",
        "noisy": "not separated",
        "twin": "not separated",
    }
    assert lines["better"].ci95[0] < lines["base"].ci95[1]
    assert found["twin"].difference == 0
    assert found["twin"].ci95 == (0, 0)
    for config, one in found.items():
        assert one.miou == pytest.approx(lines[config].miou)
        assert one.difference == pytest.approx(lines[config].miou - lines["base"].miou)
        assert one.ci95[0] <= one.difference <= one.ci95[1]
        assert one.note == ""


def test_the_paired_interval_is_that_of_two_bootstraps_with_one_seed(tmp_path):
    for fold in (0, 1):
        compared(tmp_path, "base", fold, 0.0)
        compared(tmp_path, "noisy", fold, 0.05, noise=0.1)
    rows = summarise(tmp_path).rows
    (one,) = compare(rows, tmp_path, "base")
    means = {}
    for config in ("base", "noisy"):
        runs = [row for row in rows if row["config"] == config]
        frame = pd.concat([read_rows(tmp_path / run["run"] / "episodes.parquet").assign(f=run["fold"]) for run in runs])
        counts = (frame[name] for name in ("query", "class_id", "tp", "fp", "fn"))
        means[config] = bootstrap_ious(*counts, stratum=frame["f"])[1].mean(axis=1)  # two classes in each fold
    assert one.ci95 == pytest.approx(tuple(np.percentile(means["noisy"] - means["base"], (2.5, 97.5))))
    (back,) = compare(rows, tmp_path, "noisy")
    assert back.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]))


def test_other_configurations_do_not_move_a_comparison(tmp_path):
    for fold in (0, 1):
        for config in ("base", "noisy"):
            compared(tmp_path, config, fold, 0.0, noise=0.1 * (config == "noisy"))
    (alone,) = compare(summarise(tmp_path).rows, tmp_path, "base")
    compared(tmp_path, "third", 0, 0.1)
    among = compare(summarise(tmp_path).rows, tmp_path, "base")
    assert next(one for one in among if one.config == "noisy") == alone


def test_what_cannot_be_compared_says_why(tmp_path):
    for fold in (0, 1):
        compared(tmp_path, "base", fold, 0.0)
        compared(tmp_path, "other-list", fold, 0.1, sha="other" if fold else "list")
    compared(tmp_path, "half", 1, 0.1)
    compared(tmp_path, "other-seed", 0, 0.1, seed=7)
    compared(tmp_path, "base", 0, 0.0, n_shot=5)
    compared(tmp_path, "lonely", 0, 0.0, n_shot=2)
    rows = summarise(tmp_path).rows
    found = {one.config: one for one in compare(rows, tmp_path, "base")}
    assert found.keys() == {"other-list", "half", "other-seed"}
    assert found["other-list"].note == "not compared (different episode lists in fold 1)"
    assert found["other-list"].difference is None
    assert found["other-seed"].note == "not compared (no fold and seed in common)"
    assert found["half"].note == "only what both have (fold/seed 1/0)"
    assert found["half"].seen == "above"
    base = next(row for row in rows if row["config"] == "base" and row["fold"] == 1)
    half = next(row for row in rows if row["config"] == "half")
    assert found["half"].difference == pytest.approx(half["miou"] - base["miou"])
    text = comparison_table(results.comparisons(rows, tmp_path, "base"))
    assert " ".join(text.splitlines()[0].split()) == "config K P mIoU minus base 95 % paired interval seen note"
    assert "not compared (different episode lists" in text


def test_repetitions_of_one_training_are_compared_as_their_mean(tmp_path):
    for fold in (0, 1):
        compared(tmp_path, "base", fold, 0.0, training=f"base{fold}")
        for seed, gain in ((3, 0.02), (4, 0.04), (5, 0.06)):
            compared(tmp_path, "tuned", fold, gain, seed=seed, training=f"tuned{fold}")
            compared(tmp_path, "trained", fold, gain, seed=seed, training=f"trained{fold}{seed}")
    rows = summarise(tmp_path).rows
    lines = {line.config: line for line in leaderboard(rows, tmp_path)}
    found = {one.config: one for one in compare(rows, tmp_path, "base")}
    assert found["tuned"].difference == pytest.approx(lines["tuned"].miou - lines["base"].miou)
    assert found["tuned"].ci95[0] > 0
    assert found["tuned"].note == ""
    assert found["trained"].note == "not compared (no fold and seed in common)"  # another training is another sample
    (back,) = (one for one in compare(rows, tmp_path, "tuned") if one.config == "base")
    assert back.difference == pytest.approx(-found["tuned"].difference)
    assert back.ci95 == pytest.approx((-found["tuned"].ci95[1], -found["tuned"].ci95[0]))
    rest = [row for row in rows if row["config"] != "base" or row["fold"] == 0]
    (half,) = (one for one in compare(rest, tmp_path, "base") if one.config == "tuned")
    assert half.note == "only what both have (fold/seed 0/3, 0/4, 0/5)"


def test_without_rows_there_is_a_difference_and_no_interval(tmp_path):
    for config in ("base", "other"):
        compared(tmp_path, config, 0, 0.1 * (config == "other"))
    rows = summarise(tmp_path).rows
    (one,) = compare(rows, None, "base")
    assert (one.ci95, one.seen, one.note) == (None, "", "no interval (episodes.parquet is missing)")
    assert one.difference == pytest.approx(rows[1]["miou"] - rows[0]["miou"])
    changed = [{**row, "miou": 0.123} if row["config"] == "other" else row for row in rows]
    (one,) = compare(changed, tmp_path, "base")
    assert (one.ci95, one.note) == (None, "no interval (rows give another mIoU)")


def test_nothing_to_compare():
    assert compare([], None, "base") == []
    assert comparison_table([]) == ""
    common = {"method": "M", "dataset": "d", "task": "semantic", "protocol": "clean", "seed": 0, "fold": 0, "miou": 0.5}
    row = {**common, "config": "a", "n_shot": 1, "n_points": None, "run": "r", "episode_list_sha256": "x"}
    assert compare([row], None, "a") == []
    assert compare([row], None, "b") == []
    twice = [row, {**row, "config": "b"}, {**row, "config": "b"}]
    assert compare(twice, None, "a")[0].note == "not compared (several runs of one fold and seed)"


def test_a_benchmark_with_a_reference_writes_its_comparisons(tmp_path):
    for fold in (0, 1):
        compared(tmp_path, "base", fold, 0.0)
        compared(tmp_path, "better", fold, 0.02)
    plan = {"n_folds": 2, "runs": [path.name for path in tmp_path.iterdir()], "compare": {"reference": "base"}}
    write_json(tmp_path / "plan.json", plan)
    rows = summarise(tmp_path).rows
    (one,) = json.loads((tmp_path / "comparisons.json").read_text())
    assert (one["config"], one["reference"], one["seen"]) == ("better", "base", "above")
    assert one["ci95"][0] > 0
    text = (tmp_path / "summary.md").read_text()
    assert "## Compared with base\n\n| config | K | P | mIoU | minus base | 95 % paired interval | seen |" in text
    assert (
        comparison_table(results.comparisons(rows, tmp_path, results.reference_of(tmp_path)))
        .splitlines()[1]
        .endswith("above")
    )
    write_json(tmp_path / "plan.json", {**plan, "compare": None})
    summarise(tmp_path)
    assert not (tmp_path / "comparisons.json").exists()
    assert "Compared with" not in (tmp_path / "summary.md").read_text()


def test_shares_of_the_guidance_keep_their_digits():
    common = {"method": "M", "config": "c", "dataset": "d", "task": "semantic", "protocol": "clean", "n_points": None}
    row = {**common, "n_shot": 1, "miou": 0.5, "guidance_between": 0.25}
    rows = [{**row, "fold": fold, "seed": 0, "guidance_within": value} for fold, value in ((0, 1e-4), (1, 3e-4))]
    text = table(leaderboard(rows))
    assert "z within  z between" in text
    assert "0.0002    0.25" in text
    assert "z within" not in table(
        leaderboard([{k: v for k, v in r.items() if not k.startswith("guidance")} for r in rows])
    )
