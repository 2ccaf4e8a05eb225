"""How does a cache lie in a bucket (S3, Google Cloud Storage, Azure)? The one module that imports obstore."""

import os
import re
import uuid
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, final
from urllib.parse import urlsplit

from featcache.errors import RemoteFailed, UsageError
from featcache.folder import ASIDE, Folder

_T = TypeVar("_T")
_ATTEMPTS = 5
_PLAIN = re.compile(r"[^\x00-\x1f\\]+")


def open_bucket(address: str) -> "BucketFolder":
    """The folder of a bucket that `s3://bucket/path`, `gs://bucket/path` or `az://account/container/path` names.

    Credentials come from the environment, or for S3 from the profile in ~/.aws; never from the address.

    Raises:
        UsageError: If the address holds credentials or no bucket, or obstore is not installed.
    """
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise UsageError(f"{address} needs obstore. Run: pip install 'featcache[share]'") from error
    url = urlsplit(address)
    if "@" in url.netloc or url.query:
        raise UsageError(
            "an address must not hold credentials; put them into the environment (AWS_ACCESS_KEY_ID and so on) or a profile"
        )
    if not url.netloc:
        raise UsageError(f"{address!r} names no bucket, as in s3://bucket/path")
    settings: dict[str, Any] = {}
    if url.scheme == "s3":
        settings = _s3_settings()
    settings["retry_config"] = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}  # the rest is stamina's

    def store(path: str) -> Any:
        try:
            return from_url(f"{url.scheme}://{url.netloc}/{path}".rstrip("/"), **settings)
        except Exception as error:  # obstore raises its own and the builder's errors
            raise UsageError(f"{address}: {_first_line(error)}") from None

    # the bucket is the store; the path stays with us, so that listings come back relative to one thing
    return BucketFolder(store(""), f"{url.scheme}://{url.netloc}", url.path.strip("/"), store)


def _s3_settings() -> dict[str, Any]:
    """What object_store does not read by itself: the profile of ~/.aws, and plain http for a local endpoint."""
    settings: dict[str, Any] = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    profile = os.environ.get("AWS_PROFILE")
    if profile or "AWS_ACCESS_KEY_ID" not in os.environ:
        found = _aws_profile(profile or "default", required=profile is not None)
        endpoint = endpoint or found.pop("endpoint_url", "")
        settings |= found
    if endpoint:
        settings["endpoint"] = endpoint
        if endpoint.startswith("http://"):
            settings["client_options"] = {"allow_http": True}
    if "region" not in settings and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        settings["region"] = "us-east-1"
    return settings


def _aws_profile(name: str, *, required: bool) -> dict[str, Any]:
    """Settings of a profile in the AWS command line's own files; empty where there is none.

    Raises:
        UsageError: If a profile was asked for by name and is not there, or logs in by other means than keys.
    """
    home = Path.home() / ".aws"
    credentials, config = ConfigParser(interpolation=None), ConfigParser(interpolation=None)
    credentials.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"))
    config.read(os.environ.get("AWS_CONFIG_FILE", home / "config"))
    section = name if name == "default" else f"profile {name}"
    found = {**(config[section] if section in config else {}), **(credentials[name] if name in credentials else {})}
    names = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "region": "region",
        "endpoint_url": "endpoint_url",
    }
    settings: dict[str, Any] = {ours: found[theirs] for theirs, ours in names.items() if theirs in found}
    if required and "access_key_id" not in settings:
        raise UsageError(
            f"AWS profile {name!r} has no access key in {home}. For single sign-on or roles, run: "
            f'eval "$(aws configure export-credentials --profile {name} --format env)"; unset AWS_PROFILE'
        )
    return settings


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]


@final
class BucketFolder(Folder):
    """A folder of a bucket: a common beginning of its objects' names.

    Args:
        store: An obstore store of the whole bucket.
        address: Address of the bucket.
        path: The folder's path in it, "" for the whole bucket.
        reopen: Opens a store of a path in the bucket.
    """

    def __init__(self, store: Any, address: str, path: str, reopen: Callable[[str], Any]) -> None:
        self._store, self._address, self._path, self._reopen = store, address, path, reopen

    def __truediv__(self, name: str) -> "BucketFolder":
        return BucketFolder(self._store, self._address, self._at(name), self._reopen)

    def __str__(self) -> str:
        return f"{self._address}/{self._path}".rstrip("/")

    @property
    def parts(self) -> tuple[str, ...]:
        """The names on the way to this folder, its own last."""
        return (self._address, *(part for part in self._path.split("/") if part))

    @property
    def parent(self) -> "BucketFolder":
        """The folder that this one lies in."""
        return BucketFolder(self._store, self._address, self._path.rpartition("/")[0], self._reopen)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}".strip("/")

    def _try(self, what: str, call: Callable[[], _T]) -> _T:
        """Runs a request, again with back-off where the bucket or the way to it failed.

        Raises:
            FileNotFoundError: If there is no such object.
            RemoteFailed: If it still fails after several attempts, or access is refused.
        """
        import stamina
        from obstore import exceptions as of

        def passing(error: Exception) -> bool:
            never = (of.AlreadyExistsError, of.PermissionDeniedError, of.UnauthenticatedError, of.NotSupportedError)
            return isinstance(error, of.BaseError) and not isinstance(error, never)

        try:
            for attempt in stamina.retry_context(on=passing, attempts=_ATTEMPTS, timeout=120.0):
                with attempt:
                    return call()
        except (of.PermissionDeniedError, of.UnauthenticatedError) as error:
            raise RemoteFailed(f"{self}: access refused ({what}). Check the credentials: featcache doctor {self}") from error
        except of.AlreadyExistsError:
            raise
        except of.BaseError as error:
            raise RemoteFailed(f"{self}: {what} failed: {_first_line(error)}. Run: featcache doctor {self}") from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        path = self._at(name)
        return bytes(self._try(f"reading {name}", lambda: self._store.get(path).bytes()))

    def read_into(self, name: str, *views: memoryview, offset: int = 0) -> int:
        """Fills views with an object's bytes."""
        path, length = self._at(name), sum(map(len, views))

        def fetch() -> tuple[int, memoryview]:
            result = self._store.get(path, options={"range": (offset, offset + length)} if length else None)
            return int(result.meta["size"]), memoryview(result.bytes())

        size, found = self._try(f"reading {name}", fetch)
        done = 0
        for view in views:
            part = found[done : done + len(view)]
            view[: len(part)] = part
            done += len(part)
        return size

    def size(self, name: str) -> int | None:
        """An object's size."""
        path = self._at(name)
        try:
            return int(self._try(f"looking for {name}", lambda: self._store.head(path))["size"])
        except FileNotFoundError:
            return None

    def there(self) -> bool:
        """Whether anything lies below."""
        names, folders = self._level()
        return bool(names or folders)

    def names(self) -> set[str]:
        """Names of the objects directly in it."""
        return self._level()[0]

    def folders(self) -> list[str]:
        """Names of the folders directly in it."""
        return self._level()[1]

    def _level(self) -> tuple[set[str], list[str]]:
        found = self._try("listing", lambda: self._store.list_with_delimiter(self._path or None))
        names = {self._relative(entry["path"]) for entry in found["objects"]}
        return names, sorted(self._relative(path) for path in found["common_prefixes"])

    def files(self) -> Iterator[tuple[str, int]]:
        """Every object below."""

        def pages() -> list[tuple[str, int]]:
            listing = self._store.list(self._path or None, chunk_size=1000)
            return [(self._relative(entry["path"]), int(entry["size"])) for page in listing for entry in page]

        yield from self._try("listing", pages)

    def _relative(self, path: str) -> str:
        """A listed path, relative to this folder; a bucket's listing is not to be trusted further than its form."""
        inside = not self._path or path.startswith(f"{self._path}/")
        name = path[len(self._path) :].strip("/") if inside else path
        if not inside or ".." in name.split("/") or not _PLAIN.fullmatch(name):
            raise RemoteFailed(f"{self} lists {path!r}, which is no name of a cache's file; nothing was read")
        return name

    def zarr_store(self) -> Any:
        """A zarr store over this folder."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._reopen(self._path), read_only=True)

    # -- writing ----------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Nothing: a bucket has no folders of its own."""

    def write_once(self, name: str, *parts: bytes | memoryview) -> bool:
        """Puts an object unless it is there, by a conditional put."""
        from obstore.exceptions import AlreadyExistsError

        path, whole = self._at(name), b"".join(parts)
        try:
            self._try(f"writing {name}", lambda: self._store.put(path, whole, mode="create", use_multipart=False))
        except AlreadyExistsError:
            return False
        return True

    def replace(self, name: str, *parts: bytes | memoryview) -> None:
        """Puts an object over whatever is there."""
        path, whole = self._at(name), b"".join(parts)
        self._try(f"writing {name}", lambda: self._store.put(path, whole, use_multipart=False))

    def remove(self, name: str) -> None:
        """Deletes an object."""
        path = self._at(name)
        try:
            self._try(f"deleting {name}", lambda: self._store.delete(path))
        except FileNotFoundError:
            pass

    def set_aside(self, name: str) -> None:
        """Copies an object to `.aside-…` and deletes it."""
        path = self._at(name)
        folder, _, last = path.rpartition("/")
        aside = f"{folder}/{ASIDE}{last}-{uuid.uuid4().hex}".lstrip("/")
        self._try(f"setting {name} aside", lambda: self._store.rename(path, aside))

    def delete(self) -> None:
        """Deletes everything below; what makes it whole goes first."""
        self.remove("COMPLETE.json")
        self.map(self.remove, [name for name, _ in self.files()])
