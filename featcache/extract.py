"""How do a view's rows become cached features? One pass of an encoder fills the arrays of all its layers."""

import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.errors import DataError
from data.views import View
from featcache.cache import Cache
from featcache.encoders import load_encoder
from featcache.errors import ExtractionFailed, Overflow
from featcache.jobs import Job, cached_name
from featcache.plan import Plan
from featcache.store import FeatureArray
from featcache.tables import write_rows

if TYPE_CHECKING:
    from featcache.encoders import Encoder

_PREFETCHED_BATCHES = 3
_WRITERS = 8
_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Extracted:
    """What an extraction did.

    Args:
        encoder: Name it is cached under.
        view: View name.
        layers: Layers and poolings that are now complete.
        rows: Rows that went through the encoder (0 if all was there).
        reused: Rows that earlier runs had committed.
        seconds: Time of the passes, loading the encoder excluded.
        complete: Whether every array is complete now; false while other processes have chunks to compute.
        failed: Rows that could not be read, decoded or encoded, and why; they are NaN and listed in the records.
    """

    encoder: str
    view: str
    layers: tuple[str, ...]
    rows: int
    reused: int
    seconds: float
    complete: bool = True
    failed: "tuple[Failure, ...]" = ()


@dataclass(frozen=True)
class Failure:
    """A row that could not be encoded.

    Args:
        id: Its id.
        why: What was wrong with it.
    """

    id: str
    why: str


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

    Raises:
        ExtractionFailed: If a row cannot be decoded, encoded or stored; names its id. What was committed stays.
    """
    with _named_disk_errors(cache):
        write_rows(cache.folder / job.dataset.name / job.view.name, job.view, job.dataset.overlay)
    names = tuple(target.layer for target in job.targets)
    encoder_name = cached_name(job.card, job.options)
    if job.done:
        return Extracted(encoder_name, job.view.name, names, 0, len(job.view), 0.0)
    _refuse_full_disk(cache, job)
    encoder = encoder if encoder is not None else load_encoder(job.spec, job.options, memo=cache.memo)
    if encoder.card.binds != job.card.binds:
        raise ExtractionFailed(f"the weights of {job.card.name} changed since they were described; run it again")
    started = perf_counter()
    done: set[int] = set()
    with _named_disk_errors(cache):
        try:
            for plan, arrays in _passes(job, encoder).items():
                done |= _Pass(job.view, encoder, plan, arrays, on_rows, chunks).run()
        except (ExtractionFailed, DataError):
            if chunks is None:  # other processes may be about to commit to them
                _drop_empty(cache, job)
            raise
        with ThreadPoolExecutor(_WRITERS) as writers:
            finished = list(writers.map(_finish, [target.array for target in job.targets if not target.done]))
    reused = len(job.view) - len(done) if all(finished) else 0
    return Extracted(encoder_name, job.view.name, names, len(done), reused, perf_counter() - started, all(finished))


def _drop_empty(cache: Cache, job: Job) -> None:
    """Removes the arrays that a failed extraction made and committed nothing to."""
    for target in job.targets:
        if target.array.folder.there() and not target.array.committed():
            cache.remove(target.array)


def _finish(array: FeatureArray) -> bool:
    """Completes an array if every chunk is committed, by whoever; returns whether it is complete now."""
    plan = array.plan()
    assert plan is not None  # the pass that filled the array made it
    if len(array.committed()) < plan.chunks:
        return False
    array.finish(plan)
    return True


def _passes(job: Job, encoder: "Encoder") -> dict[Plan, dict[str, FeatureArray]]:
    """Groups the arrays by the plan in force: one pass each, one in all unless an earlier run planned otherwise."""
    import torch

    size = min(encoder.batch_size(_available_bytes(job.options.device)), job.chunk_rows)
    order = "cost" if job.view.modality == "text" else "row"
    wanted = Plan(len(job.view), job.chunk_rows, size, order, torch.get_num_threads())
    passes: dict[Plan, dict[str, FeatureArray]] = {}
    to_do = [target for target in job.targets if not target.done]
    with ThreadPoolExecutor(_WRITERS) as writers:  # each waits for the disk: together they wait once
        plans = list(writers.map(lambda target: target.array.create(target.key, wanted), to_do))
    for target, plan in zip(to_do, plans, strict=True):
        passes.setdefault(plan, {})[target.layer] = target.array
    return passes


@dataclass
class _Pass:
    """One run of an encoder over the chunks that its arrays lack."""

    view: View
    encoder: "Encoder"
    plan: Plan
    arrays: dict[str, FeatureArray]
    on_rows: Callable[[int], None] | None = None
    chosen: Callable[[int], bool] | None = None
    writer: str = field(default_factory=lambda: uuid.uuid4().hex)

    def run(self) -> set[int]:
        """Commits every missing chunk; returns the numbers of the rows that were encoded."""
        import torch

        for array in self.arrays.values():
            array.adopt_orphans(self.plan)
        committed = {layer: array.committed() for layer, array in self.arrays.items()}
        wanted = {
            chunk: tuple(layer for layer in self.arrays if chunk not in committed[layer])
            for chunk in range(self.plan.chunks)
            if self.chosen is None or self.chosen(chunk)
        }
        wanted = {chunk: layers for chunk, layers in wanted.items() if layers}
        threads = torch.get_num_threads()
        torch.set_num_threads(self.plan.threads)
        workers = min(os.cpu_count() or 2, 8)
        try:
            with ThreadPoolExecutor(workers) as decoders, ThreadPoolExecutor(_WRITERS) as writers:
                return self._run(wanted, decoders, writers)
        finally:
            torch.set_num_threads(threads)

    def _run(
        self, wanted: dict[int, tuple[str, ...]], decoders: ThreadPoolExecutor, writers: ThreadPoolExecutor
    ) -> set[int]:
        done, blocks = set[int](), dict[str, np.ndarray]()
        filled = 0
        for chunk, numbers, prepared in self._batches(wanted, decoders):
            start, stop = self.plan.span(chunk)
            if not filled:
                blocks = {layer: self._empty_block(layer, stop - start) for layer in wanted[chunk]}
            self._encode(numbers, prepared, blocks, start)
            filled += len(numbers)
            if filled == stop - start:
                self._commit(chunk, blocks, writers)
                done.update(range(start, stop))
                filled = 0
                if self.on_rows:
                    self.on_rows(stop - start)
        return done

    def _empty_block(self, layer: str, rows: int) -> np.ndarray:
        return np.empty((rows, self.encoder.card.widths[layer]), self.encoder.card.dtype)

    def _commit(self, chunk: int, blocks: dict[str, np.ndarray], writers: ThreadPoolExecutor) -> None:
        """Commits a chunk of every array at once and waits: nothing is encoded further before it is durable."""

        def commit(layer: str) -> None:
            self.arrays[layer].commit(self.plan, chunk, blocks[layer], writer=self.writer)

        for _ in writers.map(commit, blocks):
            pass

    # -- rows to batches --------------------------------------------------------------------------------------------

    def _batches(
        self, chunks: Iterable[int], decoders: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Sequence[int], list[Any]]]:
        """Yields (chunk, row numbers, prepared rows) in the order of the plan, decoding ahead in threads."""
        waiting: deque[tuple[int, Sequence[int], list[Future[Any]]]] = deque()
        batches = self._submitted(list(chunks), decoders)
        failure: Exception | None = None
        while failure is None:
            try:
                waiting.append(next(batches))
            except StopIteration:
                break
            except (ExtractionFailed, DataError) as error:
                failure = error  # the rows before the one that failed are still worth committing
            if len(waiting) > _PREFETCHED_BATCHES:
                yield self._gather(*waiting.popleft())
        while waiting:
            yield self._gather(*waiting.popleft())
        if failure is not None:
            raise failure

    def _submitted(
        self, chunks: list[int], decoders: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Sequence[int], list[Future[Any]]]]:
        """The batches of all chunks, their rows handed to the decoders when they are asked for."""
        sorts = self.plan.order == "cost"  # prepared text is small: a whole chunk is tokenised, then sorted
        ahead = self._submit(range(*self.plan.span(chunks[0])), decoders) if sorts and chunks else {}
        for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
            numbers: Sequence[int] = range(*self.plan.span(chunk))
            ready = ahead
            if sorts:
                ahead = {} if following is None else self._submit(range(*self.plan.span(following)), decoders)
                numbers = self._longest_first(ready)
            for low in range(0, len(numbers), self.plan.batch_size):
                batch = numbers[low : low + self.plan.batch_size]
                futures = ready if sorts else self._submit(batch, decoders)
                yield chunk, batch, [futures[number] for number in batch]

    def _submit(self, numbers: Sequence[int], decoders: ThreadPoolExecutor) -> dict[int, Future[Any]]:
        return {number: decoders.submit(self._prepare, number) for number in numbers}

    def _longest_first(self, ready: dict[int, Future[Any]]) -> list[int]:
        cost = {number: self.encoder.cost(future.result()) for number, future in ready.items()}
        return sorted(ready, key=lambda number: (-cost[number], number))

    @staticmethod
    def _gather(chunk: int, numbers: Sequence[int], futures: list[Future[Any]]) -> tuple[int, Sequence[int], list[Any]]:
        return chunk, numbers, [future.result() for future in futures]

    def _prepare(self, number: int) -> Any:
        item = self.view.read(number)
        try:
            return self.encoder.prepare(item)
        except ExtractionFailed as error:
            raise ExtractionFailed(
                f"{self.view.name} row {self.view.ids[number]!r} (number {number}): {error}"
            ) from error

    # -- batches to features ----------------------------------------------------------------------------------------

    def _encode(self, numbers: Sequence[int], prepared: list[Any], blocks: dict[str, np.ndarray], start: int) -> None:
        """Writes the features of one batch into the chunk's blocks."""
        places = np.asarray(numbers) - start
        for layer, tensor in self.encoder.encode(prepared, tuple(blocks)).items():
            values = tensor.numpy()
            block = blocks[layer]
            with np.errstate(over="ignore"):
                stored = values.astype(block.dtype)
            if not np.isfinite(stored).all():
                raise self._not_finite(layer, numbers, values, stored)
            block[places] = stored

    def _not_finite(
        self, layer: str, numbers: Sequence[int], values: np.ndarray, stored: np.ndarray
    ) -> ExtractionFailed:
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        ids = [self.view.ids[numbers[int(row)]] for row in bad]
        listed = ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        name = f"{self.encoder.card.name}/{layer}"
        if np.isfinite(values[bad]).all():
            most = float(np.abs(values[bad]).max())
            return Overflow(
                f"{name}: values up to {most:.0f} pass the range of {stored.dtype} in rows {listed}. "
                "Run the same featcache extract with --dtype float32"
            )
        return ExtractionFailed(f"{name}: features of rows {listed} are NaN or infinite")


@contextmanager
def _named_disk_errors(cache: Cache) -> Iterator[None]:
    """Turns the system's errors of writing into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise ExtractionFailed(
            f"cannot write to {cache.folder}: {error.strerror}. What was committed stays; free space or choose another "
            "--cache, then run the same command again"
        ) from error


def _refuse_full_disk(cache: Cache, job: Job) -> None:
    free = cache.folder.free_bytes()
    if free is not None and job.bytes + _SPARE_BYTES > free:
        raise ExtractionFailed(
            f"{cached_name(job.card, job.options)} over {job.view.name} needs {job.bytes / 1e6:.0f} MB, and "
            f"{cache.folder} has {free / 1e6:.0f} MB free. Take fewer --layers, or another --cache"
        )


def _available_bytes(device: str) -> int:
    """Memory that a batch may plan with."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:  # free memory alone leaves out what the system would give back at once
        lines = Path("/proc/meminfo").read_text(encoding="ascii").split("\n")
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
