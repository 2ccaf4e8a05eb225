"""Several devices of one machine: a child process a device, each with its shard of an extraction."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from time import perf_counter
from typing import Any

from featcache.cache import Cache
from featcache.data.errors import DataError
from featcache.encoders import load_encoder
from featcache.errors import ExtractionFailed, FeatcacheError, UsageError
from featcache.extraction.extract import Extracted, extract
from featcache.extraction.interrupts import INTERRUPTIONS, TERMINATED, kept_rows, note_kept, terminable
from featcache.extraction.job import Job
from featcache.extraction.remote_job import RemoteJob, combined, open_remote_job
from featcache.extraction.shards import WHOLE, Shard

_PATIENCE = 5.0  # seconds that a child has to end by itself once nobody listens any more


def parse_devices(text: str) -> tuple[str, ...]:
    """The devices that "cuda:0,cuda:1" names; UsageError if a name is empty, or a GPU is named twice.

    Example:
        >>> parse_devices("cuda:0,cuda:1")
        ('cuda:0', 'cuda:1')
    """
    names = tuple(name.strip() for name in text.split(","))
    twice = sorted({name for name in names if name != "cpu" and names.count(name) > 1})
    if not all(names) or twice:
        raise UsageError(f"--device {text!r}: {f'{twice[0]} twice' if twice else 'a name is empty'}; try cuda:0,cuda:1")
    return names


@dataclass(frozen=True)
class ChildTask:
    """What one child process is given."""

    remote_job: RemoteJob  # on the child's device
    shard: Shard  # its share of the chunks
    first: bool  # it makes the arrays and thereby their layout; the others wait, so that there is one layout
    on_cpu: int  # children that compute on the same CPU and divide its threads, itself included


def run_on_devices(
    job: Job,
    remote_job: RemoteJob,
    devices: Sequence[str],
    *,
    shard: Shard = WHOLE,
    on_rows: Callable[[int], None] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Extracted:
    """Extracts on several devices of this machine at once, a child each; the children divide this machine's shard.

    The children end with this process, however it ends; what they committed stays, and each keeps the encoded rows of
    its chunk in work, as `extract` does. Arguments as `run_job`.

    Raises:
        FeatcacheError, DataError: The first child's that failed, its device in front; the others are stopped.
    """
    if job.done:
        return extract(Cache(remote_job.cache), job)
    names = [f"{device} #{number}" if devices.count(device) > 1 else device for number, device in enumerate(devices)]
    on_cpu = sum(device == "cpu" for device in devices)
    tasks = [
        ChildTask(
            remote_job=remote_job.on(device),
            shard=shard.part(number, len(devices)),
            first=number == 0,
            on_cpu=on_cpu if device == "cpu" else 1,
        )
        for number, device in enumerate(devices)
    ]
    started, events = perf_counter(), Queue[tuple[int, str, Any]]()
    try:
        with _children(tasks, events) as children:
            results = _results(children, events, names, on_rows or (lambda rows: None), on_line or (lambda line: None))
    except INTERRUPTIONS as interruption:
        while not events.empty():
            _, kind, value = events.get()
            if kind == "kept":
                note_kept(interruption, value)
        raise
    return combined(job, results, perf_counter() - started)


def _results(
    children: "list[subprocess.Popen[bytes]]",
    events: "Queue[tuple[int, str, Any]]",
    names: Sequence[str],
    on_rows: Callable[[int], None],
    on_line: Callable[[str], None],
) -> list[Extracted]:
    """Follows the children to the end of the last; raises the error of the first to fail."""
    results: dict[int, Extracted] = {}
    ready, planned, last = list[int](), False, dict[int, str]()
    while len(results) < len(children):
        number, kind, value = events.get()
        if kind == "rows":
            on_rows(value)
        elif kind == "line":
            last[number] = value
            on_line(f"{names[number]} | {value}")
        elif kind == "done":
            results[number] = value
        elif kind == "failed":
            raise type(value)(f"{names[number]}: {value}")
        elif kind == "ended" and number not in results:
            raise _lost(names[number], value, last.get(number, "nothing"))
        elif kind in ("ready", "planned"):
            planned = planned or kind == "planned"
            ready += [number] if kind == "ready" else []
            while planned and ready:
                _write(children[ready.pop()], b"g")
    return list(results.values())


def _lost(name: str, code: int, line: str) -> ExtractionFailed:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return ExtractionFailed(
        f"the process on {name} {how}. What was committed stays: run the same command again\n  It said last: {line}"
    )


# -- the parent's side ------------------------------------------------------------------------------------------------


@contextmanager
def _children(
    tasks: Sequence[ChildTask], events: "Queue[tuple[int, str, Any]]"
) -> "Iterator[list[subprocess.Popen[bytes]]]":
    """Starts the children and the threads that listen to them; on leaving, none of them is left."""
    children: list[subprocess.Popen[bytes]] = []
    listeners: list[Thread] = []
    try:
        for number, task in enumerate(tasks):
            child = subprocess.Popen(
                # -P: what lies in the user's folder is no module
                [sys.executable, "-P", "-m", "featcache.extraction.multi_device"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the parent, which then ends them
            )
            children.append(child)
            listeners.append(Thread(target=_relay, args=(child, number, events), daemon=True))
            listeners[-1].start()
            _write(child, pickle.dumps(task))
        yield children
    finally:
        for child in children:
            _close(child)
        for child in children:
            _end(child)
        for listener in listeners:
            listener.join(_PATIENCE)
        for child in children:
            for stream in (child.stdout, child.stderr):
                if stream is not None:
                    stream.close()


def _write(child: "subprocess.Popen[bytes]", message: bytes) -> None:
    try:
        if child.stdin is not None:
            child.stdin.write(message)
            child.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended, and its listener says how


def _close(child: "subprocess.Popen[bytes]") -> None:
    """Closes a child's stdin, upon which it ends."""
    try:
        if child.stdin is not None:
            child.stdin.close()
    except BrokenPipeError:
        pass


def _end(child: "subprocess.Popen[bytes]") -> None:
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _relay(child: "subprocess.Popen[bytes]", number: int, events: "Queue[tuple[int, str, Any]]") -> None:
    """Puts what a child sends and prints into the queue, and at last how it ended."""
    assert child.stdout is not None
    echo = Thread(target=_echo, args=(child, number, events), daemon=True)
    echo.start()
    while True:
        try:
            kind, value = pickle.load(child.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # cut off in the middle of a message
            break
        events.put((number, kind, value))
    code = child.wait()
    echo.join(_PATIENCE)
    events.put((number, "ended", code))


def _echo(child: "subprocess.Popen[bytes]", number: int, events: "Queue[tuple[int, str, Any]]") -> None:
    assert child.stderr is not None
    for line in child.stderr:
        events.put((number, "line", line.decode(errors="replace").rstrip()))


# -- the child's side -------------------------------------------------------------------------------------------------


def _child() -> int:
    """Reads its task from stdin, sends on stdout what it does, and ends when its parent does."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not for the parent to parse

    def send(kind: str, value: Any = None) -> None:
        pickle.dump((kind, value), output)
        output.flush()

    task: ChildTask = pickle.load(sys.stdin.buffer)
    go = Event()
    Thread(target=_listen, args=(go,), daemon=True).start()
    try:
        with terminable():
            send("done", _work(task, send, go))
    except (DataError, FeatcacheError) as error:
        send("failed", error)
        return 1
    except INTERRUPTIONS as interruption:
        with suppress(BrokenPipeError):  # the parent may have been killed
            send("kept", kept_rows(interruption))
        return TERMINATED
    return 0


def _work(task: ChildTask, send: Callable[..., None], go: Event) -> Extracted:
    import torch

    remote_job = task.remote_job
    cache, job = open_remote_job(remote_job)
    encoder = load_encoder(job.entry, job.options, memo=cache.memo)
    torch.set_num_threads(max(1, torch.get_num_threads() // task.on_cpu))
    if task.first:
        extract(cache, job, encoder=encoder, chunks=lambda chunk: False)
        send("planned")
    else:
        send("ready")
        go.wait()
    return extract(
        cache,
        job,
        encoder=encoder,
        on_rows=lambda rows: send("rows", rows),
        settings=remote_job.settings,
        chunks=task.shard.mine,
    )


def _listen(go: Event) -> None:
    """Sets `go` at the parent's first word; ends this process when the parent is gone or wants no more of it."""
    while os.read(0, 1):
        go.set()
    os.kill(os.getpid(), signal.SIGTERM)  # keeps the rows in work
    time.sleep(_PATIENCE / 2)
    os._exit(1)  # in the middle of whatever: a chunk is committed whole or not at all


if __name__ == "__main__":
    sys.exit(_child())
