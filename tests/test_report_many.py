"""Many runs on one page: seeds pooled, sorted by validation, every mark and line known by its run."""

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

from featcache.report.figures.choices import adapter_bars, loss_by_choice
from featcache.report.figures.figure import Figure
from featcache.report.figures.many import curves_of_runs, joint_distribution, many_figures
from featcache.report.figures.recipes import recipe_labels
from featcache.report.page.runs_table import runs_table
from featcache.report.runs import RunResults, load_runs
from featcache.report.seeds import (
    by_test,
    by_validation,
    headline_run,
    independent_settings,
    kept_loss,
    on_validation,
    over_seeds,
    pool_seeds,
    recipe_names,
    varied_settings,
)
from tests.test_report_runs import write_run

RECALLS = {"linear": 0.30, "mlp": 0.42, "gated": 0.36}
JOINTS = {"linear": (0.30, 0.32), "mlp": (0.25, 0.27), "gated": (0.34, 0.35)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters with two seeds each: the best on validation is the worst on test."""
    place, made = tmp_path_factory.mktemp("runs"), list[Path]()
    for adapter, joints in JOINTS.items():
        for seed, joint in enumerate(joints):
            scores = {("trained", "joint"): joint}
            settings: dict[str, Any] = {"adapter": adapter, "seed": seed, "loss": "infonce"}
            made.append(write_run(place / f"{adapter}{seed}", scores=scores, recall=RECALLS[adapter], **settings))
    more = {"adapter": "mlp", "loss": "siglip", "temperature": 0.1, "width": 64}
    return [*made, write_run(place / "siglip", scores={("trained", "joint"): 0.29}, recall=0.2, **more)]


@pytest.fixture(scope="module")
def runs(folders: list[Path]) -> list[RunResults]:
    return pool_seeds(load_runs(folders))


def checked_marks(figure: Figure | None, runs: list[RunResults]) -> dict[str, str]:
    """The marks of a figure, each of which must be described in the drawing and name a run."""
    assert figure is not None
    described = {html.unescape(text) for text in re.findall(r'aria-label="([^"]*)"', figure.svg)}
    assert figure.marks and set(figure.marks) <= described
    assert set(figure.marks.values()) <= {run.label for run in runs}
    return figure.marks


def test_recipes_are_sorted_by_validation_and_the_headline_run_is_marked_whatever_the_test_says(
    runs: list[RunResults],
) -> None:
    figure = joint_distribution(runs)
    assert figure is not None
    lines = [row for row in figure.rows if row["metric"] == "mutual_knn" and row["run"]]
    assert [row["label"] for row in lines] == [recipe_labels(runs)[run.label] for run in by_validation(runs)]
    assert [round(row["validation"], 6) for row in lines] == sorted(
        (round(on_validation(run) or 0.0, 6) for run in runs), reverse=True
    )
    assert [row["what"] for row in lines] == ["headline", "joint", "joint", "joint"]
    assert lines[0]["run"] == headline_run(runs)[0].label and lines[0]["value"] == min(row["value"] for row in lines)


def test_a_headline_run_that_nothing_chose_is_not_said_to_be_chosen(runs: list[RunResults]) -> None:
    chosen = joint_distribution(runs)
    other = replace(runs[-1], config={**runs[-1].config, "config": {**runs[-1].settings, "select": "last"}})
    named = joint_distribution([*runs[:-1], other])
    assert chosen is not None and "was chosen on validation" in chosen.caption
    assert named is not None and "is the first named" in named.caption and "was chosen" not in named.caption


def test_raw_parts_stand_once_and_every_seed_has_a_dot(runs: list[RunResults]) -> None:
    figure = joint_distribution(runs)
    assert figure is not None
    own = [row for row in figure.rows if row["metric"] == "mutual_knn"]
    assert [(row["label"], row["value"]) for row in own if not row["run"]] == [
        ("images, raw", 0.473), ("captions, raw", 0.15), ("raw kernels mixed", 0.477)
    ]  # fmt: skip
    mlp = next(row for row in own if row["label"] == "mlp")
    assert (mlp["value"], mlp["low"], mlp["high"]) == (pytest.approx(0.26), 0.25, 0.27)
    assert [dot["value"] for dot in mlp["_dots"]] == [0.25, 0.27] and mlp["scores of seeds"] == "0: 0.25; 1: 0.27"
    marks = checked_marks(figure, runs)
    assert marks["mlp, seed 1: mutual-kNN 0.270"] == mlp["run"]


def test_curves_put_all_recipes_in_one_panel_a_metric_and_colour_them_by_a_setting(runs: list[RunResults]) -> None:
    figure = curves_of_runs(runs)
    marks = checked_marks(figure, runs)
    assert figure is not None and len(figure.spec["concat"]) == 3  # two metrics and the loss
    assert len(marks) == 3 * len(runs)
    (run, *_) = runs
    drawn = [row["value"] for row in figure.rows if row["run"] == run.label and row["metric"] == "loss"]
    assert len(drawn) == 13 and drawn[0] == 1.0
    assert {row["series"] for row in figure.rows if row["run"]} == {"linear", "mlp", "gated"}
    raw = {row["series"]: row["value"] for row in figure.rows if not row["run"] and row["metric"] == "mutual_knn"}
    assert raw == {"images raw": 0.473, "captions raw": 0.15}


def test_bars_compare_adapters_that_agree_in_all_else_with_students_interval_over_seeds(
    runs: list[RunResults],
) -> None:
    figure = adapter_bars(runs)
    checked_marks(figure, runs)
    assert figure is not None
    bars = {row["label"]: row for row in figure.rows if row["metric"] == "mutual-kNN"}
    assert list(bars) == ["linear", "mlp", "gated"]  # the one with another loss and width stands aside
    half = t.ppf(0.975, 1) * 0.01  # of two values that lie .02 apart, the standard error is .01
    assert bars["mlp"]["value"] == pytest.approx(0.26)
    assert bars["mlp"]["seed_low"] == pytest.approx(0.26 - half) and bars["mlp"]["seed_high"] == pytest.approx(
        0.26 + half
    )
    assert (bars["mlp"]["sample_low"], bars["mlp"]["sample_high"]) == (pytest.approx(0.22), pytest.approx(0.28))
    assert adapter_bars(runs[:1]) is None


def test_losses_of_each_kind_stand_in_panels_of_their_own(runs: list[RunResults]) -> None:
    figure = loss_by_choice(runs)
    checked_marks(figure, runs)
    assert figure is not None
    assert list(dict.fromkeys(row["metric"] for row in figure.rows)) == [
        "infonce: validation loss", "siglip: validation loss", "epoch kept"
    ]  # fmt: skip
    assert {row["value"] for row in figure.rows if row["metric"] == "epoch kept"} == {10.0}
    assert kept_loss(runs[0]) == pytest.approx([1 - 3 * 10 / 11] * 2)


def test_an_interval_over_seeds_is_students_and_one_seed_has_none() -> None:
    mean, low, high = over_seeds([0.1, 0.2, 0.3])
    half = t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert (mean, low, high) == (pytest.approx(0.2), pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert over_seeds([0.5]) == (0.5, None, None)


def test_settings_that_differ_name_a_recipe_and_what_follows_from_another_does_not(runs: list[RunResults]) -> None:
    assert varied_settings(runs) == {
        "adapter": ["linear", "mlp", "gated", "mlp"],
        "loss": ["infonce", "infonce", "infonce", "siglip"],
        "width": ["256", "256", "256", "64"],
        "temperature": ["–", "–", "–", "0.1"],
    }
    assert list(independent_settings(runs)) == ["adapter", "loss"]
    assert list(recipe_names(runs).values()) == ["linear", "mlp", "gated", "mlp, siglip"]


def test_names_of_alike_recipes_are_told_apart(tmp_path: Path) -> None:
    pair = [write_run(tmp_path / ("y" * 200 + name), n=size) for name, size in (("a" * 40, 900), ("b" * 40, 1000))]
    names = recipe_labels(pool_seeds(load_runs(pair)))
    assert len(set(names.values())) == 2 and all(len(name) <= 46 for name in names.values())


def cells(table: str) -> dict[str, list[str]]:
    """Label -> data-value of every cell, of a table of runs."""
    lines = re.findall(r'<tr data-run="([^"]*)"[^>]*>(.*?)</tr>', table)
    return {html.unescape(label): re.findall(r'data-value="([^"]*)"', line) for label, line in lines}


def test_the_table_has_a_line_a_recipe_with_its_scores_and_what_they_are_sorted_by(runs: list[RunResults]) -> None:
    table = runs_table(runs)
    assert table.count("<table") == 1 and '<table class="runs">' in table
    heads = re.findall(r'<th scope="col" data-sort="(\w+)"( data-colour)?>([^<]*)', table)
    assert [(title, of, bool(colour)) for of, colour, title in heads] == [
        ("recipe", "text", False), ("adapter", "text", True), ("loss", "text", True), ("joint", "number", True),
        ("joint −", "number", True), ("R@10", "number", True), ("R@10", "number", True), ("loss", "number", True),
        ("score", "number", True),
    ]  # fmt: skip
    rows = cells(table)
    assert list(rows) == [run.label for run in by_validation(runs)]
    mlp = next(run for run in runs if run.label.startswith("mlp (2"))
    name, adapter, loss, joint, difference, forth, back, *_ = rows[mlp.label]
    assert (name, adapter, loss) == ("mlp", "mlp", "infonce")
    assert float(joint) == pytest.approx(0.26) and float(difference) == pytest.approx(0.26 - 0.473)
    assert (float(forth), float(back)) == (pytest.approx(0.42), pytest.approx(0.42 * 0.9))
    assert 'data-colour="below">−.213<small>below 2/2</small>' in table and "2 seeds, headline run" in table
    assert table.count("headline run") == 1 and table.count('class="headline"') == 1


def test_no_table_of_runs_has_more_than_ten_columns(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"width": 2**n, "lr": 1 / n, "batch": 8 + n % 3, "epochs": 5 + n % 4, "weight_decay": n % 2}
        for n in (1, 2, 3, 4)
    ]
    runs = pool_seeds(load_runs([write_run(tmp_path / f"{n}", **one) for n, one in enumerate(settings)]))
    assert 8 <= runs_table(runs).count('scope="col"') <= 10


def test_runs_on_other_features_or_groups_stand_apart(tmp_path: Path, runs: list[RunResults]) -> None:
    other = write_run(tmp_path / "other", encoders=("vit", "bert", "big"), n=800)
    every = [*runs, replace(load_runs([other])[0], label="other")]
    assert [len(group) for group in by_test(every)] == [4, 1]
    table = runs_table(every)
    assert table.count("<table") == 2 and "vit + bert → big, 800 test groups" in table
    assert "Scores compare within this table only" in table
    figure = joint_distribution(every)
    assert figure is not None and len(figure.spec["concat"]) == 4 and "2 sets of runs" in figure.caption
    assert sum(row["label"] == "images, raw" and row["metric"] == "mutual_knn" for row in figure.rows) == 2


def test_runs_without_a_reference_have_curves_and_a_table_and_no_joint(tmp_path: Path) -> None:
    bare = [write_run(tmp_path / a, encoders=("a", "b", None), adapter=a, recall=r)
            for a, r in (("mlp", 0.2), ("gated", 0.3))]  # fmt: skip
    runs = load_runs(bare)
    assert joint_distribution(runs) is None
    assert [figure.name for figure in many_figures(runs)] == ["curves_of_runs", "adapter_bars", "loss_by_choice"]
    assert "mutual-kNN" not in runs_table(runs)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = '<script>"x"</script></style>\u202e' + "y" * 10_000
    made = load_runs([write_run(tmp_path / "run", encoders=(bad, bad, bad))])[0]
    runs: list[RunResults] = []
    for number in range(4):  # a whole run has kinds for these; what was loaded is drawn all the same
        settings = {**made.settings, "adapter": f"{bad}{number % 2}", "loss": bad, "width": number}
        runs.append(replace(made, label=f"{bad}{number}", config={**made.config, "config": settings}))
    for figure in many_figures(runs):
        checked_marks(figure, runs)
        assert "<script" not in figure.svg
    table = runs_table(runs)
    assert "<script" not in table and "\u202e" not in table and len(table) < 60_000


def test_forty_runs_take_less_than_five_megabytes(tmp_path: Path) -> None:
    base = load_runs([write_run(tmp_path / "run", epochs=40)])[0]
    runs: list[RunResults] = []
    for number in range(40):
        settings = {**base.settings, "width": 8 * (number // 5), "adapter": f"kind {number % 5}"}
        runs.append(replace(base, label=f"run {number}", config={**base.config, "config": settings}))
    figures = many_figures(pool_seeds(runs))
    assert len(figures) == 4
    assert sum(len(figure.svg) for figure in figures) + len(runs_table(runs)) < 1_000_000
