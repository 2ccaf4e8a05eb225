"""Extraction: one pass of an encoder over a view fills the arrays of all its layers, chunk by chunk."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

from featcache.cache import Cache
from featcache.data.errors import DataError
from featcache.encoders import load_encoder
from featcache.errors import ExtractionFailed
from featcache.extraction.encode_pass import WRITERS, Done, Pass, ProcessSettings
from featcache.extraction.failed_rows import EARLIER, Failure, RowSettings
from featcache.extraction.job import Job, Target, cached_name
from featcache.extraction.limits import available_bytes, named_disk_errors, refuse_full_disk
from featcache.extraction.loader import choose_workers
from featcache.extraction.reuse import damage_in, open_copies
from featcache.notices import notice
from featcache.storage.durable import READ_ONLY
from featcache.store.array import FeatureArray
from featcache.store.current import set_current
from featcache.store.layout import Layout
from featcache.store.leases import lease
from featcache.store.reused import ReusedRows, ReusedSpan, read_reused, write_reused
from featcache.store.rows import restore_rows, tables_current, write_rows
from featcache.store.side_file import side_chunks

if TYPE_CHECKING:
    from featcache.extraction.running import RunningEncoder


@dataclass(frozen=True)
class Extracted:
    """What an extraction did."""

    encoder: str  # name it is cached under
    view: str
    layers: tuple[str, ...]  # and poolings, as the job names them
    rows: int  # that went through the encoder (0 if all was there)
    reused: int  # rows of this process's chunks that did not: committed before, kept, or copied
    seconds: float  # of the passes, loading the encoder excluded
    complete: bool = True  # false while other processes have chunks to compute
    failed: tuple[Failure, ...] = ()  # in this run or, where the arrays are complete, in an earlier one
    copied: int = 0  # of the reused rows, those that came from an older extraction of other rows
    sources: tuple[str, ...] = ()  # roots of the arrays that they came from, in layer order
    notes: tuple[str, ...] = ()  # what came otherwise than planned


def extract(
    cache: Cache,
    job: Job,
    *,
    encoder: "RunningEncoder | None" = None,
    on_rows: Callable[[int], None] | None = None,
    settings: RowSettings | None = None,
    chunks: Callable[[int], bool] | None = None,
    reuse_from: Cache | None = None,
) -> Extracted:
    """Computes and commits whatever of a job is missing.

    Args:
        cache: The cache that the job was planned for.
        job: From `plan_job`.
        encoder: The job's encoder, if it is loaded already.
        on_rows: Called after every batch with the number of its rows; they are durable when their chunk is committed.
        settings: How rows are decoded, and what becomes of those that fail; None for `RowSettings()`.
        chunks: Whether this process computes a chunk; None for all. The arrays are completed by the process that
            finds every chunk committed.
        reuse_from: Where rows that are reused lie; None for the cache itself.

    On Ctrl-C, and on SIGTERM within `terminable`, the encoded rows of the chunk in work are kept in side files, and the
    next extraction takes them.

    Raises:
        ExtractionFailed: If a row cannot be decoded, encoded or stored, with its id; if a worker dies; if every row
            fails. What was committed stays.
        Damaged: If an array that rows were being reused from is not as recorded.
        UsageError: If worker processes are asked for where there are none.
    """
    rows = settings or RowSettings()
    rows = replace(rows, workers=choose_workers(job.view.modality, rows.workers))
    process = ProcessSettings(rows, chunks, on_rows or (lambda rows: None), reuse_from)
    if job.done and tables_current(cache.folder / job.dataset.name / job.view.name, job.view, job.dataset.overlay):
        return _extract(cache, job, encoder, process)  # nothing is written, so that a cache may be read-only
    with named_disk_errors(cache), lease(cache.folder, f"extract {job.card.name}"):
        folder = cache.folder / job.dataset.name / job.view.name
        write_rows(folder, job.view, job.dataset.overlay)
        extracted = _extract(cache, job, encoder, process)
        restore_rows(folder, job.view, job.dataset.overlay)
        return extracted


def _extract(cache: Cache, job: Job, encoder: "RunningEncoder | None", process: ProcessSettings) -> Extracted:
    if job.done:
        failed = _failures([target.array for target in job.targets], {})
        _record_rows(cache, job)
        return result_of(job, rows=0, reused=len(job.view), seconds=0.0, failed=failed)
    refuse_full_disk(
        cache, f"{cached_name(job.card, job.options)} over {job.view.name}", _bytes_to_write(job, process.chunks)
    )
    encoder = encoder if encoder is not None else load_encoder(job.entry, job.options, memo=cache.memo)
    if encoder.card.binds != job.card.binds:
        raise ExtractionFailed(f"the weights of {job.card.name} changed since they were described; run it again")
    return compute(cache, job, encoder, process)


def compute(cache: Cache, job: Job, encoder: "RunningEncoder", process: ProcessSettings) -> Extracted:
    """As `extract`, where the row table is written and the encoder loaded: takes no time that grows with the rows."""
    started, done = perf_counter(), Done()
    with named_disk_errors(cache):
        try:
            for each in _passes(cache, job, encoder, process, done):
                each.run()
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
    if complete:
        _record_rows(cache, job)
    result = result_of(
        job,
        rows=_covered(done.encoded),
        reused=_covered(done.spans) - _covered(done.encoded),
        seconds=perf_counter() - started,
        complete=complete,
        failed=failed,
    )
    return replace(result, copied=_covered(done.copied), sources=tuple(done.sources), notes=tuple(done.notes))


def _record_rows(cache: Cache, job: Job) -> None:
    """Makes the job's rows those that names stand for, now that its arrays of them are complete and not before."""
    view = cache.folder / job.dataset.name / job.view.name
    try:
        set_current(view, job.view.root, len(job.view))
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        notice(f"{view} cannot be written to ({error.strerror}): names go on standing for the rows they stood for")


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
    """Removes the arrays that hold no rows after a failed extraction, unless others may be about to commit to them."""
    with cache.alone(f"end the extraction of {job.card.name}, which failed") as alone:
        for target in job.targets if alone else ():
            kept = target.array.committed() | side_chunks(target.array.folder)
            if target.array.folder.there() and not kept:
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

    with ThreadPoolExecutor(WRITERS) as writers:
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


def _passes(cache: Cache, job: Job, encoder: "RunningEncoder", process: ProcessSettings, done: Done) -> Iterator[Pass]:
    """One pass, unless earlier runs cut some arrays otherwise or let them reuse other rows: then one for each kind."""
    to_do = [target for target in job.targets if not target.done]
    source = process.reuse_from or cache
    layouts = _open_arrays(source, job, to_do, _wanted_layout(job, encoder), done)
    passes: dict[tuple[Layout, tuple[ReusedSpan, ...]], dict[str, FeatureArray]] = {}
    reused: dict[str, ReusedRows] = {}
    for target, layout in zip(to_do, layouts, strict=True):
        rows = read_reused(target.array.folder)
        if rows is not None:
            reused[target.layer] = rows
        passes.setdefault((layout, rows.spans if rows else ()), {})[target.layer] = target.array
    for (layout, _), arrays in passes.items():
        own = {layer: reused[layer] for layer in arrays if layer in reused}
        copies = open_copies(source, own) if own else None
        if own and copies is None:
            first = next(iter(own.values()))
            done.note(
                f"{len(first):,} rows were to be reused from {first.path} with root {first.root[:12]}, which has gone "
                "from the cache: they were encoded"
            )
        yield Pass(job.view, encoder, layout, arrays, reused=own, copies=copies, process=process, done=done)


def _wanted_layout(job: Job, encoder: "RunningEncoder") -> Layout:
    import torch

    size = min(encoder.batch_size(available_bytes(job.options.device)), job.chunk_rows)
    order = "cost" if job.view.modality == "text" else "row"
    return Layout(
        n=len(job.view), chunk_rows=job.chunk_rows, batch_size=size, order=order, threads=torch.get_num_threads()
    )


def _open_arrays(source: Cache, job: Job, to_do: list[Target], wanted: Layout, done: Done) -> list[Layout]:
    """Makes the arrays that are not there, with what they reuse fixed before their layout; the layouts in force."""
    reused = {target.layer: target.reused for target in to_do if target.new and target.reused is not None}
    damage = damage_in(source, reused) if reused else None
    if damage is not None:
        done.note(f"no rows were reused from an older extraction: {damage}")
        reused = {}

    def create(target: Target) -> Layout:
        if target.layer in reused:
            (target.array.folder / "commits").make()
            write_reused(target.array.folder, reused[target.layer])
        return target.array.create(target.key, wanted)

    # whoever makes the first array cuts them all: two processes that come at once must not cut half of them each
    for target in to_do[:1]:
        wanted = create(target)
    with ThreadPoolExecutor(WRITERS) as writers:  # each waits for the disk: together they wait once
        return list(writers.map(create, to_do))
