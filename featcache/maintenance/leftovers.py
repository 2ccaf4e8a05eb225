"""Leftovers: what nobody needs in a cache, with the writers that may still hold it, listed or deleted."""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.maintenance.ours import foreign_in, is_through_link
from featcache.storage.base import DOOMED
from featcache.store.leases import FOLDER, Lease, cleaning, leases
from featcache.store.mark import MARK, is_cache


@dataclass(frozen=True)
class Leftover:
    """Something in the cache that nothing reads."""

    path: Path
    bytes: int  # with all that is in it
    what: str  # in words
    holder: str | None = None  # why it stays: a writer that may still need it, what is not ours in it, or an error
    failed: bool = False  # it was to be deleted, and could not be
    note: bool = False  # about a process that is over: no writer goes on with it


@dataclass(frozen=True)
class Leftovers:
    """What nobody needs, and the writers of whom nobody here knows whether they still run."""

    found: tuple[Leftover, ...]
    silent: tuple[Lease, ...]  # of other hosts, that give no sign of life any more


@dataclass(frozen=True)
class Writers:
    """The leases of a cache's writers at a moment.

    Args:
        leases: Of everybody but this thread, whatever became of them.
        now: The file system's time.
        break_leases: Silent writers count as ended.
    """

    leases: Sequence[Lease]
    now: float
    break_leases: bool

    @property
    def silent(self) -> tuple[Lease, ...]:
        """Those of whom nobody here knows whether they still run."""
        return tuple(each for each in self.leases if each.state(self.now) == "silent")

    @property
    def alive(self) -> list[Lease]:
        """Those whose files are not to be touched."""
        over = ("ended", "silent") if self.break_leases else ("ended",)
        return [each for each in self.leases if each.state(self.now) not in over]

    def holder(self, path: Path, status: os.stat_result) -> str | None:
        """Who may need a file or folder, in words; None if nobody does."""
        # what has a plain name, a table or an array, may be what a writer goes on with, however old it is
        may_be_needed, changed = not path.name.startswith("."), max(status.st_mtime, status.st_ctime)
        for each in self.alive:
            if may_be_needed or each.may_have_made(changed, self.now):
                silent = ", silent" if each.state(self.now) == "silent" else ""
                return f"{each.what}, process {each.owner.number} on {each.owner.host}{silent}"
        return None


Find = Callable[[Cache, Writers], Iterable[Leftover | None]]


def leftover(path: Path, what: str, writers: Writers) -> Leftover | None:
    """A file or folder that nobody needs, with whoever holds it; None if it has gone meanwhile."""
    try:
        status, size = path.lstat(), size_of(path)
    except FileNotFoundError:
        return None
    foreign = foreign_in(path) if stat.S_ISDIR(status.st_mode) else None
    holder = writers.holder(path, status) or (f"a file that is not ours: {foreign}" if foreign else None)
    return Leftover(path, size, what, holder)


def listed(cache: Cache, find: Find, *, break_leases: bool) -> Leftovers:
    """What is found in a cache.

    Args:
        cache: The cache, on this disk.
        find: Finds what nobody needs; what lies behind a link is left out.
        break_leases: Silent writers of other hosts count as ended.

    Raises:
        UsageError: If the folder is no cache on this disk.
        NewerFormat: If a newer featcache marked it.
    """
    _require_cache(cache)
    every, now = leases(cache.root)
    return _found(cache, find, Writers([each for each in every if not each.cleans], now, break_leases))


def cleaned(cache: Cache, find: Find, *, break_leases: bool, delete: Callable[[Path], None] | None = None) -> Leftovers:
    """Deletes what is found and nobody holds; arguments and errors as for `listed`.

    Writers that come meanwhile wait, and before each deletion the leases are read again, for writers of featcache 0.1.

    Args:
        cache: The cache.
        find: As for `listed`.
        break_leases: As for `listed`.
        delete: Deletes one of what was found; None for the file or folder alone.

    Returns:
        What was deleted, and what stayed with its holder.
    """
    _require_cache(cache)
    with ExitStack() as stack:
        try:
            others = stack.enter_context(cleaning(cache.root, "featcache gc"))
        except OSError as error:
            raise UsageError(
                f"{cache.root} cannot be cleaned, for it cannot be written to: {error.strerror}. Run featcache gc "
                "without --delete to see what lies there, or ask whoever may write"
            ) from error
        left = _found(cache, find, Writers(*others(), break_leases))
        done = (_deleted(each, Writers(*others(), break_leases), delete or _delete) for each in left.found)
        return Leftovers(tuple(done), left.silent)


def _require_cache(cache: Cache) -> None:
    if not is_cache(cache.root):
        raise UsageError(
            f"{cache.root} is not known to be a cache: it has no {MARK} file and no array under its own names. Nothing "
            "was looked at; whatever writes into a cache marks it, as featcache extract does"
        )
    if (cache.root / FOLDER).is_symlink():
        raise UsageError(f"{cache.root / FOLDER} is a link: who writes cannot be known. Nothing was looked at")


def _found(cache: Cache, find: Find, writers: Writers) -> Leftovers:
    found = (each for each in find(cache, writers) if each is not None)
    return Leftovers(tuple(each for each in found if not is_through_link(cache.root, each.path)), writers.silent)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def _deleted(before: Leftover, writers: Writers, delete: Callable[[Path], None]) -> Leftover:
    """Deletes a leftover that nobody holds, as things are now; returns what came of it."""
    if before.holder:
        return before
    now = before if before.note else leftover(before.path, before.what, writers)
    if now is None or now.holder:
        return now or before
    try:
        delete(before.path)
    except OSError as error:
        return replace(before, holder=f"not deleted: {error.strerror or error}", failed=True)
    return before


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    doomed = path
    if not doomed.name.startswith("."):  # an array: gone at once, not half there if this is interrupted
        doomed = path.rename(path.with_name(f"{DOOMED}{path.name}"))
    shutil.rmtree(doomed)
