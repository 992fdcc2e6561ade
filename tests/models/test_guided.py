"""The design space of guided networks: every meaningful combination runs, every other one is refused."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame
from fewseg.errors import FewsegError
from fewseg.functional.annotations import weights_of
from fewseg.functional.pooling import masked_map, masked_max, masked_mean
from fewseg.models.guided import (
    AnnotationMap,
    GuidedNet,
    GuidedNetwork,
    PaperGuidedNetwork,
    SimilarGuidedNetwork,
    on_grid,
)
from fewseg.modules.annotated import AMPLITUDE
from fewseg.modules.encoders import Encoder
from fewseg.modules.heads import Head, Nearest, Prototypes, Regression, nearest_maps

torch.set_num_threads(1)

UNKNOWN = 255


def build(**options):
    torch.manual_seed(0)
    return GuidedNet(width=8, taps=(1, 2), **options)


def raw(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def labels(*shape):
    return torch.randint(0, 2, shape, dtype=torch.uint8)


def clicks(n, shots, height, width):
    """One positive and one negative pixel in each shot."""
    annotations = torch.full((n, shots, height, width), UNKNOWN, dtype=torch.uint8)
    annotations[..., 3, 5], annotations[..., 11, 2] = 1, 0
    return annotations


def one_label_shots(n, shots, height, width):
    """Positives in the first shot only, negatives in the last, nothing between."""
    annotations = torch.full((n, shots, height, width), UNKNOWN, dtype=torch.uint8)
    annotations[:, -1, 2:6] = 0
    annotations[:, 0] = UNKNOWN
    annotations[:, 0, 8:14, 3:9] = 1
    return annotations


def unknown(*shape):
    return torch.full(shape, UNKNOWN, dtype=torch.uint8)


def only(value):
    return lambda *shape: torch.full(shape, value, dtype=torch.uint8)


def episodes(n=2, shots=1, annotate=labels, support=(19, 23), query=(17, 13), seed=0):
    torch.manual_seed(seed)
    return EpisodeBatch(
        support_images=raw(n, shots, 3, *support),
        support_annotations=annotate(n, shots, *support),
        query_images=raw(n, 3, *query),
        query_clicks=torch.zeros(n, 0, 3, dtype=torch.int32),
        query_masks=labels(n, *query),
        targets=(None,) * n,
        frames=(Frame(query, query, Box(0, 0, *query)),) * n,
        specs=(EpisodeSpec("q", ("s",) * shots, 1),) * n,
    )


def guidance_of(network, batch):
    return network.guide(network.encode_support(batch.support_images), batch.support_annotations)


# ------------------------------------------------------------------------------------------------- the whole space

CHOICES = {
    "fusion": ("late", "early", "masked"),
    "locality": ("global", "local"),
    "inference": ("fusion", "regression", "prototype", "nearest"),
    "head": ("shared", "separate"),
    "pooling": ("mean", "max"),
    "similarity": ("none", "prototype", "nearest", "both"),
    "support_grid": ("pool", "interpolate", "dilate", "atrous"),
    "annotation_map": (False, True),
    "self_support": (False, True),
}
SPACE = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]


def meaningful(fusion, locality, inference, head, pooling, similarity, support_grid, annotation_map, self_support):
    """What the documentation's table says, written down a second time."""
    everywhere = set(itertools.product(CHOICES["fusion"], ("global",)))
    allowed = {
        "fusion": set(itertools.product(CHOICES["fusion"], CHOICES["locality"])),
        "regression": everywhere,
        "prototype": everywhere - {("early", "global")},
        "nearest": {("late", "local")},
    }
    return (
        (fusion, locality) in allowed[inference]
        and (head == "shared" or (inference == "fusion" and fusion != "early"))
        and (pooling == "mean" or locality == "global")
        and (similarity == "none" or (fusion == "late" and inference == "fusion"))
        and (support_grid == "pool" or fusion == "late")
        and (support_grid != "atrous" or similarity == "none")
        and (not self_support or (similarity in ("prototype", "both") and locality == "global"))
        and (not annotation_map or (fusion == "late" and inference != "nearest" and pooling == "mean"))
    )


def test_every_combination_is_built_or_refused():
    # 2,048 networks would take a minute: without the encoder's and the heads' sizes, as only the refusal is asked for
    built = 0
    for options in SPACE:
        if meaningful(**options):
            with torch.device("meta"):
                build(**options)
            built += 1
        else:
            with pytest.raises(FewsegError) as error:
                build(**options)
            argument = error.value.argument
            assert argument in options
            assert options[argument] == CHOICES[argument][0] or argument in str(error.value)
            assert str(error.value).count("\n") == 0
            assert error.value.got == str(options[argument])
    assert built == sum(meaningful(**options) for options in SPACE) > 100


def differs_in_few(options, most=2):
    """Combinations of the named points and their neighbours: all pairs of choices are among them."""
    return sum(options[name] != values[0] for name, values in CHOICES.items()) <= most


RUN = [o for o in SPACE if meaningful(**o) and (differs_in_few(o) or (o["inference"] == "nearest"))]
RUN += [
    dict(zip(CHOICES, values, strict=True))
    for values in (
        ("late", "local", "fusion", "separate", "mean", "both", "interpolate", True, False),
        ("late", "global", "fusion", "separate", "max", "both", "dilate", False, True),
        ("late", "global", "fusion", "shared", "mean", "nearest", "interpolate", True, False),
        ("masked", "local", "fusion", "separate", "mean", "none", "pool", False, False),
        ("masked", "global", "fusion", "separate", "max", "none", "pool", False, False),
    )
]


def name(options):
    return "-".join(str(v) for key, v in options.items() if v != CHOICES[key][0]) or "default"


@pytest.mark.parametrize("merge", ["features", "logits"])
@pytest.mark.parametrize("options", RUN, ids=name)
def test_every_meaningful_combination_runs(options, merge):
    network = build(**options, merge=merge).network.eval()
    for shots, annotate in itertools.product((1, 3), (labels, clicks, one_label_shots, only(1), only(0), unknown)):
        batch = episodes(2, shots, annotate)
        with torch.inference_mode():
            guidance = guidance_of(network, batch)
            logits = network.segment(network.encode_query(batch.query_images), guidance)
        assert logits.shape == (2, 2, 17, 13)
        assert logits.isfinite().all()
        if annotate in (unknown, only(0)):
            assert (logits[:, 0] > logits[:, 1] + 5).all()
        z = network.represent(guidance)
        assert z.shape[0] == 2
        assert z.ndim == 2
        assert z.shape[1] == network.n_z * 8
        assert z.isfinite().all()


@pytest.mark.parametrize("merge", ["features", "logits"])
@pytest.mark.parametrize("options", RUN, ids=name)
def test_gradients_are_finite_and_reach_every_parameter(options, merge):
    network = build(**options, merge=merge).network.train()
    for annotate in (one_label_shots, clicks, only(1), unknown):
        losses = sum(network.losses(episodes(2, 3, annotate)).values())
        if losses.requires_grad:
            losses.backward()
    reached = {key: p.grad for key, p in network.named_parameters() if p.requires_grad}
    assert all(grad is not None and grad.isfinite().all() for grad in reached.values())
    # the bias of a head that both labels share adds to both logits alike: its gradient is 0, or what rounding leaves
    shared = {"head.score.bias"} if options["head"] == "shared" else set()
    assert {key for key, grad in reached.items() if not grad.any()} <= shared


POINTS = {
    "late": {},
    "separate": {"head": "separate"},
    "local": {"locality": "local"},
    "early": {"fusion": "early"},
    "early local": {"fusion": "early", "locality": "local"},
    "masked": {"fusion": "masked"},
    "regression": {"inference": "regression"},
    "prototype": {"inference": "prototype"},
    "nearest": {"inference": "nearest", "locality": "local"},
    "map": {"annotation_map": True},
    "interpolate": {"support_grid": "interpolate"},
    "max": {"pooling": "max"},
    "similar": {"head": "separate", "similarity": "both"},
    "logits": {"merge": "logits"},
    "context": {"head": "separate", "kernel": 3},
    "self-support": {"head": "separate", "similarity": "prototype", "self_support": True},
    "self-support logits": {"similarity": "both", "self_support": True, "merge": "logits"},
    "similar logits": {"similarity": "both", "merge": "logits"},
    "nearest logits": {"inference": "nearest", "locality": "local", "merge": "logits"},
}


@pytest.fixture(params=POINTS)
def network(request):
    network = build(**POINTS[request.param]).network.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) / 20)  # away from small initial values
    return network


def run(network, batch):
    with torch.inference_mode():
        return network(batch)


def close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_one_query_and_one_support_serve_many_objects(network):
    batch = episodes(1, 2)
    annotations = labels(3, 2, 19, 23)
    together = run(network, dataclasses.replace(batch, support_annotations=annotations))
    apart = [run(network, dataclasses.replace(batch, support_annotations=a[None])) for a in annotations]
    close(together, torch.cat(apart))


def test_the_order_of_shots_does_not_matter_and_empty_shots_change_nothing(network):
    batch = episodes(1, 3, one_label_shots)
    turned = dataclasses.replace(
        batch, support_images=batch.support_images.flip(1), support_annotations=batch.support_annotations.flip(1)
    )
    expected = run(network, batch)
    close(run(network, turned), expected)
    kept = [0, 2]  # nobody annotated the one between
    fewer = dataclasses.replace(
        batch, support_images=batch.support_images[:, kept], support_annotations=batch.support_annotations[:, kept]
    )
    close(run(network, fewer), expected)


def test_double_precision_and_cached_halves(network):
    batch = episodes(1, 2)
    expected = run(network, batch)
    with torch.inference_mode():
        supports, queries = (
            network.encoder(images).to(torch.float16) for images in (batch.support_images, batch.query_images)
        )
    cached = dataclasses.replace(
        batch, support_images=batch.support_images if network.early else supports, query_images=queries
    )
    logits = run(network, cached)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.02 * expected.abs().max()
    assert run(network.double(), batch).dtype == torch.float64


class Verbs(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, supports, annotations, queries):
        guidance = self.network.guide(self.network.encode_support(supports), annotations)
        return self.network.segment(self.network.encode_query(queries), guidance)


@pytest.mark.parametrize("point", ["early", "masked", "regression", "similar logits", "nearest", "map", "interpolate"])
def test_the_verbs_can_be_exported(point):
    network = build(**POINTS[point]).network.eval()
    batch = episodes(1, 2)
    arguments = (batch.support_images, batch.support_annotations, batch.query_images)
    with torch.no_grad():
        close(torch.export.export(Verbs(network), arguments).module()(*arguments), network(batch))


@pytest.mark.parametrize("point", [p for p in POINTS if "logits" not in p])
def test_one_shot_is_merged_alike_by_features_and_by_logits(point):
    features, logits = (build(**POINTS[point], merge=merge).network.double().eval() for merge in ("features", "logits"))
    with torch.no_grad():  # far from initial values, where shots hardly differ
        for parameter in (*features.parameters(), *logits.parameters()):
            parameter.mul_(1.5)
    batch = episodes(2, 1)
    close(run(logits, batch), run(features, batch), 1e-9)
    several = episodes(2, 3)
    difference = (run(logits, several) - run(features, several)).abs().max()
    assert (difference > 1e-9) == (point != "regression")  # scores that are linear in z have the mean of z as theirs


def test_merging_logits_is_the_mean_over_shots_with_positives():
    network = build(merge="logits").network.eval()
    batch = episodes(1, 3)
    batch.support_annotations[:, 1] = 0  # says nothing about the object

    def shot(k):
        part = slice(k, k + 1)
        return dataclasses.replace(
            batch, support_images=batch.support_images[:, part], support_annotations=batch.support_annotations[:, part]
        )

    close(run(network, batch), (run(network, shot(0)) + run(network, shot(2))) / 2)


# ----------------------------------------------------------------------------------------------------- fusion


def count_encodings(network):
    calls = []
    for key, module in network.named_children():
        if key.endswith("encoder"):
            module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ("options", "passes"), [({}, 0), ({"annotation_map": True}, 0), ({"fusion": "early"}, 1), ({"fusion": "masked"}, 2)]
)
def test_what_a_new_annotation_costs(options, passes):
    """Late fusion only masks again; early fusion encodes the supports again, masked images once per label."""
    network = build(**options).network.eval()
    batch = episodes(1, 2)
    supports = network.encode_support(batch.support_images)
    calls = count_encodings(network)
    network.guide(supports, batch.support_annotations)
    assert len(calls) == passes
    assert (network.early, network.shared_encoder) == (passes > 0, passes == 0)


def test_early_fusion_reads_dilated_channels_of_the_scale_of_the_colours():
    network = build(fusion="early").network.eval()
    seen = []
    network.support_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    batch = episodes(1, 1, clicks)
    guidance_of(network, batch)
    negative, positive = seen[0][0, 0]
    assert set(positive.unique().tolist()) == {-positive.max().item(), positive.max().item()}
    assert positive.max().item() == pytest.approx(AMPLITUDE)
    assert pytest.approx(2.22, abs=5e-3) == AMPLITUDE
    assert (positive > 0).sum() == 9 * 11  # 11 x 11 around (3, 5), cut at the top: rows 0..8, columns 0..10
    assert (negative < 0).sum() == 11 * 8  # turned over; around (11, 2): rows 6..16, columns 0..7


def test_early_z_is_the_mean_over_positions_of_annotated_shots():
    network = build(fusion="early").network.eval()
    batch = episodes(1, 3)
    batch.support_annotations[:, 1] = UNKNOWN
    z = guidance_of(network, batch).z
    assert z.shape == (1, 1, 8)
    shots = []
    for k in (0, 2):
        part = slice(k, k + 1)
        images = network.encode_support(batch.support_images[:, part])
        shots.append(network.guide(images, batch.support_annotations[:, part]).z)
    close(z, sum(shots) / 2)


def test_the_support_encoder_learns_at_the_encoders_rate_even_where_the_query_is_frozen():
    model = build(fusion="early", lr=0.1, encoder_lr_factor=0.5, freeze_encoder=True)
    encoders, rest = model.parameter_groups()
    assert (encoders["lr"], rest["lr"]) == (0.05, 0.1)
    names = {id(p): key for key, p in model.network.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in encoders["params"]} == {"support_encoder"}
    assert not any(p.requires_grad for p in model.network.encoder.parameters())


def test_masked_z_is_the_mean_feature_of_the_masked_image():
    network = build(fusion="masked").network.eval()
    batch = episodes(1, 1)
    mask = (batch.support_annotations == 1).float()[:, :, None]
    masked = network.encoder.normalize(batch.support_images) * mask
    features = network.embedding(network.encoder(masked)).maps[0]
    close(guidance_of(network, batch).z[:, 1], features.mean((1, 3, 4)))
    nothing = dataclasses.replace(batch, support_annotations=only(1)(1, 1, 19, 23))
    assert (guidance_of(network, nothing).z[:, 0] == 0).all()


def test_masked_images_leave_no_trace_in_the_statistics_of_queries():
    network = build(fusion="masked").network.train()
    batch = episodes(1, 1)
    before = {key: buffer.clone() for key, buffer in network.encoder.named_buffers()}
    z = guidance_of(network, batch).z
    assert all(torch.equal(before[key], buffer) for key, buffer in network.encoder.named_buffers())
    assert all(module.training for module in network.encoder.modules())
    close(z, guidance_of(network.eval(), batch).z)


# ----------------------------------------------------------------------------------------------------- locality


def test_a_local_guide_of_constant_features_under_a_full_mask_is_the_global_one():
    everywhere, somewhere = (build(locality=kind).network.eval() for kind in ("global", "local"))
    somewhere.load_state_dict(everywhere.state_dict())
    supports = Features((torch.rand(1, 1, 8, 1, 1).expand(1, 2, 8, 5, 6),), (19, 23))
    query = everywhere.encode_query(raw(1, 3, 17, 13))
    annotations = only(1)(1, 2, 19, 23)
    with torch.inference_mode():
        close(*(n.segment(query, n.guide(supports, annotations)) for n in (everywhere, somewhere)))


def test_a_local_guide_knows_where_a_global_one_does_not():
    """The same object twice: one is annotated."""
    image = torch.full((1, 3, 40, 40), 30, dtype=torch.uint8)
    image[..., 6:14, 6:14] = image[..., 26:34, 26:34] = 220
    annotations = unknown(1, 1, 40, 40)
    annotations[..., 10, 10] = 1
    for locality, differ in (("global", False), ("local", True)):
        z = build(locality=locality).network.eval()
        guidance = z.guide(z.encode_support(image[:, None]), annotations)
        assert guidance.z.shape == ((1, 2, 8, 10, 10) if differ else (1, 2, 8))
        if differ:
            assert guidance.z[0, 1, :, 2, 2].any()  # the annotated cell
            assert not guidance.z[0, 1, :, 7, 7].any()


def test_local_map_by_hand():
    features = torch.arange(6.0).view(1, 2, 1, 1, 3)  # shots (0, 1, 2) and (3, 4, 5)
    weights = torch.tensor([[0.0, 0.5, 0.25], [0.0, 0.0, 0.1]]).view(1, 2, 1, 3)
    close(masked_map(features, weights).flatten(), torch.tensor([0.0, 0.5, (2 * 0.5 + 5) / 2]))
    close(masked_map(features, weights * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))[0, 0, 0, 2], torch.tensor(1.0))
    assert (masked_map(features, torch.zeros(1, 2, 1, 3)) == 0).all()


def test_head_with_a_local_z_is_the_convolution_of_the_concatenation():
    for kind in ("shared", "separate"):
        head = Head(4, (6, 5), kind, similar=2).double()
        features, z = torch.randn(2, 4, 3, 5).double(), torch.randn(2, 2, 4, 3, 5).double()
        similar = torch.randn(2, 2, 2, 3, 5).double()

        def dense(*inputs, head=head):
            return head.score(head.layers(head.fuse(torch.cat(inputs, 1))))

        if kind == "shared":
            expected = torch.cat([dense(features, z[:, k], similar[:, k]) for k in range(2)], 1)
        else:
            expected = dense(features, z[:, 1], z[:, 0], similar[:, 1], similar[:, 0])
        close(head(features, z, similar), expected, 1e-9)


def test_head_brings_a_local_z_to_the_querys_grid():
    head = Head(2, (4,), "shared")
    z = torch.rand(1, 2, 2, 1, 1)
    close(head(torch.ones(1, 2, 3, 5), z), head(torch.ones(1, 2, 3, 5), z[..., 0, 0]))


# ----------------------------------------------------------------------------------------------------- inference


def test_regression_without_parameters_prefers_no_label_and_by_hand():
    regression = Regression(2)
    features, z = torch.tensor([[3.0, 5.0]]).view(1, 2, 1, 1), torch.tensor([[[1.0, 2.0], [4.0, 8.0]]])
    with torch.no_grad():
        regression.regressor.weight.zero_()
        scores = regression(features, z)
        assert (scores == 0).all()
        weight = regression.regressor.weight.view(2, 3, 4)  # label, (w, b), (z of negatives, z of positives)
        weight[1, 0, 2] = 1.0  # w_0 of the positive score is z_0 of the positives
        weight[1, 2, 1] = 10.0  # its bias is 10 times z_1 of the negatives
    assert regression(features, z).flatten().tolist() == [0.0, 3 * 4 + 10 * 2]


def test_prototypes_by_hand():
    head = Prototypes(2)
    with torch.no_grad():
        head.scale.fill_(0.5)
    cells = torch.tensor([[1.0, 0.0], [3.0, 4.0]]).t().view(1, 2, 1, 2)  # (1, 0) and (3, 4)
    z = torch.tensor([[[0.0, 0.0], [3.0, 0.0]]])
    close(head(cells, z), -0.5 * torch.tensor([[1.0, 25.0], [4.0, 16.0]]).view(1, 2, 1, 2))


def test_prototype_vectors_by_hand():
    network = build(inference="prototype").network
    maps = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 1, 1, 4).expand(1, 2, 8, 1, 4)
    annotations = torch.tensor([[0, 1, 1, UNKNOWN], [UNKNOWN, UNKNOWN, UNKNOWN, 1]], dtype=torch.uint8).view(1, 2, 1, 4)
    z = network.guide(Features((maps,), (1, 4)), annotations).z
    close(z[0, :, 0], torch.tensor([1.0, (4.0 + 7.0) / 2]))


def test_nearest_copies_the_label_of_an_identical_cell():
    cells = torch.randn(1, 3, 8, 4, 5)
    carried = torch.rand(1, 3, 4, 5) < 0.5
    weights = torch.stack([~carried, carried], 1).float()
    for k in range(3):
        scores = Nearest()(cells[:, k], cells, weights)
        assert torch.equal(scores.argmax(1) == 1, carried[:, k])
        close(scores.amax(1), torch.full((1, 4, 5), 10.0))


def test_nearest_of_shots_is_nearest_of_all_cells_and_minus_one_without_any():
    cells, query = torch.randn(2, 3, 8, 4, 5), torch.randn(1, 8, 2, 3)
    weights = torch.zeros(2, 2, 3, 4, 5)
    weights[:, 1] = (torch.rand(2, 3, 4, 5) < 0.3).float()
    found = nearest_maps(query, cells, weights)
    assert (found[:, 0] == -1).all()
    unit = nn.functional.normalize
    cosines = torch.einsum("bchw,bkcij->bhwkij", unit(query, dim=1), unit(cells, dim=2))
    expected = cosines.masked_fill(weights[:, 1, None, None] == 0, -1).flatten(3).amax(3)
    close(found[:, 1], expected)


# ------------------------------------------------------------------------------ masks of annotations and similarity


def test_support_grids_by_hand():
    annotations = unknown(1, 1, 24, 24)
    annotations[..., 12, 12] = 1
    pooled, dilated = (on_grid(annotations, (3, 3), grid)[0, 1, 0] for grid in ("pool", "dilate"))
    assert pooled.count_nonzero() == 1
    close(pooled[1, 1], torch.tensor(1 / 64))
    close(dilated.sum() * 64, torch.tensor(121.0))  # rows and columns 7..17: 1, 8 and 2 pixels of the three cells
    close(dilated[0] * 64, torch.tensor([1.0, 8.0, 2.0]))
    assert torch.equal(on_grid(annotations, (3, 3), "pool")[:, 1], weights_of(annotations, 1, (3, 3)))


def test_interpolating_the_support_is_a_mean_of_upsampled_features():
    torch.manual_seed(0)
    features, annotations = torch.randn(2, 3, 4, 5, 6), labels(2, 3, 19, 23)
    upsampled = nn.functional.interpolate(features.flatten(0, 1), size=(19, 23), mode="bilinear", align_corners=False)
    mask = (annotations == 1).float()
    expected = (upsampled.view(2, 3, 4, 19, 23) * mask[:, :, None]).sum((3, 4)) / mask.sum((2, 3))[..., None]
    close(masked_mean(features, on_grid(annotations, (5, 6), "interpolate")[:, 1]), expected.mean(1))


def test_max_pooling_by_hand():
    features = torch.tensor([[1.0, 9.0, 2.0], [-3.0, -4.0, 5.0]]).view(1, 2, 1, 1, 3)
    weights = torch.tensor([[0.1, 0.0, 0.2], [0.3, 0.1, 0.0]]).view(1, 2, 1, 3)
    close(masked_max(features, weights), torch.tensor([[(2.0 - 3.0) / 2]]))
    assert masked_max(features, torch.zeros(1, 2, 1, 3)) == 0


def test_the_learned_map_starts_near_the_fixed_one_and_keeps_missing_labels_missing():
    torch.manual_seed(0)
    learned = AnnotationMap(8)
    features = torch.rand(1, 2, 8, 5, 5)
    annotations = clicks(1, 2, 40, 40)
    annotations[:, :, 11, 2] = UNKNOWN  # no negatives
    weights, spread = (on_grid(annotations, (5, 5), grid) for grid in ("pool", "dilate"))
    found = learned(features, weights, spread)
    assert (found[:, 0] == 0).all()
    assert (found[:, 1] > 0).sum() > (weights[:, 1] > 0).sum()  # it may reach beyond the annotated cells
    close(found[:, 1], weights[:, 1] / weights.max(), 0.06)
    close(masked_mean(features, found[:, 1]), masked_mean(features, weights[:, 1]), 0.06)
    with torch.no_grad():
        learned.weigh.bias.fill_(5.0)  # believes all
    far = learned(features, weights, spread)
    assert (far[:, 0] == 0).all()
    assert (far[:, 1] - found[:, 1]).max() > 0.5


def test_atrous_supports_are_the_encoder_at_twice_the_cells():
    network = build(support_grid="atrous").network.eval()
    batch = episodes(1, 1)
    images = network.encoder.normalize(batch.support_images)
    with torch.inference_mode():
        fine = network.encode_support(batch.support_images).maps[0]
        plain = network.encode_query(batch.support_images).maps[0]
        moved = torch.roll(images, (1, 1), (-2, -1))  # by a quarter of the stride, down and right
        moved[..., 0, :], moved[..., :, 0] = 0, 0
        expected = network.encode_query(moved).maps[0]
    assert fine.shape == (*plain.shape[:3], 2 * plain.shape[3], 2 * plain.shape[4])
    close(fine[..., ::2, ::2], expected)
    assert not network.cacheable


def test_the_second_pass_reads_the_means_of_what_the_first_one_found():
    network = build(similarity="prototype", self_support=True).network.eval()
    maps = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).view(1, 1, 2, 2)
    positive = torch.tensor([[0.0, 0.0], [0.75, 0.25]])
    found = torch.stack([1 - positive, positive])[None]
    assert network._means(maps, found).flatten().tolist() == pytest.approx([(1 + 3 + 1.25 + 5.25) / 3, 5.5])
    empty = torch.zeros(1, 2, 2, 2)
    assert network._means(maps, empty).tolist() == [[[0.0], [0.0]]]  # nothing found has no direction
    assert set(network.losses(episodes(2, 1, labels))) == {"cross_entropy", "first_pass"}


def test_the_second_pass_leaves_the_first_one_alone():
    network = build(similarity="prototype", self_support=True).network.train()
    batch = episodes(1, 1, labels)
    network.losses(batch)["cross_entropy"].backward()
    assert not network.head.score.weight.grad.any()
    assert network.second.score.weight.grad.any()


def test_similarity_is_that_of_the_raw_taps():
    network = SimilarGuidedNetwork(Encoder("tiny"), 8, "separate").eval()
    image = raw(1, 3, 40, 40)
    annotations = labels(1, 1, 40, 40)
    with torch.inference_mode():
        query, supports = network.encode_query(image), network.encode_support(image[:, None])
        maps = network.similarity_maps(query, network.guide(supports, annotations))
        taps = network.encoder(image).maps
    assert maps.shape == (1, 2, 4, 10, 10)  # prototype of two taps, then nearest of two taps
    cells = [weights_of(annotations, 1, (10, 10)), weights_of(annotations, 1, (5, 5))]
    mean = masked_mean(taps[0][:, None], cells[0])
    close(maps[:, 1, 0], nn.functional.cosine_similarity(taps[0], mean[..., None, None], dim=1))
    close(maps[:, 1, 2], torch.ones(1, 10, 10), 1e-3)  # the query is the support, and each cell carries both labels
    for kind, channels in (("prototype", 2), ("nearest", 2), ("both", 4)):
        assert SimilarGuidedNetwork(Encoder("tiny"), 8, "shared", kind).head.fuse.in_channels == 16 + channels
        assert SimilarGuidedNetwork(Encoder("tiny"), 8, "separate", kind).head.fuse.in_channels == 24 + 2 * channels
    missing = network.similarity_maps(query, network.guide(supports, torch.ones_like(annotations)))
    assert (missing[:, 0, :2] == 0).all()
    assert (missing[:, 0, 2:] == -1).all()


# -------------------------------------------------------------------------------------------- what must not change


def test_the_defaults_have_the_parameters_that_saved_models_have():
    expected = {"embedding.project": (128, 192), "head.fuse": (128, 384), "head.layers.1": (128, 128)}
    state = GuidedNet(head="separate").network.state_dict()
    shapes = {key.removesuffix(".weight"): tuple(v.shape[:2]) for key, v in state.items() if key.endswith(".weight")}
    own = {key: shape for key, shape in shapes.items() if not key.startswith("encoder.")}
    assert own == {**expected, "head.score": (2, 128)}
    assert type(GuidedNet().network) is GuidedNetwork


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("fusion", "early"), ("inference", "regression"), ("merge", "logits"), ("annotation_map", True),
        ("support_grid", "dilate"), ("pooling", "max"), ("similarity", "both"),
    ],
)  # fmt: skip
def test_the_paper_variant_refuses_the_rest(option, value):
    with pytest.raises(FewsegError, match=f"{option}: got {value}, expected .* because variant="):
        GuidedNet(variant="paper", **{option: value})


def test_the_paper_variant_has_its_local_form_with_the_shared_head():
    with pytest.raises(FewsegError, match="locality: got local, expected global"):
        GuidedNet(variant="paper", head="separate", locality="local")
    network = PaperGuidedNetwork(locality="local").eval()
    supports = Features((torch.rand(1, 2, 256, 3, 4),), (97, 129))
    annotations = unknown(1, 2, 97, 129)
    annotations[0, 0, 40:60, 50:70] = 1
    local = network.guide(supports, annotations).z
    assert local.shape == (1, 2, 256, 3, 4)
    pooled = PaperGuidedNetwork().eval().guide(supports, annotations).z
    close(local.sum((-2, -1)), pooled)  # the same terms, not summed over positions
    with torch.no_grad():
        nn.init.normal_(network.head.score.weight)
    query = Features((torch.rand(1, 256, 3, 4),), (97, 129))
    logits = network.segment(query, network.guide(supports, annotations))
    assert logits.shape == (1, 2, 97, 129)
    assert logits.isfinite().all()
    tiled = torch.cat([query.maps[0], local[:, 1]], 1)
    expected = network.head.score(torch.relu(network.head.fuse(tiled)))
    close(network.head(query.maps[0], local)[:, 1:], expected)


@pytest.mark.parametrize(("kernel", "options"), [(2, {}), (0, {}), (3, {"inference": "prototype"})])
def test_a_kernel_that_no_head_has_is_refused(kernel, options):
    with pytest.raises(FewsegError, match=f"kernel: got {kernel}"):
        build(kernel=kernel, **options)


def test_a_wider_kernel_sees_the_neighbours():
    torch.manual_seed(0)
    head = Head(4, (8, 8), "separate", kernel=3)
    features, z = torch.rand(1, 4, 5, 5, requires_grad=True), torch.rand(1, 2, 4)
    head(features, z)[0, 1, 2, 2].backward()
    assert (features.grad.abs().sum((0, 1)) > 0).sum() == 9
