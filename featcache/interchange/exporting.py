"""Exports: one file of another format that holds an array's values, their rows and the key.

Every format holds the same entries, so that whoever reads one knows them all: `values` [n, d] in the stored dtype, bit
for bit; `ids`, `groups`, `splits` and `label.<name>`, one text a row; `failed`, the ids of rows that could not be
encoded and are left out; `key.json` (what was asked, as JSON text) and `root` (what was got). Nothing is pickled, and
memory holds one chunk of values at a time, whatever the format.
"""

import json
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.storage.durable import link_exclusively, sync_file, sync_folder
from featcache.storage.outputs import named_output_errors, unfinished_output
from featcache.store.array import FeatureArray
from featcache.store.records import flat


@dataclass(frozen=True)
class Export:
    """What one export holds."""

    n: int  # rows that are written: those of the array without the failed ones
    d: int
    dtype: np.dtype[Any]  # as stored
    columns: Mapping[str, Sequence[str]]  # "ids", "groups", "splits" and "label.<name>": one text a row
    failed: Sequence[str]  # ids of the rows that are left out
    key: str  # the array's key as JSON text
    root: str  # hex
    blocks: Callable[[], Iterator[tuple[int, np.ndarray]]]  # (first row, [rows, d]) chunk by chunk; called once


def export_features(cache: Cache, array: FeatureArray, path: Path, *, overwrite: bool = False) -> Path:
    """Writes a complete array to one file, whole or not at all; the format follows from the suffix.

    Args:
        cache: The cache that holds the array.
        array: A complete array, as `Cache.find` returns it.
        path: The file; its folder must exist. One of the suffixes of `FORMATS`.
        overwrite: Replace a file that is there; readers of it see the old bytes or the new ones.

    Returns:
        The path.

    Raises:
        UsageError: If the suffix is unknown, the folder is missing, the file is there, a library is missing, or the
            format cannot hold a text.
        FeaturesNotCached: If the array is not complete.
        Damaged: If any byte is not what was recorded.
        OutputFailed: If the file cannot be written.
    """
    write = _writer(path)
    if path.is_dir() or not path.parent.is_dir():
        what = f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"{what}; name a file in a folder that exists")
    if path.exists() and not overwrite:
        raise _taken(path)
    export = _export(cache, array)
    with named_output_errors(path):
        with unfinished_output(path) as temporary:
            write(temporary, export)
            with temporary.open("rb+") as file:
                sync_file(file.fileno())
            if overwrite:
                temporary.replace(path)
            elif not link_exclusively(temporary, path):
                raise _taken(path)
        sync_folder(path.parent)
    return path


def _writer(path: Path) -> Callable[[Path, Export], None]:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path.name}: cannot export to {path.suffix or 'a file without suffix'}; "
                         f"known are {', '.join(FORMATS)}") from None  # fmt: skip


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} is there already. Replace it with --overwrite, or name another file")


def _export(cache: Cache, array: FeatureArray) -> Export:
    key, complete = array.key(), array.complete()
    rows = cache.describe(array)
    kept = ~np.isin(rows.ids.astype(str), sorted(complete.failed))
    described = {"ids": rows.ids, "groups": rows.groups, "splits": rows.splits}
    described |= {f"label.{name}": column for name, column in rows.labels.items()}
    columns = {name: column[kept].tolist() for name, column in described.items()}
    text = json.dumps(key.to_json(), indent=1, ensure_ascii=False)

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        reader, done = cache.reader(array), 0
        for chunk in range(complete.layout.chunks):
            start, stop = complete.layout.span(chunk)
            block = reader.read(start, stop)[kept[start:stop]]
            yield done, block
            done += len(block)

    return Export(
        n=int(kept.sum()),
        d=complete.d,
        dtype=np.dtype(complete.dtype),
        columns=columns,
        failed=rows.ids[~kept].tolist(),
        key=text,
        root=complete.root,
        blocks=blocks,
    )


def _refuse(columns: Mapping[str, Sequence[str]], what: str) -> None:
    """Refuses the one character that C strings and fixed-width arrays lose: NUL."""
    for name, column in columns.items():
        bad = next((text for text in column if "\0" in text), None)
        if bad is not None:
            raise UsageError(f"{what} cannot hold the character NUL of {bad!r} in {name}; export to .parquet")


def _write_hdf5(path: Path, export: Export) -> None:
    """Datasets in one file; values contiguous, since that reads several times as fast as checksummed HDF5 chunks."""
    from featcache.interchange.formats.hdf5 import import_h5py

    h5py = import_h5py()
    columns = {**export.columns, "failed": export.failed}
    _refuse(columns, "HDF5")
    slash = next((name for name in columns if "/" in name), None)
    if slash is not None:
        raise UsageError(f"HDF5 takes the / in {slash!r} for a group; export to .npz or .parquet")
    texts = sum(len(text.encode()) + _HDF5_TEXT_BYTES for column in columns.values() for text in column)
    _require_room(path, export.n * export.d * export.dtype.itemsize + texts + len(export.key) + _HDF5_HEAD_BYTES)
    with h5py.File(path, "w") as file:
        values = file.create_dataset("values", (export.n, export.d), export.dtype)
        for start, block in export.blocks():
            values[start : start + len(block)] = block
        for name, column in columns.items():
            file.create_dataset(name, data=np.array(column, object), dtype=h5py.string_dtype())
        file["key.json"] = export.key  # datasets: an attribute may hold no more than 64 kB
        file["root"] = export.root


def _require_room(path: Path, size: int) -> None:
    """Fails as a write does where the disk has no room for a file; HDF5 breaks off in ways of its own, or crashes."""
    try:
        with path.open("xb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    finally:
        path.unlink(missing_ok=True)


def _write_npz(path: Path, export: Export) -> None:
    """A ZIP of .npy files, uncompressed as `numpy.savez` writes it, texts as fixed-width Unicode arrays."""
    columns = {**export.columns, "failed": export.failed, "key.json": [export.key], "root": [export.root]}
    _refuse(columns, "npz")
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(zipfile.ZipInfo("values.npy"), "w", force_zip64=True) as member:
            descr = np.lib.format.dtype_to_descr(export.dtype)
            header = {"descr": descr, "fortran_order": False, "shape": (export.n, export.d)}
            np.lib.format.write_array_header_1_0(cast("Any", member), header)
            for _, block in export.blocks():
                member.write(flat(block))
        for name, column in columns.items():
            texts = np.array(column, np.str_)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                one = name in ("key.json", "root")
                np.lib.format.write_array(cast("Any", member), texts[0] if one else texts, allow_pickle=False)


def _write_parquet(path: Path, export: Export) -> None:
    """A table, values in fixed-size lists, row groups of some megabytes; key, root and failed ids are its metadata."""
    import polars as pl
    from polars.io.plugins import register_io_source

    if not hasattr(pl, "Float16"):
        raise UsageError(f"Parquet needs a polars with Float16, this is {pl.__version__}. Run: pip install -U polars")
    kind = pl.Array({"float16": pl.Float16, "float32": pl.Float32, "int32": pl.Int32}[export.dtype.name], export.d)
    schema = pl.Schema({**dict.fromkeys(export.columns, pl.String()), "values": kind})
    broken: list[Exception] = []

    def frames(*_: Any) -> Iterator[pl.DataFrame]:
        try:
            for start, block in export.blocks():
                here = slice(start, start + len(block))
                texts = {name: column[here] for name, column in export.columns.items()}
                yield pl.DataFrame({**texts, "values": pl.Series(block, dtype=kind)}, schema=schema)
        except Exception as error:  # polars would wrap it in an error of its own
            broken.append(error)
            raise

    rows = max(1, min(export.n, _PARQUET_BYTES // (export.d * export.dtype.itemsize)))
    metadata = {"key.json": export.key, "root": export.root, "failed": json.dumps(list(export.failed))}
    try:
        register_io_source(frames, schema=schema).sink_parquet(
            path, compression="uncompressed", statistics=False, row_group_size=rows, metadata=metadata
        )
    except pl.exceptions.PolarsError as error:
        raise broken[0] if broken else _system_error(error) from error


def _system_error(error: Exception) -> Exception:
    """The system's error that polars reports as one of the format, where it names one."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error


def _write_safetensors(path: Path, export: Export) -> None:
    """Values as one tensor; texts as uint8 tensors that hold a JSON list in UTF-8 (the header may not pass 100 MB)."""
    columns = {**export.columns, "failed": export.failed}
    texts = {name: json.dumps(list(column), ensure_ascii=False).encode() for name, column in columns.items()}
    size = export.n * export.d * export.dtype.itemsize
    kind = {"float16": "F16", "float32": "F32", "int32": "I32"}[export.dtype.name]
    header: dict[str, Any] = {
        "__metadata__": {"key.json": export.key, "root": export.root},
        "values": {"dtype": kind, "shape": [export.n, export.d], "data_offsets": [0, size]},
    }
    for name, text in texts.items():
        header[name] = {"dtype": "U8", "shape": [len(text)], "data_offsets": [size, size + len(text)]}
        size += len(text)
    body = json.dumps(header, ensure_ascii=False).encode()
    body += b" " * (-len(body) % 8)  # so that the values are aligned
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(body)) + body)
        for _, block in export.blocks():
            file.write(flat(block))
        for text in texts.values():
            file.write(text)


_HDF5_TEXT_BYTES = 40  # a text's place in a column and on the heap, beside its characters
_HDF5_HEAD_BYTES = 65_536
_PARQUET_BYTES = 4_000_000  # of values in one row group
FORMATS: Mapping[str, Callable[[Path, Export], None]] = MappingProxyType(
    {
        ".h5": _write_hdf5,
        ".hdf5": _write_hdf5,
        ".npz": _write_npz,
        ".parquet": _write_parquet,
        ".safetensors": _write_safetensors,
    }
)
