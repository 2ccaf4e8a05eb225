"""Does a dry run say what an extraction would do, from rows that it measured and did not store?"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featcache.cache import Cache
from featcache.errors import ExtractionFailed
from featcache.extraction.estimate import Estimate, estimate
from tests.fakes import FakeEncoder, text_dataset
from tests.test_extract import describe_the_fake, plan, run, small_chunks

__all__ = ["describe_the_fake"]


class Slow(FakeEncoder):
    """Takes two milliseconds a row."""

    def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
        time.sleep(0.002 * len(prepared))
        return super().encode(prepared, layers)


def measure(cache: Cache, encoder: FakeEncoder, **choices: Any) -> Estimate:
    job = small_chunks(plan(cache, text_dataset()))
    return estimate(cache, job, encoder=encoder, **choices)  # pyright: ignore[reportArgumentType]


def test_the_rate_is_measured_on_rows_spread_over_the_view_and_nothing_is_written(tmp_path: Path) -> None:
    cache, encoder = Cache(tmp_path / "cache"), Slow()
    cost = measure(cache, encoder, rows=25)
    assert (cost.chunks, cost.rows_left, cost.sample_rows) == (24, 50, 25)
    assert cost.bytes == 8 * 7 * (4 + 8 + 8) * 2
    assert 50 < cost.rows_per_second < 500
    assert cost.seconds == pytest.approx(50 / cost.rows_per_second)
    sampled = {int(text.split()[0][1:]) for text in encoder.rows}
    assert {0, 49} < sampled and len(sampled) >= 25
    assert not cache.entries() and not (tmp_path / "cache").exists()


def test_of_an_interrupted_extraction_only_what_is_left_counts(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    run(cache, text_dataset(), layers=["last"])
    run(cache, text_dataset(), chunks=lambda chunk: chunk < 5)
    cost = measure(cache, FakeEncoder(), rows=8)
    assert (cost.chunks, cost.rows_left) == (2 * 3, 15)


def test_where_everything_is_cached_nothing_is_measured(tmp_path: Path) -> None:
    cache, encoder = Cache(tmp_path), FakeEncoder()
    run(cache, text_dataset())
    assert measure(cache, encoder) == Estimate(0, 0, 0, 0.0, 0.0, 0)
    assert not encoder.rows


def test_without_a_size_the_sample_is_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.estimate

    monkeypatch.setattr(featcache.extraction.estimate, "_SECONDS", 0.06)
    cost = measure(Cache(tmp_path), Slow())
    assert 8 <= cost.sample_rows <= 30


def test_a_sample_of_which_no_row_can_be_encoded_is_an_error(tmp_path: Path) -> None:
    class Refusing(FakeEncoder):
        def prepare(self, item: Any) -> Any:
            raise ExtractionFailed("no tokens")

    with pytest.raises(
        ExtractionFailed, match="none of 4 sampled rows of captions can be encoded; the last: no tokens"
    ):
        measure(Cache(tmp_path), Refusing())


def test_rows_that_fail_are_left_out_of_the_rate(tmp_path: Path) -> None:
    class Choosy(FakeEncoder):
        def prepare(self, item: Any) -> Any:
            if item.startswith("w0"):
                raise ExtractionFailed("no tokens")
            return item

    cache = Cache(tmp_path)
    job = replace(small_chunks(plan(cache, text_dataset())))
    cost = estimate(cache, job, encoder=Choosy(), rows=50)  # pyright: ignore[reportArgumentType]
    assert (cost.rows_left, cost.sample_rows) == (50, 49)
