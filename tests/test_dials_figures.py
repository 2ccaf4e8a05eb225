"""Figures of dials: which lines they have, and that they are drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.dials import graded, perturb, perturbed, swapped
from featcache.report.figures.dials import (
    BEST,
    alignment_by_dose,
    correlations_by_dose,
    dial_figures,
    performance_by_dose,
)
from tests.alignment_cache import layered_cache, store_layers
from tests.test_dials_data import graded_rows, write_graded

DOSES = (0.0, 0.5, 1.0)


def alignment(*, encoders: int = 2, layers: int = 2, draws: int = 1, metric: str = "mutual_knn") -> pl.DataFrame:
    """Image encoders of some layers against a text encoder of two layers, at three doses."""
    rows: list[dict[str, Any]] = []
    for dose in DOSES:
        for draw in range(draws if dose else 1):
            for encoder in range(encoders):
                for layer in range(layers):
                    for other in range(2):
                        value = 0.3 * (1 - dose) + 0.01 * layer + 0.02 * encoder + 0.005 * other + 0.001 * draw
                        last = layer == layers - 1
                        fixed = ("x" if last and not encoder else "") + ("y" if other else "")
                        rows.append(
                            {"dial": "swapped", "comparison": "image–text", "dataset": "tiny", "dose": dose,
                             "draw": draw, "dose_words": f"{dose:.0%} of texts", "metric": metric, "value": value,
                             "n": 100, "k": 10, "chance": 0.1, "ci_low": value - 0.02, "ci_high": value + 0.02,
                             "fixed": fixed,
                             "space": f"images/e{encoder}/{layer}.mean", "against": f"captions/lm/{other}.mean",
                             "x_view": "images", "x_encoder": f"e{encoder}", "x_layer": f"{layer}.mean",
                             "y_view": "captions", "y_encoder": "lm", "y_layer": f"{other}.mean",
                             "x_default": last, "y_default": bool(other)}
                        )  # fmt: skip
    return pl.DataFrame(rows)


def correlations(value: float | None = 0.5) -> pl.DataFrame:
    rows = [
        {"dial": "swapped", "comparison": "image–text", "dataset": "tiny", "dose": dose, "draw": 0, "side": "x",
         "view": "images", "against": "the default layer of the other view", "x": x, "y": y, "metric": "mutual_knn",
         "levels": levels, "method": method, "value": None if value is None else value - dose / 2,
         "low": low, "high": high, "models": 40, "clusters": 4}
        for dose in DOSES for x, y in (("depth", "alignment"), ("alignment", "probe_accuracy"))
        for method in ("pearson", "spearman")
        for levels, low, high in (("all layers together", -0.1, 0.9), ("within encoders", None, None))
    ]  # fmt: skip
    kinds = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema_overrides=kinds)


def performance(side: str = "y", *, falls: bool = True) -> pl.DataFrame:
    rows = [
        {"dial": "swapped", "dataset": "tiny", "side": side, "dose": dose, "draw": 0, "view": "names", "encoder": "lm",
         "layer": f"{layer}.mean", "value": 0.8 - (0.5 * dose if falls else 0) - 0.1 * layer, "ci_low": 0.1,
         "ci_high": 0.9, "chance": 0.25}
        for dose in DOSES for layer in range(2)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def bits(values: tuple[float, ...] = (1.0, 2.0, 3.0)) -> pl.DataFrame:
    each = zip(DOSES, values, strict=True)
    return pl.DataFrame(
        [{"encoder": "lm", "view": "captions", "dose": dose, "bits_per_byte": own} for dose, own in each]
    )


def test_alignment_has_a_line_for_each_encoders_default_layer_and_the_best_of_all_pairs() -> None:
    figure = alignment_by_dose(alignment())
    assert figure is not None
    series = {row["series"] for row in figure.rows}
    assert series == {"e0", "e1", BEST}
    first = next(row for row in figure.rows if row["series"] == "e1" and row["x"] == 0.5)
    assert (
        first["value"] == pytest.approx(0.15 + 0.01 + 0.02 + 0.005)
        and first["pair"] == "images/e1/1.mean and captions/lm/1.mean"
    )
    assert first["ci_low"] < first["value"] < first["ci_high"] and first["chance"] == 0.1
    assert [row["value"] for row in figure.rows if row["series"] == BEST] == pytest.approx([0.335, 0.185, 0.035])
    assert "mutual-kNN of e0: 0.315 at 0%, 0.015 at 100%." in figure.caption and "100 rows, k = 10" in figure.caption
    assert "the highest of 8 pairs of layers" in figure.caption
    assert figure.svg.startswith("<svg") and "share of wrong captions" in figure.svg


def test_means_over_draws_are_said_and_one_encoder_shows_the_other_sides() -> None:
    figure = alignment_by_dose(alignment(draws=3))
    assert figure is not None and "Means over 3 draws" in figure.caption
    value = next(row for row in figure.rows if row["series"] == "e0" and row["x"] == 0.5)
    assert value["draws"] == 3 and value["value"] == pytest.approx(0.15 + 0.015 + 0.001)
    one = alignment_by_dose(alignment(encoders=1))
    assert one is not None and {row["series"] for row in one.rows} == {"e0", BEST}
    swap = {name: name.replace("x_", "?_").replace("y_", "x_").replace("?_", "y_") for name in alignment().columns}
    fixed = pl.col("fixed").replace({"x": "y", "y": "x"})
    turned = alignment_by_dose(alignment().with_columns(fixed).rename(swap))
    assert turned is not None and {row["series"] for row in turned.rows} == {"e0", "e1", BEST}
    assert "Against lm/1.mean (captions)" in turned.caption


def test_a_metric_of_default_layers_alone_has_no_best_pair() -> None:
    some = alignment(metric="cka_debiased").filter(pl.col("fixed") != "")
    figure = alignment_by_dose(pl.concat([alignment(), some]))
    assert figure is not None
    assert {row["series"] for row in figure.rows if row["metric"] == "cka_debiased"} == {"e0", "e1"}


def test_correlations_have_a_panel_a_relation_and_an_interval_for_spearman() -> None:
    figure = correlations_by_dose(correlations())
    assert figure is not None
    assert {row["series"] for row in figure.rows} == {
        "Pearson, all", "Pearson, within encoders", "Spearman, all", "Spearman, within encoders"
    }  # fmt: skip
    drawn = {row["series"] for row in figure.rows if row["ci_low"] is not None}
    assert drawn == {"Spearman, all"} and len(figure.rows) == 2 * 4 * 3
    assert figure.caption.startswith("images: alignment and probe accuracy, Spearman, all: +0.50 at 0%, +0.00 at 100%.")
    assert "images: 40 layers of 4 encoders" in figure.caption and figure.svg.startswith("<svg")
    both = pl.concat(
        [correlations(), correlations(0.7).with_columns(draw=pl.lit(1, pl.Int64)).filter(pl.col("dose") > 0)]
    )
    several = correlations_by_dose(both)
    assert several is not None and "least to greatest of 2 draws" in several.caption
    half = next(row for row in several.rows if row["series"] == "Spearman, within encoders" and row["x"] == 0.5)
    assert (half["ci_low"], half["ci_high"], half["draws"]) == pytest.approx((0.25, 0.45, 2))
    assert all(row["ci_low"] is None for row in several.rows if row["x"] == 0)


def test_performance_is_drawn_where_it_changes_with_the_dose() -> None:
    figure = performance_by_dose(performance(), bits())
    assert figure is not None and {row["metric"] for row in figure.rows} == {"accuracy y", "bits"}
    assert {row["series"] for row in figure.rows if row["metric"] != "bits"} == {"lm/0.mean"}  # best at the first dose
    assert "probe accuracy, names: lm/0.mean 0.800 at the first dose, 0.300 at the last" in figure.caption
    assert figure.svg.startswith("<svg")
    assert performance_by_dose(performance(falls=False), bits((1.0, 1.0, 1.0))) is None
    assert performance_by_dose(None, None) is None


def test_a_dial_of_one_dose_or_without_coefficients_has_no_such_figure() -> None:
    one = alignment().filter(dose=0.0)
    assert alignment_by_dose(one) is None and correlations_by_dose(correlations(None)) is None
    assert [figure.name for figure in dial_figures(one, correlations(None))] == []
    names = [figure.name for figure in dial_figures(alignment(), correlations(), performance(), bits())]
    assert names == ["alignment-swapped-tiny-captions", "correlations-swapped-tiny-images", "performance-swapped-tiny"]


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    for command in (swapped, perturb, perturbed, graded):
        made.command()(command)
    return made


def run(app: typer.Typer, *words: object) -> str:
    """What a command prints, in one line; the test fails where the command does."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_the_command_swaps_measures_draws_and_says_where(app: typer.Typer, tmp_path: Path) -> None:
    cache = layered_cache(tmp_path)
    words = ("--image", "vit/last.cls", "--image", "big", "--text", "lm/last.mean", "--label", "kind", "--draws", 1)
    shown = run(app, "swapped", "openmoji", *words, "--cache", cache.root, "--out", tmp_path / "study")
    assert "captions is not probed" not in shown and "3 of 3 captions" in shown
    folder = tmp_path / "study/swapped/openmoji/captions"
    assert f"Tables and figures: {folder}" in shown.replace("\\ ", "")
    assert {path.name for path in folder.glob("*.p*")} >= {
        "alignment.parquet",
        "alignment-swapped-openmoji-captions.png",
    }


def test_the_commands_of_perturbations_say_what_there_is_to_do(app: typer.Typer, tmp_path: Path) -> None:
    from featcache.data.errors import DataInvalid
    from featcache.errors import UsageError

    cache = layered_cache(tmp_path)
    with pytest.raises(UsageError, match="Run: featcache emergence perturb openmoji ENCODER"):
        run(app, "perturbed", "openmoji", "--cache", cache.root)
    with pytest.raises(DataInvalid, match="wanted whole numbers with commas between"):
        run(app, "perturb", "openmoji", "minilm", "--percent", "5,x", "--cache", cache.root)


def test_the_command_of_graded_captions_reads_what_is_cached(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.data.graded_captions import open_wit_graded
    from featcache.studies.emergence.dials import graded_captions as study

    folder = write_graded(tmp_path, graded_rows(24))
    cache, dataset = Cache(tmp_path / "cache"), open_wit_graded(folder)
    rng = np.random.default_rng(0)
    for view in ("captions", "captions-grade50"):
        store_layers(cache, dataset, view, "lm", {"last.mean": rng.random((24, 6))})
    monkeypatch.setattr(study, "extract_graded", lambda *_, **__: [])
    words = ("--grades", "0,50", "--cache", cache.root, "--out", tmp_path / "study")
    shown = run(app, "graded", folder, "lm", "lm", *words)
    assert "text–text mutual-kNN: 1.000 at 0% rewritten" in shown and "50% .750" in shown
