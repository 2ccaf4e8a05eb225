"""Entries of data sets: what a table of them states of each."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from featcache.data.views import Dataset

Opener = Callable[..., Dataset]  # of the root or None; where an entry takes any options, also of `options`


@dataclass(frozen=True)
class DatasetEntry:
    """One data set that `open_dataset` knows."""

    name: str  # what the user types
    opener: str  # "module:function" below featcache.data; the function takes the root, or None
    description: str  # one line
    licence: str  # terms of the data, one line
    views: tuple[str, ...]  # the default of each modality first; "names-*" stands for one view a language
    needs_root: bool  # the data can only come from a folder of the user's
    ways: tuple[str, ...]  # how to get the data, one way a line
    labels: tuple[str, ...] = ()  # label columns, in their order; a folder's are its own
    takes_options: bool = False  # whether what a user declares of data of their own holds for it
    options: tuple[str, ...] = ()  # as `OpenOptions.given`: those that hold for it where not all do
    takes_root: bool = True  # false where the data comes from installed packages and a root would mean nothing
    # view -> label columns that its contents are made from: no probe of such a label may see them
    made_from: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {})
    # view -> (label columns that its contents give away in part, how)
    hints_at: Mapping[str, tuple[tuple[str, ...], str]] = field(default_factory=lambda: {})
    # view -> the line that credits it on a page: these views may be shown to whoever gets the page; no other may
    may_show: Mapping[str, str] = field(default_factory=lambda: {})
    synthesised: tuple[str, ...] = ()  # views spoken from texts of the data set: functions of a text and a voice
    citation: str = ""  # BibTeX of what a paper that uses it cites, one entry or several

    def load_opener(self) -> Opener:
        """The opener, imported now."""
        module, function = self.opener.split(":")
        return getattr(importlib.import_module(f"featcache.data.{module}"), function)
