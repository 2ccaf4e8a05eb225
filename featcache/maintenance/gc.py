"""Housekeeping: leftovers that nobody needs (gc), what arrays take (du), and renaming (mv)."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.cache import Cache
from featcache.errors import FeatcacheError, UsageError
from featcache.selectors import check_name, parse_pattern
from featcache.storage.base import DOOMED, KEPT, is_leftover
from featcache.storage.durable import TEMPORARY, sync_folder
from featcache.store.array import FeatureArray
from featcache.store.current import CURRENT, write_current
from featcache.store.leases import FOLDER, Lease, leases
from featcache.store.records import record_name
from featcache.store.rows import checked_tables, current_overlay, overlay_name, pointer_name, rows_name

_TABLES = ("rows-", "overlay-")
_UNBOUND = "table that no array is bound to"
_NO_ARRAYS = "record of a view that has no arrays"


# -- gc ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leftover:
    """Something in the cache that nothing reads."""

    path: Path
    bytes: int  # with all that is in it
    what: str  # in words
    holder: str | None = None  # a live writer that may still need it


def leftovers(cache: Cache) -> list[Leftover]:
    """What killed writers and removals left, tables that no array is bound to, and graphs that a deeper one serves.

    Whatever a live writer may have made, by its time, is reported with the writer and is not to be touched.

    Raises:
        UsageError: If the cache is not on this disk.
    """
    every, now = leases(cache.root)
    alive = [lease for lease in every if lease.lives(now)]
    dead = [lease for lease in every if not lease.lives(now)]
    unneeded = [_held(path, what, alive) for path, what in _unneeded(cache)]
    return unneeded + [Leftover(lease.path, lease.path.stat().st_size, "note of a writer that died") for lease in dead]


def _held(path: Path, what: str, alive: list[Lease]) -> Leftover:
    changed = max(path.lstat().st_mtime, path.lstat().st_ctime)
    # a table that was there before may be what a writer goes on with
    holders = [lease for lease in alive if what in (_UNBOUND, _NO_ARRAYS) or changed >= lease.began - 1.0]
    return Leftover(path, size_of(path), what, holders[0].holder if holders else None)


def _unneeded(cache: Cache) -> Iterator[tuple[Path, str]]:
    for folder, folders, names in os.walk(cache.root):
        for name in list(folders):
            if name.startswith(DOOMED):
                yield Path(folder, name), "removal that was interrupted"
            elif name.startswith(TEMPORARY) and name.endswith(".lock"):
                yield Path(folder, name), "lock of a writer that died"
            elif name.startswith(".repair-"):
                yield Path(folder, name), "repair that was interrupted"
            else:
                continue
            folders.remove(name)
        if FOLDER in folders:
            folders.remove(FOLDER)
        for name in names:
            what = _left_file(Path(folder), name)
            if what is not None:
                yield Path(folder, name), what
    yield from _unbound_tables(cache)
    yield from _served_graphs(cache)


def _left_file(folder: Path, name: str) -> str | None:
    """What sort of leftover a file is, in words; None if it is none, or the next extraction can use it."""
    if name.startswith(KEPT):
        committed = (folder / record_name(name.removeprefix(KEPT))).exists()
        return "rows of an interrupted extraction, committed since" if committed else None
    if not is_leftover(name):
        return None
    return "set aside as damaged" if name.startswith(".aside") else "temporary file"


def _served_graphs(cache: Cache) -> Iterator[tuple[Path, str]]:
    """Complete neighbour graphs beside a deeper one of the same features, metric, rows rule and groups."""
    alike: dict[str, list[tuple[int, FeatureArray]]] = {}
    for array in cache.arrays("*", "*", "*", "graph.*"):
        try:
            binds = array.key().binds
            encoder = binds["encoder"]
            made_by = {name: value for name, value in encoder["made_by"].items() if name != "k"}
            same = json.dumps([array.name[:-1], encoder["from"], made_by, binds["rows"]], sort_keys=True)
        except (FeatcacheError, KeyError, AttributeError):
            continue  # what is damaged is for `featcache verify` to say
        if array.is_complete:
            alike.setdefault(same, []).append((int(binds["d"]), array))
    for graphs in alike.values():
        depth = max(depth for depth, _ in graphs)
        for shallow, array in graphs:
            if shallow < depth:
                yield array.path, f"graph {shallow} deep: one {depth} deep serves every smaller k"


def _unbound_tables(cache: Cache) -> Iterator[tuple[Path, str]]:
    """Row tables that no array names, and splits that no row table points to; none where a key cannot be read."""
    for dataset in cache.folder.folders():
        needed: set[str] = set()
        try:
            for array in cache.arrays(dataset):
                key = array.key()
                root = str(key.binds["rows"]["root"])
                view = cache.folder / dataset / key.view
                needed |= {f"{key.view}/{name}" for name in (rows_name(root), pointer_name(root), CURRENT)}
                overlay = current_overlay(view, root)
                needed |= {overlay_name(overlay)} if overlay else set()
        except FeatcacheError:
            continue
        folder = cache.folder / dataset
        tables = [name for name in folder.names() if name.startswith(_TABLES)]
        tables += [
            f"{view}/{name}"
            for view in folder.folders()
            for name in (folder / view).names()
            if name.startswith(_TABLES) or name == CURRENT
        ]
        for name in sorted(set(tables) - needed):
            yield cache.root / dataset / name, _NO_ARRAYS if name.endswith(f"/{CURRENT}") else _UNBOUND


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def discard(leftover: Leftover) -> None:
    """Deletes a leftover.

    Raises:
        UsageError: If a live writer may still need it.
    """
    if leftover.holder:
        raise UsageError(f"{leftover.path} may be needed by {leftover.holder}")
    if leftover.path.is_dir() and not leftover.path.is_symlink():
        doomed = leftover.path
        if not doomed.name.startswith("."):  # an array: gone at once, not half there if this is interrupted
            doomed = leftover.path.rename(leftover.path.with_name(f"{DOOMED}{leftover.path.name}"))
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        leftover.path.unlink(missing_ok=True)


# -- du ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """What one encoder's arrays over one view take."""

    path: str  # "dataset/view/encoder"
    arrays: int
    features: int  # bytes of the chunks
    records: int  # bytes of everything beside them
    files: int


def usage(cache: Cache, selector: str = "*") -> list[Usage]:
    """What is taken by the arrays that answer to a selector; errors as `Cache.matching`."""
    groups: dict[str, list[FeatureArray]] = {}
    for array in cache.matching(selector):
        groups.setdefault("/".join(array.name[:3]), []).append(array)
    usages: list[Usage] = []
    for path, arrays in groups.items():
        sizes = [entry for files in cache.folder.map(lambda a: list(a.folder.files()), arrays) for entry in files]
        features = sum(size for name, size in sizes if name.startswith("c."))
        records = sum(size for _, size in sizes) - features
        usages.append(Usage(path, arrays=len(arrays), features=features, records=records, files=len(sizes)))
    return usages


# -- mv ---------------------------------------------------------------------------------------------------------------


def rename(cache: Cache, old: str, new: str) -> list[FeatureArray]:
    """Gives a data set, view or encoder another name; digests, and so everything derived, stay as they are.

    Args:
        cache: The cache, on this disk.
        old: `dataset`, `dataset/view` or `dataset/view/encoder`, without globs.
        new: As many parts.

    Returns:
        The arrays under their new name.

    Raises:
        UsageError: If the names do not match in form, an array is there under the new name already, or the view of
            that name holds other rows.
        FeaturesNotCached: If there is nothing under the old name.
    """
    before, after = old.split("/"), new.split("/")
    if len(before) != len(after) or not 1 <= len(before) <= 3:
        raise UsageError(f"wanted two names of the same form, such as data/view/encoder twice; got {old!r} and {new!r}")
    for part in (*before, *after):
        check_name(part, "a folder of a cache")
    parse_pattern(old)
    moves = [(array, [*after, *array.name[len(before) :]]) for array in cache.matching(old)]
    targets = [cache.array("/".join(parts)) for _, parts in moves]
    taken = [target for target in targets if target.folder.there()]
    if taken:
        raise UsageError(f"{taken[0].folder} is there already; nothing was renamed. Remove it first: "
                         f"{taken[0].name.remove_command}")  # fmt: skip
    _require_same_rows(cache, moves)
    _require_same_current(cache, moves)
    for array, _ in moves:  # all that may be wrong is seen before the first is moved
        key = array.key()
        checked_tables(cache.folder / key.dataset, key.view, key.binds["rows"])
    for (array, parts), target in zip(moves, targets, strict=True):
        _copy_tables(cache, array, parts[0], parts[1])
        target.folder.parent.make()
        array.path.rename(target.path)
        sync_folder(target.path.parent)
        sync_folder(array.path.parent)
        cache.tidy(array, target.key().binds["rows"]["root"])
    return targets


def _require_same_rows(cache: Cache, moves: Sequence[tuple[FeatureArray, list[str]]]) -> None:
    """Refuses to put images among captions: whoever pairs rows by view would pair the wrong ones."""
    places = {(parts[0], parts[1]) for _, parts in moves} - {array.name[:2] for array, _ in moves}
    for dataset, view in sorted(places):
        there = {array.key().binds["rows"]["root"] for array in cache.arrays(dataset, view)}
        come = {array.key().binds["rows"]["root"] for array, parts in moves if parts[:2] == [dataset, view]}
        if there and there != come:
            raise UsageError(
                f"{dataset}/{view} in {cache.folder} holds features of other rows; nothing was renamed. Take a name "
                "that is free; what there is: featcache ls"
            )


def _require_same_current(cache: Cache, moves: Sequence[tuple[FeatureArray, list[str]]]) -> None:
    """Refuses to join two views whose records contradict each other; reads every record before anything is moved."""
    for before, after in sorted({(array.name[:2], (parts[0], parts[1])) for array, parts in moves}):
        own, other = cache.current_rows(*before), cache.current_rows(*after)
        if own is not None and other is not None and own.root != other.root:
            raise UsageError(
                f"the current rows of {'/'.join(after)} are not those of {'/'.join(before)} in {cache.folder}; nothing "
                "was renamed. Take a name that is free, or extract one of them again"
            )


def _copy_tables(cache: Cache, array: FeatureArray, dataset: str, view: str) -> None:
    """The array's row table, splits, labels and record of current rows, under the new names; what is there stays."""
    key = array.key()
    source, target = cache.folder / key.dataset, cache.folder / dataset
    (target / view).make()
    for name in checked_tables(source, key.view, key.binds["rows"]):
        folder, _, file = name.rpartition("/")
        target.write_once(f"{view}/{file}" if folder else file, source.read(name))
    record = cache.current_rows(key.dataset, key.view)
    if record is not None and cache.current_rows(dataset, view) is None:
        write_current(target / view, record)
