"""Retrieval between two sides by ridge maps through a third: the control of a pair that is trained apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch.nn import functional

from featcache.metrics.measure.row import Row
from featcache.metrics.sweeps.ridge import RidgePath, ridge_paths
from featcache.studies.adapters.controls import RIDGE_GROUPS
from featcache.trainer.adapters import statistics
from featcache.trainer.config import FitConfig
from featcache.trainer.sides import PairedSides, Side
from featcache.trainer.solve import PENALTIES
from featcache.trainer.tracking import Embedded, EvaluationSplit, retrieval_rows

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Map:
    """A ridge map from one side's rows to another's, both standardised, at the penalty that validation chose."""

    path: RidgePath
    penalty: float
    r2: float
    groups: int

    def __call__(self, rows: Array) -> Array:
        return self.path.predicted(rows, self.penalty)


def composed_rows(
    train: PairedSides, validation: EvaluationSplit, tests: Sequence[EvaluationSplit], config: FitConfig
) -> list[Row]:
    """Recall from one side to the other of `config.apart`, in both directions, through each other side.

    The queries are mapped to the third side by a ridge regression over the training groups that have these two, then to
    the gallery's side by another over the groups that have those two; the gallery is the side itself, standardised. So
    nothing is fitted on a group that has both ends. One mean row a group is fitted; each penalty is the one of
    PENALTIES with the smallest squared error on validation, groups of all sides, one step at a time.

    Args:
        train: The training groups, in which the pair is apart.
        validation: Chooses the penalties.
        tests: The test split, and its clean part where there is one.
        config: Reads apart and hits.

    Returns:
        Rows of the stage "composed"; their notes name the third side, the penalties and R².
    """
    scaled = {name: _Scale.of(side) for name, side in train.sides.items()}
    pair, rows = config.apart.split("+"), list[Row]()
    for first, last in permutations(pair, 2):
        for through in (name for name in train.sides if name not in pair):
            steps = [_fitted(train, validation, scaled, *ends) for ends in ((first, through), (through, last))]
            texts = [f"penalty {step.penalty:g} (R² {step.r2:.3f}), {step.groups} groups" for step in steps]
            note = f"ridge through {through}: {'; '.join(texts)}"
            for split in tests:
                own = {name: scaled[name](split.paired.sides[name]) for name in (first, last)}
                own[first] = steps[1](steps[0](own[first]))
                unit = {name: functional.normalize(torch.as_tensor(values)) for name, values in own.items()}
                sides = {name: split.paired.sides[name] for name in unit}
                both = EvaluationSplit(split.name, replace(split.paired, sides=sides, _parts={}))
                made = retrieval_rows(both, Embedded(unit, {}), config.hits)
                rows += [replace(row, stage="composed", note=note) for row in made if row.space == first]
    return rows


@dataclass(frozen=True, eq=False)
class _Scale:
    """Mean and deviation of a side's training rows."""

    mean: Float[torch.Tensor, " d"]
    deviation: Float[torch.Tensor, " d"]

    @classmethod
    def of(cls, side: Side) -> "_Scale":
        mean, deviation = statistics(side.values.double())
        return cls(mean, torch.where(deviation > 0, deviation, 1.0))

    def __call__(self, side: Side) -> Array:
        return ((side.values.double() - self.mean) / self.deviation).numpy()


def _fitted(
    train: PairedSides, validation: EvaluationSplit, scaled: dict[str, _Scale], source: str, target: str
) -> _Map:
    both = (train.sides[source].present & train.sides[target].present).nonzero().ravel()
    chosen = np.sort(np.random.default_rng(0).permutation(len(both))[:RIDGE_GROUPS])
    part = train.subset("train", both[torch.from_numpy(chosen)])
    x, y = (scaled[name](part.sides[name].averaged()) for name in (source, target))
    (path,) = ridge_paths(x, y, {source: slice(None)}).values()
    held, wanted = (scaled[name](validation.paired.sides[name].averaged()) for name in (source, target))
    penalty, r2 = path.chosen(held, wanted, PENALTIES)
    return _Map(path, penalty, r2, len(chosen))
