"""What changes a batch or adds to its loss: latent mixup, and the penalty on lost geometry."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

GEOMETRY_TEMPERATURE = 0.05


def mixup(
    sides: Mapping[str, Float[Tensor, "b d"]],
    groups: Int[Tensor, " b"],
    present: Mapping[str, Bool[Tensor, " b"]] | None,
    generator: torch.Generator,
) -> tuple[dict[str, Float[Tensor, "h d"]], Int[Tensor, "h 2"], dict[str, Bool[Tensor, " h"]] | None]:
    """Half as many rows, each a mixture of two: the same share of both for every side and row, uniform in [0, 1].

    Args:
        sides: Name -> features of the batch; row i of all sides belongs together. Of an odd number the last is left.
        groups: Group number of each row.
        present: Name -> whether a row of that side is there; None where all are.
        generator: CPU generator of the share.

    Returns:
        The mixed rows, h = b // 2; both groups of each; and where both rows of a mixture are there.

    Source:
        FuseMix (Vouitsis et al. 2024, arXiv:2312.10144), section 4.2: Beta(1, 1), which is uniform.
    """
    half = len(groups) // 2
    share = float(torch.rand((), generator=generator))
    first, second = slice(half), slice(half, 2 * half)
    mixed = {name: share * rows[first] + (1 - share) * rows[second] for name, rows in sides.items()}
    there = None if present is None else {name: mask[first] & mask[second] for name, mask in present.items()}
    return mixed, torch.stack([groups[first], groups[second]], dim=1), there


def lost_geometry(
    before: Mapping[str, Float[Tensor, "b d"]],
    after: Mapping[str, Float[Tensor, "b width"]],
    present: Mapping[str, Bool[Tensor, " b"]] | None = None,
) -> Float[Tensor, ""]:
    """Mean of `geometry_loss` over the sides, each of the rows that it has, two or more.

    Args:
        before: Name -> features as cached.
        after: Name -> what the adapters make of them.
        present: Name -> whether a row of that side is there; None where all are.
    """
    losses: list[Tensor] = []
    for name in before:
        x, y = before[name], after[name]
        if present is not None:
            x, y = x[present[name]], y[present[name]]
        if len(x) > 1:
            losses.append(geometry_loss(x, y))
    return torch.stack(losses).mean() if losses else torch.zeros(())


def geometry_loss(
    before: Float[Tensor, "b d"], after: Float[Tensor, "b width"], temperature: float = GEOMETRY_TEMPERATURE
) -> Float[Tensor, ""]:
    """How far an adapter moves the neighbourhoods of a batch: mean Jensen-Shannon divergence over its rows.

    A row's neighbourhood is the softmax of its cosine similarities to the others of the batch, after centring, divided
    by the temperature. Itself it is left out: at this temperature it would hold nearly all of the softmax, whatever the
    adapter does (.92 and .97 of it for small image and text encoders).

    Args:
        before: Features as cached.
        after: What the adapter makes of them.
        temperature: Of the softmax.

    Returns:
        In nats, from 0 (neighbourhoods kept) to ln 2.

    Example:
        >>> x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> round(geometry_loss(x, 2 * x).item(), 6)
        0.0

    Source:
        STRUCTURE (Groeger et al. 2025, arXiv:2506.16895), section 3.2.
    """
    p, q = _log_neighborhoods(before, temperature), _log_neighborhoods(after, temperature)
    middle = torch.logaddexp(p, q) - math.log(2)
    forward = functional.kl_div(middle, p, reduction="batchmean", log_target=True)
    backward = functional.kl_div(middle, q, reduction="batchmean", log_target=True)
    return (forward + backward) / 2


def _log_neighborhoods(rows: Float[Tensor, "b d"], temperature: float) -> Float[Tensor, "b b"]:
    unit = functional.normalize(rows - rows.mean(dim=0), dim=1)
    others = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return (unit @ unit.T)[others].view(len(rows), -1).div(temperature).log_softmax(dim=1)
