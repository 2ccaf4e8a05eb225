"""Figures of a study: every point of a plot is drawn where its table has it, and files are whole."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.commands import app as program
from featcache.report.figures.claims import claims_figures, ledger_figures
from featcache.report.figures.study_figures import plot_figure, sweep_figures
from featcache.studies.experiments.processes import Resources
from featcache.studies.experiments.spec import Plot, load_experiment
from featcache.studies.experiments.sweep import Sweep, run_sweep
from featcache.studies.experiments.written import SweepTables, read_sweep, tables_of
from featcache.studies.ledger.ledger import Entry
from tests.spine import TINY_BASE, tiny_cache

EXPERIMENT = (
    """
question = "Why?"
"""
    + TINY_BASE
    + """[grid]
width = [4, 64]
adapter = ["linear", "mlp"]
seed = [0, 1]
[[plots]]
name = "alignment by width"
x = "width"
colour = "adapter"
facet = "metric"
where = { space = "joint", stage = "trained", split = "test", against = "reference" }
[[plots]]
name = "retrieval"
x = "adapter"
colour = "direction"
where = { stage = "trained", split = "test", metric = "R@10" }
[[plots]]
name = "nothing"
x = "seed"
where = { stage = "nosuch" }
"""
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("study")
    (folder / "widths.toml").write_text(EXPERIMENT)
    cache = tiny_cache(folder, captions=2)
    return run_sweep(load_experiment(folder / "widths.toml"), Resources(str(cache.root), folder / "study", 0))


def test_the_command_draws_every_plot_that_has_points(sweep: Sweep) -> None:
    out, home = sweep.folder.parents[1], sweep.folder.parents[2]
    words = ["sweep", str(home / "widths.toml"), "--cache", str(home / "cache"), "--out", str(out), "--processes", "0"]
    result = CliRunner().invoke(program.app, [*words, "--figures"])
    assert result.exit_code == 0 and "alignment-by-width.png, retrieval.png" in " ".join(result.stdout.split())
    for stem in ("alignment-by-width", "retrieval"):
        assert (sweep.folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert (sweep.folder / f"{stem}.svg").read_text().startswith("<svg")
        with (sweep.folder / f"{stem}.csv").open() as file:
            written = sorted(float(row["value"]) for row in csv.DictReader(file))
        points = sweep.tables.points.filter(plot=stem.replace("-", " "))
        assert written == pytest.approx(sorted(points["y"].to_list()))
    assert not list(sweep.folder.glob("nothing*"))


def panels(sweep: Sweep, name: str, x: str) -> dict[str, list[dict[str, object]]]:
    figure = plot_figure(Plot(name=name, x=x, facet="metric" if x == "width" else ""), tables_of(sweep))
    assert figure is not None
    return {row["panel"]: [one for one in figure.rows if one["panel"] == row["panel"]] for row in figure.rows}


def test_what_is_varied_and_on_no_axis_makes_panels_of_its_own(sweep: Sweep) -> None:
    by_width = panels(sweep, "alignment by width", "width")
    assert set(by_width) == {"mutual-kNN", "debiased CKA"}
    assert [(row["x"], row["series"]) for row in by_width["mutual-kNN"]] == [
        (4.0, "linear"), (4.0, "mlp"), (64.0, "linear"), (64.0, "mlp")
    ]  # fmt: skip
    assert set(panels(sweep, "retrieval", "adapter")) == {
        "width 4",
        "width 64",
    }  # none for the space


def test_what_follows_from_an_axis_or_another_panel_makes_no_panels(sweep: Sweep) -> None:
    rest = [{"dataset": d, "batch": b, "train_groups": n} for d, b in (("a", 64), ("b", 512)) for n in (64, "all")]
    numbers = [64.0, 831.0, 64.0, 6993.0]
    plot = [
        {"plot": "p", "x": str(x), "x_number": x, "y": 0.5, "rest": json.dumps(one), "colour": "", "facet": "",
         "interval": "", "low": None, "high": None, "chance": None, "runs": 1}
        for x, one in zip(numbers, rest, strict=True)
    ]  # fmt: skip
    figure = plot_figure(Plot(name="p", x="trained_on"), with_points(sweep, pl.DataFrame(plot)))
    assert figure is not None and [row["panel"] for row in figure.rows] == ["a", "a", "b", "b"]


def test_without_points_there_is_no_figure(sweep: Sweep) -> None:
    assert plot_figure(Plot(name="nothing", x="seed"), tables_of(sweep)) is None


def with_points(sweep: Sweep, points: pl.DataFrame) -> SweepTables:
    written = tables_of(sweep)
    return replace(written, tables=replace(written.tables, points=points))


def test_a_sweep_read_back_from_its_folder_draws_the_same_figures(sweep: Sweep) -> None:
    read, held = read_sweep(sweep.folder), tables_of(sweep)
    assert read.name == "widths" and read.question == "Why?" and read.plots == held.plots
    assert read.tables.points.equals(held.tables.points)
    assert [figure.spec for figure in sweep_figures(read)] == [figure.spec for figure in sweep_figures(held)]


def test_points_from_before_chance_was_kept_are_made_anew(sweep: Sweep, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(sweep.folder, older)
    pl.read_parquet(older / "points.parquet").drop("chance").write_parquet(older / "points.parquet")
    assert read_sweep(older).tables.points.equals(sweep.tables.points)


def test_panels_of_one_metric_share_a_scale_and_chance_is_drawn_where_it_is_known(sweep: Sweep) -> None:
    plot = Plot(name="retrieval", x="adapter", colour="direction")
    figure = plot_figure(plot, tables_of(sweep))
    assert figure is not None and len(figure.spec["concat"]) == 2
    scales = [
        layer["encoding"]["x"]["scale"]["domain"]
        for panel in figure.spec["concat"]
        for layer in panel["layer"]
        if layer["encoding"]["x"]["field"] == "ci_low"
    ]
    assert scales[0] == scales[1] and scales[0][0] < min(row["chance"] for row in figure.rows)
    rows = sweep.tables.rows.filter(stage="trained", split="test", metric="R@10")
    assert {row["chance"] for row in figure.rows} <= set(rows["chance"].to_list())


def test_series_that_are_numbers_are_called_by_what_they_are_numbers_of(sweep: Sweep) -> None:
    points = sweep.tables.points.filter(plot="alignment by width").with_columns(colour=pl.lit("0.5"))
    points = pl.concat([points, points.with_columns(colour=pl.lit("1.0"))])
    figure = plot_figure(Plot(name="alignment by width", x="width", colour="keep_geometry"), with_points(sweep, points))
    assert figure is not None and {row["series"] for row in figure.rows} == {"keep geometry 0.5", "keep geometry 1.0"}


def test_the_forest_shows_effects_with_their_verdicts_and_leaves_trends_to_the_table(tmp_path: Path) -> None:
    held = Entry("h1", "plan", "Text", "a", "quick", "openmoji", "images/big/last", effect=0.1, low=0.05, high=0.15,
                 verdict="held", estimator="contrast", metric="mutual_knn")  # fmt: skip
    slope = Entry("slope", "plan", "Text", "a", "quick", "openmoji", "images/big/last", effect=3.0, estimator="trend")
    none = Entry("none", "plan", "Text", "a", "quick")
    (figure,) = claims_figures([held, slope, none], "draft plan")
    assert figure.name == "claims-draft-plan"
    assert [(row["claim"], row["label"]) for row in figure.rows] == [("h1", "openmoji · big")]
    names = figure.write(tmp_path, formats=("png",))
    table = pl.read_csv(tmp_path / names[-1])
    assert table["verdict"].to_list() == ["held"] and table["value"].to_list() == [0.1]
    assert claims_figures([slope, none], "draft plan") == []


def test_seventy_claims_make_figures_of_one_scale_in_the_order_of_the_ledger() -> None:
    entries = [
        Entry(f"c{number:02}", "plan", "Text", "a", "quick", f"data {of}", effect=number / 70 - 0.3, low=-0.4, high=0.8,
              verdict="failed", estimator="difference")
        for number in range(35) for of in "ab"
    ]  # fmt: skip
    figures = ledger_figures(entries)
    assert [figure.name for figure in figures] == ["claims-plan", "claims-plan-2"]
    assert [len(figure.rows) for figure in figures] == [36, 34]  # both lines of a claim stay together
    assert [row["claim"] for figure in figures for row in figure.rows] == [entry.claim for entry in entries]
    domains = {
        tuple(layer["encoding"]["x"]["scale"]["domain"])
        for figure in figures
        for layer in figure.spec["concat"][0]["layer"]
        if "scale" in layer["encoding"].get("x", {})
    }
    assert len(domains) == 1
