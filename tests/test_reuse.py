"""Of a data set that was changed, is only what changed encoded, and is what is copied right or not copied at all?"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featcache.extraction.extract
import featcache.extraction.job
import featcache.maintenance.repair
from featcache.cache import Cache
from featcache.data.views import Dataset, Overlay, View
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import Damaged, RootsDiffer
from featcache.extraction.extract import Extracted, extract
from featcache.extraction.failed_rows import RowSettings
from featcache.extraction.job import Job, plan_job, work_left
from featcache.maintenance.repair import Sources, repair
from featcache.maintenance.verify import verify
from featcache.store.array import FeatureArray
from featcache.store.records import REUSED, chunk_name
from featcache.store.reused import ReusedRows, ReusedSpan, read_reused, reused_spans
from tests.fakes import FakeEncoder, expected, fake_card

LAYERS = tuple(fake_card().widths)


class Drifting(FakeEncoder):
    """Gives a row other last bits in another batch, as every processor does."""

    def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
        features = super().encode(prepared, layers)
        return {layer: values + 0.01 * len(prepared) for layer, values in features.items()}


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The encoder's card, and what repair computes with; tests may exchange them."""
    world: dict[str, Any] = {"card": fake_card(), "encoder": Drifting(), "dataset": None}
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: world["card"])
    monkeypatch.setattr(featcache.extraction.extract, "load_encoder", lambda spec, options, memo: world["encoder"])
    monkeypatch.setattr(featcache.maintenance.repair, "open_dataset", lambda name, root, options: world["dataset"])
    monkeypatch.setattr(featcache.maintenance.repair, "encoder_spec", lambda name: encoder_spec("minilm"))
    yield world


def captions(texts: dict[str, str], **changes: Any) -> Dataset:
    """A data set of captions by id."""
    ids, content = tuple(texts), [text.encode() for text in texts.values()]
    view = View("captions", "text", ids, ids, lambda row: content[row], bytes.decode, **changes)
    return Dataset("tiny", {"captions": view}, Overlay(ids, ("train",) * len(ids)), "public domain", "made by a test")


def some(n: int) -> dict[str, str]:
    return {f"r{row}": " ".join([f"w{row}"] * (1 + row % 7)) for row in range(n)}


def job_of(cache: Cache, dataset: Dataset, layers: Sequence[str] | None = None, chunk: int = 7) -> Job:
    job = plan_job(cache, dataset, encoder_spec("minilm"), EncodeOptions(), layers=layers)
    return replace(job, chunk_rows=min(chunk, len(job.view)))


def run(
    cache: Cache, dataset: Dataset, encoder: FakeEncoder | None = None, *, layers: Any = None, **choices: Any
) -> Extracted:
    job = job_of(cache, dataset, layers, choices.pop("chunk", 7))
    return extract(cache, job, encoder=encoder or Drifting(), **choices)  # pyright: ignore[reportArgumentType]


def array_of(cache: Cache, dataset: Dataset, layer: str = "last") -> FeatureArray:
    (target,) = job_of(cache, dataset, [layer]).targets
    return target.array


def rows_of(cache: Cache, dataset: Dataset, layer: str = "last") -> dict[str, bytes]:
    """The stored bytes of every row, by id."""
    values = array_of(cache, dataset, layer).read()
    return dict(zip(dataset.views["captions"].ids, map(np.ndarray.tobytes, values), strict=True))


def flip(path: Path, place: int = 11) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def chunks(cache: Cache) -> dict[str, bytes]:
    return {str(path.relative_to(cache.root)): path.read_bytes() for path in sorted(cache.root.rglob("c.*"))}


# -- what is encoded --------------------------------------------------------------------------------------------------


def test_one_image_added_to_934_is_the_only_one_encoded_and_the_bytes_of_the_others_stay(tmp_path: Path) -> None:
    cache, old, new, encoder = Cache(tmp_path), captions(some(934)), captions(some(935)), Drifting()
    run(cache, old, chunk=467)
    assert work_left(job_of(cache, new, chunk=468)) == (6, 1), "as --dry-run says"
    encoded: list[int] = []
    done = run(cache, new, encoder, chunk=468, on_rows=encoded.append)
    assert (done.rows, done.copied, done.reused, sum(encoded)) == (1, 934, 934, 1)
    assert encoder.rows == [some(935)["r934"]]
    assert done.sources == tuple(array_of(cache, old, layer).complete().root for layer in LAYERS)
    for layer in LAYERS:
        before, after = rows_of(cache, old, layer), rows_of(cache, new, layer)
        assert {row: after[row] for row in before} == before and len(after) == 935
        reused = read_reused(array_of(cache, new, layer).folder)
        assert reused is not None and (len(reused), reused.spans) == (934, (ReusedSpan(0, 934, 0),))
        assert reused.root == array_of(cache, old, layer).complete().root
    assert list(verify(cache, deep=True)) == []
    again = run(cache, new, encoder, chunk=468)
    assert (again.rows, again.copied, len(encoder.rows)) == (0, 0, 1)


def test_of_a_corrected_caption_only_that_row_is_encoded(tmp_path: Path) -> None:
    cache, encoder = Cache(tmp_path), Drifting()
    run(cache, captions(some(50)))
    corrected = captions(some(50) | {"r31": "a corrected caption"})
    assert run(cache, corrected, encoder).copied == 49
    assert encoder.rows == ["a corrected caption"]


def test_rows_that_were_moved_removed_and_put_between_others_are_found_by_id_and_content(tmp_path: Path) -> None:
    cache, encoder = Cache(tmp_path), FakeEncoder()
    run(cache, captions(some(50)), FakeEncoder())
    rows = list(some(50).items())
    rows[3], rows[40] = rows[40], rows[3]
    rows[10:10] = [("new", "a new one"), ("twice", dict(rows)["r5"])]  # content that is there under another id
    mixed = captions(dict(rows[:20] + rows[25:]))
    done = run(cache, mixed, encoder)
    assert (done.rows, done.copied) == (2, 45)
    assert set(encoder.rows) == {"a new one", some(50)["r5"]}
    for layer, d in fake_card().widths.items():
        for row, values in enumerate(array_of(cache, mixed, layer).read()):
            wanted = expected(mixed.views["captions"].read(row), layer, d).astype(np.float16)
            np.testing.assert_array_equal(values, wanted)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_two_versions_of_a_data_set_give_each_row_the_features_of_its_own_content(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    versions = [
        data.draw(st.dictionaries(st.sampled_from("abcdefghij"), st.sampled_from(["x", "y y", "z z z"]), min_size=1))
        for _ in range(3)
    ]
    cache = Cache(tmp_path_factory.mktemp("versions"))
    seen: list[dict[str, str]] = []
    for texts in versions:
        dataset, encoder = captions(texts), FakeEncoder()
        done = run(cache, dataset, encoder, chunk=data.draw(st.integers(1, 5)))
        most = max((len(texts.items() & earlier.items()) for earlier in seen), default=0)
        same = any(list(earlier.items()) == list(texts.items()) for earlier in seen)
        assert len(encoder.rows) == done.rows == (0 if same else len(texts) - most)
        for row, values in enumerate(array_of(cache, dataset).read()):
            np.testing.assert_array_equal(values, expected(list(texts.values())[row], "last.mean", 8).astype("f2"))
        seen.append(texts)
    assert list(verify(cache, deep=True)) == []


@pytest.mark.parametrize("what", ["weights", "dtype", "decoding", "width"])
def test_nothing_is_reused_of_another_encoder_type_or_policy(tmp_path: Path, world: dict[str, Any], what: str) -> None:
    cache, encoder = Cache(tmp_path), FakeEncoder()
    run(cache, captions(some(20)))
    new = captions(some(21), decoding={"policy": 2} if what == "decoding" else {})
    card = {
        "weights": fake_card(version=2),
        "dtype": fake_card(dtype="float32"),
        "width": replace(fake_card(), widths=dict.fromkeys(LAYERS, 5)),
    }.get(what, fake_card())
    world["card"] = encoder.card = card
    done = run(cache, new, encoder)
    assert (done.rows, done.copied, done.sources) == (21, 0, ())
    assert not list(tmp_path.rglob(REUSED))


def test_a_row_is_reused_only_where_every_layer_of_the_pass_has_it(tmp_path: Path) -> None:
    cache, old, new = Cache(tmp_path), captions(some(20)), captions(some(21))
    run(cache, old, layers=["last"])
    assert run(cache, new).copied == 0
    other = Cache(tmp_path / "other")
    run(other, old)
    assert run(other, new, layers=["last"]).copied == 20
    rest = Drifting()
    assert run(other, new, rest).copied == 20 and len(rest.rows) == 1, "layers that come later reuse theirs"


def test_rows_that_failed_and_rows_of_unknown_content_are_encoded(tmp_path: Path) -> None:
    class Refusing(FakeEncoder):
        def prepare(self, item: Any) -> Any:
            if item.startswith("w3"):
                raise ValueError("no tokens")
            return item

    cache, encoder = Cache(tmp_path), FakeEncoder()
    run(cache, captions(some(10)), Refusing(), settings=RowSettings("skip"))
    assert run(cache, captions(some(11)), encoder).copied == 9
    assert set(encoder.rows) == {some(11)["r3"], some(11)["r10"]}
    unknown = Cache(tmp_path / "unknown")
    run(unknown, captions(some(10), given_hashes=("",) * 10))
    assert run(unknown, captions(some(11), given_hashes=("",) * 11)).copied == 0


class Flagging(Drifting):
    """Finds texts of seven words too long."""

    def flag(self, prepared: Any) -> str | None:
        return "truncated" if len(prepared.split()) == 7 else None


def test_what_the_encoder_noted_of_a_row_is_reused_with_it(tmp_path: Path) -> None:
    cache, old, new = Cache(tmp_path), captions(some(20)), captions(some(22))
    run(cache, old, Flagging())
    run(cache, new, Flagging())
    for layer in LAYERS:
        assert array_of(cache, new, layer).complete().flagged("truncated") == ("r6", "r13", "r20")


def test_shards_follow_what_the_first_of_them_fixed(tmp_path: Path) -> None:
    old, new = captions(some(50)), captions(some(53) | {"r5": "another", "r30": "one more"})
    whole, parts, encoders = Cache(tmp_path / "a"), Cache(tmp_path / "b"), [Drifting() for _ in range(3)]
    for cache in (whole, parts):
        run(cache, old)
    run(whole, new)
    for part, encoder in enumerate(encoders):
        run(parts, new, encoder, chunks=lambda chunk, part=part: chunk % 3 == part)
    assert sum(len(encoder.rows) for encoder in encoders) == 5
    assert chunks(parts) == chunks(whole)


# -- interrupted ------------------------------------------------------------------------------------------------------


def test_interrupted_at_any_batch_and_resumed_the_bytes_are_the_same(tmp_path: Path) -> None:
    old, new = captions(some(50)), captions(some(50) | {f"r{row}": f"other {row}" for row in range(0, 50, 3)})
    whole = Cache(tmp_path / "whole")
    run(whole, old)
    run(whole, new)

    class Interrupted(Drifting):
        calls = 0

        def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
            if self.calls == 0:
                raise KeyboardInterrupt
            self.calls -= 1
            return super().encode(prepared, layers)

    for calls in range(1, 7):
        cache = Cache(tmp_path / f"{calls}")
        run(cache, old)
        encoder = Interrupted()
        encoder.calls = calls
        with pytest.raises(KeyboardInterrupt):
            run(cache, new, encoder)
        rest = Drifting()
        run(cache, new, rest)
        assert sorted(encoder.rows + rest.rows) == sorted(f"other {row}" for row in range(0, 50, 3))
        assert chunks(cache) == chunks(whole)


def test_where_the_source_goes_meanwhile_its_rows_are_encoded_and_that_is_said(tmp_path: Path) -> None:
    old, new = captions(some(20)), captions(some(21))
    cache = Cache(tmp_path)
    run(cache, old)
    run(cache, new, chunks=lambda chunk: chunk == 0)
    for layer in LAYERS:
        cache.remove(array_of(cache, old, layer))
    encoder = FakeEncoder()
    done = run(cache, new, encoder)
    assert (done.rows, done.copied) == (14, 0)
    assert len(done.notes) == 1 and "20 rows were to be reused from tiny/captions/fake/" in done.notes[0]
    assert "has gone from the cache: they were encoded" in done.notes[0]
    assert list(verify(cache, deep=True)) == []


# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_array_is_never_copied_from(tmp_path: Path) -> None:
    cache, old, new, encoder = Cache(tmp_path), captions(some(20)), captions(some(21)), FakeEncoder()
    run(cache, old)
    cache.load("tiny", "fake")  # what was checked before is not trusted
    flip(array_of(cache, old).path / chunk_name(1))
    done = run(cache, new, encoder)
    assert (done.rows, done.copied, len(encoder.rows)) == (21, 0, 21)
    assert "chunk 1 of " in done.notes[0] and "flipped bits" in done.notes[0]
    for row, values in enumerate(array_of(cache, new).read()):
        np.testing.assert_array_equal(values, expected(some(21)[f"r{row}"], "last.mean", 8).astype("f2"))


def test_damage_after_the_choice_is_an_error_that_names_the_chunk_and_both_ways_out(tmp_path: Path) -> None:
    cache, old, new = Cache(tmp_path), captions(some(20)), captions(some(21))
    run(cache, old)
    run(cache, new, chunks=lambda chunk: chunk == 0)
    flip(array_of(cache, old).path / chunk_name(1))
    with pytest.raises(
        Damaged, match=r"chunk 1 of .*\n.*featcache repair tiny/.* featcache rm tiny captions/fake/last.m"
    ):
        run(cache, new)
    assert array_of(cache, new).committed() == {0}


@pytest.mark.parametrize("place", ["spans", "sources", "rows", "root", "blake3"])
def test_every_changed_number_of_the_record_is_refused(tmp_path: Path, place: str) -> None:
    cache, old, new = Cache(tmp_path), captions(some(20)), captions(some(21))
    run(cache, old)
    run(cache, new, chunks=lambda chunk: chunk == 0)
    path = array_of(cache, new).path / REUSED
    value = json.loads(path.read_bytes())
    changed = {"spans": [[0, 19]], "sources": [1], "rows": 19, "blake3": "0" * 32}.get(place)
    value |= {"from": value["from"] | {"root": "0" * 32}} if place == "root" else {place: changed}
    path.write_text(json.dumps(value))
    with pytest.raises(Damaged, match=r"REUSED.json was changed"):
        run(cache, new)
    assert any(REUSED in problem.what for problem in verify(cache))
    assert repair(cache, "*", Sources()) == []
    run(cache, new)
    assert list(verify(cache, deep=True)) == []


def test_repair_copies_again_encodes_the_others_in_the_same_batches_and_so_gives_back_what_was_recorded(
    tmp_path: Path, world: dict[str, Any]
) -> None:
    cache, old = Cache(tmp_path), captions(some(50))
    new = world["dataset"] = captions(some(50) | {f"r{row}": f"other {row}" for row in range(0, 50, 3)})
    run(cache, old)
    run(cache, new)
    before, array = chunks(cache), array_of(cache, new)
    for chunk in (0, 3, 7):
        flip(array.path / chunk_name(chunk))
    world["encoder"].rows.clear()
    assert repair(cache, "*", Sources()) == []
    assert chunks(cache) == before
    assert len(world["encoder"].rows) == 6, "of the chunks' 15 rows"


def test_repair_without_the_source_says_why_the_bytes_are_others(tmp_path: Path, world: dict[str, Any]) -> None:
    cache, old = Cache(tmp_path), captions(some(50))
    new = world["dataset"] = captions(some(50) | {"r0": "other"})
    run(cache, old)
    run(cache, new)
    for layer in LAYERS:
        cache.remove(array_of(cache, old, layer))
    before, array = chunks(cache), array_of(cache, new)
    flip(array.path / chunk_name(0))
    with pytest.raises(RootsDiffer, match=r"other bytes than recorded(.|\n)*reused from .* which has gone"):
        repair(cache, "*", Sources())
    assert {name for name, content in chunks(cache).items() if before[name] != content} == {
        str((array.path / chunk_name(0)).relative_to(tmp_path))
    }


# -- the record -------------------------------------------------------------------------------------------------------


@given(
    pairs=st.dictionaries(st.integers(0, 60), st.integers(0, 60)), cut=st.tuples(st.integers(0, 60), st.integers(0, 60))
)
def test_runs_hold_every_pair_once_whatever_they_are_cut_to(pairs: dict[int, int], cut: tuple[int, int]) -> None:
    rows = sorted(pairs)
    reused = ReusedRows("a/b/c/d/e", "d" * 32, "e" * 32, reused_spans(rows, [pairs[row] for row in rows]))
    assert len(reused) == len(pairs)
    for low, high in ((0, 61), cut):
        held = {
            row: run.source + row - run.start for run in reused.within(low, high) for row in range(run.start, run.stop)
        }
        assert held == {row: source for row, source in pairs.items() if low <= row < high}
