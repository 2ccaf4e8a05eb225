"""Plain files and folders on a disk: small ones read, folders listed, never through links."""

import errno
import json
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Any

from featcache.errors import Damaged

_MOST_BYTES = 65_536


def file_status(path: Path | str) -> os.stat_result:
    """What the system says of a file, through links.

    Raises:
        FileNotFoundError: If there is no such file.
        Damaged: If it is a link that leads to itself.
    """
    try:
        return os.stat(path)
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, os.strerror(errno.ENOENT), str(path)) from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise Damaged(f"{path} is a link that leads to itself; nothing was read. Run: featcache verify") from error


def open_plain(path: Path | str) -> FileIO:
    """Opens a file for reading, without a buffer; the one way in which a cache's files are opened.

    Raises:
        FileNotFoundError: If there is no such file.
        Damaged: If it is a folder, a pipe or a device, itself or through a link: a pipe would hang, a device never end;
            or a link that leads to itself.
    """
    # not to open it at all is safest; not to wait, and to look again, is for whoever changes it in between
    if stat.S_ISREG(file_status(path).st_mode):
        file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    raise Damaged(f"{path} is a folder, a pipe or a device and no file; nothing was read. Run: featcache verify")


def read_small_json(path: Path) -> Any:
    """The JSON of a small plain file.

    Raises:
        OSError: If it cannot be read, or is a link.
        ValueError: If it is no plain file, larger than any of ours, or no JSON.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # not to wait for a pipe's other end
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise ValueError(f"{path} is no small file")
        try:
            return json.loads(file.read(_MOST_BYTES))
        except RecursionError as error:
            raise ValueError(f"{path} is nested too deep") from error


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name; nothing where it is a link, is missing or cannot be read."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        os.close(descriptor)
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder and no link to one."""
    return entry.is_dir(follow_symlinks=False)


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a plain file: no link, pipe or device."""
    return entry.is_file(follow_symlinks=False)
