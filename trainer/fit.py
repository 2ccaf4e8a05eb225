"""Training of two adapters for a fixed number of epochs, each measured on validation."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from featcache.devices import check_device
from featcache.features import Features
from featcache.trainer.adapters import TwoAdapters, build_adapters
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import TrainingDiverged
from featcache.trainer.losses import INITIAL_LOG_SCALE, MAXIMAL_LOG_SCALE, info_nce
from featcache.trainer.optimizer import AdamW, learning_rate
from featcache.trainer.pairs import Pairs, Side, pair
from featcache.trainer.table import Row


@dataclass(frozen=True)
class Epoch:
    """What an observer is told after each epoch; number 0 is the state before training.

    Args:
        number: Epochs trained so far.
        of: Epochs in all.
        loss: Mean training loss in nats; None before training.
        retrieval: Mean R@10 of both directions on validation.
        alignment: Mutual k-NN of the joint space with the reference on validation.
        seconds: Since training began.
    """

    number: int
    of: int
    loss: float | None
    retrieval: float
    alignment: float
    seconds: float


OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A finished training in memory.

    Args:
        config: Its settings.
        pairs: The paired features, on the CPU.
        adapters: Weights of the selected epoch, on the CPU.
        untrained: Weights before the first step, on the CPU.
        selected_epoch: Best on validation by config.select, 1 to config.epochs.
        rows: What was measured of every epoch, on validation.
        seconds: Of training and measuring.
    """

    config: FitConfig
    pairs: Pairs
    adapters: TwoAdapters
    untrained: TwoAdapters
    selected_epoch: int
    rows: list[Row]
    seconds: float


def fit(x: Features, y: Features, reference: Features, config: FitConfig, *, on_epoch: OnEpoch | None = None) -> Fitted:
    """Trains adapters that map x and y into one space and measures that space against the reference.

    The epoch is selected on validation; the test split is left alone. Same seed, device and number of
    threads: same bits.

    Args:
        x: Features of one side, such as photos.
        y: Features of the other side, such as captions; several rows a group are allowed on either side.
        reference: Features of the stronger model; never trained on.
        config: Settings.
        on_epoch: Called after every epoch.

    Raises:
        NotPaired: If the three arrays do not share groups, splits and overlay.
        UsageError: If the device is not there.
        TrainingDiverged: If the loss is not finite.
    """
    return fit_pairs(pair(x, y, reference, config), config, on_epoch=on_epoch)


def fit_pairs(pairs: Pairs, config: FitConfig, *, on_epoch: OnEpoch | None = None) -> Fitted:
    """As `fit`, for features that `featcache.trainer.pairs.pair` has paired.

    Raises:
        UsageError: If the device is not there.
        TrainingDiverged: If the loss is not finite.
    """
    started = time.perf_counter()
    check_device(config.device)
    weights_seed, draws_seed, control_seed = (int(s) for s in np.random.SeedSequence(config.seed).generate_state(3))
    train = pairs.part("train")
    adapters = build_adapters(
        config.adapter,
        train.x.values,
        train.y.values,
        width=config.width,
        log_scale=INITIAL_LOG_SCALE,
        seed=weights_seed,
    )
    untrained = copy.deepcopy(adapters)
    adapters.to(config.device)
    loop = _EpochLoop(train, config, draws_seed, control_seed)
    tracker = _Tracker(pairs, config, started, on_epoch)
    optimizer = _optimizer(adapters, config)
    for epoch in range(1, config.epochs + 1):
        loss = loop.run_epoch(epoch, adapters, optimizer)
        if epoch == 1:
            # only now, so that nothing stands between loading the features and the first step
            tracker.see(untrained, 0, None)
        tracker.see(copy.deepcopy(adapters).cpu(), epoch, loss)
    seconds = time.perf_counter() - started
    return Fitted(config, pairs, tracker.best, untrained, tracker.best_epoch, tracker.rows, seconds)


class _EpochLoop:
    """The training pairs of every epoch, and the steps over them."""

    def __init__(self, train: Pairs, config: FitConfig, draws_seed: int, control_seed: int) -> None:
        averaged = config.captions == "mean"
        self.x, self.y = (side.averaged() if averaged else side for side in (train.x, train.y))
        # drawn on the CPU, so that every device sees the same pairs
        self.values = {"x": self.x.values.to(config.device), "y": self.y.values.to(config.device)}
        groups = len(train.groups)
        self.partner = _deranged(groups, control_seed) if config.shuffle_pairs else torch.arange(groups)
        self.config = config
        self.generator = torch.Generator().manual_seed(draws_seed)

    def run_epoch(self, epoch: int, adapters: TwoAdapters, optimizer: AdamW) -> float:
        """Trains one epoch and returns its mean loss."""
        drawn = epoch_pairs(self.x, self.y, self.partner, self.config.captions, self.generator)
        rows_x, rows_y, groups = (numbers.to(self.config.device) for numbers in drawn)
        batches = math.ceil(len(groups) / self.config.batch)
        total = torch.zeros((), device=groups.device)
        for number, chosen in enumerate(torch.arange(len(groups), device=groups.device).tensor_split(batches)):
            x = adapters.embed("x", self.values["x"][rows_x[chosen]])
            y = adapters.embed("y", self.values["y"][rows_y[chosen]])
            loss = info_nce(x, y, adapters.log_scale, groups[chosen])
            loss.backward()
            step = (epoch - 1) * batches + number
            optimizer.step(learning_rate(step, self.config.epochs * batches, self.config.lr, self.config.warmup))
            with torch.no_grad():
                adapters.log_scale.clamp_(max=MAXIMAL_LOG_SCALE)
            total += loss.detach() * len(chosen)
        mean = float(total) / len(groups)
        if not math.isfinite(mean):
            raise TrainingDiverged(
                f"the training loss is {mean} in epoch {epoch} of {self.config.epochs} (lr {self.config.lr:g}, batch "
                f"{self.config.batch})\n  Train again with a lower lr"
            )
        return mean


class _Tracker:
    """Measures every epoch on validation and keeps the best weights."""

    def __init__(self, pairs: Pairs, config: FitConfig, started: float, on_epoch: OnEpoch | None) -> None:
        from featcache.trainer.evaluate import EvaluationSplit

        self.validation = EvaluationSplit("validation", pairs.part("validation"), config)
        self.config = config
        self.started = started
        self.on_epoch = on_epoch
        self.rows: list[Row] = []
        self.best: TwoAdapters
        self.best_epoch = 0
        self.best_score = -math.inf

    def see(self, adapters: TwoAdapters, epoch: int, loss: float | None) -> None:
        """Adds the rows of one epoch; its weights are kept if none before it scored as high."""
        from featcache.trainer.evaluate import adapt, adapted_rows

        stage = "trained" if epoch else "untrained"
        rows = adapted_rows(self.validation, adapt(self.validation, adapters), stage, epoch)
        retrieval = float(np.mean([row.value for row in rows if row.metric == "R@10"]))
        alignment = next(row.value for row in rows if (row.space, row.metric) == ("joint", "mutual_knn"))
        n = len(self.validation.pairs.groups)
        heldout = _heldout_loss(adapters, self.validation.pairs, self.config.batch)
        rows.append(Row(stage, "x+y", "pair", "loss", "validation", heldout, epoch=epoch, n=n))
        if loss is not None:
            rows.append(Row(stage, "x+y", "pair", "loss", "train", loss, epoch=epoch))
        self.rows += rows
        score = retrieval if self.config.select == "retrieval" else alignment
        if epoch and score > self.best_score:
            self.best, self.best_epoch, self.best_score = adapters, epoch, score
        if self.on_epoch:
            seconds = time.perf_counter() - self.started
            self.on_epoch(Epoch(epoch, self.config.epochs, loss, retrieval, alignment, seconds))


def epoch_pairs(
    x: Side, y: Side, partner: Int[Tensor, " g"], captions: str, generator: torch.Generator
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Draws the pairs of one epoch, shuffled.

    Args:
        x: Training rows of side x.
        y: Training rows of side y.
        partner: The group of y that each group of x is paired with.
        captions: "all": every row of the larger side of a group once; else one row a group and side.
        generator: CPU generator of the draw.

    Returns:
        Row of x, row of y and group of x of each pair.
    """
    count_x, count_y = x.counts, y.counts[partner]
    repeats = torch.maximum(count_x, count_y) if captions == "all" else torch.ones_like(partner)
    groups = torch.repeat_interleave(torch.arange(len(partner)), repeats)
    before = repeats.cumsum(0) - repeats
    within = torch.arange(len(groups)) - before[groups]
    offsets = torch.rand(2, len(partner), generator=generator, dtype=torch.float64)
    rows: list[Tensor] = []
    for starts, count, offset in ((x.starts, count_x, offsets[0]), (y.starts[partner], count_y, offsets[1])):
        drawn = (offset * count).long()
        rows.append(starts[groups] + (within + drawn[groups]) % count[groups])
    order = torch.randperm(len(groups), generator=generator)
    return rows[0][order], rows[1][order], groups[order]


def _deranged(count: int, seed: int) -> Int[Tensor, " g"]:
    # a random cycle through all groups: no group keeps its partner
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(1)
    return partner


def _optimizer(adapters: TwoAdapters, config: FitConfig) -> AdamW:
    weights = list(adapters.parameters())
    decayed = [weight for weight in weights if weight.ndim > 1]
    return AdamW(decayed, [weight for weight in weights if weight.ndim <= 1], config.weight_decay)


@torch.no_grad()
def _heldout_loss(adapters: TwoAdapters, pairs: Pairs, batch: int) -> float:
    # the first row of each group, in order, in batches as large as in training: the loss depends on their size
    x = adapters.embed("x", pairs.x.values[pairs.x.starts])
    y = adapters.embed("y", pairs.y.values[pairs.y.starts])
    batches = math.ceil(len(x) / batch)
    losses: list[Float[Tensor, ""]] = []
    for a, b in zip(x.tensor_split(batches), y.tensor_split(batches), strict=True):
        losses.append(info_nce(a, b, adapters.log_scale) * len(a))
    return float(torch.stack(losses).sum()) / len(x)
