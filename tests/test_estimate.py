"""Does a dry run say what an extraction would do, from rows that it measured and did not store?"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featcache.cache import Cache
from featcache.encoders import Card, EncodeOptions, encoder_spec
from featcache.errors import ExtractionFailed
from featcache.extraction.estimate import Estimate, estimate
from featcache.extraction.extract import extract
from featcache.extraction.job import plan_job
from tests.fakes import FakeEncoder, fake_card, text_dataset
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


def test_the_rate_is_measured_on_rows_spread_over_the_view_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache.extraction.estimate

    monkeypatch.setattr(featcache.extraction.estimate, "_SECONDS", 60.0)  # a busy machine may take five to import torch
    cache, encoder = Cache(tmp_path / "cache"), Slow()
    cost = measure(cache, encoder)
    assert (cost.chunks, cost.rows_left, cost.sample_rows, cost.sample_batches) == (24, 50, 50, 13)
    assert cost.bytes == 8 * 7 * (4 + 8 + 8) * 2
    assert 50 < cost.rows_per_second < 500
    assert cost.seconds == pytest.approx(50 / cost.rows_per_second)
    sampled = {int(text.split()[0][1:]) for text in encoder.rows}
    assert {0, 49} < sampled
    assert not cache.entries() and not (tmp_path / "cache").exists()


def test_of_an_interrupted_extraction_only_what_is_left_counts(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    run(cache, text_dataset(), layers=["last"])
    run(cache, text_dataset(), chunks=lambda chunk: chunk < 5)
    cost = measure(cache, FakeEncoder())
    assert (cost.chunks, cost.rows_left) == (2 * 3, 15)


def test_where_everything_is_cached_nothing_is_measured(tmp_path: Path) -> None:
    cache, encoder = Cache(tmp_path), FakeEncoder()
    run(cache, text_dataset())
    assert measure(cache, encoder) == Estimate(0, 0, 0, 0.0, 0.0, 0)
    assert not encoder.rows


class Timed(FakeEncoder):
    """Takes so many seconds of a clock that it moves itself: a row, and once for warming up."""

    def __init__(self, clock: "Clock", row: float, warming: float = 0.0, card: Card | None = None) -> None:
        super().__init__(card or fake_card(), batch=8)
        self.clock, self.row, self.warming, self.batches = clock, row, warming, list[int]()

    def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
        words = [len(each.split()) for each in prepared]
        longest = max(words) if self.card.modality == "text" else 4  # what is padded costs as much as what is not
        self.clock.now += self.row * longest * len(prepared) + (0.0 if self.batches else self.warming)
        self.batches.append(len(prepared))
        return super().encode(prepared, layers)


class Clock:
    """Stands still unless it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize(
    ("row", "warming", "measured"),
    [
        (0.01, 0.0, 1000),  # all of it: 2,000 words of a hundredth of a second would take 20
        (0.1, 0.0, 100),
        (0.1, 4.0, 100),  # warming up takes most of the time
        (0.6, 0.0, 7),
        (0.6, 30.0, 1),  # one row is the least, however long it takes
        (9.0, 0.0, 1),
    ],
)
def test_sampling_stops_in_five_seconds_or_after_one_row_however_slow_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str, row: float, warming: float, measured: int
) -> None:
    import featcache.extraction.estimate
    import featcache.extraction.job

    clock = Clock()
    monkeypatch.setattr(featcache.extraction.estimate, "perf_counter", clock)
    card = replace(fake_card(), modality=modality)
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: card)
    texts = text_dataset(500).views["captions"]
    view = replace(texts, name="rows", modality=modality)
    dataset = replace(text_dataset(500), views={"rows": view})
    encoder = Timed(clock, row, warming, card)
    spec = encoder_spec("minilm" if modality == "text" else "efficientnet-lite0")
    job = plan_job(Cache(tmp_path), dataset, spec, EncodeOptions())
    cost = estimate(Cache(tmp_path), job, encoder=encoder)  # pyright: ignore[reportArgumentType]
    slowest = 7 * row * encoder.batches[0] + warming
    assert clock.now - 100.0 <= max(5.0, slowest) + 1e-6
    assert 1 <= cost.sample_rows <= measured and sum(encoder.batches) <= cost.sample_rows + 2
    if max(encoder.batches) > 1:
        assert cost.rows_per_second == pytest.approx(1 / (4 * row), rel=0.45), "four words a caption in the mean"
    if cost.sample_batches == 1:
        assert len(encoder.batches) <= 3


def test_the_rate_of_texts_does_not_take_the_longest_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.estimate

    clock = Clock()
    monkeypatch.setattr(featcache.extraction.estimate, "perf_counter", clock)
    encoder = Timed(clock, 0.02)
    job = plan(Cache(tmp_path), text_dataset(400))
    cost = estimate(Cache(tmp_path), job, encoder=encoder)  # pyright: ignore[reportArgumentType]
    assert cost.sample_rows < 128, "there was no time for all of the texts that were tokenised"
    started = clock.now
    extract(Cache(tmp_path), job, encoder=encoder)  # pyright: ignore[reportArgumentType]
    assert cost.rows_per_second == pytest.approx(400 / (clock.now - started), rel=0.15)


def test_a_sample_of_which_no_row_can_be_encoded_is_an_error(tmp_path: Path) -> None:
    class Refusing(FakeEncoder):
        def prepare(self, item: Any) -> Any:
            raise ExtractionFailed("no tokens")

    with pytest.raises(
        ExtractionFailed, match="none of 50 sampled rows of captions can be encoded; the last: no tokens"
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
    cost = estimate(cache, job, encoder=Choosy())  # pyright: ignore[reportArgumentType]
    assert (cost.rows_left, cost.sample_rows) == (50, 49)
