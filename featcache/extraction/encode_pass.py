"""One pass of an encoder over the chunks that its arrays lack; a chunk is committed while the next is encoded."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from featcache.cache import Cache
from featcache.data.views import View
from featcache.errors import Damaged
from featcache.extraction.claims import Claims
from featcache.extraction.failed_rows import RowSettings, admit_failed, not_finite_rows
from featcache.extraction.flagged_rows import flagged_ids, row_flags
from featcache.extraction.formation import Formation
from featcache.extraction.interrupts import INTERRUPTIONS, note_kept, undisturbed
from featcache.extraction.loader import Batch, is_worker_death, named_worker_death, prepared_batches
from featcache.extraction.reuse import Copies
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from featcache.store.reused import ReusedRows, ReusedSpan
from featcache.store.side_file import (
    Binding,
    KeptRows,
    drop_side_file,
    read_side_file,
    side_chunks,
    side_name,
    write_side_file,
)

if TYPE_CHECKING:
    from featcache.extraction.running import RunningEncoder

WRITERS = 8


@dataclass(frozen=True)
class ProcessSettings:
    """What this process does of a job, and how; the fields as the arguments of `extract`."""

    rows: RowSettings
    chunks: Callable[[int], bool] | None = None
    on_rows: Callable[[int], None] = lambda rows: None
    reuse_from: Cache | None = None


Spans = list[tuple[int, int]]  # (first row, row behind the last)


@dataclass
class Done:
    """What the passes did; a row that several passes encoded stands in several spans."""

    spans: Spans = field(default_factory=list)  # rows of this process's chunks
    encoded: Spans = field(default_factory=list)  # of these, the rows that were encoded now
    copied: Spans = field(default_factory=list)  # and those that were copied from an older array
    sources: dict[str, None] = field(default_factory=dict)  # roots that were copied from, in order
    failed: dict[str, str] = field(default_factory=dict)  # id -> reason
    notes: dict[str, None] = field(default_factory=dict)  # what came otherwise than planned, in order

    def note(self, text: str) -> None:
        """Adds a note, once."""
        self.notes[text] = None


@dataclass
class _ChunkInWork:
    """The chunk that batches are being encoded of."""

    chunk: int
    start: int  # its first row
    blocks: dict[str, np.ndarray]  # layer -> [rows, d]
    rows: list[int] = field(default_factory=list)  # whose batches are in the blocks
    failed: dict[int, str] = field(default_factory=dict)
    flags: dict[int, str] = field(default_factory=dict)  # of rows that deserve a look


@dataclass
class Pass:
    """One run of an encoder over the chunks that its arrays lack.

    Args:
        view: The view.
        encoder: Its encoder.
        layout: The layout of every array.
        arrays: Layer -> array.
        reused: Layer -> what its array copies, the same rows in each; empty if they copy none.
        copies: Where from; None where a source has gone: the rows are then encoded in batches of their own.
        process: What this process does, and how.
        done: What the passes did so far.
    """

    view: View
    encoder: "RunningEncoder"
    layout: Layout
    arrays: dict[str, FeatureArray]
    reused: Mapping[str, ReusedRows]
    copies: Copies | None
    process: ProcessSettings
    done: Done
    _side_chunks: dict[str, set[int]] = field(default_factory=dict)  # layer -> chunks that had a side file
    _kept: dict[int, dict[str, KeptRows]] = field(default_factory=dict)  # chunk -> layer -> rows to take
    _work: _ChunkInWork | None = None

    def run(self) -> None:
        """Encodes and commits every chunk that is lacking; on Ctrl-C and SIGTERM the rows in work are kept."""
        import torch

        wanted = self._wanted()
        self._take_up(wanted)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.layout.threads)
        # where the chunks are not divided beforehand, whoever else is at it divides them with us
        shared = list(self.arrays.values()) if self.process.chunks is None else []
        try:
            with Claims(shared, self._count_others) as claims:
                chunks = list(wanted)
                while chunks:
                    self._encode_chunks(claims.free(chunks), wanted)
                    chunks = claims.left(chunks)
        finally:
            torch.set_num_threads(threads)

    def _count_others(self, chunk: int) -> None:
        self.process.on_rows(len(self._formation(chunk).rows))

    def _encode_chunks(self, chunks: Iterable[int], wanted: dict[int, tuple[str, ...]]) -> None:
        workers = self.process.rows.workers or 0
        batches = prepared_batches(
            self.view, self.encoder, self.layout, chunks, formation_of=self._formation, workers=workers
        )
        with named_worker_death(), ThreadPoolExecutor(WRITERS) as writers, closing(batches):
            commits = _Commits(self, writers)
            try:
                self._encode_all(batches, wanted, commits)
            except (*INTERRUPTIONS, RuntimeError) as interruption:
                if not isinstance(interruption, RuntimeError) or is_worker_death(interruption):
                    with undisturbed():
                        self._keep(interruption)
                raise
            finally:  # whatever happened meanwhile, what is on its way arrives
                commits.wait()

    # -- which rows -------------------------------------------------------------------------------------------------

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

    def _reused_spans(self, chunk: int) -> list[ReusedSpan]:
        """The rows of a chunk that are copied, or were to be."""
        reused = next(iter(self.reused.values()), None)
        return list(reused.within(*self.layout.span(chunk))) if reused is not None else []

    def _parts(self, chunk: int) -> tuple[Sequence[int], ...]:
        """The rows to encode; those whose source has gone come apart, so that the batches of the others stay."""
        start, stop = self.layout.span(chunk)
        spans = self._reused_spans(chunk)
        if not spans:
            return (range(start, stop),)
        copied = [row for span in spans for row in range(span.start, span.stop)]
        others = sorted(set(range(start, stop)).difference(copied))
        return (others,) if self.copies is not None else (others, copied)

    def _formation(self, chunk: int) -> Formation:
        kept = self._kept.get(chunk)
        done = frozenset(next(iter(kept.values())).rows) if kept else frozenset[int]()
        return Formation(self._parts(chunk), done)

    # -- encoding ---------------------------------------------------------------------------------------------------

    def _encode_all(self, batches: Iterable[Batch], wanted: dict[int, tuple[str, ...]], commits: "_Commits") -> None:
        for batch in batches:
            if self._work is None:
                self._work = self._begin(batch.chunk, wanted[batch.chunk])
            failed = admit_failed(batch.failed, self.view, self.process.rows.on_error)
            if batch.prepared:
                failed = failed | self._encode(batch, self._work)
                self._work.flags |= row_flags(self.encoder, batch)
            rows = [*batch.numbers, *batch.failed]
            self._work.failed |= failed
            self._work.rows += rows  # last: what an interruption keeps is whole batches
            self.process.on_rows(len(rows))
            if batch.last:
                commits.put(self._work)
                self._work = None
            commits.acknowledge()

    def _begin(self, chunk: int, layers: Sequence[str]) -> _ChunkInWork:
        """A chunk with the rows that need no encoding."""
        start, stop = self.layout.span(chunk)
        work = _ChunkInWork(chunk, start, {layer: self._empty_block(layer, stop - start) for layer in layers})
        for layer, block in work.blocks.items():
            if self.copies is not None:
                self.copies.fill(layer, block, start)
                work.flags |= self.copies.flags(layer, self.view.ids, start, stop)
            kept = self._kept.get(chunk, {}).get(layer)
            if kept is not None:
                block[np.asarray(kept.rows, int) - start] = kept.values
                work.rows = list(kept.rows)
                work.failed |= kept.failed
                work.flags |= kept.flags
        admit_failed(work.failed, self.view, self.process.rows.on_error)
        return work

    def _empty_block(self, layer: str, rows: int) -> np.ndarray:
        return np.full((rows, self.encoder.card.widths[layer]), np.nan, self.encoder.card.dtype)

    def _encode(self, batch: Batch, work: _ChunkInWork) -> dict[int, str]:
        """Writes the features of one batch into the chunk's blocks; returns the rows that came out as no numbers."""
        places = np.asarray(batch.numbers) - work.start
        failed: dict[int, str] = {}
        # To skip a row, every layer has to be seen, also where an interrupted run left only some to be written: a row
        # that is NaN in one layer is so in all.
        layers = tuple(self.arrays if self.process.rows.on_error == "skip" else work.blocks)
        for layer, tensor in self.encoder.encode(batch.prepared, layers).items():
            values = tensor.numpy()
            with np.errstate(over="ignore"):
                stored = values.astype(self.encoder.card.dtype)
            if not np.isfinite(stored).all():
                name, rows = f"{self.encoder.card.name}/{layer}", self.process.rows
                failed |= not_finite_rows(name, self.view, batch.numbers, values, stored, rows.on_error)
            if layer in work.blocks:
                work.blocks[layer][places] = stored
        return failed

    # -- what an interrupted run leaves -----------------------------------------------------------------------------

    def _binding(self, layer: str, chunk: int) -> Binding:
        return Binding(self.arrays[layer].digest, self.layout, chunk, tuple(map(tuple, self._parts(chunk))))

    def _keep(self, interruption: BaseException) -> None:
        """Writes the side files of the chunk in work; where the disk is full, nothing is kept."""
        work = self._work
        if work is None or not work.rows:
            return
        rows = sorted(set(work.rows))
        failed, flags = ({row: of[row] for row in rows if row in of} for of in (work.failed, work.flags))

        def write(layer: str) -> None:
            values = work.blocks[layer][np.asarray(rows) - work.start]
            values[np.isin(rows, list(failed))] = np.nan
            binding = self._binding(layer, work.chunk)
            write_side_file(self.arrays[layer].folder, binding, KeptRows(rows, values, failed, flags))

        try:
            with ThreadPoolExecutor(WRITERS) as writers:
                list(writers.map(write, work.blocks))
        except OSError as error:
            interruption.add_note(f"the encoded rows of chunk {work.chunk} could not be kept: {error}")
            return
        note_kept(interruption, len(rows))

    def _take_up(self, wanted: dict[int, tuple[str, ...]]) -> None:
        """Reads the side files of the chunks that are lacking, and removes those of other chunks."""
        self._side_chunks = {layer: side_chunks(array.folder) for layer, array in self.arrays.items()}
        for layer, chunks in self._side_chunks.items():
            if chunks:
                self._drop_sides(layer, chunks & self.arrays[layer].committed())
        for chunk, layers in wanted.items():
            if all(chunk in self._side_chunks[layer] for layer in layers):
                kept = {layer: rows for layer in layers if (rows := self._side_rows(layer, chunk)) is not None}
                if len(kept) == len(layers) and len({tuple(rows.rows) for rows in kept.values()}) == 1:
                    self._kept[chunk] = kept

    def _drop_sides(self, layer: str, chunks: Iterable[int]) -> None:
        for chunk in chunks:
            drop_side_file(self.arrays[layer].folder, chunk)

    def _side_rows(self, layer: str, chunk: int) -> KeptRows | None:
        """The rows of a side file; None if they are of no use here."""
        folder = self.arrays[layer].folder
        try:
            return read_side_file(folder, self._binding(layer, chunk))
        except Damaged:
            drop_side_file(folder, chunk)
            self.done.note(
                f"{folder}/{side_name(chunk)}, which an interrupted extraction left, was damaged: it is removed, and "
                "its rows were encoded again"
            )
            return None

    def finished(self, work: _ChunkInWork) -> None:
        """Notes a chunk that is durable, of which nothing is kept any more."""
        self.done.encoded += _spans(self._formation(work.chunk).rows)
        spans = self._reused_spans(work.chunk)
        if self.copies is not None and spans:
            self.done.copied += [(span.start, span.stop) for span in spans]
            self.done.sources |= {self.reused[layer].root: None for layer in work.blocks}
        self._kept.pop(work.chunk, None)
        for layer in work.blocks:
            self._drop_sides(layer, self._side_chunks[layer] & {work.chunk})


def _spans(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Spans of ascending rows.

    Example:
        >>> list(_spans([3, 4, 5, 9]))
        [(3, 6), (9, 10)]
    """
    for _, pairs in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]):
        run = [row for _, row in pairs]
        yield run[0], run[-1] + 1


class _Commits:
    """Brings chunks to the disk while the next is encoded: at most one of every array is on its way."""

    def __init__(self, run: Pass, writers: ThreadPoolExecutor) -> None:
        self._pass = run
        self._writers = writers
        self._id = uuid.uuid4().hex
        self._under_way: list[Future[object]] = []
        self._work: _ChunkInWork | None = None

    def put(self, work: _ChunkInWork) -> None:
        """Sends a chunk of every array off, once the one before it is durable."""
        self.wait()
        run, view = self._pass, self._pass.view
        for block in work.blocks.values():
            block[np.asarray(sorted(work.failed), int) - work.start] = np.nan
        run.done.failed.update((view.ids[row], work.failed[row]) for row in sorted(work.failed))
        ids = view.ids[slice(*run.layout.span(work.chunk))]
        flagged = flagged_ids(view, {row: flag for row, flag in work.flags.items() if row not in work.failed})
        self._work = work

        def commit(layer: str, block: np.ndarray) -> object:
            return run.arrays[layer].commit(run.layout, work.chunk, block, writer=self._id, ids=ids, flags=flagged)

        self._under_way = [self._writers.submit(commit, layer, block) for layer, block in work.blocks.items()]

    def acknowledge(self) -> None:
        """Takes note of the chunk on its way if it has arrived."""
        if all(commit.done() for commit in self._under_way):
            self.wait()

    def wait(self) -> None:
        """Waits until the chunk on its way is durable; raises what kept it from being so."""
        wait_for(self._under_way)
        commits, self._under_way = self._under_way, []
        for commit in commits:
            commit.result()
        if commits and self._work is not None:
            self._pass.finished(self._work)
            self._work = None
