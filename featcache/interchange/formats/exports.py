"""Files that `featcache export` wrote: values with ids, groups, splits, labels, failed rows and the key they came from.

`featcache.interchange.exporting` says what they hold. Values are read in place, one block of rows at a time; texts are
read whole.
"""

import json
import math
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
from featcache.interchange.formats.files import check_stored, check_texts, named_damage
from featcache.interchange.formats.hdf5 import open_hdf5, own_dataset, read_texts
from featcache.interchange.formats.npy import read_header
from featcache.interchange.formats.row_names import read_row_names
from featcache.interchange.formats.tables import columns_of, parquet_claims, scan
from featcache.selectors import check_name, is_layer
from featcache.store.digest import ArrayKey
from featcache.store.run_splits import runs_of
from featcache.store.schema import require_form

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
    with named_damage(source.name, "is no whole export of featcache"):
        file = _READERS[source.suffix.lower()](source)
        value = json.loads(file.key)
        key = ArrayKey.from_json(require_form("key", value, f"key.json in {source.name}"))
        columns, modality = dict(file.columns), key.binds["rows"]["modality"]
        ids, groups, splits = (tuple(columns.pop(name)) for name in ("ids", "groups", "splits"))
        labels = {name.removeprefix(_LABEL): tuple(column) for name, column in columns.items()}
        check_name(key.view, "a view")
        if modality not in ("image", "text", "audio"):
            raise ValueError(f"its rows show {modality[:80]!r}")
        runs = runs_of(key)
    _check_columns(source, file)
    chosen = layer or key.layer
    if not is_layer(chosen):
        raise UsageError(f"{chosen!r} is not a layer and its pooling, such as last.mean or 6.cls")
    if options.ids is not None:
        given = read_row_names(options.ids, options.id_column)
        ids, groups = given.ids, given.groups or given.ids
    facts: dict[str, Any] = {"exported": value, "exported_root": file.root}
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
            view=key.view,
            failed=tuple(file.failed),
            splits=splits,
            labels=labels,
        )
    ]


def is_export(source: Path) -> bool:
    """Whether an HDF5 file is one of ours, and not of another tool."""
    with open_hdf5(source) as opened:
        return KEY in opened


def _check_columns(source: Path, file: _File) -> None:
    odd = next((name for name, column in file.columns.items() if len(column) != file.values.n), None)
    if odd is not None:
        raise DataInvalid(f"{source.name} has {file.values.n} rows, but {len(file.columns[odd])} entries in {odd}")
    every = [text for column in (*file.columns.values(), file.failed) for text in column]
    if not all(isinstance(text, str) for text in every):
        raise DataInvalid(f"{source.name} holds something else than text in its columns")


def _read_hdf5(source: Path) -> _File:
    with open_hdf5(source) as opened:
        texts = read_texts(opened, [name for name in opened if name != "values"], source)
        values = own_dataset(opened, "values", source)
        part = matrix_part(source.name, values.shape, values.dtype.name, _rows_of_hdf5(source))
    key, root, failed = (texts.pop(name) for name in (KEY, "root", "failed"))
    return _File({name: column.tolist() for name, column in texts.items()}, failed.tolist(), key, root, part)


def _rows_of_hdf5(source: Path) -> Callable[[NDArray[np.int64]], np.ndarray]:
    def read(rows: NDArray[np.int64]) -> np.ndarray:
        with open_hdf5(source) as opened:
            return rows_of(own_dataset(opened, "values", source), rows)

    return read


def _read_npz(source: Path) -> _File:
    with zipfile.ZipFile(source) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if KEY not in infos:
            raise KeyError(KEY)
        values = infos.pop("values")
        check_texts(sum(info.file_size for info in infos.values()), source.name)
        columns = {name: _member(archive, info, source).tolist() for name, info in infos.items()}
        array = _mapped_member(archive, values, source)
    key, root, failed = (columns.pop(name) for name in (KEY, "root", "failed"))
    return _File(columns, failed, key, root, matrix_part(source.name, array.shape, array.dtype.name, _rows(array)))


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path) -> np.ndarray:
    """A member, read whole."""
    where = f"{source.name}/{info.filename}"
    check_stored(info.file_size, info.compress_size, where, packed=info.compress_type != zipfile.ZIP_STORED)
    with archive.open(info) as member:
        header = read_header(member, info.file_size, where)
        content = member.read(header.bytes)
    if len(content) != header.bytes:
        raise ValueError(f"{info.filename} ends too early")
    return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _mapped_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path) -> np.ndarray:
    """The values, mapped where they lie uncompressed, as exports have them; else read whole."""
    if info.compress_type != zipfile.ZIP_STORED:
        check_texts(info.file_size, f"{source.name}/{info.filename}, which is compressed and so read whole,")
        return _member(archive, info, source)
    with archive.open(info) as member:
        header = read_header(member, info.compress_size, f"{source.name}/{info.filename}")
    with source.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(_LOCAL_HEADER)  # its last four bytes give the lengths of the name and the extra field
    start = info.header_offset + _LOCAL_HEADER
    start += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    order = "F" if header.fortran else "C"
    return np.memmap(source, header.dtype, "r", start + header.offset, header.shape, order)


def _rows(values: np.ndarray) -> Callable[[NDArray[np.int64]], np.ndarray]:
    return lambda rows: rows_of(values, rows)


def _read_parquet(source: Path) -> _File:
    import polars as pl

    lazy = scan(source)
    schema, metadata = lazy.collect_schema(), pl.read_parquet_metadata(source)
    kind = schema["values"]
    if not isinstance(kind, pl.Array) or kind.inner is None:
        raise DataInvalid(f"{source.name}: values are {kind}; wanted fixed-size lists of numbers")
    if not all(name == "values" or column == pl.String for name, column in schema.items()):
        raise DataInvalid(f"{source.name} holds something else than text in its columns")
    sizes = parquet_claims(source, ["values"], limit="import")
    if sizes.values != sizes.rows * kind.size:
        raise DataInvalid(f"{source.name} has {sizes.values:,} values in {sizes.rows:,} rows of {kind.size:,}")
    columns = columns_of(source, lazy, [name for name in schema if name != "values"])

    def read(rows: NDArray[np.int64]) -> np.ndarray:
        first, last = int(rows[0]), int(rows[-1])
        block = lazy.slice(first, last - first + 1).select("values").collect()["values"].to_numpy()
        return np.asarray(block)[rows - first]

    part = matrix_part(source.name, (sizes.rows, kind.size), str(kind.inner).lower(), read)
    return _File(columns, json.loads(metadata["failed"]), metadata[KEY], metadata["root"], part)


def _read_safetensors(source: Path) -> _File:
    from safetensors import safe_open

    with safe_open(source, "np") as file:
        metadata, names = file.metadata() or {}, [name for name in file.keys() if name != "values"]  # noqa: SIM118
        check_texts(sum(math.prod(file.get_slice(name).get_shape()) for name in names), source.name)
        texts = {name: json.loads(file.get_tensor(name).tobytes()) for name in names}
        head = file.get_slice("values")
        shape, dtype = head.get_shape(), head.get_dtype()

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
