"""Differences between two caches: the chunks of each array that the target lacks, and arrays of unequal roots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featcache.cache import Cache
from featcache.errors import (
    Damaged,
    FeatcacheError,
    FeaturesNotCached,
    NewerFormat,
    RemoteFailed,
    RootsDiffer,
    UsageError,
)
from featcache.sharing.current_rows import Prefer, RecordMove, plan_records
from featcache.sharing.validate import read_metadata, records_of, safe_path
from featcache.storage.base import map_both
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from featcache.store.metadata import ArrayMetadata
from featcache.store.records import PARTIAL, Complete, Record
from featcache.store.reused import reuse_note


@dataclass(frozen=True)
class Move:
    """One array of a transfer, and what of it the target lacks."""

    source: FeatureArray
    target: FeatureArray  # there or not
    metadata: ArrayMetadata  # of the source array
    records: tuple[Record, ...] = ()  # of the chunks that the target lacks
    done: bool = True  # the target has all of it
    rows: bool = False  # only part of the array goes
    mixed: bool = False  # some records at the target are another writer's, of the same bytes
    partial: bool = False  # the target holds PARTIAL.json of an earlier pull

    @property
    def path(self) -> str:
        """Path of the array below either cache."""
        return str(self.source.name)

    @property
    def layout(self) -> Layout:
        """The layout of both."""
        return self.metadata.layout

    @property
    def complete(self) -> Complete | None:
        """COMPLETE.json of the source array; None if it is not complete."""
        return self.metadata.complete

    @property
    def bytes(self) -> int:
        """Bytes of the chunks that have to travel."""
        return sum(record.bytes for record in self.records)


@dataclass(frozen=True)
class Transfer:
    """What has to travel from one cache to another."""

    source: Cache
    target: Cache
    moves: tuple[Move, ...]  # one for each array that matches a selector, done or not
    replaced: tuple[FeatureArray, ...] = ()  # arrays of the target that give way because the source is preferred
    prefer: Prefer | None = None  # whose bytes, splits, labels and current rows stay where they differ
    left_out: tuple[str, ...] = ()  # arrays of which the source has only some rows
    records: tuple[RecordMove, ...] = ()  # of current rows, where those of the two caches differ
    # view -> why its record of current rows does not travel: it cannot be read, or is not to be trusted
    unread: Mapping[str, FeatcacheError] = field(default_factory=lambda: {})
    # path -> why the array does not travel: it is damaged, or not to be trusted
    refused: Mapping[str, FeatcacheError] = field(default_factory=lambda: {})

    @property
    def bytes(self) -> int:
        """Bytes of the chunks that have to travel."""
        return sum(move.bytes for move in self.moves)

    @property
    def chunks(self) -> int:
        """Chunks that have to travel."""
        return sum(len(move.records) for move in self.moves)


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
        prefer: Whose array stays where both have chunks and their bytes differ, and whose record of current rows where
            these contradict each other; None makes the first an error and leaves both records.
        may_lack: The source need not have any array that matches.

    Raises:
        FeaturesNotCached: If the source has no array that matches, and that is not allowed.
        RootsDiffer: If both have an array with other bytes and none is preferred.
        UsageError: If the source holds only some rows of an array.
        Damaged: If every array of the source contradicts itself; some that do are in `refused`.
        RemoteFailed: If one side cannot be reached, or lists what no cache holds.
    """
    matches = (source.matching(selector, may_lack=may_lack) for selector in selectors)
    arrays = {str(array.folder): array for each in matches for array in each}
    left_out: list[str] = []
    if not all(map(_names_one, selectors)):  # an array that only a glob matches need not be there whole
        left_out = [place for place, array in arrays.items() if array.folder.exists(PARTIAL)]
        arrays = {place: array for place, array in arrays.items() if place not in left_out}
    if not arrays and left_out and not may_lack:
        raise UsageError(f"only some rows of {left_out[0]} are there; what is passed on must be whole")
    if not arrays and not may_lack:
        raise FeaturesNotCached(f"there is nothing to send in {source.folder}")

    def compare(array: FeatureArray) -> tuple[Move, FeatureArray | None] | FeatcacheError | None:
        try:
            safe_path(source, array)
        except RemoteFailed as error:
            return error
        try:
            return _compare(source, target, array, rows, prefer)
        except (Damaged, NewerFormat) as error:  # it does not keep the others from travelling
            return None if _is_only_begun(array) else error

    compared = map_both(source.folder, target.folder, compare, list(arrays.values()))
    pairs = [each for each in compared if isinstance(each, tuple)]
    refused = {
        str(array.name): each
        for array, each in zip(arrays.values(), compared, strict=True)
        if isinstance(each, FeatcacheError)
    }
    if refused and not pairs:
        raise next(iter(refused.values()))
    if arrays and not pairs and not may_lack:
        raise FeaturesNotCached(f"there is nothing to send in {source.folder} yet: no chunk of an array is there")
    views = sorted({"/".join(move.source.name[:2]) for move, _ in pairs})
    records, unread = plan_records(source, target, views, prefer)
    return Transfer(
        source=source,
        target=target,
        moves=tuple(move for move, _ in pairs),
        replaced=tuple(array for _, array in pairs if array is not None),
        prefer=prefer,
        left_out=tuple(left_out),
        records=records,
        unread=unread,
        refused=refused,
    )


def _is_only_begun(array: FeatureArray) -> bool:
    """Whether an array was just begun, or renamed meanwhile: it has no key, or a right one and no plan."""
    if not array.is_begun:
        return False
    try:
        return not array.folder.exists("key.json") or (bool(array.key()) and not array.folder.exists("plan.json"))
    except FeatcacheError:
        return False


def _has_plan(array: FeatureArray) -> bool:
    return array.folder.exists("key.json") and array.folder.exists("plan.json")


def _names_one(selector: str) -> bool:
    """Whether a selector names an array down to its layer, without globs."""
    return selector.count("/") == 3 and not any(sign in selector for sign in "*?[")


def _compare(
    source: Cache, target: Cache, array: FeatureArray, rows: tuple[int, int] | None, prefer: Prefer | None
) -> tuple[Move, FeatureArray | None]:
    """The move of an array, and the array of the target that has to give way first."""
    path = str(array.name)
    ours, there = read_metadata(array), target.array(path)
    if ours.partial is not None:
        raise UsageError(f"only some rows of {path} are in {source.folder}; what is passed on must be whole")
    if ours.complete is None and rows is not None:
        raise FeaturesNotCached(f"{array.folder} is not complete: its rows cannot be pulled one by one")
    wanted = list(ours.complete.records) if ours.complete else list(records_of(array, ours).values())
    safe_path(target, there)
    # a push that was killed at its beginning may have left one without the other
    theirs = read_metadata(there) if _has_plan(there) else None
    held = _held(there, theirs)
    replaced = None
    if theirs is not None and _differs(there, ours, theirs, wanted, held):
        if prefer is None:
            raise RootsDiffer(
                f"{path}: {source.folder} and {target.folder} hold other bytes for the same digest (another device, "
                f"thread count or library).{reuse_note(ours.reused, theirs.reused)} To keep one of them: "
                "--prefer local, or --prefer remote"
            )
        if prefer == "destination":
            return Move(array, there, ours), None
        replaced, theirs, held = there, None, {}
    needed = wanted if rows is None else _of_rows(wanted, rows, ours.layout, path)
    missing = tuple(record for record in needed if record.chunk not in held)
    mixed = any(held.get(record.chunk, record) != record for record in wanted)
    partial = theirs is not None and theirs.partial is not None
    if rows is not None:
        rest = not partial
    else:
        rest = ours.complete is not None or len(held) == ours.layout.chunks
    move = Move(
        source=array,
        target=there,
        metadata=ours,
        records=missing,
        done=not missing and (not rest or (theirs is not None and theirs.complete is not None)),
        rows=rows is not None,
        mixed=mixed,
        partial=partial,
    )
    return move, replaced


def _held(there: FeatureArray, theirs: ArrayMetadata | None) -> dict[int, Record]:
    if theirs is None:
        return {}
    if theirs.complete is not None:
        return {record.chunk: record for record in theirs.complete.records}
    return records_of(there, theirs)


def _of_rows(records: list[Record], rows: tuple[int, int], layout: Layout, path: str) -> list[Record]:
    start, stop = rows
    if not 0 <= start < stop <= layout.n:
        raise UsageError(f"rows {start}:{stop} of {path}, which has {layout.n}; ask for rows within 0:{layout.n}")
    return records[start // layout.chunk_rows : -(-stop // layout.chunk_rows)]


def _differs(
    there: FeatureArray,
    ours: ArrayMetadata,
    theirs: ArrayMetadata,
    wanted: Sequence[Record],
    held: Mapping[int, Record],
) -> bool:
    """Whether a chunk that both have recorded differs, or another root is arriving there."""
    if theirs.layout != ours.layout:
        return True
    if theirs.complete is None:
        roots = {there.arriving(), theirs.partial and theirs.partial.root}
        if roots - {None, ours.complete and ours.complete.root}:
            return True
    return any(held.get(record.chunk, record).blake3 != record.blake3 for record in wanted)
