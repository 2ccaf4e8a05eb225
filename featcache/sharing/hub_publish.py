"""Repositories of the Hub that a push makes: created private unless asked otherwise, described by a card."""

from featcache.cache import Cache
from featcache.sharing.hub_card import MARK, card
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
    arrays = list(target.arrays())
    entries = target.folder.map(target.entry, arrays)
    whole = [(entry, array.key()) for entry, array in zip(entries, arrays, strict=True) if not entry.damaged]
    return replace_card(target.folder, card(whole, str(target.folder)))


def replace_card(folder: Folder, text: str) -> bool:
    """Writes a folder's README.md; one that somebody else wrote is left alone.

    Args:
        folder: The repository's folder.
        text: From `hub_card.card`; holds MARK.

    Returns:
        Whether README.md has this text now.
    """
    if folder.exists("README.md") and MARK.encode() not in folder.read("README.md"):
        return False
    folder.replace("README.md", text.encode())
    return True


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
