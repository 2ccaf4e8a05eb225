"""Is every byte of the cache what was recorded? Checks that name array and chunk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from featcache.cache import Cache
from featcache.errors import FeatcacheError
from featcache.records import CRC_BYTES, chunk_name, crc_of, read_json, zarr_metadata
from featcache.store import FeatureArray, stray_files
from featcache.tables import read_overlay, read_rows


@dataclass(frozen=True)
class Problem:
    """One thing that is not as recorded.

    Args:
        where: Path below the cache root.
        what: What is wrong.
    """

    where: str
    what: str


def verify(cache: Cache, dataset: str = "*", *, on_array: Callable[[str], None] | None = None) -> Iterator[Problem]:
    """Checks every array of a cache: keys, records, root, and CRC-32C and blake3 of every chunk.

    Incomplete arrays are checked as far as they are committed.

    Args:
        cache: The cache.
        dataset: Data set name; may hold globs.
        on_array: Called with each array's path before it is checked.
    """
    overlays: set[str] = set()
    for array in cache.arrays(dataset):
        where = str(array.path.relative_to(cache.root))
        if on_array:
            on_array(where)
        for what in _array_problems(cache, array):
            yield Problem(where, what)
        overlays.add(array.path.relative_to(cache.root).parts[0])
    for name in sorted(overlays):
        try:
            read_overlay(cache.root / name)
        except FeatcacheError as error:
            yield Problem(name, str(error))


def _array_problems(cache: Cache, array: FeatureArray) -> Iterator[str]:
    try:
        key, plan = array.key(), array.plan()
        if plan is None:
            yield "plan.json is missing"
            return
        read_rows(cache.root / key.dataset / key.view, key.binds["rows"])
        if read_json(array.path / "zarr.json") != zarr_metadata(key, plan, key.binds["d"], key.binds["dtype"]):
            yield "zarr.json was changed"
        records = {record.chunk: record for record in array.complete().records} if array.is_complete else {}
        for chunk in sorted(array.committed() | records.keys()):
            beside = array.record(chunk)
            recorded = records.get(chunk, beside)
            if beside != recorded:
                yield f"commits/{chunk}.json is missing or is not the record in COMPLETE.json"
            if recorded is not None:
                yield from _chunk_problems(array, recorded.chunk, recorded.bytes, recorded.blake3)
        yield from (f"foreign file {name}" for name in stray_files(array.path, plan))
    except (FeatcacheError, FileNotFoundError) as error:
        yield str(error)


def _chunk_problems(array: FeatureArray, chunk: int, size: int, digest: str) -> Iterator[str]:
    path = array.path / chunk_name(chunk)
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        yield f"chunk {chunk} is missing"
        return
    if len(found) != size:
        yield f"chunk {chunk} has {len(found)} bytes, recorded {size}"
    elif blake3(found).hexdigest() != digest:
        crc_holds = crc_of(found[:-CRC_BYTES]) == found[-CRC_BYTES:]
        kind = "its CRC-32C holds: replaced" if crc_holds else "flipped bits"
        yield f"chunk {chunk} has other bytes than recorded ({kind})"
