import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

from featcache.errors import UsageError
from featcache.studies.adapters.pictures import block_means
from featcache.studies.adapters.train import train
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import DEFAULTS
from featcache.trainer.errors import RunDamaged, RunExists, RunMissing
from featcache.trainer.pairs import hash_ids
from featcache.trainer.run import FILES, apply, load_run
from featcache.trainer.table import COLUMNS
from tests.trainer_planted import planted

QUICK = FitConfig(epochs=2, batch=32, width=16, k=5, lr=5e-3, permutations=100)


@pytest.fixture(scope="module")
def data():
    return planted(240)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    return train(*data, QUICK, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished.path, tmp_path / "run")


def test_a_run_folder_holds_the_declared_files_and_nothing_else(finished):
    assert sorted(path.name for path in finished.path.iterdir()) == sorted(FILES)
    assert [path.name for path in finished.path.parent.iterdir()] == ["run"]


def test_the_configuration_names_everything_the_run_depends_on(finished, data):
    config = load_run(finished.path).config
    assert FitConfig.model_validate(config["config"]) == QUICK
    assert config["features"]["y"] == {
        "view": "captions",
        "encoder": "encoder-y",
        "layer": "last.mean",
        "digest": "d-y",
        "root": "r-y",
        "encoder_hash": "",
    }
    assert config["dataset"] == "planted" and config["overlay"] == data[0].overlay
    assert config["split"]["n"] == {"train": 120, "validation": 60, "test": 60}
    assert config["split"]["hashes"]["test"] == hash_ids(data[0].groups[data[0].splits == "test"])
    assert config["threads"] == torch.get_num_threads() and config["versions"]["torch"] in torch.__version__
    assert config["selected_epoch"] in (1, 2) and config["seconds"] > 0 and config["started"].endswith("+00:00")
    assert config["commit"] is None or len(config["commit"]) == 40


def test_the_tables_have_the_declared_columns(finished):
    metrics = finished.metrics()
    assert metrics.columns == list(COLUMNS)
    assert set(metrics["stage"]) == {"raw", "untrained", "trained", "mixed"}
    assert metrics["value"].is_finite().all()
    points = pl.read_parquet(finished.path / "map.parquet")
    assert points.columns == ["id", "label", "space", "px", "py"] and len(points) == 4 * 120
    assert set(points["label"]) == {"even", "odd"}
    assert points["space"].unique(maintain_order=True).to_list() == ["raw x", "raw y", "reference", "joint"]
    kernels = pl.read_parquet(finished.path / "kernels.parquet")
    assert kernels.columns == ["space", "row", "col", "value"] and len(kernels) == 4 * 48 * 48
    assert kernels["value"].abs().max() <= 1 + 1e-12


def test_block_means_are_those_of_the_whole_kernel():
    features = np.random.default_rng(0).normal(size=(103, 7))
    kernel = features @ features.T
    parts = np.array_split(np.arange(103), 48)
    obvious = [[kernel[np.ix_(a, b)].mean() for b in parts] for a in parts]
    np.testing.assert_allclose(block_means(features, 48), obvious, atol=1e-12)
    assert block_means(features[:5], 48).shape == (5, 5)


def test_without_labels_the_map_shows_splits(data, tmp_path):
    bare = [replace(features, labels={}) for features in data]
    run = train(*bare, QUICK, tmp_path / "bare")
    assert set(pl.read_parquet(run.path / "map.parquet")["label"]) == {"validation", "test"}


def test_two_runs_of_one_request_are_equal_to_the_bit(data, finished, tmp_path):
    again = train(*data, QUICK, tmp_path / "again")
    for name in set(FILES) - {"config.json"}:
        assert (again.path / name).read_bytes() == (finished.path / name).read_bytes(), name


def test_the_split_is_hashed_and_written_before_the_first_step(data, tmp_path, monkeypatch):
    seen = []

    def refuse(pairs, config, *, on_epoch):
        (making,) = tmp_path.iterdir()
        seen.append(json.loads((making / "config.json").read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr("featcache.studies.adapters.train.fit_pairs", refuse)
    with pytest.raises(KeyboardInterrupt):
        train(*data, QUICK, tmp_path / "run")
    hashes = seen[0]["split"]["hashes"]
    assert hashes["validation"] == hash_ids(data[0].groups[data[0].splits == "validation"])
    assert "selected_epoch" not in seen[0]


@pytest.mark.parametrize("where", ["epoch", "map_table"])
def test_a_run_killed_in_the_middle_leaves_nothing(data, tmp_path, monkeypatch, where):
    def kill(*_):
        raise KeyboardInterrupt

    if where == "map_table":
        monkeypatch.setattr("featcache.studies.adapters.train.map_table", kill)
    with pytest.raises(KeyboardInterrupt):
        train(*data, QUICK, tmp_path / "run", on_epoch=kill if where == "epoch" else None)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_run(data, copied):
    def kill(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(*data, QUICK.model_copy(update={"seed": 1}), copied, overwrite=True, on_epoch=kill)
    assert load_run(copied).config["config"]["seed"] == 0
    assert [path.name for path in copied.parent.iterdir()] == ["run"]


def test_the_same_request_finds_its_run_already_there(data, copied):
    epochs = []
    run = train(*data, QUICK, copied, on_epoch=epochs.append)
    assert run.already_there and epochs == [] and not load_run(copied).already_there


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        ({"lr": 0.1, "seed": 4}, {}, "config.lr, config.seed"),
        ({}, {"root": "other"}, "features"),
        ({}, {"digest": "o"}, "f"),
    ],
)
def test_another_run_in_the_folder_is_not_overwritten_unasked(data, copied, config, change, says):
    x, y, reference = data
    with pytest.raises(RunExists, match=f"another run stands in .*; it differs in {says}"):
        train(x, y, replace(reference, **change), QUICK.model_copy(update=config), copied)
    run = train(x, y, replace(reference, **change), QUICK.model_copy(update=config), copied, overwrite=True)
    assert not run.already_there and [path.name for path in copied.parent.iterdir()] == ["run"]


def test_a_folder_that_is_no_run_is_never_overwritten(data, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(RunExists, match="is not a run"):
        train(*data, QUICK, tmp_path, overwrite=True)
    assert (tmp_path / "config.json").is_file()


def test_an_empty_folder_may_become_a_run(data, tmp_path):
    assert load_run(train(*data, QUICK, tmp_path).path).config["dataset"] == "planted"


def test_a_missing_run_names_the_runs_beside_it(finished):
    with pytest.raises(RunMissing, match="(?s)no run at .*other.*Runs beside it: run\n.*featcache train"):
        load_run(finished.path.parent / "other")


def test_a_run_without_a_file_is_damaged_and_may_be_overwritten(data, copied):
    (copied / "adapters.safetensors").unlink()
    with pytest.raises(RunDamaged, match=r"adapters.safetensors missing\n.*--overwrite"):
        load_run(copied)
    assert train(*data, QUICK, copied, overwrite=True).adapters().x.width == 16


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": {"adapter": "huge"}}'])
def test_an_unreadable_configuration_is_damage(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(RunDamaged, match="config.json cannot be read"):
        load_run(copied)


def test_cut_off_weights_and_tables_are_damage(copied):
    for name in ("adapters.safetensors", "metrics.parquet"):
        whole = (copied / name).read_bytes()
        (copied / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunDamaged, match="adapters.safetensors cannot be used"):
        load_run(copied).adapters()
    with pytest.raises(RunDamaged, match="metrics.parquet cannot be read"):
        load_run(copied).metrics()


def test_a_newer_format_is_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(RunDamaged, match="format 99, this version reads 1"):
        load_run(copied)


def test_the_weights_file_names_both_sides_the_temperature_and_its_request(finished):
    with safe_open(finished.path / "adapters.safetensors", "pt") as file:
        names, request = set(file.keys()), json.loads(file.metadata()["config"])
    assert names == {f"{side}.{part}" for side in "xy" for part in ("mean", "std", "net.weight", "net.bias")} | {
        "log_scale"
    }
    assert request["config_hash"] == finished.config["config_hash"]


def test_applying_a_run_reproduces_its_own_measurement(data, finished):
    x, y, _ = data
    test = {features.view: features.take(features.splits == "test") for features in (x, y)}
    queries, gallery = apply(finished, test["images"]), apply(finished, test["captions"])
    assert queries.shape == (60, 16) and queries.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    found = np.argmax(queries @ gallery.T, axis=1)
    hits = test["captions"].groups[found] == test["images"].groups
    wanted = (pl.col("metric") == "R@1") & (pl.col("split") == "test") & (pl.col("stage") == "trained")
    recorded = finished.metrics().filter(wanted & (pl.col("direction") == "x→y"))["value"].item()
    assert hits.mean() == pytest.approx(recorded)


def test_features_of_another_encoder_are_refused_with_what_the_run_has(data, finished):
    with pytest.raises(
        UsageError, match="no adapter for resnet/last.mean; it has x: encoder-x/last.mean, y: encoder-y"
    ):
        apply(finished, replace(data[0], encoder="resnet"))
    with pytest.raises(UsageError, match="has 4 dimensions; side x of the run .* was trained on 20"):
        apply(finished, replace(data[0], values=data[0].values[:, :4]))
    with pytest.raises(UsageError, match="no side 'y' for encoder-x"):
        apply(finished, data[0], side="y")


def test_two_sides_of_one_encoder_are_told_apart_by_view_or_by_name(data, finished):
    same = {"encoder": "encoder-x", "layer": "last.mean"}
    entries = {**finished.config["features"], "y": {**finished.config["features"]["x"], **same, "view": "captions"}}
    run = replace(finished, config={**finished.config, "features": entries})
    by_view = apply(run, data[0])
    assert np.array_equal(by_view, apply(run, replace(data[0], view="elsewhere"), side="x"))
    with pytest.raises(UsageError, match="both sides of the run"):
        apply(run, replace(data[0], view="elsewhere"))


def test_every_default_compares_three_different_encoders():
    assert {triple.dataset for triple in DEFAULTS} == {"flickr30k", "openmoji"}
    assert all(len({triple.x, triple.y, triple.reference}) == 3 for triple in DEFAULTS)


def test_a_damaged_run_is_replaced_when_asked_and_a_foreign_folder_never(data, tmp_path):
    out = tmp_path / "run"
    train(*data, QUICK, out)
    (out / "config.json").write_text("{")
    with pytest.raises(RunDamaged, match="--overwrite"):
        train(*data, QUICK, out)
    assert train(*data, QUICK, out, overwrite=True).config["selected_epoch"] >= 1
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(RunExists, match="is not a run"):
        train(*data, QUICK, foreign, overwrite=True)


def test_a_folder_that_another_process_filled_meanwhile_is_left_alone(data, tmp_path):
    out = tmp_path / "run"

    def interfere(epoch):
        out.mkdir(exist_ok=True)
        (out / "theirs").write_text("keep")

    with pytest.raises(RunExists, match="meanwhile"):
        train(*data, QUICK, out, on_epoch=interfere)
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and (out / "theirs").read_text() == "keep"
