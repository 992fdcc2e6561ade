"""Pictures, predictions and wandb panels of instances: a tiny network, and detections that are made up."""

import csv
import json
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest
import pytorch_lightning as pl
import torch
from pycocotools.coco import COCO
from pytorch_lightning.loggers import WandbLogger

import fewseg
from fewseg import callbacks, evaluation
from fewseg.callbacks import (
    EpisodePanels,
    WritePredictions,
    WriteRows,
    draw_episodes,
    save_pictures,
    write_detections,
)
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import ShapesCoco
from fewseg.episode import Instances, Row
from fewseg.evaluation import Found, Seconds
from fewseg.functional.draw import OBJECTS
from fewseg.functional.instance_figures import instance_figures
from fewseg.protocols import get_protocol
from fewseg.results import read_rows

PROTOCOL = "one-shot"
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="module")
def shapes():
    return ShapesCoco(n_train=12, n_val=8)


@pytest.fixture
def data(shapes):
    return FewShotDataModule(shapes, PROTOCOL, size=64, n_episodes=10, eval_batch_size=4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"encoder": "tiny", "width": 16, "n_proposals": 20, "score_threshold": 0.0, "n_detections": 5}
    return fewseg.create_model("SiameseMaskRCNN", **options)


def answers(monkeypatch, scores):
    """The network finds what is asked for, or, with a score below 0.5, a box in the corner beside it."""

    def search(network, batch, random_boxes="none", threshold=0.0):
        found = []
        for spec, truth in zip(batch.specs, batch.instances, strict=True):
            own = truth.labels == spec.class_id
            boxes, masks = truth.boxes[own][:1].repeat(len(scores), 1), truth.masks[own][:1].repeat(len(scores), 1, 1)
            for place, score in enumerate(scores):
                if score < 0.5:
                    boxes[place], masks[place] = torch.tensor([0.0, 0, 9, 7]), 0
                    masks[place, :7, :9] = 1
            labels = torch.ones(len(scores), dtype=torch.int64)
            found.append(Instances(boxes, masks, labels, torch.tensor(scores)))
        if random_boxes == "truth":
            return Found(evaluation.shifted_truth(batch), None, None)
        return Found(tuple(found), Seconds(0.0, 0.0, 0.0), None)

    monkeypatch.setattr(evaluation, "search", search)


def test_the_panel_shows_what_is_scored_beside_the_truth(shapes, data, model, monkeypatch):
    answers(monkeypatch, [0.9])
    spec = data.episode_list().specs[0]
    model.train()  # as the trainer leaves it
    (drawn,) = draw_episodes(model, data, [spec])
    assert model.training
    height, width = shapes.image(spec.query_id).shape[:2]
    wide = round(width * 240 / height)
    assert drawn.shape == (240, 2 * wide + 4, 3)
    pred, known = drawn[:, :wide], drawn[:, wide + 4 :]
    right = (pred == known).all(-1)
    assert right[:180].mean() > 0.9  # but for the score and the other objects of the class
    assert not right[180:, :50].all()  # where the reference lies
    (crop,) = [crop for crop, _ in data.pictures_of_supports(spec)]
    side = 240 // 4 - 6
    size = [round(n * side / max(crop.shape[:2])) for n in crop.shape[:2]]
    shown = pred[240 - 3 - size[0] : 240 - 3, 3 : 3 + size[1]]
    assert np.array_equal(shown, cv2.resize(crop, size[::-1], interpolation=cv2.INTER_NEAREST))


def test_pictures_of_random_boxes_show_random_boxes(shapes, model, monkeypatch):
    answers(monkeypatch, [0.9])
    data = FewShotDataModule(shapes, PROTOCOL, size=64, n_episodes=10, random_boxes="truth")
    moved, move = [], evaluation.shifted_truth
    monkeypatch.setattr(evaluation, "shifted_truth", lambda batch: moved.extend(batch.specs) or move(batch))
    specs = list(data.episode_list().specs[:2])
    draw_episodes(model, data, specs)
    assert moved == specs


def test_a_model_trains_on_although_drawing_failed(data, model):
    model.train()
    with pytest.raises(AttributeError):
        draw_episodes(model, data, [None])
    assert model.training


def row(episode, tp, **more):
    return Row(episode, "q", "s", 1, tp, 0, 10 - tp, 0, **more)


def test_episodes_are_ranked_by_the_union_of_what_was_found(data, model, tmp_path, monkeypatch):
    blank = callbacks.Drawn(*[np.zeros((2, 2, 3), np.uint8)] * 2, *[np.zeros((2, 2), np.uint8)] * 2)
    monkeypatch.setattr(callbacks, "look_at", lambda *what: [blank] * 3)
    found = {"score": 0.9, "object_id": 0}
    rows = [row(0, 5, truth="1:1"), row(0, 0, **found), row(1, 2, truth="1:1"), row(1, 9, **found), row(2, 8)]
    save_pictures(model, data, rows, tmp_path)
    entries = {entry["kind"]: entry for entry in json.loads((tmp_path / "index.json").read_text())}
    assert {kind: (entry["episode"], entry["iou"]) for kind, entry in entries.items()} == {
        "worst": (1, 0.2),
        "median": (0, 0.5),
        "best": (2, 0.8),
    }


def test_a_run_over_references_has_its_own_results(tmp_path):
    part = get_protocol(PROTOCOL).evaluation
    entries = [[{"image_id": place}] * (place % 3) for place in range(10)]
    write_detections(tmp_path, [(place, json.dumps(own)) for place, own in enumerate(entries)], part)
    found = [json.loads((tmp_path / f"detections-{run}.json").read_text()) for run in range(5)]
    assert found == [entries[2 * run] + entries[2 * run + 1] for run in range(5)]
    write_detections(tmp_path / "none", [], part)
    assert not (tmp_path / "none").exists()


def test_a_test_encodes_each_detection_once_and_draws_no_benchmarks(data, model, monkeypatch):
    answers(monkeypatch, [0.9, 0.4])
    encoded, encode = [], evaluation.detected
    monkeypatch.setattr(evaluation, "detected", lambda own: encoded.append(own) or encode(own))
    monkeypatch.setattr("fewseg.functional.instance_figures.interval_of_ap50", None)
    pl.Trainer(**QUIET, enable_checkpointing=False).test(model, data, verbose=False)
    assert len(encoded) == 10
    assert len(model.rows) == 30


def test_a_validation_matches_nothing(shapes, model, monkeypatch):
    answers(monkeypatch, [0.9, 0.4])
    monkeypatch.setattr(evaluation, "match", None)
    data = FewShotDataModule(shapes, PROTOCOL, size=64, n_val_episodes=3, random_boxes="truth")
    monkeypatch.setattr(data, "validation_episodes", data.episode_list)
    monkeypatch.setattr(data, "n_episodes", 5)
    trainer = pl.Trainer(**QUIET, enable_checkpointing=False)
    (scores,) = trainer.validate(model, data, verbose=False)
    assert scores["val/positive_iou"] > 0.5  # what was found, not random boxes


def test_random_boxes_of_the_paper_are_tested_without_the_network(shapes, model, monkeypatch, tmp_path):
    monkeypatch.setattr(type(model.network), "detect", None)
    data = FewShotDataModule(shapes, PROTOCOL, size=64, n_episodes=5, random_boxes="truth")
    pl.Trainer(default_root_dir=tmp_path, callbacks=[WriteRows()], **QUIET).test(model, data, verbose=False)
    figures = json.loads((tmp_path / "test/metrics.json").read_text())
    assert figures["seconds_per_episode"] == 0
    assert figures["ap50_boxes"] >= 0


def test_a_test_leaves_rows_metrics_and_results(shapes, data, model, tmp_path, capsys, monkeypatch):
    answers(monkeypatch, [0.9, 0.4])
    trainer = pl.Trainer(default_root_dir=tmp_path, callbacks=[WriteRows()], **QUIET)
    trainer.test(model, data, verbose=False)
    folder = tmp_path / "test"
    figures = json.loads((folder / "metrics.json").read_text())
    frame = read_rows(folder / "episodes.parquet")
    assert figures["n_repeats"] == 5
    assert figures["n_episodes"] == 10
    again = instance_figures(frame, shapes.class_names, data.scored_classes(), 5)
    assert {name: figures[name] for name in again} == json.loads(json.dumps(again))
    assert (figures["n_objects"], figures["ap50_boxes"]) == (10, 1.0)  # each is found, above what is wrong
    assert f"AP50 boxes {figures['ap50_boxes']:.3f} [" in capsys.readouterr().out.splitlines()[-1]
    truth = COCO(str(shapes.root / "annotations/instances_val2017.json"))
    for run in range(5):
        loaded = truth.loadRes(str(folder / f"detections-{run}.json"))
        own = frame[frame["score"].notna() & (frame["episode"] // 2 == run)]
        assert sorted(one["score"] for one in loaded.dataset["annotations"]) == pytest.approx(sorted(own["score"]))
        asked = {spec.class_id for spec in data.episode_list().specs}
        assert {one["category_id"] for one in loaded.dataset["annotations"]} <= asked


@pytest.fixture
def predicted(data, model, tmp_path, monkeypatch, capsys):
    answers(monkeypatch, [0.9, 0.6, 0.4])
    trainer = pl.Trainer(default_root_dir=tmp_path, callbacks=[WritePredictions()], **QUIET)
    trainer.predict(model, data)
    return tmp_path / "predictions", data, capsys.readouterr().out.splitlines()[-1]


def test_predictions_of_instances(shapes, predicted):
    folder, data, told = predicted
    lines = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    specs = data.episode_list().specs
    assert told == f"30 instances in 10 episodes: {folder}"
    assert [int(line["episode"]) for line in lines] == [place for place in range(10) for _ in range(3)]
    assert [line["number"] for line in lines] == ["1", "2", "3"] * 10
    for place, spec in enumerate(specs):
        first, _, last = lines[3 * place : 3 * place + 3]
        assert (first["query"], first["support"], int(first["class_id"])) == (
            spec.query_id,
            " ".join(spec.support_ids),
            spec.class_id,
        )
        assert (first["score"], last["score"]) == ("0.90000", "0.40000")
        assert [last[side] for side in ("x0", "y0", "x1", "y1")] == ["0.00", "0.00", "9.00", "7.00"]
        assert first["file"] == f"{place:05d}-{spec.query_id}-class{spec.class_id}.png"
        own = next(one for one in shapes.instances(spec.query_id) if one.class_id == spec.class_id)
        x, y, width, height = own.box
        assert [float(first[side]) for side in ("x0", "y0", "x1", "y1")] == [x, y, x + width, y + height]
        with PIL.Image.open(folder / first["file"]) as image:
            assert image.mode == "P"
            # both good detections have one mask, of which the better one shows; the third is none
            assert np.array_equal(np.array(image), own.mask.astype(np.uint8))
        picture = cv2.imread(str(folder / first["picture"]))[..., ::-1].astype(int)
        box = np.abs(picture - OBJECTS[0]).max(-1) < 60
        assert box.sum() > 50
        assert picture.shape[0] == 240
    assert len(list(folder.iterdir())) == 10 + 10 + 5 + 1


def test_a_network_is_drawn_and_written(data, model, tmp_path):
    pl.Trainer(default_root_dir=tmp_path, callbacks=[WritePredictions()], **QUIET).predict(model, data)
    lines = list(csv.DictReader((tmp_path / "predictions/predictions.csv").read_text().splitlines()))
    assert {int(line["number"]) for line in lines} == {1, 2, 3, 4, 5}
    (drawn,) = draw_episodes(model, data, [data.episode_list().specs[0]])
    assert drawn.shape[0] == 240


def test_predictions_are_read_by_cocos_tools(shapes, predicted):
    folder, data, _ = predicted
    truth = COCO(str(shapes.root / "annotations/instances_val2017.json"))
    for run in range(5):
        loaded = truth.loadRes(str(folder / f"detections-{run}.json")).dataset["annotations"]
        specs = data.episode_list().specs[2 * run : 2 * run + 2]
        assert [one["image_id"] for one in loaded] == [int(spec.query_id) for spec in specs for _ in range(3)]
        assert [one["score"] for one in loaded] == pytest.approx([0.9, 0.6, 0.4] * 2)
        assert loaded[2]["bbox"] == [0, 0, 9, 7]


def test_nothing_found_leaves_an_empty_map_and_no_line(data, model, tmp_path, monkeypatch):
    answers(monkeypatch, [])
    trainer = pl.Trainer(default_root_dir=tmp_path, callbacks=[WritePredictions()], **QUIET)
    trainer.predict(model, data)
    folder = tmp_path / "predictions"
    assert len((folder / "predictions.csv").read_text().splitlines()) == 1
    assert len(list(folder.glob("*.png"))) == 10
    with PIL.Image.open(next(folder.glob("*.png"))) as image:
        assert not np.array(image).any()
    assert json.loads((folder / "detections-0.json").read_text()) == []


class Logger(WandbLogger):
    def __init__(self, logged):
        self.logged = logged

    @property
    def experiment(self):
        return SimpleNamespace(log=self.logged.append)


@pytest.fixture
def wandb_images(monkeypatch):
    """What is given to wandb.Image."""
    wandb = pytest.importorskip("wandb")
    checked = wandb.Image  # refuses wrong boxes and masks

    def image(picture, **what):
        checked(picture, **what)
        return SimpleNamespace(picture=picture, **what)

    monkeypatch.setattr(wandb, "Image", image)


@pytest.mark.parametrize("hook", ["on_validation_epoch_end", "on_test_end"])
def test_wandb_gets_boxes_and_masks(shapes, data, model, monkeypatch, wandb_images, hook):
    logged = []
    answers(monkeypatch, [0.9, 0.4])
    trainer = SimpleNamespace(
        loggers=[Logger(logged)], datamodule=data, is_global_zero=True, sanity_checking=False, global_step=7
    )
    if hook == "on_validation_epoch_end":
        monkeypatch.setattr(data, "validation_episodes", data.episode_list)
    getattr(EpisodePanels(n_episodes=2), hook)(trainer, model)
    (panels,) = logged
    kinds = [f"episodes/{i}/{kind}" for i in range(2) for kind in ("panel", "query")]
    assert [name for name in panels if name != "trainer/global_step"] == kinds
    spec = data.episode_list().specs[0]
    own = [one for one in shapes.instances(spec.query_id) if one.class_id == spec.class_id]
    query = panels["episodes/0/query"]
    name = shapes.class_names[spec.class_id - 1]
    (box,) = query.boxes["prediction"]["box_data"]  # the other one scores too little
    x, y, width, height = own[0].box
    assert box["position"] == {"minX": x, "minY": y, "maxX": x + width, "maxY": y + height}
    assert box["scores"]["score"] == pytest.approx(0.9)
    assert query.boxes["prediction"]["class_labels"] == {spec.class_id: name}
    assert np.array_equal(query.masks["prediction"]["mask_data"] == 1, own[0].mask)
    assert len(query.boxes["truth"]["box_data"]) == len(own)
    assert np.array_equal(query.masks["truth"]["mask_data"] > 0, np.any([one.mask for one in own], axis=0))
    assert np.array_equal(panels["episodes/0/panel"].picture, draw_episodes(model, data, [spec])[0])


@pytest.mark.parametrize("hook", ["on_validation_epoch_end", "on_test_end"])
def test_panels_of_a_validation_show_no_random_boxes(shapes, model, monkeypatch, wandb_images, hook):
    answers(monkeypatch, [0.9])
    data = FewShotDataModule(shapes, PROTOCOL, size=64, n_episodes=10, random_boxes="truth")
    monkeypatch.setattr(data, "validation_episodes", data.episode_list)
    moved, move = [], evaluation.shifted_truth
    monkeypatch.setattr(evaluation, "shifted_truth", lambda batch: moved.extend(batch.specs) or move(batch))
    trainer = SimpleNamespace(
        loggers=[Logger([])], datamodule=data, is_global_zero=True, sanity_checking=False, global_step=7
    )
    getattr(EpisodePanels(n_episodes=1), hook)(trainer, model)
    assert len(moved) == (hook == "on_test_end")


def test_a_semantic_method_is_validated_as_before(data, monkeypatch, wandb_images):
    """Under a protocol of instances it trains and is validated on masks."""
    logged = []
    monkeypatch.setattr(data, "validation_episodes", data.episode_list)
    trainer = SimpleNamespace(loggers=[Logger(logged)], datamodule=data, sanity_checking=False, global_step=7)
    EpisodePanels(n_episodes=1).on_validation_epoch_end(trainer, fewseg.create_model("PANet", encoder="tiny"))
    assert {"episodes/0/query", "episodes/0/support0"} <= logged[0].keys()
