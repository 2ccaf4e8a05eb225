"""What does a file of another tool hold? Matrices of rows, one a layer, and the names of the rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.data.errors import DataInvalid
from featcache.data.views import Modality
from featcache.errors import UsageError
from featcache.selectors import is_layer

Take = Callable[[NDArray[np.int64]], np.ndarray]
FLOATS = ("float16", "float32", "float64", "bfloat16")


@dataclass(frozen=True)
class ImportOptions:
    """What a file does not say itself.

    Args:
        format: A name of `formats.FORMATS`; None tells it from the file.
        ids: File with the ids of the rows, in the file's order; see `row_names.read_row_names`.
        id_column: Column of the ids, in that file or in the tool's own metadata.
        modality: "image", "text" or "audio": what the rows show.
        dtype: Store as "float16" or "float32"; None keeps what the file has, where that is one of the two.
    """

    format: str | None = None
    ids: Path | None = None
    id_column: str | None = None
    modality: Modality | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Matrix:
    """The rows of one layer.

    Args:
        layer: Layer and pooling.
        n: Rows.
        d: Width.
        dtype: One of `FLOATS`, as the file has it; bfloat16 is handed out as float32.
        take: Distinct row numbers, in any order -> [rows, d].
    """

    layer: str
    n: int
    d: int
    dtype: str
    take: Take


@dataclass(frozen=True)
class Contents:
    """What one file or folder holds of one modality.

    Args:
        kind: Name of the format.
        source: The file or folder.
        files: The files that hold the values, in row order.
        ids: Id of each row.
        groups: Group of each row; None where every row is its own.
        are_paths: The ids are paths of files as the tool saw them: only their ends mean something elsewhere.
        modality: What the rows show; None where the file does not tell.
        matrices: One a layer.
        default: The layer that is meant when none is named.
        facts: What else the file says, for the provenance.
    """

    kind: str
    source: Path
    files: tuple[Path, ...]
    ids: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    default: str
    groups: tuple[str, ...] | None = None
    are_paths: bool = False
    modality: Modality | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: {})


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a matrix that lie in one place.

    Args:
        where: What errors call it.
        n: Rows.
        d: Width.
        dtype: One of `FLOATS`.
        read: Ascending row numbers -> [rows, d].
    """

    where: str
    n: int
    d: int
    dtype: str
    read: Take


def part_of(where: str, shape: Sequence[int], dtype: str, read: Take) -> Part:
    """A part, checked to be rows of numbers.

    Raises:
        DataInvalid: If it is not [n, d] or holds no floating-point numbers.
    """
    if len(shape) != 2 or 0 in shape:
        raise DataInvalid(f"{where} has shape {list(shape)}; wanted [rows, features], at least one of each")
    if dtype not in FLOATS:
        raise DataInvalid(f"{where} holds {dtype}; wanted one of {', '.join(FLOATS)}")
    return Part(where, shape[0], shape[1], dtype, read)


def rows_of(array: Any, rows: NDArray[np.int64]) -> np.ndarray:
    """Ascending rows of anything that slices like NumPy; a range is read as one."""
    first, last = int(rows[0]), int(rows[-1])
    return np.asarray(array[first : last + 1] if last - first + 1 == len(rows) else array[rows])


def stack(parts: Sequence[Part], layer: str) -> Matrix:
    """Parts as one matrix.

    Raises:
        DataInvalid: If their width or type differ.
    """
    head = parts[0]
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

    return Matrix(layer, int(ends[-1]), head.d, head.dtype, take)


def wanted_layer(layer: str | None, source: Path) -> str:
    """The layer the user named, for a file that does not say what it holds.

    Raises:
        UsageError: If none was named, or its name is not of the form.
    """
    if layer is None:
        raise UsageError(
            f"{source.name} does not say which layer it holds. Say it with --layer: last.mean (after the last norm, "
            "mean over tokens), 6.cls (output of block 6, class token), ..."
        )
    if not is_layer(layer):
        raise UsageError(f"{layer!r} is not a layer and its pooling, such as last.mean or 6.cls")
    return layer
