"""Pre-training on a few pictures in folders of ImageNet's names, into weights that an encoder takes."""

import json

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from fewseg.datasets.imagenet import list_text
from fewseg.modules.encoders import Encoder
from test_bench import script

KEPT = ("n01440764", "n01443537", "n02114367")  # tench, goldfish, timber wolf
DOG, LAPTOP = "n02085620", "n03642806"
ENCODER = "test_resnet"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder train with kept and other classes, and one that is not ImageNet's."""
    folder = tmp_path_factory.mktemp("imagenet") / "train"
    rng = np.random.RandomState(0)
    for wnid in (*KEPT, DOG, LAPTOP, "n99999999"):
        (folder / wnid).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(folder / wnid / f"{i}.JPEG"), rng.randint(0, 256, (40, 48, 3)).astype(np.uint8))
    return folder


def run(root, out, *more):
    options = ["--root", root, "--out", out, "--encoder", ENCODER, "--batch-size", 3, "--size", 32, "--workers", 0]
    return script("pretrain_imagenet").main([str(each) for each in (*options, "--epochs", 1, *more)])


@pytest.mark.filterwarnings("ignore")
def test_weights_go_into_an_encoder(root, tmp_path):
    out = tmp_path / "out"
    assert run(root, out, "--val", root) == 0  # two steps of three pictures
    assert [line.split("  ")[0] for line in (out / "classes.txt").read_text().splitlines()] == list(KEPT)
    state = load_file(out / "model.safetensors")
    assert state.keys() == timm.create_model(ENCODER, num_classes=0).state_dict().keys()
    assert int(next(v for k, v in state.items() if k.endswith("num_batches_tracked"))) == 2
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 2
    encoder = Encoder(ENCODER, weights=str(out / "model.safetensors"))
    own = encoder.state_dict()
    untrained = Encoder(ENCODER).state_dict()
    assert all(torch.equal(value, state[name.removeprefix("body.")]) for name, value in own.items())
    assert any(not torch.equal(value, untrained[name]) for name, value in own.items())
    metrics = (out / "log" / "version_0" / "metrics.csv").read_text()
    assert "val/top1" in metrics.splitlines()[0]


@pytest.mark.filterwarnings("ignore")
def test_all_classes_and_a_resumed_training(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(root, out, "--exclude", "none", "--batch-size", 5, "--seed", 3) == 0
    assert [line.split("  ")[0] for line in (out / "classes.txt").read_text().splitlines()] == sorted(
        [*KEPT, DOG, LAPTOP]
    )
    assert json.loads((out / "settings.json").read_text())["seed"] == 3
    weights = (out / "model.safetensors").read_bytes()
    assert run(root, out, "--exclude", "none") == 2, "it is finished"
    (out / "model.safetensors").unlink()
    for more in (("--resume",), ("--resume", "--exclude", "none", "--batch-size", 5, "--seed", 4), ()):
        assert run(root, out, *more) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["--out", "--resume", "--resume", "--out"]
    assert run(root, out, "--exclude", "none", "--batch-size", 5, "--seed", 3, "--resume") == 0
    assert (out / "model.safetensors").read_bytes() == weights, "its only epoch was done: nothing is trained again"


def test_wrong_options_are_one_line(root, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-kept" / DOG).mkdir(parents=True)
    (tmp_path / "no-picture" / KEPT[0]).mkdir(parents=True)
    assert run(tmp_path / "absent", out) == 2
    assert run(tmp_path / "empty", out) == 2
    assert run(tmp_path / "no-kept", out) == 2
    assert run(tmp_path / "no-picture", out) == 2
    assert run(root, out, "--encoder", "tiny") == 2
    assert run(root, out, "--epochs", 0) == 2
    assert run(root, out, "--val", tmp_path / "no-kept") == 2
    assert run(root, out, "--resume") == 2
    assert script("pretrain_imagenet").main(["--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    names = ["--root"] * 4 + ["--encoder", "--epochs", "--val", "--resume", "--root"]
    assert [line.split(":")[0] for line in lines] == names
    assert "without any of the 6" in lines[2]
    assert not out.exists()


def test_validation_has_the_classes_of_the_training(root, tmp_path, capsys):
    (tmp_path / KEPT[0]).mkdir()
    cv2.imwrite(str(tmp_path / KEPT[0] / "0.JPEG"), np.zeros((8, 8, 3), np.uint8))
    assert run(root, tmp_path / "out", "--val", tmp_path) == 2
    assert "1 of the 3 classes" in capsys.readouterr().err


def test_the_list_is_written(tmp_path):
    assert script("pretrain_imagenet").main(["--list", str(tmp_path / "list.txt")]) == 0
    assert (tmp_path / "list.txt").read_text(encoding="utf-8") == list_text()
