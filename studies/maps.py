"""Points, neighbours, labels and texts of cached spaces in one table, as the viewer embedding-atlas opens it."""

import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from featcache.cache import Cache
from featcache.errors import LibraryMissing, UsageError
from featcache.features import Features, label_columns
from featcache.metrics import neighbors
from featcache.provenance import provenance
from featcache.storage.outputs import write_output
from featcache.studies.adapters.pictures.maps import principal_plane
from featcache.studies.distinct_names import distinct_names
from featcache.studies.group_rows import group_rows
from featcache.studies.shown_rows import ShownRows, shown_rows
from featcache.studies.tables import check_table_path, identity, write_table
from featcache.trainer.errors import NotPaired

if TYPE_CHECKING:
    import polars as pl

    from featcache.metrics import Neighbors

Projection = Literal["pca", "umap"]
_OWN, _POINT = ("id", "group", "split", "text", "image"), ("x", "y", "neighbors")  # columns of ours
_LEAST = 3  # rows of a map


@dataclass(frozen=True)
class MapSettings:
    """How spaces become points.

    Args:
        projection: "pca": the principal plane of the unit rows; "umap".
        k: Neighbours a point, by cosine; those of its own group are none.
        texts: Whether texts stand beside points: None where the data's licence lets others see them.
        thumbnails: Whether pictures do: of the user's own files, which `root` points at.
        root: The folder that holds the data set's files.
        seed: Of UMAP.
    """

    projection: Projection = "pca"
    k: int = 15
    texts: bool | None = None
    thumbnails: bool = False
    root: Path | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class MapResult:
    """A map that was written.

    Args:
        path: The Parquet file.
        n: Points.
        what: What a point is: "rows of VIEW", or "groups".
        commands: Space -> the command that opens it.
        notes: What was left out or is not shown.
        credits: Lines that credit what is shown.
    """

    path: Path
    n: int
    what: str
    commands: dict[str, str]
    notes: tuple[str, ...]
    credits: tuple[str, ...]


def map_spaces(
    cache: Cache,
    dataset: str,
    names: Sequence[str],
    settings: MapSettings,
    *,
    out: Path,
    on_space: Callable[[str], None] | None = None,
) -> MapResult:
    """Writes points of one or more cached arrays of a data set, and what is known of each.

    Arrays of one view have a point a row; arrays of several views one a group that all of them have, at the mean of its
    rows. The first array's columns are x, y and neighbors; those of others have the array's name before them. Beside
    the table a JSON file of the same stem keeps the arrays' digests and roots, the settings and versions.

    Args:
        cache: The cache.
        dataset: Data set name.
        names: `[view/]encoder[/layer.pooling][@digest]` of each array.
        settings: How.
        out: The Parquet file.
        on_space: Called with the name of each array before it is projected.

    Raises:
        UsageError: If `out` is no Parquet file, there are fewer rows than neighbours, UMAP is not installed, or what
            was asked to be shown cannot be.
        FeaturesNotCached: If an array is not cached.
        NotPaired: If arrays share no rows.
        MetricError: If values are not finite, or a row is zero.
    """
    check_table_path(out)
    if settings.projection == "umap":
        _umap()
    arrays = [cache.load(dataset, name) for name in dict.fromkeys(names)]
    keys, by_group, notes = _keys(arrays)
    if len(keys) <= max(settings.k, _LEAST - 1):
        raise UsageError(f"{len(keys)} points have no {settings.k} neighbours each\n  Say --neighbors with fewer")
    shown = _shown(dataset, arrays, keys, by_group, settings, _source(cache, dataset, names))
    prefixes = {title: f"{title}_" if place else "" for place, title in enumerate(_titles(arrays))}
    points = {f"{prefix}{column}" for prefix in prefixes.values() for column in _POINT}
    table, commands = _described(arrays[0], keys, by_group, shown, points), dict[str, str]()
    for features, (title, prefix) in zip(arrays, prefixes.items(), strict=True):
        if on_space is not None:
            on_space(title)
        values = _values(features, keys, by_group)
        groups = None if by_group else features.groups[_places(features, keys)].tolist()
        table = table.with_columns(_point_columns(values, groups, settings, prefix))
        commands[title] = _command(out, prefix, table.columns)
    write_table(table, out)
    kept = {"dataset": dataset, "arrays": [identity(each) for each in arrays], "settings": _plain(settings)}
    record = {**kept, "commands": commands, "credits": list(shown.credits), **provenance()}
    write_output(out.with_suffix(".json"), (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    what = "groups" if by_group else f"rows of {arrays[0].view}"
    return MapResult(out, len(keys), what, commands, (*notes, *shown.notes), shown.credits)


def _keys(arrays: Sequence[Features]) -> tuple[list[str], bool, list[str]]:
    """Ids of the rows, or the groups, that all arrays have; which of both; and what was left out."""
    by_group = len({features.view for features in arrays}) > 1
    first, *others = [(each.groups if by_group else each.ids).tolist() for each in arrays]
    every = [*dict.fromkeys(first)]
    shared = set(every).intersection(*others)
    kept, what = [key for key in every if key in shared], "groups" if by_group else "rows"
    if not kept:
        raise NotPaired(f"{', '.join(f'{each.view}/{each.name}' for each in arrays)} share no {what}")
    left = len(every) - len(kept)
    return kept, by_group, [f"{left:,} of {len(every):,} {what} are not in every array"] if left else []


def _places(features: Features, ids: Sequence[str]) -> np.ndarray:
    number = {row: place for place, row in enumerate(features.ids.tolist())}
    return np.array([number[row] for row in ids])


def _values(features: Features, keys: Sequence[str], by_group: bool) -> Float[np.ndarray, "n d"]:
    if by_group:
        return group_rows(features, keys)
    return features.values[_places(features, keys)].astype(np.float32)


def _source(cache: Cache, dataset: str, names: Sequence[str]) -> str:
    """Where the data set's rows come from, as the arrays record it; "" where none does."""
    told = (cache.find(dataset, name).key().provenance.get("dataset") for name in names)
    return next((str(each.get("source", "")) for each in told if isinstance(each, Mapping)), "")


def _titles(arrays: Sequence[Features]) -> list[str]:
    """A name for each array, as short as tells them apart."""
    return distinct_names(
        [each.encoder for each in arrays],
        [f"{each.encoder}.{each.layer}" for each in arrays],
        [f"{each.view}.{each.encoder}.{each.layer}" for each in arrays],
        [f"{each.encoder}.{each.layer}.{each.digest[:8]}" for each in arrays],
    )


def _described(
    first: Features, keys: Sequence[str], by_group: bool, shown: ShownRows, points: Collection[str]
) -> "pl.DataFrame":
    """Id, group, split, labels, text and picture of each point; `points` are the columns that are still to come."""
    import polars as pl

    own = (first.groups if by_group else first.ids).tolist()
    place = {key: row for row, key in reversed([*enumerate(own)])}
    rows = np.array([place[key] for key in keys])
    columns: dict[str, Any] = {"id": list(keys)}
    if not by_group and (first.groups[rows] != first.ids[rows]).any():
        columns["group"] = first.groups[rows].tolist()
    columns["split"] = first.splits[rows].astype(str).tolist()
    for label, name in label_columns(first.labels, {*_OWN, *points}).items():
        columns[name] = first.labels[label][rows].astype(str).tolist()
    if shown.texts:
        columns["text"] = [shown.texts.get(key, "") for key in keys]
    table = pl.DataFrame(columns)
    if shown.pictures:
        pictures = [{"bytes": shown.pictures.get(key), "path": f"{number}.webp"} for number, key in enumerate(keys)]
        image = pl.Series("image", pictures, dtype=pl.Struct({"bytes": pl.Binary, "path": pl.String}))
        table = table.with_columns(image)
    return table


def _point_columns(
    values: Float[np.ndarray, "n d"], groups: list[str] | None, settings: MapSettings, prefix: str
) -> "list[pl.Series]":
    import polars as pl

    graph = neighbors(values, k=settings.k, groups=groups)
    points = _plane(values) if settings.projection == "pca" else _umap_points(values, graph, settings.seed)
    distances = np.maximum(0.0, 1.0 - np.asarray(graph.similarities, np.float64)).astype(np.float32)
    lists = {"ids": np.asarray(graph.ids, np.int64), "distances": distances}
    near = pl.DataFrame({name: pl.Series(name, each.tolist()) for name, each in lists.items()})
    return [
        pl.Series(f"{prefix}x", points[:, 0].astype(np.float32)),
        pl.Series(f"{prefix}y", points[:, 1].astype(np.float32)),
        near.to_struct(f"{prefix}neighbors"),
    ]


def _plane(values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """The principal plane of the unit rows, as cosine sees them."""
    rows = values.astype(np.float64)
    return principal_plane(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _umap() -> Any:
    try:
        import umap
    except ImportError as error:
        raise LibraryMissing(
            "--projection umap needs umap-learn, not installed here\n  Run: pip install 'featcache[map]', or take "
            "--projection pca"
        ) from error
    return umap


def _umap_points(values: np.ndarray, graph: "Neighbors", seed: int) -> Float[np.ndarray, "n 2"]:
    """UMAP of the exact neighbour graph; McInnes, Healy & Melville 2018, arXiv:1802.03426."""
    import warnings

    own = np.arange(len(values))[:, None]
    ids = np.concatenate([own, np.asarray(graph.ids, np.int64)], axis=1)
    similarities = np.asarray(graph.similarities, np.float32)
    distances = np.concatenate([np.zeros((len(values), 1), np.float32), np.maximum(0, 1 - similarities)], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        reducer = _umap().UMAP(
            n_neighbors=ids.shape[1], metric="cosine", random_state=seed, precomputed_knn=(ids, distances)
        )
        return np.asarray(reducer.fit_transform(values.astype(np.float32)))


def _shown(
    dataset: str,
    arrays: Sequence[Features],
    keys: Sequence[str],
    by_group: bool,
    settings: MapSettings,
    source: str,
) -> ShownRows:
    recorded = {
        each.view: dict(zip(each.ids.tolist(), each.hashes.tolist(), strict=True))
        for each in arrays
        if len(each.hashes)
    }
    of = dict(zip(arrays[0].ids.tolist(), arrays[0].groups.tolist(), strict=True))
    groups = {key: key if by_group else of[key] for key in keys}
    shown = {"texts": settings.texts, "pictures": settings.thumbnails, "root": settings.root, "source": source}
    return shown_rows(dataset, groups, recorded, **shown)


def _command(out: Path, prefix: str, columns: Sequence[str]) -> str:
    words = ["embedding-atlas", str(out)]
    for column in _POINT:
        words += [f"--{column}", f"{prefix}{column}"]
    for column in ("text", "image"):
        words += [f"--{column}", column] if column in columns else []
    return shlex.join(words)


def _plain(settings: MapSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name != "root"}  # a place on this machine
