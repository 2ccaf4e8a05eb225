"""Caches of a few kilobytes, for tests of what is believed of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import Cache
from featcache.store.array import FeatureArray
from featcache.store.digest import FORMAT, ArrayKey, canonical
from featcache.store.layout import Layout
from featcache.store.rows import write_rows
from tests.fakes import text_dataset

N, D, CHUNK_ROWS = 50, 4, 7
LAYOUT = Layout(N, CHUNK_ROWS, 4, "row", 1)  # 8 chunks, the last of one row
DATASET = text_dataset(N)
VIEW = DATASET.views["captions"]


def values(seed: int = 0, failed: Sequence[int] = ()) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((N, D)).astype(np.float16)
    rows[list(failed)] = np.nan
    return rows


def key(layer: str = "last.mean", encoder: str = "fake") -> ArrayKey:
    rows = {"modality": VIEW.modality, "decoding": {}, "root": VIEW.root, "n": N}
    binds = {"format": FORMAT, "rows": rows, "encoder": {"of": encoder}, "layer": layer, "dtype": "float16", "d": D}
    return ArrayKey(DATASET.name, VIEW.name, encoder, layer, binds, {"default_layer": "last.mean"})


def store(
    cache: Cache, layer: str = "last.mean", *, encoder: str = "fake", failed: Sequence[int] = (), seed: int = 0
) -> FeatureArray:
    """Writes one complete array; the rows in `failed` are NaN and listed."""
    write_rows(cache.folder / DATASET.name / VIEW.name, VIEW, DATASET.overlay)
    named = key(layer, encoder)
    array, rows = cache.array(named.path), values(seed, failed)
    layout = array.create(named, LAYOUT)
    for chunk in range(layout.chunks):
        span = slice(*layout.span(chunk))
        array.commit(layout, chunk, rows[span], writer="w", ids=VIEW.ids[span])
    array.finish(layout)
    return array


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Changes a JSON file: `change` alters the parsed value, or gives another."""
    value = json.loads(path.read_bytes())
    changed = change(value)
    path.write_bytes(canonical(value if changed is None else changed))


def list_as_failed(array: FeatureArray, ids: Sequence[str]) -> None:
    """Lists ids as failed, in COMPLETE.json and in the commit records alike: the root stays as it is."""

    def change(record: dict[str, Any]) -> None:
        start, stop = LAYOUT.span(record["chunk"])
        record["failed"] = [row_id for row_id in VIEW.ids[start:stop] if row_id in ids]

    for chunk in range(LAYOUT.chunks):
        edit(array.path / f"commits/{chunk}.json", change)
    edit(array.path / "COMPLETE.json", lambda value: [change(record) for record in value["records"]] and None)
