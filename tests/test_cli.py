"""The command line, as people call it: configs run, files appear, and wrong input ends in one line."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import pytorch_lightning as pl
import torch
import yaml
from safetensors.torch import load_file

from fewseg import benchmark
from fewseg.cli import main, said_our_way
from fewseg.datasets import Shapes5i, ShapesCoco, ShapesVideo
from fewseg.datasets.voc import voc_palette, write_label
from fewseg.models.base import FewShotSegmentor
from fewseg.protocols import get_protocol

torch.set_num_threads(1)

HERE = Path(__file__).parent
CONF, EXPERIMENTS = HERE / "conf", HERE.parent / "experiments"
TINY = CONF / "tiny.yaml"
GUIDED = ("--model", "GuidedNet")
CASES = sorted(path for path in CONF.glob("*.yaml") if path != TINY and not path.stem.startswith("instance"))


@pytest.fixture(scope="module", autouse=True)
def _scenes():
    """Those that tiny.yaml asks for are drawn before any test, for the bar of the drawing goes to stderr."""
    Shapes5i(n_train=120, n_val=60)


def command(verb, folder, *more, config=TINY):
    return [verb, "--config", str(config), *more, "--trainer.default_root_dir", str(folder)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short training by short names, with one validation."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(command("fit", folder, "--model", "GuidedNet", "--model.width", "16")) == 0
    return folder


@pytest.fixture(scope="module")
def checkpoint(trained):
    return str(next(trained.rglob("*.ckpt")))


# ------------------------------------------------------------------------------------------------ what goes through


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_config_trains_and_tests(case, tmp_path):
    arguments = ["--config", str(case)]
    assert main(command("fit", tmp_path / "fit", *arguments)) == 0
    assert next((tmp_path / "fit").rglob("model.safetensors")).is_file()
    config = yaml.safe_load(case.read_text())
    if config["model"]["class_path"] == "EncoderPretraining":
        return
    ckpt = str(next((tmp_path / "fit").rglob("*.ckpt")))
    assert main(command("test", tmp_path / "test", *arguments, "--ckpt_path", ckpt)) == 0
    rows = pd.read_parquet(next((tmp_path / "test").rglob("episodes.parquet")))
    assert rows.episode.unique().tolist() == [0, 1, 2, 3]
    clicked = config["data"].get("n_clicks")
    assert rows.click.isna().all() if clicked is None else rows.click.between(1, clicked).all()
    assert main(command("predict", tmp_path / "predict", *arguments, "--ckpt_path", ckpt)) == 0
    # of a video a mask for each frame, else one for each query
    n_frames = config["data"].get("dataset", {}).get("init_args", {}).get("n_frames", 1)
    assert len(list((tmp_path / "predict").rglob("0*.png"))) == 4 * n_frames


def test_pretraining_hands_its_encoder_to_a_method(tmp_path):
    assert main(command("fit", tmp_path / "first", "--config", str(CONF / "pretraining.yaml"))) == 0
    weights = str(next((tmp_path / "first").rglob("model.safetensors")))
    arguments = ("--model", "PANet", "--model.weights", weights, "--data.n_val_episodes", "0")
    assert main(command("fit", tmp_path / "second", *arguments)) == 0


def test_fit_leaves_a_model_that_loads(trained):
    import fewseg

    folder = next(trained.rglob("model.safetensors")).parent
    model = fewseg.load_model(folder)
    assert (type(model).__name__, model.image_size) == ("GuidedNet", 64)


def test_test_and_validate_score_a_checkpoint(checkpoint, tmp_path, capsys):
    for verb in ("test", "validate"):
        assert main(command(verb, tmp_path, "--model", "GuidedNet", "--ckpt_path", checkpoint)) == 0
    out = capsys.readouterr().out
    assert "over 4 episodes" in out
    assert "val/miou" in out
    figures = json.loads(next(tmp_path.rglob("metrics.json")).read_text())
    assert figures["n_episodes"] == 4
    assert set(figures["per_class_iou"]) <= {
        "plain disc",
        "striped square",
        "checked triangle",
        "dotted star",
        "plain cross",
    }


def test_a_checkpoint_brings_its_hyper_parameters(checkpoint, tmp_path):
    """Its width is 16, the default is 128: without them the weights would not fit."""
    assert main(command("test", tmp_path, "--model", "GuidedNet", "--ckpt_path", checkpoint)) == 0


def test_the_callback_of_predictions_starts_anew(checkpoint, tmp_path):
    """A trainer that predicts twice numbers from 0 twice."""
    import fewseg
    from fewseg.callbacks import WritePredictions
    from fewseg.datamodules import FewShotDataModule

    data = FewShotDataModule(Shapes5i(n_train=120, n_val=60), size=32, n_episodes=3)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=[WritePredictions()], default_root_dir=tmp_path, enable_checkpointing=False, **quiet)
    for _ in range(2):
        trainer.predict(fewseg.create_model("PANet"), datamodule=data)
        lines = list(csv.DictReader((tmp_path / "predictions/predictions.csv").read_text().splitlines()))
        assert [line["episode"] for line in lines] == ["0", "1", "2"]


# ------------------------------------------------------------------------------------------------------- resuming


def recipe():
    """The YAML that experiments/README.md tells people to save."""
    text = (EXPERIMENTS / "README.md").read_text()
    block = re.search(r"```yaml\n(trainer:\n  callbacks:\n.*?)```", text, re.DOTALL)
    assert "--ckpt_path $V/checkpoints/last.ckpt" in text
    return block[1]


def killed_and_resumed(folder, monkeypatch, steps, kill_at, *more):
    """The weights of a training that was killed and resumed from its last.ckpt, and of one that was left alone."""
    arguments = [*GUIDED, "--model.width", "16", "--data.size", "32", "--trainer.max_steps", str(steps), *more]
    assert main(command("fit", folder / "whole", *arguments)) == 0
    step = FewShotSegmentor.training_step

    def killed(self, batch, batch_idx):
        if self.global_step == kill_at:
            raise ZeroDivisionError
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(FewShotSegmentor, "training_step", killed)
        with pytest.raises(ZeroDivisionError):
            main(command("fit", folder / "killed", *arguments))
    last = folder / "killed/lightning_logs/version_0/checkpoints/last.ckpt"
    restored = torch.load(last, weights_only=True)["global_step"]
    assert main(command("fit", folder / "resumed", *arguments, "--ckpt_path", str(last))) == 0
    weights = [load_file(next((folder / name).rglob("model.safetensors"))) for name in ("whole", "resumed")]
    return restored, *weights


def test_the_recipe_for_checkpoints_resumes(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(recipe())
    every = yaml.safe_load(recipe())["trainer"]["callbacks"][0]["init_args"]["every_n_train_steps"]
    config = ("--config", str(tmp_path / "recipe.yaml"))
    restored, whole, resumed = killed_and_resumed(tmp_path, monkeypatch, every + 3, every + 1, *config)
    assert restored == every
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("init_args", [{"every_n_train_steps": 100, "save_last": True}, {"monitor": "val/miou"}, {}])
def test_a_checkpoint_callback_of_the_user_replaces_ours(init_args, tmp_path):
    trainer = {"callbacks": [{"class_path": "ModelCheckpoint", "init_args": init_args}]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    assert main(command("fit", tmp_path, *GUIDED, "--config", str(tmp_path / "own.yaml"))) == 0
    assert len(list(tmp_path.rglob("last*.ckpt"))) == bool(init_args.get("save_last"))


def test_checkpoints_can_be_switched_off(tmp_path):
    assert main(command("fit", tmp_path, *GUIDED, "--trainer.enable_checkpointing", "false")) == 0
    assert not list(tmp_path.rglob("*.ckpt"))


def test_predict_writes_palette_pngs_and_a_table(checkpoint, tmp_path):
    arguments = ("--model", "GuidedNet", "--ckpt_path", checkpoint)
    assert main(command("predict", tmp_path, *arguments)) == 0
    table = next(tmp_path.rglob("predictions.csv"))
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert [line["episode"] for line in lines] == ["0", "1", "2", "3"]
    dataset = Shapes5i(n_train=120, n_val=60)
    for line in lines:
        label = dataset.label(line["query"])
        with PIL.Image.open(table.parent / line["file"]) as image:
            assert image.mode == "P"
            assert image.getpalette()[:63] == voc_palette()[:63]
            mask = np.array(image)
        assert mask.shape == label.shape
        assert set(np.unique(mask)) <= {0, int(line["class_id"])}
        assert float(line["foreground_share"]) == pytest.approx((mask > 0).mean(), abs=1e-4)


def test_short_names_and_the_root(tmp_path):
    """Data is generated where --data.root says, and read from there again."""
    root = tmp_path / "scenes"
    arguments = ["--model", "GuidedNet", "--data.dataset", "Shapes5i", "--data.root", str(root)]
    arguments += ["--data.dataset.n_train", "1", "--data.dataset.n_val", "60", "--data.size", "32"]
    arguments += ["--data.n_episodes", "2", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["test", *arguments]) == 0
    assert (root / "ImageSets/Segmentation/val.txt").is_file()
    assert main(["test", *arguments, f"--data.root={root}"]) == 0


def test_wandb_runs_offline_and_gets_masks(tmp_path, monkeypatch):
    import wandb

    monkeypatch.chdir(tmp_path)
    config = ("--config", str(EXPERIMENTS / "trainer/wandb.yaml"), "--trainer.logger.init_args.save_dir", str(tmp_path))
    assert main(command("fit", tmp_path, "--model", "PANet", *config)) == 0
    wandb.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    media = tmp_path.glob("wandb/offline-run-*/files/media/images")
    masks = [path.name for folder in media for path in folder.glob("mask/**/*.png")]
    assert len(masks) >= 3 * 3  # three episodes: the query's prediction and truth, and the support's annotation


# ------------------------------------------------------------------------------------------------- what only parses


def experiments(folder):
    return pytest.mark.parametrize("path", sorted((EXPERIMENTS / folder).glob("*.yaml")), ids=lambda path: path.stem)


@experiments("models")
def test_experiments_of_models_parse(path, capsys):
    assert (
        main(["fit", "--config", str(path), "--config", str(EXPERIMENTS / "data/shapes.yaml"), "--print_config"]) == 0
    )
    name = yaml.safe_load(path.read_text())["model"]["class_path"]
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == f"fewseg.models.{name}"


@experiments("data")
def test_experiments_of_data_parse(path, capsys):
    assert main(["fit", "--config", str(path), "--model", "PANet", "--print_config"]) == 0
    name = yaml.safe_load(path.read_text())["data"]["dataset"]["class_path"]
    assert yaml.safe_load(capsys.readouterr().out)["data"]["dataset"]["class_path"] == f"fewseg.datasets.{name}"


@experiments("trainer")
def test_experiments_of_the_trainer_parse(path, capsys):
    arguments = ["--config", str(EXPERIMENTS / "data/shapes.yaml"), "--config", str(path), "--model", "PANet"]
    assert main(["fit", *arguments, "--print_config"]) == 0
    wanted = yaml.safe_load(path.read_text())["trainer"]
    parsed = yaml.safe_load(capsys.readouterr().out)["trainer"]
    plain = {key: value for key, value in wanted.items() if not isinstance(value, dict | list)}
    assert {key: parsed[key] for key in plain} == plain


@experiments("benchmarks")
def test_experiments_of_benchmarks_plan(path, monkeypatch, tmp_path):
    """Every method, config and key of the grid is there; data and weights are replaced by what is made here."""

    def generated(path, data):
        entry = data["dataset"]
        name = entry if isinstance(entry, str) else entry["class_path"]
        if name in ("Davis", "ShapesVideo"):
            dataset = ShapesVideo(n_train=2, n_val=2, n_frames=8)
        elif name in ("CocoOneShot", "ShapesCoco"):
            dataset = ShapesCoco(n_train=40, n_val=30)
        else:
            dataset = Shapes5i(n_train=120, n_val=200)
        dataset.name = name  # several data sets stay apart
        return dataset

    monkeypatch.setattr(benchmark.grid, "dataset_of", generated)
    monkeypatch.setenv("FEWSEG_WEIGHTS", str(tmp_path))
    config = benchmark.self_contained(path)
    for weights in re.findall(r"\w+\.safetensors", yaml.safe_dump(config)):
        (tmp_path / weights).write_bytes(b"")
    protocol = get_protocol(config["protocol"])
    # the filter for small objects that some semantic protocols have leaves none in 96 pixels
    name = "clean" if protocol.evaluation.task == "semantic" else protocol.name
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({**config, "protocol": name, "n_episodes": 5}))
    grid = benchmark.plan(tmp_path / "short.yaml")
    assert len(grid.runs) >= len(grid.trainings) > 0


# --------------------------------------------------------------------------------------------------- wrong input


def refused(capsys, arguments):
    """The one line that a wrong call ends with."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    assert "usage:" not in captured.err + captured.out
    line = captured.err.strip()
    assert line.startswith("fewseg: error: ")
    assert ": got " in line
    assert ", expected " in line
    assert "; " in line
    return line.removeprefix("fewseg: error: ")


@pytest.mark.parametrize(
    ("arguments", "argument", "got", "remedy"),
    [
        ((*GUIDED, "--model.lrr", "1"), "--model.lrr", "an unknown option", "did you mean --model.lr?"),
        ((*GUIDED, "--data.foldd", "1"), "--data.foldd", "an unknown option", "did you mean --data.fold?"),
        ((*GUIDED, "--trainer.max_stepss=4"), "--trainer.max_stepss", "an unknown option", "--trainer.max_steps?"),
        ((*GUIDED, "--data.dataset.n_trian", "4"), "--data.dataset.n_trian", "an unknown option", "n_train?"),
        ((*GUIDED, "--color", "red"), "--color", "an unknown option", "see fewseg fit --help"),
        ((*GUIDED, "stray"), "stray", "an unknown option", "see fewseg fit --help"),
        (("--model.lr", "1", *GUIDED), "--model.lr", "an option of no class", "name the class first"),
        (("--model", "GuidedNt"), "--model", "GuidedNt", "did you mean GuidedNet?"),
        ((*GUIDED, "--data.dataset", "Pascal5j"), "--data.dataset", "Pascal5j", "did you mean Pascal5i?"),
        ((*GUIDED, "--trainer.logger", "Nothing"), "--trainer.logger", "Nothing", "see fewseg fit --help"),
        ((*GUIDED, "--model.lr", "fast"), "--model.lr", "fast", "see fewseg fit --help"),
        ((*GUIDED, "--model.head", "none"), "--model.head", "none", "see fewseg fit --help"),
        ((*GUIDED, "--model.taps", "[1, x]"), "--model.taps", "[1, 'x']", "see fewseg fit --help"),
        ((*GUIDED, "--data.fold", "x"), "--data.fold", "x", "see fewseg fit --help"),
        ((*GUIDED, "--data.cache", "all"), "--data.cache", "all", "see fewseg fit --help"),
        ((*GUIDED, "--trainer.max_steps"), "--trainer.max_steps", "nothing", "see fewseg fit --help"),
        ((), "--model", "nothing", "see fewseg fit --help"),
        ((*GUIDED, "--data.fold", "7"), "--data.fold", "7", "shapes5i has 4 folds"),
        ((*GUIDED, "--data.n_shot", "0"), "--data.n_shot", "0", "raise it"),
        ((*GUIDED, "--data.protocol", "best"), "protocol", "best", "choose a protocol from the list"),
        ((*GUIDED, "--data.dataset", "Pascal5i", "--data.root", "no/where"), "--data.dataset.root", "no/where", "DIR"),
        ((*GUIDED, "--model.encoder", "resnet51"), "encoder", "resnet51", "timm.list_models"),
        ((*GUIDED, "--model.weights", "a.safetensors"), "weights", "a.safetensors", "FEWSEG_WEIGHTS"),
        ((*GUIDED, "--trainer.max_steps", "-1"), "--trainer.max_steps", "-1", "set it"),
        ((*GUIDED, "--trainer.accelerator", "abacus"), "options", "accelerator", "see fewseg fit --help"),
        ((*GUIDED, "--config", "no.yaml"), "--config", "no.yaml", "check the path"),
        ((*GUIDED, "--ckpt_path", "no.ckpt"), "--ckpt_path", "no.ckpt", "check the path"),
        ((*GUIDED, "--ckpt_path", TINY), "--ckpt_path", "tiny.yaml (UnpicklingError)", "choose another"),
    ],
    ids=lambda value: "_".join(map(str, value[-2:])) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_wrong_options(arguments, argument, got, remedy, capsys, tmp_path):
    line = refused(capsys, command("fit", tmp_path, *arguments))
    assert line.startswith(f"{argument}: got ")
    assert got in line.partition(", expected ")[0]
    assert remedy in line.rpartition("; ")[2]


def test_options_say_what_was_expected(capsys, tmp_path):
    def expected(*arguments):
        return refused(capsys, command("fit", tmp_path, *GUIDED, *arguments)).partition(", expected ")[2]

    assert expected("--model.lrr", "1").startswith("one of encoder, weights, output_stride, taps, ")
    assert expected("--data.dataset", "Nope").startswith("one of ClickFolder, Coco20i, CocoOneShot, Davis, ")
    assert expected("--data.cache", "all").startswith("none, images, features; ")
    assert expected("--model.lr", "fast").startswith("float; ")
    assert expected("--trainer.max_stepss", "1").startswith("an option of Trainer; ")
    assert "16-mixed" in expected("--trainer.precision", "half")


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("model: {class_path: GuidedNet, init_args: {lrr: 1}}", "--model.lrr"),
        ("model: {class_path: GuidedNet, init_args: {lr: fast}}", "--model.lr"),
        ("model: {class_pathh: GuidedNet}", "--model.class_pathh"),
        ("model: GuidedNt", "--model"),
        ("{model: GuidedNet, data: {foldd: 1}}", "--data.foldd"),
        ("{model: GuidedNet, data: {dataset: {class_path: Shapes5i, init_args: {sed: 1}}}}", "--data.dataset.sed"),
        ("{model: GuidedNet, trainer: {max_stepss: 1}}", "--trainer.max_stepss"),
        ("{model: GuidedNet, optimiser: {lr: 1}}", "--optimiser.lr"),
        ("model: [", "--config"),
        ("just words", "--config"),
    ],
)
def test_wrong_config_files(text, argument, capsys, tmp_path):
    (tmp_path / "wrong.yaml").write_text(text)
    line = refused(capsys, command("fit", tmp_path, "--config", tmp_path / "wrong.yaml"))
    assert line.startswith(f"{argument}: got ")


def test_a_checkpoint_of_another_method_is_refused(checkpoint, capsys, tmp_path):
    line = refused(capsys, command("test", tmp_path, "--model", "PANet", "--ckpt_path", checkpoint))
    assert line == "--ckpt_path: got a checkpoint of GuidedNet, expected one of PANet; pass --model GuidedNet"


def test_an_output_folder_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = command("fit", tmp_path / "file/runs", *GUIDED, "--data.n_val_episodes", "0")
    assert str(tmp_path / "file") in refused(capsys, arguments)


@pytest.mark.parametrize(
    "arguments", [("fitt",), (), ("report",), ("data", "prepare", "imagenet"), ("benchmark", "a.yaml")]
)
def test_wrong_commands(arguments, capsys):
    line = refused(capsys, arguments)
    assert "--help" in line


def test_commands_that_do_not_exist_are_named(capsys):
    assert refused(capsys, ["fitt"]).startswith("COMMAND: got fitt, expected one of fit, validate, test, predict, ")


# ------------------------------------------------------------------------------------------------------ wrong data


@pytest.fixture
def tree(tmp_path):
    """Two images of each class of fold 0, in both lists."""
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"{class_id}{letter}" for class_id in range(1, 6) for letter in "ab"]
    for name in names:
        label = np.zeros((12, 16), np.uint8)
        label[2:9, 3:12], label[11] = int(name[0]), 255
        noise = np.random.RandomState(0).randint(0, 256, (*label.shape, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), noise)
        write_label(root / "SegmentationClass" / f"{name}.png", label)
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
    return root


def score(tree, *more):
    arguments = ("--model", "PANet", "--data.dataset", "Voc400", "--data.root", str(tree), "--data.size", "32", *more)
    options = ("--data.n_episodes", "5", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
    return ["test", *arguments, *options, "--trainer.default_root_dir", str(tree.parent / "runs")]


def test_the_tree_is_right_before_it_is_broken(tree):
    assert main(score(tree)) == 0


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_truncated_jpeg(tree, n_workers, capsys):
    for path in (tree / "JPEGImages").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    line = refused(capsys, score(tree, "--data.num_workers", str(n_workers)))
    assert line.startswith(f"{tree}/JPEGImages/")
    assert "got a truncated JPEG of 300 bytes, expected a whole image; restore the file" in line


def test_a_mask_of_another_size(tree, capsys):
    for path in (tree / "SegmentationClass").iterdir():
        write_label(path, np.full((6, 8), int(path.name[0]), np.uint8))
    assert "got a mask of 6 x 8 pixels, expected the image's 12 x 16" in refused(capsys, score(tree))


def test_a_label_that_is_no_class(tree, capsys):
    write_label(tree / "SegmentationClass/3b.png", np.full((12, 16), 21, np.uint8))
    line = refused(capsys, score(tree))
    assert line.startswith(f"{tree}/SegmentationClass/3b.png: got label 21, expected 0 to 20, or 255 for void; ")


def test_a_class_without_images(tree, capsys):
    for name in ("5a", "5b"):
        write_label(tree / f"SegmentationClass/{name}.png", np.full((12, 16), 4, np.uint8))
    assert "got no image of class 5" in refused(capsys, score(tree))


def test_a_tree_without_a_folder(tree, capsys):
    (tree / "JPEGImages").rename(tree / "Images")
    assert "without JPEGImages/" in refused(capsys, score(tree))


# ------------------------------------------------------------------------------------------------------- benchmark


@pytest.fixture
def grid(tmp_path):
    """A benchmark file over the configs of the tests."""
    config = {
        "data": {"data": yaml.safe_load(TINY.read_text())["data"], "trainer": {"accelerator": "cpu"}},
        "methods": {"panet": {"config": str(EXPERIMENTS / "models/panet.yaml")}},
        "folds": [0],
        "training": {"max_steps": 1},
    }

    def write(**changes):
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**config, **changes}))
        return str(tmp_path / "grid.yaml")

    return write


def test_dry_run_lists_trainings_and_runs(grid, tmp_path, capsys):
    assert main(["benchmark", grid(shots=[1, 2]), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("1 trainings, 2 runs")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"shotss": [1]}, "shotss"),
        ({"training": {"max_stepss": 1}}, "training.max_stepss"),
        (
            {"methods": {"panet": {"config": str(EXPERIMENTS / "models/panet.yaml"), "modell": {}}}},
            "methods.panet.modell",
        ),
        ({"methods": {"panet": "nowhere.yaml"}}, "nowhere.yaml"),
        ({"folds": [7]}, "folds"),
        ({"points": [0]}, "points"),
        ({"shots": 1}, "shots"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml"),
        ({"protocol": "best"}, "protocol"),
    ],
)
def test_wrong_benchmark_files(changes, argument, grid, capsys, tmp_path):
    line = refused(capsys, ["benchmark", grid(**changes), "--out", tmp_path / "out"])
    assert argument in line.partition(": got ")[0]
    assert not (tmp_path / "out").exists()


def test_wrong_benchmark_calls(grid, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert refused(capsys, ["benchmark", "no.yaml", "--out", tmp_path]).startswith("no.yaml: got No such file")
    assert "--out: got" in refused(capsys, ["benchmark", grid(), "--out", tmp_path / "file/out"])
    assert "--workers: got 0" in refused(capsys, ["benchmark", grid(), "--out", tmp_path / "out", "--workers", "0"])
    assert refused(capsys, ["benchmark", "--out", tmp_path]).startswith("config: got nothing, expected a value; ")
    assert refused(capsys, ["report"]) == "out: got nothing, expected a value; see fewseg report --help"
    said = f"--wandb: got {tmp_path}, expected a project; write {tmp_path} before --wandb"
    assert refused(capsys, ["report", "--wandb", tmp_path]) == said
    said = f"--wandb: got {grid()}, expected a project; write {grid()} before --wandb"
    assert refused(capsys, ["benchmark", "--wandb", grid(), "--out", tmp_path / "out"]) == said
    assert refused(capsys, ["report", "--wandb", tmp_path / "nowhere"]).startswith("out: got nothing")
    assert refused(capsys, ["benchmark", "--wandb", tmp_path]).startswith("--wandb: got")
    assert "--workers: got x, expected int" in refused(capsys, ["benchmark", grid(), "--out", "o", "--workers", "x"])
    assert "out: got" in refused(capsys, ["report", tmp_path / "nowhere"])


# --------------------------------------------------------------------------------------------------- real processes


def test_a_folder_that_is_no_benchmark_is_not_reported(grid, capsys, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert "which holds no plan.json and no run" in refused(capsys, ["report", tmp_path / "other"])
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "plan.json").write_text('{"runs": []}')
    assert main(["report", str(tmp_path / "begun")]) == 1
    assert (tmp_path / "begun" / "report.html").is_file()


def python(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_a_process_says_one_line_and_nothing_else(tmp_path):
    done = python("-m", "fewseg.cli", *command("fit", tmp_path, *GUIDED, "--data.fold", "7"))
    assert (done.returncode, done.stdout) == (2, "")
    expected = "--data.fold: got 7, expected a fold from 0 to 3; shapes5i has 4 folds"
    assert done.stderr == f"fewseg: error: {expected}\n"


def test_help_reports_and_planning_do_not_import_torch(grid, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "plan.json").write_text('{"runs": []}')
    code = f"""
import sys
from fewseg.cli import main
for arguments in (["--help"], ["--version"]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code
main(["report", {str(tmp_path / "runs")!r}])
assert main(["benchmark", {grid()!r}, "--out", {str(tmp_path / "out")!r}, "--dry-run"]) == 0
print("loaded", [name for name in sys.argv[1:] if name in sys.modules])
"""
    done = python("-c", code, "torch", "pytorch_lightning", "albumentations", "wandb", "timm")
    assert done.returncode == 0, done.stderr
    assert "1 trainings, 1 runs" in done.stdout
    assert done.stdout.endswith("loaded []\n")


def test_the_models_are_a_light_library():
    code = "import sys, fewseg.models; print([n for n in sys.argv[1:] if n in sys.modules])"
    done = python("-c", code, "wandb", "albumentations", "plotly", "ray", "timm", "fewseg.datamodules")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


# ------------------------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("argument --workers: invalid int value: 'x'", "--workers: got x, expected int"),
        ("argument action: invalid choice: 'a' (choose from 'b', 'c')", "action: got a, expected one of b, c"),
        ("argument action: invalid choice: 'a' (choose from b, c)", "action: got a, expected one of b, c"),
        ("the following arguments are required: --out", "--out: got nothing, expected a value"),
        ("the following arguments are required: --out, --wandb", "--out: got nothing, expected a value"),
        ("the following arguments are required: test.data.dataset", "--data.dataset: got nothing, expected a value"),
        ("something\nnew", "arguments: got something new, expected a valid value"),
    ],
)
def test_what_parsers_say_in_our_words(message, said):
    assert str(said_our_way(message)) == f"{said}; see fewseg fit --help"
