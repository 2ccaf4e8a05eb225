"""Do several extractions of one thing divide its chunks, and does each end well whatever becomes of the others?"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from featcache.cache import Cache
from featcache.extraction import claims as module
from featcache.extraction.claims import Claims
from featcache.maintenance.gc import clean, leftovers
from featcache.maintenance.verify import verify
from featcache.store.array import FeatureArray
from featcache.store.leases import CLAIMS, DEAD_SECONDS, FOLDER, lease, leases
from tests.faults import LAYOUT, block, make_key

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def array(tmp_path: Path) -> FeatureArray:
    array = Cache(tmp_path).array(make_key().path)
    array.create(make_key(), LAYOUT)
    return array


def commit(array: FeatureArray, chunk: int) -> None:
    array.commit(LAYOUT, chunk, block(chunk), writer="w")


def test_chunks_are_claimed_one_by_one_and_each_by_one(array: FeatureArray, tmp_path: Path) -> None:
    others = list[int]()
    with lease(Cache(tmp_path).folder, "one"), Claims([array]) as one, Claims([array], others.append) as two:
        first, second = iter(one.free(range(5))), iter(two.free(range(5)))
        assert [next(first), next(second), next(first), next(second)] == [0, 1, 2, 3]
        assert [*first] == [4] and [*second] == []
        for chunk in (0, 2, 4):
            commit(array, chunk)
        assert two.left(range(5)) == [] and others == [0, 2, 4]
    assert os.listdir(tmp_path / FOLDER) == []


def test_the_chunks_of_one_iteration_are_those_of_every_other(array: FeatureArray, tmp_path: Path) -> None:
    with lease(Cache(tmp_path).folder, "one"), Claims([array]) as claims:
        chunks = claims.free(range(4))
        ahead, behind = iter(chunks), iter(chunks)
        assert [next(ahead), next(ahead), next(behind)] == [0, 1, 0]
        assert [*behind] == [1, 2, 3] and [*ahead] == [2, 3] and [*chunks] == [0, 1, 2, 3]


def test_a_chunk_that_was_committed_meanwhile_is_not_given_out(array: FeatureArray, tmp_path: Path) -> None:
    others = list[int]()
    with lease(Cache(tmp_path).folder, "one"), Claims([array], others.append) as claims:
        chunks = iter(claims.free(range(3)))
        assert next(chunks) == 0
        commit(array, 1)
        assert next(chunks) == 2 and others == [1]


@pytest.mark.parametrize("why", ["bucket", "no lease", "nothing to share"])
def test_where_chunks_cannot_be_claimed_all_are_free(array: FeatureArray, tmp_path: Path, why: str) -> None:
    with Claims([] if why == "nothing to share" else [array]) as claims:
        assert [*claims.free(range(3))] == [0, 1, 2] and claims.left(range(3)) == []
    assert not (tmp_path / FOLDER / CLAIMS).exists()


@pytest.mark.parametrize("content", ['{"lease": "gone"}', "{}", "[]", "", "junk"])
def test_the_claim_of_nobody_is_taken_over(array: FeatureArray, tmp_path: Path, content: str) -> None:
    with lease(Cache(tmp_path).folder, "one"), Claims([array]) as claims:
        chunks = iter(claims.free(range(3)))
        next(chunks)
        (job,) = (tmp_path / FOLDER / CLAIMS).iterdir()
        (job / "1").write_text(content)
        old = time.time() - 60
        os.utime(job / "1", (old, old))
        assert [*chunks] == [1, 2]


def test_a_claim_that_is_being_written_is_waited_for(array: FeatureArray, tmp_path: Path) -> None:
    with lease(Cache(tmp_path).folder, "one"), Claims([array]) as claims:
        next(iter(claims.free([0])))
        (job,) = (tmp_path / FOLDER / CLAIMS).iterdir()
        (job / "1").touch()
        assert [*claims.free([1, 2])] == [2]
        (job / "1").unlink()
        assert claims.left([1, 2]) == [1] and [*claims.free([1])] == [1]


def test_the_claim_of_a_process_that_was_stopped_or_sleeps_lapses(
    array: FeatureArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(Cache(tmp_path).folder, "one"), Claims([array]) as one, Claims([array]) as two:
        assert next(iter(one.free([0]))) == 0 and [*two.free([0])] == []
        ((held,), _) = leases(tmp_path)
        old = time.time() - DEAD_SECONDS - 1
        os.utime(held.path, (old, old))
        assert two.left([0]) == [0] and [*two.free([0])] == [0]


def test_a_full_disk_costs_the_claim_and_not_the_chunk(
    array: FeatureArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with lease(Cache(tmp_path).folder, "one"), Claims([array]) as claims, monkeypatch.context() as patch:
        patch.setattr(module.os, "open", full)
        assert [*claims.free(range(3))] == [0, 1, 2]


def test_gc_takes_the_claims_of_the_dead_alone(array: FeatureArray, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with lease(cache.folder, "one"), Claims([array]) as claims:
        next(iter(claims.free([0])))
        (job,) = (tmp_path / FOLDER / CLAIMS).iterdir()
        old = time.time() - 2 * DEAD_SECONDS
        for name, content in {"1": '{"lease": "gone"}', "2": "", "notes": "mine"}.items():
            (job / name).write_text(content)
        for name in ("0", "1", "2", "notes"):
            os.utime(job / name, (old, old))
        assert [each.path.name for each in leftovers(cache).found] == ["1", "2"]
        clean(cache)
        assert sorted(os.listdir(job)) == ["0", "notes"]


# -- real processes ---------------------------------------------------------------------------------------------------

EXTRACTOR = """
import sys, time
from dataclasses import replace
from pathlib import Path
import featcache.extraction.job as module
from featcache.cache import Cache
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.extraction.extract import extract
from tests.fakes import FakeEncoder, fake_card, text_dataset

module.describe = lambda spec, options, memo: fake_card()
class Slow(FakeEncoder):
    def encode(self, prepared, layers):
        time.sleep(0.02)
        return super().encode(prepared, layers)

cache = Cache(sys.argv[1])
job = module.plan_job(cache, text_dataset(280), encoder_spec("minilm"), EncodeOptions())
print("ready", flush=True)
sys.stdin.readline()
encoder = Slow()
rows = []
done = extract(cache, replace(job, chunk_rows=7), encoder=encoder, on_rows=rows.append)
print(len(encoder.rows), sum(rows), done.rows + done.reused, flush=True)
"""


@contextmanager
def extractors(root: Path, count: int) -> "Iterator[list[subprocess.Popen[str]]]":
    command = [sys.executable, "-c", EXTRACTOR, str(root)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stdout and process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def said(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout and process.wait(120) == 0
    return [int(number) for number in process.stdout.readline().split()]


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_four_extractions_of_one_data_set_compute_it_once_between_them(tmp_path: Path) -> None:
    with extractors(tmp_path, 4) as processes:
        results = [said(process) for process in processes]
    encoded = [rows for rows, _, _ in results]
    assert 280 <= sum(encoded) <= 280 + 4 * 7 and max(encoded) < 280, encoded
    assert {covered for _, _, covered in results} == {280}
    assert {shown for _, shown, _ in results} <= set(range(281))
    cache = Cache(tmp_path)
    assert list(verify(cache, deep=True)) == [] and len(cache.load("tiny", "fake").ids) == 280
    assert os.listdir(tmp_path / FOLDER) == [] and leftovers(cache).found == ()


def test_the_chunks_of_an_extraction_that_is_killed_are_taken_over_by_the_other(tmp_path: Path) -> None:
    with extractors(tmp_path, 2) as (one, other):
        eventually(lambda: len(list(tmp_path.glob("tiny/*/*/last.mean/*/commits/*.json"))) > 3)
        one.send_signal(signal.SIGKILL)
        assert said(other)[2] == 280
    assert list(verify(Cache(tmp_path), deep=True)) == []
    assert {each.what for each in clean(Cache(tmp_path)).found} >= {"note of a writer that died"}
