"""Which rows of an array are copied from an older one instead of being encoded: written before its first chunk."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from featcache.errors import Damaged, UsageError
from featcache.storage.base import Folder
from featcache.store.digest import FORMAT, canonical
from featcache.store.records import REUSED
from featcache.store.reused import read_reused, reused_hash


class Run(NamedTuple):
    """Consecutive rows that are consecutive in the older array too."""

    start: int
    stop: int  # behind the last
    source: int  # where the first of them stands in the older array


@dataclass(frozen=True)
class ReusedRows:
    """The rows of an array that are copied, and from where; the content of REUSED.json.

    The digest and root name the older array's bytes; the path is where it lay then.
    """

    path: str
    digest: str
    root: str
    runs: tuple[Run, ...]  # in row order

    def __len__(self) -> int:
        return sum(run.stop - run.start for run in self.runs)

    @cached_property
    def _starts(self) -> list[int]:
        return [run.start for run in self.runs]

    def within(self, start: int, stop: int) -> Iterator[Run]:
        """The runs inside rows start to stop, cut to them."""
        for run in self.runs[max(0, bisect_right(self._starts, start) - 1) :]:
            if run.start >= stop:
                return
            low, high = max(start, run.start), min(stop, run.stop)
            if low < high:
                yield Run(low, high, run.source + low - run.start)

    def to_bytes(self) -> bytes:
        """The content of REUSED.json."""
        value = {
            "format": FORMAT,
            "from": {"path": self.path, "digest": self.digest, "root": self.root},
            "rows": len(self),
            "spans": [[run.start, run.stop] for run in self.runs],
            "sources": [run.source for run in self.runs],
        }
        return canonical(value | {"blake3": reused_hash(value)})


def runs_of(rows: Sequence[int], sources: Sequence[int]) -> tuple[Run, ...]:
    """Runs of pairs (row, row of the older array); the rows ascend.

    Example:
        >>> [tuple(run) for run in runs_of([0, 1, 2, 4, 5], [7, 8, 3, 4, 5])]
        [(0, 2, 7), (2, 3, 3), (4, 6, 4)]
    """
    if not len(rows):
        return ()
    new, old = np.asarray(rows, np.int64), np.asarray(sources, np.int64)
    breaks = np.flatnonzero((np.diff(new) != 1) | (np.diff(old) != 1)) + 1
    lows, highs = [0, *breaks.tolist()], [*breaks.tolist(), len(new)]
    return tuple(
        Run(int(new[low]), int(new[high - 1]) + 1, int(old[low])) for low, high in zip(lows, highs, strict=True)
    )


def read_reused_rows(folder: Folder) -> ReusedRows | None:
    """The rows that an array copies; None if it copies none.

    Raises:
        Damaged: As `read_reused`, or if its runs are not of their form.
    """
    value = read_reused(folder)
    if value is None:
        return None
    try:
        spans = [(int(start), int(stop)) for start, stop in value["spans"]]
        runs = tuple(Run(*span, int(source)) for span, source in zip(spans, value["sources"], strict=True))
    except (KeyError, TypeError, ValueError):
        runs = ()
    source = value["from"]
    reused = ReusedRows(source["path"], source["digest"], source["root"], runs)
    if len(reused) != value["rows"]:
        raise Damaged(f"{folder}/{REUSED} was changed. Run: featcache verify")
    return reused


def write_reused_rows(folder: Folder, reused: ReusedRows) -> None:
    """Fixes which rows an array copies, unless someone has fixed it already; to be done before it has a plan."""
    if not reused.runs:
        raise UsageError(f"{folder}: no rows to reuse")
    folder.write_once(REUSED, reused.to_bytes())
