"""Which rows failed is decided by the bytes; a record that says otherwise is named wherever it is believed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.cache import Cache
from featcache.errors import Damaged
from featcache.interchange.exporting import export_features
from featcache.maintenance.repair import Sources, repair
from featcache.maintenance.verify import verify
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.store.array import FeatureArray
from featcache.store.failed import failed_problem, failed_rows
from featcache.store.records import Record
from tests.small_caches import CHUNK_ROWS, DATASET, LAYOUT, VIEW, D, N, edit, list_as_failed, store, values

HEALTHY = [f"r{row}" for row in range(0, N, 3)]
LIES: dict[str, tuple[list[int], Callable[[FeatureArray], None]]] = {
    "healthy rows listed": ([], lambda array: list_as_failed(array, HEALTHY)),
    "other rows listed, as many": ([3, 20], lambda array: list_as_failed(array, ["r4", "r21"])),
    "a row that is NaN not listed": ([3, 20], lambda array: list_as_failed(array, ["r3"])),
    "one row more listed": ([3], lambda array: list_as_failed(array, ["r3", "r5"])),
}


@pytest.fixture(params=LIES)
def lying(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    """A cache whose records were edited so that the root still holds."""
    cache = Cache(tmp_path / "shared")
    failed, lie = LIES[request.param]
    array = store(cache, failed=failed)
    root = array.complete().root
    lie(array)
    assert array.complete().root == root
    return cache


def array_of(cache: Cache) -> FeatureArray:
    return cache.find(DATASET.name, "fake")


def pull(source: Cache, target: Cache) -> None:
    transfer(plan_transfer(source, target))


def whole(reader: Any) -> np.ndarray:
    return np.concatenate([block for _, block in reader.blocks(11)])


USES: dict[str, Callable[[Cache, Path], object]] = {
    "load": lambda cache, path: cache.load(DATASET.name, "fake"),
    "load as float32": lambda cache, path: cache.load(DATASET.name, "fake", dtype="float32"),
    "load of some rows": lambda cache, path: cache.load(DATASET.name, "fake", rows=(0, 30)),
    "blocks of a reader": lambda cache, path: whole(cache.reader(array_of(cache))),
    "rows of a reader": lambda cache, path: cache.reader(array_of(cache)).take(np.arange(N)),
    "a pull": lambda cache, path: pull(cache, Cache(path / "mine")),
    "an export": lambda cache, path: export_features(cache, array_of(cache), path / "out.npz"),
}


@pytest.mark.parametrize("use", USES)
def test_a_list_of_failed_rows_that_the_bytes_contradict_is_refused(lying: Cache, tmp_path: Path, use: str) -> None:
    with pytest.raises(Damaged, match=r"row '?.*r?\d+.* is (listed as failed and is not NaN|NaN and no commit)"):
        USES[use](lying, tmp_path)
    assert not list((tmp_path / "mine").rglob("COMPLETE.json"))


@pytest.mark.parametrize("deep", [False, True])
def test_verify_names_the_chunk_and_the_row(lying: Cache, deep: bool) -> None:
    problems = list(verify(lying, deep=deep))
    assert problems and all(
        problem.chunk is not None and "contradict each other" in problem.what for problem in problems
    )


def test_a_reader_without_ids_counts_the_rows(tmp_path: Path) -> None:
    array = store(Cache(tmp_path))
    list_as_failed(array, ["r4"])
    with pytest.raises(Damaged, match="1 rows are listed as failed, and 0 are NaN"):
        array.open().take(np.array([1]))


def test_what_was_checked_before_is_checked_again_once_the_list_is_another(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    array = store(cache)
    cache.load(DATASET.name, "fake")  # the files are remembered as whole
    list_as_failed(array, HEALTHY)
    with pytest.raises(Damaged):
        cache.reader(array).take(np.array([1]))


def test_repair_lists_what_the_bytes_have_and_keeps_the_root(lying: Cache) -> None:
    array = array_of(lying)
    root, failed = array.complete().root, np.isnan(np.concatenate([_raw(array, c) for c in range(LAYOUT.chunks)]))
    steps: list[str] = []
    assert repair(lying, "*", Sources(), on_step=lambda where, what: steps.append(what)) == []
    assert "failed rows listed as the bytes have them" in steps
    assert array.complete().root == root and list(verify(lying, deep=True)) == []
    wanted = [row_id for row_id, gone in zip(VIEW.ids, failed.all(axis=1), strict=True) if gone]
    assert list(array.complete().failed) == wanted
    assert len(lying.load(DATASET.name, "fake")) == N - len(wanted)


def _raw(array: FeatureArray, chunk: int) -> np.ndarray:
    start, stop = LAYOUT.span(chunk)
    raw = (array.path / f"c.{chunk}.0").read_bytes()[:-4]
    return np.frombuffer(raw, np.float16).reshape(CHUNK_ROWS, D)[: stop - start]


def test_a_row_that_failed_is_dropped_and_travels(tmp_path: Path) -> None:
    here, there = Cache(tmp_path / "here"), Cache(tmp_path / "there")
    store(here, failed=[3, 20, N - 1])
    pull(here, there)
    loaded = there.load(DATASET.name, "fake")
    assert loaded.ids.tolist() == [row_id for row_id in VIEW.ids if row_id not in ("r3", "r20", f"r{N - 1}")]
    assert not np.isnan(loaded.values).any()


def test_an_edited_list_does_not_travel_where_the_chunks_are_there_already(tmp_path: Path) -> None:
    here, there = Cache(tmp_path / "here"), Cache(tmp_path / "there")
    array = store(here)
    pull(here, there)
    target = there.array(str(array.name))
    target.folder.remove("COMPLETE.json", *(f"commits/{chunk}.json" for chunk in range(LAYOUT.chunks)))
    list_as_failed(array, HEALTHY)
    with pytest.raises(Damaged):
        pull(here, there)
    assert not target.is_complete


_CELLS = st.sampled_from([0.0, -0.0, 1.5, 65504.0, float("inf"), float("-inf"), float("nan"), -float("nan")])


@given(
    st.lists(st.lists(_CELLS, min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from(["float16", "float32"]),
    st.data(),
)
def test_a_record_agrees_with_a_chunk_exactly_where_the_rows_of_nan_are_those_listed(
    rows: list[list[float]], dtype: str, data: st.DataObject
) -> None:
    block, ids = np.array(rows, dtype), [f"i{row}" for row in range(len(rows))]
    listed = tuple(data.draw(st.lists(st.sampled_from(ids), unique=True)))
    record = Record(0, len(rows), 4, "", "", listed)
    gone = tuple(row_id for row_id, row in zip(ids, rows, strict=True) if np.isnan(row).all())
    in_part = any(np.isnan(row).any() and not np.isnan(row).all() for row in rows)
    assert failed_rows(block, ids) == (None if in_part else gone)
    assert (failed_problem(block, record, lambda: ids) is None) == (not in_part and listed == gone)
    assert (failed_problem(block, record) is None) == (not in_part and len(listed) == len(gone))


def test_neighbours_fail_only_where_a_row_has_none() -> None:
    graph = np.array([[1, 2], [2, -1], [-1, -1]], np.int32)
    assert failed_rows(graph, ["a", "b", "c"]) == ("c",)
    assert failed_rows(graph[:2], None) == ()


def test_padding_behind_the_last_row_is_no_failure(tmp_path: Path) -> None:
    array = store(Cache(tmp_path))
    edit(array.path / "commits/7.json", lambda record: None)
    np.testing.assert_array_equal(array.open().read(N - 1), values()[N - 1 :])
