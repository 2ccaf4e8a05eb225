"""Leaks between splits: validation and test rows whose image, recording or text stands in an earlier split too."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from featcache.features import Features
from featcache.metrics import near_duplicates

if TYPE_CHECKING:
    import polars as pl

    from featcache.cache import Cache
    from featcache.extraction.job import Job

EARLIER = {"validation": ("train",), "test": ("train", "validation")}
NEAR = "near-identical image"
LOOKALIKE = "look-alike image"
IDENTICAL = {"image": "identical image", "audio": "identical recording", "text": "identical text"}
REPEATED = "text of a repeated group"
KINDS = (IDENTICAL["image"], NEAR, LOOKALIKE, IDENTICAL["audio"], REPEATED, IDENTICAL["text"])
LEAKING = (IDENTICAL["image"], NEAR, IDENTICAL["audio"], REPEATED)  # what makes a pair leak
COMMON = 0.25  # share of training images with a near-duplicate among themselves, from which on all are look-alikes
SAMPLE = 1_000  # training images that the share is measured on
LARGEST_SEARCH = 10**12  # products of one search; above it (some 20 s on two cores) a sample of the rows is looked at
BLOCK_ROWS = 8_192


@dataclass(frozen=True)
class Leak:
    """A validation or test row that stands in an earlier split too: a row of leaks.parquet.

    Args:
        kind: One of KINDS.
        view: Name of the view.
        split: "validation" or "test".
        id: Of the row.
        group: Of the row.
        match_split: Split of the row that it is like: "train", or "validation" of a test row.
        match_id: Of that row.
        match_group: Of that row.
        similarity: Cosine of the two rows' features; 1 where the content is the same.
    """

    kind: str
    view: str
    split: str
    id: str
    group: str
    match_split: str
    match_id: str
    match_group: str
    similarity: float

    @property
    def pair(self) -> str:
        """The row and what it is like, in words; by features alone, two pictures are never said to be equal."""
        if self.kind in (NEAR, LOOKALIKE):
            return f"{self.id} ≈ {self.match_id} of {self.match_split} (cosine {self.similarity:.3f})"
        return f"{self.id} = {self.match_id} of {self.match_split}"


@dataclass(frozen=True)
class Leaks:
    """What stands in two splits.

    Args:
        rows: By kind, then in the order of the views.
        groups: Split -> groups that leak. A group does if an image or a recording of it stands in an earlier split, for
            then its pair does. One text alone may be said of two pictures, but a group leaks whose texts, two or more,
            all stand in one earlier group: its picture is likely a copy that features did not find. Where there is
            nothing but texts, of two views or more, a group leaks if one earlier group has a text of it in every view.
        sizes: Split -> groups of it that were looked at.
        looked_at: View -> (validation and test images that were compared by features, those there are).
        encoders: View -> the arrays whose features compared them, all of which must find a row near-identical.
        look_alike: View -> share of the training images that have a near-duplicate among themselves, where that is so
            large (COMMON) that copies cannot be told from the look-alikes that the data set is made of. They are
            listed as such, and no group leaks for them.
    """

    rows: tuple[Leak, ...] = ()
    groups: Mapping[str, frozenset[str]] = field(default_factory=lambda: {})
    sizes: Mapping[str, int] = field(default_factory=lambda: {})
    looked_at: Mapping[str, tuple[int, int]] = field(default_factory=lambda: {})
    encoders: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {})
    look_alike: Mapping[str, float] = field(default_factory=lambda: {})

    def counts(self) -> dict[str, dict[str, int]]:
        """Kind -> split -> rows."""
        pairs = Counter((row.kind, row.split) for row in self.rows)
        kinds = dict.fromkeys(kind for kind, _ in pairs)
        return {kind: {split: pairs[kind, split] for split in EARLIER if pairs[kind, split]} for kind in kinds}

    def texts_alone(self) -> list[Leak]:
        """Texts that stand in an earlier split though their group does not leak."""
        text = IDENTICAL["text"]
        return [row for row in self.rows if row.kind == text and row.group not in self.groups.get(row.split, ())]

    def record(self) -> dict[str, Any]:
        """What config.json keeps of it."""
        return {
            "rows": self.counts(),
            "groups": {split: len(groups) for split, groups in self.groups.items() if groups},
            "of": dict(self.sizes),
            "texts": dict(Counter(row.split for row in self.texts_alone())),
            "looked_at": {view: list(counts) for view, counts in self.looked_at.items()},
            "encoders": {view: list(names) for view, names in self.encoders.items()},
            "look_alike": dict(self.look_alike),
        }

    def table(self) -> "pl.DataFrame":
        """One leak a row."""
        import polars as pl

        types = {one.name: pl.Float64 if one.type is float else pl.String for one in fields(Leak)}
        return pl.DataFrame([asdict(row) for row in self.rows], schema=types)


@dataclass(frozen=True, eq=False)
class Source:
    """Rows of one cached array: who they are, and their features when they are asked for.

    Args:
        features: Ids, groups and hashes; the values may be left out.
        take: Row numbers -> their values [m, d].
    """

    features: Features
    take: Callable[[NDArray[np.int64]], np.ndarray]

    @classmethod
    def of(cls, features: Features) -> "Source":
        """Of features that are loaded."""
        return cls(features, lambda rows: features.values[rows])


def find_leaks(sources: Sequence[Source], splits: Mapping[str, str]) -> Leaks:
    """Looks for validation and test rows that stand in an earlier split too.

    Identical content is found by its hash; near-identical images by the features of every array of their view, which
    must agree (`featcache.metrics.near_duplicates`).

    Args:
        sources: Arrays of one data set, of one view or several.
        splits: Group -> split; groups that it lacks take no part.

    Example:
        >>> strings = {"ids": ["a", "b"], "groups": ["a", "b"], "splits": ["train", "test"], "hashes": ["1", "1"]}
        >>> columns = {name: np.array(column, object) for name, column in strings.items()}
        >>> rows = Features(values=np.ones((2, 3)), view="images", modality="image", **columns)
        >>> leaks = find_leaks([Source.of(rows)], {"a": "train", "b": "test"})
        >>> leaks.counts(), leaks.rows[0].match_id
        ({'identical image': {'test': 1}}, 'a')
    """
    views: dict[str, list[Source]] = {}
    for source in sources:
        views.setdefault(source.features.view, []).append(source)
    rows, looked_at, encoders = list[Leak](), dict[str, tuple[int, int]](), dict[str, tuple[str, ...]]()
    look_alike: dict[str, float] = {}
    for view, arrays in views.items():
        first = arrays[0].features
        same = _identical(first, splits)
        rows += same
        if first.modality == "image":
            like, looked_at[view] = _near_identical(arrays, splits, {row.id for row in same})
            share = min(_share_of_look_alikes(array, splits) for array in arrays) if like else 0.0
            if share > COMMON:
                look_alike[view] = round(share, 3)
                like = [replace(row, kind=LOOKALIKE) for row in like]
            rows += like
            encoders[view] = tuple(dict.fromkeys(array.features.name for array in arrays))
    rows.sort(key=lambda row: KINDS.index(row.kind))
    if all(arrays[0].features.modality == "text" for arrays in views.values()):
        groups = _groups_of_texts([arrays[0].features for arrays in views.values()], splits)
    else:
        repeated = _repeated_groups([arrays[0].features for arrays in views.values()], splits)
        rows = [replace(row, kind=REPEATED) if _is_repeated(row, repeated) else row for row in rows]
        rows.sort(key=lambda row: KINDS.index(row.kind))
        leaking = [row for row in rows if row.kind in LEAKING]
        groups = {split: frozenset(row.group for row in leaking if row.split == split) for split in EARLIER}
    sizes = Counter(split for split in splits.values() if split in EARLIER)
    return Leaks(tuple(rows), groups, {split: sizes[split] for split in EARLIER}, looked_at, encoders, look_alike)


def extracted_leaks(cache: "Cache", jobs: "Sequence[Job]") -> Leaks:
    """Leaks of a data set that was just extracted, by the default layer of each encoder; whose arrays are complete."""
    if not jobs or not {*EARLIER} & {*jobs[0].dataset.overlay.splits}:
        return Leaks()
    sources: list[Source] = []
    for job in jobs:
        target = job.default_target
        if target.done:
            sources.append(Source(cache.describe(target.array), cache.reader(target.array).take))
    overlay = jobs[0].dataset.overlay
    return find_leaks(sources, dict(zip(overlay.groups, overlay.splits, strict=True)))


def _rows_of(features: Features, splits: Mapping[str, str], wanted: Sequence[str]) -> NDArray[np.int64]:
    own = [splits.get(group, "") for group in features.groups.tolist()]
    return np.flatnonzero(np.isin(np.array(own, dtype=object).astype(str), [*wanted]))


def _identical(features: Features, splits: Mapping[str, str]) -> list[Leak]:
    """Rows whose content hash stands in an earlier split; the match is its first row there."""
    kind = IDENTICAL.get(features.modality)
    if kind is None or not len(features.hashes):
        return []
    leaks: list[Leak] = []
    for split, earlier in EARLIER.items():
        hashes, first = features.hashes.tolist(), dict[str, int]()
        for name in earlier:
            for row in _rows_of(features, splits, [name]).tolist():
                first.setdefault(hashes[row], row)
        for row in _rows_of(features, splits, [split]).tolist():
            content = hashes[row]
            if content and content in first:
                leaks.append(_leak(kind, features, splits, row, first[content], 1.0))
    return leaks


def _leak(kind: str, features: Features, splits: Mapping[str, str], row: int, match: int, similarity: float) -> Leak:
    group, other = str(features.groups[row]), str(features.groups[match])
    return Leak(
        kind=kind,
        view=features.view,
        split=splits[group],
        id=str(features.ids[row]),
        group=group,
        match_split=splits[other],
        match_id=str(features.ids[match]),
        match_group=other,
        similarity=similarity,
    )


def _near_identical(
    arrays: Sequence[Source], splits: Mapping[str, str], identical: set[str]
) -> tuple[list[Leak], tuple[int, int]]:
    """Images that every array of the view finds near-identical, and how many of how many were looked at."""
    by_array: list[dict[str, Leak]] = []
    looked, total = 0, 0
    width = max(array.take(np.arange(1)).shape[1] for array in arrays)
    for number, array in enumerate(arrays):
        own: dict[str, Leak] = {}
        for split, earlier in EARLIER.items():
            rows, gallery = (_rows_of(array.features, splits, names) for names in ([split], earlier))
            left = rows[~np.isin(array.features.ids[rows].astype(str), [*identical])]
            chosen = _affordable(left, array.features.ids, len(gallery) * width)
            own |= {leak.id: leak for leak in _nearest(array, splits, chosen, gallery)}
            if not number:
                looked, total = looked + len(rows) - len(left) + len(chosen), total + len(rows)
        by_array.append(own)
    agreed = reduce(lambda a, b: {row: leak for row, leak in a.items() if row in b}, by_array)
    return [*agreed.values()], (looked, total)


def _affordable(rows: NDArray[np.int64], ids: NDArray[Any], products: int) -> NDArray[np.int64]:
    """The rows, or of too many a sample that is drawn by id, so that every encoder looks at the same."""
    most = LARGEST_SEARCH // max(1, products)
    if len(rows) <= most:
        return rows
    by_id = rows[np.argsort(ids[rows].astype(str), kind="stable")]
    return np.sort(np.random.default_rng(0).permutation(by_id)[: max(1, most)])


def _nearest(
    array: Source, splits: Mapping[str, str], rows: Int[np.ndarray, " q"], gallery: Int[np.ndarray, " g"]
) -> Iterator[Leak]:
    rows, gallery = _usable(array, rows), _usable(array, gallery)
    if not len(rows) or len(gallery) < 3:
        return
    result = near_duplicates(array.take(rows), _blocks(array, gallery), size=len(gallery))
    for place in np.flatnonzero(result.near):
        match, similarity = int(gallery[result.nearest[place]]), float(result.similarity[place])
        yield _leak(NEAR, array.features, splits, int(rows[place]), match, similarity)


def _blocks(array: Source, rows: NDArray[np.int64]) -> Iterator[np.ndarray]:
    return (array.take(rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS))


def _share_of_look_alikes(array: Source, splits: Mapping[str, str]) -> float:
    """Share of the training images, of a sample of them, that are near-identical to another training image."""
    train = _usable(array, _rows_of(array.features, splits, ["train"]))
    if len(train) < 3:
        return 0.0
    most = max(1, min(SAMPLE, LARGEST_SEARCH // (len(train) * array.take(train[:1]).shape[1])))
    own = np.sort(np.random.default_rng(0).permutation(len(train))[:most])
    result = near_duplicates(array.take(train[own]), _blocks(array, train), size=len(train), exclude=own)
    return float(result.near.mean())


def _usable(array: Source, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows with a direction: one that failed is all NaN, and a zero row has no cosine."""
    kept: list[NDArray[np.int64]] = [rows[:0]]
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        values = array.take(part)
        kept.append(part[np.isfinite(values).all(axis=1) & (values != 0).any(axis=1)])
    return np.concatenate(kept)


def _is_repeated(row: Leak, repeated: Mapping[str, set[str]]) -> bool:
    return row.kind == IDENTICAL["text"] and row.group in repeated[row.split]


def _repeated_groups(views: Sequence[Features], splits: Mapping[str, str]) -> dict[str, set[str]]:
    """Split -> groups of it whose texts of a view, two or more that differ, all stand in one earlier group."""
    repeated: dict[str, set[str]] = {split: set() for split in EARLIER}
    for view in views:
        if view.modality != "text" or not len(view.hashes):
            continue
        hashes, groups = view.hashes.tolist(), view.groups.tolist()
        texts: dict[str, set[str]] = {}
        for row in _rows_of(view, splits, [*EARLIER, "train"]).tolist():
            texts.setdefault(groups[row], set()).add(hashes[row])
        for split, earlier in EARLIER.items():
            for group, like in _groups_of_equal_text(view, splits, split, earlier).items():
                own = texts[group]
                if len(own) > 1 and "" not in own and any(own <= texts[other] for other in like):
                    repeated[split].add(group)
    return repeated


def _groups_of_texts(views: Sequence[Features], splits: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Groups that share a text in every view with one and the same group of an earlier split."""
    leaking: dict[str, frozenset[str]] = {}
    for split, earlier in EARLIER.items():
        common: dict[str, set[str]] | None = None
        for view in views:
            like = _groups_of_equal_text(view, splits, split, earlier)
            common = (
                like if common is None else {group: common[group] & like[group] for group in common if group in like}
            )
        leaking[split] = frozenset(group for group, like in (common or {}).items() if like and len(views) > 1)
    return leaking


def _groups_of_equal_text(
    view: Features, splits: Mapping[str, str], split: str, earlier: Sequence[str]
) -> dict[str, set[str]]:
    """Group of a split -> the groups of earlier splits that have one of its texts."""
    holders: dict[str, set[str]] = {}
    hashes, groups = view.hashes.tolist(), view.groups.tolist()
    for row in _rows_of(view, splits, earlier).tolist() if hashes else ():
        holders.setdefault(hashes[row], set()).add(groups[row])
    like: dict[str, set[str]] = {}
    for row in _rows_of(view, splits, [split]).tolist() if hashes else ():
        if hashes[row]:
            like.setdefault(groups[row], set()).update(holders.get(hashes[row], ()))
    return like
