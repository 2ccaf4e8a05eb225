"""Durable writes on a disk: files and folders that are whole and synced, and files that are created only once."""

import errno
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from featcache.storage.lock_folder import STALE_SECONDS, rename_exclusively

TEMPORARY = ".tmp-"
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}  # this user cannot write there
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_without_links: set[Path] = set()  # folders whose disk a probe has shown to have none
_noted_disks: set[int] = set()
_log = logging.getLogger(__name__)


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
    """Forces a folder's entries to the medium; threads that sync it at the same time share one call of the system."""
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
    """Runs an action for many threads: each is served by a run that began after its request."""

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
    """Gives the file its name unless the name is taken; True if it was free.

    Where the folder's disk has no hard links, which a probe must confirm, a lock folder takes their place.
    """
    folder = target.parent
    if folder not in _without_links:
        try:
            os.link(temporary, target)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            # another cause than the disk must not change the protocol: all writers into a folder follow the same
            if error.errno not in _NO_HARD_LINKS or links_work(folder):
                raise
            _note_no_links(folder, error)
    return rename_exclusively(temporary, target, target.with_name(f"{TEMPORARY}{target.name}.lock"))


def links_work(folder: Path) -> bool:
    """Whether the disk of a folder has hard links; makes and removes two files there."""
    one, other = (folder / f"{TEMPORARY}{uuid.uuid4().hex}" for _ in range(2))
    one.open("xb").close()
    try:
        os.link(one, other)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return False
    finally:
        one.unlink()
        other.unlink(missing_ok=True)
    return True


def _note_no_links(folder: Path, error: OSError) -> None:
    _without_links.add(folder)
    disk = folder.stat().st_dev
    if disk not in _noted_disks:
        _noted_disks.add(disk)
        _log.warning(
            "%s lies on a disk without hard links (%s): a lock folder and a rename take their place, which is slower "
            "and fails a writer that sleeps for more than %.0f seconds. Run: featcache doctor",
            folder,
            error.strerror,
            STALE_SECONDS,
        )


def write_once(target: Path, *parts: bytes | memoryview) -> bool:
    """Writes a file that must not exist yet; as `Folder.write_once`."""
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


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Lets one process at a time read a file and `replace` it; makes the file, empty, while it is not there.

    Only who asks for the lock keeps to it. On a disk without locks nobody waits.
    """
    made = not target.exists()
    while True:
        with target.open("ab") as file:
            _wait_for_lock(file.fileno())
            try:  # who had the lock may have put another file in its place
                own = os.path.samestat(os.fstat(file.fileno()), target.stat())
            except FileNotFoundError:
                continue
            if own:
                try:
                    yield
                finally:
                    if made and not target.stat().st_size:
                        target.unlink()
                return


def _wait_for_lock(descriptor: int) -> None:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except ImportError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


@contextmanager
def unless_read_only() -> Iterator[None]:
    """Leaves out a note that saves time the next time, where this user cannot write: it is no reason to fail."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise


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
