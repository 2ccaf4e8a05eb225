"""A folder on a disk."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import final

from featcache.storage import durable
from featcache.storage.base import ASIDE, DOOMED, Folder


@final
class LocalFolder(Folder):
    """A folder on a disk.

    Args:
        path: The folder; it need not exist.
    """

    parallel = 1  # a thread costs more than a read from the page cache

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names on the way to this folder, its own last."""
        return self.path.parts

    @property
    def parent(self) -> "LocalFolder":
        """The folder that this one lies in."""
        return LocalFolder(self.path.parent)

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return (self.path / name).read_bytes()

    def read_into(self, name: str, *views: memoryview, offset: int = 0) -> int:
        """Fills views with a file's bytes."""
        with (self.path / name).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if offset:
                file.seek(offset)
            reached = offset
            for view in views:
                done = 0
                while done < len(view):  # one read returns at most 2 GiB
                    count = file.readinto(view[done:])
                    if not count:  # shorter than wanted, or cut while it was read
                        return min(size, reached + done)
                    done += count
                reached += done
        return size

    def size(self, name: str) -> int | None:
        """A file's size."""
        try:
            return (self.path / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def there(self) -> bool:
        """Whether the folder exists."""
        return self.path.is_dir()

    def names(self) -> set[str]:
        """Names of the files in it."""
        try:
            with os.scandir(self.path) as entries:
                return {entry.name for entry in entries if not entry.is_dir()}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def folders(self) -> list[str]:
        """Names of the folders in it."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self) -> Iterator[tuple[str, int]]:
        """Every file below."""
        for folder, _, names in os.walk(self.path, followlinks=False):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    yield path.relative_to(self.path).as_posix(), path.stat().st_size

    def zarr_store(self) -> str:
        """The path."""
        return str(self.path)

    def make(self) -> None:
        """Makes the folder and those above it."""
        durable.make_folders(self.path)

    def write_once(self, name: str, *parts: bytes | memoryview) -> bool:
        """Writes a file that must not exist yet."""
        return durable.write_once(self.path / name, *parts)

    def replace(self, name: str, *parts: bytes | memoryview) -> None:
        """Writes a file over whatever is there."""
        durable.replace(self.path / name, *parts)

    def remove(self, name: str, *more: str) -> None:
        """Deletes files."""
        for each in (name, *more):
            (self.path / each).unlink(missing_ok=True)

    def set_aside(self, name: str) -> None:
        """Renames a file to `.aside-…`."""
        target = self.path / name
        target.rename(target.with_name(f"{ASIDE}{target.name}-{uuid.uuid4().hex}"))

    def delete(self) -> None:
        """Deletes this folder."""
        doomed = self.path.with_name(f"{DOOMED}{uuid.uuid4().hex}")
        self.path.rename(doomed)
        for left in doomed.parent.glob(f"{DOOMED}*"):  # this one, and what an interrupted removal left
            shutil.rmtree(left, ignore_errors=True)

    def sync(self) -> None:
        """Makes what lies directly in it durable."""
        durable.sync_folder(self.path)

    def prune(self, levels: int) -> None:
        """Deletes empty folders from here upwards."""
        folder = self.path
        for _ in range(levels):
            if folder.is_dir():
                if any(folder.iterdir()):
                    return
                folder.rmdir()
            folder = folder.parent

    def free_bytes(self) -> int | None:
        """Free bytes of the disk."""
        return shutil.disk_usage(self.path).free
