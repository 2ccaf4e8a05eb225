"""Two-dimensional maps and block-averaged kernels of held-out groups, as tables."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from featcache.trainer.fit import Fitted
from featcache.trainer.sides import PairedSides
from featcache.trainer.tracking import EvaluationSplit, embed_split

if TYPE_CHECKING:
    import polars as pl

MAP_GROUPS = 1_000
KERNEL_BLOCKS = 48

Array = NDArray[np.float64]


def map_table(fitted: Fitted, splits: Mapping[str, EvaluationSplit]) -> "pl.DataFrame":
    """The first two principal components of every space, over validation and test groups.

    Rows are L2-normalised first, since cosine is what alignment is measured with. At most 1,000 groups, drawn with
    the run's seed.

    Returns:
        Columns id, label (the split where the data set has no labels), space, px, py.
    """
    import polars as pl

    spaces = {name: _spaces(split, fitted) for name, split in splits.items()}
    ids = np.concatenate([split.paired.groups for split in splits.values()])
    labels = np.concatenate([_labels(split.paired, name) for name, split in splits.items()])
    rng = np.random.default_rng(fitted.config.seed)
    drawn = np.sort(rng.permutation(len(ids))[:MAP_GROUPS])
    tables: list[pl.DataFrame] = []
    for space in spaces["test"]:
        features = np.concatenate([spaces[name][space] for name in splits])[drawn]
        points = principal_plane(features)
        columns = {"id": ids[drawn], "label": labels[drawn], "px": points[:, 0], "py": points[:, 1]}
        tables.append(pl.DataFrame(columns).with_columns(pl.lit(space).alias("space")))
    return pl.concat(tables).select("id", "label", "space", "px", "py")


def principal_plane(features: Float[Array, "n d"]) -> Float[Array, "n 2"]:
    """Coordinates of the rows on the first two principal axes of the centred rows.

    The sign of an axis is free: its largest coordinate by size is made positive.

    Example:
        >>> principal_plane(np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 1.0], [2.0, -1.0]]))[:2].round(6).tolist()
        [[2.0, 0.0], [-2.0, 0.0]]
    """
    centred = features - features.mean(axis=0)
    # the smaller of the two Gram matrices has the same leading singular values and costs least
    if len(centred) <= centred.shape[1]:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        points = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))
    else:
        points = centred @ np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    largest = points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])]
    return points * np.where(largest < 0, -1.0, 1.0)


def kernel_table(fitted: Fitted, test: EvaluationSplit) -> "pl.DataFrame":
    """Cosine kernels of the test groups, sorted by label then id and averaged over blocks, at most 48 x 48.

    Returns:
        Columns space, row, col (block numbers from 0), value (mean cosine similarity).
    """
    import polars as pl

    order = np.lexsort((test.paired.groups, test.paired.labels))
    tables: list[pl.DataFrame] = []
    for space, features in _spaces(test, fitted).items():
        blocks = block_means(features[order], KERNEL_BLOCKS)
        row, col = np.indices(blocks.shape)
        table = pl.DataFrame({"row": row.ravel(), "col": col.ravel(), "value": blocks.ravel()})
        tables.append(table.select(pl.lit(space).alias("space"), "row", "col", "value"))
    return pl.concat(tables)


def block_means(features: Float[Array, "n d"], blocks: int) -> Float[Array, "b b"]:
    """Means of the kernel features @ features.T over blocks of neighbouring rows; the kernel itself is never built.

    Args:
        features: Rows in the order in which they are to stand.
        blocks: Most blocks a side.

    Example:
        >>> block_means(np.eye(4), 2).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    # the mean of products over a block is the product of the means of its rows and of its columns
    means = np.stack([part.mean(axis=0) for part in np.array_split(features, min(blocks, len(features)))])
    return means @ means.T


def _spaces(split: EvaluationSplit, fitted: Fitted) -> dict[str, Array]:
    spaces = {f"raw {name}": space for name, space in split.raw.items()}
    if split.reference is not None:
        spaces["reference"] = split.reference
    spaces["joint"] = embed_split(split, fitted.adapters).spaces["joint"]
    return {name: _normalised(np.asarray(space.values, dtype=np.float64)) for name, space in spaces.items()}


def _normalised(features: Array) -> Array:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _labels(paired: PairedSides, split: str) -> NDArray[Any]:
    return np.where(paired.labels == "", split, paired.labels)
