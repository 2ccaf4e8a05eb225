"""Loading: a view's rows as prepared batches ahead of the encoder, by threads or worker processes."""

import gc
import os
import shutil
import signal
import sys
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from featcache.data.errors import DataError
from featcache.data.views import View
from featcache.errors import ExtractionFailed, UsageError
from featcache.extraction.formation import FormationOf, cut, row_batches, whole_chunks
from featcache.store.layout import Layout

# What bad bytes, or a picture that unpacks to more than the memory, can raise: that row has failed, not the run.
ROW_ERRORS = (DataError, ExtractionFailed, OSError, ValueError, MemoryError)
# What a missing or unreadable file raises. Any other error of the system may have passed tomorrow: it stops the run.
CONTENT_ERRORS = (DataError, FileNotFoundError, IsADirectoryError, PermissionError, ValueError)

_MOST_WORKERS = 8
_AHEAD = 3  # batches that are read or decoded before they are asked for
_PIECE_ROWS = 64  # rows that travel together from a worker: a batch of a GPU may have a thousand
_PIECES_OF_A_WORKER = 2
_TEXTS_AT_ONCE = 32
_SHARED_BYTES = 2**30


class Preparer(Protocol):
    """What is needed of an encoder to prepare its rows; see `Encoder`."""

    def prepare(self, item: Any) -> Any:
        """One decoded row to a small tensor; called from many threads and in forked processes."""
        ...

    def cost(self, prepared: Any) -> int:
        """Size of a prepared row."""
        ...


@dataclass(frozen=True)
class Batch:
    """Rows that run through the encoder together."""

    chunk: int
    numbers: list[int]  # of its rows
    prepared: list[Any]  # what the encoder takes, one a number
    failed: dict[int, str]  # row number -> why it could not be prepared; these are not among the numbers
    last: bool  # whether this is the chunk's last batch
    flags: dict[int, str] = field(default_factory=dict)  # row number -> what its view flags


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 2


def choose_workers(modality: str, wanted: int | None = None) -> int:
    """Worker processes that decode, of those `wanted` (as in `RowSettings`); 0 for threads.

    Text is always tokenised in threads: tokenizers are compiled code that runs beside Python. On one or two cores the
    encoder itself needs them, and processes would only add copies.

    Raises:
        UsageError: If processes are asked for where they cannot be had.

    Example:
        >>> choose_workers("text", 4), choose_workers("image", 0)
        (0, 0)
    """
    # A view holds functions, which only a forked process gets; macOS's own libraries do not survive a fork.
    forks = sys.platform == "linux"
    if wanted is not None and wanted < 0:
        raise UsageError(f"{wanted} worker processes; wanted 0 (decode in threads) or more")
    if modality == "text":
        return 0
    if wanted and not forks:
        raise UsageError(f"worker processes need Linux, this is {sys.platform}. Leave out --workers")
    if wanted is not None:
        return wanted
    return min(cores() - 1, _MOST_WORKERS) if forks and cores() > 2 else 0


def prepared_batches(
    view: View,
    encoder: Preparer,
    layout: Layout,
    chunks: Iterable[int],
    *,
    formation_of: FormationOf | None = None,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """The batches of some chunks in the order of the layout, prepared ahead; a bounded number is in memory.

    A row that cannot be prepared is left out of its batch. Which rows these are is a property of the data, so a run
    that was interrupted and goes on forms the same batches, and gives the same bytes, as one that was not. They do not
    depend on the number of workers (from `choose_workers`) either. Chunks have one part, all of their rows, unless
    `formation_of` says otherwise. The chunks are iterated several times at once, and no further than to the next that
    is needed.

    Yields:
        At least one batch a chunk, empty where nothing is left to encode. Close the generator to end its threads and
        processes.

    Raises:
        RuntimeError: If a worker process dies; `named_worker_death` makes it an error of ours.
    """
    formation_of = formation_of or whole_chunks(layout)
    if layout.order == "cost":
        return _sorted_batches(view, encoder, layout, chunks, formation_of)
    if workers:
        return _batches_from_processes(view, encoder, layout, chunks, formation_of, workers)
    return _batches_from_threads(view, encoder, layout, chunks, formation_of)


# -- one row ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failed:
    """Stands in the place of a row that could not be read, decoded or prepared."""

    reason: str


@dataclass(frozen=True)
class _Flagged:
    """A prepared row that its view flags."""

    prepared: Any
    flag: str


def _failed(error: BaseException) -> _Failed:
    ours = isinstance(error, (DataError, ExtractionFailed))
    return _Failed(str(error) if ours else f"{type(error).__name__}: {error}".removesuffix(": "))


def _content(view: View, number: int) -> bytes | _Failed:
    try:
        return view.content(number)
    except CONTENT_ERRORS as error:
        return _failed(error)
    except OSError as error:
        raise ExtractionFailed(
            f"{view.name} row {view.ids[number]!r} (number {number}) cannot be read: {error}. What was committed "
            "stays; run the same command again"
        ) from error


def _prepared(view: View, encoder: Preparer, content: bytes | _Failed) -> Any:
    """What the encoder takes of a row's bytes, or why there is nothing to take."""
    if isinstance(content, _Failed):
        return content
    try:
        item = view.decode(content)
        flag, prepared = view.flag(content, item) if view.flag else None, encoder.prepare(item)
        return prepared if flag is None else _Flagged(prepared, flag)
    except ROW_ERRORS as error:
        return _failed(error)


def _batch(chunk: int, rows: Iterable[tuple[int, Any]], last: bool) -> Batch:
    good, failed, flags = list[tuple[int, Any]](), dict[int, str](), dict[int, str]()
    for number, row in rows:
        if isinstance(row, _Failed):
            failed[number] = row.reason
        elif isinstance(row, _Flagged):
            flags[number] = row.flag
            good.append((number, row.prepared))
        else:
            good.append((number, row))
    numbers, prepared = [number for number, _ in good], [row for _, row in good]
    return Batch(chunk, numbers=numbers, prepared=prepared, failed=failed, last=last, flags=flags)


# -- threads ----------------------------------------------------------------------------------------------------------


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that leave what nobody waits for undone at the end."""
    pool = ThreadPoolExecutor(min(cores(), 8))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _batches_from_threads(
    view: View, encoder: Preparer, layout: Layout, chunks: Iterable[int], formation_of: FormationOf
) -> Generator[Batch, None, None]:
    def prepare(number: int) -> Any:
        return _prepared(view, encoder, _content(view, number))

    with _threads() as decoders:
        waiting: deque[tuple[int, list[int], bool, list[Future[Any]]]] = deque()
        coming = row_batches(layout, chunks, formation_of)
        while True:
            for chunk, numbers, last in islice(coming, 1 + _AHEAD - len(waiting)):
                waiting.append((chunk, numbers, last, [decoders.submit(prepare, number) for number in numbers]))
            if not waiting:
                return
            chunk, numbers, last, futures = waiting.popleft()
            rows = [future.result() for future in futures]
            yield _batch(chunk, zip(numbers, rows, strict=True), last)


_Tokenised = list[Future[list[tuple[int, Any]]]]  # slices of a part, as (row number, what the encoder takes)


def _sorted_batches(
    view: View, encoder: Preparer, layout: Layout, chunks: Iterable[int], formation_of: FormationOf
) -> Generator[Batch, None, None]:
    """Longest first inside a part. Prepared text is small: a chunk is tokenised whole while the last is encoded."""

    def prepare(numbers: list[int]) -> list[tuple[int, Any]]:
        return [(number, _prepared(view, encoder, _content(view, number))) for number in numbers]

    def cost(row: tuple[int, Any]) -> tuple[int, int]:
        return -encoder.cost(row[1]), row[0]

    with _threads() as decoders:

        def submit(chunk: int) -> list[_Tokenised]:
            parts = formation_of(chunk).parts
            return [[decoders.submit(prepare, numbers) for numbers in cut(part, _TEXTS_AT_ONCE)] for part in parts]

        coming = (submit(chunk) for chunk in chunks)
        ahead = next(coming, [])
        for chunk in chunks:
            parts, ahead = ahead, next(coming, [])
            batches, failed, flags = list[list[int]](), dict[int, str](), dict[int, str]()
            prepared = dict[int, Any]()
            for part in parts:
                whole = _batch(chunk, (row for future in part for row in future.result()), True)
                rows = sorted(zip(whole.numbers, whole.prepared, strict=True), key=cost)
                batches += cut([number for number, _ in rows], layout.batch_size)
                prepared |= dict(rows)
                failed |= whole.failed
                flags |= whole.flags
            batches = formation_of(chunk).left(batches) or [[]]
            for number, batch in enumerate(batches, 1):
                rows = [prepared[row] for row in batch]
                yield Batch(chunk, batch, rows, failed=failed, last=number == len(batches), flags=flags)
                failed, flags = {}, {}


# -- processes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """Prepared rows on their way from a worker: one tensor, where they are tensors, so that one descriptor travels."""

    numbers: list[int]
    shapes: list[tuple[int, ...]] | None
    values: Any
    failed: dict[int, str]
    flags: dict[int, str]


@dataclass(frozen=True)
class _Decoder:
    """What a worker does with the bytes of a piece: torch's map-style data set, whose indices are (number, bytes)."""

    view: View
    encoder: Preparer
    share: bool

    def __getitems__(self, rows: list[tuple[int, bytes | _Failed]]) -> _Piece:  # noqa: PLW3201
        import torch

        piece = _batch(0, [(number, _prepared(self.view, self.encoder, content)) for number, content in rows], True)
        if not piece.prepared or not all(isinstance(row, torch.Tensor) for row in piece.prepared):
            return _Piece(piece.numbers, None, piece.prepared, piece.failed, piece.flags)
        flat = torch.cat([row.reshape(-1) for row in piece.prepared])
        shapes = [tuple(row.shape) for row in piece.prepared]
        return _Piece(piece.numbers, shapes, flat if self.share else flat.numpy(), piece.failed, piece.flags)


def _rows_of(piece: _Piece) -> list[tuple[int, Any]]:
    """Its rows again, those that failed among them."""
    import torch

    rows = piece.values
    if piece.shapes is not None:
        sizes = [int(torch.Size(shape).numel()) for shape in piece.shapes]
        parts = torch.as_tensor(piece.values).split(sizes)
        rows = [part.view(shape) for part, shape in zip(parts, piece.shapes, strict=True)]
    good = [
        (number, _Flagged(row, piece.flags[number]) if number in piece.flags else row)
        for number, row in zip(piece.numbers, rows, strict=True)
    ]
    return [*good, *((number, _Failed(text)) for number, text in piece.failed.items())]


def _pieces(layout: Layout, chunks: Iterable[int], formation_of: FormationOf) -> Iterator[list[int]]:
    for _, numbers, _ in row_batches(layout, chunks, formation_of):
        yield from cut(numbers, _PIECE_ROWS)


def _read_ahead(view: View, pieces: Iterator[list[int]]) -> Iterator[list[tuple[int, bytes | _Failed]]]:
    """The bytes of every piece.

    They are read here and not in the workers: what reads them (Polars, a connection) has threads and locks that do not
    survive a fork.
    """
    with _threads() as readers:
        waiting: deque[list[tuple[int, Future[bytes | _Failed]]]] = deque()
        while True:
            for numbers in islice(pieces, 1 + _AHEAD - len(waiting)):
                waiting.append([(number, readers.submit(_content, view, number)) for number in numbers])
            if not waiting:
                return
            yield [(number, future.result()) for number, future in waiting.popleft()]


def _batches_from_processes(
    view: View, encoder: Preparer, layout: Layout, chunks: Iterable[int], formation_of: FormationOf, workers: int
) -> Generator[Batch, None, None]:
    needed = len(list(islice(_pieces(layout, chunks, formation_of), workers)))
    ready = _forked(view, encoder, _pieces(layout, chunks, formation_of), max(needed, 1))
    try:
        for chunk, numbers, last in row_batches(layout, chunks, formation_of):
            rows: list[tuple[int, Any]] = []
            for _ in cut(numbers, _PIECE_ROWS):
                rows += _rows_of(_next_piece(ready))
            yield _batch(chunk, rows, last)
    finally:
        # Python would do it when it lets the iterator go, which an error's traceback puts off.
        ready._shutdown_workers()


def _next_piece(ready: Any) -> Any:
    try:
        return next(ready)
    except (ConnectionError, EOFError) as error:  # torch names a dead worker, but not one that dies just now
        raise RuntimeError(f"DataLoader worker (pid unknown) ended while it handed over rows: {error}") from error


def _forked(view: View, encoder: Preparer, pieces: Iterator[list[int]], workers: int) -> Any:
    """Torch's iterator over decoded pieces, its workers running."""
    import torch
    from torch.utils.data import DataLoader

    decoder: Any = _Decoder(view, encoder, _shared_memory_is_roomy())
    with warnings.catch_warnings():
        # Python and torch warn of what is meant here: a fork of a process with threads, more workers than cores.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            decoder,
            batch_sampler=_read_ahead(view, pieces),  # pyright: ignore[reportArgumentType]
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=_PIECES_OF_A_WORKER,
            multiprocessing_context="fork",
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else torch draws a seed from the program's own stream
        )
        return iter(loader)


def _as_it_is(piece: Any) -> Any:
    return piece


def _start_worker(number: int) -> None:
    """Leaves Ctrl-C to the parent, and the parent's memory shared: the collector would write to all of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()


def _shared_memory_is_roomy() -> bool:
    """Whether tensors may travel in shared memory, which containers often limit to 64 MB; else through a pipe."""
    try:
        return shutil.disk_usage("/dev/shm").free >= _SHARED_BYTES
    except OSError:
        return False


def is_worker_death(error: BaseException) -> bool:
    """Whether it is torch's error about a dead worker."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


@contextmanager
def named_worker_death() -> Iterator[None]:
    """Makes torch's error about a dead worker one of ours that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not is_worker_death(error):
            raise
        raise ExtractionFailed(
            f"a process that decodes rows died: {str(error).removeprefix('DataLoader worker ')}\n"
            "  It ran out of memory, or a row crashed the library that decodes it. What was committed stays.\n"
            "  Run the same command with fewer --workers, or with --workers 0 to decode in this process"
        ) from error
