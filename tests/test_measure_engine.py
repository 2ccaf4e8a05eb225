"""One measurement gives the scores, nulls and intervals of the functions it stands for, all prepared once."""

from collections import Counter

import numpy as np
import pytest
import torch

from featcache.metrics import METRICS, calibrate, chance_mutual_knn, errors, neighbors, query_interval, sample_interval
from featcache.metrics.measure import null_policy, space
from featcache.metrics.measure.contrasts import Contrast
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import ContrastRow, Row, columns, columns_page, frame, p_text, schema, verdict_text
from featcache.metrics.measure.settings import MeasureSettings, chosen_metrics, parse_metric
from featcache.metrics.measure.space import ArraySpace
from featcache.metrics.scores.kernels import LinearCka, RbfCka
from featcache.metrics.table import chosen

RNG = np.random.default_rng
FAST = {"permutations": 39, "repeats": 20}


def planted(n=60, d=5, seed=0):
    latent, *noise = RNG([seed, 51]).standard_normal((4, n, d))
    return {"x": latent + noise[0], "y": latent + noise[1]}, latent + noise[2]


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_score_is_that_of_its_function_at_these_options_and_rows(name, unit_rows):
    spaces, reference = planted()
    settings = MeasureSettings((name,), k=4, null="none", unit_rows=unit_rows)
    rows = measure(spaces, ArraySpace(reference, "r"), settings, pairs=[("x", "y")]).rows
    assert [(row.space, row.against) for row in rows] == [("x", "r"), ("y", "r"), ("x", "y")]
    every = spaces | {"r": reference}
    given = {key: unit(values) if unit_rows else values for key, values in every.items()}
    options = {"k": 4} if "k" in METRICS[name].options() else {}
    for row in rows:
        expected = METRICS[name].function(given[row.space], given[row.against], **options)
        assert row.value == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert (row.metric, row.n, row.d, row.d_against, row.k) == (name, 60, 5, 5, options.get("k"))
        assert row.higher_is_better == METRICS[name].higher_is_better
        assert row.convention.endswith(" rows=unit") == unit_rows


@pytest.mark.parametrize("name", ["mutual_knn", "cka_debiased", "cka_linear", "procrustes", "cknna"])
def test_nulls_and_intervals_are_those_of_the_functions(name):
    spaces, reference = planted()
    settings = MeasureSettings((name,), k=4, interval="samples", **FAST)
    [row, _] = measure(spaces, ArraySpace(reference, "r"), settings).rows
    options = {"k": 4} if "k" in METRICS[name].options() else {}
    null = calibrate(name, spaces["x"], reference, permutations=39, **options)
    assert (row.value, row.chance, row.p) == (null.observed, null.chance, null.p)
    assert (row.calibrated, row.threshold) == (null.calibrated, null.threshold)
    assert (row.null_low, row.null_high, row.null) == (null.null.low, null.null.high, "39 permutations")
    interval = sample_interval(name, spaces["x"], reference, repeats=20, **options)
    assert (row.ci_low, row.ci_high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (row.estimand, row.interval, row.short_rows) == (interval.estimand, interval.method, 0)


def test_an_interval_of_queries_is_that_of_the_function_and_others_say_why_they_have_none():
    spaces, reference = planted()
    settings = MeasureSettings(("mutual_knn:k=5", "cka_debiased"), null="none", interval="queries", queries=30)
    knn, cka, *_ = measure(spaces, ArraySpace(reference, "r"), settings).rows
    expected = query_interval("mutual_knn", spaces["x"], reference, k=5, queries=30)
    assert (knn.ci_low, knn.ci_high, knn.estimand) == (expected.low, expected.high, expected.estimand)
    assert cka.ci_low is None and "no interval: cka_debiased is no mean over rows" in cka.note


class Counted:
    """How often graphs were searched and kernels prepared, by name of the space."""

    def __init__(self, monkeypatch):
        self.searched, self.prepared = Counter(), Counter()
        search, prepare = space.neighbors, LinearCka.prepare
        monkeypatch.setattr(space, "neighbors", lambda *a, **o: self.count("searched", o["name"]) or search(*a, **o))
        monkeypatch.setattr(
            LinearCka, "prepare", lambda one, x, name="x": self.count("prepared", name) or prepare(one, x, name)
        )

    def count(self, what, name):
        getattr(self, what)[name] += 1


def test_each_graph_and_each_kernel_is_made_once_for_all_pairs_nulls_intervals_and_contrasts(monkeypatch):
    counted = Counted(monkeypatch)
    spaces, reference = planted()
    metrics = ("mutual_knn:k=3", "mutual_knn:k=6", "cknna", "jaccard_knn", "cka_debiased")
    settings = MeasureSettings(metrics, k=4, interval="samples", unit_rows=True, **FAST)
    questions = [Contrast("x", ("y",)), Contrast("z", ("x", "y"), "max")]
    named = [ArraySpace(values, name) for name, values in (spaces | {"z": spaces["x"] + spaces["y"]}).items()]
    target = ArraySpace(reference, "r")
    measure(named, target, settings, contrasts=questions, pairs=[("x", "y")])
    every = dict.fromkeys("xyzr", 1)
    assert counted.searched == every and counted.prepared == every
    measure(named, target, settings, contrasts=questions)
    assert counted.searched == every and counted.prepared == every, "spaces keep what is known of them"


def test_without_a_reference_spaces_are_compared_with_each_other():
    spaces, reference = planted()
    named = spaces | {"r": reference}
    settings = MeasureSettings(("cka_debiased",), null="none")
    pairs = [(row.space, row.against) for row in measure(named, None, settings).rows]
    assert pairs == [("x", "y"), ("x", "r"), ("y", "r")]
    only = measure(named, None, settings, pairs=[("r", "x")]).rows
    assert [(row.space, row.against) for row in only] == [("r", "x")]
    both = measure(named, ArraySpace(reference, "ref"), settings, pairs=[("x", "y"), ("x", "y")]).rows
    assert [(row.space, row.against) for row in both] == [("x", "ref"), ("y", "ref"), ("r", "ref"), ("x", "y")]


def test_graphs_that_are_given_are_not_searched_again(monkeypatch):
    counted = Counted(monkeypatch)
    spaces, reference = planted()
    deep = {name: neighbors(values, k=59) for name, values in (spaces | {"r": reference}).items()}
    named = [ArraySpace(values, name, graphs=[deep[name]]) for name, values in spaces.items()]
    settings = MeasureSettings(("mutual_knn",), k=4, interval="samples", **FAST)
    measure(named, ArraySpace(reference, "r", graphs=[deep["r"]]), settings)
    assert not counted.searched
    assert named[0].origins == {"cosine": "given"}


def test_groups_are_excluded_as_neighbours_moved_whole_and_have_their_exact_chance():
    spaces, reference = planted(n=30)
    groups = np.repeat(np.arange(30), 3)
    grouped = [ArraySpace(np.repeat(values, 3, axis=0), name, groups) for name, values in spaces.items()]
    target = ArraySpace(np.repeat(reference, 3, axis=0), "r", groups.tolist())
    settings = MeasureSettings(("mutual_knn", "cka_debiased"), k=6, interval="samples", **FAST)
    knn, cka, *_ = measure(grouped, target, settings).rows
    assert knn.chance == chance_mutual_knn(90, 6, groups)
    assert knn.value == METRICS["mutual_knn"].function(grouped[0].values, target.values, k=6, groups=groups)
    assert "of whole groups" in knn.interval and "of whole groups" in cka.interval
    null = calibrate("cka_debiased", grouped[0].values, target.values, groups=groups, permutations=39)
    assert (cka.p, cka.null_low) == (null.p, null.null.low)
    with pytest.raises(errors.BadShape, match="r has other groups than x"):
        measure(grouped, ArraySpace(target.values, "r"), settings)


@pytest.mark.parametrize("name", ["mutual_knn", "cka_debiased"])
def test_agreement_that_labels_explain_is_no_agreement_within_them(name):
    """Two spaces that share their clusters and nothing else: of 60 data sets none but chance pass within labels."""
    passed = {None: 0, "within": 0}
    for seed in range(60):
        rng = RNG([seed, 53])
        labels = rng.integers(0, 6, 90)
        x, y = (3 * rng.standard_normal((6, 8))[labels] + rng.standard_normal((90, 8)) for _ in range(2))
        for kind in passed:
            settings = MeasureSettings((name,), permutations=19, within=labels if kind else None, seed=seed)
            [row] = measure({"x": x}, ArraySpace(y, "r"), settings).rows
            passed[kind] += (row.p or 1) <= 0.05
            assert row.null == ("19 permutations within labels" if kind else "19 permutations")
    assert passed[None] == 60
    assert passed["within"] <= 9  # 99.9 % point of 60 exact tests


def test_rows_change_places_only_within_labels_and_groups_only_with_their_like():
    from featcache.metrics.certainty.nulls import describe_permutation, row_orders

    groups = np.repeat(np.arange(12), 2)
    labels = np.array(["a", "b"] * 6 + ["a", "a"] * 5 + ["c", "c"])
    draws = row_orders(groups, 24, 0, labels)
    orders = np.array([next(draws) for _ in range(50)])
    assert (labels[orders] == labels).all()
    assert (groups[orders][:, ::2] == groups[orders][:, 1::2]).all() and len(np.unique(orders, axis=0)) > 40
    assert describe_permutation(groups, 24, labels).endswith("within labels, 2 of 24 rows without a partner")
    with pytest.raises(errors.BadChoice, match="no two of the 4 groups have the same size and labels"):
        row_orders(None, 4, 0, np.arange(4))
    with pytest.raises(errors.BadChoice, match="only permutations keep to labels"):
        MeasureSettings(null="closed", within=labels)


def nulls_of(monkeypatch, settings, budget):
    monkeypatch.setattr(null_policy, "BUDGET", budget)
    spaces, reference = planted()
    rows = measure({"x": spaces["x"]}, ArraySpace(reference, "r"), settings).rows
    return {row.metric: row for row in rows}


def test_where_permuting_costs_too_much_the_closed_form_is_taken_and_else_few_permutations(monkeypatch):
    metrics = ("mutual_knn", "cka_debiased", "cka_linear", "cka_rbf", "hsic", "procrustes")
    settings = MeasureSettings(metrics, k=4, permutations=100)
    rows = nulls_of(monkeypatch, settings, 1e12)
    assert {row.null for row in rows.values()} == {"100 permutations"}
    monkeypatch.setattr(null_policy, "PERMUTED_ROWS", 20)
    rows = nulls_of(monkeypatch, settings, 1.0)
    pearson = "Pearson III, exact three moments"
    few = "19 permutations"
    expected = ("100 permutations", pearson, pearson, few, pearson, few)
    assert tuple(rows[name].null for name in metrics) == expected
    assert rows["cka_debiased"].p == 0.001 and p_text(rows["cka_debiased"].p, pearson) == "≤ .001"
    assert rows["cka_rbf"].null_low is rows["cka_rbf"].null_high is None, "19 draws have no central 95 %"
    cost = RbfCka().permutation_cost(*(RbfCka().prepare(space) for space in RNG(0).standard_normal((2, 60, 5))))
    assert nulls_of(monkeypatch, settings, 30.5 * cost)["cka_rbf"].null == "30 permutations"
    within = MeasureSettings(("cka_debiased",), within=np.arange(60) % 3, permutations=100)
    assert nulls_of(monkeypatch, within, 1.0)["cka_debiased"].null == "19 permutations within labels"


def test_a_closed_form_is_refused_where_there_is_none_and_noted_where_all_are_asked_for():
    spaces, reference = planted()
    one, target = {"x": spaces["x"]}, ArraySpace(reference, "r")
    with pytest.raises(errors.BadChoice, match="procrustes has no closed form"):
        measure(one, target, MeasureSettings(("procrustes",), null="closed"))
    rows = {row.metric: row for row in measure(one, target, MeasureSettings(("all",), k=4, null="closed")).rows}
    assert "has no closed form" in rows["procrustes"].note and rows["procrustes"].value is not None
    assert rows["mutual_knn"].null == "normal, exact two moments"
    assert rows["modality_gap"].p is None and rows["modality_gap"].null == "none"


def test_of_all_metrics_those_that_do_not_suit_have_no_score_but_a_note():
    spaces, _ = planted()
    target = ArraySpace(RNG(0).standard_normal((60, 7)), "r")
    settings = MeasureSettings(("all",), k=4, interval="samples", **FAST)
    result = measure(spaces, target, settings, contrasts=[Contrast("x", ("y",))])
    rows = {row.metric: row for row in result.rows if row.space == "x"}
    assert rows["alignment_loss"].value is None and "7" in rows["alignment_loss"].note
    assert all(row.value is not None for name, row in rows.items() if not METRICS[name].same_width)
    contrasts = {row.metric: row for row in result.contrasts}
    assert contrasts["alignment_loss"].value is None and "x: " in contrasts["alignment_loss"].note
    assert verdict_text(contrasts["alignment_loss"]) == "cannot tell"
    with pytest.raises(errors.BadShape):
        measure(spaces, target, MeasureSettings(("alignment_loss",)))


def test_chance_is_given_without_a_null_where_a_formula_says_it():
    spaces, reference = planted()
    settings = MeasureSettings(("mutual_knn", "cka_debiased", "cka_linear", "rsa"), k=4, null="none")
    rows = {row.metric: row for row in measure({"x": spaces["x"]}, ArraySpace(reference, "r"), settings).rows}
    assert rows["mutual_knn"].chance == chance_mutual_knn(60, 4)
    assert rows["cka_debiased"].chance == 0
    null = calibrate("cka_linear", spaces["x"], reference, permutations=2000)
    assert rows["cka_linear"].chance == pytest.approx(null.null.mean, rel=0.02)
    assert rows["rsa"].chance is None and rows["rsa"].p is None


def test_a_space_that_has_collapsed_is_named_by_every_metric():
    spaces, reference = planted()
    flat = {"flat": np.ones((60, 5))}
    for name in ("mutual_knn", "cka_debiased", "procrustes"):
        for unit_rows in (False, True):
            settings = MeasureSettings((name,), null="none", unit_rows=unit_rows)
            with pytest.raises(errors.ConstantSpace, match="flat: "):
                measure(spaces | flat, ArraySpace(reference, "r"), settings)


def test_rows_of_length_one_are_only_made_where_a_metric_needs_them(monkeypatch):
    spaces, reference = planted()
    made = []
    monkeypatch.setattr(space, "_unit", lambda values, name: made.append(name) or unit(values))
    named, target = [ArraySpace(values, name) for name, values in spaces.items()], ArraySpace(reference, "r")
    measure(named, target, MeasureSettings(("mutual_knn",), k=4, null="none", unit_rows=True))
    assert made == []
    for _ in range(2):
        measure(named, target, MeasureSettings(("cka_debiased",), null="none", unit_rows=True))
    assert sorted(made) == ["r", "x", "y"]


def test_tensors_and_arrays_give_the_same_rows():
    spaces, reference = planted()
    settings = MeasureSettings(k=4, null="none", unit_rows=True)
    values = [row.value for row in measure(spaces, ArraySpace(reference, "r"), settings).rows]
    tensors = {name: torch.from_numpy(one) for name, one in spaces.items()}
    target = ArraySpace(torch.from_numpy(reference).requires_grad_(), "r")
    assert [row.value for row in measure(tensors, target, settings).rows] == values


def test_measurements_that_cannot_be_made_are_refused():
    spaces, reference = planted()
    target, questions = ArraySpace(reference, "r"), Contrast("x", ("y",))
    for message, call in {
        "two spaces are named 'x'": lambda: measure([ArraySpace(reference, "x")] * 2, target),
        "reference and a space are both named 'x'": lambda: measure(spaces, ArraySpace(reference, "x")),
        "no spaces": lambda: measure({}, target),
        "one space .x. and no reference": lambda: measure({"x": reference}),
        "pairs name 'q'; there are x, y, r": lambda: measure(spaces, target, pairs=[("x", "q")]),
        "no space is named 'q'": lambda: measure(spaces, target, contrasts=[Contrast("x", ("q",))]),
        "against a reference; give one": lambda: measure(spaces, contrasts=[questions]),
        "'rsa' is not measured": lambda: measure(spaces, target, contrasts=[Contrast("x", ("y",), metrics=("rsa",))]),
        "repeats = 7": lambda: measure(spaces, target, MeasureSettings(repeats=7), contrasts=[questions]),
        "null = 'maybe'": lambda: MeasureSettings(null="maybe"),
        "permutations = 18": lambda: MeasureSettings(permutations=18),
        "belong together": lambda: MeasureSettings(interval="queries"),
        "alpha = 5": lambda: MeasureSettings(alpha=5),
        "parts = .*wanted one name": lambda: Contrast("x", ("y", "z")),
        "every space stands once": lambda: Contrast("x", ("x",)),
        "kind 'best' is unknown": lambda: Contrast("x", ("y",), "best"),
        "groups are those": lambda: measure(spaces, target, MeasureSettings(("mutual_knn:groups=1",))),
    }.items():
        with pytest.raises(errors.BadChoice, match=message):
            call()
    with pytest.raises(errors.BadShape, match="numbers of rows differ .x: 60, y: 60, r: 59"):
        measure(spaces, ArraySpace(reference[1:], "r"))


def test_metrics_may_be_typed_or_given_with_options():
    typed = chosen_metrics(MeasureSettings(("cka_rbf:sigma=median", ("mutual_knn", {"k": 3}), "cknna"), k=7))
    assert [(metric.name, options) for metric, options in typed] == [
        ("cka_rbf", {"sigma": "median"}),
        ("mutual_knn", {"k": 3}),
        ("cknna", {"k": 7}),
    ]
    assert parse_metric("rsa:pairs=2e3")[1] == {"pairs": 2000.0}


@pytest.mark.parametrize("kind", [Row, ContrastRow])
def test_every_column_has_a_type_and_a_meaning_and_tables_hold_them_all(kind):
    page = columns_page(kind)
    assert all(f"| `{name}` | {of.__name__} | " in page for name, of in columns(kind).items())
    assert "|  |" not in page
    empty = frame([], kind)
    assert list(empty.schema.items()) == list(schema(kind).items())
    spaces, reference = planted()
    measured = measure(spaces, ArraySpace(reference, "r"), MeasureSettings(**FAST), contrasts=[Contrast("x", ("y",))])
    rows = measured.rows if kind is Row else measured.contrasts
    assert frame(rows, kind).schema == empty.schema and len(frame(rows, kind)) == len(rows)


def test_progress_names_each_metric_once():
    spaces, reference = planted()
    words = []
    measure(spaces, ArraySpace(reference, "r"), MeasureSettings(null="none"), on_metric=words.append)
    assert words == ["mutual_knn, 1 of 2", "cka_debiased, 2 of 2"]


@pytest.mark.parametrize("name", sorted(METRICS))
def test_equal_options_make_equal_comparisons_so_that_spaces_can_keep_what_they_prepared(name):
    assert chosen(name)[1] == chosen(name)[1] and hash(chosen(name)[1]) == hash(chosen(name)[1])
