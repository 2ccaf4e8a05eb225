"""A cache's folder in a data set repository of the Hugging Face Hub."""
# ruff: noqa: D102 - the interface is documented in storage/base.py

import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import final

from featcache.errors import LibraryMissing, UsageError
from featcache.storage.base import ASIDE, Folder, fill_views, overlapped, refuse_large
from featcache.storage.hub_api import Change, Listing, NoRepository, Repository, is_inside

_ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>\w[\w.-]*/\w[\w.-]*)(?P<path>(?:/[^/@]+)*)/?(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
# huggingface_hub starts with as many files a commit itself; the Hub allows 128 commits an hour
_FILES_A_COMMIT, _BYTES_A_COMMIT = 250, 200_000_000
_READERS = 8


def open_hub(address: str) -> "HubFolder":
    """The folder that `hf://datasets/owner/name[/path][@revision]` names; asks the Hub nothing yet.

    The token is the one that huggingface_hub finds (HF_TOKEN, or `hf auth login`); never one from the address.

    Raises:
        UsageError: If the address is of another form, or huggingface_hub or stamina is not installed.

    Example:
        open_hub("hf://datasets/lab/features/flickr30k@v1")
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not is_inside(match["path"].strip("/")):
        raise UsageError(f"{address!r} is not of the form hf://datasets/owner/name[/path][@revision]")
    try:
        import stamina  # noqa: F401
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise LibraryMissing(f"{address} needs {error.name}. Run: pip install 'featcache[share]'") from error
    disable_progress_bars()  # they would run into ours
    path = match["path"].strip("/")
    return HubFolder(Repository(match["repo"], match["revision"] or "main", path), path)


def token_place() -> str | None:
    """Where huggingface_hub finds the token, never the token; None if there is none or the library is missing."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return None
    if get_token() is None:
        return None
    named = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    return f"${named}" if named else constants.HF_TOKEN_PATH


def _batches(files: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, bytes]]:
    """Files in groups that one commit takes; no name twice in a group."""
    batch: dict[str, bytes] = {}
    size = 0
    for name, body in files:
        if batch and (len(batch) >= _FILES_A_COMMIT or size + len(body) > _BYTES_A_COMMIT or name in batch):
            yield batch
            batch, size = {}, 0
        batch[name] = body
        size += len(body)
    if batch:
        yield batch


@final
class HubFolder(Folder):
    """A folder of a data set repository, as one commit holds it: listed once, and again after `refresh`.

    Every write is a commit on top of the listed one, so that of two pushers the second lists again.

    Args:
        repository: The repository, shared with the folders below.
        path: The folder's path in it, "" for the whole repository.
    """

    batch_bytes = 2 * _BYTES_A_COMMIT

    def __init__(self, repository: Repository, path: str) -> None:
        self._repository, self._path = repository, path

    def __truediv__(self, name: str) -> "HubFolder":
        return HubFolder(self._repository, self._at(name))

    def __str__(self) -> str:
        return self._repository.address(self._path)

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self._repository.repo.split("/"), *(part for part in self._path.split("/") if part))

    @property
    def parent(self) -> "HubFolder":
        """Above the address's own path nothing is listed."""
        return HubFolder(self._repository, self._path.rpartition("/")[0])

    def _at(self, name: str) -> str:
        if not is_inside(name):
            raise UsageError(f"{name!r} is no name of a file or folder in {self}")
        return f"{self._path}/{name}".strip("/")

    # -- the repository ---------------------------------------------------------------------------------------------

    def create(self, *, private: bool = True) -> None:
        """Makes the repository unless it is there; one that is there stays as public as it is."""
        self._repository.create(private)

    @property
    def is_public(self) -> bool:
        """Whether anybody can read the repository; RemoteFailed if there is none."""
        return not self._repository.listing().private

    @property
    def commit(self) -> str:
        """The commit that everything is read from until `refresh`."""
        return self._repository.listing().commit

    def refresh(self) -> None:
        """Forgets what was listed, so that others' commits are seen."""
        self._repository.refresh()

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self, name: str, *, most: int | None = None) -> bytes:
        size = self._known_size(name)
        refuse_large(size, most, f"{self}/{name}")
        return self._repository.get(self._at(name), 0, size)

    def read_into(self, name: str, *views: memoryview, offset: int = 0) -> int:
        size = self._known_size(name)
        body = self._repository.get(self._at(name), offset, min(size, offset + sum(map(len, views))))
        fill_views(views, body)
        return size

    def _known_size(self, name: str) -> int:
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(f"{self} has no file {name}")
        return size

    def size(self, name: str) -> int | None:
        path = self._at(name)
        return self._repository.listing().sizes.get(path)

    def there(self) -> bool:
        try:
            return self._path in self._repository.listing().levels
        except NoRepository:
            return False

    def names(self) -> set[str]:
        return set(self._level()[0])

    def folders(self) -> list[str]:
        return sorted(self._level()[1])

    def _level(self) -> tuple[set[str], set[str]]:
        return self._repository.listing().levels.get(self._path, (set(), set()))

    def files(self) -> Iterator[tuple[str, int]]:
        return iter([(path.removeprefix(self._below), size) for path, size in self._all_below().items()])

    @property
    def _below(self) -> str:
        return f"{self._path}/" if self._path else ""

    def _all_below(self) -> dict[str, int]:
        sizes = self._repository.listing().sizes
        return {path: size for path, size in sizes.items() if path.startswith(self._below)}

    # -- writing ----------------------------------------------------------------------------------------------------

    def make(self) -> None:
        pass

    def write_once(self, name: str, *parts: bytes | memoryview) -> bool:
        return all(made for _, made in self.send([(name, lambda: b"".join(parts))]))

    def send(self, files: Iterable[tuple[str, Callable[[], bytes]]]) -> Iterator[tuple[str, bool]]:
        """Many files a commit; those that are there, or arrive meanwhile from others, are left alone."""
        there: list[str] = []

        def missing_files() -> Iterator[tuple[str, Callable[[], bytes]]]:
            for name, content in files:
                if self.exists(name):
                    there.append(name)
                else:
                    yield name, content

        contents = overlapped(lambda file: (file[0], file[1]()), missing_files(), threads=_READERS, ahead=2 * _READERS)
        for batch in _batches(contents):
            yield from self._send(batch)
        yield from ((name, False) for name in there)

    def _send(self, batch: Mapping[str, bytes]) -> Iterator[tuple[str, bool]]:
        wanted = {self._at(name): body for name, body in batch.items()}

        def change(there: Listing) -> Change:
            new = {path: body for path, body in wanted.items() if path not in there.sizes}
            return Change(f"Add {len(new)} files", add=new)

        made = self._repository.change(change).add
        return iter([(name, self._at(name) in made) for name in batch])

    def replace(self, name: str, *parts: bytes | memoryview) -> None:
        """The same bytes make no commit."""
        path, body = self._at(name), b"".join(parts)

        def change(there: Listing) -> Change:
            same = there.sizes.get(path) == len(body) and self._repository.get(path, 0, len(body)) == body
            return Change(f"Write {name}", add={} if same else {path: body})

        self._repository.change(change)

    def remove(self, name: str, *more: str) -> None:
        """All files in one commit."""
        paths = {self._at(each) for each in (name, *more)}
        what = f"{len(paths)} files" if more else name
        self._repository.change(lambda there: Change(f"Delete {what}", remove=frozenset(paths & there.sizes.keys())))

    def set_aside(self, name: str) -> None:
        self._known_size(name)
        path = self._at(name)
        folder, _, last = path.rpartition("/")
        aside = f"{folder}/{ASIDE}{last}-{uuid.uuid4().hex}".lstrip("/")
        self._repository.change(
            lambda there: Change(f"Set {name} aside", move={path: aside} if path in there.sizes else {})
        )

    def delete(self) -> None:
        """One commit; UsageError if this is the whole repository, FileNotFoundError if there is no such folder."""
        if not self._path:
            raise UsageError(f"{self} is a whole repository; delete it on its own page on the Hub")
        if not self.there():
            raise FileNotFoundError(f"there is no folder {self}")

        def change(there: Listing) -> Change:
            gone = frozenset(path for path in there.sizes if path.startswith(self._below))
            return Change(f"Delete {self._path}", remove=gone, folder=self._below)

        self._repository.change(change)
