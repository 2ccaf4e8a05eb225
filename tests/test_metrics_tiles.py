"""Symmetric tiles find what a plain search finds, however they are cut, and leave the process as it was."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from featcache.metrics import neighbors
from featcache.metrics.knn import bfloat16, compiled, exact, threads, tiles

RNG = np.random.default_rng


def blas_threads():
    """Threads of the library behind NumPy's products; others may be loaded, and are no concern of a search."""
    return [library["num_threads"] for library in threadpool_info() if "numpy" in library["filepath"]]


@pytest.mark.parametrize("tile", [1, 7, 32, 33, 150, 200])
@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize("operands", [bfloat16.single, bfloat16.halved])
def test_every_entry_of_a_list_is_the_best_of_all_others(tile, k, operands):
    x = RNG(0).standard_normal((150, 12)).astype(np.float32)
    space = exact.prepare(x, "cosine")
    best, ids = np.full((150, k), -np.inf, np.float32), np.full((150, k), -1, np.int32)
    rows = operands(space)
    tiles._scan_all(space, rows, np.arange(150), best, ids, tile)
    products = torch.as_tensor(rows.rows) @ torch.as_tensor(rows.rows).T
    scores = products.float().numpy() + space.bias
    np.fill_diagonal(scores, -np.inf)
    np.testing.assert_allclose(np.sort(best, axis=1), np.sort(scores, axis=1)[:, -k:], atol=1e-6)
    rows = np.arange(150)[:, None]
    np.testing.assert_allclose(scores[rows, ids], best, atol=1e-6)
    assert all(len(set(row)) == k for row in ids.tolist())


def test_a_list_that_ends_within_the_bound_of_its_kth_is_searched_again():
    x = np.repeat(RNG(0).standard_normal((20, 8)), 20, axis=0)
    result = neighbors(x, k=5, backend="tiles")
    assert result.searched_again == 400
    apart = neighbors(RNG(1).standard_normal((400, 8)), k=5, backend="tiles")
    assert apart.searched_again == 0


def test_centring_leaves_few_near_ties_among_features_that_all_point_one_way():
    rng = RNG(0)
    x = (30 * rng.standard_normal(256) + rng.standard_normal((2000, 256))).astype(np.float32)
    result = neighbors(x, k=10)
    assert result.similarities.mean() > 0.998
    assert result.recomputed < 1.3 * 2000 * 10


def test_the_deciding_order_of_a_sum_is_the_documented_one():
    a, b = RNG(0).standard_normal((2, 21)) * 10.0 ** RNG(1).integers(-8, 8, (2, 21))
    lanes = [0.0] * 8
    for at in range(16):
        lanes[at % 8] += a[at] * b[at]
    for at in range(16, 21):
        lanes[0] += a[at] * b[at]
    tree = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
    out = np.empty(1)
    one, zero = np.ones(1), np.zeros(1, np.int64)
    compiled.pair_values(a[None], b[None], one, one, zero, zero, False, out)
    assert out[0] == tree


def test_products_run_on_one_thread_each_and_the_library_gets_its_threads_back():
    before, inside = blas_threads(), []

    def search(_):
        with threads.one_blas_thread():
            inside.append(blas_threads())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(search, range(6)))
    search(None)
    assert inside == [[1] * len(before)] * 7
    assert blas_threads() == before


def test_an_error_in_one_thread_ends_the_search_and_restores_the_threads(monkeypatch):
    before, calls = blas_threads(), []

    def breaks(*args):
        calls.append(1)
        raise RuntimeError("scan broke")

    monkeypatch.setattr(tiles.compiled, "scan_tile", breaks)
    with pytest.raises(RuntimeError, match="scan broke"):
        neighbors(RNG(0).standard_normal((400, 4)), k=2, tile=20)
    assert len(calls) <= torch.get_num_threads()
    assert blas_threads() == before


def test_searches_side_by_side_do_not_disturb_each_other():
    spaces = [RNG(seed).standard_normal((700, 24)).astype(np.float32) for seed in range(4)]
    expected = [neighbors(x, k=6).ids for x in spaces]
    with ThreadPoolExecutor(4) as pool:
        for result, ids in zip(pool.map(lambda x: neighbors(x, k=6, tile=64).ids, spaces), expected, strict=True):
            np.testing.assert_array_equal(result, ids)


def test_a_space_of_two_rows_is_searched():
    assert neighbors(np.array([[1.0, 0.0], [0.0, 1.0]]), k=1).ids.tolist() == [[1], [0]]
