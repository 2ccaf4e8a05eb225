import numpy as np
import pytest
import torch

from featcache.metrics import cka, joint, mutual_knn
from featcache.studies.adapters.results import mixed_rows, raw_rows
from featcache.trainer.adapters import build_adapters
from featcache.trainer.config import FitConfig
from featcache.trainer.evaluate import WEIGHTS, EvaluationSplit, adapt, adapted_rows
from featcache.trainer.pairs import pair
from featcache.trainer.table import COLUMNS, Row, frame
from tests.trainer_planted import planted

CONFIG = FitConfig(k=5, permutations=200)


@pytest.fixture(scope="module")
def benches():
    pairs = pair(*planted(200, noise=1.0), CONFIG)
    return EvaluationSplit("validation", pairs.part("validation"), CONFIG), EvaluationSplit(
        "test", pairs.part("test"), CONFIG, full=True
    )


@pytest.fixture(scope="module")
def adapters(benches):
    part = benches[0].pairs
    return build_adapters("linear", part.x.values, part.y.values, width=8, log_scale=0.0, seed=0)


def cosine_knn(features, k):
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    similarity = (unit @ unit.T).fill_diagonal_(-9)
    return [set(row) for row in similarity.topk(k).indices.tolist()]


def by_hand(a, b, k):
    return np.mean([len(p & q) / k for p, q in zip(cosine_knn(a, k), cosine_knn(b, k), strict=True)])


def one(rows, **wanted):
    (row,) = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    return row


def test_raw_alignment_is_that_of_the_group_means_with_n_k_chance_and_null_range(benches):
    test = benches[1]
    rows = raw_rows(test)
    row = one(rows, space="y", metric="mutual_knn")
    means = torch.stack([test.pairs.y.values[test.pairs.y.groups == g].mean(dim=0) for g in range(50)])
    assert row.value == pytest.approx(by_hand(means, test.pairs.reference, 5))
    assert (row.stage, row.against, row.n, row.k, row.epoch) == ("raw", "reference", 50, 5, None)
    assert row.chance == pytest.approx(5 / 49) and row.null_low < row.chance < row.null_high < row.value
    linear = one(rows, space="x", metric="cka")
    assert linear.value == pytest.approx(cka(test.pairs.x.values, test.pairs.reference))
    assert linear.null_low < linear.chance < linear.null_high and linear.k is None
    between = one(rows, space="x+y", metric="mutual_knn", against="pair")
    assert between.value == pytest.approx(by_hand(test.pairs.x.values, means, 5))


def test_adapted_alignment_averages_normalised_rows_and_the_joint_sums_both_sides(benches, adapters):
    test = benches[1]
    rows = adapted_rows(test, adapt(test, adapters), "trained", 7)
    with torch.no_grad():
        x = adapters.embed("x", test.pairs.x.values)
        y_rows = adapters.embed("y", test.pairs.y.values)
    y = torch.stack([y_rows[test.pairs.y.groups == g].mean(dim=0) for g in range(50)])
    y = y / y.norm(dim=1, keepdim=True)
    reference = test.pairs.reference
    for space, features in (("x", x), ("y", y), ("joint", x + y)):
        row = one(rows, space=space, metric="mutual_knn")
        assert row.value == pytest.approx(by_hand(features, reference, 5))
        assert row.epoch == 7 and row.stage == "trained" and row.split == "test"
    assert one(rows, space="joint", metric="cka").value == pytest.approx(cka(joint(x, y), reference), abs=1e-5)


def test_retrieval_uses_every_caption(benches, adapters):
    test = benches[1]
    rows = adapted_rows(test, adapt(test, adapters), "untrained", 0)
    with torch.no_grad():
        similarity = adapters.embed("x", test.pairs.x.values) @ adapters.embed("y", test.pairs.y.values).T
    owner = test.pairs.y.groups.numpy()
    hits = [np.isin(i, owner[np.argsort(-row)[:5]]) for i, row in enumerate(similarity.numpy())]
    forward = one(rows, metric="R@5", direction="x→y")
    assert forward.value == pytest.approx(np.mean(hits)) and forward.n == 50 and forward.k == 5
    hits = [g in np.argsort(-similarity.numpy()[:, j])[:5] for j, g in enumerate(owner)]
    back = one(rows, metric="R@5", direction="y→x")
    assert back.value == pytest.approx(np.mean(hits)) and back.n == 150
    assert back.ci_low <= back.value <= back.ci_high and back.chance == pytest.approx(0.1) and back.estimand
    assert one(rows, metric="median_rank", direction="y→x").value >= 1


def test_validation_rows_carry_values_without_nulls_or_intervals(benches, adapters):
    validation = benches[0]
    rows = [*raw_rows(validation), *adapted_rows(validation, adapt(validation, adapters), "trained", 1)]
    assert {row.split for row in rows} == {"validation"}
    assert {(row.null_low, row.ci_low) for row in rows} == {(None, None)}
    assert all(row.chance is not None for row in rows if row.metric in ("mutual_knn", "R@1"))


def test_the_weight_of_the_mixture_is_chosen_on_validation_and_reported_on_test(benches):
    rows = mixed_rows(*benches)
    for metric in ("mutual_knn", "cka"):
        tried = [row for row in rows if row.metric == metric and row.split == "validation"]
        assert [row.w for row in tried] == list(WEIGHTS)
        reported = one(rows, metric=metric, split="test")
        assert reported.w == WEIGHTS[int(np.argmax([row.value for row in tried]))]
        assert (reported.stage, reported.space, reported.against) == ("mixed", "x+y", "reference")
        assert reported.null_low is not None


def test_a_mixture_of_weight_one_is_the_raw_side_alone(benches):
    rows = mixed_rows(*benches)
    raw = raw_rows(benches[0])
    for w, space in ((1.0, "x"), (0.0, "y")):
        mixed = one(rows, metric="mutual_knn", split="validation", w=w)
        assert mixed.value == one(raw, space=space, metric="mutual_knn").value


def test_the_joint_of_a_space_with_itself_is_as_near_as_the_space(benches):
    x = benches[1].pairs.x.values
    reference = benches[1].pairs.reference
    assert mutual_knn(joint(x, x), reference, k=5) == mutual_knn(x, reference, k=5)


def test_the_table_has_the_declared_columns_and_keeps_nulls():
    table = frame([Row("raw", "x", "reference", "cka", "test", 0.25, n=9)])
    assert table.columns == list(COLUMNS)
    row = table.to_dicts()[0]
    assert row["value"] == 0.25 and row["n"] == 9 and row["epoch"] is None and row["w"] is None
    assert row["direction"] == "" and row["estimand"] == ""
    assert frame([]).schema == table.schema


def test_on_many_groups_the_null_range_of_cka_comes_from_moments_and_agrees_with_permutations(monkeypatch):
    pairs = pair(*planted(800, captions=1, noise=1.0), CONFIG)
    ranges = []
    for limit in (10_000, 10):
        monkeypatch.setattr("featcache.trainer.evaluate.PERMUTED_CKA_GROUPS", limit)
        row = one(raw_rows(EvaluationSplit("test", pairs.part("test"), CONFIG, full=True)), space="y", metric="cka")
        ranges.append((row.null_low, row.null_high))
        assert ("exact permutation moments" in row.estimand) == (limit == 10)
    width = ranges[0][1] - ranges[0][0]
    np.testing.assert_allclose(ranges[0], ranges[1], atol=0.2 * width)
