"""Search through blocks of a gallery equals a search of all rows; recall of approximate indexes."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.metrics import approximate_neighbors, errors, neighbors, neighbors_in
from featcache.metrics.knn import bfloat16, compiled, exact, gallery
from featcache.metrics.knn import blocks as block_search
from tests.spine import tiny_cache
from tests.test_metrics_bfloat16 import INSIDE
from tests.test_metrics_neighbors import HARD

RNG = np.random.default_rng


def blocks(x, rows):
    return (x[start : start + rows] for start in range(0, len(x), rows))


@pytest.mark.parametrize("name", [*HARD, *INSIDE])
@pytest.mark.parametrize("metric", exact.MEASURES)
@pytest.mark.parametrize("half", [False, True])
def test_blocks_give_the_ids_and_bits_of_a_search_of_all_rows(name, metric, half, monkeypatch):
    monkeypatch.setattr(gallery, "Queries", partial(gallery.Queries, half=half))
    x = {**HARD, **INSIDE}[name]
    codes = np.arange(len(x)) // 3
    picked = np.sort(RNG(0).choice(len(x), 20, replace=False))
    alone, grouped = neighbors(x, k=7, metric=metric), neighbors(x, k=7, metric=metric, groups=codes)
    for rows in (1, 5, 64, len(x)):
        result = neighbors_in(x[picked], blocks(x, rows), k=7, exclude=picked, metric=metric)
        np.testing.assert_array_equal(result.ids, alone.ids[picked])
        np.testing.assert_array_equal(result.similarities, alone.similarities[picked])
        by_group = neighbors_in(x[picked], blocks(x, rows), k=7, groups=(codes[picked], codes), metric=metric)
        np.testing.assert_array_equal(by_group.ids, grouped.ids[picked])


@settings(deadline=None, max_examples=40)
@given(n=st.integers(3, 60), rows=st.integers(1, 61), seed=st.integers(0, 10**6), data=st.data())
def test_any_size_of_block_gives_the_same_neighbours(n, rows, seed, data):
    k = data.draw(st.integers(1, n - 1))
    x = RNG(seed).integers(-1, 2, (n, 3)) + 0.25
    result = neighbors_in(x, blocks(x, rows), k=k, exclude=np.arange(n))
    np.testing.assert_array_equal(result.ids, neighbors(x, k=k).ids)


def test_queries_whose_lists_are_too_short_are_searched_again_and_bfloat16_that_leaves_many_open_is_left(monkeypatch):
    monkeypatch.setattr(bfloat16, "speed", lambda: bfloat16.Speed(1.0, 4.0))
    monkeypatch.setattr(block_search, "_WORK", 0)
    close = np.repeat(RNG(0).standard_normal((10, 32)), 60, axis=0)
    space = exact.prepare(close[:40], "cosine")
    queries = block_search.Queries(space, 5)
    block, known = exact.prepare(close, "cosine", like=space), np.full(40, -np.inf)
    *_, again = queries.candidates(block, known, [])
    assert len(again) > 4 and queries.half is False
    spread = block_search.Queries(exact.prepare(RNG(1).standard_normal((40, 32)), "cosine"), 5)
    *_, again = spread.candidates(spread.space, known, [])
    assert len(again) == 0 and spread.half is None
    result = neighbors_in(close[:40], blocks(close, 200), k=5, exclude=np.arange(40))
    np.testing.assert_array_equal(result.ids, neighbors(close, k=5).ids[:40])


@pytest.mark.parametrize("half", [False, True])
def test_lists_of_rows_hold_the_best_that_pass_their_floor(half):
    rng = RNG(2)
    tile, bias = rng.standard_normal((7, 150)).astype(np.float32), rng.standard_normal(200).astype(np.float32)
    given = torch.from_numpy(tile).bfloat16().view(torch.int16).numpy().view(np.uint16) if half else tile
    values = (torch.from_numpy(tile).bfloat16().float().numpy() if half else tile) + bias[50:]
    floor = np.array([-np.inf, -np.inf, 0, 1, 2, 5, 9], np.float32)
    best, ids = np.repeat(floor[:, None], 4, axis=1), np.full((7, 4), -1, np.int32)
    compiled.scan_rows(given, 0, 50, bias, best, ids)
    for row in range(7):
        wanted = [column + 50 for column in np.argsort(-values[row])[:4] if values[row, column] > floor[row]]
        assert sorted(ids[row][ids[row] >= 0].tolist()) == sorted(wanted)


def test_queries_from_elsewhere_exclude_nothing():
    x = RNG(0).standard_normal((50, 4))
    result = neighbors_in(torch.from_numpy(x[:3].copy()), x, k=2)
    assert result.ids[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(result.ids[:, 1], neighbors(x, k=1).ids[:3, 0])


def test_a_cached_array_is_searched_chunk_by_chunk(tmp_path):
    cache = tiny_cache(tmp_path)
    array = cache.find("openmoji", "images/efficientnet-lite0")
    features, reader = cache.load_array(array), cache.reader(array)
    picked = np.arange(0, len(features), 7)
    for seed in (None, 0):
        result = neighbors_in(features.values[picked], reader.blocks(16, seed=seed), k=3, exclude=picked)
        np.testing.assert_array_equal(result.ids, neighbors(features.values, k=3).ids[picked])


def test_a_floor_from_earlier_blocks_rules_nobody_out_far_from_the_origin():
    for d, offset in ((2, 10), (2, 1000), (8, 1000), (64, 1000)):
        gallery, queries = RNG(0).standard_normal((2000, d)) + offset, RNG(1).standard_normal((50, d)) + offset
        for metric in exact.MEASURES:
            whole = neighbors_in(queries, gallery, k=5, metric=metric).ids
            np.testing.assert_array_equal(neighbors_in(queries, blocks(gallery, 100), k=5, metric=metric).ids, whole)
            everyone = np.concatenate([queries, gallery])
            groups = np.concatenate([np.zeros(50, int), np.arange(1, 2001)])
            np.testing.assert_array_equal(neighbors(everyone, k=5, metric=metric, groups=groups).ids[:50] - 50, whole)


def test_what_does_not_fit_together_is_refused():
    x = RNG(0).standard_normal((10, 4))
    with pytest.raises(errors.BadShape, match="4 wide, the gallery 3"):
        neighbors_in(x, x[:, :3], k=1)
    with pytest.raises(errors.BadShape, match="one gallery row a query"):
        neighbors_in(x, x, k=1, exclude=np.arange(3))
    with pytest.raises(errors.BadShape, match="9 entries for a gallery of at least 10"):
        neighbors_in(x, x, k=1, groups=(range(10), range(9)))
    with pytest.raises(errors.BadShape, match="11 entries for a gallery of 10"):
        neighbors_in(x, x, k=1, groups=(range(10), range(11)))
    with pytest.raises(errors.BadShape, match="5 rows came, numbered up to 9"):
        neighbors_in(x, [(5, x[5:])], k=1)
    with pytest.raises(errors.TooFewRows, match="query 0 has fewer candidates among 10"):
        neighbors_in(x, x, k=10, exclude=np.arange(10))
    with pytest.raises(errors.NotFinite, match="gallery from row 5"):
        neighbors_in(x, blocks(np.where(np.arange(10)[:, None] == 7, np.nan, x), 5), k=1)
    with pytest.raises(errors.BadChoice, match="scale both alike"):
        neighbors_in(x, x * 1e30, k=1, metric="ip")
    with pytest.raises(errors.BadChoice, match="k = 0"):
        neighbors_in(x, x, k=0)
    with pytest.raises(errors.BadChoice, match="there are cosine, ip, euclidean"):
        neighbors_in(x, x, k=1, metric="dot")  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.BadChoice, match="wanted gallery rows 0 to 9"):
        neighbors_in(x, x, k=1, exclude=np.arange(10) + 5)
    with pytest.raises(errors.BadShape, match="whole numbers, got float64"):
        neighbors_in(x, x, k=1, exclude=np.zeros(10))


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_an_approximate_graph_reports_the_recall_that_it_has(index):
    pytest.importorskip("faiss")
    x = RNG(0).standard_normal((3000, 64)).astype(np.float32)
    result = approximate_neighbors(x, k=10, index=index, effort=8, sample=3000)
    true = neighbors(x, k=10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(result.ids.tolist(), true.ids.tolist(), strict=True)])
    assert result.recall == pytest.approx(recall)
    assert 0.1 < recall < 1
    assert f"recall {recall:.4f} on 3000 rows" in result.backend
    assert (result.ids != np.arange(3000)[:, None]).all()


def test_more_effort_finds_more():
    pytest.importorskip("faiss")
    x = RNG(1).standard_normal((3000, 16)).astype(np.float32)
    little, much = (approximate_neighbors(x, k=10, index="ivf", effort=effort).recall for effort in (1, 200))
    assert little < 0.7 < 0.999 < much


def test_an_approximate_graph_keeps_groups_apart_and_orders_in_float64():
    pytest.importorskip("faiss")
    x = np.repeat(RNG(2).standard_normal((200, 8)), 3, axis=0)
    codes = np.repeat(np.arange(200), 3)
    result = approximate_neighbors(x, k=4, index="ivf", groups=codes, effort=600)
    assert (codes[result.ids] != codes[:, None]).all()
    assert result.recall == 1.0
    np.testing.assert_array_equal(result.ids, neighbors(x, k=4, groups=codes).ids)


def test_an_unknown_index_is_refused():
    with pytest.raises(errors.BadChoice, match="ivf or hnsw"):
        approximate_neighbors(np.eye(5), k=1, index="annoy")  # pyright: ignore[reportArgumentType]
