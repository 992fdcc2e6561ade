from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.functional.files import find_weights
from fewseg.modules.encoders import IMAGENET_MEAN, IMAGENET_STD, Embedding, Encoder

torch.set_num_threads(1)


def raw(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(1, 1), (17, 13), (96, 80)])
def test_tiny_takes_any_size(size):
    encoder = Encoder("tiny").eval()
    features = encoder(raw(2, 3, *size))
    assert features.image_size == size
    for level, stride, channels in zip(features.maps, encoder.strides, encoder.out_channels, strict=True):
        assert level.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


def test_shots_are_a_leading_axis():
    encoder = Encoder("tiny").eval()
    images = raw(2, 3, 3, 17, 13)
    shots, flat = encoder(images), encoder(images.flatten(0, 1))
    for shot_map, flat_map in zip(shots.maps, flat.maps, strict=True):
        assert torch.equal(shot_map.flatten(0, 1), flat_map)


def test_dtype_rule():
    encoder = Encoder("tiny").double().eval()
    images = raw(1, 3, 16, 16)
    by_hand = (images.double() / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
        :, None, None
    ]
    torch.testing.assert_close(encoder.normalize(images), by_hand)
    features = encoder(images)
    assert features.maps[0].dtype == torch.float64
    torch.testing.assert_close(encoder(by_hand).maps, features.maps)  # floats are normalised already
    assert encoder.normalize(by_hand) is by_hand
    assert encoder(features) is features


def test_images_of_another_shape_are_refused():
    with pytest.raises(FewsegError, match=r"images: got \(1, 16, 16, 3\)"):
        Encoder("tiny")(raw(1, 16, 16, 3))


def test_unused_stages_are_not_built():
    shallow = Encoder("tiny", taps=(0,))
    assert shallow(raw(1, 3, 16, 16)).maps[0].shape == (1, 32, 8, 8)
    assert len(list(shallow.parameters())) == 3


@pytest.mark.parametrize("taps", [(3,), (1, 0), (-1,), (1, 1)])
def test_tiny_refuses_taps_it_lacks(taps):
    with pytest.raises(FewsegError, match="taps"):
        Encoder("tiny", taps=taps)


def test_tiny_refuses_other_strides():
    assert Encoder("tiny", output_stride=8).strides == (4, 8)
    with pytest.raises(FewsegError, match="output_stride: got 16"):
        Encoder("tiny", output_stride=16)


def test_frozen_encoder_stays_in_eval_mode_and_has_nothing_to_learn():
    encoder = Encoder("tiny", trainable=False).train()
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(m.training for m in encoder.modules())
    before = encoder.fingerprint()
    encoder(raw(1, 3, 16, 16))
    assert encoder.fingerprint() == before
    image = torch.rand(1, 3, 16, 16, requires_grad=True)  # refinement of inputs still gets its gradient
    encoder(image).maps[-1].sum().backward()
    assert image.grad.abs().sum() > 0


def test_frozen_norm_keeps_statistics_but_learns():
    encoder = Encoder("tiny", norm="frozen").train()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert encoder.training
    assert all(p.requires_grad for p in encoder.parameters())
    assert all(m.training for m in Encoder("tiny").modules())


def test_fingerprint_tells_parameters_and_settings():
    torch.manual_seed(0)
    one = Encoder("tiny")
    torch.manual_seed(0)
    same = Encoder("tiny")
    assert one.fingerprint() == same.fingerprint()
    assert len(one.fingerprint()) == 64
    torch.manual_seed(0)
    assert Encoder("tiny", output_stride=8).fingerprint() != one.fingerprint()
    next(same.parameters()).data.view(-1)[0] += 1e-3
    assert same.fingerprint() != one.fingerprint()


def test_own_weights_round_trip_and_imply_frozen_norm(tmp_path, monkeypatch):
    trained = Encoder("tiny")
    save_file(trained.state_dict(), tmp_path / "mine.safetensors")
    monkeypatch.setenv("FEWSEG_WEIGHTS", str(tmp_path))
    loaded = Encoder("tiny", weights="mine.safetensors")
    assert loaded.fingerprint() == trained.fingerprint()
    assert loaded.norm == "frozen"
    assert Encoder("tiny", weights=str(tmp_path / "mine.safetensors"), norm="train").norm == "train"
    assert Encoder("tiny", weights="mine.safetensors", taps=(0, 1)).strides == (2, 4)  # a shallower one takes its part


def test_weights_lookup_order(tmp_path, monkeypatch):
    for folder in ("weights", "elsewhere", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "weights" / "w.safetensors").touch()
    monkeypatch.setenv("FEWSEG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FEWSEG_WEIGHTS", str(tmp_path / "elsewhere"))
    assert find_weights("w.safetensors") == tmp_path / "weights" / "w.safetensors"
    (tmp_path / "elsewhere" / "w.safetensors").touch()
    assert find_weights("w.safetensors") == tmp_path / "elsewhere" / "w.safetensors"
    monkeypatch.chdir(tmp_path / "weights")
    assert find_weights("w.safetensors") == Path("w.safetensors")
    with pytest.raises(FewsegError, match=r"FEWSEG_WEIGHTS.*pretrained"):
        find_weights("absent.safetensors")


def test_wrong_weights_are_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FewsegError, match=r"weights: got .*other.safetensors, expected the weights of tiny"):
        Encoder("tiny", weights=str(tmp_path / "other.safetensors"))
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(FewsegError, match="a safetensors file"):
        Encoder("tiny", weights=str(tmp_path / "text.safetensors"))


def test_pretrained_without_hub_says_both_ways(monkeypatch):
    with pytest.raises(FewsegError, match=r"pretrained.*hub.*safetensors"):
        Encoder("tiny", weights="pretrained")
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route to host")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FewsegError, match=r"reachable hub.*\.safetensors file.*resnet10t\.safetensors"):
        Encoder("resnet10t", weights="pretrained")


def test_pretrained_loads_what_the_hub_serves(monkeypatch):
    served = timm.create_model("resnet10t", num_classes=0)
    create = timm.create_model

    def hub(name, pretrained=False, **options):
        return served if pretrained else create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", hub)
    encoder = Encoder("resnet10t", weights="pretrained")
    assert torch.equal(encoder.state_dict()["body.layer4.0.conv1.weight"], served.state_dict()["layer4.0.conv1.weight"])


def test_unknown_names_and_impossible_settings_are_refused():
    with pytest.raises(FewsegError, match="encoder: got nosuchnet"):
        Encoder("nosuchnet")
    with pytest.raises(FewsegError, match="output_stride=8"):
        Encoder("vit_tiny_patch16_224", output_stride=8)
    with pytest.raises(FewsegError, match=r"taps=\(9,\)"):
        Encoder("resnet10t", taps=(9,))


@pytest.mark.parametrize(
    ("name", "output_stride", "strides"),
    [
        ("resnet10t", None, (8, 16, 32)),
        ("mobilenetv2_050", 8, (8, 8, 8)),
        ("vit_tiny_patch16_224", None, (16, 16, 16)),
        ("swin_tiny_patch4_window7_224", None, (8, 16, 32)),
        ("convnext_atto", None, (8, 16, 32)),
    ],
)
def test_timm_models_at_odd_sizes(name, output_stride, strides, tmp_path):
    encoder = Encoder(name, output_stride=output_stride).eval()
    assert encoder.strides == strides
    with torch.inference_mode():
        features = encoder(raw(1, 2, 3, 47, 65))
    for level, channels, stride in zip(features.maps, encoder.out_channels, strides, strict=True):
        assert level.shape[:3] == (1, 2, channels)
        for cells, pixels in zip(level.shape[3:], (47, 65), strict=True):  # ConvNeXt rounds down, the others up
            assert cells == (pixels // stride if name == "convnext_atto" else -(-pixels // stride))
    full = timm.create_model(name, num_classes=0).state_dict()
    save_file(full, tmp_path / "full.safetensors")
    loaded = Encoder(name, str(tmp_path / "full.safetensors"), output_stride).state_dict()
    values = {tuple(v.flatten()[:8].tolist()) for v in full.values() if v.numel() > 8}
    assert all(tuple(v.flatten()[:8].tolist()) in values for v in loaded.values() if v.numel() > 8)


def test_real_weights_load():
    try:
        find_weights("mobilenetv2_100.safetensors")
    except FewsegError:
        pytest.skip("mobilenetv2_100.safetensors is neither in FEWSEG_WEIGHTS nor beside FEWSEG_DATA")
    encoder = Encoder("mobilenetv2_100", "mobilenetv2_100.safetensors", output_stride=16, trainable=False)
    assert encoder.strides == (8, 16, 16)
    assert encoder.norm == "frozen"


def test_embedding_is_a_convolution_of_the_upsampled_concatenation():
    encoder = Encoder("tiny").double().eval()
    embedding = Embedding(encoder, 16).double()
    features = encoder(raw(2, 3, 3, 33, 20))
    fine, coarse = (m.flatten(0, 1) for m in features.maps)
    coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    expected = embedding.project(torch.cat([fine, coarse], 1))
    embedded = embedding(features)
    torch.testing.assert_close(embedded.maps[0].flatten(0, 1), expected)
    assert embedded.maps[0].shape == (2, 3, 16, 9, 5)
    assert embedded.image_size == (33, 20)


def test_embedding_takes_cached_half_precision():
    encoder = Encoder("tiny").eval()
    embedding = Embedding(encoder, 16, rectify=True)
    features = encoder(raw(1, 3, 16, 16))
    cached = embedding(Features(tuple(m.half() for m in features.maps), features.image_size))
    assert cached.maps[0].dtype == torch.float32
    assert cached.maps[0].min() >= 0
    torch.testing.assert_close(cached.maps[0], embedding(features).maps[0], atol=1e-2, rtol=1e-2)
