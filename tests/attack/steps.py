"""The steps by which a process changes files, counted; the process kills itself before a chosen one."""

import builtins
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
REMOTE_CALLS = ("write_once", "replace", "remove", "delete", "set_aside", "read", "read_into")


class Steps:
    """Counts what this process changes below a folder from `watch` on; nothing of it can be undone: for children only.

    A step is a file opened to be written, half of what is written into it, a sync, a link, a rename, a deletion, a new
    folder, or a request to a bucket or the Hub. What compiled libraries write by themselves (tables, weights) is not
    seen; kills at a moment hit that.

    Args:
        root: The folder; everything that the attacked command may change lies below it.
        kill: The process ends itself before this step, counted from 1; 0 for never.
    """

    def __init__(self, root: Path, kill: int = 0) -> None:
        self.root, self.kill, self.count = f"{root}{os.sep}", kill, 0

    def step(self) -> None:
        """Counts a step, or ends the process in its stead."""
        self.count += 1
        if self.count == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Begins to count."""
        sys.addaudithook(self._audit)
        real_sync, real_open = os.fsync, io.open

        def sync(descriptor: int) -> None:
            if self._below(os.readlink(f"/proc/self/fd/{descriptor}")):
                self.step()
            real_sync(descriptor)

        def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            made = real_open(file, mode, *rest, **options)
            writes = "b" in mode and set(mode) & set("wxa")
            return _Halves(made, self.step) if writes and self._below(file) else made

        os.fsync = sync
        io.open = builtins.open = opened  # type: ignore[assignment]
        self._watch_requests()

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and self._below(path):
                self.step()
        elif event in CHANGES and self._below(arguments[0]):
            self.step()

    def _below(self, path: Any) -> bool:
        return not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(self.root)

    def _watch_requests(self) -> None:
        from featcache.storage.bucket import BucketFolder
        from featcache.storage.hub import HubFolder

        for place in (BucketFolder, HubFolder):
            for name in REMOTE_CALLS:
                if (real := place.__dict__.get(name)) is not None:
                    setattr(place, name, self._counted(real))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.step()
            return real(*arguments, **options)

        return call


class _Halves:
    """A file each of whose writes is two steps, so that it can be torn; nothing waits in Python's buffer."""

    def __init__(self, file: Any, step: Callable[[], None]) -> None:
        self._file, self._step = file, step

    def write(self, data: Any) -> int:
        whole = bytes(data)
        for part in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
            self._step()
            self._file.write(part)
            self._file.flush()
        return len(whole)

    def __enter__(self) -> "_Halves":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
