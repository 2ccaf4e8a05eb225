"""Do gc and every writer of the cache come through side by side, as real processes stopped wherever it hurts?"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.derived.writer import store_derived
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.extraction.extract import extract
from featcache.extraction.job import Job, plan_job
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from featcache.maintenance.gc import clean, leftovers, rename
from featcache.maintenance.verify import verify
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.store import rows
from featcache.store.leases import FOLDER, leases
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.spine import tiny_cache

REPOSITORY = Path(__file__).parents[1]


@contextmanager
def featcache(*arguments: object) -> "Iterator[subprocess.Popen[str]]":
    """The real command, at work."""
    command = [sys.executable, str(REPOSITORY / "cli.py"), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def eventually(holds: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 120
    while not holds():
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]


def source_file(folder: Path, n: int = 200_000) -> Path:
    path = folder / "features.npy"
    np.save(path, np.random.default_rng(0).standard_normal((n, 4)).astype(np.float16))
    (folder / "ids.txt").write_text("".join(f"row {number}\n" for number in range(n)))
    return path


def importing(cache: Path, source: Path, encoder: str = "theirs") -> list[object]:
    options = ["--dataset", "mine", "--encoder", encoder, "--modality", "image", "--layer", "last.mean"]
    return ["import", source, *options, "--ids", source.with_name("ids.txt"), "--cache", cache]


def test_gc_beside_an_import_that_was_stopped_once_its_row_table_stands_takes_nothing_of_it(tmp_path: Path) -> None:
    root, source = tmp_path / "cache", source_file(tmp_path)
    with featcache(*importing(root, source)) as process:
        eventually(lambda: list(root.rglob("rows-*.json")), process)
        process.send_signal(signal.SIGSTOP)
        left = clean(Cache(root)).found
        assert all(each.holder for each in left) and list(root.rglob("rows-*.json"))
        assert f"import theirs, process {process.pid} on" in str(left[0].holder)
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0, process.communicate()[0]
    cache = Cache(root)
    assert list(verify(cache, deep=True)) == [] and len(cache.load("mine", "theirs").ids) == 200_000
    assert leftovers(cache).found == () and os.listdir(root / FOLDER) == []


CLEANER = """
import sys
from featcache.cache import Cache
from featcache.maintenance.gc import clean
print("ready", flush=True)
while True:
    clean(Cache(sys.argv[1]))
"""


@contextmanager
def cleaner(root: Path) -> Iterator[None]:
    """A process that cleans a cache without a pause."""
    command = [sys.executable, "-c", CLEANER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        try:
            assert process.stdout and process.stdout.readline()
            yield
            assert process.poll() is None, process.stderr and process.stderr.read()
        finally:
            process.kill()


def test_ten_imports_beside_a_gc_that_never_rests_all_succeed(tmp_path: Path) -> None:
    cache, source = tiny_cache(tmp_path), source_file(tmp_path, 300)
    options = ImportOptions(modality="image", ids=source.with_name("ids.txt"))
    with cleaner(cache.root):
        for number in range(10):
            import_features(cache, source, dataset=f"mine{number}", encoder="a", options=options, layer="last.mean")
    assert list(verify(cache, deep=True)) == []
    assert all(len(cache.load(f"mine{number}", "a").ids) == 300 for number in range(10))


def test_a_data_set_of_one_array_keeps_its_ids_while_it_is_renamed_beside_gc(tmp_path: Path) -> None:
    cache = tiny_cache(tmp_path)
    for encoder in ("minilm", "efficientnet-lite2"):
        cache.remove(cache.find("openmoji", encoder))
    before = cache.load("openmoji", "efficientnet-lite0").ids.tolist()
    with cleaner(cache.root):
        for number in range(8):
            rename(cache, "openmoji" if number == 0 else f"name{number - 1}", f"name{number}")
            assert cache.load(f"name{number}", "efficientnet-lite0").ids.tolist() == before
    assert list(verify(cache, deep=True)) == []


@pytest.fixture
def job_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cache, str], Job]:
    """Extractions of a data set that take no encoder library."""
    monkeypatch.setattr("featcache.extraction.job.describe", lambda spec, options, memo: fake_card())

    def job(cache: Cache, name: str) -> Job:
        planned = plan_job(cache, text_dataset(name=name), encoder_spec("minilm"), EncodeOptions())
        return replace(planned, chunk_rows=7)

    return job


def test_first_extractions_come_through_beside_gc(tmp_path: Path, job_of: Callable[[Cache, str], Job]) -> None:
    cache, encoder = tiny_cache(tmp_path), FakeEncoder()
    with cleaner(cache.root):
        for number in range(4):
            extract(cache, job_of(cache, f"data{number}"), encoder=encoder)  # pyright: ignore[reportArgumentType]
    assert list(verify(cache, deep=True)) == []
    assert all(len(cache.load(f"data{number}", "fake").ids) == 50 for number in range(4))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Cache, Cache]:
    return tiny_cache(tmp_path), Cache(tmp_path / "theirs")


def test_pulls_and_what_is_derived_come_through_beside_gc(two: tuple[Cache, Cache]) -> None:
    ours, theirs = two
    theirs.folder.make()
    transfer(plan_transfer(ours, theirs, ["openmoji/captions"]))
    with cleaner(theirs.root):
        for _ in range(4):
            transfer(plan_transfer(ours, theirs, ["openmoji/images/efficientnet-lite0"]))
            features = theirs.load("openmoji", "efficientnet-lite0")
            store_derived(theirs, features, features.values, name="run", layer="adapted.x", made_by={"a": "1"})
            for name in ("run", "efficientnet-lite0"):
                theirs.remove(theirs.find("openmoji", name))
    assert list(verify(theirs, deep=True)) == []


def writes(cache: Cache, other: Cache, source: Path, job: Job) -> dict[str, Callable[[], object]]:
    features = cache.load("openmoji", "minilm")
    options = ImportOptions(modality="image", ids=source.with_name("ids.txt"))
    encoder: Any = FakeEncoder()
    return {
        "extract": lambda: extract(cache, job, encoder=encoder),
        "import": lambda: import_features(
            cache, source, dataset="mine", encoder="a", options=options, layer="last.mean"
        ),
        "mv": lambda: rename(cache, "openmoji/captions", "openmoji/names"),
        "rm": lambda: cache.remove(cache.find("openmoji", "minilm")),
        "derived": lambda: store_derived(
            cache, features, features.values, name="run", layer="adapted.x", made_by={"a": "1"}
        ),
        "transfer": lambda: transfer(plan_transfer(other, cache)),
    }


@pytest.mark.parametrize("name", ["extract", "import", "mv", "rm", "derived", "transfer"])
def test_every_change_a_writer_makes_is_made_under_its_lease(
    tmp_path: Path, name: str, job_of: Callable[[Cache, str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watches every call by which names come, go or change below the cache."""
    cache, source = tiny_cache(tmp_path), source_file(tmp_path, 300)
    write = writes(cache, tiny_cache(tmp_path / "other"), source, job_of(cache, "tiny"))[name]
    outside, changes = list[str](), list[str]()
    for what in ("link", "rename", "replace", "unlink", "rmdir"):
        real = getattr(os, what)

        def watched(*paths: object, what: str = what, real: Callable[..., object] = real, **options: object) -> object:
            path = os.fspath(paths[-1])  # type: ignore[arg-type]
            if str(path).startswith(str(cache.root)) and not {FOLDER, ".verified"} & set(Path(str(path)).parts):
                changes.append(f"{what} {path}")
                held = [each for each in leases(cache.root)[0] if not each.cleans]
                outside.extend([] if held else [f"{what} {path}"])
            return real(*paths, **options)

        monkeypatch.setattr(os, what, watched)
    if name == "transfer":
        for array in list(cache.arrays()):
            cache.remove(array)
        changes.clear()
    write()
    monkeypatch.undo()
    assert changes and outside == []


def test_a_row_table_that_an_older_gc_takes_from_under_a_writer_is_there_again_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, source = Cache(tmp_path / "cache"), source_file(tmp_path, 300)
    real = rows.write_rows

    def stolen(folder: object, view: object, overlay: object) -> None:
        real(folder, view, overlay)  # type: ignore[arg-type]
        for path in [*cache.root.rglob("*.parquet"), *cache.root.rglob("rows-*.json")]:
            path.unlink()

    monkeypatch.setattr("featcache.interchange.importing.write_rows", stolen)
    options = ImportOptions(modality="image", ids=source.with_name("ids.txt"))
    import_features(cache, source, dataset="mine", encoder="a", options=options, layer="last.mean")
    assert list(verify(cache, deep=True)) == [] and len(cache.load("mine", "a").ids) == 300


def test_a_failed_import_leaves_no_folder_behind(tmp_path: Path) -> None:
    source = tmp_path / "features.npy"
    np.save(source, np.full((4, 2), np.nan, np.float32))
    with featcache("import", source, "--dataset", "a", "--encoder", "b", "--cache", tmp_path / "cache") as process:
        assert process.wait() == 2
    assert not (tmp_path / "cache").exists()
