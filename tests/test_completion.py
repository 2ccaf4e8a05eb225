"""A shell completes data sets and cached arrays of the cache that was named, and never asks a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.alignment_cache import layered_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layered_cache(tmp_path_factory.mktemp("completion")).root


def completed(words: str, home: Path | str) -> list[str]:
    """What bash would be offered for the last word."""
    environment = {**os.environ, "FEATCACHE_HOME": str(home), "_FEATCACHE_COMPLETE": "complete_bash"}
    environment |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    code = "from featcache.commands.app import app; app(prog_name='featcache')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_and_data_sets_are_completed(cache: Path) -> None:
    assert completed("featcache pro", cache) == ["probe"]
    assert completed("featcache probe open", cache) == ["openmoji"]
    assert set(completed("featcache probe ", cache)) > {"openmoji", "flickr30k", "cifar10"}


def test_encoders_of_the_data_set_are_completed_and_layers_behind_them(cache: Path) -> None:
    assert {"vit", "lm", "big", "noise"} <= set(completed("featcache probe openmoji ", cache))
    assert set(completed("featcache probe openmoji vit/", cache)) == {
        "vit/0.cls",
        "vit/2.cls",
        "vit/10.cls",
        "vit/last.cls",
    }
    assert completed("featcache probe openmoji images/b", cache) == ["images/big"]
    assert completed("featcache train openmoji photo=bi", cache) == ["photo=big"]


def test_another_cache_may_be_named_and_a_bucket_or_an_absent_one_gives_nothing(cache: Path, tmp_path: Path) -> None:
    assert "vit" in completed(f"featcache probe --cache {cache} openmoji v", tmp_path / "absent")
    assert completed("featcache probe openmoji v", tmp_path / "absent") == []
    assert completed("featcache probe openmoji v", "s3://nobody/nothing") == []


def test_encoders_are_completed_packaged_ones_and_ones_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATCACHE_ENCODERS", str(tmp_path / "own.toml"))
    assert completed("featcache extract openmoji minil", cache) == ["minilm"]
    (tmp_path / "own.toml").write_text('[mine]\nlike = "gpt2"\n')
    assert completed("featcache extract openmoji minilm mi", cache) == ["minilm", "mine"]
    assert completed("featcache cost openmoji min", cache) == ["minilm", "mine"]
