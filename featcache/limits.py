"""Limits of what is believed of a file that somebody else may have written, and the variables that raise them."""

import os
from dataclasses import dataclass

from featcache.errors import BeyondLimit, UsageError


@dataclass(frozen=True)
class Limit:
    """The most that is read unasked of one kind of thing."""

    what: str  # in words, after a number
    most: int
    variable: str  # of the environment; a higher number there raises the limit


LIMITS = {
    "rows": Limit("rows of an array", 1_000_000_000, "FEATCACHE_MAX_ROWS"),
    "chunks": Limit("chunks of an array", 200_000, "FEATCACHE_MAX_CHUNKS"),
    "json": Limit("bytes of a JSON file", 128 * 2**20, "FEATCACHE_MAX_JSON_BYTES"),
    "table": Limit("bytes of a table, unpacked", 4 * 2**30, "FEATCACHE_MAX_TABLE_BYTES"),
    "import": Limit("bytes of one layer to import, unpacked", 64 * 2**30, "FEATCACHE_MAX_IMPORT_BYTES"),
}


def limit(name: str) -> int:
    """The limit of that name in LIMITS, as the environment sets it.

    Raises:
        UsageError: If the variable holds no whole number above 0.
    """
    text = os.environ.get(LIMITS[name].variable, "")
    if not text:
        return LIMITS[name].most
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{LIMITS[name].variable}={text!r} is no number of {LIMITS[name].what}")
    return int(text)


def check_limit(name: str, value: int, where: object) -> None:
    """Raises BeyondLimit if a value passes the limit of that name in LIMITS."""
    most = limit(name)
    if value > most:
        raise BeyondLimit(
            f"{where} has or claims {value:,} {LIMITS[name].what}; no more than {most:,} are read unasked. "
            f"If it is yours and right: export {LIMITS[name].variable}={value}"
        )
