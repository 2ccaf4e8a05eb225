"""Figures of encoders trained together: what they draw is what the tables hold."""

from itertools import product
from typing import Any

import polars as pl
import pytest

from featcache.report.figures.figure import Figure
from featcache.report.figures.together import parts_figures, together_figures
from featcache.studies.emergence.together.training import effects

USES = (("joint", "both", 0), ("alone", "0", 0), ("alone", "1", 0), ("few", "both", 5), ("transfer", "0→1", 0),
        ("transfer_mapped", "0→1", 0))  # fmt: skip
PAIRS = [(0.0, 0), (1.0, 0), (4.0, 0), (1.0, 8), (4.0, 8)]


def accuracy(level: int, weight: float, private: int, seed: int) -> float:
    """More contrast costs more where more is unique, half of it with private features; seeds differ a little."""
    return 0.9 - 0.01 * level * weight / (2 if private else 1) + 0.001 * seed * weight


@pytest.fixture(scope="module")
def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    pairs: list[dict[str, Any]] = []
    bits: list[dict[str, Any]] = []
    for level, (weight, private), seed in product((0, 8), PAIRS, range(3)):
        key = {"generator": "released", "uniqueness": level, "phi_depth": 1, "steps": 50, "lambda": weight}
        key |= {"private": private, "seed": seed}
        value = accuracy(level, weight, private, seed)
        pairs += [key | {"use": use, "side": side, "labels": labels, "accuracy": value} for use, side, labels in USES]
        for side, bit, probe in product((0, 1), range(4), ("linear", "mlp")):
            kind = "shared" if bit < 2 else "unique"
            known = 1.0 if kind == "shared" else 0.9 - 0.1 * weight
            bits.append(
                key | {"side": side, "bit": bit, "kind": kind, "used": bit in (0, 2), "probe": probe, "accuracy": known}
            )
    return effects(pl.DataFrame(pairs)), pl.DataFrame(bits)


def test_lines_are_the_effects_with_the_remedy_beside(tables: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    lines, _ = together_figures(*tables)
    assert len(lines.rows) == 6 * 2 * 2 * 2  # uses, arms, levels, weights
    for row in lines.rows:
        mean = accuracy(int(row["series"][2:]), row["x"], row["private"], 1) - 0.9
        assert row["value"] == pytest.approx(mean) and row["ci_low"] < row["value"] < row["ci_high"]
    assert "joint task -0.316 (U = 8, λ = 4)" in lines.caption and "95 % over seeds" in lines.caption
    check_drawn(lines, "8 features private", "train on 0, use on 1 by a map")


def test_the_heat_map_has_every_bit_and_weight_and_says_what_is_lost(tables: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    _, heat = together_figures(*tables)
    assert len(heat.rows) == 2 * 2 * 2 * 4 * 3  # levels, encoders, arms, bits, weights with 0 in both arms
    assert {row["seeds"] for row in heat.rows} == {3}
    assert "From λ = 0 to 4: shared, read by the label 1.00 → 1.00" in heat.caption
    assert "unique, not read 0.90 → 0.50" in heat.caption
    check_drawn(heat, "U 8, encoder 1", "unique 2 •", "shared 1")


def test_effects_over_the_exact_parts_of_the_label(tables: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    oracles = pl.DataFrame(
        [
            {"generator": "released", "uniqueness": level, "broja_redundancy": r, "broja_synergy": s}
            | {"broja_unique1": 0.1, "broja_unique2": 0.2}
            for level, r, s in ((0, 1.1, 0.0), (8, 0.3, 0.6))
        ]
    )
    figures = parts_figures(tables[0], oracles)
    assert [figure.rows[0]["use"] for figure in figures] == ["joint", "alone", "alone", "few"]
    by_level = {row["uniqueness"]: row for row in figures[0].rows}
    assert by_level[8]["redundancy"] == 0.3 and by_level[8]["unique"] == pytest.approx(0.3)
    assert by_level[8]["value"] == pytest.approx(accuracy(8, 1.0, 0, 1) - 0.9)
    check_drawn(figures[0], "redundancy", "synergy")
    assert not parts_figures(tables[0], oracles.filter(uniqueness=0))


def test_trainings_of_several_lengths_are_drawn_by_length_and_the_longest_by_weight(
    tables: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    longer = tables[0].with_columns(steps=pl.lit(200, pl.Int64), effect=pl.col("effect") / 2)
    bits = tables[1].with_columns(steps=pl.lit(200, pl.Int64))
    lengths, lines, heat = together_figures(pl.concat([tables[0], longer]), pl.concat([tables[1], bits]))
    assert {row["x"] for row in lengths.rows} == {50, 200} and len(lengths.rows) == 6 * 2 * 2 * 2
    at = {(row["use"], row["uniqueness"], row["series"], row["x"]): row["value"] for row in lengths.rows}
    assert at["joint", 8, "λ 4", 200] == pytest.approx(at["joint", 8, "λ 4", 50] / 2)
    assert len(lines.rows) == 48 and "-0.158 (U = 8, λ = 4)" in lines.caption and heat.rows
    check_drawn(lengths, "λ 4", "U = 8")


def check_drawn(figure: Figure, *words: str) -> None:
    """The drawing has the words; every row goes into the data file."""
    for word in words:
        assert word in figure.svg
    assert all(row for row in figure.rows) and figure.alt
