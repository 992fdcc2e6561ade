"""The gallery of a report: what its script reads is what the rows say, and pictures fill what is left of the page."""

import base64
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from fake_benchmark import CLASSES, VIDEOS, add_films, add_pictures, fake_absent, fake_clicks, fake_run, fake_video
from fake_instances import fake_search
from test_report import page

from fewseg.episode import Row
from fewseg.report.album import Album, encoded
from fewseg.report.gallery import episodes_of, gallery_section, gathered
from fewseg.results import collect, leaderboard, read_rows


def read(out, room=10**7):
    return gathered(leaderboard(collect(out)), out, Album(0), room)


def test_every_episode_of_every_run_is_there(tmp_path):
    runs = {config: fake_run(tmp_path, config, 1, 5, 10) for config in ("guided", "panet")}
    fake_run(tmp_path, "guided", 2)
    content, told = read(tmp_path)
    assert told == ""
    assert [run["config"] for run in content["runs"]] == ["guided", "guided", "panet"]
    assert len(content["lists"]) == 2  # both methods of fold 1 share theirs
    assert content["runs"][1]["list"] == content["runs"][2]["list"] != content["runs"][0]["list"]
    folders = [run["folder"] for run in content["runs"]]
    assert folders[1:] == [runs["guided"].name, runs["panet"].name]
    assert folders[0] not in folders[1:]
    for run in content["runs"]:
        asked = content["lists"][run["list"]]
        frame = read_rows(tmp_path / run["folder"] / "episodes.parquet")
        for place, row in enumerate(frame.itertuples()):
            assert run["iou"][place] == round(1000 * row.tp / (row.tp + row.fp + row.fn))
            assert asked["truth"][place] == round(1000 * (row.tp + row.fn) / 9000)
            assert run["found"][place] == round(1000 * (row.tp + row.fp) / 9000)
            assert content["ids"][asked["query"][place]] == row.query
            assert [content["ids"][i] for i in asked["support"][place]] == [row.support]
            assert asked["classes"][asked["class"][place]] == CLASSES[row.class_id - 1]
    assert content["runs"][2]["label"] == "shapes5i, clean, K = 5, P = 10, fold 1, seed 0"
    assert content["runs"][2]["p"] == "10"


def test_an_object_counts_after_its_last_click(tmp_path):
    run = fake_clicks(tmp_path, "guided", 0)
    frame = read_rows(run / "episodes.parquet")
    table = episodes_of(frame)
    last = frame[frame["click"] == 6]
    assert table["iou"].tolist() == pytest.approx((last.tp / (last.tp + last.fp + last.fn)).tolist())
    assert set(table["clicks"]) == {6}
    assert read(tmp_path)[0]["runs"][0]["clicks"] == [6] * 40


def test_a_video_is_one_episode(tmp_path):
    run = fake_video(tmp_path, "guided")
    frame = read_rows(run / "episodes.parquet")
    table = episodes_of(frame)
    assert table["query"].tolist() == list(VIDEOS)
    assert (set(table["frames"]), set(table["objects"])) == ({24}, {2})
    own = frame[(frame["episode"] == 2) & (frame["frame"] > 0) & (frame["frame"] < 23)]  # the ends do not count
    assert table["iou"][2] == pytest.approx((own.tp / (own.tp + own.fp + own.fn)).mean())
    assert read(tmp_path)[0]["runs"][0]["measure"] == "J"


def test_the_right_answer_to_nothing_is_no_wrong_one(tmp_path):
    """Of an image it is told apart from 0; a frame counts 1, as it does in the figures of the run."""
    run = fake_absent(tmp_path, "guided")
    frame = read_rows(run / "episodes.parquet")
    content, _ = read(tmp_path)
    empty = (frame["tp"] + frame["fp"] + frame["fn"] == 0).tolist()
    assert sum(empty) == 3
    assert [value == -1 for value in content["runs"][0]["iou"]] == empty
    wrong = (~frame["present"] & (frame["fp"] > 0)).tolist()
    assert {value for value, is_wrong in zip(content["runs"][0]["iou"], wrong, strict=True) if is_wrong} == {0}
    assert content["lists"][0]["episode"] == frame["episode"].tolist()
    counts = [(9, 0, 9, 0), (5, 0, 5, 8), (0, 0, 0, 18), (0, 3, 0, 15), (9, 0, 9, 0)]  # of five frames
    video = [Row(0, "bear", "s", 1, *one, object_id=1, frame=place) for place, one in enumerate(counts)]
    made = episodes_of(pd.DataFrame(video).astype({"score": "float64", "frame": "Int64"}))
    assert made["iou"].tolist() == [pytest.approx((0.5 + 1 + 0) / 3)]  # the ends do not count


def test_detections_are_counted_and_not_scored(tmp_path):
    run = fake_search(tmp_path, "siamese", 0)
    frame = read_rows(run / "episodes.parquet")
    table = episodes_of(frame)
    union = frame[frame["score"].isna()]
    assert table["iou"].tolist() == pytest.approx((union.tp / (union.tp + union.fp + union.fn)).tolist())
    assert table["detections"].sum() == frame["score"].notna().sum() > 0
    assert "P =" not in read(tmp_path)[0]["runs"][0]["label"]


def test_pictures_go_round_before_a_run_has_two(tmp_path):
    for number, config in enumerate(("guided", "panet")):
        run = fake_run(tmp_path, config, 0)
        add_pictures(run)
        for path in (run / "pictures").glob("*.png"):  # pictures of their own, not those of the other run
            image = np.random.RandomState(len(path.name) + 100 * number + int(path.stem[-1])).randint(
                0, 255, (24, 32, 3)
            )
            cv2.imwrite(str(path), image.astype(np.uint8))
    every, told = read(tmp_path)
    assert told == ""
    assert [len(run["pictures"]) for run in every["runs"]] == [5, 5]
    assert every["runs"][0]["pictures"][0][::2] == [0, "best"]
    rows = len(json.dumps([every["lists"], every["runs"], every["ids"]]))
    pictured = max(map(len, every["pictures"].values()))
    few, told = read(tmp_path, rows + 3 * pictured)
    counts = [len(run["pictures"]) for run in few["runs"]]
    assert 2 <= sum(counts) < 10
    assert counts[0] - counts[1] in (0, 1)
    assert told == f"{10 - sum(counts)} pictures do not fit here: they are in the runs' folders."


def test_a_picture_stands_on_the_page_once(tmp_path):
    run = fake_run(tmp_path, "guided", 0)
    add_pictures(run)
    found = page(tmp_path)
    on_page = {attributes["id"]: attributes["src"] for tag, attributes in found.tags if tag == "img"}
    assert len(on_page) == 5
    assert found.gallery["pictures"] == {}
    assert {name for _, name, _ in found.gallery["runs"][0]["pictures"]} == set(on_page)


def test_the_truth_of_a_video_is_there_once(tmp_path):
    for place, config in enumerate(("guided", "panet")):
        add_films(fake_video(tmp_path, config), 1 + place)
    content, _ = read(tmp_path)
    truth = [[name for at, name, kind in run["pictures"] if (at, kind) == (0, "truth")] for run in content["runs"]]
    films = [[name for at, name, kind in run["pictures"] if (at, kind) == (0, "film")] for run in content["runs"]]
    assert truth[0] == truth[1]
    assert films[0] != films[1]
    assert len(content["pictures"]) == 3 + 2 * 3


def test_rows_that_do_not_fit_are_told(tmp_path):
    for fold in range(3):
        for config in ("guided", "panet"):
            fake_run(tmp_path, config, fold)
    content, told = read(tmp_path, 5000)
    counts = [sum(run["config"] == config for run in content["runs"]) for config in ("guided", "panet")]
    assert counts[0] - counts[1] in (0, 1)  # one run of every method before another of any
    assert 2 <= sum(counts) < 6
    assert len(content["lists"]) == max(run["list"] for run in content["runs"]) + 1
    assert told.endswith(f"The rows of {6 - len(content['runs'])} runs do not fit here: they are in their folders.")
    section = gallery_section(leaderboard(collect(tmp_path)), tmp_path, Album(0), 100)
    assert "The rows of 6 runs do not fit here" in section.body
    assert "<select" not in section.body
    assert gallery_section([], tmp_path, Album(0), 100) is None


def test_what_is_no_picture_is_left_out(tmp_path):
    assert encoded(b"") is None
    run = fake_run(tmp_path, "guided", 0)
    add_pictures(run)
    (run / "pictures" / "best-0.png").write_bytes(b"broken")
    assert len([tag for tag, _ in page(tmp_path).tags if tag == "img"]) == 4


def test_pictures_are_small_and_true():
    image = cv2.GaussianBlur(np.random.RandomState(0).randint(0, 255, (90, 160, 3)).astype(np.uint8), (0, 0), 4)
    png = cv2.imencode(".png", image)[1].tobytes()
    made = encoded(png)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(made.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == image.shape
    assert np.abs(decoded.astype(int) - image).mean() < 4
    assert len(made) < len(png) / 2
