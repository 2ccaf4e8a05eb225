"""Controls of a run that cost no training: ridge regression to the reference, and noise of equal spectrum."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from featcache.metrics import spectrum_noise
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import Row
from featcache.metrics.measure.settings import MeasureSettings
from featcache.metrics.measure.space import ArraySpace
from featcache.metrics.sweeps.ridge import RidgePath
from featcache.trainer.adapters import statistics
from featcache.trainer.sides import PairedSides
from featcache.trainer.solve import PENALTIES
from featcache.trainer.tracking import EvaluationSplit, alignment_rows

RIDGE_GROUPS = 20_000  # that a regression is fitted to, at most
Array = NDArray[np.float64]


def whole_groups(train: PairedSides, most: int) -> Int[Tensor, " m"]:
    """Numbers of the groups that have all sides and the reference, ascending; none without a reference.

    Args:
        train: Training groups.
        most: So many of them at most, drawn by a fixed seed.
    """
    if train.reference is None:
        return torch.empty(0, dtype=torch.long)
    whole = train.reference.isfinite().all(dim=1)
    for side in train.sides.values():
        whole &= side.present
    numbers = torch.nonzero(whole).ravel()
    drawn = np.sort(np.random.default_rng(0).permutation(len(numbers))[:most])
    return numbers[torch.from_numpy(drawn)]


def ridge_rows(
    train: PairedSides,
    validation: EvaluationSplit,
    tests: Sequence[EvaluationSplit],
    plain: MeasureSettings,
    settings: MeasureSettings,
) -> list[Row]:
    """What a linear map to the reference makes of each raw side, and of all together ("joint"), whatever the pairs say.

    One row a group, its mean; inputs standardised by the training groups, targets the reference's unit rows. The
    penalty is the one of PENALTIES with the smallest squared error on validation.

    Args:
        train: The training groups; those that lack a side or the reference are left out.
        validation: Chooses the penalties.
        tests: The test split, and its clean part where there is one.
        plain: How spaces are measured on validation.
        settings: And on test.

    Returns:
        Alignment of the predicted rows with the reference; none without a reference, or below two training groups.
    """
    fitted = whole_groups(train, RIDGE_GROUPS)
    if len(fitted) < 2:
        return []
    splits = [EvaluationSplit("train", train.subset("train", fitted)), validation, *tests]
    inputs = [_standardised(splits[0], split) for split in splits]
    targets = [_unit_targets(split) for split in splits[:2]]
    spaces: dict[str, list[ArraySpace]] = {split.name: [] for split in splits[1:]}
    notes: dict[str, str] = {}
    for name in inputs[0]:
        path = RidgePath(inputs[0][name], targets[0])
        penalty, r2 = path.chosen(inputs[1][name], targets[1], PENALTIES)
        notes[name] = f"penalty {penalty:g}, chosen on validation (R² {r2:.3f}), of {len(fitted)} training groups"
        for split, values in zip(splits[1:], inputs[1:], strict=True):
            predicted = path.predicted(values[name], penalty).astype(np.float32)
            spaces[split.name].append(ArraySpace(predicted, name))
    rows: list[Row] = []
    for split in splits[1:]:
        measured = measure(spaces[split.name], split.reference, plain if split is validation else settings).rows
        rows += [_with_note(replace(row, stage="ridge", split=split.name), notes[row.space]) for row in measured]
    return rows


def noise_rows(tests: Sequence[EvaluationSplit], plain: MeasureSettings) -> list[Row]:
    """What the spectrum of each raw side alone is worth: Gaussian noise with its mean and covariance in its place.

    One draw a side and split, always the same, against the reference and of the sides against each other.
    """
    rows: list[Row] = []
    for split in tests:
        noise = {
            name: ArraySpace(spectrum_noise(torch.as_tensor(space.values), seed=number), name)
            for number, (name, space) in enumerate(split.raw.items())
        }
        rows += alignment_rows(split, noise, plain)
    return [replace(row, stage="noise") for row in rows]


def _with_note(row: Row, note: str) -> Row:
    return replace(row, note=f"{row.note}; {note}" if row.note else note)


def _standardised(train: EvaluationSplit, split: EvaluationSplit) -> Mapping[str, Array]:
    """Raw sides of a split, standardised by the training groups, one by one and, as "joint", side by side."""
    sides: dict[str, Array] = {}
    for name, space in split.raw.items():
        mean, deviation = statistics(torch.as_tensor(train.raw[name].values).double())
        deviation = torch.where(deviation > 0, deviation, 1.0)
        sides[name] = ((torch.as_tensor(space.values).double() - mean) / deviation).numpy()
    return {**sides, "joint": np.concatenate([*sides.values()], axis=1)}


def _unit_targets(split: EvaluationSplit) -> Float[Array, "g d"]:
    assert split.reference is not None  # as the caller saw to
    return torch.nn.functional.normalize(torch.as_tensor(split.reference.values).double(), dim=1).numpy()
