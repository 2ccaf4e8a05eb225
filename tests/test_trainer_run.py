"""A run folder is whole or absent, says what it is of, and notices one flipped bit in any of its files."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

from featcache.errors import UsageError
from featcache.metrics.measure.row import ContrastRow, Row, columns
from featcache.studies.adapters.pictures.maps import block_means
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import RunDamaged, RunExists, RunMissing
from featcache.trainer.run import apply, load_run
from featcache.trainer.run_files import FILES, FORMAT, LEAKS, MANIFEST, PICTURES, changed_files
from featcache.trainer.sides import hash_ids
from tests.trainer_planted import planted_sides

QUICK = FitConfig(epochs=2, batch=32, width=16, k=5, lr=5e-3, permutations=39, halves=20, untrained=2)
EVERY = [*FILES, LEAKS, *(f"{name}.parquet" for name in PICTURES), MANIFEST]


def changed(**update):
    return QUICK.model_copy(update=update)


def with_reference(bench, **change):
    return Workbench(bench.sides, replace(bench.reference, **change))


@pytest.fixture(scope="module")
def bench():
    return Workbench(*planted_sides(240))


@pytest.fixture(scope="module")
def finished(bench, tmp_path_factory):
    return train(bench, QUICK, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished.path, tmp_path / "run")


def resealed(folder, name, content):
    """Another content of a file, with a manifest that knows it."""
    from featcache.trainer.run_files import write_manifest

    (folder / name).write_text(content) if isinstance(content, str) else (folder / name).write_bytes(content)
    (folder / MANIFEST).unlink()
    write_manifest(folder)


# -- what is in it ----------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_the_declared_files_and_nothing_else(finished):
    assert sorted(path.name for path in finished.path.iterdir()) == sorted(EVERY)
    assert [path.name for path in finished.path.parent.iterdir()] == ["run"]


def test_the_configuration_names_everything_the_run_depends_on(finished, bench):
    run = load_run(finished.path)
    config, x = run.config, bench.sides["x"]
    assert config["format"] == run.format == FORMAT == 2
    assert FitConfig.model_validate(config["config"]) == QUICK
    assert run.sides == [*config["sides"]] == ["x", "y"]
    recorded = {
        "view": "captions",
        "encoder": "encoder-y",
        "layer": "last.mean",
        "digest": "d-y",
        "root": "r-y",
        "encoder_hash": "",
    }
    assert config["sides"]["y"] == recorded
    assert config["reference"] == recorded | {
        "view": "images",
        "encoder": "encoder-reference",
        "digest": "d-reference",
        "root": "r-reference",
    }
    assert config["dataset"] == "planted" and config["overlay"] == x.overlay and config["control"] is None
    assert config["split"]["n"] == {"train": 120, "validation": 60, "test": 60}
    assert config["split"]["hashes"]["test"] == hash_ids(x.groups[x.splits == "test"])
    assert config["threads"] == torch.get_num_threads() and config["versions"]["torch"] in torch.__version__
    assert config["selected_epoch"] in (1, 2) and config["seconds"] > 0 and config["started"].endswith("+00:00")
    assert config["commit"] is None or len(config["commit"]) == 40


def test_the_tables_have_the_declared_columns(finished):
    metrics, contrasts = finished.table("metrics"), finished.table("contrasts")
    assert metrics.columns == [*columns(Row)] and contrasts.columns == [*columns(ContrastRow)]
    assert set(metrics["stage"]) == {"raw", "untrained", "trained", "mixed", "ridge", "noise"}
    assert metrics["value"].is_finite().all() and contrasts["value"].is_finite().all()
    assert set(contrasts["verdict"]) <= {"above", "below", "cannot tell", "cannot tell after correction"}
    points = finished.table("map")
    assert points.columns == ["id", "label", "space", "px", "py"] and len(points) == 4 * 120
    assert set(points["label"]) == {"even", "odd"}
    assert points["space"].unique(maintain_order=True).to_list() == ["raw x", "raw y", "reference", "joint"]
    kernels = finished.table("kernels")
    assert kernels.columns == ["space", "row", "col", "value"] and len(kernels) == 4 * 48 * 48
    assert kernels["value"].abs().max() <= 1 + 1e-12


def test_block_means_are_those_of_the_whole_kernel():
    features = np.random.default_rng(0).normal(size=(103, 7))
    kernel = features @ features.T
    parts = np.array_split(np.arange(103), 48)
    obvious = [[kernel[np.ix_(a, b)].mean() for b in parts] for a in parts]
    np.testing.assert_allclose(block_means(features, 48), obvious, atol=1e-12)
    assert block_means(features[:5], 48).shape == (5, 5)


def test_without_labels_the_map_shows_splits(bench, tmp_path):
    bare = {name: replace(features, labels={}) for name, features in bench.sides.items()}
    run = train(Workbench(bare, replace(bench.reference, labels={})), QUICK, tmp_path / "bare")
    assert set(run.table("map")["label"]) == {"validation", "test"}


def test_the_weights_file_names_every_side_the_temperature_and_its_request(finished):
    with safe_open(finished.path / "adapters.safetensors", "pt") as file:
        names, request = set(file.keys()), json.loads(file.metadata()["config"])
    assert names == {f"sides.{side}.{part}" for side in "xy" for part in ("mean", "std", "net.weight", "net.bias")} | {
        "log_scale"
    }
    assert request["config_hash"] == finished.config["config_hash"]


def test_two_runs_of_one_request_are_equal_to_the_bit(bench, finished, tmp_path):
    again = train(Workbench(bench.sides, bench.reference), QUICK, tmp_path / "again")
    for name in set(FILES) - {"config.json"}:
        assert (again.path / name).read_bytes() == (finished.path / name).read_bytes(), name


def test_the_split_is_hashed_and_written_before_the_first_step(bench, tmp_path, monkeypatch):
    seen = []

    def refuse(*_, **__):
        (making,) = tmp_path.glob(".run.*.making")
        seen.append(json.loads((making / "config.json").read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr("featcache.studies.adapters.train.fit_paired", refuse)
    with pytest.raises(KeyboardInterrupt):
        train(bench, QUICK, tmp_path / "run")
    x = bench.sides["x"]
    assert seen[0]["split"]["hashes"]["validation"] == hash_ids(x.groups[x.splits == "validation"])
    assert "selected_epoch" not in seen[0]


# -- whole or absent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["epoch", "picture_tables"])
def test_a_run_killed_in_the_middle_leaves_nothing(bench, tmp_path, monkeypatch, where):
    def kill(*_):
        raise KeyboardInterrupt

    if where == "picture_tables":
        monkeypatch.setattr("featcache.studies.adapters.train.picture_tables", kill)
    with pytest.raises(KeyboardInterrupt):
        train(bench, QUICK, tmp_path / "run", on_epoch=kill if where == "epoch" else None)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_run(bench, copied):
    def kill(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(bench, changed(seed=1), copied, overwrite=True, on_epoch=kill)
    assert load_run(copied).config["config"]["seed"] == 0
    assert [path.name for path in copied.parent.iterdir()] == ["run"]


def test_the_same_request_finds_its_run_already_there(bench, copied):
    epochs = []
    run = train(bench, QUICK, copied, on_epoch=epochs.append)
    assert run.already_there and epochs == [] and not load_run(copied).already_there


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        ({"lr": 0.1, "seed": 4}, {}, r"config\.lr, config\.seed\n"),
        ({}, {"root": "other"}, r"reference\n"),
        ({}, {"digest": "o"}, r"reference\n"),
        ({"lr": 0.1}, {"digest": "o"}, r"config\.lr, reference\n"),
    ],
)
def test_another_run_in_the_folder_is_not_overwritten_unasked(bench, copied, config, change, says):
    other = with_reference(bench, **change)
    with pytest.raises(RunExists, match=f"another run stands in .*; it differs in {says}.*--overwrite"):
        train(other, changed(**config), copied)
    run = train(other, changed(**config), copied, overwrite=True)
    assert not run.already_there and [path.name for path in copied.parent.iterdir()] == ["run"]
    assert changed_files(copied) == []


@pytest.mark.parametrize(
    ("sides", "says"),
    [
        (lambda s: {"x": s["x"], "y": replace(s["y"], root="other")}, r"sides\.y\n"),
        (lambda s: {"x": s["x"], "z": s["y"]}, r"sides\.z, sides\.y\n"),
        (lambda s: {**s, "z": replace(s["x"], digest="d-z")}, r"sides\.z\n"),
    ],
)
def test_a_run_of_other_sides_says_which(bench, copied, sides, says):
    with pytest.raises(RunExists, match=f"it differs in {says}"):
        train(Workbench(sides(bench.sides), bench.reference), QUICK, copied)


def test_a_run_without_reference_or_with_a_control_is_another_run(bench, copied, tmp_path):
    with pytest.raises(RunExists, match=r"it differs in reference\n"):
        train(Workbench(bench.sides, None), QUICK, copied)
    control = train(bench, changed(shuffle_pairs=True), tmp_path / "control")
    with pytest.raises(RunExists, match=r"it differs in control\n"):
        train(bench, QUICK, copied, control=control)


def test_a_folder_that_is_no_run_is_never_overwritten(bench, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(RunExists, match="is not a run"):
        train(bench, QUICK, tmp_path, overwrite=True)
    assert (tmp_path / "config.json").is_file()


def test_an_empty_folder_may_become_a_run(bench, tmp_path):
    assert load_run(train(bench, QUICK, tmp_path).path).config["dataset"] == "planted"


def test_a_missing_run_names_the_runs_beside_it(finished):
    with pytest.raises(RunMissing, match="(?s)no run at .*other.*Runs beside it: run\n.*featcache train"):
        load_run(finished.path.parent / "other")


def test_a_damaged_run_is_replaced_when_asked_and_a_foreign_folder_never(bench, tmp_path):
    out = tmp_path / "run"
    train(bench, QUICK, out)
    (out / "config.json").write_text("{")
    with pytest.raises(RunDamaged, match="--overwrite"):
        train(bench, QUICK, out)
    assert train(bench, QUICK, out, overwrite=True).config["selected_epoch"] >= 1
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(RunExists, match="is not a run"):
        train(bench, QUICK, foreign, overwrite=True)


def test_a_folder_that_another_process_filled_meanwhile_is_left_alone(bench, tmp_path):
    out = tmp_path / "run"

    def interfere(epoch):
        out.mkdir(exist_ok=True)
        (out / "theirs").write_text("keep")

    with pytest.raises(RunExists, match="meanwhile"):
        train(bench, QUICK, out, on_epoch=interfere)
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and (out / "theirs").read_text() == "keep"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_and_folder_may_be_read_as_the_umask_says(bench, tmp_path, umask):
    before = os.umask(umask)
    try:
        run = train(bench, changed(epochs=1), tmp_path / "run")
    finally:
        os.umask(before)
    assert run.path.stat().st_mode & 0o777 == 0o777 & ~umask
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.path.iterdir()}
    assert modes == dict.fromkeys(EVERY, 0o666 & ~umask)


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_one_flipped_bit_in_any_file_is_noticed(copied, name):
    path = copied / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in {0, len(whole) - 2, *rng.integers(0, len(whole) - 1, 40).tolist()}:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(RunDamaged, match="(?s)is damaged.*--overwrite"):
            load_run(copied)
        if name not in (MANIFEST, "config.json"):
            assert changed_files(copied) == [name]
    path.write_bytes(whole)
    assert changed_files(copied) == [] and load_run(copied).config["dataset"] == "planted"


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_one_flipped_bit_at_any_place_is_noticed(copied, name):
    whole = (copied / name).read_bytes()
    places = range(len(whole)) if len(whole) < 4_000 else range(0, len(whole), 1 + len(whole) // 2_000)
    for place in places:
        (copied / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(RunDamaged):
            load_run(copied)
        try:
            assert name in changed_files(copied) or name == MANIFEST
        except RunDamaged:
            assert name in ("config.json", MANIFEST)


@pytest.mark.parametrize("name", EVERY)
def test_a_run_without_a_file_is_damaged_and_may_be_overwritten(bench, copied, name):
    (copied / name).unlink()
    with pytest.raises(RunDamaged, match=rf"{name} missing\n.*--overwrite"):
        load_run(copied)
    with pytest.raises(RunDamaged, match=f"{name} missing"):
        train(bench, QUICK, copied)
    if name != "config.json":
        assert changed_files(copied) == [name]
    assert train(bench, QUICK, copied, overwrite=True).adapters()["x"].width == 16
    assert changed_files(copied) == []


def test_a_file_that_the_manifest_does_not_list_is_no_file_of_the_run_and_one_that_it_forgets_is(copied):
    (copied / "notes.txt").write_text("mine")
    assert changed_files(copied) == []
    recorded = json.loads((copied / MANIFEST).read_text())
    del recorded["blake3"]["map.parquet"]
    (copied / MANIFEST).write_text(json.dumps(recorded))
    assert changed_files(copied) == ["map.parquet"]
    for wrong in ("[]", '{"blake3": []}', '{"blake3": null}', "{"):
        (copied / MANIFEST).write_text(wrong)
        with pytest.raises(RunDamaged, match="manifest.json"):
            load_run(copied)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_an_unreadable_configuration_is_damage(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(RunDamaged, match="config.json cannot be read"):
        load_run(copied)


@pytest.mark.parametrize("change", [{"config": {"adapter": "huge"}}, {"config": None}])
@pytest.mark.parametrize("version", [1, FORMAT])
def test_a_configuration_that_says_nothing_of_a_run_is_damage(copied, change, version):
    config = json.loads((copied / "config.json").read_text())
    resealed(copied, "config.json", json.dumps({**config, **change, "format": version}))
    with pytest.raises(RunDamaged, match="config.json cannot be read"):
        load_run(copied)


def test_cut_off_weights_and_tables_are_damage_even_where_the_manifest_knows_them(copied):
    names = ("adapters.safetensors", "metrics.parquet", "contrasts.parquet")
    for name in names:
        whole = (copied / name).read_bytes()
        resealed(copied, name, whole[: len(whole) // 2])
    run = load_run(copied)
    with pytest.raises(RunDamaged, match="adapters.safetensors cannot be used"):
        run.adapters()
    for name in names[1:]:
        with pytest.raises(RunDamaged, match=f"{name} cannot be read"):
            run.table(name.removesuffix(".parquet"))


def test_a_table_without_a_column_is_damage(copied):
    path = copied / "metrics.parquet"
    pl.read_parquet(path).drop("weights").write_parquet(copied / "other")
    resealed(copied, "metrics.parquet", (copied / "other").read_bytes())
    with pytest.raises(RunDamaged, match="metrics.parquet cannot be read"):
        load_run(copied).table("metrics")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": 2, "config_hash": ' + "[" * 20_000 + "]" * 20_000 + "}",
        '{"format": true}',
        '{"format": 2.0}',
        '{"format": []}',
        "9" * 10_000,
    ],
)
def test_a_nested_or_odd_configuration_is_damage(copied, text):
    resealed(copied, "config.json", text)
    with pytest.raises(RunDamaged, match="the run folder"):
        load_run(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"sides": []},
        {"sides": {"x": None}},
        {"sides": {"x": {"view": 1}}},
        {"reference": "dinov2"},
        {"dataset": None},
        {"split": {"n": [1]}},
        {"overlay": 5},
        {"config": {"width": "wide"}},
    ],
)
def test_a_configuration_of_another_form_is_damage_and_names_the_field(copied, change):
    config = json.loads((copied / "config.json").read_text())
    resealed(copied, "config.json", json.dumps({**config, **change}))
    with pytest.raises(RunDamaged, match=f"config.json cannot be read: {next(iter(change))}"):
        load_run(copied)


def test_a_column_of_another_type_is_damage(copied):
    for column, dtype in (("value", pl.String), ("n", pl.Float64), ("metric", pl.Binary)):
        frame = pl.read_parquet(copied / "metrics.parquet").with_columns(pl.col(column).cast(dtype, strict=False))
        frame.write_parquet(copied / "odd.parquet")
        content = (copied / "odd.parquet").read_bytes()
        (copied / "odd.parquet").unlink()
        resealed(shutil.copytree(copied, copied.with_name(column)), "metrics.parquet", content)
        with pytest.raises(RunDamaged, match=rf"metrics.parquet cannot be read: column {column} holds"):
            load_run(copied.with_name(column)).table("metrics")


def test_a_table_that_makes_polars_panic_is_damage(copied, monkeypatch):
    def panic(*_, **__):
        raise pl.exceptions.PanicException("range end index 12 out of range")

    monkeypatch.setattr(pl, "read_parquet", panic)
    with pytest.raises(RunDamaged, match="metrics.parquet cannot be read: range end"):
        load_run(copied).table("metrics")


def test_a_run_that_calls_itself_of_format_1_beside_its_manifest_is_still_checked(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "format": 1}))
    with pytest.raises(RunDamaged, match="config.json changed since it was written"):
        load_run(copied)


def test_a_manifest_that_names_files_elsewhere_is_damage(copied):
    recorded = json.loads((copied / MANIFEST).read_text())
    recorded["blake3"]["../../etc/passwd"] = "0" * 64
    (copied / MANIFEST).write_text(json.dumps(recorded))
    with pytest.raises(RunDamaged, match="manifest.json cannot be read: it names no files of the folder"):
        load_run(copied)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_pipes_devices_and_sparse_files_in_a_run_are_not_read(copied, name):
    path = copied / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunDamaged):
        load_run(copied)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(RunDamaged):
        load_run(copied)
    path.unlink()
    path.touch()
    os.truncate(path, 200 * 10**9)
    with pytest.raises(RunDamaged):
        load_run(copied)


def test_a_newer_format_is_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    resealed(copied, "config.json", json.dumps({**config, "format": 99}))
    with pytest.raises(RunDamaged, match="format 99, this version reads 1 and 2"):
        load_run(copied)


# -- applying it ------------------------------------------------------------------------------------------------------


def test_applying_a_run_reproduces_its_own_measurement(bench, finished):
    test = {features.view: features.take(features.splits == "test") for features in bench.sides.values()}
    queries, gallery = apply(finished, test["images"]), apply(finished, test["captions"])
    assert queries.shape == (60, 16) and queries.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    best = np.argmax(queries @ gallery.T, axis=1)
    hits = test["captions"].groups[best] == test["images"].groups
    wanted = (pl.col("metric") == "R@1") & (pl.col("split") == "test") & (pl.col("stage") == "trained")
    recorded = finished.table("metrics").filter(wanted & (pl.col("direction") == "x→y"))["value"].item()
    assert hits.mean() == pytest.approx(recorded)


def test_features_of_another_encoder_are_refused_with_what_the_run_has(bench, finished):
    x = bench.sides["x"]
    with pytest.raises(
        UsageError, match="no adapter for resnet/last.mean; it has x: encoder-x/last.mean, y: encoder-y"
    ):
        apply(finished, replace(x, encoder="resnet"))
    with pytest.raises(UsageError, match="has 4 dimensions; side x of the run .* was trained on 20"):
        apply(finished, replace(x, values=x.values[:, :4]))
    with pytest.raises(UsageError, match="no side 'y' for encoder-x"):
        apply(finished, x, side="y")
    with pytest.raises(UsageError, match="no side 'z' for encoder-x"):
        apply(finished, x, side="z")


def test_sides_of_one_encoder_are_told_apart_by_view_or_by_name(bench, finished):
    x, sides = bench.sides["x"], finished.config["sides"]
    entries = {**sides, "y": {**sides["x"], "view": "captions"}}
    run = replace(finished, config={**finished.config, "sides": entries})
    by_view = apply(run, x)
    assert np.array_equal(by_view, apply(run, replace(x, view="elsewhere"), side="x"))
    with pytest.raises(UsageError, match=r'(?s)several sides of the run .*side="x" or side="y"'):
        apply(run, replace(x, view="elsewhere"))
