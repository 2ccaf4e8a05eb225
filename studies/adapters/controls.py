"""Controls of a run that cost no training: ridge to the reference, noise of equal spectrum, gaps and dimensions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from featcache.metrics import distribution_gap, intrinsic_dimension, modality_gap, spectrum_noise
from featcache.metrics.errors import MetricError
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import Row
from featcache.metrics.measure.settings import MeasureSettings
from featcache.metrics.measure.space import ArraySpace, Space
from featcache.metrics.sweeps.ridge import ridge_paths
from featcache.trainer.adapters import statistics
from featcache.trainer.sides import PairedSides
from featcache.trainer.solve import PENALTIES
from featcache.trainer.tracking import EvaluationSplit, alignment_rows

RIDGE_GROUPS = 20_000  # that a regression is fitted to, at most
GAPS: dict[str, Callable[..., float]] = {"centroid_gap": modality_gap, "distribution_gap": distribution_gap}
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
    columns = _columns(splits[0])
    x, *held = _standardised(splits)
    target, wanted = (_unit_targets(split) for split in splits[:2])
    spaces: dict[str, list[ArraySpace]] = {split.name: [] for split in splits[1:]}
    notes: dict[str, str] = {}
    for name, path in ridge_paths(x, target, columns).items():
        own = columns[name]
        penalty, r2 = path.chosen(held[0][:, own], wanted, PENALTIES)
        notes[name] = f"penalty {penalty:g}, chosen on validation (R² {r2:.3f}), of {len(fitted)} training groups"
        for split, values in zip(splits[1:], held, strict=True):
            predicted = path.predicted(values[:, own], penalty).astype(np.float32)
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


def gap_rows(spaces: Mapping[str, ArraySpace], sides: Sequence[str]) -> list[Row]:
    """How far apart two sides lie in their joint space: between their centroids, and what is left once these meet.

    Args:
        spaces: Name -> one row a group, all sides of one width.
        sides: Names of the sides, every two of which are compared.
    """
    rows: list[Row] = []
    for a, b in combinations(sides, 2):
        x, y = spaces[a].values, spaces[b].values
        shape = {"n": len(x), "d": x.shape[1], "d_against": y.shape[1], "convention": "rows=unit"}
        for metric, gap in GAPS.items():
            rows.append(Row(a, b, metric, gap(x, y), higher_is_better=False, **shape, note="no interval: one split"))
    return rows


def dimension_rows(spaces: Iterable[Space]) -> list[Row]:
    """Intrinsic dimension of each space, of its rows at length 1, as all comparisons take them."""
    return [_dimension_row(space.unit()) for space in spaces]


def _dimension_row(space: Space) -> Row:
    row = Row(space.name, "", "intrinsic_dimension", None, "TwoNN discarded=0.1 rows=unit", d=space.width)
    try:
        estimate = intrinsic_dimension(space.values, nearest=space.graph(2).ids)
    except MetricError as error:
        return replace(row, n=space.n, note=str(error))
    note = f"{estimate.repeated} rows left out that repeat another" if estimate.repeated else ""
    return replace(row, value=estimate.value, n=estimate.n, note=note)


def mean_rows(draws: Sequence[Sequence[Row]]) -> list[Row]:
    """One row for the same row of every draw: the mean over those that have a value, and their range in the note."""
    means: list[Row] = []
    for own in zip(*draws, strict=True):
        values = [row.value for row in own if row.value is not None]
        if not values:
            means.append(own[0])
            continue
        note = f"mean of {len(values)} initialisations, {min(values):.4f} to {max(values):.4f}"
        means.append(replace(own[0], value=float(np.mean(values)), note=note))
    return means


def _with_note(row: Row, note: str) -> Row:
    return replace(row, note=f"{row.note}; {note}" if row.note else note)


def _columns(train: EvaluationSplit) -> dict[str, slice]:
    """Columns of each side among those of all beside each other, which are "joint"."""
    widths = [space.width for space in train.raw.values()]
    ends = np.cumsum(widths).tolist()
    sides = zip(train.raw, widths, ends, strict=True)
    return {**{name: slice(end - width, end) for name, width, end in sides}, "joint": slice(0, ends[-1])}


def _standardised(splits: Sequence[EvaluationSplit]) -> list[Array]:
    """Raw sides of each split beside each other, standardised by the first split."""
    parts: list[list[Tensor]] = [[] for _ in splits]
    for name, space in splits[0].raw.items():
        mean, deviation = statistics(torch.as_tensor(space.values).double())
        deviation = torch.where(deviation > 0, deviation, 1.0)
        for columns, split in zip(parts, splits, strict=True):
            columns.append((torch.as_tensor(split.raw[name].values) - mean) / deviation)
    return [torch.cat(columns, dim=1).numpy() for columns in parts]


def _unit_targets(split: EvaluationSplit) -> Float[Array, "g d"]:
    assert split.reference is not None  # as the caller saw to
    return torch.nn.functional.normalize(torch.as_tensor(split.reference.values).double(), dim=1).numpy()
