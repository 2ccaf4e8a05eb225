"""Superseded arrays: features of older rows that complete ones of the current rows replace, and what came of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from featcache.cache import Cache
from featcache.errors import FeatcacheError
from featcache.maintenance.leftovers import Leftover, Leftovers, Writers, cleaned, leftover, listed
from featcache.not_found import created
from featcache.resolution import apart_from_rows, is_current
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey, ArrayName


def superseded_arrays(cache: Cache, *, break_leases: bool = False) -> Leftovers:
    """Arrays of older rows of whose encoder, layer and type a complete array of the current rows is there, by view.

    Also what was computed from them: graphs, embeddings. The only array of an encoder never is, nor is any in a view
    without a record of its current rows, or with one that cannot be read. While a writer is alive it may take rows from
    any of them. Arguments as for `listed`.

    Raises:
        UsageError: If the folder is no cache on this disk.
    """
    return listed(cache, _find, break_leases=break_leases)


def drop_superseded(cache: Cache, *, break_leases: bool = False) -> Leftovers:
    """Deletes what `superseded_arrays` finds and nobody holds, and row tables to which no other array is bound."""

    def drop(path: Path) -> None:
        cache.remove(cache.array(path.relative_to(cache.root).as_posix()))

    return cleaned(cache, _find, break_leases=break_leases, delete=drop)


def _find(cache: Cache, writers: Writers) -> Iterator[Leftover | None]:
    views: dict[tuple[str, str], list[FeatureArray]] = {}
    for array in cache.arrays():
        views.setdefault((array.name.dataset, array.name.view), []).append(array)
    for arrays in views.values():
        for array, why in _superseded_in(cache, arrays):
            yield leftover(cache.root / str(array.name), why, writers)


def _superseded_in(cache: Cache, arrays: list[FeatureArray]) -> Iterator[tuple[FeatureArray, str]]:
    """The superseded arrays of one view, each with the reason."""
    try:
        record = cache.current_rows(*arrays[0].name[:2])
    except FeatcacheError:  # what is damaged is for `featcache verify` to say
        return
    if record is None:
        return
    keys = {array.name: key for array in arrays if (key := _key(array)) is not None}
    by_digest = {name.digest: key for name, key in keys.items()}
    identity = {name: (*name[:4], apart_from_rows(key, by_digest.get)) for name, key in keys.items()}
    current = {name for name, key in keys.items() if is_current(cache.folder, key, record)}
    successors = {identity[array.name]: array.digest for array in arrays if array.name in current and array.is_complete}
    reasons: dict[ArrayName, str] = {}
    for name in keys.keys() - current:
        successor = successors.get(identity[name])
        if successor is not None:
            about = f"{keys[name].binds['rows']['n']:,} older rows, {created(keys[name])}"
            reasons[name] = f"{about}; the current {record.n:,} rows are @{successor[:12]}"
    _add_derived(keys, reasons)
    yield from ((array, reasons[array.name]) for array in arrays if array.name in reasons)


def _key(array: FeatureArray) -> ArrayKey | None:
    try:
        return array.key()
    except FeatcacheError:  # what is damaged is for `featcache verify` to say
        return None


def _add_derived(keys: Mapping[ArrayName, ArrayKey], reasons: dict[ArrayName, str]) -> None:
    """Adds what was computed from what has a reason, and from that; of equal digests under two names, both need one."""
    added = True
    while added:
        kept = {name.digest for name in keys if name not in reasons}
        gone = {name.digest for name in reasons} - kept
        derived = {
            name: f"computed from {key.provenance.get('from', '')}@{source[:12]}, superseded"
            for name, key in keys.items()
            if name not in reasons and (source := _source(key)) in gone
        }
        reasons |= derived
        added = bool(derived)


def _source(key: ArrayKey) -> str:
    """Digest of what an array was computed from; "" for features."""
    source = key.binds["encoder"].get("from")
    return str(source.get("digest")) if isinstance(source, Mapping) else ""
