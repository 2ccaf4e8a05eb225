"""Who is writing into this cache just now? A file a process, its time renewed while the process lives."""

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from featcache.storage.base import Folder
from featcache.storage.durable import make_folders
from featcache.storage.local import LocalFolder

FOLDER = ".leases"
BEAT_SECONDS = 15.0
DEAD_SECONDS = 120.0


@dataclass(frozen=True)
class Lease:
    """One process that writes, or that died while it did.

    Args:
        path: Its file.
        host: Machine.
        process: Process number there.
        namespace: Which processes have numbers of their own there: a container may have its host's name.
        what: What it does.
        began: When it began, by the file system's clock, seconds.
        beat: When it last said that it lives, likewise.
    """

    path: Path
    host: str
    process: int
    namespace: str
    what: str
    began: float
    beat: float

    def lives(self, now: float) -> bool:
        """Whether the process may still be writing.

        Args:
            now: The file system's clock, seconds.
        """
        ours = (socket.gethostname(), _namespace())
        if (self.host, self.namespace) == ours and not _runs(self.process):
            return False
        return now - self.beat < DEAD_SECONDS


@contextmanager
def lease(folder: Folder, what: str) -> Iterator[None]:
    """Says while the body runs that this process writes into a cache; nothing to say in a bucket.

    Correctness never depends on it: it keeps `featcache gc` away from files that are about to be renamed.

    Args:
        folder: The cache's folder.
        what: What is being done, for whoever asks.
    """
    if not isinstance(folder, LocalFolder):
        yield
        return
    home = folder.path / FOLDER
    make_folders(home)
    path = home / uuid.uuid4().hex
    path.touch()
    began = path.stat().st_mtime  # the file system's clock, which on a network disk is not ours
    said = {"host": socket.gethostname(), "process": os.getpid(), "namespace": _namespace()}
    path.write_text(json.dumps(said | {"what": what, "began": began}), encoding="utf-8")
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
    """Every lease of a cache and the file system's time now.

    Args:
        root: The cache's folder.
    """
    home = root / FOLDER
    if not home.is_dir():
        return [], 0.0
    clock = home / f"clock-{uuid.uuid4().hex}"
    clock.touch()
    now = clock.stat().st_mtime
    clock.unlink()
    found: list[Lease] = []
    for path in sorted(home.iterdir()):
        try:
            value, beat = json.loads(path.read_text(encoding="utf-8") or "{}"), path.stat().st_mtime
            lease = Lease(
                path,
                value.get("host", ""),
                value.get("process", 0),
                value.get("namespace", ""),
                value.get("what", ""),
                value.get("began", beat),
                beat,
            )
        except (OSError, ValueError, AttributeError):
            continue
        found.append(lease)
    return found, now


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
