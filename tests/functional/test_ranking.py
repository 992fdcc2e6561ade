"""Variance of seeds against episodes, and ranks with ties: by hand, by properties and on simulated benchmarks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewseg.errors import FewsegError
from fewseg.functional.ranking import LEAST_CLUSTERS, Rank, rank, variance_split


def weights(random, replicates, n):
    """How often each image is drawn, as shares."""
    return random.multinomial(n, np.full(n, 1 / n), size=replicates) / n


MANY = 10**9  # so many images that nothing is widened


# ---- variance


def test_a_split_by_hand():
    # by seed: means 0.4, 0.6; by replicate: 0.6, 0.4; what rests: 0.1, -0.1, -0.1, 0.1, whose mean square over
    # (2 - 1)(2 - 1) is 0.04; episodes 0.02 - 0.04 / 2 = 0; seeds 0.02 - 0.04 * 1.5 < 0
    split = variance_split([[0.6, 0.6], [0.2, 0.6]])
    assert split == pytest.approx((0.0, 0.0, 0.2))
    # three replicates: seeds' means 0, 10; replicates' means 4, 5, 6; rest -1, 2, -1 and its opposite: 12 / 2 = 6
    split = variance_split([[-2, 10], [2, 8], [0, 12]])
    assert split == pytest.approx(((50 - 6 * 4 / 3) ** 0.5, 0.0, 6**0.5))  # episodes: 1 - 6 / 2 < 0
    split = variance_split([[-12, 0], [2, 8], [10, 22]])
    # seeds' means 0, 10; replicates' means -6, 5, 16: variance 121; rest as before
    assert split == pytest.approx(((50 - 8) ** 0.5, (121 - 3) ** 0.5, 6**0.5))


def test_parts_alone():
    seeds, episodes = np.array([0.1, 0.4, 0.4]), np.array([0.2, 0.3, 0.1, 0.6])
    assert variance_split(np.tile(seeds, (5, 1))) == pytest.approx((seeds.std(ddof=1), 0, 0))
    assert variance_split(np.tile(episodes[:, None], (1, 3))) == pytest.approx((0, episodes.std(ddof=1), 0))
    both = variance_split(seeds + episodes[:, None])
    assert both == pytest.approx((seeds.std(ddof=1), episodes.std(ddof=1), 0))
    assert variance_split(np.full((4, 3), 0.1)) == (0, 0, 0)  # exactly: rounding is no variance


def test_one_seed_cannot_be_split():
    assert variance_split([[0.1], [0.2]]) is None
    assert variance_split(np.zeros((5, 0))) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 20), st.floats(0.1, 10), st.floats(-3, 3))
def test_a_split_scales_and_knows_no_order(seed, n_seeds, n_replicates, factor, shift):
    random = np.random.RandomState(seed)
    table = random.normal(size=(n_replicates, n_seeds)) + 2 * random.normal(size=n_seeds)
    split = np.array(variance_split(table))
    moved = table[random.permutation(n_replicates)][:, random.permutation(n_seeds)]
    assert np.square(variance_split(factor * moved + shift)) == pytest.approx(np.square(factor * split), abs=1e-9)
    spread = np.cov(table.T)  # b is the covariance of seeds, c the rest of their variance
    b = spread[~np.eye(n_seeds, dtype=bool)].mean()
    assert split[1] ** 2 == pytest.approx(max(b, 0), abs=1e-9)
    assert split[2] ** 2 == pytest.approx(np.diag(spread).mean() - b)


def simulated_splits(a, b, c, benchmarks=250, n_seeds=6, n_images=80, replicates=120):
    """Estimated variances of benchmarks whose images score mean + seed + image + both, one figure their mean."""
    random = np.random.RandomState(7)
    found = []
    for _ in range(benchmarks):
        image, both = random.normal(size=(n_images, 1)), random.normal(size=(n_images, n_seeds))
        scores = 0.5 + a * random.normal(size=n_seeds) + n_images**0.5 * (b * image + c * both)
        found.append(np.square(variance_split(weights(random, replicates, n_images) @ scores)))
    return np.array(found)


def test_the_split_finds_what_a_simulation_put_in():
    a, b, c = 0.03, 0.02, 0.015
    found = simulated_splits(a, b, c).mean(0)
    assert found == pytest.approx([a**2, b**2, c**2], rel=0.12)


def test_what_differs_on_one_list_only_is_no_difference_of_seeds():
    found = simulated_splits(0.0, 0.01, 0.03)
    assert np.median(found[:, 0]) < 0.1 * 0.03**2  # a table of independent lists would say 0.03 ** 2
    assert found[:, 2].mean() == pytest.approx(0.03**2, rel=0.1)


@pytest.mark.parametrize(
    ("replicates", "message"),
    [
        ([0.1, 0.2], r"replicates: got shape \(2,\)"),
        ([[0.1, 0.2]], r"replicates: got shape \(1, 2\), expected two or more rows"),
        ([[0.1, np.nan], [0.2, 0.3]], "replicates: got a figure that is no number"),
        ([[0.1, np.inf], [0.2, 0.3]], "replicates: got a figure that is no number"),
    ],
)
def test_tables_that_cannot_be_split_or_ranked(replicates, message):
    with pytest.raises(FewsegError, match=message):
        variance_split(replicates)
    with pytest.raises(FewsegError, match=message):
        rank([0.1, 0.2], replicates, MANY)


# ---- ranks


def spread(n, *columns):
    """(n, M) replicates: each column is a figure, give or take its deviation, in opposite turns or its own pattern."""
    turns = np.resize([1.0, -1.0], n)
    return np.stack([figure + deviation * turns for figure, deviation in columns], 1)


def test_ranks_by_hand():
    # the first two move in opposite turns by 0.02: their difference by 0.04, about 0.01; the third does not move
    table = spread(100, (0.60, 0.02), (0.59, -0.02), (0.40, 0.0))
    assert rank([0.60, 0.59, 0.40], table, MANY) == [Rank(1, 2, 1), Rank(1, 2, 1), Rank(3, 3, 2)]
    assert rank([0.40, 0.60, 0.59], table[:, [2, 0, 1]], MANY) == [Rank(3, 3, 2), Rank(1, 2, 1), Rank(1, 2, 1)]
    # moving together, their difference varies by 0.004 only: about 2.5 deviations
    table = spread(100, (0.60, 0.02), (0.59, 0.016), (0.40, 0.0))
    assert rank([0.60, 0.59, 0.40], table, MANY) == [Rank(1, 1, 1), Rank(2, 2, 2), Rank(3, 3, 3)]


def test_the_quantile_is_the_next_replicate_and_not_the_one_before():
    # one of 20 replicates is 4 off: 0.95 of them lie below, so nothing that differs by less than 4 is certain
    off = np.array([1.0] * 10 + [-1.0] * 9 + [4.0])
    table = np.stack([off, np.zeros(20)], 1)
    assert rank([2, 0], table + [2, 0], MANY) == [Rank(1, 2, 1)] * 2
    assert rank([2, 0], table + [2, 0], MANY, 0.9) == [Rank(1, 1, 1), Rank(2, 2, 2)]
    assert rank([4.1, 0], table + [4.1, 0], MANY) == [Rank(1, 1, 1), Rank(2, 2, 2)]


def test_a_chain_of_ties_is_not_one_tie():
    # neighbours overlap, the ends do not: every deviation is one, so a difference counts above about 1.4
    random = np.random.RandomState(0)
    figures = np.array([3.0, 2.0, 1.0, 0.0])
    table = figures + 0.5 * random.normal(size=(2000, 4))
    ranks = rank(figures, table, MANY)
    assert [one.group for one in ranks] == [1, 1, 2, 2]
    assert [(one.low, one.high) for one in ranks] == [(1, 2), (1, 3), (2, 4), (3, 4)]


def test_an_uncertain_method_ties_with_the_best_while_a_better_one_does_not():
    random = np.random.RandomState(0)
    figures, deviations = np.array([0.6, 0.5, 0.4]), np.array([0.001, 0.001, 0.3])
    ranks = rank(figures, figures + deviations * random.normal(size=(1000, 3)), MANY)
    assert ranks == [Rank(1, 2, 1), Rank(2, 3, 2), Rank(1, 3, 1)]


def test_equal_columns_tie_and_so_does_what_never_varies():
    table = np.random.RandomState(0).normal(scale=0.01, size=(500, 3)) + 0.5
    points = table.mean(0)
    points[1] = points[0]
    table[:, 1] = table[:, 0]
    points[2], table[:, 2] = points[2] - 0.4, table[:, 2] - 0.4
    assert rank(points, table, MANY) == [Rank(1, 2, 1), Rank(1, 2, 1), Rank(3, 3, 2)]
    still = np.tile([0.1, 0.5, 0.9], (100, 1)) + 1e-15 * np.random.RandomState(0).normal(size=(100, 3))
    assert rank([0.1, 0.5, 0.9], still, MANY) == [Rank(1, 3, 1)] * 3  # one image resampled tells nothing
    assert rank([0.5], [[0.4], [0.6]], MANY) == [Rank(1, 1, 1)]
    assert rank([], np.zeros((5, 0)), MANY) == []


@pytest.mark.parametrize(
    ("points", "replicates", "level", "message"),
    [
        ([0.1, np.nan], np.zeros((3, 2)), 0.95, "points: got a figure that is no number"),
        ([[0.1, 0.2]], np.zeros((3, 2)), 0.95, r"points: got shape \(1, 2\), expected one number for each method"),
        ([0.1, 0.2], np.zeros((3, 3)), 0.95, "replicates: got 3 columns, expected 2 columns"),
        ([0.1, 0.2], np.zeros((3, 2)), 1.0, "level: got 1.0"),
        ([0.1, 0.2], np.zeros((3, 2)), 95, "level: got 95"),
    ],
)
def test_what_cannot_be_ranked(points, replicates, level, message):
    with pytest.raises(FewsegError, match=message):
        rank(points, replicates, MANY, level)


def results(random, n_methods, replicates=200, n_images=40, gap=0.3):
    """Figures of methods with equal or different means on common images, and their replicates."""
    means = gap * random.randint(4, size=n_methods)
    scores = (
        means
        + random.normal(size=(n_images, 1))
        + random.uniform(0.1, 1, n_methods) * random.normal(size=(n_images, n_methods))
    )
    return scores.mean(0), weights(random, replicates, n_images) @ scores


def rule(points, table, n_images, level):
    """The definition, pair by pair."""
    pairs = list(itertools.combinations(range(len(points)), 2))
    deviations = {(i, j): np.std(table[:, i] - table[:, j], ddof=1) for i, j in pairs}
    off = [
        max(abs(row[i] - row[j] - points[i] + points[j]) / deviations[i, j] for i, j in pairs) for row in table.tolist()
    ]
    factor = sorted(off)[int(np.ceil(level * (len(off) - 1)))]
    side = (1 - level) / 2 / len(pairs)
    factor *= stats.t.isf(side, n_images - 1) / stats.norm.isf(side) * np.sqrt(n_images / (n_images - 1))
    sure = {}
    for i, j in pairs:
        difference, margin = points[i] - points[j], factor * deviations[i, j]
        sure[i, j], sure[j, i] = difference > margin, -difference > margin
    n = range(len(points))
    low = [1 + sum(sure[i, j] for i in n if i != j) for j in n]
    high = [len(points) - sum(sure[j, i] for i in n if i != j) for j in n]
    group, number, rest = {}, 0, sorted(n, key=lambda i: -points[i])
    while rest:
        number, best = number + 1, rest[0]
        tied = [i for i in rest if i == best or not sure[best, i]]
        group |= dict.fromkeys(tied, number)
        rest = [i for i in rest if i not in tied]
    return [Rank(low[i], high[i], group[i]) for i in n]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.sampled_from([0.5, 0.9, 0.95]), st.sampled_from([20, 40, MANY]))
def test_ranks_are_what_the_definition_says_in_any_order(seed, n_methods, level, n_images):
    random = np.random.RandomState(seed)
    points, table = results(random, n_methods)
    ranks = rank(points, table, n_images, level)
    assert ranks == rule(points, table, n_images, level)
    order = random.permutation(n_methods)
    assert rank(points[order], table[:, order], n_images, level) == [ranks[i] for i in order]
    assert rank(2 * points + 1, 2 * table + 1, n_images, level) == ranks
    for one, point in zip(ranks, points, strict=True):
        assert one.low <= 1 + (points > point).sum() <= n_methods - (points < point).sum() <= one.high
    assert sorted({one.group for one in ranks}) == list(range(1, 1 + max(one.group for one in ranks)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.floats(0, 3))
def test_more_certainty_widens_ranks_and_a_better_figure_never_lowers_them(seed, n_methods, gain):
    points, table = results(np.random.RandomState(seed), n_methods)
    loose, strict = rank(points, table, 40, 0.6), rank(points, table, 40, 0.99)
    assert all(b.low <= a.low and a.high <= b.high for a, b in zip(loose, strict, strict=True))
    lift = gain * (np.arange(n_methods) == 0)
    lifted = rank(points + lift, table + lift, 40, 0.6)
    assert lifted[0].low <= loose[0].low
    assert lifted[0].high <= loose[0].high
    assert lifted[0].group <= loose[0].group


def test_equal_figures_of_different_certainty_lead_together_in_any_order():
    turns = np.resize([1.0, -1.0], 400)
    table = np.stack([0.6 + 0.2 * turns, 0.6 + 0.001 * turns, 0.5 + 0.001 * np.roll(turns, 1)], 1)
    points = np.array([0.6, 0.6, 0.5])
    ranks = rank(points, table, MANY)
    assert [one.group for one in ranks] == [1, 1, 1]  # the first does not exclude the third
    assert rank(points[::-1], table[:, ::-1], MANY) == ranks[::-1]


def share_told_apart(n_images, n_methods, benchmarks, *taken_for):
    """In how many benchmarks of equal methods any two are told apart, with so many images as they are taken for."""
    random, wrong = np.random.RandomState(3), np.zeros(len(taken_for))
    for _ in range(benchmarks):
        scores = random.normal(size=(n_images, 1)) + random.normal(size=(n_images, n_methods))
        points, table = scores.mean(0), weights(random, 400, n_images) @ scores
        wrong += [any(one.low > 1 for one in rank(points, table, n)) for n in taken_for]
    return (wrong / benchmarks).tolist()


def test_five_in_a_hundred_benchmarks_of_equal_methods_are_wrong_about_any():
    random, benchmarks, n_methods, n_images = np.random.RandomState(3), 400, 6, 100
    wrong = uncorrected = 0
    for _ in range(benchmarks):
        scores = random.normal(size=(n_images, 1)) + random.normal(size=(n_images, n_methods))
        points, table = scores.mean(0), weights(random, 300, n_images) @ scores
        ranks = rank(points, table, n_images)
        wrong += {one.group for one in ranks} != {1} or max(one.low for one in ranks) > 1
        pairs = itertools.combinations(range(n_methods), 2)
        uncorrected += any(rank(points[list(p)], table[:, list(p)], n_images)[0].high == 1 for p in pairs)
    assert 0.02 < wrong / benchmarks < 0.09
    assert uncorrected / benchmarks > 0.15


@pytest.mark.parametrize("n_methods", [2, 6, 12])
def test_so_it_is_with_few_images(n_methods):
    corrected, bare = share_told_apart(20, n_methods, 500, 20, MANY)
    assert 0.02 < corrected < 0.08
    assert bare > 1.3 * corrected
    if n_methods > 2:
        assert bare > 0.12, "what ranks would promise without a correction"


def test_fewer_images_have_no_ranks():
    table = spread(100, (0.60, 0.001), (0.40, 0.0))
    assert rank([0.60, 0.40], table, LEAST_CLUSTERS) == [Rank(1, 1, 1), Rank(2, 2, 2)]
    assert rank([0.60, 0.40], table, LEAST_CLUSTERS - 1) is None
    assert rank([0.60, 0.40], table, 1) is None
