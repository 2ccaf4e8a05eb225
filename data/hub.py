"""Downloads of data sets from the Hugging Face Hub, at a recorded commit."""

from dataclasses import dataclass
from pathlib import Path

from featcache.data.datasets import missing
from featcache.data.hub_failures import hub_failure, without_retry_lines


@dataclass(frozen=True)
class Download:
    """A downloaded revision."""

    path: Path
    source: str  # "Hub repo@commit (revision)"


def download(name: str, repo: str, revision: str, patterns: tuple[str, ...]) -> Download:
    """Downloads the matching files of a data set repository, or finds them in the Hub's own cache when offline.

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
    try:
        with without_retry_lines():
            path = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    except (OSError, EntryNotFoundError) as error:
        reason = hub_failure(error, f"https://huggingface.co/datasets/{repo}")
        raise missing(name, f"not on this machine and not downloaded: {reason}", (place,)) from error
    # The Hub's cache names the folder of a revision after the commit that it resolved to.
    return Download(path, f"Hub {repo}@{path.name} ({revision})")
