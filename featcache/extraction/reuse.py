"""Reuse of rows: features of unchanged rows copied from an older array of the same encoder instead of encoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.cache import Cache
from featcache.data.views import View
from featcache.errors import Damaged, FeatcacheError
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey
from featcache.store.reader import Reader
from featcache.store.records import FLAGS
from featcache.store.reused import ReusedRows, ReusedSpan, reused_spans

# -- the choice -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Older:
    """A complete array that may differ from a new one in nothing but its rows."""

    array: FeatureArray
    key: ArrayKey
    root: str
    failed: tuple[str, ...]

    @property
    def rows_root(self) -> str:
        """Root of its row table."""
        return str(self.key.binds["rows"]["root"])


def choose_reuse(cache: Cache, view: View, keys: Sequence[ArrayKey]) -> dict[str, ReusedRows]:
    """The rows of new arrays that an older extraction of the same view holds: equal id and content hash, not failed.

    The older arrays must hold every layer of the new ones, of the same rows: then no layer needs the encoder for a row
    that the others reuse. Of several extractions the one with the most such rows counts, and of those the newest.

    Args:
        cache: Where the older arrays lie, under the names of the new ones.
        view: The view that is to be encoded.
        keys: Keys of the new arrays, one a layer.

    Returns:
        Layer -> what its array copies; empty if there is nothing to copy.
    """
    by_rows: dict[str, dict[str, _Older]] = {}
    for key in keys:
        for older in _older_arrays(cache, key):
            by_rows.setdefault(older.rows_root, {})[key.layer] = older
    complete = [arrays for arrays in by_rows.values() if len(arrays) == len(keys)]
    choices = [(_shared_spans(cache, view, list(arrays.values())), arrays) for arrays in complete]

    def rank(choice: tuple[tuple[ReusedSpan, ...], Mapping[str, _Older]]) -> tuple[int, str, str]:
        spans, arrays = choice
        first = next(iter(arrays.values()))
        return sum(span.stop - span.start for span in spans), str(first.key.provenance.get("created")), first.rows_root

    spans, arrays = max(choices, key=rank, default=((), {}))
    if not spans:
        return {}
    return {layer: ReusedRows(str(o.array.name), o.array.digest, o.root, spans) for layer, o in arrays.items()}


def _older_arrays(cache: Cache, key: ArrayKey) -> list[_Older]:
    """Complete arrays under the names of a key that bind the same in everything but the rows; damaged ones do not."""
    older: list[_Older] = []
    for array in cache.arrays(key.dataset, key.view, key.encoder, key.layer):
        try:
            if array.digest == key.digest or not array.is_complete or not _alike(array.key().binds, key.binds):
                continue
            complete = array.complete()
            older.append(_Older(array, array.key(), complete.root, complete.failed))
        except FeatcacheError:
            continue  # `featcache verify` says what is wrong with it
    return older


def _alike(binds: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    def rest(value: Mapping[str, Any]) -> Any:
        rows = value["rows"]
        return {**value, "rows": {name: rows[name] for name in ("modality", "decoding")}}

    return rest(binds) == rest(wanted)


def _shared_spans(cache: Cache, view: View, older: Sequence[_Older]) -> tuple[ReusedSpan, ...]:
    """Spans of the view's rows that the older arrays, all of one row table, hold with the same id and content."""
    try:
        table = cache.rows(older[0].key)
    except FeatcacheError:
        return ()
    failed = {row_id for each in older for row_id in each.failed}
    known = {row_id: row for row, row_id in enumerate(table.ids) if table.hashes[row] and row_id not in failed}
    pairs = [
        (row, source)
        for row, (row_id, content) in enumerate(zip(view.ids, view.hashes, strict=True))
        if (source := known.get(row_id)) is not None and table.hashes[source] == content
    ]
    return reused_spans([row for row, _ in pairs], [source for _, source in pairs])


# -- the copies -------------------------------------------------------------------------------------------------------


def find_source(cache: Cache, reused: ReusedRows) -> FeatureArray | None:
    """The array that rows are to be copied from, with the very bytes, by whatever name; None if it has gone."""
    for path in cache.folder.find(f"{_path_glob(reused)}/{reused.digest}") or cache.folder.find(
        f"*/*/*/*/{reused.digest}"
    ):
        array = cache.array(path)
        try:
            if array.is_complete and array.complete().root == reused.root:
                return array
        except FeatcacheError:
            continue  # as good as gone; `featcache verify` names it
    return None


def _path_glob(reused: ReusedRows) -> str:
    """Where the source lay when its rows were chosen, or anywhere; the record may come from another cache."""
    parts = reused.path.split("/")[:4]
    return "/".join(parts) if len(parts) == 4 and all(part.strip(".") for part in parts) else "*/*/*/*"


class Copies:
    """The rows that the arrays of one pass copy, every chunk of their sources checked before a row of it is taken.

    Args:
        reused: Layer -> what its array copies; the same rows in every layer.
        sources: Layer -> the array that they are copied from.
    """

    def __init__(self, reused: Mapping[str, ReusedRows], sources: Mapping[str, FeatureArray]) -> None:
        self._reused, self._sources = reused, sources
        self._readers: dict[str, Reader] = {layer: source.open() for layer, source in sources.items()}

    def check(self) -> None:
        """Reads and checks every chunk of the sources that holds a row to copy.

        Raises:
            Damaged: If one is not as recorded.
        """
        for layer, reader in self._readers.items():
            size = reader.complete.layout.chunk_rows
            touched = {
                chunk
                for span in self._reused[layer].spans
                for chunk in range(span.source // size, (span.source + span.stop - span.start - 1) // size + 1)
            }
            for chunk in sorted(touched):  # one row makes the reader check the whole chunk
                reader.take(np.array([chunk * size]))

    def fill(self, layer: str, block: np.ndarray, start: int) -> None:
        """Writes what is copied into a chunk's block.

        Args:
            layer: The array's layer.
            block: [rows, d] in the stored dtype.
            start: Row number of its first row.

        Raises:
            Damaged: If a chunk of the source is not as recorded; says how to go on.
        """
        reused = self._reused[layer]
        for span in reused.within(start, start + len(block)):
            rows = np.arange(span.source, span.source + span.stop - span.start)
            try:
                block[span.start - start : span.stop - start] = self._readers[layer].take(rows)
            except Damaged as error:
                source = self._sources[layer].name
                name = f"{source.view}/{source.encoder}/{source.layer}@{source.digest[:12]}"
                raise Damaged(
                    f"{error}\n  Rows of it were to be reused. Mend it: featcache repair {source.dataset}/{name}. Or "
                    f"remove it, and the rows are encoded: featcache rm {source.dataset} {name}"
                ) from error

    def flags(self, layer: str, ids: Sequence[str], start: int, stop: int) -> dict[int, str]:
        """Row number -> flag of the rows that are copied between two rows and that the source's records list.

        Args:
            layer: The array's layer.
            ids: Ids of all rows.
            start: First row.
            stop: First row behind the last.
        """
        listed = {row_id: flag for flag in FLAGS for row_id in self._readers[layer].complete.flagged(flag)}
        if not listed:
            return {}
        rows = (row for span in self._reused[layer].within(start, stop) for row in range(span.start, span.stop))
        return {row: listed[ids[row]] for row in rows if ids[row] in listed}


def open_copies(cache: Cache, reused: Mapping[str, ReusedRows]) -> Copies | None:
    """The copies of a pass; None if the source of a layer is not in the cache any more."""
    sources = {layer: source for layer, each in reused.items() if (source := find_source(cache, each)) is not None}
    return Copies(reused, sources) if len(sources) == len(reused) else None


def damage_in(cache: Cache, reused: Mapping[str, ReusedRows]) -> str | None:
    """Why rows cannot be copied, before that is decided on; None if every chunk needed is as recorded."""
    copies = open_copies(cache, reused)
    try:
        return "it has gone" if copies is None else copies.check()
    except FeatcacheError as error:
        return str(error)
