"""How does a file come to be there whole, once, and for good, even if the machine stops at any moment?"""

import errno
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

TEMPORARY = ".tmp-"
_STALE_SECONDS = 30.0
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


def sync_file(descriptor: int) -> None:
    """Forces a file's bytes to the medium; on macOS fsync alone stops at the drive's cache."""
    try:
        import fcntl

        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:
            fcntl.fcntl(descriptor, full)
            return
    except (ImportError, OSError):
        pass
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Forces a folder's entries to the medium; threads that ask at the same time share one call of the system."""
    place = os.fspath(folder)
    with _turns_lock:
        turn = _turns.setdefault(place, _Turn())
    turn.take(lambda: _sync_entries(place))


def _sync_entries(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems refuse to sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


class _Turn:
    """Runs an action for many threads: each is served by a run that began after it asked."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._begun = self._ended = 0
        self._running = False

    def take(self, action: Callable[[], None]) -> None:
        with self._state:
            wanted = self._begun + 1  # a run that is under way may have begun before what is to be synced was there
            while self._running and self._ended < wanted:
                self._state.wait()
            if self._ended >= wanted:
                return
            self._running, self._begun = True, self._begun + 1
            mine = self._begun
        try:
            action()
        except BaseException:
            mine = 0  # those who wait try for themselves
            raise
        finally:
            with self._state:
                self._running, self._ended = False, max(self._ended, mine)
                self._state.notify_all()


_turns: "WeakValueDictionary[str, _Turn]" = WeakValueDictionary()
_turns_lock = threading.Lock()


def _write_temporary(folder: Path, parts: Iterable[bytes | memoryview]) -> Path:
    temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            sync_file(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def link_exclusively(temporary: Path, target: Path) -> bool:
    """Gives the file its name unless the name is taken; True if it was free."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _rename_exclusively(temporary, target)
    return True


def _rename_exclusively(temporary: Path, target: Path) -> bool:
    """As `link_exclusively` where there are no hard links: a folder is the lock, a rename out of it the commit.

    The file waits in a folder of its own, which takes the lock's name: that fails while another's folder, with its
    file in it, has the name. A lock that is broken is renamed away, so its owner, should it only have slept, finds its
    file no longer there.
    """
    lock = target.with_name(f"{TEMPORARY}{target.name}.lock")
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
        if own.stat().st_mtime - lock.stat().st_mtime > _STALE_SECONDS:
            lock.rename(lock.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.broken"))
    except FileNotFoundError:
        return
    time.sleep(0.02)


def write_once(target: Path, *parts: bytes | memoryview) -> bool:
    """Writes a file that must not exist yet: whole, durable, or not at all.

    Returns:
        True if this call made the file, False if it was there (its bytes are left alone).
    """
    temporary = _write_temporary(target.parent, parts)
    try:
        made = link_exclusively(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)
    return made


def replace(target: Path, *parts: bytes | memoryview) -> None:
    """Writes a file over whatever is there: readers see the old bytes or the new ones, never a mixture."""
    temporary = _write_temporary(target.parent, parts)
    try:
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def make_folders(folder: Path) -> None:
    """Creates a folder and its missing parents, each entry durable."""
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    with suppress(PermissionError):  # whoever made it may have been killed before its entry was durable
        sync_folder(folder.parent)
    for step in reversed(missing):
        step.mkdir(exist_ok=True)
        sync_folder(step.parent)
