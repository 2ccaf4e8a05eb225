"""Validation of another cache's arrays: names, links, and records of chunks."""

import re
import stat
from dataclasses import replace
from pathlib import Path

from featcache.cache import Cache
from featcache.errors import Damaged, RemoteFailed, UsageError
from featcache.selectors import check_name
from featcache.storage.local import LocalFolder
from featcache.store.array import FeatureArray
from featcache.store.metadata import ArrayMetadata
from featcache.store.records import Record
from featcache.store.reused import read_reused

_OURS = re.compile(r"([a-zA-Z]+|\d+)\.json|c\.\d+\.0|commits")


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
    """The metadata of an array and what it reused, checked; errors as `FeatureArray.metadata`."""
    return replace(array.metadata(), reused=read_reused(array.folder))


def records_of(array: FeatureArray, metadata: ArrayMetadata) -> dict[int, Record]:
    """The commit records of an array that is not complete, by chunk.

    Raises:
        Damaged: If one does not fit the layout.
    """
    layout = metadata.layout
    records: dict[int, Record] = {}
    chunks = sorted(array.committed())
    if chunks and chunks[-1] >= layout.chunks:
        raise Damaged(f"{array.folder} has a record of chunk {chunks[-1]}, which is none. Run: featcache verify")
    for record in array.folder.map(lambda chunk: array.record(chunk, layout), chunks):
        if record is None:
            continue
        start, stop = layout.span(record.chunk)
        if (stop - start, metadata.chunk_bytes) != (record.rows, record.bytes):
            raise Damaged(f"the record of chunk {record.chunk} of {array.folder} was changed. Run: featcache verify")
        records[record.chunk] = record
    return records
