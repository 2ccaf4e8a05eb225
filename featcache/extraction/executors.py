"""Executors of an extraction: this process, one process a device, or a Ray cluster; and this machine's share."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from featcache.cache import Cache
from featcache.data.open import DatasetSource
from featcache.errors import UsageError
from featcache.extraction.extract import Extracted, extract
from featcache.extraction.failed_rows import OnError, RowSettings
from featcache.extraction.job import Job
from featcache.extraction.multi_device import parse_devices, run_on_devices
from featcache.extraction.remote_job import make_remote_job
from featcache.extraction.shards import WHOLE, Shard, from_environment, local_device, parse_shard
from featcache.store.leases import lease

Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class Execution:
    """How an extraction is run; bound in no digest."""

    devices: tuple[str, ...] = ("cpu",)  # of torch, one process each
    shard: Shard = WHOLE  # this machine's share of the chunks
    executor: Executor = "local"
    actors: int | None = None  # workers of Ray; None to choose
    rows: RowSettings = RowSettings()
    notes: tuple[str, ...] = ()  # what was taken from the environment, to be printed


def choose_execution(
    device: str = "cpu",
    *,
    shard: str | None = None,
    executor: Executor = "local",
    actors: int | None = None,
    workers: int | None = None,
    on_error: OnError = "stop",
    env: Mapping[str, str] = os.environ,
) -> Execution:
    """The execution that the options of `featcache extract` and the environment ask for.

    Without `shard` ("i/n") a launcher's environment (torchrun, srun, a SLURM job array) decides, if there is one.

    Raises:
        UsageError: If the options contradict each other, or the environment itself.
    """
    devices, rows = parse_devices(device), RowSettings(on_error, workers)
    if executor == "ray":
        if shard is not None or len(devices) > 1:
            raise UsageError("--executor ray hands out the chunks itself: leave out --shard, and name one --device")
        return Execution(devices, executor=executor, actors=actors, rows=rows)
    if actors is not None:
        raise UsageError("--actors belongs to --executor ray")
    named = (parse_shard(shard), "--shard") if shard is not None else from_environment(env)
    share, source = named or (WHOLE, "")
    notes = [f"shard {share} of the chunks ({source})"] if source else []
    if devices == ("cuda",):
        import torch

        own = local_device("cuda", env, torch.cuda.device_count())
        if own is not None:
            devices = (own[0],)
            notes.append(f"device {own[0]} ({own[1]})")
    return Execution(devices, share, rows=rows, notes=tuple(notes))


def run_job(
    cache: Cache,
    job: Job,
    execution: Execution,
    *,
    source: DatasetSource,
    on_rows: Callable[[int], None] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Extracted:
    """Extracts on the executor chosen.

    Args:
        cache: The cache that the job was planned for.
        job: From `plan_job`.
        execution: From `choose_execution`.
        source: What the data set was opened from, for other processes to open.
        on_rows: Called with the number of rows that were encoded since the last call: after every batch, on Ray after
            every chunk.
        on_line: Called with every line that another process prints, and when a worker of Ray comes or is lost.

    Raises:
        UsageError: If a device is not there.
        FeatcacheError: As `extract`, `run_on_devices` and `run_on_ray`.
    """
    from featcache.devices import check_device

    if execution.executor == "local" and not job.done:
        for device in execution.devices:
            check_device(device)  # before anything is written
    alone = execution.executor == "local" and len(execution.devices) == 1
    if alone or job.done:
        chunks = None if execution.shard == WHOLE else execution.shard.mine
        return extract(cache, job, on_rows=on_rows, settings=execution.rows, chunks=chunks)
    with lease(cache.folder, f"extract {job.card.name}"):
        remote_job = make_remote_job(cache, job, source=source, settings=execution.rows)
        if execution.executor == "ray":
            from featcache.extraction.ray_cluster import run_on_ray

            return run_on_ray(job, remote_job, actors=execution.actors, on_rows=on_rows, on_line=on_line)
        return run_on_devices(
            job, remote_job, execution.devices, shard=execution.shard, on_rows=on_rows, on_line=on_line
        )
