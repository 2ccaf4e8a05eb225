"""Exact permutation moments of kernels, and the size of the Pearson III tail that they give."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, gamma, norm

from featcache.metrics.certainty.kernel_moments import PearsonIII, three_moments, two_moments
from featcache.metrics.scores.kernels import LinearCka

RNG = np.random.default_rng


def prepared(debiased, *spaces):
    comparison = LinearCka(debiased=debiased)
    return comparison, *(comparison.prepare(space) for space in spaces)


def skewed(n, dx, dy, seed=0):
    rng = RNG(seed)
    return rng.standard_normal((n, dx)) ** 3 + 1, rng.exponential(size=(n, dy))


@pytest.mark.parametrize("widths", [(2, 3), (9, 2), (9, 10)], ids=["rows", "gram and rows", "gram"])
@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_three_moments_equal_those_of_all_permutations(n, debiased, widths):
    comparison, a, b = prepared(debiased, *skewed(n, *widths))
    scores = np.array([comparison.compare(a, comparison.take(b, np.array(p))) for p in permutations(range(n))])
    mean, std = scores.mean(), scores.std()
    exact = three_moments(a, b, debiased=debiased)
    assert exact.mean == pytest.approx(mean, abs=1e-12)
    assert exact.std == pytest.approx(std, abs=1e-12)
    assert exact.skewness == pytest.approx(np.mean((scores - mean) ** 3) / std**3, abs=1e-9)
    assert two_moments(a, b, debiased=debiased) == exact[:2]


def dominated(n, d, factor, seed):
    """Two unrelated spaces, one dimension of each larger than the others."""
    spaces = RNG([seed, 41]).standard_normal((2, n, d))
    spaces[:, :, 0] *= factor
    return spaces


@pytest.mark.parametrize("debiased", [False, True])
def test_three_moments_equal_those_of_a_hundred_thousand_permutations(debiased):
    comparison, a, b = prepared(debiased, *dominated(60, 8, 1.5, seed=0))
    rng = RNG(1)
    orders = rng.permuted(np.tile(np.arange(60), (100_000, 1)), axis=1)
    scores = comparison.permuted(a, b, orders)
    exact = three_moments(a, b, debiased=debiased)
    assert scores.mean() == pytest.approx(exact.mean, abs=4 * exact.std / 1e5**0.5)
    assert scores.std() == pytest.approx(exact.std, rel=0.02)
    assert np.mean(((scores - exact.mean) / exact.std) ** 3) == pytest.approx(exact.skewness, rel=0.05)


def test_wide_and_narrow_spaces_have_the_same_moments():
    rng = RNG(2)
    narrow, y = rng.standard_normal((40, 6)) ** 3, rng.standard_normal((40, 5))
    wide = np.concatenate([narrow, np.zeros((40, 60))], axis=1)
    for debiased in (False, True):
        _, a, b, c = prepared(debiased, narrow, wide, y)
        assert three_moments(a, c, debiased=debiased) == pytest.approx(three_moments(b, c, debiased=debiased))


@pytest.mark.parametrize("skewness", [0.0, 0.3, 2.0, -1.5])
def test_tails_and_quantiles_are_those_of_the_gamma_or_normal_distribution(skewness):
    moments, points = PearsonIII(0.2, 0.05, skewness), np.linspace(-1.0, 2.5, 15)
    if skewness:
        shape, sign = 4 / skewness**2, np.sign(skewness)
        upper = gamma.sf if sign > 0 else gamma.cdf
        expected = upper(shape + sign * points * shape**0.5, shape)
    else:
        expected = norm.sf(points)
    got = [moments.tail(0.2 + 0.05 * point) for point in points]
    assert got == pytest.approx(np.maximum(expected, 0.001))
    for share in (0.025, 0.5, 0.95):
        assert moments.tail(moments.quantile(share)) == pytest.approx(1 - share)
    assert PearsonIII(0.2, 0.0, 0.0).tail(0.3) == 1.0


def share_below(p_values, alpha, tests):
    """Whether a number of p <= alpha lies in the 99 % band of an exact test, shared among some tests."""
    count = int(np.sum(np.asarray(p_values) <= alpha))
    tail = 0.01 / tests / 2
    return binom.ppf(tail, len(p_values), alpha) <= count <= binom.ppf(1 - tail, len(p_values), alpha)


def null_tails(debiased, spaces, draws, seed):
    """Closed-form p of `draws` rearrangements of two unrelated spaces."""
    comparison, a, b = prepared(debiased, *spaces)
    n, moments = len(spaces[0]), three_moments(a, b, debiased=debiased)
    orders = RNG([seed, 43]).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
    return [moments.tail(score) for score in comparison.permuted(a, b, orders)]


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("factor", [10, 30])
def test_a_thousandth_of_unrelated_spaces_with_a_dominant_dimension_pass_a_thousandth(factor, debiased):
    tails = [p for seed in range(4) for p in null_tails(debiased, dominated(200, 16, factor, seed), 2500, seed)]
    assert share_below(tails, 0.001, 12) and share_below(tails, 0.01, 12) and share_below(tails, 0.05, 12)


@pytest.mark.slow
@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("factor", [10, 30])
def test_forty_thousand_nulls_of_a_thousand_rows_hold_their_size(factor, debiased):
    tails = [p for seed in range(20) for p in null_tails(debiased, dominated(1000, 64, factor, seed), 2000, seed)]
    assert len(tails) == 40_000
    assert all(share_below(tails, alpha, 12) for alpha in (0.001, 0.01, 0.05))


@pytest.mark.slow
def test_between_a_normal_and_a_chi_squared_the_tail_is_off_by_no_more_than_is_said():
    tails = [p for seed in range(20) for p in null_tails(True, dominated(1000, 64, 3, seed), 2000, seed)]
    assert 0.001 <= np.mean(np.array(tails) <= 0.001) <= 0.0024
    assert 0.04 <= np.mean(np.array(tails) <= 0.05) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("debiased", [False, True])
def test_layers_of_real_encoders_pass_a_thousandth_as_often_as_permutations_do(tmp_path: Path, debiased):
    first, second = openmoji_layers(tmp_path)
    tails = [p for seed in range(4) for p in null_tails(debiased, (first, second), 5000, seed)]
    assert share_below(tails, 0.001, 6)


def openmoji_layers(folder: Path) -> list[np.ndarray]:
    """Layer 1 of EfficientNet-Lite0 and -Lite2 on drawings of the embedded data set."""
    from featcache.data import open_dataset
    from featcache.encoders import EncodeOptions, encoder_spec, load_encoder

    images = open_dataset("openmoji").views["images"]
    drawings = [images.read(int(row)) for row in RNG(0).permutation(len(images))[:400]]
    layers: list[np.ndarray] = []
    for name in ("efficientnet-lite0", "efficientnet-lite2"):
        encoder = load_encoder(encoder_spec(name), EncodeOptions(), memo=folder)
        batches = [drawings[start : start + 50] for start in range(0, len(drawings), 50)]
        encoded = [encoder.encode([encoder.prepare(one) for one in batch], ["1.mean"])["1.mean"] for batch in batches]
        layers.append(np.concatenate([values.float().numpy() for values in encoded]))
    return layers
