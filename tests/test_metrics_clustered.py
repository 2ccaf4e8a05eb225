"""Clustered correlations: against slow oracles, and with errors as often as said, under equality and away from it."""

import math

import numpy as np
import pytest
from scipy import stats

from featcache.metrics.certainty.clustered import clustered_correlation, clustered_estimate
from featcache.metrics.errors import BadChoice, BadShape, NotFinite

DRAWS = 400
# of 400 draws at .05 no more than this share, but once in 200; conservative is allowed, liberal is not
MOST = 0.08


def drawn(
    rng: np.random.Generator, clusters: int, blocks: int, seeds: int, rho: float, shared: float
) -> tuple[np.ndarray, ...]:
    """Pairs of correlation rho whose cluster explains the share `shared` of each, in blocks with means of their own."""

    def pairs(count: int) -> np.ndarray:
        a, b = rng.standard_normal((2, count))
        return np.stack([a, rho * a + math.sqrt(1 - rho**2) * b])

    cluster = np.repeat(np.arange(clusters), blocks * seeds)
    block = np.tile(np.repeat(np.arange(blocks), seeds), clusters)
    values = math.sqrt(shared) * pairs(clusters)[:, cluster] + math.sqrt(1 - shared) * pairs(len(cluster))
    x, y = values + rng.standard_normal((2, blocks))[:, block]
    return x, y, cluster, block


def test_coefficients_are_those_of_scipy() -> None:
    x, y, cluster, _ = drawn(np.random.default_rng(0), 6, 1, 4, 0.5, 0.3)
    assert clustered_correlation(x, y, cluster).value == pytest.approx(stats.pearsonr(x, y)[0])
    found = clustered_correlation(x, np.round(y), cluster, method="spearman").value
    assert found == pytest.approx(stats.spearmanr(x, np.round(y))[0])


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_blocks_are_ranked_and_centred_one_by_one(method: str) -> None:
    x, y, cluster, block = drawn(np.random.default_rng(1), 5, 4, 2, 0.6, 0.5)
    a, b = (
        np.concatenate([(ranked := (stats.rankdata(v[block == k]) if method == "spearman" else v[block == k]))
                        - ranked.mean() for k in range(4)])
        for v in (x, y)
    )  # fmt: skip
    oracle = float(np.corrcoef(a, b)[0, 1])
    found = clustered_correlation(x, y, cluster, blocks=block, method=method)  # pyright: ignore[reportArgumentType]
    assert found.value == pytest.approx(oracle) and (found.n, found.clusters) == (40, 5)
    moved = clustered_correlation(x + 3.0 * block, y - 7.0 * block, cluster, blocks=block)
    assert moved.value == pytest.approx(clustered_correlation(x, y, cluster, blocks=block).value)


def test_the_interval_is_the_jackknife_of_fishers_z() -> None:
    x, y, cluster, _ = drawn(np.random.default_rng(2), 8, 1, 3, 0.4, 0.5)
    without = np.array([np.arctanh(np.corrcoef(x[cluster != c], y[cluster != c])[0, 1]) for c in range(8)])
    error = math.sqrt(7 / 8 * ((without - without.mean()) ** 2).sum())
    z, half = np.arctanh(np.corrcoef(x, y)[0, 1]), stats.t.ppf(0.975, 7) * error
    found = clustered_correlation(x, y, cluster)
    assert (found.low, found.high) == pytest.approx((np.tanh(z - half), np.tanh(z + half)))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(z) / error, 7))
    # of a mean over singletons it is Student's
    mean = clustered_estimate(lambda kept: float(x[kept].mean()), np.arange(24))
    oracle = stats.ttest_1samp(x, 0).confidence_interval()
    assert (mean.low, mean.high) == pytest.approx((oracle.low, oracle.high))


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(("clusters", "blocks", "seeds"), [(10, 10, 1), (10, 1, 5), (4, 4, 1)])
def test_of_unrelated_quantities_about_one_in_twenty_is_called_related(
    method: str, clusters: int, blocks: int, seeds: int
) -> None:
    rng = np.random.default_rng(3)
    for shared in (0.0, 0.7):
        wrong = 0
        for _ in range(DRAWS):
            x, y, cluster, block = drawn(rng, clusters, blocks, seeds, 0.0, shared)
            found = clustered_correlation(x, y, cluster, blocks=block, method=method)  # pyright: ignore[reportArgumentType]
            wrong += found.p is not None and found.p <= 0.05
        assert wrong / DRAWS <= MOST


def test_intervals_contain_the_coefficient_as_often_as_they_say_and_rows_taken_as_independent_would_not() -> None:
    rng = np.random.default_rng(4)
    missed, naive = 0, 0
    for _ in range(DRAWS):
        x, y, cluster, block = drawn(rng, 10, 10, 1, 0.6, 0.7)
        found = clustered_correlation(x, y, cluster, blocks=block)
        assert found.low is not None and found.high is not None
        missed += not found.low <= 0.6 <= found.high
        z, half = np.arctanh(found.value), 1.96 / math.sqrt(100 - 10 - 3)
        naive += not np.tanh(z - half) <= 0.6 <= np.tanh(z + half)
    assert missed / DRAWS <= MOST
    assert naive / DRAWS > 0.25


def test_what_has_no_coefficient_or_no_interval_says_why() -> None:
    x = np.arange(12.0)
    few = clustered_correlation(x, -(x**2), np.repeat([0, 1, 2], 4))
    assert few.value is not None and few.low is None and "3 clusters" in few.note
    flat = clustered_correlation(x, np.ones(12), np.arange(12))
    assert flat.value is None and "does not vary" in flat.note
    perfect = clustered_correlation(x, -x, np.arange(12))
    assert perfect.value == -1.0 and perfect.p is None and "perfect" in perfect.note
    only = clustered_correlation(np.array([0.0, 0, 0, 0, 1]), np.array([1.0, 2, 1, 2, 4]), np.arange(5))
    assert only.value is not None and only.low is None and "not determined" in only.note
    none = clustered_estimate(lambda kept: math.nan, np.array([]))
    assert none.value is None and none.n == 0


def test_what_cannot_be_correlated_is_refused() -> None:
    x = np.arange(12.0)
    with pytest.raises(BadShape, match=r"one length, got shapes \(12,\), \(11,\)"):
        clustered_correlation(x, x[1:], x)
    with pytest.raises(NotFinite):
        clustered_correlation(x, np.where(x > 3, np.nan, x), x)
    with pytest.raises(BadChoice, match="kendall"):
        clustered_correlation(x, x, x, method="kendall")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadChoice, match="level"):
        clustered_estimate(lambda kept: 1.0, x, level=1.0)
