"""Kernel metrics against their n x n definitions: prepared, taken apart, permuted, and never NaN."""

import importlib.util
import json
import tracemalloc
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from featcache.metrics import cka, cknna, errors, hsic, moments_hsic, rv
from featcache.metrics.scores import medians
from featcache.metrics.scores.gram import GramKernel, RowKernel
from featcache.metrics.scores.independence import DIVISORS, HsicComparison
from featcache.metrics.scores.kernels import LinearCka, RbfCka
from featcache.metrics.scores.local import Cknna
from tests.metric_oracles import (
    best_dense_debiased_cka,
    dense_cka,
    dense_cknna,
    dense_hsic,
    dense_rbf,
    dense_unbiased_cka,
)

RNG = np.random.default_rng
SHARED = Path(__file__).parents[2] / "shared" / "reference"
SHAPES = {"narrow": (60, 5, 7), "wide": (30, 40, 90), "mixed": (40, 90, 6), "mixed back": (40, 6, 90)}


def spaces(n, dx, dy, seed=0):
    """Two spaces that share two directions, their means away from 0."""
    rng = RNG(seed)
    z = rng.standard_normal((n, 2))
    x = z @ rng.standard_normal((2, dx)) + rng.standard_normal((n, dx)) + 1
    y = z @ rng.standard_normal((2, dy)) + rng.standard_normal((n, dy)) - 2
    return x / dx**0.5, y / dy**0.5


def tensors(*arrays):
    return [torch.from_numpy(values) for values in arrays]


COMPARISONS = {
    "linear": LinearCka(),
    "linear debiased": LinearCka(debiased=True),
    "linear float32": LinearCka(debiased=True, precision="float32"),
    "linear epsilon": LinearCka(epsilon=0.3),
    "rbf": RbfCka(),
    "rbf debiased median": RbfCka(debiased=True, sigma="median"),
    "rbf median with self": RbfCka(sigma="median_with_self", epsilon=0.1),
    "hsic": HsicComparison(),
    "hsic debiased": HsicComparison(debiased=True),
    "hsic rbf": HsicComparison("rbf", sigma="median"),
    "cknna": Cknna(k=5),
    "cknna biased": Cknna(k=5, debiased=False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_cka_equals_the_n_by_n_formula_whichever_product_is_cheaper(shape):
    x, y = spaces(*SHAPES[shape])
    a, b = tensors(x, y)
    assert cka(x, y) == pytest.approx(dense_cka(a @ a.T, b @ b.T), abs=1e-12)
    assert cka(x, y, debiased=True) == pytest.approx(dense_unbiased_cka(a, b), abs=1e-12)
    assert best_dense_debiased_cka(a, b) == pytest.approx(dense_unbiased_cka(a, b), abs=1e-12)
    assert rv(x, y) == cka(x, y)


def test_a_space_is_kept_as_rows_or_as_a_kernel_whichever_is_smaller():
    assert isinstance(LinearCka().prepare(RNG(0).standard_normal((40, 39))), RowKernel)
    assert isinstance(LinearCka().prepare(RNG(0).standard_normal((40, 40))), GramKernel)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("debiased", [True, False])
def test_rbf_cka_equals_the_n_by_n_formula_held_or_in_tiles(monkeypatch, held, debiased):
    if not held:
        monkeypatch.setattr("featcache.metrics.scores.kernels._TILE_ENTRIES", 16)
    x, y = spaces(50, 8, 12)
    kx, ky = (dense_rbf(values, 0.7) for values in tensors(x, y))
    score = cka(x, y, kernel="rbf", sigma=0.7, debiased=debiased)
    if debiased:
        n = len(x)
        numerator, xx, yy = (n * (n - 3) * u for u in (unbiased(kx, ky), unbiased(kx, kx), unbiased(ky, ky)))
        assert score == pytest.approx(numerator / (xx * yy) ** 0.5, abs=1e-12)
    else:
        assert score == pytest.approx(dense_cka(kx, ky), abs=1e-12)


def unbiased(k, q):
    """Song et al. 2012, eq. 5."""
    n, one = len(k), np.ones(len(k))
    k, q = (values.numpy() * (1 - np.eye(n)) for values in (k, q))
    third = 2 / (n - 2) * one @ k @ q @ one
    return (np.trace(k @ q) + k.sum() * q.sum() / ((n - 1) * (n - 2)) - third) / (n * (n - 3))


@pytest.mark.parametrize("n", [30, 31])
def test_each_median_width_is_the_one_its_code_base_takes(monkeypatch, n):
    x, y = spaces(n, 4, 3)
    squares = [((values[:, None] - values[None]) ** 2).sum(-1) for values in (x, y)]
    pairs = [np.median(d[np.triu_indices(n, 1)]) for d in squares]
    entries = [np.sort(d.ravel())[(n * n - 1) // 2] for d in squares]
    for sigma, widths in {"median": pairs, "median_with_self": entries}.items():
        kernels = [torch.from_numpy(np.exp(-d / (2 * w))) for d, w in zip(squares, widths, strict=True)]
        whole = cka(x, y, kernel="rbf", sigma=sigma)
        assert whole == pytest.approx(dense_cka(*kernels), abs=1e-12)
        with monkeypatch.context() as patch:
            patch.setattr("featcache.metrics.scores.kernels._TILE_ENTRIES", 16)
            assert cka(x, y, kernel="rbf", sigma=sigma) == pytest.approx(whole, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), kept=st.sampled_from([1, 5, 1000]), digits=st.integers(0, 9))
def test_a_median_of_pieces_is_the_median_of_the_whole(seed, n, kept, digits):
    values = np.abs(np.round(RNG(seed).standard_normal(n) * 10, digits))  # few digits: many ties, zeros among them
    before, medians._KEPT = medians._KEPT, kept
    try:
        pieces = np.array_split(values, 3)
        assert medians.median(lambda: iter(pieces)) == np.median(values)
        assert medians.median(lambda: iter(pieces), lower=True) == np.sort(values)[(n - 1) // 2]
    finally:
        medians._KEPT = before


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", COMPARISONS)
def test_permuted_scores_are_those_of_permuted_features(name, shape):
    comparison, (x, y) = COMPARISONS[name], spaces(*SHAPES[shape])
    orders = np.array([RNG(seed).permutation(len(x)) for seed in range(5)])
    a, b = comparison.prepare(x), comparison.prepare(y)
    expected = np.array([comparison(x, y[order]) for order in orders])
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(comparison.permuted(a, b, orders), expected, atol=1e-6 * size, rtol=0)
    one_by_one = [comparison.compare(a, comparison.take(b, order)) for order in orders]
    np.testing.assert_allclose(one_by_one, expected, atol=1e-7 if "32" in name else 1e-11, rtol=0)


@pytest.mark.parametrize("name", ["linear debiased", "rbf", "hsic rbf"])
def test_neither_batches_nor_the_size_limit_change_permuted_scores(monkeypatch, name):
    comparison, (x, y) = COMPARISONS[name], spaces(60, 5, 7)
    orders = np.array([RNG(seed).permutation(60) for seed in range(7)])
    a, b = comparison.prepare(x), comparison.prepare(y)
    expected = comparison.permuted(a, b, orders)
    for limit, value in {"_BATCH_ENTRIES": 1, "_LARGEST_KERNEL": 10, "_PRODUCTS_PER_ROW": 0}.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"featcache.metrics.scores.kernels.{limit}", value)
            np.testing.assert_allclose(comparison.permuted(a, b, orders), expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in COMPARISONS if not name.startswith("cknna")])
def test_a_part_of_a_prepared_space_is_the_part_prepared(name, shape):
    comparison, (x, y) = COMPARISONS[name], spaces(*SHAPES[shape])
    rows = RNG(1).permutation(len(x))[:20]
    a, b = (comparison.take(comparison.prepare(values), rows) for values in (x, y))
    expected = comparison(x[rows], y[rows])
    assert comparison.compare(a, b) == pytest.approx(expected, abs=1e-7 if "32" in name else 1e-11)


def test_tiles_serve_rearranged_and_smaller_spaces_too(monkeypatch):
    monkeypatch.setattr("featcache.metrics.scores.kernels._TILE_ENTRIES", 16)
    comparison, (x, y) = RbfCka(debiased=True, sigma="median"), spaces(50, 8, 12)
    order = RNG(2).permutation(50)
    for rows in (order, order[:33]):
        a, b = (
            comparison.take(comparison.prepare(x), np.arange(len(rows))),
            comparison.take(comparison.prepare(y), rows),
        )
        assert comparison.compare(a, b) == pytest.approx(comparison(x[: len(rows)], y[rows]), abs=1e-12)


@pytest.mark.parametrize("shape", [(300, 40, 30), (300, 700, 400), (100, 20, 300)])
@pytest.mark.parametrize("offset", [0, 30, 1000])
def test_float32_products_stay_within_the_error_that_is_promised(shape, offset):
    x, y = (values.astype(np.float32) for values in spaces(*shape))
    x, y = (x + offset * x.std()).astype(np.float32), (y - offset * y.std()).astype(np.float32)
    for debiased in (False, True):
        exact = cka(x, y, debiased=debiased)
        assert cka(x, y, debiased=debiased, precision="float32") == pytest.approx(exact, abs=1e-7)


def test_float32_products_make_one_float32_copy_and_no_float64_one():
    x = RNG(0).standard_normal((4000, 256)).astype(np.float32)
    comparison = LinearCka(debiased=True, precision="float32")
    tracemalloc.start()
    side = comparison.prepare(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert side.rows.dtype == torch.float32
    assert peak < 1.5 * x.nbytes


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(4, 12),
    d=st.sampled_from([1, 2, 3, 8, 500]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    offset=st.sampled_from([0, 1, 50]),
)
def test_small_wide_offset_spaces_give_neither_nan_nor_more_than_one(seed, n, d, dtype, offset):
    # PyTorch-Model-Compare#2, #4, #6, #10, CKA.pytorch#2, cka_pytorch#2: NaN from the root of a negative estimate.
    x, y = ((RNG(seed).standard_normal((2, n, d))) + offset).astype(dtype)
    for options in ({}, {"debiased": True}, {"precision": "float32"}, {"debiased": True, "precision": "float32"}):
        try:
            score, own = cka(x, y, **options), cka(x, x, **options)
        except errors.ConstantSpace:
            assert n == 4 or d < 3  # the U-centred kernel of few rows in few columns can be zero
            continue
        assert abs(score) <= 1 + 1e-5
        assert own == pytest.approx(1, abs=1e-5 if "precision" in options else 1e-9)


@pytest.mark.parametrize("name", [name for name in COMPARISONS if "epsilon" not in name and "hsic" not in name])
def test_a_space_against_itself_scores_one(name):
    # simtorch#52, PyTorch-Model-Compare#14. Only an epsilon, which is the published code's, makes it less.
    comparison = COMPARISONS[name]
    x = spaces(50, 300, 3)[0]
    expected = 1.0
    if comparison.epsilon:
        own = comparison.prepare(x).own
        expected = own / (own + comparison.epsilon)
    assert comparison(x, x.copy()) == pytest.approx(expected, abs=1e-6 if "32" in name else 1e-12)


def test_hsic_of_a_space_with_itself_is_never_negative_and_with_another_may_be():
    scores = [hsic(*RNG(seed).standard_normal((2, 12, 6)), debiased=True) for seed in range(40)]
    assert min(scores) < 0 < max(scores)
    assert abs(np.mean(scores)) < 3 * np.std(scores) / 40**0.5
    assert all(hsic(x, x, debiased=True) >= 0 for x in RNG(0).standard_normal((40, 5, 200)))


def test_each_convention_of_hsic_is_the_trace_over_its_divisor():
    x, y = spaces(30, 6, 40)
    a, b = tensors(x, y)
    trace = dense_hsic(a @ a.T, b @ b.T).item()
    for divisor, of in {"(n-1)^2": 29**2, "n^2": 900, "1": 1}.items():
        assert hsic(x, y, divisor=divisor) == pytest.approx(trace / of, rel=1e-12)
        assert hsic(x, y, debiased=True, divisor=divisor) == pytest.approx(unbiased(a @ a.T, b @ b.T), rel=1e-10)
    assert set(DIVISORS) == {"(n-1)^2", "n^2", "1"}
    kernels = [dense_rbf(values, 2.0) for values in (a, b)]
    assert hsic(x, y, kernel="rbf", sigma=2.0) == pytest.approx(dense_hsic(*kernels).item() / 29**2, rel=1e-10)


@pytest.mark.parametrize("exponent", [-150, -110, 110, 150])
def test_hsic_of_huge_and_tiny_features_keeps_its_units(exponent):
    x, y = spaces(30, 6, 40)
    scaled = hsic(np.ldexp(x, exponent), y)
    assert scaled == pytest.approx(np.ldexp(hsic(x, y), 2 * exponent), rel=1e-12)
    scaled = moments_hsic(np.ldexp(x, exponent), y)
    assert scaled.std == pytest.approx(np.ldexp(moments_hsic(x, y).std, 2 * exponent), rel=1e-12)


def test_an_rbf_width_keeps_its_units_where_features_are_scaled():
    x, y = spaces(30, 4, 3)
    for exponent in (-150, 150):
        sigma = float(np.ldexp(0.5, exponent))
        scaled = cka(np.ldexp(x, exponent), np.ldexp(y, exponent), kernel="rbf", sigma=sigma)
        assert scaled == pytest.approx(cka(x, y, kernel="rbf", sigma=0.5), abs=1e-12)
    with pytest.raises(errors.ConstantSpace, match="x: the centred rbf kernel is zero"):
        cka(np.ldexp(x, -150), y, kernel="rbf")
    # Rows so far apart that each is alone: the kernel is the identity, as in platonic-rep's values for raw features.
    assert cka(np.ldexp(x, 150), np.ldexp(y, 150), kernel="rbf") == pytest.approx(1)


def test_hsic_of_a_kernel_that_sees_no_difference_is_zero_and_so_is_its_null():
    x, y = spaces(30, 4, 3)
    comparison = HsicComparison("rbf", sigma=1e9)
    a, b = comparison.prepare(x), comparison.prepare(y)
    assert comparison.compare(a, b) == pytest.approx(0, abs=1e-12)
    assert comparison.permuted(a, b, np.arange(30)[None]).tolist() == [0.0]
    with pytest.raises(errors.ConstantSpace, match="x: the centred rbf kernel"):
        cka(x, y, kernel="rbf", sigma=1e9)
    assert cka(x, y, kernel="rbf", sigma=1e9, epsilon=1e-6) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("debiased", [False, True])
def test_hsic_moments_equal_all_permutations_of_six_rows(debiased):
    x, y = spaces(6, 3, 4)
    scores = [hsic(x, y[list(order)], debiased=debiased) for order in permutations(range(6))]
    exact = moments_hsic(x, y, debiased=debiased)
    assert exact.mean == pytest.approx(np.mean(scores), abs=1e-12)
    assert exact.std == pytest.approx(np.std(scores), abs=1e-12)


@pytest.mark.parametrize("k", [2, 5, 20, 59])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("unbiased", [True, False])
def test_cknna_equals_masked_n_by_n_kernels_biased_and_unbiased(k, scale, unbiased):
    x, y = (scale * (values + 0.2) for values in spaces(60, 6, 9))
    expected = dense_cknna(*tensors(x, y), k=k, unbiased=unbiased)
    assert cknna(x, y, k=k, metric="ip", debiased=unbiased) == pytest.approx(expected, abs=1e-10)


def test_cknna_minds_groups_and_lists_that_run_short():
    x, y = spaces(60, 6, 9)
    groups = np.repeat(np.arange(20), 3)
    deep = Cknna(k=5, groups=groups, depth=40)
    assert deep(x, y) == pytest.approx(cknna(x, y, k=5, groups=groups), abs=1e-12)
    rows = np.arange(30)
    part = [deep.take(deep.prepare(values), rows) for values in (x, y)]
    assert deep.compare(*part) == pytest.approx(cknna(x[:30], y[:30], k=5, groups=groups[:30]), abs=1e-12)
    short = Cknna(k=5)
    left = [short.take(short.prepare(values), rows) for values in (x, y)]
    assert min(side.ids.min() for side in left) == -1
    assert np.isfinite(short.compare(*left))


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (cka, {"precision": "bfloat16"}),
        (cka, {"kernel": "rbf", "precision": "float32"}),
        (cka, {"kernel": "rbf", "sigma": "mean"}),
        (hsic, {"divisor": "n"}),
        (hsic, {"kernel": "cubic"}),
        (hsic, {"kernel": "rbf", "sigma": -1.0}),
        (hsic, {"kernel": "rbf", "sigma": np.array([1.0, 2.0])}),
        (hsic, {"debiased": "False"}),
        (cka, {"debiased": "False"}),
        (cka, {"debiased": 1}),
        (cka, {"kernel": "rbf", "debiased": "false"}),
        (cka, {"epsilon": -5}),
        (cka, {"epsilon": float("nan")}),
        (cka, {"epsilon": "1"}),
        (cka, {"kernel": "rbf", "epsilon": float("inf")}),
        (cka, {"kernel": ["rbf"]}),
        (cka, {"kernel": np.array(["rbf", "linear"])}),
    ],
)
def test_an_option_that_does_not_exist_is_refused(function, options):
    with pytest.raises(errors.BadChoice, match="there are|wanted|computed in float64"):
        function(*spaces(20, 3, 4), **options)


def test_numbers_of_numpy_are_options_like_any_other():
    x, y = spaces(20, 3, 4)
    for sigma in (np.float32(2), np.float64(2), np.int64(2)):
        assert cka(x, y, kernel="rbf", sigma=sigma) == cka(x, y, kernel="rbf", sigma=2.0)
    tiny, whole = cka(x, y, kernel="rbf", sigma=np.float32(1e-3)), cka(x, y, kernel="rbf", sigma=1e-3)
    assert tiny == pytest.approx(whole, abs=1e-9)
    assert cka(x, y, debiased=np.True_, epsilon=np.float32(0.5)) == cka(x, y, debiased=True, epsilon=0.5)


@pytest.mark.parametrize("name", ["linear", "linear debiased", "rbf", "hsic", "hsic rbf"])
def test_features_below_the_smallest_normal_number_are_measured_as_any_other(name):
    x, y = np.round(spaces(30, 4, 3)[0], 3), spaces(30, 4, 3)[1]
    tiny = np.ldexp(x, -1040)  # 34 bits are left of each number
    comparison = COMPARISONS[name]
    if name == "rbf":
        with pytest.raises(errors.ConstantSpace, match="x: the centred rbf"):
            comparison(tiny, y)
    elif name != "hsic":
        assert comparison(tiny, y) == pytest.approx(comparison(x, y), abs=1e-8)
    else:
        assert comparison(tiny, y) == 0  # in units of the features: 2 ** -2080 times that of x


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made."""

    result = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            if isinstance(made, torch.Tensor):
                self.result = max(self.result, made.numel() * made.element_size())
        return out


@pytest.mark.parametrize("name", ["rbf", "rbf debiased median", "linear", "linear debiased"])
def test_a_null_of_large_kernels_makes_nothing_larger_than_a_float32_kernel(monkeypatch, name):
    monkeypatch.setattr("featcache.metrics.scores.kernels._TILE_ENTRIES", 1 << 16)
    n = 600
    comparison, (x, y) = COMPARISONS[name], RNG(0).standard_normal((2, n, 250))
    a, b = comparison.prepare(x), comparison.prepare(y)
    order = RNG(1).permutation(n)
    with Largest() as largest:
        result = comparison.permuted(a, b, order[None])
    assert largest.result == 4 * n * n
    assert result[0] == pytest.approx(comparison.compare(a, comparison.take(b, order)), abs=1e-6)


def test_autocast_of_the_caller_changes_no_score():
    x, y = (values.astype(np.float32) + 3 for values in spaces(200, 20, 300))
    orders = np.array([RNG(seed).permutation(200) for seed in range(3)])
    for name, comparison in COMPARISONS.items():
        a, b = tensors(x, y)
        expected, null = comparison(a, b), comparison.permuted(comparison.prepare(a), comparison.prepare(b), orders)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert comparison(a, b) == expected, name
            result = comparison.permuted(comparison.prepare(a), comparison.prepare(b), orders)
            part = comparison.compare(*(comparison.take(comparison.prepare(v), orders[0][:50]) for v in (a, b)))
        np.testing.assert_array_equal(result, null)
        again = comparison.compare(*(comparison.take(comparison.prepare(v), orders[0][:50]) for v in (a, b)))
        assert part == again, name
        assert cka(a, b, precision="float32") == pytest.approx(cka(a, b), abs=1e-7)


def test_most_rows_alike_leave_no_median_width():
    x, y = spaces(20, 3, 4)
    x[:16] = x[0]
    with pytest.raises(errors.BadChoice, match="median distance is 0 in x"):
        cka(x, y, kernel="rbf", sigma="median")


def test_three_rows_are_too_few_to_debias():
    with pytest.raises(errors.TooFewRows, match="at least 4 rows, got 3"):
        cka(*spaces(3, 2, 2), debiased=True)
    with pytest.raises(errors.TooFewRows, match="at least 4 rows, got 3"):
        hsic(*spaces(3, 2, 2), debiased=True)


@pytest.mark.skipif(not SHARED.exists(), reason="the published values are not part of the repository")
@pytest.mark.parametrize("case", ["shared_norm", "shared_raw"])
def test_published_biased_cknna_and_median_widths_are_reproduced(case):
    spec = importlib.util.spec_from_file_location("reference_inputs", SHARED / "inputs.py")
    assert spec and spec.loader
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    x, y = inputs.shared_pair()
    if case == "shared_norm":
        x, y = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (x, y))
    values = json.loads((SHARED / "metrics.json").read_text())["cases"][case]
    for k in (5, 10, 20):
        biased = cknna(x, y, k=k, metric="ip", debiased=False, epsilon=1e-6)
        assert biased == pytest.approx(values["platonic_rep.float32"][f"cknna_k{k}_biased"], abs=1e-5)
    entries = cka(x, y, kernel="rbf", sigma="median_with_self")
    assert entries == pytest.approx(values["aristotelian"]["cka_rbf"], abs=1e-6)
    pairs = cka(x, y, kernel="rbf", sigma="median")
    assert pairs == pytest.approx(values["thingsvision"]["CKANumPy_rbf_sigma_median"], abs=1e-6)
    assert rv(x, y) == pytest.approx(values["aristotelian"]["rv_coefficient"], abs=1e-6)


@pytest.mark.gpu
def test_products_on_a_gpu_give_the_scores_of_the_cpu():
    x, y = spaces(500, 64, 700)
    on_gpu = [values.cuda() for values in tensors(x, y)]
    for name, comparison in COMPARISONS.items():
        assert comparison(*on_gpu) == pytest.approx(comparison(x, y), abs=1e-6 if "32" in name else 1e-9), name
        a, b = (comparison.prepare(values) for values in on_gpu)
        orders = np.array([RNG(seed).permutation(500) for seed in range(3)])
        expected = comparison.permuted(comparison.prepare(x), comparison.prepare(y), orders)
        np.testing.assert_allclose(comparison.permuted(a, b, orders), expected, atol=1e-6)
