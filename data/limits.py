"""Limits of what is believed of files of data that others wrote; `featcache.limits` has those of the cache."""

import os
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

from featcache.data.errors import DataInvalid


class Limit(NamedTuple):
    """The most that is read unasked of one kind of thing."""

    what: str  # in words, after a number
    most: int
    variable: str  # of the environment; a higher number there raises the limit


DATA_LIMITS = MappingProxyType(
    {
        "member": Limit("bytes of a member of an archive", 256 * 2**20, "FEATCACHE_MAX_MEMBER_BYTES"),
        "clip": Limit("bytes of a sound or video file", 64 * 2**20, "FEATCACHE_MAX_CLIP_BYTES"),
        "captions": Limit("bytes of a JSON of captions", 2**30, "FEATCACHE_MAX_CAPTIONS_BYTES"),
        "texts": Limit("bytes of texts in Parquet files, unpacked", 4 * 2**30, "FEATCACHE_MAX_TEXTS_BYTES"),
        "download": Limit("bytes of a data set to download", 64 * 2**30, "FEATCACHE_MAX_DOWNLOAD_BYTES"),
    }
)


def data_limit(name: str) -> int:
    """The limit of that name in DATA_LIMITS, as the environment sets it.

    Raises:
        DataInvalid: If the variable holds no whole number above 0.
    """
    return set_limit(DATA_LIMITS[name], DataInvalid)


def set_limit(known: Limit, error: Callable[[str], Exception]) -> int:
    """A limit as the environment sets it; raises `error` if the variable holds no whole number above 0."""
    text = os.environ.get(known.variable, "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise error(f"{known.variable}={text!r} is no number of {known.what}")
    return int(text) if text else known.most


def check_data_limit(name: str, value: int, where: object) -> None:
    """Raises DataInvalid, with the command that raises the limit, if a value passes the limit of that name."""
    most, known = data_limit(name), DATA_LIMITS[name]
    if value > most:
        raise DataInvalid(
            f"{where} has {value:,} {known.what}; no more than {most:,} are taken unasked\n"
            f"  If that is meant, run: export {known.variable}={value}"
        )
