"""Transfer of a trained adapter to another encoder, whose features a ridge regression maps to its own."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from featcache.metrics.measure.row import Row
from featcache.studies.adapters.train import Workbench
from featcache.trainer.adapters import Adapters
from featcache.trainer.closed_forms import ridge, spectrum
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired
from featcache.trainer.sides import PairedSides
from featcache.trainer.solve import PENALTIES
from featcache.trainer.splits import same_splits
from featcache.trainer.subsets import training_groups
from featcache.trainer.tracking import EvaluationSplit, alignment_rows, embed_split, retrieval_rows

STITCHED = "stitched"
Array = NDArray[np.float64]


def stitched_rows(
    adapters: Adapters, config: FitConfig, bench: Workbench, other: Workbench, *, epoch: int
) -> list[Row]:
    """What trained adapters make of test where one side has another encoder's features.

    These are mapped to the features that the adapter was trained on by a ridge regression over the training groups, one
    row a group, with the penalty of the smallest squared error on validation; the adapter stays as it is. The rows of
    the tidy table have the stage "stitched".

    Args:
        adapters: Trained, on the CPU.
        config: Of the training.
        bench: The features that it was trained on.
        other: The same with one side replaced.
        epoch: The selected one, for the rows.

    Raises:
        NotPaired: If the other encoder has rows of other groups, so that splits differ.

    Source:
        Stitching by an affine map: Lenc and Vedaldi 2015, arXiv:1411.5908; Bansal et al. 2021, arXiv:2106.07682.
    """
    paired, moved = bench.paired(config), other.paired(config)
    if not same_splits(paired.split, moved.split):
        raise NotPaired(
            "the encoder that an adapter is transferred to has rows of other groups, so that splits differ\n"
            "  Extract both encoders for the same rows"
        )
    names = dict(zip(paired.sides, moved.sides, strict=True))
    replaced = {name: new for name, new in names.items() if bench.sides[name].digest != other.sides[new].digest}
    test = paired.part("test")
    sides = dict(test.sides)
    for name, new in replaced.items():
        stitch = _stitch(paired, moved, name, new, config)
        rows = moved.part("test").sides[new]
        sides[name] = replace(rows, values=stitch(rows.values))
    split = EvaluationSplit("test", replace(test, sides=sides, _parts={}))
    embedded = embed_split(split, adapters)
    rows = alignment_rows(split, embedded.spaces, bench.evaluation(config).settings)
    rows += retrieval_rows(split, embedded, config.hits)
    return [replace(row, stage=STITCHED, epoch=epoch, seconds=0.0) for row in rows]


class RidgeMap:
    """An affine map from one space to another, fitted by ridge regression.

    Args:
        inputs: [n, d] rows that are mapped.
        targets: [n, t] rows that they are mapped to.
        held: Inputs and targets that choose the penalty.
    """

    def __init__(self, inputs: Array, targets: Array, held: tuple[Array, Array]) -> None:
        self.mean, self.scale = inputs.mean(axis=0), _deviation(inputs)
        view = spectrum((inputs - self.mean) / self.scale)
        least = np.inf
        for penalty in PENALTIES:
            weight, bias = ridge(view, targets, penalty)
            error = float(np.square((held[0] - self.mean) / self.scale @ weight + bias - held[1]).sum())
            if error < least:
                least, self.penalty, self.weight, self.bias = error, penalty, weight, bias

    def __call__(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n t"]:
        """Maps rows."""
        standardised = (rows.double().numpy() - self.mean) / self.scale
        return torch.from_numpy(standardised @ self.weight + self.bias).float()


def _stitch(paired: PairedSides, moved: PairedSides, name: str, new: str, config: FitConfig) -> RidgeMap:
    """The map of a side's new features to its own."""
    spaces: Mapping[str, tuple[Array, Array]] = {
        split: (_means(part_of(moved), new), _means(part_of(paired), name))
        for split, part_of in {
            "train": lambda of: training_groups(of, config),
            "validation": lambda of: of.part("validation"),
        }.items()
    }
    return RidgeMap(*spaces["train"], spaces["validation"])


def _means(part: PairedSides, name: str) -> Array:
    side = part.sides[name]
    whole = torch.stack([each.present for each in part.sides.values()]).all(dim=0)
    return side.take(torch.nonzero(whole).ravel()).means().double().numpy()


def _deviation(values: Array) -> Array:
    deviation = values.std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)
