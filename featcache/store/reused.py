"""REUSED.json: which rows of an array are copied from an older one instead of being encoded."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from featcache.errors import Damaged, UsageError
from featcache.limits import limit
from featcache.storage.base import Folder
from featcache.store.digest import FORMAT, canonical, own_hash
from featcache.store.records import REUSED
from featcache.store.schema import read_json

_HASH = re.compile(r"[0-9a-f]{32,64}")


class ReusedSpan(NamedTuple):
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
    spans: tuple[ReusedSpan, ...]  # in row order

    def __len__(self) -> int:
        return sum(span.stop - span.start for span in self.spans)

    @cached_property
    def _starts(self) -> list[int]:
        return [span.start for span in self.spans]

    def within(self, start: int, stop: int) -> Iterator[ReusedSpan]:
        """The spans inside rows start to stop, cut to them."""
        for span in self.spans[max(0, bisect_right(self._starts, start) - 1) :]:
            if span.start >= stop:
                return
            low, high = max(start, span.start), min(stop, span.stop)
            if low < high:
                yield ReusedSpan(low, high, span.source + low - span.start)

    def to_json(self) -> dict[str, Any]:
        """The content of REUSED.json."""
        value = {
            "format": FORMAT,
            "from": {"path": self.path, "digest": self.digest, "root": self.root},
            "rows": len(self),
            "spans": [[span.start, span.stop] for span in self.spans],
            "sources": [span.source for span in self.spans],
        }
        return value | {"blake3": own_hash(value)}

    def to_bytes(self) -> bytes:
        """The bytes of REUSED.json."""
        return canonical(self.to_json())


def reused_spans(rows: Sequence[int], sources: Sequence[int]) -> tuple[ReusedSpan, ...]:
    """Spans of pairs (row, row of the older array); the rows ascend.

    Example:
        >>> [tuple(span) for span in reused_spans([0, 1, 2, 4, 5], [7, 8, 3, 4, 5])]
        [(0, 2, 7), (2, 3, 3), (4, 6, 4)]
    """
    if not len(rows):
        return ()
    new, old = np.asarray(rows, np.int64), np.asarray(sources, np.int64)
    breaks = np.flatnonzero((np.diff(new) != 1) | (np.diff(old) != 1)) + 1
    lows, highs = [0, *breaks.tolist()], [*breaks.tolist(), len(new)]
    return tuple(
        ReusedSpan(int(new[low]), int(new[high - 1]) + 1, int(old[low])) for low, high in zip(lows, highs, strict=True)
    )


def read_reused(folder: Folder) -> ReusedRows | None:
    """The rows that an array copies; None if it copies none.

    Raises:
        Damaged: If REUSED.json is not of its form, or does not have its own checksum: a changed number would copy
            wrong rows.
    """
    try:
        value = read_json(folder, REUSED, most=limit("json"))
    except FileNotFoundError:
        return None
    reused = _parsed(value)
    if reused is None:
        raise Damaged(f"{folder}/{REUSED} was changed. Run: featcache verify")
    return reused


def _parsed(value: Any) -> ReusedRows | None:
    """The content of a REUSED.json; None if it is not of its form."""
    source = value.get("from") if isinstance(value, dict) else None
    if (
        not isinstance(source, dict)
        or not all(isinstance(source.get(name), str) for name in ("digest", "root", "path"))
        or not (_HASH.fullmatch(source["digest"]) and _HASH.fullmatch(source["root"]))
        or type(value.get("format")) is not int
        or type(value.get("rows")) is not int
        or value["rows"] < 0
        or value.get("blake3") != own_hash(value)
    ):
        return None
    try:
        bounds = [(int(start), int(stop)) for start, stop in value["spans"]]
        spans = tuple(ReusedSpan(*each, int(at)) for each, at in zip(bounds, value["sources"], strict=True))
    except (KeyError, TypeError, ValueError):
        return None
    reused = ReusedRows(source["path"], source["digest"], source["root"], spans)
    return reused if len(reused) == value["rows"] else None


def write_reused(folder: Folder, reused: ReusedRows) -> None:
    """Fixes which rows an array copies, unless someone has fixed it already; to be done before it has a plan."""
    if not reused.spans:
        raise UsageError(f"{folder}: no rows to reuse")
    folder.write_once(REUSED, reused.to_bytes())


def reuse_note(*reused: ReusedRows | None) -> str:
    """What to say of unequal bytes where an array has reused rows, behind the sentences before it; "" where none has.

    Args:
        reused: As `read_reused` gives it, of each of the arrays.
    """
    notes = [
        f" {len(each):,} of the rows were reused from {each.path} with root {each.root[:12]}: "
        "such an array may differ from a fresh extraction by float rounding."
        for each in reused
        if each is not None
    ]
    return "".join(dict.fromkeys(notes))
