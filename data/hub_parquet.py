"""Data sets of the Hub: the Parquet files, or the WebDataset shards, of one configuration at one commit.

Which configurations and splits there are is what the repository's card says, else what folders and files are called.
Where the branch main holds neither Parquet nor shards, the Hub's own conversion (refs/convert/parquet) is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from featcache.data.datasets import missing
from featcache.data.errors import DataInvalid
from featcache.data.folder import own_dataset
from featcache.data.hub import Revision, download_files, look_up
from featcache.data.hub_names import HubName
from featcache.data.limits import check_data_limit
from featcache.data.options import OpenOptions
from featcache.data.parquet_rows import lacking_files, read_parquet_files
from featcache.data.splits import named_split
from featcache.data.tar_index import is_packed
from featcache.data.views import Dataset
from featcache.data.webdataset import read_shards

CONVERTED = "refs/convert/parquet"
DEFAULT = "default"
_PARTIAL = "partial-"  # of a split's folder, where the Hub converted its beginning alone


@dataclass(frozen=True)
class _Configuration:
    """The files of a configuration."""

    files: tuple[str, ...]
    splits: tuple[str, ...]  # of each file, as the card names it; () where the names of the files tell


def open_hub(name: HubName, options: OpenOptions | None = None) -> Dataset:
    """Downloads a data set of the Hub and opens it, called ORG--NAME[--CONFIG] in lower case.

    Raises:
        DataMissing: If it can be reached neither online nor on this machine, or has no data of a form that is read.
        DataInvalid: If it has several configurations and none is named, passes the limit of downloads, or as
            `read_parquet_files` and `read_shards`.
    """
    options = options or OpenOptions()
    revision, suffix = _with_data(name)
    configuration = _choose(name, _configurations(revision, suffix), _default(revision.card.get("configs")))
    if lacking := lacking_files(configuration.files):  # of a download that was interrupted, now that the Hub is away
        raise missing("hub", f"{name.repo}: {'; '.join(lacking)}", (f"Hub data set {name.repo}@{revision.commit}",))
    size = sum(revision.sizes[path] for path in configuration.files)
    check_data_limit("download", size, f"hub:{name.repo}")
    files = download_files("hub", revision, configuration.files)
    read = read_parquet_files if suffix == ".parquet" else read_shards
    own = read(files, configuration.files, options, splits=configuration.splits)
    config = f", configuration {name.config}" if name.config else ""
    source = f"Hub {revision.repo}@{revision.commit} ({revision.reference}{config})"
    partial = [path for path in configuration.files if _PARTIAL in path]
    note = (f"the Hub converted only the beginning of it ({partial[0]})",) if partial else ()
    layout = replace(own.layout, source=source, notes=(*note, *own.layout.notes))
    return own_dataset(name.cached, replace(own, layout=layout), options, licence=_licence(name, revision))


def _with_data(name: HubName) -> tuple[Revision, str]:
    """The revision that is read, and the suffix of its files."""
    seen, packed = list[str](), list[str]()
    for reference in [name.revision] if name.revision else ["main", CONVERTED]:
        revision = look_up("hub", name.repo, reference)
        for suffix in (".parquet", ".tar"):
            if any(path.endswith(suffix) for path in revision.sizes):
                return revision, suffix
        packed += sorted(filter(is_packed, revision.sizes))
        seen.append(f"https://huggingface.co/datasets/{name.repo}/tree/{reference.replace('/', '%2F')}")
    unread = f" but compressed ones, which are not read, such as {packed[0]}" if packed else ""
    raise missing("hub", f"{name.repo} has neither Parquet files nor shards{unread}", tuple(seen))


def _default(configs: Any) -> str:
    """The configuration that a card takes where none is named."""
    marked = (config for config in configs if isinstance(config, dict)) if isinstance(configs, list) else ()
    return next(
        (str(config.get("config_name", DEFAULT)) for config in marked if config.get("default") is True), DEFAULT
    )


def _choose(name: HubName, configurations: Mapping[str, _Configuration], default: str) -> _Configuration:
    wanted = name.config or (default if default in configurations else "")
    if not wanted and len(configurations) == 1:
        return next(iter(configurations.values()))
    if wanted in configurations:
        return configurations[wanted]
    what = f"has no configuration {wanted!r}" if wanted else f"has {len(configurations)} configurations"
    first = f"hub:{name.repo}:{next(iter(configurations))}" if len(configurations) > 1 else f"hub:{name.repo}"
    raise DataInvalid(f"hub:{name.repo} {what}; there are: {', '.join(list(configurations)[:20])}\n  Write: {first}")


def _configurations(revision: Revision, suffix: str) -> dict[str, _Configuration]:
    """Name -> files, as the card declares them, else by folders."""
    paths = sorted(path for path in revision.sizes if path.endswith(suffix))
    declared = _declared(revision.card.get("configs"), paths)
    if declared:
        return declared
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(_folder_configuration(path), []).append(path)
    return {config: _Configuration(tuple(files), ()) for config, files in found.items()}


def _folder_configuration(path: str) -> str:
    folders = [folder for folder in PurePosixPath(path).parts[:-1] if folder != "data"]
    if folders and named_split(folders[-1].removeprefix(_PARTIAL)):
        folders.pop()
    return "/".join(folders) or DEFAULT


def _declared(configs: Any, paths: Sequence[str]) -> dict[str, _Configuration]:
    """What a card says of configurations; only those whose patterns match files, and none of another form."""
    found: dict[str, _Configuration] = {}
    for config in configs if isinstance(configs, list) else []:
        if not isinstance(config, dict) or "data_files" not in config:
            continue
        rows = [
            (path, split)
            for split, patterns in _patterns(config["data_files"])
            for path in paths
            if any(fnmatchcase(path, str(pattern)) for pattern in patterns)
        ]
        of = dict(reversed(rows))  # the first split of a file
        if of:
            files = tuple(path for path in paths if path in of)
            named = {named_split(split) for split in of.values()}
            splits = tuple(of[path] for path in files) if all(named) and len(named) > 1 else ()
            found[str(config.get("config_name", DEFAULT))] = _Configuration(files, splits)
    return found


def _patterns(data_files: Any) -> list[tuple[str, list[Any]]]:
    """(split, patterns) of a card's `data_files`, which is a pattern, a list of them, or one with splits."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    if all(isinstance(entry, str) for entry in entries):
        return [("train", entries)]
    pairs = [(str(entry.get("split", "")), entry.get("path", [])) for entry in entries if isinstance(entry, dict)]
    return [(split, patterns if isinstance(patterns, list) else [patterns]) for split, patterns in pairs]


def _licence(name: HubName, revision: Revision) -> str:
    stated = revision.card.get("license")
    listed = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")
    return f"{listed or 'none stated'} (https://huggingface.co/datasets/{name.repo})"
