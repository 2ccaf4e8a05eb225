"""Rows that cannot be encoded: what stops an extraction, what --on-error skip lists and leaves NaN."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from featcache.data.views import View
from featcache.errors import ExtractionFailed, Overflow

OnError = Literal["stop", "skip"]
EARLIER = "failed in an earlier run"


@dataclass(frozen=True)
class RowSettings:
    """How rows are decoded and what becomes of those that cannot be encoded; bound in no digest.

    Args:
        on_error: "stop" at the first row that cannot be read, decoded or encoded; or "skip" it: its features are NaN
            in every layer, its id is listed in the commit records, and loading drops it.
        workers: Processes that decode images and audio; 0 for threads, None to choose. The features are the same.
    """

    on_error: OnError = "stop"
    workers: int | None = None


@dataclass(frozen=True)
class Failure:
    """A row that could not be encoded; it is NaN in every array, and its commit records list it."""

    id: str
    why: str  # what was wrong with it


def admit_failed(failed: dict[int, str], view: View, on_error: OnError) -> dict[int, str]:
    """Rows that may fail, with reasons; the first stops the run unless they are to be skipped.

    Raises:
        ExtractionFailed: If there are any and they are not to be skipped; names the first.
    """
    if failed and on_error == "stop":
        number, reason = next(iter(sorted(failed.items())))
        raise ExtractionFailed(
            f"{view.name} row {view.ids[number]!r} (number {number}): {reason}\n"
            "  What was committed stays. To go on without such rows, add --on-error skip"
        )
    return failed


def not_finite_rows(
    name: str, view: View, numbers: Sequence[int], values: np.ndarray, stored: np.ndarray, on_error: OnError
) -> dict[int, str]:
    """Rows of a batch whose features are NaN or infinite, with the reason.

    Args:
        name: Encoder and layer.
        view: The view.
        numbers: Row number of each row of the batch.
        values: Features as computed.
        stored: The same in the stored type.
        on_error: Whether such a row stops the run.

    Raises:
        Overflow: If features are finite, but pass the range of the stored type.
        ExtractionFailed: If features are not finite and such rows are not to be skipped.
    """
    finite = np.isfinite(values).all(axis=1)
    over = np.flatnonzero(finite & ~np.isfinite(stored).all(axis=1))
    if len(over):
        most = float(np.abs(values[over]).max())
        raise Overflow(
            f"{name}: values up to {most:.0f} pass the range of {stored.dtype} in rows {_ids(view, numbers, over)}. "
            "Run the same featcache extract with --dtype float32"
        )
    bad = np.flatnonzero(~finite)
    if on_error == "stop":
        raise ExtractionFailed(f"{name}: features of rows {_ids(view, numbers, bad)} are NaN or infinite")
    return {numbers[int(row)]: f"{name}: its features are NaN or infinite" for row in bad}


def _ids(view: View, numbers: Sequence[int], rows: np.ndarray) -> str:
    ids = [repr(view.ids[numbers[int(row)]]) for row in rows]
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
