"""Which part of a label's information moves alignment: maxima of several generators over redundancy and the others."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, get_type_hints

import numpy as np
from jaxtyping import Bool, Float

from featcache.metrics.certainty.clustered import LEAST_CLUSTERS, clustered_estimate
from featcache.studies.emergence.synthetic.written import DECOMPOSITIONS

if TYPE_CHECKING:
    import polars as pl

PARTS = ("redundancy", "unique", "synergy")
_LEAST = 0.05  # of the largest singular value: below it parts are not told apart
METRICS = ("cka_clipped", "cka_population", "mutual_knn")


@dataclass(frozen=True)
class PartSlope:
    """How the maximum alignment changes with one part, the other two held fixed.

    Args:
        metric: Of alignment.
        decomposition: "broja", "common" or "i_min".
        part: "redundancy", "unique" (both sides) or "synergy".
        value: Slope of the plane of least squares, per nat.
        low: Lower end of the 95 % interval, over generators.
        high: Upper end.
        p: Two-sided, of a slope of 0.
        tables: Label tables, of all generators.
        generators: Clusters of the interval.
        note: Why there is no slope or no interval, or "".
    """

    metric: str
    decomposition: str
    part: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    tables: int
    generators: int
    note: str


def part_slopes(maxima: "Sequence[pl.DataFrame]") -> "pl.DataFrame":
    """Slopes of the maximum alignment over redundancy, unique information and synergy, over several generators.

    One generator cannot tell the parts apart: with U all three change together. Generators that turn one dial each can.
    Maps of the second modality have each a constant of their own. Label tables of one generator are not taken to be
    independent: the interval leaves out one generator at a time.

    Args:
        maxima: From `featcache.studies.emergence.questions.maxima`, of any number of studies.

    Returns:
        The rows of `PartSlope`; none of fewer than 4 generators.
    """
    import polars as pl

    names = {str: pl.String, int: pl.Int64}
    schema = {name: names.get(kind, pl.Float64) for name, kind in get_type_hints(PartSlope).items()}
    columns = ["generator", "uniqueness", "phi_depth", "metric", "value"]
    columns += [f"{name}_{part}" for name in DECOMPOSITIONS for part in PARTS]
    every = pl.concat([table.select(columns) for table in maxima]) if maxima else pl.DataFrame()
    if every.is_empty() or every["generator"].n_unique() < LEAST_CLUSTERS:
        return pl.DataFrame(schema=schema)
    slopes = [
        slope
        for metric in METRICS
        for decomposition in DECOMPOSITIONS
        for slope in _slopes(every.filter(metric=metric).drop_nulls(), metric, decomposition)
    ]
    return pl.DataFrame([asdict(slope) for slope in slopes], schema=schema)


def _slopes(rows: "pl.DataFrame", metric: str, decomposition: str) -> list[PartSlope]:
    if rows["generator"].n_unique() < LEAST_CLUSTERS:
        return []
    design = rows.select(f"{decomposition}_{part}" for part in PARTS).to_numpy()
    maps = np.unique(rows["phi_depth"].to_numpy(), return_inverse=True)[1]
    y, generators = rows["value"].to_numpy(), rows["generator"].to_numpy()
    tables = rows.select("generator", "uniqueness").n_unique()
    found: list[PartSlope] = []
    for place, part in enumerate(PARTS):

        def statistic(kept: Bool[np.ndarray, " n"], place: int = place) -> float:
            return plane(design[kept], y[kept], maps[kept])[place]

        one = clustered_estimate(statistic, generators)
        ends = {"value": one.value, "low": one.low, "high": one.high, "p": one.p}
        note = "the tables do not tell the parts apart" if one.value is None else one.note
        found.append(PartSlope(metric, decomposition, part, **ends, tables=tables, generators=one.clusters, note=note))
    return found


def plane(design: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"], maps: np.ndarray) -> Float[np.ndarray, " p"]:
    """Slopes of least squares over some columns with a constant for each map; NaN where they are hardly determined.

    Parts whose sum is the same everywhere cannot be told apart: a direction in which they vary by less than a twentieth
    of what they vary by in another determines no slope.

    Example:
        >>> design = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> plane(design, 2 * design[:, 0] - design[:, 1] + 5, np.zeros(4, int)).round(6).tolist()
        [2.0, -1.0]
    """
    of = np.unique(maps, return_inverse=True)[1]
    counts = np.bincount(of)

    def within(values: np.ndarray) -> np.ndarray:
        return values - (np.bincount(of, weights=values) / counts)[of]

    columns = np.stack([within(column) for column in design.T], axis=1)
    sizes = np.linalg.svd(columns, compute_uv=False)
    if sizes[-1] <= _LEAST * sizes[0]:
        return np.full(design.shape[1], math.nan)
    return np.linalg.lstsq(columns, within(y), rcond=None)[0]
