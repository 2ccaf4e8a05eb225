"""What is said of a name that stands for nothing in the cache, or for several arrays?"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from featcache.errors import Ambiguous, FeaturesNotCached
from featcache.key import differences
from featcache.names import Selector
from featcache.store import FeatureArray

if TYPE_CHECKING:
    from featcache.cache import Cache


def not_cached(
    cache: "Cache", dataset: str, wanted: Selector, incomplete: list[FeatureArray], *, command: str | None = None
) -> FeaturesNotCached:
    """The error of a name that stands for nothing whole; lists what there is.

    Args:
        cache: Where it was looked for.
        dataset: Data set name.
        wanted: What was asked.
        incomplete: Arrays of that name that are not complete.
        command: What to do next; None for the extraction.
    """
    command = command or f"featcache extract {dataset} {wanted.encoder}"
    if incomplete:
        array = incomplete[0]
        plan = array.plan()
        state = f"{len(array.committed())} of {plan.chunks if plan else '?'} chunks"
        if array.partial() is not None:
            return FeaturesNotCached(
                f"only some rows of {wanted} for {dataset} are in {cache.folder} ({state}): ask for --rows, or pull "
                f"the rest. Run: featcache pull REMOTE {'/'.join(names_of(array))}"
            )
        return FeaturesNotCached(f"{wanted} for {dataset} is incomplete in {cache.folder} ({state}). Run: {command}")
    there = [array for array in cache.arrays(dataset) if not _is_graph(array)]
    if not there:
        datasets = sorted({names_of(array)[0] for array in cache.arrays()})
        has = f"The cache holds: {', '.join(datasets)}" if datasets else "The cache is empty"
        near = get_close_matches(dataset, datasets, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        if near and any(wanted.encoder == names_of(array)[2] for array in cache.arrays(near[0])):
            command = f"featcache ls {near[0]}"  # it is cached under the right name
        elif near:
            command = command.replace(f" {dataset} ", f" {near[0]} ")
        return FeaturesNotCached(f"no features of {dataset} in {cache.folder}\n  {has}.{hint}\n  Run: {command}")
    own = [array for array in there if names_of(array)[2] in (wanted.encoder, wanted.view)]
    if own:  # a view that is an encoder's name: its layer was meant
        encoder = names_of(own[0])[2]
        command = command.replace(f" {dataset} {wanted.encoder}", f" {dataset} {encoder}")
        command = f"featcache ls '{dataset}/*/{encoder}'" if wanted.digest else command
        has = f"Cached of it: {_layers(own, digests=bool(wanted.digest))}"
    else:
        has = f"Cached for this data set: {in_short(there)}"
    return FeaturesNotCached(f"no {wanted} for {dataset} in {cache.folder}\n  {has}\n  Run: {command}")


def ambiguous(cache: "Cache", dataset: str, wanted: Selector, found: list[FeatureArray]) -> Ambiguous:
    """The error of a name that stands for several arrays; lists how they differ."""
    keys = [array.key() for array in found]
    lines = [f"{wanted} for {dataset} stands for {len(found)} arrays in {cache.folder}:"]
    for key in keys:
        fields = differences(keys[0].to_json()["names"] | dict(keys[0].binds), key.to_json()["names"] | dict(key.binds))
        differs = "; ".join(f"{name}: {theirs} (first: {first})" for name, (first, theirs) in fields.items())
        lines.append(f"  {key.view}/{key.encoder}/{key.layer}@{key.digest[:12]}  {differs or 'the first'}")
    lines.append(f"  Name one, as in: {keys[0].view}/{keys[0].encoder}/{keys[0].layer}@{keys[0].digest[:12]}")
    return Ambiguous("\n".join(lines))


def _is_graph(array: FeatureArray) -> bool:
    """Whether it holds neighbours of features, which nobody asks for by name."""
    return names_of(array)[3].startswith("graph.")


def _layers(arrays: Iterable[FeatureArray], *, digests: bool) -> str:
    """Every layer, behind its view and encoder."""
    found: dict[str, list[str]] = {}
    for array in arrays:
        _, view, encoder, layer = names_of(array)
        found.setdefault(f"{view}/{encoder}", []).append(f"{layer}@{array.digest[:12]}" if digests else layer)
    return "; ".join(f"{name}/ {', '.join(layers)}" for name, layers in found.items())


def in_short(arrays: Iterable[FeatureArray]) -> str:
    """Encoders and their layers; of an encoder with many layers, how many."""
    layers: dict[str, set[str]] = {}
    for array in arrays:
        _, _, encoder, layer = names_of(array)
        layers.setdefault(encoder, set()).add(layer)
    few = {encoder: sorted(found) for encoder, found in sorted(layers.items())}
    named = (
        [f"{encoder}/{layer}" for layer in found] if len(found) < 4 else [f"{encoder} ({len(found)} layers)"]
        for encoder, found in few.items()
    )
    return ", ".join(name for names in named for name in names)


def names_of(array: FeatureArray) -> tuple[str, str, str, str]:
    """Data set, view, encoder and layer of an array, from its path alone."""
    dataset, view, encoder, layer = array.folder.parts[-5:-1]
    return dataset, view, encoder, layer
