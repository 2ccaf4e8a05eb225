"""Repair of damaged arrays: records rewritten from one another, chunks pulled from a remote or computed again."""

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from featcache.cache import Cache
from featcache.data.datasets import source_text
from featcache.data.errors import DataError
from featcache.data.open import open_dataset
from featcache.data.options import OpenOptions
from featcache.data.perturbations import with_named
from featcache.data.views import Dataset
from featcache.encoders import EncodeOptions, EncoderSpec, described_again, encoder_spec
from featcache.errors import Damaged, FeatcacheError, FeaturesNotCached, RootsDiffer, UnknownEncoder, UsageError
from featcache.extraction.extract import extract
from featcache.extraction.failed_rows import RowSettings
from featcache.extraction.job import Job, plan_job
from featcache.maintenance.repair_records import RecordRepair
from featcache.maintenance.verify import ChunkCheck, Problem, array_problems, chunk_check, record_problems
from featcache.store.array import FeatureArray
from featcache.store.current import CURRENT, set_current, write_current
from featcache.store.digest import ArrayKey, differences
from featcache.store.leases import lease
from featcache.store.records import (
    ARRIVING,
    REUSED,
    Complete,
    Record,
    chunk_name,
    record_bytes,
    record_name,
)
from featcache.store.reused import read_reused, reuse_note, write_reused
from featcache.store.rows import checked_tables, current_overlay, write_rows


@dataclass(frozen=True)
class Sources:
    """Where what is damaged can be had again."""

    remote: Cache | None = None  # another cache that may hold the same arrays
    root: Path | None = None  # folder of the data set's files
    options: OpenOptions = field(default_factory=OpenOptions)  # as the data set was opened with when it was extracted
    weights: Path | None = None  # local copy of the encoder's repository
    device: str = "cpu"  # of torch, to compute chunks again
    new_root: bool = False  # accept other bytes than recorded: a new root, and what was derived is dropped


def repair(
    cache: Cache, selector: str, sources: Sources, *, on_step: Callable[[str, str], None] = lambda where, what: None
) -> list[Problem]:
    """Mends every array that answers to a selector, and checks it deeply afterwards.

    Args:
        cache: The cache, on this disk.
        selector: `dataset[/view[/encoder[/layer]]]`, parts may hold globs.
        sources: Where what is damaged can be had again.
        on_step: Called with (path of the array, what was done).

    Returns:
        What is still wrong.

    Raises:
        RootsDiffer: If a chunk computed again has other bytes than recorded, and no new root is accepted.
    """
    left: list[Problem] = []
    differing: RootsDiffer | None = None
    with lease(cache.folder, "repair"):
        arrays = cache.matching(selector)
        for view in sorted({array.name[:2] for array in arrays}):
            left += _mend_current(cache, view, sources, on_step)
        for array in arrays:
            where = str(array.name)
            if not array.folder.there() or not any(array_problems(cache, array, deep=True)):
                continue  # whole, or derived from what was just given a new root
            try:
                twin, log = _twin(array, sources), partial(on_step, where)
                _Repair(cache, array, twin, sources=sources, on_step=log).run()
            except RootsDiffer as error:  # the other arrays are mended all the same
                differing = differing or error
                continue
            except (FeatcacheError, DataError) as error:
                left.append(Problem(where, str(error)))
                continue
            left += [Problem(where, what, chunk) for what, chunk in array_problems(cache, array, deep=True)]
    if differing is not None:
        raise differing
    return left


def _mend_current(
    cache: Cache, view: tuple[str, str], sources: Sources, on_step: Callable[[str, str], None]
) -> list[Problem]:
    """Replaces a damaged record of current rows: by the other cache's, or where all arrays are of the same rows."""
    problems, where = list(record_problems(cache, *view)), "/".join(view)
    if not problems:
        return []
    remote = sources.remote.current_rows(*view) if sources.remote is not None else None
    keys = [array.key() for array in cache.arrays(*view) if not any(array_problems(cache, array, deep=False))]
    rows = {key.binds["rows"]["root"]: key.binds["rows"]["n"] for key in keys}
    if remote is not None:
        write_current(cache.folder / where, remote)
        on_step(where, f"{CURRENT} pulled")
    elif len(rows) == 1:
        set_current(cache.folder / where, *next(iter(rows.items())))
        on_step(where, f"{CURRENT} written again: every array is of the same rows")
    return list(record_problems(cache, *view))


def _twin(array: FeatureArray, sources: Sources) -> FeatureArray | None:
    """The same array in the other cache, if it is complete there."""
    if sources.remote is None:
        return None
    twin = sources.remote.array(str(array.name))
    return twin if twin.is_complete else None


@dataclass(frozen=True)
class _Repair:
    """The repair of one array; `twin` is the same array in another cache."""

    cache: Cache
    array: FeatureArray
    twin: FeatureArray | None
    sources: Sources
    on_step: Callable[[str], None]

    def run(self) -> None:
        array = self.array
        records = RecordRepair(self.cache, array, self.twin, self.on_step)
        key = records.mend_key()
        self._mend_tables(key)
        complete = records.mend_complete(key)
        layout = complete.layout if complete else records.mend_layout()
        if layout is None:
            raise Damaged(f"{array.folder} has no plan left; remove it and extract again: {array.name.remove_command}")
        check = chunk_check(self.cache, array, key, layout, deep=True)
        records.mend_records(key, layout, complete)
        self._mend_reused()
        if complete is None:
            self._mend_unfinished(check, records)
            return
        if array.folder.exists(ARRIVING) and array.arriving() is None:
            array.folder.remove(ARRIVING)
            self.on_step(f"{ARRIVING} of a transfer that had ended removed")
        bad = [record for record in complete.records if check.bytes_problem(record)]
        bad = [record for record in bad if not self._pulled(record)]
        if bad:
            self._compute(key, complete, bad)
        records.mend_failed(check)

    # -- what is known from what is left ------------------------------------------------------------------------------

    def _mend_tables(self, key: ArrayKey) -> None:
        folder = self.cache.folder / key.dataset
        try:
            checked_tables(folder, key.view, key.binds["rows"])
            return
        except Damaged:
            if self.sources.remote is not None:
                remote = self.sources.remote.folder / key.dataset
                for name in checked_tables(remote, key.view, key.binds["rows"]):
                    folder.replace(name, remote.read(name))
                self.on_step("row table, splits and labels pulled")
                return
        dataset = with_named(_open(key, self.sources), key.view)
        view = dataset.views.get(key.view)
        if view is None or view.root != key.binds["rows"]["root"]:
            raise Damaged(
                f"{key.dataset}/{key.view}: the data set is not the one that was extracted; give another --root"
            )
        before = current_overlay(folder / key.view, view.root)
        write_rows(folder / key.view, view, dataset.overlay)
        others = (
            ""
            if before in (None, dataset.overlay.root)
            else ("; these splits or labels are others than before: extract again with the --split and --seed of then")
        )
        self.on_step(f"row table, splits and labels written from the data set{others}")

    def _mend_reused(self) -> None:
        """A damaged REUSED.json, from the other cache, or out of the way: no byte that is there depends on it."""
        try:
            read_reused(self.array.folder)
        except Damaged:
            theirs = read_reused(self.twin.folder) if self.twin is not None else None
            if theirs is not None:
                self.array.folder.replace(REUSED, theirs.to_bytes())
                self.on_step(f"{REUSED} pulled")
            else:
                self.array.folder.set_aside(REUSED)
                self.on_step(f"{REUSED} set aside: which rows were reused is not known any more")

    def _mend_unfinished(self, check: ChunkCheck, records: RecordRepair) -> None:
        """In an incomplete array, damaged chunks are pulled, or lose their record: then they count as missing."""
        array, chunks = self.array, check.layout.chunks
        theirs, part = self.twin.complete() if self.twin is not None else None, array.partial()
        if theirs is not None and (theirs.layout != check.layout or (part is not None and part.root != theirs.root)):
            theirs = None
        for chunk in sorted(array.committed()):
            try:
                record = array.record(chunk, check.layout)
            except Damaged:
                record = None
            if record is not None and not check.bytes_problem(record):
                records.rewrite(record_name(chunk), record_bytes(check.with_failed_rows(record)), " from its chunk")
                continue
            wanted = theirs.records[chunk] if theirs and chunk < chunks and (part or record is None) else record
            if wanted is not None and self._pulled(wanted):
                array.folder.replace(record_name(chunk), record_bytes(check.with_failed_rows(wanted)))
                continue
            array.folder.remove(record_name(chunk))
            if array.folder.exists(chunk_name(chunk)):
                array.folder.set_aside(chunk_name(chunk))
            again = "pull it again" if part else "run the same featcache extract again"
            self.on_step(f"chunk {chunk} set aside; {again}")

    # -- chunks -------------------------------------------------------------------------------------------------------

    def _pulled(self, record: Record) -> bool:
        """Takes a chunk from the other cache, if that has the recorded bytes."""
        if self.twin is None:
            return False
        try:
            content = self.twin.folder.read(chunk_name(record.chunk), most=record.bytes)
        except (OSError, Damaged):
            return False
        if blake3(content).hexdigest() != record.blake3:
            return False
        self.array.folder.replace(chunk_name(record.chunk), content)
        self.on_step(f"chunk {record.chunk} pulled")
        return True

    def _compute(self, key: ArrayKey, complete: Complete, bad: Sequence[Record]) -> None:
        """Computes damaged chunks again, in a cache of their own, and puts them in place if they are as recorded."""
        array = self.array
        if "from" in key.binds["encoder"] or "imported" in key.binds["encoder"]:
            raise Damaged(f"{array.folder} was not extracted: run what made it again, or give a --from that has it")
        workshop = Cache(self.cache.root / f".repair-{uuid.uuid4().hex}")
        try:
            # under the names it was extracted with: it may have been renamed since
            job = _job(workshop, key.under(*(key.made_as or key.names)), self.sources)
            computed = job.targets[0].array
            computed.create(key, complete.layout)
            reused = read_reused(array.folder)
            if reused is not None:  # the same rows are copied again, so that the others form the same batches
                write_reused(computed.folder, reused)
            wanted = {record.chunk for record in bad}
            settings = RowSettings("skip" if complete.failed else "stop")
            done = extract(workshop, job, chunks=wanted.__contains__, settings=settings, reuse_from=self.cache)
            for note in done.notes:
                self.on_step(note)
            records = {chunk: record for chunk in wanted if (record := computed.record(chunk)) is not None}
            if wanted - records.keys():
                lacking = sorted(wanted - records.keys())
                raise FeaturesNotCached(f"chunks {lacking} of {array.folder} could not be computed")
            try:
                self._put_in_place(computed, complete, records)
            except RootsDiffer as error:
                raise RootsDiffer("\n  ".join([str(error), *done.notes])) from error
        finally:
            if workshop.folder.there():
                workshop.folder.delete()

    def _put_in_place(self, computed: FeatureArray, complete: Complete, records: dict[int, Record]) -> None:
        array = self.array
        other = [chunk for chunk, record in records.items() if record.blake3 != complete.records[chunk].blake3]
        if other and not self.sources.new_root:
            raise RootsDiffer(
                f"{array.folder}: chunks {sorted(other)} computed again have other bytes than recorded (another "
                f"device, thread count or library).{reuse_note(read_reused(array.folder))} Nothing was changed. Give a "
                "--from that has the array, or accept them with --new-root: whatever was derived from the array is "
                "then dropped"
            )
        if other:
            array.folder.set_aside("COMPLETE.json")  # from here on it is an array that lacks chunks
            for chunk in other:
                array.folder.remove(record_name(chunk))
        for chunk, record in sorted(records.items()):
            array.folder.replace(chunk_name(chunk), computed.folder.read(chunk_name(chunk)))
            if chunk in other:
                array.folder.write_once(record_name(chunk), record_bytes(record))
            self.on_step(f"chunk {chunk} computed again" + (", with other bytes" if chunk in other else ""))
        if other:
            root = array.finish(complete.layout).root
            self.on_step(f"new root {root[:8]}, it was {complete.root[:8]}")
            for derived in _derived(self.cache, array.digest, complete.root):
                self.cache.remove(derived)
                self.on_step(f"dropped {'/'.join(derived.name[:-1])}, which was derived from the old bytes")


def _derived(cache: Cache, digest: str, root: str) -> list[FeatureArray]:
    """Arrays that were computed from these very bytes."""
    derived: list[FeatureArray] = []
    for array in cache.arrays():
        try:
            source = array.key().binds["encoder"].get("from", {})
        except FeatcacheError:
            continue
        if (source.get("digest"), source.get("root")) == (digest, root):
            derived.append(array)
    return derived


def _spec(workshop: Cache, key: ArrayKey, name: str) -> EncoderSpec:
    """The encoder's entry; of one that was extracted under an id, generated as it was then."""
    try:
        return encoder_spec(name)
    except UnknownEncoder:
        spec = described_again(name, key.binds["encoder"], key.provenance.get("encoder", {}), memo=workshop.memo)
        if spec is None:
            raise
        return spec


def _open(key: ArrayKey, sources: Sources) -> Dataset:
    return open_dataset(source_text(key.dataset), root=sources.root, options=sources.options)


def _job(workshop: Cache, key: ArrayKey, sources: Sources) -> Job:
    """The extraction that gives the damaged array again, in another cache.

    Raises:
        UsageError: If data, weights or libraries at hand would give another digest; lists how it differs.
    """
    random = re.fullmatch(r"(.+)-random(\d+)", key.encoder)
    name, seed = random.groups() if random else (key.encoder, None)
    compute = str(key.binds["encoder"].get("compute", ""))
    autocast: Any = compute.removeprefix("autocast ") if compute.startswith("autocast ") else None
    dtype: Any = key.binds["dtype"]
    options = EncodeOptions(
        weights=sources.weights,
        random=seed is not None,
        seed=int(seed or 0),
        device=sources.device,
        autocast=autocast,
        dtype=dtype,
    )
    spec = _spec(workshop, key, name)
    job = plan_job(workshop, _open(key, sources), spec, options, view=key.view, layers=[key.layer])
    planned = job.targets[0].key
    if planned.digest != key.digest:
        fields = "; ".join(
            f"{field}: {now} (was {was})" for field, (was, now) in differences(key.binds, planned.binds).items()
        )
        raise UsageError(f"{key.path}: data and encoder at hand are not those it was extracted with: {fields}")
    return job
