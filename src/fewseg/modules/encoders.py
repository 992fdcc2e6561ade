"""Image encoders: our own small one, those of timm, and the rules that all encoders share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.functional.files import find_weights
from fewseg.functional.geometry import upsample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageEncoder(nn.Module):
    """What all encoders share: the dtype rule, the shot axis, freezing and the fingerprint.

    Integers are raw RGB pixels and get normalised here; floats are normalised already and are used as they are;
    ``Features`` pass through unchanged. A subclass sets ``out_channels`` and ``strides`` and writes ``maps``.

    Args:
        mean: of the three channels, in units of a raw pixel divided by ``scale``.
        std: likewise.
        scale: raw pixels are divided by it first.
        trainable: False freezes the parameters and keeps eval mode.
        norm: ``frozen`` keeps batch norms in eval mode under ``train()``: folded statistics break otherwise.
    """

    out_channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        scale: float = 255.0,
        trainable: bool = True,
        norm: Literal["frozen", "train"] = "train",
    ) -> None:
        super().__init__()
        self.scale, self.trainable, self.norm = scale, trainable, norm
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Raw integers (..., 3, H, W) to normalised floats in the dtype of the parameters; floats unchanged."""
        if images.is_floating_point():
            return images
        return (images.to(self.mean.dtype) / self.scale - self.mean) / self.std

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The taps (n, C, h, w) of normalised images (n, 3, H, W)."""
        raise TypeError(f"{type(self).__name__} must define maps()")

    def forward(self, images: Tensor | Features) -> Features:
        """Features of images (B, 3, H, W) or (B, K, 3, H, W): maps with the same leading axes.

        Raises:
            FewsegError: the images have another shape.
        """
        if isinstance(images, Features):
            return images
        if images.ndim not in (4, 5) or images.shape[-3] != 3:
            expected = "(B, 3, H, W) or (B, K, 3, H, W)"
            raise FewsegError("images", tuple(images.shape), expected, "put the three colour channels before H and W")
        flat = images.flatten(0, -4)  # (B * K, 3, H, W)
        if flat.device.type == "cpu":  # the order of memory that its convolutions are quickest in
            flat = flat.contiguous(memory_format=torch.channels_last)
        maps = self.maps(self.normalize(flat))
        maps = tuple(m.reshape(*images.shape[:-3], *m.shape[1:]) for m in maps)  # (B, K, C, h, w)
        return Features(maps, (images.shape[-2], images.shape[-1]))

    def freeze_where_asked(self) -> None:
        """To be called at the end of a constructor, when the parameters are there."""
        if not self.trainable:
            self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Train mode, except for what is frozen."""
        super().train(mode and self.trainable)
        if self.norm == "frozen":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def fingerprint(self) -> str:
        """SHA-256 over what determines the features: kind, settings, parameters and statistics."""
        digest = hashlib.sha256(f"{type(self).__name__}({self.extra_repr()})".encode())
        for name, value in self.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


class Encoder(ImageEncoder):
    """An encoder with several taps: ``tiny``, which this project trains itself, or any timm model.

    Vision transformers pad images to their patch size and have one stride.

    Args:
        name: ``tiny`` or a timm name.
        weights: a .safetensors file, ``"pretrained"`` (timm's, from the hub) or None. A file holds the state of timm's
            ``create_model(name, num_classes=0)``, or that of this class; it is looked up as given, then in
            ``$FEWSEG_WEIGHTS``, then in ``$FEWSEG_DATA/../weights``.
        output_stride: largest stride, kept by dilation; None leaves the model's own.
        taps: which levels to return, finest first, as in timm's ``out_indices``; None means the last two of ``tiny``
            (strides 4 and 8) and the last three of a timm model (strides 8, 16 and 32 of most).
        trainable: False freezes the parameters and keeps eval mode.
        norm: ``frozen`` keeps batch norms in eval mode; None means ``frozen`` with weights, ``train`` from scratch.

    Raises:
        FewsegError: an unknown name, or settings or weights that the model cannot take.

    >>> encoder = Encoder("tiny")
    >>> [tuple(m.shape) for m in encoder(torch.zeros(1, 2, 3, 17, 13, dtype=torch.uint8)).maps]
    [(1, 2, 64, 5, 4), (1, 2, 128, 3, 2)]
    >>> encoder.out_channels, encoder.strides
    ((64, 128), (4, 8))
    """

    def __init__(
        self,
        name: str = "tiny",
        weights: str | None = None,
        output_stride: int | None = None,
        taps: Sequence[int] | None = None,
        trainable: bool = True,
        norm: Literal["frozen", "train"] | None = None,
    ) -> None:
        super().__init__(trainable=trainable, norm=norm or ("frozen" if weights else "train"))
        self.name, self.output_stride = name, output_stride
        self.patch_size = (1, 1)
        self.embedding_state: dict[str, Tensor] = {}  # of a pre-trained Embedding, where the weights hold one
        self.channels_last = False  # whether the body returns (n, h, w, C)
        if name == "tiny":
            self.taps = tuple(taps or (1, 2))
            self.body: nn.Module = _Tiny(self.taps, output_stride)
            self.out_channels = tuple(_Tiny.channels[tap] for tap in self.taps)
            self.strides = tuple(_Tiny.strides[tap] for tap in self.taps)
        else:
            self.taps = tuple(taps or (-3, -2, -1))
            body = _timm_features(name, self.taps, output_stride)
            self.body = body
            self.out_channels = tuple(body.feature_info.channels())
            self.strides = tuple(body.feature_info.reduction())
            self.channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
            patches = getattr(getattr(body, "model", body), "patch_embed", None)
            self.patch_size = tuple(getattr(patches, "patch_size", (1, 1)))
        if weights == "pretrained":
            self._load(_hub_state(name), weights)
        elif weights is not None:
            self._load(_file_state(find_weights(weights)), weights)
        self.freeze_where_asked()

    def extra_repr(self) -> str:
        """What the fingerprint covers beside the parameters."""
        return f"{self.name!r}, taps={self.taps}, output_stride={self.output_stride}"

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The taps (n, C, h, w) of normalised images (n, 3, H, W)."""
        down, right = (-images.shape[-2] % self.patch_size[0], -images.shape[-1] % self.patch_size[1])
        if down or right:
            # with the mean colour, on both sides: half the shift of the grid that padding one side makes
            images = F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
        maps: Sequence[Tensor] = self.body(images)
        return tuple(m.permute(0, 3, 1, 2) if self.channels_last else m for m in maps)

    def _load(self, state: Mapping[str, Tensor], source: str) -> None:
        """Every tensor of this encoder must be in the state, with its shape; the state may hold a head as well."""
        own = self.state_dict()
        if any(key.startswith("encoder.") for key in state):  # our own pre-training, which brings its embedding along
            self.embedding_state = _under("embedding.", state)
            state = _under("encoder.", state)
        if not own.keys() <= state.keys():  # a timm state; its feature extractors rename "a.b" to "a_b" or "model.a.b"
            flat = {key.replace(".", "_"): value for key, value in state.items()}
            names = {key: key.removeprefix("body.").removeprefix("model.").replace(".", "_") for key in own}
            state = {key: flat[name] for key, name in names.items() if name in flat}
        wrong = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
        if wrong:
            raise FewsegError(
                "weights",
                source,
                f"the weights of {self.name} ({len(wrong)} of {len(own)} tensors are absent or of another shape, "
                f"the first is {wrong[0]})",
                "pass the file that belongs to the encoder",
            )
        self.load_state_dict({key: state[key] for key in own})


class Embedding(nn.Module):
    """All taps of an encoder as one map of one width, at the finest tap: upsample, concatenate, 1x1 convolution.

    A 1x1 convolution and bilinear upsampling commute, so each tap is projected on its own grid first: the same result
    for a fraction of the work.

    Args:
        encoder: whose taps come in.
        width: channels of the map.
        rectify: end with a ReLU.

    >>> encoder = Encoder("tiny")
    >>> Embedding(encoder, width=16)(encoder(torch.rand(1, 3, 33, 20))).maps[0].shape
    torch.Size([1, 16, 9, 5])
    """

    def __init__(self, encoder: ImageEncoder, width: int, rectify: bool = False) -> None:
        super().__init__()
        self.out_channels, self.rectify = width, rectify
        self.in_channels = tuple(encoder.out_channels)
        self.project = nn.Conv2d(sum(self.in_channels), width, 1)
        trained: dict[str, Tensor] = getattr(encoder, "embedding_state", {})
        if trained and trained["project.weight"].shape == self.project.weight.shape:
            self.load_state_dict(trained)

    def forward(self, features: Features) -> Features:
        """Features with one map (B, width, h, w) or (B, K, width, h, w); cached half precision is cast to our dtype."""
        leading = features.maps[0].shape[:-3]
        grid = max(((m.shape[-2], m.shape[-1]) for m in features.maps), key=lambda size: size[0] * size[1])
        weights = torch.split(self.project.weight, list(self.in_channels), dim=1)
        biases = [self.project.bias] + [None] * (len(weights) - 1)
        parts = zip(features.maps, weights, biases, strict=True)
        total, *others = (upsample(F.conv2d(m.flatten(0, -4).to(w.dtype), w, b), grid) for m, w, b in parts)
        for other in others:  # in place, like the rest: these maps are as large as any of the encoder
            total += other
        total = F.relu_(total) if self.rectify else total
        return Features((total.reshape(*leading, *total.shape[1:]),), features.image_size)


class _Tiny(nn.Module):
    """Seven 3x3 convolutions for images of about 96 pixels; a receptive field of 127 pixels at stride 8."""

    channels = (32, 64, 128)
    strides = (2, 4, 8)

    def __init__(self, taps: Sequence[int], output_stride: int | None) -> None:
        super().__init__()
        if output_stride not in (None, 8):
            raise FewsegError("output_stride", output_stride, "8 for the tiny encoder", "leave it out")
        if list(taps) != sorted({0, 1, 2} & set(taps)):
            raise FewsegError("taps", tuple(taps), "levels among 0, 1, 2, ascending, for tiny", "leave them out")
        self.taps = tuple(taps)
        stages = [
            _block(3, 32, stride=2),
            nn.Sequential(_block(32, 64, stride=2), _block(64, 64)),
            nn.Sequential(
                *(
                    _block(64, 128, stride=2),
                    _block(128, 128),
                    _block(128, 128, dilation=2),
                    _block(128, 128, dilation=4),
                )
            ),
        ]
        self.stages = nn.ModuleList(stages[: max(taps) + 1])  # a stage after the last tap would never learn

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return [maps[tap] for tap in self.taps]


def _block(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _timm_features(name: str, taps: tuple[int, ...], output_stride: int | None) -> Any:
    """The feature extractor of timm; transformers are asked to take any image size."""
    import timm  # here, because timm imports wandb, and only this and the hub need it

    if not timm.is_model(name):
        raise FewsegError("encoder", name, "tiny or the name of a timm model", 'see timm.list_models("*resnet*")')
    reason = ""
    for flexible in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):  # a model takes one of them or none
        options = {**flexible, **({"output_stride": output_stride} if output_stride else {})}
        try:
            return timm.create_model(name, features_only=True, out_indices=taps, pretrained=False, **options)
        except TypeError as error:  # an argument that this kind of model does not have
            reason = str(error)
        except Exception as error:  # timm raises many kinds for taps and strides out of range
            reason = f"{type(error).__name__}: {error}"
            break
    raise FewsegError(
        "encoder",
        f"{name} with output_stride={output_stride} and taps={taps} ({reason})",
        "a stride and taps that the model has",
        "leave output_stride and taps out, or choose another encoder",
    )


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _hub_state(name: str) -> dict[str, Tensor]:
    """The pretrained state of a timm model, from the hub or its cache on disk."""
    import timm

    try:
        if name == "tiny":
            raise LookupError("tiny is this project's own")
        model: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # hub, connection, cache and timm errors have no common class
        raise FewsegError(
            "weights",
            f'"pretrained" for {name}, which could not be fetched ({type(error).__name__})',
            "a reachable hub that serves them, or a .safetensors file",
            f"connect to the hub, or put {name}.safetensors into $FEWSEG_WEIGHTS and pass weights={name}.safetensors",
        ) from error
    return model.state_dict()


def _file_state(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise FewsegError("weights", path, f"a safetensors file ({error})", "convert it to safetensors") from error
    return state
