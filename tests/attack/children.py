"""Children of this process, which has imported everything: the real command runs in them, measured and killed."""

import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attack.steps import Steps

Task = Sequence[str] | Callable[[], Any]  # words behind "featcache", or a function of this process

PRELOADED = (
    "altair",
    "featcache.commands.app",
    "featcache.derived.graphs",
    "featcache.encoders.load",
    "featcache.extraction.extract",
    "featcache.interchange.exporting",
    "featcache.interchange.importing",
    "featcache.maintenance.doctor",
    "featcache.maintenance.gc",
    "featcache.maintenance.repair",
    "featcache.maintenance.verify",
    "featcache.metrics.measure",
    "featcache.report.page.write",
    "featcache.sharing.transfer",
    "featcache.store.zarr_reader",
    "featcache.studies.adapters.embed",
    "featcache.studies.adapters.train",
    "featcache.studies.alignment.align",
    "h5py",
    "huggingface_hub",
    "obstore",
    "polars",
    "safetensors.torch",
    "scipy.stats",
    "torch",
    "transformers.models.dinov2.modeling_dinov2",
    "transformers.models.gpt2.modeling_gpt2",
    "vl_convert",
)


def preload() -> None:
    """Imports what the commands import, and only that: a child of a process whose libraries run threads would hang."""
    from importlib import import_module

    for name in PRELOADED:
        import_module(name)


@dataclass(frozen=True)
class Ended:
    """How one task ended.

    Args:
        exit: Exit code, or minus the signal.
        memory: Bytes of its peak above what the process held at the beginning.
        hung: It did not end in its time, and was killed.
        killed: It was killed as the attack wanted it.
        value: What a function returned.
    """

    task: Task
    exit: int
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    memory: int = 0
    steps: int = 0
    hung: bool = False
    killed: bool = False
    value: Any = None

    @property
    def what(self) -> str:
        """The command as it is typed, or the function's name."""
        if callable(self.task):
            return getattr(self.task, "__name__", None) or self.task.func.__name__  # type: ignore[attr-defined]
        return " ".join(["featcache", *self.task])


@dataclass(frozen=True)
class Limits:
    """What a child may take, and where it is killed.

    Args:
        seconds: Of one task.
        memory: Address space beyond what the process has at the beginning; None for any.
        kill_step: Killed before this step (see `steps.Steps`); 0 for never.
        kill_after: Killed so many seconds after its beginning; None for never.
        root: What the steps are counted below; None counts nothing.
    """

    seconds: float = 120.0
    memory: int | None = None
    kill_step: int = 0
    kill_after: float | None = None
    root: Path | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a child sets up before its first task: variables of the environment, and a function."""

    variables: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None


UNLIMITED, AS_IT_IS = Limits(), Surroundings()


def run(task: Task, limits: Limits = UNLIMITED, around: Surroundings = AS_IT_IS) -> Ended:
    """Runs one task in a child of its own."""
    return run_all([task], limits, around)[0]


def run_all(tasks: Sequence[Task], limits: Limits = UNLIMITED, around: Surroundings = AS_IT_IS) -> list[Ended]:
    """Runs tasks one after the other, in one child as long as it lives; one that died with a task is replaced."""
    ended: list[Ended] = []
    while len(ended) < len(tasks):
        ended += _one_child(tasks[len(ended) :], limits, around)
    return ended


def _one_child(tasks: Sequence[Task], limits: Limits, around: Surroundings) -> list[Ended]:
    files = [(os.memfd_create("out"), os.memfd_create("err")) for _ in tasks]
    report, mouth = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        os.close(report)
        _child(tasks, files, mouth, limits, around)
    os.close(mouth)
    try:
        return _attend(tasks, files, report, pid, limits)
    finally:
        os.close(report)
        for descriptor in (descriptor for pair in files for descriptor in pair):
            os.close(descriptor)


def _attend(tasks: Sequence[Task], files: list[tuple[int, int]], report: int, pid: int, limits: Limits) -> list[Ended]:
    """Reads a child's reports, ends it where it is to be killed or hangs, and waits for its end."""
    ended: list[Ended] = []
    allowed = limits.seconds if limits.kill_after is None else min(limits.seconds, limits.kill_after)
    hung = wanted = False
    for task, (out, err) in zip(tasks, files, strict=True):
        began = time.monotonic()
        if not hung and not select.select([report], [], [], allowed)[0]:
            hung, wanted = allowed == limits.seconds, allowed != limits.seconds
            os.kill(pid, signal.SIGKILL)
        size = b"" if hung or wanted else _exactly(report, 8)
        said = {"out": _text(out), "err": _text(err), "seconds": time.monotonic() - began}
        if len(size) < 8:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            killed = wanted or (limits.kill_step > 0 and status == -signal.SIGKILL)
            return [*ended, Ended(task, status, hung=hung, killed=killed, **said)]
        values = pickle.loads(_exactly(report, int.from_bytes(size, "little")))
        ended.append(Ended(task, **values, **said))
    os.waitpid(pid, 0)
    return ended


def _exactly(descriptor: int, size: int) -> bytes:
    content = b""
    while len(content) < size and (part := os.read(descriptor, size - len(content))):
        content += part
    return content


def _text(descriptor: int) -> str:
    size = min(os.fstat(descriptor).st_size, 10**7)
    return os.pread(descriptor, size, 0).decode(errors="replace")


def _child(
    tasks: Sequence[Task], files: list[tuple[int, int]], mouth: int, limits: Limits, around: Surroundings
) -> None:
    """Never returns."""
    try:
        os.environ.update(around.variables)
        around.prepare()
        steps = Steps(limits.root or Path("/nowhere"), limits.kill_step)
        if limits.root is not None:
            steps.watch()
        if limits.memory is not None:
            most = _status("VmSize") + limits.memory
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for task, (out, err) in zip(tasks, files, strict=True):
            os.dup2(out, 1)
            os.dup2(err, 2)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", errors="replace") for number in (1, 2))
            before = _status("VmRSS")
            code, value = _do(task)
            sys.stdout.flush()
            sys.stderr.flush()
            memory = max(0, _status("VmHWM") - before)
            content = pickle.dumps({"exit": code, "value": value, "memory": memory, "steps": steps.count})
            os.write(mouth, len(content).to_bytes(8, "little"))
            for start in range(0, len(content), 1 << 16):
                os.write(mouth, content[start : start + (1 << 16)])
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    os._exit(0)


def _do(task: Task) -> tuple[int, Any]:
    """Runs a task as Python would run it as its program: an exception that nobody catches is a traceback and 1."""
    try:
        if callable(task):
            return 0, task()
        from featcache.commands.app import main

        sys.argv = ["featcache", *task]
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None), None
    except BaseException:
        traceback.print_exc()
        return 1, None
    return 0, None


def _status(name: str) -> int:
    """A figure of /proc/self/status in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))
