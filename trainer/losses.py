"""Losses between two sides, chosen from a table: none ever counts a row of the same group as a negative."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from featcache.trainer.config import FitConfig, pair_weight
from featcache.trainer.info_nce import MAXIMAL_LOG_SCALE, SymmetricInfoNce
from featcache.trainer.negatives import Groups, no_negatives
from featcache.trainer.product_loss import product_loss

if TYPE_CHECKING:
    from featcache.trainer.adapters import Adapters


def info_nce(
    x: Float[Tensor, "b width"],
    y: Float[Tensor, "b width"],
    log_scale: Float[Tensor, ""],
    groups: Groups | None = None,
    *,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE over a batch of pairs: row i of x belongs to row i of y.

    Each row must find its partner among the batch; the two directions are averaged. Pairs off the diagonal whose
    groups are equal show the same thing: they are taken out of the denominators. The scale exp(log_scale) is capped
    at 100.

    Args:
        x: L2-normalised rows of one side.
        y: L2-normalised rows of the other side.
        log_scale: Logarithm of the inverse temperature.
        groups: Group number of each pair, or several of a mixed pair; None when all differ.
        smoothing: Share of the target that is spread evenly over the partner and all negatives (label smoothing).

    Returns:
        Mean loss in nats, at least 0; ln(b) when nothing is told apart.

    Example:
        >>> x = torch.eye(4)
        >>> round(info_nce(x, x, torch.tensor(0.0)).item(), 3)
        0.744

    Source:
        CLIP (Radford et al. 2021, arXiv:2103.00020), figure 3 and section 2.4.
    """
    same = no_negatives(groups)
    if not smoothing:
        return SymmetricInfoNce.apply(x, y, log_scale, same)  # pyright: ignore[reportReturnType]
    logits = log_scale.clamp(max=MAXIMAL_LOG_SCALE).exp() * (x @ y.T)
    if same is not None:
        logits = logits.masked_fill(same, -math.inf)
    return (_cross_entropy(logits, same, smoothing) + _cross_entropy(logits.T, same, smoothing)) / 2


def siglip(
    x: Float[Tensor, "b width"],
    y: Float[Tensor, "b width"],
    log_scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    groups: Groups | None = None,
) -> Float[Tensor, ""]:
    """Sigmoid loss over a batch of pairs: every pair of rows is told right or wrong by itself.

    Pairs off the diagonal whose groups are equal are left out. Arguments as `info_nce`; `bias` is added to every logit.

    Returns:
        Sum over the pairs of a row, averaged over rows, in nats.

    Example:
        >>> x = torch.eye(4)
        >>> round(siglip(x, x, torch.tensor(10.0).log(), torch.tensor(-10.0)).item(), 3)
        0.693

    Source:
        SigLIP (Zhai et al. 2023, arXiv:2303.15343), algorithm 1.
    """
    logits = log_scale.clamp(max=MAXIMAL_LOG_SCALE).exp() * (x @ y.T) + bias
    losses = functional.softplus(torch.where(torch.eye(len(x), dtype=torch.bool, device=x.device), -logits, logits))
    same = no_negatives(groups)
    if same is not None:
        losses = losses.masked_fill(same, 0.0)
    return losses.sum() / len(x)


def kernel_loss(
    x: Float[Tensor, "b width"], y: Float[Tensor, "b width"], reference: Float[Tensor, "b d"]
) -> Float[Tensor, ""]:
    """How far the kernel of two sides' rows is from that of the reference: 1 - linear CKA over all 2b rows.

    The rows of both sides are stacked, each beside the reference row of its group, so that the kernel within x, within
    y and between them are all to equal the reference's: x and y come to share one space, and so does their sum. CKA,
    not the squared error of cosine similarities: it is what alignment is measured by, and an offset or a scale of the
    reference's similarities (which lie in a narrow cone) is no error. No negatives, so that groups do not matter.

    Args:
        x: L2-normalised rows of one side.
        y: L2-normalised rows of the other side.
        reference: Rows of the reference; those that are not finite are left out, with the pair's.

    Returns:
        In [0, 1]; 0 where the kernels are equal up to offset and scale.

    Example:
        >>> x = torch.eye(4)
        >>> round(kernel_loss(x, x, 3 * x).item(), 3)
        0.0

    Source:
        Kornblith et al. 2019, arXiv:1905.00414, equation 3; trained on a teacher's kernel: KUEA (arXiv:2506.02557).
    """
    known = reference.isfinite().all(dim=1)
    z = torch.cat([x[known], y[known]])
    target = functional.normalize(reference[known], dim=1).repeat(2, 1)
    z, target = z - z.mean(dim=0), target - target.mean(dim=0)
    shared = (z.T @ target).square().sum()
    norms = (z.T @ z).norm() * (target.T @ target).norm()
    return 1 - shared / norms.clamp(min=torch.finfo(z.dtype).tiny)


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss with its parameters.

    Args:
        kind: A key of PAIR_LOSSES.
        log_scale: Logarithm of the inverse temperature.
        bias: Of the logits; None where the loss has none.
        smoothing: Label smoothing, of "infonce" alone.
    """

    kind: str
    log_scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None
    smoothing: float = 0.0


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of two sides that belong together.

    Args:
        x: L2-normalised rows of one side.
        y: L2-normalised rows of the other side.
        groups: As of `info_nce`.
        reference: The reference's row of each pair; None where there is no reference.
    """

    x: Float[Tensor, "b width"]
    y: Float[Tensor, "b width"]
    groups: Groups | None = None
    reference: Float[Tensor, "b d"] | None = None


@dataclass(frozen=True)
class PairLoss:
    """A loss between two sides, and where its parameters begin.

    Args:
        loss: The loss of some pairs.
        guess: Pairs -> loss of the best guess that tells no pair from another.
        log_scale: Initial logarithm of the inverse temperature.
        bias: Initial bias of the logits; None for a loss that has none.
    """

    loss: Callable[[Objective, Pairs], Tensor]
    guess: Callable[[int], float]
    log_scale: float = math.log(1 / 0.07)
    bias: float | None = None


def _info_nce(objective: Objective, pairs: Pairs) -> Tensor:
    return info_nce(pairs.x, pairs.y, objective.log_scale, pairs.groups, smoothing=objective.smoothing)


def _siglip(objective: Objective, pairs: Pairs) -> Tensor:
    assert objective.bias is not None
    return siglip(pairs.x, pairs.y, objective.log_scale, objective.bias, pairs.groups)


def _kernel_loss(objective: Objective, pairs: Pairs) -> Tensor:
    assert pairs.reference is not None
    return kernel_loss(pairs.x, pairs.y, pairs.reference)


PAIR_LOSSES: dict[str, PairLoss] = {
    "infonce": PairLoss(_info_nce, math.log),
    "siglip": PairLoss(
        _siglip, lambda b: math.log(b) + (b - 1) * math.log(b / (b - 1)), log_scale=math.log(10.0), bias=-10.0
    ),
    "cka": PairLoss(_kernel_loss, lambda b: 1.0),
}


class InitialParameters(TypedDict):
    """Where the parameters of a loss begin, and what the joint space is."""

    log_scale: float
    bias: float | None
    joint: str


def initial_parameters(config: FitConfig) -> InitialParameters:
    """Where the parameters of a configuration's loss begin, and what its joint space is."""
    # those of no pairs have a scale too, and begin at the same
    loss = PAIR_LOSSES[config.loss if config.loss in PAIR_LOSSES else "infonce"]
    log_scale = loss.log_scale if config.temperature is None else -math.log(config.temperature)
    return {"log_scale": log_scale, "bias": loss.bias, "joint": config.joint}


def batch_loss(
    adapters: "Adapters",
    config: FitConfig,
    embedded: Mapping[str, Float[Tensor, "b width"]],
    groups: Groups | None,
    *,
    present: Mapping[str, Tensor] | None = None,
    reference: Float[Tensor, "b d"] | None = None,
    labels: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """The loss of a configuration over a batch of embedded rows; other arguments as of `pairwise_loss`, `label_loss`.

    Where the weights of the joint space are learned, the joint row is one side more: it must find its own parts.
    """
    sides = dict(embedded)
    if config.joint == "learned":
        sides["joint"] = adapters.weighted_sum(embedded)
        if present is not None:
            present = {**present, "joint": torch.stack([*present.values()]).all(dim=0)}
    if config.loss == "labels":
        assert labels is not None and adapters.classifier is not None  # as `check_labels` saw to
        return label_loss(sides, labels, adapters.classifier, adapters.log_scale, present)
    if config.loss == "product":
        return product_loss(sides, adapters.log_scale, groups, present)
    objective = Objective(config.loss, adapters.log_scale, adapters.bias, config.label_smoothing)
    return pairwise_loss(sides, objective, groups, config.pair_weights, present, reference)


def pairwise_loss(
    sides: Mapping[str, Float[Tensor, "b width"]],
    objective: Objective,
    groups: Groups | None = None,
    weights: Mapping[str, float] | None = None,
    present: Mapping[str, Tensor] | None = None,
    reference: Float[Tensor, "b d"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean over pairs of sides of the loss between them, less that of a guess.

    Without the guess's, losses of batches of unequal size could not be compared.

    Args:
        sides: Name -> L2-normalised rows; row i of all sides belongs together.
        objective: The loss between two sides.
        groups: Group number of each row, or several of a mixed row; None when all differ.
        weights: "a+b" -> weight of that pair of sides; 1 where it is not named. Weights are divided by their sum.
        present: Name -> [b] whether a row of that side is there; None where all are. A pair of sides is trained on the
            rows that both have, and left out where these are fewer than two.
        reference: The reference's row of each; for a loss that is trained on it.

    Returns:
        0 for rows that are told apart no better than by a guess; lower is better.

    Example:
        >>> x = torch.eye(4)
        >>> round(pairwise_loss({"a": x, "b": x}, Objective("infonce", torch.tensor(0.0))).item(), 3)
        -0.643
    """
    kind = PAIR_LOSSES[objective.kind]
    total = torch.zeros((), device=objective.log_scale.device)
    weight_sum = 0.0
    for a, b in combinations(sides, 2):
        weight = pair_weight(weights, a, b)
        pairs = _pairs(sides, a, b, groups, present, reference)
        if weight == 0 or len(pairs.x) < 2:
            continue
        total = total + weight * (kind.loss(objective, pairs) - kind.guess(len(pairs.x)))
        weight_sum += weight
    return total / weight_sum if weight_sum else total


def _pairs(
    sides: Mapping[str, Tensor],
    a: str,
    b: str,
    groups: Groups | None,
    present: Mapping[str, Tensor] | None,
    reference: Tensor | None,
) -> Pairs:
    """The rows that two sides both have."""
    pairs = Pairs(sides[a], sides[b], groups, reference)
    if present is None:
        return pairs
    both = present[a] & present[b]
    if bool(both.all()):
        return pairs
    numbers, target = (None if column is None else column[both] for column in (groups, reference))
    return Pairs(pairs.x[both], pairs.y[both], numbers, target)


def label_loss(
    sides: Mapping[str, Float[Tensor, "b width"]],
    labels: Int[Tensor, " b"],
    classifier: Float[Tensor, "c width"],
    log_scale: Float[Tensor, ""],
    present: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of labels through one linear classifier of all sides' rows, less that of a guess.

    No row is ever compared with its partner: sides meet where the labels do, and nowhere else. The scale exp(log_scale)
    is capped at 100.

    Args:
        sides: Name -> L2-normalised rows.
        labels: Class of each row; rows of -1 have none and are left out.
        classifier: Weights of each class.
        log_scale: Logarithm of what the products of rows and classes are multiplied by.
        present: Name -> whether a row of that side is there; None where all are.

    Returns:
        Mean over the sides that have labelled rows of their mean cross-entropy in nats, minus ln(c): 0 where nothing is
        told apart, and where there are no such rows; lower is better.

    Example:
        >>> x, labels = torch.eye(3), torch.tensor([0, 1, -1])
        >>> round(label_loss({"a": x}, labels, torch.eye(2, 3), torch.tensor(0.0)).item(), 3)
        -0.38
    """
    losses: list[Tensor] = []
    for name, rows in sides.items():
        used = labels >= 0 if present is None else (labels >= 0) & present[name]
        if bool(used.any()):
            logits = log_scale.clamp(max=MAXIMAL_LOG_SCALE).exp() * (rows[used] @ classifier.T)
            losses.append(functional.cross_entropy(logits, labels[used]))
    guess = math.log(len(classifier))
    return torch.stack(losses).mean() - guess if losses else torch.zeros((), device=log_scale.device)


def _cross_entropy(
    logits: Float[Tensor, "b b"], masked: Bool[Tensor, "b b"] | None, smoothing: float
) -> Float[Tensor, ""]:
    """Mean over rows of the cross-entropy with the diagonal; smoothing never reaches a masked pair."""
    partner = torch.arange(len(logits), device=logits.device)
    loss = functional.cross_entropy(logits, partner)
    if not smoothing:
        return loss
    log_p = logits.log_softmax(dim=1)
    allowed = torch.ones_like(log_p, dtype=torch.bool) if masked is None else ~masked
    spread = -log_p.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)
    return (1 - smoothing) * loss + smoothing * spread.mean()
