import copy
import dataclasses
import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import fewseg
from fewseg.episode import Box, Features
from fewseg.errors import FewsegError
from fewseg.functional.clicks import click_maps, pad_clicks
from fewseg.functional.zoom import mirrored_clicks
from fewseg.modules.encoders import ImageEncoder
from fewseg.network import SegmentorNetwork
from fewseg.refinement import Refinement, _Objective, click_squares, corrective_energy, points_of, refine
from toy import Toy

torch.set_num_threads(1)

SIZE = (12, 16)


# ------------------------------------------------------------------------------------------------- made-up networks


class Colours(ImageEncoder):
    """The normalised image itself: mean 0, deviation 1, so that pixels are their own features."""

    out_channels, strides = (3,), (1,)

    def __init__(self):
        super().__init__(mean=(0.0,) * 3, std=(1.0,) * 3, scale=1.0)

    def maps(self, images):
        return (images,)


class Hidden(NamedTuple):
    """What a network may pass on: the first field is scaled, the other rides along."""

    maps: Tensor
    rest: Tensor


class Linear(SegmentorNetwork):
    """The margin of a pixel is a weighted sum of its colours and its click maps, plus the guidance."""

    uses_clicks = True
    insertion_points = ("features", "pair")

    def __init__(self, weights=(1.0, 0.5, -0.5, 0.5, -0.5)):
        super().__init__()
        self.encoder = Colours()
        self.weights = torch.nn.Parameter(torch.tensor(weights))
        self.double()

    def click_maps(self, clicks, size):
        return click_maps(clicks, size, "tanh", torch.float64)

    def segment_to(self, point, features, guidance, clicks=None):
        if point == "features":
            return features
        return Hidden(features.maps[0], self.click_maps(clicks, features.image_size))

    def segment_from(self, point, hidden, guidance, clicks=None):
        if point == "pair":
            return self.mixed(hidden.maps, hidden.rest, guidance)
        return self.segment(hidden, guidance, clicks)

    def segment(self, features, guidance, clicks=None):
        return self.mixed(features.maps[0], self.click_maps(clicks, features.image_size), guidance)

    def mixed(self, colours, maps, guidance):
        margin = torch.einsum("bchw,c->bhw", torch.cat([colours, maps], 1), self.weights) + guidance[:, None, None]
        return torch.stack([-margin, margin], 1) / 2  # p = sigmoid(margin)


def noise(seed=0, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, *size, generator=generator, dtype=torch.float64)


def linear_episode(clicks, seed=0):
    return Linear().eval(), noise(seed), torch.zeros(1, dtype=torch.float64), pad_clicks([clicks])


def run(network, image, guidance, clicks, how, **more):
    return refine(network, image, None, guidance, clicks, how, **more)


def foreground(refined):
    return refined.logits.softmax(1)[:, 1]


POINTS = ("image", "maps", "features", "pair")
CLICKS = [(3, 3, 1), (8, 12, 0), (9, 2, 1)]


# ------------------------------------------------------------------------------------------------------ the objective


def test_energy_of_half_everywhere_is_a_quarter():
    """The BRS vector: nine pixels of a positive click, (0.25 * 9) / (9 + 1e-5)."""
    half = torch.full((1, *SIZE), 0.5, dtype=torch.float64)
    energy, worst = corrective_energy(half, click_squares(torch.tensor([[[5, 5, 1]]]), SIZE, 1))
    assert energy.item() == pytest.approx(0.25 * 9 / (9 + 1e-5), abs=1e-9)
    assert worst.tolist() == [0.0, 0.5]


def test_energy_averages_over_the_pixels_of_each_label():
    p = torch.zeros(1, *SIZE, dtype=torch.float64)
    p[0, 0, 0] = 1.0  # one of the four pixels in the corner is right
    p[0, 8:11, 8:10] = 0.5  # two columns of the negative click's square
    squares = click_squares(torch.tensor([[[0, 0, 1], [9, 9, 0], [0, 0, -1]]]), SIZE, 1)
    assert squares.sum((0, 2, 3)).tolist() == [9, 4]
    energy, worst = corrective_energy(p, squares)
    assert energy.item() == pytest.approx(3 / 4 + 6 * 0.25 / 9, abs=1e-5)
    assert worst.tolist() == [0.5, 1.0]


def test_squares_of_neighbouring_clicks_count_once():
    squares = click_squares(torch.tensor([[[5, 5, 1], [5, 6, 1]]]), SIZE, 1)
    assert squares[0, 1].sum() == 12
    assert click_squares(torch.tensor([[[5, 5, 1]]]), SIZE, 0).sum() == 1
    assert not click_squares(torch.zeros(1, 0, 3, dtype=torch.int32), SIZE, 1).any()


def test_inertia_weighs_biases_ten_times():
    network, image, guidance, clicks = linear_episode(CLICKS)
    state = torch.tensor([0.1, 0.0, -0.2, 0.3, 0.0, 0.1])  # three scales, three biases
    changed = Features((image * (1 + state[:3].view(3, 1, 1)) + state[3:].view(3, 1, 1),), SIZE)
    p = network.segment(changed, guidance, clicks).softmax(1)[:, 1]
    energy, _ = corrective_energy(p, click_squares(clicks, SIZE, 1))
    expected = energy.item() + 0.5 * ((0.01 + 0.04) + 10 * (0.09 + 0.01))
    still = run(network, image, guidance, clicks, Refinement("features", first_click=9, weight=0.5), state=state)
    assert still.objective_before == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("point", ["image", "maps"])
def test_inertia_of_inputs_is_the_sum_of_squares(point):
    network, image, guidance, clicks = linear_episode(CLICKS)
    state = torch.full(((3 if point == "image" else 2) * SIZE[0] * SIZE[1],), 0.1)
    light, heavy = (
        run(network, image, guidance, clicks, Refinement(point, first_click=9, weight=w), state=state) for w in (0, 2)
    )
    assert heavy.objective_before - light.objective_before == pytest.approx(2 * 0.01 * len(state), rel=1e-5)


# ------------------------------------------------------------------------------------------------------- the solution


@pytest.mark.parametrize("point", POINTS)
def test_a_missed_click_is_found(point):
    """Nothing was found; the user clicks on what is there, and the network has to agree."""
    network, image, guidance, clicks = linear_episode([(6, 7, 1)])
    image, guidance = 0.1 * image, guidance - 3
    before = network.segment(Features((image,), SIZE), guidance, clicks).softmax(1)[0, 1]
    refined = run(network, image, guidance, clicks, Refinement(point, weight=1e-5))  # lambda must not hold it back
    assert (before < 0.15).all()
    assert (foreground(refined)[click_squares(clicks, SIZE, 1)[:, 1]] > 0.49).all()
    assert refined.objective_after < refined.objective_before


def test_the_minimum_is_found():
    """One grey level everywhere: only a bias matters, so that the objective has one variable and can be scanned."""
    network = Linear((2.0, 0.0, 0.0, 0.0, 0.0))
    image, guidance = torch.zeros(1, 3, *SIZE, dtype=torch.float64), torch.full((1,), -3.0, dtype=torch.float64)
    how = Refinement("features", threshold=1 - 1e-9)  # at which no click is ever right
    refined = run(network, image, guidance, torch.tensor([[[5, 5, 1]]]), how)
    biases = torch.linspace(0, 10, 100001, dtype=torch.float64)
    objective = (1 - torch.sigmoid(2 * biases - 3)) ** 2 * 9 / (9 + 1e-5) + 1e-3 * 10 * biases**2
    assert refined.objective_after == pytest.approx(objective.min().item(), abs=1e-6)
    assert refined.state[3].item() == pytest.approx(biases[objective.argmin()].item(), abs=1e-3)


def test_both_labels_pull():
    """Two clicks of either label on one pixel: halfway is best, and no click wins."""
    network = Linear((1.0, 0.0, 0.0, 0.0, 0.0))
    image, guidance = torch.zeros(1, 3, *SIZE, dtype=torch.float64), torch.full((1,), -3.0, dtype=torch.float64)
    how = Refinement("features", weight=0, min_change=0)
    refined = run(network, image, guidance, torch.tensor([[[5, 5, 1], [5, 5, 0]]]), how)
    assert foreground(refined)[0, 5, 5].item() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("point", POINTS)
def test_the_next_click_starts_where_the_last_one_ended(point):
    network, image, guidance, clicks = linear_episode(CLICKS)
    first = run(network, image, guidance, clicks, Refinement(point))
    assert first.objective_after < first.objective_before
    again = run(network, image, guidance, clicks, Refinement(point), state=first.state)
    assert again.objective_before == first.objective_after
    assert again.objective_after <= again.objective_before
    still = run(network, image, guidance, clicks, Refinement(point, first_click=9), state=first.state)
    assert torch.equal(still.logits, first.logits)
    assert torch.equal(still.state, first.state)
    assert still.evaluations == 1


@pytest.mark.parametrize("point", POINTS)
def test_a_mirrored_image_gives_the_mirrored_result(point):
    network, image, guidance, clicks = linear_episode(CLICKS)
    one = run(network, image, guidance, clicks, Refinement(point))
    other = run(network, image.flip(-1), guidance, mirrored_clicks(clicks, SIZE[1]), Refinement(point))
    assert one.evaluations > 1
    torch.testing.assert_close(other.logits.flip(-1), one.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("point", POINTS)
def test_an_image_and_its_mirror_image_share_what_is_found(point):
    """The network is the same on both, so both views together are worth what one is."""
    network, image, guidance, clicks = linear_episode(CLICKS)
    views = torch.cat([image, image.flip(-1)])
    both = run(network, views, guidance, torch.cat([clicks, mirrored_clicks(clicks, SIZE[1])]), Refinement(point))
    one = run(network, image, guidance, clicks, Refinement(point))
    assert both.state.shape == one.state.shape
    torch.testing.assert_close(both.logits[1].flip(-1), both.logits[0])
    torch.testing.assert_close(both.logits[0], one.logits[0], rtol=1e-3, atol=1e-3)  # the means differ by their 1e-5


def test_views_need_not_agree():
    """What is shared serves the mean of both: a view that is right already is still counted."""
    network, image, guidance, clicks = linear_episode([(3, 3, 1)])
    views = torch.cat([image, torch.full_like(image, 9.0)])
    both = run(network, views, guidance, clicks.expand(2, -1, -1), Refinement("features", first_click=9))
    one = run(network, image, guidance, clicks, Refinement("features", first_click=9))
    assert both.objective_before == pytest.approx(one.objective_before / 2, abs=1e-3)


# --------------------------------------------------------------------------------------------------------- stopping


def test_right_clicks_need_one_evaluation():
    network, image, guidance, clicks = linear_episode([(3, 3, 1)])
    guidance = guidance + 9
    refined = run(network, image, guidance, clicks, Refinement("features"))
    assert refined.evaluations == 1
    assert refined.objective_after == refined.objective_before
    assert torch.equal(refined.logits, network.segment(Features((image,), SIZE), guidance, clicks))


def test_the_threshold_says_what_is_right():
    """p = 0.495 at a positive click is right under 0.49, the default, and wrong under 0.5."""
    network = Linear((1.0, 0.0, 0.0, 0.0, 0.0))
    image, guidance = torch.zeros(1, 3, *SIZE, dtype=torch.float64), torch.full((1,), -0.02, dtype=torch.float64)
    lenient, strict = (
        run(network, image, guidance, torch.tensor([[[5, 5, 1]]]), Refinement("features", threshold=t))
        for t in (0.49, 0.5)
    )
    assert lenient.evaluations == 1
    assert (foreground(lenient) < 0.5).all()
    assert strict.evaluations > 1
    assert (foreground(strict) > 0.5).all()


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_evaluations_are_limited(most):
    network, image, guidance, clicks = linear_episode([(3, 3, 1), (3, 4, 0)])  # they overlap: never right
    refined = run(network, image, guidance, clicks, Refinement("features", max_evaluations=most, min_change=0))
    assert refined.evaluations == most


def test_a_mask_that_stands_still_ends_it():
    """A lone pixel far below the threshold, in a mask that a bias hardly moves: the second evaluation is the last."""
    image, guidance = torch.full((1, 3, *SIZE), 6.0, dtype=torch.float64), torch.full((1,), -3.0, dtype=torch.float64)
    image[0, :, 5, 5] = 0
    network, clicks, how = (
        Linear((1.0, 0.0, 0.0, 0.0, 0.0)),
        torch.tensor([[[5, 5, 1]]]),
        Refinement("features", radius=0),
    )
    stopped, free = (
        run(network, image, guidance, clicks, dataclasses.replace(how, min_change=change)) for change in (0.01, 0)
    )
    assert stopped.evaluations == 2
    assert foreground(stopped)[0, 5, 5] < 0.49 < foreground(free)[0, 5, 5]


def masks(*columns):
    """Probabilities of views (n, 10, 100) whose first columns are foreground."""
    return torch.stack([(torch.arange(100) < n).double().expand(10, -1) for n in columns])


@pytest.mark.parametrize(
    ("seen", "arrived"),
    [
        (((50,), (50,)), True),
        (((98,), (100,)), False),
        (((0,), (0,)), False),  # nothing was found: go on
        (((0, 50), (0, 50)), True),  # a view without a mask does not count
        (((50, 50), (50, 90)), False),  # mean of 1 and 5/9
    ],
)
def test_a_mask_is_compared_with_the_one_before(seen, arrived):
    objective = _Objective(None, None, torch.tensor(True), Refinement("features"))
    wrong = torch.tensor([0.0, 0.9])
    assert [objective.arrived(masks(*columns), wrong) for columns in seen] == [False, arrived]


def test_padding_counts_nowhere():
    network = fewseg.create_model("PANet", encoder="tiny").network
    images = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    annotations = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    annotations[..., :16] = 1
    guidance = network.guide(network.encode_support(images[:, None]), annotations)
    click = torch.tensor([[[19, 10, 1]]])  # on the last row of an image of 20 rows
    how = Refinement("features", max_evaluations=1)
    found = refine(network, images, None, guidance, click, how, box=Box(0, 0, 20, 32))
    probs = found.logits.softmax(1)[0, 1]
    expected = (1 - probs[18:20, 9:12]).square().sum() / (6 + 1e-5)
    assert found.objective_before == pytest.approx(expected.item(), rel=1e-5)
    assert 0 < found.seconds_unrefined < 60


def test_a_mask_that_drifts_goes_on():
    objective = _Objective(None, None, torch.tensor(True), Refinement("features", min_change=0.05))
    found = [objective.arrived(masks(n), torch.tensor([0.0, 0.9])) for n in (80, 85, 90, 85, 86)]
    assert found == [False, False, False, False, True]


def test_it_acts_from_the_first_click_that_was_asked_for():
    network, image, guidance, _ = linear_episode([])
    guidance = guidance - 9
    how = Refinement("features", first_click=2)
    one = run(network, image, guidance, pad_clicks([[(3, 3, 1)]]), how)
    padded = run(network, image, guidance, torch.tensor([[[3, 3, 1], [0, 0, -1]]]), how)
    two = run(network, image, guidance, pad_clicks([[(3, 3, 1), (9, 9, 1)]]), how)
    assert (one.evaluations, padded.evaluations) == (1, 1)
    assert not one.state.any()
    assert two.evaluations > 1
    assert two.state.any()


def test_no_click_changes_nothing():
    network, image, guidance, clicks = linear_episode([])
    refined = run(network, image, guidance, clicks, Refinement("image"))
    assert (refined.evaluations, refined.objective_before, refined.objective_after) == (1, 0.0, 0.0)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_answer_that_is_no_number_is_never_taken(after, value):
    """From some evaluation on the network breaks down: the best answer so far stays."""
    network, image, guidance, clicks = linear_episode([(3, 3, 1), (3, 4, 0)])
    answers = []

    def breaking(*args):
        logits = Linear.segment(network, *args)
        answers.append(logits.detach())
        return logits if len(answers) <= after else logits * value

    network.segment = breaking
    refined = run(network, image, guidance, clicks, Refinement("features"))
    assert refined.evaluations == after + 1
    assert refined.objective_after <= refined.objective_before
    assert after == 0 or any(torch.equal(refined.logits, answer) for answer in answers[:after])


def test_a_state_that_is_no_number_is_dropped():
    network, image, guidance, clicks = linear_episode(CLICKS)
    state = torch.full((6,), torch.nan)
    fresh, dropped = (run(network, image, guidance, clicks, Refinement("features"), state=s) for s in (None, state))
    assert torch.equal(fresh.logits, dropped.logits)
    assert fresh.objective_before == dropped.objective_before


# ------------------------------------------------------------------------------------------- any network of the zoo

METHODS = [*fewseg.list_models(), "Toy"]


@functools.cache
def create(name):
    torch.manual_seed(0)
    return (Toy() if name == "Toy" else fewseg.create_model(name)).eval().network


WHERE = [(name, point) for name in METHODS for point in points_of(create(name))]


def episode(network, seed=0, height=24, width=32):
    """A noisy image, guidance from a half-annotated support, and clicks of both labels."""
    generator = torch.Generator().manual_seed(seed)
    side = (max(height, network.min_size), max(width, network.min_size))
    images = torch.randint(0, 256, (2, 1, 3, *side), dtype=torch.uint8, generator=generator)
    annotations = torch.randint(0, 2, (1, 1, *side), dtype=torch.uint8, generator=generator)
    guidance = network.guide(network.encode_support(images[:1]), annotations)
    rows = torch.stack([torch.randint(0, s, (4,), generator=generator) for s in side], 1)
    clicks = torch.cat([rows, torch.tensor([[1], [0], [1], [0]])], 1)[None].int()
    return images[1], guidance, clicks


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "point"), WHERE)
def test_the_objective_never_increases(name, point, seed):
    network, state = create(name), None
    with torch.inference_mode(seed == 1):  # as under Lightning
        image, guidance, clicks = episode(network, seed)
        for n in (1, 4):
            refined = run(network, image, guidance, clicks[:, :n], Refinement(point, max_evaluations=5), state=state)
            assert refined.objective_after <= refined.objective_before < torch.inf
            assert refined.logits.isfinite().all()
            assert 1 <= refined.evaluations <= 5
            state = refined.state


@pytest.mark.parametrize(("name", "point"), WHERE)
def test_without_a_change_the_answer_is_that_of_segment(name, point):
    network = create(name)
    image, guidance, clicks = episode(network)
    with torch.no_grad():
        plain = network.segment(network.encode_query(image), guidance, clicks if network.uses_clicks else None)
    refined = run(network, image, guidance, clicks, Refinement(point, max_evaluations=1))
    torch.testing.assert_close(refined.logits, plain)


@pytest.mark.parametrize("name", ["PANet", "Toy"])
def test_the_energy_falls_on_real_networks(name):
    network = create(name)
    image, guidance, clicks = episode(network)
    with torch.inference_mode():
        refined = run(network, image, guidance, clicks[:, :1], Refinement("features", weight=0, threshold=0.9999))
    assert refined.objective_after < 0.9 * refined.objective_before


@pytest.mark.parametrize("name", ["GuidedNet", "PANet"])
def test_inference_mode_changes_nothing(name):
    network = create(name)
    image, guidance, clicks = episode(network)
    how = Refinement("features")
    outside = refine(network, image, network.encode_query(image), guidance, clicks, how)
    with torch.inference_mode():
        inside_guidance = type(guidance)(*(t.clone() for t in guidance))
        inside = refine(network, image.clone(), network.encode_query(image), inside_guidance, clicks.clone(), how)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(inside.logits, outside.logits)
    assert torch.equal(inside.state, outside.state)
    assert not inside.logits.requires_grad
    assert not inside.logits.is_inference()


def test_parameters_stay_as_they_are():
    network = copy.deepcopy(create("GuidedNet"))
    frozen = next(network.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    image, guidance, clicks = episode(network)
    refined = run(network, image, guidance, clicks, Refinement("image"))
    assert refined.evaluations > 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad == (p is not frozen) for p in network.parameters())


def test_parameters_learn_again_after_an_error():
    network, image, guidance, clicks = linear_episode(CLICKS)
    with pytest.raises(FewsegError, match="state"):
        run(network, image, guidance, clicks, Refinement("features"), state=torch.zeros(5))
    assert all(p.requires_grad for p in network.parameters())


def test_a_silent_answer_stays():
    """Nobody said what to look for: all is background, a constant that nothing can change."""
    network = create("GuidedNet")
    image, _, clicks = episode(network)
    nothing = torch.full((1, 1, *image.shape[-2:]), 255, dtype=torch.uint8)
    guidance = network.guide(network.encode_support(image[:, None]), nothing)
    refined = run(network, image, guidance, clicks[:, :1], Refinement("features"))
    assert torch.equal(refined.logits, network.segment(network.encode_query(image), guidance))
    assert refined.objective_after == refined.objective_before


def test_cached_features_in_half_precision():
    """What is optimised is not rounded to them."""
    network = create("Toy")
    image, guidance, clicks = episode(network)
    cached, how = network.encoder(image).to(torch.float16), Refinement("features", weight=1e-6, threshold=0.9)
    rounded, whole = (refine(network, i, None, guidance, clicks[:, :1], how) for i in (cached, image))
    assert rounded.objective_before == pytest.approx(whole.objective_before, rel=1e-3)
    assert rounded.objective_after == pytest.approx(whole.objective_after, rel=1e-2)
    assert rounded.objective_after < 0.5 * rounded.objective_before
    scale, bias = rounded.state.float().view(2, 1, -1, 1, 1)
    expected = network.segment(Features((cached.maps[0] * (1 + scale) + bias,), cached.image_size), guidance)
    torch.testing.assert_close(rounded.logits, expected)


def test_features_scale_every_tap():
    first, second = noise(1), noise(2)[:, :2]
    network, _, guidance, clicks = linear_episode(CLICKS)
    network.segment = lambda features, *_: network.mixed(features.maps[0], features.maps[1], guidance)
    features = Features((first, second), SIZE)
    refined = refine(network, first, features, guidance, clicks, Refinement("features"))
    scales, biases = refined.state.view(2, 5, 1, 1)
    expected = network.mixed(first * (1 + scales[:3]) + biases[:3], second * (1 + scales[3:]) + biases[3:], guidance)
    assert refined.state.all()
    torch.testing.assert_close(refined.logits, expected)


def test_further_fields_of_a_tuple_ride_along():
    network, image, guidance, clicks = linear_episode(CLICKS)
    assert len(run(network, image, guidance, clicks, Refinement("pair")).state) == 2 * 3


# ------------------------------------------------------------------------------------------------------------ errors


def test_a_point_that_the_network_does_not_have():
    network = create("PANet")
    image, guidance, clicks = episode(network)
    for point in ("A", "maps"):
        with pytest.raises(FewsegError) as error:
            run(network, image, guidance, clicks, Refinement(point))
        said = str(error.value)
        assert "\n" not in said
        assert said.startswith(f"refine: got {point}, ")
        assert "image, features for PANetNetwork" in said


def test_inputs_that_it_cannot_take():
    network, image, guidance, clicks = linear_episode(CLICKS)
    with pytest.raises(FewsegError, match=r"clicks: got .*float32"):
        run(network, image, guidance, clicks.float(), Refinement("features"))
    with pytest.raises(FewsegError, match=r"clicks: .*\(3, 3, 3\)"):
        run(network, image, guidance, clicks.expand(3, -1, -1), Refinement("features"))
    with pytest.raises(FewsegError, match=r"refine: got image"):
        run(network, Features((image,), SIZE), guidance, clicks, Refinement("image"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("first_click", 0), ("weight", -1.0), ("max_evaluations", 0), ("radius", -1), ("threshold", 1.0)],
)
def test_numbers_out_of_range(name, value):
    with pytest.raises(FewsegError, match=f"^{name}: got {value}"):
        Refinement("features", **{name: value})


def test_positional_states():
    assert [Refinement(point).positional for point in ("image", "maps", "features", "B")] == [True, True, False, False]
