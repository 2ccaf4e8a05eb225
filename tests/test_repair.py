"""Does repair give back what was recorded, from what is left, from another cache, or by computing it again?"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache.extraction.extract
import featcache.extraction.job
import featcache.maintenance.repair
from featcache.cache import Cache
from featcache.data.views import Dataset
from featcache.derived.writer import store_derived
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import FeaturesNotCached, RootsDiffer
from featcache.extraction.extract import extract
from featcache.extraction.job import plan_job
from featcache.maintenance.repair import Sources, repair
from featcache.maintenance.verify import verify
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from featcache.store.records import chunk_name
from tests.fakes import FakeEncoder, fake_card, text_dataset

LAYOUT = Layout(50, 7, 4, "cost", 1)


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The fake encoder and its data set stand for those of the registry; tests may exchange them."""
    world: dict[str, Any] = {"encoder": FakeEncoder(), "dataset": text_dataset()}
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())
    monkeypatch.setattr(featcache.extraction.extract, "load_encoder", lambda spec, options, memo: world["encoder"])
    monkeypatch.setattr(featcache.maintenance.repair, "open_dataset", lambda name, root, options: world["dataset"])
    monkeypatch.setattr(featcache.maintenance.repair, "encoder_spec", lambda name: encoder_spec("minilm"))
    yield world


def filled(root: Path, dataset: Dataset | None = None) -> Cache:
    cache = Cache(root)
    job = replace(plan_job(cache, dataset or text_dataset(), encoder_spec("minilm"), EncodeOptions()), chunk_rows=7)
    extract(cache, job, encoder=FakeEncoder())  # pyright: ignore[reportArgumentType]
    return cache


def last(cache: Cache) -> FeatureArray:
    return cache.find("tiny", "fake/last.mean")


def everything(cache: Cache) -> dict[str, bytes]:
    return {name: cache.folder.read(name) for name, _ in cache.folder.files() if "/.aside" not in name}


def flip(path: Path, place: int = 11) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 4
    path.write_bytes(content)


def test_every_damaged_chunk_is_computed_again_and_no_other(tmp_path: Path, world: dict[str, Any]) -> None:
    cache = filled(tmp_path)
    before = everything(cache)
    array = last(cache)
    flip(array.path / chunk_name(1))
    (array.path / chunk_name(3)).unlink()
    (array.path / chunk_name(7)).write_bytes(b"")
    assert len([problem for problem in verify(cache) if problem.chunk in (1, 3, 7)]) == 3
    steps: list[str] = []
    assert repair(cache, "tiny", Sources(), on_step=lambda where, what: steps.append(what)) == []
    assert everything(cache) == before
    assert steps == [f"chunk {chunk} computed again" for chunk in (1, 3, 7)]
    assert len(world["encoder"].rows) == 7 + 7 + 1, "only the rows of the damaged chunks went through the encoder"


def test_chunks_are_taken_from_another_cache_where_it_has_them(tmp_path: Path, world: dict[str, Any]) -> None:
    cache, other = filled(tmp_path / "a"), Cache(tmp_path / "b")
    transfer(plan_transfer(cache, other))
    before = everything(cache)
    flip(last(cache).path / chunk_name(2))
    flip(last(other).path / chunk_name(5))
    flip(last(cache).path / chunk_name(5))
    steps: list[str] = []
    assert repair(cache, "*", Sources(other), on_step=lambda where, what: steps.append(what)) == []
    assert everything(cache) == before
    assert steps == ["chunk 2 pulled", "chunk 5 computed again"]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *itertools.product(["plan.json", "zarr.json", "commits/3.json"], ["flip", "cut", "delete"]),
        ("COMPLETE.json", "flip"),
        ("COMPLETE.json", "cut"),
    ],
)
def test_records_are_written_again_from_one_another(tmp_path: Path, name: str, how: str) -> None:
    cache = filled(tmp_path)
    before, array = everything(cache), last(cache)
    path = array.path / name
    if how == "flip":
        flip(path, place=path.read_bytes().index(b":") + 2)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    assert any(verify(cache))
    assert repair(cache, "tiny", Sources()) == []
    assert {name: content for name, content in everything(cache).items()} == before


@pytest.mark.parametrize("pattern", ["rows-*.parquet", "rows-*.json", "../overlay-*.parquet"])
@pytest.mark.parametrize("pull", [True, False])
def test_tables_come_from_the_data_set_or_from_another_cache(tmp_path: Path, pattern: str, pull: bool) -> None:
    cache, other = filled(tmp_path / "a"), filled(tmp_path / "b")
    before = everything(cache)
    (path,) = (cache.root / "tiny" / "captions").glob(pattern)
    path.write_bytes(path.read_bytes()[:-5])
    assert repair(cache, "*", Sources(other if pull else None)) == []
    assert everything(cache) == before


def test_a_changed_key_needs_another_cache(tmp_path: Path) -> None:
    cache, other = filled(tmp_path / "a"), filled(tmp_path / "b")
    path = last(cache).path / "key.json"
    whole = path.read_bytes()
    path.write_text(json.dumps(json.loads(whole) | {"binds": {}}))
    (left,) = repair(cache, "*", Sources())
    assert "key.json" in left.what
    assert repair(cache, "*", Sources(other)) == []
    assert json.loads(path.read_bytes())["binds"] == json.loads(whole)["binds"]


def test_other_bytes_are_refused_unless_a_new_root_is_accepted_and_then_what_was_derived_goes(
    tmp_path: Path, world: dict[str, Any]
) -> None:
    cache = filled(tmp_path)
    features = cache.load("tiny", "fake", layer="last.mean")
    store_derived(cache, features, features.values[:, :3].copy(), name="run", layer="adapted.x", made_by={"a": "1"})
    others = cache.load("tiny", "fake", layer="1.mean")
    store_derived(cache, others, others.values[:, :3].copy(), name="run2", layer="adapted.x", made_by={"a": "1"})
    old, before = last(cache).complete().root, everything(cache)
    flip(last(cache).path / chunk_name(4))
    damaged = everything(cache)
    world["encoder"] = FakeEncoder(scale=1.5)  # another device
    with pytest.raises(RootsDiffer, match=r"chunks \[4\] computed again have other bytes.*--new-root"):
        repair(cache, "*", Sources())
    assert everything(cache) == damaged, "nothing was changed"
    steps: list[str] = []
    assert repair(cache, "*", Sources(new_root=True), on_step=lambda where, what: steps.append(what)) == []
    assert last(cache).complete().root != old
    assert any("dropped tiny/captions/run/adapted.x" in what for what in steps)
    with pytest.raises(FeaturesNotCached):
        cache.load("tiny", "run")
    assert len(cache.load("tiny", "run2")) == 50, "what was derived from other arrays stays"
    kept = {name: content for name, content in before.items() if "/1.mean/" in name}
    assert {name: content for name, content in everything(cache).items() if name in kept} == kept
    values = cache.load("tiny", "fake", layer="last.mean").values
    np.testing.assert_array_equal(values[:28], features.values[:28])


def test_another_data_set_is_refused_with_what_differs(tmp_path: Path, world: dict[str, Any]) -> None:
    cache = filled(tmp_path)
    flip(last(cache).path / chunk_name(4))
    world["dataset"] = text_dataset(change=3)
    (left,) = repair(cache, "*", Sources())
    assert "not those it was extracted with: rows.root" in left.what
    assert not list(tmp_path.glob(".repair-*"))


def test_a_damaged_chunk_of_an_unfinished_array_is_left_to_the_next_extraction(tmp_path: Path) -> None:
    whole, cache = filled(tmp_path / "whole"), filled(tmp_path / "a")
    array = last(cache)
    (array.path / "COMPLETE.json").unlink()
    flip(array.path / chunk_name(2))
    flip(array.path / "commits" / "5.json", 3)
    assert repair(cache, "*", Sources()) == []
    assert array.committed() == {0, 1, 3, 4, 6, 7}
    filled(tmp_path / "a")
    assert last(cache).complete().root == last(whole).complete().root
