"""Limits of what is believed of a file that somebody else may have written, and the variables that raise them."""

from featcache.data.limits import Limit, set_limit
from featcache.errors import BeyondLimit, UsageError

LIMITS = {
    "rows": Limit("rows of an array", 1_000_000_000, "FEATCACHE_MAX_ROWS"),
    "chunks": Limit("chunks of an array", 200_000, "FEATCACHE_MAX_CHUNKS"),
    "json": Limit("bytes of a JSON file", 128 * 2**20, "FEATCACHE_MAX_JSON_BYTES"),
    "table": Limit("bytes of a table, unpacked", 4 * 2**30, "FEATCACHE_MAX_TABLE_BYTES"),
    "import": Limit("bytes of a file to import, or of a layer in it", 64 * 2**30, "FEATCACHE_MAX_IMPORT_BYTES"),
}


def limit(name: str) -> int:
    """The limit of that name in LIMITS, as the environment sets it.

    Raises:
        UsageError: If the variable holds no whole number above 0.
    """
    return set_limit(LIMITS[name], UsageError)


def check_limit(name: str, value: int, where: object) -> None:
    """Raises BeyondLimit if a value passes the limit of that name in LIMITS."""
    most = limit(name)
    if value > most:
        raise BeyondLimit(
            f"{where} has or claims {value:,} {LIMITS[name].what}; no more than {most:,} are read unasked. "
            f"If it is yours and right: export {LIMITS[name].variable}={value}"
        )
