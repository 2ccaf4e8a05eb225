"""Errors of names that match no array of a cache, or several."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

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
        command: The next command; None for the extraction.
    """
    command = command or f"featcache extract {dataset} {wanted.encoder}"
    if incomplete is not None:
        return _incomplete(place, dataset, wanted, incomplete, command)
    there = [name for name in cached if name.dataset == dataset and not name.is_graph]
    if not there:
        return _no_dataset(place, dataset, wanted, cached, command)
    own = [name for name in there if name.encoder in (wanted.encoder, wanted.view)]
    if own:  # a view that is an encoder's name: its layer was meant
        encoder = own[0].encoder
        command = command.replace(f" {dataset} {wanted.encoder}", f" {dataset} {encoder}")
        command = f"featcache ls '{dataset}/*/{encoder}'" if wanted.digest else command
        has = f"Cached of it: {_layers(own, digests=bool(wanted.digest))}"
    else:
        has = f"Cached for this data set: {_in_short(there)}"
    return FeaturesNotCached(f"no {wanted} for {dataset} in {place}\n  {has}\n  Run: {command}")


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
    place: str, dataset: str, wanted: Selector, cached: Iterable[ArrayName], command: str
) -> FeaturesNotCached:
    encoders: dict[str, set[str]] = {}
    for name in cached:
        encoders.setdefault(name.dataset, set()).add(name.encoder)
    has = f"The cache holds: {', '.join(sorted(encoders))}" if encoders else "The cache is empty"
    near = get_close_matches(dataset, sorted(encoders), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    if near and wanted.encoder in encoders[near[0]]:
        command = f"featcache ls {near[0]}"  # it is cached under the right name
    elif near:
        command = command.replace(f" {dataset} ", f" {near[0]} ")
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
