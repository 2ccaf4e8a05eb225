"""Files that `featcache export` wrote: values with ids, groups, splits, labels, failed rows and the key they came from.

`featcache.interchange.exporting` says what they hold. Values are read in place, one block of rows at a time; texts are
read whole.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.data.errors import DataInvalid
from featcache.errors import UsageError
from featcache.interchange.formats.contents import Contents, ImportOptions, MatrixPart, matrix_part, rows_of, stack
from featcache.interchange.formats.hdf5 import open_hdf5, own_dataset
from featcache.interchange.formats.row_names import read_row_names
from featcache.selectors import is_layer
from featcache.store.digest import ArrayKey
from featcache.store.run_splits import runs_of

KEY = "key.json"
_LABEL = "label."
_LOCAL_HEADER = 30  # bytes before a ZIP member's name


@dataclass(frozen=True)
class _File:
    """The entries of one export."""

    columns: Mapping[str, list[str]]  # "ids", "groups", "splits" and "label.<name>"
    failed: list[str]
    key: str  # JSON
    root: str
    values: MatrixPart


def read_export(source: Path, layer: str | None, options: ImportOptions) -> list[Contents]:
    """The rows of one array that was exported, with what the file says of them. Errors as `read_source`.

    A layer that is named takes the place of the file's; ids in a file of their own take the place of its ids.
    """
    try:
        file = _READERS[source.suffix.lower()](source)
        key = ArrayKey.from_json(json.loads(file.key))
        columns, rows = dict(file.columns), key.binds["rows"]
        ids, groups, splits = (tuple(columns.pop(name)) for name in ("ids", "groups", "splits"))
        labels = {name.removeprefix(_LABEL): tuple(column) for name, column in columns.items()}
        names, modality, runs = (key.view, key.layer), rows["modality"], runs_of(key)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise DataInvalid(f"{source.name} is no whole export of featcache: {_reason(error)}") from error
    _check_columns(source, file)
    chosen = layer or names[1]
    if not is_layer(chosen):
        raise UsageError(f"{chosen!r} is not a layer and its pooling, such as last.mean or 6.cls")
    if options.ids is not None:
        given = read_row_names(options.ids, options.id_column)
        ids, groups = given.ids, given.groups or given.ids
    facts: dict[str, Any] = {"exported": json.loads(file.key), "exported_root": file.root}
    return [
        Contents(
            kind="featcache",
            source=source,
            files=(source,),
            ids=ids,
            matrices=(stack([file.values], chosen),),
            default=chosen,
            groups=groups,
            modality=modality,
            facts=facts if runs is None else {**facts, "runs": runs},
            view=names[0],
            failed=tuple(file.failed),
            splits=splits,
            labels=labels,
        )
    ]


def is_export(source: Path) -> bool:
    """Whether an HDF5 file is one of ours, and not of another tool."""
    with open_hdf5(source) as opened:
        return KEY in opened


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]


def _check_columns(source: Path, file: _File) -> None:
    odd = next((name for name, column in file.columns.items() if len(column) != file.values.n), None)
    if odd is not None:
        raise DataInvalid(f"{source.name} has {file.values.n} rows, but {len(file.columns[odd])} entries in {odd}")
    every = [text for column in (*file.columns.values(), file.failed) for text in column]
    if not all(isinstance(text, str) for text in every):
        raise DataInvalid(f"{source.name} holds something else than text in its columns")


def _read_hdf5(source: Path) -> _File:
    with open_hdf5(source) as opened:
        values = own_dataset(opened, "values", source)
        part = matrix_part(source.name, values.shape, values.dtype.name, _rows_of_hdf5(source))
        texts = {name: own_dataset(opened, name, source).asstr()[()] for name in opened if name != "values"}
    key, root, failed = (texts.pop(name) for name in (KEY, "root", "failed"))
    return _File({name: column.tolist() for name, column in texts.items()}, failed.tolist(), key, root, part)


def _rows_of_hdf5(source: Path) -> Callable[[NDArray[np.int64]], np.ndarray]:
    def read(rows: NDArray[np.int64]) -> np.ndarray:
        with open_hdf5(source) as opened:
            return rows_of(own_dataset(opened, "values", source), rows)

    return read


def _read_npz(source: Path) -> _File:
    with zipfile.ZipFile(source) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if KEY not in names:
            raise KeyError(KEY)
        columns = {name: _member(archive, name).tolist() for name in names if name != "values"}
        values = _mapped_member(archive, source)
    key, root, failed = (columns.pop(name) for name in (KEY, "root", "failed"))
    return _File(columns, failed, key, root, matrix_part(source.name, values.shape, values.dtype.name, _rows(values)))


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _mapped_member(archive: zipfile.ZipFile, source: Path) -> np.ndarray:
    """The values, mapped where they lie uncompressed, as exports have them; else read whole."""
    info = archive.getinfo("values.npy")
    with archive.open(info) as member:
        plain = np.lib.format.read_magic(member) == (1, 0) and info.compress_type == zipfile.ZIP_STORED
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member) if plain else ((), False, np.dtype("O"))
        skip = member.tell()
    if not plain or fortran or dtype.hasobject:
        return _member(archive, "values")
    with source.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(_LOCAL_HEADER)  # its last four bytes give the lengths of the name and the extra field
    start = info.header_offset + _LOCAL_HEADER
    start += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    return np.memmap(source, dtype, "r", offset=start + skip, shape=shape)


def _rows(values: np.ndarray) -> Callable[[NDArray[np.int64]], np.ndarray]:
    return lambda rows: rows_of(values, rows)


def _read_parquet(source: Path) -> _File:
    import polars as pl

    try:
        metadata = pl.read_parquet_metadata(source)
        lazy = pl.scan_parquet(source, glob=False)
        schema = lazy.collect_schema()
        texts = lazy.select(name for name in schema if name != "values").collect()
        n = texts.height
    except pl.exceptions.PolarsError as error:
        raise DataInvalid(f"{source.name} cannot be read as Parquet: {error}") from error
    kind = schema["values"]
    if not isinstance(kind, pl.Array) or kind.inner is None:
        raise DataInvalid(f"{source.name}: values are {kind}; wanted fixed-size lists of numbers")
    dtype = str(kind.inner).lower()  # "float16", "float32" or "int32"

    def read(rows: NDArray[np.int64]) -> np.ndarray:
        first, last = int(rows[0]), int(rows[-1])
        block = lazy.slice(first, last - first + 1).select("values").collect()["values"].to_numpy()
        return np.asarray(block)[rows - first]

    columns = {name: texts[name].to_list() for name in texts.columns}
    part = matrix_part(source.name, (n, kind.size), dtype, read)
    return _File(columns, json.loads(metadata["failed"]), metadata[KEY], metadata["root"], part)


def _read_safetensors(source: Path) -> _File:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, "np") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            texts = {name: json.loads(file.get_tensor(name).tobytes()) for name in names if name != "values"}
            head = file.get_slice("values")
            shape, dtype = head.get_shape(), head.get_dtype()
    except SafetensorError as error:
        raise DataInvalid(f"{source.name} cannot be read as safetensors: {error}") from error

    def read(rows: NDArray[np.int64]) -> np.ndarray:
        first, last = int(rows[0]), int(rows[-1])
        with safe_open(source, "np") as file:
            return np.asarray(file.get_slice("values")[first : last + 1])[rows - first]

    kind = {"F16": "float16", "F32": "float32", "F64": "float64", "I32": "int32"}.get(str(dtype), str(dtype))
    part = matrix_part(source.name, shape, kind, read)
    failed = texts.pop("failed")
    return _File(texts, failed, metadata[KEY], metadata["root"], part)


_READERS: Mapping[str, Callable[[Path], _File]] = MappingProxyType(
    {
        ".h5": _read_hdf5,
        ".hdf5": _read_hdf5,
        ".npz": _read_npz,
        ".parquet": _read_parquet,
        ".safetensors": _read_safetensors,
    }
)
SUFFIXES = tuple(_READERS)
