"""Gaussian noise with the spectrum of given features."""

import numpy as np

from featcache.metrics.arrays import X, as_float64, float32_like
from featcache.metrics.combine import Mixed
from featcache.metrics.errors import BadChoice, TooFewRows


def spectrum_noise(x: X, *, seed: int) -> Mixed:
    """Gaussian rows with exactly the mean and the covariance of some features: what their spectrum alone is worth.

    The centred features are U S V^T; U is replaced by random orthonormal columns (those of a centred Gaussian matrix),
    so that singular values, axes, mean and its length stay, and which row lies where is chance. Scores that are blind
    to rotations do not depend on V.

    Args:
        x: Features [n, d], two rows or more.
        seed: Of the draw, 0 or more; features of two spaces take two, or their noise is alike.

    Returns:
        [n, d] float32, of x's kind and on its device.

    Raises:
        BadShape, BadDtype, NotFinite: As `mutual_knn`.
        TooFewRows: Below two rows.
        BadChoice: If the seed is negative.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3)) * [1.0, 5.0, 0.1] + 2
        >>> noise = spectrum_noise(x, seed=0)
        >>> bool(np.allclose(np.cov(noise.T), np.cov(x.T), atol=1e-5)), bool(np.allclose(noise, x))
        (True, False)
    """
    values = as_float64(x)
    n, d = values.shape
    if n < 2:
        raise TooFewRows(f"wanted at least 2 rows, got {n}")
    if seed < 0:
        raise BadChoice(f"seed = {seed}: wanted 0 or more")
    mean = values.mean(axis=0)
    _, sizes, axes = np.linalg.svd(values - mean, full_matrices=False)
    rank = min(n - 1, d)  # centring takes one dimension away
    draw = np.random.default_rng(seed).standard_normal((n, rank))
    places, turned = np.linalg.qr(draw - draw.mean(axis=0))
    places = places * np.sign(np.diagonal(turned))  # without this, QR's columns are not uniform
    return float32_like((places * sizes[:rank]) @ axes[:rank] + mean, x)
