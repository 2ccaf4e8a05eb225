"""Labels of groups as numbers of classes, for training on them."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from featcache.data.datasets import DATASETS
from featcache.errors import UsageError
from featcache.trainer.config import FitConfig
from featcache.trainer.sides import PairedSides


def class_numbers(paired: PairedSides) -> Int[Tensor, " g"]:
    """The place of each group's label among the classes of the training groups; -1 for none of them, or no label."""
    number = {label: place for place, label in enumerate(paired.classes)}
    return torch.from_numpy(np.array([number.get(label, -1) for label in paired.labels.tolist()], dtype=np.int64))


def class_count(paired: PairedSides, config: FitConfig) -> int:
    """Classes that the loss of a configuration tells apart; 0 for one that does not train on labels."""
    return len(paired.classes) if config.loss == "labels" else 0


def check_labels(paired: PairedSides, config: FitConfig) -> None:
    """Refuses to train on labels where there are not two of them.

    Raises:
        UsageError: Says how many there are, and which data sets have some.
    """
    if config.loss != "labels" or len(paired.classes) > 1:
        return
    has = "none" if not paired.classes else f"{paired.classes[0]!r} alone"
    known = ", ".join(entry.name for entry in DATASETS.values() if entry.labels)
    raise UsageError(
        f"--loss labels trains on labels, and the training groups have {has}\n"
        f"  Data sets with labels: {known}, and folders of class folders or with a column of labels (docs/own-data.md)"
    )
