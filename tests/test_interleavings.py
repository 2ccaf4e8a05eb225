"""Two operations at once, or one after the interruption of another, leave the cache right."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache.sharing.transfer
from featcache.cache import Cache
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import Damaged, ExtractionFailed, FeatcacheError, FeaturesNotCached
from featcache.extraction.extract import extract
from featcache.extraction.job import Job, plan_job
from featcache.maintenance.gc import leftovers, rename
from featcache.maintenance.verify import verify
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.store.leases import lease
from featcache.store.records import ARRIVING, chunk_name
from featcache.store.rows import write_rows
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.spine import tiny_cache
from tests.writers import strange_writer


@pytest.fixture(autouse=True)
def _describe_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.job

    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())


def job_of(cache: Cache, **choices: Any) -> Job:
    return replace(plan_job(cache, text_dataset(), encoder_spec("minilm"), EncodeOptions(), **choices), chunk_rows=7)


def run(cache: Cache, job: Job, **choices: Any) -> None:
    encoder: Any = FakeEncoder(scale=choices.pop("scale", 1.0))
    extract(cache, job, encoder=encoder, **choices)


def test_an_extraction_that_was_planned_before_a_pull_began_does_not_complete_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = Cache(tmp_path / "theirs"), Cache(tmp_path / "ours")
    run(theirs, job_of(theirs, layers=["last"]), scale=2.0)  # another device: other bytes for the same digest
    job = job_of(ours, layers=["last"])

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(featcache.sharing.transfer, "_conclude", interrupted)
    monkeypatch.setattr(featcache.sharing.transfer, "_LEAST_CHUNKS", 3)
    monkeypatch.setattr(type(ours.folder), "batch_bytes", 1)
    with pytest.raises(KeyboardInterrupt):
        transfer(plan_transfer(theirs, ours))
    (array,) = ours.arrays()
    assert len(array.committed()) == 3 and array.folder.exists(ARRIVING)
    with pytest.raises(Damaged, match="a pull has brought a part of it"):
        run(ours, job)
    assert not array.is_complete
    with pytest.raises(FeaturesNotCached, match="a pull brought only a part"):
        job_of(ours, layers=["last"])


def test_a_transfer_does_not_call_an_array_whole_that_was_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = tiny_cache(tmp_path / "a"), Cache(tmp_path / "b")
    real = featcache.sharing.transfer._send_records

    def and_remove(what: Any, group: Any) -> Any:
        mixed = real(what, group)
        for chunk in (ours.root / "openmoji").glob("*/*/*/*/commits/0.json"):
            chunk.unlink()
        return mixed

    monkeypatch.setattr(featcache.sharing.transfer, "_send_records", and_remove)
    transfer(plan_transfer(theirs, ours))
    assert not any(array.is_complete for array in ours.arrays())


@pytest.mark.parametrize("change", [{"rows": 6}, {"bytes": 1}, {"chunk": 2}, {"blake3": 7}])
def test_a_changed_record_does_not_reach_the_completion_record(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = Cache(tmp_path)
    run(cache, job_of(cache, layers=["last"]), chunks=range(7).__contains__)
    (array,) = cache.arrays()
    path = array.path / "commits" / "3.json"
    whole = path.read_bytes()
    path.write_text(json.dumps(json.loads(whole) | change))
    with pytest.raises(FeatcacheError):
        run(cache, job_of(cache, layers=["last"]))
    assert not array.is_complete
    path.write_bytes(whole)
    run(cache, job_of(cache, layers=["last"]))
    assert array.is_complete and list(verify(cache, deep=True)) == []


def test_a_table_that_a_writer_may_go_on_with_is_not_garbage(tmp_path: Path) -> None:
    cache, dataset = Cache(tmp_path), text_dataset()
    write_rows(cache.folder / "tiny" / "captions", dataset.views["captions"], dataset.overlay)
    for path in tmp_path.rglob("rows-*"):
        os.utime(path, (1, 1))
    with lease(cache.folder, "extract fake"):
        assert leftovers(cache).found and all(each.holder for each in leftovers(cache).found)
    assert all(each.holder is None for each in leftovers(cache).found)


def test_a_failed_extraction_leaves_the_arrays_that_another_process_is_about_to_fill(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    other = strange_writer(cache.root, what="extract elsewhere")
    with pytest.raises(ExtractionFailed):
        run(cache, job_of(cache), scale=float("nan"))
    assert len(list(cache.arrays())) == 3
    other.unlink()
    with pytest.raises(ExtractionFailed):
        run(cache, job_of(cache), scale=float("nan"))
    assert not list(cache.arrays())


def test_a_rename_leaves_a_damaged_array_where_it_is_and_names_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    run(cache, job_of(cache))
    (cache.find("tiny", "fake/1.mean").path / "key.json").write_text("{}")
    with pytest.raises(Damaged, match="the others are where they were"):
        rename(cache, "tiny/captions/fake", "tiny/captions/other")
    layers = {array.name.layer: array.name.encoder for array in cache.arrays()}
    assert layers["1.mean"] == "fake" and {name for layer, name in layers.items() if layer != "1.mean"} == {"other"}


def test_a_push_of_everything_leaves_out_what_is_there_only_in_part(tmp_path: Path) -> None:
    whole, laptop, usb = Cache(tmp_path / "a"), Cache(tmp_path / "b"), Cache(tmp_path / "c")
    run(whole, job_of(whole))
    transfer(plan_transfer(whole, laptop, ["tiny/*/*/0.mean"], rows=(0, 10)))
    transfer(plan_transfer(whole, laptop, ["tiny/*/*/1.mean"]))
    what = plan_transfer(laptop, usb)
    assert len(what.left_out) == 1 and what.left_out[0].split("/")[-2] == "0.mean"
    transfer(what)
    assert [array.folder.parts[-2] for array in usb.arrays()] == ["1.mean"]
    with pytest.raises(FeatcacheError, match="only some rows"):
        plan_transfer(laptop, usb, ["tiny/captions/fake/0.mean"])


def test_a_foreign_file_among_the_records_is_named(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    run(cache, job_of(cache, layers=["last"]))
    (array,) = cache.arrays()
    (array.path / "commits" / "notes.txt").write_text("x")
    assert [problem.what for problem in verify(cache)] == ["foreign file commits/notes.txt"]
    np.testing.assert_array_equal(array.read()[:7], array.read(0, 7))
    assert array.folder.exists(chunk_name(0))
