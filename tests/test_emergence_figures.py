"""Figures of the study of emergence show the numbers of its tables, and draw nothing of what is not there."""

from pathlib import Path

import polars as pl
import pytest

from featcache.report.emergence import (
    coefficient_text,
    emergence_answer,
    emergence_cautions,
    emergence_sizes,
    of_settings,
)
from featcache.report.figures.emergence import (
    agreement_figure,
    bias_figure,
    information_axis,
    rq1_curve,
)
from featcache.report.figures.emergence_claims import emergence_claims
from featcache.report.figures.emergence_performance import (
    depth_figure,
    law_figure,
    performance_figure,
    slopes_figure,
)
from featcache.report.figures.figure import Figure
from featcache.report.terminal.emergence import show_answers
from featcache.studies.emergence.questions.answers import Answers, answer_emergence
from featcache.studies.emergence.questions.claims import load_emergence_claims
from featcache.studies.emergence.synthetic.encoders import EmergenceTables
from tests.emergence_tables import study

_, PUBLISHED = load_emergence_claims()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return answer_emergence(study(tmp_path_factory.mktemp("e"), seeds=(2, 22), maps=(1, 4, 7, 10)), "quick")


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return answer_emergence(study(tmp_path_factory.mktemp("e"), depths=(1, 3, 5, 6, 8, 10)), "quick")


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    assert figure.svg.startswith("<svg") and figure.caption.strip() and len(figure.alt) > 20
    return figure


def test_the_curve_shows_maxima_theory_and_the_released_points(answers: Answers) -> None:
    figure = drawn(rq1_curve(answers.maxima, answers.relations, PUBLISHED))
    own = [row for row in figure.rows if row["metric"].startswith("CKA, clipped")]
    found = {row["x"]: row["value"] for row in own if row["series"] == "D_φ 4"}
    wanted = answers.maxima.filter(metric="cka_clipped", phi_depth=4)
    assert found == dict(zip(wanted["uniqueness"], wanted["value"], strict=True))
    assert [row["value"] for row in own if row["series"] == "exact posteriors"][:3] == [1.0, 0.828, 0.561]
    released = [row["value"] for row in own if row["series"] == "released, D_φ = 1"]
    assert released == PUBLISHED["maximum by U"].value
    (artificial,) = [row for row in own if row["series"] == "point not measured"]
    assert (artificial["x"], artificial["value"]) == (8, 0.0)
    assert not [row for row in figure.rows if row["metric"].startswith("mutual") and "released" in row["series"]]
    fall = answers.relations.filter(
        question="rq1", x="uniqueness", metric="cka_clipped", method="pearson", points="measured", group=False
    )  # fmt: skip
    assert coefficient_text(fall.row(0, named=True)) in figure.caption


def test_another_setting_has_no_released_points_and_a_name_of_its_own(answers: Answers) -> None:
    figure = drawn(rq1_curve(answers.maxima, answers.relations, PUBLISHED, "planted, tanh, width 24"))
    assert figure.name == "rq1-planted-tanh-width-24" and "width 24" in figure.title
    assert not [row for row in figure.rows if "released" in row["series"] or "not measured" in row["series"]]


def test_the_information_axis_has_a_dot_a_u_by_both_decompositions(answers: Answers) -> None:
    figure = drawn(information_axis(answers.maxima, answers.relations))
    synergy = [row for row in figure.rows if row["quantity"] == "synergy, nats (common part)"]
    assert [row["x"] for row in synergy] == [0.0, 0.0, 0.022, 0.051, 0.077, 0.153, 0.21, 0.262, 0.319]
    cell = answers.maxima.filter(metric="cka_clipped", uniqueness=8)["value"]
    assert synergy[-1]["value"] == pytest.approx(cell.mean()) and synergy[-1]["ci_high"] == cell.max()
    assert ".295 nats unique and .591 synergy by BROJA" in figure.caption
    assert ".840 nats unique and .319 synergy by the common part" in figure.caption


def test_bias_is_drawn_over_seeds_or_models(answers: Answers, one_seed: Answers) -> None:
    figure = drawn(bias_figure(answers.bias))
    assert {row["x"] for row in figure.rows} == {1, 2} and "seeds" in figure.caption
    cells = answers.bias.filter(metric="cka_clipped", uniqueness=4, count=2)
    shown = {row["series"]: row["value"] for row in figure.rows if row["panel"] == "U = 4" and row["x"] == 2}
    assert shown["largest estimate"] == pytest.approx(cells["estimate"].mean())
    assert shown["exact value of its pair"] == pytest.approx(cells["selected"].mean())
    assert {row["x"] for row in drawn(bias_figure(one_seed.bias)).rows} == set(range(1, 7))
    assert bias_figure(answers.bias.filter(count=1)) is None


def test_metrics_are_drawn_beside_each_other(answers: Answers) -> None:
    figure = drawn(agreement_figure(answers.metric_agreement))
    assert len({row["panel"] for row in figure.rows}) == 3
    clipped = [row["value"] for row in figure.rows if row["panel"] == "Pairs of layers below 0"]
    assert clipped == answers.metric_agreement.filter(metric="cka_debiased").sort("uniqueness")["clipped"].to_list()


def test_coefficients_are_drawn_with_released_medians_for_spearman_alone(answers: Answers, one_seed: Answers) -> None:
    figure = drawn(performance_figure(one_seed.relations, PUBLISHED))
    panels = {row["panel"] for row in figure.rows}
    assert len(panels) == 6
    published = [row for row in figure.rows if row["what"] == "published"]
    assert {row["panel"].split(" · ")[1] for row in published} == {"Spearman"} and len(published) == 18
    every = [row for row in figure.rows if row["what"] == "all" and row["panel"] == "Alignment and accuracy · Spearman"]
    wanted = one_seed.relations.filter(
        question="rq2", x="alignment", y="accuracy", metric="cka_clipped", method="spearman", group=False
    )  # fmt: skip
    assert [row["value"] for row in every] == wanted.sort("uniqueness")["value"].to_list()
    assert all(row["models"] >= 12 for row in figure.rows if row["what"] != "published")
    assert "groups of maps (D_φ 1–4, D_φ 7–10)" in figure.caption
    few = answers.relations.with_columns(value=pl.lit(None, pl.Float64))
    assert performance_figure(few, PUBLISHED) is None


def test_heat_maps_and_the_law_show_every_cell(answers: Answers) -> None:
    maps = drawn(depth_figure(answers.by_depth))
    assert len(maps.rows) == 2 * 5 * 16
    law = drawn(law_figure(answers.depth_law, answers.by_depth))
    for row in law.rows:
        phi, u = int(row["series"].split()[1]), int(row["panel"].split()[2])
        cell = answers.by_depth.filter(metric="cka_clipped", uniqueness=u, phi_depth=phi, depth=row["depth"])
        assert row["x"] == row["depth"] - phi and row["value"] == pytest.approx(cell["accuracy"].item() / 0.7)
    slopes = drawn(slopes_figure(answers.depth_law))
    shown = {
        row["x"]: row["ci_low"] for row in slopes.rows if row["panel"] == "Slope of accuracy" and "sum" in row["series"]
    }
    wanted = answers.depth_law.filter(outcome="accuracy", term="sum")
    assert shown == dict(zip(wanted["uniqueness"], wanted["low"], strict=True))
    one = answers.by_depth.filter(depth=1)
    assert depth_figure(one) is None and law_figure(answers.depth_law, one) is None


def test_claims_stand_beside_what_was_published(answers: Answers) -> None:
    figures = emergence_claims(answers.entries)
    assert [figure.name for figure in figures] == [
        "claims-emergence-paper", "claims-summary-of-the-paper", "claims-emergence-other-readings"
    ]  # fmt: skip
    rows = [row for figure in figures for row in drawn(figure).rows]
    published = [row for row in rows if row["label"] == "published"]
    assert len(published) == sum(
        each.published_value is not None and each.entry.estimator in ("relation", "coefficients")
        for each in answers.entries
    )
    assert not {row["claim"] for row in rows} & {"u-is-unique", "difference-of-depths", "maximum-is-biased"}


def test_settings_are_drawn_apart_and_named_where_there_are_several(answers: Answers) -> None:
    assert [label for label, _ in of_settings(answers.maxima)] == [""]
    wide = answers.maxima.with_columns(width=pl.lit(24, answers.maxima.schema["width"]))
    both = [*of_settings(pl.concat([answers.maxima, wide]))]
    assert [label for label, _ in both] == ["released, leaky_relu, width 12", "released, leaky_relu, width 24"]
    assert all(len(rows) == len(answers.maxima) for _, rows in both)


# -- words ------------------------------------------------------------------------------------------------------------


def test_the_answer_follows_from_the_rows(answers: Answers) -> None:
    emerges, predicts, claims = emergence_answer(answers.relations, answers.entries)
    assert emerges.startswith("Maximum alignment falls with U, the unique bits of the label (r = −.9")
    assert "rises with the CKA of exact posteriors (r = " in emerges
    assert predicts.startswith("Alignment and exact accuracy: at U = 0 they rise together (ρ = .")
    assert "; beyond depth " in predicts and "at U = 8 " in predicts
    paper = [each.entry.verdict for each in answers.entries if each.entry.source == "emergence paper"]
    assert f"{paper.count('held')} held" in claims
    nothing = answers.relations.with_columns(value=pl.lit(None, pl.Float64))
    assert emergence_answer(nothing, []) == ["Too few models at each U to say whether alignment predicts accuracy."]


def test_cautions_say_what_was_not_trained(answers: Answers, one_seed: Answers) -> None:
    assert not any("One seed" in caution for caution in emergence_cautions(answers.maxima))
    cautions = emergence_cautions(one_seed.maxima)
    assert cautions[0].startswith("One seed") and "6,000 steps of training, 27,000 as released" in cautions[1]
    assert "6 depths and 4 maps of ten each" in cautions[2] and "by the common part" in cautions[3]
    assert emergence_cautions(one_seed.maxima.clear()) == []
    assert "288 encoders" in emergence_sizes(answers.maxima) and "2 seeds" in emergence_sizes(answers.maxima)


def test_the_terminal_answers_first_and_says_where_everything_is(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    show_answers(answers)
    shown = capsys.readouterr().out
    assert shown.startswith("Maximum alignment falls with U")
    assert f"Figures and page: featcache report {answers.folder}" in shown
    assert "Beware: " in shown and "emergence paper: " in shown and "failed: " in shown
    line = next(line for line in shown.splitlines() if line.startswith("8 "))
    assert ".27" in line and ".59" in line


def test_two_settings_are_told_apart_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = study(tmp_path)
    wide = [frame.with_columns(width=pl.lit(24, frame.schema["width"])) for frame in (tables.models, tables.alignment)]
    both = EmergenceTables(
        tmp_path, pl.concat([tables.models, wide[0]]), pl.concat([tables.alignment, wide[1]]), tables.oracles
    )
    show_answers(answer_emergence(both, "quick"))
    shown = capsys.readouterr().out
    assert "released, leaky_relu, width 12\n" in shown and "released, leaky_relu, width 24\n" in shown
