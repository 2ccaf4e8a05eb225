"""Columns of CSV and Parquet files, checked against what the files claim before they are decoded."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.data.errors import DataInvalid
from featcache.data.parquet_sizes import ParquetSizes, parquet_sizes
from featcache.interchange.formats.files import check_texts, named_damage, plain_size
from featcache.limits import check_limit

if TYPE_CHECKING:
    import polars as pl

_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"x\x01": "zlib", b"x\x9c": "zlib", b"x\xda": "zlib"}
_VALUE_BYTES = 16  # of memory for each value, whatever its length


def scan(path: Path) -> "pl.LazyFrame":
    """A table, of which nothing but the columns' names and types is decoded yet.

    Raises:
        DataInvalid: If it is no plain file, or a CSV that is compressed.
        BeyondLimit: If a CSV is larger than the limit of tables.
    """
    import polars as pl

    size = plain_size(path)
    if path.suffix.lower() != ".csv":
        return pl.scan_parquet(path, glob=False)
    check_limit("table", size, path)
    with path.open("rb") as file:
        head = file.read(4)
    packed = next((name for start, name in _PACKED.items() if head.startswith(start)), None)
    if packed is not None:  # polars would unpack it, to whatever size
        raise DataInvalid(f"{path.name} is compressed ({packed}). Unpack it, and import the CSV in it")
    return pl.scan_csv(path, infer_schema=False, glob=False)


def columns_of(path: Path, lazy: "pl.LazyFrame", names: Sequence[str]) -> dict[str, list[str]]:
    """Columns of text or whole numbers, as text.

    Args:
        path: The file.
        lazy: From `scan`.
        names: Of the columns.

    Raises:
        DataInvalid: If a column holds something else, is empty in a row, or cannot be read.
        BeyondLimit: If they take more memory than the limit of tables.
    """
    import polars as pl

    schema = lazy.collect_schema()
    odd = next((each for each in names if not (schema[each] == pl.String or schema[each].is_integer())), None)
    if odd is not None:
        raise DataInvalid(f"{path.name}: column {odd!r} is {schema[odd]}; wanted text or whole numbers")
    if path.suffix.lower() != ".csv":
        parquet_claims(path, names)
    table = lazy.select(pl.col(list(names)).cast(pl.String)).collect()
    blank = next((each for each in names if table[each].null_count()), None)
    if blank is not None:
        raise DataInvalid(f"{path.name}: column {blank!r} is empty in {table[blank].null_count()} rows")
    # one text may stand for every row: in polars once, in Python as often as there are rows
    if table.width:
        check_texts(sum(table.select(pl.all().str.len_bytes().cast(pl.UInt64).sum()).row(0)), path.name)
    return {name: table[name].to_list() for name in names}


def parquet_claims(path: Path, columns: Sequence[str], *, limit: str = "table") -> ParquetSizes:
    """What columns of a Parquet file unpack to, as its headers say.

    Raises:
        DataInvalid: If the headers contradict each other or the file.
        BeyondLimit: If one row group of them takes more memory than the limit of tables, or all more than `limit`.
    """
    with named_damage(path.name, "cannot be read as Parquet"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            view = memoryview(content)
            try:
                sizes = parquet_sizes(view, columns)
            finally:
                view.release()
        check_limit("table", sizes.group_bytes + sizes.group_values * _VALUE_BYTES, f"a row group of {path.name}")
        check_limit(limit, sizes.bytes + (sizes.values * _VALUE_BYTES if limit == "table" else 0), path.name)
        return sizes
