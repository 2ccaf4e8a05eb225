"""What a report accepts: each kind of input is known by what it holds, and everything else is refused by name."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from featcache.commands.inputs import figures_of_inputs
from featcache.errors import BeyondLimit, UsageError
from featcache.report.figures.table_figures import table_figures
from featcache.report.inputs import KINDS, Inputs, InputTable, kind_of, read_inputs
from featcache.studies.experiments.spec import Experiment, Plot, Source
from featcache.studies.experiments.tables import Tables, points, write_tables
from featcache.studies.ledger.ledger import Entry, ledger_table, write_ledger
from featcache.studies.quality import quality_against_cost
from featcache.trainer.errors import RunMissing
from tests.test_report_runs import write_run

PAIR = {"dataset": "d", "x_view": "images", "x_encoder": "a", "x_layer": "last.mean", "y_view": "captions",
        "y_encoder": "b", "y_layer": "last.mean"}  # fmt: skip
PLOT = Plot(name="by reference", x="reference", where={"stage": "trained"})
HOSTILE = '<script>alert("x")</script></style>\u202e' + "x" * 10_000


def sweep_rows(*, encoders: tuple[str, ...] = ("small", "large"), seeds: int = 2) -> pl.DataFrame:
    """Rows of the joint space against several references, one more each seed."""
    from featcache.metrics.measure.row import Row, frame

    parts = []
    for place, encoder in enumerate(encoders):
        for seed in range(seeds):
            row = Row("joint", "reference", "mutual_knn", 0.2 + 0.1 * place + 0.01 * seed, n=100, k=10, chance=0.1)
            context = {
                "experiment": "e", "profile": "quick", "run": f"r{seed}", "dataset": "d", "sides": "a + b",
                "layers": json.dumps({"images": "a/last.mean", "captions": "b/last.mean"}),
                "reference": f"images/{encoder}/last.mean",
                "panel": bool(place), "adapter": "linear", "seed": seed, "control": "", "trained_on": 80,
                "selected_epoch": 3, "transfer": "",
            }  # fmt: skip
            own = frame([replace(row, stage="trained", split="test", epoch=3)], Row)
            parts.append(own.select(*(pl.lit(value).alias(name) for name, value in context.items()), pl.all()))
    return pl.concat(parts).with_columns(pl.col("seed", "trained_on", "selected_epoch").cast(pl.Int64))


def write_sweep(folder: Path, rows: pl.DataFrame | None = None, question: str = "Why?") -> Path:
    from featcache.metrics.measure.row import ContrastRow, schema

    folder.mkdir(parents=True)
    rows = sweep_rows() if rows is None else rows
    experiment = Experiment(question=question, base={"dataset": "d", "sides": ["a", "b"]}, plots=[PLOT])
    table = points(Source("e", "e.toml", "quick", experiment), rows)
    kinds = {**dict.fromkeys(("experiment", "profile", "run", "dataset"), pl.String), **schema(ContrastRow)}
    settings = experiment.model_dump(mode="json", exclude={"profiles", "question"})
    summary = {"experiment": "e", "question": question, "profile": "quick", "settings": settings, "failures": {}}
    write_tables(folder, Tables(rows, pl.DataFrame(schema=kinds), table), summary)
    return folder


def table_of(kind: str, *rows: dict[str, object]) -> pl.DataFrame:
    wanted = {name: getattr(pl, of) for name, of in KINDS[kind].columns.items()}
    filled = [{**dict.fromkeys(wanted), **KINDS[kind].only, **row} for row in rows]
    return pl.DataFrame(filled, schema=wanted)


def cost(encoder: str, parameters: int, view: str = "images") -> dict[str, object]:
    return {"dataset": "d", "view": view, "encoder": encoder, "device": "cpu", "width": 8, "parameters": parameters,
            "flops": 2.0 * parameters, "prepare_ms": 1.0, "forward_ms": parameters / 1e6}  # fmt: skip


def curve(size: int, k: int, value: float, repeat: int = 0) -> dict[str, object]:
    return {**PAIR, "metric": "mutual_knn", "size": size, "k": k, "repeat": repeat, "value": value,
            "chance": k / (size - 1), "short_rows": 0, "queries": size}  # fmt: skip


def competent(encoder: str, performance: float, value: float) -> dict[str, object]:
    return {"dataset": "d", "encoder": f"images/{encoder}/last.mean", "metric": "mutual_knn", "value": value, "n": 50,
            "k": 10, "performance": performance, "performance_of": "probe_accuracy of kind"}  # fmt: skip


CURVE = table_of("curve", curve(50, 10, 0.5), curve(50, 10, 0.6, 1), curve(100, 10, 0.4), curve(100, 5, 0.3))


def test_every_kind_of_input_is_known_by_what_it_holds(tmp_path: Path) -> None:
    write_sweep(tmp_path / "study" / "e" / "quick")
    write_ledger([Entry("h1", "plan", "Text", "e", "quick", effect=0.1, estimator="contrast")], tmp_path / "ledger")
    CURVE.write_parquet(tmp_path / "curve.parquet")
    table_of("cost", cost("small", 10)).write_parquet(tmp_path / "cost.parquet")
    run = write_run(tmp_path / "run")
    paths = [run, tmp_path / "study" / "e" / "quick", tmp_path / "ledger" / "ledger.parquet"]
    inputs = read_inputs([*paths, tmp_path / "curve.parquet", tmp_path / "cost.parquet"])
    assert [one.path for one in inputs.runs] == [run]
    assert [(one.name, one.question) for one in inputs.sweeps] == [("e", "Why?")]
    assert [entry.claim for one in inputs.ledgers for entry in one.entries] == ["h1"]
    assert [table.kind for table in inputs.tables] == ["curve", "cost"]


def test_each_kind_is_told_from_every_other_by_its_columns() -> None:
    for name, kind in KINDS.items():
        table = table_of(name, {**kind.only})
        assert kind_of(table) == name
        assert kind_of(table.drop(next(iter(kind.columns)))) != name
    assert kind_of(ledger_table([])) == "ledger"


def test_a_table_of_a_sweep_stands_for_its_folder_and_is_read_once(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "quick")
    inputs = read_inputs([folder / "points.parquet", folder, folder / "rows.parquet"])
    assert [one.folder for one in inputs.sweeps] == [folder]
    shutil.move(folder / "points.parquet", tmp_path / "points.parquet")
    with pytest.raises(UsageError, match=r"no sweep.json lies beside it\n  Name the sweep's folder"):
        read_inputs([tmp_path / "points.parquet"])


def test_a_study_stands_for_its_sweeps_ledgers_and_tables_and_not_for_its_runs(tmp_path: Path) -> None:
    study = tmp_path / "study"
    for name in ("width", "adapters"):
        write_sweep(study / name / "quick")
    (study / "competence" / "quick").mkdir(parents=True)
    table_of("competence", competent("a", 0.5, 0.2)).write_parquet(study / "competence" / "quick" / "rows.parquet")
    write_ledger([Entry("h1", "plan", "Text", "e", "quick")], study / "ledger" / "quick")
    write_run(study / "runs" / "d" / "a")
    inputs = read_inputs([study])
    assert [one.folder.parent.name for one in inputs.sweeps] == ["adapters", "width"]
    assert len(inputs.ledgers) == 1 and [table.kind for table in inputs.tables] == ["competence"] and not inputs.runs


def test_what_is_no_input_is_refused_by_name(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1nonsensePAR1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.html").write_text("<p>")
    for path, error, words in (
        (
            "other.parquet",
            UsageError,
            r"no known kind; its columns: a\n.*run folders.*featcache ledger.*featcache curve",
        ),
        ("damaged.parquet", UsageError, "cannot be read as a table"),
        ("page.html", UsageError, "cannot be read as a table"),
        ("gone.parquet", UsageError, "no table at"),
        ("gone", RunMissing, "no run at"),
        ("empty", RunMissing, "no run at"),
    ):
        with pytest.raises(error, match=words):
            read_inputs([tmp_path / path])
    with pytest.raises(RunMissing, match="at least one"):
        read_inputs([])


@pytest.mark.parametrize("damage", ["column", "type", "rest", "json", "form"])
def test_a_damaged_sweep_is_an_error_that_names_the_file(tmp_path: Path, damage: str) -> None:
    folder = write_sweep(tmp_path / "quick")
    table = pl.read_parquet(folder / "points.parquet")
    changes = {
        "column": lambda: table.drop("y").write_parquet(folder / "points.parquet"),
        "type": lambda: table.with_columns(y=pl.lit("a")).write_parquet(folder / "points.parquet"),
        "rest": lambda: table.with_columns(rest=pl.lit("[1]")).write_parquet(folder / "points.parquet"),
        "json": lambda: (folder / "sweep.json").write_text("{"),
        "form": lambda: (folder / "sweep.json").write_text('{"experiment": 3}'),
    }
    changes[damage]()
    name = "sweep.json" if damage in ("json", "form") else "points.parquet"
    with pytest.raises(UsageError, match=rf"{name}.*(\n|.)*featcache sweep"):
        read_inputs([folder])


def test_a_table_that_unpacks_to_more_than_the_limit_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CURVE.write_parquet(tmp_path / "curve.parquet")
    size = (tmp_path / "curve.parquet").stat().st_size
    bomb = pl.concat([CURVE] * 2_000)
    bomb.write_parquet(tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 40 * size
    monkeypatch.setenv("FEATCACHE_MAX_TABLE_BYTES", str(40 * size))
    read_inputs([tmp_path / "curve.parquet"])
    with pytest.raises(BeyondLimit, match=r"bomb.parquet"):
        read_inputs([tmp_path / "bomb.parquet"])


# -- figures of tables ----------------------------------------------------------------------------------------------


def test_curves_show_means_over_draws_against_size_and_against_k() -> None:
    gallery, ks = table_figures([InputTable("curve", Path("c"), CURVE)])
    assert [(row["x"], row["value"], row["ci_low"]) for row in gallery.rows] == [
        (50, pytest.approx(0.55), 0.5),
        (100, 0.4, None),
    ]
    assert [(row["x"], row["value"]) for row in ks.rows] == [(5, 0.3), (10, 0.4)]
    assert gallery.rows[0]["chance"] == pytest.approx(10 / 49)
    one_size = CURVE.filter(pl.col("size") == 100)
    assert [figure.name for figure in table_figures([InputTable("curve", Path("c"), one_size)])] == ["k_curve"]


def test_a_grid_read_back_frames_the_best_pair_of_layers() -> None:
    rows = [{**PAIR, "x_layer": f"{x}", "y_layer": f"{y}", "metric": "mutual_knn", "value": 0.1 * x + 0.2 * y,
             "best": False, "higher_is_better": True, "n": 40, "k": 5, "pairing": "mean"}
            for x in range(2) for y in range(2)]  # fmt: skip
    (figure,) = table_figures([InputTable("grid", Path("g"), table_of("grid", *rows))])
    assert [(row["x"], row["y"]) for row in figure.rows if row["best"]] == [("1", "1")]


def test_ceilings_show_means_over_folds_and_mixtures_their_weights() -> None:
    fold = {
        "dataset": "d",
        "x_encoder": "a",
        "y_encoder": "b",
        "reference_encoder": "r",
        "metric": "mutual_knn",
        "n": 9,
    }
    rows = [{**fold, "kind": "ridge", "source": source, "fold": number, "value": value + number / 10}
            for source, value in (("raw x", 0.1), ("both", 0.3)) for number in range(2)]  # fmt: skip
    rows += [{**fold, "kind": "mixing", "weight": weight, "value": weight} for weight in (1.0, 0.0)]
    ceiling, mixing = table_figures([InputTable("ceiling", Path("c"), table_of("ceiling", *rows))])
    found = {row["label"]: (row["value"], row["ci_low"], row["ci_high"]) for row in ceiling.rows}
    assert found["linear map of both"] == (pytest.approx(0.35), 0.3, 0.4) and list(found)[-1] == "x, raw"
    assert [row["x"] for row in mixing.rows] == [0.0, 1.0]


def test_costs_are_joined_with_references_sides_and_probes_and_what_has_none_is_named() -> None:
    costs = table_of("cost", cost("small", 10), cost("large", 90), cost("b", 5, "captions"))
    rows = sweep_rows(encoders=("small", "large", "unknown"))
    competences = table_of("competence", competent("small", 0.5, 0.2), competent("large", 0.7, 0.3))
    quality = quality_against_cost([rows], [competences], [costs])
    found = {(point.of, point.label): (point.value, point.parameters, point.flops) for point in quality.points}
    assert found == {
        ("reference", "images/small/last.mean"): (pytest.approx(0.205), 10, 20.0),
        ("reference", "images/large/last.mean"): (pytest.approx(0.305), 90, 180.0),
        ("encoder", "images/small/last.mean"): (0.5, 10, 20.0),
        ("encoder", "images/large/last.mean"): (0.7, 90, 180.0),
    }
    assert "d images/unknown/last.mean" in quality.left_out
    assert quality_against_cost([rows], [], []).points == []


def test_one_dot_says_nothing_of_cost() -> None:
    costs = table_of("cost", cost("small", 10))
    assert quality_against_cost([sweep_rows()], [], [costs]).points == []


def test_everything_that_is_read_is_drawn_under_names_that_differ(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a" / "quick")
    write_sweep(tmp_path / "b" / "quick")
    CURVE.write_parquet(tmp_path / "one.parquet")
    CURVE.write_parquet(tmp_path / "two.parquet")
    table_of("cost", cost("small", 10), cost("large", 90)).write_parquet(tmp_path / "cost.parquet")
    able = [competent(name, 0.5 + place / 10, 0.2 + place / 10) for place, name in enumerate(("small", "large", "c"))]
    table_of("competence", *able).write_parquet(tmp_path / "rows.parquet")
    names = ("a", "b", "one.parquet", "two.parquet", "cost.parquet", "rows.parquet")
    shown = figures_of_inputs(read_inputs([tmp_path / name for name in names]))
    drawn = [figure.name for figures in shown.values() for figure in figures]
    assert len(set(drawn)) == len(drawn) == 2 + 1 + 2 + 4
    assert any("ρ = +1.00" in figure.caption for figure in shown["Competence"])


def test_hostile_names_stay_text_in_every_figure(tmp_path: Path) -> None:
    rows = sweep_rows().with_columns(reference=pl.lit(HOSTILE) + pl.col("reference"), dataset=pl.lit(HOSTILE))
    sweep = read_inputs([write_sweep(tmp_path / "quick", rows, HOSTILE)]).sweeps
    table = CURVE.with_columns(dataset=pl.lit(HOSTILE), x_encoder=pl.lit(HOSTILE), x_layer=pl.lit(HOSTILE))
    entries = [Entry(HOSTILE, HOSTILE, HOSTILE, "e", "quick", HOSTILE, f"images/{HOSTILE}/last.mean", effect=0.1,
                     estimator="contrast", verdict=HOSTILE)]  # fmt: skip
    write_ledger(entries, tmp_path)
    ledgers = read_inputs([tmp_path / "ledger.parquet"]).ledgers
    shown = figures_of_inputs(Inputs([], sweep, ledgers, [InputTable("curve", Path("c"), table)]))
    figures = [figure for own in shown.values() for figure in own]
    assert len(figures) == 4
    for figure in figures:
        assert "<script" not in figure.svg and "\u202e" not in figure.svg
        assert len(figure.name) < 100 and "/" not in figure.name


def test_figures_of_tables_never_take_the_name_of_a_runs_figure_or_of_a_place_on_the_page(tmp_path: Path) -> None:
    from featcache.report.page.write import write_report

    CURVE.write_parquet(tmp_path / "curve.parquet")
    named = read_inputs([write_run(tmp_path / "run", points=12, epochs=2), tmp_path / "curve.parquet"])
    studies = figures_of_inputs(named)
    assert studies and all(figure.name.startswith("study-") for figures in studies.values() for figure in figures)
    page = write_report(named.runs, tmp_path / "out", formats=(), studies=studies).read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and any(one.startswith("study-") for one in ids)


def test_costs_with_nothing_beside_them_are_refused_with_what_to_name(tmp_path: Path) -> None:
    from featcache.commands.inputs import check_drawn

    with pytest.raises(UsageError, match=r"nothing to draw of cost\.parquet.*\n  Name that sweep"):
        check_drawn(Inputs([], [], [], [InputTable("cost", Path("cost.parquet"), pl.DataFrame())]), {})
