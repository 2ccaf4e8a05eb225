"""Steps of a stacked optimiser at a share of its learning rates."""

import torch

from featcache.trainer.ensembles.flat import StackedAdamW
from featcache.trainer.optimizer import learning_rate


@torch.no_grad()
def cosine_step(optimizer: StackedAdamW, steps: int) -> None:
    """One step of every member at the learning rate that its own has fallen to along a cosine to 0.

    Args:
        optimizer: Its steps so far say where on the cosine it is.
        steps: Of the whole training.
    """
    values = optimizer.parameters.values
    share, before = learning_rate(optimizer.steps, steps, 1.0, 0.0), values.clone()
    optimizer.step()
    values.copy_(before.lerp_(values, share))  # AdamW's step, decay included, is linear in its learning rate
