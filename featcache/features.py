"""Features as loaded from the cache: the array with the id, group, split and labels of every row."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Strings = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Features:
    """Cached features of one layer of one encoder, rows in data-set order.

    Args:
        values: [n, d], in the stored dtype unless it was converted on loading.
        ids: [n] row ids, unique.
        groups: [n] group of each row; rows of one group show the same thing.
        splits: [n] "train", "validation", "test", "other" or "".
        labels: Label column -> [n] labels ("" where a row has none).
        hashes: [n] content hash of each row, hex; "" where the content was never seen (imported features).
        dataset: Data set name.
        view: View name, such as "images".
        encoder: Encoder name.
        layer: Layer and pooling, such as "last.mean".
        digest: Digest of the array's key, hex.
        root: Root of the stored values, hex.
        overlay: Hash of splits and labels, hex.
        encoder_hash: Hash of everything the digest binds of the encoder: equal for the same encoder on other data.
        modality: Of the view: "image", "text" or "audio"; "" where it is not known.
    """

    values: np.ndarray
    ids: Strings
    groups: Strings
    splits: Strings
    labels: Mapping[str, Strings] = field(default_factory=lambda: {})
    hashes: Strings = field(default_factory=lambda: np.empty(0, object))
    dataset: str = ""
    view: str = ""
    encoder: str = ""
    layer: str = ""
    digest: str = ""
    root: str = ""
    overlay: str = ""
    encoder_hash: str = ""
    modality: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def name(self) -> str:
        """Encoder and layer, such as "minilm/last.mean"."""
        return f"{self.encoder}/{self.layer}"

    @property
    def width(self) -> int:
        """d, the number of feature dimensions."""
        return self.values.shape[1]

    def tensor(self, device: str = "cpu") -> "Tensor":
        """The values as a torch tensor [n, d] of the same dtype; on the CPU it shares their memory."""
        import torch

        return torch.from_numpy(self.values).to(device)

    def take(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> "Features":
        """The same features for some rows, by number in the order given or by a boolean mask [n]."""
        return replace(
            self,
            values=self.values[rows],
            ids=self.ids[rows],
            groups=self.groups[rows],
            splits=self.splits[rows],
            labels={name: column[rows] for name, column in self.labels.items()},
            hashes=self.hashes[rows] if len(self.hashes) else self.hashes,
        )
