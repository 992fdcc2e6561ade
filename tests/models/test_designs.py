"""Designs whose choices change how annotations are read: beside the defaults, which the conformance suite checks."""

import pytest
import torch

import fewseg

torch.set_num_threads(1)

DESIGNS = [
    ("GuidedNet", {"fusion": "early"}),
    ("GuidedNet", {"fusion": "masked"}),
    ("GuidedNet", {"locality": "local"}),
    ("GuidedNet", {"inference": "regression"}),
    ("SGOne", {"support": "concat"}),
    ("SGOne", {"support": "concat", "freeze_encoder": True}),
    ("SGOne", {"support": "mask_image"}),
    ("SGOne", {"separate_encoders": True}),
    ("OSLSM", {"separate_encoders": False}),
    ("CoFCN", {}),
    ("CoFCN", {"freeze_encoder": True}),
]


@pytest.mark.parametrize(("name", "design"), DESIGNS, ids=str)
def test_z_depends_on_the_labels_from_the_start(name, design):
    """Else nothing tells a mask from its opposite, and a training first has to find that out."""
    torch.manual_seed(0)
    network = fewseg.create_model(name, encoder="tiny", **design).network
    images = torch.randint(0, 256, (1, 1, 3, 48, 48), dtype=torch.uint8)
    mask = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    mask[..., 10:35, 5:25] = 1
    with torch.inference_mode():
        supports = network.encode_support(images)
        z, opposite = (network.represent(network.guide(supports, m)) for m in (mask, 1 - mask))
    assert (z - opposite).norm() > 0.01 * z.norm()
