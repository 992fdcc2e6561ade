"""co-FCN: annotation channels by hand, the pool over shots, the head without a tiled map, and the paper's sizes."""

import pytest
import torch

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.models.cofcn import CoFCN, CoFCNNetwork, Guidance, PaperCoFCNNetwork
from fewseg.modules.annotated import AMPLITUDE, AnnotatedEncoder
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)


def build(dilation=3):
    torch.manual_seed(0)
    return CoFCNNetwork(Encoder("tiny"), AnnotatedEncoder(Encoder("tiny"), channels=2), 16, dilation).eval()


@pytest.fixture
def network():
    return build()


@pytest.fixture(scope="module")
def paper():
    """On the meta device: sizes without numbers."""
    with torch.device("meta"):
        return PaperCoFCNNetwork().eval()


def raw(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def labels(*shape):
    return torch.randint(0, 2, shape, dtype=torch.uint8)


def z(network, supports, annotations):
    with torch.inference_mode():
        return network.guide(network.encode_support(supports), annotations).z


# ------------------------------------------------------------------------------------------------------------ channels


ROW = torch.tensor([[[[255, 255, 1, 0, 255, 255]]]], dtype=torch.uint8)


def test_channels_by_hand(network):
    negative, positive = network.channels(ROW, torch.float64)[0, 0, :, 0].div(AMPLITUDE).tolist()
    assert negative == [1, 1, 1, -1, -1, 1]  # turned over; the point grows, but not over the positive pixel
    assert positive == [-1, 1, 1, -1, -1, -1]


def test_channels_of_the_paper_by_hand(paper):
    paper.dilation = 3
    negative, positive = paper.channels(ROW, torch.float64)[0, 0, :, 0].tolist()
    paper.dilation = 11
    assert negative == [-128, -128, 128, 128, 128, -128]
    assert positive == [-128, 128, 128, 128, -128, -128]
    point = torch.full((1, 1, 33, 33), 255, dtype=torch.uint8)
    point[..., 16, 16] = 1
    assert (paper.channels(point, torch.float32) == 128).sum() == 11 * 11


def test_annotation_channels_are_as_loud_beside_the_colours_as_in_the_original(network):
    assert pytest.approx(2.22, abs=0.005) == AMPLITUDE


def test_unknown_pixels_do_nothing_at_the_start(network):
    """Both channels start with one weight: an unknown pixel has -a and a, a labelled one 2a or -2a."""
    unknown = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    assert network.channels(unknown, torch.float32).sum(2).abs().max() == 0
    dense = labels(1, 1, 32, 32)
    expected = 2 * AMPLITUDE * (2 * dense.double() - 1)
    torch.testing.assert_close(network.channels(dense, torch.float64).sum(2), expected)


def test_the_dilation_is_read():
    points = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    points[..., 10, 12], points[..., 25, 25] = 1, 0
    supports = raw(1, 1, 3, 32, 32)
    assert not torch.equal(z(build(1), supports, points), z(build(5), supports, points))
    for bad in (0, 4, -1):
        with pytest.raises(FewsegError, match=f"dilation: got {bad}, expected an odd number"):
            CoFCN(dilation=bad)


# ---------------------------------------------------------------------------------------------------------------- pool


def test_z_is_the_mean_over_all_cells_of_all_shots(network):
    supports, annotations = raw(2, 3, 3, 32, 24), labels(2, 3, 32, 24)
    apart = [z(network, supports[:, k : k + 1], annotations[:, k : k + 1]) for k in range(3)]
    torch.testing.assert_close(z(network, supports, annotations), torch.stack(apart).mean(0))
    with torch.inference_mode():
        channels = network.channels(annotations, torch.float32)
        maps = network.support_embedding(network.support_encoder(supports, channels)).maps[0]
    torch.testing.assert_close(z(network, supports, annotations), maps.transpose(1, 2).flatten(2).mean(2))


def test_one_support_serves_many_objects(network):
    support, annotations = raw(1, 1, 3, 32, 32), labels(3, 1, 32, 32)
    apart = [z(network, support, annotations[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(z(network, support, annotations), torch.cat(apart))


# ---------------------------------------------------------------------------------------------------------------- head


def test_the_head_is_the_convolution_of_the_tiled_concatenation(network):
    features, context = torch.randn(1, 16, 4, 5), torch.randn(3, 16)
    tiled = context[..., None, None].expand(3, 16, 4, 5)
    joined = torch.cat([tiled, features.expand(3, -1, -1, -1)], 1)  # the support comes first
    expected = network.score(torch.relu(network.fuse(joined)))
    guidance = Guidance(context, torch.tensor([True, True, False]))
    logits = network.segment(Features((features,), (4, 5)), guidance)
    torch.testing.assert_close(logits[:2], expected[:2])
    assert (logits[2, 0] > logits[2, 1]).all()  # nothing positive


# ------------------------------------------------------------------------------------------------------------ variants


def test_the_paper_has_42_million_parameters(paper):
    parts = [paper.support_encoder, paper.encoder, paper.fuse, paper.score]
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [21_138_624, 21_137_472, 131_328, 514]
    assert sum(p.numel() for p in paper.parameters() if p.requires_grad) == 42_407_938
    assert sum(p.numel() for p in paper.parameters()) == 42_424_322


def test_order_of_the_originals_entries(paper):
    shapes = [None if e is None else tuple(e.shape) for e in paper.original_entries()]
    assert len(shapes) == 28 + 28 + 4 + 1
    assert (shapes[0], shapes[26]) == ((64, 5, 3, 3), (256, 512, 7, 7))
    assert (shapes[28], shapes[54]) == ((64, 3, 3, 3), (256, 512, 7, 7))
    assert shapes[56:] == [(256, 512, 1, 1), (256,), (2, 256, 1, 1), (2,), None]


def test_sizes_of_the_paper(paper):
    with torch.device("meta"):
        guidance = paper.guide(paper.encode_support(torch.empty(2, 3, 3, 64, 96)), torch.ones(2, 3, 64, 96).byte())
        assert guidance.z.shape == (2, 256)
        features = paper.encode_query(torch.empty(2, 3, 97, 129))
        assert features.maps[0].shape == (2, 256, 3, 4)
        assert paper.segment(features, guidance).shape == (2, 2, 97, 129)


def test_the_paper_starts_as_its_authors_meant():
    """The widened convolution starts with the mean of the colours; all logits are 0 until the score layer learns."""
    torch.manual_seed(0)
    network = PaperCoFCNNetwork().eval()
    first = next(network.support_encoder.encoder.vgg.parameters())
    torch.testing.assert_close(first[:, 3:], first[:, :3].mean(1, keepdim=True).expand(-1, 2, -1, -1))
    assert network.fuse.weight.std().item() == pytest.approx(0.001, rel=0.05)
    supports, query = raw(1, 1, 3, 33, 40), raw(1, 3, 40, 33)
    with torch.inference_mode():
        guidance = network.guide(network.encode_support(supports), labels(1, 1, 33, 40))
        logits = network.segment(network.encode_query(query), guidance)
    assert logits.shape == (1, 2, 40, 33)
    assert guidance.z.abs().max() > 0
    assert (logits == 0).all()


def test_channel_dropout_only_in_the_paper(network, paper):
    assert isinstance(paper.drop, torch.nn.Dropout2d)
    assert paper.drop.p == 0.5
    assert not any(isinstance(m, torch.nn.Dropout2d) for m in network.modules())


def test_freezing_leaves_the_trunk_of_the_supports():
    model = CoFCN(width=16, freeze_encoder=True, lr=1.0, encoder_lr_factor=0.5)
    assert not any(p.requires_grad for p in model.network.encoder.parameters())
    groups = model.parameter_groups()
    assert groups[0]["lr"] == 0.5
    assert len(groups[0]["params"]) == len(list(model.network.support_encoder.parameters()))


def test_the_paper_takes_no_other_encoder():
    with pytest.raises(FewsegError, match="encoder: got resnet10t"):
        CoFCN(encoder="resnet10t", variant="paper")
