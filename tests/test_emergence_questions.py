"""When alignment emerges: maxima and their bias against loops over rows, and what is done where a value is missing."""

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import UsageError
from featcache.metrics.errors import BadChoice
from featcache.studies.emergence.questions.maxima import (
    best_of_models,
    by_depth,
    expected_maximum,
    information,
    maxima,
    maximum_bias,
    metric_agreement,
)
from featcache.studies.emergence.synthetic.encoders import EmergenceTables
from featcache.studies.emergence.synthetic.written import is_emergence, read_emergence
from tests.emergence_tables import study, write


@pytest.fixture(scope="module")
def tables() -> EmergenceTables:
    return study(Path(), seeds=(2, 22, 42), depths=(1, 2, 4), maps=(1, 3))


def test_the_best_pair_of_each_model_is_that_of_a_loop_over_its_pairs(tables: EmergenceTables) -> None:
    best = best_of_models(tables)
    assert len(best) == 9 * 2 * 3 * 3 * 4
    for row in best.sample(25, seed=0).iter_rows(named=True):
        keys = {name: row[name] for name in ("uniqueness", "phi_depth", "depth", "seed")}
        pairs = tables.alignment.filter(**keys)
        own = {pair["layer1"]: pair["value"] for pair in pairs.filter(metric=row["metric"]).iter_rows(named=True)}
        exact = {pair["layer1"]: pair["value"] for pair in pairs.filter(metric="cka_population").iter_rows(named=True)}
        chosen = max(own, key=lambda layer: own[layer])
        assert (row["value"], row["layer1"], row["pairs"]) == (own[chosen], chosen, row["depth"])
        assert (row["population"], row["population_maximum"]) == (exact[chosen], max(exact.values()))
        model = tables.models.filter(modality=1, **keys).row(0, named=True)
        assert (row["accuracy"], row["test_accuracy"]) == (model["accuracy"], model["test_accuracy"])


def test_maxima_are_over_layers_depths_and_seeds_and_beside_them_the_exact_ones(tables: EmergenceTables) -> None:
    best = best_of_models(tables)
    found = maxima(best, information(tables))
    assert len(found) == 4 * 9 * 2 and set(found["models"]) == {9} and set(found["seeds"]) == {3}
    row = found.filter(metric="cka_clipped", uniqueness=3, phi_depth=3).row(0, named=True)
    cell = tables.alignment.filter(uniqueness=3, phi_depth=3)
    assert row["value"] == cell.filter(metric="cka_clipped")["value"].max()
    assert row["population_maximum"] == cell.filter(metric="cka_population")["value"].max()
    at = cell.filter(
        metric="cka_population", depth=row["at_depth"], layer1=row["at_layer"], seed=row["at_seed"]
    )  # fmt: skip
    assert row["population"] == at["value"].item()
    exact = [row[name] for name in ("posterior_cka", "broja_redundancy", "broja_unique", "common_synergy")]
    assert exact == pytest.approx([0.387, 0.591, 0.419, 0.051])


def test_heat_maps_show_means_over_seeds_of_each_depth(tables: EmergenceTables) -> None:
    best = best_of_models(tables)
    row = by_depth(best).filter(metric="mutual_knn", uniqueness=2, phi_depth=1, depth=4).row(0, named=True)
    own = best.filter(metric="mutual_knn", uniqueness=2, phi_depth=1, depth=4)
    assert row["value"] == pytest.approx(own["value"].mean()) and row["maximum"] == own["value"].max()
    assert row["accuracy"] == pytest.approx(own["accuracy"].mean()) and row["seeds"] == 3


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_the_expected_maximum_is_the_mean_over_every_choice(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    oracle = float(np.mean([max(choice) for choice in combinations(values, count)]))
    assert expected_maximum([float(value) for value in values], count) == pytest.approx(oracle)
    distinct = [value + place / 100 for place, value in enumerate(values)]
    goes_with = [float(place) for place in range(len(values))]
    chosen = [max(choice, key=lambda place: distinct[place]) for choice in combinations(range(len(values)), count)]
    assert expected_maximum(distinct, count, of=goes_with) == pytest.approx(np.mean(chosen))


def test_more_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(BadChoice, match="count = 3: wanted 1 to 2"):
        expected_maximum([1.0, 2.0], 3)


def test_bias_is_counted_in_seeds_where_there_are_several_and_in_models_of_one(tables: EmergenceTables) -> None:
    best = best_of_models(tables)
    seeds = maximum_bias(best).filter(metric="cka_clipped", uniqueness=5, phi_depth=1)
    assert seeds["unit"].to_list() == ["seeds"] * 3 and seeds["count"].to_list() == [1, 2, 3]
    cell = best.filter(metric="cka_clipped", uniqueness=5, phi_depth=1)
    largest = {seed: own["value"].max() for (seed,), own in cell.group_by("seed")}
    assert seeds["estimate"][1] == pytest.approx(np.mean([max(pair) for pair in combinations(largest.values(), 2)]))
    assert seeds["estimate"][2] == cell["value"].max()
    assert seeds["selected"][2] == cell.sort("value")["population"][-1]
    assert seeds["population"][2] == cell["population_maximum"].max()
    one = maximum_bias(best.filter(seed=2)).filter(metric="cka_clipped", uniqueness=5, phi_depth=1)
    assert one["unit"].to_list() == ["models"] * 3
    assert one["estimate"][0] == pytest.approx(cell.filter(seed=2)["value"].mean())


def test_the_maximum_of_noisy_estimates_outgrows_that_of_exact_values(tables: EmergenceTables) -> None:
    found = maximum_bias(best_of_models(tables)).filter(metric="cka_debiased")
    excess = [float((own["estimate"] - own["population"]).mean()) for _, own in sorted(found.group_by("count"))]  # pyright: ignore[reportArgumentType]
    assert excess[0] > 0 and excess == sorted(excess)
    assert (found["selected"] <= found["population"] + 1e-12).all()


def test_clipped_pairs_and_agreement_are_counted_by_u(tables: EmergenceTables) -> None:
    found = metric_agreement(tables, best_of_models(tables))
    below = tables.alignment.filter(metric="cka_debiased", uniqueness=8)["value"]
    row = found.filter(metric="cka_clipped", uniqueness=8).row(0, named=True)
    assert row["clipped"] == pytest.approx((below < 0).mean()) and row["clipped"] > 0.2
    assert found.filter(metric="cka_population", uniqueness=2)["rank_correlation"].item() == pytest.approx(1.0)
    assert set(found["missing"]) == {0.0} and set(found["models"]) == {18}


def test_a_pair_or_a_model_without_a_value_counts_for_nothing(tables: EmergenceTables) -> None:
    at = (pl.col("uniqueness") == 0) & (pl.col("phi_depth") == 1) & (pl.col("seed") == 2)
    gone = at & (pl.col("metric") == "mutual_knn") & ((pl.col("depth") == 1) | (pl.col("layer1") == 4))
    rows = tables.alignment.with_columns(value=pl.when(gone).then(None).otherwise("value"))
    damaged = EmergenceTables(Path(), tables.models, rows, tables.oracles)
    best = best_of_models(damaged)
    assert len(best) == len(best_of_models(tables)) - 1
    deep = best.filter(metric="mutual_knn", uniqueness=0, phi_depth=1, seed=2, depth=4)
    assert deep["pairs"].item() == 3 and deep["layer1"].item() < 4
    missing = metric_agreement(damaged, best).filter(metric="mutual_knn", uniqueness=0)["missing"].item()
    assert missing == pytest.approx(2 / (3 * 2 * (1 + 2 + 4)))


def test_settings_are_never_mixed(tables: EmergenceTables) -> None:
    wide = [frame.with_columns(width=pl.lit(24, frame.schema["width"])) for frame in (tables.models, tables.alignment)]
    both = EmergenceTables(
        Path(), pl.concat([tables.models, wide[0]]), pl.concat([tables.alignment, wide[1]]), tables.oracles
    )
    found = maxima(best_of_models(both), information(both))
    assert len(found) == 2 * 4 * 9 * 2 and set(found["models"]) == {9}
    assert set(maximum_bias(best_of_models(both))["count"]) == {1, 2, 3}


def test_the_tables_are_read_back_and_a_missing_one_or_column_is_named(tmp_path: Path, tables: EmergenceTables) -> None:
    folder = write(EmergenceTables(tmp_path / "quick", tables.models, tables.alignment, tables.oracles))
    assert is_emergence(folder) and not is_emergence(tmp_path)
    assert read_emergence(folder).alignment.equals(tables.alignment)
    tables.oracles.drop("broja_synergy").write_parquet(folder / "oracles.parquet")
    with pytest.raises(UsageError, match=r"column broja_synergy is missing, wanted float\n  Write it again"):
        read_emergence(folder)
    tables.models.with_columns(pl.col("seed").cast(pl.String)).write_parquet(folder / "models.parquet")
    with pytest.raises(UsageError, match="column seed is String, wanted int"):
        read_emergence(folder)
    (folder / "models.parquet").unlink()
    with pytest.raises(UsageError, match=r"no table at .*models.parquet\n  Write it: featcache emergence synthetic"):
        read_emergence(folder)
