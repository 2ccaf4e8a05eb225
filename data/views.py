"""What is a data set? Named views (one modality each) of ordered rows with stable ids, groups, splits and labels."""

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
    """blake3 over decoding settings and every row's id, group and content hash in order, hex.

    Args:
        modality: "image", "text" or "audio".
        decoding: `View.decoding`.
        ids: Row ids, in order.
        groups: Group of each row.
        hashes: blake3 of each row's bytes, hex.
    """
    value = [modality, dict(sorted(decoding.items())), list(ids), list(groups), list(hashes)]
    return blake3(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class View:
    """One modality of a data set: ordered rows, decoded lazily.

    A row is its bytes (a file, an SVG, UTF-8 text); `decode` turns the bytes into what an encoder takes.

    Args:
        name: "images", "captions", "prompts", ...
        modality: What `decode` returns: an RGB PIL image, a str, or a mono float32 waveform.
        ids: One stable id a row, unique, in row order.
        groups: The group of each row: rows that show the same thing share it (five captions of one photo).
        content: Row number -> the row's bytes. Must be thread-safe and cheap to call out of order.
        decode: Bytes -> PIL.Image.Image (mode RGB) | str | waveform. Raises DataInvalid for bytes it cannot read;
            `View.read` adds the row's id to the message.
        decoding: Everything beside the bytes that changes what `decode` returns (renderer, size); bound in the root.
        given_hashes: blake3 of each row's bytes where they are known already, or cannot be known (""); None to read.
    """

    name: str
    modality: Modality
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    content: Callable[[int], bytes]
    decode: Callable[[bytes], Any]
    decoding: Mapping[str, Any] = field(default_factory=lambda: {})
    given_hashes: tuple[str, ...] | None = None

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

    def read(self, row: int) -> Any:
        """Decodes one row.

        Raises:
            DataInvalid: If the row's bytes cannot be decoded; names the row's id.
        """
        try:
            return self.decode(self.content(row))
        except (DataInvalid, OSError) as error:
            raise DataInvalid(f"{self.name} row {self.ids[row]!r} (number {row}): {error}") from error

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """blake3 of each row's bytes, hex; reads every row once."""
        if self.given_hashes is not None:
            return self.given_hashes
        from concurrent.futures import ThreadPoolExecutor

        def digest(row: int) -> str:
            return blake3(self.content(row)).hexdigest()

        with ThreadPoolExecutor(4) as pool:
            return tuple(pool.map(digest, range(len(self)), chunksize=64))

    @cached_property
    def root(self) -> str:
        """What `rows_root` makes of the view's rows."""
        return rows_root(self.modality, self.decoding, self.ids, self.groups, self.hashes)


@dataclass(frozen=True, eq=False)
class Overlay:
    """Splits and labels, one entry a group; hashed apart from the rows, so that new labels cost no extraction.

    Args:
        groups: Group ids, unique, sorted as the data set orders them.
        splits: One of "train", "validation", "test", "other" (present but in no published split), "" (no split).
        labels: Label column name -> one label a group ("" where it has none).
    """

    groups: tuple[str, ...]
    splits: tuple[str, ...]
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
    """Named views of the same groups.

    Args:
        name: The name the cache files it under: lower case, digits, "-", "_".
        views: View name -> view; the first of each modality is that modality's default.
        overlay: Splits and labels of every group that occurs in a view.
        licence: Terms of the data, in one line.
        source: Where it came from (package and version, repository and revision, folder layout): provenance only.
        notes: Remarks worth printing, such as "769 photos are in no Karpathy split".
    """

    name: str
    views: Mapping[str, View]
    overlay: Overlay
    licence: str
    source: str
    notes: tuple[str, ...] = ()

    def view_for(self, modality: str) -> View:
        """The default view of a modality.

        Raises:
            DataInvalid: If the data set has no such view; names those it has.
        """
        for view in self.views.values():
            if view.modality == modality:
                return view
        has = ", ".join(f"{view.name} ({view.modality})" for view in self.views.values())
        raise DataInvalid(f"{self.name} has no {modality} view; it has {has}")
