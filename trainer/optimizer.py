"""AdamW with warm-up and cosine decay, as plain tensor operations."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """AdamW over two sets of weights, decayed and not.

    torch.optim.AdamW gives the same steps (a test compares them), but constructing it imports the compiler, which costs
    more than a whole training run here.

    Args:
        decayed: Weights under weight decay.
        plain: Weights without it (biases, temperature).
        weight_decay: Decoupled decay, times the learning rate, a step.
        clip: Norm of all gradients together that they are scaled down to; None leaves them.

    Source:
        Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self, decayed: Iterable[Tensor], plain: Iterable[Tensor], weight_decay: float, clip: float | None = None
    ) -> None:
        self._decayed = list(decayed)
        self._weights = self._decayed + list(plain)
        self._weight_decay = weight_decay
        self._clip = clip
        self._first = [torch.zeros_like(weight) for weight in self._weights]
        self._second = [torch.zeros_like(weight) for weight in self._weights]
        self._steps = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Applies the gradients with learning rate `lr`, then drops them.

        A weight without a gradient keeps its value.
        """
        self._steps += 1
        if self._clip is not None:
            self._scale_gradients(self._clip)
        correction1 = 1 - _BETA1**self._steps
        correction2 = math.sqrt(1 - _BETA2**self._steps)
        for weight in self._decayed:
            if weight.grad is not None:
                weight.mul_(1 - lr * self._weight_decay)
        for weight, first, second in zip(self._weights, self._first, self._second, strict=True):
            if weight.grad is None:
                continue
            first.lerp_(weight.grad, 1 - _BETA1)
            second.mul_(_BETA2).addcmul_(weight.grad, weight.grad, value=1 - _BETA2)
            weight.addcdiv_(first, (second.sqrt() / correction2).add_(_EPSILON), value=-lr / correction1)
            weight.grad = None

    def _scale_gradients(self, largest: float) -> None:
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm() if gradients else torch.zeros(())
        factor = (largest / norm.clamp(min=largest)).to(norm)  # 1 where the norm is below
        for gradient in gradients:
            gradient.mul_(factor)


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Learning rate of one step: linear rise over the first share `warmup` of the steps, then a cosine to zero.

    Args:
        step: Number of the step, from 0.
        steps: Steps of the whole run.
        peak: Highest rate.
        warmup: Share of the steps that rise, in [0, 1).

    Example:
        >>> [round(learning_rate(step, 4, 1.0, 0.25), 3) for step in range(4)]
        [1.0, 1.0, 0.75, 0.25]
    """
    warm = round(warmup * steps)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def rising(step: int, steps: int, warmup: float) -> float:
    """Linear rise to 1 over the first share `warmup` of the steps.

    Example:
        >>> [rising(step, 8, 0.5) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    warm = round(warmup * steps)
    return min(1.0, (step + 1) / warm) if warm else 1.0
