"""Downloads of data sets from the Hugging Face Hub, at a recorded commit."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from featcache.data.datasets import missing
from featcache.data.errors import DataInvalid
from featcache.data.hub_failures import hub_failure, without_retry_lines

_MAY_DOWNLOAD = ContextVar("may download", default=True)
_CARD = "README.md"


@contextmanager
def without_downloads() -> Iterator[None]:
    """Data sets opened meanwhile, on this thread, are taken from the Hub's cache on this machine, or are missing."""
    token = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(token)


@dataclass(frozen=True)
class Download:
    """A downloaded revision."""

    path: Path
    source: str  # "Hub repo@commit (revision)"


@dataclass(frozen=True)
class Revision:
    """What a revision of a data set repository holds; its card is downloaded, and nothing else."""

    repo: str
    reference: str  # branch, tag or commit that was resolved
    commit: str
    sizes: Mapping[str, int]  # path -> bytes; where the Hub cannot be reached, of the files that are on this machine
    card: Mapping[str, Any]  # the settings at the head of its README.md


def download(name: str, repo: str, revision: str, patterns: tuple[str, ...]) -> Download:
    """Downloads the matching files of a data set repository, or finds them in the Hub's own cache when offline.

    `without_downloads`, it looks there alone.

    Raises:
        DataMissing: With the ways of data set `name`, if huggingface_hub is not installed, or the repository can be
            reached neither online nor cached.
    """
    place = f"Hub data set {repo} at {revision}"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import EntryNotFoundError, HFValidationError
    except ImportError as error:
        raise missing(name, "huggingface_hub is not installed", (place,)) from error
    online, wanted = _MAY_DOWNLOAD.get(), list(patterns)
    try:
        with without_retry_lines():
            folder = snapshot_download(
                repo, repo_type="dataset", revision=revision, allow_patterns=wanted, local_files_only=not online
            )
            path = Path(folder)
    except (OSError, EntryNotFoundError, HFValidationError) as error:
        if not online:
            raise missing(name, "not on this machine, and nothing is downloaded here", (place,)) from error
        reason = hub_failure(error, f"https://huggingface.co/datasets/{repo}")
        raise missing(name, f"not on this machine and not downloaded: {reason}", (place,)) from error
    # The Hub's cache names the folder of a revision after the commit that it resolved to.
    return Download(path, f"Hub {repo}@{path.name} ({revision})")


def look_up(name: str, repo: str, revision: str) -> Revision:
    """Resolves a revision to its commit and lists its files; where the Hub cannot be asked, those on this machine.

    Raises:
        DataMissing: As `download`.
        DataInvalid: If it lists paths that lead out of it.
    """
    place = f"Hub data set {repo} at {revision}"
    failure: Exception | None = None
    if _MAY_DOWNLOAD.get():
        try:
            repo, commit, sizes = _ask(repo, revision)
        except ImportError as error:
            raise missing(name, "huggingface_hub is not installed", (place,)) from error
        except DataInvalid:
            raise
        except Exception as error:  # of whichever HTTP library its version uses; what is on this machine may do
            failure = error
        else:
            card = download(name, repo, commit, (_CARD,)).path / _CARD if _CARD in sizes else None
            return Revision(repo, revision, commit, sizes, _settings(card))
    repo, folder = _snapshot(repo, revision)
    if folder is not None:
        files = (path for path in folder.rglob("*") if path.is_file())
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        return Revision(repo, revision, folder.name, sizes, _settings(folder / _CARD))
    if failure is None:
        raise missing(name, "not on this machine, and nothing is downloaded here", (place,))
    reason = hub_failure(failure, f"https://huggingface.co/datasets/{repo}")
    raise missing(name, f"not on this machine and not downloaded: {reason}", (place,)) from failure


def download_files(name: str, revision: Revision, paths: Sequence[str]) -> list[Path]:
    """Downloads files of a revision, or finds them on this machine; errors as `download`."""
    patterns = tuple(glob.escape(path) for path in paths)
    # by its reference, so that the Hub's library records what that was resolved to, for when the Hub is out of reach
    folder = download(name, revision.repo, revision.reference, patterns).path
    if folder.name != revision.commit:  # the branch has moved on meanwhile
        folder = download(name, revision.repo, revision.commit, patterns).path
    files = [folder / path for path in paths]
    absent = [path for path, file in zip(paths, files, strict=True) if not file.is_file()]
    if absent:
        what = f"{len(absent):,} of its files are not there, the first {absent[0]}"
        raise missing(name, what, (str(folder),))
    return files


def _ask(repo: str, revision: str) -> tuple[str, str, dict[str, int]]:
    """The repository's own spelling, the commit of a revision, and path -> bytes of its files."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    with without_retry_lines():
        about = api.repo_info(repo, repo_type="dataset", revision=revision)
        commit = str(about.sha)
        entries = list(api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True))
    sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    for path in map(PurePosixPath, sizes):
        if path.is_absolute() or ".." in path.parts:
            raise DataInvalid(f"{repo} lists {str(path)!r}, which is no path below it; nothing was downloaded")
    return about.id, commit, sizes


def _snapshot(repo: str, revision: str) -> tuple[str, Path | None]:
    """The folder of a revision in the Hub's cache, called after its commit, or None; the repository's own spelling."""
    from huggingface_hub import constants

    wanted = f"datasets--{repo.replace('/', '--')}".casefold()
    cache = Path(constants.HF_HUB_CACHE)
    for folder in cache.iterdir() if cache.is_dir() else ():
        if folder.name.casefold() == wanted:  # the Hub takes a name in any case
            reference = folder / "refs" / revision
            commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
            if (folder / "snapshots" / commit).is_dir():
                return "/".join(folder.name.split("--")[1:]), folder / "snapshots" / commit
    return repo, None


def _settings(card: Path | None) -> dict[str, Any]:
    from huggingface_hub import metadata_load

    try:
        settings = metadata_load(card) if card is not None and card.is_file() else None
    except Exception:  # of the YAML of a stranger; without it, folders tell
        return {}
    return settings if isinstance(settings, dict) else {}
