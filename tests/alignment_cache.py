"""A cache of two encoders with several layers each and a reference, for tests of alignment."""

import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featcache.cache import Cache
from featcache.data.views import Dataset
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.layout import Layout
from featcache.store.rows import write_rows
from tests.spine import tiny_dataset

PHOTOS, CAPTIONS = 60, 3


def layered_cache(root: Path, *, photos: int = PHOTOS, captions: int = CAPTIONS) -> Cache:
    """Images and captions that share a latent, the more the later the layer; `other` is a second view's stranger."""
    cache, dataset = Cache(root / "cache"), tiny_dataset(photos, captions)
    rng = np.random.default_rng(5)
    latent = rng.standard_normal((photos, 6))
    for encoder, view, d, noises in (
        ("vit", "images", 10, {"0.cls": 4.0, "2.cls": 2.0, "10.cls": 1.0, "last.cls": 0.4}),
        ("lm", "captions", 8, {"0.mean": 4.0, "1.mean": 0.3, "last.mean": 1.0}),
        ("big", "images", 12, {"last.cls": 0.1}),
        ("noise", "captions", 8, {"0.mean": 1e6, "last.mean": 1e6}),
    ):
        rows = latent if view == "images" else np.repeat(latent, captions, axis=0)
        turn = rng.standard_normal((6, d))
        values = {layer: rows @ turn + noise * rng.standard_normal((len(rows), d)) for layer, noise in noises.items()}
        scale = {layer: 1 / max(1.0, np.abs(array).max() / 100) for layer, array in values.items()}
        store_layers(cache, dataset, view, encoder, {layer: array * scale[layer] for layer, array in values.items()})
    bits = rng.random((photos * captions, 1))
    store_layers(cache, dataset, "captions", "lm", {"lm.bits-per-byte": bits}, default="last.mean")
    return cache


def store_layers(
    cache: Cache,
    dataset: Dataset,
    view_name: str,
    encoder: str,
    layers: Mapping[str, np.ndarray],
    *,
    default: str | None = None,
) -> None:
    """Writes the layers of one encoder, the last of them the default."""
    view = dataset.views[view_name]
    write_rows(cache.folder / dataset.name / view.name, view, dataset.overlay)
    rows = {"modality": view.modality, "decoding": dict(view.decoding), "root": view.root, "n": len(view)}
    for layer, values in layers.items():
        binds = {"format": FORMAT, "rows": rows, "encoder": {"test": encoder}, "layer": layer}
        binds |= {"dtype": "float32", "d": values.shape[1]}
        key = ArrayKey(dataset.name, view.name, encoder, layer, binds, {"default_layer": default or list(layers)[-1]})
        array = cache.array(key.path)
        plan = array.create(key, Layout(len(view), len(view), 32, "row", 1))
        array.commit(plan, 0, values.astype(np.float32), writer=uuid.uuid4().hex)
        array.finish(plan)
