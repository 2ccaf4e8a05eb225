"""Exclusive creation of a file under a lock folder, for disks without hard links (exFAT, some network disks).

The lock is a folder renamed into place, the commit a rename out of it. A writer that sleeps while it holds the lock
loses it after `STALE_SECONDS` and fails. All writers into a folder must create files this way: a hard link made between
the look at the target and the rename would be overwritten.
"""

import errno
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

STALE_SECONDS = 30.0


def rename_exclusively(temporary: Path, target: Path, lock: Path) -> bool:
    """Gives a file its name unless the name is taken; True if it was free.

    The file waits in a folder of its own, which takes the lock's name: that fails while another's folder, with its
    file in it, has the name. A lock that is broken is renamed away, so its owner, should it only have slept, finds its
    file no longer there.

    Args:
        temporary: The file, whole and durable, in the target's folder.
        target: Its name to be.
        lock: Name of the lock, the same for all writers of the target.

    Raises:
        OSError: ESTALE if the lock was broken while this writer held it.
    """
    own = temporary.with_name(f"{temporary.name}.folder")
    own.mkdir()
    waiting = own / temporary.name
    temporary.rename(waiting)
    try:
        while not target.exists():
            os.utime(own)
            try:
                own.rename(lock)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                _wait_for(lock, own)
                continue
            try:
                if target.exists():
                    (lock / waiting.name).unlink()
                    return False
                (lock / waiting.name).rename(target)
                return True
            except FileNotFoundError as error:
                raise OSError(errno.ESTALE, "slept too long while it held the lock", str(target)) from error
            finally:
                with suppress(OSError):  # another's by now, or gone
                    lock.rmdir()
        return False
    finally:
        with suppress(FileNotFoundError):
            waiting.unlink()
            own.rmdir()


def _wait_for(lock: Path, own: Path) -> None:
    """Waits a moment for another writer; breaks a lock so old that its owner must have died inside it.

    Both ages are the file system's: on a network disk its clock is not ours.
    """
    try:
        if own.stat().st_mtime - lock.stat().st_mtime > STALE_SECONDS:
            lock.rename(lock.with_name(f"{lock.name}-{uuid.uuid4().hex}.broken"))
    except FileNotFoundError:
        return
    time.sleep(0.02)
