"""The tidy rows of every measurement: their columns, types and meanings, declared once."""

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from featcache.metrics.certainty.floor import LEAST_P

if TYPE_CHECKING:
    import polars as pl


CLEAN = "test (clean)"  # the groups of the test split that do not stand in training too


@dataclass(frozen=True)
class Row:
    """One score of one space against another.

    Args:
        space: Name of the space.
        against: Name of what it is compared with: the reference, or another space.
        metric: A name of METRICS; or "R@1", "loss", "centroid_gap", ... of a run (docs/runs.md), "probe_accuracy", ...
            of a downstream task.
        value: The score; None where the metric cannot be computed, and `note` says why.
        convention: The options it was computed with, and which of the metric's published forms they mean.
        higher_is_better: Whether a higher score means more aligned.
        n: Rows compared, or queries.
        d: Width of the space.
        d_against: Width of what it is compared with.
        k: Neighbours or rank cut-off, where the metric has one.
        chance: Mean score when the rows of one of the two are permuted; exact where there is a formula.
        calibrated: 0 up to what a share alpha of the null passes, 1 at the best score there is.
        threshold: What a share alpha of the null passes.
        p: Share of permutations at least as aligned, the observed order counted; else the tail of the closed form, not
            below .001.
        null_low: Lower end of the central 95 % of the null; None below 39 permutations.
        null_high: Upper end.
        null: How the null was got: "200 permutations", "Pearson III, exact three moments", or "none".
        ci_low: Lower end of the interval of the score.
        ci_high: Upper end.
        estimand: What the interval is about, in words.
        interval: How the interval was got, or "none".
        short_rows: Rows that an interval left out because their lists ran short.
        backend: What searched the graphs; of other metrics, what prepared the spaces.
        seconds: Time of the score, its null and its interval, without what spaces share.
        note: Why there is no score, no null or no interval, or "".
        stage: Of a run: "raw", "untrained", "trained", "permuted", "mixed", "ridge", "noise", "composed", "stitched" or
            "" (docs/runs.md). Of a downstream task also "random", "reference", "control" and "chance".
        split: "train", "validation", "test", "test (clean)" (its groups that do not leak, where others do) or "".
        epoch: Epoch of the weights, 0 before training; None for spaces without weights.
        direction: "a→b" for retrieval, else "".
        weights: JSON of a mapping from sides to their weights in a mixture, or "".
    """

    space: str
    against: str
    metric: str
    value: float | None
    convention: str = ""
    higher_is_better: bool = True
    n: int | None = None
    d: int | None = None
    d_against: int | None = None
    k: int | None = None
    chance: float | None = None
    calibrated: float | None = None
    threshold: float | None = None
    p: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    null: str = "none"
    ci_low: float | None = None
    ci_high: float | None = None
    estimand: str = ""
    interval: str = "none"
    short_rows: int | None = None
    backend: str = ""
    seconds: float = 0.0
    note: str = ""
    stage: str = ""
    split: str = ""
    epoch: int | None = None
    direction: str = ""
    weights: str = ""


@dataclass(frozen=True)
class ContrastRow:
    """One paired difference of scores against the reference, and its verdict.

    Args:
        contrast: Its readable name.
        whole: Name of the space in question.
        parts: Names of what it is compared with, joined by "+".
        kind: "difference", "average" (of the parts' scores) or "max" (the best part).
        against: Name of the reference.
        metric: A name of METRICS.
        convention: The options it was computed with.
        k: Neighbours, where the metric has them.
        value: Score of the whole minus that of the parts; of a distance with the sign turned, so that above 0 the whole
            is always the closer one. For "max", minus that of the binding part.
        ci_low: Lower end of the interval of the difference, not adjusted for other contrasts.
        ci_high: Upper end.
        level: Of the interval: 1 - alpha.
        p: Two-sided. For "max", the largest p of all parts where the whole is above each (intersection-union), else the
            smallest of those it is below, times the number of parts.
        family: Name of the family that p_holm is adjusted in; "" for a contrast that stands alone.
        p_holm: p after Holm's correction within family, metric and reference.
        verdict: "above", "below", "cannot tell", or "cannot tell after correction" where the interval leaves 0 out
            and p_holm passes alpha.
        binding: For "max", the part that decides.
        estimand: What the interval is about, in words.
        n: Rows compared.
        repeats: Random halves behind the interval, the same for all contrasts of a metric.
        short_rows: Rows, over all halves, that were left out because their lists ran short.
        method: How interval and p were got.
        note: Why there is no difference or no interval, or "".
        split: Of a run: "test", "test (clean)" or "".
    """

    contrast: str
    whole: str
    parts: str
    kind: str
    against: str
    metric: str
    convention: str = ""
    k: int | None = None
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    level: float = 0.95
    p: float | None = None
    family: str = ""
    p_holm: float | None = None
    verdict: str = "cannot tell"
    binding: str = ""
    estimand: str = ""
    n: int | None = None
    repeats: int = 0
    short_rows: int | None = None
    method: str = ""
    note: str = ""
    split: str = ""


def columns(kind: type[Any]) -> dict[str, type]:
    """Column names and plain types (str, int, float, bool), in their order.

    Example:
        >>> columns(ContrastRow)["p_holm"], columns(Row)["n"]
        (<class 'float'>, <class 'int'>)
    """
    hints = get_type_hints(kind)
    plain = {field.name: [one for one in get_args(hints[field.name]) if one is not NoneType] for field in fields(kind)}
    return {name: (of or [hints[name]])[0] for name, of in plain.items()}


def schema(kind: type[Row] | type[ContrastRow]) -> "dict[str, Any]":
    """Column names and polars types, in their order.

    Example:
        >>> schema(Row)["value"]
        Float64
    """
    import polars as pl

    types = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
    return {name: types[of] for name, of in columns(kind).items()}


def frame(rows: Iterable[Row] | Iterable[ContrastRow], kind: type[Row] | type[ContrastRow] = Row) -> "pl.DataFrame":
    """Rows as a polars table with all columns of their kind, none or many.

    Example:
        >>> frame([Row("x", "reference", "cka_debiased", 0.5)]).shape
        (1, 30)
    """
    import polars as pl

    return pl.DataFrame([asdict(row) for row in rows], schema=schema(kind))


def columns_page(kind: type[Any]) -> str:
    """A Markdown table of the columns: name, type, and the meaning that the class's docstring gives.

    Example:
        >>> columns_page(Row).splitlines()[2]
        '| `space` | str | Name of the space. |'
    """
    meanings = dict(re.findall(r"^ {4}(\w+): (.*)$", _unfolded(kind.__doc__ or ""), re.MULTILINE))
    lines = [f"| `{name}` | {of.__name__} | {meanings[name]} |" for name, of in columns(kind).items()]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *(line.replace("\n", " ") for line in lines)])


def _unfolded(text: str) -> str:
    """A docstring, dedented, its continued lines joined."""
    from inspect import cleandoc

    return re.sub(r"\n {8,}", " ", cleandoc(text))


def verdict_text(row: ContrastRow) -> str:
    """A verdict with its difference and interval, as in "above (+.041 [+.012, +.070])".

    Example:
        >>> verdict_text(ContrastRow("", "a", "b", "difference", "r", "m", value=0.0108, ci_low=-0.0112, ci_high=0.033))
        'cannot tell (+.011 [−.011, +.033])'
    """
    if row.value is None:
        return row.verdict
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{_signed(row.ci_low)}, {_signed(row.ci_high)}]"
    return f"{row.verdict} ({_signed(row.value)}{interval})"


def p_floor(null: str) -> float | None:
    """The least p that a null can give: 1 / (permutations + 1), or where the tail of a closed form is no longer read.

    Args:
        null: `Row.null`, how it was got.

    Example:
        >>> p_floor("199 permutations within kind"), p_floor("Pearson III, exact three moments"), p_floor("none")
        (0.005, 0.001, None)
    """
    draws = re.search(r"(\d+) permutations", null)
    if draws:
        return 1 / (int(draws[1]) + 1)
    return None if null in ("", "none") else LEAST_P


def p_text(p: float | None, null: str = "") -> str:
    """A p-value without its leading zero; of a closed form not below .001, of permutations no digits they have not.

    Args:
        p: The p-value; None for none.
        null: `Row.null`, how it was got.

    Example:
        >>> p_text(0.005, "199 permutations"), p_text(0.001, "Pearson III, exact three moments"), p_text(None)
        ('.005', '≤ .001', '')
        >>> p_text(0.0497), p_text(0.0503)
        ('.0497', '.050')
    """
    if p is None:
        return ""
    closed = null not in ("", "none") and "permutations" not in null
    if closed and p <= LEAST_P:
        return "≤ .001"
    if p < 5e-4:
        return "< .001"
    # what is below .05 must not read as if it were not
    return f"{math.floor(p * 1e4) / 1e4:.4f}".removeprefix("0") if 0.0495 <= p < 0.05 else _decimals(p)


def _signed(value: float) -> str:
    return ("−" if value < 0 else "+") + _decimals(abs(value))


def _decimals(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
