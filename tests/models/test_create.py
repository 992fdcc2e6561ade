import inspect
import json

import pytest
import torch
from pytorch_lightning import LightningModule

import fewseg
from fewseg import models
from fewseg.errors import FewsegError
from fewseg.models.base import FewShotSegmentor
from fewseg.models.create import build

torch.set_num_threads(1)


class Mine(models.PANet):
    """A class outside the zoo."""


@pytest.fixture
def saved(tmp_path):
    return fewseg.create_model("GuidedNet", encoder="tiny", width=8).save(tmp_path / "saved")


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


NAMES = ", ".join(models.__all__)


@pytest.mark.parametrize("name", ["FSIS", "DIOS", "FBRSNet", "GuidedNet"])
def test_a_choice_that_does_not_exist_is_refused(name):
    with pytest.raises(FewsegError, match=rf"{name}.variant: got 'nope', expected one of standard, paper"):
        fewseg.create_model(name, encoder="tiny", variant="nope")


def test_the_registry_holds_methods_only():
    assert fewseg.list_models() == models.__all__
    assert len(set(models.__all__)) == len(models.__all__)
    assert all(issubclass(getattr(models, name), FewShotSegmentor) for name in models.__all__)


@pytest.mark.parametrize("name", models.__all__)
def test_create_gives_a_module_in_eval_mode_with_its_hyper_parameters(name):
    known = inspect.signature(getattr(models, name)).parameters
    own = {key: value for key, value in {"width": 8, "lr": 0.25}.items() if key in known}
    model = fewseg.create_model(name, encoder="tiny", **own)
    assert isinstance(model, LightningModule)
    assert not any(module.training for module in model.modules())
    assert {key: model.hparams[key] for key in own} == own
    assert model.lr == own.get("lr", model.lr)


@pytest.mark.parametrize(
    "name", ["guidednet", "EncoderPretraining", "create_model", "fewseg.models.PANet", "os.system", ""]
)
def test_create_knows_the_names_of_the_zoo_only(name):
    with pytest.raises(FewsegError, match=f"expected one of {NAMES}; correct the spelling"):
        fewseg.create_model(name)


def test_unknown_hyper_parameters_are_named():
    with pytest.raises(FewsegError, match=r"^PANet.widht: got an unknown argument, expected one of encoder, .*width"):
        fewseg.create_model("PANet", widht=3)


def test_build_knows_the_pre_training_too():
    assert isinstance(build("EncoderPretraining", {"encoder": "tiny"}), models.EncoderPretraining)


def test_save_writes_two_plain_files(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert config["method"] == "GuidedNet"
    assert config["hyper_parameters"]["width"] == 8
    assert not any(key.startswith("_") for key in config["hyper_parameters"])


def test_load_restores_hyper_parameters(saved):
    model = fewseg.load_model(saved)
    assert type(model) is models.GuidedNet
    assert model.hparams.width == 8
    assert not model.training
    assert fewseg.load_model(str(saved), models.GuidedNet).hparams.width == 8


@pytest.mark.parametrize(
    "method",
    [
        "os.system",
        "fewseg.models.guided.GuidedNet",
        "fewseg.models.GuidedNet",
        "EncoderPretraining",
        "Mine",
        "",
        None,
        3,
    ],
)
def test_load_resolves_no_other_name(saved, method):
    rewrite(saved, method=method)
    with pytest.raises(FewsegError, match=f"expected one of {NAMES}"):
        fewseg.load_model(saved)


def test_load_resolves_a_class_that_it_is_given(tmp_path):
    folder = Mine(width=8).save(tmp_path)
    assert type(fewseg.load_model(folder, Mine)) is Mine
    with pytest.raises(FewsegError, match="got a Mine, expected a PANet; pass the class that was saved"):
        fewseg.load_model(folder, models.PANet)


def test_load_refuses_what_save_did_not_write(saved, tmp_path):
    with pytest.raises(FewsegError, match="expected a folder that model"):
        fewseg.load_model(tmp_path / "nowhere")
    rewrite(saved, hyper_parameters={"encoder": "tiny", "width": 8, "command": "rm"})
    with pytest.raises(FewsegError, match=r"GuidedNet.command: got an unknown argument"):
        fewseg.load_model(saved)
    rewrite(saved, hyper_parameters={"encoder": "tiny", "width": 16})
    with pytest.raises(FewsegError, match="expected the weights of this model"):
        fewseg.load_model(saved)
    rewrite(saved, hyper_parameters=["width"])
    with pytest.raises(FewsegError, match="expected a folder that model"):
        fewseg.load_model(saved)
    (saved / "config.json").write_text("[]")
    with pytest.raises(FewsegError, match="expected a folder that model"):
        fewseg.load_model(saved)


def test_load_refuses_broken_or_missing_weights(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FewsegError, match="expected the weights of this model"):
        fewseg.load_model(saved)
    path.unlink()
    with pytest.raises(FewsegError, match="expected the weights of this model"):
        fewseg.load_model(saved)


def test_load_does_not_look_for_the_weights_that_training_started_from(tmp_path):
    start = fewseg.create_model("PANet", encoder="tiny", width=8)
    from safetensors.torch import save_file

    weights = tmp_path / "encoder.safetensors"
    save_file(start.network.encoder.state_dict(), weights)
    folder = fewseg.create_model("PANet", encoder="tiny", width=8, weights=str(weights)).save(tmp_path / "saved")
    weights.unlink()
    assert fewseg.load_model(folder).hparams.weights is None
    assert str(tmp_path) not in (folder / "config.json").read_text(), "a saved model names a folder of its machine"
