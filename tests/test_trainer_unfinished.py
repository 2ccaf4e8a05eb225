"""What becomes of trainings that were killed, and of two that write one run?"""
# ruff: noqa: F811 - the fixtures are those of test_trainer_run.py

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.errors import OutputFailed
from featcache.storage.processes import this_process
from featcache.studies.adapters.train import train
from featcache.trainer.errors import RunExists
from featcache.trainer.run import load_run
from featcache.trainer.run_files import changed_files
from featcache.trainer.unfinished import clear_unfinished, unfinished, unfinished_folder
from tests.test_trainer_run import EVERY, QUICK, bench, changed, copied, finished  # noqa: F401

REPOSITORY = Path(__file__).parents[1]
TRAINER = """
import sys, time
from pathlib import Path
from featcache.trainer.unfinished import unfinished_folder
with unfinished_folder(Path(sys.argv[1]), overwrite=False) as folder:
    (folder / "config.json").write_text("{}")
    print("ready", flush=True)
    time.sleep(600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_training_left_is_named_and_removed_by_the_next_of_its_name_alone(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-c", TRAINER, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        clear_unfinished(out)
        left = unfinished(out)
        assert [Path(name).suffix for name in left] == [".making", ".owner"]
        assert set(left.values()) == {f"process {process.pid} on {os.uname().nodename} makes it"}
        process.kill()
    assert all("was killed; the next featcache train" in words for words in unfinished(out).values())
    clear_unfinished(tmp_path / "other")
    clear_unfinished(tmp_path / "ru")
    assert names(tmp_path) == sorted(left)
    clear_unfinished(out)
    assert names(tmp_path) == [] and unfinished(out) == {}


def leave(folder: Path, token: str, *, started: str = "1", **files: str) -> Path:
    """What a training that was killed leaves."""
    making = folder / f".run.{token}.making"
    making.mkdir(parents=True)
    for name, content in files.items():
        (making / name.replace("_", ".")).write_text(content)
    owner = this_process().to_json() | {"started": started}
    (folder / f".run.{token}.owner").write_text(json.dumps(owner))
    return making


def test_training_removes_them_and_leaves_nothing_but_the_run(bench, tmp_path):
    leave(tmp_path, "0" * 8, config_json="{}")
    train(bench, changed(epochs=1), tmp_path / "run")
    assert names(tmp_path) == ["run"]


def test_every_file_of_a_run_is_known_as_ours(tmp_path):
    making = leave(tmp_path, "0" * 8)
    for name in EVERY:
        (making / name).write_bytes(b"")
    clear_unfinished(tmp_path / "run")
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["another's", "foreign file", "0.1", "link", "elsewhere"])
def test_what_may_be_needed_or_is_not_ours_stays(tmp_path, kind):
    making = leave(tmp_path, "0" * 8, config_json="{}", started=this_process().started if kind == "another's" else "1")
    owner = making.with_suffix(".owner")
    if kind == "foreign file":
        (making / "thesis.tex").write_text("keep")
    if kind == "0.1":
        owner.unlink()
    if kind == "elsewhere":
        owner.write_text(json.dumps(this_process().to_json() | {"host": "lab2", "boot": "other"}))
    if kind == "link":
        making.rename(tmp_path / "mine")
        making.symlink_to(tmp_path / "mine")
    clear_unfinished(tmp_path / "run")
    assert (making / "config.json").is_file()
    assert kind == "link" or making.name in unfinished(tmp_path / "run")


def test_a_run_that_a_killed_overwrite_had_stepped_aside_is_put_back(copied):
    making = leave(copied.parent, "0" * 8, config_json="{}")
    copied.rename(making.with_suffix(".replaced"))
    clear_unfinished(copied)
    assert names(copied.parent) == ["run"] and changed_files(copied) == []


def test_a_run_that_was_already_replaced_is_not_put_back(copied):
    making = leave(copied.parent, "0" * 8)
    making.rename(making.with_suffix(".replaced"))
    clear_unfinished(copied)
    assert names(copied.parent) == ["run"] and changed_files(copied) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_equal_trainings_at_once_the_second_returns_the_run_of_the_first(
    bench,
    tmp_path,
    overwrite,
):
    out, first = tmp_path / "run", []

    def another(_):
        if not first:
            first.append(None)
            first[0] = train(bench, QUICK, out)

    second = train(bench, QUICK, out, overwrite=overwrite, on_epoch=another)
    assert not first[0].already_there and second.already_there is not overwrite
    assert second.config["config_hash"] == first[0].config["config_hash"]
    assert names(tmp_path) == ["run"] and changed_files(out) == []


def test_of_two_unequal_trainings_at_once_the_second_is_refused_and_the_first_stays(bench, tmp_path):
    out, first = tmp_path / "run", []

    def another(_):
        if not first:
            first.append(None)
            train(bench, changed(seed=1), out)

    with pytest.raises(RunExists, match="meanwhile"):
        train(bench, QUICK, out, on_epoch=another)
    assert load_run(out).config["config"]["seed"] == 1 and names(tmp_path) == ["run"]


def test_two_that_overwrite_one_run_at_once_leave_one_of_them_whole(copied):
    with unfinished_folder(copied, overwrite=True) as one:
        (one / "config.json").write_text('{"config_hash": 1}')
        with unfinished_folder(copied, overwrite=True) as other:
            (other / "config.json").write_text('{"config_hash": 2}')
    assert names(copied.parent) == ["run"]
    assert json.loads((copied / "config.json").read_text()) == {"config_hash": 1}


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_run(copied, monkeypatch):
    real = os.rename

    def failing(source, target):
        if str(source).endswith(".making"):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputFailed, match="Input/output"), unfinished_folder(copied, overwrite=True):
        pass
    assert names(copied.parent) == ["run"] and changed_files(copied) == []
