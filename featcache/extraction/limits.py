"""What do disk and memory allow, and what is said when the disk does not?"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featcache.cache import Cache
from featcache.errors import ExtractionFailed

_SPARE_BYTES = 64 * 2**20


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
    """Refuses to begin what cannot be ended.

    Args:
        cache: Where it would be written.
        what: What would be written.
        count: Its bytes.

    Raises:
        ExtractionFailed: If the disk has not so much free, and some to spare.
    """
    free = cache.folder.free_bytes()
    if free is not None and count + _SPARE_BYTES > free:
        raise ExtractionFailed(
            f"{what} needs {count / 1e6:.0f} MB, and {cache.folder} has {free / 1e6:.0f} MB free. Take fewer --layers, "
            "or another --cache"
        )


def available_bytes(device: str) -> int:
    """Memory that a batch may plan with."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:  # free memory alone leaves out what the system would give back at once
        lines = Path("/proc/meminfo").read_text(encoding="ascii").split("\n")
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
