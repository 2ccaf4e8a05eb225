"""How do rows come out of an array? Straight from the chunk files, checked, in whatever order they are asked for."""

import mmap
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import Damaged, FeaturesNotCached, UsageError
from featcache.folder import Folder, LocalFolder
from featcache.records import CRC_BYTES, Complete, Record, chunk_name, crc_of, flat
from featcache.verified import Verified

_MAPS = 256  # each open map holds a file descriptor
_WORTH_THREADS = 16 * 2**20


class Reader:
    """Reads rows of one array whose records have been checked; keeps maps of the chunks that it has touched.

    Args:
        folder: The array's folder.
        complete: What was recorded of it.
        pulled: The chunks that are there, for an array of which only some were pulled; None for all.
        foreign: Another writer chose other codecs: read through zarr-python, which checks what those codecs check.
        verified: Remembers which arrays were checked before; None for no memory.
    """

    def __init__(
        self,
        folder: Folder,
        complete: Complete,
        pulled: frozenset[int] | None = None,
        *,
        foreign: bool = False,
        verified: Verified | None = None,
    ) -> None:
        self.folder, self.complete, self.pulled, self._foreign = folder, complete, pulled, foreign
        self._dtype = np.dtype(complete.dtype)
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()
        self._trust = _Trust(folder, complete, verified)

    def __len__(self) -> int:
        return self.complete.plan.n

    # -- whole and in ranges ----------------------------------------------------------------------------------------

    def read(
        self, start: int = 0, stop: int | None = None, *, verify: bool = True, dtype: str | None = None
    ) -> np.ndarray:
        """Rows start to stop, each chunk by one read.

        Args:
            start: First row.
            stop: First row behind the last; None for all.
            verify: Check the CRC-32C of every chunk that is touched, whatever is remembered.
            dtype: "float32" or "float64" converts chunk by chunk, while the chunk is in the processor's cache.

        Returns:
            [stop - start, d]; torch.from_numpy takes it without a copy.

        Raises:
            UsageError: If the array has no such rows.
            Damaged: If a chunk is missing, short or flipped.
            FeaturesNotCached: If some of the rows were not pulled.
        """
        if verify:
            self._trust.begin()  # before the first byte is read: what changes meanwhile must not be trusted
        return self._range(start, len(self) if stop is None else stop, dtype, lambda chunk: verify, mapped=False)

    def block(self, start: int, stop: int, *, verify: bool = True, dtype: str | None = None) -> np.ndarray:
        """As `read`, for many small ranges: a chunk is checked only when it is first touched."""
        mapped = isinstance(self.folder, LocalFolder)
        return self._range(start, stop, dtype, lambda chunk: verify and not self._trust.holds(chunk), mapped=mapped)

    def blocks(
        self, rows: int, *, seed: int | None = None, verify: bool = True, dtype: str | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Consecutive blocks that together hold every row once, in order or shuffled.

        Args:
            rows: Rows of a block; the last may be shorter.
            seed: Seed of the order of the blocks; None for first to last.
            verify: As for `take`.
            dtype: Convert on the way.

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

    def _range(
        self, start: int, stop: int, dtype: str | None, check: Callable[[int], bool], *, mapped: bool
    ) -> np.ndarray:
        plan = self.complete.plan
        if not 0 <= start <= stop <= plan.n:
            raise UsageError(f"rows {start} to {stop} of an array of {plan.n}")
        if self._foreign:
            return self._through_zarr(slice(start, stop), dtype)
        out = np.empty((stop - start, self.complete.d), dtype or self._dtype)
        chunks = range(start // plan.chunk_rows, -(-stop // plan.chunk_rows)) if stop > start else range(0)
        self._require(chunks)

        def fill(chunk: int) -> None:
            first, behind = plan.span(chunk)
            low, high = max(start, first), min(stop, behind)
            target = out[low - start : high - start]
            if mapped:
                _convert(target, self._map(chunk, check(chunk))[low - first : high - first])
            else:
                self._fill(chunk, target, low - first, check(chunk))

        self.folder.map(fill, chunks, parallel=None if mapped else _readers(out.nbytes))
        return out

    def _through_zarr(self, rows: Any, dtype: str | None) -> np.ndarray:
        from featcache.zarr_reader import open_zarr

        found = np.asarray(open_zarr(self.folder).oindex[rows])
        return found if dtype is None else found.astype(dtype, copy=False)

    def _require(self, chunks: Sequence[int]) -> None:
        if self.pulled is None or self.pulled.issuperset(chunks):
            return
        plan = self.complete.plan
        there = ", ".join(f"{plan.span(first)[0]}:{plan.span(last)[1]}" for first, last in _runs(sorted(self.pulled)))
        raise FeaturesNotCached(
            f"{self.folder}: of these rows only some were pulled; here are rows {there or 'none'} of {plan.n}. "
            "Ask for --rows that are here, or run: featcache pull"
        )

    def _fill(self, chunk: int, out: np.ndarray, skip: int, check: bool) -> None:
        """Fills out [rows, d] from row `skip` of a chunk on, by one read of what is needed: all of it to check it."""
        record, whole = self.complete.records[chunk], self.complete.plan.chunk_rows
        rows = whole if check else len(out)
        straight = len(out) == rows and out.dtype == self._dtype
        target = out if straight else np.empty((rows, self.complete.d), self._dtype)
        if check:
            crc = bytearray(CRC_BYTES)
            self._read(record, flat(target), memoryview(crc))
            self._check(record, flat(target), crc)
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

    def _check(self, record: Record, body: memoryview, crc: bytes | bytearray) -> None:
        # the stored checksum must be the recorded one too: a chunk swapped with another passes its own
        if crc.hex() != record.crc32c or crc_of(body) != crc:
            self._trust.withdraw()
            raise Damaged(f"{self._where(record)} has flipped bits (CRC-32C). Run: featcache verify")
        self._trust.add(record.chunk)

    def _missing(self, record: Record) -> Damaged:
        return Damaged(f"{self._where(record)} is missing. Run: featcache verify")

    def _where(self, record: Record) -> str:
        return f"chunk {record.chunk} of {self.folder}"

    # -- here and there ---------------------------------------------------------------------------------------------

    def take(self, rows: NDArray[np.integer[Any]], *, verify: bool = True, dtype: str | None = None) -> np.ndarray:
        """Any rows, in the order given, some of them more than once if wanted.

        On a disk the chunks are mapped into memory; a chunk is checked when it is first touched, unless an earlier
        full reading of the same files is remembered. Elsewhere every touched chunk is fetched whole.

        Args:
            rows: [m] row numbers.
            verify: Check the CRC-32C of chunks not known to be whole.
            dtype: Convert on the way; None for the stored dtype.

        Returns:
            [m, d].

        Raises:
            UsageError: If a row is out of range.
            Damaged: If a chunk is missing, short or flipped.
            FeaturesNotCached: If some of the rows were not pulled.
        """
        plan, wanted = self.complete.plan, np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < plan.n:
            raise UsageError(f"rows {wanted.min()} to {wanted.max()} of an array of {plan.n}")
        if self._foreign:
            return self._through_zarr(wanted, dtype)
        order = np.argsort(wanted, kind="stable")
        numbers, local = np.divmod(wanted[order], plan.chunk_rows)
        chunks, starts = np.unique(numbers, return_index=True)
        self._require(chunks.tolist())
        out = np.empty((len(wanted), self.complete.d), dtype or self._dtype)
        ends = np.append(starts, len(wanted))[1:]
        spans = list(zip(chunks.tolist(), starts.tolist(), ends.tolist(), strict=True))

        def fill(span: tuple[int, int, int]) -> None:
            chunk, low, high = span
            out[order[low:high]] = self._chunk(chunk, verify and not self._trust.holds(chunk))[local[low:high]]

        self.folder.map(fill, spans)
        return out

    def _chunk(self, chunk: int, check: bool) -> np.ndarray:
        """A chunk's rows [chunk_rows, d]: a map on a disk, a copy elsewhere."""
        if isinstance(self.folder, LocalFolder):
            return self._map(chunk, check)
        block = np.empty((self.complete.plan.chunk_rows, self.complete.d), self._dtype)
        self._fill(chunk, block, 0, check)
        return block

    def _map(self, chunk: int, check: bool) -> np.ndarray:
        """A chunk's rows [chunk_rows, d], not to be written to."""
        found = self._maps.get(chunk)
        if found is None:
            found = self._maps[chunk] = self._map_file(self.complete.records[chunk])
            if len(self._maps) > _MAPS:
                self._maps.popitem(last=False)
        else:
            self._maps.move_to_end(chunk)
        if check:
            self._check(self.complete.records[chunk], flat(found[:-CRC_BYTES]), found[-CRC_BYTES:].tobytes())
        return found[:-CRC_BYTES].view(self._dtype).reshape(-1, self.complete.d)

    def _map_file(self, record: Record) -> np.ndarray:
        try:
            descriptor = os.open(f"{self.folder}/{chunk_name(record.chunk)}", os.O_RDONLY)
        except FileNotFoundError as error:
            raise self._missing(record) from error
        try:
            self._check_size(record, os.fstat(descriptor).st_size)
            return np.frombuffer(mmap.mmap(descriptor, record.bytes, access=mmap.ACCESS_READ), np.uint8)
        finally:
            os.close(descriptor)


class _Trust:
    """Which chunks need no checking: those that this reader checked, or all where an earlier one did.

    Args:
        folder: The array's folder.
        complete: What was recorded of it.
        verified: The memory of earlier readings.
    """

    def __init__(self, folder: Folder, complete: Complete, verified: Verified | None) -> None:
        self._folder, self._complete, self._verified = folder, complete, verified
        self._chunks: set[int] | None = None
        self._stamp: str | None = None

    def begin(self) -> set[int]:
        """The chunks trusted; the first call looks at the files, and at what is remembered of them."""
        if self._chunks is None:
            known = False
            if self._verified is not None:
                self._stamp = self._verified.stamp(self._folder, self._complete)
                known = self._verified.knows(self._folder, self._stamp)
            self._chunks = set(range(self._complete.plan.chunks)) if known else set()
        return self._chunks

    def holds(self, chunk: int) -> bool:
        """Whether a chunk was checked."""
        return chunk in self.begin()

    def withdraw(self) -> None:
        """Trusts none of the chunks any more, nor does a later reader: one of them was not what was recorded."""
        self._chunks = set()
        if self._verified is not None:
            self._verified.forget(self._folder)

    def add(self, chunk: int) -> None:
        """Notes that a chunk was checked just now, and that the array was once all of them were."""
        chunks = self.begin()
        if chunk not in chunks:
            chunks.add(chunk)
            if self._verified is not None and len(chunks) == self._complete.plan.chunks:
                self._verified.remember(self._folder, self._stamp)


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


def _readers(size: int) -> int:
    """Threads that fill so many bytes fastest: what costs is not the disk but touching fresh memory, page by page."""
    return 1 if size < _WORTH_THREADS else min(4, os.cpu_count() or 1)
