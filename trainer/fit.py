"""Training of one adapter a side for a fixed number of epochs, each measured on validation."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from featcache.devices import check_device
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.errors import ConstantSpace, NotFinite, ZeroRow
from featcache.metrics.measure.row import Row
from featcache.trainer.adapters import Adapters, build_adapters
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import TrainingDiverged
from featcache.trainer.losses import INITIAL_LOG_SCALE, MAXIMAL_LOG_SCALE, pairwise_loss
from featcache.trainer.optimizer import AdamW, learning_rate
from featcache.trainer.sides import PairedSides, Side, pair_sides
from featcache.trainer.subsets import Passes, swapped_partners, training_part
from featcache.trainer.tracking import EvaluationSplit, epoch_rows


@dataclass(frozen=True)
class Epoch:
    """What an observer is given after each epoch; number 0 is the state before training.

    Args:
        number: Epochs trained so far.
        of: Epochs in all.
        loss: Mean training loss, in nats below a guess among the batch; None before training.
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
        selected_epoch: Best on validation by config.select, 1 to config.epochs.
        rows: What was measured of every epoch, on validation.
        seconds: Of training and tracking.
    """

    config: FitConfig
    paired: PairedSides
    adapters: Adapters
    selected_epoch: int
    rows: list[Row]
    seconds: float


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
        UsageError: If the device is not there, or settings do not fit the sides.
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
    if config.select == "alignment" and paired.reference is None:
        raise UsageError("--select alignment needs a reference to align with\n  Name one, or select by retrieval")
    weights_seed, draws_seed, control_seed = (int(s) for s in np.random.SeedSequence(config.seed).generate_state(3))
    train = training_part(paired, config)
    adapters = untrained_adapters(paired, config, weights_seed)
    first = copy.deepcopy(adapters)
    adapters.to(config.device)
    loop = _EpochLoop(train, config, draws_seed, control_seed)
    tracker = _Tracker(
        validation or EvaluationSplit("validation", paired.part("validation")), config, started, on_epoch
    )
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
    seconds = time.perf_counter() - started
    return Fitted(config, paired, tracker.best, tracker.best_epoch, tracker.rows, seconds)


def untrained_adapters(paired: PairedSides, config: FitConfig, seed: int | None = None) -> Adapters:
    """Adapters before the first step, standardised by the training rows.

    Args:
        paired: The paired features.
        config: Reads adapter and width; and seed, where none is given.
        seed: Of the weights.
    """
    if seed is None:
        seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
    rows = {name: side.values for name, side in training_part(paired, config).sides.items()}
    return build_adapters(config.adapter_kinds(rows), rows, width=config.width, log_scale=INITIAL_LOG_SCALE, seed=seed)


class _EpochLoop:
    """The training rows of every epoch, and the steps over them."""

    def __init__(self, train: PairedSides, config: FitConfig, draws_seed: int, control_seed: int) -> None:
        averaged = config.captions == "mean"
        self.sides = {name: side.averaged() if averaged else side for name, side in train.sides.items()}
        # drawn on the CPU, so that every device sees the same rows
        self.values = {name: side.values.to(config.device) for name, side in self.sides.items()}
        groups = len(train.groups)
        self.partners = [torch.arange(groups)] * len(self.sides)
        if config.shuffle_pairs:
            self.partners[1:] = [_deranged(groups, control_seed, shift) for shift in range(1, len(self.sides))]
        if config.swap:
            self.partners[1:] = [swapped_partners(train, config, control_seed)] * (len(self.sides) - 1)
        self.config = config
        self.generator = torch.Generator().manual_seed(draws_seed)
        self.passes = Passes(self._draw, config.batch, config.steps)

    def _draw(self) -> tuple[list[Tensor], Tensor]:
        return draw_rows([*self.sides.values()], self.partners, self.config.captions, self.generator)

    def run_epoch(self, epoch: int, adapters: Adapters, optimizer: AdamW) -> float:
        """Trains one epoch and returns its mean loss."""
        config, device = self.config, self.config.device
        drawn, groups, batches = self.passes.next_epoch()
        rows = {name: numbers.to(device) for name, numbers in zip(self.sides, drawn, strict=True)}
        groups = groups.to(device)
        masks = {name: numbers >= 0 for name, numbers in rows.items()}
        masks = {} if all(bool(mask.all()) for mask in masks.values()) else masks
        total = torch.zeros((), device=groups.device)
        for number, chosen in enumerate(batches):
            embedded = {name: adapters.embed(name, self.values[name][rows[name][chosen]]) for name in rows}
            present = {name: mask[chosen] for name, mask in masks.items()} or None
            loss = pairwise_loss(embedded, adapters.log_scale, groups[chosen], config.pair_weights, present)
            if loss.requires_grad:
                loss.backward()
            step = (epoch - 1) * len(batches) + number
            optimizer.step(learning_rate(step, config.epochs * len(batches), config.lr, config.warmup))
            with torch.no_grad():
                adapters.log_scale.clamp_(max=MAXIMAL_LOG_SCALE)
            total += loss.detach() * len(chosen)
        mean = float(total) / len(groups)
        if not math.isfinite(mean):
            raise _diverged(f"the training loss is {mean}", epoch, config)
        return mean


def _diverged(what: str, epoch: int, config: FitConfig) -> TrainingDiverged:
    usual = FitConfig.model_fields["lr"].default
    return TrainingDiverged(
        f"the training diverged in epoch {epoch} of {config.epochs}: {what}\n"
        f"  Train again with a lower --lr than {config.lr:g} (the default is {usual:g}), or a larger --batch than "
        f"{config.batch}"
    )


class _Tracker:
    """Measures every epoch on validation and keeps the best weights."""

    def __init__(
        self, validation: EvaluationSplit, config: FitConfig, started: float, on_epoch: OnEpoch | None
    ) -> None:
        self.validation = validation
        self.config = config
        self.started = started
        self.on_epoch = on_epoch
        self.rows: list[Row] = []
        self.best: Adapters
        self.best_epoch = 0
        self.best_score = -math.inf

    def measure(self, adapters: Adapters, epoch: int, loss: float | None) -> None:
        """Adds the rows of one epoch; its weights are kept if none before it scored as high."""
        rows = epoch_rows(self.validation, adapters, self.config, epoch)
        retrieval = float(np.mean([row.value or 0.0 for row in rows if row.metric == "R@10"]))
        joint = ("joint", "reference", "mutual_knn")
        alignment = next((row.value for row in rows if (row.space, row.against, row.metric) == joint), None)
        if loss is not None:
            rows.append(
                Row("joint", "", "loss", loss, stage="trained", split="train", epoch=epoch, higher_is_better=False)
            )
        self.rows += rows
        score = retrieval if self.config.select == "retrieval" or alignment is None else alignment
        if epoch and score > self.best_score:
            self.best, self.best_epoch, self.best_score = adapters, epoch, score
        if self.on_epoch:
            seconds = time.perf_counter() - self.started
            self.on_epoch(Epoch(epoch, self.config.epochs, loss, retrieval, alignment, seconds))


def draw_rows(
    sides: Sequence[Side], partners: Sequence[Int[Tensor, " g"]], captions: str, generator: torch.Generator
) -> tuple[list[Int[Tensor, " p"]], Int[Tensor, " p"]]:
    """Draws the rows of one epoch, shuffled.

    Args:
        sides: Training rows of each side.
        partners: The group of each side that every group is paired with.
        captions: "all": every row of the largest side of a group once; else one row a group and side.
        generator: CPU generator of the draw.

    Returns:
        Row of each side, -1 where the side is missing, and the group of each.
    """
    counts = [side.counts[partner] for side, partner in zip(sides, partners, strict=True)]
    largest = torch.stack(counts).amax(dim=0)
    repeats = largest if captions == "all" else torch.ones_like(largest)
    groups = torch.repeat_interleave(torch.arange(len(repeats)), repeats)
    before = repeats.cumsum(0) - repeats
    within = torch.arange(len(groups)) - before[groups]
    offsets = torch.rand(len(sides), len(repeats), generator=generator, dtype=torch.float64)
    rows: list[Tensor] = []
    for side, partner, count, offset in zip(sides, partners, counts, offsets, strict=True):
        drawn = (offset * count).long()
        chosen = side.starts[partner][groups] + (within + drawn[groups]) % count.clamp(min=1)[groups]
        rows.append(torch.where(count[groups] > 0, chosen, -1))
    order = torch.randperm(len(groups), generator=generator)
    return [numbers[order] for numbers in rows], groups[order]


def _deranged(count: int, seed: int, shift: int = 1) -> Int[Tensor, " g"]:
    # a random cycle through all groups, each side another shift along it: no two sides of a group meet
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(shift)
    return partner


def _optimizer(adapters: Adapters, config: FitConfig) -> AdamW:
    weights = list(adapters.parameters())
    decayed = [weight for weight in weights if weight.ndim > 1]
    return AdamW(decayed, [weight for weight in weights if weight.ndim <= 1], config.weight_decay)
