"""A small data set and an encoder whose features are known in closed form, for tests of the cache."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.data.views import Dataset, Overlay, View
from featcache.encoders import Card


def text_dataset(n: int = 50, *, name: str = "tiny", change: int | None = None) -> Dataset:
    """n captions of 1 to 7 words; `change` alters that row's text."""

    def text(row: int) -> bytes:
        words = " ".join(f"w{row}" for _ in range(1 + row % 7))
        return (words + " changed" if row == change else words).encode()

    ids = tuple(f"r{row}" for row in range(n))
    view = View("captions", "text", ids, ids, text, bytes.decode)
    splits = tuple(("train", "train", "validation", "test")[row % 4] for row in range(n))
    labels = {"parity": tuple("even" if row % 2 == 0 else "odd" for row in range(n))}
    return Dataset(name, {"captions": view}, Overlay(ids, splits, labels), "public domain", "made by a test")


def bare_binds(n: int, d: int, dtype: str = "float16", *, layer: str = "last.mean") -> dict[str, Any]:
    """What a digest binds of an array of n rows that no data set stands behind."""
    rows = {"modality": "text", "decoding": {}, "root": "0" * 64, "n": n}
    return {"format": 1, "rows": rows, "encoder": {}, "layer": layer, "dtype": dtype, "d": d}


def expected(text: str, layer: str, d: int) -> np.ndarray:
    """The fake encoder's features of one text, float32 [d]."""
    seed = int.from_bytes(hashlib.blake2b(f"{layer}:{text}".encode(), digest_size=4).digest(), "little")
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def fake_card(*, dtype: str = "float16", version: int = 1) -> Card:
    return Card(
        name="fake",
        modality="text",
        binds={"weights": f"fake-{version}"},
        widths={"0.mean": 4, "1.mean": 8, "last.mean": 8},
        default="last.mean",
        dtype=dtype,
        provenance={"package": "tests"},
    )


@dataclass
class FakeEncoder:
    """Encodes text without any library; records what it was given."""

    card: Card = field(default_factory=fake_card)
    scale: float = 1.0
    rows: list[str] = field(default_factory=list)
    batch: int = 4
    longest: int = 10**6  # characters beyond which a text counts as cut

    def prepare(self, item: Any) -> Any:
        return item

    def cost(self, prepared: Any) -> int:
        return len(prepared)

    def flag(self, prepared: Any) -> str | None:
        return "truncated" if len(prepared) > self.longest else None

    def batch_size(self, available_bytes: int) -> int:
        return self.batch

    def encode(self, prepared: list[Any], layers: Sequence[str]) -> dict[str, Any]:
        import torch

        self.rows += prepared
        return {
            layer: torch.from_numpy(
                np.stack([self.scale * expected(text, layer, self.card.widths[layer]) for text in prepared])
            )
            for layer in layers
        }
