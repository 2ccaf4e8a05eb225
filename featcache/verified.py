"""Which arrays were read and found whole before? Remembered by the size and the times of every chunk file."""

import os
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from featcache.durable import TEMPORARY
from featcache.folder import Folder, LocalFolder
from featcache.key import canonical
from featcache.records import Complete, chunk_name


class Verified:
    """A memory of arrays whose every chunk had its recorded checksum, so that small readings need not check again.

    A chunk file that is written again, even in place and with its time put back, has another stamp, and the array
    counts as unchecked. What a disk loses by itself keeps its times: only a full reading and `featcache verify` see
    that.

    Args:
        cache: The cache's folder; the memory lies in it.
        fallback: Where it lies for a cache that this user cannot write to: beside the user's own cache.
    """

    def __init__(self, cache: Path, fallback: Path) -> None:
        self._homes = tuple(home / ".verified" for home in (cache, fallback))

    def stamp(self, folder: Folder, complete: Complete) -> str | None:
        """What tells these very files from any others; to be taken before they are checked.

        Returns:
            A hash of the array's root and of its chunk files' sizes, inodes and times; None where it is not on a
            disk or a file is missing.
        """
        if not isinstance(folder, LocalFolder):
            return None
        try:
            found = [os.stat(f"{folder.path}/{chunk_name(record.chunk)}") for record in complete.records]
        except OSError:
            return None
        # a file's change time cannot be put back, its modification time can
        files = [[entry.st_size, entry.st_ino, entry.st_mtime_ns, entry.st_ctime_ns] for entry in found]
        return blake3(canonical([complete.root, files])).hexdigest(length=16)

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
        """Where the note on an array may lie: one for each place, so that a new array replaces the old one's."""
        if not isinstance(folder, LocalFolder):
            return []
        place = blake3(os.fsencode(folder.path.absolute())).hexdigest(length=8)
        return [home / place for home in self._homes]


def _content(note: Path) -> bytes | None:
    try:
        return note.read_bytes()
    except OSError:
        return None
