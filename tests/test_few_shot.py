"""Few-shot classification equals a plain solution, draws as many of each class, and its intervals cover."""

import numpy as np
import pytest

from featcache.metrics.errors import BadChoice, BadShape, TooFewRows
from featcache.metrics.measure.contrasts import Contrast
from featcache.metrics.measure.row import Row
from featcache.metrics.probes.drawn_rows import DrawnPredictions, drawn_contrasts, drawn_rows
from featcache.metrics.probes.few_shot import FEW_SHOT_RIDGE, centred_unit, draw_shots, few_shot_classes


def test_each_draw_takes_as_many_rows_of_each_class_of_the_pool_alone() -> None:
    y = np.arange(80) % 4
    pool = np.arange(80) < 50
    drawn = draw_shots(y, pool, 5, draws=7, seed=0)
    assert drawn.shape == (7, 20) and pool[drawn].all()
    assert all((np.bincount(y[rows]) == 5).all() and len(set(rows.tolist())) == 20 for rows in drawn)
    assert (drawn == draw_shots(y, pool, 5, draws=7, seed=0)).all()
    assert (drawn != draw_shots(y, pool, 5, draws=7, seed=1)).any()


def test_a_class_of_fewer_rows_gives_all_of_them_and_one_that_the_pool_lacks_none() -> None:
    y = np.array([0, 0, 0, 1, 2])
    drawn = draw_shots(y, np.array([1, 1, 1, 1, 0], bool), 2, draws=3, seed=0)
    assert y[drawn].tolist() == [[0, 0, 1]] * 3


@pytest.mark.parametrize(("shots", "draws"), [(0, 1), (1, 0)])
def test_no_shots_and_no_draws_are_refused(shots: int, draws: int) -> None:
    with pytest.raises(BadChoice, match="wanted 1 or more"):
        draw_shots(np.zeros(3, int), np.ones(3, bool), shots, draws=draws, seed=0)
    with pytest.raises(BadShape, match="one truth value"):
        draw_shots(np.zeros(3, int), np.ones(2, bool), 1, draws=1, seed=0)


def test_few_shot_classes_are_those_of_scikit_learns_ridge_without_constant() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = centred_unit(np.eye(3)[y] @ rng.normal(size=(3, 9)) + rng.normal(size=(60, 9)), np.arange(40))
    drawn, held = draw_shots(y, np.arange(60) < 40, 4, draws=3, seed=0), np.arange(40, 60)
    for rows, said in zip(drawn, few_shot_classes(x, y, drawn, held, classes=3), strict=True):
        ridge = linear_model.Ridge(alpha=FEW_SHOT_RIDGE, fit_intercept=False).fit(x[rows], np.eye(3)[y[rows]] - 1 / 3)
        np.testing.assert_array_equal(said, ridge.predict(x[held]).argmax(axis=1))


def test_the_mean_over_draws_is_told_with_chance_and_a_difference_of_the_same_draws() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 3, 200)
    good, bad = (np.where(rng.random((5, 200)) < share, true, (true + 1) % 3) for share in (0.8, 0.5))
    said = [DrawnPredictions(Row(name, "label", "shot5", None), c) for name, c in (("good", good), ("bad", bad))]
    first, second = drawn_rows(said, true)
    assert (first.metric, first.value) == ("shot5_accuracy", pytest.approx((good == true).mean()))
    assert first.ci_low < first.value < first.ci_high and first.chance == pytest.approx(1 / 3, abs=0.03)
    (contrast,) = drawn_contrasts(said, true, [Contrast("good", ("bad",)), Contrast("good", ("absent",))])
    assert contrast.value == pytest.approx(first.value - second.value)
    assert contrast.ci_low > 0 and contrast.p < 1e-6
    with pytest.raises(TooFewRows, match="trainings"):
        drawn_rows([DrawnPredictions(said[0].row, good[:1])], true)


def test_intervals_cover_the_mean_accuracy_and_equal_spaces_are_rarely_called_apart() -> None:
    """Pool, shots and test groups are new in each run; of 1,500 runs, intervals cover in 95.9 %, 4.2 % are apart."""
    rng, runs, n, pool_size = np.random.default_rng(2), 300, 120, 400
    values, ends, apart = list[float](), list[tuple[float, float]](), 0
    held = np.arange(pool_size, pool_size + n)
    for seed in range(runs):
        y = np.concatenate([np.arange(pool_size) % 3, rng.integers(0, 3, n)])
        pool = np.arange(len(y)) < pool_size
        drawn, said = draw_shots(y, pool, 5, draws=10, seed=seed), []
        for name in "ab":  # two spaces that know as much
            x = np.pad(1.5 * np.eye(3)[y], ((0, 0), (0, 3))) + rng.normal(size=(len(y), 6))
            classes = np.stack([*few_shot_classes(centred_unit(x, pool), y, drawn, held, classes=3)])
            said.append(DrawnPredictions(Row(name, "label", "shot5", None), classes))
        rows = drawn_rows(said, y[held])
        values += [row.value for row in rows]
        ends += [(row.ci_low, row.ci_high) for row in rows]
        (contrast,) = drawn_contrasts(said, y[held], [Contrast("a", ("b",))])
        apart += contrast.p <= 0.05
    assert 0.93 < np.mean([low <= np.mean(values) <= high for low, high in ends]) < 0.985
    assert apart / runs < 0.08
