"""Verification: every byte of the cache against what was recorded; problems name array and chunk."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from featcache.cache import Cache
from featcache.errors import FeatcacheError
from featcache.store.array import FeatureArray, stray_files
from featcache.store.digest import ArrayKey
from featcache.store.layout import Layout
from featcache.store.records import CRC_BYTES, Record, chunk_name, crc_of, read_json, zarr_metadata
from featcache.store.reused import read_reused
from featcache.store.rows import checked_tables

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
        for what, chunk in array_problems(cache, array, deep=deep):
            yield Problem(where, _ADVICE.sub("", what.replace(f"{array.folder}/", "")), chunk)


def record_problems(cache: Cache, dataset: str, view: str) -> Iterator[Problem]:
    """What is wrong with the record of which rows of a view are current."""
    try:
        cache.current_rows(dataset, view)
    except FeatcacheError as error:
        yield Problem(f"{dataset}/{view}", _ADVICE.sub("", str(error).replace(f"{cache.folder / dataset / view}/", "")))


def array_problems(cache: Cache, array: FeatureArray, *, deep: bool) -> Iterator[tuple[str, int | None]]:
    """What is wrong with one array, and with which of its chunks; as `verify`."""
    try:
        key, layout = array.key(), array.layout()
        if layout is None:
            yield "plan.json is missing", None
            return
        checked_tables(cache.folder / key.dataset, key.view, key.binds["rows"])
        if read_json(array.folder, "zarr.json") != zarr_metadata(key, layout, key.binds["d"], key.binds["dtype"]):
            yield "zarr.json was changed", None
        read_reused(array.folder)
        yield from _commit_problems(array, key, layout, deep)
        yield from ((f"foreign file {name}", None) for name in stray_files(array, layout))
    except FileNotFoundError as error:
        yield f"{error.filename or error} is missing", None
    except (FeatcacheError, OSError) as error:
        yield str(error), None


def _commit_problems(
    array: FeatureArray, key: ArrayKey, layout: Layout, deep: bool
) -> Iterator[tuple[str, int | None]]:
    records: dict[int, Record] = {}
    if array.is_complete:
        complete = array.complete()
        records = {record.chunk: record for record in complete.records}
        if (complete.layout, complete.d, complete.dtype) != (layout, key.binds["d"], key.binds["dtype"]):
            yield "COMPLETE.json, plan.json and key.json contradict each other", None
    for chunk in sorted(array.committed() | records.keys()):
        own: Record | None = None
        try:
            own = array.record(chunk)
        except FeatcacheError as error:
            yield str(error), None
        recorded = records.get(chunk, own)
        if recorded is None:
            continue
        if own != recorded:
            yield f"commits/{chunk}.json is missing or is not the record in COMPLETE.json", None
        what = chunk_problem(array, recorded, deep=deep)
        if what:
            yield what, recorded.chunk


def chunk_problem(array: FeatureArray, record: Record, *, deep: bool) -> str | None:
    """What is wrong with the file of a chunk; None if nothing is."""
    chunk = record.chunk
    try:
        data = array.folder.read(chunk_name(chunk))
    except FileNotFoundError:
        return f"chunk {chunk} is missing"
    except OSError as error:  # a bad sector, a folder in its place
        return f"chunk {chunk} cannot be read: {error.strerror}"
    if len(data) != record.bytes:
        return f"chunk {chunk} has {len(data)} bytes, recorded {record.bytes}"
    if crc_of(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
        return f"chunk {chunk} has flipped bits (CRC-32C)"
    if data[-CRC_BYTES:].hex() != record.crc32c:
        return f"chunk {chunk} was replaced: its CRC-32C holds and is not the recorded one"
    if deep and blake3(data).hexdigest() != record.blake3:
        return f"chunk {chunk} was replaced: blake3 is not the recorded one"
    return None
