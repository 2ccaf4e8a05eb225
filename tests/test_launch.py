"""Do several processes on one machine make the array that one process makes, and end together?"""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.data.open import DatasetSource, open_dataset
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import ExtractionFailed, UsageError, WeightsInvalid
from featcache.extraction.extract import Extracted, extract
from featcache.extraction.failed_rows import EARLIER, Failure, RowSettings
from featcache.extraction.job import Job, plan_job
from featcache.extraction.multi_device import parse_devices, run_on_devices
from featcache.extraction.remote_job import RemoteJob, combined, make_remote_job, open_remote_job
from featcache.extraction.shards import Shard
from featcache.store.layout import Layout
from tests import hub
from tests.test_extract import snapshot

ROOT = Path(__file__).parents[1]
CHUNK, THREADS = 8, 1


class Site:
    """A folder of pictures with captions, and a tiny GPT-2 and ResNet in the Hub's layout."""

    def __init__(self, folder: Path, rows: int = 60) -> None:
        self.folder, self.rows = folder, rows
        self.gpt2 = hub.gpt2_repo(folder / "gpt2")
        self.photos = folder / "photos"
        self.photos.mkdir()
        lines = ["image,caption"]
        for row in range(rows):
            Image.new("RGB", (8, 8), (row % 256, 40, 80)).save(self.photos / f"{row:04}.png")
            lines.append(f"{row:04}.png,{'a dog and ' * (row % 5)}number {row}")
        (self.photos / "captions.csv").write_text("\n".join(lines) + "\n")

    def job(self, cache: Cache, **options: Any) -> Job:
        """The captions through GPT-2, into arrays that are planned in small chunks already."""
        dataset = open_dataset("folder:tiny", root=self.photos)
        chosen = EncodeOptions(weights=self.gpt2, **options)
        job = plan_job(cache, dataset, encoder_spec("gpt2"), chosen, layers=["1", "last"])
        for target in job.targets:
            target.array.create(target.key, Layout(self.rows, CHUNK, 4, "cost", THREADS))
        return job

    def remote(self, cache: Cache, job: Job) -> RemoteJob:
        return make_remote_job(cache, job, source=DatasetSource("folder:tiny", self.photos))

    def cache(self, folder: Path) -> Cache:
        """A cache that knows the encoder already, so that planning loads no network."""
        warm = self.folder / "warm"
        if not warm.exists():
            self.job(Cache(warm))
        shutil.copytree(warm / ".encoders", folder / ".encoders")
        return Cache(folder)

    def whole(self, folder: Path) -> dict[str, bytes]:
        """The chunks of an extraction in one process, with the same plan."""
        cache = self.cache(folder)
        assert extract(cache, self.job(cache)).complete
        return snapshot(folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def test_two_devices_make_the_array_of_one_process_byte_for_byte(site: Site, tmp_path: Path) -> None:
    cache = site.cache(tmp_path / "shared")
    job = site.job(cache)
    counted: list[int] = []
    done = run_on_devices(job, site.remote(cache, job), ("cpu", "cpu"), on_rows=counted.append)
    assert (done.complete, done.rows, done.reused, sum(counted)) == (True, 60, 0, 60)
    assert done.layers == tuple(target.layer for target in job.targets)
    assert snapshot(tmp_path / "shared") == site.whole(tmp_path / "one")
    writers = {record.writer for record in job.targets[0].array.complete().records}
    assert len(writers) == 2, "each process computed some of it"
    assert len(cache.load("tiny", "gpt2")) == 60
    again = run_on_devices(site.job(cache), site.remote(cache, job), ("cpu", "cpu"))
    assert (again.rows, again.reused) == (0, 60)


def test_a_machines_share_is_divided_among_its_devices_and_the_rest_is_left(site: Site, tmp_path: Path) -> None:
    cache = site.cache(tmp_path / "cache")
    job = site.job(cache)
    printed: list[str] = []
    done = run_on_devices(job, site.remote(cache, job), ("cpu",), shard=Shard(1, 4), on_line=printed.append)
    assert (done.complete, done.rows) == (False, 16)
    assert job.targets[0].array.committed() == {1, 5}
    assert all(line.startswith("cpu | ") for line in printed)


def test_the_first_child_that_fails_stops_the_others_with_its_message(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = site.cache(tmp_path / "cache")
    job = site.job(cache)
    started: list[Any] = []
    real = subprocess.Popen

    def remembering(*words: Any, **options: Any) -> Any:
        started.append(real(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remembering)
    with pytest.raises(UsageError, match="^cuda:7: .*cuda:7"):
        run_on_devices(job, site.remote(cache, job), ("cpu", "cuda:7"))
    assert len(started) == 2 and all(child.poll() is not None for child in started)
    assert not job.targets[0].array.is_complete


def test_a_child_that_is_killed_is_named_with_its_signal(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache.extraction.multi_device

    class Doomed(subprocess.Popen[bytes]):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            self.send_signal(signal.SIGKILL)

    monkeypatch.setattr(featcache.extraction.multi_device.subprocess, "Popen", Doomed)
    cache = site.cache(tmp_path / "cache")
    job = site.job(cache)
    with pytest.raises(ExtractionFailed, match=r"process on cpu was killed by signal 9. What was committed stays"):
        run_on_devices(job, site.remote(cache, job), ("cpu",))


PARENT = """
import sys
from pathlib import Path
from featcache.cache import Cache
from featcache.extraction.multi_device import run_on_devices
from tests.test_launch import Site
site = Site.__new__(Site)
site.folder, site.rows = Path(sys.argv[1]), int(sys.argv[3])
site.gpt2, site.photos = site.folder / "gpt2", site.folder / "photos"
cache = Cache(sys.argv[2])
job = site.job(cache)
print("started", flush=True)
run_on_devices(job, site.remote(cache, job), ("cpu", "cpu"), on_rows=lambda rows: print(rows, flush=True))
"""


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="finds children in /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_children_end_with_their_parent_however_it_ends(site: Site, tmp_path: Path, end: signal.Signals) -> None:
    site.cache(tmp_path / "cache")
    words = [sys.executable, "-c", PARENT, str(site.folder), str(tmp_path / "cache"), str(site.rows)]
    parent = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "started\n"
    deadline = time.monotonic() + 60
    while len(children := children_of(parent.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(children) == 2
    if end is signal.SIGKILL:
        parent.stdout.readline()  # in the middle of the work, not only of the start
    parent.send_signal(end)
    parent.wait(30)
    parent.stdout.close()
    while any(runs(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if runs(child)]


def test_a_gpu_named_twice_or_an_empty_name_is_refused() -> None:
    assert parse_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert parse_devices("cpu,cpu") == ("cpu", "cpu")
    for text in ("cuda:0,cuda:0", "cuda:0,", ""):
        with pytest.raises(UsageError, match="--device"):
            parse_devices(text)


# -- what a remote job checks ----------------------------------------------------------------------------------------


@pytest.fixture
def moved(site: Site, tmp_path: Path) -> tuple[Path, Cache, RemoteJob]:
    """A remote job whose root is a copy of the site's photos that a test may change."""
    shutil.copytree(site.photos, tmp_path / "photos")
    cache = site.cache(tmp_path / "cache")
    remote = site.remote(cache, site.job(cache))
    return tmp_path / "photos", cache, replace(remote, source=replace(remote.source, root=tmp_path / "photos"))


def test_a_remote_job_opens_to_the_job_it_was_made_of_without_reading_every_row(
    moved: tuple[Path, Cache, RemoteJob], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache, remote = moved
    _, job = open_remote_job(remote)
    there = site.job(cache)
    assert [target.array.path for target in job.targets] == [target.array.path for target in there.targets]
    assert job.view.root == there.view.root and job.options == there.options


def test_a_data_set_with_other_rows_on_another_machine_is_refused(moved: tuple[Path, Cache, RemoteJob]) -> None:
    photos, _, remote = moved
    captions = photos / "captions.csv"
    lines = captions.read_text().splitlines()
    captions.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataInvalid, match="59 here, 60 there.*Put the same version on every machine"):
        open_remote_job(remote)
    captions.write_text("\n".join([*lines[:-1], "0000.png,one more of the first"]) + "\n")
    with pytest.raises(DataInvalid, match="or other ids or groups"):
        open_remote_job(remote)


def test_a_row_with_other_bytes_on_another_machine_is_refused_by_its_id(moved: tuple[Path, Cache, RemoteJob]) -> None:
    photos, _, remote = moved
    captions = photos / "captions.csv"
    captions.write_text(captions.read_text().replace("number 17", "number 99"))
    cache, job = open_remote_job(remote)
    assert job.view.read(3)
    with pytest.raises(
        UsageError, match=r"row '0017.png#0' on .* has other bytes than where the extraction was started"
    ):
        extract(cache, job, settings=RowSettings("skip"))
    assert job.targets[0].array.committed() == {0, 1}


def test_an_encoder_with_other_weights_on_another_machine_is_refused(
    moved: tuple[Path, Cache, RemoteJob], tmp_path: Path
) -> None:
    _, _, remote = moved
    other = hub.gpt2_repo(tmp_path / "other", seed=1)
    with pytest.raises(WeightsInvalid, match="gpt2 on .* is not the encoder that the extraction was started with"):
        open_remote_job(replace(remote, options=replace(remote.options, weights=other)))


def test_what_several_processes_did_adds_up_and_a_failed_row_keeps_its_reason(site: Site, tmp_path: Path) -> None:
    job = site.job(site.cache(tmp_path / "cache"))
    bad, theirs = Failure("r1", "not a whole image file"), Failure("r1", EARLIER)
    last = Extracted("gpt2", "captions", ("last.mean",), 20, 0, 1.0, True, (theirs, Failure("r9", "no tokens")))
    first = Extracted("gpt2", "captions", ("last.mean",), 24, 16, 1.0, False, (bad,))
    for results in ([first, last], [last, first]):
        done = combined(job, results, 2.0)
        assert (done.rows, done.reused, done.seconds, done.complete) == (44, 16, 2.0, True)
        assert {failure.id: failure.why for failure in done.failed} == {"r1": bad.why, "r9": "no tokens"}
