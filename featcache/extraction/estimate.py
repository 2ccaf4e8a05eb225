"""The time that an extraction would take, from a measured sample of its rows of which nothing is stored."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.cache import Cache
from featcache.data.views import View
from featcache.encoders import load_encoder
from featcache.errors import ExtractionFailed
from featcache.extraction.job import Job, work_left
from featcache.extraction.limits import available_bytes
from featcache.extraction.loader import Batch, choose_workers, named_worker_death, prepared_batches
from featcache.store.layout import Layout

if TYPE_CHECKING:
    from featcache.encoders import Encoder

_SECONDS = 5.0  # of measuring, warming up included; loading the encoder comes on top
_MOST_BATCHES = 64
_TEXT_BATCHES = 16  # of texts tokenised before the first is encoded


@dataclass(frozen=True)
class Estimate:
    """What an extraction would compute, and how fast this machine does it."""

    chunks: int  # chunk files still to be written, over all arrays
    bytes: int  # of these chunks
    rows_left: int  # rows that would go through the encoder
    rows_per_second: float  # measured, decoding included; 0 if nothing is left
    seconds: float  # for the rows left at that rate; loading the encoder is not in it
    sample_rows: int  # rows that were measured
    sample_batches: int = 0  # in which they were measured; a rate from one is rough


@dataclass(frozen=True)
class _Sample:
    """What was measured."""

    rows_per_second: float
    rows: int
    batches: int


def estimate(cache: Cache, job: Job, *, encoder: "Encoder | None" = None, workers: int | None = None) -> Estimate:
    """Measures some rows of a planned job, spread over the view, as the extraction would treat them; writes nothing.

    It measures for five seconds at most, but one row at least: before it begins a batch it sees whether there is time
    for one more. `workers` is that of `RowSettings`.

    Raises:
        ExtractionFailed: If none of the sampled rows can be decoded.
    """
    chunks, left = work_left(job)
    sample = _Sample(0.0, 0, 0)
    if left:
        encoder = encoder if encoder is not None else load_encoder(job.entry, job.options, memo=cache.memo)
        layers = [target.layer for target in job.targets if not target.done]
        batch = min(encoder.batch_size(available_bytes(job.options.device)), job.chunk_rows)
        stopwatch = _Stopwatch(lambda prepared: encoder.encode(prepared, layers), perf_counter() + _SECONDS)
        if job.view.modality == "text":
            sample = _measure_texts(job.view, encoder, batch, stopwatch)
        else:
            sample = _measure_stream(job.view, encoder, batch, stopwatch, choose_workers(job.view.modality, workers))
    return Estimate(
        chunks=chunks,
        bytes=job.bytes,
        rows_left=left,
        rows_per_second=sample.rows_per_second,
        seconds=left / sample.rows_per_second if left else 0.0,
        sample_rows=sample.rows,
        sample_batches=sample.batches,
    )


@dataclass
class _Stopwatch:
    """Encodes batches, takes their times and says whether there is time for more."""

    encode: Callable[[list[Any]], Any]
    deadline: float

    def seconds(self, prepared: list[Any]) -> float:
        """How long a batch takes."""
        started = perf_counter()
        self.encode(prepared)
        return perf_counter() - started

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.deadline - perf_counter()

    def fitting(self, row_seconds: Callable[[], float], first: float, batch: int) -> tuple[int, float]:
        """How large a batch may be to take half of what is left at most.

        Args:
            row_seconds: Measures one row again.
            first: Seconds that it took the first time, when everything was warming up.
            batch: Rows of a batch of the extraction.

        Returns:
            (rows, 0 where there is no time for more; seconds of one row, as far as is known).
        """
        if first > self.left:
            return 0, first
        again = row_seconds()
        most = min(batch, int(max(1.0, self.left / 2 / max(again, 1e-9))))
        return (most if again <= self.left else 0), again


# -- images and audio: rows are decoded while others are encoded ------------------------------------------------------


def _measure_stream(view: View, encoder: "Encoder", batch: int, stopwatch: _Stopwatch, workers: int) -> _Sample:
    """The rate of a stream of batches, each of which lies evenly over the view."""
    number, first = _first_row(view, encoder, stopwatch)
    size, one = stopwatch.fitting(lambda: _row_seconds(view, encoder, number, stopwatch)[0], first, batch)
    if not size:
        return _Sample(1 / one, 1, 1)
    started, rows, batches, longest = perf_counter(), 0, 0, 0.0
    with named_worker_death(), closing(_prepared(view, encoder, _spread(len(view), size), size, workers)) as stream:
        before = started
        for each in stream:
            if each.prepared:
                stopwatch.encode(each.prepared)
                rows, batches = rows + len(each.prepared), batches + 1
            now = perf_counter()
            longest, before = max(longest, now - before), now
            if stopwatch.left < longest:
                break
    return _Sample(rows / (before - started), rows, batches) if rows else _Sample(1 / one, 1, 1)


def _first_row(view: View, encoder: "Encoder", stopwatch: _Stopwatch) -> tuple[int, float]:
    """The first of the spread rows that can be encoded, and the seconds that it takes in all."""
    reason, numbers = "", _spread(len(view), 1)
    for number in numbers:
        seconds, reason = _row_seconds(view, encoder, number, stopwatch)
        if not reason:
            return number, seconds
    raise _none_fit(len(numbers), view, reason)


def _row_seconds(view: View, encoder: "Encoder", number: int, stopwatch: _Stopwatch) -> tuple[float, str]:
    """How long one row takes to decode and encode, and why it cannot be."""
    started = perf_counter()
    (batch,) = _prepared(view, encoder, [number], 1, 0)
    if batch.prepared:
        stopwatch.encode(batch.prepared)
    return perf_counter() - started, next(iter(batch.failed.values()), "")


def _none_fit(count: int, view: View, reason: str) -> ExtractionFailed:
    return ExtractionFailed(f"none of {count} sampled rows of {view.name} can be encoded; the last: {reason}")


def _spread(n: int, size: int) -> list[int]:
    """Row numbers of which every slice of one size lies evenly over a view of n rows.

    Example:
        >>> _spread(6, 2)
        [0, 3, 1, 4, 2, 5]
    """
    rows = np.unique(np.linspace(0, n - 1, min(n, _MOST_BATCHES * size)).astype(int))
    batches = -(-len(rows) // size)
    return [int(row) for batch in range(batches) for row in rows[batch::batches]]


def _prepared(
    view: View, encoder: "Encoder", numbers: Sequence[int], size: int, workers: int
) -> Generator[Batch, None, None]:
    """Some rows in batches, prepared as the extraction does; text longest first."""
    sample = replace(
        view,
        ids=tuple(view.ids[row] for row in numbers),
        groups=tuple(view.groups[row] for row in numbers),
        content=lambda row: view.content(numbers[row]),
        given_hashes=None,
    )
    order = "cost" if view.modality == "text" else "row"
    layout = Layout(n=len(numbers), chunk_rows=len(numbers), batch_size=size, order=order, threads=1)
    return prepared_batches(sample, encoder, layout, [0], workers=workers)


# -- text: longest first ----------------------------------------------------------------------------------------------


def _measure_texts(view: View, encoder: "Encoder", batch: int, stopwatch: _Stopwatch) -> _Sample:
    """The rate over batches of every length.

    The longest are the slowest by far, so those that there was no time for are interpolated between shorter and longer
    ones; with the longest alone the rate is too low rather than too high.
    """
    count = min(len(view), _TEXT_BATCHES * batch)
    started = perf_counter()
    tokenised = list(_prepared(view, encoder, np.linspace(0, len(view) - 1, count).astype(int).tolist(), batch, 0))
    preparing = perf_counter() - started
    rows = [row for each in tokenised for row in each.prepared]
    if not rows:
        raise _none_fit(count, view, next(iter(tokenised[0].failed.values()), ""))
    first = stopwatch.seconds(rows[:1])
    size, one = stopwatch.fitting(lambda: stopwatch.seconds(rows[:1]), first, batch)
    if not size:
        return _Sample(1 / (one + preparing / len(rows)), 1, 1)
    batches = [rows[low : low + size] for low in range(0, len(rows), size)]
    per_row: dict[int, float] = {}  # seconds, by place in the order of lengths
    longest = 0.0
    for place in _halving(len(batches)):
        seconds = stopwatch.seconds(batches[place])
        per_row[place], longest = seconds / len(batches[place]), max(longest, seconds)
        if stopwatch.left < longest:
            break
    places = sorted(per_row)
    each = np.interp(range(len(batches)), places, [per_row[place] for place in places])
    encoding = sum(cost * len(each_batch) for cost, each_batch in zip(each.tolist(), batches, strict=True))
    return _Sample(len(rows) / (encoding + preparing), sum(len(batches[place]) for place in places), len(places))


def _halving(count: int) -> list[int]:
    """0 to count - 1, the first, the last, and then the middle of every gap, so that any beginning is spread evenly.

    Example:
        >>> _halving(6)
        [0, 5, 2, 1, 3, 4]
    """
    order, gaps = list(dict.fromkeys([0, count - 1])), [(0, count - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return order
