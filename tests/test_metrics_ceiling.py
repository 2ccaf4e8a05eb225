"""Ridge ceilings find what is there, in whichever space it is, and nothing where there is nothing; kernel mixtures."""

from collections import defaultdict

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from featcache.metrics import METRICS, chance_mutual_knn, errors, mixed, mixing_curve, mutual_knn, ridge_ceiling
from featcache.metrics.sweeps import ceiling, ridge

RNG = np.random.default_rng
KNN = {"mutual_knn": {"k": 5}}


def planted(n=240, seed=0, in_x=True, in_y=True):
    """A reference of two latents; x carries the first or not, y the second or not, both among other things."""
    rng = RNG(seed)
    one, two, noise_x, noise_y = rng.standard_normal((4, n, 3))
    x = np.hstack([one, noise_x]) if in_x else np.hstack([noise_y**2, noise_x])
    y = np.hstack([two, noise_y]) if in_y else np.hstack([noise_x**2, noise_y])
    reference = np.hstack([one, two]) @ rng.standard_normal((6, 8))
    turn_x, turn_y = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    return x @ turn_x + 2, y @ turn_y, reference + 0.1 * rng.standard_normal((n, 8))


def means(points):
    """(source, metric) -> mean over folds."""
    values = defaultdict(list)
    for point in points:
        values[point.source, point.metric].append(point.value)
    return {key: float(np.mean(result)) for key, result in values.items()}


def test_what_is_in_both_together_is_found_and_each_alone_has_its_share():
    result = means(ridge_ceiling(*planted(), metrics=KNN))
    assert result["both", "r2"] > 0.95
    assert 0.3 < result["x", "r2"] < 0.7
    assert 0.3 < result["y", "r2"] < 0.7
    assert result["both", "mutual_knn"] > 0.7 > max(result["x", "mutual_knn"], result["y", "mutual_knn"])


def test_what_is_in_y_alone_is_found_there_and_not_in_x():
    result = means(ridge_ceiling(*planted(in_x=False), metrics=KNN))
    chance = chance_mutual_knn(48, 5)
    assert result["x", "r2"] < 0.05
    assert result["x", "mutual_knn"] == pytest.approx(chance, abs=0.05)
    assert result["y", "r2"] > 0.3
    assert result["y", "mutual_knn"] > chance + 0.15
    assert result["both", "r2"] == pytest.approx(result["y", "r2"], abs=0.05)


def test_what_is_in_neither_is_not_found():
    points = ridge_ceiling(*planted(in_x=False, in_y=False), metrics=KNN)
    for (source, metric), value in means(points).items():
        if metric == "r2":
            assert -0.1 < value < 0.05, source
        else:
            assert value == pytest.approx(chance_mutual_knn(48, 5), abs=0.05), source


def test_groups_are_not_split_so_that_copies_teach_nothing():
    rng = RNG(0)
    groups = np.repeat(np.arange(60), 5)
    x, y, reference = (np.repeat(rng.standard_normal((60, 40)), 5, axis=0) for _ in range(3))
    x = x + 0.01 * rng.standard_normal(x.shape)
    honest = means(ridge_ceiling(x, y, reference, groups=groups, metrics=KNN))
    fooled = means(ridge_ceiling(x, y, reference, metrics={}))
    assert honest["x", "r2"] < 0.05
    assert honest["both", "mutual_knn"] < 0.2
    assert fooled["x", "r2"] > 0.3


def test_raw_spaces_and_mixtures_are_scored_on_the_same_folds_and_galleries():
    x, y, reference = planted(n=100)
    options = KNN | {"cka_debiased": {}}
    points = ridge_ceiling(x, y, reference, metrics=options, weights=[1.0, 0.3, 0.0])
    assert points[: -3 * 5 * 2] == ridge_ceiling(x, y, reference, metrics=options)
    raw = points[-3 * 5 * 2 :]
    assert list(dict.fromkeys(p.source for p in raw)) == ["raw x", "mixed w=0.3", "raw y"]
    assert {(p.alpha, p.balance) for p in raw} == {(None, None)} and {p.metric for p in raw} == set(options)
    fold_of = ridge.fold_numbers(np.arange(100), 5, 0)
    for point in raw:
        weight = {"raw x": 1.0, "raw y": 0.0}.get(point.source, 0.3)
        rows = fold_of == point.fold
        function = METRICS[point.metric].function
        expected = function(mixed([x, y], [weight, 1 - weight])[rows], reference[rows], **options[point.metric])
        assert point.value == pytest.approx(expected, abs=1e-12)
        assert point.n == rows.sum()


def test_a_raw_space_may_score_more_than_its_ridge_which_is_no_ceiling():
    rng = RNG(3)
    x = rng.standard_normal((90, 80))
    turned = x @ np.linalg.qr(rng.standard_normal((80, 80)))[0]  # the same geometry, and too few rows to learn the turn
    result = means(ridge_ceiling(x, x[::-1], turned, metrics=KNN, weights=[1.0]))
    assert result["raw x", "mutual_knn"] > 0.99 > 0.8 > result["x", "mutual_knn"]


def by_sklearn(values, targets, train, held, alpha):
    return Ridge(alpha=alpha * len(train), solver="svd").fit(values[train], targets[train]).predict(values[held])


def data(n, d, seed=0):
    rng = RNG(seed)
    values = rng.standard_normal((n, d)) * rng.uniform(0.1, 2, d) + 100
    values[:, 1] = 0.3  # constant: it must neither divide by zero nor matter
    return values, values[:, :3] @ rng.standard_normal((3, 4)) + rng.standard_normal((n, 4)) + 2


@pytest.mark.parametrize(("n", "d"), [(90, 6), (40, 40), (40, 70)])  # sums over folds up to n columns, rows above
def test_predictions_are_those_of_sklearns_ridge_narrow_and_wide(n, d):
    values, targets = data(n, d)
    fold_of = ridge.fold_numbers(np.arange(n), 4, 1)
    for alpha in (1e-3, 0.5, 20.0):
        for fold, held in enumerate(ridge.cross_predicted([values], targets, fold_of, [alpha])):
            train = np.flatnonzero(fold_of != fold)
            assert (held.rows == np.flatnonzero(fold_of == fold)).all()
            assert held.alpha == alpha
            expected = by_sklearn(values, targets, train, held.rows, alpha)
            np.testing.assert_allclose(held.predicted, expected, atol=1e-8)


@pytest.mark.parametrize(("n", "d"), [(80, 30), (40, 70)])
def test_the_penalty_of_a_fold_is_the_best_on_the_others_without_it(n, d):
    values, targets = data(n, d)
    fold_of = ridge.fold_numbers(np.arange(n), 5, 1)
    result = set()
    for fold, held in enumerate(ridge.cross_predicted([values], targets, fold_of, ceiling.ALPHAS)):
        errors_of = defaultdict(float)
        for other in set(range(5)) - {fold}:
            train, out = np.flatnonzero((fold_of != fold) & (fold_of != other)), np.flatnonzero(fold_of == other)
            for alpha in ceiling.ALPHAS:
                errors_of[alpha] += ((by_sklearn(values, targets, train, out, alpha) - targets[out]) ** 2).sum()
        assert held.alpha == min(errors_of, key=errors_of.__getitem__)
        result.add(held.alpha)
    assert result <= set(ceiling.ALPHAS[1:-1])  # the choice is a real one, not an end of the range


def test_the_balance_of_a_fold_is_the_best_on_the_others_and_spares_a_good_space_a_bad_one():
    rng = RNG(0)
    x, y = rng.standard_normal((150, 10)), rng.standard_normal((150, 60))
    reference = x @ rng.standard_normal((10, 6)) + rng.standard_normal((150, 6))
    points = ridge_ceiling(x, y, reference, metrics={})
    assert {p.balance for p in points if p.source == "both"} == {min(ceiling.BALANCES)}
    assert {p.balance for p in points if p.source != "both"} == {None}
    turned = ridge_ceiling(y, x, reference, metrics={})
    assert {p.balance for p in turned if p.source == "both"} == {max(ceiling.BALANCES)}
    fold_of = ridge.fold_numbers(np.arange(150), 5, 0)
    scaled = ridge.normalized(x), ridge.normalized(y)
    each = [np.hstack([scaled[0], balance * scaled[1]]) for balance in ceiling.BALANCES]
    alone = [ridge.cross_predicted([space], reference, fold_of, [0.3]) for space in each]
    errors_of = [[((h.predicted - reference[h.rows]) ** 2).sum() for h in held] for held in alone]
    chosen = ridge.cross_predicted(each, reference, fold_of, [0.3])
    for fold, held in enumerate(chosen):
        np.testing.assert_array_equal(held.predicted, alone[held.space][fold].predicted)
        assert sum(errors_of[held.space]) <= 1.05 * min(map(sum, errors_of))


def test_a_unit_that_is_active_in_two_rows_of_a_thousand_spoils_no_fold():
    rng = RNG(0)
    x = np.abs(rng.standard_normal((300, 8)))
    rare = np.zeros((300, 40))
    for column, rows in enumerate(rng.permutation(300)[:80].reshape(40, 2)):
        rare[rows, column] = 0.05  # standardised, each would be twelve deviations away
    reference = x @ rng.standard_normal((8, 5)) + rng.standard_normal((300, 5))
    clean, result = (ridge_ceiling(each, x[::-1], reference, metrics={}) for each in (x, np.hstack([x, rare])))
    for p, q in zip(clean, result, strict=True):
        if p.source == "x":
            assert q.value == pytest.approx(p.value, abs=0.01)


def test_a_space_is_evened_by_one_number_whatever_its_unit_and_place():
    values = RNG(0).standard_normal((50, 3)) * [1, 2, 5]
    scaled = ridge.normalized(values)
    assert np.mean(scaled**2) == pytest.approx(1)
    np.testing.assert_allclose(scaled.std(axis=0) / scaled.std(axis=0)[0], values.std(axis=0) / values.std(axis=0)[0])
    np.testing.assert_allclose(ridge.normalized(1e-3 * values + 7), scaled, atol=1e-9)
    assert (ridge.normalized(np.full((5, 2), 0.3)) == 0).all()


@pytest.mark.parametrize(("n", "d"), [(60, 5), (30, 50)])
def test_the_error_from_sums_is_the_error_of_the_predictions(n, d):
    values, targets = data(n, d)
    fold_of = ridge.fold_numbers(np.arange(n), 3, 0)
    problem = (ridge._Tall if d < n else ridge._Wide)(values, targets, fold_of)
    fit = problem.fit(without=(0, 2))
    for fold in (0, 2):
        rows = problem.rows[fold]
        predicted = [fit.predicted(problem.values[rows], alpha) for alpha in ceiling.ALPHAS]
        expected = [((one - targets[rows]) ** 2).sum() for one in predicted]
        np.testing.assert_allclose(fit.errors(problem.held(fit, fold), ceiling.ALPHAS), expected, rtol=1e-9)


def test_folds_keep_groups_whole_and_are_even():
    codes = np.repeat(np.arange(23), 3)
    fold_of = ridge.fold_numbers(codes, 5, 0)
    assert all(len(set(fold_of[codes == group])) == 1 for group in range(23))
    assert sorted(np.bincount(fold_of).tolist()) == [12, 12, 15, 15, 15]
    assert (ridge.fold_numbers(codes, 5, 0) == fold_of).all()
    assert (ridge.fold_numbers(codes, 5, 1) != fold_of).any()


def test_rows_are_tidy_and_scored_on_the_fold_alone():
    x, y, reference = planted(101)
    metrics = {"mutual_knn": {"k": 4}, "jaccard_knn": {}}
    points = ridge_ceiling(x, y, reference, folds=4, metrics=metrics, alphas=[0.1], seed=5)
    assert len(points) == 3 * 4 * 3
    assert [p.source for p in points] == ["x"] * 12 + ["y"] * 12 + ["both"] * 12
    assert sorted(p.n for p in points if p.source == "x" and p.metric == "r2") == [25, 25, 25, 26]
    fold_of = ridge.fold_numbers(np.arange(101), 4, 5)
    for fold in range(4):
        train, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        predicted = by_sklearn(ridge.normalized(x), reference, train, held, 0.1)
        for p in (p for p in points if (p.source, p.fold) == ("x", fold)):
            assert (p.n, p.alpha, p.balance) == (len(held), 0.1, None)
            if p.metric == "mutual_knn":
                assert p.value == mutual_knn(predicted, reference[held], k=4)
                assert (p.k, p.chance) == (4, chance_mutual_knn(len(held), 4))
            elif p.metric == "r2":
                total = ((reference[held] - reference[train].mean(axis=0)) ** 2).sum()
                assert p.value == pytest.approx(1 - ((predicted - reference[held]) ** 2).sum() / total, abs=1e-9)
                assert (p.k, p.chance) == (None, None)
    assert points == ridge_ceiling(x, y, reference, folds=4, metrics=metrics, alphas=[0.1], seed=5)


def test_a_ceiling_that_cannot_be_computed_is_refused_before_anything_is_fitted(monkeypatch):
    x, y, reference = planted(60)
    monkeypatch.setattr(ceiling, "cross_predicted", None)
    with pytest.raises(errors.BadChoice, match="'knn' is unknown"):
        ridge_ceiling(x, y, reference, metrics=["knn"])
    with pytest.raises(errors.BadChoice, match="mutual_knn has no option kk"):
        ridge_ceiling(x, y, reference, metrics={"mutual_knn": {"kk": 3}})
    for folds in (2, 61):
        with pytest.raises(errors.BadChoice, match=f"folds = {folds}: wanted 3 to 60, the number of groups"):
            ridge_ceiling(x, y, reference, folds=folds, metrics={})
    with pytest.raises(errors.BadChoice, match="folds = 5: wanted 3 to 4"):
        ridge_ceiling(x, y, reference, groups=[0, 1, 2, 3] * 15, alphas=[1.0], metrics={})
    for alphas in ([], [1.0, 0.0], [float("inf")]):
        with pytest.raises(errors.BadChoice, match="wanted one or more positive numbers"):
            ridge_ceiling(x, y, reference, alphas=alphas, metrics={})
    with pytest.raises(errors.BadShape, match="x has 60 rows and y has 59"):
        ridge_ceiling(x, y, reference[1:], metrics={})
    with pytest.raises(errors.ConstantSpace):
        ridge_ceiling(x, y, np.ones_like(reference), metrics={})


def test_a_fold_with_too_few_rows_for_k_is_refused():
    with pytest.raises(errors.TooFewRows, match="k = 10"):
        ridge_ceiling(*planted(50), metrics=["mutual_knn"])


@pytest.mark.parametrize("name", [name for name, m in METRICS.items() if m.comparison and not m.same_width])
def test_a_mixing_curve_is_the_metric_of_each_mixture(name):
    x, y, reference = planted(60)
    for point in mixing_curve(x, y, reference, weights=[0.0, 0.3, 1.0], name=name):
        expected = METRICS[name].function(mixed([x, y], [point.weight, 1 - point.weight]), reference)
        assert point.value == pytest.approx(expected, abs=1e-12)
        assert (point.metric, point.n) == (name, 60)


def test_a_mixture_of_two_halves_of_a_reference_is_nearer_to_it_than_either():
    rng = RNG(0)
    one, two = rng.standard_normal((2, 300, 4))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (one, two)]
    points = mixing_curve(one, two, np.hstack(unit), k=5)
    values = [p.value for p in points]
    assert [p.weight for p in points] == list(ceiling.WEIGHTS)
    assert values[5] > 0.99
    assert max(values[0], values[-1]) < 0.5
    assert values[0] == mutual_knn(two, np.hstack(unit), k=5)
    assert {p.chance for p in points} == {chance_mutual_knn(300, 5)}


def test_a_mixing_curve_respects_groups():
    x, y, reference = planted(60)
    groups = np.repeat(np.arange(20), 3)
    (point,) = mixing_curve(x, y, reference, weights=[0.5], groups=groups, k=4)
    assert point.value == mutual_knn(mixed([x, y], [0.5, 0.5]), reference, k=4, groups=groups)


def test_a_mixture_that_does_not_exist_is_refused():
    x, y, reference = planted(60)
    with pytest.raises(errors.BadChoice, match=r"weights = \[1.5, -0.5\]: wanted 2 of 0 or more that sum to 1"):
        mixing_curve(x, y, reference, weights=[0.5, 1.5])
    with pytest.raises(errors.BadChoice, match="weights: wanted one or more"):
        mixing_curve(x, y, reference, weights=[])
    with pytest.raises(errors.BadChoice, match="'knn' is unknown"):
        mixing_curve(x, y, reference, name="knn")
    with pytest.raises(errors.BadShape, match="x has 60 rows and y has 59"):
        mixing_curve(x, y, reference[1:])


def test_a_mixing_curve_takes_every_option_of_its_metric():
    x, y, reference = RNG(3).standard_normal((3, 40, 6))
    (result,) = mixing_curve(x, y, reference, weights=[1.0], metric="euclidean", k=4)
    assert result.value == mutual_knn(mixed([x, y], [1.0, 0.0]), reference, metric="euclidean", k=4)


def test_one_metric_may_be_asked_for_at_several_options():
    x, y, reference = RNG(3).standard_normal((3, 60, 3))
    metrics = {"mutual_knn:k=3": {"k": 3}, "mutual_knn:k=5": {"k": 5}}
    result = ridge_ceiling(x, y, reference, folds=3, metrics=metrics)
    assert {(p.metric, p.k) for p in result} == {("r2", None), ("mutual_knn:k=3", 3), ("mutual_knn:k=5", 5)}
