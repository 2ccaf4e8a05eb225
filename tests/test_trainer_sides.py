"""Sides are paired by group, whatever their order; what takes part in which split is fixed and recorded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from blake3 import blake3

from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired
from featcache.trainer.sides import Side, hash_ids, pair_sides
from tests.trainer_planted import features, planted, planted_sides, without

CONFIG = FitConfig(k=5)
MASK = FitConfig(k=5, missing="mask")


def pair(x, y, reference, config):
    return pair_sides({"x": x, "y": y}, reference, config)


def test_groups_that_one_array_lacks_are_left_out_and_counted():
    x, y, reference = planted(80)
    pairs = pair(
        x.take(x.groups != "g0003"), y.take(np.isin(y.groups, y.groups[9:])), reference.take(np.arange(76)), CONFIG
    )
    assert pairs.split["groups"] == {"x": 79, "y": 77, "reference": 76}
    assert pairs.split["paired"] == len(pairs.groups) == 72
    assert set(pairs.groups) == {f"g{i:04d}" for i in range(4, 76)}


def test_every_row_stays_with_its_group_whatever_the_order_of_the_arrays():
    x, y, reference = planted(60)
    shuffled = y.take(np.random.default_rng(0).permutation(len(y.ids)))
    pairs = pair(x, shuffled, reference.take(np.arange(60)[::-1]), CONFIG)
    side = pairs.sides["y"]
    for number, group in enumerate(pairs.groups):
        start, count = int(side.starts[number]), int(side.counts[number])
        mine = {tuple(row) for row in side.values[start : start + count].tolist()}
        assert mine == {tuple(row) for row in y.values[y.groups == group].tolist()} and count == 3
        assert pairs.reference[number].tolist() == reference.values[reference.groups == group][0].tolist()


def test_a_part_holds_the_rows_and_means_of_its_groups_only():
    x, y, reference = planted(60)
    pairs = pair(x, y, reference, CONFIG)
    part = pairs.part("test")
    assert part is pairs.part("test") and part.splits["test"].tolist() == list(range(15))
    assert list(part.groups) == [f"g{i:04d}" for i in range(3, 60, 4)]
    side = part.sides["y"]
    assert side.groups.tolist() == [i for i in range(15) for _ in range(3)]
    for number, group in enumerate(part.groups):
        own = y.values[y.groups == group]
        assert side.values[side.groups == number].tolist() == own.tolist()
        np.testing.assert_allclose(side.means()[number], own.astype(np.float64).mean(axis=0), rtol=1e-6)
        np.testing.assert_array_equal(part.reference[number], reference.values[reference.groups == group][0])


def test_a_published_validation_split_is_used_as_it_is():
    split = pair(*planted(80), CONFIG).split
    assert split["n"] == {"train": 40, "validation": 20, "test": 20} and split["unused"] == 0
    assert (
        "the data set's own, or drawn by a hash of the group" in split["rule"] and "training_groups_with" not in split
    )


def test_without_a_validation_split_a_seeded_tenth_of_the_training_groups_becomes_one():
    data = planted(160, validation=False)
    first, again, other = (pair(*data, FitConfig(k=5, split_seed=seed, seed=seed + 3)) for seed in (1, 1, 2))
    assert first.split["n"] == {"train": 108, "validation": 12, "test": 40}
    assert "10% of the training groups, drawn with seed 1" in first.split["rule"]
    assert first.split["hashes"] == again.split["hashes"]
    assert first.split["hashes"]["validation"] != other.split["hashes"]["validation"]
    assert first.split["hashes"]["test"] == other.split["hashes"]["test"]
    assert not set(first.splits["train"].tolist()) & set(first.splits["validation"].tolist())


def test_the_drawn_validation_split_does_not_depend_on_the_order_of_the_rows():
    x, y, reference = planted(160, validation=False)
    other = pair(x.take(np.arange(160)[::-1]), y, reference, CONFIG)
    assert pair(x, y, reference, CONFIG).split["hashes"] == other.split["hashes"]


def test_groups_outside_the_three_splits_are_counted_as_unused():
    x, y, reference = planted(80)
    arrays = [replace(a, splits=np.where(a.groups == "g0000", "other", a.splits)) for a in (x, y, reference)]
    split = pair(*arrays, CONFIG).split
    assert split["unused"] == 1 and split["n"]["train"] == 39


def test_the_split_hash_is_blake3_of_the_sorted_ids():
    assert hash_ids(np.array(["b", "ä"])) == blake3('["b", "ä"]'.encode()).hexdigest()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"overlay": "f" * 64}, "one overlay"),
        ({"dataset": "another"}, "one data set"),
        ({"groups": np.array([f"h{i}" for i in range(80)])}, "no group is in all of x, y, reference"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(change, says):
    x, y, reference = planted(80)
    with pytest.raises(NotPaired, match=says):
        pair(x, y, replace(reference, **change), CONFIG)


def test_one_side_is_no_pair():
    x, _, reference = planted(80)
    with pytest.raises(NotPaired, match="two sides or more, got x"):
        pair_sides({"x": x}, reference, CONFIG)


def test_a_missing_test_split_is_refused_with_the_splits_that_exist():
    arrays = [replace(a, splits=np.where(a.splits == "test", "other", a.splits)) for a in planted(80)]
    with pytest.raises(NotPaired, match=r"planted has no test split among its 80 paired groups \(found 'other': 20"):
        pair(*arrays, CONFIG)


def test_a_split_too_small_for_k_is_refused():
    with pytest.raises(NotPaired, match="validation split of planted has 20 paired groups; k = 20 needs at least 21"):
        pair(*planted(80), FitConfig(k=20))


def test_a_row_that_is_not_finite_is_refused_by_id():
    x, y, reference = planted(80)
    y.values[7, 2] = np.nan
    with pytest.raises(NotPaired, match="1 rows of y .encoder-y/last.mean. are not finite, the first 'g0002#1'"):
        pair(x, y, reference, CONFIG)


def test_a_group_in_two_splits_is_refused_by_name_and_by_both_arrays():
    sides, reference = planted_sides(80, third=True)
    sides["z"].splits[3] = "train"
    with pytest.raises(NotPaired, match="group 'g0003' is in split 'test' of x but in 'train' of z"):
        pair_sides(sides, reference, CONFIG)
    only = {**sides, "x": without(sides["x"], ["g0003"])}
    with pytest.raises(NotPaired, match="group 'g0003' is in split 'test' of y but in 'train' of z"):
        pair_sides(only, reference, MASK)


def test_labels_come_from_the_first_side_that_has_some():
    x, y, reference = planted(80)
    assert pair(replace(x, labels={}), y, reference, CONFIG).labels.tolist() == ["even", "odd"] * 40
    bare = [replace(a, labels={}) for a in (x, y, reference)]
    assert set(pair(*bare, CONFIG).labels) == {""}


def test_half_precision_features_are_widened_without_change():
    x, y, reference = planted(80)
    half = x.values.astype(np.float16)
    values = pair(replace(x, values=half), y, reference, CONFIG).sides["x"].values
    assert values.dtype == torch.float32 and np.array_equal(values.numpy(), half.astype(np.float32))


def test_one_group_may_have_many_rows_in_the_reference():
    x, y, _ = planted(80)
    twice = features("reference", np.arange(160)[:, None] * np.ones((1, 2)), x.groups.repeat(2), x.splits.repeat(2))
    assert pair(x, y, twice, CONFIG).reference[:, 0].tolist() == [2 * i + 0.5 for i in range(80)]


def test_without_a_reference_its_rows_decide_nothing():
    sides, _ = planted_sides(80)
    pairs = pair_sides(sides, None, CONFIG)
    assert pairs.reference is None and pairs.part("test").reference is None
    assert pairs.split["groups"] == {"x": 80, "y": 80} and pairs.split["paired"] == 80


# -- a side that is missing -------------------------------------------------------------------------------------------


def obvious(sides, reference, missing):
    """Groups of each split by the rule in words: which sides has a group, and is it in the reference?"""
    split_of = {g: s for f in sides.values() for g, s in zip(f.groups, f.splits, strict=True)}
    splits = {"train": set(), "validation": set(), "test": set()}
    for group, split in split_of.items():
        having = [name for name, f in sides.items() if group in set(f.groups)]
        complete = len(having) == len(sides) and (reference is None or group in set(reference.groups))
        if complete or (split == "train" and missing == "mask" and len(having) >= 2):
            splits[split].add(group)
    return splits


@pytest.mark.parametrize("missing", ["drop", "mask"])
@pytest.mark.parametrize("with_reference", [True, False])
def test_training_takes_groups_of_two_sides_where_masked_and_held_out_splits_only_whole_ones(missing, with_reference):
    sides, reference = planted_sides(240, third=True)
    third = [f"g{i:04d}" for i in range(0, 240, 3)]
    sides["z"] = without(sides["z"], third)
    sides["y"] = without(sides["y"], ["g0000", "g0004", "g0007"])  # g0000 keeps x alone
    reference = without(reference, ["g0008", "g0011"]) if with_reference else None
    pairs = pair_sides(sides, reference, FitConfig(k=5, missing=missing))
    wanted = obvious(sides, reference, missing)
    assert {name: set(pairs.groups[numbers]) for name, numbers in pairs.splits.items()} == wanted
    for split in ("validation", "test"):
        part = pairs.part(split)
        assert all(bool(side.present.all()) for side in part.sides.values())
        assert part.reference is None or bool(part.reference.isfinite().all())
    train = pairs.part("train")
    for name, side in train.sides.items():
        here = set(sides[name].groups)
        assert side.present.tolist() == [group in here for group in train.groups]
        for number, group in enumerate(train.groups):
            start, count = int(side.starts[number]), int(side.counts[number])
            own = sides[name].values[sides[name].groups == group]
            assert side.values[start : start + count].tolist() == own.tolist()
            assert side.groups[start : start + count].tolist() == [number] * count
    record = pairs.split
    assert record["n"] == {name: len(groups) for name, groups in wanted.items()}
    assert record["groups"] == {
        name: len(set(array.groups))
        for name, array in {**sides, **({"reference": reference} if reference else {})}.items()
    }
    assert record["unused"] == record["paired"] - sum(record["n"].values())
    if missing == "mask":
        with_rows = {name: len(wanted["train"] & set(side.groups)) for name, side in sides.items()}
        assert record["training_groups_with"] == with_rows and min(with_rows.values()) < len(wanted["train"])
    else:
        assert "training_groups_with" not in record


def test_a_drawn_validation_split_holds_whole_groups_only():
    sides, reference = planted_sides(240, third=True, validation=False)
    lacking = {f"g{i:04d}" for i in range(0, 240, 3)}
    sides["z"] = without(sides["z"], lacking)
    pairs = pair_sides(sides, reference, MASK)
    assert pairs.split["n"] == {"train": 162, "validation": 18, "test": 40}
    assert not set(pairs.groups[pairs.splits["validation"]]) & lacking
    assert set(pairs.groups[pairs.splits["train"]]) & lacking


def test_a_side_without_training_rows_is_refused():
    sides, reference = planted_sides(80, third=True)
    sides["z"] = without(sides["z"], [f"g{i:04d}" for i in range(80) if i % 4 < 2 and i != 1])
    with pytest.raises(NotPaired, match=r"z has rows in 1 of the 40 training groups of planted; .* at least 2"):
        pair_sides(sides, reference, MASK)


def test_the_mean_of_a_side_with_gaps_has_one_row_where_there_is_one():
    groups = torch.tensor([0, 0, 2, 3, 3, 3])
    values = torch.arange(12.0).reshape(6, 2)
    counts = torch.tensor([2, 0, 1, 3, 0])
    side = Side(values, groups, counts.cumsum(0) - counts, counts).averaged()
    assert side.values.tolist() == [[1.0, 2.0], [4.0, 5.0], [8.0, 9.0]]
    assert (side.groups.tolist(), side.counts.tolist()) == ([0, 2, 3], [1, 0, 1, 1, 0])
    assert [side.starts[g].item() for g in (0, 2, 3)] == [0, 1, 2]
