"""A small cache with planted structure: images, captions and a reference that share a latent."""

import uuid
from pathlib import Path

import numpy as np

from featcache.cache import Cache
from featcache.data.views import Dataset, Overlay, View
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.layout import Layout, chunk_rows
from featcache.store.rows import write_rows


def tiny_dataset(photos: int = 160, captions: int = 5, *, name: str = "openmoji") -> Dataset:
    """Photos with several captions each, in three splits and four labels; rows are placeholders, never decoded."""
    groups = [f"p{photo:03}" for photo in range(photos)]
    image_ids = tuple(f"{group}.png" for group in groups)
    caption_ids = tuple(f"{group}.png#{number}" for group in groups for number in range(captions))
    caption_groups = tuple(group for group in groups for _ in range(captions))
    views = {
        "images": View("images", "image", image_ids, tuple(groups), lambda row: image_ids[row].encode(), bytes),
        "captions": View(
            "captions", "text", caption_ids, caption_groups, lambda r: caption_ids[r].encode(), bytes.decode
        ),
    }
    split = ("train", "train", "train", "validation", "test")
    overlay = Overlay(
        tuple(groups),
        tuple(split[photo % 5] for photo in range(photos)),
        {"kind": tuple(f"kind {photo % 4}" for photo in range(photos))},
    )
    return Dataset(name, views, overlay, "public domain", "made by a test")


TINY_BASE = """
[base]
dataset = "openmoji"
sides = ["efficientnet-lite0", "minilm"]
reference = "efficientnet-lite2"
epochs = 2
batch = 32
k = 5
permutations = 39
halves = 20
untrained = 2
"""  # of an experiment over `tiny_cache`: seconds a training


def tiny_cache(root: Path, *, photos: int = 160, captions: int = 5) -> Cache:
    """A cache of openmoji's three default encoders whose features share an 8-dimensional latent."""
    cache, dataset = Cache(root / "cache"), tiny_dataset(photos, captions)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((photos, 8))
    planted = {
        "efficientnet-lite0": ("images", 24, 0.5),
        "minilm": ("captions", 16, 0.5),
        "efficientnet-lite2": ("images", 32, 0.2),
    }
    for encoder, (view_name, d, noise) in planted.items():
        view = dataset.views[view_name]
        write_rows(cache.folder / dataset.name / view.name, view, dataset.overlay)
        rows = latent if view_name == "images" else np.repeat(latent, captions, axis=0)
        values = rows @ rng.standard_normal((8, d)) + noise * rng.standard_normal((len(rows), d))
        store(cache, dataset, view, encoder, values.astype(np.float16))
    return cache


def store(cache: Cache, dataset: Dataset, view: View, encoder: str, values: np.ndarray) -> None:
    """Writes one complete array."""
    rows = {"modality": view.modality, "decoding": dict(view.decoding), "root": view.root, "n": len(view)}
    binds = {"format": FORMAT, "rows": rows, "encoder": {"test": encoder}, "layer": "last.mean"}
    binds |= {"dtype": str(values.dtype), "d": values.shape[1]}
    key = ArrayKey(dataset.name, view.name, encoder, "last.mean", binds, {"default_layer": "last.mean"})
    array = cache.array(key.path)
    plan = array.create(key, Layout(len(view), chunk_rows(len(view), values.shape[1] * 2), 32, "row", 1))
    for chunk in range(plan.chunks):
        start, stop = plan.span(chunk)
        array.commit(plan, chunk, values[start:stop], writer=uuid.uuid4().hex)
    array.finish(plan)
