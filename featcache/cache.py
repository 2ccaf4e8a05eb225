"""The cache: its arrays listed, resolved from names, loaded as features and removed; needs no encoder library."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from featcache.data.datasets import extract_command
from featcache.data.hub_names import cached_name
from featcache.entries import Entry, entries_of
from featcache.errors import Damaged, FeatcacheError, FeaturesNotCached, UsageError
from featcache.features import Features
from featcache.not_found import not_cached
from featcache.notices import notice
from featcache.resolution import choose_array
from featcache.selectors import AUTO, Selector, check_no_id, is_layer, parse_pattern, parse_selector
from featcache.storage.base import Folder
from featcache.storage.local import LocalFolder
from featcache.storage.open import is_address, open_folder
from featcache.store.array import FeatureArray
from featcache.store.checked import CheckedArrays
from featcache.store.current import CurrentRows, drop_current, read_current
from featcache.store.digest import ArrayKey, canonical
from featcache.store.leases import MEMO, cleaning, lease
from featcache.store.reader import Reader
from featcache.store.rows import Rows, drop_rows, read_overlay, read_rows, row_ids
from featcache.store.run_splits import run_splits


def default_place() -> Path | str:
    """Where the cache lies if no place is named: $FEATCACHE_HOME, a folder or an address, else `default_root()`."""
    home = os.environ.get("FEATCACHE_HOME", "")
    return home if is_address(home) else default_root()


def default_root() -> Path:
    """The user's own folder on this disk: $FEATCACHE_HOME unless that is an address, else the platform's for user data.

    A folder for caches would not do: the system may purge it.
    """
    home = os.environ.get("FEATCACHE_HOME", "")
    if home and not is_address(home):
        return Path(home).expanduser()
    from platformdirs import user_data_path

    return user_data_path("featcache")


class Cache:
    """A folder of feature arrays.

    Args:
        root: The folder, or the address of a bucket or repository; None for `default_place()`. It need not exist yet.

    Example:
        Cache().load("openmoji", "minilm")  # Features with ids and groups
    """

    def __init__(self, root: Folder | Path | str | None = None) -> None:
        self.folder = open_folder(default_place() if root is None else root)

    def __repr__(self) -> str:
        return f"Cache({str(self.folder)!r})"

    @property
    def root(self) -> Path:
        """The folder on disk; UsageError if the cache lies in a bucket or on the Hub."""
        if not isinstance(self.folder, LocalFolder):
            raise UsageError(f"{self.folder} is not on this disk. Run: featcache pull {self.folder}")
        return self.folder.path

    @property
    def memo(self) -> Path:
        """Folder of the encoder cards, which hold what is known of weights, so that they need not be loaded for it."""
        here = self.folder.path if isinstance(self.folder, LocalFolder) else default_root()
        return here / MEMO

    def array(self, path: str) -> FeatureArray:
        """The array at a path below the root, there or not."""
        return FeatureArray(self.folder / path)

    def rows(self, key: ArrayKey) -> Rows:
        """The row table that an array is bound to; errors as `store.rows.read_rows`."""
        return read_rows(self.folder / key.dataset / key.view, key.binds["rows"])

    def arrays(
        self, dataset: str = "*", view: str = "*", encoder: str = "*", layer: str = "*", digest: str = "*"
    ) -> Iterator[FeatureArray]:
        """Every array folder, whole or not, in the order of their paths; names may hold globs."""
        dataset = cached_name(dataset)  # as it was extracted, so it may be named
        for path in self.folder.find(f"{dataset}/{view}/{encoder}/{layer}/{digest}"):
            yield self.array(path)

    def matching(self, selector: str, *, may_lack: bool = False) -> list[FeatureArray]:
        """The arrays, whole or not, that match `dataset[/view[/encoder[/layer]]][@digest]` with globs.

        Args:
            selector: Which arrays.
            may_lack: No array need match.

        Raises:
            FeaturesNotCached: If a data set is named and no array matches; lists what is cached.
        """
        pattern = parse_pattern(selector)
        arrays = list(self.arrays(**asdict(pattern)))
        if not arrays and pattern.dataset != "*" and not may_lack:
            wanted = Selector(pattern.encoder, None if pattern.view == "*" else pattern.view)
            raise self.not_cached(pattern.dataset, wanted, command="featcache ls")
        return arrays

    def entries(self, selector: str = "*") -> list[Entry]:
        """Entries of the arrays that match, complete, incomplete or damaged; as `matching`."""
        return self.entries_of(self.matching(selector))

    def entries_of(self, arrays: Sequence[FeatureArray]) -> list[Entry]:
        """The entry of each of some arrays; what cannot be read of one is zero, with `damaged`."""
        return entries_of(self.folder, arrays)

    def current_rows(self, dataset: str, view: str) -> CurrentRows | None:
        """The record of which rows of a view are current; None if there is none. Errors as `read_current`."""
        return read_current(self.folder / dataset / view)

    # -- from a name to an array ------------------------------------------------------------------------------------

    def find(self, dataset: str, selector: Selector | str, *, partial: bool = False) -> FeatureArray:
        """The one complete array of a name; a name without layer means the encoder's default layer.

        Of arrays that differ in nothing but rows, the one of the view's current rows is taken, and a notice is logged.

        Args:
            dataset: Data set name.
            selector: `[view/]encoder[/layer.pooling][@digest]`.
            partial: An array of which only some rows were pulled will do.

        Raises:
            FeaturesNotCached: If there is none; the message lists what there is.
            Ambiguous: If there are several that differ in more; the message lists how they differ.
            OutdatedRows: If there are only arrays of older rows than the current ones, and the name has no digest.
            UsageError: If the layer is "auto", which only some commands choose.
        """
        wanted = parse_selector(selector) if isinstance(selector, str) else selector
        if wanted.layer == AUTO:
            raise UsageError(
                f"{wanted}: here the layer is not chosen (a side of `featcache train` may say auto, and an array of "
                "`featcache probe`)\n  Name a layer, or leave it out for the encoder's default"
            )
        matches = list(self.arrays(dataset, wanted.view or "*", wanted.encoder, wanted.layer or "*"))
        damage: list[FeatcacheError] = []
        if wanted.digest:
            matches = [array for array in matches if array.digest.startswith(wanted.digest)]
        elif wanted.layer is None:
            matches = [array for array in matches if _is_default_layer(array, damage)]
        complete = [array for array in matches if array.is_complete or (partial and array.partial() is not None)]
        if not complete and damage:
            raise damage[0]
        if not complete:
            raise self.not_cached(dataset, wanted, incomplete=matches[0] if matches else None)
        return choose_array(self.folder, dataset, wanted, complete)

    def holds(self, dataset: str, selector: Selector | str) -> bool:
        """Whether `find` has an array of that name; its other errors are raised."""
        try:
            self.find(dataset, selector)
        except FeaturesNotCached:
            return False
        return True

    def select(self, dataset: str, selector: str) -> list[FeatureArray]:
        """Every array, complete or not, that a name with globs matches; an open layer or view means all of them.

        Raises:
            FeaturesNotCached: If there is none.
        """
        path, _, digest = selector.partition("@")
        view, encoder, layer = _glob_parts(path)
        matches = [array for array in self.arrays(dataset, view, encoder, layer) if array.digest.startswith(digest)]
        if not matches:
            raise self.not_cached(dataset, Selector(selector), command="featcache ls")
        return matches

    def not_cached(
        self, dataset: str, wanted: Selector, *, incomplete: FeatureArray | None = None, command: str | None = None
    ) -> FeaturesNotCached:
        """The error of a name that matches no complete array; as `featcache.not_found.not_cached`."""
        cached = [array.name for array in self.arrays(dataset)] or [array.name for array in self.arrays()]
        return not_cached(str(self.folder), dataset, wanted, cached, incomplete=incomplete, command=command)

    # -- from an array to features ----------------------------------------------------------------------------------

    def load(
        self,
        dataset: str,
        encoder: str,
        *,
        layer: str | None = None,
        view: str | None = None,
        dtype: str | None = None,
        rows: tuple[int, int] | None = None,
        split: str | None = None,
    ) -> Features:
        """Loads cached features with the ids and groups of their rows.

        Args:
            dataset: Data set name.
            encoder: Encoder name, or `[view/]encoder[/layer.pooling][@digest]`.
            layer: Layer and pooling, such as "last.mean"; None for the encoder's default.
            view: View name; None where the encoder is cached for one view only.
            dtype: "float32" converts on the way in; None keeps the stored dtype.
            rows: First row and first row behind the last; None for all. An array of which only some rows were pulled
                can be loaded in no other way.
            split: Only rows of this split: "train", "validation", "test" or "other"; None for all.

        Returns:
            Features [n, d]; rows that failed at extraction are dropped.

        Raises:
            FeaturesNotCached: If no complete array has the name.
            Ambiguous, OutdatedRows: As `find`.
            Damaged: If any byte is not as recorded.
            UsageError: If no row is of the split.
        """
        name = parse_selector(encoder)
        wanted = replace(name, view=view or name.view, layer=layer or name.layer)
        array = self.find(dataset, wanted, partial=rows is not None)
        features = self.load_array(array, dtype=dtype, rows=rows)
        if split is None:
            return features
        chosen = features.splits == split
        if not chosen.any():
            there = sorted({name for name in features.splits.tolist() if name})
            raise UsageError(f"no row of {dataset} is in split {split!r}; there are {', '.join(there) or 'no splits'}")
        return features.take(chosen)

    def load_array(
        self, array: FeatureArray, *, dtype: str | None = None, rows: tuple[int, int] | None = None
    ) -> Features:
        """Loads the features of one array; as `load`."""
        reader = self.reader(array, partial=rows is not None)
        values = reader.read(*(rows or (0, None)), dtype=dtype)
        features = self.describe(array)
        if rows is not None:
            features = features.take(np.arange(*rows))
        features = replace(features, values=values, root=reader.complete.root)
        # the reader has seen that these rows, and no others, are NaN
        failed = sorted(reader.complete.failed)
        return features.take(~np.isin(features.ids.astype(str), failed)) if failed else features

    def reader(self, array: FeatureArray, *, partial: bool = False) -> Reader:
        """A reader of ranges, blocks or any rows; remembers which arrays it has checked. As `FeatureArray.open`."""
        memory = CheckedArrays(self.folder.path, default_root()) if isinstance(self.folder, LocalFolder) else None
        ids = row_ids(self.folder)
        reader = array.open(partial=partial, checked=memory, ids=ids)
        if reader.key.other_name is not None:
            name = "/".join(array.name[:3])
            notice(
                f"{array.folder} lies under another name than it was made under, {reader.key.other_name}: its folder "
                "was renamed or copied by hand, or by featcache 0.1. If the name is right, run: "
                f"featcache mv {name} {name}"
            )

        return reader

    def describe(self, array: FeatureArray) -> Features:
        """Names, ids, groups, splits and labels of every row of an array, with values of no width: reads no chunk.

        Raises:
            Damaged: If row table, splits or labels are not as recorded.
        """
        key = array.key()
        rows = self.rows(key)
        overlay = read_overlay(self.folder / key.dataset, key.view, key.binds["rows"]["root"])
        place = {group: number for number, group in enumerate(overlay.groups)}
        try:
            at = np.array([place[group] for group in rows.groups])
        except KeyError as error:
            raise Damaged(f"{self.folder}/{key.dataset}: group {error} has no entry among the splits. "
                          f"Run: {extract_command(key.dataset, key.encoder)}") from error  # fmt: skip
        return Features(
            values=np.empty((len(rows.ids), 0), key.binds["dtype"]),
            ids=np.array(rows.ids, object),
            groups=np.array(rows.groups, object),
            splits=np.array(overlay.splits, object)[at],
            labels={name: np.array(column, object)[at] for name, column in overlay.labels.items()},
            hashes=np.array(rows.hashes, object),
            run_splits=np.array(run_splits(self.folder / key.dataset, key, rows.groups, overlay), object),
            dataset=key.dataset,
            view=key.view,
            encoder=key.encoder,
            layer=key.layer,
            digest=key.digest,
            overlay=overlay.root,
            encoder_hash=blake3(canonical(key.binds["encoder"])).hexdigest(length=16),
            modality=key.binds["rows"]["modality"],
        )

    # -- removing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def alone(self, what: str) -> Iterator[bool]:
        """Whether no other process writes into the cache; until the body ends none begins to. True in a bucket.

        Args:
            what: What is being done, for messages to those who wait.
        """
        if not isinstance(self.folder, LocalFolder):
            yield True
            return
        with cleaning(self.folder.path, what) as others:
            held, now = others()
            yield all(each.state(now) == "ended" for each in held)

    def remove(self, array: FeatureArray) -> None:
        """Deletes an array, the folders it leaves empty, and its row table if no other array is bound to it."""
        with lease(self.folder, f"rm {'/'.join(array.name[:4])}"):
            root = _bound_rows(array)
            array.folder.delete()
            self.tidy(array, root)

    def tidy(self, array: FeatureArray, root: str | None) -> None:
        """Deletes what a deleted array leaves: its row table, if no other is bound to it, and empty folders.

        Where others write it all stays, for `featcache gc`: they may go on with the table, or fill the folders.

        Args:
            array: The array that was deleted.
            root: Root of its row table; None if it is not known.
        """
        dataset, view, *_ = array.name
        with self.alone(f"rm {dataset}/{view}") as alone:
            if not alone:
                return
            bound = {_bound_rows(other) for other in self.arrays(dataset, view)}
            if root is not None and root not in bound and None not in bound:
                drop_rows(self.folder / dataset / view, root)
                if not bound:  # while other arrays are there, the record keeps them from passing for current
                    drop_current(self.folder / dataset / view)
            array.folder.parent.prune(3)


def _bound_rows(array: FeatureArray) -> str | None:
    """Root of the row table that an array is bound to; None where its key cannot be read."""
    try:
        return array.key().binds["rows"]["root"]
    except FeatcacheError:
        return None


def _glob_parts(path: str) -> tuple[str, str, str]:
    """(view, encoder, layer) globs of `[view/]encoder[/layer]`."""
    check_no_id(path)
    parts = path.split("/")
    if ".." in parts or not 1 <= len(parts) <= 3 or not all(parts):
        raise UsageError(f"{path!r} is not of the form [view/]encoder[/layer.pooling]")
    if len(parts) == 2:
        parts = ["*", *parts] if is_layer(parts[1]) or "*" in parts[1] else [*parts, "*"]
    return {1: ("*", parts[0], "*")}.get(len(parts)) or (parts[0], parts[1], parts[2])


def _is_default_layer(array: FeatureArray, damage: list[FeatcacheError]) -> bool:
    """Whether the array's key says so; the error of a key that cannot be read is added to `damage`."""
    try:
        key = array.key()
    except FeatcacheError as error:
        damage.append(error)
        return False
    return key.provenance.get("default_layer") == key.layer


def open_cache(root: Folder | Path | str | None) -> Cache:
    """A cache that must exist.

    Raises:
        UsageError: If its folder does not exist.
    """
    cache = Cache(root)
    if not cache.folder.there():
        raise UsageError(
            f"there is no cache at {cache.folder}. Name another place, or make one: featcache demo, "
            "featcache extract DATASET ENCODER, or featcache pull REMOTE"
        )
    return cache
