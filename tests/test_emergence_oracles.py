"""Exact informations, accuracies, decompositions and alignment of label tables, against published and slow ones."""

import numpy as np
import pytest

from featcache.data.errors import DataInvalid
from featcache.data.synthetic.generator import Table, all_bits
from featcache.data.synthetic.released import Released
from featcache.data.synthetic.tables import joint_table
from featcache.data.synthetic.three import PAIRS, ThreeModalities
from featcache.metrics.information.decompositions import DECOMPOSITIONS
from featcache.studies.emergence.synthetic.oracles import PARTS, exact_row, oracle_row, pair_rows, posterior_cka
from featcache.studies.emergence.synthetic.population import label_given, population_cka

# of the released generator at U = 0 to 8, by closed form and by another solver of BROJA, good to .002
ORACLES = {
    "information1": (1.159, 0.972, 0.972, 0.715, 0.715, 0.494, 0.494, 0.367, 0.367),
    "information2": (1.159, 1.159, 0.881, 0.887, 0.733, 0.772, 0.608, 0.619, 0.473),
    "bayes_accuracy1": (0.906, 0.799, 0.799, 0.666, 0.666, 0.579, 0.579, 0.541, 0.541),
    "bayes_accuracy2": (0.906, 0.906, 0.736, 0.745, 0.708, 0.737, 0.651, 0.647, 0.595),
    "posterior_cka": (1.000, 0.828, 0.561, 0.387, 0.261, 0.215, 0.108, 0.084, 0.000),
}
REDUNDANCY = (1.159, 0.972, 0.749, 0.591, 0.471, 0.384, 0.363, 0.337, 0.273)
UNIQUE = (0, 0.187, 0.353, 0.419, 0.507, 0.498, 0.374, 0.312, 0.295)  # both sides
SYNERGY = (0, 0, 0.056, 0.148, 0.181, 0.278, 0.421, 0.510, 0.591)


def whole_joint(table: Table) -> np.ndarray:
    """p(x1, x2, y) over every code of both modalities, whether the label reads it or not."""
    shared, unique1, unique2, classes = table.shape
    joint = np.zeros((shared, unique1, shared, unique2, classes))
    for code in range(shared):
        joint[code, :, code] = table[code]
    return joint.reshape(shared * unique1, shared * unique2, classes) / (shared * unique1 * unique2)


@pytest.mark.parametrize("level", range(9))
def test_the_released_generator_has_the_published_oracles_to_three_decimals(level: int) -> None:
    row = oracle_row(Released(), level)
    assert row["uniqueness"] == level
    assert row["generator"] == "released"
    for name, wanted in ORACLES.items():
        assert row[name] == pytest.approx(wanted[level], abs=5.1e-4), name
    assert row["information12"] == pytest.approx(1.159, abs=5e-4)
    assert row["bayes_accuracy12"] == pytest.approx(0.9063, abs=5e-5)
    unique = row["broja_unique1"] + row["broja_unique2"]
    found = (row["broja_redundancy"], unique, row["broja_synergy"])
    assert found == pytest.approx((REDUNDANCY[level], UNIQUE[level], SYNERGY[level]), abs=7e-4)
    assert row["broja_gap"] <= 1e-6
    # the sources share their common bits and nothing else
    assert row["common_redundancy"] == pytest.approx(row["information_shared"], abs=1e-12)


def test_what_differs_between_decompositions_is_said_by_all_of_them() -> None:
    """At U = 8 the label reads no shared bit: broja and I_min call something redundant, the common part nothing."""
    row = oracle_row(Released(), 8)
    redundancies = [row[f"{name}_redundancy"] for name in DECOMPOSITIONS]
    assert redundancies == pytest.approx([0.2728, 0.0, 0.3259], abs=1e-4)
    for name in DECOMPOSITIONS:
        assert sum(row[f"{name}_{part}"] for part in PARTS) == pytest.approx(row["information12"])


@pytest.mark.parametrize("level", [0, 2, 3])
def test_the_small_table_tells_the_same_as_the_whole(level: int) -> None:
    table = Released(shared=4, unique=2, used=4).table(level)
    small, whole = joint_table(table), whole_joint(table)
    assert small.size < whole.size / 4
    rows = [exact_row(joint) for joint in (small, whole)]
    assert rows[0] == pytest.approx(rows[1], abs=1e-6)


@pytest.mark.parametrize("level", [0, 3, 8])
def test_the_alignment_of_posteriors_is_the_population_cka_of_all_inputs(level: int) -> None:
    table = Released().table(level)
    slow = population_cka(label_given(table, 0), label_given(table, 1), 8)
    assert posterior_cka(joint_table(table)) == pytest.approx(slow, abs=1e-12)


def test_the_alignment_of_posteriors_is_symmetric_and_that_of_drawn_pairs() -> None:
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.full(60, 0.3)).reshape(5, 4, 3)
    value = posterior_cka(joint)
    assert value == pytest.approx(posterior_cka(joint.transpose(1, 0, 2)))
    pairs = rng.choice(20, size=200_000, p=joint.sum(axis=2).ravel())
    sides = [joint.sum(axis=1 - side) / joint.sum(axis=1 - side).sum(axis=1, keepdims=True) for side in (0, 1)]
    x, y = sides[0][pairs // 4], sides[1][pairs % 4]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    drawn = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert value == pytest.approx(drawn, abs=0.01)


def test_a_source_that_tells_nothing_has_no_alignment() -> None:
    joint = np.zeros((2, 2, 2))
    joint[[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]] = 0.25
    row = exact_row(joint)
    assert row["posterior_cka"] is None
    assert row["bayes_accuracy1"] == 0.5
    assert row["bayes_accuracy12"] == 1


def test_a_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataInvalid, match="wanted 0 to 8"):
        oracle_row(Released(), 9)
    with pytest.raises(DataInvalid, match="wanted 0 to 5"):
        pair_rows(ThreeModalities(), 6)


def test_pairs_of_three_modalities_are_told_apart_by_the_bits_that_only_they_hold() -> None:
    """At U = 0 the pair 12 has two bits of its own, 13 one and 23 none; nothing is known beyond what all three tell."""
    rows = pair_rows(ThreeModalities(), 0)
    assert [(row["first"], row["second"]) for row in rows] == list(PAIRS)
    assert [row["generator"] for row in rows] == ["three_12", "three_13", "three_23"]
    redundancies = [row["common_redundancy"] for row in rows]
    assert redundancies == sorted(redundancies, reverse=True)
    assert redundancies[0] - redundancies[2] > 0.3
    for row in rows:
        assert row["information12"] <= row["information123"] + 1e-12
        assert sum(row[f"broja_{part}"] for part in PARTS) == pytest.approx(row["information12"])
    one, two, three = rows
    assert one["information1"] == two["information1"] == pytest.approx(1.159, abs=5e-4)  # it holds every bit read
    assert one["information2"] == pytest.approx(three["information1"])
    assert two["information2"] == pytest.approx(three["information2"])


def test_without_bits_of_pairs_all_pairs_of_three_modalities_share_alike() -> None:
    plain = ThreeModalities(shared=8, paired=0, unique=4, used=8, read_paired=(0, 0, 0))
    for level in (0, 6):
        rows = pair_rows(plain, level)
        shared = [row["information_shared"] for row in rows]
        assert shared == pytest.approx([shared[0]] * 3)
        assert shared[0] == pytest.approx(1.159 if level == 0 else 0.152, abs=5e-4)


def test_the_table_of_a_pair_is_the_mean_over_the_bits_that_only_the_third_holds() -> None:
    """Every bit of every group is spelt out; weights act on the bits that are read, in the order of the groups."""
    small = ThreeModalities(shared=2, paired=1, unique=1, used=4, read_paired=(1, 0, 1), rows=100)
    groups = ("123", "12", "13", "23", "1", "2", "3")
    sizes = [2, 1, 1, 1, 1, 1, 1]
    every = dict(zip(groups, np.split(all_bits(8).astype(int), np.cumsum(sizes)[:-1], axis=1), strict=True))
    read = np.hstack([every[group][:, list(places)] for group, places in small.read(1).items()])
    weights = np.random.RandomState(2).uniform(0, 1, size=(4, 4))
    logits = read @ (weights / np.linalg.norm(weights, axis=1, keepdims=True)) / 0.05
    label = np.exp(logits - logits.max(axis=1, keepdims=True))
    label /= label.sum(axis=1, keepdims=True)
    for _ in range(100):
        if np.abs(label.mean(axis=0) - 0.25).max() <= 0.01:
            break
        label = label * 0.25 / label.mean(axis=0)
        label /= label.sum(axis=1, keepdims=True)
    orders = {
        (1, 2): ("123 12", "13 1", "23 2"),
        (1, 3): ("123 13", "12 1", "23 3"),
        (2, 3): ("123 23", "12 2", "13 3"),
    }
    for pair, names in orders.items():
        table = small.pair(*pair).table(1)
        codes = []
        for part in names:
            bits = np.hstack([every[group] for group in part.split()])
            codes.append(bits @ (1 << np.arange(bits.shape[1])[::-1]))
        slow = np.zeros(table.shape)
        np.add.at(slow, tuple(codes), label)
        assert table == pytest.approx(slow / 2, abs=1e-12)
