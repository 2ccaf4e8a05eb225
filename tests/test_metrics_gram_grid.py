"""Gram matrices that all pairs of a grid share give the scores of the pairs one by one."""

import numpy as np
import pytest

from featcache.metrics.errors import ConstantSpace
from featcache.metrics.scores import gram_grid
from featcache.metrics.scores.gram_grid import shared_grams_pay
from featcache.metrics.scores.kernels import LinearCka
from featcache.metrics.sweeps.grid import layer_grid


def layers(count: int, n: int = 150, seed: int = 0) -> list[np.ndarray]:
    """Layers of several widths around what all share, with offsets and of unlike size."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).standard_normal((n, 6))
    widths = rng.integers(60, 140, count)
    return [
        (10.0**scale * (shared @ rng.standard_normal((6, d)) + rng.standard_normal((n, d)) + 3)).astype(np.float32)
        for d, scale in zip(widths, rng.integers(-3, 4, count), strict=True)
    ]


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize(("precision", "within"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("entries", [1, 9_000, 1 << 23])
def test_a_grid_has_the_scores_of_its_pairs(debiased, precision, within, entries, monkeypatch) -> None:
    monkeypatch.setattr(gram_grid, "_ENTRIES", entries)
    xs, ys = layers(5), layers(4, seed=1)
    comparison = LinearCka(debiased=debiased, precision=precision)
    prepared = [[comparison.prepare(layer) for layer in each] for each in (xs, ys)]
    assert shared_grams_pay(*prepared)
    one_by_one = np.array([[comparison.compare(a, b) for b in prepared[1]] for a in prepared[0]])
    np.testing.assert_allclose(comparison.compare_all(*prepared), one_by_one, rtol=0, atol=within)
    grid = layer_grid("cka_debiased" if debiased else "cka_linear", xs, ys, precision=precision)
    np.testing.assert_allclose(grid.scores, one_by_one, rtol=0, atol=within)
    assert grid.best == np.unravel_index(one_by_one.argmax(), one_by_one.shape)


def test_wide_and_narrow_layers_together_go_pair_by_pair() -> None:
    xs = [np.random.default_rng(0).standard_normal((50, d)) for d in (20, 80)]
    comparison = LinearCka()
    prepared = [comparison.prepare(layer) for layer in xs]
    expected = np.array([[comparison.compare(a, b) for b in prepared] for a in prepared])
    np.testing.assert_array_equal(comparison.compare_all(prepared, prepared), expected)


def test_a_constant_layer_is_named_in_a_grid_too() -> None:
    xs, constant = layers(4), np.ones((150, 90), np.float32)
    with pytest.raises(ConstantSpace, match=r"ys\[2\]"):
        layer_grid("cka_linear", xs, [*layers(2, seed=1), constant, *layers(2, seed=2)])
