"""What is measured of one split is what slow restatements of it give, for two sides and for three."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from featcache.metrics import cka, joint, mutual_knn
from featcache.trainer.adapters import build_adapters
from featcache.trainer.config import FitConfig
from featcache.trainer.losses import info_nce
from featcache.trainer.sides import pair_sides
from featcache.trainer.tracking import (
    EvaluationSplit,
    alignment_rows,
    alignment_settings,
    embed_split,
    epoch_rows,
    joint_names,
    loss_row,
    retrieval_rows,
)
from tests.trainer_planted import planted_sides

CONFIG = FitConfig(k=5)
PLAIN = alignment_settings(CONFIG)


@pytest.fixture(scope="module")
def two():
    return EvaluationSplit("test", pair_sides(*planted_sides(200, noise=1.0), CONFIG).part("test"))


@pytest.fixture(scope="module")
def three():
    return EvaluationSplit("test", pair_sides(*planted_sides(200, third=True, noise=1.0), CONFIG).part("test"))


def adapters_for(split, width=8):
    rows = {name: side.values for name, side in split.paired.sides.items()}
    return build_adapters(dict.fromkeys(rows, "linear"), rows, width=width, log_scale=0.0, seed=0)


def unit(features):
    return features / features.norm(dim=1, keepdim=True)


def cosine_knn(features, k):
    similarity = unit(features.double()) @ unit(features.double()).T
    return [set(row) for row in similarity.fill_diagonal_(-9).topk(k).indices.tolist()]


def by_hand(a, b, k=5):
    return np.mean([len(p & q) / k for p, q in zip(cosine_knn(a, k), cosine_knn(b, k), strict=True)])


def means_of(side, rows=None):
    values = side.values if rows is None else rows
    return torch.stack([values[side.groups == g].double().mean(dim=0) for g in range(len(side.counts))])


def embedded_by_hand(split, adapters):
    """One row a group: rows embedded and normalised, averaged, normalised again."""
    with torch.no_grad():
        sides = split.paired.sides.items()
        return {name: unit(means_of(side, adapters.embed(name, side.values))) for name, side in sides}


def one(rows, **wanted):
    (row,) = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    return row


def test_raw_alignment_is_that_of_the_group_means_at_length_one(two):
    rows, reference = alignment_rows(two, two.raw, PLAIN), two.paired.reference
    means = {name: means_of(side) for name, side in two.paired.sides.items()}
    for space in means:
        row = one(rows, space=space, metric="mutual_knn", against="reference")
        assert row.value == pytest.approx(by_hand(means[space], reference))
        assert (row.n, row.k, row.epoch, row.split) == (50, 5, None, "test")
        assert row.chance == pytest.approx(5 / 49) and (row.null_low, row.ci_low) == (None, None)
        linear = one(rows, space=space, metric="cka_debiased", against="reference")
        expected = cka(unit(means[space]), unit(reference.double()), debiased=True)
        assert linear.value == pytest.approx(expected, abs=1e-6) and "rows=unit" in linear.convention
    between = one(rows, space="x", against="y", metric="mutual_knn")
    assert between.value == pytest.approx(by_hand(means["x"], means["y"]))
    assert len(rows) == 2 * 3


@pytest.mark.parametrize("which", ["two", "three"])
def test_adapted_alignment_averages_normalised_rows_and_joints_sum_their_sides(which, request):
    split = request.getfixturevalue(which)
    adapters, reference = adapters_for(split), split.paired.reference
    rows = alignment_rows(split, embed_split(split, adapters).spaces, PLAIN)
    spaces = embedded_by_hand(split, adapters)
    names = [*spaces]
    spaces["joint"] = sum(spaces[name] for name in names)
    if len(names) > 2:
        spaces |= {f"joint:{a}+{b}": spaces[a] + spaces[b] for a, b in combinations(names, 2)}
    assert {row.space for row in rows if row.against == "reference"} == set(spaces)
    for space, features in spaces.items():
        row = one(rows, space=space, against="reference", metric="mutual_knn")
        assert row.value == pytest.approx(by_hand(features, reference))
        linear = one(rows, space=space, against="reference", metric="cka_debiased")
        assert linear.value == pytest.approx(cka(unit(features), unit(reference.double()), debiased=True), abs=1e-6)
    pairs = [(row.space, row.against) for row in rows if row.against != "reference"]
    assert pairs == [pair for pair in combinations(names, 2) for _ in range(2)]
    for a, b in combinations(names, 2):
        row = one(rows, space=a, against=b, metric="mutual_knn")
        assert row.value == pytest.approx(by_hand(spaces[a], spaces[b]))


def test_joints_are_called_by_their_sides_whatever_these_are_called():
    assert joint_names(["b/2", "a.c"]) == {"joint": ("b/2", "a.c")}
    three = joint_names(["b/2", "a.c", "d"])
    assert three == {
        "joint": ("b/2", "a.c", "d"),
        "joint:b/2+a.c": ("b/2", "a.c"),
        "joint:b/2+d": ("b/2", "d"),
        "joint:a.c+d": ("a.c", "d"),
    }


@pytest.mark.parametrize("which", ["two", "three"])
def test_retrieval_uses_every_row_in_every_direction(which, request):
    split = request.getfixturevalue(which)
    adapters = adapters_for(split)
    rows = retrieval_rows(split, embed_split(split, adapters))
    sides = split.paired.sides
    directions = list(permutations(sides, 2))
    assert [row.direction for row in rows] == [f"{a}→{b}" for a, b in directions for _ in range(4)]
    for query, gallery in directions:
        with torch.no_grad():
            similarity = adapters.embed(query, sides[query].values) @ adapters.embed(gallery, sides[gallery].values).T
        own, owner = sides[query].groups.numpy(), sides[gallery].groups.numpy()
        order = np.argsort(-similarity.numpy(), axis=1)
        ranks = [1 + np.flatnonzero(owner[row] == group)[0] for row, group in zip(order, own, strict=True)]
        for k in (1, 5, 10):
            row = one(rows, metric=f"R@{k}", direction=f"{query}→{gallery}")
            assert row.value == pytest.approx(np.mean(np.array(ranks) <= k)) and row.n == len(own) and row.k == k
            assert (row.space, row.against, row.higher_is_better) == (query, gallery, True)
            assert row.ci_low <= row.value <= row.ci_high and row.estimand and 0 < row.chance < 1
        median = one(rows, metric="median_rank", direction=f"{query}→{gallery}")
        assert median.value == np.median(ranks) and not median.higher_is_better


@pytest.mark.parametrize("weights", [{}, {"x+y": 2.0, "z+x": 0.5}, {"y+z": 0.0}])
def test_the_held_out_loss_is_the_weighted_mean_over_pairs_of_batches_as_large_as_in_training(three, weights):
    config = FitConfig(k=5, batch=20, pair_weights=weights)
    adapters = adapters_for(three)
    total = weight_sum = 0.0
    with torch.no_grad():
        rows = {
            name: adapters.embed(name, torch.stack([side.values[side.groups == g][0] for g in range(50)]))
            for name, side in three.paired.sides.items()
        }
        for a, b in combinations(rows, 2):
            weight = weights.get(f"{a}+{b}", weights.get(f"{b}+{a}", 1.0))
            weight_sum += weight
            for batch in torch.arange(50).tensor_split(3):
                loss = info_nce(rows[a][batch], rows[b][batch], adapters.log_scale) - np.log(len(batch))
                total += weight * float(loss) * len(batch) / 50
    row = loss_row(three, embed_split(three, adapters), adapters, config)
    assert row.value == pytest.approx(total / weight_sum, abs=1e-6)
    assert (row.space, row.against, row.n, row.higher_is_better) == ("joint", "", 50, False)


def test_an_epoch_has_alignment_retrieval_and_loss_without_nulls(two):
    for epoch, stage in ((0, "untrained"), (3, "trained")):
        rows = epoch_rows(two, adapters_for(two), CONFIG, epoch)
        assert {(row.stage, row.epoch, row.split) for row in rows} == {(stage, epoch, "test")}
        assert {row.null for row in rows} == {"none"} and len(rows) == 3 * 2 + 2 + 2 * 4 + 1
        assert all(row.chance is not None for row in rows if row.metric in ("mutual_knn", "R@1"))


def test_without_a_reference_sides_are_measured_against_each_other():
    sides, _ = planted_sides(200, third=True)
    split = EvaluationSplit("test", pair_sides(sides, None, CONFIG).part("test"))
    assert split.reference is None
    rows = epoch_rows(split, adapters_for(split), CONFIG, 1)
    aligned = {(row.space, row.against) for row in rows if row.metric in ("mutual_knn", "cka_debiased")}
    assert aligned == {("x", "y"), ("x", "z"), ("y", "z")}
    assert sum(row.metric == "R@10" for row in rows) == 6


def test_raw_spaces_and_the_reference_are_prepared_once(two):
    assert two.raw is two.raw and two.reference is two.reference


def test_the_joint_of_a_space_with_itself_is_as_near_as_the_space(two):
    x, reference = two.paired.sides["x"].values, two.paired.reference
    assert mutual_knn(joint([x, x]), reference, k=5) == mutual_knn(x, reference, k=5)
