"""The interface of a folder that holds a cache's files: on a disk, in a bucket, or in a Hub repository."""

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import Any, ClassVar, TypeVar

from featcache.errors import BeyondLimit, UsageError
from featcache.storage.durable import TEMPORARY

ASIDE = ".aside-"
DOOMED = ".doomed-"
KEPT = ".kept-"
HEX = "[0-9a-f]{32}"  # of a uuid, or an array's digest
# patterns of the names that durable.py, lock_folder.py and local.py give
TEMPORARY_FILE, ASIDE_FILE, KEPT_FILE = rf"\{TEMPORARY}{HEX}", rf"\{ASIDE}[\w.-]+-{HEX}", rf"\{KEPT}[0-9]+"
LOCK_FOLDER = rf"\{TEMPORARY}({HEX}\.folder|[\w.-]+\.lock(-{HEX}\.broken)?)"
DOOMED_FOLDER = rf"\{DOOMED}{HEX}"
_LEFTOVER = re.compile("|".join((TEMPORARY_FILE, ASIDE_FILE, KEPT_FILE, LOCK_FOLDER, DOOMED_FOLDER)), re.ASCII)

_T = TypeVar("_T")
_U = TypeVar("_U")


def overlapped(function: Callable[[_T], _U], items: Iterable[_T], *, threads: int, ahead: int) -> Iterator[_U]:
    """The results of a function in the order of the items, several at once, of which not all need fit in memory.

    After an error the items that were not begun are left.

    Args:
        function: Called in threads.
        items: Taken one by one as calls end.
        threads: Calls under way at once.
        ahead: Items taken before the first result is waited for.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque[Future[_U]]()
        try:
            for item in items:  # not pool.map: it would take every item before the first call ends
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def fill_views(views: Iterable[memoryview], content: bytes | memoryview) -> None:
    """Fills writable views, one after the other, with as many bytes as there are."""
    start = 0
    for view in views:
        part = content[start : start + len(view)]
        view[: len(part)] = part
        start += len(part)


class Folder(ABC):
    """A folder of named files, whole or absent, with folders below it.

    A name means a file directly in this folder or, with "/", below it; `folder / "a/b"` is the folder below. Methods
    raise FileNotFoundError where a file that they read is missing, and RemoteFailed where a remote cannot be reached.
    """

    parallel: ClassVar[int] = 8  # requests worth having under way at once
    batch_bytes: ClassVar[int] = 64 * 2**20  # chunks to write before their records: what an interruption may cost

    def map(self, function: Callable[[_T], _U], items: Sequence[_T], *, parallel: int | None = None) -> list[_U]:
        """The results of a function that reads or writes here, in the order of the items.

        Args:
            function: Called with each item; in threads where the kind of folder gains by it.
            items: Its arguments.
            parallel: At least so many calls at once; None leaves it to the kind of folder.
        """
        parallel = max(self.parallel, parallel or 1)
        if parallel == 1 or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(parallel) as pool:
            return list(pool.map(function, items))

    @abstractmethod
    def __truediv__(self, name: str) -> "Folder": ...

    @abstractmethod
    def __str__(self) -> str: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The names on the way to this folder, its own last."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.parts[-1]

    @property
    @abstractmethod
    def parent(self) -> "Folder":
        """The folder that this one lies in."""

    # -- reading ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, name: str, *, most: int | None = None) -> bytes:
        """A file's bytes.

        Args:
            name: The file.
            most: Bytes that it may have; None for any number.

        Raises:
            BeyondLimit: If it has more; then nothing is read.
            Damaged: If it is a folder, a pipe or a device.
        """

    @abstractmethod
    def read_into(self, name: str, *views: memoryview, offset: int = 0) -> int:
        """Fills writable views, one after the other, with a file's bytes from an offset on.

        Returns:
            The size of the whole file. The views hold its bytes only if it reaches to their end.
        """

    @abstractmethod
    def size(self, name: str) -> int | None:
        """A file's size in bytes; None if there is none."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.size(name) is not None

    @abstractmethod
    def there(self) -> bool:
        """Whether the folder exists; in a bucket, whether anything lies below it."""

    @abstractmethod
    def names(self) -> set[str]:
        """Names of the files directly in this folder; empty if it does not exist."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders directly in this folder, sorted."""

    @abstractmethod
    def files(self) -> Iterator[tuple[str, int]]:
        """(name, size) of every file below, at any depth, in no particular order; links are not followed."""

    def find(self, pattern: str) -> list[str]:
        """Folders below whose path matches a glob with as many parts, sorted; names with a leading dot never do.

        Example:
            LocalFolder(cache).find("openmoji/*/minilm/*/*")
        """
        paths, listed = [""], True
        for part in pattern.split("/"):
            if any(sign in part for sign in "*?["):
                below = self.map(lambda path: (self / path if path else self).folders(), paths)
                paths = [
                    f"{path}/{name}".lstrip("/")
                    for path, names in zip(paths, below, strict=True)
                    for name in names
                    if fnmatchcase(name, part) and not name.startswith(".")
                ]
                listed = True
            else:
                paths, listed = [f"{path}/{part}".lstrip("/") for path in paths], False
        there = [True] * len(paths) if listed else self.map(lambda path: (self / path).there(), paths)
        return sorted(path for path, exists in zip(paths, there, strict=True) if exists)

    def zarr_store(self) -> Any:
        """What zarr-python opens this folder by: a path or a zarr store; UsageError where it cannot."""
        raise UsageError(f"{self} cannot be opened by zarr-python. Pull it first: featcache pull REMOTE")

    # -- writing ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def make(self) -> None:
        """Makes the folder and those above it, durably; nothing to do where folders are only parts of names."""

    @abstractmethod
    def write_once(self, name: str, *parts: bytes | memoryview) -> bool:
        """Writes a file that must not exist yet: whole, durable, or not at all.

        Returns:
            True if this call made the file, False if it was there (its bytes are left alone).
        """

    @abstractmethod
    def replace(self, name: str, *parts: bytes | memoryview) -> None:
        """Writes a file over whatever is there: readers see the old bytes or the new ones."""

    @abstractmethod
    def remove(self, name: str, *more: str) -> None:
        """Deletes files; nothing to do where there is none."""

    @abstractmethod
    def set_aside(self, name: str) -> None:
        """Renames a file to `.aside-…`, where nothing reads it."""

    @abstractmethod
    def delete(self) -> None:
        """Deletes this folder and everything in it: readers see all of it or nothing of it."""

    def sync(self) -> None:  # noqa: B027 - what a bucket has acknowledged is durable
        """Makes what lies directly in this folder durable, whoever wrote it: its writer may have been killed."""

    def prune(self, levels: int) -> None:  # noqa: B027 - a bucket has no empty folders
        """Deletes this folder and so many levels in all upwards, as long as they are empty."""

    def send(self, files: Iterable[tuple[str, Callable[[], bytes]]]) -> Iterator[tuple[str, bool]]:
        """Writes many files once each, several at a time, in any order.

        Args:
            files: (name, function that gives the bytes); called in threads, so that reading is several at a time too.

        Yields:
            (name, whether this call made the file) as they arrive.
        """

        def write(name: str, content: Callable[[], bytes]) -> tuple[str, bool]:
            return name, self.write_once(name, content())

        return overlapped(lambda item: write(*item), files, threads=8, ahead=16)

    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where there is no limit to be known."""
        return None


def map_both(source: Folder, target: Folder, function: Callable[[_T], _U], items: Sequence[_T]) -> list[_U]:
    """As `Folder.map`, with as many calls at once as the slower of two folders needs."""
    return max(source, target, key=lambda folder: folder.parallel).map(function, items)


def refuse_large(size: int, most: int | None, where: str) -> None:
    """Raises BeyondLimit if a file has more bytes than it may have; None allows any number."""
    if most is not None and size > most:
        raise BeyondLimit(
            f"{where} has {size:,} bytes, where what it belongs to allows {most:,}; nothing was read. "
            "Run: featcache verify"
        )


def is_leftover(name: str) -> bool:
    """Whether a name is one that writers give to temporary files, files set aside, rows kept, locks, and removals."""
    return _LEFTOVER.fullmatch(name) is not None
