"""One array: what is written is read back, damage is refused, and killed writers lose nothing acknowledged."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import Damaged, FeaturesNotCached, NewerFormat, UsageError
from featcache.storage import durable
from featcache.storage.base import ASIDE
from featcache.storage.durable import replace, write_once
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey, canonical, differences
from featcache.store.layout import Layout, chunk_rows
from featcache.store.records import chunk_name
from tests.fakes import bare_binds

N, D, ROWS = 43, 5, 8
LAYOUT = Layout(N, ROWS, 4, "row", 1)


def make_key(**binds: object) -> ArrayKey:
    return ArrayKey("tiny", "captions", "fake", "last.mean", bare_binds(N, D) | binds)


def features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float16)


def write_all(folder: Path, layout: Layout = LAYOUT, *, chunks: int | None = None) -> FeatureArray:
    key = make_key()
    array = FeatureArray(folder / key.path)
    array.create(key, layout)
    for chunk in range(layout.chunks if chunks is None else chunks):
        start, stop = layout.span(chunk)
        array.commit(layout, chunk, features()[start:stop], writer="w")
    if chunks is None:
        array.finish(layout)
    return array


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    for start, stop in [(0, N), (0, 0), (3, 4), (7, 9), (8, 16), (40, 43), (5, 41)]:
        for verify in (True, False):
            np.testing.assert_array_equal(array.read(start, stop, verify=verify), features()[start:stop])


def test_zarr_python_and_tensorstore_read_the_same_array(tmp_path: Path) -> None:
    import tensorstore

    from featcache.store.zarr_reader import open_zarr

    array = write_all(tmp_path)
    np.testing.assert_array_equal(open_zarr(array.path)[:], features())
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array.path)}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), features())


def test_the_padding_of_the_last_chunk_is_nan(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    raw = np.frombuffer((array.path / chunk_name(5)).read_bytes()[:-4], np.float16).reshape(ROWS, D)
    assert np.isnan(raw[N - 5 * ROWS :]).all()


def test_an_incomplete_array_is_not_read(tmp_path: Path) -> None:
    array = write_all(tmp_path, chunks=3)
    with pytest.raises(FeaturesNotCached, match="not complete"):
        array.read()
    with pytest.raises(FeaturesNotCached, match="3 of 6 chunks are missing"):
        array.finish(LAYOUT)


def test_every_flipped_byte_of_a_chunk_is_refused(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    path = array.path / chunk_name(2)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(Damaged, match="chunk 2 of .* flipped bits"):
            array.read(17, 18)


@pytest.mark.parametrize("content", [b"", b"short", None])
def test_a_short_or_missing_chunk_is_named(tmp_path: Path, content: bytes | None) -> None:
    array = write_all(tmp_path)
    path = array.path / chunk_name(4)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Damaged, match="chunk 4 of "):
        array.read()


def test_two_chunks_in_each_others_place_are_refused_though_their_checksums_hold(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    a, b = array.path / chunk_name(0), array.path / chunk_name(1)
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)
    with pytest.raises(Damaged, match="chunk 0"):
        array.read()


def test_every_changed_field_of_the_completion_record_is_refused(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    path = array.path / "COMPLETE.json"
    whole = json.loads(path.read_bytes())
    changes = [
        {"root": "0" * 32},
        {"digest": "0" * 32},
        {"d": D + 1},
        {"dtype": "float32"},
        {"plan": whole["plan"] | {"n": N + 1}},
        {"plan": whole["plan"] | {"chunk_rows": ROWS + 1}},
        {"records": whole["records"][:-1]},
        {"records": whole["records"][::-1]},
        {"records": [whole["records"][0] | {"rows": 1}, *whole["records"][1:]]},
        {"records": [whole["records"][0] | {"blake3": "0" * 64}, *whole["records"][1:]]},
        {"records": [{"chunk": 0}]},
    ]
    for change in changes:
        path.write_bytes(canonical(whole | change))
        with pytest.raises(Damaged):
            array.complete()
    path.write_bytes(b"{not json")
    with pytest.raises(Damaged, match="not valid JSON"):
        array.complete()


def test_a_changed_key_is_refused(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    path = array.path / "key.json"
    value = json.loads(path.read_bytes())
    value["binds"]["layer"] = "0.mean"
    path.write_text(json.dumps(value))
    with pytest.raises(Damaged, match="was changed"):
        array.key()


def test_an_array_of_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    for name in ("key.json", "COMPLETE.json"):
        value = json.loads((array.path / name).read_bytes())
        (array.path / name).write_text(json.dumps(value | {"format": 2}))
    for read in (array.key, array.complete):
        with pytest.raises(NewerFormat, match="pip install --upgrade"):
            read()


def test_the_first_plan_wins(tmp_path: Path) -> None:
    array = write_all(tmp_path, chunks=1)
    assert array.create(make_key(), Layout(N, ROWS + 1, 2, "cost", 2)) == LAYOUT


def test_a_chunk_without_record_is_adopted_if_whole_and_set_aside_if_not(tmp_path: Path) -> None:
    array = write_all(tmp_path, chunks=4)
    (array.path / "commits" / "1.json").unlink()
    (array.path / "commits" / "2.json").unlink()
    broken = array.path / chunk_name(2)
    broken.write_bytes(broken.read_bytes()[:-7])
    assert array.adopt_orphans(LAYOUT) == [1]
    assert array.committed() == {0, 1, 3}
    assert not broken.exists()
    assert len([name for name in os.listdir(array.path) if name.startswith(ASIDE)]) == 1
    for chunk in (2, 4, 5):
        start, stop = LAYOUT.span(chunk)
        array.commit(LAYOUT, chunk, features()[start:stop], writer="w")
    array.finish(LAYOUT)
    np.testing.assert_array_equal(array.read(), features())


def test_the_second_writer_of_a_chunk_keeps_the_first_ones_bytes(tmp_path: Path) -> None:
    array = write_all(tmp_path, chunks=1)
    other = features()[:ROWS] + np.float16(1)
    record = array.commit(LAYOUT, 0, other, writer="second")
    assert record.writer == "w"
    np.testing.assert_array_equal(
        np.frombuffer((array.path / chunk_name(0)).read_bytes()[:-4], np.float16).reshape(ROWS, D), features()[:ROWS]
    )


def test_a_block_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    array = write_all(tmp_path, chunks=0)
    with pytest.raises(UsageError, match="chunk 5 holds rows 40 to 43, got 8"):
        array.commit(LAYOUT, 5, features()[:8], writer="w")


def test_a_file_is_written_once_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert write_once(path, b"one")
    assert not write_once(path, b"two")
    assert path.read_bytes() == b"one"
    replace(path, b"th", b"ree")
    assert path.read_bytes() == b"three"
    assert os.listdir(tmp_path) == ["f"]


def test_without_hard_links_a_file_is_still_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    array = write_all(tmp_path)
    np.testing.assert_array_equal(array.read(), features())
    assert not write_once(array.path / "key.json", b"other")
    assert not [name for name in os.listdir(array.path) if name.endswith(".lock")]


def test_a_disk_without_hard_links_is_probed_once_a_folder_and_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[Path] = []

    def refuse(source: Path, target: Path) -> None:
        refused.append(target)
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(durable, "_noted_disks", set())
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        for name in ("a", "b", "c"):
            assert write_once(folder / name, b"x") and not write_once(folder / name, b"y")
        assert sorted(os.listdir(folder)) == ["a", "b", "c"]
    assert len(refused) == 4, "the file that was refused first, and the probe, in either folder"
    (notice,) = caplog.messages
    assert notice.startswith(
        f"{tmp_path / 'one'} lies on a disk without hard links (no hard links here): a lock folder"
    )
    assert notice.endswith("Run: featcache doctor")


def test_a_link_that_is_refused_on_a_disk_that_has_them_is_an_error_and_not_another_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def refuse_f(source: Path, target: Path) -> None:
        if target.name == "f":
            raise PermissionError(1, "not this one")
        real(source, target)

    monkeypatch.setattr(os, "link", refuse_f)
    with pytest.raises(PermissionError, match="not this one"):
        write_once(tmp_path / "f", b"x")
    assert write_once(tmp_path / "g", b"x") and os.listdir(tmp_path) == ["g"]


@pytest.mark.parametrize(
    ("n", "row_bytes"),
    [(1, 8), (255, 1536), (1_161, 2_560), (31_014, 1_536), (155_070, 768), (155_070, 1_536), (20_000_000, 2)],
)
def test_chunks_are_even_and_the_last_is_hardly_padded(n: int, row_bytes: int) -> None:
    rows = chunk_rows(n, row_bytes)
    layout = Layout(n, rows, 1, "row", 1)
    assert layout.chunks * rows - n < layout.chunks
    assert rows <= 65_536
    assert [layout.span(chunk)[0] for chunk in range(layout.chunks)] == list(range(0, n, rows))
    assert layout.span(layout.chunks - 1)[1] == n


def test_the_digest_binds_values_and_not_names_or_provenance() -> None:
    key = make_key()
    moved = ArrayKey("other", "elsewhere", "x", "last.mean", key.binds, {"created": "now"})
    assert moved.digest == key.digest
    assert make_key(d=D + 1).digest != key.digest
    assert differences(key.binds, make_key(d=9).binds) == {"d": (D, 9)}


WRITER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.test_store import FeatureArray, LAYOUT, features, make_key
key = make_key()
array = FeatureArray(Path(sys.argv[1]) / key.path)
layout = array.create(key, LAYOUT)
array.adopt_orphans(layout)
todo = sorted(set(range(layout.chunks)) - array.committed())
print("ready", flush=True)
for chunk in todo:
    start, stop = layout.span(chunk)
    array.commit(layout, chunk, features()[start:stop], writer="w")
    print(chunk, flush=True)
array.finish(layout)
"""


def run_killed(code: str, folder: Path, kill_after: float | None) -> list[str]:
    """Runs code that prints "ready" first, kills it so many seconds later or never; returns what it still printed."""
    command = [sys.executable, "-c", code, str(folder), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        if kill_after is not None:
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
        return process.stdout.read().split("\n")[:-1]


def run_writer(folder: Path, kill_after: float | None) -> list[int]:
    """Runs a writer; returns the chunks that it reported as committed before it was killed."""
    return [int(line) for line in run_killed(WRITER, folder, kill_after) if line.isdigit()]


@pytest.mark.parametrize("kills", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_the_bytes_are_the_same(
    tmp_path: Path, kills: int
) -> None:
    whole = write_all(tmp_path / "whole")
    chance = random.Random(7)
    for attempt in range(kills):
        folder = tmp_path / f"killed-{attempt}"
        array = FeatureArray(folder / make_key().path)
        acknowledged = run_writer(folder, chance.uniform(0, 0.04))
        assert set(acknowledged) <= array.committed()
        again = run_writer(folder, None)
        assert not set(acknowledged) & set(again), "a committed chunk was computed again"
        for chunk in range(LAYOUT.chunks):
            assert (array.path / chunk_name(chunk)).read_bytes() == (whole.path / chunk_name(chunk)).read_bytes()
        assert array.complete().root == whole.complete().root


def test_threads_that_sync_a_folder_at_once_share_a_call_that_began_after_each_of_them_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    clock = itertools.count()
    runs: list[tuple[int, int]] = []
    real = durable._sync_entries

    def watched(folder: str) -> None:
        begun = next(clock)
        time.sleep(0.01)
        real(folder)
        runs.append((begun, next(clock)))

    monkeypatch.setattr(durable, "_sync_entries", watched)
    spans: list[tuple[int, int]] = []

    def ask() -> None:
        for _ in range(10):
            begun = next(clock)
            durable.sync_folder(tmp_path)
            spans.append((begun, next(clock)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spans) == 80
    assert all(any(begun < first and last < ended for first, last in runs) for begun, ended in spans)
    assert len(runs) < 60


def test_a_failed_sync_is_everybodys_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def refuse(folder: str) -> None:
        time.sleep(0.01)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable, "_sync_entries", refuse)
    with ThreadPoolExecutor(4) as pool:
        failed = [pool.submit(durable.sync_folder, tmp_path).exception() for _ in range(4)]
    assert all(isinstance(error, OSError) for error in failed)
