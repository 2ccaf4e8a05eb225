"""Which part of the information moves alignment: planted slopes are found, none are found where there are none."""

import numpy as np
import polars as pl
import pytest

from featcache.report.figures.emergence import generators_figure
from featcache.studies.emergence.questions.maxima import QUANTITIES
from featcache.studies.emergence.questions.parts import METRICS, part_slopes, plane
from featcache.studies.emergence.synthetic.written import DECOMPOSITIONS

GENERATORS = 8


def dials(rng: np.random.Generator, slopes: tuple[float, float, float], spread: float = 0.1) -> list[pl.DataFrame]:
    """Maxima of generators that turn the parts at random, each with an effect of its own."""
    tables = []
    for number in range(GENERATORS):
        start, end = rng.uniform(0, 0.6, (2, 3))
        parts = start + np.linspace(0, 1, 9)[:, None] * (end - start)
        own = spread * rng.normal() + parts @ np.array(slopes) + 0.02 * rng.normal(size=9)
        rows = [
            {"generator": f"planted_dial_{number}", "uniqueness": level, "phi_depth": phi, "metric": metric,
             "value": own[level] - 0.05 * phi}
            | dict.fromkeys(QUANTITIES, 0.5)
            | {f"{name}_{part}": parts[level, place] for name in DECOMPOSITIONS
               for place, part in enumerate(("redundancy", "unique", "synergy"))}
            for metric in METRICS for phi in (1, 4) for level in range(9)
        ]  # fmt: skip
        tables.append(pl.DataFrame(rows))
    return tables


def test_planted_slopes_are_found_for_each_part() -> None:
    found = part_slopes(dials(np.random.default_rng(0), (0.8, 0.0, -0.3), spread=0.02))
    assert len(found) == len(METRICS) * len(DECOMPOSITIONS) * 3
    own = found.filter(metric="cka_population", decomposition="broja")
    slopes = dict(zip(own["part"], own["value"], strict=True))
    assert slopes == pytest.approx({"redundancy": 0.8, "unique": 0.0, "synergy": -0.3}, abs=0.06)
    low = dict(zip(own["part"], own["low"], strict=True))
    assert (
        low["redundancy"] > 0.5 and low["unique"] < 0 and set(own["tables"]) == {72} and set(own["generators"]) == {8}
    )


def test_slopes_are_those_of_least_squares_with_a_constant_a_map() -> None:
    tables = dials(np.random.default_rng(1), (0.5, 0.2, 0.1))
    every = pl.concat(tables).filter(metric="mutual_knn")
    design = every.select("broja_redundancy", "broja_unique", "broja_synergy").to_numpy()
    dummies = np.stack([(every["phi_depth"] == phi).to_numpy() for phi in (1, 4)], axis=1).astype(float)
    oracle = np.linalg.lstsq(np.hstack([design, dummies]), every["value"].to_numpy(), rcond=None)[0][:3]
    found = part_slopes(tables).filter(metric="mutual_knn", decomposition="broja")
    assert found["value"].to_list() == pytest.approx(oracle.tolist())
    assert np.isnan(plane(np.ones((4, 2)), np.arange(4.0), np.zeros(4, int))).all()


def test_parts_whose_sum_never_changes_are_not_told_apart() -> None:
    tables = [
        table.with_columns(
            (1.1 - pl.col(f"{name}_redundancy") - pl.col(f"{name}_unique")).alias(f"{name}_synergy")
            for name in DECOMPOSITIONS
        )
        for table in dials(np.random.default_rng(5), (0.5, 0.0, 0.0))
    ]
    found = part_slopes(tables)
    assert found["value"].is_null().all() and len(found) == 27
    assert set(found["note"]) == {"the tables do not tell the parts apart"}


def test_too_few_generators_say_nothing() -> None:
    assert part_slopes([]).is_empty()
    assert part_slopes(dials(np.random.default_rng(2), (0.5, 0.0, 0.0))[:3]).is_empty()


def test_parts_that_do_nothing_are_rarely_said_to_do_something() -> None:
    rng, wrong, draws = np.random.default_rng(3), np.zeros(3), 150
    for _ in range(draws):
        rows = [table.filter(metric="cka_population") for table in dials(rng, (0.0, 0.0, 0.0))]
        found = part_slopes(rows).filter(decomposition="broja")
        wrong += np.array([p is not None and p <= 0.05 for p in found["p"]])
    assert (wrong / draws <= 0.11).all()  # of 150 draws at .05, no larger share but once in 500


def test_the_figure_has_a_panel_a_generator() -> None:
    tables = dials(np.random.default_rng(4), (0.8, 0.0, 0.0))
    figure = generators_figure(tables, part_slopes(tables))
    assert figure is not None and len({row["generator"] for row in figure.rows}) == GENERATORS
    assert figure.caption.startswith("Exact CKA a nat: redundancy .") and figure.svg.startswith("<svg")
    few = generators_figure(tables[:2], part_slopes(tables[:2]))
    assert few is not None and few.caption.startswith("Each panel a generator")
    assert generators_figure(tables[:1], part_slopes([])) is None
