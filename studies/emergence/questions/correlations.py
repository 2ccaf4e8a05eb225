"""Does alignment predict performance: correlations by U, with intervals over depths, labels or maps."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from featcache.metrics.certainty.clustered import Clustered, Method, clustered_correlation
from featcache.studies.emergence.questions.maxima import QUANTITIES, RELEASED
from featcache.studies.emergence.synthetic.written import SETTING

if TYPE_CHECKING:
    import polars as pl

LEAST_MODELS = 12  # behind a coefficient
METHODS: tuple[Method, ...] = get_args(Method)
MEASURED, WITHOUT_LAST, ARTIFICIAL = "measured", "without the last U", "the last U set to 0"
PERFORMANCE = ("accuracy", "test_accuracy")
_PAIRS = (  # x, y of RQ2
    *(("alignment", score) for score in PERFORMANCE),
    *(("depth", score) for score in (*PERFORMANCE, "alignment")),
)


@dataclass(frozen=True)
class Relation:
    """A correlation of two quantities with its interval.

    Args:
        generator: Of the modalities.
        width: Of the encoders.
        architecture: Of the encoders.
        question: "rq1", "rq2", "beyond depth" (rq2 with what models of one depth share taken away) or "information".
        x: "uniqueness", "phi_depth", "depth", "alignment" or an exact quantity of the label table.
        y: "maximum", "alignment", "accuracy" or "test_accuracy".
        metric: Of alignment; "" where neither is one.
        method: "pearson" or "spearman".
        uniqueness: The U that it is within; None: over all.
        phi_depths: The maps of the second modality that it is within, such as "1–10".
        group: Whether these are some of several groups of maps, as box plots need them.
        points: "measured", or what was done with the points of the largest U.
        value: The coefficient, within each map (and U); None where too few models are behind it.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided.
        n: Points.
        models: Behind the points.
        clusters: That the interval is over.
        clustered_by: What these are: "depth", "uniqueness" or "phi_depth".
        note: Why there is no coefficient or no interval, or "".
    """

    generator: str
    width: int
    architecture: str
    question: str
    x: str
    y: str
    metric: str
    method: str
    uniqueness: int | None
    phi_depths: str
    group: bool
    points: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    models: int
    clusters: int
    clustered_by: str
    note: str


def relations(best: "pl.DataFrame", maxima: "pl.DataFrame") -> "pl.DataFrame":
    """Every correlation of the study, a row each.

    RQ1: the maximum with U (with the largest U as measured, left out, and set to 0 as in the released figures) and with
    D_phi. RQ2: alignment with accuracy, depth with accuracy and with alignment, at each U; and alignment with accuracy
    beyond depth, since both may drift with depth and have nothing else in common. Information: the maximum with exact
    quantities of the label table.

    Args:
        best: From `featcache.studies.emergence.questions.maxima.best_of_models`.
        maxima: From `featcache.studies.emergence.questions.maxima`.
    """
    import polars as pl

    rows: list[Relation] = []
    for key, part in maxima.group_by(*SETTING, "metric", maintain_order=True):
        rows += _of_maxima(part, _blank(key))
    for key, part in best.group_by(*SETTING, "metric", maintain_order=True):
        rows += _of_models(part, _blank(key))
    kinds = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
    schema = {each.name: kinds[next(k for k in kinds if k.__name__ in str(each.type))] for each in fields(Relation)}
    return pl.DataFrame([asdict(row) for row in rows], schema=schema)


def groups_of_maps(phi_depths: Sequence[int], models_each: int) -> list[list[int]]:
    """Neighbouring maps put together until each group has enough models for a coefficient.

    Args:
        phi_depths: In order.
        models_each: Models of each map.

    Example:
        >>> groups_of_maps([1, 2, 3, 4, 5], 10), groups_of_maps([1, 4, 7, 10], 4), groups_of_maps([1, 2], 30)
        ([[1, 2], [3, 4, 5]], [[1, 4, 7, 10]], [[1], [2]])
    """
    size = -(-LEAST_MODELS // max(models_each, 1))
    count = max(1, len(phi_depths) // size)
    groups = [[*phi_depths[place * size : (place + 1) * size]] for place in range(count)]
    groups[-1] += phi_depths[count * size :]
    return groups


def _of_maxima(part: "pl.DataFrame", blank: Relation) -> Iterator[Relation]:
    """Correlations of the maxima of one metric with U, D_phi and exact quantities."""
    every = sorted(set(part["phi_depth"]))
    levels = sorted(set(part["uniqueness"]))
    for method in METHODS:
        one = replace(blank, y="maximum", method=method, phi_depths=_span(every))
        for name, points in _points(part, blank.generator).items():
            yield _relation(
                replace(one, question="rq1", x="uniqueness", points=name), points, "uniqueness", "phi_depth"
            )
            for phi_depth in every:
                inside = replace(one, question="rq1", x="uniqueness", points=name, phi_depths=str(phi_depth))
                yield _relation(
                    replace(inside, group=True), points.filter(phi_depth=phi_depth), "uniqueness", "phi_depth"
                )
        yield _relation(replace(one, question="rq1", x="phi_depth"), part, "phi_depth", "uniqueness")
        for level in levels:
            inside = replace(one, question="rq1", x="phi_depth", uniqueness=level)
            yield _relation(inside, part.filter(uniqueness=level), "phi_depth", "uniqueness")
        for quantity in QUANTITIES:
            yield _relation(replace(one, question="information", x=quantity), part, "uniqueness", "phi_depth")


def _points(part: "pl.DataFrame", generator: str) -> "dict[str, pl.DataFrame]":
    """The maxima as measured, and with what the released figures have at the largest U: 0, which nobody measured."""
    import polars as pl

    if generator != "released":
        return {MEASURED: part}
    last = pl.col("uniqueness") == part["uniqueness"].max()
    set_to_0 = part.with_columns(
        pl.when(last).then(0.0).otherwise("value").alias("value"),
        pl.when(last).then(0).otherwise("models").cast(part.schema["models"]).alias("models"),
    )
    return {MEASURED: part, WITHOUT_LAST: part.filter(~last), ARTIFICIAL: set_to_0}


def _of_models(part: "pl.DataFrame", blank: Relation) -> Iterator[Relation]:
    """Correlations of the models of one metric, at each U: over all maps, and over groups of them."""
    import polars as pl

    part = part.with_columns(alignment="value", models=pl.lit(1))
    every = sorted(set(part["phi_depth"]))
    for level, inside in ((level, part.filter(uniqueness=level)) for level in sorted(set(part["uniqueness"]))):
        groups = groups_of_maps(every, len(inside) // max(1, inside["phi_depth"].n_unique()))
        for x, y in _PAIRS:
            metric = blank.metric if "alignment" in (x, y) else ""
            if not metric and blank.metric != RELEASED:
                continue  # the same models by each metric; this one has a value of all
            for method in METHODS:
                one = replace(blank, question="rq2", x=x, y=y, metric=metric, method=method, uniqueness=level)
                yield _relation(replace(one, phi_depths=_span(every)), inside, "depth", "phi_depth")
                if x == "alignment":
                    beyond = replace(one, question="beyond depth", phi_depths=_span(every))
                    yield _relation(beyond, beyond_depth(inside, (x, y), method), "depth", "phi_depth")
                for maps in groups if len(groups) > 1 else ():
                    named = replace(one, phi_depths=_span(maps), group=True)
                    yield _relation(named, inside.filter(pl.col("phi_depth").is_in(maps)), "depth", "phi_depth")


def beyond_depth(rows: "pl.DataFrame", names: Sequence[str], method: str) -> "pl.DataFrame":
    """Models with some columns less the mean over all models of the same depth, ranked within each map for Spearman.

    Correlated within maps, they say what alignment and performance share that neither depth nor map explains. Rows that
    drift with depth, each for itself, then count for nothing.

    Args:
        rows: Of one U, with the columns phi_depth and depth.
        names: Columns.
        method: "pearson" or "spearman".
    """
    import polars as pl

    ranked = [pl.col(name).rank().over("phi_depth") if method == "spearman" else pl.col(name) for name in names]
    rows = rows.with_columns(ranked)
    return rows.with_columns(pl.col(name) - pl.col(name).mean().over("depth") for name in names)


def _relation(blank: Relation, rows: "pl.DataFrame", clusters: str, blocks: str) -> Relation:
    """The correlation of x and y of some rows, within blocks, with its interval over clusters."""
    y = "value" if blank.y == "maximum" else blank.y
    rows = rows.filter(rows[blank.x].is_not_null() & rows[y].is_not_null())
    models = int(rows["models"].sum())
    counted = replace(blank, n=len(rows), models=models, clustered_by=clusters)
    if models < LEAST_MODELS or len(rows) < 3:
        note = f"{models} models: no coefficient below {LEAST_MODELS}"
        return replace(counted, clusters=rows[clusters].n_unique(), note=note)
    columns = (np.asarray(rows[name].to_numpy()) for name in (blank.x, y, clusters, blocks))
    x_values, y_values, of, inside = columns
    found = clustered_correlation(
        x_values.astype(float), y_values.astype(float), of, blocks=inside, method=_method(blank)
    )
    return _with(counted, found)


def _with(relation: Relation, found: Clustered) -> Relation:
    ends = {"value": found.value, "low": found.low, "high": found.high, "p": found.p}
    return replace(relation, **ends, clusters=found.clusters, note=found.note)


def _method(relation: Relation) -> Method:
    """How values are correlated; those beyond depth are ranks already, where ranks are asked for."""
    ranks = relation.method == "spearman" and relation.question != "beyond depth"
    return "spearman" if ranks else "pearson"


def _blank(key: Sequence[Any]) -> Relation:
    numbers: dict[str, Any] = dict.fromkeys(("value", "low", "high", "p", "uniqueness"))
    numbers |= dict.fromkeys(("n", "models", "clusters"), 0)
    words = dict.fromkeys(("question", "x", "y", "method", "phi_depths", "clustered_by", "note"), "")
    named = dict(zip((*SETTING, "metric"), key, strict=True))
    return Relation(**{**named, **words, **numbers, "group": False, "points": MEASURED})


def _span(maps: Sequence[int]) -> str:
    """Maps in words: the only one, or the first and the last."""
    return str(maps[0]) if len(maps) == 1 else f"{maps[0]}–{maps[-1]}"
