"""What does a push to the Hub need beside the features? A repository, private unless asked for, and its card."""

from featcache.cache import Cache
from featcache.sharing.hub_card import card
from featcache.storage.base import Folder


def is_hub(folder: Folder) -> bool:
    """Whether a folder is a repository of the Hub."""
    return str(folder).startswith("hf://")


def make_repository(target: Cache, *, public: bool) -> None:
    """Makes the repository that a push goes to, unless it is there; nothing to do elsewhere.

    Args:
        target: Where the push goes.
        public: Whether a new repository can be read by everybody.
    """
    if is_hub(target.folder):
        from featcache.storage.hub import open_hub

        open_hub(str(target.folder)).create(private=not public)


def is_public(target: Cache) -> bool:
    """Whether everybody can read a place that a push goes to already; only a Hub repository says so."""
    if not is_hub(target.folder) or not target.folder.there():
        return False
    from featcache.storage.hub import open_hub

    return open_hub(str(target.folder)).is_public


def write_card(target: Cache) -> bool:
    """Writes the repository's README.md from the keys of what lies in it.

    Returns:
        Whether it says so now: a card of someone else's hand is left alone; True where there is none to write.
    """
    if not is_hub(target.folder):
        return True
    from featcache.storage.hub import open_hub

    arrays = list(target.arrays())
    entries = target.folder.map(target.entry, arrays)
    whole = [(entry, array.key()) for entry, array in zip(entries, arrays, strict=True) if not entry.damaged]
    return open_hub(str(target.folder)).write_card(card(whole, str(target.folder)))


def terms(source: Cache, selectors: list[str]) -> list[tuple[str, str]]:
    """(what, its licence) of the data sets and encoders that a push would make available.

    Args:
        source: The cache that is pushed.
        selectors: What of it.
    """
    found: dict[str, str] = {}
    for selector in selectors:
        for array in source.answering(selector):
            key = array.key()
            data, encoder = key.provenance.get("dataset", {}), key.provenance.get("encoder", {})
            found[f"data set {key.dataset}"] = str(data.get("licence", "not stated"))
            found[f"encoder {key.encoder}"] = str(encoder.get("licence", "not stated"))
    return sorted(found.items())
