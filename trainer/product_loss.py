"""Contrastive loss of any number of sides at once: the similarity of rows is the sum of their products."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from featcache.trainer.info_nce import MAXIMAL_LOG_SCALE
from featcache.trainer.negatives import Groups, no_negatives


def product_loss(
    sides: Mapping[str, Float[Tensor, "b width"]],
    log_scale: Float[Tensor, ""],
    groups: Groups | None = None,
    present: Mapping[str, Bool[Tensor, " b"]] | None = None,
) -> Float[Tensor, ""]:
    """Each row of a side must find the rows of all other sides that belong to it, by the sum of their products.

    The similarity of rows of M sides is width^(M/2 - 1) times the sum over dimensions of the product of their entries:
    the cosine of two sides, and at most 1 of rows whose entries are all as large. For every side the other sides' rows
    are multiplied, and of the batch's products the one of the same number is the right one; the mean over the sides is
    `info_nce` where there are two.

    The source prints whole tuples in the denominator. That sum is least, ln(b), where all tuples score alike, whatever
    they hold, so it tells no right tuple from a wrong one; here the row of one side stays, as in its loss of two sides.

    Nothing makes the cosine between two sides large: signs may cancel in the product of three. Retrieval from side to
    side and the sum of the sides need not profit.

    Args:
        sides: Name -> L2-normalised rows; row i of all sides belongs together.
        log_scale: Logarithm of the inverse temperature; the scale is capped at 100.
        groups: Group number of each row, or several of a mixed row; rows of one group are no negatives.
            None: all differ.
        present: Name -> whether a row of that side is there; rows that lack a side are left out. None: all are there.

    Returns:
        Mean loss in nats less ln(b), that of a guess; 0 where fewer than two rows have every side.

    Example:
        >>> x = torch.eye(4)
        >>> round(product_loss({"a": x, "b": x}, torch.tensor(0.0)).item(), 3)
        -0.643

    Source:
        Simeon and Manso 2024, qsimeon.github.io/blog/multimodal-alignment, future direction 2; as one of several
        denominators: Symile (Saporta et al. 2024, arXiv:2411.01053).
    """
    if present is not None:
        whole = torch.stack([present[name] for name in sides]).all(dim=0)
        sides, groups = {name: rows[whole] for name, rows in sides.items()}, None if groups is None else groups[whole]
    b, width = next(iter(sides.values())).shape
    if b < 2:
        return torch.zeros((), device=log_scale.device)
    scale = log_scale.clamp(max=MAXIMAL_LOG_SCALE).exp() * width ** (len(sides) / 2 - 1)
    same = no_negatives(groups)
    partner = torch.arange(b, device=log_scale.device)
    losses: list[Tensor] = []
    for name, rows in sides.items():
        others = torch.stack([other for key, other in sides.items() if key != name]).prod(dim=0)
        logits = scale * (rows @ others.T)
        logits = logits if same is None else logits.masked_fill(same, -math.inf)
        losses.append(functional.cross_entropy(logits, partner))
    return torch.stack(losses).mean() - math.log(b)
