"""Opening a folder by path or address."""

from pathlib import Path

from featcache.errors import UsageError
from featcache.storage.base import Folder
from featcache.storage.local import LocalFolder


def open_folder(place: Folder | Path | str) -> Folder:
    """The folder that a path or an address stands for.

    Args:
        place: A path, `s3://bucket/path`, `gs://…`, `az://…`, or `hf://datasets/owner/name`.

    Raises:
        UsageError: If the address is of none of these kinds, or the library for it is not installed.
    """
    if isinstance(place, Folder):
        return place
    text = str(place)
    scheme = text.partition("://")[0] if "://" in text else ""
    if not scheme:
        path = Path(text).expanduser()
        if path.is_file():
            raise UsageError(f"{path} is a file; a cache is a folder. Name another place")
        return LocalFolder(path)
    if scheme == "hf":
        from featcache.storage.hub import open_hub

        return open_hub(text)
    if scheme in ("s3", "gs", "az"):
        from featcache.storage.bucket import open_bucket

        return open_bucket(text)
    raise UsageError(f"{text!r}: {scheme}:// is not known; use a folder, s3://, gs://, az:// or hf://datasets/")
