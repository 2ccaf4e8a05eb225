"""Linear and one-layer probes of many feature spaces at once, fitted on frozen features."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
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
_NEGLIGIBLE = 1e-9  # of the largest variance: a direction below it tells nothing


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
    rates: Rates = Rates(0.02, 1e-3)
    seed: int = 0


def fit_linear_probes(
    x: Float[Tensor, "e n d"], targets: Float[Tensor, "n outputs"], outputs: Outputs, *, penalty: float = PENALTY
) -> StackedProbe:
    """Logistic regression in each space on the same rows, in float64.

    Minimised is the mean cross-entropy plus penalty / 2 times the squared weights of the whitened features: with the
    curvature bounded, accelerated gradient descent needs no search. The same whatever linear map the features had.

    Args:
        x: Rows of each space.
        targets: "classes": how often each row counts with each class, not negative. "bits": 1 or 0 for each output, a
            regression of its own.
        outputs: One of several classes, or bits.
        penalty: 0 or more.

    Raises:
        EnsembleInvalid: If rows and targets are not as many, or targets are no such counts or bits.

    Example:
        >>> x = torch.tensor([[[-2.0], [-1.0], [1.0], [2.0]]])
        >>> probe = fit_linear_probes(x, torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), "classes")
        >>> probe(x).argmax(dim=2).tolist()
        [[0, 0, 1, 1]]

    Source:
        The bound of the curvature: Böhning 1992, Multinomial logistic regression algorithm.
    """
    wanted = targets.to(torch.float64)
    bits = outputs == "bits"
    wrong = ((wanted != 0) & (wanted != 1)).any() if bits else (wanted < 0).any() or not wanted.sum() > 0
    if x.shape[1] != len(targets) or bool(wrong):
        raise EnsembleInvalid(f"wanted {outputs} of {x.shape[1]} rows, got targets {list(targets.shape)}")
    counts = torch.ones_like(wanted[:, :1]) if bits else wanted.sum(dim=1, keepdim=True)
    weight = counts / counts.sum()
    mean = (x.double() * weight).sum(dim=1, keepdim=True)
    centred = x.double() - mean
    variances, axes = torch.linalg.eigh((centred * weight).mT @ centred)
    keep = variances > _NEGLIGIBLE * variances[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)
    whitener = axes * torch.where(keep, variances.clamp(min=1e-300).rsqrt(), 0.0)[:, None, :]
    ones = torch.ones(*x.shape[:2], 1, dtype=torch.float64)
    rows = torch.cat([centred @ whitener, ones], dim=2)
    goal = wanted * weight if bits else wanted / counts.sum()
    solution = _minimise(rows, goal, weight, outputs, penalty)
    weights = whitener @ solution[:, :-1]
    return StackedProbe(weights, solution[:, -1:] - mean @ weights)


def _minimise(rows: Tensor, goal: Tensor, weight: Tensor, outputs: Outputs, penalty: float) -> Tensor:
    """Accelerated gradient descent on rows whose second moments are the identity, started anew where it overshoots."""
    size = 1 / (_CURVATURE[outputs] + penalty)
    shrink = torch.full((rows.shape[2], 1), penalty, dtype=torch.float64)
    shrink[-1] = 0.0  # the bias is free
    point = torch.zeros(len(rows), rows.shape[2], goal.shape[1], dtype=torch.float64)
    ahead, momentum = point.clone(), torch.ones(len(rows), 1, 1, dtype=torch.float64)
    for _ in range(_STEPS):
        logits = rows @ ahead
        likely = logits.sigmoid() if outputs == "bits" else logits.softmax(dim=2)
        gradient = rows.mT @ (likely * weight - goal) + shrink * ahead
        after = ahead - size * gradient
        back = (gradient * (after - point)).sum(dim=(1, 2), keepdim=True) > 0
        momentum = torch.where(back, 1.0, momentum)
        larger = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = after + torch.where(back, 0.0, (momentum - 1) / larger) * (after - point)
        point, momentum = after, larger
    return point


def fit_mlp_probes(x: Float[Tensor, "e n d"], bits: Float[Tensor, "n outputs"], fit: MlpProbeFit) -> MlpEnsemble:
    """A network with one hidden layer for each space, trained to tell every bit of the same rows; features go in as they are.

    Args:
        x: Rows of each space; standardise them first.
        bits: 1 or 0 for each row and output.
        fit: Size and steps.

    Returns:
        Networks whose outputs are above 0 where the bit is likelier 1; they take columns as rows of data.

    Raises:
        EnsembleInvalid: If rows and bits are not as many.
    """
    if x.shape[1] != len(bits):
        raise EnsembleInvalid(f"{len(bits)} rows of bits for {x.shape[1]} rows of features: wanted as many")
    ensemble = initial_mlps(Shape(x.shape[2], fit.width, 1, bits.shape[1]), [fit.seed] * len(x), dtype=x.dtype)
    optimizer = StackedAdamW(ensemble.flat, [fit.rates] * len(x))
    stream, goal = torch.Generator().manual_seed(fit.seed), bits.to(x.dtype)
    order = torch.randperm(len(bits), generator=stream)
    batch, start = min(fit.batch, len(bits)), 0
    while optimizer.steps < fit.steps:
        if start + batch > len(order):
            order, start = torch.randperm(len(bits), generator=stream), 0
        at = order[start : start + batch]
        start += batch
        logits = ensemble(x[:, at].mT)
        loss = functional.binary_cross_entropy_with_logits(logits, goal[at].T.expand_as(logits), reduction="sum")
        (loss / logits[0].numel()).backward()
        cosine_step(optimizer, fit.steps)
    return ensemble
