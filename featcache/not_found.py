"""Errors of names that match no array of a cache, several, or only such of older rows."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from featcache.data.datasets import DATASETS, extract_command, known_entry
from featcache.data.hub_names import cached_name
from featcache.errors import Ambiguous, FeaturesNotCached, OutdatedRows
from featcache.selectors import Selector
from featcache.store.array import FeatureArray
from featcache.store.current import CurrentRows
from featcache.store.digest import ArrayKey, ArrayName, differences


def not_cached(
    place: str,
    dataset: str,
    wanted: Selector,
    cached: Sequence[ArrayName],
    *,
    incomplete: FeatureArray | None = None,
    command: str | None = None,
) -> FeaturesNotCached:
    """The error of a name that matches no complete array; lists what is cached.

    Encoders are not known here: `reword` of the error takes their names, and then no command extracts one that is none.

    Args:
        place: The cache's folder.
        dataset: Data set name.
        wanted: The rest of the name.
        cached: Names of the data set's arrays; where it has none, of every array of the cache.
        incomplete: An array of that name that is not complete.
        command: The next command; None for what makes such an array.
    """
    dataset = cached_name(dataset)
    if incomplete is not None:
        return _incomplete(place, dataset, wanted, incomplete, command or _making(dataset, wanted.encoder))
    there = [name for name in cached if name.dataset == dataset and not name.is_graph]
    if there:
        reword = partial(_no_array, place, dataset, wanted, there, command)
    else:
        reword = partial(_no_dataset, place, dataset, wanted, cached, command)
    return FeaturesNotCached(reword(()), reword)


def _no_array(
    place: str,
    dataset: str,
    wanted: Selector,
    there: Sequence[ArrayName],
    command: str | None,
    known: Collection[str],
) -> str:
    """What is cached of a data set that has arrays, and not this one; `known` as for `_extraction`."""
    own = [name for name in there if name.encoder in (wanted.encoder, wanted.view)]
    if own:  # a view that is an encoder's name: its layer was meant
        encoder = own[0].encoder
        elsewhere = wanted.view not in (None, encoder) and all(name.view != wanted.view for name in own)
        listing = f"featcache ls '{dataset}/*/{encoder}'" if wanted.digest or elsewhere else None
        command = listing or command or _making(dataset, encoder)
        has = f"Cached of it: {_layers(own, digests=bool(wanted.digest))}"
    else:
        near = [] if wanted.encoder in known else _nearest(wanted.encoder, {name.encoder for name in there})
        has = f"Cached for this data set: {_in_short(there)}"
        has += f". Did you mean {' or '.join(near)}?" if near else ""
        if command is None and near:
            command = f"featcache ls '{dataset}/*/{near[0]}'"
        elif command is None:
            about, command = _extraction(dataset, wanted.encoder, known)
            has += about
    return f"no {wanted} for {dataset} in {place}\n  {has}\n  Run: {command}"


def _nearest(name: str, names: Iterable[str]) -> list[str]:
    """The names, three at most, that are nearest to a mistyped or shortened one, the nearest first."""
    ordered = sorted(names)
    near = get_close_matches(name, ordered, n=3, cutoff=0.75)
    begun = [each for each in ordered if len(name) > 2 and each.startswith(name)]
    return list(dict.fromkeys([*near, *begun]))[:3]


def _extraction(dataset: str, encoder: str, known: Collection[str]) -> tuple[str, str]:
    """What is wrong with an encoder's name, "" for nothing, and the command that makes such features or goes on.

    Args:
        dataset: Data set name.
        encoder: The name.
        known: The encoders that there are; empty if that is not known, and any name is taken for one.
    """
    if not known or _typed(encoder).partition(" ")[0] in known or _OF_A_RUN.fullmatch(encoder):
        return "", _making(dataset, encoder)
    near = _nearest(encoder, known)
    about = f"\n  There is no encoder {encoder}{'; nearest: ' + ', '.join(near) if near else ''}"
    return about, _making(dataset, near[0]) if near else "featcache encoders"


_RANDOM = re.compile(r"(.+)-random(\d+)")
_OF_A_RUN = re.compile(r".+-s\d+-[0-9a-f]{8}")


def _making(dataset: str, encoder: str) -> str:
    """The command that makes features of that name: an extraction, or the embedding by a run."""
    return "featcache embed RUN" if _OF_A_RUN.fullmatch(encoder) else extract_command(dataset, _typed(encoder))


def _typed(encoder: str) -> str:
    """A cached encoder as `extract` takes it: random weights are an option."""
    random = _RANDOM.fullmatch(encoder)
    return f"{random[1]} --random {random[2]}" if random else encoder


def ambiguous(
    place: str,
    dataset: str,
    wanted: Selector,
    arrays: Sequence[FeatureArray],
    records: Mapping[str, CurrentRows | None],
) -> Ambiguous:
    """The error of a name that matches several arrays; lists how they differ, those of the current rows first.

    Args:
        place: The cache's folder.
        dataset: Data set name.
        wanted: The rest of the name.
        arrays: Those that match.
        records: View -> the record of its current rows, if there is one.
    """
    keys = sorted((array.key() for array in arrays), key=created, reverse=True)
    keys.sort(key=lambda key: not _is_recorded(key, records.get(key.view)))
    lines = [f"{wanted} for {dataset} stands for {len(arrays)} arrays in {place}:"]
    for key in keys:
        fields = differences(_named(keys[0]), _named(key))
        differs = "; ".join(f"{name}: {theirs} (first: {first})" for name, (first, theirs) in fields.items())
        about = describe_rows(key, records.get(key.view))
        lines.append(f"  {array_label(key)}@{key.digest[:12]}  {about}; {differs or 'the first'}")
    lines.append(f"  Name one, as in: {array_label(keys[0])}@{keys[0].digest[:12]}")
    views = {key.view for key in keys if records.get(key.view) is None}
    roots = {key.binds["rows"]["root"] for key in keys if key.view in views}
    if len(views) == 1 and len(roots) > 1:
        lines.append(
            f"  Which rows are current is not recorded; to record it, without encoding what is cached: "
            f"{extraction_of(keys[0])}"
        )
    return Ambiguous("\n".join(lines))


def outdated(place: str, dataset: str, wanted: Selector, keys: Sequence[ArrayKey], record: CurrentRows) -> OutdatedRows:
    """The error of a name whose arrays are all of older rows than the current ones.

    Args:
        place: The cache's folder.
        dataset: Data set name.
        wanted: The rest of the name.
        keys: Keys of what matches.
        record: The record of the current rows.
    """
    keys = sorted(keys, key=created, reverse=True)
    label, encoder = array_label(keys[0]), keys[0].binds["encoder"]
    lines = [
        f"{wanted} for {dataset} is complete only of older rows in {place}: since {moment(record.written)} "
        f"other arrays there are of the current {record.n:,} rows of {keys[0].view}",
        *(f"  {array_label(key)}@{key.digest[:12]}  {describe_rows(key, record)}" for key in keys),
    ]
    if "from" in encoder:
        lines.append("  It was computed from features of those rows: train and embed again, on the current ones")
    elif "imported" in encoder:
        lines.append("  Import it again, from a file with the current rows")
    else:
        lines.append(f"  Run: {extraction_of(keys[0])}, or pull it from where that was done")
    lines.append(f"  To use the older rows all the same: {label}@{keys[0].digest[:12]}")
    return OutdatedRows("\n".join(lines))


def array_label(key: ArrayKey) -> str:
    """View, encoder and layer, as a selector names them."""
    return f"{key.view}/{key.encoder}/{key.layer}"


def describe_rows(key: ArrayKey, record: CurrentRows | None) -> str:
    """How many rows an array has, whether they are the current ones, and when it was begun."""
    rows = f"{key.binds['rows']['n']:,} "
    if record is not None:
        rows += "current " if _is_recorded(key, record) else "older "
    return f"{rows}rows, {created(key)}"


def moment(written: str) -> str:
    """An ISO time to the second, for people; "unknown date" if there is none.

    Example:
        >>> moment("2026-11-29T14:03:20+00:00")
        '2026-11-29 14:03:20'
    """
    return written[:19].replace("T", " ") or "unknown date"


def extraction_of(key: ArrayKey, root: Path | None = None) -> str:
    """The command of the extraction that an array came from, over the data as it is now.

    Args:
        key: Of the array.
        root: Folder that holds the data set's files, if it is known: a folder of the user's needs it.
    """
    view = "" if key.view in ("images", "captions", "audio") else key.view
    return extract_command(key.dataset, _typed(key.encoder), view=view, root=root)


def created(key: ArrayKey) -> str:
    """When an array was begun, for people; as `moment`."""
    return moment(str(key.provenance.get("created", "")))


def _is_recorded(key: ArrayKey, record: CurrentRows | None) -> bool:
    return record is not None and key.binds["rows"]["root"] == record.root


def _named(key: ArrayKey) -> dict[str, Any]:
    """What a digest binds, and the names of the folders."""
    return dict(zip(("dataset", "view", "encoder", "layer"), key.names, strict=True)) | dict(key.binds)


def _incomplete(place: str, dataset: str, wanted: Selector, array: FeatureArray, command: str) -> FeaturesNotCached:
    layout = array.layout()
    state = f"{len(array.committed())} of {layout.chunks if layout else '?'} chunks"
    if array.partial() is not None:
        return FeaturesNotCached(
            f"only some rows of {wanted} for {dataset} are in {place} ({state}): ask for --rows, or pull "
            f"the rest. Run: featcache pull REMOTE {'/'.join(array.name[:-1])}"
        )
    return FeaturesNotCached(f"{wanted} for {dataset} is incomplete in {place} ({state}). Run: {command}")


def _no_dataset(
    place: str,
    dataset: str,
    wanted: Selector,
    cached: Iterable[ArrayName],
    command: str | None,
    known: Collection[str],
) -> str:
    """What is cached of other data sets; `known` as for `_extraction`."""
    encoders: dict[str, set[str]] = {}
    for name in cached:
        encoders.setdefault(name.dataset, set()).add(name.encoder)
    has = f"The cache holds: {', '.join(sorted(encoders))}" if encoders else "The cache is empty"
    if dataset == "folder":  # how it is extracted, not what it is called by then
        own = [name for name in sorted(encoders) if known_entry(name) is None]
        hint = f" A folder goes by its own name here{': ' + ' or '.join(own) if own else ''}."
        command = command or ("featcache ls" if own else "featcache extract folder:NAME ENCODER --root DIR")
        return f"no features of folder in {place}\n  {has}.{hint}\n  Run: {command}"
    is_known = known_entry(dataset) is not None
    near = [] if is_known else get_close_matches(dataset, sorted(encoders), n=1)
    if not near and not is_known:
        near = get_close_matches(dataset, sorted(DATASETS.keys() - {"folder", "hub"}), n=1, cutoff=0.75)
    hint = f" Did you mean {near[0]}?" if near else ""
    if near and wanted.encoder in encoders.get(near[0], ()):
        command = f"featcache ls {near[0]}"  # it is cached under the right name
    elif command is None:
        about, command = _extraction(near[0] if near else dataset, wanted.encoder, known)
        hint += about
    return f"no features of {dataset} in {place}\n  {has}.{hint}\n  Run: {command}"


def _layers(names: Iterable[ArrayName], *, digests: bool) -> str:
    """Every layer, behind its view and encoder."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer = f"{name.layer}@{name.digest[:12]}" if digests else name.layer
        layers.setdefault(f"{name.view}/{name.encoder}", []).append(layer)
    return "; ".join(f"{encoder}/ {', '.join(each)}" for encoder, each in layers.items())


def _in_short(names: Iterable[ArrayName]) -> str:
    """Encoders and their layers; of an encoder with many layers, how many."""
    layers: dict[str, set[str]] = {}
    for name in names:
        layers.setdefault(name.encoder, set()).add(name.layer)
    listed: list[str] = []
    for encoder, each in sorted(layers.items()):
        few = [f"{encoder}/{layer}" for layer in sorted(each)]
        listed += few if len(few) < 4 else [f"{encoder} ({len(few)} layers)"]
    return ", ".join(listed)
