"""Memory maps of chunk files: at most so many open in the whole process, and none of files that others may cut."""

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from functools import cache
from pathlib import Path

import numpy as np

_MOUNTS = Path("/proc/self/mountinfo")
# kinds of file systems whose files another machine, or a program, may cut while they are mapped
_SHARED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "gpfs", "beegfs", "afs", "virtiofs", "fuse")
_COPIED_BYTES = 64 * 2**20  # of chunks that are kept as copies


def may_be_mapped(status: os.stat_result) -> bool:
    """Whether a file can be trusted to keep its length while it is mapped.

    A map of a file that is cut ends the whole process (SIGBUS) when it is touched. This process's user writes chunks
    once and never cuts them; another user, or another machine, may.
    """
    return status.st_uid == os.geteuid() and not _is_shared(status.st_dev)


@cache
def _is_shared(device: int) -> bool:
    """Whether the file system of a device is a network's or a program's, as far as the system tells."""
    place = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2:3] == [place]:
            return rest.split()[:1][0].partition(".")[0] in _SHARED
    return False


def most_maps() -> int:
    """Maps that the process may hold open: each takes a file descriptor, and three quarters are left to others."""
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError, ValueError):
        return 64
    return max(4, min(256, soft // 4))


def map_file(descriptor: int, size: int) -> np.ndarray:
    """The bytes of an open file [size], not to be written to; the descriptor may be closed."""
    return np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), np.uint8)


class Recent:
    """What was used last, by all readers of the process together, up to a total weight."""

    def __init__(self, most: int) -> None:
        self.most, self._weight = most, 0
        self._kept: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable) -> object | None:
        """What is kept under a name, now the last that was used; None if there is nothing."""
        with self._lock:
            if name not in self._kept:
                return None
            self._kept.move_to_end(name)
            return self._kept[name][0]

    def keep(self, name: Hashable, value: object, weight: int = 1) -> None:
        """Keeps a value, and lets go of those that were not used for longest."""
        with self._lock:
            self._drop(name)
            self._kept[name] = value, weight
            self._weight += weight
            while self._weight > self.most and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Lets go of everything."""
        with self._lock:
            self._kept.clear()
            self._weight = 0

    def forget(self, owner: object) -> None:
        """Lets go of everything kept under the names (owner, …)."""
        with self._lock:
            for name in [name for name in self._kept if isinstance(name, tuple) and name[0] == owner]:
                self._drop(name)

    def _drop(self, name: Hashable) -> None:
        _, weight = self._kept.pop(name, (None, 0))
        self._weight -= weight


MAPS, COPIES = Recent(most_maps()), Recent(_COPIED_BYTES)
