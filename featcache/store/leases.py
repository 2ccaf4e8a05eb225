"""Leases: one file for each process that writes into a cache, its time renewed while the process lives."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from featcache.storage.base import Folder
from featcache.storage.durable import READ_ONLY, make_folders
from featcache.storage.local import LocalFolder

FOLDER = ".leases"
BEAT_SECONDS = 15.0
DEAD_SECONDS = 120.0


@dataclass(frozen=True)
class Lease:
    """The lease of one process, which writes or died while it did; times are the file system's clock, in seconds."""

    path: Path  # its file
    host: str
    process: int  # number on the host
    namespace: str  # of process numbers: a container may have its host's name
    what: str  # what the process does
    began: float
    beat: float  # when it was last renewed

    @property
    def holder(self) -> str:
        """The process, for messages to others."""
        return f"{self.what}, process {self.process} on {self.host}"

    def lives(self, now: float) -> bool:
        """Whether the process may still be writing at a time of the file system's clock."""
        ours = (socket.gethostname(), _namespace())
        if (self.host, self.namespace) == ours and not _runs(self.process):
            return False
        return now - self.beat < DEAD_SECONDS


@contextmanager
def lease(folder: Folder, what: str) -> Iterator[None]:
    """Holds a lease on a cache while the body runs; does nothing in a bucket.

    It keeps `featcache gc` away from files that are about to be renamed; nothing else depends on it.

    Args:
        folder: The cache's folder.
        what: What is being done, for messages to others.
    """
    if not isinstance(folder, LocalFolder):
        yield
        return
    home = folder.path / FOLDER
    make_folders(home)
    path = home / uuid.uuid4().hex
    path.touch()
    began = path.stat().st_mtime  # the file system's clock, which on a network disk is not ours
    owner = {"host": socket.gethostname(), "process": os.getpid(), "namespace": _namespace()}
    path.write_text(json.dumps(owner | {"what": what, "began": began}), encoding="utf-8")
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        path.unlink(missing_ok=True)


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        try:
            os.utime(path)
        except OSError:
            return


def leases(root: Path) -> tuple[list[Lease], float]:
    """Every lease in a cache's folder, and the file system's time now."""
    home = root / FOLDER
    if not home.is_dir():
        return [], 0.0
    now = _file_system_time(home)
    read = (_read(path) for path in sorted(home.iterdir()))
    return [lease for lease in read if lease is not None], now


def _file_system_time(folder: Path) -> float:
    """The time by the clock that stamps files there; by ours where nobody can write, and so nobody renews a lease."""
    clock = folder / f"clock-{uuid.uuid4().hex}"
    try:
        clock.touch()
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        return time.time()
    now = clock.stat().st_mtime
    clock.unlink()
    return now


def _read(path: Path) -> Lease | None:
    """The lease in a file; None if the file is gone or holds no JSON object."""
    try:
        value, beat = json.loads(path.read_text(encoding="utf-8") or "{}"), path.stat().st_mtime
        return Lease(
            path=path,
            host=value.get("host", ""),
            process=value.get("process", 0),
            namespace=value.get("namespace", ""),
            what=value.get("what", ""),
            began=value.get("began", beat),
            beat=beat,
        )
    except (OSError, ValueError, AttributeError):
        return None


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _runs(process: int) -> bool:
    if process <= 0:
        return True  # the file is being written
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
