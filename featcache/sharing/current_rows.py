"""Records of current rows in a transfer: which go along, which stay behind, which contradict each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from featcache.cache import Cache
from featcache.errors import Damaged, FeatcacheError, RemoteFailed
from featcache.sharing.validate import require_plain
from featcache.storage.base import Folder, map_both
from featcache.storage.local import LocalFolder
from featcache.store.current import CURRENT, CurrentRows, read_current, write_current

Prefer = Literal["source", "destination"]


@dataclass(frozen=True)
class RecordMove:
    """The record of one view, where the target's is not the source's.

    `what` becomes of it: "new" (the target has none, and no rows that the source does not know), "newer" (it was
    written where the target's stood) and "preferred" go; "older" stays, since the target's was written where it stood;
    so does "conflict", where neither follows the other.
    """

    view: str  # "dataset/view"
    ours: CurrentRows  # of the source
    theirs: CurrentRows | None  # of the target
    what: Literal["new", "newer", "preferred", "older", "conflict"]

    @property
    def goes(self) -> bool:
        """Whether the source's record replaces the target's."""
        return self.what in ("new", "newer", "preferred")


def plan_records(
    source: Cache, target: Cache, views: Sequence[str], prefer: Prefer | None
) -> tuple[tuple[RecordMove, ...], dict[str, FeatcacheError]]:
    """Compares the records of views, "dataset/view"; changes nothing.

    Returns:
        Where the records differ; and view -> why the source's cannot be read, or is not to be trusted.

    Raises:
        RemoteFailed: If a side cannot be reached.
    """

    def compare(view: str) -> RecordMove | FeatcacheError | None:
        try:
            ours = _read(source.folder / view)
        except Damaged as error:
            return error
        except RemoteFailed as error:  # a link, on this disk; a place that cannot be reached gives no arrays either
            if not isinstance(source.folder, LocalFolder):
                raise
            return error
        theirs = _read_or_none(target.folder / view)
        if ours is None or (theirs is not None and ours.root == theirs.root):
            return None
        if theirs is None:
            lone = _tables(target.folder / view) - _tables(source.folder / view)
            what = "conflict" if lone else "new"
        else:
            what = "newer" if ours.follows(theirs) else "older" if theirs.follows(ours) else "conflict"
        if prefer is not None and what in ("older", "conflict"):
            what = "preferred" if prefer == "source" else "older"
        if prefer == "destination" and what == "newer":
            what = "older"
        return RecordMove(view, ours, theirs, what)

    compared = dict(zip(views, map_both(source.folder, target.folder, compare, views), strict=True))
    moves = tuple(move for move in compared.values() if isinstance(move, RecordMove))
    return moves, {view: error for view, error in compared.items() if isinstance(error, FeatcacheError)}


def send_records(target: Cache, moves: Sequence[RecordMove]) -> None:
    """Writes the records that go, as they were read."""
    for move in moves:
        if move.goes:
            write_current(target.folder / move.view, move.ours)


def _read(view: Folder) -> CurrentRows | None:
    if isinstance(view, LocalFolder):
        require_plain(view.path / CURRENT)
    return read_current(view)


def _read_or_none(view: Folder) -> CurrentRows | None:
    """The target's record; a damaged one is none: the source's takes its place."""
    try:
        return _read(view)
    except Damaged:
        return None


def _tables(view: Folder) -> set[str]:
    """Names of the row tables of a view."""
    return {name for name in view.names() if name.startswith("rows-") and name.endswith(".parquet")}
