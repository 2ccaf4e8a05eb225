"""Repositories of the Hub that a push goes to: made private by default, described by a card, listed with licences."""

from featcache.cache import Cache
from featcache.entries import entry_of
from featcache.sharing.hub_card import MARK, card
from featcache.storage.base import Folder


def is_hub(folder: Folder) -> bool:
    """Whether a folder is a repository of the Hub."""
    return str(folder).startswith("hf://")


def make_repository(target: Cache, *, public: bool) -> None:
    """Makes the repository that a push goes to, unless it is there; does nothing where the target is no repository.

    Args:
        target: Where the push goes.
        public: Whether a new repository can be read by everybody.
    """
    if is_hub(target.folder):
        from featcache.storage.hub import open_hub

        open_hub(str(target.folder)).create(private=not public)


def is_public(target: Cache) -> bool:
    """Whether everybody can read the target; known of Hub repositories only, False elsewhere."""
    if not is_hub(target.folder) or not target.folder.there():
        return False
    from featcache.storage.hub import open_hub

    return open_hub(str(target.folder)).is_public


def write_card(target: Cache) -> bool:
    """Writes the repository's README.md from the keys of its arrays; as `replace_card`, True outside the Hub."""
    if not is_hub(target.folder):
        return True
    arrays = list(target.arrays())
    entries = target.folder.map(entry_of, arrays)
    whole = [(entry, array.key()) for entry, array in zip(entries, arrays, strict=True) if not entry.damaged]
    return replace_card(target.folder, card(whole, str(target.folder)))


def replace_card(folder: Folder, text: str) -> bool:
    """Writes a card as a folder's README.md; whether it did: one that somebody else wrote is left alone."""
    if folder.exists("README.md") and MARK.encode() not in folder.read("README.md"):
        return False
    folder.replace("README.md", text.encode())
    return True


def terms(source: Cache, selectors: list[str]) -> list[tuple[str, str]]:
    """(name, licence) of the data sets and encoders of the arrays that a push would make available."""
    licences: dict[str, str] = {}
    for selector in selectors:
        for array in source.matching(selector):
            key = array.key()
            data, encoder = key.provenance.get("dataset", {}), key.provenance.get("encoder", {})
            licences[f"data set {key.dataset}"] = str(data.get("licence", "not stated"))
            licences[f"encoder {key.encoder}"] = str(encoder.get("licence", "not stated"))
    return sorted(licences.items())
