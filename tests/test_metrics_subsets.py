"""Scores of many subsets of the rows at once are those of each subset by itself."""

import time
from itertools import product

import numpy as np
import pytest

from featcache.metrics import METRICS, errors
from featcache.metrics.certainty.halves import Halves
from featcache.metrics.scores.kernels import LinearCka
from featcache.metrics.table import chosen
from tests.latent_spaces import spaces

RNG = np.random.default_rng


def one_by_one(comparison, firsts, other, masks):
    """The slow and obvious way."""
    rows = [np.flatnonzero(mask) for mask in masks]
    return np.array(
        [[comparison.compare(comparison.take(a, at), comparison.take(other, at)) for at in rows] for a in firsts]
    )


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_scores_subsets_as_it_scores_each_alone(name):
    x, y = spaces(60, dx=5, dy=5)
    options = {"k": 4} if "k" in METRICS[name].options() else {}
    options |= {"depth": 59} if "depth" in METRICS[name].options() else {}
    comparison = chosen(name, **options)[1]
    firsts, other = [comparison.prepare(space) for space in (x, 2 * x + y)], comparison.prepare(y)
    masks = Halves(60, repeats=20).masks
    scores, short = comparison.on_subsets(firsts, other, masks)
    assert scores == pytest.approx(one_by_one(comparison, firsts, other, masks), rel=1e-9, abs=1e-12)
    assert short.tolist() == [0, 0]


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize(("n", "dx", "dy"), [(9, 2, 3), (30, 80, 2), (30, 4, 80), (60, 90, 80), (61, 5, 4)])
def test_cka_of_subsets_equals_the_loop_for_rows_and_gram_matrices(n, dx, dy, debiased):
    rng = RNG(n)
    x, y = rng.standard_normal((n, dx)) ** 3 + 1, rng.exponential(size=(n, dy))
    masks = np.array([np.isin(np.arange(n), rng.choice(n, n // 2 + i % 3, replace=False)) for i in range(9)])
    for epsilon, precision in product((0.0, 0.3), ("float64", "float32")):
        comparison = LinearCka(debiased=debiased, epsilon=epsilon, precision=precision)
        firsts, other = [comparison.prepare(space) for space in (x, 5 * x[:, :2] + 50)], comparison.prepare(y)
        expected = one_by_one(comparison, firsts, other, masks)
        got = comparison.on_subsets(firsts, other, masks)[0]
        limit = {"rel": 1e-9, "abs": 1e-12} if precision == "float64" else {"abs": 2e-4}
        assert got == pytest.approx(expected, **limit)


def test_a_space_that_is_constant_on_a_subset_is_named():
    x, y = RNG(0).standard_normal((2, 40, 3))
    x[:20] = 1.0
    comparison = LinearCka()
    masks = np.array([np.arange(40) < 20, np.arange(40) >= 20])
    prepared = [comparison.prepare(space, name) for space, name in ((x, "flat"), (y, "y"))]
    with pytest.raises(errors.ConstantSpace, match="flat: the centred linear kernel is zero"):
        comparison.on_subsets(prepared[:1], prepared[1], masks)
    assert np.isfinite(LinearCka(epsilon=1e-6).on_subsets(prepared[:1], prepared[1], masks)[0]).all()


def test_halves_come_with_their_complements_in_whole_groups():
    groups = np.repeat(np.arange(15), [1, 2, 3] * 5)
    halves = Halves(30, groups, repeats=40, seed=3)
    assert halves.masks.shape == (40, 30)
    assert (halves.masks[::2] ^ halves.masks[1::2]).all()
    assert all(len(set(halves.masks[half, groups == g])) == 1 for half in range(40) for g in range(15))
    assert (Halves(30, groups, repeats=40, seed=3).masks == halves.masks).all()
    for repeats in (18, 21):
        with pytest.raises(errors.BadChoice, match=f"repeats = {repeats}: wanted 20 or more.*even"):
            Halves(30, repeats=repeats)


@pytest.mark.parametrize("of_graphs", [False, True])
def test_the_standard_error_of_a_mean_is_its_textbook_value(of_graphs):
    values = RNG(4).standard_normal(101)
    halves = Halves(101, repeats=4000)
    means = np.array([values[mask].mean() for mask in halves.masks])
    assert halves.standard_error(means, of_graphs=of_graphs) == pytest.approx(values.std(ddof=1) / 101**0.5, rel=0.05)


def test_the_standard_error_of_pairs_errs_on_the_safe_side_as_is_said():
    """Of a sum of contributions of pairs, halves show three times the variance, their differences twice."""
    rng, n = RNG(5), 40
    weights = np.triu(rng.standard_normal((n, n)), 1)
    truth = weights[np.triu_indices(n, 1)].std() / (n * (n - 1) / 2) ** 0.5
    halves = Halves(n, repeats=4000)
    sums = np.einsum("ri,ij,rj->r", halves.masks, weights, halves.masks, optimize=True)
    means = sums / (n // 2 * (n // 2 - 1) / 2)
    assert halves.standard_error(means, of_graphs=False) == pytest.approx(truth * 3**0.5, rel=0.2)
    assert halves.standard_error(means, of_graphs=True) == pytest.approx(truth * 2**0.5, rel=0.2)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_what_a_space_scores_against_itself_is_known_or_compared(name):
    x, _ = spaces(40, dx=4, dy=4)
    for options in ({}, {"epsilon": 0.1}) if "epsilon" in METRICS[name].options() else ({},):
        comparison = chosen(name, **options)[1]
        space = comparison.prepare(x)
        assert comparison.self_score(space) == pytest.approx(comparison.compare(space, space), rel=1e-9)


@pytest.mark.slow
def test_a_hundred_halves_of_cka_take_a_fraction_of_the_loop():
    rng, n = RNG(6), 7478
    latent = rng.standard_normal((n, 32))
    x, y = (latent @ rng.standard_normal((32, d)) + rng.standard_normal((n, d)) for d in (1280, 384))
    comparison = LinearCka(debiased=True)
    a, b = (comparison.prepare(space.astype(np.float32)) for space in (x, y))
    masks = Halves(n, repeats=100).masks
    started = time.perf_counter()
    scores = comparison.on_subsets([a], b, masks)[0][0]
    together = time.perf_counter() - started
    started = time.perf_counter()
    loop = one_by_one(comparison, [a], b, masks[:4])[0]
    each = (time.perf_counter() - started) / 4
    assert scores[:4] == pytest.approx(loop, abs=1e-7)
    assert together < 0.25 * 100 * each
