"""SG-One: the original's numbers, masked average pooling by hand, merging of shots, every design of the ablations."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame
from fewseg.errors import FewsegError
from fewseg.functional.annotations import upsampled_weights
from fewseg.models.sgone import (
    Design,
    Guidance,
    PaperSGOneNetwork,
    SegmentationBranch,
    SGOne,
    SGOneNetwork,
    closeness,
)
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)

H, W = 97, 129
CONVOLUTIONS = [
    (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256),
    (512, 256), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512),  # VGG-16
    (512, 512), (128, 256), (128, 640), (128, 640), (128, 128),  # cls, side3_1, side4_1, side5_1, classifier_6
]  # fmt: skip
SHAPES = [shape for out, into in CONVOLUTIONS for shape in ((out, into, 3, 3), (out,))] + [(2, 128, 1, 1), (2,)]


def arrays():
    """The recipe that anyone can repeat: entry i comes from seed i."""
    for i, shape in enumerate(SHAPES):
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        yield np.random.RandomState(i).randn(*shape) * scale


def image(seed):
    return torch.from_numpy(np.random.RandomState(seed).randn(1, 3, H, W))


def dense():
    mask = torch.zeros(1, 1, H, W, dtype=torch.uint8)
    mask[..., 30:70, 40:90] = 1
    return mask


def figures(values):
    flat = values.flatten()
    return [v.item() for v in (flat.mean(), flat.std(correction=0), flat[0], flat[flat.numel() // 2], flat[-1])]


# ------------------------------------------------------------------------------------------------------ the original


@pytest.fixture(scope="module")
def original():
    network = PaperSGOneNetwork().double().eval()
    network.load_original(list(arrays()))
    return network


@pytest.fixture(scope="module")
def answer(original):
    """Similarity map, logits on the grid and logits at image size."""
    with torch.inference_mode():
        guidance = original.guide(original.encode_support(image(1001)[:, None]), dense())
        query = original.encode_query(image(1000))
        similarity = original.similarity(query, guidance)
        return similarity, original.score(query, similarity), original.segment(query, guidance)


def test_parity_of_the_similarity_map(answer):
    similarity, _, _ = answer
    assert similarity.shape == (1, 1, 13, 17)
    expected = [9.101531673e-01, 1.029407722e-01, 5.916856548e-01, 9.961483271e-01, 6.267424548e-01]
    assert figures(similarity) == pytest.approx(expected, abs=1e-8)


def test_parity_of_the_logits_before_upsampling(answer):
    _, logits, _ = answer
    assert logits.shape == (1, 2, 15, 19)
    expected = [1.984776296e00, 8.151113638e00, -5.446361234e-03, 6.743080664e-02, 6.743080664e-02]
    assert figures(logits) == pytest.approx(expected, abs=1e-8)


def test_the_ring_of_the_padded_exit_holds_its_bias(answer):
    _, logits, _ = answer
    bias = torch.from_numpy(0.1 * np.random.RandomState(37).randn(2))
    ring = torch.ones(15, 19, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    torch.testing.assert_close(logits[0][:, ring], bias[:, None].expand(-1, int(ring.sum())))
    assert not torch.isclose(logits[0][:, ~ring], bias[:, None]).all(0).any()


def test_segment_brings_the_score_with_its_ring_to_image_size(answer):
    _, scores, logits = answer
    torch.testing.assert_close(logits, F.interpolate(scores, size=(H, W), mode="bilinear", align_corners=False))


@pytest.mark.parametrize(
    ("design", "total"),
    [
        (Design(), 18_992_194),
        (Design(separate_encoders=True), 18_992_194 + 14_714_688 + 512 * 512 * 9 + 512),  # 36.1 M in the paper
        (Design(support="concat"), 18_992_194 + 14_714_688 + 64 * 2 * 9),  # two more input channels
    ],
)
def test_parameter_counts(design, total):
    with torch.device("meta"):
        network = PaperSGOneNetwork(design)
    assert sum(p.numel() for p in network.parameters()) == total


@pytest.mark.parametrize("change", [{"separate_encoders": True}, {"segmentation_branch": False}])
def test_ablated_networks_have_no_original_state(change):
    with torch.device("meta"):
        network = PaperSGOneNetwork(Design(**change))
    with pytest.raises(ValueError, match="load_original"):
        network.load_original(list(arrays()))


def test_the_initial_values_of_the_paper(original):
    torch.manual_seed(0)
    network = PaperSGOneNetwork()
    assert not network.guidance.cls.bias.any()
    bound = (6 / (9 * (512 + 512))) ** 0.5  # Xavier uniform over both fans
    assert bound * 0.99 < network.guidance.cls.weight.abs().max() <= bound
    assert all(not side.bias.any() for side in network.segmentation.sides)
    assert network.classifier.bias.any()


# -------------------------------------------------------------------------------------------- masked average pooling


@pytest.mark.parametrize("grid", [(3, 4), (13, 9), (1, 1)])
def test_the_adjoint_is_explicit_upsampling(grid):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 5, *grid, dtype=torch.float64)
    mask = (torch.rand(2, 3, 23, 17) > 0.6).double()
    large = F.interpolate(features.flatten(0, 1), size=(23, 17), mode="bilinear", align_corners=False)
    expected = torch.einsum("bkcij,bkij->bkc", large.unflatten(0, (2, 3)), mask)
    weights = upsampled_weights(mask, grid)
    assert weights.shape == (2, 3, *grid)
    torch.testing.assert_close(torch.einsum("bkchw,bkhw->bkc", features, weights), expected)
    torch.testing.assert_close(weights.sum((-2, -1)), mask.sum((-2, -1)))


def standard(**design):
    torch.manual_seed(0)
    return SGOneNetwork(Encoder("tiny"), 4, Design(**design)).eval()


def test_masked_average_pooling_by_hand():
    """Two shots of 2 x 2 cells with 2 x 2 pixels each; the third has no positive pixel and does not count."""
    maps = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0], [7.0, 7.0, 7.0, 7.0]]).view(1, 3, 1, 2, 2)
    annotations = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    annotations[0, 0, :2] = 1  # cells 1 and 2
    annotations[0, 1, 3, 3], annotations[0, 1, 0, 0] = 1, 0  # one pixel of cell 4; the negative is not read
    annotations[0, 2] = 0
    features = Features((maps,), (4, 4))
    guidance = standard().guide(features, annotations)
    assert guidance.vectors.flatten().tolist() == [(1.5 + 40.0) / 2]
    assert guidance.known.tolist() == [[True]]
    each = standard(merge="max").guide(features, annotations)
    assert each.vectors.flatten().tolist() == [1.5, 40.0, 0.0]
    assert each.known.tolist() == [[True, True, False]]
    assert standard().represent(guidance).tolist() == standard(merge="max").represent(each).tolist() == [[20.75]]


def test_the_paper_pools_after_upsampling():
    """One row of two cells under four pixels: bilinear weights are 1, .75/.25, .25/.75, 1."""
    with torch.device("meta"):
        network = PaperSGOneNetwork()
    annotations = torch.tensor([[[[1, 1, 0, 255]]]], dtype=torch.uint8)
    guidance = network.guide(Features((torch.tensor([[[[[0.0, 8.0]]]]]),), (1, 4)), annotations)
    assert guidance.vectors.item() == pytest.approx((0.0 + 2.0) / 2)


def test_without_masks_pooling_is_global():
    maps = torch.tensor([[1.0, 2.0, 3.0, 6.0], [9.0, 9.0, 9.0, 9.0]]).view(1, 2, 1, 2, 2)
    annotations = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    annotations[0, 0, 0, 0] = 1  # the shot counts; where the pixel lies does not matter
    guidance = standard(support="none").guide(Features((maps,), (4, 4)), annotations)
    assert guidance.vectors.item() == 3.0


def test_closeness_by_hand():
    features = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).view(1, 2, 1, 2)
    vectors = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    near = np.exp(-5 / np.sqrt(2))
    torch.testing.assert_close(closeness(features, vectors).flatten(), torch.tensor([near, 1.0, 1.0, near]).float())


def test_closeness_has_a_finite_gradient_where_both_are_equal():
    features = torch.ones(1, 2, 1, 1, requires_grad=True)
    closeness(features, torch.ones(1, 1, 2)).sum().backward()
    assert features.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------------- both branches


def set_to(convolution, weight, bias=0.0):
    nn.init.constant_(convolution.weight, weight)
    if convolution.bias is not None:
        nn.init.constant_(convolution.bias, bias)


@torch.no_grad()
def test_side_convolutions_by_hand():
    """1 x 1 grids: each convolution is its centre weight times the sum of what it reads."""
    taps, grid = [torch.tensor([[[[2.0]], [[1.0]]]]), torch.tensor([[[[-1.0]]]])], (1, 1)
    for concatenate, rectify, expected in [(True, False, -5.0), (True, True, 0.0), (False, False, -6.0)]:
        branch = SegmentationBranch((2, 1), 1, concatenate, rectify)
        set_to(branch.sides[0], 1.0)
        set_to(branch.sides[1], 1.0, -9.0 + 2.0 * concatenate)
        assert branch(taps, grid).item() == expected  # 3 (+ -1) - 9 (+ 2)
    assert branch.sides[1].in_channels == 1
    set_to(branch.sides[0], -1.0)
    assert branch(taps, grid).item() == -9.0, "a ReLU stands between two side convolutions"


@torch.no_grad()
@pytest.mark.parametrize("segmentation_branch", [True, False])
def test_the_similarity_is_multiplied_into_the_features(segmentation_branch):
    """Logits are linear in it here: one channel through centre weights of 1, a ReLU that never acts, an exit of 1."""
    torch.manual_seed(0)
    design = Design(segmentation_branch=segmentation_branch)
    network = SGOneNetwork(Encoder("tiny", taps=(1,)), 1, design).eval()
    set_to(network.classifier, 0.0, 100.0)
    network.classifier.weight[..., 1, 1] = 1.0
    set_to(network.exit, 1.0)
    query = network.encode_query(torch.rand(1, 3, 16, 12))
    own, tap = query.maps
    multiplied = network.segmentation([tap], (4, 3)) if segmentation_branch else own
    similarity = torch.rand(1, 1, 4, 3)
    expected = (multiplied * similarity + 100.0).expand(1, 2, 4, 3)
    torch.testing.assert_close(network.score(query, similarity), expected)


def test_the_guidance_branch_may_end_below_zero_unless_rectified():
    images = torch.rand(1, 3, 32, 32)
    assert standard().encode_query(images).maps[0].min() < 0
    rectified = standard(rectify=True).encode_query(images).maps[0]
    assert rectified.min() == 0
    assert rectified.max() > 0


def test_the_batch_norm_spreads_the_cosines():
    """Why it is there: without it all cosines start close to 1."""
    torch.manual_seed(0)
    network = SGOneNetwork(Encoder("tiny"), 32).train()
    features = network.encode_query(torch.rand(2, 3, 48, 48))
    guidance = Guidance(features.maps[0][:, :, :3, :3].mean((2, 3))[:, None], torch.ones(2, 1, dtype=torch.bool))
    assert network.similarity(features, guidance).mean() < 0.5
    network.guidance.norm = None
    raw = network.encode_query(torch.rand(2, 3, 48, 48))
    assert network.similarity(raw, Guidance(raw.maps[0].mean((2, 3))[:, None], guidance.known)).mean() > 0.7


# ------------------------------------------------------------------------------------------------------ several shots


def raw(*shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8))


def labels(*shape, seed=0):
    return torch.from_numpy((np.random.RandomState(seed).rand(*shape) > 0.5).astype(np.uint8))


@torch.inference_mode()
def run(network, supports, annotations, query):
    return network.segment(network.encode_query(query), network.guide(network.encode_support(supports), annotations))


def test_max_merge_is_the_union_of_the_masks():
    torch.manual_seed(1)
    network = SGOneNetwork(Encoder("tiny"), 16, Design(merge="max")).eval()
    supports, query = raw(1, 3, 3, 32, 32), raw(1, 3, 33, 25, seed=1)
    annotations = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    annotations[0, 0, :9], annotations[0, 1, :, 20:] = 1, 1  # the third shot shows nothing
    with torch.no_grad():  # move the bias to the median, so that the shots disagree
        logits = torch.stack([run(network, supports[:, k : k + 1], annotations[:, k : k + 1], query) for k in (0, 1)])
        network.exit.bias[1] -= (logits[:, :, 1] - logits[:, :, 0]).median()
    each = [run(network, supports[:, k : k + 1], annotations[:, k : k + 1], query).argmax(1) for k in range(3)]
    assert not each[2].any()
    assert (each[0] != each[1]).any()
    assert torch.equal(run(network, supports, annotations, query).argmax(1), each[0] | each[1])


def test_one_shot_does_not_care_how_shots_are_merged():
    supports, annotations, query = raw(2, 1, 3, 32, 32), labels(2, 1, 32, 32), raw(2, 3, 33, 25, seed=1)
    average, union = (run(standard(merge=merge), supports, annotations, query) for merge in ("average", "max"))
    torch.testing.assert_close(average, union)


def test_negatives_are_not_read_except_as_input_channels():
    supports, query = raw(1, 1, 3, 32, 32), raw(1, 3, 33, 25, seed=1)
    dense = labels(1, 1, 32, 32)
    positives = torch.where(dense == 1, 1, 255).to(torch.uint8)
    torch.testing.assert_close(*(run(standard(), supports, a, query) for a in (dense, positives)))
    concat = SGOne(support="concat", width=8).network.eval()
    assert not torch.allclose(*(run(concat, supports, a, query) for a in (dense, positives)))


# --------------------------------------------------------------------------------------------------------- ablations


OPTIONS = {
    "support": ("pool", "mask_image", "concat", "none"),
    "separate_encoders": (False, True),
    "guidance": ("cosine", "l2"),
    "rectify": (False, True),
    "segmentation_branch": (True, False),
    "concatenate": (True, False),
    "merge": ("average", "max"),
}
ALL = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]


def meaningless(design):
    concat = design["support"] == "concat" and design["separate_encoders"]
    return concat or not (design["segmentation_branch"] or design["concatenate"])


def episodes(shots=2):
    size = (20, 28)
    return EpisodeBatch(
        support_images=raw(2, shots, 3, 24, 20),
        support_annotations=labels(2, shots, 24, 20),
        query_images=raw(2, 3, *size, seed=1),
        query_clicks=torch.zeros(2, 0, 3, dtype=torch.int32),
        query_masks=labels(2, *size, seed=1),
        targets=(None, None),
        frames=(Frame(size, size, Box(0, 0, *size)),) * 2,
        specs=(EpisodeSpec("q", ("s",) * shots, 1),) * 2,
    )


@pytest.mark.parametrize("design", [d for d in ALL if not meaningless(d)], ids=lambda d: "-".join(map(str, d.values())))
def test_every_design_answers_learns_and_is_silent_without_positives(design):
    torch.manual_seed(0)
    network = SGOne(**design, width=8).network
    assert isinstance(network, SGOneNetwork)
    batch = episodes()
    sum(network.train().losses(batch).values()).backward()
    lost = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lost
    assert all(p.grad.isfinite().all() for p in network.parameters())
    network.eval()
    logits = run(network, batch.support_images, batch.support_annotations, batch.query_images)
    assert logits.shape == (2, 2, 20, 28)
    one = run(network, batch.support_images[1:], batch.support_annotations[1:], batch.query_images[1:])
    # margins: where two shots tie, rounding decides whose logits are taken
    torch.testing.assert_close(logits[1:].diff(dim=1), one.diff(dim=1), rtol=1e-3, atol=1e-3)
    objects = run(network, batch.support_images[:1], batch.support_annotations, batch.query_images[:1])
    assert objects.shape == (2, 2, 20, 28), "one query and its supports serve all annotations"
    for value in (0, 255):
        nothing = torch.full_like(batch.support_annotations, value)
        silent = run(network, batch.support_images, nothing, batch.query_images)
        assert (silent[:, 0] > silent[:, 1]).all()


@pytest.mark.parametrize("design", [d for d in ALL if meaningless(d)], ids=lambda d: "-".join(map(str, d.values())))
def test_a_design_with_an_option_without_effect_is_refused(design):
    with pytest.raises(FewsegError, match=r"^(separate_encoders: got True|concatenate: got False), expected .*because"):
        SGOne(**design)


def test_a_single_tap_leaves_nothing_to_concatenate():
    with pytest.raises(FewsegError, match=r"^concatenate: got False, expected True, because an encoder with a single"):
        SGOne(taps=(1,), concatenate=False)


def test_the_paper_refuses_what_its_trunk_has_not():
    with pytest.raises(FewsegError, match="width"):
        SGOne(variant="paper", width=64)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_logits(option):
    """With the same weights where the same parameters are there."""
    batch, answers = episodes(), []
    for value in OPTIONS[option]:
        torch.manual_seed(0)
        network = SGOne(**{option: value}, width=8).network.eval()
        answers.append(run(network, batch.support_images, batch.support_annotations, batch.query_images))
    for a, b in itertools.combinations(answers, 2):
        assert not torch.allclose(a, b)


@pytest.mark.parametrize(
    ("design", "early", "shared", "cacheable"),
    [
        ({}, False, True, True),
        ({"support": "none"}, False, True, True),
        ({"support": "mask_image"}, True, False, True),
        ({"support": "concat"}, True, False, True),
        ({"separate_encoders": True}, False, False, False),
        ({"support": "mask_image", "separate_encoders": True}, True, False, True),
    ],
)
def test_a_design_says_what_it_can_do(design, early, shared, cacheable):
    network = SGOne(**design, width=8).network
    assert (network.early, network.shared_encoder, network.cacheable) == (early, shared, cacheable)
    kept = network.encode_support(raw(1, 2, 3, 24, 20)).maps[0]
    assert (kept.shape == (1, 2, 3, 24, 20)) == early
    assert not SGOneNetwork.early, "the flag belongs to the instance"
    with torch.device("meta"):
        assert not PaperSGOneNetwork(Design(**design)).cacheable


def test_masked_images_hide_what_is_not_positive():
    network = standard(support="mask_image")
    annotations = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    annotations[..., 10:20, 10:20] = 1
    supports = raw(1, 1, 3, 32, 32)
    outside = torch.where(annotations[:, :, None] == 1, supports, 255 - supports)
    query = raw(1, 3, 33, 25, seed=1)
    torch.testing.assert_close(*(run(network, s, annotations, query) for s in (supports, outside)))
    inside = torch.where(annotations[:, :, None] == 1, 255 - supports, supports)
    assert not torch.allclose(*(run(network, s, annotations, query) for s in (supports, inside)))


def test_without_masks_the_place_of_the_positives_does_not_matter():
    network, supports, query = standard(support="none"), raw(1, 1, 3, 32, 32), raw(1, 3, 33, 25, seed=1)
    annotation = labels(1, 1, 32, 32)
    torch.testing.assert_close(*(run(network, supports, a, query) for a in (annotation, 1 - annotation)))


# ---------------------------------------------------------------------------------------------------- learning rates


def rates(model):
    names = {id(p): name for name, p in model.network.named_parameters()}
    groups = model.parameter_groups()
    found = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found), "each parameter is in one group"
    return found


def test_the_learning_rates_of_the_original():
    with torch.device("meta"):
        found = rates(SGOne(variant="paper", lr=1.0, encoder_lr_factor=1.0))
        halved = rates(SGOne(variant="paper", lr=1.0, encoder_lr_factor=0.5, separate_encoders=True))
        frozen = rates(SGOne(variant="paper", freeze_encoder=True))
    assert len(found) == 38
    assert found.pop("guidance.cls.weight") == 10.0
    assert found.pop("guidance.cls.bias") == 20.0
    assert {name.rpartition(".")[2]: rate for name, rate in found.items()} == {"weight": 1.0, "bias": 2.0}
    assert all(rate == (2.0 if name.endswith("bias") else 1.0) for name, rate in found.items())
    assert halved["encoder.stages.0.0.weight"] == halved["support_encoder.stages.0.0.weight"] == 0.5
    assert halved["support_guidance.cls.bias"] == 20.0
    assert len(frozen) == 12


def test_the_standard_variant_has_the_rates_of_all_methods():
    found = rates(SGOne(lr=1.0, encoder_lr_factor=0.25, separate_encoders=True))
    assert found["guidance.cls.weight"] == found["exit.bias"] == 1.0
    assert {rate for name, rate in found.items() if "encoder." in name} == {0.25}
