"""Pairing of two views by group, and duplicates that no mode lets raise a score unseen."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.metrics import chance_mutual_knn, errors, group_mean, mutual_knn, paired, prepared
from featcache.metrics.arrays import checked
from featcache.metrics.pairing import MODES

RNG = np.random.default_rng

PHOTOS = np.array([[1.0], [2.0], [3.0], [4.0]])
PHOTO_GROUPS = ["d", "a", "c", "b"]
CAPTIONS = np.arange(10.0, 17.0)[:, None]
CAPTION_GROUPS = ["a", "b", "a", "b", "b", "d", "z"]


def test_mean_gives_one_row_a_group_in_the_order_of_x():
    both = paired(PHOTOS, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS)
    assert both.groups == ("d", "a", "b")
    assert both.x.ravel().tolist() == [1, 2, 4]
    assert both.y.ravel().tolist() == [15, 11, (11 + 13 + 14) / 3]
    assert (both.mode, both.n, both.dropped_x, both.dropped_y) == ("mean", 3, 1, 1)
    assert both.rows_x.tolist() == [0, 1, 3]
    assert both.rows_y is None


def test_mean_sums_in_float64_and_agrees_with_group_mean():
    rng = RNG(0)
    groups = rng.integers(0, 20, 200)
    y = rng.standard_normal((200, 6)).astype(np.float32)
    both = paired(y[np.unique(groups, return_index=True)[1]], y, np.unique(groups), groups)
    by_hand = [y[groups == group].astype(np.float64).mean(axis=0) for group in both.groups]
    assert both.y.dtype == np.float64
    np.testing.assert_allclose(both.y, by_hand, rtol=1e-14, atol=1e-16)
    means, order = group_mean(y, groups)
    rows = {group: row for row, group in enumerate(order)}
    np.testing.assert_array_equal(both.y.astype(np.float32), means[[rows[group] for group in both.groups]])


def test_a_view_with_one_row_a_group_keeps_its_numbers_and_dtype():
    x = RNG(1).standard_normal((4, 3)).astype(np.float16)
    both = paired(x, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS)
    assert both.x.dtype == np.float16
    assert (both.x == x[both.rows_x]).all()


def test_first_takes_the_first_row_of_each_group():
    both = paired(PHOTOS, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS, mode="first")
    assert both.rows_y.tolist() == [5, 0, 1]
    assert both.y.ravel().tolist() == [15, 10, 11]


def test_all_repeats_the_view_with_one_row_a_group():
    both = paired(PHOTOS, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS, mode="all")
    assert both.groups == ("d", "a", "a", "b", "b", "b")
    assert both.rows_x.tolist() == [0, 1, 1, 3, 3, 3]
    assert both.rows_y.tolist() == [5, 0, 2, 1, 3, 4]
    swapped = paired(CAPTIONS, PHOTOS, CAPTION_GROUPS, PHOTO_GROUPS, mode="all")
    assert swapped.groups == ("a", "a", "b", "b", "b", "d")
    assert swapped.rows_y.tolist() == [1, 1, 3, 3, 3, 0]


def test_all_takes_equal_counts_row_by_row():
    both = paired(CAPTIONS, -CAPTIONS, CAPTION_GROUPS, CAPTION_GROUPS, mode="all")
    assert (both.x == -both.y).all()
    assert both.n == 7


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(MODES))
def test_every_row_comes_from_its_group_in_both_views(seed, mode):
    rng = RNG(seed)
    groups_x, groups_y = rng.permutation(12), rng.integers(0, 15, 40)
    x, y = groups_x[:, None] * 1.0, groups_y[:, None] * 1.0  # a row's value is its group
    both = paired(x, y, groups_x, groups_y, mode=mode, seed=seed)
    assert both.x.ravel().tolist() == both.y.ravel().tolist() == list(both.groups)
    shared = [group for group in groups_x.tolist() if group in set(groups_y.tolist())]
    assert list(dict.fromkeys(both.groups)) == shared
    assert both.dropped_x == 12 - len(shared)
    assert both.dropped_y == len(set(groups_y.tolist()) - set(shared))
    if mode != "all":
        assert both.n == len(shared)


def test_random_draws_every_row_sometimes_and_the_same_with_the_same_seed():
    draws = [
        paired(PHOTOS, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS, mode="random", seed=seed).rows_y for seed in range(60)
    ]
    again = paired(PHOTOS, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS, mode="random", seed=7).rows_y
    assert (again == draws[7]).all()
    assert {int(draw[2]) for draw in draws} == {1, 3, 4}
    assert {int(draw[1]) for draw in draws} == {0, 2}


def test_random_takes_the_same_caption_of_two_text_encoders():
    groups = np.repeat(np.arange(30), 5)
    first, second = RNG(0).standard_normal((2, 150, 4))
    both = paired(first, second, groups, groups, mode="random", seed=3)
    assert (both.rows_x == both.rows_y).all()
    assert len(set((both.rows_x % 5).tolist())) == 5


def test_five_captions_a_photo_score_at_chance_in_every_mode_and_not_without_groups():
    rng = RNG(5)
    photos, captions = rng.standard_normal((200, 8)), rng.standard_normal((1000, 8))
    captions += 3 * np.repeat(rng.standard_normal((200, 8)), 5, axis=0)  # captions of a photo are alike
    ids, groups = np.arange(200), np.repeat(np.arange(200), 5)
    for mode in MODES:
        both = paired(photos, captions, ids, groups, mode=mode)
        score, chance = mutual_knn(both.x, both.y, groups=both.groups), chance_mutual_knn(both.n, 10, both.groups)
        assert abs(score - chance) < 0.02, mode
    both = paired(photos, captions, ids, groups, mode="all")
    assert mutual_knn(both.x, both.y) > 0.2


def test_tensors_stay_tensors():
    both = paired(torch.from_numpy(PHOTOS), CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS)
    assert isinstance(both.x, torch.Tensor)
    assert isinstance(both.y, np.ndarray)
    assert isinstance(paired(CAPTIONS, torch.from_numpy(PHOTOS), CAPTION_GROUPS, PHOTO_GROUPS).y, torch.Tensor)


def test_views_that_cannot_be_paired_are_refused_with_what_there_is():
    with pytest.raises(errors.BadShape, match=r"share no group: x has 'a', 'b', 'c', ... \(4\), y has 'e'"):
        paired(PHOTOS, PHOTOS[:1], list("abcd"), ["e"])
    with pytest.raises(errors.BadShape, match="group 'b' has 2 rows in x and 3 in y"):
        paired(PHOTOS, CAPTIONS, ["a", "b", "b", "d"], CAPTION_GROUPS, mode="all")
    with pytest.raises(errors.BadChoice, match="'median' is unknown; there are mean, first, all, random"):
        paired(PHOTOS, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS, mode="median")
    with pytest.raises(errors.BadShape, match="groups_y: 6 entries for 7 rows"):
        paired(PHOTOS, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS[:-1])
    with pytest.raises(errors.NotFinite, match="y: 1 of 7"):
        paired(PHOTOS, np.where(CAPTIONS == 12, np.nan, CAPTIONS), PHOTO_GROUPS, CAPTION_GROUPS)


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ([[1]] * 4, r"groups_x: entry 0 is \[1\], not hashable"),
        ([(1, [2])] * 4, r"groups_x: entry 0 is \(1, \[2\]\), not hashable"),
        (np.zeros((4, 2)), r"groups_x: an array of shape \(4, 2\); wanted one hashable a row, 4 in all"),
        (torch.tensor(3), r"groups_x: an array of shape \(\)"),
        (3, "groups_x: 3; wanted one hashable a row"),
        ([1.0, 2.0, np.nan, 3.0], "entry 2 is nan"),
        (np.full(4, np.nan), "entry 0 is nan"),
    ],
)
def test_groups_that_tell_no_row_from_another_are_refused_in_words(groups, match):
    with pytest.raises(errors.BadShape, match=match):
        paired(PHOTOS, PHOTOS, groups, PHOTO_GROUPS)
    with pytest.raises(errors.BadShape, match=match.replace("groups_x", "groups")):
        mutual_knn(RNG(0).standard_normal((4, 2)), PHOTOS, k=1, groups=groups, metric="euclidean")


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True, None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(errors.BadChoice, match="wanted a whole number of 0 or more"):
        paired(PHOTOS, CAPTIONS, PHOTO_GROUPS, CAPTION_GROUPS, mode="random", seed=seed)


def test_arrays_with_gaps_are_refused_and_those_of_the_other_byte_order_are_read():
    values = RNG(0).standard_normal((4, 3))
    with pytest.raises(errors.BadDtype, match=r"x is a torch.sparse_coo tensor; wanted a dense one"):
        paired(torch.from_numpy(values).to_sparse(), PHOTOS, PHOTO_GROUPS, PHOTO_GROUPS)
    with pytest.raises(errors.BadDtype, match="x is a torch.sparse_coo tensor"):
        prepared(torch.tensor([[0.0, 1.0], [2.0, 0.0]]).to_sparse())
    with pytest.raises(errors.BadDtype, match="x is a masked array; a metric needs every entry"):
        paired(np.ma.masked_array(values, mask=values > 1), PHOTOS, PHOTO_GROUPS, PHOTO_GROUPS)
    for kind in ("f2", "f4", "f8"):
        little, big = values.astype("<" + kind), values.astype(">" + kind)
        assert checked(big).dtype == np.dtype(kind)
        np.testing.assert_array_equal(checked(big), little)
        np.testing.assert_array_equal(prepared(big), prepared(little))
    with pytest.raises(errors.BadDtype, match="x is int64; wanted one of float16"):
        checked(values.astype(">i8"))
