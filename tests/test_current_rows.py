"""Does a name mean the rows that were extracted last, never in silence, and does nothing else change what it means?"""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache.extraction.job
import featcache.storage.durable
from featcache.cache import Cache
from featcache.derived.graphs import graph
from featcache.derived.writer import store_derived
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import Ambiguous, Damaged, NewerFormat, OutdatedRows
from featcache.extraction.job import plan_job
from featcache.extraction.outdated import outdated_notes
from featcache.features import Features
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from featcache.maintenance.repair import Sources, repair
from featcache.maintenance.verify import verify
from featcache.store.array import FeatureArray
from featcache.store.current import CURRENT, CurrentRows, set_current
from featcache.studies.alignment.grid import layers_of
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.test_extract import run

ROOT = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def describe_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache in which one caption of fifty was edited after the first extraction."""
    cache = Cache(tmp_path / "cache")
    run(cache, text_dataset())
    run(cache, text_dataset(change=3))
    return cache


def described_as(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> FakeEncoder:
    card = replace(fake_card(), **changes)
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: card)
    return FakeEncoder(card)


def of_rows(cache: Cache, root: str, layer: str = "last.mean") -> FeatureArray:
    [array] = [a for a in cache.arrays(layer=layer) if a.key().binds["rows"]["root"] == root]
    return array


def old_and_new() -> tuple[str, str]:
    return text_dataset().views["captions"].root, text_dataset(change=3).views["captions"].root


def record(cache: Cache) -> CurrentRows:
    current = cache.current_rows("tiny", "captions")
    assert current is not None
    return current


def alone(tmp_path: Path, dataset: Any) -> Features:
    """The features of a data set in a cache that holds nothing else."""
    fresh = Cache(tmp_path / "fresh")
    run(fresh, dataset)
    return fresh.load("tiny", "fake")


# -- a name means the rows that were extracted last -------------------------------------------------------------------


def test_after_an_edited_caption_the_name_is_the_new_array_and_a_notice_names_both(
    cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features, wanted = cache.load("tiny", "fake"), alone(tmp_path, text_dataset(change=3))
    np.testing.assert_array_equal(features.values, wanted.values)
    assert (features.digest, features.root) == (wanted.digest, wanted.root)
    old = of_rows(cache, old_and_new()[0])
    [notice] = caplog.records
    assert (notice.name, notice.levelno) == ("featcache", logging.WARNING)
    assert f"using captions/fake/last.mean@{wanted.digest[:12]} of 20" in notice.message
    assert "of the current 50 rows" in notice.message
    assert f"an older one of 50 rows, 20{old.key().provenance['created'][2:4]}" in notice.message
    assert notice.message.endswith(f"is @{old.digest[:12]}")


def test_after_an_added_row_the_name_is_the_new_array(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    run(cache, text_dataset())
    run(cache, text_dataset(51))
    features, wanted = cache.load("tiny", "fake"), alone(tmp_path, text_dataset(51))
    np.testing.assert_array_equal(features.values, wanted.values)
    assert record(cache).n == 51 and record(cache).before == (old_and_new()[0],)


def test_a_notice_is_given_once_a_process(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        cache.load("tiny", "fake")
    assert len(caplog.records) == 1


def test_a_digest_reaches_the_older_array_in_silence(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    old = of_rows(cache, old_and_new()[0])
    assert cache.load("tiny", f"fake@{old.digest[:12]}").digest == old.digest
    assert caplog.records == []


def test_data_as_it_was_extracted_again_is_current_again_and_nothing_is_encoded(cache: Cache) -> None:
    assert run(cache, text_dataset()).rows == 0
    assert cache.find("tiny", "fake").key().binds["rows"]["root"] == old_and_new()[0]


def test_an_interrupted_extraction_of_new_rows_leaves_the_name_as_it_was_until_it_is_complete(tmp_path: Path) -> None:
    class Interrupted(FakeEncoder):
        def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
            raise KeyboardInterrupt

    cache, (old, new) = Cache(tmp_path), old_and_new()
    run(cache, text_dataset())
    with pytest.raises(KeyboardInterrupt):
        run(cache, text_dataset(change=3), Interrupted())
    assert cache.find("tiny", "fake").key().binds["rows"]["root"] == old == record(cache).root
    run(cache, text_dataset(change=3))
    assert cache.find("tiny", "fake").key().binds["rows"]["root"] == new == record(cache).root


def test_of_several_processes_only_the_one_that_completes_makes_its_rows_current(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    run(cache, text_dataset(), chunks=lambda chunk: chunk % 2 == 0)
    assert cache.current_rows("tiny", "captions") is None
    run(cache, text_dataset(), chunks=lambda chunk: chunk % 2 == 1)
    assert record(cache).root == old_and_new()[0]


# -- what is not of the current rows ----------------------------------------------------------------------------------


def test_an_encoder_that_is_there_of_older_rows_alone_is_refused_with_the_command_and_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    run(cache, text_dataset(), described_as(monkeypatch, name="other"))
    described_as(monkeypatch)
    run(cache, text_dataset(51))
    old = cache.find("tiny", f"other@{of_rows(cache, old_and_new()[0]).digest}")
    with pytest.raises(OutdatedRows) as error:
        cache.load("tiny", "other")
    assert "other for tiny is complete only of older rows" in str(error.value)
    assert f"captions/other/last.mean@{old.digest[:12]}  50 older rows, 20" in str(error.value)
    assert "Run: featcache extract folder:tiny other --root DIR" in str(error.value)
    assert len(cache.load("tiny", f"other@{old.digest[:12]}")) == 50
    described_as(monkeypatch, name="other")
    run(cache, text_dataset(51), FakeEncoder(replace(fake_card(), name="other")))
    assert len(cache.load("tiny", "other")) == 51


def test_layers_that_are_there_of_older_rows_alone_are_left_out_of_a_grid_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path)
    run(cache, text_dataset())
    run(cache, text_dataset(change=3), layers=["last", "1"])
    assert [features.layer for features in layers_of(cache, "tiny", "fake")] == ["1.mean", "last.mean"]
    assert any("left out, captions/fake/0.mean for tiny" in notice.message for notice in caplog.records)
    with pytest.raises(OutdatedRows):
        layers_of(cache, "tiny", "fake/0.mean")


def test_what_differs_in_more_than_rows_stays_ambiguous_with_dates_and_the_current_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    run(cache, text_dataset(51), described_as(monkeypatch, binds={"weights": "older"}))
    run(cache, text_dataset(), described_as(monkeypatch))
    with pytest.raises(Ambiguous) as error:
        cache.load("tiny", "fake")
    [_, first, second, advice] = str(error.value).splitlines()
    old, new = (of_rows(cache, text_dataset(n).views["captions"].root) for n in (51, 50))
    assert f"@{new.digest[:12]}  50 current rows, 20" in first and first.endswith("the first")
    assert f"@{old.digest[:12]}  51 older rows, 20" in second and "encoder.weights: older" in second
    assert advice == f"  Name one, as in: captions/fake/last.mean@{new.digest[:12]}"


def test_without_a_record_several_rows_are_ambiguous_the_newest_first_and_one_alone_is_taken(cache: Cache) -> None:
    old, new = (of_rows(cache, root) for root in old_and_new())
    (cache.root / "tiny/captions" / CURRENT).unlink()
    for array, created in ((old, "2026-01-01T10:00:00+00:00"), (new, "2026-02-01T10:00:00+00:00")):
        key = json.loads((array.path / "key.json").read_bytes())
        key["provenance"]["created"] = created
        del key["blake3"]  # as of featcache 0.1
        (array.path / "key.json").write_text(json.dumps(key))
    with pytest.raises(Ambiguous) as error:
        cache.load("tiny", "fake")
    [_, first, second, advice, remedy] = str(error.value).splitlines()
    assert f"@{new.digest[:12]}  50 rows, 2026-02-01 10:00:00" in first
    assert f"@{old.digest[:12]}  50 rows, 2026-01-01 10:00:00" in second and "rows.root" in second
    assert advice.endswith(new.digest[:12]) and "featcache extract folder:tiny fake --root DIR" in remedy
    cache.remove(new)
    assert cache.load("tiny", "fake").digest == old.digest


def test_after_the_current_array_is_removed_the_older_does_not_take_its_place(cache: Cache) -> None:
    cache.remove(cache.find("tiny", "fake"))
    with pytest.raises(OutdatedRows):
        cache.load("tiny", "fake")
    for array in list(cache.arrays()):
        cache.remove(array)
    assert cache.current_rows("tiny", "captions") is None


def test_what_was_computed_from_either_rows_is_resolved_like_its_source(cache: Cache) -> None:
    old, new = (cache.load_array(of_rows(cache, root)) for root in old_and_new())
    for source in (old, new):
        store_derived(cache, source, source.values * 2, name="twice", layer="adapted.x", made_by={"by": "2"})
    assert cache.load("tiny", "twice/adapted.x").values.tobytes() == (new.values * 2).tobytes()


def test_embeddings_of_older_rows_alone_are_refused_with_what_to_do(cache: Cache) -> None:
    old = cache.load_array(of_rows(cache, old_and_new()[0]))
    store_derived(cache, old, old.values * 2, name="twice", layer="adapted.x", made_by={"by": "2"})
    with pytest.raises(OutdatedRows, match="train and embed again"):
        cache.load("tiny", "twice")


# -- listings ---------------------------------------------------------------------------------------------------------


def test_entries_say_which_arrays_are_of_the_current_rows(cache: Cache) -> None:
    states = {(entry.digest, entry.rows) for entry in cache.entries("*/*/*/last.mean")}
    old, new = (of_rows(cache, root).digest for root in old_and_new())
    assert states == {(old, "older"), (new, "current")}
    (cache.root / "tiny/captions" / CURRENT).unlink()
    assert {entry.rows for entry in cache.entries()} == {""}


def test_an_extraction_names_the_encoders_and_views_that_it_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    run(cache, text_dataset(), described_as(monkeypatch, name="other"))
    described_as(monkeypatch)
    run(cache, text_dataset(51))
    job = plan_job(cache, text_dataset(51), encoder_spec("minilm"), EncodeOptions())
    [note] = outdated_notes(cache, [job], root=Path("my birds"))
    assert "tiny/captions/other" in note and "(50 then, 51 now)" in note
    assert note.endswith("Run: featcache extract folder:tiny other --root 'my birds'")
    elsewhere = replace(job, view=replace(job.view, name="names"))  # captions are not extracted, and were edited
    edited = replace(elsewhere, dataset=text_dataset(51, change=3))
    assert {note.partition(",")[0] for note in outdated_notes(cache, [edited])} == {
        "tiny/captions/other",
        "tiny/captions/fake",
    }
    assert outdated_notes(cache, [elsewhere]) == []


# -- the file ---------------------------------------------------------------------------------------------------------

GOOD = CurrentRows(ROOT, 5, "2026-11-29T10:00:00+00:00")
BROKEN = [
    b"",
    GOOD.to_bytes()[:-9],
    b"[]",
    b"{}",
    b'"current"',
    b"\xff\xfe",
    *(
        json.dumps(json.loads(GOOD.to_bytes()) | change).encode()
        for change in (
            {"root": "../../etc"},
            {"root": None},
            {"n": 0},
            {"n": True},
            {"n": "5"},
            {"written": "yesterday"},
            {"written": 5},
            {"before": None},
            {"before": ["x"]},
            {"before": [ROOT] * 200},
            {"format": "1"},
        )
    ),
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_record_is_a_named_error_digests_work_all_the_same_and_extract_writes_it_anew(
    cache: Cache, content: bytes
) -> None:
    path = cache.root / "tiny/captions" / CURRENT
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"current.json.*@digest\. Run the same featcache extract again"):
        cache.load("tiny", "fake")
    new = of_rows(cache, old_and_new()[1])
    assert cache.load("tiny", f"fake@{new.digest}").digest == new.digest
    assert len(cache.entries()) == 6, "and all are listed"
    [problem] = verify(cache)
    assert problem.where == "tiny/captions" and problem.what.startswith(CURRENT)
    assert run(cache, text_dataset(change=3)).rows == 0
    assert cache.load("tiny", "fake").digest == new.digest and list(verify(cache)) == []


def test_a_record_of_a_newer_format_is_not_called_damaged(cache: Cache) -> None:
    path = cache.root / "tiny/captions" / CURRENT
    path.write_bytes(json.dumps(json.loads(path.read_bytes()) | {"format": 2}).encode())
    with pytest.raises(NewerFormat, match="pip install --upgrade"):
        cache.load("tiny", "fake")


def test_a_writer_that_dies_leaves_the_old_record(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    before = record(cache)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("replace", "rename", "link"):
        monkeypatch.setattr(os, name, killed)
    with pytest.raises(KeyboardInterrupt):
        set_current(cache.folder / "tiny/captions", ROOT, 5)
    assert record(cache) == before


def test_repair_writes_a_damaged_record_where_all_arrays_are_of_the_same_rows_or_another_cache_has_it(
    cache: Cache, tmp_path: Path
) -> None:
    single = Cache(tmp_path / "single")
    run(single, text_dataset())
    wanted = record(single)
    for broken in (single, cache):
        (broken.root / "tiny/captions" / CURRENT).write_bytes(b"{")
    assert repair(single, "tiny", Sources()) == [] and record(single).root == wanted.root
    [left] = repair(cache, "tiny", Sources())
    assert left.where == "tiny/captions"
    assert repair(cache, "tiny", Sources(remote=single)) == [] and record(cache) == record(single)


def test_a_read_only_cache_keeps_its_record_and_says_so(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = record(cache)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(featcache.storage.durable, "replace", refuse)
    run(cache, text_dataset())
    assert record(cache) == before
    assert any("names go on standing for the rows they stood for" in each.message for each in caplog.records)


# -- imports ----------------------------------------------------------------------------------------------------------


def taken(cache: Cache, folder: Path, ids: list[str]) -> FeatureArray:
    np.save(folder / "theirs.npy", np.eye(len(ids), 8, dtype=np.float32))
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    [array] = import_features(
        cache,
        folder / "theirs.npy",
        dataset="tiny",
        encoder="theirs",
        layer="last.mean",
        options=ImportOptions(ids=folder / "ids.txt", modality="text"),
    )
    return array


def test_an_import_is_bound_to_the_current_rows_of_several_with_its_ids(cache: Cache, tmp_path: Path) -> None:
    ids = list(text_dataset().views["captions"].ids)
    assert taken(cache, tmp_path, ids).key().binds["rows"]["root"] == old_and_new()[1]
    assert len(cache.load("tiny", "theirs")) == 50


def test_an_import_that_has_the_ids_of_older_rows_says_so_and_is_reached_by_digest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path / "cache")
    run(cache, text_dataset())
    run(cache, text_dataset(51))
    array = taken(cache, tmp_path, list(text_dataset().views["captions"].ids))
    assert "theirs.npy has the ids of 50 older rows of tiny/captions" in caplog.text
    with pytest.raises(OutdatedRows, match="Import it again"):
        cache.load("tiny", "theirs")
    assert len(cache.load("tiny", f"theirs@{array.digest}")) == 50


def test_imported_rows_whose_content_nobody_saw_stay_current_while_ids_and_groups_are(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    taken(cache, tmp_path, list(text_dataset().views["captions"].ids))
    run(cache, text_dataset())
    assert len(cache.load("tiny", "theirs")) == 50
    run(cache, text_dataset(51))
    with pytest.raises(OutdatedRows):
        cache.load("tiny", "theirs")


# -- graphs -----------------------------------------------------------------------------------------------------------


def test_graphs_are_those_of_the_array_that_was_taken(cache: Cache, searches: list[int]) -> None:
    old = cache.load_array(of_rows(cache, old_and_new()[0]))
    graph(cache, old, k=3)
    features = cache.load("tiny", "fake")
    assert graph(cache, features, k=3).origin == "searched and cached" and searches == [3, 3]
    assert graph(cache, features, k=3).origin == "cached, 3 deep"
