"""Rows of videos become figures, lines and comparisons: against plain loops over masks."""

import json

import numpy as np
import pandas as pd
import pytest

from fewseg import results
from fewseg.episode import Row
from fewseg.errors import FewsegError
from fewseg.functional.boundary import boundary_counts
from fewseg.functional.iou import confusion_counts
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

SIZE = (40, 60)
VIDEOS = {"bear": (2, 7), "camel": (1, 5), "dance": (3, 12)}  # objects, frames
DAVIS = ("j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay", "jf_mean")


def masks(name: str, number: int, place: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth of one object in one frame; some are empty."""
    random = np.random.RandomState(sum(map(ord, name)) + 100 * number + 7 * place)
    truth, pred = np.zeros((2, *SIZE), bool)
    top, left, size = random.randint(0, 25), random.randint(0, 40), random.randint(6, 20)
    if random.rand() > 0.1:
        truth[top : top + size, left : left + size] = True
    dy, dx = np.random.RandomState(seed + 13 * place + number).randint(0, 2 + place, 2)
    if random.rand() > 0.1:
        pred[top + dy : top + dy + size, left + dx : left + dx + size] = True
    return pred, truth


def rows_of(videos: dict[str, tuple[int, int]] = VIDEOS, seed: int = 0) -> list[Row]:
    """Every object in every frame; a video takes 8 s per object and frame, of which its guidance 1 s."""
    made = []
    for episode, (name, (n_objects, n_frames)) in enumerate(videos.items()):
        for place in range(n_frames):
            for number in range(1, n_objects + 1):
                pred, truth = masks(name, number, place, seed)
                edges = boundary_counts(pred, truth)
                counts = confusion_counts(pred, truth.astype(np.uint8))
                seconds = {"seconds_encode": 5.0, "seconds_guide": 1.0, "seconds_segment": 2.0}
                row = Row(episode, name, f"{name}/0", 1, *counts, object_id=number, frame=place, **seconds)
                boundary = {f"boundary_{key}": value for key, value in edges._asdict().items()}
                made.append(row._replace(**boundary))
    return made


def naive(videos: dict[str, tuple[int, int]] = VIDEOS, seed: int = 0) -> dict[str, list[float]]:
    """Of every object, frame by frame: mean, recall and decay of J and F, and J&F."""
    found: dict[str, list[float]] = {name: [] for name in DAVIS}
    for name, (n_objects, n_frames) in videos.items():
        for number in range(1, n_objects + 1):
            values: dict[str, list[float]] = {"j": [], "f": []}
            for place in range(1, n_frames - 1):
                pred, truth = masks(name, number, place, seed)
                union = (pred | truth).sum()
                values["j"].append((pred & truth).sum() / union if union else 1.0)
                edges = boundary_counts(pred, truth)
                if edges.pred == 0 or edges.true == 0:
                    values["f"].append(float(edges.pred == edges.true))
                else:
                    p, r = edges.pred_matched / edges.pred, edges.true_matched / edges.true
                    values["f"].append(2 * p * r / (p + r) if p + r else 0.0)
            for letter, own in values.items():
                found[f"{letter}_mean"].append(sum(own) / len(own))
                found[f"{letter}_recall"].append(sum(v > 0.5 for v in own) / len(own))
                at = [int(np.floor(1 + i * (len(own) - 1) / 4 + 0.5)) - 1 for i in range(5)]
                found[f"{letter}_decay"].append(np.mean(own[: at[1] + 1]) - np.mean(own[at[3] :]))
            found["jf_mean"].append((found["j_mean"][-1] + found["f_mean"][-1]) / 2)
    return found


def test_figures_are_those_of_a_loop_over_frames():
    figures = score(pd.DataFrame(rows_of()), ("object",), (1,))
    expected = naive()
    for name in DAVIS:
        assert figures[name] == pytest.approx(np.mean(expected[name])), name
    assert (figures["n_videos"], figures["n_episodes"], figures["n_objects"]) == (3, 3, 6)
    assert 0 < figures["j_recall"] < 1
    assert figures["j_decay"] != 0
    per_video = [expected["j_mean"][:2], expected["j_mean"][2:3], expected["j_mean"][3:]]
    assert figures["j_mean"] != pytest.approx(np.mean([np.mean(own) for own in per_video]))  # videos do not weigh alike


def test_iou_leaves_out_the_first_and_the_last_frame_as_well():
    tp = fp = fn = 0
    for name, (n_objects, n_frames) in VIDEOS.items():
        for place in range(1, n_frames - 1):
            for number in range(1, n_objects + 1):
                pred, truth = masks(name, number, place)
                tp, fp, fn = tp + (pred & truth).sum(), fp + (pred & ~truth).sum(), fn + (truth & ~pred).sum()
    figures = score(pd.DataFrame(rows_of()), ("object",), (1,))
    assert figures["miou"] == figures["positive_iou"] == pytest.approx(tp / (tp + fp + fn))
    kept = final_rows(pd.DataFrame(rows_of()))
    assert len(kept) == sum(n_objects * (n_frames - 2) for n_objects, n_frames in VIDEOS.values())
    assert kept.groupby("query")["frame"].agg(["min", "max"]).to_numpy().tolist() == [[1, 5], [1, 3], [1, 10]]


def test_all_frames_count_in_seconds():
    figures = score(pd.DataFrame(rows_of()), ("object",), (1,))
    objects_in_frames, frames = 2 * 7 + 5 + 3 * 12, 7 + 5 + 12
    assert figures["seconds_per_video"] == figures["seconds_per_episode"] == pytest.approx(8 * objects_in_frames / 3)
    assert figures["seconds_guide_per_video"] == pytest.approx(objects_in_frames / 3)
    assert figures["seconds_per_frame"] == pytest.approx(7 * objects_in_frames / frames)
    assert figures["seconds_encode_per_frame"] == pytest.approx(5 * objects_in_frames / frames)
    assert figures["seconds_per_update"] == pytest.approx(objects_in_frames / 3 + 2 * objects_in_frames / frames)
    untimed = [row._replace(seconds_encode=None, seconds_guide=None, seconds_segment=None) for row in rows_of()]
    assert not [name for name in score(pd.DataFrame(untimed), ("object",), (1,)) if name.startswith("seconds")]


def test_figures_are_the_same_from_disk_and_in_any_order(tmp_path):
    rows = rows_of()
    figures = score(pd.DataFrame(rows), ("object",), (1,))
    shuffled = [rows[i] for i in np.random.RandomState(0).permutation(len(rows))]
    write_rows(tmp_path / "r.parquet", shuffled)
    again = score(read_rows(tmp_path / "r.parquet"), ("object",), (1,))
    assert again.keys() == figures.keys()
    for name in (*DAVIS, "miou", "ci95", "jf_ci95", "seconds_per_update"):
        assert again[name] == pytest.approx(figures[name]), name
    json.dumps(figures, allow_nan=False)


def test_one_counted_frame_and_empty_masks():
    """Three frames; both sides empty in the one that counts."""
    rows = [Row(0, "v", "", 1, 0, 0, 0, 9, object_id=1, frame=i) for i in range(3)]
    nothing = {f"boundary_{name}": 0 for name in ("pred", "true", "pred_matched", "true_matched")}
    figures = score(pd.DataFrame([row._replace(**nothing) for row in rows]), ("object",), (1,))
    assert [figures[name] for name in DAVIS] == [1, 1, 0, 1, 1, 0, 1]
    assert figures["jf_ci95"] == [1, 1]
    missed = [row._replace(**nothing | {"boundary_true": 4}, fn=3) for row in rows]
    assert [score(pd.DataFrame(missed), ("object",), (1,))[name] for name in DAVIS] == [0] * 7


def test_three_hundred_frames():
    rows = rows_of({"long": (1, 302)})
    values = [row.tp / (row.tp + row.fp + row.fn) if row.tp + row.fp + row.fn else 1.0 for row in rows[1:-1]]
    figures = score(pd.DataFrame(rows), ("object",), (1,))
    assert figures["j_mean"] == pytest.approx(np.mean(values))
    assert figures["j_decay"] == pytest.approx(np.mean(values[:76]) - np.mean(values[224:]))  # not NaN


@pytest.mark.parametrize("n_frames", [1, 2])
def test_a_video_without_a_frame_that_counts_is_named(n_frames):
    frame = pd.DataFrame(rows_of({"bear": (2, 5), "short": (1, n_frames)}))
    with pytest.raises(FewsegError, match=rf"^frames: got {n_frames} in short, expected at least 3 in every video"):
        score(frame, ("object",), (1,))
    with pytest.raises(FewsegError, match=r"^frames: "):
        final_rows(frame)


def test_the_interval_resamples_videos_with_all_their_objects():
    figures = score(pd.DataFrame(rows_of()), ("object",), (1,))
    low, high = figures["jf_ci95"]
    assert low < figures["jf_mean"] < high
    jf = naive()["jf_mean"]
    groups = [jf[:2], jf[2:3], jf[3:]]
    drawn = [[groups[i] for i in (a, b, c)] for a in range(3) for b in range(3) for c in range(3)]
    possible = sorted(float(np.mean(np.concatenate(three))) for three in drawn)
    # of 27 equally likely draws the lowest and the highest have more than 2.5 % each
    assert (low, high) == pytest.approx((possible[0], possible[-1]))


def save(out, config, drawn=0, rows=None, **extra):
    keys = {"method": "Guided", "config": config, "dataset": "davis", "task": "video", "protocol": "video"}
    setting = {"fold": 0, "n_shot": 1, "n_points": None, "seed": 0, "episode_list_sha256": "list", **extra}
    rows = rows_of(seed=drawn) if rows is None else rows
    finish_run(
        out / f"{config}-{setting['seed']}", {}, rows, {**keys, **score(pd.DataFrame(rows), ("o",), (1,)), **setting}
    )


def test_a_line_of_videos(tmp_path):
    save(tmp_path, "guided")
    rows = summarise(tmp_path).rows
    (line,) = leaderboard(rows, tmp_path)
    figures = rows[0]
    for name in (*DAVIS, "seconds_per_video", "seconds_per_frame", "seconds_guide_per_video", "seconds_per_update"):
        assert line.figures[name] == pytest.approx(figures[name]), name
    assert line.jf_ci95 == pytest.approx(figures["jf_ci95"])
    heads, (cells,) = results.cells([line])
    shown = dict(zip(heads, cells, strict=True))
    assert list(shown) == [
        *("config", "K", "P", "J&F", "95 % of J&F", "J", "J recall", "J decay", "F", "F recall", "F decay"),
        *("positive IU", "s/video", "s/frame", "s/guide", "s/update"),
    ]
    assert list(shown.values())[:3] == ["guided", "1", "dense"]
    assert shown["positive IU"] == f"{figures['miou']:.3f}"  # of one class
    assert shown["J&F"] == f"{figures['jf_mean']:.3f}"
    assert shown["95 % of J&F"] == "{:.3f} to {:.3f}".format(*figures["jf_ci95"])
    assert shown["s/update"] == f"{figures['seconds_per_update']:.4f}"
    assert table(leaderboard(rows, tmp_path)).splitlines()[0].split()[-4:] == [
        "s/video",
        "s/frame",
        "s/guide",
        "s/update",
    ]
    text = " ".join((tmp_path / "summary.md").read_text().split())
    assert "The first and the last frame of a video count in seconds only" in text
    assert "over 7 or 8 it holds the truth in fewer than 90 % of cases" in text
    assert "Videos of a run: 3." in text
    assert "K: annotated frames" in text
    assert not [words for words in ("IoU@k", "annotated images", "query images") if words in text]
    frame = pd.read_csv(tmp_path / "summary.csv")
    assert frame[["jf_ci95_low", "jf_ci95_high"]].to_numpy()[0].tolist() == pytest.approx(figures["jf_ci95"])
    told = in_words(figures)
    low, high = figures["jf_ci95"]
    expected = "  J&F {jf_mean:.3f} [{low:.3f}, {high:.3f}]  J {j_mean:.3f}  F {f_mean:.3f}  positive IU {miou:.3f}"
    assert told == (expected + "  {seconds_per_video:.2f} s/video").format(**figures, low=low, high=high)


def test_columns_of_videos_say_where_lines_differ(tmp_path):
    save(tmp_path, "guided")
    save(tmp_path, "blind", class_blind=True, protocol="interactive-video", task="interactive_video")
    lines = leaderboard(summarise(tmp_path).rows, tmp_path)
    heads, body = results.cells(lines)
    assert heads[:6] == ["task", "config", "protocol", "K", "P", "J&F"]
    assert [cells[:3] for cells in body] == [
        ["interactive_video", "blind", "interactive-video"],
        ["video", "guided", "video"],
    ]
    assert heads[-1] == "note"
    assert [cells[-1] for cells in body] == ["class-blind: its foreground counts for every object", ""]


def test_a_number_of_videos_is_told_for_every_run(tmp_path):
    save(tmp_path, "few")
    save(tmp_path, "many", rows=rows_of({f"v{i}": (1, 4) for i in range(5)}))
    summarise(tmp_path)
    assert "Videos of a run: 3 to 5." in (tmp_path / "summary.md").read_text()


def test_several_seeds_are_averaged_and_have_an_interval_of_miou_only(tmp_path):
    for seed in (0, 1):
        save(tmp_path, "guided", 50 * seed, seed=seed)
    rows = summarise(tmp_path).rows
    (line,) = leaderboard(rows, tmp_path)
    assert line.figures["jf_mean"] == pytest.approx((rows[0]["jf_mean"] + rows[1]["jf_mean"]) / 2)
    assert rows[0]["jf_mean"] != rows[1]["jf_mean"]
    assert line.jf_ci95 is None
    assert line.ci95[0] <= line.miou <= line.ci95[1]
    assert "95 % of J&F" not in results.cells([line])[0]
    text = (tmp_path / "summary.md").read_text()
    assert "positive IU | std over seeds | sd seeds | sd episodes | sd both | s/video" in text
    assert "Std over seeds of positive IU" in text
    drawn = results.resampling.resample(rows, tmp_path)
    split = variance_split(np.stack([drawn[row["run"]].j for row in rows], axis=1))
    assert [line.figures[name] for name in ("sd_seeds", "sd_episodes", "sd_both")] == pytest.approx([*split])
    other = variance_split(np.stack([drawn[row["run"]].miou for row in rows], axis=1))
    assert [*other] != pytest.approx([*split]), "what lines are ranked by is split, not positive IU"
    assert "one training's mean J from seed to seed; sd episodes: from one draw of videos" in text
    assert "| config | K | P | seeds |" in text


def test_images_and_videos_in_one_table(tmp_path):
    save(tmp_path, "guided")
    row = {
        "method": "M",
        "config": "c",
        "dataset": "coco",
        "task": "semantic",
        "protocol": "clean",
        "fold": 0,
        "seed": 0,
    }
    row |= {"n_shot": 1, "n_points": None, "miou": 0.5, "seconds_per_episode": 0.25}
    row |= {"seconds_guide": 0.1, "seconds_segment": 0.1}
    lines = leaderboard([*summarise(tmp_path).rows, row])
    assert lines[0].figures["seconds_per_update"] == pytest.approx(0.2)
    heads, body = results.cells(lines)
    assert body[0][heads.index("s/episode")] == "0.2500"
    assert [bool(cells[heads.index("J&F")]) for cells in body] == [False, True]
    assert [bool(cells[heads.index("95 % of J&F")]) for cells in body] == [False, True]


def better(rows: list[Row], pixels: int) -> list[Row]:
    """More of every object is found, in every frame; its boundary is not looked at."""
    more = [min(pixels, row.fn) for row in rows]
    return [row._replace(tp=row.tp + n, fn=row.fn - n) for row, n in zip(rows, more, strict=True)]


def test_mean_j_is_compared_over_the_same_videos(tmp_path):
    videos = {f"v{i:02}": (1 + i % 3, 6) for i in range(12)}
    base = rows_of(videos)
    save(tmp_path, "base", rows=base)
    save(tmp_path, "better", rows=better(base, 4))
    save(tmp_path, "twin", rows=base)
    save(tmp_path, "other", rows=rows_of(videos, seed=50))
    write_json(tmp_path / "plan.json", {"compare": {"reference": "base"}})
    rows = summarise(tmp_path).rows
    figures = {row["config"]: row for row in rows}
    found = {one.config: one for one in compare(rows, tmp_path, "base")}
    for config, one in found.items():
        assert one.j_difference == pytest.approx(figures[config]["j_mean"] - figures["base"]["j_mean"])
        assert one.j_ci95[0] <= one.j_difference <= one.j_ci95[1]
    assert (found["better"].j_seen, found["twin"].j_seen) == ("above", "not separated")
    assert found["twin"].j_ci95 == (0, 0)
    assert found["better"].j_ci95[1] < figures["base"]["jf_ci95"][1] - figures["base"]["jf_ci95"][0]  # paired: narrow

    own, other = naive(videos, seed=50)["j_mean"], naive(videos)["j_mean"]
    video = np.repeat(np.arange(12), [n for n, _ in videos.values()])
    random, drawn = np.random.RandomState(1), []
    for _ in range(2000):
        picked = np.concatenate([np.flatnonzero(video == i) for i in random.randint(12, size=12)])
        drawn.append(np.mean(np.array(own)[picked] - np.array(other)[picked]))
    assert found["other"].j_ci95 == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=0.01)

    written = {one["config"]: one for one in json.loads((tmp_path / "comparisons.json").read_text())}
    assert written["better"]["j_seen"] == "above"
    assert written["better"]["j_ci95"] == pytest.approx(found["better"].j_ci95)
    text = (tmp_path / "summary.md").read_text()
    assert (
        "| config | K | P | J minus base | 95 % paired interval of J | J seen | positive IU | IU minus base |" in text
    )
    assert "mIoU" not in text.split("## Compared with base")[1]
    compared = " ".join(text.split("## Compared with base")[1].split())
    assert "Difference of mean J and of positive IU" in compared
    assert "draws the same videos for both" in compared
    assert "over 7 or 8 it holds the truth in fewer than 90 % of cases" in compared
    assert found["better"].main == ("mean J", found["better"].j_difference, found["better"].j_ci95, "above")
    told = comparison_table(results.comparisons(rows, tmp_path, "base"))
    low, high = found["better"].j_ci95
    assert f"{found['better'].j_difference:+.3f} {low:+.3f} to {high:+.3f} above" in " ".join(told.split())
    alone = compare(rows, None, "base")
    assert [one.j_ci95 for one in alone] == [None] * 3
    assert alone[0].j_difference == found["better"].j_difference


def test_a_mean_j_that_rows_do_not_give_has_no_interval(tmp_path):
    save(tmp_path, "base")
    save(tmp_path, "edited", 50, j_mean=0.123)
    (one,) = compare(summarise(tmp_path).rows, tmp_path, "base")
    assert one.j_difference is not None
    assert one.j_ci95 is None
    assert one.ci95 is not None
