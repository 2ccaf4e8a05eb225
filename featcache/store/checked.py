"""Memory of the arrays whose checksums were verified before, by the size and the times of every chunk file."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from featcache.storage.base import Folder
from featcache.storage.durable import TEMPORARY
from featcache.storage.local import LocalFolder
from featcache.store.digest import canonical
from featcache.store.records import Complete, chunk_name

_CHECKS = 2  # of a chunk: that it has its checksum, and that the rows that are NaN are those listed as failed

Identity = tuple[int, int, int, int]


def identity(status: os.stat_result) -> Identity:
    """What tells a file from any other that had its name: size, inode and times.

    The change time cannot be put back, the modification time can.
    """
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def identities(folder: Folder, complete: Complete) -> list[Identity] | None:
    """The identity of every chunk file; None where they are not on a disk, or one is missing."""
    if not isinstance(folder, LocalFolder):
        return None
    try:
        return [identity(os.stat(f"{folder.path}/{chunk_name(record.chunk)}")) for record in complete.records]
    except OSError:
        return None


def stamp_of(complete: Complete, files: Sequence[Identity]) -> str:
    """A hash of an array's root, of the rows that are listed as failed, and of the files that it lies in."""
    listed = [[record.chunk, record.failed] for record in complete.records if record.failed]  # the root binds them not
    return blake3(canonical([_CHECKS, complete.root, listed, [list(file) for file in files]])).hexdigest(length=16)


class CheckedArrays:
    """A memory of arrays whose every chunk had its recorded checksum, so that small readings need not check again.

    A chunk file that is written again, even in place and with its time put back, has another stamp, and the array
    counts as unchecked. What a disk loses by itself keeps its times: only a full reading and `featcache verify` see
    that.

    Args:
        cache: The cache's folder; the memory lies in it.
        fallback: Where the memory lies if this user cannot write to the cache: the user's own cache.
    """

    def __init__(self, cache: Path, fallback: Path) -> None:
        self._homes = tuple(home / ".verified" for home in (cache, fallback))

    def knows(self, folder: Folder, stamp: str | None) -> bool:
        """Whether the files of that stamp were checked."""
        return stamp is not None and any(_content(note) == stamp.encode() for note in self._notes(folder))

    def remember(self, folder: Folder, stamp: str | None) -> None:
        """Notes that the files of that stamp were checked; a note that cannot be written costs time, not trust."""
        if stamp is None or self.knows(folder, stamp):
            return
        for note in self._notes(folder):
            try:
                note.parent.mkdir(parents=True, exist_ok=True)
                temporary = note.with_name(f"{TEMPORARY}{os.getpid()}-{note.name}")
                temporary.write_bytes(stamp.encode())
                temporary.replace(note)
            except OSError:  # os.access would say too little: a disk mounted read-only, a server's own rules
                continue
            return

    def forget(self, folder: Folder) -> None:
        """Removes what is noted of an array, as far as this user may."""
        for note in self._notes(folder):
            with suppress(OSError):
                note.unlink()

    def _notes(self, folder: Folder) -> list[Path]:
        """Where the note on an array may lie; named by the array's place, so that a new array's replaces the old."""
        if not isinstance(folder, LocalFolder):
            return []
        place = blake3(os.fsencode(folder.path.absolute())).hexdigest(length=8)
        return [home / place for home in self._homes]


def _content(note: Path) -> bytes | None:
    try:
        return note.read_bytes()
    except OSError:
        return None
