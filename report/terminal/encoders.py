"""Encoders on the terminal: the list, and entries that were generated."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.report.terminal.console import console, count, print_json, print_table

if TYPE_CHECKING:
    from featcache.encoders import EncoderSpec


def show_encoders(specs: "Sequence[EncoderSpec]", *, json: bool) -> None:
    """Shows the encoders that there are, as a table or as JSON."""
    if json:
        print_json([spec.model_dump() for spec in specs])
        return
    rows = [
        (s.name, s.modality, s.library, s.source.repo or s.source.package or s.source.folder, s.default, s.licence)
        for s in specs
    ]
    print_table(("encoder", "modality", "library", "weights", "default layer", "licence"), rows)


def show_generated(specs: "Sequence[EncoderSpec]") -> None:
    """Shows entries that were generated of ids, as they would stand in the user's file."""
    from featcache.encoders import entry_toml

    for spec in specs:
        console().print(entry_toml(spec), markup=False, highlight=False, soft_wrap=True)


def show_added(path: Path, specs: "Sequence[EncoderSpec]") -> None:
    """Shows entries that stand in the user's file now, and what to do with them."""
    show_generated(specs)
    names = " ".join(spec.name for spec in specs)
    console().print(
        f"{count(specs, 'encoder')} in {path}. Run: featcache extract DATA {names}", highlight=False, soft_wrap=True
    )
