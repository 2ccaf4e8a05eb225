"""A folder in a bucket behaves as one on a disk, and its errors name what is wrong with the bucket."""

import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featcache.cache import Cache
from featcache.errors import BeyondLimit, RemoteFailed, UsageError
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.storage import bucket
from featcache.storage.base import ASIDE, Folder
from featcache.storage.bucket import BucketFolder, open_bucket
from featcache.storage.local import LocalFolder
from featcache.storage.open import open_folder
from tests.s3 import KEY, SECRET, Counted, Moto, Seaweed, environment, free_ports, make_bucket
from tests.spine import tiny_cache


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with Moto() as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, moto: Moto, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment(moto.endpoint).items():
        monkeypatch.setenv(name, value)


def fresh(moto: Moto) -> BucketFolder:
    return open_bucket(f"s3://{make_bucket(moto.endpoint)}/some/path")


# -- as a folder on a disk --------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a.json", "c.0.0", "x/a.json", "x/c.1.0", "x/y/c.0.0", "z"])
FOLDERS = st.sampled_from(["x", "x/y", "nowhere"])
BYTES = st.binary(max_size=12)
STEPS = st.one_of(
    st.tuples(st.just("write_once"), NAMES, BYTES),
    st.tuples(st.just("write_once"), NAMES, BYTES, BYTES),
    st.tuples(st.just("replace"), NAMES, BYTES),
    st.tuples(st.sampled_from(["read", "size", "exists", "remove", "set_aside"]), NAMES),
    st.tuples(st.just("read_into"), NAMES, st.integers(0, 14), st.integers(0, 8), st.integers(0, 8)),
    st.tuples(st.sampled_from(["names", "folders", "there", "files", "delete"]), FOLDERS),
    st.tuples(st.just("find"), st.sampled_from(["*", "*/*", "x/*", "x/y", "[xz]", "nowhere/*"])),
)


def answer(folder: Folder, what: str, *arguments: Any) -> Any:
    """What a folder says to one operation, in a form that can be compared."""
    if what in ("write_once", "replace", "remove", "set_aside", "read"):
        if isinstance(folder, LocalFolder):  # a bucket makes folders by itself
            (folder.path / arguments[0]).parent.mkdir(parents=True, exist_ok=True)
        try:
            return getattr(folder, what)(*arguments)
        except FileNotFoundError:
            return "no such file"
    if what == "read_into":
        name, offset, *lengths = arguments
        views = [bytearray(length) for length in lengths]
        try:
            size = folder.read_into(name, *map(memoryview, views), offset=offset)
        except FileNotFoundError:
            return "no such file"
        return size, views if offset + sum(lengths) <= size else "shorter"
    if what in ("size", "exists", "find"):
        return getattr(folder, what)(*arguments)
    below = folder / arguments[0]
    if what == "delete":
        return below.delete() if below.there() else None
    result = getattr(below, what)()
    return plain(result) if what in ("names", "files") else result


def plain(names: Any) -> Any:
    """Without the random part of names set aside."""
    items = [(item, None) if isinstance(item, str) else item for item in names]
    return sorted((name[: name.index(ASIDE) + len(ASIDE)] if ASIDE in name else name, size) for name, size in items)


def is_possible(done: list[Any], step: Any) -> bool:
    """On a disk a name is a file or a folder, and folders stay when they are empty; a bucket knows neither."""
    return step[0] not in ("folders", "there", "find") or not any(
        one[0] in ("remove", "set_aside", "read", "delete") for one in done
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=12))
def test_a_bucket_answers_as_a_disk_does(moto: Moto, steps: list[Any]) -> None:
    remote = open_bucket(f"s3://{make_bucket(moto.endpoint, 'property')}/{uuid.uuid4().hex}")
    with tempfile.TemporaryDirectory() as root:
        local = LocalFolder(Path(root))
        done: list[Any] = []
        for step in steps:
            if is_possible(done, step):
                assert answer(remote, *step) == answer(local, *step), step
                done.append(step)
        assert plain(remote.files()) == plain(local.files())


def test_send_writes_each_file_once_and_says_which(moto: Moto, tmp_path: Path) -> None:
    for folder in (fresh(moto), LocalFolder(tmp_path / "local")):
        folder.make()
        folder.write_once("c.3.0", b"mine")
        files: list[tuple[str, Callable[[], bytes]]] = [
            (f"c.{number}.0", lambda number=number: str(number).encode()) for number in range(40)
        ]
        made = dict(folder.send(iter(files)))
        assert made == {f"c.{number}.0": number != 3 for number in range(40)}
        assert folder.read("c.3.0") == b"mine" and folder.read("c.39.0") == b"39"
        assert len(list(folder.files())) == 40


def test_of_many_writers_of_one_name_one_writes_it(moto: Moto) -> None:
    folder, made = fresh(moto), list[bool]()
    threads = [
        threading.Thread(target=lambda n=n: made.append(folder.write_once("key.json", str(n).encode())))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]


def test_a_folder_knows_its_place(moto: Moto) -> None:
    folder = fresh(moto) / "tiny/captions"
    assert folder.name == "captions" and folder.parent.name == "tiny"
    assert str(folder).endswith("/some/path/tiny/captions") and folder.parts[-4:] == (
        "some",
        "path",
        "tiny",
        "captions",
    )
    assert open_folder(str(folder)).parts == folder.parts
    assert not folder.there() and folder.free_bytes() is None
    folder.prune(3)
    folder.make()
    assert not folder.there()


def test_a_deletion_of_many_objects_takes_few_requests(moto: Moto) -> None:
    folder = fresh(moto)
    for number in range(30):
        folder.write_once(f"array/c.{number}.0", b"x")
    folder.write_once("stays", b"x")
    store = Counted(folder._store)
    (BucketFolder(store, folder._address, folder._path, folder._reopen) / "array").delete()
    assert [name for name, _ in folder.files()] == ["stays"]
    assert store.requests.total() <= 3


# -- what others leave in a bucket ------------------------------------------------------------------------------------


def test_the_marks_that_consoles_leave_for_folders_are_passed_over(moto: Moto) -> None:
    folder = fresh(moto)
    name = str(folder).split("/")[2]
    for key in ("some/path/", "some/path/tiny/", "some/path/tiny/key.json"):
        moto.put(name, key, b"")
    assert (folder.names(), folder.folders()) == (set(), ["tiny"])
    assert ((folder / "tiny").names(), list((folder / "tiny").files())) == ({"key.json"}, [("key.json", 0)])
    assert [name for name, _ in folder.files() if name.endswith(".json")] == ["tiny/key.json"]


HOSTILE = ["../x", "a/../../x", "/absolute", "a//b", "a/./b", "a\\b", "..\\x"]


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_names_in_a_bucket_are_refused_at_once(moto: Moto, key: str, tmp_path: Path) -> None:
    folder = fresh(moto)
    moto.put(str(folder).split("/")[2], f"some/path/{key}", b"hostile")
    began = time.perf_counter()
    with pytest.raises(RemoteFailed, match=str(folder)):
        list(folder.files())
    with pytest.raises((RemoteFailed, UsageError)):
        list(Cache(folder).arrays()) or folder.names()
        transfer(plan_transfer(Cache(folder), Cache(tmp_path / "laptop")))
    assert time.perf_counter() - began < 3  # never tried again
    assert not (tmp_path / "laptop").exists()


class Liar:
    """A store whose listing names what no server should."""

    def __init__(self, path: str) -> None:
        self._entry = {"path": path, "size": 1}

    def list_with_delimiter(self, prefix: str | None) -> dict[str, Any]:
        return {"objects": [self._entry], "common_prefixes": []}

    def list(self, prefix: str | None, chunk_size: int) -> Any:
        return [[self._entry]]


@pytest.mark.parametrize(
    "path", ["cache/a\nb", "cache/\x00", "cache/../x", "elsewhere/x", "/etc/passwd", "cache/a\x7f"]
)
def test_a_listing_that_leaves_the_folder_is_refused(path: str) -> None:
    folder = BucketFolder(Liar(path), "s3://bucket", "cache", lambda path: None)
    for ask in (folder.names, folder.folders, folder.there, lambda: list(folder.files())):
        with pytest.raises(RemoteFailed, match="no name of a cache's file; nothing was read"):
            ask()


def test_a_file_larger_than_it_may_be_is_not_read(moto: Moto) -> None:
    folder = fresh(moto)
    folder.write_once("key.json", b" " * 1000)
    assert folder.read("key.json", most=1000) == b" " * 1000
    with pytest.raises(BeyondLimit, match="has 1,000 bytes, where .* allows 999; nothing was read"):
        folder.read("key.json", most=999)


# -- the way to it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["s3://me:secret@bucket/path", "s3://bucket/path?key=secret", "s3:///path"])
def test_addresses_with_credentials_or_without_bucket_are_refused(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_folder(address)
    assert "secret" not in str(caught.value)


def test_gs_and_az_addresses_open_their_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.store import AzureStore, GCSStore

    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UsageError, match="Account must be specified .AZURE_STORAGE_ACCOUNT_NAME."):
        open_bucket("az://container/team/cache")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "lab")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    for address, kind in (("az://container/team/cache", AzureStore), ("gs://bucket/team/cache", GCSStore)):
        folder = open_bucket(address)
        assert isinstance(folder._store, kind) and str(folder) == address
        assert folder.parts[-2:] == ("team", "cache") and "c2VjcmV0" not in repr(folder)


def test_a_missing_bucket_is_named_by_every_request(moto: Moto, tmp_path: Path) -> None:
    folder = open_bucket("s3://no-such-bucket/path")
    asks: list[Callable[[], Any]] = [
        folder.names,
        lambda: list(folder.files()),
        lambda: folder.read("key.json"),
        lambda: folder.write_once("key.json", b"x"),
        lambda: folder.replace("key.json", b"x"),
        lambda: transfer(plan_transfer(tiny_cache(tmp_path), Cache(folder))),
    ]
    for ask in asks:
        with pytest.raises(RemoteFailed, match="there is no bucket s3://no-such-bucket. Make it first"):
            ask()


def test_an_endpoint_that_nobody_listens_at_ends_in_time_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert bucket._PATIENCE <= 20  # with the last attempt under 30 seconds
    monkeypatch.setattr(bucket, "_PATIENCE", 1.0)
    began = time.perf_counter()
    with pytest.raises(RemoteFailed, match=r"http://127.0.0.1:\d+ cannot be reached. Run: featcache doctor s3://"):
        open_bucket("s3://bucket/path").names()
    assert time.perf_counter() - began < 10


def test_a_server_that_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Moto()
    monkeypatch.setenv("AWS_ENDPOINT_URL", late.endpoint)
    folder = open_bucket("s3://bucket/path")

    def come() -> None:
        time.sleep(1.0)
        late.__enter__()

    thread = threading.Thread(target=come)
    thread.start()
    try:
        with pytest.raises(RemoteFailed, match="there is no bucket"):  # which only the server can know
            folder.names()
    finally:
        thread.join()
        late.__exit__(None, None, None)


def test_a_missing_obstore_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(UsageError, match=r"needs obstore.store. Run: pip install 'featcache\[share\]'"):
        open_folder("s3://bucket/path")


# -- credentials, against a server that checks them -------------------------------------------------------------------


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


def profile(home: Path, name: str, *, keys: bool, endpoint: str) -> None:
    """The files that the AWS command line writes."""
    (home / ".aws").mkdir()
    where = f"region = us-east-1\nendpoint_url = {endpoint}\n"
    (home / ".aws/config").write_text(f"[{'default' if name == 'default' else f'profile {name}'}]\n{where}")
    lines = f"aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n" if keys else "sso_session = lab\n"
    (home / ".aws/credentials").write_text(f"[{name}]\n{lines}")


@pytest.mark.parametrize("by_boto3", [True, False], ids=["boto3", "no boto3"])
@pytest.mark.parametrize("name", ["lab", "default"])
def test_a_profile_in_the_home_folder_is_enough(
    name: str, by_boto3: bool, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name_of_bucket = make_bucket(seaweed.endpoint)
    if not by_boto3:
        monkeypatch.setitem(sys.modules, "boto3", None)
    for variable in environment(""):
        monkeypatch.delenv(variable)
    profile(tmp_path, name, keys=True, endpoint=seaweed.endpoint)
    if name != "default":
        monkeypatch.setenv("AWS_PROFILE", name)
    folder = open_bucket(f"s3://{name_of_bucket}/path")
    folder.write_once("a", b"1")
    assert folder.names() == {"a"}
    assert SECRET not in repr(folder) + str(folder) + repr(vars(folder))


def test_a_profile_without_keys_may_log_in_by_any_way_that_boto3_knows(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name_of_bucket = make_bucket(seaweed.endpoint)
    for variable in environment(""):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    login = tmp_path / "login.json"
    login.write_text(json.dumps({"Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET}))
    profile(tmp_path, "lab", keys=False, endpoint=seaweed.endpoint)
    with (tmp_path / ".aws/config").open("a") as config:
        config.write(f"credential_process = cat {login}\n")
    folder = open_bucket(f"s3://{name_of_bucket}/path")
    assert folder.write_once("a", b"1") and folder.names() == {"a"}
    login.write_text("the login has ended")
    with pytest.raises(UsageError, match="AWS profile 'lab' gives no credentials: .* aws sso login --profile lab"):
        open_bucket(f"s3://{name_of_bucket}/path")


@pytest.mark.parametrize(
    ("by_boto3", "message"),
    [
        (True, "'lab' has no key, role or login. Run: aws configure --profile lab"),
        (False, "'lab' has no access key .*aws configure export-credentials --profile lab"),
    ],
    ids=["boto3", "no boto3"],
)
def test_a_profile_without_keys_says_what_to_do(
    by_boto3: bool, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not by_boto3:
        monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # nobody answers there; boto3 would wait for it
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    profile(tmp_path, "lab", keys=False, endpoint="http://127.0.0.1:1")
    with pytest.raises(UsageError, match=message):
        open_bucket("s3://bucket/path")


def test_a_wrong_secret_is_refused_at_once_and_never_shown(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name_of_bucket = make_bucket(seaweed.endpoint)
    caplog.set_level(logging.DEBUG)
    for name, value in (environment(seaweed.endpoint) | {"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}).items():
        monkeypatch.setenv(name, value)
    folder = open_bucket(f"s3://{name_of_bucket}/path")
    began = time.perf_counter()
    for ask in (folder.names, lambda: folder.write_once("a", b"1"), lambda: folder.read("a")):
        with pytest.raises(RemoteFailed, match="access refused .* featcache doctor s3://") as caught:
            ask()
        assert "a-wrong-secret" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert time.perf_counter() - began < 5
    assert "a-wrong-secret" not in caplog.text + repr(folder)


def test_the_log_of_a_push_that_is_tried_again_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-real-secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setattr(bucket, "_PATIENCE", 1.0)
    with pytest.raises(RemoteFailed) as caught:
        open_bucket("s3://bucket/path").read("a")
    assert "retry" in caplog.text
    written = caplog.text + "".join(str(vars(record)) for record in caplog.records) + str(caught.value)
    assert "a-real-secret" not in written


def test_a_server_that_answers_nonsense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")

        def speak() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

        threading.Thread(target=speak, daemon=True).start()
        with pytest.raises(RemoteFailed, match="listing failed"):
            open_bucket("s3://bucket/path").names()
        listener.shutdown(socket.SHUT_RDWR)
