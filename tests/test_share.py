"""Features arrive whole and once, whatever happens to either side on the way; against a real S3 server."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache.sharing.transfer
from featcache.cache import Cache
from featcache.data.views import View
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import (
    Damaged,
    FeatcacheError,
    FeaturesNotCached,
    OutputFailed,
    RemoteFailed,
    RootsDiffer,
    UsageError,
)
from featcache.extraction.extract import extract
from featcache.extraction.job import plan_job
from featcache.maintenance.verify import verify
from featcache.sharing.transfer import Sent, Transfer, plan_transfer, transfer
from featcache.storage import bucket
from featcache.storage.base import Folder
from featcache.storage.bucket import BucketFolder
from featcache.storage.local import LocalFolder
from featcache.storage.open import open_folder
from featcache.store.array import FeatureArray
from featcache.store.digest import FORMAT, ArrayKey, canonical
from featcache.store.layout import Layout
from featcache.store.mark import MARK
from featcache.store.records import Record, key_json, root_of
from featcache.store.rows import write_rows
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.s3 import Counted, Seaweed, environment, make_bucket

N, D, CHUNK_ROWS = 480, 16, 40
CHUNKS = N // CHUNK_ROWS
CHUNK_BYTES = CHUNK_ROWS * D * 2 + 4
DATASET = text_dataset(N)
VIEW = DATASET.views["captions"]
# forked from a process that has imported everything and has no threads
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["tests.test_share"])


# -- caches -----------------------------------------------------------------------------------------------------------


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, D)).astype(np.float16)


def key(layer: str = "last.mean", *, view: View = VIEW) -> ArrayKey:
    rows = {"modality": view.modality, "decoding": {}, "root": view.root, "n": N}
    binds = {"format": FORMAT, "rows": rows, "encoder": {"test": "fake"}, "layer": layer, "dtype": "float16", "d": D}
    return ArrayKey(DATASET.name, view.name, "fake", layer, binds, {"default_layer": "last.mean"})


def fill(
    cache: Cache, layer: str = "last.mean", *, seed: int = 0, chunks: Sequence[int] = range(CHUNKS), writer: str = "a"
) -> FeatureArray:
    """Writes an array, or some chunks of it."""
    write_rows(cache.folder / DATASET.name / VIEW.name, VIEW, DATASET.overlay)
    array = cache.array(key(layer).path)
    layout = array.create(key(layer), Layout(N, CHUNK_ROWS, 8, "row", 1))
    for chunk in chunks:
        start, stop = layout.span(chunk)
        array.commit(layout, chunk, values(seed)[start:stop], writer=writer)
    if array.committed() == set(range(CHUNKS)):
        array.finish(layout)
    return array


def move(source: Cache, target: Cache, *selectors: str, **choices: Any) -> Sent:
    return transfer(plan_transfer(source, target, selectors or ("*",), **choices))


def content(folder: Folder) -> dict[str, bytes]:
    """Every file of a cache's format and its bytes: a folder's mark travels no more than what is only remembered."""
    return {name: folder.read(name) for name, _ in folder.files() if name != MARK}


def assert_whole(cache: Cache, layer: str = "last.mean", *, seeds: Sequence[int] = (0,)) -> None:
    """The array is complete, clean, and holds the bytes of one seed."""
    assert list(verify(cache, deep=True)) == []
    loaded = cache.load(DATASET.name, f"fake/{layer}").values
    assert any(np.array_equal(loaded, values(seed)) for seed in seeds)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture
def remote(server: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Cache:
    for name, value in environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    # one bucket for all: SeaweedFS makes volumes for each, which takes a second
    return Cache(f"s3://{make_bucket(server.endpoint, 'features')}/{uuid.uuid4().hex}/cache")


@pytest.fixture
def local(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "local")
    fill(cache)
    return cache


@pytest.fixture
def laptop(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "laptop")


def counted(cache: Cache) -> tuple[Cache, Counted]:
    """The same cache in a bucket, and the count of its requests."""
    folder = cache.folder
    assert isinstance(folder, BucketFolder)
    store = Counted(folder._store)
    return Cache(BucketFolder(store, folder._address, folder._path, folder._reopen)), store


# -- there and back ---------------------------------------------------------------------------------------------------


def test_what_is_pushed_and_pulled_is_byte_for_byte_what_was_there(local: Cache, remote: Cache, laptop: Cache) -> None:
    fill(local, "0.mean", seed=1)
    assert move(local, remote).chunks == 2 * CHUNKS
    assert content(remote.folder) == content(local.folder)
    assert move(remote, laptop).bytes == 2 * CHUNKS * CHUNK_BYTES
    assert content(laptop.folder) == content(local.folder)
    assert_whole(laptop)
    there, here = laptop.load(DATASET.name, "fake"), local.load(DATASET.name, "fake")
    assert (there.ids.tolist(), there.splits.tolist()) == (here.ids.tolist(), here.splits.tolist())


def test_a_second_push_moves_nothing_and_writes_nothing(local: Cache, remote: Cache) -> None:
    move(local, remote)
    again, store = counted(remote)
    assert move(local, again) == Sent()
    assert set(store.requests) == {"get", "head"} and store.requests.total() <= 9, store.requests


def test_a_new_layer_alone_moves(local: Cache, remote: Cache) -> None:
    move(local, remote)
    added = fill(local, "0.mean", seed=1)
    assert move(local, remote).paths == ["/".join(added.folder.parts[-5:])]
    assert_whole(remote, "0.mean", seeds=[1])


def test_a_push_costs_two_requests_a_chunk_and_a_few_more(local: Cache, remote: Cache) -> None:
    there, store = counted(remote)
    move(local, there)
    assert store.requests["put"] == 2 * CHUNKS + 8  # four tables, key, plan, Zarr metadata, root, completion, less one
    assert store.requests.total() - store.requests["put"] <= 10, store.requests


def test_only_what_is_named_travels(local: Cache, remote: Cache, laptop: Cache) -> None:
    fill(local, "0.mean", seed=1)
    move(local, remote)
    move(remote, laptop, "tiny/*/fake/0.mean")
    assert [entry.layer for entry in laptop.entries()] == ["0.mean"]
    with pytest.raises(FeaturesNotCached, match="gpt2"):
        move(remote, laptop, "tiny/captions/gpt2")


def test_foreign_files_never_travel(local: Cache, remote: Cache) -> None:
    wanted = set(content(local.folder))
    array = fill(local)
    for name in ("images/dog.png", "captions.txt", "notes.md", "graph.faiss", "secret.json"):
        for folder in (local.root, local.root / DATASET.name, array.path.parent.parent, array.path):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"mine")
    (local.root / ".encoders").mkdir()
    (local.root / ".encoders/card.json").write_text("{}")
    move(local, remote)
    assert set(content(remote.folder)) == wanted


def test_newer_labels_travel_only_when_preferred(local: Cache, remote: Cache) -> None:
    move(local, remote)
    labels = {"parity": tuple("odd" for _ in DATASET.overlay.groups)}
    write_rows(local.folder / DATASET.name / VIEW.name, VIEW, replace(DATASET.overlay, labels=labels))
    move(local, remote)
    assert set(remote.load(DATASET.name, "fake").labels["parity"]) == {"even", "odd"}
    move(local, remote, prefer="source")
    assert set(remote.load(DATASET.name, "fake").labels["parity"]) == {"odd"}


# -- the server goes away ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kills", [[3], [2, 5, 6, 10]], ids=["once", "often"])
def test_a_push_outlives_a_server_that_is_killed_and_started_again(
    kills: list[int], local: Cache, remote: Cache, server: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "_PATIENCE", 60.0)  # others use this machine too
    arrived, threads = list[int](), list[threading.Thread]()

    def restart(_: int) -> None:
        arrived.append(1)
        if len(arrived) in kills:
            for thread in threads:
                thread.join()
            server.stop()
            threads.append(threading.Thread(target=server.start))
            threads[-1].start()

    transfer(plan_transfer(local, remote), on_bytes=restart)
    for thread in threads:
        thread.join()
    assert len(arrived) == CHUNKS
    assert_whole(remote)


def test_a_push_to_a_server_that_stays_away_ends_named_and_goes_on_later(
    local: Cache, remote: Cache, server: Seaweed, laptop: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BucketFolder, "batch_bytes", 4 * CHUNK_BYTES)
    monkeypatch.setattr(bucket, "_PATIENCE", 1.0)
    monkeypatch.setattr(featcache.sharing.transfer, "_LEAST_CHUNKS", 1)
    arrived: list[int] = []

    def kill(_: int) -> None:
        arrived.append(1)
        if len(arrived) == 6:
            server.stop()

    try:
        with pytest.raises(RemoteFailed, match=rf"{remote.folder}.*cannot be reached. Run: featcache doctor s3://"):
            transfer(plan_transfer(local, remote), on_bytes=kill)
    finally:
        server.start()
    with pytest.raises(FeaturesNotCached, match="incomplete"):
        remote.load(DATASET.name, "fake")
    assert list(verify(remote, deep=True)) == []
    assert 4 <= move(local, remote).chunks <= CHUNKS - 4
    assert_whole(remote)
    move(remote, laptop)
    assert_whole(laptop)


# -- processes die ----------------------------------------------------------------------------------------------------


def work(source: str, target: str, settings: dict[str, str], began: Any) -> None:
    """In its own process: one transfer, in runs of two chunks."""
    os.environ.update(settings)
    featcache.sharing.transfer._LEAST_CHUNKS = 1  # pyright: ignore[reportPrivateUsage]
    for folder in (BucketFolder, LocalFolder):
        folder.batch_bytes = 2 * CHUNK_BYTES
    what = plan_transfer(Cache(source), Cache(target))
    began.set()
    transfer(what)


def killed(source: Cache, target: Cache, settings: dict[str, str], after: float) -> bool:
    """Runs a transfer in a process of its own and kills it so many seconds after it began; whether it was alive."""
    began = SPAWN.Event()
    process = SPAWN.Process(target=work, args=(str(source.folder), str(target.folder), settings, began))
    process.start()
    assert began.wait(60)
    process.join(after)
    process.kill()
    process.join()
    return process.exitcode != 0


def settings_of(server: Seaweed) -> dict[str, str]:
    return environment(server.endpoint)


def kill_and_go_on(source: Cache, target: Cache, server: Seaweed, rng: random.Random, rounds: int) -> None:
    died = 0
    for _ in range(rounds):
        before = plan_transfer(source, target)
        died += killed(source, target, settings_of(server), rng.uniform(0, 0.12))
        after = plan_transfer(source, target)
        assert after.chunks <= before.chunks
        if not all(one.done for one in after.moves):
            with pytest.raises(FeaturesNotCached):
                target.load(DATASET.name, "fake")
    assert died
    there = {name for name, _ in target.folder.files() if "/c." in name} if target.folder.there() else set[str]()
    left = plan_transfer(source, target)
    assert left.chunks <= CHUNKS - len(there) + 2  # the run under way, and no more
    transfer(left)
    assert_whole(target)


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_transfer_killed_at_any_moment_goes_on(
    direction: str, local: Cache, remote: Cache, laptop: Cache, server: Seaweed
) -> None:
    if direction == "pull":
        move(local, remote)
    source, target = (local, remote) if direction == "push" else (remote, laptop)
    kill_and_go_on(source, target, server, random.Random(7), 3)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["push", "pull"])
@pytest.mark.parametrize("seed", range(10))
def test_a_transfer_killed_at_many_moments_goes_on(
    direction: str, seed: int, local: Cache, remote: Cache, laptop: Cache, server: Seaweed
) -> None:
    if direction == "pull":
        move(local, remote)
    source, target = (local, remote) if direction == "push" else (remote, laptop)
    kill_and_go_on(source, target, server, random.Random(seed), 3)


# -- two at once ------------------------------------------------------------------------------------------------------


def write(place: str, seed: int, settings: dict[str, str], barrier: Any) -> None:
    """In its own process: writes an array, chunk by chunk, at the same time as another writer."""
    os.environ.update(settings)
    array = Cache(place).array(key().path)
    barrier.wait(60)
    layout = array.create(key(), Layout(N, CHUNK_ROWS, 8, "row", 1))
    for chunk in range(CHUNKS):
        start, stop = layout.span(chunk)
        array.commit(layout, chunk, values(seed)[start:stop], writer=f"writer {os.getpid()}")
    array.finish(layout)


def push(source: str, target: str, settings: dict[str, str], barrier: Any) -> None:
    """In its own process: pushes at the same time as another; exit code 3 if its bytes are refused."""
    os.environ.update(settings)
    what = plan_transfer(Cache(source), Cache(target))
    barrier.wait(60)
    try:
        transfer(what)
    except RootsDiffer:
        sys.exit(3)


def both(function: Any, *arguments: Sequence[Any]) -> list[int | None]:
    """Runs one function in two processes at once; their exit codes."""
    barrier = SPAWN.Barrier(2)
    processes = [SPAWN.Process(target=function, args=(*each, barrier)) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("place", ["disk", "bucket"])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["equal bytes", "other bytes"])
def test_two_writers_of_one_digest_both_end_well_with_one_writers_bytes_a_chunk(
    place: str, seeds: tuple[int, int], remote: Cache, laptop: Cache, server: Seaweed
) -> None:
    cache = laptop if place == "disk" else remote
    write_rows(cache.folder / DATASET.name / VIEW.name, VIEW, DATASET.overlay)
    assert both(write, *((str(cache.folder), seed, settings_of(server)) for seed in seeds)) == [0, 0]
    assert list(verify(cache, deep=True)) == []
    loaded = cache.load(DATASET.name, "fake").values
    for start in range(0, N, CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        assert any(np.array_equal(loaded[part], values(seed)[part]) for seed in seeds)


def test_two_pushers_of_equal_bytes_both_end_well(local: Cache, laptop: Cache, remote: Cache, server: Seaweed) -> None:
    fill(laptop, writer="b")
    settings = settings_of(server)
    sources = [(str(cache.folder), str(remote.folder), settings) for cache in (local, laptop)]
    assert both(push, *sources) == [0, 0]
    assert_whole(remote)
    assert not remote.array(key().path).folder.exists("ARRIVING.json")


def test_of_two_pushers_of_other_bytes_one_wins_whole(
    local: Cache, laptop: Cache, remote: Cache, server: Seaweed
) -> None:
    fill(laptop, seed=1)
    sources = [(str(cache.folder), str(remote.folder), settings_of(server)) for cache in (local, laptop)]
    assert sorted(code or 0 for code in both(push, *sources)) == [0, 3]
    assert_whole(remote, seeds=[0, 1])


def test_an_interrupted_push_of_other_bytes_gives_way_only_to_who_is_preferred(
    local: Cache, laptop: Cache, remote: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(laptop, seed=1)
    monkeypatch.setattr(BucketFolder, "batch_bytes", 2 * CHUNK_BYTES)
    interrupt(plan_transfer(laptop, remote), after=5)
    assert remote.array(key().path).folder.exists("ARRIVING.json")
    with pytest.raises(RootsDiffer, match="--prefer local"):
        move(local, remote)
    assert move(local, remote, prefer="source").chunks == CHUNKS
    assert_whole(remote)
    assert content(remote.folder) == content(local.folder)


def interrupt(what: Transfer, after: int) -> None:
    arrived: list[int] = []

    def stop(_: int) -> None:
        arrived.append(1)
        if len(arrived) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(what, on_bytes=stop)


@pytest.mark.parametrize(("prefer", "left"), [("source", 0), ("destination", 1)])
def test_where_bytes_differ_the_preferred_ones_stay(
    prefer: str, left: int, local: Cache, laptop: Cache, remote: Cache
) -> None:
    fill(laptop, seed=1)
    move(laptop, remote)
    with pytest.raises(RootsDiffer, match="other bytes for the same digest"):
        move(local, remote)
    assert_whole(remote, seeds=[1])
    move(local, remote, prefer=prefer)
    assert_whole(remote, seeds=[left])


def test_a_push_meets_a_writer_of_other_bytes_and_takes_none_of_its_chunks(local: Cache, remote: Cache) -> None:
    what = plan_transfer(local, remote)
    fill(remote, seed=1, chunks=[3])
    with pytest.raises(RootsDiffer):
        transfer(what)
    assert not remote.array(key().path).is_complete


# -- parts ------------------------------------------------------------------------------------------------------------


def test_some_rows_are_pulled_and_only_these_can_be_read(local: Cache, remote: Cache, laptop: Cache) -> None:
    move(local, remote)
    assert move(remote, laptop, rows=(50, 90)).chunks == 2
    array = laptop.array(key().path)
    reader = array.open(partial=True)
    np.testing.assert_array_equal(reader.read(50, 90), values()[50:90])
    np.testing.assert_array_equal(reader.take(np.array([119, 40])), values()[[119, 40]])
    with pytest.raises(FeaturesNotCached, match=r"here are rows 40:120 of 480"):
        reader.read(30, 90)
    with pytest.raises(FeaturesNotCached, match="only some rows"):
        array.read()
    with pytest.raises(FeaturesNotCached):
        laptop.load(DATASET.name, "fake")
    with pytest.raises(UsageError, match="must be whole"):
        move(laptop, Cache(laptop.root.parent / "usb"))
    assert list(verify(laptop)) == []


def test_a_second_pull_brings_the_rest(local: Cache, remote: Cache, laptop: Cache) -> None:
    move(local, remote)
    move(remote, laptop, rows=(0, 40))
    assert move(remote, laptop, rows=(30, 90)).chunks == 2
    assert move(remote, laptop, rows=(0, 90)) == Sent()
    assert move(remote, laptop).chunks == CHUNKS - 3
    assert content(laptop.folder) == content(local.folder)


def test_rows_pulled_one_after_the_other_until_none_is_missing_are_the_whole_array(local: Cache, laptop: Cache) -> None:
    move(local, laptop, rows=(0, 250))
    move(local, laptop, rows=(250, N))
    assert content(laptop.folder) == content(local.folder)


def test_a_pull_of_rows_that_was_interrupted_is_known_as_one(local: Cache, laptop: Cache) -> None:
    interrupt(plan_transfer(local, laptop, rows=(0, 200)), after=2)
    with pytest.raises(UsageError, match="must be whole"):
        plan_transfer(laptop, Cache(laptop.root.parent / "usb"))
    move(local, laptop, rows=(0, 200))
    np.testing.assert_array_equal(laptop.array(key().path).open(partial=True).read(0, 200), values()[:200])


@pytest.mark.parametrize("rows", [(10, 10), (-1, 5), (0, N + 1)])
def test_rows_that_are_none_are_refused(rows: tuple[int, int], local: Cache, laptop: Cache) -> None:
    with pytest.raises(UsageError, match="which has 480"):
        move(local, laptop, rows=rows)


def test_two_machines_push_their_halves_and_the_last_completes_them(
    tmp_path: Path, remote: Cache, laptop: Cache
) -> None:
    for machine in range(2):
        half = Cache(tmp_path / f"machine {machine}")
        fill(half, chunks=range(machine, CHUNKS, 2), writer=f"machine {machine}")
        with pytest.raises(FeaturesNotCached):
            remote.load(DATASET.name, "fake")
        assert move(half, remote).chunks == CHUNKS // 2
    assert_whole(remote)
    move(remote, laptop)
    assert_whole(laptop)


def test_halves_whose_last_push_died_before_completing_are_completed_by_the_same_push(
    local: Cache, remote: Cache
) -> None:
    array = fill(local)
    (array.path / "COMPLETE.json").unlink()
    move(local, remote)
    remote.array(key().path).folder.remove("COMPLETE.json")
    assert move(local, remote).chunks == 0
    assert_whole(remote)


# -- damage -----------------------------------------------------------------------------------------------------------


def flip(folder: Folder, name: str) -> None:
    body = bytearray(folder.read(name))
    body[len(body) // 2] ^= 1
    folder.replace(name, bytes(body))


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_flipped_chunk_is_never_passed_on(direction: str, local: Cache, remote: Cache, laptop: Cache) -> None:
    source, target = (local, remote) if direction == "push" else (remote, laptop)
    if direction == "pull":
        move(local, remote)
    flip(source.array(key().path).folder, "c.5.0")
    with pytest.raises(Damaged, match=r"chunk 5 of .* is not what was recorded. Run: featcache verify"):
        move(source, target)
    there = target.array(key().path)
    assert not there.is_complete and not there.folder.exists("c.5.0")
    assert list(verify(target, deep=True)) == []


@pytest.mark.parametrize("name", ["c.5.0", "rows", "overlay"])
def test_what_is_missing_at_the_source_is_named(name: str, local: Cache, laptop: Cache) -> None:
    path = next(local.root.rglob(f"{name}*" if name == "c.5.0" else f"{name}-*.parquet"))
    path.unlink()
    with pytest.raises(Damaged, match="chunk 5" if name == "c.5.0" else path.name):
        move(local, laptop)


@pytest.mark.parametrize("table", ["rows", "overlay"])
def test_a_damaged_table_is_not_passed_on_and_gives_way_to_a_whole_one(
    table: str, local: Cache, remote: Cache, laptop: Cache
) -> None:
    move(local, remote)
    name = next(name for name, _ in remote.folder.files() if f"{table}-" in name and name.endswith(".parquet"))
    remote.folder.replace(name, remote.folder.read(name)[:-20])
    with pytest.raises(Damaged, match=f"{table}-"):
        move(remote, laptop)
    fill(local, "0.mean", seed=1)
    move(local, remote)
    assert_whole(remote)


def test_a_truncated_chunk_without_record_gives_way(local: Cache, remote: Cache) -> None:
    folder = remote.array(key().path).folder
    folder.write_once("c.3.0", local.array(key().path).folder.read("c.3.0")[:100])
    folder.write_once("c.4.0", b"")
    move(local, remote)
    assert_whole(remote)
    assert sum(name.startswith(".aside-c.") for name in folder.names()) == 2


def test_a_whole_chunk_of_another_writer_without_record_is_not_overwritten(local: Cache, remote: Cache) -> None:
    fill(remote, seed=1, chunks=[3])
    folder = remote.array(key().path).folder
    folder.remove("commits/3.json")
    with pytest.raises(RootsDiffer, match="chunk 3 has other bytes"):
        move(local, remote)
    move(local, remote, prefer="source")
    assert_whole(remote)


def test_a_removal_that_died_leaves_no_record_without_its_chunk(
    local: Cache, remote: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(local, remote)
    array, remove = remote.array(key().path), BucketFolder.remove

    def die_at_the_chunks(self: BucketFolder, *names: str) -> None:
        if any(name.startswith("c.") for name in names):
            raise KeyboardInterrupt
        remove(self, *names)

    monkeypatch.setattr(BucketFolder, "remove", die_at_the_chunks)
    with pytest.raises(KeyboardInterrupt):
        remote.remove(array)
    monkeypatch.undo()
    assert array.committed() == set()


# -- a hostile source -------------------------------------------------------------------------------------------------


def edit(path: Path, **changes: Any) -> None:
    path.write_bytes(json.dumps(json.loads(path.read_text()) | changes).encode())


def edit_record(array: FeatureArray, **changes: Any) -> None:
    (array.path / "COMPLETE.json").unlink()
    edit(array.path / "commits/3.json", **changes)


def recomplete(array: FeatureArray, **changes: Any) -> None:
    """Changes COMPLETE.json and gives it the root that fits."""
    path = array.path / "COMPLETE.json"
    value = json.loads(path.read_text()) | changes
    value["root"] = root_of([Record(**record) for record in value["records"]])
    path.write_bytes(canonical(value))


def huge_plan(array: FeatureArray) -> None:
    edit(array.path / "plan.json", n=10**12, chunk_rows=1)


def huge_everything(array: FeatureArray) -> None:
    layout = {"n": 10**12, "chunk_rows": 1, "batch_size": 1, "order": "row", "threads": 1}
    edit(array.path / "plan.json", **layout)
    recomplete(array, plan=layout, records=[])


HOSTILE: dict[str, Any] = {
    "a plan of 10**12 rows": huge_plan,
    "a plan and completion of 10**12 rows": huge_everything,
    "no rows a chunk": lambda array: edit(array.path / "plan.json", chunk_rows=0),
    "negative rows a chunk": lambda array: edit(array.path / "plan.json", chunk_rows=-5),
    "a plan in words": lambda array: edit(array.path / "plan.json", n="many"),
    "a list as plan": lambda array: (array.path / "plan.json").write_text("[]"),
    "a negative size": lambda array: edit_record(array, bytes=-4),
    "no size": lambda array: edit_record(array, bytes=0),
    "a size of 10**18": lambda array: edit_record(array, bytes=10**18),
    "another chunk's record": lambda array: edit_record(array, chunk=4),
    "a record behind the end": lambda array: edit_record(array, chunk=10**9),
    "a record that is a list": lambda array: (array.path / "COMPLETE.json").write_text("[1]"),
    "a completion of nothing": lambda array: recomplete(array, records=[]),
    "a completion of another width": lambda array: recomplete(array, d=D * 10**9),
    "a dtype of objects": lambda array: recomplete(array, dtype="object"),
    "a digest that is not the folder's": lambda array: array.path.rename(array.path.with_name("0" * 32)),
    "a key that was changed": lambda array: edit(array.path / "key.json", binds=key("0.mean").to_json()["binds"]),
    "a key of lists": lambda array: edit(array.path / "key.json", binds=[[]]),
    "deep JSON": lambda array: (array.path / "key.json").write_text("[" * 100_000),
    "bytes that are no text": lambda array: (array.path / "plan.json").write_bytes(b"\xff\xfe\x00"),
    "a number of 10,000 digits": lambda array: (array.path / "plan.json").write_text("9" * 10_000),
    "a newer format": lambda array: edit(array.path / "key.json", format=99),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_array_is_refused_by_name_and_nothing_of_it_is_kept(what: str, local: Cache, laptop: Cache) -> None:
    HOSTILE[what](local.array(key().path))
    with pytest.raises(FeatcacheError, match=r"tiny/captions/fake|chunk|plan"):
        move(local, laptop)
    assert not laptop.root.exists()


def test_a_key_with_a_hostile_root_names_no_file_elsewhere(tmp_path: Path, laptop: Cache) -> None:
    shared = Cache(tmp_path / "shared")
    binds = {**key().binds, "rows": {**key().binds["rows"], "root": "../../../../escape" + "0" * 20}}
    hostile = replace(key(), binds=binds)
    (shared.root / hostile.path).mkdir(parents=True)
    (shared.root / hostile.path / "key.json").write_bytes(key_json(hostile))
    with pytest.raises(Damaged, match="rows.root: String should match"):
        move(shared, laptop)
    assert not laptop.root.exists()


def test_labels_with_a_hostile_root_name_no_file_elsewhere(local: Cache, laptop: Cache) -> None:
    next(local.root.rglob("rows-*.json")).write_text('{"overlay": "../../../../etc/passwd"}')
    with pytest.raises(Damaged, match="splits and labels"):
        move(local, laptop)
    assert not content(laptop.folder)


@pytest.mark.parametrize("name", ["c.3.0", "key.json", "plan.json", "COMPLETE.json", "commits", "."])
def test_links_in_a_shared_folder_are_not_followed(name: str, local: Cache, laptop: Cache, tmp_path: Path) -> None:
    path = local.array(key().path).path / name
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(RemoteFailed, match="link"):
        move(local, laptop)
    assert not laptop.root.exists()


@pytest.mark.parametrize("table", ["rows", "overlay"])
def test_a_linked_table_is_not_followed(table: str, local: Cache, laptop: Cache, tmp_path: Path) -> None:
    path = next(local.root.rglob(f"{table}-*.parquet"))
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(RemoteFailed, match=f"{table}-.* is a link"):
        move(local, laptop)


def test_a_pipe_in_the_place_of_a_file_does_not_hang(local: Cache, laptop: Cache) -> None:
    path = local.array(key().path).path / "plan.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RemoteFailed, match="no plain file"):
        move(local, laptop)


@pytest.mark.parametrize("level", [DATASET.name, f"{DATASET.name}/captions", f"{DATASET.name}/captions/fake"])
def test_nothing_is_written_through_a_link_out_of_a_shared_folder(level: str, local: Cache, tmp_path: Path) -> None:
    shared, victim = Cache(tmp_path / "shared"), tmp_path / "victim"
    victim.mkdir()
    (shared.root / level).parent.mkdir(parents=True)
    (shared.root / level).symlink_to(victim)
    with pytest.raises(RemoteFailed, match="leads out of"):
        move(local, shared)
    assert list(victim.iterdir()) == []


# -- straight from and to the bucket ----------------------------------------------------------------------------------


def test_features_are_read_straight_from_the_bucket(local: Cache, remote: Cache) -> None:
    move(local, remote)
    here, there = (cache.load(DATASET.name, "fake") for cache in (local, Cache(str(remote.folder))))
    np.testing.assert_array_equal(here.values, there.values)
    assert here.ids.tolist() == there.ids.tolist() and here.root == there.root
    reader = remote.find(DATASET.name, "fake").open()
    rows = np.random.default_rng(0).integers(0, N, 100)
    np.testing.assert_array_equal(reader.take(rows), values()[rows])
    np.testing.assert_array_equal(reader.read(37, 161, dtype="float32"), values()[37:161].astype(np.float32))
    blocks = {start: block for start, block in reader.blocks(50, seed=1)}
    np.testing.assert_array_equal(np.concatenate([blocks[start] for start in sorted(blocks)]), values())


def test_a_damaged_chunk_in_the_bucket_is_named_when_read(local: Cache, remote: Cache) -> None:
    move(local, remote)
    array = remote.array(key().path)
    flip(array.folder, "c.5.0")
    array.folder.replace("c.6.0", b"short")
    array.folder.remove("c.7.0")
    for chunk, what in ((5, "flipped bits"), (6, "has 5 bytes, recorded 1284"), (7, "is missing")):
        with pytest.raises(Damaged, match=f"chunk {chunk} of .* {what}"):
            array.read(chunk * CHUNK_ROWS + 10, chunk * CHUNK_ROWS + 30)


def test_other_zarr_readers_open_the_array_in_the_bucket(local: Cache, remote: Cache) -> None:
    from featcache.store.zarr_reader import open_zarr

    move(local, remote)
    array = remote.find(DATASET.name, "fake")
    np.testing.assert_array_equal(open_zarr(array.folder)[:], values())
    ts = pytest.importorskip("tensorstore")
    assert isinstance(array.folder, BucketFolder)
    bucket_name, path = str(array.folder).removeprefix("s3://").split("/", 1)
    store = {
        "driver": "s3",
        "bucket": bucket_name,
        "path": f"{path}/",
        "endpoint": os.environ["AWS_ENDPOINT_URL"],
        "aws_region": "us-east-1",
        "aws_credentials": {"type": "environment"},
    }
    opened = ts.open({"driver": "zarr3", "kvstore": store}, read=True, open=True).result()
    np.testing.assert_array_equal(opened.read().result(), values())


def test_extraction_straight_into_the_bucket_gives_the_bytes_of_a_local_one(
    remote: Cache, laptop: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache.extraction.job

    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())
    dataset = text_dataset(50)
    for cache in (laptop, remote):
        job = replace(plan_job(cache, dataset, encoder_spec("minilm"), EncodeOptions()), chunk_rows=7)
        assert extract(cache, job, encoder=FakeEncoder()).rows == 50  # pyright: ignore[reportArgumentType]
    here, there = content(laptop.folder), content(remote.folder)
    chunks = {name for name in here if "/c." in name}
    assert len(chunks) == 24 and {name: there.get(name) for name in chunks} == {name: here[name] for name in chunks}
    assert [entry.root for entry in remote.entries()] == [entry.root for entry in laptop.entries()]


# -- a folder of a lab ------------------------------------------------------------------------------------------------


def use_read_only(shared: Cache, mine: Cache, other: Cache) -> str:
    """Does with a cache what needs no writing, then tries to write; what the refusal says."""
    assert [entry.complete for entry in shared.entries()] == [True]
    assert list(verify(shared, deep=True)) == []
    features = shared.load(DATASET.name, "fake")
    reader = shared.find(DATASET.name, "fake").open()
    for seed in (0, 1):
        for start, block in reader.blocks(100, seed=seed):
            np.testing.assert_array_equal(block, features.values[start : start + 100])
    move(shared, mine)
    np.testing.assert_array_equal(mine.load(DATASET.name, "fake").values, features.values)
    try:
        move(other, shared)
    except OutputFailed as error:
        return str(error)
    return ""


def use_as_nobody(folder: Path, answer: Any) -> None:
    """In its own process: the same without the rights of root, which permission bits do not bind."""
    caches = [Cache(folder / name) for name in ("rehearsal", "first", "other")]
    assert use_read_only(*caches) == ""  # and everything is imported that may be unreadable afterwards
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    shared, mine = Cache(folder / "local"), Cache(folder / "mine")
    assert not os.access(shared.root, os.W_OK)
    answer.send(use_read_only(shared, mine, caches[2]))


def test_a_read_only_cache_is_listed_loaded_checked_and_pulled_from() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest lets nobody else into its own
        folder = Path(name)
        folder.chmod(0o755)
        for cache in ("local", "rehearsal"):
            fill(Cache(folder / cache))
        fill(Cache(folder / "other"), "0.mean", seed=1)
        (folder / "mine").mkdir()
        (folder / "mine").chmod(0o777)
        subprocess.run(["chmod", "-R", "a-w,a+rX", str(folder / "local")], check=True)
        mouth, ear = SPAWN.Pipe()
        process = SPAWN.Process(target=use_as_nobody, args=(folder, mouth))
        process.start()
        process.join(120)
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
        assert process.exitcode == 0 and ear.poll()
    message = ear.recv()
    assert "cannot write to" in message and "Permission denied" in message


def test_files_of_a_group_are_as_the_umask_says_and_keep_the_group(local: Cache, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    group = 65534 if os.getuid() == 0 else os.getgid()
    os.chown(shared, -1, group)
    shared.chmod(0o2775)
    before = os.umask(0o002)
    try:
        move(local, Cache(shared))
        fill(Cache(shared), "0.mean", seed=1, chunks=[0, 1])
    finally:
        os.umask(before)
    for path in shared.rglob("*"):
        status = path.stat()
        assert status.st_gid == group
        assert status.st_mode & 0o7777 == (0o2775 if path.is_dir() else 0o664), path


def test_the_secret_is_nowhere_in_the_cache(local: Cache, remote: Cache, laptop: Cache) -> None:
    move(local, remote)
    move(remote, laptop)
    for folder in (remote.folder, laptop.folder, local.folder):
        for name, body in content(folder).items():
            assert b"secret-of-the-tester" not in body, name


def test_both_sides_may_be_buckets(local: Cache, remote: Cache, server: Seaweed) -> None:
    other = Cache(open_folder(f"s3://{make_bucket(server.endpoint)}"))
    move(local, remote)
    move(remote, other)
    assert content(other.folder) == content(local.folder)


def test_a_transfer_of_many_small_arrays_does_not_wait_for_each(
    tmp_path: Path, remote: Cache, local: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for layer in range(8):
        fill(local, f"{layer}.mean", seed=layer + 1)
    waits = 0.05
    slow, _ = counted(remote)
    assert isinstance(slow.folder, BucketFolder)
    put = slow.folder._try

    def late(self: BucketFolder, what: str, call: Any) -> Any:
        time.sleep(waits)
        return put.__func__(self, what, call)  # pyright: ignore[reportFunctionMemberAccess]

    monkeypatch.setattr(BucketFolder, "_try", late)
    began = time.perf_counter()
    move(local, slow)
    requests = 9 * (2 * CHUNKS + 12)
    assert time.perf_counter() - began < requests * waits / 2  # eight at a time; half of one by one is loose
    monkeypatch.undo()
    assert asdict(remote.entries()[0])["n"] == N
