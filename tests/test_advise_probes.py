"""Calibrated probes know what there is to know and no more, and bounds of its parts cover the exact ones."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.data.synthetic.released import Released
from featcache.data.synthetic.tables import joint_table
from featcache.metrics.errors import BadChoice, BadShape, NotFinite, TooFewRows
from featcache.metrics.information.decompositions import broja
from featcache.metrics.information.tables import mutual_information
from featcache.metrics.probes.calibrated import (
    CalibratedSettings,
    CrossFitted,
    class_entropy,
    cross_fit,
    group_folds,
)
from featcache.metrics.probes.information_bounds import INFORMATIONS, PARTS, information_rows
from featcache.metrics.probes.perceptron import PerceptronSettings, perceptron_logits
from featcache.metrics.probes.quantised import cell_table, posterior_cells

LINEAR = CalibratedSettings(penalties=(0.1, 1e-2, 1e-3), perceptron=None)
SMALL = CalibratedSettings(penalties=(0.1, 1e-2), perceptron=PerceptronSettings(hidden=16, epochs=12, lr=0.02))


def exact(log_posteriors: np.ndarray, y: np.ndarray) -> CrossFitted:
    """What classifiers that know the exact posteriors would say."""
    shares = np.bincount(y, minlength=log_posteriors.shape[1]) / len(y)
    terms = log_posteriors[np.arange(len(y)), y] - np.log(shares[y])
    return CrossFitted(log_posteriors, terms, ("exact",), (1.0,), ())


def drawn(joint: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a table p(x1, x2, y)."""
    flat = np.random.default_rng(seed).choice(joint.size, size=n, p=joint.ravel())
    first, second, y = np.unravel_index(flat, joint.shape)
    return first, second, y


def exact_three(joint: np.ndarray, n: int, seed: int) -> tuple[list[CrossFitted], np.ndarray]:
    first, second, y = drawn(joint, n, seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # cells that do not occur are not drawn
        posteriors = [np.log(p / p.sum(axis=-1, keepdims=True)) for p in (joint.sum(axis=1), joint.sum(axis=0), joint)]
    rows = (posteriors[0][first], posteriors[1][second], posteriors[2][first, second])
    return [exact(np.maximum(row, -50.0), y) for row in rows], y


@pytest.fixture(scope="module")
def small_table() -> np.ndarray:
    """p(x1, x2, y) of a released generator with few bits, of which each kind counts."""
    generator = Released(shared=3, unique=2, used=3, temperature=0.2, rows=64)
    return joint_table(generator.table(2))


def test_usable_information_is_the_mutual_information_where_classifiers_can_be_exact(small_table: np.ndarray) -> None:
    first, _, y = drawn(small_table, 4_000, seed=0)
    found = cross_fit(np.eye(len(small_table))[first], y, group_folds(y), settings=LINEAR)
    true = mutual_information(small_table.sum(axis=1))
    assert set(found.chosen) == {"logistic"}
    assert abs(found.information - true) < 3 * found.terms.std() / 4_000**0.5 + 0.01


def test_xor_is_known_by_both_spaces_together_and_by_none_alone() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (900, 2))
    y = bits[:, 0] ^ bits[:, 1]
    spaces = [np.c_[2.0 * bits[:, side] - 1, rng.standard_normal(900)] for side in (0, 1)]
    folds = group_folds(y, folds=3)
    first, second = (cross_fit(x, y, folds, settings=SMALL) for x in spaces)
    both = cross_fit(np.concatenate(spaces, axis=1), y, folds, parts=(first, second), settings=SMALL)
    rows = {row.quantity: row for row in information_rows(first, second, both, y)}
    assert both.information > 0.6 and set(both.chosen) == {"perceptron"}
    assert max(abs(first.information), abs(second.information)) < 0.02
    # both posteriors are all but constant: a table of their cells would have no synergy
    assert rows["synergy"].low > 0.6 and rows["synergy"].value > 0.6 and rows["synergy"].ci_low > 0.5
    assert rows["redundancy"].high < 0.01 and rows["unique1"].high < 0.02


def test_what_knows_nothing_has_no_information_and_says_the_shares_of_the_classes() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 500)
    found = cross_fit(rng.standard_normal((500, 4)), y, group_folds(y), settings=SMALL)
    assert -0.02 < found.information < 0.02
    assert np.abs(np.exp(found.log_posteriors) - np.bincount(y) / 500).max() < 0.2


def test_posteriors_are_calibrated() -> None:
    """Where a class is given probability q it comes in a share q of the cases, also from features that fit too well."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 1_200)
    x = np.c_[y + 1.5 * rng.standard_normal(1_200), rng.standard_normal((1_200, 150))]
    found = cross_fit(x, y, group_folds(y), settings=LINEAR)
    said, true = np.exp(found.log_posteriors[:, 1]), y
    for low, high in ((0.1, 0.4), (0.4, 0.6), (0.6, 0.9)):
        inside = (said >= low) & (said < high)
        assert inside.sum() > 40
        assert abs(true[inside].mean() - said[inside].mean()) < 3.5 * (0.25 / inside.sum()) ** 0.5
    assert 0 < found.information < class_entropy(y)


def test_no_part_knows_more_than_the_whole_of_many_useless_columns() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 300)
    informative, noise = y[:, None] + 0.5 * rng.standard_normal((300, 1)), rng.standard_normal((300, 250))
    folds = group_folds(y, folds=3)
    first, second = (cross_fit(x, y, folds, settings=LINEAR) for x in (informative, noise))
    both = cross_fit(np.c_[informative, noise], y, folds, parts=(first, second), settings=LINEAR)
    alone = cross_fit(np.c_[informative, noise], y, folds, settings=LINEAR)
    assert both.information > first.information - 0.02 > alone.information


def test_folds_keep_groups_whole_and_spread_classes() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 3)
    y = np.repeat(rng.integers(0, 3, 60), 3)
    folds = group_folds(y, groups=groups, folds=4, seed=1)
    assert all(len(set(folds[groups == group])) == 1 for group in range(60))
    for one in range(3):
        counts = np.bincount(folds[y == one], minlength=4) // 3
        assert counts.max() - counts.min() <= 1
    assert (folds == group_folds(y, groups=groups, folds=4, seed=1)).all()
    assert (folds != group_folds(y, groups=groups, folds=4, seed=2)).any()


def test_a_held_out_row_cannot_reach_its_own_posterior() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    x = rng.standard_normal((120, 3)) + y[:, None]
    folds = group_folds(y, folds=3)
    before = cross_fit(x, y, folds, settings=SMALL)
    flipped = np.where(folds == 0, 1 - y, y)
    after = cross_fit(x, flipped, folds, settings=SMALL)
    assert np.allclose(before.log_posteriors[folds == 0], after.log_posteriors[folds == 0])
    assert not np.allclose(before.log_posteriors[folds == 1], after.log_posteriors[folds == 1])


def test_perceptrons_trained_at_once_are_those_trained_alone() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((90, 4)), rng.integers(0, 3, 90)
    masks = np.stack([np.arange(90) % 3 != part for part in range(3)])
    how = PerceptronSettings(hidden=5, epochs=3)
    together = [*perceptron_logits(x, y, masks, classes=3, settings=how)]
    alone = [*perceptron_logits(x, y, masks[:1], classes=3, settings=how)]
    assert len(together) == 3 and together[-1].shape == (3, 90, 3)
    assert np.abs(together[-1][0] - alone[-1][0]).max() < 1e-5
    assert np.abs(together[-1][0] - together[-1][1]).max() > 1e-2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda x, y, folds: (x, y[:-1], folds), BadShape),
        (lambda x, y, folds: (x, y, folds[:-1]), BadShape),
        (lambda x, y, folds: (x, np.zeros_like(y), folds), BadChoice),
        (lambda x, y, folds: (x, y, folds % 2), BadChoice),
        (lambda x, y, folds: (x, np.where(np.arange(30) == 4, 2, y), folds), BadChoice),
        (lambda x, y, folds: (np.where(np.arange(30)[:, None] == 7, np.nan, x), y, folds), NotFinite),
    ],
)
def test_input_that_cannot_be_classified_is_refused(change, error) -> None:  # type: ignore[no-untyped-def]
    y = np.arange(30) % 2
    with pytest.raises(error):
        cross_fit(
            *change(np.random.default_rng(0).standard_normal((30, 2)), y, group_folds(y, folds=3)), settings=LINEAR
        )


def test_folds_of_too_few_groups_are_refused() -> None:
    with pytest.raises(TooFewRows, match="2 groups"):
        group_folds(np.array([0, 1]), folds=3)
    with pytest.raises(BadChoice, match="folds = 2"):
        group_folds(np.arange(9) % 2, folds=2)


def test_cells_of_posteriors_keep_what_they_tell() -> None:
    rng = np.random.default_rng(0)
    posteriors = rng.dirichlet([0.5, 0.5, 0.5], 3_000)
    shares = posteriors.mean(axis=0)
    whole = float((posteriors * np.log(posteriors / shares)).sum(axis=1).mean())
    kept = [
        mutual_information(cell_table(posterior_cells(np.log(posteriors), cells=cells), np.log(posteriors), shares))
        for cells in (1, 8, 64)
    ]
    assert kept[0] < 1e-9 < kept[1] < kept[2] < whole and kept[2] > 0.98 * whole


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 9))
def test_a_table_of_cells_has_the_shares_that_were_asked_for(seed: int, classes: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    posteriors, shares = rng.dirichlet(np.full(classes, 0.3), 80), rng.dirichlet(np.full(classes, 5.0))
    of = posterior_cells(np.log(np.maximum(posteriors, 1e-6)), cells=cells, seed=seed)
    table = cell_table(of, np.log(np.maximum(posteriors, 1e-6)), shares)
    assert of.max() < cells and (np.bincount(of) > 0).all()
    assert table.min() >= 0 and np.allclose(table.sum(axis=0), shares, atol=1e-3) and abs(table.sum() - 1) < 1e-9


def test_constant_posteriors_are_one_cell() -> None:
    assert posterior_cells(np.full((9, 2), log(0.5))).max() == 0


def test_the_point_is_brojas_where_posteriors_are_exact(small_table: np.ndarray) -> None:
    (first, second, both), y = exact_three(small_table, 60_000, seed=0)
    rows = {row.quantity: row for row in information_rows(first, second, both, y, shortfall=0.0)}
    true = broja(small_table)
    for part in PARTS:
        assert abs(rows[part].value - getattr(true, part)) < 0.015
        assert rows[part].low - 1e-9 <= rows[part].value <= rows[part].high + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_parts_sum_to_what_both_know_and_lie_within_their_bounds(seed: int) -> None:
    joint = np.random.default_rng(seed).dirichlet(np.full(18, 0.5)).reshape(3, 3, 2)
    (first, second, both), y = exact_three(joint, 400, seed)
    if len(np.unique(y)) < 2:
        return
    rows = {row.quantity: row for row in information_rows(first, second, both, y)}
    assert list(rows) == [*INFORMATIONS, *PARTS]
    whole = sum(rows[part].value for part in PARTS)
    assert abs(whole - rows["information12"].value) < 1e-6
    assert abs(rows["redundancy"].value + rows["unique1"].value - rows["information1"].value) < 1e-6
    for row in rows.values():
        assert 0 <= row.ci_low <= row.low + 1e-9 and row.low <= row.high <= row.ci_high + 1e-9
        assert row.low - 1e-9 <= row.value <= row.high + 1e-9


@pytest.mark.parametrize("level", [0, 1, 3])
def test_intervals_cover_the_exact_parts(level: int) -> None:
    """At level 0 all is redundant and both bounds are one number, which is the hardest to cover."""
    generator = Released(shared=3, unique=2, used=3, temperature=0.2, rows=64)
    joint = joint_table(generator.table(level))
    true, repeats = broja(joint), 150
    exact_values = {
        "information1": mutual_information(joint.sum(axis=1)),
        "information2": mutual_information(joint.sum(axis=0)),
        "information12": mutual_information(joint.reshape(-1, joint.shape[2])),
        **{part: getattr(true, part) for part in PARTS},
    }
    covered = dict.fromkeys(exact_values, 0)
    for seed in range(repeats):
        (first, second, both), y = exact_three(joint, 300, seed)
        for row in information_rows(first, second, both, y, shortfall=0.0, cells=4):
            covered[row.quantity] += row.ci_low - 1e-9 <= exact_values[row.quantity] <= row.ci_high + 1e-9
    assert min(covered.values()) >= 0.95 * repeats - 2 * (0.05 * 0.95 * repeats) ** 0.5


def test_repeated_rows_of_a_group_do_not_narrow_an_interval(small_table: np.ndarray) -> None:
    (first, second, both), y = exact_three(small_table, 200, seed=0)
    groups = np.repeat(np.arange(200), 4)
    repeated = [exact(np.repeat(one.log_posteriors, 4, axis=0), np.repeat(y, 4)) for one in (first, second, both)]
    own = information_rows(first, second, both, y, shortfall=0.0)
    four = information_rows(*repeated, np.repeat(y, 4), groups=groups, shortfall=0.0)
    naive = information_rows(*repeated, np.repeat(y, 4), shortfall=0.0)
    width = [[row.ci_high - row.ci_low for row in rows] for rows in (own, four, naive)]
    assert np.allclose(width[0], width[1], atol=1e-6) and width[2][0] < 0.6 * width[0][0]


def test_a_shortfall_widens_intervals_and_leaves_bounds(small_table: np.ndarray) -> None:
    three, y = exact_three(small_table, 500, seed=0)
    plain, wide = (information_rows(*three, y, shortfall=nats) for nats in (0.0, 0.05))
    for one, other in zip(plain, wide, strict=True):
        assert (one.low, one.high) == (other.low, other.high)
        assert other.ci_low <= one.ci_low + 1e-12 and other.ci_high >= one.ci_high - 1e-12
    assert wide[0].ci_high - plain[0].ci_high == pytest.approx(0.05)


@pytest.mark.parametrize("change", [{"level": 1.0}, {"shortfall": -0.1}])
def test_bounds_refuse_what_is_out_of_range(small_table: np.ndarray, change: dict[str, float]) -> None:
    three, y = exact_three(small_table, 50, seed=0)
    with pytest.raises(BadChoice, match="level"):
        information_rows(*three, y, **change)
    with pytest.raises(BadShape):
        information_rows(*three, y[:-1])
