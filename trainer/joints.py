"""Joint spaces of sides, chosen from a table: what one space is made of a row of every side."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from featcache.metrics import joint, mixed

MIXTURES = 70  # weights that are tried at most
Weights = Literal["equal", "chosen", "learned"]


@dataclass(frozen=True)
class Joint:
    """How a joint space is made.

    Args:
        combine: Unit rows of each side, weights that sum to 1 -> unit rows.
        weights: "equal"; "chosen" on validation, after training; or "learned" with the adapters.
    """

    combine: Callable[[Sequence[Tensor], Sequence[float]], Tensor]
    weights: Weights


def _sum(spaces: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    equal = len(set(weights)) == 1
    return torch.as_tensor(joint(spaces, None if equal else weights))


def concatenation(spaces: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Unit rows whose cosine kernel is the weighted sum of the spaces' cosine kernels."""
    return torch.as_tensor(mixed(spaces, weights))


JOINTS: dict[str, Joint] = {
    "sum": Joint(_sum, "equal"),
    "concatenation": Joint(concatenation, "equal"),
    "weighted": Joint(_sum, "chosen"),
    "learned": Joint(_sum, "learned"),
}


def simplex(parts: int) -> list[tuple[float, ...]]:
    """Weights of a mixture of so many parts: a grid on the simplex, as fine as MIXTURES allow, ends included.

    Example:
        >>> simplex(2)[:3], len(simplex(2)), len(simplex(3))
        ([(0.0, 1.0), (0.05, 0.95), (0.1, 0.9)], 21, 66)
    """
    steps = next(
        steps for steps in (20, 10, 5, 4, 3, 2, 1) if math.comb(steps + parts - 1, steps) <= MIXTURES or steps == 1
    )
    # so many steps in a row, with bars between the parts
    bars = itertools.combinations(range(steps + parts - 1), parts - 1)
    ends = [(-1, *places, steps + parts - 1) for places in bars]
    return [tuple((b - a - 1) / steps for a, b in itertools.pairwise(places)) for places in ends]
