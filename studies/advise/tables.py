"""The tidy table of an advice: answers, information and alignment below each other, with arrays and versions."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from featcache.metrics.measure.row import frame
from featcache.metrics.probes.information_bounds import InformationRow
from featcache.provenance import provenance
from featcache.studies.advise.answers import AdviceRow
from featcache.studies.advise.result import Advice, PairAdvice
from featcache.studies.tables import identity, table, write_table

if TYPE_CHECKING:
    import polars as pl

_SETTINGS = ("folds", "seeds", "draws", "width", "steps", "margin", "least_gain", "shortfall", "seed")
Columns = dict[str, str | int]
T = TypeVar("T", AdviceRow, InformationRow)


def advice_table(advice: Advice) -> "pl.DataFrame":
    """Rows of every pair; the column `table` is "answer", "information" or "alignment".

    Args:
        advice: From `advise`.
    """
    import polars as pl

    shared: dict[str, Any] = {
        "command": "advise",
        "dataset": advice.dataset,
        "overlay": next(iter(advice.arrays.values())).overlay,
        "label": advice.label,
        "entropy": advice.entropy,
        **{name: getattr(advice.settings, name) for name in _SETTINGS},
        **provenance(),
    }
    parts = [part for pair in advice.pairs for part in _pair_frames(advice, pair)]
    return pl.concat(parts, how="diagonal").with_columns(pl.lit(value).alias(name) for name, value in shared.items())


def write_advice(advice: Advice, out: Path) -> None:
    """Writes the table as Parquet; errors as `write_table`."""
    write_table(advice_table(advice), out)


def pairs_of(rows: "pl.DataFrame") -> list[PairAdvice]:
    """Answers and information of every pair of a table that `write_advice` wrote.

    Args:
        rows: As `advice_table` makes them.
    """
    pairs: list[PairAdvice] = []
    for first, second in rows.select("first", "second").unique(maintain_order=True).rows():
        own = rows.filter((rows["first"] == first) & (rows["second"] == second))
        answers = own.filter(own["table"] == "answer").rename({"accuracy_apart": "accuracy"})
        found = _records(AdviceRow, answers)
        known = _records(InformationRow, own.filter(own["table"] == "information"))
        pairs.append(PairAdvice(first, second, known, (), [], found))
    return pairs


def _records(of: "type[T]", rows: "pl.DataFrame") -> "list[T]":
    return [of(**row) for row in rows.select(field.name for field in fields(of)).to_dicts()]  # type: ignore[arg-type]


def _pair_frames(advice: Advice, pair: PairAdvice) -> "list[pl.DataFrame]":
    import polars as pl

    arrays: Columns = {
        f"{role}_{what}": value
        for role, name in zip(("first", "second"), pair.spaces, strict=True)
        for what, value in identity(advice.arrays[name]).items()
        if what != "d"
    }
    names: Columns = {"first": pair.first, "second": pair.second}
    kinds = [", ".join(dict.fromkeys(kind)) for kind in pair.classifiers]
    classifiers: list[str] = [*kinds, *[""] * (len(pair.information) - len(kinds))]
    found: list[Columns] = [
        {"table": "information", "classifiers": one, "n": advice.rows.n, **names, **arrays} for one in classifiers
    ]
    answers: list[Columns] = [{"table": "answer", **arrays}] * len(pair.answers)
    scores = frame(pair.alignment).with_columns(
        pl.lit(value).alias(name) for name, value in {"table": "alignment", **names, **arrays}.items()
    )
    return [_answers(pair.answers, answers), table(pair.information, found), scores]


def _answers(rows: list[AdviceRow], more: list[Columns]) -> "pl.DataFrame":
    return table(rows, more).rename({"accuracy": "accuracy_apart"})
