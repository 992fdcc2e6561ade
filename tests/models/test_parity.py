"""Numbers that the original implementations produce, in float64 and eval mode, with weights anyone can regenerate."""

import numpy as np
import pytest
import torch

from fewseg.episode import Features
from fewseg.functional.clicks import click_maps, pad_clicks
from fewseg.models.fgbg import PaperFgBgNetwork
from fewseg.models.guided import PaperGuidedNetwork
from fewseg.models.osvos import PaperOSVOSNetwork
from fewseg.models.panet import PaperPANetNetwork

torch.set_num_threads(1)

H, W = 97, 129
CONVOLUTIONS = [
    (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256),
    (512, 256), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512),
]  # fmt: skip


def weights_and_biases(shapes):
    return [shape for weight in shapes for shape in (weight, (weight[0],))]


VGG = weights_and_biases([(out, into, 3, 3) for out, into in CONVOLUTIONS])
FC6 = weights_and_biases([(256, 512, 7, 7)])
KERNEL = (1, 1, 64, 64)
SHARED = [KERNEL, *VGG, *FC6, *weights_and_biases([(512, 512, 1, 1), (1, 512, 1, 1)]), KERNEL]
SEPARATE = [KERNEL, *VGG, *FC6, *weights_and_biases([(768, 768, 1, 1), (2, 768, 1, 1)]), (2, 2, 64, 64)]
COUNTERS = [(2, 512), (2, 1)]  # z and num_z, which the shared network of separate supports keeps


def arrays(shapes, skip=0):
    """The recipe's entries; ``skip`` leading buffers take no index."""
    for i, shape in enumerate(shapes):
        random = np.random.RandomState(max(i - skip, 0))
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        yield random.randn(*shape) * scale


def image(seed):
    return torch.from_numpy(np.random.RandomState(seed).randn(1, 3, H, W))


def dense():
    mask = torch.zeros(1, 1, H, W, dtype=torch.uint8)
    mask[..., 30:70, 40:90] = 1
    return mask


def sparse():
    annotation = torch.full((1, 1, H, W), 255, dtype=torch.uint8)
    annotation[..., 40, 60] = 1
    annotation[..., 10, 20] = annotation[..., 80, 100] = 0
    return annotation


def run(network, support, annotation):
    with torch.inference_mode():
        guidance = network.guide(network.encode_support(support[:, None]), annotation)
        return network.segment(network.encode_query(image(1000)), guidance)


def figures(values):
    flat = values.flatten()
    return [v.item() for v in (flat.mean(), flat.std(correction=0), flat[0], flat[flat.numel() // 2], flat[-1])]


@pytest.fixture(scope="module")
def shared():
    network = PaperGuidedNetwork("shared").double().eval()
    network.load_original(list(arrays([*COUNTERS, *SHARED])))
    return network


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (sparse, [-3.438356988e-02, 7.882016156e-01, 9.249711147e-05, 8.236565908e-05, -1.348166175e00]),
        (dense, [-1.187213572e-01, 7.800902294e-01, 2.670661793e-05, 9.267507970e-05, -1.684463214e00]),
    ],
)
def test_guided_shared(shared, annotation, expected):
    logits = run(shared, image(1001), annotation())
    assert logits.shape == (1, 2, H, W)
    assert figures(logits) == pytest.approx(expected, abs=1e-8)


def test_interactive_late_global_lite():
    """The same network with the query as its support; its state has no z and num_z, so all else moves up by two."""
    network = PaperGuidedNetwork("shared").double().eval()
    network.load_original(list(arrays([*COUNTERS, *SHARED], skip=2)))
    expected = [-1.710837021e-01, 2.757498756e-01, 5.968650863e-05, -1.188704443e-04, 7.614457970e-02]
    assert figures(run(network, image(1000), sparse())) == pytest.approx(expected, abs=1e-8)


def test_guided_separate():
    network = PaperGuidedNetwork("separate").double().eval()
    network.load_original(list(arrays(SEPARATE)))
    expected = [3.192496305e-01, 1.097410608e00, -2.842042600e-04, 5.605273122e-04, 7.320362679e-01]
    assert figures(run(network, image(1001), sparse())) == pytest.approx(expected, abs=1e-8)


def test_panet():
    network = PaperPANetNetwork().double().eval()
    network.load_original(list(arrays(VGG)))
    expected = [1.594757412e01, 2.703854351e00, 1.168158755e01, 1.077923022e01, 9.833581899e00]
    assert figures(run(network, image(1001), dense())) == pytest.approx(expected, abs=1e-8)


SIDES = (128, 256, 512, 512)
OSVOS = [
    *((16, 16, 2 * s, 2 * s) for s in (2, 4, 8, 16)), *((1, 1, 2 * s, 2 * s) for s in (2, 4, 8, 16)), *VGG,
    *weights_and_biases([(16, c, 3, 3) for c in SIDES]), *weights_and_biases([(1, 16, 1, 1)] * 4),
    *weights_and_biases([(1, 64, 1, 1)]),
]  # fmt: skip


def test_osvos():
    """The fused score, which the network states as a margin between two logits; its fixed kernels are not loaded."""
    network = PaperOSVOSNetwork().double().eval()
    network.load_original(list(arrays(OSVOS)))
    with torch.inference_mode():
        logits = network.score(network.encode_query(image(1000)))
    expected = [-5.095489237e00, 1.984617141e00, -1.644176629e00, -4.311246139e00, 1.554994674e00]
    assert logits.shape == (1, 2, H, W)
    assert figures(logits[:, 1] - logits[:, 0]) == pytest.approx(expected, abs=1e-8)


def test_fbrs_distance_maps():
    """The original's first channel is that of the positive click: its corner is the farther one."""
    clicks = pad_clicks([[(40, 60, 1), (10, 20, 0), (80, 100, 0)]])
    maps = click_maps(clicks, (H, W), "tanh", torch.float64).flip(1)  # from float32, as there
    assert maps.shape == (1, 2, H, W)
    expected = [3.096321971e-01, 1.277702020e-01, 5.040346384e-01, 1.703287661e-01, 2.431030720e-01]
    assert figures(maps) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("build", "total", "learned"),
    [
        (lambda: PaperGuidedNetwork("shared"), 21_408_833, 21_400_641),
        (lambda: PaperGuidedNetwork("separate"), 21_750_082, 21_729_602),
        (PaperPANetNetwork, 14_714_688, 14_714_688),
        (PaperOSVOSNetwork, 15_267_157, 14_917_637),
        (PaperFgBgNetwork, 134_285_122, 134_268_738),
    ],
)
def test_parameter_counts(build, total, learned):
    with torch.device("meta"):  # the class-blind one has half a gigabyte
        network = build()
    assert sum(p.numel() for p in network.parameters()) == total
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == learned


def test_separate_head_divides_by_unannotated_shots_but_shared_does_not():
    features = Features((torch.rand(1, 2, 256, 3, 4),), (H, W))
    annotations = torch.full((1, 2, H, W), 255, dtype=torch.uint8)
    annotations[0, 0, 50, 60] = 1
    one_shot = Features((features.maps[0][:, :1],), (H, W))
    for head, factor in (("shared", 1.0), ("separate", 0.5)):
        network = PaperGuidedNetwork(head).eval()
        both, one = network.guide(features, annotations).z, network.guide(one_shot, annotations[:, :1]).z
        torch.testing.assert_close(both[:, 1], factor * one[:, 1])


def test_load_original_names_what_is_wrong(shared):
    with pytest.raises(ValueError, match=r"arrays: got 3, expected 36"):
        shared.load_original([np.zeros(1)] * 3)
    wrong = list(arrays([*COUNTERS, *SHARED]))
    wrong[3] = wrong[3][:1]
    with pytest.raises(ValueError, match=r"arrays\[3\]: got shape \(1, 3, 3, 3\), expected \(64, 3, 3, 3\)"):
        shared.load_original(wrong)
