"""How do a view's rows become cached features? One pass of an encoder fills the arrays of all its layers."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from featcache.cache import Cache
from featcache.data.errors import DataError
from featcache.data.views import View
from featcache.encoders import load_encoder
from featcache.errors import ExtractionFailed, Overflow
from featcache.extraction.job import Job, cached_name
from featcache.extraction.limits import available_bytes, named_disk_errors, refuse_full_disk
from featcache.extraction.loader import Batch, choose_workers, named_worker_death, prepared_batches
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from featcache.store.leases import lease
from featcache.store.rows import write_rows

if TYPE_CHECKING:
    from featcache.encoders import Encoder

_WRITERS = 8
EARLIER = "failed in an earlier run"


@dataclass(frozen=True)
class Failure:
    """A row that could not be encoded; it is NaN in every array, and its commit records list it.

    Args:
        id: Its id.
        why: What was wrong with it.
    """

    id: str
    why: str


@dataclass(frozen=True)
class Choices:
    """How a job is carried out; none of it changes what the digest binds.

    Args:
        on_error: Whether a row that cannot be encoded stops the run, or is skipped and listed.
        workers: Processes that decode; 0 for threads.
        chunks: Whether this process computes a chunk; None for all.
        on_rows: Told how many rows became durable.
    """

    on_error: Literal["stop", "skip"]
    workers: int
    chunks: Callable[[int], bool] | None
    on_rows: Callable[[int], None]


@dataclass(frozen=True)
class Extracted:
    """What an extraction did.

    Args:
        encoder: Name it is cached under.
        view: View name.
        layers: Layers and poolings that were asked for.
        rows: Rows that went through the encoder (0 if all was there).
        reused: Rows of the chunks asked for that were committed before.
        seconds: Time of the passes, loading the encoder excluded.
        complete: Whether every array is complete now; false while other processes have chunks to compute.
        failed: Rows that could not be encoded, in this run or, where the arrays are complete, in an earlier one.
    """

    encoder: str
    view: str
    layers: tuple[str, ...]
    rows: int
    reused: int
    seconds: float
    complete: bool = True
    failed: tuple[Failure, ...] = ()


def extract(
    cache: Cache,
    job: Job,
    *,
    encoder: "Encoder | None" = None,
    on_rows: Callable[[int], None] | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
    chunks: Callable[[int], bool] | None = None,
) -> Extracted:
    """Computes and commits whatever of a job is missing.

    Args:
        cache: The cache that the job was planned for.
        job: From `plan_job`.
        encoder: The job's encoder, if it is loaded already.
        on_rows: Called with the number of rows that became durable since the last call.
        on_error: "stop" at the first row that cannot be read, decoded or encoded; or "skip" it: its features are NaN
            in every layer, its id is listed in the commit records, and loading drops it.
        workers: Processes that decode images and audio; 0 for threads, None to choose. The features are the same.
        chunks: Whether this process computes a chunk; None for all. The arrays are completed by the process that
            finds every chunk committed.

    Raises:
        ExtractionFailed: If a row cannot be decoded, encoded or stored, with its id; if a worker dies; if every row
            fails. What was committed stays.
        UsageError: If worker processes are asked for where there are none.
    """
    choices = Choices(on_error, choose_workers(job.view.modality, workers), chunks, on_rows or (lambda rows: None))
    with named_disk_errors(cache), lease(cache.folder, f"extract {job.card.name}"):
        write_rows(cache.folder / job.dataset.name / job.view.name, job.view, job.dataset.overlay)
        return _extract(cache, job, encoder, choices)


def _extract(cache: Cache, job: Job, encoder: "Encoder | None", choices: Choices) -> Extracted:
    names = tuple(target.layer for target in job.targets)
    encoder_name = cached_name(job.card, job.options)
    if job.done:
        failed = _failures([target.array for target in job.targets], {})
        return Extracted(encoder_name, job.view.name, names, 0, len(job.view), 0.0, failed=failed)
    refuse_full_disk(cache, f"{encoder_name} over {job.view.name}", _bytes_to_write(job, choices.chunks))
    encoder = encoder if encoder is not None else load_encoder(job.spec, job.options, memo=cache.memo)
    if encoder.card.binds != job.card.binds:
        raise ExtractionFailed(f"the weights of {job.card.name} changed since they were described; run it again")
    return compute(cache, job, encoder, choices)


def compute(cache: Cache, job: Job, encoder: "Encoder", choices: Choices) -> Extracted:
    """As `extract`, where the row table is written and the encoder loaded: takes no time that grows with the rows."""
    names = tuple(target.layer for target in job.targets)
    encoder_name, chunks = cached_name(job.card, job.options), choices.chunks
    started, done = perf_counter(), _Done()
    with named_disk_errors(cache):
        try:
            for plan, arrays in _passes(job, encoder).items():
                _Pass(job.view, encoder, plan, arrays, choices, done).run()
        except (ExtractionFailed, DataError):
            if chunks is None:  # else other processes may be about to commit to them
                _drop_empty(cache, job)
            raise
        complete = _finish(job)
    arrays = [target.array for target in job.targets if target.done]
    failed = _failures(arrays, done.failed)
    if complete and len(failed) == len(job.view):
        for array in arrays:
            cache.remove(array)
        raise ExtractionFailed(f"every row of {job.view.name} failed, so nothing is kept; the first: {failed[0].why}")
    rows, asked, seconds = _covered(done.encoded), _covered(done.asked), perf_counter() - started
    return Extracted(encoder_name, job.view.name, names, rows, asked - rows, seconds, complete, failed)


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
        plan = array.layout()
        assert plan is not None  # the pass that filled the array made it
        if len(array.committed()) < plan.chunks:
            return False
        array.finish(plan)
        return True

    with ThreadPoolExecutor(_WRITERS) as writers:
        return all(list(writers.map(finish, [target.array for target in job.targets if not target.done])))


def _failures(arrays: Iterable[FeatureArray], whys: dict[str, str]) -> tuple[Failure, ...]:
    """The rows that failed now, and those that the records of complete arrays list."""
    recorded = (row for array in arrays for record in array.complete().records for row in record.failed)
    return tuple(Failure(row, whys.get(row, EARLIER)) for row in dict.fromkeys([*whys, *recorded]))


def _covered(spans: Iterable[tuple[int, int]]) -> int:
    """Rows in the union of (first row, row behind the last) spans."""
    rows = reached = 0
    for start, stop in sorted(spans):
        rows += max(0, stop - max(start, reached))
        reached = max(reached, stop)
    return rows


def _passes(job: Job, encoder: "Encoder") -> dict[Layout, dict[str, FeatureArray]]:
    """Groups the arrays by the plan in force: one pass each, one in all unless an earlier run planned otherwise."""
    import torch

    size = min(encoder.batch_size(available_bytes(job.options.device)), job.chunk_rows)
    order = "cost" if job.view.modality == "text" else "row"
    wanted = Layout(len(job.view), job.chunk_rows, size, order, torch.get_num_threads())
    passes: dict[Layout, dict[str, FeatureArray]] = {}
    to_do = [target for target in job.targets if not target.done]
    # who makes the first array plans them all: two processes that come at once must not cut half of them each
    wanted = to_do[0].array.create(to_do[0].key, wanted) if to_do else wanted
    with ThreadPoolExecutor(_WRITERS) as writers:  # each waits for the disk: together they wait once
        plans = list(writers.map(lambda target: target.array.create(target.key, wanted), to_do))
    for target, plan in zip(to_do, plans, strict=True):
        passes.setdefault(plan, {})[target.layer] = target.array
    return passes


@dataclass
class _Done:
    """What the passes did: spans of rows asked for, spans of rows encoded, and id -> why of those that failed."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    encoded: list[tuple[int, int]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class _Pass:
    """One run of an encoder over the chunks that its arrays lack."""

    view: View
    encoder: "Encoder"
    plan: Layout
    arrays: dict[str, FeatureArray]
    choices: Choices
    done: _Done

    def run(self) -> None:
        """Commits every missing chunk."""
        import torch

        wanted = self._wanted()
        threads = torch.get_num_threads()
        torch.set_num_threads(self.plan.threads)
        chunks, workers = list(wanted), self.choices.workers
        batches = prepared_batches(self.view, self.encoder, self.plan, chunks, workers=workers)
        try:
            with named_worker_death(), ThreadPoolExecutor(_WRITERS) as writers, closing(batches):
                commits = _Commits(self, writers)
                try:
                    self._encode_all(batches, wanted, commits)
                finally:  # whatever happened meanwhile, what is on its way arrives
                    commits.settle()
        finally:
            torch.set_num_threads(threads)

    def _wanted(self) -> dict[int, tuple[str, ...]]:
        """The layers that each chunk lacks, of the chunks that are this process's to compute."""
        chosen = self.choices.chunks
        if chosen is None:  # a chunk without record may be another process's that is at work right now
            for array in self.arrays.values():
                array.adopt_orphans(self.plan, self.view.ids)
        committed = {layer: array.committed() for layer, array in self.arrays.items()}
        wanted: dict[int, tuple[str, ...]] = {}
        for chunk in range(self.plan.chunks):
            if chosen is None or chosen(chunk):
                self.done.asked.append(self.plan.span(chunk))
                lacking = tuple(layer for layer in self.arrays if chunk not in committed[layer])
                if lacking:
                    wanted[chunk] = lacking
        return wanted

    def _encode_all(self, batches: Iterable[Batch], wanted: dict[int, tuple[str, ...]], commits: "_Commits") -> None:
        blocks, failed = dict[str, np.ndarray](), dict[int, str]()
        for batch in batches:
            start, stop = self.plan.span(batch.chunk)
            if not blocks:
                blocks = {layer: self._empty_block(layer, stop - start) for layer in wanted[batch.chunk]}
            failed |= self._admitted(batch.failed)
            if batch.prepared:
                failed |= self._encode(batch, blocks, start)
            if batch.last:
                commits.put(batch.chunk, blocks, failed)
                blocks, failed = {}, {}
            commits.acknowledge()

    def _empty_block(self, layer: str, rows: int) -> np.ndarray:
        return np.full((rows, self.encoder.card.widths[layer]), np.nan, self.encoder.card.dtype)

    def _admitted(self, failed: dict[int, str]) -> dict[int, str]:
        """Rows that may fail; the first stops the run unless they are to be skipped."""
        if failed and self.choices.on_error == "stop":
            number, why = next(iter(sorted(failed.items())))
            raise ExtractionFailed(
                f"{self.view.name} row {self.view.ids[number]!r} (number {number}): {why}\n"
                "  What was committed stays. To go on without such rows, add --on-error skip"
            )
        return failed

    def _encode(self, batch: Batch, blocks: dict[str, np.ndarray], start: int) -> dict[int, str]:
        """Writes the features of one batch into the chunk's blocks; returns the rows that came out as no numbers."""
        places = np.asarray(batch.numbers) - start
        failed: dict[int, str] = {}
        # To skip a row, every layer has to be seen, also where an interrupted run left only some to be written: a row
        # that is NaN in one layer is so in all.
        layers = tuple(self.arrays if self.choices.on_error == "skip" else blocks)
        for layer, tensor in self.encoder.encode(batch.prepared, layers).items():
            values = tensor.numpy()
            with np.errstate(over="ignore"):
                stored = values.astype(self.encoder.card.dtype)
            if not np.isfinite(stored).all():
                failed |= self._not_finite(layer, batch.numbers, values, stored)
            if layer in blocks:
                blocks[layer][places] = stored
        return failed

    def _not_finite(self, layer: str, numbers: Sequence[int], values: np.ndarray, stored: np.ndarray) -> dict[int, str]:
        name = f"{self.encoder.card.name}/{layer}"
        finite = np.isfinite(values).all(axis=1)
        over = np.flatnonzero(finite & ~np.isfinite(stored).all(axis=1))
        if len(over):
            most = float(np.abs(values[over]).max())
            raise Overflow(
                f"{name}: values up to {most:.0f} pass the range of {stored.dtype} in rows {self._ids(numbers, over)}. "
                "Run the same featcache extract with --dtype float32"
            )
        bad = np.flatnonzero(~finite)
        if self.choices.on_error == "stop":
            raise ExtractionFailed(f"{name}: features of rows {self._ids(numbers, bad)} are NaN or infinite")
        return {numbers[int(row)]: f"{name}: its features are NaN or infinite" for row in bad}

    def _ids(self, numbers: Sequence[int], rows: np.ndarray) -> str:
        ids = [repr(self.view.ids[numbers[int(row)]]) for row in rows]
        return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


class _Commits:
    """Brings chunks to the disk while the next is encoded: at most one of every array is on its way.

    Args:
        work: The pass whose chunks they are.
        writers: Threads that wait for the disk.
    """

    def __init__(self, work: _Pass, writers: ThreadPoolExecutor) -> None:
        self._pass = work
        self._writers = writers
        self._id = uuid.uuid4().hex
        self._under_way: list[Future[object]] = []
        self._span = (0, 0)

    def put(self, chunk: int, blocks: dict[str, np.ndarray], failed: dict[int, str]) -> None:
        """Sends a chunk of every array off, once the one before it is durable."""
        self.settle()
        work, start = self._pass, self._pass.plan.span(chunk)[0]
        for block in blocks.values():
            block[np.asarray(sorted(failed), int) - start] = np.nan
        work.done.failed.update((work.view.ids[row], failed[row]) for row in sorted(failed))
        ids = work.view.ids[slice(*work.plan.span(chunk))]
        self._span = work.plan.span(chunk)
        self._under_way = [
            self._writers.submit(work.arrays[layer].commit, work.plan, chunk, block, writer=self._id, ids=ids)
            for layer, block in blocks.items()
        ]

    def acknowledge(self) -> None:
        """Reports the chunk on its way if it has arrived."""
        if all(commit.done() for commit in self._under_way):
            self.settle()

    def settle(self) -> None:
        """Waits until the chunk on its way is durable and reports it; raises what kept it from being so."""
        wait(self._under_way)
        commits, self._under_way = self._under_way, []
        for commit in commits:
            commit.result()
        if commits:
            self._pass.done.encoded.append(self._span)
            self._pass.choices.on_rows(self._span[1] - self._span[0])
