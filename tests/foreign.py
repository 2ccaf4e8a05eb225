"""Files of other tools, and a cache that has some of the same rows, for tests of imports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import Cache
from featcache.data.views import Overlay, View
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from featcache.store.array import FeatureArray
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.layout import Layout
from featcache.store.rows import write_rows

N, D = 30, 6
IDS = tuple(f"photo {row}.jpg" for row in range(N))


def values(n: int = N, d: int = D, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def write_ids(folder: Path, ids: Sequence[str] = IDS, name: str = "ids.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{row_id}\n" for row_id in ids), encoding="utf-8")
    return path


def npy(folder: Path, array: np.ndarray | None = None, name: str = "rows.npy") -> Path:
    np.save(folder / name, values() if array is None else array)
    return folder / name


def take_npy(folder: Path, array: np.ndarray | None = None, **options: Any) -> list[FeatureArray]:
    """Imports one .npy with ids as images of "photos"."""
    ids = options.pop("ids") if "ids" in options else write_ids(folder)
    return import_features(
        Cache(folder / "cache"),
        npy(folder, array),
        dataset="photos",
        encoder="theirs",
        layer="last.cls",
        options=ImportOptions(**({"ids": ids, "modality": "image"} | options)),
    )


def cache_rows(
    folder: Path,
    ids: Sequence[str],
    *,
    view: str = "images",
    groups: Sequence[str] | None = None,
    content: str = "",
    modality: Any = "image",
) -> Cache:
    """A cache in which an encoder's features of these rows lie, with a split and a label a group."""
    cache = Cache(folder / "cache")
    groups = tuple(groups or ids)
    rows = View(view, modality, tuple(ids), groups, lambda row: (ids[row] + content).encode(), bytes)
    unique = tuple(dict.fromkeys(groups))
    splits = tuple(("train", "test")[number % 2] for number in range(len(unique)))
    write_rows(cache.folder / "photos" / view, rows, Overlay(unique, splits, {"kind": unique}))
    bound = {"modality": modality, "decoding": {}, "root": rows.root, "n": len(ids)}
    binds = {"format": FORMAT, "rows": bound, "encoder": {"test": content}, "layer": "last.mean"}
    key = ArrayKey("photos", view, "ours", "last.mean", binds | {"dtype": "float16", "d": 2}, {})
    array = cache.array(key.path)
    layout = array.create(key, Layout(len(ids), len(ids), 4, "row", 1))
    array.commit(layout, 0, np.ones((len(ids), 2), np.float16), writer="w")
    array.finish(layout)
    return cache


def holds_nothing(folder: Path) -> bool:
    return not (folder / "cache").exists()
