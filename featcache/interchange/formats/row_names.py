"""Row names: the ids, and groups, that the user gives in a file of their own where a tool's file has none."""

from dataclasses import dataclass
from pathlib import Path

from featcache.data.errors import DataInvalid
from featcache.errors import UsageError
from featcache.interchange.formats.contents import Contents, ImportOptions, Matrix
from featcache.interchange.formats.files import check_texts, named_damage, plain_size
from featcache.interchange.formats.npy import map_npy
from featcache.interchange.formats.tables import columns_of, scan

SUFFIXES = (".txt", ".npy", ".csv", ".parquet")


@dataclass(frozen=True)
class RowNames:
    """Ids, and groups where they are given, one a row."""

    ids: tuple[str, ...]
    groups: tuple[str, ...] | None = None


def contents_with_ids(kind: str, source: Path, matrix: Matrix, options: ImportOptions) -> Contents:
    """A matrix that does not name its rows, with the ids of `options`; errors as `read_row_names`."""
    assert options.ids is not None  # whoever calls this has said what to do without
    names = read_row_names(options.ids, options.id_column)
    return Contents(
        kind=kind,
        source=source,
        files=(source,),
        ids=names.ids,
        matrices=(matrix,),
        default=matrix.layer,
        groups=names.groups,
    )


def read_row_names(path: Path, column: str | None = None) -> RowNames:
    """Reads the ids of rows, in row order.

    A .txt holds one id a line (UTF-8); a .npy a one-dimensional array of text; a .csv or .parquet a column of that
    name, else one called "id" or "ids", else its only column. A column "group" or "groups" gives the groups.

    Raises:
        UsageError: If the file is missing or of no such kind, or the column is not there.
        DataInvalid: If it cannot be read as what its suffix says.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path} with ids")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path.name}: ids are read from {', '.join(SUFFIXES)}")
    if suffix in (".csv", ".parquet"):
        return table_names(path, column)
    if column is not None:
        raise UsageError(f"{path.name} has no columns; --id-column is for .csv and .parquet")
    return RowNames(_npy_texts(path) if suffix == ".npy" else text_lines(path))


def text_lines(path: Path) -> tuple[str, ...]:
    """The lines of a UTF-8 file, one id each; DataInvalid if it is none, BeyondLimit if it is larger than a table."""
    check_texts(plain_size(path), path.name)
    with named_damage(path.name, "is not UTF-8"):
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    if lines[-1] == "":
        lines.pop()
    return tuple(line.removesuffix("\r") for line in lines)


def _npy_texts(path: Path) -> tuple[str, ...]:
    array = map_npy(path)
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataInvalid(f"{path.name} holds {array.dtype} {list(array.shape)}; wanted one text a row (dtype <U...)")
    check_texts(array.nbytes, path.name)
    with named_damage(path.name, "holds something else than text"):
        return tuple(array.tolist())


def table_names(path: Path, column: str | None, known: tuple[str, ...] = ("id", "ids")) -> RowNames:
    """Ids and groups from the columns of a .csv or .parquet.

    The id column is the one named, else the first of `known` that is there, else the only one.
    """
    with named_damage(path.name, f"cannot be read as {path.suffix[1:].upper()}"):
        lazy = scan(path)
        columns = list(lazy.collect_schema())
        name = _id_column(path, columns, column, known)
        groups = next((group for group in ("group", "groups") if group in columns and group != name), None)
        table = columns_of(path, lazy, [name] if groups is None else [name, groups])
    return RowNames(tuple(table[name]), None if groups is None else tuple(table[groups]))


def _id_column(path: Path, columns: list[str], column: str | None, known: tuple[str, ...]) -> str:
    if column is not None and column in columns:
        return column
    if column is None:
        usual = next((name for name in known if name in columns), None)
        if usual is not None or len(columns) == 1:
            return usual or columns[0]
    what = f"no column {column!r}" if column else f"none of the columns {', '.join(known)}"
    raise UsageError(f"{path.name} has {what}; name one with --id-column: {', '.join(columns)}")
