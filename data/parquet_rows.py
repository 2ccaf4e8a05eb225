"""Parquet files with a column of images: the Hub's data sets, img2dataset's, and tables of the user's.

An image's id is a column's, or the number of its row in its series of files ("train/17" of files such as
train-00000-of-00003.parquet, "part-1/0" of part-1.parquet), as the Hub's own library counts. Rows that share the name
of an image are captions of one image, whose bytes are the first row's. Bytes are read a slice at a time.
"""

import json
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from featcache.data.errors import DataInvalid
from featcache.data.gathered import Gathered, OwnData, blank_note
from featcache.data.layouts import data_files
from featcache.data.limits import check_data_limit
from featcache.data.options import OpenOptions
from featcache.data.parquet_columns import ParquetColumns, parquet_columns
from featcache.data.parquet_images import Cell, ParquetImages, parquet_schema, read_columns
from featcache.data.parquet_sizes import parquet_sizes
from featcache.data.splits import file_splits

if TYPE_CHECKING:
    import polars as pl

_SHARD = re.compile(r"-\d{5}-of-(\d{5})(-[0-9a-f]+)?$")  # as the Hub numbers the files of a split


_VALUE_BYTES = 16  # of memory for each text, whatever its length


def read_parquet(root: Path, options: OpenOptions) -> OwnData:
    """Reads Parquet files anywhere below a folder, or one; errors as `read_own`."""
    return read_parquet_files(*data_files(root, ".parquet", "Parquet file"), options)


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
    _check_claims(files, names, columns)
    frames = [_frame(file, columns) for file in files]
    if not sum(map(len, frames)):
        raise DataInvalid(f"{names[0]} has no rows")
    of_file, from_names = (splits, "the card") if splits else file_splits(names)
    id_column, notes = _id_column(frames, names, of_file, columns, declared=bool(options.columns("id")))
    gathered, cells, blank = Gathered(columns.labels), dict[str, Cell](), list[str]()
    classes = _class_names(files[0])
    for cell, within, values in _rows(frames, names):
        image, here = within if id_column is None else str(values[id_column]), f"{names[cell.file]} row {cell.row}"
        cells.setdefault(image, cell)
        gathered.add_facts(
            image,
            here,
            group="" if columns.group is None else _cell(values[columns.group]),
            split=of_file[cell.file] if columns.split is None else _cell(values[columns.split]),
            labels={column: _label(values[column], classes.get(column, ())) for column in columns.labels},
        )
        for text in (text for column in columns.captions for text in _texts(values[column])):
            if text.strip():
                gathered.add_caption(image, text, here)
            else:
                blank.append(image)
    images = tuple(cells)
    photos = ParquetImages(files, columns.image)
    source = f"folder with {len(files):,} Parquet files" if len(files) > 1 else "folder with a Parquet file"
    from_column = f"column {columns.split}" if columns.split else from_names
    notes = [*lacking_files(names), *columns.notes, *notes, *blank_note(blank)]
    layout = gathered.layout(source, images=images, splits=from_column, notes=notes)
    return OwnData(images, lambda number: photos.read_or_empty(cells[images[number]]), layout)


def _check_claims(files: Sequence[Path], names: Sequence[str], columns: ParquetColumns) -> None:
    """Refuses texts that unpack to more than the limit, before any is unpacked; images are read a slice at a time.

    Raises:
        DataInvalid: If they do, or headers contradict each other or do not say what a column unpacks to.
    """
    total = 0
    for file, name in zip(files, names, strict=True):
        try:
            with file.open("rb") as opened:  # the mapping is closed once nothing of it is held
                content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
            sizes = parquet_sizes(content, columns.read)
        except ValueError as error:
            remedy = "get the file again, or write it with plain or dictionary encoding"
            raise DataInvalid(f"{name} cannot be read as Parquet: {error}\n  To mend: {remedy}") from error
        total += sizes.bytes + sizes.values * _VALUE_BYTES
        check_data_limit("texts", total, name)


def lacking_files(names: Sequence[str]) -> list[str]:
    """Series of files whose names say of how many they are, and that are not all there.

    Example:
        >>> lacking_files(["train-00000-of-00002.parquet", "test-00000-of-00001.parquet"])
        ['1 of 2 files of train are there']
    """
    counts = Counter(series_of(name) for name in names)
    stated = {series_of(name): int(match[1]) for name in names if (match := _SHARD.search(PurePosixPath(name).stem))}
    return [
        f"{counts[series]:,} of {total:,} files of {series} are there"
        for series, total in stated.items()
        if counts[series] < total
    ]


def _frame(file: Path, columns: ParquetColumns) -> "pl.DataFrame":
    """What is read of a file beside its images; rows without a column where that is nothing."""
    if columns.read:
        return read_columns(file, columns.read)
    import polars as pl

    return pl.scan_parquet(file, glob=False).select(pl.int_range(pl.len()).alias("")).collect()


def _rows(frames: Sequence["pl.DataFrame"], names: Sequence[str]) -> Iterator[tuple[Cell, str, dict[str, Any]]]:
    """Where each row lies, what it is called by its number in its series, and column -> value."""
    counts: dict[str, int] = {}
    for number, frame in enumerate(frames):
        series = series_of(names[number])
        for place, values in enumerate(frame.iter_rows(named=True)):
            within = counts[series] = counts.get(series, -1) + 1
            yield Cell(number, place), f"{series}/{within}".lstrip("/"), values


def series_of(name: str) -> str:
    """What the rows of a file are counted in: its path without what numbers it among others.

    Example:
        >>> series_of("data/train-00001-of-00003.parquet"), series_of("de/train/0000.parquet"), series_of("a-1.parquet")
        ('train', 'de/train', 'a-1')
    """
    path = _SHARD.sub("", name.removesuffix(".parquet").removeprefix("data/"))
    folder, _, stem = path.rpartition("/")
    return folder if stem.isdecimal() else path


def _id_column(
    frames: Sequence["pl.DataFrame"],
    names: Sequence[str],
    of_file: Sequence[str],
    columns: ParquetColumns,
    *,
    declared: bool,
) -> tuple[str | None, list[str]]:
    """The first column that fits as the id, None without one, and a note where rows share ids.

    Ids that several splits have are no names of images but numbers that begin anew, unless they are declared.

    Raises:
        DataInvalid: If the column is declared, and a row has no id in it.
    """
    import polars as pl

    for column, shared in columns.ids:
        ids = pl.concat([frame[column].cast(pl.String).fill_null("") for frame in frames])
        absent = (ids == "").arg_true()
        if len(absent):
            if declared:
                cell = next(cell for place, (cell, _, _) in enumerate(_rows(frames, names)) if place == absent[0])
                raise DataInvalid(f"{names[cell.file]} row {cell.row} has no id in column {column!r}")
            continue
        repeated = len(ids) - ids.n_unique()
        if not repeated:
            return column, []
        own = [
            frame.select(
                pl.col(column).cast(pl.String).alias("id"),
                (pl.lit(split) if columns.split is None else pl.col(columns.split).cast(pl.String)).alias("split"),
            )
            for frame, split in zip(frames, of_file, strict=True)
        ]
        within = declared or pl.concat(own).n_unique() == ids.n_unique()
        if shared and within and columns.captions:
            one = f"repeats the {column} of an earlier one and is a caption of its image"
            many = f"repeat the {column} of an earlier one and are captions of its image"
            return column, [f"{repeated:,} rows {many}" if repeated > 1 else f"1 row {one}"]
    return None, []


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
