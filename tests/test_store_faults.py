"""An array survives writers that are killed, writers that race, and a file system without hard links."""

import os
import random
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from featcache.errors import FeaturesNotCached
from featcache.storage.base import is_leftover
from featcache.storage.durable import TEMPORARY, write_once
from featcache.store.array import FeatureArray
from featcache.store.records import chunk_name, root_of
from tests.faults import (
    LAYOUT,
    D,
    Job,
    N,
    Operation,
    Outcome,
    Writers,
    array_in,
    block,
    chunks_of,
    fill,
    make_key,
    without_links,
    without_syncs,
)


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    with Writers() as started:
        yield started


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FeatureArray:
    with without_syncs():
        return fill(tmp_path_factory.mktemp("whole"))


_TEMPORARY_FILE = re.compile(re.escape(TEMPORARY) + "[0-9a-f]{32}")


# -- killed at a barrier between every two steps ----------------------------------------------------------------------


def stages(steps: list[Operation]) -> list[str]:
    """For every step of a run: what is being made (chunk, record, key.json …) and which step of that it is.

    A step on a temporary file belongs to the file that it becomes, be it by a link or by way of folders and a lock; the
    step before which a process is killed names the barrier.
    """
    ends = [(_TEMPORARY_FILE.search(step.path), (step.other or "").rpartition("/")[2]) for step in steps]
    becomes = {match[0]: name for match, name in ends if match and name and not name.startswith(TEMPORARY)}
    names: list[str] = []
    at = "folders"
    for step in steps:
        temporary = _TEMPORARY_FILE.search(step.path)
        final = becomes.get(temporary[0], "probe") if temporary else (step.other or step.path).rpartition("/")[2]
        name = final.removeprefix(TEMPORARY).removesuffix(".lock")
        if step.kind not in ("sync folder", "unlink"):
            at = "folder" if step.kind == "mkdir" and not step.path.endswith(".lock") else name
        at = "chunk" if at.startswith("c.") else "record" if at[0].isdigit() and at.endswith(".json") else at
        names.append(f"{at}: {step.kind}")
    numbered: dict[str, int] = {}
    out: list[str] = []
    for number, name in enumerate(names):
        numbered[name] = numbered.get(name, 0) + 1 if number and names[number - 1] == name else 1
        out.append(f"{name} {numbered[name]}")
    return out


def kill_points(steps: list[Operation], kills: int, known: Collection[str] = ()) -> list[int]:
    """Steps to be killed before, at least so many for every distinct step not known yet, spread over the chunks."""
    places: dict[str, list[int]] = {}
    for number, stage in enumerate(stages(steps), 1):
        if stage not in known:
            places.setdefault(stage, []).append(number)
    chosen: list[int] = []
    for order, numbers in enumerate(places.values()):
        chosen += [numbers[(order + kill * max(1, len(numbers) // kills)) % len(numbers)] for kill in range(kills)]
    return chosen


def records_but_writer(array: FeatureArray) -> list[object]:
    return [record and replace(record, writer="") for record in map(array.record, range(LAYOUT.chunks))]


def check_killed(array: FeatureArray, outcome: Outcome, whole: FeatureArray) -> None:
    assert outcome.exit == -9
    assert outcome.committed <= array.committed()
    for chunk in array.committed():
        assert records_but_writer(array)[chunk] == records_but_writer(whole)[chunk]
    assert chunks_of(array).items() <= chunks_of(whole).items()
    if array.is_complete:
        assert array.read().tobytes() == whole.read().tobytes()
    else:
        with pytest.raises(FeaturesNotCached):
            array.read()


def check_ended(array: FeatureArray, whole: FeatureArray, *left: str) -> None:
    """The array is that of an unkilled run; what else lies there are leftovers, or names that end like `left`."""
    assert chunks_of(array) == chunks_of(whole)
    assert records_but_writer(array) == records_but_writer(whole)
    assert array.complete().root == whole.complete().root
    known = {path.relative_to(whole.path) for path in whole.path.rglob("*")}
    strange = [path for path in array.path.rglob("*") if path.relative_to(array.path) not in known]
    assert all(is_leftover(path.name) or path.name.endswith(left) for path in strange), strange


def sweep(folder: Path, writers: Writers, whole: FeatureArray, kills: int, links: bool) -> None:
    traces: list[list[Operation]] = []
    for kind in dict.fromkeys((True, links)):
        (folder / f"{kind}").mkdir()
        [traced] = writers.run(Job(str(folder / f"{kind}"), trace=True, links=kind))
        assert traced.exit == 0
        traces.append(traced.steps)
    # what both have in common is killed with links alone, where one kill a step is asked for
    known = stages(traces[0]) if not links and kills == 1 else ()
    for number, step in enumerate(kill_points(traces[-1], kills, known)):
        place = folder / str(number)
        place.mkdir()
        array = array_in(place)
        [killed] = writers.run(Job(str(place), kill=step, links=links))
        check_killed(array, killed, whole)
        [resumed] = writers.run(Job(str(place), links=links, stale_seconds=0.01))
        assert resumed.exit == 0
        assert not killed.committed & resumed.committed, "an acknowledged chunk was computed again"
        check_ended(array, whole, *([] if links else [".lock"]))
        shutil.rmtree(place)


def test_every_step_from_temporary_file_to_record_is_a_barrier_of_the_sweep(tmp_path: Path, writers: Writers) -> None:
    [traced] = writers.run(Job(str(tmp_path), trace=True))
    names = stages(traced.steps)
    one = ["create 1", "write 1", "write 2", "sync 1", "link 1", "unlink 1", "sync folder 1"]
    for what in ("chunk", "record", "key.json", "plan.json", "zarr.json", "COMPLETE.json"):
        assert {f"{what}: {step}" for step in one} <= set(names)
        assert names.count(f"{what}: link 1") == (LAYOUT.chunks if what in ("chunk", "record") else 1)


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_before_any_step_nothing_acknowledged_is_lost_or_computed_again(
    tmp_path: Path, writers: Writers, whole: FeatureArray, kills: int
) -> None:
    sweep(tmp_path, writers, whole, kills, links=True)


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_before_any_step_where_there_are_no_hard_links_the_lock_is_broken_and_the_array_ends_whole(
    tmp_path: Path, writers: Writers, whole: FeatureArray, kills: int
) -> None:
    sweep(tmp_path, writers, whole, kills, links=False)


def test_a_lock_whose_file_was_made_before_the_kill_is_a_leftover_by_its_name(
    tmp_path: Path, writers: Writers, whole: FeatureArray
) -> None:
    for name in ("traced", "killed"):
        (tmp_path / name).mkdir()
    [traced] = writers.run(Job(str(tmp_path / "traced"), trace=True, links=False))
    step = stages(traced.steps).index("chunk: rmdir 1") + 1
    writers.run(Job(str(tmp_path / "killed"), kill=step, links=False))
    [resumed] = writers.run(Job(str(tmp_path / "killed"), links=False, stale_seconds=0.01))
    assert resumed.exit == 0
    check_ended(array_in(tmp_path / "killed"), whole)


def test_a_writer_that_slept_while_its_lock_was_broken_finds_the_other_writers_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, mkdir = tmp_path / "f", os.mkdir

    def sleep_after(path: Path, *rest: int) -> None:
        mkdir(path, *rest)
        if not target.exists():
            os.utime(path, (0, 0))
            monkeypatch.setattr(os, "mkdir", mkdir)
            assert write_once(target, b"other")

    with without_links():
        monkeypatch.setattr(os, "mkdir", sleep_after)
        assert not write_once(target, b"mine")
    assert target.read_bytes() == b"other" and os.listdir(tmp_path) == ["f"]


# -- writers that race ------------------------------------------------------------------------------------------------


def check_raced(array: FeatureArray, shifts: list[float], references: dict[float, dict[str, bytes]]) -> None:
    """Every chunk is one writer's, whole; its one record is of those bytes; the root is that of the records."""
    assert array.committed() == set(range(LAYOUT.chunks))
    records = []
    for chunk, content in enumerate(chunks_of(array).values()):
        assert content in [references[shift][chunk_name(chunk)] for shift in shifts]
        record = array.record(chunk)
        assert record and record.blake3 == blake3(content).hexdigest() and record.crc32c == content[-4:].hex()
        records.append(record)
    assert array.complete().root == root_of(records) and list(array.complete().records) == records
    parts = [np.frombuffer(content[:-4], np.float16).reshape(-1, D) for content in chunks_of(array).values()]
    np.testing.assert_array_equal(array.read(), np.concatenate(parts)[:N])
    assert not [path for path in array.path.rglob(".tmp-*")]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[float, dict[str, bytes]]:
    with without_syncs():
        return {shift: chunks_of(fill(tmp_path_factory.mktemp("shifted"), shift=shift)) for shift in (0, 1, 2, 3)}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("differ", [False, True], ids=["same bytes", "other bytes"])
@pytest.mark.parametrize("many", [2, 4])
@pytest.mark.parametrize("rounds", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_writers_of_one_digest_at_once_end_with_one_writers_bytes_in_every_chunk(
    tmp_path: Path,
    writers: Writers,
    references: dict[float, dict[str, bytes]],
    links: bool,
    differ: bool,
    many: int,
    rounds: int,
) -> None:
    chance = random.Random(many)
    for attempt in range(rounds):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        shifts = list(range(many)) if differ else [0] * many
        orders = [list(range(LAYOUT.chunks)) for _ in range(many)]
        for order in orders[: attempt % (many + 1)]:  # all in step, then more and more of them not
            chance.shuffle(order)
        jobs = [
            Job(str(folder), links=links, shift=shift, order=order, writer=str(number))
            for number, (shift, order) in enumerate(zip(shifts, orders, strict=True))
        ]
        outcomes = writers.run(*jobs)
        assert [outcome.exit for outcome in outcomes] == [0] * many
        check_raced(array_in(folder), list(map(float, shifts)), references)


@pytest.mark.parametrize("kills", [15, pytest.param(150, marks=pytest.mark.slow)])
def test_one_of_two_racing_writers_is_killed_and_the_other_completes_the_array(
    tmp_path: Path, writers: Writers, whole: FeatureArray, kills: int
) -> None:
    chance = random.Random(11)
    for attempt in range(kills):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        outcomes = writers.run(Job(str(folder), kill=chance.randint(1, 200)), Job(str(folder)))
        assert outcomes[1].exit == 0 and outcomes[0].exit in (0, -9)
        check_ended(array_in(folder), whole)


IDS = [f"r{row}" for row in range(LAYOUT.n)]


def half_committed(folder: Path, failed_row: int) -> tuple[FeatureArray, bytes]:
    """An array whose first chunk, with one failed row, has no record yet; and that record, for its writer to add."""
    array, values = array_in(folder), block(0).copy()
    values[failed_row] = np.nan
    array.create(make_key(), LAYOUT)
    array.commit(LAYOUT, 0, values, writer="slow", ids=IDS[: LAYOUT.chunk_rows])
    record = array.path / "commits" / "0.json"
    content = record.read_bytes()
    record.unlink()
    return array, content


def check_failed_rows_are_listed(array: FeatureArray) -> None:
    for record in array.complete().records:
        start, stop = LAYOUT.span(record.chunk)
        rows = np.flatnonzero(np.isnan(array.read(start, stop)).any(axis=1)) + start
        assert record.failed == tuple(f"r{row}" for row in rows)


def test_a_chunk_with_failed_rows_that_another_writer_finds_is_recorded_with_its_own_list(tmp_path: Path) -> None:
    array, _ = half_committed(tmp_path, 3)
    for chunk in range(LAYOUT.chunks):
        array.commit(LAYOUT, chunk, block(chunk), writer="quick", ids=IDS[slice(*LAYOUT.span(chunk))])
    array.finish(LAYOUT)
    check_failed_rows_are_listed(array)


def test_a_second_writer_leaves_the_chunk_of_a_slow_one_alone_though_rows_of_it_failed(tmp_path: Path) -> None:
    array, content = half_committed(tmp_path, 3)
    array.adopt_orphans(LAYOUT, IDS)
    write_once(array.path / "commits" / "0.json", content)  # the slow writer goes on
    for chunk in range(LAYOUT.chunks):
        array.commit(LAYOUT, chunk, block(chunk), writer="quick", ids=IDS[slice(*LAYOUT.span(chunk))])
    array.finish(LAYOUT)
    check_failed_rows_are_listed(array)
