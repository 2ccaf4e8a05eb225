"""Contrastive loss: symmetric InfoNCE that never counts a row of the same group as a negative."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

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
