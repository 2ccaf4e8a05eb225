"""Verification: every byte of the cache against what was recorded; problems name array and chunk."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from blake3 import blake3

from featcache.cache import Cache
from featcache.errors import Damaged, FeatcacheError
from featcache.storage.base import is_leftover
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey
from featcache.store.failed import chunk_values, failed_problem, failed_rows
from featcache.store.layout import Layout
from featcache.store.records import (
    ARRIVING,
    CRC_BYTES,
    PARTIAL,
    REUSED,
    Complete,
    Record,
    chunk_bytes,
    chunk_name,
    crc_of,
    record_name,
    zarr_metadata,
)
from featcache.store.reused import read_reused
from featcache.store.rows import checked_tables, row_ids
from featcache.store.schema import read_json

_ADVICE = re.compile(r"\.? Run: featcache verify$|\.? Run the same featcache extract again$")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as recorded."""

    where: str  # path of the array, or of the view, below the cache's folder
    what: str  # what is wrong
    chunk: int | None = None  # the chunk that it is wrong with, if it is one


def verify(
    cache: Cache, selector: str = "*", *, deep: bool = False, on_array: Callable[[str], None] | None = None
) -> Iterator[Problem]:
    """Checks arrays: keys, records, root, row tables and which are current, and size and CRC-32C of every chunk.

    Incomplete arrays are checked as far as they are committed.

    Args:
        cache: The cache.
        selector: `dataset[/view[/encoder[/layer]]]`, parts may hold globs.
        deep: Also compute blake3 of every chunk, which no accident and no hand leaves as it was.
        on_array: Called with each array's path before it is checked.
    """
    arrays = cache.matching(selector)
    for view in sorted({array.name[:2] for array in arrays}):
        yield from record_problems(cache, *view)
    for array in arrays:
        where = str(array.name)
        if on_array:
            on_array(where)
        problems = list(array_problems(cache, array, deep=deep))
        for what, chunk in problems if array.folder.there() else ():  # else it was renamed or removed meanwhile
            yield Problem(where, _ADVICE.sub("", what.replace(f"{array.folder}/", "")), chunk)


def record_problems(cache: Cache, dataset: str, view: str) -> Iterator[Problem]:
    """What is wrong with the record of which rows of a view are current."""
    try:
        cache.current_rows(dataset, view)
    except FeatcacheError as error:
        yield Problem(f"{dataset}/{view}", _ADVICE.sub("", str(error).replace(f"{cache.folder / dataset / view}/", "")))


def array_problems(cache: Cache, array: FeatureArray, *, deep: bool) -> Iterator[tuple[str, int | None]]:
    """What is wrong with one array, and with which of its chunks; as `verify`.

    Of an array in which no chunk is recorded yet, nothing need be there: its writer may be at work.
    """
    begun = array.is_begun
    try:
        yield from _problems(cache, array, deep=deep, begun=begun)
    except FileNotFoundError as error:
        yield f"{error.filename or error} is missing", None
    except (FeatcacheError, OSError) as error:
        yield str(error), None


def _problems(cache: Cache, array: FeatureArray, *, deep: bool, begun: bool) -> Iterator[tuple[str, int | None]]:
    if begun and not (array.folder.exists("key.json") and array.folder.exists("plan.json")):
        return
    key, layout = array.key(), array.layout()
    if layout is None:
        yield "plan.json is missing", None
        return
    checked_tables(cache.folder / key.dataset, key.view, key.binds["rows"])
    if not begun or array.folder.exists("zarr.json"):
        if read_json(array.folder, "zarr.json") != zarr_metadata(key, layout, key.binds["d"], key.binds["dtype"]):
            yield "zarr.json was changed", None
    read_reused(array.folder)
    complete = array.metadata().complete
    yield from _commit_problems(array, layout, complete, chunk_check(cache, array, key, layout, deep=deep))
    yield from ((f"foreign file {name}", None) for name in _stray_files(array, layout))


def _commit_problems(
    array: FeatureArray, layout: Layout, complete: Complete | None, check: "ChunkCheck"
) -> Iterator[tuple[str, int | None]]:
    records = {record.chunk: record for record in complete.records} if complete else {}
    for chunk in sorted(array.committed() | records.keys()):
        own: Record | None = None
        try:
            own = array.record(chunk, layout)
        except FeatcacheError as error:
            yield str(error), None
        recorded = records.get(chunk, own)
        if recorded is None:
            continue
        if own != recorded:
            yield f"commits/{chunk}.json is missing or is not the record in COMPLETE.json", None
        what = check.problem(recorded)
        if what:
            yield what, recorded.chunk


def chunk_check(cache: Cache, array: FeatureArray, key: ArrayKey, layout: Layout, *, deep: bool) -> "ChunkCheck":
    """The check of the chunks of an array of a cache."""
    ids = row_ids(cache.folder)
    return ChunkCheck(array, key, layout, lambda: ids(key), deep)


@dataclass(frozen=True)
class ChunkCheck:
    """What the chunks of one array are checked against.

    Args:
        array: The array.
        key: Its key.
        layout: Its layout.
        ids: Gives the ids of all its rows.
        deep: Also compute blake3.
    """

    array: FeatureArray
    key: ArrayKey
    layout: Layout
    ids: Callable[[], Sequence[str]]
    deep: bool

    def problem(self, record: Record) -> str | None:
        """What is wrong with the file of a chunk, or with what its record says of failed rows; None if nothing is."""
        return self._problem(record, failed=True)

    def bytes_problem(self, record: Record) -> str | None:
        """As `problem`, whatever is listed as failed."""
        return self._problem(record, failed=False)

    def with_failed_rows(self, record: Record) -> Record:
        """The record of a whole chunk, its failed rows as the bytes have them; as it is if those are NaN in part."""
        data = self.array.folder.read(chunk_name(record.chunk), most=record.bytes)
        failed = failed_rows(chunk_values(data, self.key)[: record.rows], self.ids_of(record.chunk))
        return record if failed is None else replace(record, failed=failed)

    def _problem(self, record: Record, *, failed: bool) -> str | None:
        chunk = record.chunk
        size = chunk_bytes(self.layout, self.key.binds["d"], self.key.binds["dtype"])
        if chunk >= self.layout.chunks or record.bytes != size:
            return f"chunk {chunk}: its record is not of this array"
        data = bytearray(size)
        try:
            there = self.array.folder.read_into(chunk_name(chunk), memoryview(data))
        except FileNotFoundError:
            return f"chunk {chunk} is missing"
        except Damaged:
            return f"chunk {chunk} is a folder, a pipe or a device"
        except OSError as error:  # a bad sector
            return f"chunk {chunk} cannot be read: {error.strerror}"
        if there != size:
            return f"chunk {chunk} has {there} bytes, recorded {size}"
        what = self._checksum_problem(record, memoryview(data))
        if what is None and failed:
            what = self._failed_problem(record, memoryview(data))
        return what and f"chunk {chunk} {what}"

    def _checksum_problem(self, record: Record, data: memoryview) -> str | None:
        if crc_of(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
            return "has flipped bits (CRC-32C)"
        if data[-CRC_BYTES:].hex() != record.crc32c:
            return "was replaced: its CRC-32C holds and is not the recorded one"
        if self.deep and blake3(data).hexdigest() != record.blake3:
            return "was replaced: blake3 is not the recorded one"
        return None

    def _failed_problem(self, record: Record, data: memoryview) -> str | None:
        try:
            what = failed_problem(chunk_values(data, self.key), record, lambda: self.ids_of(record.chunk))
        except FeatcacheError as error:
            what = str(error)
        return what and f"and its record contradict each other: {what}"

    def ids_of(self, chunk: int) -> Sequence[str]:
        """Ids of the rows of a chunk."""
        return self.ids()[slice(*self.layout.span(chunk))]


def _stray_files(array: FeatureArray, layout: Layout) -> list[str]:
    """Names in an array's folder that format 1 does not know; leftovers of killed writers are not strays."""
    known = {"zarr.json", "key.json", "plan.json", "COMPLETE.json", PARTIAL, ARRIVING, REUSED, "commits"}
    known |= {name(chunk) for chunk in range(layout.chunks) for name in (chunk_name, record_name)}
    names = array.folder.names() | set(array.folder.folders())
    names |= {f"commits/{name}" for name in (array.folder / "commits").names()}
    return sorted(name for name in names - known if not is_leftover(name.rpartition("/")[2]))
