"""Ranks, chance and intervals of retrieval, and the kernels of mixed spaces."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.metrics import chance_recall, clustered_wilson, errors, group_mean, joint, mixed, retrieval
from featcache.metrics.scores.reaching import count_reaching

RNG = np.random.default_rng


def oracle_ranks(q, g, query_groups, gallery_groups):
    q, g = (np.asarray(v, dtype=np.float64) for v in (q, g))
    q, g = (v / np.sqrt((v * v).sum(axis=1))[:, None] for v in (q, g))
    ranks = []
    for row, group in zip(q, query_groups, strict=True):
        scores, match = (row * g).sum(axis=1), gallery_groups == group
        ranks.append(1 + int((scores[~match] >= scores[match].max()).sum()))
    return ranks


def captions(photos=30, each=5, d=12, noise=1.0, seed=0):
    rng = RNG(seed)
    image = rng.standard_normal((photos, d)).astype(np.float32)
    text = np.repeat(image, each, axis=0) + noise * rng.standard_normal((photos * each, d)).astype(np.float32)
    return image, text.astype(np.float32), np.arange(photos), np.repeat(np.arange(photos), each)


@pytest.mark.parametrize("tile", [None, 1, 7])
def test_ranks_equal_the_oracle_both_ways(tile):
    image, text, photos, owners = captions()
    for q, g, qg, gg in ((image, text, photos, owners), (text, image, owners, photos)):
        result = retrieval(q, g, query_groups=qg, gallery_groups=gg, tile=tile)
        assert result.ranks.tolist() == oracle_ranks(q, g, qg, gg)
        for k in (1, 5, 10):
            assert result.recall[k] == np.mean(result.ranks <= k)
            assert 0 <= result.low[k] <= result.recall[k] <= result.high[k] <= 1
        assert result.median_rank == np.median(result.ranks)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), grid=st.booleans())
def test_ranks_equal_the_oracle_with_ties_and_any_groups(seed, grid):
    rng = RNG(seed)
    q, g = (rng.integers(-1, 2, (n, 3)) + 0.25 if grid else rng.standard_normal((n, 3)) for n in (15, 25))
    gallery_groups = rng.integers(0, 6, 25)
    query_groups = rng.choice(gallery_groups, 15)
    result = retrieval(q, g, query_groups=query_groups, gallery_groups=gallery_groups, tile=int(rng.integers(1, 20)))
    assert result.ranks.tolist() == oracle_ranks(q, g, query_groups, gallery_groups)


@pytest.mark.parametrize("width", [1, 63, 64, 65, 200])
def test_scores_that_reach_are_counted_and_those_between_are_named(width):
    scores = np.random.default_rng(width).integers(-3, 4, (9, width)).astype(np.float32)
    scores[2], scores[3, 0] = -np.inf, np.inf
    high, low = np.arange(9, dtype=np.float32) - 4, np.arange(9, dtype=np.float32) - 5.5
    above, rows, cols = count_reaching(scores, high, low)
    assert np.array_equal(above, (scores >= high[:, None]).sum(axis=1))
    between = (scores >= low[:, None]) & (scores < high[:, None])
    assert np.array_equal(np.stack([rows, cols]), np.nonzero(between)) and (width == 1 or between.any())


def test_a_collapsed_space_is_last_not_first():
    result = retrieval(np.ones((20, 4)), np.ones((20, 4)), query_groups=range(20), gallery_groups=range(20))
    assert set(result.ranks) == {20}
    assert result.recall[10] == 0 < result.chance[10] == 0.5
    nearly = np.ones((20, 4), np.float32) + np.float32(1e-7) * RNG(0).integers(0, 2, (20, 4)).astype(np.float32)
    result = retrieval(nearly, nearly[::-1].copy(), query_groups=range(20), gallery_groups=range(20))
    assert result.recall[1] <= result.chance[1]


def test_unrelated_spaces_score_at_chance():
    rng = RNG(0)
    owners = np.repeat(np.arange(200), 5)
    text, image = rng.standard_normal((1000, 32)), rng.standard_normal((200, 32))
    result = retrieval(text, image, query_groups=owners, gallery_groups=np.arange(200))
    assert result.chance[10] == pytest.approx(0.05)
    assert result.low[10] <= result.chance[10] <= result.high[10]
    assert result.chance_median_rank == 100
    assert result.median_rank == pytest.approx(result.chance_median_rank, rel=0.2)


def test_chance_recall_equals_every_possible_draw():
    for gallery, match, k in ((6, 1, 2), (6, 2, 3), (7, 5, 1), (5, 3, 4), (4, 2, 9)):
        draws = list(combinations(range(gallery), min(k, gallery)))
        expected = np.mean([min(draw) < match for draw in draws])
        assert chance_recall([match], gallery, k) == pytest.approx(expected, abs=1e-12)
    assert chance_recall([1, 2], 6, 1) == pytest.approx((1 / 6 + 2 / 6) / 2)


def test_chance_of_no_match_or_no_cut_off_is_refused():
    for matches, k in (([0], 1), ([7], 1), ([1], 0)):
        with pytest.raises(errors.BadChoice, match="matches a query"):
            chance_recall(matches, 6, k)


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_the_interval_covers_the_truth_where_captions_of_a_photo_hang_together(spread):
    rng = RNG(0)
    owners = np.repeat(np.arange(150), 5)
    population = 1 / (1 + np.exp(-(rng.standard_normal(200_000) * spread - 1)))
    covered = naive = 0
    for _ in range(300):
        hits = rng.random(750) < np.repeat(rng.choice(population, 150), 5)
        low, high = clustered_wilson(hits, owners)
        covered += low <= population.mean() <= high
        low, high = clustered_wilson(hits, np.arange(750))
        naive += low <= population.mean() <= high
    assert 0.91 <= covered / 300 <= 0.985
    assert spread == 0 or naive / 300 < 0.9


def test_an_interval_is_never_empty_where_all_hit_or_none():
    low, high = clustered_wilson(np.ones(100), np.repeat(np.arange(20), 5))
    assert high == 1 and low == pytest.approx(20 / (20 + 1.959964**2))
    low, high = clustered_wilson(np.zeros(100), np.repeat(np.arange(20), 5))
    assert low == 0 and high == pytest.approx(1.959964**2 / (20 + 1.959964**2))


def test_retrieval_refuses_what_it_cannot_rank():
    image, text, photos, owners = captions()
    with pytest.raises(errors.BadShape, match="12 wide and the gallery 3"):
        retrieval(image, text[:, :3], query_groups=photos, gallery_groups=owners)
    with pytest.raises(errors.BadChoice, match="query 29, group 29"):
        retrieval(image, text[:145], query_groups=photos, gallery_groups=owners[:145])
    with pytest.raises(errors.BadShape, match="gallery_groups: 3 entries"):
        retrieval(image, text, query_groups=photos, gallery_groups=owners[:3])
    with pytest.raises(errors.BadChoice, match="cut-offs"):
        retrieval(image, text, query_groups=photos, gallery_groups=owners, ks=(0,))
    text[3] = 0
    with pytest.raises(errors.ZeroRow, match="gallery.*row 3"):
        retrieval(image, text, query_groups=photos, gallery_groups=owners)


def cosine_kernel(x):
    x = np.asarray(x, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


@settings(deadline=None, max_examples=20)
@given(w=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_mixed_space_has_the_mixed_kernel(w, seed):
    rng = RNG(seed)
    x, y = rng.standard_normal((12, 5)), rng.standard_normal((12, 9))
    expected = w * cosine_kernel(x) + (1 - w) * cosine_kernel(y)
    np.testing.assert_allclose(cosine_kernel(mixed([x, y], [w, 1 - w])), expected, atol=1e-6)


def test_a_joint_space_is_the_direction_between_two_sides():
    rng = RNG(0)
    x, y = rng.standard_normal((2, 12, 5))
    middle = joint([x * 7, y])
    cosines = [np.diag((v / np.linalg.norm(v, axis=1, keepdims=True)) @ middle.T) for v in (x, y)]
    np.testing.assert_allclose(cosines[0], cosines[1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(middle, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)])
def test_three_spaces_of_any_width_mix_their_kernels_by_weight(weights):
    spaces = [RNG(seed).standard_normal((12, d)) for seed, d in enumerate((5, 9, 3))]
    expected = sum(weight * cosine_kernel(space) for weight, space in zip(weights, spaces, strict=True))
    np.testing.assert_allclose(cosine_kernel(mixed(spaces, weights)), expected, atol=1e-6)


def test_a_joint_of_three_is_the_direction_of_the_sum_of_their_directions_in_any_order():
    spaces = [seed * RNG(seed).standard_normal((12, 5)) for seed in (1, 2, 3)]
    total = sum(space / np.linalg.norm(space, axis=1, keepdims=True) for space in spaces)
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    for order in ((0, 1, 2), (2, 0, 1)):
        np.testing.assert_allclose(joint([spaces[at] for at in order]), expected, atol=1e-6)


def test_spaces_come_back_in_the_kind_they_were_given():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for made in (mixed([x, x], [0.5, 0.5]), joint([x, x]), group_mean(x, "aabbcc")[0]):
        assert isinstance(made, torch.Tensor) and made.dtype == torch.float32
    for made in (mixed([x.numpy(), x], [0.5, 0.5]), joint([x.numpy(), x]), group_mean(x.numpy(), "aabbcc")[0]):
        assert isinstance(made, np.ndarray) and made.dtype == np.float32


def test_group_means_stand_in_order_of_first_occurrence():
    x = RNG(0).standard_normal((9, 3)).astype(np.float32)
    groups = list("cacabbbca")
    means, order = group_mean(x, groups)
    assert order == ["c", "a", "b"]
    for mean, name in zip(means, order, strict=True):
        np.testing.assert_allclose(mean, x[[group == name for group in groups]].mean(axis=0), rtol=1e-5)


def test_spaces_that_do_not_fit_are_refused():
    x = RNG(0).standard_normal((6, 4))
    for weights in ([1.5, -0.5], [0.5, 0.4], [1.0], [0.5, 0.25, 0.25], [float("nan"), 1.0], []):
        with pytest.raises(errors.BadChoice, match="wanted 2 of 0 or more that sum to 1"):
            mixed([x, x], weights)
    with pytest.raises(errors.BadChoice, match="wanted one or more"):
        joint([])
    with pytest.raises(errors.BadChoice):
        mixed([], [])
    with pytest.raises(errors.BadShape, match="space 0 has 6 rows and space 1 5"):
        mixed([x, x[:5]], [0.5, 0.5])
    with pytest.raises(errors.BadShape, match="spaces are 4 and 4 and 3 wide"):
        joint([x, x, x[:, :3]])
    with pytest.raises(errors.ZeroRow, match=r"the sum of the spaces.*row 0"):
        joint([x, -x])
    with pytest.raises(errors.ZeroRow, match="space 1.*row 2"):
        mixed([x, np.where(np.arange(6)[:, None] == 2, 0, x)], [0.5, 0.5])


@pytest.mark.parametrize("ks", [5, (), (0,), (1.5,), ("1",), (True,), None])
def test_cut_offs_are_whole_numbers_from_one_on(ks):
    image, text, photos, owners = captions()
    with pytest.raises(errors.BadChoice, match="wanted one or more cut-offs, each a whole number of 1 or more"):
        retrieval(text, image, query_groups=owners, gallery_groups=photos, ks=ks)
    with pytest.raises(errors.BadChoice, match="wanted a whole k >= 1"):
        chance_recall([5], 50, 1.5)  # pyright: ignore[reportArgumentType]


def test_cut_offs_may_be_an_array():
    image, text, photos, owners = captions()
    result = retrieval(text, image, query_groups=owners, gallery_groups=photos, ks=np.array([1, 5]))
    assert result.recall == retrieval(text, image, query_groups=owners, gallery_groups=photos, ks=(1, 5)).recall


@pytest.mark.parametrize("groups", [[[1]] * 150, np.zeros((150, 2)), 3])
def test_groups_of_queries_are_one_hashable_a_query(groups):
    image, text, photos, _ = captions()
    with pytest.raises(errors.BadShape, match=r"query_groups: .*; wanted one hashable a row, 150 in all"):
        retrieval(text, image, query_groups=groups, gallery_groups=photos)


def test_autocast_of_the_caller_changes_no_rank():
    image, text, photos, owners = captions(100, noise=2.0)
    q, g = torch.from_numpy(text + 10), torch.from_numpy(image + 10)
    expected = retrieval(q, g, query_groups=owners, gallery_groups=photos).ranks
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = retrieval(q, g, query_groups=owners, gallery_groups=photos).ranks
    np.testing.assert_array_equal(result, expected)
    assert expected.tolist() == oracle_ranks(q, g, owners, photos)
