"""Metrics of rows that arrive in batches equal those of all rows at once, however they are cut and merged."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.metrics import METRICS, CkaSums, StreamingCka, StreamingMetric, cka, errors, mutual_knn
from tests.metric_oracles import dense_cka, dense_unbiased_cka

RNG = np.random.default_rng


def spaces(n=90, dx=7, dy=12, seed=0):
    rng = RNG(seed)
    z = rng.standard_normal((n, 3))
    return (
        z @ rng.standard_normal((3, dx)) + rng.standard_normal((n, dx)) + 3,
        z @ rng.standard_normal((3, dy)) + rng.standard_normal((n, dy)) - 1,
    )


def fed(score, x, y, size, **each):
    """The score after batches of `size`, ids or groups cut like the rows."""
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        score.update(x[part], y[part], **{name: values[part] for name, values in each.items()})
    return score


@pytest.mark.parametrize("size", [1, 2, 7, 64, 90, 1000])
def test_batches_of_every_size_give_the_n_by_n_value(size):
    x, y = spaces()
    sums = fed(CkaSums(), x, y, size)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    assert len(sums) == 90
    assert sums.compute() == pytest.approx(dense_cka(a @ a.T, b @ b.T), abs=1e-12)
    assert sums.compute(debiased=True) == pytest.approx(dense_unbiased_cka(a, b), abs=1e-12)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_features_far_from_zero_do_not_cancel(offset):
    x, y = spaces()
    sums = fed(CkaSums(), x + offset, y - offset, 10)
    assert sums.compute(debiased=True) == pytest.approx(cka(x, y, debiased=True), abs=1e-14 * offset)


def test_wider_spaces_than_long_ones_are_exact_too():
    x, y = spaces(20, 60, 80)
    assert fed(CkaSums(), x, y, 6).compute(debiased=True) == pytest.approx(cka(x, y, debiased=True), abs=1e-11)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), cuts=st.tuples(st.integers(0, 90), st.integers(0, 90)))
def test_merging_is_associative_and_commutative_and_empty_parts_change_nothing(seed, cuts):
    x, y = spaces(seed=seed)
    low, high = sorted(cuts)

    def parts():
        return [fed(CkaSums(), x[i:j], y[i:j], 13) for i, j in ((0, low), (low, high), (high, 90))]

    a, b, c = parts()
    a.merge(b)
    a.merge(c)
    left = a
    a, b, c = parts()
    b.merge(c)
    a.merge(b)
    right = a
    a, b, c = parts()
    c.merge(b)
    c.merge(a)
    back = c
    expected = cka(x, y, debiased=True)
    for merged in (left, right, back):
        assert len(merged) == 90
        assert merged.compute(debiased=True) == pytest.approx(expected, abs=1e-12)


def test_merging_leaves_the_other_as_it_was():
    x, y = spaces()
    first, second = CkaSums(), fed(CkaSums(), x[:40], y[:40], 10)
    before = second.compute()
    first.merge(second)
    fed(first, x[40:], y[40:], 10)
    assert second.compute() == before
    assert len(second) == 40


def test_the_memory_of_the_sums_does_not_grow_with_the_rows():
    x, y = spaces(2000)
    small, large = fed(CkaSums(), x[:10], y[:10], 10), fed(CkaSums(), x, y, 100)
    assert len(pickle.dumps(large)) == pytest.approx(len(pickle.dumps(small)), abs=64)


def test_what_cannot_be_summed_is_refused_by_name():
    x, y = spaces()
    sums = fed(CkaSums(), x, y, 30)
    with pytest.raises(errors.BadShape, match=r"\(6, 12\) columns wide; the rows before were \(7, 12\)"):
        sums.update(x[:, :6], y)
    with pytest.raises(errors.BadShape, match=r"\(12, 7\) columns wide"):
        sums.merge(fed(CkaSums(), y, x, 30))
    with pytest.raises(errors.BadShape, match="x has 90 rows and y has 89"):
        sums.update(x, y[:-1])
    with pytest.raises(errors.BadDtype, match="bfloat16"):
        sums.update(torch.ones(3, 7, dtype=torch.bfloat16), y[:3])
    x[4, 1] = np.nan
    with pytest.raises(errors.NotFinite, match="row 4"):
        sums.update(x, y)
    assert len(sums) == 90


def test_rows_that_are_too_few_or_alike_are_refused():
    x, y = spaces()
    with pytest.raises(errors.TooFewRows, match="at least 2 rows, got 0"):
        CkaSums().compute()
    with pytest.raises(errors.TooFewRows, match="at least 4 rows, got 3"):
        fed(CkaSums(), x[:3], y[:3], 2).compute(debiased=True)
    for debiased in (False, True):
        with pytest.raises(errors.ConstantSpace, match="y: the centred linear kernel is zero"):
            fed(CkaSums(), x, np.full_like(y, 0.1), 20).compute(debiased=debiased)


@pytest.mark.parametrize("size", [1, 20])
@pytest.mark.parametrize("scale", [1e-300, 1e-100, 1e-75, 1e50, 1e150, 1e300])
def test_sums_of_huge_and_tiny_features_are_those_of_ordinary_ones(scale, size):
    x, y = spaces()
    sums = fed(CkaSums(), x * scale, y / scale, size)
    other = fed(CkaSums(), x[:40] * scale, y[:40] / scale, size)
    other.merge(fed(CkaSums(), x[40:] * scale, y[40:] / scale, size))
    for debiased in (False, True):
        for result in (sums, other):
            assert result.compute(debiased=debiased) == pytest.approx(cka(x, y, debiased=debiased), abs=1e-12)


@pytest.mark.parametrize("size", [1, 5, 7])
@pytest.mark.parametrize(("far", "error"), [(1e3, 1e-12), (1e5, 1e-8), (1e7, 1e-3)])
def test_first_rows_far_from_the_others_cost_no_more_digits_than_the_formula_itself(far, error, size):
    # The estimate subtracts the diagonal, which the far row fills: cka itself is 3e-5 off at 1e7.
    x, y = RNG(0).standard_normal((2, 200, 32))
    x[0] += far
    sums = fed(CkaSums(), x, y, size)
    assert sums.compute() == pytest.approx(cka(x, y), abs=1e-14)
    assert sums.compute(debiased=True) == pytest.approx(cka(x, y, debiased=True), abs=error)
    few = fed(CkaSums(), x[:1], y[:1], 1)
    few.merge(fed(CkaSums(), x[1:], y[1:], size))
    assert few.compute(debiased=True) == pytest.approx(cka(x, y, debiased=True), abs=error)


def test_features_that_grow_from_batch_to_batch_and_rows_of_zeros_are_summed_in_one_unit():
    x, y = spaces()
    x *= np.logspace(-120, 3, 90)[:, None]
    x[:4] = 0
    sums = fed(CkaSums(), x, y, 2)
    back = fed(CkaSums(), x[::-1], y[::-1], 2)
    for debiased in (False, True):
        assert sums.compute(debiased=debiased) == pytest.approx(cka(x, y, debiased=debiased), abs=1e-12)
        assert back.compute(debiased=debiased) == pytest.approx(cka(x, y, debiased=debiased), abs=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
def test_a_streamed_cka_is_the_cka_and_starts_anew_after_a_reset(debiased):
    x, y = spaces()
    score = fed(StreamingCka(debiased=debiased), x[:50], y[:50], 8)
    score.reset()
    assert len(score) == 0
    fed(score, x, y, 8, ids=list(range(90)))
    assert score.compute() == pytest.approx(cka(x, y, debiased=debiased), abs=1e-12)


@pytest.mark.parametrize("name", ["mutual_knn", "lcs_knn", "cknna", "cka_rbf", "hsic", "rsa"])
def test_any_metric_streams(name):
    x, y = (values.astype(np.float32) for values in spaces())
    score = fed(StreamingMetric(name), x, y, 20)
    assert score.compute() == METRICS[name].function(x, y)


def test_options_and_groups_reach_the_metric():
    x, y = (values.astype(np.float32) for values in spaces())
    groups = np.repeat(np.arange(30), 3)
    score = fed(StreamingMetric("mutual_knn", k=4, metric="euclidean"), x, y, 20, groups=groups)
    assert score.compute() == mutual_knn(x, y, k=4, metric="euclidean", groups=groups)
    assert score.compute() != mutual_knn(x, y, k=4, metric="euclidean")
    with_groups = fed(StreamingMetric("cka_linear"), x, y, 20, groups=[str(group) for group in groups])
    assert with_groups.compute() == cka(x, y)  # CKA has no neighbours to exclude


@pytest.mark.parametrize("scale", [1.0, 1e60, 1e-60])
def test_rows_are_kept_in_the_dtype_they_came_in(scale):
    x, y = spaces()
    y = y.astype(np.float16)
    score = fed(StreamingMetric("cka_linear"), x * scale, y, 20)
    assert score.compute() == cka(x * scale, y)
    assert {part.dtype.name for part in score._x} == {"float64"}
    assert {part.dtype.name for part in score._y} == {"float16"}


def test_training_tensors_are_detached():
    x, y = (torch.from_numpy(values).requires_grad_() for values in spaces())
    for score in (StreamingMetric("mutual_knn"), StreamingCka()):
        score.update(x, y)
        assert isinstance(fed(score, x * 2, y, 30).compute(), float)


KINDS = {"sums": partial(StreamingCka, debiased=True), "rows": partial(StreamingMetric, "cka_debiased")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_that_a_sampler_repeats_is_refused_unless_it_is_to_be_dropped(kind):
    x, y = (values.astype(np.float32) for values in spaces())
    ids = [f"photo {row}" for row in range(90)]
    padded = [*range(90), 0, 1, 2]
    refusing = KINDS[kind]()
    with pytest.raises(errors.BadChoice, match="id 'photo 0' came twice"):
        fed(refusing, x[padded], y[padded], 20, ids=[ids[row] for row in padded])
    assert len(refusing) == 80  # the batches before
    with pytest.raises(errors.BadChoice, match="id 'twin' came twice"):
        refusing.update(x[:2], y[:2], ids=["twin", "twin"])
    assert len(refusing) == 80
    dropping = fed(KINDS[kind](duplicates="drop"), x[padded], y[padded], 20, ids=[ids[row] for row in padded])
    dropping.update(x[:3], y[:3], ids=ids[:3])  # nothing new at all
    assert len(dropping) == 90
    assert dropping.compute() == pytest.approx(cka(x, y, debiased=True), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_row_of_a_repeated_id_counts(kind):
    x, y = (values.astype(np.float32) for values in spaces())
    order = [0, 1, 0, 2, 3, 1, *range(4, 90)]
    noisy = x[order]
    noisy[[2, 5]] += 100
    score = KINDS[kind](duplicates="drop")
    score.update(noisy, y[order], ids=np.array(order))
    assert score.compute() == pytest.approx(cka(x, y, debiased=True), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_are_gathered_and_merged_give_the_score_of_all_rows(kind):
    x, y = (values.astype(np.float32) for values in spaces())
    ranks = [fed(KINDS[kind](), x[r::3], y[r::3], 7, ids=torch.arange(90)[r::3]) for r in range(3)]
    first, *others = (pickle.loads(pickle.dumps(rank)) for rank in ranks)  # as all_gather_object sends them
    for other in others:
        first.merge(other)
    first.merge(KINDS[kind]())
    assert len(first) == 90
    assert first.compute() == pytest.approx(cka(x, y, debiased=True), abs=1e-9)


def test_a_padded_row_of_another_process_is_dropped_from_rows_but_not_from_sums():
    x, y = (values.astype(np.float32) for values in spaces())
    parts = (np.arange(50), np.arange(45, 90))
    rows = [fed(StreamingMetric("cka_linear", duplicates="drop"), x[p], y[p], 9, ids=p) for p in parts]
    rows[0].merge(rows[1])
    assert rows[0].compute() == pytest.approx(cka(x, y), abs=1e-12)
    sums = [fed(StreamingCka(duplicates="drop"), x[p], y[p], 9, ids=p) for p in parts]
    with pytest.raises(errors.BadChoice, match="5 ids are in both.*cannot give a row back"):
        sums[0].merge(sums[1])
    assert len(sums[0]) == 50


def test_merging_needs_one_metric_and_ids_on_both_sides():
    x, y = spaces()
    with pytest.raises(errors.BadChoice, match="not one metric"):
        fed(StreamingMetric(k=5), x, y, 50).merge(fed(StreamingMetric(k=6), x, y, 50))
    with pytest.raises(errors.BadChoice, match="biased and debiased"):
        StreamingCka().merge(StreamingCka(debiased=True))
    for kind in KINDS.values():
        with pytest.raises(errors.BadShape, match="ids"):
            fed(kind(), x, y, 50, ids=list(range(90))).merge(fed(kind(), x, y, 50))


def test_labels_come_with_every_row_of_every_batch_or_with_none():
    x, y = spaces()
    for score in (StreamingMetric(), StreamingCka()):
        with pytest.raises(errors.BadShape, match="ids: 3 entries for 90 rows"):
            score.update(x, y, ids=[1, 2, 3])
        with pytest.raises(errors.BadShape, match=r"ids: entry 0 is \[0\], not hashable"):
            score.update(x, y, ids=[[row] for row in range(90)])  # pyright: ignore[reportArgumentType]
        score.update(x, y)
        with pytest.raises(errors.BadShape, match="ids were given for some batches"):
            score.update(x, y, ids=list(range(90)))
    score.reset()
    score.update(x, y, ids=list(range(90)))
    with pytest.raises(errors.BadShape, match="ids were given for some batches"):
        score.update(x, y)
    grouped = StreamingMetric()
    grouped.update(x, y, groups=list(range(90)))
    with pytest.raises(errors.BadShape, match="groups were given for some batches"):
        grouped.update(x, y)
    with pytest.raises(errors.BadShape, match=r"\(6, 12\) columns wide"):
        grouped.update(x[:, :6], y, groups=list(range(90)))
    assert len(grouped) == 90


def test_a_metric_or_an_option_that_does_not_exist_is_refused_at_once():
    with pytest.raises(errors.BadChoice, match="unknown"):
        StreamingMetric("kernel")
    with pytest.raises(errors.BadChoice, match="sigma"):
        StreamingMetric("mutual_knn", sigma=1.0)
    with pytest.raises(errors.BadChoice, match="there are refuse, drop"):
        StreamingCka(duplicates="keep")
    with pytest.raises(errors.BadChoice, match="belongs to update"):
        StreamingMetric("mutual_knn", groups=[1, 2])
    with pytest.raises(errors.BadChoice, match="debiased = 'False': wanted True or False"):
        StreamingCka(debiased="False")  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.TooFewRows, match="no rows yet"):
        StreamingMetric().compute()
