"""Coverage of intervals, and their estimands, widths and refusals."""

import numpy as np
import pytest

from featcache.metrics import (
    METRICS,
    calibrate,
    chance_mutual_knn,
    errors,
    mutual_knn,
    neighbors,
    query_interval,
    sample_interval,
    scores_interval,
)
from featcache.metrics.knn import graph_scores
from featcache.metrics.table import chosen

RNG = np.random.default_rng


def planted(seed, n=150, width=6, noise=0.4):
    shared, first, second = RNG([99, seed]).standard_normal((3, n, width))
    return shared + noise * first, shared + noise * second


def population(n=400, fold=1):
    """Per-row scores of all n rows of one gallery, whose groups are `fold` alike rows."""
    rng = RNG(5)
    shared, first, second = (np.repeat(rng.standard_normal((n // fold, 6)), fold, axis=0) for _ in range(3))
    x, y = shared + 0.7 * first, shared + 0.7 * second
    groups = np.repeat(np.arange(n // fold), fold) if fold > 1 else None
    jitter = 0.02 * rng.standard_normal((2, n, 6))
    sides = [neighbors(space, k=10, groups=groups).ids for space in (x + jitter[0], y + jitter[1])]
    return graph_scores.mutual_knn_graphs(*sides), groups


def test_query_intervals_contain_the_mean_over_all_rows_95_times_in_100():
    scores, _ = population()
    inside = 0
    for seed in range(1000):
        rows = RNG(seed).choice(400, 150, replace=False)
        result = scores_interval(scores[rows], population=400)
        inside += result.low <= scores.mean() <= result.high
    assert 0.93 <= inside / 1000 <= 0.97  # .95 and three standard errors


def test_query_intervals_of_groups_contain_the_mean_where_rows_taken_for_independent_do_not():
    scores, groups = population(fold=5)
    inside = naive = 0
    for seed in range(1000):
        rows = np.flatnonzero(np.isin(groups, RNG(seed).choice(80, 30, replace=False)))
        grouped = scores_interval(scores[rows], population=400, groups=groups[rows])
        single = scores_interval(scores[rows], population=400)
        inside += grouped.low <= scores.mean() <= grouped.high
        naive += single.low <= scores.mean() <= single.high
    assert 0.92 <= inside / 1000 <= 0.97
    assert naive / 1000 < 0.8


@pytest.mark.parametrize("name", ["mutual_knn", "cka_debiased", "procrustes"])
def test_sample_intervals_contain_the_expected_score_at_least_95_times_in_100(name):
    options = {"k": 5} if name == "mutual_knn" else {}
    result = [sample_interval(name, *planted(seed), repeats=30, seed=seed, **options) for seed in range(200)]
    expected = np.mean([one.value for one in result])
    inside = np.mean([one.low <= expected <= one.high for one in result])
    assert inside >= 0.95 - 3 * (0.95 * 0.05 / 200) ** 0.5
    spread = np.std([one.value for one in result], ddof=1)
    estimated = np.mean([one.high - one.low for one in result]) / 2 / 1.96
    assert 0.85 < estimated / spread < 1.6


def test_query_standard_errors_understate_the_spread_of_new_samples_by_a_third():
    values, errors_of_queries = [], []
    for seed in range(300):
        graphs = [neighbors(space, k=5).ids for space in planted(seed, n=200)]
        scores = graph_scores.mutual_knn_graphs(*graphs)
        values.append(scores.mean())
        errors_of_queries.append(scores.std(ddof=1) / 200**0.5)
    assert 1.2 < np.std(values, ddof=1) / np.mean(errors_of_queries) < 1.55  # 1.35 in the published setting


def row_bootstrap(x, y, k, repeats=200):
    """The interval that is not to be reproduced: rows drawn with replacement are each other's neighbours."""
    rng = RNG(0)
    scores = []
    for _ in range(repeats):
        rows = rng.integers(0, len(x), len(x))
        scores.append(mutual_knn(x[rows], y[rows], k=k))
    return np.quantile(scores, [0.025, 0.975])


def test_unrelated_spaces_are_given_an_interval_with_chance_in_it_where_a_row_bootstrap_leaves_it_out():
    x, y = RNG(1).standard_normal((2, 161, 8))
    chance = chance_mutual_knn(161, 10)
    low, _ = row_bootstrap(x, y, k=10, repeats=40)
    result = sample_interval("mutual_knn", x, y, k=10)
    assert chance == 0.0625
    assert low > 1.5 * chance
    assert result.low <= chance <= result.high


def test_all_queries_leave_no_width_and_other_galleries_are_not_its_business():
    x, y = planted(1)
    every = query_interval("mutual_knn", x, y, k=5)
    assert every.low == every.value == every.high == mutual_knn(x, y, k=5)
    assert every.estimand == "mean over all 150 rows as queries of this gallery"
    some = query_interval("mutual_knn", x, y, k=5, queries=60)
    assert some.low < every.value < some.high
    assert (some.n, some.short_rows) == (60, 0)
    assert sample_interval("mutual_knn", x, y, k=5).estimand == (
        "expected mutual_knn of new samples at gallery size 150"
    )


@pytest.mark.parametrize("name", ["mutual_knn", "jaccard_knn", "lcs_knn", "edit_distance_knn", "cycle_knn", "rank_knn"])
def test_queries_searched_alone_score_as_rows_of_the_whole_graph(name):
    x, y = planted(2)
    groups = np.repeat(np.arange(50), 3)
    rows = np.flatnonzero(np.isin(groups, [3, 4, 17, 30, 49]))
    graphs = [neighbors(space, k=5, groups=groups) for space in (x, y)]
    searched = query_interval(name, x, y, k=5, groups=groups, queries=rows)
    looked_up = query_interval(name, *graphs, k=5, groups=groups, queries=rows)
    assert searched == looked_up
    scores = chosen(name, k=5, groups=groups)[1].rows(*graphs)
    assert searched.value == pytest.approx(scores[rows].mean())


@pytest.mark.parametrize("name", ["second_order_cosine", "alignment_loss", "cycle_knn"])
def test_every_mean_over_rows_has_an_interval_of_other_queries(name):
    x, y = planted(3)
    every, some = (query_interval(name, x, y, queries=queries) for queries in (None, 75))
    assert every.value == every.low == every.high == METRICS[name].function(x, y)
    assert some.low < some.value < some.high and some.low < every.value < some.high


def test_an_interval_of_a_distance_is_not_cut_off_at_the_far_end_of_other_options():
    x, y = planted(3)
    result = sample_interval("alignment_loss", x, -x + 0.5 * y, power=5.0, repeats=40)
    assert result.value > METRICS["alignment_loss"].range[1]
    assert result.high - result.value == pytest.approx(result.value - result.low)


def test_queries_are_drawn_in_whole_groups():
    x, y = planted(3)
    groups = np.repeat(np.arange(50), 3)
    result = query_interval("mutual_knn", x, y, k=5, groups=groups, queries=60)
    assert result.n == 60
    assert result.method.startswith("20 groups of queries")
    assert result == query_interval("mutual_knn", x, y, k=5, groups=groups, queries=60)
    assert result != query_interval("mutual_knn", x, y, k=5, groups=groups, queries=60, seed=1)


def test_a_deep_graph_gives_the_interval_that_its_features_give():
    x, y = planted(4)
    deep = [neighbors(space, k=149) for space in (x, y)]
    assert sample_interval("mutual_knn", *deep, k=5, repeats=30) == sample_interval("mutual_knn", x, y, k=5, repeats=30)


def test_rows_that_run_short_are_counted():
    x, y = planted(5)
    shallow = [neighbors(space, k=9) for space in (x, y)]
    result = sample_interval("mutual_knn", *shallow, k=7, repeats=30)  # of which halves look at 4
    assert 0.2 < result.short_rows / (30 * 75) < 0.8
    with pytest.raises(errors.TooFewRows, match="no row of a half kept k = 9"):
        chosen("mutual_knn", k=9)[1].on_subsets(shallow[:1], shallow[1], np.arange(150)[None] < 75)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_has_an_interval_of_new_samples_within_its_range(name):
    x, y = planted(6, n=60, width=3)
    options = {"k": 4} if "k" in METRICS[name].options() else {}
    result = sample_interval(name, x, y, repeats=20, **options)
    low, high = METRICS[name].range
    assert low - 1e-9 <= result.low < result.value < result.high <= high + 1e-9
    assert result.value == METRICS[name].function(x, y, **options)
    assert (result.n, result.repeats, result.level) == (60, 20, 0.95)
    itself = sample_interval(name, x, x, repeats=20, **options)
    assert itself.low <= itself.value <= itself.high


def test_an_interval_ends_where_the_scale_at_these_options_ends():
    x, _ = planted(7, n=60)
    y = x + 0.01 * planted(8, n=60)[0]
    assert sample_interval("lcs_knn", x, y, k=12, repeats=20).high <= 12
    assert sample_interval("lcs_knn", x, y, k=12, repeats=20).high > 10
    assert sample_interval("cka_linear", *RNG(0).standard_normal((2, 60, 3)), debiased=True, repeats=20).low < 0


def test_halves_are_made_of_whole_groups():
    x, y = (np.repeat(space, 5, axis=0) for space in planted(9, n=40))
    groups = np.repeat(np.arange(40), 5)
    result = sample_interval("mutual_knn", x, y, groups=groups, k=5, repeats=30)
    mean = sample_interval("cka_debiased", x[::5], y[::5], repeats=100)
    grouped = sample_interval("cka_debiased", x, y, groups=groups, repeats=100)
    rows = sample_interval("cka_debiased", x, y, repeats=100)
    assert "whole groups" in result.method
    assert result.short_rows == 0
    assert grouped.high - grouped.low == pytest.approx(mean.high - mean.low, rel=0.3)
    assert rows.high - rows.low < 0.7 * (grouped.high - grouped.low)


def test_an_interval_that_cannot_be_had_is_refused():
    x, y = planted(10, n=40)
    for message, call in {
        "no mean over rows.*use sample_interval": lambda: query_interval("cka_debiased", x, y),
        "queries = 41: wanted 2 to 40": lambda: query_interval("mutual_knn", x, y, queries=41),
        "distinct row numbers": lambda: query_interval("mutual_knn", x, y, queries=np.array([1, 1])),
        "row numbers from 0 to 39": lambda: query_interval("mutual_knn", x, y, queries=np.array([1, 40])),
        "level = 95": lambda: sample_interval("rsa", x, y, level=95),
        "repeats = 5": lambda: sample_interval("rsa", x, y, repeats=5),
        "population = 3": lambda: scores_interval(np.ones(4), population=3),
    }.items():
        with pytest.raises(errors.BadChoice, match=message):
            call()
    with pytest.raises(errors.TooFewRows, match="wanted 4 groups and 22 rows"):
        sample_interval("mutual_knn", x[:20], y[:20])
    with pytest.raises(errors.TooFewRows, match="3 groups of 30 rows"):
        sample_interval("mutual_knn", x[:30], y[:30], groups=np.repeat(np.arange(3), 10))
    with pytest.raises(errors.TooFewRows, match="1 groups of queries"):
        scores_interval(np.ones(4), population=10, groups=list("aaaa"))


def test_the_interval_of_a_signal_lies_above_its_null():
    x, y = planted(11)
    assert sample_interval("mutual_knn", x, y).low > calibrate("mutual_knn", x, y, permutations=99).null.high
