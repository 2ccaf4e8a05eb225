"""Classifiers of one shape trained at once, each on its own data and rates, and kept where validation was best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featcache.trainer.ensembles.flat import Rates, StackedAdamW
from featcache.trainer.ensembles.mlp import MlpEnsemble
from featcache.trainer.errors import EnsembleInvalid, TrainingDiverged

OnEpoch = Callable[[int, int], None]  # steps done, of how many
_VALIDATION_ROWS = 4_096  # at a time


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of several data sets of equal length.

    Args:
        x: [n, sets, d] so that the rows of a batch lie together.
        labels: [n, sets] classes.
    """

    x: Float[Tensor, "n sets d"]
    labels: Int[Tensor, "n sets"]


@dataclass(frozen=True)
class FitSettings:
    """How an ensemble is trained.

    Args:
        steps: Of the optimiser; the last epoch may be cut short.
        batch: Rows a step; the last batch of an epoch may be smaller.
        seed: Of the order of rows, one permutation an epoch, which all members share.
        validate_every: Epochs from one validation to the next; the last epoch is validated always.
    """

    steps: int
    batch: int = 512
    seed: int = 0
    validate_every: int = 1


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained ensemble.

    Args:
        ensemble: With each member's parameters where its validation accuracy was best, the first of equals.
        accuracy: [E] that accuracy.
        step: [E] steps behind which it was.
    """

    ensemble: MlpEnsemble
    accuracy: Float[Tensor, " e"]
    step: Int[Tensor, " e"]


def fit_classifiers(
    ensemble: MlpEnsemble,
    rates: Sequence[Rates],
    train: Rows,
    valid: Rows,
    settings: FitSettings,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """Trains every member by cross-entropy on its data set; member e takes data set e.

    A member's losses, clips and steps are its own: the sum over members is differentiated, so that each gets the
    gradient that it would get alone.

    Args:
        ensemble: Initial parameters; trained in place.
        rates: One a member.
        train: As many data sets as members.
        valid: Decides which parameters are kept.
        settings: Steps, batches, order.
        on_epoch: Called after each epoch.

    Raises:
        EnsembleInvalid: If data sets and members are not as many, or there is no step to take.
        TrainingDiverged: If parameters stopped being finite; names the first member.
    """
    if train.x.shape[1] != len(ensemble) or valid.x.shape[1] != len(ensemble):
        raise EnsembleInvalid(f"{train.x.shape[1]} data sets for {len(ensemble)} members: wanted one each")
    if settings.steps < 1 or settings.batch < 1 or settings.validate_every < 1:
        raise EnsembleInvalid("wanted 1 or more steps, rows a batch and epochs from validation to validation")
    optimizer = StackedAdamW(ensemble.flat, rates)
    best = Fitted(
        MlpEnsemble(ensemble.shape, ensemble.flat.values),
        torch.full((len(ensemble),), -1.0),
        torch.zeros(len(ensemble), dtype=torch.long),
    )
    order = torch.Generator().manual_seed(settings.seed)
    epoch = 0
    while optimizer.steps < settings.steps:
        rows = torch.randperm(len(train.x), generator=order)
        for batch in rows.split(settings.batch)[: settings.steps - optimizer.steps]:
            loss = summed_cross_entropy(ensemble(columns(train.x[batch])), train.labels[batch])
            loss.backward()
            optimizer.step()
        epoch += 1
        if epoch % settings.validate_every == 0 or optimizer.steps >= settings.steps:
            _keep_best(ensemble, valid, best, optimizer.steps)
        if on_epoch:
            on_epoch(optimizer.steps, settings.steps)
    return best


def columns(rows: Float[Tensor, "batch sets d"]) -> Float[Tensor, "sets d batch"]:
    """Rows as an ensemble takes them, without a copy."""
    return rows.permute(1, 2, 0)


def summed_cross_entropy(logits: Float[Tensor, "e classes batch"], labels: Int[Tensor, "batch e"]) -> Tensor:
    """Sum over members of each one's mean cross-entropy, in nats."""
    return torch.nn.functional.cross_entropy(logits, labels.T, reduction="sum") / logits.shape[2]


@torch.no_grad()
def accuracies(ensemble: MlpEnsemble, rows: Rows) -> Float[Tensor, " e"]:
    """Share of rows whose class each member's largest output is."""
    hits = torch.zeros(len(ensemble))
    for x, labels in zip(rows.x.split(_VALIDATION_ROWS), rows.labels.split(_VALIDATION_ROWS), strict=True):
        hits += (ensemble(columns(x)).argmax(dim=1) == labels.T).sum(dim=1)
    return hits / len(rows.x)


@torch.no_grad()
def _keep_best(ensemble: MlpEnsemble, valid: Rows, best: Fitted, step: int) -> None:
    broken = ~torch.isfinite(ensemble.flat.values).all(dim=1)
    if broken.any():
        number = int(broken.nonzero()[0, 0])
        raise TrainingDiverged(f"member {number} of the ensemble: parameters are not finite after {step} steps")
    accuracy = accuracies(ensemble, valid)
    better = accuracy > best.accuracy
    best.ensemble.flat.values[better] = ensemble.flat.values[better]
    best.accuracy[better], best.step[better] = accuracy[better], step
