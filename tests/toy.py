"""A whole method in one file, as anybody would write it: conformance suite, command line and a benchmark run it.

Its YAML is conf/toy.yaml. In the package it would also cost one import line in ``fewseg.models``.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewseg.episode import POSITIVE
from fewseg.functional.annotations import annotated, silence, weights_of
from fewseg.functional.geometry import upsample
from fewseg.functional.pooling import masked_mean
from fewseg.models.base import FewShotSegmentor
from fewseg.modules.encoders import Encoder
from fewseg.network import SegmentorNetwork


class Means(NamedTuple):
    """means (B, 2, C) of negative and positive features, annotated (B, 2) bool: a guidance has a leading B."""

    means: Tensor
    annotated: Tensor


class ToyNetwork(SegmentorNetwork):
    """Every query cell takes the label whose mean support feature is nearer; the distance is scaled by a parameter."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.scale = nn.Parameter(torch.tensor(1.0))

    def guide(self, features, annotations):
        maps = features.maps[0].to(self.scale.dtype)  # cached features come in half precision
        weights = [weights_of(annotations, label, maps.shape[-2:]) for label in (0, 1)]
        return Means(torch.stack([masked_mean(maps, w) for w in weights], 1), annotated(annotations))

    def segment(self, features, guidance, clicks=None):
        cells = features.maps[0].to(self.scale.dtype)[:, None]  # (B, 1, C, h, w)
        distances = (cells - guidance.means[..., None, None]).square().sum(2)  # (B, 2, h, w)
        return silence(upsample(-self.scale * distances, features.image_size), guidance.annotated[:, POSITIVE])


class Toy(FewShotSegmentor):
    """The module beside the network: its hyper-parameters, and nothing that the base class has already."""

    def __init__(self, encoder: str = "tiny", freeze_encoder: bool = False, lr: float = 1e-3) -> None:
        self.save_hyperparameters()
        super().__init__(network=ToyNetwork(Encoder(encoder, taps=(1,), trainable=not freeze_encoder)), lr=lr)
