"""OSLSM: what the hashing is, the classifier by hand, shots that vote, blanked pixels, and the paper's sizes."""

import pytest
import torch

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.functional.geometry import upsample
from fewseg.models.oslsm import OSLSM, Guidance, Hashing, OSLSMNetwork, PaperOSLSMNetwork
from fewseg.modules.encoders import Encoder
from fewseg.modules.fcn32s import FIRST_PADDING, Decoder, FCN32s

torch.set_num_threads(1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return OSLSMNetwork(Encoder("tiny"), Encoder("tiny"), width=16, codes=8).eval()


@pytest.fixture(scope="module")
def paper():
    """On the meta device: sizes without a gigabyte of numbers."""
    with torch.device("meta"):
        return PaperOSLSMNetwork().to("meta").eval()


def raw(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def answer(network, supports, annotations, query):
    with torch.inference_mode():
        guidance = network.guide(network.encode_support(supports), annotations)
        return network.segment(network.encode_query(query), guidance)


# ------------------------------------------------------------------------------------------------------------ hashing


def test_every_output_copies_one_input_with_a_sign():
    hashing = Hashing(20, 300)
    assert (hashing.matrix.abs().sum(1) == 1).all()
    assert (hashing.matrix != 0).sum(1).eq(1).all()
    codes = torch.randn(20)
    for output, row in zip(hashing(codes), hashing.matrix, strict=True):
        assert output == codes[row.abs().argmax()] * row.sum()
    assert (hashing.matrix != 0).any(0).all()  # 300 draws reach all 20 inputs
    assert 100 < (hashing.matrix == 1).sum() < 200


def test_the_hashing_comes_from_its_seed_and_never_learns(network):
    torch.manual_seed(1)
    other = OSLSMNetwork(Encoder("tiny"), Encoder("tiny"), width=16, codes=8)
    assert torch.equal(network.hashing.matrix, other.hashing.matrix)
    assert not torch.equal(network.hashing.matrix, Hashing(8, 17, seed=1).matrix)
    assert not list(network.hashing.parameters())
    assert "hashing.matrix" in network.state_dict()


# ---------------------------------------------------------------------------------------------------------- the answer


def test_the_logit_by_hand():
    network = OSLSMNetwork(Encoder("tiny"), None, width=4, codes=2)
    features = Features((torch.tensor([[1.0, 2.0], [0.0, 3.0], [5.0, 0.0], [0.0, 0.0]]).view(1, 4, 1, 2),), (1, 2))
    classifiers = torch.tensor([[[1.0, -2.0, 0.0, 7.0, 0.5]]])
    logits = network.segment(features, Guidance(classifiers, torch.tensor([[True]])))
    assert logits[0, 0].tolist() == [[0.0, 0.0]]
    # (1 * 1) / sqrt(4) + 0.5 and (1 * 2 - 2 * 3) / sqrt(4) + 0.5
    assert logits[0, 1].tolist() == [[1.0, -1.5]]


def test_the_paper_does_not_scale_its_weights(paper):
    assert paper.scale == 1.0
    assert OSLSMNetwork(Encoder("tiny"), None, width=16).scale == 0.25


def test_shots_vote_by_their_maximum(network):
    supports, query = raw(1, 3, 3, 32, 32), raw(1, 3, 32, 32)
    annotations = torch.randint(0, 2, (1, 3, 32, 32), dtype=torch.uint8)
    apart = [answer(network, supports[:, k : k + 1], annotations[:, k : k + 1], query) for k in range(3)]
    together = answer(network, supports, annotations, query)
    torch.testing.assert_close(together[:, 1], torch.stack([a[:, 1] for a in apart]).amax(0))
    union = torch.stack([a.argmax(1) for a in apart]).amax(0)
    assert torch.equal(together.argmax(1), union)


def test_the_maximum_is_taken_at_image_size():
    """Two cells that prefer different shots: between them the larger interpolation wins, not that of the larger."""
    network = OSLSMNetwork(Encoder("tiny"), None, width=1, codes=2)
    features = Features((torch.tensor([[[[-1.0, 1.0]]]]),), (1, 4))
    classifiers = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    logits = network.segment(features, Guidance(classifiers, torch.ones(1, 2, dtype=torch.bool)))
    assert logits[0, 1].tolist() == upsample(features.maps[0], (1, 4))[0, 0].abs().tolist() == [[1.0, 0.5, 0.5, 1.0]]


def test_a_shot_without_positives_has_no_vote(network):
    supports, query = raw(1, 2, 3, 32, 32), raw(1, 3, 32, 32)
    annotations = torch.randint(0, 2, (1, 2, 32, 32), dtype=torch.uint8)
    one = answer(network, supports[:, :1], annotations[:, :1], query)
    for value in (0, 255):
        annotations[:, 1] = value
        torch.testing.assert_close(answer(network, supports, annotations, query), one)
    with torch.no_grad():
        network.regressor[-1].bias.fill_(-1e4)  # whatever the one vote is
    low = answer(network, supports[:, :1], annotations[:, :1], query)
    torch.testing.assert_close(answer(network, supports, annotations, query), low)


def test_represent_is_the_mean_of_the_votes(network):
    classifiers = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [[9.0, 9.0]] * 3])
    positive = torch.tensor([[True, True, False], [False] * 3])
    assert network.represent(Guidance(classifiers, positive)).tolist() == [[2.0, 3.0], [0.0, 0.0]]


# --------------------------------------------------------------------------------------------------------- annotations


def test_unknown_pixels_are_negative(network):
    supports, query = raw(1, 1, 3, 32, 32), raw(1, 3, 32, 32)
    points = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    points[..., 4, 7], points[..., 20, 9], points[..., 30, 1] = 1, 1, 0
    expected = answer(network, supports, points.masked_fill(points == 255, 0), query)
    assert torch.equal(answer(network, supports, points, query), expected)
    moved = points.roll(3, -1)
    assert not torch.equal(answer(network, supports, moved, query), expected)


def test_only_positive_pixels_of_a_support_are_seen(network):
    supports = raw(1, 1, 3, 32, 32)
    annotations = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    annotations[..., 8:20, 8:20] = 1

    def classifiers(images):
        with torch.inference_mode():
            return network.guide(network.encode_support(images), annotations).classifiers

    outside, inside = supports.clone(), supports.clone()
    outside[..., 0:8, :] = 255 - outside[..., 0:8, :]
    inside[..., 10, 10] = 255 - inside[..., 10, 10]
    assert torch.equal(classifiers(outside), classifiers(supports))
    assert not torch.equal(classifiers(inside), classifiers(supports))


# ------------------------------------------------------------------------------------------------------------ variants


def test_one_encoder_for_both_where_asked():
    own, shared = OSLSM(width=16), OSLSM(width=16, separate_encoders=False)
    trunk = sum(p.numel() for p in own.network.encoder.parameters())
    count = [sum(p.numel() for p in model.network.parameters()) for model in (own, shared)]
    assert count[0] - count[1] == trunk
    frozen = OSLSM(width=16, freeze_encoder=True).network
    assert not any(p.requires_grad for p in frozen.encoder.parameters())
    assert all(p.requires_grad for p in frozen.support_encoder.parameters())


def test_the_paper_has_272_million_parameters(paper):
    branches = [sum(p.numel() for c in part for p in c.parameters()) for part in (paper.conditioning(),)]
    branches.append(sum(p.numel() for p in paper.encoder.parameters()))
    assert branches == [138_357_544, 134_260_544]
    assert sum(p.numel() for p in paper.parameters() if p.requires_grad) == sum(branches) == 272_618_088
    assert sum(p.numel() for p in paper.parameters()) == 272_622_184
    assert paper.hashing.matrix.shape == (4097, 1000)


@pytest.mark.parametrize(("side", "cells"), [(500, 18), (1, 2), (16, 2), (17, 3), (97, 5), (321, 12)])
def test_the_paper_has_18_cells_for_500_pixels(paper, side, cells):
    features = paper.encode_query(torch.empty(1, 3, side, 33, device="meta"))
    assert features.maps[0].shape == (1, 4096, cells, 3)
    size = (side, 33)
    logits = Decoder(1, offset=40)(torch.ones(1, 1, cells, 3), size)
    assert logits.shape == (1, 1, *size)
    torch.testing.assert_close(logits, torch.ones(1, 1, *size))  # the fading border is what is cropped


def test_the_crop_puts_every_cell_at_its_centre():
    """Cell i sees pixel 32 i + 31.5 - (121 - 81): decoding that number gives each pixel its own row."""
    centres = 32 * torch.arange(18.0) + 31.5 - (121 - FIRST_PADDING)
    logits = Decoder(1, offset=40)(centres.view(1, 1, 18, 1).expand(1, 1, 18, 18), (500, 500))
    torch.testing.assert_close(logits[0, 0, :, 250], torch.arange(500.0), atol=1e-3, rtol=0)


def test_the_papers_verbs_have_their_sizes(paper):
    codes = paper.regress(torch.empty(2, 3, 3, 97, 129, device="meta"))
    assert codes.shape == (2, 3, 1000)
    with torch.device("meta"):
        guidance = paper.guide(paper.encode_support(torch.empty(2, 3, 3, 97, 129)), torch.ones(2, 3, 97, 129).byte())
        assert guidance.classifiers.shape == (2, 3, 4097)


def test_one_pixel_of_a_large_support_is_not_lost_on_the_way_to_224(paper, monkeypatch):
    seen = []
    network = OSLSMNetwork.__new__(PaperOSLSMNetwork)
    torch.nn.Module.__init__(network)
    network.support_encoder = lambda images: seen.append(images) or Features((torch.zeros(1, 4096, 1, 1),), (1, 1))
    network.regressor = torch.nn.Conv2d(4096, 1000, 1)
    masked = torch.zeros(1, 1, 3, 900, 900)
    masked[..., 451, 453] = 1.0
    network.regress(masked)
    assert seen[0].shape == (1, 3, 224, 224)
    assert seen[0].max() > 0


def test_order_of_the_originals_entries(paper):
    entries = paper.original_entries()
    shapes = [None if e is None else tuple(e.shape) for e in entries]
    assert len(shapes) == 32 + 2 + 30 + 1
    assert shapes[26:34] == [
        (4096, 25088), (4096,), (4096, 4096), (4096,), (1000, 4096), (1000,), (4096, 1000), (1, 1000),
    ]  # fmt: skip
    assert shapes[34] == (64, 3, 3, 3)
    assert shapes[60:] == [(4096, 512, 7, 7), (4096,), (4096, 4096, 1, 1), (4096,), None]
    assert entries[26]._base is paper.support_encoder.fc6.weight  # copying into a view fills the layer
    assert entries[33]._base is paper.hashing.matrix


def test_the_papers_learning_rates():
    with torch.device("meta"):
        model = OSLSM(variant="paper", lr=1.0, encoder_lr_factor=0.5)
    groups = model.parameter_groups()
    assert [group["lr"] for group in groups] == pytest.approx([0.5, 1.0, 0.05, 0.1])
    assert [len(group["params"]) for group in groups] == [15, 15, 16, 16]
    assert all(p.ndim == 1 for i in (1, 3) for p in groups[i]["params"])
    assert any(p is model.network.regressor.weight for p in groups[2]["params"])
    with torch.device("meta"):
        frozen = OSLSM(variant="paper", freeze_encoder=True)
    assert [len(group["params"]) for group in frozen.parameter_groups()] == [16, 16]
    assert len(OSLSM(width=16).parameter_groups()) == 2


@pytest.mark.parametrize("option", [{"encoder": "resnet10t"}, {"codes": 32}, {"separate_encoders": False}])
def test_the_paper_takes_no_other_parts(option):
    with pytest.raises(FewsegError, match=f'^{next(iter(option))}: got .* choose variant="standard"$'):
        OSLSM(variant="paper", **option)


def test_padding_is_part_of_what_names_an_encoder():
    with torch.device("meta"):
        assert FCN32s(lite=True).extra_repr() != FCN32s(lite=True, first_padding=1).extra_repr()
