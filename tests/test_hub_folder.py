"""A folder in a data set repository of the Hub behaves as one on a disk."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.entries import entry_of
from featcache.errors import UsageError
from featcache.sharing.hub_card import MARK, card
from featcache.sharing.hub_publish import replace_card
from featcache.storage.hub import HubFolder, open_hub
from featcache.store.rows import write_rows
from tests import spine
from tests.dataset_hub import DatasetHub, the_only_hub

ROOT = Path(__file__).parents[1]
REPO = "lab/features"
ADDRESS = f"hf://datasets/{REPO}"
CHUNK = bytes(range(256)) * 40

# huggingface_hub uploads large files in a way that its HTTP client is about to rename
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    with the_only_hub(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def folder(hub: DatasetHub) -> HubFolder:
    made = open_hub(ADDRESS)
    made.create()
    return made


def named(files: dict[str, bytes]) -> list[tuple[str, Callable[[], bytes]]]:
    return [(name, lambda body=body: body) for name, body in files.items()]


# -- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", [ADDRESS, f"{ADDRESS}/flickr30k/captions", f"{ADDRESS}/a@v1", f"{ADDRESS}@refs/pr/2"]
)
def test_an_address_comes_back_as_it_was_given(address: str) -> None:
    assert str(open_hub(address)) == address
    assert str(open_hub(address) / "x").startswith(ADDRESS)


@pytest.mark.parametrize(
    "address", ["hf://models/a/b", "hf://datasets/a", "hf://datasets/a/b/../c", "hf://datasets/hf_token@a/b", "hf://"]
)
def test_another_form_of_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not of the form hf://datasets/owner/name"):
        open_hub(address)


def test_without_the_library_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from featcache.storage.hub import open_hub\n"
        f"open_hub({ADDRESS!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "pip install 'featcache[share]'" in done.stderr
    assert "LibraryMissing" in done.stderr


# -- writing and reading back -------------------------------------------------------------------------------------


def test_what_is_sent_is_listed_sized_and_read_back_small_or_large(folder: HubFolder, hub: DatasetHub) -> None:
    files = {"d/v/e/l/abc/c.0.0": CHUNK, "d/v/e/l/abc/key.json": b"{}", "d/v/rows-1.parquet": b"PAR1" * 9, "empty": b""}
    assert dict(folder.send(named(files))) == dict.fromkeys(files, True)
    for place in (folder, open_hub(ADDRESS)):
        assert {name: place.read(name) for name in files} == files
        assert dict(place.files()).items() >= {name: len(body) for name, body in files.items()}.items()
        assert place.folders() == ["d"] and place.names() == {".gitattributes", "empty"}
        assert place.find("d/*/e/*/*") == ["d/v/e/l/abc"]
    array = folder / "d/v/e/l/abc"
    assert (array.name, array.there(), (folder / "d/w").there()) == ("abc", True, False)
    assert dict(array.files()) == {"c.0.0": len(CHUNK), "key.json": 2}
    assert array.parent.folders() == ["abc"]
    assert array.size("c.1.0") is None
    with pytest.raises(FileNotFoundError):
        array.read("c.1.0")
    assert sorted(hub.large.values()) == sorted([CHUNK, b"PAR1" * 9]), "binary files went by large file storage"


@pytest.mark.parametrize("body", [CHUNK, b'{"json": "text"}' * 640], ids=["large", "regular"])
def test_a_part_of_a_file_is_read_into_views(folder: HubFolder, body: bytes) -> None:
    folder.write_once("a/file", body)
    first, second = bytearray(100), bytearray(50)
    size = (folder / "a").read_into("file", memoryview(first), memoryview(second), offset=1000)
    assert (size, bytes(first + second)) == (len(body), body[1000:1150])
    whole = bytearray(len(body))
    folder.read_into("a/file", memoryview(whole))
    assert whole == body
    beyond = bytearray(b"x" * 20)
    assert folder.read_into("a/file", memoryview(beyond), offset=len(body) - 5) == len(body)
    assert beyond[:5] == body[-5:], "what there is has come; the size tells that it does not reach"
    assert folder.read_into("a/file", memoryview(beyond), offset=len(body) + 5) == len(body)


def test_a_part_of_a_large_file_costs_only_that_part(folder: HubFolder, hub: DatasetHub) -> None:
    folder.write_once("c.0.0", CHUNK)
    part = bytearray(10)
    folder.read_into("c.0.0", memoryview(part), offset=20)
    requests = [headers for request, headers in hub.headers if request.startswith("GET /storage/")]
    assert requests[-1]["range"] == "bytes=20-29"


def test_a_file_that_exists_is_left_alone(folder: HubFolder) -> None:
    assert folder.write_once("key.json", b"first")
    assert not folder.write_once("key.json", b"second")
    assert dict(folder.send(named({"key.json": b"third", "plan.json": b"new"}))) == {
        "key.json": False,
        "plan.json": True,
    }
    assert folder.read("key.json") == b"first"


def test_many_files_make_few_commits_and_a_repeated_name_keeps_its_first_bytes(
    folder: HubFolder, hub: DatasetHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.storage.hub._FILES_A_COMMIT", 10)
    monkeypatch.setattr("featcache.storage.hub._BYTES_A_COMMIT", 1000)
    before = len(hub.commits[REPO])
    files = {f"f{number}": b"%d" % number for number in range(25)}
    made = list(folder.send([*named(files), ("f24", lambda: b"again")]))
    assert made == [*((name, True) for name in files), ("f24", False)]
    assert len(hub.commits[REPO]) - before == 3
    list(folder.send(named({f"g{number}": b"x" * 400 for number in range(4)})))
    assert len(hub.commits[REPO]) - before == 5, "a commit holds two files of 400 bytes where 1,000 are allowed"
    assert hub.files(REPO)["f24"] == b"24"


def test_sending_what_is_there_makes_no_commit(folder: HubFolder, hub: DatasetHub) -> None:
    folder.write_once("a", b"1")
    before = len(hub.commits[REPO])

    def unread() -> bytes:
        raise AssertionError("what is there need not be read to be sent")

    assert list(folder.send([("a", unread)])) == [("a", False)]
    folder.replace("a", b"1")
    folder.remove("b")
    assert len(hub.commits[REPO]) == before


def test_a_file_is_replaced_removed_and_set_aside(folder: HubFolder, hub: DatasetHub) -> None:
    list(folder.send(named({"x/a": b"1", "x/c.0.0": CHUNK, "x/b": b"2"})))
    folder.replace("x/a", b"3")
    folder.remove("x/b")
    (folder / "x").set_aside("c.0.0")
    (folder / "x").set_aside("a")
    names = sorted((folder / "x").names())
    assert [name.rpartition("-")[0] for name in names] == [".aside-a", ".aside-c.0.0"]
    assert [folder.read(f"x/{name}") for name in names] == [b"3", CHUNK]
    assert open_hub(f"{ADDRESS}/x").names() == set(names)
    with pytest.raises(FileNotFoundError):
        folder.set_aside("x/b")


def test_several_files_are_removed_in_one_commit(folder: HubFolder, hub: DatasetHub) -> None:
    list(folder.send(named({"x/a": b"1", "x/b": b"2", "y": b"3"})))
    before = len(hub.commits[REPO])
    folder.remove("x/a", "y", "never-there")
    assert set(hub.files(REPO)) == {".gitattributes", "x/b"}
    assert len(hub.commits[REPO]) == before + 1


def test_a_folder_is_deleted_whole_and_the_repository_never(folder: HubFolder, hub: DatasetHub) -> None:
    list(folder.send(named({"x/a": b"1", "x/y/b": b"2", "xy": b"3"})))
    before = len(hub.commits[REPO])
    (folder / "x").delete()
    assert len(hub.commits[REPO]) == before + 1
    assert set(hub.files(REPO)) == {".gitattributes", "xy"} == {name for name, _ in folder.files()}
    with pytest.raises(FileNotFoundError):
        (folder / "x").delete()
    with pytest.raises(UsageError, match="whole repository"):
        folder.delete()


def test_a_path_in_the_address_is_all_that_is_listed(folder: HubFolder, hub: DatasetHub) -> None:
    list(folder.send(named({"team/a/f": b"1", "other/f": b"2"})))
    below = open_hub(f"{ADDRESS}/team")
    assert dict(below.files()) == {"a/f": 1}
    assert below.write_once("a/g", b"3") and hub.files(REPO)["team/a/g"] == b"3"
    empty = open_hub(f"{ADDRESS}/new")
    assert (empty.there(), empty.names(), empty.folders()) == (False, set(), [])
    assert empty.write_once("f", b"4") and empty.there()


def test_a_long_listing_comes_in_pages(folder: HubFolder, hub: DatasetHub) -> None:
    hub.page = 7
    list(folder.send(named({f"d/f{number}": b"x" for number in range(30)})))
    hub.requests.clear()
    assert len((open_hub(ADDRESS) / "d").names()) == 30
    assert len([request for request in hub.requests if "/tree/" in request]) == 5


def test_one_listing_serves_all_reading_and_stays_at_its_commit_until_refresh(
    folder: HubFolder, hub: DatasetHub
) -> None:
    folder.write_once("a", b"1")
    reader = open_hub(ADDRESS)
    assert reader.read("a") == b"1"
    folder.replace("a", b"2")
    hub.requests.clear()
    assert reader.read("a") == b"1" and (reader / "b").names() == set() and reader.size("a") == 1
    assert [request for request in hub.requests if "/resolve/" not in request] == []
    reader.refresh()
    assert reader.read("a") == b"2"


def test_a_commit_is_read_but_not_written(folder: HubFolder, hub: DatasetHub) -> None:
    folder.write_once("a", b"1")
    pinned = open_hub(f"{ADDRESS}@{folder.commit}")
    folder.replace("a", b"2")
    assert pinned.read("a") == b"1"
    with pytest.raises(UsageError, match="one commit, which cannot change"):
        pinned.write_once("b", b"2")


# -- two pushers --------------------------------------------------------------------------------------------------


def test_a_commit_that_came_first_is_seen_and_its_files_are_left_alone(folder: HubFolder, hub: DatasetHub) -> None:
    other = open_hub(ADDRESS)
    assert other.names() == {".gitattributes"}
    hub.before_commit.append(lambda: other.replace("c.0.0", b"theirs"))
    assert dict(folder.send(named({"c.0.0": b"mine", "c.1.0": b"mine"}))) == {"c.0.0": False, "c.1.0": True}
    assert hub.files(REPO)["c.0.0"] == b"theirs" == folder.read("c.0.0")


def test_two_processes_that_push_at_once_lose_nothing(folder: HubFolder, hub: DatasetHub, tmp_path: Path) -> None:
    code = (
        "import sys; from featcache.storage.open import open_folder\n"
        "import featcache.storage.hub as hub_folder; hub_folder._FILES_A_COMMIT = 2\n"
        "folder = open_folder(sys.argv[1])\n"
        "made = list(folder.send([(f'd/{n}', lambda: sys.argv[2].encode()) for n in range(12)]))\n"
        "print(sum(ok for _, ok in made))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, ADDRESS, name], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    made = [int(run.communicate(timeout=100)[0]) for run in runs]
    files = {name: body for name, body in hub.files(REPO).items() if name.startswith("d/")}
    assert len(files) == 12 == sum(made), "each file has one writer, who knows it"
    assert [list(files.values()).count(name) for name in (b"one", b"two")] == made


# -- a cache on the Hub, and its card -----------------------------------------------------------------------------


def test_a_card_is_renewed_and_a_hand_written_one_is_left_alone(folder: HubFolder, hub: DatasetHub) -> None:
    text = card([], ADDRESS)
    assert replace_card(folder, text) and hub.files(REPO)["README.md"] == text.encode()
    before = len(hub.commits[REPO])
    assert replace_card(folder, text) and len(hub.commits[REPO]) == before
    assert replace_card(folder, f"# Renewed {MARK}")
    assert b"Renewed" in hub.files(REPO)["README.md"]
    folder.replace("README.md", b"# Ours")
    assert not replace_card(folder, text) and hub.files(REPO)["README.md"] == b"# Ours"


def test_a_cache_is_written_to_the_hub_and_read_from_it_as_from_a_disk(hub: DatasetHub, tmp_path: Path) -> None:
    dataset = spine.tiny_dataset(6)
    view = dataset.views["captions"]
    values = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float16)
    remote = open_hub(ADDRESS)
    remote.create()
    replace_card(remote, card([], ADDRESS))
    for cache in (Cache(tmp_path), Cache(remote)):
        write_rows(cache.folder / dataset.name / view.name, view, dataset.overlay)
        spine.store(cache, dataset, view, "minilm", values)
    here, there = Cache(tmp_path).load("openmoji", "minilm"), Cache(ADDRESS).load("openmoji", "minilm")
    assert (here.digest, here.root, here.ids.tolist()) == (there.digest, there.root, there.ids.tolist())
    assert np.array_equal(here.values, there.values) and np.array_equal(there.values, values)
    assert [asdict(entry) for entry in Cache(ADDRESS).entries()] == [asdict(e) for e in Cache(tmp_path).entries()]
    array = Cache(ADDRESS).find("openmoji", "minilm")
    assert card([(entry_of(array), array.key())], ADDRESS).count("| openmoji |") == 2
