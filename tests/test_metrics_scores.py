"""What the table of metrics promises, swept over the table so that none is forgotten."""

from inspect import getmembers, isfunction, signature
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.metrics import METRICS, chance_mutual_knn, cka, errors, mutual_knn, mutual_knn_graphs, neighbors
from featcache.metrics.knn import graph_scores
from featcache.metrics.scores import (
    correlation,
    dissimilarity,
    hypersphere,
    independence,
    kernels,
    local,
    neighbor_ranks,
    overlap,
    shapes,
)
from featcache.metrics.table import chosen

RNG = np.random.default_rng
HOMES = (correlation, dissimilarity, hypersphere, independence, kernels, local, overlap, neighbor_ranks, shapes)


def related(n=60, seed=0, width=9):
    """Two noisy views of one latent, widths 12 and 9."""
    rng = RNG(seed)
    z = rng.standard_normal((n, 5))
    return (z @ rng.standard_normal((5, 12)) + rng.standard_normal((n, 12)) + 1) / 4, (
        z @ rng.standard_normal((5, width)) + rng.standard_normal((n, width))
    ) / 4


def fit_for(name, n=60, seed=0):
    """Two related spaces of the widths that a metric takes."""
    return related(n, seed, width=12 if METRICS[name].same_width else 9)


CHANGES = {
    "rotation": lambda x, rng: x @ np.linalg.qr(rng.standard_normal((x.shape[1],) * 2))[0],
    "scale": lambda x, rng: x * rng.uniform(0.1, 10),
    "row_scale": lambda x, rng: x * rng.uniform(0.1, 10, (len(x), 1)),
    "translation": lambda x, rng: x + rng.standard_normal(x.shape[1]),
}


def test_the_table_is_complete_and_well_formed():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.invariances <= set(CHANGES)
        assert metric.range[0] < metric.range[1]
        assert metric.chance and metric.source
        good = metric.range[1] if metric.higher_is_better else metric.range[0]
        assert metric.self_score in (None, good) or np.isinf(good)


def test_every_public_function_of_two_spaces_is_in_the_table():
    in_table = {getattr(metric.function, "func", metric.function) for metric in METRICS.values()}
    for module in HOMES:
        for name, function in getmembers(module, isfunction):
            of_pairs = list(signature(function).parameters)[:2] == ["x", "y"]
            if name == "distribution_gap":  # a property of two sides in one space, which says nothing of alignment
                continue
            if function.__module__ == module.__name__ and of_pairs and not name.startswith("_"):
                assert function in in_table, name


@pytest.mark.parametrize("name", METRICS)
def test_the_options_of_a_comparison_are_those_of_its_function(name):
    metric = METRICS[name]
    taken = {key for key, p in signature(metric.function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert metric.comparison is not None
    assert metric.options() - {"depth"} <= taken
    if not name.startswith("cka"):  # three entries share one function
        assert metric.options() - {"depth"} == taken


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_every_metric_keeps_its_symmetry_bounds_self_score_and_invariances(name, seed):
    metric, rng = METRICS[name], RNG(seed)
    x, y = fit_for(name, seed=seed)
    score = metric.function(x, y)
    assert metric.range[0] - 1e-9 <= score <= metric.range[1] + 1e-9
    if metric.symmetric:
        assert metric.function(y, x) == pytest.approx(score, abs=1e-9)
    if metric.self_score is not None:
        # A distance of 0 is the square root of a sum that cancels: 1e-16 becomes 1e-8.
        rounding = 1e-9 if metric.higher_is_better else 1e-7
        assert metric.function(x, x) == pytest.approx(metric.self_score, abs=rounding)
    order = rng.permutation(len(x))
    assert metric.function(x[order], y[order]) == pytest.approx(score, abs=1e-9)
    for change in metric.invariances:
        assert metric.function(CHANGES[change](x, rng), y) == pytest.approx(score, abs=1e-9), change


@pytest.mark.parametrize("name", METRICS)
def test_what_the_table_does_not_promise_does_change_the_score(name):
    metric, rng = METRICS[name], RNG(7)
    x, y = fit_for(name, 200, seed=3)
    if metric.same_width:
        y = x + 0.3 * y  # unrelated rows of one space would score alike by chance
    for change in sorted(set(CHANGES) - metric.invariances):
        assert metric.function(CHANGES[change](x, rng), y) != pytest.approx(metric.function(x, y), abs=1e-9), change


@pytest.mark.parametrize("name", METRICS)
def test_related_rows_score_better_than_shuffled_ones_wherever_pairs_matter(name):
    metric = METRICS[name]
    x, y = fit_for(name, 100)
    if metric.same_width:
        y = x + 0.3 * y  # aligned in one space, not only by what is near what
    shuffled = metric.function(x, y[RNG(0).permutation(100)])
    better = metric.function(x, y) - shuffled if metric.higher_is_better else shuffled - metric.function(x, y)
    assert better > 0.01 if metric.paired else better == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if not metric.symmetric])
def test_metrics_not_called_symmetric_are_not(name):
    x, y = fit_for(name, 200)
    assert METRICS[name].function(x, y) != pytest.approx(METRICS[name].function(y, x), abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_refuses_unfit_input_by_name(name):
    metric = METRICS[name]
    x, y = fit_for(name)
    broken = x.copy()
    broken[4, 1] = np.nan
    with pytest.raises(errors.NotFinite, match="row 4"):
        metric.function(broken, y)
    with pytest.raises(errors.BadShape, match="60 rows and y has 59"):
        metric.function(x, y[:-1])
    with pytest.raises(errors.ConstantSpace, match="y: all 60 rows are the same"):
        metric.function(x, np.ones_like(y))
    with pytest.raises(errors.BadDtype, match="bfloat16"):
        metric.function(torch.ones(60, 3, dtype=torch.bfloat16), y)
    short = 10 if "k" in metric.options() else chosen(name)[1].at_least - 1
    with pytest.raises(errors.TooFewRows, match="k = 10|at least"):
        metric.function(x[:short], y[:short])


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.same_width])
def test_metrics_of_one_space_refuse_two_widths_by_name(name):
    with pytest.raises(errors.BadShape, match="x is 12 wide and y 9"):
        METRICS[name].function(*related())


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_takes_tensors_and_float16(name):
    x, y = (v.astype(np.float16) for v in fit_for(name))
    expected = METRICS[name].function(x.astype(np.float64), y.astype(np.float64))
    assert METRICS[name].function(torch.from_numpy(x), y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_leaves_its_input_as_it_was(name):
    x, y = fit_for(name)
    before = x.copy(), y.copy()
    METRICS[name].function(x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 10**6))
def test_two_steps_give_what_the_function_gives_for_rearrangements_and_parts(name, seed):
    metric, rng = METRICS[name], RNG(seed)
    x, y = fit_for(name, seed=seed)
    # Lists of all other rows, so that none is short in a part.
    options: dict[str, Any] = {"depth": len(x) - 1} if "depth" in metric.options() else {}
    comparison = chosen(name, **options)[1]
    assert chosen(name)[1](x, y) == metric.function(x, y)
    a, b = comparison.prepare(x), comparison.prepare(y)
    assert comparison.compare(a, b) == pytest.approx(metric.function(x, y), abs=1e-12)
    order, part = rng.permutation(len(x)), rng.permutation(len(x))[:35]
    turned = comparison.compare(comparison.take(a, order), b)
    assert turned == pytest.approx(metric.function(x[order], y), abs=1e-9)
    kept = comparison.compare(comparison.take(a, part), comparison.take(b, part))
    assert kept == pytest.approx(metric.function(x[part], y[part]), abs=1e-9)
    again = comparison.take(comparison.take(a, order), np.argsort(order))
    assert comparison.compare(again, b) == pytest.approx(metric.function(x, y), abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 10**6))
def test_permuted_scores_are_those_of_permuted_rows(name, seed):
    metric, rng = METRICS[name], RNG(seed)
    comparison = chosen(name)[1]
    x, y = fit_for(name, seed=seed)
    a, b = comparison.prepare(x), comparison.prepare(y)
    orders = np.array([np.arange(len(x))] + [rng.permutation(len(x)) for _ in range(5)])
    expected = [metric.function(x, y[order]) for order in orders]
    np.testing.assert_allclose(comparison.permuted(a, b, orders), expected, atol=2e-6, rtol=2e-6)


def dense_cka(kx, ky, debiased):
    """Song et al. 2012, eq. 5, and Kornblith et al. 2019, eq. 3, on n x n matrices as they are printed."""
    n = len(kx)

    def hsic(k, q):
        if not debiased:
            h = np.eye(n) - 1 / n
            return np.trace(k @ h @ q @ h)
        k, q, one = k - np.diag(np.diag(k)), q - np.diag(np.diag(q)), np.ones(n)
        total = (
            np.trace(k @ q)
            + (one @ k @ one) * (one @ q @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ q @ one)
        )
        return total / (n * (n - 3))

    return hsic(kx, ky) / np.sqrt(hsic(kx, kx) * hsic(ky, ky))


@pytest.mark.parametrize("n", [5, 30, 200])
@pytest.mark.parametrize("debiased", [False, True])
def test_cka_equals_the_dense_formula_narrow_and_wide(n, debiased):
    x, y = related(n)  # n = 5 is below the widths, n = 200 far above: both ways through the code
    assert cka(x, y, debiased=debiased) == pytest.approx(dense_cka(x @ x.T, y @ y.T, debiased), abs=1e-10)
    kx, ky = (np.exp(-((v[:, None] - v[None]) ** 2).sum(-1) / 2) for v in (x, y))
    assert cka(x, y, kernel="rbf", debiased=debiased) == pytest.approx(dense_cka(kx, ky, debiased), abs=1e-10)


def test_debiased_cka_survives_a_large_offset_and_float32():
    x, y = related(500)
    shifted = cka((x + 100).astype(np.float32), y, debiased=True)
    assert shifted == pytest.approx(cka(x, y, debiased=True), abs=1e-4)


def test_tiles_of_the_kernel_do_not_change_cka(monkeypatch):
    x, y = related(100)
    whole = cka(x, y, kernel="rbf", sigma="median")
    monkeypatch.setattr("featcache.metrics.scores.kernels._TILE_ENTRIES", 16)
    assert cka(x, y, kernel="rbf", sigma="median") == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-120, 1e-35, 1e35, 1e120])
def test_linear_cka_of_huge_and_tiny_features_is_that_of_ordinary_ones(scale):
    x, y = related()
    assert cka(x * scale, y) == pytest.approx(cka(x, y), abs=1e-9)


@pytest.mark.parametrize("options", [{"kernel": "cubic"}, {"sigma": 0.0}, {"sigma": "mean"}, {"sigma": np.nan}])
def test_an_unknown_kernel_or_width_is_refused(options):
    with pytest.raises(errors.BadChoice, match="there are|wanted"):
        cka(*related(), **options)


def test_a_kernel_that_sees_no_difference_is_an_error_not_a_nan():
    x, y = related()
    with pytest.raises(errors.ConstantSpace, match="x: the centred rbf kernel is zero"):
        cka(x * 1e-12, y, kernel="rbf")


def test_duplicated_rows_of_independent_spaces_score_at_chance_only_with_groups():
    rng = RNG(0)
    x, y = (np.repeat(rng.standard_normal((400, 16)), 5, axis=0) for _ in range(2))
    x, y = (v + 1e-3 * rng.standard_normal(v.shape) for v in (x, y))
    groups = np.repeat(np.arange(400), 5)
    assert mutual_knn(x, y) == pytest.approx(0.39, abs=0.03)
    chance = chance_mutual_knn(2000, 10, groups)
    assert chance == pytest.approx(10 / 1995)
    assert mutual_knn(x, y, groups=groups) == pytest.approx(chance, abs=0.004)


def test_overlap_of_graphs_is_counted_row_by_row():
    a, b = neighbors(related()[0], k=6).ids, neighbors(related()[1], k=6).ids
    expected = [len(set(p) & set(q)) / 6 for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(mutual_knn_graphs(a, b), expected)
    assert mutual_knn(*related(), k=6) == pytest.approx(np.mean(expected))


def slow_lcs(p, q):
    if not p or not q:
        return 0
    if p[0] == q[0]:
        return 1 + slow_lcs(p[1:], q[1:])
    return max(slow_lcs(p[1:], q), slow_lcs(p, q[1:]))


def slow_edit(p, q):
    if not p or not q:
        return len(p) + len(q)
    return min(slow_edit(p[1:], q) + 1, slow_edit(p, q[1:]) + 1, slow_edit(p[1:], q[1:]) + (p[0] != q[0]))


def test_ordered_scores_equal_their_recursive_definitions():
    a, b = RNG(0).integers(0, 6, (2, 40, 4))
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    assert graph_scores.lcs_knn_graphs(a, b).tolist() == [slow_lcs(p, q) for p, q in pairs]
    assert graph_scores.edit_distance_knn_graphs(a, b).tolist() == [1 - slow_edit(p, q) / 4 for p, q in pairs]


def test_graphs_of_other_shapes_or_kinds_are_refused():
    with pytest.raises(errors.BadShape, match=r"\(3, 2\) and \(3, 1\)"):
        mutual_knn_graphs(np.zeros((3, 2), int), np.zeros((3, 1), int))
    with pytest.raises(errors.BadShape, match="float64"):
        mutual_knn_graphs(np.zeros((3, 2)), np.zeros((3, 2)))


def test_chance_refuses_more_neighbours_than_there_are():
    with pytest.raises(errors.TooFewRows, match="k = 5"):
        chance_mutual_knn(5, 5)


def test_cknna_needs_a_kernel_and_two_neighbours():
    x, y = related()
    with pytest.raises(errors.BadChoice, match="distance"):
        METRICS["cknna"].function(x, y, metric="euclidean")
    with pytest.raises(errors.BadChoice, match="k = 1"):
        METRICS["cknna"].function(x, y, k=1)
