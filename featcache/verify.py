"""Is every byte of the cache what was recorded? Checks that name array and chunk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from featcache.cache import Cache
from featcache.errors import FeatcacheError
from featcache.key import ArrayKey
from featcache.plan import Plan
from featcache.records import CRC_BYTES, Record, chunk_name, crc_of, read_json, zarr_metadata
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
    """Checks every array of a cache: keys, records, root, row tables, and CRC-32C and blake3 of every chunk.

    Incomplete arrays are checked as far as they are committed.

    Args:
        cache: The cache.
        dataset: Data set name; may hold globs.
        on_array: Called with each array's path before it is checked.
    """
    for array in cache.arrays(dataset):
        where = str(array.path.relative_to(cache.root))
        if on_array:
            on_array(where)
        for what in _array_problems(cache, array):
            yield Problem(where, what.replace(f"{array.path}/", "").removesuffix(" Run: featcache verify"))


def _array_problems(cache: Cache, array: FeatureArray) -> Iterator[str]:
    try:
        if not (array.path / "key.json").exists():
            yield "key.json is missing"
            return
        key, plan = array.key(), array.plan()
        if plan is None:
            yield "plan.json is missing"
            return
        folder = cache.root / key.dataset
        read_rows(folder / key.view, key.binds["rows"])
        read_overlay(folder, key.view, key.binds["rows"]["root"])
        if read_json(array.path / "zarr.json") != zarr_metadata(key, plan, key.binds["d"], key.binds["dtype"]):
            yield "zarr.json was changed"
        yield from _record_problems(array, key, plan)
        yield from (f"foreign file {name}" for name in stray_files(array.path, plan))
    except (FeatcacheError, OSError) as error:
        yield str(error)


def _record_problems(array: FeatureArray, key: ArrayKey, plan: Plan) -> Iterator[str]:
    records: dict[int, Record] = {}
    if array.is_complete:
        complete = array.complete()
        records = {record.chunk: record for record in complete.records}
        if (complete.plan, complete.d, complete.dtype) != (plan, key.binds["d"], key.binds["dtype"]):
            yield "COMPLETE.json, plan.json and key.json contradict each other"
    for chunk in sorted(array.committed() | records.keys()):
        beside = array.record(chunk)
        recorded = records.get(chunk, beside)
        if beside != recorded:
            yield f"commits/{chunk}.json is missing or is not the record in COMPLETE.json"
        if recorded is not None:
            yield from _chunk_problems(array, recorded.chunk, recorded.bytes, recorded.blake3)


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
