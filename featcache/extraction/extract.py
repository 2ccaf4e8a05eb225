"""Extraction: one pass of an encoder over a view fills the arrays of all its layers, chunk by chunk."""

import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from featcache.cache import Cache
from featcache.data.errors import DataError
from featcache.data.views import View
from featcache.encoders import load_encoder
from featcache.errors import ExtractionFailed
from featcache.extraction.failed_rows import EARLIER, Failure, RowSettings, admit_failed, not_finite_rows
from featcache.extraction.job import Job, cached_name
from featcache.extraction.limits import available_bytes, named_disk_errors, refuse_full_disk
from featcache.extraction.loader import Batch, choose_workers, named_worker_death, prepared_batches
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from featcache.store.leases import lease
from featcache.store.rows import tables_current, write_rows

if TYPE_CHECKING:
    from featcache.encoders import Encoder

_WRITERS = 8


@dataclass(frozen=True)
class ProcessSettings:
    """What this process does of a job, and how; `chunks` and `on_rows` as for `extract`."""

    rows: RowSettings
    chunks: Callable[[int], bool] | None = None
    on_rows: Callable[[int], None] = lambda rows: None


@dataclass(frozen=True)
class Extracted:
    """What an extraction did."""

    encoder: str  # name it is cached under
    view: str
    layers: tuple[str, ...]  # and poolings, as the job names them
    rows: int  # that went through the encoder (0 if all was there)
    reused: int  # rows of this process's chunks that were committed before
    seconds: float  # of the passes, loading the encoder excluded
    complete: bool = True  # false while other processes have chunks to compute
    failed: tuple[Failure, ...] = ()  # in this run or, where the arrays are complete, in an earlier one


def extract(
    cache: Cache,
    job: Job,
    *,
    encoder: "Encoder | None" = None,
    on_rows: Callable[[int], None] | None = None,
    settings: RowSettings | None = None,
    chunks: Callable[[int], bool] | None = None,
) -> Extracted:
    """Computes and commits whatever of a job is missing.

    Args:
        cache: The cache that the job was planned for.
        job: From `plan_job`.
        encoder: The job's encoder, if it is loaded already.
        on_rows: Called with the number of rows that became durable since the last call.
        settings: How rows are decoded, and what becomes of those that fail; None for `RowSettings()`.
        chunks: Whether this process computes a chunk; None for all. The arrays are completed by the process that
            finds every chunk committed.

    Raises:
        ExtractionFailed: If a row cannot be decoded, encoded or stored, with its id; if a worker dies; if every row
            fails. What was committed stays.
        UsageError: If worker processes are asked for where there are none.
    """
    rows = settings or RowSettings()
    rows = replace(rows, workers=choose_workers(job.view.modality, rows.workers))
    process = ProcessSettings(rows, chunks, on_rows or (lambda rows: None))
    if job.done and tables_current(cache.folder / job.dataset.name / job.view.name, job.view, job.dataset.overlay):
        return _extract(cache, job, encoder, process)  # nothing is written, so that a cache may be read-only
    with named_disk_errors(cache), lease(cache.folder, f"extract {job.card.name}"):
        write_rows(cache.folder / job.dataset.name / job.view.name, job.view, job.dataset.overlay)
        return _extract(cache, job, encoder, process)


def _extract(cache: Cache, job: Job, encoder: "Encoder | None", process: ProcessSettings) -> Extracted:
    if job.done:
        failed = _failures([target.array for target in job.targets], {})
        return result_of(job, rows=0, reused=len(job.view), seconds=0.0, failed=failed)
    refuse_full_disk(
        cache, f"{cached_name(job.card, job.options)} over {job.view.name}", _bytes_to_write(job, process.chunks)
    )
    encoder = encoder if encoder is not None else load_encoder(job.spec, job.options, memo=cache.memo)
    if encoder.card.binds != job.card.binds:
        raise ExtractionFailed(f"the weights of {job.card.name} changed since they were described; run it again")
    return compute(cache, job, encoder, process)


def compute(cache: Cache, job: Job, encoder: "Encoder", process: ProcessSettings) -> Extracted:
    """As `extract`, where the row table is written and the encoder loaded: takes no time that grows with the rows."""
    started, done = perf_counter(), _Done()
    with named_disk_errors(cache):
        try:
            for layout, arrays in _passes(job, encoder).items():
                _Pass(job.view, encoder, layout, arrays, process=process, done=done).run()
        except (ExtractionFailed, DataError):
            if process.chunks is None:  # else other processes may be about to commit to them
                _drop_empty(cache, job)
            raise
        complete = _finish(job)
    arrays = [target.array for target in job.targets if target.done]
    failed = _failures(arrays, done.failed)
    if complete and len(failed) == len(job.view):
        for array in arrays:
            cache.remove(array)
        raise ExtractionFailed(f"every row of {job.view.name} failed, so nothing is kept; the first: {failed[0].why}")
    return result_of(
        job,
        rows=_covered(done.encoded),
        reused=_covered(done.spans) - _covered(done.encoded),
        seconds=perf_counter() - started,
        complete=complete,
        failed=failed,
    )


def result_of(
    job: Job, *, rows: int, reused: int, seconds: float, complete: bool = True, failed: Iterable[Failure] = ()
) -> Extracted:
    """What was done of a job, under its names."""
    return Extracted(
        encoder=cached_name(job.card, job.options),
        view=job.view.name,
        layers=tuple(target.layer for target in job.targets),
        rows=rows,
        reused=reused,
        seconds=seconds,
        complete=complete,
        failed=tuple(failed),
    )


def _bytes_to_write(job: Job, chosen: Callable[[int], bool] | None) -> int:
    """Bytes of the chunks that are this process's to write."""
    total = -(-len(job.view) // job.chunk_rows)
    return job.bytes if chosen is None else job.bytes * sum(map(chosen, range(total))) // total


def _drop_empty(cache: Cache, job: Job) -> None:
    """Removes the arrays that a failed extraction made and committed nothing to, unless others may be about to."""
    if len(cache.writers()) > 1:  # we are one ourselves
        return
    for target in job.targets:
        if target.array.folder.there() and not target.array.committed():
            cache.remove(target.array)


def _finish(job: Job) -> bool:
    """Completes every array whose chunks are all committed, by whoever; returns whether all of them are."""

    def finish(array: FeatureArray) -> bool:
        layout = array.layout()
        assert layout is not None  # the pass that filled the array made it
        if len(array.committed()) < layout.chunks:
            return False
        array.finish(layout)
        return True

    with ThreadPoolExecutor(_WRITERS) as writers:
        return all(list(writers.map(finish, [target.array for target in job.targets if not target.done])))


def _failures(arrays: Iterable[FeatureArray], reasons: dict[str, str]) -> tuple[Failure, ...]:
    """The rows that failed now, and those that the records of complete arrays list."""
    recorded = (row for array in arrays for record in array.complete().records for row in record.failed)
    return tuple(Failure(row, reasons.get(row, EARLIER)) for row in dict.fromkeys([*reasons, *recorded]))


def _covered(spans: Iterable[tuple[int, int]]) -> int:
    """Rows in the union of (first row, row behind the last) spans."""
    rows = reached = 0
    for start, stop in sorted(spans):
        rows += max(0, stop - max(start, reached))
        reached = max(reached, stop)
    return rows


def _passes(job: Job, encoder: "Encoder") -> dict[Layout, dict[str, FeatureArray]]:
    """Groups the arrays by the layout in force: one pass each, one in all unless an earlier run cut them otherwise."""
    import torch

    size = min(encoder.batch_size(available_bytes(job.options.device)), job.chunk_rows)
    order = "cost" if job.view.modality == "text" else "row"
    wanted = Layout(
        n=len(job.view), chunk_rows=job.chunk_rows, batch_size=size, order=order, threads=torch.get_num_threads()
    )
    passes: dict[Layout, dict[str, FeatureArray]] = {}
    to_do = [target for target in job.targets if not target.done]
    # whoever makes the first array cuts them all: two processes that come at once must not cut half of them each
    wanted = to_do[0].array.create(to_do[0].key, wanted) if to_do else wanted
    with ThreadPoolExecutor(_WRITERS) as writers:  # each waits for the disk: together they wait once
        layouts = list(writers.map(lambda target: target.array.create(target.key, wanted), to_do))
    for target, layout in zip(to_do, layouts, strict=True):
        passes.setdefault(layout, {})[target.layer] = target.array
    return passes


@dataclass
class _Done:
    """What the passes did."""

    spans: list[tuple[int, int]] = field(default_factory=list)  # rows of this process's chunks: (first, behind last)
    encoded: list[tuple[int, int]] = field(default_factory=list)  # of these, the rows that were encoded now
    failed: dict[str, str] = field(default_factory=dict)  # id -> reason


@dataclass
class _Pass:
    """One run of an encoder over the chunks that its arrays lack."""

    view: View
    encoder: "Encoder"
    layout: Layout
    arrays: dict[str, FeatureArray]
    process: ProcessSettings
    done: _Done

    def run(self) -> None:
        import torch

        wanted = self._wanted()
        threads = torch.get_num_threads()
        torch.set_num_threads(self.layout.threads)
        chunks, workers = list(wanted), self.process.rows.workers or 0
        batches = prepared_batches(self.view, self.encoder, self.layout, chunks, workers=workers)
        try:
            with named_worker_death(), ThreadPoolExecutor(_WRITERS) as writers, closing(batches):
                commits = _Commits(self, writers)
                try:
                    self._encode_all(batches, wanted, commits)
                finally:  # whatever happened meanwhile, what is on its way arrives
                    commits.wait()
        finally:
            torch.set_num_threads(threads)

    def _wanted(self) -> dict[int, tuple[str, ...]]:
        """The layers that each chunk lacks, of the chunks that are this process's to compute."""
        chosen = self.process.chunks
        if chosen is None:  # a chunk without record may be another process's that is at work right now
            for array in self.arrays.values():
                array.adopt_orphans(self.layout, self.view.ids)
        committed = {layer: array.committed() for layer, array in self.arrays.items()}
        wanted: dict[int, tuple[str, ...]] = {}
        for chunk in range(self.layout.chunks):
            if chosen is None or chosen(chunk):
                self.done.spans.append(self.layout.span(chunk))
                lacking = tuple(layer for layer in self.arrays if chunk not in committed[layer])
                if lacking:
                    wanted[chunk] = lacking
        return wanted

    def _encode_all(self, batches: Iterable[Batch], wanted: dict[int, tuple[str, ...]], commits: "_Commits") -> None:
        blocks, failed = dict[str, np.ndarray](), dict[int, str]()
        for batch in batches:
            start, stop = self.layout.span(batch.chunk)
            if not blocks:
                blocks = {layer: self._empty_block(layer, stop - start) for layer in wanted[batch.chunk]}
            failed |= admit_failed(batch.failed, self.view, self.process.rows.on_error)
            if batch.prepared:
                failed |= self._encode(batch, blocks, start)
            if batch.last:
                commits.put(batch.chunk, blocks, failed)
                blocks, failed = {}, {}
            commits.acknowledge()

    def _empty_block(self, layer: str, rows: int) -> np.ndarray:
        return np.full((rows, self.encoder.card.widths[layer]), np.nan, self.encoder.card.dtype)

    def _encode(self, batch: Batch, blocks: dict[str, np.ndarray], start: int) -> dict[int, str]:
        """Writes the features of one batch into the chunk's blocks; returns the rows that came out as no numbers."""
        places = np.asarray(batch.numbers) - start
        failed: dict[int, str] = {}
        # To skip a row, every layer has to be seen, also where an interrupted run left only some to be written: a row
        # that is NaN in one layer is so in all.
        layers = tuple(self.arrays if self.process.rows.on_error == "skip" else blocks)
        for layer, tensor in self.encoder.encode(batch.prepared, layers).items():
            values = tensor.numpy()
            with np.errstate(over="ignore"):
                stored = values.astype(self.encoder.card.dtype)
            if not np.isfinite(stored).all():
                name, rows = f"{self.encoder.card.name}/{layer}", self.process.rows
                failed |= not_finite_rows(name, self.view, batch.numbers, values, stored, rows.on_error)
            if layer in blocks:
                blocks[layer][places] = stored
        return failed


class _Commits:
    """Brings chunks to the disk while the next is encoded: at most one of every array is on its way."""

    def __init__(self, run: _Pass, writers: ThreadPoolExecutor) -> None:
        self._pass = run
        self._writers = writers
        self._id = uuid.uuid4().hex
        self._under_way: list[Future[object]] = []
        self._span = (0, 0)

    def put(self, chunk: int, blocks: dict[str, np.ndarray], failed: dict[int, str]) -> None:
        """Sends a chunk of every array off, once the one before it is durable."""
        self.wait()
        run, start = self._pass, self._pass.layout.span(chunk)[0]
        for block in blocks.values():
            block[np.asarray(sorted(failed), int) - start] = np.nan
        run.done.failed.update((run.view.ids[row], failed[row]) for row in sorted(failed))
        ids = run.view.ids[slice(*run.layout.span(chunk))]
        self._span = run.layout.span(chunk)
        self._under_way = [
            self._writers.submit(run.arrays[layer].commit, run.layout, chunk, block, writer=self._id, ids=ids)
            for layer, block in blocks.items()
        ]

    def acknowledge(self) -> None:
        """Reports the chunk on its way if it has arrived."""
        if all(commit.done() for commit in self._under_way):
            self.wait()

    def wait(self) -> None:
        """Waits until the chunk on its way is durable and reports it; raises what kept it from being so."""
        wait_for(self._under_way)
        commits, self._under_way = self._under_way, []
        for commit in commits:
            commit.result()
        if commits:
            self._pass.done.encoded.append(self._span)
            self._pass.process.on_rows(self._span[1] - self._span[0])
