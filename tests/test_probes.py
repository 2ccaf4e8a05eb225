"""Probes equal slow restatements and scikit-learn, choose on validation alone, and know nothing of permuted labels."""

import numpy as np
import pytest

from featcache.metrics.errors import BadChoice, BadShape, TooFewRows, ZeroRow
from featcache.metrics.measure.contrasts import Contrast
from featcache.metrics.measure.row import Row
from featcache.metrics.probes.accuracy import accuracy, chance_accuracy, class_codes, majority_class
from featcache.metrics.probes.accuracy_rows import Predictions, accuracy_contrasts, accuracy_rows
from featcache.metrics.probes.linear_map import fit_ridge_map
from featcache.metrics.probes.logistic import choose_logistic, fit_logistic
from featcache.metrics.probes.nearest import knn_classes
from featcache.metrics.probes.zero_shot import class_vectors, zero_shot_classes


def clusters(n, d, c, spread, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    y[:c] = np.arange(c)
    return rng.normal(size=(c, d))[y] + spread * rng.normal(size=(n, d)), y


# -- logistic regression -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(120, 7), (40, 90)])
@pytest.mark.parametrize("penalty", [1.0, 1e-2])
def test_the_linear_probe_is_scikit_learns_on_standardised_columns(n, d, penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clusters(n, d, 4, 1.5, seed=n)
    x = x * np.linspace(0.1, 30, d) + 5
    (probe,) = fit_logistic(x, y, penalties=(penalty,))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    other = linear_model.LogisticRegression(C=1 / (n * penalty), tol=1e-9, max_iter=5_000).fit(z, y)
    weights = other.coef_.T - other.coef_.T.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(probe.weights - probe.weights.mean(axis=1, keepdims=True), weights, atol=5e-5)
    np.testing.assert_allclose(probe.bias - probe.bias.mean(), other.intercept_ - other.intercept_.mean(), atol=5e-5)
    assert probe.converged
    np.testing.assert_array_equal(probe.classes(x), other.predict(z))


def test_a_constant_column_changes_no_logit():
    x, y = clusters(60, 5, 3, 1.0, seed=0)
    padded = np.c_[x, np.full(60, 7.0)]
    (plain,), (wider,) = (fit_logistic(rows, y, penalties=(0.1,)) for rows in (x, padded))
    np.testing.assert_allclose(plain.logits(x), wider.logits(padded), atol=1e-4)


def test_the_penalty_is_the_best_on_validation_and_fitted_on_training_rows_alone():
    x, y = clusters(90, 40, 3, 2.5, seed=1)
    more, true = clusters(60, 40, 3, 2.5, seed=1)
    chosen = choose_logistic(x, y, (more[:30], true[:30]))
    path = fit_logistic(x, y)
    hits = [np.mean(probe.classes(more[:30]) == true[:30]) for probe in path]
    assert np.mean(chosen.classes(more[:30]) == true[:30]) == max(hits)
    (same,) = [probe for probe in path if probe.penalty == chosen.penalty]
    np.testing.assert_array_equal(same.weights, chosen.weights)


def test_a_validation_class_that_no_training_row_has_is_missed():
    x, y = clusters(60, 5, 2, 0.1, seed=2)
    probe = choose_logistic(x, y, (x[:4], np.array([2, 2, 2, 2])))
    assert probe.weights.shape == (5, 2)


@pytest.mark.parametrize(
    ("y", "penalties", "error", "says"),
    [
        (np.zeros(6, int), (0.1,), BadChoice, "training rows hold 1 class"),
        (np.array([0, 1, 0, 1, 0, 1]), (0.0,), BadChoice, "above 0"),
        (np.array([0, 1]), (0.1,), BadShape, "one class for each of 6 rows"),
    ],
)
def test_what_cannot_be_fitted_is_refused(y, penalties, error, says):
    with pytest.raises(error, match=says):
        fit_logistic(np.eye(6), y, penalties=penalties)


# -- neighbours and prompts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.07, 0.5, None])
@pytest.mark.parametrize("k", [1, 4, 15])
def test_neighbours_vote_as_a_plain_loop_counts(k, temperature):
    gallery, classes = clusters(70, 6, 5, 1.5, seed=3)
    queries, _ = clusters(25, 6, 5, 1.5, seed=4)
    expected = []
    for query in queries:
        cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in gallery]
        nearest = sorted(range(len(gallery)), key=lambda i: (-cosines[i], i))[:k]
        votes = {}
        for i in nearest:
            count, total = votes.get(classes[i], (0, 0.0))
            weight = 1 if temperature is None else np.exp(cosines[i] / temperature)
            votes[classes[i]] = (count + weight, total + cosines[i])
        expected.append(max(votes, key=lambda c: votes[c] if temperature is None else votes[c][0]))
    np.testing.assert_array_equal(knn_classes(queries, gallery, classes, k=k, temperature=temperature), expected)


def test_more_neighbours_than_training_rows_are_refused():
    with pytest.raises(TooFewRows):
        knn_classes(np.eye(3), np.eye(3), np.array([0, 1, 2]), k=4)


def test_zero_shot_classes_are_those_of_a_loop():
    rng = np.random.default_rng(5)
    prompts, classes, images = rng.normal(size=(12, 4)), np.repeat(np.arange(4), 3), rng.normal(size=(9, 4))
    expected = []
    for image in images:
        scores = []
        for c in range(4):
            mean = np.mean([p / np.linalg.norm(p) for p, own in zip(prompts, classes, strict=True) if own == c], axis=0)
            scores.append(image @ mean / np.linalg.norm(mean))
        expected.append(int(np.argmax(scores)))
    np.testing.assert_array_equal(zero_shot_classes(images, class_vectors(prompts, classes)), expected)


def test_prompts_that_cancel_and_classes_without_a_prompt_are_refused():
    with pytest.raises(ZeroRow):
        class_vectors(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0, 0]))
    with pytest.raises(BadShape, match="class 0 has no prompt"):
        class_vectors(np.eye(2), np.array([1, 1]))
    with pytest.raises(BadShape, match="one space is needed"):
        zero_shot_classes(np.eye(3), np.eye(2))


# -- ridge map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(60, 8), (20, 50)])
def test_the_ridge_map_solves_its_normal_equations(n, d):
    rng = np.random.default_rng(6)
    x, y, held = rng.normal(size=(n, d)) + 3, rng.normal(size=(n, 3)), (rng.normal(size=(9, d)), np.zeros((9, 3)))
    fitted = fit_ridge_map(x, y, held, alphas=(0.3,))
    centred = x - x.mean(axis=0)
    penalty = 0.3 * np.sum(centred**2) / d
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(d), centred.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(fitted(held[0]), (held[0] - x.mean(axis=0)) @ weights + y.mean(axis=0), atol=1e-9)


def test_the_ridge_maps_penalty_is_the_best_on_the_held_out_rows():
    rng = np.random.default_rng(7)
    turn = rng.normal(size=(10, 2))
    x, more = rng.normal(size=(30, 10)), rng.normal(size=(200, 10))
    y, wanted = x @ turn + 3 * rng.normal(size=(30, 2)), more @ turn
    alphas = (1e-4, 1e-1, 1.0, 1e3)
    errors = [np.sum((fit_ridge_map(x, y, (more, wanted), alphas=(alpha,))(more) - wanted) ** 2) for alpha in alphas]
    assert fit_ridge_map(x, y, (more, wanted), alphas=alphas).alpha == alphas[int(np.argmin(errors))]


def test_a_map_of_rows_that_are_all_alike_is_refused():
    with pytest.raises(BadChoice, match="every training row is the same"):
        fit_ridge_map(np.ones((5, 2)), np.ones((5, 1)), (np.ones((2, 2)), np.ones((2, 1))))
    with pytest.raises(BadShape, match="do not fit"):
        fit_ridge_map(np.eye(3), np.ones((2, 1)), (np.ones((2, 3)), np.ones((2, 1))))


# -- accuracy ----------------------------------------------------------------------------------------------------------


def test_balanced_accuracy_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(8)
    true, predicted = rng.integers(0, 4, 80) % 3, rng.integers(0, 3, 80)
    assert accuracy(predicted, true) == metrics.accuracy_score(true, predicted)
    assert accuracy(predicted, true, balanced=True) == pytest.approx(metrics.balanced_accuracy_score(true, predicted))


@pytest.mark.parametrize("balanced", [False, True])
def test_chance_is_the_mean_over_permuted_labels(balanced):
    rng = np.random.default_rng(9)
    true, predicted = np.repeat([0, 1, 2], [30, 15, 5]), rng.integers(0, 4, 50)
    drawn = [accuracy(predicted, rng.permutation(true), balanced=balanced) for _ in range(4_000)]
    assert chance_accuracy(predicted, true, balanced=balanced) == pytest.approx(np.mean(drawn), abs=0.005)


def test_a_label_that_training_lacks_is_no_class_of_it():
    assert class_codes(np.array(["b", "x", "a", "x"]), ["a", "b"]).tolist() == [1, 2, 0, 2]
    assert majority_class(np.array([3, 1, 3])) == 3


def test_rows_hold_accuracy_with_interval_and_contrasts_the_difference_of_the_same_groups():
    rng = np.random.default_rng(10)
    true = rng.integers(0, 3, 200)
    good = np.where(rng.random(200) < 0.9, true, (true + 1) % 3)
    bad = np.where(rng.random(200) < 0.5, true, (true + 1) % 3)
    predictions = [Predictions(Row(name, "label", "probe", None), p) for name, p in (("good", good), ("bad", bad))]
    rows = accuracy_rows(predictions, true)
    assert [row.metric for row in rows] == ["probe_accuracy", "probe_balanced_accuracy"] * 2
    assert all(row.ci_low < row.value < row.ci_high and row.n == 200 for row in rows)
    for contrast in accuracy_contrasts(predictions, true, [Contrast("good", ("bad",))]):
        balanced = contrast.metric == "probe_balanced_accuracy"
        value = accuracy(good, true, balanced=balanced) - accuracy(bad, true, balanced=balanced)
        assert contrast.value == pytest.approx(value) and contrast.verdict == "above"
    with pytest.raises(TooFewRows, match="an interval needs 4"):
        accuracy_rows([Predictions(Row("x", "label", "probe", None), true[:3])], true[:3])


# -- under the null ----------------------------------------------------------------------------------------------------


def test_with_permuted_labels_the_intervals_cover_chance_and_spaces_are_rarely_called_different():
    rng, covered, different, runs = np.random.default_rng(11), 0, 0, 300
    for _ in range(runs):
        x, y = rng.normal(size=(230, 6)), rng.integers(0, 4, 230)  # labels that no feature knows
        predictions = []
        for name, rows in (("a", x[:, :3]), ("b", x[:, 3:])):
            classes = knn_classes(rows[130:], rows[:130], y[:130], k=9)
            predictions.append(Predictions(Row(name, "label", "knn", None), classes))
        rows = accuracy_rows(predictions, y[130:], repeats=20)
        covered += sum(row.ci_low <= 0.25 <= row.ci_high for row in rows if row.metric == "knn_accuracy")
        row, _ = accuracy_contrasts(predictions, y[130:], [Contrast("a", ("b",))], repeats=20)
        different += row.verdict in ("above", "below")
    assert 0.92 < covered / (2 * runs) < 0.98
    assert different / runs < 0.08
