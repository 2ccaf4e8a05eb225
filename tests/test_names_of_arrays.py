"""A folder under another name than the array in it was made under: an error for a layer, a warning for the rest."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from featcache.cache import Cache
from featcache.errors import Damaged
from featcache.maintenance.gc import leftovers, rename
from featcache.maintenance.verify import verify
from featcache.notices import notice
from featcache.sharing.transfer import plan_transfer, transfer
from tests.small_caches import DATASET, VIEW, key, store
from tests.test_cli import featcache

PLACES = {
    "data set": ("other", "captions", "fake"),
    "view": (DATASET.name, "names-de", "fake"),
    "encoder": (DATASET.name, "captions", "resnet18"),
}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    notice.cache_clear()
    cache = Cache(tmp_path / "cache")
    store(cache)
    return cache


def put(cache: Cache, dataset: str, view: str, encoder: str) -> None:
    """Renames an array's folder by hand, with the tables that belong to it."""
    here, there = cache.root / DATASET.name, cache.root / dataset
    if dataset != DATASET.name:
        shutil.copytree(here, there)
    if view != VIEW.name:
        shutil.copytree(there / VIEW.name, there / view)
    if encoder != "fake":
        (there / view / "fake").rename(there / view / encoder)


def test_an_array_under_another_layers_name_is_an_error(cache: Cache, tmp_path: Path) -> None:
    array = cache.array(key().path)
    array.path.parent.rename(array.path.parent.with_name("0.mean"))
    with pytest.raises(Damaged, match="holds layer 'last.mean', not '0.mean'"):
        cache.load(DATASET.name, "fake/0.mean")
    with pytest.raises(Damaged, match="holds layer"):
        transfer(plan_transfer(cache, Cache(tmp_path / "mine")))
    assert any("holds layer 'last.mean'" in problem.what for problem in verify(cache))
    assert [entry.damaged for entry in cache.entries()] == [True]


@pytest.mark.parametrize("what", PLACES)
def test_an_array_under_another_name_is_named_by_every_use(
    what: str, cache: Cache, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    put(cache, *PLACES[what])
    name = "/".join(PLACES[what])
    made_as = f"{DATASET.name}/captions/fake/last.mean"
    with caplog.at_level(logging.WARNING, "featcache"):
        cache.load(PLACES[what][0], f"{PLACES[what][1]}/{PLACES[what][2]}")
        cache.load(PLACES[what][0], f"{PLACES[what][1]}/{PLACES[what][2]}")
    [record] = caplog.records
    assert f"made under, {made_as}" in record.message and f"featcache mv {name} {name}" in record.message
    for command in (("ls",), ("ls", "--json"), ("verify",), ("show", PLACES[what][0], "/".join(PLACES[what][1:]))):
        done = featcache(*command, "--cache", str(cache.root), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"{name}/last.mean was made as {made_as}" in " ".join(done.stderr.split()), command
    assert any(entry.other_name == made_as for entry in cache.entries(name))


def test_a_mismatch_travels_and_is_named_there_too(cache: Cache, tmp_path: Path) -> None:
    put(cache, *PLACES["encoder"])
    there = Cache(tmp_path / "there")
    transfer(plan_transfer(cache, there))
    [entry] = there.entries()
    assert entry.other_name == f"{DATASET.name}/captions/fake/last.mean"


@pytest.mark.parametrize("what", PLACES)
def test_mv_records_the_name_which_then_is_known(
    what: str, cache: Cache, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    parts = list(PLACES).index(what) + 1
    root = cache.array(key().path).complete().root
    rename(cache, "/".join(key().names[:parts]), "/".join(PLACES[what][:parts]))
    [entry] = cache.entries()
    assert (entry.dataset, entry.view, entry.encoder) == PLACES[what] and entry.other_name == ""
    array = cache.array("/".join((*PLACES[what], "last.mean", entry.digest)))
    assert array.complete().root == root and entry.digest == key().digest
    value = json.loads((array.path / "key.json").read_bytes())
    assert list(value["names"].values()) == [DATASET.name, "captions", "fake", "last.mean"]
    assert list(value["renamed"].values()) == [*PLACES[what], "last.mean"]
    with caplog.at_level(logging.WARNING, "featcache"):
        cache.load(entry.dataset, f"{entry.view}/{entry.encoder}")
    assert caplog.records == [] and list(verify(cache, deep=True)) == []
    there = Cache(tmp_path / "there")
    transfer(plan_transfer(cache, there))
    assert [one.other_name for one in there.entries()] == [""]


def test_back_under_its_first_name_nothing_is_recorded(cache: Cache) -> None:
    before = (cache.array(key().path).path / "key.json").read_bytes()
    rename(cache, f"{DATASET.name}/captions/fake", f"{DATASET.name}/captions/other")
    rename(cache, f"{DATASET.name}/captions/other", f"{DATASET.name}/captions/fake")
    assert (cache.array(key().path).path / "key.json").read_bytes() == before


def test_what_the_warning_says_to_run_records_the_name(cache: Cache, tmp_path: Path) -> None:
    put(cache, *PLACES["encoder"])
    name = "/".join(PLACES["encoder"])
    done = featcache("mv", name, name, "--cache", str(cache.root), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [entry.other_name for entry in cache.entries()] == [""] and leftovers(cache).found == ()


def test_a_folder_renamed_by_hand_behind_a_recorded_renaming_is_named(cache: Cache) -> None:
    rename(cache, f"{DATASET.name}/captions/fake", f"{DATASET.name}/captions/other")
    folder = cache.root / DATASET.name / "captions"
    (folder / "other").rename(folder / "third")
    [entry] = cache.entries()
    assert entry.other_name == f"{DATASET.name}/captions/other/last.mean"
