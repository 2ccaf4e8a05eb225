"""Right answers of retrieval where rows of several groups have the same content, against an oracle by loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.metrics import chance_recall, errors, retrieval, right_answers

RNG = np.random.default_rng


def same(a, b):
    return a == b != ""


def oracle_right(query, query_groups, gallery_groups, query_contents, gallery_contents):
    """Gallery rows whose content is that of a row of a group in which the query's content stands."""
    groups = {query_groups[query]}
    for other, content in enumerate(query_contents):
        if same(content, query_contents[query]):
            groups.add(query_groups[other])
    held = [row for row, group in enumerate(gallery_groups) if group in groups]
    return [
        row
        for row in range(len(gallery_groups))
        if any(row == one or same(gallery_contents[row], gallery_contents[one]) for one in held)
    ]


def oracle_rank(scores, right):
    best = max(scores[row] for row in right)
    return 1 + sum(scores[row] >= best for row in range(len(scores)) if row not in right)


def unit(values):
    return values / np.sqrt((values * values).sum(axis=1))[:, None]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), grid=st.booleans(), contents=st.integers(2, 12))
def test_ranks_and_chance_with_equal_contents_equal_the_oracle(seed, grid, contents):
    rng = RNG(seed)
    q, g = (rng.integers(-1, 2, (n, 3)) + 0.25 if grid else rng.standard_normal((n, 3)) for n in (14, 22))
    gallery_groups = rng.integers(0, 8, 22)
    query_groups = rng.choice(gallery_groups, 14)
    names = np.array(["", *(f"text {number}" for number in range(contents))], object)
    query_contents, gallery_contents = rng.choice(names, 14).tolist(), rng.choice(names, 22).tolist()
    sides = query_groups, gallery_groups, query_contents, gallery_contents
    answers = right_answers(*sides)
    result = retrieval(
        q, g, query_groups=query_groups, gallery_groups=gallery_groups, ks=(1, 3), answers=answers,
        tile=int(rng.integers(1, 20)),
    )  # fmt: skip
    right = [oracle_right(row, *sides) for row in range(14)]
    scores = [(row * unit(g)).sum(axis=1) for row in unit(q)]
    assert result.ranks.tolist() == [oracle_rank(*pair) for pair in zip(scores, right, strict=True)]
    assert result.chance[3] == pytest.approx(chance_recall([len(rows) for rows in right], 22, 3))


def test_any_of_the_equal_captions_is_right_for_an_image_and_any_image_of_the_caption_for_it():
    images, captions = "abc", "aabbc"
    texts = ["a dog", "a brown dog", "a dog", "a cat", "a bird"]
    unlike = ["1", "2", "3"]
    towards = right_answers(images, captions, unlike, texts)
    assert [towards.members(towards.sets[[row]])[1].tolist() for row in range(3)] == [[0, 2, 1], [0, 2, 3], [4]]
    back = right_answers(captions, images, texts, unlike)
    right = [sorted(back.members(back.sets[[row]])[1].tolist()) for row in range(5)]
    assert right == [[0, 1], [0], [0, 1], [1], [2]]


def test_images_of_equal_bytes_have_each_others_captions():
    answers = right_answers("ab", "ab", ["same", "same"], ["one", "two"])
    assert answers.sizes[answers.sets].tolist() == [2, 2]


def test_where_no_content_stands_in_two_groups_the_groups_decide():
    assert right_answers("abc", "aabbcc", "123", ["x", "x", "y", "z", "", ""]) is None
    assert right_answers("ab", "ab", ["", ""], ["", ""]) is None
    assert right_answers("aab", "ab", ["x", "x", "y"], "pq") is None


def test_a_query_of_each_equal_text_no_longer_counts_as_a_miss():
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    groups = {"query_groups": "abc", "gallery_groups": "abc", "ks": (1,)}
    assert retrieval(x, x, **groups).recall[1] == pytest.approx(1 / 3)
    answers = right_answers("abc", "abc", "123", ["a photo", "a photo", "a dog"])
    assert retrieval(x, x, **groups, answers=answers).recall[1] == 1


def test_a_text_that_all_rows_share_costs_no_square_of_them():
    n = 20_000
    answers = right_answers(range(n), range(n), map(str, range(n)), ["a photo"] * n)
    assert len(answers.contents) == n and answers.sizes.tolist() == [n] * n


def test_answers_of_other_rows_are_refused():
    answers = right_answers("ab", "ab", "12", ["x", "x"])
    with pytest.raises(errors.BadShape, match="answers are of 2 queries and 2 gallery rows; there are 3 and 3"):
        retrieval(np.eye(3), np.eye(3), query_groups="abc", gallery_groups="abc", answers=answers)
