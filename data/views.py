"""Data sets, their views (one modality each: ordered rows with stable ids and groups), and their splits and labels."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from blake3 import blake3

from featcache.data.errors import DataInvalid

Modality = Literal["image", "text", "audio"]
SPLITS = ("train", "validation", "test", "other", "")


def rows_root(
    modality: str, decoding: Mapping[str, Any], ids: Sequence[str], groups: Sequence[str], hashes: Sequence[str]
) -> str:
    """blake3, hex, over a view's modality and decoding settings and every row's id, group and content hash in order."""
    value = [modality, dict(sorted(decoding.items())), list(ids), list(groups), list(hashes)]
    return blake3(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class View:
    """One modality of a data set: ordered rows, decoded lazily.

    A row is its bytes (a file, an SVG, UTF-8 text); `decode` turns the bytes into what an encoder takes.
    """

    name: str  # "images", "captions", "prompts", ...
    modality: Modality  # of what `decode` returns: an RGB PIL image, a str, or a mono float32 waveform
    ids: tuple[str, ...]  # stable and unique, in row order
    groups: tuple[str, ...]  # of each row: rows that show the same thing share it (five captions of one photo)
    content: Callable[[int], bytes]  # row number -> the row's bytes; thread-safe, and cheap to call out of order
    decode: Callable[[bytes], Any]  # raises DataInvalid for bytes it cannot read; `read` adds the row's id
    decoding: Mapping[str, Any] = field(default_factory=lambda: {})  # what else changes the result of `decode`
    given_hashes: tuple[str, ...] | None = None  # `hashes`, where known already or unknowable (""); None to read
    # What else a row's content hash binds of how these bytes are decoded; "", or None, binds the bytes alone.
    bound: Callable[[bytes], str] | None = None
    # What of a row's bytes and its decoded self deserves a look, where the encoder cannot see it: as `Encoder.flag`.
    flag: Callable[[bytes, Any], str | None] | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.groups):
            raise DataInvalid(f"view {self.name!r}: {len(self.ids)} ids but {len(self.groups)} groups")
        if not self.ids:
            raise DataInvalid(f"view {self.name!r} has no rows")
        if len(set(self.ids)) != len(self.ids):
            twice = [row_id for row_id, count in Counter(self.ids).items() if count > 1]
            raise DataInvalid(f"view {self.name!r}: {len(twice)} ids stand more than once, the first {twice[0]!r}")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"View({self.name}: {len(self):,} rows, {self.modality})"

    def read(self, row: int) -> Any:
        """Decodes one row; a DataInvalid names the row's id."""
        try:
            return self.decode(self.content(row))
        except (DataInvalid, OSError) as error:
            raise DataInvalid(f"{self.name} row {self.ids[row]!r} (number {row}): {error}") from error

    def hash_of(self, content: bytes) -> str:
        """Content hash, hex, of a row of these bytes: their blake3, or that of it and what `bound` adds."""
        plain = blake3(content).hexdigest()
        bound = self.bound(content) if self.bound else ""
        return blake3(f"{bound}\0{plain}".encode()).hexdigest() if bound else plain

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """`hash_of` each row; reads every row once."""
        if self.given_hashes is not None:
            return self.given_hashes
        from concurrent.futures import ThreadPoolExecutor

        def digest(row: int) -> str:
            return self.hash_of(self.content(row))

        with ThreadPoolExecutor(4) as pool:
            return tuple(pool.map(digest, range(len(self)), chunksize=64))

    @cached_property
    def root(self) -> str:
        """`rows_root` of the view's rows."""
        return rows_root(self.modality, self.decoding, self.ids, self.groups, self.hashes)


@dataclass(frozen=True, eq=False)
class Overlay:
    """Splits and labels, one entry a group; hashed apart from the rows, so that new labels cost no extraction."""

    groups: tuple[str, ...]  # ids, unique, sorted as the data set orders them
    splits: tuple[str, ...]  # of `SPLITS`: "other" is present but in no published split, "" has no split
    # label column -> one label a group ("" where it has none)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {})

    def __post_init__(self) -> None:
        columns = {"splits": self.splits, **self.labels}
        for name, column in columns.items():
            if len(column) != len(self.groups):
                raise DataInvalid(f"overlay column {name!r} has {len(column)} entries for {len(self.groups)} groups")
        unknown = sorted(set(self.splits) - set(SPLITS))
        if unknown:
            raise DataInvalid(f"unknown splits {unknown}; known: {SPLITS}")

    @cached_property
    def root(self) -> str:
        """blake3 over groups, splits and labels, hex."""
        value = [self.groups, self.splits, dict(sorted(self.labels.items()))]
        return blake3(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named views of the same groups."""

    name: str  # the cache files it under this; `hub_names.OWN_NAME`, or "--" between the parts of the Hub's
    views: Mapping[str, View]  # by name; the first of each modality is that modality's default
    overlay: Overlay  # of every group that occurs in a view
    licence: str  # terms of the data, in one line
    source: str  # package and version, repository and revision, folder layout: provenance only
    notes: tuple[str, ...] = ()  # worth printing, such as "769 photos are in no Karpathy split"

    def __repr__(self) -> str:
        views = ", ".join(f"{view.name} ({len(view):,} rows, {view.modality})" for view in self.views.values())
        return f"Dataset({self.name}: {views}; licence: {self.licence})"

    def view_for(self, modality: str) -> View:
        """The default view of a modality; DataInvalid, with the views there are, if the data set has none."""
        for view in self.views.values():
            if view.modality == modality:
                return view
        has = ", ".join(f"{view.name} ({view.modality})" for view in self.views.values())
        raise DataInvalid(f"{self.name} has no {modality} view; it has {has}")
