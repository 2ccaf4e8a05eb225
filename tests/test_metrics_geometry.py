"""Shapes, canonical correlations and ranks against their slow and obvious definitions."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from featcache.metrics import (
    aligned_cosine,
    angular_cka,
    angular_distance,
    errors,
    neighbors,
    procrustes,
    pwcca,
    rank_knn,
    rank_knn_graphs,
    rsa,
    second_order_cosine,
    svcca,
)
from featcache.metrics.arrays import unit_rows
from featcache.metrics.scores.correlation import CanonicalComparison, cca, svcca_comparison
from featcache.metrics.scores.neighbor_ranks import SecondOrderCosine
from featcache.metrics.scores.shapes import ProcrustesComparison
from tests.latent_spaces import spaces

RNG = np.random.default_rng


def cosine(p, q):
    return p @ q / np.linalg.norm(p) / np.linalg.norm(q)


def turned_onto(x, y):
    """x, padded to y's width or wider, after its best rotation onto y; and y padded."""
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in (x, y))
    return x @ orthogonal_procrustes(x, y)[0], y


@pytest.mark.parametrize("widths", [(7, 5), (5, 7), (90, 80), (90, 3)])  # 60 rows: narrow and wide
@pytest.mark.parametrize("center", [True, False])
def test_procrustes_is_what_is_left_after_turning_one_space_onto_the_other(widths, center):
    x, y = spaces(60, *widths)
    a, b = (v - v.mean(axis=0) if center else v for v in (x, y))
    turned, padded = turned_onto(a, b)
    assert procrustes(x, y, size="kept", center=center) == pytest.approx(np.linalg.norm(turned - padded), abs=1e-9)
    share = np.linalg.norm(turned - padded) / np.linalg.norm(b)
    assert procrustes(x, y, size="relative", center=center) == pytest.approx(share, abs=1e-9)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    turned, padded = turned_onto(a, b)
    assert procrustes(x, y, center=center) == pytest.approx(np.linalg.norm(turned - padded), abs=1e-9)
    assert angular_distance(x, y, center=center) == pytest.approx(np.arccos(np.vdot(turned, padded)), abs=1e-9)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("widths", [(7, 5), (5, 7)])
def test_aligned_cosine_is_the_mean_cosine_of_turned_rows(widths, center):
    x, y = spaces(60, *widths)
    turned, padded = turned_onto(*(v - v.mean(axis=0) if center else v for v in (x, y)))
    cosines = (turned * padded).sum(axis=1) / np.linalg.norm(turned, axis=1) / np.linalg.norm(padded, axis=1)
    assert aligned_cosine(x, y, center=center) == pytest.approx(cosines.mean(), abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), dx=st.integers(1, 9), dy=st.integers(1, 9))
def test_angles_keep_the_triangle_inequality(seed, dx, dy):
    rng = RNG(seed)
    x, y, z = (rng.standard_normal((12, d)) for d in (dx, dy, 4))
    for angle in (angular_distance, angular_cka):
        assert angle(x, z) <= angle(x, y) + angle(y, z) + 1e-9


@pytest.mark.parametrize("scale", [1e-120, 1e-30, 1e30, 1e120])
def test_shapes_and_correlations_of_huge_and_tiny_features_are_those_of_ordinary_ones(scale):
    x, y = spaces()
    for score in (procrustes, angular_distance, aligned_cosine, cca, svcca, pwcca, rsa):
        assert score(x * scale, y) == pytest.approx(score(x, y), abs=1e-9)
    assert procrustes(x * scale, y * scale, size="kept") == pytest.approx(scale * procrustes(x, y, size="kept"))
    assert svcca(x * scale, y, standardize=True) == pytest.approx(svcca(x, y, standardize=True), abs=1e-9)
    ridged = cca(x * scale, y * scale, ridge=float(min(0.1 * scale**2, 1e200)))
    if 1e-100 < scale < 1e100:
        assert ridged == pytest.approx(cca(x, y, ridge=0.1), abs=1e-9)


@pytest.mark.parametrize("score", [aligned_cosine, procrustes, angular_distance])
def test_rows_below_the_smallest_normal_number_have_a_direction(score):
    x, y = spaces(dx=5)
    x = np.round(x, 3)
    assert score(np.ldexp(x, -1040), y) == pytest.approx(score(x, y), abs=1e-8)


def test_unit_rows_of_any_size_have_length_1():
    x = np.round(spaces()[0], 3)
    sizes = np.linspace(-1040, 1020, 60).astype(int)[:, None]
    np.testing.assert_allclose(unit_rows(np.ldexp(x, sizes)), unit_rows(x.copy()), atol=1e-8)


def test_a_distance_in_units_of_the_features_reaches_to_the_ends_of_float64():
    x, y = spaces()
    kept, relative = procrustes(x, y, size="kept"), procrustes(x, y, size="relative")
    x, y = x / 2, y / 2
    for exponent in (-1000, 1015):
        huge = (np.ldexp(x, exponent), np.ldexp(y, exponent))
        assert procrustes(*huge, size="relative") == pytest.approx(relative, rel=1e-12)
        assert procrustes(*huge, size="kept") == pytest.approx(np.ldexp(kept, exponent - 1), rel=1e-12)
    assert procrustes(np.ldexp(x, 1015), np.ldexp(y, -1000), size="kept") == pytest.approx(
        np.ldexp(np.linalg.norm(x - x.mean(axis=0)), 1015), rel=1e-12
    )


@pytest.mark.parametrize("score", [aligned_cosine, procrustes, angular_distance])
def test_center_is_true_or_false_and_no_text(score):
    with pytest.raises(errors.BadChoice, match="center = 'False': wanted True or False"):
        score(*spaces(), center="False")


def test_an_unknown_size_or_a_row_without_direction_is_refused():
    x, y = spaces()
    with pytest.raises(errors.BadChoice, match="unit, kept, relative"):
        procrustes(x, y, size="half")  # pyright: ignore[reportArgumentType]
    x[3] = 0
    with pytest.raises(errors.ZeroRow, match="x: 1 of 60 rows are zero, the first is row 3"):
        aligned_cosine(x, y)


def test_a_part_that_is_one_repeated_row_is_an_error_not_a_nan():
    x = np.repeat(spaces()[0][:2], 30, axis=0)
    comparison = ProcrustesComparison()
    with pytest.raises(errors.ConstantSpace, match="x: all 5 rows look alike"):
        comparison.take(comparison.prepare(x), np.arange(5))


def dense_correlations(x, y, ridge=0.0):
    """Canonical correlations from inverse square roots of covariances, and the canonical variates of x."""
    n = len(x)
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)

    def root(v):
        values, vectors = np.linalg.eigh(v.T @ v / (n - 1) + ridge * np.eye(v.shape[1]))
        return vectors / np.sqrt(values) @ vectors.T

    left, result, _ = np.linalg.svd(root(a) @ (a.T @ b / (n - 1)) @ root(b), full_matrices=False)
    return result, a @ root(a) @ left


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("widths", [(7, 5), (5, 7)])
def test_canonical_correlations_are_those_of_whitened_covariances(widths, ridge):
    x, y = spaces(60, *widths)
    result, variates = dense_correlations(x, y, ridge)
    assert cca(x, y, ridge=ridge) == pytest.approx(result.mean(), abs=1e-9)
    carried = np.average(result, weights=np.abs(variates.T @ (x - x.mean(axis=0))).sum(axis=1))
    assert pwcca(x, y, ridge=ridge) == pytest.approx(carried, abs=1e-9)
    lengths = np.average(result, weights=np.abs(variates).sum(axis=0))
    assert pwcca(x, y, weighting="variate", ridge=ridge) == pytest.approx(lengths, abs=1e-9)


def test_cca_sees_through_any_invertible_map_and_a_ridge_does_not():
    x, y = spaces()
    mapped = x @ RNG(1).standard_normal((7, 7)) * 9 - 4
    assert cca(mapped, y) == pytest.approx(cca(x, y), abs=1e-9)
    assert abs(cca(mapped, y, ridge=1.0) - cca(x, y, ridge=1.0)) > 1e-3
    assert cca(x, y, ridge=1.0) < cca(x, y)


def test_squared_correlations_of_permuted_rows_average_what_the_table_says():
    x, y = RNG(0).standard_normal((2, 6, 2))
    squares = [(dense_correlations(x, y[list(order)])[0] ** 2).mean() for order in permutations(range(6))]
    assert np.mean(squares) == pytest.approx(2 / 5, abs=1e-9)


def test_svcca_is_cca_of_the_leading_components():
    x, y = spaces(80, 20, 15)

    def leading(v, count):
        v = v - v.mean(axis=0)
        return v @ np.linalg.svd(v, full_matrices=False)[2][:count].T

    expected = dense_correlations(leading(x, 4), leading(y, 4))[0].mean()
    assert svcca(x, y, dims=4) == pytest.approx(expected, abs=1e-9)
    assert svcca(x, y, dims=1.0) == pytest.approx(cca(x, y), abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(share=st.floats(0.05, 1.0), seed=st.integers(0, 10**6))
def test_svcca_keeps_the_share_of_variance_it_promises_and_no_component_more(share, seed):
    # ReSi asks for 99 % and keeps one component.
    rng = RNG(seed)
    x = rng.standard_normal((50, 12)) * rng.uniform(0.1, 3, 12)
    kept = svcca_comparison(dims=share).prepare(x).basis.shape[1]
    shares = np.cumsum(np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2)
    shares /= shares[-1]
    assert shares[kept - 1] >= share - 1e-12
    assert kept == 1 or shares[kept - 2] < share


def test_svcca_is_the_same_every_time():
    x, y = spaces(80, 20, 15)
    assert len({svcca(x, y, dims=10, standardize=True) for _ in range(5)}) == 1


def test_standardizing_makes_features_count_alike_and_leaves_constant_ones_out():
    x, y = spaces(80, 12, 10)
    scaled = np.concatenate([x * RNG(1).uniform(0.01, 100, 12), np.full((80, 1), 1e6 / 3)], axis=1)
    assert svcca(scaled, y, standardize=True) == pytest.approx(svcca(x, y, standardize=True), abs=1e-9)
    assert abs(svcca(scaled, y) - svcca(x, y)) > 1e-3


@pytest.mark.parametrize("score", [cca, svcca, pwcca])
def test_spaces_wider_than_they_are_long_are_refused_instead_of_scoring_one(score):
    x, y = RNG(0).standard_normal((2, 20, 30))
    with pytest.raises(errors.TooFewRows, match="every canonical correlation is 1"):
        score(x, y, **({"dims": 19} if score is svcca else {}))
    assert score(x, y, ridge=1.0) < 0.999
    assert svcca(x, y, dims=4) < 0.9


@pytest.mark.parametrize(
    "options",
    [{"dims": 0}, {"dims": 1.5}, {"dims": True}, {"dims": -0.1}, {"dims": "all"}, {"ridge": -1.0}, {"weighting": "y"}],
)
def test_an_unfit_option_of_a_canonical_correlation_is_refused(options):
    with pytest.raises(errors.BadChoice, match="wanted|there are"):
        CanonicalComparison(**options)


def test_more_components_than_vary_are_refused():
    x, y = spaces(80, 12, 10)
    with pytest.raises(errors.BadChoice, match="y: dims = 11, but only 10 directions vary"):
        svcca(x, y, dims=11)


def slow_rank_similarity(p, q):
    shared = set(p) & set(q)
    pairs = [(p.index(item) + 1, q.index(item) + 1) for item in shared]
    total = sum(2 / ((1 + abs(r - s)) * (r + s)) for r, s in pairs)
    return total / sum(1 / r for r in range(1, len(shared) + 1)) if shared else 0.0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 9))
def test_rank_similarity_is_its_definition(seed, k):
    rng = RNG(seed)
    a, b = (np.stack([rng.permutation(14)[:k] for _ in range(20)]) for _ in range(2))
    expected = [slow_rank_similarity(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(rank_knn_graphs(a, b), expected, atol=1e-12)
    np.testing.assert_allclose(rank_knn_graphs(a, a), 1, atol=1e-12)


@pytest.mark.parametrize("of", ["similarity", "distance"])
def test_second_order_cosine_is_its_definition(of, monkeypatch):
    x, y = spaces(50)
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    graphs = [neighbors(v, k=6).ids for v in (x, y)]
    expected = []
    for i in range(50):
        both = sorted(set(graphs[0][i]) | set(graphs[1][i]))
        p, q = (u[both] @ u[i] if of == "similarity" else 1 - u[both] @ u[i] for u in units)
        expected.append(cosine(p, q))
    assert second_order_cosine(x, y, k=6, of=of) == pytest.approx(np.mean(expected), abs=1e-9)
    monkeypatch.setattr("featcache.metrics.scores.neighbor_ranks._BLOCK_ENTRIES", 50)
    assert second_order_cosine(x, y, k=6, of=of) == pytest.approx(np.mean(expected), abs=1e-9)


def test_rows_whose_lists_run_short_are_left_out_of_the_second_order_cosine():
    x, y = spaces(50)
    comparison = SecondOrderCosine(k=6)
    a, b = (comparison.take(comparison.prepare(v), np.arange(30)) for v in (x, y))
    short = (a.graph.ids[:, 5] < 0) | (b.graph.ids[:, 5] < 0)
    scores = comparison.rows(a, b)
    assert short.any()
    np.testing.assert_array_equal(np.isnan(scores), short)


def test_no_row_of_many_duplicates_lists_itself():
    # ReSi drops whatever comes first as "self": with duplicates half of the rows list themselves.
    x = np.repeat(RNG(0).standard_normal((40, 6)), 5, axis=0)
    assert not (neighbors(x, k=10).ids == np.arange(200)[:, None]).any()
    for score in (rank_knn, second_order_cosine):
        assert score(x, x) == pytest.approx(1, abs=1e-12)
        groups = np.repeat(np.arange(40), 5)
        assert score(x, x, groups=groups) == pytest.approx(1, abs=1e-12)


def test_groups_keep_duplicates_from_agreeing_by_rank():
    rng = RNG(0)
    x, y = (np.repeat(rng.standard_normal((200, 16)), 5, axis=0) for _ in range(2))
    groups = np.repeat(np.arange(200), 5)
    assert rank_knn(x, y) > 0.3
    assert rank_knn(x, y, groups=groups) < 0.05


def test_an_unknown_vector_of_cosines_is_refused():
    with pytest.raises(errors.BadChoice, match="similarity, distance"):
        second_order_cosine(*spaces(), of="angle")  # pyright: ignore[reportArgumentType]
