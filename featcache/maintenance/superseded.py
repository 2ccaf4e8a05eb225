"""Superseded arrays: features of older rows that complete ones of the current rows replace, and what came of them."""

from collections.abc import Iterator, Mapping

from featcache.cache import Cache
from featcache.errors import FeatcacheError
from featcache.maintenance.gc import Leftover, size_of
from featcache.not_found import created
from featcache.resolution import apart_from_rows, is_current
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey


def superseded_arrays(cache: Cache) -> list[Leftover]:
    """Arrays of older rows of whose encoder, layer and type a complete array of the current rows is there, by view.

    Also what was computed from them: graphs, embeddings. The only array of an encoder never is, nor is any in a view
    without a record of its current rows. While a writer is alive it may take rows from any of them.

    Raises:
        UsageError: If the cache is not on this disk.
        Damaged: If a record of current rows cannot be read.
    """
    root, alive = cache.root, cache.writers()
    holder = f"{alive[0].what}, process {alive[0].process} on {alive[0].host}" if alive else None
    views: dict[tuple[str, str], list[FeatureArray]] = {}
    for array in cache.arrays():
        views.setdefault((array.name.dataset, array.name.view), []).append(array)
    return [
        Leftover(root / str(array.name), size_of(array.path), why, holder)
        for arrays in views.values()
        for array, why in _superseded_in(cache, arrays)
    ]


def drop(cache: Cache, leftover: Leftover) -> None:
    """Deletes a superseded array, and its row table if no other is bound to it."""
    cache.remove(cache.array(leftover.path.relative_to(cache.root).as_posix()))


def _superseded_in(cache: Cache, arrays: list[FeatureArray]) -> Iterator[tuple[FeatureArray, str]]:
    """The superseded arrays of one view, each with the reason."""
    record = cache.current_rows(*arrays[0].name[:2])
    if record is None:
        return
    keys = {array.digest: key for array in arrays if (key := _key(array)) is not None}
    identity = {digest: f"{key.encoder}/{key.layer}/{apart_from_rows(key, keys.get)}" for digest, key in keys.items()}
    current = {digest for digest, key in keys.items() if is_current(cache.folder, key, record)}
    whole = [array.digest for array in arrays if array.digest in current and array.is_complete]
    successors = {identity[digest]: digest for digest in whole}
    reasons: dict[str, str] = {}
    for digest in keys.keys() - current:
        key, successor = keys[digest], successors.get(identity[digest])
        if successor is not None:
            about = f"{key.binds['rows']['n']:,} older rows, {created(key)}"
            reasons[digest] = f"{about}; the current {record.n:,} rows are @{successor[:12]}"
    _add_derived(keys, reasons)
    yield from ((array, reasons[array.digest]) for array in arrays if array.digest in reasons)


def _key(array: FeatureArray) -> ArrayKey | None:
    try:
        return array.key()
    except FeatcacheError:  # what is damaged is for `featcache verify` to say
        return None


def _add_derived(keys: Mapping[str, ArrayKey], reasons: dict[str, str]) -> None:
    """Adds what was computed from what has a reason, and what was computed from that."""
    added = True
    while added:
        added = False
        for digest, key in keys.items():
            source = (key.binds["encoder"].get("from") or {}).get("digest")
            if digest not in reasons and source in reasons:
                reasons[digest] = f"computed from {key.provenance.get('from', '')}@{str(source)[:12]}, superseded"
                added = True
