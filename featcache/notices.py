"""Notices of what a library call chose by itself: logged, each once a process."""

import logging
from functools import cache

from featcache.printing import safe_text


@cache
def notice(message: str) -> None:
    """Logs a warning of the logger "featcache", once a process; where logging is not set up, it goes to stderr."""
    logging.getLogger("featcache").warning(safe_text(message))
