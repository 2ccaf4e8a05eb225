"""Noise of equal spectrum has every singular value of the features, and nothing of which row is which."""

import numpy as np
import pytest
import torch

from featcache.metrics import chance_mutual_knn, cka, errors, mutual_knn, spectrum_noise

RNG = np.random.default_rng


def rows_of(n, d, seed=0):
    """Features far from zero, of a steep spectrum."""
    rng = RNG(seed)
    return rng.standard_normal((n, d)) * 0.9 ** np.arange(d) @ rng.standard_normal((d, d)) + 5


@pytest.mark.parametrize(("n", "d"), [(80, 12), (20, 33), (13, 12), (12, 12), (2, 5)])
def test_singular_values_mean_and_covariance_are_those_of_the_features(n, d):
    x = rows_of(n, d)
    noise = spectrum_noise(x, seed=3).astype(np.float64)
    assert noise.shape == x.shape
    top = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    own = np.linalg.svd(noise - noise.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(own / top[0], top / top[0], atol=1e-6)
    np.testing.assert_allclose(noise.mean(axis=0), x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.cov(noise.T), np.cov(x.T), atol=1e-4 * np.abs(np.cov(x.T)).max())


def test_rows_are_gaussian_where_the_features_are_not():
    x = RNG(0).choice([-1.0, 1.0], (4000, 4))
    noise = spectrum_noise(x, seed=0) / x.std(axis=0)
    assert abs((x**4).mean() - 1) < 1e-9 and (noise**4).mean() == pytest.approx(3, abs=0.15)


def test_scores_against_the_features_and_others_noise_are_those_of_chance():
    n, k = 60, 5
    x, y = rows_of(n, 10), rows_of(n, 30, seed=1)
    draws = [(spectrum_noise(x, seed=2 * seed), spectrum_noise(y, seed=2 * seed + 1)) for seed in range(150)]
    for pairs in ([(a, y) for a, _ in draws], [(a, x) for a, _ in draws], draws):
        for values, chance in (
            ([mutual_knn(a, b, k=k) for a, b in pairs], chance_mutual_knn(n, k)),
            ([cka(a, b, debiased=True) for a, b in pairs], 0.0),
        ):
            error = np.std(values) / np.sqrt(len(values))
            assert abs(np.mean(values) - chance) < 4 * error


def test_a_seed_gives_the_same_noise_and_another_seed_other_noise_of_the_features_kind():
    x = rows_of(30, 6)
    first, again, other = (spectrum_noise(x, seed=seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() and not np.allclose(first, other)
    of_tensor = spectrum_noise(torch.from_numpy(x), seed=1)
    assert isinstance(of_tensor, torch.Tensor) and of_tensor.dtype == torch.float32
    np.testing.assert_allclose(of_tensor.numpy(), first, atol=1e-5)


def test_one_row_and_a_negative_seed_are_refused():
    with pytest.raises(errors.TooFewRows, match="at least 2 rows"):
        spectrum_noise(np.ones((1, 3)), seed=0)
    with pytest.raises(errors.BadChoice, match="seed = -1"):
        spectrum_noise(rows_of(5, 3), seed=-1)
