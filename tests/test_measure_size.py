"""Verdicts under equality and under a planted difference: how often they are wrong, how often they find it.

The short forms take seconds; the full ones are marked slow.
"""

import numpy as np
import pytest
from scipy.stats import binom

from featcache.metrics import METRICS
from featcache.metrics.measure.contrasts import Contrast
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.settings import MeasureSettings
from featcache.metrics.measure.space import ArraySpace

RNG = np.random.default_rng
ALPHA, WIDTH = 0.05, 32


def equals(seed, n, shared, *, clusters=0, extra=0.0):
    """Two spaces that are the reference's latent plus noise, a share of it the same; the second has `extra` more."""
    rng = RNG([seed, n, int(10 * shared), clusters])
    latent, common, first, second, third = rng.standard_normal((5, n, WIDTH))
    if clusters:
        latent = 0.5 * latent + 3 * RNG(0).standard_normal((clusters, WIDTH))[rng.integers(0, clusters, n)]
    x, y = (latent + scale * (shared**0.5 * common + (1 - shared) ** 0.5 * own)
            for scale, own in ((1.0, first), (1.0 + extra, second)))  # fmt: skip
    return {"x": x, "y": y}, ArraySpace(latent + third, "reference")


def judged(metrics, seed, n, shared, repeats, **options):
    """The contrast x - y of each metric, by name."""
    spaces, reference = equals(seed, n, shared, **options)
    settings = MeasureSettings(metrics, null="none", unit_rows=True, repeats=repeats, seed=seed)
    return {
        row.metric: row for row in measure(spaces, reference, settings, contrasts=[Contrast("x", ("y",))]).contrasts
    }


def check_size(metrics, n, shared, *, data_sets, tests, repeats=200, **options):
    """At most a share alpha of data sets is called different, but for what one case in a hundred allows."""
    rows = [judged(metrics, seed, n, shared, repeats, **options) for seed in range(data_sets)]
    most = binom.ppf(1 - 0.01 / tests, data_sets, ALPHA)
    for metric in metrics:
        different = sum(one[metric].verdict != "cannot tell" for one in rows)
        excluded = sum(one[metric].ci_low > 0 or one[metric].ci_high < 0 for one in rows)
        assert different == excluded <= most, f"{metric}: {different} of {data_sets}"


BOTH = ("mutual_knn", "cka_debiased")


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_spaces_as_close_as_each_other_are_called_different_at_most_as_often_as_alpha_says(shared):
    check_size(BOTH, 230, shared, data_sets=40, tests=4, repeats=100)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "data_sets"), [(230, 600), (1000, 200)])
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_size_of_verdicts_in_full(n, data_sets, shared):
    check_size(BOTH, n, shared, data_sets=data_sets, tests=12)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_size_of_verdicts_where_clusters_are_as_small_as_two_neighbour_lists(shared):
    check_size(BOTH, 230, shared, data_sets=300, tests=12, clusters=12)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(METRICS) - {*BOTH, "modality_gap"}))
def test_the_size_of_every_other_metrics_verdicts(name):
    check_size((name,), 150, 0.0, data_sets=100, tests=len(METRICS), repeats=40)


# How much more noise the second space has, so that the difference is at most .05 and at most 4 of its standard errors.
PLANTED = {
    ("mutual_knn", 230, 0.0): 0.85,
    ("mutual_knn", 230, 0.8): 0.55,
    ("mutual_knn", 1000, 0.0): 0.43,
    ("mutual_knn", 1000, 0.8): 0.25,
    ("cka_debiased", 230, 0.0): 0.2,
    ("cka_debiased", 230, 0.8): 0.1,
    ("cka_debiased", 1000, 0.0): 0.082,
    ("cka_debiased", 1000, 0.8): 0.038,
}


def check_power(metric, n, shared, *, data_sets, repeats=200):
    """A planted difference is found in at least eight data sets of ten, but for what one case in a hundred allows."""
    extra = PLANTED[metric, n, shared]
    rows = [judged((metric,), seed, n, shared, repeats, extra=extra)[metric] for seed in range(data_sets)]
    values = np.array([row.value for row in rows])
    unsure = 1 + 2 / (2 * data_sets) ** 0.5  # how well so many data sets show a standard error
    assert values.mean() <= min(0.05, 4 * values.std(ddof=1) * unsure)
    assert sum(row.verdict == "above" for row in rows) >= binom.ppf(0.01, data_sets, 0.8)
    assert not any(row.verdict == "below" for row in rows)


@pytest.mark.parametrize("metric", BOTH)
def test_a_planted_difference_is_found(metric):
    check_power(metric, 230, 0.8, data_sets=30)


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "n", "shared"), sorted(PLANTED))
def test_the_power_of_verdicts_in_full(metric, n, shared):
    check_power(metric, n, shared, data_sets=200 if n == 230 else 100)


def check_best_of_parts(data_sets, repeats):
    """A whole that is as close as its best part, and one that equals both, are called different at most alpha times."""
    settings = MeasureSettings(BOTH, null="none", unit_rows=True, repeats=repeats)
    most = binom.ppf(1 - 0.01 / 4, data_sets, ALPHA)
    for far in (1.0, 2.5):
        wrong = dict.fromkeys(BOTH, 0)
        for seed in range(data_sets):
            latent, *noise = RNG([seed, int(10 * far), 71]).standard_normal((5, 230, WIDTH))
            scales = dict(zip("wab", (1.0, 1.0, far), strict=True))
            spaces = {name: latent + scales[name] * one for name, one in zip(scales, noise[:3], strict=True)}
            questions = [Contrast("w", ("a", "b"), "max")]
            for row in measure(spaces, ArraySpace(latent + noise[3], "r"), settings, contrasts=questions).contrasts:
                wrong[row.metric] += row.verdict in ("above", "below")
        assert max(wrong.values()) <= most, (far, wrong)


def test_a_whole_no_closer_than_its_best_part_is_called_different_at_most_as_often_as_alpha_says():
    check_best_of_parts(30, repeats=60)


@pytest.mark.slow
def test_the_size_of_the_best_part_in_full():
    check_best_of_parts(300, repeats=200)
