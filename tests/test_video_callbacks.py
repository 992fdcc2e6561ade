"""Pictures, predictions and wandb panels of videos, with a made-up video and a tracker that answers at once."""

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

from fewseg import callbacks, evaluation
from fewseg.callbacks import EpisodePanels, WritePredictions, save_pictures
from fewseg.datasets.voc import voc_palette
from fewseg.episode import EpisodeSpec, Row, VideoEpisode
from fewseg.functional.draw import colour_of

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


@pytest.fixture(autouse=True)
def _tracked(monkeypatch):
    monkeypatch.setattr(evaluation, "track", track)


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
    save_pictures(torch.nn.Identity(), data, rows, tmp_path)
    entries = json.loads((tmp_path / "index.json").read_text())
    assert [(e["kind"], e["query"], e["episode"]) for e in entries] == [
        (kind, name, place) for place, name in enumerate(names[:3]) for kind in ("film", "truth")
    ]
    assert [e["j_mean"] for e in entries if e["kind"] == "film"] == [0.5, 0.625, 0.75]  # of objects: 0, 1/4, 1/2; and 1
    assert {tuple(e["annotated"]) for e in entries} == {(0, 13)}
    strips = [cv2.imread(str(tmp_path / e["file"])) for e in entries]
    assert {strip.shape for strip in strips} == {(120, 6 * 160 + 5 * 4, 3)}
    # the tracker is right, so that away from borders and numbers a prediction looks like the truth
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
    save_pictures(torch.nn.Identity(), Data([one]), rows_of(0, (4, 4)), tmp_path)
    pred, truth = (cv2.imread(str(tmp_path / f"{kind}-0.jpg")) for kind in ("film", "truth"))
    assert truth[111, 141].min() > 200  # a background point is white
    assert pred[111, 141].max() < 100


def test_videos_without_truth_have_frames(tmp_path):
    one = video(truth=False)
    one.annotations[0] = np.zeros((2, *SIZE), np.uint8)
    save_pictures(torch.nn.Identity(), Data([one]), [], tmp_path)
    truth = cv2.imread(str(tmp_path / "truth-0.jpg")).astype(int)[:, 180:]  # beyond the first tile with its red border
    assert (truth.max(-1) - truth.min(-1)).max() < 10  # grey: nothing is tinted


def predict(folder, data, videos=None):
    trainer = SimpleNamespace(log_dir=str(folder), default_root_dir="", datamodule=data, is_global_zero=True)
    callback = WritePredictions()
    callback.on_predict_start(trainer, torch.nn.Identity())
    for i, one in enumerate(videos or data.videos.values()):
        callback.on_predict_batch_end(trainer, torch.nn.Identity(), evaluation.track(None, one, data), one, i)
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
    trainer = SimpleNamespace(log_dir=str(tmp_path), default_root_dir="", datamodule=data, is_global_zero=True)
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
    monkeypatch.setattr(callbacks, "FewShotSegmentor", pl.LightningModule)
    data = Data([video(name) for name in ("a", "b", "c")])
    trainer = SimpleNamespace(loggers=[Logger()], datamodule=data, is_global_zero=True)
    EpisodePanels(n_episodes=2).on_test_epoch_end(trainer, pl.LightningModule())
    (panels,) = logged
    assert list(panels) == ["videos/0", "videos/1"]
    n_frames, size, caption, first = panels["videos/0"]
    assert (n_frames, size, caption) == (FRAMES, (80, 120), "a")
    for half in (first[:60], first[60:]):  # truth and prediction
        assert np.abs(half[10, 10].astype(int) - colour_of(1)).max() < 30  # on the contour
        assert np.abs(half[55, 70].astype(int) - 40).max() < 10
    data.evaluation_part.task = "semantic"
    EpisodePanels().on_test_epoch_end(trainer, pl.LightningModule())
    assert len(logged) == 1
