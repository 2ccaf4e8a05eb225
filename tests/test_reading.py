"""A reader gives the same rows as the whole array, by every way of reading, and only verified ones."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import featcache.store.maps
import featcache.store.reader
from featcache.errors import Damaged, FeaturesNotCached, UsageError
from featcache.store.array import FeatureArray
from featcache.store.checked import CheckedArrays, identities, stamp_of
from featcache.store.digest import ArrayKey
from featcache.store.layout import Layout
from featcache.store.reader import Reader
from featcache.store.records import CRC_BYTES, chunk_name, crc_of
from tests.fakes import bare_binds

N, D, ROWS = 101, 6, 10
CHUNKS = 11  # the last holds one row


def features(dtype: str = "float16") -> np.ndarray:
    values = np.random.default_rng(3).standard_normal((N, D)).astype(dtype)
    values[5] = [0, -0.0, 65_504, -65_504, 6e-8, 6.1e-5]  # float16's largest, its least subnormal, its least normal
    return values


def write(folder: Path, values: np.ndarray | None = None, *, chunks: int = CHUNKS) -> FeatureArray:
    values = features() if values is None else values
    key = ArrayKey("tiny", "captions", "fake", "last.mean", bare_binds(N, D, values.dtype.name))
    array = FeatureArray(folder / key.path)
    layout = array.create(key, Layout(N, ROWS, 4, "row", 1))
    for chunk in range(chunks):
        start, stop = layout.span(chunk)
        array.commit(layout, chunk, values[start:stop], writer="w")
    if chunks == CHUNKS:
        array.finish(layout)
    return array


def flip(array: FeatureArray, chunk: int, place: int = 40) -> None:
    """Changes one bit of a chunk file, in place."""
    path = array.path / chunk_name(chunk)
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    with path.open("r+b") as file:
        file.write(content)


def decay(array: FeatureArray, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped bit that leaves no trace in the file's times, as when a disk decays: the clock is not to be changed."""
    before, real = os.stat(array.path / chunk_name(chunk)), os.stat

    def stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        return before if str(path).endswith(f"/{chunk_name(chunk)}") else real(path, *arguments, **named)

    def fstat(descriptor: int) -> os.stat_result:
        status = whole(descriptor)
        return before if status.st_ino == before.st_ino else status

    whole = os.fstat
    flip(array, chunk)
    monkeypatch.setattr("featcache.store.checked.os.stat", stat)
    monkeypatch.setattr("featcache.store.reader.os.fstat", fstat)


@pytest.fixture(scope="module")
def opened() -> Iterator[Reader]:
    with tempfile.TemporaryDirectory() as folder:
        yield write(Path(folder)).open()


@pytest.fixture
def reader(opened: Reader) -> Reader:
    return opened


# -- any rows, ranges, blocks -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rows=st.lists(st.integers(0, N - 1), max_size=60), verify=st.booleans())
def test_any_rows_are_those_of_the_whole_array_in_the_order_asked(
    opened: Reader, rows: list[int], verify: bool
) -> None:
    taken = opened.take(np.array(rows, np.int64), verify=verify)
    np.testing.assert_array_equal(taken, features()[rows])
    assert taken.shape == (len(rows), D)


@settings(deadline=None)
@given(ends=st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted), verify=st.booleans())
def test_a_range_is_the_same_by_reading_and_by_mapping(opened: Reader, ends: list[int], verify: bool) -> None:
    start, stop = ends
    for way in (opened.read, opened.block):
        np.testing.assert_array_equal(way(start, stop, verify=verify), features()[start:stop])


@pytest.mark.parametrize("rows", [1, 7, ROWS, 33, N, 1_000])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_blocks_hold_every_row_once(reader: Reader, rows: int, seed: int | None) -> None:
    seen = np.zeros(N, int)
    for start, block in reader.blocks(rows, seed=seed):
        np.testing.assert_array_equal(block, features()[start : start + rows])
        seen[start : start + rows] += 1
    assert (seen == 1).all()


def test_blocks_come_in_order_unless_a_seed_shuffles_them_the_same_each_time(reader: Reader) -> None:
    orders = [[start for start, _ in reader.blocks(ROWS, seed=seed)] for seed in (None, 1, 1, 2)]
    assert orders[0] == sorted(orders[0])
    assert orders[1] == orders[2] != orders[0]
    assert orders[3] != orders[1]


def test_rows_that_do_not_exist_are_refused(reader: Reader) -> None:
    for rows in ([-1], [0, N], [N + 5, 3]):
        with pytest.raises(UsageError, match=f"of an array of {N}"):
            reader.take(np.array(rows))
    for start, stop in ((-1, 3), (5, 4), (0, N + 1)):
        for way in (reader.read, reader.block):
            with pytest.raises(UsageError, match=f"rows {start} to {stop} of an array of {N}"):
                way(start, stop)
    with pytest.raises(UsageError, match="a block of 0 rows"):
        next(reader.blocks(0))


@pytest.mark.parametrize("with_torch", [True, False])
@pytest.mark.parametrize(("stored", "wanted"), [("float16", "float32"), ("float16", "float64"), ("float32", "float16"),
                                                ("float32", "float64"), ("float16", None)])  # fmt: skip
def test_converting_on_the_way_is_converting_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, wanted: str | None, with_torch: bool
) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch if with_torch else None)
    values = features(stored)
    reader, oracle = write(tmp_path, values).open(), values.astype(wanted or stored)
    rows = np.array([100, 5, 5, 0])
    for values, expected in [
        (reader.read(dtype=wanted), oracle),
        (reader.read(3, 8, dtype=wanted), oracle[3:8]),
        (reader.read(3, 8, dtype=wanted, verify=False), oracle[3:8]),
        (reader.block(3, 28, dtype=wanted), oracle[3:28]),
        (reader.take(rows, dtype=wanted), oracle[rows]),
    ]:
        assert values.dtype == oracle.dtype
        assert values.tobytes() == expected.tobytes()


def test_every_half_becomes_the_same_float_by_torch_as_by_numpy() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    converted = np.empty(len(halves), np.float32)
    featcache.store.reader._convert(converted, halves)
    np.testing.assert_array_equal(converted, halves.astype(np.float32))  # any NaN counts as equal to any
    halves.flags.writeable = False  # as a map is
    featcache.store.reader._convert(converted, halves)
    np.testing.assert_array_equal(converted, halves.astype(np.float32))


def test_torch_takes_what_is_read_without_a_copy_and_may_write_to_it(reader: Reader) -> None:
    for values in (reader.read(), reader.block(3, 9), reader.take(np.array([4, 2]))):
        tensor = torch.from_numpy(values)
        tensor[0] = 1
        assert (values[0] == 1).all()
    np.testing.assert_array_equal(reader.block(3, 9), features()[3:9])  # what was written to was no map


def test_more_chunks_than_may_be_mapped_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    featcache.store.maps.MAPS.clear()
    monkeypatch.setattr(featcache.store.maps.MAPS, "most", 3)
    reader, before = write(tmp_path).open(), len(os.listdir("/proc/self/fd")) if Path("/proc").exists() else 0
    rows = np.random.default_rng(0).integers(0, N, 300)
    for _ in range(3):
        np.testing.assert_array_equal(reader.take(rows), features()[rows])
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= 3


def test_an_array_is_read_while_its_chunks_are_replaced_by_others_of_the_same_bytes(tmp_path: Path) -> None:
    array = write(tmp_path)
    reader, path = array.open(), array.path / chunk_name(4)
    reader.block(40, 50)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    np.testing.assert_array_equal(reader.block(38, 52), features()[38:52])


# -- checking ---------------------------------------------------------------------------------------------------------


def ways(reader: Reader) -> list[Any]:
    """Every way to ask for rows of chunk 7 and of no other."""
    return [lambda: reader.read(71, 73), lambda: reader.block(71, 73), lambda: reader.take(np.array([72, 71]))]


@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize("place", [0, ROWS * D * 2 - 1, ROWS * D * 2, ROWS * D * 2 + CRC_BYTES - 1])
def test_a_flipped_byte_is_named_whichever_way_it_is_met(tmp_path: Path, way: int, place: int) -> None:
    array = write(tmp_path)
    flip(array, 7, place)
    reader = array.open()
    with pytest.raises(Damaged, match="chunk 7 of .* flipped bits"):
        ways(reader)[way]()
    np.testing.assert_array_equal(reader.take(np.array([69, 80])), features()[[69, 80]])  # the others are whole


@pytest.mark.parametrize("way", range(3))
def test_a_missing_short_or_long_chunk_is_named_whichever_way_it_is_met(tmp_path: Path, way: int) -> None:
    array = write(tmp_path)
    path = array.path / chunk_name(7)
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"x", b"", None):
        path.unlink()
        if wrong is not None:
            path.write_bytes(wrong)
        with pytest.raises(Damaged, match="chunk 7 of .* (missing|has [0-9]+ bytes, recorded 124)"):
            ways(array.open())[way]()
        path.write_bytes(content)


def test_a_chunk_is_checked_at_its_first_touch_only_but_by_each_full_reading(tmp_path: Path) -> None:
    array = write(tmp_path)
    reader = array.open()
    reader.block(10, 20)
    flip(array, 1)
    reader.take(np.array([15]))  # known to this reader
    with pytest.raises(Damaged, match="chunk 1 of "):
        reader.read()
    with pytest.raises(Damaged, match="chunk 1 of "):  # and now known to be damaged
        reader.take(np.array([15]))
    with pytest.raises(Damaged, match="chunk 1 of "):
        array.open().block(10, 20)


def test_nothing_is_checked_where_that_is_not_asked_for(tmp_path: Path) -> None:
    array = write(tmp_path)
    flip(array, 1)
    reader = array.open()
    assert reader.block(10, 20, verify=False).shape == reader.read(10, 20, verify=False).shape == (10, D)
    with pytest.raises(Damaged, match="chunk 1 of "):  # unchecked is not trusted
        reader.block(10, 20)


def stamp(array: FeatureArray) -> str:
    """What the memory notes of an array's files."""
    return stamp_of(array.complete(), identities(array.folder, array.complete()) or [])


# -- remembering ------------------------------------------------------------------------------------------------------


def whole(reader: Reader) -> None:
    reader.read()


def in_blocks(reader: Reader) -> None:
    for _ in reader.blocks(7, seed=0):
        pass


def row_by_row(reader: Reader) -> None:
    for row in range(N):
        reader.take(np.array([row]))


@pytest.mark.parametrize("way", [whole, in_blocks, row_by_row])
def test_what_was_read_whole_is_remembered_by_the_next_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Any
) -> None:
    array, memory = write(tmp_path), CheckedArrays(tmp_path, tmp_path / "own")
    way(array.open(checked=memory))
    decay(array, 3, monkeypatch)
    array.open(checked=memory).take(np.array([31]))  # trusted, unseen
    with pytest.raises(Damaged, match="chunk 3 of "):
        array.open().take(np.array([31]))
    with pytest.raises(Damaged, match="chunk 3 of "):  # a full reading trusts no memory
        array.open(checked=memory).read()
    with pytest.raises(Damaged, match="chunk 3 of "):  # and puts an end to it
        array.open(checked=memory).take(np.array([31]))


def test_a_file_that_takes_a_checked_ones_place_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache.store.maps

    monkeypatch.setattr(featcache.store.maps.MAPS, "most", 2)
    array = write(tmp_path)
    reader = array.open()
    reader.take(np.arange(N))
    for chunk in range(4):  # another array's rows, whole in themselves, while the reader is open
        path = array.path / chunk_name(chunk)
        body = (np.frombuffer(path.read_bytes()[:-4], np.float16) + np.float16(1)).tobytes()
        (tmp_path / "new").write_bytes(body + crc_of(body))
        (tmp_path / "new").replace(path)
    with pytest.raises(Damaged, match="chunk 0 of"):
        reader.take(np.arange(N))
    with pytest.raises(Damaged, match="chunk 1 of"):
        reader.block(*array.complete().layout.span(1))


def test_a_part_that_was_read_or_a_reading_without_checks_is_not_remembered(tmp_path: Path) -> None:
    array, memory = write(tmp_path), CheckedArrays(tmp_path, tmp_path / "own")
    array.open(checked=memory).read(0, N - 1)
    array.open(checked=memory).read(verify=False)
    array.open(checked=memory).take(np.arange(N), verify=False)
    assert not memory.knows(array.folder, stamp(array))


@pytest.mark.parametrize("change", ["in place", "with its time put back", "by another file"])
def test_a_chunk_written_again_is_forgotten(tmp_path: Path, change: str) -> None:
    array, memory = write(tmp_path), CheckedArrays(tmp_path, tmp_path / "own")
    array.open(checked=memory).read()
    path = array.path / chunk_name(3)
    before = path.stat()
    if change == "by another file":
        shutil.copy2(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
    flip(array, 3)
    if change == "with its time put back":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(Damaged, match="chunk 3 of "):
        array.open(checked=memory).take(np.array([31]))


def test_a_chunk_that_changes_while_the_others_are_checked_is_not_trusted_later(tmp_path: Path) -> None:
    array, memory = write(tmp_path), CheckedArrays(tmp_path, tmp_path / "own")
    reader = array.open(checked=memory)
    reader.block(0, 50)
    flip(array, 3)  # checked before, and again the array's to lose
    reader.block(50, N)
    with pytest.raises(Damaged, match="chunk 3 of "):
        array.open(checked=memory).take(np.array([31]))


def test_another_array_in_the_same_place_is_not_the_one_that_was_checked(tmp_path: Path) -> None:
    array, memory = write(tmp_path), CheckedArrays(tmp_path, tmp_path / "own")
    array.open(checked=memory).read()
    complete = array.complete()
    assert memory.knows(array.folder, stamp(array))
    assert not memory.knows(
        array.folder, stamp_of(replace(complete, root="0" * 32), identities(array.folder, complete) or [])
    )


READ_ONLY = """
import os, sys
from pathlib import Path
from featcache.store.array import FeatureArray
from featcache.store.checked import CheckedArrays
from tests.test_reading import stamp
array, memory = FeatureArray(Path(sys.argv[1])), CheckedArrays(Path(sys.argv[2]), Path(sys.argv[3]))
if os.geteuid() == 0:  # root may write anywhere
    os.setegid(65534)
    os.seteuid(65534)
array.open(checked=memory).read()
assert memory.knows(array.folder, stamp(array))
"""


def test_a_cache_that_cannot_be_written_to_is_remembered_beside_the_users_own() -> None:
    with tempfile.TemporaryDirectory() as folder:  # below pytest's own folder nobody else may look
        shared, own = Path(folder) / "shared", Path(folder) / "own"
        array = write(shared)
        own.mkdir()
        if os.geteuid() == 0:
            Path(folder).chmod(0o755)
            os.chown(own, 65_534, 65_534)
        shared.chmod(0o555)
        try:
            command = [sys.executable, "-c", READ_ONLY, str(array.path), str(shared), str(own)]
            done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
        finally:
            shared.chmod(0o755)
        assert done.returncode == 0, done.stderr
        assert not (shared / ".verified").exists()
        assert len(list((own / ".verified").iterdir())) == 1


def test_a_memory_that_cannot_be_kept_anywhere_costs_only_the_checks(tmp_path: Path) -> None:
    array, no_folder = write(tmp_path), tmp_path / "file"
    no_folder.write_text("a file where a folder should be")
    memory = CheckedArrays(no_folder, no_folder)
    array.open(checked=memory).read()
    assert not memory.knows(array.folder, stamp(array))
    np.testing.assert_array_equal(array.open(checked=memory).take(np.array([7])), features()[[7]])


# -- parts, and others' codecs ----------------------------------------------------------------------------------------


def test_of_a_partial_array_only_the_rows_that_are_there_are_read(tmp_path: Path) -> None:
    whole_one, part = write(tmp_path / "whole"), write(tmp_path / "part", chunks=0)
    shutil.copy(whole_one.path / "COMPLETE.json", part.path / "PARTIAL.json")
    for chunk in (2, 3, 7):
        shutil.copy(whole_one.path / chunk_name(chunk), part.path)
        shutil.copy(whole_one.path / "commits" / f"{chunk}.json", part.path / "commits")
    reader = part.open(partial=True)
    np.testing.assert_array_equal(reader.read(20, 40), features()[20:40])
    np.testing.assert_array_equal(reader.block(25, 33), features()[25:33])
    np.testing.assert_array_equal(reader.take(np.array([79, 20, 39])), features()[[79, 20, 39]])
    for way in (
        lambda: reader.read(),
        lambda: reader.block(39, 41),
        lambda: reader.take(np.array([20, 80])),
        lambda: list(reader.blocks(10)),
    ):
        with pytest.raises(FeaturesNotCached, match="here are rows 20:40, 70:80 of 101"):
            way()


def test_an_array_that_another_writer_compressed_is_read_through_zarr(tmp_path: Path) -> None:
    import zarr
    from zarr.codecs import ZstdCodec

    array = write(tmp_path)
    for chunk in range(CHUNKS):
        (array.path / chunk_name(chunk)).unlink()
    (array.path / "zarr.json").unlink()
    other = zarr.create_array(
        store=str(array.path),
        shape=(N, D),
        chunks=(ROWS, D),
        dtype="float16",
        compressors=[ZstdCodec(level=3, checksum=True)],
        chunk_key_encoding={"name": "default", "separator": "."},
        fill_value=float("nan"),
    )
    other[:] = features()
    reader, rows = array.open(), np.array([100, 5, 5, 0])
    np.testing.assert_array_equal(reader.read(), features())
    np.testing.assert_array_equal(reader.block(8, 31), features()[8:31])
    np.testing.assert_array_equal(reader.take(rows), features()[rows])
    np.testing.assert_array_equal(reader.take(rows, dtype="float32"), features()[rows].astype(np.float32))
    with pytest.raises(UsageError):
        reader.take(np.array([N]))


def test_our_own_codecs_are_read_without_importing_zarr(tmp_path: Path) -> None:
    array = write(tmp_path)
    code = (
        "import sys, numpy as np; from pathlib import Path; from featcache.store.array import FeatureArray\n"
        "reader = FeatureArray(Path(sys.argv[1])).open(); reader.read(); reader.take(np.array([3, 99]))\n"
        "assert not {'zarr', 'torch', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(array.path)], check=True, cwd=Path(__file__).parents[1])
