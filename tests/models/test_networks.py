"""What the three networks promise, read from the outside: sizes, shots, order, batches, missing labels, gradients."""

import copy

import pytest
import torch

from fewseg import models
from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame
from fewseg.errors import FewsegError
from fewseg.models.fgbg import FgBg, FgBgNetwork
from fewseg.models.guided import GuidedNet, GuidedNetwork, Head
from fewseg.models.panet import PANet, PANetNetwork
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)

BUILDERS = {
    "guided shared": lambda: GuidedNetwork(Encoder("tiny"), 16),
    "guided separate": lambda: GuidedNetwork(Encoder("tiny"), 16, "separate"),
    "panet": lambda: PANetNetwork(Encoder("tiny"), 16),
    "fgbg": lambda: FgBgNetwork(Encoder("tiny"), 16),
}


@pytest.fixture(params=BUILDERS)
def network(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]().eval()


def raw(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def labels(*shape):
    return torch.randint(0, 2, shape, dtype=torch.uint8)


def episodes(b, k, support=(32, 24), query=(33, 20)):
    spec = EpisodeSpec("q", ("s",) * k, 1)
    frame = Frame(query, query, Box(0, 0, *query))
    return EpisodeBatch(
        support_images=raw(b, k, 3, *support),
        support_annotations=labels(b, k, *support),
        query_images=raw(b, 3, *query),
        query_clicks=torch.zeros(b, 0, 3, dtype=torch.int32),
        query_masks=labels(b, *query),
        targets=(None,) * b,
        frames=(frame,) * b,
        specs=(spec,) * b,
    )


@torch.inference_mode()
def run(network, supports, annotations, query):
    return network.segment(network.encode_query(query), network.guide(network.encode_support(supports), annotations))


@pytest.mark.parametrize("n_shot", [1, 3])
@pytest.mark.parametrize("size", [(17, 13), (1, 1), (40, 64)])
def test_any_size_and_shot(network, n_shot, size):
    logits = run(network, raw(2, n_shot, 3, 19, 23), labels(2, n_shot, 19, 23), raw(2, 3, *size))
    assert logits.shape == (2, 2, *size)
    assert torch.isfinite(logits).all()


def test_order_of_shots_does_not_matter(network):
    supports, annotations, query = raw(1, 3, 3, 32, 32), labels(1, 3, 32, 32), raw(1, 3, 32, 32)
    annotations[0, 1] = 255
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        run(network, supports, annotations, query), run(network, supports[:, order], annotations[:, order], query)
    )


def test_a_batch_is_its_episodes(network):
    supports, annotations, query = raw(2, 2, 3, 32, 32), labels(2, 2, 32, 32), raw(2, 3, 24, 40)
    apart = [run(network, supports[i : i + 1], annotations[i : i + 1], query[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(run(network, supports, annotations, query), torch.cat(apart), atol=1e-4, rtol=1e-4)


def test_one_frame_serves_many_objects(network):
    """The objects of a video are the batch axis; supports and query are encoded once."""
    supports, annotations, query = raw(1, 1, 3, 32, 32), labels(3, 1, 32, 32), raw(1, 3, 24, 40)
    together = run(network, supports, annotations, query)
    assert together.shape == (3, 2, 24, 40)
    apart = torch.cat([run(network, supports, annotations[i : i + 1], query) for i in range(3)])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_without_positives_all_is_background(network):
    annotations = torch.stack([torch.zeros(1, 32, 32), torch.full((1, 32, 32), 255)]).to(torch.uint8)
    logits = run(network, raw(2, 1, 3, 32, 32), annotations, raw(2, 3, 32, 32))
    assert torch.isfinite(logits).all()
    if network.uses_support:
        assert (logits[:, 0] > logits[:, 1] + 5).all()


def test_without_negatives_logits_are_finite(network):
    annotations = torch.full((1, 2, 32, 32), 255, dtype=torch.uint8)
    annotations[0, 1, 7, 9] = 1
    logits = run(network, raw(1, 2, 3, 32, 32), annotations, raw(1, 3, 32, 32))
    assert torch.isfinite(logits).all()


def test_unannotated_shots_change_nothing(network):
    supports, annotations, query = raw(1, 2, 3, 32, 32), labels(1, 2, 32, 32), raw(1, 3, 32, 32)
    annotations[:, 1] = 255
    one = run(network, supports[:, :1], annotations[:, :1], query)
    torch.testing.assert_close(run(network, supports, annotations, query), one, atol=1e-4, rtol=1e-4)


def test_labels_of_different_shots_add_up(network):
    """One shot with the positives and one with the negatives is what both pixels say, not half of each."""
    annotations = torch.full((1, 2, 32, 32), 255, dtype=torch.uint8)
    annotations[0, 0, 5, 5], annotations[0, 1, 20, 20] = 1, 0
    image, query = raw(1, 1, 3, 32, 32), raw(1, 3, 32, 32)
    merged = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    merged[0, 0, 5, 5], merged[0, 0, 20, 20] = 1, 0
    torch.testing.assert_close(
        run(network, image.expand(1, 2, 3, 32, 32), annotations, query),
        run(network, image, merged, query),
        atol=1e-4,
        rtol=1e-4,
    )


def test_gradients_reach_all_parameters(network):
    network.train()
    losses = network.losses(episodes(2, 2))
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_losses_without_any_positive_are_finite(network):
    batch = episodes(2, 1)
    batch.support_annotations.fill_(255)
    losses = network.train().losses(batch)
    total = sum(losses.values())
    assert torch.isfinite(total)
    if total.requires_grad:
        total.backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_cached_features_are_worth_the_images(network):
    batch = episodes(1, 2)
    supports, query = batch.support_images, batch.query_images
    with torch.inference_mode():
        cached = [network.encoder(images).to(torch.float16) for images in (supports, query)]
    straight = run(network, supports, batch.support_annotations, query)
    torch.testing.assert_close(
        run(network, cached[0], batch.support_annotations, cached[1]), straight, atol=0.1, rtol=0.05
    )


def test_insertion_point_splits_segment(network):
    batch = episodes(1, 1)
    with torch.inference_mode():
        guidance = network.guide(network.encode_support(batch.support_images), batch.support_annotations)
        features = network.encode_query(batch.query_images)
        hidden = network.segment_to("features", features, guidance)
        assert torch.equal(network.segment_from("features", hidden, guidance), network.segment(features, guidance))


def test_verbs_change_nothing_on_the_module(network):
    before = copy.deepcopy(network.state_dict())
    run(network, raw(1, 1, 3, 32, 32), labels(1, 1, 32, 32), raw(1, 3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("kind", "parts"), [("shared", 2), ("separate", 3)])
def test_head_is_the_convolution_of_the_tiled_concatenation(kind, parts):
    head = Head(4, (6, 5), kind).double()
    features, z = torch.randn(2, 4, 3, 5).double(), torch.randn(2, 2, 4).double()
    tiled = z[..., None, None].expand(2, 2, 4, 3, 5)

    def dense(*inputs):
        return head.score(head.layers(head.fuse(torch.cat(inputs, 1))))

    if parts == 2:
        expected = torch.cat([dense(features, tiled[:, k]) for k in range(2)], 1)
    else:
        expected = dense(features, tiled[:, 1], tiled[:, 0])
    torch.testing.assert_close(head(features, z), expected)


def test_panet_zero_background_prototype_means_the_sign_of_the_cosine_decides():
    network = BUILDERS["panet"]().eval()
    annotations = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    annotations[..., :16] = 1
    logits = run(network, raw(1, 1, 3, 32, 32), annotations, raw(1, 3, 32, 32))
    assert (logits[:, 0] == 0).all()
    assert logits[:, 1].abs().max() <= 20.001


def test_panet_alignment_by_hand():
    network = BUILDERS["panet"]().eval()
    maps = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).t().view(1, 2, 1, 2)  # two cells, orthogonal
    features = Features((torch.cat([maps, torch.zeros(1, 14, 1, 2)], 1),), (1, 2))
    supports = Features((features.maps[0][:, None],), (1, 2))
    annotations = torch.tensor([[[[0, 1]]]], dtype=torch.uint8)
    guidance = network.guide(supports, annotations)
    # the query is the support: both prototypes come back, each pixel has logits (20, 0) or (0, 20)
    expected = torch.log1p(torch.exp(torch.tensor(-20.0)))
    torch.testing.assert_close(network.align(features, guidance, supports, annotations), expected)
    swapped = network.align(features, guidance, supports, 1 - annotations)
    torch.testing.assert_close(swapped, 20 + expected)
    nothing = guidance._replace(prototypes=guidance.prototypes.flip(1) * torch.tensor([[[1.0], [-1.0]]]))
    empty = Features((features.maps[0][..., 1:].expand(-1, -1, -1, 2),), (1, 2))  # all background
    assert network.align(empty, nothing, supports, annotations) == 0
    assert set(PANetNetwork(Encoder("tiny"), 8, alignment=False).losses(episodes(1, 1))) == {"cross_entropy"}


def test_fgbg_does_not_look_at_the_support():
    network = BUILDERS["fgbg"]().eval()
    query = raw(1, 3, 32, 32)
    first = run(network, raw(1, 1, 3, 32, 32), labels(1, 1, 32, 32), query)
    assert torch.equal(first, run(network, raw(1, 1, 3, 32, 32), labels(1, 1, 32, 32), query))


@pytest.mark.parametrize("method", [GuidedNet, PANet, FgBg])
def test_modules(method):
    assert method.__name__ in models.__all__
    model = method(width=16, freeze_encoder=True, taps=[0, 2])
    assert not any(p.requires_grad for p in model.network.encoder.parameters())
    assert model.network.encoder.strides == (2, 8)
    assert model.hparams["width"] == 16
    rates = [group["lr"] for group in method(width=16, lr=0.1, encoder_lr_factor=0.5).parameter_groups()]
    assert rates == [0.05, 0.1]
    with pytest.raises(FewsegError, match="encoder: got resnet10t"):
        method(encoder="resnet10t", variant="paper")
    with pytest.raises(ValueError, match="paper-exact"):
        model.network.load_original([])


@pytest.mark.parametrize("method", [GuidedNet, PANet])
def test_paper_variants_have_their_encoder_in_its_own_group(method):
    model = method(variant="paper", lr=0.1, encoder_lr_factor=0.5)
    groups = model.parameter_groups()
    assert groups[0]["lr"] == 0.05
    assert sum(p.numel() for p in groups[0]["params"]) > 14_000_000
    with torch.inference_mode():
        assert run(model.network.eval(), raw(1, 1, 3, 40, 33), labels(1, 1, 40, 33), raw(1, 3, 33, 40)).shape == (
            1,
            2,
            33,
            40,
        )
