"""Claims about the synthetic study: their file is swept, each is judged by its rows, what is exact needs no test."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featcache.errors import UsageError
from featcache.studies.emergence.questions.answers import TABLES, Answers, answer_emergence
from featcache.studies.emergence.questions.claims import CLAIMS, EmergenceClaim, load_emergence_claims
from featcache.studies.emergence.questions.estimators import ESTIMATORS, Evidence
from featcache.studies.emergence.questions.ledger import (
    emergence_entries,
    emergence_page,
    emergence_table,
    judge_emergence,
)
from featcache.studies.emergence.synthetic.written import read_emergence
from featcache.studies.experiments.spec import ExperimentInvalid
from featcache.studies.ledger.ledger import ledger_table
from tests.emergence_tables import oracles, study, write

SHIPPED, SERIES = load_emergence_claims()
RELATION = {"question": "rq1", "x": "uniqueness", "metric": "cka_clipped", "method": "pearson"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    tables = study(tmp_path_factory.mktemp("emergence") / "quick", depths=(1, 2, 3, 6, 10))
    return answer_emergence(read_emergence(write(tables)), "quick")


def claim(estimator: str, **changes: object) -> EmergenceClaim:
    usual: dict[str, dict[str, object]] = {
        "relation": {"where": RELATION},
        "coefficients": {
            "where": {"x": "alignment", "y": "accuracy", "metric": "cka_clipped", "method": "spearman"}, "a": [0]
        },
        "law": {"where": {"outcome": "accuracy", "term": "difference"}},
        "bias": {"where": {"metric": "cka_clipped"}},
        "exact": {"at": {"uniqueness": 8, "plus": ["broja_synergy"]}},
    }  # fmt: skip
    words = {"id": "one", "source": "us", "text": "It is so", "expect": "above", "estimator": estimator}
    return EmergenceClaim.model_validate({**words, **usual[estimator], **changes})


# -- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", SHIPPED, ids=[one.id for one in SHIPPED])
def test_every_shipped_claim_finds_its_rows_in_the_tables_of_a_study(one: EmergenceClaim, answers: Answers) -> None:
    (found,) = [each.entry for each in answers.entries if each.entry.claim == one.id]
    assert found.effect is not None and np.isfinite(found.effect), found.note
    assert one.text[0].isupper() and not one.text.endswith(".") and len(one.text) < 120
    assert (found.n >= 12 and found.p is not None) or one.estimator == "exact", found.note
    assert "released" not in one.needs.values() or found.dataset == "released"


def test_released_figures_have_a_value_for_each_u_and_say_how_they_were_read() -> None:
    assert set(SERIES) == {"maximum by U", "alignment and accuracy", "depth and accuracy"}
    for figure in SERIES.values():
        assert len(figure.value) == len(figure.uniqueness) and "by eye" in figure.source
        assert all(-1 <= value <= 1 for value in figure.value)
    every = {one.estimator for one in SHIPPED}
    assert every == set(ESTIMATORS)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('estimator = "relation"', 'estimator = "relatoin"', "claims.0.estimator: Input should be"),
        ('expect = "below"', 'expects = "below"', "unknown key claims.0.expects; the nearest there is: expect"),
        ('method = "pearson"', 'methd = "pearson"', "maximum-falls-with-u: the estimator relation lacks where.method"),
        ('x = "uniqueness", ', "", "the estimator relation lacks where.x"),
        ('id = "maximum-falls-with-u"', 'id = "theory-curve"', "two claims are called theory-curve"),
        (
            'series = "alignment and accuracy"',
            'series = "alignment and acuracy"',
            "no released figure 'alignment and a",
        ),
        ("a = [6, 7, 8]\nb = [0, 1, 2]", "b = [0, 1, 2]", "predicts-less-u-6-8: the estimator coefficients lacks a"),
        ("0.45, 0.45, 0.38]", "0.45, 0.45]", "maximum by U: 8 U and 7 values"),
        ("[[published]]", "[[published]", "cannot be read"),
    ],
)
def test_a_file_of_claims_that_is_wrong_is_refused_by_name(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = CLAIMS.read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "claims.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ExperimentInvalid) as error:
        load_emergence_claims(file)
    assert words in str(error.value) and "claims.toml" in str(error.value)


def test_a_missing_file_of_claims_names_the_shipped_one(tmp_path: Path) -> None:
    with pytest.raises(ExperimentInvalid, match=r"no claims at .*\n  The shipped ones are .*claims.toml"):
        load_emergence_claims(tmp_path / "none.toml")


def test_an_estimator_is_not_given_what_it_does_not_read(tmp_path: Path) -> None:
    text = CLAIMS.read_text(encoding="utf-8").replace('estimator = "bias"', 'estimator = "bias"\na = [1]')
    (tmp_path / "claims.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ExperimentInvalid, match="maximum-is-biased: the estimator bias has no use for a"):
        load_emergence_claims(tmp_path / "claims.toml")


# -- effects and verdicts ---------------------------------------------------------------------------------------------


def evidence(answers: Answers) -> Evidence:
    from featcache.studies.emergence.questions.maxima import best_of_models

    best = best_of_models(read_emergence(answers.folder))
    return Evidence(best, answers.maxima, answers.relations, oracles())


def test_planted_relations_are_held_and_their_opposites_fail(answers: Answers) -> None:
    own = evidence(answers)
    pairs = [
        ("relation", {}, "below"),
        ("coefficients", {}, "above"),
        ("law", {}, "above"),
        ("bias", {}, "above"),
        ("exact", {}, "above"),
    ]
    claims = [
        claim(estimator, id=f"{estimator}-{expect}", expect=expect, family=f"{estimator}-{expect}", **changes)
        for estimator, changes, _ in pairs
        for expect in ("above", "below", "zero")
    ]
    judged = {each.entry.claim: each.entry for each in judge_emergence(claims, SERIES, own, "quick")}
    for estimator, _, right in pairs:
        verdicts = {expect: judged[f"{estimator}-{expect}"].verdict for expect in ("above", "below", "zero")}
        wrong = "below" if right == "above" else "above"
        assert verdicts == {right: "held", wrong: "failed", "zero": "failed"}, estimator


def test_effects_are_those_of_the_tables(answers: Answers) -> None:
    own = evidence(answers)
    relation = ESTIMATORS["relation"](claim("relation"), own)
    row = answers.relations.filter(
        question="rq1", x="uniqueness", metric="cka_clipped", method="pearson", points="measured", group=False
    )  # fmt: skip
    assert (relation.value, relation.low, relation.models) == (row["value"][0], row["low"][0], row["models"][0])
    difference = ESTIMATORS["coefficients"](claim("coefficients", a=[7, 8], b=[0]), own)
    wanted = answers.relations.filter(
        question="rq2", x="alignment", y="accuracy", metric="cka_clipped", method="spearman", group=False
    )  # fmt: skip
    by_u = dict(zip(wanted["uniqueness"], wanted["value"], strict=True))
    assert difference.value == pytest.approx((by_u[7] + by_u[8]) / 2 - by_u[0])
    law = ESTIMATORS["law"](claim("law"), own)
    slopes = answers.depth_law.filter(outcome="accuracy", term="difference")["value"]
    assert law.value == pytest.approx(slopes.mean())
    bias = ESTIMATORS["bias"](claim("bias"), own)
    rows = answers.maxima.filter(metric="cka_clipped")
    assert bias.value == pytest.approx((rows["value"] - rows["population_maximum"]).mean())
    assert ESTIMATORS["exact"](claim("exact"), own).value == pytest.approx(0.591)


def test_what_is_not_in_the_tables_gets_a_note_and_no_verdict(answers: Answers) -> None:
    own = evidence(answers)
    claims = [
        claim("relation", id="metric", where=RELATION | {"metric": "cka_nosuch"}),
        claim("coefficients", id="levels", a=[0, 12]),
        claim("exact", id="column", at={"uniqueness": 8, "plus": ["broja_nosuch"]}),
        claim("exact", id="table", at={"uniqueness": 12, "plus": ["broja_synergy"]}),
    ]
    notes = {each.entry.claim: each.entry.note for each in judge_emergence(claims, SERIES, own, "quick")}
    assert notes["metric"].startswith("0 correlations fit") and notes["levels"] == "no models at U = 12"
    assert "broja_nosuch" in notes["column"] and notes["table"] == "no such label table"
    verdicts = {each.entry.verdict for each in judge_emergence(claims, SERIES, own, "quick")}
    assert verdicts == {"cannot tell here"}


def test_a_claim_about_the_released_generator_gets_no_verdict_on_another(answers: Answers) -> None:
    own = evidence(answers)
    names = ("best", "maxima", "relations", "oracles")
    other = Evidence(*(getattr(own, name).with_columns(generator=pl.lit("other")) for name in names))
    claims = [claim(estimator, id=estimator, needs={"dataset": "released"}) for estimator in ("law", "exact")]
    for each in judge_emergence(claims, SERIES, other, "quick"):
        assert each.entry.direction == "above" and each.entry.verdict == "cannot tell here"
        assert "than the claim is about" in each.entry.note


def test_claims_of_a_source_are_corrected_together_and_exact_ones_count_for_no_other(answers: Answers) -> None:
    own = evidence(answers)
    claims = [claim("law", id="law"), claim("bias", id="bias"), claim("exact", id="exact")]
    entries = {each.entry.claim: each.entry for each in judge_emergence(claims, SERIES, own, "quick")}
    p_values = [entries[name].p or 0.0 for name in ("law", "bias")]
    assert entries["law"].family == entries["bias"].family != entries["exact"].family
    assert min(entries[name].p_holm or 0.0 for name in ("law", "bias")) == pytest.approx(2 * min(p_values))
    assert entries["exact"].p is None and entries["exact"].verdict == "held"


def test_nearly_nothing_is_zero_to_the_precision_of_the_decomposition(answers: Answers) -> None:
    own = evidence(answers)
    claims = [claim("exact", id="zero", expect="zero", at={"uniqueness": 0, "plus": ["broja_synergy"]})]
    (found,) = judge_emergence(claims, SERIES, own, "quick")
    assert found.entry.verdict == "held" and found.entry.direction == "zero"


# -- what was published, and the files --------------------------------------------------------------------------------


def test_published_values_stand_beside_the_effects_of_the_same_u(answers: Answers) -> None:
    by_id = {each.entry.claim: each for each in answers.entries}
    low, gap = by_id["alignment-predicts-u-0-2"], by_id["predicts-less-u-6-8"]
    assert low.published_value == pytest.approx((0.68 + 0.69 + 0.60) / 3) and ".68, .69, .60" in low.published
    assert gap.published_value == pytest.approx((0.17 + 0.00 + 0.12) / 3 - (0.68 + 0.69 + 0.60) / 3)
    assert by_id["maximum-falls-with-u"].published_value is None and by_id["maximum-falls-with-u"].published


def test_the_ledger_is_written_as_every_ledger_and_read_back(answers: Answers, tmp_path: Path) -> None:
    table = pl.read_parquet(answers.folder / "ledger.parquet")
    assert table.columns[: len(ledger_table([]).columns)] == ledger_table([]).columns
    assert table.columns[-2:] == ["published", "published_value"]
    assert emergence_entries(table, tmp_path) == [*answers.entries]
    page = (answers.folder / "ledger.md").read_text(encoding="utf-8")
    assert page == emergence_page(answers.entries)
    assert page.count("\n## ") == 3 and "**held**" in page and "left out once" in page
    again = json.loads(answers.entries[0].entry.selection)
    assert again == tomllib.loads(CLAIMS.read_text(encoding="utf-8"))["claims"][0]["where"]
    with pytest.raises(UsageError, match="column published is missing"):
        emergence_entries(table.drop("published"), tmp_path)
    hostile = replace(answers.entries[0].entry, text="a | b")
    assert "a \\| b" in emergence_page([replace(answers.entries[0], entry=hostile)])
    assert emergence_table([]).schema == table.schema


def test_the_answers_are_the_same_bytes_again(answers: Answers) -> None:
    names = [*(f"{name}.parquet" for name in TABLES), "ledger.parquet", "ledger.md"]
    before = [(answers.folder / name).read_bytes() for name in names]
    answer_emergence(read_emergence(answers.folder), "quick")
    assert [(answers.folder / name).read_bytes() for name in names] == before
