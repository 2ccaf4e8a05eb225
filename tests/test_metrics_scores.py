"""Do the metrics keep what their table promises, and do they reproduce published values?"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import METRICS, chance_mutual_knn, cka, errors, mutual_knn, mutual_knn_graphs, neighbors, overlap

RNG = np.random.default_rng
SHARED = Path(__file__).parents[2] / "shared" / "reference"


def related(n=60, seed=0):
    """Two noisy views of one latent, widths 12 and 9."""
    rng = RNG(seed)
    z = rng.standard_normal((n, 5))
    return (z @ rng.standard_normal((5, 12)) + rng.standard_normal((n, 12)) + 1) / 4, (
        z @ rng.standard_normal((5, 9)) + rng.standard_normal((n, 9))
    ) / 4


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
        assert metric.higher_is_better
    public = {name for name in vars(overlap) if name.endswith("_knn") and not name.startswith("chance")}
    assert public <= set(METRICS)


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_every_metric_keeps_its_symmetry_bounds_self_score_and_invariances(name, seed):
    metric, rng = METRICS[name], RNG(seed)
    x, y = related(seed=seed)
    score = metric.function(x, y)
    assert metric.range[0] - 1e-9 <= score <= metric.range[1] + 1e-9
    if metric.symmetric:
        assert metric.function(y, x) == pytest.approx(score, abs=1e-9)
    if metric.self_score is not None:
        assert metric.function(x, x) == pytest.approx(metric.self_score, abs=1e-9)
    order = rng.permutation(len(x))
    assert metric.function(x[order], y[order]) == pytest.approx(score, abs=1e-9)
    for change in metric.invariances:
        assert metric.function(CHANGES[change](x, rng), y) == pytest.approx(score, abs=1e-9), change


@pytest.mark.parametrize("name", METRICS)
def test_what_the_table_does_not_promise_does_change_the_score(name):
    metric, rng = METRICS[name], RNG(7)
    x, y = related(200, seed=3)
    for change in set(CHANGES) - metric.invariances:
        assert metric.function(CHANGES[change](x, rng), y) != pytest.approx(metric.function(x, y), abs=1e-9), change


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if not metric.symmetric])
def test_metrics_not_called_symmetric_are_not(name):
    x, y = related(200)
    assert METRICS[name].function(x, y) != pytest.approx(METRICS[name].function(y, x), abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_refuses_unfit_input_by_name(name):
    function = METRICS[name].function
    x, y = related()
    broken = x.copy()
    broken[4, 1] = np.nan
    with pytest.raises(errors.NotFinite, match="row 4"):
        function(broken, y)
    with pytest.raises(errors.BadShape, match="60 rows and y has 59"):
        function(x, y[:-1])
    with pytest.raises(errors.ConstantSpace, match="y: all 60 rows are the same"):
        function(x, np.ones_like(y))
    with pytest.raises(errors.BadDtype, match="bfloat16"):
        function(torch.ones(60, 3, dtype=torch.bfloat16), y)
    with pytest.raises(errors.TooFewRows, match="k = 10|at least"):
        function(x[:1], y[:1]) if name.startswith("cka") else function(x[:10], y[:10])


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_takes_tensors_and_float16(name):
    x, y = (v.astype(np.float16) for v in related())
    expected = METRICS[name].function(x.astype(np.float64), y.astype(np.float64))
    assert METRICS[name].function(torch.from_numpy(x), y) == pytest.approx(expected, abs=1e-12)


def published(case):
    """Our score under each published name: (code base, key there) -> value."""
    spec = importlib.util.spec_from_file_location("reference_inputs", SHARED / "inputs.py")
    assert spec and spec.loader
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    x, y = inputs.shared_pair()
    if case == "shared_norm":
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    ours = {}
    for k in (1, 5, 10, 20):
        for name in ("mutual_knn", "cycle_knn", "lcs_knn", "edit_distance_knn"):
            ours["platonic_rep.float64", f"{name}_k{k}"] = METRICS[name].function(x, y, k=k, metric="ip")
        swapped = METRICS["cycle_knn"].function(y, x, k=k, metric="ip")
        ours["platonic_rep.float64", f"cycle_knn_k{k}_swapped"] = swapped
        if k > 1:
            value = METRICS["cknna"].function(x, y, k=k, metric="ip", epsilon=1e-6)
            ours["platonic_rep.float32", f"cknna_k{k}"] = value
    every = METRICS["cknna"].function(x, y, k=159, metric="ip", epsilon=1e-6)
    ours["platonic_rep.float32", "cknna_k159(all)"] = every
    ours["resi", "JaccardSimilarity_k10"] = METRICS["jaccard_knn"].function(x, y)
    ours["platonic_universe", "jaccard_k10"] = METRICS["jaccard_knn"].function(x, y)
    ours["platonic_universe", "mknn_k10"] = mutual_knn(x, y)
    ours["aristotelian", "mutual_knn"] = mutual_knn(x, y, metric="ip")
    linear = METRICS["cka_linear"].function(x, y)
    for key in (("platonic_rep.float64", "cka_ip"), ("resi", "CKA"), ("aristotelian", "cka_linear")):
        ours[key] = linear
    ours["platonic_rep.float64", "cka_rbf_sigma1"] = METRICS["cka_rbf"].function(x, y)
    ours["thingsvision", "CKANumPy_rbf_sigma_median"] = cka(x, y, kernel="rbf", sigma="median")
    debiased = METRICS["cka_debiased"].function(x, y)
    ours["thingsvision", "CKANumPy_linear_unbiased"] = ours["aristotelian", "cka_unbiased"] = debiased
    ours["platonic_rep.float64", "unbiased_cka_ip"] = cka(x, y, debiased=True, epsilon=1e-6)
    wide = cka(x, y, kernel="rbf", debiased=True, epsilon=1e-6)
    ours["platonic_rep.float64", "unbiased_cka_rbf_sigma1"] = wide
    ours["platonic_rep.float64", "unbiased_cka_self_A"] = cka(x, x, debiased=True, epsilon=1e-6)
    return ours


@pytest.mark.skipif(not SHARED.exists(), reason="the published values are not part of the repository")
@pytest.mark.parametrize("case", ["shared_norm", "shared_raw"])
def test_published_values_are_reproduced(case):
    values = json.loads((SHARED / "metrics.json").read_text())["cases"][case]
    for (code, key), ours in published(case).items():
        assert ours == pytest.approx(values[code][key], abs=1e-5), (code, key)


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
    monkeypatch.setattr("metrics.kernels._TILE_ENTRIES", 16)
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
    assert overlap.lcs_knn_graphs(a, b).tolist() == [slow_lcs(p, q) for p, q in pairs]
    assert overlap.edit_distance_knn_graphs(a, b).tolist() == [1 - slow_edit(p, q) / 4 for p, q in pairs]


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
