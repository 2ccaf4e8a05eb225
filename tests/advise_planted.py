"""Two spaces in which who knows a label is planted, and a small cache of such."""

from pathlib import Path

import numpy as np

from featcache.cache import Cache
from featcache.data.views import Dataset, Overlay, View
from featcache.metrics.probes.calibrated import group_folds
from featcache.studies.advise.labelled import Labelled
from featcache.studies.advise.settings import AdviseSettings
from tests.alignment_cache import store_layers

QUICK = AdviseSettings(folds=3, seeds=2, draws=3, width=8, steps=160, permutations=39)


def labelled(first: np.ndarray, second: np.ndarray, y: np.ndarray, *, folds: int = QUICK.folds) -> Labelled:
    spaces = {"first": first.astype(np.float32), "second": second.astype(np.float32)}
    classes = tuple(map(str, range(int(y.max()) + 1)))
    return Labelled(spaces, y, group_folds(y, folds=folds), np.arange(len(y)), classes)


def buried(n: int, *, unique: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shared bit under noise that is private and twenty times as wide; perhaps a loud bit of each space alone.

    Pairs tell the shared bit from the noise, few labels do not. The label is the shared bit, with the loud one of the
    first space where there is one.
    """
    rng = np.random.default_rng(seed)
    bit, own, other = rng.integers(0, 2, (3, n))
    shared = np.c_[2 * bit - 1 + 0.2 * rng.standard_normal(n), rng.standard_normal((n, 2))]

    def side(loud: np.ndarray) -> np.ndarray:
        space = np.c_[shared + 0.1 * rng.standard_normal(shared.shape), 2 * rng.standard_normal((n, 20))]
        return np.c_[space, unique * (2 * loud - 1) + 0.2 * rng.standard_normal(n)] if unique else space

    return side(own), side(other), 2 * bit + own if unique else bit


def apart(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both spaces share three directions, and the label is a fourth one, of the first space alone."""
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, n, 4))
    second[:, 1:] = first[:, 1:]
    return first, second, (first[:, 0] > 0).astype(np.int64)


def xor(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bit in each space; the label says whether they differ."""
    rng = np.random.default_rng(seed)
    bits, noise = rng.integers(0, 2, (n, 2)), rng.standard_normal((2, n))
    first, second = (np.c_[2.0 * bits[:, side] - 1, noise[side]] for side in (0, 1))
    return first, second, bits[:, 0] ^ bits[:, 1]


def planted_cache(root: Path, *, n: int = 150) -> Cache:
    """Encoders `eye` and `far` of images and `ear` of captions, two a group; labels `bit`, `one` and `rare`.

    All tell `bit`; `one` is a single class; of `rare` one class has three groups, and some groups have none.
    """
    rng = np.random.default_rng(0)
    bit = rng.integers(0, 2, n)
    groups = tuple(f"g{number:03}" for number in range(n))
    captions = tuple(f"{group}#{number}" for group in groups for number in range(2))
    views = {
        "images": View("images", "image", groups, groups, lambda row: groups[row].encode(), bytes),
        "captions": View(
            "captions", "text", captions, tuple(g for g in groups for _ in range(2)),
            lambda row: captions[row].encode(), bytes.decode,
        ),
    }  # fmt: skip
    named = {
        "bit": tuple(f"bit {one}" for one in bit),
        "one": ("same",) * n,
        "rare": tuple("" if at % 7 == 6 else "rare" if at < 3 else f"bit {one}" for at, one in enumerate(bit)),
    }
    dataset = Dataset("openmoji", views, Overlay(groups, ("train",) * n, named), "public domain", "made by a test")
    shared = np.c_[2.0 * bit - 1 + 0.4 * rng.standard_normal(n), rng.standard_normal((n, 2))]
    cache = Cache(root / "cache")
    for view, encoder, d, noise in (("images", "eye", 6, 0.3), ("images", "far", 5, 0.6), ("captions", "ear", 4, 0.3)):
        rows = shared if view == "images" else np.repeat(shared, 2, axis=0)
        values = rows @ rng.standard_normal((3, d)) + noise * rng.standard_normal((len(rows), d))
        store_layers(cache, dataset, view, encoder, {"0.mean": values + 1.0, "last.mean": values})
    return cache
