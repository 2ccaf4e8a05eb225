"""Contents of files of other tools: matrices of rows, one a layer, and the names of the rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.data.errors import DataInvalid
from featcache.data.views import Modality
from featcache.errors import UsageError
from featcache.interchange.formats.files import named_damage
from featcache.limits import check_limit
from featcache.selectors import is_layer

Take = Callable[[NDArray[np.int64]], np.ndarray]
_ITEM_BYTES = {"float16": 2, "float32": 4, "float64": 8, "bfloat16": 2}
FLOATS = tuple(_ITEM_BYTES)


@dataclass(frozen=True)
class ImportOptions:
    """What a file does not say itself."""

    format: str | None = None  # a name of `formats.FORMATS`; None: as detected
    ids: Path | None = None  # file with the ids of the rows, in the file's order; see `row_names.read_row_names`
    id_column: str | None = None  # column of the ids, in that file or in the tool's own metadata
    modality: Modality | None = None  # what the rows show
    dtype: str | None = None  # stored: "float16" or "float32"; None: as in the file, where that is one of the two


@dataclass(frozen=True)
class Matrix:
    """The rows of one layer."""

    layer: str  # and pooling
    n: int
    d: int
    dtype: str  # one of `FLOATS`, as in the file; bfloat16 is handed out as float32
    take: Take  # distinct row numbers, in any order -> [rows, d]


@dataclass(frozen=True)
class Contents:
    """What one file or folder holds of one modality."""

    kind: str  # name of the format
    source: Path
    files: tuple[Path, ...]  # that hold the values, in row order
    ids: tuple[str, ...]
    matrices: tuple[Matrix, ...]  # one a layer
    default: str  # the layer that is meant when none is named
    groups: tuple[str, ...] | None = None  # None: every row is its own
    are_paths: bool = False  # the ids are paths as the tool saw them: only their ends mean something elsewhere
    modality: Modality | None = None  # what the rows show; None where the file does not tell
    facts: Mapping[str, Any] = field(default_factory=lambda: {})  # what else the file says, for the provenance
    view: str | None = None  # what the view is called, where the file tells
    failed: tuple[str, ...] = ()  # ids of rows that have no values, beside those of `ids`
    splits: tuple[str, ...] | None = None  # of each row, where the file tells; rows of one group have one
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {})  # column -> one a row


@dataclass(frozen=True)
class MatrixPart:
    """Consecutive rows of a matrix that lie in one place."""

    where: str  # what errors call it
    n: int
    d: int
    dtype: str  # one of `FLOATS`
    read: Take  # ascending row numbers -> [rows, d]


def matrix_part(where: str, shape: Sequence[int], dtype: str, read: Take) -> MatrixPart:
    """A part; DataInvalid if it is not [n, d] or holds no floating-point numbers, or as soon as it reads otherwise."""
    if len(shape) != 2 or any(type(length) is not int or length < 1 for length in shape):
        raise DataInvalid(f"{where} has shape {list(shape)}; wanted [rows, features], at least one of each")
    if dtype not in FLOATS:
        raise DataInvalid(f"{where} holds {dtype}; wanted one of {', '.join(FLOATS)}")

    def read_checked(rows: NDArray[np.int64]) -> np.ndarray:
        with named_damage(where, "cannot be read"):
            block = read(rows)
            if block.shape != (len(rows), shape[1]) or block.dtype.kind != "f":
                raise ValueError(f"{len(rows)} rows came out as {block.dtype} {list(block.shape)}")
            return block

    return MatrixPart(where, n=shape[0], d=shape[1], dtype=dtype, read=read_checked)


def rows_of(array: Any, rows: NDArray[np.int64]) -> np.ndarray:
    """Ascending rows of anything that slices like NumPy; a range is read as one."""
    first, last = int(rows[0]), int(rows[-1])
    return np.asarray(array[first : last + 1] if last - first + 1 == len(rows) else array[rows])


def stack(parts: Sequence[MatrixPart], layer: str) -> Matrix:
    """Parts as one matrix; DataInvalid if their width or type differ, BeyondLimit if they are more than is imported."""
    head = parts[0]
    check_limit("import", sum(part.n for part in parts) * head.d * _ITEM_BYTES[head.dtype], head.where)
    odd = next((part for part in parts if (part.d, part.dtype) != (head.d, head.dtype)), None)
    if odd is not None:
        raise DataInvalid(f"{odd.where} is {odd.d} wide ({odd.dtype}), {head.where} is {head.d} wide ({head.dtype})")
    ends = np.cumsum([part.n for part in parts])

    def take(rows: NDArray[np.int64]) -> np.ndarray:
        order = np.argsort(rows)
        ascending = rows[order]
        bounds = np.searchsorted(ascending, ends)
        out: np.ndarray | None = None
        for number, part in enumerate(parts):
            low, high = (0 if number == 0 else int(bounds[number - 1])), int(bounds[number])
            if high > low:
                block = part.read(ascending[low:high] - (int(ends[number]) - part.n))
                if out is None:
                    out = np.empty((len(rows), head.d), block.dtype)
                out[order[low:high]] = block
        return np.empty((0, head.d), np.float32) if out is None else out

    return Matrix(layer, n=int(ends[-1]), d=head.d, dtype=head.dtype, take=take)


def wanted_layer(layer: str | None, source: Path) -> str:
    """The layer the user named, for a file that does not say what it holds; UsageError if it is not a layer."""
    if layer is None:
        raise UsageError(
            f"{source.name} does not say which layer it holds. Say it with --layer: last.mean (after the last norm, "
            "mean over tokens), 6.cls (output of block 6, class token), ..."
        )
    if not is_layer(layer):
        raise UsageError(f"{layer!r} is not a layer and its pooling, such as last.mean or 6.cls")
    return layer
