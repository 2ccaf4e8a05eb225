"""Leases: a file for each process that writes into a cache, and the marker of one that cleans it."""

import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featcache.errors import UsageError
from featcache.storage.base import Folder
from featcache.storage.durable import READ_ONLY, TEMPORARY, make_folders
from featcache.storage.local import LocalFolder
from featcache.storage.plain import entries, is_file, read_small_json
from featcache.storage.processes import Process, fate, this_process
from featcache.store.mark import write_mark

FOLDER, CLAIMS, MEMO = ".leases", "claims", ".encoders"
BEAT_SECONDS = 15.0
DEAD_SECONDS = 120.0
# By how much a file that a process made may look older than its lease: the clock may be set back between two beats.
MARGIN_SECONDS = BEAT_SECONDS + 1
_PATIENCE, _LOOK_SECONDS = 2.0, 0.02
_NAME = re.compile(r"[0-9a-f]{32}")
_log = logging.getLogger(__name__)
# (process, cache) pairs that this thread holds a lease on, or cleans, and the (process, file) pairs of its leases; a
# process that was forked inherits them and holds none
_inside = threading.local()

State = Literal["live", "silent", "ended"]

_STATES: dict[str, tuple[State, State]] = {  # of a process by its fate, while its lease is renewed and when it is not
    "runs": ("live", "live"),
    "ended": ("ended", "ended"),
    "restarted": ("live", "ended"),
    "numbered": ("live", "silent"),
    "elsewhere": ("live", "silent"),
}
_NOBODY = Process("", 0, "")


@dataclass(frozen=True)
class Lease:
    """The lease of one process, which writes or died while it did; times are the file system's clock, in seconds."""

    path: Path  # its file
    owner: Process
    what: str  # what the process does
    began: float
    beat: float  # when it was last renewed
    cleans: bool = False  # it is the marker of a process that deletes what nobody needs

    def state(self, now: float) -> State:
        """What is known of the process at a time of the file system's clock.

        Returns:
            "live": it may be writing; "silent": it cannot be seen and gives no sign of life any more, but may be
            asleep; "ended".
        """
        quiet = now - self.beat >= DEAD_SECONDS
        if self.owner == _NOBODY:  # its file is being written, or will never be
            return "ended" if quiet else "live"
        return _STATES[fate(self.owner)][quiet]

    def is_awake(self, now: float) -> bool:
        """Whether it is live and was renewed of late: a process that was stopped, or a machine asleep, is not."""
        return now - self.beat < DEAD_SECONDS and self.state(now) == "live"

    def may_have_made(self, changed: float, now: float) -> bool:
        """Whether the process may have made a file that was last changed at a time."""
        was_set_back = now < self.beat - 1.0  # the clock: times say nothing until the next beat
        return was_set_back or changed >= self.began - MARGIN_SECONDS


@contextmanager
def lease(folder: Folder, what: str) -> Iterator[None]:
    """Holds a lease on a cache while the body runs, and marks the folder as a cache; does nothing in a bucket.

    Every writer holds one from its first file to its last: it keeps `featcache gc` away from what is not bound yet. A
    writer that comes while a cache is cleaned waits until that is done. Inside another lease it does nothing.

    Args:
        folder: The cache's folder.
        what: What is being done, for messages to others.
    """
    if not isinstance(folder, LocalFolder) or _is_inside(folder.path):
        yield
        return
    with _held(folder.path, what, cleans=False):
        _wait_for_cleaners(folder.path)
        write_mark(folder.path)
        yield


def memo_lease(memo: Path) -> AbstractContextManager[None]:
    """A lease on the cache that a memo of encoders lies in; none where the memo lies by itself."""
    return lease(LocalFolder(memo.parent), "remember an encoder") if memo.name == MEMO else nullcontext()


@contextmanager
def cleaning(root: Path, what: str) -> Iterator[Callable[[], tuple[list[Lease], float]]]:
    """Marks a cache as being cleaned: writers that come wait until the body ends.

    A writer shows its lease before it looks for this marker, and the marker is there before the leases are read: one of
    the two sees the other.

    Args:
        root: The cache's folder.
        what: What is being done, for messages to others.

    Yields:
        A function that reads the leases of all others, as `leases`.
    """
    own = own_leases()

    def others() -> tuple[list[Lease], float]:
        every, now = leases(root)
        return [each for each in every if not each.cleans and each.path not in own], now

    if _is_cleaning(root):
        yield others
        return
    with _held(root, what, cleans=True):
        yield others


def own_leases() -> set[Path]:
    """The files of the leases that this thread holds."""
    return {path for process, path in getattr(_inside, "files", ()) if process == os.getpid()}


# -- one lease --------------------------------------------------------------------------------------------------------


def _is_inside(root: Path) -> bool:
    return (os.getpid(), root.absolute()) in getattr(_inside, "roots", ())


def _is_cleaning(root: Path) -> bool:
    return (os.getpid(), root.absolute()) in getattr(_inside, "cleaned", ())


@contextmanager
def _held(root: Path, what: str, *, cleans: bool) -> Iterator[None]:
    """A lease's file, renewed while the body runs."""
    home = root / FOLDER
    if home.is_symlink():
        raise UsageError(f"{home} is a link, and who writes into a cache is noted in the cache. Remove the link")
    make_folders(home)
    path = home / uuid.uuid4().hex
    over = threading.Event()
    content: dict[str, Any] = this_process().to_json() | {"what": what} | ({"cleans": True} if cleans else {})
    began = _write(path, content)
    beat = threading.Thread(target=_beat, args=(path, content, began, over), daemon=True)
    beat.start()
    before = {name: getattr(_inside, name, frozenset()) for name in ("roots", "cleaned", "files")}
    here = frozenset([(os.getpid(), root.absolute())])
    _inside.roots, _inside.files = before["roots"] | here, before["files"] | {(os.getpid(), path)}
    _inside.cleaned = before["cleaned"] | here if cleans else before["cleaned"]
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(_inside, name, value)
        over.set()
        beat.join()
        path.unlink(missing_ok=True)


def _write(path: Path, content: dict[str, Any], began: float | None = None) -> float:
    """Writes a lease's file, whole or not at all; returns the time since which it holds."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        temporary.touch()
        began = temporary.stat().st_mtime if began is None else began  # on a network disk the clock is not ours
        temporary.write_text(json.dumps(content | {"began": began}), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return began


def _beat(path: Path, content: dict[str, Any], began: float, over: threading.Event) -> None:
    """Renews a lease until it is over; writes it anew if it was broken meanwhile, or the clock was set back."""
    start = time.monotonic()
    while not over.wait(BEAT_SECONDS):
        with suppress(OSError):  # a network disk may be away for a while
            if not path.exists():
                _write(path, content, began)
                continue
            os.utime(path)
            beginning = path.stat().st_mtime - (time.monotonic() - start)
            if beginning < began - 1.0:
                began = beginning
                _write(path, content, began)


def _wait_for_cleaners(root: Path) -> None:
    """Waits for those who are cleaning the cache now: whoever begins later sees the lease that is there already."""
    every, now = leases(root)
    cleaners = [each for each in every if each.cleans and each.state(now) == "live"]
    since, told = time.monotonic(), False
    while cleaners:
        time.sleep(_LOOK_SECONDS)
        if not told and time.monotonic() - since > _PATIENCE:
            first = cleaners[0]
            _log.warning(
                "waiting for %s, process %d on %s, which cleans %s",
                first.what,
                first.owner.number,
                first.owner.host,
                root,
            )
            told = True
        every, now = leases(root)
        live = {each.path for each in every if each.state(now) == "live"}
        cleaners = [each for each in cleaners if each.path in live]


# -- all leases -------------------------------------------------------------------------------------------------------


def leases(root: Path) -> tuple[list[Lease], float]:
    """Every lease in a cache's folder, and the file system's time now (ours where the folder can only be read)."""
    home = root / FOLDER
    named = [Path(entry) for entry in entries(home) if _NAME.fullmatch(entry.name) and is_file(entry)]
    return [each for each in map(_read, named) if each is not None], _file_system_time(home)


def _file_system_time(folder: Path) -> float:
    """The time by the clock that stamps files there; by ours where nobody can write, and so nobody renews a lease."""
    clock = folder / f"clock-{uuid.uuid4().hex}"
    try:
        clock.touch()
    except (FileNotFoundError, NotADirectoryError):
        return time.time()
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        return time.time()
    now = clock.stat().st_mtime
    clock.unlink()
    return now


def _read(path: Path) -> Lease | None:
    """The lease in a file; None if the file is gone or holds something else."""
    try:
        beat = path.lstat().st_mtime
        if not path.lstat().st_size:  # featcache 0.1 makes the file first
            return Lease(path, _NOBODY, "begin to write", began=beat, beat=beat)
        value = read_small_json(path)
        what, began, owner = value.get("what", ""), value.get("began", beat), Process.from_json(value)
        if not isinstance(what, str) or type(began) not in (int, float) or not 0 <= began < 1e11:
            raise ValueError(f"{what!r} since {began!r}")
        return Lease(path, owner, what, float(began), beat, cleans=value.get("cleans") is True)
    except (OSError, ValueError, AttributeError):
        return None
