"""A transferred adapter sees another encoder's features through a ridge map fitted on training groups."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featcache.studies.adapters.train import Workbench
from featcache.studies.experiments.processes import Resources
from featcache.studies.experiments.spec import load_experiment
from featcache.studies.experiments.sweep import run_sweep
from featcache.studies.experiments.transfer import RidgeMap, stitched_rows
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired
from featcache.trainer.fit import fit_paired
from featcache.trainer.tracking import EvaluationSplit, alignment_rows, embed_split
from tests.spine import TINY_BASE, store, tiny_cache, tiny_dataset
from tests.trainer_planted import planted_sides

CONFIG = FitConfig(epochs=4, batch=32, width=16, k=5, lr=5e-3, permutations=39, halves=20, untrained=2)


def bench_of(sides, reference):
    return Workbench(sides, reference)


def fitted_with(bench):
    return fit_paired(bench.paired(CONFIG), CONFIG)


def scores(rows):
    return {(row.space, row.against, row.metric): row.value for row in rows}


def test_features_that_are_an_affine_map_of_the_old_ones_lose_nothing():
    sides, reference = planted_sides(480)
    bench = bench_of(sides, reference)
    adapters = fitted_with(bench).adapters
    rng = np.random.default_rng(0)
    turned = replace(
        sides["x"], values=(sides["x"].values @ rng.standard_normal((20, 30)) - 2).astype(np.float32), digest="other"
    )
    other = bench_of({**sides, "x": turned}, reference)
    own = EvaluationSplit("test", bench.paired(CONFIG).part("test"))
    wanted = scores(alignment_rows(own, embed_split(own, adapters).spaces, bench.evaluation(CONFIG).settings))
    got = scores(stitched_rows(adapters, CONFIG, bench, other, epoch=3))
    for key, value in wanted.items():
        assert got[key] == pytest.approx(value, abs=0.02), key
    noise = replace(sides["x"], values=rng.standard_normal((480, 30)).astype(np.float32), digest="noise")
    lost = scores(stitched_rows(adapters, CONFIG, bench, bench_of({**sides, "x": noise}, reference), epoch=3))
    assert lost["x", "reference", "mutual_knn"] < 0.1 < wanted["x", "reference", "mutual_knn"]


def test_the_map_is_the_ridge_regression_of_standardised_rows_with_the_best_penalty_on_held_out_rows():
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((60, 8)) * 3 + 1, rng.standard_normal((8, 5))
    y = x @ weight + 0.5 * rng.standard_normal((60, 5))
    mapped = RidgeMap(x[:40], y[:40], (x[40:], y[40:]))
    mean, deviation = x[:40].mean(axis=0), x[:40].std(axis=0)
    z, held = (x[:40] - mean) / deviation, (x[40:] - mean) / deviation
    errors = {}
    for penalty in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3):
        solved = np.linalg.solve(z.T @ z / 40 + penalty * np.eye(8), z.T @ (y[:40] - y[:40].mean(axis=0)) / 40)
        errors[penalty] = (np.square(held @ solved + y[:40].mean(axis=0) - y[40:]).sum(), solved)
    best = min(errors, key=lambda penalty: errors[penalty][0])
    assert mapped.penalty == best
    np.testing.assert_allclose(mapped.weight, errors[best][1], rtol=1e-8)


def test_an_encoder_with_rows_of_other_groups_is_refused():
    sides, reference = planted_sides(480)
    bench = bench_of(sides, reference)
    adapters = fitted_with(bench).adapters
    fewer = replace(sides["x"].take(np.arange(440)), digest="fewer")
    with pytest.raises(NotPaired, match="rows of other groups"):
        stitched_rows(adapters, CONFIG, bench, bench_of({**sides, "x": fewer}, reference), epoch=1)


def test_a_sweep_measures_transfers_once_and_says_of_which_encoder(tmp_path: Path) -> None:
    cache, dataset = tiny_cache(tmp_path, captions=2), tiny_dataset(160, 2)
    rng = np.random.default_rng(3)
    old = cache.load("openmoji", "efficientnet-lite0").values.astype(np.float64)
    store(cache, dataset, dataset.views["images"], "other", (old @ rng.standard_normal((24, 24))).astype(np.float16))
    file = tmp_path / "moved.toml"
    file.write_text(
        """
question = "Why?"
"""
        + TINY_BASE
        + """[transfer]
efficientnet-lite0 = ["other", "absent", "efficientnet-lite0"]
"""
    )
    resources = Resources(str(cache.root), tmp_path / "study", 0)
    sweep = run_sweep(load_experiment(file), resources)
    assert ["absent" in error for error in sweep.failures.values()] == [True]
    skipped = run_sweep(load_experiment(file), resources, skip_uncached=True)
    assert not skipped.failures and not any(outcome.computed for outcome in skipped.outcomes.values())
    stitched = skipped.tables.rows.filter(pl.col("stage") == "stitched")
    assert stitched["transfer"].unique().to_list() == ["efficientnet-lite0→other"]
    assert {"mutual_knn", "R@10"} <= set(stitched["metric"]) and set(stitched["split"]) == {"test"}
    assert set(skipped.tables.rows.filter(pl.col("stage") != "stitched")["transfer"]) == {""}
