"""RSA over all pairs or a sample, at any size, with ties and rearrangements."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata, spearmanr

from featcache.metrics import (
    errors,
    rsa,
)
from featcache.metrics.scores.dissimilarity import AGREEMENTS, DISSIMILARITIES, RsaComparison, drawn_pairs
from tests.latent_spaces import spaces

RNG = np.random.default_rng


SCIPY: dict[str, Any] = {
    "correlation": "correlation",
    "cosine": "cosine",
    "euclidean": "euclidean",
    "squared_euclidean": "sqeuclidean",
}


def cosine(p, q):
    return p @ q / np.linalg.norm(p) / np.linalg.norm(q)


def agreement(p, q, compare):
    """Each comparison of two vectors of dissimilarities as it is defined."""
    n = round((1 + np.sqrt(1 + 8 * len(p))) / 2)
    if compare == "spearman":
        return spearmanr(p, q)[0]
    if compare == "pearson":
        return np.corrcoef(p, q)[0, 1]
    if compare == "cosine":
        return cosine(p, q)
    if compare == "rho_a":  # the mean over random orders of what ties
        rng, m = RNG(0), len(p)
        drawn = []
        for _ in range(2000):
            ranks = [np.empty(m) for _ in range(2)]
            for rank, values in zip(ranks, (p, q), strict=True):
                rank[np.lexsort((rng.random(m), values))] = np.arange(m)
            drawn.append(np.corrcoef(ranks[0], ranks[1])[0, 1])
        return np.mean(drawn)
    # Whitened by the covariance of squared distances that share a sample: (c_ij . c_kl)^2 of contrasts c_ij.
    first, second = np.triu_indices(n, k=1)
    contrasts = np.eye(n)[first] - np.eye(n)[second]
    root = np.linalg.cholesky(np.linalg.inv((contrasts @ contrasts.T) ** 2)).T
    if compare == "corr_cov":
        p, q = p - p.mean(), q - q.mean()
    return cosine(root @ p, root @ q)


@pytest.mark.parametrize("dissimilarity", DISSIMILARITIES)
@pytest.mark.parametrize("compare", [name for name in AGREEMENTS if name != "rho_a"])
def test_rsa_is_the_agreement_of_all_distances_as_scipy_gives_them(dissimilarity, compare):
    x, y = spaces(14)
    p, q = (pdist(v, SCIPY[dissimilarity]) for v in (x, y))
    result = rsa(x, y, dissimilarity=dissimilarity, compare=compare)
    assert result == pytest.approx(agreement(p, q, compare), abs=1e-9)


@pytest.mark.parametrize("dissimilarity", DISSIMILARITIES)
def test_pairs_of_repeated_rows_tie_whatever_rounding_says(dissimilarity):
    x, y = (np.repeat(v, 5, axis=0) for v in spaces(12))
    p, q = (squareform(pdist(v, SCIPY[dissimilarity])) for v in spaces(12))  # of the rows that are repeated
    blocks = np.repeat(np.repeat(p, 5, 0), 5, 1), np.repeat(np.repeat(q, 5, 0), 5, 1)
    upper = np.triu_indices(60, k=1)
    exact = spearmanr(blocks[0][upper], blocks[1][upper])[0]
    assert rsa(x, y, dissimilarity=dissimilarity) == pytest.approx(exact, abs=1e-9)


def test_rho_a_is_spearman_with_ties_broken_at_random():
    rng = RNG(3)
    x, y = rng.integers(0, 3, (2, 12, 2)).astype(np.float64)
    p, q = (pdist(v, "sqeuclidean") for v in (x, y))
    result = rsa(x, y, dissimilarity="squared_euclidean", compare="rho_a")
    assert result == pytest.approx(agreement(p, q, "rho_a"), abs=0.01)
    ranks = [rankdata(v) - (len(p) + 1) / 2 for v in (p, q)]
    assert result == pytest.approx(ranks[0] @ ranks[1] * 12 / (len(p) ** 3 - len(p)), abs=1e-9)
    assert 0 < abs(result) < abs(rsa(x, y, dissimilarity="squared_euclidean"))


@pytest.mark.parametrize("compare", AGREEMENTS)
@pytest.mark.parametrize("dissimilarity", ["correlation", "euclidean"])
def test_matrices_rearranged_and_cut_are_those_of_rearranged_and_cut_rows(dissimilarity, compare, monkeypatch):
    x, y = spaces(40)
    comparison = RsaComparison(dissimilarity, compare)
    a, b = comparison.prepare(x), comparison.prepare(y)
    rng = RNG(0)
    orders = np.array([rng.permutation(40) for _ in range(7)])
    expected = [comparison(x, y[order]) for order in orders]
    np.testing.assert_allclose(comparison.permuted(a, b, orders), expected, atol=1e-9)
    part = orders[0, :15]
    cut = comparison.compare(comparison.take(a, part), comparison.take(b, part))
    assert cut == pytest.approx(comparison(x[part], y[part]), abs=1e-9)
    monkeypatch.setattr("featcache.metrics.scores.dissimilarity._BATCH_ENTRIES", 100)
    monkeypatch.setattr("featcache.metrics.scores.kernels._TILE_ENTRIES", 16)
    np.testing.assert_allclose(comparison.permuted(a, b, orders), expected, atol=1e-9)
    assert comparison(x, y) == pytest.approx(comparison.compare(a, b), abs=1e-12)


def test_a_sample_of_pairs_is_drawn_only_if_asked_for_and_by_its_seed():
    x, y = spaces(200)
    every = rsa(x, y)
    assert rsa(x, y, pairs=200 * 199 // 2, pair_seed=4) == pytest.approx(every, abs=1e-12)
    sampled = rsa(x, y, pairs=5000, pair_seed=1)
    assert sampled == rsa(x, y, pairs=5000, pair_seed=1) != rsa(x, y, pairs=5000, pair_seed=2)
    assert sampled == pytest.approx(every, abs=0.05)
    assert sampled != every
    comparison = RsaComparison(pairs=300, pair_seed=3)
    a, b, order = comparison.prepare(x), comparison.prepare(y), RNG(0).permutation(200)
    assert comparison.permuted(a, b, order[None])[0] == pytest.approx(comparison(x, y[order]), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(3, 60), count=st.integers(3, 400), seed=st.integers(0, 10**6))
def test_drawn_pairs_are_distinct_pairs_of_different_rows(n, count, seed):
    first, second = drawn_pairs(n, count, seed)
    assert len(first) == min(count, n * (n - 1) // 2)
    assert (first >= 0).all() and (first < second).all() and (second < n).all()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first)


def test_drawn_pairs_are_any_pair_alike():
    counts = np.zeros((8, 8))
    for seed in range(2000):
        first, second = drawn_pairs(8, 3, seed)
        counts[first, second] += 1
    drawn = counts[np.triu_indices(8, k=1)]
    assert drawn.sum() == 6000
    assert np.abs(drawn - 6000 / 28).max() < 4.5 * np.sqrt(6000 / 28)


def test_too_many_rows_for_every_pair_are_refused_with_what_to_do_and_a_sample_is_taken():
    x = RNG(0).standard_normal((8193, 2))
    with pytest.raises(errors.BadChoice, match="8193 rows have 33558528 pairs.*Give pairs=1_000_000"):
        rsa(x, x, dissimilarity="euclidean")
    assert rsa(x, 2 * x, dissimilarity="euclidean", pairs=1000) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"dissimilarity": "manhattan"},
        {"compare": "kendall"},
        {"pairs": 2},
        {"pairs": 10.0},
        {"pairs": 100, "compare": "corr_cov"},
    ],
)
def test_an_unknown_choice_of_rsa_is_refused(options):
    with pytest.raises(errors.BadChoice, match="there are|wanted|every pair"):
        rsa(*spaces(), **options)


def test_rows_without_direction_and_spaces_without_order_are_refused():
    x, y = spaces()
    x[5] = 0.1
    with pytest.raises(errors.ZeroRow, match="x: 1 of 60 rows are constant over their 7 features, the first is row 5"):
        rsa(x, y)
    x[5] = 0
    with pytest.raises(errors.ZeroRow, match="row 5"):
        rsa(x, y, dissimilarity="cosine")
    with pytest.raises(errors.ConstantSpace, match="y: all 3 pairs are equally unlike"):
        rsa(x[:3], np.eye(3), dissimilarity="euclidean")
