"""Pictures, predictions and wandb panels of videos, most with a made-up video and a tracker that answers at once."""

import csv
import json
from collections.abc import Sequence
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger

import fewseg
from fewseg import callbacks, evaluation
from fewseg.callbacks import EpisodePanels, WritePredictions, WriteRows, save_pictures
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import ShapesVideo
from fewseg.datasets.voc import voc_palette
from fewseg.episode import EpisodeSpec, Row, VideoEpisode
from fewseg.errors import FewsegError
from fewseg.functional.draw import colour_of, shown_frames
from fewseg.models import base
from fewseg.models.base import Labels, film_frames
from fewseg.results import read_rows

SIZE, FRAMES = (60, 80), 30


class Reads(Sequence):
    """A lazy sequence that remembers what was read."""

    def __init__(self, make, n):
        self.make, self.n, self.read = make, n, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read.append(i)
        return self.make(i)


def labels_at(frame):
    """Two objects, the first of which moves to the right."""
    labels = np.zeros(SIZE, np.uint8)
    labels[10:30, frame : frame + 20] = 1
    labels[40:50, 5:15] = 2
    return labels


def video(name="walk", annotated=(0,), truth=True):
    def target(frame):
        return np.stack([labels_at(frame) == 1, labels_at(frame) == 2]).astype(np.uint8) if truth else None

    ids = tuple(f"{name}/{frame:05d}" for frame in range(FRAMES))
    spec = EpisodeSpec(name, tuple(ids[frame] for frame in annotated), 1)
    # a frame's grey tells its index
    frames = Reads(lambda frame: np.full((*SIZE, 3), 4 * frame + 40, np.uint8), FRAMES)
    return VideoEpisode(frames, {frame: target(frame) for frame in annotated}, Reads(target, FRAMES), spec, ids)


class Data(SimpleNamespace):
    """What callbacks ask of a data module."""

    def __init__(self, videos):
        part = SimpleNamespace(task="video")
        super().__init__(videos={one.spec.query_id: one for one in videos}, evaluation_part=part)

    def episode_list(self):
        return SimpleNamespace(specs=tuple(one.spec for one in self.videos.values()))

    def places(self):
        return list(range(len(self.videos)))

    def video_of(self, spec):
        return self.videos[spec.query_id]


def track(model, episode, data):
    """Finds the objects by the grey of the frame: right wherever the frame comes from."""
    for place in range(len(episode)):
        image = episode.frames[place]
        yield evaluation.Tracked(place, labels_at((int(image[0, 0, 0]) - 40) // 4), evaluation.Seconds(0.0, 0.0, 0.0))


def module_after(*videos):
    """What a test on videos leaves in a module: right labels of the frames that pictures show."""
    films = {
        place: {frame: Labels.packed(labels_at(frame)) for frame in film_frames(one)}
        for place, one in enumerate(videos[:3])
    }
    return SimpleNamespace(films=films)


def rows_of(episode, ious):
    """Object 1 and 2 of every frame; the first and last frames are wrong, which must not count."""
    return [
        Row(
            episode,
            "walk",
            "s",
            1,
            *((0, 9, 0) if frame in (0, FRAMES - 1) else (tp, 0, 4 - tp)),
            0,
            number,
            None,
            frame,
        )
        for number, tp in enumerate(ious, 1)
        for frame in range(FRAMES)
    ]


def test_strips_of_the_first_three_videos(tmp_path):
    names = ("a", "b", "c", "d")
    data = Data([video(name, (0, 13)) for name in names])
    rows = [row for place in range(4) for row in rows_of(place, (place, 4))]
    save_pictures(module_after(*data.videos.values()), data, rows, tmp_path)
    entries = json.loads((tmp_path / "index.json").read_text())
    assert [(e["kind"], e["query"], e["episode"]) for e in entries] == [
        (kind, name, place) for place, name in enumerate(names[:3]) for kind in ("film", "truth")
    ]
    assert [e["j_mean"] for e in entries if e["kind"] == "film"] == [0.5, 0.625, 0.75]  # of objects: 0, 1/4, 1/2; and 1
    assert {tuple(e["annotated"]) for e in entries} == {(0, 13)}
    strips = [cv2.imread(str(tmp_path / e["file"])) for e in entries]
    assert {strip.shape for strip in strips} == {(120, 6 * 160 + 5 * 4, 3)}
    # what was kept is right, so that away from borders and numbers a prediction looks like the truth
    for pred, truth in zip(strips[::2], strips[1::2], strict=True):
        assert np.abs(pred.astype(int) - truth).max() < 20
    assert not data.videos["d"].frames.read
    shown = set(data.videos["a"].frames.read)
    assert {0, 13, FRAMES - 1} <= shown
    assert len(shown) == 6  # no other frame is read


def test_points_are_drawn_in_the_truth_alone(tmp_path):
    one = video()
    maps = np.full((2, *SIZE), 255, np.uint8)
    maps[:, 55, 70] = 0
    one.annotations[0] = maps
    save_pictures(module_after(one), Data([one]), rows_of(0, (4, 4)), tmp_path)
    pred, truth = (cv2.imread(str(tmp_path / f"{kind}-0.jpg")) for kind in ("film", "truth"))
    assert truth[111, 141].min() > 200  # a background point is white
    assert pred[111, 141].max() < 100


def test_videos_without_truth_have_frames(tmp_path):
    one = video(truth=False)
    one.annotations[0] = np.zeros((2, *SIZE), np.uint8)
    save_pictures(module_after(one), Data([one]), [], tmp_path)
    truth = cv2.imread(str(tmp_path / "truth-0.jpg")).astype(int)[:, 180:]  # beyond the first tile with its red border
    assert (truth.max(-1) - truth.min(-1)).max() < 10  # grey: nothing is tinted


def predict(folder, data, videos=None):
    trainer = SimpleNamespace(
        log_dir=str(folder), default_root_dir="", logger=None, datamodule=data, is_global_zero=True
    )
    callback = WritePredictions()
    callback.on_predict_start(trainer, torch.nn.Identity())
    for i, one in enumerate(videos or data.videos.values()):
        callback.on_predict_batch_end(trainer, torch.nn.Identity(), track(None, one, data), one, i)
    callback.on_predict_end(trainer, torch.nn.Identity())
    return folder / "predictions"


def test_predictions_lie_as_the_official_evaluation_reads_them(tmp_path):
    folder = predict(tmp_path, Data([video("walk"), video("dance", (0, 4))]))
    assert sorted(path.name for path in folder.iterdir()) == ["dance", "predictions.csv", "walk"]
    for name in ("walk", "dance"):
        # nothing but whole frames
        assert sorted(path.name for path in (folder / name).iterdir()) == [f"{i:05d}.png" for i in range(FRAMES)]
    with PIL.Image.open(folder / "dance/00007.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == voc_palette()[:9]
        assert np.array_equal(np.array(image), labels_at(7))
    lines = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    assert lines == [
        {"episode": str(i), "query": name, "support": support, "objects": "2", "frames": "30", "folder": name}
        for i, (name, support) in enumerate((("walk", "walk/00000"), ("dance", "dance/00000 dance/00004")))
    ]


def test_a_video_is_written_as_it_comes(tmp_path):
    """What breaks in the middle leaves whole frames, no half one, and no table."""

    def broken():
        yield from list(track(None, video(), None))[:3]
        raise ZeroDivisionError

    data = Data([video()])
    trainer = SimpleNamespace(
        log_dir=str(tmp_path), default_root_dir="", logger=None, datamodule=data, is_global_zero=True
    )
    callback = WritePredictions()
    callback.on_predict_start(trainer, torch.nn.Identity())
    with pytest.raises(ZeroDivisionError):
        callback.on_predict_batch_end(trainer, torch.nn.Identity(), broken(), video(), 0)
    files = sorted(path.name for path in (tmp_path / "predictions").rglob("*.*"))
    assert files == ["00000.png", "00001.png", "00002.png"]


def test_wandb_gets_gifs_with_overlays(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    logged = []

    class Logger(WandbLogger):
        def __init__(self):
            pass

        @property
        def experiment(self):
            return SimpleNamespace(log=lambda what: logged.append(what))

    import wandb

    def kept(path, caption, format):
        with PIL.Image.open(path) as image:
            return image.n_frames, image.size, caption, np.array(image.convert("RGB"))

    monkeypatch.setattr(wandb, "Video", kept)
    monkeypatch.setattr(callbacks, "FewShotSegmentor", SimpleNamespace)
    data = Data([video(name) for name in ("a", "b", "c")])
    module = module_after(*data.videos.values())
    trainer = SimpleNamespace(loggers=[Logger()], datamodule=data, is_global_zero=True)
    EpisodePanels(n_episodes=2).on_test_end(trainer, module)
    (panels,) = logged
    assert list(panels) == ["videos/0", "videos/1"]
    n_frames, size, caption, first = panels["videos/0"]
    assert (n_frames, size, caption) == (FRAMES, (80, 120), "a")
    for half in (first[:60], first[60:]):  # truth and prediction
        assert np.abs(half[10, 10].astype(int) - colour_of(1)).max() < 30  # on the contour
        assert np.abs(half[55, 70].astype(int) - 40).max() < 10
    EpisodePanels(n_episodes=4).on_test_end(trainer, module)
    assert list(logged.pop()) == ["videos/0", "videos/1", "videos/2"]  # no more are kept
    data.evaluation_part.task = "semantic"
    EpisodePanels().on_test_end(trainer, module)
    assert len(logged) == 1


def test_a_film_holds_the_frames_of_strip_and_gif():
    one = video()
    assert film_frames(one) == list(range(FRAMES))
    nothing = np.zeros((2, *SIZE), np.uint8)
    frames = film_frames(VideoEpisode([], {3: nothing, 50: nothing}, [], one.spec, ("a",) * 100))
    assert {*shown_frames(100, [3, 50]), *shown_frames(100, (), 40)} == set(frames)
    assert {0, 3, 50, 99} <= set(frames)
    assert len(frames) <= 46


SHORT = {"n_train": 1, "n_val": 4, "n_frames": 5}


@pytest.fixture(scope="module")
def shapes():
    return ShapesVideo(**SHORT)


def run_test(model, data, folder, monkeypatch, places=None):
    """``fewseg test``, with what it tracked."""
    passes, original = [], evaluation.track

    def recorded(model, episode, data):
        passes.append((episode.spec.query_id, {}))
        for tracked in original(model, episode, data):
            passes[-1][1][tracked.frame] = tracked.labels
            yield tracked

    monkeypatch.setattr(evaluation, "track", recorded)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(default_root_dir=folder, callbacks=[WriteRows()], **options)
    trainer.test(model, data, verbose=False)
    return trainer, passes


def test_a_test_keeps_the_labels_of_the_first_videos_and_tracks_each_once(shapes, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    model = fewseg.create_model("PANet", encoder="tiny")
    data = FewShotDataModule(shapes, "video", size=64)
    monkeypatch.setattr(base, "shown_frames", lambda n, annotated, n_shown=6: [0, 2, 4])
    trainer, passes = run_test(model, data, tmp_path, monkeypatch)
    names = [spec.query_id for spec in data.episode_list().specs]
    assert [name for name, _ in passes] == [names[0], *names]  # the first frame of the first video warms up
    assert len(passes[0][1]) == 1
    assert sorted(model.films) == [0, 1, 2]
    for place, film in model.films.items():
        assert sorted(film) == [0, 2, 4]
        for frame, packed in film.items():
            assert np.array_equal(packed.unpacked(), passes[1 + place][1][frame])
    monkeypatch.setattr(callbacks, "shown_frames", base.shown_frames)
    save_pictures(model, data, model.rows, tmp_path / "pictures")
    assert len(passes) == 1 + len(names)  # pictures segment nothing
    entries = json.loads((tmp_path / "pictures/index.json").read_text())
    assert [e["query"] for e in entries if e["kind"] == "film"] == names[:3]

    figures = json.loads((tmp_path / "test/metrics.json").read_text())
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged == pytest.approx(
        {f"test/{name}": figures[name] for name in ("jf_mean", "j_mean", "f_mean", "positive_iou")}, abs=1e-6
    )
    assert "class_blind" not in figures
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith(f"J&F {figures['jf_mean']:.3f} [")
    assert f" over 4 videos: {tmp_path / 'test'}" in told
    assert "mIoU" not in told


def test_films_go_by_the_place_in_the_list(shapes, tmp_path, monkeypatch):
    """As one of two processes does, which tests every other video."""
    model = fewseg.create_model("PANet", encoder="tiny")
    data = FewShotDataModule(shapes, "video", size=64)
    specs = data.episode_list().specs
    module = SimpleNamespace(evaluation_part=data.evaluation_part)
    monkeypatch.setattr(evaluation, "track", lambda model, episode, data: iter([EMPTY._replace(frame=2)]))
    monkeypatch.setattr(evaluation, "video_rows", lambda *arguments: [])
    model._trainer = SimpleNamespace(datamodule=module)
    model.places = [3, 1]  # last first
    for i, place in enumerate((1, 3)):
        model.test_step(data.video_of(specs[place]), i)
    assert {place: list(film) for place, film in model.films.items()} == {1: [2]}


def test_films_of_all_processes_come_together(monkeypatch):
    model = fewseg.create_model("PANet", encoder="tiny")
    other = {1: {4: Labels.packed(labels_at(4))}}
    edges = dict.fromkeys(("boundary_pred", "boundary_true", "boundary_pred_matched", "boundary_true_matched"), 5)
    model.rows = [row._replace(**edges) for row in rows_of(0, (1, 4))]
    model.films = {0: {2: Labels.packed(labels_at(2))}}
    monkeypatch.setattr(evaluation, "gather_parts", lambda own: [own, other] if own is model.films else [own])
    logged = {}
    monkeypatch.setattr(model, "log_dict", lambda scores, **options: logged.update(scores))
    model.on_test_epoch_end()
    assert {place: list(film) for place, film in model.films.items()} == {0: [2], 1: [4]}
    assert np.array_equal(model.films[1][4].unpacked(), labels_at(4))
    # objects with J 1/4 and 1 in all frames that count, and whole boundaries
    expected = {"j_mean": 0.625, "f_mean": 1.0, "jf_mean": 0.8125, "positive_iou": 0.625}
    assert logged == pytest.approx({f"test/{name}": value for name, value in expected.items()})


EMPTY = evaluation.Tracked(0, np.zeros((96, 128), np.uint8), evaluation.Seconds(0.0, 0.0, 0.0))


def test_class_blind_methods_say_so(shapes, tmp_path, monkeypatch):
    model = fewseg.create_model("FgBg", encoder="tiny")
    run_test(model, FewShotDataModule(shapes, "video", size=64, n_episodes=1), tmp_path, monkeypatch)
    assert model.figures == {"class_blind": True}
    assert json.loads((tmp_path / "test/metrics.json").read_text())["class_blind"] is True
    assert len(read_rows(tmp_path / "test/episodes.parquet")) == len(model.rows)


@pytest.mark.parametrize("use", ["test_step", "predict_step"])
def test_too_many_annotated_frames_name_the_option(shapes, use, monkeypatch):
    model = fewseg.create_model("PANet", encoder="tiny")
    monkeypatch.setattr(type(model.network), "max_shot", 1)
    model.places = [0]
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(evaluation_part=None))
    with pytest.raises(FewsegError, match=r"^--data.n_shot: got 2, expected at most 1 for PANet"):
        getattr(model, use)(video(annotated=(0, 4)), 0)
