"""Resolution of names: which of several arrays a name stands for, by the record of the current rows of its view."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featcache.errors import Damaged, FeatcacheError
from featcache.not_found import ambiguous, array_label, created, outdated
from featcache.notices import notice
from featcache.selectors import Selector
from featcache.storage.base import Folder
from featcache.store.array import FeatureArray
from featcache.store.current import CurrentRows, read_current
from featcache.store.digest import ArrayKey, canonical
from featcache.store.rows import read_rows

_DIGEST = re.compile(r"[0-9a-f]{32}")


def choose_array(folder: Folder, dataset: str, wanted: Selector, arrays: Sequence[FeatureArray]) -> FeatureArray:
    """The one array that a name stands for.

    A digest names an array whatever its rows. Of arrays that differ in nothing but rows, the one of the current rows is
    taken, and a notice says so. Where a view has no record of its current rows, one array alone is taken as it is.

    Args:
        folder: The cache's folder.
        dataset: Data set name.
        wanted: The rest of the name.
        arrays: Every array that has this name and can be loaded; one or more.

    Raises:
        Ambiguous: If several arrays are left; the message lists how they differ.
        OutdatedRows: If all that has the name is of older rows than the current ones.
        Damaged: If the record of current rows cannot be read.
    """
    if wanted.digest and len(arrays) == 1:
        return arrays[0]
    place = str(folder)
    names = {array.name[:4] for array in arrays}
    records = {view: read_current(folder / dataset / view) for view in {array.name.view for array in arrays}}
    if wanted.digest or len(names) > 1:
        raise ambiguous(place, dataset, wanted, arrays, records)
    record = records[arrays[0].name.view]
    if record is None:
        if len(arrays) > 1:
            raise ambiguous(place, dataset, wanted, arrays, records)
        return arrays[0]
    keys = {array.digest: array.key() for array in arrays}
    current = [array for array in arrays if is_current(folder, keys[array.digest], record)]
    if len(current) > 1 or not _differ_in_rows_alone(folder, list(keys.values())):
        raise ambiguous(place, dataset, wanted, arrays, records)
    if not current:
        raise outdated(place, dataset, wanted, [keys[array.digest] for array in arrays], record)
    older = [key for digest, key in keys.items() if digest != current[0].digest]
    if older:
        notice(_using(place, keys[current[0].digest], older, record))
    return current[0]


def _differ_in_rows_alone(folder: Folder, keys: Sequence[ArrayKey]) -> bool:
    return len(keys) == 1 or len({apart_from_rows(key, key_finder(folder, key)) for key in keys}) == 1


def _using(place: str, key: ArrayKey, older: Sequence[ArrayKey], record: CurrentRows) -> str:
    others = "; ".join(
        f"an older one of {each.binds['rows']['n']:,} rows, {created(each)}, is @{each.digest[:12]}" for each in older
    )
    return (
        f"using {array_label(key)}@{key.digest[:12]} of {created(key)} for {key.dataset} in {place}, of the current "
        f"{record.n:,} rows; {others}"
    )


# -- rows -------------------------------------------------------------------------------------------------------------


def is_current(folder: Folder, key: ArrayKey, record: CurrentRows) -> bool:
    """Whether an array is of the current rows of its view.

    Imported rows whose content nobody saw are, if they have the ids and groups of the current ones in their order:
    nothing says that they are older.
    """
    rows = key.binds["rows"]
    if rows["root"] == record.root:
        return True
    if "imported" not in key.binds["encoder"] and "from" not in key.binds["encoder"]:
        return False
    view = folder / key.dataset / key.view
    try:
        own = read_rows(view, rows)
        if any(own.hashes):
            return False
        current = read_rows(view, _current_rows_bound(folder, key, record))
    except (Damaged, LookupError):
        return False
    return (own.ids, own.groups) == (current.ids, current.groups)


def _current_rows_bound(folder: Folder, key: ArrayKey, record: CurrentRows) -> Mapping[str, Any]:
    """`binds["rows"]` of the current rows, from any array of them; LookupError if there is none."""
    for path in folder.find(f"{key.dataset}/{key.view}/*/*/*"):
        try:
            rows = FeatureArray(folder / path).key().binds["rows"]
        except FeatcacheError:
            continue
        if rows["root"] == record.root:
            return rows
    raise LookupError(record.root)


def apart_from_rows(key: ArrayKey, source: Callable[[str], ArrayKey | None]) -> str:
    """Canonical JSON of all that a key binds but its rows: equal for arrays that differ in nothing but rows.

    Args:
        key: Of the array; what it was computed from, if it was, is taken without its rows, too.
        source: Digest of an array in the same view -> its key; None if it is not there.
    """
    binds = {name: value for name, value in key.binds.items() if name != "rows"}
    made_from = binds["encoder"].get("from")
    if isinstance(made_from, Mapping):
        origin = source(str(made_from.get("digest")))
        if origin is not None:
            binds["encoder"] = {**binds["encoder"], "from": apart_from_rows(origin, source)}
    return canonical(binds).decode()


def key_finder(folder: Folder, key: ArrayKey) -> Callable[[str], ArrayKey | None]:
    """What finds keys by digest in the view of another key, as `apart_from_rows` asks."""

    def find(digest: str) -> ArrayKey | None:
        if not _DIGEST.fullmatch(digest):
            return None
        for path in folder.find(f"{key.dataset}/{key.view}/*/*/{digest}"):
            try:
                return FeatureArray(folder / path).key()
            except FeatcacheError:
                return None
        return None

    return find
