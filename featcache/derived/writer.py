"""Writer of derived arrays: values computed from cached features, bound to the features' digest and root."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.selectors import check_name
from featcache.storage.base import overlapped
from featcache.store.array import FeatureArray
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.layout import Layout, chunk_rows
from featcache.store.leases import lease
from featcache.store.records import FLOATS, IDS, empty_rows

_WRITERS = 16


def store_derived(
    cache: Cache,
    source: Features,
    values: np.ndarray,
    *,
    name: str,
    layer: str,
    made_by: Mapping[str, Any],
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> FeatureArray:
    """Caches values that were computed from features, row for row.

    Args:
        cache: The cache that holds the source.
        source: The features that the values were computed from.
        values: [n, d] float32 or float16, or int32 row numbers of the source (neighbours); row i from its row i.
        name: Takes the encoder's place in the array's path.
        layer: Layer and pooling in the path, such as "adapted.x".
        made_by: What computed them (a hash of the adapter); bound in the digest.
        facts: What else is worth knowing of it; provenance, bound in nothing.

    Returns:
        The complete array; if it was there already, that one.

    Raises:
        UsageError: If values do not have the source's rows or are not finite.
    """
    if len(values) != len(source) or values.ndim != 2 or not np.isfinite(values).all():
        raise UsageError(f"wanted finite values [{len(source)}, d] for {source.name}, got {values.shape}")
    if values.dtype.name not in (*FLOATS, IDS):
        raise UsageError(f"wanted float16, float32 or int32 values for {source.name}, got {values.dtype}")
    with lease(cache.folder, f"write {name}/{layer}"):  # before the row table is looked at: from here on it stays
        origin = cache.find(source.dataset, f"{source.view}/{source.name}@{source.digest}")
        rows = origin.key().binds["rows"]
        binds = {
            "format": FORMAT,
            "rows": rows,
            "encoder": {"made_by": dict(made_by), "from": {"digest": source.digest, "root": source.root}},
            "layer": layer,
            "dtype": str(values.dtype),
            "d": values.shape[1],
        }
        provenance = {
            "default_layer": layer,
            "from": f"{source.view}/{source.name}",
            **facts,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        key = ArrayKey(
            dataset=source.dataset,
            view=source.view,
            encoder=check_name(name, "a run"),
            layer=layer,
            binds=binds,
            provenance=provenance,
        )
        table = cache.rows(origin.key())
        failed = set(origin.complete().failed)
        if source.ids.tolist() != [row_id for row_id in table.ids if row_id not in failed]:
            raise UsageError(f"{source.name} must come with every row of its array, in order, to be cached")
        full = _with_failed_rows(values, table.ids, failed)
        return write_array(cache, key, lambda start, stop: full[start:stop], ids=table.ids)


def write_array(
    cache: Cache, key: ArrayKey, block: Callable[[int, int], np.ndarray], *, ids: Sequence[str] | None = None
) -> FeatureArray:
    """Writes what is missing of one array, chunk by chunk.

    Args:
        cache: The cache.
        key: What the array is asked to be; its row table must be there.
        block: (first row, first row behind the last) -> [rows, d] in the key's dtype.
        ids: Ids of all rows, where some may have failed and are NaN.

    Returns:
        The complete array; if it was there already, that one.
    """
    array = cache.array(key.path)
    if array.is_complete:
        return array
    n, row = int(key.binds["rows"]["n"]), int(key.binds["d"]) * np.dtype(key.binds["dtype"]).itemsize
    with lease(cache.folder, f"write {key.encoder}/{key.layer}"):
        layout = array.create(key, Layout(n, chunk_rows(n, row), batch_size=n, order="row", threads=1))
        array.adopt_orphans(layout, ids)
        _commit_all(array, layout, sorted(set(range(layout.chunks)) - array.committed()), block, ids)
        array.finish(layout)
    return array


def _commit_all(
    array: FeatureArray,
    layout: Layout,
    chunks: Sequence[int],
    block: Callable[[int, int], np.ndarray],
    ids: Sequence[str] | None,
) -> None:
    """Commits chunks, some at a time: each waits four times for the disk, and the disk does not mind company."""
    writer = uuid.uuid4().hex

    def commit(item: tuple[int, np.ndarray]) -> None:
        chunk, rows = item
        array.commit(layout, chunk, rows, writer=writer, ids=ids[slice(*layout.span(chunk))] if ids else None)

    blocks = ((chunk, block(*layout.span(chunk))) for chunk in chunks)
    for _ in overlapped(commit, blocks, threads=_WRITERS, ahead=_WRITERS):
        pass


def _with_failed_rows(values: np.ndarray, ids: list[str], failed: set[str]) -> np.ndarray:
    """The values, with rows that hold nothing for those that the source had lost at extraction."""
    if not failed:
        return values
    full = empty_rows(len(ids), values.shape[1], values.dtype)
    full[[row for row, row_id in enumerate(ids) if row_id not in failed]] = values
    return full
