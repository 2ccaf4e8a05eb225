"""Linear and one-layer probes of many feature spaces at once, fitted on frozen features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from featcache.trainer.ensembles.flat import Rates, StackedAdamW
from featcache.trainer.ensembles.mlp import MlpEnsemble, Shape, initial_mlps
from featcache.trainer.ensembles.schedule import cosine_step
from featcache.trainer.errors import EnsembleInvalid

Outputs = Literal["classes", "bits"]
PENALTY = 1e-4
_CURVATURE = {"classes": 0.5, "bits": 0.25}  # most of the loss's second derivative along whitened weights
_STEPS = 200
_GRADIENT = 1e-5  # the largest entry of the gradient, along whitened weights, that counts as 0
_NEGLIGIBLE = 1e-6  # of the largest variance: a direction below it tells nothing


@dataclass(frozen=True)
class StackedProbe:
    """Linear classifiers of E spaces: logits = x @ weights + bias.

    Args:
        weights: [E, d, outputs].
        bias: [E, 1, outputs].
    """

    weights: Float[Tensor, "e d outputs"]
    bias: Float[Tensor, "e 1 outputs"]

    def __call__(self, x: Float[Tensor, "e n d"]) -> Float[Tensor, "e n outputs"]:
        """Logits of rows of each space."""
        return x.to(self.weights) @ self.weights + self.bias


@dataclass(frozen=True)
class MlpProbeFit:
    """How probes with one hidden layer are trained.

    Args:
        width: Of the hidden layer.
        steps: Of the optimiser.
        batch: Rows a step.
        rates: Highest learning rate (it falls to 0 along a cosine), weight decay and clip.
        seed: Of initial values and batches, which all probes share.
    """

    width: int = 32
    steps: int = 400
    batch: int = 512
    rates: Rates = Rates(0.02, 1e-4)
    seed: int = 0


def fit_linear_probes(
    x: Float[Tensor, "e n d"],
    targets: Float[Tensor, "n outputs"],
    outputs: Outputs,
    *,
    seen: Bool[Tensor, "n outputs"] | None = None,
    penalty: float = PENALTY,
) -> StackedProbe:
    """Logistic regression in each space on the same rows, in float64.

    Minimised is the mean cross-entropy plus penalty / 2 times the squared weights of the whitened features: with the
    curvature bounded, accelerated gradient descent needs no search. The same whatever linear map the features had.

    Args:
        x: Rows of each space.
        targets: "classes": how often each row counts with each class, not negative. "bits": 1 or 0 for each output, a
            regression of its own.
        outputs: One of several classes, or bits.
        seen: Which rows each of the bits is fitted on; None: all.
        penalty: 0 or more.

    Raises:
        EnsembleInvalid: If rows and targets are not as many, targets are no such counts or bits, or no row is seen.

    Example:
        >>> x = torch.tensor([[[-2.0], [-1.0], [1.0], [2.0]]])
        >>> probe = fit_linear_probes(x, torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), "classes")
        >>> probe(x).argmax(dim=2).tolist()
        [[0, 0, 1, 1]]

    Source:
        The bound of the curvature: Böhning 1992, Multinomial logistic regression algorithm.
    """
    goal, weight = _goal(targets.double(), outputs, seen)
    if x.shape[1] != len(targets):
        raise EnsembleInvalid(f"{len(targets)} rows of targets for {x.shape[1]} rows of features: wanted as many")
    overall = weight.mean(dim=1, keepdim=True)
    mean, whitener = whitening(x.double(), overall)
    ones = torch.ones(*x.shape[:2], 1, dtype=torch.float64)
    rows = torch.cat([(x.double() - mean) @ whitener, ones], dim=2).mT.contiguous()
    largest = float((weight / overall.clamp(min=1e-300)).max())  # second moments under one output's weights, at most
    solution = _minimise(rows, goal.T, weight.T, outputs, (_CURVATURE[outputs] * largest, penalty)).mT
    weights = whitener @ solution[:, :-1]
    return StackedProbe(weights, solution[:, -1:] - mean @ weights)


def whitening(
    x: Float[Tensor, "e n d"], weight: Float[Tensor, "n 1"] | None = None
) -> tuple[Float[Tensor, "e 1 d"], Float[Tensor, "e d d"]]:
    """The mean of each space, and the map that makes the second moments of its centred rows the identity.

    A direction whose standard deviation is below a thousandth of the largest is mapped to 0: what a network says there
    is not told from rounding by anybody who does not amplify it so.

    Args:
        x: Rows of each space.
        weight: Of the rows, summing to 1; None: all alike.
    """
    share = x.new_full((x.shape[1], 1), 1 / x.shape[1]) if weight is None else weight
    mean = (x * share).sum(dim=1, keepdim=True)
    variances, axes = torch.linalg.eigh(((x - mean) * share).mT @ (x - mean))
    keep = variances > _NEGLIGIBLE * variances[:, -1:].clamp(min=torch.finfo(x.dtype).tiny)
    scales = torch.where(keep, variances.clamp(min=torch.finfo(x.dtype).tiny).rsqrt(), 0.0)
    return mean, axes * scales[:, None, :]


def whitened(x: Float[Tensor, "e n d"]) -> Float[Tensor, "e n d"]:
    """Rows of each space in float32, centred and mapped so that their second moments are the identity.

    Example:
        >>> rows = whitened(torch.tensor([[[0.0], [4.0]]]))
        >>> rows.flatten().tolist()
        [-1.0, 1.0]
    """
    mean, whitener = whitening(x.double())
    return ((x.double() - mean) @ whitener).float()


def _goal(targets: Tensor, outputs: Outputs, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Targets times the weights of their rows, and the weights: [n, outputs] or [n, 1], of sum 1 over the rows."""
    if outputs == "bits":
        counts = torch.ones_like(targets) if seen is None else seen.to(targets)
        wrong = bool(((targets != 0) & (targets != 1)).any())
    else:
        counts, wrong = targets.sum(dim=1, keepdim=True), bool((targets < 0).any())
    if wrong or not bool((counts.sum(dim=0) > 0).all()):
        raise EnsembleInvalid(f"wanted {outputs}, some of them seen, got targets {list(targets.shape)} of other kind")
    weight = counts / counts.sum(dim=0)
    return (targets * weight if outputs == "bits" else targets / counts.sum()), weight


def _minimise(rows: Tensor, goal: Tensor, weight: Tensor, outputs: Outputs, bounds: tuple[float, float]) -> Tensor:
    """Weights [E, outputs, d] by accelerated gradient descent, started anew where it overshoots.

    Args:
        rows: [E, d, n], the last of d is 1; their second moments are the identity.
        goal: [outputs, n] weighted targets.
        weight: [outputs or 1, n].
        outputs: Which loss.
        bounds: Of the curvature: the loss's, the penalty.
    """
    size, penalty = 1 / sum(bounds), bounds[1]
    shrink = torch.full((rows.shape[1],), penalty, dtype=torch.float64)
    shrink[-1] = 0.0  # the bias is free
    point = torch.zeros(len(rows), len(goal), rows.shape[1], dtype=torch.float64)
    ahead, momentum = point.clone(), torch.ones(len(rows), 1, 1, dtype=torch.float64)
    for _ in range(_STEPS):
        logits = ahead @ rows
        likely = logits.sigmoid() if outputs == "bits" else logits.softmax(dim=1)
        gradient = (likely.mul_(weight).sub_(goal)) @ rows.mT + shrink * ahead
        if float(gradient.abs().max()) < _GRADIENT:
            break
        after = ahead - size * gradient
        back = (gradient * (after - point)).sum(dim=(1, 2), keepdim=True) > 0
        momentum = torch.where(back, 1.0, momentum)
        larger = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = after + torch.where(back, 0.0, (momentum - 1) / larger) * (after - point)
        point, momentum = after, larger
    return point


def fit_mlp_probes(
    x: Float[Tensor, "e n d"], bits: Float[Tensor, "n outputs"], seen: Bool[Tensor, "n outputs"], fit: MlpProbeFit
) -> MlpEnsemble:
    """A network with one hidden layer for each space, trained to tell every bit; features go in as they are.

    Args:
        x: Rows of each space; whiten them first.
        bits: 1 or 0 for each row and output.
        seen: Which rows each output is trained on. A row that one output does not see may be seen by others.
        fit: Size and steps.

    Returns:
        Networks whose outputs are above 0 where the bit is likelier 1; they take columns as rows of data.

    Raises:
        EnsembleInvalid: If rows and bits are not as many.
    """
    if x.shape[1] != len(bits) or bits.shape != seen.shape:
        raise EnsembleInvalid(f"{len(bits)} rows of bits for {x.shape[1]} rows of features: wanted as many")
    ensemble = initial_mlps(Shape(x.shape[2], fit.width, 1, bits.shape[1]), [fit.seed] * len(x), dtype=x.dtype)
    goal = bits.to(x.dtype)

    def loss(at: Tensor) -> Tensor:
        logits, weight = ensemble(x[:, at].mT), seen[at].T.to(x.dtype)
        wanted = goal[at].T.expand_as(logits)
        total = functional.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="sum")
        return total / weight.sum()

    _descend(ensemble, loss, len(bits), fit)
    return ensemble


def fit_mlp_classifiers(
    x: Sequence[Float[Tensor, "e inputs d"]],
    at: Sequence[Int[Tensor, " n"]],
    labels: Int[Tensor, " n"],
    fit: MlpProbeFit,
) -> MlpEnsemble:
    """A classifier with one hidden layer for each pair of spaces, which reads both; features go in as they are.

    Args:
        x: Features of the inputs of each modality; whiten them first.
        at: Which input each training row is, of each modality.
        labels: Class of each row.
        fit: Size and steps.

    Returns:
        Networks whose first d inputs are the first modality's; they take columns as rows of data.
    """
    inputs, classes = sum(values.shape[2] for values in x), int(labels.max()) + 1
    ensemble = initial_mlps(Shape(inputs, fit.width, 1, classes), [fit.seed] * len(x[0]), dtype=x[0].dtype)

    def loss(rows: Tensor) -> Tensor:
        read = torch.cat([values[:, codes[rows]] for values, codes in zip(x, at, strict=True)], dim=2)
        wanted = labels[rows].expand(len(ensemble), -1)
        return functional.cross_entropy(ensemble(read.mT), wanted, reduction="sum") / len(rows)

    _descend(ensemble, loss, len(labels), fit)
    return ensemble


def _descend(ensemble: MlpEnsemble, loss: Callable[[Tensor], Tensor], rows: int, fit: MlpProbeFit) -> None:
    """Steps over batches of a permutation an epoch, its last rows left out."""
    optimizer, stream = (
        StackedAdamW(ensemble.flat, [fit.rates] * len(ensemble)),
        torch.Generator().manual_seed(fit.seed),
    )
    batch, start = min(fit.batch, rows), rows
    order = torch.arange(rows)
    while optimizer.steps < fit.steps:
        if start + batch > rows:
            order, start = torch.randperm(rows, generator=stream), 0
        loss(order[start : start + batch]).backward()
        start += batch
        cosine_step(optimizer, fit.steps)
