"""Trainings over processes: each takes the next one, one that dies fails its training alone, and none outlives us."""

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from featcache.cache import open_cache
from featcache.studies.experiments.plan import Outcome, Training

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_SECONDS_TO_END = 10.0

OnDone = Callable[[Training, Outcome, int, int], None]  # a training, what came of it, ended so far, of how many


@dataclass(frozen=True)
class Resources:
    """Where a sweep reads and writes, and what it may use.

    Args:
        cache: Place of the cache; None for the default.
        out: The folder of the study.
        processes: Trainings at a time; 0 trains in this process.
        threads: Threads of each process.
    """

    cache: str | None
    out: Path
    processes: int = 1
    threads: int = 1


def default_processes() -> int:
    """One a core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(trainings: Sequence[Training], resources: Resources, on_done: OnDone | None = None) -> list[Outcome]:
    """Runs trainings of different folders, whichever way they end; what is there already is opened and not computed.

    Args:
        trainings: Handed out in this order.
        resources: Cache, folder, processes and threads.
        on_done: Called in this process with each that has ended.

    Returns:
        What came of each, in the order given.
    """
    done = on_done or (lambda training, outcome, ended, total: None)
    if resources.processes == 0:
        return _run_here(trainings, resources, done)
    outcomes: dict[int, Outcome] = {}
    with _Workers(resources) as workers:
        waiting = deque(range(len(trainings)))
        while waiting or workers.busy:
            while waiting and len(workers.busy) < resources.processes:
                number = waiting.popleft()
                workers.give(number, trainings[number])
            for number, outcome in workers.ended():
                outcomes[number] = outcome or Outcome(trainings[number].folder, True, error=workers.last_words)
                done(trainings[number], outcomes[number], len(outcomes), len(trainings))
    return [outcomes[number] for number in range(len(trainings))]


def _run_here(trainings: Sequence[Training], resources: Resources, done: OnDone) -> list[Outcome]:
    import torch
    from threadpoolctl import threadpool_limits

    from featcache.studies.experiments.work import Worker

    worker, outcomes, threads = Worker(open_cache(resources.cache), resources.out), [], torch.get_num_threads()
    with threadpool_limits(resources.threads):
        torch.set_num_threads(resources.threads)
        try:
            for training in trainings:
                outcomes.append(worker.run(training))
                done(training, outcomes[-1], len(outcomes), len(trainings))
        finally:
            torch.set_num_threads(threads)
    return outcomes


class _Workers:
    """Processes that train, each on one training at a time; all are ended with the block."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.busy: dict[Connection, tuple[BaseProcess, int]] = {}
        self.idle: list[tuple[Connection, BaseProcess]] = []
        self.last_words = ""

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        processes = [process for process, _ in self.busy.values()]
        for process in processes:
            process.terminate()  # it takes its unfinished folder along
        for connection, process in self.idle:
            connection.close()  # at which it ends
            processes.append(process)
        for process in processes:
            process.join(_SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()

    def give(self, number: int, training: Training) -> None:
        """Hands a training to an idle process, or to a new one."""
        connection, process = self.idle.pop() if self.idle else self._started()
        self.busy[connection] = process, number
        try:
            connection.send(training)
        except OSError:
            pass  # it has died: `ended` sees that

    def ended(self) -> Iterator[tuple[int, Outcome | None]]:
        """Waits for trainings to end; of one whose process died there is no outcome, and `last_words` says how."""
        for connection in wait([*self.busy]):
            if not isinstance(connection, Connection):
                continue
            process, number = self.busy.pop(connection)
            try:
                outcome: Outcome | None = connection.recv()
                self.idle.append((connection, process))
            except (EOFError, OSError):
                process.join()
                outcome, self.last_words = None, f"its process ended with code {process.exitcode}"
            yield number, outcome

    def _started(self) -> tuple[Connection, BaseProcess]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.resources))
        with child_environment(dict.fromkeys(THREADS, str(self.resources.threads))):
            process.start()
        theirs.close()
        return ours, process


@contextmanager
def child_environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that a process which is started inside the block inherits: libraries read them once, on loading."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, resources: Resources) -> None:
    """What a process does: the trainings that it is sent, until the one that started it hangs up or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the first process ends us
    signal.signal(signal.SIGTERM, _end)
    inbox: queue.SimpleQueue[Training] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    import torch

    from featcache.studies.experiments.work import Worker

    torch.set_num_threads(resources.threads)
    worker = Worker(open_cache(resources.cache), resources.out)
    while True:
        connection.send(worker.run(inbox.get()))


def _receive(connection: Connection, inbox: "queue.SimpleQueue[Training]") -> None:
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # in the middle of a training, too: whoever is to have its result is gone


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
