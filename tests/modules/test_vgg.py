import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fewseg.errors import FewsegError
from fewseg.modules.vgg import VGG16, panet_vgg16, refuse_encoder

torch.set_num_threads(1)


def test_panet_grid_and_last_activation():
    trunk = panet_vgg16().eval()
    with torch.inference_mode():
        features = trunk(torch.randint(0, 256, (1, 2, 3, 33, 20), dtype=torch.uint8))
    assert features.maps[0].shape == (1, 2, 512, 5, 3)
    assert (features.maps[0] < 0).any()  # no ReLU at the end
    assert trunk.strides == (8,)


def test_taps_and_extra_channels():
    trunk = VGG16([nn.MaxPool2d(2) for _ in range(5)], taps=(1, 3), in_channels=5).eval()
    maps = trunk.maps(torch.rand(1, 5, 32, 48))
    assert [tuple(m.shape) for m in maps] == [(1, 128, 8, 12), (1, 512, 2, 3)]
    assert trunk.strides == (4, 16)
    assert len(trunk.convolutions()) == 13


def test_torchvision_names_load_by_place(tmp_path):
    source = panet_vgg16()
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state = {}
    for place, convolution in zip(places, source.convolutions(), strict=True):
        state |= {f"features.{place}.weight": convolution.weight.data, f"features.{place}.bias": convolution.bias.data}
    save_file(state, tmp_path / "vgg.safetensors")
    assert panet_vgg16(str(tmp_path / "vgg.safetensors")).fingerprint() == source.fingerprint()
    del state["features.28.bias"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(FewsegError, match=r"features\.28\.bias"):
        panet_vgg16(str(tmp_path / "short.safetensors"))


def test_options_that_would_do_nothing_are_refused():
    refuse_encoder("tiny", None, None, 128)
    with pytest.raises(FewsegError, match="width: got 64"):
        refuse_encoder("tiny", None, None, 64)
