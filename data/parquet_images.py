"""Single images out of Parquet files that are larger than memory."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.data.errors import DataInvalid, DataMissing

if TYPE_CHECKING:
    import polars as pl

# The Hub writes image columns in row groups of 100 rows, so one slice costs one row group.
SLICE_ROWS = 100
# Views are hashed by four threads, each of which may stand in another slice or cross into the next.
KEPT_SLICES = 8


@dataclass(frozen=True)
class Cell:
    """Where one image lies."""

    file: int  # number
    row: int  # within the file


class ParquetImages:
    """The `bytes` field of an image column of several Parquet files, one cell at a time, with a small cache.

    Safe from threads: a slice is read once even when several threads want it. Reading in storage order reads every
    byte once; at most `kept` slices of `slice_rows` rows (about 100 MB of photos) are in memory.

    Args:
        files: The Parquet files, in order.
        column: A struct column with a binary field "bytes" (what the Hub stores for images), or a binary column;
            DataInvalid if a file has none.
        slice_rows: Rows read at a time.
        kept: Slices kept in memory.
    """

    def __init__(self, files: Sequence[Path], column: str, slice_rows: int = SLICE_ROWS, kept: int = KEPT_SLICES):
        import polars as pl

        self.files = tuple(files)
        self.slices_read = 0
        self._slice_rows = slice_rows
        self._kept = kept
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], pl.Series] = OrderedDict()
        for file in self.files:
            self._expression = _bytes_of(file, column)

    def read(self, cell: Cell) -> bytes:
        """The bytes of one image; DataInvalid, with file and row, if the cell is empty."""
        content = self.read_or_empty(cell)
        if not content:
            raise DataInvalid(f"{self.files[cell.file].name}: row {cell.row} has no image bytes")
        return content

    def read_or_empty(self, cell: Cell) -> bytes:
        """The bytes of one image; none where the cell is empty, for the decoder to refuse."""
        start = cell.row // self._slice_rows * self._slice_rows
        return self._slice(cell.file, start)[cell.row - start] or b""

    def _slice(self, file: int, start: int) -> "pl.Series":
        # The lock is held while reading: other threads mostly want the same slice, and polars reads with all cores.
        with self._lock:
            if (file, start) in self._cache:
                self._cache.move_to_end((file, start))
                return self._cache[file, start]
            series = _read_slice(self.files[file], self._expression, start, self._slice_rows)
            self.slices_read += 1
            self._cache[file, start] = series
            while len(self._cache) > self._kept:
                self._cache.popitem(last=False)
            return series


def read_columns(file: Path, columns: Sequence[str]) -> "pl.DataFrame":
    """Reads the named columns of one Parquet file, and no other; DataInvalid, with those it has, if one lacks."""
    import polars as pl

    schema = parquet_schema(file)
    lacking = [column for column in columns if column not in schema]
    if lacking:
        raise DataInvalid(f"{file.name} has no column {', '.join(lacking)}; it has {', '.join(schema)}")
    try:
        return pl.scan_parquet(file, glob=False).select(columns).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataInvalid(f"{file.name} cannot be read as Parquet: {error}") from error


def parquet_schema(file: Path) -> dict[str, Any]:
    """Column name -> polars type of one Parquet file; DataMissing if it is not there, DataInvalid if it is none."""
    import polars as pl

    try:
        return dict(pl.read_parquet_schema(file))
    except FileNotFoundError as error:
        raise DataMissing(f"{file} is not there") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataInvalid(f"{file.name} cannot be read as Parquet: {error}") from error


def _bytes_of(file: Path, column: str) -> "pl.Expr":
    import polars as pl

    kind = parquet_schema(file).get(column)
    if isinstance(kind, pl.Struct) and any(field.name == "bytes" and field.dtype == pl.Binary for field in kind.fields):
        return pl.col(column).struct.field("bytes")
    if kind == pl.Binary:
        return pl.col(column)
    raise DataInvalid(f"{file.name}: column {column!r} should hold image bytes but is {kind}")


def _read_slice(file: Path, expression: "pl.Expr", start: int, rows: int) -> "pl.Series":
    import polars as pl

    try:
        frame = pl.scan_parquet(file, glob=False).slice(start, rows).select(expression.alias("bytes")).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataInvalid(f"{file.name}: rows {start} to {start + rows - 1} cannot be read: {error}") from error
    return frame["bytes"]
