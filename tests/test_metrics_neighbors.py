"""Neighbours are exact, and the same bits whatever computed them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache import metrics
from featcache.metrics import errors, neighbors
from featcache.metrics.knn import exact, search
from featcache.metrics.knn.precision import full_precision

RNG = np.random.default_rng


def ordered_sum(products):
    """Sum over the last axis in the order that decides: eight running sums, what is left over to the first, a tree."""
    whole = products.shape[-1] // 8 * 8
    sums = [0.0] * 8
    for at in range(products.shape[-1]):
        lane = at % 8 if at < whole else 0
        sums[lane] = sums[lane] + products[..., at]
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))


def oracle(x, k, codes=None, metric="cosine"):
    """Every pair in float64, rows sorted in full."""
    x = np.asarray(x, dtype=np.float64)
    n = len(x)
    if metric == "euclidean":
        scores = np.stack([-ordered_sum((x - row) ** 2) for row in x])
    else:
        scores = np.stack([ordered_sum(x * row) for row in x])
    if metric == "cosine":
        scale = 1 / np.sqrt(np.diag(scores))
        scores = scores * (scale[:, None] * scale)
    codes = np.arange(n) if codes is None else codes
    scores[codes[:, None] == codes] = -np.inf
    return np.stack([np.lexsort((np.arange(n), -row))[:k] for row in scores])


def anisotropic(n, d, seed=0):
    """Mean cosine about .99."""
    rng = RNG(seed)
    return (10 * rng.standard_normal(d) + rng.standard_normal((n, d))).astype(np.float32)


HARD = {
    "gaussian": RNG(0).standard_normal((300, 40)).astype(np.float32),
    "anisotropic": anisotropic(300, 64),
    "duplicates": np.repeat(RNG(1).standard_normal((60, 24)).astype(np.float32), 5, axis=0),
    "scaled duplicates": np.concatenate([anisotropic(80, 16) * scale for scale in (1, 2, 3)]),
    "near ties": np.float32(1) + np.float32(2**-20) * RNG(2).integers(0, 4, (200, 12)).astype(np.float32),
    "float16 values": anisotropic(250, 32).astype(np.float16),
    "whole numbers": RNG(3).integers(-2, 3, (300, 6)).astype(np.float64) + 0.5,
    "far apart lengths": RNG(4).standard_normal((200, 20)) * 10.0 ** RNG(5).integers(-6, 6, (200, 1)),
    "one column": RNG(6).standard_normal((90, 1)),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("metric", exact.MEASURES)
@pytest.mark.parametrize("backend", ["tiles", "bfloat16", "torch", "faiss"])
def test_ids_are_those_of_the_float64_oracle_on_hard_inputs(name, metric, backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    x = HARD[name]
    codes = np.arange(len(x)) // 3
    for tile in (None, 1 if len(x) < 100 else 37, len(x)):
        for groups in (None, codes):
            result = neighbors(x, k=7, groups=groups, metric=metric, backend=backend, tile=tile)
            np.testing.assert_array_equal(result.ids, oracle(x, 7, groups, metric))


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 60),
    d=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    tile=st.integers(1, 70),
    grid=st.booleans(),
    metric=st.sampled_from(exact.MEASURES),
    backend=st.sampled_from(["tiles", "bfloat16"]),
    data=st.data(),
)
def test_ids_are_those_of_the_oracle_for_any_size_tile_and_k(n, d, seed, tile, grid, metric, backend, data):
    k = data.draw(st.integers(1, n - 1))
    rng = RNG(seed)
    x = rng.integers(-1, 2, (n, d)) + 0.25 if grid else rng.standard_normal((n, d))
    ids = neighbors(x, k=k, metric=metric, tile=tile, backend=backend).ids
    np.testing.assert_array_equal(ids, oracle(x, k, metric=metric))


def test_similarities_are_equal_to_the_bit_for_every_tile():
    x = anisotropic(400, 96)
    first = neighbors(x, k=10)
    for tile in (1, 33, 400):
        for backend in ("tiles", "bfloat16"):
            again = neighbors(x, k=10, tile=tile, backend=backend)
            np.testing.assert_array_equal(again.similarities, first.similarities)


def test_one_thread_and_two_give_the_same_bits():
    code = (
        "import sys, hashlib, numpy as np, torch; torch.set_num_threads(int(sys.argv[1]));"
        "from metrics import neighbors;"
        "rng = np.random.default_rng(0);"
        "x = (10 * rng.standard_normal(96) + rng.standard_normal((700, 96))).astype(np.float32);"
        "g = neighbors(x, k=10, backend=sys.argv[2]);"
        "print(hashlib.sha256(g.ids.tobytes() + g.similarities.tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, threads, backend], capture_output=True, text=True)
        for threads in "12"
        for backend in ("tiles", "bfloat16")
    ]
    assert len({run.stdout for run in runs}) == 1 and runs[0].stdout, [run.stderr for run in runs]


def test_reported_similarities_are_cosine_inner_product_and_minus_distance():
    x = np.array([[3.0, 4.0], [6.0, 8.5], [-1.0, 0.0]])
    assert neighbors(x, k=1, metric="cosine").similarities[2, 0] == pytest.approx(-6 / np.hypot(6, 8.5))
    assert neighbors(x, k=1, metric="ip").similarities[0, 0] == pytest.approx(52)
    assert neighbors(x, k=1, metric="euclidean").similarities[0, 0] == pytest.approx(-np.hypot(3, 4.5))


def test_the_float32_error_bound_holds_for_every_pair():
    for name, x in HARD.items():
        for metric in exact.MEASURES:
            space = exact.prepare(x, metric)
            n = len(space)
            rows, cols = np.divmod(np.arange(n * n), n)
            true = exact.pair_values(space, rows, cols).reshape(n, n)
            unit = space.values.astype(np.longdouble) * space.scale[:, None]
            if metric == "euclidean":  # float32 orders by c_i . c_j - |c_j|^2 / 2: half the distance, and |c_i|^2 / 2
                true = true / 2 + ((unit - space.mean) ** 2).sum(axis=1)[:, None] / 2
            else:  # u_i . u_j without mu . u_i
                true = true - (unit @ space.mean)[:, None]
            error = np.abs((space.centred @ space.centred.T + space.bias).astype(np.float64) - true)
            assert (error <= space.bound[:, None]).all(), (name, metric)


def test_a_pair_has_the_same_value_alone_and_in_any_batch():
    values = RNG(0).standard_normal((50, 769))
    rows, cols = RNG(1).integers(0, 50, (2, 300))
    together = exact.paired_values(values, values, rows, cols)
    alone = [exact.paired_values(values, values, rows[i : i + 1], cols[i : i + 1])[0] for i in range(300)]
    swapped = exact.paired_values(values, values, cols, rows)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, swapped)


def test_faiss_rows_that_cannot_be_certified_are_searched_again():
    pytest.importorskip("faiss")
    x = np.repeat(RNG(0).standard_normal((20, 8)), 20, axis=0)
    result = neighbors(x, k=5, backend="faiss")
    assert result.searched_again == 400
    np.testing.assert_array_equal(result.ids, neighbors(x, k=5).ids)
    assert result.backend == "faiss (cpu)"


def test_self_is_excluded_by_id_where_all_rows_are_the_same():
    result = neighbors(np.ones((9, 3)), k=3)
    assert result.ids[0].tolist() == [1, 2, 3]
    assert result.ids[8].tolist() == [0, 1, 2]


def test_reduced_matmul_precision_does_not_change_ids_and_is_restored():
    x = anisotropic(300, 64)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(neighbors(x, k=5).ids, oracle(x, 5))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_and_other_precision_settings_change_no_id_and_are_left_as_they_were():
    x = (RNG(0).standard_normal((400, 64)) + 10).astype(np.float32)
    expected = neighbors(x, k=5, backend="torch").ids
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(neighbors(torch.from_numpy(x), k=5, backend="torch").ids, expected)
        assert torch.is_autocast_enabled("cpu")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(neighbors(x, k=5, backend="torch").ids, expected)
    finally:
        torch.set_default_dtype(before)


def test_the_newer_setting_of_torch_is_respected_too():
    code = (
        "import numpy as np, torch; from metrics import neighbors;"
        "x = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32);"
        "a = neighbors(x, k=3, backend='torch').ids; m = torch.backends.mkldnn.matmul; m.fp32_precision = 'bf16';"
        "assert (neighbors(x, k=3, backend='torch').ids == a).all(); assert m.fp32_precision == 'bf16'"
    )
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has the older setting only")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_overlapping_callers_share_one_setting():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        first, second, matmul = full_precision(), full_precision(), torch.backends.cuda.matmul
        sums = matmul.allow_bf16_reduced_precision_reduction
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == "highest" and not matmul.allow_bf16_reduced_precision_reduction
        second.__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == "medium"
        assert matmul.allow_bf16_reduced_precision_reduction == sums
    finally:
        torch.set_float32_matmul_precision(before)


def test_subnormal_features_keep_their_neighbours():
    x = RNG(0).standard_normal((60, 8))
    agreement = (neighbors(x * 1e-309, k=4).ids == neighbors(x, k=4).ids).mean()
    assert agreement > 0.95  # what is left of the digits at this size decides


def test_tensors_memory_maps_and_other_strides_are_taken(tmp_path):
    x = anisotropic(50, 8)
    np.save(tmp_path / "x.npy", x)
    expected = neighbors(x, k=3).ids
    for same in (torch.from_numpy(x), np.load(tmp_path / "x.npy", mmap_mode="r"), np.asfortranarray(x)):
        np.testing.assert_array_equal(neighbors(same, k=3).ids, expected)
    assert expected.dtype == np.int32


def test_groups_may_be_any_hashables_in_any_order():
    x = RNG(0).standard_normal((40, 5))
    names = [f"photo {i}" for i in RNG(1).permutation(np.repeat(np.arange(10), 4))]
    result = neighbors(x, k=3, groups=names)
    codes = np.array([int(name.split()[1]) for name in names])
    np.testing.assert_array_equal(result.ids, oracle(x, 3, codes))


def test_a_tile_of_rows_needs_no_square_of_similarities(monkeypatch):
    seen = []
    empty = torch.empty

    def watched(*args, **kwargs):
        seen.append(args[0])
        return empty(*args, **kwargs)

    monkeypatch.setattr(search.torch, "empty", watched)
    neighbors(RNG(0).standard_normal((500, 4)), k=2, tile=20, backend="torch")
    assert seen[0][0] == 20


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused_by_number(value):
    x = RNG(0).standard_normal((10, 4))
    x[6, 2] = value
    with pytest.raises(errors.NotFinite, match="row 6"):
        neighbors(x, k=2)


def test_bfloat16_is_refused_by_name():
    with pytest.raises(errors.BadDtype, match="bfloat16"):
        neighbors(torch.ones(4, 4, dtype=torch.bfloat16), k=1)


def test_whole_numbers_are_refused_by_name():
    with pytest.raises(errors.BadDtype, match="int64"):
        neighbors(np.ones((4, 4), dtype=np.int64), k=1)


def test_a_zero_row_has_no_cosine_but_an_inner_product():
    x = RNG(0).standard_normal((10, 4))
    x[3] = 0
    with pytest.raises(errors.ZeroRow, match="row 3"):
        neighbors(x, k=2)
    np.testing.assert_array_equal(neighbors(x, k=2, metric="ip").ids, oracle(x, 2, metric="ip"))


def test_a_row_that_runs_short_is_named():
    x = RNG(0).standard_normal((6, 3))
    with pytest.raises(errors.TooFewRows, match="row 1 has only 2 rows"):
        neighbors(x, k=3, groups=["a", "b", "b", "b", "b", "c"])
    with pytest.raises(errors.TooFewRows, match="row 0 has only 5 rows"):
        neighbors(x, k=6)


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"k": 1.5}, {"k": 1, "metric": "manhattan"}, {"k": 1, "backend": "annoy"}, {"k": 1, "tile": 0}],
)
def test_an_unknown_choice_is_refused(options):
    with pytest.raises(errors.BadChoice, match="wanted|there are"):
        neighbors(np.eye(3), **options)


def test_wrong_shapes_are_refused():
    for x in (np.ones(3), np.ones((2, 3, 4)), np.ones((0, 3)), [[1.0, 2.0]]):
        with pytest.raises(errors.BadShape, match="wanted"):
            neighbors(x, k=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.BadShape, match="2 entries for 3 rows"):
        neighbors(np.eye(3), k=1, groups=[0, 1])


def test_huge_and_tiny_features_keep_their_neighbours():
    x = RNG(0).standard_normal((60, 8))
    for scale in (1e-180, 1e-20, 1e20, 1e180):
        for metric in exact.MEASURES:
            np.testing.assert_array_equal(
                neighbors(x * scale, k=4, metric=metric).ids, neighbors(x, k=4, metric=metric).ids
            )


def test_importing_the_package_loads_no_torch():
    code = "import sys, metrics; assert 'torch' not in sys.modules; assert 'neighbors' in dir(metrics)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_an_unknown_name_is_refused_with_the_known_ones():

    with pytest.raises(AttributeError, match="mutual_knn"):
        _ = metrics.mutual_nearest
