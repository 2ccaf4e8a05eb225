"""Does the record of current rows go where arrays go, and does nothing change what names mean there in silence?"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache.extraction.job
from featcache.cache import Cache
from featcache.derived.graphs import graph
from featcache.derived.writer import store_derived
from featcache.errors import Damaged, OutdatedRows, RootsDiffer, UsageError
from featcache.maintenance.gc import leftovers, rename
from featcache.maintenance.repair import Sources, repair
from featcache.maintenance.superseded import drop_superseded, superseded_arrays
from featcache.maintenance.verify import verify
from featcache.report.terminal.sharing import show_transfer, show_transferred
from featcache.sharing.transfer import Sent, Transfer, plan_transfer, transfer
from featcache.store.array import FeatureArray
from featcache.store.current import CURRENT, CurrentRows, set_current
from featcache.store.leases import lease
from featcache.store.records import REUSED, chunk_name
from featcache.store.reused import ReusedRows, ReusedSpan
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.test_current_rows import described_as, of_rows, old_and_new, record
from tests.test_extract import run

VIEW = "tiny/captions"


@pytest.fixture(autouse=True)
def describe_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())


@pytest.fixture
def here(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "here")
    run(cache, text_dataset())
    return cache


@pytest.fixture
def there(tmp_path: Path, here: Cache) -> Cache:
    """Another cache with what is here."""
    cache = Cache(tmp_path / "there")
    transfer(plan_transfer(here, cache))
    return cache


def sent(source: Cache, target: Cache, *selectors: str, **choices: Any) -> tuple[Transfer, Sent]:
    planned = plan_transfer(source, target, selectors or ("*",), **choices)
    return planned, transfer(planned)


def whats(planned: Transfer) -> list[str]:
    return [move.what for move in planned.records]


# -- push and pull ----------------------------------------------------------------------------------------------------


def test_the_record_travels_with_the_arrays(here: Cache, there: Cache) -> None:
    assert record(there) == record(here)
    assert whats(plan_transfer(here, there)) == []


def test_a_record_follows_where_the_other_side_has_not_moved_and_the_output_says_so(
    here: Cache, there: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    run(here, text_dataset(51))
    planned = plan_transfer(here, there)
    show_transfer(planned)
    assert whats(planned) == ["newer"] and record(there).n == 50
    assert f"Current rows of {VIEW} in {there.folder} would be 51 (root" in " ".join(capsys.readouterr().out.split())
    show_transferred(planned, transfer(planned))
    assert "are now 51 (root" in " ".join(capsys.readouterr().out.split())
    assert record(there) == record(here) and len(there.load("tiny", "fake")) == 51
    assert len(there.load("tiny", f"fake@{of_rows(there, old_and_new()[0]).digest}")) == 50


def test_a_record_that_is_behind_stays_behind_and_leaves_the_newer_one(
    here: Cache, there: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    run(there, text_dataset(51))
    before = record(there)
    planned, moved = sent(here, there)
    show_transferred(planned, moved)
    assert whats(planned) == ["older"] and record(there) == before
    assert "stay 51 (root" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("prefer", "n"), [("source", 51), ("destination", 52)])
def test_records_that_both_moved_are_named_and_stay_unless_one_side_is_preferred(
    here: Cache, there: Cache, capsys: pytest.CaptureFixture[str], prefer: Any, n: int
) -> None:
    run(here, text_dataset(51))
    run(there, text_dataset(52))
    before = record(here), record(there)
    planned, moved = sent(here, there)
    show_transferred(planned, moved)
    err = " ".join(capsys.readouterr().err.split())
    assert whats(planned) == ["conflict"] and (record(here), record(there)) == before
    assert f"Current rows of {VIEW} differ" in err and str(here.folder) in err and str(there.folder) in err
    assert "51 (root" in err and "52 (root" in err and "--prefer local, or --prefer remote" in err
    sent(here, there, prefer=prefer)
    assert (record(here), record(there).n) == (before[0], n)


def test_a_side_without_a_record_takes_one_unless_it_has_rows_of_its_own(here: Cache, there: Cache) -> None:
    (there.root / VIEW / CURRENT).unlink()
    planned, _ = sent(here, there)
    assert whats(planned) == ["new"] and record(there) == record(here)
    run(there, text_dataset(52))
    (there.root / VIEW / CURRENT).unlink()
    planned, _ = sent(here, there)
    assert whats(planned) == ["conflict"] and there.current_rows("tiny", "captions") is None
    (here.root / VIEW / CURRENT).unlink()
    assert whats(plan_transfer(here, there)) == []


def test_what_is_pulled_of_older_rows_is_refused_by_name_there_too(here: Cache, tmp_path: Path) -> None:
    old = of_rows(here, old_and_new()[0])
    run(here, text_dataset(51))
    laptop = Cache(tmp_path / "laptop")
    sent(here, laptop, f"tiny@{old.digest}")
    with pytest.raises(OutdatedRows, match="or pull it"):
        laptop.load("tiny", "fake")
    assert len(laptop.load("tiny", f"fake@{old.digest}")) == 50


def test_a_transfer_that_is_interrupted_leaves_the_record_until_the_arrays_are_there(
    here: Cache, there: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(here, text_dataset(51))

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(plan_transfer(here, there), on_bytes=interrupt)
    assert len(there.load("tiny", "fake")) == 50
    sent(here, there)
    assert len(there.load("tiny", "fake")) == 51


def test_a_damaged_record_at_the_target_is_replaced(here: Cache, there: Cache) -> None:
    (there.root / VIEW / CURRENT).write_bytes(b"{")
    sent(here, there)
    assert record(there) == record(here)


@pytest.mark.parametrize("how", ["damaged", "a link"])
def test_a_record_that_cannot_be_believed_stays_behind_is_named_and_keeps_no_array(
    here: Cache, tmp_path: Path, how: str
) -> None:
    path, empty = here.root / VIEW / CURRENT, Cache(tmp_path / "empty")
    if how == "damaged":
        path.write_bytes(b"{")
    else:
        path.rename(tmp_path / "secret.json")
        path.symlink_to(tmp_path / "secret.json")
    what = "is not valid JSON" if how == "damaged" else "is a link or no plain file"
    with pytest.raises(Damaged, match=rf"(?s)current\.json.*{what}.*the arrays are there; names of {VIEW} mean"):
        sent(here, empty)
    assert [entry.complete for entry in empty.entries()] == [entry.complete for entry in here.entries()]
    assert empty.current_rows("tiny", "captions") is None


# -- mv and rm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("tiny", "birds"), (VIEW, "tiny/names"), (f"{VIEW}/fake", "birds/names/it")])
def test_a_record_goes_with_what_is_renamed(here: Cache, old: str, new: str) -> None:
    run(here, text_dataset(51))
    before = record(here)
    [dataset, view, encoder] = (new.split("/") + ["captions", "fake"][len(new.split("/")) - 1 :])[:3]
    rename(here, old, new)
    assert here.current_rows(dataset, view) == before and here.current_rows("tiny", "captions") is None
    assert len(here.load(dataset, encoder)) == 51
    assert {each.what for each in leftovers(here).found} <= {"table that no array is bound to"}


def test_arrays_are_not_renamed_into_a_view_whose_record_contradicts_theirs(
    here: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(here, text_dataset(51))
    rename(here, "tiny", "birds")
    run(here, text_dataset(51), described_as(monkeypatch, name="other"))
    run(here, text_dataset(), described_as(monkeypatch, name="other"))
    with pytest.raises(UsageError, match="current rows of birds/captions are not those of tiny/captions"):
        rename(here, f"{VIEW}/other", "birds/captions/other")


# -- gc ---------------------------------------------------------------------------------------------------------------


def names(cache: Cache) -> set[tuple[str, str]]:
    return {(array.name.encoder, array.digest) for array in cache.arrays()}


def test_gc_offers_older_features_and_what_was_computed_from_them_but_no_encoders_only_array(
    here: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(here, text_dataset(), described_as(monkeypatch, name="other", binds={"weights": "other"}))
    old = here.load("tiny", "fake")
    store_derived(here, old, old.values * 2, name="twice", layer="adapted.x", made_by={"by": "2"})
    graph(here, old, k=3)
    graph(here, here.load("tiny", "twice"), k=3)
    assert superseded_arrays(here).found == ()
    described_as(monkeypatch)
    run(here, text_dataset(51), layers=["last"])
    new = here.load("tiny", "fake")
    graph(here, new, k=3)
    listed = superseded_arrays(here).found
    offered = {str(each.path.relative_to(here.root).parent) for each in listed}
    assert offered == {
        f"{VIEW}/fake/last.mean",
        f"{VIEW}/twice/adapted.x",
        f"{VIEW}/fake.last.mean/graph.cosine",
        f"{VIEW}/twice.adapted.x/graph.cosine",
    }
    [why] = [each.what for each in listed if each.path.name == old.digest]
    assert "50 older rows, 20" in why and f"the current 51 rows are @{new.digest[:12]}" in why
    assert all(each.bytes > 0 for each in listed)
    assert leftovers(here).found == (), "what killed processes left is another matter"
    kept = names(here) - {(a.name.encoder, a.digest) for a in (here.array(str(e.path)) for e in listed)}
    assert drop_superseded(here).found == listed
    assert names(here) == kept and superseded_arrays(here).found == () and list(verify(here)) == []
    assert {name for name, _ in names(here)} == {"fake", "other", "fake.last.mean"}


def test_gc_offers_nothing_older_while_the_current_array_is_incomplete_or_no_record_says_which_it_is(
    here: Cache,
) -> None:
    run(here, text_dataset(51), chunks=lambda chunk: chunk == 0)
    set_current(here.folder / VIEW, text_dataset(51).views["captions"].root, 51)
    assert superseded_arrays(here).found == ()
    run(here, text_dataset(51))
    assert len(superseded_arrays(here).found) == 3
    (here.root / VIEW / CURRENT).unlink()
    assert superseded_arrays(here).found == ()


def test_a_live_writer_may_take_rows_from_a_superseded_array(here: Cache) -> None:
    run(here, text_dataset(51))
    with lease(here.folder, "extract fake"):
        assert all("extract fake" in str(each.holder) for each in superseded_arrays(here).found)
    assert {each.holder for each in superseded_arrays(here).found} == {None}


def test_a_record_without_arrays_is_a_leftover(here: Cache) -> None:
    set_current(here.folder / "tiny/names", "0" * 64, 5)
    [left] = leftovers(here).found
    assert left.path == here.root / "tiny/names" / CURRENT and left.what == "record of a view that has no arrays"


# -- reused rows ------------------------------------------------------------------------------------------------------

SOURCE = ReusedRows(
    f"{VIEW}/fake/last.mean", digest="1" * 32, root="abcdef123456" + "0" * 20, spans=(ReusedSpan(1, 50, 1),)
)
REUSE = json.loads(SOURCE.to_bytes())
ROUNDING = (
    r"49 of the rows were reused from tiny/captions/fake/last.mean with root abcdef123456: such an array may differ "
    r"from a fresh extraction by float rounding"
)


def reusing(array: FeatureArray) -> FeatureArray:
    (array.path / REUSED).write_text(json.dumps(REUSE))
    return array


def computed_otherwise(array: FeatureArray) -> None:
    """Writes an array again with other bytes, as another device would have."""
    key, layout, values = array.key(), array.complete().layout, array.read()
    array.folder.delete()
    array.create(key, layout)
    for chunk in range(layout.chunks):
        start, stop = layout.span(chunk)
        array.commit(layout, chunk, values[start:stop] * np.float16(1.001), writer="0" * 32)
    array.finish(layout)


def test_what_says_which_rows_were_reused_travels_and_is_no_stray_file(here: Cache, tmp_path: Path) -> None:
    reusing(here.find("tiny", "fake"))
    laptop = Cache(tmp_path / "laptop")
    sent(here, laptop)
    assert json.loads((laptop.find("tiny", "fake").path / REUSED).read_bytes()) == REUSE
    assert list(verify(here, deep=True)) == [] and list(verify(laptop, deep=True)) == []


@pytest.mark.parametrize("side", ["here", "there"])
def test_the_error_of_unequal_roots_says_that_rows_were_reused_on_either_side(
    here: Cache, there: Cache, side: str
) -> None:
    computed_otherwise(there.find("tiny", "fake"))
    with pytest.raises(RootsDiffer) as plain:
        plan_transfer(here, there)
    assert "reused" not in str(plain.value)
    reusing((here if side == "here" else there).find("tiny", "fake"))
    with pytest.raises(RootsDiffer, match=ROUNDING):
        plan_transfer(here, there)


def test_repair_says_that_rows_were_reused_where_a_chunk_computed_again_differs(
    here: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache.extraction.extract
    import featcache.maintenance.repair

    other = FakeEncoder(scale=1.01)
    monkeypatch.setattr(featcache.extraction.extract, "load_encoder", lambda spec, options, memo: other)
    monkeypatch.setattr(featcache.maintenance.repair, "open_dataset", lambda name, root, options: text_dataset())
    spec = featcache.maintenance.repair.encoder_spec("minilm")
    monkeypatch.setattr(featcache.maintenance.repair, "encoder_spec", lambda name: spec)
    array = reusing(here.find("tiny", "fake"))
    (array.path / chunk_name(1)).unlink()
    with pytest.raises(RootsDiffer, match=ROUNDING):
        repair(here, "tiny", Sources())


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", *(json.dumps(REUSE | change).encode() for change in ({"rows": "49"}, {"sources": [0]}))],
)
def test_a_damaged_note_of_reused_rows_is_named_and_mended_or_put_aside(
    here: Cache, there: Cache, content: bytes
) -> None:
    array = here.find("tiny", "fake")
    (array.path / REUSED).write_bytes(content)
    [problem] = verify(here)
    assert REUSED in problem.what and problem.where == str(array.name)
    with pytest.raises(Damaged, match=REUSED):
        transfer(plan_transfer(here, there))
    reusing(there.find("tiny", "fake"))
    assert repair(here, "*", Sources(remote=there)) == []
    assert json.loads((array.path / REUSED).read_bytes()) == REUSE
    (array.path / REUSED).write_bytes(content)
    assert repair(here, "*", Sources()) == [] and not (array.path / REUSED).exists()


def test_records_follow_one_another_only_where_one_was_written_over_the_other() -> None:
    first, second, third = (CurrentRows(digit * 64, 5, "2026-11-29T10:00:00+00:00") for digit in "123")
    after = CurrentRows("2" * 64, 5, second.written, (first.root,))
    back = CurrentRows("1" * 64, 5, second.written, (first.root, second.root))
    assert after.follows(first) and not first.follows(after)
    assert not third.follows(first) and not first.follows(third)
    assert not back.follows(after) and not after.follows(back), "what went back and forth is for people to decide"
