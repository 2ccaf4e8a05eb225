"""Row tables, splits and labels in a transfer: each checked before it is sent."""

import json
from collections.abc import Callable

from featcache.cache import Cache
from featcache.errors import Damaged, FeatcacheError
from featcache.sharing.diff import Move, Transfer
from featcache.sharing.validate import require_plain
from featcache.storage.base import Folder
from featcache.storage.local import LocalFolder
from featcache.store.digest import ArrayKey
from featcache.store.leases import lease
from featcache.store.rows import current_overlay, overlay_name, pointer_name, read_overlay_of, read_rows, rows_name


def send_tables(what: Transfer, refused: dict[str, FeatcacheError]) -> None:
    """Row tables, splits and labels of every view of which something travels, or whose labels the source prefers.

    The arrays of a view whose tables are damaged are added to `refused`.
    """
    views: dict[tuple[str, str, str], tuple[ArrayKey, bool]] = {}
    for move in what.moves:
        name, key = _rows_of(move), move.metadata.key
        views[name] = (key, not move.done or views.get(name, (key, False))[1])
    files: dict[str, Callable[[], bytes]] = {}
    pointers: dict[str, bytes] = {}
    for name, (key, moves) in views.items():
        try:
            _tables_of_view(what, key, moves, files, pointers)
        except Damaged as error:
            bound = [move.path for move in what.moves if not move.done and _rows_of(move) == name]
            if not bound:  # nothing of it travels but labels
                raise
            refused |= dict.fromkeys(bound, error)
    if not files and not pointers:
        return
    with lease(what.target.folder, f"send tables of {what.source.folder}"):
        dict(what.target.folder.send(iter(files.items())))
        for name, content in pointers.items():
            what.target.folder.replace(name, content)


def restore_tables(what: Transfer, refused: dict[str, FeatcacheError]) -> None:
    """Sends tables again that are gone meanwhile: at its end a writer leaves no array without its rows."""
    if not isinstance(what.target.folder, LocalFolder):
        return
    keys = [move.metadata.key for move in what.moves if move.path not in refused]
    if not all(_has_tables(what.target, key) for key in keys):
        send_tables(what, refused)


def _has_tables(cache: Cache, key: ArrayKey) -> bool:
    view, root = cache.folder / key.dataset / key.view, key.binds["rows"]["root"]
    overlay = current_overlay(view, root)
    there = (cache.folder / key.dataset).exists
    return overlay is not None and there(f"{key.view}/{rows_name(root)}") and there(overlay_name(overlay))


def _rows_of(move: Move) -> tuple[str, str, str]:
    key = move.metadata.key
    return key.dataset, key.view, key.binds["rows"]["root"]


def _tables_of_view(
    what: Transfer, key: ArrayKey, moves: bool, files: dict[str, Callable[[], bytes]], pointers: dict[str, bytes]
) -> None:
    """Adds the tables of a view that have to travel, and where its rows point to; Damaged if one is not whole."""
    view, root = f"{key.dataset}/{key.view}", key.binds["rows"]["root"]
    pointer = f"{view}/{pointer_name(root)}"
    overlay, theirs = (current_overlay(cache.folder / view, root) for cache in (what.source, what.target))
    if overlay is None:
        raise Damaged(
            f"{what.source.folder}/{pointer} is missing or names no splits and labels. "
            "Run the same featcache extract again"
        )
    preferred = what.prefer == "source" and theirs != overlay
    if moves or preferred or theirs is None:
        files |= _tables_to_send(what, key, overlay)
    if preferred or theirs is None:
        pointers[pointer] = json.dumps({"overlay": overlay}).encode()


def _tables_to_send(what: Transfer, key: ArrayKey, overlay: str) -> dict[str, Callable[[], bytes]]:
    """The tables of a view, checked where they are; a damaged one at the target is replaced at once."""
    source, target, rows = what.source.folder, what.target.folder, key.binds["rows"]

    checks: dict[str, Callable[[Folder], object]] = {
        f"{key.dataset}/{key.view}/{rows_name(rows['root'])}": lambda c: read_rows(c / key.dataset / key.view, rows),
        f"{key.dataset}/{overlay_name(overlay)}": lambda cache: read_overlay_of(cache / key.dataset, overlay),
    }
    (target / key.dataset / key.view).make()
    files: dict[str, Callable[[], bytes]] = {}
    for name, check in checks.items():
        for folder in (source, target):
            if isinstance(folder, LocalFolder):
                require_plain(folder.path / name)
        check(source)
        if not target.exists(name):
            files[name] = lambda name=name: source.read(name)
            continue
        try:
            check(target)
        except Damaged:
            target.replace(name, source.read(name))
    return files
