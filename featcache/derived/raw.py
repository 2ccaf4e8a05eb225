"""Features computed from a view's rows without an encoder's weights, kept in the cache like imported ones."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Float

from featcache.cache import Cache
from featcache.data.views import Dataset
from featcache.derived.writer import write_array
from featcache.errors import UsageError
from featcache.selectors import check_name
from featcache.store.array import FeatureArray
from featcache.store.current import set_current
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.leases import lease
from featcache.store.rows import restore_rows, write_rows

LAYER = "0.flat"  # nothing stands between the rows and these features


def store_raw(
    cache: Cache,
    dataset: Dataset,
    view: str,
    values: Float[np.ndarray, "n d"],
    *,
    name: str,
    settings: Mapping[str, Any],
) -> FeatureArray:
    """Caches features of every row of a view, which are then its current rows, with the data set's splits and labels.

    Args:
        cache: The cache; it need not exist yet.
        dataset: The data set that the view is of.
        view: Name of the view.
        values: In the order of the view's rows; stored as float32.
        name: Takes the encoder's place in the array's path.
        settings: What computed them; bound in the digest.

    Returns:
        The complete array; if it was there already, that one, and these values are not looked at.

    Raises:
        UsageError: If values do not have the view's rows or are not finite.
    """
    rows = dataset.views[view]
    if values.ndim != 2 or len(values) != len(rows) or not np.isfinite(values).all():
        raise UsageError(f"wanted finite values [{len(rows)}, d] for {dataset.name}/{view}, got {list(values.shape)}")
    stored = np.ascontiguousarray(values, np.float32)
    decoding = dict(rows.decoding)
    key = ArrayKey(
        dataset=dataset.name,
        view=view,
        encoder=check_name(name, "features"),
        layer=LAYER,
        binds={
            "format": FORMAT,
            "rows": {"modality": rows.modality, "decoding": decoding, "root": rows.root, "n": len(rows)},
            # like features of another tool, no `featcache extract` makes them
            "encoder": {"imported": {"kind": "raw", **settings}},
            "layer": LAYER,
            "dtype": "float32",
            "d": values.shape[1],
        },
        provenance={
            "default_layer": LAYER,
            "kind": "raw",
            "dataset": {"source": dataset.source, "licence": dataset.licence, "notes": list(dataset.notes)},
            "library": {"numpy": np.__version__},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    folder = cache.folder / dataset.name / view
    with lease(cache.folder, f"write {name}/{LAYER}"):
        write_rows(folder, rows, dataset.overlay)
        array = write_array(cache, key, lambda start, stop: stored[start:stop])
        restore_rows(folder, rows, dataset.overlay)
        set_current(folder, rows.root, len(rows))
    return array
