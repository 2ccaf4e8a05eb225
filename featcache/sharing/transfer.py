"""Transfer of arrays and row tables from one cache to another: only missing chunks travel, each verified."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from blake3 import blake3

from featcache.errors import Damaged, OutputFailed, RootsDiffer
from featcache.sharing.current_rows import send_records
from featcache.sharing.diff import Move, Transfer, plan_transfer
from featcache.sharing.validate import overlay_root, read_metadata, require_plain
from featcache.storage.base import Folder, map_both
from featcache.storage.local import LocalFolder
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey, canonical
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
from featcache.store.rows import overlay_name, pointer_name, read_overlay_of, read_rows, rows_name

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
    COMPLETE.json comes last.

    Args:
        what: From `plan_transfer`.
        on_bytes: Called with the bytes of chunks that arrived since the last call.

    Raises:
        Damaged: If a chunk or table of the source is not as recorded.
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


def _transfer(what: Transfer, on_bytes: Callable[[int], None]) -> Sent:
    for array in what.replaced:
        what.target.remove(array)
    to_do = [move for move in what.moves if not move.done]
    sent = Sent(len(to_do), paths=[move.path for move in to_do])
    _send_tables(what)
    announced, mixed = set[str](), {move.path for move in to_do if move.mixed}
    for group, ended in _groups(to_do, what.target.folder.batch_bytes):
        _announce(what, [move for move in group if move.path not in announced])
        announced |= {move.path for move in group}
        for record in _send_chunks(what, group):
            sent.chunks, sent.bytes = sent.chunks + 1, sent.bytes + record.bytes
            on_bytes(record.bytes)
        mixed |= _send_records(what, group)
        _conclude(what, ended, mixed)
    if isinstance(what.target.folder, LocalFolder) and _lacks_tables(what):
        _send_tables(what)
    send_records(what.target, what.records)  # last: what names stand for is there
    return sent


def _lacks_tables(what: Transfer) -> bool:
    """Whether a row table is gone again: at its end a writer leaves no array without its rows."""
    keys = [move.metadata.key for move in what.moves]
    names = {f"{key.dataset}/{key.view}/{rows_name(key.binds['rows']['root'])}" for key in keys}
    overlays = {(key.dataset, overlay_root(what.target, key)) for key in keys}
    names |= {f"{dataset}/{overlay_name(root)}" for dataset, root in overlays if root is not None}
    return any(root is None for _, root in overlays) or not all(map(what.target.folder.exists, names))


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


def _send_tables(what: Transfer) -> None:
    """Row tables, splits and labels of every view of which something travels, or whose labels the source prefers."""
    views: dict[tuple[str, str, str], tuple[ArrayKey, bool]] = {}
    for move in what.moves:
        key = move.metadata.key
        name = (key.dataset, key.view, key.binds["rows"]["root"])
        views[name] = (key, not move.done or views.get(name, (key, False))[1])
    files: dict[str, Callable[[], bytes]] = {}
    pointers: dict[str, bytes] = {}
    for (dataset, view, root), (key, moves) in views.items():
        pointer = f"{dataset}/{view}/{pointer_name(root)}"
        overlay, theirs = overlay_root(what.source, key), overlay_root(what.target, key)
        if overlay is None:
            raise Damaged(f"{what.source.folder}/{pointer} is missing. Run the same featcache extract again")
        preferred = what.prefer == "source" and theirs != overlay
        if moves or preferred or theirs is None:
            files |= _tables_to_send(what, key, overlay)
        if preferred or theirs is None:
            pointers[pointer] = json.dumps({"overlay": overlay}).encode()
    _send(what, files)
    for name, content in pointers.items():
        what.target.folder.replace(name, content)


def _tables_to_send(what: Transfer, key: ArrayKey, overlay: str) -> dict[str, Callable[[], bytes]]:
    """The tables of a view, checked where they are; a damaged one at the target is replaced at once."""
    source, target, rows = what.source.folder, what.target.folder, key.binds["rows"]

    def read_table(cache: Folder) -> None:
        if len(read_rows(cache / key.dataset / key.view, rows).ids) != rows["n"]:
            raise Damaged(f"{cache}/{key.dataset}/{key.view}/{rows_name(rows['root'])} has not {rows['n']} rows")

    checks: dict[str, Callable[[Folder], object]] = {
        f"{key.dataset}/{key.view}/{rows_name(rows['root'])}": read_table,
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
        partial = None if made[f"{move.path}/{PARTIAL}"] else read_metadata(move.target).partial
        return partial is not None and partial.root != move.complete.root
    if not made[f"{move.path}/{ARRIVING}"]:
        # gone again: its owner has just ended, and what it completed is compared at the end
        return move.target.arriving() not in (None, move.complete.root)
    if move.target.is_complete and read_metadata(move.target).complete != move.complete:
        if move.target.complete().root != move.complete.root:
            move.target.folder.remove(ARRIVING)
            return True
    return False


def _send_chunks(what: Transfer, group: Sequence[Move]) -> Iterator[Record]:
    """Sends the chunks of a group; one that is there already is compared, and replaced if it is damaged."""
    pairs = {f"{move.path}/{chunk_name(record.chunk)}": (move, record) for move in group for record in move.records}

    def content(move: Move, record: Record) -> bytes:
        chunk = _read_chunk(move.source, record)
        if chunk is None or blake3(chunk).hexdigest() != record.blake3:
            raise Damaged(
                f"chunk {record.chunk} of {move.source.folder} is not what was recorded. Run: featcache verify"
            )
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
        raise Damaged(f"chunk {record.chunk} of {array.folder} is missing. Run: featcache verify") from error
    return content if size == record.bytes else None  # pyright: ignore[reportReturnType] - as good as bytes


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
