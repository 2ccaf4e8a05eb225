"""The law of depths: is a score a function of the encoder's depth minus that of the map of its modality?"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.certainty.clustered import Clustered, crossed_estimate
from featcache.studies.emergence.questions.maxima import RELEASED
from featcache.studies.emergence.synthetic.written import SETTING

if TYPE_CHECKING:
    import polars as pl

Design = Callable[[Int[np.ndarray, " n"], Int[np.ndarray, " n"]], Float[np.ndarray, "n p"]]
OUTCOMES = ("accuracy", "test_accuracy", "alignment")


def _levels(values: np.ndarray) -> np.ndarray:
    return (values[:, None] == np.unique(values)[None, 1:]).astype(float)


# by depth of the encoder and of the map; the constant comes on top
DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        "line in the difference": lambda depth, phi: (depth - phi)[:, None].astype(float),
        "plane in both": lambda depth, phi: np.stack([depth, phi], axis=1).astype(float),
        "any function of the difference": lambda depth, phi: _levels(depth - phi),
        "any function of each, added": lambda depth, phi: np.hstack([_levels(depth), _levels(phi)]),
        "any function of the encoder's depth": lambda depth, phi: _levels(depth),
        "any function of the map's depth": lambda depth, phi: _levels(phi),
    }
)


_WEIGHTS = {"encoder": (1.0, 0.0), "map": (0.0, 1.0), "difference": (0.5, -0.5), "sum": (0.5, 0.5)}


@dataclass(frozen=True)
class DepthLaw:
    """A score of models of one U explained by two depths.

    Args:
        generator: Of the modalities.
        width: Of the encoders.
        architecture: Of the encoders.
        uniqueness: U of the label table.
        outcome: "accuracy", "test_accuracy" or "alignment" (the released metric).
        term: "difference": slope over encoder's depth minus map's depth at a fixed sum; "sum": slope over their sum at
            a fixed difference, 0 if the law holds; "encoder" and "map": the slopes over each depth; or a design, whose
            value is the share of variance that it explains, adjusted for its parameters.
        value: The slope per layer, or the adjusted R².
        low: Lower end of the slope's 95 % interval.
        high: Upper end.
        p: Two-sided, of a slope of 0.
        models: That were fitted.
        parameters: Of the design, without the constant.
        note: Why there is no value or no interval, or "".
    """

    generator: str
    width: int
    architecture: str
    uniqueness: int
    outcome: str
    term: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    models: int
    parameters: int
    note: str


def depth_law(best: "pl.DataFrame") -> "pl.DataFrame":
    """Slopes over the difference and the sum of both depths, with intervals, and what each of several designs explains.

    The law says that only the difference counts: a slope over the sum is evidence against it, and a design that knows
    both depths then explains more than any function of the difference. Neither is assumed.

    Args:
        best: From `featcache.studies.emergence.questions.maxima.best_of_models`.

    Returns:
        The rows of `DepthLaw`.
    """
    import polars as pl

    kinds = {"str": pl.String, "int": pl.Int64}
    schema = {
        name: next((kind for word, kind in kinds.items() if word in str(each.type)), pl.Float64)
        for name, each in DepthLaw.__dataclass_fields__.items()
    }
    rows: list[DepthLaw] = []
    own = best.filter(metric=RELEASED).with_columns(alignment="value")
    for key, part in own.group_by(*SETTING, "uniqueness", maintain_order=True):
        named = dict(zip((*SETTING, "uniqueness"), key, strict=True))
        for outcome in OUTCOMES:
            rows += _of_outcome(part, named | {"outcome": outcome})
    return pl.DataFrame([asdict(row) for row in rows], schema=schema)


def _of_outcome(part: "pl.DataFrame", named: dict[str, Any]) -> Iterator[DepthLaw]:
    y = part[named["outcome"]].to_numpy().astype(float)
    depth, phi = (part[name].to_numpy() for name in ("depth", "phi_depth"))
    for term in _WEIGHTS:
        found = slope(depth, phi, y, term)
        yield DepthLaw(**named, term=term, value=found.value, low=found.low, high=found.high, p=found.p,
                       models=len(y), parameters=2, note=found.note)  # fmt: skip
    for name, design in DESIGNS.items():
        columns = design(depth, phi)
        share = adjusted_share(columns, y)
        note = "as many parameters as models" if share is None else ""
        yield DepthLaw(**named, term=name, value=share, low=None, high=None, p=None, models=len(y),
                       parameters=int(np.linalg.matrix_rank(columns - columns.mean(axis=0))), note=note)  # fmt: skip


def slope(depth: Int[np.ndarray, " n"], phi: Int[np.ndarray, " n"], y: Float[np.ndarray, " n"], term: str) -> Clustered:
    """Slope of a score over one of the two depths, their difference or their sum, in the plane of least squares.

    Both the depths of the encoders and those of the maps are taken for draws: what all models of one depth, or all of
    one map, have in common widens the interval.

    Args:
        depth: Of each model's encoder.
        phi: Of the map of its modality.
        y: Its score.
        term: "encoder", "map", "difference" (half the slope over encoder minus map) or "sum" (half their sum).

    Returns:
        The slope per layer, over depths and maps.

    Example:
        >>> depth, phi = (each.ravel() for each in np.meshgrid(np.arange(1, 6), np.arange(1, 6)))
        >>> noise = np.random.default_rng(0).normal(0, 0.01, 25)
        >>> [round(slope(depth, phi, 0.1 * (depth - phi) + noise, term).value, 2) for term in ("difference", "sum")]
        [0.1, 0.0]
    """
    return crossed_estimate(lambda kept: plane_slope(depth[kept], phi[kept], y[kept], term), depth, phi)


def plane_slope(
    depth: Int[np.ndarray, " n"], phi: Int[np.ndarray, " n"], y: Float[np.ndarray, " n"], term: str
) -> float:
    """The slope of `slope` alone; NaN where the models do not determine the plane.

    Example:
        >>> depth, phi = np.array([1, 2, 1, 2]), np.array([1, 1, 2, 2])
        >>> round(plane_slope(depth, phi, np.array([0.0, 1.0, -1.0, 0.0]), "difference"), 6)
        1.0
    """
    columns = np.stack([np.ones(len(y)), depth, phi], axis=1)
    slopes, _, rank, _ = np.linalg.lstsq(columns, y, rcond=None)
    return float(slopes[1:] @ _WEIGHTS[term]) if rank == 3 else math.nan


def share_gap(depth: Int[np.ndarray, " n"], phi: Int[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Adjusted share of variance that any function of the difference explains, less that of functions of each, added.

    About 0 where only the difference counts and the score is linear in it; below 0 where a depth counts for itself.

    Args:
        depth: Of each model's encoder.
        phi: Of the map of its modality.
        y: Its score.

    Returns:
        The gap; NaN where a design has as many parameters as there are models.

    Example:
        >>> depth, phi = (each.ravel() for each in np.meshgrid(np.arange(1, 8), np.arange(1, 6)))
        >>> round(share_gap(depth, phi, 0.1 * (depth - phi)), 3), share_gap(depth, phi, 1.0 * depth) < -0.3
        (0.0, True)
    """
    law, free = (
        adjusted_share(DESIGNS[name](depth, phi), y)
        for name in ("any function of the difference", "any function of each, added")
    )
    return math.nan if law is None or free is None else law - free


def adjusted_share(columns: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"]) -> float | None:
    """Share of variance that a design with a constant explains, adjusted for its parameters; None if it fits anything.

    Args:
        columns: The design, without the constant.
        y: What is explained.

    Example:
        >>> x = np.arange(8.0)
        >>> adjusted_share(x[:, None], 2 * x + 1)
        1.0
    """
    n = len(y)
    centred = columns - columns.mean(axis=0)
    rank = int(np.linalg.matrix_rank(centred))
    total = float(((y - y.mean()) ** 2).sum())
    if n - rank - 1 < 1 or not total:
        return None
    left = y - y.mean() - centred @ np.linalg.lstsq(centred, y - y.mean(), rcond=None)[0]
    return 1.0 - float((left**2).sum()) / total * (n - 1) / (n - rank - 1)
