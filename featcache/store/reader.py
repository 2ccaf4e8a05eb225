"""Reading rows of an array straight from its chunk files, verified: whole, in ranges, in blocks, or by number."""

import errno
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import Damaged, FeaturesNotCached, UsageError
from featcache.storage.base import Folder
from featcache.storage.local import LocalFolder
from featcache.storage.plain import open_plain
from featcache.store.checked import CheckedArrays, Identity, identities, identity, stamp_of
from featcache.store.digest import ArrayKey
from featcache.store.failed import require_failed
from featcache.store.maps import COPIES, MAPS, map_file, may_be_mapped
from featcache.store.metadata import ArrayMetadata
from featcache.store.records import CRC_BYTES, Complete, Record, chunk_name, chunk_parts, crc_of, flat

_WORTH_THREADS = 16 * 2**20
_readers = count()


class Reader:
    """Reads rows of one array whose records have been checked; keeps maps of the chunks that it has touched.

    Args:
        folder: The array's folder.
        metadata: Its key, layout and records.
        pulled: The chunks that are there, for an array of which only some were pulled; None for all.
        foreign: Another writer chose other codecs: read through zarr-python, which checks what those codecs check.
        checked: Memory of the arrays that were checked before; None for no memory.
        ids: Gives the ids of the rows of a key; None where they are not known: see `failed_problem`.
    """

    def __init__(
        self,
        folder: Folder,
        metadata: ArrayMetadata,
        pulled: frozenset[int] | None = None,
        *,
        foreign: bool = False,
        checked: CheckedArrays | None = None,
        ids: Callable[[ArrayKey], Sequence[str]] | None = None,
    ) -> None:
        complete = metadata.complete or metadata.partial
        if complete is None:
            raise FeaturesNotCached(f"{folder} has no records of all its chunks")
        self.folder, self.key, self.complete, self.pulled = folder, metadata.key, complete, pulled
        self._foreign, self._dtype = foreign, np.dtype(complete.dtype)
        self._ids = ids
        self._number = next(_readers)  # under which its maps are kept
        weakref.finalize(self, _let_go, self._number).atexit = False
        self._trust = _Trust(folder, complete, checked)

    def __len__(self) -> int:
        return self.complete.layout.n

    # -- whole and in ranges ----------------------------------------------------------------------------------------

    def read(
        self, start: int = 0, stop: int | None = None, *, verify: bool = True, dtype: str | None = None
    ) -> np.ndarray:
        """Rows start to stop, each chunk by one read.

        Args:
            start: First row.
            stop: First row behind the last; None for all.
            verify: Check the CRC-32C of every chunk that is touched, whatever is remembered.
            dtype: "float32" or "float64" converts chunk by chunk, while the chunk is in the processor's cache; None
                for the stored dtype.

        Returns:
            [stop - start, d]; torch.from_numpy takes it without a copy.

        Raises:
            UsageError: If the array has no such rows.
            Damaged: If a chunk is missing, short or flipped.
            FeaturesNotCached: If some of the rows were not pulled.
        """
        if verify:
            self._trust.begin()  # before the first byte is read: what changes meanwhile must not be trusted
        return self._range(start, len(self) if stop is None else stop, dtype, verify, mapped=False)

    def block(self, start: int, stop: int, *, verify: bool = True, dtype: str | None = None) -> np.ndarray:
        """As `read`, for many small ranges: a chunk is checked only when it is first touched."""
        mapped = isinstance(self.folder, LocalFolder)
        return self._range(start, stop, dtype, verify, mapped=mapped)

    def blocks(
        self, rows: int, *, seed: int | None = None, verify: bool = True, dtype: str | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Consecutive blocks that together hold every row once, in order or shuffled.

        Args:
            rows: Rows of a block; the last may be shorter.
            seed: Seed of the order of the blocks; None for first to last.
            verify: As for `take`.
            dtype: As for `read`.

        Yields:
            (number of the first row, [rows, d]).

        Raises:
            UsageError: If a block has no rows.
        """
        if rows < 1:
            raise UsageError(f"a block of {rows} rows")
        starts = np.arange(0, len(self), rows)
        if seed is not None:
            np.random.default_rng(seed).shuffle(starts)
        for start in starts.tolist():
            yield start, self.block(start, min(start + rows, len(self)), verify=verify, dtype=dtype)

    def _range(self, start: int, stop: int, dtype: str | None, verify: bool, *, mapped: bool) -> np.ndarray:
        layout = self.complete.layout
        if not 0 <= start <= stop <= layout.n:
            raise UsageError(f"rows {start} to {stop} of an array of {layout.n}")
        if self._foreign:
            return self._through_zarr(slice(start, stop), dtype)
        out = np.empty((stop - start, self.complete.d), dtype or self._dtype)
        chunks = range(start // layout.chunk_rows, -(-stop // layout.chunk_rows)) if stop > start else range(0)
        self._require(chunks)

        def fill(chunk: int) -> None:
            first, behind = layout.span(chunk)
            low, high = max(start, first), min(stop, behind)
            target = out[low - start : high - start]
            if mapped:
                _convert(target, self._map(chunk, verify)[low - first : high - first])
            else:
                self._fill(chunk, target, low - first, verify)

        self.folder.map(fill, chunks, parallel=None if mapped else _reading_threads(out.nbytes))
        return out

    def _through_zarr(self, rows: slice | NDArray[np.int64], dtype: str | None) -> np.ndarray:
        """Rows of an array in other codecs: what zarr-python makes of a chunk must have the recorded checksum."""
        from featcache.store.zarr_reader import open_zarr, read_zarr

        layout, array = self.complete.layout, open_zarr(self.folder, self.complete)
        wanted = np.arange(layout.n)[rows]
        out = np.empty((len(wanted), self.complete.d), dtype or self._dtype)
        for chunk in np.unique(wanted // layout.chunk_rows).tolist():
            start, stop = layout.span(chunk)
            record = self.complete.records[chunk]
            block = read_zarr(array, start, stop, self._where(record))
            if chunk_parts(layout, block)[1].hex() != record.crc32c:
                raise Damaged(f"{self._where(record)} has other values than recorded. Run: featcache verify")
            require_failed(block, record, self.folder, self._ids_of(record))
            here = wanted // layout.chunk_rows == chunk
            out[here] = block[wanted[here] - start]
        return out

    def _require(self, chunks: Sequence[int]) -> None:
        if self.pulled is None or self.pulled.issuperset(chunks):
            return
        layout = self.complete.layout
        spans = [(layout.span(first)[0], layout.span(last)[1]) for first, last in _runs(sorted(self.pulled))]
        there = ", ".join(f"{start}:{stop}" for start, stop in spans)
        raise FeaturesNotCached(
            f"{self.folder}: of these rows only some were pulled; here are rows {there or 'none'} of {layout.n}. "
            "Ask for --rows that are here, or pull the rest: featcache pull REMOTE"
        )

    def _fill(self, chunk: int, out: np.ndarray, skip: int, check: bool) -> None:
        """Fills out [rows, d] from row `skip` of a chunk on, by one read of what is needed: all of it to check it."""
        record, whole = self.complete.records[chunk], self.complete.layout.chunk_rows
        rows = whole if check else len(out)
        straight = len(out) == rows and out.dtype == self._dtype
        target = out if straight else np.empty((rows, self.complete.d), self._dtype)
        if check:
            crc = bytearray(CRC_BYTES)
            self._read(record, flat(target), memoryview(crc))
            self._check(record, target, crc)
            target = target[skip : skip + len(out)]
        else:
            self._read(record, flat(target), offset=skip * self.complete.d * self._dtype.itemsize)
        if not straight:
            _convert(out, target)

    def _read(self, record: Record, *views: memoryview, offset: int = 0) -> None:
        try:
            size = self.folder.read_into(chunk_name(record.chunk), *views, offset=offset)
        except FileNotFoundError as error:
            raise self._missing(record) from error
        self._check_size(record, size)

    def _check_size(self, record: Record, size: int) -> None:
        if size != record.bytes:
            raise Damaged(f"{self._where(record)} has {size} bytes, recorded {record.bytes}. Run: featcache verify")

    def _check(self, record: Record, rows: np.ndarray, crc: bytes | bytearray, file: Identity | None = None) -> None:
        """Believes a chunk's rows [chunk_rows, d]: they have the recorded checksum, and failed where it says so."""
        # the stored checksum must be the recorded one too: a chunk swapped with another passes its own
        if crc.hex() != record.crc32c or crc_of(flat(rows)) != crc:
            self._trust.withdraw()
            raise Damaged(f"{self._where(record)} has flipped bits (CRC-32C). Run: featcache verify")
        require_failed(rows, record, self.folder, self._ids_of(record))
        self._trust.add(record.chunk, file)

    def _ids_of(self, record: Record) -> Callable[[], Sequence[str]] | None:
        ids, span = self._ids, self.complete.layout.span(record.chunk)
        return None if ids is None else lambda: ids(self.key)[slice(*span)]

    def _missing(self, record: Record) -> Damaged:
        return Damaged(f"{self._where(record)} is missing. Run: featcache verify")

    def _where(self, record: Record) -> str:
        return f"chunk {record.chunk} of {self.folder}"

    # -- by row number ----------------------------------------------------------------------------------------------

    def take(self, rows: NDArray[np.integer[Any]], *, verify: bool = True, dtype: str | None = None) -> np.ndarray:
        """Any rows, in the order given, some of them more than once if wanted; errors as for `read`.

        On a disk the chunks are mapped into memory; a chunk is checked when it is first touched, unless an earlier
        full reading of the same files is remembered. Elsewhere every touched chunk is fetched whole.

        Args:
            rows: [m] row numbers.
            verify: Check the CRC-32C of chunks not known to be whole.
            dtype: As for `read`.

        Returns:
            [m, d].
        """
        layout, wanted = self.complete.layout, np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < layout.n:
            raise UsageError(f"rows {wanted.min()} to {wanted.max()} of an array of {layout.n}")
        if self._foreign:
            return self._through_zarr(wanted, dtype)
        order = np.argsort(wanted, kind="stable")
        numbers, local = np.divmod(wanted[order], layout.chunk_rows)
        chunks, starts = np.unique(numbers, return_index=True)
        self._require(chunks.tolist())
        out = np.empty((len(wanted), self.complete.d), dtype or self._dtype)
        ends = np.append(starts, len(wanted))[1:]
        spans = list(zip(chunks.tolist(), starts.tolist(), ends.tolist(), strict=True))

        def fill(span: tuple[int, int, int]) -> None:
            chunk, low, high = span
            out[order[low:high]] = self._chunk(chunk, verify)[local[low:high]]

        self.folder.map(fill, spans)
        return out

    def _chunk(self, chunk: int, verify: bool) -> np.ndarray:
        """A chunk's rows [chunk_rows, d]: a map on a disk, a copy elsewhere."""
        if isinstance(self.folder, LocalFolder):
            return self._map(chunk, verify)
        block = np.empty((self.complete.layout.chunk_rows, self.complete.d), self._dtype)
        self._fill(chunk, block, 0, verify)
        return block

    def _map(self, chunk: int, verify: bool) -> np.ndarray:
        """A chunk's rows [chunk_rows, d], not to be written to: a map, or a copy where a map cannot be trusted."""
        record, name = self.complete.records[chunk], (self._number, chunk)
        kept: Any = MAPS.get(name) or COPIES.get(name)
        content, file = kept if kept is not None else self._open_chunk(record)
        rows = content[:-CRC_BYTES].view(self._dtype).reshape(-1, self.complete.d)
        if verify and not self._trust.holds(chunk, file):
            self._check(record, rows, content[-CRC_BYTES:].tobytes(), file)
        return rows

    def _open_chunk(self, record: Record) -> tuple[np.ndarray, Identity]:
        """The bytes of a chunk file, mapped or copied, and what file they are of."""
        try:
            return self._map_or_copy(record)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            MAPS.clear()  # others want files too: each open map holds one
            return self._map_or_copy(record)

    def _map_or_copy(self, record: Record) -> tuple[np.ndarray, Identity]:
        name = (self._number, record.chunk)
        try:
            opened = open_plain(f"{self.folder}/{chunk_name(record.chunk)}")
        except FileNotFoundError as error:
            raise self._missing(record) from error
        with opened:
            status = os.fstat(opened.fileno())
            self._check_size(record, status.st_size)
            if may_be_mapped(status):
                mapped = map_file(opened.fileno(), record.bytes), identity(status)
                MAPS.keep(name, mapped)
                return mapped
        content = np.empty(record.bytes, np.uint8)
        self._read(record, memoryview(content))  # pyright: ignore[reportArgumentType] - a buffer
        COPIES.keep(name, (content, identity(status)), record.bytes)
        return content, identity(status)


def _let_go(number: int) -> None:
    MAPS.forget(number)
    COPIES.forget(number)


class _Trust:
    """Which chunks need no checking: those that this reader checked, or all where an earlier one did."""

    def __init__(self, folder: Folder, complete: Complete, memory: CheckedArrays | None) -> None:
        self._folder, self._complete, self._memory = folder, complete, memory
        self._files: list[Identity] | None = None
        self._checked: dict[int, Identity] = {}
        self._stamp: str | None = None
        self._begun = False

    def begin(self) -> None:
        """Looks up, the first time, the files and what is remembered of them: before any of them is checked."""
        if self._begun:
            return
        self._begun = True
        self._files = identities(self._folder, self._complete)
        if self._memory is not None and self._files is not None:
            self._stamp = stamp_of(self._complete, self._files)
            if self._memory.knows(self._folder, self._stamp):
                self._checked = dict(enumerate(self._files))

    def holds(self, chunk: int, file: Identity) -> bool:
        """Whether a chunk was checked when it was this very file: another may have taken its place."""
        self.begin()
        return self._checked.get(chunk) == file

    def withdraw(self) -> None:
        """Trusts none of the chunks any more, nor does a later reader: one of them was not as recorded."""
        self._checked = {}
        if self._memory is not None:
            self._memory.forget(self._folder)

    def add(self, chunk: int, file: Identity | None) -> None:
        """Notes that a chunk was checked just now, read from that file; None for the file there at the beginning."""
        self.begin()
        if file is None and self._files is not None:
            file = self._files[chunk]
        if file is None or self._checked.get(chunk) == file:
            return
        self._checked[chunk] = file
        files = self._files or []
        if self._memory is not None and len(self._checked) == len(files):
            if all(self._checked.get(number) == file for number, file in enumerate(files)):
                self._memory.remember(self._folder, self._stamp)


def _convert(out: np.ndarray, rows: np.ndarray) -> None:
    """Copies rows into an array of the same shape and, it may be, another dtype."""
    torch = sys.modules.get("torch")
    if torch is not None and (rows.dtype, out.dtype) == (np.float16, np.float32):
        # every half is a float, so the numbers are the same; torch has vector instructions for it, NumPy has not
        torch.from_numpy(out).copy_(torch.from_numpy(rows if rows.flags.writeable else rows.copy()))
    else:
        out[:] = rows


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as (first, last).

    Example:
        >>> _runs([0, 1, 2, 5, 7, 8])
        [(0, 2), (5, 5), (7, 8)]
    """
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _reading_threads(size: int) -> int:
    """Threads that fill so many bytes fastest: what costs is not the disk but touching fresh memory, page by page."""
    return 1 if size < _WORTH_THREADS else min(4, os.cpu_count() or 1)
