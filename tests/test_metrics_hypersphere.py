"""The sphere's measures and Huh et al.'s preparation against their definitions."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from featcache.metrics import (
    alignment_loss,
    clamped,
    distribution_gap,
    errors,
    modality_gap,
    outlier_threshold,
    prepared,
    rsa,
    uniformity,
)
from tests.latent_spaces import spaces

RNG = np.random.default_rng


def units(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_gap_and_alignment_are_their_definitions_and_chance_is_what_the_table_says():
    x, y = spaces(6, 4, 4)
    a, b = units(x), units(y)
    assert modality_gap(x, y) == pytest.approx(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)), abs=1e-12)
    for power in (1.0, 2.0, 3.0):
        expected = np.mean(np.linalg.norm(a - b, axis=1) ** power)
        assert alignment_loss(x, y, power=power) == pytest.approx(expected, abs=1e-12)
    shuffled = [alignment_loss(x, y[list(order)]) for order in permutations(range(6))]
    assert np.mean(shuffled) == pytest.approx(2 - 2 * a.mean(axis=0) @ b.mean(axis=0), abs=1e-12)


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_the_log_mean_gaussian_of_all_pairs(t, monkeypatch):
    x, _ = spaces(90)
    expected = np.log(np.mean(np.exp(-t * pdist(units(x), "sqeuclidean"))))
    assert uniformity(x, t=t) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr("featcache.metrics.scores.kernels._TILE_ENTRIES", 16)
    assert uniformity(x, t=t) == pytest.approx(expected, abs=1e-12)


def test_uniformity_of_a_sharp_gaussian_is_its_nearest_pair_and_not_minus_infinity():
    x, _ = spaces(90)
    nearest = pdist(units(x), "sqeuclidean").min()
    assert uniformity(x, t=1e6) == pytest.approx(-1e6 * nearest - np.log(90 * 89 / 2), rel=1e-6)
    assert uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "2"])
def test_unfit_powers_and_sharpness_are_refused(value):
    x, y = spaces(10, 4, 4)
    with pytest.raises(errors.BadChoice, match="power"):
        alignment_loss(x, y, power=value)
    with pytest.raises(errors.BadChoice, match="t ="):
        uniformity(x, t=value)


def test_uniformity_needs_two_rows_with_a_direction():
    with pytest.raises(errors.TooFewRows, match="at least 2 rows, got 1"):
        uniformity(np.ones((1, 3)))
    with pytest.raises(errors.ZeroRow, match="row 1"):
        uniformity(np.array([[1.0, 0.0], [0.0, 0.0]]))


def test_thresholds_are_the_sorted_entry_and_the_mean_of_quantiles(monkeypatch):
    layers = RNG(0).standard_normal((30, 3, 8))
    for q in (0.1, 0.5, 0.95):
        assert outlier_threshold(layers, q=q) == np.sort(np.abs(layers).ravel())[int(q * 720)]
        flat = torch.from_numpy(np.abs(layers).reshape(30, -1))
        expected = torch.quantile(flat, q, dim=1).mean().item()
        assert outlier_threshold(layers, q=q, how="per_sample_mean") == pytest.approx(expected, abs=1e-12)
    assert outlier_threshold(layers, q=1.0) == np.abs(layers).max()
    monkeypatch.setattr("featcache.metrics.preparation._BATCH_ENTRIES", 50)
    assert outlier_threshold(layers, how="per_sample_mean") == pytest.approx(
        np.quantile(np.abs(layers).reshape(30, -1), 0.95, axis=1).mean(), abs=1e-12
    )


def test_clamping_keeps_kind_dtype_and_shape():
    x = RNG(0).standard_normal((5, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(clamped(x, 0.5), np.clip(x, -0.5, 0.5))
    assert clamped(x, 0.5).dtype == np.float32
    tensor = clamped(torch.from_numpy(x), 0.5)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), clamped(x, 0.5))


def test_a_stack_has_one_threshold_and_a_list_one_a_layer():
    layers = RNG(0).standard_normal((40, 3, 8)) * np.array([1.0, 5.0, 25.0])[:, None]
    stack = prepared(layers)
    limit = outlier_threshold(layers, how="per_sample_mean")
    np.testing.assert_allclose(stack[:, 1], units(np.clip(layers[:, 1], -limit, limit)), atol=1e-12)
    several = prepared([layers[:, i] for i in range(3)])
    assert isinstance(several, list)
    for i in range(3):
        np.testing.assert_allclose(several[i], prepared(layers[:, i]), atol=1e-12)
    np.testing.assert_allclose(prepared(torch.from_numpy(layers)), stack, atol=1e-12)
    np.testing.assert_allclose(prepared(layers[:, 0], q=1.0), units(layers[:, 0]), atol=1e-12)


def test_clamping_is_what_brings_one_huge_feature_into_line():
    x, y = spaces(100, 40, 40)
    spoilt = x.copy()
    spoilt[:, 3] = 50 * RNG(1).standard_normal(100)
    clean = rsa(prepared(x), prepared(y), dissimilarity="cosine")
    assert rsa(spoilt, y, dissimilarity="cosine") < 0.5 * clean
    assert rsa(prepared(spoilt), prepared(y), dissimilarity="cosine") > 0.7 * clean


def test_unfit_layers_and_quantiles_are_refused():
    x, _ = spaces()
    unfit: tuple[Any, ...] = (0, 1.1, np.nan, "all")
    for q in unfit:
        with pytest.raises(errors.BadChoice, match="share of entries"):
            prepared(x, q=q)
    with pytest.raises(errors.BadChoice, match="exact, per_sample_mean"):
        outlier_threshold(x, how="mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.BadChoice, match="empty list"):
        prepared([])
    with pytest.raises(errors.BadChoice, match="0 or more"):
        clamped(x, -1.0)
    with pytest.raises(errors.BadShape, match=r"stack of layers \[n, l, d\], got \(3,\)"):
        outlier_threshold(np.ones(3))
    with pytest.raises(errors.ZeroRow, match="layer 1"):
        prepared([x, np.zeros((60, 2))])
    broken = np.stack([x, x], axis=1)
    broken[7, 1, 0] = np.nan
    with pytest.raises(errors.NotFinite, match="row 7"):
        prepared(broken)


# -- distribution gap -------------------------------------------------------------------------------------------------


def slow_gap(x, y):
    """Energy distance over pairs of different rows, one by one; those between spaces as far as variances say."""
    a, b = (rows - rows.mean(axis=0) for rows in (units(x), units(y)))
    n = len(a)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    within = [np.mean([np.linalg.norm(rows[i] - rows[j]) for i, j in pairs]) for rows in (a, b)]
    variances = a.var(axis=0, ddof=1).sum() + b.var(axis=0, ddof=1).sum()
    square = np.mean([np.sum((a[i] - b[j]) ** 2) for i, j in pairs])
    between = np.mean([np.linalg.norm(a[i] - b[j]) for i, j in pairs])
    return 2 * between * np.sqrt(variances / square) - sum(within)


def test_distribution_gap_is_the_energy_distance_of_centred_unit_rows_in_tiles_of_any_size(monkeypatch):
    rng = RNG(0)
    x, y = rng.standard_normal((40, 6)) + 1, rng.exponential(size=(40, 6))
    expected = slow_gap(x, y)
    assert expected > 0.005
    assert distribution_gap(x, y) == pytest.approx(expected, abs=1e-10)
    monkeypatch.setattr("featcache.metrics.scores.kernels._TILE_ENTRIES", 1)  # tiles of 16 rows
    assert distribution_gap(x, y) == pytest.approx(expected, abs=1e-10)


def test_distribution_gap_is_symmetric_blind_to_length_and_0_of_a_space_with_itself():
    rng = RNG(1)
    x, y = rng.standard_normal((30, 5)) + 1, rng.standard_normal((30, 5))
    assert distribution_gap(x, y) == pytest.approx(distribution_gap(y, x), abs=1e-12)
    assert distribution_gap(x * rng.uniform(1, 9, (30, 1)), y) == pytest.approx(distribution_gap(x, y), abs=1e-12)
    assert distribution_gap(x, x) == pytest.approx(0, abs=1e-12)
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    assert distribution_gap(x @ turn, y @ turn) == pytest.approx(distribution_gap(x, y), abs=1e-12)
    assert distribution_gap(np.ones((4, 3)), -np.ones((4, 3))) == 0


def test_a_space_and_its_mirror_image_differ_in_their_centroids_alone():
    cap = RNG(0).standard_normal((400, 3)) * [0.1, 0.1, 0] + [0, 0, 1]
    other = RNG(1).standard_normal((400, 3)) * [0.1, 0.1, 0] + [0, 0, -1]  # the same cap at the other pole
    wide = RNG(2).standard_normal((400, 3)) * [0.4, 0.4, 0] + [0, 0, 1]
    assert modality_gap(cap, other) > 1.9 and abs(distribution_gap(cap, other)) < 0.2 / 400 + 1e-3
    assert modality_gap(cap, wide) < 0.2 and distribution_gap(cap, wide) > 0.1


def test_distribution_gap_of_one_distribution_is_0_to_within_a_fifth_of_one_over_n():
    for n, d, match in ((30, 5, 0.0), (30, 5, 0.7), (100, 20, 0.0)):
        gaps = []
        for seed in range(100):
            common, one, two = RNG(seed).standard_normal((3, n, d))
            a, b = (match**0.5 * common + (1 - match) ** 0.5 * own + 0.3 for own in (one, two))
            gaps.append(distribution_gap(a, b))
        assert abs(np.mean(gaps)) < 0.2 / n + 3 * np.std(gaps) / 10


def test_distribution_gap_needs_rows_that_can_be_the_same_samples_of_one_width():
    with pytest.raises(errors.BadShape, match="x has 4 rows and y 5"):
        distribution_gap(np.ones((4, 3)), np.ones((5, 3)))
    with pytest.raises(errors.BadShape):
        distribution_gap(np.ones((4, 3)), np.ones((4, 2)))
    with pytest.raises(errors.TooFewRows, match="at least 2 rows"):
        distribution_gap(np.ones((1, 3)), np.ones((1, 3)))
