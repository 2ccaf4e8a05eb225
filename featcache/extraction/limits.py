"""Limits of disk and memory, and the errors where they are reached."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from featcache.cache import Cache
from featcache.errors import ExtractionFailed

_SPARE_BYTES = 64 * 2**20
_UNLIMITED = 2**60  # version 1 of control groups writes "no limit" as a number near 2^63

# Files of a control group: limit, use, and the line of memory.stat that counts the file pages dropped first.
_Files = tuple[str, str, str]
_VERSION_1: _Files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2: _Files = ("memory.max", "memory.current", "inactive_file")


@contextmanager
def named_disk_errors(cache: Cache) -> Iterator[None]:
    """Turns the system's errors of writing into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise ExtractionFailed(
            f"cannot write to {cache.folder}: {error.strerror}. What was committed stays; free space or choose another "
            "--cache, then run the same command again"
        ) from error


def refuse_full_disk(cache: Cache, what: str, count: int) -> None:
    """Refuses to begin writing `what` where its `count` bytes, and some to spare, are not free.

    Raises:
        ExtractionFailed: If they are not.
    """
    free = cache.folder.free_bytes()
    if free is not None and count + _SPARE_BYTES > free:
        raise ExtractionFailed(
            f"{what} needs {count / 1e6:.0f} MB, and {_SPARE_BYTES / 1e6:.0f} MB are kept in reserve for records and "
            f"others who write; {cache.folder} has {free / 1e6:.0f} MB free. Free "
            f"{math.ceil((count + _SPARE_BYTES - free) / 1e6):,} MB, take fewer --layers, or another --cache"
        )


def available_bytes(device: str) -> int:
    """Memory that a batch may plan with: what is free on a CUDA device, else `available_memory`."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    available = available_memory()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if available is None else available


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that Linux could give this process, within the limit of every control group it is in (a container's).

    What the kernel would drop first counts as available: cached files fill a container's limit without harm.

    Args:
        root: Folder that holds proc/ and sys/.

    Returns:
        Bytes, or None where the system does not say.
    """
    free = [int(line.split()[1]) * 1024 for line in _lines(root / "proc/meminfo") if line.startswith("MemAvailable")]
    rooms = [_room(folder, files) for folder, files in _control_groups(root)]
    values = [*free, *(room for room in rooms if room is not None)]
    return max(0, min(values)) if values else None


def _control_groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """This process's control groups of memory and all above them: each of their limits holds.

    A container may see the host's path in /proc/self/cgroup and only its own group under /sys/fs/cgroup: folders that
    are not there are passed over by whoever reads them.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        files, mounts = (_VERSION_1, ["memory"]) if controllers else (_VERSION_2, [".", "unified"])
        group = PurePosixPath("/" if ".." in path.split("/") else path)
        for mount in mounts:
            for each in (group, *group.parents):
                yield root / "sys/fs/cgroup" / mount / each.relative_to("/"), files


def _room(folder: Path, files: _Files) -> int | None:
    """Bytes between a control group's limit and its use; None where it has no limit."""
    try:
        limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in files[:2])
    except OSError:
        return None
    if not limit.isdigit() or not used.isdigit() or int(limit) >= _UNLIMITED:
        return None
    pairs = [line.split() for line in _lines(folder / "memory.stat")]
    return int(limit) - int(used) + sum(int(pair[1]) for pair in pairs if pair[0] == files[2])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
