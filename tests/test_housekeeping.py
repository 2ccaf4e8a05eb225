"""Does gc take what nobody needs and nothing else, does du add up, does mv rename without changing a digest?"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.derived.graphs import graph
from featcache.derived.writer import store_derived
from featcache.errors import FeatcacheError, FeaturesNotCached, UsageError
from featcache.maintenance.gc import discard, leftovers, rename, usage
from featcache.maintenance.verify import verify
from featcache.store.leases import lease, leases
from tests.spine import tiny_cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return tiny_cache(tmp_path)


def litter(cache: Cache) -> list[Path]:
    array = cache.find("openmoji", "minilm").path
    paths = [array / ".tmp-1", array / "commits" / ".tmp-2", array / ".aside-c.0.0-3"]
    paths += [cache.root / "openmoji" / "images" / "rows-00.parquet", cache.root / "openmoji" / "overlay-00.parquet"]
    for path in paths:
        path.write_bytes(b"12345")
    folders = [array.parent / ".doomed-4", array / ".tmp-c.7.0.lock", cache.root / ".repair-5"]
    for path in folders:
        path.mkdir()
    (folders[0] / "c.0.0").write_bytes(b"1234567")
    return paths + folders


def snapshot(cache: Cache) -> dict[str, bytes]:
    return {name: cache.folder.read(name) for name, _ in cache.folder.files()}


def test_gc_finds_every_leftover_and_nothing_else(cache: Cache) -> None:
    assert leftovers(cache) == []
    before = snapshot(cache)
    made = litter(cache)
    left = leftovers(cache)
    assert sorted(each.path for each in left) == sorted(made)
    assert {each.bytes for each in left if each.path.name.startswith(".doomed")} == {7}
    for each in left:
        discard(each)
    assert snapshot(cache) == before
    assert leftovers(cache) == [] and list(verify(cache)) == []


def test_what_a_live_writer_may_hold_is_left_alone_and_older_litter_is_not(cache: Cache) -> None:
    array = cache.find("openmoji", "minilm").path
    old = array / ".tmp-old"
    old.write_bytes(b"1")
    time.sleep(1.2)
    with lease(cache.folder, "extract minilm"):
        new = array / ".tmp-new"
        new.write_bytes(b"1")
        left = {each.path.name: each for each in leftovers(cache)}
        assert left[".tmp-old"].holder is None
        assert left[".tmp-new"].holder == f"extract minilm, process {os.getpid()} on {os.uname().nodename}"
        with pytest.raises(UsageError, match="may be needed by extract minilm"):
            discard(left[".tmp-new"])
    assert {each.holder for each in leftovers(cache)} == {None}


def test_gc_offers_graphs_that_a_deeper_one_of_the_same_rows_serves_and_no_others(cache: Cache) -> None:
    features = cache.load("openmoji", "minilm")
    for k in (3, 5, 9):
        graph(cache, features, k=k)
    graph(cache, features, k=4, metric="euclidean")
    graph(cache, features, k=2, rows="each")
    left = leftovers(cache)
    assert sorted(each.what for each in left) == [f"graph {k} deep: one 9 deep serves every smaller k" for k in (3, 5)]
    assert {each.path.parent.name for each in left} == {"graph.cosine"}
    for each in left:
        discard(each)
    assert leftovers(cache) == [] and list(verify(cache)) == []
    assert graph(cache, features, k=3).origin == "cached, 9 deep"
    assert graph(cache, features, k=4, metric="euclidean").origin == "cached, 4 deep"


WRITER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from featcache.storage.local import LocalFolder
from featcache.store.leases import lease
with lease(LocalFolder(Path(sys.argv[1])), "push"):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_writer_that_was_killed_holds_nothing(cache: Cache) -> None:
    command = [sys.executable, "-c", WRITER, str(cache.root), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        (cache.root / "openmoji" / ".tmp-1").write_bytes(b"1")
        assert [each.holder is None for each in leftovers(cache)] == [False]
        process.kill()
    left = leftovers(cache)
    assert sorted(each.what for each in left) == ["note of a writer that died", "temporary file"]
    for each in left:
        discard(each)
    assert leftovers(cache) == []


def test_a_writer_on_another_machine_counts_as_dead_when_its_heart_stops(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with lease(cache.folder, "extract"):
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        (writer,), now = leases(cache.root)
        assert writer.lives(now)
        assert not writer.lives(now + 200)


def test_tables_stay_where_a_key_cannot_be_read(cache: Cache) -> None:
    (cache.find("openmoji", "minilm").path / "key.json").write_text("{}")
    assert leftovers(cache) == []


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
    assert {each.what for each in leftovers(cache)} <= {"table that no array is bound to"}


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
