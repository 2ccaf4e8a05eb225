"""Permutation nulls against closed forms and against scoring every rearrangement."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from featcache.metrics import (
    METRICS,
    calibrate,
    chance_cka,
    chance_mutual_knn,
    cka,
    errors,
    moments_cka,
    moments_knn,
    mutual_knn,
    neighbors,
    permutation_null,
    permutation_null_cka,
    permutation_null_knn,
)
from featcache.metrics.certainty import nulls
from featcache.metrics.knn import compiled, graph_scores
from featcache.metrics.knn.subgraph import first_kept

RNG = np.random.default_rng


def nearest_agrees(a_ids, b_ids):
    """A score that only a user has."""
    return (a_ids[:, 0] == b_ids[:, 0]) + 0.25


GRAPH_SCORES = {
    score.__name__: score
    for score in (
        *(graph_scores.mutual_knn_graphs, graph_scores.jaccard_knn_graphs, graph_scores.cycle_knn_graphs),
        *(
            graph_scores.lcs_knn_graphs,
            graph_scores.edit_distance_knn_graphs,
            graph_scores.rank_knn_graphs,
            graph_scores.GraphScore(nearest_agrees),
        ),
    )
}


def spaces(n, seed=0, dx=6, dy=4):
    rng = RNG(seed)
    return rng.standard_normal((n, dx)) + 1, rng.standard_normal((n, dy)) ** 3


def relabelled(ids, order):
    """The graph of features[order]: position i holds sample order[i]."""
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return position[ids[order]]


def test_knn_moments_equal_all_permutations_of_six_rows():
    a, b = (neighbors(v, k=2).ids for v in spaces(6))
    scores = [graph_scores.mutual_knn_graphs(a, relabelled(b, np.array(p))).mean() for p in permutations(range(6))]
    exact = moments_knn(a, b)
    assert exact.mean == pytest.approx(np.mean(scores), abs=1e-12)
    assert exact.std == pytest.approx(np.std(scores), abs=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_moments_equal_all_permutations_of_six_rows(debiased):
    x, y = spaces(6)
    scores = [cka(x, y[list(p)], debiased=debiased) for p in permutations(range(6))]
    exact = moments_cka(x, y, debiased=debiased)
    assert exact.mean == pytest.approx(np.mean(scores), abs=1e-12)
    assert exact.std == pytest.approx(np.std(scores), abs=1e-12)
    assert chance_cka(x, y, debiased=debiased) == exact.mean


def test_moments_agree_with_five_thousand_permutations():
    x, y = spaces(120)
    a, b = (neighbors(v, k=10).ids for v in (x, y))
    drawn, exact = permutation_null_knn(a, b, permutations=5000), moments_knn(a, b)
    assert drawn.mean == pytest.approx(exact.mean, abs=4 * exact.std / 5000**0.5)
    assert drawn.std == pytest.approx(exact.std, rel=0.05)
    drawn, exact = permutation_null_cka(x, y, permutations=5000), moments_cka(x, y)
    assert drawn.mean == pytest.approx(exact.mean, abs=4 * exact.std / 5000**0.5)
    assert drawn.std == pytest.approx(exact.std, rel=0.05)


def test_a_permuted_graph_is_the_graph_of_permuted_features():
    x, y = spaces(40)
    a, b = (neighbors(v, k=5).ids for v in (x, y))
    null = permutation_null_knn(a, b, permutations=3, seed=5)
    orders = nulls.row_orders(None, 40, 5)
    direct = [mutual_knn(x, y[next(orders)], k=5) for _ in range(3)]
    assert null.mean == pytest.approx(np.mean(direct), abs=1e-12)
    assert null.observed == mutual_knn(x, y, k=5)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("shape", [(30, 40, 90), (200, 3, 4)])  # kernels where wide, features where narrow
def test_a_permuted_cka_is_the_cka_of_permuted_features(kernel, debiased, shape):
    n, dx, dy = shape
    x, y = (v / 4 for v in spaces(n, dx=dx, dy=dy))
    null = permutation_null_cka(x, y, kernel=kernel, debiased=debiased, permutations=4, seed=1)
    orders = nulls.row_orders(None, n, 1)
    direct = [cka(x, y[next(orders)], kernel=kernel, debiased=debiased) for _ in range(4)]
    assert null.mean == pytest.approx(np.mean(direct), abs=1e-5)
    assert null.std == pytest.approx(np.std(direct), abs=1e-5)


def test_unrelated_spaces_are_called_unlikely_five_times_in_a_hundred():
    p_values = []
    for seed in range(200):
        a, b = (neighbors(v, k=5).ids for v in spaces(40, seed))
        p_values.append(permutation_null_knn(a, b, permutations=99, seed=seed).p)
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.1


def test_a_space_against_itself_has_the_smallest_p_possible():
    x, _ = spaces(50)
    ids = neighbors(x, k=5).ids
    null = permutation_null_knn(ids, ids, permutations=199)
    assert (null.p, null.observed, null.permutations) == (1 / 200, 1.0, 199)
    assert null.low <= null.mean <= null.high < 1
    assert permutation_null_cka(torch.from_numpy(x), torch.from_numpy(x), permutations=199).p == 1 / 200


def test_the_same_seed_draws_the_same_null():
    a, b = (neighbors(v, k=5).ids for v in spaces(50))
    assert permutation_null_knn(a, b, permutations=20, seed=3) == permutation_null_knn(a, b, permutations=20, seed=3)
    assert permutation_null_knn(a, b, permutations=20, seed=3) != permutation_null_knn(a, b, permutations=20, seed=4)


def test_whole_groups_change_places_among_those_of_equal_size():
    groups = np.array(list("aabbcccddeeef"))
    orders = nulls.row_orders(groups, len(groups), 0)
    for order in (next(orders) for _ in range(50)):
        assert order[-1] == 12
        assert sorted(order) == list(range(len(groups)))
        arrived = groups[order]
        for name in "abcdef":
            rows = np.flatnonzero(groups == name)
            assert len(set(arrived[rows])) == 1
            assert (np.diff(order[rows]) == 1).all()


def test_duplicated_rows_need_a_group_null_to_look_like_chance():
    rng = RNG(1)
    x, y = (np.repeat(rng.standard_normal((100, 8)), 5, axis=0) for _ in range(2))
    groups = np.repeat(np.arange(100), 5)
    with_groups = [neighbors(v, k=10, groups=groups).ids for v in (x, y)]
    without = [neighbors(v, k=10).ids for v in (x, y)]
    fair = permutation_null_knn(*with_groups, groups=groups, permutations=200)
    fooled = permutation_null_knn(*without, permutations=200)
    assert fair.p > 0.05
    assert fair.mean == pytest.approx(chance_mutual_knn(500, 10, groups), rel=0.1)
    assert fooled.observed > 10 * fooled.high


def test_any_graph_score_has_a_null():
    a, b = (neighbors(v, k=5).ids for v in spaces(60))
    for score in (graph_scores.jaccard_knn_graphs, graph_scores.cycle_knn_graphs, nearest_agrees):
        null = permutation_null_knn(a, b, permutations=50, score=score)
        assert null.observed == score(a, b).mean()
        assert null.low <= null.mean <= null.high


def test_a_null_that_cannot_be_drawn_is_refused():
    ids = neighbors(spaces(6)[0], k=2).ids
    with pytest.raises(errors.BadChoice, match="no two of the 3 groups"):
        permutation_null_knn(ids, ids, groups=list("abbccc"))
    with pytest.raises(errors.BadChoice, match="permutations = 0"):
        permutation_null_knn(ids, ids, permutations=0)
    with pytest.raises(errors.BadChoice, match="ids run from 0 to 9"):
        permutation_null_knn(np.where(ids == ids[0, 0], 9, ids) * (ids > 0), ids)
    with pytest.raises(errors.TooFewRows, match="at least 4"):
        moments_knn(np.array([[1], [0], [0]]), np.array([[1], [0], [0]]))


def scored_one_by_one(score, a, b, orders):
    """Renames and scores each graph anew; rows that run short are left out."""
    result = []
    for order in orders:
        moved = b.among(order).ids
        enough = (a.ids[:, -1] >= 0) & (moved[:, -1] >= 0)
        scores = np.full(a.n, np.nan)
        if score is graph_scores.cycle_knn_graphs:  # looks at the lists of a row's neighbours too
            scores[enough] = score(a.ids, moved)[enough]
        else:
            scores[enough] = score(a.ids[enough], moved[enough])
        result.append(np.nanmean(scores))
    return np.array(result)


@pytest.mark.parametrize("name", GRAPH_SCORES)
@pytest.mark.parametrize("short", [False, True])
def test_scores_in_other_orders_equal_renamed_graphs_bit_for_bit(name, short):
    a, b = (neighbors(v, k=7) for v in spaces(150))
    if short:
        rows = np.arange(0, 150, 2)
        a, b = (replace(graph.among(rows), ids=graph.among(rows).ids[:, :3]) for graph in (a, b))
        assert 0 < np.mean(a.ids[:, -1] < 0) < 1
    orders = np.stack([RNG(seed).permutation(a.n) for seed in range(25)])
    fast = GRAPH_SCORES[name].permuted(a.ids, b.ids, orders)
    assert fast.tobytes() == scored_one_by_one(GRAPH_SCORES[name], a, b, orders).tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_shared_neighbours_are_counted_alike_by_any_number_of_threads_in_graphs_of_any_size(threads, monkeypatch):
    n = 3 * compiled.SLOTS + 5  # ids that share a slot
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(graph_scores, "_ENTRIES", 2 * n)  # several parts
    rng = RNG(0)
    near = (np.arange(n)[:, None] + np.arange(1, 6)) % n
    far = (np.arange(n)[:, None] + compiled.SLOTS * np.arange(1, 3)) % n
    a, b = near, np.hstack([near[:, :3], far])
    orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(4))])
    moved = [relabelled(b, order) for order in orders]
    slow = [graph_scores.mutual_knn_graphs(a, ids).mean() for ids in moved]
    assert graph_scores.mutual_knn_graphs.permuted(a, b, orders).tolist() == slow
    assert slow[0] == pytest.approx(0.6)


def test_graphs_without_a_row_to_score_have_no_null():
    empty = np.full((6, 2), -1)
    assert np.isnan(graph_scores.mutual_knn_graphs.permuted(empty, empty, np.arange(6)[None])).all()
    with pytest.raises(errors.TooFewRows, match="no row has k neighbours"):
        nulls.summarise(0.5, np.array([0.1, np.nan]), "rows permuted")


def test_the_first_ids_kept_are_those_of_the_graph_among_the_rows():
    graph = neighbors(spaces(90)[0], k=20)
    for rows in (np.arange(0, 90, 2), RNG(0).permutation(90)[:30], np.arange(90)):
        among = graph.among(rows).ids
        for k in (1, 5, 12):
            assert (first_kept(graph, rows, k).ids == among[:, :k]).all()


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_has_a_null_of_its_scores_on_rearranged_rows(name):
    metric = METRICS[name]
    options = {"k": 5} if "k" in metric.options() else {}
    x, noise = RNG(4).standard_normal((2, 30, 3))
    y = x + noise
    comparison = metric.comparison(**options)
    a, b = comparison.prepare(x), comparison.prepare(y)
    null = permutation_null(comparison, a, b, n=30, permutations=9, seed=2, higher_is_better=metric.higher_is_better)
    orders = nulls.row_orders(None, 30, 2)
    direct = np.array([metric.function(x, y[next(orders)], **options) for _ in range(9)])
    assert null.scores == pytest.approx(direct, abs=2e-6)
    assert null.observed == metric.function(x, y, **options)
    better = direct >= null.observed if metric.higher_is_better else direct <= null.observed
    if null.std > 1e-9:
        assert null.p == (1 + better.sum()) / 10
    assert null.higher_is_better == metric.higher_is_better


def test_a_distance_counts_the_permutations_that_come_at_least_as_near():
    scores = np.array([3.0, 1.0, 2.0])
    assert nulls.summarise(1.5, scores, "", higher_is_better=False).p == 2 / 4
    assert nulls.summarise(1.5, scores, "").p == 3 / 4
    assert nulls.summarise(3.0, scores, "").p == 2 / 4


@pytest.mark.parametrize("offset", [0, 30, 100])
def test_scores_close_to_one_are_told_apart_from_their_null(offset):
    x, noise = RNG(0).standard_normal((2, 200, 16))
    result = calibrate("second_order_cosine", x + offset, x + 0.7 * noise + offset, permutations=99)
    assert result.p == (1 + np.sum(result.null.scores >= result.observed)) / 100 == 0.01
    assert result.observed > result.threshold and result.calibrated > 0


@pytest.mark.parametrize("name", sorted(METRICS))
def test_an_order_that_changes_nothing_reaches_the_score(name):
    metric = METRICS[name]
    comparison = metric.comparison(**({"k": 2} if "k" in metric.options() else {}))
    x, noise = RNG(1).standard_normal((2, 30, 3)) + 20
    for y in (x, x + noise):
        a, b = comparison.prepare(x), comparison.prepare(y)
        orders = np.stack([RNG(2).permutation(30), *[np.arange(30)] * 3, np.arange(30)[::-1]])
        observed, by_path = comparison.compare(a, b), nulls.unpermuted(comparison, a, b, 30)
        scores = nulls.merge_ties(comparison.permuted(a, b, orders), observed, by_path)
        assert (scores[1:4] == observed).all()


def test_a_null_says_how_many_rows_have_no_group_to_change_places_with():
    assert nulls.describe_permutation(None, 5) == "rows permuted"
    assert nulls.describe_permutation(list("aabb"), 4) == "groups permuted among those of equal size"
    assert nulls.describe_permutation(list("aabbc"), 5).endswith(", 1 of 5 rows without a partner")


def test_orders_come_in_parts_that_do_not_change_them(monkeypatch):
    whole = np.concatenate(list(nulls.order_batches(12, None, permutations=30, seed=1)))
    monkeypatch.setattr(nulls, "_ORDER_ENTRIES", 50)
    parts = list(nulls.order_batches(12, None, permutations=30, seed=1))
    assert [len(part) for part in parts] == [4] * 7 + [2]
    assert (np.concatenate(parts) == whole).all()
