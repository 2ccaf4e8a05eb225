"""The dial from the digit to the speaker: what is exact at each position, each encoder's best layer, correlations."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from featcache.data.spoken_digits import column_name, label_table
from featcache.metrics.certainty.clustered import Clustered, Method, clustered_correlation
from featcache.metrics.information.decompositions import decompositions
from featcache.metrics.information.tables import bayes_accuracy, entropy, mutual_information

if TYPE_CHECKING:
    import polars as pl

MODEL = ("label", "named", "share", "depth", "width", "architecture", "seed")
PARTS = ("redundancy", "unique1", "unique2", "synergy")
LEAST_MODELS = 12  # that a coefficient is computed from
METHODS: tuple[Method, ...] = ("pearson", "spearman")
_RELATIONS = (("alignment", "accuracy"), ("depth", "alignment"))


def dial_row(named: int, speakers: int = 6) -> dict[str, Any]:
    """What is exact where so many speakers are named, if digits and speakers are recognised without fail.

    Args:
        named: Speakers whose clips are labelled by speaker.
        speakers: All of them.

    Returns:
        In nats, source 1 the image and 2 the clip: `entropy` of the label; `information1`, `information2` and
        `information12`; `broja_redundancy`, `broja_unique1`, ... of every decomposition. Beside them `bayes_accuracy1`
        and `bayes_accuracy2`, and `posterior_cka`.

    Raises:
        DataInvalid: As `label_table`.

    Example:
        >>> half = dial_row(3)
        >>> [round(float(half[f"broja_{part}"]), 3) for part in PARTS], round(half["bayes_accuracy1"], 3)
        ([1.151, 0.0, 1.242, 0.0], 0.5)
    """
    joint = label_table(named, speakers)
    image, clip = joint.sum(axis=1), joint.sum(axis=0)
    parts = {
        f"{name}_{part}": float(getattr(decomposed, part))
        for name, decomposed in decompositions(joint).items()
        for part in PARTS
    }
    return {
        "label": column_name(named, speakers),
        "named": named,
        "share": named / speakers,
        "speakers": speakers,
        "entropy": entropy(joint.sum(axis=(0, 1))),
        "information1": mutual_information(image),
        "information2": mutual_information(clip),
        "information12": mutual_information(joint.reshape(-1, joint.shape[2])),
        **parts,
        "bayes_accuracy1": bayes_accuracy(image),
        "bayes_accuracy2": bayes_accuracy(clip),
        "posterior_cka": posterior_cka(joint),
    }


def posterior_cka(joint: Float[np.ndarray, "x1 x2 c"]) -> float | None:
    """Linear CKA of p(y | x1) and p(y | x2) over p(x1, x2): the alignment of two encoders that know nothing else.

    Symmetric, in [0, 1]; higher is more aligned.

    Args:
        joint: p(x1, x2, y), every x1 and x2 possible.

    Returns:
        The score; None where a source tells nothing of y, so that its posterior is constant.

    Example:
        >>> posterior_cka(label_table(0)), posterior_cka(label_table(6))
        (1.0, None)
    """
    pairs = joint.sum(axis=2)
    weights = pairs.sum(axis=1), pairs.sum(axis=0)
    first, second = (joint.sum(axis=1 - side) / weights[side][:, None] for side in (0, 1))
    first, second = first - weights[0] @ first, second - weights[1] @ second
    own = [
        np.linalg.norm(side.T @ (weight[:, None] * side)) for side, weight in zip((first, second), weights, strict=True)
    ]
    if min(own) < 1e-12:
        return None
    return round(float(np.linalg.norm(first.T @ pairs @ second) ** 2 / (own[0] * own[1])), 12)


def dial_table(models: "pl.DataFrame", alignment: "pl.DataFrame", speakers: int) -> "pl.DataFrame":
    """Every position of the dial: what is exact beside what was measured.

    Args:
        models: One row an encoder.
        alignment: One row a speech encoder, layer and metric.
        speakers: All of them.

    Returns:
        One row a position, with the columns of `dial_row`, and of each metric its mean over trained speech encoders,
        each by its best layer (`cka_debiased`), the least and greatest of them (`cka_debiased_low`, `_high`), and the
        mean before training (`cka_debiased_initial`); mean accuracies `accuracy1` and `accuracy2`; `models`, the speech
        encoders; `n` test rows; `k` neighbours.
    """
    import polars as pl

    value = pl.col("value")
    best = best_of_encoders(models, alignment)
    rows = pl.DataFrame([dial_row(named, speakers) for named in range(speakers + 1)], infer_schema_length=None)
    for (metric,), part in best.group_by("metric", maintain_order=True):
        scores = {str(metric): value.mean(), f"{metric}_low": value.min(), f"{metric}_high": value.max()}
        initial = part.filter(stage="initial")["value"].mean()
        measured = part.filter(stage="trained").group_by("label").agg(**scores)
        rows = rows.join(measured, on="label", how="left", maintain_order="left")
        rows = rows.with_columns(pl.lit(initial, pl.Float64).alias(f"{metric}_initial"))
    for modality in (0, 1):
        of = (
            models.filter(modality=modality)
            .group_by("label")
            .agg(pl.col("accuracy").mean().alias(f"accuracy{modality + 1}"))
        )
        rows = rows.join(of, on="label", how="left", maintain_order="left")
    counts = models.filter(modality=1).group_by("label").agg(models=pl.len().cast(pl.Int64))
    rows = rows.join(counts, on="label", how="left", maintain_order="left")
    return rows.with_columns(n=pl.lit(alignment["n"].max(), pl.Int64), k=pl.lit(alignment["k"].max(), pl.Int64))


def best_of_encoders(models: "pl.DataFrame", alignment: "pl.DataFrame") -> "pl.DataFrame":
    """Each speech encoder's most aligned layer by each metric, beside its accuracy.

    Args:
        models: One row an encoder.
        alignment: One row a speech encoder, layer and metric.

    Returns:
        One row an encoder, stage and metric: `value` of the best layer `layer1` (the first of equals), and for trained
        ones `accuracy`. An encoder of which no layer has a value is left out.
    """
    import polars as pl

    rows = alignment.filter(pl.col("value").is_not_null())
    best = (
        rows.sort("value", descending=True, maintain_order=True)
        .group_by(*MODEL, "stage", "metric", maintain_order=True)
        .agg(pl.col("value", "layer1").first())
    )
    scores = models.filter(modality=1).select("label", "depth", "seed", "accuracy")
    joined = best.join(scores, on=["label", "depth", "seed"], how="left")
    return joined.sort("stage", "metric", "named", "depth", "seed")


def correlations(models: "pl.DataFrame", alignment: "pl.DataFrame", dial: "pl.DataFrame") -> "pl.DataFrame":
    """Correlations over trained speech encoders: at each position of the dial, and of alignment with what is exact.

    Args:
        models: One row an encoder.
        alignment: One row a speech encoder, layer and metric.
        dial: From `dial_table`.

    Returns:
        One row a metric, coefficient and pair of quantities `x`, `y`. At a position (`label`): alignment, depth and
        accuracy, within the encoders of a seed, the interval over depths. Over all (`label` ""): alignment with the
        redundancy of the position, within seeds and depths, the interval over positions. No coefficient from fewer than
        LEAST_MODELS encoders; `note` says why one, or its interval, is missing.
    """
    import polars as pl

    best = best_of_encoders(models, alignment).filter(stage="trained").rename({"value": "alignment"})
    best = best.join(dial.select("label", redundancy="broja_redundancy"), on="label", how="left")
    rows: list[dict[str, Any]] = []
    for (metric,), of_metric in best.group_by("metric", maintain_order=True):
        for (label,), part in of_metric.group_by("label", maintain_order=True):
            for x, y in _RELATIONS:
                rows += _coefficients(part, {"label": label, "metric": metric, "x": x, "y": y}, "depth", ["seed"])
        whole = {"label": "", "metric": metric, "x": "redundancy", "y": "alignment"}
        rows += _coefficients(of_metric, whole, "named", ["seed", "depth"])
    trained = models.filter(modality=1)
    for (label,), part in trained.group_by("label", maintain_order=True):
        rows += _coefficients(part, {"label": label, "metric": "", "x": "depth", "y": "accuracy"}, "depth", ["seed"])
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.with_columns(pl.col("value", "low", "high", "p").cast(pl.Float64))


def _coefficients(
    rows: "pl.DataFrame", keys: dict[str, Any], clusters: str, blocks: list[str]
) -> Iterator[dict[str, Any]]:
    """Both coefficients of the quantities that the keys name."""
    for method in METHODS:
        count = rows[clusters].n_unique()
        found = Clustered(None, None, None, None, len(rows), count, f"fewer than {LEAST_MODELS} encoders")
        if len(rows) >= LEAST_MODELS:
            found = clustered_correlation(
                rows[keys["x"]].to_numpy().astype(float),
                rows[keys["y"]].to_numpy().astype(float),
                rows[clusters].to_numpy(),
                blocks=rows.select(blocks).to_struct("block").rank("dense").to_numpy(),
                method=method,
            )
        yield {
            **keys,
            "method": method,
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "p": found.p,
            "n": found.n,
            "clusters": found.clusters,
            "clustered_by": clusters,
            "within": " and ".join(blocks),
            "note": found.note,
        }
