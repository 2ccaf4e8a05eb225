"""The caption-swap dial: a known share of wrong captions, on cached features, without encoding anything again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from featcache.cache import Cache
from featcache.features import Features
from featcache.metrics.errors import BadChoice
from featcache.studies.emergence.dials.correlations import dial_correlations
from featcache.studies.emergence.dials.doses import (
    DialResult,
    DialSettings,
    DialViews,
    Dose,
    Layers,
    OnStep,
    drawn_groups,
    kept_groups,
    measure_doses,
    write_tables,
)
from featcache.studies.emergence.dials.performance import Labels, bits_per_byte, column_labels, probe_doses
from featcache.trainer.errors import NotPaired

if TYPE_CHECKING:
    import polars as pl

DIAL = "swapped"
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of rows, where a group has one text


def swapped_captions(
    cache: Cache,
    views: DialViews,
    settings: DialSettings | None = None,
    *,
    draws: Sequence[int] = (0,),
    labels: Labels | str | None = None,
    out: Path | None = None,
    on_step: OnStep | None = None,
) -> DialResult:
    """Alignment and performance of every layer while captions are swapped for those of other photos.

    Where every group has several captions, m of them, m = 0 to all, are those of another group; where a group has one
    text, that of a share of the groups is. Both groups are of one split, so that no text crosses splits, and both are
    measured, or neither is. At every dose each text stands in exactly one place: texts are paired wrongly, and not
    changed.

    Args:
        cache: The cache.
        views: The view that stays as it is, and the text view that is swapped.
        settings: How it is measured; None for `DialSettings()`.
        draws: Seeds of the swaps; dose 0 is measured once.
        labels: What layers are probed for: `Labels`, a label column, or None for the first column there is.
        out: Folder for the tables, OUT/swapped/DATASET/VIEW; None for nowhere.
        on_step: Called with each step in words.

    Raises:
        FeaturesNotCached, Ambiguous, NotPaired, MetricError: As `layers_of_view`, `measure_doses` and `probe_doses`.
        UsageError: If there is no such label column.
    """
    settings = settings or DialSettings()
    x, y = views.layers(cache)
    of = chosen_labels([*x.arrays, *y.arrays], labels)
    measured = drawn_groups([*x.arrays, *y.arrays], settings.rows, settings.seed)
    splits = _splits(x, of)
    images = [kept_groups(each, measured) for each in x.arrays]
    texts = [kept_groups(each, measured) for each in y.arrays]
    defaults = (x.defaults, y.defaults)
    alignment = measure_doses(DIAL, swap_doses(images, texts, splits, draws), defaults, settings, on_step=on_step)
    performance, said = None, ["no labels: layers have no performance but bits per byte of language models"]
    if of is not None:
        # layers are probed on all groups; those that are measured swap among themselves, as the others do
        parts = [measured, {group for group in splits if group not in measured}]
        probed = [each for each in y.arrays if of.may_probe(each)] or y.arrays[:1]
        every = swap_doses(x.arrays, probed, splits, draws, parts=parts)
        performance, said = probe_doses(DIAL, every, of, seed=settings.seed, on_step=on_step)
    bits = _bits(cache, views.dataset, texts[0], draws[0], measured)
    correlations = dial_correlations(alignment, performance, bits)
    tables = {"alignment": alignment, "performance": performance, "correlations": correlations, "bits": bits}
    paths = write_tables(
        None if out is None else out / DIAL / views.dataset / views.y,
        {name: each for name, each in tables.items() if each is not None},
    )
    return DialResult(alignment, performance, correlations, bits, (*x.notes, *y.notes, *said), paths)


def chosen_labels(arrays: Sequence[Features], labels: Labels | str | None) -> Labels | None:
    """The labels of a dial: those given, a column, or the first column of the data set; None where it has none.

    Raises:
        UsageError: If there is no such column.
    """
    if isinstance(labels, Labels):
        return labels
    column = labels or next((name for each in arrays for name in each.labels), None)
    return None if column is None else column_labels(arrays, column)


def swap_doses(
    x: Sequence[Features],
    y: Sequence[Features],
    splits: Mapping[Any, str],
    draws: Sequence[int],
    *,
    parts: Sequence[set[Any]] = (),
) -> Iterator[Dose]:
    """Every dose of a swap: none first, then all others of each draw.

    Args:
        x: Layers that stay as they are.
        y: Layers of a text view, all with the same rows.
        splits: Group -> split; texts are swapped within each.
        draws: Seeds.
        parts: Sets of groups, within each of which they are swapped; () for one set of all.

    Raises:
        NotPaired: If layers of y have other rows than the first, or a split has a single group.
    """
    first = y[0]
    unlike = next((each for each in y if not np.array_equal(each.ids, first.ids)), None)
    if unlike is not None:
        raise NotPaired(f"{unlike.name} has other rows than {first.name}: extract {first.view} with both again")
    groups = first.groups.tolist()
    part_of = {group: number for number, part in enumerate(parts) for group in part}
    blocks = [f"{splits.get(group, '')} {part_of.get(group, 0)}" for group in groups]
    (none, words), *levels = swap_levels(groups)
    yield Dose(none, words, draws[0], x, y)
    for draw in draws:
        for share, words in levels:
            source = swapped_rows(groups, blocks, share, seed=draw)
            yield Dose(share, words, draw, x, [_swapped(each, source) for each in y])


def swap_levels(groups: Sequence[Any]) -> list[tuple[float, str]]:
    """The doses of a swap, from none to all: shares, and in words.

    Example:
        >>> swap_levels(["a", "a", "b", "b"])[1], swap_levels(["a", "b"])[1]
        ((0.5, '1 of 2 captions'), (0.2, '20% of texts'))
    """
    captions = captions_each(groups)
    if captions == 1:
        return [(share, f"{share:.0%} of texts") for share in SHARES]
    return [(m / captions, f"{m} of {captions} captions") for m in range(captions + 1)]


def captions_each(groups: Sequence[Any]) -> int:
    """Texts of the group that has the fewest.

    Example:
        >>> captions_each(["a", "a", "b", "b", "b"])
        2
    """
    counts: dict[Any, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    return min(counts.values())


def swapped_rows(groups: Sequence[Any], blocks: Sequence[str], share: float, *, seed: int) -> Int[np.ndarray, " n"]:
    """Which row's text each row has after a swap: a permutation of the rows.

    Groups of a block stand in a random circle, and texts move on by one place: the donor of a group is never itself,
    and each text is used once. Where the smallest group has c > 1 texts, round(share * c) texts of every group move, at
    places drawn for each group (captions are often sorted by length); where it has one, all texts of a share of the
    groups of each block move. With one seed the texts that move at a lower share move at a higher one too.

    Args:
        groups: The group of each row.
        blocks: The block of each row, the same for all rows of a group.
        share: 0 to 1.
        seed: Of the circle and the places.

    Returns:
        [n] the row whose text row i has.

    Raises:
        BadChoice: If the share is out of range.
        NotPaired: If a block has one group, so that nobody is there to swap with.

    Example:
        >>> groups = ["a", "a", "b", "b", "c", "c"]
        >>> moved = swapped_rows(groups, ["train"] * 6, 0.5, seed=0)
        >>> [groups[row] for row in moved.tolist()], sorted(moved.tolist())
        (['c', 'a', 'b', 'a', 'b', 'c'], [0, 1, 2, 3, 4, 5])
    """
    if not 0 <= share <= 1:
        raise BadChoice(f"share = {share}: wanted 0 to 1")
    source = np.arange(len(groups))
    captions = captions_each(groups)
    rng = np.random.default_rng(seed)
    for members in _circles(groups, blocks, rng):
        if captions == 1:
            members = members[: round(share * len(members))]
            moving = [list(range(len(rows))) for rows in members]
            least = min(map(len, moving), default=0)
            moving = [places[:least] for places in moving]
        else:
            moving = [places[: round(share * captions)] for places in _orders(members, seed)]
        for number, rows in enumerate(members if len(members) > 1 else []):
            donor, theirs = members[number - 1], moving[number - 1]
            for place, other in zip(moving[number], theirs, strict=True):
                source[rows[place]] = donor[other]
    return source


def _circles(groups: Sequence[Any], blocks: Sequence[str], rng: np.random.Generator) -> Iterator[list[list[int]]]:
    """Of each block, its groups in random order, each as its rows."""
    rows: dict[str, dict[Any, list[int]]] = {}
    for row, (group, block) in enumerate(zip(groups, blocks, strict=True)):
        rows.setdefault(block, {}).setdefault(group, []).append(row)
    for block, members in sorted(rows.items()):
        every = list(members.values())
        if len(every) == 1:
            raise NotPaired(
                f"block {block.strip()!r} has one group, {next(iter(members))!r}: nobody is there to swap texts with; "
                "measure more rows, or other splits"
            )
        yield [every[place] for place in rng.permutation(len(every)).tolist()]


def _orders(members: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
    """The places of each group in random order."""
    orders: list[list[int]] = []
    for rows in members:
        own = np.random.default_rng([seed, 1, rows[0]])
        orders.append(own.permutation(len(rows)).tolist())
    return orders


def _swapped(features: Features, source: Int[np.ndarray, " n"]) -> Features:
    """The same rows with the texts of others."""
    hashes = features.hashes[source] if len(features.hashes) else features.hashes
    return replace(features, values=features.values[source], hashes=hashes)


def _splits(x: Layers, labels: Labels | None) -> dict[Any, str]:
    if labels is not None:
        return dict(labels.splits)
    first = x.arrays[0]
    return dict(zip(first.groups.tolist(), first.splits.astype(str).tolist(), strict=True))


def _bits(cache: Cache, dataset: str, texts: Features, draw: int, groups: set[Any]) -> "pl.DataFrame":
    """Bits per byte at every dose: the same, since texts move and do not change."""
    import polars as pl

    levels = swap_levels(texts.groups.tolist())
    at_none = bits_per_byte(cache, dataset, {texts.view: (*levels[0], draw)}, groups)
    return pl.concat([at_none.with_columns(dose=pl.lit(share), dose_words=pl.lit(words)) for share, words in levels])
