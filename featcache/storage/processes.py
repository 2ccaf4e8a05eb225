"""Processes by host, number and start, and whether one still runs."""

import os
import socket
import subprocess
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

PROC = Path("/proc")

Fate = Literal["runs", "ended", "restarted", "numbered", "elsewhere"]


@dataclass(frozen=True)
class Process:
    """What tells a process from any other; "" or 0 where its system, or featcache 0.1, did not say."""

    host: str
    number: int  # on the host
    namespace: str  # of process numbers: a container may have its host's name
    boot: str = ""  # of the host's system: numbers and starts count anew after the next
    started: str = ""  # in the system's own words, which no change of the clock alters

    def to_json(self) -> dict[str, Any]:
        """For a file that says whose it is; featcache 0.1 reads `host`, `process` and `namespace`."""
        values = asdict(self)
        return {"process": values.pop("number"), **values}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Process":
        """The inverse of `to_json`; ValueError if a field is of another kind."""
        host, number, namespace = value.get("host"), value.get("process"), value.get("namespace", "")
        boot, started = value.get("boot", ""), value.get("started", "")
        texts = (host, namespace, boot, started)
        if not all(isinstance(text, str) and len(text) < 300 for text in texts) or type(number) is not int:
            raise ValueError(f"process {number!r} of {texts!r}")
        return cls(str(host), number, namespace, boot, started)


def this_process() -> Process:
    """The process that calls."""
    number = os.getpid()
    return Process(socket.gethostname(), number, _namespace(), _boot(), _start(number))


def fate(process: Process) -> Fate:
    """What has become of a process.

    Returns:
        "runs" (perhaps stopped or asleep); "ended"; "restarted": the host's system began anew since, unless another
        machine bears its name; "numbered": there is a process of that number, and no start by which to tell whether
        it is the same; "elsewhere": on another host or in another container, where it cannot be seen.
    """
    same_boot = bool(process.boot) and process.boot == _boot()
    # a host may be renamed, as laptops are by the network that they join; the boot tells that it is the same
    if process.namespace != _namespace() or not (same_boot or process.host == socket.gethostname()):
        return "elsewhere"
    if process.boot and _boot() and not same_boot:
        return "restarted"
    if not _exists(process.number):
        return "ended"
    if not process.started:
        return "numbered"
    started = _start(process.number)
    return "runs" if started in ("", process.started) else "ended"


def process_mark(process: Process) -> str:
    """A process in the name of a file that it writes: letters, digits and dashes, 8-8-number-8."""
    where, boot, start = (
        blake3("\0".join(parts).encode()).hexdigest(length=4)
        for parts in ((process.host, process.namespace), (process.boot,), (process.started,))
    )
    return f"{where}-{boot}-{process.number}-{start}"


def is_over(mark: str) -> bool:
    """Whether the process of a `process_mark` ended; False where that cannot be seen, on another host or container."""
    where, boot, digits, _ = mark.split("-")
    number = int(digits)
    there = replace(this_process(), number=number, started=_start(number))  # who has its number here and now
    where_now, boot_now, *_ = process_mark(there).split("-")
    if where != where_now:
        return False
    return boot != boot_now or not _exists(number) or process_mark(there) != mark


def _exists(number: int) -> bool:
    """Whether a process has the number; one that ended and was not waited for does nothing any more."""
    if number <= 0:
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _stat(number)[:1] not in (["Z"], ["X"])


def _stat(number: int) -> list[str]:
    """The fields of Linux's /proc/<number>/stat from the third on; none where they cannot be read."""
    try:
        # the second field is the program's name, which may hold blanks and brackets
        return (PROC / str(number) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _start(number: int) -> str:
    """When a process began; "" where the system does not say."""
    if PROC.is_dir():
        fields = _stat(number)
        return fields[19] if len(fields) > 19 else ""
    try:  # macOS
        command = ["ps", "-o", "lstart=", "-p", str(number)]
        env = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
        return " ".join(subprocess.run(command, env=env, capture_output=True, text=True, timeout=10).stdout.split())
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _namespace() -> str:
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return ""
