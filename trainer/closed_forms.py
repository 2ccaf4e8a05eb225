"""Closed forms that map several views of the same samples into one space, in float64: Procrustes, CCA, ridge."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A view by its principal axes.

    Args:
        values: [r] eigenvalues of its covariance, falling; none is negative.
        axes: [d, r] eigenvectors.
        scores: [n, r] coordinates of the samples.
    """

    values: Float[Array, " r"]
    axes: Float[Array, "d r"]
    scores: Float[Array, "n r"]


def spectrum(x: Float[Array, "n d"]) -> Spectrum:
    """Principal axes of the rows, which are taken as centred."""
    values, axes = np.linalg.eigh(x.T @ x / len(x))
    values, axes = np.maximum(values[::-1], 0), np.ascontiguousarray(axes[:, ::-1])
    return Spectrum(values, axes, x @ axes)


def procrustes(views: Sequence[Spectrum], dimensions: int) -> list[Float[Array, "d k"]]:
    """Orthogonal Procrustes in principal components: each view is rotated onto the first.

    The views are reduced to their first components, rows brought to unit length (each sample counts once), and the
    rotation R minimises |Z R - Z_first|: R = U V^T of the singular value decomposition of Z^T Z_first.

    Args:
        views: Of the same samples.
        dimensions: Components, at most the rank of each.

    Returns:
        A map of each view into the first one's components; of the first, its own axes.

    Source:
        Schönemann 1966, Psychometrika 31:1; with reduced unit rows as Artetxe et al. 2018, AAAI.
    """
    rows = [_unit(view.scores[:, :dimensions]) for view in views]
    maps = [views[0].axes[:, :dimensions]]
    for view, own in zip(views[1:], rows[1:], strict=True):
        u, _, vt = np.linalg.svd(own.T @ rows[0])
        maps.append(view.axes[:, :dimensions] @ (u @ vt))
    return maps


@dataclass(frozen=True, eq=False)
class Canonical:
    """Canonical directions of several views.

    Args:
        maps: Of each view, [d, r]: directions in falling order of correlation.
        correlations: [r] regularised canonical correlations, falling; of more than two views their mean.
    """

    maps: list[Float[Array, "d r"]]
    correlations: Float[Array, " r"]

    def take(self, dimensions: int, *, weighted: bool) -> list[Float[Array, "d k"]]:
        """The first directions, weighted by the square roots of their correlations or not."""
        weights = np.sqrt(np.clip(self.correlations[:dimensions], 0, None)) if weighted else 1.0
        return [directions[:, :dimensions] * weights for directions in self.maps]


def cca(views: Sequence[Spectrum], regularization: float, dimensions: int) -> Canonical:
    """Regularised canonical correlation analysis, of more than two views in its MAXVAR form.

    With C_ij the covariance of views i and j, C_ii has the regularisation added to its diagonal. The directions of two
    views are C_11^-1/2 U and C_22^-1/2 V of the singular value decomposition of C_11^-1/2 C_12 C_22^-1/2. Of more, they
    come from the leading eigenvectors of the block matrix of these; of two, that would be the same.

    Args:
        views: Of the same samples.
        regularization: Above 0, in the units of the views' variance.
        dimensions: Directions, at most the rank of each view.

    Source:
        Vinod 1976 (regularised); Kettenring 1971, Biometrika 58:3 (MAXVAR).
    """
    whitened = [view.axes / np.sqrt(view.values + regularization) for view in views]
    scores = [view.scores / np.sqrt(view.values + regularization) for view in views]
    n = len(scores[0])
    if len(views) == 2:
        u, correlations, vt = np.linalg.svd(scores[0].T @ scores[1] / n, full_matrices=False)
        maps = [whitened[0] @ u[:, :dimensions], whitened[1] @ vt[:dimensions].T]
        return Canonical(maps, correlations[:dimensions])
    together = np.concatenate(scores, axis=1)
    blocks = together.T @ together / n
    start = 0
    for own in scores:  # a view's correlation with itself says nothing
        blocks[start : start + own.shape[1], start : start + own.shape[1]] = 0
        start += own.shape[1]
    values, vectors = np.linalg.eigh(blocks)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    parts = np.split(vectors, np.cumsum([own.shape[1] for own in scores])[:-1])
    maps = [basis @ part for basis, part in zip(whitened, parts, strict=True)]
    return Canonical(maps, values / (len(views) - 1))


def ridge(
    view: Spectrum, target: Float[Array, "n t"], penalty: float
) -> tuple[Float[Array, "d t"], Float[Array, " t"]]:
    """Ridge regression of a centred target on a view: minimises |X W - T|^2 / n + penalty |W|^2.

    Returns:
        W, and the mean of the target, which a prediction adds.
    """
    mean = target.mean(axis=0)
    inner = view.scores.T @ (target - mean) / len(target)
    return view.axes @ (inner / (view.values + penalty)[:, None]), mean


def _unit(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
