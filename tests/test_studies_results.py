"""The final table of a run and its contrasts are what slow restatements give; test decides nothing but itself."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from featcache.metrics import cka, mixed, mutual_knn
from featcache.studies.adapters.headline import HEADLINE, headline_contrasts
from featcache.studies.adapters.results import (
    Evaluation,
    final_results,
    weights_text,
)
from featcache.trainer.config import FitConfig
from featcache.trainer.fit import fit_paired, untrained_adapters
from featcache.trainer.joints import simplex
from featcache.trainer.sides import pair_sides
from featcache.trainer.subsets import training_groups
from featcache.trainer.tracking import METRICS, embed_split, epoch_rows
from tests.trainer_planted import planted_sides

CONFIG = FitConfig(epochs=3, batch=32, width=8, k=5, lr=5e-3, permutations=39, halves=20, untrained=3)


def run(sides, reference, config=CONFIG, control=None):
    evaluation = Evaluation(pair_sides(sides, reference, config), config)
    fitted = fit_paired(evaluation.paired, config, validation=evaluation.validation)
    return evaluation, fitted, final_results(fitted, evaluation, control=control)


@pytest.fixture(scope="module")
def two():
    return run(*planted_sides(200, noise=1.0))


@pytest.fixture(scope="module")
def three():
    return run(*planted_sides(200, third=True, noise=1.0))


@pytest.fixture(params=["two", "three"])
def either(request):
    return request.getfixturevalue(request.param)


def find(rows, **wanted):
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def one(rows, **wanted):
    (row,) = find(rows, **wanted)
    return row


def unit(values):
    values = np.asarray(values, np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def score(metric, values, reference, k=5):
    """A score of a run, from the metric's own function."""
    if metric == "mutual_knn":
        return mutual_knn(unit(values), unit(reference), k=k)
    return cka(unit(values), unit(reference), debiased=True)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_every_row_says_of_which_stage_split_and_epoch_it_is(either):
    _, fitted, results = either
    stages = {(row.stage, row.split, row.epoch) for row in results.rows}
    assert stages == {
        ("raw", "validation", None),
        ("raw", "test", None),
        ("mixed", "validation", None),
        ("mixed", "test", None),
        ("ridge", "validation", None),
        ("ridge", "test", None),
        ("noise", "test", None),
        ("untrained", "test", 0),
        ("trained", "test", fitted.selected_epoch),
        ("trained", "train", fitted.selected_epoch),
    }


def test_spaces_are_measured_with_null_and_interval_on_test_and_plainly_on_validation(either):
    evaluation, _, results = either
    sides = [*evaluation.paired.sides]
    aligned = [row for row in results.rows if row.metric in METRICS]
    for row in aligned:
        assert row.chance is not None or row.stage == "untrained"
        on_test = row.split == "test" and row.stage not in ("untrained", "noise")
        assert (row.null == "39 permutations", row.ci_low is not None) == (on_test and row.stage != "ridge", on_test)
        assert "rows=unit" in row.convention
        if on_test:
            assert row.ci_low < row.value < row.ci_high and "new samples" in row.estimand
    joints = ["joint"] + ([f"joint:{a}+{b}" for a, b in combinations(sides, 2)] if len(sides) > 2 else [])
    for stage, split, spaces in (
        ("raw", "validation", sides),
        ("raw", "test", sides),
        ("trained", "test", [*sides, *joints]),
        ("untrained", "test", [*sides, *joints]),
    ):
        rows = [row for row in aligned if (row.stage, row.split) == (stage, split)]
        against = [(row.space, row.metric) for row in rows if row.against == "reference"]
        assert against == [(space, metric) for space in spaces for metric in METRICS]
        between = {(row.space, row.against) for row in rows if row.against != "reference"}
        assert between == set(combinations(sides, 2))


def test_raw_scores_are_those_of_the_group_means_at_length_one(two):
    evaluation, _, results = two
    for split in (evaluation.validation, evaluation.test):
        for name, side in split.paired.sides.items():
            for metric in METRICS:
                row = one(results.rows, stage="raw", split=split.name, space=name, against="reference", metric=metric)
                assert row.value == pytest.approx(score(metric, side.means(), split.paired.reference), abs=1e-6)


def test_trained_scores_are_those_of_the_selected_epochs_weights_on_test(either):
    evaluation, fitted, results = either
    again = epoch_rows(evaluation.test, fitted.adapters, fitted.config, fitted.selected_epoch)
    trained = find(results.rows, stage="trained", split="test")
    unmatched = ("centroid_gap", "distribution_gap", "intrinsic_dimension")
    trained = [row for row in trained if row.metric not in unmatched]
    names = [(row.space, row.against, row.metric, row.direction) for row in trained]
    assert names == [(row.space, row.against, row.metric, row.direction) for row in again]
    assert [row.value for row in trained] == pytest.approx([row.value for row in again], abs=1e-9)
    assert sum(row.metric == "R@1" for row in trained) == len(evaluation.paired.sides) * (
        len(evaluation.paired.sides) - 1
    )


def test_alignment_is_measured_once_on_training_groups_that_have_everything(either):
    evaluation, fitted, results = either
    rows = find(results.rows, stage="trained", split="train")
    assert {row.against for row in rows} == {"reference"} and {row.metric for row in rows} == set(METRICS)
    paired = fitted.paired.part("train")
    whole = paired.reference.isfinite().all(dim=1)
    for side in paired.sides.values():
        whole &= side.present
    assert {row.n for row in rows} == {int(whole.sum())}
    assert evaluation.training(CONFIG).paired.groups.tolist() == paired.groups[whole.numpy()].tolist()


def test_training_groups_of_a_subset_are_those_that_were_trained_on(either):
    evaluation, fitted, _ = either
    config = CONFIG.model_copy(update={"train_groups": 24})
    own, every = evaluation.training(config), evaluation.training(CONFIG)
    subset = set(training_groups(fitted.paired, config).groups)
    assert set(own.paired.groups) == subset & set(every.paired.groups) and len(subset) == 24


# -- untrained --------------------------------------------------------------------------------------------------------


def seeds(config):
    own = np.random.SeedSequence(config.seed)
    return [int(one.generate_state(1)[0]) for one in (own, *own.spawn(config.untrained - 1))]


def test_untrained_adapters_are_the_mean_of_several_initialisations_the_first_that_of_the_run(either):
    evaluation, fitted, results = either
    drawn = [untrained_adapters(fitted.paired, CONFIG, seed) for seed in seeds(CONFIG)]
    first = untrained_adapters(fitted.paired, CONFIG)
    assert torch.equal(next(first.sides.parameters()), next(drawn[0].sides.parameters()))
    embedded = [embed_split(evaluation.test, adapters) for adapters in drawn]
    for space in embedded[0].spaces:
        for metric in METRICS:
            values = [score(metric, each.spaces[space].values, evaluation.test.paired.reference) for each in embedded]
            row = one(results.rows, stage="untrained", space=space, against="reference", metric=metric)
            assert row.value == pytest.approx(np.mean(values), abs=1e-6)
            assert row.note == f"mean of 3 initialisations, {min(values):.4f} to {max(values):.4f}"
            assert (row.null, row.interval, row.ci_low) == ("none", "none", None)
    again = epoch_rows(evaluation.test, first, CONFIG, 0)
    for row in find(results.rows, stage="untrained", metric="R@10"):
        assert row.value == one(again, metric="R@10", direction=row.direction).value


def test_ten_initialisations_stand_for_untrained_adapters_where_nobody_says_otherwise():
    assert FitConfig().untrained == 10


# -- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", range(2, 13))
def test_weights_of_mixtures_lie_on_the_simplex_with_its_corners_and_are_not_too_many(parts):
    grid = simplex(parts)
    assert len(set(grid)) == len(grid) <= 70 and all(len(weights) == parts for weights in grid)
    assert all(abs(sum(weights) - 1) < 1e-9 and min(weights) >= 0 for weights in grid)
    assert set(map(tuple, np.eye(parts).tolist())) <= set(grid)
    spaces = [np.eye(4)] * parts
    for weights in grid:
        mixed(spaces, weights)  # as it is taken


def test_two_sides_are_mixed_in_steps_of_a_twentieth():
    assert simplex(2) == [(round(0.05 * step, 2), round(1 - 0.05 * step, 2)) for step in range(21)]


def slow_mixture(evaluation, split, weights):
    kernels = [unit(side.means()) for side in split.paired.sides.values()]
    return np.hstack([np.sqrt(weight) * rows for weight, rows in zip(weights, kernels, strict=True)])


def test_the_weights_of_the_mixture_are_the_best_on_validation_and_reported_on_test(either):
    evaluation, _, results = either
    names = [*evaluation.paired.sides]
    for metric in METRICS:
        tried = find(results.rows, stage="mixed", split="validation", metric=metric)
        assert [row.weights for row in tried] == [weights_text(names, weights) for weights in simplex(len(names))]
        reference = evaluation.validation.paired.reference
        slow = [
            score(metric, slow_mixture(evaluation, evaluation.validation, weights), reference)
            for weights in simplex(len(names))
        ]
        assert [row.value for row in tried] == pytest.approx(slow, abs=1e-6)
        best = int(np.argmax([row.value for row in tried]))
        row = one(results.rows, stage="mixed", split="test", metric=metric)
        assert row.weights == tried[best].weights and (row.space, row.against) == ("mixed", "reference")
        assert [*json.loads(row.weights)] == names
        expected = slow_mixture(evaluation, evaluation.test, simplex(len(names))[best])
        assert row.value == pytest.approx(score(metric, expected, evaluation.test.paired.reference), abs=1e-6)
        assert row.null_low is not None and row.ci_low is not None


def test_the_test_groups_have_no_say_in_the_weights(two):
    evaluation, _, results = two
    sides, reference = planted_sides(200, noise=1.0)
    rng = np.random.default_rng(3)
    held = reference.splits == "test"
    strange = np.where(held[:, None], rng.standard_normal(reference.values.shape), reference.values).astype(np.float32)
    other = Evaluation(pair_sides(sides, replace(reference, values=strange), CONFIG), CONFIG)
    for metric in METRICS:
        rows = [one(each, stage="mixed", split="test", metric=metric) for each in (results.rows, other.mixtures[0])]
        assert rows[0].weights == rows[1].weights and rows[0].value != rows[1].value


def test_a_mixture_at_a_corner_is_the_raw_side_alone(either):
    evaluation, _, results = either
    names = [*evaluation.paired.sides]
    for number, name in enumerate(names):
        corner = weights_text(names, np.eye(len(names))[number].tolist())
        for metric in METRICS:
            mixture = one(results.rows, stage="mixed", split="validation", metric=metric, weights=corner)
            raw = one(results.rows, stage="raw", split="validation", space=name, against="reference", metric=metric)
            assert mixture.value == pytest.approx(raw.value, abs=1e-9)


# -- contrasts --------------------------------------------------------------------------------------------------------


def titles(sides, control=False):
    names = [
        "joint − average of raw parts",
        "joint − best raw part",
        "joint − average of adapted parts",
        "joint − best adapted part",
        "joint − best mixture of raw kernels",
        "joint: trained − untrained",
        *[f"adapted {side}: trained − untrained" for side in sides],
    ]
    names += ["joint of all − best joint of a pair"] * (len(sides) > 2) + ["joint: trained − pairs shuffled"] * control
    return names


def test_each_metric_has_every_headline_contrast_once_in_one_family(either):
    evaluation, _, results = either
    for metric in METRICS:
        rows = find(results.contrasts, metric=metric)
        assert sorted(row.contrast for row in rows) == sorted(titles(evaluation.paired.sides))
        assert {(row.family, row.split, row.against, row.repeats) for row in rows} == {
            (HEADLINE, "test", "reference", 20)
        }
        assert all(row.p is not None and row.p_holm >= row.p and row.n == 50 for row in rows)


def recorded_scores(results, metric):
    """Scores on test by the names of the contrasts, from the rows of the table."""
    scores = {}
    for row in find(results.rows, split="test", metric=metric, against="reference"):
        if row.stage in ("ridge", "noise"):
            continue
        side = not row.space.startswith(("joint", "mixed"))
        name = {"raw": f"raw {row.space}", "mixed": f"mixed {metric}", "untrained": f"untrained {row.space}"}
        trained = f"adapted {row.space}" if side else row.space
        scores[name.get(row.stage, trained)] = row.value
    return scores


def test_a_contrast_is_the_difference_of_the_scores_in_the_table_and_above_0_means_the_whole_is_closer(either):
    evaluation, _, results = either
    sides = [*evaluation.paired.sides]
    for metric in METRICS:
        scores = recorded_scores(results, metric)
        raw, adapted = [scores[f"raw {side}"] for side in sides], [scores[f"adapted {side}"] for side in sides]
        expected = {
            "joint − average of raw parts": scores["joint"] - np.mean(raw),
            "joint − average of adapted parts": scores["joint"] - np.mean(adapted),
            "joint − best mixture of raw kernels": scores["joint"] - scores[f"mixed {metric}"],
            "joint: trained − untrained": scores["joint"] - scores["untrained joint"],
        }
        expected |= {
            f"adapted {side}: trained − untrained": scores[f"adapted {side}"] - scores[f"untrained {side}"]
            for side in sides
        }
        for title, value in expected.items():
            row = one(results.contrasts, metric=metric, contrast=title)
            assert row.value == pytest.approx(value, abs=1e-9), title
            assert row.ci_low < row.value < row.ci_high
        best = {"joint − best raw part": "raw {}", "joint − best adapted part": "adapted {}"}
        for title, form in best.items():
            row = one(results.contrasts, metric=metric, contrast=title)
            assert row.kind == "max" and row.parts == "+".join(form.format(side) for side in sides)
            assert row.binding in row.parts.split("+")
            assert row.value == pytest.approx(scores["joint"] - scores[row.binding], abs=1e-9)


def test_the_joint_of_all_is_compared_with_the_joint_of_each_pair(three):
    _, _, results = three
    for metric in METRICS:
        scores = recorded_scores(results, metric)
        row = one(results.contrasts, metric=metric, contrast="joint of all − best joint of a pair")
        assert (row.whole, row.kind) == ("joint", "max")
        assert row.parts == "joint:x+y+joint:x+z+joint:y+z"
        assert row.value == pytest.approx(scores["joint"] - scores[row.binding], abs=1e-9)


def test_untrained_parts_are_every_initialisation_and_no_other_space():
    contrasts = {one.title: one for one in headline_contrasts(["a", "b"], 4, mixtures=["mutual_knn"], control=True)}
    assert [*contrasts] == [*titles(["a", "b"], control=True)]
    assert {one.family for one in contrasts.values()} == {HEADLINE}
    for space in ("joint", "adapted a", "adapted b"):
        contrast = contrasts[f"{space}: trained − untrained"]
        assert (contrast.whole, contrast.kind) == (space, "average")
        assert contrast.parts == tuple(f"untrained {number} {space}" for number in range(4))
    mixture = contrasts["joint − best mixture of raw kernels"]
    assert (mixture.parts, mixture.metrics, mixture.kind) == (("mixed mutual_knn",), ("mutual_knn",), "difference")
    control = contrasts["joint: trained − pairs shuffled"]
    assert (control.whole, control.parts, control.kind) == ("joint", ("control joint",), "difference")


def with_private_parts(n=400):
    """Sides of which the larger part is their own: what they share, and the reference sees, only pairs can tell."""
    sides, reference = planted_sides(n)
    rng = np.random.default_rng(9)
    for name, side in sides.items():
        own = rng.standard_normal((n, 4))[np.unique(side.groups, return_inverse=True)[1]]
        values = side.values + 3 * own @ rng.standard_normal((4, side.width))
        sides[name] = replace(side, values=values.astype(np.float32))
    return sides, reference


def test_where_only_pairs_tell_what_is_shared_the_joint_is_above_raw_untrained_mixed_and_shuffled():
    sides, reference = with_private_parts()
    config = CONFIG.model_copy(update={"epochs": 40, "width": 16, "lr": 1e-2, "halves": 100})
    _, shuffled, _ = run(sides, reference, config.model_copy(update={"shuffle_pairs": True, "epochs": 6}))
    evaluation, _, results = run(sides, reference, config, control=shuffled.adapters)
    for metric in METRICS:
        verdicts = {row.contrast: row.verdict for row in find(results.contrasts, metric=metric)}
        assert sorted(verdicts) == sorted(titles("xy", control=True))
        for title in titles("xy", control=True):
            if "adapted parts" not in title and "best adapted" not in title:
                assert verdicts[title] == "above", title
        row = one(results.contrasts, metric=metric, contrast="joint: trained − pairs shuffled")
        control = embed_split(evaluation.test, shuffled.adapters).spaces["joint"].values
        joint = recorded_scores(results, metric)["joint"]
        expected = joint - score(metric, control, evaluation.test.paired.reference)
        assert row.value == pytest.approx(expected, abs=1e-6) and row.family == HEADLINE


def test_a_test_split_too_small_for_halves_keeps_its_scores_and_differences_and_says_why_no_more():
    _, _, results = run(*planted_sides(28))
    rows = [
        row for row in find(results.rows, split="test", metric="mutual_knn") if row.stage not in ("untrained", "noise")
    ]
    assert all(row.value is not None and row.ci_low is None and "no interval" in row.note for row in rows)
    contrasts = find(results.contrasts, metric="mutual_knn")
    assert len(contrasts) == len(titles("xy"))
    for row in contrasts:
        assert row.value is not None and (row.ci_low, row.p, row.verdict) == (None, None, "cannot tell")
        assert row.note.startswith("no interval: ")


# -- without a reference ----------------------------------------------------------------------------------------------


def test_without_a_reference_there_are_no_contrasts_and_sides_are_measured_against_each_other():
    evaluation, _, results = run(planted_sides(200, third=True)[0], None)
    assert results.contrasts == [] and evaluation.mixtures == ([], {})
    assert {row.stage for row in results.rows} == {"raw", "trained", "untrained", "noise"}
    pairs = set(combinations("xyz", 2))
    aligned = [row for row in results.rows if row.metric in METRICS]
    assert {(row.space, row.against) for row in aligned} == pairs
    assert {(row.stage, row.split) for row in aligned} == {
        ("raw", "validation"),
        ("raw", "test"),
        ("noise", "test"),
        ("trained", "test"),
        ("untrained", "test"),
    }
    assert sum((row.stage, row.metric) == ("trained", "R@10") for row in results.rows) == 6


# -- one training seed and the next -----------------------------------------------------------------------------------


def test_nulls_and_halves_are_the_same_draws_for_every_training_seed(two):
    sides, reference = planted_sides(200, noise=1.0)
    other = CONFIG.model_copy(update={"seed": 5})
    first, second = two[0].raw_rows, Evaluation(pair_sides(sides, reference, other), other).raw_rows
    assert [replace(row, seconds=0.0) for row in first] == [replace(row, seconds=0.0) for row in second]
