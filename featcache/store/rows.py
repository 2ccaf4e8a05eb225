"""Row tables (id, group, source hash) and overlays (splits, labels) of views, in Parquet."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featcache.data.errors import DataInvalid
from featcache.data.parquet_sizes import parquet_sizes
from featcache.data.views import Overlay, View, rows_root
from featcache.errors import Damaged
from featcache.limits import check_limit, limit
from featcache.storage.base import Folder
from featcache.storage.outputs import parquet_bytes
from featcache.store.digest import ArrayKey
from featcache.store.schema import read_json, require_form

_LABEL = "label."
_VIEW_BYTES = 16  # of memory for each text, whatever its length
_TABLE_BYTES, _CELL_BYTES = 2**20, 4096  # that a table may unpack to: as such, and for each text


@dataclass(frozen=True)
class Rows:
    """The row table of a view: ids, groups and content hashes in row order."""

    ids: list[str]
    groups: list[str]
    hashes: list[str]


def rows_name(root: str) -> str:
    """Name of the row table of a root, in the view's folder."""
    return f"rows-{root[:32]}.parquet"


def overlay_name(root: str) -> str:
    """Name of the table of splits and labels of a root, in the data set's folder."""
    return f"overlay-{root[:32]}.parquet"


def pointer_name(root: str) -> str:
    """Name of the file that says which splits and labels are current for a row table, in the view's folder."""
    return f"rows-{root[:32]}.json"


def _parquet(columns: Mapping[str, Sequence[str]], where: str) -> bytes:
    import polars as pl

    lists = {name: list(column) for name, column in columns.items()}
    content = parquet_bytes(pl.DataFrame(lists, schema=dict.fromkeys(columns, pl.String)))
    _require_sizes(content, where)  # a writer keeps to what readers believe
    return content


def _columns(folder: Folder, name: str, rows: int | None = None) -> dict[str, list[str]]:
    """The columns of a table.

    Args:
        folder: The folder that it lies in.
        name: Its name.
        rows: How many it has; None where nothing says so.
    """
    import polars as pl

    path = f"{folder}/{name}"
    try:
        check_limit("table", folder.size(name) or 0, path)
        content = folder.read(name, most=limit("table"))
        most = _require_sizes(content, path, rows)
        frame = pl.read_parquet(content)
        if any(kind != pl.String for kind in frame.schema.values()) or any(frame.null_count().row(0)):
            raise Damaged(f"{path} was changed: it holds more than text. Run the same featcache extract again")
        # one text may stand for every row: in polars once, in Python's lists as often as there are rows
        if frame.width and sum(frame.select(pl.all().str.len_bytes().sum()).row(0)) > most:
            raise Damaged(
                f"{path} was changed: its rows hold more text than any do. Run the same featcache extract again"
            )
        return frame.to_dict(as_series=False)
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing. Run the same featcache extract again") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read as Parquet ({error}). Run the same featcache extract again") from error


def _require_sizes(content: bytes, where: str, rows: int | None = None) -> int:
    """Checks what a table claims to hold, before it is decoded.

    Returns:
        Bytes that it may unpack to.

    Raises:
        Damaged: If it claims other rows than it should have, or more text than so many rows can hold.
        BeyondLimit: If it would take more memory than the limit.
        ValueError: If it is no Parquet file.
    """
    sizes = parquet_sizes(content)
    if rows is not None and sizes.rows != rows:
        raise Damaged(f"{where} was changed: {sizes.rows} rows, not {rows}. Run the same featcache extract again")
    check_limit("rows", sizes.rows, where)
    cells = sizes.rows * sizes.columns
    check_limit("table", sizes.bytes + cells * _VIEW_BYTES, where)
    most = _TABLE_BYTES + cells * _CELL_BYTES
    if sizes.bytes > most:
        raise Damaged(
            f"{where} claims to unpack to {sizes.bytes:,} bytes, for {sizes.rows} rows. Run the same featcache extract "
            "again"
        )
    return most


def write_rows(view_folder: Folder, view: View, overlay: Overlay) -> None:
    """Writes a view's row table, the data set's overlay, and a pointer from the rows to the overlay.

    A file that is there is kept if it is whole, and written anew if not. An overlay is current for the rows it was
    extracted with: other rows under the same name keep their own.
    """
    view_folder.make()
    dataset_folder = view_folder.parent
    rows = {"modality": view.modality, "decoding": dict(view.decoding), "root": view.root}
    table = {"id": view.ids, "group": view.groups, "source": view.hashes}
    _write_checked(view_folder, rows_name(view.root), table, lambda: read_rows(view_folder, rows))
    labels = {_LABEL + name: column for name, column in overlay.labels.items()}
    columns = {"group": overlay.groups, "split": overlay.splits, **labels}
    name = overlay_name(overlay.root)
    _write_checked(dataset_folder, name, columns, lambda: read_overlay_of(dataset_folder, overlay.root))
    if current_overlay(view_folder, view.root) != overlay.root:
        view_folder.replace(pointer_name(view.root), json.dumps({"overlay": overlay.root}).encode())


def tables_current(view_folder: Folder, view: View, overlay: Overlay) -> bool:
    """Whether the tables that `write_rows` would write are there, whole and current, so that it has nothing to do."""
    rows = {"modality": view.modality, "decoding": dict(view.decoding), "root": view.root}
    try:
        read_rows(view_folder, rows)
        return read_overlay(view_folder.parent, view.name, view.root).root == overlay.root
    except Damaged:
        return False


def restore_rows(view_folder: Folder, view: View, overlay: Overlay) -> None:
    """Writes what `write_rows` wrote if any of it is gone: at its end a writer leaves no array without its rows."""
    names = rows_name(view.root), pointer_name(view.root)
    there = all(map(view_folder.exists, names)) and view_folder.parent.exists(overlay_name(overlay.root))
    if not there:
        write_rows(view_folder, view, overlay)


def _write_checked(folder: Folder, name: str, columns: Mapping[str, Sequence[str]], read: Callable[[], Any]) -> None:
    """Writes a table that is not there, or that does not read as what it should be."""
    if folder.exists(name):
        try:
            read()
            folder.sync()  # a killed process may have made it and not synced it
        except Damaged:
            folder.replace(name, _parquet(columns, f"{folder}/{name}"))
    else:
        folder.write_once(name, _parquet(columns, f"{folder}/{name}"))


def drop_rows(view_folder: Folder, root: str) -> None:
    """Deletes the row table of a root that no array is bound to."""
    view_folder.remove(rows_name(root))
    view_folder.remove(pointer_name(root))


def read_rows(view_folder: Folder, rows: Mapping[str, Any]) -> Rows:
    """Reads and checks the row table that an array is bound to.

    Args:
        view_folder: Folder of the view.
        rows: `binds["rows"]` of the array's key: modality, decoding, root, n.

    Raises:
        Damaged: If ids, groups, hashes or their order do not give the root.
    """
    name = rows_name(rows["root"])
    path, columns = f"{view_folder}/{name}", _columns(view_folder, name, rows.get("n"))
    try:
        table = Rows(columns["id"], columns["group"], columns["source"])
    except KeyError as error:
        raise Damaged(f"{path} has no column {error}. Run the same featcache extract again") from error
    if rows_root(rows["modality"], rows["decoding"], table.ids, table.groups, table.hashes) != rows["root"]:
        raise Damaged(
            f"{path} was changed: ids, groups or their order do not give its root. Run the same featcache extract again"
        )
    return table


def row_ids(cache_folder: Folder) -> Callable[[ArrayKey], Sequence[str]]:
    """A function that gives the ids of an array's rows; of many arrays over the same rows, the table is read once."""
    kept: dict[tuple[str, str, str], Sequence[str]] = {}

    def ids(key: ArrayKey) -> Sequence[str]:
        place = (key.dataset, key.view, key.binds["rows"]["root"])
        if place not in kept:
            kept.clear()  # one at a time: a table may be large
            kept[place] = read_rows(cache_folder / key.dataset / key.view, key.binds["rows"]).ids
        return kept[place]

    return ids


def read_overlay(dataset_folder: Folder, view: str, root: str) -> Overlay:
    """Reads and checks the splits and labels that are current for the row table of a root.

    Raises:
        Damaged: If they are missing or do not give their own root.
    """
    current = current_overlay(dataset_folder / view, root)
    if current is None:
        raise Damaged(
            f"{dataset_folder}/{view}/{pointer_name(root)} is missing or unreadable. "
            "Run the same featcache extract again"
        )
    return read_overlay_of(dataset_folder, current)


def current_overlay(view_folder: Folder, root: str) -> str | None:
    """Root of the splits and labels that are current for the row table of a root; None if no readable file says so."""
    name = pointer_name(root)
    try:
        return require_form("pointer", read_json(view_folder, name), f"{view_folder}/{name}")["overlay"]
    except (FileNotFoundError, Damaged):
        return None


def checked_tables(dataset_folder: Folder, view: str, rows: Mapping[str, Any]) -> tuple[str, str, str]:
    """Names of the files that belong to a row table, below the data set's folder, once they are checked.

    Returns:
        (row table, splits and labels, the file that points from one to the other); arguments and errors as for
        `read_rows` and `read_overlay`.
    """
    root = rows["root"]
    read_rows(dataset_folder / view, rows)
    overlay = read_overlay(dataset_folder, view, root)
    return f"{view}/{rows_name(root)}", overlay_name(overlay.root), f"{view}/{pointer_name(root)}"


def read_overlay_of(dataset_folder: Folder, root: str) -> Overlay:
    """Reads and checks the splits and labels whose own root is given; errors as `read_overlay`."""
    name = overlay_name(root)
    path, columns = f"{dataset_folder}/{name}", _columns(dataset_folder, name)
    labels = {name[len(_LABEL) :]: tuple(column) for name, column in columns.items() if name.startswith(_LABEL)}
    try:
        overlay = Overlay(tuple(columns["group"]), tuple(columns["split"]), labels)
    except (KeyError, DataInvalid) as error:
        raise Damaged(f"{path} was changed: {error}. Run the same featcache extract again") from error
    if overlay.root != root:
        raise Damaged(f"{path} was changed: its content does not give its root. Run the same featcache extract again")
    return overlay
