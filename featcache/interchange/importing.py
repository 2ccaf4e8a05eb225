"""Imports: features that another tool made, bound to the file's hash and to rows that are cached, or brought along."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.data.hub_names import cached_name
from featcache.data.views import Overlay, View
from featcache.derived.writer import write_array
from featcache.errors import Ambiguous, FeatcacheError, Overflow, UsageError
from featcache.interchange.formats import read_source
from featcache.interchange.formats.contents import Contents, ImportOptions, Matrix
from featcache.notices import notice
from featcache.selectors import check_name
from featcache.store.array import FeatureArray
from featcache.store.digest import FORMAT, ArrayKey, canonical
from featcache.store.leases import lease
from featcache.store.records import empty_rows
from featcache.store.rows import Rows, read_overlay, restore_rows, write_rows

VIEWS = {"image": "images", "text": "captions", "audio": "audio"}  # of a data set that has none of that modality
_BLOCK_BYTES = 8_000_000


@dataclass(frozen=True)
class BoundContents:
    """Contents of a file, bound to the rows of a view."""

    contents: Contents
    view: str
    rows: dict[str, Any]  # the key's `binds["rows"]`
    order: NDArray[np.int64]  # row of the view -> row of the file; -1 where it failed, as the file says
    ids: list[str] | None = None  # of the view's rows, where some failed
    new: tuple[View, Overlay] | None = None  # the view and its splits, where no row table of it is cached
    note: str = ""  # what the user should know of the binding


@dataclass(frozen=True)
class RowTable:
    """A cached row table."""

    view: str
    rows: dict[str, Any]  # what keys bind of it
    table: Rows
    current: bool | None  # of its view; None where no record says so


def import_features(
    cache: Cache,
    source: Path,
    *,
    dataset: str,
    encoder: str,
    layer: str | None = None,
    view: str | None = None,
    options: ImportOptions | None = None,
) -> list[FeatureArray]:
    """Takes features that another tool made into the cache; nothing is written unless everything is sound.

    Where rows with exactly these ids are cached, the import is bound to them, in their order, and so pairs with what
    is there; else it brings a row table of its own, with hashes, splits and labels unknown.

    Args:
        cache: The cache; it need not exist yet.
        source: A file or folder of one of `formats.FORMATS`.
        dataset: Data set name to file it under.
        encoder: Encoder name to file it under.
        layer: Layer and pooling; None takes what the format says, or every layer it holds.
        view: View name; None for the cached view with these ids, or a new one named after the modality.
        options: What the file does not say itself.

    Returns:
        The complete arrays, one a layer and modality; what was imported before is not written again.

    Raises:
        UsageError: If a name is not allowed, or something must be said that was not.
        Ambiguous: If several cached row tables have these ids.
        DataInvalid: If the file is not what it should be, its ids are not those that are cached, or a value is not
            finite; names the row.
        Overflow: If a value passes the range of the type asked for.
    """
    options = options or ImportOptions()
    dataset = check_name(cached_name(dataset), "a data set")
    check_name(encoder, "an encoder")
    if view is not None:
        check_name(view, "a view")
    if options.dtype not in (None, "float16", "float32"):
        raise UsageError(f"features are stored as float16 or float32, not {options.dtype}")
    if options.modality not in (None, *VIEWS):
        raise UsageError(f"rows show {', '.join(list(VIEWS)[:-1])} or {list(VIEWS)[-1]}, not {options.modality}")
    everything = read_source(source, layer, options)
    if view is not None and len(everything) > 1:
        what = " and ".join(str(contents.modality) for contents in everything)
        raise UsageError(f"{source.name} holds {what}; with --view, say which: --modality {everything[0].modality}")
    for contents in everything:
        _bind(cache, dataset, view, contents, options)  # what is wrong is said before anything is written
    for contents in everything:
        for matrix in contents.matrices:
            _check_values(contents, matrix, _stored_type(contents, matrix, options))
    with lease(cache.folder, f"import {encoder}"):
        # bound again: row tables may have come or gone while the values were read, and from here on none goes
        bound = [_bind(cache, dataset, view, contents, options) for contents in everything]
        arrays = [array for each in bound for array in _write(cache, dataset, encoder, each, options)]
        for each in bound:
            _conclude(cache, dataset, each)
        return arrays


def _conclude(cache: Cache, dataset: str, bound: BoundContents) -> None:
    if bound.note:
        notice(bound.note)
    if bound.new is not None:
        restore_rows(cache.folder / dataset / bound.view, *bound.new)


# -- which rows -----------------------------------------------------------------------------------------------------


def _bind(cache: Cache, dataset: str, view: str | None, contents: Contents, options: ImportOptions) -> BoundContents:
    _check_names(contents)
    modality = contents.modality or options.modality
    if options.modality not in (None, modality):
        raise UsageError(f"{contents.source.name} holds {modality} features, not {options.modality}")
    tables = [table for table in _tables(cache, dataset) if view in (None, table.view)]
    same = [table for table in tables if modality in (None, table.rows["modality"])]
    if view is not None and tables and not same:
        raise UsageError(f"{dataset}/{view} shows {tables[0].rows['modality']}, {contents.source.name} {modality}")
    matches = [(table, order) for table in same if (order := _order(table.table, contents)) is not None]
    if matches:
        return _bound_to(dataset, contents, matches)
    if same:
        raise _unlike(dataset, contents, same)
    if modality is None:
        raise UsageError(f"{contents.source.name} does not say what its rows show: --modality image, text or audio")
    return _new_rows(cache, dataset, view or contents.view or VIEWS[modality], contents, modality)


def _check_names(contents: Contents) -> None:
    """One id a row, unique and not empty; one group a row."""
    name, n = contents.source.name, contents.matrices[0].n
    for what, names in (("ids", contents.ids), ("groups", contents.groups)):
        if names is not None and len(names) != n:
            raise DataInvalid(f"{name} has {n} rows, but there are {len(names)} {what}")
        if names is not None and "" in names:
            raise DataInvalid(f"{name}: the entry of row {names.index('')} among the {what} is empty")
    if len(set(contents.ids)) != n:
        twice = [row_id for row_id, count in Counter(contents.ids).items() if count > 1]
        raise DataInvalid(f"{name}: {len(twice)} ids stand more than once, the first {twice[0]!r}")


def _tables(cache: Cache, dataset: str) -> list[RowTable]:
    """Every row table of a data set that an array is bound to."""
    keys: dict[tuple[str, str], ArrayKey] = {}
    for array in cache.arrays(dataset):
        try:
            key = array.key()
        except FeatcacheError:  # a damaged array says nothing about rows
            continue
        keys.setdefault((key.view, key.binds["rows"]["root"]), key)
    records = {view: cache.current_rows(dataset, view) for view in dict.fromkeys(view for view, _ in keys)}
    return [
        RowTable(view, dict(key.binds["rows"]), cache.rows(key), record.root == root if record else None)
        for (view, root), key in keys.items()
        for record in [records[view]]
    ]


def _readings(contents: Contents) -> list[tuple[str, ...]]:
    """The ids as they stand; for paths also with more and more of the folders taken off that all of them share.

    Where the tool saw the files says nothing about what they are called here.
    """
    readings = [contents.ids]
    if contents.are_paths:
        split = [PurePosixPath(name).parts for name in contents.ids]
        shortest = min(len(parts) for parts in split) - 1
        shared = next((i for i in range(shortest) if len({parts[i] for parts in split}) > 1), shortest)
        readings += [tuple("/".join(parts[cut:]) for parts in split) for cut in range(1, shared + 1)]
    return readings


def _order(table: Rows, contents: Contents) -> NDArray[np.int64] | None:
    """Row of the file for each row of the table, -1 for one that failed; None if the ids are not the same."""
    if len(table.ids) != len(contents.ids) + len(contents.failed):
        return None
    for ids in _readings(contents):
        place = {row_id: row for row, row_id in enumerate(ids)} | dict.fromkeys(contents.failed, -1)
        if place.keys() == set(table.ids):
            return np.array([place[row_id] for row_id in table.ids], np.int64)
    return None


def _bound_to(dataset: str, contents: Contents, matches: Sequence[tuple[RowTable, NDArray[np.int64]]]) -> BoundContents:
    views = sorted({table.view for table, _ in matches})
    if len(views) > 1:
        raise UsageError(
            f"{', '.join(views)} of {dataset} have the ids of {contents.source.name}; say which with --view"
        )
    known = [match for match in matches if any(match[0].table.hashes)] or list(matches)
    known = [match for match in known if match[0].current] or known
    if len(known) > 1:  # rows whose content was seen come before rows that were imported
        roots = ", ".join(table.rows["root"][:12] for table, _ in known)
        raise Ambiguous(
            f"{dataset}/{views[0]} was extracted with other content under the same ids (row tables {roots}). "
            "Extract it as it is now, which records which rows are current, or remove the arrays of all but one; then "
            "import again: featcache rm DATASET ENCODER"
        )
    table, order = known[0]
    note = ""
    if table.current is False and any(table.table.hashes):
        note = (
            f"{contents.source.name} has the ids of {table.rows['n']:,} older rows of {dataset}/{table.view}, not of "
            "the current ones: it is bound to the older ones, and reached by @digest alone"
        )
    if contents.groups is not None:
        pairs = enumerate(order)
        odd = next((row for row, at in pairs if at >= 0 and contents.groups[at] != table.table.groups[row]), None)
        if odd is not None:
            raise DataInvalid(
                f"{contents.source.name}: row {table.table.ids[odd]!r} is in group {contents.groups[order[odd]]!r}, "
                f"but in {table.table.groups[odd]!r} in {dataset}/{table.view}"
            )
    ids = table.table.ids if contents.failed else None
    return BoundContents(contents, table.view, table.rows, order, ids=ids, note=note)


def _unlike(dataset: str, contents: Contents, tables: Sequence[RowTable]) -> DataInvalid:
    """What to say where rows are cached, but others: counts, and the first id of each kind."""
    pairs = [(table, ids) for table in tables for ids in _readings(contents)]
    table, ids = max(pairs, key=lambda pair: len(set(pair[0].table.ids) & set(pair[1])))
    wanted, given = set(table.table.ids), set(ids)
    missing = [row_id for row_id in table.table.ids if row_id not in given]
    extra = [row_id for row_id in ids if row_id not in wanted]
    parts = [f"{len(missing)} of its rows are missing, the first {missing[0]!r}"] if missing else []
    parts += [f"{len(extra)} rows are not in it, the first {extra[0]!r}"] if extra else []
    return DataInvalid(
        f"{contents.source.name} has other rows than {dataset}/{table.view} ({len(wanted)} rows): {'; '.join(parts)}\n"
        "  The same rows under other names: --ids FILE. Other rows: --dataset or --view with a name of their own"
    )


def _new_rows(cache: Cache, dataset: str, view: str, contents: Contents, modality: Any) -> BoundContents:
    """A row table of unknown content; with the data set's own splits and labels if they cover its groups."""
    readings = _readings(contents)
    ids = readings[-1] if contents.ids[0].startswith("/") else readings[0]
    groups = contents.groups or ids
    unseen = ("",) * len(ids)  # hashes of content that nobody has seen here
    new = View(
        name=view,
        modality=modality,
        ids=ids,
        groups=groups,
        content=lambda _: b"",
        decode=lambda content: content,
        given_hashes=unseen,
    )
    overlays = {}
    for table in _tables(cache, dataset):
        if table.current is False:
            continue
        overlay = read_overlay(cache.folder / dataset, table.view, table.rows["root"])
        if set(groups) <= set(overlay.groups):
            overlays[overlay.root] = overlay
    overlay = next(iter(overlays.values())) if len(overlays) == 1 else _own_overlay(contents, groups)
    rows = {"modality": modality, "decoding": {}, "root": new.root, "n": len(ids)}
    return BoundContents(contents, view, rows, order=np.arange(len(ids)), new=(new, overlay))


def _own_overlay(contents: Contents, groups: Sequence[str]) -> Overlay:
    """Splits and labels as the file has them, of each group's first row; none where it has none."""
    first = {group: row for row, group in reversed([*enumerate(groups)])}
    unique = tuple(dict.fromkeys(groups))
    rows = [first[group] for group in unique]
    splits = contents.splits or ("",) * len(groups)
    labels = {name: tuple(column[row] for row in rows) for name, column in contents.labels.items()}
    return Overlay(unique, tuple(splits[row] for row in rows), labels)


# -- the values -----------------------------------------------------------------------------------------------------


def _stored_type(contents: Contents, matrix: Matrix, options: ImportOptions) -> np.dtype[Any]:
    """The type that the options name, else the file's; bfloat16 fits float32 without loss."""
    if options.dtype is None and matrix.dtype == "float64":
        raise UsageError(f"{contents.source.name} holds float64, which is not stored. Round it: --dtype float32")
    return np.dtype(options.dtype or {"bfloat16": "float32"}.get(matrix.dtype, matrix.dtype))


def _cast(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinity is found and named by `_check_values`
        return values.astype(dtype, copy=False)


def _check_values(contents: Contents, matrix: Matrix, dtype: np.dtype[Any]) -> None:
    """Reads every value once: finite in the file, and finite as stored."""
    step = max(1, _BLOCK_BYTES // (matrix.d * 4))
    for start in range(0, matrix.n, step):
        values = matrix.take(np.arange(start, min(start + step, matrix.n)))
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            row = start + int(bad[0])
            raise DataInvalid(f"{contents.source.name}: row {contents.ids[row]!r} (number {row}) of {matrix.layer} "
                              "holds NaN or infinity")  # fmt: skip
        large = np.flatnonzero(~np.isfinite(_cast(values, dtype)).all(axis=1))
        if len(large):
            row_id = contents.ids[start + int(large[0])]
            hint = "Import with --dtype float32" if dtype == np.float16 else "It cannot be stored"
            raise Overflow(
                f"{contents.source.name}: row {row_id!r} of {matrix.layer} passes the range of {dtype}. {hint}"
            )


def _hash(contents: Contents) -> str:
    """blake3 of the file's bytes; of several files, of the list of their hashes."""
    hashes = [blake3().update_mmap(path).hexdigest() for path in contents.files]
    return hashes[0] if len(hashes) == 1 else blake3(canonical(hashes)).hexdigest()


def _write(
    cache: Cache, dataset: str, encoder: str, bound: BoundContents, options: ImportOptions
) -> list[FeatureArray]:
    from featcache import __version__

    contents = bound.contents
    # the ids count too: the same file with its rows named otherwise is another array
    names = blake3(canonical(contents.ids)).hexdigest()
    imported = {"kind": contents.kind, "blake3": _hash(contents), "ids": names}
    provenance = {
        "default_layer": contents.default,
        "from": contents.source.resolve().name,
        "kind": contents.kind,
        **contents.facts,
        "library": {"featcache": __version__, "numpy": np.__version__},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if bound.new is not None:
        write_rows(cache.folder / dataset / bound.view, *bound.new)
    arrays: list[FeatureArray] = []
    for matrix in contents.matrices:
        dtype = _stored_type(contents, matrix, options)
        binds = {
            "format": FORMAT,
            "rows": bound.rows,
            "encoder": {"imported": imported},
            "layer": matrix.layer,
            "dtype": dtype.name,
            "d": matrix.d,
        }
        key = ArrayKey(
            dataset=dataset,
            view=bound.view,
            encoder=encoder,
            layer=matrix.layer,
            binds=binds,
            provenance={**provenance, "file_dtype": matrix.dtype},
        )

        def block(start: int, stop: int, matrix: Matrix = matrix, dtype: np.dtype[Any] = dtype) -> np.ndarray:
            rows = bound.order[start:stop]
            values = _cast(matrix.take(rows[rows >= 0]), dtype)
            if (rows >= 0).all():
                return values
            full = empty_rows(len(rows), matrix.d, dtype)
            full[rows >= 0] = values
            return full

        arrays.append(write_array(cache, key, block, ids=bound.ids))
    return arrays
