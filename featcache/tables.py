"""Which row is which? Row tables (id, group, source hash) and overlays (splits, labels), in Parquet."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        raise Damaged(f"{path} is missing. Run: featcache verify") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Damaged(f"{path} cannot be read as Parquet ({error}). Run: featcache verify") from error


def write_rows(view_folder: Path, view: View) -> None:
    """Writes a view's row table once."""
    make_folders(view_folder)
    path = rows_path(view_folder, view.root)
    if not path.exists():
        write_once(path, _parquet({"id": view.ids, "group": view.groups, "source": view.hashes}))


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
        raise Damaged(f"{path} has no column {error}. Run: featcache verify") from error
    if rows_root(rows["modality"], rows["decoding"], table.ids, table.groups, table.hashes) != rows["root"]:
        raise Damaged(f"{path} was changed: ids, groups or their order do not give its root. Run: featcache verify")
    return table


def write_overlay(dataset_folder: Path, overlay: Overlay) -> None:
    """Writes splits and labels and makes them the data set's current ones."""
    make_folders(dataset_folder)
    path = dataset_folder / f"overlay-{overlay.root[:32]}.parquet"
    if not path.exists():
        labels = {_LABEL + name: column for name, column in overlay.labels.items()}
        write_once(path, _parquet({"group": overlay.groups, "split": overlay.splits, **labels}))
    pointer = dataset_folder / "overlay.json"
    if not pointer.exists() or read_json(pointer)["root"] != overlay.root:
        replace(pointer, json.dumps({"root": overlay.root}).encode())


def read_overlay(dataset_folder: Path) -> Overlay:
    """Reads and checks the data set's current splits and labels.

    Raises:
        Damaged: If the table is missing or is not what its root binds.
    """
    try:
        root = read_json(dataset_folder / "overlay.json")["root"]
    except FileNotFoundError as error:
        raise Damaged(f"{dataset_folder}/overlay.json is missing. Run: featcache extract again") from error
    path = dataset_folder / f"overlay-{root[:32]}.parquet"
    columns = _columns(path)
    labels = {name[len(_LABEL) :]: tuple(column) for name, column in columns.items() if name.startswith(_LABEL)}
    try:
        overlay = Overlay(tuple(columns["group"]), tuple(columns["split"]), labels)
    except KeyError as error:
        raise Damaged(f"{path} has no column {error}. Run: featcache verify") from error
    if overlay.root != root:
        raise Damaged(f"{path} was changed: its content does not give its root. Run: featcache verify")
    return overlay
