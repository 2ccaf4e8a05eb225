"""Right answers of a run's retrieval: by content, or by the group alone; the quick path where nothing repeats."""

import numpy as np
import pytest

from featcache.trainer.config import FitConfig
from featcache.trainer.fit import untrained_adapters
from featcache.trainer.sides import pair_sides
from featcache.trainer.tracking import HITS, EvaluationSplit, embed_split, epoch_rows, retrieval_rows
from tests.test_metrics_answers import oracle_rank, oracle_right
from tests.trainer_planted import planted

CONFIG = FitConfig(k=5, width=8)


def split_of(shared_texts):
    """A test split of 60 groups with three texts each, of which every fifth group's first text is the same."""
    x, y, reference = planted(240)
    texts = [f"text {row}" for row in range(len(y))]
    if shared_texts:
        texts = ["a photo" if row % 15 == 9 else text for row, text in enumerate(texts)]
    y = y.__class__(**{**vars(y), "hashes": np.array(texts, object)})
    x = x.__class__(**{**vars(x), "hashes": np.array([f"photo {row}" for row in range(len(x))], object)})
    paired = pair_sides({"x": x, "y": y}, reference, CONFIG)
    return EvaluationSplit("test", paired.part("test")), untrained_adapters(paired, CONFIG)


@pytest.fixture(scope="module")
def shared():
    return split_of(shared_texts=True)


def recall(rows, direction, k=10):
    (row,) = [row for row in rows if row.direction == direction and row.k == k]
    return row


@pytest.mark.parametrize("query, gallery", [("x", "y"), ("y", "x")])
def test_a_row_of_an_equal_text_is_a_right_answer_both_ways_as_by_loops(shared, query, gallery):
    split, adapters = shared
    embedded, sides = embed_split(split, adapters), split.paired.sides
    scores = embedded.rows[query].double() @ embedded.rows[gallery].double().T
    groups = [sides[name].groups.tolist() for name in (query, gallery)]
    contents = [sides[name].contents.tolist() for name in (query, gallery)]
    right = [oracle_right(row, *groups, *contents) for row in range(len(scores))]
    assert max(map(len, right)) > 3, "some texts are shared"
    ranks = [oracle_rank(*pair) for pair in zip(scores.tolist(), right, strict=True)]
    row = recall(retrieval_rows(split, embedded), f"{query}→{gallery}")
    assert row.value == pytest.approx(np.mean(np.array(ranks) <= 10)) and row.convention == HITS["content"]


def test_the_own_group_alone_stays_an_option_and_the_rows_name_their_convention(shared):
    split, adapters = shared
    content, group = (
        epoch_rows(split, adapters, CONFIG.model_copy(update={"hits": hits}), 1) for hits in ("content", "group")
    )
    for direction in ("x→y", "y→x"):
        both = recall(content, direction), recall(group, direction)
        assert both[0].value > both[1].value and both[0].chance > both[1].chance
        assert [row.convention for row in both] == [HITS["content"], HITS["group"]]
    unknown = EvaluationSplit("test", split.paired)
    for side in unknown.paired.sides.values():
        assert side.contents is not None
    assert FitConfig().hits == "content"


def test_where_no_text_repeats_the_groups_decide_without_any_set_of_answers():
    split, adapters = split_of(shared_texts=False)
    assert set(split.answers.values()) == {None}
    embedded = embed_split(split, adapters)
    content, group = (retrieval_rows(split, embedded, hits) for hits in ("content", "group"))
    assert [row.value for row in content] == [row.value for row in group]


def test_answers_are_made_once_for_all_epochs(shared, monkeypatch):
    from featcache.trainer import tracking

    made = []
    true = tracking.right_answers
    monkeypatch.setattr(tracking, "right_answers", lambda *sides: made.append(sides) or true(*sides))
    split = EvaluationSplit("test", shared[0].paired)
    for epoch in range(3):
        epoch_rows(split, shared[1], CONFIG, epoch)
    assert len(made) == 2
