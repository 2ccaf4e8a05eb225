"""Writers whose file operations are recorded, and stopped between any two of them, for tests of the store."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np

from featcache.storage import lock_folder
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey
from featcache.store.layout import Layout
from featcache.store.records import chunk_name
from tests.fakes import bare_binds

REPOSITORY = Path(__file__).parents[1]
N, D, ROWS = 83, 3, 8
LAYOUT = Layout(N, ROWS, 4, "row", 1)  # 11 chunks, the last one short

# -- the array that every fault test writes


def make_key() -> ArrayKey:
    return ArrayKey("tiny", "captions", "fake", "last.mean", bare_binds(N, D), {"by": "test"})


def block(chunk: int, shift: float = 0) -> np.ndarray:
    """Rows of one chunk; writers with unequal shifts disagree in every value."""
    start, stop = LAYOUT.span(chunk)
    values = np.random.default_rng(0).standard_normal((N, D)).astype(np.float16)
    return values[start:stop] + np.float16(shift)


def array_in(folder: Path) -> FeatureArray:
    return FeatureArray(folder / make_key().path)


def fill(
    folder: Path,
    acknowledge: Callable[[str], None] = lambda line: None,
    *,
    shift: float = 0,
    order: list[int] | None = None,
    writer: str = "w",
) -> FeatureArray:
    """Writes whatever is missing of the array, as an extraction does; calls back with what has been acknowledged."""
    array = array_in(folder)
    layout = array.create(make_key(), LAYOUT)
    acknowledge("created")
    array.adopt_orphans(layout)
    missing = set(range(layout.chunks)) - array.committed()
    for chunk in order if order is not None else range(layout.chunks):
        if chunk in missing:
            array.commit(layout, chunk, block(chunk, shift), writer=writer)
            acknowledge(str(chunk))
    array.finish(layout)
    acknowledge("complete")
    return array


def chunks_of(array: FeatureArray) -> dict[str, bytes]:
    """Name to bytes of every chunk file that is there."""
    names = [chunk_name(chunk) for chunk in range(LAYOUT.chunks)]
    return {name: (array.path / name).read_bytes() for name in names if (array.path / name).exists()}


MEMORY = {".featcache", ".leases", ".verified"}  # beside the format: the cache's mark, who writes, what was checked


def files_in(folder: Path) -> dict[str, bytes | None]:
    """Path to bytes of everything below a folder; None for a folder."""
    paths = sorted(path for path in folder.rglob("*") if not MEMORY & set(path.parts))
    return {path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in paths}


# -- watching file operations


@dataclass(frozen=True)
class Operation:
    """One step that changes, or makes durable, something below the watched folder.

    Args:
        kind: create, write, sync, sync folder, link, rename, unlink, mkdir, rmdir, or acknowledged (nothing on disk).
        path: What it is done to, below the watched folder; what was acknowledged.
        other: The new name of a link or rename.
        data: Bytes appended by a write.
    """

    kind: str
    path: str
    other: str = ""
    data: bytes = b""


def _nothing(operation: Operation) -> None:
    pass


class _Watcher:
    def __init__(self, root: Path, before: Callable[[Operation], None], after: Callable[[Operation], None]) -> None:
        self.root, self.before, self.after, self.lock = root, before, after, threading.RLock()
        self.real = {name: getattr(os, name) for name in _ONE_PATH | _TWO_PATHS | {"fsync", "open"}}
        self.open_file = io.open
        self.descriptors: dict[int, str] = {}

    def below(self, path: Any) -> str | None:
        text = "" if isinstance(path, int) else os.path.abspath(os.fspath(path))
        if text == str(self.root):
            return "."
        inside = os.path.relpath(text, self.root) if text.startswith(f"{self.root}/") else None
        return None if inside is not None and MEMORY & set(inside.split("/")) else inside

    def step(self, operation: Operation, do: Callable[[], Any]) -> Any:
        with self.lock:  # a recording has the order in which threads' operations took effect
            self.before(operation)
            result = do()
            self.after(operation)
        return result

    def one_path(self, name: str) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **options: Any) -> Any:
            inside = None if options.get("dir_fd") is not None else self.below(path)
            if inside is None:
                return self.real[name](path, *rest, **options)
            return self.step(Operation(_ONE[name], inside), lambda: self.real[name](path, *rest, **options))

        return call

    def two_paths(self, name: str) -> Callable[..., Any]:
        def call(path: Any, other: Any, **options: Any) -> Any:
            one, two = self.below(path), self.below(other)
            if one is None or two is None:
                return self.real[name](path, other, **options)
            return self.step(Operation(_TWO[name], one, two), lambda: self.real[name](path, other, **options))

        return call

    def fsync(self, descriptor: int) -> None:
        path = self.descriptors.get(descriptor)
        if path is None:
            return self.real["fsync"](descriptor)
        kind = "sync folder" if (self.root / path).is_dir() else "sync"
        return self.step(Operation(kind, path), lambda: self.real["fsync"](descriptor))

    def open(self, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        inside = self.below(path)
        if inside is not None and flags & (os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR):
            raise AssertionError(f"{inside} is opened for writing by os.open: teach tests/faults.py that operation")
        descriptor = self.real["open"](path, flags, *rest, **options)
        self.descriptors.pop(descriptor, None)
        if inside is not None:
            self.descriptors[descriptor] = inside
        return descriptor

    def file(self, path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        inside = self.below(path)
        if inside is None or not set(mode) & set("wax+"):
            return self.open_file(path, mode, *rest, **options)
        if "x" not in mode or "b" not in mode:
            raise AssertionError(f"{inside} is opened with mode {mode!r}: teach tests/faults.py that operation")
        file = self.step(Operation("create", inside), lambda: self.open_file(path, mode, *rest, **options))
        self.descriptors[file.fileno()] = inside
        return _File(self, file, inside)


_ONE = {"unlink": "unlink", "remove": "unlink", "mkdir": "mkdir", "rmdir": "rmdir"}
_TWO = {"link": "link", "rename": "rename", "replace": "rename"}
_ONE_PATH, _TWO_PATHS = set(_ONE), set(_TWO)


class _File:
    """A new file each of whose writes is two steps, so that it can be torn; nothing waits in Python's buffer."""

    def __init__(self, watcher: _Watcher, file: Any, path: str) -> None:
        self.watcher, self.file, self.path = watcher, file, path

    def write(self, data: Any) -> int:
        whole = bytes(data)
        for part in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
            if part:
                self.watcher.step(Operation("write", self.path, data=part), lambda part=part: self._through(part))
        return len(whole)

    def _through(self, part: bytes) -> None:
        self.file.write(part)
        self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextmanager
def watched(
    root: Path, before: Callable[[Operation], None] = _nothing, after: Callable[[Operation], None] = _nothing
) -> Iterator[None]:
    """Calls `before` and `after` around every file operation of this process below root.

    What goes past Python's os and io modules, or by a folder's descriptor, is not seen; a test that replays a recording
    without loss and compares it with the real folder finds such an operation out.

    Args:
        root: An absolute folder.
        before: Called ahead of an operation; may raise in its stead.
        after: Called once it succeeded.
    """
    watcher = _Watcher(root, before, after)
    with ExitStack() as stack:
        for name in _ONE_PATH:
            stack.enter_context(mock.patch.object(os, name, watcher.one_path(name)))
        for name in _TWO_PATHS:
            stack.enter_context(mock.patch.object(os, name, watcher.two_paths(name)))
        stack.enter_context(mock.patch.object(os, "fsync", watcher.fsync))
        stack.enter_context(mock.patch.object(os, "open", watcher.open))
        stack.enter_context(mock.patch.object(io, "open", watcher.file))
        stack.enter_context(mock.patch("builtins.open", watcher.file))
        yield


@contextmanager
def without_syncs() -> Iterator[None]:
    """Skips fsync, for work whose durability is not what is tested."""
    with mock.patch.object(os, "fsync", lambda descriptor: None):
        yield


@contextmanager
def without_links(stale_seconds: float = 30.0) -> Iterator[None]:
    """A file system that refuses hard links; locks older than stale_seconds are taken for a dead writer's."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    with mock.patch.object(os, "link", refuse), mock.patch.object(lock_folder, "STALE_SECONDS", stale_seconds):
        yield


# -- writers that are killed


@dataclass(frozen=True)
class Job:
    """One writer process.

    Args:
        folder: The cache.
        kill: The process kills itself (SIGKILL) before this file operation, counted from 1; 0 for never.
        trace: Prints every operation, those that fail too.
        links: Whether the file system knows hard links.
        stale_seconds: Age of a lock that counts as left by a dead process.
        shift: See `block`.
        order: Chunks in the order of their commit.
        writer: Name in the records.
    """

    folder: str
    kill: int = 0
    trace: bool = False
    links: bool = True
    stale_seconds: float = 30.0
    shift: float = 0
    order: list[int] | None = None
    writer: str = "w"


@dataclass(frozen=True)
class Outcome:
    """How a writer ended (exit code, or minus the signal), and the lines it had printed by then."""

    exit: int
    lines: list[str]

    @property
    def committed(self) -> set[int]:
        """The chunks whose commit returned."""
        return {int(line) for line in self.lines if line.isdigit()}

    @property
    def steps(self) -> list[Operation]:
        """The traced operations."""
        return [Operation(**json.loads(line[5:])) for line in self.lines if line.startswith("step ")]


class Writers:
    """A process that has imported the store and forks a writer for every job."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", "from tests.faults import serve; serve()"]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=60)

    def run(self, *jobs: Job) -> list[Outcome]:
        """Runs writers at the same time; returns when all have ended."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps([asdict(job) for job in jobs]), file=self.process.stdin, flush=True)
        return [Outcome(**value) for value in json.loads(self.process.stdout.readline())]


def serve() -> None:
    """The forking process: a line of jobs in, a line of outcomes out."""
    for line in sys.stdin:
        gate, opener = os.pipe()
        started = [_fork(Job(**value), gate, opener) for value in json.loads(line)]
        os.close(opener)  # every writer waits for the end of this pipe: they start together
        os.close(gate)
        outcomes: list[Outcome] = []
        for pid, lines in started:
            with os.fdopen(lines, encoding="utf-8") as pipe:
                text = pipe.read().split("\n")[:-1]
            outcomes.append(Outcome(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text))
        print(json.dumps([asdict(outcome) for outcome in outcomes]), flush=True)


def _fork(job: Job, gate: int, opener: int) -> tuple[int, int]:
    lines, mouth = os.pipe()
    pid = os.fork()
    if pid:
        os.close(mouth)
        return pid, lines
    try:
        os.close(opener)
        os.read(gate, 1)
        _write(job, lambda text: os.write(mouth, f"{text}\n".encode()))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _write(job: Job, acknowledge: Callable[[str], Any]) -> None:
    count = 0

    def before(operation: Operation) -> None:
        nonlocal count
        count += 1
        if count == job.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.trace:
            step = {"kind": operation.kind, "path": operation.path, "other": operation.other}
            acknowledge("step " + json.dumps(step))

    with ExitStack() as stack:
        stack.enter_context(watched(Path(job.folder), before))
        if not job.links:
            stack.enter_context(without_links(job.stale_seconds))
        fill(Path(job.folder), acknowledge, shift=job.shift, order=job.order, writer=job.writer)
