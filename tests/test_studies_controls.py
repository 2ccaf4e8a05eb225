"""Controls without training say what slow restatements say, and look at no test group before they are measured."""

from dataclasses import replace

import numpy as np
import pytest

from featcache.metrics import ArraySpace, cka, distribution_gap, intrinsic_dimension, mutual_knn, spectrum_noise
from featcache.metrics.sweeps.ridge import ridge_paths
from featcache.studies.adapters.controls import dimension_rows, mean_rows, whole_groups
from featcache.studies.adapters.results import Evaluation, final_results
from featcache.trainer.config import FitConfig
from featcache.trainer.fit import fit_paired, untrained_adapters
from featcache.trainer.sides import pair_sides
from featcache.trainer.solve import PENALTIES
from featcache.trainer.subsets import training_groups
from featcache.trainer.tracking import METRICS, embed_split
from tests.trainer_planted import features, planted_sides

CONFIG = FitConfig(epochs=2, batch=32, width=8, k=5, lr=5e-3, permutations=39, halves=20, untrained=3)
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def evaluation():
    return Evaluation(pair_sides(*planted_sides(200, noise=1.0), CONFIG), CONFIG)


def find(rows, **wanted):
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def unit(values):
    values = np.asarray(values, np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def score(metric, values, other, k=5):
    """A score of a run, from the metric's own function."""
    if metric == "mutual_knn":
        return mutual_knn(unit(values), unit(other), k=k)
    return cka(unit(values), unit(other), debiased=True)


# -- ridge ------------------------------------------------------------------------------------------------------------


def solved(x, y, alpha, other):
    """Ridge regression by the normal equations, its penalty over n, and its predictions of other rows."""
    mean, target = x.mean(axis=0), y.mean(axis=0)
    inner = (x - mean).T @ (x - mean) / len(x) + alpha * np.eye(x.shape[1])
    weights = np.linalg.solve(inner, (x - mean).T @ (y - target) / len(x))
    return (other - mean) @ weights + target


@pytest.mark.parametrize("width", [9, 60])
def test_ridge_paths_predict_what_the_normal_equations_do_and_choose_the_least_error(width):
    rng = RNG(0)
    weights = rng.standard_normal((width, 4))
    x, held = rng.standard_normal((40, width)) + 3, rng.standard_normal((15, width)) + 3
    y, target = (rows @ weights + 2 * rng.standard_normal((len(rows), 4)) for rows in (x, held))
    columns = {"some": slice(2, 7), "rest": slice(7, width), "all": slice(0, width)}
    paths = ridge_paths(x, y, columns)
    assert [*paths] == [*columns]
    for name, own in columns.items():
        slow = {alpha: solved(x[:, own], y, alpha, held[:, own]) for alpha in PENALTIES}
        for alpha, expected in slow.items():
            np.testing.assert_allclose(paths[name].predicted(held[:, own], alpha), expected, atol=1e-8)
        errors = {alpha: ((expected - target) ** 2).sum() for alpha, expected in slow.items()}
        best = min(errors, key=errors.__getitem__)
        alpha, r2 = paths[name].chosen(held[:, own], target, PENALTIES)
        assert alpha == best
        assert r2 == pytest.approx(1 - errors[best] / ((target - target.mean(axis=0)) ** 2).sum(), abs=1e-9)


def slow_ridge(evaluation, name, split):
    """Predictions of one side, or of all beside each other, by the normal equations; and their penalty."""
    paired = evaluation.paired

    def inputs(part):
        means = [paired.part(part).sides[side].means().double().numpy() for side in paired.sides]
        fitted = [paired.part("train").sides[side].means().double().numpy() for side in paired.sides]
        columns = [(own - of.mean(axis=0)) / of.std(axis=0) for own, of in zip(means, fitted, strict=True)]
        return dict(zip(paired.sides, columns, strict=True)) | {"joint": np.hstack(columns)}

    x, held = inputs("train")[name], inputs("validation")[name]
    y, target = (unit(paired.part(part).reference) for part in ("train", "validation"))
    errors = [((solved(x, y, alpha, held) - target) ** 2).sum() for alpha in PENALTIES]
    best = PENALTIES[int(np.argmin(errors))]
    return solved(x, y, best, inputs(split)[name]), best


@pytest.mark.parametrize("split", ["validation", "test"])
def test_ridge_rows_are_the_scores_of_a_regression_that_is_solved_slowly(evaluation, split):
    rows = find(evaluation.ridge(CONFIG), split=split)
    assert [(row.space, row.metric) for row in rows] == [(s, m) for s in ("x", "y", "joint") for m in METRICS]
    for row in rows:
        predicted, penalty = slow_ridge(evaluation, row.space, split)
        expected = score(row.metric, predicted, evaluation.paired.part(split).reference)
        assert (row.stage, row.against) == ("ridge", "reference")
        assert row.value == pytest.approx(expected, abs=2e-3 if row.metric == "mutual_knn" else 1e-5)
        assert row.note.startswith(f"penalty {penalty:g}, chosen on validation (R² ")
        assert row.note.endswith("of 100 training groups") and row.chance is not None
        assert (row.ci_low is not None) == (split == "test") and row.null == "none"


def test_ridge_is_above_the_raw_side_where_the_reference_sees_a_part_of_it_only():
    sides, reference = planted_sides(400)
    own = 6 * RNG(3).standard_normal((400, 4))
    turned = own @ RNG(4).standard_normal((4, sides["x"].width))
    sides["x"] = replace(sides["x"], values=(sides["x"].values + turned).astype(np.float32))
    evaluation = Evaluation(pair_sides(sides, reference, CONFIG), CONFIG)
    of = {"space": "x", "against": "reference", "metric": "cka_debiased", "split": "test"}
    (raw,), (ridge,) = find(evaluation.raw_rows, **of), find(evaluation.ridge(CONFIG), **of)
    assert ridge.ci_low > raw.ci_high + 0.2


def test_the_test_groups_have_no_say_in_the_regression(evaluation):
    sides, reference = planted_sides(200, noise=1.0)
    held = reference.splits == "test"
    strange = np.where(held[:, None], RNG(3).standard_normal(reference.values.shape), reference.values)
    changed = replace(reference, values=strange.astype(np.float32))
    other = Evaluation(pair_sides(sides, changed, CONFIG), CONFIG).ridge(CONFIG)
    for first, second in zip(evaluation.ridge(CONFIG), other, strict=True):
        assert first.note == second.note
        assert (first.value == second.value) == (first.split == "validation")


def test_the_regression_is_fitted_once_to_the_groups_that_are_trained_on(evaluation):
    assert evaluation.ridge(CONFIG) is evaluation.ridge(CONFIG.model_copy(update={"seed": 4, "shuffle_pairs": True}))
    subset = CONFIG.model_copy(update={"train_groups": 24})
    rows = evaluation.ridge(subset)
    assert all(row.note.endswith("of 24 training groups") for row in rows)
    assert rows is evaluation.ridge(subset) and rows is not evaluation.ridge(CONFIG)
    assert len(training_groups(evaluation.paired, subset).groups) == 24


def test_groups_without_a_side_or_reference_are_not_fitted_and_without_a_reference_there_is_no_regression():
    sides, reference = planted_sides(200)
    config = CONFIG.model_copy(update={"missing": "mask"})
    lost = [group for group, split in zip(reference.groups, reference.splits, strict=True) if split == "train"][:7]
    kept = ~np.isin(sides["y"].groups.astype(str), lost)
    third = features("z", sides["x"].values[:, :9], sides["x"].groups, sides["x"].splits, sides["x"].labels["kind"])
    three = {**sides, "y": sides["y"].take(kept), "z": third}
    evaluation = Evaluation(pair_sides(three, reference, config), config)
    train = evaluation.paired.part("train")
    assert len(train.groups) == 100 and len(whole_groups(train, 1000)) == 93 and len(whole_groups(train, 10)) == 10
    assert all(row.note.endswith("of 93 training groups") for row in evaluation.ridge(config))
    assert Evaluation(pair_sides(sides, None, CONFIG), CONFIG).ridge(CONFIG) == []


# -- noise ------------------------------------------------------------------------------------------------------------


def test_noise_rows_are_the_scores_of_noise_in_the_place_of_each_raw_side(evaluation):
    rows = evaluation.noise_rows
    assert {(row.stage, row.split, row.null, row.interval) for row in rows} == {("noise", "test", "none", "none")}
    test = evaluation.test.paired
    noise = {
        name: spectrum_noise(side.means(), seed=number).numpy()
        for number, (name, side) in enumerate(test.sides.items())
    }
    spaces = noise | {"reference": test.reference}
    pairs = [("x", "reference"), ("y", "reference"), ("x", "y")]
    assert [(row.space, row.against, row.metric) for row in rows] == [(a, b, m) for a, b in pairs for m in METRICS]
    for row in rows:
        expected = score(row.metric, spaces[row.space], spaces[row.against])
        assert row.value == pytest.approx(expected, abs=1e-6) and row.chance is not None
    near = [row for row in rows if row.metric == "mutual_knn"]
    assert all(abs(row.value - row.chance) < 0.06 for row in near)
    raw = {(row.space, row.against, row.metric): row.value for row in find(evaluation.raw_rows, split="test")}
    assert all(row.value < raw[row.space, row.against, row.metric] - 0.05 for row in near)


# -- gaps and dimensions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(evaluation):
    fitted = fit_paired(evaluation.paired, CONFIG, validation=evaluation.validation)
    return fitted, final_results(fitted, evaluation).rows


def embedded(evaluation, adapters):
    return {name: np.asarray(space.values) for name, space in embed_split(evaluation.test, adapters).spaces.items()}


def drawn(evaluation, fitted):
    """Spaces of every untrained initialisation."""
    own = np.random.SeedSequence(CONFIG.seed)
    seeds = [int(one.generate_state(1)[0]) for one in (own, *own.spawn(CONFIG.untrained - 1))]
    return [embedded(evaluation, untrained_adapters(fitted.paired, CONFIG, seed)) for seed in seeds]


UNMATCHED = {
    "centroid_gap": lambda a, b: np.linalg.norm(unit(a).mean(axis=0) - unit(b).mean(axis=0)),
    "distribution_gap": lambda a, b: distribution_gap(a, b),
    "mutual_knn": lambda a, b: score("mutual_knn", a, b),
    "cka_debiased": lambda a, b: score("cka_debiased", a, b),
}


@pytest.mark.parametrize("metric", UNMATCHED)
def test_the_two_sides_are_compared_with_each_other_before_and_after_training(evaluation, trained, metric):
    fitted, rows = trained
    own = UNMATCHED[metric]
    after = embedded(evaluation, fitted.adapters)
    of = {"space": "x", "against": "y", "metric": metric, "split": "test"}
    (row,) = find(rows, stage="trained", **of)
    assert row.value == pytest.approx(own(after["x"], after["y"]), abs=1e-6) and row.epoch == fitted.selected_epoch
    before = [own(spaces["x"], spaces["y"]) for spaces in drawn(evaluation, fitted)]
    (row,) = find(rows, stage="untrained", **of)
    assert row.value == pytest.approx(np.mean(before), abs=1e-6) and row.epoch == 0
    assert row.note == f"mean of 3 initialisations, {min(before):.4f} to {max(before):.4f}"
    assert row.higher_is_better == (metric in METRICS)


def test_every_space_has_its_intrinsic_dimension(evaluation, trained):
    fitted, rows = trained
    test = evaluation.test.paired
    raw = {name: side.means() for name, side in test.sides.items()} | {"reference": test.reference}
    after = embedded(evaluation, fitted.adapters)
    dimensions = find(rows, metric="intrinsic_dimension")
    expected = {("raw", name): intrinsic_dimension(unit(values)).value for name, values in raw.items()}
    expected |= {("trained", name): intrinsic_dimension(unit(values)).value for name, values in after.items()}
    for name in after:
        before = [intrinsic_dimension(unit(spaces[name])).value for spaces in drawn(evaluation, fitted)]
        expected["untrained", name] = np.mean(before)
    assert {(row.stage, row.space): row.value for row in dimensions} == pytest.approx(expected, rel=1e-3)
    assert {(row.against, row.split, row.n) for row in dimensions} == {("", "test", 50)}


def test_a_space_whose_dimension_cannot_be_estimated_says_why_and_counts_its_repeated_rows():
    x = RNG(0).standard_normal((30, 4))
    collapsed, copied = (ArraySpace(values, "x") for values in (np.eye(30), np.concatenate([x, x[:4]])))
    none, some = dimension_rows([collapsed, copied])
    assert none.value is None and "as far from its first" in none.note and none.n == 30
    assert some.value > 1 and (some.n, some.note) == (30, "4 rows left out that repeat another")
    (mean,) = mean_rows([[none], [some]])
    assert mean.value == some.value and mean.note.startswith("mean of 1 initialisations")
    assert mean_rows([[none], [none]]) == [none]
