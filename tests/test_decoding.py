"""Are rows prepared ahead in the order of the plan, in threads as in processes, whatever a row or a worker does?"""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

import featcache.extraction.loader
from featcache.data.images import decode_rgb, image_view
from featcache.data.views import View
from featcache.encoders.vision import ImageSettings, prepare_image
from featcache.errors import ExtractionFailed, UsageError
from featcache.extraction.loader import Batch, choose_workers, named_worker_death, prepared_batches
from featcache.store.layout import Layout

forks = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are Linux's")
SETTINGS = ImageSettings(24, (24, 24), "even", "bilinear", (0.5,) * 3, (0.5,) * 3)
ROWS = 50
LAYOUT = Layout(ROWS, 20, 8, "row", 1)


class Pictures:
    """Prepares photos as a real encoder does."""

    def prepare(self, item: Any) -> torch.Tensor:
        return prepare_image(item, SETTINGS)

    def cost(self, prepared: Any) -> int:
        return 1


def photo(row: int) -> bytes:
    """A JPEG or PNG of its own size and content."""
    from PIL import Image

    pixels = np.random.default_rng(row).integers(0, 256, (30 + row, 70 - row, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if row % 2 else "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in some 50 kB."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


def photos(rows: int = ROWS, broken: dict[int, bytes] | None = None) -> View:
    """So many photos, of which the first fifty recur."""
    ids = tuple(f"p{row}" for row in range(rows))
    content = [photo(row) for row in range(50)]
    return image_view("images", ids, ids, lambda row: (broken or {}).get(row, content[row % 50]))


def collect(view: View, encoder: Any, workers: int, plan: Layout = LAYOUT) -> list[Batch]:
    return list(prepared_batches(view, encoder, plan, range(plan.chunks), workers=workers))


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert (one.chunk, one.numbers, one.failed, one.last) == (other.chunk, other.numbers, other.failed, other.last)
        for a, b in zip(one.prepared, other.prepared, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


@forks
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("room", [2**40, 0], ids=["shared memory", "pipe"])
def test_processes_prepare_the_same_batches_as_threads(
    monkeypatch: pytest.MonkeyPatch, workers: int, room: int
) -> None:
    monkeypatch.setattr(featcache.extraction.loader, "_SHARED_BYTES", -1 if room else 2**62)
    view = photos(broken={3: photo(3)[:900], 41: photo(41)[:1200], 42: bomb()})
    assert_same(collect(view, Pictures(), 0), collect(view, Pictures(), workers))


def test_batches_follow_the_plan_and_hold_every_row_once() -> None:
    batches = collect(photos(), Pictures(), 0)
    assert [number for batch in batches for number in batch.numbers] == list(range(ROWS))
    sizes = [[len(batch.numbers) for batch in batches if batch.chunk == chunk] for chunk in range(3)]
    assert sizes == [[8, 8, 4], [8, 8, 4], [8, 2]]
    assert [batch.chunk for batch in batches if batch.last] == [0, 1, 2] and batches[2].last


@forks
def test_a_batch_larger_than_what_travels_at_once_comes_whole() -> None:
    plan = Layout(200, 150, 150, "row", 1)
    batches = collect(photos(200), Pictures(), 2, plan)
    assert [len(batch.prepared) for batch in batches] == [150, 50]
    assert_same(batches, collect(photos(200), Pictures(), 0, plan))


@forks
def test_waveforms_of_unequal_length_come_back_as_they_were() -> None:
    ids = tuple(map(str, range(ROWS)))
    waves = [np.random.default_rng(row).standard_normal(5 + row % 7).astype(np.float32) for row in range(ROWS)]

    class Ears(Pictures):
        def prepare(self, item: Any) -> torch.Tensor:
            return torch.from_numpy(np.array(item))

    view = View("speech", "audio", ids, ids, lambda row: waves[row].tobytes(), lambda b: np.frombuffer(b, np.float32))
    for batch in collect(view, Ears(), 2):
        for number, wave in zip(batch.numbers, batch.prepared, strict=True):
            np.testing.assert_array_equal(wave.numpy(), waves[number])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forks)])
def test_rows_that_cannot_be_prepared_are_left_out_with_the_reason(workers: int) -> None:
    view = photos(broken={1: photo(1)[:300], 2: bomb(), 3: b""})

    def gone(row: int) -> bytes:
        if row == 5:
            raise FileNotFoundError(2, "No such file or directory", "p5.jpg")
        return view.content(row)

    class Strict(Pictures):
        def prepare(self, item: Any) -> torch.Tensor:
            if item.size == (64, 36):  # row 6
                raise MemoryError
            return super().prepare(item)

    first = collect(replace(view, content=gone), Strict(), workers)[0]
    assert first.numbers == [0, 4, 7] and len(first.prepared) == 3
    assert first.failed.keys() == {1, 2, 3, 5, 6}
    assert "truncated" in first.failed[1] or "not a whole image" in first.failed[1]
    assert "decompression bomb" in first.failed[2]
    assert "not a whole image file (0 bytes)" in first.failed[3]
    assert first.failed[5] == "FileNotFoundError: [Errno 2] No such file or directory: 'p5.jpg'"
    assert first.failed[6] == "MemoryError"


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forks)])
def test_a_fault_of_the_program_is_not_taken_for_a_bad_row(workers: int) -> None:
    class Faulty(Pictures):
        def prepare(self, item: Any) -> torch.Tensor:
            raise TypeError("a fault")

    with pytest.raises(TypeError, match="a fault"):
        collect(photos(), Faulty(), workers)


def test_text_comes_longest_first_and_what_fails_stands_once_in_its_chunk() -> None:
    texts = [" ".join(["w"] * (1 + row * 7 % 13)) for row in range(ROWS)]
    ids = tuple(map(str, range(ROWS)))

    class Words:
        def prepare(self, item: Any) -> Any:
            if item == "w":
                raise ExtractionFailed("too short")
            return item

        def cost(self, prepared: Any) -> int:
            return len(prepared)

    view = View("captions", "text", ids, ids, lambda row: texts[row].encode(), bytes.decode)
    plan = replace(LAYOUT, order="cost")
    batches = collect(view, Words(), 4, plan)
    for chunk in range(plan.chunks):
        mine = [batch for batch in batches if batch.chunk == chunk]
        numbers = [number for batch in mine for number in batch.numbers]
        failed = [number for batch in mine for number in batch.failed]
        assert sorted(numbers + failed) == list(range(*plan.span(chunk)))
        assert numbers == sorted(numbers, key=lambda number: (-len(texts[number]), number))
        assert failed == [number for number in range(*plan.span(chunk)) if texts[number] == "w"]
        assert [batch.last for batch in mine] == [False] * (len(mine) - 1) + [True]


@pytest.mark.parametrize("order", ["row", "cost"])
def test_a_chunk_of_which_every_row_fails_is_still_a_batch(order: Any) -> None:
    view = photos(broken=dict.fromkeys(range(20, 40), b"no image"))
    batches = [batch for batch in collect(view, Pictures(), 0, replace(LAYOUT, order=order)) if batch.chunk == 1]
    assert batches[-1].last and not any(batch.prepared for batch in batches)
    assert {number for batch in batches for number in batch.failed} == set(range(20, 40))


@forks
def test_rows_that_only_this_process_can_read_are_read_here() -> None:
    import polars as pl

    frame = pl.DataFrame({"row": list(range(ROWS)), "photo": [photo(row) for row in range(ROWS)]})

    def content(row: int) -> bytes:  # Polars' threads do not survive a fork: in a worker this would never return
        return frame.lazy().filter(pl.col("row") == row).collect()["photo"][0]

    assert content(0) == photo(0)
    view = replace(photos(), content=content)
    assert_same(collect(view, Pictures(), 2), collect(photos(), Pictures(), 0))


@forks
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_is_an_error_that_says_what_to_do(end: signal.Signals) -> None:
    parent, others = os.getpid(), children()

    class Deadly(Pictures):
        def prepare(self, item: Any) -> torch.Tensor:
            if item.size == (50, 50) and os.getpid() != parent:  # row 20
                os.kill(os.getpid(), end)
                time.sleep(60)
            return super().prepare(item)

    seen, started = list[int](), time.perf_counter()
    with pytest.raises(ExtractionFailed, match="--workers 0 to decode in this process"), named_worker_death():
        for batch in prepared_batches(photos(), Deadly(), LAYOUT, range(3), workers=2):
            seen += batch.numbers
    assert time.perf_counter() - started < 20
    assert children() == others
    assert 20 not in seen


@forks
@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_hands_over_rows_is_the_same_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = children()

    def cut_off(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data", cut_off)
    with pytest.raises(ExtractionFailed, match="--workers 0 to decode in this process"), named_worker_death():
        list(prepared_batches(photos(), Pictures(), LAYOUT, range(3), workers=2))
    assert children() == others


@forks
def test_workers_end_when_the_batches_are_not_wanted_any_more() -> None:
    others = children()
    batches = prepared_batches(photos(200), Pictures(), Layout(200, 100, 4, "row", 1), range(2), workers=2)
    assert next(batches).numbers == [0, 1, 2, 3]
    assert len(children()) == len(others) + 2
    batches.close()
    assert children() == others


def children() -> list[int]:
    """Processes that this one started and that still run."""
    children = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for child in of_proc(task / "children").split():
            state = of_proc(Path(f"/proc/{child}/stat"))
            if state and state.rpartition(")")[2].split()[0] != "Z":
                children.append(int(child))
    return children


def of_proc(path: Path) -> str:
    """Content of a file of /proc; empty when its thread or process ended before it was opened or read."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


CHILD = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from tests.test_decoding import LAYOUT, Pictures, children, photos, prepared_batches
class Slow(Pictures):
    def prepare(self, item):
        time.sleep(0.05)
        return super().prepare(item)
for batch in prepared_batches(photos(), Slow(), LAYOUT, range(3), workers=2):
    print(*children(), flush=True)
    time.sleep(0.2)
"""


@forks
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_the_workers_end_with_their_parent_and_say_nothing(end: signal.Signals) -> None:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1])]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout and process.stderr
        workers = [int(number) for number in process.stdout.readline().split()]
        assert len(workers) == 2
        if end == signal.SIGINT:
            os.killpg(process.pid, end)  # as a terminal does: to the parent and its workers
        else:
            process.send_signal(end)
        errors = process.stderr.read()
        process.wait(20)
    assert errors.count("Traceback") <= (end == signal.SIGINT), errors
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def wait_until(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_number_of_workers_follows_cores_and_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for cores, wanted in [(1, 0), (2, 0), (3, 2), (6, 5), (64, 8)]:
        monkeypatch.setattr(featcache.extraction.loader, "cores", lambda cores=cores: cores)
        assert choose_workers("image") == choose_workers("audio") == wanted
        assert choose_workers("text") == choose_workers("text", 5) == 0
        assert choose_workers("image", 12) == 12
    with pytest.raises(UsageError, match="-1 worker processes"):
        choose_workers("image", -1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert choose_workers("image") == 0
    with pytest.raises(UsageError, match="need Linux, this is darwin. Leave out --workers"):
        choose_workers("image", 2)


def test_a_picture_that_pillow_would_only_warn_of_is_refused() -> None:
    from PIL import Image

    from featcache.data.errors import DataInvalid

    assert Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < 20_000 * 20_000
    with pytest.raises(DataInvalid, match="decompression bomb"):
        decode_rgb(bomb())


EXTRACT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import featcache.extraction.job
from dataclasses import replace
from pathlib import Path
from featcache.data.views import Dataset, Overlay
from featcache.cache import Cache
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.extraction.extract import extract
from featcache.extraction.failed_rows import RowSettings
from featcache.extraction.job import plan_job
from tests.fakes import fake_card
from tests.test_decoding import Pictures, photos

class Network(Pictures):
    card = replace(fake_card(), modality="image", widths={"0.mean": 3, "last.mean": 192}, default="last.mean")
    def __init__(self):
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 192, 5, 2)
    def batch_size(self, available_bytes):
        return 16
    def flag(self, prepared):
        return None
    def encode(self, prepared, layers):
        with torch.inference_mode():
            pixels = torch.stack(prepared).permute(0, 3, 1, 2).float() / 255
            features = {"0.mean": pixels.mean((2, 3)), "last.mean": self.layer(pixels).mean((2, 3))}
        return {layer: features[layer] for layer in layers}

folder, rows, workers = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
view = photos(rows, {5: b"no image"})
overlay = Overlay(view.groups, ("",) * rows)
featcache.extraction.job.describe = lambda spec, options, memo: Network.card
cache, dataset = Cache(folder), Dataset("photos", {"images": view}, overlay, "public domain", "made by a test")
job = replace(plan_job(cache, dataset, encoder_spec("efficientnet-lite0"), EncodeOptions()), chunk_rows=100)
used = []
def note(rows):
    used.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
settings = RowSettings("skip", workers)
done = extract(cache, job, encoder=Network(), settings=settings, on_rows=note if rows > 500 else None)
print(done.rows, [failure.id for failure in done.failed], *used)
"""


def run_extraction(folder: Path, rows: int, workers: int) -> list[str]:
    """Extracts photos with a small network in its own process: [rows, ids that failed, memory after each chunk]."""
    command = [sys.executable, "-W", "error", "-c", EXTRACT, str(Path(__file__).parents[1]), str(folder)]
    done = subprocess.run([*command, str(rows), str(workers)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


@forks
def test_features_and_records_are_the_same_bytes_for_every_number_of_workers(tmp_path: Path) -> None:
    snapshots: list[dict[str, bytes]] = []
    for workers in (0, 3):
        folder = tmp_path / str(workers)
        assert run_extraction(folder, 250, workers)[:2] == ["250", "['p5']"]
        snapshots.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("c.*")})
    assert len(snapshots[0]) == 2 * 3 and snapshots[0] == snapshots[1]


@forks
@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_does_not_grow_with_rows(tmp_path: Path, workers: int) -> None:
    used = [int(size) / 2**20 for size in run_extraction(tmp_path, 20_000, workers)[2:]]
    assert len(used) == 200
    settled, end = median(used[20:60]), median(used[-40:])  # after 2,000 to 6,000 rows and at the end
    assert end - settled < 4, f"{settled:.0f} MB at the beginning, {end:.0f} MB at the end"
