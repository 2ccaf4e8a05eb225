"""Are neighbour graphs searched once, kept with what they are bound to, and as exact from the cache as searched?"""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache import metrics
from featcache.cache import Cache
from featcache.data.views import Dataset
from featcache.derived.graphs import ROW_RULES, RowRule, cached_graph, graph
from featcache.errors import Damaged, FeaturesNotCached, UsageError
from featcache.features import Features
from featcache.maintenance.verify import verify
from featcache.metrics import neighbors, paired
from featcache.metrics.errors import TooFewRows
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.storage.local import LocalFolder
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.layout import Layout
from featcache.store.rows import write_rows
from tests.spine import tiny_cache, tiny_dataset

CAPTIONS, PHOTOS = 3, 40


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return tiny_cache(tmp_path, photos=PHOTOS, captions=CAPTIONS)


def captions(cache: Cache) -> Features:
    return cache.load("openmoji", "minilm")


def photos(cache: Cache) -> Features:
    return cache.load("openmoji", "efficientnet-lite0")


def searched(features: Features, rows: RowRule, k: int, **options: Any) -> metrics.Neighbors:
    """The graph as anyone would make it without a cache."""
    groups = features.groups.tolist()
    if rows == "each":
        return neighbors(features.values, k=k, groups=groups, **options)
    return neighbors(paired(features.values, features.values, groups, groups, mode=rows).x, k=k, **options)


@pytest.mark.parametrize("metric", ["cosine", "ip", "euclidean"])
@pytest.mark.parametrize("rows", ROW_RULES)
def test_a_graph_from_the_cache_is_the_graph_that_a_search_finds(
    cache: Cache, searches: list[int], rows: RowRule, metric: Any
) -> None:
    features = captions(cache)
    first = graph(cache, features, k=6, rows=rows, metric=metric)
    again = graph(cache, features, k=6, rows=rows, metric=metric, similarities=True)
    oracle = searched(features, rows, 6, metric=metric)
    assert searches == [6]
    assert (first.origin, again.origin) == ("searched and cached", "cached, 6 deep")
    for result in (first, again):
        np.testing.assert_array_equal(result.neighbors.ids, oracle.ids)
        np.testing.assert_array_equal(result.neighbors.similarities, oracle.similarities)
        assert result.neighbors.metric == metric and len(result.rows) == oracle.n
    assert again.neighbors.backend == "cache"
    assert np.isnan(graph(cache, features, k=6, rows=rows, metric=metric).neighbors.similarities).all()


def test_a_deeper_graph_serves_every_smaller_k_and_a_deeper_wish_is_searched(cache: Cache, searches: list[int]) -> None:
    features = captions(cache)
    deep = graph(cache, features, k=12)
    for k in (1, 5, 12):
        result = graph(cache, features, k=k)
        np.testing.assert_array_equal(result.neighbors.ids, deep.neighbors.ids[:, :k])
        assert result.origin == "cached, 12 deep"
    assert searches == [12]
    graph(cache, features, k=13)
    assert searches == [12, 13] and graph(cache, features, k=2).origin == "cached, 13 deep"
    assert cached_graph(cache, features).neighbors.k == 13  # pyright: ignore[reportOptionalMemberAccess]


def test_metric_row_rule_and_features_each_have_a_graph_of_their_own(cache: Cache, searches: list[int]) -> None:
    for features in (captions(cache), photos(cache)):
        assert cached_graph(cache, features) is None
        for metric in ("cosine", "euclidean"):
            graph(cache, features, k=3, metric=metric)
    assert len(searches) == 4
    for rows in ROW_RULES:
        graph(cache, captions(cache), k=3, rows=rows)
        graph(cache, photos(cache), k=3, rows=rows)
    assert len(searches) == 6, "photos have one row a group, so the three rules are one graph"


def test_rows_of_one_group_are_never_neighbours(cache: Cache) -> None:
    features = captions(cache)
    for _ in range(2):
        ids = graph(cache, features, k=4, rows="each").neighbors.ids
        assert not (features.groups[ids] == features.groups[:, None]).any()


def test_kept_ids_are_row_numbers_of_the_array_and_name_groups_by_their_first_row(cache: Cache) -> None:
    features = captions(cache)
    ids = graph(cache, features, k=4).neighbors.ids
    kept = cache.load("openmoji", "minilm.last.mean/graph.cosine")
    assert kept.values.dtype == np.int32 and kept.ids.tolist() == features.ids.tolist()
    np.testing.assert_array_equal(kept.values, np.repeat(ids * CAPTIONS, CAPTIONS, axis=0))


def test_features_with_another_root_have_another_graph(cache: Cache, searches: list[int]) -> None:
    before = graph(cache, captions(cache), k=4)
    rewrite(cache, lambda values: values[::-1].copy())
    after = graph(cache, captions(cache), k=4)
    assert searches == [4, 4] and after.origin == "searched and cached"
    assert not np.array_equal(before.neighbors.ids, after.neighbors.ids)
    assert graph(cache, captions(cache), k=4).origin == "cached, 4 deep"


def test_other_groups_of_the_same_rows_have_another_graph(cache: Cache, searches: list[int]) -> None:
    features = captions(cache)
    graph(cache, features, k=4, rows="each")
    regrouped = replace(features, groups=np.roll(features.groups, 1))
    result = graph(cache, regrouped, k=4, rows="each")
    assert searches == [4, 4]
    np.testing.assert_array_equal(result.neighbors.ids, searched(regrouped, "each", 4).ids)
    renamed = replace(features, groups=np.array([f"photo {group}" for group in features.groups], object))
    assert graph(cache, renamed, k=4, rows="each").origin == "cached, 4 deep", "a group's name is nobody's neighbour"


def test_rows_that_failed_at_extraction_are_in_no_graph_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    cache, dataset = Cache(tmp_path), tiny_dataset(20, 2)
    values = np.random.default_rng(3).standard_normal((40, 6)).astype(np.float32)
    values[[0, 7, 8, 9]] = np.nan  # the first caption of a photo; one of another; a whole photo
    store_with_failures(cache, dataset, values)
    features = cache.load("openmoji", "minilm")
    assert len(features) == 36
    for rows in ROW_RULES:
        first, again = (graph(cache, features, k=4, rows=rows) for _ in range(2))
        assert again.origin == "cached, 4 deep"
        np.testing.assert_array_equal(first.neighbors.ids, again.neighbors.ids)
        np.testing.assert_array_equal(first.neighbors.ids, searched(features, rows, 4).ids)
    kept = [array.read() for array in cache.arrays(layer="graph.cosine")]
    for ids in kept:
        assert (ids[[0, 7, 8, 9]] == -1).all() and not np.isin(ids, [0, 7, 8, 9]).any()
    assert list(verify(cache, deep=True)) == []


def test_graphs_travel_with_their_features_and_serve_where_they_arrive(
    cache: Cache, tmp_path: Path, searches: list[int]
) -> None:
    sent, there = graph(cache, captions(cache), k=7), Cache(tmp_path / "there")
    transfer(plan_transfer(cache, there, ["openmoji/captions/minilm*"]))
    assert {entry.encoder for entry in there.entries()} == {"minilm", "minilm.last.mean"}
    assert list(verify(there, deep=True)) == []
    result = graph(there, captions(there), k=5)
    assert result.origin == "cached, 7 deep" and searches == [7]
    np.testing.assert_array_equal(result.neighbors.ids, sent.neighbors.ids[:, :5])


def test_a_cached_graph_leaves_names_of_encoders_as_they_were(cache: Cache) -> None:
    graph(cache, captions(cache), k=3)
    graph(cache, captions(cache), k=4)
    assert captions(cache).layer == "last.mean"
    assert {entry.layer for entry in cache.entries("openmoji/captions/minilm*")} == {"last.mean", "graph.cosine"}


@pytest.mark.parametrize("failure", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_cache_that_cannot_be_written_to_costs_a_search_and_no_error(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, searches: list[int], failure: int
) -> None:
    def refuse(*args: Any) -> bool:
        raise OSError(failure, "refused by this disk", str(args[0]))

    features = captions(cache)
    oracle = searched(features, "mean", 3)
    monkeypatch.setattr(LocalFolder, "write_once", refuse)
    for _ in range(2):
        result = graph(cache, features, k=3)
        assert result.origin == f"searched, not cached: refused by this disk ({cache.folder})"
        np.testing.assert_array_equal(result.neighbors.ids, oracle.ids)
    assert searches == [3, 3]
    monkeypatch.undo()
    assert graph(cache, features, k=3).origin == "searched and cached"


def test_a_graph_of_a_remote_is_searched_and_not_written_there(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    features = captions(cache)
    monkeypatch.setattr("featcache.derived.graphs.LocalFolder", type(None))  # what lies on no disk of ours
    result = graph(cache, features, k=3)
    assert result.origin == f"searched, not cached: {cache.folder} is a remote"
    assert cached_graph(cache, features) is None


def test_a_damaged_graph_is_named_and_not_read(cache: Cache) -> None:
    graph(cache, captions(cache), k=3)
    [array] = cache.arrays(layer="graph.cosine")
    chunk = array.path / "c.0.0"
    flipped = bytearray(chunk.read_bytes())
    flipped[5] ^= 1
    chunk.write_bytes(flipped)
    with pytest.raises(Damaged, match="chunk 0"):
        graph(cache, captions(cache), k=3)
    assert any("graph.cosine" in problem.where for problem in verify(cache))


def test_parts_of_features_unknown_rules_and_too_large_a_k_are_refused(cache: Cache) -> None:
    features = captions(cache)
    with pytest.raises(UsageError, match="every row"):
        graph(cache, features.take(np.arange(60)), k=3)
    graph(cache, features, k=3)
    with pytest.raises(UsageError, match="every row"):
        graph(cache, features.take(np.arange(60)), k=3)
    with pytest.raises(UsageError, match="mean, first, each"):
        graph(cache, features, k=3, rows="median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TooFewRows, match="minilm/last.mean|k = 40"):
        graph(cache, features, k=PHOTOS)


def rewrite(cache: Cache, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Other bytes under the same digest, as another device would write them."""
    array = cache.find("openmoji", "minilm")
    key, plan, values = array.key(), array.complete().layout, array.read()
    array.folder.delete()
    array.create(key, plan)
    values = change(values)
    for chunk in range(plan.chunks):
        array.commit(plan, chunk, values[slice(*plan.span(chunk))], writer="another")
    array.finish(plan)


def store_with_failures(cache: Cache, dataset: Dataset, values: np.ndarray) -> None:
    view = dataset.views["captions"]
    write_rows(cache.folder / dataset.name / view.name, view, dataset.overlay)
    rows = {"modality": view.modality, "decoding": {}, "root": view.root, "n": len(view)}
    binds = {"format": FORMAT, "rows": rows, "encoder": {"test": "minilm"}, "layer": "last.mean"}
    binds |= {"dtype": str(values.dtype), "d": values.shape[1]}
    key = ArrayKey(dataset.name, view.name, "minilm", "last.mean", binds, {"default_layer": "last.mean"})
    array = cache.array(key.path)
    plan = array.create(key, Layout(len(view), len(view), 8, "row", 1))
    array.commit(plan, 0, values, writer="a test", ids=view.ids)
    array.finish(plan)


@pytest.mark.parametrize(
    ("dataset", "name", "message", "command"),
    [
        ("openmoji", "minilm/99.mean", "captions/minilm/ last.mean", "featcache extract openmoji minilm"),
        ("openmoji", "minilm/nolayer", "captions/minilm/ last.mean", "featcache extract openmoji minilm"),
        ("openmoji", "minilm@abc", "captions/minilm/ last.mean@", "featcache ls 'openmoji/*/minilm'"),
        ("openmoji", "gpt2", "minilm/last.mean", "featcache extract openmoji gpt2"),
        ("openmojy", "minilm", "Did you mean openmoji?", "featcache ls openmoji"),
        ("openmojy", "gpt2", "Did you mean openmoji?", "featcache extract openmoji gpt2"),
    ],
)
def test_what_is_not_cached_is_answered_with_features_never_with_graphs(
    cache: Cache, dataset: str, name: str, message: str, command: str
) -> None:
    graph(cache, captions(cache), k=4)
    with pytest.raises(FeaturesNotCached) as raised:
        cache.load(dataset, name)
    text = str(raised.value)
    assert message in text and text.endswith(f"Run: {command}") and "graph." not in text
