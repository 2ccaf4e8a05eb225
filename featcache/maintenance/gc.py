"""Housekeeping: leftovers that nobody needs (gc), what arrays take (du), and renaming (mv)."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.cache import Cache
from featcache.errors import Damaged, FeatcacheError, NewerFormat, UsageError
from featcache.maintenance.leftovers import Leftover, Leftovers, Writers, cleaned, leftover, listed
from featcache.maintenance.ours import claims, hidden_leftovers, tables
from featcache.selectors import check_name, parse_pattern
from featcache.storage.durable import sync_folder
from featcache.storage.plain import entries, is_file
from featcache.store.array import FeatureArray
from featcache.store.current import CURRENT, write_current
from featcache.store.leases import DEAD_SECONDS, FOLDER, lease, leases
from featcache.store.records import key_json
from featcache.store.rows import checked_tables, current_overlay, overlay_name, pointer_name, rows_name

_PART = re.compile(r"(clock-|\.tmp-)[0-9a-f]{32}")


# -- gc ---------------------------------------------------------------------------------------------------------------


def leftovers(cache: Cache, *, break_leases: bool = False) -> Leftovers:
    """What killed writers and removals left, tables that no array is bound to, and graphs that a deeper one serves.

    What a writer may have made, by its time, is reported with the writer and is not to be touched; nor is a table or an
    array as long as anybody writes: a writer may be about to go on with it. Arguments and errors as for `listed`.
    """
    return listed(cache, _find, break_leases=break_leases)


def clean(cache: Cache, *, break_leases: bool = False) -> Leftovers:
    """Deletes what `leftovers` finds and nobody may need; as `cleaned`."""
    return cleaned(cache, _find, break_leases=break_leases)


def _find(cache: Cache, writers: Writers) -> Iterator[Leftover | None]:
    for path, what in _unneeded(cache):
        yield leftover(path, what, writers)
    yield from _notes(cache.root, writers)


def _unneeded(cache: Cache) -> Iterator[tuple[Path, str]]:
    yield from hidden_leftovers(cache.root)
    yield from _unbound_tables(cache)
    yield from _served_graphs(cache)


def _notes(root: Path, writers: Writers) -> Iterator[Leftover | None]:
    """Leases and claims of processes that are over, and what one left that died while it wrote or read leases."""
    everybody = Writers(leases(root)[0], writers.now, writers.break_leases)  # those who clean and ourselves among them
    alive = {each.path.name for each in everybody.alive}
    for each in everybody.leases:
        if each.path.name not in alive:
            yield _note(each.path, "note of a writer that died")
    for entry in entries(root / FOLDER):
        if is_file(entry) and _PART.fullmatch(entry.name) and _is_old(Path(entry), writers.now):
            yield _note(Path(entry), "note of a writer that died")
    for path, name in claims(root / FOLDER):
        if name not in alive and _is_old(path, writers.now):
            yield _note(path, "claim of a writer that died")


def _note(path: Path, what: str) -> Leftover | None:
    try:
        return Leftover(path, path.lstat().st_size, what, note=True)
    except FileNotFoundError:  # it has just ended as it should
        return None


def _is_old(path: Path, now: float) -> bool:
    try:
        return now - path.lstat().st_mtime >= DEAD_SECONDS
    except FileNotFoundError:
        return False


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
    """Row tables that no array names, splits that no row table points to, and records of views that have no arrays.

    None where a key cannot be read.
    """
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
        folder = cache.root / dataset
        present = [*tables(folder), *(path for view in entries(folder) for path in tables(Path(view)))]
        for path in present:
            if path.relative_to(folder).as_posix() not in needed:
                is_record = path.name == CURRENT
                yield path, "record of a view that has no arrays" if is_record else "table that no array is bound to"


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

    Each array's key.json records the name. For arrays whose folders were renamed by hand, old and new may be the same:
    then that is all that is done.

    Args:
        cache: The cache, on this disk.
        old: `dataset`, `dataset/view` or `dataset/view/encoder`, without globs.
        new: As many parts.

    Returns:
        The arrays under their new name.

    Raises:
        Damaged: If an array or its row table is; the others have been renamed.
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
    with lease(cache.folder, f"mv {old} {new}"):
        return _rename(cache, old, before, after)


def _rename(cache: Cache, old: str, before: Sequence[str], after: Sequence[str]) -> list[FeatureArray]:
    """As `rename`, under a lease: the copied tables are bound once the arrays have followed."""
    arrays = cache.matching(old)
    errors = [(array, _damage(cache, array)) for array in arrays]  # all that may be wrong is seen before one is moved
    left = [error for _, error in errors if error is not None]
    moves = [(array, [*after, *array.name[len(before) :]]) for array, error in errors if error is None]
    targets = [cache.array("/".join(parts)) for _, parts in moves]
    stays = before == after and any(array.key().other_name for array, _ in moves)
    taken = [target for target in targets if not stays and target.folder.there()]
    if taken:
        raise UsageError(f"{taken[0].folder} is there already; nothing was renamed. Remove it first: "
                         f"{taken[0].name.remove_command}")  # fmt: skip
    _require_same_rows(cache, moves)
    _require_same_current(cache, moves)
    for (array, _), target in zip(moves, targets, strict=True):  # what is meant, so that the same command can go on
        array.folder.replace("key.json", key_json(replace(array.key(), renamed=tuple(target.name[:-1]))))
    for (array, parts), target in zip(moves, targets, strict=True):
        if not stays:
            _move(cache, array, target, parts)
        key = target.key()
        if key.made_as is None:  # it has its first name again
            target.folder.replace("key.json", key_json(replace(key, renamed=None)))
    if left:
        there = f"\n  {len(targets)} of {len(arrays)} arrays were renamed; the others are where they were"
        raise type(left[0])(f"{left[0]}{there}")
    return targets


def _damage(cache: Cache, array: FeatureArray) -> FeatcacheError | None:
    """Why an array cannot be renamed; None if it can."""
    try:
        key = array.key()
        checked_tables(cache.folder / key.dataset, key.view, key.binds["rows"])
    except (Damaged, NewerFormat) as error:
        return error
    return None


def _move(cache: Cache, array: FeatureArray, target: FeatureArray, parts: Sequence[str]) -> None:
    _copy_tables(cache, array, parts[0], parts[1])
    target.folder.parent.make()
    array.path.rename(target.path)
    sync_folder(target.path.parent)
    sync_folder(array.path.parent)
    cache.tidy(array, target.key().binds["rows"]["root"])


def _require_same_rows(cache: Cache, moves: Sequence[tuple[FeatureArray, list[str]]]) -> None:
    """Refuses to put images among captions: whoever pairs rows by view would pair the wrong ones.

    Nothing is asked of a renaming that was interrupted, and that has put some of its arrays there already.
    """
    places = {(parts[0], parts[1]) for _, parts in moves} - {array.name[:2] for array, _ in moves}
    for dataset, view in sorted(places):
        coming = [(array.key(), parts) for array, parts in moves if parts[:2] == [dataset, view]]
        if any(key.renamed == tuple(parts[:-1]) for key, parts in coming):
            continue
        there = {_root_of_rows(array) for array in cache.arrays(dataset, view)} - {None}
        if there and there != {key.binds["rows"]["root"] for key, _ in coming}:
            raise UsageError(
                f"{dataset}/{view} in {cache.folder} holds features of other rows; nothing was renamed. Take a name "
                "that is free; what there is: featcache ls"
            )


def _root_of_rows(array: FeatureArray) -> str | None:
    try:
        return array.key().binds["rows"]["root"]
    except (Damaged, NewerFormat):
        return None


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
