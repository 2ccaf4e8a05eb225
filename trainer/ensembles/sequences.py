"""Transformers of one shape trained at once on the same sequences, and kept where validation was best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from featcache.trainer.ensembles.flat import Rates, StackedAdamW
from featcache.trainer.ensembles.transformer import Dropout, TransformerEnsemble
from featcache.trainer.errors import EnsembleInvalid, TrainingDiverged

Task = Literal["regression", "classification"]
OnEpoch = Callable[[int, int], None]  # epochs done, of how many
_DROPOUT_STREAM = 2**32  # added to a member's seed, so that its order of rows and its dropout are apart


@dataclass(frozen=True, eq=False)
class SequenceRows:
    """Rows that every member is trained or measured on.

    Args:
        values: [n, t, f] sequences.
        padding: True where a row has ended; None where none has.
        targets: [n] classes, or values of a regression.
    """

    values: Float[Tensor, "n t f"]
    padding: Bool[Tensor, "n t"] | None
    targets: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, rows: Tensor) -> "SequenceRows":
        """Rows by their numbers [...]; what they hold is [..., t, f]."""
        padding = None if self.padding is None else self.padding[rows]
        return SequenceRows(self.values[rows], padding, self.targets[rows])


@dataclass(frozen=True)
class SequenceSettings:
    """How an ensemble is trained.

    Args:
        task: "classification": cross-entropy, kept by validation accuracy. "regression": mean absolute error, by which
            it is kept, too.
        epochs: Passes over the training rows.
        batch: Rows a step; the last of an epoch may be smaller.
        dropout: Of attention and of both parts of a layer.
    """

    task: Task
    epochs: int = 50
    batch: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.task not in get_args(Task) or self.epochs < 1 or self.batch < 1:
            raise EnsembleInvalid(
                f"{self}: wanted 1 or more epochs and rows a batch, and {' or '.join(get_args(Task))}"
            )


@dataclass(frozen=True, eq=False)
class FittedSequences:
    """A trained ensemble.

    Args:
        ensemble: With each member's parameters where validation was best, the first of equals.
        validation: [E] accuracy, or mean absolute error, there.
        epoch: [E] the epoch after which it was, from 1.
    """

    ensemble: TransformerEnsemble
    validation: Float[Tensor, " e"]
    epoch: Tensor


def fit_sequences(
    ensemble: TransformerEnsemble,
    rates: Sequence[Rates],
    seeds: Sequence[int],
    rows: tuple[SequenceRows, SequenceRows],
    settings: SequenceSettings,
    on_epoch: OnEpoch | None = None,
) -> FittedSequences:
    """Trains every member on the same rows, each in its own order and with its own dropout.

    What a member becomes does not depend on the others: its rows, gradient, clip and step are its own.

    Args:
        ensemble: Initial parameters; trained in place.
        rates: One a member.
        seeds: One a member: of its order of rows and its dropout.
        rows: Training and validation, on the device of the parameters.
        settings: Task, epochs, batches, dropout.
        on_epoch: Called after each epoch.

    Raises:
        EnsembleInvalid: If there is not one seed a member.
        TrainingDiverged: If parameters stopped being finite; names the first member.
    """
    if len(seeds) != len(ensemble):
        raise EnsembleInvalid(f"{len(seeds)} seeds for {len(ensemble)} members: wanted one each")
    train, valid = rows
    device = ensemble.flat.values.device
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    streams = [torch.Generator(device).manual_seed(seed + _DROPOUT_STREAM) for seed in seeds]
    optimizer, dropout = StackedAdamW(ensemble.flat, rates), Dropout(settings.dropout, streams)
    best = FittedSequences(
        TransformerEnsemble(ensemble.shape, ensemble.flat.values),
        torch.full((len(ensemble),), -torch.inf),
        torch.zeros(len(ensemble), dtype=torch.long),
    )
    for epoch in range(1, settings.epochs + 1):
        order = torch.stack([torch.randperm(len(train), generator=each) for each in orders]).to(device)
        for chosen in order.split(settings.batch, dim=1):
            part = train.batch(chosen)
            summed_loss(ensemble(part.values, part.padding, dropout), part.targets, settings.task).backward()
            optimizer.step()
        _keep_best(ensemble, valid, best, epoch, settings)
        if on_epoch:
            on_epoch(epoch, settings.epochs)
    if settings.task == "regression":
        best.validation.neg_()
    return best


def summed_loss(outputs: Float[Tensor, "e n o"], targets: Tensor, task: Task) -> Tensor:
    """Sum over members of each one's mean cross-entropy, in nats, or mean absolute error.

    Args:
        outputs: Of every member.
        targets: [e, n].
        task: Which of both.
    """
    if task == "regression":
        return (outputs[..., 0] - targets).abs().mean(dim=1).sum()
    loss = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum")
    return loss / targets.shape[1]


@torch.no_grad()
def outputs_of(ensemble: TransformerEnsemble, rows: SequenceRows, *, batch: int = 256) -> Float[Tensor, "e n o"]:
    """Outputs of every member for every row, without dropout."""
    parts = [ensemble(*_for_all(ensemble, rows, start, batch)) for start in range(0, len(rows), batch)]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def hidden_of(
    ensemble: TransformerEnsemble, rows: SequenceRows, *, batch: int = 256
) -> list[Float[Tensor, "e n width"]]:
    """Every layer's pooled output of every member for every row, without dropout."""
    parts = [ensemble.hidden(*_for_all(ensemble, rows, start, batch)) for start in range(0, len(rows), batch)]
    return [torch.cat(layer, dim=1) for layer in zip(*parts, strict=True)]


def performance(outputs: Float[Tensor, "e n o"], targets: Tensor, task: Task) -> Float[Tensor, " e"]:
    """Accuracy of every member; of a regression that of the sign, where 0 counts as negative.

    Args:
        outputs: Of every member.
        targets: [n].
        task: What was trained.

    Example:
        >>> performance(torch.tensor([[[0.2], [-1.0], [0.5]]]), torch.tensor([1.5, 0.0, -0.5]), "regression").tolist()
        [0.6666666865348816]
    """
    if task == "regression":
        hits = (outputs[..., 0] > 0) == (targets > 0)
    else:
        hits = outputs.argmax(dim=-1) == targets
    return hits.float().mean(dim=1)


def _for_all(ensemble: TransformerEnsemble, rows: SequenceRows, start: int, batch: int) -> tuple[Tensor, Tensor | None]:
    """The same rows for every member, without a copy."""
    part = slice(start, start + batch)
    padding = None if rows.padding is None else rows.padding[part].expand(len(ensemble), -1, -1)
    return rows.values[part].expand(len(ensemble), -1, -1, -1), padding


@torch.no_grad()
def _keep_best(
    ensemble: TransformerEnsemble, valid: SequenceRows, best: FittedSequences, epoch: int, settings: SequenceSettings
) -> None:
    broken = ~torch.isfinite(ensemble.flat.values).all(dim=1)
    if broken.any():
        number = int(broken.nonzero()[0, 0])
        raise TrainingDiverged(f"member {number} of the ensemble: parameters are not finite after epoch {epoch}")
    outputs = outputs_of(ensemble, valid)
    if settings.task == "regression":
        reached = -(outputs[..., 0] - valid.targets).abs().mean(dim=1).cpu()
    else:
        reached = performance(outputs, valid.targets, settings.task).cpu()
    better = reached > best.validation
    best.ensemble.flat.values[better] = ensemble.flat.values[better]
    best.validation[better], best.epoch[better] = reached[better].to(best.validation), epoch
