"""Classifiers with one hidden layer, many at once on parts of the same rows, each read after every epoch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from featcache.metrics.arrays import X, as_float64
from featcache.metrics.errors import BadChoice, BadShape

if TYPE_CHECKING:
    import torch

_LEAST_STEPS = 12  # of an epoch: small sets take smaller batches


@dataclass(frozen=True)
class PerceptronSettings:
    """How the classifiers are trained.

    Args:
        hidden: Units of the hidden layer, with GELU.
        epochs: At most; the learning rate falls to 0 along a cosine.
        batch: Rows a step; fewer where an epoch would have less than twelve steps.
        lr: Peak learning rate of AdamW.
        weight_decay: Of the weights, decoupled.
        seed: Of initial weights and of the order of rows.
    """

    hidden: int = 32
    epochs: int = 30
    batch: int = 256
    lr: float = 5e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.hidden, self.epochs, self.batch) < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise BadChoice(f"{self}: wanted sizes of 1 or more, a learning rate above 0 and a decay of 0 or more")


def perceptron_logits(
    x: X,
    y: Int[np.ndarray, " n"],
    train: Bool[np.ndarray, "m n"],
    *,
    classes: int,
    settings: PerceptronSettings = PerceptronSettings(),
) -> Iterator[Float[np.ndarray, "m n c"]]:
    """Trains m classifiers, each on its own rows, and yields the logits of all of them on all rows after each epoch.

    All see the same batches, of which each learns from its own rows. Stop reading to stop training.

    Args:
        x: [n, d]; columns are standardised by all rows.
        y: Class of each row, 0 to classes - 1.
        train: Rows that each classifier is trained on.
        classes: How many there are.
        settings: Sizes and rates.

    Raises:
        BadShape: If there is not one class and one mask a row.
        BadDtype, NotFinite: As `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).integers(0, 2, (600, 2)).astype(float)
        >>> y = (x[:, 0] != x[:, 1]).astype(int)  # XOR, which no linear classifier can tell
        >>> *_, last = perceptron_logits(x, y, np.ones((1, 600), bool), classes=2)
        >>> float(np.mean(last[0].argmax(axis=1) == y))
        1.0
    """
    import torch

    values = as_float64(x)
    if y.shape != (len(values),) or train.shape[1:] != y.shape:
        raise BadShape(f"wanted a class and masks for each of {len(values)} rows, got {y.shape} and {train.shape}")
    mean, std = values.mean(axis=0), values.std(axis=0)
    std = np.where(std > 1e-12 * np.abs(values).max(axis=0), std, 1.0)
    rows, true = torch.from_numpy(((values - mean) / std).astype(np.float32)), torch.from_numpy(y)
    masks = torch.from_numpy(train)
    generator = torch.Generator().manual_seed(settings.seed)
    weights = _initial(rows.shape[1], settings.hidden, classes, len(train), generator)
    optimizer = torch.optim.AdamW(
        [{"params": weights[:2], "weight_decay": settings.weight_decay}, {"params": weights[2:], "weight_decay": 0.0}],
        lr=settings.lr,
    )  # fmt: skip
    batch = max(1, min(settings.batch, len(rows) // _LEAST_STEPS))
    steps = settings.epochs * math.ceil(len(rows) / batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(settings.epochs):
        for at in torch.randperm(len(rows), generator=generator).split(batch):
            optimizer.zero_grad()
            logits = _forward(rows[at], weights).flatten(0, 1)
            losses = torch.nn.functional.cross_entropy(logits, true[at].repeat(len(train)), reduction="none")
            own = masks[:, at]
            means = (losses.view_as(own) * own).sum(dim=1) / own.sum(dim=1).clamp(min=1)
            means.sum().backward()  # each member's gradient is that of its own mean
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            yield _forward(rows, weights).double().numpy()


def _initial(d: int, hidden: int, classes: int, members: int, generator: "torch.Generator") -> "list[torch.Tensor]":
    """Weights [d, m h] and [m, h, c], then their biases; all members start alike."""
    import torch

    def drawn(*shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) / (shape[0] if len(shape) > 1 else hidden) ** 0.5

    first, second, bias = drawn(d, hidden), drawn(hidden, classes), drawn(hidden) * (hidden / d) ** 0.5
    stacked = [
        first.repeat(1, members),
        second.repeat(members, 1, 1),
        bias.repeat(members),
        torch.zeros(members, 1, classes),
    ]
    return [tensor.requires_grad_() for tensor in stacked]


def _forward(rows: "torch.Tensor", weights: "list[torch.Tensor]") -> "torch.Tensor":
    """Logits [m, n, c]; the first layer of all members is one product."""
    import torch

    first, second, bias, offset = weights
    hidden = torch.nn.functional.gelu(torch.addmm(bias, rows, first))
    return torch.baddbmm(offset, hidden.unflatten(1, second.shape[:2]).transpose(0, 1), second)
