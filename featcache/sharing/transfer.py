"""Transfer of arrays and row tables from one cache to another: only missing chunks travel, each verified."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from blake3 import blake3

from featcache.errors import Damaged, FeatcacheError, OutputFailed, RootsDiffer
from featcache.sharing.current_rows import send_records
from featcache.sharing.diff import Move, Transfer, plan_transfer
from featcache.sharing.tables import restore_tables, send_tables
from featcache.storage.base import map_both
from featcache.storage.durable import unless_read_only
from featcache.store.array import FeatureArray
from featcache.store.digest import canonical
from featcache.store.failed import chunk_values, require_failed
from featcache.store.leases import lease
from featcache.store.records import (
    ARRIVING,
    CRC_BYTES,
    PARTIAL,
    Record,
    chunk_name,
    crc_of,
    record_bytes,
    record_name,
)
from featcache.store.reused import read_reused, reuse_note
from featcache.store.rows import (
    row_ids,
)

_LEAST_CHUNKS = 16  # however large: several travel at once, and the records after them wait for the last

__all__ = ["Move", "Sent", "Transfer", "plan_transfer", "transfer"]


@dataclass
class Sent:
    """What travelled in a transfer: how many arrays, chunks and bytes of chunks, and the paths of the arrays."""

    arrays: int = 0
    chunks: int = 0
    bytes: int = 0
    paths: list[str] = field(default_factory=list[str])


def transfer(what: Transfer, *, on_bytes: Callable[[int], None] | None = None) -> Sent:
    """Carries out a transfer; interrupted at any moment, the same call goes on.

    Chunks are checked against their recorded blake3 before they are written; records follow their chunks, and
    COMPLETE.json comes last. An array that is damaged is left out, and named once the others have arrived.

    Args:
        what: From `plan_transfer`.
        on_bytes: Called with the bytes of chunks that arrived since the last call.

    Raises:
        Damaged: If an array of the source, its row table or a chunk is not as recorded.
        RootsDiffer: If someone else is filling the target with other bytes.
        RemoteFailed: If a remote cannot be reached.
        OutputFailed: If the target cannot be written to.
    """
    travels = what.replaced or not all(move.done for move in what.moves) or any(one.goes for one in what.records)
    # where nothing travels, the target may be read-only
    held = lease(what.target.folder, f"transfer from {what.source.folder}") if travels else nullcontext()
    try:
        with held:
            return _transfer(what, on_bytes or (lambda count: None))
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError):
            raise
        raise OutputFailed(
            f"cannot write to {what.target.folder}, or read {what.source.folder}: {error.strerror} "
            f"({error.filename}). What arrived stays, and the same command goes on"
        ) from error


class _ArrayDamaged(Damaged):
    """What is wrong with an array of the source, which does not concern the others."""

    def __init__(self, path: str, error: FeatcacheError) -> None:
        super().__init__(str(error))
        self.path = path


def _transfer(what: Transfer, on_bytes: Callable[[int], None]) -> Sent:
    for array in what.replaced:
        what.target.remove(array)
    refused = dict[str, FeatcacheError]()
    send_tables(what, refused)
    to_do = [move for move in what.moves if not move.done and move.path not in refused]
    arrived = Sent(0)
    announced, mixed = set[str](), {move.path for move in to_do if move.mixed}
    for group, ended in _groups(to_do, what.target.folder.batch_bytes):
        _send_group(what, group, announced, refused, lambda record: _count(arrived, record, on_bytes))
        whole = [move for move in ended if move.path not in refused]
        mixed |= _send_records(what, [move for move in group if move.path not in refused])
        _conclude(what, whole, mixed)
        arrived.paths += [move.path for move in whole]
    restore_tables(what, refused)
    _clear_marks(what)
    behind = {path.rsplit("/", 3)[0] for path in (*what.refused, *refused)}  # names go on to mean what is there
    send_records(what.target, [move for move in what.records if move.view not in behind])
    arrived.arrays = len(arrived.paths)
    _raise_refused(what, {**what.refused, **refused})
    return arrived


def _raise_refused(what: Transfer, refused: Mapping[str, FeatcacheError]) -> None:
    """Raises Damaged with what of the source does not travel; the others are there by now."""
    errors = [*refused.values(), *what.unread.values()]
    if not errors:
        return
    there = len(what.moves) - len(refused.keys() - what.refused.keys())
    if refused:
        more = f"{len(refused)} of {there + len(refused)} arrays were refused; the others are there"
    else:
        more = f"the arrays are there; names of {', '.join(what.unread)} mean what they meant before"
    message = str(errors[0])
    place = what.target.folder if str(what.target.folder) in message else what.source.folder
    message = message.replace("Run: featcache verify", f"Run: featcache verify --cache {place}")
    raise Damaged(f"{message}\n  {more}" if there or len(errors) > 1 else message)


def _count(arrived: Sent, record: Record, on_bytes: Callable[[int], None]) -> None:
    arrived.chunks, arrived.bytes = arrived.chunks + 1, arrived.bytes + record.bytes
    on_bytes(record.bytes)


def _send_group(
    what: Transfer,
    group: Sequence[Move],
    announced: set[str],
    refused: dict[str, FeatcacheError],
    on_record: Callable[[Record], None],
) -> None:
    """Announces and sends the chunks of a group; again without an array that turns out to be damaged."""
    while True:
        left = [move for move in group if move.path not in refused]
        _announce(what, [move for move in left if move.path not in announced])
        announced |= {move.path for move in left}
        try:
            for record in _send_chunks(what, left):
                on_record(record)
            return
        except _ArrayDamaged as error:
            refused[error.path] = error


def _clear_marks(what: Transfer) -> None:
    """Removes the mark of a transfer that died behind its last step from arrays that have long been complete."""

    def clear(move: Move) -> None:
        if move.done and move.complete is not None and move.target.folder.exists(ARRIVING):
            if move.target.arriving() is None:
                with unless_read_only():
                    move.target.folder.remove(ARRIVING)

    map_both(what.source.folder, what.target.folder, clear, what.moves)


def _groups(moves: Sequence[Move], most: int) -> Iterator[tuple[list[Move], list[Move]]]:
    """Runs of arrays, or parts of one, of about so many bytes, and those that end in it.

    Their chunks go first, then their records: an interruption costs at most one such run.
    """
    group, ended, room = list[Move](), list[Move](), most
    for move in moves:
        records = move.records
        while True:
            fits = max(_LEAST_CHUNKS, room // records[0].bytes) if records else 0
            part, records = records[:fits], records[fits:]
            group.append(replace(move, records=part))
            room -= sum(record.bytes for record in part)
            if not records:
                ended.append(move)
            if room <= 0:
                yield group, ended
                group, ended, room = [], [], most
            if not records:
                break
    if group:
        yield group, ended


def _send(what: Transfer, files: Mapping[str, Callable[[], bytes]]) -> dict[str, bool]:
    """Writes files into the target cache; for each, whether it was not there before."""
    return dict(what.target.folder.send(iter(files.items())))


def _held_bytes(files: Mapping[str, bytes]) -> dict[str, Callable[[], bytes]]:
    return {name: lambda content=content: content for name, content in files.items()}


def _announce(what: Transfer, moves: Sequence[Move]) -> None:
    """Sends key, layout and metadata, and which root is arriving, so that two pushes of unequal bytes never mix."""
    files: dict[str, bytes] = {}
    for move in moves:
        files |= {f"{move.path}/{name}": content for name, content in move.metadata.files.items()}
        if move.complete is not None:
            name = PARTIAL if move.rows else ARRIVING
            files[f"{move.path}/{name}"] = (
                move.complete.to_bytes() if move.rows else canonical({"root": move.complete.root})
            )
        (move.target.folder / "commits").make()
    made = _send(what, _held_bytes(files))

    def check(move: Move) -> None:
        if not made[f"{move.path}/key.json"]:
            move.target.key()
        if _is_taken(move, made):
            raise RootsDiffer(
                f"{move.path}: another push or pull is filling {what.target.folder} with other bytes for this digest. "
                f"To replace them: --prefer, once it has ended.{_reuse_note(move)}"
            )

    map_both(what.source.folder, what.target.folder, check, moves)


def _reuse_note(move: Move) -> str:
    """What to say behind unequal bytes where either side has reused rows."""
    return reuse_note(move.metadata.reused, read_reused(move.target.folder))


def _is_taken(move: Move, made: Mapping[str, bool]) -> bool:
    """Whether others have begun to fill the array, in another layout or with another root, since it was compared."""
    if not made[f"{move.path}/plan.json"] and move.target.layout() != move.layout:
        return True
    if move.complete is None:
        return move.target.arriving() is not None
    if move.rows:
        partial = None if made[f"{move.path}/{PARTIAL}"] else move.target.metadata().partial
        return partial is not None and partial.root != move.complete.root
    if not made[f"{move.path}/{ARRIVING}"]:
        # gone again: its owner has just ended, and what it completed is compared at the end
        return move.target.arriving() not in (None, move.complete.root)
    if move.target.is_complete and move.target.metadata().complete != move.complete:
        if move.target.complete().root != move.complete.root:
            move.target.folder.remove(ARRIVING)
            return True
    return False


def _send_chunks(what: Transfer, group: Sequence[Move]) -> Iterator[Record]:
    """Sends the chunks of a group; one that is there already is compared, and replaced if it is damaged."""
    pairs = {f"{move.path}/{chunk_name(record.chunk)}": (move, record) for move in group for record in move.records}

    ids = row_ids(what.source.folder)

    def require(move: Move, record: Record, chunk: bytes) -> None:
        key, span = move.metadata.key, move.layout.span(record.chunk)
        try:
            require_failed(chunk_values(chunk, key), record, move.source.folder, lambda: ids(key)[slice(*span)])
        except Damaged as error:
            raise _ArrayDamaged(move.path, error) from error

    def content(move: Move, record: Record) -> bytes:
        try:
            chunk = _read_chunk(move.source, record)
            if chunk is None or blake3(chunk).hexdigest() != record.blake3:
                raise Damaged(
                    f"chunk {record.chunk} of {move.source.folder} is not what was recorded. Run: featcache verify"
                )
        except Damaged as error:
            raise _ArrayDamaged(move.path, error) from error
        require(move, record, chunk)
        return chunk

    files = {name: lambda pair=pair: content(*pair) for name, pair in pairs.items()}
    there: list[tuple[Move, Record]] = []
    for name, made in what.target.folder.send(iter(files.items())):
        if made:
            yield pairs[name][1]
        else:
            there.append(pairs[name])

    def compare(pair: tuple[Move, Record]) -> Record:
        move, record = pair
        existing = _read_chunk(move.target, record)
        if existing is None or blake3(existing).hexdigest() != record.blake3:
            _replace_chunk(what, move, record, existing, content(move, record))
        else:
            require(move, record, existing)
        return record

    yield from map_both(what.source.folder, what.target.folder, compare, there)


def _read_chunk(array: FeatureArray, record: Record) -> bytes | None:
    """A chunk's bytes if there are as many as recorded, and no byte more is fetched.

    Raises:
        Damaged: If there is no such chunk.
    """
    content = bytearray(record.bytes)
    try:
        size = array.folder.read_into(chunk_name(record.chunk), memoryview(content))
    except FileNotFoundError as error:
        if not array.folder.there():
            raise Damaged(f"{array.folder} was renamed or removed meanwhile. Run the same command again") from error
        raise Damaged(f"chunk {record.chunk} of {array.folder} is missing. Run: featcache verify") from error
    return bytes(content) if size == record.bytes else None


def _replace_chunk(what: Transfer, move: Move, record: Record, existing: bytes | None, content: bytes) -> None:
    """Replaces a chunk of the target that has no record, if it is damaged or the source is preferred."""
    name = chunk_name(record.chunk)
    is_whole = existing is not None and crc_of(existing[:-CRC_BYTES]) == existing[-CRC_BYTES:]
    if move.target.record(record.chunk) is not None or (is_whole and what.prefer != "source"):
        raise RootsDiffer(
            f"{move.path}: chunk {record.chunk} has other bytes in {move.target.folder}. "
            f"To replace them: --prefer, once whoever writes it has ended.{_reuse_note(move)}"
        )
    move.target.folder.set_aside(name)
    if not move.target.folder.write_once(name, content):
        raise RootsDiffer(f"{move.path}: chunk {record.chunk} is being written by another process; run it again")


def _send_records(what: Transfer, group: Sequence[Move]) -> set[str]:
    """Sends the records of a group.

    Returns:
        Paths of the arrays where another writer had recorded the same bytes first.
    """
    files = {
        f"{move.path}/{record_name(record.chunk)}": (move, record_bytes(record))
        for move in group
        for record in move.records
    }
    made = _send(what, _held_bytes({name: content for name, (_, content) in files.items()}))
    return {files[name][0].path for name, new in made.items() if not new}


def _conclude(what: Transfer, moves: Sequence[Move], mixed: set[str]) -> None:
    """Completes each array whose last chunk has arrived."""

    def is_whole(move: Move) -> bool:  # by looking: someone may have removed it meanwhile
        return len(move.target.committed()) == move.layout.chunks

    whole = [
        move
        for move, yes in zip(moves, map_both(what.source.folder, what.target.folder, is_whole, moves), strict=True)
        if yes
    ]
    ours = {
        f"{move.path}/COMPLETE.json": move.complete.to_bytes()
        for move in whole
        if move.complete is not None and move.path not in mixed
    }
    made = _send(what, _held_bytes(ours))

    def check(move: Move) -> None:
        name = f"{move.path}/COMPLETE.json"
        if name not in made:
            root = move.target.finish(move.layout).root  # from the records as they stand there
        else:
            root = None if made[name] else move.target.complete().root
        if move.complete is not None and root not in (None, move.complete.root):
            raise RootsDiffer(
                f"{move.path}: {what.target.folder} was completed with other bytes meanwhile. To replace them: "
                f"--prefer.{_reuse_note(move)}"
            )

    map_both(what.source.folder, what.target.folder, check, whole)
    left = [f"{move.path}/{ARRIVING}" for move in whole if not move.rows and move.complete is not None]
    left += [f"{move.path}/{PARTIAL}" for move in whole if move.rows or move.partial]
    if left:
        what.target.folder.remove(*left)
