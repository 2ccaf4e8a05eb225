"""Which row is which? Row tables (id, group, source hash) and overlays (splits, labels), in Parquet."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import DataInvalid
from data.views import Overlay, View, rows_root
from featcache.durable import make_folders, replace, write_once
from featcache.errors import Damaged
from featcache.records import read_json

_LABEL = "label."


@dataclass(frozen=True)
class Rows:
    """The row table of a view: ids, groups and content hashes in row order."""

    ids: list[str]
    groups: list[str]
    hashes: list[str]


def rows_path(view_folder: Path, root: str) -> Path:
    """Where the row table of a root lies."""
    return view_folder / f"rows-{root[:32]}.parquet"


def _parquet(columns: Mapping[str, Sequence[str]]) -> bytes:
    import polars as pl

    buffer = io.BytesIO()
    frame = pl.DataFrame(
        {name: list(column) for name, column in columns.items()}, schema=dict.fromkeys(columns, pl.String)
    )
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _columns(path: Path) -> dict[str, list[str]]:
    import polars as pl

    try:
        return pl.read_parquet(path.read_bytes()).to_dict(as_series=False)
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing. Run the same featcache extract again") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Damaged(f"{path} cannot be read as Parquet ({error}). Run the same featcache extract again") from error


def write_rows(view_folder: Path, view: View, overlay: Overlay) -> None:
    """Writes a view's row table, the data set's splits and labels, and which of these belong to the rows.

    What stands there already is kept if it is whole, and written anew if not. Splits and labels are current for the
    rows they were extracted with: other rows under the same name keep their own.
    """
    make_folders(view_folder)
    rows = {"modality": view.modality, "decoding": dict(view.decoding), "root": view.root}
    table = {"id": view.ids, "group": view.groups, "source": view.hashes}
    _write_checked(rows_path(view_folder, view.root), table, lambda: read_rows(view_folder, rows))
    labels = {_LABEL + name: column for name, column in overlay.labels.items()}
    path = _overlay_path(view_folder.parent, overlay.root)
    columns = {"group": overlay.groups, "split": overlay.splits, **labels}
    _write_checked(path, columns, lambda: _read_overlay(path, overlay.root))
    pointer = _pointer(view_folder, view.root)
    if _current(pointer) != overlay.root:
        replace(pointer, json.dumps({"overlay": overlay.root}).encode())


def _write_checked(path: Path, columns: Mapping[str, Sequence[str]], read: Callable[[], Any]) -> None:
    """Writes a table that is not there, or that does not read as what it should be."""
    if path.exists():
        try:
            read()
        except Damaged:
            replace(path, _parquet(columns))
    else:
        write_once(path, _parquet(columns))


def drop_rows(view_folder: Path, root: str) -> None:
    """Deletes the row table of a root that no array is bound to."""
    rows_path(view_folder, root).unlink(missing_ok=True)
    _pointer(view_folder, root).unlink(missing_ok=True)


def read_rows(view_folder: Path, rows: Mapping[str, Any]) -> Rows:
    """Reads and checks the row table that an array is bound to.

    Args:
        view_folder: Folder of the view.
        rows: `binds["rows"]` of the array's key: modality, decoding, root, n.

    Raises:
        Damaged: If ids, groups, hashes or their order are not those that the root binds.
    """
    path = rows_path(view_folder, rows["root"])
    columns = _columns(path)
    try:
        table = Rows(columns["id"], columns["group"], columns["source"])
    except KeyError as error:
        raise Damaged(f"{path} has no column {error}. Run the same featcache extract again") from error
    if rows_root(rows["modality"], rows["decoding"], table.ids, table.groups, table.hashes) != rows["root"]:
        raise Damaged(
            f"{path} was changed: ids, groups or their order do not give its root. Run the same featcache extract again"
        )
    return table


def read_overlay(dataset_folder: Path, view: str, root: str) -> Overlay:
    """Reads and checks the splits and labels that are current for a row table.

    Args:
        dataset_folder: Folder of the data set.
        view: View name.
        root: Root of the row table.

    Raises:
        Damaged: If they are missing or are not what their root binds.
    """
    pointer = _pointer(dataset_folder / view, root)
    current = _current(pointer)
    if current is None:
        raise Damaged(f"{pointer} is missing or unreadable. Run the same featcache extract again")
    return _read_overlay(_overlay_path(dataset_folder, current), current)


def _overlay_path(dataset_folder: Path, root: str) -> Path:
    return dataset_folder / f"overlay-{root[:32]}.parquet"


def _pointer(view_folder: Path, root: str) -> Path:
    """The file that says which splits and labels are current for a row table."""
    return rows_path(view_folder, root).with_suffix(".json")


def _current(pointer: Path) -> str | None:
    try:
        return str(read_json(pointer)["overlay"])
    except (FileNotFoundError, Damaged, KeyError, TypeError):
        return None


def _read_overlay(path: Path, root: str) -> Overlay:
    columns = _columns(path)
    labels = {name[len(_LABEL) :]: tuple(column) for name, column in columns.items() if name.startswith(_LABEL)}
    try:
        overlay = Overlay(tuple(columns["group"]), tuple(columns["split"]), labels)
    except (KeyError, DataInvalid) as error:
        raise Damaged(f"{path} was changed: {error}. Run the same featcache extract again") from error
    if overlay.root != root:
        raise Damaged(f"{path} was changed: its content does not give its root. Run the same featcache extract again")
    return overlay
