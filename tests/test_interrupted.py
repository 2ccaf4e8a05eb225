"""After Ctrl-C and SIGTERM, is every encoded row kept, taken by the next run, and are the bytes those of one run?"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from featcache.cache import Cache
from featcache.data.open import open_dataset
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import ExtractionFailed
from featcache.extraction.extract import Extracted, extract
from featcache.extraction.failed_rows import RowSettings
from featcache.extraction.interrupts import kept_rows, terminable
from featcache.extraction.job import plan_job, work_left
from featcache.maintenance.gc import leftovers
from featcache.maintenance.verify import verify
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.store.layout import Layout
from featcache.store.side_file import side_chunks, side_name
from tests import hub
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.test_extract import snapshot
from tests.test_failed_rows import Choosy

LAYERS = tuple(fake_card().widths)


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.job

    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())


class Cut(FakeEncoder):
    """Is interrupted in the batch that comes after so many."""

    def __init__(self, batches: int, how: BaseException | None = None) -> None:
        super().__init__()
        self.left, self.how = batches, how or KeyboardInterrupt()

    def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
        if self.left == 0:
            raise self.how
        self.left -= 1
        return super().encode(prepared, layers)


def run(cache: Cache, encoder: FakeEncoder, *, chunk: int = 50, **choices: Any) -> Extracted:
    job = replace(plan_job(cache, text_dataset(), encoder_spec("minilm"), EncodeOptions()), chunk_rows=chunk)
    return extract(cache, job, encoder=encoder, **choices)  # pyright: ignore[reportArgumentType]


def kept_of(cache: Cache) -> list[set[int]]:
    return [side_chunks(array.folder) for array in cache.arrays()]


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize("how", [KeyboardInterrupt(), SystemExit(143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_chunk_interrupted_at_any_batch_goes_on_at_the_next_one(tmp_path: Path, how: BaseException) -> None:
    run(Cache(tmp_path / "whole"), FakeEncoder())
    for batches in range(1, 13):
        cache, first, rest = Cache(tmp_path / f"{batches}"), Cut(batches, type(how)(*how.args)), FakeEncoder()
        with pytest.raises(type(how)) as interruption:
            run(cache, first)
        assert kept_rows(interruption.value) == len(first.rows) == 4 * batches
        assert kept_of(cache) == [{0}] * 3
        done = run(cache, rest)
        assert (done.rows, done.reused) == (50 - 4 * batches, 4 * batches)
        assert not set(first.rows) & set(rest.rows), "no row is encoded twice"
        assert snapshot(cache.root) == snapshot(tmp_path / "whole")
        assert kept_of(cache) == [set()] * 3 and list(verify(cache, deep=True)) == []


@pytest.mark.usefixtures("described")
def test_interrupted_again_and_again_nothing_is_lost(tmp_path: Path) -> None:
    run(Cache(tmp_path / "whole"), FakeEncoder())
    cache, encoded = Cache(tmp_path / "cut"), list[str]()
    for _ in range(12):
        encoder = Cut(1)
        with pytest.raises(KeyboardInterrupt):
            run(cache, encoder)
        encoded += encoder.rows
    assert run(cache, FakeEncoder()).rows == 2
    assert len(encoded) == len(set(encoded)) == 48
    assert snapshot(cache.root) == snapshot(tmp_path / "whole")


@pytest.mark.usefixtures("described")
def test_rows_that_fail_are_kept_as_such(tmp_path: Path) -> None:
    class CutChoosy(Cut, Choosy):
        pass

    run(Cache(tmp_path / "whole"), Choosy(), settings=RowSettings("skip"))
    for batches in (1, 5, 9, 11):
        cache = Cache(tmp_path / f"{batches}")
        with pytest.raises(KeyboardInterrupt):
            run(cache, CutChoosy(batches), settings=RowSettings("skip"))
        done = run(cache, Choosy(), settings=RowSettings("skip"))
        assert sorted(failure.id for failure in done.failed) == ["r3", "r33", "r34", "r4", "r48"]
        assert snapshot(cache.root) == snapshot(tmp_path / "whole")
        for ours, theirs in zip(cache.arrays(), Cache(tmp_path / "whole").arrays(), strict=True):
            assert ours.complete().failed == theirs.complete().failed


@pytest.mark.usefixtures("described")
def test_what_the_encoder_noted_of_a_row_is_kept_with_it(tmp_path: Path) -> None:
    class Flagging(Cut):
        def flag(self, prepared: Any) -> str | None:
            return "truncated" if len(prepared.split()) == 7 else None

    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(cache, Flagging(1))
    run(cache, Flagging(-1))
    for array in cache.arrays():
        assert array.complete().flagged("truncated") == tuple(f"r{row}" for row in range(6, 50, 7))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize("how", ["flipped", "short", "empty", "missing", "of another array", "of another layout"])
def test_a_side_file_that_is_not_what_was_kept_is_not_used(tmp_path: Path, how: str) -> None:
    run(Cache(tmp_path / "whole"), FakeEncoder())
    cache, rest = Cache(tmp_path / "cut"), FakeEncoder()
    with pytest.raises(KeyboardInterrupt):
        run(cache, Cut(5))
    first, second, _ = (array.path / side_name(0) for array in cache.arrays())
    if how == "flipped":
        flip(first)
    elif how in ("short", "empty"):
        first.write_bytes(first.read_bytes()[:-5] if how == "short" else b"")
    elif how == "missing":
        first.unlink()
    elif how == "of another array":
        shutil.copy(second, first)
    else:
        other = Cache(tmp_path / "other")
        encoder = Cut(2)
        encoder.batch = 5
        with pytest.raises(KeyboardInterrupt):
            run(other, encoder)
        shutil.copy(next(iter(other.arrays())).path / side_name(0), first)
    done = run(cache, rest)
    assert len(rest.rows) == done.rows == 50
    assert any("was damaged: it is removed" in note for note in done.notes) == (how in ("flipped", "short", "empty"))
    assert snapshot(cache.root) == snapshot(tmp_path / "whole")
    assert kept_of(cache) == [set()] * 3


@pytest.mark.usefixtures("described")
def test_a_side_file_is_counted_by_a_dry_run_and_left_by_gc_push_and_verify(tmp_path: Path) -> None:
    cache, other = Cache(tmp_path / "a"), Cache(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        run(cache, Cut(8), chunk=25)
    job = replace(plan_job(cache, text_dataset(), encoder_spec("minilm"), EncodeOptions()), chunk_rows=25)
    assert work_left(job) == (3, 21)
    assert leftovers(cache).found == () and list(verify(cache)) == []
    transfer(plan_transfer(cache, other))
    assert [array.committed() for array in other.arrays()] == [{0}] * 3
    assert kept_of(cache) == [{1}] * 3 and kept_of(other) == [set()] * 3
    stale = next(iter(cache.arrays())).path / side_name(1)
    content = stale.read_bytes()
    run(cache, FakeEncoder(), chunk=25)
    stale.write_bytes(content)
    (left,) = leftovers(cache).found
    assert (left.path, left.what) == (stale, "rows of an interrupted extraction, committed since")


@pytest.mark.usefixtures("described")
def test_an_error_after_an_interruption_does_not_drop_what_was_kept(tmp_path: Path) -> None:
    cache, rest = Cache(tmp_path), FakeEncoder()
    with pytest.raises(KeyboardInterrupt):
        run(cache, Cut(5))
    with pytest.raises(ExtractionFailed):
        run(cache, FakeEncoder(scale=float("nan")))
    run(cache, rest)
    assert len(rest.rows) == 30


@pytest.mark.usefixtures("described")
def test_where_a_decoding_process_dies_the_rows_in_work_are_kept_too(tmp_path: Path) -> None:
    cache, rest = Cache(tmp_path), FakeEncoder()
    with pytest.raises(ExtractionFailed, match="a process that decodes rows died"):
        run(cache, Cut(5, RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")))
    run(cache, rest)
    assert len(rest.rows) == 30


@pytest.mark.usefixtures("described")
def test_two_processes_that_are_interrupted_in_one_chunk_leave_one_side_file_that_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as where chunks cannot be claimed
    monkeypatch.setattr("featcache.extraction.claims.Claims._place", lambda self: (None, ""))
    run(Cache(tmp_path / "whole"), FakeEncoder())
    cache, rest = Cache(tmp_path / "cut"), FakeEncoder()
    barrier = threading.Barrier(2)

    class Together(Cut):
        def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
            if self.left == 0:
                barrier.wait(60)
            return super().encode(prepared, layers)

    def interrupted(batches: int) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(cache, Together(batches))

    threads = [threading.Thread(target=interrupted, args=(batches,)) for batches in (3, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(cache, rest)
    assert len(rest.rows) in (50 - 12, 50 - 28, 50), "of layers that two wrote, some may be the one's, some the other's"
    assert snapshot(cache.root) == snapshot(tmp_path / "whole")


@pytest.mark.usefixtures("described")
def test_where_the_disk_is_full_nothing_is_kept_and_the_interruption_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache.extraction.encode_pass

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(featcache.extraction.encode_pass, "write_side_file", full)
    with pytest.raises(KeyboardInterrupt) as interruption:
        run(Cache(tmp_path), Cut(5))
    assert kept_rows(interruption.value) == 0
    assert "No space left on device" in interruption.value.__notes__[0]


def test_a_handler_that_the_program_has_set_stays() -> None:
    def own(number: int, frame: Any) -> None:
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with terminable():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(SystemExit, match="143"), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# -- as it is typed ---------------------------------------------------------------------------------------------------

ROWS, BATCH = 40, 4
PRELUDE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
from featcache.encoders.encoder import Encoder
real = Encoder.encode
def encode(self, prepared, layers):
    features = real(self, prepared, layers)
    time.sleep(float(os.environ["SLOW"]))
    os.write(1, f"batch of {len(prepared)}\\n".encode())
    return features
Encoder.encode = encode
"""
MAIN = "import sys; sys.argv = ['featcache', *sys.argv[1:]]; from featcache.commands.app import main; main()"


class Site:
    """A folder of pictures with captions, one chunk each, and tiny networks in the Hub's layout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos = folder, folder / "photos"
        self.weights = {"gpt2": hub.gpt2_repo(folder / "gpt2"), "dinov2-small": hub.dinov2_repo(folder / "dinov2")}
        self.photos.mkdir()
        lines = ["image,caption"]
        for row in range(ROWS):
            Image.new("RGB", (30 + row % 7, 40), (row * 6, 40, 80)).save(self.photos / f"{row:04}.png")
            lines.append(f"{row:04}.png,{'a dog and ' * (row % 5)}number {row}")
        (self.photos / "captions.csv").write_text("\n".join(lines) + "\n")
        for encoder in self.weights:
            self.begin(encoder, folder / "begun" / encoder)

    def begin(self, encoder: str, folder: Path) -> None:
        """Arrays without a chunk, cut into batches of four."""
        cache = Cache(folder)
        dataset = open_dataset("folder:tiny", root=self.photos)
        job = plan_job(cache, dataset, encoder_spec(encoder), EncodeOptions(weights=self.weights[encoder]))
        order = "cost" if encoder == "gpt2" else "row"
        for target in job.targets:
            target.array.create(target.key, Layout(ROWS, ROWS, BATCH, order, 1))

    def cache(self, encoder: str, folder: Path) -> Path:
        """A copy of the arrays that are only begun."""
        shutil.copytree(self.folder / "begun" / encoder, folder)
        return folder

    def extract(self, encoder: str, cache: Path, *words: str, slow: float = 0.0) -> "subprocess.Popen[str]":
        """`featcache extract`, as it is typed."""
        weights = str(self.weights[encoder])
        typed = ["extract", "folder:tiny", encoder, "--root", str(self.photos), "--weights", weights, *words]
        return subprocess.Popen(
            [sys.executable, "-c", PRELUDE + MAIN, *typed, "--cache", str(cache)],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"SLOW": str(slow), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def rows_in(output: str) -> int:
    return sum(map(int, re.findall(r"batch of (\d+)", output)))


@pytest.mark.parametrize(
    ("encoder", "words", "how"),
    [
        ("gpt2", (), signal.SIGINT),
        ("dinov2-small", (), signal.SIGTERM),
        ("dinov2-small", ("--workers", "2"), signal.SIGINT),
        pytest.param("dinov2-small", ("--workers", "2"), signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_command_that_is_ended_keeps_its_rows_says_how_many_and_the_same_one_goes_on(
    site: Site, tmp_path: Path, encoder: str, words: tuple[str, ...], how: signal.Signals
) -> None:
    if words and sys.platform != "linux":
        pytest.skip("worker processes need a fork")
    cut, whole = site.cache(encoder, tmp_path / "cut"), site.cache(encoder, tmp_path / "whole")
    once = site.extract(encoder, whole)
    out, said = once.communicate(timeout=120)
    assert once.returncode == 0 and rows_in(out) == ROWS, said

    first = site.extract(encoder, cut, *words, slow=0.3)
    assert first.stdout is not None
    seen = list[str]()
    while len(re.findall("batch of", "".join(seen))) < 3:
        seen.append(first.stdout.readline())
        assert seen[-1], "it ended"
    os.killpg(first.pid, how)  # as a terminal and SLURM do: to the process and its workers
    out, said = first.communicate(timeout=60)
    encoded = rows_in("".join(seen) + out)
    assert first.returncode == 128 + how, said
    kept = int(re.findall(r"^(\d+) rows were encoded and not yet committed. They are kept", said, re.M)[0])
    assert encoded - BATCH <= kept <= encoded and kept % BATCH == 0 and kept >= 2 * BATCH
    assert "What was committed stays: run the same command again to go on." in said and "Traceback" not in said

    again = site.extract(encoder, cut, *words)
    out, said = again.communicate(timeout=120)
    assert again.returncode == 0 and rows_in(out) == ROWS - kept, said
    assert snapshot(cut) == snapshot(whole)
    assert not [path for path in cut.rglob(".kept-*")] and list(verify(Cache(cut), deep=True)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="finds children in /proc")
def test_of_several_devices_each_keeps_its_rows(site: Site, tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut", site.cache("gpt2", tmp_path / "whole")
    dataset = open_dataset("folder:tiny", root=site.photos)
    caches = [Cache(cut), Cache(whole)]
    shutil.copytree(whole / ".encoders", cut / ".encoders")
    shutil.rmtree(whole / "tiny")
    for cache in caches:
        job = plan_job(cache, dataset, encoder_spec("gpt2"), EncodeOptions(weights=site.weights["gpt2"]))
        for target in job.targets:
            target.array.create(target.key, Layout(ROWS, ROWS // 2, 1, "cost", 1))
    site.extract("gpt2", whole).communicate(timeout=120)
    first = site.extract("gpt2", cut, "--device", "cpu,cpu")
    deadline = time.monotonic() + 100
    while not list(cut.rglob("commits/*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode in (130, 0), said
    kept = [len(side_chunks(array.folder)) for array in caches[0].arrays()]
    if any(kept):
        assert re.search(r"^\d+ rows were encoded and not yet committed. They are kept", said, re.M), said
    again = site.extract("gpt2", cut)
    out, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert snapshot(cut) == snapshot(whole)
