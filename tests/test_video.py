"""Videos from the data to the report: episodes, rows, the command line, and figures scored again from written masks."""

import dataclasses
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
import yaml

import fewseg
from fewseg import benchmark, evaluation, results
from fewseg.cli import main
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import Davis, Shapes5i, ShapesVideo
from fewseg.datasets.voc import write_label
from fewseg.errors import FewsegError

torch.set_num_threads(1)

HEIGHT, WIDTH = SIZE = (24, 32)
TINY = {"n_train": 3, "n_val": 2, "n_frames": 5}
SCENES = {"n_train": 60, "n_val": 20}
EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def videos():
    return ShapesVideo(**TINY)


def walk(frame):
    """Objects 1 and 2, from frame 2 on object 3, and a column of void."""
    objects = np.zeros(SIZE, np.uint8)
    objects[2:12, 2 + frame : 12 + frame] = 1
    objects[14:22, 4:14] = 2
    objects[2:10, 20:28] = 3 * (frame >= 2)
    objects[:, 30] = 255
    return objects


def picture(frame):
    return np.random.RandomState(frame).randint(0, 256, (*SIZE, 3)).astype(np.uint8)


class Tree:
    """A DAVIS 2017 tree with one video of five frames, on the list val."""

    def __init__(self, root, labels=walk, n_frames=5):
        self.root = root
        (root / "ImageSets/2017").mkdir(parents=True)
        (root / "ImageSets/2017/val.txt").write_text("walk\n")
        for folder in ("JPEGImages/480p/walk", "Annotations/480p/walk"):
            (root / folder).mkdir(parents=True)
        for frame in range(n_frames):
            cv2.imwrite(str(self.frame(frame)), picture(frame))
            write_label(self.mask(frame), labels(frame))

    def frame(self, i):
        return self.root / f"JPEGImages/480p/walk/{i:05d}.jpg"

    def mask(self, i):
        return self.root / f"Annotations/480p/walk/{i:05d}.png"

    def dataset(self):
        return Davis(str(self.root), year=2017)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "davis")


# ------------------------------------------------------------------------------------------------- training batches


def batches(data, n=6):
    """The first training batches of a data module."""
    data.trainer = SimpleNamespace(
        max_steps=n, global_step=0, accumulate_grad_batches=1, global_rank=0, world_size=1, training=False
    )
    found = list(data.train_dataloader())
    data.trainer = None
    assert len(found) == n
    return found


def chosen(objects, own, others):
    """A map in which the object is 1, the background 0 and the other objects are ``others``."""
    return np.where(objects == own, 1, np.where(objects == 0, 0, others)).astype(np.uint8)


def test_training_pairs_leave_others_unknown_in_the_support_and_negative_in_the_query(videos):
    data = FewShotDataModule(videos, "video", size=128, augmentation="none", batch_size=3, train_shot=2)
    several = 0
    for batch in batches(data):
        assert batch.query_clicks.shape == (3, 0, 3)
        for i, spec in enumerate(batch.specs):
            assert {name.split("/")[0] for name in (spec.query_id, *spec.support_ids)} < set(videos.sequences("train"))
            assert len({name.split("/")[0] for name in (spec.query_id, *spec.support_ids)}) == 1
            for shot, image_id in enumerate(spec.support_ids):
                objects = videos.objects(image_id)
                annotation = batch.support_annotations[i, shot].numpy()
                assert np.array_equal(annotation[:96], chosen(objects, spec.object_id, 255))
                assert (annotation[96:] == 255).all(), "the canvas beyond the frame"
                pixels = batch.support_images[i, shot, :, :96].permute(1, 2, 0).numpy()
                assert np.array_equal(pixels, videos.image(image_id))
                several += objects.max() > 1
            mask = batch.query_masks[i].numpy()
            assert np.array_equal(mask[:96], chosen(videos.objects(spec.query_id), spec.object_id, 0))
            assert (mask[96:] == 255).all()
    assert several


def test_points_of_training_pairs_lie_on_the_object_and_the_background(videos):
    data = FewShotDataModule(videos, "video", size=128, augmentation="none", train_points="sparse")
    counts = set()
    for batch in batches(data, 3):
        for annotation, spec in zip(batch.support_annotations[:, 0].numpy(), batch.specs, strict=True):
            known = annotation != 255
            wanted = chosen(videos.objects(spec.support_ids[0]), spec.object_id, 255)
            assert np.array_equal(annotation[:96][known[:96]], wanted[known[:96]])
            assert not known[96:].any()
            counts |= {int((annotation == label).sum()) for label in (0, 1)}
    assert len(counts) > 1
    assert max(counts) < 100, "0 to 99 pixels of each label"


def test_class_blind_methods_see_all_objects_of_single_frames(videos):
    options = {"size": 128, "augmentation": "none", "train_shot": 0, "train_masks": "foreground"}
    (batch,) = batches(FewShotDataModule(videos, "video", **options), 1)
    assert batch.support_annotations.shape == (8, 0, 128, 128)
    for mask, spec in zip(batch.query_masks.numpy(), batch.specs, strict=True):
        assert spec.support_ids == ()
        assert np.array_equal(mask[:96], videos.objects(spec.query_id) > 0)


def test_warps_show_the_same_image_augmented_on_its_own(videos):
    options = {"train_episodes": "warps", "size": 128, "train_shot": 2, "augmentation": "flip"}
    flips = set()
    for batch in batches(FewShotDataModule(videos, "video", **options), 3):
        for i, spec in enumerate(batch.specs):
            assert spec.support_ids == (spec.query_id,) * 2
            image, objects = videos.image(spec.query_id), videos.objects(spec.query_id)
            found = []
            for pixels, labels, others in (
                *((batch.support_images[i, s], batch.support_annotations[i, s], 255) for s in range(2)),
                (batch.query_images[i], batch.query_masks[i], 0),
            ):
                seen, shown = pixels.permute(1, 2, 0).numpy()[:96], labels.numpy()[:96]
                mirrored = not np.array_equal(seen, image)
                turn = np.s_[:, ::-1] if mirrored else np.s_[:]
                assert np.array_equal(seen[turn], image)
                assert np.array_equal(shown[turn], chosen(objects, spec.object_id, others))
                found.append(mirrored)
            flips.add(tuple(found))
    assert len(flips) == 8, "supports and query are mirrored independently"


def test_warps_differ_from_the_query_in_scale_and_rotation_where_asked(videos):
    options = {"train_episodes": "warps", "size": 64, "augmentation": "full"}
    (batch,) = batches(FewShotDataModule(videos, "video", **options), 1)
    assert not torch.equal(batch.support_images[:, 0], batch.query_images)
    areas = (batch.support_annotations[:, 0] == 1).flatten(1).sum(1) / (batch.query_masks == 1).flatten(1).sum(1)
    assert ((areas < 0.9) | (areas > 1.1)).any()


def test_validation_asks_for_later_frames_of_held_out_videos(videos):
    data = FewShotDataModule(videos, "video", size=128, n_val_episodes=5, augmentation="none", eval_batch_size=2)
    trained = {spec.query_id.split("/")[0] for batch in batches(data) for spec in batch.specs}
    seen = 0
    for batch in data.val_dataloader():
        for i, spec in enumerate(batch.specs):
            sequence, frame = spec.query_id.split("/")
            assert sequence in set(videos.sequences("train")) - trained
            assert spec.support_ids[0] < f"{sequence}/{frame}"
            objects = videos.objects(spec.support_ids[0])
            assert np.array_equal(batch.support_annotations[i, 0, :96].numpy(), chosen(objects, spec.object_id, 255))
            truth = chosen(videos.objects(spec.query_id), spec.object_id, 0)
            assert np.array_equal(batch.targets[i].numpy(), truth)
            seen += 1
    assert seen == 5
    images = FewShotDataModule(videos, "video", train_episodes="warps", n_val_episodes=5)
    assert images.val_dataloader() == []


# ------------------------------------------------------------------------------------------------- a video to test


class Counted:
    """Calls of a method, by argument."""

    def __init__(self, monkeypatch, dataset, name):
        self.calls, read = [], getattr(dataset, name)
        monkeypatch.setattr(dataset, name, lambda image_id: self.calls.append(image_id) or read(image_id))


def test_a_dense_video_by_hand(tree, monkeypatch):
    data = FewShotDataModule(tree.dataset(), "video", n_shot=2)
    (spec,) = data.episode_list().specs
    images, maps = (Counted(monkeypatch, data.dataset, name) for name in ("image", "objects"))
    episode = data.video_of(spec)
    assert (len(episode), episode.n_objects, spec.query_id) == (5, 2, "walk")
    assert episode.frame_ids == tuple(f"walk/{i:05d}" for i in range(5))
    assert spec.support_ids == episode.frame_ids[:2]
    assert sorted(episode.annotations) == [0, 1]
    for frame, annotation in episode.annotations.items():
        wanted = np.stack([walk(frame) == number for number in (1, 2)])  # others and void are negative
        assert annotation.dtype == np.uint8
        assert np.array_equal(annotation, wanted)
    assert images.calls == [], "frames are read when they are asked for"
    assert set(maps.calls) == {"walk/00000", "walk/00001"}
    maps.calls.clear()
    assert np.array_equal(episode.targets[4], np.stack([walk(4) == 1, walk(4) == 2])), "object 3 came later"
    assert maps.calls == ["walk/00004"]
    assert [frame.shape for frame in episode.frames[1:3]] == [(*SIZE, 3)] * 2
    assert images.calls == ["walk/00001", "walk/00002"]


def test_points_of_one_object_are_negative_for_the_others(tree):
    data = FewShotDataModule(tree.dataset(), "video", n_points=3)
    (spec,) = data.episode_list().specs
    (annotation,) = data.video_of(spec).annotations.values()
    assert [[int((one == value).sum()) for value in (0, 1)] for one in annotation] == [[6, 3], [6, 3]]
    for number, own in enumerate(annotation, 1):
        assert (walk(0)[own == 1] == number).all()
        assert np.isin(walk(0)[own == 0], [0, 3 - number]).all(), "never on void"
    assert np.array_equal(annotation[0] != 255, annotation[1] != 255)


def test_random_frames_ask_for_all_objects(tree):
    data = FewShotDataModule(tree.dataset(), "interactive-video", n_shot=3)
    (spec,) = data.episode_list().specs
    episode = data.video_of(spec)
    assert episode.n_objects == 3
    assert sorted(episode.annotations) == sorted(int(name[-5:]) for name in spec.support_ids)
    assert np.array_equal(episode.targets[3][2], walk(3) == 3)
    assert not episode.targets[0][2].any()


def test_a_challenge_has_no_truth(tree):
    for frame in range(1, 5):
        tree.mask(frame).unlink()
    data = FewShotDataModule(tree.dataset(), "video")
    episode = data.video_of(data.episode_list().specs[0])
    assert [target is None for target in episode.targets] == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_size": 64, "protocol": "clean"}, "--data.frame_size: got 64, expected null under clean"),
        ({"frame_size": 7}, "--data.frame_size: got 7, expected a side of 8 pixels or more"),
        ({"budget_mb": -1}, "--data.budget_mb: got -1, expected at least 0"),
        ({"n_shot": 0}, "--data.n_shot: got 0, expected at least 1"),
        ({"refine": "maps"}, "--data.refine: got maps, expected None under video, which has no robot"),
        ({"n_clicks": 3}, "--data.n_clicks: got 3, expected None under video"),
        (
            {"train_episodes": "warps", "augmentation": "none"},
            "--data.augmentation: got none, expected flip or full",
        ),
        ({"train_iterations": 1}, "--data.train_iterations: got 1 beside video episodes"),
        ({"fold": 1}, "--data.fold: got 1, expected a fold from 0 to 0"),
    ],
)
def test_bad_options_are_one_line(videos, options, message):
    with pytest.raises(FewsegError, match=re.escape(message)):
        FewShotDataModule(videos, **{"protocol": "video", **options})


@pytest.mark.parametrize("use", [FewShotDataModule.training_sampler, FewShotDataModule.episode_list])
def test_images_are_no_videos(use):
    data = FewShotDataModule(Shapes5i(**SCENES), "video")
    with pytest.raises(FewsegError, match=r"--data.dataset: got Shapes5i, which has no videos, expected videos"):
        use(data)


# ------------------------------------------------------------------------------------------------------------- rows


def edges(mask):
    """Pixels that differ from the one to the right, below, or right below, where the border repeats itself."""
    far = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != far[:-1, 1:]) | (mask != far[1:, :-1]) | (mask != far[1:, 1:])


def near(some, others):
    """How many pixels of a map lie within 0.008 of the diagonal, rounded up, of any of another."""
    a, b = np.argwhere(some), np.argwhere(others)
    if not (len(a) and len(b)):
        return 0
    radius = math.ceil(0.008 * math.hypot(*some.shape))
    return int((((a[:, None] - b[None]) ** 2).sum(-1).min(1) <= radius**2).sum())


def test_rows_are_the_counts_of_a_naive_loop(tree, monkeypatch):
    opened = []

    class Session(evaluation.VideoSession):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(evaluation, "VideoSession", Session)
    torch.manual_seed(0)
    model = fewseg.create_model("PANet", encoder="tiny")  # untrained, it answers something
    data = FewShotDataModule(tree.dataset(), "video", size=64, frame_size=40, budget_mb=0, n_points=4)
    episode = data.video_of(data.episode_list().specs[0])
    tracked = list(evaluation.track(model, episode, data))
    (session,) = opened
    assert session.canvas == (32, 64), "40 and 30, rounded up to multiples of 32"
    assert session._features.n_memory == 0 < session._features.n_file
    assert [one.frame for one in tracked] == list(range(5))
    assert {number for one in tracked for number in np.unique(one.labels)} == {0, 1, 2}, "something is predicted"
    rows = [row for one in tracked for row in evaluation.video_rows(episode, one, data.evaluation_part, 7)]
    assert [(row.frame, row.object_id) for row in rows] == [(frame, n) for frame in range(5) for n in (1, 2)]
    assert {(row.episode, row.query, row.support, row.class_id) for row in rows} == {(7, "walk", "walk/00000", 1)}
    for verb in ("encode", "guide", "segment"):
        wanted = sum(getattr(one.seconds, verb) for one in tracked)
        assert wanted > 0
        assert sum(getattr(row, f"seconds_{verb}") for row in rows) == pytest.approx(wanted)
    for row in rows:
        pred, truth = tracked[row.frame].labels == row.object_id, walk(row.frame) == row.object_id
        counts = [0, 0, 0, 0]
        for guess, real in zip(pred.ravel().tolist(), truth.ravel().tolist(), strict=True):
            counts[(0 if guess else 2) if real else (1 if guess else 3)] += 1
        assert [row.tp, row.fp, row.fn, row.tn] == counts
        assert sum(counts) == HEIGHT * WIDTH, "void is background"
        found, real = edges(pred), edges(truth)
        assert (row.boundary_pred, row.boundary_true) == (found.sum(), real.sum())
        assert (row.boundary_pred_matched, row.boundary_true_matched) == (near(found, real), near(real, found))


def test_a_frame_that_cannot_be_scored_is_named(tree):
    data = FewShotDataModule(tree.dataset(), "video")
    episode = data.video_of(data.episode_list().specs[0])
    tracked = evaluation.Tracked(1, np.zeros(SIZE, np.uint8), evaluation.Seconds())
    without = dataclasses.replace(episode, targets=[None] * 5)
    with pytest.raises(FewsegError, match=r"mask of walk/00001: got none, expected one for every frame"):
        evaluation.video_rows(without, tracked, data.evaluation_part, 0)
    smaller = dataclasses.replace(episode, targets=[np.zeros((2, 8, 9), np.uint8)] * 5)
    with pytest.raises(FewsegError, match=r"mask of walk/00001: got 8 x 9, expected the frame's 24 x 32"):
        evaluation.video_rows(smaller, tracked, data.evaluation_part, 0)


# ------------------------------------------------------------------------------------------------------ a benchmark


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A benchmark of four methods, which the command line ran; one of them learned from other images."""
    folder = tmp_path_factory.mktemp("grid")
    data = {"dataset": {"class_path": "ShapesVideo", "init_args": TINY}, "size": 64, "cache": "images"}
    (folder / "data.yaml").write_text(yaml.safe_dump({"data": data, "trainer": {"accelerator": "cpu"}}))
    for name in ("guided", "panet", "fgbg", "osvos", "pretraining"):
        (folder / f"{name}.yaml").write_text((EXPERIMENTS / "models" / f"{name}.yaml").read_text())
    scenes = {"dataset": {"class_path": "Shapes5i", "init_args": SCENES}, "train_episodes": "semantic"}
    config = {
        "data": "data.yaml",
        "methods": {
            "guided": "guided.yaml",
            "panet": "panet.yaml",  # its answers are never all background, however little it is trained
            "fgbg": {"config": "fgbg.yaml", "data": scenes},
            "osvos": {"config": "osvos.yaml", "model": {"steps": 1}, "variants": {"+5": {"model": {"steps": 5}}}},
        },
        "compare": "fgbg",
        "protocol": "video",
        "points": [1, "dense"],
        "n_episodes": 2,
        "pretraining": {"config": "pretraining.yaml", "data": scenes, "max_steps": 3, "batch_size": 2},
        "training": {"max_steps": 4, "batch_size": 4, "n_val_episodes": 0},
    }
    path, out = folder / "grid.yaml", folder / "out"
    path.write_text(yaml.safe_dump(config))
    assert run(path, out) == 0
    return SimpleNamespace(path=path, out=out, rows=json.loads((out / "summary.json").read_text()))


def run(path, out):
    """On one thread, like the tests themselves: sums are the same to the last bit."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(benchmark.local.os, "cpu_count", lambda: 1)
        return main(["benchmark", str(path), "--out", str(out), "--workers", "1"])


SETTINGS = [(config, points) for config in ("guided", "panet", "fgbg", "osvos", "osvos+5") for points in (1, None)]


def test_every_method_and_variant_is_tested_on_all_videos(grid):
    assert {(row["config"], row["n_points"]) for row in grid.rows} == set(SETTINGS)
    assert len(list((grid.out / "trainings").glob("*/metrics.json"))) == 5
    for row in grid.rows:
        assert (row["dataset"], row["task"], row["protocol"], row["n_folds"]) == ("shapes-video", "video", "video", 1)
        assert (row["n_videos"], row["n_episodes"]) == (2, 2)
        assert row["n_objects"] == sum(int(video(i).objects.max()) for i in range(2))
        assert row["seconds_per_video"] == pytest.approx(row["seconds_per_episode"])
        whole = 5 * row["seconds_per_frame"] + row["seconds_guide_per_video"]
        assert row["seconds_per_video"] == pytest.approx(whole)
    spent = {row["config"]: row["seconds_guide_per_video"] for row in grid.rows if row["n_points"] is None}
    assert spent["osvos+5"] > spent["osvos"] > spent["fgbg"]


def video(i):
    """The masks of the first frame of a test video, in the order of its list."""
    dataset = ShapesVideo(**TINY)
    return SimpleNamespace(objects=dataset.objects(dataset.frames(dataset.sequences("val")[i])[0]))


def test_tables_say_what_a_method_learned_from(grid):
    notes = {row["config"]: row["training_note"] for row in grid.rows}
    before = "after 3 steps of 2 images that pre-train the encoder on all classes of shapes5i"
    assert notes["fgbg"].startswith("4 steps of 4 episodes of shapes5i")
    assert before in notes["fgbg"]
    assert notes["guided"].startswith(f"4 steps of 4 episodes {before}")
    lines = results.leaderboard(grid.rows, grid.out)
    assert not [line.note for line in lines if "partial" in line.note], "one fold is all there is"
    training = yaml.safe_load(next(grid.out.glob("trainings/fgbg-*/config.yaml")).read_text())
    assert training["data"]["dataset"]["class_path"] == "Shapes5i"
    first = yaml.safe_load(next(grid.out.glob("trainings/pretraining-*/config.yaml")).read_text())
    assert first["model"]["init_args"]["n_classes"] == len(Shapes5i.class_names)


def test_another_data_set_is_another_training(grid):
    plan = benchmark.plan(grid.path)
    config = yaml.safe_load(grid.path.read_text())
    config["methods"]["fgbg"]["data"]["dataset"]["init_args"] = {**SCENES, "seed": 1}
    config["pretraining"]["data"] = {**config["pretraining"]["data"], "size": 48}
    (grid.path.parent / "other.yaml").write_text(yaml.safe_dump(config))
    other = benchmark.plan(grid.path.parent / "other.yaml")
    for one, two in zip((*plan.pretrainings, *plan.trainings), (*other.pretrainings, *other.trainings), strict=True):
        assert one.id != two.id
        assert one.id[:-8] == two.id[:-8]
    assert {run.data["n_shot"] for run in plan.runs} == {1}
    assert [run.dataset for run in plan.runs] == ["shapes-video"] * 10


def test_the_same_grid_again_does_nothing(grid, capsys):
    before = {path: path.stat().st_mtime_ns for path in grid.out.glob("**/metrics.json")}
    assert len(before) == 5 + 10
    assert run(grid.path, grid.out) == 0
    assert {path: path.stat().st_mtime_ns for path in grid.out.glob("**/metrics.json")} == before
    assert json.loads((grid.out / "summary.json").read_text()) == grid.rows
    assert "J&F" in capsys.readouterr().out


def test_the_report_shows_films_and_accuracy_against_time(grid):
    text = (grid.out / "report.html").read_text()
    assert "<h2>Accuracy against time</h2>" in text
    films = re.findall(r'<img id="[^"]+" src="data:image/webp;base64,([^"]+)"', text)
    assert len(films) == 2 * (5 + 1), "for each video a strip of every method, and the truth"
    for name in ("guided", "panet", "fgbg", "osvos", "osvos+5"):
        assert re.search(rf"{re.escape(name)}, J \d\.\d{{3}}</div>", text), name
    assert "4 steps of 4 episodes of shapes5i" in text
    folders = [folder for folder in grid.out.glob("*/pictures") if (folder / "index.json").is_file()]
    assert all("-pdense-" in folder.parent.name for folder in folders)
    assert len(folders) == 5


def statistics(values):
    """Mean, recall and decay of the official evaluation: bins of its 0-based, truncated edges."""
    n = len(values)
    ends = [math.floor(k * (n - 1) / 4 + 1 + 0.5 + 1e-9) - 1 for k in range(5)]
    quarters = [values[ends[k] : ends[k + 1] + 1] for k in range(4)]
    return np.mean(values), np.mean([value > 0.5 for value in values]), np.mean(quarters[0]) - np.mean(quarters[3])


def naive_figures(folder, dataset):
    """J and F of indexed PNGs, with a loop over videos, objects and frames; the first and last do not count."""
    found = []
    for sequence in dataset.sequences("val"):
        ids = dataset.frames(sequence)
        for number in range(1, int(dataset.objects(ids[0]).max()) + 1):
            js, fs = [], []
            for image_id in ids[1:-1]:
                with PIL.Image.open(folder / f"{image_id}.png") as image:
                    assert image.mode == "P"
                    pred = np.array(image) == number
                truth = dataset.objects(image_id) == number
                union = (pred | truth).sum()
                js.append((pred & truth).sum() / union if union else 1.0)
                a, b = edges(pred), edges(truth)
                precision = near(a, b) / a.sum() if a.any() else 1.0
                recall = near(b, a) / b.sum() if b.any() else 1.0
                fs.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
            found.append((statistics(js), statistics(fs)))
    j, f = np.mean(found, axis=0)
    names = ("mean", "recall", "decay")
    figures = {f"{what}_{name}": v for what, own in (("j", j), ("f", f)) for name, v in zip(names, own, strict=True)}
    return figures | {"jf_mean": (j[0] + f[0]) / 2}


@pytest.mark.parametrize(("config", "points"), [("panet", 1), ("panet", None), ("osvos+5", None)])
def test_the_summary_can_be_scored_again_from_written_masks(grid, config, points, videos, tmp_path):
    (row,) = [row for row in grid.rows if (row["config"], row["n_points"]) == (config, points)]
    training = grid.out / "trainings" / row["training"]
    model = fewseg.load_model(training / "checkpoint")
    torch.save({"state_dict": model.state_dict(), "pytorch-lightning_version": "2"}, tmp_path / "model.ckpt")
    arguments = ["predict", "--config", str(training / "config.yaml"), "--ckpt_path", str(tmp_path / "model.ckpt")]
    arguments += ["--data.n_points", str(points or "null"), "--data.n_episodes", "2"]
    arguments += ["--model.steps", "5"] if config == "osvos+5" else []
    arguments += ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    assert main(arguments) == 0
    (table,) = tmp_path.rglob("predictions.csv")
    lines = pd.read_csv(table, dtype=str)
    assert lines["frames"].tolist() == ["5", "5"]
    assert lines["folder"].tolist() == list(videos.sequences("val"))
    figures = naive_figures(table.parent, videos)
    assert figures["j_mean"] > 0.01, "otherwise nothing is compared"
    assert {name: row[name] for name in figures} == pytest.approx(figures, abs=1e-9)


# --------------------------------------------------------------------------------------------------------- bad input


def command(tree, *more, verb="test"):
    arguments = [verb, "--model", "GuidedNet", "--model.encoder", "tiny", "--data.dataset", "Davis"]
    arguments += ["--data.root", str(tree.root), "--data.dataset.year", "2017", "--data.protocol", "video"]
    arguments += ["--data.size", "32", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    return [*arguments, "--trainer.default_root_dir", str(tree.root.parent / "runs"), *more]


def refused(capsys, arguments):
    """The one line that a wrong call ends with."""
    capsys.readouterr()
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert all(part in line for part in ("fewseg: error: ", ": got ", ", expected ", "; ")), line
    return line.strip().removeprefix("fewseg: error: ")


def rows_of(tree):
    return pd.read_parquet(next((tree.root.parent / "runs").rglob("episodes.parquet")))


def test_an_object_that_only_later_frames_show_is_background(tree):
    assert main(command(tree)) == 0
    rows = rows_of(tree)
    assert sorted(set(rows.object_id)) == [1, 2]
    for frame, number, tp, fn in rows[["frame", "object_id", "tp", "fn"]].itertuples(index=False):
        assert tp + fn == (walk(frame) == number).sum()
    assert main(command(tree, verb="predict")) == 0
    (folder,) = (tree.root.parent / "runs").rglob("predictions")
    for frame in range(5):
        with PIL.Image.open(folder / f"walk/{frame:05d}.png") as image:
            labels = np.array(image)
        assert labels.shape == SIZE
        assert set(np.unique(labels)) <= {0, 1, 2}


def test_an_object_that_the_first_frame_lacks_is_asked_for_below_the_largest_number(tmp_path):
    """As in the official evaluation: the first frame shows 2 and 3 only, object 1 comes later and counts."""
    tree = Tree(tmp_path / "davis", lambda frame: np.array([0, 2, 3, 1])[walk(frame) % 255].astype(np.uint8))
    assert main(command(tree, "--data.n_points", "2")) == 0
    rows = rows_of(tree)
    assert sorted(set(rows.object_id)) == [1, 2, 3]
    own = rows[rows.object_id == 1].sort_values("frame")
    assert (own.tp + own.fn).tolist() == [int((walk(frame) == 3).sum()) for frame in range(5)]


def break_size(tree):
    cv2.imwrite(str(tree.frame(2)), picture(2)[:12])


def break_mask_size(tree):
    write_label(tree.mask(3), walk(3)[:12])


def lose_frames(tree):
    for frame in range(5):
        tree.frame(frame).unlink()


def shorten(tree):
    for frame in (2, 3, 4):
        tree.frame(frame).unlink()
        tree.mask(frame).unlink()


def lose_later_masks(tree):
    for frame in range(1, 5):
        tree.mask(frame).unlink()


def truncate(tree):
    tree.frame(3).write_bytes(tree.frame(3).read_bytes()[:-40])


@pytest.mark.parametrize(
    ("change", "options", "where", "got"),
    [
        (lambda tree: tree.frame(2).unlink(), (), "JPEGImages/480p/walk", "00001.jpg, then 00003.jpg"),
        (
            lambda tree: tree.mask(2).unlink(),
            (),
            "davis walk",
            "1 of 5 frames without mask, the first of them walk/00002",
        ),
        (lose_frames, (), "JPEGImages/480p/walk", "no frames"),
        (break_size, (), "JPEGImages/480p/walk/00002.jpg", "a frame of 12 x 32 pixels"),
        (break_mask_size, (), "Annotations/480p/walk/00003.png", "a mask of 12 x 32 pixels"),
        (lambda tree: write_label(tree.mask(0), np.zeros(SIZE, np.uint8)), (), "walk", "no object in its first frame"),
        (truncate, (), "JPEGImages/480p/walk/00003.jpg", "a truncated JPEG"),
        (shorten, (), "davis walk", "a video of 2 frames"),
        (lose_later_masks, (), "davis walk", "4 of 5 frames without mask"),
        (None, ("--data.n_shot", "9"), "n_shot", "9 with 5 frames in walk"),
        (None, ("--data.frame_size", "3"), "--data.frame_size", "3"),
        (None, ("--model", "DIOS"), "model", "DIOS, which reads clicks only"),
        (None, ("--data.dataset.splits", "[test]"), "davis split", "'test'"),
    ],
)
def test_a_video_that_cannot_be_tested_is_one_line(tree, change, options, where, got, capsys):
    if change:
        change(tree)
    line = refused(capsys, command(tree, *options))
    argument, _, rest = line.partition(": got ")
    assert argument.endswith(where), line
    assert rest.startswith(got), line


def test_a_challenge_can_be_predicted(tree):
    lose_later_masks(tree)
    assert main(command(tree, verb="predict")) == 0
    assert len(list((tree.root.parent / "runs").rglob("walk/*.png"))) == 5


def test_images_are_refused_under_a_protocol_of_videos(tmp_path, capsys):
    arguments = ["test", "--model", "GuidedNet", "--data.dataset", "Shapes5i", "--data.protocol", "video"]
    arguments += [f"--data.dataset.{name}={count}" for name, count in SCENES.items()]
    Shapes5i(**SCENES)  # the bar of their drawing goes to stderr
    line = refused(capsys, [*arguments, "--trainer.default_root_dir", str(tmp_path)])
    assert line.startswith("--data.dataset: got Shapes5i, which has no videos, expected videos; ")


def test_a_method_that_reads_clicks_only_is_refused_before_anything_is_written(grid, tmp_path, capsys):
    config = yaml.safe_load(grid.path.read_text()) | {"methods": {"dios": {"config": "fgbg.yaml"}}, "compare": None}
    config["methods"]["dios"]["config"] = {"model": {"class_path": "DIOS", "init_args": {"encoder": "tiny"}}}
    path = grid.path.with_name("clicks.yaml")
    path.write_text(yaml.safe_dump(config))
    line = refused(capsys, ["benchmark", str(path), "--out", str(tmp_path / "out")])
    assert "got DIOS, which reads clicks only, expected a method that reads annotated frames" in line
    assert not (tmp_path / "out").exists()
