"""How do features get from one cache to another? Only missing chunks travel, each checked; tables go along."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from blake3 import blake3

from featcache.cache import Cache
from featcache.errors import Damaged, FeaturesNotCached, RemoteFailed, RootsDiffer, UsageError
from featcache.folder import LocalFolder
from featcache.key import ArrayKey, canonical
from featcache.names import check_name
from featcache.plan import Plan
from featcache.records import Complete, Record, chunk_name, read_json
from featcache.store import FeatureArray, record_name
from featcache.tables import checked_tables, current_overlay

ARRIVING = "ARRIVING.json"
Prefer = Literal["source", "destination"]
_META = ("key.json", "plan.json", "zarr.json")


@dataclass(frozen=True)
class Move:
    """What one array still has to send.

    Args:
        source: The array where it is.
        target: The array where it goes, there or not.
        plan: The plan of both.
        complete: What the source recorded of the whole array; None if it is not complete.
        records: Records of the chunks that the target lacks.
        rows: Only part of the array goes.
    """

    source: FeatureArray
    target: FeatureArray
    plan: Plan
    complete: Complete | None
    records: tuple[Record, ...]
    rows: bool = False

    @property
    def path(self) -> str:
        """Path of the array below either cache."""
        return "/".join(self.source.folder.parts[-5:])

    @property
    def bytes(self) -> int:
        """Bytes of the chunks that have to travel."""
        return sum(record.bytes for record in self.records)

    @property
    def done(self) -> bool:
        """Whether the target has all of it."""
        return not self.records and (self.complete is None or self.rows or self.target.is_complete)


@dataclass(frozen=True)
class Transfer:
    """What has to travel from one cache to another.

    Args:
        source: The cache where it is.
        target: The cache where it goes.
        moves: One for each array that answers to the selector, done or not.
        replaced: Arrays of the target that give way because the source is preferred.
        prefer: Whose bytes, splits and labels stand where they differ.
    """

    source: Cache
    target: Cache
    moves: tuple[Move, ...]
    replaced: tuple[FeatureArray, ...] = ()
    prefer: Prefer | None = None

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
) -> Transfer:
    """Compares two caches; moves nothing.

    Args:
        source: Where the features are.
        target: Where they go.
        selectors: `dataset[/view[/encoder[/layer]]]`, parts may hold globs.
        rows: Only the chunks that hold rows start to stop.
        prefer: Whose array stays where both are complete and their bytes differ; None makes that an error.

    Raises:
        FeaturesNotCached: If the source has nothing of what is named.
        RootsDiffer: If both have an array with other bytes and none is preferred.
        UsageError: If the source holds only some rows of an array.
    """
    found = {str(array.folder): array for selector in selectors for array in source.answering(selector)}
    if not found:
        raise FeaturesNotCached(f"there is nothing to send in {source.folder}")
    replaced: list[FeatureArray] = []

    def compare(array: FeatureArray) -> Move:
        return _compare(source, target, array, rows, prefer, replaced)

    moves = source.folder.map(compare, list(found.values()))
    return Transfer(source, target, tuple(moves), tuple(replaced), prefer)


def _compare(
    source: Cache,
    target: Cache,
    array: FeatureArray,
    rows: tuple[int, int] | None,
    prefer: Prefer | None,
    replaced: list[FeatureArray],
) -> Move:
    path = _safe_path(source, array)
    array.key()
    plan = array.plan()
    if plan is None:
        raise Damaged(f"{array.folder}/plan.json is missing. Run: featcache verify")
    if not array.is_complete and array.partial() is not None:
        raise UsageError(f"only some rows of {path} are in {source.folder}; what is passed on must be whole")
    complete = array.complete() if array.is_complete else None
    if complete is None and rows is not None:
        raise FeaturesNotCached(f"{array.folder} is not complete: its rows cannot be pulled one by one")
    records = list(complete.records) if complete else _records(array)
    there = target.array(path)
    if _differs(array, there, complete, records):
        if prefer is None:
            raise RootsDiffer(
                f"{path}: {source.folder} and {target.folder} hold other bytes for the same digest (another device, "
                "thread count or library). To keep one of them: --prefer local, or --prefer remote"
            )
        if prefer == "destination":
            return Move(array, there, plan, None, ())
        replaced.append(there)
        committed = set[int]()
    else:
        committed = there.committed()
    if rows is not None:
        start, stop = rows
        if not 0 <= start < stop <= plan.n:
            raise UsageError(f"rows {start}:{stop} of {path}, which has {plan.n}")
        records = records[start // plan.chunk_rows : -(-stop // plan.chunk_rows)]
    missing = tuple(record for record in records if record.chunk not in committed)
    return Move(array, there, plan, complete, missing, rows is not None)


def _safe_path(source: Cache, array: FeatureArray) -> str:
    """The array's path below its cache, of names that are safe as folders; a listing is not to be trusted."""
    parts = array.folder.parts[-5:]
    try:
        for part in parts:
            check_name(part, "a folder of a cache")
    except UsageError as error:
        raise RemoteFailed(f"{source.folder} lists {'/'.join(parts)!r}: {error}") from error
    if isinstance(array.folder, LocalFolder) and not array.path.resolve().is_relative_to(source.root.resolve()):
        raise RemoteFailed(f"{array.folder} is a link that leads out of {source.folder}; nothing was read")
    return "/".join(parts)


def _records(array: FeatureArray) -> list[Record]:
    found = array.folder.map(array.record, sorted(array.committed()))
    return [record for record in found if record is not None]


def _differs(array: FeatureArray, there: FeatureArray, complete: Complete | None, records: Sequence[Record]) -> bool:
    """Whether a chunk that both have recorded differs, or another root is arriving there."""
    if not there.folder.exists("plan.json"):
        return False
    if there.plan() != array.plan():
        return True
    if there.is_complete:
        theirs = {record.chunk: record.blake3 for record in there.complete().records}
    else:
        theirs = {record.chunk: record.blake3 for record in _records(there)}
        arriving = _arriving(there)
        if arriving is not None and complete is not None and arriving != complete.root:
            return True
    return any(theirs.get(record.chunk, record.blake3) != record.blake3 for record in records)


def _arriving(array: FeatureArray) -> str | None:
    try:
        return str(read_json(array.folder, ARRIVING)["root"])
    except (FileNotFoundError, Damaged, KeyError, TypeError):
        return None


# -- moving -----------------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """What a transfer did.

    Args:
        arrays: Arrays of which something travelled.
        chunks: Chunks that travelled.
        bytes: Their bytes.
    """

    arrays: int = 0
    chunks: int = 0
    bytes: int = 0
    paths: list[str] = field(default_factory=list[str])


def transfer(what: Transfer, *, on_bytes: Callable[[int], None] | None = None) -> Sent:
    """Moves what a plan says; interrupted at any moment, the same call goes on.

    Chunks are checked against their recorded blake3 before they are written; records follow their chunks, and
    COMPLETE.json comes last.

    Args:
        what: From `plan_transfer`.
        on_bytes: Called with the bytes of chunks that arrived since the last call.

    Raises:
        Damaged: If a chunk or table of the source is not what was recorded.
        RootsDiffer: If someone else is filling the target with other bytes.
        RemoteFailed: If a remote cannot be reached.
    """
    for array in what.replaced:
        what.target.remove(array)
    to_do = [move for move in what.moves if not move.done]
    sent = Sent(paths=[move.path for move in to_do])
    _send_tables(what)
    for group in _groups(to_do, what.target.folder.batch_bytes):
        _announce(what, group)
        for record in _send_chunks(what, group):
            sent.chunks, sent.bytes = sent.chunks + 1, sent.bytes + record.bytes
            if on_bytes:
                on_bytes(record.bytes)
        _send_records(what, group)
        _conclude(what, group)
    sent.arrays = len(to_do)
    return sent


def _groups(moves: Sequence[Move], most: int) -> Iterator[list[Move]]:
    """Runs of arrays, or parts of one, of about so many bytes: their chunks go first, then their records."""
    group: list[Move] = []
    room = most
    for move in moves:
        records = list(move.records)
        while True:
            fits = max(1, room // records[0].bytes) if records else 0
            part, records = records[:fits], records[fits:]
            group.append(replace(move, records=tuple(part)))
            room -= sum(record.bytes for record in part)
            if room <= 0:
                yield group
                group, room = [], most
            if not records:
                break
    if group:
        yield group


def _send(what: Transfer, files: Iterator[tuple[str, Callable[[], bytes]]]) -> Iterator[tuple[str, bool]]:
    return what.target.folder.send(files)


def _send_tables(what: Transfer) -> None:
    """Row tables, splits and labels: checked where they are, written where they lack."""
    keys = {(key.dataset, key.view, key.binds["rows"]["root"]): key for key in _keys(what)}
    files: dict[str, bytes] = {}
    for (dataset, view, root), key in keys.items():
        source, target = what.source.folder / dataset, what.target.folder / dataset
        wanted = checked_tables(source, view, key.binds["rows"])
        (target / view).make()
        theirs = current_overlay(target / view, root)
        if theirs is not None and (what.prefer != "source" or theirs == current_overlay(source / view, root)):
            wanted = wanted[:2]  # which splits and labels are current is theirs to say
        for name in wanted:
            if not target.exists(name):
                files[f"{dataset}/{name}"] = source.read(name)
            elif name.endswith(".json"):
                target.replace(name, source.read(name))
    for _ in _send(what, ((name, lambda content=content: content) for name, content in files.items())):
        pass


def _keys(what: Transfer) -> list[ArrayKey]:
    return what.source.folder.map(lambda move: move.source.key(), list(what.moves))


def _announce(what: Transfer, group: Sequence[Move]) -> None:
    """Key, plan and metadata, and which root is arriving, so that two pushes of unequal bytes never mix."""
    files: dict[str, Callable[[], bytes]] = {}
    for move in group:
        for name in _META:
            files[f"{move.path}/{name}"] = lambda move=move, name=name: move.source.folder.read(name)
        if move.complete is not None and not move.rows:
            content = canonical({"root": move.complete.root})
            files[f"{move.path}/{ARRIVING}"] = lambda content=content: content
        (move.target.folder / "commits").make()
    made = dict(_send(what, iter(files.items())))
    for move in group:
        root = move.complete.root if move.complete and not move.rows else None
        if root is None or made[f"{move.path}/{ARRIVING}"]:
            taken = move.target.is_complete and root is not None and move.target.complete().root != root
        else:
            taken = _arriving(move.target) not in (root, None)
        if taken or move.target.plan() != move.plan:
            raise RootsDiffer(
                f"{move.path}: another push or pull is filling {what.target.folder} with other bytes for this digest. "
                "To replace them: --prefer, once it has ended"
            )


def _send_chunks(what: Transfer, group: Sequence[Move]) -> Iterator[Record]:
    records = {f"{move.path}/{chunk_name(record.chunk)}": (move, record) for move in group for record in move.records}

    def content(move: Move, record: Record) -> bytes:
        found = _read_chunk(move.source, record)
        if found is None:
            raise Damaged(
                f"chunk {record.chunk} of {move.source.folder} is not what was recorded. Run: featcache verify"
            )
        return found

    files = ((name, lambda pair=pair: content(*pair)) for name, pair in records.items())
    for name, made in _send(what, files):
        move, record = records[name]
        if not made and _read_chunk(move.target, record) is None:
            _mend(move, record, content(move, record))
        yield record


def _read_chunk(array: FeatureArray, record: Record) -> bytes | None:
    """A chunk's bytes if they are the recorded ones."""
    try:
        found = array.folder.read(chunk_name(record.chunk))
    except FileNotFoundError as error:
        raise Damaged(f"chunk {record.chunk} of {array.folder} is missing. Run: featcache verify") from error
    return found if blake3(found).hexdigest() == record.blake3 else None


def _mend(move: Move, record: Record, content: bytes) -> None:
    """Someone left another chunk of that name: a damaged orphan gives way, a recorded one does not."""
    name = chunk_name(record.chunk)
    beside = move.target.record(record.chunk)
    if beside is not None and beside.blake3 != record.blake3:
        raise RootsDiffer(f"{move.path}: chunk {record.chunk} has other bytes in {move.target.folder}; use --prefer")
    move.target.folder.set_aside(name)
    move.target.folder.write_once(name, content)
    if _read_chunk(move.target, record) is None:
        raise RootsDiffer(f"{move.path}: chunk {record.chunk} is being written by another process; run it again")


def _send_records(what: Transfer, group: Sequence[Move]) -> None:
    files = {
        f"{move.path}/{record_name(record.chunk)}": canonical(asdict(record))
        for move in group
        for record in move.records
    }
    for _ in _send(what, ((name, lambda content=content: content) for name, content in files.items())):
        pass


def _conclude(what: Transfer, group: Sequence[Move]) -> None:
    """Says of each array whose last chunk has arrived that it is whole, or which part of it is there."""
    files: dict[str, bytes] = {}
    for move in group:
        if move.complete is not None and move.rows:
            move.target.folder.replace("PARTIAL.json", move.complete.to_bytes())
        elif len(move.target.committed()) == move.plan.chunks:
            if move.complete is not None:
                files[f"{move.path}/COMPLETE.json"] = move.complete.to_bytes()
            else:
                move.target.finish(move.plan)
    for _ in _send(what, ((name, lambda content=content: content) for name, content in files.items())):
        pass
    for move in group:
        if move.complete is not None and not move.rows and f"{move.path}/COMPLETE.json" in files:
            if move.target.complete().root != move.complete.root:
                raise RootsDiffer(f"{move.path}: {what.target.folder} was completed with other bytes meanwhile")
            for name in (ARRIVING, "PARTIAL.json"):
                move.target.folder.remove(name)
