"""Faults of an entry in a user's TOML file, in words."""

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def did_you_mean(name: str, names: Collection[str]) -> str:
    """What was probably meant by an unknown name; "" where none is near.

    Example:
        >>> did_you_mean("captoins", ["images", "captions"])
        '; did you mean captions?'
    """
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def field_faults(error: "ValidationError", fields: Collection[str]) -> list[str]:
    """A line for each fault of an entry; one of an unknown field has the nearest of `fields`, and all of them."""
    lines: list[str] = []
    for fault in error.errors():
        place = [str(part) for part in fault["loc"]]
        line = f"  {'.'.join(place) or 'entry'}: {fault['msg']}"
        if fault["type"] == "extra_forbidden" and len(place) == 1:
            line += f"{did_you_mean(place[0], fields)}\n    There are: {', '.join(fields)}"
        lines.append(line)
    return lines
