"""Errors of names that match no array of a cache, or several."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from featcache.data.datasets import DATASETS, extract_command
from featcache.errors import Ambiguous, FeaturesNotCached
from featcache.selectors import Selector
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayName, differences


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

    Args:
        place: The cache's folder.
        dataset: Data set name.
        wanted: The rest of the name.
        cached: Names of the data set's arrays; where it has none, of every array of the cache.
        incomplete: An array of that name that is not complete.
        command: The next command; None for what makes such an array.
    """
    dataset = dataset.removeprefix("folder:")
    if incomplete is not None:
        return _incomplete(place, dataset, wanted, incomplete, command or _making(dataset, wanted.encoder))
    there = [name for name in cached if name.dataset == dataset and not name.is_graph]
    if not there:
        return _no_dataset(place, dataset, wanted, cached, command)
    own = [name for name in there if name.encoder in (wanted.encoder, wanted.view)]
    near = get_close_matches(wanted.encoder, sorted({name.encoder for name in there}), n=1, cutoff=0.75)
    if own:  # a view that is an encoder's name: its layer was meant
        encoder = own[0].encoder
        elsewhere = wanted.view not in (None, encoder) and all(name.view != wanted.view for name in own)
        listing = f"featcache ls '{dataset}/*/{encoder}'" if wanted.digest or elsewhere else None
        command = listing or command or _making(dataset, encoder)
        has = f"Cached of it: {_layers(own, digests=bool(wanted.digest))}"
    else:
        has = f"Cached for this data set: {_in_short(there)}"
        has += f". Did you mean {near[0]}?" if near else ""
        command = command or (f"featcache ls '{dataset}/*/{near[0]}'" if near else _making(dataset, wanted.encoder))
    return FeaturesNotCached(f"no {wanted} for {dataset} in {place}\n  {has}\n  Run: {command}")


_OF_A_RUN = re.compile(r".+-s\d+-[0-9a-f]{8}")


def _making(dataset: str, encoder: str) -> str:
    """The command that makes features of that name: an extraction, or the embedding by a run."""
    return "featcache embed RUN" if _OF_A_RUN.fullmatch(encoder) else extract_command(dataset, encoder)


def ambiguous(place: str, dataset: str, wanted: Selector, arrays: Sequence[FeatureArray]) -> Ambiguous:
    """The error of a name that matches several arrays; lists how they differ."""
    keys = [array.key() for array in arrays]
    lines = [f"{wanted} for {dataset} stands for {len(arrays)} arrays in {place}:"]
    for key in keys:
        fields = differences(keys[0].to_json()["names"] | dict(keys[0].binds), key.to_json()["names"] | dict(key.binds))
        differs = "; ".join(f"{name}: {theirs} (first: {first})" for name, (first, theirs) in fields.items())
        lines.append(f"  {key.view}/{key.encoder}/{key.layer}@{key.digest[:12]}  {differs or 'the first'}")
    lines.append(f"  Name one, as in: {keys[0].view}/{keys[0].encoder}/{keys[0].layer}@{keys[0].digest[:12]}")
    return Ambiguous("\n".join(lines))


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
    place: str, dataset: str, wanted: Selector, cached: Iterable[ArrayName], command: str | None
) -> FeaturesNotCached:
    encoders: dict[str, set[str]] = {}
    for name in cached:
        encoders.setdefault(name.dataset, set()).add(name.encoder)
    has = f"The cache holds: {', '.join(sorted(encoders))}" if encoders else "The cache is empty"
    if dataset == "folder":  # how it is extracted, not what it is called by then
        own = [name for name in sorted(encoders) if name not in DATASETS]
        hint = f" A folder goes by its own name here{': ' + ' or '.join(own) if own else ''}."
        command = command or ("featcache ls" if own else "featcache extract folder:NAME ENCODER --root DIR")
        return FeaturesNotCached(f"no features of folder in {place}\n  {has}.{hint}\n  Run: {command}")
    near = get_close_matches(dataset, sorted(encoders), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    if near and wanted.encoder in encoders[near[0]]:
        command = f"featcache ls {near[0]}"  # it is cached under the right name
    elif command is None:
        command = _making(near[0] if near else dataset, wanted.encoder)
    return FeaturesNotCached(f"no features of {dataset} in {place}\n  {has}.{hint}\n  Run: {command}")


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
