"""An extraction onto a disk that fills up stops with a clear error and goes on once there is room."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache as once
from pathlib import Path
from unittest import mock

import pytest

from featcache.cache import Cache
from featcache.errors import ExtractionFailed
from featcache.maintenance.verify import verify
from featcache.store.records import chunk_name
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.faults import REPOSITORY, Operation, watched
from tests.test_extract import run, snapshot

ROWS = 7  # of a chunk, as test_extract cuts it
PAGE = 4096
PAGES = range(1, 70)  # a tmpfs of the last size holds everything
INODES = range(2, 80)


@contextmanager
def fake_described() -> Iterator[None]:
    """Extraction with the fake encoder, its first look at the free space left out: the disk fills up later."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch("featcache.extraction.job.describe", lambda spec, options, memo: fake_card()))
        stack.enter_context(
            mock.patch("featcache.extraction.extract.refuse_full_disk", lambda cache, what, count: None)
        )
        yield


def committed_everywhere(cache: Cache) -> int:
    """Rows that every layer has; each committed chunk is checked to be whole."""
    arrays = list(cache.arrays())
    for array in arrays:
        for chunk in array.committed():
            record = array.record(chunk)
            assert record and len((array.path / chunk_name(chunk)).read_bytes()) == record.bytes
    common = set.intersection(*(array.committed() for array in arrays)) if len(arrays) == 3 else set()
    return sum(min(ROWS, 50 - chunk * ROWS) for chunk in common)


def check_full_disk(root: Path, grow: Callable[[], object], wanted: dict[str, bytes]) -> int | None:
    """Extracts onto a small disk, makes room, extracts again.

    Returns:
        The rows that were safe when it was full; None if it never was.
    """
    cache = Cache(root / "cache")
    try:
        run(cache, text_dataset())
    except ExtractionFailed as error:
        message = str(error)
    else:
        return None
    assert message.startswith(f"cannot write to {cache.root}: No space left on device. What was committed stays; free")
    safe = committed_everywhere(cache)
    assert snapshot(cache.root).items() <= wanted.items(), "half a chunk under a final name"
    assert not [path for path in cache.root.rglob("*.json") if not path.read_bytes().endswith(b"}")]
    assert not [path for path in cache.root.rglob(".tmp-*")], "an error leaves no temporary file"
    kept = (path for path in cache.root.rglob("*") if path.is_file() and ".leases" not in path.parts)
    before = {path: path.read_bytes() for path in kept}
    grow()
    encoder = FakeEncoder()
    run(cache, text_dataset(), encoder)
    assert len(encoder.rows) <= 50 - safe, "a committed chunk was computed again"
    assert snapshot(cache.root) == wanted
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(verify(cache, deep=True))
    return safe


@once
def whole(folder: Path) -> dict[str, bytes]:
    with fake_described():
        run(Cache(folder / "whole"), text_dataset())
    return snapshot(folder / "whole")


class Limited:
    """A folder on a disk of so many bytes: a write beyond them stops half-way with ENOSPC."""

    def __init__(self, root: Path, capacity: int | None) -> None:
        self.root, self.capacity, self.lock = root, capacity, threading.Lock()

    def before(self, operation: Operation) -> None:
        if operation.kind != "write" or self.capacity is None:
            return
        with self.lock:
            used = {entry.st_ino: entry.st_size for entry in self._files()}
            if sum(used.values()) + len(operation.data) > self.capacity:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _files(self) -> Iterator[os.stat_result]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                with suppress(FileNotFoundError):  # of a file that another thread has moved or removed since
                    yield os.stat(os.path.join(folder, name))

    def grow(self) -> None:
        self.capacity = None


def fill_limited(folder: Path, capacity: int, wanted: dict[str, bytes]) -> int | None:
    limited = Limited(folder, capacity)
    with fake_described(), watched(folder, limited.before):
        return check_full_disk(folder, limited.grow, wanted)


@pytest.mark.parametrize("step", [1200, pytest.param(61, marks=pytest.mark.slow)])
def test_a_disk_that_refuses_any_write_is_a_named_error_and_the_same_command_goes_on(tmp_path: Path, step: int) -> None:
    wanted = whole(tmp_path)
    size = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    seen: list[int | None] = []
    for capacity in range(0, size, step):
        folder = tmp_path / str(capacity)
        folder.mkdir()
        seen.append(fill_limited(folder, capacity, wanted))
    assert None not in seen
    assert seen[0] == 0 and 0 < len({rows for rows in seen if rows}), "it filled up at one point only"


# -- a real small disk ------------------------------------------------------------------------------------------------


def namespace() -> list[str] | None:
    """The command under which this user may mount a tmpfs that goes away by itself; None if there is none."""
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            tried = subprocess.run(
                [*command, "mount", "-t", "tmpfs", "-o", "size=8k", "none", "/mnt"], capture_output=True, check=False
            )
        except OSError:
            return None
        if tried.returncode == 0:
            return command
    return None


def fill_tmpfs(folder: Path, limits: list[str]) -> list[int | None]:
    """In a mount namespace of its own: extracts onto a tmpfs of each limit ("size=8192", "nr_inodes=20")."""
    wanted, seen = whole(folder), list[int | None]()
    disk = folder / "disk"
    disk.mkdir()
    for limit in limits:
        subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "none", disk], check=True)
        name = limit.partition("=")[0]
        grow = ["mount", "-o", f"remount,{name}={'1g' if name == 'size' else 100000}", disk]
        with fake_described():
            seen.append(check_full_disk(disk, lambda grow=grow: subprocess.run(grow, check=True), wanted))
        subprocess.run(["umount", disk], check=True)
    return seen


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_tmpfs_that_is_full_is_a_named_error_and_the_same_command_goes_on_once_it_grows(
    tmp_path: Path, step: int
) -> None:
    """Where nobody may mount one, writes are refused at the same sizes instead."""
    command = namespace()
    if command is None:
        wanted = whole(tmp_path)
        (tmp_path / "disk").mkdir()
        seen = []
        for pages in PAGES[::step]:
            (folder := tmp_path / str(pages)).mkdir()
            seen.append(fill_limited(folder, pages * PAGE // 16, wanted))
    else:
        limits = [f"size={pages * PAGE}" for pages in PAGES[::step]]
        limits += [f"nr_inodes={inodes}" for inodes in INODES[::step]]
        code = (
            "from pathlib import Path; from tests.test_store_full_disk import fill_tmpfs; "
            f"print(fill_tmpfs(Path({str(tmp_path)!r}), {limits!r}))"
        )
        child = subprocess.run(
            [*command, sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert child.returncode == 0, child.stderr
        seen = [None if word == "None" else int(word) for word in child.stdout.strip(" []\n").split(", ")]
    assert 0 in seen and len({rows for rows in seen if rows}) >= 2, "it filled up at too few points"
