"""How much the spaces of a run agree with each other, at every milestone, and the plane that shows it."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.space import Space
from featcache.studies.adapters.pictures.maps import principal_plane
from featcache.studies.adapters.pictures.milestones import Stages
from featcache.trainer.tracking import alignment_settings

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[np.float64]
_STARTS, _MOVED = 16, 1.0  # starts of majorisation, and how far they are moved, in standard deviations
_STEPS, _CONVERGED = 1_000, 1e-9  # of one, and the relative decrease of squared stress at which it ends


def agreement_table(stages: Stages) -> "pl.DataFrame":
    """Mutual k-NN of every two spaces of the test groups, as the run's metrics have it: each pair once.

    Returns:
        Columns a, a_epoch, b, b_epoch, value. Spaces are "raw <side>", "reference" (without an epoch), and at every
        milestone each side, which is its adapted rows, and "joint".
    """
    import polars as pl

    spaces = _every_space(stages)
    named = {f"{name}@{epoch}": space for (name, epoch), space in spaces.items()}
    places = dict(zip(named, spaces, strict=True))
    settings = replace(alignment_settings(stages.fitted.config), metrics=("mutual_knn",))
    rows = measure(named, None, settings).rows
    ends = [(*places[row.space], *places[row.against], row.value) for row in rows]
    types = {"a": pl.String, "a_epoch": pl.Int64, "b": pl.String, "b_epoch": pl.Int64, "value": pl.Float64}
    return pl.DataFrame(ends, schema=types, orient="row")


def space_table(agreement: "pl.DataFrame", chance: float) -> "pl.DataFrame":
    """A plane of the spaces whose distances are as near as may be to −log of their agreement.

    Agreement is floored at chance, so that the logarithm is finite and unrelated spaces are equally far apart.

    Args:
        agreement: From `agreement_table`.
        chance: Agreement of unrelated spaces, k / (n - 1), above 0.

    Returns:
        Columns space, epoch, px, py, and stress (of the whole plane, as `metric_plane`).

    Source: Huh et al. 2024, arXiv:2405.07987, figure 2 (the distance; they draw it by UMAP).
    """
    import polars as pl

    rows = agreement.select("a", "a_epoch", "b", "b_epoch", "value").rows()
    first = rows[0][:2]
    places = [first, *(row[2:4] for row in rows if row[:2] == first)]
    numbers = {place: number for number, place in enumerate(places)}
    distances = np.zeros((len(places), len(places)))
    for row in rows:
        ends = numbers[row[:2]], numbers[row[2:4]]
        distances[ends] = distances[ends[::-1]] = -np.log(min(max(row[4], chance), 1.0))
    points, stress = metric_plane(distances)
    drawn = [(*place, *point, stress) for place, point in zip(places, points.tolist(), strict=True)]
    types = {"space": pl.String, "epoch": pl.Int64, "px": pl.Float64, "py": pl.Float64, "stress": pl.Float64}
    return pl.DataFrame(drawn, schema=types, orient="row")


def metric_plane(distances: Float[Array, "n n"]) -> tuple[Float[Array, "n 2"], float]:
    """Points of the plane whose distances are near the given ones: metric multidimensional scaling.

    Classical scaling begins, and majorisation (SMACOF) lowers the stress until it no longer falls; the best of 16
    starts, 15 of them moved at random by a fixed seed, since a point that lies behind a line of others stays there.
    Centred and turned onto the principal axes; signs as `principal_plane`. Deterministic.

    Args:
        distances: Symmetric, 0 on the diagonal.

    Returns:
        The points, and Kruskal's stress-1: the root of the squared errors of all distances over the squared distances
        of the plane; 0 where it shows every distance as it is, above .2 poor.

    Example:
        >>> points, stress = metric_plane(np.array([[0.0, 3.0, 5.0], [3.0, 0.0, 4.0], [5.0, 4.0, 0.0]]))
        >>> round(float(np.linalg.norm(points[0] - points[2])), 6), round(stress, 6)
        (5.0, 0.0)

    Source: Torgerson 1952, Psychometrika 17 (classical scaling); de Leeuw 1977 (SMACOF); Kruskal 1964, Psychometrika 29
    (stress).
    """
    if not distances.any():
        return np.zeros((len(distances), 2)), 0.0
    classical = _classical_plane(distances)
    rng = np.random.default_rng(0)
    moved = [_MOVED * classical.std() * rng.standard_normal(classical.shape) for _ in range(_STARTS - 1)]
    tried = [_majorised(distances, start) for start in (classical, *(classical + by for by in moved))]
    points = min(tried, key=lambda each: each[1])[0]  # the first of equals
    drawn = _distances(points)
    return principal_plane(points), float(np.sqrt(((drawn - distances) ** 2).sum() / (drawn**2).sum()))


def _majorised(distances: Array, points: Array) -> tuple[Array, float]:
    """The points moved until their squared errors no longer fall, and what is left of them."""
    stress = np.inf
    for _ in range(_STEPS):
        drawn, before = _distances(points), stress
        stress = float(((drawn - distances) ** 2).sum())
        if before - stress <= _CONVERGED * stress:
            break
        ratio = np.divide(distances, drawn, out=np.zeros_like(drawn), where=drawn > 0)
        # the Guttman transform: the diagonal of B is minus the sum of its row
        points = (ratio.sum(axis=1)[:, None] * points - ratio @ points) / len(points)
    return points, stress


def _classical_plane(distances: Array) -> Array:
    """Torgerson: the two leading axes of the doubly centred squared distances."""
    centred = distances**2 - (distances**2).mean(axis=0)
    gram = -(centred - centred.mean(axis=1, keepdims=True)) / 2
    values, vectors = np.linalg.eigh(gram)
    return vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))


def _distances(points: Array) -> Array:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def _every_space(stages: Stages) -> dict[tuple[str, int | None], Space]:
    spaces: dict[tuple[str, int | None], Space] = {(name, None): space for name, space in stages.fixed.items()}
    for name in (*stages.test.paired.sides, "joint"):
        spaces |= {(name, epoch): stages.adapted(epoch)[name] for epoch in stages.embedded}
    return spaces
