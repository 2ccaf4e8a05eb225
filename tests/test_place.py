"""Does $FEATCACHE_HOME mean what --cache means, wherever the cache lies, and is no secret shown?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.cache import Cache, default_root
from featcache.errors import FeatcacheError, UsageError
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.storage.bucket import BucketFolder
from featcache.storage.local import LocalFolder
from featcache.storage.open import open_folder
from tests.s3 import Moto, environment, make_bucket
from tests.spine import tiny_cache

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_an_address_as_home_opens_the_bucket_that_naming_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Moto() as moto:
        for name, value in environment(moto.endpoint).items():
            monkeypatch.setenv(name, value)
        address = f"s3://{make_bucket(moto.endpoint)}/team"
        monkeypatch.setenv("FEATCACHE_HOME", address)
        cache = Cache()
        assert isinstance(cache.folder, BucketFolder) and str(cache.folder) == str(Cache(address).folder) == address
        ours = tiny_cache(tmp_path)
        transfer(plan_transfer(ours, cache, ["openmoji/captions"]))
        assert (Cache().load("openmoji", "minilm").values == ours.load("openmoji", "minilm").values).all()
        assert cache.memo.is_relative_to(tmp_path / "home"), "what is remembered of weights lies on this disk"
    assert os.listdir(".") == []


def test_a_folder_as_home_is_the_cache_and_the_users_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "mine"))
    assert Cache().root == default_root() == tmp_path / "mine"
    monkeypatch.setenv("FEATCACHE_HOME", "~/mine")
    assert Cache().root == default_root() == tmp_path / "home/mine"
    monkeypatch.delenv("FEATCACHE_HOME")
    assert Cache().root == default_root() and default_root().is_relative_to(tmp_path / "home")


SECRET = "wJalrXUtnFEMI"
HOMES = [
    f"s3://AKIA:{SECRET}@bucket/path",
    f"s3://AKIA:{SECRET}",
    f"s3://AKIA:{SECRET}/bPx@bucket/path",
    f"s3://bucket/path?secret={SECRET}",
    f"s3://bucket/path#{SECRET}",
    f"hf://{SECRET}@datasets/lab/features",
    f"https://me:{SECRET}@host/bucket",
    f"AKIA:{SECRET}@s3://bucket",
    f"s3://[{SECRET}",
    f"s3:/AKIA:{SECRET}@bucket",
]


@pytest.mark.parametrize("home", HOMES)
def test_an_address_with_a_secret_is_refused_without_showing_it_and_makes_no_folder(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATCACHE_HOME", home)
    with pytest.raises(UsageError) as caught:
        Cache()
    assert SECRET not in str(caught.value) and os.listdir(".") == []


def test_the_command_line_shows_no_secret_and_makes_no_folder_either(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, str(REPOSITORY / "cli.py"), "ls"]
    done = subprocess.run(command, env=os.environ | {"FEATCACHE_HOME": HOMES[0]}, capture_output=True, text=True)
    assert done.returncode == 2 and "must not hold credentials" in done.stderr
    assert SECRET not in done.stdout + done.stderr and os.listdir(".") == []


def test_a_home_that_cannot_be_reached_is_named_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr("featcache.storage.bucket._PATIENCE", 0.1)
    monkeypatch.setenv("FEATCACHE_HOME", "s3://bucket/path")
    with pytest.raises(FeatcacheError, match=r"s3://bucket/path: .*cannot be reached") as caught:
        list(Cache().arrays())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("place", [Path("s3://bucket/x"), "gs:/bucket", Path("hf://datasets/a/b")])
def test_an_address_that_became_a_path_is_pointed_out(place: Path | str) -> None:
    with pytest.raises(UsageError, match="two slashes"):
        open_folder(place)


@pytest.mark.parametrize("place", ["./s3:/x", "data/s3", "s3", "a:/b", "s3:x"])
def test_a_folder_with_a_strange_name_stays_a_folder(place: str) -> None:
    assert isinstance(open_folder(place), LocalFolder)
