"""The ridge probe equals scikit-learn's, what inner folds choose equals a plain loop, and several k cost one search."""

from functools import partial

import numpy as np
import pytest

from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.probes.logistic import logistic_path
from featcache.metrics.probes.nearest import knn_classes, knn_classes_by_k
from featcache.metrics.probes.ridge import RIDGE_PENALTIES, ridge_path
from featcache.metrics.probes.selection import choose_held_out, choose_in_folds


def clusters(n: int, d: int, c: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    return rng.normal(size=(c, d))[y] + spread * rng.normal(size=(n, d)) + 3, y


# -- ridge -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "c"), [(120, 7, 4), (40, 90, 4), (50, 6, 2)])
@pytest.mark.parametrize("penalty", [1.0, 1e-3])
def test_the_ridge_probe_is_scikit_learns_ridge_classifier(n: int, d: int, c: int, penalty: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clusters(n, d, c, 1.5, seed=n)
    more, _ = clusters(200, d, c, 1.5, seed=n + 1)
    (probe,) = ridge_path(x, y, penalties=(penalty,))
    assert probe.alpha == pytest.approx(penalty * np.sum((x - x.mean(axis=0)) ** 2) / d)
    other = linear_model.RidgeClassifier(alpha=probe.alpha, solver="cholesky").fit(x, y)
    scores = other.decision_function(more)
    np.testing.assert_allclose(probe.logits(more)[:, -1], scores if c == 2 else scores[:, -1], atol=1e-8)
    np.testing.assert_array_equal(probe.classes(more), other.predict(more))


def test_ridge_and_neighbours_are_scikit_learns_on_its_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier

    x, y = datasets.load_digits(return_X_y=True)
    train, test = np.arange(1200), np.arange(1200, len(y))
    (probe,) = ridge_path(x[train], y[train], penalties=(0.1,))
    other = RidgeClassifier(alpha=probe.alpha).fit(x[train], y[train])
    np.testing.assert_array_equal(probe.classes(x[test]), other.predict(x[test]))
    rows = x / np.linalg.norm(x, axis=1, keepdims=True)
    for k in (10, 20):
        weights = KNeighborsClassifier(
            k, algorithm="brute", metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
        )
        said = knn_classes(x[test], x[train], y[train], k=k)
        assert np.mean(said == weights.fit(rows[train], y[train]).predict(rows[test])) == 1.0
        assert np.mean(said == y[test]) > 0.94


def test_a_penalty_means_the_same_at_every_scale_of_a_space() -> None:
    x, y = clusters(60, 5, 3, 1.0, seed=0)
    for probe, scaled in zip(ridge_path(x, y), ridge_path(1e3 * x, y), strict=True):
        np.testing.assert_allclose(probe.logits(x), scaled.logits(1e3 * x), atol=1e-8)


def test_a_constant_column_changes_no_output_and_equal_rows_are_refused() -> None:
    x, y = clusters(60, 5, 3, 1.0, seed=0)
    (plain,), (wider,) = (
        ridge_path(rows, y, penalties=(0.1 * d,)) for rows, d in ((x, 5), (np.c_[x, x[:, :1] * 0], 6))
    )
    np.testing.assert_allclose(plain.logits(x), wider.logits(np.c_[x, x[:, :1] * 0]), atol=1e-8)
    with pytest.raises(BadChoice, match="every one is the same"):
        next(ridge_path(np.ones((6, 2)), np.arange(6) % 2))
    with pytest.raises(BadChoice, match="none below 0"):
        next(ridge_path(x, y, penalties=(-1.0,)))
    with pytest.raises(BadShape, match="one class for each of 60 rows"):
        next(ridge_path(x, y[:3]))


# -- what is chosen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ridge_path, partial(logistic_path, penalties=(1.0, 1e-1, 1e-2, 1e-3))])
def test_inner_folds_choose_what_a_plain_loop_over_all_penalties_does_and_fit_on_all_rows(path) -> None:
    x, y = clusters(90, 20, 3, 2.0, seed=1)
    folds = np.arange(90) // 3 % 5
    scores = []
    for place, probe in enumerate(path(x, y)):
        hits = loss = 0.0
        for fold in range(5):
            inner = [*path(x[folds != fold], y[folds != fold])][place]
            logits = inner.logits(x[folds == fold])
            hits += np.count_nonzero(logits.argmax(axis=1) == y[folds == fold])
            loss += inner.loss(logits, y[folds == fold]) * len(logits)
        scores.append((hits, -loss, -place, probe))
    best = max(scores, key=lambda score: score[:3])[3]
    chosen = choose_in_folds(path, x, y, folds)
    assert chosen.penalty == best.penalty
    np.testing.assert_allclose(chosen.logits(x), best.logits(x), atol=1e-6)


def test_held_out_rows_choose_the_ridge_penalty_of_the_most_hits_and_of_equals_the_least_loss() -> None:
    x, y = clusters(60, 30, 3, 2.5, seed=2)
    rows, true = clusters(45, 30, 3, 2.5, seed=3)
    scores = [
        (np.count_nonzero(probe.classes(rows) == true), -probe.loss(probe.logits(rows), true))
        for probe in ridge_path(x, y)
    ]
    chosen = choose_held_out(ridge_path, x, y, (rows, true))
    assert chosen.penalty == RIDGE_PENALTIES[scores.index(max(scores))]


def test_a_class_that_stands_in_one_fold_alone_is_missed_there_and_known_in_the_end() -> None:
    x, y = clusters(60, 6, 3, 0.3, seed=4)
    y = np.where(np.arange(60) == 59, 3, y)
    chosen = choose_in_folds(ridge_path, x, y, np.arange(60) % 5)
    assert chosen.weights.shape == (6, 4)


def test_folds_that_do_not_fit_are_refused() -> None:
    x, y = clusters(12, 4, 2, 1.0, seed=5)
    with pytest.raises(BadShape, match="one fold for each of 12 rows"):
        choose_in_folds(ridge_path, x, y, np.zeros(3, int))
    with pytest.raises(BadChoice, match="one fold"):
        choose_in_folds(ridge_path, x, y, np.zeros(12, int))


@pytest.mark.parametrize("temperature", [0.07, None])
def test_several_k_are_what_each_is_by_itself(temperature: float | None) -> None:
    gallery, classes = clusters(70, 6, 5, 1.5, seed=3)
    queries, _ = clusters(25, 6, 5, 1.5, seed=4)
    every = knn_classes_by_k(queries, gallery, classes, ks=(15, 1, 4), temperature=temperature)
    for k, said in zip((15, 1, 4), every, strict=True):
        np.testing.assert_array_equal(said, knn_classes(queries, gallery, classes, k=k, temperature=temperature))
    with pytest.raises(BadChoice, match="ks is empty"):
        knn_classes_by_k(queries, gallery, classes, ks=())
