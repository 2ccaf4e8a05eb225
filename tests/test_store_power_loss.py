"""What was acknowledged survives a loss of power between any two file operations."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import pytest

from featcache.cache import Cache
from featcache.data.views import Overlay
from featcache.errors import Damaged, FeaturesNotCached
from featcache.maintenance.verify import verify
from featcache.storage.base import is_leftover
from featcache.storage.local import LocalFolder
from featcache.store.array import FeatureArray
from featcache.store.records import chunk_name
from featcache.store.rows import read_overlay, read_rows, write_rows
from tests.fakes import fake_card, text_dataset
from tests.faults import (
    LAYOUT,
    Operation,
    array_in,
    chunks_of,
    files_in,
    fill,
    make_key,
    watched,
    without_links,
    without_syncs,
)
from tests.test_extract import run, snapshot

# -- a disk that loses power


@dataclass
class _Node:
    """A file (data) or a folder (entries): as the running system sees it, and as it was last synced."""

    is_folder: bool
    data: bytes = b""
    synced: bytes = b""
    entries: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[str, str, int]] = field(default_factory=list)  # (removed name, set name, node), in order


@dataclass(frozen=True)
class Loss:
    """What becomes of that which was not synced when the power went.

    Args:
        name: For messages.
        keeps_entry: Whether one change of a folder (a name made, removed or moved) reached the medium.
        keeps_bytes: How many of a file's unsynced bytes did.
    """

    name: str
    keeps_entry: Callable[[random.Random], bool]
    keeps_bytes: Callable[[random.Random, int], int]


LOSSES = (
    Loss("nothing unsynced stays", lambda chance: False, lambda chance, n: 0),
    Loss("every name stays, no unsynced byte", lambda chance: True, lambda chance, n: 0),
    Loss("every name stays, half of the bytes", lambda chance: True, lambda chance, n: n // 2),
    Loss("any of it stays", lambda chance: chance.random() < 0.5, lambda chance, n: chance.randint(0, n)),
)


class Disk:
    """The files below one folder, with what of them is on the medium.

    The model: syncing a file makes its bytes durable and nothing else; syncing a folder makes its own names durable,
    not the folder's own name in its parent, not the bytes of its files. A rename within a folder happens or does not;
    one from folder to folder may lose the file.
    Names of one folder may reach the medium in any selection, so may the bytes of a file, up to any length. That is
    what POSIX grants; real file systems keep more.
    """

    def __init__(self) -> None:
        self.nodes = [_Node(is_folder=True)]

    def apply(self, operation: Operation) -> None:
        """Plays one recorded operation."""
        kind, path = operation.kind, operation.path
        if kind in ("mkdir", "create"):
            self.nodes.append(_Node(is_folder=kind == "mkdir"))
            self._change(path, path, len(self.nodes) - 1)
        elif kind in ("unlink", "rmdir"):
            self._change(path, "", -1)
        elif kind == "link":
            self._change("", operation.other, self._find(path))
        elif kind == "rename":
            node = self._find(path)
            if os.path.dirname(path) == os.path.dirname(operation.other):
                self._change(path, operation.other, node)
            else:  # two folders, either of which may reach the medium without the other
                self._change(path, "", -1)
                self._change("", operation.other, node)
        elif kind == "write":
            self.nodes[self._find(path)].data += operation.data
        elif kind == "sync":
            node = self.nodes[self._find(path)]
            node.synced = node.data
        elif kind == "sync folder":
            node = self.nodes[self._find(path)]
            node.durable, node.pending = dict(node.entries), []

    def _find(self, path: str) -> int:
        number = 0
        for part in [] if path in (".", "") else path.split("/"):
            number = self.nodes[number].entries[part]
        return number

    def _change(self, removed: str, made: str, node: int) -> None:
        folder = self.nodes[self._find(os.path.dirname(removed or made))]
        change = (os.path.basename(removed), os.path.basename(made), node)
        _change_entries(folder.entries, change)
        folder.pending.append(change)

    def lay_out(self, folder: Path, loss: Loss | None = None, seed: int = 0) -> None:
        """Writes into an empty folder what is there: as the system sees it, or after a loss of power."""
        chance = random.Random(seed)
        self._lay_out(self.nodes[0], folder, loss, chance)

    def _lay_out(self, node: _Node, path: Path, loss: Loss | None, chance: random.Random) -> None:
        entries = dict(node.entries)
        if loss is not None:
            entries = dict(node.durable)
            for change in node.pending:
                if loss.keeps_entry(chance):
                    _change_entries(entries, change)
        for name, number in entries.items():
            child = self.nodes[number]
            if child.is_folder:
                (path / name).mkdir()
                self._lay_out(child, path / name, loss, chance)
            else:
                extra = child.data[len(child.synced) :]
                kept = len(extra) if loss is None else loss.keeps_bytes(chance, len(extra))
                (path / name).write_bytes(child.synced + extra[:kept])


def _change_entries(entries: dict[str, int], change: tuple[str, str, int]) -> None:
    removed, made, node = change
    entries.pop(removed, None)
    if made:
        entries[made] = node


# -- the array


@dataclass(frozen=True)
class Recording:
    """Every file operation of some work below a folder, and what it acknowledged, in order."""

    operations: list[Operation]
    links: bool = True

    def acknowledged(self, count: int) -> list[str]:
        """What had been acknowledged after so many operations."""
        return [operation.path for operation in self.operations[:count] if operation.kind == "acknowledged"]


def record(folder: Path, work: Callable[[Callable[[str], None]], object]) -> list[Operation]:
    operations: list[Operation] = []
    with without_syncs(), watched(folder, after=operations.append):
        work(lambda text: operations.append(Operation("acknowledged", text)))
    return operations


def played(operations: list[Operation]) -> Disk:
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return disk


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FeatureArray:
    with without_syncs():
        return fill(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module", params=[True, False], ids=["links", "no links"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder, again = tmp_path_factory.mktemp("recorded"), tmp_path_factory.mktemp("again")
    with nullcontext() if request.param else without_links():
        operations = record(folder, lambda acknowledge: fill(folder, acknowledge))
    played(operations).lay_out(again)
    assert files_in(again) == files_in(folder), "an operation went unrecorded"
    return Recording(operations, request.param)


def resume(folder: Path, links: bool, acknowledge: Callable[[str], None] = lambda line: None) -> FeatureArray:
    with nullcontext() if links else without_links(stale_seconds=-1):  # whoever held a lock is dead
        return fill(folder, acknowledge)


def check_what_stayed(folder: Path, acknowledged: list[str], whole: FeatureArray) -> None:
    """What was acknowledged is there and whole; nothing else is readable; nothing torn has a final name."""
    array, wanted = array_in(folder), chunks_of(whole)
    assert {int(line) for line in acknowledged if line.isdigit()} <= array.committed()
    for chunk in array.committed():
        written, wanted_record = array.record(chunk), whole.record(chunk)
        assert written and wanted_record and replace(written, writer="w") == wanted_record  # or "adopted"
        assert chunks_of(array)[chunk_name(chunk)] == wanted[chunk_name(chunk)]
    assert chunks_of(array).items() <= wanted.items()
    if "created" in acknowledged:
        assert (array.key(), array.layout()) == (make_key(), LAYOUT)
    if "complete" in acknowledged:
        assert array.is_complete
    if array.is_complete:
        assert array.read().tobytes() == whole.read().tobytes()
    else:
        with pytest.raises(FeaturesNotCached):
            array.read()


def check_resumed(folder: Path, acknowledged: list[str], whole: FeatureArray, links: bool) -> None:
    """A second run computes nothing again that was acknowledged, and ends with the same bytes."""
    again: list[str] = []
    with without_syncs():
        array = resume(folder, links, again.append)
    numbers = {line for line in acknowledged if line.isdigit()}
    assert not numbers & set(again), "an acknowledged chunk was computed again"
    assert chunks_of(array) == chunks_of(whole)
    assert array.complete().root == whole.complete().root
    array.check()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize(("every", "seeds"), [(5, 1), pytest.param(1, 5, marks=pytest.mark.slow)])
def test_after_power_is_lost_between_any_two_operations_the_acknowledged_is_there_and_the_rest_is_resumed(
    tmp_path: Path, recording: Recording, whole: FeatureArray, loss: Loss, every: int, seeds: int
) -> None:
    disk = Disk()
    for count, operation in enumerate(recording.operations, 1):
        disk.apply(operation)
        if count % every and count < len(recording.operations):
            continue
        for seed in range(seeds if loss is LOSSES[-1] else 1):  # the others leave nothing to chance
            folder = tmp_path / f"{count}-{seed}"
            folder.mkdir()
            disk.lay_out(folder, loss, seed=1000 * count + seed)
            acknowledged = recording.acknowledged(count)
            check_what_stayed(folder, acknowledged, whole)
            check_resumed(folder, acknowledged, whole, recording.links)


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_what_a_second_run_acknowledges_survives_though_the_first_was_killed_between_any_two_operations(
    tmp_path: Path, recording: Recording, whole: FeatureArray, every: int
) -> None:
    """The first process is killed (the system keeps what it had not synced), the second ends, then the power goes."""
    for count in range(1, len(recording.operations) + 1, every):
        folder, lost = tmp_path / f"{count}", tmp_path / f"{count}-lost"
        folder.mkdir()
        lost.mkdir()
        disk = played(recording.operations[:count])
        disk.lay_out(folder)
        again = record(folder, lambda acknowledge, folder=folder: resume(folder, recording.links, acknowledge))
        for operation in again:
            disk.apply(operation)
        disk.lay_out(lost, LOSSES[0])
        check_what_stayed(lost, ["created", "complete", *map(str, range(LAYOUT.chunks))], whole)


# -- the row tables


def write_tables(folder: Path, overlay: Overlay) -> None:
    view = text_dataset().views["captions"]
    write_rows(LocalFolder(folder / "tiny" / "captions"), view, overlay)


def current_splits(folder: Path) -> str:
    """Root of the splits and labels that a reader gets; it must get the right rows, too."""
    view, dataset_folder = text_dataset().views["captions"], LocalFolder(folder / "tiny")
    binds = {"modality": view.modality, "decoding": dict(view.decoding), "root": view.root}
    rows = read_rows(dataset_folder / "captions", binds)
    assert (tuple(rows.ids), tuple(rows.groups), tuple(rows.hashes)) == (view.ids, view.groups, view.hashes)
    return read_overlay(dataset_folder, "captions", view.root).root


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_row_tables_that_lose_power_are_the_old_ones_the_new_ones_or_written_anew(tmp_path: Path, loss: Loss) -> None:
    old = text_dataset().overlay
    new = replace(old, labels={"colour": ("red",) * len(old.groups)})
    real = tmp_path / "real"
    real.mkdir()

    def twice(acknowledge: Callable[[str], None]) -> None:
        write_tables(real, old)
        acknowledge("old")
        write_tables(real, new)
        acknowledge("new")

    recording, disk, folder = Recording(record(real, twice)), Disk(), real
    for count, operation in enumerate(recording.operations, 1):
        disk.apply(operation)
        folder = tmp_path / str(count)
        folder.mkdir()
        disk.lay_out(folder, loss, seed=count)
        acknowledged = recording.acknowledged(count)
        if not acknowledged:
            try:
                assert current_splits(folder) == old.root
            except Damaged:
                pass  # nothing was promised yet
        else:
            assert current_splits(folder) in ([new.root] if "new" in acknowledged else [old.root, new.root])
        with without_syncs():
            write_tables(folder, new)
        assert current_splits(folder) == new.root
        torn = [path for path in folder.rglob("*") if path.is_file() and not path.stat().st_size]
        assert all(is_leftover(path.name) for path in torn)
    assert files_in(folder) == files_in(real)


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_row_tables_acknowledged_by_a_second_run_survive_though_the_first_was_killed(
    tmp_path: Path, every: int
) -> None:
    overlay = text_dataset().overlay
    real = tmp_path / "real"
    real.mkdir()
    operations = record(real, lambda acknowledge: write_tables(real, overlay))
    for count in range(1, len(operations) + 1, every):
        folder, lost = tmp_path / f"{count}", tmp_path / f"{count}-lost"
        folder.mkdir()
        lost.mkdir()
        disk = played(operations[:count])
        disk.lay_out(folder)
        for operation in record(folder, lambda acknowledge, folder=folder: write_tables(folder, overlay)):
            disk.apply(operation)
        disk.lay_out(lost, LOSSES[0])
        assert current_splits(lost) == overlay.root


# -- a whole extraction -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Operation], dict[str, bytes]]]:
    """The operations of extracting three layers, several threads at once, and the chunks it gave."""
    folder = tmp_path_factory.mktemp("extracted")
    with mock.patch("featcache.extraction.job.describe", lambda spec, options, memo: fake_card()):
        operations = record(folder, lambda acknowledge: run(Cache(folder), text_dataset()))
        played(operations).lay_out(again := tmp_path_factory.mktemp("extracted-again"))
        assert files_in(again) == files_in(folder), "an operation went unrecorded"
        yield operations, snapshot(folder)


@pytest.mark.parametrize("loss", [None, *LOSSES], ids=lambda loss: loss.name if loss else "killed, all stays")
@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_the_same_command_completes_an_extraction_that_was_killed_or_lost_power_between_any_two_operations(
    tmp_path: Path, extraction: tuple[list[Operation], dict[str, bytes]], loss: Loss | None, every: int
) -> None:
    operations, wanted = extraction
    disk = Disk()
    for count, operation in enumerate(operations, 1):
        disk.apply(operation)
        if count % every:
            continue
        folder = tmp_path / str(count)
        folder.mkdir()
        disk.lay_out(folder, loss, seed=count)
        assert snapshot(folder).items() <= wanted.items()
        with without_syncs():
            run(Cache(folder), text_dataset())
        assert snapshot(folder) == wanted
        assert not list(verify(Cache(folder), deep=True))
