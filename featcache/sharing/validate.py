"""Validation of another cache's arrays: names, links, and metadata whose parts must agree with each other."""

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import Cache
from featcache.errors import Damaged, FeatcacheError, RemoteFailed, UsageError
from featcache.selectors import check_name
from featcache.storage.local import LocalFolder
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey
from featcache.store.layout import Layout
from featcache.store.records import (
    CRC_BYTES,
    FLOATS,
    IDS,
    PARTIAL,
    REUSED,
    Complete,
    Record,
    key_json,
    layout_json,
    parse_complete,
    read_json,
    zarr_json,
)
from featcache.store.reused import ReusedRows, read_reused
from featcache.store.rows import current_overlay

_ROOT, _BLAKE3 = re.compile(r"[0-9a-f]{32,64}"), re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(r"[a-zA-Z]+\.json|c\.\d+\.0|commits")
_MOST_CHUNK = 2**31
_ITEM_BYTES = {name: np.dtype(name).itemsize for name in (*FLOATS, IDS)}


@dataclass(frozen=True)
class ArrayMetadata:
    """Key, layout, completion record and reused rows of one array, which agree with each other."""

    key: ArrayKey
    layout: Layout
    complete: Complete | None  # None if the array is not complete
    partial: Complete | None  # of PARTIAL.json, where only some rows were pulled
    reused: ReusedRows | None = None  # of REUSED.json, where rows were taken from an older array

    @property
    def files(self) -> dict[str, bytes]:
        """Key, layout, Zarr metadata and reused rows as this version writes them: nobody's own bytes are sent on."""
        files = {
            "key.json": key_json(self.key),
            "plan.json": layout_json(self.layout),
            "zarr.json": zarr_json(self.key, self.layout),
        }
        return files if self.reused is None else {**files, REUSED: self.reused.to_bytes()}


def safe_path(cache: Cache, array: FeatureArray) -> str:
    """An array's path below its cache.

    Raises:
        RemoteFailed: If a name in it is not safe as a folder's name, or links lead out of the cache or stand for files.
    """
    parts = array.name
    try:
        for part in parts:
            check_name(part, "a folder of a cache")
    except UsageError as error:
        raise RemoteFailed(f"{cache.folder} lists {'/'.join(parts)!r}: {error}") from error
    if isinstance(array.folder, LocalFolder):
        if not array.path.resolve().is_relative_to(cache.root.resolve()):
            raise RemoteFailed(f"{array.folder} is a link that leads out of {cache.folder}; nothing was read")
        for folder in (array.path, array.path / "commits"):
            names = [path for path in folder.iterdir() if _OURS.fullmatch(path.name)] if folder.is_dir() else []
            for path in names:
                require_plain(path)
    return "/".join(parts)


def require_plain(path: Path) -> None:
    """Refuses links, pipes and devices where a file or folder should be; nothing there is fine.

    Raises:
        RemoteFailed: If the path is one.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise RemoteFailed(f"{path} is a link or no plain file; nothing was read. Put the file itself there")


def read_metadata(array: FeatureArray) -> ArrayMetadata:
    """Reads key, layout and completion record of an array and checks them against each other.

    Raises:
        Damaged: If one is missing, is not of its form, or contradicts another.
        NewerFormat: If a newer featcache wrote it.
    """
    try:
        key, layout = array.key(), array.layout()
        if layout is None:
            raise Damaged(f"{array.folder}/plan.json is missing. Run: featcache verify")
        _check(key, layout)
        complete = _whole(array, key, layout, "COMPLETE.json")
        partial = _whole(array, key, layout, PARTIAL) if complete is None else None
        reused = read_reused(array.folder)
    except FeatcacheError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        # a hostile file can be of any shape
        raise Damaged(f"{array.folder} contradicts itself: {error!r}. Run: featcache verify") from error
    return ArrayMetadata(key, layout, complete, partial, reused)


def _check(key: ArrayKey, layout: Layout) -> None:
    """Raises ValueError, or whatever comes of a hostile shape, if key and layout contradict each other."""
    rows, d, dtype = key.binds["rows"], key.binds["d"], key.binds["dtype"]
    for number in (layout.n, layout.chunk_rows, layout.batch_size, d):
        if type(number) is not int or number < 1:
            raise ValueError(f"{number!r} rows, columns or rows a batch")
    if not isinstance(rows["modality"], str) or not isinstance(rows["decoding"], dict):
        raise ValueError(f"rows of {rows['modality']!r}, decoded by {rows['decoding']!r}")
    if rows["n"] != layout.n or not _ROOT.fullmatch(rows["root"]):
        raise ValueError(f"plan of {layout.n} rows, key of {rows['n']} with root {rows['root']!r}")
    if layout.order not in ("row", "cost") or layout.chunk_rows > layout.n:
        raise ValueError(f"chunks of {layout.chunk_rows} of {layout.n} rows in order {layout.order!r}")
    if chunk_bytes(key, layout) > _MOST_CHUNK:
        raise ValueError(f"chunks of {chunk_bytes(key, layout)} bytes of {dtype}")


def chunk_bytes(key: ArrayKey, layout: Layout) -> int:
    """Size of every chunk file of an array, checksum included."""
    return layout.chunk_rows * key.binds["d"] * _ITEM_BYTES[key.binds["dtype"]] + CRC_BYTES


def _whole(array: FeatureArray, key: ArrayKey, layout: Layout, name: str) -> Complete | None:
    try:
        value: Any = read_json(array.folder, name)
    except FileNotFoundError:
        return None
    # before the records are compared with a layout that may be of any size
    if value["plan"] != layout.to_json() or len(value["records"]) != layout.chunks:
        raise Damaged(f"{array.folder}/{name} is not of the plan in plan.json. Run: featcache verify")
    complete = parse_complete(value, array.digest, f"{array.folder}/{name}")
    if (complete.d, complete.dtype) != (key.binds["d"], key.binds["dtype"]):
        raise Damaged(f"{array.folder}/{name} is not of the key in key.json. Run: featcache verify")
    return complete


def records_of(array: FeatureArray, metadata: ArrayMetadata) -> dict[int, Record]:
    """The commit records of an array that is not complete, by chunk.

    Raises:
        Damaged: If one does not fit the layout.
    """
    records: dict[int, Record] = {}
    for record in array.folder.map(array.record, sorted(array.committed())):
        if record is None:
            continue
        if not 0 <= record.chunk < metadata.layout.chunks or record.chunk in records:
            raise Damaged(f"{array.folder} has a record of chunk {record.chunk}, which is none. Run: featcache verify")
        start, stop = metadata.layout.span(record.chunk)
        right = (stop - start, chunk_bytes(metadata.key, metadata.layout)) == (record.rows, record.bytes)
        if not right or not _BLAKE3.fullmatch(record.blake3):
            raise Damaged(f"the record of chunk {record.chunk} of {array.folder} was changed. Run: featcache verify")
        records[record.chunk] = record
    return records


def overlay_root(cache: Cache, key: ArrayKey) -> str | None:
    """Root of the splits and labels that are current for an array's rows in a cache.

    Raises:
        Damaged: If it is no root: it becomes part of a file's name.
    """
    view = cache.folder / key.dataset / key.view
    root = current_overlay(view, key.binds["rows"]["root"])
    if root is not None and not _ROOT.fullmatch(root):
        raise Damaged(f"{view} names splits and labels {root[:80]!r}. Run the same featcache extract again")
    return root
