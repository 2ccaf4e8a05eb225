"""The commands warn of leaks on stderr, and train does with them what --on-leak says."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from featcache.commands.app import app
from featcache.trainer.errors import LeaksFound
from featcache.trainer.run import load_run
from tests.planted_leak import planted_cache, planted_folder

PARTS = {"train": 40, "validation": 12, "test": 16}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return planted_folder(tmp_path / "planted", copies=5, parts=PARTS)


def featcache(*arguments: str):
    return CliRunner().invoke(app, [*arguments])


def test_extract_warns_of_copies_between_the_splits_though_all_was_cached_before(folder: Path) -> None:
    command = ("extract", "folder:planted", "efficientnet-lite0", "--root", str(folder), "--random", "0")
    for _ in range(2):
        done = featcache(*command, "--layers", "last")
        assert done.exit_code == 0, done.output
        warning = " ".join(done.stderr.split())
        assert "of 21 test groups stand in an earlier split too" in warning and "WARNING" not in done.stdout
        assert "test, 2 identical images: copy-test-000.png = train000.png of train" in warning


def test_train_warns_stops_or_drops_as_it_is_told(folder: Path, tmp_path: Path) -> None:
    planted_cache(folder, tmp_path / "cache")
    command = ("train", "planted", "tiny", "words", "--reference", "large", "--epochs", "1", "--k", "5", "--width", "8")
    stopped = featcache(*command, "--on-leak", "stop")
    assert isinstance(stopped.exception, LeaksFound) and not (tmp_path / "runs").exists()
    warned = featcache(*command, "--out", "warned")
    assert warned.exit_code == 0 and "WARNING: 5 of 21 test groups stand in an earlier split too" in warned.stderr
    assert "The test split beside its clean part" in warned.stdout
    dropped = featcache(*command, "--on-leak", "drop", "--hits", "group")
    assert dropped.exit_code == 0 and "left out as leaks: 5 test groups" in dropped.stdout
    (run,) = [load_run(path) for path in (tmp_path / "runs").glob("*/*/*")]
    assert run.config["leaks"] == "dropped" and run.config["config"]["hits"] == "group"
