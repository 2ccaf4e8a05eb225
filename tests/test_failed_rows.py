"""What becomes of rows that cannot be encoded? They are listed and dropped by id; everything else stays aligned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.derived.writer import store_derived
from featcache.errors import Damaged, ExtractionFailed, Overflow
from featcache.extraction.extract import extract
from featcache.extraction.failed_rows import RowSettings
from featcache.store.layout import Layout
from tests.fakes import FakeEncoder, expected, fake_card, text_dataset
from tests.test_extract import describe_the_fake, plan, run, small_chunks, snapshot

__all__ = ["describe_the_fake"]


class Choosy(FakeEncoder):
    """Refuses some captions, and makes no numbers of others, in one layer only."""

    refused: tuple[str, ...] = ("w3 ", "w33 ", "w34 ")
    silent: tuple[str, ...] = ("w4 ", "w48 ")

    def prepare(self, item: Any) -> Any:
        if f"{item} ".startswith(self.refused):
            raise ExtractionFailed("the caption has no tokens")
        return item

    def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
        features = super().encode(prepared, layers)
        for row, text in enumerate(prepared):
            if f"{text} ".startswith(self.silent) and "1.mean" in features:
                features["1.mean"][row, 2] = float("nan")
        return features


FAILED = ["r3", "r33", "r34", "r4", "r48"]


def test_skipped_rows_are_listed_dropped_by_id_and_the_others_stay_aligned(tmp_path: Path) -> None:
    cache, dataset, view = Cache(tmp_path), text_dataset(), text_dataset().views["captions"]
    done = run(cache, dataset, Choosy(), settings=RowSettings("skip"))
    assert (done.complete, done.rows, sorted(failure.id for failure in done.failed)) == (True, 50, FAILED)
    whys = {failure.id: failure.why for failure in done.failed}
    assert whys["r33"] == "the caption has no tokens" and whys["r48"] == "fake/1.mean: its features are NaN or infinite"
    for layer, d in fake_card().widths.items():
        features = cache.load("tiny", "fake", layer=layer)
        assert set(features.ids) == set(view.ids) - set(FAILED)
        for row_id, values in zip(features.ids, features.values, strict=True):
            wanted = expected(view.read(view.ids.index(row_id)), layer, d).astype(np.float16)
            np.testing.assert_array_equal(values, wanted)
        (array,) = cache.arrays(layer=layer)
        assert [record.failed for record in array.complete().records][:2] == [("r3", "r4"), ()]
        assert np.isnan(array.read()[[3, 4, 33, 34, 48]]).all()
    again = run(cache, dataset, Choosy(), settings=RowSettings("skip"))
    assert sorted(failure.id for failure in again.failed) == FAILED
    assert {failure.why for failure in again.failed} == {"failed in an earlier run"}


def test_what_is_derived_from_skipped_rows_has_the_same_rows(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    run(cache, text_dataset(), Choosy(), settings=RowSettings("skip"))
    source = cache.load("tiny", "fake", dtype="float32")
    store_derived(cache, source, source.values * 2, name="doubled", layer="adapted.x", made_by={"times": 2})
    derived = cache.load("tiny", "doubled")
    assert derived.ids.tolist() == source.ids.tolist()
    np.testing.assert_array_equal(derived.values, source.values * 2)


def unlist(record: Path, row_id: str) -> None:
    """Makes a commit record keep a failed row to itself, as no writer of ours does."""
    content = record.read_text()
    assert f'"failed":["{row_id}"]' in content
    record.write_text(content.replace(f'"{row_id}"', ""))


def test_a_nan_that_no_record_lists_is_refused(tmp_path: Path) -> None:
    cache, dataset = Cache(tmp_path), text_dataset()
    job = small_chunks(plan(cache, dataset, layers=["last"]))
    (target,) = job.targets
    cut = target.array.create(target.key, Layout(50, 7, 4, "cost", 1))
    block = np.ones((7, 8), np.float16)
    block[2] = np.nan
    target.array.commit(cut, 1, block, writer="w", ids=dataset.views["captions"].ids[7:14])
    unlist(target.array.path / "commits" / "1.json", "r9")
    extract(cache, job, encoder=FakeEncoder())  # pyright: ignore[reportArgumentType]
    with pytest.raises(Damaged, match="row 'r9' is NaN and no commit lists it"):
        cache.load("tiny", "fake")


def test_skipping_does_not_hide_a_value_beyond_float16(tmp_path: Path) -> None:
    with pytest.raises(Overflow, match="--dtype float32"):
        run(Cache(tmp_path), text_dataset(), FakeEncoder(scale=1e6), settings=RowSettings("skip"))


@pytest.mark.parametrize("encoder", [FakeEncoder(scale=float("nan")), Choosy()], ids=["features", "rows"])
def test_if_every_row_fails_nothing_is_kept(tmp_path: Path, encoder: FakeEncoder) -> None:
    if isinstance(encoder, Choosy):
        encoder.refused = ("w",)
    cache = Cache(tmp_path)
    with pytest.raises(ExtractionFailed, match="every row of captions failed, so nothing is kept; the first: "):
        run(cache, text_dataset(), encoder, settings=RowSettings("skip"))
    assert not cache.entries()


def test_stopping_says_how_to_go_on_and_skipping_then_does(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cut")
    with pytest.raises(ExtractionFailed, match=r"row 'r3' \(number 3\): the caption has no tokens\n.*--on-error skip"):
        run(cache, text_dataset(), Choosy())
    run(cache, text_dataset(), Choosy(), settings=RowSettings("skip"))
    run(Cache(tmp_path / "whole"), text_dataset(), Choosy(), settings=RowSettings("skip"))
    assert snapshot(tmp_path / "cut") == snapshot(tmp_path / "whole")


def test_an_interrupted_run_that_skips_gives_the_bytes_and_records_of_one_that_was_not(tmp_path: Path) -> None:
    def records(cache: Cache) -> list[Any]:
        return [replace(record, writer="") for array in cache.arrays() for record in array.complete().records]

    whole, cut = Cache(tmp_path / "whole"), Cache(tmp_path / "cut")
    run(whole, text_dataset(), Choosy(), settings=RowSettings("skip"))
    run(cut, text_dataset(), Choosy(), settings=RowSettings("skip"))
    for layer, array in zip(fake_card().widths, list(cut.arrays()), strict=True):
        (array.path / "COMPLETE.json").unlink()
        if layer != "1.mean":  # killed when only the layer with the NaN had its chunk
            for chunk in (0, 6):
                (array.path / f"c.{chunk}.0").unlink()
                (array.path / "commits" / f"{chunk}.json").unlink()
    assert run(cut, text_dataset(), Choosy(), settings=RowSettings("skip")).rows == 14
    assert snapshot(whole.root) == snapshot(cut.root) and records(whole) == records(cut)
