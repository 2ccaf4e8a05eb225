"""Downloads of data sets from the Hugging Face Hub, at a recorded commit."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from featcache.data.datasets import missing
from featcache.data.hub_failures import hub_failure, without_retry_lines

_MAY_DOWNLOAD = ContextVar("may download", default=True)


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
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise missing(name, "huggingface_hub is not installed", (place,)) from error
    online, wanted = _MAY_DOWNLOAD.get(), list(patterns)
    try:
        with without_retry_lines():
            folder = snapshot_download(
                repo, repo_type="dataset", revision=revision, allow_patterns=wanted, local_files_only=not online
            )
            path = Path(folder)
    except (OSError, EntryNotFoundError) as error:
        if not online:
            raise missing(name, "not on this machine, and nothing is downloaded here", (place,)) from error
        reason = hub_failure(error, f"https://huggingface.co/datasets/{repo}")
        raise missing(name, f"not on this machine and not downloaded: {reason}", (place,)) from error
    # The Hub's cache names the folder of a revision after the commit that it resolved to.
    return Download(path, f"Hub {repo}@{path.name} ({revision})")
