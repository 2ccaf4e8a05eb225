"""Features as data sets of torch: by row, and block by block."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

Sample = tuple[Tensor, int] | Tensor


class FeatureRows(Dataset[Sample]):
    """Rows of features for a `DataLoader`: a tensor [d], or with labels (tensor [d], number of its class).

    Args:
        values: [n, d].
        labels: [n] label of each row; None for tensors alone.
    """

    def __init__(self, values: Float[np.ndarray, "n d"], labels: np.ndarray | None = None) -> None:
        self.values = values
        self.classes: tuple[str, ...] = ()
        self._codes: np.ndarray | None = None
        if labels is not None:
            names, codes = np.unique(labels.astype(str), return_inverse=True)
            self.classes, self._codes = tuple(names.tolist()), codes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> Sample:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[Sample]:
        """Several rows at once, as a `DataLoader` asks for them."""
        values = from_numpy(np.ascontiguousarray(self.values[rows]))
        if self._codes is None:
            return list(values)
        return list(zip(values, self._codes[rows].tolist(), strict=True))

    def blocks(self, rows: int = 1024) -> Iterator[Tensor]:
        """Tensors [b, d] of consecutive rows, without a copy: at most `rows` of the array are touched at a time."""
        for start in range(0, len(self), rows):
            yield from_numpy(self.values[start : start + rows])
