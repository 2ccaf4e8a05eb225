"""Remote jobs: an extraction as values that another process plans it from, and the sum of what all of them did."""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from blake3 import blake3

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.data.open import DatasetSource
from featcache.data.views import Dataset, View
from featcache.encoders import EncodeOptions, EncoderSpec
from featcache.errors import UsageError, WeightsInvalid
from featcache.extraction.extract import Extracted, result_of
from featcache.extraction.failed_rows import EARLIER, Failure, RowSettings
from featcache.extraction.job import Job, plan_job
from featcache.storage.local import LocalFolder
from featcache.store.digest import canonical
from featcache.store.rows import Rows, read_rows, write_rows


@dataclass(frozen=True)
class RemoteJob:
    """One extraction in values that pickle carries to another process; `make_remote_job` makes it."""

    source: DatasetSource  # its root absolute: the same path on every machine
    view: str
    layers: tuple[str, ...]  # and poolings
    spec: EncoderSpec
    options: EncodeOptions
    cache: str  # path or address; every process must reach it
    rows: dict[str, Any]  # what the arrays bind of the rows
    encoder: str  # hash of what they bind of the encoder
    settings: RowSettings

    def on(self, device: str) -> "RemoteJob":
        """The same extraction on another device."""
        return replace(self, options=replace(self.options, device=device))


def make_remote_job(
    cache: Cache,
    job: Job,
    *,
    source: DatasetSource,
    settings: RowSettings | None = None,
) -> RemoteJob:
    """What makes another process plan the same job; writes the row table by which it checks its rows.

    Arguments as `run_job`, `settings` as `extract`.
    """
    write_rows(cache.folder / f"{job.dataset.name}/{job.view.name}", job.view, job.dataset.overlay)
    here = cache.folder
    return RemoteJob(
        source=source.absolute(),
        view=job.view.name,
        layers=tuple(target.layer for target in job.targets),
        spec=job.entry,
        options=replace(job.options, weights=job.options.weights and job.options.weights.expanduser().resolve()),
        cache=str(here.path.resolve() if isinstance(here, LocalFolder) else here),
        rows=dict(job.targets[0].key.binds["rows"]),
        encoder=_hash(job.card.binds),
        settings=settings or RowSettings(),
    )


def open_remote_job(remote_job: RemoteJob) -> tuple[Cache, Job]:
    """Plans a remote job in this process.

    Content hashes of the rows come from the cache's row table, so that no process but the first reads every row; each
    row is checked against its hash when it is read.

    Raises:
        DataInvalid: If the data set has other rows here than where the remote job was made.
        WeightsInvalid: If the encoder is another one here.
    """
    cache = Cache(remote_job.cache)
    dataset = _as_recorded(cache, remote_job.source.open(), remote_job)
    job = plan_job(cache, dataset, remote_job.spec, remote_job.options, view=remote_job.view, layers=remote_job.layers)
    if _hash(job.card.binds) != remote_job.encoder:
        raise WeightsInvalid(
            f"{job.card.name} on {platform.node()} is not the encoder that the extraction was started with: other "
            "weights, tokenizer or preprocessing. Put the same files on every machine, or name them with --weights"
        )
    return cache, job


def combined(job: Job, results: Iterable[Extracted], seconds: float) -> Extracted:
    """What several processes did of a job together, and in how many seconds."""
    results, failed = list(results), dict[str, Failure]()
    sources = dict.fromkeys(source for result in results for source in result.sources)
    notes = dict.fromkeys(note for result in results for note in result.notes)
    for failure in (failure for result in results for failure in result.failed):
        # who completes the arrays lists the others' failures without their reasons
        if failure.why != EARLIER or failure.id not in failed:
            failed[failure.id] = failure
    result = result_of(
        job,
        rows=sum(result.rows for result in results),
        reused=sum(result.reused for result in results),
        seconds=seconds,
        complete=any(result.complete for result in results),
        failed=failed.values(),
    )
    copied = sum(result.copied for result in results)
    return replace(result, copied=copied, sources=tuple(sources), notes=tuple(notes))


def _hash(binds: Mapping[str, Any]) -> str:
    return blake3(canonical(binds)).hexdigest(length=16)


def _as_recorded(cache: Cache, dataset: Dataset, job: RemoteJob) -> Dataset:
    """The data set with its view bound to the recorded content hashes."""
    view = dataset.views.get(job.view)
    known = None
    if view is not None and len(view) == job.rows["n"]:
        known = _checked(view, read_rows(cache.folder / f"{dataset.name}/{job.view}", job.rows))
    if known is None or known.root != job.rows["root"]:
        raise DataInvalid(
            f"{job.source.name} on {platform.node()} has other rows of {job.view} than where the extraction was "
            f"started: {0 if view is None else len(view):,} here, {job.rows['n']:,} there, or other ids or "
            f"groups. Put the same version on every machine{f', at {job.source.root}' if job.source.root else ''}"
        )
    return replace(dataset, views={**dataset.views, job.view: known})


def _checked(view: View, rows: Rows) -> View:
    """The view with content hashes from the row table; a row whose bytes do not have its hash cannot be read."""

    def content(row: int) -> bytes:
        data = view.content(row)
        if view.hash_of(data) != rows.hashes[row]:
            raise UsageError(  # not a DataError: --on-error skip must not take it for a bad row
                f"{view.name} row {view.ids[row]!r} on {platform.node()} has other bytes than where the extraction was "
                "started. Put the same version of the data on every machine"
            )
        return data

    return replace(view, content=content, given_hashes=tuple(rows.hashes))
