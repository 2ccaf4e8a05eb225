"""What has to travel from one cache to another? The chunks that are missing there, unless its bytes differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from featcache.cache import Cache
from featcache.errors import FeaturesNotCached, RootsDiffer, UsageError
from featcache.sharing.validate import Said, records_of, safe_path, said_of
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from featcache.store.records import PARTIAL, Complete, Record

Prefer = Literal["source", "destination"]
_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True)
class Move:
    """What one array still has to send.

    Args:
        source: The array where it is.
        target: The array where it goes, there or not.
        said: What the source says of it.
        records: Records of the chunks that the target lacks.
        done: The target has all of it.
        rows: Only part of the array goes.
        mixed: Some records at the target are another writer's, of the same bytes.
        partial: The target holds PARTIAL.json of an earlier pull.
    """

    source: FeatureArray
    target: FeatureArray
    said: Said
    records: tuple[Record, ...] = ()
    done: bool = True
    rows: bool = False
    mixed: bool = False
    partial: bool = False

    @property
    def path(self) -> str:
        """Path of the array below either cache."""
        return str(self.source.name)

    @property
    def layout(self) -> Layout:
        """The plan of both."""
        return self.said.plan

    @property
    def complete(self) -> Complete | None:
        """What the source recorded of the whole array; None if it is not complete."""
        return self.said.complete

    @property
    def bytes(self) -> int:
        """Bytes of the chunks that have to travel."""
        return sum(record.bytes for record in self.records)


@dataclass(frozen=True)
class Transfer:
    """What has to travel from one cache to another.

    Args:
        source: The cache where it is.
        target: The cache where it goes.
        moves: One for each array that answers to the selector, done or not.
        replaced: Arrays of the target that give way because the source is preferred.
        prefer: Whose bytes, splits and labels stand where they differ.
        left_out: Arrays of which the source has only some rows.
    """

    source: Cache
    target: Cache
    moves: tuple[Move, ...]
    replaced: tuple[FeatureArray, ...] = ()
    prefer: Prefer | None = None
    left_out: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of the chunks that have to travel."""
        return sum(move.bytes for move in self.moves)

    @property
    def chunks(self) -> int:
        """Chunks that have to travel."""
        return sum(len(move.records) for move in self.moves)


def map_both(source: Cache, target: Cache, function: Callable[[_T], _U], items: Sequence[_T]) -> list[_U]:
    """As `Folder.map`, as many at once as the slower of both sides wants."""
    return max(source.folder, target.folder, key=lambda folder: folder.parallel).map(function, items)


# -- what has to travel -----------------------------------------------------------------------------------------------


def plan_transfer(
    source: Cache,
    target: Cache,
    selectors: Sequence[str] = ("*",),
    *,
    rows: tuple[int, int] | None = None,
    prefer: Prefer | None = None,
    may_lack: bool = False,
) -> Transfer:
    """Compares two caches; moves nothing.

    Args:
        source: Where the features are.
        target: Where they go.
        selectors: `dataset[/view[/encoder[/layer]]]`, parts may hold globs.
        rows: Only the chunks that hold rows start to stop.
        prefer: Whose array stays where both have chunks and their bytes differ; None makes that an error.
        may_lack: The source need not have anything of what is named.

    Raises:
        FeaturesNotCached: If the source has nothing of what is named, and that is not allowed.
        RootsDiffer: If both have an array with other bytes and none is preferred.
        UsageError: If the source holds only some rows of an array.
        Damaged: If an array of the source contradicts itself.
        RemoteFailed: If one side cannot be reached, or lists what no cache holds.
    """
    answering = (source.answering(selector, may_lack=may_lack) for selector in selectors)
    found = {str(array.folder): array for arrays in answering for array in arrays}
    if not all(map(_names_one, selectors)):  # what was not asked for by name need not be there whole
        left_out = [place for place, array in found.items() if array.folder.exists(PARTIAL)]
        found = {place: array for place, array in found.items() if place not in left_out}
    else:
        left_out = []
    if not found and left_out and not may_lack:
        raise UsageError(f"only some rows of {left_out[0]} are there; what is passed on must be whole")
    if not found and not may_lack:
        raise FeaturesNotCached(f"there is nothing to send in {source.folder}")

    def compare(array: FeatureArray) -> tuple[Move, FeatureArray | None]:
        return _compare(source, target, array, rows, prefer)

    pairs = map_both(source, target, compare, list(found.values()))
    replaced = tuple(array for _, array in pairs if array is not None)
    return Transfer(source, target, tuple(move for move, _ in pairs), replaced, prefer, tuple(left_out))


def _names_one(selector: str) -> bool:
    """Whether a selector names an array down to its layer, without globs."""
    return selector.count("/") == 3 and not any(sign in selector for sign in "*?[")


def _compare(
    source: Cache, target: Cache, array: FeatureArray, rows: tuple[int, int] | None, prefer: Prefer | None
) -> tuple[Move, FeatureArray | None]:
    """What an array has to send, and the array that has to give way first."""
    path = safe_path(source, array)
    said, there = said_of(array), target.array(path)
    if said.part is not None:
        raise UsageError(f"only some rows of {path} are in {source.folder}; what is passed on must be whole")
    if said.complete is None and rows is not None:
        raise FeaturesNotCached(f"{array.folder} is not complete: its rows cannot be pulled one by one")
    wanted = list(said.complete.records) if said.complete else list(records_of(array, said).values())
    safe_path(target, there)
    # a push that was killed at its beginning may have left one without the other
    begun = there.folder.exists("plan.json") and there.folder.exists("key.json")
    theirs = said_of(there) if begun else None
    held = _held(there, theirs)
    replaced = None
    if theirs is not None and _differs(there, said, theirs, wanted, held):
        if prefer is None:
            raise RootsDiffer(
                f"{path}: {source.folder} and {target.folder} hold other bytes for the same digest (another device, "
                "thread count or library). To keep one of them: --prefer local, or --prefer remote"
            )
        if prefer == "destination":
            return Move(array, there, said), None
        replaced, theirs, held = there, None, {}
    needed = wanted if rows is None else _of_rows(wanted, rows, said.plan, path)
    missing = tuple(record for record in needed if record.chunk not in held)
    mixed = any(held.get(record.chunk, record) != record for record in wanted)
    partial = theirs is not None and theirs.part is not None
    if rows is not None:
        rest = not partial
    else:
        rest = said.complete is not None or len(held) == said.plan.chunks
    done = not missing and (not rest or (theirs is not None and theirs.complete is not None))
    return Move(array, there, said, missing, done, rows is not None, mixed, partial), replaced


def _held(there: FeatureArray, theirs: Said | None) -> dict[int, Record]:
    if theirs is None:
        return {}
    if theirs.complete is not None:
        return {record.chunk: record for record in theirs.complete.records}
    return records_of(there, theirs)


def _of_rows(records: list[Record], rows: tuple[int, int], plan: Layout, path: str) -> list[Record]:
    start, stop = rows
    if not 0 <= start < stop <= plan.n:
        raise UsageError(f"rows {start}:{stop} of {path}, which has {plan.n}; ask for rows within 0:{plan.n}")
    return records[start // plan.chunk_rows : -(-stop // plan.chunk_rows)]


def _differs(
    there: FeatureArray, said: Said, theirs: Said, wanted: Sequence[Record], held: Mapping[int, Record]
) -> bool:
    """Whether a chunk that both have recorded differs, or another root is arriving there."""
    if theirs.plan != said.plan:
        return True
    if theirs.complete is None:
        roots = {there.arriving(), theirs.part and theirs.part.root}
        if roots - {None, said.complete and said.complete.root}:
            return True
    return any(held.get(record.chunk, record).blake3 != record.blake3 for record in wanted)
