"""FSIS: the prior by hand, three branches at the junction, what each ablation reads, and the composition."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fewseg
from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame
from fewseg.errors import FewsegError
from fewseg.functional.clicks import pad_clicks
from fewseg.models.fsis import FSIS, FSISNetwork, SimilarityPrior, prior_map
from fewseg.modules.encoders import Encoder, ImageEncoder

torch.set_num_threads(1)

SIZE = (32, 28)


def build(**options):
    torch.manual_seed(0)
    return FSIS(width=16, **options).network.eval()


def episodes(n=2, shots=1, clicks=([(5, 6, 1), (20, 9, 0)], [(25, 20, 1)]), size=SIZE):
    """Noise, with the upper half of every support positive."""
    rng = np.random.RandomState(0)

    def raw(*shape):
        return torch.from_numpy(rng.randint(0, 256, (*shape, 3, *size)).astype(np.uint8))

    annotations = torch.zeros(n, shots, *size, dtype=torch.uint8)
    annotations[..., : size[0] // 2, :] = 1
    return EpisodeBatch(
        support_images=raw(n, shots),
        support_annotations=annotations,
        query_images=raw(n),
        query_clicks=pad_clicks(clicks[:n]),
        query_masks=torch.from_numpy(rng.randint(0, 2, (n, *size)).astype(np.uint8)),
        targets=(None,) * n,
        frames=(Frame(size, size, Box(0, 0, *size)),) * n,
        specs=(EpisodeSpec("q", ("s",) * shots, 1),) * n,
    )


def change(batch, **fields):
    return dataclasses.replace(batch, **fields)


def answer(network, batch):
    with torch.inference_mode():
        return network(batch)


def parts(network, batch):
    """Features of the queries, guidance."""
    with torch.inference_mode():
        guidance = network.guide(network.encode_support(batch.support_images), batch.support_annotations)
        return network.encode_query(batch.query_images), guidance


def background(logits):
    return bool((logits[:, 0] > logits[:, 1]).all())


# ----------------------------------------------------------------------------------------------------------- the prior


def test_the_prior_vector_of_the_thesis():
    maps = torch.tensor([[[0.2, 0.5, 0.8]], [[0.3, 0.3, 0.3]]])[:, None]  # each image on its own
    torch.testing.assert_close(prior_map(maps), torch.tensor([[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]])[:, None])
    assert prior_map(torch.tensor([[0.0, 1e-8]], dtype=torch.float64))[0, 1].item() == pytest.approx(0.5)  # eps = 1e-8


class Pixels(ImageEncoder):
    """The normalised pixels themselves are the features."""

    out_channels, strides = (3,), (1,)

    def maps(self, images):
        return (images,)


def cells(*colours):
    """An image (3, 1, n) of these colours."""
    return torch.tensor(colours, dtype=torch.float32).T[:, None]


RED, GREEN, BOTH = (1, 0, 0), (0, 2, 0), (3, 3, 0)
QUERY = cells(RED, GREEN, BOTH)[None]
DIAGONAL = 0.5**0.5  # cosine of BOTH with either


def prior_of(annotations, merge="mean"):
    """Every shot has one red and one green cell."""
    prior = SimilarityPrior(Pixels(), merge)
    supports = cells(RED, GREEN).expand(1, len(annotations), 3, 1, 2)
    guidance = prior.guide(prior.encode_support(supports), torch.tensor(annotations, dtype=torch.uint8)[None, :, None])
    return prior(prior.encode_query(QUERY), guidance).flatten().tolist()


def test_the_prior_is_the_largest_cosine_with_a_positive_cell():
    assert prior_of([[1, 0]]) == pytest.approx([1, 0, DIAGONAL])
    assert prior_of([[0, 1]]) == pytest.approx([0, 1, DIAGONAL])
    assert prior_of([[1, 255]]) == pytest.approx([1, 0, DIAGONAL])  # the rest need not be known
    assert prior_of([[1, 1]]) == pytest.approx([1, 1, 0])  # cosines 1, 1, .71


def test_shots_are_merged_as_priors_or_as_cells():
    shots = [[1, 0], [0, 1]]
    assert prior_of(shots) == pytest.approx([0.5, 0.5, DIAGONAL])
    assert prior_of(shots, "max") == pytest.approx([1, 1, 0])
    assert prior_of([[1, 0], [255, 255]]) == pytest.approx([1, 0, DIAGONAL])  # a shot without positives counts nowhere
    assert prior_of([[1, 0], [0, 0]], "max") == pytest.approx([1, 0, DIAGONAL])


@pytest.mark.parametrize("merge", ["mean", "max"])
def test_without_a_positive_cell_the_prior_is_zero(merge):
    assert prior_of([[0, 0], [255, 255]], merge) == [0, 0, 0]
    assert prior_of(np.zeros((0, 2)), merge) == [0, 0, 0]  # no shot at all


def test_cells_on_the_edge_of_a_mask_do_not_count_and_points_do():
    prior = SimilarityPrior(Pixels())
    features = Features((torch.ones(1, 1, 3, 1, 2),), (2, 4))  # two cells of 2 x 2 pixels

    def counted(*rows):
        return prior.guide(features, torch.tensor([[rows]])).positive.flatten().tolist()

    assert counted([1, 1, 1, 0], [1, 1, 0, 0]) == [True, False]  # 4 and 1 of 4 pixels
    assert counted([1, 1, 1, 0], [1, 1, 1, 0]) == [True, True]  # half of a cell
    assert counted([0, 0, 1, 0], [0, 0, 0, 0]) == [False, True]  # one annotated pixel
    assert counted([255, 1, 1, 255], [255] * 4) == [True, True]


def test_the_frozen_level_is_a_choice():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for tap, side in ((None, 4), (2, 4), (1, 8), (0, 16)):
        assert build(prior_tap=tap).encode_query(images).maps[1].shape[-1] == side


# --------------------------------------------------------------------------------------------------------- the network


def test_what_meets_at_the_junction():
    network, batch = build(), episodes()
    features, guidance = parts(network, batch)
    with torch.inference_mode():
        before, after = (network.segment_to(p, features, guidance, batch.query_clicks) for p in ("BJ", "AJ"))
        assert before.maps[0].shape == (2, 2 * 16 + 1, 8, 7)  # query, support, focused prior at stride 4
        assert after.maps[0].shape == (2, 16, 8, 7)
        assert torch.equal(network.junction(before.maps[0]), after.maps[0])
        query, support, _ = before.maps[0].split([16, 16, 1], 1)
        torch.testing.assert_close(support, guidance.support[..., None, None].expand_as(support))  # the pooled vector
        other = network.segment_to("BJ", features, guidance, batch.query_clicks.flip(0)).maps[0]
        assert not torch.equal(other[:, :16], query)  # clicks enter the encoder
        assert not torch.equal(other[:, -1], before.maps[0][:, -1])  # and focus the prior


@pytest.mark.parametrize("point", ["AJ", "BJ"])
@pytest.mark.parametrize("options", [{}, {"support_mask": "multiply"}, {"use_support": False}, {"use_clicks": False}])
def test_the_tail_from_a_point_is_the_rest_of_segment(point, options):
    network, batch = build(**options), episodes()
    features, guidance = parts(network, batch)
    with torch.inference_mode():
        hidden = network.segment_to(point, features, guidance, batch.query_clicks)
        expected = answer(network, batch)
        assert torch.equal(network.segment_from(point, hidden, guidance, batch.query_clicks), expected)
        moved = Features((1.5 * hidden.maps[0] + 0.1,), hidden.image_size)  # what f-BRS does
        assert not torch.equal(network.segment_from(point, moved, guidance, batch.query_clicks), expected)


def test_a_query_and_its_mirror_image_share_a_guidance():
    network, batch = build(), episodes()
    first = change(batch, support_images=batch.support_images[:1], support_annotations=batch.support_annotations[:1])
    both = change(
        batch,
        support_images=first.support_images.expand(2, -1, -1, -1, -1),
        support_annotations=first.support_annotations.expand(2, -1, -1, -1),
    )
    features, guidance = parts(network, first)  # B = 2 and B = 1
    with torch.inference_mode():
        shared = network.segment(features, guidance, batch.query_clicks)
    torch.testing.assert_close(shared, answer(network, both), rtol=1e-4, atol=1e-4)


def test_shots_are_averaged_and_unknown_ones_do_not_count():
    network, batch = build(), episodes(shots=2)
    _, both = parts(network, batch)
    one, other = (
        parts(network, change(batch, support_images=i, support_annotations=a))[1]
        for i, a in zip(batch.support_images.split(1, 1), batch.support_annotations.split(1, 1), strict=True)
    )
    torch.testing.assert_close(both.support, (one.support + other.support) / 2)
    annotations = batch.support_annotations.clone()
    annotations[:, 1] = 255
    known = change(
        batch, support_images=batch.support_images[:, :1], support_annotations=batch.support_annotations[:, :1]
    )
    torch.testing.assert_close(
        answer(network, change(batch, support_annotations=annotations)), answer(network, known), rtol=1e-4, atol=1e-4
    )


def test_a_multiplied_support_keeps_its_places():
    network, batch = build(support_mask="multiply"), episodes()
    _, guidance = parts(network, batch)
    assert guidance.support.shape == (2, 16, 8, 7)
    assert guidance.support[:, :, :4].abs().sum() > 0
    assert not guidance.support[:, :, 4:].any()  # the lower half is negative


def test_one_annotated_pixel_is_read():
    network, batch = build(), episodes()
    annotations = torch.full_like(batch.support_annotations, 255)
    none = answer(network, change(batch, support_annotations=annotations))
    annotations[:, :, 3, 4] = 1
    assert (answer(network, change(batch, support_annotations=annotations)) - none).abs().amax((1, 2, 3)).min() > 1e-4


# ------------------------------------------------------------------------------------------- what is missing, ablations


def test_clicks_decide_alone_where_the_supports_say_nothing():
    network, batch = build(), episodes()
    unknown = change(batch, support_annotations=torch.full_like(batch.support_annotations, 255))
    features, guidance = parts(network, unknown)
    assert not guidance.support.any()
    with torch.inference_mode():
        assert not network.prior(Features(features.maps[1:], SIZE), guidance.prior).any()
        nothing = network.guide(network.encode_support(batch.support_images[:, :0]), batch.support_annotations[:, :0])
        logits = network.segment(features, nothing, batch.query_clicks)  # no shot at all
    assert torch.equal(logits, answer(network, unknown))
    assert logits.abs().max() < 10  # not silenced, which gives 10 everywhere
    assert not torch.equal(answer(network, change(unknown, query_clicks=batch.query_clicks.flip(0))), logits)


def test_without_any_positive_all_is_background():
    network, batch = build(), episodes(clicks=([(5, 6, 0)], [(5, 6, 0), (7, 7, 1)]))
    negative = change(batch, support_annotations=torch.zeros_like(batch.support_annotations))
    logits = answer(network, negative)
    assert background(logits[:1])
    assert logits[1].abs().max() < 10
    assert answer(network, batch).abs().max() < 10  # a support says what to look for


def test_a_clicked_query_is_its_own_support_where_there_is_none():
    network, batch = build(), episodes()
    alone = change(
        batch, support_images=batch.support_images[:, :0], support_annotations=batch.support_annotations[:, :0]
    )
    accepted = network.accept(alone)
    assert accepted.n_shot == 1
    assert torch.equal(accepted.query_clicks, batch.query_clicks)
    assert torch.equal(accepted.support_images[:, 0], batch.query_images)
    assert (accepted.support_annotations == 1).sum((1, 2, 3)).tolist() == [1, 1]
    assert torch.equal(answer(network, alone), answer(network, accepted))
    assert network.accept(batch) is batch  # with a support it stays


def test_each_ablation_ignores_its_part():
    batch = episodes()
    clicked = change(batch, query_clicks=batch.query_clicks.flip(0))
    supported = change(batch, support_images=batch.support_images.flip(0))
    for options, ignored, read in (
        ({}, None, [clicked, supported]),
        ({"use_clicks": False}, clicked, [supported]),
        ({"use_support": False}, supported, [clicked]),
    ):
        network = build(**options)
        logits = answer(network, batch)
        assert ignored is None or torch.equal(answer(network, ignored), logits)
        assert not any(torch.equal(answer(network, other), logits) for other in read)
    assert [build(use_support=on).uses_support for on in (True, False)] == [True, False]
    assert build(use_clicks=False).accept(batch).n_shot == 1  # nor do they come as a shot


def test_the_ablation_without_supports_needs_a_positive_click():
    network, batch = build(use_support=False), episodes(clicks=([(5, 6, 0)], [(7, 7, 1)]))
    logits = answer(network, batch)
    assert background(logits[:1])
    assert logits[1].abs().max() < 10


# ------------------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(
    "options", [{}, {"support_mask": "multiply"}, {"use_support": False}, {"use_clicks": False}, {"prior_merge": "max"}]
)
def test_gradients_reach_what_learns(options):
    network = build(**options).train()
    network.losses(episodes())["cross_entropy"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad != name.startswith("prior."), name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


def test_a_step_changes_all_but_the_frozen_encoder():
    network, batch = build().train(), episodes()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network.losses(batch)["cross_entropy"].backward()
        optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("prior.") for name in changed)
    assert all(
        any(name.startswith(part) for name in changed) for part in ("encoder.", "click_fusion.", "focus.", "junction.")
    )
    assert not network.prior.encoder.training


def discs(centres, side=40):
    """An image (3, s, s) with a red disc at each centre, and the mask (s, s) of each."""
    image = np.random.RandomState(len(centres)).randint(100, 156, (3, side, side)).astype(np.uint8)
    row, col = np.mgrid[:side, :side]
    masks = [(row - r) ** 2 + (col - c) ** 2 < 50 for r, c in centres]
    for mask in masks:
        image[:, mask] = np.array([[230], [30], [30]], np.uint8)
    return torch.from_numpy(image), torch.from_numpy(np.stack(masks).astype(np.uint8))


def test_the_click_decides_between_two_of_a_kind():
    centres = ((11, 10), (28, 29))
    query, masks = discs(centres)
    support, annotation = discs([(20, 17)])
    batch = change(
        episodes(size=(40, 40)),
        support_images=support.expand(2, 1, -1, -1, -1),
        support_annotations=annotation.expand(2, 1, -1, -1),
        query_images=query.expand(2, -1, -1, -1),
        query_masks=masks,
        query_clicks=pad_clicks([[(*centre, 1)] for centre in centres]),
    )
    torch.manual_seed(0)
    network = FSIS(width=32).network.train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        network.losses(batch)["cross_entropy"].backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(10):  # statistics of the norms settle
            network(batch)
    found = answer(network.eval(), batch).argmax(1)
    for predicted, own, other in zip(found, masks, masks.flip(0), strict=True):
        assert predicted[own == 1].float().mean() > 0.4
        assert predicted[other == 1].float().mean() < 0.05


# ---------------------------------------------------------------------------------------------------------- automatic


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(1)
    model = fewseg.create_model("PANet", width=8)
    return model.network, str(model.save(tmp_path / "panet"))


def test_an_automatic_method_makes_the_prior(saved):
    theirs, folder = saved
    network, batch = build(automatic=folder).train(), episodes()
    assert not any(p.requires_grad for p in network.prior.parameters())
    assert not any(module.training for module in network.prior.modules())
    features, guidance = parts(network.eval(), batch)
    assert len(features.maps) == 1 + 1  # the images, PANet's map
    with torch.inference_mode():
        expected = theirs(change(batch, query_clicks=batch.query_clicks[:, :0])).softmax(1)[:, 1:]
        torch.testing.assert_close(network.prior(Features(features.maps[1:], SIZE), guidance.prior), expected)
    torch.testing.assert_close(guidance.prior.prototypes, parts(theirs, batch)[1].prototypes)
    swapped = change(batch, support_annotations=1 - batch.support_annotations)
    assert not torch.equal(answer(network, swapped), answer(network, batch))


def test_a_saved_composition_needs_the_folder_no_more(saved, tmp_path):
    _, folder = saved
    model = FSIS(width=16, automatic=folder).eval()
    written = model.save(tmp_path / "fsis")
    shutil.rmtree(folder)
    again = fewseg.load_model(written, FSIS)
    assert torch.equal(answer(again.network, episodes()), answer(model.network, episodes()))
    kept = json.loads((written / "config.json").read_text())["hyper_parameters"]["automatic"]
    assert (kept["method"], kept["hyper_parameters"]["width"]) == ("PANet", 8)
    assert fewseg.load_model(again.save(tmp_path / "again"), FSIS).hparams == again.hparams


def test_what_cannot_be_automatic_is_refused(tmp_path):
    with pytest.raises(FewsegError, match="a folder that"):
        FSIS(automatic=str(tmp_path / "nowhere"))
    with pytest.raises(FewsegError, match="automatic: got a FBRSNet, which reads clicks"):
        FSIS(automatic=str(fewseg.create_model("FBRSNet", width=8).save(tmp_path)))
    with pytest.raises(FewsegError, match="name: got '', expected one of"):
        FSIS(automatic={"methods": "PANet"})


# ------------------------------------------------------------------------------------------------------------- options


def test_options_that_nothing_knows_or_reads_are_refused():
    for options, name in (
        ({"use_support": False, "use_clicks": False}, "use_clicks"),
        ({"use_support": False, "support_mask": "multiply"}, "support_mask"),
        ({"use_support": False, "prior_merge": "max"}, "prior_merge"),
        ({"use_support": False, "prior_tap": 1}, "prior_tap"),
        ({"use_support": False, "automatic": "folder"}, "automatic"),
        ({"automatic": "folder", "prior_merge": "max"}, "prior_merge"),
        ({"variant": "paper", "prior_tap": 1}, "prior_tap"),
        ({"variant": "paper", "width": 64}, "width"),
        ({"support_mask": "mean"}, "support_mask"),
        ({"prior_merge": "pool"}, "prior_merge"),
    ):
        with pytest.raises(FewsegError, match=f"^{name}: got"):
            FSIS(**options)


def test_both_encoders_start_from_the_weights(tmp_path):
    source = Encoder("tiny").state_dict()
    save_file(source, tmp_path / "tiny.safetensors")
    network = FSIS(width=16, weights=str(tmp_path / "tiny.safetensors")).network
    for encoder in (network.encoder, network.prior.encoder):
        assert all(torch.equal(value, source[name]) for name, value in encoder.state_dict().items())


def test_the_paper_variant():
    with torch.device("meta"):
        network = FSIS(variant="paper").network
    sizes = {part: sum(p.numel() for p in child.parameters()) for part, child in network.named_children()}
    assert sizes["encoder"] == 7_635_264  # VGG-16 to conv4_3
    assert sizes["prior"] == 14_714_688  # to conv5_3, frozen
    assert sizes["embedding"] == sizes["support_embedding"] == 768 * 256 + 256
    assert (sizes["click_fusion"], sizes["focus"]) == (91, 57)
    assert sizes["junction"] == (513 * 256 + 256) + (9 * 256 * 256 + 256)
    assert sizes["final"] == (256 * 256 + 256) + (256 * 2 + 2)
    assert sum(sizes.values()) == 23_531_798
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 8_817_110
    assert isinstance(network, FSISNetwork)
    images = torch.zeros(1, 3, 65, 96, device="meta")
    assert [tuple(m.shape[1:]) for m in network.encoder(images).maps] == [(256, 9, 12), (512, 5, 6)]
    assert [tuple(m.shape[1:]) for m in network.encode_query(images).maps] == [(3, 65, 96), (512, 5, 6)]
