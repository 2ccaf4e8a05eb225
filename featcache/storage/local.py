"""A cache's folder on a disk."""
# ruff: noqa: D102 - the interface is documented in storage/base.py

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import final

from featcache.errors import Damaged
from featcache.storage import durable
from featcache.storage.base import ASIDE, DOOMED, Folder, refuse_large
from featcache.storage.plain import file_status, leads_to_folder, open_plain


@final
class LocalFolder(Folder):
    """A folder on a disk, which need not exist."""

    parallel = 1  # a thread costs more than a read from the page cache

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def parts(self) -> tuple[str, ...]:
        return self.path.parts

    @property
    def parent(self) -> "LocalFolder":
        return LocalFolder(self.path.parent)

    def read(self, name: str, *, most: int | None = None) -> bytes:
        with open_plain(self.path / name) as file:
            refuse_large(os.fstat(file.fileno()).st_size, most, f"{self}/{name}")
            return file.readall()

    def read_into(self, name: str, *views: memoryview, offset: int = 0) -> int:
        with open_plain(self.path / name) as file:
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
        try:
            return file_status(self.path / name).st_size
        except FileNotFoundError:
            return None
        except Damaged:  # it is there, and whoever reads it is told what it is
            return 0

    def there(self) -> bool:
        return self.path.is_dir()

    def names(self) -> set[str]:
        try:
            with os.scandir(self.path) as entries:
                return {entry.name for entry in entries if not leads_to_folder(entry)}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def folders(self) -> list[str]:
        try:
            with os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if leads_to_folder(entry))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self) -> Iterator[tuple[str, int]]:
        for folder, _, names in os.walk(self.path, followlinks=False):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # a temporary file may be gone by now
                    status = path.lstat()
                    if not stat.S_ISLNK(status.st_mode):
                        yield path.relative_to(self.path).as_posix(), status.st_size

    def zarr_store(self) -> str:
        for folder, _, names in os.walk(self.path, followlinks=False):
            for name in names:
                open_plain(Path(folder, name)).close()  # zarr-python would wait for a pipe, and read a device
        return str(self.path)

    def make(self) -> None:
        durable.make_folders(self.path)

    def write_once(self, name: str, *parts: bytes | memoryview) -> bool:
        return durable.write_once(self.path / name, *parts)

    def replace(self, name: str, *parts: bytes | memoryview) -> None:
        durable.replace(self.path / name, *parts)

    def remove(self, name: str, *more: str) -> None:
        for each in (name, *more):
            (self.path / each).unlink(missing_ok=True)

    def set_aside(self, name: str) -> None:
        target = self.path / name
        target.rename(target.with_name(f"{ASIDE}{target.name}-{uuid.uuid4().hex}"))

    def delete(self) -> None:
        doomed = self.path.with_name(f"{DOOMED}{uuid.uuid4().hex}")
        self.path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)  # what stays of it is for `featcache gc`

    def sync(self) -> None:
        durable.sync_folder(self.path)

    def prune(self, levels: int) -> None:
        folder = self.path
        for _ in range(levels):
            if folder.is_dir():
                if any(folder.iterdir()):
                    return
                folder.rmdir()
            folder = folder.parent

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self.path).free
