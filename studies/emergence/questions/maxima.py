"""When does alignment emerge: the maximum over layers, depths and seeds, its bias, and what the metrics agree on."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.metrics.certainty.clustered import correlation
from featcache.metrics.errors import BadChoice
from featcache.studies.emergence.synthetic.encoders import EmergenceTables
from featcache.studies.emergence.synthetic.written import CELL, DECOMPOSITIONS, MODEL, SETTING

if TYPE_CHECKING:
    import polars as pl

POPULATION = "cka_population"
RELEASED = "cka_clipped"  # the metric of the released figures
QUANTITIES = (
    "posterior_cka", *(f"{name}_{part}" for part in ("redundancy", "unique", "synergy") for name in DECOMPOSITIONS)
)  # fmt: skip


def best_of_models(tables: EmergenceTables) -> "pl.DataFrame":
    """Each encoder of the second modality with its most aligned pair of layers, by each metric.

    Args:
        tables: Of the study.

    Returns:
        One row a model and metric: `value` of the most aligned pair `layer0`, `layer1` (the first of equals) among
        `pairs`; `population`, the exact CKA of that very pair; `population_maximum`, the largest exact CKA of any pair;
        and the model's `accuracy` and `test_accuracy`. A model of which no pair has a value is left out.
    """
    import polars as pl

    pair = [*MODEL, "layer0", "layer1"]
    exact = tables.alignment.filter(metric=POPULATION).select(*pair, pl.col("value").alias("population"))
    rows = tables.alignment.join(exact, on=pair, how="left").filter(pl.col("value").is_not_null())
    best = (
        rows.sort("value", descending=True, maintain_order=True)
        .group_by(*MODEL, "metric", maintain_order=True)
        .agg(pl.len().alias("pairs"), pl.col("value", "layer0", "layer1", "population").first())
    )
    largest = exact.group_by(MODEL).agg(pl.col("population").max().alias("population_maximum"))
    scores = tables.models.filter(modality=1).select(*MODEL, "steps", "accuracy", "test_accuracy", "bayes_accuracy")
    joined = best.join(largest, on=MODEL, how="left").join(scores, on=MODEL, how="inner")
    return joined.sort(*SETTING, "metric", *CELL, "depth", "seed")


def information(tables: EmergenceTables) -> "pl.DataFrame":
    """QUANTITIES of each label table: CKA of the exact posteriors, and by each decomposition the parts of its label."""
    import polars as pl

    both = [
        (pl.col(f"{name}_unique1") + pl.col(f"{name}_unique2")).alias(f"{name}_unique") for name in DECOMPOSITIONS
    ]  # fmt: skip
    # what is held fixed varies by the solver's last digits: there is no correlation with those
    exact = [pl.col(quantity).round(5) for quantity in QUANTITIES]
    return tables.oracles.with_columns(both).select("generator", "uniqueness", *exact)


def maxima(best: "pl.DataFrame", oracles: "pl.DataFrame") -> "pl.DataFrame":
    """The maximum over layers, depths and seeds for each label table and map of the second modality.

    Args:
        best: From `best_of_models`.
        oracles: From `information`.

    Returns:
        One row a setting, metric, U and D_phi: `value` at `at_depth`, `at_layer`, `at_seed`; `mean` over models of each
        one's own maximum; how many `models`, `seeds` and `depths` there are, and the `steps` of their training;
        `population` of the pair that was chosen, and `population_maximum` of any pair; and the exact quantities of the
        label table.
    """
    import polars as pl

    kept = best.sort("value", descending=True, maintain_order=True)
    rows = kept.group_by(*SETTING, "metric", *CELL, maintain_order=True).agg(
        pl.col("value").first(),
        pl.col("value").mean().alias("mean"),
        pl.len().alias("models"),
        pl.col("seed").n_unique().alias("seeds"),
        pl.col("depth").n_unique().alias("depths"),
        pl.col("steps").min(),
        at_depth=pl.col("depth").first(),
        at_layer=pl.col("layer1").first(),
        at_seed=pl.col("seed").first(),
        population=pl.col("population").first(),
        population_maximum=pl.col("population_maximum").max(),
    )
    return rows.join(oracles, on=["generator", "uniqueness"], how="left").sort(*SETTING, "metric", *CELL)


def by_depth(best: "pl.DataFrame") -> "pl.DataFrame":
    """Alignment and accuracy for each U, D_phi and depth of the encoder: what the heat maps show.

    Returns:
        One row a setting, metric, U, D_phi and depth: means over seeds of the most aligned pair of layers (`value`) and
        of the accuracies, with the Bayes accuracy, and the `maximum` over seeds.
    """
    import polars as pl

    return (
        best.group_by(*SETTING, "metric", *CELL, "depth", maintain_order=True)
        .agg(
            pl.col("value").mean(),
            pl.col("value").max().alias("maximum"),
            pl.col("accuracy", "test_accuracy", "bayes_accuracy").mean(),
            pl.len().alias("seeds"),
        )
        .sort(*SETTING, "metric", *CELL, "depth")
    )


def expected_maximum(values: Sequence[float], count: int, of: Sequence[float] | None = None) -> float:
    """Mean, over all choices of `count` values, of the largest one, or of what goes with it.

    Args:
        values: Those that are compared.
        count: How many are chosen, 1 to all.
        of: What goes with each value; None for the values themselves.

    Raises:
        BadChoice: If so many cannot be chosen.

    Example:
        >>> expected_maximum([1.0, 2.0, 4.0], 1), expected_maximum([1.0, 2.0, 4.0], 2)
        (2.3333333333333335, 3.3333333333333335)
        >>> expected_maximum([1.0, 2.0, 4.0], 3, of=[0.1, 0.2, 0.3])
        0.3
    """
    n = len(values)
    if not 1 <= count <= n:
        raise BadChoice(f"count = {count}: wanted 1 to {n}")
    order = sorted(range(n), key=lambda place: values[place])
    own = values if of is None else of
    # the value of rank r is the largest of a choice that takes the others from the r below it
    weights = [math.comb(rank, count - 1) for rank in range(n)]
    return sum(weight * own[place] for weight, place in zip(weights, order, strict=True)) / math.comb(n, count)


def maximum_bias(best: "pl.DataFrame") -> "pl.DataFrame":
    """How the maximum of estimates outgrows that of exact values as more models are compared.

    With several seeds the count is of seeds, each with all its depths; with one it is of models. For each count the
    mean over all choices is exact, not drawn.

    Args:
        best: From `best_of_models`; of metrics that estimate CKA.

    Returns:
        One row a setting, metric, U, D_phi, `unit` and `count`: mean `estimate` of the largest estimate, exact CKA of
        the pair that it chose (`selected`), and the largest exact CKA of the same models (`population`).
    """
    import polars as pl

    rows: list[dict[str, Any]] = []
    estimates = best.filter(pl.col("metric").is_in([RELEASED, "cka_debiased"]) & pl.col("population").is_not_null())
    for key, cell in estimates.group_by(*SETTING, "metric", *CELL, maintain_order=True):
        several = cell["seed"].n_unique() > 1
        units = _seeds(cell) if several else cell
        values, chosen, exact = (units[name].to_list() for name in ("value", "population", "population_maximum"))
        for count in range(1, len(units) + 1):
            rows.append(
                dict(zip((*SETTING, "metric", *CELL), key, strict=True))
                | {
                    "unit": "seeds" if several else "models",
                    "count": count,
                    "estimate": expected_maximum(values, count),
                    "selected": expected_maximum(values, count, of=chosen),
                    "population": expected_maximum(exact, count),
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def _seeds(cell: "pl.DataFrame") -> "pl.DataFrame":
    """Each seed's maximum over depths, the exact CKA of its pair, and the largest exact one."""
    import polars as pl

    order = cell.sort("value", descending=True, maintain_order=True)
    return order.group_by("seed", maintain_order=True).agg(
        pl.col("value", "population").first(), pl.col("population_maximum").max()
    )


def metric_agreement(tables: EmergenceTables, best: "pl.DataFrame") -> "pl.DataFrame":
    """Each metric beside the exact CKA, by U: mean maximum, clipped pairs, and rank correlation over models.

    Args:
        tables: Of the study.
        best: From `best_of_models`.

    Returns:
        One row a setting, metric and U: `maximum`, mean over D_phi; `mean` over models; `clipped`, the share of pairs
        of layers whose debiased CKA is below 0, where the released metric says 0; `missing`, the share without a
        value; `rank_correlation` with each model's largest exact CKA, over `models`.
    """
    import polars as pl

    below = tables.alignment.filter(metric="cka_debiased").group_by(*SETTING, "uniqueness").agg(
        clipped=(pl.col("value") < 0).mean()
    )  # fmt: skip
    missing = tables.alignment.group_by(*SETTING, "metric", "uniqueness").agg(missing=pl.col("value").is_null().mean())
    rows: list[dict[str, Any]] = []
    for key, part in best.group_by(*SETTING, "metric", "uniqueness", maintain_order=True):
        both = part.filter(pl.col("population_maximum").is_not_null())
        x, y = both["value"].to_numpy(), both["population_maximum"].to_numpy()
        agreement = correlation(x, y, method="spearman") if len(both) else math.nan
        largest = part.group_by("phi_depth", maintain_order=True).agg(pl.col("value").max())
        rows.append(
            dict(zip((*SETTING, "metric", "uniqueness"), key, strict=True))
            | {
                "maximum": largest["value"].mean(),
                "mean": part["value"].mean(),
                "rank_correlation": None if math.isnan(agreement) else agreement,
                "models": len(part),
            }
        )
    table = pl.DataFrame(rows, infer_schema_length=None)
    table = table.join(below, on=[*SETTING, "uniqueness"], how="left")
    every = [*SETTING, "metric", "uniqueness"]
    return table.join(missing, on=every, how="left").sort(every)
