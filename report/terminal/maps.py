"""Terminal output of maps: where the table lies, and the command that opens it."""

from typing import TYPE_CHECKING

from featcache.report.terminal.console import console, print_json

if TYPE_CHECKING:
    from featcache.studies.maps import MapResult


def show_map(result: "MapResult", *, as_json: bool) -> None:
    """Shows what was written and how to open it.

    Args:
        result: From `featcache.studies.maps`.
        as_json: Print JSON.
    """
    if as_json:
        head = {"path": str(result.path), "points": result.n, "of": result.what, "commands": result.commands}
        print_json({**head, "notes": list(result.notes), "credits": list(result.credits)})
        return
    console().print(f"{result.n:,} points, {result.what}: {result.path}")
    for note in (*result.notes, *result.credits):
        console().print(f"{note}.")
    for space, command in result.commands.items():
        console().print(f"See {space}:" if len(result.commands) > 1 else "See them (pip install embedding-atlas):")
        console().print(f"  {command}", soft_wrap=True)
