"""The mark of a cache: the small file by which a folder on a disk is known to be one."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from featcache.errors import FeatcacheError
from featcache.storage import durable
from featcache.storage.local import LocalFolder
from featcache.storage.plain import entries, is_folder, read_small_json
from featcache.store.digest import FORMAT, refuse_newer

MARK = ".featcache"


def write_mark(root: Path) -> None:
    """Marks a cache's folder; nothing to do where the name is taken."""
    if not os.path.lexists(root / MARK):
        durable.write_once(root / MARK, json.dumps({"format": FORMAT}).encode())


def is_cache(root: Path) -> bool:
    """Whether a folder is a cache: it carries the mark or, of featcache 0.1, an array under its own names.

    Raises:
        NewerFormat: If a newer featcache marked it.
    """
    try:
        version = read_small_json(root / MARK)["format"]
    except (OSError, ValueError, TypeError, KeyError):
        return any(map(_has_own_names, _folders(root, depth=5)))
    refuse_newer(f"{root} is a cache of format", version)
    return type(version) is int and version == FORMAT


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folders so many levels below, as arrays lie."""
    for entry in entries(folder):
        if is_folder(entry) and not entry.name.startswith("."):
            yield from [Path(entry)] if depth == 1 else _folders(Path(entry), depth - 1)


def _has_own_names(folder: Path) -> bool:
    """Whether an array's key says of it what its folders say."""
    from featcache.store.array import FeatureArray  # here, since whoever holds a lease need not have NumPy loaded

    try:
        return FeatureArray(LocalFolder(folder)).key().other_name is None
    except (FeatcacheError, OSError):
        return False
