"""Alignment of single layers of trained encoders in the convention of Tjandrasuwita et al. 2025."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from featcache.metrics.errors import ConstantSpace, ZeroRow
from featcache.metrics.preparation import clamped, outlier_threshold
from featcache.metrics.table import chosen


@dataclass(frozen=True, eq=False)
class ReleasedLayer:
    """A layer made ready once for all that it is compared with.

    Args:
        rows: How many.
        k: Neighbours of mutual_knn.
        spaces: Metric -> the prepared rows; None where the layer is constant or has zero rows.
    """

    rows: int
    k: int
    spaces: Mapping[str, Any]


def released_layer(x: Float[np.ndarray, "n d"], *, k: int, quantile: float = 1.0) -> ReleasedLayer:
    """Prepares a layer: entries clamped at a quantile of their size, rows brought to length 1.

    Args:
        x: [n, d].
        k: Neighbours of mutual_knn.
        quantile: Share of entries that stay, exact; 1 clamps none.

    Raises:
        MetricError: If rows are not finite, or not enough for k.
    """
    rows, spaces = released_rows(x, quantile), dict[str, Any]()
    constant = bool((rows == rows[:1]).all())
    for name, comparison in _comparisons(k).items():
        try:
            spaces[name] = None if constant else comparison.prepare(rows)
        except (ConstantSpace, ZeroRow):
            spaces[name] = None
    return ReleasedLayer(len(rows), k, spaces)


def released_scores(a: ReleasedLayer, b: ReleasedLayer) -> dict[str, float | None]:
    """Alignment of two layers on the same rows.

    Returns:
        cka_debiased: linear, unbiased; None where a layer is constant. cka_clipped: 0 where that is below 0 or a layer
        is constant, as the authors' code has it. mutual_knn: None where a layer is constant or has zero rows.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((40, 3))
        >>> scores = released_scores(released_layer(x, k=5), released_layer(2 * x, k=5))
        >>> {name: round(score, 6) for name, score in scores.items()}
        {'cka_clipped': 1.0, 'cka_debiased': 1.0, 'mutual_knn': 1.0}

    Source:
        Tjandrasuwita et al., ICML 2025, arXiv:2502.16282, and its code, multimodal_alignment at 20f2286.
    """
    scores: dict[str, float | None] = {}
    for name, comparison in _comparisons(a.k).items():
        x, y = a.spaces[name], b.spaces[name]
        try:
            scores[name] = None if x is None or y is None else float(comparison.compare(x, y))
        except ConstantSpace:
            scores[name] = None
    return {"cka_clipped": max(0.0, scores["cka_debiased"] or 0.0), **scores}


def released_rows(x: Float[np.ndarray, "n d"], quantile: float = 1.0) -> Float[np.ndarray, "n d"]:
    """A layer's rows as they are compared: entries clamped at their exact quantile, then rows of length 1.

    Example:
        >>> released_rows(np.array([[3.0, 4.0], [0.0, -9.0]]), 0.5).tolist()
        [[0.6, 0.8], [0.0, -1.0]]
    """
    threshold = outlier_threshold(x, q=quantile, how="exact") if quantile < 1 else None
    return unit_rows(np.asarray(x if threshold is None else clamped(x, threshold), np.float64))


def unit_rows(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def _comparisons(k: int) -> dict[str, Any]:
    return {"cka_debiased": chosen("cka_debiased")[1], "mutual_knn": chosen("mutual_knn", k=k)[1]}
