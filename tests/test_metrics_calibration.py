"""Does every metric's null hold its size and find a signal, and is a calibrated score what it says?"""

import inspect
import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from featcache import metrics
from featcache.metrics import (
    METRICS,
    calibrate,
    chance_mutual_knn,
    errors,
    max_null,
    mutual_knn,
    neighbors,
    permutation_null,
)
from featcache.metrics.comparison import KnnComparison
from featcache.metrics.scores.local import Cknna
from featcache.metrics.table import chosen

RNG = np.random.default_rng
SEEDS = (1, 2, 3)
ROWS, WIDTH, K, SIMULATIONS, ALPHA = 24, 3, 4, 400, 0.05
PERMUTATIONS = 19  # p <= .05 just where the observed score beats all of them: an exact test
# cycle_knn counts rows, so that of 24 rows few scores are possible and many tie; a tie counts against the observed.
ROWS_OF = {"cycle_knn": 120}

# Scores of two whole clouds, which no permutation of the rows changes: they have no pairing to test.
BLIND_TO_PAIRING = {"modality_gap"}
PAIRED = sorted(set(METRICS) - BLIND_TO_PAIRING)

# Groups of equal size, and of sizes 1, 2 and 3 (whole groups change places among those of their size).
GROUPINGS = {"equal": np.repeat(np.arange(12), 3), "unequal": np.repeat(np.arange(18), [1] * 6 + [2] * 6 + [3] * 6)}
GROUPED = ("mutual_knn", "cka_debiased", "procrustes", "rsa")


def band(tests):
    """Rejections out of SIMULATIONS that `tests` exact tests together leave in one case of a hundred."""
    tail = 0.01 / tests / 2
    return binom.ppf(tail, SIMULATIONS, ALPHA), binom.ppf(1 - tail, SIMULATIONS, ALPHA)


def at(name, groups=None, **options):
    metric = METRICS[name]
    return chosen(name, groups=groups, **({"k": K} if "k" in metric.options() else {}), **options)


@cache
def graphs_of_unrelated_spaces(seed, rows):
    """The neighbour graphs of `unrelated(seed, rows)`, which all metrics of graphs share."""
    return [tuple(neighbors(space, k=K) for space in pair) for pair in unrelated(seed, rows)]


def unrelated(seed, rows):
    return RNG([seed, 7]).standard_normal((SIMULATIONS, 2, rows, WIDTH))


def rejects(metric, comparison, a, b, seed, n=ROWS, groups=None):
    better = metric.higher_is_better
    draws = {"permutations": PERMUTATIONS, "seed": seed, "groups": groups}
    return permutation_null(comparison, a, b, n=n, higher_is_better=better, **draws).p <= ALPHA


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PAIRED)
def test_unrelated_spaces_are_called_aligned_as_often_as_alpha_says(name, seed):
    metric, comparison = at(name)
    rows = ROWS_OF.get(name, ROWS)
    if isinstance(comparison, KnnComparison | Cknna):
        sides = graphs_of_unrelated_spaces(seed, rows)
    else:
        sides = [tuple(comparison.prepare(space) for space in pair) for pair in unrelated(seed, rows)]
    rejections = sum(rejects(metric, comparison, a, b, 1000 * seed + i, rows) for i, (a, b) in enumerate(sides))
    low, high = band(len(PAIRED) * len(SEEDS))
    assert low <= rejections <= high


@pytest.mark.parametrize("name", PAIRED)
def test_a_planted_signal_is_found_nine_times_in_ten(name):
    metric, comparison = at(name)
    found = 0
    for seed in range(40):
        x, noise = RNG([seed, 11]).standard_normal((2, ROWS, WIDTH))
        sides = comparison.prepare(x), comparison.prepare(x + 0.3 * noise)
        found += rejects(metric, comparison, *sides, seed)
    assert found >= 36


@pytest.mark.parametrize("name", sorted(BLIND_TO_PAIRING))
def test_a_metric_that_does_not_see_the_pairing_never_calls_it_aligned(name):
    x, noise = RNG(0).standard_normal((2, 30, 3))
    found = calibrate(name, x, x + 0.1 * noise, permutations=99)
    assert (found.p, found.calibrated) == (1.0, 0.0)
    assert found.null.std == pytest.approx(0, abs=1e-12)


def grouped_pair(groups, rng, signal=0.0):
    """Two spaces whose rows lie close together within a group; alike only if there is a signal."""
    count = groups.max() + 1
    centres = rng.standard_normal((2, count, WIDTH))
    centres[1] += signal * centres[0]
    return [side[groups] + 0.1 * rng.standard_normal((len(groups), WIDTH)) for side in centres]


@pytest.mark.parametrize("sizes", GROUPINGS)
@pytest.mark.parametrize("name", GROUPED)
def test_nulls_hold_their_size_and_find_a_signal_with_groups(name, sizes):
    groups = GROUPINGS[sizes]
    metric, comparison = at(name, groups)
    rejections = signals = 0
    for seed in range(SIMULATIONS):
        sides = [comparison.prepare(space) for space in grouped_pair(groups, RNG([seed, 13]))]
        rejections += rejects(metric, comparison, *sides, seed, len(groups), groups)
    for seed in range(40):
        sides = [comparison.prepare(space) for space in grouped_pair(groups, RNG([seed, 17]), signal=3.0)]
        signals += rejects(metric, comparison, *sides, seed, len(groups), groups)
    low, high = band(len(GROUPED) * len(GROUPINGS))
    assert low <= rejections <= high
    assert signals >= 36


def test_moving_rows_one_by_one_calls_grouped_spaces_aligned_far_too_often():
    groups = GROUPINGS["equal"]
    metric, comparison = at("cka_debiased")
    spaces = (grouped_pair(groups, RNG([seed, 13])) for seed in range(100))
    found = sum(rejects(metric, comparison, *map(comparison.prepare, pair), 0, len(groups)) for pair in spaces)
    assert found > 15


def test_five_fold_duplicates_of_unrelated_spaces_score_at_chance_with_groups():
    x, y = (np.repeat(space, 5, axis=0) for space in RNG(0).standard_normal((2, 400, 16)))
    groups = np.repeat(np.arange(400), 5)
    fair = calibrate("mutual_knn", x, y, groups=groups, permutations=99)
    assert fair.observed == pytest.approx(chance_mutual_knn(2000, 10, groups), abs=0.003)
    assert fair.p > 0.05
    assert fair.calibrated == 0
    assert mutual_knn(x, y) > 0.35


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mutual_knn", {}),
        ("mutual_knn", {"k": 5, "metric": "euclidean"}),
        ("cka_linear", {}),
        ("cka_linear", {"debiased": True}),
        ("cka_debiased", {}),
        ("rv", {}),
        ("hsic", {}),
        ("hsic", {"divisor": "n^2"}),
        ("hsic", {"debiased": True}),
    ],
)
def test_closed_forms_agree_with_five_thousand_permutations(name, options):
    x, noise = RNG(3).standard_normal((2, 120, 6)) ** 3
    found = calibrate(name, x, noise + 0.05 * x, permutations=5000, **options)
    assert found.moments is not None
    assert found.chance == found.moments.mean
    assert found.null.mean == pytest.approx(found.moments.mean, abs=4 * found.moments.std / 5000**0.5)
    assert found.null.std == pytest.approx(found.moments.std, rel=0.06)
    closed = calibrate(name, x, noise + 0.05 * x, permutations=0, **options)
    assert closed.p == closed.normal_p == found.normal_p
    assert closed.threshold == pytest.approx(found.threshold, abs=0.6 * found.null.std)
    assert (closed.null.permutations, closed.null.method) == (0, "closed form, normal tail")


@pytest.mark.parametrize("name", PAIRED)
def test_a_calibrated_score_is_above_zero_just_where_p_is_at_most_alpha(name):
    options = {"k": K} if "k" in METRICS[name].options() else {}
    above = 0
    for seed in range(8):
        x, noise = RNG([seed, 19]).standard_normal((2, ROWS, WIDTH))
        found = calibrate(name, x, noise + 0.5 * seed * x, permutations=39, seed=seed, **options)
        assert (found.calibrated > 0) == (found.p <= 0.05)
        assert 0 <= found.calibrated <= 1
        above += found.calibrated > 0
    assert above


@pytest.mark.parametrize("name", PAIRED)
def test_a_space_against_itself_is_calibrated_to_one(name):
    options = {"k": K} if "k" in METRICS[name].options() else {}
    x = RNG(5).standard_normal((ROWS, WIDTH))
    found = calibrate(name, x, x, permutations=39, **options)
    whole = name != "cycle_knn"  # a space need not be its own cycle
    assert found.calibrated == pytest.approx(1, abs=1e-6) if whole else found.calibrated > 0.3
    assert found.p == 1 / 40


def test_the_threshold_is_the_published_order_statistic():
    x, y = RNG(7).standard_normal((2, 40, 4))
    found = calibrate("cka_linear", x, y, permutations=57, alpha=0.1)
    pooled = np.sort(np.append(found.null.scores, found.observed))
    assert found.threshold == pooled[math.ceil(0.9 * 58) - 1]
    distance = calibrate("procrustes", x, y, permutations=57, alpha=0.1)
    pooled = np.sort(-np.append(distance.null.scores, distance.observed))
    assert -distance.threshold == pooled[math.ceil(0.9 * 58) - 1]


def test_a_distance_is_calibrated_as_the_mirrored_similarity():
    x, noise = RNG(8).standard_normal((2, 40, 4))
    y = x + noise
    found = calibrate("procrustes", x, y, permutations=99)
    assert found.calibrated == (found.threshold - found.observed) / (found.threshold - found.best)
    assert found.best == pytest.approx(0, abs=1e-7)
    assert found.observed < found.threshold < found.chance


def test_an_unbounded_similarity_is_measured_against_its_two_self_scores():
    x, noise = RNG(9).standard_normal((2, 40, 4))
    found = calibrate("hsic", x, 3 * x + noise, permutations=99)
    own = METRICS["hsic"].function
    assert found.best == pytest.approx(math.sqrt(own(x, x) * own(3 * x + noise, 3 * x + noise)))


def test_cached_graphs_are_calibrated_as_their_features():
    x, noise = RNG(10).standard_normal((2, 60, 4))
    y = x + noise
    graphs = [neighbors(space, k=12) for space in (x, y)]
    for name in ("mutual_knn", "rank_knn", "cknna"):
        a = calibrate(name, x, y, k=5, permutations=39)
        b = calibrate(name, *graphs, k=5, permutations=39)
        assert a == b


def test_a_calibration_that_cannot_be_made_is_refused():
    x, y = RNG(0).standard_normal((2, 30, 4))
    graph = neighbors(x, k=5)
    for message, call in {
        "'nope' is unknown": lambda: calibrate("nope", x, y),
        "has no option neighbours": lambda: calibrate("mutual_knn", x, y, neighbours=5),
        "rsa has no closed form": lambda: calibrate("rsa", x, y, permutations=0),
        "hsic has no closed form": lambda: calibrate("hsic", x, y, kernel="rbf", permutations=0),
        "no closed form with groups": lambda: calibrate("cka_linear", x, y, groups=range(30), permutations=0),
        "at least 99 permutations": lambda: calibrate("cka_linear", x, y, permutations=50, alpha=0.01),
        "permutations = -1": lambda: calibrate("cka_linear", x, y, permutations=-1),
        "alpha = 1": lambda: calibrate("cka_linear", x, y, alpha=1),
        "is a neighbour graph": lambda: calibrate("cka_linear", graph, graph),
        "5 deep, wanted k = 6": lambda: calibrate("mutual_knn", graph, graph, k=6),
        "searched by 'cosine'": lambda: calibrate("mutual_knn", graph, graph, k=5, metric="ip"),
        "one space or more": lambda: max_null(chosen("rsa")[1], [], [x], n=30),
    }.items():
        with pytest.raises(errors.BadChoice, match=message):
            call()
    with pytest.raises(errors.BadShape, match="x: 30, y: 29"):
        calibrate("cka_linear", x, y[1:])
    with pytest.raises(errors.ConstantSpace, match="y: all 30 rows"):
        calibrate("cka_linear", x, np.ones((30, 3)))


def layers(seed, count=3):
    return list(RNG([seed, 23]).standard_normal((count, ROWS, WIDTH)))


@pytest.mark.parametrize("name", ["mutual_knn", "cka_linear", "procrustes"])
def test_the_null_of_the_best_pair_moves_all_layers_alike(name):
    metric, comparison = at(name)
    xs, ys = ([comparison.prepare(layer) for layer in layers(seed, 2)] for seed in (0, 1))
    draws = {"n": ROWS, "permutations": 49, "seed": 3, "higher_is_better": metric.higher_is_better}
    found = max_null(comparison, xs, ys, **draws)
    single = np.array([[permutation_null(comparison, a, b, **draws).scores for b in ys] for a in xs])
    best = np.max if metric.higher_is_better else np.min
    assert found.null.scores.tolist() == best(single, axis=(0, 1)).tolist()
    assert found.scores[found.best] == best(found.scores)
    assert found.p == found.p_values[found.best] == found.p_values.min()
    raw = np.array([[permutation_null(comparison, a, b, **draws).p for b in ys] for a in xs])
    assert (found.p_values >= raw).all()


def test_the_best_of_nine_unrelated_pairs_is_called_aligned_as_often_as_alpha_says():
    _, comparison = at("cka_linear")
    rejections = 0
    for seed in range(SIMULATIONS):
        xs, ys = ([comparison.prepare(layer) for layer in layers(2 * seed + side)] for side in (0, 1))
        rejections += max_null(comparison, xs, ys, n=ROWS, permutations=PERMUTATIONS, seed=seed).p <= ALPHA
    low, high = band(1)
    assert low <= rejections <= high


def test_the_best_pair_of_scores_below_zero_is_the_one_nearest_zero():
    _, comparison = at("cka_debiased")
    xs, ys = ([comparison.prepare(layer) for layer in layers(seed, 3)] for seed in (7, 8))
    scores = np.array([[comparison.compare(a, b) for b in ys] for a in xs])
    row = next(i for i in range(3) if (scores[i] < 0).sum() > 1)
    below = np.flatnonzero(scores[row] < 0)
    found = max_null(comparison, [xs[row]], [ys[j] for j in below], n=ROWS, permutations=19)
    assert found.null.observed == scores[row, below].max() < 0
    assert found.best == (0, int(scores[row, below].argmax()))


OPEN = (
    *(calibrate, max_null, metrics.sample_interval, metrics.query_interval, metrics.paired_difference),
    *(metrics.exceeds_parts, metrics.layer_grid, metrics.many_grid, metrics.gallery_curve, metrics.k_curve),
    *(metrics.mixing_curve, metrics.ridge_ceiling, metrics.StreamingMetric),
)


@pytest.mark.parametrize("function", OPEN, ids=lambda function: function.__name__)
def test_no_option_of_a_metric_is_named_like_a_parameter_of_what_measures_it(function):
    taken = set(inspect.signature(function).parameters) - {"k", "groups"}  # these mean the same in both
    assert {name: metric.options() & taken for name, metric in METRICS.items() if metric.options() & taken} == {}


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if "depth" in metric.options()])
def test_a_search_that_ends_before_the_kth_neighbour_is_refused(name):
    for depth in (4, 0, True, 7.0):
        with pytest.raises(errors.BadChoice, match="depth = .*: wanted k = 5"):
            METRICS[name].comparison(k=5, depth=depth)
    assert METRICS[name].comparison(k=5, depth=5).depth == 5


def test_options_that_are_no_flag_or_no_amount_are_refused():
    for name, options in (
        ("cknna", {"debiased": "False"}),
        ("cknna", {"epsilon": -1.0}),
        ("cknna", {"epsilon": np.nan}),
        ("cknna", {"k": "3"}),
        ("svcca", {"standardize": "no"}),
        ("cca", {"ridge": np.inf}),
        ("cca", {"ridge": True}),
        ("alignment_loss", {"power": 0}),
    ):
        ((option, _),) = options.items()
        with pytest.raises(errors.BadChoice, match=option):
            METRICS[name].comparison(**options)
    assert METRICS["cca"].comparison(ridge=np.float32(0.5)).ridge == 0.5


def test_a_calibrated_score_says_what_computed_it():
    x, y = RNG(0).standard_normal((2, 30, 4))
    found = {name: calibrate(name, x, y, permutations=19).backend for name in METRICS}
    assert found["cka_linear"] == found["cka_rbf"] == found["hsic"] == "torch (cpu)"
    assert found["cca"] == found["procrustes"] == "numpy"
    assert all("tiles" in found[name] for name in ("mutual_knn", "cknna", "second_order_cosine"))
