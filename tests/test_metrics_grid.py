"""Layer grids: every cell is the metric of that pair, from one preparation a layer, and the best pair is the best."""

import numpy as np
import pytest

from featcache.metrics import METRICS, Neighbors, errors, layer_grid, many_grid, mutual_knn, neighbors
from featcache.metrics.comparison import KnnComparison
from featcache.metrics.sweeps import grid
from featcache.metrics.table import chosen

RNG = np.random.default_rng
IN_TWO_STEPS = [name for name, metric in METRICS.items() if metric.comparison]


def layers(count, seed, n=60, d=7, noise=1.0):
    """Layers of one encoder: ever noisier views of one latent that all encoders share."""
    z, rng = RNG(0).standard_normal((n, 5)), RNG(seed)
    maps = rng.standard_normal((count, 5, d))
    return [(z @ m + noise * (i + 1) * rng.standard_normal((n, d)) + 0.3) / 4 for i, m in enumerate(maps)]


@pytest.mark.parametrize("name", IN_TWO_STEPS)
def test_every_cell_is_the_metric_of_its_pair(name):
    xs, ys = layers(3, 1), layers(2, 2)
    result = layer_grid(name, xs, ys)
    function = METRICS[name].function
    expected = np.array([[function(x, y) for y in ys] for x in xs])
    np.testing.assert_allclose(result.scores, expected, rtol=0, atol=1e-12)
    extreme = expected.max() if METRICS[name].higher_is_better else expected.min()
    assert expected[result.best] == result.best_score == pytest.approx(extreme, abs=1e-12)
    assert (result.metric, result.n) == (name, 60)


@pytest.mark.parametrize("name", IN_TWO_STEPS)
def test_each_layer_is_prepared_once(name, monkeypatch):
    kind = type(chosen(name)[1])
    prepared, before = [], kind.prepare
    monkeypatch.setattr(kind, "prepare", lambda self, x, label="x": prepared.append(label) or before(self, x, label))
    layer_grid(name, layers(3, 1), layers(4, 2))
    assert prepared == ["xs[0]", "xs[1]", "xs[2]", "ys[0]", "ys[1]", "ys[2]", "ys[3]"]
    prepared.clear()
    many_grid(name, {"a": layers(2, 1), "b": layers(1, 2), "c": layers(1, 3)})
    assert prepared == ["a[0]", "a[1]", "b[0]", "c[0]"]


def test_groups_reach_the_neighbours_and_the_chance_level():
    groups = np.repeat(np.arange(20), 3)
    xs, ys = layers(2, 1), layers(2, 2)
    result = layer_grid("mutual_knn", xs, ys, groups=groups, k=4)
    assert result.scores[1, 0] == pytest.approx(mutual_knn(xs[1], ys[0], k=4, groups=groups), abs=1e-12)
    assert (result.k, result.chance) == (4, pytest.approx(4 / 57))
    assert layer_grid("jaccard_knn", xs, ys, groups=groups, k=4).chance is None


def test_cached_graphs_serve_in_place_of_features_and_are_not_searched(monkeypatch):
    xs, ys = layers(3, 1), layers(2, 2)
    deep = [neighbors(x, k=20) for x in xs]
    monkeypatch.setattr(KnnComparison, "prepare", lambda self, x, name="x": neighbors(x, k=self.k, name=name))
    for name in ("mutual_knn", "lcs_knn"):
        expected = layer_grid(name, xs, ys, k=6)
        np.testing.assert_array_equal(layer_grid(name, deep, ys, k=6).scores, expected.scores)
    monkeypatch.setattr(KnnComparison, "prepare", None)
    result = layer_grid("mutual_knn", deep, [neighbors(y, k=6) for y in ys], k=6)
    np.testing.assert_array_equal(
        result.scores, layer_grid("mutual_knn", deep, [neighbors(y, k=9) for y in ys], k=6).scores
    )
    assert result.backend == deep[0].backend


def test_rows_that_run_short_are_left_out_of_a_cell_as_the_comparison_leaves_them():
    rows = np.arange(0, 60, 2)
    xs, ys = ([neighbors(v, k=18).among(rows) for v in layers(3, seed)] for seed in (1, 2))
    result = layer_grid("mutual_knn", xs, ys, k=8)
    comparison = chosen("mutual_knn", k=8)[1]
    expected = [[comparison.compare(a, b) for b in ys] for a in xs]
    assert any((side.ids[:, 7] < 0).any() for side in xs)
    np.testing.assert_allclose(result.scores, expected, rtol=0, atol=1e-12)
    few = [neighbors(layers(1, seed)[0], k=10).among(np.arange(9)) for seed in (1, 2)]
    with pytest.raises(errors.TooFewRows, match=r"layers \(0, 0\): no row has k neighbours in both"):
        layer_grid("mutual_knn", few[:1], few[1:], k=8)


def test_the_best_of_an_all_negative_grid_is_its_highest_and_keeps_its_sign():
    rng = RNG(0)
    candidates = list(rng.standard_normal((40, 30, 4)))
    target = rng.standard_normal((30, 4))
    scores = [METRICS["cka_debiased"].function(x, target) for x in candidates]
    negative = [x for x, score in zip(candidates, scores, strict=True) if score < 0]
    result = layer_grid("cka_debiased", negative, [target])
    assert result.scores.max() < 0
    assert result.best == (int(result.scores.argmax()), 0)
    assert result.best_score == result.scores.max()


def test_the_best_of_distances_is_the_smallest():
    distances = [name for name in IN_TWO_STEPS if not METRICS[name].higher_is_better]
    assert distances
    for name in distances:
        result = layer_grid(name, layers(3, 1), layers(3, 2))
        assert result.best_score == result.scores.min() < result.scores.max()


def test_many_encoders_give_a_tidy_table_of_every_pair_of_layers():
    encoders = {"a": layers(2, 1), "b": layers(3, 2), "c": layers(1, 3)}
    table = many_grid("mutual_knn", encoders, k=5)
    assert [(p.x, p.y) for p in table if p.best] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(table) == 2 * 3 + 2 * 1 + 3 * 1
    for p in table:
        assert p.value == pytest.approx(mutual_knn(encoders[p.x][p.layer_x], encoders[p.y][p.layer_y], k=5), abs=1e-12)
        assert (p.metric, p.n, p.k, p.chance, p.p) == ("mutual_knn", 60, 5, pytest.approx(5 / 59), None)
    both_ways = many_grid("cycle_knn", encoders, k=5)
    assert len(both_ways) == 2 * len(table)
    (one,) = [p for p in both_ways if (p.x, p.y, p.layer_x, p.layer_y) == ("c", "b", 0, 2)]
    assert one.value == METRICS["cycle_knn"].function(encoders["c"][0], encoders["b"][2], k=5)


def test_the_best_pair_has_a_p_value_that_counts_the_search():
    xs, ys = layers(3, 1), layers(3, 2, noise=0.5)
    result = layer_grid("mutual_knn", xs, ys, permutations=99, k=5)
    assert result.max_null.p == 0.01
    assert result.max_null.null.mean > result.chance  # the best of nine is above one pair's chance
    points = result.points("left", "right")
    assert {(p.x, p.y) for p in points} == {("left", "right")}
    assert [p.p for p in points if p.best] == [0.01]
    rng = RNG(3)
    alone = [list(rng.standard_normal((3, 60, 7))) for _ in range(2)]
    assert layer_grid("mutual_knn", *alone, permutations=99, k=5).max_null.p > 0.05
    again = layer_grid("mutual_knn", xs, ys, permutations=99, k=5)
    assert (again.max_null.p_values == result.max_null.p_values).all()


def test_what_does_not_fit_is_refused_by_the_layers_name():
    xs, ys = layers(2, 1), layers(2, 2)
    graph = neighbors(xs[0], k=10)
    with pytest.raises(errors.BadShape, match=r"xs\[1\]: 60, ys\[0\]: 60, ys\[1\]: 59"):
        layer_grid("mutual_knn", xs, [ys[0], ys[1][1:]])
    with pytest.raises(errors.NotFinite, match=r"xs\[1\]: 1 of 60 rows hold NaN"):
        layer_grid("mutual_knn", [xs[0], np.where(xs[1] == xs[1][3, 2], np.nan, xs[1])], ys)
    with pytest.raises(errors.ConstantSpace, match=r"b\[0\]: all 60 rows are the same"):
        many_grid("mutual_knn", {"a": xs, "b": [np.ones_like(ys[0])]})
    with pytest.raises(errors.BadChoice, match="ys: no layer"):
        layer_grid("mutual_knn", xs, [])
    with pytest.raises(errors.BadChoice, match=r"xs\[0\] is 10 deep, wanted k = 11"):
        layer_grid("mutual_knn", [graph], ys, k=11)
    with pytest.raises(errors.BadChoice, match=r"xs\[0\] was searched by 'cosine', but the metric's option says 'ip'"):
        layer_grid("mutual_knn", [graph], ys, metric="ip")
    wrong = Neighbors(graph.ids + 1, graph.similarities, "cosine", "by hand", 0, 0)
    with pytest.raises(errors.BadChoice, match=r"xs\[0\]: ids run to 60"):
        layer_grid("mutual_knn", [wrong], ys)
    with pytest.raises(errors.BadChoice, match="'knn' is unknown; there are .*cka_debiased"):
        layer_grid("knn", xs, ys)
    with pytest.raises(errors.BadChoice, match="mutual_knn has no option kk; it has .*k, metric"):
        layer_grid("mutual_knn", xs, ys, kk=3)
    with pytest.raises(errors.BadChoice, match="permutations = -1"):
        layer_grid("mutual_knn", xs, ys, permutations=-1)
    with pytest.raises(errors.BadChoice, match="two encoders or more, got a"):
        many_grid("mutual_knn", {"a": xs})
    with pytest.raises(errors.TooFewRows, match="k = 10"):
        layer_grid("mutual_knn", [x[:10] for x in xs], [y[:10] for y in ys])


def test_the_kernel_of_all_pairs_leaves_no_marks_between_layers():
    rng = RNG(0)
    a, b = (np.argsort(rng.random((5, 40, 40)), axis=2)[:, :, :6].astype(np.int32) for _ in range(2))
    shared, rows = np.zeros((5, 5), np.int64), np.zeros((5, 5), np.int64)
    grid._shared_by_all(a.transpose(1, 0, 2).copy(), b.transpose(1, 0, 2).copy(), shared, rows)
    expected = [[sum(len(set(p) & set(q)) for p, q in zip(i, j, strict=True)) for j in b] for i in a]
    assert shared.tolist() == expected
    assert (rows == 40).all()
