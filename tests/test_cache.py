"""Damage in one place is named there, does not spread, and is mended by the command that the message names."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.derived.writer import store_derived
from featcache.errors import Ambiguous, Damaged, FeatcacheError, FeaturesNotCached, NewerFormat, UsageError
from featcache.extraction.job import plan_job
from featcache.features import Features
from featcache.maintenance.gc import clean
from featcache.maintenance.verify import verify
from featcache.storage.durable import write_once
from featcache.store.array import FeatureArray
from featcache.trainer.defaults import DEMO, choose_selection
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.spine import store, tiny_cache, tiny_dataset
from tests.test_extract import EncodeOptions, encoder_spec, run


@pytest.fixture(autouse=True)
def _describe_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.job

    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path)
    run(cache, text_dataset())
    return cache


def array_of(cache: Cache, layer: str = "last.mean") -> FeatureArray:
    return cache.find("tiny", f"fake/{layer}")


def spoil(array: FeatureArray, how: str) -> None:
    path = array.path / {"chunk": "c.1.0", "newer": "COMPLETE.json"}.get(how, how)
    if how == "chunk":
        path.unlink()
    elif how == "newer":
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 2}))
    else:
        path.write_bytes(b"{")


SPOILT = ("key.json", "COMPLETE.json", "plan.json", "chunk")


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_array_is_refused_by_extract_found_by_verify_and_mended_by_rm_and_extract(
    cache: Cache, how: str
) -> None:
    array = array_of(cache)
    spoil(array, how)
    with pytest.raises(Damaged):
        plan_job(cache, text_dataset(), encoder_spec("minilm"), EncodeOptions())
    problems = list(verify(cache))
    assert problems and all("last.mean" in problem.where for problem in problems)
    assert len(cache.entries()) == 3, "the others are still listed"
    assert len(cache.load("tiny", "fake/0.mean")) == 50, "and loaded"
    for array in cache.select("tiny", "fake/last.mean"):
        cache.remove(array)
    assert run(cache, text_dataset()).rows == 50
    assert not list(verify(cache))


def test_a_newer_format_is_not_called_damage(cache: Cache) -> None:
    spoil(array_of(cache), "newer")
    with pytest.raises(NewerFormat):
        plan_job(cache, text_dataset(), encoder_spec("minilm"), EncodeOptions())
    assert ["pip install --upgrade" in problem.what for problem in verify(cache)] == [True]


@pytest.mark.parametrize("name", ["rows-*.parquet", "rows-*.json", "overlay-*.parquet"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\x00\x01garbage"])
def test_extract_writes_damaged_row_tables_and_splits_anew(cache: Cache, name: str, content: bytes | None) -> None:
    [path] = cache.root.glob(f"tiny/**/{name}")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Damaged, match="extract again"):
        cache.load("tiny", "fake")
    assert list(verify(cache))
    assert run(cache, text_dataset()).rows == 0
    assert len(cache.load("tiny", "fake")) == 50
    assert not list(verify(cache))


def test_a_missing_key_is_found_and_the_folder_can_be_removed(cache: Cache) -> None:
    array = array_of(cache)
    (array.path / "key.json").unlink()
    assert [problem.what for problem in verify(cache)] == ["key.json is missing"]
    assert [entry.damaged for entry in cache.entries("*/*/*/last.mean")] == [True]
    cache.remove(array)
    assert not list(verify(cache))


def test_records_that_contradict_the_plan_are_found(cache: Cache) -> None:
    path = array_of(cache).path / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"batch_size": 5}))
    assert [problem.what for problem in verify(cache)] == ["COMPLETE.json is not of the plan in plan.json"]
    with pytest.raises(Damaged, match="is not of the plan"):
        cache.load("tiny", "fake")


def test_what_an_interrupted_removal_left_is_not_an_array(cache: Cache) -> None:
    array = array_of(cache)
    left = array.path.with_name(f".doomed-{0:032x}")
    shutil.copytree(array.path, left)
    assert len(cache.entries()) == 3
    cache.remove(array)
    assert [each.path for each in clean(cache).found] == [left] and not left.exists()


def test_removing_the_last_array_of_a_view_removes_its_row_table(cache: Cache) -> None:
    for array in list(cache.arrays()):
        assert list(cache.root.glob("tiny/captions/rows-*"))
        cache.remove(array)
    assert not list(cache.root.glob("tiny/captions/*"))


def test_other_rows_under_the_same_name_keep_their_own_splits(cache: Cache) -> None:
    before = cache.load("tiny", "fake")
    run(cache, text_dataset(30))
    again = cache.load("tiny", f"fake@{before.digest}")
    assert again.splits.tolist() == before.splits.tolist() and len(again) == 50


def test_a_digest_names_an_array_of_any_layer(cache: Cache) -> None:
    digest = array_of(cache, "0.mean").path.name
    assert cache.load("tiny", f"fake@{digest[:10]}").layer == "0.mean"


def test_a_folder_data_set_is_found_by_the_name_it_was_extracted_under(cache: Cache) -> None:
    assert len(cache.load("folder:tiny", "fake")) == 50


def test_an_unknown_data_set_is_an_error_that_lists_what_is_cached(cache: Cache) -> None:
    with pytest.raises(FeaturesNotCached, match="holds: tiny. Did you mean tiny"):
        cache.entries("tinyy")


def test_the_default_selection_is_not_passed_over_when_it_is_ambiguous_or_damaged(tmp_path: Path) -> None:
    cache, dataset = tiny_cache(tmp_path), tiny_dataset()
    assert choose_selection(cache) == DEMO
    store(cache, dataset, dataset.views["captions"], "minilm", np.ones((800, 16), np.float32))
    with pytest.raises(Ambiguous):
        choose_selection(cache)


def test_the_lock_of_a_dead_writer_is_broken_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    lock = tmp_path / ".tmp-f.lock"
    lock.mkdir()
    os.utime(lock, (0, 0))
    assert write_once(tmp_path / "f", b"one")
    assert os.listdir(tmp_path) == ["f"]


def derive(cache: Cache, source: Features, dtype: str = "float32") -> Features:
    values = source.values.astype(dtype) * 2
    return cache.load_array(store_derived(cache, source, values, name="twice", layer="adapted.x", made_by={"by": "2"}))


def test_what_is_derived_from_features_is_cached_row_for_row(cache: Cache) -> None:
    source = cache.load("tiny", "fake")
    derived = derive(cache, source)
    np.testing.assert_array_equal(derived.values, source.values.astype(np.float32) * 2)
    assert derived.ids.tolist() == source.ids.tolist() and derived.name == "twice/adapted.x"
    assert derive(cache, source).root == derived.root


def test_derived_values_with_other_rows_or_types_are_refused(cache: Cache) -> None:
    source = cache.load("tiny", "fake")
    backwards = source.take(np.arange(50)[::-1])
    for wrong in (backwards, source.take(np.arange(49))):
        with pytest.raises(UsageError, match="every row of its array, in order"):
            derive(cache, wrong)
    with pytest.raises(UsageError, match="float64"):
        derive(cache, source, "float64")


def test_weights_that_changed_while_running_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FeatcacheError, match="weights of fake changed"):
        run(Cache(tmp_path), text_dataset(), FakeEncoder(replace(fake_card(), binds={"weights": "other"})))


def test_neighbours_are_cached_as_row_numbers_and_travel_like_features(tmp_path: Path) -> None:
    import tensorstore

    from featcache.sharing.transfer import plan_transfer, transfer
    from featcache.store.zarr_reader import open_zarr

    cache, there = tiny_cache(tmp_path), Cache(tmp_path / "there")
    features = cache.load("openmoji", "minilm")
    neighbours = np.random.default_rng(0).integers(0, len(features), (len(features), 6)).astype(np.int32)
    neighbours[5, 3:] = -1  # a row that runs short
    array = store_derived(cache, features, neighbours, name="minilm", layer="graph.k", made_by={"k": "6"})
    transfer(plan_transfer(cache, there))
    graph = there.load("openmoji", "minilm/graph.k")
    assert graph.values.dtype == np.int32 and graph.ids.tolist() == features.ids.tolist()
    np.testing.assert_array_equal(graph.values, neighbours)
    np.testing.assert_array_equal(open_zarr(array.folder)[:], neighbours)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array.path)}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), neighbours)
    assert list(verify(there, deep=True)) == []
