"""What must another process know to work on the same extraction, does it see the same, and what did all of them do?"""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.data.registry import open_dataset
from featcache.data.views import Dataset, View
from featcache.encoders import EncodeOptions, EncoderSpec
from featcache.errors import UsageError, WeightsInvalid
from featcache.extraction.extract import EARLIER, Extracted, Failure
from featcache.extraction.job import Job, cached_name, plan_job
from featcache.storage.local import LocalFolder
from featcache.store.key import canonical
from featcache.store.rows import Rows, read_rows, write_rows


@dataclass(frozen=True)
class RemoteJob:
    """One extraction in values that pickle carries to another process; `remote_job` makes it.

    Args:
        dataset: The data set as it was asked for, such as "folder:birds".
        root: Its root, absolute, or None; the same path on every machine.
        view: View name.
        layers: Layers and poolings.
        spec: The encoder's entry.
        options: Its options.
        cache: Path or address of the cache; every process must reach it.
        rows: What the arrays bind of the rows.
        encoder: Hash of what they bind of the encoder.
        on_error: Whether a row that cannot be encoded stops the extraction.
        workers: Processes that decode; None leaves it to `extract`.
    """

    dataset: str
    root: Path | None
    view: str
    layers: tuple[str, ...]
    spec: EncoderSpec
    options: EncodeOptions
    cache: str
    rows: dict[str, Any]
    encoder: str
    on_error: Literal["stop", "skip"] = "stop"
    workers: int | None = None

    def on(self, device: str) -> "RemoteJob":
        """The same extraction on another device."""
        return replace(self, options=replace(self.options, device=device))


def remote_job(
    cache: Cache,
    job: Job,
    *,
    dataset: str,
    root: Path | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
) -> RemoteJob:
    """The remote that makes another process plan the same job; writes the row table that it will check itself by.

    Args:
        cache: The cache that the job was planned for.
        job: From `plan_job`.
        dataset: The data set as `open_dataset` was given it.
        root: Its root, as `open_dataset` was given it.
        on_error: As for `extract`.
        workers: As for `extract`.
    """
    write_rows(cache.folder / f"{job.dataset.name}/{job.view.name}", job.view, job.dataset.overlay)
    here = cache.folder
    return RemoteJob(
        dataset=dataset,
        root=root and root.expanduser().resolve(),
        view=job.view.name,
        layers=tuple(target.layer for target in job.targets),
        spec=job.spec,
        options=replace(job.options, weights=job.options.weights and job.options.weights.expanduser().resolve()),
        cache=str(here.path.resolve() if isinstance(here, LocalFolder) else here),
        rows=dict(job.targets[0].key.binds["rows"]),
        encoder=_hash(job.card.binds),
        on_error=on_error,
        workers=workers,
    )


def open_remote_job(remote: RemoteJob) -> tuple[Cache, Job]:
    """Plans a remote's job in this process.

    Content hashes of the rows come from the cache's row table, so that no process but the first reads every row; each
    row is checked against its hash when it is read.

    Raises:
        DataInvalid: If the data set has other rows here than where the remote was made.
        WeightsInvalid: If the encoder is another one here.
    """
    cache = Cache(remote.cache)
    dataset = _as_recorded(cache, open_dataset(remote.dataset, root=remote.root), remote)
    job = plan_job(cache, dataset, remote.spec, remote.options, view=remote.view, layers=remote.layers)
    if _hash(job.card.binds) != remote.encoder:
        raise WeightsInvalid(
            f"{job.card.name} on {platform.node()} is not the encoder that the extraction was started with: other "
            "weights, tokenizer or preprocessing. Put the same files on every machine, or name them with --weights"
        )
    return cache, job


def combined(job: Job, results: Iterable[Extracted], seconds: float) -> Extracted:
    """What several processes did together.

    Args:
        job: The job of all of them.
        results: What each did.
        seconds: How long all of it took.
    """
    rows, asked, complete, failed = 0, 0, False, dict[str, Failure]()
    for result in results:
        rows += result.rows
        asked += result.rows + result.reused
        complete = complete or result.complete
        for failure in result.failed:  # who completes the arrays lists the others' failures without their reasons
            if failure.why != EARLIER or failure.id not in failed:
                failed[failure.id] = failure
    names = tuple(target.layer for target in job.targets)
    name = cached_name(job.card, job.options)
    return Extracted(name, job.view.name, names, rows, asked - rows, seconds, complete, tuple(failed.values()))


def _hash(binds: Mapping[str, Any]) -> str:
    return blake3(canonical(binds)).hexdigest(length=16)


def _as_recorded(cache: Cache, dataset: Dataset, remote: RemoteJob) -> Dataset:
    """The data set with its view bound to the recorded content hashes."""
    found = dataset.views.get(remote.view)
    known = None
    if found is not None and len(found) == remote.rows["n"]:
        rows = read_rows(cache.folder / f"{dataset.name}/{remote.view}", remote.rows)
        known = _checked(found, rows)
    if known is None or known.root != remote.rows["root"]:
        raise DataInvalid(
            f"{remote.dataset} on {platform.node()} has other rows of {remote.view} than where the extraction was "
            f"started: {0 if found is None else len(found):,} here, {remote.rows['n']:,} there, or other ids or "
            f"groups. Put the same version on every machine{f', at {remote.root}' if remote.root else ''}"
        )
    return replace(dataset, views={**dataset.views, remote.view: known})


def _checked(view: View, rows: Rows) -> View:
    """The view with content hashes from the row table; a row whose bytes do not have its hash cannot be read."""

    def content(row: int) -> bytes:
        found = view.content(row)
        if blake3(found).hexdigest() != rows.hashes[row]:
            raise UsageError(  # not a DataError: --on-error skip must not take it for a bad row
                f"{view.name} row {view.ids[row]!r} on {platform.node()} has other bytes than where the extraction was "
                "started. Put the same version of the data on every machine"
            )
        return found

    known = replace(view, content=content)
    known.__dict__["hashes"] = tuple(rows.hashes)  # where cached_property keeps them: nothing is read to hash it
    return known
