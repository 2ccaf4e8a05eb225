"""Figures of a study: every point of a plot is drawn where its table has it, and files are whole."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.commands import app as program
from featcache.report.figures.study_figures import ledger_figure, plot_figure
from featcache.studies.experiments.processes import Resources
from featcache.studies.experiments.spec import Plot, load_experiment
from featcache.studies.experiments.sweep import Sweep, run_sweep
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
    figure = plot_figure(Plot(name=name, x=x), sweep.tables.points.filter(plot=name), sweep)
    assert figure is not None
    return {row["panel"]: [one for one in figure.rows if one["panel"] == row["panel"]] for row in figure.rows}


def test_what_is_varied_and_on_no_axis_makes_panels_of_its_own(sweep: Sweep) -> None:
    by_width = panels(sweep, "alignment by width", "width")
    assert set(by_width) == {"mutual_knn", "cka_debiased"}
    assert [(row["x"], row["series"]) for row in by_width["mutual_knn"]] == [
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
         "interval": "", "low": None, "high": None, "runs": 1}
        for x, one in zip(numbers, rest, strict=True)
    ]  # fmt: skip
    figure = plot_figure(Plot(name="p", x="trained_on"), pl.DataFrame(plot), sweep)
    assert figure is not None and [row["panel"] for row in figure.rows] == ["a", "a", "b", "b"]


def test_without_points_there_is_no_figure(sweep: Sweep) -> None:
    assert plot_figure(Plot(name="nothing", x="seed"), sweep.tables.points.filter(plot="nothing"), sweep) is None


def test_the_forest_shows_effects_with_their_verdicts_and_leaves_trends_to_the_table(tmp_path: Path) -> None:
    held = Entry("h1", "plan", "Text", "a", "quick", "openmoji", "images/big/last", effect=0.1, low=0.05, high=0.15,
                 verdict="held", estimator="contrast", metric="mutual_knn")  # fmt: skip
    slope = Entry("slope", "plan", "Text", "a", "quick", "openmoji", "images/big/last", effect=3.0, estimator="trend")
    none = Entry("none", "plan", "Text", "a", "quick")
    figure = ledger_figure([held, slope, none], "draft plan")
    assert (
        figure is not None
        and figure.name == "claims-draft-plan"
        and [row["label"] for row in figure.rows] == ["h1 · openmoji · big"]
    )
    names = figure.write(tmp_path, formats=("png",))
    table = pl.read_csv(tmp_path / names[-1])
    assert table["verdict"].to_list() == ["held"] and table["value"].to_list() == [0.1]
    assert ledger_figure([slope, none], "draft plan") is None
