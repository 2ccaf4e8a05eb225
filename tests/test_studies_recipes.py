"""Runs of every recipe are whole: one folder layout, embedded, reported and verified alike."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.report.page.write import write_report
from featcache.report.terminal.training import show_run, show_training
from featcache.studies.adapters.embed import embed
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig, make_config
from featcache.trainer.defaults import Selection
from featcache.trainer.kinds import SOLVED_KINDS
from featcache.trainer.run import load_run
from featcache.trainer.run_files import FILES, LEAKS, MANIFEST, PICTURES, changed_files
from tests.alignment_cache import store_layers
from tests.spine import tiny_dataset

QUICK = FitConfig(k=5, permutations=39, halves=20, untrained=2)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Images and three captions each that share a latent, and a reference."""
    cache, dataset = Cache(tmp_path_factory.mktemp("recipes") / "cache"), tiny_dataset(120, 3)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((120, 6))
    for encoder, name, rows, d in (
        ("vit", "images", latent, 12),
        ("lm", "captions", latent.repeat(3, axis=0), 10),
        ("big", "images", latent, 16),
    ):
        values = rows @ rng.standard_normal((6, d)) + 0.3 * rng.standard_normal((len(rows), d))
        store_layers(cache, dataset, name, encoder, {"last.mean": values})
    return cache


@pytest.fixture(scope="module")
def bench(cached):
    return Workbench.load(cached, Selection("openmoji", ("vit", "lm"), "big"))


@pytest.fixture(scope="module")
def runs(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        kind: train(bench, QUICK.model_copy(update={"adapter": kind, "captions": "all"}), folder / kind)
        for kind in SOLVED_KINDS
    }


@pytest.mark.parametrize("kind", SOLVED_KINDS)
def test_a_solved_run_has_the_files_and_tables_of_a_trained_one(bench, runs, tmp_path, kind):
    run = load_run(runs[kind].path)
    assert sorted(path.name for path in run.path.iterdir()) == sorted(
        [*FILES, LEAKS, MANIFEST, *(f"{name}.parquet" for name in PICTURES)]
    )
    assert run.config["selected_epoch"] == 1 and changed_files(run.path) == []
    assert run.config["chosen"]["candidates"] > 2 and 0.5 < run.config["chosen"]["score"] <= 1
    trained = train(bench, QUICK.model_copy(update={"epochs": 1, "width": 8}), tmp_path / "run")
    own, other = ({*_kinds(each.table("metrics"))} for each in (run, trained))
    assert own == {row for row in other if row[2] != "loss" or row[-1] != "train"}
    contrasts = [each.table("contrasts")["contrast"].to_list() for each in (run, trained)]
    assert contrasts[0] == contrasts[1]
    for name in ("map", "kernels"):
        spaces = [each.table(name)["space"].unique().sort().to_list() for each in (run, trained)]
        assert spaces[0] == spaces[1]


def _kinds(table: pl.DataFrame):
    return table.filter(pl.col("stage") != "mixed").select("space", "against", "metric", "stage", "split").rows()


@pytest.mark.parametrize("kind", ["cca", "asif"])
def test_a_solved_run_is_the_same_run_again_with_the_same_bytes(bench, runs, tmp_path, kind):
    config = FitConfig.model_validate(runs[kind].config["config"])
    assert train(bench, config, runs[kind].path).already_there
    again = train(bench, config, tmp_path / "again")
    for name in FILES[1:]:
        assert (again.path / name).read_bytes() == (runs[kind].path / name).read_bytes()


@pytest.mark.parametrize("kind", SOLVED_KINDS)
def test_what_a_solved_run_caches_are_its_adapters_rows(cached, bench, runs, kind):
    embeddings = embed(cached, load_run(runs[kind].path))
    adapters = load_run(runs[kind].path).adapters()
    for (name, features), own in zip(bench.sides.items(), embeddings, strict=True):
        wanted = adapters.embed(name, features.tensor().float())
        assert own.values.shape == (len(features.ids), adapters.width)
        torch.testing.assert_close(own.tensor().float(), wanted, atol=2e-3, rtol=0)
        assert own.encoder.startswith(f"{kind}-s0-")


def test_recipes_are_shown_and_drawn_beside_each_other(bench, runs, tmp_path, capsys):
    smoothed = QUICK.model_copy(update={"epochs": 2, "width": 8, "loss": "siglip", "joint": "weighted"})
    trained = train(bench, smoothed, tmp_path / "siglip")
    for run in (runs["cca"], trained):
        show_training(run)
        show_run(run)
    text = " ".join(capsys.readouterr().out.split())
    assert "cca adapters, seed 0" in text and "in closed form; regularization" in text
    assert "linear adapters, siglip, joint weighted, seed 0" in text and "chosen by validation alignment" in text
    page = write_report([trained.path, runs["cca"].path, runs["asif"].path], tmp_path / "page", formats=("svg",))
    html = page.read_text()
    assert "linear, siglip, joint weighted" in html and "asif" in html and "regularization" in html


def test_the_weights_of_a_joint_space_stand_in_its_rows(bench, tmp_path):
    run = train(bench, QUICK.model_copy(update={"epochs": 1, "width": 8, "joint": "weighted"}), tmp_path / "run")
    rows = run.table("metrics").filter(
        pl.col("space") == "joint", pl.col("stage") == "trained", pl.col("split") == "test"
    )
    own = {text for text in rows.filter(pl.col("against") == "reference")["weights"]}
    assert [json.loads(text) for text in own] == [run.config["chosen"]["joint_weights"]]
    adapters = load_run(run.path).adapters()
    assert adapters.weights().tolist() == pytest.approx([*run.config["chosen"]["joint_weights"].values()])


@pytest.mark.slow
def test_trained_on_the_reference_a_run_is_above_every_other_on_training_rows_alone_by_its_own_table(bench, tmp_path):
    def on_training(kind, **change):
        steps = {} if "adapter" in change else {"lr": 1e-2, "width": 16}
        config = QUICK.model_copy(update={"batch": 32, **steps, **change})
        run = train(bench, config, tmp_path / kind)
        rows = run.table("metrics").filter(stage="trained", split="train", against="reference")
        assert rows["n"].unique().to_list() == [run.config["split"]["n"]["train"]]
        assert rows["space"].unique().sort().to_list() == ["captions", "images", "joint"]
        return dict(rows.filter(space="joint").select("metric", "value").rows())

    ceiling = on_training("cka", loss="cka", epochs=40, select="last")
    for other in ({}, {"adapter": "procrustes"}):
        scores = on_training("-".join(other.values()) or "plain", **other)
        assert all(ceiling[metric] > score for metric, score in scores.items()), other


def test_the_command_line_takes_every_choice_and_refuses_contradictions(cached, tmp_path):
    place = ["--cache", str(cached.folder), "--k", "5", "--reference", "big"]
    recipe = [
        "--loss",
        "infonce",
        "--temperature",
        "0.05",
        "--label-smoothing",
        "0.05",
        "--mixup",
        "--joint",
        "learned",
    ]
    recipe += ["--keep-geometry", "10", "--weight-decay", "0.001", "--epochs", "1", "--width", "8"]
    done = CliRunner().invoke(app, ["train", "openmoji", "vit", "lm", *place, *recipe, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    wanted = make_config(
        temperature=0.05, label_smoothing=0.05, mixup=True, joint="learned", keep_geometry=10, weight_decay=0.001,
        epochs=1, width=8, k=5,
    )  # fmt: skip
    assert FitConfig.model_validate(load_run(tmp_path / "run").config["config"]) == wanted
    refused = CliRunner().invoke(app, ["train", "openmoji", "vit", "lm", *place, "--adapter", "cca", "--epochs", "5"])
    assert refused.exit_code != 0 and "it has no epochs" in str(refused.exception or refused.output)
    alone = [*place[:-1], "none", "--adapter", "ridge", "--out", str(tmp_path / "none")]
    refused = CliRunner().invoke(app, ["train", "openmoji", "vit", "lm", *alone])
    assert "ridge maps every side to the reference, and there is none" in str(refused.exception or refused.output)
    assert not Path(tmp_path / "none").exists()
