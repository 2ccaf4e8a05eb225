"""Features as data sets of torch: by row, and block by block."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from featcache.features import Features

Sample = tuple[Tensor, int] | Tensor


class FeatureRows(Dataset[Sample]):
    """Rows of features for a `DataLoader`: a tensor [d], or with a label column (tensor [d], number of its class).

    Args:
        features: Whose rows.
        label: Label column; None for tensors alone.

    Raises:
        KeyError: If there is no such label column.
    """

    def __init__(self, features: "Features", label: str | None = None) -> None:
        self.features = features
        self.classes: tuple[str, ...] = ()
        self._codes: np.ndarray | None = None
        if label is not None:
            names, codes = np.unique(features.labels[label].astype(str), return_inverse=True)
            self.classes, self._codes = tuple(names.tolist()), codes

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, row: int) -> Sample:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[Sample]:
        """Several rows at once, as a `DataLoader` asks for them."""
        values = from_numpy(np.ascontiguousarray(self.features.values[rows]))
        if self._codes is None:
            return list(values)
        return list(zip(values, self._codes[rows].tolist(), strict=True))

    def blocks(self, rows: int = 1024) -> Iterator[Tensor]:
        """Tensors [b, d] of consecutive rows, without a copy: at most `rows` of the array are touched at a time."""
        for start in range(0, len(self), rows):
            yield from_numpy(self.features.values[start : start + rows])
