"""Training of one adapter a side: by steps, each epoch measured on validation, or in closed form."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from featcache.devices import check_device
from featcache.features import Features
from featcache.metrics.errors import ConstantSpace, NotFinite, ZeroRow
from featcache.metrics.measure.row import Row
from featcache.trainer.adapters import Adapters, build_adapters, copy_settings
from featcache.trainer.config import FitConfig
from featcache.trainer.draws import TrainingRows
from featcache.trainer.errors import TrainingDiverged
from featcache.trainer.joints import JOINTS, simplex
from featcache.trainer.labels import check_labels, class_count, class_numbers
from featcache.trainer.losses import MAXIMAL_LOG_SCALE, batch_loss, initial_parameters
from featcache.trainer.optimizer import AdamW, learning_rate, rising
from featcache.trainer.regularizers import lost_geometry, mixup
from featcache.trainer.seeds import stream_seed
from featcache.trainer.sides import PairedSides, pair_sides
from featcache.trainer.solve import solve
from featcache.trainer.subsets import training_part
from featcache.trainer.tracking import (
    EvaluationSplit,
    embed_split,
    epoch_rows,
    joint_alignment,
    mean_recall,
    validation_score,
)

_SLAB = 16 * 2**20  # bytes of standardised rows at a time


@dataclass(frozen=True)
class Epoch:
    """What an observer is given after each epoch; number 0 is the state before training, 1 of 1 a closed form.

    Args:
        number: Epochs trained so far.
        of: Epochs in all.
        loss: Mean training loss, in nats below a guess among the batch; None before training and of a closed form.
        retrieval: Mean R@10 of all directions on validation.
        alignment: Mutual k-NN of the joint space with the reference on validation; None without reference.
        seconds: Since training began.
    """

    number: int
    of: int
    loss: float | None
    retrieval: float
    alignment: float | None
    seconds: float


OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A finished training in memory.

    Args:
        config: Its settings.
        paired: The paired features, on the CPU.
        adapters: Weights of the selected epoch, on the CPU.
        selected_epoch: Best on validation by config.select (or the last), 1 to config.epochs; 1 of a closed form.
        rows: What was measured of every epoch, on validation.
        seconds: Of training and tracking.
        chosen: What else validation decided: hyper-parameters of a closed form, weights of the joint space.
        milestones: Epoch -> adapters at that epoch, on the CPU, in rising order: those of `milestone_epochs` and the
            selected one. Weights that were chosen for the joint space are those of every milestone.
    """

    config: FitConfig
    paired: PairedSides
    adapters: Adapters
    selected_epoch: int
    rows: list[Row]
    seconds: float
    chosen: dict[str, Any] = field(default_factory=lambda: {})
    milestones: dict[int, Adapters] = field(default_factory=lambda: {})


def milestone_epochs(epochs: int) -> tuple[int, ...]:
    """The epochs whose adapters are kept to be drawn: 0 (untrained), 1, 2, 5, 10, 20, 50 … and the last.

    Example:
        >>> milestone_epochs(20), milestone_epochs(1)
        ((0, 1, 2, 5, 10, 20), (0, 1))
    """
    steps = [leading * 10**power for power in range(len(str(epochs))) for leading in (1, 2, 5)]
    return (0, *(step for step in steps if step < epochs), epochs)


def fit(
    sides: Mapping[str, Features],
    reference: Features | None,
    config: FitConfig,
    *,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """Trains adapters that map every side into one space, and selects an epoch on validation.

    The test split is left alone. Same seed, device and number of threads: same bits.

    Args:
        sides: Name -> features, two or more; several rows a group are allowed on any of them.
        reference: Features of the stronger model; never trained on. None: no alignment is tracked.
        config: Settings.
        on_epoch: Called after every epoch.

    Raises:
        NotPaired: If the arrays do not share groups, splits and overlay.
        UsageError: If the device is not there, or settings do not fit the sides, the reference or the labels.
        TrainingDiverged: If the loss is not finite, or the adapters map every row to nothing.
    """
    config.check_sides(sides)
    return fit_paired(pair_sides(sides, reference, config), config, on_epoch=on_epoch)


def fit_paired(
    paired: PairedSides,
    config: FitConfig,
    *,
    validation: EvaluationSplit | None = None,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """As `fit`, of sides that are paired already.

    Args:
        paired: From `pair_sides`.
        config: Settings.
        validation: The validation split, where several trainings share its prepared spaces; None makes one.
        on_epoch: Called after every epoch.
    """
    started = time.perf_counter()
    check_device(config.device)
    config.check_reference(paired.reference is not None)
    check_labels(paired, config)
    part = training_part(paired, config)
    draws, control = stream_seed(config.seed, "draws"), stream_seed(config.seed, "control")
    rows = TrainingRows(part, config, draws, control)
    validation = validation or EvaluationSplit("validation", paired.part("validation"))
    tracker = _Tracker(validation, config, started, on_epoch)
    chosen: dict[str, Any] = {}
    if config.solved:
        solution, chosen = solve(config.solved, rows, config, partial(validation_score, validation, config))
        tracker.measure(untrained_adapters(paired, config, like=solution), 0, None)
        tracker.measure(solution, 1, None)
    else:
        _train(untrained_adapters(paired, config), rows, class_numbers(part), tracker)
    if JOINTS[config.joint].weights == "chosen":
        chosen |= _choose_joint(tracker.best, validation, config)
        for adapters in tracker.milestones.values():
            adapters.joint_weights.copy_(tracker.best.joint_weights)
    seconds = time.perf_counter() - started
    kept = dict(sorted({**tracker.milestones, tracker.best_epoch: tracker.best}.items()))
    return Fitted(config, paired, tracker.best, tracker.best_epoch, tracker.rows, seconds, chosen, kept)


def _train(adapters: Adapters, rows: TrainingRows, labels: Tensor, tracker: "_Tracker") -> None:
    """Trains adapters by steps; the tracker measures every epoch and keeps the best."""
    config = tracker.config
    adapters.log_scale.requires_grad_(config.temperature is None)
    first = copy.deepcopy(adapters)
    adapters.to(config.device)
    loop = _EpochLoop(rows, labels, config)
    optimizer = _optimizer(adapters, config)
    for epoch in range(1, config.epochs + 1):
        loss = loop.run_epoch(epoch, adapters, optimizer)
        if epoch == 1:
            # only now, so that nothing stands between loading the features and the first step
            tracker.measure(first, 0, None)
        try:
            tracker.measure(copy.deepcopy(adapters).cpu(), epoch, loss)
        except (NotFinite, ZeroRow, ConstantSpace) as error:
            # the same features could be measured before the first step
            raise _diverged(f"the adapters cannot be measured any more ({error})", epoch, config) from error


def _choose_joint(adapters: Adapters, validation: EvaluationSplit, config: FitConfig) -> dict[str, Any]:
    """Sets the weights of the joint space to the first best on validation, and returns them."""
    spaces = embed_split(validation, adapters).spaces
    parts = {name: torch.as_tensor(spaces[name].values) for name in adapters.names}
    best = -math.inf
    weights = adapters.weights()
    for tried in map(torch.tensor, simplex(len(parts))):
        adapters.joint_weights.copy_(tried)
        score = joint_alignment(validation, adapters.join(parts), config)
        if score > best:
            best, weights = score, tried
    adapters.joint_weights.copy_(weights)
    named = dict(zip(adapters.names, (round(weight, 6) for weight in weights.tolist()), strict=True))
    return {"joint_weights": named, "joint_score": best}


def untrained_adapters(
    paired: PairedSides, config: FitConfig, seed: int | None = None, *, like: Adapters | None = None
) -> Adapters:
    """Adapters before the first step, standardised by the training rows; of a closed form, with drawn weights.

    Args:
        paired: The paired features.
        config: Reads adapter and width; and seed, where none is given.
        seed: Of the weights.
        like: Trained ones, whose width and settings they have.
    """
    if seed is None:
        seed = stream_seed(config.seed, "weights")
    rows = {name: side.values for name, side in training_part(paired, config).sides.items()}
    width = config.width if like is None else like.width
    initial, classes = initial_parameters(config), class_count(paired, config)
    adapters = build_adapters(config.adapter_kinds(rows), rows, width=width, seed=seed, classes=classes, **initial)
    if like is not None:
        copy_settings(like, adapters)
    return adapters


class _EpochLoop:
    """The steps over the training rows of every epoch."""

    def __init__(self, rows: TrainingRows, labels: Tensor, config: FitConfig) -> None:
        self.rows = rows
        self.labels = labels.to(config.device) if config.loss == "labels" else None
        # drawn on the CPU, so that every device sees the same rows
        self.values = {name: side.values.to(config.device) for name, side in rows.sides.items()}
        self.reference = (
            rows.reference.to(config.device) if config.loss == "cka" and rows.reference is not None else None
        )
        self.config = config
        # mixtures and neighbourhoods are of the features as they are
        self.standardised = not config.mixup and not config.keep_geometry

    def run_epoch(self, epoch: int, adapters: Adapters, optimizer: AdamW) -> float:
        """Trains one epoch and returns its mean loss."""
        config, device = self.config, self.config.device
        drawn, groups, batches = self.rows.next_epoch()
        rows = {name: numbers.to(device) for name, numbers in drawn.items()}
        groups = groups.to(device)
        masks = {name: numbers >= 0 for name, numbers in rows.items()}
        masks = {} if all(bool(mask.all()) for mask in masks.values()) else masks
        total = torch.zeros((), device=groups.device)
        adapters.train()
        for number, (chosen, batch) in enumerate(self._batches(adapters, rows, batches)):
            step = (epoch - 1) * len(batches) + number
            present = {name: mask[chosen] for name, mask in masks.items()} or None
            geometry = config.keep_geometry * rising(step, config.epochs * len(batches), config.warmup)
            loss = self._loss(adapters, batch, groups[chosen], present, geometry)
            if loss.requires_grad:
                loss.backward()
            optimizer.step(learning_rate(step, config.epochs * len(batches), config.lr, config.warmup))
            with torch.no_grad():
                adapters.log_scale.clamp_(max=MAXIMAL_LOG_SCALE)
            total += loss.detach() * len(chosen)
        adapters.eval()
        mean = float(total) / len(groups)
        if not math.isfinite(mean):
            raise _diverged(f"the training loss is {mean}", epoch, config)
        return mean

    def _batches(
        self, adapters: Adapters, rows: dict[str, Tensor], batches: list[Tensor]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The numbers of each batch, and the rows of each side, taken and standardised for several batches at once."""
        wide = sum(values.shape[1] for values in self.values.values())
        most = max(1, _SLAB // (4 * wide * max(len(chosen) for chosen in batches)))
        for first in range(0, len(batches), most):
            part = batches[first : first + most]
            together = torch.cat(part)
            taken = {name: self.values[name][numbers[together]] for name, numbers in rows.items()}
            if self.standardised:
                taken = {name: adapters[name].standardised(values) for name, values in taken.items()}
            pieces = {name: values.split([len(chosen) for chosen in part]) for name, values in taken.items()}
            for number, chosen in enumerate(part):
                yield chosen, {name: each[number] for name, each in pieces.items()}

    def _loss(
        self,
        adapters: Adapters,
        batch: dict[str, Tensor],
        groups: Tensor,
        present: dict[str, Tensor] | None,
        geometry: float,
    ) -> Tensor:
        """The loss between the sides of a batch, and as much of the geometry that the adapters lose."""
        config, numbers = self.config, groups
        reference, labels = (None if each is None else each[groups] for each in (self.reference, self.labels))
        if config.mixup:
            batch, numbers, present = mixup(batch, groups, present, self.rows.generator)
        embed = adapters.embed_standardised if self.standardised else adapters.embed
        embedded = {name: embed(name, rows) for name, rows in batch.items()}
        loss = batch_loss(adapters, config, embedded, numbers, present=present, reference=reference, labels=labels)
        return loss + geometry * lost_geometry(batch, embedded, present) if geometry else loss


def _diverged(what: str, epoch: int, config: FitConfig) -> TrainingDiverged:
    usual = FitConfig.model_fields["lr"].default
    return TrainingDiverged(
        f"the training diverged in epoch {epoch} of {config.epochs}: {what}\n"
        f"  Train again with a lower --lr than {config.lr:g} (the default is {usual:g}), or a larger --batch than "
        f"{config.batch}"
    )


class _Tracker:
    """Measures every epoch on validation and keeps the best weights, and those of milestones."""

    def __init__(
        self, validation: EvaluationSplit, config: FitConfig, started: float, on_epoch: OnEpoch | None
    ) -> None:
        self.validation = validation
        self.config = config
        self.started = started
        self.on_epoch = on_epoch
        self.rows: list[Row] = []
        self.epochs = 1 if config.solved else config.epochs
        self.milestones: dict[int, Adapters] = {}
        self.best: Adapters
        self.best_epoch = 0
        self.best_score = -math.inf

    def measure(self, adapters: Adapters, epoch: int, loss: float | None) -> None:
        """Adds the rows of one epoch; its weights are kept if none before it scored as high, or at a milestone.

        Nothing may train these adapters any further.
        """
        rows = epoch_rows(self.validation, adapters, self.config, epoch)
        retrieval = mean_recall(rows)
        joint = ("joint", "reference", "mutual_knn")
        alignment = next((row.value for row in rows if (row.space, row.against, row.metric) == joint), None)
        if loss is not None:
            rows.append(
                Row("joint", "", "loss", loss, stage="trained", split="train", epoch=epoch, higher_is_better=False)
            )
        self.rows += rows
        scores = {"retrieval": retrieval, "alignment": alignment or 0.0, "last": float(epoch)}
        score = scores[self.config.select]
        if epoch and score > self.best_score:
            self.best, self.best_epoch, self.best_score = adapters, epoch, score
        if epoch in milestone_epochs(self.epochs):
            self.milestones[epoch] = adapters
        if self.on_epoch:
            seconds = time.perf_counter() - self.started
            self.on_epoch(Epoch(epoch, self.epochs, loss, retrieval, alignment, seconds))


def _optimizer(adapters: Adapters, config: FitConfig) -> AdamW:
    weights = list(adapters.parameters())
    decayed = [weight for weight in weights if weight.ndim > 1]
    plain = [weight for weight in weights if weight.ndim <= 1]
    return AdamW(decayed, plain, config.weight_decay, config.clip)
