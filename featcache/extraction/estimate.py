"""The time that an extraction would take, from a measured sample of its rows of which nothing is stored."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from featcache.cache import Cache
from featcache.data.views import View
from featcache.encoders import load_encoder
from featcache.errors import ExtractionFailed
from featcache.extraction.job import Job
from featcache.extraction.limits import available_bytes
from featcache.extraction.loader import choose_workers, named_worker_death, prepared_batches
from featcache.store.layout import Layout

if TYPE_CHECKING:
    from featcache.encoders import Encoder

_SECONDS = 6.0  # of measuring; loading the encoder and warming up come on top
_LEAST_BATCHES = 2


@dataclass(frozen=True)
class Estimate:
    """What an extraction would compute, and how fast this machine does it."""

    chunks: int  # chunk files still to be written, over all arrays
    bytes: int  # of these chunks
    rows_left: int  # rows that would go through the encoder
    rows_per_second: float  # measured, decoding included; 0 if nothing is left
    seconds: float  # for the rows left at that rate; loading the encoder is not in it
    sample_rows: int  # rows that were measured


def estimate(
    cache: Cache, job: Job, *, encoder: "Encoder | None" = None, rows: int | None = None, workers: int | None = None
) -> Estimate:
    """Measures some rows of a planned job, evenly spaced, as the extraction would treat them; writes no features.

    Without `rows` it measures for some six seconds; `workers` is that of `RowSettings`.

    Raises:
        ExtractionFailed: If none of the sampled rows can be decoded.
    """
    chunks, left = _left(job)
    rate, measured = 0.0, 0
    if left:
        rate, measured = _rate(cache, job, encoder, rows, choose_workers(job.view.modality, workers))
    return Estimate(
        chunks=chunks,
        bytes=job.bytes,
        rows_left=left,
        rows_per_second=rate,
        seconds=left / rate if left else 0.0,
        sample_rows=measured,
    )


def _left(job: Job) -> tuple[int, int]:
    """(chunk files still to be written, rows still to be encoded): arrays of one layout share a pass."""
    files, missing = 0, dict[int, set[int]]()
    for target in job.targets:
        if not target.done:
            layout = target.array.layout() if target.array.folder.there() else None
            size = layout.chunk_rows if layout else job.chunk_rows
            lacking = set(range(-(-len(job.view) // size))) - target.array.committed()
            missing.setdefault(size, set()).update(lacking)
            files += len(lacking)
    n = len(job.view)
    return files, sum(min((chunk + 1) * size, n) - chunk * size for size, chunks in missing.items() for chunk in chunks)


def _rate(cache: Cache, job: Job, encoder: "Encoder | None", rows: int | None, workers: int) -> tuple[float, int]:
    """(rows a second, rows measured)."""
    encoder = encoder if encoder is not None else load_encoder(job.spec, job.options, memo=cache.memo)
    layers = [target.layer for target in job.targets if not target.done]
    batch = min(encoder.batch_size(available_bytes(job.options.device)), job.chunk_rows)
    _measure(job.view, encoder, layers, batch, min(batch, len(job.view)), workers)  # memory, kernels, file cache
    if rows is None:
        first, spent = _measure(job.view, encoder, layers, batch, _LEAST_BATCHES * batch, workers)
        rows = max(_LEAST_BATCHES * batch, int(first / spent * _SECONDS))
    measured, spent = _measure(job.view, encoder, layers, batch, rows, workers)
    return measured / spent, measured


def _measure(
    view: View, encoder: "Encoder", layers: Sequence[str], batch: int, rows: int, workers: int
) -> tuple[int, float]:
    """(rows, seconds) of decoding and encoding rows that lie evenly over the view; as one chunk, longest text first."""
    some = np.unique(np.linspace(0, len(view) - 1, min(rows, len(view))).astype(int)).tolist()
    sample = replace(
        view,
        ids=tuple(view.ids[row] for row in some),
        groups=tuple(view.groups[row] for row in some),
        content=lambda row: view.content(some[row]),
    )
    order = "cost" if view.modality == "text" else "row"
    layout = Layout(n=len(some), chunk_rows=len(some), batch_size=min(batch, len(some)), order=order, threads=1)
    started, done, reason = perf_counter(), 0, ""
    batches = prepared_batches(sample, encoder, layout, [0], workers=workers)
    with named_worker_death(), closing(batches):
        for prepared in batches:
            reason = next(iter(prepared.failed.values()), reason)
            if prepared.prepared:
                encoder.encode(prepared.prepared, layers)
            done += len(prepared.prepared)
    if not done:
        raise ExtractionFailed(f"none of {len(some)} sampled rows of {view.name} can be encoded; the last: {reason}")
    return done, perf_counter() - started
