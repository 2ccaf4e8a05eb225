"""Contrastive loss: symmetric InfoNCE that never counts a row of the same group as a negative."""

import math
from collections.abc import Mapping
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from featcache.trainer.config import pair_weight

INITIAL_LOG_SCALE = math.log(1 / 0.07)
MAXIMAL_LOG_SCALE = math.log(100.0)


def info_nce(
    x: Float[Tensor, "b width"],
    y: Float[Tensor, "b width"],
    log_scale: Float[Tensor, ""],
    groups: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE over a batch of pairs: row i of x belongs to row i of y.

    Each row must find its partner among the batch; the two directions are averaged. Pairs off the diagonal whose
    groups are equal show the same thing: they are taken out of the denominators. The scale exp(log_scale) is capped
    at 100.

    Args:
        x: L2-normalised rows of one side.
        y: L2-normalised rows of the other side.
        log_scale: Logarithm of the inverse temperature.
        groups: Group number of each pair; None when all differ.

    Returns:
        Mean loss in nats, at least 0; ln(b) when nothing is told apart.

    Example:
        >>> x = torch.eye(4)
        >>> round(info_nce(x, x, torch.tensor(0.0)).item(), 3)
        0.744

    Source:
        CLIP (Radford et al. 2021, arXiv:2103.00020), figure 3 and section 2.4.
    """
    logits = log_scale.clamp(max=MAXIMAL_LOG_SCALE).exp() * (x @ y.T)
    if groups is not None:
        same = groups[:, None] == groups[None, :]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -math.inf)
    partner = torch.arange(len(x), device=x.device)
    return (functional.cross_entropy(logits, partner) + functional.cross_entropy(logits.T, partner)) / 2


def pairwise_loss(
    sides: Mapping[str, Float[Tensor, "b width"]],
    log_scale: Float[Tensor, ""],
    groups: Int[Tensor, " b"] | None = None,
    weights: Mapping[str, float] | None = None,
    present: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean over pairs of sides of InfoNCE minus ln(b): nats below a guess among the batch.

    Without the logarithm of the batch, losses of batches of unequal size cannot be compared.

    Args:
        sides: Name -> L2-normalised rows; row i of all sides belongs together.
        log_scale: Logarithm of the inverse temperature.
        groups: Group number of each row; None when all differ.
        weights: "a+b" -> weight of that pair of sides; 1 where it is not named. Weights are divided by their sum.
        present: Name -> [b] whether a row of that side is there; None where all are. A pair of sides is trained on the
            rows that both have, and left out where these are fewer than two.

    Returns:
        0 for rows that are told apart no better than by a guess; lower is better.

    Example:
        >>> x = torch.eye(4)
        >>> round(pairwise_loss({"a": x, "b": x}, torch.tensor(0.0)).item(), 3)
        -0.643
    """
    total = torch.zeros((), device=log_scale.device)
    weight_sum = 0.0
    for a, b in combinations(sides, 2):
        weight = pair_weight(weights, a, b)
        x, y, numbers = sides[a], sides[b], groups
        if present is not None:
            both = present[a] & present[b]
            if not bool(both.all()):
                x, y = x[both], y[both]
                numbers = None if groups is None else groups[both]
        if weight == 0 or len(x) < 2:
            continue
        total = total + weight * (info_nce(x, y, log_scale, numbers) - math.log(len(x)))
        weight_sum += weight
    return total / weight_sum if weight_sum else total
