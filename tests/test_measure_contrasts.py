"""Contrasts say what the scores on the same halves say, corrected as declared, in words that follow."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student

from featcache.metrics import METRICS, errors, paired_difference, sample_interval
from featcache.metrics.certainty.halves import Halves
from featcache.metrics.measure.contrasts import Contrast, holm, with_verdicts
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import ContrastRow, verdict_text
from featcache.metrics.measure.settings import MeasureSettings
from featcache.metrics.measure.space import ArraySpace
from featcache.metrics.table import chosen

RNG = np.random.default_rng


def noisy(n=120, d=6, seed=0, **amounts):
    """Spaces that hold a latent with so much noise each, and the latent as the reference."""
    latent, *noise = RNG([seed, 61]).standard_normal((1 + len(amounts), n, d))
    spaces = {name: latent + amounts[name] * one for name, one in zip(amounts, noise, strict=True)}
    return spaces, ArraySpace(latent, "r")


def contrasts_of(spaces, reference, *contrasts, metric="cka_debiased", groups=None, **changes):
    settings = MeasureSettings((metric,), k=5, null="none", repeats=100, **changes)
    named = [ArraySpace(values, name, groups) for name, values in spaces.items()]
    return measure(named, reference, settings, contrasts=contrasts).contrasts


def by_hand(name, spaces, reference, weights, repeats=100):
    """Difference and standard error of a weighted sum of scores, one half at a time."""
    metric = METRICS[name]
    full = chosen(name, **({"k": 5} if "k" in metric.options() else {}))[1]
    part = chosen(name, **({"k": 3} if "k" in metric.options() else {}))[1]
    sign = 1 if metric.higher_is_better else -1

    def total(comparison, rows):
        return sign * sum(w * comparison(spaces[one][rows], reference.values[rows]) for one, w in weights.items())

    masks = Halves(len(reference.values), repeats=repeats).masks
    pairs = np.array([total(part, np.flatnonzero(mask)) for mask in masks]).reshape(-1, 2)
    variance = np.mean((pairs[:, 0] - pairs[:, 1]) ** 2) / 4
    if "k" not in metric.options():
        variance += pairs.mean(axis=1).var(ddof=1)
    return total(full, np.arange(len(reference.values))), variance**0.5


@pytest.mark.parametrize("name", ["mutual_knn", "cka_debiased", "procrustes"])
@pytest.mark.parametrize("kind", ["difference", "average"])
def test_value_interval_and_p_are_those_of_the_slow_way(kind, name):
    spaces, reference = noisy(a=0.8, b=1.0, c=1.4)
    parts = ("b",) if kind == "difference" else ("b", "c")
    [row] = contrasts_of(spaces, reference, Contrast("a", parts, kind), metric=name)
    value, error = by_hand(name, spaces, reference, {"a": 1.0} | {part: -1 / len(parts) for part in parts})
    freedom = 1 / (1 / 119 + 1 / 50)
    half = student.isf(0.025, freedom) * error
    assert (row.value, row.ci_low, row.ci_high) == pytest.approx((value, value - half, value + half), rel=1e-6)
    assert row.p == pytest.approx(2 * student.sf(abs(value) / error, freedom), rel=1e-5, abs=1e-12)
    assert row.p_holm == row.p and row.family == "" and row.binding == ""
    assert (row.n, row.repeats, row.short_rows, row.level) == (120, 100, 0, 0.95)
    assert row.estimand == f"expected difference of {name} against r, new samples at gallery size 120"


@pytest.mark.parametrize("name", ["mutual_knn", "cka_debiased", "procrustes", "rsa"])
def test_above_means_closer_to_the_reference_whichever_way_the_metric_points(name):
    spaces, reference = noisy(n=300, near=0.3, far=2.0)
    near, far = contrasts_of(spaces, reference, Contrast("near", ("far",)), Contrast("far", ("near",)), metric=name)
    assert near.verdict == "above" and near.value > 0 and near.ci_low > 0 and near.p < 0.01
    assert far.verdict == "below" and far.value == -near.value and far.p == near.p
    assert (far.ci_low, far.ci_high) == pytest.approx((-near.ci_high, -near.ci_low))


def intersection_union(rows):
    """Slow restatement of "max" from the part-by-part differences: verdict's p and the part that decides."""
    p_values = {row.parts: row.p for row in rows}
    z = {row.parts: row.value / (row.ci_high - row.ci_low) for row in rows}
    if all(row.value > 0 for row in rows):
        part = max(p_values, key=lambda one: p_values[one])
        return p_values[part], part, "above"
    negative = [row.parts for row in rows if row.value < 0]
    part = min(negative, key=lambda one: z[one])
    return min(1.0, len(rows) * p_values[part]), part, "below"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", ["mutual_knn", "cka_debiased"])
def test_above_the_best_part_is_an_intersection_union_and_below_it_a_corrected_union(name, seed):
    amounts = dict(zip("wabc", RNG(seed).choice([0.7, 1.0, 1.3], 4), strict=True))
    spaces, reference = noisy(seed=seed, **amounts)
    single = [Contrast("w", (part,)) for part in "abc"]
    whole, *rows = contrasts_of(spaces, reference, Contrast("w", tuple("abc"), "max"), *single, metric=name)
    p, part, side = intersection_union(rows)
    decides = next(row for row in rows if row.parts == part)
    assert whole.p == pytest.approx(p, rel=1e-9) and whole.binding == part and whole.parts == "a+b+c"
    assert (whole.value, whole.ci_low, whole.ci_high) == (decides.value, decides.ci_low, decides.ci_high)
    left_out = decides.ci_low > 0 or decides.ci_high < 0
    expected = side if p <= 0.05 else "cannot tell after correction" if left_out else "cannot tell"
    assert whole.verdict == expected


def slow_holm(p_values):
    """Holm 1979, literally: step down from the smallest, multiplied by how many are left, never falling."""
    left, adjusted, least = dict(enumerate(p_values)), {}, 0.0
    while left:
        place = min(left, key=lambda one: (left[one], one))
        least = max(least, min(1.0, len(left) * left.pop(place)))
        adjusted[place] = least
    return [adjusted[place] for place in range(len(p_values))]


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_the_step_down_procedure(seed):
    p_values = np.round(RNG(seed).random(1 + seed % 7) ** 3, 3).tolist()
    assert holm(p_values) == pytest.approx(slow_holm(p_values))
    assert all(adjusted >= p for adjusted, p in zip(holm(p_values), p_values, strict=True))


def row_of(p, value, metric="m", family="run", half=0.01, against="r", k=None):
    ends = {"ci_low": value - half, "ci_high": value + half}
    return ContrastRow("c", "a", "b", "difference", against, metric, k=k, value=value, p=p, family=family, **ends)


def test_families_are_corrected_by_metric_and_reference_and_nothing_else_enlarges_them():
    rows = [
        row_of(0.02, 0.03),
        row_of(0.04, -0.02),
        row_of(0.02, 0.03, metric="other"),
        row_of(0.02, 0.03, k=5),
        row_of(0.02, 0.03, against="s"),
        row_of(0.02, 0.03, family="second"),
        row_of(0.04, 0.03, family=""),
        row_of(0.04, 0.03, family=""),
        replace(row_of(0.04, 0.03, family=""), value=None, p=None, ci_low=None, ci_high=None, note="none"),
    ]
    judged = with_verdicts(rows, alpha=0.05)
    assert [row.p_holm for row in judged] == [0.04, 0.04, 0.02, 0.02, 0.02, 0.02, 0.04, 0.04, None]
    assert [row.verdict for row in judged[:2]] == ["above", "below"]
    assert judged[-1] == rows[-1]
    untested = replace(rows[-1], family="run")
    assert [row.p_holm for row in with_verdicts([rows[0], untested], alpha=0.05)] == [0.04, None]


def test_words_follow_the_corrected_p_and_the_interval_that_is_not_corrected():
    rows = [row_of(0.03, 0.03), row_of(0.04, 0.02), row_of(0.5, 0.005)]
    judged = with_verdicts(rows, alpha=0.05)
    assert [row.verdict for row in judged] == ["cannot tell after correction"] * 2 + ["cannot tell"]
    assert (judged[0].ci_low, judged[0].ci_high) == (rows[0].ci_low, rows[0].ci_high)
    texts = [verdict_text(row) for row in judged]
    assert texts[0] == "cannot tell after correction (+.030 [+.020, +.040])"
    assert texts[2] == "cannot tell (+.005 [−.005, +.015])"
    assert verdict_text(row_of(0.001, 1.25, half=0.5)) == "cannot tell (+1.250 [+.750, +1.750])"


def test_a_family_of_a_run_is_corrected_in_the_measurement():
    spaces, reference = noisy(a=1.0, b=1.05, c=1.1)
    family = [Contrast("a", ("b",), family="run"), Contrast("a", ("c",), family="run"), Contrast("b", ("c",))]
    first, second, alone = contrasts_of(spaces, reference, *family)
    assert [first.p_holm, second.p_holm] == pytest.approx(slow_holm([first.p, second.p]))
    assert alone.p_holm == alone.p and (first.family, alone.family) == ("run", "")


def test_contrasts_are_only_for_the_metrics_they_name():
    spaces, reference = noisy(a=1.0, b=1.2)
    settings = MeasureSettings(k=5, null="none", repeats=20)
    questions = [Contrast("a", ("b",), metrics=("mutual_knn",), name="for one"), Contrast("a", ("b",), name="for both")]
    rows = measure(spaces, reference, settings, contrasts=questions).contrasts
    assert [(row.contrast, row.metric) for row in rows] == [
        ("for one", "mutual_knn"),
        ("for both", "mutual_knn"),
        ("for both", "cka_debiased"),
    ]


@pytest.mark.parametrize("name", ["mutual_knn", "cka_debiased", "cka_linear", "procrustes"])
def test_a_space_and_its_rotated_copy_cannot_be_told_apart_by_rounding(name):
    spaces, reference = noisy(n=200, a=1.0)
    turned = np.linalg.qr(RNG(1).standard_normal((6, 6)))[0]
    copies = {"a": spaces["a"], "b": (3 * spaces["a"] @ turned).astype(np.float32)}
    [row] = contrasts_of(copies, reference, Contrast("a", ("b",)), metric=name)
    assert row.verdict == "cannot tell" and row.p > 0.05


def test_a_space_against_its_exact_copy_has_no_difference_and_p_one():
    spaces, reference = noisy(a=1.0, far=4.0)
    copies = spaces | {"b": spaces["a"].copy()}
    equal, best = contrasts_of(copies, reference, Contrast("a", ("b",)), Contrast("a", ("b", "far"), "max"))
    assert (equal.value, equal.ci_low, equal.ci_high, equal.p, equal.verdict) == (0, 0, 0, 1, "cannot tell")
    assert (best.binding, best.p, best.verdict) == ("b", 1, "cannot tell")


def test_whole_groups_are_taken_or_left():
    spaces, reference = noisy(n=60, a=0.8, b=1.2)
    groups = np.repeat(np.arange(60), 4)
    repeated = {name: np.repeat(values, 4, axis=0) for name, values in spaces.items()}
    target = ArraySpace(np.repeat(reference.values, 4, axis=0), "r", groups)
    [grouped] = contrasts_of(repeated, target, Contrast("a", ("b",)), metric="cka_linear", groups=groups)
    [single] = contrasts_of(spaces, reference, Contrast("a", ("b",)), metric="cka_linear")
    assert "of whole groups" in grouped.method
    for column in ("value", "ci_low", "ci_high", "p"):
        assert getattr(grouped, column) == pytest.approx(getattr(single, column), rel=1e-6)


def test_a_contrast_is_surer_than_two_intervals():
    reference, first, second = RNG(3).standard_normal((3, 300, 6))
    whole, part = reference + first, reference + first + 0.3 * second
    result = paired_difference("cka_debiased", whole, part, reference)
    apart = [sample_interval("cka_debiased", space, reference) for space in (whole, part)]
    assert result.value == pytest.approx(apart[0].value - apart[1].value)
    assert result.ci_high - result.ci_low < 0.7 * (apart[0].high - apart[0].low)
    assert result.verdict == "above" and result.p < 0.01


def test_a_difference_that_cannot_be_had_says_why():
    spaces, reference = noisy(n=13, a=1.0, b=1.0)
    settings = MeasureSettings(("mutual_knn",), k=12, null="none", repeats=20)
    [row] = measure(spaces, reference, settings, contrasts=[Contrast("a", ("b",))]).contrasts
    assert row.value == 0 and row.p is None and "half of them is too few" in row.note
    assert (row.verdict, verdict_text(row)) == ("cannot tell", "cannot tell (+.000)")
    with pytest.raises(errors.MetricError, match="half of them is too few"):
        paired_difference("mutual_knn", spaces["a"], spaces["b"], reference.values, k=12)
    with pytest.raises(errors.BadShape, match="part: 12"):
        paired_difference("rsa", spaces["a"], spaces["b"][1:], reference.values)


def test_a_difference_that_no_half_varies_is_no_proof():
    """On halves of four rows in two groups, lists of both rows outside a group are all there is to share."""
    groups = np.repeat(np.arange(4), 2)
    spaces, reference = noisy(n=8, a=0.5, b=3.0)
    target = ArraySpace(reference.values, "r", groups)
    [row] = measure(
        [ArraySpace(values, name, groups) for name, values in spaces.items()],
        target,
        MeasureSettings(("mutual_knn",), k=3, null="none", repeats=20),
        contrasts=[Contrast("a", ("b",))],
    ).contrasts
    assert row.value > 0.4 and row.verdict == "cannot tell"
    assert row.p is None and "the same on every half" in row.note


def test_the_same_seed_gives_the_same_contrast_and_another_nearly_so():
    spaces, reference = noisy(a=1.0, b=1.2)
    rows = [contrasts_of(spaces, reference, Contrast("a", ("b",)), seed=seed)[0] for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    assert rows[0].value == rows[2].value and rows[0].ci_low == pytest.approx(rows[2].ci_low, abs=0.03)
