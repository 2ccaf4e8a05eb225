"""An array behaves like a dict of blocks, whatever is done to it in whatever order."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featcache.cache import Cache
from featcache.errors import Damaged, FeaturesNotCached, UsageError
from featcache.store.digest import ArrayKey
from featcache.store.layout import Layout
from featcache.store.leases import FOLDER
from featcache.store.mark import MARK
from featcache.store.records import chunk_name
from tests.fakes import bare_binds
from tests.faults import without_syncs

UNFINISHED = precondition(lambda self: self.created and not self.complete)


class Store(RuleBasedStateMachine):
    """Two FeatureArray objects on one folder against dicts: the blocks on the disk and the blocks on record."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="featcache-"))
        self.quick = without_syncs()
        self.quick.__enter__()
        self.cache = Cache(self.root)
        self.on_disk: dict[int, np.ndarray] = {}
        self.damaged: set[int] = set()  # chunks on disk that are not whole; never those on record
        self.on_record: dict[int, np.ndarray] = {}
        self.created = self.complete = False

    def teardown(self) -> None:
        self.quick.__exit__(None, None, None)
        shutil.rmtree(self.root)

    @initialize(
        n=st.integers(1, 40),
        d=st.integers(1, 5),
        rows=st.integers(1, 12),
        dtype=st.sampled_from(["float16", "float32"]),
    )
    def shape(self, n: int, d: int, rows: int, dtype: str) -> None:
        self.layout, self.d, self.dtype = Layout(n, min(n, rows), 4, "row", 1), d, np.dtype(dtype)
        self.key = ArrayKey("a", "b", "c", "last.mean", bare_binds(n, d, dtype))
        self.arrays = [self.cache.array(self.key.path) for _ in range(2)]

    def chunk(self, data: st.DataObject, among: Any = None) -> int:
        return data.draw(st.sampled_from(sorted(range(self.layout.chunks) if among is None else among)))

    def block(self, chunk: int, seed: int) -> np.ndarray:
        start, stop = self.layout.span(chunk)
        return np.random.default_rng([chunk, seed]).standard_normal((stop - start, self.d)).astype(self.dtype)

    def path(self, chunk: int) -> Path:
        return self.arrays[0].path / chunk_name(chunk)

    # -- what writers do --------------------------------------------------------------------------------------------

    @rule(who=st.integers(0, 1), other_plan=st.booleans())
    def create(self, who: int, other_plan: bool) -> None:
        wanted = Layout(self.layout.n, 3, 2, "cost", 7) if other_plan and self.created else self.layout
        assert self.arrays[who].create(self.key, wanted) == self.layout
        self.created = True

    @UNFINISHED
    @rule(data=st.data(), who=st.integers(0, 1), seed=st.integers(0, 2), again=st.booleans())
    def commit(self, data: st.DataObject, who: int, seed: int, again: bool) -> None:
        chunk = self.chunk(data)
        for turn in range(1 + again):
            block = self.block(chunk, seed + turn)
            record = self.arrays[(who + turn) % 2].commit(self.layout, chunk, block, writer=f"{who}")
            assert (record.chunk, record.rows) == (chunk, len(block))
            if chunk not in self.on_disk or chunk in self.damaged:
                self.on_disk[chunk] = block
                self.damaged.discard(chunk)
            self.on_record.setdefault(chunk, self.on_disk[chunk])

    @UNFINISHED
    @rule(data=st.data(), more=st.booleans())
    def commit_a_block_of_the_wrong_length(self, data: st.DataObject, more: bool) -> None:
        chunk = self.chunk(data)
        block = self.block(chunk, 0)
        wrong = np.concatenate([block, block]) if more else block[:-1]
        with pytest.raises(UsageError, match=f"chunk {chunk} holds rows"):
            self.arrays[0].commit(self.layout, chunk, wrong, writer="w")

    @UNFINISHED
    @rule(who=st.integers(0, 1))
    def adopt_orphans(self, who: int) -> None:
        orphans = self.on_disk.keys() - self.on_record.keys()
        assert self.arrays[who].adopt_orphans(self.layout) == sorted(orphans - self.damaged)
        for chunk in orphans & self.damaged:
            del self.on_disk[chunk]
        self.damaged.clear()
        self.on_record = dict(self.on_disk)

    @precondition(lambda self: self.created)
    @rule(who=st.integers(0, 1))
    def finish(self, who: int) -> None:
        missing = set(range(self.layout.chunks)) - self.on_record.keys()
        if missing:
            with pytest.raises(FeaturesNotCached, match=f"{len(missing)} of {self.layout.chunks} chunks are missing"):
                self.arrays[who].finish(self.layout)
        else:
            assert self.arrays[who].finish(self.layout) == self.arrays[1 - who].complete()
            self.complete = True

    @UNFINISHED
    @rule(who=st.integers(0, 1))
    def fill_and_finish(self, who: int) -> None:
        for chunk in range(self.layout.chunks):
            if chunk not in self.on_record:
                self.commit_one(chunk, who)
        self.finish(who)

    def commit_one(self, chunk: int, who: int) -> None:
        block = self.block(chunk, 9)
        self.arrays[who].commit(self.layout, chunk, block, writer="w")
        if chunk not in self.on_disk or chunk in self.damaged:
            self.on_disk[chunk] = block
            self.damaged.discard(chunk)
        self.on_record[chunk] = self.on_disk[chunk]

    # -- what befalls the disk --------------------------------------------------------------------------------------

    @UNFINISHED
    @precondition(lambda self: self.on_record)
    @rule(data=st.data())
    def a_record_is_lost(self, data: st.DataObject) -> None:
        chunk = self.chunk(data, self.on_record)
        (self.arrays[0].path / "commits" / f"{chunk}.json").unlink()
        del self.on_record[chunk]

    @UNFINISHED
    @precondition(lambda self: self.on_disk.keys() - self.on_record.keys() - self.damaged)
    @rule(data=st.data(), keep=st.floats(0, 1, exclude_max=True), flip=st.booleans())
    def a_chunk_without_record_is_damaged(self, data: st.DataObject, keep: float, flip: bool) -> None:
        chunk = self.chunk(data, self.on_disk.keys() - self.on_record.keys() - self.damaged)
        content = bytearray(self.path(chunk).read_bytes())
        place = int(keep * len(content))
        content[place] ^= 1 << place % 8
        self.path(chunk).write_bytes(content if flip else content[:place])
        self.damaged.add(chunk)

    @precondition(lambda self: self.complete)
    @rule(data=st.data(), keep=st.floats(0, 1, exclude_max=True), how=st.sampled_from(["flip", "cut", "gone", "swap"]))
    def a_chunk_on_record_is_damaged_and_mended(self, data: st.DataObject, keep: float, how: str) -> None:
        chunk = self.chunk(data)
        content = self.path(chunk).read_bytes()
        place = int(keep * len(content))
        if how == "gone":
            self.path(chunk).unlink()
        elif how == "swap":
            other = self.path(self.chunk(data)).read_bytes()
            assume(other != content)
            self.path(chunk).write_bytes(other)
        else:
            flipped = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
            self.path(chunk).write_bytes(flipped if how == "flip" else content[:place])
        start, stop = self.layout.span(chunk)
        with pytest.raises(Damaged, match=f"chunk {chunk} of"):
            self.arrays[0].read(start, stop)
        if start:
            np.testing.assert_array_equal(self.arrays[0].read(0, start), self.values()[:start])
        self.path(chunk).write_bytes(content)

    @precondition(lambda self: self.created)
    @rule()
    def remove(self) -> None:
        self.cache.remove(self.arrays[0])
        own = {self.key.dataset, MARK, FOLDER}
        assert not [path for path in self.root.rglob("*") if path.name not in own], "an empty folder stays"
        self.on_disk, self.on_record, self.damaged = {}, {}, set()
        self.created = self.complete = False

    # -- what readers see -------------------------------------------------------------------------------------------

    def values(self) -> np.ndarray:
        return np.concatenate([self.on_record[chunk] for chunk in range(self.layout.chunks)])

    @rule(data=st.data(), verify=st.booleans())
    def read(self, data: st.DataObject, verify: bool) -> None:
        start = data.draw(st.integers(0, self.layout.n))
        stop = data.draw(st.integers(start, self.layout.n))
        if not self.complete:
            with pytest.raises(FeaturesNotCached):
                self.arrays[0].read(start, stop, verify=verify)
            return
        rows = self.arrays[0].read(start, stop, verify=verify)
        assert rows.dtype == self.dtype
        np.testing.assert_array_equal(rows, self.values()[start:stop])

    @invariant()
    def the_folder_is_what_the_dicts_say(self) -> None:
        if not hasattr(self, "layout"):
            return
        for array in self.arrays:
            assert array.committed() == self.on_record.keys()
            assert array.is_complete == self.complete
        names = {name for name in (os.listdir(self.arrays[0].path) if self.created else []) if name.startswith("c.")}
        assert names == {chunk_name(chunk) for chunk in self.on_disk}
        for chunk, block in self.on_record.items():
            body = np.frombuffer(self.path(chunk).read_bytes()[:-4], self.dtype).reshape(-1, self.d)
            np.testing.assert_array_equal(body[: len(block)], block)
            assert len(body) == self.layout.chunk_rows and np.isnan(body[len(block) :]).all()


@pytest.mark.parametrize(("examples", "steps"), [(30, 25), pytest.param(300, 50, marks=pytest.mark.slow)])
def test_an_array_is_a_dict_of_blocks(examples: int, steps: int) -> None:
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Store,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=slow,
        ),
    )
