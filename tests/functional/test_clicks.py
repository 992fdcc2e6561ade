import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame
from fewseg.errors import FewsegError
from fewseg.functional.clicks import (
    append_error_clicks,
    click_maps,
    clicks_as_shot,
    dios_clicks,
    draw_clicks,
    error_click,
    fbrs_clicks,
    pad_clicks,
    sample_clicks,
    squared_distances,
    uniform_clicks,
)

torch.set_num_threads(1)

HOW = ("uniform", "dios", "fbrs")
SIZE = (7, 11)
MASKS = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 255])
)
CLICKS = st.lists(st.tuples(st.integers(0, SIZE[0] - 1), st.integers(0, SIZE[1] - 1), st.integers(0, 1)), max_size=12)


def square(size=(200, 250), rows=(60, 140), cols=(80, 160)):
    mask = np.zeros(size, np.uint8)
    mask[slice(*rows), slice(*cols)] = 1
    return mask


def many(draw, n=300):
    """What a sampler draws, many times over: positive and negative clicks of each draw."""
    for seed in range(n):
        clicks = draw(np.random.RandomState(seed))
        yield [c for c in clicks if c.label == 1], [c for c in clicks if c.label == 0]


def closest(clicks):
    points = np.array([c[:2] for c in clicks])
    gaps = np.hypot(*(points[:, None] - points).transpose(2, 0, 1))
    return gaps[~np.eye(len(points), dtype=bool)].min(initial=np.inf)


# ------------------------------------------------------------------------------------------- drawing


@settings(max_examples=50, deadline=None)
@given(CLICKS)
def test_drawn_clicks_are_those_of_a_loop_in_order(clicks):
    expected = np.full(SIZE, 255)
    for row, col, label in clicks:
        expected[row, col] = label
    assert (draw_clicks(pad_clicks([clicks]), SIZE)[0].numpy() == expected).all()


def test_the_last_of_two_clicks_on_a_pixel_counts():
    first, second = (2, 3, 1), (2, 3, 0)
    drawn = draw_clicks(pad_clicks([[first, second], [second, first]]), SIZE)
    assert drawn[:, 2, 3].tolist() == [0, 1]
    assert drawn.dtype == torch.uint8


def test_drawn_padding_between_clicks_is_ignored():
    drawn = draw_clicks(torch.tensor([[[0, 0, -1], [1, 1, 1], [0, 0, -1], [1, 1, -1]]]), (2, 2))
    assert drawn.tolist() == [[[255, 255], [255, 1]]]


def test_a_click_outside_the_image_annotates_no_pixel_of_it():
    clicks = torch.tensor([[[0, 3, 1], [-1, 0, 1], [2, 0, 1], [0, -1, 1], [1, 2, 0]]])
    assert draw_clicks(clicks, (2, 3)).tolist() == [[[255, 255, 255], [255, 255, 0]]]


# ---------------------------------------------------------------------------------------------- maps


def test_tanh_vectors():
    maps = click_maps(torch.tensor([[[0, 0, 1]]]), (1, 5), "tanh", torch.float64)[0, :, 0]
    assert maps[1, [0, 1, 2, 4]].tolist() == pytest.approx([0, 0.0076922, 0.0153834, 0.0307595], abs=5e-8)
    assert maps[0].tolist() == [1] * 5, "no click of the label"


def test_euclidean_is_cut_at_255():
    maps = click_maps(torch.tensor([[[0, 0, 0]]]), (1, 400), "euclidean")[0, :, 0]
    assert maps[0, [0, 254, 255, 256, 399]].tolist() == [0, 254, 255, 255, 255]
    assert maps[1].unique().tolist() == [255]


def test_disks_have_radius_five():
    maps = click_maps(torch.tensor([[[6, 6, 1], [0, 0, -1]]]), (13, 13), "disk")[0]
    rows, cols = np.ogrid[-6:7, -6:7]
    assert (maps[1].numpy() == (rows**2 + cols**2 <= 25)).all()
    assert not maps[0].any()


def test_float_maps_pass_through():
    maps = torch.rand(2, 2, *SIZE, requires_grad=True)
    assert click_maps(maps, SIZE, "tanh") is maps
    with pytest.raises(FewsegError, match=r"clicks: got \(2, 2, 7, 11\), expected maps \(B, 2, 3, 3\)"):
        click_maps(maps, (3, 3), "tanh")


def test_an_unknown_kind_of_map():
    with pytest.raises(FewsegError, match="maps: got gaussian, expected tanh, euclidean or disk"):
        click_maps(pad_clicks([[(0, 0, 1)]]), SIZE, "gaussian")


@pytest.mark.parametrize("kind", ["tanh", "euclidean", "disk"])
@settings(max_examples=25, deadline=None)
@given(st.lists(CLICKS, min_size=1, max_size=4))
def test_a_batch_is_its_episodes_one_by_one(kind, episodes):
    batch = click_maps(pad_clicks(episodes), SIZE, kind)
    for clicks, maps in zip(episodes, batch, strict=True):
        assert torch.equal(click_maps(pad_clicks([clicks]), SIZE, kind)[0], maps)
    drawn = draw_clicks(pad_clicks(episodes), SIZE)
    for clicks, annotation in zip(episodes, drawn, strict=True):
        assert torch.equal(draw_clicks(pad_clicks([clicks]), SIZE)[0], annotation)


@settings(max_examples=25, deadline=None)
@given(CLICKS, st.randoms(use_true_random=False))
def test_maps_do_not_depend_on_the_order_of_clicks(clicks, random):
    shuffled = random.sample(clicks, len(clicks))
    assert torch.equal(squared_distances(pad_clicks([clicks]), SIZE), squared_distances(pad_clicks([shuffled]), SIZE))


@pytest.mark.parametrize("n", [20, 65, 400])
def test_few_and_many_clicks_have_the_distances_of_the_nearest(n):
    """Up to 64 clicks are measured one by one, more by distance transforms; both are exact."""
    rng = np.random.RandomState(n)
    size = (60, 90)
    clicks = torch.from_numpy(np.stack([rng.randint(60, size=(2, n)), rng.randint(90, size=(2, n))], 2))
    clicks = torch.cat([clicks, torch.from_numpy(rng.randint(-1, 2, (2, n, 1)))], 2).int()
    clicks[1, :, 2] = clicks[1, :, 2].clamp(max=0)  # an episode without positive clicks
    found = squared_distances(clicks, size)
    rows, cols = np.mgrid[:60, :90]
    for b in range(2):
        for label in (0, 1):
            own = clicks[b][clicks[b, :, 2] == label].numpy()
            gaps = [(rows - r) ** 2 + (cols - c) ** 2 for r, c, _ in own]
            expected = np.min(gaps, 0) if gaps else np.full(size, np.inf)
            assert (found[b, label].numpy() == expected).all()


@pytest.mark.parametrize("kind", ["tanh", "euclidean", "disk"])
def test_repeated_clicks_change_no_map(kind):
    """A few clicks, and the same many times over: the two ways to measure, held against each other."""
    clicks = pad_clicks([[(5, 7, 1), (50, 80, 1), (20, 30, 0)], [(0, 0, 1)]])
    few, many_ = (click_maps(c, (60, 90), kind) for c in (clicks, clicks.repeat(1, 40, 1)))
    torch.testing.assert_close(few, many_, rtol=3e-7, atol=0)


def test_maps_are_the_same_in_every_precision():
    clicks = pad_clicks([[(400, 700, 1)]])
    single = click_maps(clicks, (480, 854), "tanh")
    assert torch.equal(click_maps(clicks, (480, 854), "tanh", torch.float64), single.double())
    assert torch.equal(click_maps(clicks, (480, 854), "tanh", torch.float16), single.half())


def test_many_clicks_beyond_the_border_still_count():
    clicks = torch.tensor([[[0, -2, 1]] * 70])
    assert squared_distances(clicks, (1, 3))[0, 1].tolist() == [[4, 9, 16]]


def test_every_pixel_clicked():
    mask = square((40, 50), (10, 20), (15, 30))
    rows, cols = np.indices(mask.shape)
    clicks = torch.from_numpy(np.stack([rows.ravel(), cols.ravel(), mask.ravel()], 1).astype(np.int32))[None]
    maps = click_maps(clicks, (40, 50), "euclidean")[0].numpy()
    assert maps[0] == pytest.approx(ndimage.distance_transform_edt(mask == 1))
    assert maps[1] == pytest.approx(ndimage.distance_transform_edt(mask == 0))
    assert (draw_clicks(clicks, (40, 50))[0].numpy() == mask).all()


# ------------------------------------------------------------------------------------ clicks as a shot


def batch_of(supports, annotations, queries, clicks, size):
    n = len(clicks)
    return EpisodeBatch(
        support_images=supports,
        support_annotations=annotations,
        query_images=queries,
        query_clicks=pad_clicks(clicks),
        query_masks=torch.zeros(n, *size, dtype=torch.uint8),
        targets=(None,) * n,
        frames=(Frame(size, size, Box(0, 0, *size)),) * n,
        specs=(EpisodeSpec("q", (), 1),) * n,
    )


TWO = [[(1, 2, 1), (0, 0, 0)], [(3, 3, 1)]]


@pytest.mark.parametrize("n_shot", [0, 2])
def test_clicks_become_one_more_shot_of_images(n_shot):
    supports = torch.randint(0, 256, (2, n_shot, 3, 4, 5), dtype=torch.uint8)
    annotations = torch.randint(0, 2, (2, n_shot, 4, 5), dtype=torch.uint8)
    queries = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    batch = clicks_as_shot(batch_of(supports, annotations, queries, TWO, (4, 5)))
    assert batch.n_shot == n_shot + 1
    assert torch.equal(batch.support_images[:, :n_shot], supports)
    assert torch.equal(batch.support_annotations[:, :n_shot], annotations)
    assert torch.equal(batch.support_images[:, -1], queries)
    assert batch.support_annotations.dtype == torch.uint8
    last = batch.support_annotations[:, -1]
    assert [(last != 255).sum().item(), last[0, 1, 2].item(), last[0, 0, 0].item()] == [3, 1, 0]
    assert last[1, 3, 3] == 1
    assert torch.equal(batch.query_clicks, pad_clicks(TWO))


@pytest.mark.parametrize("n_shot", [0, 2])
def test_clicks_become_one_more_shot_of_features(n_shot):
    supports = Features((torch.rand(2, n_shot, 6, 2, 3), torch.rand(2, n_shot, 8, 1, 1)), (4, 5))
    queries = Features((torch.rand(2, 6, 2, 3), torch.rand(2, 8, 1, 1)), (4, 5))
    annotations = torch.zeros(2, n_shot, 4, 5, dtype=torch.uint8)
    batch = clicks_as_shot(batch_of(supports, annotations, queries, TWO, (4, 5)))
    assert batch.support_images.image_size == (4, 5)
    for before, query, after in zip(supports.maps, queries.maps, batch.support_images.maps, strict=True):
        assert torch.equal(after, torch.cat([before, query[:, None]], 1))
    assert batch.support_annotations.shape == (2, n_shot + 1, 4, 5)


def test_no_click_is_a_shot_that_says_nothing():
    images = torch.zeros(1, 0, 3, 4, 5, dtype=torch.uint8)
    batch = batch_of(images, torch.zeros(1, 0, 4, 5, dtype=torch.uint8), images.new_zeros(1, 3, 4, 5), [[]], (4, 5))
    assert clicks_as_shot(batch).support_annotations.unique().tolist() == [255]


def test_supports_of_another_size_are_refused():
    images = torch.zeros(2, 1, 3, 8, 8, dtype=torch.uint8)
    batch = batch_of(images, images[:, :, 0], images.new_zeros(2, 3, 4, 5), TWO, (4, 5))
    with pytest.raises(FewsegError, match=r"support_annotations: got \(8, 8\) beside queries of \(4, 5\)"):
        clicks_as_shot(batch)


# ------------------------------------------------------------------------------------ training clicks


@pytest.mark.parametrize("how", HOW)
@settings(max_examples=60, deadline=None)
@given(MASKS, st.integers(0, 2**32 - 1), st.booleans())
def test_training_clicks_lie_on_their_label_once_and_are_reproducible(how, mask, seed, known):
    others = np.random.RandomState(seed).rand(*mask.shape) < 0.3 if known else None
    before = mask.copy(), None if others is None else others.copy()
    clicks = sample_clicks(mask, how, np.random.RandomState(seed), others)
    assert all(0 <= c.row < mask.shape[0] and 0 <= c.col < mask.shape[1] for c in clicks)
    assert all(mask[c.row, c.col] == c.label for c in clicks)
    assert len({c[:2] for c in clicks}) == len(clicks)
    assert clicks == sample_clicks(mask, how, np.random.RandomState(seed), others)
    if how != "uniform" and (mask == 1).any():
        assert any(c.label == 1 for c in clicks)
    assert (mask == before[0]).all()
    assert others is None or (others == before[1]).all()
    assert all(type(v) is int for c in clicks for v in c)


@pytest.mark.parametrize("how", HOW)
def test_an_object_of_one_pixel(how):
    mask = square((30, 40), (5, 6), (7, 8))
    for positive, _ in many(lambda rng: sample_clicks(mask, how, rng), 20):
        assert positive == [(5, 7, 1)] or (how == "uniform" and not positive)


@pytest.mark.parametrize("how", HOW)
def test_without_an_object_all_clicks_are_negative(how):
    draws = list(many(lambda rng: sample_clicks(np.zeros((30, 40), np.uint8), how, rng), 20))
    assert not any(positive for positive, _ in draws)
    assert any(negative for _, negative in draws)


@pytest.mark.parametrize("how", HOW)
def test_labels_come_in_a_random_order(how):
    first = [c[0].label for seed in range(60) if (c := sample_clicks(square(), how, np.random.RandomState(seed)))]
    assert 0 < sum(first) < len(first)


def test_bad_sampling():
    with pytest.raises(FewsegError, match="how: got random, expected uniform, dios, fbrs"):
        sample_clicks(square(), "random", np.random.RandomState(0))
    for sampler in (dios_clicks, fbrs_clicks):
        with pytest.raises(FewsegError, match=r"others: got shape \(3, 3\), expected \(200, 250\)"):
            sampler(square(), np.random.RandomState(0), np.ones((3, 3), bool))


def test_uniform_counts():
    counts = [(len(p), len(n)) for p, n in many(lambda rng: uniform_clicks(square(), rng), 1000)]
    assert all(p == n for p, n in counts), "one count for both labels"
    drawn = np.array(counts)[:, 0]
    assert set(drawn) == set(range(100))
    assert drawn.mean() == pytest.approx(49.5, abs=3)
    bounded = {len(p) for p, _ in many(lambda rng: uniform_clicks(square(), rng, fewest=1, most=3), 60)}
    assert bounded == {1, 2, 3}


def test_uniform_pixels():
    mask = np.uint8([[1, 1, 1, 1, 0, 0, 255]])
    hits = np.zeros(7)
    for seed in range(2000):
        for _, col, _ in uniform_clicks(mask, np.random.RandomState(seed), fewest=1, most=1):
            hits[col] += 1
    assert hits[:4] / 2000 == pytest.approx([0.25] * 4, abs=0.04)
    assert hits[4:] / 2000 == pytest.approx([0.5, 0.5, 0], abs=0.04)
    everything = uniform_clicks(mask, np.random.RandomState(0), fewest=50, most=50)
    assert sorted(c.col for c in everything) == list(range(6)), "a short label gives all it has"


def test_dios_positive_clicks_are_spaced_and_inside():
    """The longer side is 250 pixels: step 10 becomes 5, margin 5 becomes 2.5, the band of 40 becomes 20."""
    mask = square()
    inside = ndimage.distance_transform_edt(mask)
    counts = set()
    for positive, _ in many(lambda rng: dios_clicks(mask, rng)):
        counts.add(len(positive))
        assert closest(positive) >= 5
        assert min(inside[c[:2]] for c in positive) >= 2.5
    assert counts == {1, 2, 3, 4, 5}


def test_dios_negative_strategies():
    mask = square()
    others = square(rows=(10, 40), cols=(200, 240)).astype(bool)
    away = ndimage.distance_transform_edt(mask == 0)
    within = ndimage.distance_transform_edt(others)
    seen = {"near": 0, "other": 0, "around": 0, "none": 0}
    for _, negative in many(lambda rng: dios_clicks(mask, rng, others)):
        if not negative:
            seen["none"] += 1
        elif all(others[c[:2]] for c in negative):
            assert len(negative) <= 5
            assert closest(negative) >= 5
            assert min(within[c[:2]] for c in negative) >= 2.5
            seen["other"] += 1
        else:
            gaps = np.array([away[c[:2]] for c in negative])
            assert gaps.max() < 20
            spread = np.ptp([c.row for c in negative]) >= 80 and np.ptp([c.col for c in negative]) >= 80
            seen["around" if len(negative) == 10 and spread else "near"] += 1
            if len(negative) != 10:  # strategy 3 always has ten, the first of which may touch the object
                assert closest(negative) >= 5
                assert gaps.min() >= 2.5
    # a third each, of which 1 in 11 (near) and 1 in 6 (others) have no click
    assert seen["around"] == pytest.approx(100, abs=30)
    assert seen["other"] == pytest.approx(83, abs=30)
    assert seen["near"] == pytest.approx(91, abs=30)
    assert seen["none"] == pytest.approx(26, abs=20)


def test_dios_third_strategy_takes_the_farthest_pixel_of_the_band():
    """A strip: the object in columns 0 to 9, the band in 10 to 48; after a random click the second is determined."""
    mask = square((1, 500), (0, 1), (0, 10))
    columns = np.arange(500)
    to_border = np.minimum(columns - 9, 49 - columns)
    strips = 0
    for _, negative in many(lambda rng: dios_clicks(mask, rng, most_negative=(0, 0, 2))):
        if negative:
            strips += 1
            one, two = (c.col for c in negative)
            reach = [(np.minimum(to_border, abs(columns - a)), b) for a, b in ((one, two), (two, one))]
            assert any(distance[second] == distance.max() for distance, second in reach)
    assert strips == pytest.approx(100, abs=30)


def test_dios_third_strategy_goes_around_the_object():
    mask = square()
    for _, negative in many(lambda rng: dios_clicks(mask, rng, most_negative=(0, 0, 10)), 30):
        if negative:
            assert len(negative) == 10
            rows, cols = (np.array([c[i] for c in negative]) for i in (0, 1))
            sides = [(rows < 60).any(), (rows >= 140).any(), (cols < 80).any(), (cols >= 160).any()]
            assert all(sides)


def test_dios_without_others_samples_near_the_object():
    mask = square()
    away = ndimage.distance_transform_edt(mask == 0)
    draws = [n for _, n in many(lambda rng: dios_clicks(mask, rng, most_negative=(10, 5, 1)), 100)]
    assert all(away[c[:2]] < 20 for n in draws for c in n)
    assert max(map(len, draws)) == 10
    assert sum(map(bool, draws)) == pytest.approx(100 * (2 / 3 * 10 / 11 + 1 / 3), abs=8)


def test_dios_on_an_object_thinner_than_the_margin():
    mask = square((500, 500), (100, 103), (50, 450))
    for positive, _ in many(lambda rng: dios_clicks(mask, rng), 20):
        assert positive
        assert all(c.row == 101 for c in positive), "its middle line"


def test_fbrs_counts_are_geometric():
    mask = square((40, 40), (10, 20), (10, 20))
    draws = list(many(lambda rng: fbrs_clicks(mask, rng), 2000))
    n_positive = np.bincount([len(p) for p, _ in draws])
    n_negative = np.bincount([len(n) for _, n in draws])
    assert n_positive[0] == 0
    assert len(n_positive) == len(n_negative) == 11
    expected = 0.7 ** np.arange(10) / (0.7 ** np.arange(10)).sum()
    assert n_positive[1:] / 2000 == pytest.approx(expected, abs=0.04)
    expected = 0.7 ** np.arange(11) / (0.7 ** np.arange(11)).sum()
    assert n_negative / 2000 == pytest.approx(expected, abs=0.04)


def test_fbrs_positive_clicks_come_from_the_eroded_mask():
    mask = square((40, 40), (10, 20), (10, 20))  # 100 pixels, 16 after three erosions by a cross
    core = ndimage.binary_erosion(mask, iterations=3)
    assert core.sum() == 16
    outside = np.mean(
        [any(not core[c[:2]] for c in p) for p, _ in many(lambda rng: fbrs_clicks(mask, rng, most=1), 1000)]
    )
    assert outside == pytest.approx(0.1 * 84 / 100, abs=0.03)


def test_fbrs_negative_regions():
    mask = square()  # 6400 pixels: the border is 8 wide
    others = square(rows=(10, 40), cols=(200, 240)).astype(bool)
    border = ndimage.binary_dilation(mask, np.ones((17, 17))) & (mask == 0)
    drawn = [c for _, negative in many(lambda rng: fbrs_clicks(mask, rng, others), 500) for c in negative]
    shares = [np.mean([region[c[:2]] for c in drawn]) for region in (others, border)]
    background = (mask == 0).sum()
    assert shares[0] == pytest.approx(0.4 + 0.1 * others.sum() / background, abs=0.04)
    assert shares[1] == pytest.approx(0.5 + 0.1 * border.sum() / background, abs=0.04)


def test_fbrs_without_others_takes_the_background():
    mask = square()
    border = ndimage.binary_dilation(mask, np.ones((17, 17))) & (mask == 0)
    drawn = [c for _, negative in many(lambda rng: fbrs_clicks(mask, rng), 400) for c in negative]
    expected = 0.5 + 0.5 * border.sum() / (mask == 0).sum()
    assert np.mean([border[c[:2]] for c in drawn]) == pytest.approx(expected, abs=0.05)


# ---------------------------------------------------------------------------------------- error clicks


def test_error_clicks_lie_deep_in_the_deeper_error():
    truth = square((60, 60), (10, 31), (10, 31))  # missed: 21 x 21, depth 11
    pred = square((60, 60), (40, 49), (40, 49))  # invented: 9 x 9, depth 5
    depth = ndimage.distance_transform_edt(truth)
    clicks = {error_click(truth, pred, np.random.RandomState(seed)) for seed in range(400)}
    assert all(c.label == 1 and depth[c[:2]] > 5.5 for c in clicks)
    assert len(clicks) > 80, "of 121 pixels"
    assert all(error_click(pred, truth, np.random.RandomState(s)).label == 0 for s in range(5))


def test_error_click_ties_are_negative_and_void_is_no_error():
    assert error_click(np.uint8([[1, 0]]), np.uint8([[0, 1]]), np.random.RandomState(0)) == (0, 1, 0)
    truth = np.uint8([[255, 255, 255, 0, 1]])
    assert error_click(truth, np.ones_like(truth), np.random.RandomState(0)) == (0, 3, 0)
    assert error_click(truth, truth == 1, np.random.RandomState(0)) is None


def test_error_clicks_of_a_batch():
    truth = torch.from_numpy(np.stack([square((20, 20), (3, 9), (3, 9))] * 3))
    preds = truth.clone()
    preds[0], preds[2] = 0, 1
    clicks = pad_clicks([[(5, 5, 1)], [], [(0, 0, 0), (1, 1, 0)]])
    more = append_error_clicks(truth, preds, clicks, np.random.RandomState(0))
    assert more.shape == (3, 3, 3)
    assert more.dtype == torch.int32
    assert torch.equal(more[:, :2], clicks)
    assert more[1, 2].tolist() == [0, 0, -1], "nothing to correct"
    assert [more[b, 2, 2].item() for b in (0, 2)] == [1, 0]
    for b in (0, 2):
        row, col, label = more[b, 2].tolist()
        assert truth[b, row, col] == label != preds[b, row, col]
    none = append_error_clicks(truth, preds, torch.zeros(3, 0, 3, dtype=torch.int32), np.random.RandomState(0))
    assert torch.equal(none[:, 0], more[:, 2])
