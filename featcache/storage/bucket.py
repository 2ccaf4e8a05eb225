"""A cache's folder in a bucket (S3, Google Cloud Storage, Azure), with conditional put; the only import of obstore."""
# ruff: noqa: D102 - the interface is documented in storage/base.py

import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, final
from urllib.parse import urlsplit

from featcache.errors import LibraryMissing, RemoteFailed, UsageError
from featcache.storage.base import ASIDE, Folder, fill_views, refuse_large

_T = TypeVar("_T")
_PATIENCE = 20.0  # seconds for which a request is tried again; a server that is restarted is back by then
_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\]+")
_STATUS, _CODE = re.compile(r"status code: (\d{3})"), re.compile(r"<Code>(\w+)</Code>")
_NO_BUCKET = ("NoSuchBucket", "specified bucket does not exist", "ContainerNotFound")
_METADATA = ("169.254.169.254", "metadata.google.internal")  # where a cloud's own machines get their credentials


def open_bucket(address: str) -> "BucketFolder":
    """The folder of a bucket that `s3://bucket/path`, `gs://bucket/path` or `az://container/path` names.

    Credentials, and the account of az://, come from the environment, or for S3 from the profile in ~/.aws; never from
    the address (`open_folder` refuses them there). Asks the bucket nothing yet.

    Raises:
        UsageError: If the address holds no bucket, or obstore or stamina is not installed.
    """
    try:
        import stamina  # noqa: F401
        from obstore.store import from_url
    except ImportError as error:
        raise LibraryMissing(f"{address} needs {error.name}. Run: pip install 'featcache[share]'") from error
    # stamina logs every new attempt; where nobody listens, Python would print the bare name of the event
    logging.getLogger("stamina").addHandler(logging.NullHandler())
    url = urlsplit(address)
    if not url.netloc:
        raise UsageError(f"{address!r} names no bucket, as in s3://bucket/path")
    settings: dict[str, Any] = {}
    if url.scheme == "s3":
        settings = _s3_settings()
    # a few quick attempts, also at a conditional put that met another; the rest is stamina's
    settings["retry_config"] = {"max_retries": 2, "retry_timeout": timedelta(seconds=5)}
    # eight chunks share a slow line: thirty seconds, the default, is short for a request
    options = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=120)}
    settings["client_options"] = options | settings.get("client_options", {})

    def store(path: str) -> Any:
        try:
            return from_url(f"{url.scheme}://{url.netloc}/{path}".rstrip("/"), **settings)
        except Exception as error:  # obstore raises its own and the builder's errors
            hint = " (AZURE_STORAGE_ACCOUNT_NAME)" if url.scheme == "az" else ""
            raise UsageError(f"{address}: {_reason(error)}{hint}") from None

    # the bucket is the store; the path stays with us, so that listings come back relative to one thing
    return BucketFolder(store(""), f"{url.scheme}://{url.netloc}", url.path.strip("/"), store)


def _s3_settings() -> dict[str, Any]:
    """What object_store does not read by itself: the profile of ~/.aws, and plain http for a local endpoint."""
    profile = os.environ.get("AWS_PROFILE")
    settings = _profile(profile) if profile or "AWS_ACCESS_KEY_ID" not in os.environ else {}
    in_profile = settings.pop("endpoint_url", "")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or in_profile
    if endpoint:
        _check_endpoint(endpoint)
        settings["endpoint"] = endpoint
        if endpoint.startswith("http://"):
            settings["client_options"] = {"allow_http": True}
    if "region" not in settings and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        settings["region"] = "us-east-1"
    return settings


def _check_endpoint(endpoint: str) -> None:
    """Refuses what obstore would end in a panic over: a password with a slash in it, of which it makes a port."""
    try:
        url = urlsplit(endpoint)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            "the endpoint of S3 (AWS_ENDPOINT_URL, or endpoint_url in ~/.aws/config) is no address of the form "
            "https://host:port; special characters in a password are written as %2F and so on"
        )


def _profile(name: str | None) -> dict[str, Any]:
    """Settings of an AWS profile, None for the default one: by boto3, which also knows roles and single sign-on.

    Raises:
        UsageError: If the profile has a name and gives no credentials.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return _profile_from_files(name)
    session = Session(profile=name)
    if name is None and "default" not in session.available_profiles:
        return {}  # whatever else there is, object_store finds
    try:
        config = session.get_scoped_config()
        settings: dict[str, Any] = {key: config[key] for key in ("region", "endpoint_url") if key in config}
        if session.get_credentials() is not None:
            settings["credential_provider"] = Boto3CredentialProvider(boto3.Session(botocore_session=session))
            settings["credential_provider"]()  # a login that has ended is an error here, not at every request
        elif name is not None:
            raise UsageError(f"AWS profile {name!r} has no key, role or login. Run: aws configure --profile {name}")
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: what a login printed is no JSON
        hint = f"For single sign-on, run: aws sso login --profile {name or 'default'}"
        raise UsageError(f"AWS profile {name or 'default'!r} gives no credentials: {error}. {hint}") from None
    return settings


def _profile_from_files(name: str | None) -> dict[str, Any]:
    """As `_profile` where boto3 is not installed: keys in the AWS command line's own files."""
    home = Path.home() / ".aws"
    credentials, config = ConfigParser(interpolation=None), ConfigParser(interpolation=None)
    credentials.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"))
    config.read(os.environ.get("AWS_CONFIG_FILE", home / "config"))
    section = "default" if name in (None, "default") else f"profile {name}"
    sections = (config, section), (credentials, name or "default")
    values = {key: value for file, part in sections if part in file for key, value in file[part].items()}
    names = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "region": "region",
        "endpoint_url": "endpoint_url",
    }
    settings: dict[str, Any] = {ours: values[theirs] for theirs, ours in names.items() if theirs in values}
    if name is not None and "access_key_id" not in settings:
        raise UsageError(
            f"AWS profile {name!r} has no access key in {home}. For single sign-on or roles, run: "
            f'eval "$(aws configure export-credentials --profile {name} --format env)"; unset AWS_PROFILE'
        )
    return settings


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error's message; obstore has no other place for it."""
    match = _STATUS.search(str(error))
    return int(match[1]) if match else None


def _is_transient(error: Exception) -> bool:
    """Whether the same request may well succeed a little later."""
    from obstore import exceptions as of

    never = (of.AlreadyExistsError, of.NotFoundError, of.PermissionDeniedError, of.UnauthenticatedError)
    if not isinstance(error, of.BaseError) or isinstance(error, (*never, of.NotSupportedError, of.InvalidPathError)):
        return False
    status = _status(error)
    if status is None:
        return "invalid path" not in str(error) and "empty path segment" not in str(error)
    return status >= 500 or status in (408, 409, 425, 429)


def _reason(error: BaseException) -> str:
    """What an error of obstore says, in one line."""
    text = str(error)
    if any(place in text for place in _METADATA):
        return "no credentials were found (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
    status, code = _status(error), _CODE.search(text)
    if status is not None:
        return f"the server answers {status}{f' {code[1]}' if code else ''}"
    if "error sending request" in text:
        place = re.search(r"https?://[^/\s]+", text)
        return f"{place[0] if place else 'the server'} cannot be reached"
    return text.split("\n", 1)[0]


@final
class BucketFolder(Folder):
    """A folder of a bucket: a common beginning of its objects' names, which exists if there is an object below it.

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
        return (self._address, *(part for part in self._path.split("/") if part))

    @property
    def parent(self) -> "BucketFolder":
        return BucketFolder(self._store, self._address, self._path.rpartition("/")[0], self._reopen)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}".strip("/")

    def _try(self, what: str, call: Callable[[], _T]) -> _T:
        """Runs a request, again with back-off where the bucket or the way to it failed.

        Raises:
            FileNotFoundError: If there is no such object.
            RemoteFailed: If it still fails after a while, if access is refused, or there is no such bucket.
        """
        import stamina
        from obstore import exceptions as of

        try:
            for attempt in stamina.retry_context(
                on=_is_transient, attempts=None, timeout=_PATIENCE, wait_initial=0.2, wait_max=3.0
            ):
                with attempt:
                    return call()
        except of.AlreadyExistsError:
            raise
        except (of.BaseError, FileNotFoundError) as error:
            text = str(error)
            if any(sign in text for sign in _NO_BUCKET):
                raise RemoteFailed(f"{self}: there is no bucket {self._address}. Make it first") from None
            if isinstance(error, (of.NotFoundError, FileNotFoundError)):
                raise FileNotFoundError(f"{self}: {what}: there is no such object") from None
            if isinstance(error, (of.PermissionDeniedError, of.UnauthenticatedError)) or _status(error) in (401, 403):
                raise RemoteFailed(
                    f"{self}: access refused ({what}: {_reason(error)}). Check the credentials: featcache doctor {self}"
                ) from None
            raise RemoteFailed(f"{self}: {what} failed: {_reason(error)}. Run: featcache doctor {self}") from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _write(self, what: str, call: Callable[[], Any]) -> None:
        """As `_try`; where an object is written, only the bucket can be missing."""
        try:
            self._try(what, call)
        except FileNotFoundError:
            raise RemoteFailed(f"{self}: there is no bucket {self._address}. Make it first") from None

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self, name: str, *, most: int | None = None) -> bytes:
        path = self._at(name)

        def fetch() -> bytes:
            result = self._store.get(path)
            refuse_large(int(result.meta["size"]), most, f"{self}/{name}")
            return bytes(result.bytes())

        return self._try(f"reading {name}", fetch)

    def read_into(self, name: str, *views: memoryview, offset: int = 0) -> int:
        path, length = self._at(name), sum(map(len, views))

        def fetch() -> tuple[int, memoryview]:
            if not length:
                return int(self._store.head(path)["size"]), memoryview(b"")
            try:
                result = self._store.get(path, options={"range": (offset, offset + length)})
                return int(result.meta["size"]), memoryview(result.bytes())
            except Exception as error:
                if _status(error) != 416:
                    raise
                # the object ends before the range begins
                return int(self._store.head(path)["size"]), memoryview(b"")

        size, content = self._try(f"reading {name}", fetch)
        fill_views(views, content)
        return size

    def size(self, name: str) -> int | None:
        path = self._at(name)
        try:
            return int(self._try(f"looking for {name}", lambda: self._store.head(path))["size"])
        except FileNotFoundError:
            return None

    def there(self) -> bool:
        names, folders = self._level()
        return bool(names or folders)

    def names(self) -> set[str]:
        return self._level()[0]

    def folders(self) -> list[str]:
        return self._level()[1]

    def _level(self) -> tuple[set[str], list[str]]:
        page = self._try("listing", lambda: self._store.list_with_delimiter(self._path or None))
        # an object of the folder's own name is what consoles leave where someone made a folder
        names = {self._relative(entry["path"]) for entry in page["objects"] if entry["path"] != self._path}
        return names, sorted(self._relative(path) for path in page["common_prefixes"])

    def files(self) -> Iterator[tuple[str, int]]:
        def pages() -> list[tuple[str, int]]:
            listing = self._store.list(self._path or None, chunk_size=1000)
            entries = [entry for page in listing for entry in page if entry["path"] != self._path]
            return [(self._relative(entry["path"]), int(entry["size"])) for entry in entries]

        yield from self._try("listing", pages)

    def _relative(self, path: str) -> str:
        """A listed path, relative to this folder; RemoteFailed if a hostile server lists one outside of it."""
        inside = not self._path or path.startswith(f"{self._path}/")
        name = path[len(self._path) :].strip("/") if inside else path
        if not inside or ".." in name.split("/") or not _PLAIN.fullmatch(name):
            raise RemoteFailed(f"{self} lists {path!r}, which is no name of a cache's file; nothing was read")
        return name

    def zarr_store(self) -> Any:
        from zarr.storage import ObjectStore

        return ObjectStore(self._reopen(self._path), read_only=True)

    # -- writing ----------------------------------------------------------------------------------------------------

    def make(self) -> None:
        pass

    def write_once(self, name: str, *parts: bytes | memoryview) -> bool:
        """Puts the object on the condition that there is none of that name."""
        from obstore.exceptions import AlreadyExistsError

        path, whole = self._at(name), _joined(parts)
        try:
            self._write(f"writing {name}", lambda: self._store.put(path, whole, mode="create", use_multipart=False))
        except AlreadyExistsError:
            return False
        return True

    def replace(self, name: str, *parts: bytes | memoryview) -> None:
        path, whole = self._at(name), _joined(parts)
        self._write(f"writing {name}", lambda: self._store.put(path, whole, use_multipart=False))

    def remove(self, name: str, *more: str) -> None:
        names = [name, *more]
        for first in range(0, len(names), 1000):
            batch = names[first : first + 1000]
            paths = [self._at(each) for each in batch]
            try:
                self._try(f"deleting {batch[0]}", lambda paths=paths: self._store.delete(paths))
            except FileNotFoundError:
                if len(batch) > 1:  # one is gone, the others may be there
                    self.map(self.remove, batch)

    def set_aside(self, name: str) -> None:
        path = self._at(name)
        folder, _, last = path.rpartition("/")
        aside = f"{folder}/{ASIDE}{last}-{uuid.uuid4().hex}".lstrip("/")
        self._try(f"setting {name} aside", lambda: self._store.rename(path, aside))

    def delete(self) -> None:
        """Deletes COMPLETE.json first and the chunks after their records: never is there a record without its chunk."""
        self.remove("COMPLETE.json")
        names = {name for name, _ in self.files()}
        records = {name for name in names if name.startswith("commits/")}
        for group in (records, names - records):
            if group:
                self.remove(*group)


def _joined(parts: tuple[bytes | memoryview, ...]) -> bytes | memoryview:
    return parts[0] if len(parts) == 1 else b"".join(parts)
