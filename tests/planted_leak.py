"""A folder of small images, some of whose training images were copied into test: as bytes, recompressed, resized."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from featcache.cache import Cache
from featcache.data import open_dataset
from featcache.data.views import Dataset
from tests.alignment_cache import store_layers

SIZE = 32
PARTS = {"train": 220, "validation": 40, "test": 60}


def planted_folder(root: Path, *, copies: int = 100, validation_copies: int = 0, parts: dict[str, int] | None = None):
    """Writes the folder; every image has a caption of its own, which a copy takes along.

    Of the copies two in five are equal bytes, three JPEG at quality 80, or three quarters of the size.
    """
    root.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), [("image", "caption", "split")]
    for split, count in (parts or PARTS).items():
        for number in range(count):
            name = f"{split}{number:03}.png"
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
            coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(root / name)
            lines.append((name, f"picture {number} of {split}", split))
    first = (parts or PARTS)["train"] - validation_copies
    for split, numbers in (("test", range(copies)), ("validation", range(first, first + validation_copies))):
        for number in numbers:
            source = root / f"train{number:03}.png"
            lines.append((_copy(root, source, number, split), f"picture {number} of train", split))
    with (root / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return root


def _copy(root: Path, source: Path, number: int, split: str) -> str:
    name = f"copy-{split}-{number:03}"
    if number % 5 < 2:
        (root / f"{name}.png").write_bytes(source.read_bytes())
        return f"{name}.png"
    with Image.open(source) as image:
        if number % 5 == 2:
            image.resize((SIZE * 3 // 4, SIZE * 3 // 4), Image.Resampling.BICUBIC).save(root / f"{name}.png")
            return f"{name}.png"
        image.save(root / f"{name}.jpg", quality=80)
    return f"{name}.jpg"


def pixels(image: Image.Image, size: int) -> np.ndarray:
    """A tiny encoder: the pixels of a thumbnail, centred."""
    small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(small, np.float32).ravel() / 127.5 - 1


def planted_cache(folder: Path, place: Path) -> tuple[Cache, Dataset]:
    """A cache of two tiny image encoders and one of captions that says what the picture shows."""
    cache, dataset = Cache(place), open_dataset("folder:planted", root=folder)
    images, captions = dataset.views["images"], dataset.views["captions"]
    rows = [images.read(row) for row in range(len(images))]
    encoded = {name: np.stack([pixels(image, size) for image in rows]) for name, size in (("tiny", 8), ("large", 12))}
    for name, values in encoded.items():
        store_layers(cache, dataset, "images", name, {"last.mean": values})
    rng = np.random.default_rng(1)
    shown = encoded["tiny"] @ rng.standard_normal((encoded["tiny"].shape[1], 24)) / 10
    of_group = dict(zip(images.groups, shown, strict=True))
    said = np.stack([of_group[group] for group in captions.groups])
    noise = np.random.default_rng([hash_of(text) for text in captions.hashes]).standard_normal(said.shape)
    store_layers(cache, dataset, "captions", "words", {"last.mean": said + 0.5 * noise})
    return cache, dataset


def hash_of(text: str) -> int:
    """A number for a content hash."""
    return int(text[:8], 16)
