"""What `make attack` found once: each reproduction, without the harness."""

import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from featcache.cache import Cache
from featcache.errors import Damaged, FeaturesNotCached
from featcache.maintenance.gc import clean, leftovers, rename
from featcache.maintenance.repair import Sources, repair
from featcache.maintenance.superseded import superseded_arrays
from featcache.maintenance.verify import verify
from featcache.sharing import transfer as transfers
from featcache.sharing.diff import plan_transfer
from featcache.sharing.transfer import transfer
from featcache.storage.local import LocalFolder
from featcache.storage.outputs import write_output
from featcache.storage.processes import process_mark, this_process
from featcache.store.array import FeatureArray
from featcache.store.current import set_current
from featcache.store.leases import FOLDER
from featcache.store.mark import write_mark
from featcache.store.rows import write_rows
from tests.fakes import text_dataset
from tests.small_caches import DATASET, LAYOUT, VIEW, N, key, store, values


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    store(cache)
    write_mark(cache.root)
    return cache


def store_older_rows(cache: Cache) -> FeatureArray:
    """An array of the same names whose rows are one fewer."""
    older = text_dataset(N - 1)
    view = older.views["captions"]
    write_rows(cache.folder / DATASET.name / VIEW.name, view, older.overlay)
    binds = {**key().binds, "rows": {**key().binds["rows"], "root": view.root, "n": N - 1}}
    named, layout = replace(key(), binds=binds), replace(LAYOUT, n=N - 1)
    array = cache.array(named.path)
    array.create(named, layout)
    for chunk in range(layout.chunks):
        span = slice(*layout.span(chunk))
        array.commit(layout, chunk, values()[: N - 1][span], writer="w", ids=view.ids[span])
    array.finish(layout)
    return array


def tree(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file() and ".leases" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_an_array_folder_without_a_file_is_a_leftover_and_stops_no_other_command(cache: Cache) -> None:
    set_current(cache.folder / DATASET.name / VIEW.name, VIEW.root, N)
    empty = cache.array(key().path).path.with_name("0" * 32)
    (empty / "commits").mkdir(parents=True)
    assert [entry.damaged for entry in cache.entries()] == [False, False] and list(verify(cache)) == []
    assert [each.path for each in clean(cache).found] == [empty] and not empty.exists()


def test_one_record_that_cannot_be_read_stops_no_cleaning(cache: Cache) -> None:
    (cache.root / DATASET.name / VIEW.name / "current.json").write_text("{")
    litter = cache.root / f".tmp-{uuid.uuid4().hex}"
    litter.write_bytes(b"1")
    assert superseded_arrays(cache).found == ()
    assert [each.path for each in clean(cache).found] == [litter]
    assert any("current.json" in problem.what for problem in verify(cache))


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_renaming_killed_between_two_arrays_is_ended_by_the_same_command(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    store_older_rows(cache)
    whole = Cache(tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    subprocess.run(["cp", "-r", f"{cache.root}/.", f"{whole.root}"], check=True)
    rename(whole, DATASET.name, "new")
    real, count = Path.rename, iter(range(99))

    def killed(path: Path, target: Path) -> Path:
        if len(path.name) == 32 and next(count) == moved:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    if moved < 2:
        with pytest.raises(KeyboardInterrupt):
            rename(cache, DATASET.name, "new")
        monkeypatch.undo()
    rename(cache, DATASET.name, "new")
    assert tree(cache.root) == tree(whole.root)
    assert [entry.other_name for entry in cache.entries()] == ["", ""]


def test_the_marker_of_a_killed_cleaning_is_a_leftover(cache: Cache) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    owner = replace(this_process(), number=gone.pid, started="1").to_json()
    gone.wait()
    marker = cache.root / FOLDER / uuid.uuid4().hex
    marker.parent.mkdir(exist_ok=True)
    marker.write_text(json.dumps(owner | {"what": "featcache gc", "began": 1.0, "cleans": True}))
    assert [each.path for each in leftovers(cache).found] == [marker]
    clean(cache)
    assert not marker.exists()


def test_a_link_to_itself_in_place_of_a_file_is_named(cache: Cache) -> None:
    path = cache.array(key().path).path / "COMPLETE.json"
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(Damaged, match="COMPLETE.json is a link that leads to itself"):
        cache.load(DATASET.name, "fake")
    assert cache.entries()[0].damaged and list(verify(cache))


def test_an_array_that_has_only_been_begun_stays_behind_without_a_word(cache: Cache, tmp_path: Path) -> None:
    begun = cache.array(key("0.mean").path).path
    begun.mkdir(parents=True)
    target = Cache(tmp_path / "there")
    transfer(plan_transfer(cache, target))
    assert [entry.layer for entry in target.entries()] == ["last.mean"]
    alone = Cache(tmp_path / "alone")
    (alone.root / key().path).mkdir(parents=True)
    with pytest.raises(FeaturesNotCached, match="no chunk of an array is there"):
        plan_transfer(alone, target)


def test_an_array_that_is_renamed_while_it_travels_is_said_to_be(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, once = transfers._read_chunk, iter([True])  # pyright: ignore[reportPrivateUsage]

    def read(array: FeatureArray, record: object) -> bytes | None:
        if next(once, False):
            rename(cache, f"{DATASET.name}/captions/fake", f"{DATASET.name}/captions/other")
        return real(array, record)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(transfers, "_read_chunk", read)
    with pytest.raises(Damaged, match="was renamed or removed meanwhile. Run the same command again"):
        transfer(plan_transfer(cache, Cache(tmp_path / "there")))


def test_what_a_killed_writer_of_an_output_left_is_removed_by_the_next(tmp_path: Path) -> None:
    own = process_mark(this_process())
    here, boot, number, start = own.split("-")
    left = {
        "killed": f"{here}-{boot}-{number}-{'0' * 8}",
        "before the last start": f"{here}-{'0' * 8}-1-{start}",
        "ours": own,
        "of another host": f"{'0' * 8}-{boot}-{number}-{start}",
    }
    paths = {what: tmp_path / f".page.html.tmp-{mark}-{'1' * 8}" for what, mark in left.items()}
    paths["of another file"] = tmp_path / f".page.htm.tmp-{left['killed']}-{'1' * 8}"
    paths["the user's"] = tmp_path / ".page.html.tmp-mine"
    for path in paths.values():
        path.write_text("half")
    write_output(tmp_path / "page.html", b"whole")
    assert {what for what, path in paths.items() if not path.exists()} == {"killed", "before the last start"}
    assert (tmp_path / "page.html").read_bytes() == b"whole"
    assert sorted(os.listdir(tmp_path))[-1] == "page.html"


def test_a_repair_killed_before_the_completion_is_written_again_leaves_it_to_the_next(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, before = cache.array(key().path), tree(cache.root)
    (array.path / "COMPLETE.json").write_bytes(b"{")
    replace_file = LocalFolder.replace

    def killed(folder: LocalFolder, name: str, content: bytes) -> None:
        if name == "COMPLETE.json":
            raise KeyboardInterrupt
        replace_file(folder, name, content)

    monkeypatch.setattr(LocalFolder, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        repair(cache, "*", Sources())
    monkeypatch.undo()
    assert repair(cache, "*", Sources()) == [] and tree(cache.root) == before


def test_a_bit_that_is_flipped_in_what_a_key_only_tells_is_named_too(cache: Cache) -> None:
    path = cache.array(key().path).path / "key.json"
    path.write_bytes(path.read_bytes().replace(b"default_layer", b"default_layez"))
    with pytest.raises(Damaged, match="key.json was changed: its content has hash"):
        cache.load(DATASET.name, "fake")
    assert ["key.json was changed" in problem.what for problem in verify(cache)] == [True]


def test_a_key_of_featcache_0_1_has_no_hash_and_gets_one_when_it_is_written_anew(cache: Cache) -> None:
    path = cache.array(key().path).path / "key.json"
    value = json.loads(path.read_bytes())
    del value["blake3"]
    path.write_text(json.dumps(value))
    assert cache.load(DATASET.name, "fake").name and list(verify(cache)) == []
    rename(cache, DATASET.name, "new")
    [array] = cache.arrays()
    assert "blake3" in json.loads((array.path / "key.json").read_bytes())


def test_an_output_may_have_as_long_a_name_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'ü' * 120}.parquet"
    write_output(path, b"whole")
    assert path.read_bytes() == b"whole" and os.listdir(tmp_path) == [path.name]
