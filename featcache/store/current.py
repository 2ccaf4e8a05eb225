"""The record of a view's current rows, current.json: the row table that names stand for."""

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from featcache.errors import Damaged
from featcache.storage.base import Folder
from featcache.store.digest import FORMAT, canonical, refuse_newer
from featcache.store.schema import read_json

CURRENT = "current.json"
_ROOT = re.compile(r"[0-9a-f]{32,64}")
_MOST_BEFORE = 100


@dataclass(frozen=True)
class CurrentRows:
    """The rows of a view that were extracted last.

    Args:
        root: Root of their row table.
        n: How many they are.
        written: When they became current, ISO, UTC.
        before: Roots that were current before, the last of them last: whoever holds one of these is behind.
    """

    root: str
    n: int
    written: str
    before: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The content of current.json."""
        return canonical({"format": FORMAT, **asdict(self)})

    def follows(self, other: "CurrentRows") -> bool:
        """Whether this record was written where the other one stood, and not the other way round too."""
        return other.root in self.before and self.root not in other.before


def read_current(view_folder: Folder) -> CurrentRows | None:
    """The record of a view; None where there is none (a cache of featcache 0.1, a new one).

    Raises:
        Damaged: If it is not of its form.
        NewerFormat: If a newer featcache wrote it.
    """
    try:
        value = read_json(view_folder, CURRENT)
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise _damaged(view_folder, "it is not valid JSON") from error
    return _parsed(view_folder, value)


def _parsed(view_folder: Folder, value: Any) -> CurrentRows:
    if not isinstance(value, dict) or type(value.get("format")) is not int:
        raise _damaged(view_folder, "it states no format")
    refuse_newer(f"{view_folder}/{CURRENT} is of format", value["format"])
    try:
        record = CurrentRows(value["root"], value["n"], value["written"], tuple(value["before"]))
        roots = (record.root, *record.before)
        sound = all(_ROOT.fullmatch(root) for root in roots) and type(record.n) is int and record.n > 0
        datetime.fromisoformat(record.written)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(view_folder, repr(error)[:120]) from error
    if not sound or len(roots) > 1 + _MOST_BEFORE:
        raise _damaged(view_folder, "a root is none, or there are too many")
    return record


def _damaged(view_folder: Folder, why: str) -> Damaged:
    return Damaged(
        f"{view_folder}/{CURRENT}, which says what rows are current, cannot be read: {why}. Until it is written anew, "
        "arrays are reached by @digest. Run the same featcache extract again"
    )


def set_current(view_folder: Folder, root: str, n: int) -> None:
    """Records that the rows of a root are current; one that says so already stays, a damaged one is replaced."""
    try:
        record = read_current(view_folder)
    except Damaged:
        record = None
    if record is not None and record.root == root:
        return
    before = dict.fromkeys((*record.before, record.root)) if record else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_current(view_folder, CurrentRows(root, n, now, tuple(before)[-_MOST_BEFORE:]))


def write_current(view_folder: Folder, record: CurrentRows) -> None:
    """Writes a record over whatever is there: readers see the old one or the new one."""
    view_folder.make()
    view_folder.replace(CURRENT, record.to_bytes())


def drop_current(view_folder: Folder) -> None:
    """Deletes the record of a view that has no arrays."""
    view_folder.remove(CURRENT)
