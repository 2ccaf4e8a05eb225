"""How do rows come out of an array? Straight from the chunk files, checked, in whatever order they are asked for."""

import mmap
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from featcache.errors import Damaged, FeaturesNotCached, UsageError
from featcache.folder import Folder, LocalFolder
from featcache.records import CRC_BYTES, Complete, Record, chunk_name, crc_of, flat
from featcache.verified import Verified

_MAPS = 256  # each open map holds a file descriptor


class Reader:
    """Reads rows of one array whose records have been checked; keeps maps of the chunks that it has touched.

    Args:
        folder: The array's folder.
        complete: What was recorded of it.
        pulled: The chunks that are there, for an array of which only some were pulled; None for all.
        foreign: Another writer chose other codecs: read through zarr-python.
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
        self._verified = verified
        self._maps: OrderedDict[int, tuple[mmap.mmap, np.ndarray]] = OrderedDict()
        self._trusted: set[int] | None = None

    def __len__(self) -> int:
        return self.complete.plan.n

    # -- whole and in ranges ----------------------------------------------------------------------------------------

    def read(
        self, start: int = 0, stop: int | None = None, *, verify: bool = True, dtype: str | None = None
    ) -> np.ndarray:
        """Rows start to stop.

        Args:
            start: First row.
            stop: First row behind the last; None for all.
            verify: Check the CRC-32C of every chunk that is touched.
            dtype: "float32" or "float64" converts chunk by chunk, while the chunk is in the processor's cache.

        Returns:
            [stop - start, d]; torch.from_numpy takes it without a copy.

        Raises:
            Damaged: If a chunk is missing, short or flipped.
            FeaturesNotCached: If some of the rows were not pulled.
        """
        plan = self.complete.plan
        stop = plan.n if stop is None else stop
        if not 0 <= start <= stop <= plan.n:
            raise UsageError(f"rows {start} to {stop} of an array of {plan.n}")
        if self._foreign:
            return self._through_zarr(slice(start, stop), dtype)
        out = np.empty((stop - start, self.complete.d), np.dtype(dtype or self.complete.dtype))
        chunks = range(start // plan.chunk_rows, -(-stop // plan.chunk_rows)) if stop > start else range(0)
        self._require(chunks)

        def fill(chunk: int) -> None:
            first, behind = plan.span(chunk)
            low, high = max(start, first), min(stop, behind)
            self._fill(chunk, out[low - start : high - start], low - first, verify)

        self.folder.map(fill, chunks)
        if verify and self._verified is not None and len(chunks) == plan.chunks:
            self._verified.remember(self.folder, self.complete)
        return out

    def _through_zarr(self, rows: Any, dtype: str | None) -> np.ndarray:
        from featcache.zarr_reader import open_zarr

        found = np.asarray(open_zarr(self.folder).oindex[rows])
        return found if dtype is None else found.astype(dtype, copy=False)

    def _require(self, chunks: range | NDArray[np.int64]) -> None:
        if self.pulled is None or self.pulled.issuperset(map(int, chunks)):
            return
        plan = self.complete.plan
        there = ", ".join(f"{plan.span(first)[0]}:{plan.span(last)[1]}" for first, last in _runs(sorted(self.pulled)))
        raise FeaturesNotCached(
            f"{self.folder}: of these rows only some were pulled; here are rows {there or 'none'} of {plan.n}. "
            "Ask for --rows that are here, or run: featcache pull"
        )

    def _fill(self, chunk: int, out: np.ndarray, skip: int, verify: bool) -> None:
        """Fills out [rows, d] from row `skip` of a chunk on, by one read of what is needed."""
        record, stored = self.complete.records[chunk], np.dtype(self.complete.dtype)
        whole = len(out) == self.complete.plan.chunk_rows
        if whole and out.dtype == stored:
            target = out
        elif verify:
            target = np.empty((self.complete.plan.chunk_rows, self.complete.d), stored)
        else:
            target = np.empty((len(out), self.complete.d), stored)
        if verify:
            crc = bytearray(CRC_BYTES)
            self._read(record, flat(target), memoryview(crc))
            # the stored checksum must be the recorded one too: a chunk swapped with another passes its own
            if crc.hex() != record.crc32c or crc_of(flat(target)) != crc:
                raise Damaged(f"{self._where(record)} has flipped bits (CRC-32C). Run: featcache verify")
            rows = target[skip : skip + len(out)]
        else:
            self._read(record, flat(target), offset=skip * self.complete.d * stored.itemsize)
            rows = target
        if target is not out:
            out[:] = rows

    def _read(self, record: Record, *views: memoryview, offset: int = 0) -> None:
        try:
            size = self.folder.read_into(chunk_name(record.chunk), *views, offset=offset)
        except FileNotFoundError as error:
            raise Damaged(f"{self._where(record)} is missing. Run: featcache verify") from error
        if size != record.bytes:
            raise Damaged(f"{self._where(record)} has {size} bytes, recorded {record.bytes}. Run: featcache verify")

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
        """
        plan, wanted = self.complete.plan, np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < plan.n:
            raise UsageError(f"rows {wanted.min()} to {wanted.max()} of an array of {plan.n}")
        if self._foreign:
            return self._through_zarr(wanted, dtype)
        out = np.empty((len(wanted), self.complete.d), np.dtype(dtype or self.complete.dtype))
        order = np.argsort(wanted, kind="stable")
        chunks, starts = np.unique(wanted[order] // plan.chunk_rows, return_index=True)
        self._require(chunks)
        places = np.split(order, starts[1:])

        def fill(number: int) -> None:
            chunk = int(chunks[number])
            out[places[number]] = self._chunk(chunk, verify)[wanted[places[number]] - chunk * plan.chunk_rows]

        self.folder.map(fill, range(len(chunks)))
        return out

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
        """
        starts = np.arange(0, len(self), rows)
        if seed is not None:
            np.random.default_rng(seed).shuffle(starts)
        for start in starts.tolist():
            yield start, self.block(start, min(start + rows, len(self)), verify=verify, dtype=dtype)

    def block(self, start: int, stop: int, *, verify: bool = True, dtype: str | None = None) -> np.ndarray:
        """As `read`, through the maps: the way for many small ranges, since a chunk is checked only once."""
        if self._foreign or not isinstance(self.folder, LocalFolder):
            return self.read(start, stop, verify=verify, dtype=dtype)
        plan = self.complete.plan
        if not 0 <= start <= stop <= plan.n:
            raise UsageError(f"rows {start} to {stop} of an array of {plan.n}")
        out = np.empty((stop - start, self.complete.d), np.dtype(dtype or self.complete.dtype))
        chunks = range(start // plan.chunk_rows, -(-stop // plan.chunk_rows)) if stop > start else range(0)
        self._require(chunks)
        for chunk in chunks:
            first, behind = plan.span(chunk)
            low, high = max(start, first), min(stop, behind)
            out[low - start : high - start] = self._chunk(chunk, verify)[low - first : high - first]
        return out

    def _chunk(self, chunk: int, verify: bool) -> np.ndarray:
        """A chunk's rows [chunk_rows, d]: a map on a disk, a copy elsewhere."""
        complete = self.complete
        if not isinstance(self.folder, LocalFolder):
            block = np.empty((complete.plan.chunk_rows, complete.d), np.dtype(complete.dtype))
            self._fill(chunk, block, 0, verify)
            return block
        found = self._maps.get(chunk)
        if found is None:
            found = self._map(self.folder, complete.records[chunk], verify)
            self._maps[chunk] = found
            if len(self._maps) > _MAPS:
                self._maps.popitem(last=False)
        else:
            self._maps.move_to_end(chunk)
        return found[1]

    def _map(self, folder: LocalFolder, record: Record, verify: bool) -> tuple[mmap.mmap, np.ndarray]:
        complete = self.complete
        try:
            with (folder.path / chunk_name(record.chunk)).open("rb") as file:
                size = file.seek(0, 2)
                if size != record.bytes:
                    raise Damaged(
                        f"{self._where(record)} has {size} bytes, recorded {record.bytes}. Run: featcache verify"
                    )
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise Damaged(f"{self._where(record)} is missing. Run: featcache verify") from error
        if verify and not self._is_trusted(record.chunk):
            body = memoryview(mapped)[:-CRC_BYTES]
            crc = mapped[-CRC_BYTES:]
            if crc.hex() != record.crc32c or crc_of(body) != crc:
                raise Damaged(f"{self._where(record)} has flipped bits (CRC-32C). Run: featcache verify")
            cast("set[int]", self._trusted).add(record.chunk)
        rows = np.frombuffer(mapped, complete.dtype, complete.plan.chunk_rows * complete.d)
        return mapped, rows.reshape(-1, complete.d)

    def _is_trusted(self, chunk: int) -> bool:
        """Whether this chunk was checked by this reader, or the whole array by an earlier one."""
        if self._trusted is None:
            known = self._verified is not None and self._verified.knows(self.folder, self.complete)
            self._trusted = set(range(self.complete.plan.chunks)) if known else set()
        return chunk in self._trusted


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

