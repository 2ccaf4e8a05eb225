"""Entries of a listing: what is to be known of an array without reading its values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from featcache.errors import Damaged, FeatcacheError, NewerFormat
from featcache.notices import notice
from featcache.resolution import is_current
from featcache.storage.base import Folder
from featcache.store.array import FeatureArray
from featcache.store.current import CurrentRows, read_current
from featcache.store.reused import read_reused


@dataclass(frozen=True)
class Entry:
    """One array of the cache, as `featcache ls` lists it."""

    dataset: str
    view: str
    encoder: str
    layer: str
    digest: str
    root: str = ""  # "" while incomplete
    n: int = 0
    d: int = 0
    dtype: str = ""
    chunks: int = 0  # of the whole array
    committed: int = 0  # chunks that have a commit record
    bytes: int = 0  # of the committed chunks
    damaged: bool = False  # its key or records cannot be trusted; `featcache verify` says why
    other_name: str = ""  # what its key calls it, where that is another name and no renaming is recorded
    created: str = ""  # when it was begun, ISO, UTC; "" if its provenance does not say
    rows: Literal["current", "older", ""] = ""  # "" where no record says which rows of the view are current

    @property
    def complete(self) -> bool:
        """Whether the array has its root."""
        return bool(self.root)


def entry_of(array: FeatureArray) -> Entry:
    """The entry of one array; what cannot be read of it is zero, with `damaged`. Its `rows` is open."""
    try:
        return _entry_of(array)
    except (Damaged, NewerFormat):
        damaged = not array.is_begun or array.folder.exists("key.json")
        return Entry(**array.name._asdict(), committed=len(array.committed()), damaged=damaged)


def _entry_of(array: FeatureArray) -> Entry:
    layout, complete = None, None
    try:
        metadata = array.metadata()
        key, layout, complete = metadata.key, metadata.layout, metadata.complete
    except Damaged:
        if not array.is_begun or array.folder.exists("plan.json"):
            raise
        key = array.key()  # its plan is still on its way
    committed = len(complete.records) if complete else len(array.committed())
    rows = min(committed * layout.chunk_rows, layout.n) if layout else 0
    return Entry(
        **array.name._asdict(),
        root=complete.root if complete else "",
        n=key.binds["rows"]["n"],
        d=key.binds["d"],
        dtype=key.binds["dtype"],
        chunks=layout.chunks if layout else 0,
        committed=committed,
        bytes=rows * key.binds["d"] * key.itemsize,
        other_name=key.other_name or "",
        created=str(key.provenance.get("created", "")),
    )


def entries_of(folder: Folder, arrays: Sequence[FeatureArray]) -> list[Entry]:
    """The entry of each array, with `rows`.

    Args:
        folder: The cache's folder.
        arrays: Arrays of it.
    """
    places = sorted({array.name[:2] for array in arrays})
    records = dict(zip(places, folder.map(lambda place: _record(folder, place), places), strict=True))

    def listed(array: FeatureArray) -> Entry:
        record, entry = records[array.name[:2]], entry_of(array)
        if record is None or entry.damaged:
            return entry
        try:
            return replace(entry, rows="current" if is_current(folder, array.key(), record) else "older")
        except (Damaged, NewerFormat):  # its key is still on its way, or it was renamed meanwhile
            return entry

    return folder.map(listed, arrays)


def describe_key(folder: Folder, array: FeatureArray) -> dict[str, Any]:
    """All that is recorded of a complete array but its chunks.

    Returns:
        The content of key.json, with `root`; with `rows` ("current" or "older") where a record says so, and with
        `reused` (the content of REUSED.json) where rows were taken from an older array.
    """
    described = {**array.key().to_json(), "root": array.complete().root}
    [entry], reused = entries_of(folder, [array]), read_reused(array.folder)
    described |= {"rows": entry.rows} if entry.rows else {}
    return described | ({"reused": reused.to_json()} if reused else {})


def _record(folder: Folder, place: tuple[str, str]) -> CurrentRows | None:
    """The record of current rows of a (data set, view); one that cannot be read is no reason not to list."""
    try:
        return read_current(folder / "/".join(place))
    except FeatcacheError as error:
        notice(str(error))
        return None
