"""Sweeps go on after any end with nothing computed twice, give the same tables by any processes, and name failures."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands import app as program
from featcache.metrics.measure.row import Row, frame
from featcache.studies.adapters.train import Workbench, train
from featcache.studies.experiments.convergence import convergence_rows
from featcache.studies.experiments.plan import one_each
from featcache.studies.experiments.processes import Resources, run_all
from featcache.studies.experiments.spec import load_experiment
from featcache.studies.experiments.summary import joint_contrasts
from featcache.studies.experiments.sweep import Sweep, extractions, plan, planned, run_sweep, run_sweeps
from featcache.studies.experiments.tables import TABLES
from featcache.studies.experiments.work import Worker
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from featcache.trainer.run import load_run
from featcache.trainer.run_search import runs_below
from tests.spine import TINY_BASE, tiny_cache

EXPERIMENT = (
    """
question = "Why?"
controls = ["untrained"]
panel = ["captions/minilm"]
"""
    + TINY_BASE
    + """[grid]
width = [4, 8]
seed = [0, 1]
[[plots]]
name = "alignment"
x = "width"
colour = "space"
where = { stage = "trained", split = "test", metric = "mutual_knn", against = "reference" }
"""
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "widths.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return tiny_cache(tmp_path_factory.mktemp("cache"), captions=2)


def resources(cache: Cache, out: Path, processes: int = 0) -> Resources:
    return Resources(str(cache.root), out, processes)


@pytest.fixture(scope="module")
def finished(cache: Cache, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return run_sweep(load_experiment(file), resources(cache, tmp_path_factory.mktemp("study")))


def files_of(sweep: Sweep) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(sweep.folder.iterdir())}


# -- tables -----------------------------------------------------------------------------------------------------------


def test_the_tidy_table_holds_every_row_of_every_run_and_says_what_was_varied(finished: Sweep) -> None:
    rows, out = finished.tables.rows, finished.folder.parents[1]
    assert [*files_of(finished)] == ["contrasts.parquet", "points.parquet", "rows.parquet", "sweep.json"]
    assert pl.read_parquet(finished.folder / "rows.parquet").equals(rows)
    own = rows.filter(~pl.col("panel"))
    assert own["run"].n_unique() == 4 == len(runs_below(out / "runs/openmoji"))
    for (run, width, seed), part in own.group_by(["run", "width", "seed"]):
        opened = load_run(out / str(run))
        measured = part.filter(~pl.col("metric").str.ends_with("_to_95"))
        assert measured.select(opened.table("metrics").columns).equals(opened.table("metrics"))
        assert sorted(part["metric"][-2:]) == ["epochs_to_95", "steps_to_95"]
        settings = opened.config["config"]
        assert (width, seed) == (settings["width"], settings["seed"])
        assert part["trained_on"][0] == opened.config["split"]["n"]["train"]
    assert rows.schema["width"] == pl.Int64 and rows["control"].unique().to_list() == [""]
    assert set(finished.tables.contrasts["reference"]) == {
        "images/efficientnet-lite2/last.mean",
        "captions/minilm/last.mean",
    }


def test_convergence_is_the_first_epoch_at_95_percent_of_the_best_of_the_run() -> None:
    recalls = {1: (0.1, 0.3), 2: (0.5, 0.43), 3: (0.5, 0.46), 4: (0.44, 0.56), 5: (0.6, 0.2)}
    row = Row("images", "captions", "R@10", None, stage="trained", split="validation")
    rows = [replace(row, value=value, epoch=epoch) for epoch, both in recalls.items() for value in both]
    rows += [replace(row, value=1.0, epoch=1, split="test"), replace(row, value=1.0, epoch=0, stage="untrained")]

    def settled(rows: list[Row], **settings: Any) -> dict[str, float | None]:
        config = FitConfig(batch=32, **settings)
        return {one.metric: one.value for one in convergence_rows(frame(rows), config, 100)}

    assert settled(rows) == {"epochs_to_95": 3.0, "steps_to_95": 12.0}  # .48 of .5; 100 pairs are 4 batches of 32
    assert settled(rows, steps=7) == {"epochs_to_95": 3.0, "steps_to_95": 21.0}
    assert settled(rows, captions="all") == {"epochs_to_95": 3.0}
    assert settled([replace(one, value=0.0) for one in rows[:10]]) == {} == settled([])
    assert settled(rows, adapter="cca") == {}


def test_points_are_means_over_seeds_and_say_what_their_interval_is_of(finished: Sweep) -> None:
    points, rows = finished.tables.points, finished.tables.rows
    wanted = {"space": "joint", "metric": "mutual_knn", "split": "test", "stage": "trained", "width": 8, "panel": False}
    right = rows.filter(*(pl.col(name) == value for name, value in wanted.items()), against="reference")
    (point,) = points.filter(x="8", colour="joint").rows(named=True)[:1]
    rest = json.loads(point["rest"])
    assert rest["reference"] == "images/efficientnet-lite2/last.mean" and "control" not in rest and "seed" not in rest
    assert point["y"] == pytest.approx(right["value"].mean()) and point["runs"] == 2 and point["x_number"] == 8
    assert point["low"] < point["y"] < point["high"] and "over 2 seeds" in point["interval"]
    assert len(points.filter(x="8", colour="joint")) == 2  # the other reference is a point of its own


def test_the_summary_has_the_joints_contrasts_with_the_verdicts_of_its_runs(finished: Sweep) -> None:
    names = ("joint − average of raw parts", "joint − best raw part")
    found = joint_contrasts(finished.source, finished.tables.contrasts, "mutual_knn", names)
    assert [(one.label, one.reference.split("/")[1]) for one in found] == [
        (f"width {width}", encoder) for width in (4, 8) for encoder in ("efficientnet-lite2", "minilm")
    ]
    table = finished.tables.contrasts.filter(pl.col("width") == 4, panel=False, metric="mutual_knn", split="test")
    own = table.filter(contrast=names[1])
    mean, words = found[0].values[names[1]]
    assert mean == pytest.approx(own["value"].mean()) and len(own) == 2
    assert sum(int(part.rsplit(" ", 1)[1]) for part in words.split(", ")) == 2


def test_rows_of_controls_are_there_if_they_are_named(cache: Cache, finished: Sweep, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(EXPERIMENT, encoding="utf-8")
    source = load_experiment(other, changes=["controls=['shuffled']", "panel=[]", "width=8", "seed=0"])
    sweep = run_sweep(source, resources(cache, finished.folder.parents[1]))
    assert "untrained" in finished.tables.rows["stage"] and "untrained" not in sweep.tables.rows["stage"]
    assert [outcome.computed for outcome in sweep.outcomes.values()] == [False, True]
    shuffled = sweep.tables.rows.filter(control="shuffled")
    assert load_run(finished.folder.parents[1] / shuffled["run"][0]).config["config"]["shuffle_pairs"]


def test_closed_forms_have_no_value_of_what_is_varied_of_steps(cache: Cache, tmp_path: Path) -> None:
    file = tmp_path / "recipes.toml"
    file.write_text(EXPERIMENT.replace('x = "width"', 'x = "adapter"').replace('"space"', '"epochs"'), encoding="utf-8")
    changes = ["adapter=['cca', 'linear']", "epochs=[1, 2]", "width=4", "seed=0", "panel=[]"]
    sweep = run_sweep(load_experiment(file, changes=changes), resources(cache, tmp_path))
    assert not sweep.failures
    rows = sweep.tables.rows.filter(space="joint", metric="mutual_knn", split="test", stage="trained")
    assert rows.select("adapter", "epochs").rows() == [("cca", None), ("linear", 1), ("linear", 2)]
    joint = [point for point in sweep.tables.points.rows(named=True) if json.loads(point["rest"])["space"] == "joint"]
    assert [(point["x"], point["colour"]) for point in joint] == [("cca", ""), ("linear", "1"), ("linear", "2")]
    assert set(sweep.tables.rows.filter(pl.col("metric") == "epochs_to_95")["adapter"]) == {"linear"}


def test_a_member_of_the_panel_has_the_rows_of_a_run_trained_against_it(
    cache: Cache, finished: Sweep, tmp_path: Path
) -> None:
    training = finished.trainings[0]
    selection = Selection("openmoji", training.selection.encoders, "captions/minilm")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a sweep does: sums over several differ in their last bits
    try:
        with threadpool_limits(1):
            direct = train(Workbench.load(cache, selection), training.config, tmp_path / "run").table("metrics")
    finally:
        torch.set_num_threads(threads)
    panel = finished.tables.rows.filter(panel=True, run=training.folder).select(direct.columns)
    assert panel.equals(direct.filter(~tracked(direct)))


def tracked(rows: pl.DataFrame) -> pl.Series:
    """Rows of single epochs, which a panel, measured after training, does not have."""
    of_validation = (rows["split"] == "validation") & rows["stage"].is_in(["trained", "untrained"])
    return of_validation | ((rows["split"] == "train") & (rows["metric"] == "loss"))


# -- ends, and going on -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(cache: Cache, finished: Sweep, file: Path, tmp_path: Path) -> None:
    other = run_sweep(load_experiment(file), resources(cache, tmp_path, 2))
    assert files_of(other) == files_of(finished)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_after_any_end_the_same_command_goes_on_with_nothing_computed_twice(
    how: signal.Signals, cache: Cache, finished: Sweep, file: Path, tmp_path: Path
) -> None:
    command = Path(sys.executable).with_name("featcache")
    words = [command, "sweep", file, "--out", tmp_path, "--processes", "2", "--cache", cache.root]
    with subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        while " 1/4]" not in (line := process.stderr.readline()).replace("[", " "):
            assert process.poll() is None, line
        # one process is in its first training, the other begins its next
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)
        left = process.stderr.read()
    assert children and process.returncode == (130 if how == signal.SIGINT else -how)
    assert how == signal.SIGKILL or "Runs that were finished stay" in left
    wait_for_the_end_of(children)
    before = {path: path.stat().st_mtime_ns for path in runs_below(tmp_path / "runs/openmoji")}
    assert 1 <= len(before) <= 4 and not (tmp_path / "widths").exists()  # 4 where the machine is slow to kill
    resumed = run_sweep(load_experiment(file), resources(cache, tmp_path))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    there = [outcome.folder for outcome in resumed.outcomes.values() if not outcome.computed]
    assert len(before) - 2 <= len(there) <= len(before)  # of the last of each process the panel may have been missing
    assert files_of(resumed) == files_of(finished)
    left = [path.name for path in (tmp_path / "runs/openmoji").rglob(".*")]
    assert left == []


def wait_for_the_end_of(children: list[str]) -> None:
    """The processes that trained end with the one that started them, however it ended."""
    until = time.monotonic() + 20
    while any(
        Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes() for child in children
    ):
        assert time.monotonic() < until, "a process goes on training for nobody"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_process_that_dies_fails_its_training_alone(cache: Cache, file: Path, tmp_path: Path) -> None:
    trainings = one_each(plan(cache, load_experiment(file, changes=["controls=[]", "panel=[]"])))[:3]

    def kill(training: object, outcome: object, ended: int, total: int) -> None:
        if ended == 1:
            for child in multiprocessing.active_children():
                child.kill()
                child.join()

    outcomes = run_all(trainings, resources(cache, tmp_path, 1), kill)
    assert [outcome.error for outcome in outcomes] == ["", "its process ended with code -9", ""]


def test_trainings_that_fail_are_listed_with_their_errors_and_the_others_go_on(
    cache: Cache, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", file, "--cache", cache.root, "--out", tmp_path, "--processes", "0"]
    words += ["--set", "train_groups=[20, 4000]", "--set", "width=8", "--set", "controls=[]"]
    words += ["--set", "panel=['captions/minilm', 'nosuch']", "--set", "seed=0"]
    monkeypatch.setattr(sys, "argv", ["featcache", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        program.main()
    out, err = capsys.readouterr()
    assert end.value.code == 1
    assert (
        "[1/2] width 8, seed 0, train_groups 20: failed" in err
        and "[2/2] width 8, seed 0, train_groups 4000: failed" in err
    )
    assert "2 trainings of 2 failed" in err and "UsageError: train_groups = 4000: there are 96" in err
    assert "reference nosuch: FeaturesNotCached" in err
    rows = pl.read_parquet(tmp_path / "widths/quick/rows.parquet")
    assert set(rows["train_groups"]) == {20} and set(rows["reference"]) == {
        "images/efficientnet-lite2/last.mean",
        "captions/minilm/last.mean",
    }
    assert set(json.loads((tmp_path / "widths/quick/sweep.json").read_bytes())["failures"]) == {
        "width 8, seed 0, train_groups 20",
        "width 8, seed 0, train_groups 4000",
    }
    assert "Joint space on test, mutual_knn" in out


def test_experiments_of_one_command_share_runs_and_each_has_what_its_file_asks_for(
    cache: Cache, finished: Sweep, tmp_path: Path
) -> None:
    plain = EXPERIMENT.replace('panel = ["captions/minilm"]\n', "").replace("seed = [0, 1]", "seed = [0]")
    (tmp_path / "panel.toml").write_text(EXPERIMENT.replace("seed = [0, 1]", "seed = [0]"), encoding="utf-8")
    (tmp_path / "plain.toml").write_text(plain, encoding="utf-8")
    sources = [load_experiment(tmp_path / name) for name in ("plain.toml", "panel.toml")]
    ended: list[str] = []
    means = resources(cache, tmp_path / "study")
    plans = [planned(source, means) for source in sources]
    done = run_sweeps(plans, means, lambda training, *_: ended.append(training.folder))
    assert len(ended) == 2 and [len(sweep.trainings) for sweep in done] == [2, 2]
    whole = finished.tables.rows.filter(pl.col("seed") == 0)
    for sweep, panel in zip(done, (False, True), strict=True):
        wanted = whole if panel else whole.filter(~pl.col("panel"))
        assert sweep.tables.rows.drop("experiment").equals(wanted.drop("experiment"))
        assert (sweep.folder / "rows.parquet").is_file() and sweep.folder.parent.name == sweep.source.name


def test_a_run_of_features_that_changed_since_is_trained_again(file: Path, tmp_path: Path) -> None:
    changes = ["controls=[]", "panel=[]", "width=4", "seed=0"]
    for photos in (100, 120):
        source = load_experiment(file, changes=changes)
        sweep = run_sweep(source, resources(tiny_cache(tmp_path / str(photos), photos=photos), tmp_path / "study"))
        assert [outcome.computed for outcome in sweep.outcomes.values()] == [True]
        assert sweep.tables.rows["trained_on"][0] == round(0.6 * photos)


def test_trainings_of_the_same_features_share_a_workbench(cache: Cache, finished: Sweep, tmp_path: Path) -> None:
    worker = Worker(cache, finished.folder.parents[1])
    for training in one_each(finished.trainings):
        assert not worker.run(training).computed
    assert len(worker._benches) == 2


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_there_is_and_trains_nothing(cache: Cache, finished: Sweep, file: Path) -> None:
    out = finished.folder.parents[1]
    words = ["sweep", str(file), "--cache", str(cache.root), "--out", str(out), "--dry-run"]
    result = CliRunner().invoke(program.app, [*words, "--set", "width=[4, 6]"])
    assert result.exit_code == 0 and result.stdout.count(" there ") == 2
    assert "2 trainings to do of 4, each measured against 1 further reference" in result.stdout
    assert not list((out / "runs").rglob("*-s0-width-6-*"))


def test_an_experiment_without_features_is_skipped_where_that_is_wanted(
    cache: Cache, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sweep", str(file), "--cache", str(cache.root), "--out", str(tmp_path), "--processes", "0"]
    words += ["--set", "dataset=flickr30k", "--set", "width=8", "--set", "seed=0"]
    skipped = CliRunner().invoke(program.app, [*words, "--skip-uncached"])
    assert skipped.exit_code == 0
    assert (
        skipped.stdout.split()
        == (
            "widths (quick): skipped: its features are not cached. Run: "
            "featcache extract flickr30k efficientnet-lite0 minilm efficientnet-lite2 && "
            "featcache extract flickr30k minilm --view captions"
        ).split()
    )
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(sys, "argv", ["featcache", *words])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 1 and "no features of flickr30k" in capsys.readouterr().err


def test_what_makes_missing_features_is_said_by_view(cache: Cache, file: Path, tmp_path: Path) -> None:
    sides = "sides=[['efficientnet-lite0', 'names-de/minilm'], ['efficientnet-lite1', 'minilm']]"
    at = resources(cache, tmp_path)
    assert extractions(load_experiment(file, changes=[sides]), at) == [
        "featcache extract openmoji minilm --view names-de",
        "featcache extract openmoji efficientnet-lite1",
    ]
    assert extractions(load_experiment(file, changes=["panel=['nosuch']"]), at) == ["featcache extract openmoji nosuch"]
    assert extractions(load_experiment(file), at) == []


def test_of_what_is_cached_in_part_the_rest_is_skipped(cache: Cache, file: Path, tmp_path: Path) -> None:
    changes = ["dataset=['openmoji', 'flickr30k']", "panel=['captions/minilm', 'nosuch']", "seed=0", "width=4"]
    words = ["sweep", str(file), "--cache", str(cache.root), "--out", str(tmp_path), "--processes", "0"]
    words += [word for change in changes for word in ("--set", change)]
    result = CliRunner().invoke(program.app, [*words, "--skip-uncached"])
    assert result.exit_code == 0 and "widths (quick): skipped in part" in " ".join(result.stdout.split())
    rows = pl.read_parquet(tmp_path / "widths" / "quick" / "rows.parquet")
    assert rows["dataset"].unique().to_list() == ["openmoji"]
    assert set(rows["reference"].unique()) == {"images/efficientnet-lite2/last.mean", "captions/minilm/last.mean"}
    assert CliRunner().invoke(program.app, words).exit_code == 1


def test_every_table_is_written(finished: Sweep) -> None:
    assert {f"{name}.parquet" for name in TABLES} < {*files_of(finished)}
    summary = json.loads((finished.folder / "sweep.json").read_bytes())
    assert summary["trainings"] == {"there": 4, "failed": 0} and summary["question"] == "Why?"
