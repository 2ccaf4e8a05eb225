"""Seeds of the streams of random numbers of a training, one a purpose, so that none moves what another draws."""

from typing import Literal, get_args

import numpy as np

Purpose = Literal["weights", "draws", "control", "subset", "apart"]  # a new one goes to the end
PURPOSES: tuple[str, ...] = get_args(Purpose)


def stream_seed(seed: int, purpose: Purpose) -> int:
    """The seed of one purpose of a training with a seed: weights, draws, wrong pairs, its subset, sides apart.

    Example:
        >>> stream_seed(0, "weights") == int(np.random.SeedSequence(0).generate_state(1)[0])
        True
    """
    place = PURPOSES.index(purpose)
    return int(np.random.SeedSequence(seed).generate_state(place + 1)[place])
