"""REUSED.json: the rows of an array that were taken from an older one instead of being encoded."""

import re
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from featcache.errors import Damaged
from featcache.storage.base import Folder
from featcache.store.digest import canonical
from featcache.store.records import REUSED, read_json

_HASH = re.compile(r"[0-9a-f]{32,64}")


def read_reused(folder: Folder) -> dict[str, Any] | None:
    """The content of an array's REUSED.json: `format`, `from` (digest, root, path) and `rows`; None without one.

    Raises:
        Damaged: If it is not of its form, or does not have its own checksum: a changed number would copy wrong rows.
    """
    try:
        value = read_json(folder, REUSED)
    except FileNotFoundError:
        return None
    source = value.get("from") if isinstance(value, dict) else None
    if (
        not isinstance(source, dict)
        or not all(isinstance(source.get(name), str) for name in ("digest", "root", "path"))
        or not (_HASH.fullmatch(source["digest"]) and _HASH.fullmatch(source["root"]))
        or type(value.get("format")) is not int
        or type(value.get("rows")) is not int
        or value["rows"] < 0
        or value.get("blake3") != reused_hash(value)
    ):
        raise Damaged(f"{folder}/{REUSED} was changed. Run: featcache verify")
    return value


def reused_hash(value: Mapping[str, Any]) -> str:
    """Checksum of a REUSED.json: blake3, 128 bits in hex, of all its other fields."""
    rest = {name: part for name, part in value.items() if name != "blake3"}
    return blake3(canonical(rest)).hexdigest(length=16)


def reuse_note(*reused: Mapping[str, Any] | None) -> str:
    """What to say of unequal bytes where an array has reused rows, behind the sentences before it; "" where none has.

    Args:
        reused: As `read_reused` gives it, of each of the arrays.
    """
    notes = [
        f" {each['rows']:,} of the rows were reused from {each['from']['path']} with root {each['from']['root'][:12]}: "
        "such an array may differ from a fresh extraction by float rounding."
        for each in reused
        if each is not None
    ]
    return "".join(dict.fromkeys(notes))
