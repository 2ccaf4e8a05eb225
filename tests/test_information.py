"""Informations of tables, and decompositions: known values, properties of every one, and an independent minimum."""

from math import log

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.information.decompositions import (
    DECOMPOSITIONS,
    Decomposition,
    broja,
    broja_of_margins,
    common_information,
    minimum_information,
)
from featcache.metrics.information.tables import NotProbabilities, bayes_accuracy, entropy, mutual_information
from featcache.metrics.information.union import NotConverged, union_information

BIT = log(2)
FINE = 1e-7  # a tolerance that is asked for
CELLS = [(a, b) for a in (0, 1) for b in (0, 1)]


def of(function, sizes: tuple[int, int, int] = (2, 2, 2)) -> np.ndarray:
    """Two fair independent bits and a label that is a function of them."""
    joint = np.zeros(sizes)
    for a, b in CELLS:
        joint[a, b, function(a, b)] += 0.25
    return joint


XOR = of(lambda a, b: a ^ b)
AND = of(lambda a, b: a & b)
BOTH = of(lambda a, b: 2 * a + b, (2, 2, 4))
FIRST = of(lambda a, b: a)
SAME = np.zeros((2, 2, 2))
SAME[[0, 1], [0, 1], [0, 1]] = 0.5
NOISY = np.einsum("yi,yj->ijy", *[np.array([[0.45, 0.05], [0.05, 0.45]]), np.array([[0.9, 0.1], [0.1, 0.9]])])


def parts(decomposition: Decomposition) -> np.ndarray:
    return np.array([decomposition.redundancy, decomposition.unique1, decomposition.unique2, decomposition.synergy])


@st.composite
def tables(draw: st.DrawFn, largest: int = 4) -> np.ndarray:
    """Joint tables of up to so many values, with zeros, repeated entries and small ones among them."""
    sizes = draw(st.tuples(*[st.integers(1, largest)] * 3))
    entry = st.one_of(st.just(0.0), st.integers(1, 3).map(float), st.floats(-12, 0).map(np.exp))
    joint = np.array(draw(st.lists(entry, min_size=int(np.prod(sizes)), max_size=int(np.prod(sizes))))).reshape(sizes)
    return joint / joint.sum() if joint.any() else np.full(sizes, 1 / joint.size)


def together(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two independent systems as one."""
    joint = np.einsum("abc,def->adbecf", one, other)
    return joint.reshape(*(a * b for a, b in zip(one.shape, other.shape, strict=True)))


def test_entropy_information_and_accuracy_have_their_known_values():
    assert entropy(np.full((2, 4), 0.125)) == pytest.approx(3 * BIT)
    assert entropy(np.array([0.0, 1.0])) == 0
    assert mutual_information(np.diag([0.25] * 4)) == pytest.approx(2 * BIT)
    noise = np.array([[0.45, 0.05], [0.05, 0.45]])
    assert mutual_information(noise) == pytest.approx(BIT - entropy(np.array([0.9, 0.1])))
    assert mutual_information(np.outer([0.3, 0.7], [0.1, 0.2, 0.7])) == pytest.approx(0, abs=1e-15)
    assert bayes_accuracy(noise) == pytest.approx(0.9)
    assert bayes_accuracy(np.outer([0.3, 0.7], [0.1, 0.2, 0.7])) == pytest.approx(0.7)


@given(tables())
@settings(max_examples=100, deadline=None)
def test_information_is_what_entropies_leave_and_at_most_that_of_the_label(joint: np.ndarray):
    table = joint.sum(axis=0)
    left = entropy(table.sum(axis=0)) + entropy(table.sum(axis=1)) - entropy(table)
    assert mutual_information(table) == pytest.approx(left, abs=1e-12)
    assert mutual_information(table) <= entropy(table.sum(axis=0)) + 1e-12
    assert mutual_information(table.T) == pytest.approx(mutual_information(table), abs=1e-14)


# redundancy, unique 1, unique 2 and synergy in bits
KNOWN = {
    "XOR": (XOR, {"broja": (0, 0, 0, 1), "common": (0, 0, 0, 1), "i_min": (0, 0, 0, 1)}),
    "one of two bits": (FIRST, dict.fromkeys(DECOMPOSITIONS, (0, 1, 0, 0))),
    "the same bit": (SAME, dict.fromkeys(DECOMPOSITIONS, (1, 0, 0, 0))),
    "copy of two bits": (BOTH, {"broja": (0, 1, 1, 0), "common": (0, 1, 1, 0), "i_min": (1, 0, 0, 1)}),
    "AND": (AND, {"broja": (0.311, 0, 0, 0.5), "common": (0, 0.311, 0.311, 0.189), "i_min": (0.311, 0, 0, 0.5)}),
}


@pytest.mark.parametrize("system", KNOWN)
@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_known_systems_decompose_as_published(name: str, system: str):
    joint, known = KNOWN[system]
    assert parts(DECOMPOSITIONS[name].function(joint)) / BIT == pytest.approx(known[name], abs=6e-4)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
@given(tables())
@example(NOISY / NOISY.sum())
@settings(max_examples=100, deadline=None)
def test_the_parts_sum_to_each_information_and_swap_with_the_sources(name: str, joint: np.ndarray):
    measure = DECOMPOSITIONS[name]
    found, swapped = measure.function(joint), measure.function(joint.transpose(1, 0, 2))
    r, u1, u2, s = parts(found)
    assert r + u1 == pytest.approx(mutual_information(joint.sum(axis=1)), abs=1e-11)
    assert r + u2 == pytest.approx(mutual_information(joint.sum(axis=0)), abs=1e-11)
    assert r + u1 + u2 + s == pytest.approx(mutual_information(joint.reshape(-1, joint.shape[2])), abs=1e-11)
    assert parts(swapped)[[0, 2, 1, 3]] == pytest.approx(parts(found), abs=found.gap + swapped.gap + 1e-11)
    assert 0 <= found.gap <= 1e-6
    if measure.non_negative:
        assert parts(found).min() >= -1e-11


@pytest.mark.parametrize("name", [name for name, measure in DECOMPOSITIONS.items() if measure.additive])
@given(tables(largest=2), tables(largest=3))
@settings(max_examples=60, deadline=None)
def test_the_parts_of_independent_systems_add(name: str, one: np.ndarray, other: np.ndarray):
    function = DECOMPOSITIONS[name].function
    apart = [function(one), function(other)]
    whole = function(together(one, other))
    slack = whole.gap + apart[0].gap + apart[1].gap + 1e-10
    assert parts(whole) == pytest.approx(parts(apart[0]) + parts(apart[1]), abs=slack)


def test_what_the_table_denies_of_a_decomposition_it_does_not_have():
    second = FIRST.transpose(1, 0, 2)
    for measure in DECOMPOSITIONS.values():
        if not measure.additive:  # one bit of each source alone: no redundancy apart
            assert measure.function(together(FIRST, second)).redundancy > 0.5
        if not measure.non_negative:  # two noisy copies without a common part
            assert measure.function(NOISY / NOISY.sum()).synergy < -0.1


@given(tables())
@settings(max_examples=100, deadline=None)
def test_redundancy_of_the_common_part_is_least_and_of_equal_amounts_is_most(joint: np.ndarray):
    """Both bounds of broja's redundancy are theorems: a common part is kept by some q, and I_min's synergy is never
    negative at any q with the margins."""
    found = broja(joint)
    assert common_information(joint).redundancy <= found.redundancy + found.gap + 1e-11
    assert found.redundancy <= minimum_information(joint).redundancy + 1e-11


@given(tables(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_split_renamed_and_missing_values_change_nothing(joint: np.ndarray, order):
    """Of a value of a source split in two that tell the same; of permuted values and classes; of empty ones."""
    split = np.concatenate([joint[:1] * 0.3, joint[:1] * 0.7, joint[1:]])
    wide = np.zeros([size + 1 for size in split.shape])
    wide[1:, :-1, 1:] = split
    for axis in range(3):
        wide = wide.take(order.sample(range(wide.shape[axis]), wide.shape[axis]), axis=axis)
    for measure in DECOMPOSITIONS.values():
        one, other = measure.function(joint), measure.function(wide)
        assert parts(other) == pytest.approx(parts(one), abs=one.gap + other.gap + 1e-10)


def least_by_descent(joint: np.ndarray) -> float:
    """The least I_q(X1, X2; Y) of binary sources: a class has one free number, its q(0, 0, y); a bounded descent."""
    first, second, target = joint.sum(axis=1), joint.sum(axis=0), joint.sum(axis=(0, 1))
    low, high = np.maximum(0, first[0] + second[0] - target), np.minimum(first[0], second[0])

    def information(corner: np.ndarray) -> float:
        q = np.array([[corner, first[0] - corner], [second[0] - corner, target - first[0] - second[0] + corner]])
        return mutual_information(np.maximum(q, 0).reshape(4, -1) / np.maximum(q, 0).sum())

    starts = [low, high, (low + high) / 2]
    bounds = list(zip(low, high, strict=True))
    options = {"ftol": 1e-15, "gtol": 1e-10}
    return min(minimize(information, start, bounds=bounds, options=options).fun for start in starts)


def least_by_projections(joint: np.ndarray, rounds: int) -> float:
    """The same of any table: KL projections, in turn onto the margins of each class and onto one p(x1, x2) for all."""
    first, second, target = joint.sum(axis=1), joint.sum(axis=0), joint.sum(axis=(0, 1))
    pairs = np.outer(first.sum(axis=1), second.sum(axis=1))
    for _ in range(rounds):
        q = np.repeat(pairs[..., None], len(target), axis=2)
        for _ in range(25):
            q = q * (first / q.sum(axis=1))[:, None]
            q = q * (second / q.sum(axis=0))[None]
        pairs = q.sum(axis=2)
    return mutual_information(q.reshape(-1, len(target)) / q.sum())


@pytest.mark.parametrize("seed", range(12))
def test_the_union_information_of_binary_sources_is_what_a_descent_finds(seed: int):
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.full(4 * (2 + seed % 3), 0.5)).reshape(2, 2, -1)
    found = union_information(joint.sum(axis=1), joint.sum(axis=0), tolerance=FINE)
    assert found.gap <= FINE
    assert found.information - found.gap - 1e-9 <= least_by_descent(joint) <= found.information + 1e-6


@pytest.mark.parametrize("sizes", [(3, 3, 2), (3, 4, 3), (5, 2, 4), (6, 6, 2)])
def test_the_union_information_of_more_values_is_what_alternating_projections_approach(sizes: tuple[int, int, int]):
    joint = np.random.default_rng(sum(sizes)).dirichlet(np.full(np.prod(sizes), 1.0)).reshape(sizes)
    found = union_information(joint.sum(axis=1), joint.sum(axis=0), tolerance=FINE)
    projected = least_by_projections(joint, 2_000)  # from above, and slowly
    assert found.information - found.gap - 1e-9 <= projected <= found.information + 2e-5


@pytest.mark.parametrize("seed", range(40))
def test_wide_sparse_and_nearly_empty_tables_are_decomposed_within_the_tolerance(seed: int):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, 3)
    draws = (
        rng.dirichlet(np.full(sizes.prod(), 10 ** rng.uniform(-3, 1))).reshape(sizes),
        np.exp(rng.normal(0, rng.uniform(1, 12), sizes)),
        rng.integers(0, 3, sizes) + (np.arange(sizes.prod()).reshape(sizes) == 0),
        1 + rng.uniform(-1, 1, sizes) * 10 ** rng.uniform(-9, -1),
    )
    joint = draws[seed % 4] / draws[seed % 4].sum()
    found = broja(joint)
    assert found.gap <= 1e-6
    assert parts(found).min() >= -1e-11
    margins = broja_of_margins(joint.sum(axis=1), joint.sum(axis=0), found.synergy + parts(found)[:3].sum())
    assert parts(margins) == pytest.approx(parts(found), abs=found.gap + margins.gap + 1e-10)


def test_a_smaller_tolerance_is_kept_and_changes_the_parts_by_no_more_than_the_gap():
    joint = np.random.default_rng(3).dirichlet(np.full(12 * 10 * 4, 0.2)).reshape(12, 10, 4)
    rough, fine = broja(joint, tolerance=1e-3), broja(joint, tolerance=1e-8)
    assert fine.gap <= 1e-8 < rough.gap <= 1e-3
    assert 0 <= fine.redundancy - rough.redundancy <= rough.gap + 1e-9
    assert 0 <= rough.unique1 - fine.unique1 <= rough.gap + 1e-9


def test_margins_alone_leave_to_synergy_what_the_joint_information_has_over():
    found = broja_of_margins(XOR.sum(axis=1), XOR.sum(axis=0), 0.4)
    assert parts(found) == pytest.approx([0, 0, 0, 0.4])
    less = broja_of_margins(SAME.sum(axis=1), SAME.sum(axis=0), BIT - 0.1)
    assert less.synergy == pytest.approx(-0.1)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
@pytest.mark.parametrize(
    ("joint", "error", "words"),
    [
        (np.full((2, 2), 0.25), BadShape, "3 axes"),
        (np.zeros((0, 2, 2)), BadShape, "one entry or more"),
        (np.full((2, 2, 2), 0.25), NotProbabilities, "sums to 2"),
        (AND - 0.25 * XOR + 0.25 * XOR[::-1], NotProbabilities, "0 or more"),
        (np.full((2, 2, 2), np.nan), NotProbabilities, "finite"),
    ],
)
def test_what_is_no_joint_table_is_refused(name: str, joint: np.ndarray, error: type, words: str):
    with pytest.raises(error, match=words):
        DECOMPOSITIONS[name].function(joint)


def test_margins_that_do_not_belong_together_are_refused():
    with pytest.raises(BadShape, match="2 classes in the first margin, 4"):
        union_information(np.full((2, 2), 0.25), np.full((2, 4), 0.125))
    with pytest.raises(NotProbabilities, match="differs by 0.1"):
        union_information(np.full((2, 2), 0.25), np.array([[0.6, 0.4]]))
    with pytest.raises(BadChoice, match="1e-9"):
        union_information(np.full((2, 2), 0.25), np.full((2, 2), 0.25), tolerance=0)


def test_what_does_not_converge_says_how_near_it_came(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("featcache.metrics.information.union.ITERATIONS", 3)
    joint = np.random.default_rng(3).dirichlet(np.full(12 * 10 * 4, 0.2)).reshape(12, 10, 4)
    with pytest.raises(NotConverged, match=r"12 x 10 values is known within [\d.e-]+ nats, wanted 1e-09"):
        broja(joint, tolerance=1e-9)


def test_every_decomposition_is_named_by_its_key_and_sourced():
    for name, measure in DECOMPOSITIONS.items():
        assert measure.name == name
        assert any(year in measure.source for year in ("2010", "2014"))
