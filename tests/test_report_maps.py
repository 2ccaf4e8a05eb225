"""Are the figures of stages, spaces, single groups and mixtures drawn from what runs stored, and only where it is?"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featcache.report.figures.curves import mixing_curve
from featcache.report.figures.figure import Figure
from featcache.report.figures.label_places import Label, place_labels
from featcache.report.figures.maps import chosen_kernels, label_colours
from featcache.report.figures.stages import chosen_stages, space_plane, stage_maps
from featcache.report.runs import RunResults, load_runs
from featcache.report.seeds import pool_seeds
from featcache.trainer.run_files import PICTURES, write_manifest
from tests.test_report_hostile import HOSTILE, Elements
from tests.test_report_runs import FORMAT_1, write_run

Draw = Callable[[Sequence[RunResults]], Figure | None]
FIGURES: tuple[Draw, ...] = (stage_maps, space_plane, chosen_kernels, mixing_curve)
STORED: tuple[Draw, ...] = FIGURES[:3]


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None and figure.svg.startswith("<svg") and figure.caption and figure.alt
    return figure


def test_every_drawing_is_valid_vega_lite(run: RunResults) -> None:
    import altair as alt

    for draw in FIGURES:
        alt.Chart.from_dict({**drawn(draw([run])).spec, "datasets": {}}, validate=True)


def changed(folder: Path, name: str, table: pl.DataFrame) -> Path:
    """The run with another table in place of its own."""
    table.write_parquet(folder / f"{name}.parquet")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return load_runs([write_run(tmp_path_factory.mktemp("runs") / "run")])[0]


# -- tables that are read when they are asked for ---------------------------------------------------------------------


def test_a_table_is_read_once_and_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run")
    (run,) = load_runs([folder])
    rows = run.drawn("stages")
    assert rows == pl.read_parquet(folder / "stages.parquet").to_dicts()
    monkeypatch.setattr("featcache.trainer.run.load_run", None)
    assert run.drawn("stages") is rows


def test_a_run_from_before_has_no_such_rows_and_no_such_figures(tmp_path: Path) -> None:
    for runs in (load_runs([write_run(tmp_path / "run", pictures=False)]), load_runs([FORMAT_1])):
        assert [runs[0].drawn(name) for name in PICTURES] == [[]] * len(PICTURES)
        assert [draw(runs) for draw in STORED] == [None] * 3


def test_of_several_seeds_the_first_is_drawn_and_of_several_runs_the_headline(tmp_path: Path) -> None:
    seeds = load_runs([write_run(tmp_path / f"s{seed}", seed=seed, points=10 + seed) for seed in range(2)])
    (pooled,) = pool_seeds(seeds)
    assert pooled.drawn("spaces") == seeds[0].drawn("spaces") and pooled.drawn_epoch == seeds[0].selected_epoch
    best = write_run(tmp_path / "best", adapter="mlp", recall=0.9, points=20)
    runs = load_runs([write_run(tmp_path / "other"), best])
    for draw in FIGURES:
        assert {row["run"] for row in drawn(draw(runs)).rows} == {"mlp"}


# -- stages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 7, 150, 300])
def test_six_stages_are_shown_with_the_first_the_kept_and_the_last_among_them(kept: int) -> None:
    epochs = sorted({0, 1, 2, 5, 10, 20, 50, 100, 200, 300, kept})
    shown = chosen_stages(epochs, kept)
    assert len(shown) == 6 and shown == sorted(shown) and {0, kept, 300} <= {*shown} <= {*epochs}
    assert chosen_stages([0, 1], 1) == [0, 1]


def test_a_group_stands_in_every_panel_once_a_side_on_one_scale(run: RunResults) -> None:
    figure = drawn(stage_maps([run]))
    panels = figure.spec["concat"]
    titles = [panel["title"] for panel in panels]
    assert titles == ["untrained", "epoch 1", "epoch 2", "epoch 5", "epoch 10, kept", "epoch 12"]
    rows = [figure.spec["datasets"][panel["data"]["name"]] for panel in panels]
    assert [len(own) for own in rows] == [60 * 2] * 6
    points = [(row["px"], row["py"]) for own in rows for row in own]
    assert max(abs(place) for point in points for place in point) == 1.0
    table = np.array([(row["px"], row["py"]) for row in run.drawn("stages")])
    scale = np.ptp(points, axis=0) / np.ptp(table, axis=0)
    assert scale[0] == pytest.approx(scale[1], rel=1e-3)  # one for all panels, across and up
    assert np.allclose(np.array(points) - points[0], scale * (table - table[0]), atol=5e-4)


def test_sides_are_told_apart_by_shape_and_labels_by_colour(run: RunResults) -> None:
    panel = drawn(stage_maps([run])).spec["concat"][0]["encoding"]
    assert panel["shape"]["field"] == "space" and panel["shape"]["scale"]["domain"] == ["images", "captions"]
    assert len(set(panel["shape"]["scale"]["range"])) == 2
    colours = dict(zip(panel["color"]["scale"]["domain"], panel["color"]["scale"]["range"], strict=True))
    assert sorted(colours) == [f"kind {number}" for number in range(5)]
    assert colours == {label: colour for label, colour in label_colours([run]).items() if label != "other"}


def test_at_most_seven_labels_have_a_colour_and_without_labels_the_sides_have(tmp_path: Path) -> None:
    many = load_runs([write_run(tmp_path / "many", label_count=11)])
    assert [*drawn(stage_maps(many)).spec["concat"][0]["encoding"]["color"]["scale"]["domain"]][7:] == ["other"]
    folder = write_run(tmp_path / "none")
    none = pl.read_parquet(folder / "stages.parquet").with_columns(label=pl.lit(""))
    figure = drawn(stage_maps(load_runs([changed(folder, "stages", none)])))
    assert figure.spec["concat"][0]["encoding"]["color"]["scale"]["domain"] == ["images", "captions"]
    assert "coloured by side" in figure.caption


# -- the plane of spaces ----------------------------------------------------------------------------------------------


def test_distances_of_spaces_are_to_scale_across_and_up(run: RunResults) -> None:
    figure = drawn(space_plane([run]))
    (panel,) = figure.spec["concat"]
    scales = [layer["encoding"] for layer in panel["layer"] if "px" in str(layer["encoding"].get("x"))]
    for encoding in scales:
        (left, right), (bottom, top) = encoding["x"]["scale"]["domain"], encoding["y"]["scale"]["domain"]
        assert panel["width"] / (right - left) == pytest.approx(panel["height"] / (top - bottom))
        for row in figure.rows:
            assert left < row["px"] < right and bottom < row["py"] < top


def test_every_space_of_the_plane_is_named_and_every_path_joins_its_epochs(run: RunResults) -> None:
    figure = drawn(space_plane([run]))
    texts = set(re.findall(r"<text[^>]*>([^<]+)</text>", figure.svg))
    assert {"images raw", "captions raw", "dinov2-small", "images", "captions", "joint"} <= texts
    assert {row["series"] for row in figure.rows if row["epoch"] is None} == {"raw images", "raw captions", "reference"}
    epochs = [row["epoch"] for row in figure.rows if row["series"] == "joint"]
    assert epochs == sorted(epochs) and len(epochs) == 6
    marks = {row["epoch"]: row["_mark"] for row in figure.rows if row["series"] == "joint"}
    assert [epoch for epoch, mark in marks.items() if mark == "kept"] == [10]
    assert "Huh et al. 2024" in figure.caption and "stress 0.05" in figure.caption


def test_agreement_with_the_reference_stands_beside_each_space(run: RunResults) -> None:
    rows = drawn(space_plane([run])).rows
    known = {(row["b"], row["b_epoch"]): row["value"] for row in run.drawn("agreement") if row["a"] == "reference"} | {
        (row["a"], row["a_epoch"]): row["value"] for row in run.drawn("agreement") if row["b"] == "reference"
    }
    for row in rows:
        assert row["with_reference"] == (None if row["series"] == "reference" else known[row["series"], row["epoch"]])


def test_labels_neither_overlap_nor_leave_the_frame_nor_cover_a_mark() -> None:
    points = [(60.0 + 11 * i, 80.0 + 7 * (i % 3)) for i in range(12)]
    labels = [Label(x, y, f"epoch {number}") for number, (x, y) in enumerate(points)]
    places = place_labels(labels, marks=[(x, y, 4.0) for x, y in points], width=260, height=160)
    boxes = []
    for label, place in zip(labels, places, strict=True):
        if place is not None:
            long = 0.54 * label.size * len(label.text)
            left = {"left": place.x, "center": place.x - long / 2, "right": place.x - long}[place.align]
            boxes.append((left, place.y - label.size / 2, left + long, place.y + label.size / 2))
    assert 3 <= len(boxes) < 12
    marks = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and top >= 0 and right <= 260 and bottom <= 160
        for other in (*boxes[:number], *marks):
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_a_needed_label_always_has_a_place() -> None:
    crowded = [Label(5, 5, "a name that is longer than the frame", needed=True)] * 40
    assert None not in place_labels(crowded, marks=[(5, 5, 4)], width=40, height=20)
    optional = [Label(5, 5, "a name that is longer than the frame")]
    assert place_labels(optional, marks=[], width=40, height=20) == [None]


def test_a_closed_form_has_a_plane_of_its_untrained_rival_and_its_solution(run: RunResults) -> None:
    solved = {**run.config, "config": {**run.settings, "adapter": "cca"}}
    runs = [replace(run, config=solved)]
    assert "solution" in drawn(space_plane(runs)).caption and "epoch kept" not in drawn(space_plane(runs)).caption


def test_a_run_without_a_reference_has_a_plane_without_one(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path / "run", encoders=("resnet18", "gpt2", None))])
    figure = drawn(space_plane(runs))
    assert {row["with_reference"] for row in figure.rows} == {None} and "diamond" not in figure.caption
    assert mixing_curve(runs) is None
    drawn(chosen_kernels(runs))
    drawn(stage_maps(runs))


# -- kernels of single groups, mixtures -------------------------------------------------------------------------------


def test_every_cell_of_the_small_kernels_shows_its_value(run: RunResults) -> None:
    figure = drawn(chosen_kernels([run]))
    assert len(figure.spec["concat"]) == 4 and len(figure.rows) == 4 * 25
    texts = re.findall(r"<text[^>]*>(−?\d\.\d\d)</text>", figure.svg)
    assert sorted(texts) == sorted(f"{row['value']:.2f}".replace("-", "−") for row in figure.rows)
    assert figure.svg.count("kind 0, photo 0") >= 1


def test_the_curve_of_mixtures_is_that_of_validation_and_marks_what_test_was_measured_with(run: RunResults) -> None:
    figure = drawn(mixing_curve([run]))
    points = [row for row in figure.rows if row["weight"] is not None and row["metric"] == "mutual_knn"]
    assert [row["weight"] for row in points] == [round(step / 20, 2) for step in range(21)]
    known = {row.weights: row.value for row in run.find(stage="mixed", split="validation", metric="mutual_knn")}
    assert {row["weight"]: row["value"] for row in points} == {
        json.loads(weights)["images"]: value for weights, value in known.items()
    }
    assert [row["weight"] for row in points if row["_chosen"]] == [0.95]
    constants = {
        row["series"]: row["value"] for row in figure.rows if row["weight"] is None and row["metric"] == "mutual_knn"
    }
    assert [*constants] == ["images raw", "captions raw", "joint, trained"]
    of = {"stage": "trained", "space": "joint", "metric": "mutual_knn", "split": "validation", "epoch": 10}
    assert constants["joint, trained"] == run.find(**of)[0].value
    assert "images 0.95, captions 0.05" in figure.caption


def test_three_sides_have_no_curve_of_mixtures_and_every_other_figure(tmp_path: Path) -> None:
    sides = ("images", "captions", "names-de")
    runs = load_runs([write_run(tmp_path / "run", sides=sides, encoders=("vit", "gpt2", "bert", "dino"))])
    assert mixing_curve(runs) is None
    for draw in STORED:
        drawn(draw(runs))


# -- what anybody may have written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 4, 8])
def test_labels_ids_and_names_of_spaces_that_are_anybodys_are_drawn_as_text(tmp_path: Path, first: int) -> None:
    folder = write_run(tmp_path / "run", points=8, epochs=2)
    texts = [*HOSTILE.values()][first : first + 4]
    words = dict(zip((f"kind {number}" for number in range(4)), texts, strict=True))
    for name, columns in {"stages": ("id", "label"), "kernel_rows": ("row_id", "row_label", "space")}.items():
        table = pl.read_parquet(folder / f"{name}.parquet")
        shown = [(pl.lit(texts[0] * 5) + pl.col(column).replace(words)).alias(column) for column in columns]
        changed(folder, name, table.with_columns(shown))
    for draw in STORED:
        svg = Elements()
        svg.feed(drawn(draw(load_runs([folder]))).svg)
        assert not svg.scripts and not svg.handlers and not svg.loads


@pytest.mark.parametrize("change", ["empty", "repeat", "one", "shuffle"])
@pytest.mark.parametrize(
    ("name", "draw"),
    [("stages", stage_maps), ("spaces", space_plane), ("agreement", space_plane), ("kernel_rows", chosen_kernels)],
)
def test_tables_of_right_form_and_odd_content_are_drawn_or_left_out(
    tmp_path: Path, name: str, draw: Draw, change: str
) -> None:
    folder = write_run(tmp_path / "run", points=6, epochs=2)
    table = pl.read_parquet(folder / f"{name}.parquet")
    first = next(column for column, dtype in table.schema.items() if dtype == pl.String)
    odd = {
        "empty": table.clear(),
        "repeat": pl.concat([table, table.head(1)]),
        "one": table.with_columns(pl.lit("x").alias(first)),
        "shuffle": table.reverse(),
    }
    figure = draw(load_runs([changed(folder, name, odd[change])]))
    assert (figure is None) == (change == "empty" and name != "agreement")
    assert figure is None or figure.svg.startswith("<svg")


def test_the_name_of_a_curve_lies_on_no_dashed_line() -> None:
    from featcache.report.figures.map_charts import _free_place

    points = [{"weight": at / 20, "value": 0.3 + at / 60, "series": "raw kernels mixed"} for at in range(21)]
    for constant in (0.3, 0.45, 0.63):
        x, y = _free_place(points, [constant], 0.7)
        assert abs(y - constant) > 0.7 * 10 / 230 and 0 <= x <= 0.7
