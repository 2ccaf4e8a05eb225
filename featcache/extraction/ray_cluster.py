"""Extraction on a Ray cluster: one chunk a task, on actors that hold the model.

A chunk is committed by the worker that computed it, straight into the cache that all of them reach; the driver learns
only that it is done. A worker that is lost loses no more than the chunk in its hands, which another takes up.
"""

import os
import platform
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from featcache.cache import Cache
from featcache.data.errors import DataError
from featcache.encoders import load_encoder
from featcache.errors import ExtractionFailed, FeatcacheError, LibraryMissing, UsageError
from featcache.extraction.encode_pass import ProcessSettings
from featcache.extraction.extract import Extracted, compute, extract
from featcache.extraction.job import Job
from featcache.extraction.remote_job import RemoteJob, combined, open_remote_job
from featcache.store.leases import lease

_IN_FLIGHT = 2  # the next chunk waits at the actor, so that it need not wait for the driver
_LOSSES = 3


class Worker:
    """What runs in an actor: a job that is open and an encoder that is loaded.

    Errors of ours are returned, not raised: Ray would hand over its own kind of error.
    """

    def __init__(self, remote_job: RemoteJob, threads: int) -> None:
        self._remote_job, self._threads = remote_job, threads

    def open(self, create: bool) -> Any:
        """Loads everything; one worker also makes the arrays, so that they have one layout.

        Returns:
            Where it runs, or the error.
        """
        import torch

        try:
            torch.set_num_threads(self._threads)
            self._cache, self._job = open_remote_job(self._remote_job)
            self._encoder = load_encoder(self._job.entry, self._job.options, memo=self._cache.memo)
            if create:
                self._extract(lambda chunk: False)
        except (DataError, FeatcacheError) as error:
            return error
        return f"process {os.getpid()} on {platform.node()}"

    def compute(self, chunk: int) -> Any:
        """Computes and commits one chunk; returns the `Extracted`, or the error."""
        try:
            return self._extract(lambda number: number == chunk)
        except (DataError, FeatcacheError) as error:
            return error

    def _extract(self, chunks: Callable[[int], bool]) -> Extracted:
        # no worker processes: they would be started anew for every chunk
        rows = replace(self._remote_job.settings, workers=self._remote_job.settings.workers or 0)
        with lease(self._cache.folder, f"extract {self._job.card.name}"):  # the driver's says nothing of this machine
            return compute(self._cache, self._job, self._encoder, ProcessSettings(rows, chunks))


@dataclass
class _Driver:
    """Hands out chunks and takes up those of lost workers; reports a worker that comes or is lost by `on_line`."""

    ray: Any
    job: Job
    start: Callable[[], Any]
    on_rows: Callable[[int], None]
    on_line: Callable[[str], None]
    todo: deque[int] | None = None  # unknown before there is a layout
    flying: dict[Any, tuple[Any, int | None]] = field(default_factory=lambda: {})  # None: the actor is opening
    open: list[Any] = field(default_factory=lambda: [])
    losses: Counter[int | None] = field(default_factory=lambda: Counter())
    results: list[Extracted] = field(default_factory=lambda: [])

    def run(self, actors: int) -> None:
        for number in range(actors):
            self.add(create=number == 0)
        while self.todo is None or self.todo or any(chunk is not None for _, chunk in self.flying.values()):
            ready, _ = self.ray.wait(list(self.flying), num_returns=1)
            actor, _ = self.flying[ready[0]]
            try:
                self.take(actor, ready[0])
            except self.ray.exceptions.RayActorError as error:
                self.lose(actor, error)
            self.hand_out()

    def add(self, *, create: bool) -> None:
        """Starts a worker; it gets chunks once it is open."""
        actor = self.start()
        self.flying[actor.open.remote(create)] = (actor, None)

    def take(self, actor: Any, reference: Any) -> None:
        result = self.ray.get(reference)
        _, chunk = self.flying.pop(reference)
        if isinstance(result, Exception):
            raise result
        if chunk is None:
            self.open.append(actor)
            self.on_line(f"worker: {result}")
            if self.todo is None and all(target.array.layout() for target in self.job.targets):
                self.todo = deque(_missing(self.job))
        else:
            self.results.append(result)
            self.on_rows(result.rows)

    def lose(self, actor: Any, error: Exception) -> None:
        """Puts a lost worker's chunks back, and starts another one."""
        if actor in self.open:
            self.open.remove(actor)
        running: list[int | None] = []
        for reference in [reference for reference, (owner, _) in self.flying.items() if owner is actor]:
            try:
                self.take(actor, reference)  # finished before the worker was lost
            except self.ray.exceptions.RayActorError:
                running.append(self.flying.pop(reference)[1])
        culprit = running[0] if running else None
        self.losses[culprit] += 1
        what = "a worker that was starting" if culprit is None else f"the worker of chunk {culprit}"
        self.on_line(f"lost {what}: {str(error).strip().splitlines()[0]}")
        if self.losses[culprit] == _LOSSES:
            raise ExtractionFailed(
                f"{what} was lost {_LOSSES} times, the last time so:\n{error}\n"
                "  Where memory ran out, take fewer --actors. What was committed stays: run the same command again"
            )
        if self.todo is not None:
            self.todo.extendleft(chunk for chunk in reversed(running) if chunk is not None)
        self.add(create=self.todo is None)

    def hand_out(self) -> None:
        for actor in self.open:
            flying = sum(owner is actor for owner, _ in self.flying.values())
            while self.todo and flying < _IN_FLIGHT:
                chunk = self.todo.popleft()
                self.flying[actor.compute.remote(chunk)] = (actor, chunk)
                flying += 1


def run_on_ray(
    job: Job,
    remote_job: RemoteJob,
    *,
    actors: int | None = None,
    on_rows: Callable[[int], None] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Extracted:
    """Extracts on the cluster at $RAY_ADDRESS, or on this machine. Arguments as `run_job`.

    Without `actors` there is one a GPU, or one a machine where the device is a CPU.

    Raises:
        UsageError: If ray is not installed, or the cluster does not have the device.
        ExtractionFailed: If a chunk's worker was lost three times, or a worker's own error.
    """
    if job.done:
        return extract(Cache(remote_job.cache), job)
    if job.options.device not in ("cpu", "cuda"):
        raise UsageError(f"with Ray, which GPU a worker has is Ray's choice: --device cuda, not {job.options.device}")
    started = perf_counter()
    with connected_ray() as ray:
        count, threads = _sizes(ray, job, actors)
        options = {"num_cpus": threads, "num_gpus": int(job.options.device == "cuda"), "max_restarts": 0}
        kind, handles = ray.remote(**options)(Worker), list[Any]()

        def start() -> Any:
            handles.append(kind.remote(remote_job, threads))
            return handles[-1]

        driver = _Driver(
            ray, job, start, on_rows=on_rows or (lambda rows: None), on_line=on_line or (lambda line: None)
        )
        try:
            driver.run(count)
        finally:
            for handle in handles:
                ray.kill(handle)
    for target in job.targets:
        layout = target.array.layout()
        if layout is not None and not target.array.is_complete:
            target.array.finish(layout)
    done = combined(job, driver.results, perf_counter() - started)
    return replace(done, reused=len(job.view) - done.rows, complete=True)


@contextmanager
def connected_ray() -> Iterator[Any]:
    """Ray, connected to $RAY_ADDRESS or to this machine; what was started here is stopped again.

    Raises:
        LibraryMissing: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise LibraryMissing("--executor ray needs Ray. Run: pip install 'featcache[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unasked
    ray.init(address=address or "local", include_dashboard=None if address else False, log_to_driver=False)
    try:
        yield ray
    finally:
        ray.shutdown()


def machine_cores(ray: Any) -> list[int]:
    """CPU cores of each machine of the cluster that has some."""
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return [count for count in cores if count]


def _sizes(ray: Any, job: Job, actors: int | None) -> tuple[int, int]:
    """Workers, and CPU cores of each: the layout's threads where there is one."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores, gpus = ([int(machine.get(kind, 0)) for machine in machines] for kind in ("CPU", "GPU"))
    on_gpu = job.options.device == "cuda"
    if on_gpu and not sum(gpus):
        raise UsageError("the Ray cluster has no GPU; take --device cpu, or add a machine that has one")
    count = actors or (sum(gpus) if on_gpu else max(1, sum(core > 0 for core in cores)))
    layouts = [layout for target in job.targets if (layout := target.array.layout()) is not None]
    threads = layouts[0].threads if layouts else sum(cores) // count
    return count, max(1, min(threads, *cores))


def _missing(job: Job) -> list[int]:
    """Chunks that some array lacks."""
    missing: set[int] = set()
    for target in job.targets:
        layout = target.array.layout()
        assert layout is not None  # the worker that opened first made it
        missing |= set(range(layout.chunks)) - target.array.committed()
    return sorted(missing)
