"""Small files in the formats of MultiBench's pickles and of AVMNIST's arrays, with quirks of the real ones."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from featcache.data.multibench import PUBLISHED, STEPS

ROWS = {"train": 40, "valid": 16, "test": 24}


def raw_split(name: str, rows: int, seed: int, *, dtype: str = "float64") -> dict[str, Any]:
    """One split as published: zeros in front, one row without text, -inf in audio, ids of objects."""
    rng = np.random.default_rng(seed)
    published = PUBLISHED[name]
    classes = rng.integers(0, 2, rows)
    lengths = rng.integers(1, STEPS + 1, rows)
    arrays: dict[str, Any] = {}
    for modality, width in published.widths.items():
        values = rng.normal(size=(rows, STEPS, width)) + 0.8 * classes[:, None, None]
        values[np.arange(STEPS) < (STEPS - lengths)[:, None]] = 0
        arrays[modality] = values.astype(dtype)
    arrays["audio"][1, -1, 0] = -np.inf
    arrays["text"][3] = 0  # a row without text, which is dropped
    if published.task == "regression":
        arrays["labels"] = (3 * (classes - 0.5) + rng.normal(size=rows)).reshape(rows, 1, 1)
    else:
        arrays["labels"] = (2 * classes - 1 if name == "sarcasm" else classes).reshape(rows, 1)
    arrays["id"] = np.array([[f"video{row}", b"0", row / 2] for row in range(rows)], dtype=object)
    return arrays


def write_affect(
    folder: Path, name: str, *, protocol: int = 4, rows: dict[str, int] | None = None, dtype: str = "float64"
) -> dict[str, Any]:
    """Writes a pickle of three splits; returns what it holds."""
    sizes = rows or ROWS
    content = {split: raw_split(name, sizes[split], seed, dtype=dtype) for seed, split in enumerate(ROWS)}
    (folder / PUBLISHED[name].file).write_bytes(pickle.dumps(content, protocol))
    return content


def write_avmnist(folder: Path, *, train: int = 50, test: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    """Writes images, MFCC and labels as arrays; returns them by file name."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split, rows in (("train", train), ("test", test)):
        labels = rng.integers(0, 10, rows)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
        noise = rng.integers(0, 120, (rows, 784))
        arrays[f"image/{split}_data"] = (noise + 12 * labels[:, None]).astype(np.uint8)
        arrays[f"audio/{split}_data"] = 30 * rng.normal(size=(rows, 20, 36)) + 20 * labels[:, None, None] - 200
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return arrays
