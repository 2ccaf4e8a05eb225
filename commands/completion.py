"""Words that a shell completes: names of data sets and encoders, and of cached arrays in a cache on this disk."""

from collections.abc import Iterator

import typer


def complete_dataset(ctx: typer.Context, incomplete: str) -> list[str]:
    """Data sets that begin so: those that are cached, then those that there are.

    Args:
        ctx: What was typed so far.
        incomplete: The beginning of the word.
    """
    from featcache.data.datasets import DATASETS

    names = dict.fromkeys([*(name for name, *_ in _cached(ctx, "*")), *DATASETS])
    return [name for name in names if name.startswith(incomplete) and name != "folder"]


def complete_array(ctx: typer.Context, incomplete: str) -> list[str]:
    """Arrays of the data set that begin so: encoders, behind their view where they have several; after "/", layers.

    Args:
        ctx: What was typed so far.
        incomplete: The beginning of the word; what stands before "=" names a side and stays.
    """
    side, equals, begun = incomplete.rpartition("=")
    dataset = ctx.params.get("dataset")
    names = [*_cached(ctx, dataset)] if isinstance(dataset, str) else []
    views = dict[str, set[str]]()
    for _, view, encoder, _ in names:
        views.setdefault(encoder, set()).add(view)
    told = dict[str, None]()
    for _, view, encoder, layer in names:
        short = encoder if len(views[encoder]) == 1 else f"{view}/{encoder}"
        long = f"{short}/{layer}" if begun.startswith(f"{short}/") else short
        told |= dict.fromkeys(name for name in (long, f"{view}/{encoder}") if name.startswith(begun))
    return [f"{side}{equals}{name}" for name in told if begun or name.count("/") < 2]


def complete_encoder(incomplete: str) -> list[str]:
    """Encoders that begin so, packaged and the user's own.

    Args:
        incomplete: The beginning of the word.
    """
    from featcache.encoders.spec import encoder_specs, packaged_specs
    from featcache.errors import UsageError

    try:
        names = encoder_specs()
    except UsageError:  # of the user's file, which `featcache encoders` shows
        names = packaged_specs()
    return [name for name in names if name.startswith(incomplete)]


def _cached(ctx: typer.Context, dataset: str) -> Iterator[tuple[str, str, str, str]]:
    """(data set, view, encoder, layer) of what lies in a cache on this disk; nothing of another or a damaged one."""
    from featcache.cache import Cache, default_place
    from featcache.errors import FeatcacheError
    from featcache.storage.open import is_address

    place = ctx.params.get("cache") or default_place()
    if is_address(str(place)):  # no key press should wait for a network
        return
    try:
        for array in Cache(place).arrays(dataset):
            name, view, encoder, layer = array.name[:4]
            if not layer.startswith("graph."):
                yield name, view, encoder, layer
    except (FeatcacheError, OSError):
        return
