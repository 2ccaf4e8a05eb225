"""Features as loaded from the cache: the array with the id, group, split and labels of every row."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from featcache.rows_dataset import FeatureRows

Strings = NDArray[Any]


def label_columns(labels: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """The column of each label in a table: its own name, or "label_NAME" where a column of ours is called so.

    Example:
        >>> label_columns(["group", "kind"], ["id", "group"])
        {'group': 'label_group', 'kind': 'kind'}
    """
    labels, names = list(labels), dict[str, str]()
    for label in labels:
        name = label
        while name in taken or name in names.values() or (name != label and name in labels):
            name = f"label_{name}"
        names[label] = name
    return names


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
        run_splits: [n] split of each row in the run whose adapter made these features; empty where no run was trained
            on these rows. "unknown" throughout where the splits of that run are no longer in the cache.
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
    run_splits: Strings = field(default_factory=lambda: np.empty(0, object))
    dataset: str = ""
    view: str = ""
    encoder: str = ""
    layer: str = ""
    digest: str = ""
    root: str = ""
    overlay: str = ""
    encoder_hash: str = ""
    modality: str = ""

    def __repr__(self) -> str:
        place = f"{self.dataset}/{self.view}/{self.name}@{self.digest[:12]}"
        return f"Features({place}, {list(self.values.shape)} {self.values.dtype})"

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

    def rows(self, label: str | None = None) -> "FeatureRows":
        """The rows as a map-style data set of torch, for a `DataLoader`; its `blocks` iterates without copies.

        Args:
            label: Label column, whose class number comes with each row; None for rows alone.

        Raises:
            UsageError: If there is no such label column.
        """
        from featcache.errors import UsageError
        from featcache.rows_dataset import FeatureRows

        if label is not None and label not in self.labels:
            raise UsageError(f"no label {label!r} in {self.dataset}; it has {', '.join(self.labels) or 'none'}")
        return FeatureRows(self.values, None if label is None else self.labels[label])

    def frame(self, *, values: bool = False) -> "pl.DataFrame":
        """One row each: id, group, split and labels; of a label that is called like another column, as `label_columns`.

        Args:
            values: Whether the features come too, as a column "features" of arrays [d].
        """
        import polars as pl

        columns = {"id": self.ids, "group": self.groups, "split": self.splits}
        names = label_columns(self.labels, {*columns, "features"})
        columns |= {names[label]: column for label, column in self.labels.items()}
        named = pl.DataFrame({name: column.astype(str).tolist() for name, column in columns.items()})
        if not values:
            return named
        return named.with_columns(pl.Series("features", self.values.astype(np.float32)))

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
            run_splits=self.run_splits[rows] if len(self.run_splits) else self.run_splits,
        )
