"""What a file claims is compared with what it may be before it is read: no bomb unpacks, no pipe hangs."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.cache import Cache
from featcache.data.parquet_sizes import parquet_sizes
from featcache.errors import BeyondLimit, Damaged, FeatcacheError, UsageError
from featcache.limits import LIMITS, check_limit, limit
from featcache.maintenance.verify import verify
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from featcache.store.rows import read_rows, rows_name
from tests.small_caches import DATASET, LAYOUT, VIEW, N, edit, key, store

ROWS = {"modality": "text", "decoding": {}, "root": VIEW.root, "n": N}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    store(cache)
    return cache


def array_of(cache: Cache) -> FeatureArray:
    return cache.array(key().path)


def table_of(cache: Cache) -> Path:
    return cache.root / DATASET.name / VIEW.name / rows_name(VIEW.root)


def parquet(columns: dict[str, list[str]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer, compression="zstd", **options)
    return buffer.getvalue()


def assert_refused_quickly(cache: Cache, elsewhere: Path, match: str) -> None:
    began = time.monotonic()
    with pytest.raises(FeatcacheError, match=match):
        cache.load(DATASET.name, "fake")
    with pytest.raises(FeatcacheError, match=match):
        transfer(plan_transfer(cache, Cache(elsewhere)))
    assert any(match.split()[0] in problem.what for problem in verify(cache)) or list(verify(cache))
    cache.entries()
    assert time.monotonic() - began < 20


# -- row tables --------------------------------------------------------------------------------------------------------


BOMBS: dict[str, Callable[[], bytes]] = {
    "one text of 16 MB": lambda: parquet(
        {name: ["x" * 16_000_000, *("y" for _ in range(N - 1))] for name in ("id", "group", "source")}
    ),
    "texts of 1 MB": lambda: parquet(
        {name: [str(row % 9) * 1_000_000 for row in range(N)] for name in ("id", "group", "source")}
    ),
    "one text of 1 MB in every row": lambda: parquet(
        {name: ["x" * 1_000_000] * N for name in ("id", "group", "source")}
    ),
    "more rows than the key says": lambda: parquet({name: ["x"] * 3_000_000 for name in ("id", "group", "source")}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_row_table_that_unpacks_to_more_than_its_rows_can_hold_is_refused(
    bomb: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = BOMBS[bomb]()
    assert len(content) < 400_000
    table_of(cache).write_bytes(content)
    if "every row" in bomb:  # polars holds that text once; what is refused is a list of copies
        monkeypatch.setattr(pl.DataFrame, "to_dict", lambda *_, **__: pytest.fail("the table was unpacked"))
    else:
        monkeypatch.setattr(pl, "read_parquet", lambda *_, **__: pytest.fail("the table was decoded"))
    assert_refused_quickly(cache, tmp_path / "mine", rows_name(VIEW.root))


def test_splits_that_unpack_to_more_than_they_can_hold_are_refused(cache: Cache, tmp_path: Path) -> None:
    [path] = cache.root.glob("*/overlay-*.parquet")
    path.write_bytes(parquet({"group": [str(row % 9) * 1_000_000 for row in range(N)], "split": ["train"] * N}))
    assert_refused_quickly(cache, tmp_path / "mine", "overlay-")


def test_the_sizes_of_a_parquet_file_are_those_that_it_decodes_to() -> None:
    columns = {"id": [f"r{row}" * (row % 5) for row in range(9_000)], "group": ["a", "b", "c"] * 3_000}
    for options in ({}, {"row_group_size": 1_000}, {"statistics": False}, {"use_pyarrow": False}):
        sizes = parquet_sizes(parquet(columns, **options))
        text = len("".join(columns["id"])) + 4 * 9_000
        assert (sizes.rows, sizes.columns) == (9_000, 2) and text <= sizes.bytes <= 2 * text


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


_TABLE = parquet({name: [f"{name}{row}" for row in range(N)] for name in ("id", "group", "source")})


@given(st.integers(0, len(_TABLE) - 1), st.integers(0, 7))
def test_a_flipped_header_of_a_parquet_file_is_an_error_of_ours_or_claims_no_more(place: int, bit: int) -> None:
    try:
        sizes = parquet_sizes(_flipped(_TABLE, place, bit))
    except ValueError:
        return
    assert sizes.rows < 2**40


@given(st.binary(max_size=200))
def test_what_is_no_parquet_file_is_refused(content: bytes) -> None:
    for guess in (content, b"PAR1" + content + b"PAR1"):
        with pytest.raises(ValueError):
            parquet_sizes(guess)


def test_a_table_beyond_the_limit_names_the_variable_that_raises_it(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATCACHE_MAX_TABLE_BYTES", "1000")
    folder = cache.folder / DATASET.name / VIEW.name
    with pytest.raises(BeyondLimit, match="export FEATCACHE_MAX_TABLE_BYTES="):
        read_rows(folder, ROWS)
    monkeypatch.delenv("FEATCACHE_MAX_TABLE_BYTES")
    assert read_rows(folder, ROWS).ids == list(VIEW.ids)


# -- plans and records -------------------------------------------------------------------------------------------------


def test_a_plan_of_10_to_the_12_rows_is_refused_at_once(cache: Cache, tmp_path: Path) -> None:
    edit(array_of(cache).path / "plan.json", lambda plan: plan.update(n=10**12, chunk_rows=1))
    with pytest.raises(BeyondLimit, match="1,000,000,000,000 rows of an array; .* export FEATCACHE_MAX_ROWS="):
        array_of(cache).layout()
    assert_refused_quickly(cache, tmp_path / "mine", "plan.json")


def test_more_chunks_than_are_believed_are_refused_of_readers_and_writers(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEATCACHE_MAX_CHUNKS", str(LAYOUT.chunks - 1))
    with pytest.raises(BeyondLimit, match="has or claims 8 chunks of an array; .* export FEATCACHE_MAX_CHUNKS=8"):
        cache.load(DATASET.name, "fake")
    other = Cache(tmp_path / "other")
    with pytest.raises(BeyondLimit, match="FEATCACHE_MAX_CHUNKS"):
        other.array(key().path).create(key(), LAYOUT)
    assert not other.root.exists()
    monkeypatch.setenv("FEATCACHE_MAX_CHUNKS", str(LAYOUT.chunks))
    assert len(cache.load(DATASET.name, "fake")) == N


def test_a_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("many", "-1", "0", "1.5"):
        monkeypatch.setenv("FEATCACHE_MAX_ROWS", text)
        with pytest.raises(UsageError, match=f"FEATCACHE_MAX_ROWS='{text}'"):
            limit("rows")


@pytest.mark.parametrize("name", LIMITS)
def test_every_limit_stands_in_the_docs_and_is_raised_by_its_variable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, variable = LIMITS[name].most, LIMITS[name].variable
    check_limit(name, most, "here")
    with pytest.raises(BeyondLimit, match=f"export {variable}={most + 1}"):
        check_limit(name, most + 1, "here")
    monkeypatch.setenv(variable, str(most + 1))
    check_limit(name, most + 1, "here")
    page = (Path(__file__).parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
    assert f"`{variable}`" in page and f"{most:,}" in page


@pytest.mark.parametrize("name", ["key.json", "plan.json", "zarr.json", "COMPLETE.json", "commits/3.json"])
def test_a_sparse_file_of_200_gigabytes_is_not_read(name: str, cache: Cache, tmp_path: Path) -> None:
    path = array_of(cache).path / name
    if name.startswith("commits"):
        (array_of(cache).path / "COMPLETE.json").unlink()
    os.truncate(path, 200 * 10**9)
    began = time.monotonic()
    with pytest.raises(BeyondLimit, match=f"{name} has (or claims )?200,000,000,000 bytes"):
        array_of(cache).record(3) if name.startswith("commits") else array_of(cache).check()
    assert list(verify(cache)) and cache.entries()
    if name != "zarr.json":  # which a pull writes from the key
        with pytest.raises(FeatcacheError):
            transfer(plan_transfer(cache, Cache(tmp_path / "mine")))
    assert time.monotonic() - began < 20


def test_completion_may_be_as_large_as_the_plan_allows_and_no_larger(cache: Cache) -> None:
    path = array_of(cache).path / "COMPLETE.json"
    content = path.read_bytes()
    path.write_bytes(content + b" " * (LAYOUT.completion_json_bytes - len(content)))
    assert array_of(cache).complete().root
    path.write_bytes(content + b" " * (LAYOUT.completion_json_bytes - len(content) + 1))
    with pytest.raises(BeyondLimit, match="what it belongs to allows"):
        array_of(cache).complete()


def test_every_row_of_an_array_may_have_failed_with_a_long_name_and_its_records_are_read(tmp_path: Path) -> None:
    long = tuple(f"{row:04}" + "é" * 500 for row in range(N))
    array = Cache(tmp_path).array(key().path)
    layout = array.create(key(), LAYOUT)
    for chunk in range(layout.chunks):
        span = slice(*layout.span(chunk))
        block = np.full((span.stop - span.start, 4), np.nan, np.float16)
        array.commit(layout, chunk, block, writer="w", ids=long[span])
    assert array.finish(layout).failed == long


def test_a_chunk_that_is_larger_than_recorded_is_not_read(cache: Cache) -> None:
    os.truncate(array_of(cache).path / "c.3.0", 200 * 10**9)
    [problem] = verify(cache, deep=True)
    assert problem.chunk == 3 and "200000000000 bytes" in problem.what
    with pytest.raises(Damaged, match="chunk 3"):
        cache.load(DATASET.name, "fake")
    array_of(cache).folder.remove("COMPLETE.json", "commits/3.json")
    assert array_of(cache).adopt_orphans(LAYOUT) == []  # set aside, unread
    assert not array_of(cache).folder.exists("c.3.0")


# -- pipes and devices -------------------------------------------------------------------------------------------------


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("make", [_pipe, _zeros, _folder])
@pytest.mark.parametrize(
    "name",
    ["key.json", "plan.json", "zarr.json", "COMPLETE.json", "commits/3.json", "c.3.0", "rows", "overlay", "pointer"],
)
def test_only_plain_files_are_opened(name: str, make: Callable[[Path], None], cache: Cache, tmp_path: Path) -> None:
    tables = {"rows": "*/*/rows-*.parquet", "overlay": "*/overlay-*.parquet", "pointer": "*/*/rows-*.json"}
    path = next(cache.root.glob(tables[name])) if name in tables else array_of(cache).path / name
    make(path)
    assert list(verify(cache, deep=True))
    cache.entries()
    uses: dict[str, Callable[[], object]] = {
        "load": lambda: cache.load(DATASET.name, "fake"),
        "take": lambda: cache.reader(array_of(cache)).take(np.arange(N)),
        "pull": lambda: transfer(plan_transfer(cache, Cache(tmp_path / "mine"))),
    }
    unread = {"commits/3.json": ["load", "take"], "zarr.json": ["pull"] * (make is _folder)} | dict.fromkeys(
        tables, ["take"]
    )
    for use in uses.keys() - unread.get(name, []):
        if name != "commits/3.json" or make is not _folder:
            with pytest.raises(FeatcacheError):
                uses[use]()


def test_zarr_json_of_other_codecs_with_a_pipe_as_chunk_does_not_hang(cache: Cache) -> None:
    array = array_of(cache)
    edit(array.path / "zarr.json", lambda value: value.update(codecs=value["codecs"][:1]))
    _pipe(array.path / "c.3.0")
    with pytest.raises(Damaged, match="no file; nothing was read"):
        cache.load(DATASET.name, "fake")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [N, 10**9]},
        {"shape": [0, 0]},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 4]}}},
        {"data_type": "float64"},
        {"data_type": ["float16"]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
        {"codecs": [{"name": "gzip", "configuration": {"level": 99}}]},
        {"codecs": []},
    ],
)
def test_a_zarr_json_that_makes_no_sense_is_damage(change: dict[str, Any], cache: Cache) -> None:
    array = array_of(cache)
    edit(array.path / "zarr.json", lambda value: value.update(change | {"codecs": change.get("codecs", [])}))
    with pytest.raises(Damaged, match=r"zarr\.json|chunk"):
        cache.load(DATASET.name, "fake")


# -- maps --------------------------------------------------------------------------------------------------------------


def test_many_readers_leave_files_to_others(tmp_path: Path) -> None:
    """Sixty readers of eight chunks, where the process may have 64 files open."""
    code = f"""
import resource, sys
import numpy as np
from pathlib import Path
from featcache.cache import Cache
cache = Cache({str(tmp_path)!r})
arrays = list(cache.arrays())
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
readers = [cache.reader(array) for array in arrays for _ in range(60)]
whole = readers[0].read()
for reader in readers:
    assert (reader.take(np.arange({N})) == whole).all()
    assert (reader.block(3, 40) == whole[3:40]).all()
print("right")
"""
    store(Cache(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "right\n", done.stderr


def test_chunks_that_another_user_may_cut_are_copied_and_never_mapped(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of a file that is cut ends the process by SIGBUS; a copy is an error at most."""
    reader, wanted = cache.reader(array_of(cache)), cache.load(DATASET.name, "fake").values
    monkeypatch.setattr("featcache.store.maps.os.geteuid", lambda: os.getuid() + 1)  # they are another's
    monkeypatch.setattr("featcache.store.reader.map_file", lambda *_: pytest.fail("a file of another user was mapped"))
    np.testing.assert_array_equal(reader.take(np.arange(N)), wanted)
    for chunk in range(LAYOUT.chunks):
        os.truncate(array_of(cache).path / f"c.{chunk}.0", 5)
    np.testing.assert_array_equal(reader.take(np.arange(N)), wanted)  # as it was when it was read
    with pytest.raises(Damaged, match="has 5 bytes, recorded"):
        cache.reader(array_of(cache)).take(np.arange(N))


def test_a_chunk_that_is_cut_before_it_is_mapped_is_named(cache: Cache) -> None:
    reader = cache.reader(array_of(cache))
    os.truncate(array_of(cache).path / "c.2.0", 5)
    with pytest.raises(Damaged, match="chunk 2 .* has 5 bytes"):
        reader.take(np.array([15]))


def test_a_file_of_a_network_is_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from featcache.store import maps

    path = tmp_path / "file"
    path.write_bytes(b"1")
    status = path.stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    for kind, shared in (("ext4", False), ("nfs4", True), ("fuse.sshfs", True), ("tmpfs", False)):
        mounts = tmp_path / kind
        mounts.write_text(f"36 35 {device} / /mnt rw - {kind} server:/x rw\n")
        monkeypatch.setattr(maps, "_MOUNTS", mounts)
        maps._is_shared.cache_clear()
        assert maps.may_be_mapped(status) == (not shared)
    maps._is_shared.cache_clear()


def test_a_plan_may_not_have_chunks_longer_than_the_array() -> None:
    with pytest.raises(Damaged, match="chunks of 60 of 50 rows"):
        Cache("nowhere").array(key().path).create(key(), Layout(N, 60, 4, "row", 1))
