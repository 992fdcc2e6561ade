"""DIOS: click maps by hand, what the added channels start as, the grids of its FCN-8s, and the papers' sizes."""

import pytest
import torch
from torch import nn

from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.models.dios import DIOS, DIOSNetwork, PaperDistanceNetwork, PaperIndicatorNetwork
from fewseg.modules.annotated import AMPLITUDE
from fewseg.modules.encoders import IMAGENET_STD, Encoder

torch.set_num_threads(1)

CLICKS = torch.tensor([[[0, 3, 1], [1, 0, 0], [0, 0, -1]]], dtype=torch.int32)


def build(maps, dilation=1):
    torch.manual_seed(0)
    return DIOSNetwork(Encoder("tiny"), 16, 1, maps, dilation).eval()


@pytest.fixture(scope="module")
def papers():
    """On the meta device: sizes without numbers."""
    with torch.device("meta"):
        return {"indicator": PaperIndicatorNetwork().eval(), "distance": PaperDistanceNetwork().eval()}


def none(network, *shape):
    return network.guide(network.encode_support(torch.zeros(1, 0, 3, *shape)), torch.zeros(1, 0, *shape))


# ---------------------------------------------------------------------------------------------------------------- maps


def test_distances_by_hand():
    """Divided by the mean deviation of colours, 57.6 on the scale 0..255, as colours are."""
    unit = 255 * sum(IMAGENET_STD) / 3
    negative, positive = build("distance").click_maps(CLICKS, (2, 4))[0].mul(unit)
    torch.testing.assert_close(negative, torch.tensor([[1, 2**0.5, 5**0.5, 10**0.5], [0, 1, 2, 3]]))
    torch.testing.assert_close(positive, torch.tensor([[3, 2, 1, 0], [10**0.5, 5**0.5, 2**0.5, 1]]))


def test_distances_end_at_255_pixels():
    far = build("distance").click_maps(CLICKS[:, :1], (1, 400))[0, :, 0] * (255 * sum(IMAGENET_STD) / 3)
    torch.testing.assert_close(far[1, [3, 257, 258, 259, 399]], torch.tensor([0.0, 254, 255, 255, 255]))
    assert (far[0] - 255).abs().max() < 1e-3  # no negative click


def test_indicators_by_hand():
    negative, positive = build("indicator", 3).click_maps(CLICKS, (2, 4)).div(AMPLITUDE)[0].tolist()
    assert negative == [[-1, -1, 1, 1], [-1, -1, 1, 1]]  # turned over
    assert positive == [[-1, -1, 1, 1], [-1, -1, 1, 1]]


def test_maps_of_the_papers_by_hand(papers):
    """On the scale of raw colours: x 256 - 128 of dilated indicators, and pixels."""
    point = torch.tensor([[[20, 30, 1]]])
    with torch.device("cpu"):
        indicators = papers["indicator"].click_maps(point, (40, 60))[0]
        distances = papers["distance"].click_maps(point, (40, 600))[0]
    assert indicators.dtype == torch.float32
    assert (indicators[0] == -128).all()
    assert (indicators[1] == 128).sum() == 11 * 11
    assert (indicators[1] == -128).sum() == 40 * 60 - 11 * 11
    assert (distances[0] == 255).all()
    assert distances[1, 20, 30:33].tolist() == [0, 1, 2]
    assert distances[1].max() == 255


@pytest.mark.parametrize("maps", ["distance", "indicator"])
def test_every_pixel_may_be_clicked(maps):
    """A dense annotation as clicks, H x W of them, in an order that does not matter."""
    network = build(maps)
    label = (torch.arange(24)[:, None] > torch.arange(20)).int()
    rows, cols = torch.meshgrid(torch.arange(24), torch.arange(20), indexing="ij")
    clicks = torch.stack([rows, cols, label], -1).reshape(1, -1, 3).int()
    channels = network.click_maps(clicks, (24, 20))[0]
    inside = channels == 0 if maps == "distance" else channels * torch.tensor([-1, 1])[:, None, None] > 0
    assert torch.equal(inside, torch.stack([label == 0, label == 1]))


# ------------------------------------------------------------------------------------------------------------ channels


def test_added_channels_start_at_zero_or_at_the_mean_of_the_colours():
    torch.manual_seed(0)
    colours = next(m for m in Encoder("tiny").modules() if isinstance(m, nn.Conv2d)).weight
    for maps, start in (("distance", torch.zeros_like(colours[:, :1])), ("indicator", colours.mean(1, keepdim=True))):
        first = next(m for m in build(maps).encoder.modules() if isinstance(m, nn.Conv2d))
        assert torch.equal(first.weight[:, :3], colours)
        torch.testing.assert_close(first.weight[:, 3:], start.expand(-1, 2, -1, -1))


def test_at_the_start_distances_are_not_heard_and_indicators_are():
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    one, other = (torch.tensor([[[r, r, 1], [5, 20, 0]]]) for r in (9, 25))
    for maps, deaf in (("distance", True), ("indicator", False)):
        network = build(maps)
        with torch.inference_mode():
            answers = [network.segment(network.encode_query(images), none(network, 32, 32), c) for c in (one, other)]
        assert torch.equal(*answers) == deaf


def test_the_first_convolution_learns_even_where_the_encoder_is_frozen():
    network = DIOS(freeze_encoder=True).network
    learned = [name for name, parameter in network.encoder.named_parameters() if parameter.requires_grad]
    assert len(learned) == 1
    assert network.get_parameter(f"encoder.{learned[0]}").shape[1] == 5


def test_changed_maps_change_the_answer_and_have_gradients():
    network = build("indicator", 3)
    features = network.encode_query(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
    maps = network.click_maps(CLICKS, (32, 32)).requires_grad_()
    network.segment(features, none(network, 32, 32), maps)[:, 1].sum().backward()
    assert maps.grad.abs().sum() > 0
    with pytest.raises(FewsegError, match="clicks"):
        network.segment(features, none(network, 32, 32), maps[..., :-1])


# ------------------------------------------------------------------------------------------------------------ papers


def count(network):
    numbers = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, _ in numbers), sum(n for n, learned in numbers if learned)


def test_sizes_of_the_papers(papers):
    """Two more input channels of 64 3x3 kernels; FCN-8s has two more score layers and smaller kernels."""
    added = 2 * 64 * 9
    assert count(papers["indicator"]) == (134_285_122 + added, 134_268_738 + added)
    scores, kernels = 2 * (512 + 1) + 2 * (256 + 1), 2 * 2 * (4 * 4 + 4 * 4 + 16 * 16)
    assert count(papers["distance"]) == (134_268_738 + added + scores + kernels, 134_268_738 + added + scores)


@pytest.mark.parametrize("maps", ["distance", "indicator"])
@pytest.mark.parametrize("size", [(33, 33), (64, 97), (321, 129)])
def test_papers_answer_at_image_size(papers, maps, size):
    network = papers[maps]
    images = torch.zeros(1, 3, *size, device="meta")
    channels = torch.zeros(1, 2, *size, device="meta")
    assert network.segment(Features((images,), size), torch.zeros(1, 0, device="meta"), channels).shape == (1, 2, *size)


def test_the_grids_of_the_skips_are_one_another_s():
    """Coordinates as scores: what is added on each grid, and the answer, name the same pixels."""
    with torch.device("meta"):
        network = PaperDistanceNetwork()
    for name in ("twice", "twice_more", "decoder"):
        decoder = getattr(network, name)
        fresh = type(decoder)(2, decoder.offset, decoder.stride)
        setattr(network, name, fresh)
    height = 160  # pixels; cells of fc7, pool4 and pool3 are centred as the class says
    cells = {"fc7": (4, 32, 31.5), "pool4": (20, 16, -72.5), "pool3": (40, 8, -76.5)}
    rows = {k: (stride * torch.arange(n) + first).float() for k, (n, stride, first) in cells.items()}
    grids = {k: v[:, None].expand(-1, len(v)).expand(1, 2, -1, -1) for k, v in rows.items()}
    network.head, network.score_pool4, network.score_pool3 = nn.Identity(), nn.Identity(), nn.Identity()
    logits = network.score(Features((grids["pool3"], grids["pool4"], grids["fc7"]), (height, height)))
    pixels = torch.arange(height).float()
    torch.testing.assert_close(logits[0, 0, 48:112, 80] / 3, pixels[48:112])  # three scores, away from the border


def test_options_that_do_nothing_are_refused():
    with pytest.raises(FewsegError, match="maps"):
        DIOS(maps="tanh")
    with pytest.raises(FewsegError, match="encoder"):
        DIOS(variant="paper", encoder="resnet18")
    with pytest.raises(FewsegError, match="dilation"):
        DIOS(maps="indicator", dilation=4)
