"""Which arrays were read and found whole before? Remembered by the size and time of every chunk file."""

import os
from pathlib import Path

from blake3 import blake3

from featcache.durable import TEMPORARY
from featcache.folder import Folder, LocalFolder
from featcache.key import canonical
from featcache.records import Complete, chunk_name


class Verified:
    """A memory of arrays whose every chunk had its recorded checksum, so that small readings need not check again.

    A chunk file that is written again has another time, and the array counts as unchecked. What a disk loses by
    itself keeps its time: only a full reading and `featcache verify` see that.

    Args:
        cache: The cache's folder; the memory lies in it.
        fallback: Where it lies for a cache that this user cannot write to.
    """

    def __init__(self, cache: Path, fallback: Path) -> None:
        home = cache if os.access(cache, os.W_OK) else fallback
        self._home = home / ".verified"

    def knows(self, folder: Folder, complete: Complete) -> bool:
        """Whether these very files were checked."""
        if not isinstance(folder, LocalFolder):
            return False
        try:
            return self._note(folder, complete).read_text(encoding="ascii") == _stamp(folder, complete)
        except OSError:
            return False

    def remember(self, folder: Folder, complete: Complete) -> None:
        """Notes that these files were checked just now."""
        if not isinstance(folder, LocalFolder):
            return
        note = self._note(folder, complete)
        try:
            stamp = _stamp(folder, complete)
            if note.exists() and note.read_text(encoding="ascii") == stamp:
                return
            note.parent.mkdir(parents=True, exist_ok=True)
            temporary = note.with_name(f"{TEMPORARY}{os.getpid()}-{note.name}")
            temporary.write_text(stamp, encoding="ascii")
            temporary.replace(note)
        except OSError:
            pass  # without the memory every chunk is checked again: slower, not wrong

    def _note(self, folder: LocalFolder, complete: Complete) -> Path:
        place = blake3(os.fsencode(folder.path.absolute())).hexdigest(length=8)
        return self._home / f"{complete.root}-{place}"


def _stamp(folder: LocalFolder, complete: Complete) -> str:
    found = [(folder.path / chunk_name(record.chunk)).stat() for record in complete.records]
    return blake3(canonical([[entry.st_size, entry.st_mtime_ns, entry.st_ino] for entry in found])).hexdigest(length=16)
