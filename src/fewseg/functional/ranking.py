"""What differences between runs can be told from chance: seeds against episodes, and ranks with ties. Needs no torch.

Both read bootstrap replicates: the same figure on benchmarks whose query images were drawn with replacement, one column
for each seed or method. All columns of a replicate see the same images, so that their differences are paired.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from fewseg.errors import FewsegError

LEAST_CLUSTERS = 20  # query images or videos below which no ranks are told: in simulations they did not hold
_NOTHING = 1e-9  # a deviation of this share of the largest figure is rounding


class VarianceSplit(NamedTuple):
    """Standard deviations of one seed's figure on one list of episodes, in the unit of the figure.

    Args:
        seeds: between trainings, on all images that there could be.
        episodes: between lists of episodes, the same for every training.
        interaction: what one training gains on one list and another one does not.
    """

    seeds: float
    episodes: float
    interaction: float


def variance_split(replicates: npt.ArrayLike) -> VarianceSplit | None:
    """How far a figure moves with the training, with the list of episodes, and with the two together.

    The model is that of two crossed random effects (Searle, Casella and McCulloch, "Variance Components", 1992): the
    figure of seed s on list e is ``mean + a_s + b_e + c_se``, with independent a, b and c. But replicates are not lists
    of their own: they are draws from one list, and vary about what was observed on it. So

    - over replicates vary b and c alone: the covariance of two seeds is the variance of b, and the variance of one seed
      is that of b + c. As in the textbook, c is the residual mean square, and the mean over seeds varies with
      b + c / S, from which c / S is taken;
    - the mean of a seed over replicates keeps the c of the observed list, however many replicates there are. So the
      means of the seeds vary with a + c, from which the whole of c is taken, where the textbook, whose rows are
      independent lists, takes c / R.

    A mean over S seeds on one list has the variance ``seeds² / S + episodes² + interaction² / S``.

    Args:
        replicates: (R, S), the figure of every seed (columns) on every resampled benchmark.

    Returns:
        the three deviations, an estimate below 0 as 0; None with fewer than two seeds.

    Raises:
        FewsegError: not a table of numbers with two or more rows.

    >>> variance_split([[0.5, 0.7], [0.3, 0.5]])  # the second seed is better by the same amount on both
    VarianceSplit(seeds=0.141..., episodes=0.141..., interaction=0.0)
    """
    table = _table(replicates)
    n_replicates, n_seeds = table.shape
    if n_seeds < 2:
        return None
    by_seed, by_replicate = table.mean(0), table.mean(1)
    rest = table - by_seed - by_replicate[:, None] + table.mean()
    interaction = float((rest**2).sum()) / ((n_replicates - 1) * (n_seeds - 1))
    episodes = float(by_replicate.var(ddof=1)) - interaction / n_seeds
    seeds = float(by_seed.var(ddof=1)) - interaction * (1 + 1 / n_replicates)  # observed list, and R draws from it
    least = (_NOTHING * float(np.abs(table).max())) ** 2
    return VarianceSplit(*(v**0.5 if v > least else 0.0 for v in (seeds, episodes, interaction)))


class Rank(NamedTuple):
    """Where a method stands among others.

    Args:
        low: the best rank that it may have, 1 and up.
        high: the worst one.
        group: 1 for the best method and all that cannot be told from it, 2 for the best of the rest and those that
            cannot be told from that one, and so on.
    """

    low: int
    high: int
    group: int


def rank(points: npt.ArrayLike, replicates: npt.ArrayLike, n_clusters: int, level: float = 0.95) -> list[Rank] | None:
    """Ranks of methods that say what cannot be told apart, corrected for the number of comparisons.

    All differences of two methods get intervals that hold at once: the difference, give or take its bootstrap
    deviation times one factor for all pairs, the quantile of the largest studentised deviation of any pair (max-T:
    Romano and Wolf, Econometrica 2005). A method is better than another one where the interval of their difference
    lies above 0. The rank of a method is at least 1 + the number of better ones and at most M - the number of worse
    ones; all these sets of ranks hold the true ones at once with probability ``level`` (Mogstad, Romano, Shaikh and
    Wilhelm, "Inference for Ranks", Review of Economic Studies 2024). Some thousand replicates are enough for any number
    of pairs, where p-values of single pairs would need more and more.

    A bootstrap over n images takes their spread for too small, by sqrt((n - 1) / n), and for known. So the margins are
    widened by sqrt(n / (n - 1)), and by the ratio of the quantiles of t with n - 1 degrees of freedom and of the normal
    distribution, both at the level of one pair of all (Bonferroni). In
    simulations of 2, 6 and 12 equal methods any two were told apart in 2 to 9 % of benchmarks of 20 images (7 to 28 %
    without this), and in 2 to 8 % of those of 100. With fewer images means over classes, a few images each, erred more
    often, in 9 to 12 % of benchmarks of 8 to 15: there are no ranks.

    Groups are a reading aid: two methods of one group may still differ from each other, for both are only compared
    with the best one of the group. A method with a wide interval can be in a group with better ones while a higher
    figure with a narrow one is in the next.

    Replicates hold the choice of query images only, not that of another training.

    Args:
        points: (M,) figures, larger is better: the same function of the whole list that the replicates are of resampled
            ones.
        replicates: (R, M), paired: a row is one resampled benchmark. Where a difference is the same in all rows,
            nothing is known about its variation, and the two are not told apart.
        n_clusters: images or videos that were drawn with replacement; where each fold has its own, those of the fold
            with the fewest, for its spread is known least.
        level: probability with which all intervals hold at once, in (0, 1).

    Returns:
        one ``Rank`` for each method, in the order of ``points``; None below ``LEAST_CLUSTERS``.

    Raises:
        FewsegError: shapes that do not fit, a number that is none, or a level outside (0, 1).

    >>> draws = np.random.RandomState(0).normal(scale=0.01, size=(1000, 3))
    >>> rank([0.61, 0.60, 0.40], [0.61, 0.60, 0.40] + draws, n_clusters=200)
    [Rank(low=1, high=2, group=1), Rank(low=1, high=2, group=1), Rank(low=3, high=3, group=2)]
    """
    figures = np.asarray(points, np.float64)
    if figures.ndim != 1 or not np.isfinite(figures).all():
        got = f"shape {figures.shape}" if figures.ndim != 1 else "a figure that is no number"
        raise FewsegError("points", got, "one number for each method", "leave out methods without a figure")
    table = _table(replicates)
    if table.shape[1] != len(figures):
        expected = f"{len(figures)} columns, one for each method"
        raise FewsegError("replicates", f"{table.shape[1]} columns", expected, "resample all methods together")
    if not 0 < level < 1:
        raise FewsegError("level", level, "a number between 0 and 1", "ask for 0.95")
    if n_clusters < LEAST_CLUSTERS:
        return None
    better = _better(figures, table, n_clusters, level)
    low, high = 1 + better.sum(0), len(figures) - better.sum(1)
    group, rest = np.zeros(len(figures), int), np.ones(len(figures), bool)
    while rest.any():
        best = rest & (figures == figures[rest].max())  # several where figures are equal
        tied = rest & ~better[best].all(0)
        group[tied] = group.max() + 1
        rest &= ~tied
    return [Rank(*map(int, place)) for place in zip(low, high, group, strict=True)]


def _better(
    figures: npt.NDArray[np.float64], table: npt.NDArray[np.float64], n_clusters: int, level: float
) -> npt.NDArray[np.bool_]:
    """(M, M), whether the method of the row is better than that of the column."""
    n = len(figures)
    deviation, largest = np.zeros((n, n)), np.zeros(len(table))
    least = _NOTHING * float(np.abs(table).max(initial=0.0))
    for i in range(n - 1):  # one method against all that follow, which bounds the memory
        differences = table[:, i, None] - table[:, i + 1 :]  # (R, M - i - 1)
        own = differences.std(0, ddof=1)
        known = own > least
        off = np.abs(differences - (figures[i] - figures[i + 1 :]))[:, known] / own[known]
        largest = np.maximum(largest, off.max(1, initial=0.0))
        deviation[i, i + 1 :] = deviation[i + 1 :, i] = np.where(known, own, np.inf)
    np.fill_diagonal(deviation, np.inf)
    one_side = 1 - (1 - level) / max(n * (n - 1), 1)  # of one pair of n (n - 1) / 2, each with two sides
    widened = (
        special.stdtrit(n_clusters - 1, one_side) / special.ndtri(one_side) * (n_clusters / (n_clusters - 1)) ** 0.5
    )
    factor = float(np.quantile(largest, level, method="higher") * widened)
    # a factor of 0 comes from pairs of unknown deviation only, and 0 * inf is no number
    margin = np.where(np.isinf(deviation), np.inf, factor * np.where(np.isinf(deviation), 0.0, deviation))
    return np.asarray(figures[:, None] - figures > margin)


def _table(replicates: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Replicates as an array of two or more rows."""
    table = np.asarray(replicates, np.float64)
    if table.ndim != 2 or len(table) < 2:
        expected = "two or more rows, a column for each seed or method"
        raise FewsegError("replicates", f"shape {table.shape}", expected, "resample the benchmark more often")
    if not np.isfinite(table).all():
        remedy = "leave out replicates or classes without an episode"
        raise FewsegError("replicates", "a figure that is no number", "numbers", remedy)
    return table
