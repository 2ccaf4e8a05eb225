"""Size and power of every metric's null, calibrated scores, closed forms and the null of the best pair."""

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


@pytest.mark.parametrize("seed", [SEEDS[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])])
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
    result = 0
    for seed in range(40):
        x, noise = RNG([seed, 11]).standard_normal((2, ROWS, WIDTH))
        sides = comparison.prepare(x), comparison.prepare(x + 0.3 * noise)
        result += rejects(metric, comparison, *sides, seed)
    assert result >= 36


@pytest.mark.parametrize("name", sorted(BLIND_TO_PAIRING))
def test_a_metric_that_does_not_see_the_pairing_never_calls_it_aligned(name):
    x, noise = RNG(0).standard_normal((2, 30, 3))
    result = calibrate(name, x, x + 0.1 * noise, permutations=99)
    assert (result.p, result.calibrated) == (1.0, 0.0)
    assert result.null.std == pytest.approx(0, abs=1e-12)


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
    result = sum(rejects(metric, comparison, *map(comparison.prepare, pair), 0, len(groups)) for pair in spaces)
    assert result > 15


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
    y = noise + 0.05 * x
    drawn = calibrate(name, x, y, permutations=5000, **options)
    closed = calibrate(name, x, y, permutations=0, **options)
    assert drawn.chance == closed.chance == pytest.approx(closed.null.mean, abs=1e-12)
    assert drawn.null.mean == pytest.approx(closed.null.mean, abs=4 * closed.null.std / 5000**0.5)
    assert drawn.null.std == pytest.approx(closed.null.std, rel=0.06)
    assert closed.p == pytest.approx(drawn.p, abs=4 * (drawn.p / 5000) ** 0.5 + 0.1 * drawn.p)
    assert closed.threshold == pytest.approx(drawn.threshold, abs=0.2 * drawn.null.std)
    ends = (closed.null.low, closed.null.high)
    assert ends == pytest.approx((drawn.null.low, drawn.null.high), abs=0.2 * drawn.null.std)
    words = "normal, exact two moments" if name == "mutual_knn" else "Pearson III, exact three moments"
    assert (closed.null.permutations, closed.null.method) == (0, words)


def test_the_tail_of_a_closed_form_is_never_given_below_a_thousandth():
    x, noise = RNG(4).standard_normal((2, 200, 6))
    for name in ("mutual_knn", "cka_linear", "cka_debiased", "hsic"):
        assert calibrate(name, x, x + noise, permutations=0).p == 0.001


@pytest.mark.parametrize("name", PAIRED)
def test_a_calibrated_score_is_above_zero_just_where_p_is_at_most_alpha(name):
    options = {"k": K} if "k" in METRICS[name].options() else {}
    above = 0
    for seed in range(8):
        x, noise = RNG([seed, 19]).standard_normal((2, ROWS, WIDTH))
        result = calibrate(name, x, noise + 0.5 * seed * x, permutations=39, seed=seed, **options)
        assert (result.calibrated > 0) == (result.p <= 0.05)
        assert 0 <= result.calibrated <= 1
        above += result.calibrated > 0
    assert above


@pytest.mark.parametrize("name", PAIRED)
def test_a_space_against_itself_is_calibrated_to_one(name):
    options = {"k": K} if "k" in METRICS[name].options() else {}
    x = RNG(5).standard_normal((ROWS, WIDTH))
    result = calibrate(name, x, x, permutations=39, **options)
    whole = name != "cycle_knn"  # a space need not be its own cycle
    assert result.calibrated == pytest.approx(1, abs=1e-6) if whole else result.calibrated > 0.3
    assert result.p == 1 / 40


def test_the_threshold_is_the_published_order_statistic():
    x, y = RNG(7).standard_normal((2, 40, 4))
    result = calibrate("cka_linear", x, y, permutations=57, alpha=0.1)
    pooled = np.sort(np.append(result.null.scores, result.observed))
    assert result.threshold == pooled[math.ceil(0.9 * 58) - 1]
    distance = calibrate("procrustes", x, y, permutations=57, alpha=0.1)
    pooled = np.sort(-np.append(distance.null.scores, distance.observed))
    assert -distance.threshold == pooled[math.ceil(0.9 * 58) - 1]


def test_a_distance_is_calibrated_as_the_mirrored_similarity():
    x, noise = RNG(8).standard_normal((2, 40, 4))
    y = x + noise
    result = calibrate("procrustes", x, y, permutations=99)
    assert result.calibrated == (result.threshold - result.observed) / (result.threshold - result.best)
    assert result.best == pytest.approx(0, abs=1e-7)
    assert result.observed < result.threshold < result.chance


def test_an_unbounded_similarity_is_measured_against_its_two_self_scores():
    x, noise = RNG(9).standard_normal((2, 40, 4))
    result = calibrate("hsic", x, 3 * x + noise, permutations=99)
    own = METRICS["hsic"].function
    assert result.best == pytest.approx(math.sqrt(own(x, x) * own(3 * x + noise, 3 * x + noise)))


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
    result = max_null(comparison, xs, ys, **draws)
    single = np.array([[permutation_null(comparison, a, b, **draws).scores for b in ys] for a in xs])
    best = np.max if metric.higher_is_better else np.min
    assert result.null.scores.tolist() == best(single, axis=(0, 1)).tolist()
    assert result.scores[result.best] == best(result.scores)
    assert result.p == result.p_values[result.best] == result.p_values.min()
    raw = np.array([[permutation_null(comparison, a, b, **draws).p for b in ys] for a in xs])
    assert (result.p_values >= raw).all()


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
    result = max_null(comparison, [xs[row]], [ys[j] for j in below], n=ROWS, permutations=19)
    assert result.null.observed == scores[row, below].max() < 0
    assert result.best == (0, int(scores[row, below].argmax()))


OPEN = (
    *(calibrate, max_null, metrics.sample_interval, metrics.query_interval, metrics.paired_difference),
    *(metrics.layer_grid, metrics.many_grid, metrics.gallery_curve, metrics.k_curve),
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
    result = {name: calibrate(name, x, y, permutations=19).backend for name in METRICS}
    assert result["cka_linear"] == result["cka_rbf"] == result["hsic"] == "torch (cpu)"
    assert result["cca"] == result["procrustes"] == "numpy"
    assert all("tiles" in result[name] for name in ("mutual_knn", "cknna", "second_order_cosine"))
