"""The page of the study of emergence: a folder stands for its tables, the answer comes first, nothing is loaded."""

import html
import json
import re
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.commands.app import app
from featcache.errors import UsageError
from featcache.report.inputs import KINDS as KINDS_OF_INPUTS
from featcache.report.inputs import kind_of, read_inputs
from featcache.report.page.emergence import KINDS, emergence_study
from featcache.report.page.emergence_others import OTHER_KINDS
from featcache.report.page.study import figures_of
from featcache.report.page.write import write_report
from featcache.studies.emergence.questions.answers import TABLES, answer_emergence
from featcache.trainer.errors import RunMissing
from tests.emergence_tables import study, write
from tests.test_report_inputs import table_of
from tests.test_report_runs import write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = study(tmp_path_factory.mktemp("emergence") / "synthetic" / "quick", depths=(1, 3, 5, 6, 8, 10))
    write(tables)
    answer_emergence(tables, "quick")
    return tables.folder


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(out)])
    assert result.exit_code == 0 and result.output.startswith("Maximum alignment falls"), result.output
    return out / "index.html"


def test_a_folder_stands_for_its_tables_from_above_too(folder: Path) -> None:
    inputs = read_inputs([folder])
    assert {table.kind for table in inputs.tables} == set(KINDS) - set(OTHER_KINDS)
    assert len(inputs.tables) == len(TABLES) + 1
    assert not inputs.runs and not inputs.ledgers
    above = read_inputs([folder.parent.parent])
    assert [table.path for table in above.tables] == [table.path for table in inputs.tables]
    one = read_inputs([folder / "relations.parquet"])
    assert [table.kind for table in one.tables] == ["relations"]


def test_the_page_answers_first_and_has_every_chapter(page: Path) -> None:
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert "<title>When does alignment emerge, and does it predict performance?</title>" in text
    lead = re.search(r'<p class="lead" id="verdict">(.*?)</p>', text, re.DOTALL)
    assert lead and lead[1].startswith("Maximum alignment falls with U") and "Claims of the paper" in lead[1]
    assert text.index('id="emergence-rq1"') < text.index('<dl class="brief">') < text.index('id="emergence-1"')
    titles = re.findall(r'<h2 id="emergence-\d">(.*?)</h2>', text)
    assert titles == [
        "Claims",
        "When does alignment emerge?",
        "Which information moves it?",
        "Does alignment predict performance?",
        "Does only the difference of depths count?",
    ]
    assert [f'href="#emergence-{number}"' in text for number in range(1, 6)] == [True] * 5
    assert "Every claim, with what was published" in text and "read by eye" in text


def test_the_page_loads_nothing_and_no_two_elements_share_an_id(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    loads = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert all(load.startswith(("figures/", "data:image/png;base64,")) for load in loads)
    assert all((page.parent / load).is_file() for load in loads if load.startswith("figures/"))
    assert len(list((page.parent / "figures").glob("*.csv"))) == 11
    assert len(text) < 2_000_000


def test_profiles_and_settings_stand_beside_each_other(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "synthetic" / "quick-dial"
    other.mkdir(parents=True)
    for name in (*TABLES, "ledger"):
        table = pl.read_parquet(folder / f"{name}.parquet")
        column = "dataset" if name == "ledger" else "generator"
        table.with_columns(pl.lit("planted").alias(column)).write_parquet(other / f"{name}.parquet")
    found = emergence_study(read_inputs([folder, other]).tables)
    assert found is not None
    labels = {part.title for chapter in found.chapters for part in chapter.parts}
    assert labels == {"quick", "quick-dial"}
    names = [figure.name for figure in figures_of(found)]
    assert len(names) == len(set(names)) and "emergence-rq1-quick-dial" in names


def test_figures_of_a_dial_name_it_and_none_of_the_released_points(folder: Path, tmp_path: Path) -> None:
    for name in TABLES:
        table = pl.read_parquet(folder / f"{name}.parquet")
        table.with_columns(generator=pl.lit("planted_synergy")).write_parquet(tmp_path / f"{name}.parquet")
    found = emergence_study(read_inputs([tmp_path]).tables)
    assert found is not None and found.first is not None
    for figure in figures_of(found):
        read = json.dumps([figure.title, figure.caption, figure.alt, figure.spec, figure.rows], ensure_ascii=False)
        assert not re.search(r"\bU\b(?! ?\":|\")", read), figure.name
    assert "level of the dial 'synergy'" in json.dumps(found.first.spec)
    assert not any("released" in str(row["series"]) for row in found.first.rows)
    assert "dial 'synergy'" in found.answer[0] and not any("U =" in sentence for sentence in found.answer)


def test_some_tables_alone_make_a_page_of_what_they_say(folder: Path, tmp_path: Path) -> None:
    for name, titles in (
        ("depth_law", ["Does only the difference of depths count?"]),
        ("ledger", ["Claims"]),
        ("bias", ["When does alignment emerge?"]),
    ):
        found = emergence_study(read_inputs([folder / f"{name}.parquet"]).tables)
        assert found is not None and [chapter.title for chapter in found.chapters] == titles
        assert found.first is None and found.answer == []
    write_report([], tmp_path / "out", formats=(), study=found)
    assert emergence_study([]) is None


def test_beside_runs_the_chapters_stand_below_them(folder: Path, tmp_path: Path) -> None:
    own = [folder / f"{name}.parquet" for name in ("maxima", "relations", "bias")]
    inputs = read_inputs([write_run(tmp_path / "run", points=12, epochs=2), *own])
    written = write_report(inputs.runs, tmp_path / "out", formats=(), study=emergence_study(inputs.tables))
    text = written.read_text(encoding="utf-8")
    assert text.index('id="takeaways"') < text.index('id="emergence-2"') < text.index('id="tables"')
    assert text.count('id="verdict"') == 1 and "When does alignment emerge, and" not in text.split("</title>")[0]
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and 'id="emergence-rq1"' in text


def test_names_from_the_outside_are_escaped(folder: Path, tmp_path: Path) -> None:
    hostile = '<script>alert("x")</script>\u202e'
    for name in ("maxima", "relations", "ledger"):
        table = pl.read_parquet(folder / f"{name}.parquet")
        columns = ("dataset", "text", "published", "note", "claim", "source") if name == "ledger" else ("generator",)
        twice = pl.concat([table, table.with_columns(pl.lit(hostile).alias(column) for column in columns)])
        twice.write_parquet(tmp_path / f"{name}.parquet")
    found = emergence_study(read_inputs([tmp_path]).tables)
    text = write_report([], tmp_path / "out", formats=(), study=found).read_text(encoding="utf-8")
    assert text.count("<script") == 1 and "\u202e" not in text and "&lt;script&gt;" in text


def test_a_ledger_with_a_damaged_column_is_an_error_that_names_it(folder: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(folder / "ledger.parquet").drop("source")
    table.write_parquet(tmp_path / "ledger.parquet")
    with pytest.raises(UsageError, match="column source is missing"):
        emergence_study(read_inputs([tmp_path / "ledger.parquet"]).tables)


# -- the other parts of the study -------------------------------------------------------------------------------------


def effects() -> pl.DataFrame:
    rows = [
        {"generator": "released", "uniqueness": u, "phi_depth": 1, "steps": 1_000, "private": 0, "lambda": weight,
         "use": "joint", "side": "both", "labels": 0, "effect": 0.01 * u - 0.02 * weight, "low": None, "high": None,
         "p": None, "accuracy": 0.8, "baseline": 0.8, "seeds": 1}
        for u in (0, 8) for weight in (0.5, 2.0)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(("low", "high", "p"), pl.Float64))


def kept() -> pl.DataFrame:
    rows = [
        {"generator": "released", "uniqueness": u, "phi_depth": 1, "steps": 1_000, "lambda": weight, "private": 0,
         "seed": 0, "side": 0, "bit": bit, "kind": kind, "used": True, "probe": "linear",
         "accuracy": 0.6 + 0.1 * weight}
        for u in (0, 8) for weight in (0.0, 2.0) for bit, kind in ((0, "shared"), (9, "unique"))
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_contrast_has_a_chapter_beside_or_without_encoders_trained_apart(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "together" / "quick"
    other.mkdir(parents=True)
    effects().write_parquet(other / "effects.parquet")
    kept().write_parquet(other / "kept.parquet")
    alone = emergence_study(read_inputs([tmp_path]).tables)
    assert alone is not None and [chapter.identity for chapter in alone.chapters] == ["emergence-together-effects"]
    assert len(figures_of(alone)) == 2 and alone.answer == []
    both = emergence_study(read_inputs([folder / "relations.parquet", tmp_path]).tables)
    assert both is not None and both.chapters[-1].identity == "emergence-together-effects" and both.answer
    (other / "kept.parquet").unlink()
    half = emergence_study(read_inputs([tmp_path]).tables)
    assert half is None


def test_tables_of_one_name_are_told_apart_and_others_of_that_name_left_alone(folder: Path, tmp_path: Path) -> None:
    dial = table_of("dial alignment", {"dial": "swapped"}, {"dial": "swapped"})
    align = {name: getattr(pl, of) for name, of in KINDS_OF_INPUTS["align"].columns.items() if name not in dial.columns}
    both = dial.with_columns(pl.lit(None, kind).alias(name) for name, kind in align.items())
    assert kind_of(both) == "dial alignment"  # though it has every column of align
    inputs = read_inputs([folder])
    assert (folder / "alignment.parquet").is_file() and "alignment.parquet" not in {
        one.path.name for one in inputs.tables
    }
    (tmp_path / "study").mkdir()
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "study" / "kept.parquet")
    with pytest.raises(RunMissing, match="no run at"):
        read_inputs([tmp_path / "study"])
    with pytest.raises(UsageError, match="no known kind"):
        read_inputs([tmp_path / "study" / "kept.parquet"])


def test_every_kind_of_another_part_has_a_chapter() -> None:
    assert set(OTHER_KINDS) <= set(KINDS_OF_INPUTS)
    from_emergence = {
        name for name, kind in KINDS_OF_INPUTS.items() if kind.what.startswith("featcache emergence")
    }  # fmt: skip
    assert from_emergence == set(KINDS)
