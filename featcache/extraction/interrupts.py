"""Interruptions of an extraction: SIGTERM as an exception like Ctrl-C, and what an interrupted one has kept."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # exit code, as shells count
INTERRUPTIONS = (KeyboardInterrupt, SystemExit)


@contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM raises SystemExit(143) in the main thread, so that what is in work is kept as on Ctrl-C.

    A handler that the program has set stays.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    # who ends a whole group ends the decoding processes too, and torch would raise its error of that over this one
    if callable(signal.getsignal(signal.SIGCHLD)):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raise SystemExit(TERMINATED)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it, which should be short, no further signal breaks the main thread off.

    One of them is SIGCHLD: torch raises an error when a decoding process ends, which the same Ctrl-C may have ended.
    """
    handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            before = signal.getsignal(number)
            if before is not None:  # else it was not Python that set it, nor can Python put it back
                handlers[number] = before
                signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    try:
        yield
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)


def note_kept(interruption: BaseException, rows: int) -> None:
    """Notes on an interruption that so many encoded rows are kept beside what was committed."""
    rows += kept_rows(interruption)
    vars(interruption)["kept_rows"] = rows
    if rows:
        interruption.add_note(f"{rows:,} encoded rows of the chunk in work are kept; the next extraction takes them")


def kept_rows(interruption: BaseException) -> int:
    """Rows that are kept, by `note_kept`."""
    return vars(interruption).get("kept_rows", 0)
