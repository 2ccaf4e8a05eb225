"""Data sets that users declare in a TOML file of their own: where each lies, how it is read, its terms."""

import os
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.data.entries import DatasetEntry
from featcache.data.errors import DataInvalid
from featcache.data.hub_names import HUB, OWN_NAME, is_own_name, parse_hub_name
from featcache.data.options import SECONDS, OpenOptions, parse_columns
from featcache.data.perturbations import original_view
from featcache.data.toml_faults import did_you_mean, field_faults

if TYPE_CHECKING:
    from pydantic import BaseModel

VARIABLE = "FEATCACHE_DATASETS"


@dataclass(frozen=True)
class Declared:
    """A data set of the user's own."""

    entry: DatasetEntry
    hub: str | None  # "hub:ORG/NAME[:CONFIG][@REVISION]", or None where it has a root
    root: Path | None
    options: OpenOptions


@dataclass(frozen=True)
class DeclaredFile:
    """The file of the user's own data sets, there or not."""

    path: Path
    entries: dict[str, Declared] = field(default_factory=lambda: {})  # by name
    invalid: dict[str, DataInvalid] = field(default_factory=lambda: {})  # name -> what is wrong with its entry


def user_datasets_path() -> Path:
    """The TOML file of the user's own data sets: $FEATCACHE_DATASETS, else datasets.toml in the config folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    from platformdirs import user_config_path

    return user_config_path("featcache") / "datasets.toml"


def read_declared() -> DeclaredFile:
    """The user's own entries; the file is read again once it has changed, and no entry stands in another's way.

    Raises:
        DataInvalid: If it is not TOML, or was named and is not there.
    """
    path = user_datasets_path()
    try:
        status = path.stat()
    except OSError:
        if os.environ.get(VARIABLE):
            raise DataInvalid(
                f"${VARIABLE} names {path}, and there is no such file\n  Create it, or unset it"
            ) from None
        return DeclaredFile(path)
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(4)
def _read(path: Path, _written: int, _size: int) -> DeclaredFile:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path} is not valid TOML: {error}") from error
    file = DeclaredFile(path)
    for name, table in tables.items():
        try:
            file.entries[name] = _declared(name, table, path)
        except DataInvalid as error:
            file.invalid[name] = error
    return file


def _declared(name: str, table: Any, path: Path) -> Declared:
    from pydantic import ValidationError

    where = f"data set {name!r} in {path} is not valid"
    if not isinstance(table, dict):
        raise DataInvalid(f"{where}\n  It stands outside a table; a data set is a table [name]")
    if not is_own_name(name):
        raise DataInvalid(f"{where}\n  A name has {OWN_NAME}")
    try:
        fields: Any = _form().model_validate(table)
    except ValidationError as error:
        raise DataInvalid("\n".join([where, *field_faults(error, list(_form().model_fields))])) from None
    try:
        return _checked(name, fields, path)
    except DataInvalid as error:
        raise DataInvalid(f"{where}\n  {error}") from None


def _checked(name: str, fields: Any, path: Path) -> Declared:
    if (fields.root is None) == (fields.hub is None):
        raise DataInvalid("it needs exactly one of `root` (a folder or file) and `hub` (ORG/NAME[:CONFIG][@REVISION])")
    hub = None if fields.hub is None else HUB + fields.hub.removeprefix(HUB)
    if hub is not None:
        parse_hub_name(hub)
    columns = [
        f"{role}={column}"
        for role, named in fields.columns.items()
        for column in (named if isinstance(named, tuple) else (named,))
    ]
    options = OpenOptions(
        float_range=fields.float_range,
        split=fields.split,
        seed=fields.seed,
        layout=fields.layout,
        column=parse_columns(columns),
        allow_missing=fields.allow_missing,
        seconds=fields.seconds,
    )
    entry = DatasetEntry(
        name=name,
        opener="folder:open_folder" if hub is None else "hub_parquet:open_hub",
        description=fields.description or f"your own, declared in {path}",
        licence=fields.licence,
        views=("images", "captions"),
        needs_root=False,
        takes_options=True,
        ways=(f"its place is declared in {path}; --root DIR names another",),
        made_from=fields.made_from,
        may_show=fields.may_show,
        citation=fields.citation,
    )
    check_stated(entry, entry.views)
    # A path is meant from the file that names it, wherever the command runs.
    root = None if fields.root is None else path.parent.resolve() / Path(fields.root).expanduser()
    return Declared(entry, hub, root, options)


def check_stated(entry: DatasetEntry, views: Collection[str], labels: Collection[str] | None = None) -> None:
    """Refuses what an entry states of views or labels that are not there.

    Args:
        entry: The entry.
        views: Views that there are.
        labels: Label columns that there are; None where they are not known yet.

    Raises:
        DataInvalid: If `made_from` or `may_show` name another view, or `made_from` another label.
    """
    for key, stated in {"made_from": entry.made_from, "may_show": entry.may_show}.items():
        for pattern in stated:
            if not any(fnmatchcase(view, original_view(pattern)) for view in views):
                there = ", ".join(views)
                raise DataInvalid(f"{key}: no view {pattern!r}{did_you_mean(pattern, views)}\n  Its views: {there}")
    for label in dict.fromkeys(label for named in entry.made_from.values() for label in named):
        if labels is not None and label not in labels:
            there = ", ".join(labels) or "none"
            raise DataInvalid(f"made_from: no label {label!r}{did_you_mean(label, labels)}\n  Its labels: {there}")


@lru_cache(1)
def _form() -> "type[BaseModel]":
    """The form of an entry; made when it is first needed, for pydantic takes a while to import."""
    from pydantic import BaseModel, ConfigDict, Field

    class Entry(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)

        root: str | None = None
        hub: str | None = None
        layout: str | None = None
        columns: dict[str, str | tuple[str, ...]] = Field(default_factory=lambda: {})
        split: str | None = None
        seed: int = Field(default=0, ge=0)
        float_range: tuple[float, float] | None = None
        allow_missing: bool = False
        seconds: float = SECONDS
        description: str = ""
        licence: str = Field(default="yours", min_length=1)
        citation: str = ""
        made_from: dict[str, tuple[str, ...]] = Field(default_factory=lambda: {})
        may_show: dict[str, str] = Field(default_factory=lambda: {})

    return Entry
