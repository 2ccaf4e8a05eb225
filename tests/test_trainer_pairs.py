from dataclasses import replace

import numpy as np
import pytest
import torch
from blake3 import blake3

from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired
from featcache.trainer.pairs import hash_ids, pair
from tests.trainer_planted import features, planted

CONFIG = FitConfig(k=5)


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
    for number, group in enumerate(pairs.groups):
        start, count = int(pairs.y.starts[number]), int(pairs.y.counts[number])
        mine = {tuple(row) for row in pairs.y.values[start : start + count].tolist()}
        assert mine == {tuple(row) for row in y.values[y.groups == group].tolist()} and count == 3
        assert pairs.reference[number].tolist() == reference.values[reference.groups == group][0].tolist()


def test_a_part_holds_the_rows_and_means_of_its_groups_only():
    x, y, reference = planted(60)
    part = pair(x, y, reference, CONFIG).part("test")
    assert list(part.groups) == [f"g{i:04d}" for i in range(3, 60, 4)]
    assert part.y.groups.tolist() == [i for i in range(15) for _ in range(3)]
    for number, group in enumerate(part.groups):
        own = y.values[y.groups == group]
        assert part.y.values[part.y.groups == number].tolist() == own.tolist()
        np.testing.assert_allclose(part.y.means()[number], own.astype(np.float64).mean(axis=0), rtol=1e-6)


def test_a_published_validation_split_is_used_as_it_is():
    split = pair(*planted(80), CONFIG).split
    assert split["n"] == {"train": 40, "validation": 20, "test": 20} and split["unused"] == 0
    assert "as the data set has them" in split["rule"]


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
        ({"groups": np.array([f"h{i}" for i in range(80)])}, "no group is in all"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(change, says):
    x, y, reference = planted(80)
    with pytest.raises(NotPaired, match=says):
        pair(x, y, replace(reference, **change), CONFIG)


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


def test_a_group_in_two_splits_is_refused_by_name():
    x, y, reference = planted(80)
    y.splits[y.groups == "g0003"] = "train"
    with pytest.raises(NotPaired, match="group 'g0003' is in split 'test' of x"):
        pair(x, y, reference, CONFIG)


def test_labels_come_from_the_first_side_that_has_some():
    x, y, reference = planted(80)
    assert pair(replace(x, labels={}), y, reference, CONFIG).labels.tolist() == ["even", "odd"] * 40
    bare = [replace(a, labels={}) for a in (x, y, reference)]
    assert set(pair(*bare, CONFIG).labels) == {""}


def test_half_precision_features_are_widened_without_change():
    x, y, reference = planted(80)
    half = x.values.astype(np.float16)
    pairs = pair(replace(x, values=half), y, reference, CONFIG)
    assert pairs.x.values.dtype == torch.float32 and np.array_equal(pairs.x.values.numpy(), half.astype(np.float32))


def test_one_group_may_have_many_rows_in_the_reference():
    x, y, _ = planted(80)
    twice = features("reference", np.arange(160)[:, None] * np.ones((1, 2)), x.groups.repeat(2), x.splits.repeat(2))
    assert pair(x, y, twice, CONFIG).reference[:, 0].tolist() == [2 * i + 0.5 for i in range(80)]
