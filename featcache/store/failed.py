"""Rows that failed: which they are by an array's bytes, which the records must list, no row more and none less."""

from collections.abc import Callable, Sequence

import numpy as np

from featcache.errors import Damaged
from featcache.store.digest import ArrayKey
from featcache.store.records import CRC_BYTES, NO_ID, Record, is_empty

Ids = Callable[[], Sequence[str]]

# as bits: unsigned, a NaN with its sign set is above minus infinity; signed, any other NaN is above infinity
_BITS = {2: (np.uint16, 0xFC00, np.int16, 0x7C00), 4: (np.uint32, 0xFF80_0000, np.int32, 0x7F80_0000)}


def failed_rows(block: np.ndarray, ids: Sequence[str] | None) -> tuple[str, ...] | None:
    """Ids of the rows that hold nothing; None if one is so in part, or there are no ids to list.

    A row of neighbours may be short: then its last numbers are -1, and it has not failed.

    Args:
        block: [rows, d] features or neighbours.
        ids: Ids of these rows; None where none may have failed.
    """
    if not _may_hold_failed(block):
        return ()
    empty = is_empty(block)
    failed = empty.all(axis=1)
    if block.dtype.kind == "f" and empty[~failed].any():
        return None
    if ids is None:
        return None if failed.any() else ()
    return tuple(ids[row] for row in np.flatnonzero(failed).tolist())


def _may_hold_failed(block: np.ndarray) -> bool:
    """Whether a block holds a NaN, or a row without a first neighbour; a fraction of the time of np.isnan."""
    if not block.size:
        return False
    if block.dtype.kind != "f":
        return bool((block[:, 0] == NO_ID).any())
    unsigned, minus_infinity, signed, infinity = _BITS[block.dtype.itemsize]
    return bool(block.view(unsigned).max() > minus_infinity or block.view(signed).max() > infinity)


def chunk_values(content: bytes | memoryview, key: ArrayKey) -> np.ndarray:
    """The rows [chunk_rows, d] of a whole chunk file of an array, without a copy."""
    return np.frombuffer(content, key.binds["dtype"], (len(content) - CRC_BYTES) // key.itemsize).reshape(
        -1, key.binds["d"]
    )


def failed_problem(block: np.ndarray, record: Record, ids: Ids | None = None) -> str | None:
    """What a record says of failed rows that its chunk's bytes contradict; None if they agree.

    The root does not bind the list, but the bytes decide it: a listed row is NaN throughout (without neighbours, where
    the array holds those), and a row that is NaN is listed.

    Args:
        block: [at least record.rows, d] values of the chunk; rows behind those of the record are padding.
        record: The chunk's record.
        ids: Gives the ids of the chunk's rows; None where they are not known: then as many rows must be NaN as are
            listed.
    """
    block = block[: record.rows]
    if not record.failed and not _may_hold_failed(block):
        return None
    names = [f"number {row} of chunk {record.chunk}" for row in range(record.rows)] if ids is None else ids()
    failed = failed_rows(block, names)
    if failed is None:
        empty = is_empty(block)
        return f"row {names[int(np.flatnonzero(empty.any(axis=1) & ~empty.all(axis=1))[0])]!r} is NaN in part"
    if failed == record.failed or (ids is None and len(failed) == len(record.failed)):
        return None
    if ids is None:
        return f"{len(record.failed)} rows are listed as failed, and {len(failed)} are NaN"
    healthy, silent = set(record.failed) - set(failed), set(failed) - set(record.failed)
    for rows, what in ((healthy, "listed as failed and is not NaN"), (silent, "NaN and no commit lists it")):
        if rows:
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            return f"row {min(rows)[:80]!r} is {what}{more}"
    return "the rows listed as failed are not in their order, or stand there twice"


def require_failed(block: np.ndarray, record: Record, where: object, ids: Ids | None = None) -> None:
    """Raises Damaged if `failed_problem` finds one; `where` is the array's folder."""
    problem = failed_problem(block, record, ids)
    if problem is not None:
        raise Damaged(f"chunk {record.chunk} of {where}: {problem}. Run: featcache verify --deep")
