"""Curves from one deep graph equal what searching every gallery anew gives."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.metrics import (
    METRICS,
    Neighbors,
    chance_mutual_knn,
    depth_for,
    errors,
    gallery_curve,
    k_curve,
    neighbors,
)
from featcache.metrics.comparison import KnnComparison
from featcache.metrics.knn.subgraph import first_kept

RNG = np.random.default_rng
GRAPHS = [name for name, m in METRICS.items() if isinstance(m.comparison(), KnnComparison)]


def related(n, seed=0):
    """Two noisy views of one latent."""
    rng = RNG(seed)
    z = rng.standard_normal((n, 6))
    return tuple(z @ rng.standard_normal((6, d)) + rng.standard_normal((n, d)) for d in (12, 9))


def drawn_rows(n, size, seed, repeat, groups=None):
    """The rows of a part, by the rule that the docstring states, slowly."""
    groups = np.arange(n) if groups is None else groups
    order = np.random.default_rng((seed, repeat)).permutation(groups.max() + 1)
    rows = []
    for group in order:
        members = np.flatnonzero(groups == group)
        if len(rows) + len(members) > size:
            break
        rows += members.tolist()
    return np.sort(rows)


def test_top_300_of_3000_rows_give_galleries_of_300_and_750_exactly():
    x, y = related(3000)
    a, b = (neighbors(v, k=300) for v in (x, y))
    points = gallery_curve(a, b, sizes=[750, 300, 3000], repeats=2, seed=4)
    assert [(p.size, p.repeat) for p in points] == [(300, 0), (300, 1), (750, 0), (750, 1), (3000, 0)]
    for p in points:
        rows = drawn_rows(3000, p.size, 4, p.repeat)
        assert (p.short_rows, p.queries) == (0, p.size)
        assert p.value == METRICS["mutual_knn"].function(x[rows], y[rows])
        assert p.chance == chance_mutual_knn(p.size, 10)
    values = [np.mean([p.value for p in points if p.size == size]) for size in (300, 750, 3000)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_metric_has_its_curve(name):
    x, y = related(300, seed=2)
    a, b = (neighbors(v, k=150) for v in (x, y))
    function = METRICS[name].function
    for p in gallery_curve(a, b, name=name, k=5, sizes=[60, 120], repeats=2):
        rows = drawn_rows(300, p.size, 0, p.repeat)
        assert p.short_rows == 0
        assert p.value == pytest.approx(function(x[rows], y[rows], k=5), abs=1e-12)
    for p in k_curve(a, b, name=name, ks=[3, 8]):
        assert p.value == pytest.approx(function(x, y, k=p.k), abs=1e-12)
        assert (p.metric, p.size, p.queries, p.short_rows) == (name, 300, 300, 0)


def test_equal_similarities_are_ordered_in_a_part_as_a_search_of_it_would():
    rng = RNG(0)
    x, y = rng.integers(-1, 2, (2, 400, 3)) + 0.5  # a handful of points: nearly all is ties
    a, b = (neighbors(v, k=399) for v in (x, y))
    for p in gallery_curve(a, b, k=7, sizes=[90, 200], repeats=3, seed=1):
        rows = drawn_rows(400, p.size, 1, p.repeat)
        assert p.value == METRICS["mutual_knn"].function(x[rows], y[rows], k=7)


def test_short_rows_are_counted_and_left_out():
    x, y = related(500)
    a, b = (neighbors(v, k=30) for v in (x, y))
    (p,) = gallery_curve(a, b, sizes=[150], repeats=1, seed=2)
    rows = drawn_rows(500, 150, 2, 0)
    full = [neighbors(v[rows], k=10).ids for v in (x, y)]
    left = [np.isin(graph.ids[rows], rows).sum(axis=1) for graph in (a, b)]
    enough = (left[0] >= 10) & (left[1] >= 10)
    assert 0 < p.short_rows == 150 - enough.sum()
    assert p.queries == enough.sum()
    shared = [len(set(i) & set(j)) / 10 for i, j in zip(full[0][enough], full[1][enough], strict=True)]
    assert p.value == pytest.approx(np.mean(shared), abs=1e-12)
    (none,) = gallery_curve(*(neighbors(v, k=10) for v in (x, y)), sizes=[11], repeats=1)
    assert np.isnan(none.value)
    assert (none.queries, none.short_rows) == (0, 11)


@pytest.mark.parametrize("rows", [np.arange(0, 150, 3), np.arange(1, 150, 4)])
def test_the_part_of_a_graph_is_what_among_says_also_where_lists_are_short(rows):
    for graph in (neighbors(related(150)[0], k=60), neighbors(related(200)[0], k=40).among(np.arange(150))):
        ours, theirs = first_kept(graph, rows, 10), graph.among(rows)
        np.testing.assert_array_equal(ours.ids, theirs.ids[:, :10])
        assert np.isnan(ours.similarities).all() and ours.similarities.shape == ours.ids.shape
    assert (ours.ids[:, -1] < 0).any()


def test_whole_groups_are_drawn_and_unequal_ones_do_not_overfill():
    x, y = related(400)
    groups = np.sort(RNG(0).integers(0, 90, 400))
    groups = np.unique(groups, return_inverse=True)[1]
    a, b = (neighbors(v, k=390, groups=groups) for v in (x, y))
    for p in gallery_curve(a, b, k=5, sizes=[100, 233], repeats=3, groups=groups):
        rows = drawn_rows(400, p.size, 0, p.repeat, groups)
        assert p.queries + p.short_rows == len(rows) <= p.size
        assert p.short_rows == 0
        assert p.value == METRICS["mutual_knn"].function(x[rows], y[rows], k=5, groups=groups[rows])
        assert p.chance == chance_mutual_knn(len(rows), 5, groups[rows])


def test_independent_spaces_stay_at_chance_at_every_size():
    x, y = RNG(0).standard_normal((2, 1500, 8))
    a, b = (neighbors(v, k=depth_for(200, 1500, 10)) for v in (x, y))
    for p in gallery_curve(a, b, sizes=[200, 700, 1500], repeats=3):
        assert p.value == pytest.approx(p.chance, abs=0.012)


def test_the_same_seed_draws_the_same_parts():
    a, b = (neighbors(v, k=80) for v in related(200))
    first, again, other = (gallery_curve(a, b, sizes=[60], repeats=2, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert [p.value for p in first] != [p.value for p in other]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(8, 40))
def test_mutual_knn_at_every_k_is_the_overlap_of_the_sets(seed, n):
    x, y = related(n, seed)
    a, b = (neighbors(v, k=n - 1) for v in (x, y))
    points = k_curve(a, b)
    assert [p.k for p in points] == list(range(1, n))
    for p in points:
        shared = [len(set(i[: p.k]) & set(j[: p.k])) for i, j in zip(a.ids, b.ids, strict=True)]
        assert p.value == pytest.approx(np.mean(shared) / p.k, abs=1e-12)
        assert p.chance == chance_mutual_knn(n, p.k)
    assert points[-1].value == 1  # everyone is everyone's neighbour
    totals = [p.value * p.k for p in points]
    assert all(later >= earlier - 1e-9 for earlier, later in zip(totals, totals[1:], strict=False))


def test_short_lists_leave_the_k_curve_where_they_end():
    x, y = related(60)
    a, b = (neighbors(v, k=59).among(np.arange(0, 60, 2)) for v in (x, y))
    shallow = neighbors(x, k=20).among(np.arange(0, 60, 2))
    points = k_curve(shallow, b, ks=[1, 5, 12, 20])
    lengths = (shallow.ids >= 0).sum(axis=1)
    for p in points:
        rows = lengths >= p.k
        assert (p.queries, p.short_rows) == (rows.sum(), 30 - rows.sum())
        shared = [len(set(i[: p.k]) & set(j[: p.k])) for i, j in zip(a.ids[rows], b.ids[rows], strict=True)]
        assert np.isnan(p.value) if not shared else p.value == pytest.approx(np.mean(shared) / p.k, abs=1e-12)
    assert points[0].queries == 30 > points[2].queries


def test_depth_is_the_smallest_that_keeps_the_promise():
    def short(depth, size, n, k):  # P(fewer than k of depth in the part), exactly
        return sum(comb(depth, j) * comb(n - 1 - depth, size - 1 - j) for j in range(k)) / comb(n - 1, size - 1)

    for size, n, k, probability in ((50, 200, 5, 1e-6), (30, 90, 10, 1e-3), (11, 300, 10, 0.01), (199, 200, 3, 1e-9)):
        depth = depth_for(size, n, k, probability=probability)
        assert short(depth, size, n, k) < probability <= short(depth - 1, size, n, k) or depth == k
    assert depth_for(77, 77, 10) == 10
    assert depth_for(11, 10_000, 10) == 9_999  # all that remain are needed
    assert depth_for(100, 1000, 10, group_size=5) >= depth_for(100, 1000, 10)


def test_at_that_depth_no_row_runs_short_even_where_groups_stand_together():
    rng = RNG(0)
    x, y = (np.repeat(rng.standard_normal((200, 6)), 5, axis=0) + 0.01 * rng.standard_normal((1000, 6)) for _ in "xy")
    groups = np.repeat(np.arange(200), 5)
    depth = depth_for(200, 1000, 10, group_size=5)
    assert depth < 600
    a, b = (neighbors(v, k=depth, groups=groups) for v in (x, y))
    assert all(p.short_rows == 0 for p in gallery_curve(a, b, sizes=[200], repeats=20, groups=groups))


def test_what_cannot_be_drawn_is_refused_with_what_can():
    x, y = related(60)
    a, b = (neighbors(v, k=20) for v in (x, y))
    for sizes in ([61], [10], []):
        with pytest.raises(errors.BadChoice, match=r"wanted one or more sizes from k \+ 1 = 11 to n = 60"):
            gallery_curve(a, b, sizes=sizes)
    with pytest.raises(errors.BadChoice, match="repeats = 0"):
        gallery_curve(a, b, sizes=[30], repeats=0)
    for k, wanted in ((0, "a whole number of neighbours"), (21, "1 to 20, the depth")):
        with pytest.raises(errors.BadChoice, match=f"k = {k}: wanted {wanted}"):
            gallery_curve(a, b, k=k, sizes=[30])
    with pytest.raises(errors.BadChoice, match="k = 21: wanted 1 to 20"):
        k_curve(a, b, ks=[3, 21])
    with pytest.raises(errors.BadChoice, match=r"ks = \[0, 3\]"):
        k_curve(a, b, ks=[3, 0])
    with pytest.raises(errors.BadChoice, match="cka_linear is no mean over rows of neighbour graphs; there are cycle"):
        gallery_curve(a, b, name="cka_linear", sizes=[30])
    with pytest.raises(errors.BadChoice, match="'knn' is unknown"):
        k_curve(a, b, name="knn")
    with pytest.raises(errors.BadShape, match="graph_x has 60 rows and graph_y 59"):
        gallery_curve(a, neighbors(y[1:], k=20), sizes=[30])
    with pytest.raises(errors.BadChoice, match="by 'cosine' and graph_y by 'euclidean'"):
        gallery_curve(a, neighbors(y, k=20, metric="euclidean"), sizes=[30])
    with pytest.raises(errors.BadChoice, match="graph_x: row 0 has a neighbour of its own group"):
        gallery_curve(a, b, sizes=[30], groups=[0] * 30 + [1] * 30)
    broken = Neighbors(a.ids + 45, a.similarities, "cosine", "by hand", 0, 0)
    with pytest.raises(errors.BadChoice, match="graph_y: ids run from 45"):
        k_curve(a, broken)
    for size, n, k in ((10, 60, 10), (61, 60, 10), (30, 60, 0)):
        with pytest.raises(errors.BadChoice, match="wanted 1 <= k < size <= n"):
            depth_for(size, n, k)
    with pytest.raises(errors.BadChoice, match="1 groups of 5 beside a row's own"):
        depth_for(12, 60, 10, group_size=5)


def test_a_part_of_one_large_group_is_refused():
    groups = [0] * 40 + list(range(1, 21))
    x, y = related(60)
    a, b = (neighbors(v, k=15, groups=groups) for v in (x, y))
    with pytest.raises(errors.TooFewRows):
        gallery_curve(a, b, k=10, sizes=[42], repeats=20, groups=groups)
