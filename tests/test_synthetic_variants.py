"""Decompositions find the parts that a label was given, draws follow their tables, modalities share their bits."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.data.errors import DataInvalid
from featcache.data.synthetic.generator import Generator, draw, modalities
from featcache.data.synthetic.tables import joint_table
from featcache.data.synthetic.three import GROUPS, ThreeModalities, draw_three, three_table
from featcache.data.synthetic.variants import DIALS, STEPS, Parts, Planted, symmetric_channel
from featcache.metrics.information.decompositions import broja, common_information
from featcache.metrics.information.tables import mutual_information

PARTS = ("redundancy", "unique1", "unique2", "synergy")
SMALL = {name: Planted(name, rows=600) for name in DIALS}


def values(parts: object) -> np.ndarray:
    return np.array([getattr(parts, name) for name in PARTS])


@pytest.mark.parametrize("level", [0, 3, STEPS])
@pytest.mark.parametrize("dial", DIALS)
def test_the_parts_that_a_dial_plants_are_those_that_two_decompositions_find(dial: str, level: int) -> None:
    generator = Planted(dial)
    wanted, joint = values(generator.parts(level)), joint_table(generator.table(level))
    found = broja(joint)
    assert values(found) == pytest.approx(wanted, abs=found.gap + 1e-9)
    assert found.gap <= 1e-6
    assert values(common_information(joint)) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("dial", DIALS)
def test_a_dial_varies_what_it_says_and_holds_the_rest(dial: str) -> None:
    generator = Planted(dial)
    rows = np.array([values(generator.parts(level)) for level in generator.levels])
    moves = np.ptp(rows, axis=0)
    sums = np.ptp(rows.sum(axis=1))
    held = {
        "unique_for_redundancy": (True, moves[3] == 0 and (rows[:, 3] == 0).all()),
        "unique_for_synergy": (True, moves[0] == 0 and moves[3] > 0.5),
        "synergy_for_redundancy": (True, moves[1] == moves[2] == 0),
        "second_for_first": (True, moves[0] == moves[3] == 0 and np.ptp(rows[:, 1] + rows[:, 2]) < 1e-12),
        "redundancy": (False, moves[1] == moves[2] == moves[3] == 0),
        "unique": (False, moves[0] == moves[3] == 0),
        "synergy": (False, moves[0] == moves[1] == moves[2] == 0),
    }
    fixed, as_said = held[dial]
    assert as_said
    assert (sums < 1e-12) == fixed
    assert len(rows) == STEPS + 1


@pytest.mark.parametrize("dial", DIALS)
def test_all_classes_of_a_dial_are_equally_likely_and_as_many_at_every_level(dial: str) -> None:
    generator = SMALL[dial]
    for level in (0, STEPS):
        table = generator.table(level)
        assert table.shape == (256, 16, 16, generator.classes)
        assert table.sum(axis=3) == pytest.approx(1)
        assert table.mean(axis=(0, 1, 2)) == pytest.approx(1 / generator.classes)


def test_the_total_and_the_bits_can_be_others() -> None:
    generator = Planted("unique_for_synergy", total=0.6, shared=3, unique=2, features_seed=5, rows=500)
    found = broja(joint_table(generator.table(4)))
    assert values(found) == pytest.approx([0.3, 0.075, 0.075, 0.15], abs=1e-6)
    assert generator.name == "planted_unique_for_synergy(total=0.6,shared=3,unique=2,features_seed=5,rows=500)"
    assert Planted("unique").name == "planted_unique"


def test_another_seed_of_the_features_is_another_table_of_the_same_parts() -> None:
    one, other = Planted("unique"), Planted("unique", features_seed=7)
    assert not np.allclose(one.table(5), other.table(5))
    assert values(common_information(joint_table(other.table(5)))) == pytest.approx(values(one.parts(5)), abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dial": "none"}, "unique_for_redundancy"),
        ({"total": 0.0}, "above 0"),
        ({"total": 9.0}, "16 values reads 2 bits"),
        ({"unique": 1}, "reads 0 bits"),
        ({"rows": 100}, "16 classes"),
    ],
)
def test_what_no_generator_can_hold_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataInvalid, match=words):
        replace(Planted("unique"), **changes)


def test_a_level_beyond_the_dial_is_refused() -> None:
    with pytest.raises(DataInvalid, match="there are 0 to 8"):
        Planted("unique").table(9)


@given(st.integers(1, 8), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_channel_has_the_information_that_was_wanted(size: int, share: float) -> None:
    channel = symmetric_channel(size, share * log(size))
    assert channel.sum(axis=1) == pytest.approx(1)
    assert mutual_information(channel / size) == pytest.approx(share * log(size), abs=1e-9)


@pytest.mark.parametrize("wanted", [-0.1, 0.7])
def test_a_channel_cannot_have_more_than_its_values_hold(wanted: float) -> None:
    with pytest.raises(DataInvalid, match=r"0 to 0\.693147 nats between 2 values"):
        symmetric_channel(2, wanted)


def test_drawn_labels_follow_the_table_and_the_bits_are_the_same_at_every_level() -> None:
    generator = Planted("unique_for_redundancy", rows=200_000)
    one, other = draw(generator, 2), draw(generator, 6)
    for name in ("shared", "unique1", "unique2"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert (one.labels != other.labels).any()
    counts = np.zeros((256, generator.classes))
    np.add.at(counts, (one.shared, one.labels), 1)
    expected = generator.table(2).mean(axis=(1, 2)) * counts.sum(axis=1, keepdims=True)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - 256 * 15) < 4 * np.sqrt(2 * 256 * 15)  # chi-squared


@pytest.mark.parametrize(
    "generator", [SMALL["synergy"], ThreeModalities(rows=600).pair(1, 3)], ids=["planted", "a pair of three"]
)
def test_every_generator_gives_data_sets_for_training(generator: Generator) -> None:
    (data,) = modalities(generator, 3, [2])
    assert {name: len(part.labels) for name, part in data.parts.items()} == {"train": 420, "valid": 90, "test": 90}
    assert data.inputs1.shape == data.inputs2.shape == (2**12, 12)
    for part in data.parts.values():
        assert np.array_equal(part.x1, data.inputs1[part.codes1])
        assert np.array_equal(part.codes1 >> generator.unique, part.codes2 >> generator.unique)


def test_three_modalities_hold_the_bits_of_their_groups_and_labels_that_read_them() -> None:
    generator = ThreeModalities(rows=100_000)
    rows = draw_three(generator, 4)
    again = draw_three(generator, 4)
    assert np.array_equal(rows.labels, again.labels)
    assert rows.x1.shape == rows.x2.shape == rows.x3.shape == (100_000, 12)
    held = {"1": ("123", "12", "13", "1"), "2": ("123", "12", "23", "2"), "3": ("123", "13", "23", "3")}
    bits: dict[str, list[np.ndarray]] = {}
    for modality, x in zip("123", (rows.x1, rows.x2, rows.x3), strict=True):
        cuts = np.cumsum([generator.bits(group) for group in held[modality]])[:-1]
        for group, part in zip(held[modality], np.split(x, cuts, axis=1), strict=True):
            bits.setdefault(group, []).append(part)
    for group in GROUPS:
        assert len(bits[group]) == len(group)
        assert all(np.array_equal(part, bits[group][0]) for part in bits[group])
        assert bits[group][0].mean(axis=0) == pytest.approx(0.5, abs=0.01)
    table, read = three_table(generator, 4), generator.read(4)
    codes = tuple(bits[group][0][:, list(read[group])].astype(int) for group in GROUPS)
    lines = tuple(part @ (1 << np.arange(part.shape[1])[::-1]) for part in codes)
    chosen = table[(*lines, rows.labels)]
    expected = (table[lines] ** 2).sum(axis=1)
    assert chosen.mean() == pytest.approx(expected.mean(), abs=0.005)


def test_the_bits_that_three_modalities_read_are_counted_by_level() -> None:
    generator = ThreeModalities()
    for level in generator.levels:
        counts = [len(places) for places in generator.read(level).values()]
        assert sum(counts) == 8
        assert counts[1:4] == [2, 1, 0]
        assert sum(counts[4:]) == level


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"used": 12}, "reads 9 bits"),
        ({"read_paired": (3, 0, 0)}, "0 to 2 of each"),
        ({"classes": 1}, "2 or more classes"),
    ],
)
def test_three_modalities_refuse_what_they_cannot_hold(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataInvalid, match=words):
        replace(ThreeModalities(), **changes)


def test_only_pairs_of_the_three_are_given() -> None:
    with pytest.raises(DataInvalid, match="1, 2, 1, 3, 2, 3"):
        ThreeModalities().pair(2, 1)


def test_parts_of_a_dial_are_on_the_line_between_its_ends() -> None:
    dial = DIALS["unique_for_redundancy"]
    assert dial.at(0) == dial.start
    assert dial.at(1) == dial.end
    assert dial.at(0.5) == Parts(0.5, 0.25, 0.25, 0)
