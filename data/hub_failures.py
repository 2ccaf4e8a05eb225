"""Failures of downloads from the Hugging Face Hub, told in one line: the cause and what to do about it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

_BY_NAME = {
    "GatedRepoError": "it is gated: accept its terms at {page}, then run: hf auth login",
    "DisabledRepoError": "the Hub has disabled it: see {page}",
    "RepositoryNotFoundError": "the Hub has no such repository, or shows it to members alone. Look at {page}, or run: "
    "hf auth login",
    "RevisionNotFoundError": "the Hub has no such revision of it. Look at {page}/tree/main for its branches",
    "EntryNotFoundError": "it lacks a file that is wanted. Look at {page}/tree/main",
    "HFValidationError": "the Hub allows no such name. Correct it",
}
_UNREACHABLE = ("Connect", "Timeout", "Proxy", "SSL", "NetworkError", "ReadError", "ProtocolError", "gaierror")


@contextmanager
def without_retry_lines() -> Iterator[None]:
    """Keeps the Hub's library from logging each of its tries; the last failure is named by `hub_failure`."""
    logger = logging.getLogger("huggingface_hub.utils._http")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def hub_failure(error: BaseException, page: str) -> str:
    """Cause and remedy of a download that failed.

    Args:
        error: What huggingface_hub raised.
        page: Address of the repository's page.
    """
    chain = _chain(error)
    for each in chain:
        names = [kind.__name__ for kind in type(each).__mro__]
        known = next((_BY_NAME[name] for name in names if name in _BY_NAME), None)
        # LocalEntryNotFoundError is how an unreachable Hub ends, too: what is behind it says more
        if known is not None and "LocalEntryNotFoundError" not in names:
            return known.format(page=page)
    status = next((code for each in chain if (code := _status(each)) is not None), None)
    if status is not None:
        return f"the Hub answered {status}: {_of_status(status)}"
    if _offline():
        return "HF_HUB_OFFLINE is set, and the Hub's cache on this machine lacks it. Unset it, or bring the files"
    for each in reversed(chain):
        if isinstance(each, OSError) and each.errno and each.filename:
            return f"cannot write {each.filename}: {os.strerror(each.errno)}. HF_HOME names another place"
        if any(part in type(each).__name__ for part in _UNREACHABLE):
            return f"the Hub cannot be reached ({_line(each)}). Check the network, or the proxy in HTTPS_PROXY"
    return _line(error)


def _of_status(status: int) -> str:
    if status in (401, 403):
        return "access refused. Run: hf auth login"
    if status == 429:
        return "too many requests from here. Wait some minutes; after hf auth login more are allowed"
    return "it has a fault of its own. Run the same command later" if status >= 500 else "the request is refused"


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it came from, the outermost first."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


def _status(error: BaseException) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
