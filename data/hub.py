"""How does a data set's folder come from the Hugging Face Hub, and which commit was it?"""

from dataclasses import dataclass
from pathlib import Path

from featcache.data.catalogue import missing


@dataclass(frozen=True)
class HubFolder:
    """A downloaded revision: its folder, and what to record as the source."""

    path: Path
    source: str


def download(name: str, repo: str, revision: str, patterns: tuple[str, ...]) -> HubFolder:
    """Downloads the matching files of a data set repository, or finds them in the Hub's own cache when offline.

    Args:
        name: The data set that needs it, a key of `DATASETS`; its ways to get the data go into the error.
        repo: "owner/name" of a data set repository.
        revision: Branch, tag or commit; the commit it stands for is recorded.
        patterns: File patterns to fetch.

    Returns:
        The folder of the revision, and "Hub repo@commit (revision)".

    Raises:
        DataMissing: If huggingface_hub is not installed, or the repository can be reached neither online nor cached.
    """
    place = f"Hub data set {repo} at {revision}"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise missing(name, "huggingface_hub is not installed", (place,)) from error
    try:
        path = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    except (OSError, EntryNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise missing(name, f"not on this machine and not downloaded: {reason}", (place,)) from error
    # The Hub's cache names the folder of a revision after the commit that it resolved to.
    return HubFolder(path, f"Hub {repo}@{path.name} ({revision})")
