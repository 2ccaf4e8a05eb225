"""AdamW in one pass over each weight, with warm-up and cosine decay."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """AdamW over two sets of weights, decayed and not, by torch's fused step.

    torch.optim.AdamW gives the same bits (a test compares them), but constructing it imports the compiler, which costs
    more than a whole training run here. Its functional form, which this calls, does not.

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
        self._groups = [(_Moments(decayed), weight_decay), (_Moments(plain), 0.0)]
        self._weights = [weight for moments, _ in self._groups for weight in moments.weights]
        self._clip = clip

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Applies the gradients with learning rate `lr`, then drops them.

        A weight without a gradient keeps its value.
        """
        if self._clip is not None:
            self._scale_gradients(self._clip)
        for moments, decay in self._groups:
            moments.step(lr, decay)

    def _scale_gradients(self, largest: float) -> None:
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm() if gradients else torch.zeros(())
        factor = (largest / norm.clamp(min=largest)).to(norm)  # 1 where the norm is below
        for gradient in gradients:
            gradient.mul_(factor)


class _Moments:
    """Weights with one decay, and the running moments of their gradients."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.weights = list(weights)
        self._first = [torch.zeros_like(weight) for weight in self.weights]
        self._second = [torch.zeros_like(weight) for weight in self.weights]
        self._steps = [torch.zeros((), device=weight.device) for weight in self.weights]

    def step(self, lr: float, weight_decay: float) -> None:
        states = zip(self.weights, self._first, self._second, self._steps, strict=True)
        moved = [(state, state[0].grad) for state in states if state[0].grad is not None]
        if not moved:
            return
        weights, first, second, steps = (list(each) for each in zip(*(state for state, _ in moved), strict=True))
        adamw(
            weights,
            [gradient for _, gradient in moved if gradient is not None],
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=lr,
            weight_decay=weight_decay,
            eps=_EPSILON,
            maximize=False,
        )
        for weight in weights:
            weight.grad = None


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
