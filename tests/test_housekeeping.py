"""Does gc take what nobody needs and nothing else, does du add up, does mv rename without changing a digest?"""

from pathlib import Path

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.derived.graphs import graph
from featcache.derived.writer import store_derived
from featcache.errors import FeatcacheError, FeaturesNotCached
from featcache.maintenance.gc import Leftover, clean, leftovers, rename, usage
from featcache.maintenance.verify import verify
from featcache.storage.local import LocalFolder
from featcache.store.mark import MARK
from tests.spine import tiny_cache, tiny_dataset


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return tiny_cache(tmp_path)


def litter(cache: Cache) -> list[Path]:
    """One leftover of every kind, named and filled as writers do."""
    from featcache.store.rows import write_rows

    array = cache.find("openmoji", "minilm").path
    tokens = iter(f"{number:032x}" for number in range(99))
    paths = [folder / f".tmp-{next(tokens)}" for folder in (cache.root, array, array / "commits", array.parents[2])]
    paths += [array / f".aside-c.0.0-{next(tokens)}", array / f".aside-COMPLETE.json-{next(tokens)}"]
    paths += [cache.root / f".featcache-probe-{next(tokens)}"]
    for path in paths:
        path.write_bytes(b"12345")
    folders = [
        array.parent / f".doomed-{next(tokens)}",
        array / ".tmp-c.7.0.lock",
        cache.root / f".repair-{next(tokens)}",
    ]
    folders += [array / f".tmp-{next(tokens)}.folder", array / f".tmp-plan.json.lock-{next(tokens)}.broken"]
    for path in folders:
        path.mkdir()
    (folders[0] / "c.0.0").write_bytes(b"1234567")
    unbound = tiny_dataset(3)
    view = LocalFolder(cache.root / "openmoji" / "images")
    before = set(cache.root.rglob("*.parquet")) | set(cache.root.rglob("rows-*.json"))
    write_rows(view, unbound.views["images"], unbound.overlay)
    tables = (set(cache.root.rglob("*.parquet")) | set(cache.root.rglob("rows-*.json"))) - before
    assert len(tables) == 3
    return [*paths, *folders, *tables]


def found(cache: Cache) -> list[Leftover]:
    return list(leftovers(cache).found)


def snapshot(cache: Cache) -> dict[str, bytes]:
    files = cache.folder.files()
    return {name: cache.folder.read(name) for name, _ in files if not name.startswith((".leases", MARK))}


def test_gc_finds_every_leftover_and_nothing_else(cache: Cache) -> None:
    assert found(cache) == []
    before = snapshot(cache)
    made = litter(cache)
    left = found(cache)
    assert sorted(each.path for each in left) == sorted(made)
    assert {each.bytes for each in left if each.path.name.startswith(".doomed")} == {7}
    assert clean(cache).found == tuple(left)
    assert snapshot(cache) == before
    assert found(cache) == [] and list(verify(cache)) == []


def test_gc_offers_graphs_that_a_deeper_one_of_the_same_rows_serves_and_no_others(cache: Cache) -> None:
    features = cache.load("openmoji", "minilm")
    for k in (3, 5, 9):
        graph(cache, features, k=k)
    graph(cache, features, k=4, metric="euclidean")
    graph(cache, features, k=2, rows="each")
    left = found(cache)
    assert sorted(each.what for each in left) == [f"graph {k} deep: one 9 deep serves every smaller k" for k in (3, 5)]
    assert {each.path.parent.name for each in left} == {"graph.cosine"}
    clean(cache)
    assert found(cache) == [] and list(verify(cache)) == []
    assert graph(cache, features, k=3).origin == "cached, 9 deep"
    assert graph(cache, features, k=4, metric="euclidean").origin == "cached, 4 deep"


def test_tables_stay_where_a_key_cannot_be_read(cache: Cache) -> None:
    (cache.find("openmoji", "minilm").path / "key.json").write_text("{}")
    assert found(cache) == []


def test_usage_adds_up_to_what_is_on_the_disk(cache: Cache) -> None:
    left = usage(cache)
    assert [each.path.split("/")[-1] for each in left] == ["minilm", "efficientnet-lite0", "efficientnet-lite2"]
    whole = sum(size for name, size in cache.folder.files() if name.count("/") >= 4)
    assert sum(each.features + each.records for each in left) == whole
    assert usage(cache, "openmoji/captions")[0].features == 800 * 16 * 2 + 4
    with pytest.raises(FeaturesNotCached):
        usage(cache, "openmoji/sounds")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("openmoji", "emoji"),
        ("openmoji/captions", "openmoji/names"),
        ("openmoji/captions/minilm", "openmoji/captions/minilm-v1"),
        ("openmoji/captions/minilm", "elsewhere/names/m"),
    ],
)
def test_a_renamed_array_keeps_digest_root_rows_and_bytes(cache: Cache, old: str, new: str) -> None:
    before = cache.load("openmoji", "minilm")
    store_derived(cache, before, before.values[:, :2].copy(), name="run", layer="adapted.x", made_by={"a": "1"})
    rename(cache, old, new)
    dataset, view, encoder = (new.split("/") + ["captions", "minilm"][len(new.split("/")) - 1 :])[:3]
    after = cache.load(dataset, encoder)
    np.testing.assert_array_equal(after.values, before.values)
    assert (after.digest, after.root, after.overlay) == (before.digest, before.root, before.overlay)
    assert after.ids.tolist() == before.ids.tolist() and after.splits.tolist() == before.splits.tolist()
    assert (after.dataset, after.view, after.encoder) == (dataset, view, encoder)
    assert list(verify(cache, deep=True)) == []
    with pytest.raises(FeatcacheError):
        cache.load("openmoji", "captions/minilm")
    assert {each.what for each in found(cache)} <= {"table that no array is bound to"}


def test_a_name_that_is_taken_or_of_another_form_is_refused_and_nothing_moves(cache: Cache) -> None:
    rename(cache, "openmoji/captions/minilm", "openmoji/captions/other")
    rename(cache, "openmoji/captions/other", "openmoji/captions/minilm")
    before = snapshot(cache)
    for old, new in [
        ("openmoji/images/efficientnet-lite0", "openmoji/images/efficientnet-lite0"),
        ("openmoji", "a/b"),
        ("openmoji/captions/minilm", "openmoji/captions/../../x"),
        ("openmoji/*", "openmoji/x"),
        ("nothing", "x"),
    ]:
        with pytest.raises(FeatcacheError):
            rename(cache, old, new)
    assert snapshot(cache) == before
