"""Requests to the Hugging Face Hub about one data set repository, and the errors of ours that its errors become."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from featcache.errors import RemoteFailed, UsageError

_T = TypeVar("_T")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN = re.compile(r"[^\x00-\x1f\\]+")
_ATTEMPTS, _RACES = 6, 20
_PATIENCE = 120.0  # seconds; a longer wait that the Hub asks for is the user's to decide
_TIMEOUT = 60.0


def is_inside(path: str) -> bool:
    """Whether a path names something below where it starts, by plain names only.

    Example:
        >>> is_inside("openmoji/images"), is_inside("a/../../b"), is_inside("/etc"), is_inside("")
        (True, False, False, True)
    """
    return not path or bool(_PLAIN.fullmatch(path)) and not {"", ".", ".."} & set(path.split("/"))


@dataclass(frozen=True)
class Listing:
    """Every file at one commit."""

    commit: str
    private: bool
    sizes: Mapping[str, int]

    @cached_property
    def levels(self) -> dict[str, tuple[set[str], set[str]]]:
        """Folder -> names of the files and of the folders directly in it."""
        levels: dict[str, tuple[set[str], set[str]]] = {}
        for path in self.sizes:
            folder, _, name = path.rpartition("/")
            known = folder in levels
            levels.setdefault(folder, (set(), set()))[0].add(name)
            while folder and not known:
                folder, _, name = folder.rpartition("/")
                known = folder in levels
                levels.setdefault(folder, (set(), set()))[1].add(name)
        return levels

    def after(self, change: "Change", commit: str) -> "Listing":
        """The listing once a change of it is committed."""
        sizes = {path: size for path, size in self.sizes.items() if path not in change.remove}
        sizes |= {path: len(body) for path, body in change.add.items()}
        sizes |= {to: self.sizes[path] for path, to in change.move.items()}
        for path in change.move:
            del sizes[path]
        return Listing(commit, self.private, sizes)


@dataclass(frozen=True)
class Change:
    """What one commit does."""

    message: str
    add: Mapping[str, bytes] = field(default_factory=lambda: {})
    move: Mapping[str, str] = field(default_factory=lambda: {})
    remove: frozenset[str] = frozenset()
    folder: str = ""  # "path/", where all that lies in one folder is removed

    def operations(self, parent: str) -> list[Any]:
        """The change as huggingface_hub takes it; new ones for each attempt, since a commit alters them."""
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

        gone = [self.folder] if self.folder else [*self.move, *sorted(self.remove)]
        return [
            *(CommitOperationAdd(path, body) for path, body in self.add.items()),
            *(CommitOperationCopy(path, to, src_revision=parent) for path, to in self.move.items()),
            *(CommitOperationDelete(path, is_folder=bool(self.folder)) for path in gone),
        ]


class Transient(RemoteFailed):
    """The same request may succeed in a while: in `wait` seconds, where the Hub says so."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Overtaken(RemoteFailed):
    """Somebody else's commit came first."""


class NoRepository(RemoteFailed):
    """There is no such repository, or the token does not reach it."""


class Repository:
    """A data set repository at one revision; all that is read comes from one commit until `refresh`."""

    def __init__(self, repo: str, revision: str, top: str) -> None:
        from huggingface_hub import HfApi

        self.repo, self.revision, self.top = repo, revision, top
        self._api = HfApi(library_name="featcache")
        self._listing: Listing | None = None
        self._reading, self._writing = threading.Lock(), threading.Lock()

    def address(self, path: str) -> str:
        """The address of a path in it."""
        below = f"/{path}" if path else ""
        return f"hf://datasets/{self.repo}{below}" + ("" if self.revision == "main" else f"@{self.revision}")

    # -- reading ----------------------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Every file below the top, listed once."""
        with self._reading:
            if self._listing is None:
                self._listing = self._request("listing it", self._list)
            return self._listing

    def refresh(self) -> None:
        """Forgets what was listed."""
        with self._reading:
            self._listing = None

    def _list(self) -> Listing:
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import EntryNotFoundError

        info = self._api.dataset_info(self.repo, revision=self.revision, timeout=_TIMEOUT)
        if info.sha is None:
            raise RemoteFailed(f"{self.address('')}: the Hub names no commit. Run: featcache doctor {self.address('')}")
        where: dict[str, Any] = {"repo_type": "dataset", "revision": info.sha}
        sizes: dict[str, int] = {}
        try:
            for entry in self._api.list_repo_tree(self.repo, self.top or None, recursive=True, **where):
                if isinstance(entry, RepoFile):
                    sizes[self._trusted(entry.path)] = int(entry.size)
        except EntryNotFoundError:  # nothing lies below the top yet
            pass
        return Listing(info.sha, bool(info.private), sizes)

    def _trusted(self, path: str) -> str:
        """A listed path; whoever can write to a repository can name files as they like."""
        if not is_inside(path) or (self.top and not path.startswith(f"{self.top}/")):
            raise RemoteFailed(
                f"{self.address(self.top)} lists {path!r}, which is no name of a cache's file; nothing was read"
            )
        return path

    def get(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file of the listing."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        listing = self.listing()
        where: dict[str, Any] = {"repo_type": "dataset", "revision": listing.commit, "endpoint": self._api.endpoint}
        url = hf_hub_url(self.repo, path, **where)
        part = {} if (start, stop) == (0, listing.sizes.get(path)) else {"Range": f"bytes={start}-{stop - 1}"}

        def fetch() -> bytes:
            headers = {**build_hf_headers(library_name="featcache"), "Accept-Encoding": "identity", **part}
            response = get_session().get(url, headers=headers, timeout=_TIMEOUT)
            hf_raise_for_status(response)
            body = response.content
            if part and response.status_code == 200:  # the server gave the whole file
                body = body[start:stop]
            if len(body) != stop - start:
                raise Transient(f"{self.address(path)}: {len(body)} bytes came of {stop - start}; run it again")
            return body

        return self._request(f"reading {path}", fetch) if stop > start else b""

    # -- writing ----------------------------------------------------------------------------------------------------

    def create(self, private: bool) -> None:
        """Makes the repository unless it is there."""
        make = self._api.create_repo
        self._request("making it", lambda: make(self.repo, repo_type="dataset", private=private, exist_ok=True))
        self.refresh()

    def change(self, wanted: Callable[[Listing], Change]) -> Change:
        """Commits a change; works it out anew when another commit came first.

        Args:
            wanted: Gives the change for a listing; one without effect is not committed.
        """
        import stamina

        if _COMMIT.fullmatch(self.revision):
            raise UsageError(f"{self.address('')} is one commit, which cannot change; leave out @{self.revision}")
        with self._writing:
            for attempt in stamina.retry_context(on=Overtaken, attempts=_RACES, timeout=None, wait_max=3.0):
                with attempt:
                    return self._commit(wanted)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _commit(self, wanted: Callable[[Listing], Change]) -> Change:
        before = self.listing()
        change = wanted(before)
        if not (change.add or change.move or change.remove):
            return change
        where: dict[str, Any] = {"repo_type": "dataset", "revision": self.revision, "parent_commit": before.commit}

        def commit() -> str:
            operations = change.operations(before.commit)
            return self._api.create_commit(self.repo, operations, commit_message=change.message, **where).oid

        self.refresh()  # unless all goes well, what is there is unknown
        made = self._request(change.message.lower(), commit)
        self._check_arrival(change, made)
        with self._reading:
            self._listing = before.after(change, made)
        return change

    def _check_arrival(self, change: Change, commit: str) -> None:
        """The Hub drops files without a word where the repository's .gitignore says so."""
        paths = list(change.add)
        if paths:
            where: dict[str, Any] = {"repo_type": "dataset", "revision": commit}
            infos = self._request("checking", lambda: self._api.get_paths_info(self.repo, paths, **where))
            sizes = {info.path: getattr(info, "size", None) for info in infos}
            lost = [path for path in paths if sizes.get(path) != len(change.add[path])]
            if lost:
                raise RemoteFailed(
                    f"{self.address('')}: {len(lost)} files did not arrive, the first {lost[0]}. "
                    "Does a .gitignore in the repository leave them out?"
                )

    # -- requests ---------------------------------------------------------------------------------------------------

    def _request(self, what: str, call: Callable[[], _T]) -> _T:
        """Sends a request, again with back-off where the Hub or the way to it failed.

        Raises:
            FileNotFoundError: If there is no such file.
            RemoteFailed: If it still fails after several attempts, or access is refused.
        """
        import stamina

        errors = (*_unanswered(), OSError, RuntimeError, ValueError)

        def translated() -> _T:
            try:
                return call()
            except errors as error:
                raise self._meaning(what, error) from error

        def again(error: Exception) -> bool | float:
            return isinstance(error, Transient) and (True if error.wait is None else error.wait)

        for attempt in stamina.retry_context(on=again, attempts=_ATTEMPTS, timeout=600.0, wait_max=20.0):
            with attempt:
                return translated()
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _meaning(self, what: str, error: Exception) -> Exception:
        """The error of ours that an error of huggingface_hub stands for."""
        from huggingface_hub import errors

        chain = _chain(error)
        responses = (getattr(link, "response", None) for link in chain)
        response = next((each for each in responses if each is not None), None)
        status: int | None = response.status_code if response is not None else None
        place = self.address(self.top)
        if any(isinstance(link, errors.EntryNotFoundError) for link in chain):
            return FileNotFoundError(f"{place}: no such file ({what})")
        if any(isinstance(link, errors.RevisionNotFoundError) for link in chain):
            return RemoteFailed(f"{place}: there is no revision {self.revision!r}")
        if any(isinstance(link, errors.RepositoryNotFoundError) for link in chain):
            return NoRepository(
                f"{place} does not exist, or is private and your token does not reach it. "
                "Run: hf auth login; featcache push makes what does not exist"
            )
        if status in (409, 412):
            return Overtaken(f"{place}: others keep committing, {what} found no gap; run the same command again")
        text = f"{place}: {what} failed: {_message(chain)}. Run: featcache doctor {place}"
        if status in (401, 403):
            return RemoteFailed(f"{place}: access refused ({what}): {_message(chain)}. Run: hf auth login")
        if response is not None and status is not None and (status == 429 or status >= 500):
            return _wait_for(place, what, text, response.headers)
        offline = any(isinstance(link, errors.OfflineModeIsEnabled) for link in chain)
        sent = status is None and any(isinstance(link, _unanswered()) for link in chain)
        return Transient(text) if sent and not offline else RemoteFailed(text)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what caused it: an upload's failure comes wrapped."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


def _unanswered() -> tuple[type[Exception], ...]:
    """Errors of a request that may have got no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    client: Any = HfHubHTTPError.__bases__[0]  # of the HTTP client that this huggingface_hub uses
    return client, ConnectionError, TimeoutError


def _wait_for(place: str, what: str, text: str, headers: Mapping[str, str]) -> RemoteFailed:
    """The error of a request that the Hub has no room for now, with the wait that it names."""
    retry_after = str(headers.get("retry-after") or "")
    rate = re.search(r"r=0\s*;\s*t=(\d+)", str(headers.get("ratelimit") or ""))
    seconds = float(rate[1]) if rate else float(retry_after) if retry_after.isdigit() else None
    if seconds is not None and seconds > _PATIENCE:
        return RemoteFailed(
            f"{place}: the Hub asks to wait {seconds / 60:.0f} minutes ({what}). What arrived stays; "
            "run the same command again then"
        )
    return Transient(text, seconds)


def _message(chain: Sequence[BaseException]) -> str:
    """The server's message, or else the innermost error's, on one line, without anything that gives access."""
    error = chain[-1]
    messages = (getattr(link, "server_message", None) for link in chain)
    message = next(filter(None, messages), None) or str(error)
    line = " ".join(message.split())[:300].rstrip(".") or type(error).__name__
    line = re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", r"\1", line)  # signed addresses
    return re.sub(r"\bhf_\w+|(?<=Bearer )\S+", "…", line)
