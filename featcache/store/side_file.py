"""Side files: the rows of a chunk in work that an interrupted extraction had encoded, for the next one to take."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from blake3 import blake3

from featcache.errors import Damaged
from featcache.storage.base import KEPT, Folder
from featcache.store.digest import FORMAT, canonical
from featcache.store.layout import Layout
from featcache.store.records import flat

_HASH_BYTES = 32


@dataclass(frozen=True)
class Binding:
    """What the rows of a side file belong to: under any other array, layout or formation of batches they are others."""

    digest: str
    layout: Layout
    chunk: int
    parts: tuple[tuple[int, ...], ...]  # of the chunk's rows: batches form inside a part

    def to_json(self) -> dict[str, Any]:
        """Its part of the header."""
        parts = blake3(canonical(self.parts)).hexdigest(length=16)
        return {"format": FORMAT, "digest": self.digest, "plan": self.layout.to_json(), "chunk": self.chunk,
                "parts": parts}  # fmt: skip


@dataclass(frozen=True)
class KeptRows:
    """Rows of whole batches of one chunk of one array.

    Args:
        rows: [m] row numbers, those that failed among them.
        values: [m, d] features in the stored dtype; NaN for rows that failed.
        failed: Row number -> why it failed.
        flags: Row number -> flag of a row that deserves a look, as in `store.records.FLAGS`.
    """

    rows: Sequence[int]
    values: np.ndarray
    failed: Mapping[int, str] = field(default_factory=lambda: {})
    flags: Mapping[int, str] = field(default_factory=lambda: {})


def side_name(chunk: int) -> str:
    """Name of a chunk's side file, in the array's folder: no part of the format, and pushed and pulled by nobody."""
    return f"{KEPT}{chunk}"


def side_chunks(folder: Folder) -> set[int]:
    """The chunks that have a side file."""
    pattern = re.compile(re.escape(KEPT) + r"([0-9]+)")
    return {int(match[1]) for name in folder.names() if (match := pattern.fullmatch(name))}


def write_side_file(folder: Folder, binding: Binding, kept: KeptRows) -> None:
    """Writes a chunk's side file over any that is there; durable when it returns.

    The file is a line of JSON, the values row after row, and blake3 of all that.
    """
    header = {
        **binding.to_json(),
        "rows": list(kept.rows),
        "failed": sorted(kept.failed.items()),
        "flags": sorted(kept.flags.items()),
        "shape": list(kept.values.shape),
        "dtype": kept.values.dtype.name,
    }
    line, values = canonical(header) + b"\n", flat(np.ascontiguousarray(kept.values))
    folder.replace(side_name(binding.chunk), line, values, blake3(line).update(values).digest())


def read_side_file(folder: Folder, binding: Binding) -> KeptRows | None:
    """The rows of a chunk's side file; None if there is none, or it belongs to another formation of batches.

    Raises:
        Damaged: If its bytes do not have its own checksum.
    """
    try:
        content = folder.read(side_name(binding.chunk))
    except FileNotFoundError:
        return None
    body, checksum = content[:-_HASH_BYTES], content[-_HASH_BYTES:]
    if blake3(body).digest() != checksum:
        raise Damaged(f"{folder}/{side_name(binding.chunk)} is damaged")
    line, _, values = body.partition(b"\n")
    header = json.loads(line)
    if any(header.get(name) != value for name, value in binding.to_json().items()):
        return None
    return KeptRows(
        header["rows"],
        np.frombuffer(values, header["dtype"]).reshape(header["shape"]),
        dict(header["failed"]),
        dict(header["flags"]),
    )


def side_rows(folder: Folder, chunk: int) -> int:
    """How many rows a chunk's side file claims to hold; 0 without one."""
    try:
        return len(json.loads(folder.read(side_name(chunk)).partition(b"\n")[0])["rows"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0


def drop_side_file(folder: Folder, chunk: int) -> None:
    """Deletes a chunk's side file, if there is one."""
    folder.remove(side_name(chunk))
