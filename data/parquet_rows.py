"""Parquet files with a column of images: the Hub's data sets, img2dataset's, and tables of the user's.

An image's id is a column's, or the number of its row in its series of files ("train/17" of files such as
train-00000-of-00003.parquet, "part-1/0" of part-1.parquet), as the Hub's own library counts. Rows that share the name
of an image are captions of one image, whose bytes are the first row's. Bytes are read a slice at a time.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.data.datasets import missing
from featcache.data.errors import DataInvalid
from featcache.data.gathered import Gathered, OwnData, blank_note
from featcache.data.layouts import data_files
from featcache.data.options import OpenOptions
from featcache.data.parquet_columns import ParquetColumns, parquet_columns
from featcache.data.parquet_images import Cell, ParquetImages, parquet_schema, read_columns
from featcache.data.splits import file_splits

if TYPE_CHECKING:
    pass

_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")  # as the Hub numbers the files of a split


def read_parquet(root: Path, options: OpenOptions) -> OwnData:
    """Reads Parquet files anywhere below a folder, or one; errors as `read_own`."""
    files = data_files(root, ".parquet")
    if not files:
        raise missing("folder", "no Parquet file", (f"{root}/**/*.parquet",))
    base = root if root.is_dir() else root.parent
    names = [path.relative_to(base).as_posix() for path in files]
    return read_parquet_files(files, names, options)


def read_parquet_files(
    files: Sequence[Path], names: Sequence[str], options: OpenOptions, *, splits: Sequence[str] = ()
) -> OwnData:
    """Reads Parquet files of one schema.

    Args:
        files: The files, in order.
        names: Of each, its path as messages, ids and splits have it.
        options: The declarations.
        splits: Of each, its split; () where the names tell.

    Raises:
        DataInvalid: If columns are not clear, files differ in them, or rows contradict each other.
    """
    schema = parquet_schema(files[0])
    columns = parquet_columns(schema, options, names[0])
    for file, name in zip(files, names, strict=True):
        if lacking := {columns.image, *columns.read} - parquet_schema(file).keys():
            what = f"{name} has no column {min(lacking)!r}, which {names[0]} has"
            raise DataInvalid(f"{what}\n  Give the folder of files of one kind")
    rows = list(_rows(files, names, columns))
    if not rows:
        raise DataInvalid(f"{names[0]} has no rows")
    rows, id_note = _with_ids(rows, columns, declared=bool(options.columns("id")))
    of_file, from_names = (splits, "the card") if splits else file_splits(names)
    gathered, cells, blank = Gathered(columns.labels), dict[str, Cell](), list[str]()
    classes = _class_names(files[0])
    for row in rows:
        cells.setdefault(row.id, row.cell)
        _gather(gathered, row, columns, of_file[row.cell.file], classes, names)
        blank += [row.id for text in row.captions if not text.strip()]
    images = tuple(cells)
    photos = ParquetImages(files, columns.image)
    notes = [*columns.notes, *id_note, *blank_note(blank)]
    source = f"folder with {len(files):,} Parquet files" if len(files) > 1 else "folder with a Parquet file"
    from_column = f"column {columns.split}" if columns.split else from_names
    layout = gathered.layout(source, images=images, splits=from_column, notes=notes)
    return OwnData(images, lambda number: photos.read_or_empty(cells[images[number]]), layout)


@dataclass(frozen=True)
class _Row:
    id: str
    cell: Cell
    captions: tuple[str, ...]
    values: Mapping[str, Any]  # column -> value


def _rows(files: Sequence[Path], names: Sequence[str], columns: ParquetColumns) -> Iterator[_Row]:
    """Every row in order, called by its number in its series."""
    counts: dict[str, int] = {}
    for number, file in enumerate(files):
        series = series_of(names[number])
        for place, values in enumerate(_records(file, columns)):
            within = counts[series] = counts.get(series, -1) + 1
            texts = tuple(text for column in columns.captions for text in _texts(values[column]))
            yield _Row(f"{series}/{within}".lstrip("/"), Cell(number, place), texts, values)


def _records(file: Path, columns: ParquetColumns) -> Iterator[dict[str, Any]]:
    if columns.read:
        yield from read_columns(file, columns.read).iter_rows(named=True)
        return
    import polars as pl

    for _ in range(int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())):
        yield {}


def series_of(name: str) -> str:
    """What the rows of a file are counted in: its path without what numbers it among others.

    Example:
        >>> series_of("data/train-00001-of-00003.parquet"), series_of("de/train/0000.parquet"), series_of("a-1.parquet")
        ('train', 'de/train', 'a-1')
    """
    path = _SHARD.sub("", name.removesuffix(".parquet").removeprefix("data/"))
    folder, _, stem = path.rpartition("/")
    return folder if stem.isdecimal() else path


def _with_ids(rows: list[_Row], columns: ParquetColumns, *, declared: bool) -> tuple[list[_Row], list[str]]:
    """The rows with the ids of the first column that fits, and a note where rows share them.

    Raises:
        DataInvalid: If the column is declared, and a row has no id in it.
    """
    for column, shared in columns.ids:
        ids = ["" if row.values[column] is None else str(row.values[column]) for row in rows]
        if not all(ids):
            if declared:
                raise DataInvalid(f"column {column!r}: the row {rows[ids.index('')].id} has no id")
            continue
        repeated = len(ids) - len(set(ids))
        if repeated and not (shared and columns.captions):
            continue
        one = f"{repeated:,} rows repeat the {column} of an earlier one and are captions of its image"
        return [replace(row, id=own) for row, own in zip(rows, ids, strict=True)], [one] if repeated else []
    return rows, []


def _gather(
    gathered: Gathered,
    row: _Row,
    columns: ParquetColumns,
    split: str,
    classes: Mapping[str, Sequence[str]],
    names: Sequence[str],
) -> None:
    here = f"{names[row.cell.file]} row {row.cell.row}"
    labels = {column: _label(row.values[column], classes.get(column, ())) for column in columns.labels}
    group = "" if columns.group is None else _cell(row.values[columns.group])
    split = split if columns.split is None else _cell(row.values[columns.split])
    gathered.add_facts(row.id, here, group=group, split=split, labels=labels)
    for text in row.captions:
        if text.strip():
            gathered.add_caption(row.id, text, here)


def _texts(value: Any) -> list[str]:
    """The texts of a cell, "" for one that is none."""
    return ["" if text is None else str(text) for text in (value if isinstance(value, list) else [value])]


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _label(value: Any, classes: Sequence[str]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes):
        return classes[value]
    return _cell(value)


def _class_names(file: Path) -> dict[str, tuple[str, ...]]:
    """Column -> names of its classes by number, where the Hub's library wrote them into the file."""
    import polars as pl

    try:
        text = pl.read_parquet_metadata(file).get("huggingface", "")
        features = json.loads(text)["info"]["features"] if text else {}
        named = {column: feature["names"] for column, feature in features.items() if "names" in feature}
        return {column: tuple(map(str, names)) for column, names in named.items() if isinstance(names, list)}
    except (pl.exceptions.PolarsError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # numbers are labels too
