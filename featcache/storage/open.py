"""Opening a folder by path or address."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from featcache.errors import UsageError
from featcache.storage.base import Folder
from featcache.storage.local import LocalFolder

_KINDS = ("s3", "gs", "az", "hf")
_SCHEME = re.compile(r"[A-Za-z][\w+.-]{0,20}")
_COLLAPSED = re.compile(rf"({'|'.join(_KINDS)}):/(?!/)")


def is_address(place: str) -> bool:
    """Whether a place is an address, `scheme://…`, and no path.

    Example:
        >>> is_address("s3://bucket/features"), is_address("./features")
        (True, False)
    """
    return "://" in place


def open_folder(place: Folder | Path | str) -> Folder:
    """The folder that a path or an address stands for.

    Args:
        place: A path, `s3://bucket/path`, `gs://…`, `az://…`, or `hf://datasets/owner/name`.

    Raises:
        UsageError: If the address is of none of these kinds or holds credentials, or its library is not installed.
    """
    if isinstance(place, Folder):
        return place
    text = str(place)
    if not is_address(text):
        return _open_path(text)
    scheme = text.partition("://")[0]
    if scheme not in _KINDS:  # what comes after it, or before it, may be a password
        named = f"{scheme}:// is not known" if _SCHEME.fullmatch(scheme) else "this is no address"
        raise UsageError(f"{named}; use a folder, s3://, gs://, az:// or hf://datasets/")
    _refuse_credentials(text)
    if scheme == "hf":
        from featcache.storage.hub import open_hub

        return open_hub(text)
    from featcache.storage.bucket import open_bucket

    return open_bucket(text)


def _open_path(text: str) -> LocalFolder:
    collapsed = _COLLAPSED.match(text)
    if collapsed:  # as pathlib makes it of an address; a folder "./s3:" is nobody's wish
        raise UsageError(f"an address begins with {collapsed[1]}:// (two slashes); give it as a str, not as a Path")
    path = Path(text).expanduser()
    if path.is_file():
        raise UsageError(f"{path} is a file; a cache is a folder. Name another place")
    return LocalFolder(path)


def _refuse_credentials(address: str) -> None:
    try:
        url = urlsplit(address)
    except ValueError as error:
        raise UsageError("the address is none: a bracket in it is not closed") from error
    if set("@:") & set(url.netloc) or url.query or url.fragment:
        raise UsageError(
            "an address must not hold credentials; they come from the environment (AWS_ACCESS_KEY_ID and so on) or a "
            "profile in ~/.aws"
        )
