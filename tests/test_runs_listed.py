"""Run folders as a table: scores of the selected epoch equal those of the files; conditions, order, damage, JSON."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from featcache.errors import UsageError
from featcache.studies.adapters.listing import list_runs
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from featcache.trainer.errors import RunMissing
from tests.spine import tiny_cache
from tests.test_cli import featcache

QUICK = FitConfig(epochs=3, batch=32, width=8, k=5, permutations=39, halves=20, untrained=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one of them deeper and without a reference."""
    root = tmp_path_factory.mktemp("listed")
    cache = tiny_cache(root)
    sides, reference = ("efficientnet-lite0", "minilm"), "efficientnet-lite2"
    bench = Workbench.load(cache, Selection("openmoji", sides, reference))
    train(bench, QUICK, root / "runs" / "a")
    train(bench, QUICK.model_copy(update={"seed": 1, "lr": 0.01, "adapter": "mlp"}), root / "runs" / "b")
    alone = Workbench.load(cache, Selection("openmoji", sides, None))
    train(alone, QUICK.model_copy(update={"loss": "siglip"}), root / "runs" / "deep" / "er" / "c")
    return root / "runs"


def names(rows: pl.DataFrame) -> list[str]:
    return [Path(run).name for run in rows["run"]]


def test_runs_are_found_three_deep_with_settings_and_the_scores_of_their_selected_epoch(folder: Path) -> None:
    rows = list_runs([folder]).rows
    assert names(rows) == ["a", "b", "c"]
    assert rows["adapter"].to_list() == ["linear", "mlp", "linear"]
    assert rows["loss"].to_list() == ["infonce", "infonce", "siglip"]  # a default that config.json does not keep
    assert rows["reference"].to_list() == ["efficientnet-lite2/last.mean"] * 2 + ["none"]
    for row in rows.to_dicts():
        table = pl.read_parquet(Path(row["run"]) / "metrics.parquet").to_dicts()
        for split in ("validation", "test"):
            own = [one for one in table if one["split"] == split and one["stage"] == "trained"]
            own = [one for one in own if one["epoch"] in (None, row["selected_epoch"])]
            knn = [one for one in own if one["metric"] == "mutual_knn"]
            joint = [one for one in knn if (one["space"], one["against"]) == ("joint", "reference")]
            (score,) = joint or [one for one in knn if one["against"] in ("images", "captions")]
            assert row[f"{split}_mutual_knn"] == score["value"]
            recalls = [one["value"] for one in own if one["metric"] == "R@10"]
            assert len(recalls) == 2 and row[f"{split}_R@10"] == pytest.approx(sum(recalls) / 2)
        assert row["test_mutual_knn_low"] == score["ci_low"]


def test_a_condition_keeps_runs_and_the_best_on_validation_stands_first(folder: Path) -> None:
    rows = list_runs([folder], where="reference <> 'none' AND epochs = 3", sort="mutual_knn").rows
    assert sorted(names(rows)) == ["a", "b"]
    assert rows["validation_mutual_knn"].is_sorted(descending=True)
    by_loss = list_runs([folder], sort="loss").rows  # the metric, of which less is better
    assert by_loss["validation_loss"].is_sorted()
    assert names(list_runs([folder], sort="lr").rows)[-1] == "b"
    assert names(list_runs([folder], where='"validation_R@10" < 0').rows) == []


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("sed = 1", "sed"),
        ("max(seed)", "no condition on single runs"),
        ("seed", "no condition on single runs"),
        ("seed = ", "--where seed = "),
        ("", "--where"),
        ("SELECT 1", "--where SELECT 1"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_columns_that_there_are(folder: Path, where: str, says: str) -> None:
    with pytest.raises(UsageError, match="columns: run, dataset") as error:
        list_runs([folder], where=where)
    assert says in str(error.value) and "AND seed < 3" in str(error.value)


def test_runs_do_not_stand_by_their_score_on_test(folder: Path) -> None:
    with pytest.raises(UsageError, match="chosen on test\n  Run: featcache runs --sort mutual_knn"):
        list_runs([folder], sort="test_mutual_knn")
    with pytest.raises(UsageError, match="no metric has this name; there are .*mutual_knn.*settings dataset"):
        list_runs([folder], sort="mutual_nn")


def test_a_folder_without_runs_is_refused_and_a_damaged_run_is_left_out_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunMissing, match="no folder"):
        list_runs([tmp_path / "absent"])
    with pytest.raises(RunMissing, match="no run at"):
        list_runs([tmp_path])
    shutil.copytree(folder, tmp_path / "runs")
    with (tmp_path / "runs" / "a" / "metrics.parquet").open("ab") as file:
        file.write(b"x")
    result = list_runs([tmp_path / "runs", tmp_path / "runs" / "b"])
    assert names(result.rows) == ["b", "c"]
    assert len(result.damaged) == 1 and "metrics.parquet changed" in result.damaged[0]
    shutil.rmtree(tmp_path / "runs" / "b")
    shutil.rmtree(tmp_path / "runs" / "deep")
    assert list_runs([tmp_path / "runs"]).rows.is_empty()


def test_the_command_tells_what_runs_share_and_where_they_differ(folder: Path) -> None:
    done = featcache("runs", ".", "--sort", "mutual_knn", cwd=folder)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("3 runs: dataset openmoji,") and "adapter" in done.stdout.splitlines()[1]
    assert "mutual-kNN (val.)" in done.stdout and " [" in done.stdout
    rows = json.loads(featcache("runs", ".", "--where", "seed = 1", "--json", cwd=folder).stdout)
    assert [Path(row["run"]).name for row in rows] == ["b"] and rows[0]["lr"] == 0.01
    assert "No run is left" in featcache("runs", ".", "--where", "seed = 9", cwd=folder).stdout
    wrong = featcache("runs", ".", "--where", "sed = 9", cwd=folder)
    assert wrong.returncode == 2 and "UsageError: --where sed = 9" in wrong.stderr
