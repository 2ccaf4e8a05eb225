"""How do arrays that were computed from cached features come into the cache? Bound to the features' digest and root."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.key import FORMAT, ArrayKey
from featcache.names import check_name
from featcache.plan import Plan, chunk_rows
from featcache.store import FeatureArray


def store_derived(
    cache: Cache, source: Features, values: np.ndarray, *, name: str, layer: str, made_by: Mapping[str, Any]
) -> FeatureArray:
    """Caches values that were computed from features, row for row.

    Args:
        cache: The cache that holds the source.
        source: The features that the values were computed from.
        values: [n, d] float32 or float16, row i from row i of the source.
        name: Takes the encoder's place in the array's path.
        layer: Layer and pooling in the path, such as "adapted.x".
        made_by: What computed them (a hash of the adapter); bound in the digest.

    Returns:
        The complete array; if it was there already, that one.

    Raises:
        UsageError: If values do not have the source's rows or are not finite.
    """
    if len(values) != len(source) or values.ndim != 2 or not np.isfinite(values).all():
        raise UsageError(f"wanted finite values [{len(source)}, d] for {source.name}, got {values.shape}")
    if values.dtype not in (np.float16, np.float32):
        raise UsageError(f"wanted float16 or float32 values for {source.name}, got {values.dtype}")
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
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    key = ArrayKey(source.dataset, source.view, check_name(name, "a run"), layer, binds, provenance)
    array = cache.array(key.path)
    table = cache.rows(origin.key())
    failed = set(origin.complete().failed)
    if source.ids.tolist() != [row_id for row_id in table.ids if row_id not in failed]:
        raise UsageError(f"{source.name} must come with every row of its array, in order, to be cached")
    if array.is_complete:
        return array
    full = _with_failed_rows(values, table.ids, failed)
    n = len(table.ids)
    plan = array.create(key, Plan(n, chunk_rows(n, values.shape[1] * values.itemsize), n, "row", 1))
    for chunk in sorted(set(range(plan.chunks)) - array.committed()):
        start, stop = plan.span(chunk)
        missing = [row_id for row_id in table.ids[start:stop] if row_id in failed]
        array.commit(plan, chunk, full[start:stop], writer=uuid.uuid4().hex, failed=missing)
    array.finish(plan)
    return array


def _with_failed_rows(values: np.ndarray, ids: list[str], failed: set[str]) -> np.ndarray:
    """The values with NaN for the rows that the source had lost at extraction."""
    if not failed:
        return values
    full = np.full((len(ids), values.shape[1]), np.nan, values.dtype)
    full[[row for row, row_id in enumerate(ids) if row_id not in failed]] = values
    return full
