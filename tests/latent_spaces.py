"""Two spaces of one latent, for tests of metrics."""

import numpy as np


def spaces(n=60, dx=7, dy=5, seed=0):
    """Two noisy views of one latent, off the origin."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 3))
    return tuple(
        z @ rng.standard_normal((3, d)) + rng.standard_normal((n, d)) + rng.standard_normal(d) for d in (dx, dy)
    )
