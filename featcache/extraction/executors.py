"""Who carries an extraction out: this process, one a device, or a Ray cluster; and which share of it?"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.extraction.extract import Extracted, extract
from featcache.extraction.job import Job
from featcache.extraction.multi_device import parse_devices, run_on_devices
from featcache.extraction.remote_job import remote_job
from featcache.extraction.shards import WHOLE, Shard, from_environment, local_device, parse_shard
from featcache.store.leases import lease

OnError = Literal["stop", "skip"]
Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class Execution:
    """How an extraction is carried out; none of it changes what the digest binds.

    Args:
        devices: Torch devices, one process each.
        shard: This machine's share of the chunks.
        executor: "local", or "ray".
        actors: Workers of Ray; None to choose.
        workers: Processes that decode; None to choose.
        on_error: Whether a row that cannot be encoded stops the extraction or is skipped.
        notes: What was taken from the environment, to be printed.
    """

    devices: tuple[str, ...] = ("cpu",)
    shard: Shard = WHOLE
    executor: Executor = "local"
    actors: int | None = None
    workers: int | None = None
    on_error: OnError = "stop"
    notes: tuple[str, ...] = ()


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
    """The execution that options and environment ask for.

    Args:
        device: Torch devices with commas between.
        shard: "i/n"; None takes it from a launcher's environment (torchrun, srun, a SLURM job array), if there is one.
        executor: "local", or "ray".
        actors: Workers of Ray.
        workers: Processes that decode.
        on_error: Whether a row that cannot be encoded stops the extraction.
        env: The environment.

    Raises:
        UsageError: If the options contradict each other, or the environment itself.
    """
    devices = parse_devices(device)
    if executor == "ray":
        if shard is not None or len(devices) > 1:
            raise UsageError("--executor ray hands out the chunks itself: leave out --shard, and name one --device")
        return Execution(devices, WHOLE, executor, actors, workers, on_error)
    if actors is not None:
        raise UsageError("--actors belongs to --executor ray")
    found = (parse_shard(shard), "--shard") if shard is not None else from_environment(env)
    notes: list[str] = []
    if found is not None:
        notes.append(f"shard {found[0]} of the chunks ({found[1]})")
    if devices == ("cuda",):
        import torch

        own = local_device("cuda", env, torch.cuda.device_count())
        if own is not None:
            devices = (own[0],)
            notes.append(f"device {own[0]} ({own[1]})")
    return Execution(devices, found[0] if found else WHOLE, executor, None, workers, on_error, tuple(notes))


def run_job(
    cache: Cache,
    job: Job,
    execution: Execution,
    *,
    dataset: str,
    root: Path | None,
    on_rows: Callable[[int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Extracted:
    """Extracts in the execution chosen.

    Args:
        cache: The cache that the job was planned for.
        job: From `plan_job`.
        execution: From `choose_execution`.
        dataset: The data set as `open_dataset` was given it, for other processes to open.
        root: Its root, likewise.
        on_rows: Called with the number of rows that became durable since the last call.
        say: Called with lines that other processes have to say.

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
        return extract(
            cache, job, on_rows=on_rows, on_error=execution.on_error, workers=execution.workers, chunks=chunks
        )
    with lease(cache.folder, f"extract {job.card.name}"):
        remote = remote_job(
            cache, job, dataset=dataset, root=root, on_error=execution.on_error, workers=execution.workers
        )
        if execution.executor == "ray":
            from featcache.extraction.ray_cluster import run_on_ray

            return run_on_ray(job, remote, actors=execution.actors, on_rows=on_rows, say=say)
        return run_on_devices(job, remote, execution.devices, shard=execution.shard, on_rows=on_rows, say=say)
