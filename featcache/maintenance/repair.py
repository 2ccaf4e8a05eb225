"""How is damage mended? What can be told from what is left is rewritten; chunks are pulled or computed again."""

import json
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from featcache.cache import Cache
from featcache.data.catalogue import DATASETS
from featcache.data.errors import DataError
from featcache.data.registry import open_dataset
from featcache.data.views import Dataset
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import Damaged, FeatcacheError, FeaturesNotCached, RootsDiffer, UsageError
from featcache.extraction.extract import extract
from featcache.extraction.job import Job, plan_job
from featcache.maintenance.verify import Problem, array_problems, chunk_problem
from featcache.store.array import FeatureArray
from featcache.store.key import ArrayKey, canonical, differences
from featcache.store.leases import lease
from featcache.store.records import Complete, Record, chunk_name, layout_json, read_json, record_name, zarr_json
from featcache.store.rows import checked_tables, write_rows


@dataclass(frozen=True)
class Sources:
    """Where what is damaged can be had again.

    Args:
        remote: Another cache that may hold the same arrays; None for none.
        root: Folder of the data set's files.
        weights: Local copy of the encoder's repository.
        device: Torch device that computes chunks again.
        new_root: Accept other bytes than those recorded: the array gets a new root, and what was derived is dropped.
    """

    remote: Cache | None = None
    root: Path | None = None
    weights: Path | None = None
    device: str = "cpu"
    new_root: bool = False


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
        for array in cache.answering(selector):
            where = str(array.name)
            if not array.folder.there() or not any(array_problems(cache, array, deep=True)):
                continue  # whole, or derived from what was just given a new root
            try:
                _mend(cache, array, sources, lambda what, where=where: on_step(where, what))
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


def _mend(cache: Cache, array: FeatureArray, sources: Sources, say: Callable[[str], None]) -> None:
    twin = _twin(array, sources)
    key = _mend_key(array, twin, say)
    _mend_tables(cache, key, sources, say)
    complete = _mend_complete(array, twin, say)
    plan = complete.plan if complete else array.layout()
    if plan is None:
        raise Damaged(f"{array.folder} has no plan left; remove it and extract again: featcache rm")
    _mend_beside(array, key, complete, say)
    if complete is None:
        _mend_unfinished(array, twin, say)
        return
    bad = [record for record in complete.records if chunk_problem(array, record, deep=True)]
    bad = _pull(array, twin, bad, say)
    if bad:
        _compute(cache, array, key, complete, bad, sources, say)


def _twin(array: FeatureArray, sources: Sources) -> FeatureArray | None:
    """The same array in the other cache, if it is complete there."""
    if sources.remote is None:
        return None
    twin = sources.remote.array(str(array.name))
    return twin if twin.is_complete else None


# -- what is told from what is left -----------------------------------------------------------------------------------


def _mend_key(array: FeatureArray, twin: FeatureArray | None, say: Callable[[str], None]) -> ArrayKey:
    try:
        return array.key()
    except Damaged:
        if twin is None:
            raise
        twin.key()
        array.folder.replace("key.json", twin.folder.read("key.json"))
        say("key.json pulled")
        return array.key()


def _mend_tables(cache: Cache, key: ArrayKey, sources: Sources, say: Callable[[str], None]) -> None:
    try:
        checked_tables(cache.folder / key.dataset, key.view, key.binds["rows"])
        return
    except Damaged:
        if sources.remote is not None:
            remote = sources.remote.folder / key.dataset
            for name in checked_tables(remote, key.view, key.binds["rows"]):
                (cache.folder / key.dataset).replace(name, remote.read(name))
            say("row table, splits and labels pulled")
            return
    dataset = _open(key, sources)
    view = dataset.views.get(key.view)
    if view is None or view.root != key.binds["rows"]["root"]:
        raise Damaged(f"{key.dataset}/{key.view}: the data set is not the one that was extracted; give another --root")
    write_rows(cache.folder / key.dataset / key.view, view, dataset.overlay)
    say("row table, splits and labels written from the data set")


def _mend_complete(array: FeatureArray, twin: FeatureArray | None, say: Callable[[str], None]) -> Complete | None:
    """COMPLETE.json as it is, from the other cache, or from the commit records; None if there was none."""
    if not array.is_complete:
        return None
    try:
        return array.complete()
    except Damaged:
        pass
    plan = array.layout()
    try:
        records = [array.record(chunk) for chunk in range(plan.chunks)] if plan else []
    except Damaged:
        records = []
    if plan and records and all(record and not chunk_problem(array, record, deep=True) for record in records):
        array.folder.set_aside("COMPLETE.json")
        complete = array.finish(plan)
        say("COMPLETE.json written again from the commit records")
        return complete
    if twin is None:
        raise Damaged(
            f"{array.folder}/COMPLETE.json and its records are both damaged; give a --from that has the array"
        )
    array.folder.replace("COMPLETE.json", twin.complete().to_bytes())
    say("COMPLETE.json pulled")
    return array.complete()


def _mend_beside(array: FeatureArray, key: ArrayKey, complete: Complete | None, say: Callable[[str], None]) -> None:
    """plan.json, zarr.json and commit records, from what is known to be right."""
    if complete is not None:
        wanted = {"plan.json": layout_json(complete.plan)}
        wanted |= {record_name(record.chunk): canonical(asdict(record)) for record in complete.records}
        for name, content in wanted.items():
            if not _says(array, name, content):
                array.folder.replace(name, content)
                say(f"{name} written again from COMPLETE.json")
    plan = complete.plan if complete else array.layout()
    if plan is not None and not _says(array, "zarr.json", zarr_json(key, plan)):
        array.folder.replace("zarr.json", zarr_json(key, plan))
        say("zarr.json written again")


def _says(array: FeatureArray, name: str, content: bytes) -> bool:
    """Whether a JSON file means what it should."""
    try:
        return read_json(array.folder, name) == json.loads(content)
    except (FileNotFoundError, Damaged):
        return False


def _mend_unfinished(array: FeatureArray, twin: FeatureArray | None, say: Callable[[str], None]) -> None:
    """In an array that is not complete, damaged chunks are pulled, or lose their record: then they count as missing."""
    theirs = twin.complete() if twin is not None else None
    part = array.partial()
    if theirs is not None and part is not None and part.root != theirs.root:
        theirs = None
    for chunk in sorted(array.committed()):
        try:
            record = array.record(chunk)
        except Damaged:
            record = None
        if record is not None and not chunk_problem(array, record, deep=True):
            continue
        wanted = theirs.records[chunk] if theirs and (part or record is None) else record
        content = _content(twin, wanted) if wanted else None
        if wanted is not None and content is not None:
            array.folder.replace(chunk_name(chunk), content)
            array.folder.replace(record_name(chunk), canonical(asdict(wanted)))
            say(f"chunk {chunk} pulled")
            continue
        array.folder.remove(record_name(chunk))
        if array.folder.exists(chunk_name(chunk)):
            array.folder.set_aside(chunk_name(chunk))
        say(f"chunk {chunk} set aside; {'pull it again' if part else 'run the same featcache extract again'}")


# -- chunks -----------------------------------------------------------------------------------------------------------


def _pull(
    array: FeatureArray, twin: FeatureArray | None, bad: Sequence[Record], say: Callable[[str], None]
) -> list[Record]:
    """Takes damaged chunks from the other cache where it has the recorded bytes; returns those it has not."""
    left: list[Record] = []
    for record in bad:
        content = _content(twin, record)
        if content is None:
            left.append(record)
            continue
        array.folder.replace(chunk_name(record.chunk), content)
        say(f"chunk {record.chunk} pulled")
    return left


def _content(twin: FeatureArray | None, record: Record) -> bytes | None:
    """The recorded bytes of a chunk, if the other cache has them."""
    if twin is None:
        return None
    try:
        found = twin.folder.read(chunk_name(record.chunk))
    except OSError:
        return None
    return found if blake3(found).hexdigest() == record.blake3 else None


def _compute(
    cache: Cache,
    array: FeatureArray,
    key: ArrayKey,
    complete: Complete,
    bad: Sequence[Record],
    sources: Sources,
    say: Callable[[str], None],
) -> None:
    """Computes damaged chunks again, in a cache of their own, and puts them in place if they are what was recorded."""
    if "from" in key.binds["encoder"] or "imported" in key.binds["encoder"]:
        raise Damaged(f"{array.folder} was not extracted: run what made it again, or give a --from that has it")
    workshop = Cache(cache.root / f".repair-{uuid.uuid4().hex}")
    try:
        # under the names it was extracted with: it may have been renamed since
        job = _job(workshop, ArrayKey.from_json(read_json(array.folder, "key.json")), sources)
        made = job.targets[0].array
        made.create(key, complete.plan)
        wanted = {record.chunk for record in bad}
        skip = "skip" if complete.failed else "stop"
        extract(workshop, job, chunks=wanted.__contains__, on_error=skip)
        new = {chunk: record for chunk in wanted if (record := made.record(chunk)) is not None}
        if wanted - new.keys():
            raise FeaturesNotCached(f"chunks {sorted(wanted - new.keys())} of {array.folder} could not be computed")
        _put_in_place(cache, array, made, complete, new, sources, say)
    finally:
        if workshop.folder.there():
            workshop.folder.delete()


def _put_in_place(
    cache: Cache,
    array: FeatureArray,
    made: FeatureArray,
    complete: Complete,
    new: dict[int, Record],
    sources: Sources,
    say: Callable[[str], None],
) -> None:
    other = [chunk for chunk, record in new.items() if record.blake3 != complete.records[chunk].blake3]
    if other and not sources.new_root:
        raise RootsDiffer(
            f"{array.folder}: chunks {sorted(other)} computed again have other bytes than recorded (another device, "
            "thread count or library). Nothing was changed. Give a --from that has the array, or accept them with "
            "--new-root: whatever was derived from the array is then dropped"
        )
    if other:
        array.folder.set_aside("COMPLETE.json")  # from here on it is an array that lacks chunks
        for chunk in other:
            array.folder.remove(record_name(chunk))
    for chunk, record in sorted(new.items()):
        array.folder.replace(chunk_name(chunk), made.folder.read(chunk_name(chunk)))
        if chunk in other:
            array.folder.write_once(record_name(chunk), canonical(asdict(record)))
        say(f"chunk {chunk} computed again" + (", with other bytes" if chunk in other else ""))
    if other:
        root = array.finish(complete.plan).root
        say(f"new root {root[:8]}, it was {complete.root[:8]}")
        for derived in _derived(cache, array.digest, complete.root):
            cache.remove(derived)
            say(f"dropped {'/'.join(derived.name[:-1])}, which was derived from the old bytes")


def _derived(cache: Cache, digest: str, root: str) -> list[FeatureArray]:
    """Arrays that were computed from these very bytes."""
    found: list[FeatureArray] = []
    for array in cache.arrays():
        try:
            source = array.key().binds["encoder"].get("from", {})
        except FeatcacheError:
            continue
        if (source.get("digest"), source.get("root")) == (digest, root):
            found.append(array)
    return found


def _open(key: ArrayKey, sources: Sources) -> Dataset:
    return open_dataset(key.dataset if key.dataset in DATASETS else f"folder:{key.dataset}", root=sources.root)


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
    options = EncodeOptions(sources.weights, seed is not None, int(seed or 0), sources.device, autocast, False, dtype)
    job = plan_job(workshop, _open(key, sources), encoder_spec(name), options, view=key.view, layers=[key.layer])
    found = job.targets[0].key
    if found.digest != key.digest:
        fields = "; ".join(
            f"{field}: {now} (was {was})" for field, (was, now) in differences(key.binds, found.binds).items()
        )
        raise UsageError(f"{key.path}: data and encoder at hand are not those it was extracted with: {fields}")
    return job
