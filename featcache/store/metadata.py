"""Key, layout and completion record of one array, read and checked against each other before any is believed."""

from dataclasses import dataclass
from typing import Any

from featcache.errors import Damaged
from featcache.limits import limit
from featcache.storage.base import Folder
from featcache.store.digest import ArrayKey, ArrayName, own_hash, refuse_newer
from featcache.store.layout import Layout
from featcache.store.records import (
    PARTIAL,
    REUSED,
    Complete,
    chunk_bytes,
    key_json,
    layout_json,
    parse_complete,
    parse_layout,
    zarr_json,
)
from featcache.store.reused import ReusedRows
from featcache.store.schema import read_json, require_form

_MOST_CHUNK = 2**31


@dataclass(frozen=True)
class ArrayMetadata:
    """Key, layout and completion record of one array, which agree with each other."""

    key: ArrayKey
    layout: Layout
    complete: Complete | None  # None if the array is not complete
    partial: Complete | None  # of PARTIAL.json, where only some rows were pulled
    reused: ReusedRows | None = None  # of REUSED.json, for those who pass it on

    @property
    def chunk_bytes(self) -> int:
        """Size of every chunk file, checksum included."""
        return chunk_bytes(self.layout, self.key.binds["d"], self.key.binds["dtype"])

    @property
    def files(self) -> dict[str, bytes]:
        """Key, layout, Zarr metadata and reused rows as this version writes them: nobody's own bytes are sent on."""
        files = {
            "key.json": key_json(self.key),
            "plan.json": layout_json(self.layout),
            "zarr.json": zarr_json(self.key, self.layout),
        }
        return files if self.reused is None else {**files, REUSED: self.reused.to_bytes()}


def read_metadata(folder: Folder) -> ArrayMetadata:
    """Reads key, layout and completion record of the array in a folder.

    Raises:
        Damaged: If one is missing, is not of its form, or contradicts another.
        NewerFormat: If a newer featcache wrote it.
    """
    key, layout = read_key(folder), read_layout(folder)
    if layout is None:
        raise Damaged(f"{folder}/plan.json is missing. Run: featcache verify")
    n, size = key.binds["rows"]["n"], chunk_bytes(layout, key.binds["d"], key.binds["dtype"])
    if layout.n != n:
        raise Damaged(f"{folder}: plan.json is of {layout.n} rows, key.json of {n}. Run: featcache verify")
    if size > _MOST_CHUNK:
        raise Damaged(f"{folder}: chunks of {size} bytes, which nobody writes. Run: featcache verify")
    complete = _completion_of(folder, "COMPLETE.json", key, layout)
    partial = _completion_of(folder, PARTIAL, key, layout) if complete is None else None
    return ArrayMetadata(key, layout, complete, partial)


def _completion_of(folder: Folder, name: str, key: ArrayKey, layout: Layout) -> Complete | None:
    complete, where = read_completion(folder, name, most=layout.completion_json_bytes), f"{folder}/{name}"
    if complete is not None and complete.layout != layout:
        raise Damaged(f"{where} is not of the plan in plan.json. Run: featcache verify")
    if complete is not None and (complete.d, complete.dtype) != (key.binds["d"], key.binds["dtype"]):
        raise Damaged(f"{where} is not of the key in key.json. Run: featcache verify")
    return complete


def read_key(folder: Folder) -> ArrayKey:
    """The content of key.json; as `FeatureArray.key`."""
    path, name = f"{folder}/key.json", ArrayName(*folder.parts[-5:])
    try:
        value = read_json(folder, "key.json")
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing. Run: featcache verify") from error
    _refuse_newer(folder, value)
    require_form("key", value, path)
    try:
        whole = own_hash(value)  # what cannot be written again is not taken
        key = ArrayKey.from_json(value)
        digest = key.digest
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} was changed: {error}. Run: featcache verify") from error
    if digest != name.digest or value["digest"] != name.digest:
        raise Damaged(f"{path} was changed: its content has digest {digest}. Run: featcache verify")
    if value.get("blake3", whole) != whole:  # featcache 0.1 wrote none
        raise Damaged(f"{path} was changed: its content has hash {whole}. Run: featcache verify")
    if key.binds["layer"] != name.layer:  # the digest binds it, and no command renames a layer
        raise Damaged(
            f"{folder} holds layer {key.binds['layer'][:80]!r}, not {name.layer!r}: the folder was renamed by hand, or "
            f"copied. Give it that name, or remove it: {name.remove_command}"
        )
    return key.under(*name[:-1])


def read_layout(folder: Folder) -> Layout | None:
    """The content of plan.json; None before it is written.

    Raises:
        Damaged: If it is not of its form.
        BeyondLimit: If it has more rows or chunks than are believed.
    """
    try:
        value = read_json(folder, "plan.json")
    except FileNotFoundError:
        return None
    return parse_layout(value, f"{folder}/plan.json")


def read_completion(folder: Folder, name: str = "COMPLETE.json", *, most: int | None = None) -> Complete | None:
    """The content of COMPLETE.json or PARTIAL.json, checked in itself alone: to believe it takes `read_metadata`.

    Args:
        folder: The array's folder.
        name: Of the file.
        most: Bytes that it may have; None for the limit of all JSON.

    Returns:
        None if there is no such file.
    """
    try:
        value = read_json(folder, name, most=limit("json") if most is None else most)
    except FileNotFoundError:
        return None
    _refuse_newer(folder, value)
    return parse_complete(value, folder.name, f"{folder}/{name}")


def _refuse_newer(folder: Folder, value: Any) -> None:
    refuse_newer(f"{folder} is store format", value.get("format") if isinstance(value, dict) else None)
